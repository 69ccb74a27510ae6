//! Texts with names in them, such as `Bearer ${access_token}`.
//!
//! A template is parsed once, when the settings are built: names that nobody knows are refused there,
//! and whatever is fixed (`client_id`, the credential's `vars`) becomes part of its text. What is left
//! for a request is what only a request knows ([`Values`]): `${uuid}` and `${now}`, the tokens and
//! assertions where there are some ([`Late`]), the variables whose value a request chooses, and members
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
use http::HeaderValue;
use http::header::InvalidHeaderValue;

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
    Late(Late),
    /// A variable whose value belongs to the request.
    Variable(String),
    /// A member of the token answer, by its dotted path.
    Raw(String),
    Uuid,
    Now,
}

/// A name whose value exists only at some points, each with values of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Late {
    /// `${access_token}`: in what is put on requests, and in token requests that renew it.
    AccessToken,
    /// `${assertion}`: the signed JWT of a token request.
    Assertion,
    /// `${token_url}`: where a token request goes.
    TokenUrl,
}

impl Late {
    const ALL: [Self; 3] = [Self::AccessToken, Self::Assertion, Self::TokenUrl];

    fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::Assertion => "assertion",
            Self::TokenUrl => "token_url",
        }
    }
}

/// What the variables of a request stand for, by name. Not secret: they come from paths and fields.
pub type Variables = BTreeMap<String, String>;

