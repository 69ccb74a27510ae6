//! Errors of the local CA.

use std::path::PathBuf;
use std::time::SystemTime;

/// Why there is no CA, or no certificate from it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// An operating system error.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file exists but is not usable.
    #[error("{path} {problem}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The CA has expired.
    #[error(
        "the local CA has expired on {}; run `bearerd ca renew` and make the clients trust the new ca.pem",
        humantime::format_rfc3339_seconds(*at)
    )]
    Expired {
        /// The time of expiry.
        at: SystemTime,
    },
    /// No credential is configured, so no certificates are needed.
    #[error("there is no local CA, because no credential is configured")]
    Missing,
    /// A certificate could not be created.
    #[error("cannot create a certificate: {0}")]
    Certificate(rcgen::Error),
    /// A certificate could not be used.
    #[error("cannot use a certificate: {0}")]
    Tls(rustls::Error),
}
