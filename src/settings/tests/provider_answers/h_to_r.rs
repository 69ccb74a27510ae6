//! HubSpot to Revolut.

use super::What::{Passing, Throttled};
use super::*;

pub(super) const PROVIDERS: &[ProviderAnswers] = &[
    ProviderAnswers {
        name: "hubspot",
        answers: &[
            success(
                200,
                r#"{"token_type":"bearer","refresh_token":"rt","access_token":"at","expires_in":1800,"hub_id":1}"#,
                ("at", Some("rt"), Some(1800)),
            ),
            // The documentation, 2026.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"refresh token is invalid, expired or revoked","status":"BAD_REFRESH_TOKEN","message":"refresh token is invalid, expired or revoked"}"#,
            ),
            // Before 2026.
            dead(
                400,
                r#"{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token","correlationId":"x"}"#,
            ),
            // Measured in October 2026.
            dead(400, r#"{"status":"BAD_REFRESH_TOKEN","error":"invalid_request"}"#),
            // PostHog/posthog#72609: the account was deleted or disconnected.
            dead(
                400,
                r#"{"status":"BAD_HUB","message":"missing or unknown hub id","error":"access_denied"}"#,
            ),
            refused(
                400,
                r#"{"status":"BAD_CLIENT_ID","message":"missing or unknown client id","error":"invalid_client"}"#,
            ),
            refused(
                400,
                r#"{"status":"BAD_CLIENT_SECRET","message":"missing or invalid client secret"}"#,
            ),
            passing(502, r#"{"status":"BAD_HUB"}"#),
            // developers.hubspot.com, "Error handling": locked, and moving to another data centre.
            passing(423, r#"{"status":"error","message":"Locked","correlationId":"x"}"#),
            answer(
                Passing,
                477,
                &[("retry-after", "3600")],
                r#"{"status":"error","message":"Migration in progress","correlationId":"x"}"#,
            ),
            throttled(
                60,
                429,
                &[],
                r#"{"status":"error","message":"You have reached your ten_secondly_rolling limit.","errorType":"RATE_LIMIT","policyName":"TEN_SECONDLY_ROLLING","correlationId":"x"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "instagram",
        answers: &[
            success(
                200,
                r#"{"access_token":"IGQ2","token_type":"bearer","expires_in":5183944,"permissions":"instagram_business_basic"}"#,
                ("IGQ2", Some("IGQ2"), Some(5_183_944)),
            ),
            // stevenschobert/instafeed.js#702, #747.
            dead(
                400,
                r#"{"error":{"message":"Error validating access token: Session has expired on Wednesday, 30-Sep-20 16:51:54 PDT.","type":"OAuthException","code":190,"error_subcode":463}}"#,
            ),
            dead(
                400,
                r#"{"error":{"message":"Error validating access token: The session has been invalidated because the user changed their password or Facebook has changed the session for security reasons.","type":"OAuthException","code":190,"error_subcode":460}}"#,
            ),
            // stevenschobert/instafeed.js#654.
            refused(
                400,
                r#"{"error":{"message":"Unsupported request - method type: get","type":"IGApiException","code":100}}"#,
            ),
            passing(
                500,
                r#"{"error":{"message":"An unexpected error has occurred. Please retry your request later.","type":"OAuthException","is_transient":true,"code":2}}"#,
            ),
            passing(
                400,
                r#"{"error":{"message":"Service temporarily unavailable","type":"IGApiException","is_transient":true,"code":2}}"#,
            ),
            // companionstudio/instagram-token-agent#5.
            throttled(
                60,
                403,
                &[],
                r#"{"error":{"message":"(#4) Application request limit reached","type":"OAuthException","is_transient":true,"code":4}}"#,
            ),
            throttled(
                60,
                400,
                &[],
                r#"{"error":{"message":"(#17) User request limit reached","type":"OAuthException","code":17}}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "keycloak",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","expires_in":300,"refresh_expires_in":1800,"refresh_token":"rt2","token_type":"Bearer","not-before-policy":0,"session_state":"x","scope":"email"}"#,
                ("at", Some("rt2"), Some(300)),
            ),
            // keycloak/keycloak#37961, #21402.
            dead(400, r#"{"error":"invalid_grant","error_description":"Token is not active"}"#),
            dead(400, r#"{"error":"invalid_grant","error_description":"Session not active"}"#),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Session doesn't have required client"}"#,
            ),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Maximum allowed refresh token reuse exceeded"}"#,
            ),
            refused(
                401,
                r#"{"error":"unauthorized_client","error_description":"Invalid client or Invalid client credentials"}"#,
            ),
            refused(404, r#"{"error":"Realm does not exist"}"#),
            passing(
                500,
                r#"{"error":"unknown_error","error_description":"For more on this error consult the server log."}"#,
            ),
            passing(503, r#"{"error":"unknown_error"}"#),
        ],
        lacks: &[(Throttled(0), "it does not limit token requests; what stands before it may")],
    },
    ProviderAnswers {
        name: "linkedin",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","expires_in":5183999,"refresh_token":"rt","refresh_token_expires_in":31536000,"scope":"r_ads"}"#,
                ("at", Some("rt"), Some(5_183_999)),
            ),
            // Not invalid_grant.
            dead(
                400,
                r#"{"error":"invalid_request","error_description":"The provided authorization grant or refresh token is invalid, expired or revoked"}"#,
            ),
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"Client authentication failed"}"#,
            ),
            // linkedin-developers/java-sample-application#6.
            refused(
                400,
                r#"{"error":"invalid_request","error_description":"A required parameter \"refresh_token\" is missing"}"#,
            ),
            passing(503, r#"{"message":"Service Unavailable","status":503}"#),
            throttled(
                60,
                429,
                &[],
                r#"{"message":"Resource level throttle APPLICATION DAY limit for calls to this resource is reached.","status":429}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "okta-service",
        answers: &[
            success(
                200,
                r#"{"token_type":"Bearer","expires_in":3600,"access_token":"at","scope":"okta.users.read"}"#,
                ("at", None, Some(3600)),
            ),
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"The client_assertion signature is invalid."}"#,
            ),
            refused(
                400,
                r#"{"error":"invalid_scope","error_description":"One or more scopes are not configured for the authorization server resource."}"#,
            ),
            passing(
                500,
                r#"{"errorCode":"E0000009","errorSummary":"Internal Server Error","errorLink":"E0000009","errorCauses":[]}"#,
            ),
            throttled(
                21,
                429,
                &[("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "1700000021")],
                r#"{"errorCode":"E0000047","errorSummary":"API call exceeded rate limit due to too many requests.","errorLink":"E0000047","errorCauses":[]}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "okta-user",
        answers: &[
            success(
                200,
                r#"{"token_type":"Bearer","expires_in":3600,"access_token":"at","scope":"offline_access","refresh_token":"rt2"}"#,
                ("at", Some("rt2"), Some(3600)),
            ),
            // okta/okta-react-native#109.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"The refresh token is invalid or expired."}"#,
            ),
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"The client secret supplied for a confidential client is invalid."}"#,
            ),
            refused(
                401,
                r#"{"errorCode":"invalid_client","errorSummary":"Invalid value for 'client_id' parameter.","errorLink":"invalid_client","errorCauses":[]}"#,
            ),
            passing(
                500,
                r#"{"errorCode":"E0000009","errorSummary":"Internal Server Error","errorLink":"E0000009","errorCauses":[]}"#,
            ),
            // okta-sdk-golang, okta-powershell-cli.
            throttled(
                21,
                429,
                &[("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "1700000021")],
                r#"{"errorCode":"E0000047","errorSummary":"API call exceeded rate limit due to too many requests.","errorLink":"E0000047","errorCauses":[]}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "paypal",
        answers: &[
            success(
                200,
                r#"{"scope":"x","access_token":"at","token_type":"Bearer","app_id":"APP-1","expires_in":"32400","nonce":"n"}"#,
                ("at", None, Some(32_400)),
            ),
            // woocommerce/woocommerce-paypal-payments#1034.
            refused(
                401,
                r#"{"error":"invalid_client","error_description":"Client Authentication failed"}"#,
            ),
            passing(
                500,
                r#"{"name":"INTERNAL_SERVER_ERROR","message":"An internal server error has occurred.","debug_id":"x"}"#,
            ),
            throttled(
                60,
                429,
                &[],
                r#"{"name":"RATE_LIMIT_REACHED","message":"Too many requests. Blocked due to rate limiting.","debug_id":"x"}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "quickbooks",
        answers: &[
            success(
                200,
                r#"{"token_type":"bearer","expires_in":3600,"refresh_token":"AB2","x_refresh_token_expires_in":8726400,"access_token":"at"}"#,
                ("at", Some("AB2"), Some(3600)),
            ),
            // routablehq/python-quickbooks#397.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Incorrect or invalid refresh token"}"#,
            ),
            dead(
                400,
                r#"{"error_description":"Incorrect Token type or clientID","error":"invalid_grant"}"#,
            ),
            refused(401, r#"{"error":"invalid_client"}"#),
            passing(503, "<html><head><title>503 Service Unavailable</title></head></html>"),
            throttled(
                60,
                429,
                &[],
                r#"{"fault":{"error":[{"message":"message=ThrottleExceeded; errorCode=003001; statusCode=429","code":"3001"}],"type":"SERVICE"}}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "reddit",
        answers: &[
            success(
                200,
                r#"{"access_token":"at","token_type":"bearer","expires_in":86400,"refresh_token":"rt","scope":"read"}"#,
                ("at", Some("rt"), Some(86_400)),
            ),
            // praw-dev/praw#677; PostHog/posthog reads it as a dead grant.
            dead(400, r#"{"message": "Bad Request", "error": 400}"#),
            dead(400, r#"{"error": "invalid_grant"}"#),
            refused(401, r#"{"message": "Unauthorized", "error": 401}"#),
            passing(503, r#"{"message": "Service Unavailable", "error": 503}"#),
            // simstudioai/sim#1822: a User-Agent or network that it does not like.
            refused(403, "<body>You've been blocked by network security.</body>"),
            // rdeepak2002/reddit-place-script-2022#4.
            throttled(
                271,
                429,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "271")],
                r#"{"message": "Too Many Requests", "error": 429}"#,
            ),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "resamania",
        answers: &[
            success(
                200,
                r#"{"access_token":"a.b.c","expires_in":3600,"token_type":"bearer","scope":"client","refresh_token":"rt2"}"#,
                ("a.b.c", Some("rt2"), Some(3600)),
            ),
            // FriendsOfSymfony/oauth2-php.
            dead(400, r#"{"error":"invalid_grant","error_description":"Invalid refresh token"}"#),
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Refresh token has expired"}"#,
            ),
            refused(
                400,
                r#"{"error":"invalid_client","error_description":"The client credentials are invalid"}"#,
            ),
            passing(500, r#"{"code":500,"message":"Internal Server Error"}"#),
            throttled(60, 429, &[], "<html><title>429 Too Many Requests</title></html>"),
        ],
        lacks: &[],
    },
    ProviderAnswers {
        name: "revolut",
        answers: &[
            success(
                200,
                r#"{"access_token":"oa_prod_at","token_type":"bearer","expires_in":2399}"#,
                ("oa_prod_at", None, Some(2399)),
            ),
            // Not published.
            dead(
                400,
                r#"{"error":"invalid_grant","error_description":"Refresh token is invalid"}"#,
            ),
            // useme-com/revolut-python#8: a wrong assertion.
            refused(
                400,
                r#"{"error":"unauthorized_client","error_description":"Failed to authorise client"}"#,
            ),
            passing(
                500,
                r#"{"message":"Oops! An error occurred while processing your request.","code":9003}"#,
            ),
            throttled(60, 429, &[], r#"{"message":"Too many requests","code":9006}"#),
        ],
        lacks: &[],
    },
];
