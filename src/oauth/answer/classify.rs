//! What an answer that is no token means. The rules are tried in order; the first decides.

use http::StatusCode;

use super::super::Class;
use super::members::Members;

/// Codes that say the grant itself is gone, whatever the status.
const DEAD: [&str; 9] = [
    "invalid_grant",
    "bad_refresh_token",
    "invalid_refresh_token",
    "refresh_token_reused",
    "expired_token",
    "token_expired",
    "token_revoked",
    "invalid_code",
    "app_session_terminated",
];
/// Codes that say a person has to act; also as the sub-error of `invalid_grant`.
const USER: [&str; 4] =
    ["interaction_required", "consent_required", "login_required", "mfa_required"];
/// Codes that say the OAuth client or the request is wrong.
const CONFIG: [&str; 6] = [
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
];
/// Codes that say the server is in trouble.
const TRANSIENT: [&str; 3] = ["temporarily_unavailable", "server_error", "internal_failure"];

/// The class by the rules that hold for every server.
pub(super) fn classify(
    status: StatusCode,
    members: &Members,
    code: Option<&str>,
    description: Option<&str>,
) -> Class {
    let is = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code));
    let suberror = members.text("suberror");
    if is(&TRANSIENT) || description.is_some_and(|text| TRANSIENT.contains(&text)) {
        Class::Transient
    } else if is_throttled(status, code, description) {
        Class::Throttled
    } else if is(&USER) || (is(&DEAD) && suberror.is_some_and(|sub| USER.contains(&sub))) {
        Class::UserNeeded
    } else if is(&DEAD) {
        Class::GrantDead
    } else if is(&CONFIG) {
        Class::Config
    } else if code == Some("invalid_request") {
        Class::Doubtful
    } else {
        classify_by_status(status, members, code, description)
    }
}

fn is_throttled(status: StatusCode, code: Option<&str>, description: Option<&str>) -> bool {
    if status == StatusCode::TOO_MANY_REQUESTS {
        return true;
    }
    let text = description.unwrap_or_default().to_ascii_lowercase();
    match code {
        Some("slow_down" | "too_many_requests") => true,
        Some("Access Denied") => text.contains("too many"),
        Some(code) if DEAD.contains(&code) || USER.contains(&code) => false,
        _ => {
            let client_error = matches!(status.as_u16(), 400 | 403);
            let phrases = ["rate limit", "too many", "try again in", "try again after"];
            client_error && phrases.iter().any(|phrase| text.contains(phrase))
        }
    }
}

fn classify_by_status(
    status: StatusCode,
    members: &Members,
    code: Option<&str>,
    description: Option<&str>,
) -> Class {
    let speaks_of_tokens = [code, description]
        .iter()
        .flatten()
        .any(|text| text.to_ascii_lowercase().contains("token"));
    match status.as_u16() {
        401 => Class::Config,
        400 if !members.parsed => Class::Doubtful,
        404 | 405 | 410 if speaks_of_tokens => Class::Doubtful,
        404 | 405 | 410 => Class::Config,
        300..=399 => Class::Config,
        200..=299 | 403 if !members.parsed => Class::Ambiguous,
        408 | 425 | 500..=599 => Class::Transient,
        200..=499 => Class::Config,
        _ => Class::Ambiguous,
    }
}
