#![allow(clippy::unwrap_used)]
use std::io::Write;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use time::OffsetDateTime;

use super::*;

type TestAuthority = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["api.test".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> TestAuthority {
    authority_with(name, KeyPair::generate().unwrap())
}

fn authority_with(name: &str, key: KeyPair) -> TestAuthority {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = params("api");
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
}

fn issued(
    issuer: &TestAuthority,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    let mut params = params("api");
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().into()
}

fn verifier_trusting(listed: &[&CertificateDer<'static>]) -> Verifier {
    let mut trust = TrustStore::empty();
    trust.add(authority("some other authority").der().clone()).unwrap();
    for certificate in listed {
        trust.add((*certificate).clone()).unwrap();
    }
    Verifier::new(trust).unwrap()
}

fn now() -> UnixTime {
    UnixTime::now()
}

/// Verifies `chain`, leaf first, for `name` and returns the fault.
fn fault(
    verifier: &Verifier,
    chain: &[CertificateDer<'static>],
    name: &str,
) -> Option<CertificateFault> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (leaf, rest) = chain.split_first().unwrap();
    let verified = verifier.verify_server_cert(leaf, rest, &name, &[], now());
    verified.err().map(|error| CertificateFault::of(&error).unwrap())
}

fn is_ca(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

fn expire(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::UNIX_EPOCH;
    params.not_after = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(86_400);
}

fn postpone(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::now_utc() + Duration::from_secs(86_400);
}

fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

#[test]
fn p28_a_listed_certificate_is_accepted_as_a_server_certificate() {
    for certificate in [
        self_signed(|_| {}),
        // As `openssl req -x509` creates it.
        self_signed(is_ca),
        issued(&authority("unlisted"), |_| {}),
    ] {
        let verifier = verifier_trusting(&[&certificate]);
        assert_eq!(fault(&verifier, &[certificate], "api.test"), None);
    }
}

#[test]
fn p28_a_listed_certificate_is_still_checked() {
    type EditParams = fn(&mut CertificateParams);
    type IsExpected = fn(&CertificateFault) -> bool;
    let changes: [(EditParams, IsExpected); 3] = [
        (expire, |fault| matches!(fault, CertificateFault::Expired { at: Some(_) })),
        (postpone, |fault| matches!(fault, CertificateFault::NotYetValid { from: Some(_) })),
        (for_clients, |fault| matches!(fault, CertificateFault::Purpose)),
    ];
    for (change, is_expected) in changes {
        let certificate = self_signed(change);
        let found = fault(&verifier_trusting(&[&certificate]), &[certificate], "api.test").unwrap();
        assert!(is_expected(&found), "{found}");
    }
    let certificate = self_signed(is_ca);
    let found = fault(&verifier_trusting(&[&certificate]), &[certificate], "other.test").unwrap();
    assert!(matches!(&found, CertificateFault::Name { .. }), "{found}");
    assert!(found.to_string().contains("api.test"), "{found}");
}

#[test]
fn p28_each_fault_is_distinguished() {
    let root = authority("company");
    let verifier = verifier_trusting(&[root.der()]);
    let stranger = authority("stranger");
    let namesake = authority("company");
    let mut intermediate = params("intermediate");
    is_ca(&mut intermediate);
    let intermediate =
        CertifiedIssuer::signed_by(intermediate, KeyPair::generate().unwrap(), &stranger).unwrap();
    let found = |chain: &[CertificateDer<'static>]| fault(&verifier, chain, "api.test").unwrap();

    assert_eq!(found(&[self_signed(|_| {})]), CertificateFault::SelfSigned);
    assert_eq!(found(&[self_signed(is_ca)]), CertificateFault::SelfSigned);
    let unknown = found(&[issued(&stranger, |_| {})]);
    assert!(matches!(unknown, CertificateFault::UnknownIssuer { sent_chain: false, .. }));
    assert!(unknown.to_string().contains("stranger"), "{unknown}");
    let chain = [issued(&intermediate, |_| {}), intermediate.der().clone()];
    let unknown = found(&chain);
    assert!(
        matches!(&unknown, CertificateFault::UnknownIssuer { issuer, sent_chain: true }
        if issuer.contains("stranger")),
        "{unknown:?}"
    );
    let other_key = found(&[issued(&namesake, |_| {})]);
    assert!(matches!(other_key, CertificateFault::OtherKey { .. }), "{other_key:?}");
    let of_another_kind = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let namesake = authority_with("company", of_another_kind);
    let other_key = found(&[issued(&namesake, |_| {})]);
    assert!(matches!(other_key, CertificateFault::OtherKey { .. }), "{other_key:?}");
    let self_signed = verifier_trusting(&[authority("api").der()]);
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let same_name = CertificateDer::from(params("api").self_signed(&key).unwrap());
    assert_eq!(fault(&self_signed, &[same_name], "api.test"), Some(CertificateFault::SelfSigned));
    let expired = found(&[issued(&root, expire)]);
    assert!(matches!(expired, CertificateFault::Expired { at: Some(_) }), "{expired:?}");
    let early = found(&[issued(&root, postpone)]);
    assert!(matches!(early, CertificateFault::NotYetValid { from: Some(_) }), "{early:?}");
    assert_eq!(found(&[issued(&root, for_clients)]), CertificateFault::Purpose);
    let wrong = fault(&verifier, &[issued(&root, |_| {})], "other.test").unwrap();
    assert_eq!(wrong.to_string(), "it is for other names: api.test");
    assert_eq!(found(&[vec![1, 2, 3].into()]), CertificateFault::Malformed);
}

#[test]
fn certificates_of_a_trusted_authority_are_accepted() {
    let root = authority("company");
    let verifier = verifier_trusting(&[root.der()]);
    assert_eq!(fault(&verifier, &[issued(&root, |_| {})], "api.test"), None);
}

#[test]
fn a_file_without_a_certificate_is_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"nothing").unwrap();
    let config = Config { roots: Roots::Bundled, extra_roots: vec![file.path().to_owned()] };
    let error = config.build().unwrap_err().to_string();
    assert!(error.contains("no PEM certificate"), "{error}");
}
