//! The client certificate that a credential shows to origin servers, where its tokens are bound to it.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::tls::AlpnConfigs;
use crate::token;

/// As whom requests with a credential's token are made in TLS (RFC 8705 §3).
///
/// It goes where the token goes and nowhere else: a request that gets no token, or that of another
/// credential, travels on other connections.
pub struct Identity {
    /// The credential's name; connections are kept by it.
    pub credential: Arc<str>,
    /// TLS with the credential's certificate.
    pub offers: AlpnConfigs,
}

impl Identity {
    /// What the credential `name` shows; `None` unless its `client_cert` says `bind`.
    pub(super) fn of(name: &Arc<str>, token: &token::Config, tls: &ClientConfig) -> Option<Self> {
        let certificate = token.oauth.client_cert.as_ref().filter(|shown| shown.bind)?;
        let offers = AlpnConfigs::of(&certificate.present(tls));
        Some(Self { credential: Arc::clone(name), offers })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.credential)
    }
}