/// The names that a template may use, with the values that are known already.
#[derive(Clone, Debug, Default)]
pub struct Names {
    late: BTreeSet<Late>,
    raw: bool,
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
    pub const RESERVED: [&str; 9] = [
        "access_token",
        "assertion",
        "client",
        "client_id",
        "field",
        "now",
        "raw",
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

    /// The same names and a late one.
    #[must_use]
    pub fn with(&self, late: Late) -> Self {
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
        Self { now, access_token: "", assertion: "", token_url: "", variables: None, raw: None }
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
            let late = Late::ALL.into_iter().find(|late| late.name() == name);
            let segment = match (name, late) {
                ("uuid", _) => Segment::Uuid,
                ("now", _) => Segment::Now,
                (_, Some(late)) if names.late.contains(&late) => Segment::Late(late),
                (_, Some(_)) => return Err(fail(name.len() + 3, TemplateFault::NotHere)),
                (name, _) if is_raw(name) => match names.raw {
                    true => Segment::Raw(name.trim_start_matches("raw.").to_owned()),
                    false => return Err(fail(name.len() + 3, TemplateFault::NotHere)),
                },
                (name, _) if names.variables.contains(name) => Segment::Variable(name.to_owned()),
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
    pub fn has(&self, late: Late) -> bool {
        self.segments.contains(&Segment::Late(late))
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
            [Segment::Text(text), Segment::Late(Late::AccessToken)] => text.expose() == "Bearer ",
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

    /// Changes whenever the template does.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut shape = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(text) | Segment::Hidden(text) => {
                    shape.push_str(text.fingerprint().as_str());
                }
                Segment::Late(late) => shape.push_str(late.name()),
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
            Self::Late(Late::AccessToken) => Cow::Borrowed(values.access_token),
            Self::Late(Late::Assertion) => Cow::Borrowed(values.assertion),
            Self::Late(Late::TokenUrl) => Cow::Borrowed(values.token_url),
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        names.insert("client_id", "acme");
        names.insert("dollar", "${uuid}$");
        names.insert_secret("key", Secret::new("k-1".to_owned()));
        names.insert_variable("club");
        names.with(Late::AccessToken)
    }

    fn values() -> Values<'static> {
        Values { access_token: "at", ..Values::at(UNIX_EPOCH + Duration::from_secs(1_700_000_000)) }
    }

    #[test]
    fn names_become_what_they_stand_for() {
        for (text, expected) in [
            ("", ""),
            ("plain é", "plain é"),
            ("Bearer ${access_token}", "Bearer at"),
            ("${client_id}:${key}", "acme:k-1"),
            ("a$$b$$${now}$$", "a$b$1700000000$"),
            ("$${uuid}", "${uuid}"),
            ("${dollar}", "${uuid}$"),
            ("${access_token}${access_token}", "atat"),
        ] {
            let template = Template::parse(text, &names()).unwrap();
            assert_eq!(template.expand(values()), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_its_place() {
        use TemplateFault::{Dollar, NotHere, Unclosed, Unknown};
        for (text, at, why) in [
            ("a $b", 2..3, Dollar),
            ("$", 0..1, Dollar),
            ("$$$", 2..3, Dollar),
            ("x${now", 1..6, Unclosed),
            ("${}", 0..3, Unknown),
            ("x ${nothing} y", 2..12, Unknown),
            ("${ now }", 0..8, Unknown),
            ("${NOW}", 0..6, Unknown),
            ("${raw.a}", 0..8, NotHere),
            ("${assertion}", 0..12, NotHere),
            ("${raw.}", 0..7, Unknown),
            ("${raw..a}", 0..9, Unknown),
        ] {
            let error = Template::parse(text, &names()).unwrap_err();
            assert_eq!(error, TemplateError { at, why }, "{text}");
        }
        let error = Template::parse("${access_token}", &Names::default()).unwrap_err();
        assert_eq!(error.why, NotHere);
    }

    #[test]
    fn a_field_is_sensitive_and_holds_no_line_break() {
        let field = |text: &str| Template::parse(text, &names()).unwrap();
        assert!(field("a ${key}").expand_field(values()).unwrap().is_sensitive());
        for text in ["a\r\nb", "a\n", "\0", "é"] {
            assert!(!field(text).fits_field(), "{text:?}");
        }
        let broken = Values { access_token: "a\r\nb", ..values() };
        assert!(field("${access_token}").expand_field(broken).is_err());
    }

    #[test]
    fn what_a_request_and_an_answer_know_is_filled_in_late() {
        let names = names().with_raw().with(Late::TokenUrl).with(Late::Assertion);
        let variables = Variables::from([("club".to_owned(), "paris".to_owned())]);
        let raw = BTreeMap::from([("a.b".to_owned(), Secret::new("x".to_owned()))]);
        let values = Values {
            variables: Some(&variables),
            raw: Some(&raw),
            token_url: "https://as/token",
            assertion: "j.w.t",
            ..values()
        };
        for (text, expected) in [
            ("/${club}/${raw.a.b}${raw.c}", "/paris/x"),
            ("${token_url} ${assertion}", "https://as/token j.w.t"),
        ] {
            let template = Template::parse(text, &names).unwrap();
            assert_eq!(template.expand(values), expected);
        }
        let template = Template::parse("${club}${raw.a.b}", &names).unwrap();
        assert_eq!(template.variables().collect::<Vec<_>>(), ["club"]);
        assert_eq!(template.raw().collect::<Vec<_>>(), ["a.b"]);
    }

    #[test]
    fn a_uuid_is_random_and_says_its_version() {
        let template = Template::parse("${uuid}", &names()).unwrap();
        let (one, two) = (template.expand(values()), template.expand(values()));
        assert_ne!(one, two);
        let parts: Vec<_> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(one.chars().nth(14), Some('4'));
        assert!(one.chars().nth(19).is_some_and(|c| "89ab".contains(c)), "{one}");
    }

    #[test]
    fn only_the_bearer_form_is_kept_ready() {
        let is_bearer = |text| Template::parse(text, &names()).unwrap().is_bearer();
        assert!(is_bearer("Bearer ${access_token}"));
        assert!(!is_bearer("bearer ${access_token}") && !is_bearer("Bearer ${access_token} "));
    }

    #[test]
    fn nothing_of_it_can_be_printed_and_every_change_is_seen() {
        let parse = |text| Template::parse(text, &names()).unwrap();
        assert_eq!(format!("{:?}", parse("geheim ${key}")), "Template(…)");
        assert_eq!(parse("a${now}").fingerprint(), parse("a${now}").fingerprint());
        assert_ne!(parse("a${now}").fingerprint(), parse("a${uuid}").fingerprint());
        assert_ne!(parse("a").fingerprint(), parse("b").fingerprint());
        assert_eq!(parse("${key}x").secrets().count(), 1);
    }
}
