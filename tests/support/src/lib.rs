//! Real local servers for bearerd's tests, demo and interoperability scripts.
//!
//! Two servers speak HTTP/1.1, and HTTP/2 where TLS agrees on it, over real sockets on the loopback interface: an
//! OAuth authorization server whose token endpoint rotates, revokes, fails and
//! stalls on request, and an API ("origin server") that checks the access tokens
//! that the former issued and records what it received. A throwaway certificate
//! authority gives either of them TLS.
//!
//! Invariants of the crate:
//!
//! * Nothing waits by sleeping. Whatever a test has to wait for is a count that
//!   can be awaited, and whatever a test wants to delay is held until released.
//! * A server lives as long as its handle. Dropping the handle closes the listener
//!   and every connection; `stop().await` does the same and waits for it.
//! * The tokens of an authorization server are one ledger, shared by reference with
//!   the origin servers, so a revocation is seen by the next request.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod authorization_server;
pub mod coding;
pub mod control;
mod dpop;
mod events;
mod line;
mod listening;
pub mod origin_server;
mod payload;
mod refresh_tokens;
pub mod tls;
mod tokens;

#[cfg(test)]
mod tests;

pub use authorization_server::{
    AuthorizationServer, AuthorizationServerConfig, ClientAuth, End, ExpiresIn, TokenAnswer,
    TokenBehaviour, TokenRequest,
};
pub use origin_server::{Answer, Framing, OriginConfig, OriginServer, Protocols, ReceivedRequest};
pub use payload::pattern;
pub use refresh_tokens::{OnReuse, Reuse, Rotation};
pub use tls::{ClientCertificate, TestCa};
pub use tokens::{TokenState, Tokens};
