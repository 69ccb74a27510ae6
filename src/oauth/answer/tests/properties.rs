//! Properties of all answers, also hostile ones.

use http::HeaderName;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A recognisable part of the secret.
const PART_OF_SECRET: &str = "s3cret/";
/// Longer than any word in bearerd's messages.
const SECRET: &str = "s3cret/of+the=client s3cret";

fn fields() -> impl Strategy<Value = HeaderMap> {
    const NAMES: [&str; 4] = ["retry-after", "x-ratelimit-reset", "dpop-nonce", "content-type"];
    let field = (prop::sample::select(&NAMES[..]), "[ -~]{0,20}|[0-9]{1,22}(\\.[0-9])?");
    vec(field, 0..3).prop_map(|fields| {
        let field = |(name, value): (&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap())
        };
        fields.into_iter().map(field).collect()
    })
}

fn word() -> impl Strategy<Value = String> {
    const WORDS: [&str; 10] = [
        "invalid_grant",
        "server_error",
        "use_dpop_nonce",
        "Bearer",
        "DPoP",
        "2026-11-22T17:00:00+01:00",
        "3.6e3",
        "1:02:03",
        SECRET,
        "Try again in 99999999999 hours",
    ];
    prop_oneof![
        prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        ".{0,12}".prop_map(|text| text),
        any::<f64>().prop_map(|number| number.to_string()),
        ".{0,4}".prop_map(|around| format!("{around}{SECRET}{around}")),
        // So that truncation happens inside the secret.
        prop_oneof![45..60_usize, 180..195_usize]
            .prop_map(|before| format!("{}{SECRET}", "x".repeat(before))),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        word().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((name(), inner), 0..3).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    const NAMES: [&str; 12] = [
        "access_token",
        "refresh_token",
        "expires_in",
        "expires_at",
        "expires",
        "refresh_expires_in",
        "token_type",
        "error",
        "error_description",
        "message",
        "code",
        "data",
    ];
    prop_oneof![
        1 => Just("access_token".to_owned()),
        3 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
    ]
}

/// Built by hand to allow duplicate members.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let object = vec((name(), value()), 0..7).prop_map(|members| {
        let members: Vec<_> =
            members.iter().map(|(name, value)| format!("{:?}:{value}", name)).collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    });
    let form = vec((name(), word()), 0..5).prop_map(|pairs| {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into()
    });
    prop_oneof![4 => object, 1 => form, 1 => vec(any::<u8>(), 0..200)]
}

/// Intact, truncated, damaged, or with surrounding text.
fn received_body() -> impl Strategy<Value = (Vec<u8>, Option<String>)> {
    (body(), 0..300_usize, prop::sample::select(&["", "", "<p>", ")]}'\n", "{x} "][..])).prop_map(
        |(mut body, at, before)| {
            match at {
                0..100 => body.truncate(at),
                100..200 => body.iter_mut().skip(at - 100).take(1).for_each(|byte| *byte ^= 0xff),
                _ => {}
            }
            body.splice(0..0, before.bytes());
            (body, (at < 100).then(|| "it ended early".to_owned()))
        },
    )
}

fn reading() -> impl Strategy<Value = TokenResponseFormat> {
    let place = || proptest::option::weighted(0.2, name().prop_map(|name| path(&name)));
    let unit =
        prop::sample::select(&[None, Some(TimeUnit::Seconds), Some(TimeUnit::Milliseconds)][..]);
    let places = (place(), place(), place(), place(), place());
    (places, unit, any::<bool>(), any::<bool>()).prop_map(|(places, unit, keep, dpop)| {
        TokenResponseFormat {
            mapping: Mapping {
                access_token: places.0,
                refresh_token: places.1,
                expires_in: places.2,
                expires_at: places.3,
                error: places.4,
                unit,
                keep_access_token: keep,
                ..Mapping::default()
            },
            raw: ["data.code", "message", "data.0"].into_iter().map(path).collect(),
            dpop,
            ..TokenResponseFormat::default()
        }
    })
}

fn now() -> impl Strategy<Value = SystemTime> {
    prop_oneof![Just(at(0)), (0..4_000_000_000_u64).prop_map(at)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn every_answer_is_a_usable_token_or_an_error_without_secrets(
        status in prop_oneof![Just(200_u16), 100_u16..1000],
        fields in fields(),
        (body, cut) in received_body(),
        reading in reading(),
        now in now(),
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = RawAnswer { status, fields, body, cut };
        let secret = Secret::new(SECRET.to_owned());
        match read(&answer, &reading, now, &[&secret]) {
            Ok(token) => {
                prop_assert!(status.is_success());
                prop_assert!(token.access_token.is_some() || reading.mapping.keep_access_token);
                for text in token.access_token.iter().chain(token.raw.values()) {
                    prop_assert!(HeaderValue::from_str(text.expose()).is_ok());
                    prop_assert!(text.expose().len() <= reading.token_bytes);
                }
                prop_assert!(!token.notes.concat().contains(PART_OF_SECRET), "{:?}", token.notes);
                if let Some(end) = token.expires_at {
                    prop_assert!(end > now && end <= now + MAX_LIFETIME);
                }
                prop_assert!(token.refresh_expires_at.is_none_or(|end| end > now));
                let bound = token.token_type == TokenType::Dpop;
                prop_assert!(bound == reading.dpop || token.access_token.is_none());
            }
            Err(error) => {
                let said = format!("{error} {error:?}");
                prop_assert!(!said.contains(PART_OF_SECRET), "{}", said);
                prop_assert!(!error.to_string().contains(char::is_control), "{}", said);
                prop_assert!(error.retry_after.is_none_or(|wait| wait.as_secs() <= 3600));
                prop_assert!(error.class != ErrorClass::Nonce || error.dpop_nonce.is_some());
            }
        }
    }
}
