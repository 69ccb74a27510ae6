//! How rejections are handled.

use super::*;

#[test]
fn a_rejection_of_the_current_token_starts_one_flight_or_is_passed_on() {
    let revoked = MachinePhase::Ended(TerminalReason::Revoked);
    for (phase, can_resend, has_new_token, decision) in [
        (MachinePhase::Idle, true, false, RefreshDecision::Start),
        (MachinePhase::Idle, false, false, RefreshDecision::PassOnAndStart),
        (MachinePhase::Idle, true, true, RefreshDecision::PassOn),
        (MachinePhase::Idle, false, true, RefreshDecision::PassOn),
        (MachinePhase::InFlight, true, false, RefreshDecision::Wait),
        (MachinePhase::InFlight, false, false, RefreshDecision::PassOn),
        (
            MachinePhase::BackingOff(OLD + 4),
            true,
            false,
            RefreshDecision::BackOff(backoff(OLD + 4)),
        ),
        (MachinePhase::BackingOff(OLD + 4), false, false, RefreshDecision::PassOn),
        (MachinePhase::BackingOff(OLD + 5), true, false, RefreshDecision::PassOn),
        (MachinePhase::BackingOff(OLD), true, false, RefreshDecision::Start),
        (revoked, true, false, RefreshDecision::PassOn),
        (revoked, false, false, RefreshDecision::PassOn),
    ] {
        let (mut state, token) = (state(phase), token(1));
        let rejection = Rejection { can_resend, has_new_token, ..rejection(&token) };
        let found = state.record_rejection(rejection, Some(&token), at(OLD));
        assert_eq!(
            found, decision,
            "{phase:?}, can_resend: {can_resend}, has_new_token: {has_new_token}"
        );
    }
}

#[test]
fn a_rejection_counts_only_for_its_own_token() {
    let (old, new) = (token(1), token(2));
    for phase in [MachinePhase::Idle, MachinePhase::InFlight, MachinePhase::BackingOff(OLD + 60)] {
        let mut state = state(phase);
        for has_new_token in [false, true] {
            let rejection = Rejection { has_new_token, ..rejection(&old) };
            assert_eq!(
                state.record_rejection(rejection, Some(&new), at(OLD)),
                RefreshDecision::Use,
                "{phase:?}"
            );
            let rejection = Rejection { can_resend: false, ..rejection };
            assert_eq!(
                state.record_rejection(rejection, Some(&new), at(OLD)),
                RefreshDecision::PassOn
            );
        }
        assert_eq!(state.is_in_flight(), matches!(phase, MachinePhase::InFlight));
        // The rejection affects no pause either.
        for is_trusted in [false, true] {
            assert!(state.limiter.allows(Some(TARGET), is_trusted, at(OLD)));
        }
    }
    // A newer token that has expired does not count.
    let rejection = rejection(&old);
    assert_eq!(
        RefreshState::default().record_rejection(rejection, Some(&new), at(OVER)),
        RefreshDecision::Start
    );
    // The same access token with a newer generation does not count either.
    let mut same = token(2);
    same.first_generation = Generation(1);
    assert_eq!(
        RefreshState::default().record_rejection(rejection, Some(&same), at(OLD)),
        RefreshDecision::Start
    );
}

#[test]
fn a_thousand_rejections_start_one_flight() {
    let (mut state, token) = (RefreshState::default(), token(1));
    let decisions: Vec<_> = (0..1000).map(|_| reject(&mut state, &token, OLD)).collect();
    let count = |wanted| decisions.iter().filter(|decision| **decision == wanted).count();
    assert_eq!((count(RefreshDecision::Start), count(RefreshDecision::Wait)), (1, 999));
}

#[test]
fn a_newly_issued_token_is_retried_once_and_then_replaced() {
    let hour = Some(seconds(3600));
    for (lifetime, age, wait) in [
        (hour, 0, Some(3000)),
        (hour, 2, Some(1000)),
        (hour, 3, None),
        (None, 2, Some(1000)),
        (None, 3, None),
        // A short-lived token is newly issued for a tenth of its lifetime.
        (Some(seconds(20)), 1, Some(1000)),
        (Some(seconds(20)), 2, None),
        (Some(seconds(5)), 0, Some(500)),
        (Some(seconds(5)), 1, None),
    ] {
        let token = token_living(1, lifetime);
        let ask = |has_waited, accepted| {
            let token = token_living(1, lifetime);
            if accepted {
                token.record_acceptance(OTHER);
            }
            let rejection = Rejection { has_waited, ..rejection(&token) };
            RefreshState::default().record_rejection(rejection, Some(&token), at(ISSUED + age))
        };
        let window = |millis| RefreshDecision::ResendAfter(Duration::from_millis(millis));
        let expected = wait.map_or(RefreshDecision::Start, window);
        assert_eq!(ask(false, false), expected, "{lifetime:?}, {age} s old");
        // Another target has accepted the token: this one may not know it yet.
        assert_eq!(ask(false, true), expected, "{lifetime:?}, {age} s old");
        assert_eq!(ask(true, false), RefreshDecision::Start, "{lifetime:?}, {age} s old, waited");
        assert!(!is_newly_issued(&token, at(ISSUED + 5)));
    }
}

