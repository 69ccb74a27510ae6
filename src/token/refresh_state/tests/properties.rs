//! The state machine under any sequence of events.

use proptest::prelude::*;

use super::*;

/// An event of one credential.
#[derive(Clone, Debug)]
enum StateEvent {
    /// Time passes, in milliseconds.
    Pass(u64),
    /// The wall clock is set back by this many seconds.
    SetBack(u64),
    Ask,
    /// A request with a token this many generations old is rejected.
    Reject {
        back: usize,
        target: u64,
        can_resend: bool,
        has_new_token: bool,
        has_waited: bool,
    },
    /// A token this many generations old is accepted.
    Accept {
        back: usize,
        target: u64,
        has_new_token: bool,
    },
    Tick {
        keepalive_at: bool,
    },
    Force,
    /// The flight ends, if there is one.
    FinishFlight(FlightEnd),
    /// Another process stored a newer token, or found that the grant is dead.
    Adopt {
        alive: bool,
    },
}

#[derive(Clone, Debug)]
enum FlightEnd {
    Refreshed { lifetime: Option<u64> },
    Failed { pace: RetryPace, retry_after: Option<u64> },
    NeedsLogin,
}

fn any_pace() -> impl Strategy<Value = RetryPace> {
    prop::sample::select(vec![
        RetryPace::Unsent,
        RetryPace::Short,
        RetryPace::Growing,
        RetryPace::Long,
    ])
}

fn any_ending() -> impl Strategy<Value = FlightEnd> {
    prop_oneof![
        6 => prop::option::of(prop_oneof![1..60_u64, 1..7200_u64])
            .prop_map(|lifetime| FlightEnd::Refreshed { lifetime }),
        3 => (any_pace(), prop::option::of(0..3600_u64))
            .prop_map(|(pace, retry_after)| FlightEnd::Failed { pace, retry_after }),
        1 => Just(FlightEnd::NeedsLogin),
    ]
}

fn any_event() -> impl Strategy<Value = StateEvent> {
    let millis = prop_oneof![0..1500_u64, 0..5000_u64, 0..600_000_u64, 0..8_000_000_u64];
    let rejected = (0..3_usize, 0..4_u64, any::<[bool; 3]>());
    prop_oneof![
        6 => millis.prop_map(StateEvent::Pass),
        1 => (0..10_000_u64).prop_map(StateEvent::SetBack),
        6 => Just(StateEvent::Ask),
        8 => rejected.prop_map(|(back, target, [can_resend, has_new_token, has_waited])| {
            StateEvent::Reject { back, target, can_resend, has_new_token, has_waited }
        }),
        2 => (0..3_usize, 0..4_u64, any::<bool>())
            .prop_map(|(back, target, has_new_token)| StateEvent::Accept { back, target, has_new_token }),
        2 => any::<bool>().prop_map(|keepalive_at| StateEvent::Tick { keepalive_at }),
        1 => Just(StateEvent::Force),
        8 => any_ending().prop_map(StateEvent::FinishFlight),
        1 => any::<bool>().prop_map(|alive| StateEvent::Adopt { alive }),
    ]
}

fn any_events(most: usize) -> impl Strategy<Value = Vec<StateEvent>> {
    prop::collection::vec(any_event(), 0..most)
}

/// Why a flight starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlightCause {
    Asked,
    Rejected,
    Operator,
}

/// When a target last forced a flight, and whether the next may follow at once because the flight failed or its token
/// was accepted.
#[derive(Clone, Copy, Debug, Default)]
struct LastForced {
    last: Option<u64>,
    forgiven: bool,
}

/// The state machine together with an independent model of its rules.
struct StateModel {
    state: RefreshState,
    /// In milliseconds.
    now: u64,
    set_back: Duration,
    /// All tokens so far. The last one is current.
    tokens: Vec<AccessToken>,
    in_flight: Option<FlightCause>,
    needs_login: bool,
    last_started: Option<u64>,
    /// For untrusted and for trusted targets.
    forced: [LastForced; 2],
    /// The generation whose rejection forced the last flight.
    from: Option<Generation>,
    /// When a target rejected a new token.
    blamed_targets: std::collections::BTreeMap<u64, u64>,
}

impl StateModel {
    fn new() -> Self {
        Self {
            state: RefreshState::default(),
            now: ISSUED * 1000,
            set_back: Duration::ZERO,
            tokens: Vec::new(),
            in_flight: None,
            needs_login: false,
            last_started: None,
            forced: Default::default(),
            from: None,
            blamed_targets: std::collections::BTreeMap::new(),
        }
    }

