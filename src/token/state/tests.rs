//! The machine as tables: a situation, a question, the answer.
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

/// When every token of these tests was issued.
const ISSUED: u64 = 1_000_000;
/// Of a token that lives for an hour: it is in its margin, and it is over.
const DUE: u64 = ISSUED + 3300;
const OVER: u64 = ISSUED + 3600;
/// Far beyond its settling, far from its expiry.
const OLD: u64 = ISSUED + 600;
const DAY: u64 = 86_400;
/// What most requests of these tests ask for, and what others do.
const TARGET: u64 = 1;
const OTHER: u64 = 2;
const WHY: FailureReason = FailureReason::Answer(ErrorClass::Transient);

/// On a machine that has run since 1970 and whose clock was never set.
fn at(seconds: u64) -> Moment {
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

fn record(generation: u64) -> TokenRecord {
    TokenRecord {
        generation: Generation(generation),
        access_token: Some(Secret::new(format!("at-{generation}"))),
        refresh_token: Some(Secret::new("rt".to_owned())),
        issued_at: Some(at(ISSUED).wall),
        ..TokenRecord::default()
    }
}

/// A token of this generation that lives so long; `None`: until it is rejected.
fn token_living(generation: u64, lifetime: Option<Duration>) -> Token {
    let expires_at = lifetime.map(|lifetime| at(ISSUED).wall + lifetime);
    let record = TokenRecord { expires_at, ..record(generation) };
    Token::of(&record, Margin::Auto, 0.0, at(ISSUED)).unwrap()
}

fn token(generation: u64) -> Token {
    token_living(generation, Some(seconds(3600)))
}

/// What a machine may be doing.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle,
    Flying,
    /// A failure holds it up until then.
    HeldLease(u64),
    Ended(TerminalReason),
}

fn state(phase: Phase) -> State {
    let state = State::default();
    match phase {
        Phase::Idle => state,
        Phase::Flying => State { in_flight: true, ..state },
        Phase::HeldLease(until) => State { hold: Some(hold(until)), ..state },
        Phase::Ended(reason) => State { end: Some(reason), ..state },
    }
}

fn hold(until: u64) -> Hold {
    Hold { until: at(until), why: WHY }
}

fn failed(pace: RetryPace, wish: Option<u64>) -> Outcome {
    Outcome::Failed { pace, wish: wish.map(seconds), why: WHY }
}

/// A rejection of a request that has nothing behind it yet, and can be sent again.
fn rejection(token: &Token) -> Rejection<'_> {
    Rejection { token, target: TARGET, resendable: true, renewed: false, settled: false }
}

/// A first rejection of the current token.
fn reject(state: &mut State, token: &Token, now: u64) -> Verdict {
    state.reject(rejection(token), Some(token), at(now))
}

/// The end of a flight that brought `token`, which is then rejected like the one before.
fn rejected_again(state: &mut State, token: &Token, now: u64) {
    state.finish(Outcome::Landed, at(now), 0.0);
    let last = Rejection { renewed: true, resendable: false, ..rejection(token) };
    assert_eq!(state.reject(last, Some(token), at(now)), Verdict::PassOn);
}

// ----- what a request may do -----

#[test]
fn what_a_request_may_do() {
    let revoked = TerminalReason::Revoked;
    let fresh = ISSUED + 100;
    for (phase, now, verdict) in [
        (Phase::Idle, fresh, Verdict::Use),
        (Phase::Idle, DUE - 1, Verdict::Use),
        (Phase::Idle, DUE, Verdict::UseAndStart),
        (Phase::Idle, OVER - 1, Verdict::UseAndStart),
        (Phase::Idle, OVER, Verdict::Start),
        (Phase::Flying, fresh, Verdict::Use),
        (Phase::Flying, DUE, Verdict::Use),
        (Phase::Flying, OVER, Verdict::Wait),
        (Phase::HeldLease(OVER + 60), fresh, Verdict::Use),
        (Phase::HeldLease(OVER + 60), DUE, Verdict::Use),
        (Phase::HeldLease(OVER + 60), OVER, Verdict::Hold(hold(OVER + 60))),
        (Phase::HeldLease(OVER + 60), OVER + 59, Verdict::Hold(hold(OVER + 60))),
        (Phase::HeldLease(OVER + 60), OVER + 60, Verdict::Start),
        (Phase::HeldLease(DUE + 10), DUE + 10, Verdict::UseAndStart),
        (Phase::Ended(revoked), fresh, Verdict::Use),
        (Phase::Ended(revoked), DUE, Verdict::Use),
        (Phase::Ended(revoked), OVER, Verdict::NeedsLogin(revoked)),
    ] {
        let mut state = state(phase);
        let found = state.want(Some(&token(1)), at(now));
        assert_eq!(found, verdict, "{phase:?} at {}", now - ISSUED);
        let starts = matches!(verdict, Verdict::UseAndStart | Verdict::Start);
        assert_eq!(state.in_flight(), starts || matches!(phase, Phase::Flying), "{phase:?}");
    }
}

