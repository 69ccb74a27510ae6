//! The next action, as tables.
#![allow(clippy::unwrap_used)]

#[path = "tests/bootstrap.rs"]
mod bootstrap;
#[path = "tests/properties.rs"]
mod properties;

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::*;
use crate::secret::SecretSource;
use crate::store::{BootstrapHistory, Generation, TerminalState};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn hash(text: &str) -> Fingerprint {
    Fingerprint::of(text.as_bytes())
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const NOW: u64 = 100_000;

/// A configuration named `c` without a seed.
#[derive(Debug)]
struct PlanFixture {
    seed: Option<Seed>,
    renewal: GrantRenewal,
    can_bootstrap: bool,
    config: Fingerprint,
    identity: GrantIdentity,
    bound: bool,
}

impl PlanFixture {
    fn new(renewal: GrantRenewal) -> Self {
        Self {
            seed: None,
            renewal,
            can_bootstrap: false,
            config: hash("c"),
            identity: GrantIdentity {
                grant: hash("grant of c and its user"),
                grant_without_bootstrap: hash("grant of c"),
                request: hash("request of c"),
            },
            bound: false,
        }
    }

    fn seeded(seed: Option<&str>) -> Self {
        let source = SecretSource::File(PathBuf::from("seed"));
        let seed = Seed { source, value: seed.map(secret) };
        Self { seed: Some(seed), ..Self::new(GrantRenewal::RefreshToken) }
    }

    fn bootstrapping() -> Self {
        Self { can_bootstrap: true, ..Self::new(GrantRenewal::RefreshToken) }
    }

    fn sources(&self) -> GrantSources<'_> {
        GrantSources {
            seed: self.seed.as_ref(),
            renewal: self.renewal,
            can_bootstrap: self.can_bootstrap,
            config: &self.config,
            identity: &self.identity,
            bound: self.bound,
        }
    }

    fn next_action(&self, record: &TokenRecord) -> NextAction {
        next_action(record, self.sources(), false, false, None, at(NOW))
    }

    fn forced_action(&self, record: &TokenRecord) -> NextAction {
        next_action(record, self.sources(), false, true, None, at(NOW))
    }
}

fn unseeded() -> PlanFixture {
    PlanFixture::new(GrantRenewal::RefreshToken)
}

fn issued_for(grant: &str, request: &str) -> Option<IssuedFor> {
    Some(IssuedFor { grant: hash(grant), request: hash(request) })
}

/// A record of the configuration `c` whose refresh token went from the seed `s1` over `r2` to `current`.
fn record(current: Option<&str>) -> TokenRecord {
    TokenRecord {
        generation: Generation(3),
        access_token: Some(secret("a3")),
        refresh_token: current.map(secret),
        issued_for: issued_for("grant of c and its user", "request of c"),
        history: [hash("r2"), hash("s1")].into_iter().collect(),
        seeds: [hash("s1")].into_iter().collect(),
        ..TokenRecord::default()
    }
}

fn ended(reason: TerminalReason, token: Option<&str>, config: &str) -> Option<TerminalState> {
    let refresh_token = token.map(hash);
    Some(TerminalState { reason, refresh_token, config: hash(config), at: at(5) })
}

fn dead(reason: TerminalReason, with: &str) -> TokenRecord {
    TokenRecord { terminal: ended(reason, Some("r3"), with), ..record(Some("r3")) }
}

fn tombstone() -> TokenRecord {
    TokenRecord {
        access_token: None,
        issued_for: None,
        terminal: ended(TerminalReason::LoggedOut, None, "c"),
        ..record(None)
    }
}

fn tried(last: u64, before: Option<u64>, refused: u32) -> Option<BootstrapHistory> {
    Some(BootstrapHistory { at: at(last), before: before.map(at), refused })
}

fn refresh(token: &str) -> NextAction {
    NextAction::Refresh(secret(token))
}

fn attempt(seed: &str) -> NextAction {
    NextAction::TrySeed(secret(seed))
}

