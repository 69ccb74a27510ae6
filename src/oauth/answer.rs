//! Reading what a token endpoint answered: a pure function, tolerant of what real servers send.
//!
//! Servers answer errors with status 200, dead refresh tokens with 400, 401, 403, 404 or 500, rate
//! limits as `invalid_request`, lifetimes as text, and maintenance pages as success. [`read`] puts
//! every answer into one [`Class`]; the rules are tried in order and the first that matches decides.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{Class, GrantError, TokenResponse};
use crate::secret::Secret;

/// A token endpoint's answer before anything has been made of it.
#[derive(Clone)]
pub struct RawAnswer {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub fields: HeaderMap,
    /// The body, at most 1 MiB.
    pub body: Vec<u8>,
}

/// The body may hold tokens.
impl std::fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawAnswer({}, {} bytes)", self.status, self.body.len())
    }
}

/// No lifetime is believed beyond a year: a token that old has been revoked or forgotten.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// An access token longer than this does not fit into the header block of most servers.
const MAX_ACCESS_TOKEN: usize = 16 * 1024;
/// How long a server that throttles without saying for how long is left alone.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(60);
/// The longest wait a server can impose.
const MAX_THROTTLE: Duration = Duration::from_secs(3600);

/// Codes that say the grant itself is gone, whatever the status.
const DEAD: [&str; 9] = [
    "invalid_grant",
    "bad_refresh_token",
    "invalid_refresh_token",
    "refresh_token_reused",
    "expired_token",
    "token_expired",
    "token_revoked",
    "invalid_code",
    "app_session_terminated",
];
/// Codes that say a person has to act; also as the sub-error of `invalid_grant`.
const USER: [&str; 4] =
    ["interaction_required", "consent_required", "login_required", "mfa_required"];
/// Codes that say the OAuth client or the request is wrong.
const CONFIG: [&str; 6] = [
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
];
/// Codes that say the server is in trouble.
const TRANSIENT: [&str; 3] = ["temporarily_unavailable", "server_error", "internal_failure"];

/// Makes a token, or a classified error, of an answer.
///
/// `now` is the time at which the request was sent; `secrets` are what it carried, to be taken out of
/// whatever the server says, before that is cut to length.
///
/// # Errors
///
/// A [`GrantError`] for everything that is not a usable bearer token.
pub fn read(
    answer: &RawAnswer,
    now: SystemTime,
    secrets: &[&Secret],
) -> Result<TokenResponse, GrantError> {
    let members = Members::of(&answer.body);
    let code = members.code();
    if answer.status.is_success() && code.is_none() && members.parsed {
        return issued(answer, &members, now);
    }
    let description = members.description();
    let class = classify(answer.status, &members, code.as_deref(), description.as_deref());
    let retry_after = match class {
        Class::Throttled => Some(throttle(&answer.fields, description.as_deref(), now)),
        Class::Transient => retry_after(&answer.fields, now),
        _ => None,
    };
    Err(GrantError {
        class,
        status: Some(answer.status.as_u16()),
        code: code.map(|code| printable(code, 64, secrets)),
        description: description.map(|text| printable(text, 200, secrets)),
        retry_after,
        salvaged: None,
    })
}

fn issued(
    answer: &RawAnswer,
    members: &Members,
    now: SystemTime,
) -> Result<TokenResponse, GrantError> {
    let refresh_token = members.text("refresh_token").map(|text| Secret::new(text.to_owned()));
    let refuse = |why: &str| GrantError {
        class: Class::Protocol,
        status: Some(answer.status.as_u16()),
        code: None,
        description: Some(why.to_owned()),
        retry_after: None,
        salvaged: refresh_token.clone(),
    };
    if members.count("access_token") > 1 {
        return Err(refuse("it has more than one access_token"));
    }
    let Some(access_token) = members.text("access_token") else {
        return Err(refuse("it has no access_token"));
    };
    // RFC 6749 appendix A.12: access-token = 1*VSCHAR.
    if !access_token.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(refuse("its access_token has characters that no header field may carry"));
    }
    if access_token.len() > MAX_ACCESS_TOKEN {
        return Err(refuse("its access_token is longer than 16 KiB"));
    }
    if members.text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(refuse("its token_type is not bearer"));
    }
    Ok(TokenResponse {
        access_token: Some(Secret::new(access_token.to_owned())),
        refresh_token,
        expires_at: members.lifetime("expires_in").map(|lifetime| now + lifetime),
        refresh_expires_at: None,
        raw: BTreeMap::new(),
    })
}

/// The order is the specification: the first rule that matches decides.
fn classify(
    status: StatusCode,
    members: &Members,
    code: Option<&str>,
    description: Option<&str>,
) -> Class {
    let is = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code));
    let suberror = members.text("suberror");
    if is(&TRANSIENT) || description.is_some_and(|text| TRANSIENT.contains(&text)) {
        Class::Transient
    } else if is_throttled(status, code, members, description) {
        Class::Throttled
    } else if is(&USER) || (is(&DEAD) && suberror.is_some_and(|sub| USER.contains(&sub))) {
        Class::UserNeeded
    } else if is(&DEAD) {
        Class::GrantDead
    } else if is(&CONFIG) {
        Class::Config
    } else if code == Some("invalid_request") {
        Class::Doubtful
    } else {
        classify_by_status(status, members, code, description)
    }
}

