//! What is left to do, as a table; what a record remembers; how long margins are.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::*;
use crate::oauth::GrantType;
use crate::secret::SecretSource;
use crate::store::Terminal;
use crate::token::{Margin, Token};

const REFRESH: GrantType = GrantType::RefreshToken;

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn config(text: &str) -> Fingerprint {
    Fingerprint::of(text.as_bytes())
}

fn seed(value: Option<&str>) -> Seed {
    Seed { source: SecretSource::File(PathBuf::from("seed")), value: value.map(secret) }
}

/// A record whose seed `s1` has become `current`.
fn record(current: Option<&str>) -> TokenRecord {
    TokenRecord {
        generation: Generation(3),
        refresh_token: current.map(secret),
        seeds: vec![secret("s1").fingerprint()],
        ..TokenRecord::default()
    }
}

fn dead(record: TokenRecord, refresh_token: &str, with: &str) -> TokenRecord {
    let terminal = Terminal {
        reason: TerminalReason::Revoked,
        refresh_token: Some(secret(refresh_token).fingerprint()),
        config: config(with),
        at: UNIX_EPOCH,
    };
    TokenRecord { terminal: Some(terminal), ..record }
}

fn ask(refresh_token: &str, is_new_seed: bool) -> Plan {
    let refresh_token = secret(refresh_token);
    let new_seed = is_new_seed.then(|| refresh_token.fingerprint());
    Plan::Ask { refresh_token: Some(refresh_token), new_seed }
}

#[test]
fn what_is_left_to_do() {
    use TerminalReason::{Corrupt, NoGrant, Revoked};
    let none = TokenRecord::default;
    for (case, record, seed, damaged, expected) in [
        ("first start", none(), Some(seed(Some("s1"))), false, ask("s1", true)),
        ("nothing at all", none(), None, false, Plan::Stop(NoGrant)),
        ("an empty place", none(), Some(seed(None)), false, Plan::Stop(NoGrant)),
        ("damaged, no seed", none(), None, true, Plan::Stop(Corrupt)),
        ("damaged, a seed", none(), Some(seed(Some("s1"))), true, ask("s1", true)),
        ("the record wins", record(Some("r3")), Some(seed(Some("s1"))), false, ask("r3", false)),
        ("seed removed", record(Some("r3")), None, false, ask("r3", false)),
        ("seed file removed", record(Some("r3")), Some(seed(None)), false, ask("r3", false)),
        ("a new seed", record(Some("r3")), Some(seed(Some("s2"))), false, ask("s2", true)),
        ("only the seed", record(None), Some(seed(Some("s1"))), false, ask("s1", false)),
        ("dead", dead(record(Some("r3")), "r3", "c"), None, false, Plan::Stop(Revoked)),
        (
            "dead, and its seed still configured",
            dead(record(Some("r3")), "r3", "c"),
            Some(seed(Some("s1"))),
            false,
            Plan::Stop(Revoked),
        ),
        (
            "dead, and a new seed",
            dead(record(Some("r3")), "r3", "c"),
            Some(seed(Some("s2"))),
            false,
            ask("s2", true),
        ),
        (
            "dead with another configuration",
            dead(record(Some("r3")), "r3", "other"),
            None,
            false,
            ask("r3", false),
        ),
        (
            "another refresh token is dead",
            dead(record(Some("r3")), "r2", "c"),
            None,
            false,
            ask("r3", false),
        ),
    ] {
        let plan = plan(&record, seed.as_ref(), REFRESH, &config("c"), damaged);
        assert_eq!(plan, expected, "{case}");
    }
}

#[test]
fn client_credentials_need_nothing_to_be_left() {
    let expected = Plan::Ask { refresh_token: None, new_seed: None };
    for record in [TokenRecord::default(), record(Some("r3")), dead(record(None), "r3", "c")] {
        for damaged in [false, true] {
            let grant = GrantType::ClientCredentials;
            let seed = seed(Some("s2"));
            assert_eq!(plan(&record, Some(&seed), grant, &config("c"), damaged), expected);
        }
    }
}

#[test]
fn the_hashes_of_the_last_eight_superseded_refresh_tokens_are_kept_newest_first() {
    let mut record = TokenRecord::default();
    for number in 1..=12 {
        supersede(&mut record, secret(&format!("r{number}")));
    }
    assert_eq!(record.refresh_token, Some(secret("r12")));
    let expected: Vec<_> =
        (4..=11).rev().map(|number| secret(&format!("r{number}")).fingerprint()).collect();
    assert_eq!(expected.len(), TokenRecord::HISTORY);
    assert_eq!(record.superseded, expected);
}

