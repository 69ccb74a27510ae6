//! Values that cannot be printed.
//!
//! Every token, client secret and key that passes through bearerd is a [`Secret`] from the moment
//! it is read to the moment it is written onto the wire or into its record. The type has no
//! `Display`, its `Debug` is fixed text, and its memory is overwritten when it is dropped.
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
    /// Takes ownership of a value that was read from a secret source or from a token endpoint.
    pub fn new(value: String) -> Self {
        Self(SecretString::from(value))
    }

    /// The value itself, for the wire or the record. Every call is a place to review.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The SHA-256 of the value in hexadecimal: enough to recognise it, not to use it.
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

/// Writes the value in clear: only `store` serialises secrets, into files of mode 0600.
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
