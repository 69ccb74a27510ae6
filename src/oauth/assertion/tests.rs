#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is a failed test
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;

use super::*;
use crate::oauth::keyfile;
use crate::oauth::keyfile::KeyFault;
use crate::oauth::keyfile::tests::{body, sample};
use crate::template::Names;

const NOW: u64 = 1_700_000_000;

fn signed(assertion: &Assertion) -> Secret {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    assertion.sign(AssertionPurpose::Client, "acme", "aud", Values::at(now)).unwrap()
}

/// Returns the header and the claims of a JWT without verifying its signature.
fn read(jwt: &Secret) -> [Value; 2] {
    let mut parts = jwt.expose().split('.');
    [(); 2].map(|()| {
        let part = URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
        serde_json::from_slice(&part).unwrap()
    })
}

/// Verifies a JWT with this public key (the bits of a `SubjectPublicKeyInfo`) and returns its
/// header and claims.
fn verified(key: &SigningKey, public: &[u8]) -> [Value; 2] {
    let jwt = signed(&Assertion::new(key.clone()));
    let (message, sent) = jwt.expose().rsplit_once('.').unwrap();
    let sent = URL_SAFE_NO_PAD.decode(sent).unwrap();
    let verifier: &'static dyn VerificationAlgorithm = match key.algorithm() {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::ES512 => &signature::ECDSA_P521_SHA512_FIXED,
        Algorithm::EdDSA => &signature::ED25519,
        shared => panic!("{shared} has no public key"),
    };
    let verdict = UnparsedPublicKey::new(verifier, public).verify(message.as_bytes(), &sent);
    assert!(verdict.is_ok(), "the public key does not accept what {} signed", key.algorithm());
    let read = read(&jwt);
    assert_eq!(read[0]["alg"], key.algorithm().to_string());
    read
}

fn public(name: &str) -> Vec<u8> {
    keyfile::public_key_bits(&body(&sample(name))).unwrap()
}

fn parse(text: &str, alg: Option<&str>) -> Result<SigningKey, SigningKeyError> {
    SigningKey::parse(&Secret::new(text.to_owned()), alg, None)
}

