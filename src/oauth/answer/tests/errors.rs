//! Classification of errors, including vendor-specific ones and texts that could be misread.

use super::*;
use serde_json::json;

#[test]
fn invalid_refresh_tokens_are_recognised_in_every_dialect() {
    for (status, body) in [
        // E14.
        (401, r#"{"error":"invalid_token","error_description":"Invalid refresh token"}"#),
        (403, r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#),
        (
            400,
            r#"{"error":{"message":"Error validating access token","type":"OAuthException","code":190}}"#,
        ),
        // Codes in every spelling and place.
        (400, r#"{"error":"INVALID_GRANT"}"#),
        (400, r#"{"error":"invalidGrant"}"#),
        (400, r#"{"error":{"code":"invalid_grant"}}"#),
        (400, r#"{"error":{"type":"expired_token"}}"#),
        (400, r#"{"code":"invalid_grant"}"#),
        (400, r#"{"errorCode":"invalid_grant"}"#),
        (400, r#"{"ErrorCode":"invalid_grant"}"#),
        (401, r#"{"errors":[{"errorType":"invalid_grant","message":"x"}],"success":false}"#),
        (400, r#"{"errors":[{"code":"invalid_grant"}]}"#),
        (
            400,
            r#"{"fault":{"faultstring":"x","detail":{"errorcode":"oauth.v2.InvalidRefreshToken"}}}"#,
        ),
        (400, r#"{"fault":{"code":"refresh_token_expired"}}"#),
        (400, r#"{"__type":"com.amazon#InvalidGrantException"}"#),
        (400, r#"{"error":"Bad Request","code":"invalid_grant"}"#),
        (200, r#"{"code":"invalid_grant","message":"x"}"#),
        (400, "error=Invalid_Grant&x=y"),
        // Texts.
        (400, r#"{"error":"invalid_request","error_description":"The refresh token is expired."}"#),
        (
            401,
            r#"{"error":"invalid_request","message":"The refresh token is invalid.","hint":"Token has been revoked"}"#,
        ),
        (400, r#"{"__type":"NotAuthorizedException","message":"Refresh Token has expired"}"#),
        (401, r#"{"statusCode":401,"message":"Invalid refresh token","error":"Unauthorized"}"#),
        (400, r#"{"ErrorCode":"invalid_request","Error":"Refresh Token expired"}"#),
        (401, r#"{"reason":"refreshToken not found"}"#),
        (403, r#"{"errors":[{"message":"unknown refresh-token"}]}"#),
        (400, r#"{"error":{"message":"Refresh token revoked"}}"#),
        (
            400,
            r#"{"message":"Bad Request","errors":[{"resource":"RefreshToken","field":"refresh_token","code":"invalid"}]}"#,
        ),
        (401, "Invalid refresh token"),
        (
            401,
            r#"{"error":"invalid_request","error_description":"This request requires an active refresh_token"}"#,
        ),
        (401, r#"{"message":"no active refresh token"}"#),
        (401, r#"{"message":"An active refresh token is required"}"#),
        (401, r#"{"detail":"Given refresh token does not exist"}"#),
        (
            400,
            r#"{"error":"invalid_request","error_description":"Invalid \"refresh_token\" in request."}"#,
        ),
        // Something other than a refresh token is required.
        (
            400,
            r#"{"error":"invalid_request","error_description":"The refresh token has expired. Re-authentication is required."}"#,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"Refresh token expired, login required"}"#,
        ),
        (401, r#"{"message":"refresh_token has been revoked; a new authorization is required"}"#),
        (401, r#"{"message":"The refresh token is missing or has expired"}"#),
        (
            400,
            r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid, user consent required"}"#,
        ),
        (400, r#"{"message":"missing or invalid refresh token"}"#),
        (401, r#"{"message":"Invalid or missing refresh_token."}"#),
        (
            400,
            r#"{"error":"invalid_request","error_description":"The refresh token has already been redeemed; sign-in is required"}"#,
        ),
        (400, r#"{"message":"Required: a new login. The refresh token was already used."}"#),
        (403, r#"{"message":"This refresh token is no longer valid, a login is required"}"#),
        (400, r#"{"message":"Unknown refresh token, reauthentication required"}"#),
        (
            400,
            r#"{"error":"invalid_request","error_description":"The request is missing a required parameter, includes an invalid parameter value, includes a parameter more than once, or is otherwise malformed.","error_hint":"The refresh token has expired"}"#,
        ),
        // Advice to users differs from the meaning for clients.
        (
            400,
            r#"{"error":"invalid_grant","error_description":"Refresh token expired. Please try again."}"#,
        ),
        (
            400,
            r#"{"error":"invalid_grant","error_description":"The provided authorization grant (e.g., authorization code, resource owner credentials) or refresh token is invalid, expired, revoked, does not match the redirection URI used in the authorization request, or was issued to another client."}"#,
        ),
        (
            400,
            r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#,
        ),
        (400, r#"{"error":"invalid_grant","error_description":"expired access/refresh token"}"#),
        (400, r#"{"error":"invalid_grant","error_description":"Session not active"}"#),
        (400, r#"{"error":"invalid_grant","error_description":"account blocked"}"#),
        (
            400,
            r#"{"error":"invalid_grant","error_description":"\"exp\" claim timestamp check failed"}"#,
        ),
    ] {
        assert_eq!(class_of(status, body), ErrorClass::GrantDead, "{status} {body}");
    }
}

#[test]
fn other_errors_do_not_invalidate_the_refresh_token() {
    use ErrorClass::*;
    let text =
        |code: &str, text: &str| json!({ "error": code, "error_description": text }).to_string();
    for (status, code, said, class) in [
        // The client.
        (401, "invalid_client", "Invalid client: refresh token revoked", Config),
        (401, "Invalid_Client", "the refresh token is unknown to this client", Config),
        (400, "invalid_request", "client_id is invalid for this refresh token", Doubtful),
        (401, "", "Invalid client credentials for refresh token", Config),
        (400, "unauthorized_client", "the client is not allowed to use this grant", Config),
        (400, "unauthorized_client", "unknown grant type refresh_token", Config),
        (400, "unsupported_grant_type", "refresh_token grant is unknown", Config),
        // The request.
        (400, "invalid_request", "Missing refresh token", Config),
        (400, "invalid_request", "refresh_token is required", Config),
        (400, "", "Invalid request: refresh_token must be provided", Config),
        (
            400,
            "invalid_request",
            "The request is missing a required parameter, includes an invalid parameter value, or is otherwise malformed. Check the `refresh_token` parameter",
            Config,
        ),
        (400, "invalid_request", "Missing required parameter: refresh_token", Config),
        (400, "invalid_request", "Missing or invalid parameter: refresh_token", Config),
        (400, "", "refresh token not found in request body", Config),
        (400, "", "The refresh token cannot be empty", Config),
        (
            400,
            "invalid_request",
            "a required parameter (refresh_token) is missing or empty",
            Config,
        ),
        (400, "invalid_request", "unknown parameter", Doubtful),
        // The stock phrase of RFC 6749 has no meaning.
        (
            400,
            "invalid_request",
            "The request is missing a required parameter, includes an invalid parameter value, includes a parameter more than once, or is otherwise malformed. Failed to refresh token because of multiple concurrent requests using the same token which is not allowed.",
            Busy,
        ),
        (
            400,
            "invalid_request",
            "The request is missing a required parameter, includes an unsupported parameter value (other than grant type), repeats a parameter, or is otherwise malformed. refresh_token",
            Doubtful,
        ),
        (400, "invalid_scope", "the refresh token has expired scopes", Config),
        // Rate limits.
        (400, "invalid_request", "Too many invalid refresh token requests", Throttled),
        (403, "unauthorized_client", "rate limit for invalid refresh tokens", Throttled),
        (401, "", "Try again in 30 seconds: unknown refresh token", Throttled),
        (400, "rate_limit_exceeded", "", Throttled),
        (400, "RequestThrottled", "", Throttled),
        (400, "invalid_grant", "Rate limit exceeded", Throttled),
        (400, "invalid_grant", "login rate exceeded", Throttled),
        (429, "temporarily_unavailable", "There are too many incoming requests.", Throttled),
        (429, "server_error", "", Throttled),
        (429, "invalid_grant", "", Throttled),
        // E13 and other temporary failures.
        (400, "invalid_grant", "AADSTS50196: The server encountered a loop", Busy),
        (423, "", "Locked", Busy),
        (400, "invalid_grant", "token request is already being processed", Busy),
        (400, "invalid_grant", "Refresh token: another request is in progress", Busy),
        (400, "invalid_grant", "Temporarily unable, please try again", Busy),
        (409, "", "The token is being processed", Busy),
        (400, "authorization_pending", "", Busy),
        (400, "invalid_grant", "Token is not yet valid", Config),
        (400, "invalid_grant", "check the clock of the client", Config),
        (400, "invalid_grant", "Invalid JWT: check your iat and exp values", Config),
        (400, "invalid_grant", "the client assertion has expired", Config),
        (400, "invalid_grant", "Invalid token issuer. Expected 'a', but was 'b'", Config),
        (400, "invalid_grant", "Audience validation failed", Config),
        (400, "invalid_grant", "audience is invalid", Config),
        (400, "invalid_grant", "ip restricted", Config),
        (400, "invalid_grant", "user account is locked", Config),
        (401, "invalid_token", "the subject_token is invalid", Config),
        (400, "unknown_error", "Something went wrong, please retry", Transient),
        (400, "", "An unexpected error occurred. Try again later.", Transient),
        (400, "internal_error", "", Transient),
        (200, "fatal_error", "", Transient),
        (200, "request_timeout", "", Transient),
        (400, "backendError", "", Transient),
        (400, "SYSTEM_ERROR", "", Transient),
        (400, "unknown_error", "no", Config),
        // Statuses that do not judge a refresh token.
        (404, "", "Invalid refresh token", Doubtful),
        (500, "", "Invalid refresh token", Transient),
        (422, "", "The refresh token is invalid", Config),
        // Paths and documents do not describe a token.
        (400, "", "not found: /v1/refresh_token", Gateway),
        (401, "", "see https://as.test/errors/invalid_refresh_token", Config),
    ] {
        assert_eq!(class_of(status, &text(code, said)), class, "{status} {code} {said}");
    }
    let oauth_exception =
        |code| json!({"error":{"type":"OAuthException","code":code,"message":"x"}});
    for (code, class) in [(190, GrantDead), (4, Throttled), (2, Transient), (100, Config)] {
        assert_eq!(class_of(400, &oauth_exception(code).to_string()), class, "{code}");
    }
}

#[test]
fn truncated_texts_do_not_invalidate_the_grant() {
    for body in [
        r#"{"error":"invalid_grant","error_description":"token request is already b"#,
        r#"{"error":"invalid_grant""#,
    ] {
        assert_eq!(class_of(400, body), ErrorClass::Doubtful, "{body}");
    }
    assert_eq!(class_of(400, r#"{"error":"invalid_client","er"#), ErrorClass::Config);
    assert_eq!(class_of(400, "Error: {\"error\":\"invalid_grant\"}"), ErrorClass::GrantDead);
}

#[test]
fn the_most_specific_code_is_shown() {
    for (body, code) in [
        (r#"{"error":"Bad Request","code":"invalid_grant"}"#, Some("invalid_grant")),
        (r#"{"status":400,"error":"Bad Request","errorCode":"E12"}"#, Some("E12")),
        (r#"{"error":{"message":"x"},"code":7}"#, Some("7")),
        (r#"{"error":{"message":"x"}}"#, Some("error")),
        (r#"{"code":400}"#, Some("400")),
        (r#"{"message":"x"}"#, None),
    ] {
        let error = read_by_default(&answer(400, body), at(0), &[]).unwrap_err();
        assert_eq!(error.code.as_deref(), code, "{body}");
    }
}

/// E45: the configured place of the wait.
#[test]
fn waits_are_read_from_the_configured_member() {
    let place = Mapping { retry_after: Some(path("meta.wait_seconds")), ..Mapping::default() };
    let reading = mapped(place);
    for (status, body, class, wait) in [
        (
            400,
            r#"{"error":"busy_now","meta":{"wait_seconds":30}}"#,
            ErrorClass::Throttled,
            Some(30),
        ),
        (429, r#"{"meta":{"wait_seconds":"45"}}"#, ErrorClass::Throttled, Some(45)),
        (503, r#"{"meta":{"wait_seconds":7.2}}"#, ErrorClass::Transient, Some(8)),
        (200, r#"{"meta":{"wait_seconds":30}}"#, ErrorClass::Throttled, Some(30)),
        (400, r#"{"meta":{"wait_seconds":"in 2 minutes"}}"#, ErrorClass::Throttled, Some(120)),
        (400, r#"{"meta":{"wait_seconds":99999}}"#, ErrorClass::Throttled, Some(3600)),
        (
            400,
            r#"{"error":"invalid_grant","meta":{"wait_seconds":30}}"#,
            ErrorClass::Throttled,
            Some(30),
        ),
        (
            401,
            r#"{"error":"invalid_client","meta":{"wait_seconds":30}}"#,
            ErrorClass::Config,
            Some(30),
        ),
        (
            400,
            r#"{"error":"invalid_grant","meta":{"wait_seconds":0}}"#,
            ErrorClass::GrantDead,
            None,
        ),
        (400, r#"{"error":"invalid_request","wait_seconds":30}"#, ErrorClass::Doubtful, None),
        (429, r#"{"meta":{"wait_seconds":null}}"#, ErrorClass::Throttled, Some(60)),
    ] {
        let error = read(&answer(status, body), &reading, at(0), &[]).unwrap_err();
        let seconds = error.retry_after.map(|wait| wait.as_secs());
        assert_eq!((error.class, seconds), (class, wait), "{status} {body}");
    }
}

/// E25: independent of the server's clock.
#[test]
fn dates_are_relative_to_the_date_of_the_answer() {
    let now = at(1_700_000_000);
    let date = |seconds| httpdate::fmt_http_date(at(seconds));
    for (status, name, value, by_server, expected) in [
        (503, "retry-after", date(1_699_999_460), 1_699_999_400, 60),
        (503, "retry-after", date(1_700_000_660), 1_700_000_600, 60),
        (429, "x-ratelimit-reset", "1699999460".to_owned(), 1_699_999_400, 60),
        (429, "retry-after", "600".to_owned(), 1_699_999_400, 600),
    ] {
        let mut answer = answer(status, "");
        answer.fields.insert(name, HeaderValue::from_str(&value).unwrap());
        answer.fields.insert("date", HeaderValue::from_str(&date(by_server)).unwrap());
        let error = read_by_default(&answer, now, &[]).unwrap_err();
        assert_eq!(error.retry_after, Some(Duration::from_secs(expected)), "{name}: {value}");
    }
    let mut gateway = answer(404, "<html>");
    gateway.fields.insert("retry-after", HeaderValue::from_static("7"));
    let error = read_by_default(&gateway, now, &[]).unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
}
