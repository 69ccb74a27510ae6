//! One TLS client configuration for everything that bearerd calls: origin servers and token
//! endpoints alike. Certificates are always verified; there is no switch against it.

mod fault;
mod handshake;
#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

pub use fault::CertificateFault;
pub(crate) use handshake::{TlsCause, TlsFault, late_alert, rustls_error};
use verify::{TrustStore, Verifier};

/// Which certificate authorities are trusted.
#[derive(Clone, Debug)]
pub struct Config {
    /// The base set.
    pub roots: Roots,
    /// PEM files to trust as well: a company's own CA, or the certificate of one server.
    pub extra_roots: Vec<PathBuf>,
}

/// The base set of trusted authorities.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Roots {
    /// The system's, or the bundled ones where the system has none (a container from scratch).
    #[default]
    System,
    /// Mozilla's, compiled in.
    Bundled,
    /// One PEM file and nothing else.
    File(PathBuf),
}

/// One TLS configuration for each set of protocols that is offered to origin servers (RFC 7301).
#[derive(Clone, Debug)]
pub struct AlpnConfigs {
    /// HTTP/1.1 alone.
    pub http1: Arc<ClientConfig>,
    /// HTTP/2 first, then HTTP/1.1.
    pub http2: Arc<ClientConfig>,
}

impl AlpnConfigs {
    /// All that `tls` says but for the protocols.
    pub fn of(tls: &ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(tls)
        };
        Self { http1: offering(&[b"http/1.1"]), http2: offering(&[b"h2", b"http/1.1"]) }
    }
}

/// Why the trusted authorities could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read or holds no certificate.
    #[error("cannot read certificates from {path}: {problem}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no authority at all.
    #[error(
        "no trusted certificate is left; set tls.roots to \"bundled\" or list some in tls.extra_roots"
    )]
    NoRoots,
}

/// The one cryptography provider of this program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Config {
    /// Builds the client side: TLS 1.2 and 1.3, no client certificate.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the file that could not be used.
    pub fn build(&self) -> Result<ClientConfig, TlsError> {
        let mut trust = match &self.roots {
            Roots::System => system_trust(),
            Roots::Bundled => bundled_trust(),
            Roots::File(path) => file_trust(path)?,
        };
        for path in &self.extra_roots {
            trust.extend(file_trust(path)?);
        }
        let verifier = Arc::new(Verifier::new(trust)?);
        Ok(ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            // Not less strict than rustls' own, which it wraps.
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth())
    }
}

fn system_trust() -> TrustStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system root certificate was left out");
    }
    let mut trust = TrustStore::empty();
    for certificate in found.certs {
        // Systems have some that nobody can parse; none of them would help.
        let _unreadable = trust.add(certificate);
    }
    if trust.roots.is_empty() {
        tracing::info!("the system has no root certificates; the bundled ones are used");
        return bundled_trust();
    }
    trust
}

fn bundled_trust() -> TrustStore {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    TrustStore { roots, ..TrustStore::empty() }
}

fn file_trust(path: &Path) -> Result<TrustStore, TlsError> {
    let refuse = |problem: String| TlsError::Roots { path: path.to_owned(), problem };
    let mut trust = TrustStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| refuse(e.to_string()))? {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        trust.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if trust.roots.is_empty() {
        return Err(refuse("it holds no PEM certificate".to_owned()));
    }
    Ok(trust)
}
