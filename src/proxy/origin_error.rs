//! Why there is no response from an origin server. `error/origin_failure.rs` maps each reason to the
//! response that the client gets.

use std::io;
use std::net::IpAddr;

use super::framing::FramingError;
use super::incoming_body::PeerError;
use crate::resolver::NameError;
use crate::tls::{CertificateFault, TlsFault};

/// What failed between this proxy and an origin server. The `Display` form is for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    #[error("the name cannot be resolved: {0}")]
    Name(NameError),
    #[error("the address {0} is on the list of denied addresses")]
    DeniedAddress(IpAddr),
    #[error("the address is one of this proxy's own")]
    OwnAddress,
    #[error("the address is that of bearerd's admin listener")]
    AdminAddress,
    #[error("the connection was refused")]
    Refused,
    #[error("the connection failed: {0}")]
    Unreachable(io::Error),
    #[error("the system has no file descriptor or memory left for a connection: {0}")]
    Exhausted(io::Error),
    #[error("all file descriptors for connections to origin servers are in use")]
    NoDescriptor,
    #[error("the TCP connection timed out")]
    ConnectTimeout,
    #[error("the TLS handshake timed out")]
    HandshakeTimeout,
    #[error("the certificate was not accepted: {0}")]
    Certificate(CertificateFault),
    #[error("the TLS handshake failed: {0}")]
    Tls(TlsFault),
    #[error("the response timed out")]
    ResponseTimeout,
    #[error("the origin server read none of the request's content for too long")]
    SendTimeout,
    #[error("the client sent none of the request's content for too long")]
    ContentTimeout,
    #[error("the connection was closed before a response: {0}")]
    Closed(PeerError),
    #[error("the response is not HTTP: {0}")]
    Response(PeerError),
    #[error("the framing of the response is ambiguous: {0}")]
    Framing(FramingError),
    #[error("the response head is too large or has too many fields")]
    Head,
    #[error("the origin server sent too many interim responses")]
    TooManyInterim,
    #[error("the response switches protocols although no upgrade was requested")]
    Upgrade,
    #[error("the request ended early: {0}")]
    Request(PeerError),
}
