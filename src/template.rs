//! Texts with names in them, such as `Bearer ${access_token}`.
//!
//! A template is parsed once, when the settings are built: names that nobody knows are refused there,
//! and whatever is fixed (`client_id`, the credential's `vars`) becomes part of its text. What is left
//! for a request is what only a request knows ([`Values`]): `${uuid}` and `${now}`, the tokens and
//! assertions where there are some ([`DeferredName`]), the variables whose value a request chooses, and members
//! of the last token answer, `${raw.a.b}`. `$$` stands for one dollar sign. Nothing is decoded, and
//! what a name stands for is never read as a template again.
//!
//! The texts may hold secrets: they cannot be printed.

mod names;
mod parser;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::secret::{Fingerprint, Secret};

pub use names::{DeferredName, Names, field_name};
pub use parser::{TemplateError, TemplateFault};

/// A parsed text.
#[derive(Clone, PartialEq)]
pub struct Template {
    parts: Vec<TemplatePart>,
}

#[derive(Clone, PartialEq)]
enum TemplatePart {
    /// As it was written; secret all the same, because people write secrets into texts.
    Text(Secret),
    /// The value of a variable that was read from a secret's place.
    Hidden(Secret),
    DeferredName(DeferredName),
    /// A variable whose value belongs to the request.
    Variable(String),
    /// A member of the token answer, by its dotted path.
    Raw(String),
    Uuid,
    Now,
}

/// What the variables of a request stand for, by name. Not secret: they come from paths and fields.
pub type Variables = BTreeMap<String, String>;

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3): what comes out means nothing but
/// itself in a URL, in a form and in a file name.
pub fn percent_encode(value: &str) -> PercentEncode<'_> {
    const ALL_BUT_UNRESERVED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(value, ALL_BUT_UNRESERVED)
}

/// What a template's names stand for at the moment. Where no template can have a name, it stands for
/// nothing.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// The wall clock.
    pub now: SystemTime,
    /// The current access token.
    pub access_token: &'a str,
    /// The signed assertion.
    pub assertion: &'a str,
    /// The refresh token that is presented.
    pub refresh_token: &'a str,
    /// The token endpoint.
    pub token_url: &'a str,
    /// What the variables stand for.
    pub variables: Option<&'a Variables>,
    /// Members of the token answer, by their dotted paths.
    pub raw: Option<&'a BTreeMap<String, Secret>>,
}

impl Values<'_> {
    /// Nothing but the time.
    pub fn at(now: SystemTime) -> Self {
        let (access_token, assertion, refresh_token, token_url) = ("", "", "", "");
        let (variables, raw) = (None, None);
        Self { now, access_token, assertion, refresh_token, token_url, variables, raw }
    }
}

impl Template {
    /// The text for this moment.
    pub fn expand(&self, values: Values<'_>) -> String {
        self.parts.iter().map(|part| part.text(values)).collect()
    }

    /// The text for this moment as the value of a field, marked sensitive.
    ///
    /// # Errors
    ///
    /// [`InvalidHeaderValue`] for a line break or another character that would end the field.
    pub fn expand_field(&self, values: Values<'_>) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::try_from(self.expand(values))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Can all that is known of it already stand in a field? What comes later can.
    pub fn fits_field(&self) -> bool {
        let fits = |text: &Secret| text.expose().bytes().all(|byte| matches!(byte, b' '..=b'~'));
        self.parts.iter().all(|part| match part {
            TemplatePart::Text(text) | TemplatePart::Hidden(text) => fits(text),
            _ => true,
        })
    }

    /// Does it hold this name?
    pub fn has(&self, late: DeferredName) -> bool {
        self.parts.contains(&TemplatePart::DeferredName(late))
    }

    /// The members of the token answer that it names, as dotted paths.
    pub fn raw(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Raw(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// The variables that it names.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Variable(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Is it `Bearer ${access_token}`, which every token keeps ready?
    pub fn is_bearer(&self) -> bool {
        match self.parts.as_slice() {
            [TemplatePart::Text(text), TemplatePart::DeferredName(DeferredName::AccessToken)] => {
                text.expose() == "Bearer "
            }
            _ => false,
        }
    }

    /// Does it stand for the empty text?
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The secrets in it, for masking what others say.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Hidden(secret) => Some(secret),
            _ => None,
        })
    }

    /// What it says as long as these variables have these values, however that is written down. What is another
    /// text for each request is its name.
    pub fn stable_text(&self, variables: &Variables) -> String {
        let values = Values { variables: Some(variables), ..Values::at(UNIX_EPOCH) };
        let text = |part: &TemplatePart| match part {
            TemplatePart::DeferredName(late) => format!("${{{}}}", late.name()),
            TemplatePart::Raw(path) => format!("${{raw.{path}}}"),
            TemplatePart::Uuid => "${uuid}".to_owned(),
            TemplatePart::Now => "${now}".to_owned(),
            TemplatePart::Text(_) | TemplatePart::Hidden(_) | TemplatePart::Variable(_) => {
                part.text(values).into_owned()
            }
        };
        self.parts.iter().map(text).collect()
    }

    /// Changes whenever the template does.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut shape = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) | TemplatePart::Hidden(text) => {
                    shape.push_str(text.fingerprint().as_str());
                }
                TemplatePart::DeferredName(late) => shape.push_str(late.name()),
                TemplatePart::Variable(name) => shape.push_str(&format!("variable {name}")),
                TemplatePart::Raw(path) => shape.push_str(&format!("raw {path}")),
                TemplatePart::Uuid => shape.push_str("uuid"),
                TemplatePart::Now => shape.push_str("now"),
            }
            shape.push('\n');
        }
        Fingerprint::of(shape.as_bytes())
    }
}

impl TemplatePart {
    fn text<'a>(&'a self, values: Values<'a>) -> Cow<'a, str> {
        match self {
            Self::Text(text) | Self::Hidden(text) => Cow::Borrowed(text.expose()),
            Self::DeferredName(DeferredName::AccessToken) => Cow::Borrowed(values.access_token),
            Self::DeferredName(DeferredName::Assertion) => Cow::Borrowed(values.assertion),
            Self::DeferredName(DeferredName::RefreshToken) => Cow::Borrowed(values.refresh_token),
            Self::DeferredName(DeferredName::TokenUrl) => Cow::Borrowed(values.token_url),
            Self::Variable(name) => {
                let value = values.variables.and_then(|variables| variables.get(name));
                Cow::Borrowed(value.map_or("", String::as_str))
            }
            Self::Raw(path) => {
                let value = values.raw.and_then(|raw| raw.get(path));
                Cow::Borrowed(value.map_or("", Secret::expose))
            }
            Self::Uuid => Cow::Owned(uuid()),
            Self::Now => {
                let since = values.now.duration_since(UNIX_EPOCH).unwrap_or_default();
                Cow::Owned(since.as_secs().to_string())
            }
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template(…)")
    }
}

/// A random identifier (RFC 9562 §5.4).
pub(crate) fn uuid() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the operating system has random numbers");
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) | 4 << 76;
    let number = number & !(0b11 << 62) | 0b10 << 62;
    let [a, b, c, d] = [number >> 96, number >> 80 & 0xffff, number >> 64 & 0xffff, number >> 48];
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", d & 0xffff, number & 0xffff_ffff_ffff)
}

#[cfg(test)]
#[path = "template/tests.rs"]
mod tests;