    fn moment(&self) -> Moment {
        let running = Duration::from_millis(self.now);
        Moment { wall: UNIX_EPOCH + running - self.set_back, running }
    }

    fn apply(&mut self, event: &StateEvent) {
        match event {
            StateEvent::Pass(millis) => self.now += millis,
            StateEvent::SetBack(by) => {
                self.set_back = (self.set_back + seconds(*by)).min(seconds(ISSUED / 2));
            }
            StateEvent::Ask => self.ask(),
            StateEvent::Reject { back, target, can_resend, has_new_token, has_waited } => {
                let Some(place) = self.tokens.len().checked_sub(1 + back) else { return };
                _ = self.reject(place, *target, *can_resend, *has_new_token, *has_waited);
            }
            StateEvent::Accept { back, target, has_new_token } => {
                self.record_acceptance(*back, *target, *has_new_token)
            }
            StateEvent::Tick { keepalive_at } => self.tick(*keepalive_at),
            StateEvent::Force => match self.state.force_flight(self.moment()) {
                RefreshDecision::Start => self.check_start(FlightCause::Operator),
                decision => {
                    assert_eq!(decision, RefreshDecision::Wait);
                    assert!(self.in_flight.is_some());
                }
            },
            StateEvent::FinishFlight(ending) => self.finish_flight(ending),
            StateEvent::Adopt { alive } => self.adopt(*alive),
        }
        assert_eq!(self.state.is_in_flight(), self.in_flight.is_some());
    }

    /// Checks that a flight may start: one at a time and, unless an operator starts it, none for a dead grant and none
    /// within the minimum interval.
    fn check_start(&mut self, cause: FlightCause) {
        assert_eq!(self.in_flight, None, "two flights at once");
        if cause != FlightCause::Operator {
            assert!(!self.needs_login, "a flight for a dead grant");
            let was_accepted = self.tokens.last().is_some_and(AccessToken::was_accepted);
            let apart =
                self.last_started.is_none_or(|last_started| self.now - last_started >= 1000);
            assert!(apart || was_accepted, "the last flight started less than a second ago");
        }
        self.in_flight = Some(cause);
        self.last_started = Some(self.now);
    }

    fn ask(&mut self) {
        let now = self.moment();
        let token = self.tokens.last();
        let usable = token.is_some_and(|token| token.is_usable(now));
        match self.state.request_token(token, now) {
            RefreshDecision::Use => assert!(usable),
            RefreshDecision::UseAndStart => {
                assert!(usable);
                self.check_start(FlightCause::Asked);
            }
            RefreshDecision::Start => {
                assert!(!usable, "nobody waits while there is a token");
                self.check_start(FlightCause::Asked);
            }
            // The flight in progress will wake the request.
            RefreshDecision::Wait => assert!(!usable && self.in_flight.is_some()),
            RefreshDecision::BackOff(backoff) => {
                assert!(!usable && self.in_flight.is_none() && !backoff.until.is_over(now));
            }
            RefreshDecision::NeedsLogin(_) => assert!(!usable && self.needs_login),
            decision => panic!("{decision:?}"),
        }
    }

    fn reject(
        &mut self,
        place: usize,
        target: u64,
        can_resend: bool,
        has_new_token: bool,
        has_waited: bool,
    ) -> RefreshDecision {
        let now = self.moment();
        let (rejected, token) = (&self.tokens[place], self.tokens.last());
        let newer = token
            .is_some_and(|token| token.generation > rejected.generation && token.is_usable(now));
        let rejection =
            Rejection { token: rejected, target, can_resend, has_new_token, has_waited };
        let decision = self.state.record_rejection(rejection, token, now);
        let (generation, is_trusted) = (rejected.generation, rejected.was_accepted_by(target));
        if newer {
            let expected = if can_resend { RefreshDecision::Use } else { RefreshDecision::PassOn };
            assert_eq!(decision, expected, "the rejected token was not the current one");
            return decision;
        }
        let is_over = |token: &AccessToken| token.time_left(now).is_some_and(|left| left.is_zero());
        if token.is_some_and(|token| token.generation > rejected.generation && is_over(token)) {
            // The same as for a request that finds an expired token.
            match decision {
                RefreshDecision::Start => {
                    assert!(can_resend);
                    self.check_start(FlightCause::Asked);
                    self.tokens[place].mark_rejected();
                }
                RefreshDecision::Wait => assert!(can_resend && self.in_flight.is_some()),
                RefreshDecision::BackOff(backoff) => {
                    assert!(can_resend && backoff.until.left(now) <= MAX_WAITED_BACKOFF)
                }
                RefreshDecision::PassOn => {}
                _ => panic!("{decision:?}"),
            }
            return decision;
        }
        // A request that waits for the token to become known blames no target yet.
        let should_wait =
            can_resend && !has_waited && rejected.age(now) < propagation_times(rejected).1;
        if has_new_token && !should_wait {
            self.blamed_targets.entry(target).or_insert(self.now);
        }
        match &decision {
            RefreshDecision::ResendAfter(wait) => {
                assert!(
                    can_resend
                        && !has_waited
                        && *wait <= PROPAGATION_DELAY
                        && self.in_flight.is_none()
                );
            }
            RefreshDecision::Start | RefreshDecision::PassOnAndStart => {
                assert_eq!(can_resend, decision == RefreshDecision::Start);
                self.check_start(FlightCause::Rejected);
                self.check_forced_flight(target, is_trusted);
                self.from = Some(generation);
                // The start of the flight does this.
                self.tokens[place].mark_rejected();
            }
            RefreshDecision::Wait => assert!(can_resend && self.in_flight.is_some()),
            RefreshDecision::BackOff(backoff) => {
                assert!(
                    can_resend
                        && self.in_flight.is_none()
                        && backoff.until.left(now) <= MAX_WAITED_BACKOFF
                );
            }
            RefreshDecision::PassOn => {}
            decision => panic!("{decision:?}"),
        }
        decision
    }

