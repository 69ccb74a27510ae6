//! Records as bytes: written, read back, damaged, and from before this format.
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

/// Every member has a value of its own.
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
        terminal: Some(Terminal {
            reason: TerminalReason::LostRotation,
            refresh_token: Some(hash("dead")),
            config: hash("config"),
            at: time,
        }),
        bootstrap: Some(Bootstrapped { at: time, before: after(6), refused: 4 }),
        history: [hash("rt-6"), hash("rt-5")].into_iter().collect(),
        seeds: [hash("seed")].into_iter().collect(),
        dpop_key: Some(secret("key-of-mine")),
        bound: true,
        unread: Some(secret("unread-of-mine")),
    }
}

fn write() -> Write {
    Write { revision: 41, writer: "0b1c".to_owned() }
}

fn bytes() -> Vec<u8> {
    record().to_bytes(KEY, &write())
}

/// An envelope of the current format around any text, with the right checksum.
fn enclosed(text: &str) -> Vec<u8> {
    let sum = checksum(KEY, &write(), text);
    let sum = sum.as_str();
    format!(
        "{{\"bearerd\": 4, \"sha256\": \"{sum}\", \"key\": \"{KEY}\", \"revision\": 41, \
         \"writer\": \"0b1c\", \"record\": {text}}}"
    )
    .into_bytes()
}

/// The same of a format from before it.
fn formerly(format: u32, text: &str) -> Vec<u8> {
    let sum = hash(text);
    format!("{{\"bearerd\": {format}, \"sha256\": \"{}\", \"record\": {text}}}", sum.as_str())
        .into()
}

#[test]
fn what_is_written_is_read_back() {
    for record in [record(), TokenRecord::default()] {
        let bytes = record.to_bytes(KEY, &write());
        assert_eq!(TokenRecord::from_bytes(KEY, &bytes), Ok((record, write())));
    }
}

/// The form in a store, once and for all: a later bearerd has to read it.
#[test]
fn the_form_is_fixed() {
    let golden = include_bytes!("format-4.json");
    assert_eq!(String::from_utf8(bytes()).unwrap(), String::from_utf8(golden.to_vec()).unwrap());
    assert_eq!(TokenRecord::from_bytes(KEY, golden), Ok((record(), write())));
}

/// Whatever may be in a key or in the name of a writer.
#[test]
fn keys_and_writers_are_quoted() {
    let write = Write { revision: u64::MAX, writer: "\"}\n\\ü".to_owned() };
    for key in ["", "a\"b", "a/x%2Fy", "é\n"] {
        let bytes = record().to_bytes(key, &write);
        assert_eq!(TokenRecord::from_bytes(key, &bytes), Ok((record(), write.clone())), "{key}");
    }
}

#[test]
fn a_record_cut_at_any_byte_is_never_taken_for_a_whole_one() {
    let golden = [&bytes()[..], include_bytes!("former/format-2.json")];
    for bytes in golden {
        // The last byte is a line feed, which JSON does not need.
        for end in 0..bytes.len() - 1 {
            let read = TokenRecord::from_bytes(KEY, &bytes[..end]);
            assert_eq!(read, Err(RecordError::NotARecord), "cut at {end}");
        }
    }
}

