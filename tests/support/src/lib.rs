//! Real local servers for bearerd's tests, demo and interoperability scripts.
//!
//! Two servers speak HTTP/1.1, and HTTP/2 if ALPN selects it, over real sockets on the loopback interface: an
//! OAuth authorization server whose token endpoint rotates, revokes, fails and stalls on request, and an API
//! ("origin server") that checks the access tokens and records the requests it receives. A throwaway certificate
//! authority provides TLS for both.
//!
//! Invariants of the crate:
//!
//! * Nothing waits by sleeping. A test waits for awaitable counts, and delays a request by holding it
//!   until it releases it.
//! * A server lives as long as its handle. Dropping the handle closes the listener
//!   and every connection; `stop().await` does the same and waits for it.
//! * Origin servers share the token ledger of the authorization server, so a revocation applies to the
//!   next request.

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
