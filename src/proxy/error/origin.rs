//! What is said when an origin server gave no answer: to the client, and to the operator.
//!
//! Every sentence is fixed. Details that others have written (names in a certificate, an error's text) are in
//! the `Display` form of [`OriginError`], for the log alone.

use http::StatusCode;

use crate::proxy::incoming_body::PeerError;
use crate::proxy::origin_error::OriginError;
use crate::resolver::NameError;
use crate::tls::CertificateFault;
use crate::tls::{TlsCause, late_alert};

const BAD: StatusCode = StatusCode::BAD_GATEWAY;
const BUSY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const LATE: StatusCode = StatusCode::GATEWAY_TIMEOUT;

/// One failure, as it is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct OriginVerdict {
    pub(super) status: StatusCode,
    /// The error type of RFC 9209 §2.3.
    pub(super) kind: &'static str,
    /// What happened.
    what: &'static str,
    /// What to do about it; may be empty.
    advice: &'static str,
}

impl OriginVerdict {
    const fn new(
        status: StatusCode,
        kind: &'static str,
        what: &'static str,
        advice: &'static str,
    ) -> Self {
        Self { status, kind, what, advice }
    }

    /// The sentence for the client.
    pub(super) fn text(&self) -> String {
        let Self { what, advice, .. } = self;
        if advice.is_empty() { (*what).to_owned() } else { format!("{what}; {advice}") }
    }
}

impl OriginError {
    /// The error type of RFC 9209 §2.3, for `Proxy-Status` and the log.
    #[allow(dead_code)] // for the line of a request in the log
    pub(in crate::proxy) fn kind(&self) -> &'static str {
        origin_verdict(self).kind
    }

    /// What an operator, or whoever wrote the request, can do about it; empty if there is nothing to say.
    #[allow(dead_code)] // for the line of a request in the log
    pub(in crate::proxy) fn advice(&self) -> &'static str {
        origin_verdict(self).advice
    }

    /// The DNS response code of a failed look-up, where it is known (RFC 9209 §2.3.2).
    pub(super) fn rcode(&self) -> Option<&'static str> {
        match self {
            Self::Name(NameError::NotFound) => Some("NXDOMAIN"),
            Self::Name(NameError::NoAddress) => Some("NOERROR"),
            _ => None,
        }
    }
}

pub(super) fn origin_verdict(error: &OriginError) -> OriginVerdict {
    let verdict = OriginVerdict::new;
    match error {
        OriginError::Name(error) => name_verdict(*error),
        OriginError::DeniedAddress(_) => verdict(
            StatusCode::FORBIDDEN,
            "destination_ip_prohibited",
            "the origin server's address is denied",
            "an operator can list it in proxy.allow_addresses",
        ),
        OriginError::OwnAddress => verdict(
            StatusCode::LOOP_DETECTED,
            "proxy_loop_detected",
            "the origin server is this proxy itself",
            "",
        ),
        OriginError::AdminAddress => verdict(
            StatusCode::FORBIDDEN,
            "destination_ip_prohibited",
            "the destination is bearerd's admin listener, which is not reached through the proxy",
            "",
        ),
        OriginError::Certificate(fault) => {
            let (what, advice) = (certificate_text(fault), or_log(fault.advice()));
            verdict(BAD, "tls_certificate_error", what, advice)
        }
        OriginError::Tls(fault) => {
            let kind = if fault.is_alert() { "tls_alert_received" } else { "tls_protocol_error" };
            tls_verdict(kind, fault.cause)
        }
        OriginError::Closed(error) if late_alert(error).is_some() => {
            tls_verdict("tls_alert_received", late_alert(error).unwrap_or(TlsCause::Other))
        }
        error => connect_verdict(error).unwrap_or_else(|| exchange_verdict(error)),
    }
}

/// Failures on the way to a TCP connection, or to TLS.
fn connect_verdict(error: &OriginError) -> Option<OriginVerdict> {
    let verdict = OriginVerdict::new;
    Some(match error {
        OriginError::Refused => verdict(
            BAD,
            "connection_refused",
            "the origin server refused the connection",
            "check host and port, and whether the server runs",
        ),
        OriginError::Unreachable(_) => verdict(
            BAD,
            "destination_ip_unroutable",
            "the origin server cannot be reached",
            "check the network between bearerd and the server",
        ),
        OriginError::Exhausted(_) => verdict(
            StatusCode::SERVICE_UNAVAILABLE,
            "proxy_internal_error",
            "bearerd has no descriptor or memory left for a connection",
            "raise its limit of open files (ulimit -n, LimitNOFILE)",
        ),
        OriginError::ConnectTimeout => verdict(
            LATE,
            "connection_timeout",
            "the origin server did not accept a connection in time (limits.connect_timeout)",
            "check whether a firewall drops packets to it",
        ),
        OriginError::HandshakeTimeout => verdict(
            LATE,
            "connection_timeout",
            "the origin server did not finish the TLS handshake in time (limits.connect_timeout)",
            "check whether it speaks TLS on that port",
        ),
        OriginError::NoDescriptor => verdict(
            BUSY,
            "proxy_internal_error",
            "this proxy has no descriptor left for another connection (limit: descriptors)",
            "raise the number of open files (ulimit -n, LimitNOFILE)",
        ),
        _ => return None,
    })
}

