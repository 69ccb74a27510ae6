//! What the client hears when there is no token for its request.

use http::StatusCode;

use super::Verdict;
use crate::credential::InstanceError;
use crate::store::TerminalReason;
use crate::token::TokenError;

pub(super) fn token_verdict(credential: &str, error: &TokenError) -> Verdict {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        TokenError::Unavailable { reason, .. } if reason.needs_operator() => Verdict {
            status,
            kind: "credential_needs_login",
            text: format!(
                "no access token for credential \"{credential}\" ({reason}): an operator has to act; \
                 `bearerd status` says what to do."
            ),
            retry_after: None,
        },
        TokenError::Unavailable { retry_after, reason } if reason.advice().is_some() => Verdict {
            status,
            kind: "credential_unavailable",
            text: format!(
                "no access token for credential \"{credential}\" at the moment ({reason}). bearerd asks \
                 again from time to time, but an operator should look: `bearerd status` says at what."
            ),
            retry_after: Some(*retry_after),
        },
        TokenError::Unavailable { retry_after, .. } => Verdict {
            status,
            kind: "credential_unavailable",
            text: format!(
                "no access token for credential \"{credential}\" at the moment: the authorization \
                 server gave none. bearerd tries again by itself; so should you, after the time in \
                 Retry-After."
            ),
            retry_after: Some(*retry_after),
        },
        TokenError::NeedsLogin { reason } => Verdict {
            status,
            kind: "credential_needs_login",
            text: format!(
                "no access token for credential \"{credential}\": {}. An operator has to put a \
                 new refresh_token in the place of the first one, which bearerd notices by itself.",
                explain(*reason)
            ),
            retry_after: None,
        },
    }
}

pub(super) fn instance_verdict(error: InstanceError, text: &str) -> Verdict {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (status, kind, next) = match error {
        InstanceError::Unknown => (
            StatusCode::FORBIDDEN,
            "http_request_denied",
            "an operator can put a refresh_token in place for them",
        ),
        InstanceError::TooMany => (
            unavailable,
            "credential_unavailable",
            "an operator can list the values that are allowed in its `vars`, or reload bearerd \
             (SIGHUP), which forgets those without a token",
        ),
        InstanceError::Secret => {
            (unavailable, "credential_needs_login", "bearerd's log names the file")
        }
    };
    Verdict { status, kind, text: format!("{text}; {next}"), retry_after: None }
}

fn explain(reason: TerminalReason) -> &'static str {
    match reason {
        TerminalReason::Revoked => "the authorization server no longer accepts its refresh token",
        TerminalReason::LostRotation => {
            "the authorization server replaced its refresh token and the answer with the new one \
             was lost on the way"
        }
        TerminalReason::UserNeeded => "the authorization server asks for a person to sign in again",
        TerminalReason::NoGrant => "it has no refresh token",
        TerminalReason::Corrupt => "its stored record is damaged",
        TerminalReason::LoggedOut => "it was logged out",
        TerminalReason::OtherGrant => {
            "its stored tokens are of another configuration (server, client or user)"
        }
    }
}
