//! What the client is told when an origin server gave no usable response.
//!
//! Every text is fixed. Details that a peer has written (names in a certificate, the text of an error) appear only in
//! the `Display` form of [`OriginError`], which is for the log.

use http::StatusCode;

use super::error_report::ErrorReport;
use crate::proxy::incoming_body::PeerError;
use crate::proxy::origin_error::OriginError;
use crate::resolver::NameError;
use crate::tls::{CertificateFault, TlsCause, late_alert};

const BAD_GATEWAY: StatusCode = StatusCode::BAD_GATEWAY;
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const TIMEOUT: StatusCode = StatusCode::GATEWAY_TIMEOUT;

impl OriginError {
    /// Returns the DNS response code of a failed lookup, if known (RFC 9209 §2.3.2).
    pub(super) fn rcode(&self) -> Option<&'static str> {
        match self {
            Self::Name(NameError::NotFound) => Some("NXDOMAIN"),
            Self::Name(NameError::NoAddress) => Some("NOERROR"),
            _ => None,
        }
    }
}

/// Reports what happened and, unless `advice` is empty, what to do about it.
fn report(
    status: StatusCode,
    error_type: &'static str,
    event: &'static str,
    advice: &'static str,
) -> ErrorReport {
    let text = if advice.is_empty() { event.to_owned() } else { format!("{event}; {advice}") };
    ErrorReport::new(status, error_type, text)
}

/// Reports an [`OriginError`].
pub(super) fn origin_failure(error: &OriginError) -> ErrorReport {
    match error {
        OriginError::Name(error) => name_failure(*error),
        OriginError::DeniedAddress(_) => report(
            StatusCode::FORBIDDEN,
            "destination_ip_prohibited",
            "the origin server's address is denied by the configuration",
            "an operator can list it in proxy.allow_addresses",
        ),
        OriginError::OwnAddress => report(
            StatusCode::LOOP_DETECTED,
            "proxy_loop_detected",
            "the origin server is this proxy itself",
            "",
        ),
        OriginError::AdminAddress => report(
            StatusCode::FORBIDDEN,
            "destination_ip_prohibited",
            "the destination is bearerd's admin listener, which cannot be reached through the proxy",
            "",
        ),
        OriginError::Certificate(fault) => {
            let (event, advice) = (certificate_event(fault), or_see_log(fault.advice()));
            report(BAD_GATEWAY, "tls_certificate_error", event, advice)
        }
        OriginError::Tls(fault) => {
            let is_alert = fault.is_alert();
            let error_type = if is_alert { "tls_alert_received" } else { "tls_protocol_error" };
            tls_failure(error_type, fault.cause)
        }
        OriginError::Closed(error) if late_alert(error).is_some() => {
            tls_failure("tls_alert_received", late_alert(error).unwrap_or(TlsCause::Other))
        }
        error => connect_failure(error).unwrap_or_else(|| exchange_failure(error)),
    }
}

/// Reports a failure to connect, including TLS.
fn connect_failure(error: &OriginError) -> Option<ErrorReport> {
    Some(match error {
        OriginError::Refused => report(
            BAD_GATEWAY,
            "connection_refused",
            "the origin server refused the connection",
            "check the host and port, and whether the server is running",
        ),
        OriginError::Unreachable(_) => report(
            BAD_GATEWAY,
            "destination_ip_unroutable",
            "the origin server cannot be reached",
            "check the network between bearerd and the server",
        ),
        OriginError::Exhausted(_) => report(
            UNAVAILABLE,
            "proxy_internal_error",
            "bearerd has no file descriptor or memory left for a connection",
            "raise its limit on open files (ulimit -n, LimitNOFILE)",
        ),
        OriginError::ConnectTimeout => report(
            TIMEOUT,
            "connection_timeout",
            "the origin server did not accept a connection in time (limits.connect_timeout)",
            "check whether a firewall drops packets to it",
        ),
        OriginError::HandshakeTimeout => report(
            TIMEOUT,
            "connection_timeout",
            "the origin server did not finish the TLS handshake in time (limits.connect_timeout)",
            "check whether that port expects TLS",
        ),
        OriginError::NoDescriptor => report(
            UNAVAILABLE,
            "proxy_internal_error",
            "bearerd has no file descriptor left for another connection (limit: descriptors)",
            "raise its limit on open files (ulimit -n, LimitNOFILE)",
        ),
        _ => return None,
    })
}

