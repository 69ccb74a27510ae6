//! Proofs of possession (RFC 9449): a token that is bound to a key is only worth something together
//! with a proof, made for one request, that its sender holds the key.
//!
//! A [`ProofKey`] belongs to one credential and is kept in its record: a refresh token of a public client is
//! bound to it as well (RFC 9449 §5), so losing the key is losing the grant. Proofs are cheap (one
//! ECDSA signature, some tens of microseconds) and never used twice.

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

/// The field that carries a proof (RFC 9449 §4.1).
pub static DPOP: HeaderName = HeaderName::from_static("dpop");
/// The field with which a server asks for a nonce in the next proof (RFC 9449 §8, §9).
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// No nonce is longer in practice; a longer one is not kept.
const MAX_NONCE: usize = 1024;
/// Origin servers whose nonces are remembered for one credential. A wildcard of hosts could name any
/// number; beyond this one is forgotten, which costs one repeated request.
const MAX_NONCES: usize = 256;

/// An ES256 key, the algorithm that every server with DPoP knows.
#[derive(Clone)]
pub struct ProofKey {
    pkcs8: Secret,
    signing: EncodingKey,
    public: Jwk,
}

/// A stored text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored DPoP key is damaged")]
pub struct ProofKeyError;

/// What a proof is for.
#[derive(Clone, Copy, Debug)]
pub struct ProofInput<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// Its target URI without query and fragment.
    pub target: &'a str,
    /// When it is made.
    pub now: SystemTime,
    /// The access token that goes along; none to a token endpoint.
    pub access_token: Option<&'a str>,
    /// What the server asked to see in the next proof.
    pub nonce: Option<&'a str>,
}

/// RFC 9449 §4.2.
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
    /// A new key.
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .expect("the operating system has random numbers");
        let der = pair.to_pkcs8v1().expect("a key that was just made can be written down");
        let text = Secret::new(STANDARD.encode(der.as_ref()));
        Self::from_stored(&text).expect("a key that was just made can be read")
    }

    /// The key that [`ProofKey::to_stored`] wrote.
    ///
    /// # Errors
    ///
    /// [`ProofKeyError`] for anything else.
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

    /// The key as text, for the record.
    pub fn to_stored(&self) -> &Secret {
        &self.pkcs8
    }

    /// The value of the `DPoP` field for one request.
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

/// The nonce that an answer carries for the next proof.
pub fn nonce(fields: &HeaderMap) -> Option<&str> {
    let mut lines = fields.get_all(DPOP_NONCE).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let text = line.to_str().ok()?;
    // RFC 9449 §8.1: 1*NQCHAR.
    let is_nonce = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (!text.is_empty() && text.len() <= MAX_NONCE && text.bytes().all(is_nonce)).then_some(text)
}

/// The last nonce of each server.
#[derive(Debug)]
pub struct Nonces<K>(Mutex<HashMap<K, String>>);

impl<K: Eq + Hash + Clone> Nonces<K> {
    /// What `server` wants to see in the next proof.
    pub fn of(&self, server: &K) -> Option<String> {
        self.lock().get(server).cloned()
    }

    /// Remembers what an answer of `server` says; says whether that is another nonce than the one that
    /// was `sent` with the request.
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
    fn a_proof_says_what_it_is_for_and_its_signature_holds() {
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
    fn no_two_proofs_are_the_same_and_what_is_not_known_is_left_out() {
        let key = ProofKey::generate();
        let (one, two) = (parts(&key.proof(of(None, None))), parts(&key.proof(of(None, None))));
        assert_ne!(one.1["jti"], two.1["jti"]);
        assert!(one.1.get("ath").is_none() && one.1.get("nonce").is_none());
    }

    #[test]
    fn a_key_survives_being_stored_and_a_damaged_one_is_refused() {
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
    fn a_nonce_is_learned_if_it_is_one_and_is_news_to_who_sent_another() {
        let nonces = Nonces::default();
        let fields = |text: &str| HeaderMap::from_iter([(DPOP_NONCE, text.parse().unwrap())]);
        // Two requests that were sent without one, and one that has it.
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
    fn not_every_server_of_the_world_is_remembered() {
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
