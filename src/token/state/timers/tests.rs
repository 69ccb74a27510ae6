//! The timer as tables.
#![allow(clippy::unwrap_used)]

use super::super::tests::at;
use super::super::{Backoff, Outcome, Spent};
use super::*;
use crate::secret::Secret;
use crate::store::{Generation, TerminalReason};
use crate::token::Margin;

const ISSUED: u64 = 1_000_000;
const DUE: u64 = ISSUED + 3300;
const OVER: u64 = ISSUED + 3600;
const DAY: u64 = 86_400;

fn record() -> TokenRecord {
    TokenRecord {
        generation: Generation(1),
        access_token: Some(Secret::new("at".to_owned())),
        refresh_token: Some(Secret::new("rt".to_owned())),
        issued_at: Some(at(ISSUED).wall),
        expires_at: Some(at(OVER).wall),
        ..TokenRecord::default()
    }
}

fn token(was_used: bool) -> Token {
    let token = Token::of(&record(), Margin::Auto, 0.0, at(ISSUED)).unwrap();
    if was_used {
        token.mark_used();
    }
    token
}

/// A machine that has been running for a while.
fn started(phase: Phase) -> State {
    let mut state = State::default();
    assert_eq!(state.tick(Standing::default(), at(ISSUED)), Tick::default());
    state.phase = phase;
    state
}

/// #7, #8, #14 and #26, by the clock.
#[test]
fn near_expiry_a_token_that_was_used_is_replaced_without_a_request() {
    let failing = |until| Phase::Failing { until: at(until), why: "server_trouble" };
    for (phase, was_used, now, starts) in [
        (Phase::Idle, true, DUE - 1, false),
        (Phase::Idle, true, DUE, true),
        (Phase::Idle, true, OVER - 1, true),
        // Once it is over, the next request sees to it.
        (Phase::Idle, true, OVER, false),
        (Phase::Idle, false, DUE, false),
        (Phase::Refreshing, true, DUE, false),
        (failing(DUE + 1), true, DUE, false),
        (failing(DUE), true, DUE, true),
        (Phase::NeedsLogin(TerminalReason::Revoked), true, DUE, false),
    ] {
        let mut state = started(phase.clone());
        let token = token(was_used);
        let standing = Standing { token: Some(&token), upkeep: None };
        assert_eq!(state.tick(standing, at(now)).start, starts, "{phase:?} {was_used} {now}");
        let refreshing = state.phase == Phase::Refreshing;
        assert_eq!(refreshing, starts || phase == Phase::Refreshing);
    }
}

/// #5: prewarm.
#[test]
fn at_the_start_a_token_near_its_end_is_replaced_before_anybody_uses_it() {
    for (now, starts) in [(DUE - 1, false), (DUE, true), (OVER, false)] {
        let token = token(false);
        let standing = Standing { token: Some(&token), upkeep: None };
        let mut state = State::default();
        assert_eq!(state.tick(standing, at(now)).start, starts, "{now}");
        state.phase = Phase::Idle;
        assert!(!state.tick(standing, at(DUE)).start, "only once");
    }
}

/// #9.
#[test]
fn a_refresh_token_is_used_before_it_dies_of_idleness() {
    let upkeep = Some(at(ISSUED + 30 * DAY).wall);
    for (phase, now, starts) in [
        (Phase::Idle, ISSUED + 30 * DAY - 1, false),
        (Phase::Idle, ISSUED + 30 * DAY, true),
        (Phase::Refreshing, ISSUED + 30 * DAY, false),
        (Phase::NeedsLogin(TerminalReason::LoggedOut), ISSUED + 30 * DAY, false),
    ] {
        let mut state = started(phase.clone());
        // The access token is long over, and nobody has used it.
        let token = token(false);
        let standing = Standing { token: Some(&token), upkeep };
        assert_eq!(state.tick(standing, at(now)).start, starts, "{phase:?}");
    }
}

#[test]
fn when_a_refresh_token_has_to_be_used() {
    let days = |days| Duration::from_secs(days * DAY);
    let after = |pause| Some(at(ISSUED).wall + pause);
    for (keepalive, lifetime, expected) in [
        (None, None, None),
        (Some(days(30)), None, after(days(30))),
        (None, Some(days(30)), after(days(27))),
        (None, Some(days(100)), after(days(93))),
        (Some(days(30)), Some(days(60)), after(days(30))),
        (Some(days(30)), Some(days(20)), after(days(18))),
        // What lives for minutes dies with its session.
        (None, Some(Duration::from_secs(1800)), None),
    ] {
        let refresh_expires_at = lifetime.map(|lifetime| at(ISSUED).wall + lifetime);
        let record = TokenRecord { refresh_expires_at, ..record() };
        assert_eq!(upkeep(&record, keepalive), expected, "{keepalive:?} {lifetime:?}");
        let without = TokenRecord { refresh_token: None, ..record };
        assert_eq!(upkeep(&without, keepalive), None);
    }
}

/// A server that never moves the end is asked a handful of times on the way to it.
#[test]
fn an_end_that_does_not_move_is_no_stream_of_requests() {
    let end = at(ISSUED + 30 * DAY).wall;
    let mut record = TokenRecord { refresh_expires_at: Some(end), ..record() };
    let mut uses = 0;
    while let Some(due) = upkeep(&record, None) {
        record.issued_at = Some(due);
        uses += 1;
    }
    assert!(uses <= 4, "{uses} uses");
}

/// Nor is a server that answers with the access token that it issued long ago.
#[test]
fn an_access_token_that_stays_the_same_was_used_all_the_same() {
    let days = |days| at(ISSUED + days * DAY).wall;
    let record =
        TokenRecord { used_at: Some(days(20)), refresh_expires_at: Some(days(30)), ..record() };
    assert_eq!(upkeep(&record, Some(Duration::from_secs(5 * DAY))), Some(days(25)));
    assert_eq!(upkeep(&record, None), Some(days(29)));
}

/// Row 40.
#[test]
fn a_quarter_of_an_hour_of_failures_is_called_out_once() {
    let failed =
        || Outcome::Failed { backoff: Backoff::Short, retry_after: None, why: "server_trouble" };
    let mut state = started(Phase::Idle);
    for minute in 0..60 {
        let now = at(ISSUED + 60 * minute);
        let tick = state.tick(Standing::default(), now);
        assert_eq!(tick.overdue, minute == 15, "minute {minute}");
        state.finish(failed(), Spent::default(), now, 0.0);
    }
    state.finish(Outcome::Refreshed, Spent::default(), at(ISSUED + 3600), 0.0);
    assert!(!state.tick(Standing::default(), at(ISSUED + 8000)).overdue);
    // The next outage is another one.
    state.finish(failed(), Spent::default(), at(ISSUED + 9000), 0.0);
    assert!(!state.tick(Standing::default(), at(ISSUED + 9899)).overdue);
    assert!(state.tick(Standing::default(), at(ISSUED + 9900)).overdue);
}

#[test]
fn an_operator_is_told_why_nothing_starts() {
    let revoked = TerminalReason::Revoked;
    for (phase, expected) in [
        (Phase::Idle, Ok(())),
        (Phase::Refreshing, Err(Want::Wait)),
        (Phase::NeedsLogin(revoked), Err(Want::NeedsLogin(revoked))),
        (
            Phase::Failing { until: at(DUE), why: "throttled" },
            Err(Want::Unavailable { until: at(DUE), why: "throttled" }),
        ),
    ] {
        assert_eq!(started(phase).force(at(DUE - 1)), expected);
    }
}
