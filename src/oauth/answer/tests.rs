//! Tables of answers and how they are classified.
#![allow(clippy::unwrap_used)]

mod errors;
mod properties;
mod rows;
mod successes;

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

use super::expiry::MAX_LIFETIME;
use super::*;
use crate::oauth::ErrorClass;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn answer(status: u16, body: &str) -> RawAnswer {
    RawAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        fields: HeaderMap::new(),
        body: body.as_bytes().to_vec(),
        cut: None,
    }
}

/// Reads an answer with the default format.
fn read_by_default(
    answer: &RawAnswer,
    now: SystemTime,
    secrets: &[&Secret],
) -> Result<TokenResponse, GrantError> {
    read(answer, &TokenResponseFormat::default(), now, secrets)
}

fn class_of(status: u16, body: &str) -> ErrorClass {
    read_by_default(&answer(status, body), at(0), &[]).unwrap_err().class
}

fn path(text: &str) -> MemberPath {
    MemberPath::parse(text).unwrap()
}

fn mapped(mapping: Mapping) -> TokenResponseFormat {
    TokenResponseFormat { mapping, ..TokenResponseFormat::default() }
}

#[test]
fn errors_are_classified() {
    use ErrorClass::*;
    let html = "<html>We will be back soon</html>";
    for (status, body, class) in [
        // The error code decides, with any status.
        (400, r#"{"error":"temporarily_unavailable"}"#, Transient),
        (200, r#"{"error":"server_error"}"#, Transient),
        (400, r#"{"error":"invalid_request","error_description":"internal_failure"}"#, Transient),
        // Rate limits in all forms.
        (429, "", Throttled),
        (429, html, Throttled),
        (429, r#"{"error":"invalid_grant"}"#, Throttled),
        (400, r#"{"error":"slow_down"}"#, Throttled),
        (
            400,
            r#"{"error":"invalid_request","error_description":"has exceeded the rate limit of 10 tokens"}"#,
            Throttled,
        ),
        (
            400,
            r#"{"error":"Access Denied","error_description":"You have made too many requests"}"#,
            Throttled,
        ),
        (403, r#"{"message":"Try again in 420 seconds"}"#, Throttled),
        (
            400,
            r#"{"error":"invalid_grant","error_description":"too many refresh tokens"}"#,
            GrantDead,
        ),
        (400, r#"{"error":"interaction_required","message":"too many sessions"}"#, UserNeeded),
        // Texts about rate limits only count in client error responses.
        (400, r#"{"error":"Access Denied","error_description":"no"}"#, Config),
        (503, r#"{"message":"too many requests, rate limit"}"#, Transient),
        // Invalid grants, with any status.
        (400, r#"{"error":"invalid_grant"}"#, GrantDead),
        (401, r#"{"error":"invalid_grant"}"#, GrantDead),
        (403, r#"{"error":"invalid_grant"}"#, GrantDead),
        (404, r#"{"error":"invalid_grant"}"#, GrantDead),
        (500, r#"{"error":"invalid_grant"}"#, GrantDead),
        (200, r#"{"error":"bad_refresh_token"}"#, GrantDead),
        (200, "error=bad_refresh_token&error_description=x", GrantDead),
        (200, r#"{"ok":false,"error":"invalid_refresh_token"}"#, GrantDead),
        (400, r#"{"error":{"code":"refresh_token_reused","message":"x"}}"#, GrantDead),
        // User interaction is required.
        (400, r#"{"error":"interaction_required"}"#, UserNeeded),
        (400, r#"{"error":"invalid_grant","suberror":"consent_required"}"#, UserNeeded),
        (401, r#"{"error":"invalid_client","suberror":"consent_required"}"#, Config),
        // The OAuth client or the request.
        (401, r#"{"error":"invalid_client"}"#, Config),
        (400, r#"{"error":"unauthorized_client"}"#, Config),
        (400, r#"{"error":"access_denied"}"#, Config),
        (401, "", Config),
        (400, r#"{"error":"something_new"}"#, Config),
        (422, r#"{"message":"no"}"#, Config),
        (302, "", Config),
        (404, r#"{"error":"not_found_error","message":"Refresh token not found"}"#, Doubtful),
        (400, r#"{"error":"invalid_request"}"#, Doubtful),
        (400, "", Doubtful),
        // Intermediaries and wrong URLs.
        (200, html, Gateway),
        (302, html, Gateway),
        (400, html, Gateway),
        (401, html, Gateway),
        (403, html, Gateway),
        (404, html, Gateway),
        (404, "", Gateway),
        (405, "", Gateway),
        (410, r#"{"error":"other"}"#, Gateway),
        (404, r#"{"message":"no Route matched with those values"}"#, Gateway),
        (
            404,
            r#"{"error":"Not Found","message":"Cannot POST /api/refresh_token","statusCode":404}"#,
            Gateway,
        ),
        (404, r#"{"status":404,"error":"Not Found","path":"/oauth/token"}"#, Gateway),
        (400, "Cannot POST /oauth/token", Gateway),
        (403, r#"{"message":"Cannot POST /oauth/token"}"#, Gateway),
        (403, "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", Gateway),
        // Failures of the server or an intermediary.
        (500, "", Transient),
        (502, html, Transient),
        (503, r#"{"message":"down"}"#, Transient),
        (408, "", Transient),
        (425, "", Transient),
        (403, "", Ambiguous),
        (403, "Forbidden", Ambiguous),
        (600, "", Ambiguous),
        (200, "<a href=?at=1&error=invalid_grant>", Gateway),
        (503, "<a href=?at=1&error=invalid_grant>", Transient),
        // Successes without tokens.
        (200, "", Unreadable),
        (200, "[]", Unreadable),
        (200, "null", Unreadable),
        (204, "", Unreadable),
        (200, "Bad gateway", Unreadable),
        (200, "{}", Unreadable),
        (200, r#"{"access_token":5}"#, Unreadable),
        (200, r#"{"access_token":""}"#, Unreadable),
        (200, r#"{"access_token":"a","access_token":"b"}"#, Unreadable),
        // Outside of JSON, duplicates are ambiguous.
        (200, "access_token=a&refresh_token=b&refresh_token=c", Unreadable),
        // WeChat and others use error numbers.
        (200, r#"{"errcode":40030,"errmsg":"invalid refresh_token"}"#, GrantDead),
        (200, r#"{"err_code":"40030","err_msg":"refresh_token expired"}"#, GrantDead),
        (200, r#"{"errcode":40029,"errmsg":"invalid code"}"#, Config),
        (200, r#"{"errcode":0,"errmsg":"ok"}"#, Unreadable),
        (200, r#"{"code":20026,"msg":"The refresh token has been revoked"}"#, GrantDead),
        (200, r#"{"code":0,"msg":"the old refresh token has been revoked"}"#, Unreadable),
        (200, r#"{"code":200,"msg":"the old refresh token has been revoked"}"#, Unreadable),
        (426, "", Config),
        (505, "", Config),
        // Tokens that cannot be sent.
        (200, "{\"access_token\":\"a\\r\\nX: y\"}", Unusable),
        (200, r#"{"access_token":"ключ"}"#, Unusable),
        (200, r#"{"access_token":"a","token_type":"DPoP"}"#, Unusable),
        (200, r#"{"access_token":"a","token_type":"mac"}"#, Unusable),
        (200, r#"{"access_token":"a","token_type":"N_A"}"#, Unusable),
    ] {
        assert_eq!(class_of(status, body), class, "{status} {body}");
    }
}

#[test]
fn tokens_are_read_from_json_with_any_content_type_and_from_forms() {
    for (status, body) in [
        (200, r#"{"access_token":"a1","refresh_token":"r1"}"#),
        (201, r#"{"access_token":"a1","refresh_token":"r1","error":null}"#),
        (200, r#"{"access_token":"a1","refresh_token":"r1","error":""}"#),
        (200, "\u{feff}{\"access_token\":\"a1\",\"refresh_token\":\"r1\"}"),
        (200, "access_token=a1&refresh_token=r1&token_type=bearer"),
    ] {
        let token = read_by_default(&answer(status, body), at(0), &[]).unwrap();
        assert_eq!(token.access_token.unwrap().expose(), "a1", "{body}");
        assert_eq!(token.refresh_token.unwrap().expose(), "r1", "{body}");
    }
}

#[test]
fn lifetimes_are_numbers_or_text() {
    let lifetime = |json: &str| {
        let body = format!(r#"{{"access_token":"a","expires_in":{json}}}"#);
        let expires_at = read_by_default(&answer(200, &body), at(1000), &[]).unwrap().expires_at?;
        Some(expires_at.duration_since(at(1000)).unwrap().as_secs())
    };
    for json in ["3600", "3600.0", "3.6e3", "\"3600\"", "\"3600.0\"", "\"3.6e3\"", "\" 3600 \""] {
        assert_eq!(lifetime(json), Some(3600), "{json}");
    }
    for json in
        ["null", "0", "-1", "\"abc\"", "\"\"", "[]", "\"NaN\"", "true", "\"inf\"", "\"0:00:00\""]
    {
        assert_eq!(lifetime(json), None, "{json}");
    }
    assert_eq!(lifetime("1e18"), Some(MAX_LIFETIME.as_secs()));
}

#[test]
fn the_token_type_is_bearer_in_any_case_or_absent() {
    for kind in [
        r#","token_type":"Bearer""#,
        r#","token_type":"bearer""#,
        r#","token_type":"BEARER""#,
        r#","token_type":"BearerToken""#,
        r#","token_type":"bot""#,
        r#","token_type":"user""#,
        "",
    ] {
        assert!(
            read_by_default(&answer(200, &format!(r#"{{"access_token":"a"{kind}}}"#)), at(0), &[])
                .is_ok()
        );
    }
}

#[test]
fn omitted_empty_and_null_refresh_tokens_are_absent() {
    for member in ["", r#","refresh_token":"""#, r#","refresh_token":null"#] {
        let body = format!(r#"{{"access_token":"a"{member}}}"#);
        assert!(read_by_default(&answer(200, &body), at(0), &[]).unwrap().refresh_token.is_none());
    }
}

#[test]
fn a_new_refresh_token_is_recovered_from_an_unusable_answer() {
    let body = r#"{"access_token":"a","token_type":"DPoP","refresh_token":"r2"}"#;
    let error = read_by_default(&answer(200, body), at(0), &[]).unwrap_err();
    assert_eq!(error.recovered.unwrap().expose(), "r2");
}

#[test]
fn malformed_forms_are_read() {
    let token = || Mapping { access_token: Some(path("token")), ..Mapping::default() };
    for (mapping, body) in [
        (Mapping::default(), "access_token=a&refresh_token=RT2\n"),
        (Mapping::default(), "access_token=a&refresh_token=RT2\r\n "),
        (Mapping::default(), "\naccess_token=a&refresh_token=RT2"),
        (Mapping::default(), "access_token=a&scope=a b&refresh_token=RT2"),
        (token(), "token=a&refresh_token=RT2"),
        (token(), "scope=a b&token=a&refresh_token=RT2\n"),
    ] {
        let tokens = read(&answer(200, body), &mapped(mapping), at(0), &[]).unwrap();
        assert_eq!(tokens.access_token.unwrap().expose(), "a", "{body}");
        assert_eq!(tokens.refresh_token.unwrap().expose(), "RT2", "{body}");
    }
    let without = read_by_default(&answer(200, "refresh_token=RT2"), at(0), &[]).unwrap_err();
    assert_eq!(
        (without.class, without.recovered.unwrap().expose()),
        (ErrorClass::Unreadable, "RT2")
    );
    let error = "error=invalid_grant&error_description=it is gone\n";
    assert_eq!(class_of(200, error), ErrorClass::GrantDead);
    let status = mapped(Mapping { error: Some(path("code")), ..Mapping::default() });
    let error = read(&answer(200, "code=invalid_grant"), &status, at(0), &[]).unwrap_err();
    assert_eq!(error.class, ErrorClass::GrantDead);
    for prose in
        ["error=the backend is away", "an access_token=a is here", "a=b", "access_token=a\nb=c"]
    {
        assert_eq!(class_of(200, prose), ErrorClass::Unreadable, "{prose}");
    }
}

#[test]
fn rate_limits_last_as_long_as_the_server_says() {
    let now = at(1_700_000_000);
    let wait = |name: &'static str, value: &str, body: &str| {
        let mut answer = answer(429, body);
        answer.fields.insert(name, HeaderValue::from_str(value).unwrap());
        read_by_default(&answer, now, &[]).unwrap_err().retry_after.unwrap().as_secs()
    };
    assert_eq!(wait("retry-after", "120", ""), 120);
    assert_eq!(wait("retry-after", "999999", ""), 3600);
    assert_eq!(wait("retry-after", &httpdate::fmt_http_date(at(1_700_000_030)), ""), 30);
    assert_eq!(wait("retry-after", "garbage", ""), 60);
    assert_eq!(wait("x-ratelimit-reset", "45", ""), 45);
    assert_eq!(wait("x-ratelimit-reset", "1700000050", ""), 50);
    assert_eq!(wait("x-other", "", r#"{"error_description":"Try again in 420 seconds"}"#), 420);
}

#[test]
fn retry_after_is_limited_to_one_hour() {
    let mut answer = answer(503, "");
    answer.fields.insert("retry-after", HeaderValue::from_static("999999"));
    let error = read_by_default(&answer, at(0), &[]).unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(3600)));
}

/// Invisible characters may be part of the secret or replace its spaces.
#[test]
fn secrets_are_masked_before_and_after_cleaning() {
    for secret in ["geheim\twort", "geheim wort"] {
        let secret = Secret::new(secret.to_owned());
        let body = serde_json::json!({"error": "x", "message": "geheim\twort is wrong"});
        let error = read_by_default(&answer(400, &body.to_string()), at(0), &[&secret]);
        let shown = format!("{:?}", error.unwrap_err());
        assert!(!shown.contains("wort") && shown.contains("is wrong"), "{shown}");
    }
}

#[test]
fn server_messages_are_truncated_escaped_and_masked() {
    let secret = Secret::new("s3cret-token".to_owned());
    let text = format!("\u{1b}[31m{} s3cret-token", "x".repeat(185));
    let body = serde_json::json!({ "error": "invalid_grant", "error_description": text });
    let error = read_by_default(&answer(400, &body.to_string()), at(0), &[&secret]).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("s3cret-token") && !shown.contains('\u{1b}'), "{shown}");
    let long = serde_json::json!({ "error": "x", "error_description": "y".repeat(1000) });
    let error = read_by_default(&answer(400, &long.to_string()), at(0), &[]).unwrap_err();
    assert!(error.description.unwrap().chars().count() <= 201);
}

#[test]
fn hostile_bodies_are_bounded_and_never_panic() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for body in
        [deep.as_str(), "{\"access_token\":", "\u{0}", "a=b", "{\"error\":{}}", "{\"error\":true}"]
    {
        assert!(read_by_default(&answer(200, body), at(0), &[]).is_err());
    }
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(read_by_default(&RawAnswer { body: utf16, ..answer(200, "") }, at(0), &[]).is_err());
}

#[test]
fn secrets_are_masked_in_every_spelling() {
    let secret = Secret::new("p@s/ w+é\"<x".to_owned());
    for said in [
        "p@s/ w+é\"<x",
        "p%40s%2F+w%2B%C3%A9%22%3Cx",
        "p%40s%2F%20w%2B%C3%A9%22%3Cx",
        "p%40s%2f%20w%2b%c3%a9%22%3cx",
        "p@s/ w+é\\\"<x",
        "p@s\\/ w+\\u00e9\\\"<x",
        "p@s/ w+\\u00e9\\\"<x",
        "p@s/ w+é&quot;&lt;x",
    ] {
        let body = serde_json::json!({ "error": "e", "error_description": format!("<{said}>") });
        let error =
            read_by_default(&answer(400, &body.to_string()), at(0), &[&secret]).unwrap_err();
        assert_eq!(error.description.unwrap(), "<…>", "{said}");
    }
}
