//! The local certificate authority: it vouches for the hosts of credentials, towards the clients
//! of this proxy and nobody else.
//!
//! The CA's key signs certificates and is used for nothing else; all leaves share another key that
//! lives only in memory. A leaf names exactly one host, never a wildcard, and is valid for a day.
//! Leaves are minted on demand (some 50 µs) and only for hosts that a credential names, because
//! nothing else is ever intercepted.
//!
//! An expired or incomplete CA is an error and never silently replaced: every client would have to
//! be told to trust the new one.

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::origin::Host;
use crate::secret::Fingerprint;

/// At most so many leaves are kept; more hosts than that are minted again when they come back.
const MAX_LEAVES: u64 = 1024;
/// A leaf is valid from an hour ago, for clients whose clock is late.
const BACKDATE: Duration = Duration::from_secs(3600);
/// From so long before its end a CA is complained about at every start.
const ENDING: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where the CA lives and how long its certificates last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Holds `ca.pem` and `ca.key`, which are made at first need.
    pub dir: PathBuf,
    /// The lifetime of a new CA. Default 365 days: a forgotten CA must not be trusted for ever.
    pub lifetime: Duration,
    /// The lifetime of a leaf. Default 24 h; it is minted anew after half of it.
    pub leaf_lifetime: Duration,
}

/// The CA, ready to sign.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    pem: String,
    leaf_key: KeyPair,
    leaf_lifetime: Duration,
    leaves: moka::sync::Cache<Host, Arc<ServerConfig>>,
}

impl Config {
    /// Is there a CA already?
    pub fn exists(&self) -> bool {
        self.certificate_path().exists()
    }

    /// The certificate's file, which clients are to trust.
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The key's file, which nobody else may read.
    pub fn key_path(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    /// Loads the CA, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// [`CaError`] for files that cannot be read or written, that do not belong together, that
    /// others may read, or whose time is over.
    pub fn open(&self, now: SystemTime) -> Result<CertificateAuthority, CaError> {
        self.create_missing(now)?;
        self.load(now)
    }

    /// Two processes that start at once both end up with the files of whichever was first.
    fn create_missing(&self, now: SystemTime) -> Result<(), CaError> {
        let (key_path, certificate_path) = (self.key_path(), self.certificate_path());
        if certificate_path.exists() {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|error| io("make", &self.dir, error))?;
        if !key_path.exists() {
            let key = KeyPair::generate().map_err(CaError::Certificate)?;
            write_new(&key_path, 0o600, key.serialize_pem().as_bytes())?;
        }
        let key = read_key(&key_path)?;
        let certificate =
            ca_params(&key, now, self.lifetime).self_signed(&key).map_err(CaError::Certificate)?;
        write_new(&certificate_path, 0o644, certificate.pem().as_bytes())
    }

    fn load(&self, now: SystemTime) -> Result<CertificateAuthority, CaError> {
        let (key_path, path) = (self.key_path(), self.certificate_path());
        let key = read_key(&key_path)?;
        let pem = std::fs::read_to_string(&path).map_err(|error| io("read", &path, error))?;
        let unusable =
            |problem: &str| CaError::Unusable { path: path.clone(), problem: problem.to_owned() };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| unusable("holds no PEM certificate"))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|_| unusable("is not an X.509 certificate"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unusable("does not belong to ca.key beside it"));
        }
        if !parsed.is_ca() {
            return Err(unusable("is not a certificate authority"));
        }
        let not_after = SystemTime::from(parsed.validity().not_after.to_datetime());
        if not_after <= now {
            return Err(CaError::Expired { path, dir: self.dir.clone() });
        }
        if not_after < now + ENDING {
            tracing::warn!(
                path = %path.display(),
                not_after = %humantime::format_rfc3339_seconds(not_after),
                "the local CA ends soon; remove it and run `bearerd ca init` when clients can be told"
            );
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(CaError::Certificate)?;
        Ok(CertificateAuthority {
            issuer,
            certificate: certificate.clone().into_owned(),
            not_after,
            pem,
            leaf_key: KeyPair::generate().map_err(CaError::Certificate)?,
            leaf_lifetime: self.leaf_lifetime,
            leaves: moka::sync::Cache::builder()
                .max_capacity(MAX_LEAVES)
                .time_to_live(self.leaf_lifetime / 2)
                .build(),
        })
    }
}

impl CertificateAuthority {
    /// The certificate as PEM, for clients to trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate as DER.
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The server side of TLS for `host`, with a certificate for exactly that host.
    ///
    /// # Errors
    ///
    /// [`CaError::Certificate`] if the host cannot stand in a certificate.
    pub fn server_config(
        &self,
        host: &Host,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, Arc<CaError>> {
        if let Some(config) = self.leaves.get(host) {
            return Ok(config);
        }
        self.leaves.try_get_with_by_ref(host, || self.mint(host, now))
    }

    fn mint(&self, host: &Host, now: SystemTime) -> Result<Arc<ServerConfig>, CaError> {
        let leaf = leaf_params(host, now, (now + self.leaf_lifetime).min(self.not_after))?
            .signed_by(&self.leaf_key, &self.issuer)
            .map_err(CaError::Certificate)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let provider = crate::tls::provider();
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(CaError::Tls)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({})", self.fingerprint().as_str())
    }
}

fn ca_params(key: &KeyPair, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Two installations have two names: trust stores that index by name keep them apart.
    let id: String =
        Fingerprint::of(&key.subject_public_key_info()).as_str().chars().take(8).collect();
    params.distinguished_name.push(DnType::CommonName, format!("bearerd local CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + lifetime);
    params
}

fn leaf_params(
    host: &Host,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let name = match host {
        Host::Name(name) => {
            SanType::DnsName(name.to_string().try_into().map_err(CaError::Certificate)?)
        }
        Host::V4(address) => SanType::IpAddress((*address).into()),
        Host::V6(address) => SanType::IpAddress((*address).into()),
    };
    params.subject_alt_names = vec![name];
    // No common name: it holds at most 64 characters, and no client looks at it any more.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "bearerd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(not_after);
    Ok(params)
}

fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(CaError::Unusable {
                path: path.to_owned(),
                problem:
                    "is missing, though ca.pem is there; restore it, or remove ca.pem as well \
                          to have a new CA made"
                        .to_owned(),
            });
        }
        Err(error) => return Err(io("read", path, error)),
    };
    if metadata.mode() & 0o077 != 0 {
        return Err(CaError::Unusable {
            path: path.to_owned(),
            problem: "can be read by other users; run `chmod 600` on it".to_owned(),
        });
    }
    let pem = std::fs::read_to_string(path).map_err(|error| io("read", path, error))?;
    KeyPair::from_pem(&pem).map_err(|_| CaError::Unusable {
        path: path.to_owned(),
        problem: "holds no private key that can be used".to_owned(),
    })
}

