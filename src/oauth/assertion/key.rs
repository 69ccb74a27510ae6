//! Keys that sign assertions (RFC 7515) and their algorithms (RFC 7518).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::zeroize::Zeroizing;
use serde_json::{Map, Value};

use super::fingerprint_of;
use crate::oauth::keyfile::{self, KeyFault, KeyForm};
use crate::secret::{Fingerprint, Secret};

/// A signing key with its algorithm.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: Algorithm,
    kid: Option<String>,
    owner: Option<String>,
    pair: KeyPair,
    fingerprint: Fingerprint,
}

/// Why a text is not a usable signing key. Contains nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// The text is not a usable key.
    #[error("{0}")]
    Text(KeyFault),
    /// The algorithm is unknown.
    #[error("has an algorithm that is not known")]
    Algorithm,
    /// The key does not support the algorithm.
    #[error("does not suit the algorithm {0}: it is {1}")]
    Mismatch(Algorithm, KeyFamily),
    /// A certificate was configured for a shared secret.
    #[error("is for a private key, and the assertion is signed with a shared secret")]
    NoPair,
    /// The certificate belongs to another key.
    #[error("is not the certificate of the assertion's key")]
    OtherCertificate,
    /// The cryptographic library could not sign.
    #[error("could not sign")]
    Failed,
}

impl From<KeyFault> for SigningKeyError {
    fn from(fault: KeyFault) -> Self {
        Self::Text(fault)
    }
}

impl SigningKeyError {
    /// How to fix it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Text(fault) => fault.fix(),
            Self::Algorithm => ALGORITHMS,
            Self::Mismatch(..) => {
                "remove alg to use the key's default algorithm, or use a key that supports it"
            }
            Self::NoPair => "remove cert, or sign with the private key of the certificate",
            Self::OtherCertificate => {
                "name the certificate of this key: `openssl x509 -in CERT -noout -pubkey` and \
                 `openssl pkey -in KEY -pubout` print the same"
            }
            Self::Failed => "generate another key",
        }
    }
}

const ALGORITHMS: &str = "the algorithms are RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, HS256, HS384 and HS512";

/// A signature algorithm (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the registry
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

/// The kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFamily {
    /// RSA with PKCS #1 or PSS padding.
    Rsa,
    /// RSA restricted to PSS padding.
    RsaPss,
    /// The NIST curve P-256.
    P256,
    /// The NIST curve P-384.
    P384,
    /// The NIST curve P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// A shared secret (HMAC).
    Shared,
}

impl KeyFamily {
    fn algorithms(self) -> &'static [Algorithm] {
        use Algorithm::{
            ES256, ES384, ES512, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384,
            RS512,
        };
        match self {
            Self::Rsa => &[RS256, RS384, RS512, PS256, PS384, PS512],
            Self::RsaPss => &[PS256, PS384, PS512],
            Self::P256 => &[ES256],
            Self::P384 => &[ES384],
            Self::P521 => &[ES512],
            Self::Ed25519 => &[EdDSA],
            Self::Shared => &[HS256, HS384, HS512],
        }
    }
}

impl fmt::Display for KeyFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "an RSA key, for RS256 to RS512 and PS256 to PS512",
            Self::RsaPss => "an RSA-PSS key, for PS256, PS384 and PS512",
            Self::P256 => "an EC key on P-256, for ES256",
            Self::P384 => "an EC key on P-384, for ES384",
            Self::P521 => "an EC key on P-521, for ES512",
            Self::Ed25519 => "an Ed25519 key, for EdDSA",
            Self::Shared => "a shared secret, for HS256, HS384 and HS512",
        })
    }
}

/// The key itself.
#[derive(Clone)]
enum KeyPair {
    Rsa(Arc<RsaKeyPair>),
    Ec(Arc<EcdsaKeyPair>),
    Ed(Arc<Ed25519KeyPair>),
    Shared(Arc<Zeroizing<Vec<u8>>>),
}

/// The certificate thumbprints for a JWS header (RFC 7515 §4.1.7, §4.1.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateThumbprint {
    pub(super) sha1: String,
    pub(super) sha256: String,
}

