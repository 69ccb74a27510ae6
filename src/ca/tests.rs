#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::write_new;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn fingerprint(ca: &CertificateAuthority) -> String {
    ca.fingerprints().next().unwrap().0.as_str().to_owned()
}

/// The chain for `host` as clients see it: the leaf and the certificate that signed it.
fn leaf(ca: &CertificateAuthority, host: &str, now: SystemTime) -> Vec<CertificateDer<'static>> {
    let signer = ca.signer(now).unwrap();
    let host = Host::parse(host).unwrap();
    let not_after = (now + ca.leaf_lifetime).min(signer.not_after);
    Leaf::mint(&host, (now, not_after), signer, &ca.leaf_keys).unwrap().chain()
}

fn config() -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        dir: dir.path().join("certs"),
        lifetime: Duration::from_secs(365 * 24 * 3600),
        leaf_lifetime: Duration::from_secs(24 * 3600),
    };
    (dir, config)
}

#[test]
fn a_ca_is_created_once_and_then_loaded() {
    let (_dir, config) = config();
    let now = SystemTime::now();
    let first = config.open(now).unwrap();
    let second = config.open(now).unwrap();
    assert_eq!(fingerprint(&first), fingerprint(&second));
    assert_eq!(std::fs::metadata(config.key_path()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&config.dir).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn two_installations_have_different_keys_and_names() {
    let ((_a, a), (_b, b)) = (config(), config());
    let now = SystemTime::now();
    assert_ne!(fingerprint(&a.open(now).unwrap()), fingerprint(&b.open(now).unwrap()));
}

#[test]
fn a_leaf_names_one_host_and_does_not_use_the_ca_key() {
    let (_dir, config) = config();
    let now = SystemTime::now();
    let ca = config.open(now).unwrap();
    let chain = leaf(&ca, "api.example.com", now);
    let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(format!("{names:?}"), "[DNSName(\"api.example.com\")]");
    assert!(!parsed.is_ca());
    assert!(parsed.extended_key_usage().unwrap().unwrap().value.server_auth);
    let (_, ca_parsed) = X509Certificate::from_der(&chain[1]).unwrap();
    assert_ne!(parsed.public_key().raw, ca_parsed.public_key().raw);
    let constraints = ca_parsed.basic_constraints().unwrap().unwrap().value;
    assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
}

#[test]
fn leaves_are_cached_by_host() {
    let (_dir, config) = config();
    let now = SystemTime::now();
    let ca = config.open(now).unwrap();
    let leaf = |text: &str| ca.server_config(&Host::parse(text).unwrap(), now).unwrap();
    assert!(Arc::ptr_eq(&leaf("a.test"), &leaf("A.test")));
    assert!(!Arc::ptr_eq(&leaf("a.test"), &leaf("127.0.0.1")));
}

#[test]
fn p41_an_expired_ca_signs_nothing_and_is_not_replaced() {
    let (_dir, config) = config();
    let now = SystemTime::now();
    config.open(now - 400 * DAY).unwrap();
    let before = std::fs::read(config.certificate_path()).unwrap();
    let ca = config.open(now).unwrap();
    let refused = ca.server_config(&Host::parse("a.test").unwrap(), now).unwrap_err();
    assert!(matches!(*refused, CaError::Expired { .. }), "{refused}");
    assert_eq!(std::fs::read(config.certificate_path()).unwrap(), before);
    assert!(ca.needs_renewal(now));
    // A renewed CA signs at once.
    let renewed = config.renew(now).unwrap();
    assert!(renewed.server_config(&Host::parse("a.test").unwrap(), now).is_ok());
    assert_eq!(CertificateDer::pem_slice_iter(renewed.pem().as_bytes()).count(), 1);
}

#[test]
fn p41_a_renewed_ca_takes_over_a_week_before_expiry_and_both_are_trusted() {
    let (_dir, config) = config();
    let now = SystemTime::now();
    let first = fingerprint(&config.open(now).unwrap());
    let late = now + 340 * DAY;
    assert!(config.open(late).unwrap().needs_renewal(late));
    let ca = config.renew(late).unwrap();
    assert!(!ca.needs_renewal(late));
    let signs = |ca: &CertificateAuthority, at| Fingerprint::of(ca.der(at)).as_str().to_owned();
    assert_eq!(signs(&ca, late), first);
    assert_eq!(CertificateDer::pem_slice_iter(ca.pem().as_bytes()).count(), 2);
    let handover = ca.handover_time(late).unwrap() + DAY;
    let second = signs(&ca, handover);
    assert_ne!(second, first);
    // An early second renewal changes nothing; one after the handover replaces the first.
    assert_eq!(fingerprint(&config.renew(late).unwrap()), first);
    let again = config.renew(now + 370 * DAY).unwrap();
    assert_eq!(signs(&again, now + 370 * DAY), second);
    assert_eq!(again.fingerprints().count(), 2);
    // A leaf never outlives its CA.
    let chain = leaf(&ca, "a.test", ca.not_after() - Duration::from_secs(60));
    let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
    let ends = SystemTime::from(parsed.validity().not_after.to_datetime());
    assert!(ends <= ca.not_after());
}

#[test]
fn p41_an_interrupted_renewal_leaves_files_that_load() {
    let (_dir, config) = config();
    let now = SystemTime::now();
    config.open(now).unwrap();
    let next = config.dir.join("next.key");
    write_new(&next, 0o600, KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
    assert_eq!(config.open(now).unwrap().fingerprints().count(), 1);
    assert_eq!(config.renew(now).unwrap().fingerprints().count(), 2);
    // The first half of the next renewal.
    std::fs::rename(&next, config.key_path()).unwrap();
    let ca = config.open(now).unwrap();
    assert_eq!(ca.fingerprints().count(), 1);
    assert_eq!(CertificateDer::pem_slice_iter(ca.pem().as_bytes()).count(), 2);
    assert_eq!(config.renew(now).unwrap().fingerprints().count(), 2);
}

#[test]
fn p40_no_two_certificates_share_a_serial_number() {
    let (_dir, config) = config();
    let now = SystemTime::now();
    let ca = config.open(now).unwrap();
    let mut serials = std::collections::HashSet::new();
    for host in ["a.test", "a.test", "b.test", "127.0.0.1", "[::1]"] {
        for certificate in leaf(&ca, host, now) {
            let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
            assert!((8..=20).contains(&parsed.raw_serial().len()));
            assert!(parsed.raw_serial()[0] < 0x80, "a negative serial");
            serials.insert(parsed.raw_serial().to_vec());
        }
    }
    assert_eq!(serials.len(), 5 + 1);
}

#[test]
fn mismatched_files_are_refused_with_a_hint() {
    let now = SystemTime::now();
    let (_dir, config) = config();
    config.open(now).unwrap();
    std::fs::set_permissions(config.key_path(), Permissions::from_mode(0o644)).unwrap();
    assert!(config.open(now).unwrap_err().to_string().contains("chmod 600"));
    std::fs::remove_file(config.key_path()).unwrap();
    assert!(config.open(now).unwrap_err().to_string().contains("is missing"));
    let other = KeyPair::generate().unwrap().serialize_pem();
    write_new(&config.key_path(), 0o600, other.as_bytes()).unwrap();
    assert!(config.open(now).unwrap_err().to_string().contains("does not belong"));
}
