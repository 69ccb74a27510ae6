//! The members of an answer, whatever it is written in: JSON under any content type, or a form.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::candidates::{Candidates, is_refresh_token, is_successor_name};
use super::format::{Mapping, MemberPath};
use super::lenient_json;
use crate::secret::Secret;

/// The members of a JSON object or array, or the pairs of a form; in order, duplicates kept.
#[derive(Default)]
pub(in crate::oauth) struct Members {
    /// Whether the body could be read at all.
    pub(in crate::oauth) parsed: bool,
    /// What comes last may be missing.
    pub(super) is_cut: bool,
    /// It is as the standards say.
    pub(super) is_strict: bool,
    pairs: Vec<(String, Value)>,
    is_form: bool,
}

impl Members {
    /// Goes by the bytes and not by `DecodedBody-Type`, which is often wrong: first as the standards say, then
    /// leniently. The mapping says what a form may be known by.
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

    /// These, as if they were an answer.
    pub(super) fn of_pairs(pairs: Vec<(String, Value)>) -> Self {
        Self { parsed: true, is_strict: true, pairs, ..Self::default() }
    }

    /// The value at a place.
    pub(in crate::oauth) fn at(&self, path: &MemberPath) -> Option<&Value> {
        let (name, below) = path.split()?;
        below.iter().try_fold(self.get(name)?, |value, step| match value {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            other => other.get(step),
        })
    }

    /// The text, number or truth value at a place, if a field may carry it and it is not longer than that.
    pub(in crate::oauth) fn fit(&self, path: &MemberPath, longest: usize) -> Option<Secret> {
        let text = match self.at(path)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        let fits = is_visible(&text) && text.len() <= longest;
        fits.then(|| Secret::new(text))
    }

