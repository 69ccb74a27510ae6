//! DPoP proofs of possession (RFC 9449): a token that is bound to a key is only usable with a
//! proof, made for one request, that the sender holds the key.
//!
//! A [`ProofKey`] belongs to one credential and is stored in its record. Refresh tokens of public
//! clients are bound to it as well (RFC 9449 §5), so losing the key means losing the grant. Each
//! request gets its own proof, which costs one ECDSA signature (tens of microseconds).

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::secret::Secret;

/// The header field for a proof (RFC 9449 §4.1).
pub static DPOP: HeaderName = HeaderName::from_static("dpop");
/// The header field in which a server supplies a nonce for the next proof (RFC 9449 §8, §9).
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// The maximum length of a nonce in bytes. Longer ones do not occur in practice and are ignored.
const MAX_NONCE: usize = 1024;
/// The maximum number of servers whose nonces are stored for one credential, because a wildcard
/// host may match any number. Forgetting one costs one repeated request.
const MAX_NONCES: usize = 256;

/// An ES256 key. Every server with DPoP supports ES256.
#[derive(Clone)]
pub struct ProofKey {
    pkcs8: Secret,
    signing: EncodingKey,
    public: Jwk,
}

/// A stored key cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored DPoP key is damaged")]
pub struct ProofKeyError;

/// The request that a proof is made for.
#[derive(Clone, Copy, Debug)]
pub struct ProofInput<'a> {
    /// The request method.
    pub method: &'a Method,
    /// The target URI without query and fragment.
    pub target: &'a str,
    /// The current time.
    pub now: SystemTime,
    /// The access token in the same request. `None` for a token endpoint.
    pub access_token: Option<&'a str>,
    /// The nonce from the server, if any.
    pub nonce: Option<&'a str>,
}

/// The claims of a proof (RFC 9449 §4.2).
#[derive(Serialize)]
struct Claims<'a> {
    jti: String,
    htm: &'a str,
    htu: &'a str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

impl ProofKey {
    /// Generates a key.
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .expect("the operating system has random numbers");
        let der = pair.to_pkcs8v1().expect("a generated key can be encoded");
        let text = Secret::new(STANDARD.encode(der.as_ref()));
        Self::from_stored(&text).expect("a generated key can be read")
    }

    /// Reads the text from [`ProofKey::to_stored`].
    ///
    /// # Errors
    ///
    /// [`ProofKeyError`] for any other text.
    pub fn from_stored(text: &Secret) -> Result<Self, ProofKeyError> {
        let der = STANDARD.decode(text.expose()).map_err(|_| ProofKeyError)?;
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .map_err(|_| ProofKeyError)?;
        crate::jwt::install_provider();
        let signing = EncodingKey::from_ec_der(&der);
        let public =
            Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(|_| ProofKeyError)?;
        Ok(Self { pkcs8: text.clone(), signing, public })
    }

    /// The key as text for the record.
    pub fn to_stored(&self) -> &Secret {
        &self.pkcs8
    }

    /// Signs a proof for one request and returns the value of the `DPoP` field.
    pub fn proof(&self, of: ProofInput<'_>) -> HeaderValue {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("dpop+jwt".to_owned());
        header.jwk = Some(self.public.clone());
        let mut id = [0; 16];
        rand::fill(&mut id).expect("the operating system has random numbers");
        let hash =
            |token: &str| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.as_bytes()));
        let claims = Claims {
            jti: URL_SAFE_NO_PAD.encode(id),
            htm: of.method.as_str(),
            htu: of.target,
            iat: of.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            ath: of.access_token.map(hash),
            nonce: of.nonce,
        };
        let jwt = jsonwebtoken::encode(&header, &claims, &self.signing)
            .expect("an ES256 key signs any claims");
        HeaderValue::try_from(jwt).expect("base64 and dots are visible ASCII")
    }
}

impl PartialEq for ProofKey {
    fn eq(&self, other: &Self) -> bool {
        self.pkcs8 == other.pkcs8
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey(…)")
    }
}

/// Returns the nonce for the next proof, if the response has exactly one valid nonce.
pub fn nonce(fields: &HeaderMap) -> Option<&str> {
    let mut lines = fields.get_all(DPOP_NONCE).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let text = line.to_str().ok()?;
    // RFC 9449 §8.1: 1*NQCHAR.
    let is_nonce = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (!text.is_empty() && text.len() <= MAX_NONCE && text.bytes().all(is_nonce)).then_some(text)
}

/// The latest nonce of each server.
#[derive(Debug)]
pub struct Nonces<K>(Mutex<HashMap<K, String>>);

impl<K: Eq + Hash + Clone> Nonces<K> {
    /// Returns the latest nonce of `server`.
    pub fn of(&self, server: &K) -> Option<String> {
        self.lock().get(server).cloned()
    }

