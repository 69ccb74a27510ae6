//! Storage of the CA.
//!
//! `ca.pem` contains the certificates that clients trust; `ca.key` and `next.key` the keys of up to
//! two of them. A renewal creates `next.key` and adds its certificate. The next renewal first moves
//! `next.key` to `ca.key`. If either is interrupted, the remaining files still load.

use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CaError, CertificateAuthority, Config, Signer, ca_params};

impl Config {
    /// Returns true if a CA exists.
    pub fn exists(&self) -> bool {
        self.certificate_path().exists()
    }

    /// The file of the certificates that clients trust.
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The file of the private key, which no other user may read.
    pub fn key_path(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    fn next_key_path(&self) -> PathBuf {
        self.dir.join("next.key")
    }

    /// Loads the CA, or creates it if there is none. An expired CA loads but signs nothing.
    ///
    /// # Errors
    ///
    /// [`CaError`] for files that cannot be read or written, that do not belong together, or that other users can read.
    pub fn open(&self, now: SystemTime) -> Result<CertificateAuthority, CaError> {
        self.create_missing(now)?;
        self.load()
    }

    /// Creates the next CA, unless there is already one that does not sign yet. Clients have to
    /// trust both from now on; the next one starts to sign a week before the first expires.
    ///
    /// # Errors
    ///
    /// [`CaError`], also if there is no CA.
    pub fn renew(&self, now: SystemTime) -> Result<CertificateAuthority, CaError> {
        let ca = self.load()?;
        if ca.handover_time(now).is_some() {
            return Ok(ca);
        }
        let (key_path, next_path) = (self.key_path(), self.next_key_path());
        if next_path.exists() && ca.signers.len() > 1 {
            std::fs::rename(&next_path, &key_path)
                .map_err(|error| io("replace", &key_path, error))?;
        }
        if !next_path.exists() {
            let key = KeyPair::generate().map_err(CaError::Certificate)?;
            write_new(&next_path, 0o600, key.serialize_pem().as_bytes())?;
        }
        let certificate = self.self_signed(&read_key(&next_path)?, now)?;
        let unexpired = |signer: &&Arc<Signer>| signer.not_after > now;
        let unexpired = ca.signers.iter().filter(unexpired).map(|signer| pem(&signer.certificate));
        let bundle: String = unexpired.chain([certificate]).collect();
        let path = self.certificate_path();
        replace(&path, 0o644, bundle.as_bytes())?;
        self.load()
    }

    fn self_signed(&self, key: &KeyPair, now: SystemTime) -> Result<String, CaError> {
        let signed = ca_params(key, now, self.lifetime)?.self_signed(key);
        signed.map(|certificate| certificate.pem()).map_err(CaError::Certificate)
    }

    /// If two processes start at once, both use the files of the first.
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
        let certificate = self.self_signed(&read_key(&key_path)?, now)?;
        write_new(&certificate_path, 0o644, certificate.as_bytes())
    }

    fn load(&self) -> Result<CertificateAuthority, CaError> {
        let path = self.certificate_path();
        let mut key_paths = vec![self.key_path()];
        key_paths.extend(Some(self.next_key_path()).filter(|path| path.exists()));
        for key_path in &key_paths {
            // A key that is not usable is an error, even if it belongs to no certificate.
            read_key(key_path)?;
        }
        let pem = std::fs::read_to_string(&path).map_err(|error| io("read", &path, error))?;
        let mut signers = signers(&path, &pem, &key_paths)?;
        signers.sort_by_key(|signer| signer.not_after);
        match signers.is_empty() {
            true => Err(unusable(&path, "does not belong to the ca.key beside it")),
            false => CertificateAuthority::new(signers, pem, self.leaf_lifetime),
        }
    }
}

/// The certificates of `pem` whose keys are available.
fn signers(path: &Path, pem: &str, keys: &[PathBuf]) -> Result<Vec<Arc<Signer>>, CaError> {
    let mut found = Vec::new();
    let mut is_empty = true;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| unusable(path, "is damaged"))?;
        is_empty = false;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|_| unusable(path, "is not an X.509 certificate"))?;
        if !parsed.is_ca() {
            return Err(unusable(path, "is not a certificate authority"));
        }
        for key_path in keys {
            let key = read_key(key_path)?;
            if parsed.public_key().raw == key.subject_public_key_info() {
                found.push(Arc::new(signer(&certificate, &parsed, key)?));
            }
        }
    }
    match is_empty {
        true => Err(unusable(path, "contains no PEM certificate")),
        false => Ok(found),
    }
}

fn signer(
    certificate: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    key: KeyPair,
) -> Result<Signer, CaError> {
    Ok(Signer {
        issuer: Issuer::from_ca_cert_der(certificate, key).map_err(CaError::Certificate)?,
        certificate: certificate.clone().into_owned(),
        not_after: SystemTime::from(parsed.validity().not_after.to_datetime()),
    })
}

fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let problem = "is missing although ca.pem exists; restore it, or remove ca.pem as well to create a \
                           new CA";
            return Err(unusable(path, problem));
        }
        Err(error) => return Err(io("read", path, error)),
    };
    if metadata.mode() & 0o077 != 0 {
        return Err(unusable(path, "can be read by other users; run `chmod 600` on it"));
    }
    let pem = std::fs::read_to_string(path).map_err(|error| io("read", path, error))?;
    KeyPair::from_pem(&pem).map_err(|_| unusable(path, "contains no usable private key"))
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (at, letter) in encoded.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + "\n-----END CERTIFICATE-----\n"
}

/// Writes a complete file or none. An existing file is left unchanged.
pub(super) fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), CaError> {
    match temporary(path, mode, bytes)?.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io("write", path, error.error)),
    }
}

/// Replaces a file atomically.
fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), CaError> {
    let replaced = temporary(path, mode, bytes)?.persist(path);
    replaced.map(drop).map_err(|error| io("write", path, error.error))
}

fn temporary(path: &Path, mode: u32, bytes: &[u8]) -> Result<tempfile::NamedTempFile, CaError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(|error| io("write", path, error))?;
    let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
    written.map_err(|error| io("write", path, error))?;
    Ok(file)
}

fn unusable(path: &Path, problem: &str) -> CaError {
    CaError::Unusable { path: path.to_owned(), problem: problem.to_owned() }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> CaError {
    CaError::Io { action, path: path.to_owned(), source }
}
