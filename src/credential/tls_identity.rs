//! The client certificate that a credential presents to origin servers, if its tokens are bound to
//! it.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::tls::AlpnConfigs;
use crate::token;

/// The TLS identity for requests with a credential's token (RFC 8705 §3).
///
/// Requests without a token, or with another credential's, use other connections.
pub struct TlsIdentity {
    /// The credential's name, which is part of the connection pool's key.
    pub credential: Arc<str>,
    /// The TLS configurations with the credential's certificate.
    pub offers: AlpnConfigs,
}

impl TlsIdentity {
    /// The identity of credential `name`; `None` unless its `client_cert` sets `bind`.
    pub(super) fn of(name: &Arc<str>, token: &token::Config, tls: &ClientConfig) -> Option<Self> {
        let certificate = token.oauth.client_cert.as_ref().filter(|shown| shown.bind)?;
        let offers = AlpnConfigs::of(&certificate.present(tls));
        Some(Self { credential: Arc::clone(name), offers })
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsIdentity({})", self.credential)
    }
}
