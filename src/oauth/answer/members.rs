//! The members of an answer, from JSON with any content type or from a form.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::candidates::{Candidates, is_refresh_token, is_successor_name};
use super::format::{Mapping, MemberPath};
use super::lenient_json;
use crate::content_match;
use crate::secret::Secret;

/// The members of a JSON object or array, or the pairs of a form, in order and with duplicates.
#[derive(Default)]
pub(in crate::oauth) struct Members {
    /// Whether the body could be read at all.
    pub(in crate::oauth) parsed: bool,
    /// The end may be missing.
    pub(super) is_cut: bool,
    /// The body is valid JSON or a valid form.
    pub(super) is_strict: bool,
    pairs: Vec<(String, Value)>,
    is_form: bool,
}

impl Members {
    /// Parses the body, first strictly, then leniently. Ignores `Content-Type`, which is often
    /// wrong. `mapping` names the members that a form is recognised by.
    pub(in crate::oauth) fn of(body: &[u8], mapping: &Mapping) -> Self {
        let strict = Self::strict(body, mapping);
        if strict.parsed {
            return strict;
        }
        let lenient_json::LenientJson { pairs, is_whole, .. } = lenient_json::read(body);
        let parsed = !pairs.is_empty();
        Self { parsed, is_cut: parsed && !is_whole, pairs, ..Self::default() }
    }

    pub(super) fn strict(body: &[u8], mapping: &Mapping) -> Self {
        let of = |pairs: Vec<_>, is_form| {
            let parsed = is_form || !pairs.is_empty();
            Self { parsed, is_strict: true, pairs, is_form, ..Self::default() }
        };
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        if let Ok(object) = serde_json::from_slice::<OrderedObject>(body) {
            return Self { parsed: true, ..of(object.0, false) };
        }
        if let Ok(items) = serde_json::from_slice::<Vec<Value>>(body) {
            let pairs = items.into_iter().enumerate();
            return of(pairs.map(|(index, item)| (index.to_string(), item)).collect(), false);
        }
        form(body, mapping).map(|pairs| of(pairs, true)).unwrap_or_default()
    }

    /// Creates members from pairs.
    pub(super) fn of_pairs(pairs: Vec<(String, Value)>) -> Self {
        Self { parsed: true, is_strict: true, pairs, ..Self::default() }
    }

    /// Returns the value at a path.
    pub(in crate::oauth) fn at(&self, path: &MemberPath) -> Option<&Value> {
        let (name, below) = path.split()?;
        content_match::value_at(self.get(name)?, below)
    }

    /// Returns the text, number or boolean at a path, if it is a valid field value of at most
    /// `longest` bytes.
    pub(in crate::oauth) fn field_value(
        &self,
        path: &MemberPath,
        longest: usize,
    ) -> Option<Secret> {
        let text = match self.at(path)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        let fits = is_visible(&text) && text.len() <= longest;
        fits.then(|| Secret::new(text))
    }

