//! ADP to Microsoft Entra.

use super::What::{Dead, Throttled};
use super::*;

pub(super) const PROVIDERS: &[ProviderAnswers] = &[
    ProviderAnswers {
        name: "adp",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"scope":"api"}"#,
                ("at", None, Some(3600)),
            ),
            // adplabs/adp-connection-NET#10.
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"The given client credentials were not valid"}"#,
            ),
            // adplabs/adp-connection-NET#27: with a wrong certificate, too.
            refused(
                401,
                r#"{"error":"invalid_request","error_description":"proper client ssl certificate was not presented"}"#,
            ),
            passing(503, "<html><body>Service Unavailable</body></html>"),
            throttled(60, 429, &[], r#"{"error":"too_many_requests"}"#),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "amazon-sp-api",
        answers: &[
            success(
                200,
                r#"{"access_token":"Atza|at","refresh_token":"Atzr|rt","token_type":"bearer","expires_in":3600}"#,
                ("Atza|at", Some("Atzr|rt"), Some(3600)),
            ),
            // amzn/selling-partner-api-models#921, #2997.
            dead(
                400,
                r#"{"error_description":"The request has an invalid grant parameter : refresh_token. User may have revoked or didn't grant the permission.","error":"invalid_grant"}"#,
            ),
            // jlevers/selling-partner-api#602.
            refused(
                401,
                r#"{"error_description":"Client authentication failed","error":"invalid_client"}"#,
            ),
            refused(
                400,
                r#"{"error_description":"Not authorized for requested operation","error":"unauthorized_client"}"#,
            ),
            passing(
                500,
                r#"{"error_description":"The server encountered a runtime error","error":"ServerError"}"#,
            ),
            throttled(60, 429, &[], r#"{"error":"slow_down"}"#),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "atlassian",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","refresh_token":"rt2","token_type":"Bearer","expires_in":3600,"scope":"offline_access"}"#,
                ("at", Some("rt2"), Some(3600)),
            ),
            // The documentation.
            dead(
                403,
                r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#,
            ),
            // raycast/extensions#11836, ParabolInc/parabol#11849.
            dead(
                403,
                r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#,
            ),
            // A wrong client secret.
            refused(401, r#"{"error":"access_denied","error_description":"Unauthorized"}"#),
            passing(503, "<html><title>Service Unavailable</title></html>"),
            throttled(
                30,
                429,
                &[("retry-after", "30")],
                r#"{"code":429,"message":"Rate limit exceeded"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "auth0",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","refresh_token":"rt2","id_token":"x","token_type":"Bearer","expires_in":86400}"#,
                ("at", Some("rt2"), Some(86_400)),
            ),
            // support.auth0.com, "403: Unknown or invalid refresh token".
            dead(
                403,
                r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#,
            ),
            refused(401, r#"{"error":"access_denied","error_description":"Unauthorized"}"#),
            passing(503, r#"{"error":"server_error","error_description":"Service Unavailable"}"#),
            // auth0-extensions/auth0-reset-tenant#31.
            throttled(
                12,
                429,
                &[
                    ("x-ratelimit-limit", "10"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1700000012"),
                ],
                r#"{"statusCode":429,"error":"Too Many Requests","message":"Global limit has been reached","errorCode":"too_many_requests"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "bullhorn",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"Bearer","expires_in":600,"refresh_token":"rt2"}"#,
                ("at", Some("rt2"), Some(600)),
            ),
            // Not published.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Invalid, expired, or revoked refresh token."}"#,
            ),
            refused(400, r#"{"error":"invalid_client","error_description":"Invalid client id"}"#),
            passing(500, r#"{"errorMessage":"Internal error","errorCode":500}"#),
            throttled(60, 429, &[], r#"{"errorMessage":"Too many requests","errorCode":429}"#),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "clover",
        answers: &[
            // docs.clover.com, "Use refresh token to generate new expiring token".
            success(
                200,
                r#"{"access_token":"at","access_token_expiration":1700001800,"refresh_token":"clvroar-2","refresh_token_expiration":1731536000}"#,
                ("at", Some("clvroar-2"), Some(1800)),
            ),
            // The only credential in the request is the refresh token, so this is what a 401 is about.
            answer(
                Dead,
                401,
                &[("x-clover-recovery-available", "true")],
                r#"{"message":"401 Unauthorized"}"#,
            ),
            // A form instead of JSON.
            refused(415, r#"{"message":"HTTP 415 Unsupported Media Type"}"#),
            passing(503, r#"{"message":"unavailable"}"#),
            throttled(5, 429, &[("retry-after", "5")], r#"{"message":"429 Too Many Requests"}"#),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "coros",
        answers: &[
            answer(
                What::Success(None, None, None),
                200,
                &[],
                r#"{"message":"OK","result":"0000"}"#,
            ),
            // Its guide has no code but 0000; this one has been seen.
            refused(200, r#"{"message":"invalid token","result":"1001"}"#),
            passing(502, "<html><title>502 Bad Gateway</title></html>"),
        ],
        lacks: &[
            (Dead, "its guide has no code for it"),
            (Throttled(0), "its guide has no code for it"),
        ],
    },
    ProviderAnswers {
        name: "dropbox",
        answers: &[
            success(
                200,
                r#"{"access_token":"sl.at","token_type":"bearer","expires_in":14400}"#,
                ("sl.at", None, Some(14_400)),
            ),
            // nextcloud/integration_dropbox#34.
            dead(
                400,
                r#"{"error": "invalid_grant", "error_description": "refresh token is invalid or revoked"}"#,
            ),
            // boly38/node-mongotools#94.
            dead(
                400,
                r#"{"error": "invalid_grant", "error_description": "refresh token is malformed"}"#,
            ),
            refused(400, r#"{"error": "invalid_client: Invalid client_id or client_secret"}"#),
            passing(503, "<html><title>Dropbox - 503</title></html>"),
            // dropbox-sdk-go-unofficial, TestRateLimitJSON.
            throttled(
                300,
                429,
                &[("retry-after", "300")],
                r#"{"error_summary": "too_many_requests/..", "error": {"reason": {".tag": "too_many_requests"}, "retry_after": 300}}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "entra-app",
        answers: &[
            success(
                200,
                r#"{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"at"}"#,
                ("at", None, Some(3599)),
            ),
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.","error_codes":[7000215]}"#,
            ),
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired.","error_codes":[7000222]}"#,
            ),
            refused(
                400,
                r#"{"error":"unauthorized_client","error_description":"AADSTS700016: Application with identifier '1' was not found in the directory 'a'.","error_codes":[700016]}"#,
            ),
            passing(
                503,
                r#"{"error":"temporarily_unavailable","error_description":"AADSTS90033: A transient error has occurred. Please try again.","error_codes":[90033]}"#,
            ),
            // microsoft-authentication-library-for-dotnet, "Throttling".
            throttled(
                60,
                429,
                &[("retry-after", "60")],
                r#"{"error":"temporarily_unavailable","error_description":"AADSTS90055: There are too many incoming requests.","error_codes":[90055]}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "entra-user",
        answers: &[
            success(
                200,
                r#"{"token_type":"Bearer","scope":"User.Read","expires_in":4567,"ext_expires_in":4567,"access_token":"at","refresh_token":"rt2"}"#,
                ("at", Some("rt2"), Some(4567)),
            ),
            // blobfile/blobfile#93, microsoft/foundry-dev-tools#707.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"AADSTS700082: The refresh token has expired due to inactivity. The token was issued on 2023-01-01T00:00:00Z and was inactive for 90.00:00:00.","error_codes":[700082],"suberror":"bad_token"}"#,
            ),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"AADSTS50173: The provided grant has expired due to it being revoked, a fresh auth token is needed.","error_codes":[50173],"suberror":"bad_token"}"#,
            ),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"AADSTS65001: The user or administrator has not consented to use the application.","error_codes":[65001],"suberror":"consent_required"}"#,
            ),
            dead(
                400,
                r#"{"error":"interaction_required","error_description":"AADSTS50076: Due to a configuration change made by your administrator, you must use multi-factor authentication.","error_codes":[50076],"suberror":"basic_action"}"#,
            ),
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.","error_codes":[7000215]}"#,
            ),
            passing(
                503,
                r#"{"error":"temporarily_unavailable","error_description":"AADSTS90033: A transient error has occurred. Please try again.","error_codes":[90033]}"#,
            ),
            throttled(
                17,
                429,
                &[("retry-after", "17")],
                r#"{"error":"temporarily_unavailable","error_description":"AADSTS90055: There are too many incoming requests.","error_codes":[90055]}"#,
            ),
            // MSAL.NET, "Throttling": a limit on repeated requests, in the words of a dead grant.
            passing(
                400,
                r#"{"error":"invalid_grant","error_description":"AADSTS50196: The server terminated an operation because it encountered a loop while processing a request.","error_codes":[50196]}"#,
            ),
        ],
        lacks: &[],
    },
];
