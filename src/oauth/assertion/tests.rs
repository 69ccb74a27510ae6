#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is a failed test
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};

use super::*;
use crate::template::Names;

fn verified(key: &SigningKey, verifier: &DecodingKey, algorithm: Algorithm) -> Value {
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let assertion = Assertion::new(key.clone());
    let jwt = assertion.sign(Purpose::Client, "acme", "aud", Values::at(now)).unwrap();
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.set_audience(&["aud"]);
    let read = jsonwebtoken::decode::<Value>(jwt.expose(), verifier, &validation).unwrap();
    assert_eq!(read.header.typ.as_deref(), Some("JWT"));
    read.claims
}

#[test]
fn every_algorithm_signs_so_that_the_public_key_accepts_it() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    for (pair, algorithms) in [
        (rsa, &[RS256, RS384, RS512, PS256, PS384, PS512][..]),
        (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), &[ES256]),
        (KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), &[ES384]),
        (KeyPair::generate_for(&PKCS_ED25519).unwrap(), &[EdDSA]),
    ] {
        let pem = Secret::new(pair.serialize_pem());
        for algorithm in algorithms {
            let key = SigningKey::parse(&pem, Some(&format!("{algorithm:?}")), None).unwrap();
            let public = pair.public_key_pem();
            let verifier = match algorithm {
                ES256 | ES384 => DecodingKey::from_ec_pem(public.as_bytes()),
                EdDSA => DecodingKey::from_ed_pem(public.as_bytes()),
                _ => DecodingKey::from_rsa_pem(public.as_bytes()),
            };
            let claims = verified(&key, &verifier.unwrap(), *algorithm);
            assert_eq!(claims["iss"], "acme");
            assert_eq!(claims["sub"], "acme");
            assert_eq!(claims["exp"], 1_700_000_300);
        }
        let default = SigningKey::parse(&pem, None, None).unwrap();
        assert_eq!(Some(&default.algorithm()), algorithms.first());
    }
    for name in ["HS256", "HS384", "HS512"] {
        let secret = Secret::new("s".repeat(64));
        let key = SigningKey::shared(&secret, Some(name), None).unwrap();
        let verifier = DecodingKey::from_secret(secret.expose().as_bytes());
        verified(&key, &verifier, name.parse().unwrap());
    }
}

/// The keys of RFC 7517 appendix A.2 and RFC 8037 appendix A.1, with the public halves they name.
const EC: &str = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE","use":"enc","kid":"1"}"#;
const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

#[test]
fn a_jwk_signs_and_brings_its_name() {
    for (text, kid, algorithm) in [(EC, Some("1"), Algorithm::ES256), (ED, None, Algorithm::EdDSA)]
    {
        let key = SigningKey::parse(&Secret::new(text.to_owned()), None, None).unwrap();
        assert_eq!((key.kid(), key.algorithm()), (kid, algorithm));
        let public: Jwk = serde_json::from_str(text).unwrap();
        verified(&key, &DecodingKey::from_jwk(&public).unwrap(), algorithm);
    }
    let oct = r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T","alg":"HS384"}"#;
    let key = SigningKey::parse(&Secret::new(oct.to_owned()), None, Some("mine")).unwrap();
    assert_eq!((key.kid(), key.algorithm()), (Some("mine"), Algorithm::HS384));
}

#[test]
fn an_rsa_jwk_signs_like_its_pem() {
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let encoding = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
    let jwk = private_jwk(encoding.as_bytes());
    let key = SigningKey::parse(&Secret::new(jwk), None, None).unwrap();
    let verifier = DecodingKey::from_rsa_pem(pair.public_key_pem().as_bytes()).unwrap();
    verified(&key, &verifier, Algorithm::RS256);
}

/// Takes an `RSAPrivateKey` apart: the integers after the version.
fn private_jwk(der: &[u8]) -> String {
    use base64::Engine as _;
    fn take(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, head) = match der[1] {
            long @ 0x81.. => {
                let digits = usize::from(long & 0x7f);
                let number = der[2..2 + digits].iter();
                (number.fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + digits)
            }
            short => (usize::from(short), 2),
        };
        (&der[head..head + length], &der[head + length..])
    }
    let (content, _) = take(der);
    let (_, mut rest) = take(content);
    let mut members = vec!["\"kty\":\"RSA\"".to_owned()];
    for name in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
        let (number, after) = take(rest);
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(number);
        members.push(format!("\"{name}\":\"{text}\""));
        rest = after;
    }
    format!("{{{}}}", members.join(","))
}

#[test]
fn what_is_no_key_is_refused_without_being_shown() {
    use SigningKeyError::{Algorithm as Unknown, Form, Jwk, Mismatch};
    for (text, alg, why) in [
        ("", None, Form),
        ("hunter2", None, Form),
        ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n", None, Form),
        ("{", None, Form),
        ("{\"kty\":\"RSA\",\"n\":\"AQAB\"}", None, Jwk),
        ("{\"kty\":\"EC\",\"crv\":\"secp256k1\"}", None, Jwk),
        (ED, Some("RS256"), Mismatch),
        (EC, Some("ES384"), Mismatch),
        (ED, Some("none"), Unknown),
    ] {
        let error = SigningKey::parse(&Secret::new(text.to_owned()), alg, None).unwrap_err();
        assert_eq!(error, why, "{text}");
    }
    let key = SigningKey::parse(&Secret::new(ED.to_owned()), None, None).unwrap();
    assert!(!format!("{key:?}").contains("nWGxne"));
}

#[test]
fn claims_of_the_operator_win_and_the_subject_follows_the_issuer() {
    let key = SigningKey::parse(&Secret::new(ED.to_owned()), None, None).unwrap();
    let text = |text: &str| Template::parse(text, &Names::default()).unwrap();
    let plain = Assertion::new(key);
    let other = Assertion { iss: Some(text("me")), ..plain.clone() };
    let sub = |assertion: &Assertion, purpose| {
        let claims = assertion.claims(purpose, "acme", "aud", Values::at(UNIX_EPOCH));
        claims.get("sub").and_then(Value::as_str).map(str::to_owned)
    };
    assert_eq!(sub(&plain, Purpose::Grant).as_deref(), Some("acme"));
    assert_eq!(sub(&other, Purpose::Grant), None);
    assert_eq!(sub(&other, Purpose::Client).as_deref(), Some("acme"));
    let claims = vec![
        ("nbf".to_owned(), Claim::Text(text(""))),
        ("aud".to_owned(), Claim::List(vec![Claim::Text(text("a")), Claim::Text(text("b"))])),
        ("jti".to_owned(), Claim::Plain(7.into())),
    ];
    let own = Assertion { claims, ..plain.clone() };
    let found = own.claims(Purpose::Grant, "acme", "aud", Values::at(UNIX_EPOCH));
    let expected = serde_json::json!({
        "iss": "acme", "sub": "acme", "aud": ["a", "b"], "jti": 7, "iat": 0, "exp": 300
    });
    assert_eq!(Value::Object(found), expected);
    let shape = |assertion: &Assertion| {
        let mut shape = String::new();
        assertion.write_shape(&mut shape);
        shape
    };
    assert!(shape(&plain) != shape(&own) && shape(&plain) != shape(&other));
}
