//! Tests of the sealed envelope: what opens, what does not, and with which error.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

const PLAIN: &[u8] = b"{\"refresh_token\": \"rt-1\"}";

fn key(seed: u8) -> EncryptionKey {
    let bytes: Vec<u8> = (0..32).map(|at: u8| at.wrapping_mul(7) ^ seed).collect();
    EncryptionKey::parse(&Secret::new(STANDARD.encode(bytes))).unwrap()
}

fn keys(current: u8, old: &[u8]) -> EncryptionKeys {
    EncryptionKeys {
        current: Some(key(current)),
        old: old.iter().map(|seed| key(*seed)).collect(),
        ..EncryptionKeys::default()
    }
}

fn sealed() -> Vec<u8> {
    key(1).seal("a", [9; NONCE_LEN], PLAIN.to_vec())
}

#[test]
fn a_sealed_record_opens_and_contains_no_plain_text() {
    let keys = keys(1, &[]);
    let sealed = keys.seal("a", PLAIN.to_vec());
    assert_eq!(keys.open("a", sealed.clone()).unwrap(), PLAIN);
    let text = String::from_utf8(sealed.clone()).unwrap();
    let envelope: serde_json::Value = serde_json::from_str(&text).unwrap();
    let inside = STANDARD.decode(envelope["sealed"].as_str().unwrap()).unwrap();
    assert_eq!((inside[0], &inside[1..9]), (1, key(1).id.0.as_slice()));
    for bytes in [&sealed, &inside] {
        assert!(!bytes.windows(4).any(|part| part == b"rt-1"), "{text}");
    }
    // Every seal uses a fresh nonce.
    assert_ne!(keys.seal("a", PLAIN.to_vec()), sealed);
}

/// Later versions have to open this form.
#[test]
fn the_stored_form_is_stable() {
    let text = String::from_utf8(sealed()).unwrap();
    assert_eq!(text, include_str!("sealed.json"));
    assert_eq!(keys(1, &[]).open("a", text.into_bytes()).unwrap(), PLAIN);
}

#[test]
fn a_flipped_bit_is_never_opened() {
    let (sealed, keys) = (sealed(), keys(1, &[]));
    for index in 0..sealed.len() {
        for bit in 0..8 {
            let mut bytes = sealed.clone();
            bytes[index] ^= 1 << bit;
            let opened = keys.open("a", bytes.clone());
            // Bytes that are no longer an envelope are not a record either.
            let is_refused = match &opened {
                Ok(passed) => passed == &bytes && TokenRecord::from_bytes("a", passed).is_err(),
                Err(error) => matches!(error, SealError::Damaged(_)),
            };
            assert!(is_refused, "byte {index}, bit {bit}: {opened:?}");
        }
    }
}

/// The checksum is not secret, so the cipher itself has to detect the change.
#[test]
fn a_flipped_bit_with_a_correct_checksum_is_never_opened() {
    let text = String::from_utf8(sealed()).unwrap();
    let envelope: serde_json::Value = serde_json::from_str(&text).unwrap();
    let inside = STANDARD.decode(envelope["sealed"].as_str().unwrap()).unwrap();
    for index in 0..inside.len() {
        for bit in 0..8 {
            let mut forged = inside.clone();
            forged[index] ^= 1 << bit;
            let forged = STANDARD.encode(forged);
            let sum = Fingerprint::of(forged.as_bytes());
            let sum = sum.as_str();
            let file =
                format!("{{\"bearerd\": 1, \"sha256\": \"{sum}\", \"sealed\": \"{forged}\"}}");
            let error = keys(1, &[]).open("a", file.into_bytes()).unwrap_err();
            let expected = matches!(
                (index, &error),
                (0, SealError::Damaged(RecordError::Newer(_)))
                    | (1..=8, SealError::OtherKey { .. })
                    | (9.., SealError::NotThisRecord { .. })
            );
            assert!(expected, "byte {index}, bit {bit}: {error:?}");
        }
    }
}

