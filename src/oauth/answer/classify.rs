//! What an answer that is no token means. The rules are tried in order; the first decides.

use http::StatusCode;

use super::super::ErrorClass;
use super::error_details::{ErrorDetails, plain};

/// Codes that say the grant itself is gone, whatever the status. They are compared without case and
/// underscores here, like all codes.
const DEAD: [&str; 17] = [
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
/// Codes that say a person has to act; also as the sub-error of `invalid_grant`.
const USER: [&str; 4] = ["interactionrequired", "consentrequired", "loginrequired", "mfarequired"];
/// Codes that say the OAuth client or the request is wrong, whatever else stands there.
pub(super) const CONFIG: [&str; 9] = [
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
/// Codes that say the server is in trouble.
const TRANSIENT: [&str; 15] = [
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
/// Codes that say that it is too much, or too soon.
const THROTTLED: [&str; 12] = [
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
/// Texts that say so, where the client is blamed for it.
const THROTTLED_TEXTS: [&str; 5] =
    ["rate limit", "ratelimit", "too many", "try again in", "try again after"];
/// Texts that say that the same request is at work already.
const AT_WORK: [&str; 6] = [
    "being processed",
    "in progress",
    "concurrent",
    "already processing",
    "another request",
    "authorization pending",
];
/// Texts that say that it passes.
const PASSES: [&str; 4] = ["try again", "retry", "temporar", "timed out"];
/// What is wrong with a token that is gone, beyond doubt.
const GONE: [&str; 16] = [
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
/// The same where nothing says that there is none in the request.
const UNKNOWN: [&str; 8] = [
    "invalid",
    "not found",
    "unknown",
    "not valid",
    "not recognized",
    "not recognised",
    "unrecognized",
    "unrecognised",
];
/// What is wrong with a request without one.
const ABSENT: [&str; 13] = [
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
/// What is required of a person, which is no parameter.
const OF_PERSON: [&str; 8] =
    ["authenticat", "authoriz", "authoris", "login", "log in", "sign in", "signin", "consent"];
/// What else may be wrong, although a refresh token is named beside it.
const OTHERS: [&str; 14] = [
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

/// The class by the rules that hold for every server.
pub(super) fn classify(status: StatusCode, said: &ErrorDetails) -> ErrorClass {
    let blames_client = matches!(status.as_u16(), 200..=299 | 400..=499);
    let description = said.description.as_deref().map(plain).unwrap_or_default();
    // A server that throttles may call itself unavailable; its wait counts all the same.
    let is_too_much = status == StatusCode::TOO_MANY_REQUESTS;
    if !is_too_much && (said.is(&TRANSIENT) || TRANSIENT.contains(&description.as_str())) {
        return ErrorClass::Transient;
    }
    if let Some(class) = throttled(status, said).or_else(|| facebook(said)) {
        return class;
    }
    let suberror = said.suberror.as_deref().map(plain).unwrap_or_default();
    if said.is(&USER) || (said.is(&DEAD) && USER.contains(&suberror.as_str())) {
        return ErrorClass::UserNeeded;
    }
    if said.is(&CONFIG) {
        return ErrorClass::Config;
    }
    if said.is(&DEAD) {
        return dead_or_passing(said);
    }
    let names_refresh_token = said.has(&["refresh token"]);
    if names_refresh_token && matches!(status.as_u16(), 200..=299 | 400 | 401 | 403) {
        if says_any(said, &GONE) {
            return dead_or_passing(said);
        }
        if is_absent(said) {
            return ErrorClass::Config;
        }
        if says_any(said, &UNKNOWN) {
            return dead_or_passing(said);
        }
    }
    if blames_client && (said.has(&AT_WORK) || said.is(&["authorizationpending"])) {
        ErrorClass::Busy
    } else if blames_client && said.has(&PASSES) {
        ErrorClass::Transient
    } else if said.is(&["unauthorizedclient"]) {
        ErrorClass::Config
    } else if said.is(&["invalidrequest"]) {
        ErrorClass::Doubtful
    } else {
        by_status(status, said, names_refresh_token)
    }
}

/// Do its texts say, whatever its codes, that the refresh token is gone?
pub(super) fn is_dead(said: &ErrorDetails) -> bool {
    said.has(&["refresh token"])
        && (says_any(said, &GONE) || (!is_absent(said) && says_any(said, &UNKNOWN)))
}

/// Is this one of the codes that the rules know?
pub(super) fn is_known(code: &str) -> bool {
    let lists: [&[&str]; 5] = [&DEAD, &USER, &CONFIG, &TRANSIENT, &THROTTLED];
    let others = ["unauthorizedclient", "invalidrequest", "usedpopnonce", "authorizationpending"];
    lists.iter().any(|list| list.contains(&code)) || others.contains(&code)
}

fn throttled(status: StatusCode, said: &ErrorDetails) -> Option<ErrorClass> {
    let by_text = matches!(status.as_u16(), 200..=299 | 400..=403 | 406..=409 | 411..=499)
        && said.has(&THROTTLED_TEXTS)
        && !said.is(&DEAD)
        && !said.is(&USER);
    let is_throttled = status == StatusCode::TOO_MANY_REQUESTS || said.is(&THROTTLED) || by_text;
    is_throttled.then_some(ErrorClass::Throttled)
}

/// `OAuthException`, which says by its number what it means.
fn facebook(said: &ErrorDetails) -> Option<ErrorClass> {
    let number = |numbers: &[&str]| said.codes.iter().any(|code| numbers.contains(&code.as_str()));
    if !said.is(&["oauth"]) {
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

/// What a code that says "dead" means beside its text: a server that has no other code for it refuses also
/// what it would accept later, or from elsewhere, this way.
fn dead_or_passing(said: &ErrorDetails) -> ErrorClass {
    let assertion = ["assertion", "not yet valid", "clock", "iat claim", "nbf claim"];
    if said.has(&AT_WORK) || said.has(&["encountered a loop", "request loop"]) {
        ErrorClass::Busy
    } else if said.has(&["rate limit", "rate exceeded", "too many requests", "throttl"]) {
        ErrorClass::Throttled
    } else if said.has(&assertion)
        || said.has(&["ip restricted", "ip address", "subject token"])
        || said.has_word(&["issuer", "audience", "iat", "nbf", "locked"])
    {
        ErrorClass::Config
    } else if said.has(&["refresh token"]) && says_gone(said) {
        // "Please try again" is what people are told here, with another token.
        ErrorClass::GrantDead
    } else if said.has(&PASSES) && !said.has(&["expired", "revoked"]) {
        ErrorClass::Busy
    } else {
        ErrorClass::GrantDead
    }
}

/// Beside the words "refresh token": is it that token which is gone?
fn says_gone(said: &ErrorDetails) -> bool {
    says_any(said, &GONE) || says_any(said, &UNKNOWN)
}

fn says_any(said: &ErrorDetails, phrases: &[&str]) -> bool {
    let without = ["invalid request", "invalid parameter", "invalid input", "invalid value"];
    let words = without.iter().fold(said.words.clone(), |words, phrase| words.replace(phrase, ""));
    phrases.iter().any(|phrase| words.contains(phrase)) && (!said.has(&OTHERS) || said.is(&DEAD))
}

/// Is there no refresh token in the request? "Missing or invalid" is what a dead one is called, too; and
/// what is required may be a person.
fn is_absent(said: &ErrorDetails) -> bool {
    let words = ["missing or invalid refresh token", "invalid or missing refresh token"]
        .iter()
        .fold(said.words.clone(), |words, phrase| words.replace(phrase, ""));
    let mut clauses = words.split(['.', ';', ',']);
    clauses.any(|clause| {
        let has = |phrases: &[&str]| phrases.iter().any(|phrase| clause.contains(phrase));
        has(&ABSENT) && !has(&OF_PERSON)
    })
}

fn by_status(status: StatusCode, said: &ErrorDetails, names_refresh_token: bool) -> ErrorClass {
    match status.as_u16() {
        423 => ErrorClass::Busy,
        // HTTP Version Not Supported: it never will be.
        505 => ErrorClass::Config,
        // Also with a page: a proxy says by the status that its server is in trouble, and once it is
        // not, nobody should have to wait a quarter of an hour.
        408 | 425 | 500..=599 => ErrorClass::Transient,
        200..=499 if said.is_page || said.names_path => ErrorClass::Gateway,
        404 | 405 | 410 if said.parsed && names_refresh_token => ErrorClass::Doubtful,
        404 | 405 | 410 => ErrorClass::Gateway,
        400 if !said.parsed => ErrorClass::Doubtful,
        403 if !said.parsed => ErrorClass::Ambiguous,
        200..=299 if !said.parsed => ErrorClass::Unreadable,
        200..=499 => ErrorClass::Config,
        _ => ErrorClass::Ambiguous,
    }
}
