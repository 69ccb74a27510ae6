//! The machine as tables: a situation, a question, the answer.
#![allow(clippy::unwrap_used)]

use std::time::UNIX_EPOCH;

use super::*;
use crate::secret::Secret;
use crate::store::TokenRecord;
use crate::token::Margin;

/// When every token of these tests was issued.
const ISSUED: u64 = 1_000_000;
/// Far beyond its settling, far from its expiry.
const OLD: u64 = ISSUED + 600;

/// On a machine that has run since 1970 and whose clock was never set.
pub(super) fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(seconds);
    Moment { wall: UNIX_EPOCH + running, running }
}

/// The same moment with a wall clock that shows something else.
fn showing(shown: u64, now: u64) -> Moment {
    Moment { wall: at(shown).wall, ..at(now) }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A token of this generation that lives so long; `None`: until it is rejected.
fn token_living(generation: u64, lifetime: Option<Duration>) -> Token {
    let record = TokenRecord {
        generation: Generation(generation),
        access_token: Some(Secret::new(format!("at-{generation}"))),
        issued_at: Some(at(ISSUED).wall),
        expires_at: lifetime.map(|lifetime| at(ISSUED).wall + lifetime),
        ..TokenRecord::default()
    };
    Token::of(&record, Margin::Auto, 0.0, at(ISSUED)).unwrap()
}

fn token(generation: u64) -> Token {
    token_living(generation, Some(seconds(3600)))
}

fn state(phase: Phase) -> State {
    State { phase, ..State::default() }
}

fn failing(until: u64) -> Phase {
    Phase::Failing { until: at(until), why: "server_trouble" }
}

fn failed(backoff: Backoff, retry_after: Option<u64>) -> Outcome {
    let retry_after = retry_after.map(seconds);
    Outcome::Failed { backoff, retry_after, why: "server_trouble" }
}

/// A rejection of the current token by a request that has nothing behind it yet.
fn first_rejection(state: &mut State, generation: u64, now: u64) -> Rejection {
    state.reject(Generation(generation), Some(&token(generation)), at(now), false, 0)
}

/// The end of a refresh that brought `generation`, which was then rejected like the one before.
fn rejected_again(state: &mut State, generation: u64, now: u64) {
    state.finish(Outcome::Refreshed, Spent::default(), at(now), 0.0);
    let verdict = state.reject(Generation(generation), Some(&token(generation)), at(now), true, 0);
    assert_eq!(verdict, Rejection::PassOn);
}

#[test]
fn what_a_request_may_do() {
    let revoked = TerminalReason::Revoked;
    let unavailable = |until| Want::Unavailable { until: at(until), why: "server_trouble" };
    let (fresh, due, over) = (ISSUED + 100, ISSUED + 3300, ISSUED + 3600);
    for (phase, now, want) in [
        (Phase::Idle, fresh, Want::Use),
        (Phase::Idle, due - 1, Want::Use),
        (Phase::Idle, due, Want::UseAndStart),
        (Phase::Idle, over - 1, Want::UseAndStart),
        (Phase::Idle, over, Want::StartAndWait),
        (Phase::Refreshing, fresh, Want::Use),
        (Phase::Refreshing, due, Want::Use),
        (Phase::Refreshing, over, Want::Wait),
        (failing(over + 60), fresh, Want::Use),
        (failing(over + 60), due, Want::Use),
        (failing(over + 60), over, unavailable(over + 60)),
        (failing(over + 60), over + 59, unavailable(over + 60)),
        (failing(over + 60), over + 60, Want::StartAndWait),
        (failing(due + 10), due + 10, Want::UseAndStart),
        (Phase::NeedsLogin(revoked), fresh, Want::Use),
        (Phase::NeedsLogin(revoked), due, Want::Use),
        (Phase::NeedsLogin(revoked), over, Want::NeedsLogin(revoked)),
    ] {
        let mut state = state(phase.clone());
        assert_eq!(state.want(Some(&token(1)), at(now)), want, "{phase:?} at {}", now - ISSUED);
        let starts = matches!(want, Want::UseAndStart | Want::StartAndWait);
        let expected = if starts { Phase::Refreshing } else { phase };
        assert_eq!(state.phase, expected);
    }
}

#[test]
fn what_a_request_may_do_without_a_token() {
    let lost = TerminalReason::LostRotation;
    for (phase, want) in [
        (Phase::Idle, Want::StartAndWait),
        (Phase::Refreshing, Want::Wait),
        (failing(OLD + 1), Want::Unavailable { until: at(OLD + 1), why: "server_trouble" }),
        (failing(OLD), Want::StartAndWait),
        (Phase::NeedsLogin(lost), Want::NeedsLogin(lost)),
    ] {
        assert_eq!(state(phase).want(None, at(OLD)), want);
    }
}

#[test]
fn however_many_ask_one_starts() {
    let mut state = State::default();
    let wants: Vec<_> = (0..1000).map(|_| state.want(None, at(OLD))).collect();
    assert_eq!(wants.iter().filter(|want| **want == Want::StartAndWait).count(), 1);
    assert_eq!(wants.iter().filter(|want| **want == Want::Wait).count(), 999);
}

#[test]
fn what_a_rejection_of_the_current_token_leads_to() {
    for (phase, renewed, verdict) in [
        (Phase::Idle, false, Rejection::StartAndWait),
        (Phase::Idle, true, Rejection::PassOn),
        (Phase::Refreshing, false, Rejection::Wait),
        (Phase::Refreshing, true, Rejection::PassOn),
        (failing(OLD + 1), false, Rejection::Later(Duration::from_secs(1))),
        (failing(OLD + 1), true, Rejection::PassOn),
        (failing(OLD + 5), false, Rejection::PassOn),
        (failing(OLD), false, Rejection::StartAndWait),
        (Phase::NeedsLogin(TerminalReason::Revoked), false, Rejection::PassOn),
    ] {
        let mut state = state(phase.clone());
        let answer = state.reject(Generation(1), Some(&token(1)), at(OLD), renewed, 0);
        assert_eq!(answer, verdict, "{phase:?}, renewed: {renewed}");
    }
}

#[test]
fn a_rejection_counts_only_for_its_own_generation() {
    for phase in [Phase::Idle, Phase::Refreshing, failing(OLD + 60)] {
        let mut state = state(phase.clone());
        let mut reject =
            |renewed| state.reject(Generation(1), Some(&token(2)), at(OLD), renewed, 0);
        assert_eq!(reject(false), Rejection::Resend, "{phase:?}");
        assert_eq!(reject(true), Rejection::PassOn, "{phase:?}");
        assert_eq!(state.phase, phase);
        assert_eq!(state.forced.after, None);
    }
}

#[test]
fn a_newer_token_that_has_expired_meanwhile_is_not_sent() {
    let mut state = State::default();
    let answer = state.reject(Generation(1), Some(&token(2)), at(ISSUED + 3600), false, 0);
    assert_eq!(answer, Rejection::StartAndWait);
}

#[test]
fn a_thousand_rejections_start_one_refresh() {
    let mut state = State::default();
    let answers: Vec<_> = (0..1000).map(|_| first_rejection(&mut state, 1, OLD)).collect();
    let count = |wanted| answers.iter().filter(|answer| **answer == wanted).count();
    assert_eq!(count(Rejection::StartAndWait), 1);
    assert_eq!(count(Rejection::Wait), 999);
}

#[test]
fn a_brand_new_token_is_waited_for_twice_and_then_replaced() {
    for (lifetime, age, young) in [
        (Some(seconds(3600)), 0, true),
        (Some(seconds(3600)), 4, true),
        (Some(seconds(3600)), 5, false),
        (None, 4, true),
        (None, 5, false),
        // Of short tokens only the first tenth is youth.
        (Some(seconds(20)), 1, true),
        (Some(seconds(20)), 2, false),
        (Some(seconds(5)), 1, false),
    ] {
        for (settled, wait) in [(0, Some(1)), (1, Some(2)), (2, None), (usize::MAX, None)] {
            let token = token_living(1, lifetime);
            let mut state = State::default();
            let answer =
                state.reject(Generation(1), Some(&token), at(ISSUED + age), false, settled);
            let expected = match wait.filter(|_| young) {
                Some(wait) => Rejection::Settle(seconds(wait)),
                None => Rejection::StartAndWait,
            };
            assert_eq!(answer, expected, "{lifetime:?}, {age} s old, waited {settled} times");
        }
    }
}

#[test]
fn a_new_token_for_a_rejection_is_waited_for_too() {
    let mut state = State::default();
    let mut reject =
        |settled| state.reject(Generation(2), Some(&token(2)), at(ISSUED), true, settled);
    assert_eq!(reject(0), Rejection::Settle(seconds(1)));
    assert_eq!(reject(1), Rejection::Settle(seconds(2)));
    assert_eq!(reject(2), Rejection::PassOn);
}

#[test]
fn while_new_tokens_are_rejected_the_pause_doubles_from_30_s_to_10_min() {
    let mut state = State::default();
    let mut now = OLD;
    assert_eq!(first_rejection(&mut state, 1, now), Rejection::StartAndWait);
    rejected_again(&mut state, 2, now);
    for (generation, pause) in [(2, 30), (3, 60), (4, 120), (5, 240), (6, 480), (7, 600), (8, 600)]
    {
        let early = first_rejection(&mut state, generation, now + pause - 1);
        assert_eq!(early, Rejection::PassOn, "generation {generation} before {pause} s");
        now += pause;
        let due = first_rejection(&mut state, generation, now);
        assert_eq!(due, Rejection::StartAndWait, "generation {generation} after {pause} s");
        // However many there are, a generation that does not help counts once.
        rejected_again(&mut state, generation + 1, now);
        for _ in 0..10 {
            let again = first_rejection(&mut state, generation + 1, now + 1);
            assert_eq!(again, Rejection::PassOn);
        }
    }
}

#[test]
fn a_hopeless_token_is_not_even_waited_for() {
    let mut state = State::default();
    assert_eq!(first_rejection(&mut state, 1, ISSUED + 10), Rejection::StartAndWait);
    state.finish(Outcome::Refreshed, Spent::default(), at(ISSUED), 0.0);
    let young = token(2);
    let last = state.reject(Generation(2), Some(&young), at(ISSUED), true, 2);
    assert_eq!(last, Rejection::PassOn);
    for renewed in [false, true] {
        let answer = state.reject(Generation(2), Some(&young), at(ISSUED + 1), renewed, 0);
        assert_eq!(answer, Rejection::PassOn);
    }
}

#[test]
fn an_accepted_request_gives_the_whole_budget_back() {
    let mut state = State::default();
    assert_eq!(first_rejection(&mut state, 1, OLD), Rejection::StartAndWait);
    rejected_again(&mut state, 2, OLD);
    assert_eq!(first_rejection(&mut state, 2, OLD + 1), Rejection::PassOn);
    state.accepted();
    assert_eq!(first_rejection(&mut state, 2, OLD + 2), Rejection::StartAndWait);
    rejected_again(&mut state, 3, OLD + 2);
    assert_eq!(first_rejection(&mut state, 3, OLD + 31), Rejection::PassOn);
    assert_eq!(first_rejection(&mut state, 3, OLD + 32), Rejection::StartAndWait);
}

#[test]
fn how_long_a_server_is_left_alone() {
    let (short, long) = (Backoff::Short, Backoff::Long);
    for (backoff, retry_after, jitter, pauses) in [
        (short, None, 0.0, [1, 2, 4, 8, 16, 32, 60, 60]),
        (long, None, 0.0, [60, 120, 240, 480, 900, 900, 900, 900]),
        // Half of it at most is taken off at random.
        (long, None, 1.0, [30, 60, 120, 240, 450, 450, 450, 450]),
        // The longer of both counts.
        (short, Some(20), 0.0, [20, 20, 20, 20, 20, 32, 60, 60]),
        (short, Some(3600), 0.0, [3600; 8]),
    ] {
        let mut state = State::default();
        for pause in pauses {
            state.finish(failed(backoff, retry_after), Spent::default(), at(OLD), jitter);
            assert_eq!(state.phase, failing(OLD + pause), "{backoff:?} {retry_after:?} {jitter}");
        }
    }
}

#[test]
fn a_backoff_never_overflows() {
    let mut state = State { failures: u32::MAX - 1, ..State::default() };
    for _ in 0..3 {
        state.finish(failed(Backoff::Short, None), Spent::default(), at(OLD), 0.0);
        assert_eq!(state.phase, failing(OLD + 60));
    }
}

#[test]
fn a_success_ends_the_backoff() {
    let mut state = State::default();
    for _ in 0..5 {
        state.finish(failed(Backoff::Short, None), Spent::default(), at(OLD), 0.0);
    }
    state.finish(Outcome::Refreshed, Spent::default(), at(OLD), 0.0);
    assert_eq!(state.phase, Phase::Idle);
    state.finish(failed(Backoff::Short, None), Spent::default(), at(OLD), 0.0);
    assert_eq!(state.phase, failing(OLD + 1));
}

#[test]
fn how_flights_end() {
    let mut state = State::default();
    state.finish(Outcome::Unchanged, Spent::default(), at(OLD), 1.0);
    assert_eq!(state.phase, Phase::Failing { until: at(OLD + 30), why: "no_change" });
    state.finish(Outcome::NeedsLogin(TerminalReason::NoGrant), Spent::default(), at(OLD), 1.0);
    assert_eq!(state.phase, Phase::NeedsLogin(TerminalReason::NoGrant));
}

#[test]
fn a_clock_that_is_set_back_by_any_amount_freezes_neither_a_failure_nor_a_budget() {
    for back in [1, 600, 3599, 4000, 900_000] {
        let shown = OLD - back;
        let mut state = state(failing(OLD + 60));
        let early = state.want(None, showing(shown, OLD + 59));
        assert_eq!(early, Want::Unavailable { until: at(OLD + 60), why: "server_trouble" });
        assert_eq!(state.want(None, showing(shown, OLD + 60)), Want::StartAndWait);

        let mut state = State::default();
        assert_eq!(first_rejection(&mut state, 1, OLD), Rejection::StartAndWait);
        rejected_again(&mut state, 2, OLD);
        let mut reject =
            |now| state.reject(Generation(2), Some(&token(2)), showing(shown, now), false, 2);
        assert_eq!(reject(OLD + 29), Rejection::PassOn);
        assert_eq!(reject(OLD + 30), Rejection::StartAndWait);
    }
}

#[test]
fn a_token_ends_after_its_lifetime_also_by_a_clock_that_was_set_back() {
    for back in [1, 600, 3600, 900_000] {
        let (token, mut state) = (token(1), State::default());
        let mut want = |age| state.want(Some(&token), showing(ISSUED + age - back, ISSUED + age));
        assert_eq!(want(back.min(3299)), Want::Use);
        assert_eq!(want(3300), Want::UseAndStart, "in the margin");
        state.phase = Phase::Idle;
        let mut want = |age| state.want(Some(&token), showing(ISSUED + age - back, ISSUED + age));
        assert_eq!(want(3600), Want::StartAndWait, "over");
    }
}

#[test]
fn the_longest_wait_that_a_server_can_impose_is_kept() {
    let mut state = state(failing(OLD + 3600));
    let want = state.want(None, at(OLD));
    assert_eq!(want, Want::Unavailable { until: at(OLD + 3600), why: "server_trouble" });
}

// ----- what has been spent -----

fn spent(requests: u32, lifetime: Option<u64>) -> Spent {
    Spent { requests, lifetime: lifetime.map(seconds) }
}

/// Failures whose pauses are over at once, so that nothing but the budget stands in the way.
fn fail(state: &mut State, requests: u32, now: u64) {
    state.finish(failed(Backoff::Short, None), spent(requests, None), at(now), 0.0);
    state.phase = Phase::Idle;
}

#[test]
fn ten_token_requests_that_brought_nothing_are_followed_by_one_a_minute() {
    let mut state = State::default();
    fail(&mut state, 4, OLD);
    fail(&mut state, 4, OLD);
    assert_eq!(state.want(None, at(OLD)), Want::StartAndWait);
    fail(&mut state, 2, OLD);
    let unavailable = Want::Unavailable { until: at(OLD + 60), why: "budget_spent" };
    assert_eq!(state.want(None, at(OLD + 59)), unavailable);
    // In its margin, a token is used and nothing is started.
    let near_its_end = token_living(1, Some(seconds(OLD - ISSUED + 60)));
    assert_eq!(state.want(Some(&near_its_end), at(OLD + 59)), Want::Use);
    let young = state.reject(Generation(1), Some(&token(1)), at(OLD + 59), false, 0);
    assert_eq!(young, Rejection::PassOn);
    assert_eq!(state.want(None, at(OLD + 60)), Want::StartAndWait);
}

#[test]
fn tokens_that_live_for_five_seconds_are_bought_for_ever() {
    let mut state = State::default();
    for number in 0..1000 {
        let now = OLD + 4 * number;
        assert_eq!(state.want(None, at(now)), Want::StartAndWait, "{number}");
        state.finish(Outcome::Refreshed, spent(1, Some(5)), at(now), 0.0);
    }
}

#[test]
fn tokens_that_are_over_at_once_are_not_bought_for_ever() {
    let mut state = State::default();
    let mut bought = 0;
    for second in 0..600 {
        if state.want(None, at(OLD + second)) == Want::StartAndWait {
            bought += 1;
            state.finish(Outcome::Refreshed, spent(1, Some(1)), at(OLD + second), 0.0);
        }
    }
    assert!((10..=20).contains(&bought), "{bought} in ten minutes");
}

#[test]
fn a_forced_refresh_is_worth_its_cost_once_a_request_is_accepted() {
    let mut state = State::default();
    for generation in 1..=50 {
        let now = OLD + generation;
        assert_eq!(first_rejection(&mut state, generation, now), Rejection::StartAndWait);
        state.finish(Outcome::Refreshed, spent(1, Some(3600)), at(now), 0.0);
        state.accepted();
    }
    // Of uploads nobody learns whether it helped.
    let mut forced = 0;
    for second in 0..3600 {
        let now = OLD + 1000 + second;
        if first_rejection(&mut state, 100, now) == Rejection::StartAndWait {
            forced += 1;
            state.finish(Outcome::Refreshed, spent(1, Some(3600)), at(now), 0.0);
        }
    }
    assert!(forced <= 70, "{forced} in an hour");
}

/// #29: whatever a flight that was in the air brings.
#[test]
fn a_logout_outlives_a_flight_that_was_in_the_air() {
    let logged_out = Phase::NeedsLogin(TerminalReason::LoggedOut);
    let mut state = State::default();
    assert_eq!(state.want(None, at(OLD)), Want::StartAndWait);
    state.log_out(Generation(7));
    state.finish(failed(Backoff::Short, None), Spent::default(), at(OLD), 0.0);
    assert_eq!(state.phase, logged_out);
    assert!(state.is_buried(Generation(6)) && state.is_buried(Generation(7)));
    assert!(!state.is_buried(Generation(8)));
    // #28: a login has a newer generation.
    assert!(state.adopt(Outcome::Refreshed, at(OLD)));
    assert_eq!(state.phase, Phase::Idle);
}

/// The store is looked into while a flight is in the air, too; the flight finds the same.
#[test]
fn nothing_is_adopted_in_the_middle_of_a_flight() {
    let mut state = state(Phase::Refreshing);
    assert!(!state.adopt(Outcome::Refreshed, at(OLD)));
    assert_eq!(state.want(None, at(OLD)), Want::Wait);
}

/// #25: whoever is rejected with a token that nothing will replace is the last to be sent with it.
#[test]
fn with_a_dead_grant_a_rejected_token_is_served_no_more() {
    let mut state = state(Phase::NeedsLogin(TerminalReason::Revoked));
    let token = token(2);
    let mut reject = |generation| {
        let verdict = state.reject(Generation(generation), Some(&token), at(OLD), false, 2);
        (verdict, token.is_usable(at(OLD)))
    };
    assert_eq!(reject(1), (Rejection::Resend, true), "that was the one before");
    assert_eq!(reject(2), (Rejection::PassOn, false));
}

#[test]
fn a_forced_refresh_that_failed_is_no_reason_to_pause_for_half_a_minute() {
    let mut state = State::default();
    assert_eq!(first_rejection(&mut state, 1, OLD), Rejection::StartAndWait);
    state.finish(failed(Backoff::Short, None), spent(1, None), at(OLD), 0.0);
    assert_eq!(first_rejection(&mut state, 1, OLD + 1), Rejection::StartAndWait);
}

/// Neither the timer nor an operator may ask more often than requests do.
#[test]
fn what_nobody_asked_for_keeps_to_the_budget() {
    let mut state = State::default();
    fail(&mut state, 10, OLD);
    let until = at(OLD + 60);
    let unavailable = Want::Unavailable { until, why: "budget_spent" };
    assert_eq!(state.force(at(OLD + 59)), Err(unavailable));
    assert_eq!(state.force(until), Ok(()));
}
