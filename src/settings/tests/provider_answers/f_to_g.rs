//! Fanatics to Google.

use super::*;

pub(super) const PROVIDERS: &[ProviderAnswers] = &[
    ProviderAnswers {
        name: "fanatics",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","expires_in":3600,"id_token":"x","token_type":"Bearer","refresh_token":"rt"}"#,
                ("at", Some("rt"), Some(3600)),
            ),
            // The statuses are documented (400, 401, 404, 429, 500); the codes are those of RFC 6749.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"The refresh token is invalid"}"#,
            ),
            dead(401, r#"{"error":"invalid_grant"}"#),
            refused(401, r#"{"error":"invalid_client"}"#),
            refused(404, r#"{"message":"Cannot POST /api/oauth2/tokens"}"#),
            passing(500, r#"{"message":"Internal server error"}"#),
            throttled(60, 429, &[], r#"{"message":"Too many requests"}"#),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "fiserv",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"BearerToken","expires_in":"900000"}"#,
                ("at", None, Some(900)),
            ),
            // The shape of the Apigee gateway.
            refused(
                401,
                r#"{"fault":{"faultstring":"Invalid client identifier","detail":{"errorcode":"oauth.v2.InvalidClientIdentifier"}}}"#,
            ),
            passing(
                503,
                r#"{"fault":{"faultstring":"The Service is temporarily unavailable","detail":{"errorcode":"messaging.adaptors.http.flow.ServiceUnavailable"}}}"#,
            ),
            throttled(
                60,
                429,
                &[],
                r#"{"fault":{"faultstring":"Spike arrest violation. Allowed rate : 10ps","detail":{"errorcode":"policies.ratelimit.SpikeArrestViolation"}}}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "fitbit",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","expires_in":28800,"refresh_token":"rt2","scope":"weight","token_type":"Bearer","user_id":"1"}"#,
                ("at", Some("rt2"), Some(28_800)),
            ),
            // home-assistant/core#141223, aarondcoleman/Fitbit.NET#320.
            dead(
                400,
                r#"{"errors":[{"errorType":"invalid_grant","message":"Refresh token invalid: x. Visit https://dev.fitbit.com/docs/oauth2 for more information on the Fitbit Web API authorization process."}],"success":false}"#,
            ),
            refused(
                401,
                r#"{"errors":[{"errorType":"invalid_client","message":"Invalid authorization header format."}],"success":false}"#,
            ),
            // lukasolson/fitbit-node#7.
            refused(
                400,
                r#"{"errors":[{"errorType":"invalid_request","message":"Missing parameters: grant_type"}],"success":false}"#,
            ),
            // developers.google.com/health/about: switched off on 2 November 2026.
            refused(410, r#"{"errors":[{"errorType":"gone","message":"Gone"}],"success":false}"#),
            passing(
                500,
                r#"{"errors":[{"errorType":"system","message":"Oops!"}],"success":false}"#,
            ),
            throttled(
                2216,
                429,
                &[
                    ("fitbit-rate-limit-limit", "150"),
                    ("fitbit-rate-limit-remaining", "0"),
                    ("fitbit-rate-limit-reset", "2216"),
                ],
                r#"{"errors":[{"errorType":"rate_limit","message":"Too Many Requests"}],"success":false}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "github-app",
        answers: &[
            success(
                201,
                r#"{"token":"ghs_at","expires_at":"2023-11-14T23:13:20Z","permissions":{"contents":"read"},"repository_selection":"all"}"#,
                ("ghs_at", None, Some(3600)),
            ),
            // backstage/backstage#12887, actions/create-github-app-token#153.
            refused(
                401,
                r#"{"message":"A JSON web token could not be decoded","documentation_url":"https://docs.github.com/rest","status":"401"}"#,
            ),
            // A clock that is wrong.
            refused(
                401,
                r#"{"message":"'Expiration time' claim ('exp') is too far in the future","documentation_url":"https://docs.github.com/rest"}"#,
            ),
            // actions/create-github-app-token#76: the app was uninstalled.
            refused(
                404,
                r#"{"message":"Not Found","documentation_url":"https://docs.github.com/rest","status":"404"}"#,
            ),
            refused(
                403,
                r#"{"message":"This installation has been suspended","documentation_url":"https://docs.github.com/rest"}"#,
            ),
            passing(502, r#"{"message":"Server Error"}"#),
            passing(503, "<!DOCTYPE html><title>Unicorn! &middot; GitHub</title>"),
            throttled(
                60,
                403,
                &[("retry-after", "60")],
                r#"{"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again.","documentation_url":"https://docs.github.com/rest"}"#,
            ),
            throttled(
                90,
                403,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1700000090")],
                r#"{"message":"API rate limit exceeded for installation ID 1.","documentation_url":"https://docs.github.com/rest"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "github-user",
        answers: &[
            success(
                200,
                r#"{"access_token":"ghu_at","expires_in":28800,"refresh_token":"ghr_2","refresh_token_expires_in":15897600,"scope":"","token_type":"bearer"}"#,
                ("ghu_at", Some("ghr_2"), Some(28_800)),
            ),
            success(
                200,
                "access_token=ghu_at&expires_in=28800&refresh_token=ghr_2&refresh_token_expires_in=15897600&scope=&token_type=bearer",
                ("ghu_at", Some("ghr_2"), Some(28_800)),
            ),
            dead(
                200,
                r#"{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect or expired.","error_uri":"https://docs.github.com"}"#,
            ),
            dead(
                200,
                "error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect+or+expired.",
            ),
            // PhysShell/review-governance: measured for a used and for a revoked refresh token, too. A wrong
            // secret looks the same, so nothing is thrown away.
            refused(
                200,
                r#"{"error":"incorrect_client_credentials","error_description":"The client_id and/or client_secret passed are incorrect."}"#,
            ),
            passing(503, "<!DOCTYPE html><title>Unicorn! &middot; GitHub</title>"),
            throttled(
                60,
                429,
                &[("retry-after", "60")],
                "<html><title>Rate limit &middot; GitHub</title><p>You have exceeded a secondary rate limit.</p></html>",
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "gitlab",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"Bearer","expires_in":7200,"refresh_token":"rt2","scope":"api","created_at":1700000000}"#,
                ("at", Some("rt2"), Some(7200)),
            ),
            // Dynatrace/ace-box#580.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used in the authorization request, or was issued to another client."}"#,
            ),
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"Client authentication failed due to unknown client, no client authentication included, or unsupported authentication method."}"#,
            ),
            passing(502, "<!DOCTYPE html><title>GitLab is not responding (502)</title>"),
            // docs.gitlab.com, "User and IP rate limits".
            throttled(
                48,
                429,
                &[("ratelimit-reset", "1700000048"), ("retry-after", "48")],
                "Retry later\n",
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "google-service-account",
        answers: &[
            success(
                200,
                r#"{"access_token":"ya29.at","expires_in":3599,"token_type":"Bearer"}"#,
                ("ya29.at", None, Some(3599)),
            ),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Invalid grant: account not found"}"#,
            ),
            refused(
                401,
                r#"{"error":"unauthorized_client","error_description":"Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested."}"#,
            ),
            // googleapis/google-api-php-client#1501: a clock that is wrong.
            refused(
                400,
                r#"{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values and use a clock with skew to account for clock differences between systems."}"#,
            ),
            passing(500, r#"{"error":"internal_failure","error_description":"ByteStore Error"}"#),
            throttled(
                60,
                429,
                &[],
                r#"{"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota).","status":"RESOURCE_EXHAUSTED"}}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "google-user",
        answers: &[
            success(
                200,
                r#"{"access_token":"ya29.at","expires_in":3599,"scope":"https://www.googleapis.com/auth/drive","token_type":"Bearer"}"#,
                ("ya29.at", None, Some(3599)),
            ),
            // GeneralTask/task-manager#997.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#,
            ),
            // dust-tt/dust#8144.
            dead(400, r#"{"error":"invalid_grant","error_description":"Bad Request"}"#),
            // A session policy of the domain: a person has to log in.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"reauth related error (invalid_rapt)","error_uri":"https://support.google.com/a/answer/9368756","error_subtype":"invalid_rapt"}"#,
            ),
            refused(401, r#"{"error":"invalid_client","error_description":"Unauthorized"}"#),
            refused(
                401,
                r#"{"error":"deleted_client","error_description":"The OAuth client was deleted."}"#,
            ),
            passing(500, r#"{"error":"internal_failure","error_description":"ByteStore Error"}"#),
            passing(503, "<html><title>Error 503 (Service Unavailable)!!1</title></html>"),
            throttled(
                60,
                403,
                &[],
                r#"{"error":"rate_limit_exceeded","error_description":"Rate Limit Exceeded"}"#,
            ),
            throttled(
                60,
                429,
                &[],
                r#"{"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota).","status":"RESOURCE_EXHAUSTED"}}"#,
            ),
        ],
        lacks: &[],
    },
];
