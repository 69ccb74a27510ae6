//! What is left to do, as tables, and what is never done whatever a record says.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::secret::SecretSource;
use crate::store::{Bootstrapped, Generation, Terminal};

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
struct Setting {
    seed: Option<Seed>,
    livelihood: Livelihood,
    can_bootstrap: bool,
    config: Fingerprint,
    belonging: Belonging,
    bound: bool,
}

impl Setting {
    fn new(livelihood: Livelihood) -> Self {
        Self {
            seed: None,
            livelihood,
            can_bootstrap: false,
            config: hash("c"),
            belonging: Belonging {
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
        Self { seed: Some(seed), ..Self::new(Livelihood::RefreshToken) }
    }

    fn bootstrapping() -> Self {
        Self { can_bootstrap: true, ..Self::new(Livelihood::RefreshToken) }
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            seed: self.seed.as_ref(),
            livelihood: self.livelihood,
            can_bootstrap: self.can_bootstrap,
            config: &self.config,
            belonging: &self.belonging,
            bound: self.bound,
        }
    }

    fn plan(&self, record: &TokenRecord) -> Plan {
        plan(record, self.sources(), false, false, None, at(NOW))
    }

    fn forced(&self, record: &TokenRecord) -> Plan {
        plan(record, self.sources(), false, true, None, at(NOW))
    }
}

fn unseeded() -> Setting {
    Setting::new(Livelihood::RefreshToken)
}

fn issued_for(grant: &str, request: &str) -> Option<IssuedFor> {
    Some(IssuedFor { grant: hash(grant), request: hash(request) })
}

/// A record whose seed `s1` has become `current`, by way of `r2`, for the configuration `c`.
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

fn ended(reason: TerminalReason, token: Option<&str>, config: &str) -> Option<Terminal> {
    let refresh_token = token.map(hash);
    Some(Terminal { reason, refresh_token, config: hash(config), at: at(5) })
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

fn refresh(token: &str) -> Plan {
    Plan::Refresh(secret(token))
}

fn attempt(seed: &str) -> Plan {
    Plan::Try(secret(seed))
}

#[test]
fn what_is_left_to_do() {
    use TerminalReason::{LostRotation, NoGrant, Revoked};
    let (none, revoked) = (TokenRecord::default, || dead(Revoked, "c"));
    for (case, record, setting, expected) in [
        ("first start", none(), Setting::seeded(Some("s1")), attempt("s1")),
        ("nothing at all", none(), unseeded(), Plan::Stop(NoGrant)),
        ("an empty place", none(), Setting::seeded(None), Plan::Stop(NoGrant)),
        ("the record wins", record(Some("r3")), Setting::seeded(Some("s1")), refresh("r3")),
        ("seed removed", record(Some("r3")), unseeded(), refresh("r3")),
        ("seed emptied", record(Some("r3")), Setting::seeded(None), refresh("r3")),
        ("the current one as seed", record(Some("r3")), Setting::seeded(Some("r3")), refresh("r3")),
        ("a former one as seed", record(Some("r3")), Setting::seeded(Some("r2")), refresh("r3")),
        ("a new seed", record(Some("r3")), Setting::seeded(Some("s2")), attempt("s2")),
        ("only an old seed", record(None), Setting::seeded(Some("s1")), Plan::Stop(NoGrant)),
        ("dead", revoked(), unseeded(), Plan::Stop(Revoked)),
        ("lost", dead(LostRotation, "c"), unseeded(), Plan::Stop(LostRotation)),
        ("dead by its seed", revoked(), Setting::seeded(Some("s1")), Plan::Stop(Revoked)),
        ("dead, a new seed", revoked(), Setting::seeded(Some("s2")), attempt("s2")),
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
        assert_eq!(setting.plan(&record), expected, "{case}");
    }
}

#[test]
fn what_is_left_of_a_damaged_record() {
    let damaged = |setting: &Setting, record: &TokenRecord| {
        plan(record, setting.sources(), true, false, None, at(NOW))
    };
    let (none, corrupt) = (TokenRecord::default(), Plan::Stop(TerminalReason::Corrupt));
    assert_eq!(damaged(&unseeded(), &none), corrupt);
    assert_eq!(damaged(&Setting::seeded(Some("s1")), &none), attempt("s1"));
    assert_eq!(damaged(&Setting::bootstrapping(), &none), Plan::Bootstrap);
    assert_eq!(damaged(&unseeded(), &record(Some("r3"))), refresh("r3"));
}

/// E5: a refresh token is shown to nobody but those whom it is for.
#[test]
fn whose_refresh_token_it_is() {
    let other = Plan::Stop(TerminalReason::OtherGrant);
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
            Plan::Stop(TerminalReason::OtherGrant),
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
            Plan::Stop(TerminalReason::OtherGrant),
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
        let setting = Setting { bound, ..unseeded() };
        assert_eq!(setting.plan(&record), expected, "{case}");
        assert_eq!(setting.forced(&record), expected, "{case}, forced");
        // Another grant is begun anew where that needs nobody.
        let instead = if matches!(expected, Plan::Stop(_)) { Plan::Bootstrap } else { expected };
        let setting = Setting { can_bootstrap: true, ..setting };
        assert_eq!(setting.plan(&record), instead, "{case}, with a bootstrap");
    }
    // The same text can be meant for this server, if an operator says so.
    let record = with(|it| it.issued_for = issued_for("other", "request of c"));
    assert_eq!(Setting::seeded(Some("r3")).plan(&record), attempt("r3"));
}

/// E5, E6: which access tokens may be used.
#[test]
fn which_access_tokens_fit() {
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
        ("a seed on trial", with(|_| {}), Setting::seeded(Some("s2")), false),
        ("an old seed", with(|_| {}), Setting::seeded(Some("s1")), true),
        ("dead, but not over", dead(TerminalReason::Revoked, "c"), unseeded(), true),
        ("logged out", tombstone(), unseeded(), false),
        ("none yet", TokenRecord::default(), Setting { bound: true, ..unseeded() }, true),
        ("not bound", with(|_| {}), Setting { bound: true, ..unseeded() }, false),
        ("bound", with(|it| it.bound = true), Setting { bound: true, ..unseeded() }, true),
        ("bound, and no key is used", with(|it| it.bound = true), unseeded(), false),
    ] {
        assert_eq!(is_fit(&record, setting.sources()), expected, "{case}");
    }
}

