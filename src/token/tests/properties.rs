//! Properties: arithmetic for any times, and the machine for any sequence of events.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::super::state::{Backoff, Outcome, Phase, Rejection, SAT_OUT, Spent, State, Want};
use super::super::{Generation, Margin, Token};
use crate::clock::Moment;
use crate::secret::Secret;
use crate::store::{TerminalReason, TokenRecord};

const DAY: u64 = 86_400;
/// The longest pause of each kind of backoff.
const SHORT_MAX: Duration = Duration::from_secs(60);
const LONG_MAX: Duration = Duration::from_secs(900);

/// Both clocks go evenly, and nobody sets the wall clock.
fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(seconds);
    Moment { wall: UNIX_EPOCH + running, running }
}

fn token(
    generation: u64,
    issued: u64,
    lifetime: Option<u64>,
    margin: Margin,
    jitter: f64,
) -> Token {
    let record = TokenRecord {
        generation: Generation(generation),
        access_token: Some(Secret::new(format!("at-{generation}"))),
        issued_at: Some(at(issued).wall),
        expires_at: lifetime.map(|lifetime| at(issued + lifetime).wall),
        ..TokenRecord::default()
    };
    Token::of(&record, margin, jitter, at(issued)).unwrap()
}

fn any_margin() -> impl Strategy<Value = Margin> {
    prop_oneof![
        Just(Margin::Auto),
        (0..10 * DAY).prop_map(|seconds| Margin::Fixed(Duration::from_secs(seconds))),
        // Also what the settings refuse.
        (-1.0..3.0).prop_map(Margin::Share),
    ]
}

fn any_backoff() -> impl Strategy<Value = Backoff> {
    prop_oneof![Just(Backoff::Short), Just(Backoff::Long)]
}

fn any_lifetime() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..120_u64, 0..400 * DAY]
}

proptest! {
    #[test]
    fn a_margin_is_never_more_than_half_a_lifetime(
        margin in any_margin(), millis in any_lifetime().prop_map(|seconds| seconds * 1000 + 7),
        jitter in -1.0..2.0,
    ) {
        let lifetime = Duration::from_millis(millis);
        let taken = margin.of(lifetime, lifetime, jitter);
        prop_assert!(taken <= lifetime / 2, "{:?}", taken);
        let most = margin.of(lifetime, lifetime, 0.0);
        prop_assert!(taken <= most && taken + Duration::from_nanos(1) >= most.mul_f64(0.8), "{:?}", taken);
    }

    #[test]
    fn a_token_is_due_before_it_is_over_and_not_before_half_of_its_life(
        margin in any_margin(), lifetime in any_lifetime(), jitter in 0.0..=1.0,
        issued in 0..DAY, now in 0..800 * DAY,
    ) {
        let token = token(1, issued, Some(lifetime), margin, jitter);
        let now = at(now);
        if !token.is_usable(now) {
            prop_assert!(token.is_due(now));
        }
        let due_from = at(issued).after(Duration::from_secs(lifetime) / 2).wall;
        if token.is_due(now) {
            prop_assert!(now.wall >= due_from);
        }
        prop_assert_eq!(token.is_usable(now), now.wall < at(issued + lifetime).wall);
        prop_assert_eq!(State::default().want(Some(&token), now) == Want::Use, !token.is_due(now));
    }

    #[test]
    fn a_token_without_an_end_is_used_until_it_is_rejected(
        margin in any_margin(), issued in 0..DAY, now in 0..8000 * DAY,
    ) {
        let token = token(1, issued, None, margin, 0.0);
        prop_assert!(token.is_usable(at(now)) && !token.is_due(at(now)));
        token.reject();
        prop_assert!(!token.is_usable(at(now)) && token.is_due(at(now)));
    }

    #[test]
    fn a_failure_is_never_remembered_beyond_the_cap_nor_forgotten_before_the_servers_wish(
        before in 0..200_usize, backoff in any_backoff(), jitter in 0.0..=1.0,
        wish in prop::option::of(0..=3600_u64), now in 0..DAY,
    ) {
        let mut state = State::default();
        let failed = |retry_after| Outcome::Failed { backoff, retry_after, why: "server_trouble" };
        for _ in 0..before {
            state.finish(failed(None), Spent::default(), at(now), 1.0);
        }
        let wish = wish.map(Duration::from_secs);
        state.finish(failed(wish), Spent::default(), at(now), jitter);
        let Phase::Failing { until, .. } = state.phase else { panic!("{:?}", state.phase) };
        let (first, cap) = match backoff {
            Backoff::Short => (Duration::from_secs(1), SHORT_MAX),
            Backoff::Long => (Duration::from_secs(60), LONG_MAX),
        };
        let pause = until.left(at(now));
        prop_assert!(pause >= wish.unwrap_or_default().max(first / 2), "{:?}", pause);
        prop_assert!(pause <= wish.unwrap_or_default().max(cap), "{:?}", pause);
    }
}

