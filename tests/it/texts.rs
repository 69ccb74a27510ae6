//! Assertions about what bearerd says: output, logs, answers and metrics.

/// Asserts that a text holds each of these parts; `what` names the text.
#[track_caller]
pub(crate) fn assert_says(
    what: &str,
    text: impl AsRef<str>,
    parts: impl IntoIterator<Item = impl AsRef<str>>,
) {
    let text = text.as_ref();
    for part in parts {
        let part = part.as_ref();
        assert!(text.contains(part), "{what} does not say {part:?}: {text}");
    }
}

/// Asserts that a text holds none of these parts; `what` names the text.
#[track_caller]
pub(crate) fn assert_never_says(
    what: &str,
    text: impl AsRef<str>,
    parts: impl IntoIterator<Item = impl AsRef<str>>,
) {
    let text = text.as_ref();
    for part in parts {
        let part = part.as_ref();
        assert!(!text.contains(part), "{what} must not say {part:?}: {text}");
    }
}
