//! The machine for any sequence of events.

use proptest::prelude::*;

use super::*;

/// What happens to one credential.
#[derive(Clone, Debug)]
enum Event {
    /// So many milliseconds.
    Pass(u64),
    /// The wall clock, by so many seconds.
    SetBack(u64),
    Ask,
    /// A token so many generations back is rejected, by a request that has come so far.
    Reject {
        back: usize,
        target: u64,
        resendable: bool,
        renewed: bool,
        settled: bool,
    },
    /// A token so many generations back is accepted.
    Accept {
        back: usize,
        target: u64,
        renewed: bool,
    },
    Tick {
        upkeep: bool,
    },
    Force,
    /// The flight lands, if there is one.
    Land(Ending),
    /// Another process stored a newer token, or found that the grant is dead.
    Adopt {
        alive: bool,
    },
}

#[derive(Clone, Debug)]
enum Ending {
    Refreshed { lifetime: Option<u64> },
    Failed { pace: RetryPace, wish: Option<u64> },
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

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        6 => prop::option::of(prop_oneof![1..60_u64, 1..7200_u64])
            .prop_map(|lifetime| Ending::Refreshed { lifetime }),
        3 => (any_pace(), prop::option::of(0..3600_u64))
            .prop_map(|(pace, wish)| Ending::Failed { pace, wish }),
        1 => Just(Ending::NeedsLogin),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let millis = prop_oneof![0..1500_u64, 0..5000_u64, 0..600_000_u64, 0..8_000_000_u64];
    let rejected = (0..3_usize, 0..4_u64, any::<[bool; 3]>());
    prop_oneof![
        6 => millis.prop_map(Event::Pass),
        1 => (0..10_000_u64).prop_map(Event::SetBack),
        6 => Just(Event::Ask),
        8 => rejected.prop_map(|(back, target, [resendable, renewed, settled])| {
            Event::Reject { back, target, resendable, renewed, settled }
        }),
        2 => (0..3_usize, 0..4_u64, any::<bool>())
            .prop_map(|(back, target, renewed)| Event::Accept { back, target, renewed }),
        2 => any::<bool>().prop_map(|upkeep| Event::Tick { upkeep }),
        1 => Just(Event::Force),
        8 => any_ending().prop_map(Event::Land),
        1 => any::<bool>().prop_map(|alive| Event::Adopt { alive }),
    ]
}

fn any_events(most: usize) -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(any_event(), 0..most)
}

/// Why a flight starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Asked,
    Rejected,
    Operator,
}

/// When the last flight was forced by a target, and whether the next may come at once: the flight failed, or what
/// it brought was accepted.
#[derive(Clone, Copy, Debug, Default)]
struct Forced {
    last: Option<u64>,
    forgiven: bool,
}

/// The machine beside what a reader of the rules would expect of it.
struct Model {
    state: State,
    /// In milliseconds.
    now: u64,
    set_back: Duration,
    /// All there were; the last one is the current one.
    tokens: Vec<Token>,
    in_flight: Option<Cause>,
    needs_login: bool,
    departed: Option<u64>,
    /// By targets that have never accepted a token, and by those that have.
    forced: [Forced; 2],
    /// Of which generation the rejection was that forced the last flight.
    from: Option<Generation>,
    /// When a target has rejected a fresh token.
    blamed: std::collections::BTreeMap<u64, u64>,
}

impl Model {
    fn new() -> Self {
        Self {
            state: State::default(),
            now: ISSUED * 1000,
            set_back: Duration::ZERO,
            tokens: Vec::new(),
            in_flight: None,
            needs_login: false,
            departed: None,
            forced: Default::default(),
            from: None,
            blamed: std::collections::BTreeMap::new(),
        }
    }