// ----- the machine, event by event -----

/// What happens to one credential.
#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Ask,
    /// A token so many generations back is rejected, by a request that has come so far.
    Reject {
        back: u64,
        renewed: bool,
        settled: usize,
    },
    /// The flight lands, if there is one.
    Land(Ending),
    /// Another process stored a newer token, or found that the grant is dead.
    Adopt {
        alive: bool,
    },
    Accepted,
}

#[derive(Clone, Debug)]
enum Ending {
    Refreshed { lifetime: Option<u64> },
    Unchanged,
    Failed { backoff: Backoff, retry_after: Option<u64> },
    NeedsLogin,
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        6 => prop::option::of(1..7200_u64).prop_map(|lifetime| Ending::Refreshed { lifetime }),
        1 => Just(Ending::Unchanged),
        3 => (any_backoff(), prop::option::of(0..3600_u64))
            .prop_map(|(backoff, retry_after)| Ending::Failed { backoff, retry_after }),
        1 => Just(Ending::NeedsLogin),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => prop_oneof![0..5_u64, 0..600_u64, 0..8000_u64].prop_map(Event::Pass),
        5 => Just(Event::Ask),
        4 => (0..3_u64, any::<bool>(), 0..4_usize)
            .prop_map(|(back, renewed, settled)| Event::Reject { back, renewed, settled }),
        4 => any_ending().prop_map(Event::Land),
        1 => any::<bool>().prop_map(|alive| Event::Adopt { alive }),
        1 => Just(Event::Accepted),
    ]
}

/// The machine beside what a reader of the specification would expect of it.
struct Model {
    state: State,
    now: u64,
    token: Option<Token>,
    generation: u64,
    in_flight: bool,
    /// Why a person has to act, if one has to.
    needs_login: bool,
    /// Token requests of which a rejection was the reason, by the time of their start.
    forced: Vec<u64>,
    /// A request that was sent again was accepted since the last of them.
    forgiven: bool,
}