/// Writes a file that is whole or not there; one that appeared meanwhile is left alone.
fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), CaError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(|error| io("write", path, error))?;
    let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
    written.map_err(|error| io("write", path, error))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io("write", path, error.error)),
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> CaError {
    CaError::Io { action, path: path.to_owned(), source }
}

/// Why there is no CA, or no certificate from it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A file is there and cannot be used.
    #[error("{path} {problem}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The CA's time is over.
    #[error(
        "the local CA {path} has expired; move ca.pem and ca.key out of {dir}, run `bearerd ca init`, and have the clients trust the new one"
    )]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// Where it is.
        dir: PathBuf,
    },
    /// No credential is configured, so there is nothing to vouch for.
    #[error("there is no local CA, because no credential is configured")]
    Missing,
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(rcgen::Error),
    /// A certificate could not be used.
    #[error("cannot use a certificate: {0}")]
    Tls(rustls::Error),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            dir: dir.path().join("certs"),
            lifetime: Duration::from_secs(365 * 24 * 3600),
            leaf_lifetime: Duration::from_secs(24 * 3600),
        };
        (dir, config)
    }

    #[test]
    fn a_ca_is_made_once_with_a_private_key_and_loaded_ever_after() {
        let (_dir, config) = config();
        let now = SystemTime::now();
        let first = config.open(now).unwrap();
        let second = config.open(now).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(std::fs::metadata(config.key_path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&config.dir).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn two_installations_have_different_keys_and_names() {
        let ((_a, a), (_b, b)) = (config(), config());
        let now = SystemTime::now();
        assert_ne!(a.open(now).unwrap().fingerprint(), b.open(now).unwrap().fingerprint());
    }

    #[test]
    fn a_leaf_names_one_host_for_a_day_with_a_key_that_is_not_the_ca_s() {
        let (_dir, config) = config();
        let now = SystemTime::now();
        let ca = config.open(now).unwrap();
        let host = Host::parse("api.example.com").unwrap();
        let leaf = leaf_params(&host, now, now + config.leaf_lifetime)
            .unwrap()
            .signed_by(&ca.leaf_key, &ca.issuer)
            .unwrap();
        let (_, parsed) = X509Certificate::from_der(leaf.der()).unwrap();
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(format!("{names:?}"), "[DNSName(\"api.example.com\")]");
        assert!(!parsed.is_ca());
        assert!(parsed.extended_key_usage().unwrap().unwrap().value.server_auth);
        let (_, ca_parsed) = X509Certificate::from_der(ca.der()).unwrap();
        assert_ne!(parsed.public_key().raw, ca_parsed.public_key().raw);
        let constraints = ca_parsed.basic_constraints().unwrap().unwrap().value;
        assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
        assert!(parsed.raw_serial().len() >= 8);
    }

    #[test]
    fn leaves_are_cached_by_host() {
        let (_dir, config) = config();
        let now = SystemTime::now();
        let ca = config.open(now).unwrap();
        let leaf = |text: &str| ca.server_config(&Host::parse(text).unwrap(), now).unwrap();
        assert!(Arc::ptr_eq(&leaf("a.test"), &leaf("A.test")));
        assert!(!Arc::ptr_eq(&leaf("a.test"), &leaf("127.0.0.1")));
    }

    #[test]
    fn an_expired_ca_is_an_error_and_not_replaced() {
        let (_dir, config) = config();
        let made = SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
        config.open(made).unwrap();
        let before = std::fs::read(config.certificate_path()).unwrap();
        let error = config.open(SystemTime::now()).unwrap_err();
        assert!(matches!(error, CaError::Expired { .. }), "{error}");
        assert_eq!(std::fs::read(config.certificate_path()).unwrap(), before);
    }

    #[test]
    fn files_that_do_not_fit_are_refused_with_what_to_do() {
        let now = SystemTime::now();
        let (_dir, config) = config();
        config.open(now).unwrap();
        std::fs::set_permissions(config.key_path(), Permissions::from_mode(0o644)).unwrap();
        assert!(config.open(now).unwrap_err().to_string().contains("chmod 600"));
        std::fs::remove_file(config.key_path()).unwrap();
        assert!(config.open(now).unwrap_err().to_string().contains("is missing"));
        let other = KeyPair::generate().unwrap().serialize_pem();
        write_new(&config.key_path(), 0o600, other.as_bytes()).unwrap();
        assert!(config.open(now).unwrap_err().to_string().contains("does not belong"));
    }
}
