//! What the client is told when there is no token for its request.

use http::StatusCode;

use super::error_report::ErrorReport;
use crate::credential::InstanceError;
use crate::store::TerminalReason;
use crate::token::TokenError;

const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// Reports why `credential` has no access token.
pub(super) fn token_failure(credential: &str, error: &TokenError) -> ErrorReport {
    let event = format!("no access token for credential \"{credential}\"");
    match error {
        TokenError::Unavailable { reason, .. } if reason.needs_operator() => ErrorReport::new(
            UNAVAILABLE,
            "credential_needs_login",
            format!(
                "{event} ({reason}): an operator has to act; `bearerd status` says what to do."
            ),
        ),
        TokenError::Unavailable { retry_after, reason } if reason.advice().is_some() => {
            let text = format!(
                "{event} at the moment ({reason}). bearerd keeps retrying, but an operator should check \
                 `bearerd status`."
            );
            let retry_after = Some(*retry_after);
            ErrorReport {
                retry_after,
                ..ErrorReport::new(UNAVAILABLE, "credential_unavailable", text)
            }
        }
        TokenError::Unavailable { retry_after, .. } => {
            let text = format!(
                "{event} at the moment: the last token request failed. bearerd keeps retrying; try again \
                 after the time in `Retry-After`."
            );
            let retry_after = Some(*retry_after);
            ErrorReport {
                retry_after,
                ..ErrorReport::new(UNAVAILABLE, "credential_unavailable", text)
            }
        }
        TokenError::NeedsLogin { reason } => ErrorReport::new(
            UNAVAILABLE,
            "credential_needs_login",
            format!(
                "{event}: {}. An operator has to configure a new refresh_token, which bearerd picks up without a \
                 restart.",
                terminal_reason(*reason)
            ),
        ),
    }
}

/// Reports why a token that depends on variables cannot be used. `event` names the credential and the problem.
pub(super) fn instance_failure(error: InstanceError, event: &str) -> ErrorReport {
    let (status, error_type, advice) = match error {
        InstanceError::Unknown => (
            StatusCode::FORBIDDEN,
            "http_request_denied",
            "an operator can configure a refresh_token for them",
        ),
        InstanceError::TooMany => (
            UNAVAILABLE,
            "credential_unavailable",
            "an operator can list the allowed values in its `vars`, or reload bearerd (SIGHUP), which drops the \
             values without a token",
        ),
        InstanceError::Secret => {
            (UNAVAILABLE, "credential_needs_login", "bearerd's log names the file")
        }
    };
    ErrorReport::new(status, error_type, format!("{event}; {advice}"))
}

fn terminal_reason(reason: TerminalReason) -> &'static str {
    match reason {
        TerminalReason::Revoked => "the authorization server no longer accepts its refresh token",
        TerminalReason::LostRotation => {
            "the authorization server replaced its refresh token, and the response with the new one was lost"
        }
        TerminalReason::UserNeeded => "the authorization server requires the user to sign in again",
        TerminalReason::NoGrant => "it has no refresh token",
        TerminalReason::Corrupt => "its stored record is damaged",
        TerminalReason::LoggedOut => "it was logged out",
        TerminalReason::OtherGrant => {
            "its stored tokens belong to another configuration (authorization server, OAuth client or user)"
        }
    }
}
