//! What answers make of records, and refusals of grants, as tables.
#![allow(clippy::unwrap_used)]

use std::time::UNIX_EPOCH;

use super::*;
use crate::oauth::TokenType;
use crate::secret::Secret;
use crate::store::{Generation, Intent, Terminal};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn config() -> Fingerprint {
    Fingerprint::of(b"config")
}

/// Generation 3, issued at 1000 for an hour, by `rt2`.
fn old() -> TokenRecord {
    TokenRecord {
        generation: Generation(3),
        access_token: Some(secret("at3")),
        issued_at: Some(at(1000)),
        expires_at: Some(at(4600)),
        refresh_token: Some(secret("rt3")),
        superseded: vec![secret("rt2").fingerprint()],
        intent: Some(Intent { refresh_token: secret("rt3").fingerprint(), at: at(4400) }),
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
        raw: [("url".to_owned(), secret("u4"))].into(),
        dpop_nonce: None,
    }
}

/// In the background, 200 s before the end of the old token.
fn terms(config: &Fingerprint) -> Terms<'_> {
    Terms {
        asked_at: at(4400),
        lifetime: None,
        rotation: Rotation::Auto,
        config,
        by_refresh_token: true,
        forced: false,
        refused_early: None,
    }
}

/// #16.
#[test]
fn a_success_moves_everything_on() {
    let config = config();
    let record = issue(&old(), answer(Some("at4"), Some("rt4")), terms(&config)).unwrap();
    let expected = TokenRecord {
        generation: Generation(4),
        access_token: Some(secret("at4")),
        issued_at: Some(at(4400)),
        expires_at: Some(at(8000)),
        refresh_token: Some(secret("rt4")),
        superseded: vec![secret("rt3").fingerprint(), secret("rt2").fingerprint()],
        raw: [("url".to_owned(), secret("u4")), ("kept".to_owned(), secret("k3"))].into(),
        worked_with: Some(config),
        ..TokenRecord::default()
    };
    assert_eq!(record, expected);
}

/// Rows 17, 30 and 32, and the three ways of `rotation`.
#[test]
fn which_refresh_token_is_kept() {
    use Rotation::{Auto, Ignore, Require};
    for (rotation, by_refresh_token, answered, kept) in [
        (Auto, true, Some("rt4"), Ok("rt4")),
        (Auto, true, Some("rt3"), Ok("rt3")),
        (Auto, true, None, Ok("rt3")),
        // It was superseded long ago.
        (Auto, true, Some("rt2"), Ok("rt3")),
        (Ignore, true, Some("rt4"), Ok("rt3")),
        (Ignore, true, None, Ok("rt3")),
        // A bootstrap or a login: the first one of a new grant.
        (Ignore, false, Some("rt4"), Ok("rt4")),
        (Require, true, Some("rt4"), Ok("rt4")),
        (Require, true, Some("rt3"), Err(Unfit::NotRotated)),
        (Require, true, None, Err(Unfit::NotRotated)),
        (Require, false, None, Ok("rt3")),
    ] {
        let config = config();
        let terms = Terms { rotation, by_refresh_token, ..terms(&config) };
        let record = issue(&old(), answer(Some("at4"), answered), terms);
        let found = record.map(|record| record.refresh_token.unwrap());
        assert_eq!(found, kept.map(secret), "{rotation:?} {by_refresh_token} {answered:?}");
    }
}

/// Row 18.
#[test]
fn an_answer_without_an_access_token_prolongs_the_old_one() {
    let config = config();
    let record = issue(&old(), answer(None, None), terms(&config)).unwrap();
    assert_eq!(record.access_token, Some(secret("at3")));
    assert_eq!((record.issued_at, record.expires_at), (Some(at(4400)), Some(at(8000))));
    assert_eq!(record.margin_limit, None);
    // `lifetime` counts anew, too.
    let silent = TokenResponse { expires_at: None, ..answer(None, None) };
    let by_config = Terms { lifetime: Some(Duration::from_secs(60)), ..terms(&config) };
    assert_eq!(issue(&old(), silent, by_config).unwrap().expires_at, Some(at(4460)));

    let nothing = TokenRecord { access_token: None, ..old() };
    let unfit = issue(&nothing, answer(None, None), terms(&config));
    assert_eq!(unfit, Err(Unfit::NothingToProlong));
}

#[test]
fn the_end_of_a_refresh_token_belongs_to_that_refresh_token() {
    let config = config();
    let old = TokenRecord { refresh_expires_at: Some(at(9_000)), ..old() };
    for (refresh_token, answered, expected) in [
        (None, None, Some(9_000)),
        (Some("rt3"), None, Some(9_000)),
        (Some("rt4"), None, None),
        (Some("rt4"), Some(20_000), Some(20_000)),
        (None, Some(20_000), Some(20_000)),
    ] {
        let answer = TokenResponse {
            refresh_expires_at: answered.map(at),
            ..answer(Some("a"), refresh_token)
        };
        let record = issue(&old, answer, terms(&config)).unwrap();
        assert_eq!(record.refresh_expires_at, expected.map(at), "{refresh_token:?} {answered:?}");
    }
}

