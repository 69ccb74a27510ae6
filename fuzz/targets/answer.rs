//! Parses a token response: status, fields, and a body that may be compressed, truncated or not JSON.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use bearerd::oauth::{Mapping, MemberPath, RawAnswer, TokenResponseFormat, read};
use bearerd::secret::Secret;
use http::{HeaderMap, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "s3cret/of+the=client";

const CODINGS: [&str; 5] = ["", "gzip", "deflate", "br", "gzip, gzip"];

fuzz_target!(|input: (u16, Vec<u8>, bool, u8, Vec<u8>)| {
    let (number, wait, mapped, shape, body) = input;
    let Ok(status) = StatusCode::from_u16(100 + number % 900) else { return };
    let mut fields = HeaderMap::new();
    if let Ok(wait) = HeaderValue::from_bytes(&wait) {
        fields.insert("retry-after", wait.clone());
        fields.insert("x-ratelimit-reset", wait.clone());
        fields.insert("dpop-nonce", wait);
    }
    if let Some(coding) = CODINGS.get(usize::from(shape >> 1)).filter(|it| !it.is_empty()) {
        fields.insert("content-encoding", HeaderValue::from_static(coding));
    }
    let cut = (shape & 1 == 1).then(|| "the body ended early".to_owned());
    let mut reading = TokenResponseFormat::default();
    if mapped {
        let path = MemberPath::parse;
        reading.mapping = Mapping {
            access_token: path("data.0.token"),
            expires_at: path("data.0.end"),
            error: path("code"),
            keep_access_token: true,
            retry_after: path("data.wait"),
            refresh_expires_in: path("data.rt"),
            ..Mapping::default()
        };
        reading.raw.extend(path("data.0.id"));
    }
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let secret = Secret::new(SECRET.to_owned());
    match read(&RawAnswer { status, fields, body, cut }, &reading, now, &[&secret]) {
        Ok(token) => {
            for text in token.access_token.iter().chain(token.raw.values()) {
                assert!(HeaderValue::from_str(text.expose()).is_ok());
            }
            assert!(token.access_token.iter().all(|it| it.expose().len() <= reading.token_bytes));
            // No reader returns bytes that are not text as a token.
            assert!(token.refresh_token.iter().all(|it| !it.expose().is_empty()));
            assert!(token.notes.iter().all(|note| !note.contains(char::is_control)));
            let year = Duration::from_secs(365 * 24 * 60 * 60);
            assert!(token.expires_at.is_none_or(|end| end > now && end <= now + year));
        }
        Err(error) => {
            let output = format!("{error} {error:?}");
            assert!(!output.contains(SECRET));
            assert!(!error.to_string().contains(char::is_control));
            assert!(
                error.unread.is_none_or(|it| status.is_success() && it.expose().len() <= 65_536)
            );
        }
    }
});
