//! The OAuth client's TLS certificate (RFC 8705).

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::assertion;
use super::keyfile::{self, KeyFault, KeyForm};
use crate::secret::{Fingerprint, Secret};

/// A certificate chain with its private key.
#[derive(Clone)]
pub struct ClientCert {
    certified_key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    /// Present the certificate to API hosts as well, because tokens are bound to it (RFC 8705 §3).
    pub bind: bool,
}

/// Why a certificate and a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertError {
    /// The certificate cannot be read.
    #[error("{0}")]
    Certificate(KeyFault),
    /// The key cannot be read.
    #[error("{0}")]
    Key(KeyFault),
    /// The text contains no private key.
    #[error("holds no private key")]
    NoKey,
    /// The key is a JWK, which TLS does not support.
    #[error("is a JWK, but TLS needs a key in PEM or DER")]
    Jwk,
    /// The key belongs to another certificate.
    #[error("is not the key of the certificate")]
    Mismatch,
}

impl ClientCertError {
    /// How to fix it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Certificate(fault) | Self::Key(fault) => fault.fix(),
            Self::NoKey => "name a private key in PEM or DER (openssl genpkey writes one)",
            Self::Jwk => "export the key as PEM",
            Self::Mismatch => {
                "name two files that belong together: `openssl x509 -in CERT -noout -pubkey` and `openssl pkey \
                 -in KEY -pubout` print the same"
            }
        }
    }
}

impl ClientCert {
    /// Reads a chain and the key of its leaf certificate, in any supported form; [`KeyFault`] lists
    /// the unsupported ones. The leaf is the certificate that matches the key. It may be of X.509
    /// version 1, which rustls does not parse.
    ///
    /// # Errors
    ///
    /// [`ClientCertError`] tells which of the two is wrong.
    pub fn from_pem(
        chain: &str,
        key: &Secret,
        bind: bool,
        provider: &CryptoProvider,
    ) -> Result<Self, ClientCertError> {
        let mut certificates =
            keyfile::read_certificates(chain).map_err(ClientCertError::Certificate)?;
        let file = keyfile::read_key(key.expose(), None).map_err(|fault| match fault {
            KeyFault::Form => ClientCertError::NoKey,
            fault => ClientCertError::Key(fault),
        })?;
        let KeyForm::Der(der) = file.key else { return Err(ClientCertError::Jwk) };
        let refused = ClientCertError::Key(assertion::fault_of(&der));
        let private = PrivateKeyDer::try_from(der.to_vec()).map_err(|_| refused)?;
        let signing = provider.key_provider.load_private_key(private).map_err(|_| refused)?;
        let public = signing.public_key().and_then(|key| keyfile::public_key_bits(&key));
        let is_leaf =
            |certificate| public.is_some() && keyfile::public_key_in(certificate) == public;
        let leaf = certificates.iter().position(is_leaf).ok_or(ClientCertError::Mismatch)?;
        // Some tools write a chain root first; TLS 1.3 only requires that the leaf comes first.
        let leaf = certificates.remove(leaf);
        certificates.insert(0, leaf);
        let certified_key = CertifiedKey::new(certificates, signing);
        let shape = format!("{chain}\n{:?}\n{bind}", key.fingerprint());
        let fingerprint = Fingerprint::of(shape.as_bytes());
        Ok(Self { certified_key: Arc::new(certified_key), fingerprint, bind })
    }

    /// Returns `tls` with this client certificate.
    pub fn present(&self, tls: &ClientConfig) -> ClientConfig {
        let mut tls = tls.clone();
        let only = SingleCertAndKey::from(Arc::clone(&self.certified_key));
        tls.client_auth_cert_resolver = Arc::new(only);
        // A session of another client certificate must not be resumed.
        tls.resumption = rustls::client::Resumption::disabled();
        tls
    }

    /// A fingerprint of the certificate, the key and `bind`.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a panic is a failed test
    use super::*;
    use crate::oauth::keyfile::tests::sample;

    fn read(chain: &str, key: &str) -> Result<ClientCert, ClientCertError> {
        ClientCert::from_pem(chain, &Secret::new(key.to_owned()), false, &crate::tls::provider())
    }

    /// OpenSSL issues version 1 certificates if no extensions are requested, and servers with
    /// OpenSSL accept them.
    #[test]
    fn certificates_of_version_1_and_on_p_521_are_accepted() {
        let rsa = sample("rsa_v1.crt");
        for (chain, key) in [
            (rsa.clone(), sample("rsa")),
            (rsa.clone(), sample("rsa_pkcs1")),
            (rsa.replace('\n', "\r\n"), sample("rsa").replace('\n', "\\n")),
            // One file for both, as in HAProxy.
            (format!("{}{rsa}", sample("rsa")), format!("{}{rsa}", sample("rsa"))),
            (sample("p521.crt"), sample("p521")),
        ] {
            assert!(read(&chain, &key).is_ok(), "{:?}", read(&chain, &key));
        }
    }

    #[test]
    fn the_leaf_is_presented_first_wherever_it_is_in_the_file() {
        let chain = format!("{}{}", sample("p521.crt"), sample("rsa_v1.crt"));
        let found = read(&chain, &sample("rsa")).unwrap();
        let leaf = keyfile::read_certificates(&sample("rsa_v1.crt")).unwrap();
        assert_eq!(found.certified_key.cert.first(), leaf.first());
        assert_eq!(found.certified_key.cert.len(), 2);
    }

    #[test]
    fn mismatched_and_unusable_keys_are_explained() {
        use ClientCertError::{Certificate, Jwk, Key, Mismatch, NoKey};
        let (chain, rsa) = (sample("rsa_v1.crt"), sample("rsa"));
        for (chain, key, why) in [
            (&chain, sample("p521"), Mismatch),
            (&rsa, rsa.clone(), Certificate(KeyFault::NoCertificate)),
            (&chain, chain.clone(), Key(KeyFault::Certificate)),
            (&chain, sample("rsa_encrypted"), Key(KeyFault::Encrypted)),
            (&chain, sample("rsa_public"), Key(KeyFault::Public)),
            (&chain, sample("ed448"), Key(KeyFault::Kind("an Ed448 key"))),
            (&chain, sample("rsa_1024"), Key(KeyFault::Size)),
            (&chain, sample("rsa_pss"), Key(KeyFault::Kind("an RSA-PSS key"))),
            (&chain, "hunter2".to_owned(), NoKey),
            (&chain, r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), Jwk),
        ] {
            assert_eq!(read(chain, &key).unwrap_err(), why);
            assert!(!why.fix().is_empty());
        }
    }
}
