//! What the client is told about an error.

use std::time::Duration;

use http::StatusCode;

use super::ProxyError;
use super::origin_failure::origin_failure;
use super::token_failure::{instance_failure, token_failure};
use crate::ca::CaError;
use crate::credential::VariableError;
use crate::proxy::request_target::RequestRefusal;

/// What the client is told about an error.
pub(super) struct ErrorReport {
    pub(super) status: StatusCode,
    /// The error type of RFC 9209 §2.3.
    pub(super) error_type: &'static str,
    /// What happened and what to do about it.
    pub(super) text: String,
    pub(super) retry_after: Option<Duration>,
}

impl ErrorReport {
    pub(super) fn new(
        status: StatusCode,
        error_type: &'static str,
        text: impl Into<String>,
    ) -> Self {
        Self { status, error_type, text: text.into(), retry_after: None }
    }
}

impl ProxyError {
    pub(super) fn report(&self) -> ErrorReport {
        match self {
            Self::Request(refusal) => refused_request(refusal),
            Self::MissingClientName | Self::Choice { error: VariableError::NoClientName, .. } => {
                let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
                ErrorReport::new(status, "http_request_denied", self.to_string())
            }
            Self::Unmatched | Self::UnmatchedPath | Self::Existing(_) | Self::Choice { .. } => {
                denied(self.to_string())
            }
            Self::ForbiddenPort(_) => {
                denied(format!("{self}; an operator can add it to proxy.connect_ports"))
            }
            Self::Instance { error, .. } => instance_failure(*error, &self.to_string()),
            Self::Token { credential, error } => token_failure(credential, error),
            Self::Origin(error) => origin_failure(error),
            Self::Injection { .. } => internal(
                "the access token could not be put on the request; bearerd's log has the reason",
            ),
            Self::Ca(error) if matches!(**error, CaError::Expired { .. }) => {
                internal(error.to_string())
            }
            Self::Ca(_) => {
                internal("the local CA could not issue a certificate; bearerd's log has the reason")
            }
        }
    }
}

fn denied(text: impl Into<String>) -> ErrorReport {
    ErrorReport::new(StatusCode::FORBIDDEN, "http_request_denied", text)
}

fn internal(text: impl Into<String>) -> ErrorReport {
    ErrorReport::new(StatusCode::BAD_GATEWAY, "proxy_internal_error", text)
}

fn refused_request(refusal: &RequestRefusal) -> ErrorReport {
    let status = match refusal {
        RequestRefusal::Authority(_)
        | RequestRefusal::OriginForm
        | RequestRefusal::Scheme
        | RequestRefusal::Host
        | RequestRefusal::ConnectTarget
        | RequestRefusal::Path
        | RequestRefusal::ConnectContent => StatusCode::BAD_REQUEST,
        RequestRefusal::TransferCoding => StatusCode::NOT_IMPLEMENTED,
        RequestRefusal::Trace => StatusCode::METHOD_NOT_ALLOWED,
        RequestRefusal::TargetTooLong => StatusCode::URI_TOO_LONG,
        RequestRefusal::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        RequestRefusal::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RequestRefusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        RequestRefusal::Loop => StatusCode::LOOP_DETECTED,
    };
    let error_type = match refusal {
        RequestRefusal::Loop => "proxy_loop_detected",
        _ => "http_request_error",
    };
    ErrorReport::new(status, error_type, refusal.to_string())
}