#[test]
fn what_needs_nothing_but_the_configuration_is_always_there() {
    let setting = || {
        let seeded = Setting::seeded(Some("s2"));
        Setting { livelihood: Livelihood::Repeatable, can_bootstrap: true, ..seeded }
    };
    for record in [
        TokenRecord::default(),
        record(Some("r3")),
        dead(TerminalReason::Revoked, "c"),
        TokenRecord { issued_for: issued_for("other", "other"), ..record(None) },
        TokenRecord { doubts: 9, ..record(None) },
    ] {
        for damaged in [false, true] {
            let found = plan(&record, setting().sources(), damaged, false, None, at(NOW));
            assert_eq!(found, Plan::Own);
        }
    }
    // There is no seed and no login to lift it by: another configuration does.
    assert_eq!(setting().plan(&tombstone()), Plan::Stop(TerminalReason::LoggedOut));
    assert_eq!(setting().forced(&tombstone()), Plan::Stop(TerminalReason::LoggedOut));
    let other = Setting { config: hash("other"), ..setting() };
    assert_eq!(other.plan(&tombstone()), Plan::Own);
}

/// Neither an old seed nor a bootstrap nor another configuration nor force.
#[test]
fn a_logout_is_lifted_by_a_new_seed_or_where_no_person_is_needed_by_another_configuration() {
    let stop = || Plan::Stop(TerminalReason::LoggedOut);
    for (seed, config, expected) in [
        (None, "c", stop()),
        (Some("s1"), "c", stop()),
        (Some("r2"), "c", stop()),
        (Some("s1"), "other", Plan::Bootstrap),
        (Some("s2"), "c", attempt("s2")),
    ] {
        let setting =
            Setting { can_bootstrap: true, config: hash(config), ..Setting::seeded(seed) };
        assert_eq!(setting.plan(&tombstone()), expected, "{seed:?} {config}");
        assert_eq!(setting.forced(&tombstone()), expected, "{seed:?} {config}, forced");
    }
}

