//! Encryption of stored records: the sealed envelope around a record's bytes.
//!
//! The envelope is `{"bearerd": 1, "sha256": "…", "sealed": "…"}`, where `sealed` is the base64 of
//! a version byte, the key id, a nonce and the AES-256-GCM ciphertext with its tag. The record's
//! key in the store is the associated data, so a file is useless under another credential's name.
//!
//! The checksum covers the sealed text and needs no encryption key. It distinguishes a damaged
//! file, which may be quarantined and replaced, from an intact one that is sealed with another key,
//! which is never touched.
//!
//! [`TokenRecord::to_bytes`](super::TokenRecord::to_bytes) defines the plaintext. If an encryption key is set, plain-text records are refused unless the migration of existing ones is enabled.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;

use super::record::{RecordError, TokenRecord};
use crate::secret::{Fingerprint, Secret};

/// Version of the binary content of `sealed`.
const VERSION: u8 = 1;
/// Version of the JSON envelope.
const FORMAT: u32 = 1;
const KEY_LEN: usize = 32;
const ID_LEN: usize = 8;
/// The minimum number of distinct bytes in a key. Thirty-two random bytes have about 30; fewer than
/// this did not come from a random generator.
const DISTINCT: usize = 16;

/// A 256-bit key for records.
#[derive(Clone)]
pub struct EncryptionKey {
    id: KeyId,
    bytes: Arc<Zeroizing<[u8; KEY_LEN]>>,
}

/// Identifies a key in messages and records: the beginning of its hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; ID_LEN]);

/// Why a text is not a valid key. Never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionKeyError {
    /// Too short, too long, or neither base64 nor hexadecimal.
    #[error("is not 32 bytes in base64 or hexadecimal")]
    Form,
    /// 32 bytes that are easy to guess.
    #[error("repeats a few bytes and could be guessed")]
    Weak,
}

impl EncryptionKey {
    /// Parses 32 bytes in base64, with or without padding, or in hexadecimal.
    ///
    /// Passwords are refused instead of stretched, because anyone with the file can guess them
    /// offline.
    ///
    /// # Errors
    ///
    /// [`EncryptionKeyError`].
    pub fn parse(text: &Secret) -> Result<Self, EncryptionKeyError> {
        let bytes = decode(text.expose()).ok_or(EncryptionKeyError::Form)?;
        let mut seen = [false; 256];
        bytes.iter().for_each(|byte| {
            if let Some(seen) = seen.get_mut(usize::from(*byte)) {
                *seen = true;
            }
        });
        if seen.iter().filter(|seen| **seen).count() < DISTINCT {
            return Err(EncryptionKeyError::Weak);
        }
        Ok(Self { id: KeyId::of(&bytes), bytes: Arc::new(bytes) })
    }

    /// The key's identifier.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Seals `plain` into an envelope. The memory of `plain` is overwritten with the ciphertext.
    fn seal(&self, name: &str, nonce: [u8; NONCE_LEN], mut plain: Vec<u8>) -> Vec<u8> {
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut plain,
            )
            .expect("a record is far below the 64 GiB that one nonce is good for");
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&self.id.0);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut plain);
        let sealed = STANDARD.encode(sealed);
        let checksum = Fingerprint::of(sealed.as_bytes());
        let checksum = checksum.as_str();
        format!("{{\"bearerd\": {FORMAT}, \"sha256\": \"{checksum}\", \"sealed\": \"{sealed}\"}}\n")
            .into_bytes()
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, self.bytes.as_slice());
        LessSafeKey::new(key.expect("AES-256 takes 32 bytes"))
    }
}

/// Decodes a key of 32 bytes.
fn decode(text: &str) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let bytes = match text.len() {
        64 => (0..KEY_LEN).map(|at| hexadecimal(text.get(2 * at..2 * at + 2)?)).collect(),
        _ => STANDARD_NO_PAD.decode(text.strip_suffix('=').unwrap_or(text)).ok(),
    };
    let bytes = Zeroizing::new(bytes?);
    let mut key = Zeroizing::new([0; KEY_LEN]);
    (bytes.len() == KEY_LEN).then(|| key.copy_from_slice(&bytes))?;
    Some(key)
}

/// Parses two hexadecimal digits; `from_str_radix` alone would accept a sign.
fn hexadecimal(digits: &str) -> Option<u8> {
    let is_digits = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_digits.then(|| u8::from_str_radix(digits, 16).ok())?
}

impl KeyId {
    fn of(key: &[u8; KEY_LEN]) -> Self {
        let mut named = Zeroizing::new(b"bearerd store key ".to_vec());
        named.extend_from_slice(key);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &named);
        Self(*hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionKey({})", self.id)
    }
}

impl PartialEq for EncryptionKey {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (self.bytes.as_slice(), other.bytes.as_slice());
        aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
    }
}

impl Eq for EncryptionKey {}

/// The encryption keys of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptionKeys {
    /// Seals new records; if `None`, they are written as plain text.
    pub current: Option<EncryptionKey>,
    /// Keys that can only open existing records.
    pub old: Vec<EncryptionKey>,
    /// Accepts plain-text records although there is a key, while existing ones are migrated.
    pub plain: bool,
}

