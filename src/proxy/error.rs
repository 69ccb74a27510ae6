//! The errors that the proxy responds to itself, and the one place where an error becomes a response.
//!
//! [`ProxyError`] is what went wrong; `error_report` says what the client is told. Every text is a fixed sentence that
//! ends in the next action. None repeats a byte of the request, of an origin server or of an authorization server.
//!
//! bearerd never responds 401 for an error of its own, because clients would start to authenticate themselves.

mod error_report;
mod origin_failure;
mod token_failure;

use std::sync::Arc;

use http::header::{CONNECTION, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{Response, StatusCode};

use super::local_response::{ResponseFormat, insert, insert_proxy_status, local_response};
use super::origin_error::OriginError;
use super::request_target::RequestRefusal;
use super::response_body::ResponseBody;
use crate::ca::CaError;
use crate::credential::{InjectionError, InstanceError, VariableError};
use crate::origin::AuthorityError;
use crate::token::TokenError;

/// Why the proxy responds to a request itself. The `Display` form is for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error(transparent)]
    Request(#[from] RequestRefusal),
    #[error("no credential is configured for this host, and `unmatched` is \"deny\"")]
    Unmatched,
    #[error(
        "no credential for this host applies to this method and path, and `unmatched` is \"deny\""
    )]
    UnmatchedPath,
    #[error(
        "the request has a field or parameter that credential \"{0}\" would add, and its \
         `on_existing` is \"reject\"; remove it from the request"
    )]
    Existing(Arc<str>),
    #[error("credential \"{credential}\" {error}")]
    Choice { credential: Arc<str>, error: VariableError },
    #[error(
        "the token for this host depends on the client's name; send it as the user name of the proxy URL: \
         http://NAME:any@127.0.0.1:8080"
    )]
    MissingClientName,
    #[error("credential \"{credential}\" {error}")]
    Instance { credential: Arc<str>, error: InstanceError },
    #[error("the token of credential {credential} cannot be put on the request: {error}")]
    Injection { credential: Arc<str>, error: InjectionError },
    #[error("CONNECT to port {0} is not allowed")]
    ForbiddenPort(u16),
    #[error("credential {credential}: {error}")]
    Token { credential: Arc<str>, error: TokenError },
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("TLS cannot be intercepted: {0}")]
    Ca(Arc<CaError>),
}

impl ProxyError {
    /// Returns true if the client caused the error, so that only a different request can succeed.
    pub(super) fn is_client_error(&self) -> bool {
        matches!(self, Self::Origin(OriginError::Request(_)))
            || self.report().status.is_client_error()
    }

    /// Returns the limit that was reached: its key in `[limits]`, or `descriptors`.
    pub(super) fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::Request(RequestRefusal::ContentTooLarge) => "body_bytes",
            Self::Request(RequestRefusal::TargetTooLong) => "request_line",
            Self::Request(RequestRefusal::TooManyFields) => "header_count",
            Self::Origin(OriginError::ConnectTimeout | OriginError::HandshakeTimeout) => {
                "connect_timeout"
            }
            Self::Origin(OriginError::ResponseTimeout) => "response_timeout",
            Self::Origin(OriginError::SendTimeout) => "send_timeout",
            Self::Origin(OriginError::ContentTimeout) => "stall_timeout",
            Self::Origin(OriginError::Head) => "header_count",
            Self::Origin(OriginError::NoDescriptor | OriginError::Exhausted(_)) => "descriptors",
            _ => return None,
        })
    }

    /// Returns the text for the client, which says what an operator can do about the error.
    pub(super) fn advice(&self) -> String {
        self.report().text
    }

    /// Returns the RFC 9209 error type, for the log.
    pub(super) fn error_type(&self) -> &'static str {
        self.report().error_type
    }

    /// Returns the response to the client.
    pub(super) fn response(
        &self,
        format: ResponseFormat,
        request_id: &str,
    ) -> Response<ResponseBody> {
        let report = self.report();
        let mut response = local_response(report.status, &report.text, format, request_id);
        let fields = response.headers_mut();
        let rcode = match self {
            Self::Origin(error) => error.rcode(),
            _ => None,
        };
        insert_proxy_status(fields, report.error_type, rcode, &report.text);
        if report.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            insert(fields, PROXY_AUTHENTICATE, "Basic realm=\"bearerd\"");
        }
        if let Some(wait) = report.retry_after {
            let seconds = wait.as_secs_f64().ceil().clamp(1.0, 3600.0);
            insert(fields, RETRY_AFTER, &format!("{seconds:.0}"));
        }
        if self.closes_connection(report.status) {
            insert(fields, CONNECTION, "close");
        }
        response
    }

    /// Returns true if the request's framing or meaning is in doubt, so that nothing after it can be trusted.
    fn closes_connection(&self, status: StatusCode) -> bool {
        matches!(self, Self::Request(_))
            && matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED)
    }
}

impl From<AuthorityError> for ProxyError {
    fn from(error: AuthorityError) -> Self {
        Self::Request(error.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    mod reference;

    use std::time::Duration;

    use super::*;
    use crate::store::TerminalReason;
    use crate::token::FailureReason;

    #[test]
    fn a_missing_token_is_503_and_never_401() {
        let unavailable = |retry_after| {
            let reason = FailureReason::Timeout;
            TokenError::Unavailable { retry_after, reason }
        };
        for (error, retry_after) in [
            (unavailable(Duration::from_millis(1)), Some("1")),
            (unavailable(Duration::from_secs(99_999)), Some("3600")),
            (TokenError::NeedsLogin { reason: TerminalReason::Revoked }, None),
        ] {
            let error = ProxyError::Token { credential: Arc::from("billing"), error };
            let response = error.response(ResponseFormat::Text, "id");
            assert_eq!(response.status(), 503, "{error}");
            let sent = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(sent, retry_after, "Retry-After of {error}");
            let status = response.headers()["proxy-status"].to_str().unwrap();
            assert!(status.starts_with("bearerd; error=credential_"), "{status}");
        }
    }
}