fn is_throttled(
    status: StatusCode,
    code: Option<&str>,
    members: &Members,
    description: Option<&str>,
) -> bool {
    if status == StatusCode::TOO_MANY_REQUESTS {
        return true;
    }
    let text = description.unwrap_or_default().to_ascii_lowercase();
    match code {
        Some("slow_down" | "too_many_requests") => true,
        Some("Access Denied") => text.contains("too many"),
        Some(code) if DEAD.contains(&code) || USER.contains(&code) => false,
        _ => {
            let client_error = matches!(status.as_u16(), 400 | 403);
            let phrases = ["rate limit", "too many", "try again in", "try again after"];
            client_error && members.parsed && phrases.iter().any(|phrase| text.contains(phrase))
        }
    }
}

fn classify_by_status(
    status: StatusCode,
    members: &Members,
    code: Option<&str>,
    description: Option<&str>,
) -> Class {
    let speaks_of_tokens = [code, description]
        .iter()
        .flatten()
        .any(|text| text.to_ascii_lowercase().contains("token"));
    match status.as_u16() {
        401 => Class::Config,
        400 if !members.parsed => Class::Doubtful,
        404 | 405 | 410 if members.parsed && speaks_of_tokens => Class::Doubtful,
        404 | 405 | 410 => Class::Config,
        300..=399 => Class::Config,
        200..=299 | 403 if !members.parsed => Class::Ambiguous,
        408 | 425 | 500..=599 => Class::Transient,
        200..=499 => Class::Config,
        _ => Class::Protocol,
    }
}

/// How long a throttling server wants to be left alone: what it says, in any of the usual ways.
fn throttle(fields: &HeaderMap, description: Option<&str>, now: SystemTime) -> Duration {
    retry_after(fields, now)
        .or_else(|| rate_limit_reset(fields, now))
        .or_else(|| description.and_then(seconds_in_words))
        .unwrap_or(DEFAULT_THROTTLE)
        .min(MAX_THROTTLE)
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = fields.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?,
    };
    Some(wait.min(MAX_THROTTLE))
}

/// `x-ratelimit-reset`, which some servers count from 1970 and others from now.
fn rate_limit_reset(fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value: u64 = fields.get("x-ratelimit-reset")?.to_str().ok()?.trim().parse().ok()?;
    if value > 1_000_000_000 {
        (UNIX_EPOCH + Duration::from_secs(value)).duration_since(now).ok()
    } else {
        Some(Duration::from_secs(value))
    }
}

/// The `420` of "Try again in 420 seconds".
fn seconds_in_words(text: &str) -> Option<Duration> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(3).find_map(|three| match three {
        [lead, number, unit] if lead.eq_ignore_ascii_case("in") && unit.starts_with("second") => {
            number.parse().ok().map(Duration::from_secs)
        }
        _ => None,
    })
}

/// What a stranger wrote, fit for one line of a log.
fn printable(mut text: String, limit: usize, secrets: &[&Secret]) -> String {
    for secret in secrets.iter().filter(|secret| !secret.expose().is_empty()) {
        text = text.replace(secret.expose(), "…");
    }
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().take(limit).map(clean).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

/// The members of a JSON object, or the pairs of a form; in order, duplicates kept.
struct Members {
    parsed: bool,
    pairs: Vec<(String, Value)>,
}

impl Members {
    /// Goes by the bytes and not by `Content-Type`, which is often wrong.
    fn of(body: &[u8]) -> Self {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        if let Ok(object) = serde_json::from_slice::<Object>(body) {
            return Self { parsed: true, pairs: object.0 };
        }
        let pairs = form(body).unwrap_or_default();
        Self { parsed: !pairs.is_empty(), pairs }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn count(&self, name: &str) -> usize {
        self.pairs.iter().filter(|(key, _)| key == name).count()
    }

    /// A member that is text and not empty.
    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A lifetime in seconds, as a number or as text. Zero, less and junk count as unknown.
    fn lifetime(&self, name: &str) -> Option<Duration> {
        let seconds = match self.get(name)? {
            Value::Number(number) => number.as_f64()?,
            Value::String(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        if !seconds.is_finite() || seconds <= 0.0 {
            return None;
        }
        Some(Duration::from_secs_f64(seconds.min(MAX_LIFETIME.as_secs_f64())))
    }

    /// `error`, where some servers put an object with a code inside.
    fn code(&self) -> Option<String> {
        let text = match self.get("error")? {
            Value::String(code) => Some(code.as_str()),
            Value::Object(object) => ["type", "code", "status"]
                .iter()
                .find_map(|name| object.get(*name).and_then(Value::as_str))
                .or(Some("error")),
            Value::Bool(true) => Some("error"),
            _ => None,
        };
        text.filter(|code| !code.is_empty()).map(str::to_owned)
    }

    fn description(&self) -> Option<String> {
        let nested = self.get("error").and_then(|error| error.get("message"));
        ["error_description", "message", "detail", "title"]
            .iter()
            .find_map(|name| self.text(name))
            .or_else(|| nested.and_then(Value::as_str))
            .map(str::to_owned)
    }
}

/// A form body, only if it is one beyond doubt: otherwise any text would parse.
fn form(body: &[u8]) -> Option<Vec<(String, Value)>> {
    let text = std::str::from_utf8(body).ok()?;
    if text.contains(['<', '{', '\n', ' ']) {
        return None;
    }
    let pairs: Vec<(String, Value)> = url::form_urlencoded::parse(body)
        .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
        .collect();
    let known = |(key, _): &(String, Value)| key == "access_token" || key == "error";
    pairs.iter().any(known).then_some(pairs)
}

/// A JSON object whose duplicate members are not silently merged.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;