impl SigningKey {
    /// Reads a private key in any supported form; [`KeyFault`] lists the unsupported ones. If `alg`
    /// is absent, the JWK's own algorithm applies, else RS256, ES256, ES384, ES512 or EdDSA
    /// depending on the key. If `kid` is absent, the `kid` of the JWK or of Google's JSON applies.
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
        let file = keyfile::read_key(text.expose(), kid)?;
        let (pair, family, own) = match &file.key {
            KeyForm::Der(der) => of_der(der).map(|(pair, family)| (pair, family, None))?,
            KeyForm::Jwk(jwk) => {
                let (pair, family) = of_jwk(jwk)?;
                (pair, family, jwk.get("alg").and_then(Value::as_str))
            }
        };
        // An encryption algorithm or an unknown one says nothing about signatures.
        let own = own.and_then(|name| parse_algorithm(name).ok());
        let own = own.filter(|own| family.algorithms().contains(own));
        let algorithm = alg.or(own).or(family.algorithms().first().copied());
        let kid = kid.map(str::to_owned).or(file.kid);
        let key = Self::checked(pair, family, algorithm.unwrap_or(Algorithm::RS256), kid, text)?;
        Ok(Self { owner: file.owner, ..key })
    }

    /// Creates a key from a shared secret, for HS256 (the default), HS384 or HS512.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError`] if the algorithm needs another kind of key.
    pub fn shared(
        secret: &Secret,
        alg: Option<&str>,
        kid: Option<&str>,
    ) -> Result<Self, SigningKeyError> {
        let algorithm = alg.map(parse_algorithm).transpose()?.unwrap_or(Algorithm::HS256);
        let pair = shared(secret.expose().as_bytes().to_vec());
        Self::checked(pair, KeyFamily::Shared, algorithm, kid.map(str::to_owned), secret)
    }

    fn checked(
        pair: KeyPair,
        family: KeyFamily,
        algorithm: Algorithm,
        kid: Option<String>,
        text: &Secret,
    ) -> Result<Self, SigningKeyError> {
        if !family.algorithms().contains(&algorithm) {
            return Err(SigningKeyError::Mismatch(algorithm, family));
        }
        let name = format!("{algorithm:?} {kid:?}");
        let fingerprint = fingerprint_of(&[text.fingerprint().as_str(), &name]);
        Ok(Self { algorithm, kid, owner: None, pair, fingerprint })
    }

    /// Returns the signed JWT (RFC 7515 §7.1).
    pub(super) fn sign(
        &self,
        header: Map<String, Value>,
        claims: Map<String, Value>,
    ) -> Result<Secret, SigningKeyError> {
        let part = |part| URL_SAFE_NO_PAD.encode(Value::Object(part).to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.signature(message.as_bytes()).ok_or(SigningKeyError::Failed)?;
        Ok(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            KeyPair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding = self.algorithm.padding()?;
                pair.sign(padding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            KeyPair::Ec(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            KeyPair::Ed(pair) => Some(pair.try_sign(message).ok()?.as_ref().to_vec()),
            KeyPair::Shared(secret) => {
                let key = hmac::Key::new(self.algorithm.hmac()?, secret);
                Some(hmac::sign(&key, message).as_ref().to_vec())
            }
        }
    }

    /// Returns the thumbprint of this key's certificate, which may be anywhere in `certificates`.
    ///
    /// # Errors
    ///
    /// [`SigningKeyError`] if none of the certificates belongs to this key.
    pub fn thumbprint(&self, certificates: &str) -> Result<CertificateThumbprint, SigningKeyError> {
        let public = match &self.pair {
            KeyPair::Rsa(pair) => pair.public_key().as_ref(),
            KeyPair::Ec(pair) => pair.public_key().as_ref(),
            KeyPair::Ed(pair) => pair.public_key().as_ref(),
            KeyPair::Shared(_) => return Err(SigningKeyError::NoPair),
        };
        let certificates = keyfile::read_certificates(certificates)?;
        let own = certificates
            .iter()
            .find(|it| keyfile::public_key_in(it).is_some_and(|found| found == public))
            .ok_or(SigningKeyError::OtherCertificate)?;
        let hash = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, own));
        // SHA-1 only identifies the certificate here; it is not used for signatures.
        let (sha1, sha256) = (&digest::SHA1_FOR_LEGACY_USE_ONLY, &digest::SHA256);
        Ok(CertificateThumbprint { sha1: hash(sha1), sha256: hash(sha256) })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The service account from Google's JSON, if any.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// A fingerprint of the key, its algorithm and its identifier.
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

impl Algorithm {
    const ALL: [Self; 13] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
        Self::HS256,
        Self::HS384,
        Self::HS512,
    ];

    fn padding(self) -> Option<&'static dyn RsaEncoding> {
        Some(match self {
            Self::RS256 => &RSA_PKCS1_SHA256,
            Self::RS384 => &RSA_PKCS1_SHA384,
            Self::RS512 => &RSA_PKCS1_SHA512,
            Self::PS256 => &RSA_PSS_SHA256,
            Self::PS384 => &RSA_PSS_SHA384,
            Self::PS512 => &RSA_PSS_SHA512,
            _ => return None,
        })
    }

    fn hmac(self) -> Option<hmac::Algorithm> {
        Some(match self {
            Self::HS256 => hmac::HMAC_SHA256,
            Self::HS384 => hmac::HMAC_SHA384,
            Self::HS512 => hmac::HMAC_SHA512,
            _ => return None,
        })
    }
}

/// The name in the IANA registry.
impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn parse_algorithm(name: &str) -> Result<Algorithm, SigningKeyError> {
    let found = Algorithm::ALL.into_iter().find(|algorithm| algorithm.to_string() == name);
    found.ok_or(SigningKeyError::Algorithm)
}

fn shared(secret: Vec<u8>) -> KeyPair {
    KeyPair::Shared(Arc::new(Zeroizing::new(secret)))
}

