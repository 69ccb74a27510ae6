//! What is never done, for any record.

use proptest::prelude::*;

use super::*;

const TOKENS: [&str; 4] = ["r1", "r2", "r3", "r4"];

fn any_token() -> impl Strategy<Value = Option<Secret>> {
    prop::option::of(prop::sample::select(TOKENS.to_vec()).prop_map(secret))
}

fn any_hashes() -> impl Strategy<Value = Vec<Fingerprint>> {
    prop::sample::subsequence(TOKENS.to_vec(), 0..=2)
        .prop_map(|tokens| tokens.into_iter().map(hash).collect())
}

fn any_terminal() -> impl Strategy<Value = Option<TerminalState>> {
    use TerminalReason::{
        Corrupt, LoggedOut, LostRotation, NoGrant, OtherGrant, Revoked, UserNeeded,
    };
    let reasons = vec![Revoked, LostRotation, UserNeeded, NoGrant, Corrupt, LoggedOut, OtherGrant];
    let configs = vec![hash("c"), hash("other")];
    let parts = (prop::sample::select(reasons), any_token(), prop::sample::select(configs));
    prop::option::of(parts.prop_map(|(reason, token, config)| {
        let refresh_token = token.map(|it| it.fingerprint());
        TerminalState { reason, refresh_token, config, at: at(5) }
    }))
}

fn any_bootstrap() -> impl Strategy<Value = Option<BootstrapHistory>> {
    let near = || (NOW - 700..NOW + 100).prop_map(at);
    let refused = prop_oneof![Just(0), 0..20_u32, Just(u32::MAX)];
    let parts = (near(), prop::option::of(near()), refused);
    prop::option::of(parts.prop_map(|(at, before, refused)| BootstrapHistory {
        at,
        before,
        refused,
    }))
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

fn any_fixture() -> impl Strategy<Value = PlanFixture> {
    let renewal = prop::sample::select(vec![GrantRenewal::RefreshToken, GrantRenewal::Repeatable]);
    (any_token(), renewal, any::<[bool; 2]>()).prop_map(
        |(seed, renewal, [can_bootstrap, bound])| {
            let source = SecretSource::File(PathBuf::from("seed"));
            let seed = Some(Seed { source, value: seed });
            PlanFixture { seed, can_bootstrap, bound, ..PlanFixture::new(renewal) }
        },
    )
}

/// An independent formulation of the rule in the code.
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
    fn no_record_makes_a_refresh_token_go_to_another_server(
        record in any_record(), setting in any_fixture(), is_damaged: bool, is_forced: bool,
        throttled_until in prop::option::of(1..8000_u64),
    ) {
        let quiet_until = throttled_until.map(|it| at(NOW + it));
        let found = next_action(&record, setting.sources(), is_damaged, is_forced, quiet_until, at(NOW));
        let is_refresh = setting.renewal == GrantRenewal::RefreshToken;
        let is_ours = is_ours(&record);
        match &found {
            NextAction::Refresh(token) => {
                prop_assert!(is_refresh && is_ours);
                prop_assert_eq!(Some(token), record.refresh_token.as_ref());
                let is_dead = record.terminal.as_ref().is_some_and(|it| {
                    it.config == hash("c") && it.refresh_token == Some(token.fingerprint())
                });
                prop_assert!(is_forced || !is_dead);
            }
            NextAction::TrySeed(seed) => {
                let hash = seed.fingerprint();
                prop_assert!(is_refresh);
                prop_assert_eq!(setting.seed.as_ref().unwrap().value.as_ref(), Some(seed));
                prop_assert!(!record.history.contains(&hash) && !record.seeds.contains(&hash));
                prop_assert!(!is_ours || record.refresh_token.as_ref() != Some(seed));
            }
            NextAction::UseConfiguredGrant => prop_assert!(!is_refresh),
            NextAction::Bootstrap => {
                prop_assert!(is_refresh && setting.can_bootstrap);
            }
            NextAction::Wait(until, FailureReason::Answer(ErrorClass::Throttled)) => {
                prop_assert!(throttled_until.is_some());
                prop_assert_eq!(*until, at(NOW + throttled_until.unwrap().min(3600)));
            }
            NextAction::Wait(until, FailureReason::BootstrapPause) => {
                prop_assert!(is_refresh && setting.can_bootstrap && !is_forced);
                prop_assert!(*until > at(NOW) && *until <= at(NOW + 300));
            }
            NextAction::Wait(_, why) => prop_assert!(false, "{}", why),
            NextAction::Stop(TerminalReason::LoggedOut) => prop_assert!(record.is_tombstone()),
            NextAction::Stop(TerminalReason::OtherGrant) => {
                prop_assert!(is_refresh && (!is_ours || !setting.can_bootstrap));
            }
            NextAction::Stop(TerminalReason::UserNeeded) => prop_assert!(!is_forced),
            NextAction::Stop(_) => prop_assert!(is_refresh && !setting.can_bootstrap),
        }
        if throttled_until.is_some() && is_ours {
            prop_assert!(matches!(found, NextAction::Wait(..) | NextAction::Stop(_)), "{:?}", found);
        }
    }

    /// Whatever its length, and whatever clock it was written by.
    #[test]
    fn a_pause_ends(record in any_record(), setting in any_fixture(), throttled_until in prop::option::of(1..3600_u64)) {
        let mut now = at(NOW);
        let mut pauses = 0;
        loop {
            let throttled_until = throttled_until.map(|it| at(NOW + it)).filter(|it| *it > now);
            let NextAction::Wait(until, _) = next_action(&record, setting.sources(), false, false, throttled_until, now)
            else {
                break;
            };
            prop_assert!(until > now && pauses < 2);
            (now, pauses) = (until, pauses + 1);
        }
    }

    #[test]
    fn a_usable_access_token_belongs_to_this_configuration(record in any_record(), setting in any_fixture()) {
        if has_usable_access_token(&record, setting.sources()) {
            prop_assert!(is_ours(&record) && !record.is_tombstone());
            let asked = record.issued_for.as_ref().map(|it| &it.request);
            prop_assert!(asked.is_none_or(|it| *it == hash("request of c")));
            let found = setting.next_action(&record);
            prop_assert!(!matches!(found, NextAction::TrySeed(_)), "a seed is on trial");
            prop_assert!(record.access_token.is_none() || record.bound == setting.bound);
        }
    }
}
