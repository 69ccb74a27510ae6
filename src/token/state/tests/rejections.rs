//! What a rejection leads to.

use super::*;

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
        (Phase::HeldLease(OLD + 4), true, false, Verdict::Hold(hold(OLD + 4))),
        (Phase::HeldLease(OLD + 4), false, false, Verdict::PassOn),
        (Phase::HeldLease(OLD + 5), true, false, Verdict::PassOn),
        (Phase::HeldLease(OLD), true, false, Verdict::Start),
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
    for phase in [Phase::Idle, Phase::Flying, Phase::HeldLease(OLD + 60)] {
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
    state.finish(failed(RetryPace::Short, None), at(OLD), 0.0);
    assert_eq!(reject(&mut state, &token, OLD + 1), Verdict::Start);
    // One that nobody had rejected a token for changes nothing of that.
    state.finish(Outcome::Landed, at(OLD + 1), 0.0);
    assert_eq!(state.force(at(OLD + 1)), Verdict::Start);
    state.finish(failed(RetryPace::Short, None), at(OLD + 1), 0.0);
    assert_eq!(reject(&mut state, &token, OLD + 10), Verdict::PassOn);
    assert_eq!(reject(&mut state, &token, OLD + 31), Verdict::Start);
}
