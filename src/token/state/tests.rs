//! The machine as tables: a situation, a question, the answer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::UNIX_EPOCH;

use super::*;
use crate::oauth::Class;
use crate::secret::Secret;
use crate::token::Margin;

#[path = "tests/properties.rs"]
mod properties;

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
const WHY: FailureReason = FailureReason::Answer(Class::Transient);

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
    Held(u64),
    Ended(TerminalReason),
}

fn state(phase: Phase) -> State {
    let state = State::default();
    match phase {
        Phase::Idle => state,
        Phase::Flying => State { in_flight: true, ..state },
        Phase::Held(until) => State { hold: Some(hold(until)), ..state },
        Phase::Ended(reason) => State { end: Some(reason), ..state },
    }
}

fn hold(until: u64) -> Hold {
    Hold { until: at(until), why: WHY }
}

fn failed(pace: Pace, wish: Option<u64>) -> Outcome {
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
        (Phase::Held(OVER + 60), fresh, Verdict::Use),
        (Phase::Held(OVER + 60), DUE, Verdict::Use),
        (Phase::Held(OVER + 60), OVER, Verdict::Hold(hold(OVER + 60))),
        (Phase::Held(OVER + 60), OVER + 59, Verdict::Hold(hold(OVER + 60))),
        (Phase::Held(OVER + 60), OVER + 60, Verdict::Start),
        (Phase::Held(DUE + 10), DUE + 10, Verdict::UseAndStart),
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
        (Phase::Held(OLD + 1), Verdict::Hold(hold(OLD + 1))),
        (Phase::Held(OLD), Verdict::Start),
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

// ----- what a rejection leads to -----

#[test]
fn what_a_rejection_of_the_current_token_leads_to() {
    let revoked = Phase::Ended(TerminalReason::Revoked);
    for (phase, resendable, renewed, verdict) in [
        (Phase::Idle, true, false, Verdict::Start),
        (Phase::Idle, false, false, Verdict::PassOnAndStart),
        (Phase::Idle, true, true, Verdict::PassOn),
        (Phase::Idle, false, true, Verdict::PassOn),
        (Phase::Flying, true, false, Verdict::Wait),
        (Phase::Flying, false, false, Verdict::PassOn),
        (Phase::Held(OLD + 4), true, false, Verdict::Hold(hold(OLD + 4))),
        (Phase::Held(OLD + 4), false, false, Verdict::PassOn),
        (Phase::Held(OLD + 5), true, false, Verdict::PassOn),
        (Phase::Held(OLD), true, false, Verdict::Start),
        (revoked, true, false, Verdict::PassOn),
        (revoked, false, false, Verdict::PassOn),
    ] {
        let (mut state, token) = (state(phase), token(1));
        let rejection = Rejection { resendable, renewed, ..rejection(&token) };
        let found = state.reject(rejection, Some(&token), at(OLD));
        assert_eq!(found, verdict, "{phase:?}, resendable: {resendable}, renewed: {renewed}");
    }
}

#[test]
fn a_rejection_counts_only_for_its_own_token() {
    let (old, new) = (token(1), token(2));
    for phase in [Phase::Idle, Phase::Flying, Phase::Held(OLD + 60)] {
        let mut state = state(phase);
        for renewed in [false, true] {
            let rejection = Rejection { renewed, ..rejection(&old) };
            assert_eq!(state.reject(rejection, Some(&new), at(OLD)), Verdict::Use, "{phase:?}");
            let rejection = Rejection { resendable: false, ..rejection };
            assert_eq!(state.reject(rejection, Some(&new), at(OLD)), Verdict::PassOn);
        }
        assert_eq!(state.in_flight(), matches!(phase, Phase::Flying));
        // It is no evidence of anything either.
        for is_good in [false, true] {
            assert!(state.evidence.may_force(Some(TARGET), is_good, at(OLD)));
        }
    }
    // A newer one that is over is none.
    let rejection = rejection(&old);
    assert_eq!(State::default().reject(rejection, Some(&new), at(OVER)), Verdict::Start);
    // Nor is the very same token under another number.
    let mut same = token(2);
    same.since = Generation(1);
    assert_eq!(State::default().reject(rejection, Some(&same), at(OLD)), Verdict::Start);
}

#[test]
fn a_thousand_rejections_start_one_flight() {
    let (mut state, token) = (State::default(), token(1));
    let verdicts: Vec<_> = (0..1000).map(|_| reject(&mut state, &token, OLD)).collect();
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    assert_eq!((count(Verdict::Start), count(Verdict::Wait)), (1, 999));
}

#[test]
fn a_brand_new_token_is_waited_for_once_and_then_replaced() {
    let hour = Some(seconds(3600));
    for (lifetime, age, wait) in [
        (hour, 0, Some(3000)),
        (hour, 2, Some(1000)),
        (hour, 3, None),
        (None, 2, Some(1000)),
        (None, 3, None),
        // Of short tokens only the first tenth is youth.
        (Some(seconds(20)), 1, Some(1000)),
        (Some(seconds(20)), 2, None),
        (Some(seconds(5)), 0, Some(500)),
        (Some(seconds(5)), 1, None),
    ] {
        let token = token_living(1, lifetime);
        let ask = |settled, accepted| {
            let token = token_living(1, lifetime);
            if accepted {
                token.accept(OTHER);
            }
            let rejection = Rejection { settled, ..rejection(&token) };
            State::default().reject(rejection, Some(&token), at(ISSUED + age))
        };
        let settle = |millis| Verdict::Settle(Duration::from_millis(millis));
        let expected = wait.map_or(Verdict::Start, settle);
        assert_eq!(ask(false, false), expected, "{lifetime:?}, {age} s old");
        // Others are accepted: this one may be behind.
        assert_eq!(ask(false, true), expected, "{lifetime:?}, {age} s old");
        assert_eq!(ask(true, false), Verdict::Start, "{lifetime:?}, {age} s old, waited");
        assert!(!is_young(&token, at(ISSUED + 5)));
    }
}

/// Whoever comes next may find it good; but one that was good already has become bad.
#[test]
fn what_cannot_be_sent_again_forces_nothing_while_the_token_may_be_unknown() {
    for (age, accepted, verdict) in [
        (0, false, Verdict::PassOn),
        (4, false, Verdict::PassOn),
        (5, false, Verdict::PassOnAndStart),
        (0, true, Verdict::PassOnAndStart),
    ] {
        let token = token(1);
        if accepted {
            token.accept(OTHER);
        }
        let rejection = Rejection { resendable: false, ..rejection(&token) };
        let found = State::default().reject(rejection, Some(&token), at(ISSUED + age));
        assert_eq!(found, verdict, "{age} s old, accepted: {accepted}");
    }
}

#[test]
fn while_new_tokens_are_rejected_the_pause_doubles_from_30_s_to_10_min() {
    let (mut state, mut now) = (State::default(), OLD);
    // Each time it is another target that asks: none of them is to blame.
    let ask = |state: &mut State, generation, now: u64| {
        let token = token_living(generation, None);
        let rejection = Rejection { target: now, ..rejection(&token) };
        state.reject(rejection, Some(&token), at(now))
    };
    assert_eq!(ask(&mut state, 1, now), Verdict::Start);
    rejected_again(&mut state, &token_living(2, None), now);
    for (generation, pause) in [(2, 30), (3, 60), (4, 120), (5, 240), (6, 480), (7, 600), (8, 600)]
    {
        assert_eq!(ask(&mut state, generation, now + pause - 1), Verdict::PassOn, "{pause} s");
        now += pause;
        assert_eq!(ask(&mut state, generation, now), Verdict::Start, "{pause} s");
        // However many there are, a generation that does not help counts once.
        rejected_again(&mut state, &token_living(generation + 1, None), now);
        for _ in 0..10 {
            assert_eq!(ask(&mut state, generation + 1, now + 1), Verdict::PassOn);
        }
    }
}

/// E31: one path is answered 401 whatever the token, and then the token is revoked.
#[test]
fn a_target_that_no_token_helps_keeps_no_other_from_being_helped() {
    let (mut state, tokens) = (State::default(), [1, 2, 3, 4].map(token));
    let ask = |state: &mut State, token: &Token, target, now| {
        state.reject(Rejection { target, ..rejection(token) }, Some(token), at(now))
    };
    assert_eq!(ask(&mut state, &tokens[0], TARGET, OLD), Verdict::Start);
    rejected_again(&mut state, &tokens[1], OLD + 1);
    // The other one has accepted a token, and now it does not.
    assert!(tokens[1].accept(OTHER));
    state.accepted(Generation(2), false);
    assert_eq!(ask(&mut state, &tokens[1], TARGET, OLD + 2), Verdict::PassOn);
    assert_eq!(ask(&mut state, &tokens[1], OTHER, OLD + 2), Verdict::Start);
    state.finish(Outcome::Landed, at(OLD + 2), 0.0);
    assert!(tokens[2].accept(OTHER));
    state.accepted(Generation(3), true);
    assert_eq!(ask(&mut state, &tokens[2], TARGET, OLD + 60), Verdict::PassOn, "still");
    assert_eq!(ask(&mut state, &tokens[2], TARGET, OLD + 61), Verdict::Start, "and once more");
    rejected_again(&mut state, &tokens[3], OLD + 61);
    assert_eq!(ask(&mut state, &tokens[3], TARGET, OLD + 180), Verdict::PassOn, "twice as long");
    assert_eq!(ask(&mut state, &tokens[3], TARGET, OLD + 181), Verdict::Start);
}

/// Of targets that have never accepted anything nobody knows what their rejections are worth: those of others are
/// worth the same as ever.
#[test]
fn strange_targets_keep_no_good_one_waiting() {
    let (mut state, token, next) = (State::default(), token(1), token(2));
    token.accept(OTHER);
    for target in 100..110 {
        let strange = Rejection { target, ..rejection(&token) };
        let expected = if target == 100 { Verdict::Start } else { Verdict::PassOn };
        assert_eq!(state.reject(strange, Some(&token), at(OLD + target)), expected);
        state.finish(Outcome::Landed, at(OLD + target), 0.0);
    }
    let good = |token| Rejection { target: OTHER, ..rejection(token) };
    assert_eq!(state.reject(good(&token), Some(&token), at(OLD + 111)), Verdict::Start);
    state.finish(Outcome::Landed, at(OLD + 111), 0.0);
    // What it has brought is not accepted yet, and it is not asked again at once.
    assert_eq!(state.reject(good(&next), Some(&next), at(OLD + 112)), Verdict::PassOn);
}

#[test]
fn an_accepted_request_gives_the_whole_budget_back() {
    let (mut state, tokens) = (State::default(), [1, 2, 3].map(token));
    let ask = |state: &mut State, token: &Token, target, now| {
        state.reject(Rejection { target, ..rejection(token) }, Some(token), at(now))
    };
    assert_eq!(ask(&mut state, &tokens[0], 10, OLD), Verdict::Start);
    rejected_again(&mut state, &tokens[1], OLD);
    assert_eq!(ask(&mut state, &tokens[1], 11, OLD + 1), Verdict::PassOn);
    // What was accepted with the token of before says nothing about the new one.
    state.accepted(Generation(1), true);
    assert_eq!(ask(&mut state, &tokens[1], 11, OLD + 1), Verdict::PassOn);
    state.accepted(Generation(2), true);
    assert_eq!(ask(&mut state, &tokens[1], 11, OLD + 2), Verdict::Start);
    rejected_again(&mut state, &tokens[2], OLD + 2);
    assert_eq!(ask(&mut state, &tokens[2], 11, OLD + 31), Verdict::PassOn);
    assert_eq!(ask(&mut state, &tokens[2], 11, OLD + 32), Verdict::Start);
}

/// Whoever is rejected with a token that nothing will replace is the last to be sent with it.
#[test]
fn with_a_dead_grant_a_rejected_token_is_served_no_more() {
    let mut state = state(Phase::Ended(TerminalReason::Revoked));
    let (old, new) = (token(1), token(2));
    assert_eq!(state.reject(rejection(&old), Some(&new), at(OLD)), Verdict::Use);
    assert!(new.is_usable(at(OLD)), "that was the one before");
    assert_eq!(reject(&mut state, &new, OLD), Verdict::PassOn);
    assert!(!new.is_usable(at(OLD)));
    let verdict = state.want(Some(&new), at(OLD));
    assert_eq!(verdict, Verdict::NeedsLogin(TerminalReason::Revoked));
}

#[test]
fn a_forced_flight_that_failed_is_no_reason_to_pause_for_half_a_minute() {
    let (mut state, token) = (State::default(), token(1));
    assert_eq!(reject(&mut state, &token, OLD), Verdict::Start);
    state.finish(failed(Pace::Short, None), at(OLD), 0.0);
    assert_eq!(reject(&mut state, &token, OLD + 1), Verdict::Start);
    // One that nobody had rejected a token for changes nothing of that.
    state.finish(Outcome::Landed, at(OLD + 1), 0.0);
    assert_eq!(state.force(at(OLD + 1)), Verdict::Start);
    state.finish(failed(Pace::Short, None), at(OLD + 1), 0.0);
    assert_eq!(reject(&mut state, &token, OLD + 10), Verdict::PassOn);
    assert_eq!(reject(&mut state, &token, OLD + 31), Verdict::Start);
}

// ----- how flights end -----

#[test]
fn how_long_a_server_is_left_alone() {
    use Pace::{Growing, Long, Short, Unsent};
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
        state.finish(failed(Pace::Short, None), at(OLD), 0.0);
    }
    for (pace, pause) in [
        (Pace::Growing, 1),
        (Pace::Growing, 2),
        (Pace::Long, 60),
        (Pace::Short, 1),
        (Pace::Unsent, 1),
    ] {
        state.finish(failed(pace, None), at(OLD), 0.0);
        assert_eq!(state.hold(at(OLD)), Some(hold(OLD + pause)), "{pace:?}");
    }
}

