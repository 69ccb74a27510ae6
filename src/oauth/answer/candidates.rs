//! What stands under the name of a refresh token, in whatever shape.
//!
//! Servers put it into an object with its lifetime, into a list, or beside the one it replaces. What is there
//! counts: who takes it for "none returned" presents the old one again, and that looks like a thief.

use serde_json::{Map, Value};

use super::lenient_json::UNREADABLE;
use super::members::{TokenLookup, is_alike, token_text};
use crate::secret::Secret;

/// More than these cannot be told apart anyway.
const MAX_CANDIDATES: usize = 4;

/// The texts that may be the token.
#[derive(Clone, Default)]
pub(super) struct Candidates {
    texts: Vec<String>,
    /// Something is there that nobody can read.
    is_damaged: bool,
}

impl Candidates {
    /// Those of a value under a name that says what it is.
    pub(super) fn of(value: Option<&Value>) -> Self {
        let mut candidates = Self::default();
        if let Some(value) = value {
            candidates.gather(value);
            candidates.is_damaged |= candidates.texts.is_empty() && !is_void(value);
        }
        candidates
    }

    /// Those of a member. A name such as `refresh` may mean something else, so only what looks like a token
    /// counts there.
    pub(super) fn named(name: &str, value: &Value) -> Self {
        if is_refresh_token(name) {
            return Self::of(Some(value));
        }
        let mut candidates = Self::default();
        match value {
            Value::String(text) if is_like_token(text) => candidates.gather(value),
            Value::Object(members) => {
                candidates.gather_all(members, is_own);
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

    /// The only one; of two, the one that was not sent.
    pub(super) fn found(&self, sent: &[&Secret]) -> TokenLookup {
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

    /// As text; what cannot be read is in it as such.
    pub(super) fn into_texts(mut self) -> Vec<String> {
        self.texts.extend(self.is_damaged.then(|| UNREADABLE.to_string()));
        self.texts
    }

    fn gather(&mut self, value: &Value) {
        match value {
            _ if self.texts.len() >= MAX_CANDIDATES => {}
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => self.is_damaged = true,
            // Others have been rounded; the tolerant search has them as they are written.
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                self.texts.push(number.to_string());
            }
            Value::Number(_) => self.is_damaged = true,
            Value::String(text) if text.contains(UNREADABLE) => self.is_damaged = true,
            Value::String(_) => self.texts.extend(token_text(value).map(str::to_owned)),
            Value::Array(items) => items.iter().for_each(|item| self.gather(item)),
            Value::Object(members) => {
                if !self.gather_all(members, is_own) {
                    let is_text = |value: &Value| !value.is_number() && !value.is_boolean();
                    let others =
                        members.iter().filter(|(name, value)| is_text(value) && !is_about(name));
                    others.for_each(|(_, value)| self.gather(value));
                }
            }
        }
    }

    /// Returns whether there was anything.
    fn gather_all(&mut self, members: &Map<String, Value>, wanted: fn(&str) -> bool) -> bool {
        let before = (self.texts.len(), self.is_damaged);
        let wanted = members.iter().filter(|(name, _)| wanted(name));
        wanted.for_each(|(_, value)| self.gather(value));
        before != (self.texts.len(), self.is_damaged)
    }
}

/// Is it the refresh token that has this name? `refresh_token_v2` and `newRefreshToken` are its names, too;
/// `refresh_token_status` is not.
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

/// Names that some servers have for it and others for something else.
pub(super) fn is_successor_name(name: &str) -> bool {
    is_alike(name, "refresh")
}

/// In an object of its own: is this the token?
fn is_own(name: &str) -> bool {
    ["token", "value", "refresh"].contains(&letters(name).as_str()) || is_refresh_token(name)
}

/// In an object of its own: does this say something about the token, or is it another one?
fn is_about(name: &str) -> bool {
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

/// Has it no text, number or truth value at all?
fn is_void(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(_) => token_text(value).is_none(),
        Value::Array(items) => items.iter().all(is_void),
        Value::Object(members) => members.values().all(is_void),
    }
}

fn is_like_token(text: &str) -> bool {
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
