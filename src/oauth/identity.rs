//! The certificate with which the OAuth client proves itself in TLS (RFC 8705).

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::secret::{Fingerprint, Secret};

/// A certificate with its key, ready for use.
#[derive(Clone)]
pub struct ClientCert {
    identity: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    /// It is presented to the API's hosts as well, whose tokens are bound to it (RFC 8705 §3).
    pub bind: bool,
}

/// Why a certificate and a key cannot be used together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertError {
    /// The text of the certificate.
    #[error("holds no certificate in PEM")]
    Certificate,
    /// The text of the key.
    #[error("holds no private key in PEM that can be used")]
    Key,
    /// Each is in order.
    #[error("is not the key of the certificate")]
    Mismatch,
}

impl ClientCert {
    /// Reads a chain, leaf first, and the key of its leaf, both PEM.
    ///
    /// # Errors
    ///
    /// [`ClientCertError`] says which of the two is wrong.
    pub fn from_pem(
        chain: &str,
        key: &Secret,
        bind: bool,
        provider: &CryptoProvider,
    ) -> Result<Self, ClientCertError> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let certificates =
            certificates.ok().filter(|all| !all.is_empty()).ok_or(ClientCertError::Certificate)?;
        let private = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
            .map_err(|_| ClientCertError::Key)?;
        let signing =
            provider.key_provider.load_private_key(private).map_err(|_| ClientCertError::Key)?;
        let identity = CertifiedKey::new(certificates, signing);
        identity.keys_match().map_err(|_| ClientCertError::Mismatch)?;
        let shape = format!("{chain}\n{:?}\n{bind}", key.fingerprint());
        let fingerprint = Fingerprint::of(shape.as_bytes());
        Ok(Self { identity: Arc::new(identity), fingerprint, bind })
    }

    /// The same TLS configuration with this certificate for whoever asks for one.
    pub fn present(&self, tls: &ClientConfig) -> ClientConfig {
        let mut tls = tls.clone();
        let only = SingleCertAndKey::from(Arc::clone(&self.identity));
        tls.client_auth_cert_resolver = Arc::new(only);
        // A session of another identity may not be resumed.
        tls.resumption = rustls::client::Resumption::disabled();
        tls
    }

    /// Changes with the certificate, the key and the flag.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

impl PartialEq for ClientCert {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for ClientCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCert").field("bind", &self.bind).finish_non_exhaustive()
    }
}