#[test]
fn the_same_refresh_token_again_supersedes_nothing() {
    let mut record = record(Some("r3"));
    supersede(&mut record, secret("r3"));
    assert_eq!(record.refresh_token, Some(secret("r3")));
    assert_eq!(record.superseded, []);
}

#[test]
fn which_records_hold_a_token_that_may_be_used() {
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    let good = TokenRecord { access_token: Some(secret("a")), ..record(None) };
    let until = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
    for (record, usable) in [
        (good.clone(), true),
        (TokenRecord { expires_at: until(1001), ..good.clone() }, true),
        (TokenRecord { expires_at: until(1000), ..good.clone() }, false),
        (TokenRecord { rejected: true, ..good.clone() }, false),
        (TokenRecord { access_token: None, ..good }, false),
    ] {
        assert_eq!(is_usable(&record, now), usable, "{record:?}");
        let token = Token::of(&record, Margin::Auto, 0.0);
        assert_eq!(token.is_some_and(|token| token.is_usable(now)), usable, "{record:?}");
    }
}

#[test]
fn the_margin_is_scaled_to_the_lifetime() {
    let (auto, share) = (Margin::Auto, Margin::Share);
    let fixed = |seconds| Margin::Fixed(Duration::from_secs(seconds));
    for (margin, lifetime, expected) in [
        // A tenth, at least 10 s and at most 5 min, never more than half.
        (auto, 5.0, 2.5),
        (auto, 15.0, 7.5),
        (auto, 60.0, 10.0),
        (auto, 300.0, 30.0),
        (auto, 3000.0, 300.0),
        (auto, 3600.0, 300.0),
        (auto, 86_400.0, 300.0),
        (auto, 0.0, 0.0),
        (fixed(30), 3600.0, 30.0),
        (fixed(0), 3600.0, 0.0),
        (fixed(300), 60.0, 30.0),
        (fixed(u64::MAX), 60.0, 30.0),
        (share(0.1), 3600.0, 360.0),
        (share(0.0), 3600.0, 0.0),
        (share(0.9), 3600.0, 1800.0),
        (share(7.0), 3600.0, 1800.0),
        (share(-1.0), 3600.0, 0.0),
    ] {
        let lifetime = Duration::from_secs_f64(lifetime);
        let expected = Duration::from_secs_f64(expected);
        assert_eq!(margin.of(lifetime, 0.0), expected, "{margin:?} of {lifetime:?}");
        // Up to a fifth is taken off at random, and not a bit more.
        let fifth = expected.mul_f64(0.8);
        assert_eq!(margin.of(lifetime, 1.0), fifth, "{margin:?} of {lifetime:?}");
        assert_eq!(margin.of(lifetime, 9.0), fifth, "{margin:?} of {lifetime:?}");
    }
}

#[test]
fn a_token_is_due_from_its_margin_on_and_usable_to_its_end() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let record = TokenRecord {
        access_token: Some(secret("a")),
        issued_at: Some(at(1000)),
        expires_at: Some(at(1000 + 3600)),
        ..TokenRecord::default()
    };
    for (jitter, due) in [(0.0, 4300), (0.5, 4330), (1.0, 4360)] {
        let token = Token::of(&record, Margin::Auto, jitter).unwrap();
        assert!(!token.is_due(at(due - 1)), "{jitter}");
        assert!(token.is_due(at(due)), "{jitter}");
        assert!(token.is_usable(at(4599)) && !token.is_usable(at(4600)), "{jitter}");
    }
}

#[test]
fn only_a_header_that_could_be_sent_becomes_a_token() {
    let record = |text| TokenRecord { access_token: Some(secret(text)), ..TokenRecord::default() };
    let token = Token::of(&record("abc"), Margin::Auto, 0.0).unwrap();
    assert!(token.authorization == "Bearer abc" && token.authorization.is_sensitive());
    assert!(Token::of(&record("a\r\nX: y"), Margin::Auto, 0.0).is_none());
    assert!(Token::of(&TokenRecord::default(), Margin::Auto, 0.0).is_none());
    assert_eq!(format!("{token:?}"), "Token(generation 0)");
}