#[test]
fn signatures_verify_with_the_public_key_of_openssl() {
    for (name, algorithms) in [
        ("rsa", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        ("rsa_pss", &["PS256", "PS384", "PS512"]),
        ("p256", &["ES256"]),
        ("p384", &["ES384"]),
        ("p521", &["ES512"]),
        ("ed25519", &["EdDSA"]),
    ] {
        let (text, public) = (sample(name), public(&format!("{name}_public")));
        for algorithm in algorithms {
            let key = parse(&text, Some(algorithm)).unwrap();
            let [header, claims] = verified(&key, &public);
            assert_eq!(header, serde_json::json!({ "alg": algorithm, "typ": "JWT" }));
            assert_eq!((&claims["iss"], &claims["sub"]), (&"acme".into(), &"acme".into()));
        }
        let default = parse(&text, None).unwrap().algorithm().to_string();
        assert_eq!(Some(&&*default), algorithms.first(), "the key decides");
    }
}

#[test]
fn shared_secrets_sign_with_hmac() {
    let secret = Secret::new("s".repeat(64));
    for (name, algorithm) in [
        ("HS256", aws_lc_rs::hmac::HMAC_SHA256),
        ("HS384", aws_lc_rs::hmac::HMAC_SHA384),
        ("HS512", aws_lc_rs::hmac::HMAC_SHA512),
    ] {
        let key = SigningKey::shared(&secret, Some(name), None).unwrap();
        let jwt = signed(&Assertion::new(key));
        let (message, sent) = jwt.expose().rsplit_once('.').unwrap();
        let sent = URL_SAFE_NO_PAD.decode(sent).unwrap();
        let key = aws_lc_rs::hmac::Key::new(algorithm, secret.expose().as_bytes());
        assert!(aws_lc_rs::hmac::verify(&key, message.as_bytes(), &sent).is_ok(), "{name}");
    }
}

/// Every format and wrapping yields the same key.
#[test]
fn keys_are_read_in_every_format() {
    let rsa = sample("rsa");
    let public = public("rsa_public");
    let certificate = sample("rsa_v1.crt");
    let json = |pem: &str| {
        serde_json::json!({ "type": "service_account", "private_key": pem, "private_key_id": "k1",
            "client_email": "svc@acme.iam.gserviceaccount.com" })
    };
    let escaped = rsa.replace('\n', "\\n");
    let google = json(&rsa).to_string();
    let forms = [
        ("PKCS #1", sample("rsa_pkcs1")),
        ("the certificate first", format!("{certificate}{rsa}")),
        (
            "what openssl pkcs12 prints around",
            format!(
                "Bag Attributes\n  localKeyID: 01\n{certificate}Key Attributes: <No Attributes>\n{rsa}"
            ),
        ),
        ("the public key first", format!("{}{rsa}", sample("rsa_public"))),
        ("Windows", rsa.replace('\n', "\r\n")),
        ("an old Mac", rsa.replace('\n', "\r")),
        ("a byte order mark", format!("\u{feff}{rsa}")),
        ("blanks around", format!("\n  {rsa}\n\n")),
        ("indented as in YAML", rsa.replace('\n', "\n    ")),
        ("\\n written out", escaped.clone()),
        ("\\r\\n written out", rsa.replace('\n', "\\r\\n")),
        ("\\n written out twice", rsa.replace('\n', "\\\\n")),
        ("quoted", format!("\"{rsa}\"")),
        ("quoted and written out", format!("\"{escaped}\"")),
        ("quoted twice", format!("'\"{escaped}\"'")),
        ("blanks for line breaks", rsa.replace('\n', " ")),
        ("one line", rsa.replace('\n', "")),
        ("the wrong label", rsa.replace("PRIVATE KEY", "RSA PRIVATE KEY")),
        ("the whole of it in base64", STANDARD.encode(&rsa)),
        (
            "in base64 with lines",
            STANDARD
                .encode(&rsa)
                .as_bytes()
                .chunks(76)
                .map(|line| format!("{}\n", std::str::from_utf8(line).unwrap()))
                .collect(),
        ),
        ("in base64 twice", STANDARD.encode(STANDARD.encode(&rsa))),
        ("in base64, quoted", format!("\"{}\"", STANDARD.encode(&rsa))),
        ("in base64 for URLs", URL_SAFE_NO_PAD.encode(&rsa)),
        ("DER in base64", STANDARD.encode(body(&rsa))),
        ("PKCS #1 in DER in base64", STANDARD.encode(body(&sample("rsa_pkcs1")))),
        ("Google's JSON", google.clone()),
        ("Google's JSON in base64", STANDARD.encode(&google)),
        ("Google's JSON, quoted", format!("'{google}'")),
        (
            "Google's JSON with its quotes escaped",
            format!("\"{}\"", json(&rsa).to_string().replace('"', "\\\"")),
        ),
        ("Google's JSON with its line breaks real", google.replace("\\n", "\n")),
        ("Google's JSON with its line breaks written out twice", json(&escaped).to_string()),
    ];
    for (what, text) in forms {
        let key = parse(&text, None).unwrap_or_else(|error| panic!("{what}: {error}"));
        verified(&key, &public);
        let is_google = what.contains("Google");
        assert_eq!(key.kid(), is_google.then_some("k1"), "{what}");
        assert_eq!(key.owner().is_some(), is_google, "{what}");
    }
    // SEC 1, after the parameters that `openssl ecparam -genkey` writes.
    let sec1 = sample("p256_parameters");
    assert!(sec1.contains("EC PARAMETERS") && sec1.contains("EC PRIVATE KEY"));
    let public = self::public("p256_public");
    for text in [sec1.clone(), sec1.replace('\n', "\\n"), sec1.replace('\n', "\r\n")] {
        verified(&parse(&text, None).unwrap(), &public);
    }
}

/// The keys of RFC 7517 appendix A.2 and RFC 8037 appendix A.1, with their public halves.
const EC: &str = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE","use":"enc","kid":"1"}"#;
const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

const P521: &str = r#"{"kty":"EC","crv":"P-521","kid":"e"}"#;

fn public_half(jwk: &str) -> Vec<u8> {
    let jwk: Value = serde_json::from_str(jwk).unwrap();
    let number = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    match jwk["kty"].as_str() {
        Some("EC") => [vec![4], number("x"), number("y")].concat(),
        _ => number("x"),
    }
}

#[test]
fn jwks_sign_and_have_a_kid() {
    for (text, kid, algorithm) in [(EC, Some("1"), Algorithm::ES256), (ED, None, Algorithm::EdDSA)]
    {
        let key = parse(text, None).unwrap();
        assert_eq!((key.kid(), key.algorithm()), (kid, algorithm));
        verified(&key, &public_half(text));
        let in_base64 = parse(&STANDARD.encode(text), None).unwrap();
        assert_eq!(in_base64.kid(), kid);
        verified(&in_base64, &public_half(text));
    }
    let oct = r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T","alg":"HS384"}"#;
    let key = SigningKey::parse(&Secret::new(oct.to_owned()), None, Some("mine")).unwrap();
    assert_eq!((key.kid(), key.algorithm()), (Some("mine"), Algorithm::HS384));
}

/// Node writes leading zeros; others omit them.
#[test]
fn p_521_jwks_sign_with_and_without_leading_zeros() {
    let der = body(&sample("p521"));
    let pair = signature::EcdsaKeyPair::from_private_key_der(
        &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        &der,
    );
    let pair = pair.unwrap();
    let private: aws_lc_rs::encoding::EcPrivateKeyBin<'_> =
        aws_lc_rs::encoding::AsBigEndian::as_be_bytes(&pair.private_key()).unwrap();
    let public = public("p521_public");
    for cut in [false, true] {
        let number = |bytes: &[u8]| {
            let zeros = bytes.iter().take_while(|byte| cut && **byte == 0).count();
            URL_SAFE_NO_PAD.encode(&bytes[zeros..])
        };
        let (x, y, d) = (number(&public[1..67]), number(&public[67..]), number(private.as_ref()));
        let jwk = P521.replace('}', &format!(r#","x":"{x}","y":"{y}","d":"{d}"}}"#));
        let key = parse(&jwk, None).unwrap();
        assert_eq!((key.kid(), key.algorithm()), (Some("e"), Algorithm::ES512));
        verified(&key, &public);
    }
}

#[test]
fn an_rsa_jwk_signs_like_its_pem() {
    let encoding = EncodingKey::from_rsa_pem(sample("rsa").as_bytes()).unwrap();
    let jwk = private_jwk(encoding.as_bytes());
    verified(&parse(&jwk, None).unwrap(), &public("rsa_public"));
}

#[test]
fn a_key_set_yields_its_only_key_or_the_named_one() {
    let named = ED.replace("\"OKP\"", "\"OKP\",\"kid\":\"2\"");
    let public =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    for (keys, kid, found) in [
        (vec![EC], None, Ok("1")),
        (vec![public, EC], None, Ok("1")),
        (vec![EC], Some("other"), Ok("other")),
        (vec![EC, &named], Some("2"), Ok("2")),
        (vec![EC, &named], Some("1"), Ok("1")),
        (vec![EC, &named], None, Err(KeyFault::Several)),
        (vec![EC, &named], Some("3"), Err(KeyFault::NotInSet)),
        (vec![public], None, Err(KeyFault::Public)),
        (vec![], None, Err(KeyFault::Public)),
    ] {
        let text = Secret::new(format!(r#"{{"keys":[{}]}}"#, keys.join(",")));
        let key = SigningKey::parse(&text, None, kid);
        let expected = found.map(str::to_owned).map_err(SigningKeyError::Text);
        assert_eq!(key.map(|key| key.kid().unwrap().to_owned()), expected, "{kid:?}");
    }
}

/// Converts an `RSAPrivateKey` to a JWK.
fn private_jwk(der: &[u8]) -> String {
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
        let text = URL_SAFE_NO_PAD.encode(number);
        members.push(format!("\"{name}\":\"{text}\""));
        rest = after;
    }
    format!("{{{}}}", members.join(","))
}

#[test]
fn unusable_keys_are_explained_without_quoting_them() {
    use KeyFault::{
        Certificate, Damaged, Encrypted, Form, GoogleUser, Jwk, Kind, OpenSsh, Pkcs12, Public,
        Request, Size,
    };
    let rsa = sample("rsa");
    let cut = rsa.split_at(rsa.len() / 2).0.to_owned();
    let in_der = |name: &str| STANDARD.encode(body(&sample(name)));
    for (text, why) in [
        (String::new(), Form),
        ("hunter2".to_owned(), Form),
        ("{".to_owned(), Form),
        ("{}".to_owned(), Form),
        ("\u{1f511}".to_owned(), Form),
        ("-----BEGIN -----".to_owned(), Form),
        ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n".to_owned(), Damaged),
        ("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n".to_owned(), Damaged),
        (cut, Damaged),
        (rsa.replace("MII", "AII"), Damaged),
        (sample("rsa_encrypted"), Encrypted),
        (sample("rsa_encrypted_pkcs1"), Encrypted),
        (sample("rsa_encrypted").replace('\n', "\\n"), Encrypted),
        (STANDARD.encode(sample("rsa_encrypted")), Encrypted),
        (in_der("rsa_encrypted"), Encrypted),
        (format!("{}{}", sample("rsa_v1.crt"), sample("rsa_encrypted")), Encrypted),
        (sample("rsa_v1.crt"), Certificate),
        (in_der("rsa_v1.crt"), Certificate),
        (in_der("p521.crt"), Certificate),
        (sample("rsa_public"), Public),
        (sample("rsa_public_pkcs1"), Public),
        (in_der("rsa_public"), Public),
        (in_der("rsa_public_pkcs1"), Public),
        (in_der("p256_public"), Public),
        (sample("request"), Request),
        (in_der("request"), Request),
        (sample("openssh"), OpenSsh),
        (sample("rsa.p12"), Pkcs12),
        (sample("rsa_1024"), Size),
        (sample("ed448"), Kind("an Ed448 key")),
        (sample("x25519"), Kind("an X25519 key")),
        (sample("secp256k1"), Kind("an EC key on secp256k1")),
        ("{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}".to_owned(), Public),
        ("{\"kty\":\"RSA\",\"n\":\"AQAB\",\"d\":\"AQAB\"}".to_owned(), Jwk),
        ("{\"kty\":\"RSA\"}".to_owned(), Jwk),
        (
            "{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"d\":\"AQAB\"}".to_owned(),
            Kind("an EC key on secp256k1"),
        ),
        ("{\"kty\":\"EC\",\"crv\":\"P-256\",\"d\":\"AQAB\"}".to_owned(), Jwk),
        (EC.replace("\"870M", "\"970M"), Jwk),
        ("{\"type\":\"authorized_user\",\"refresh_token\":\"hunter2\"}".to_owned(), GoogleUser),
        ("{\"type\":\"service_account\",\"private_key\":\"hunter2\"}".to_owned(), Form),
        ("{\"type\":\"service_account\",\"private_key\":7}".to_owned(), Form),
    ] {
        let error = parse(&text, None).unwrap_err();
        assert_eq!(error, why.into(), "{text}");
        // Each error has advice, and none quotes the text.
        for said in [error.to_string(), error.fix().to_owned()] {
            assert!(said.len() > 10 && !said.contains("hunter2"), "{said}");
        }
    }
    let key = parse(ED, None).unwrap();
    assert!(!format!("{key:?}").contains("nWGxne"));
}

#[test]
fn keys_of_the_wrong_kind_are_explained() {
    for (text, alg, says) in [
        (ED.to_owned(), "RS256", "RS256: it is an Ed25519 key, for EdDSA"),
        (EC.to_owned(), "ES384", "ES384: it is an EC key on P-256, for ES256"),
        (sample("p521"), "ES256", "ES256: it is an EC key on P-521, for ES512"),
        (sample("rsa_pss"), "RS256", "RS256: it is an RSA-PSS key, for PS256"),
        (sample("rsa"), "HS256", "HS256: it is an RSA key, for RS256"),
    ] {
        let error = parse(&text, Some(alg)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(parse(ED, Some("none")).unwrap_err(), SigningKeyError::Algorithm);
    assert_eq!(parse(ED, Some("rs256")).unwrap_err(), SigningKeyError::Algorithm);
    let secret = Secret::new("s".to_owned());
    let error = SigningKey::shared(&secret, Some("RS256"), None).unwrap_err();
    assert!(error.to_string().contains("it is a shared secret"), "{error}");
}

/// Expected values from `openssl x509 -fingerprint`.
#[test]
fn certificates_are_identified_by_thumbprints() {
    let key = parse(&sample("p521"), None).unwrap();
    let chain = format!("{}{}", sample("rsa_v1.crt"), sample("p521.crt"));
    for text in [sample("p521.crt"), chain, STANDARD.encode(body(&sample("p521.crt")))] {
        let cert = Some(key.thumbprint(&text).unwrap());
        let [header, _] = read(&signed(&Assertion { cert, ..Assertion::new(key.clone()) }));
        assert_eq!(header["x5t"], "zO3msK-LWX3CpHLr33SrX1nVCeE");
        assert_eq!(header["x5t#S256"], "vmO3gLJjvKydmht9aaEPnP2KfhFl2Y55wN95z3H1y5A");
    }
    for (text, why) in [
        (sample("rsa_v1.crt"), SigningKeyError::OtherCertificate),
        (sample("p521"), KeyFault::NoCertificate.into()),
        ("hunter2".to_owned(), KeyFault::NoCertificate.into()),
        (sample("rsa.p12"), KeyFault::Pkcs12.into()),
    ] {
        assert_eq!(key.thumbprint(&text), Err(why));
    }
    let shared = SigningKey::shared(&Secret::new("s".to_owned()), None, None).unwrap();
    assert_eq!(shared.thumbprint(&sample("p521.crt")), Err(SigningKeyError::NoPair));
    // Version 1, which OpenSSL issues without extensions.
    let rsa = parse(&sample("rsa"), None).unwrap();
    assert!(rsa.thumbprint(&sample("rsa_v1.crt")).is_ok());
}

#[test]
fn configured_header_members_are_used() {
    let text = |text: &str| Claim::Text(Template::parse(text, &Names::default()).unwrap());
    let key = SigningKey::parse(&Secret::new(EC.to_owned()), None, None).unwrap();
    let header = vec![
        ("typ".to_owned(), text("client-authentication+jwt")),
        ("kid".to_owned(), text("")),
        ("x5c".to_owned(), Claim::List(vec![text("a")])),
        ("n".to_owned(), Claim::Plain(7.into())),
    ];
    let assertion = Assertion { header, ..Assertion::new(key) };
    let [found, _] = read(&signed(&assertion));
    let expected = serde_json::json!({
        "alg": "ES256", "typ": "client-authentication+jwt", "x5c": ["a"], "n": 7
    });
    assert_eq!(found, expected);
    // If the assertion is the grant, `typ` describes the grant, but key identifiers also apply to
    // the client assertion.
    let [of_client, _] = read(&signed(&assertion.of_client()));
    assert_eq!(
        of_client,
        serde_json::json!({ "alg": "ES256", "typ": "JWT", "x5c": ["a"], "n": 7 })
    );
}

/// GitHub refuses a JWT from the future. Google and Epic refuse a longer distance from `iat` to
/// `exp` than they allow.
#[test]
fn assertions_are_backdated_and_last_no_longer_than_ttl() {
    let seconds = Duration::from_secs;
    let key = parse(ED, None).unwrap();
    for (ttl, backdate, issued, expires) in [
        (300, None, NOW - 30, NOW + 270),
        (3600, None, NOW - 30, NOW + 3570),
        (40, None, NOW - 20, NOW + 20),
        (300, Some(0), NOW, NOW + 300),
        (600, Some(60), NOW - 60, NOW + 540),
    ] {
        let backdate = backdate.map_or(Assertion::default_backdate(seconds(ttl)), seconds);
        let assertion = Assertion { ttl: seconds(ttl), backdate, ..Assertion::new(key.clone()) };
        let [_, claims] = read(&signed(&assertion));
        assert_eq!((&claims["iat"], &claims["nbf"]), (&issued.into(), &issued.into()));
        assert_eq!(claims["exp"], expires);
        assert_eq!(expires - issued, ttl);
        let expiry = assertion.expires_at(UNIX_EPOCH + seconds(NOW));
        assert_eq!(expiry, UNIX_EPOCH + seconds(expires), "the expiry has to match the claim");
        assert_eq!(assertion.of_client().backdate, backdate);
    }
}

#[test]
fn configured_claims_take_precedence_and_sub_depends_on_iss() {
    let key = parse(ED, None).unwrap();
    let text = |text: &str| Template::parse(text, &Names::default()).unwrap();
    let plain = Assertion::new(key);
    let other = Assertion { iss: Some(text("me")), ..plain.clone() };
    let sub = |assertion: &Assertion, purpose| {
        let claims = assertion.claims(purpose, "acme", "aud", Values::at(UNIX_EPOCH));
        claims.get("sub").and_then(Value::as_str).map(str::to_owned)
    };
    assert_eq!(sub(&plain, AssertionPurpose::Grant).as_deref(), Some("acme"));
    assert_eq!(sub(&other, AssertionPurpose::Grant), None);
    assert_eq!(sub(&other, AssertionPurpose::Client).as_deref(), Some("acme"));
    let claims = vec![
        ("nbf".to_owned(), Claim::Text(text(""))),
        ("aud".to_owned(), Claim::List(vec![Claim::Text(text("a")), Claim::Text(text("b"))])),
        ("jti".to_owned(), Claim::Plain(7.into())),
    ];
    let own = Assertion { claims, ..plain.clone() };
    let found = own.claims(AssertionPurpose::Grant, "acme", "aud", Values::at(UNIX_EPOCH));
    let expected = serde_json::json!({
        "iss": "acme", "sub": "acme", "aud": ["a", "b"], "jti": 7, "iat": 0, "exp": 270
    });
    assert_eq!(Value::Object(found), expected);
    let shape = |assertion: &Assertion| {
        let mut shape = String::new();
        assertion.write_shape(&mut shape);
        shape
    };
    assert!(shape(&plain) != shape(&own) && shape(&plain) != shape(&other));
    let header = vec![("typ".to_owned(), Claim::Text(text("x")))];
    let cert = Some(CertificateThumbprint { sha1: "a".to_owned(), sha256: "b".to_owned() });
    for more in [
        Assertion { header, ..plain.clone() },
        Assertion { cert, ..plain.clone() },
        Assertion { backdate: Duration::ZERO, ..plain.clone() },
    ] {
        assert_ne!(shape(&plain), shape(&more));
    }
}
