//! A compact set of hashes of superseded refresh tokens.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::Fingerprint;

/// Six bytes of a hash: among 1000 hashes, two collide in one of 500 million credentials.
const LEN: usize = 6;

/// Truncated hashes, newest first, serialized as one base64 string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes(Vec<[u8; LEN]>);

impl Hashes {
    /// The maximum number of hashes: almost three years of rotations of a token that lives for a
    /// day.
    pub const MAX_LEN: usize = 1000;

    /// Returns true if the set contains `hash`.
    pub fn contains(&self, hash: &Fingerprint) -> bool {
        self.0.contains(&short(hash))
    }

    /// Adds `hash` as the newest. The oldest is dropped if there are more than [`Hashes::MAX_LEN`].
    pub fn insert(&mut self, hash: &Fingerprint) {
        let hash = short(hash);
        self.0.retain(|known| *known != hash);
        self.0.insert(0, hash);
        self.0.truncate(Self::MAX_LEN);
    }

    /// Returns true if the sets have a hash in common.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().any(|hash| other.0.contains(hash))
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of hashes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Fingerprint> for Hashes {
    fn from_iter<T: IntoIterator<Item = Fingerprint>>(hashes: T) -> Self {
        Self(hashes.into_iter().take(Self::MAX_LEN).map(|hash| short(&hash)).collect())
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
            [] => Ok(Self(hashes.iter().copied().take(Self::MAX_LEN).collect())),
            _ => Err(serde::de::Error::custom("not a whole number of hashes")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn hash(text: &str) -> Fingerprint {
        Fingerprint::of(text.as_bytes())
    }

    #[test]
    fn only_inserted_hashes_are_contained() {
        let mut hashes = Hashes::default();
        assert!(hashes.is_empty() && !hashes.contains(&hash("a")));
        hashes.insert(&hash("a"));
        assert!(!hashes.is_empty() && hashes.contains(&hash("a")) && !hashes.contains(&hash("b")));
        // All stored bytes are compared, not only the first.
        let digits = hash("a").as_str().to_owned();
        for at in 0..12 {
            let mut other = digits.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            let other: Fingerprint = serde_json::from_value(other.into()).unwrap();
            assert!(!hashes.contains(&other), "digit {at}");
        }
    }

    #[test]
    fn the_newest_hashes_are_kept_without_duplicates() {
        let hash = |number: usize| hash(&format!("rt-{number}"));
        let mut hashes = Hashes::default();
        for number in 0..Hashes::MAX_LEN + 5 {
            hashes.insert(&hash(number));
        }
        assert_eq!(hashes.len(), Hashes::MAX_LEN);
        assert!(!hashes.contains(&hash(4)) && hashes.contains(&hash(5)));
        // A hash that is added again becomes the newest and displaces no other.
        hashes.insert(&hash(6));
        assert_eq!(hashes.len(), Hashes::MAX_LEN);
        assert!(hashes.contains(&hash(5)));
        hashes.insert(&hash(0));
        hashes.insert(&hash(1));
        assert!(
            hashes.contains(&hash(6)) && !hashes.contains(&hash(5)) && !hashes.contains(&hash(7))
        );
    }

    #[test]
    fn hashes_round_trip_in_order_as_one_string() {
        let many: Hashes = (0..Hashes::MAX_LEN).map(|number| hash(&number.to_string())).collect();
        for hashes in [many, Hashes::default(), [hash("a"), hash("b")].into_iter().collect()] {
            let text = serde_json::to_string(&hashes).unwrap();
            assert_eq!(text.len(), hashes.len() * 8 + 2);
            assert_eq!(serde_json::from_str::<Hashes>(&text).unwrap(), hashes);
        }
    }

    #[test]
    fn too_many_hashes_in_a_record_are_bounded() {
        let text = format!("\"{}\"", "AAAAAAAA".repeat(Hashes::MAX_LEN + 1));
        assert_eq!(serde_json::from_str::<Hashes>(&text).unwrap().len(), Hashes::MAX_LEN);
        let from_hashes: Hashes = (0..1500).map(|number| hash(&number.to_string())).collect();
        assert_eq!(from_hashes.len(), Hashes::MAX_LEN);
    }

    /// A damaged record may contain any text in place of a hash.
    #[test]
    fn an_invalid_hash_does_not_panic() {
        for text in ["", "é", "xyz", "0123456789", "+1+1+1+1+1+1"] {
            let odd: Fingerprint = serde_json::from_value(text.into()).unwrap();
            let mut hashes = Hashes::default();
            hashes.insert(&odd);
            assert!(hashes.contains(&odd) && !hashes.contains(&hash("a")), "{text}");
        }
    }
}