/// E12: an operator gets one attempt, whatever is known.
#[test]
fn what_an_operator_can_have_done() {
    use TerminalReason::{NoGrant, Revoked, UserNeeded};
    for (case, record, setting, expected) in [
        ("dead", dead(Revoked, "c"), unseeded(), refresh("r3")),
        ("dead, and a bootstrap", dead(Revoked, "c"), Setting::bootstrapping(), refresh("r3")),
        ("a person is needed", dead(UserNeeded, "c"), unseeded(), refresh("r3")),
        ("nothing there", TokenRecord::default(), unseeded(), Plan::Stop(NoGrant)),
        (
            "doubtful, and a bootstrap",
            TokenRecord { doubts: 9, ..record(Some("r3")) },
            Setting::bootstrapping(),
            refresh("r3"),
        ),
        (
            "the bootstrap was refused just now",
            TokenRecord { bootstrap: tried(NOW - 1, None, 5), ..TokenRecord::default() },
            Setting::bootstrapping(),
            Plan::Bootstrap,
        ),
        ("a new seed", dead(Revoked, "c"), Setting::seeded(Some("s2")), attempt("s2")),
    ] {
        assert_eq!(setting.forced(&record), expected, "{case}");
    }
}

// ----- a grant is begun anew -----

fn tried(last: u64, before: Option<u64>, refused: u32) -> Option<Bootstrapped> {
    Some(Bootstrapped { at: at(last), before: before.map(at), refused })
}

#[test]
fn where_no_person_is_needed_a_grant_is_begun_anew() {
    use TerminalReason::{LostRotation, Revoked, UserNeeded};
    let setting = Setting::bootstrapping();
    let doubtful = |doubts| TokenRecord { doubts, ..record(Some("r3")) };
    for (case, record, expected) in [
        ("the first start", TokenRecord::default(), Plan::Bootstrap),
        ("a refresh token", record(Some("r3")), refresh("r3")),
        ("revoked", dead(Revoked, "c"), Plan::Bootstrap),
        ("lost", dead(LostRotation, "c"), Plan::Bootstrap),
        ("a person is needed", dead(UserNeeded, "c"), Plan::Stop(UserNeeded)),
        ("two doubts", doubtful(2), refresh("r3")),
        ("three doubts", doubtful(3), Plan::Bootstrap),
        ("logged out", tombstone(), Plan::Stop(TerminalReason::LoggedOut)),
    ] {
        assert_eq!(setting.plan(&record), expected, "{case}");
    }
    let seeded = Setting { can_bootstrap: true, ..Setting::seeded(Some("s1")) };
    assert_eq!(seeded.plan(&TokenRecord::default()), attempt("s1"), "a seed comes first");
}