/// The next request may succeed with the token. A token that was accepted before has been revoked.
#[test]
fn an_unrepeatable_request_forces_no_refresh_while_the_token_may_be_unknown() {
    for (age, accepted, decision) in [
        (0, false, RefreshDecision::PassOn),
        (4, false, RefreshDecision::PassOn),
        (5, false, RefreshDecision::PassOnAndStart),
        (0, true, RefreshDecision::PassOnAndStart),
    ] {
        let token = token(1);
        if accepted {
            token.record_acceptance(OTHER);
        }
        let rejection = Rejection { can_resend: false, ..rejection(&token) };
        let found =
            RefreshState::default().record_rejection(rejection, Some(&token), at(ISSUED + age));
        assert_eq!(found, decision, "{age} s old, accepted: {accepted}");
    }
}

#[test]
fn while_new_tokens_are_rejected_the_pause_doubles_from_30_s_to_10_min() {
    let (mut state, mut now) = (RefreshState::default(), OLD);
    // Each rejection comes from another target, so that no target pause applies.
    let ask = |state: &mut RefreshState, generation, now: u64| {
        let token = token_living(generation, None);
        let rejection = Rejection { target: now, ..rejection(&token) };
        state.record_rejection(rejection, Some(&token), at(now))
    };
    assert_eq!(ask(&mut state, 1, now), RefreshDecision::Start);
    rejected_again(&mut state, &token_living(2, None), now);
    for (generation, pause) in [(2, 30), (3, 60), (4, 120), (5, 240), (6, 480), (7, 600), (8, 600)]
    {
        assert_eq!(
            ask(&mut state, generation, now + pause - 1),
            RefreshDecision::PassOn,
            "{pause} s"
        );
        now += pause;
        assert_eq!(ask(&mut state, generation, now), RefreshDecision::Start, "{pause} s");
        // A generation that does not help counts once.
        rejected_again(&mut state, &token_living(generation + 1, None), now);
        for _ in 0..10 {
            assert_eq!(ask(&mut state, generation + 1, now + 1), RefreshDecision::PassOn);
        }
    }
}

/// E31: one path always answers 401, and then the token is revoked.
#[test]
fn a_target_that_rejects_every_token_does_not_delay_others() {
    let (mut state, tokens) = (RefreshState::default(), [1, 2, 3, 4].map(token));
    let ask = |state: &mut RefreshState, token: &AccessToken, target, now| {
        state.record_rejection(Rejection { target, ..rejection(token) }, Some(token), at(now))
    };
    assert_eq!(ask(&mut state, &tokens[0], TARGET, OLD), RefreshDecision::Start);
    rejected_again(&mut state, &tokens[1], OLD + 1);
    // The other target accepted a token before and now rejects it.
    assert!(tokens[1].record_acceptance(OTHER));
    state.record_acceptance(Generation(2), false);
    assert_eq!(ask(&mut state, &tokens[1], TARGET, OLD + 2), RefreshDecision::PassOn);
    assert_eq!(ask(&mut state, &tokens[1], OTHER, OLD + 2), RefreshDecision::Start);
    state.finish_flight(FlightOutcome::Completed, at(OLD + 2), 0.0);
    assert!(tokens[2].record_acceptance(OTHER));
    state.record_acceptance(Generation(3), true);
    assert_eq!(ask(&mut state, &tokens[2], TARGET, OLD + 60), RefreshDecision::PassOn, "still");
    assert_eq!(
        ask(&mut state, &tokens[2], TARGET, OLD + 61),
        RefreshDecision::Start,
        "and once more"
    );
    rejected_again(&mut state, &tokens[3], OLD + 61);
    assert_eq!(
        ask(&mut state, &tokens[3], TARGET, OLD + 180),
        RefreshDecision::PassOn,
        "twice as long"
    );
    assert_eq!(ask(&mut state, &tokens[3], TARGET, OLD + 181), RefreshDecision::Start);
}

