//! How responses change records.
#![allow(clippy::unwrap_used)]

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::oauth::TokenType;
use crate::secret::Fingerprint;
use crate::store::{Attempt, Generation, NotBefore, TerminalReason, TerminalState};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn hash(text: &str) -> Fingerprint {
    Fingerprint::of(text.as_bytes())
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn issued_for(request: &str) -> IssuedFor {
    IssuedFor { grant: hash("grant"), request: hash(request) }
}

/// Generation 3, issued at 1000 for an hour, by `rt2`; `rt3` is being presented.
fn old() -> TokenRecord {
    TokenRecord {
        generation: Generation(3),
        access_token: Some(secret("at3")),
        issued_at: Some(at(1000)),
        expires_at: Some(at(4600)),
        refresh_token: Some(secret("rt3")),
        issued_for: Some(issued_for("request")),
        parent: Some(hash("rt2")),
        history: [hash("rt2")].into_iter().collect(),
        seeds: [hash("rt1")].into_iter().collect(),
        attempt: Some(Attempt {
            refresh_token: hash("rt3"),
            first: at(4400),
            last: at(4400),
            count: 1,
            by: "lease".to_owned(),
        }),
        raw: [("url".to_owned(), secret("u3")), ("kept".to_owned(), secret("k3"))].into(),
        ..TokenRecord::default()
    }
}

fn answer(access_token: Option<&str>, refresh_token: Option<&str>) -> TokenResponse {
    TokenResponse {
        access_token: access_token.map(secret),
        token_type: TokenType::default(),
        refresh_token: refresh_token.map(secret),
        expires_at: Some(at(4400 + 3600)),
        refresh_expires_at: None,
        grant_expires_at: None,
        raw: [("url".to_owned(), secret("u4"))].into(),
        dpop_nonce: None,
        notes: Vec::new(),
    }
}

/// A refresh in the background, 200 s before the old token expires.
fn context(presented: PresentedGrant<'_>) -> ResponseContext<'_> {
    ResponseContext {
        presented,
        asked_at: at(4400),
        lifetime: None,
        rotation: Rotation::Auto,
        issued_for: issued_for("request"),
        bound: false,
    }
}

#[test]
fn a_success_updates_every_field() {
    let troubled = TokenRecord {
        rejected: true,
        worked_with: Some(hash("config")),
        not_before: Some(NotBefore {
            at: at(4300),
            said: at(4240),
            why: "throttled".to_owned(),
            grant: Fingerprint::of(b"grant"),
        }),
        doubts: 2,
        terminal: Some(TerminalState {
            reason: TerminalReason::Revoked,
            refresh_token: Some(hash("rt3")),
            config: hash("config"),
            at: at(4000),
        }),
        unread: Some(secret("?")),
        ..old()
    };
    let expected = TokenRecord {
        generation: Generation(4),
        access_token: Some(secret("at4")),
        issued_at: Some(at(4400)),
        expires_at: Some(at(8000)),
        refresh_token: Some(secret("rt4")),
        issued_for: Some(issued_for("request")),
        parent: Some(hash("rt3")),
        history: [hash("rt3"), hash("rt2")].into_iter().collect(),
        seeds: [hash("rt1")].into_iter().collect(),
        raw: [("url".to_owned(), secret("u4")), ("kept".to_owned(), secret("k3"))].into(),
        ..TokenRecord::default()
    };
    for before in [old(), troubled] {
        let context = context(PresentedGrant::RefreshToken(before.refresh_token.as_ref().unwrap()));
        let record = apply_response(&before, &answer(Some("at4"), Some("rt4")), &context).unwrap();
        assert_eq!(record, expected);
    }
}

/// After an unusable response, or before the steps. The previous access token stays.
#[test]
fn a_refresh_token_alone_leaves_the_access_token() {
    let (old, current) = (TokenRecord { rejected: true, ..old() }, secret("rt3"));
    let record = apply_refresh_token(
        &old,
        Some(secret("rt4")),
        &context(PresentedGrant::RefreshToken(&current)),
    );
    let expected = TokenRecord {
        generation: Generation(4),
        refresh_token: Some(secret("rt4")),
        parent: Some(hash("rt3")),
        history: [hash("rt3"), hash("rt2")].into_iter().collect(),
        attempt: None,
        ..old.clone()
    };
    assert_eq!(record, expected);
    // The response could not be read: the presented token stays, in case the server does not rotate.
    let record = apply_refresh_token(&old, None, &context(PresentedGrant::RefreshToken(&current)));
    assert_eq!((record.refresh_token, record.parent), (Some(secret("rt3")), Some(hash("rt3"))));
}

#[test]
fn which_refresh_token_is_kept() {
    use Rotation::{Auto, Ignore, Require};
    let (current, seed) = (secret("rt3"), secret("s2"));
    let (refreshed, seeded) = (PresentedGrant::RefreshToken(&current), PresentedGrant::Seed(&seed));
    let begun = PresentedGrant::NewGrant;
    for (rotation, presented, answered, kept) in [
        (Auto, refreshed, Some("rt4"), Ok(Some("rt4"))),
        (Auto, refreshed, Some("rt3"), Ok(Some("rt3"))),
        (Auto, refreshed, None, Ok(Some("rt3"))),
        // A superseded token is ignored.
        (Auto, refreshed, Some("rt2"), Ok(Some("rt3"))),
        (Auto, seeded, Some("rt4"), Ok(Some("rt4"))),
        (Auto, seeded, None, Ok(Some("s2"))),
        (Auto, begun, Some("rt4"), Ok(Some("rt4"))),
        // Some servers issue an earlier token again.
        (Auto, begun, Some("rt3"), Ok(Some("rt3"))),
        (Auto, begun, Some("rt2"), Ok(Some("rt2"))),
        (Auto, begun, None, Ok(None)),
        (Auto, PresentedGrant::Configured, Some("rt4"), Ok(None)),
        (Ignore, refreshed, Some("rt4"), Ok(Some("rt3"))),
        (Ignore, refreshed, None, Ok(Some("rt3"))),
        (Ignore, seeded, Some("rt4"), Ok(Some("s2"))),
        // The first token of a new grant.
        (Ignore, begun, Some("rt4"), Ok(Some("rt4"))),
        (Require, refreshed, Some("rt4"), Ok(Some("rt4"))),
        (Require, refreshed, Some("rt3"), Err(ResponseDefect::NotRotated)),
        (Require, refreshed, None, Err(ResponseDefect::NotRotated)),
        (Require, seeded, None, Err(ResponseDefect::NotRotated)),
        (Require, seeded, Some("rt4"), Ok(Some("rt4"))),
        (Require, begun, None, Ok(None)),
        (Require, PresentedGrant::Configured, None, Ok(None)),
    ] {
        let context = ResponseContext { rotation, ..context(presented) };
        let record = apply_response(&old(), &answer(Some("at4"), answered), &context);
        let found = record.map(|record| record.refresh_token);
        assert_eq!(found, kept.map(|it| it.map(secret)), "{rotation:?} {presented:?} {answered:?}");
    }
}

#[test]
fn a_response_without_an_access_token_extends_the_old_one() {
    let current = secret("rt3");
    let context = context(PresentedGrant::RefreshToken(&current));
    let record = apply_response(&old(), &answer(None, None), &context).unwrap();
    assert_eq!(record.access_token, Some(secret("at3")));
    assert_eq!((record.issued_at, record.expires_at), (Some(at(4400)), Some(at(8000))));
    assert_eq!(record.generation, Generation(4));
    // The configured lifetime starts again as well.
    let silent = TokenResponse { expires_at: None, ..answer(None, None) };
    let by_config = ResponseContext { lifetime: Some(Duration::from_secs(60)), ..context.clone() };
    assert_eq!(apply_response(&old(), &silent, &by_config).unwrap().expires_at, Some(at(4460)));

    let nothing = TokenRecord { access_token: None, ..old() };
    assert_eq!(
        apply_response(&nothing, &answer(None, None), &context),
        Err(ResponseDefect::NothingToExtend)
    );
    // The access token of another grant or scope is discarded and not extended.
    let begun = ResponseContext { presented: PresentedGrant::NewGrant, ..context.clone() };
    assert_eq!(
        apply_response(&old(), &answer(None, Some("rt4")), &begun),
        Err(ResponseDefect::NothingToExtend)
    );
    let other = ResponseContext { issued_for: issued_for("other"), ..context };
    assert_eq!(
        apply_response(&old(), &answer(None, None), &other),
        Err(ResponseDefect::NothingToExtend)
    );
}

/// Reltio issues the same token until it expires.
#[test]
fn an_access_token_that_is_issued_again_keeps_its_expiry() {
    let current = secret("rt3");
    for (access_token, said, lifetime, expected) in [
        ("at3", Some(4600), None, Some(4600)),
        ("at3", Some(8000), None, Some(8000)),
        ("at3", None, None, Some(4600)),
        ("at3", None, Some(60), Some(4600)),
        ("at4", None, None, None),
        ("at4", None, Some(60), Some(4460)),
        ("at4", Some(8000), Some(60), Some(8000)),
    ] {
        let response =
            TokenResponse { expires_at: said.map(at), ..answer(Some(access_token), Some("rt4")) };
        let lifetime = lifetime.map(Duration::from_secs);
        let context =
            ResponseContext { lifetime, ..context(PresentedGrant::RefreshToken(&current)) };
        let record = apply_response(&old(), &response, &context).unwrap();
        assert_eq!(record.expires_at, expected.map(at), "{access_token} {said:?} {lifetime:?}");
        assert_eq!(record.issued_at, Some(at(4400)), "it was used all the same");
    }
}

#[test]
fn expiries_of_refresh_token_and_grant_change_only_with_them() {
    let (current, seed) = (secret("rt3"), secret("s2"));
    let (refreshed, seeded) = (PresentedGrant::RefreshToken(&current), PresentedGrant::Seed(&seed));
    let old = TokenRecord {
        refresh_expires_at: Some(at(9000)),
        grant_expires_at: Some(at(90_000)),
        ..old()
    };
    for (presented, refresh_token, said, token_ends, grant_ends) in [
        (refreshed, None, None, Some(9000), Some(90_000)),
        (refreshed, Some("rt3"), None, Some(9000), Some(90_000)),
        (refreshed, Some("rt4"), None, None, Some(90_000)),
        (refreshed, Some("rt4"), Some(20_000), Some(20_000), Some(20_000)),
        (refreshed, None, Some(20_000), Some(20_000), Some(20_000)),
        (seeded, None, None, None, None),
        (seeded, Some("rt4"), Some(20_000), Some(20_000), Some(20_000)),
        (PresentedGrant::NewGrant, Some("rt4"), None, None, None),
        (PresentedGrant::NewGrant, None, None, None, None),
    ] {
        let answer = TokenResponse {
            refresh_expires_at: said.map(at),
            grant_expires_at: said.map(at),
            ..answer(Some("a"), refresh_token)
        };
        let record = apply_response(&old, &answer, &context(presented)).unwrap();
        let found = (record.refresh_expires_at, record.grant_expires_at);
        let expected = (token_ends.map(at), grant_ends.map(at));
        assert_eq!(found, expected, "{presented:?} {refresh_token:?} {said:?}");
    }
}

/// A seed, a login or a bootstrap. The previous refresh token is kept in the history.
#[test]
fn a_new_grant_replaces_the_previous_one() {
    let seed = secret("s2");
    for (presented, parent, history, seeds) in [
        (
            PresentedGrant::Seed(&seed),
            Some(hash("s2")),
            vec![hash("s2"), hash("rt3"), hash("rt2")],
            vec![hash("s2"), hash("rt1")],
        ),
        (PresentedGrant::NewGrant, None, vec![hash("rt3"), hash("rt2")], vec![hash("rt1")]),
    ] {
        let response = TokenResponse { raw: [].into(), ..answer(Some("at4"), Some("rt4")) };
        let record = apply_response(&old(), &response, &context(presented)).unwrap();
        let expected = TokenRecord {
            generation: Generation(4),
            access_token: Some(secret("at4")),
            issued_at: Some(at(4400)),
            expires_at: Some(at(8000)),
            refresh_token: Some(secret("rt4")),
            issued_for: Some(issued_for("request")),
            parent,
            history: history.into_iter().collect(),
            seeds: seeds.into_iter().collect(),
            ..TokenRecord::default()
        };
        assert_eq!(record, expected, "{presented:?}");
        // Without a new access token there is none.
        let record = apply_refresh_token(&old(), Some(secret("rt4")), &context(presented));
        assert_eq!((record.access_token, record.expires_at), (None, None), "{presented:?}");
    }
}

/// E6.
#[test]
fn a_token_for_another_request_keeps_nothing_of_the_old_one() {
    let current = secret("rt3");
    let (refreshed, own) = (PresentedGrant::RefreshToken(&current), PresentedGrant::Configured);
    for (presented, asked_for, old_access_token) in [
        (refreshed, "request", Some(secret("at3"))),
        (refreshed, "other", None),
        (own, "request", Some(secret("at3"))),
        (own, "other", None),
    ] {
        let context = ResponseContext { issued_for: issued_for(asked_for), ..context(presented) };
        let record = apply_refresh_token(&old(), None, &context);
        assert_eq!(record.raw.contains_key("kept"), old_access_token.is_some());
        assert_eq!(record.access_token, old_access_token, "{presented:?} {asked_for}");
        assert_eq!(record.issued_for, Some(issued_for(asked_for)));
    }
    // If the record does not state its request, the token is kept.
    let former = TokenRecord { issued_for: None, ..old() };
    let context = ResponseContext { issued_for: issued_for("other"), ..context(refreshed) };
    assert_eq!(apply_refresh_token(&former, None, &context).access_token, Some(secret("at3")));
}

/// E22.
#[test]
fn a_dpop_key_is_kept_as_long_as_its_refresh_token() {
    let (current, seed) = (secret("rt3"), secret("s2"));
    let old = TokenRecord { dpop_key: Some(secret("key")), bound: true, ..old() };
    for (presented, bound, has_key) in [
        (PresentedGrant::RefreshToken(&current), true, true),
        (PresentedGrant::RefreshToken(&current), false, true),
        (PresentedGrant::Seed(&seed), true, true),
        (PresentedGrant::Seed(&seed), false, false),
        (PresentedGrant::NewGrant, true, true),
        (PresentedGrant::NewGrant, false, false),
        (PresentedGrant::Configured, true, true),
        (PresentedGrant::Configured, false, false),
    ] {
        let context = ResponseContext { bound, ..context(presented) };
        let record = apply_response(&old, &answer(Some("at4"), None), &context).unwrap();
        assert_eq!(record.bound, bound, "{presented:?}");
        assert_eq!(record.dpop_key.is_some(), has_key, "{presented:?} {bound}");
    }
}

/// So a later login is recognised as newer, whatever the clocks show.
#[test]
fn a_record_after_a_logout_has_the_logout_in_its_history() {
    let logout = TokenRecord {
        generation: Generation(4),
        history: [hash("rt3"), hash("rt2")].into_iter().collect(),
        terminal: Some(TerminalState {
            reason: TerminalReason::LoggedOut,
            refresh_token: None,
            config: hash("config"),
            at: at(4000),
        }),
        ..TokenRecord::default()
    };
    let mark = logout.lineage_hash().unwrap();
    let seed = secret("s2");
    for presented in
        [PresentedGrant::Seed(&seed), PresentedGrant::NewGrant, PresentedGrant::Configured]
    {
        let record =
            apply_response(&logout, &answer(Some("at5"), Some("rt5")), &context(presented))
                .unwrap();
        assert!(record.history.contains(&mark), "{presented:?}");
        assert_eq!((record.terminal, record.generation), (None, Generation(5)), "{presented:?}");
    }
}

// ----- any response -----

fn any_token() -> impl Strategy<Value = Option<Secret>> {
    prop::option::of(prop::sample::select(vec!["rt1", "rt2", "rt3", "rt4", "s2"]).prop_map(secret))
}

proptest! {
    #[test]
    fn no_refresh_token_is_lost(
        answers in prop::collection::vec((any_token(), any::<bool>(), 0..4_usize), 1..12),
        rotation in prop::sample::select(vec![Rotation::Auto, Rotation::Ignore, Rotation::Require]),
    ) {
        let (mut record, seed) = (old(), secret("s2"));
        for (answered, has_access_token, kind) in answers {
            let current = record.refresh_token.clone();
            let presented = match (kind, &current) {
                (0 | 1, Some(current)) => PresentedGrant::RefreshToken(current),
                (2, _) => PresentedGrant::Seed(&seed),
                _ => PresentedGrant::NewGrant,
            };
            let context = ResponseContext { rotation, ..context(presented) };
            let response = TokenResponse {
                refresh_token: answered.clone(),
                ..answer(has_access_token.then_some("at"), None)
            };
            let next = match apply_response(&record, &response, &context) {
                Ok(next) => next,
                Err(ResponseDefect::NotRotated) => {
                    prop_assert_eq!(rotation, Rotation::Require);
                    let kept = presented.refresh_token();
                    prop_assert!(answered.is_none() || answered.as_ref() == kept);
                    continue;
                }
                Err(ResponseDefect::NothingToExtend) => apply_refresh_token(&record, answered.clone(), &context),
            };
            prop_assert_eq!(next.generation, record.generation.next());
            prop_assert_eq!(&next.parent, &presented.refresh_token().map(Secret::fingerprint));
            prop_assert_eq!(next.issued_for.as_ref(), Some(&context.issued_for));
            prop_assert!(next.attempt.is_none() && next.terminal.is_none());
            // Superseded tokens stay in the history, including the previous one.
            let current = next.refresh_token.as_ref();
            for text in ["rt1", "rt2", "rt3", "rt4", "s2"] {
                let was_known = record.has_superseded(&hash(text));
                prop_assert!(!was_known || next.has_superseded(&hash(text)));
            }
            let before = record.refresh_token.as_ref().filter(|it| Some(*it) != current);
            prop_assert!(before.is_none_or(|it| next.has_superseded(&it.fingerprint())));
            let is_new = answered.as_ref().filter(|it| !record.has_superseded(&it.fingerprint()));
            let expected = match presented {
                PresentedGrant::NewGrant => answered.as_ref(),
                _ if rotation == Rotation::Ignore => presented.refresh_token(),
                _ if is_new.is_some() && is_new != record.refresh_token.as_ref() => is_new,
                _ => presented.refresh_token(),
            };
            prop_assert_eq!(current, expected);
            record = next;
        }
    }
}