impl Model {
    fn new() -> Self {
        Self {
            state: State::default(),
            now: 1_000_000,
            token: None,
            generation: 0,
            in_flight: false,
            needs_login: false,
            forced: Vec::new(),
            forgiven: false,
        }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Pass(seconds) => self.now += seconds,
            Event::Ask => self.ask(),
            Event::Reject { back, renewed, settled } => {
                self.reject(self.generation.saturating_sub(*back), *renewed, *settled);
            }
            Event::Land(ending) => self.land(ending),
            Event::Adopt { alive } => self.adopt(*alive),
            Event::Accepted => {
                self.state.accepted();
                self.forgiven = true;
            }
        }
        assert_eq!(self.state.phase == Phase::Refreshing, self.in_flight);
        assert_eq!(matches!(self.state.phase, Phase::NeedsLogin(_)), self.needs_login);
    }

    /// I1: none is under way. I7: nobody has to log in first.
    fn starts(&mut self) {
        assert!(!self.in_flight, "two token requests at once");
        assert!(!self.needs_login, "a token request for a dead grant");
        self.in_flight = true;
    }

    fn ask(&mut self) {
        let now = at(self.now);
        let usable = self.token.as_ref().is_some_and(|token| token.is_usable(now));
        match self.state.want(self.token.as_ref(), now) {
            Want::Use => assert!(usable),
            Want::UseAndStart => {
                assert!(usable);
                self.starts();
            }
            Want::StartAndWait => {
                assert!(!usable, "nobody waits while there is a token");
                self.starts();
            }
            // Somebody is there to wake whoever waits.
            Want::Wait => assert!(!usable && self.in_flight),
            Want::Unavailable { until, .. } => {
                assert!(!usable && !self.in_flight && !until.is_over(now));
            }
            Want::NeedsLogin(_) => assert!(!usable && self.needs_login),
        }
    }

    fn reject(&mut self, rejected: u64, renewed: bool, settled: usize) {
        let now = at(self.now);
        let token = self.token.as_ref();
        let newer =
            token.is_some_and(|token| token.generation.0 > rejected && token.is_usable(now));
        match self.state.reject(Generation(rejected), token, now, renewed, settled) {
            Rejection::Resend => assert!(newer && !renewed),
            Rejection::Settle(wait) => {
                assert!(settled < 2 && wait <= Duration::from_secs(2) && !self.in_flight);
            }
            Rejection::StartAndWait => {
                assert!(!newer && !renewed);
                self.starts();
                self.pays_for_a_forced_one();
                // What `Slot::start` does.
                if let Some(token) = token_of(&self.token, rejected) {
                    token.reject();
                }
            }
            Rejection::Wait => assert!(!newer && !renewed && self.in_flight),
            Rejection::Later(wait) => {
                assert!(!newer && !renewed && !self.in_flight && wait <= SAT_OUT);
            }
            Rejection::PassOn => {}
        }
    }

    /// An API that rejects everything costs a token request in 30 s, unless one of them helped.
    fn pays_for_a_forced_one(&mut self) {
        if let (Some(last), false) = (self.forced.last(), self.forgiven) {
            assert!(self.now - last >= 30, "{} s after the one before", self.now - last);
        }
        self.forgiven = false;
        self.forced.push(self.now);
    }

    fn land(&mut self, ending: &Ending) {
        if !self.in_flight {
            return;
        }
        self.in_flight = false;
        let lifetime = match ending {
            Ending::Refreshed { lifetime } => lifetime.map(Duration::from_secs),
            _ => None,
        };
        let spent = Spent { requests: 1, lifetime };
        let outcome = match ending {
            Ending::Refreshed { lifetime } => {
                self.publish(*lifetime);
                Outcome::Refreshed
            }
            Ending::Unchanged => Outcome::Unchanged,
            Ending::Failed { backoff, retry_after } => {
                // It says nothing about what new tokens are worth; its own pause holds the next one up.
                self.forgiven = true;
                Outcome::Failed {
                    backoff: *backoff,
                    retry_after: retry_after.map(Duration::from_secs),
                    why: "server_trouble",
                }
            }
            Ending::NeedsLogin => {
                self.needs_login = true;
                Outcome::NeedsLogin(TerminalReason::Revoked)
            }
        };
        self.state.finish(outcome, spent, at(self.now), 0.5);
    }

    fn adopt(&mut self, alive: bool) {
        let outcome = match alive {
            true => Outcome::Refreshed,
            false => Outcome::NeedsLogin(TerminalReason::Revoked),
        };
        let adopted = self.state.adopt(outcome, at(self.now));
        assert_eq!(adopted, !self.in_flight, "a flight under way finds it as well");
        if adopted {
            self.needs_login = !alive;
            if alive {
                self.publish(Some(3600));
            }
        }
    }

    fn publish(&mut self, lifetime: Option<u64>) {
        self.generation += 1;
        self.token = Some(token(self.generation, self.now, lifetime, Margin::Auto, 0.5));
    }
}

fn token_of(token: &Option<Token>, generation: u64) -> Option<&Token> {
    token.as_ref().filter(|token| token.generation.0 == generation)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_sequence_of_events_starts_two_flights_or_one_for_a_dead_grant(
        events in prop::collection::vec(any_event(), 1..120),
    ) {
        let mut model = Model::new();
        for event in &events {
            model.happens(event);
        }
    }

    /// I8: what one request costs an API that rejects everything, with any flight that it waits for.
    #[test]
    fn a_request_is_sent_twice_at_most_and_four_times_with_the_waits(
        events in prop::collection::vec(any_event(), 0..30),
        endings in prop::collection::vec((any_ending(), 0..10_u64), 8),
    ) {
        let mut model = Model::new();
        for event in &events {
            model.happens(event);
        }
        let (mut renewed, mut settled, mut sent) = (false, 0, 1);
        let mut carried = model.generation;
        for (ending, pause) in endings {
            let now = at(model.now);
            let verdict =
                model.state.reject(Generation(carried), model.token.as_ref(), now, renewed, settled);
            match verdict {
                Rejection::PassOn => break,
                Rejection::Settle(wait) => {
                    settled += 1;
                    model.now += wait.as_secs();
                }
                Rejection::Later(wait) => {
                    // Nothing is sent for it.
                    model.now += wait.as_secs() + 1;
                    continue;
                }
                Rejection::Resend => renewed = true,
                Rejection::StartAndWait | Rejection::Wait => {
                    if verdict == Rejection::StartAndWait {
                        model.starts();
                    }
                    model.now += pause;
                    model.land(&ending);
                    let now = at(model.now);
                    let newer = model.token.as_ref().is_some_and(|token| {
                        token.generation.0 > carried && token.is_usable(now)
                    });
                    if !newer {
                        break;
                    }
                    renewed = true;
                }
            }
            sent += 1;
            carried = model.generation;
        }
        prop_assert!(sent <= 2 + settled && sent <= 4, "sent {} times, waited {} times", sent, settled);
    }
}
