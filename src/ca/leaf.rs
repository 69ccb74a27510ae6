//! Leaf certificates for single hosts, and selection by the client's capabilities.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use rustls::SignatureScheme;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::{BACKDATE, CaError, Signer, serial_number};
use crate::origin::Host;

/// The keys shared by all leaves, kept only in memory.
pub(super) struct LeafKeys {
    pub(super) ecdsa: KeyPair,
    /// Generated when a client first needs it, because that takes 100 ms and hardly any client
    /// does.
    rsa: OnceLock<Option<KeyPair>>,
}

impl LeafKeys {
    pub(super) fn new() -> Result<Self, CaError> {
        let ecdsa = KeyPair::generate().map_err(CaError::Certificate)?;
        Ok(Self { ecdsa, rsa: OnceLock::new() })
    }

    fn rsa(&self) -> Option<&KeyPair> {
        let make = || match KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::warn!(%error, "cannot generate an RSA key for clients without ECDSA");
                None
            }
        };
        self.rsa.get_or_init(make).as_ref()
    }
}

/// The certificates of one host.
pub(super) struct Leaf {
    host: Host,
    /// Start and end of validity.
    valid: (SystemTime, SystemTime),
    signer: Arc<Signer>,
    keys: Arc<LeafKeys>,
    ecdsa: Arc<CertifiedKey>,
    /// Issued when a client first needs it.
    rsa: OnceLock<Option<Arc<CertifiedKey>>>,
}

impl Leaf {
    pub(super) fn mint(
        host: &Host,
        valid: (SystemTime, SystemTime),
        signer: &Arc<Signer>,
        keys: &Arc<LeafKeys>,
    ) -> Result<Self, CaError> {
        let ecdsa = sign(host, valid, signer, &keys.ecdsa)?;
        Ok(Self {
            host: host.clone(),
            valid,
            signer: Arc::clone(signer),
            keys: Arc::clone(keys),
            ecdsa: Arc::new(ecdsa),
            rsa: OnceLock::new(),
        })
    }

    #[cfg(test)]
    pub(super) fn chain(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        self.ecdsa.cert.clone()
    }

    fn rsa(&self) -> Option<Arc<CertifiedKey>> {
        let make = || {
            let signed = sign(&self.host, self.valid, &self.signer, self.keys.rsa()?);
            let signed =
                signed.map_err(|error| tracing::warn!(%error, "cannot issue an RSA certificate"));
            signed.ok().map(Arc::new)
        };
        self.rsa.get_or_init(make).clone()
    }
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let suites = hello.cipher_suites().iter().map(|suite| u16::from(*suite));
        match needs_rsa(suites, hello.signature_schemes()) {
            true => self.rsa(),
            false => Some(Arc::clone(&self.ecdsa)),
        }
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leaf({})", self.host)
    }
}

/// Returns true if a client that offers these does not support ECDSA server keys.
fn needs_rsa(suites: impl Iterator<Item = u16>, schemes: &[SignatureScheme]) -> bool {
    // The suites of TLS 1.3, which work with any key, and the ECDHE_ECDSA suites of TLS 1.2 with
    // AEAD ciphers.
    let fits = |suite| matches!(suite, 0x1301..=0x1305 | 0xC02B | 0xC02C | 0xCCA9);
    let verifies = schemes.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
    !(verifies && suites.into_iter().any(fits))
}

fn sign(
    host: &Host,
    valid: (SystemTime, SystemTime),
    signer: &Signer,
    key: &KeyPair,
) -> Result<CertifiedKey, CaError> {
    let leaf = params(host, valid)?.signed_by(key, &signer.issuer).map_err(CaError::Certificate)?;
    let chain = vec![leaf.der().clone(), signer.certificate.clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    CertifiedKey::from_der(chain, key, &crate::tls::provider()).map_err(CaError::Tls)
}

fn params(host: &Host, valid: (SystemTime, SystemTime)) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let name = match host {
        Host::Name(name) => {
            SanType::DnsName(name.to_string().try_into().map_err(CaError::Certificate)?)
        }
        Host::V4(address) => SanType::IpAddress((*address).into()),
        Host::V6(address) => SanType::IpAddress((*address).into()),
    };
    params.subject_alt_names = vec![name];
    // No common name: it is limited to 64 characters, and clients ignore it.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "bearerd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number()?);
    params.not_before = OffsetDateTime::from(valid.0 - BACKDATE);
    params.not_after = OffsetDateTime::from(valid.1);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_without_ecdsa_get_rsa() {
        use SignatureScheme as Scheme;
        let both = [Scheme::RSA_PSS_SHA256, Scheme::ECDSA_NISTP256_SHA256];
        for (suites, schemes, expected) in [
            (&[0x1301, 0xC02F][..], &both[..], false),
            (&[0xC02B, 0xC02F], &both, false),
            (&[0xC02F, 0xC030, 0xCCA8], &both, true),
            (&[0x1301, 0xC02B], &[Scheme::RSA_PSS_SHA256], true),
            (&[0xC02F], &[Scheme::RSA_PKCS1_SHA256], true),
        ] {
            assert_eq!(needs_rsa(suites.iter().copied(), schemes), expected, "{suites:x?}");
        }
    }
}