    /// Checks the limits of forced flights: one per 30 s unless one helped, and one per 60 s for each blamed target.
    fn check_forced_flight(&mut self, target: u64, is_trusted: bool) {
        let forced = &mut self.forced[usize::from(is_trusted)];
        if let (Some(last), false) = (forced.last, forced.forgiven) {
            assert!(self.now - last >= 30_000, "{} ms after the one before", self.now - last);
        }
        if let Some(blamed_targets) = self.blamed_targets.remove(&target) {
            assert!(self.now - blamed_targets >= 60_000, "target {target} rejected a fresh token");
        }
        *forced = LastForced { last: Some(self.now), forgiven: false };
    }

    fn record_acceptance(&mut self, back: usize, target: u64, has_new_token: bool) {
        let Some(place) = self.tokens.len().checked_sub(1 + back) else { return };
        let token = &self.tokens[place];
        if token.record_acceptance(target) {
            self.state.record_acceptance(token.generation, has_new_token);
            if self.from.is_none_or(|from| token.generation > from) {
                let [untrusted, trusted] = &mut self.forced;
                trusted.forgiven = true;
                untrusted.forgiven |= has_new_token;
            }
        }
    }

    fn tick(&mut self, keepalive_at: bool) {
        let now = self.moment();
        let token = self.tokens.last();
        let is_due = token.is_some_and(|token| token.is_usable(now) && token.is_due(now));
        let input =
            TimerInput { token, keepalive_at: keepalive_at.then_some(now.wall), grant_end: None };
        if self.state.tick(input, now).start {
            assert!(keepalive_at || is_due);
            self.check_start(FlightCause::Asked);
        }
    }

    fn finish_flight(&mut self, ending: &FlightEnd) {
        let Some(cause) = self.in_flight.take() else { return };
        let outcome = match ending {
            FlightEnd::Refreshed { lifetime } => {
                self.publish(*lifetime);
                self.state.set_terminal(None);
                self.needs_login = false;
                FlightOutcome::Completed
            }
            FlightEnd::Failed { pace, retry_after } => {
                // The backoff of the failure applies instead of the pause.
                let is_forced = cause == FlightCause::Rejected;
                self.forced.iter_mut().for_each(|forced| forced.forgiven |= is_forced);
                failed(*pace, *retry_after)
            }
            FlightEnd::NeedsLogin => {
                self.state.set_terminal(Some(TerminalReason::Revoked));
                self.needs_login = true;
                FlightOutcome::Completed
            }
        };
        self.state.finish_flight(outcome, self.moment(), 0.5);
    }

    /// Adopts a record of another process. The store is not reloaded during a flight.
    fn adopt(&mut self, alive: bool) {
        if self.state.is_in_flight() {
            return;
        }
        self.needs_login = !alive;
        if alive {
            self.publish(Some(3600));
        }
        self.state.set_terminal((!alive).then_some(TerminalReason::Revoked));
        self.state.clear_failures();
    }