    /// Returns the value at `path`, or the member `name` if there is no path.
    pub(super) fn find(&self, path: Option<&MemberPath>, name: &str) -> Option<&Value> {
        match path {
            Some(path) => self.at(path),
            None => self.get(name),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Returns the token at `path`, or of the members called `name` if there is no path. A number,
    /// or a text with unreadable parts, may have been the token, so it makes the result ambiguous.
    pub(super) fn token(&self, path: Option<&MemberPath>, name: &str) -> TokenLookup {
        let (first, below) = path
            .and_then(MemberPath::split)
            .map_or((name, &[][..]), |(first, below)| (first.as_str(), below));
        let named = self.pairs.iter().filter(|(key, _)| key == first).map(|(_, value)| value);
        if !below.is_empty() && named.clone().nth(1).is_some() {
            return TokenLookup::Several;
        }
        let at_place = path.and_then(|path| self.at(path)).filter(|_| !below.is_empty());
        let values: Vec<&Value> =
            if below.is_empty() { named.collect() } else { Vec::from_iter(at_place) };
        let is_damaged = |value: &&Value| {
            value.is_number()
                || value.as_str().is_some_and(|text| text.contains(lenient_json::UNREADABLE))
        };
        match values.iter().any(is_damaged) {
            true => TokenLookup::Several,
            false => TokenLookup::of(values.into_iter().filter_map(token_text)),
        }
    }

    /// Returns the refresh token at `path`, or under its standard name. `sent` are the secrets of
    /// the request. If a JSON member occurs twice, the last one counts, as in JSON parsers and so
    /// in the server's own clients. In a form, duplicates are ambiguous.
    pub(super) fn refresh_token(&self, path: Option<&MemberPath>, sent: &[&Secret]) -> TokenLookup {
        if let Some(path) = path.filter(|path| path.only().is_none()) {
            let first = path.split().map(|(first, _)| first);
            let named = self.pairs.iter().filter(|(key, _)| Some(key) == first);
            let candidates = Candidates::of(self.at(path));
            return if named.count() > 1 { TokenLookup::Several } else { candidates.resolve(sent) };
        }
        let name = path.and_then(MemberPath::only).map_or("refresh_token", String::as_str);
        let named = self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let all: Vec<Candidates> = named.map(|value| Candidates::of(Some(value))).collect();
        match Candidates::joined(&all).resolve(sent) {
            TokenLookup::Several if !self.is_form => {
                all.last().map_or(TokenLookup::None, |last| last.resolve(sent))
            }
            found => found,
        }
    }

    /// Returns the refresh token under one of its other names.
    pub(super) fn renamed_refresh_token(&self, sent: &[&Secret]) -> TokenLookup {
        let others = |is_one: fn(&str) -> bool| {
            let others = self.pairs.iter().filter(|(key, _)| key != "refresh_token" && is_one(key));
            let all: Vec<_> = others.map(|(key, value)| Candidates::named(key, value)).collect();
            Candidates::joined(&all).resolve(sent)
        };
        match others(is_refresh_token) {
            TokenLookup::None => others(is_successor_name),
            found => found,
        }
    }

    /// Returns true if there is a number in the place of the refresh token.
    pub(super) fn has_number(&self, path: Option<&MemberPath>) -> bool {
        self.find(path, "refresh_token").is_some_and(has_number)
    }

    /// Returns true if the member occurs more than once with different values.
    pub(super) fn has_conflicting_duplicates(&self, name: &str) -> bool {
        let mut named = self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let first = named.next();
        named.any(|value| Some(value) != first)
    }

    /// Returns the first value of this name, ignoring case, underscores and hyphens.
    pub(super) fn get_ignoring_case(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(key, _)| is_alike(key, name)).map(|(_, value)| value)
    }

    /// Compares two values. 0 equals 0.0, but not "0", except in a form, which only has text.
    pub(super) fn equals(&self, found: &Value, literal: &Value) -> bool {
        let as_text = || match (found.as_str(), literal) {
            (Some(found), Value::Number(number)) => found == number.to_string(),
            (Some(found), Value::Bool(truth)) => found == truth.to_string(),
            _ => false,
        };
        content_match::equals(found, literal) || (self.is_form && as_text())
    }

    /// Returns the error code at `path` or `error`, which may be an object with a code. `null`,
    /// `false`, zero and an empty text are not errors.
    pub(super) fn code(&self, path: Option<&MemberPath>) -> Option<String> {
        Self::code_of(self.error(path)?)
    }

    /// Returns true if the value states that there is no error, which is credible next to a token.
    pub(super) fn states_success(&self, path: Option<&MemberPath>) -> bool {
        self.error(path).is_some_and(|value| means_success(value) || is_empty_error(value))
    }

    fn error(&self, path: Option<&MemberPath>) -> Option<&Value> {
        let is_code = |value: &&Value| Self::code_of(value).is_some();
        let mapped = path.and_then(|path| self.at(path)).filter(is_code);
        mapped.or_else(|| self.get("error"))
    }

    pub(super) fn code_of(value: &Value) -> Option<String> {
        let inner = |object: &Value| {
            let names = ["type", "code", "status"];
            let code = names.iter().find_map(|name| object.get(*name).and_then(Value::as_str));
            code.unwrap_or("error").to_owned()
        };
        let code = match value {
            Value::String(code) => code.clone(),
            Value::Number(number) if number.as_f64() != Some(0.0) => number.to_string(),
            object @ Value::Object(_) => inner(object),
            Value::Bool(true) => "error".to_owned(),
            _ => return None,
        };
        (!code.is_empty()).then_some(code)
    }
}

/// The result of looking for a token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenLookup {
    /// No value.
    None,
    /// One value, possibly repeated.
    One(Secret),
    /// Different values, or a damaged one: ambiguous.
    Several,
}