#[test]
fn the_next_action_depends_on_record_and_configuration() {
    use TerminalReason::{LostRotation, NoGrant, Revoked};
    let (none, revoked) = (TokenRecord::default, || dead(Revoked, "c"));
    for (case, record, setting, expected) in [
        ("first start", none(), PlanFixture::seeded(Some("s1")), attempt("s1")),
        ("nothing at all", none(), unseeded(), NextAction::Stop(NoGrant)),
        ("an empty place", none(), PlanFixture::seeded(None), NextAction::Stop(NoGrant)),
        ("the record wins", record(Some("r3")), PlanFixture::seeded(Some("s1")), refresh("r3")),
        ("seed removed", record(Some("r3")), unseeded(), refresh("r3")),
        ("seed emptied", record(Some("r3")), PlanFixture::seeded(None), refresh("r3")),
        (
            "the current one as seed",
            record(Some("r3")),
            PlanFixture::seeded(Some("r3")),
            refresh("r3"),
        ),
        (
            "a former one as seed",
            record(Some("r3")),
            PlanFixture::seeded(Some("r2")),
            refresh("r3"),
        ),
        ("a new seed", record(Some("r3")), PlanFixture::seeded(Some("s2")), attempt("s2")),
        (
            "only an old seed",
            record(None),
            PlanFixture::seeded(Some("s1")),
            NextAction::Stop(NoGrant),
        ),
        ("dead", revoked(), unseeded(), NextAction::Stop(Revoked)),
        ("lost", dead(LostRotation, "c"), unseeded(), NextAction::Stop(LostRotation)),
        ("dead by its seed", revoked(), PlanFixture::seeded(Some("s1")), NextAction::Stop(Revoked)),
        ("dead, a new seed", revoked(), PlanFixture::seeded(Some("s2")), attempt("s2")),
        ("dead for another configuration", dead(Revoked, "other"), unseeded(), refresh("r3")),
        (
            "another one is dead",
            TokenRecord { terminal: ended(Revoked, Some("r2"), "c"), ..record(Some("r3")) },
            unseeded(),
            refresh("r3"),
        ),
        (
            "doubtful, and nothing better",
            TokenRecord { doubts: 99, ..record(Some("r3")) },
            unseeded(),
            refresh("r3"),
        ),
    ] {
        assert_eq!(setting.next_action(&record), expected, "{case}");
    }
}

#[test]
fn a_damaged_record_needs_a_login_or_a_new_grant() {
    let is_damaged = |setting: &PlanFixture, record: &TokenRecord| {
        next_action(record, setting.sources(), true, false, None, at(NOW))
    };
    let (none, corrupt) = (TokenRecord::default(), NextAction::Stop(TerminalReason::Corrupt));
    assert_eq!(is_damaged(&unseeded(), &none), corrupt);
    assert_eq!(is_damaged(&PlanFixture::seeded(Some("s1")), &none), attempt("s1"));
    assert_eq!(is_damaged(&PlanFixture::bootstrapping(), &none), NextAction::Bootstrap);
    assert_eq!(is_damaged(&unseeded(), &record(Some("r3"))), refresh("r3"));
}