    fn publish(&mut self, lifetime: Option<u64>) {
        let now = self.moment();
        let generation = u64::try_from(self.tokens.len()).unwrap() + 1;
        let record = TokenRecord {
            issued_at: Some(now.wall),
            expires_at: lifetime.map(|lifetime| now.wall + seconds(lifetime)),
            ..record(generation)
        };
        let mut token = AccessToken::from_record(&record, Margin::Auto, 0.5, now).unwrap();
        if let Some(before) = self.tokens.last() {
            token.carry_over_from(before);
        }
        self.tokens.push(token);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_sequence_of_events_starts_two_flights_or_a_forbidden_one(
        events in any_events(120),
    ) {
        let mut model = StateModel::new();
        for event in &events {
            model.apply(event);
        }
    }

    /// After any events and any clock change.
    #[test]
    fn every_pause_ends(events in any_events(60), back in 0..900_000_u64) {
        let mut model = StateModel::new();
        for event in &events {
            model.apply(event);
        }
        model.finish_flight(&FlightEnd::Failed { pace: RetryPace::Long, retry_after: Some(3600) });
        model.apply(&StateEvent::SetBack(back));
        model.now += 3_600_000;
        let now = model.moment();
        prop_assert_eq!(model.state.backoff(now), None);
        for target in 0..4 {
            for is_trusted in [false, true] {
                let allows = model.state.limiter.allows(Some(target), is_trusted, now);
                prop_assert!(allows, "target {}, good: {}", target, is_trusted);
            }
        }
        let expected = match model.needs_login {
            true => RefreshDecision::NeedsLogin(TerminalReason::Revoked),
            false => RefreshDecision::Start,
        };
        prop_assert_eq!(model.state.request_token(None, now), expected);
    }

    /// Counts how often one request is sent to an API that rejects everything, as `Slot::rejected` does.
    #[test]
    fn a_request_is_sent_at_most_twice_or_three_times_with_the_wait(
        events in any_events(30), endings in prop::collection::vec((any_ending(), 0..10_u64), 8),
        safe: bool,
    ) {
        let mut model = StateModel::new();
        model.publish(Some(3600));
        for event in &events {
            model.apply(event);
        }
        let (mut has_new_token, mut has_waited, mut had_newly_issued_token, mut sent) = (false, false, false, 1);
        let mut carried = model.tokens.len() - 1;
        for (ending, pause) in endings {
            had_newly_issued_token |= is_newly_issued(&model.tokens[carried], model.moment());
            let can_resend = sent < if safe && had_newly_issued_token { 3 } else { 2 };
            match model.reject(carried, 0, can_resend, has_new_token, has_waited) {
                RefreshDecision::PassOn | RefreshDecision::PassOnAndStart => break,
                RefreshDecision::ResendAfter(wait) => {
                    model.now += u64::try_from(wait.as_millis()).unwrap();
                    has_waited = true;
                }
                // The request is not sent.
                RefreshDecision::BackOff(backoff) => {
                    let left = backoff.until.left(model.moment());
                    model.now += u64::try_from(left.as_millis()).unwrap() + 1;
                    continue;
                }
                RefreshDecision::Start | RefreshDecision::Wait => {
                    model.now += pause * 1000;
                    model.finish_flight(&ending);
                    continue;
                }
                RefreshDecision::Use => {}
                decision => panic!("{decision:?}"),
            }
            sent += 1;
            let current = model.tokens.len() - 1;
            has_new_token |= current != carried;
            carried = current;
        }
        prop_assert!(sent <= if safe && had_newly_issued_token { 3 } else { 2 }, "sent {} times", sent);
        prop_assert!(sent < 3 || has_waited || had_newly_issued_token);
    }

    #[test]
    fn a_backoff_never_exceeds_its_cap_nor_undercuts_retry_after(
        before in 0..200_usize, pace in any_pace(), jitter in 0.0..=1.0,
        retry_after in prop::option::of(0..=3600_u64), now in 0..DAY,
    ) {
        let mut state = RefreshState::default();
        for _ in 0..before {
            state.finish_flight(failed(pace, None), at(now), 1.0);
        }
        state.finish_flight(failed(pace, retry_after), at(now), jitter);
        let retry_after = retry_after.map(seconds).unwrap_or_default();
        let (first, cap) = match pace {
            RetryPace::Unsent => (1, 5),
            RetryPace::Short => (1, 60),
            RetryPace::Growing => (1, 900),
            RetryPace::Long => (60, 900),
        };
        let pause = state.backoff(at(now)).unwrap().until.left(at(now));
        prop_assert!(pause >= retry_after.max(seconds(first) / 2), "{:?}", pause);
        prop_assert!(pause <= retry_after.max(seconds(cap)), "{:?}", pause);
    }
}