const CURVES: [(&EcdsaSigningAlgorithm, KeyFamily, &str, usize); 3] = [
    (&ECDSA_P256_SHA256_FIXED_SIGNING, KeyFamily::P256, "P-256", 32),
    (&ECDSA_P384_SHA384_FIXED_SIGNING, KeyFamily::P384, "P-384", 48),
    (&ECDSA_P521_SHA512_FIXED_SIGNING, KeyFamily::P521, "P-521", 66),
];

/// Reads a key in PKCS #8, PKCS #1 or SEC 1.
fn of_der(der: &[u8]) -> Result<(KeyPair, KeyFamily), KeyFault> {
    let attempts = match keyfile::inside_of_pss(der) {
        Some(inside) => [Some((RsaKeyPair::from_der(inside), KeyFamily::RsaPss)), None],
        None => [
            Some((RsaKeyPair::from_pkcs8(der), KeyFamily::Rsa)),
            Some((RsaKeyPair::from_der(der), KeyFamily::Rsa)),
        ],
    };
    for (attempt, family) in attempts.into_iter().flatten() {
        match attempt {
            Ok(pair) => return Ok((KeyPair::Rsa(Arc::new(pair)), family)),
            Err(rejected) if ["TooSmall", "TooLarge"].contains(&rejected.description_()) => {
                return Err(KeyFault::Size);
            }
            Err(_) => {}
        }
    }
    for (curve, family, ..) in CURVES {
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve, der) {
            return Ok((KeyPair::Ec(Arc::new(pair)), family));
        }
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
    let pair = pair.map_err(|_| keyfile::described(der))?;
    Ok((KeyPair::Ed(Arc::new(pair)), KeyFamily::Ed25519))
}

/// Explains why a private key cannot be used, for signing or for TLS, which supports fewer kinds.
pub(in crate::oauth) fn fault_of(der: &[u8]) -> KeyFault {
    of_der(der).err().unwrap_or_else(|| keyfile::described(der))
}

fn of_jwk(jwk: &Map<String, Value>) -> Result<(KeyPair, KeyFamily), KeyFault> {
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    match (member("kty"), member("crv")) {
        (Some("RSA"), _) => of_der(&rsa(jwk)?).map_err(|fault| match fault {
            KeyFault::Size => fault,
            _ => KeyFault::Jwk,
        }),
        (Some("EC"), Some("secp256k1")) => Err(KeyFault::Kind("an EC key on secp256k1")),
        (Some("EC"), crv) => {
            let curve = CURVES.iter().find(|(.., name, _)| crv == Some(*name));
            let (curve, family, _, length) = curve.ok_or(KeyFault::Jwk)?;
            let number = |name| bytes(jwk, name).map(|number| padded(number, *length));
            let public = [vec![4], number("x")?, number("y")?].concat();
            let pair = EcdsaKeyPair::from_private_key_and_public_key(curve, &number("d")?, &public);
            Ok((KeyPair::Ec(Arc::new(pair.map_err(|_| KeyFault::Jwk)?)), *family))
        }
        (Some("OKP"), Some("Ed25519")) => {
            let pair =
                Ed25519KeyPair::from_seed_and_public_key(&bytes(jwk, "d")?, &bytes(jwk, "x")?);
            Ok((KeyPair::Ed(Arc::new(pair.map_err(|_| KeyFault::Jwk)?)), KeyFamily::Ed25519))
        }
        (Some("OKP"), Some("Ed448")) => Err(KeyFault::Kind("an Ed448 key")),
        (Some("OKP"), Some("X25519")) => Err(KeyFault::Kind("an X25519 key")),
        (Some("oct"), _) => Ok((shared(bytes(jwk, "k")?.to_vec()), KeyFamily::Shared)),
        _ => Err(KeyFault::Jwk),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    let text = jwk.get(name).and_then(Value::as_str).ok_or(KeyFault::Jwk)?;
    let read = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
    read.map(Zeroizing::new).map_err(|_| KeyFault::Jwk)
}

/// Pads a number with leading zeros as RFC 7518 §6.2.1.2 requires; some keys lack them.
fn padded(number: Zeroizing<Vec<u8>>, length: usize) -> Vec<u8> {
    let mut whole = vec![0; length.saturating_sub(number.len())];
    whole.extend_from_slice(&number);
    whole
}

/// Encodes the members of a JWK (RFC 7518 §6.3) as an `RSAPrivateKey` (RFC 8017 appendix A.1.2).
fn rsa(jwk: &Map<String, Value>) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    let mut content = Zeroizing::new(vec![2, 1, 0]);
    for name in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
        let number = bytes(jwk, name)?;
        let number: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        let sign = number.first().is_none_or(|byte| byte & 0x80 != 0);
        let number = if sign { [vec![0], number].concat() } else { number };
        content.extend(keyfile::encoded(2, &number));
    }
    Ok(Zeroizing::new(keyfile::encoded(0x30, &content)))
}
