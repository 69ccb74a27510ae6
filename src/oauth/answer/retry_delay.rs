//! Reads how long a server asks clients to wait, in all common formats.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::expiry;

/// The wait after a rate limit response without a duration.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(60);
/// The longest wait that a server can impose.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Suffixes of the fields that say when a rate limit resets. Many start with a vendor prefix, and
/// their units differ.
const RESETS: [&str; 2] = ["ratelimit-reset", "rate-limit-reset"];
/// Larger numbers are seconds since 1970.
const INSTANT: f64 = 1e9;

/// Returns the wait after a rate limit response, from 0 to one hour.
pub(super) fn throttle(fields: &HeaderMap, description: Option<&str>, now: SystemTime) -> Duration {
    let by_its_clock = date(fields).unwrap_or(now);
    let is_reset = |name: &HeaderName| RESETS.iter().any(|end| name.as_str().ends_with(end));
    let resets = || fields.keys().filter(|name| is_reset(name));
    let reset = || resets().find_map(|name| seconds(text(fields, name.as_str())?, by_its_clock));
    retry_after(fields, now)
        .or_else(reset)
        .or_else(|| description.and_then(in_words))
        .unwrap_or(DEFAULT_THROTTLE)
        .min(MAX_WAIT)
}

/// Reads the wait from a member of the answer: seconds, a date, or text with a number.
pub(super) fn of_member(value: &Value, fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let wait = of_text(&text, date(fields).unwrap_or(now)).or_else(|| in_words(&text))?;
    Some(wait.min(MAX_WAIT))
}

/// Reads `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most one hour. Dates are
/// relative to the server's clock.
pub(super) fn retry_after(fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let wait = of_text(text(fields, RETRY_AFTER.as_str())?, date(fields).unwrap_or(now))?;
    Some(wait.min(MAX_WAIT))
}

/// Reads the `Date` field: when the answer was made, by the server's clock.
fn date(fields: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(text(fields, DATE.as_str())?).ok()
}

fn of_text(text: &str, now: SystemTime) -> Option<Duration> {
    let instant = || {
        let date = expiry::instant(text)?;
        // A date in the past means no wait.
        Some(date.duration_since(now).unwrap_or_default())
    };
    seconds(text, now).or_else(instant)
}

fn text<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name)?.to_str().ok().map(str::trim)
}

/// Reads seconds, which some servers count from 1970 and others from now.
fn seconds(text: &str, now: SystemTime) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    // Round up, because retrying too early extends the limit.
    let time = Duration::from_secs_f64(number.min(1e11).ceil());
    if number > INSTANT {
        Some((UNIX_EPOCH + time).duration_since(now).unwrap_or_default())
    } else {
        Some(time)
    }
}

/// Reads durations such as "Try again in 420 seconds", "after 2 minutes" and "in 30s", but not the
/// window of a limit such as "40 requests in 1 second".
fn in_words(text: &str) -> Option<Duration> {
    let words: Vec<String> = text.split_whitespace().map(str::to_ascii_lowercase).collect();
    words.windows(2).enumerate().find_map(|(at, two)| {
        let [lead, number] = two else { return None };
        if (lead != "in" && lead != "after") || is_limit(words.get(..at)?) {
            return None;
        }
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let (number, unit) = number.split_at_checked(end)?;
        let unit = if unit.is_empty() { words.get(at + 2)?.as_str() } else { unit };
        let seconds = match unit.trim_end_matches(['.', ',', ';', '!', ')']) {
            "s" | "sec" | "secs" | "second" | "seconds" | "second(s" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" | "minute(s" => 60,
            "h" | "hour" | "hours" => 3600,
            _ => return None,
        };
        Some(Duration::from_secs(number.parse::<u64>().ok()?.saturating_mul(seconds)))
    })
}

/// Returns true if the words end with a count, so that the following duration is the window of a
/// limit.
fn is_limit(words: &[String]) -> bool {
    let waits = ["again", "retry", "wait"];
    let mut last = words.iter().rev().take(2);
    let counts = |word: &String| word.starts_with(|c: char| c.is_ascii_digit());
    !words.last().is_some_and(|word| waits.contains(&word.as_str())) && last.any(counts)
}