/// Row 46, and Reltio: the same token comes back until it is over.
#[test]
fn a_server_that_is_asked_too_early_teaches_the_margin() {
    let config = config();
    let same = |expires_at: Option<u64>| TokenResponse {
        expires_at: expires_at.map(at),
        ..answer(Some("at3"), Some("rt4"))
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (case, answer, change, limit, issued_at) in [
        ("what is left of it", same(Some(4600)), terms(&config), seconds(50), 1000),
        ("nothing said", same(None), terms(&config), seconds(50), 1000),
        ("prolonged", same(Some(8000)), terms(&config), None, 4400),
        (
            "forced: that is no question of time",
            same(Some(4600)),
            Terms { forced: true, ..terms(&config) },
            None,
            4400,
        ),
        (
            "refused 280 s before the end, granted 200 s before",
            answer(Some("at4"), None),
            Terms { refused_early: seconds(280), ..terms(&config) },
            seconds(200),
            4400,
        ),
    ] {
        let record = issue(&old(), answer, change).unwrap();
        assert_eq!(record.margin_limit, limit, "{case}");
        assert_eq!(record.issued_at, Some(at(issued_at)), "{case}");
        let used_at = (issued_at == 1000).then(|| at(4400));
        assert_eq!(record.used_at, used_at, "{case}");
    }
}

/// #25, C9 and C9b, row 39.
#[test]
fn which_refusals_mean_that_a_grant_is_dead() {
    use TerminalReason::{Corrupt, LostRotation, Revoked, UserNeeded};
    let none = Circumstances { damaged: false, lost_answer: false, worked_before: true, doubts: 0 };
    let lost = Circumstances { lost_answer: true, ..none };
    let doubts = |doubts| Circumstances { doubts, ..none };
    for (class, circumstances, expected) in [
        (Class::GrantDead, none, Some(Revoked)),
        (Class::GrantDead, lost, Some(LostRotation)),
        (Class::GrantDead, Circumstances { damaged: true, ..lost }, Some(Corrupt)),
        (Class::UserNeeded, none, Some(UserNeeded)),
        (Class::Doubtful, doubts(1), None),
        (Class::Doubtful, doubts(2), None),
        (Class::Doubtful, doubts(3), Some(Revoked)),
        (Class::Doubtful, Circumstances { doubts: 3, ..lost }, Some(LostRotation)),
        (Class::Doubtful, Circumstances { worked_before: false, ..doubts(9) }, None),
        (Class::Config, doubts(9), None),
        (Class::Transient, lost, None),
        (Class::Ambiguous, lost, None),
        (Class::NotSent, lost, None),
        (Class::Throttled, lost, None),
        (Class::Protocol, lost, None),
    ] {
        assert_eq!(death(class, circumstances), expected, "{class} {circumstances:?}");
    }
}

#[test]
fn what_may_mean_too_early() {
    for (class, status, code, early) in [
        (Class::Doubtful, Some(400), Some("invalid_request"), true),
        (Class::Doubtful, Some(400), None, true),
        (Class::Config, Some(400), Some("token_still_valid"), true),
        (Class::Config, Some(409), None, true),
        (Class::Config, Some(400), Some("invalid_client"), false),
        (Class::Config, Some(400), Some("access_denied"), false),
        (Class::Config, Some(401), None, false),
        (Class::Doubtful, Some(404), None, false),
        (Class::Throttled, Some(400), None, false),
        (Class::Transient, Some(500), None, false),
    ] {
        let error = GrantError {
            class,
            status,
            code: code.map(str::to_owned),
            description: None,
            retry_after: None,
            salvaged: None,
            dpop_nonce: None,
        };
        assert_eq!(may_be_too_early(&error), early, "{class} {status:?} {code:?}");
    }
}

#[test]
fn a_success_clears_a_death() {
    let config = config();
    let dead = TokenRecord {
        terminal: Some(Terminal {
            reason: TerminalReason::Revoked,
            refresh_token: Some(secret("rt3").fingerprint()),
            config: config.clone(),
            at: at(4000),
        }),
        rejected: true,
        ..old()
    };
    let terms = Terms { by_refresh_token: false, ..terms(&config) };
    let record = issue(&dead, answer(Some("at4"), Some("rt4")), terms).unwrap();
    assert_eq!((record.terminal, record.rejected, record.intent), (None, false, None));
}
