//! The state machine as tables.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::UNIX_EPOCH;

use super::*;
use crate::oauth::ErrorClass;
use crate::secret::Secret;
use crate::token::Margin;

#[path = "tests/properties.rs"]
mod properties;
#[path = "tests/rejections.rs"]
mod rejections;
#[path = "tests/timer.rs"]
mod timer;

/// The issue time of all tokens in these tests.
const ISSUED: u64 = 1_000_000;
/// When a token with a lifetime of an hour is due, and when it expires.
const DUE: u64 = ISSUED + 3300;
const OVER: u64 = ISSUED + 3600;
/// A time at which the token is neither newly issued nor due.
const OLD: u64 = ISSUED + 600;
const DAY: u64 = 86_400;
/// The target of most requests, and another one.
const TARGET: u64 = 1;
const OTHER: u64 = 2;
const WHY: FailureReason = FailureReason::Answer(ErrorClass::Transient);

/// A moment of a process that has run since 1970 and whose clock was never set.
fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(seconds);
    Moment { wall: UNIX_EPOCH + running, running }
}

/// The same moment with another wall-clock time.
fn showing(shown: u64, now: u64) -> Moment {
    Moment { wall: at(shown).wall, ..at(now) }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn record(generation: u64) -> TokenRecord {
    TokenRecord {
        generation: Generation(generation),
        access_token: Some(Secret::new(format!("at-{generation}"))),
        refresh_token: Some(Secret::new("rt".to_owned())),
        issued_at: Some(at(ISSUED).wall),
        ..TokenRecord::default()
    }
}

/// A token with this lifetime. `None`: it never expires.
fn token_living(generation: u64, lifetime: Option<Duration>) -> AccessToken {
    let expires_at = lifetime.map(|lifetime| at(ISSUED).wall + lifetime);
    let record = TokenRecord { expires_at, ..record(generation) };
    AccessToken::from_record(&record, Margin::Auto, 0.0, at(ISSUED)).unwrap()
}

fn token(generation: u64) -> AccessToken {
    token_living(generation, Some(seconds(3600)))
}

/// A situation of the state machine.
#[derive(Clone, Copy, Debug)]
enum MachinePhase {
    Idle,
    InFlight,
    /// A backoff lasts until this time.
    BackingOff(u64),
    Ended(TerminalReason),
}

fn state(phase: MachinePhase) -> RefreshState {
    let state = RefreshState::default();
    match phase {
        MachinePhase::Idle => state,
        MachinePhase::InFlight => RefreshState { is_in_flight: true, ..state },
        MachinePhase::BackingOff(until) => RefreshState { backoff: Some(backoff(until)), ..state },
        MachinePhase::Ended(reason) => RefreshState { terminal: Some(reason), ..state },
    }
}

fn backoff(until: u64) -> Backoff {
    Backoff { until: at(until), reason: WHY }
}

fn failed(pace: RetryPace, retry_after: Option<u64>) -> FlightOutcome {
    FlightOutcome::Failed { pace, retry_after: retry_after.map(seconds), reason: WHY }
}

/// The first rejection of a request that can be sent again.
fn rejection(token: &AccessToken) -> Rejection<'_> {
    Rejection { token, target: TARGET, can_resend: true, has_new_token: false, has_waited: false }
}

/// Rejects the current token.
fn reject(state: &mut RefreshState, token: &AccessToken, now: u64) -> RefreshDecision {
    state.record_rejection(rejection(token), Some(token), at(now))
}

/// Ends a flight that obtained `token`, and rejects that token as well.
fn rejected_again(state: &mut RefreshState, token: &AccessToken, now: u64) {
    state.finish_flight(FlightOutcome::Completed, at(now), 0.0);
    let last = Rejection { has_new_token: true, can_resend: false, ..rejection(token) };
    assert_eq!(state.record_rejection(last, Some(token), at(now)), RefreshDecision::PassOn);
}

// ----- requests -----