#[test]
fn a_backoff_never_overflows() {
    for (pace, longest) in
        [(Pace::Unsent, 5), (Pace::Short, 60), (Pace::Growing, 900), (Pace::Long, 900)]
    {
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
        state.finish(failed(Pace::Short, None), at(OLD), 0.0);
    }
    assert_eq!(state.failing(), Some((WHY, at(OLD))));
    state.finish(Outcome::Landed, at(OLD), 0.0);
    assert_eq!((state.hold(at(OLD)), state.failing()), (None, None));
    state.finish(failed(Pace::Short, None), at(OLD + 9), 0.0);
    assert_eq!(state.hold(at(OLD + 9)), Some(hold(OLD + 10)));
    assert_eq!(state.failing(), Some((WHY, at(OLD + 9))));
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
        let mut held = state(Phase::Held(OLD + 60));
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
    for phase in [Phase::Idle, Phase::Held(OLD + 600), Phase::Ended(TerminalReason::Revoked)] {
        let mut state = State { departed: Some(at(OLD)), ..state(phase) };
        assert_eq!(state.force(at(OLD)), Verdict::Start, "{phase:?}");
        assert_eq!(state.force(at(OLD)), Verdict::Wait, "one at a time");
    }
}

// ----- what the timer does -----

/// A machine that has been running for a while.
fn started(phase: Phase) -> State {
    State { has_started: true, ..state(phase) }
}

