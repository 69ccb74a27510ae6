//! Secrets: values that cannot be printed.
//!
//! Every token, client secret and key in bearerd is a [`Secret`] from the moment it is read until
//! it is sent or stored in its record. The type has no `Display`, its `Debug` output is fixed, and
//! its memory is overwritten when it is dropped.
//!
//! ```
//! let secret = bearerd::secret::Secret::new("hunter2".to_owned());
//! assert_eq!(format!("{secret:?}"), "Secret(…)");
//! ```
//!
//! ```compile_fail
//! let secret = bearerd::secret::Secret::new("hunter2".to_owned());
//! println!("{secret}"); // no Display
//! ```

mod command;
mod source;

use std::fmt;

use aws_lc_rs::digest;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use command::kill_commands;
pub use source::{SecretError, SecretSource};

/// A value that must not appear in a log, an error, a metric or a response.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a value from a secret source or a token endpoint.
    pub fn new(value: String) -> Self {
        Self(SecretString::from(value))
    }

    /// The value itself, for sending or storing. Review every call.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The SHA-256 of the value, which identifies the value without revealing it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.expose().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (self.expose().as_bytes(), other.expose().as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
    }
}

impl Eq for Secret {}

/// Serialises the value in clear. Only `store` serialises secrets, into files of mode 0600 or
/// encrypted.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// The SHA-256 of a secret or of a piece of configuration, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        Self(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The hash in hexadecimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