#[test]
fn a_file_truncated_at_any_byte_is_never_opened() {
    let (sealed, keys) = (sealed(), keys(1, &[]));
    // The last byte is a line feed, which JSON does not need.
    for end in 0..sealed.len() - 1 {
        let cut = sealed[..end].to_vec();
        let passed = keys.open("a", cut.clone()).unwrap();
        assert_eq!(passed, cut, "cut at {end}");
        assert!(TokenRecord::from_bytes("a", &passed).is_err(), "cut at {end}");
    }
}

#[test]
fn only_the_right_key_and_name_open_a_record() {
    let a = key(1).id();
    let table: [(&str, EncryptionKeys, &str, Result<(), SealError>); 6] = [
        ("the current key", keys(1, &[]), "a", Ok(())),
        ("an old key", keys(2, &[3, 1]), "a", Ok(())),
        ("an old key alone", EncryptionKeys { current: None, ..keys(2, &[1]) }, "a", Ok(())),
        (
            "another key",
            keys(2, &[3]),
            "a",
            Err(SealError::OtherKey { key: a, configured: vec![key(2).id(), key(3).id()] }),
        ),
        ("no key", EncryptionKeys::default(), "a", Err(SealError::NoKey { key: a })),
        ("another credential", keys(1, &[]), "b", Err(SealError::NotThisRecord { key: a })),
    ];
    for (what, keys, name, expected) in table {
        let opened = keys.open(name, sealed());
        assert_eq!(opened.as_deref().map(drop).map_err(Clone::clone), expected, "{what}");
        assert!(opened.is_err() || opened.unwrap() == PLAIN, "{what}");
    }
}

fn plain_record(name: &str) -> Vec<u8> {
    TokenRecord::default().to_bytes(name, &crate::store::WriteId::default())
}

#[test]
fn without_a_key_plain_text_passes_unchanged() {
    let only_old = EncryptionKeys { old: vec![key(1)], ..EncryptionKeys::default() };
    for keys in [EncryptionKeys::default(), only_old] {
        assert!(keys.accepts_plain());
        assert_eq!(keys.open("a", plain_record("a")).unwrap(), plain_record("a"));
        assert_eq!(keys.seal("a", PLAIN.to_vec()), PLAIN);
    }
}

/// Anyone who can write to the store could have made it, whatever its format and credential.
#[test]
fn with_a_key_plain_text_is_refused() {
    let legacy = b"{\"bearerd\": 2, \"sha256\": \"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\", \"record\": {}}";
    let newer = b"{\"bearerd\": 9, \"sha256\": \"\", \"record\": {}}";
    let keys = keys(1, &[2]);
    assert!(!keys.accepts_plain());
    for bytes in [plain_record("a"), plain_record("b"), legacy.to_vec(), newer.to_vec()] {
        assert_eq!(keys.open("a", bytes).unwrap_err(), SealError::Plain);
    }
}

#[test]
fn existing_plain_records_are_read_while_they_are_migrated() {
    let keys = EncryptionKeys { plain: true, ..keys(1, &[2]) };
    assert!(keys.accepts_plain());
    let opened = keys.open("a", plain_record("a")).unwrap();
    assert_eq!(opened, plain_record("a"));
    assert!(!keys.is_sealed_with_current_key(&opened));
    let sealed = keys.seal("a", opened);
    assert!(keys.is_sealed_with_current_key(&sealed));
    assert_eq!(keys.open("a", sealed).unwrap(), plain_record("a"));
}

/// Damaged bytes are replaced instead of being kept forever.
#[test]
fn damage_is_not_reported_as_plain_text() {
    let text = String::from_utf8(sealed()).unwrap();
    let plain = String::from_utf8(plain_record("a")).unwrap();
    for damaged in [
        text.replacen("sealed", "seamed", 1),
        text.replacen("bearerd", "cearerd", 1),
        plain.replacen("\"generation\": 0", "\"generation\": 1", 1),
        "{}".to_owned(),
        "{".to_owned(),
    ] {
        let opened = keys(1, &[]).open("a", damaged.clone().into_bytes()).unwrap();
        assert_eq!(opened, damaged.into_bytes());
        assert!(TokenRecord::from_bytes("a", &opened).is_err());
    }
}