fn used() -> Token {
    let token = token(1);
    token.mark_used();
    token
}

fn of_token(token: &Token) -> Standing<'_> {
    Standing { token: Some(token), ..Standing::default() }
}

#[test]
fn near_expiry_a_token_that_was_used_is_replaced_without_a_request() {
    for (phase, was_used, now, starts) in [
        (Phase::Idle, true, DUE - 1, false),
        (Phase::Idle, true, DUE, true),
        (Phase::Idle, true, OVER - 1, true),
        // Once it is over, the next request sees to it.
        (Phase::Idle, true, OVER, false),
        (Phase::Idle, false, DUE, false),
        (Phase::Flying, true, DUE, false),
        (Phase::Held(DUE + 1), true, DUE, false),
        (Phase::Held(DUE), true, DUE, true),
        (Phase::Ended(TerminalReason::Revoked), true, DUE, false),
    ] {
        let (mut state, token) = (started(phase), if was_used { used() } else { token(1) });
        let found = state.tick(of_token(&token), at(now)).start;
        assert_eq!(found, starts, "{phase:?} {was_used} {now}");
        assert_eq!(state.in_flight(), starts || matches!(phase, Phase::Flying));
    }
}

#[test]
fn at_the_start_a_token_near_its_end_is_replaced_before_anybody_uses_it() {
    for (now, starts) in [(DUE - 1, false), (DUE, true), (OVER, false)] {
        let (mut state, token) = (State::default(), token(1));
        assert_eq!(state.tick(of_token(&token), at(now)).start, starts, "{now}");
        state.finish(Outcome::Landed, at(now), 0.0);
        assert!(!state.tick(of_token(&token), at(OVER - 1)).start, "only once");
    }
}

