//! How long a server wants to be left alone, in any of the usual ways.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::expiry;

/// How long a server that throttles without saying for how long is left alone.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(60);
/// The longest wait a server can impose.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// How the names of the fields end that say when the limit on requests is lifted; many begin with the
/// provider's own. What they count differs, too.
const RESETS: [&str; 2] = ["ratelimit-reset", "rate-limit-reset"];
/// More seconds than that are counted from 1970.
const INSTANT: f64 = 1e9;

/// How long a server that throttles wants to be left alone, from 0 to one hour.
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

/// The same from a member of the answer: seconds, a date, or words with a number.
pub(super) fn of_member(value: &Value, fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let wait = of_text(&text, date(fields).unwrap_or(now)).or_else(|| in_words(&text))?;
    Some(wait.min(MAX_WAIT))
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most one hour. A date is one of the
/// server's clock, whatever that shows.
pub(super) fn retry_after(fields: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let wait = of_text(text(fields, RETRY_AFTER.as_str())?, date(fields).unwrap_or(now))?;
    Some(wait.min(MAX_WAIT))
}

/// When the answer was made, by the clock of whoever made it.
fn date(fields: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(text(fields, DATE.as_str())?).ok()
}

fn of_text(text: &str, now: SystemTime) -> Option<Duration> {
    let instant = || {
        let date = expiry::instant(text)?;
        // A date that has passed asks for no wait.
        Some(date.duration_since(now).unwrap_or_default())
    };
    seconds(text, now).or_else(instant)
}

fn text<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name)?.to_str().ok().map(str::trim)
}

/// Seconds, which some servers count from 1970 and others from now.
fn seconds(text: &str, now: SystemTime) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    // Part of a second is a second: too early would be asking for more of the same.
    let time = Duration::from_secs_f64(number.min(1e11).ceil());
    if number > INSTANT {
        Some((UNIX_EPOCH + time).duration_since(now).unwrap_or_default())
    } else {
        Some(time)
    }
}

/// The `420` of "Try again in 420 seconds", also "after 2 minutes" and "in 30s"; not the `1` of "40
/// requests in 1 second".
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

/// Do these words end in a number of something, so that a time after them is that of the limit?
fn is_limit(words: &[String]) -> bool {
    let waits = ["again", "retry", "wait"];
    let mut last = words.iter().rev().take(2);
    let counts = |word: &String| word.starts_with(|c: char| c.is_ascii_digit());
    !words.last().is_some_and(|word| waits.contains(&word.as_str())) && last.any(counts)
}
