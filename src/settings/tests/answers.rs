//! `response`, `dead`, `busy` and `rotation`: from the text of the file to what is made of an answer.
//! The answers are those of the providers in the design's examples of what can be expressed.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, StatusCode};

use super::*;
use crate::oauth::{ErrorClass, GrantError, RawAnswer, Rotation, TokenResponse, read};

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn now() -> SystemTime {
    UNIX_EPOCH + NOW
}

/// What becomes of an answer under a credential with these further keys.
fn answered(keys: &str, status: u16, body: &str) -> Result<TokenResponse, GrantError> {
    let settings = load(&credential(keys)).unwrap_or_else(|problems| panic!("{problems}"));
    let oauth = &settings.credentials.first().unwrap().token.oauth;
    let status = StatusCode::from_u16(status).unwrap();
    let answer =
        RawAnswer { status, fields: HeaderMap::new(), body: body.as_bytes().to_vec(), cut: None };
    read(&answer, &oauth.reading, now(), &[])
}

/// Access token, refresh token and seconds to the expiry.
type Issued<'a> = (Option<&'a str>, Option<&'a str>, Option<u64>);

/// A `static` credential asks nobody; the other examples are all here.
#[test]
fn the_answers_of_sixteen_providers_are_understood() {
    let cases: [(&str, &str, u16, &str, Issued<'_>); 16] = [
        (
            "stripe-app",
            "lifetime = \"1h\"",
            200,
            r#"{"access_token":"at","refresh_token":"rt2","token_type":"bearer","livemode":false}"#,
            (Some("at"), Some("rt2"), None),
        ),
        (
            "tiktok-personal",
            "params = { client_key = \"${client_id}\", client_id = \"\" }",
            200,
            r#"{"access_token":"at","expires_in":86400,"refresh_expires_in":31536000,"refresh_token":"rt2","token_type":"Bearer"}"#,
            (Some("at"), Some("rt2"), Some(86_400)),
        ),
        (
            "clover",
            "response = { expires_at = \"access_token_expiration\" }",
            200,
            r#"{"access_token":"at","access_token_expiration":1700001800,"refresh_token":"rt2","refresh_token_expiration":1731536000}"#,
            (Some("at"), Some("rt2"), Some(1800)),
        ),
        (
            "instagram",
            "",
            200,
            r#"{"access_token":"at","token_type":"bearer","expires_in":5183944}"#,
            (Some("at"), None, Some(5_183_944)),
        ),
        (
            "slack bot",
            "response = { ok = \"ok == true\" }\nrefresh_on = [401, { status = 200, json = \"error\", is = \"token_expired\" }]",
            200,
            r#"{"ok":true,"access_token":"xoxe.xoxb-1","refresh_token":"xoxe-1","expires_in":43200,"token_type":"bot"}"#,
            (Some("xoxe.xoxb-1"), Some("xoxe-1"), Some(43_200)),
        ),
        (
            "coros",
            "response = { ok = \"result == '0000'\", keep_access_token = true }\nlifetime = \"30d\"",
            200,
            r#"{"message":"OK","result":"0000"}"#,
            (None, None, None),
        ),
        (
            "sentry",
            "response = { access_token = \"token\", refresh_token = \"refreshToken\", expires_at = \"expiresAt\" }",
            201,
            r#"{"token":"at","refreshToken":"rt2","expiresAt":"2023-11-15T06:13:20.430Z","id":"1"}"#,
            (Some("at"), Some("rt2"), Some(8 * 3600)),
        ),
        (
            "walmart",
            "client_auth = \"basic\"\nrotation = \"ignore\"\ninject = { \"WM_SEC.ACCESS_TOKEN\" = \"${access_token}\" }",
            200,
            r#"{"access_token":"at","token_type":"Bearer","expires_in":900}"#,
            (Some("at"), None, Some(900)),
        ),
        (
            "okta-cc",
            "scope = \"okta.users.read\"",
            200,
            r#"{"token_type":"Bearer","expires_in":3600,"access_token":"at","scope":"okta.users.read"}"#,
            (Some("at"), None, Some(3600)),
        ),
        (
            "revolut",
            "",
            200,
            r#"{"access_token":"at","token_type":"bearer","expires_in":2399}"#,
            (Some("at"), None, Some(2399)),
        ),
        (
            "zoom-cc",
            "client_auth = \"basic\"\nparams = { grant_type = \"account_credentials\", account_id = \"A1\" }",
            200,
            r#"{"access_token":"at","token_type":"bearer","expires_in":3599,"api_url":"https://api.zoom.us"}"#,
            (Some("at"), None, Some(3599)),
        ),
        (
            "google SA",
            "params = { client_id = \"\" }",
            200,
            r#"{"access_token":"at","expires_in":3599,"token_type":"Bearer"}"#,
            (Some("at"), None, Some(3599)),
        ),
        (
            "github app",
            "response = { access_token = \"token\", expires_at = \"expires_at\" }",
            201,
            r#"{"token":"at","expires_at":"2023-11-14T23:13:20Z","permissions":{"contents":"read"}}"#,
            (Some("at"), None, Some(3600)),
        ),
        (
            "salesforce",
            "",
            200,
            r#"{"access_token":"at","instance_url":"https://eu1.my.salesforce.com","issued_at":"1699999999000","token_type":"Bearer"}"#,
            (Some("at"), None, None),
        ),
        (
            "fiserv",
            "client_auth = \"basic\"\nresponse = { unit = \"ms\" }",
            200,
            r#"{"access_token":"at","token_type":"Bearer","expires_in":"900000"}"#,
            (Some("at"), None, Some(900)),
        ),
        (
            "adp",
            "client_auth = \"basic\"",
            200,
            r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"scope":"api"}"#,
            (Some("at"), None, Some(3600)),
        ),
    ];
    for (name, keys, status, body, expected) in cases {
        let token = answered(keys, status, body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = |secret: &Option<Secret>| secret.as_ref().map(|s| s.expose().to_owned());
        let life = token.expires_at.map(|end| end.duration_since(now()).unwrap().as_secs());
        let expected = (expected.0.map(str::to_owned), expected.1.map(str::to_owned), expected.2);
        assert_eq!(
            (text(&token.access_token), text(&token.refresh_token), life),
            expected,
            "{name}"
        );
    }
}

#[test]
fn their_errors_are_understood_too() {
    use ErrorClass::*;
    let slack = "response = { ok = \"ok == true\" }";
    let coros =
        "response = { ok = \"result == '0000'\", error = \"result\", keep_access_token = true }";
    for (keys, status, body, class) in [
        (slack, 200, r#"{"ok":false,"error":"invalid_refresh_token"}"#, GrantDead),
        (slack, 200, r#"{"ok":false,"error":"ratelimited"}"#, Throttled),
        (slack, 200, r#"{"ok":false}"#, Config),
        (coros, 200, r#"{"message":"token invalid","result":"5031"}"#, Config),
        ("", 200, r#"{"error":"bad_refresh_token"}"#, GrantDead),
        (
            "",
            403,
            r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#,
            GrantDead,
        ),
        ("", 200, r#"{"error":"invalid_code"}"#, GrantDead),
        (
            "",
            400,
            r#"{"error":"Access Denied","error_description":"You have made too many requests continuously."}"#,
            Throttled,
        ),
        (
            "dead = [{ status = 404, error = \"not_found_error\" }]",
            404,
            r#"{"error":"not_found_error"}"#,
            GrantDead,
        ),
        (
            "dead = { error = \"5031\" }\nresponse = { error = \"result\" }",
            200,
            r#"{"result":"5031"}"#,
            GrantDead,
        ),
        (
            "dead = { status = 500, json = \"response.rmsg\", is = \"expired\" }",
            500,
            r#"{"response":{"rmsg":"expired"}}"#,
            GrantDead,
        ),
        (
            "busy = [{ status = 400, body = \"exceeded the rate limit\" }]",
            400,
            "<b>exceeded the rate limit</b>",
            Throttled,
        ),
        ("busy = { error = \"ratelimited\" }", 200, r#"{"error":"ratelimited"}"#, Throttled),
    ] {
        assert_eq!(answered(keys, status, body).unwrap_err().class, class, "{keys} {body}");
    }
}

#[test]
fn members_that_inject_and_query_name_are_kept() {
    let keys = "inject = { Authorization = \"Bearer ${access_token}\", X-Team = \"${raw.team.id}\" }\nquery = { shop = \"${raw.shop}\" }";
    let body = r#"{"access_token":"at","team":{"id":"T1"},"shop":7,"other":"x"}"#;
    let token = answered(keys, 200, body).unwrap();
    let kept: Vec<_> =
        token.raw.iter().map(|(path, text)| (path.as_str(), text.expose())).collect();
    assert_eq!(kept, [("shop", "7"), ("team.id", "T1")]);
}

/// E37 and E45: what the operator can say of ends and waits.
#[test]
fn ends_and_waits_are_read_where_the_file_says() {
    let keys = "response = { refresh_expires_in = \"rt.ttl\", retry_after = \"wait_seconds\" }";
    let token =
        answered(keys, 200, r#"{"access_token":"at","refresh_token":"rt","rt":{"ttl":90}}"#);
    assert_eq!(token.unwrap().refresh_expires_at, Some(now() + Duration::from_secs(90)));
    let error = answered(keys, 400, r#"{"error":"later","wait_seconds":30}"#).unwrap_err();
    assert_eq!(
        (error.class, error.retry_after),
        (ErrorClass::Throttled, Some(Duration::from_secs(30)))
    );
    refused(&credential("response = { retry_after = 30 }"), "7:28", "must be a path of names");
}

#[test]
fn the_longest_token_is_a_limit_of_the_file() {
    let reading = |limits: &str| {
        let settings = load(&format!("{}{limits}", credential(""))).unwrap();
        settings.credentials.first().unwrap().token.oauth.reading.clone()
    };
    assert_eq!(reading("").token_bytes, 64 * 1024);
    assert_eq!(reading("\n[limits]\ntoken_bytes = \"128KiB\"\n").token_bytes, 128 * 1024);
    let few = format!("{}\n[limits]\ntoken_bytes = \"12\"\n", credential(""));
    let said = report(&few);
    assert!(said.contains("`limits.token_bytes` must be from 1024"), "{said}");
}

#[test]
fn an_answer_is_waited_for_as_long_as_the_file_says() {
    for (keys, seconds) in [("", 60), ("timeout = \"7s\"", 7)] {
        let settings = load(&credential(keys)).unwrap();
        let oauth = &settings.credentials.first().unwrap().token.oauth;
        assert_eq!(oauth.timeout, Duration::from_secs(seconds), "{keys}");
    }
}

#[test]
fn the_words_for_rotation_arrive() {
    for (keys, expected) in [
        ("", Rotation::Auto),
        ("rotation = \"auto\"", Rotation::Auto),
        ("rotation = \"ignore\"", Rotation::Ignore),
        ("rotation = \"require\"", Rotation::Require),
    ] {
        let settings = load(&credential(keys)).unwrap();
        assert_eq!(settings.credentials.first().unwrap().token.oauth.rotation, expected, "{keys}");
    }
    refused(
        &credential("rotation = \"never\""),
        "7:12",
        "must be \"auto\", \"ignore\" or \"require\"",
    );
}

#[test]
fn what_describes_no_answer_is_refused_with_its_place() {
    for (keys, place, says) in [
        ("response = \"data\"", "7:12", "must be a table such as"),
        ("response = { acess_token = \"a\" }", "7:14", "did you mean `access_token`?"),
        ("response = { foo = \"a\" }", "7:14", "the keys here are access_token, refresh_token"),
        ("response = { access_token = 5 }", "7:29", "must be a path of names and indexes"),
        ("response = { access_token = \"a..b\" }", "7:29", "such as \"data.0.token\""),
        ("response = { access_token = \"$.a\" }", "7:29", "such as \"data.0.token\""),
        ("response = { access_token = \"a[0]\" }", "7:29", "such as \"data.0.token\""),
        ("response = { access_token = \"a .b\" }", "7:29", "such as \"data.0.token\""),
        ("response = { unit = \"h\" }", "7:21", "must be \"s\" or \"ms\""),
        ("response = { keep_access_token = \"yes\" }", "7:34", "must be true or false"),
        ("response = { ok = \"ok\" }", "7:19", "must be one comparison such as"),
        ("response = { ok = \"ok = true\" }", "7:19", "must be one comparison such as"),
        ("response = { ok = \"ok == yes\" }", "7:19", "must be one comparison such as"),
        ("response = { ok = \"ok == 'a' || b == 'c'\" }", "7:19", "must be one comparison such as"),
        ("response = { ok = \"== 1\" }", "7:19", "must be one comparison such as"),
        ("response = { ok = true }", "7:19", "must be one comparison such as"),
        ("dead = [404]", "7:9", "must be a table such as"),
        ("dead = [{ }]", "7:9", "needs at least one of status"),
        ("dead = [{ status = 99 }]", "7:20", "must be a status from 200 to 599"),
        ("dead = [{ status = \"404\" }]", "7:20", "must be a status from 200 to 599"),
        ("dead = [{ eror = \"x\" }]", "7:11", "did you mean `error`?"),
        ("dead = [{ body = \"\" }]", "7:18", "must be a text that is not empty"),
        ("dead = [{ json = \"a.b\" }]", "7:9", "needs both `json` and `is`"),
        ("busy = [{ status = 400, is = 1 }]", "7:9", "needs both `json` and `is`"),
        ("busy = [{ json = \"a\", is = 1.5 }]", "7:28", "a whole number"),
        ("busy = [{ status = 200 }]", "7:9", "would treat every success as an error"),
    ] {
        refused(&credential(keys), place, says);
    }
    let said = report(&credential("response = { keep_access_token = true }"));
    assert!(said.contains("treats every answer with status 200"), "{said}");
    let report = report(&credential("response = { access_token = \"hunter2[\", unit = \"h\" }"));
    assert!(!report.contains("hunter2") && report.contains("unit = \"h\""), "{report}");
}
