//! The one place where a failure becomes a response.
//!
//! Texts are fixed sentences with the next action; none repeats a byte of the request, of an origin
//! server or of an authorization server. bearerd never answers 401 for a failure of its own: clients
//! would begin an authentication of theirs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, PROXY_AUTHENTICATE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::Body;
use super::message::MessageError;
use super::origin_error::OriginError;
use crate::credential::{ChoiceError, InjectionError, InstanceError};
use crate::origin::AuthorityError;
use crate::store::TerminalReason;
use crate::token::TokenError;

/// Why a request is answered by this proxy and not by an origin server.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error(transparent)]
    Message(#[from] MessageError),
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
    Choice { credential: Arc<str>, error: ChoiceError },
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
    Ca(Arc<crate::ca::CaError>),
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
                    MessageError::Loop => "proxy_loop_detected",
                    _ => "http_request_error",
                };
                verdict(status, kind, &error.to_string())
            }
            Self::Nameless | Self::Choice { error: ChoiceError::Nameless, .. } => verdict(
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
                let (status, kind, text) = origin_verdict(error);
                verdict(status, kind, text)
            }
            Self::Injection { .. } => verdict(
                StatusCode::BAD_GATEWAY,
                "proxy_internal_error",
                "the access token could not be put on the request; bearerd's log says why",
            ),
            Self::Ca(_) => verdict(
                StatusCode::BAD_GATEWAY,
                "proxy_internal_error",
                "the local CA could not make a certificate; bearerd's log says why",
            ),
        }
    }

    /// Closes the connection after requests whose framing or meaning is in doubt.
    fn closes(&self) -> bool {
        matches!(self, Self::Message(error) if message_status(error) == StatusCode::BAD_REQUEST)
    }

    /// The RFC 9209 error type, for the access log.
    pub(super) fn kind(&self) -> &'static str {
        self.verdict().kind
    }

    /// The response, in the form that the client prefers.
    pub(super) fn response(&self, accepts: Accepts, request_id: &str) -> Response<Body> {
        let verdict = self.verdict();
        let mut response = own_response(verdict.status, &verdict.text, accepts, request_id);
        let fields = response.headers_mut();
        let status =
            format!("bearerd; error={}; details=\"{}\"", verdict.kind, escape(&verdict.text));
        insert(fields, PROXY_STATUS, &status);
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

fn message_status(error: &MessageError) -> StatusCode {
    match error {
        MessageError::Authority(_)
        | MessageError::OriginForm
        | MessageError::Scheme
        | MessageError::Host
        | MessageError::ConnectTarget
        | MessageError::Path
        | MessageError::ConnectContent => StatusCode::BAD_REQUEST,
        MessageError::TransferCoding => StatusCode::NOT_IMPLEMENTED,
        MessageError::Trace => StatusCode::METHOD_NOT_ALLOWED,
        MessageError::TargetTooLong => StatusCode::URI_TOO_LONG,
        MessageError::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        MessageError::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        MessageError::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        MessageError::Loop => StatusCode::LOOP_DETECTED,
    }
}

fn token_verdict(credential: &str, error: &TokenError) -> Verdict {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    match error {
        TokenError::Unavailable { why, .. } if why.needs_operator() => Verdict {
            status,
            kind: "credential_needs_login",
            text: format!(
                "no access token for credential \"{credential}\" ({why}): an operator has to act; \
                 `bearerd status` says what to do."
            ),
            retry_after: None,
        },
        TokenError::Unavailable { retry_after, why } if why.advice().is_some() => Verdict {
            status,
            kind: "credential_unavailable",
            text: format!(
                "no access token for credential \"{credential}\" at the moment ({why}). bearerd asks \
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

fn instance_verdict(error: InstanceError, text: &str) -> Verdict {
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

fn origin_verdict(error: &OriginError) -> (StatusCode, &'static str, &'static str) {
    let bad = StatusCode::BAD_GATEWAY;
    match error {
        OriginError::Name(_) => (bad, "dns_error", "the origin server's name cannot be resolved"),
        OriginError::DeniedAddress(_) => (
            StatusCode::FORBIDDEN,
            "destination_ip_prohibited",
            "the origin server's address is denied; an operator can list it in proxy.allow_addresses",
        ),
        OriginError::OwnAddress => (
            StatusCode::LOOP_DETECTED,
            "proxy_loop_detected",
            "the origin server is this proxy itself",
        ),
        OriginError::Refused => {
            (bad, "connection_refused", "the origin server refused the connection")
        }
        OriginError::Unreachable(_) => {
            (bad, "destination_ip_unroutable", "the origin server cannot be reached")
        }
        OriginError::ConnectTimeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "connection_timeout",
            "the origin server did not accept a connection in time (limits.connect_timeout)",
        ),
        OriginError::Certificate(_) => (
            bad,
            "tls_certificate_error",
            "the origin server's certificate is not trusted; if its CA is your own, list it in \
             tls.extra_roots",
        ),
        OriginError::Tls(_) => {
            (bad, "tls_protocol_error", "the TLS handshake with the origin server failed")
        }
        OriginError::ResponseTimeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "http_response_timeout",
            "the origin server did not answer in time (limits.response_timeout)",
        ),
        OriginError::Closed(_) => (
            bad,
            "connection_terminated",
            "the origin server closed the connection before it answered",
        ),
        OriginError::Response(_) | OriginError::Framing => {
            (bad, "http_protocol_error", "the origin server's answer is not valid HTTP")
        }
        OriginError::Upgrade => (
            bad,
            "http_upgrade_failed",
            "the origin server changed the protocol without being asked",
        ),
        OriginError::Request(_) => (
            StatusCode::BAD_REQUEST,
            "http_request_error",
            "the request's content broke off before its end",
        ),
    }
}

/// What form of a message the client prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepts {
    /// One sentence of text.
    Text,
    /// `application/problem+json` (RFC 9457).
    Json,
}

impl Accepts {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let accept = fields.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("json") && !accept.contains("text/") { Self::Json } else { Self::Text }
    }
}

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A response of bearerd's own.
pub(super) fn own_response(
    status: StatusCode,
    text: &str,
    accepts: Accepts,
    request_id: &str,
) -> Response<Body> {
    let (kind, body) = match accepts {
        Accepts::Text => ("text/plain; charset=utf-8", format!("bearerd: {text}\n")),
        Accepts::Json => {
            let problem = serde_json::json!({
                "type": "about:blank",
                "title": status.canonical_reason(),
                "status": status.as_u16(),
                "detail": text,
                "request_id": request_id,
            });
            ("application/problem+json", format!("{problem}\n"))
        }
    };
    let mut response = Response::new(Body::full(Bytes::from(body)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    insert(fields, CONTENT_TYPE, kind);
    insert(fields, X_CONTENT_TYPE_OPTIONS, "nosniff");
    insert(fields, CACHE_CONTROL, "no-store");
    insert(fields, REQUEST_ID, request_id);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        insert(
            fields,
            http::header::ALLOW,
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT",
        );
    }
    response
}

fn insert(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    // Every value here is ASCII text of this module or a credential's name.
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.insert(name, value);
    }
}

/// A structured-field string (RFC 9651 §3.3.3).
fn escape(text: &str) -> String {
    text.chars()
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
        .collect()
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

    #[test]
    fn a_sentence_becomes_a_structured_field_string() {
        assert_eq!(escape("a \"b\" \\ é\n"), "a \\\"b\\\" \\\\ ??");
    }

    #[test]
    fn json_is_for_clients_that_ask_for_nothing_textual() {
        let accepts = |value: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(ACCEPT, HeaderValue::from_str(value).unwrap());
            Accepts::of(&fields)
        };
        assert_eq!(accepts("application/json"), Accepts::Json);
        assert_eq!(accepts("application/json, text/plain, */*"), Accepts::Text);
        assert_eq!(accepts("text/html,application/xhtml+xml"), Accepts::Text);
        assert_eq!(Accepts::of(&HeaderMap::new()), Accepts::Text);
    }

    #[test]
    fn a_missing_token_is_503_and_never_401() {
        for (error, retry) in [
            (
                TokenError::Unavailable {
                    retry_after: Duration::from_millis(1),
                    why: crate::token::FailureReason::Timeout,
                },
                Some("1"),
            ),
            (
                TokenError::Unavailable {
                    retry_after: Duration::from_secs(99_999),
                    why: crate::token::FailureReason::Timeout,
                },
                Some("3600"),
            ),
            (TokenError::NeedsLogin { reason: TerminalReason::Revoked }, None),
        ] {
            let error = ProxyError::Token { credential: Arc::from("billing"), error };
            let response = error.response(Accepts::Text, "id");
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers().get(RETRY_AFTER).map(|v| v.to_str().unwrap()), retry);
            let status = response.headers()[PROXY_STATUS].to_str().unwrap();
            assert!(status.starts_with("bearerd; error=credential_"), "{status}");
        }
    }
}