#[test]
fn a_request_uses_the_token_waits_or_fails_by_state() {
    let revoked = TerminalReason::Revoked;
    let fresh = ISSUED + 100;
    for (phase, now, decision) in [
        (MachinePhase::Idle, fresh, RefreshDecision::Use),
        (MachinePhase::Idle, DUE - 1, RefreshDecision::Use),
        (MachinePhase::Idle, DUE, RefreshDecision::UseAndStart),
        (MachinePhase::Idle, OVER - 1, RefreshDecision::UseAndStart),
        (MachinePhase::Idle, OVER, RefreshDecision::Start),
        (MachinePhase::InFlight, fresh, RefreshDecision::Use),
        (MachinePhase::InFlight, DUE, RefreshDecision::Use),
        (MachinePhase::InFlight, OVER, RefreshDecision::Wait),
        (MachinePhase::BackingOff(OVER + 60), fresh, RefreshDecision::Use),
        (MachinePhase::BackingOff(OVER + 60), DUE, RefreshDecision::Use),
        (MachinePhase::BackingOff(OVER + 60), OVER, RefreshDecision::BackOff(backoff(OVER + 60))),
        (
            MachinePhase::BackingOff(OVER + 60),
            OVER + 59,
            RefreshDecision::BackOff(backoff(OVER + 60)),
        ),
        (MachinePhase::BackingOff(OVER + 60), OVER + 60, RefreshDecision::Start),
        (MachinePhase::BackingOff(DUE + 10), DUE + 10, RefreshDecision::UseAndStart),
        (MachinePhase::Ended(revoked), fresh, RefreshDecision::Use),
        (MachinePhase::Ended(revoked), DUE, RefreshDecision::Use),
        (MachinePhase::Ended(revoked), OVER, RefreshDecision::NeedsLogin(revoked)),
    ] {
        let mut state = state(phase);
        let found = state.request_token(Some(&token(1)), at(now));
        assert_eq!(found, decision, "{phase:?} at {}", now - ISSUED);
        let starts = matches!(decision, RefreshDecision::UseAndStart | RefreshDecision::Start);
        assert_eq!(
            state.is_in_flight(),
            starts || matches!(phase, MachinePhase::InFlight),
            "{phase:?}"
        );
    }
}

#[test]
fn a_request_without_a_token_waits_or_fails_by_state() {
    let lost = TerminalReason::LostRotation;
    for (phase, decision) in [
        (MachinePhase::Idle, RefreshDecision::Start),
        (MachinePhase::InFlight, RefreshDecision::Wait),
        (MachinePhase::BackingOff(OLD + 1), RefreshDecision::BackOff(backoff(OLD + 1))),
        (MachinePhase::BackingOff(OLD), RefreshDecision::Start),
        (MachinePhase::Ended(lost), RefreshDecision::NeedsLogin(lost)),
    ] {
        assert_eq!(state(phase).request_token(None, at(OLD)), decision, "{phase:?}");
    }
    // After a logout requests fail, even during a flight.
    let logged_out = TerminalReason::LoggedOut;
    let mut flying = RefreshState { terminal: Some(logged_out), ..state(MachinePhase::InFlight) };
    assert_eq!(flying.request_token(None, at(OLD)), RefreshDecision::NeedsLogin(logged_out));
    // Requests wait for the forced flight of an operator.
    let mut ended = state(MachinePhase::Ended(lost));
    assert_eq!(ended.force_flight(at(OLD)), RefreshDecision::Start);
    assert_eq!(ended.request_token(None, at(OLD)), RefreshDecision::Wait);
}

#[test]
fn a_thousand_requests_start_one_flight() {
    let mut state = RefreshState::default();
    let decisions: Vec<_> = (0..1000).map(|_| state.request_token(None, at(OLD))).collect();
    let count = |wanted| decisions.iter().filter(|decision| **decision == wanted).count();
    assert_eq!((count(RefreshDecision::Start), count(RefreshDecision::Wait)), (1, 999));
}