/// Rejections by targets that never accepted a token do not delay the refresh for those that did.
#[test]
fn untrusted_targets_do_not_delay_trusted_ones() {
    let (mut state, token, next) = (RefreshState::default(), token(1), token(2));
    token.record_acceptance(OTHER);
    for target in 100..110 {
        let untrusted = Rejection { target, ..rejection(&token) };
        let expected = if target == 100 { RefreshDecision::Start } else { RefreshDecision::PassOn };
        assert_eq!(state.record_rejection(untrusted, Some(&token), at(OLD + target)), expected);
        state.finish_flight(FlightOutcome::Completed, at(OLD + target), 0.0);
    }
    let trusted = |token| Rejection { target: OTHER, ..rejection(token) };
    assert_eq!(
        state.record_rejection(trusted(&token), Some(&token), at(OLD + 111)),
        RefreshDecision::Start
    );
    state.finish_flight(FlightOutcome::Completed, at(OLD + 111), 0.0);
    // The new token is not accepted yet, so the next forced refresh has to wait.
    assert_eq!(
        state.record_rejection(trusted(&next), Some(&next), at(OLD + 112)),
        RefreshDecision::PassOn
    );
}

#[test]
fn an_accepted_request_resets_the_pauses() {
    let (mut state, tokens) = (RefreshState::default(), [1, 2, 3].map(token));
    let ask = |state: &mut RefreshState, token: &AccessToken, target, now| {
        state.record_rejection(Rejection { target, ..rejection(token) }, Some(token), at(now))
    };
    assert_eq!(ask(&mut state, &tokens[0], 10, OLD), RefreshDecision::Start);
    rejected_again(&mut state, &tokens[1], OLD);
    assert_eq!(ask(&mut state, &tokens[1], 11, OLD + 1), RefreshDecision::PassOn);
    // The acceptance of the previous token says nothing about the new one.
    state.record_acceptance(Generation(1), true);
    assert_eq!(ask(&mut state, &tokens[1], 11, OLD + 1), RefreshDecision::PassOn);
    state.record_acceptance(Generation(2), true);
    assert_eq!(ask(&mut state, &tokens[1], 11, OLD + 2), RefreshDecision::Start);
    rejected_again(&mut state, &tokens[2], OLD + 2);
    assert_eq!(ask(&mut state, &tokens[2], 11, OLD + 31), RefreshDecision::PassOn);
    assert_eq!(ask(&mut state, &tokens[2], 11, OLD + 32), RefreshDecision::Start);
}

/// No token will replace the rejected one, so that no further request is sent with it.
#[test]
fn with_a_dead_grant_a_rejected_token_is_not_served() {
    let mut state = state(MachinePhase::Ended(TerminalReason::Revoked));
    let (old, new) = (token(1), token(2));
    assert_eq!(state.record_rejection(rejection(&old), Some(&new), at(OLD)), RefreshDecision::Use);
    assert!(new.is_usable(at(OLD)), "the rejection of the previous token marked the new one");
    assert_eq!(reject(&mut state, &new, OLD), RefreshDecision::PassOn);
    assert!(!new.is_usable(at(OLD)));
    let decision = state.request_token(Some(&new), at(OLD));
    assert_eq!(decision, RefreshDecision::NeedsLogin(TerminalReason::Revoked));
}

#[test]
fn a_failed_forced_flight_causes_no_pause_of_its_own() {
    let (mut state, token) = (RefreshState::default(), token(1));
    assert_eq!(reject(&mut state, &token, OLD), RefreshDecision::Start);
    state.finish_flight(failed(RetryPace::Short, None), at(OLD), 0.0);
    assert_eq!(reject(&mut state, &token, OLD + 1), RefreshDecision::Start);
    // A failed flight without a rejection does not change that.
    state.finish_flight(FlightOutcome::Completed, at(OLD + 1), 0.0);
    assert_eq!(state.force_flight(at(OLD + 1)), RefreshDecision::Start);
    state.finish_flight(failed(RetryPace::Short, None), at(OLD + 1), 0.0);
    assert_eq!(reject(&mut state, &token, OLD + 10), RefreshDecision::PassOn);
    assert_eq!(reject(&mut state, &token, OLD + 31), RefreshDecision::Start);
}
