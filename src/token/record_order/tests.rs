//! Which record is newer, as a table and for any history of a credential.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::oauth::{Rotation, TokenResponse, TokenType};
use crate::store::{Generation, IssuedFor, TerminalReason, TerminalState, WriteId};
use crate::token::record_update::{
    PresentedGrant, ResponseContext, apply_refresh_token, apply_response,
};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The record after this many rotations, one per second.
fn rotated(times: u64) -> TokenRecord {
    let mut record = TokenRecord::default();
    for number in 1..=times {
        record.parent = record.refresh_token.as_ref().map(Secret::fingerprint);
        record.replace_refresh_token(secret(&format!("rt{number}")));
        record.generation = Generation(number);
        record.access_token = Some(secret(&format!("at{number}")));
        record.issued_at = Some(at(number));
    }
    record
}

/// The record after a logout.
fn logged_out(record: &TokenRecord, time: SystemTime) -> TokenRecord {
    let mut before = record.clone();
    before.retire_refresh_token();
    TokenRecord {
        generation: record.generation.next(),
        history: before.history,
        seeds: before.seeds,
        terminal: Some(TerminalState {
            reason: TerminalReason::LoggedOut,
            refresh_token: None,
            config: Fingerprint::of(b"config"),
            at: time,
        }),
        ..TokenRecord::default()
    }
}

/// The record after a seed that was dead from the start.
fn dead_on_arrival(record: &TokenRecord, seed: Secret, time: SystemTime) -> TokenRecord {
    let mut record = record.clone();
    record.seeds.insert(&seed.fingerprint());
    record.replace_refresh_token(seed);
    record.drop_access_token();
    record.terminal = Some(TerminalState {
        reason: TerminalReason::Revoked,
        refresh_token: record.refresh_token.as_ref().map(Secret::fingerprint),
        config: Fingerprint::of(b"config"),
        at: time,
    });
    record
}

/// The record after it was stored and loaded.
fn stored(record: &TokenRecord) -> TokenRecord {
    let bytes = record.to_bytes("api", &WriteId::default());
    TokenRecord::from_bytes("api", &bytes).unwrap().0
}

/// Compares from both sides, each with the other's record as the stored one.
fn both(one: &TokenRecord, other: &TokenRecord) -> (RecordOrder, RecordOrder) {
    both_of((one, &stored(one)), (other, &stored(other)))
}

fn both_of(
    one: (&TokenRecord, &TokenRecord),
    other: (&TokenRecord, &TokenRecord),
) -> (RecordOrder, RecordOrder) {
    (compare_records(one.0, Some(other.1)), compare_records(other.0, Some(one.1)))
}

#[test]
fn descent_decides_before_counters_and_clocks() {
    let backup_with_a_high_counter = TokenRecord { generation: Generation(99), ..rotated(2) };
    let same_token_again =
        TokenRecord { generation: Generation(4), access_token: Some(secret("at4")), ..rotated(3) };
    let other_line = TokenRecord {
        refresh_token: Some(secret("other")),
        issued_at: Some(at(100)),
        generation: Generation(1),
        ..TokenRecord::default()
    };
    let tombstone = logged_out(&rotated(3), at(9));
    for (name, ours, stored, expected) in [
        ("nothing stored", rotated(3), None, RecordOrder::OursNewer),
        ("nothing anywhere", rotated(0), None, RecordOrder::Same),
        ("the same", rotated(3), Some(rotated(3)), RecordOrder::Same),
        ("nothing known", rotated(0), Some(rotated(3)), RecordOrder::StoredNewer),
        ("a sibling rotated", rotated(3), Some(rotated(4)), RecordOrder::StoredNewer),
        ("and rotated often", rotated(3), Some(rotated(40)), RecordOrder::StoredNewer),
        ("a backup", rotated(4), Some(rotated(3)), RecordOrder::OursNewer),
        (
            "a backup with a counter",
            rotated(4),
            Some(backup_with_a_high_counter),
            RecordOrder::OursNewer,
        ),
        ("not rotated", rotated(3), Some(same_token_again.clone()), RecordOrder::StoredNewer),
        ("not rotated, a backup", same_token_again, Some(rotated(3)), RecordOrder::OursNewer),
        ("a logout", rotated(3), Some(tombstone.clone()), RecordOrder::StoredNewer),
        (
            "a logout of a later one",
            rotated(3),
            Some(logged_out(&rotated(5), at(9))),
            RecordOrder::StoredNewer,
        ),
        ("a backup over a logout", tombstone.clone(), Some(rotated(3)), RecordOrder::OursNewer),
        ("a login after it", tombstone.clone(), Some(other_line.clone()), RecordOrder::StoredNewer),
        (
            "logged out again",
            logged_out(&tombstone, at(5)),
            Some(tombstone),
            RecordOrder::OursNewer,
        ),
        ("begun anew elsewhere", rotated(3), Some(other_line.clone()), RecordOrder::StoredNewer),
        ("a backup of another line", other_line, Some(rotated(3)), RecordOrder::OursNewer),
    ] {
        assert_eq!(compare_records(&ours, stored.as_ref()), expected, "{name}");
    }
}

