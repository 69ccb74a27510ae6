//! Salesforce to Zoom.

use super::What::{Dead, Passing, Success, Throttled};
use super::*;

pub(super) const PROVIDERS: &[ProviderAnswers] = &[
    ProviderAnswers {
        name: "salesforce",
        answers: &[
            success(
                200,
                r#"{"access_token":"00D!at","instance_url":"https://acme.my.salesforce.com","id":"https://login.salesforce.com/id/1","token_type":"Bearer","issued_at":"1699999999000","signature":"x"}"#,
                ("00D!at", None, None),
            ),
            // help.salesforce.com, "OAuth 2.0 Authorization Errors".
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"expired access/refresh token"}"#,
            ),
            dead(400, r#"{"error":"invalid_grant","error_description":"inactive user"}"#),
            refused(
                400,
                r#"{"error":"invalid_client","error_description":"invalid client credentials"}"#,
            ),
            refused(
                400,
                r#"{"error":"invalid_client_id","error_description":"client identifier invalid"}"#,
            ),
            refused(400, r#"{"error":"invalid_grant","error_description":"ip restricted"}"#),
            // Two requests with one refresh token at a time: release notes, summer 2024.
            passing(
                400,
                r#"{"error":"invalid_grant","error_description":"token request is already being processed"}"#,
            ),
            passing(400, r#"{"error":"unknown_error","error_description":"retry your request"}"#),
            passing(503, "<html><title>Server Too Busy</title></html>"),
            throttled(
                60,
                400,
                &[],
                r#"{"error":"invalid_grant","error_description":"login rate exceeded"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "salesforce-jwt",
        answers: &[
            success(
                200,
                r#"{"access_token":"00D!at","scope":"api","instance_url":"https://acme.my.salesforce.com","id":"https://login.salesforce.com/id/1","token_type":"Bearer"}"#,
                ("00D!at", None, None),
            ),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"user hasn't approved this consumer"}"#,
            ),
            // The audience of the assertion.
            refused(
                400,
                r#"{"error":"invalid_grant","error_description":"Audience validation failed"}"#,
            ),
            passing(400, r#"{"error":"unknown_error","error_description":"retry your request"}"#),
            throttled(
                60,
                400,
                &[],
                r#"{"error":"invalid_grant","error_description":"login rate exceeded"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "sentry",
        answers: &[
            success(
                201,
                r#"{"id":"1","token":"at","refreshToken":"rt2","dateCreated":"2023-11-14T22:13:20.000Z","expiresAt":"2023-11-15T06:13:20.000Z","state":null,"application":null}"#,
                ("at", Some("rt2"), Some(8 * 3600)),
            ),
            // getsentry/sentry, sentry_apps/token_exchange/refresher.py.
            dead(401, r#"{"detail":"Given refresh token does not exist"}"#),
            refused(401, r#"{"detail":"Could not find matching Application for given client_id"}"#),
            // getsentry/sentry#91445.
            passing(500, r#"{"detail":"Internal Error","errorId":"x"}"#),
            throttled(
                30,
                429,
                &[
                    ("x-sentry-rate-limit-remaining", "0"),
                    ("x-sentry-rate-limit-reset", "1700000030"),
                ],
                r#"{"detail":"You are attempting to use this endpoint too frequently. Limit is 40 requests in 1 seconds"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "shopify",
        answers: &[
            success(
                200,
                r#"{"access_token":"shpat_at","scope":"read_orders","expires_in":86399}"#,
                ("shpat_at", None, Some(86_399)),
            ),
            // Expiring offline tokens; a page where JSON was not asked for.
            dead(
                401,
                r#"{"error":"invalid_request","error_description":"This request requires an active refresh_token"}"#,
            ),
            refused(
                400,
                r#"{"error":"application_cannot_be_found","error_description":"Could not find Shopify API application with api_key abc"}"#,
            ),
            refused(
                400,
                "<html><head><title>Oauth error shop_not_permitted</title></head><body>Oauth error shop_not_permitted: Client credentials cannot be performed on this shop.</body></html>",
            ),
            passing(520, "<html><title>Web server is returning an unknown error</title></html>"),
            throttled(
                2,
                429,
                &[("retry-after", "2.0")],
                r#"{"errors":"Exceeded 2 calls per second for api client. Reduce request rates to resume uninterrupted service."}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "slack",
        answers: &[
            success(
                200,
                r#"{"ok":true,"access_token":"xoxe.xoxb-1","expires_in":43200,"refresh_token":"xoxe-1-2","token_type":"bot","scope":"chat:write","team":{"id":"T1"}}"#,
                ("xoxe.xoxb-1", Some("xoxe-1-2"), Some(43_200)),
            ),
            dead(200, r#"{"ok":false,"error":"invalid_refresh_token"}"#),
            dead(200, r#"{"ok":false,"error":"token_revoked"}"#),
            dead(200, r#"{"ok":false,"error":"token_expired"}"#),
            refused(200, r#"{"ok":false,"error":"bad_client_secret"}"#),
            refused(200, r#"{"ok":false,"error":"invalid_client_id"}"#),
            // docs.slack.dev, oauth.v2.access.
            passing(200, r#"{"ok":false,"error":"internal_error"}"#),
            passing(200, r#"{"ok":false,"error":"fatal_error"}"#),
            passing(200, r#"{"ok":false,"error":"service_unavailable"}"#),
            passing(200, r#"{"ok":false,"error":"request_timeout"}"#),
            throttled(60, 200, &[], r#"{"ok":false,"error":"ratelimited"}"#),
            throttled(30, 429, &[("retry-after", "30")], r#"{"ok":false,"error":"ratelimited"}"#),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "snowflake",
        answers: &[],
        lacks: &[
            (Success(None, None, None), "it has no token endpoint"),
            (Dead, "it has no token endpoint"),
            (Passing, "it has no token endpoint"),
            (Throttled(0), "it has no token endpoint"),
        ],
    },
    ProviderAnswers {
        name: "spotify",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"scope":"user-read-private"}"#,
                ("at", None, Some(3600)),
            ),
            success(
                200,
                r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"refresh_token":"rt2"}"#,
                ("at", Some("rt2"), Some(3600)),
            ),
            // barmiro/SYSH#8, novatorem/novatorem#81.
            dead(400, r#"{"error":"invalid_grant","error_description":"Refresh token revoked"}"#),
            refused(
                400,
                r#"{"error":"invalid_client","error_description":"Invalid client secret"}"#,
            ),
            passing(
                503,
                r#"{"error":"server_error","error_description":"Unexpected status: 503"}"#,
            ),
            throttled(17, 429, &[("retry-after", "17")], "Too many requests"),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "stripe-app",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","livemode":true,"refresh_token":"rt_2","scope":"stripe_apps","stripe_publishable_key":"pk","stripe_user_id":"acct_1","token_type":"bearer"}"#,
                ("at", Some("rt_2"), None),
            ),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Refresh token does not exist: rt_1"}"#,
            ),
            refused(
                401,
                r#"{"error":{"message":"Invalid API Key provided: sk_live_*1","type":"invalid_request_error"}}"#,
            ),
            passing(500, r#"{"error":{"message":"An unknown error occurred","type":"api_error"}}"#),
            throttled(
                60,
                429,
                &[],
                r#"{"error":{"code":"rate_limit","message":"Request rate limit exceeded.","type":"invalid_request_error"}}"#,
            ),
            throttled(
                60,
                429,
                &[],
                r#"{"error":{"code":"lock_timeout","message":"This object cannot be accessed right now because another API request or Stripe process is currently accessing it.","type":"invalid_request_error"}}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "stripe-key",
        answers: &[],
        lacks: &[
            (Success(None, None, None), "a key is no token"),
            (Dead, "a key is no token"),
            (Passing, "a key is no token"),
            (Throttled(0), "a key is no token"),
        ],
    },
    ProviderAnswers {
        name: "tiktok",
        answers: &[
            success(
                200,
                r#"{"access_token":"act.1","expires_in":7200,"open_id":"x","refresh_expires_in":15552000,"refresh_token":"rft.2","scope":"user.info.basic","token_type":"Bearer"}"#,
                ("act.1", Some("rft.2"), Some(7200)),
            ),
            // developers.tiktok.com, "Error Handling"; seen with status 200 as well.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Refresh token is invalid or expired.","log_id":"x"}"#,
            ),
            dead(
                200,
                r#"{"error":"invalid_grant","error_description":"Refresh token is invalid or expired.","log_id":"x"}"#,
            ),
            refused(
                200,
                r#"{"error":"invalid_client","error_description":"Client key or secret is incorrect.","log_id":"x"}"#,
            ),
            refused(
                200,
                r#"{"error":"invalid_request","error_description":"The request parameters are malformed.","log_id":"x"}"#,
            ),
            passing(
                500,
                r#"{"error":{"code":"internal_error","message":"Something went wrong","log_id":"x"}}"#,
            ),
            throttled(
                60,
                429,
                &[],
                r#"{"error":{"code":"rate_limit_exceeded","message":"The API rate limit was exceeded. Please try again later.","log_id":"x"}}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "walmart",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"Bearer","expires_in":900}"#,
                ("at", None, Some(900)),
            ),
            // highsidelabs/walmart-api-php#5.
            refused(
                401,
                r#"{"error":[{"code":"UNAUTHORIZED.GMP_GATEWAY_API","field":"UNAUTHORIZED","description":"Unauthorized","info":"Unauthorized token or incorrect authorization header.","severity":"ERROR","category":"DATA"}]}"#,
            ),
            refused(400, "Bad Request"),
            passing(
                500,
                r#"{"error":[{"code":"SYSTEM_ERROR.GMP_GATEWAY_API","field":"SYSTEM_ERROR","description":"System error","severity":"ERROR","category":"SYSTEM"}]}"#,
            ),
            throttled(
                60,
                429,
                &[("x-current-token-count", "0")],
                r#"{"error":[{"code":"REQUEST_THRESHOLD_VIOLATED.GMP_GATEWAY_API","field":"REQUEST_THRESHOLD_VIOLATED","description":"Too many requests","severity":"ERROR","category":"DATA"}]}"#,
            ),
        ],
        lacks: &[(Dead, "what it answers to a dead refresh token is not published")],
    },
    ProviderAnswers {
        name: "xero",
        answers: &[
            success(
                200,
                r#"{"id_token":"x","access_token":"at","expires_in":1800,"token_type":"Bearer","refresh_token":"rt2","scope":"offline_access"}"#,
                ("at", Some("rt2"), Some(1800)),
            ),
            // XeroAPI/xero-node#370.
            dead(400, r#"{"error":"invalid_grant"}"#),
            refused(400, r#"{"error":"invalid_client"}"#),
            refused(400, r#"{"error":"unauthorized_client"}"#),
            passing(503, "<html><title>503</title></html>"),
            throttled(38, 429, &[("retry-after", "38"), ("x-rate-limit-problem", "minute")], ""),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "zoho",
        answers: &[
            success(
                200,
                r#"{"access_token":"1000.at","api_domain":"https://www.zohoapis.com","token_type":"Bearer","expires_in":3600}"#,
                ("1000.at", None, Some(3600)),
            ),
            dead(200, r#"{"error":"invalid_code"}"#),
            refused(200, r#"{"error":"invalid_client"}"#),
            refused(200, r#"{"error":"invalid_client_secret"}"#),
            passing(500, r#"{"error":"internal_error"}"#),
            // zoho.com/crm/developer/docs, "Token Validity"; seen with status 200 and 400.
            throttled(
                60,
                400,
                &[],
                r#"{"error_description":"You have made too many requests continuously. Please try again after some time.","error":"Access Denied","status":"failure"}"#,
            ),
            throttled(
                60,
                200,
                &[],
                r#"{"error_description":"You have made too many requests continuously. Please try again after some time.","error":"Access Denied","status":"failure"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "zoom",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"bearer","expires_in":3599,"scope":"user:read:admin","api_url":"https://api.zoom.us"}"#,
                ("at", None, Some(3599)),
            ),
            // JubaerHossain/zoom-laravel#3, #4.
            refused(
                400,
                r#"{"reason":"Invalid client_id or client_secret","error":"invalid_client"}"#,
            ),
            refused(400, r#"{"reason":"unsupported grant type","error":"unsupported_grant_type"}"#),
            refused(400, r#"{"reason":"Bad Request","error":"invalid_request"}"#),
            passing(500, r#"{"reason":"Internal Error","error":"internal_error"}"#),
            throttled(
                60,
                429,
                &[("x-ratelimit-type", "QPS")],
                r#"{"code":429,"message":"You have reached the maximum per-second rate limit for this API. Try again later."}"#,
            ),
        ],
        lacks: &[],
    },
];
