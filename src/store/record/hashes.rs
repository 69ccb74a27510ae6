//! Hashes of refresh tokens that are no more, many of them, in little space.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::Fingerprint;

/// Six bytes of a hash: two of a thousand are alike once in 500 million credentials.
const LEN: usize = 6;

/// The beginnings of hashes, newest first; written as one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes(Vec<[u8; LEN]>);

impl Hashes {
    /// So many are kept: years of rotations of a token that lives for a day.
    pub const MOST: usize = 1000;

    /// Is it among them?
    pub fn contains(&self, hash: &Fingerprint) -> bool {
        self.0.contains(&short(hash))
    }

    /// Puts it first. The oldest goes when there are too many.
    pub fn insert(&mut self, hash: &Fingerprint) {
        let hash = short(hash);
        self.0.retain(|known| *known != hash);
        self.0.insert(0, hash);
        self.0.truncate(Self::MOST);
    }

    /// Is one of them among `other`'s?
    pub fn shares(&self, other: &Self) -> bool {
        self.0.iter().any(|hash| other.0.contains(hash))
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Fingerprint> for Hashes {
    fn from_iter<T: IntoIterator<Item = Fingerprint>>(hashes: T) -> Self {
        Self(hashes.into_iter().take(Self::MOST).map(|hash| short(&hash)).collect())
    }
}

fn short(hash: &Fingerprint) -> [u8; LEN] {
    let mut short = [0; LEN];
    for (byte, digits) in short.iter_mut().zip(hash.as_str().as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    short
}

impl Serialize for Hashes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(self.0.as_flattened()))
    }
}

impl<'de> Deserialize<'de> for Hashes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(text).map_err(serde::de::Error::custom)?;
        let (hashes, rest) = bytes.as_chunks();
        match rest {
            [] => Ok(Self(hashes.iter().copied().take(Self::MOST).collect())),
            _ => Err(serde::de::Error::custom("not a whole number of hashes")),
        }
    }
}