#[test]
fn only_records_sealed_with_the_current_key_need_no_resealing() {
    let with = |current, old: &[u8]| keys(current, old).is_sealed_with_current_key(&sealed());
    assert!(with(1, &[]) && with(1, &[2]));
    assert!(!with(2, &[1]), "an old key's");
    assert!(
        !EncryptionKeys::default().is_sealed_with_current_key(&sealed())
            && !keys(1, &[]).is_sealed_with_current_key(PLAIN)
    );
    for odd in ["", "AQ==", "@"] {
        let odd = format!("{{\"bearerd\": 1, \"sha256\": \"\", \"sealed\": \"{odd}\"}}");
        assert!(!keys(1, &[]).is_sealed_with_current_key(odd.as_bytes()), "{odd}");
    }
}

#[test]
fn a_newer_envelope_version_is_reported() {
    let newer = String::from_utf8(sealed()).unwrap().replacen(": 1", ": 2", 1);
    let error = keys(1, &[]).open("a", newer.into_bytes()).unwrap_err();
    assert_eq!(error, SealError::Damaged(RecordError::Newer(2)));
}

#[test]
fn a_key_is_32_random_bytes_in_base64_or_hexadecimal() {
    let base64 = "LAl2wQ9r5n0E1u8kq3vTzYxPb7sGdHjF+oM/iRcVaWE=";
    let hex: String =
        STANDARD.decode(base64).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let parse = |text: &str| EncryptionKey::parse(&Secret::new(text.to_owned()));
    let same = [base64, base64.trim_end_matches('='), &hex, &hex.to_uppercase()];
    for text in same {
        assert_eq!(parse(text).unwrap(), parse(base64).unwrap(), "{text}");
    }
    let zeros = STANDARD.encode([0; 32]);
    let words = STANDARD.encode(b"passwordpasswordpasswordpassword");
    let short = STANDARD.encode(&STANDARD.decode(base64).unwrap()[..31]);
    let long = STANDARD.encode([&STANDARD.decode(base64).unwrap()[..], &[1]].concat());
    for (text, expected) in [
        ("", EncryptionKeyError::Form),
        ("correct horse battery staple", EncryptionKeyError::Form),
        ("LAl2wQ9r5n0E1u8kq3vTzYxPb7sGdHjF+oM/iRcVaW!=", EncryptionKeyError::Form),
        (&hex[..62], EncryptionKeyError::Form),
        (&hex.replace("2c", "+c"), EncryptionKeyError::Form),
        (&short, EncryptionKeyError::Form),
        (&long, EncryptionKeyError::Form),
        (&zeros, EncryptionKeyError::Weak),
        (&"ab".repeat(32), EncryptionKeyError::Weak),
        (&words, EncryptionKeyError::Weak),
    ] {
        assert_eq!(parse(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn debug_and_messages_show_the_key_id_and_not_the_key() {
    let base64 = "LAl2wQ9r5n0E1u8kq3vTzYxPb7sGdHjF+oM/iRcVaWE=";
    let key = EncryptionKey::parse(&Secret::new(base64.to_owned())).unwrap();
    let shown = format!(
        "{:?} {}",
        EncryptionKeys { current: Some(key.clone()), old: vec![key.clone()], plain: true },
        key.id()
    );
    assert!(shown.contains(&key.id().to_string()) && key.id().to_string().len() == 16, "{shown}");
    assert!(!shown.contains("LAl2") && !shown.contains("2c0976"), "{shown}");
    let error = keys(2, &[]).open("a", key.seal("a", [0; NONCE_LEN], PLAIN.to_vec())).unwrap_err();
    assert!(error.to_string().contains(&key.id().to_string()), "{error}");
}
