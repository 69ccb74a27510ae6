//! What the client hears when an origin server gave no answer.

use http::StatusCode;

use crate::proxy::origin_error::OriginError;

pub(super) fn origin_verdict(error: &OriginError) -> (StatusCode, &'static str, &'static str) {
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
        OriginError::Response(_) | OriginError::Framing(_) => {
            (bad, "http_protocol_error", "the origin server's answer is not valid HTTP")
        }
        OriginError::Head => (
            bad,
            "http_response_header_section_size",
            "the origin server's answer has a head larger than this proxy \
             passes on: more than 64 KiB, or more fields than limits.header_count",
        ),
        OriginError::TooManyInterim => (
            bad,
            "http_protocol_error",
            "the origin server sent more than 16 interim responses (1xx) and no answer",
        ),
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
