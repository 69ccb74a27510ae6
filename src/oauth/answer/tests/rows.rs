//! Configured formats, and the details of lifetimes, waits and members.

use serde_json::json;

use super::*;

const NOW: u64 = 1_700_000_000;

/// Returns the seconds from `NOW` to the expiry of a token whose answer has these additional
/// members.
fn life(reading: &TokenResponseFormat, members: &str) -> Option<u64> {
    let body = format!(r#"{{"access_token":"a",{members}}}"#);
    let token = read(&answer(200, &body), reading, at(NOW), &[]).unwrap();
    token.expires_at.map(|end| end.duration_since(at(NOW)).unwrap().as_secs())
}

#[test]
fn instants_and_lifetimes_are_distinguished_by_magnitude_and_format() {
    for (members, expected) in [
        // Row 10: the same instant in every form.
        (r#""expires_at":1700003600"#, Some(3600)),
        (r#""expires_at":1700003600000"#, Some(3600)),
        (r#""expires_at":1700003600.7"#, Some(3600)),
        (r#""expires_at":"1700003600""#, Some(3600)),
        (r#""expires_at":"2023-11-14T23:13:20Z""#, Some(3600)),
        (r#""expires_at":"2023-11-14T23:13:20.000Z""#, Some(3600)),
        (r#""expires_at":"2023-11-14T23:13:20""#, Some(3600)),
        (r#""expires_at":"2023-11-14 23:13:20""#, Some(3600)),
        (r#""expires_at":"2023-11-15T00:13:20+01:00""#, Some(3600)),
        (r#""expires_at":"2023-11-14T15:13:20.123-0800""#, Some(3600)),
        (r#""expires_at":"2023-11-15T01:13:20+02""#, Some(3600)),
        (r#""expires_at":"Tue, 14 Nov 2023 23:13:20 GMT""#, Some(3600)),
        (r#""expires":1700003600,"expires_in":3600"#, Some(3600)),
        (r#""expires":1700003600"#, Some(3600)),
        (r#""expires_in":1700003600"#, Some(3600)),
        (r#""expires_in":1700003600000"#, Some(3600)),
        (r#""expires_at":3600"#, Some(3600)),
        (r#""expires":"3600""#, Some(3600)),
        (r#""expires_in":"0:04:30""#, Some(4 * 3600 + 30 * 60)),
        (r#""expires_in":"10:00:00""#, Some(10 * 86_400)),
        // An unusable member is skipped.
        (r#""expires_in":0,"expires_at":1700003600"#, Some(3600)),
        (r#""expires_in":null,"expires":1700003600"#, Some(3600)),
        // Past and absent times are unknown.
        (r#""expires_at":1600000000"#, None),
        (r#""expires_at":"2001-01-01T00:00:00Z""#, None),
        (r#""expires_at":"tomorrow""#, None),
        (r#""expires_at":"2023-11-14T23:13:20+""#, None),
        (r#""expires_at":"99:99""#, None),
        (r#""expires_at":{}"#, None),
        // Lifetimes are limited.
        (r#""expires_at":"9999-01-01T00:00:00Z""#, Some(MAX_LIFETIME.as_secs())),
        (r#""expires_in":1e300"#, Some(MAX_LIFETIME.as_secs())),
        (r#""expires_in":"4294967295:0:0""#, Some(MAX_LIFETIME.as_secs())),
    ] {
        assert_eq!(life(&TokenResponseFormat::default(), members), expected, "{members}");
    }
}

#[test]
fn a_configured_unit_takes_precedence() {
    let with = |unit| mapped(Mapping { unit: Some(unit), ..Mapping::default() });
    for (unit, members, expected) in [
        (TimeUnit::Milliseconds, r#""expires_in":3600000"#, Some(3600)),
        (TimeUnit::Milliseconds, r#""expires_in":"3600000""#, Some(3600)),
        (TimeUnit::Milliseconds, r#""expires_at":1700003600000"#, Some(3600)),
        (TimeUnit::Milliseconds, r#""expires_in":1e10"#, Some(10_000_000)),
        (TimeUnit::Seconds, r#""expires_at":1700003600"#, Some(3600)),
        (TimeUnit::Seconds, r#""expires_in":1700003600"#, Some(MAX_LIFETIME.as_secs())),
        (TimeUnit::Seconds, r#""expires_at":3600"#, None),
    ] {
        assert_eq!(life(&with(unit), members), expected, "{unit:?} {members}");
    }
}

#[test]
fn refresh_token_expiry_is_read_under_all_its_names() {
    let end = |members: &str| {
        let body = format!(r#"{{"access_token":"a","refresh_token":"r",{members}}}"#);
        let token = read_by_default(&answer(200, &body), at(NOW), &[]).unwrap();
        token.refresh_expires_at.map(|end| end.duration_since(at(NOW)).unwrap().as_secs())
    };
    for (members, expected) in [
        (r#""refresh_token_expires_in":15897600"#, Some(15_897_600)),
        (r#""refresh_expires_in":"1800""#, Some(1800)),
        (r#""x_refresh_token_expires_in":8726400"#, Some(8_726_400)),
        (r#""refresh_token_expires_at":1700003600"#, Some(3600)),
        (r#""refresh_token_timeout":3600"#, Some(3600)),
        (r#""refresh_token_expires_in":7200,"refresh_token_timeout":3600"#, Some(7200)),
        // Some servers really issue five years.
        (r#""x_refresh_token_expires_in":157680000"#, Some(157_680_000)),
        // Keycloak's "never".
        (r#""refresh_expires_in":0"#, None),
        (r#""expires_in":3600"#, None),
    ] {
        assert_eq!(end(members), expected, "{members}");
    }
}

#[test]
fn members_are_read_from_configured_places() {
    let reading = mapped(Mapping {
        access_token: Some(path("data.tokens.0.accessToken")),
        refresh_token: Some(path("data.refreshToken")),
        expires_in: Some(path("data.ttl")),
        token_type: Some(path("data.kind")),
        ..Mapping::default()
    });
    let body = r#"{"access_token":"other","token_type":"mac","expires_in":1,
        "data":{"tokens":[{"accessToken":"a1"}],"refreshToken":"r1","ttl":"60","kind":"bearer"}}"#;
    // Row 16: a success is any 2xx.
    let token = read(&answer(201, body), &reading, at(0), &[]).unwrap();
    assert_eq!(token.access_token.unwrap().expose(), "a1");
    assert_eq!(token.refresh_token.unwrap().expose(), "r1");
    assert_eq!(token.expires_at, Some(at(60)));
    for body in [
        r#"{"token":"other"}"#,
        r#"{"access_token":"other","data":{"tokens":[{"accessToken":5}]}}"#,
        r#"{"data":{"tokens":[]}}"#,
        r#"{"data":{"tokens":[{"accessToken":"a"}]},"data":1}"#,
    ] {
        let error = read(&answer(200, body), &reading, at(0), &[]).unwrap_err();
        assert_eq!(error.class, ErrorClass::Unreadable, "{body}");
    }
    let mac = r#"{"data":{"tokens":[{"accessToken":"a"}],"kind":"mac"}}"#;
    assert_eq!(
        read(&answer(200, mac), &reading, at(0), &[]).unwrap_err().class,
        ErrorClass::Unusable
    );
    let list = mapped(Mapping { access_token: Some(path("0.token")), ..Mapping::default() });
    let token = read(&answer(200, r#"[{"token":"a1"}]"#), &list, at(0), &[]).unwrap();
    assert_eq!(token.access_token.unwrap().expose(), "a1");
}

#[test]
fn the_ok_condition_decides_success() {
    let reading = |place: &str, equal, literal| {
        let ok = Some(Comparison { path: path(place), equal, literal });
        mapped(Mapping { ok, ..Mapping::default() })
    };
    for (ok, members, expected) in [
        (reading("result", true, json!("0000")), r#""result":"0000""#, true),
        (reading("result", true, json!("0000")), r#""result":"5031""#, false),
        (reading("result", true, json!("0000")), r#""result":0"#, false),
        (reading("result", true, json!("0000")), r#""other":"0000""#, false),
        (reading("ok", true, json!(true)), r#""ok":true"#, true),
        (reading("ok", true, json!(true)), r#""ok":false"#, false),
        (reading("ok", true, json!(true)), r#""ok":"true""#, false),
        (reading("a.code", true, json!(0)), r#""a":{"code":0.0}"#, true),
        (reading("a.code", false, json!(7)), r#""a":{"code":8}"#, true),
        (reading("a.code", false, json!(7)), r#""a":{"code":7}"#, false),
        (reading("a.code", false, json!(7)), r#""a":{}"#, true),
        // Errors remain errors.
        (reading("ok", true, json!(true)), r#""ok":true,"error":"x""#, false),
    ] {
        let body = format!(r#"{{"access_token":"a",{members}}}"#);
        assert_eq!(read(&answer(200, &body), &ok, at(0), &[]).is_ok(), expected, "{body}");
        assert!(read(&answer(400, &body), &ok, at(0), &[]).is_err());
    }
    let form = reading("code", true, json!(0));
    assert!(read(&answer(200, "access_token=a&code=0"), &form, at(0), &[]).is_ok());
    assert!(read(&answer(200, "access_token=a&code=1"), &form, at(0), &[]).is_err());
}

#[test]
fn error_codes_are_read_from_configured_and_usual_places() {
    let reading = mapped(Mapping { error: Some(path("meta.code")), ..Mapping::default() });
    for (status, body, class, code) in [
        (200, r#"{"meta":{"code":"invalid_grant"}}"#, ErrorClass::GrantDead, "invalid_grant"),
        (400, r#"{"meta":{"code":4001}}"#, ErrorClass::Config, "4001"),
        (400, r#"{"error":"invalid_grant"}"#, ErrorClass::GrantDead, "invalid_grant"),
        (200, r#"{"access_token":"a","meta":{"code":17}}"#, ErrorClass::Config, "17"),
    ] {
        let error = read(&answer(status, body), &reading, at(0), &[]).unwrap_err();
        assert_eq!((error.class, error.code.as_deref()), (class, Some(code)), "{body}");
    }
    let none = r#"{"access_token":"a","meta":{"code":0}}"#;
    assert!(read(&answer(200, none), &reading, at(0), &[]).is_ok());
    // A success code is not an error if `ok` distinguishes the two.
    let ok = Comparison { path: path("result"), equal: true, literal: json!("0000") };
    let error = Some(path("result"));
    let reading = mapped(Mapping { ok: Some(ok), error, ..Mapping::default() });
    let good = r#"{"access_token":"a","result":"0000"}"#;
    assert!(read(&answer(200, good), &reading, at(0), &[]).is_ok());
    let bad = r#"{"access_token":"a","result":"5031"}"#;
    let error = read(&answer(200, bad), &reading, at(0), &[]).unwrap_err();
    assert_eq!(error.code.as_deref(), Some("5031"));
}

#[test]
fn keep_access_token_accepts_a_success_without_one() {
    let ok = Comparison { path: path("result"), equal: true, literal: json!("0000") };
    let keep = Mapping { ok: Some(ok), keep_access_token: true, ..Mapping::default() };
    let read_with = |mapping: &Mapping, body: &str| {
        read(&answer(200, body), &mapped(mapping.clone()), at(0), &[])
    };
    // Row 18.
    let token = read_with(&keep, r#"{"result":"0000","expires_in":60}"#).unwrap();
    assert!(token.access_token.is_none());
    assert_eq!(token.expires_at, Some(at(60)));
    let token = read_with(&keep, r#"{"result":"0000","access_token":"a2"}"#).unwrap();
    assert_eq!(token.access_token.unwrap().expose(), "a2");
    for body in [r#"{"result":"5031"}"#, "{}", "<html>"] {
        assert!(read_with(&keep, body).is_err(), "{body}");
    }
    let must_have_one = Mapping { keep_access_token: false, ..keep };
    let error = read_with(&must_have_one, r#"{"result":"0000"}"#).unwrap_err();
    assert_eq!(error.class, ErrorClass::Unreadable);
}

#[test]
fn configured_rules_take_precedence() {
    let rule = AnswerRule::default();
    let status = |status| StatusCode::from_u16(status).ok();
    let dead = vec![
        AnswerRule { status: status(404), error: Some("not_found_error".into()), ..rule.clone() },
        AnswerRule { status: status(500), body: Some("token is dead".into()), ..rule.clone() },
        AnswerRule { json: Some((path("fault.code"), json!(12))), ..rule.clone() },
        AnswerRule { status: status(418), ..rule.clone() },
        rule.clone(),
    ];
    let busy = vec![
        AnswerRule { status: status(400), body: Some("exceeded the quota".into()), ..rule.clone() },
        AnswerRule { status: status(418), body: Some("slow".into()), ..rule },
    ];
    let reading = TokenResponseFormat { dead, busy, ..TokenResponseFormat::default() };
    for (number, body, class) in [
        (404, r#"{"error":"not_found_error"}"#, ErrorClass::GrantDead),
        (404, r#"{"error":"Not_Found_Error"}"#, ErrorClass::GrantDead),
        (404, r#"{"error":"other"}"#, ErrorClass::Gateway),
        (410, r#"{"error":"not_found_error"}"#, ErrorClass::Gateway),
        // Row 40: for a server that reports every failure as 500.
        (500, r#"{"message":"the token is dead"}"#, ErrorClass::GrantDead),
        (500, "<html>token is dead", ErrorClass::GrantDead),
        (500, r#"{"message":"oops"}"#, ErrorClass::Transient),
        (200, r#"{"access_token":"a","fault":{"code":12}}"#, ErrorClass::GrantDead),
        (
            400,
            r#"{"error":"invalid_grant","error_description":"exceeded the quota"}"#,
            ErrorClass::Throttled,
        ),
        (400, r#"{"error":"invalid_grant"}"#, ErrorClass::GrantDead),
        (418, "", ErrorClass::GrantDead),
        (418, "slow", ErrorClass::Throttled),
    ] {
        let error = read(&answer(number, body), &reading, at(0), &[]).unwrap_err();
        assert_eq!(error.class, class, "{number} {body}");
        assert_eq!(error.retry_after.is_some(), class == ErrorClass::Throttled, "{number} {body}");
    }
    assert!(read(&answer(200, r#"{"access_token":"a"}"#), &reading, at(0), &[]).is_ok());
}

#[test]
fn bound_tokens_need_a_credential_with_dpop() {
    let body = r#"{"access_token":"a","refresh_token":"r2","token_type":"dpop"}"#;
    let read_with = |dpop, body: &str| {
        read(
            &answer(200, body),
            &TokenResponseFormat { dpop, ..TokenResponseFormat::default() },
            at(0),
            &[],
        )
    };
    assert_eq!(read_with(true, body).unwrap().token_type, TokenType::Dpop);
    let bearer = r#"{"access_token":"a","token_type":"Bearer"}"#;
    assert_eq!(read_with(false, bearer).unwrap().token_type, TokenType::Bearer);
    assert_eq!(read_with(true, bearer).unwrap_err().class, ErrorClass::Unusable);
    // Row 12.
    let error = read_with(false, body).unwrap_err();
    assert_eq!(error.class, ErrorClass::Unusable);
    assert_eq!(error.recovered.unwrap().expose(), "r2");
    for kind in ["\"mac\"", "5", "[]", "true", "\"N_A\""] {
        let body = format!(r#"{{"access_token":"a","token_type":{kind}}}"#);
        assert_eq!(read_with(true, &body).unwrap_err().class, ErrorClass::Unusable, "{kind}");
    }
    for kind in ["null", "\"\""] {
        let body = format!(r#"{{"access_token":"a","token_type":{kind}}}"#);
        assert_eq!(read_with(false, &body).unwrap().token_type, TokenType::Bearer, "{kind}");
    }
}

#[test]
fn a_missing_nonce_asks_for_a_retry() {
    let read_with = |status, body: &str, nonce: &'static str| {
        let mut answer = answer(status, body);
        answer.fields.insert("dpop-nonce", HeaderValue::from_static(nonce));
        read_by_default(&answer, at(0), &[])
    };
    for status in [200, 400, 401] {
        let error = read_with(status, r#"{"error":"use_dpop_nonce"}"#, "n-1").unwrap_err();
        assert_eq!(error.class, ErrorClass::Nonce, "{status}");
        assert_eq!(error.dpop_nonce.as_deref(), Some("n-1"));
    }
    for nonce in ["", "a b", "a\"b", "a\\b"] {
        let error = read_with(400, r#"{"error":"use_dpop_nonce"}"#, nonce).unwrap_err();
        assert_eq!((error.class, error.dpop_nonce), (ErrorClass::Config, None), "{nonce:?}");
    }
    assert_eq!(class_of(400, r#"{"error":"use_dpop_nonce"}"#), ErrorClass::Config);
    let error = read_with(400, r#"{"error":"invalid_grant"}"#, "n-1").unwrap_err();
    assert_eq!(error.class, ErrorClass::GrantDead);
    let token = read_with(200, r#"{"access_token":"a"}"#, "n-2").unwrap();
    assert_eq!(token.dpop_nonce.as_deref(), Some("n-2"));
}

#[test]
fn waits_are_read_in_every_format() {
    let wait = |status, name: &'static str, value: &str, body: &str| {
        let mut answer = answer(status, body);
        answer.fields.insert(name, HeaderValue::from_str(value).unwrap());
        read_by_default(&answer, at(NOW), &[]).unwrap_err().retry_after.map(|wait| wait.as_secs())
    };
    let says = |text: &str| json!({ "error_description": text }).to_string();
    // Row 36, in addition to the test of the fields.
    for (name, value, expected) in [
        ("retry-after", "1.2", 2),
        ("retry-after", "0", 0),
        ("retry-after", "1700000030", 30),
        ("retry-after", "Tue, 14 Nov 2023 22:13:00 GMT", 0),
        ("retry-after", "-5", 60),
        ("retry-after", "NaN", 60),
        ("x-rate-limit-reset", "45", 45),
        ("ratelimit-reset", "1700000050", 50),
        ("fitbit-rate-limit-reset", "2216", 2216),
        ("x-sentry-rate-limit-reset", "1700000030", 30),
        ("x-acme-ratelimit-reset", "9", 9),
        ("x-ratelimit-resets", "9", 60),
        ("x-ratelimit-reset", "1600000000", 0),
        ("x-ratelimit-reset", "junk", 60),
    ] {
        assert_eq!(wait(429, name, value, ""), Some(expected), "{name}: {value}");
    }
    for (text, expected) in [
        ("Try again in 420 seconds", 420),
        ("Try again in 420 seconds.", 420),
        ("try again after 30 Seconds", 30),
        ("Too many requests, come back in 2 minutes!", 120),
        ("rate limit: retry in 15s", 15),
        ("Error 429: try again in 15 seconds", 15),
        ("429: retry after 15 seconds", 15),
        ("Limit is 40 requests in 1 seconds", 60),
        ("exceeded 100 in 30 seconds", 60),
        ("5 attempts in 10 minutes, try again in 3 minutes", 180),
        ("in 1 hour", 3600),
        ("in 9 hours", 3600),
        ("in 99999999999999999999 seconds", 60),
        ("in seconds", 60),
        ("again in", 60),
        ("", 60),
    ] {
        assert_eq!(wait(429, "x-other", "", &says(text)), Some(expected), "{text}");
    }
    assert_eq!(wait(503, "retry-after", "7", ""), Some(7));
    assert_eq!(wait(403, "retry-after", "7", "<html>"), Some(7), "a gateway in between");
    assert_eq!(wait(503, "x-ratelimit-reset", "7", ""), None);
    assert_eq!(wait(400, "retry-after", "7", r#"{"error":"invalid_grant"}"#), None);
    // An error with a wait is temporary.
    assert_eq!(wait(477, "retry-after", "7", r#"{"message":"x"}"#), Some(7));
    assert_eq!(wait(400, "retry-after", "7", r#"{"error":"invalid_request"}"#), Some(7));
    assert_eq!(wait(401, "retry-after", "7", r#"{"error":"invalid_client"}"#), None);
}

#[test]
fn template_members_are_kept_as_text() {
    let raw = ["instance_url", "user.id", "list.1", "live", "note", "id_token", "user", "bad"];
    let reading = TokenResponseFormat {
        raw: raw.into_iter().map(path).collect(),
        ..TokenResponseFormat::default()
    };
    let body = r#"{"access_token":"a","instance_url":"https://eu1.test","user":{"id":42},
        "list":["x","y"],"live":true,"note":null,"bad":"a\r\nb","id_token":"j"}"#;
    let token = read(&answer(200, body), &reading, at(0), &[]).unwrap();
    let kept: Vec<_> = token.raw.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
    let expected = [
        ("id_token", "j"),
        ("instance_url", "https://eu1.test"),
        ("list.1", "y"),
        ("live", "true"),
        ("user.id", "42"),
    ];
    assert_eq!(kept, expected);
    assert!(read_by_default(&answer(200, body), at(0), &[]).unwrap().raw.is_empty());
}

#[test]
fn secrets_are_masked_as_they_were_encoded() {
    let secret = Secret::new("a/b+c d=".to_owned());
    let text = "sent refresh_token=a%2Fb%2Bc+d%3D, which is a/b+c d=";
    let body = json!({ "error": "invalid_request", "error_description": text }).to_string();
    let error = read_by_default(&answer(400, &body), at(0), &[&secret]).unwrap_err();
    assert_eq!(error.description.unwrap(), "sent refresh_token=…, which is …");
}

#[test]
fn paths_have_no_empty_steps() {
    assert_eq!(path("data.0.token").to_string(), "data.0.token");
    for text in ["", ".", "a.", ".a", "a..b"] {
        assert_eq!(MemberPath::parse(text), None, "{text:?}");
    }
}

/// Records store this hash of their configuration, so it must not change between releases.
#[test]
fn fingerprints_without_new_settings_are_stable() {
    let names = crate::template::Names::default();
    let text = |text: &str| crate::template::Template::parse(text, &names).unwrap();
    let config = || {
        let (url, id) = (text("https://as.test/token"), text("acme"));
        crate::oauth::Config::new(crate::oauth::GrantType::RefreshToken, url, id)
    };
    let ok = Comparison { path: path("result"), equal: true, literal: json!("0000") };
    let dead = AnswerRule {
        error: Some("gone".into()),
        json: Some((path("a.b"), json!(7))),
        ..AnswerRule::default()
    };
    let mapping = Mapping {
        access_token: Some(path("data.0.token")),
        unit: Some(TimeUnit::Milliseconds),
        ok: Some(ok),
        keep_access_token: true,
        ..Mapping::default()
    };
    let raw = [path("team.id")].into();
    let reading = TokenResponseFormat {
        mapping,
        dead: vec![dead],
        raw,
        dpop: true,
        ..TokenResponseFormat::default()
    };
    for (reading, expected) in [
        (
            TokenResponseFormat::default(),
            "ef79db24e7f443bb59019ea847d5790c854bfe73d38886c9de53a8564a4bc8be",
        ),
        (reading, "c92544ff8ea05986fd2a777f76bd0a4e89e45527d9edb164e075679b37ddc15a"),
    ] {
        let config = crate::oauth::Config { reading, ..config() };
        assert_eq!(config.fingerprint().as_str(), expected);
    }
}