#[test]
fn a_flipped_bit_is_never_read_as_another_record_nor_as_another_write() {
    for bytes in [&bytes()[..], include_bytes!("former/format-2.json")] {
        let original = TokenRecord::from_bytes(KEY, bytes).unwrap();
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.to_vec();
                bytes[index] ^= 1 << bit;
                // White space outside the record may change; what is read may not.
                if let Ok(read) = TokenRecord::from_bytes(KEY, &bytes) {
                    assert_eq!(read, original, "byte {index}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn the_record_of_another_key_is_no_record_of_this_one() {
    for key in ["api", "api/paris", "api/Paris/", ""] {
        assert_eq!(TokenRecord::from_bytes(key, &bytes()), Err(RecordError::OtherKey), "{key}");
    }
    // Whose key was changed afterwards is a damaged one.
    let text = String::from_utf8(bytes()).unwrap().replacen(KEY, "other", 1);
    let read = TokenRecord::from_bytes("other", text.as_bytes());
    assert_eq!(read, Err(RecordError::Checksum));
}

#[test]
fn what_a_write_is_known_by_is_under_the_checksum() {
    let text = String::from_utf8(bytes()).unwrap();
    for (from, to) in [("\"revision\": 41", "\"revision\": 42"), ("0b1c", "0b1d")] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        let read = TokenRecord::from_bytes(KEY, changed.as_bytes());
        assert_eq!(read, Err(RecordError::Checksum), "{to}");
    }
}

#[test]
fn what_is_no_record_is_told_from_what_is_damaged_or_newer() {
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
        ("an unknown member of the record", enclosed("{\"more\": 1}"), other),
        ("a member twice", enclosed("{\"doubts\": 1, \"doubts\": 2}"), other),
        ("a time of another form", enclosed("{\"issued_at\": \"yesterday\"}"), other),
        ("a part of a hash", enclosed("{\"history\": \"AAAA\"}"), other),
        ("a record of format 3 in this one", enclosed("{\"superseded\": []}"), other),
        ("format 0", formerly(0, "{}"), other),
        ("a former format with a key", with("\"bearerd\": 4", "\"bearerd\": 3"), other),
        ("this format without a key", formerly(4, "{}"), other),
        ("another checksum", with("\"generation\": 7", "\"generation\": 8"), RecordError::Checksum),
        ("a newer format", with("\"bearerd\": 4", "\"bearerd\": 5"), RecordError::Newer(5)),
    ] {
        assert_eq!(TokenRecord::from_bytes(KEY, &bytes).map(drop), Err(expected), "{what}");
    }
    assert!(TokenRecord::from_bytes(KEY, &enclosed("{}")).is_ok());
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

/// A clock that far off is not worth a crash.
#[test]
fn times_of_a_wrong_clock_are_written_as_the_nearest_that_can_be() {
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

fn former(bytes: &[u8]) -> TokenRecord {
    let (record, write) = TokenRecord::from_bytes(KEY, bytes).unwrap();
    assert_eq!(write, Write::default());
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
        // How often it was presented is not known; once at least.
        attempt: Some(Attempt {
            refresh_token: hash("rt-7 \"\\ ü"),
            first: intent,
            last: intent,
            count: 1,
            by: String::new(),
        }),
        terminal: Some(Terminal {
            reason: TerminalReason::LostRotation,
            refresh_token: None,
            config: hash("config"),
            at: at("2026-05-01T10:31:00Z"),
        }),
        bootstrap: Some(Bootstrapped { at: at("2026-04-30T10:00:00Z"), before: None, refused: 1 }),
        history: [hash("rt-6"), hash("rt-5")].into_iter().collect(),
        seeds: [hash("seed-1")].into_iter().collect(),
        dpop_key: Some(secret("key")),
        // Where there was a key, tokens were bound to it.
        bound: true,
        ..TokenRecord::default()
    };
    assert_eq!(former(include_bytes!("former/format-2.json")), expected);
}

/// The refresh token was used last when it brought the same access token again.
#[test]
fn a_record_of_format_3_is_read_as_issued_when_its_refresh_token_was_used() {
    let expected = TokenRecord {
        generation: Generation(9),
        access_token: Some(secret("at-9")),
        issued_at: Some(at("2026-05-01T10:45:00Z")),
        refresh_token: Some(secret("rt-9")),
        bootstrap: Some(Bootstrapped { at: at("2026-04-30T10:00:00Z"), before: None, refused: 0 }),
        ..TokenRecord::default()
    };
    assert_eq!(former(include_bytes!("former/format-3.json")), expected);
}

/// The grant is what was there before the seed, whose refresh token is not superseded. The seed is a candidate
/// again, and known to have been presented.
#[test]
fn a_seed_on_trial_gives_back_the_record_that_it_displaced() {
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
        bootstrap: Some(Bootstrapped { at: at("2026-05-02T10:00:00Z"), before: None, refused: 0 }),
        history: [hash("rt-2")].into_iter().collect(),
        seeds: [hash("seed-1")].into_iter().collect(),
        dpop_key: Some(secret("key")),
        bound: true,
        ..TokenRecord::default()
    };
    let record = former(include_bytes!("former/displaced.json"));
    assert_eq!(record, expected);
    assert!(!record.has_superseded(&hash("rt-3")) && !record.seeds.contains(&hash("seed-2")));
}

/// It has nothing that the later ones have not, and bearerd has always read it.
#[test]
fn a_record_of_format_1_is_read() {
    let expected = TokenRecord {
        generation: Generation(2),
        access_token: Some(secret("at-2")),
        refresh_token: Some(secret("rt-2")),
        ..TokenRecord::default()
    };
    assert_eq!(former(include_bytes!("former/format-1.json")), expected);
}

#[test]
fn a_former_record_is_checked_as_well() {
    for (what, bytes, expected) in [
        ("nothing known", formerly(2, "{}"), None),
        ("an unknown member", formerly(3, "{\"attempt\": null}"), Some(RecordError::NotARecord)),
        ("no time", formerly(2, "{\"used_at\": 5}"), Some(RecordError::NotARecord)),
    ] {
        assert_eq!(TokenRecord::from_bytes(KEY, &bytes).err(), expected, "{what}");
    }
    let text = String::from_utf8(include_bytes!("former/format-3.json").to_vec()).unwrap();
    let changed = text.replacen("rt-9", "rt-8", 1);
    let read = TokenRecord::from_bytes(KEY, changed.as_bytes());
    assert_eq!(read, Err(RecordError::Checksum));
}

/// Without an access token nothing is known to be bound.
#[test]
fn a_former_key_without_an_access_token_binds_nothing() {
    let record = former(&formerly(3, "{\"dpop_key\": \"key\", \"refresh_token\": \"rt\"}"));
    assert_eq!((record.dpop_key, record.bound), (Some(secret("key")), false));
}

/// Their order was the other way round, and the newest are those that are kept.
#[test]
fn of_too_many_former_seeds_the_newest_are_kept() {
    let seeds: Vec<Fingerprint> = (0..1500).map(|number| hash(&format!("seed-{number}"))).collect();
    let seeds = serde_json::to_string(&seeds).unwrap();
    let record = former(&formerly(3, &format!("{{\"seeds\": {seeds}}}")));
    assert_eq!(record.seeds.len(), Hashes::MOST);
    assert!(record.seeds.contains(&hash("seed-1499")) && !record.seeds.contains(&hash("seed-0")));
}

// ----- hashes -----

#[test]
fn a_hash_that_was_put_in_is_known_and_no_other() {
    let mut hashes = Hashes::default();
    assert!(hashes.is_empty() && !hashes.contains(&hash("a")));
    hashes.insert(&hash("a"));
    assert!(!hashes.is_empty() && hashes.contains(&hash("a")) && !hashes.contains(&hash("b")));
    // All of its bytes count, not only the first.
    let digits = hash("a").as_str().to_owned();
    for at in 0..12 {
        let mut other = digits.clone().into_bytes();
        other[at] = if other[at] == b'0' { b'1' } else { b'0' };
        let other = String::from_utf8(other).unwrap();
        let other: Fingerprint = serde_json::from_value(other.into()).unwrap();
        assert!(!hashes.contains(&other), "digit {at}");
    }
}

#[test]
fn the_newest_hashes_are_kept_and_each_once() {
    let hash = |number: usize| hash(&format!("rt-{number}"));
    let mut hashes = Hashes::default();
    for number in 0..Hashes::MOST + 5 {
        hashes.insert(&hash(number));
    }
    assert_eq!(hashes.len(), Hashes::MOST);
    assert!(!hashes.contains(&hash(4)) && hashes.contains(&hash(5)));
    // One that comes again is the newest, and takes nobody's place.
    hashes.insert(&hash(6));
    assert_eq!(hashes.len(), Hashes::MOST);
    assert!(hashes.contains(&hash(5)));
    hashes.insert(&hash(0));
    hashes.insert(&hash(1));
    assert!(hashes.contains(&hash(6)) && !hashes.contains(&hash(5)) && !hashes.contains(&hash(7)));
}

#[test]
fn hashes_are_one_text_and_come_back_in_their_order() {
    let many: Hashes = (0..Hashes::MOST).map(|number| hash(&number.to_string())).collect();
    for hashes in [many, Hashes::default(), [hash("a"), hash("b")].into_iter().collect()] {
        let text = serde_json::to_string(&hashes).unwrap();
        assert_eq!(text.len(), hashes.len() * 8 + 2);
        assert_eq!(serde_json::from_str::<Hashes>(&text).unwrap(), hashes);
    }
}

#[test]
fn too_many_hashes_in_a_record_are_bounded() {
    let text = format!("\"{}\"", "AAAAAAAA".repeat(Hashes::MOST + 1));
    assert_eq!(serde_json::from_str::<Hashes>(&text).unwrap().len(), Hashes::MOST);
    let from_hashes: Hashes = (0..1500).map(|number| hash(&number.to_string())).collect();
    assert_eq!(from_hashes.len(), Hashes::MOST);
}

/// What stands in a record instead of a hash may be anything.
#[test]
fn what_is_no_hash_is_no_crash() {
    for text in ["", "é", "xyz", "0123456789", "+1+1+1+1+1+1"] {
        let odd: Fingerprint = serde_json::from_value(text.into()).unwrap();
        let mut hashes = Hashes::default();
        hashes.insert(&odd);
        assert!(hashes.contains(&odd) && !hashes.contains(&hash("a")), "{text}");
    }
}

// ----- what a record says -----

#[test]
fn a_new_refresh_token_supersedes_the_old_one_and_what_was_said_of_it() {
    let mut record = TokenRecord {
        refresh_token: Some(secret("rt-1")),
        refresh_expires_at: Some(UNIX_EPOCH),
        ..TokenRecord::default()
    };
    record.supersede(secret("rt-1"));
    assert!(record.history.is_empty(), "the same one is not superseded");
    assert_eq!(record.refresh_expires_at, Some(UNIX_EPOCH));
    record.supersede(secret("rt-2"));
    assert_eq!(record.refresh_token, Some(secret("rt-2")));
    assert_eq!(record.refresh_expires_at, None);
    assert!(record.has_superseded(&hash("rt-1")) && !record.has_superseded(&hash("rt-2")));
    record.retire();
    assert!(record.refresh_token.is_none() && record.has_superseded(&hash("rt-2")));
}

#[test]
fn an_access_token_is_dropped_with_all_that_belongs_to_it_and_nothing_else() {
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
fn a_server_is_known_not_to_rotate_when_the_refresh_token_has_brought_itself() {
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
        assert_eq!(record.has_kept_its_refresh_token(), expected, "{record:?}");
    }
}
