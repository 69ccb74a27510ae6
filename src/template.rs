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

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use http::header::InvalidHeaderValue;
use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::secret::{Fingerprint, Secret};

/// A parsed text.
#[derive(Clone, PartialEq)]
pub struct Template {
    segments: Vec<Segment>,
}

#[derive(Clone, PartialEq)]
enum Segment {
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

/// A name whose value exists only at some points, each with values of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeferredName {
    /// `${access_token}`: in what is put on requests, and in token requests that renew it.
    AccessToken,
    /// `${assertion}`: the signed JWT of a token request.
    Assertion,
    /// `${refresh_token}`: what a token request presents, for servers that call it something else.
    RefreshToken,
    /// `${token_url}`: where a token request goes.
    TokenUrl,
}

impl DeferredName {
    const ALL: [Self; 4] = [Self::AccessToken, Self::Assertion, Self::RefreshToken, Self::TokenUrl];

    fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::Assertion => "assertion",
            Self::RefreshToken => "refresh_token",
            Self::TokenUrl => "token_url",
        }
    }
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

/// The names that a template may use, with the values that are known already.
#[derive(Clone, Debug, Default)]
pub struct Names {
    late: BTreeSet<DeferredName>,
    raw: bool,
    fields: bool,
    variables: BTreeSet<String>,
    fixed: BTreeMap<String, Fixed>,
}

#[derive(Clone, Debug)]
struct Fixed {
    value: Secret,
    hidden: bool,
}

impl Names {
    /// Names that mean something of their own, now or in the design: no variable may have one.
    pub const RESERVED: [&str; 10] = [
        "access_token",
        "assertion",
        "client",
        "client_id",
        "field",
        "now",
        "raw",
        "refresh_token",
        "token_url",
        "uuid",
    ];

    /// A name whose value is plain text.
    pub fn insert(&mut self, name: &str, value: &str) {
        let value = Secret::new(value.to_owned());
        self.fixed.insert(name.to_owned(), Fixed { value, hidden: false });
    }

    /// A name whose value is a secret.
    pub fn insert_secret(&mut self, name: &str, value: Secret) {
        self.fixed.insert(name.to_owned(), Fixed { value, hidden: true });
    }

    /// A variable whose value each request brings along.
    pub fn insert_variable(&mut self, name: &str) {
        self.variables.insert(name.to_owned());
    }

    /// Fields of the request, `${field.X-Club}`: variables whose names are `field.x-club`.
    pub fn insert_fields(&mut self) {
        self.fields = true;
    }

    /// The same names and a late one.
    #[must_use]
    pub fn with(&self, late: DeferredName) -> Self {
        let mut names = self.clone();
        names.late.insert(late);
        names
    }

    /// The same names and the members of the token answer, `${raw.a.b}`.
    #[must_use]
    pub fn with_raw(&self) -> Self {
        Self { raw: true, ..self.clone() }
    }
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

/// Why a text is no template, and which part of it. It holds nothing of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TemplateError {
    /// The bytes of the text that are meant.
    pub at: Range<usize>,
    /// What is wrong with them.
    pub why: TemplateFault,
}

