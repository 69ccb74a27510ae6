//! Tests of the stored form of records: round trips, damage, and legacy formats.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::{Duration, UNIX_EPOCH};

use super::*;

const KEY: &str = "api/Paris";

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn hash(text: &str) -> Fingerprint {
    Fingerprint::of(text.as_bytes())
}

fn at(text: &str) -> SystemTime {
    humantime::parse_rfc3339(text).unwrap()
}

/// A record in which every member has a distinct value.
fn record() -> TokenRecord {
    let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let after = |seconds| Some(time + Duration::from_secs(seconds));
    TokenRecord {
        generation: Generation(7),
        access_token: Some(secret("at-of-mine")),
        issued_at: after(1),
        expires_at: after(2),
        rejected: true,
        refresh_token: Some(secret("rt-of-mine \"\\ ü")),
        refresh_expires_at: after(3),
        grant_expires_at: after(4),
        raw: [("a.b".to_owned(), secret("raw-of-mine"))].into(),
        issued_for: Some(IssuedFor { grant: hash("grant"), request: hash("request") }),
        worked_with: Some(hash("config")),
        parent: Some(hash("parent")),
        attempt: Some(Attempt {
            refresh_token: hash("rt"),
            first: time,
            last: time + Duration::from_secs(5),
            count: 2,
            by: "fence".to_owned(),
        }),
        not_before: Some(NotBefore {
            at: time,
            said: time,
            why: "slow down".to_owned(),
            grant: Fingerprint::of(b"grant"),
        }),
        doubts: 3,
        terminal: Some(TerminalState {
            reason: TerminalReason::LostRotation,
            refresh_token: Some(hash("dead")),
            config: hash("config"),
            at: time,
        }),
        bootstrap: Some(BootstrapHistory { at: time, before: after(6), refused: 4 }),
        history: [hash("rt-6"), hash("rt-5")].into_iter().collect(),
        seeds: [hash("seed")].into_iter().collect(),
        dpop_key: Some(secret("key-of-mine")),
        bound: true,
        unread: Some(secret("unread-of-mine")),
    }
}

fn write() -> WriteId {
    WriteId { revision: 41, writer: "0b1c".to_owned() }
}

fn bytes() -> Vec<u8> {
    record().to_bytes(KEY, &write())
}

/// An envelope of the current format around any text, with a correct checksum.
fn envelope(text: &str) -> Vec<u8> {
    let sum = checksum(KEY, &write(), text);
    let sum = sum.as_str();
    format!(
        "{{\"bearerd\": 4, \"sha256\": \"{sum}\", \"key\": \"{KEY}\", \"revision\": 41, \
         \"writer\": \"0b1c\", \"record\": {text}}}"
    )
    .into_bytes()
}

/// An envelope of a legacy format around any text.
fn legacy_envelope(format: u32, text: &str) -> Vec<u8> {
    let sum = hash(text);
    format!("{{\"bearerd\": {format}, \"sha256\": \"{}\", \"record\": {text}}}", sum.as_str())
        .into()
}

#[test]
fn a_record_round_trips_through_its_stored_form() {
    for record in [record(), TokenRecord::default()] {
        let bytes = record.to_bytes(KEY, &write());
        assert_eq!(TokenRecord::from_bytes(KEY, &bytes), Ok((record, write())));
    }
}

/// Later versions have to read this form.
#[test]
fn the_stored_form_is_stable() {
    let golden = include_bytes!("format-4.json");
    assert_eq!(String::from_utf8(bytes()).unwrap(), String::from_utf8(golden.to_vec()).unwrap());
    assert_eq!(TokenRecord::from_bytes(KEY, golden), Ok((record(), write())));
}

/// Keys and writer names may contain any character.
#[test]
fn keys_and_writers_are_escaped() {
    let write = WriteId { revision: u64::MAX, writer: "\"}\n\\ü".to_owned() };
    for key in ["", "a\"b", "a/x%2Fy", "é\n"] {
        let bytes = record().to_bytes(key, &write);
        assert_eq!(TokenRecord::from_bytes(key, &bytes), Ok((record(), write.clone())), "{key}");
    }
}

#[test]
fn a_record_truncated_at_any_byte_is_rejected() {
    let golden = [&bytes()[..], include_bytes!("legacy/format-2.json")];
    for bytes in golden {
        // The last byte is a line feed, which JSON does not need.
        for end in 0..bytes.len() - 1 {
            let read = TokenRecord::from_bytes(KEY, &bytes[..end]);
            assert_eq!(read, Err(RecordError::NotARecord), "cut at {end}");
        }
    }
}

