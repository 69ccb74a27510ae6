//! What can go wrong with the local CA.

use std::path::PathBuf;
use std::time::SystemTime;

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
        "the local CA has expired on {}; run `bearerd ca renew`, and have the clients trust the new ca.pem",
        humantime::format_rfc3339_seconds(*at)
    )]
    Expired {
        /// When.
        at: SystemTime,
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