#[test]
fn fields_other_than_tokens_do_not_decide() {
    let noted = TokenRecord { doubts: 2, rejected: true, ..rotated(3) };
    assert_eq!(compare_records(&rotated(3), Some(&noted)), RecordOrder::Same);
}

/// Two processes start with a dead seed. The second must adopt the record of the first; otherwise it would present the
/// seed again and again.
#[test]
fn a_dead_first_refresh_token_is_newer_than_an_empty_record() {
    let dead = dead_on_arrival(&TokenRecord::default(), secret("seed"), at(5));
    assert_eq!(
        both(&dead, &TokenRecord::default()),
        (RecordOrder::OursNewer, RecordOrder::StoredNewer)
    );
    let after_a_logout = logged_out(&rotated(3), at(9));
    let dead = dead_on_arrival(&after_a_logout, secret("seed"), at(10));
    assert_eq!(both(&dead, &after_a_logout), (RecordOrder::OursNewer, RecordOrder::StoredNewer));
}

/// Two responses to one refresh token without rotation within a millisecond, the precision of stored times.
#[test]
fn both_processes_choose_the_same_of_two_equal_records() {
    let asked = |micros, access_token| TokenRecord {
        issued_at: Some(at(100) + Duration::from_micros(micros)),
        access_token: Some(secret(access_token)),
        ..rotated(3)
    };
    for (one, other) in [(7, 7), (7, 8), (8, 7), (0, 999)] {
        let (a, b) = (asked(one, "a"), asked(other, "b"));
        assert!(matches!(
            both(&a, &b),
            (RecordOrder::OursNewer, RecordOrder::StoredNewer)
                | (RecordOrder::StoredNewer, RecordOrder::OursNewer)
        ));
    }
}

/// A token request was in progress when an operator logged out.
#[test]
fn a_response_in_transit_does_not_undo_a_logout() {
    for (asked, over) in [(5, 9), (8, 9)] {
        let tombstone = logged_out(&rotated(3), at(over));
        let late = TokenRecord { issued_at: Some(at(asked)), ..rotated(4) };
        assert_eq!(both(&tombstone, &late), (RecordOrder::OursNewer, RecordOrder::StoredNewer));
    }
}

// ----- any history -----

/// An event of a credential.
#[derive(Clone, Copy, Debug)]
enum RecordEvent {
    Rotate,
    /// A refresh without rotation.
    Keep,
    LogOut,
    /// A new grant, by a login or a bootstrap.
    Begin,
    /// The server issues the previous refresh token again.
    BeginWithTheSame,
    /// A new grant without a refresh token.
    BeginWithout,
    Seed,
    DeadSeed,
    /// The configuration changes to a grant without a refresh token.
    Own,
}

/// A record that an event at a given time created from an earlier record.
#[derive(Clone, Copy, Debug)]
struct HistoryStep {
    of: usize,
    event: RecordEvent,
    /// The clock may be set back.
    at: u64,
}

fn any_event() -> impl Strategy<Value = RecordEvent> {
    prop_oneof![
        5 => Just(RecordEvent::Rotate),
        3 => Just(RecordEvent::Keep),
        2 => Just(RecordEvent::LogOut),
        2 => Just(RecordEvent::Begin),
        1 => Just(RecordEvent::BeginWithTheSame),
        1 => Just(RecordEvent::BeginWithout),
        2 => Just(RecordEvent::Seed),
        1 => Just(RecordEvent::DeadSeed),
        1 => Just(RecordEvent::Own),
    ]
}

/// A history: each event applies to the previous record or, with `backups`, to a restored one.
fn any_history(backups: bool) -> impl Strategy<Value = Vec<HistoryStep>> {
    let restored = if backups { 1 } else { 0 };
    let back = prop_oneof![4 => Just(0), restored => 0..20_usize];
    let made = (any_event(), back, 0..40_u64);
    prop::collection::vec(made, 1..24).prop_map(|made| {
        let each = made.into_iter().enumerate();
        each.map(|(index, (event, back, at))| HistoryStep {
            of: index.saturating_sub(back),
            event,
            at,
        })
        .collect()
    })
}

