//! Creation and expiry of tokens, and what the next token inherits.
#![allow(clippy::unwrap_used)]

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

const DAY: u64 = 86_400;

fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(seconds);
    Moment { wall: UNIX_EPOCH + running, running }
}

fn record(access_token: &str) -> TokenRecord {
    TokenRecord {
        generation: Generation(3),
        access_token: Some(Secret::new(access_token.to_owned())),
        issued_at: Some(at(1000).wall),
        expires_at: Some(at(4600).wall),
        ..TokenRecord::default()
    }
}

fn token(access_token: &str) -> AccessToken {
    AccessToken::from_record(&record(access_token), Margin::Auto, 0.0, at(1000)).unwrap()
}

#[test]
fn only_a_valid_field_value_becomes_a_token() {
    let found = token("abc");
    assert!(found.authorization == "Bearer abc" && found.authorization.is_sensitive());
    assert_eq!(
        (found.access_token(), format!("{found:?}")),
        ("abc", "AccessToken(generation 3)".into())
    );
    for unfit in [record("a\r\nX: y"), TokenRecord::default()] {
        assert!(AccessToken::from_record(&unfit, Margin::Auto, 0.0, at(1000)).is_none());
    }
}

#[test]
fn a_token_is_due_within_its_margin_and_usable_until_it_expires() {
    for (jitter, due) in [(0.0, 4300), (0.5, 4330), (1.0, 4360)] {
        let token =
            AccessToken::from_record(&record("abc"), Margin::Auto, jitter, at(1000)).unwrap();
        assert!(!token.is_due(at(due - 1)) && token.is_due(at(due)), "{jitter}");
        assert!(token.is_usable(at(4599)) && !token.is_usable(at(4600)), "{jitter}");
    }
    let rejected = TokenRecord { rejected: true, ..record("abc") };
    let rejected = AccessToken::from_record(&rejected, Margin::Auto, 0.0, at(1000)).unwrap();
    assert!(!rejected.is_usable(at(1001)) && rejected.is_due(at(1001)));
}

/// For example after a restart.
#[test]
fn a_clock_that_was_set_back_makes_no_token_newer_or_longer_lived() {
    for (set_back, age, left) in [(0, 100, 3500), (100, 0, 3600), (101, 0, 3600)] {
        let now = at(1100 - set_back);
        let token = AccessToken::from_record(&record("abc"), Margin::Auto, 0.0, now).unwrap();
        assert_eq!(token.age(now).as_secs(), age, "{set_back}");
        assert!(token.time_left(now).unwrap().as_secs() <= left + 1, "{set_back}");
    }
    let now = at(500);
    let token = AccessToken::from_record(&record("abc"), Margin::Auto, 0.0, now).unwrap();
    assert_eq!(
        (token.age(now), token.time_left(now)),
        (Duration::MAX, Some(Duration::from_secs(3600)))
    );
    assert!(!token.is_due(at(3799)) && token.is_due(at(3800)) && !token.is_usable(at(4100)));
}

/// A reload creates the token from the same record again.
#[test]
fn a_recreated_token_keeps_its_expiry_although_the_clock_was_set_back() {
    // Stored times have millisecond precision.
    let precise = |at: Option<SystemTime>| at.map(|at| at + Duration::from_nanos(999));
    let stored = record("abc");
    let issued = TokenRecord {
        issued_at: precise(stored.issued_at),
        expires_at: precise(stored.expires_at),
        ..record("abc")
    };
    let mut before = AccessToken::from_record(&issued, Margin::Auto, 0.0, at(1000)).unwrap();
    (before.issued, before.expires) = (Some(at(1000)), Some(at(4600)));
    let now = Moment { wall: at(500).wall, running: at(2000).running };
    let mut again = AccessToken::from_record(&stored, Margin::Auto, 0.0, now).unwrap();
    again.carry_over_from(&before);
    assert_eq!(again.time_left(now), Some(Duration::from_secs(2600)));
    assert_eq!(again.age(now), Duration::from_secs(1000));
}