/// E5.
#[test]
fn a_refresh_token_is_presented_only_to_its_own_server() {
    let other = NextAction::Stop(TerminalReason::OtherGrant);
    let with = |alter: fn(&mut TokenRecord)| {
        let mut record = record(Some("r3"));
        alter(&mut record);
        record
    };
    for (case, record, bound, expected) in [
        ("ours", with(|_| {}), false, refresh("r3")),
        (
            "begun by a person",
            with(|it| it.issued_for = issued_for("grant of c", "request of c")),
            false,
            refresh("r3"),
        ),
        (
            "asked for something else",
            with(|it| it.issued_for = issued_for("grant of c", "other")),
            false,
            refresh("r3"),
        ),
        (
            "another grant",
            with(|it| it.issued_for = issued_for("other", "request of c")),
            false,
            other,
        ),
        (
            "another grant, whatever an old bearerd said",
            with(|it| {
                it.issued_for = issued_for("other", "request of c");
                it.worked_with = Some(hash("c"));
            }),
            false,
            NextAction::Stop(TerminalReason::OtherGrant),
        ),
        ("nobody said", with(|it| it.issued_for = None), false, refresh("r3")),
        (
            "an old bearerd said it is ours",
            with(|it| {
                it.issued_for = None;
                it.worked_with = Some(hash("c"));
            }),
            false,
            refresh("r3"),
        ),
        (
            "an old bearerd said it is not",
            with(|it| {
                it.issued_for = None;
                it.worked_with = Some(hash("other"));
            }),
            false,
            NextAction::Stop(TerminalReason::OtherGrant),
        ),
        (
            "bound to a key that is not used",
            with(|it| it.dpop_key = Some(secret("key"))),
            false,
            refresh("r3"),
        ),
        ("bound to a key", with(|it| it.dpop_key = Some(secret("key"))), true, refresh("r3")),
        ("not bound yet", with(|_| {}), true, refresh("r3")),
    ] {
        let setting = PlanFixture { bound, ..unseeded() };
        assert_eq!(setting.next_action(&record), expected, "{case}");
        assert_eq!(setting.forced_action(&record), expected, "{case}, forced");
        // A bootstrap replaces a grant of another configuration.
        let instead =
            if matches!(expected, NextAction::Stop(_)) { NextAction::Bootstrap } else { expected };
        let setting = PlanFixture { can_bootstrap: true, ..setting };
        assert_eq!(setting.next_action(&record), instead, "{case}, with a bootstrap");
    }
    // The same token can belong to this server if an operator configures it as a seed.
    let record = with(|it| it.issued_for = issued_for("other", "request of c"));
    assert_eq!(PlanFixture::seeded(Some("r3")).next_action(&record), attempt("r3"));
}

/// E5, E6.
#[test]
fn an_access_token_is_used_only_for_its_own_request() {
    let with = |alter: fn(&mut TokenRecord)| {
        let mut record = record(Some("r3"));
        alter(&mut record);
        record
    };
    for (case, record, setting, expected) in [
        ("ours", with(|_| {}), unseeded(), true),
        ("nobody said", with(|it| it.issued_for = None), unseeded(), true),
        (
            "another scope",
            with(|it| it.issued_for = issued_for("grant of c", "other")),
            unseeded(),
            false,
        ),
        (
            "another grant",
            with(|it| it.issued_for = issued_for("other", "request of c")),
            unseeded(),
            false,
        ),
        ("a seed on trial", with(|_| {}), PlanFixture::seeded(Some("s2")), false),
        ("an old seed", with(|_| {}), PlanFixture::seeded(Some("s1")), true),
        ("dead, but not over", dead(TerminalReason::Revoked, "c"), unseeded(), true),
        ("logged out", tombstone(), unseeded(), false),
        ("none yet", TokenRecord::default(), PlanFixture { bound: true, ..unseeded() }, true),
        ("not bound", with(|_| {}), PlanFixture { bound: true, ..unseeded() }, false),
        ("bound", with(|it| it.bound = true), PlanFixture { bound: true, ..unseeded() }, true),
        ("bound, and no key is used", with(|it| it.bound = true), unseeded(), false),
    ] {
        assert_eq!(has_usable_access_token(&record, setting.sources()), expected, "{case}");
    }
}

#[test]
fn a_repeatable_grant_can_always_be_used() {
    let setting = || {
        let seeded = PlanFixture::seeded(Some("s2"));
        PlanFixture { renewal: GrantRenewal::Repeatable, can_bootstrap: true, ..seeded }
    };
    for record in [
        TokenRecord::default(),
        record(Some("r3")),
        dead(TerminalReason::Revoked, "c"),
        TokenRecord { issued_for: issued_for("other", "other"), ..record(None) },
        TokenRecord { doubts: 9, ..record(None) },
    ] {
        for is_damaged in [false, true] {
            let found = next_action(&record, setting().sources(), is_damaged, false, None, at(NOW));
            assert_eq!(found, NextAction::UseConfiguredGrant);
        }
    }
    // There is neither seed nor login, so that a changed configuration ends the logout.
    assert_eq!(setting().next_action(&tombstone()), NextAction::Stop(TerminalReason::LoggedOut));
    assert_eq!(setting().forced_action(&tombstone()), NextAction::Stop(TerminalReason::LoggedOut));
    let other = PlanFixture { config: hash("other"), ..setting() };
    assert_eq!(other.next_action(&tombstone()), NextAction::UseConfiguredGrant);
}