#[test]
fn what_a_request_may_do_without_a_token() {
    let lost = TerminalReason::LostRotation;
    for (phase, verdict) in [
        (Phase::Idle, Verdict::Start),
        (Phase::Flying, Verdict::Wait),
        (Phase::HeldLease(OLD + 1), Verdict::Hold(hold(OLD + 1))),
        (Phase::HeldLease(OLD), Verdict::Start),
        (Phase::Ended(lost), Verdict::NeedsLogin(lost)),
    ] {
        assert_eq!(state(phase).want(None, at(OLD)), verdict, "{phase:?}");
    }
    // Whoever asks after a logout is told so, whatever is on its way.
    let logged_out = TerminalReason::LoggedOut;
    let mut flying = State { end: Some(logged_out), ..state(Phase::Flying) };
    assert_eq!(flying.want(None, at(OLD)), Verdict::NeedsLogin(logged_out));
    // Whoever asks while an operator has it tried all the same waits for that.
    let mut ended = state(Phase::Ended(lost));
    assert_eq!(ended.force(at(OLD)), Verdict::Start);
    assert_eq!(ended.want(None, at(OLD)), Verdict::Wait);
}

#[test]
fn however_many_ask_one_starts() {
    let mut state = State::default();
    let verdicts: Vec<_> = (0..1000).map(|_| state.want(None, at(OLD))).collect();
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    assert_eq!((count(Verdict::Start), count(Verdict::Wait)), (1, 999));
}

/// E20: but a token that was worth it may be replaced at once.
#[test]
fn flights_start_a_second_apart() {
    let floor = |until| Verdict::Hold(Hold { until: at(until), why: FailureReason::Floor });
    let spent = token_living(1, Some(seconds(OLD - ISSUED)));
    let mut state = State::default();
    assert_eq!(state.want(Some(&spent), at(OLD)), Verdict::Start);
    state.finish(Outcome::Landed, at(OLD), 0.0);
    assert_eq!(state.want(Some(&spent), at(OLD)), floor(OLD + 1));
    assert_eq!(state.want(None, at(OLD)), floor(OLD + 1));
    let fresh = token(2);
    assert_eq!(reject(&mut state, &fresh, OLD), floor(OLD + 1), "that is sat out");
    assert!(
        !state.tick(Standing { upkeep: Some(at(OLD).wall), ..Standing::default() }, at(OLD)).start
    );
    let later = Moment { running: at(OLD).running, ..at(OLD + 1) };
    assert_eq!(state.want(None, later), Verdict::Start);
    state.finish(Outcome::Landed, at(OLD + 1), 0.0);
    assert!(spent.accept(TARGET));
    assert_eq!(state.want(Some(&spent), at(OLD + 1)), Verdict::Start);
}

// ----- how flights end -----

#[test]
fn how_long_a_server_is_left_alone() {
    use RetryPace::{Growing, Long, Short, Unsent};
    for (pace, wish, jitter, pauses) in [
        (Unsent, None, 0.0, [1, 2, 4, 5, 5, 5, 5, 5, 5, 5, 5]),
        (Short, None, 0.0, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]),
        (Growing, None, 0.0, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]),
        (Long, None, 0.0, [60, 120, 240, 480, 900, 900, 900, 900, 900, 900, 900]),
        // Half of it at most is taken off at random.
        (Long, None, 1.0, [30, 60, 120, 240, 450, 450, 450, 450, 450, 450, 450]),
        // The longer of both counts.
        (Short, Some(20), 0.0, [20, 20, 20, 20, 20, 32, 60, 60, 60, 60, 60]),
        (Short, Some(3600), 1.0, [3600; 11]),
    ] {
        let mut state = State::default();
        for pause in pauses {
            state.finish(failed(pace, wish), at(OLD), jitter);
            assert_eq!(state.hold(at(OLD)), Some(hold(OLD + pause)), "{pace:?} {wish:?} {jitter}");
            assert_eq!(state.hold(at(OLD + pause)), None);
        }
    }
}

/// E16: what one kind of failure has grown does not become another one's.
#[test]
fn each_kind_of_failure_is_counted_for_itself() {
    let mut state = State::default();
    for _ in 0..6 {
        state.finish(failed(RetryPace::Short, None), at(OLD), 0.0);
    }
    for (pace, pause) in [
        (RetryPace::Growing, 1),
        (RetryPace::Growing, 2),
        (RetryPace::Long, 60),
        (RetryPace::Short, 1),
        (RetryPace::Unsent, 1),
    ] {
        state.finish(failed(pace, None), at(OLD), 0.0);
        assert_eq!(state.hold(at(OLD)), Some(hold(OLD + pause)), "{pace:?}");
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
        let mut state = State { failures: u32::MAX - 1, pace: Some(pace), ..State::default() };
        for _ in 0..3 {
            state.finish(failed(pace, None), at(OLD), 0.0);
            assert_eq!(state.hold(at(OLD)), Some(hold(OLD + longest)));
        }
    }
}