#[test]
fn a_refresh_token_is_used_before_it_dies_of_idleness() {
    let upkeep = Some(at(ISSUED + 30 * DAY).wall);
    for (phase, now, starts) in [
        (Phase::Idle, ISSUED + 30 * DAY - 1, false),
        (Phase::Idle, ISSUED + 30 * DAY, true),
        (Phase::Flying, ISSUED + 30 * DAY, false),
        (Phase::Held(ISSUED + 31 * DAY), ISSUED + 30 * DAY, false),
        (Phase::Ended(TerminalReason::LoggedOut), ISSUED + 30 * DAY, false),
    ] {
        // The access token is long over, and nobody has used it.
        let token = token(1);
        let standing = Standing { upkeep, ..of_token(&token) };
        assert_eq!(started(phase).tick(standing, at(now)).start, starts, "{phase:?}");
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
        (None, Some(seconds(1800)), None),
        (Some(Duration::MAX), None, None),
    ] {
        let refresh_expires_at = lifetime.map(|lifetime| at(ISSUED).wall + lifetime);
        let record = TokenRecord { refresh_expires_at, ..record(1) };
        assert_eq!(upkeep(&record, keepalive), expected, "{keepalive:?} {lifetime:?}");
        for without in [
            TokenRecord { refresh_token: None, ..record.clone() },
            TokenRecord { issued_at: None, ..record },
        ] {
            assert_eq!(upkeep(&without, keepalive), None);
        }
    }
}