/// Reports a failure on an established connection.
fn exchange_failure(error: &OriginError) -> ErrorReport {
    match error {
        OriginError::ResponseTimeout => report(
            TIMEOUT,
            "http_response_timeout",
            "the origin server did not respond in time (limits.response_timeout)",
            "",
        ),
        OriginError::SendTimeout => report(
            TIMEOUT,
            "connection_write_timeout",
            "the origin server stopped reading the request's content (limits.send_timeout)",
            "",
        ),
        OriginError::ContentTimeout => report(
            StatusCode::REQUEST_TIMEOUT,
            "http_request_error",
            "the client stopped sending the request's content (limits.stall_timeout)",
            "",
        ),
        OriginError::Response(_) | OriginError::Framing(_) => report(
            BAD_GATEWAY,
            "http_protocol_error",
            "the origin server's response is not valid HTTP",
            "",
        ),
        OriginError::Head => report(
            BAD_GATEWAY,
            "http_response_header_section_size",
            "the head of the origin server's response is too large: more than 64 KiB, or more fields than \
             limits.header_count",
            "",
        ),
        OriginError::TooManyInterim => report(
            BAD_GATEWAY,
            "http_protocol_error",
            "the origin server sent more than 16 interim responses (1xx)",
            "",
        ),
        OriginError::Upgrade => report(
            BAD_GATEWAY,
            "http_upgrade_failed",
            "the origin server switched protocols although the request did not ask for it",
            "",
        ),
        OriginError::Request(_) => report(
            StatusCode::BAD_REQUEST,
            "http_request_error",
            "the request's content ended early",
            "",
        ),
        error => {
            let is_reset =
                matches!(error, OriginError::Closed(PeerError::Http2(error)) if error.is_reset());
            closed(is_reset)
        }
    }
}

/// Reports a connection that was closed, or an HTTP/2 stream that was reset.
pub(super) fn closed(is_reset: bool) -> ErrorReport {
    let event = match is_reset {
        true => "the origin server reset the request's HTTP/2 stream before it responded",
        false => "the origin server closed the connection before it responded",
    };
    report(BAD_GATEWAY, "connection_terminated", event, "")
}

fn name_failure(error: NameError) -> ErrorReport {
    match error {
        NameError::NotFound => report(
            BAD_GATEWAY,
            "dns_error",
            "the origin server's name does not exist",
            "check its spelling, and the name servers of bearerd's machine",
        ),
        NameError::NoAddress => report(
            BAD_GATEWAY,
            "dns_error",
            "the origin server's name has no address",
            "check its spelling, and the name servers of bearerd's machine",
        ),
        NameError::Unavailable | NameError::Failed(_) => report(
            BAD_GATEWAY,
            "dns_error",
            "the origin server's name could not be resolved, because the DNS lookup failed",
            "check the name servers of bearerd's machine, and try again",
        ),
        NameError::Timeout => report(
            TIMEOUT,
            "dns_timeout",
            "the origin server's name was not resolved in time (limits.connect_timeout)",
            "check the name servers of bearerd's machine",
        ),
        NameError::QueueFull => report(
            UNAVAILABLE,
            "dns_error",
            "too many DNS lookups are pending",
            "try again; if this persists, check the name servers of bearerd's machine",
        ),
    }
}

fn certificate_event(fault: &CertificateFault) -> &'static str {
    match fault {
        CertificateFault::SelfSigned => "the origin server's certificate is self-signed",
        CertificateFault::UnknownIssuer { sent_chain: true, .. } => {
            "the origin server's certificate was issued by an authority that is not trusted"
        }
        CertificateFault::UnknownIssuer { sent_chain: false, .. } => {
            "the origin server's certificate was issued by an authority that is not trusted, and the server sent no \
             intermediate certificate"
        }
        CertificateFault::OtherKey { .. } => {
            "the origin server's certificate was issued by an authority with the name of a trusted one but another key"
        }
        CertificateFault::Name { .. } => "the origin server's certificate is for another host",
        CertificateFault::Expired { .. } => "the origin server's certificate has expired",
        CertificateFault::NotYetValid { .. } => "the origin server's certificate is not valid yet",
        CertificateFault::Revoked => "the origin server's certificate is revoked",
        CertificateFault::Purpose => "the origin server's certificate is not for use by a server",
        CertificateFault::Signature => "a signature of the origin server's certificate is invalid",
        CertificateFault::Algorithm => {
            "the origin server's certificate is signed with an algorithm that bearerd does not accept"
        }
        CertificateFault::Malformed | CertificateFault::Other(_) => {
            "the origin server's certificate cannot be used"
        }
    }
}

pub(super) fn tls_failure(error_type: &'static str, cause: TlsCause) -> ErrorReport {
    report(BAD_GATEWAY, error_type, tls_event(cause), or_see_log(cause.advice()))
}

fn tls_event(cause: TlsCause) -> &'static str {
    match cause {
        TlsCause::NotTls => "the origin server does not speak TLS on that port",
        TlsCause::Version => "the origin server offers no TLS version that bearerd supports",
        TlsCause::CipherSuite => {
            "the origin server offers no cipher suite that bearerd supports, or rejects the handshake without giving a \
             reason, such as a missing client certificate"
        }
        TlsCause::ClientCertificate => {
            "the origin server requires a client certificate that it trusts"
        }
        TlsCause::ServerName => "the origin server does not know the host's name",
        TlsCause::Protocol => "the origin server offers neither HTTP/1.1 nor HTTP/2 on that port",
        TlsCause::Closed => "the origin server closed the connection during the TLS handshake",
        TlsCause::InvalidName => "the host's name is not valid in a certificate",
        TlsCause::Other => "the TLS handshake with the origin server failed",
    }
}

/// Refers to the log if there is no general advice.
fn or_see_log(advice: &'static str) -> &'static str {
    if advice.is_empty() { "bearerd's log has the reason" } else { advice }
}
