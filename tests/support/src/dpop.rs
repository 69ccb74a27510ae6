//! Server-side checks of DPoP proofs (RFC 9449).
//!
//! A `jti` is accepted once. The age of a proof is not checked, because a test may run the prover on its own
//! clock.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::tokens::unique_value;

const LOCK: &str = "no holder of this lock panics";

/// The request that carries a proof.
pub(crate) struct ProofRequest<'a> {
    pub(crate) method: &'a Method,
    /// The scheme of the server, and the request target as sent.
    pub(crate) scheme: &'a str,
    pub(crate) target: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// The access token of the request, if any.
    pub(crate) access_token: Option<&'a str>,
}

/// The reason a proof is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProofError {
    /// The proof lacks this nonce.
    Nonce(String),
    /// Any other reason.
    Invalid(&'static str),
}

#[derive(Default)]
struct Ledger {
    jtis: HashSet<String>,
    nonce: Option<String>,
    nonces: usize,
}

/// The proofs received by one server, and the nonce that it requires.
#[derive(Default)]
pub(crate) struct Proofs(Mutex<Ledger>);

impl Proofs {
    /// Requires a fresh nonce in every subsequent proof, and returns it.
    pub(crate) fn change_nonce(&self) -> String {
        let mut ledger = self.ledger();
        ledger.nonces += 1;
        let nonce = unique_value("nonce", ledger.nonces);
        ledger.nonce = Some(nonce.clone());
        nonce
    }

    /// Checks the proof of a request and returns the thumbprint of its key (RFC 7638).
    pub(crate) fn check(&self, of: &ProofRequest<'_>) -> Result<String, ProofError> {
        let mut lines = of.headers.get_all("dpop").iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err(ProofError::Invalid("expected exactly one proof"));
        };
        let text = line.to_str().map_err(|_| ProofError::Invalid("the proof is not ASCII"))?;
        let (header, claims) = verify(text).ok_or(ProofError::Invalid("invalid signature"))?;
        let expected = format!("{}://{}{}", of.scheme, host(of), path(of.target));
        let ath = of.access_token.map(|token| encode(digest(&SHA256, token.as_bytes()).as_ref()));
        if header["typ"] != "dpop+jwt" || header["jwk"].get("d").is_some() {
            return Err(ProofError::Invalid("the proof is malformed"));
        }
        if claims["htm"] != of.method.as_str() || claims["htu"] != expected {
            return Err(ProofError::Invalid("the proof is for another request"));
        }
        if claims["ath"] != json!(ath) || !claims["iat"].is_u64() {
            return Err(ProofError::Invalid("the proof is for another token, or has no iat"));
        }
        let mut ledger = self.ledger();
        let jti = claims["jti"].as_str().unwrap_or_default().to_owned();
        if jti.is_empty() || !ledger.jtis.insert(jti) {
            return Err(ProofError::Invalid("the proof was already used"));
        }
        match &ledger.nonce {
            Some(nonce) if claims["nonce"] != **nonce => Err(ProofError::Nonce(nonce.clone())),
            _ => Ok(thumbprint(&header["jwk"])),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().expect(LOCK)
    }
}

/// Returns the access token if there is exactly one `Authorization: DPoP …`.
pub(crate) fn bound_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("dpop").then_some(token)
}

/// Returns the header and the claims if the ES256 signature verifies with the key in the header.
fn verify(text: &str) -> Option<(Value, Value)> {
    let (signed, signature) = text.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).ok();
    let (header, claims) = (json(header)?, json(claims)?);
    let coordinate = |name: &str| decode(header["jwk"][name].as_str()?);
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    let is_es256 = header["alg"] == "ES256" && header["jwk"]["crv"] == "P-256";
    (is_es256 && key.verify(signed.as_bytes(), &decode(signature)?).is_ok())
        .then_some((header, claims))
}

fn thumbprint(jwk: &Value) -> String {
    let members = json!({ "crv": jwk["crv"], "kty": jwk["kty"], "x": jwk["x"], "y": jwk["y"] });
    encode(digest(&SHA256, members.to_string().as_bytes()).as_ref())
}

/// Returns the authority: `Host` in HTTP/1.1, the request target in HTTP/2.
fn host(of: &ProofRequest<'_>) -> String {
    let field = of.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let target = of.target.parse::<http::Uri>().ok();
    let authority = target.as_ref().and_then(http::Uri::authority).map(|it| it.as_str());
    field.or(authority).unwrap_or_default().to_owned()
}

/// Returns the path of a target in origin-form or absolute-form.
fn path(target: &str) -> String {
    target.parse::<http::Uri>().map(|uri| uri.path().to_owned()).unwrap_or_default()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
