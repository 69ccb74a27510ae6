//! Why an origin server gave no answer; `proxy/error.rs` says what the client hears of it.

use std::net::IpAddr;

use super::framing::FramingError;
use super::incoming::PeerError;

/// What went wrong between this proxy and an origin server.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    #[error("the name cannot be resolved: {0}")]
    Name(std::io::Error),
    #[error("the address {0} is on the list of denied addresses")]
    DeniedAddress(IpAddr),
    #[error("the address is this proxy's own")]
    OwnAddress,
    #[error("the connection was refused")]
    Refused,
    #[error("the connection failed: {0}")]
    Unreachable(std::io::Error),
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("the certificate was not accepted: {0}")]
    Certificate(std::io::Error),
    #[error("the TLS handshake failed: {0}")]
    Tls(std::io::Error),
    #[error("no response in time")]
    ResponseTimeout,
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
