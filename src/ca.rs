//! The local certificate authority, which issues certificates for the hosts of credentials, trusted
//! by this proxy's clients only.
//!
//! The CA key signs certificates and nothing else. All leaf certificates share another key that
//! exists only in memory. A leaf names exactly one host, never a wildcard, and is valid for a day.
//! Leaves are issued on demand (about 50 µs each) and only for hosts that a credential names,
//! because no other connection is intercepted.
//!
//! An expired CA signs nothing and is never replaced automatically, because every client has to be
//! configured to trust the new one. For a while there may therefore be two: the one that signs and
//! its successor ([`Config::renew`]).

mod error;
mod files;
mod leaf;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::origin::Host;
use crate::secret::Fingerprint;
pub use error::CaError;
use leaf::{Leaf, LeafKeys};

/// The maximum number of cached leaves; further ones are issued again when needed.
const MAX_LEAVES: u64 = 1024;
/// Certificates are backdated by an hour, for clients whose clock is slow.
const BACKDATE: Duration = Duration::from_secs(3600);
/// How long before the end of a CA operators are asked to renew it.
pub const RENEWAL_NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long before its end a CA is replaced by its successor; long enough for its last leaves to
/// expire first.
const HANDOVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where the CA is stored and how long its certificates are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory of `ca.pem` and `ca.key`, which are created if missing, and of `next.key`
    /// after a renewal.
    pub dir: PathBuf,
    /// The lifetime of a new CA. Default 365 days, because a forgotten CA must not stay trusted
    /// forever.
    pub lifetime: Duration,
    /// The lifetime of a leaf. Default 24 h; it is replaced after half of that.
    pub leaf_lifetime: Duration,
}

/// The CA, ready to sign.
pub struct CertificateAuthority {
    /// At least one; the last one expires last.
    signers: Vec<Arc<Signer>>,
    pem: String,
    leaf_keys: Arc<LeafKeys>,
    leaf_lifetime: Duration,
    leaves: moka::sync::Cache<Host, Arc<ServerConfig>>,
}

/// A CA certificate with its key.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
}

impl CertificateAuthority {
    fn new(
        signers: Vec<Arc<Signer>>,
        pem: String,
        leaf_lifetime: Duration,
    ) -> Result<Self, CaError> {
        Ok(Self {
            signers,
            pem,
            leaf_keys: Arc::new(LeafKeys::new()?),
            leaf_lifetime,
            leaves: moka::sync::Cache::builder()
                .max_capacity(MAX_LEAVES)
                .time_to_live(leaf_lifetime / 2)
                .build(),
        })
    }

    /// The certificates as PEM, for clients to trust: the CA's and, after a renewal, its
    /// successor's.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate that signs at `now`, as DER.
    pub fn der(&self, now: SystemTime) -> &[u8] {
        self.signer(now).map_or(&[], |signer| &signer.certificate)
    }

    /// When the last certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.signers.last().map_or(SystemTime::UNIX_EPOCH, |signer| signer.not_after)
    }

    /// Returns true if an operator should renew the CA.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        self.not_after() < now + RENEWAL_NOTICE
    }

    /// When the newest certificate starts to sign; `None` if it already signs at `now`.
    pub fn handover_time(&self, now: SystemTime) -> Option<SystemTime> {
        let (signer, last) = (self.signer(now)?, self.signers.last()?);
        (!Arc::ptr_eq(signer, last)).then(|| signer.not_after - HANDOVER)
    }

    /// The SHA-256 of each certificate, as `openssl x509 -fingerprint -sha256` prints it, with its
    /// expiry.
    pub fn fingerprints(&self) -> impl Iterator<Item = (Fingerprint, SystemTime)> {
        self.signers.iter().map(|signer| (Fingerprint::of(&signer.certificate), signer.not_after))
    }

    /// The TLS server configuration for `host`, with a certificate for exactly that host.
    ///
    /// # Errors
    ///
    /// [`CaError::Expired`]; [`CaError::Certificate`] if the host is not valid in a certificate.
    pub fn server_config(
        &self,
        host: &Host,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, Arc<CaError>> {
        let at = self.not_after();
        if at <= now {
            return Err(Arc::new(CaError::Expired { at }));
        }
        if let Some(config) = self.leaves.get(host) {
            return Ok(config);
        }
        self.leaves.try_get_with_by_ref(host, || self.mint(host, now))
    }

    /// The first signer that is valid for longer than [`HANDOVER`], or the last.
    fn signer(&self, now: SystemTime) -> Option<&Arc<Signer>> {
        let lasts = |signer: &&Arc<Signer>| signer.not_after > now + HANDOVER;
        self.signers.iter().find(lasts).or(self.signers.last())
    }

    fn mint(&self, host: &Host, now: SystemTime) -> Result<Arc<ServerConfig>, CaError> {
        let signer = self.signer(now).ok_or(CaError::Missing)?;
        let not_after = (now + self.leaf_lifetime).min(signer.not_after);
        let leaf = Leaf::mint(host, (now, not_after), signer, &self.leaf_keys)?;
        let mut config = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(leaf));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority")
    }
}

fn ca_params(
    key: &KeyPair,
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    // Each installation has its own name, so that trust stores that index by name keep them apart.
    let id: String =
        Fingerprint::of(&key.subject_public_key_info()).as_str().chars().take(8).collect();
    params.distinguished_name.push(DnType::CommonName, format!("bearerd local CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial_number()?);
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + lifetime);
    Ok(params)
}

/// A serial number of 127 random bits (CA/Browser Forum Baseline Requirements §7.1: at least 64).
/// Clients that use NSS refuse a second certificate with the same issuer and serial number.
fn serial_number() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    let filled = crate::tls::provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| CaError::Certificate(rcgen::Error::RingUnspecified))?;
    // Makes the number positive and keeps its length.
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7F | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}