/// An old seed, a bootstrap, another configuration or a forced attempt does not end it.
#[test]
fn a_logout_ends_with_a_new_seed_or_with_another_configuration_if_no_person_is_needed() {
    let stop = || NextAction::Stop(TerminalReason::LoggedOut);
    for (seed, config, expected) in [
        (None, "c", stop()),
        (Some("s1"), "c", stop()),
        (Some("r2"), "c", stop()),
        (Some("s1"), "other", NextAction::Bootstrap),
        (Some("s2"), "c", attempt("s2")),
    ] {
        let setting =
            PlanFixture { can_bootstrap: true, config: hash(config), ..PlanFixture::seeded(seed) };
        assert_eq!(setting.next_action(&tombstone()), expected, "{seed:?} {config}");
        assert_eq!(setting.forced_action(&tombstone()), expected, "{seed:?} {config}, forced");
    }
}

/// E12.
#[test]
fn an_operator_can_force_one_attempt() {
    use TerminalReason::{NoGrant, Revoked, UserNeeded};
    for (case, record, setting, expected) in [
        ("dead", dead(Revoked, "c"), unseeded(), refresh("r3")),
        ("dead, and a bootstrap", dead(Revoked, "c"), PlanFixture::bootstrapping(), refresh("r3")),
        ("a person is needed", dead(UserNeeded, "c"), unseeded(), refresh("r3")),
        ("nothing there", TokenRecord::default(), unseeded(), NextAction::Stop(NoGrant)),
        (
            "doubtful, and a bootstrap",
            TokenRecord { doubts: 9, ..record(Some("r3")) },
            PlanFixture::bootstrapping(),
            refresh("r3"),
        ),
        (
            "the bootstrap was refused just now",
            TokenRecord { bootstrap: tried(NOW - 1, None, 5), ..TokenRecord::default() },
            PlanFixture::bootstrapping(),
            NextAction::Bootstrap,
        ),
        ("a new seed", dead(Revoked, "c"), PlanFixture::seeded(Some("s2")), attempt("s2")),
    ] {
        assert_eq!(setting.forced_action(&record), expected, "{case}");
    }
}

// ----- Retry-After -----

/// E25: it applies to operators, seeds and bootstraps as well.
#[test]
fn retry_after_applies_to_every_action() {
    let until = |throttled_until| {
        NextAction::Wait(at(throttled_until), FailureReason::Answer(ErrorClass::Throttled))
    };
    let repeatable = PlanFixture::new(GrantRenewal::Repeatable);
    for (case, record, setting, throttled_until, expected) in [
        ("a refresh", record(Some("r3")), unseeded(), NOW + 600, until(NOW + 600)),
        (
            "a seed",
            record(Some("r3")),
            PlanFixture::seeded(Some("s2")),
            NOW + 600,
            until(NOW + 600),
        ),
        ("a bootstrap", record(None), PlanFixture::bootstrapping(), NOW + 600, until(NOW + 600)),
        ("what can be repeated", record(None), repeatable, NOW + 600, until(NOW + 600)),
        ("for an hour at most", record(Some("r3")), unseeded(), NOW + 99_999, until(NOW + 3600)),
        (
            "nothing is asked anyway",
            dead(TerminalReason::UserNeeded, "other"),
            PlanFixture { config: hash("other"), ..unseeded() },
            NOW + 600,
            NextAction::Stop(TerminalReason::UserNeeded),
        ),
    ] {
        let ask = |is_forced| {
            next_action(
                &record,
                setting.sources(),
                false,
                is_forced,
                Some(at(throttled_until)),
                at(NOW),
            )
        };
        assert_eq!(ask(false), expected, "{case}");
        if matches!(expected, NextAction::Wait(..)) {
            assert_eq!(ask(true), expected, "{case}, forced");
        }
    }
}
