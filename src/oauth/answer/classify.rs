//! Classifies answers without a token. Rules are tried in order; the first match decides.

use http::StatusCode;

use super::super::ErrorClass;
use super::error_details::{ErrorDetails, plain};

/// Codes for an invalid grant, with any status. Like all codes here, they are compared without case
/// and underscores.
const INVALID_GRANT_CODES: [&str; 17] = [
    "invalidgrant",
    "badrefreshtoken",
    "invalidrefreshtoken",
    "refreshtokenreused",
    "refreshtokenexpired",
    "refreshtokeninvalid",
    "refreshtokenrevoked",
    "refreshtokennotfound",
    "expiredrefreshtoken",
    "revokedrefreshtoken",
    "invalidtoken",
    "expiredtoken",
    "tokenexpired",
    "tokenrevoked",
    "tokeninactive",
    "invalidcode",
    "appsessionterminated",
];
/// Codes for required user interaction, also as the suberror of `invalid_grant`.
const USER_CODES: [&str; 4] =
    ["interactionrequired", "consentrequired", "loginrequired", "mfarequired"];
/// Codes for a wrong OAuth client or request, regardless of the texts.
pub(super) const CONFIG_CODES: [&str; 9] = [
    "invalidclient",
    "unsupportedgranttype",
    "invalidscope",
    "invalidtarget",
    "accessdenied",
    "invalidclientid",
    "invalidclientsecret",
    "invalidredirecturi",
    "redirecturimismatch",
];
/// Codes for server failures.
const TRANSIENT_CODES: [&str; 15] = [
    "temporarilyunavailable",
    "servererror",
    "internalfailure",
    "internalerror",
    "internalservererror",
    "serviceunavailable",
    "servicetemporarilyunavailable",
    "timeout",
    "requesttimeout",
    "gatewaytimeout",
    "deadlineexceeded",
    "unavailable",
    "fatalerror",
    "backenderror",
    "systemerror",
];
/// Codes for rate limits.
const THROTTLED_CODES: [&str; 12] = [
    "slowdown",
    "toomanyrequests",
    "ratelimit",
    "ratelimited",
    "ratelimitexceeded",
    "requestlimitexceeded",
    "limitexceeded",
    "quotaexceeded",
    "resourceexhausted",
    "throttled",
    "throttling",
    "requestthrottled",
];
/// Texts for rate limits, in client error responses.
const THROTTLED_TEXTS: [&str; 5] =
    ["rate limit", "ratelimit", "too many", "try again in", "try again after"];
/// Texts for a concurrent request.
const CONCURRENT_TEXTS: [&str; 6] = [
    "being processed",
    "in progress",
    "concurrent",
    "already processing",
    "another request",
    "authorization pending",
];
/// Texts for temporary failures.
const TEMPORARY_TEXTS: [&str; 4] = ["try again", "retry", "temporar", "timed out"];
/// Texts that certainly describe an invalid token.
const INVALID_TOKEN_TEXTS: [&str; 16] = [
    "expired",
    "revoked",
    "redeemed",
    "already used",
    "already been used",
    "already consumed",
    "already been consumed",
    "no longer",
    "reused",
    "inactive",
    "not active",
    "blacklisted",
    "was rotated",
    "been rotated",
    "not exist",
    "active refresh token",
];
/// Texts that describe an invalid token unless the token was missing.
const MAYBE_INVALID_TEXTS: [&str; 8] = [
    "invalid",
    "not found",
    "unknown",
    "not valid",
    "not recognized",
    "not recognised",
    "unrecognized",
    "unrecognised",
];
/// Texts for a missing refresh token.
const MISSING_TOKEN_TEXTS: [&str; 13] = [
    "check the refresh token parameter",
    "not found in request",
    "not found in the request",
    "missing",
    "required",
    "must be provided",
    "not provided",
    "not supplied",
    "not specified",
    "empty",
    "no refresh token",
    "must be a string",
    "is blank",
];
/// Texts for actions that are required of a user, as opposed to a required parameter.
const USER_ACTION_TEXTS: [&str; 8] =
    ["authenticat", "authoriz", "authoris", "login", "log in", "sign in", "signin", "consent"];