#[test]
fn a_flipped_bit_never_decodes_to_another_record_or_write() {
    for bytes in [&bytes()[..], include_bytes!("legacy/format-2.json")] {
        let original = TokenRecord::from_bytes(KEY, bytes).unwrap();
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.to_vec();
                bytes[index] ^= 1 << bit;
                // White space outside the record may change; the decoded record may not.
                if let Ok(read) = TokenRecord::from_bytes(KEY, &bytes) {
                    assert_eq!(read, original, "byte {index}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn the_record_of_another_key_is_rejected() {
    for key in ["api", "api/paris", "api/Paris/", ""] {
        assert_eq!(TokenRecord::from_bytes(key, &bytes()), Err(RecordError::OtherKey), "{key}");
    }
    // A record whose key was changed later is damaged.
    let text = String::from_utf8(bytes()).unwrap().replacen(KEY, "other", 1);
    let read = TokenRecord::from_bytes("other", text.as_bytes());
    assert_eq!(read, Err(RecordError::Checksum));
}

#[test]
fn the_checksum_covers_the_write_id() {
    let text = String::from_utf8(bytes()).unwrap();
    for (from, to) in [("\"revision\": 41", "\"revision\": 42"), ("0b1c", "0b1d")] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        let read = TokenRecord::from_bytes(KEY, changed.as_bytes());
        assert_eq!(read, Err(RecordError::Checksum), "{to}");
    }
}

#[test]
fn malformed_damaged_and_newer_records_are_distinguished() {
    let text = String::from_utf8(bytes()).unwrap();
    let with = |from: &str, to: &str| text.replacen(from, to, 1).into_bytes();
    let other = RecordError::NotARecord;
    for (what, bytes, expected) in [
        ("nothing", Vec::new(), other),
        ("another JSON", b"{}".to_vec(), other),
        ("no JSON", b"\0\0\0\0".to_vec(), other),
        ("two records", [text.as_bytes(), text.as_bytes()].concat(), other),
        ("another member", with("\"writer\"", "\"more\": 1, \"writer\""), other),
        ("no writer", with("\"writer\": \"0b1c\", ", ""), other),
        ("no key", with("\"key\": \"api/Paris\", ", ""), other),
        ("an unknown member of the record", envelope("{\"more\": 1}"), other),
        ("a member twice", envelope("{\"doubts\": 1, \"doubts\": 2}"), other),
        ("a time of another form", envelope("{\"issued_at\": \"yesterday\"}"), other),
        ("a part of a hash", envelope("{\"history\": \"AAAA\"}"), other),
        ("a record of format 3 in this one", envelope("{\"superseded\": []}"), other),
        ("format 0", legacy_envelope(0, "{}"), other),
        ("a legacy format with a key", with("\"bearerd\": 4", "\"bearerd\": 3"), other),
        ("this format without a key", legacy_envelope(4, "{}"), other),
        ("another checksum", with("\"generation\": 7", "\"generation\": 8"), RecordError::Checksum),
        ("a newer format", with("\"bearerd\": 4", "\"bearerd\": 5"), RecordError::Newer(5)),
    ] {
        assert_eq!(TokenRecord::from_bytes(KEY, &bytes).map(drop), Err(expected), "{what}");
    }
    assert!(TokenRecord::from_bytes(KEY, &envelope("{}")).is_ok());
}

#[test]
fn errors_and_debug_show_no_token() {
    let text = format!("{:?}", record());
    assert!(!text.contains("of-mine"), "{text}");
    let damaged =
        String::from_utf8(bytes()).unwrap().replacen("\"doubts\": 3", "\"doubts\": []", 1);
    let error = TokenRecord::from_bytes(KEY, damaged.as_bytes()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("of-mine"), "{error}");
}

/// A wrong clock must not cause a panic.
#[test]
fn times_out_of_range_are_clamped() {
    let far = UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    for (time, expected) in [
        (UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH),
        (far, UNIX_EPOCH + Duration::from_secs(253_000_000_000)),
        (UNIX_EPOCH + Duration::from_nanos(1_234_567), UNIX_EPOCH + Duration::from_millis(1)),
    ] {
        let record = TokenRecord { expires_at: Some(time), ..TokenRecord::default() };
        let (read, _) = TokenRecord::from_bytes(KEY, &record.to_bytes(KEY, &write())).unwrap();
        assert_eq!(read.expires_at, Some(expected));
    }
}

// ----- formats 1 to 3 -----

fn legacy(bytes: &[u8]) -> TokenRecord {
    let (record, write) = TokenRecord::from_bytes(KEY, bytes).unwrap();
    assert_eq!(write, WriteId::default());
    record
}

#[test]
fn a_record_of_format_2_is_read() {
    let intent = at("2026-05-01T10:30:00Z");
    let expected = TokenRecord {
        generation: Generation(7),
        access_token: Some(secret("at-7")),
        issued_at: Some(at("2026-05-01T10:00:00.123Z")),
        expires_at: Some(at("2026-05-01T11:00:00.123Z")),
        rejected: true,
        refresh_token: Some(secret("rt-7 \"\\ ü")),
        refresh_expires_at: Some(at("2026-06-01T10:00:00Z")),
        raw: [("data.club".to_owned(), secret("paris"))].into(),
        worked_with: Some(hash("config")),
        // The number of uses is not recorded in this format; there was at least one.
        attempt: Some(Attempt {
            refresh_token: hash("rt-7 \"\\ ü"),
            first: intent,
            last: intent,
            count: 1,
            by: String::new(),
        }),
        terminal: Some(TerminalState {
            reason: TerminalReason::LostRotation,
            refresh_token: None,
            config: hash("config"),
            at: at("2026-05-01T10:31:00Z"),
        }),
        bootstrap: Some(BootstrapHistory {
            at: at("2026-04-30T10:00:00Z"),
            before: None,
            refused: 1,
        }),
        history: [hash("rt-6"), hash("rt-5")].into_iter().collect(),
        seeds: [hash("seed-1")].into_iter().collect(),
        dpop_key: Some(secret("key")),
        // With a DPoP key, access tokens were bound to it.
        bound: true,
        ..TokenRecord::default()
    };
    assert_eq!(legacy(include_bytes!("legacy/format-2.json")), expected);
}

/// The refresh token was last used when it returned the same access token again.
#[test]
fn a_record_of_format_3_is_issued_when_its_refresh_token_was_used() {
    let expected = TokenRecord {
        generation: Generation(9),
        access_token: Some(secret("at-9")),
        issued_at: Some(at("2026-05-01T10:45:00Z")),
        refresh_token: Some(secret("rt-9")),
        bootstrap: Some(BootstrapHistory {
            at: at("2026-04-30T10:00:00Z"),
            before: None,
            refused: 0,
        }),
        ..TokenRecord::default()
    };
    assert_eq!(legacy(include_bytes!("legacy/format-3.json")), expected);
}

/// The grant is the one from before the seed, and its refresh token is not superseded. The seed is
/// a candidate again, with its use on record.
#[test]
fn a_seed_on_trial_restores_the_record_it_displaced() {
    let presented = at("2026-05-02T10:00:01Z");
    let expected = TokenRecord {
        generation: Generation(4),
        access_token: Some(secret("at-3")),
        issued_at: Some(at("2026-05-01T10:00:00Z")),
        refresh_token: Some(secret("rt-3")),
        worked_with: Some(hash("config")),
        attempt: Some(Attempt {
            refresh_token: hash("seed-2"),
            first: presented,
            last: presented,
            count: 1,
            by: String::new(),
        }),
        bootstrap: Some(BootstrapHistory {
            at: at("2026-05-02T10:00:00Z"),
            before: None,
            refused: 0,
        }),
        history: [hash("rt-2")].into_iter().collect(),
        seeds: [hash("seed-1")].into_iter().collect(),
        dpop_key: Some(secret("key")),
        bound: true,
        ..TokenRecord::default()
    };
    let record = legacy(include_bytes!("legacy/displaced.json"));
    assert_eq!(record, expected);
    assert!(!record.has_superseded(&hash("rt-3")) && !record.seeds.contains(&hash("seed-2")));
}

/// Format 1 has no members of its own.
#[test]
fn a_record_of_format_1_is_read() {
    let expected = TokenRecord {
        generation: Generation(2),
        access_token: Some(secret("at-2")),
        refresh_token: Some(secret("rt-2")),
        ..TokenRecord::default()
    };
    assert_eq!(legacy(include_bytes!("legacy/format-1.json")), expected);
}

#[test]
fn legacy_records_are_validated() {
    for (what, bytes, expected) in [
        ("nothing known", legacy_envelope(2, "{}"), None),
        (
            "an unknown member",
            legacy_envelope(3, "{\"attempt\": null}"),
            Some(RecordError::NotARecord),
        ),
        ("no time", legacy_envelope(2, "{\"used_at\": 5}"), Some(RecordError::NotARecord)),
    ] {
        assert_eq!(TokenRecord::from_bytes(KEY, &bytes).err(), expected, "{what}");
    }
    let text = String::from_utf8(include_bytes!("legacy/format-3.json").to_vec()).unwrap();
    let changed = text.replacen("rt-9", "rt-8", 1);
    let read = TokenRecord::from_bytes(KEY, changed.as_bytes());
    assert_eq!(read, Err(RecordError::Checksum));
}

/// Without an access token there is nothing to be bound.
#[test]
fn a_legacy_key_without_an_access_token_binds_nothing() {
    let record = legacy(&legacy_envelope(3, "{\"dpop_key\": \"key\", \"refresh_token\": \"rt\"}"));
    assert_eq!((record.dpop_key, record.bound), (Some(secret("key")), false));
}

/// Legacy records list the oldest first; the newest are kept.
#[test]
fn the_newest_of_too_many_legacy_seeds_are_kept() {
    let seeds: Vec<Fingerprint> = (0..1500).map(|number| hash(&format!("seed-{number}"))).collect();
    let seeds = serde_json::to_string(&seeds).unwrap();
    let record = legacy(&legacy_envelope(3, &format!("{{\"seeds\": {seeds}}}")));
    assert_eq!(record.seeds.len(), Hashes::MAX_LEN);
    assert!(record.seeds.contains(&hash("seed-1499")) && !record.seeds.contains(&hash("seed-0")));
}

// ----- accessors and updates -----

#[test]
fn a_new_refresh_token_replaces_the_old_one_and_its_expiry() {
    let mut record = TokenRecord {
        refresh_token: Some(secret("rt-1")),
        refresh_expires_at: Some(UNIX_EPOCH),
        ..TokenRecord::default()
    };
    record.replace_refresh_token(secret("rt-1"));
    assert!(record.history.is_empty(), "the same one is not superseded");
    assert_eq!(record.refresh_expires_at, Some(UNIX_EPOCH));
    record.replace_refresh_token(secret("rt-2"));
    assert_eq!(record.refresh_token, Some(secret("rt-2")));
    assert_eq!(record.refresh_expires_at, None);
    assert!(record.has_superseded(&hash("rt-1")) && !record.has_superseded(&hash("rt-2")));
    record.retire_refresh_token();
    assert!(record.refresh_token.is_none() && record.has_superseded(&hash("rt-2")));
}

#[test]
fn dropping_the_access_token_clears_its_attributes_and_nothing_else() {
    let mut dropped = record();
    dropped.drop_access_token();
    let expected = TokenRecord {
        access_token: None,
        expires_at: None,
        rejected: false,
        bound: false,
        raw: BTreeMap::new(),
        ..record()
    };
    assert_eq!(dropped, expected);
}

#[test]
fn an_access_token_is_usable_until_it_expires_or_is_rejected() {
    let now = UNIX_EPOCH + Duration::from_secs(100);
    let usable = TokenRecord { access_token: Some(secret("at")), ..TokenRecord::default() };
    let until = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
    for (record, expected) in [
        (usable.clone(), true),
        (TokenRecord { expires_at: until(101), ..usable.clone() }, true),
        (TokenRecord { expires_at: until(100), ..usable.clone() }, false),
        (TokenRecord { rejected: true, ..usable.clone() }, false),
        (TokenRecord { access_token: None, ..usable }, false),
    ] {
        assert_eq!(record.is_usable(now), expected, "{record:?}");
    }
}

#[test]
fn a_server_that_returned_the_same_refresh_token_does_not_rotate() {
    let of = |token: Option<&str>, parent: Option<&str>| TokenRecord {
        refresh_token: token.map(secret),
        parent: parent.map(hash),
        ..TokenRecord::default()
    };
    for (record, expected) in [
        (of(Some("rt"), Some("rt")), true),
        (of(Some("rt-2"), Some("rt-1")), false),
        (of(Some("rt"), None), false),
        (of(None, Some("rt")), false),
        (of(None, None), false),
    ] {
        assert_eq!(record.reuses_refresh_token(), expected, "{record:?}");
    }
}
