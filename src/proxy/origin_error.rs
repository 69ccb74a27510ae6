//! Why an origin server gave no answer. `proxy/error/origin.rs` says what the client is told of it.

use std::io;
use std::net::IpAddr;

use super::framing::FramingError;
use super::incoming_body::PeerError;
use crate::resolver::NameError;
use crate::tls::{CertificateFault, TlsFault};

/// What went wrong between this proxy and an origin server. The `Display` form is for the log; what to do about
/// it is said by [`OriginError::advice`].
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    #[error("the name cannot be resolved: {0}")]
    Name(NameError),
    #[error("the address {0} is on the list of denied addresses")]
    DeniedAddress(IpAddr),
    #[error("the address is this proxy's own")]
    OwnAddress,
    #[error("the address is that of bearerd's admin listener")]
    AdminAddress,
    #[error("the connection was refused")]
    Refused,
    #[error("the connection failed: {0}")]
    Unreachable(io::Error),
    #[error("bearerd has no descriptor or memory for a connection: {0}")]
    Exhausted(io::Error),
    #[error("all descriptors for connections to origin servers are in use")]
    NoDescriptor,
    #[error("no TCP connection in time")]
    ConnectTimeout,
    #[error("the TLS handshake was not over in time")]
    HandshakeTimeout,
    #[error("the certificate was not accepted: {0}")]
    Certificate(CertificateFault),
    #[error("the TLS handshake failed: {0}")]
    Tls(TlsFault),
    #[error("no response in time")]
    ResponseTimeout,
    #[error("it took nothing of the request's content for too long")]
    SendTimeout,
    #[error("the client sent nothing of the request's content for too long")]
    ContentTimeout,
    #[error("the connection was closed before a response: {0}")]
    Closed(PeerError),
    #[error("the response is not HTTP: {0}")]
    Response(PeerError),
    #[error("the end of the response could be read in two ways: {0}")]
    Framing(FramingError),
    #[error("the response's head is too large, or has too many fields")]
    Head,
    #[error("the origin server sent too many interim responses")]
    TooManyInterim,
    #[error("the response changes protocols, which nobody asked for")]
    Upgrade,
    #[error("the request broke off: {0}")]
    Request(PeerError),
}