/// A server that never moves the end is asked a handful of times on the way to it.
#[test]
fn an_end_that_does_not_move_is_no_stream_of_requests() {
    let end = at(ISSUED + 30 * DAY).wall;
    let mut record = TokenRecord { refresh_expires_at: Some(end), ..record(1) };
    let mut uses = 0;
    while let Some(due) = upkeep(&record, None) {
        record.issued_at = Some(due);
        uses += 1;
    }
    assert!((1..=4).contains(&uses), "{uses} uses");
}

#[test]
fn a_quarter_of_an_hour_of_failures_is_called_out_once() {
    let mut state = started(Phase::Idle);
    for minute in 0..60 {
        let now = at(ISSUED + 60 * minute);
        let tick = state.tick(Standing::default(), now);
        assert_eq!(tick.overdue, minute == 15, "minute {minute}");
        // Whatever kind they are of.
        let pace = if minute % 2 == 0 { Pace::Short } else { Pace::Long };
        state.finish(failed(pace, None), now, 0.0);
    }
    state.finish(Outcome::Landed, at(ISSUED + 3600), 0.0);
    assert!(!state.tick(Standing::default(), at(ISSUED + 8000)).overdue);
    // The next outage is another one.
    state.finish(failed(Pace::Short, None), at(ISSUED + 9000), 0.0);
    assert!(!state.tick(Standing::default(), at(ISSUED + 9899)).overdue);
    assert!(state.tick(Standing::default(), at(ISSUED + 9900)).overdue);
}

/// E37.
#[test]
fn the_end_of_a_grant_is_called_out_a_week_ahead_once() {
    let mut state = started(Phase::Idle);
    let mut tick = |end: Option<u64>, day: u64| {
        let grant_end = end.map(|day| at(ISSUED + day * DAY).wall);
        state.tick(Standing { grant_end, ..Standing::default() }, at(ISSUED + day * DAY)).grant_ends
    };
    for (end, day, said) in [
        (None, 0, false),
        (Some(30), 22, false),
        (Some(30), 23, true),
        (Some(30), 24, false),
        (Some(30), 31, false),
        // A new grant ends later, and is another one.
        (Some(90), 32, false),
        (Some(90), 83, true),
    ] {
        assert_eq!(tick(end, day), said, "day {day} of {end:?}");
    }
}