#[test]
fn when_a_grant_may_be_begun_anew() {
    let setting = Setting::bootstrapping();
    let pause = |until| Plan::Wait(at(until), FailureReason::BootstrapPause);
    let dead_one = || dead(TerminalReason::Revoked, "c");
    let doubtful = || TokenRecord { doubts: 3, ..record(Some("r3")) };
    for (case, record, bootstrap, expected) in [
        ("the first one died at once", dead_one(), tried(NOW, None, 0), Plan::Bootstrap),
        ("the second one, too", dead_one(), tried(NOW, Some(NOW), 0), pause(NOW + 30)),
        ("half a minute later", dead_one(), tried(NOW - 30, Some(NOW - 30), 0), Plan::Bootstrap),
        ("just not yet", dead_one(), tried(NOW - 29, Some(NOW - 599), 0), pause(NOW + 1)),
        ("the one before is long ago", dead_one(), tried(NOW, Some(NOW - 600), 0), Plan::Bootstrap),
        ("no refresh token came", record(None), tried(NOW, Some(NOW), 0), Plan::Bootstrap),
        ("refused", record(None), tried(NOW, None, 1), pause(NOW + 30)),
        ("refused twice", dead_one(), tried(NOW, None, 2), pause(NOW + 60)),
        ("refused often", dead_one(), tried(NOW - 1, None, 5), pause(NOW + 299)),
        ("refused for years", dead_one(), tried(NOW - 1, None, u32::MAX), pause(NOW + 299)),
        ("and now it is time", dead_one(), tried(NOW - 300, None, u32::MAX), Plan::Bootstrap),
        ("doubtful", doubtful(), tried(NOW, None, 1), pause(NOW + 30)),
        // By a clock that was set back: nobody knows how long ago it was.
        ("tried in the future", dead_one(), tried(NOW + 1, Some(NOW), 0), Plan::Bootstrap),
        ("refused in the future", dead_one(), tried(NOW + 1, None, 9), Plan::Bootstrap),
        ("the one before in the future", dead_one(), tried(NOW, Some(NOW + 1), 0), Plan::Bootstrap),
    ] {
        let record = TokenRecord { bootstrap, ..record };
        assert_eq!(setting.plan(&record), expected, "{case}");
    }
}

/// The seconds at which bootstraps are made, one after the other, if each is `refused` or brings something that
/// is dead at once.
fn bootstraps(refused: impl Fn(usize) -> bool) -> Vec<u64> {
    let setting = Setting::bootstrapping();
    let mut record = dead(TerminalReason::Revoked, "c");
    let (mut made, mut second) = (Vec::new(), 0);
    while made.len() < 9 {
        match plan(&record, setting.sources(), false, false, None, at(NOW + second)) {
            Plan::Bootstrap => {
                let before = record.bootstrap.take();
                let so_far = before.as_ref().map_or(0, |it| it.refused);
                record.bootstrap = Some(Bootstrapped {
                    at: at(NOW + second),
                    before: before.map(|it| it.at),
                    refused: if refused(made.len()) { so_far + 1 } else { 0 },
                });
                made.push(second);
            }
            Plan::Wait(until, FailureReason::BootstrapPause) => {
                second = until.duration_since(at(NOW)).unwrap().as_secs();
            }
            other => panic!("{other:?}"),
        }
    }
    made
}

#[test]
fn bootstraps_keep_their_distance() {
    assert_eq!(bootstraps(|_| true), [0, 30, 90, 210, 450, 750, 1050, 1350, 1650]);
    assert_eq!(bootstraps(|_| false), [0, 0, 30, 60, 90, 120, 150, 180, 210]);
    // A success ends the doubling.
    assert_eq!(bootstraps(|it| it != 3), [0, 30, 90, 210, 240, 270, 330, 450, 690]);
}

// ----- a server that wants to be left alone -----

/// E25: also by an operator, a seed or a bootstrap.
#[test]
fn a_server_that_wants_to_be_left_alone_is() {
    let until = |quiet| Plan::Wait(at(quiet), FailureReason::Answer(Class::Throttled));
    let repeatable = Setting::new(Livelihood::Repeatable);
    for (case, record, setting, quiet, expected) in [
        ("a refresh", record(Some("r3")), unseeded(), NOW + 600, until(NOW + 600)),
        ("a seed", record(Some("r3")), Setting::seeded(Some("s2")), NOW + 600, until(NOW + 600)),
        ("a bootstrap", record(None), Setting::bootstrapping(), NOW + 600, until(NOW + 600)),
        ("what can be repeated", record(None), repeatable, NOW + 600, until(NOW + 600)),
        ("for an hour at most", record(Some("r3")), unseeded(), NOW + 99_999, until(NOW + 3600)),
        (
            "nothing is asked anyway",
            dead(TerminalReason::UserNeeded, "other"),
            Setting { config: hash("other"), ..unseeded() },
            NOW + 600,
            Plan::Stop(TerminalReason::UserNeeded),
        ),
    ] {
        let ask =
            |forced| plan(&record, setting.sources(), false, forced, Some(at(quiet)), at(NOW));
        assert_eq!(ask(false), expected, "{case}");
        if matches!(expected, Plan::Wait(..)) {
            assert_eq!(ask(true), expected, "{case}, forced");
        }
    }
}

