//! The local certificate authority: it vouches for the hosts of credentials, towards the clients
//! of this proxy and nobody else.
//!
//! The CA's key signs certificates and is used for nothing else; all leaves share another key that
//! lives only in memory. A leaf names exactly one host, never a wildcard, and is valid for a day.
//! Leaves are minted on demand (some 50 µs) and only for hosts that a credential names, because
//! nothing else is ever intercepted.
//!
//! An expired CA signs nothing and is never silently replaced: every client has to be told to trust the new one.
//! So there may be two for a while, the one that signs and the one that will ([`Config::renew`]).

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

/// At most so many leaves are kept; more hosts than that are minted again when they come back.
const MAX_LEAVES: u64 = 1024;
/// A certificate is valid from an hour ago, for clients whose clock is late.
const BACKDATE: Duration = Duration::from_secs(3600);
/// From so long before its end operators are told about it, unless it is renewed.
pub const ENDING: Duration = Duration::from_secs(30 * 24 * 3600);
/// So long before its end a CA hands over to the next: its last leaves are over long before it is.
const HANDOVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where the CA lives and how long its certificates last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Holds `ca.pem` and `ca.key`, which are made at first need, and after a renewal `next.key`.
    pub dir: PathBuf,
    /// The lifetime of a new CA. Default 365 days: a forgotten CA must not be trusted for ever.
    pub lifetime: Duration,
    /// The lifetime of a leaf. Default 24 h; it is minted anew after half of it.
    pub leaf_lifetime: Duration,
}

/// The CA, ready to sign.
pub struct CertificateAuthority {
    /// At least one; the last lasts longest.
    signers: Vec<Arc<Signer>>,
    pem: String,
    leaf_keys: Arc<LeafKeys>,
    leaf_lifetime: Duration,
    leaves: moka::sync::Cache<Host, Arc<ServerConfig>>,
}

/// A CA's certificate with its key.
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

    /// The certificates as PEM, for clients to trust: that of the CA and, after a renewal, that of the next.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate that signs at `now`, as DER.
    pub fn der(&self, now: SystemTime) -> &[u8] {
        self.signer(now).map_or(&[], |signer| &signer.certificate)
    }

    /// When the last of its certificates ends.
    pub fn not_after(&self) -> SystemTime {
        self.signers.last().map_or(SystemTime::UNIX_EPOCH, |signer| signer.not_after)
    }

    /// Should an operator renew it, at `now`?
    pub fn is_ending(&self, now: SystemTime) -> bool {
        self.not_after() < now + ENDING
    }

    /// From when on the newest certificate signs; `None`: it does at `now`.
    pub fn hands_over(&self, now: SystemTime) -> Option<SystemTime> {
        let (signer, last) = (self.signer(now)?, self.signers.last()?);
        (!Arc::ptr_eq(signer, last)).then(|| signer.not_after - HANDOVER)
    }

    /// The SHA-256 of each certificate, as `openssl x509 -fingerprint -sha256` shows it, with its end.
    pub fn fingerprints(&self) -> impl Iterator<Item = (Fingerprint, SystemTime)> {
        self.signers.iter().map(|signer| (Fingerprint::of(&signer.certificate), signer.not_after))
    }

    /// The server side of TLS for `host`, with a certificate for exactly that host.
    ///
    /// # Errors
    ///
    /// [`CaError::Expired`]; [`CaError::Certificate`] if the host cannot stand in a certificate.
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

    /// The first that has long enough to live, or the last.
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
    // Two installations have two names: trust stores that index by name keep them apart.
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

/// 127 random bits (CA/Browser Forum, Baseline Requirements §7.1: at least 64): clients on NSS refuse a second
/// certificate with the serial of another.
fn serial_number() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    let filled = crate::tls::provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| CaError::Certificate(rcgen::Error::RingUnspecified))?;
    // A positive number, and not a short one.
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7F | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}
