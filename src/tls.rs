//! The TLS client configuration for all connections of bearerd: origin servers and token endpoints
//! alike. Certificates are always verified; this cannot be turned off.

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

/// The trusted certificate authorities.
#[derive(Clone, Debug)]
pub struct Config {
    /// The base set.
    pub roots: Roots,
    /// Additional PEM files: a company's CA, or the certificate of one server.
    pub extra_roots: Vec<PathBuf>,
}

/// The base set of trusted authorities.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Roots {
    /// The system's, or the bundled ones if the system has none (an empty container image).
    #[default]
    System,
    /// Mozilla's, compiled into the program.
    Bundled,
    /// Only those in one PEM file.
    File(PathBuf),
}

/// One TLS configuration for each set of ALPN protocols (RFC 7301) that is offered to origin
/// servers.
#[derive(Clone, Debug)]
pub struct AlpnConfigs {
    /// HTTP/1.1 only.
    pub http1: Arc<ClientConfig>,
    /// HTTP/2 first, then HTTP/1.1.
    pub http2: Arc<ClientConfig>,
}

impl AlpnConfigs {
    /// Derives both configurations from `tls`.
    pub fn of(tls: &ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(tls)
        };
        Self { http1: offering(&[b"http/1.1"]), http2: offering(&[b"h2", b"http/1.1"]) }
    }
}

/// Why the trust store could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read or contains no certificate.
    #[error("cannot read certificates from {path}: {problem}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No authority is trusted.
    #[error(
        "no trusted certificate is left; set tls.roots to \"bundled\" or list some in tls.extra_roots"
    )]
    NoRoots,
}

/// The program's cryptography provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Config {
    /// Builds the client configuration: TLS 1.2 and 1.3, without a client certificate.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the unusable file.
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
            // The verifier wraps the one of rustls and is as strict, except for listed
            // certificates.
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
        // Ignore system certificates that cannot be parsed; they could not be used anyway.
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
