//! Candidates for the new refresh token, in any shape.
//!
//! Servers put the token into an object with its lifetime, into an array, or next to the one it
//! replaces. A token that is present must be found: treating it as absent means presenting the old
//! one again, which looks like token theft.

use serde_json::{Map, Value};

use super::lenient_json::UNREADABLE;
use super::members::{TokenLookup, is_alike, token_text};
use crate::secret::Secret;

/// The maximum number of candidates. More of them would be ambiguous anyway.
const MAX_CANDIDATES: usize = 4;

/// The possible refresh tokens.
#[derive(Clone, Default)]
pub(super) struct Candidates {
    texts: Vec<String>,
    /// Something is present that cannot be read.
    is_damaged: bool,
}

impl Candidates {
    /// Candidates in the value of a member with an unambiguous name.
    pub(super) fn of(value: Option<&Value>) -> Self {
        let mut candidates = Self::default();
        if let Some(value) = value {
            candidates.collect(value);
            candidates.is_damaged |= candidates.texts.is_empty() && !is_blank(value);
        }
        candidates
    }

    /// Candidates in a member. A name such as `refresh` is ambiguous, so only values that look like
    /// a token count there.
    pub(super) fn named(name: &str, value: &Value) -> Self {
        if is_refresh_token(name) {
            return Self::of(Some(value));
        }
        let mut candidates = Self::default();
        match value {
            Value::String(text) if looks_like_token(text) => candidates.collect(value),
            Value::Object(members) => {
                candidates.collect_members(members, is_token_member);
            }
            _ => {}
        }
        candidates.is_damaged = false;
        candidates
    }

    pub(super) fn joined(all: &[Self]) -> Self {
        let texts = all.iter().flat_map(|it| it.texts.iter().cloned()).collect();
        Self { texts, is_damaged: all.iter().any(|it| it.is_damaged) }
    }

    /// Returns the only candidate, or the only one that was not sent.
    pub(super) fn resolve(&self, sent: &[&Secret]) -> TokenLookup {
        if self.is_damaged {
            return TokenLookup::Several;
        }
        let was_sent = |text: &&String| sent.iter().any(|secret| secret.expose() == text.as_str());
        let texts = self.texts.iter();
        let new: Vec<&str> =
            texts.clone().filter(|text| !was_sent(text)).map(String::as_str).collect();
        match new.is_empty() {
            true => TokenLookup::of(texts.map(String::as_str)),
            false => TokenLookup::of(new),
        }
    }

    /// Returns the texts, with a marker for unreadable values.
    pub(super) fn into_texts(mut self) -> Vec<String> {
        self.texts.extend(self.is_damaged.then(|| UNREADABLE.to_string()));
        self.texts
    }

    fn collect(&mut self, value: &Value) {
        match value {
            _ if self.texts.len() >= MAX_CANDIDATES => {}
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => self.is_damaged = true,
            // Other numbers have been rounded; the tolerant search preserves them as written.
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                self.texts.push(number.to_string());
            }
            Value::Number(_) => self.is_damaged = true,
            Value::String(text) if text.contains(UNREADABLE) => self.is_damaged = true,
            Value::String(_) => self.texts.extend(token_text(value).map(str::to_owned)),
            Value::Array(items) => items.iter().for_each(|item| self.collect(item)),
            Value::Object(members) => {
                if !self.collect_members(members, is_token_member) {
                    let is_text = |value: &Value| !value.is_number() && !value.is_boolean();
                    let others = members
                        .iter()
                        .filter(|(name, value)| is_text(value) && !is_metadata_member(name));
                    others.for_each(|(_, value)| self.collect(value));
                }
            }
        }
    }

    /// Returns true if any candidate was added.
    fn collect_members(&mut self, members: &Map<String, Value>, wanted: fn(&str) -> bool) -> bool {
        let before = (self.texts.len(), self.is_damaged);
        let wanted = members.iter().filter(|(name, _)| wanted(name));
        wanted.for_each(|(_, value)| self.collect(value));
        before != (self.texts.len(), self.is_damaged)
    }
}

/// Returns true if the name means a refresh token, also variants such as `refresh_token_v2` and
/// `newRefreshToken`, but not `refresh_token_status`.
pub(super) fn is_refresh_token(name: &str) -> bool {
    const BEFORE: [&str; 9] =
        ["", "new", "next", "current", "rotated", "updated", "oauth", "oauth2", "x"];
    const AFTER: [&str; 8] = ["", "new", "next", "value", "string", "text", "plain", "jwt"];
    let name = letters(name);
    let Some((before, after)) = name.split_once("refreshtoken") else { return false };
    let after = after.strip_prefix('v').unwrap_or(after);
    BEFORE.contains(&before)
        && AFTER.contains(&after.trim_end_matches(|c: char| c.is_ascii_digit()))
}

/// Returns true for names that some servers use for the refresh token and others for something
/// else.
pub(super) fn is_successor_name(name: &str) -> bool {
    is_alike(name, "refresh")
}

/// Returns true if this member of a refresh token object is the token.
fn is_token_member(name: &str) -> bool {
    ["token", "value", "refresh"].contains(&letters(name).as_str()) || is_refresh_token(name)
}

/// Returns true if this member of a refresh token object describes the token or is another token.
fn is_metadata_member(name: &str) -> bool {
    const WORDS: [&str; 15] = [
        "expir",
        "lifetime",
        "ttl",
        "type",
        "scope",
        "issued",
        "created",
        "updated",
        "valid",
        "status",
        "hint",
        "accesstoken",
        "idtoken",
        "client",
        "issuer",
    ];
    let name = letters(name);
    ["id", "at", "exp", "iat", "iss", "kid"].contains(&name.as_str())
        || WORDS.iter().any(|word| name.contains(word))
}

/// Returns true if the value contains no text, number or `true`.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(_) => token_text(value).is_none(),
        Value::Array(items) => items.iter().all(is_blank),
        Value::Object(members) => members.values().all(is_blank),
    }
}

fn looks_like_token(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_graphic();
    let words = ["true", "false", "yes", "no", "never", "always", "auto"];
    text.trim().chars().all(is_word)
        && !text.contains("://")
        && !text.trim().bytes().all(|byte| byte.is_ascii_digit())
        && !words.contains(&text.trim().to_ascii_lowercase().as_str())
}

fn letters(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}
