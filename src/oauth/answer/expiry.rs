//! Determines when a token expires from what servers send: seconds or milliseconds, a lifetime or
//! an instant, a number or text.
//!
//! Zero, negative or invalid values and instants in the past count as unknown, because an answer
//! that issues a token does not mean that it is useless.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::format::{Mapping, TimeUnit};
use super::members::Members;

/// The maximum lifetime of an access token, one year. A token that old has been revoked or
/// forgotten.
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The maximum lifetime of a refresh token, ten years.
const MAX_REFRESH_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// September 2001 in seconds. Larger numbers are instants, because no lifetime is that long.
const INSTANT_IN_SECONDS: f64 = 1e9;
/// September 2001 in milliseconds.
const INSTANT_IN_MILLISECONDS: f64 = 1e12;

/// What a member means if its magnitude does not decide.
#[derive(Clone, Copy, PartialEq)]
enum TimeKind {
    /// A duration from now.
    Lifetime,
    /// A time since 1970.
    Instant,
}

/// Returns when the access token expires, at most a year from `now`. Configured members take
/// precedence over the usual ones: `expires_in`, `expires_at`, `expires`.
pub(super) fn of_access_token(
    members: &Members,
    mapping: &Mapping,
    now: SystemTime,
) -> Option<SystemTime> {
    let mapped =
        [(&mapping.expires_at, TimeKind::Instant), (&mapping.expires_in, TimeKind::Lifetime)];
    let mapped =
        mapped.iter().filter_map(|(path, kind)| Some((members.at(path.as_ref()?)?, *kind)));
    let usual = [
        ("expires_in", TimeKind::Lifetime),
        ("expires_at", TimeKind::Instant),
        ("expires", TimeKind::Instant),
    ];
    let usual = usual.iter().filter_map(|(name, kind)| Some((members.get(name)?, *kind)));
    let lifetime =
        mapped.chain(usual).find_map(|(value, kind)| lifetime(value, kind, mapping.unit, now))?;
    Some(now + lifetime.min(MAX_LIFETIME))
}

/// Returns when the refresh token expires.
pub(super) fn of_refresh_token(
    members: &Members,
    mapping: &Mapping,
    now: SystemTime,
) -> Option<SystemTime> {
    let mapped = mapping.refresh_expires_in.as_ref().and_then(|path| members.at(path));
    let mapped = mapped.map(|value| (value, TimeKind::Lifetime));
    let usual = [
        ("refresh_token_expires_in", TimeKind::Lifetime),
        ("refresh_expires_in", TimeKind::Lifetime),
        ("x_refresh_token_expires_in", TimeKind::Lifetime),
        ("refresh_token_expires_at", TimeKind::Instant),
        // The maximum idle time (draft-ietf-oauth-refresh-token-expiration).
        ("refresh_token_timeout", TimeKind::Lifetime),
    ];
    let usual = usual.iter().filter_map(|(name, kind)| Some((members.get(name)?, *kind)));
    let mut found = mapped.into_iter().chain(usual);
    let lifetime = found.find_map(|(value, kind)| lifetime(value, kind, mapping.unit, now))?;
    Some(now + lifetime.min(MAX_REFRESH_LIFETIME))
}

/// Returns when the grant expires, regardless of refreshes
/// (draft-ietf-oauth-refresh-token-expiration).
pub(super) fn of_grant(
    members: &Members,
    mapping: &Mapping,
    now: SystemTime,
) -> Option<SystemTime> {
    let value = members.get("authorization_expires_in")?;
    let lifetime = lifetime(value, TimeKind::Lifetime, mapping.unit, now)?;
    Some(now + lifetime.min(MAX_REFRESH_LIFETIME))
}

/// Returns when a token with the lifetime in `value` expires, at most a year from `now`.
pub(in crate::oauth) fn of_lifetime(value: &Value, now: SystemTime) -> Option<SystemTime> {
    Some(now + lifetime(value, TimeKind::Lifetime, None, now)?.min(MAX_LIFETIME))
}

/// Returns the time from `now`, if it is positive.
fn lifetime(
    value: &Value,
    kind: TimeKind,
    unit: Option<TimeUnit>,
    now: SystemTime,
) -> Option<Duration> {
    let lifetime = match value {
        Value::Number(number) => of_number(number.as_f64()?, kind, unit, now),
        Value::String(text) => {
            let text = text.trim();
            match text.parse::<f64>() {
                Ok(number) => of_number(number, kind, unit, now),
                Err(_) => of_text(text, now),
            }
        }
        _ => None,
    };
    lifetime.filter(|lifetime| !lifetime.is_zero())
}

fn of_number(
    number: f64,
    kind: TimeKind,
    unit: Option<TimeUnit>,
    now: SystemTime,
) -> Option<Duration> {
    if !number.is_finite() || number <= 0.0 {
        return None;
    }
    let (kind, unit) = match unit {
        Some(unit) => (kind, unit),
        None if number >= INSTANT_IN_MILLISECONDS => (TimeKind::Instant, TimeUnit::Milliseconds),
        None if number >= INSTANT_IN_SECONDS => (TimeKind::Instant, TimeUnit::Seconds),
        None => (TimeKind::Lifetime, TimeUnit::Seconds),
    };
    let seconds = match unit {
        TimeUnit::Seconds => number,
        TimeUnit::Milliseconds => number / 1000.0,
    };
    // Later than the year 5000 `SystemTime` may overflow, and every limit applies anyway.
    let time = Duration::from_secs_f64(seconds.min(1e11));
    match kind {
        TimeKind::Lifetime => Some(time),
        TimeKind::Instant => (UNIX_EPOCH + time).duration_since(now).ok(),
    }
}

fn of_text(text: &str, now: SystemTime) -> Option<Duration> {
    match instant(text) {
        Some(instant) => instant.duration_since(now).ok(),
        None => days_hours_minutes(text),
    }
}

/// Parses a date in ISO 8601 or HTTP format.
pub(super) fn instant(text: &str) -> Option<SystemTime> {
    iso_8601(text).or_else(|| httpdate::parse_http_date(text).ok())
}

/// Parses `2026-11-22T17:00:00.5+01:00`, also with a space, without the colon, or without a zone,
/// which means UTC.
fn iso_8601(text: &str) -> Option<SystemTime> {
    // Skip the hyphens of the date; the sign of the zone comes after it.
    let zone = text.char_indices().skip(11).find(|(_, c)| matches!(c, '+' | '-'));
    let Some((at, sign)) = zone else { return humantime::parse_rfc3339_weak(text).ok() };
    let (time, zone) = text.split_at_checked(at)?;
    let digits: String = zone.chars().skip(1).filter(|c| *c != ':').collect();
    let (hours, minutes) = match digits.len() {
        2 => (digits.as_str(), "0"),
        4 => digits.split_at_checked(2)?,
        _ => return None,
    };
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset = Duration::from_secs(hours * 3600 + minutes * 60);
    let local = humantime::parse_rfc3339_weak(time).ok()?;
    if sign == '+' { local.checked_sub(offset) } else { local.checked_add(offset) }
}

/// Parses `0:04:00` (days, hours, minutes), which Tableau uses for session lifetimes.
fn days_hours_minutes(text: &str) -> Option<Duration> {
    let parts: Option<Vec<u64>> =
        text.split(':').map(|part| part.parse::<u32>().ok().map(u64::from)).collect();
    match parts?.as_slice() {
        [days, hours, minutes] => {
            Some(Duration::from_secs(days * 86_400 + hours * 3600 + minutes * 60))
        }
        _ => None,
    }
}