/// Texts for other causes, although a refresh token is mentioned.
const OTHER_CAUSE_TEXTS: [&str; 14] = [
    "client id",
    "client secret",
    "client credential",
    "client authentication",
    "invalid client",
    "unknown client",
    "client is",
    "api key",
    "grant type",
    "token grant",
    "scope",
    "redirect uri",
    "assertion",
    "ip address",
];

/// Classifies an error by the rules for all servers.
pub(super) fn classify(status: StatusCode, details: &ErrorDetails) -> ErrorClass {
    let is_client_error = matches!(status.as_u16(), 200..=299 | 400..=499);
    let description = details.description.as_deref().map(plain).unwrap_or_default();
    // A rate-limiting server may report itself unavailable; its wait still applies.
    let is_too_much = status == StatusCode::TOO_MANY_REQUESTS;
    if !is_too_much
        && (details.is(&TRANSIENT_CODES) || TRANSIENT_CODES.contains(&description.as_str()))
    {
        return ErrorClass::Transient;
    }
    if let Some(class) = throttled(status, details).or_else(|| facebook(details)) {
        return class;
    }
    let suberror = details.suberror.as_deref().map(plain).unwrap_or_default();
    if details.is(&USER_CODES)
        || (details.is(&INVALID_GRANT_CODES) && USER_CODES.contains(&suberror.as_str()))
    {
        return ErrorClass::UserNeeded;
    }
    if details.is(&CONFIG_CODES) {
        return ErrorClass::Config;
    }
    if details.is(&INVALID_GRANT_CODES) {
        return classify_invalid_grant(details);
    }
    let names_refresh_token = details.has(&["refresh token"]);
    if names_refresh_token && matches!(status.as_u16(), 200..=299 | 400 | 401 | 403) {
        if mentions_any(details, &INVALID_TOKEN_TEXTS) {
            return classify_invalid_grant(details);
        }
        if is_token_missing(details) {
            return ErrorClass::Config;
        }
        if mentions_any(details, &MAYBE_INVALID_TEXTS) {
            return classify_invalid_grant(details);
        }
    }
    if is_client_error && (details.has(&CONCURRENT_TEXTS) || details.is(&["authorizationpending"]))
    {
        ErrorClass::Busy
    } else if is_client_error && details.has(&TEMPORARY_TEXTS) {
        ErrorClass::Transient
    } else if details.is(&["unauthorizedclient"]) {
        ErrorClass::Config
    } else if details.is(&["invalidrequest"]) {
        ErrorClass::Doubtful
    } else {
        by_status(status, details, names_refresh_token)
    }
}

/// Returns true if the texts say that the refresh token is invalid.
pub(super) fn is_invalid_token(details: &ErrorDetails) -> bool {
    details.has(&["refresh token"])
        && (mentions_any(details, &INVALID_TOKEN_TEXTS)
            || (!is_token_missing(details) && mentions_any(details, &MAYBE_INVALID_TEXTS)))
}

/// Returns true if the rules know this code.
pub(super) fn is_known(code: &str) -> bool {
    let lists: [&[&str]; 5] =
        [&INVALID_GRANT_CODES, &USER_CODES, &CONFIG_CODES, &TRANSIENT_CODES, &THROTTLED_CODES];
    let others = ["unauthorizedclient", "invalidrequest", "usedpopnonce", "authorizationpending"];
    lists.iter().any(|list| list.contains(&code)) || others.contains(&code)
}

fn throttled(status: StatusCode, details: &ErrorDetails) -> Option<ErrorClass> {
    let by_text = matches!(status.as_u16(), 200..=299 | 400..=403 | 406..=409 | 411..=499)
        && details.has(&THROTTLED_TEXTS)
        && !details.is(&INVALID_GRANT_CODES)
        && !details.is(&USER_CODES);
    let is_throttled =
        status == StatusCode::TOO_MANY_REQUESTS || details.is(&THROTTLED_CODES) || by_text;
    is_throttled.then_some(ErrorClass::Throttled)
}