impl TokenLookup {
    pub(super) fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut values = values.into_iter();
        match values.next() {
            None => Self::None,
            Some(first) if values.all(|value| value == first) => {
                Self::One(Secret::new(first.to_owned()))
            }
            Some(_) => Self::Several,
        }
    }

    pub(super) fn one(self) -> Option<Secret> {
        match self {
            Self::One(secret) => Some(secret),
            Self::None | Self::Several => None,
        }
    }
}

/// Compares names ignoring case, underscores and hyphens: `refresh_token`, `refreshToken`,
/// `Refresh-Token`.
pub(super) fn is_alike(one: &str, other: &str) -> bool {
    let letters = |text: &str| -> Vec<u8> {
        let bytes = text.bytes().filter(u8::is_ascii_alphanumeric);
        bytes.map(|byte| byte.to_ascii_lowercase()).collect()
    };
    letters(one) == letters(other)
}

/// Returns the text if it is not empty.
pub(super) fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn has_number(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::Array(items) => items.iter().any(has_number),
        Value::Object(members) => members.values().any(has_number),
        _ => false,
    }
}

/// Returns true for the text of an absent value, as serializers write it.
pub(super) fn is_absent_text(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    ["", "null", "undefined", "none", "nil", "(null)"].contains(&text.as_str())
}

/// Returns the text of a token without surrounding line breaks, which some servers add.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    let text = value.as_str()?.trim_matches(['\r', '\n']);
    (!is_absent_text(text)).then_some(text)
}

/// Returns true if the value of an error member means success, such as "ok".
fn means_success(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => {
            let words = ["ok", "success", "no error", "no_error", "noerror", "false"];
            let text = text.trim().to_ascii_lowercase();
            is_absent_text(&text)
                || text.bytes().all(|byte| byte == b'0')
                || words.contains(&&*text)
        }
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Returns true for an error object whose codes all mean success: `{"code":"ok","log_id":"…"}`.
fn is_empty_error(value: &Value) -> bool {
    let Some(members) = value.as_object() else { return false };
    let codes = ["code", "type", "status"].iter().filter_map(|name| members.get(*name));
    let codes: Vec<&Value> = codes.collect();
    let is_said = codes.iter().any(|code| !code.is_null());
    let is_silent = || members.get("message").is_none_or(means_success);
    let says_so = !codes.is_empty() && codes.into_iter().all(means_success);
    members.is_empty() || (says_so && (is_said || is_silent()))
}

/// Parses a form, but only if the body certainly is one; otherwise any text would parse. Some
/// servers append a line break, or do not encode the spaces of a scope or description; in prose,
/// the members that identify a form would contain spaces as well.
fn form(body: &[u8], mapping: &Mapping) -> Option<Vec<(String, Value)>> {
    let body = body.trim_ascii();
    let text = std::str::from_utf8(body).ok()?;
    if text.contains(['<', '{', '\n']) {
        return None;
    }
    let pairs: Vec<(String, Value)> = url::form_urlencoded::parse(body)
        .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
        .collect();
    let mapped = [&mapping.access_token, &mapping.refresh_token, &mapping.error];
    let is_mapped = |key: &String| {
        mapped.iter().any(|path| path.as_ref().and_then(MemberPath::only) == Some(key))
    };
    let is_known = |key: &String| {
        ["access_token", "refresh_token", "error"].contains(&&**key) || is_mapped(key)
    };
    let has_spaces = text.contains(' ');
    let tells = |(key, value): &(String, Value)| {
        is_known(key) && !(has_spaces && value.as_str().is_some_and(|text| text.contains(' ')))
    };
    pairs.iter().any(tells).then_some(pairs)
}

/// A JSON object that keeps duplicate members.
struct OrderedObject(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for OrderedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairVisitor;
        impl<'de> Visitor<'de> for PairVisitor {
            type Value = OrderedObject;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderedObject, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(OrderedObject(pairs))
            }
        }
        deserializer.deserialize_map(PairVisitor)
    }
}

/// Returns true if all characters are VSCHAR (RFC 6749 appendix A: %x20-7E).
pub(super) fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// Returns true if the token contains a space, except after a scheme, which the configured
/// injection may use. A b64token (RFC 6750 §2.1) has none, but prose has.
pub(super) fn has_spaces(token: &str) -> bool {
    const SCHEMES: [&str; 5] = ["bearer", "basic", "token", "jwt", "dpop"];
    let rest = token
        .split_once(' ')
        .filter(|(first, _)| SCHEMES.contains(&first.to_ascii_lowercase().as_str()));
    rest.map_or(token, |(_, rest)| rest).contains(' ')
}