/// What can be wrong in a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// `$` with something else behind it.
    #[error("has a `$` that begins no `${{name}}`")]
    Dollar,
    /// `${` without its end.
    #[error("has a `${{` without its `}}`")]
    Unclosed,
    /// A name that nobody knows.
    #[error("names something unknown in `${{…}}`")]
    Unknown,
    /// The name of the client, where no request can bring one.
    #[error("names the proxy's client, which has no name at that point")]
    Client,
    /// A token, an assertion or an answer where there is none.
    #[error("names something that does not exist at that point")]
    NotHere,
}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] for the first `$` that cannot be understood.
    pub fn parse(text: &str, names: &Names) -> Result<Self, TemplateError> {
        let (mut segments, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.find('$').and_then(|at| rest.split_at_checked(at)) {
            literal.push_str(before);
            if let Some(behind) = after.strip_prefix("$$") {
                literal.push('$');
                rest = behind;
                continue;
            }
            let start = text.len() - after.len();
            let fail = |length: usize, why| TemplateError { at: start..start + length, why };
            let named = after.strip_prefix("${").ok_or(fail(1, TemplateFault::Dollar))?;
            let (name, behind) =
                named.split_once('}').ok_or(fail(after.len(), TemplateFault::Unclosed))?;
            let late = DeferredName::ALL.into_iter().find(|late| late.name() == name);
            let segment = match (name, late) {
                ("uuid", _) => Segment::Uuid,
                ("now", _) => Segment::Now,
                (_, Some(late)) if names.late.contains(&late) => Segment::DeferredName(late),
                (_, Some(_)) => return Err(fail(name.len() + 3, TemplateFault::NotHere)),
                (name, _) if is_raw(name) => match names.raw {
                    true => Segment::Raw(name.trim_start_matches("raw.").to_owned()),
                    false => return Err(fail(name.len() + 3, TemplateFault::NotHere)),
                },
                ("client", _) if names.fields => Segment::Variable(name.to_owned()),
                ("client", _) => return Err(fail(name.len() + 3, TemplateFault::Client)),
                (name, _) if names.variables.contains(name) => Segment::Variable(name.to_owned()),
                (name, _) if names.fields && field_name(name).is_some() => {
                    Segment::Variable(name.to_ascii_lowercase())
                }
                (name, _) => match names.fixed.get(name) {
                    None => return Err(fail(name.len() + 3, TemplateFault::Unknown)),
                    Some(fixed) if fixed.hidden => Segment::Hidden(fixed.value.clone()),
                    Some(fixed) => {
                        literal.push_str(fixed.value.expose());
                        rest = behind;
                        continue;
                    }
                },
            };
            push_text(&mut segments, &mut literal);
            segments.push(segment);
            rest = behind;
        }
        literal.push_str(rest);
        push_text(&mut segments, &mut literal);
        Ok(Self { segments })
    }

    /// The text for this moment.
    pub fn expand(&self, values: Values<'_>) -> String {
        self.segments.iter().map(|segment| segment.text(values)).collect()
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
        self.segments.iter().all(|segment| match segment {
            Segment::Text(text) | Segment::Hidden(text) => fits(text),
            _ => true,
        })
    }

    /// Does it hold this name?
    pub fn has(&self, late: DeferredName) -> bool {
        self.segments.contains(&Segment::DeferredName(late))
    }

    /// The members of the token answer that it names, as dotted paths.
    pub fn raw(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Raw(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// The variables that it names.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Is it `Bearer ${access_token}`, which every token keeps ready?
    pub fn is_bearer(&self) -> bool {
        match self.segments.as_slice() {
            [Segment::Text(text), Segment::DeferredName(DeferredName::AccessToken)] => {
                text.expose() == "Bearer "
            }
            _ => false,
        }
    }

    /// Does it stand for the empty text?
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The secrets in it, for masking what others say.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Hidden(secret) => Some(secret),
            _ => None,
        })
    }

    /// What it says as long as these variables have these values, however that is written down. What is another
    /// text for each request is its name.
    pub fn lasting(&self, variables: &Variables) -> String {
        let values = Values { variables: Some(variables), ..Values::at(UNIX_EPOCH) };
        let text = |segment: &Segment| match segment {
            Segment::DeferredName(late) => format!("${{{}}}", late.name()),
            Segment::Raw(path) => format!("${{raw.{path}}}"),
            Segment::Uuid => "${uuid}".to_owned(),
            Segment::Now => "${now}".to_owned(),
            Segment::Text(_) | Segment::Hidden(_) | Segment::Variable(_) => {
                segment.text(values).into_owned()
            }
        };
        self.segments.iter().map(text).collect()
    }

    /// Changes whenever the template does.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut shape = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(text) | Segment::Hidden(text) => {
                    shape.push_str(text.fingerprint().as_str());
                }
                Segment::DeferredName(late) => shape.push_str(late.name()),
                Segment::Variable(name) => shape.push_str(&format!("variable {name}")),
                Segment::Raw(path) => shape.push_str(&format!("raw {path}")),
                Segment::Uuid => shape.push_str("uuid"),
                Segment::Now => shape.push_str("now"),
            }
            shape.push('\n');
        }
        Fingerprint::of(shape.as_bytes())
    }
}

impl Segment {
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

fn push_text(segments: &mut Vec<Segment>, literal: &mut String) {
    if !literal.is_empty() {
        segments.push(Segment::Text(Secret::new(std::mem::take(literal))));
    }
}

/// The field that `field.X-Club` names.
pub fn field_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.strip_prefix("field.")?.as_bytes()).ok()
}

/// `raw.` and dotted names behind it.
fn is_raw(name: &str) -> bool {
    name.strip_prefix("raw.").is_some_and(|path| path.split('.').all(|step| !step.is_empty()))
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