// ----- whatever a record says -----

const TOKENS: [&str; 4] = ["r1", "r2", "r3", "r4"];

fn any_token() -> impl Strategy<Value = Option<Secret>> {
    prop::option::of(prop::sample::select(TOKENS.to_vec()).prop_map(secret))
}

fn any_hashes() -> impl Strategy<Value = Vec<Fingerprint>> {
    prop::sample::subsequence(TOKENS.to_vec(), 0..=2)
        .prop_map(|tokens| tokens.into_iter().map(hash).collect())
}

fn any_terminal() -> impl Strategy<Value = Option<Terminal>> {
    use TerminalReason::{
        Corrupt, LoggedOut, LostRotation, NoGrant, OtherGrant, Revoked, UserNeeded,
    };
    let reasons = vec![Revoked, LostRotation, UserNeeded, NoGrant, Corrupt, LoggedOut, OtherGrant];
    let configs = vec![hash("c"), hash("other")];
    let parts = (prop::sample::select(reasons), any_token(), prop::sample::select(configs));
    prop::option::of(parts.prop_map(|(reason, token, config)| {
        let refresh_token = token.map(|it| it.fingerprint());
        Terminal { reason, refresh_token, config, at: at(5) }
    }))
}

fn any_bootstrap() -> impl Strategy<Value = Option<Bootstrapped>> {
    let near = || (NOW - 700..NOW + 100).prop_map(at);
    let refused = prop_oneof![Just(0), 0..20_u32, Just(u32::MAX)];
    let parts = (near(), prop::option::of(near()), refused);
    prop::option::of(parts.prop_map(|(at, before, refused)| Bootstrapped { at, before, refused }))
}

fn any_record() -> impl Strategy<Value = TokenRecord> {
    let grants = vec!["grant of c and its user", "grant of c", "other"];
    let request = prop::sample::select(vec!["request of c", "other"]);
    let issued_for = prop::option::of((prop::sample::select(grants), request));
    let worked_with = prop::option::of(prop::sample::select(vec![hash("c"), hash("other")]));
    let past = (any_hashes(), any_hashes());
    let rest = (any_terminal(), 0..5_u32, any_bootstrap(), any::<[bool; 3]>());
    (any_token(), issued_for, worked_with, past, rest).prop_map(
        |(refresh_token, issued_for, worked_with, (history, seeds), rest)| {
            let (terminal, doubts, bootstrap, [has_key, bound, has_access_token]) = rest;
            // A tombstone has no refresh token.
            let is_logged_out =
                terminal.as_ref().is_some_and(|it| it.reason == TerminalReason::LoggedOut);
            TokenRecord {
                access_token: has_access_token.then(|| secret("a")),
                refresh_token: refresh_token.filter(|_| !is_logged_out),
                issued_for: issued_for.map(|(grant, request)| IssuedFor {
                    grant: hash(grant),
                    request: hash(request),
                }),
                worked_with,
                history: history.into_iter().collect(),
                seeds: seeds.into_iter().collect(),
                terminal,
                doubts,
                bootstrap,
                dpop_key: has_key.then(|| secret("key")),
                bound,
                ..TokenRecord::default()
            }
        },
    )
}

fn any_setting() -> impl Strategy<Value = Setting> {
    let livelihood = prop::sample::select(vec![Livelihood::RefreshToken, Livelihood::Repeatable]);
    (any_token(), livelihood, any::<[bool; 2]>()).prop_map(
        |(seed, livelihood, [can_bootstrap, bound])| {
            let source = SecretSource::File(PathBuf::from("seed"));
            let seed = Some(Seed { source, value: seed });
            Setting { seed, can_bootstrap, bound, ..Setting::new(livelihood) }
        },
    )
}

