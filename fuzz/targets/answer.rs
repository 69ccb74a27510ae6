//! A token endpoint's answer: status, a field, a line, then the body.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use bearerd::oauth::{Mapping, MemberPath, RawAnswer, Reading, read};
use bearerd::secret::Secret;
use http::{HeaderMap, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "s3cret/of+the=client";

fuzz_target!(|input: (u16, Vec<u8>, bool, Vec<u8>)| {
    let (number, wait, mapped, body) = input;
    let Ok(status) = StatusCode::from_u16(100 + number % 900) else { return };
    let mut fields = HeaderMap::new();
    if let Ok(wait) = HeaderValue::from_bytes(&wait) {
        fields.insert("retry-after", wait.clone());
        fields.insert("x-ratelimit-reset", wait.clone());
        fields.insert("dpop-nonce", wait);
    }
    let mut reading = Reading::default();
    if mapped {
        let path = MemberPath::parse;
        reading.mapping = Mapping {
            access_token: path("data.0.token"),
            expires_at: path("data.0.end"),
            error: path("code"),
            keep_access_token: true,
            ..Mapping::default()
        };
        reading.raw.extend(path("data.0.id"));
    }
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let secret = Secret::new(SECRET.to_owned());
    match read(&RawAnswer { status, fields, body, cut: None }, &reading, now, &[&secret]) {
        Ok(token) => {
            for text in token.access_token.iter().chain(token.raw.values()) {
                assert!(HeaderValue::from_str(text.expose()).is_ok());
            }
            let year = Duration::from_secs(365 * 24 * 60 * 60);
            assert!(token.expires_at.is_none_or(|end| end > now && end <= now + year));
        }
        Err(error) => {
            let said = format!("{error} {error:?}");
            assert!(!said.contains(SECRET));
            assert!(!error.to_string().contains(char::is_control));
        }
    }
});