#[test]
fn only_the_same_token_inherits_usage_and_acceptance() {
    let before = AccessToken { first_generation: Generation(2), ..token("abc") };
    before.mark_used();
    assert!(
        before.record_acceptance(7) && !before.record_acceptance(8),
        "only the first acceptance is reported"
    );
    for (access_token, inherits) in [("abc", true), ("def", false)] {
        let mut next = token(access_token);
        next.carry_over_from(&before);
        let since = if inherits { Generation(2) } else { Generation(3) };
        assert_eq!(
            (next.was_used(), next.was_accepted(), next.first_generation),
            (inherits, inherits, since)
        );
        // The accepted targets are inherited in both cases.
        assert!(next.was_accepted_by(7) && next.was_accepted_by(8) && !next.was_accepted_by(9));
    }
}

/// Hashes of targets, practically random.
fn targets() -> impl Iterator<Item = u64> {
    (1..=u64::MAX).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31))
}

#[test]
fn the_target_filter_knows_accepted_targets_and_has_few_false_positives() {
    let token = token("abc");
    for target in targets().take(100) {
        assert!(token.record_acceptance(target) || token.was_accepted());
    }
    assert!(targets().take(100).all(|target| token.was_accepted_by(target)));
    let wrong = targets().skip(100).take(1000).filter(|it| token.was_accepted_by(*it)).count();
    assert!(wrong < 100, "{wrong} of 1000");
}

/// Otherwise every target would count as accepted after a while.
#[test]
fn a_full_target_filter_is_reset_with_the_next_token() {
    let before = token("abc");
    targets().take(5000).for_each(|target| _ = before.record_acceptance(target));
    let mut next = token("def");
    next.carry_over_from(&before);
    assert!(targets().take(100).all(|target| !next.was_accepted_by(target)));
}

/// As when another process writes the record before it learns of the rejection.
#[test]
fn a_rejected_token_stays_rejected_when_its_record_is_read_again() {
    let before = token("abc");
    before.mark_rejected();
    let extended = TokenRecord { generation: Generation(4), ..record("abc") };
    for (record, is_usable) in [(record("abc"), false), (extended, true), (record("def"), true)] {
        let mut next = AccessToken::from_record(&record, Margin::Auto, 0.0, at(1000)).unwrap();
        next.carry_over_from(&before);
        assert_eq!(next.is_usable(at(1001)), is_usable, "generation {}", record.generation);
    }
}

proptest! {
    #[test]
    fn a_token_is_due_before_it_expires_and_not_before_half_of_its_lifetime(
        lifetime in prop_oneof![0..120_u64, 0..400 * DAY], jitter in 0.0..=1.0,
        share in 0.0..=1.0, age in 0..800 * DAY,
    ) {
        let expires_at = Some(at(1000 + lifetime).wall);
        let record = TokenRecord { expires_at, ..record("abc") };
        let token =
            AccessToken::from_record(&record, Margin::Share(share), jitter, at(1000)).unwrap();
        let now = at(1000 + age);
        prop_assert_eq!(token.is_usable(now), age < lifetime);
        prop_assert!(token.is_due(now) || token.is_usable(now));
        prop_assert!(!token.is_due(now) || age * 2 >= lifetime);
    }

    #[test]
    fn a_token_without_an_expiry_is_usable_until_it_is_rejected(age in 0..8000 * DAY) {
        let record = TokenRecord { expires_at: None, ..record("abc") };
        let token = AccessToken::from_record(&record, Margin::Auto, 0.0, at(1000)).unwrap();
        let now = at(1000 + age);
        prop_assert!(token.is_usable(now) && !token.is_due(now));
        token.mark_rejected();
        prop_assert!(!token.is_usable(now) && token.is_due(now));
    }
}
