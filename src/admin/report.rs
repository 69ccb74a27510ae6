//! What is said about a credential, and what a person should do.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::credential::Instance;
use crate::store::TerminalReason;
use crate::token::{Condition, Status};

/// Is something wrong that a person may want to know of?
pub(super) fn is_degraded(status: &Status) -> bool {
    let troubled = matches!(status.condition, Condition::Failing(_) | Condition::NeedsLogin(_));
    status.is_unsaved || status.is_volatile || troubled
}

/// From so long before its end the local CA is to be renewed.
const CA_ENDING: Duration = Duration::from_secs(30 * 24 * 3600);

/// Is a local CA that ends at `at` to be renewed?
pub(super) fn is_ending(at: SystemTime, now: SystemTime) -> bool {
    at < now + CA_ENDING
}

/// The local CA as JSON.
pub(super) fn ca(at: SystemTime, now: SystemTime) -> Value {
    let next = "run `bearerd ca renew`, have the clients trust the new ca.pem, then reload";
    json!({
        "expires_at": text(at),
        "expires_in": seconds_until(at, now),
        "next": is_ending(at, now).then_some(next),
    })
}

/// A token that is not in use; without a key: a credential with one token for each value of its
/// variables, and none of them in use.
pub(super) fn unused(credential: &str, name: &str, key: Option<&str>) -> Value {
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

/// One token of a credential as JSON. Additions are welcome, renaming is not: programs read it.
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

/// Negative once it is over.
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

/// What a person should do, if anything.
fn next_step(status: &Status) -> Option<&'static str> {
    match status.condition {
        _ if status.is_unsaved => {
            Some("make the store's directory writable: the newest refresh token is only in memory")
        }
        _ if status.is_volatile => Some(
            "the server replaces refresh tokens and the store is `memory:`: write url = \"file:DIR\" in [store]",
        ),
        Condition::NeedsLogin(TerminalReason::NoGrant) => {
            Some("configure a refresh_token for this credential, then reload")
        }
        Condition::NeedsLogin(TerminalReason::LoggedOut) => {
            Some("it was logged out: log in, or configure a new refresh_token and reload")
        }
        Condition::NeedsLogin(TerminalReason::OtherGrant) => Some(
            "the record is of another grant (token_url, client_id, user …): configure a new refresh_token, or what \
             the record was made with",
        ),
        Condition::NeedsLogin(_) => {
            Some("configure a new refresh_token for this credential, then reload")
        }
        Condition::Failing(why) => why.advice(),
        _ if status.grant_ends_soon => Some(
            "the grant ends soon, and only a new login extends it: configure its refresh_token before that",
        ),
        _ => None,
    }
}
