//! What the timer does.

use super::*;

/// A state whose timer has run before.
fn started(phase: MachinePhase) -> RefreshState {
    RefreshState { has_ticked: true, ..state(phase) }
}

fn used() -> AccessToken {
    let token = token(1);
    token.mark_used();
    token
}

fn of_token(token: &AccessToken) -> TimerInput<'_> {
    TimerInput { token: Some(token), ..TimerInput::default() }
}

#[test]
fn near_expiry_the_timer_replaces_a_used_token() {
    for (phase, was_used, now, starts) in [
        (MachinePhase::Idle, true, DUE - 1, false),
        (MachinePhase::Idle, true, DUE, true),
        (MachinePhase::Idle, true, OVER - 1, true),
        // An expired token is replaced by the next request.
        (MachinePhase::Idle, true, OVER, false),
        (MachinePhase::Idle, false, DUE, false),
        (MachinePhase::InFlight, true, DUE, false),
        (MachinePhase::BackingOff(DUE + 1), true, DUE, false),
        (MachinePhase::BackingOff(DUE), true, DUE, true),
        (MachinePhase::Ended(TerminalReason::Revoked), true, DUE, false),
    ] {
        let (mut state, token) = (started(phase), if was_used { used() } else { token(1) });
        let found = state.tick(of_token(&token), at(now)).start;
        assert_eq!(found, starts, "{phase:?} {was_used} {now}");
        assert_eq!(state.is_in_flight(), starts || matches!(phase, MachinePhase::InFlight));
    }
}

#[test]
fn at_startup_a_token_near_expiry_is_replaced_before_its_first_use() {
    for (now, starts) in [(DUE - 1, false), (DUE, true), (OVER, false)] {
        let (mut state, token) = (RefreshState::default(), token(1));
        assert_eq!(state.tick(of_token(&token), at(now)).start, starts, "{now}");
        state.finish_flight(FlightOutcome::Completed, at(now), 0.0);
        assert!(!state.tick(of_token(&token), at(OVER - 1)).start, "only once");
    }
}

/// At startup the timer may run before the record has been read.
#[test]
fn a_token_near_expiry_is_replaced_even_if_the_timer_ran_before_there_was_a_token() {
    let (mut state, token) = (RefreshState::default(), token(1));
    assert!(!state.tick(TimerInput::default(), at(DUE)).start, "there is nothing to replace");
    assert!(state.tick(of_token(&token), at(DUE)).start, "the first token was not looked at");
}

#[test]
fn a_refresh_token_is_used_before_it_expires_unused() {
    let keepalive_at = Some(at(ISSUED + 30 * DAY).wall);
    for (phase, now, starts) in [
        (MachinePhase::Idle, ISSUED + 30 * DAY - 1, false),
        (MachinePhase::Idle, ISSUED + 30 * DAY, true),
        (MachinePhase::InFlight, ISSUED + 30 * DAY, false),
        (MachinePhase::BackingOff(ISSUED + 31 * DAY), ISSUED + 30 * DAY, false),
        (MachinePhase::Ended(TerminalReason::LoggedOut), ISSUED + 30 * DAY, false),
    ] {
        // The access token has expired and was not used.
        let token = token(1);
        let input = TimerInput { keepalive_at, ..of_token(&token) };
        assert_eq!(started(phase).tick(input, at(now)).start, starts, "{phase:?}");
    }
}

#[test]
fn the_keepalive_time_depends_on_last_use_and_expiry() {
    let days = |days| Duration::from_secs(days * DAY);
    let after = |pause| Some(at(ISSUED).wall + pause);
    for (keepalive, lifetime, expected) in [
        (None, None, None),
        (Some(days(30)), None, after(days(30))),
        (None, Some(days(30)), after(days(27))),
        (None, Some(days(100)), after(days(93))),
        (Some(days(30)), Some(days(60)), after(days(30))),
        (Some(days(30)), Some(days(20)), after(days(18))),
        // A refresh token with a lifetime of minutes is not kept alive.
        (None, Some(seconds(1800)), None),
        (Some(Duration::MAX), None, None),
    ] {
        let refresh_expires_at = lifetime.map(|lifetime| at(ISSUED).wall + lifetime);
        let record = TokenRecord { refresh_expires_at, ..record(1) };
        assert_eq!(keepalive_at(&record, keepalive), expected, "{keepalive:?} {lifetime:?}");
        for without in [
            TokenRecord { refresh_token: None, ..record.clone() },
            TokenRecord { issued_at: None, ..record },
        ] {
            assert_eq!(keepalive_at(&without, keepalive), None);
        }
    }
}

/// The server never extends the expiry.
#[test]
fn an_expiry_that_is_not_extended_causes_few_requests() {
    let end = at(ISSUED + 30 * DAY).wall;
    let mut record = TokenRecord { refresh_expires_at: Some(end), ..record(1) };
    let mut uses = 0;
    while let Some(due) = keepalive_at(&record, None) {
        record.issued_at = Some(due);
        uses += 1;
    }
    assert!((1..=4).contains(&uses), "{uses} uses");
}

#[test]
fn an_outage_of_15_minutes_is_reported_once() {
    let mut state = started(MachinePhase::Idle);
    for minute in 0..60 {
        let now = at(ISSUED + 60 * minute);
        let tick = state.tick(TimerInput::default(), now);
        assert_eq!(tick.report_outage, minute == 15, "minute {minute}");
        // The kind of failure does not matter.
        let pace = if minute % 2 == 0 { RetryPace::Short } else { RetryPace::Long };
        state.finish_flight(failed(pace, None), now, 0.0);
    }
    state.finish_flight(FlightOutcome::Completed, at(ISSUED + 3600), 0.0);
    assert!(!state.tick(TimerInput::default(), at(ISSUED + 8000)).report_outage);
    // The next outage is reported again.
    state.finish_flight(failed(RetryPace::Short, None), at(ISSUED + 9000), 0.0);
    assert!(!state.tick(TimerInput::default(), at(ISSUED + 9899)).report_outage);
    assert!(state.tick(TimerInput::default(), at(ISSUED + 9900)).report_outage);
}

/// E37.
#[test]
fn the_end_of_a_grant_is_reported_once_a_week_before() {
    let mut state = started(MachinePhase::Idle);
    let mut tick = |end: Option<u64>, day: u64| {
        let grant_end = end.map(|day| at(ISSUED + day * DAY).wall);
        state
            .tick(TimerInput { grant_end, ..TimerInput::default() }, at(ISSUED + day * DAY))
            .report_grant_end
    };
    for (end, day, said) in [
        (None, 0, false),
        (Some(30), 22, false),
        (Some(30), 23, true),
        (Some(30), 24, false),
        (Some(30), 31, false),
        // A new grant, with a later end, is reported again.
        (Some(90), 32, false),
        (Some(90), 83, true),
    ] {
        assert_eq!(tick(end, day), said, "day {day} of {end:?}");
    }
}
