//! The keys that sign assertions: PEM, JWK (RFC 7517) or a shared secret, with their algorithm.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};

use super::fingerprint_of;
use crate::secret::{Fingerprint, Secret};

/// A key and the algorithm it signs with.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: Algorithm,
    kid: Option<String>,
    key: EncodingKey,
    fingerprint: Fingerprint,
}

/// Why a text is no key to sign with. It holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// Neither PEM nor JSON, or broken.
    #[error("is neither a private key in PEM nor a private JWK")]
    Form,
    /// A JWK without its private members, or of a kind that does not sign.
    #[error("is a JWK without the members that signing needs")]
    Jwk,
    /// No such algorithm.
    #[error("has an algorithm that is not known")]
    Algorithm,
    /// Key and algorithm are of different kinds.
    #[error("does not suit the algorithm")]
    Mismatch,
}

impl SigningKey {
    /// The algorithms by name.
    pub const ALGORITHMS: &'static str =
        "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256, HS384 and HS512";

    /// Reads a private key in PEM or as JWK. Without `alg` the key decides: the JWK's own, else
    /// RS256, ES256, ES384 or EdDSA. Without `kid` a JWK's own counts.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError`].
    pub fn parse(
        text: &Secret,
        alg: Option<&str>,
        kid: Option<&str>,
    ) -> Result<Self, SigningKeyError> {
        let alg = alg.map(parse_algorithm).transpose()?;
        let trimmed = text.expose().trim_start();
        let (key, default, own_kid) = match trimmed.starts_with('{') {
            true => from_jwk(trimmed)?,
            false => from_pem(trimmed).map(|(key, default)| (key, default, None))?,
        };
        let kid = kid.map(str::to_owned).or(own_kid);
        Self::checked(key, alg.unwrap_or(default), kid, text)
    }

    /// A shared secret, for HS256 (the default), HS384 or HS512.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError`] if the algorithm is for other keys.
    pub fn shared(
        secret: &Secret,
        alg: Option<&str>,
        kid: Option<&str>,
    ) -> Result<Self, SigningKeyError> {
        let algorithm = alg.map(parse_algorithm).transpose()?.unwrap_or(Algorithm::HS256);
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        Self::checked(key, algorithm, kid.map(str::to_owned), secret)
    }

    fn checked(
        key: EncodingKey,
        algorithm: Algorithm,
        kid: Option<String>,
        text: &Secret,
    ) -> Result<Self, SigningKeyError> {
        let name = format!("{algorithm:?} {kid:?}");
        let fingerprint = fingerprint_of(&[text.fingerprint().as_str(), &name]);
        let key = Self { algorithm, kid, key, fingerprint };
        key.sign(&Header::new(algorithm), &Map::new())?;
        Ok(key)
    }

    pub(super) fn sign(
        &self,
        header: &Header,
        claims: &Map<String, Value>,
    ) -> Result<Secret, SigningKeyError> {
        crate::jwt::install_provider();
        let signed = jsonwebtoken::encode(header, claims, &self.key);
        signed.map(Secret::new).map_err(|_| SigningKeyError::Mismatch)
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Changes with the key, the algorithm and the key's name.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn parse_algorithm(name: &str) -> Result<Algorithm, SigningKeyError> {
    name.parse().map_err(|_| SigningKeyError::Algorithm)
}

fn from_pem(text: &str) -> Result<(EncodingKey, Algorithm), SigningKeyError> {
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| SigningKeyError::Form)?;
    let bytes = der.secret_der();
    if let Ok(key) = EncodingKey::from_rsa_pem(text.as_bytes()) {
        return Ok((key, Algorithm::RS256));
    }
    for (curve, algorithm) in CURVES {
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve, bytes) {
            return Ok((ec(&pair)?, algorithm));
        }
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes);
    pair.ok()
        .and_then(|pair| ed(&pair))
        .map(|key| (key, Algorithm::EdDSA))
        .ok_or(SigningKeyError::Form)
}

const CURVES: [(&EcdsaSigningAlgorithm, Algorithm); 2] = [
    (&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256),
    (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384),
];