    /// The value at `path`, or the member called `name` where no path is given.
    pub(super) fn find(&self, path: Option<&MemberPath>, name: &str) -> Option<&Value> {
        match path {
            Some(path) => self.at(path),
            None => self.get(name),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The token at `path`, or of the members called `name` where no path is given. A number, or text of
    /// which a part cannot be read, was meant to be one as well, and nobody can say which.
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

    /// The refresh token at `path`, or under its name; `sent` is what the request carried. Of a
    /// member that stands twice the last counts, as for every parser of JSON and so for the server's own
    /// clients. In a form nobody can say.
    pub(super) fn refresh_token(&self, path: Option<&MemberPath>, sent: &[&Secret]) -> TokenLookup {
        if let Some(path) = path.filter(|path| path.only().is_none()) {
            let first = path.split().map(|(first, _)| first);
            let named = self.pairs.iter().filter(|(key, _)| Some(key) == first);
            let candidates = Candidates::of(self.at(path));
            return if named.count() > 1 { TokenLookup::Several } else { candidates.found(sent) };
        }
        let name = path.and_then(MemberPath::only).map_or("refresh_token", String::as_str);
        let named = self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let all: Vec<Candidates> = named.map(|value| Candidates::of(Some(value))).collect();
        match Candidates::joined(&all).found(sent) {
            TokenLookup::Several if !self.is_form => {
                all.last().map_or(TokenLookup::None, |last| last.found(sent))
            }
            found => found,
        }
    }

    /// The same under the other names that it goes by.
    pub(super) fn renamed_refresh_token(&self, sent: &[&Secret]) -> TokenLookup {
        let others = |is_one: fn(&str) -> bool| {
            let others = self.pairs.iter().filter(|(key, _)| key != "refresh_token" && is_one(key));
            let all: Vec<_> = others.map(|(key, value)| Candidates::named(key, value)).collect();
            Candidates::joined(&all).found(sent)
        };
        match others(is_refresh_token) {
            TokenLookup::None => others(is_successor_name),
            found => found,
        }
    }

    /// Where the refresh token is looked for there is a number.
    pub(super) fn has_number(&self, path: Option<&MemberPath>) -> bool {
        self.find(path, "refresh_token").is_some_and(has_number)
    }

    /// It stands twice, and not the same one.
    pub(super) fn is_twice(&self, name: &str) -> bool {
        let mut named = self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let first = named.next();
        named.any(|value| Some(value) != first)
    }

    /// The first value of this name; upper and lower case, underscores and hyphens make no difference.
    pub(super) fn alike(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(key, _)| is_alike(key, name)).map(|(_, value)| value)
    }

    /// 0 and 0.0 are one number; 0 and "0" are not the same, except in a form, which has only text.
    pub(super) fn same(&self, found: &Value, literal: &Value) -> bool {
        let as_text = || match (found.as_str(), literal) {
            (Some(found), Value::Number(number)) => found == number.to_string(),
            (Some(found), Value::Bool(truth)) => found == truth.to_string(),
            _ => false,
        };
        let as_number = || found.as_f64().is_some_and(|number| literal.as_f64() == Some(number));
        found == literal || as_number() || (self.is_form && as_text())
    }

    /// What is at `path`, or `error`, where some servers put an object with a code inside. Nothing,
    /// `false`, zero and an empty text are no error.
    pub(super) fn code(&self, path: Option<&MemberPath>) -> Option<String> {
        Self::code_of(self.error(path)?)
    }

    /// Its value says in words that there is no error, which is to be believed beside a token.
    pub(super) fn says_no_error(&self, path: Option<&MemberPath>) -> bool {
        self.error(path).is_some_and(|value| says_nothing(value) || is_empty_error(value))
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

/// What a place or a search has brought.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenLookup {
    /// Nothing.
    None,
    /// One value, perhaps many times.
    One(Secret),
    /// Values that differ, or one that is damaged: nobody can say which it is.
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

/// `refresh_token`, `refreshToken`, `Refresh-Token`.
pub(super) fn is_alike(one: &str, other: &str) -> bool {
    let letters = |text: &str| -> Vec<u8> {
        let bytes = text.bytes().filter(u8::is_ascii_alphanumeric);
        bytes.map(|byte| byte.to_ascii_lowercase()).collect()
    };
    letters(one) == letters(other)
}

/// Text that is not empty.
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

/// What a serializer has made of nothing, as text.
pub(super) fn is_nothing(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    ["", "null", "undefined", "none", "nil", "(null)"].contains(&text.as_str())
}

/// The text of a token without the line breaks around it, which some servers leave there.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    let text = value.as_str()?.trim_matches(['\r', '\n']);
    (!is_nothing(text)).then_some(text)
}

/// "ok" and the like where an error would be.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => {
            let words = ["ok", "success", "no error", "no_error", "noerror", "false"];
            let text = text.trim().to_ascii_lowercase();
            is_nothing(&text) || text.bytes().all(|byte| byte == b'0') || words.contains(&&*text)
        }
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// An object whose codes all say that there is no error: `{"code":"ok","log_id":"…"}`.
fn is_empty_error(value: &Value) -> bool {
    let Some(members) = value.as_object() else { return false };
    let codes = ["code", "type", "status"].iter().filter_map(|name| members.get(*name));
    let codes: Vec<&Value> = codes.collect();
    let is_said = codes.iter().any(|code| !code.is_null());
    let is_silent = || members.get("message").is_none_or(says_nothing);
    let says_so = !codes.is_empty() && codes.into_iter().all(says_nothing);
    members.is_empty() || (says_so && (is_said || is_silent()))
}

/// A form body, only if it is one beyond doubt: otherwise any text would parse. Some servers end it with a
/// line break, or leave the spaces in a scope or a description as they are; those of prose would be around
/// what a form is known by, too.
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

/// A JSON object whose duplicate members are not silently merged.
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

/// RFC 6749 appendix A: VSCHAR = %x20-7E.
pub(super) fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// Has it a blank, but for one behind a scheme, which the operator's own injection may want? RFC 6750 §2.1:
/// b64token has none; texts for people have.
pub(super) fn has_blanks(token: &str) -> bool {
    const SCHEMES: [&str; 5] = ["bearer", "basic", "token", "jwt", "dpop"];
    let rest = token
        .split_once(' ')
        .filter(|(first, _)| SCHEMES.contains(&first.to_ascii_lowercase().as_str()));
    rest.map_or(token, |(_, rest)| rest).contains(' ')
}
