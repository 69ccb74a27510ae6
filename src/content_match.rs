//! How configured rules look at the content of a response: `refresh_on` at the answers of origin
//! servers; `dead`, `busy` and `ok` at those of token endpoints.

use serde_json::Value;

/// Returns true if `content` contains `text`.
pub(crate) fn contains(content: &[u8], text: &[u8]) -> bool {
    content.windows(text.len().max(1)).any(|window| window == text)
}

/// Returns the value at a path of object members and array indexes.
pub(crate) fn value_at<S: AsRef<str>>(
    whole: &Value,
    path: impl IntoIterator<Item = S>,
) -> Option<&Value> {
    path.into_iter().try_fold(whole, |value, step| match value {
        Value::Array(items) => items.get(step.as_ref().parse::<usize>().ok()?),
        other => other.get(step.as_ref()),
    })
}

/// Compares a value with a literal. 190 equals 190.0, but not "190".
pub(crate) fn equals(found: &Value, literal: &Value) -> bool {
    found == literal || found.as_f64().is_some_and(|number| literal.as_f64() == Some(number))
}