#[test]
fn a_success_ends_the_backoff() {
    let mut state = State::default();
    for _ in 0..5 {
        state.finish(failed(RetryPace::Short, None), at(OLD), 0.0);
    }
    assert_eq!(state.failing(), Some((WHY, at(OLD))));
    state.finish(Outcome::Landed, at(OLD), 0.0);
    assert_eq!((state.hold(at(OLD)), state.failing()), (None, None));
    state.finish(failed(RetryPace::Short, None), at(OLD + 9), 0.0);
    assert_eq!(state.hold(at(OLD + 9)), Some(hold(OLD + 10)));
    assert_eq!(state.failing(), Some((WHY, at(OLD + 9))));
}

/// As when an answer takes as long as its token lives.
#[test]
fn whoever_finds_that_the_next_token_is_over_already_waits_for_the_one_after_it() {
    let (rejected, next) = (token(1), token_living(2, Some(seconds(1))));
    for resendable in [true, false] {
        let mut state = State::default();
        state.depart(true, at(OLD - 60));
        state.evidence.force(rejected.generation, false, at(OLD - 60));
        state.finish(Outcome::Landed, at(OLD), 0.0);
        let rejection = Rejection { resendable, ..rejection(&rejected) };
        let found = state.reject(rejection, Some(&next), at(OLD));
        assert_eq!(found, if resendable { Verdict::Start } else { Verdict::PassOn });
        assert_eq!(state.in_flight(), resendable);
    }
}

/// A late replay is put off for the sake of a token that an API has just rejected.
#[test]
fn a_rejection_ends_the_wait_for_the_end_of_the_rejected_token() {
    for (why, generation, verdict) in [
        (FailureReason::AnswersLost, 1, Verdict::Start),
        (FailureReason::AnswersLost, 2, Verdict::PassOn),
        (WHY, 1, Verdict::PassOn),
    ] {
        let hold = Hold { why, ..hold(OVER) };
        let mut state = State { hold: Some(hold), ..State::default() };
        let (rejected, current) = (token(1), token(generation));
        // Rejected it may have been before it was found to be too old.
        current.reject();
        let found = state.reject(rejection(&rejected), Some(&current), at(OLD));
        assert_eq!(found, verdict, "{why:?}, {generation}");
    }
}

#[test]
fn a_clock_that_is_set_back_by_any_amount_freezes_neither_a_failure_nor_a_pause() {
    for back in [1, 600, 3599, 4000, 900_000] {
        let now = |now: u64| showing(now - back, now);
        let mut held = state(Phase::HeldLease(OLD + 60));
        assert_eq!(held.want(None, now(OLD + 59)), Verdict::Hold(hold(OLD + 60)));
        assert_eq!(held.want(None, now(OLD + 60)), Verdict::Start);

        let (mut state, first, second) = (State::default(), token(1), token_living(2, None));
        assert_eq!(reject(&mut state, &first, OLD), Verdict::Start);
        rejected_again(&mut state, &second, OLD);
        let again = Rejection { target: OTHER, settled: true, ..rejection(&second) };
        assert_eq!(state.reject(again, Some(&second), now(OLD + 29)), Verdict::PassOn);
        assert_eq!(state.reject(again, Some(&second), now(OLD + 30)), Verdict::Start);
        // Nor the second between two flights.
        state.finish(Outcome::Landed, now(OLD + 30), 0.0);
        assert_eq!(state.want(None, now(OLD + 31)), Verdict::Start);
    }
}

#[test]
fn a_token_ends_after_its_lifetime_also_by_a_clock_that_was_set_back() {
    for back in [1, 600, 3600, 900_000] {
        let token = token(1);
        let want =
            |age| State::default().want(Some(&token), showing(ISSUED + age - back, ISSUED + age));
        assert_eq!(want(back.min(3299)), Verdict::Use);
        assert_eq!(want(3300), Verdict::UseAndStart, "in the margin");
        assert_eq!(want(3600), Verdict::Start, "over");
    }
}

// ----- what an operator wants -----

/// E12.
#[test]
fn an_operator_gets_a_flight_whatever_is_known() {
    for phase in [Phase::Idle, Phase::HeldLease(OLD + 600), Phase::Ended(TerminalReason::Revoked)] {
        let mut state = State { departed: Some(at(OLD)), ..state(phase) };
        assert_eq!(state.force(at(OLD)), Verdict::Start, "{phase:?}");
        assert_eq!(state.force(at(OLD)), Verdict::Wait, "one at a time");
    }
}
