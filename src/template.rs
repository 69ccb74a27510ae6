//! Texts with names, such as `Bearer ${access_token}`.
//!
//! A template is parsed once, when the settings are built. Unknown names are rejected then, and
//! constants (`client_id`, the credential's `vars`) become part of the text. Only what differs
//! between requests is left for expansion ([`Values`]): `${uuid}` and `${now}`, tokens and
//! assertions ([`DeferredName`]), request variables, and members of the last token answer,
//! `${raw.a.b}`. `$$` stands for one dollar sign. Nothing is decoded, and values are never parsed
//! as templates.
//!
//! Templates may contain secrets, so they cannot be printed.

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

/// A parsed template.
#[derive(Clone, PartialEq)]
pub struct Template {
    parts: Vec<TemplatePart>,
}

#[derive(Clone, PartialEq)]
enum TemplatePart {
    /// Literal text. Treated as a secret, because operators write secrets into texts.
    Text(Secret),
    /// The value of a variable that was read from a secret source.
    Hidden(Secret),
    Deferred(DeferredName),
    /// A variable with a value per request.
    Variable(String),
    /// A member of the token answer, by dotted path.
    Raw(String),
    Uuid,
    Now,
}

/// The values of a request's variables, by name. Not secret: they come from paths and header
/// fields.
pub type Variables = BTreeMap<String, String>;

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3), so that the result has no
/// special meaning in a URL, a form or a file name.
pub fn percent_encode(value: &str) -> PercentEncode<'_> {
    const ALL_BUT_UNRESERVED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(value, ALL_BUT_UNRESERVED)
}

/// The values for expanding a template. Values of names that the template cannot contain stay
/// empty.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// The current wall-clock time.
    pub now: SystemTime,
    /// The current access token.
    pub access_token: &'a str,
    /// The signed assertion.
    pub assertion: &'a str,
    /// The refresh token in the request.
    pub refresh_token: &'a str,
    /// The token endpoint.
    pub token_url: &'a str,
    /// The values of the request variables.
    pub variables: Option<&'a Variables>,
    /// Members of the token answer, by their dotted paths.
    pub raw: Option<&'a BTreeMap<String, Secret>>,
}

impl Values<'_> {
    /// Values with only the time set.
    pub fn at(now: SystemTime) -> Self {
        let (access_token, assertion, refresh_token, token_url) = ("", "", "", "");
        let (variables, raw) = (None, None);
        Self { now, access_token, assertion, refresh_token, token_url, variables, raw }
    }
}

impl Template {
    /// Expands the template.
    pub fn expand(&self, values: Values<'_>) -> String {
        self.parts.iter().map(|part| part.text(values)).collect()
    }

    /// Expands the template to a header field value, marked sensitive.
    ///
    /// # Errors
    ///
    /// [`InvalidHeaderValue`] if the text contains a line break or another invalid character.
    pub fn expand_field(&self, values: Values<'_>) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::try_from(self.expand(values))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Returns true if the constant text is valid in a header field. Deferred values always are.
    pub fn fits_field(&self) -> bool {
        let fits = |text: &Secret| text.expose().bytes().all(|byte| matches!(byte, b' '..=b'~'));
        self.parts.iter().all(|part| match part {
            TemplatePart::Text(text) | TemplatePart::Hidden(text) => fits(text),
            _ => true,
        })
    }

    /// Returns true if the template uses this name.
    pub fn has(&self, late: DeferredName) -> bool {
        self.parts.contains(&TemplatePart::Deferred(late))
    }

    /// The members of the token answer that the template uses, as dotted paths.
    pub fn raw(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Raw(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// The variables that the template uses.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Variable(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns true for `Bearer ${access_token}`, which every token caches.
    pub fn is_bearer(&self) -> bool {
        match self.parts.as_slice() {
            [TemplatePart::Text(text), TemplatePart::Deferred(DeferredName::AccessToken)] => {
                text.expose() == "Bearer "
            }
            _ => false,
        }
    }

    /// Returns true for the empty template.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The secrets in the template, for masking messages of servers.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Hidden(secret) => Some(secret),
            _ => None,
        })
    }

    /// Expands what is constant as long as the variables have these values. Names with a value per
    /// request stay as they are. Templates that are written differently but mean the same have the
    /// same stable text.
    pub fn stable_text(&self, variables: &Variables) -> String {
        let values = Values { variables: Some(variables), ..Values::at(UNIX_EPOCH) };
        let text = |part: &TemplatePart| match part {
            TemplatePart::Deferred(late) => format!("${{{}}}", late.name()),
            TemplatePart::Raw(path) => format!("${{raw.{path}}}"),
            TemplatePart::Uuid => "${uuid}".to_owned(),
            TemplatePart::Now => "${now}".to_owned(),
            TemplatePart::Text(_) | TemplatePart::Hidden(_) | TemplatePart::Variable(_) => {
                part.text(values).into_owned()
            }
        };
        self.parts.iter().map(text).collect()
    }

    /// A fingerprint of the template.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut shape = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) | TemplatePart::Hidden(text) => {
                    shape.push_str(text.fingerprint().as_str());
                }
                TemplatePart::Deferred(late) => shape.push_str(late.name()),
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
            Self::Deferred(DeferredName::AccessToken) => Cow::Borrowed(values.access_token),
            Self::Deferred(DeferredName::Assertion) => Cow::Borrowed(values.assertion),
            Self::Deferred(DeferredName::RefreshToken) => Cow::Borrowed(values.refresh_token),
            Self::Deferred(DeferredName::TokenUrl) => Cow::Borrowed(values.token_url),
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

/// Returns a random UUID, version 4 (RFC 9562 §5.4).
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