/// Said in another way than the code does.
fn is_ours(record: &TokenRecord) -> bool {
    match (&record.issued_for, &record.worked_with) {
        (Some(it), _) => {
            it.grant == hash("grant of c and its user") || it.grant == hash("grant of c")
        }
        (None, said) => *said != Some(hash("other")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_a_record_says_nothing_is_shown_to_whom_it_is_not_for(
        record in any_record(), setting in any_setting(), damaged: bool, forced: bool,
        quiet in prop::option::of(1..8000_u64),
    ) {
        let quiet_until = quiet.map(|it| at(NOW + it));
        let found = plan(&record, setting.sources(), damaged, forced, quiet_until, at(NOW));
        let is_refresh = setting.livelihood == Livelihood::RefreshToken;
        let is_ours = is_ours(&record);
        match &found {
            Plan::Refresh(token) => {
                prop_assert!(is_refresh && is_ours);
                prop_assert_eq!(Some(token), record.refresh_token.as_ref());
                let is_dead = record.terminal.as_ref().is_some_and(|it| {
                    it.config == hash("c") && it.refresh_token == Some(token.fingerprint())
                });
                prop_assert!(forced || !is_dead);
            }
            Plan::Try(seed) => {
                let hash = seed.fingerprint();
                prop_assert!(is_refresh);
                prop_assert_eq!(setting.seed.as_ref().unwrap().value.as_ref(), Some(seed));
                prop_assert!(!record.history.contains(&hash) && !record.seeds.contains(&hash));
                prop_assert!(!is_ours || record.refresh_token.as_ref() != Some(seed));
            }
            Plan::Own => prop_assert!(!is_refresh),
            Plan::Bootstrap => {
                prop_assert!(is_refresh && setting.can_bootstrap);
            }
            Plan::Wait(until, FailureReason::Answer(Class::Throttled)) => {
                prop_assert!(quiet.is_some());
                prop_assert_eq!(*until, at(NOW + quiet.unwrap().min(3600)));
            }
            Plan::Wait(until, FailureReason::BootstrapPause) => {
                prop_assert!(is_refresh && setting.can_bootstrap && !forced);
                prop_assert!(*until > at(NOW) && *until <= at(NOW + 300));
            }
            Plan::Wait(_, why) => prop_assert!(false, "{}", why),
            Plan::Stop(TerminalReason::LoggedOut) => prop_assert!(record.is_tombstone()),
            Plan::Stop(TerminalReason::OtherGrant) => {
                prop_assert!(is_refresh && (!is_ours || !setting.can_bootstrap));
            }
            Plan::Stop(TerminalReason::UserNeeded) => prop_assert!(!forced),
            Plan::Stop(_) => prop_assert!(is_refresh && !setting.can_bootstrap),
        }
        if quiet.is_some() && is_ours {
            prop_assert!(matches!(found, Plan::Wait(..) | Plan::Stop(_)), "{:?}", found);
        }
    }

    /// However long, and whatever clock it was written by.
    #[test]
    fn a_pause_ends(record in any_record(), setting in any_setting(), quiet in prop::option::of(1..3600_u64)) {
        let mut now = at(NOW);
        let mut pauses = 0;
        loop {
            let quiet = quiet.map(|it| at(NOW + it)).filter(|it| *it > now);
            let Plan::Wait(until, _) = plan(&record, setting.sources(), false, false, quiet, now)
            else {
                break;
            };
            prop_assert!(until > now && pauses < 2);
            (now, pauses) = (until, pauses + 1);
        }
    }

    #[test]
    fn what_fits_is_for_this_configuration(record in any_record(), setting in any_setting()) {
        if is_fit(&record, setting.sources()) {
            prop_assert!(is_ours(&record) && !record.is_tombstone());
            let asked = record.issued_for.as_ref().map(|it| &it.request);
            prop_assert!(asked.is_none_or(|it| *it == hash("request of c")));
            let found = setting.plan(&record);
            prop_assert!(!matches!(found, Plan::Try(_)), "a seed is on trial");
            prop_assert!(record.access_token.is_none() || record.bound == setting.bound);
        }
    }
}
