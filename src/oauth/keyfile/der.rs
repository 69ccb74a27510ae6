//! A minimal DER parser (X.690) that distinguishes keys and certificates.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::KeyFault;

/// The kind of a DER structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DerKind {
    Private,
    Encrypted,
    Public,
    Certificate,
    Request,
    Pkcs12,
    Dsa,
    Unknown,
}

pub(super) const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;

/// Determines the kind by the tags of the first elements, which differ between all kinds.
pub(super) fn kind(der: &[u8]) -> DerKind {
    let Some((SEQUENCE, content, _)) = element(der) else { return DerKind::Unknown };
    let parts = elements(content);
    let tags: Vec<u8> = parts.iter().map(|(tag, _)| *tag).collect();
    let first_of = |at: usize| parts.get(at).and_then(|(_, content)| element(content));
    let begins_with_oid = |at: usize| matches!(first_of(at), Some((OID, ..)));
    match tags.as_slice() {
        // RFC 7292: version 3, then contents with a type.
        [INTEGER, SEQUENCE, ..] if parts.first().is_some_and(|(_, version)| *version == [3]) => {
            DerKind::Pkcs12
        }
        [INTEGER, SEQUENCE, OCTET_STRING, ..] => DerKind::Private,
        [INTEGER, OCTET_STRING, ..] => DerKind::Private,
        [INTEGER, INTEGER] => DerKind::Public,
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER] => DerKind::Dsa,
        [INTEGER, INTEGER, INTEGER, ..] => DerKind::Private,
        [SEQUENCE, OCTET_STRING] if begins_with_oid(0) => DerKind::Encrypted,
        [SEQUENCE, BIT_STRING] if begins_with_oid(0) => DerKind::Public,
        [SEQUENCE, SEQUENCE, BIT_STRING] if X509Certificate::from_der(der).is_ok() => {
            DerKind::Certificate
        }
        [SEQUENCE, SEQUENCE, BIT_STRING] => DerKind::Request,
        _ => DerKind::Unknown,
    }
}

/// Names the kind of an unsupported private key.
pub(in crate::oauth) fn described(der: &[u8]) -> KeyFault {
    const NAMES: [(&[u8], &str); 9] = [
        (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "an EC key on secp256k1"),
        (&[0x2b, 0x81, 0x04, 0x00, 0x21], "an EC key on P-224"),
        (&[0x2b, 0x24, 0x03, 0x03, 0x02], "an EC key on a Brainpool curve"),
        (&[0x2b, 0x65, 0x6e], "an X25519 key"),
        (&[0x2b, 0x65, 0x6f], "an X448 key"),
        (&[0x2b, 0x65, 0x71], "an Ed448 key"),
        (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "a DSA key"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x03, 0x01], "a Diffie-Hellman key"),
        (RSA_PSS, "an RSA-PSS key"),
    ];
    let parts = element(der).map(|(_, content, _)| elements(content)).unwrap_or_default();
    // PKCS #8 has the algorithm in its second element, SEC 1 the curve in its third.
    let named = parts.iter().filter(|(tag, _)| matches!(*tag, SEQUENCE | 0xa0)).map(|(_, it)| *it);
    let oids = named.flat_map(elements).filter(|(tag, _)| *tag == OID).map(|(_, oid)| oid);
    for oid in oids {
        if let Some((_, name)) = NAMES.iter().find(|(known, _)| oid.starts_with(known)) {
            return KeyFault::Kind(name);
        }
    }
    KeyFault::Damaged
}

const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];

/// Returns the `RSAPrivateKey` inside a PKCS #8 structure that is restricted to PSS.
pub(in crate::oauth) fn inside_of_pss(der: &[u8]) -> Option<&[u8]> {
    let parts = elements(element(der)?.1);
    let [_, (SEQUENCE, algorithm), (OCTET_STRING, key), ..] = parts.as_slice() else { return None };
    matches!(element(algorithm), Some((OID, RSA_PSS, _))).then_some(*key)
}

/// Returns a certificate without the trailing data of OpenSSL's trusted certificates.
pub(super) fn certificate(der: &[u8]) -> Result<CertificateDer<'static>, KeyFault> {
    let (rest, _) = X509Certificate::from_der(der).map_err(|_| KeyFault::Damaged)?;
    let whole = der.get(..der.len() - rest.len()).unwrap_or(der);
    Ok(CertificateDer::from(whole.to_vec()))
}

/// Returns the public key bits of a certificate of any version, to match it with a private key.
pub(in crate::oauth) fn public_key_in(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

/// Returns the public key bits of a `SubjectPublicKeyInfo`. Its parameters have several encodings,
/// so only the bits are compared.
pub(in crate::oauth) fn public_key_bits(spki: &[u8]) -> Option<Vec<u8>> {
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    Some(spki.subject_public_key.data.to_vec())
}

/// Splits off the first element (X.690 §8.1): its tag, its content and the rest.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0x80.. => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            // A length of more than four bytes exceeds every input.
            let shift = |sum: usize, digit: &u8| sum << 8 | usize::from(*digit);
            ((1..=4).contains(&digits.len()).then(|| digits.iter().fold(0, shift))?, rest)
        }
        short => (usize::from(*short), rest),
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Returns the complete elements.
fn elements(mut der: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let Some((tag, content, rest)) = element(der) {
        found.push((tag, content));
        der = rest;
    }
    found
}

/// Encodes one element.
pub(in crate::oauth) fn encoded(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut head = vec![tag];
    match length.as_slice() {
        [] => head.push(0),
        [short] if *short < 0x80 => head.push(*short),
        long => {
            // The length has at most eight bytes.
            head.push(0x80 | u8::try_from(long.len()).unwrap_or(0));
            head.extend(long);
        }
    }
    [head, content.to_vec()].concat()
}