/// Failures on a connection that was there.
fn exchange_verdict(error: &OriginError) -> OriginVerdict {
    let verdict = OriginVerdict::new;
    match error {
        OriginError::ResponseTimeout => verdict(
            LATE,
            "http_response_timeout",
            "the origin server did not answer in time (limits.response_timeout)",
            "",
        ),
        OriginError::SendTimeout => verdict(
            LATE,
            "connection_write_timeout",
            "the origin server took nothing of the request's content in time (limits.send_timeout)",
            "",
        ),
        OriginError::ContentTimeout => verdict(
            StatusCode::REQUEST_TIMEOUT,
            "http_request_error",
            "the client sent nothing more of the request's content in time (limits.stall_timeout)",
            "",
        ),
        OriginError::Response(_) | OriginError::Framing(_) => {
            verdict(BAD, "http_protocol_error", "the origin server's answer is not valid HTTP", "")
        }
        OriginError::Head => verdict(
            BAD,
            "http_response_header_section_size",
            "the origin server's answer has a head larger than this proxy passes on: more than 64 KiB, or \
             more fields than limits.header_count",
            "",
        ),
        OriginError::TooManyInterim => verdict(
            BAD,
            "http_protocol_error",
            "the origin server sent more than 16 interim responses (1xx) and no answer",
            "",
        ),
        OriginError::Upgrade => verdict(
            BAD,
            "http_upgrade_failed",
            "the origin server changed the protocol without being asked",
            "",
        ),
        OriginError::Request(_) => verdict(
            StatusCode::BAD_REQUEST,
            "http_request_error",
            "the request's content broke off before its end",
            "",
        ),
        OriginError::Closed(PeerError::Http2(error)) if error.is_reset() => verdict(
            BAD,
            "connection_terminated",
            "the origin server reset the request's HTTP/2 stream before it answered",
            "",
        ),
        _ => verdict(
            BAD,
            "connection_terminated",
            "the origin server closed the connection before it answered",
            "",
        ),
    }
}

fn name_verdict(error: NameError) -> OriginVerdict {
    let verdict = OriginVerdict::new;
    match error {
        NameError::NotFound => verdict(
            BAD,
            "dns_error",
            "the origin server's name does not exist",
            "check its spelling, and which name servers bearerd's machine uses",
        ),
        NameError::NoAddress => verdict(
            BAD,
            "dns_error",
            "the origin server's name has no address",
            "check its spelling, and which name servers bearerd's machine uses",
        ),
        NameError::Unavailable | NameError::Failed(_) => verdict(
            BAD,
            "dns_error",
            "the origin server's name cannot be resolved, because the look-up failed",
            "check the name servers of bearerd's machine, and try again",
        ),
        NameError::Timeout => verdict(
            LATE,
            "dns_timeout",
            "the origin server's name was not resolved in time (limits.connect_timeout)",
            "check the name servers of bearerd's machine",
        ),
        NameError::QueueFull => verdict(
            StatusCode::SERVICE_UNAVAILABLE,
            "dns_error",
            "too many names wait to be looked up",
            "try again; if that lasts, check the name servers of bearerd's machine",
        ),
    }
}

/// What is wrong with a certificate.
fn certificate_text(fault: &CertificateFault) -> &'static str {
    match fault {
        CertificateFault::SelfSigned => "the origin server's certificate is self-signed",
        CertificateFault::UnknownIssuer { sent_chain: true, .. } => {
            "the origin server's certificate is from an authority that is not trusted"
        }
        CertificateFault::UnknownIssuer { sent_chain: false, .. } => {
            "the origin server's certificate is from an authority that is not trusted, and the server sent no \
             intermediate certificate"
        }
        CertificateFault::OtherKey { .. } => {
            "the origin server's certificate is from an authority that has the name of a trusted one and another \
             key"
        }
        CertificateFault::Name { .. } => "the origin server's certificate is for another host",
        CertificateFault::Expired { .. } => "the origin server's certificate has expired",
        CertificateFault::NotYetValid { .. } => "the origin server's certificate is not valid yet",
        CertificateFault::Revoked => "the origin server's certificate is revoked",
        CertificateFault::Purpose => "the origin server's certificate is not for use by a server",
        CertificateFault::Signature => "a signature of the origin server's certificate is wrong",
        CertificateFault::Algorithm => {
            "the origin server's certificate is signed with an algorithm that bearerd does not accept"
        }
        CertificateFault::Malformed | CertificateFault::Other(_) => {
            "the origin server's certificate cannot be used"
        }
    }
}

fn tls_verdict(kind: &'static str, cause: TlsCause) -> OriginVerdict {
    OriginVerdict::new(BAD, kind, tls_text(cause), or_log(cause.advice()))
}

/// What ended a TLS handshake.
fn tls_text(cause: TlsCause) -> &'static str {
    match cause {
        TlsCause::NotTls => "the origin server does not speak TLS on that port",
        TlsCause::Version => "the origin server offers no TLS version that bearerd speaks",
        TlsCause::CipherSuite => {
            "the origin server offers no cipher suite that bearerd speaks, or refuses the handshake for a reason \
             that it does not give, such as a missing client certificate"
        }
        TlsCause::ClientCertificate => {
            "the origin server wants a client certificate that it trusts"
        }
        TlsCause::ServerName => "the origin server does not know the host's name",
        TlsCause::Protocol => "the origin server speaks neither HTTP/1.1 nor HTTP/2 on that port",
        TlsCause::Closed => "the origin server closed the connection during the TLS handshake",
        TlsCause::InvalidName => "the host's name cannot be in a certificate",
        TlsCause::Other => "the TLS handshake with the origin server failed",
    }
}

/// What to do where only the error itself can say.
fn or_log(advice: &'static str) -> &'static str {
    if advice.is_empty() { "bearerd's log says why" } else { advice }
}