/// E20: a token that was accepted may be replaced at once.
#[test]
fn flights_start_at_least_a_second_apart() {
    let min_interval = |until| {
        RefreshDecision::BackOff(Backoff { until: at(until), reason: FailureReason::MinInterval })
    };
    let spent = token_living(1, Some(seconds(OLD - ISSUED)));
    let mut state = RefreshState::default();
    assert_eq!(state.request_token(Some(&spent), at(OLD)), RefreshDecision::Start);
    state.finish_flight(FlightOutcome::Completed, at(OLD), 0.0);
    assert_eq!(state.request_token(Some(&spent), at(OLD)), min_interval(OLD + 1));
    assert_eq!(state.request_token(None, at(OLD)), min_interval(OLD + 1));
    let fresh = token(2);
    assert_eq!(reject(&mut state, &fresh, OLD), min_interval(OLD + 1), "requests wait this out");
    assert!(
        !state
            .tick(TimerInput { keepalive_at: Some(at(OLD).wall), ..TimerInput::default() }, at(OLD))
            .start
    );
    let later = Moment { running: at(OLD).running, ..at(OLD + 1) };
    assert_eq!(state.request_token(None, later), RefreshDecision::Start);
    state.finish_flight(FlightOutcome::Completed, at(OLD + 1), 0.0);
    assert!(spent.record_acceptance(TARGET));
    assert_eq!(state.request_token(Some(&spent), at(OLD + 1)), RefreshDecision::Start);
}

// ----- ends of flights -----

#[test]
fn the_backoff_grows_by_pace_and_obeys_retry_after() {
    use RetryPace::{Growing, Long, Short, Unsent};
    for (pace, retry_after, jitter, pauses) in [
        (Unsent, None, 0.0, [1, 2, 4, 5, 5, 5, 5, 5, 5, 5, 5]),
        (Short, None, 0.0, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]),
        (Growing, None, 0.0, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]),
        (Long, None, 0.0, [60, 120, 240, 480, 900, 900, 900, 900, 900, 900, 900]),
        // At most half is taken off at random.
        (Long, None, 1.0, [30, 60, 120, 240, 450, 450, 450, 450, 450, 450, 450]),
        // The longer of backoff and Retry-After applies.
        (Short, Some(20), 0.0, [20, 20, 20, 20, 20, 32, 60, 60, 60, 60, 60]),
        (Short, Some(3600), 1.0, [3600; 11]),
    ] {
        let mut state = RefreshState::default();
        for pause in pauses {
            state.finish_flight(failed(pace, retry_after), at(OLD), jitter);
            assert_eq!(
                state.backoff(at(OLD)),
                Some(backoff(OLD + pause)),
                "{pace:?} {retry_after:?} {jitter}"
            );
            assert_eq!(state.backoff(at(OLD + pause)), None);
        }
    }
}

/// E16: the backoff of one kind of failure does not carry over to another.
#[test]
fn each_kind_of_failure_has_its_own_count() {
    let mut state = RefreshState::default();
    for _ in 0..6 {
        state.finish_flight(failed(RetryPace::Short, None), at(OLD), 0.0);
    }
    for (pace, pause) in [
        (RetryPace::Growing, 1),
        (RetryPace::Growing, 2),
        (RetryPace::Long, 60),
        (RetryPace::Short, 1),
        (RetryPace::Unsent, 1),
    ] {
        state.finish_flight(failed(pace, None), at(OLD), 0.0);
        assert_eq!(state.backoff(at(OLD)), Some(backoff(OLD + pause)), "{pace:?}");
    }
}

#[test]
fn a_backoff_never_overflows() {
    for (pace, longest) in [
        (RetryPace::Unsent, 5),
        (RetryPace::Short, 60),
        (RetryPace::Growing, 900),
        (RetryPace::Long, 900),
    ] {
        let mut state =
            RefreshState { failures: u32::MAX - 1, pace: Some(pace), ..RefreshState::default() };
        for _ in 0..3 {
            state.finish_flight(failed(pace, None), at(OLD), 0.0);
            assert_eq!(state.backoff(at(OLD)), Some(backoff(OLD + longest)));
        }
    }
}

#[test]
fn a_success_ends_the_backoff() {
    let mut state = RefreshState::default();
    for _ in 0..5 {
        state.finish_flight(failed(RetryPace::Short, None), at(OLD), 0.0);
    }
    assert_eq!(state.failure(), Some((WHY, at(OLD))));
    state.finish_flight(FlightOutcome::Completed, at(OLD), 0.0);
    assert_eq!((state.backoff(at(OLD)), state.failure()), (None, None));
    state.finish_flight(failed(RetryPace::Short, None), at(OLD + 9), 0.0);
    assert_eq!(state.backoff(at(OLD + 9)), Some(backoff(OLD + 10)));
    assert_eq!(state.failure(), Some((WHY, at(OLD + 9))));
}