    /// Stores the nonce in a response of `server`. Returns true if it differs from the nonce that
    /// was `sent` with the request, so that a retry can succeed.
    pub fn learn(&self, server: &K, sent: Option<&str>, fields: &HeaderMap) -> bool {
        let Some(nonce) = nonce(fields) else { return false };
        let is_other = sent != Some(nonce);
        let mut nonces = self.lock();
        if nonces.get(server).is_some_and(|known| known == nonce) {
            return is_other;
        }
        if nonces.len() >= MAX_NONCES
            && !nonces.contains_key(server)
            && let Some(other) = nonces.keys().next().cloned()
        {
            nonces.remove(&other);
        }
        nonces.insert(server.clone(), nonce.to_owned());
        is_other
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Nonces<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::time::Duration;

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    fn parts(proof: &HeaderValue) -> (Value, Value, String, Vec<u8>) {
        let text = proof.to_str().unwrap().to_owned();
        let parts: Vec<&str> = text.split('.').collect();
        let read = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let json = |part: &str| serde_json::from_slice(&read(part)).unwrap();
        let signed = format!("{}.{}", parts[0], parts[1]);
        (json(parts[0]), json(parts[1]), signed, read(parts[2]))
    }

    fn of<'a>(access_token: Option<&'a str>, nonce: Option<&'a str>) -> ProofInput<'a> {
        ProofInput {
            method: &Method::POST,
            target: "https://api.test/a",
            now: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            access_token,
            nonce,
        }
    }

    #[test]
    fn proofs_have_the_claims_of_the_request_and_a_valid_signature() {
        let key = ProofKey::generate();
        // RFC 9449 §7.1 has this token and its hash.
        let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
        let (header, claims, signed, signature) = parts(&key.proof(of(Some(token), Some("n-1"))));
        assert_eq!((&header["typ"], &header["alg"]), (&"dpop+jwt".into(), &"ES256".into()));
        assert_eq!(header["jwk"]["kty"], "EC");
        assert!(header["jwk"].get("d").is_none(), "the private part stays here");
        assert_eq!(claims["htm"], "POST");
        assert_eq!(claims["htu"], "https://api.test/a");
        assert_eq!(claims["iat"], 1_700_000_000);
        assert_eq!(claims["ath"], "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
        assert_eq!(claims["nonce"], "n-1");
        let coordinate =
            |name: &str| URL_SAFE_NO_PAD.decode(header["jwk"][name].as_str().unwrap()).unwrap();
        let public = [vec![4], coordinate("x"), coordinate("y")].concat();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
        public.verify(signed.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn proofs_are_unique_and_optional_claims_are_omitted() {
        let key = ProofKey::generate();
        let (one, two) = (parts(&key.proof(of(None, None))), parts(&key.proof(of(None, None))));
        assert_ne!(one.1["jti"], two.1["jti"]);
        assert!(one.1.get("ath").is_none() && one.1.get("nonce").is_none());
    }

    #[test]
    fn stored_keys_can_be_read_unless_damaged() {
        let key = ProofKey::generate();
        assert_eq!(ProofKey::from_stored(key.to_stored()), Ok(key.clone()));
        let text = key.to_stored().expose();
        for damaged in ["", "x", &text[..text.len() - 8], &text.replace('A', "B")] {
            let stored = Secret::new(damaged.to_owned());
            assert_eq!(ProofKey::from_stored(&stored), Err(ProofKeyError), "{damaged}");
        }
        assert!(!format!("{key:?}").contains(&text[..16]));
    }

    #[test]
    fn valid_nonces_are_stored_and_compared_with_the_sent_one() {
        let nonces = Nonces::default();
        let fields = |text: &str| HeaderMap::from_iter([(DPOP_NONCE, text.parse().unwrap())]);
        // Two requests without a nonce and one with it.
        assert!(nonces.learn(&1, None, &fields("n1")) && nonces.learn(&1, None, &fields("n1")));
        assert!(!nonces.learn(&1, Some("n1"), &fields("n1")));
        assert!(nonces.learn(&1, Some("n1"), &fields("n2")));
        assert_eq!((nonces.of(&1).as_deref(), nonces.of(&2)), (Some("n2"), None));
        for text in ["", "a b", "a\"b", &"x".repeat(1025)] {
            assert!(!nonces.learn(&1, None, &fields(text)), "{text}");
        }
        let mut twice = fields("n3");
        twice.append(DPOP_NONCE, "n4".parse().unwrap());
        assert!(!nonces.learn(&1, None, &twice));
    }

    #[test]
    fn the_number_of_stored_nonces_is_limited() {
        let nonces = Nonces::default();
        for server in 0..2 * MAX_NONCES {
            nonces.learn(
                &server,
                None,
                &HeaderMap::from_iter([(DPOP_NONCE, "n".parse().unwrap())]),
            );
        }
        assert_eq!(nonces.lock().len(), MAX_NONCES);
    }
}
