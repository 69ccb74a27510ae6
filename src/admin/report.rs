//! Descriptions of credentials as JSON, with the next step for the operator.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::credential::Instance;
use crate::store::TerminalReason;
use crate::token::{Condition, Status};

/// Returns true if an operator should look at the credential.
pub(super) fn is_degraded(status: &Status) -> bool {
    let has_problem = matches!(status.condition, Condition::Failing(_) | Condition::NeedsLogin(_));
    status.is_unsaved || status.is_volatile || has_problem
}

/// How long before its end the local CA should be renewed.
const CA_RENEWAL_NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Returns true if a local CA that expires at `at` should be renewed.
pub(super) fn needs_renewal(at: SystemTime, now: SystemTime) -> bool {
    at < now + CA_RENEWAL_NOTICE
}

/// Describes the local CA as JSON.
pub(super) fn ca(at: SystemTime, now: SystemTime) -> Value {
    let next = "run `bearerd ca renew`, make the clients trust the new ca.pem, then reload";
    json!({
        "expires_at": text(at),
        "expires_in": seconds_until(at, now),
        "next": needs_renewal(at, now).then_some(next),
    })
}

/// Describes a token without a slot. Without a key: a credential with variables that has no tokens
/// in use.
pub(super) fn describe_unused(credential: &str, name: &str, key: Option<&str>) -> Value {
    json!({
        "name": name,
        "credential": credential,
        "key": key,
        "state": Condition::Absent.word(),
        "token": false,
        "generation": 0,
        "unsaved": false,
    })
}

/// Describes one token of a credential as JSON. Members may be added but not renamed, because
/// programs read this.
pub(super) fn describe(credential: &str, instance: &Instance, now: SystemTime) -> Value {
    let status = &instance.slot.status();
    let last_error = status.last_error.as_ref();
    json!({
        "name": &*instance.title,
        "credential": credential,
        "key": &*instance.key,
        "state": status.condition.word(),
        "reason": reason(status.condition),
        "token": status.is_usable,
        "generation": status.generation,
        "refreshed_at": status.refreshed_at.map(text),
        "expires_at": status.expires_at.map(text),
        "expires_in": status.expires_at.map(|at| seconds_until(at, now)),
        "refresh_expires_at": status.refresh_expires_at.map(text),
        "grant_expires_at": status.grant_expires_at.map(text),
        "unsaved": status.is_unsaved,
        "failing_since": status.failing_since.map(text),
        "last_error": last_error.map(|(at, what)| json!({ "at": text(*at), "text": what })),
        "next": next_step(status),
    })
}

fn text(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Negative after `at`.
pub(super) fn seconds_until(at: SystemTime, now: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    at.duration_since(now).map_or_else(|past| -seconds(past.duration()), seconds)
}

fn reason(condition: Condition) -> Option<String> {
    match condition {
        Condition::Failing(why) => Some(why.to_string()),
        Condition::NeedsLogin(reason) => Some(reason.to_string()),
        _ => None,
    }
}

/// The next step for the operator, if any.
fn next_step(status: &Status) -> Option<&'static str> {
    match status.condition {
        _ if status.is_unsaved => Some(
            "make the store's directory writable; the newest refresh token exists only in memory",
        ),
        _ if status.is_volatile => Some(
            "the server rotates refresh tokens but the store is `memory:`; set url = \"file:DIR\" in [store]",
        ),
        Condition::NeedsLogin(TerminalReason::NoGrant) => {
            Some("configure a refresh_token for this credential, then reload")
        }
        Condition::NeedsLogin(TerminalReason::LoggedOut) => {
            Some("logged out: log in, or configure a new refresh_token and reload")
        }
        Condition::NeedsLogin(TerminalReason::OtherGrant) => Some(
            "the record belongs to another grant (token_url, client_id, user …): configure a new refresh_token, or restore \
             the settings that the record was made with",
        ),
        Condition::NeedsLogin(_) => {
            Some("configure a new refresh_token for this credential, then reload")
        }
        Condition::Failing(why) => why.advice(),
        _ if status.grant_ends_soon => Some(
            "the grant expires soon and only a new login extends it: configure a new refresh_token before that",
        ),
        _ => None,
    }
}
