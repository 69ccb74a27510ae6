//! The certificate with which the OAuth client proves itself in TLS (RFC 8705).

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::assertion;
use super::keyfile::{self, KeyFault, KeyForm};
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
    #[error("{0}")]
    Certificate(KeyFault),
    /// The text of the key.
    #[error("{0}")]
    Key(KeyFault),
    /// Nothing that is known.
    #[error("holds no private key")]
    NoKey,
    /// A key in a form that only signs JWTs.
    #[error("is a JWK, and TLS takes a key in PEM or DER")]
    Jwk,
    /// Each is in order.
    #[error("is not the key of the certificate")]
    Mismatch,
}

impl ClientCertError {
    /// What to do about it.
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
    /// Reads a chain and the key of its leaf, in any form that [`KeyFault`] does not name. The leaf is
    /// what the key belongs to; it may be of X.509 version 1, which rustls would not read.
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
        // Some tools write a chain from its root; only the place of the leaf matters in TLS 1.3.
        let leaf = certificates.remove(leaf);
        certificates.insert(0, leaf);
        let identity = CertifiedKey::new(certificates, signing);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a panic is a failed test
    use super::*;
    use crate::oauth::keyfile::tests::sample;

    fn read(chain: &str, key: &str) -> Result<ClientCert, ClientCertError> {
        ClientCert::from_pem(chain, &Secret::new(key.to_owned()), false, &crate::tls::provider())
    }

    /// OpenSSL makes one of version 1 where nobody asks for extensions, and servers with OpenSSL take it.
    #[test]
    fn certificates_of_version_1_and_on_p_521_are_used() {
        let rsa = sample("rsa_v1.crt");
        for (chain, key) in [
            (rsa.clone(), sample("rsa")),
            (rsa.clone(), sample("rsa_pkcs1")),
            (rsa.replace('\n', "\r\n"), sample("rsa").replace('\n', "\\n")),
            // One file for both, as HAProxy has it.
            (format!("{}{rsa}", sample("rsa")), format!("{}{rsa}", sample("rsa"))),
            (sample("p521.crt"), sample("p521")),
        ] {
            assert!(read(&chain, &key).is_ok(), "{:?}", read(&chain, &key));
        }
    }

    #[test]
    fn the_leaf_is_shown_first_wherever_it_stands() {
        let chain = format!("{}{}", sample("p521.crt"), sample("rsa_v1.crt"));
        let found = read(&chain, &sample("rsa")).unwrap();
        let leaf = keyfile::read_certificates(&sample("rsa_v1.crt")).unwrap();
        assert_eq!(found.identity.cert.first(), leaf.first());
        assert_eq!(found.identity.cert.len(), 2);
    }

    #[test]
    fn what_does_not_belong_together_or_is_no_key_says_so() {
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