/// Why the stored bytes cannot be opened. Never quotes them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The record is sealed and no key is configured.
    #[error("is encrypted with key {key}, and `store.key` is not set: set it to that key")]
    NoKey {
        /// The id of the required key.
        key: KeyId,
    },
    /// The record is sealed with a key that is not configured.
    #[error(
        "is encrypted with key {key}, which is not configured (configured: {}): set `store.key` to that \
         key, or add it to `store.old_keys` after a key rotation",
        list(.configured)
    )]
    OtherKey {
        /// The id of the required key.
        key: KeyId,
        /// The ids of the configured keys.
        configured: Vec<KeyId>,
    },
    /// The key matches but authentication failed: another credential's record, or a forgery.
    #[error(
        "was encrypted with key {key} for another credential, or was modified: restore the original file or remove it"
    )]
    NotThisRecord {
        /// The key it names.
        key: KeyId,
    },
    /// Plain text although there is a key: anyone who can write to the store could have made it.
    #[error("is plain text although `store.key` is set")]
    Plain,
    /// Not a complete envelope.
    #[error(transparent)]
    Damaged(#[from] RecordError),
}

fn list(ids: &[KeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedEnvelope<'a> {
    bearerd: u32,
    sha256: Fingerprint,
    #[serde(borrow)]
    sealed: &'a str,
}

impl EncryptionKeys {
    /// Returns true if plain-text records are accepted. Without a key all records are plain text;
    /// with a key, anyone could have put one there.
    pub fn accepts_plain(&self) -> bool {
        self.current.is_none() || self.plain
    }

    /// The bytes to store for the encoded record `plain` of credential `name`.
    pub(super) fn seal(&self, name: &str, plain: Vec<u8>) -> Vec<u8> {
        let Some(key) = &self.current else { return plain };
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).expect("the system random generator works");
        key.seal(name, nonce, plain)
    }

    /// Returns true if `bytes` are sealed with the current key.
    pub(super) fn is_sealed_with_current_key(&self, bytes: &[u8]) -> bool {
        let id = serde_json::from_slice::<SealedEnvelope<'_>>(bytes).ok().and_then(|envelope| {
            let sealed = STANDARD.decode(envelope.sealed).ok()?;
            sealed.get(1..=ID_LEN).map(<[u8]>::to_vec)
        });
        id.is_some_and(|id| self.current.as_ref().is_some_and(|key| key.id.0[..] == *id))
    }

    /// Opens the bytes stored for credential `name`. Plain text is returned unchanged if it is
    /// accepted (see [`EncryptionKeys::accepts_plain`]).
    ///
    /// # Errors
    ///
    /// [`SealError`]. All but [`SealError::Damaged`] mean that the file is intact and must be kept.
    pub(super) fn open(&self, name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let Ok(envelope) = serde_json::from_slice::<SealedEnvelope<'_>>(&bytes) else {
            // Refuse only readable records; anything else may be a damaged envelope and is handled
            // as damage.
            let is_record = || match TokenRecord::from_bytes(name, &bytes) {
                Ok(_) | Err(RecordError::OtherKey | RecordError::Newer(_)) => true,
                Err(RecordError::NotARecord | RecordError::Checksum) => false,
            };
            let is_refused = !self.accepts_plain() && is_record();
            return if is_refused { Err(SealError::Plain) } else { Ok(bytes) };
        };
        if envelope.bearerd > FORMAT {
            return Err(RecordError::Newer(envelope.bearerd).into());
        }
        if envelope.bearerd < FORMAT
            || Fingerprint::of(envelope.sealed.as_bytes()) != envelope.sha256
        {
            return Err(RecordError::Checksum.into());
        }
        let sealed = STANDARD.decode(envelope.sealed).map_err(|_| RecordError::NotARecord)?;
        let (version, sealed) = sealed.split_first().ok_or(RecordError::NotARecord)?;
        if *version != VERSION {
            return Err(RecordError::Newer(u32::from(*version)).into());
        }
        let (id, sealed) = sealed.split_first_chunk().ok_or(RecordError::NotARecord)?;
        let (nonce, ciphertext) = sealed.split_first_chunk().ok_or(RecordError::NotARecord)?;
        let key = self.of(KeyId(*id))?;
        let mut plain = ciphertext.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.cipher().open_in_place(nonce, Aad::from(name.as_bytes()), &mut plain);
        let len = opened.map_err(|_| SealError::NotThisRecord { key: key.id })?.len();
        plain.truncate(len);
        Ok(plain)
    }

    fn of(&self, id: KeyId) -> Result<&EncryptionKey, SealError> {
        let mut keys = self.current.iter().chain(&self.old);
        keys.find(|key| key.id == id).ok_or_else(|| match self.all().as_slice() {
            [] => SealError::NoKey { key: id },
            configured => SealError::OtherKey { key: id, configured: configured.to_vec() },
        })
    }

    fn all(&self) -> Vec<KeyId> {
        self.current.iter().chain(&self.old).map(EncryptionKey::id).collect()
    }
}

#[cfg(test)]
#[path = "seal/tests.rs"]
mod tests;