/// The records of a history. The first one is empty.
fn records(history: &[HistoryStep]) -> Vec<TokenRecord> {
    let mut records = vec![TokenRecord::default()];
    for (number, made) in history.iter().enumerate() {
        let record = apply_event(&records[made.of], made.event, number, at(1000 + made.at));
        records.push(record);
    }
    records
}

fn apply_event(
    old: &TokenRecord,
    event: RecordEvent,
    number: usize,
    now: SystemTime,
) -> TokenRecord {
    let (seed, new) = (secret(&format!("seed{number}")), secret(&format!("rt{number}")));
    let current = old.refresh_token.clone();
    let (presented, answered) = match (event, &current) {
        (RecordEvent::LogOut, _) => return logged_out(old, now),
        (RecordEvent::DeadSeed, None) => return dead_on_arrival(old, seed, now),
        (RecordEvent::Rotate, Some(token)) => (PresentedGrant::RefreshToken(token), Some(new)),
        (RecordEvent::Keep, Some(token)) => (PresentedGrant::RefreshToken(token), None),
        (RecordEvent::BeginWithTheSame, Some(token)) => {
            (PresentedGrant::NewGrant, Some(token.clone()))
        }
        (RecordEvent::BeginWithout, _) => (PresentedGrant::NewGrant, None),
        (RecordEvent::Own, _) => (PresentedGrant::Configured, None),
        (RecordEvent::Seed | RecordEvent::DeadSeed, _) => (PresentedGrant::Seed(&seed), Some(new)),
        _ => (PresentedGrant::NewGrant, Some(new)),
    };
    let terms = ResponseContext {
        presented,
        asked_at: now,
        lifetime: None,
        rotation: Rotation::Auto,
        issued_for: IssuedFor {
            grant: Fingerprint::of(b"grant"),
            request: Fingerprint::of(b"request"),
        },
        bound: false,
    };
    let response = TokenResponse {
        access_token: Some(secret(&format!("at{number}"))),
        token_type: TokenType::default(),
        refresh_token: answered,
        expires_at: None,
        refresh_expires_at: None,
        grant_expires_at: None,
        raw: BTreeMap::new(),
        dpop_nonce: None,
        notes: Vec::new(),
    };
    // Before configured steps, or without a usable access token, only the refresh token is kept.
    match number % 4 {
        0 => apply_refresh_token(old, response.refresh_token, &terms),
        _ => apply_response(old, &response, &terms).unwrap(),
    }
}

fn descends(history: &[HistoryStep], later: usize, earlier: usize) -> bool {
    let mut place = later;
    while place > earlier {
        place = history[place - 1].of;
    }
    place == earlier
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// For any clocks, and for any earlier record that is restored.
    #[test]
    fn the_later_record_of_a_history_is_newer(history in any_history(false)) {
        let records = records(&history);
        let stored: Vec<_> = records.iter().map(stored).collect();
        let place = |place: usize| (&records[place], &stored[place]);
        for later in 0..records.len() {
            for earlier in 0..later {
                let found = both_of(place(later), place(earlier));
                prop_assert_eq!(found, (RecordOrder::OursNewer, RecordOrder::StoredNewer), "{} {}", later, earlier);
            }
            let itself = both_of(place(later), place(later));
            prop_assert_eq!(itself, (RecordOrder::Same, RecordOrder::Same), "{}", later);
        }
    }

    /// The same if processes continued from backups: the descendant is newer, and of two records without a common line
    /// of descent both processes choose the same one.
    #[test]
    fn both_processes_choose_the_same_record(history in any_history(true)) {
        let records = records(&history);
        let stored: Vec<_> = records.iter().map(stored).collect();
        let place = |place: usize| (&records[place], &stored[place]);
        for one in 0..records.len() {
            for other in 0..one {
                let found = both_of(place(one), place(other));
                let tokens = |place: usize| {
                    let TokenRecord { generation, access_token, refresh_token, .. } =
                        &records[place];
                    (generation, access_token, refresh_token)
                };
                let is_decided = match found {
                    (RecordOrder::Same, RecordOrder::Same) => tokens(one) == tokens(other),
                    (RecordOrder::OursNewer, RecordOrder::StoredNewer) | (RecordOrder::StoredNewer, RecordOrder::OursNewer) => true,
                    _ => false,
                };
                prop_assert!(is_decided, "{} {}: {:?}", one, other, found);
                if descends(&history, one, other) {
                    prop_assert_eq!(found, (RecordOrder::OursNewer, RecordOrder::StoredNewer), "{} {}", one, other);
                }
            }
        }
    }
}