/// For example if a response takes longer than the lifetime of its token.
#[test]
fn a_request_whose_new_token_has_expired_waits_for_the_next_one() {
    let (rejected, next) = (token(1), token_living(2, Some(seconds(1))));
    for can_resend in [true, false] {
        let mut state = RefreshState::default();
        state.start_flight(true, at(OLD - 60));
        state.limiter.record_forced(rejected.generation, false, at(OLD - 60));
        state.finish_flight(FlightOutcome::Completed, at(OLD), 0.0);
        let rejection = Rejection { can_resend, ..rejection(&rejected) };
        let found = state.record_rejection(rejection, Some(&next), at(OLD));
        assert_eq!(
            found,
            if can_resend { RefreshDecision::Start } else { RefreshDecision::PassOn }
        );
        assert_eq!(state.is_in_flight(), can_resend);
    }
}

/// The backoff protected the token that was just rejected from a late replay.
#[test]
fn a_rejection_ends_the_backoff_that_protects_the_rejected_token() {
    for (reason, generation, decision) in [
        (FailureReason::AnswersLost, 1, RefreshDecision::Start),
        (FailureReason::AnswersLost, 2, RefreshDecision::PassOn),
        (WHY, 1, RefreshDecision::PassOn),
    ] {
        let backoff = Backoff { reason, ..backoff(OVER) };
        let mut state = RefreshState { backoff: Some(backoff), ..RefreshState::default() };
        let (rejected, current) = (token(1), token(generation));
        // The token may have been rejected before.
        current.mark_rejected();
        let found = state.record_rejection(rejection(&rejected), Some(&current), at(OLD));
        assert_eq!(found, decision, "{reason:?}, {generation}");
    }
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_backoff_and_no_pause() {
    for back in [1, 600, 3599, 4000, 900_000] {
        let now = |now: u64| showing(now - back, now);
        let mut active_backoff = state(MachinePhase::BackingOff(OLD + 60));
        assert_eq!(
            active_backoff.request_token(None, now(OLD + 59)),
            RefreshDecision::BackOff(backoff(OLD + 60))
        );
        assert_eq!(active_backoff.request_token(None, now(OLD + 60)), RefreshDecision::Start);

        let (mut state, first, second) = (RefreshState::default(), token(1), token_living(2, None));
        assert_eq!(reject(&mut state, &first, OLD), RefreshDecision::Start);
        rejected_again(&mut state, &second, OLD);
        let again = Rejection { target: OTHER, has_waited: true, ..rejection(&second) };
        assert_eq!(
            state.record_rejection(again, Some(&second), now(OLD + 29)),
            RefreshDecision::PassOn
        );
        assert_eq!(
            state.record_rejection(again, Some(&second), now(OLD + 30)),
            RefreshDecision::Start
        );
        // The minimum interval is not prolonged either.
        state.finish_flight(FlightOutcome::Completed, now(OLD + 30), 0.0);
        assert_eq!(state.request_token(None, now(OLD + 31)), RefreshDecision::Start);
    }
}

#[test]
fn a_token_expires_after_its_lifetime_even_if_the_clock_is_set_back() {
    for back in [1, 600, 3600, 900_000] {
        let token = token(1);
        let request_token = |age| {
            RefreshState::default()
                .request_token(Some(&token), showing(ISSUED + age - back, ISSUED + age))
        };
        assert_eq!(request_token(back.min(3299)), RefreshDecision::Use);
        assert_eq!(request_token(3300), RefreshDecision::UseAndStart, "in the margin");
        assert_eq!(request_token(3600), RefreshDecision::Start, "over");
    }
}

// ----- operators -----

/// E12.
#[test]
fn an_operator_can_start_a_flight_in_every_state() {
    for phase in [
        MachinePhase::Idle,
        MachinePhase::BackingOff(OLD + 600),
        MachinePhase::Ended(TerminalReason::Revoked),
    ] {
        let mut state = RefreshState { last_started: Some(at(OLD)), ..state(phase) };
        assert_eq!(state.force_flight(at(OLD)), RefreshDecision::Start, "{phase:?}");
        assert_eq!(state.force_flight(at(OLD)), RefreshDecision::Wait, "one at a time");
    }
}
