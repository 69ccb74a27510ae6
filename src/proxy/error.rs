//! The one place where a failure becomes a response.
//!
//! Texts are fixed sentences with the next action; none repeats a byte of the request, of an origin
//! server or of an authorization server. bearerd never answers 401 for a failure of its own: clients
//! would begin an authentication of theirs.

mod origin;
mod token;

use std::sync::Arc;
use std::time::Duration;

use http::header::{PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{Response, StatusCode};

use super::local_response::{ResponseFormat, insert, insert_proxy_status, local_response};
use super::origin_error::OriginError;
use super::request_target::RequestRefusal;
use super::response_body::ResponseBody;
use crate::ca::CaError;
use crate::credential::{InjectionError, InstanceError, VariableError};
use crate::origin::AuthorityError;
use crate::token::TokenError;
use origin::origin_verdict;
use token::{instance_verdict, token_verdict};

/// Why a request is answered by this proxy and not by an origin server.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error(transparent)]
    Message(#[from] RequestRefusal),
    #[error("no credential is configured for this host, and `unmatched` is \"deny\"")]
    Unmatched,
    #[error("no credential of this host is for this method and path, and `unmatched` is \"deny\"")]
    UnmatchedPath,
    #[error(
        "the request brings a field or parameter that credential \"{0}\" would add, and its \
         `on_existing` is \"reject\"; leave it out of the request"
    )]
    Existing(Arc<str>),
    #[error("credential \"{credential}\" {error}")]
    Choice { credential: Arc<str>, error: VariableError },
    #[error(
        "the token of this host is chosen by the client's name, which it gives as the user name of its \
         proxy: http://NAME:any@127.0.0.1:8080"
    )]
    Nameless,
    #[error("credential \"{credential}\" {error}")]
    Instance { credential: Arc<str>, error: InstanceError },
    #[error("the token of credential {credential} cannot be put on the request: {error}")]
    Injection { credential: Arc<str>, error: InjectionError },
    #[error("CONNECT to port {0} is not allowed")]
    Port(u16),
    #[error("credential {credential}: {error}")]
    Token { credential: Arc<str>, error: TokenError },
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("TLS cannot be intercepted: {0}")]
    Ca(Arc<CaError>),
}

/// Status, RFC 9209 error type and the sentence for the client.
struct Verdict {
    status: StatusCode,
    kind: &'static str,
    text: String,
    retry_after: Option<Duration>,
}

impl ProxyError {
    fn verdict(&self) -> Verdict {
        let verdict = |status, kind, text: &str| Verdict {
            status,
            kind,
            text: text.to_owned(),
            retry_after: None,
        };
        match self {
            Self::Message(error) => {
                let status = message_status(error);
                let kind = match error {
                    RequestRefusal::Loop => "proxy_loop_detected",
                    _ => "http_request_error",
                };
                verdict(status, kind, &error.to_string())
            }
            Self::Nameless | Self::Choice { error: VariableError::NoClientName, .. } => verdict(
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                "http_request_denied",
                &self.to_string(),
            ),
            Self::Unmatched | Self::UnmatchedPath | Self::Existing(_) | Self::Choice { .. } => {
                verdict(StatusCode::FORBIDDEN, "http_request_denied", &self.to_string())
            }
            Self::Instance { error, .. } => instance_verdict(*error, &self.to_string()),
            Self::Port(_) => verdict(
                StatusCode::FORBIDDEN,
                "http_request_denied",
                &format!("{self}; an operator can add it to proxy.connect_ports"),
            ),
            Self::Token { credential, error } => token_verdict(credential, error),
            Self::Origin(error) => {
                let told = origin_verdict(error);
                verdict(told.status, told.kind, &told.text())
            }
            Self::Injection { .. } => verdict(
                StatusCode::BAD_GATEWAY,
                "proxy_internal_error",
                "the access token could not be put on the request; bearerd's log says why",
            ),
            Self::Ca(error) if matches!(**error, CaError::Expired { .. }) => {
                verdict(StatusCode::BAD_GATEWAY, "proxy_internal_error", &error.to_string())
            }
            Self::Ca(_) => verdict(
                StatusCode::BAD_GATEWAY,
                "proxy_internal_error",
                "the local CA could not make a certificate; bearerd's log says why",
            ),
        }
    }

    /// Closes the connection after requests whose framing or meaning is in doubt.
    fn closes(&self) -> bool {
        let is_doubtful =
            |status| matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED);
        matches!(self, Self::Message(error) if is_doubtful(message_status(error)))
    }

    /// Is it the client's own doing, so that nothing but the request has to change?
    pub(super) fn is_client_error(&self) -> bool {
        matches!(self, Self::Origin(OriginError::Request(_)))
            || self.verdict().status.is_client_error()
    }

    /// The limit that was reached: its key in `[limits]`, or `descriptors`.
    pub(super) fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::Message(RequestRefusal::ContentTooLarge) => "body_bytes",
            Self::Message(RequestRefusal::TargetTooLong) => "request_line",
            Self::Message(RequestRefusal::TooManyFields) => "header_count",
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

    /// What the operator can do about it.
    pub(super) fn advice(&self) -> String {
        self.verdict().text
    }

    /// The RFC 9209 error type, for the access log.
    pub(super) fn error_type(&self) -> &'static str {
        self.verdict().kind
    }

    /// The response, in the form that the client prefers.
    pub(super) fn response(
        &self,
        accepts: ResponseFormat,
        request_id: &str,
    ) -> Response<ResponseBody> {
        let verdict = self.verdict();
        let mut response = local_response(verdict.status, &verdict.text, accepts, request_id);
        let fields = response.headers_mut();
        let rcode = match self {
            Self::Origin(error) => error.rcode(),
            _ => None,
        };
        insert_proxy_status(fields, verdict.kind, rcode, &verdict.text);
        if verdict.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            insert(fields, PROXY_AUTHENTICATE, "Basic realm=\"bearerd\"");
        }
        if let Some(wait) = verdict.retry_after {
            let seconds = wait.as_secs_f64().ceil().clamp(1.0, 3600.0);
            insert(fields, RETRY_AFTER, &format!("{seconds:.0}"));
        }
        if self.closes() {
            insert(fields, http::header::CONNECTION, "close");
        }
        response
    }
}

fn message_status(error: &RequestRefusal) -> StatusCode {
    match error {
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
    }
}

impl From<AuthorityError> for ProxyError {
    fn from(error: AuthorityError) -> Self {
        Self::Message(error.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::TerminalReason;

    #[test]
    fn a_missing_token_is_503_and_never_401() {
        for (error, retry) in [
            (
                TokenError::Unavailable {
                    retry_after: Duration::from_millis(1),
                    reason: crate::token::FailureReason::Timeout,
                },
                Some("1"),
            ),
            (
                TokenError::Unavailable {
                    retry_after: Duration::from_secs(99_999),
                    reason: crate::token::FailureReason::Timeout,
                },
                Some("3600"),
            ),
            (TokenError::NeedsLogin { reason: TerminalReason::Revoked }, None),
        ] {
            let error = ProxyError::Token { credential: Arc::from("billing"), error };
            let response = error.response(ResponseFormat::Text, "id");
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers().get(RETRY_AFTER).map(|v| v.to_str().unwrap()), retry);
            let status = response.headers()["proxy-status"].to_str().unwrap();
            assert!(status.starts_with("bearerd; error=credential_"), "{status}");
        }
    }
}
