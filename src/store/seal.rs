//! Records that only the holder of a key can read: the envelope around a record's bytes.
//!
//! `{"bearerd": 1, "sha256": "…", "sealed": "…"}`, where `sealed` is the base64 of a version byte, the
//! key's id, a nonce and the ciphertext (AES-256-GCM) with its tag. The credential's key in the store is
//! the associated data, so that one credential's file is worth nothing in another's place.
//!
//! The checksum is over the sealed text and needs no key: it tells a damaged file, which may be moved
//! aside and replaced, from one that is whole and that only somebody with another key can read. The
//! latter is never touched.
//!
//! What is sealed is decided elsewhere ([`TokenRecord::to_bytes`](super::TokenRecord::to_bytes)). Plain text is refused
//! beside a key, unless records from before it are still to be sealed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;

use super::record::{RecordError, TokenRecord};
use crate::secret::{Fingerprint, Secret};

/// The form of what is in `sealed`.
const VERSION: u8 = 1;
/// The form of the JSON around it.
const FORMAT: u32 = 1;
const KEY_LEN: usize = 32;
const ID_LEN: usize = 8;
/// Thirty-two random bytes hold about thirty different ones; so few come from no random generator.
const DISTINCT: usize = 16;

/// A key for records, 256 bits.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    bytes: Arc<Zeroizing<[u8; KEY_LEN]>>,
}

/// What a key is called in messages and in records: the beginning of a hash of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; ID_LEN]);

/// Why a text is no key. Says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short, too long, or in another alphabet.
    #[error("is not 32 bytes in base64 or hexadecimal")]
    Form,
    /// 32 bytes that anybody could guess.
    #[error("repeats a few bytes and could be guessed")]
    Weak,
}

impl Key {
    /// Reads 32 bytes in base64, with or without its padding, or in hexadecimal.
    ///
    /// Passwords are refused rather than stretched: they can be guessed by whoever has the file.
    ///
    /// # Errors
    ///
    /// [`KeyError`].
    pub fn parse(text: &Secret) -> Result<Self, KeyError> {
        let bytes = decode(text.expose()).ok_or(KeyError::Form)?;
        let mut seen = [false; 256];
        bytes.iter().for_each(|byte| {
            if let Some(seen) = seen.get_mut(usize::from(*byte)) {
                *seen = true;
            }
        });
        if seen.iter().filter(|seen| **seen).count() < DISTINCT {
            return Err(KeyError::Weak);
        }
        Ok(Self { id: KeyId::of(&bytes), bytes: Arc::new(bytes) })
    }

    /// What it is called.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The envelope of `plain`, whose memory is overwritten with the ciphertext.
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

/// The 32 bytes that are written here.
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

/// Two digits; `from_str_radix` alone would take a sign for one.
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

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (self.bytes.as_slice(), other.bytes.as_slice());
        aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
    }
}

impl Eq for Key {}

/// The keys of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Seals what is written from now on; `None`: records are plain text.
    pub current: Option<Key>,
    /// Opens what was sealed before.
    pub old: Vec<Key>,
    /// Records in plain text are read beside a key: those from before the first one, until they are sealed.
    pub plain: bool,
}

/// Why the bytes of a record file cannot be read. Never quotes them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No key is configured.
    #[error("is encrypted with key {key}, and `store.key` is not set: set it to that key again")]
    NoKey {
        /// The key that is needed.
        key: KeyId,
    },
    /// Other keys are configured.
    #[error(
        "is encrypted with key {key}, which is none of the configured ones ({}): give that key as \
         `store.key`, or in `store.old_keys` after a change of keys",
        list(.configured)
    )]
    OtherKey {
        /// The key that is needed.
        key: KeyId,
        /// The keys that there are.
        configured: Vec<KeyId>,
    },
    /// The right key, but it does not open: another credential's record, or forged.
    #[error(
        "was encrypted with key {key} for another credential, or was tampered with: put the right file back, or remove it"
    )]
    NotThisRecord {
        /// The key it names.
        key: KeyId,
    },
    /// In plain text, beside a key: whoever can write to the store could have made it.
    #[error("is plain text although `store.key` is set")]
    Plain,
    /// Not a whole envelope.
    #[error(transparent)]
    Damaged(#[from] RecordError),
}

fn list(ids: &[KeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    bearerd: u32,
    sha256: Fingerprint,
    #[serde(borrow)]
    sealed: &'a str,
}

impl Keys {
    /// Is a record in plain text one of ours? Without a key nothing else is written; beside one,
    /// anybody could have put it there.
    pub fn accepts_plain(&self) -> bool {
        self.current.is_none() || self.plain
    }

    /// The bytes to store for the record `plain` of credential `name`.
    pub(super) fn seal(&self, name: &str, plain: Vec<u8>) -> Vec<u8> {
        let Some(key) = &self.current else { return plain };
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).expect("the system has random numbers");
        key.seal(name, nonce, plain)
    }

    /// Was this sealed with the current key, as everything that is written now?
    pub(super) fn has_sealed(&self, bytes: &[u8]) -> bool {
        let id = serde_json::from_slice::<Envelope<'_>>(bytes).ok().and_then(|envelope| {
            let sealed = STANDARD.decode(envelope.sealed).ok()?;
            sealed.get(1..=ID_LEN).map(<[u8]>::to_vec)
        });
        id.is_some_and(|id| self.current.as_ref().is_some_and(|key| key.id.0[..] == *id))
    }

    /// The record's bytes from what is stored for credential `name`. Plain text passes unchanged where it
    /// may: without a key, or while records from before it are sealed.
    ///
    /// # Errors
    ///
    /// [`SealError`]; all but [`SealError::Damaged`] mean that the file is whole and must stay.
    pub(super) fn open(&self, name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(&bytes) else {
            // Only what would be read: what is no record may be a damaged envelope, and is replaced as such.
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

    fn of(&self, id: KeyId) -> Result<&Key, SealError> {
        let mut keys = self.current.iter().chain(&self.old);
        keys.find(|key| key.id == id).ok_or_else(|| match self.all().as_slice() {
            [] => SealError::NoKey { key: id },
            configured => SealError::OtherKey { key: id, configured: configured.to_vec() },
        })
    }

    fn all(&self) -> Vec<KeyId> {
        self.current.iter().chain(&self.old).map(Key::id).collect()
    }
}

#[cfg(test)]
#[path = "seal/tests.rs"]
mod tests;
