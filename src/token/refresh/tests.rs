//! What is left to do, as a table; what a record remembers; how long margins are.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::plan::supersede;
use super::*;
use crate::clock::Moment;
use crate::oauth::Livelihood;
use crate::secret::SecretSource;
use crate::store::{Bootstrapped, Terminal};
use crate::token::{Margin, Token};

const NOW: SystemTime = UNIX_EPOCH;

/// What a configuration named `c` has to offer.
fn sources<'a>(
    seed: Option<&'a Seed>,
    livelihood: Livelihood,
    can_bootstrap: bool,
    config: &'a Fingerprint,
) -> Sources<'a> {
    Sources { seed, livelihood, can_bootstrap, config }
}

fn moment(time: SystemTime) -> Moment {
    Moment { wall: time, running: time.duration_since(UNIX_EPOCH).unwrap() }
}

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
        (
            "a seed that was the refresh token once",
            TokenRecord { superseded: vec![secret("r2").fingerprint()], ..record(Some("r3")) },
            Some(seed(Some("r2"))),
            false,
            ask("r3", false),
        ),
        (
            "only a seed of long ago",
            record(None),
            Some(seed(Some("s1"))),
            false,
            Plan::Stop(NoGrant),
        ),
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
        let config = config("c");
        let sources = sources(seed.as_ref(), Livelihood::RefreshToken, false, &config);
        assert_eq!(plan(&record, sources, damaged, NOW), expected, "{case}");
    }
}

#[test]
fn client_credentials_need_nothing_to_be_left() {
    let expected = Plan::Ask { refresh_token: None, new_seed: None };
    for record in [TokenRecord::default(), record(Some("r3")), dead(record(None), "r3", "c")] {
        for damaged in [false, true] {
            let (seed, config) = (seed(Some("s2")), config("c"));
            let sources = sources(Some(&seed), Livelihood::Repeatable, true, &config);
            assert_eq!(plan(&record, sources, damaged, NOW), expected);
        }
    }
}

fn logged_out(record: TokenRecord) -> TokenRecord {
    let terminal = Terminal {
        reason: TerminalReason::LoggedOut,
        refresh_token: None,
        config: config("c"),
        at: UNIX_EPOCH,
    };
    TokenRecord { refresh_token: None, terminal: Some(terminal), ..record }
}

/// #28 and #29: neither an old seed nor a bootstrap nor another configuration.
#[test]
fn a_tombstone_is_lifted_only_by_a_new_seed() {
    let stop = Plan::Stop(TerminalReason::LoggedOut);
    let record = logged_out(record(Some("r3")));
    for (seeded, config_name, expected) in [
        (None, "c", stop),
        (Some("s1"), "c", Plan::Stop(TerminalReason::LoggedOut)),
        (Some("s1"), "other", Plan::Stop(TerminalReason::LoggedOut)),
        (Some("s2"), "c", ask("s2", true)),
    ] {
        let (seed, config) = (seed(seeded), config(config_name));
        let sources = sources(Some(&seed), Livelihood::RefreshToken, true, &config);
        assert_eq!(plan(&record, sources, false, NOW), expected, "{seeded:?} {config_name}");
    }
    // What needs no seed has none to be lifted by.
    for (config_name, expected) in [
        ("c", Plan::Stop(TerminalReason::LoggedOut)),
        ("other", Plan::Ask { refresh_token: None, new_seed: None }),
    ] {
        let config = config(config_name);
        let sources = sources(None, Livelihood::Repeatable, false, &config);
        assert_eq!(plan(&record, sources, false, NOW), expected, "{config_name}");
    }
}

/// #24: for a dead grant, for the very first one, and not twice within five minutes.
#[test]
fn where_no_person_is_needed_a_grant_is_begun_anew() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let tried = |refused, record: TokenRecord| TokenRecord {
        bootstrap: Some(Bootstrapped { at: at(1000), refused }),
        ..record
    };
    let later = |seconds| Plan::BootstrapLater(Duration::from_secs(seconds));
    let dead_one = || dead(record(Some("r3")), "r3", "c");
    let mut user_needed = dead_one();
    user_needed.terminal.as_mut().unwrap().reason = TerminalReason::UserNeeded;
    for (case, record, now, expected) in [
        ("the first start", TokenRecord::default(), 1000, Plan::Bootstrap),
        ("a refresh token", record(Some("r3")), 1000, ask("r3", false)),
        ("a dead grant", dead_one(), 1000, Plan::Bootstrap),
        ("it died soon after", tried(false, dead_one()), 1100, later(200)),
        ("it died later", tried(false, dead_one()), 1300, Plan::Bootstrap),
        ("refused", tried(true, TokenRecord::default()), 1001, later(299)),
        ("refused long ago", tried(true, TokenRecord::default()), 1300, Plan::Bootstrap),
        ("refused, by a clock that was set back", tried(true, dead_one()), 999, Plan::Bootstrap),
        (
            "no refresh token came of it",
            tried(false, TokenRecord::default()),
            1001,
            Plan::Bootstrap,
        ),
        ("a person is needed", user_needed, 1000, Plan::Stop(TerminalReason::UserNeeded)),
    ] {
        let config = config("c");
        let sources = sources(None, Livelihood::RefreshToken, true, &config);
        assert_eq!(plan(&record, sources, false, at(now)), expected, "{case}");
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
        let token = Token::of(&record, Margin::Auto, 0.0, moment(UNIX_EPOCH));
        assert_eq!(token.is_some_and(|token| token.is_usable(moment(now))), usable, "{record:?}");
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
        assert_eq!(margin.of(lifetime, lifetime, 0.0), expected, "{margin:?} of {lifetime:?}");
        // Up to a fifth is taken off at random, and not a bit more.
        let fifth = expected.mul_f64(0.8);
        assert_eq!(margin.of(lifetime, lifetime, 1.0), fifth, "{margin:?} of {lifetime:?}");
        assert_eq!(margin.of(lifetime, lifetime, 9.0), fifth, "{margin:?} of {lifetime:?}");
    }
}

#[test]
fn a_token_is_due_from_its_margin_on_and_usable_to_its_end() {
    let at = |seconds| moment(UNIX_EPOCH + Duration::from_secs(seconds));
    let record = TokenRecord {
        access_token: Some(secret("a")),
        issued_at: Some(at(1000).wall),
        expires_at: Some(at(1000 + 3600).wall),
        ..TokenRecord::default()
    };
    for (jitter, due) in [(0.0, 4300), (0.5, 4330), (1.0, 4360)] {
        let token = Token::of(&record, Margin::Auto, jitter, at(1000)).unwrap();
        assert!(!token.is_due(at(due - 1)), "{jitter}");
        assert!(token.is_due(at(due)), "{jitter}");
        assert!(token.is_usable(at(4599)) && !token.is_usable(at(4600)), "{jitter}");
    }
}

#[test]
fn only_a_header_that_could_be_sent_becomes_a_token() {
    let record = |text| TokenRecord { access_token: Some(secret(text)), ..TokenRecord::default() };
    let token = Token::of(&record("abc"), Margin::Auto, 0.0, moment(NOW)).unwrap();
    assert!(token.authorization == "Bearer abc" && token.authorization.is_sensitive());
    assert!(Token::of(&record("a\r\nX: y"), Margin::Auto, 0.0, moment(NOW)).is_none());
    assert!(Token::of(&TokenRecord::default(), Margin::Auto, 0.0, moment(NOW)).is_none());
    assert_eq!(format!("{token:?}"), "Token(generation 0)");
}