/// Classifies Facebook's `OAuthException`, whose number has the meaning.
fn facebook(details: &ErrorDetails) -> Option<ErrorClass> {
    let number =
        |numbers: &[&str]| details.codes.iter().any(|code| numbers.contains(&code.as_str()));
    if !details.is(&["oauth"]) {
        return None;
    }
    if number(&["190", "102"]) {
        Some(ErrorClass::GrantDead)
    } else if number(&["4", "17", "32", "341", "613"]) {
        Some(ErrorClass::Throttled)
    } else {
        number(&["1", "2"]).then_some(ErrorClass::Transient)
    }
}

/// Classifies a code for an invalid grant by its text: a server without a better code also uses it
/// for temporary and configuration errors.
fn classify_invalid_grant(details: &ErrorDetails) -> ErrorClass {
    let assertion = ["assertion", "not yet valid", "clock", "iat claim", "nbf claim"];
    if details.has(&CONCURRENT_TEXTS) || details.has(&["encountered a loop", "request loop"]) {
        ErrorClass::Busy
    } else if details.has(&["rate limit", "rate exceeded", "too many requests", "throttl"]) {
        ErrorClass::Throttled
    } else if details.has(&assertion)
        || details.has(&["ip restricted", "ip address", "subject token"])
        || details.has_word(&["issuer", "audience", "iat", "nbf", "locked"])
    {
        ErrorClass::Config
    } else if details.has(&["refresh token"]) && means_invalid_token(details) {
        // Here "please try again" means with another token.
        ErrorClass::GrantDead
    } else if details.has(&TEMPORARY_TEXTS) && !details.has(&["expired", "revoked"]) {
        ErrorClass::Busy
    } else {
        ErrorClass::GrantDead
    }
}

/// Returns true if texts that mention the refresh token say that it is invalid.
fn means_invalid_token(details: &ErrorDetails) -> bool {
    mentions_any(details, &INVALID_TOKEN_TEXTS) || mentions_any(details, &MAYBE_INVALID_TEXTS)
}

fn mentions_any(details: &ErrorDetails, phrases: &[&str]) -> bool {
    let without = ["invalid request", "invalid parameter", "invalid input", "invalid value"];
    let words =
        without.iter().fold(details.words.clone(), |words, phrase| words.replace(phrase, ""));
    phrases.iter().any(|phrase| words.contains(phrase))
        && (!details.has(&OTHER_CAUSE_TEXTS) || details.is(&INVALID_GRANT_CODES))
}

/// Returns true if the texts say that the request lacks a refresh token. "Missing or invalid" also
/// describes an invalid one, and what is required may be a user.
fn is_token_missing(details: &ErrorDetails) -> bool {
    let words = ["missing or invalid refresh token", "invalid or missing refresh token"]
        .iter()
        .fold(details.words.clone(), |words, phrase| words.replace(phrase, ""));
    let mut clauses = words.split(['.', ';', ',']);
    clauses.any(|clause| {
        let has = |phrases: &[&str]| phrases.iter().any(|phrase| clause.contains(phrase));
        has(&MISSING_TOKEN_TEXTS) && !has(&USER_ACTION_TEXTS)
    })
}

fn by_status(status: StatusCode, details: &ErrorDetails, names_refresh_token: bool) -> ErrorClass {
    match status.as_u16() {
        423 => ErrorClass::Busy,
        // HTTP Version Not Supported is permanent.
        505 => ErrorClass::Config,
        // Also with an HTML page: an intermediary reports by the status that its server fails, and
        // recovery should not take a quarter of an hour.
        408 | 425 | 500..=599 => ErrorClass::Transient,
        200..=499 if details.is_page || details.names_path => ErrorClass::Gateway,
        404 | 405 | 410 if details.parsed && names_refresh_token => ErrorClass::Doubtful,
        404 | 405 | 410 => ErrorClass::Gateway,
        400 if !details.parsed => ErrorClass::Doubtful,
        403 if !details.parsed => ErrorClass::Ambiguous,
        200..=299 if !details.parsed => ErrorClass::Unreadable,
        200..=499 => ErrorClass::Config,
        _ => ErrorClass::Ambiguous,
    }
}