fn ec(pair: &EcdsaKeyPair) -> Result<EncodingKey, SigningKeyError> {
    let der = pair.to_pkcs8v1().map_err(|_| SigningKeyError::Form)?;
    Ok(EncodingKey::from_ec_der(der.as_ref()))
}

fn ed(pair: &Ed25519KeyPair) -> Option<EncodingKey> {
    pair.to_pkcs8v1().ok().map(|der| EncodingKey::from_ed_der(der.as_ref()))
}

type FromJwk = (EncodingKey, Algorithm, Option<String>);

fn from_jwk(text: &str) -> Result<FromJwk, SigningKeyError> {
    let jwk: Map<String, Value> = serde_json::from_str(text).map_err(|_| SigningKeyError::Form)?;
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    let (key, default) = match (member("kty"), member("crv")) {
        (Some("RSA"), _) => (EncodingKey::from_rsa_der(&rsa(&jwk)?), Algorithm::RS256),
        (Some("EC"), Some("P-256")) => (ec_of(&jwk, CURVES[0].0)?, Algorithm::ES256),
        (Some("EC"), Some("P-384")) => (ec_of(&jwk, CURVES[1].0)?, Algorithm::ES384),
        (Some("OKP"), Some("Ed25519")) => {
            let pair =
                Ed25519KeyPair::from_seed_and_public_key(&bytes(&jwk, "d")?, &bytes(&jwk, "x")?);
            let key = pair.ok().and_then(|pair| ed(&pair)).ok_or(SigningKeyError::Jwk)?;
            (key, Algorithm::EdDSA)
        }
        (Some("oct"), _) => (EncodingKey::from_secret(&bytes(&jwk, "k")?), Algorithm::HS256),
        _ => return Err(SigningKeyError::Jwk),
    };
    // An `alg` that is for encryption or unknown says nothing about signatures.
    let own = member("alg").and_then(|name| name.parse().ok());
    let own = own.filter(|own: &Algorithm| family(*own) == key.family());
    Ok((key, own.unwrap_or(default), member("kid").map(str::to_owned)))
}

fn family(algorithm: Algorithm) -> AlgorithmFamily {
    let all =
        [AlgorithmFamily::Hmac, AlgorithmFamily::Rsa, AlgorithmFamily::Ec, AlgorithmFamily::Ed];
    let found = all.into_iter().find(|family| family.algorithms().contains(&algorithm));
    found.unwrap_or(AlgorithmFamily::Hmac)
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, SigningKeyError> {
    let text = jwk.get(name).and_then(Value::as_str).ok_or(SigningKeyError::Jwk)?;
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| SigningKeyError::Jwk)
}

fn ec_of(
    jwk: &Map<String, Value>,
    curve: &'static EcdsaSigningAlgorithm,
) -> Result<EncodingKey, SigningKeyError> {
    let public = [vec![4], bytes(jwk, "x")?, bytes(jwk, "y")?].concat();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(curve, &bytes(jwk, "d")?, &public);
    ec(&pair.map_err(|_| SigningKeyError::Jwk)?)
}

/// The members of a JWK (RFC 7518 §6.3) as an `RSAPrivateKey` (RFC 8017 appendix A.1.2).
fn rsa(jwk: &Map<String, Value>) -> Result<Vec<u8>, SigningKeyError> {
    let mut content = vec![2, 1, 0];
    for name in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
        let number = bytes(jwk, name)?;
        let number: Vec<u8> = number.into_iter().skip_while(|byte| *byte == 0).collect();
        let sign = number.first().is_none_or(|byte| byte & 0x80 != 0);
        let number = if sign { [vec![0], number].concat() } else { number };
        content.extend(element(2, &number));
    }
    Ok(element(0x30, &content))
}

/// One element in DER (X.690 §8.1).
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut head = vec![tag];
    match length.as_slice() {
        [] => head.push(0),
        [short] if *short < 0x80 => head.push(*short),
        long => {
            // At most eight bytes, so the sum fits.
            head.push(0x80 | u8::try_from(long.len()).unwrap_or(0));
            head.extend(long);
        }
    }
    [head, content.to_vec()].concat()
}