    fn moment(&self) -> Moment {
        let running = Duration::from_millis(self.now);
        Moment { wall: UNIX_EPOCH + running - self.set_back, running }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Pass(millis) => self.now += millis,
            Event::SetBack(by) => {
                self.set_back = (self.set_back + seconds(*by)).min(seconds(ISSUED / 2));
            }
            Event::Ask => self.ask(),
            Event::Reject { back, target, resendable, renewed, settled } => {
                let Some(place) = self.tokens.len().checked_sub(1 + back) else { return };
                _ = self.reject(place, *target, *resendable, *renewed, *settled);
            }
            Event::Accept { back, target, renewed } => self.accept(*back, *target, *renewed),
            Event::Tick { upkeep } => self.tick(*upkeep),
            Event::Force => match self.state.force(self.moment()) {
                Verdict::Start => self.starts(Cause::Operator),
                verdict => {
                    assert_eq!(verdict, Verdict::Wait);
                    assert!(self.in_flight.is_some());
                }
            },
            Event::Land(ending) => self.land(ending),
            Event::Adopt { alive } => self.adopt(*alive),
        }
        assert_eq!(self.state.in_flight(), self.in_flight.is_some());
    }

    /// One at a time, none for a dead grant, and not one after the other; but for operators.
    fn starts(&mut self, cause: Cause) {
        assert_eq!(self.in_flight, None, "two flights at once");
        if cause != Cause::Operator {
            assert!(!self.needs_login, "a flight for a dead grant");
            let was_worth_it = self.tokens.last().is_some_and(Token::was_accepted);
            let apart = self.departed.is_none_or(|departed| self.now - departed >= 1000);
            assert!(apart || was_worth_it, "the last flight started less than a second ago");
        }
        self.in_flight = Some(cause);
        self.departed = Some(self.now);
    }

    fn ask(&mut self) {
        let now = self.moment();
        let token = self.tokens.last();
        let usable = token.is_some_and(|token| token.is_usable(now));
        match self.state.want(token, now) {
            Verdict::Use => assert!(usable),
            Verdict::UseAndStart => {
                assert!(usable);
                self.starts(Cause::Asked);
            }
            Verdict::Start => {
                assert!(!usable, "nobody waits while there is a token");
                self.starts(Cause::Asked);
            }
            // Somebody is there to wake whoever waits.
            Verdict::Wait => assert!(!usable && self.in_flight.is_some()),
            Verdict::Hold(hold) => {
                assert!(!usable && self.in_flight.is_none() && !hold.until.is_over(now));
            }
            Verdict::NeedsLogin(_) => assert!(!usable && self.needs_login),
            verdict => panic!("{verdict:?}"),
        }
    }

    fn reject(
        &mut self,
        place: usize,
        target: u64,
        resendable: bool,
        renewed: bool,
        settled: bool,
    ) -> Verdict {
        let now = self.moment();
        let (rejected, token) = (&self.tokens[place], self.tokens.last());
        let newer = token
            .is_some_and(|token| token.generation > rejected.generation && token.is_usable(now));
        let rejection = Rejection { token: rejected, target, resendable, renewed, settled };
        let verdict = self.state.reject(rejection, token, now);
        let (generation, is_good) = (rejected.generation, rejected.was_accepted_by(target));
        if newer {
            let expected = if resendable { Verdict::Use } else { Verdict::PassOn };
            assert_eq!(verdict, expected, "that was the one before");
            return verdict;
        }
        let is_over = |token: &Token| token.left(now).is_some_and(|left| left.is_zero());
        if token.is_some_and(|token| token.generation > rejected.generation && is_over(token)) {
            // Like any request that finds the token over.
            match verdict {
                Verdict::Start => {
                    assert!(resendable);
                    self.starts(Cause::Asked);
                    self.tokens[place].reject();
                }
                Verdict::Wait => assert!(resendable && self.in_flight.is_some()),
                Verdict::Hold(hold) => assert!(resendable && hold.until.left(now) <= SAT_OUT),
                Verdict::PassOn => {}
                _ => panic!("{verdict:?}"),
            }
            return verdict;
        }
        // Whoever waits for the token to become known blames nobody yet.
        let settles = resendable && !settled && rejected.age(now) < settle_times(rejected).1;
        if renewed && !settles {
            self.blamed.entry(target).or_insert(self.now);
        }
        match &verdict {
            Verdict::Settle(wait) => {
                assert!(resendable && !settled && *wait <= SETTLED && self.in_flight.is_none());
            }
            Verdict::Start | Verdict::PassOnAndStart => {
                assert_eq!(resendable, verdict == Verdict::Start);
                self.starts(Cause::Rejected);
                self.pays_for_a_forced_one(target, is_good);
                self.from = Some(generation);
                // As whoever starts the flight does.
                self.tokens[place].reject();
            }
            Verdict::Wait => assert!(resendable && self.in_flight.is_some()),
            Verdict::Hold(hold) => {
                assert!(resendable && self.in_flight.is_none() && hold.until.left(now) <= SAT_OUT);
            }
            Verdict::PassOn => {}
            verdict => panic!("{verdict:?}"),
        }
        verdict
    }

    /// An API that rejects everything costs a flight in 30 s, unless one of them helped; and a target one in 60 s,
    /// whatever others make of it.
    fn pays_for_a_forced_one(&mut self, target: u64, is_good: bool) {
        let forced = &mut self.forced[usize::from(is_good)];
        if let (Some(last), false) = (forced.last, forced.forgiven) {
            assert!(self.now - last >= 30_000, "{} ms after the one before", self.now - last);
        }
        if let Some(blamed) = self.blamed.remove(&target) {
            assert!(self.now - blamed >= 60_000, "target {target} rejected a fresh token");
        }
        *forced = Forced { last: Some(self.now), forgiven: false };
    }

    fn accept(&mut self, back: usize, target: u64, renewed: bool) {
        let Some(place) = self.tokens.len().checked_sub(1 + back) else { return };
        let token = &self.tokens[place];
        if token.accept(target) {
            self.state.accepted(token.generation, renewed);
            if self.from.is_none_or(|from| token.generation > from) {
                let [strange, good] = &mut self.forced;
                good.forgiven = true;
                strange.forgiven |= renewed;
            }
        }
    }

    fn tick(&mut self, upkeep: bool) {
        let now = self.moment();
        let token = self.tokens.last();
        let is_due = token.is_some_and(|token| token.is_usable(now) && token.is_due(now));
        let standing = Standing { token, upkeep: upkeep.then_some(now.wall), grant_end: None };
        if self.state.tick(standing, now).start {
            assert!(upkeep || is_due);
            self.starts(Cause::Asked);
        }
    }

    fn land(&mut self, ending: &Ending) {
        let Some(cause) = self.in_flight.take() else { return };
        let outcome = match ending {
            Ending::Refreshed { lifetime } => {
                self.publish(*lifetime);
                self.state.set_end(None);
                self.needs_login = false;
                Outcome::Landed
            }
            Ending::Failed { pace, wish } => {
                // It says nothing about what new tokens are worth; its own pause holds the next one up.
                let is_forced = cause == Cause::Rejected;
                self.forced.iter_mut().for_each(|forced| forced.forgiven |= is_forced);
                failed(*pace, *wish)
            }
            Ending::NeedsLogin => {
                self.state.set_end(Some(TerminalReason::Revoked));
                self.needs_login = true;
                Outcome::Landed
            }
        };
        self.state.finish(outcome, self.moment(), 0.5);
    }

    /// What is found in the store, which nobody looks at while a flight is under way.
    fn adopt(&mut self, alive: bool) {
        if self.state.in_flight() {
            return;
        }
        self.needs_login = !alive;
        if alive {
            self.publish(Some(3600));
        }
        self.state.set_end((!alive).then_some(TerminalReason::Revoked));
        self.state.succeed();
    }

    fn publish(&mut self, lifetime: Option<u64>) {
        let now = self.moment();
        let generation = u64::try_from(self.tokens.len()).unwrap() + 1;
        let record = TokenRecord {
            issued_at: Some(now.wall),
            expires_at: lifetime.map(|lifetime| now.wall + seconds(lifetime)),
            ..record(generation)
        };
        let mut token = Token::of(&record, Margin::Auto, 0.5, now).unwrap();
        if let Some(before) = self.tokens.last() {
            token.follow(before);
        }
        self.tokens.push(token);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_sequence_of_events_starts_two_flights_or_one_that_must_not_be(
        events in any_events(120),
    ) {
        let mut model = Model::new();
        for event in &events {
            model.happens(event);
        }
    }

    /// Whatever has happened, and wherever the clock was set to.
    #[test]
    fn every_pause_ends(events in any_events(60), back in 0..900_000_u64) {
        let mut model = Model::new();
        for event in &events {
            model.happens(event);
        }
        model.land(&Ending::Failed { pace: RetryPace::Long, wish: Some(3600) });
        model.happens(&Event::SetBack(back));
        model.now += 3_600_000;
        let now = model.moment();
        prop_assert_eq!(model.state.hold(now), None);
        for target in 0..4 {
            for is_good in [false, true] {
                let may_force = model.state.evidence.may_force(Some(target), is_good, now);
                prop_assert!(may_force, "target {}, good: {}", target, is_good);
            }
        }
        let expected = match model.needs_login {
            true => Verdict::NeedsLogin(TerminalReason::Revoked),
            false => Verdict::Start,
        };
        prop_assert_eq!(model.state.want(None, now), expected);
    }

    /// What one request costs an API that rejects everything, with any flight that it waits for: as
    /// `Slot::rejected` counts.
    #[test]
    fn a_request_is_sent_twice_at_most_and_three_times_with_the_wait(
        events in any_events(30), endings in prop::collection::vec((any_ending(), 0..10_u64), 8),
        safe: bool,
    ) {
        let mut model = Model::new();
        model.publish(Some(3600));
        for event in &events {
            model.happens(event);
        }
        let (mut renewed, mut settled, mut was_young, mut sent) = (false, false, false, 1);
        let mut carried = model.tokens.len() - 1;
        for (ending, pause) in endings {
            was_young |= is_young(&model.tokens[carried], model.moment());
            let resendable = sent < if safe && was_young { 3 } else { 2 };
            match model.reject(carried, 0, resendable, renewed, settled) {
                Verdict::PassOn | Verdict::PassOnAndStart => break,
                Verdict::Settle(wait) => {
                    model.now += u64::try_from(wait.as_millis()).unwrap();
                    settled = true;
                }
                // Nothing is sent for it.
                Verdict::Hold(hold) => {
                    let left = hold.until.left(model.moment());
                    model.now += u64::try_from(left.as_millis()).unwrap() + 1;
                    continue;
                }
                Verdict::Start | Verdict::Wait => {
                    model.now += pause * 1000;
                    model.land(&ending);
                    continue;
                }
                Verdict::Use => {}
                verdict => panic!("{verdict:?}"),
            }
            sent += 1;
            let current = model.tokens.len() - 1;
            renewed |= current != carried;
            carried = current;
        }
        prop_assert!(sent <= if safe && was_young { 3 } else { 2 }, "sent {} times", sent);
        prop_assert!(sent < 3 || settled || was_young);
    }

    #[test]
    fn a_failure_is_never_remembered_beyond_the_cap_nor_forgotten_before_the_servers_wish(
        before in 0..200_usize, pace in any_pace(), jitter in 0.0..=1.0,
        wish in prop::option::of(0..=3600_u64), now in 0..DAY,
    ) {
        let mut state = State::default();
        for _ in 0..before {
            state.finish(failed(pace, None), at(now), 1.0);
        }
        state.finish(failed(pace, wish), at(now), jitter);
        let wish = wish.map(seconds).unwrap_or_default();
        let (first, cap) = match pace {
            RetryPace::Unsent => (1, 5),
            RetryPace::Short => (1, 60),
            RetryPace::Growing => (1, 900),
            RetryPace::Long => (60, 900),
        };
        let pause = state.hold(at(now)).unwrap().until.left(at(now));
        prop_assert!(pause >= wish.max(seconds(first) / 2), "{:?}", pause);
        prop_assert!(pause <= wish.max(seconds(cap)), "{:?}", pause);
    }

    #[test]
    fn a_token_is_due_before_it_is_over_and_not_before_half_of_its_life(
        lifetime in prop_oneof![0..120_u64, 0..400 * DAY], jitter in 0.0..=1.0,
        share in 0.0..=1.0, age in 0..800 * DAY,
    ) {
        let expires_at = Some(at(ISSUED + lifetime).wall);
        let record = TokenRecord { expires_at, ..record(1) };
        let token = Token::of(&record, Margin::Share(share), jitter, at(ISSUED)).unwrap();
        let now = at(ISSUED + age);
        prop_assert_eq!(token.is_usable(now), age < lifetime);
        prop_assert!(token.is_due(now) || token.is_usable(now));
        prop_assert!(!token.is_due(now) || age * 2 >= lifetime);
        let is_left_alone = State::default().want(Some(&token), now) == Verdict::Use;
        prop_assert_eq!(is_left_alone, !token.is_due(now));
    }

    #[test]
    fn a_token_without_an_end_is_used_until_it_is_rejected(age in 0..8000 * DAY) {
        let (token, now) = (token_living(1, None), at(ISSUED + age));
        prop_assert!(token.is_usable(now) && !token.is_due(now));
        token.reject();
        prop_assert!(!token.is_usable(now) && token.is_due(now));
    }
}
