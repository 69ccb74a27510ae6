#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is a failed test
use std::path::Path;

use proptest::prelude::*;

use super::der::element;
use super::*;

/// Reads a file in `samples/`; its README describes their origin.
pub(in crate::oauth) fn sample(name: &str) -> String {
    let at = |name: String| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/oauth/keyfile/samples").join(name)
    };
    let read = |name: String| std::fs::read_to_string(at(name)).ok();
    let text = read(format!("{name}.pem")).or_else(|| read(format!("{name}.base64")));
    text.unwrap_or_else(|| panic!("there is no sample {name}"))
}

/// Decodes the first PEM block of a file.
pub(in crate::oauth) fn body(pem: &str) -> Vec<u8> {
    blocks(pem).first().unwrap().der().unwrap().to_vec()
}

#[test]
fn certificates_keep_their_order() {
    let (one, other) = (sample("rsa_v1.crt"), sample("p521.crt"));
    let found = read_certificates(&format!("{one}{}{other}", sample("rsa"))).unwrap();
    assert_eq!(found.iter().map(|it| it.to_vec()).collect::<Vec<_>>(), [body(&one), body(&other)]);
    let trusted = one.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    assert_eq!(read_certificates(&trusted).unwrap(), read_certificates(&one).unwrap());
    let cut = one.split_at(one.len() / 2).0;
    assert_eq!(read_certificates(cut).unwrap_err(), KeyFault::Damaged);
    for none in ["", "hunter2", "{}", &sample("rsa"), &sample("request")] {
        assert_eq!(read_certificates(none).unwrap_err(), KeyFault::NoCertificate);
    }
}

#[test]
fn der_with_wrong_lengths_is_rejected() {
    for der in [
        &[][..],
        &[0x30],
        &[0x30, 1],
        &[0x30, 0x80],
        &[0x30, 0x85, 1, 1, 1, 1, 1],
        &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
    ] {
        assert_eq!(element(der), None, "{der:?}");
        assert_eq!(kind(der), DerKind::Unknown);
    }
    assert_eq!(element(&[2, 1, 5, 9]), Some((2, &[5][..], &[9][..])));
    assert_eq!(element(&[2, 0x81, 1, 5]), Some((2, &[5][..], &[][..])));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}", inner in "[ -~]{0,60}") {
        let pem = format!("-----BEGIN {inner}-----{text}-----END {inner}-----");
        for text in [&text, &pem, &inner] {
            let _key = read_key(text, None);
            let _certificates = read_certificates(text);
        }
    }

    #[test]
    fn no_der_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for name in ["rsa", "p256", "ed25519", "rsa_encrypted", "rsa_v1.crt", "rsa_pss"] {
            let mut der = body(&sample(name));
            let at = at.index(der.len());
            der[at] = byte;
            let _kind = (kind(&der), described(&der), inside_of_pss(&der).is_some());
        }
    }
}
