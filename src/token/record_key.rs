//! The keys of records: a credential's name, followed by the values of its variables.
//!
//! For example `resamania/paris`. The values are in the order of the variables' names and percent-encoded, so
//! that keys are unique and can be parsed.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;

use crate::template::{Variables, percent_encode};

/// Returns the key of the record of a credential with these values.
pub(super) fn key(name: &str, variables: &Variables) -> String {
    let mut key = name.to_owned();
    for value in variables.values() {
        key.push('/');
        key.extend(percent_encode(value));
    }
    key
}

/// Parses the values of these variables from a key. Returns `None` unless [`key`] creates this key from them.
pub(super) fn values<'a>(
    key_of_record: &str,
    name: &str,
    variables: impl Iterator<Item = &'a str>,
) -> Option<Variables> {
    let variables: BTreeSet<&str> = variables.collect();
    let encoded = key_of_record.strip_prefix(name)?.strip_prefix('/')?.split('/');
    let decoded = |(variable, value): (&str, &str)| {
        let value = percent_decode_str(value).decode_utf8().ok()?.into_owned();
        Some((variable.to_owned(), value))
    };
    let number = variables.len();
    let values: Variables = variables.into_iter().zip(encoded).filter_map(decoded).collect();
    (values.len() == number && key(name, &values) == key_of_record).then_some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(key: &str, variables: &[&str]) -> Option<Vec<String>> {
        let values = values(key, "api", variables.iter().copied())?;
        Some(values.into_values().collect())
    }

    fn some(values: &[&str]) -> Option<Vec<String>> {
        Some(values.iter().map(|&value| value.to_owned()).collect())
    }

    #[test]
    fn a_key_is_parsed_or_refused() {
        for (key, expected) in [
            ("api/paris", some(&["paris"])),
            ("api/x%2Fy", some(&["x/y"])),
            ("api/%C3%A9", some(&["é"])),
            ("api/", some(&[""])),
            // Not a canonical encoding.
            ("api/x%2fy", None),
            ("api/%C3", None),
            ("api/p%61ris", None),
            ("api/a b", None),
            // Another credential, or another number of variables.
            ("api", None),
            ("apia/paris", None),
            ("other/paris", None),
            ("api/paris/1", None),
        ] {
            assert_eq!(of(key, &["club"]), expected, "{key}");
        }
        // The order of the names counts, not the order of the arguments.
        assert_eq!(of("api/1/2", &["b", "a"]), some(&["1", "2"]));
        assert_eq!(of("api/1", &["b", "a"]), None);
    }

    proptest! {
        #[test]
        fn every_key_is_parsed_to_its_values(a: String, b: String) {
            let variables = Variables::from([("a".to_owned(), a), ("b".to_owned(), b)]);
            let key = key("api", &variables);
            let names = variables.keys().map(String::as_str);
            prop_assert_eq!(values(&key, "api", names), Some(variables.clone()));
            prop_assert!(key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@'));
        }
    }
}
