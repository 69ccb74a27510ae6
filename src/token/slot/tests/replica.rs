//! A model of a slot and of what slots share, for [`super::interleavings`].
//!
//! [`Slot`](crate::token::Slot) itself runs on tokio, which Shuttle does not control. [`Replica`] has
//! the same steps in the same order, on Shuttle's mutexes, with the real [`State`] and the
//! real [`Token`]. What is modelled is the atomic pointer to the current token, the lock of the ledger, the watch
//! channel that wakes whoever waits, and of a flight the lease, the look into the store, and the commit. A change of
//! the order of steps in `slot.rs`, `ledger.rs` or `flight.rs` has to be made here as well.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use crate::clock::Moment;
use crate::oauth::RetryPace;
use crate::secret::Secret;
use crate::store::{Generation, TokenRecord};
use crate::token::state::{Outcome, Rejection, SAT_OUT, State, Verdict, is_young};
use crate::token::{FailureReason, Margin, Token};

pub(super) const LIFETIME: Duration = Duration::from_secs(3600);
/// What all requests ask for.
const TARGET: u64 = 1;

/// What the replicas share: the store, the authorization server, the API, the time.
pub(super) struct Shared {
    now: AtomicU64,
    lease: Mutex<()>,
    record: Mutex<TokenRecord>,
    /// Token requests so far, and at this moment.
    pub(super) asked: AtomicUsize,
    under_way: AtomicUsize,
    /// So many token requests fail before one succeeds.
    failures: AtomicUsize,
    /// The API accepts no token of this generation or before.
    pub(super) revoked: AtomicU64,
}

impl Shared {
    /// With a record of `generation` that is an hour old and lives two, or with none.
    pub(super) fn new(generation: u64, failures: usize) -> Arc<Self> {
        let now = 1_000_000;
        let record = match generation {
            0 => TokenRecord::default(),
            generation => issued(generation, at(now - LIFETIME.as_secs()), 2 * LIFETIME),
        };
        Arc::new(Self {
            now: AtomicU64::new(now),
            lease: Mutex::new(()),
            record: Mutex::new(record),
            asked: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            failures: AtomicUsize::new(failures),
            revoked: AtomicU64::new(0),
        })
    }

    pub(super) fn now(&self) -> Moment {
        at(self.now.load(SeqCst))
    }

    pub(super) fn advance(&self, seconds: u64) {
        self.now.fetch_add(seconds, SeqCst);
    }

    /// Somebody has waited until `end`, and others may have been faster.
    fn advance_to(&self, end: Moment) {
        self.now.fetch_max(end.running.as_secs(), SeqCst);
    }

    fn accepts(&self, token: &Token) -> bool {
        token.generation.0 > self.revoked.load(SeqCst)
    }

    /// The token endpoint: a strict server, so two at once would be a reuse.
    fn token_request(&self) -> Result<TokenRecord, Outcome> {
        self.asked.fetch_add(1, SeqCst);
        assert_eq!(self.under_way.fetch_add(1, SeqCst), 0, "two token requests at once");
        thread::yield_now();
        let failures = self.failures.load(SeqCst);
        let generation = self.record.lock().unwrap().generation.0;
        self.under_way.fetch_sub(1, SeqCst);
        if failures > 0 {
            self.failures.store(failures - 1, SeqCst);
            let (pace, why) = (RetryPace::Short, FailureReason::Timeout);
            return Err(Outcome::Failed { pace, wish: None, why });
        }
        Ok(issued(generation + 1, self.now(), LIFETIME))
    }
}

/// Both clocks go evenly, and nobody sets the wall clock.
fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(seconds);
    Moment { wall: UNIX_EPOCH + running, running }
}

fn issued(generation: u64, at: Moment, lifetime: Duration) -> TokenRecord {
    TokenRecord {
        generation: Generation(generation),
        access_token: Some(Secret::new(format!("at-{generation}"))),
        issued_at: Some(at.wall),
        expires_at: Some(at.wall + lifetime),
        ..TokenRecord::default()
    }
}

fn generation_of(token: Option<&Token>) -> u64 {
    token.map_or(0, |token| token.generation.0)
}

/// What a flight is for, as `Demand`.
#[derive(Clone, Copy)]
struct Demand {
    seen: u64,
    rejected: bool,
}

/// What is behind the lock of a ledger.
#[derive(Default)]
struct Known {
    state: State,
    record: TokenRecord,
}

/// As `Slot` with its `Ledger`.
pub(super) struct Replica {
    shared: Arc<Shared>,
    current: Mutex<Option<Arc<Token>>>,
    known: Mutex<Known>,
    /// A flight holds it to its end.
    writing: Mutex<()>,
    /// The watch channel: a version, and whoever waits for the next.
    landed: Mutex<u64>,
    landing: Condvar,
    /// Flights so far.
    pub(super) flights: AtomicUsize,
    /// No request that begins later may get this generation or one before.
    pub(super) spurned: AtomicU64,
}

impl Replica {
    /// `Slot::open`.
    pub(super) fn open(shared: &Arc<Shared>) -> Arc<Self> {
        let record = shared.record.lock().unwrap().clone();
        let replica = Arc::new(Self {
            shared: Arc::clone(shared),
            current: Mutex::new(None),
            known: Mutex::new(Known { record, ..Known::default() }),
            writing: Mutex::new(()),
            landed: Mutex::new(0),
            landing: Condvar::new(),
            flights: AtomicUsize::new(0),
            spurned: AtomicU64::new(0),
        });
        replica.publish(&replica.known.lock().unwrap());
        replica
    }

    fn load(&self) -> Option<Arc<Token>> {
        self.current.lock().unwrap().clone()
    }

    fn subscribe(&self) -> u64 {
        *self.landed.lock().unwrap()
    }

    /// Waits for a version other than `seen`.
    fn changed(&self, seen: u64) {
        let landed = self.landed.lock().unwrap();
        drop(self.landing.wait_while(landed, |landed| *landed == seen).unwrap());
    }

    /// Waits until no flight is under way.
    pub(super) fn rest(&self) {
        loop {
            let seen = self.subscribe();
            if !self.known.lock().unwrap().state.in_flight() {
                return;
            }
            self.changed(seen);
        }
    }

    /// `Slot::token`, without a deadline.
    fn token(self: &Arc<Self>) -> Option<Arc<Token>> {
        let spurned = self.spurned.load(SeqCst);
        let now = self.shared.now();
        let fresh = self.load().filter(|token| !token.is_due(now));
        let token = match fresh {
            Some(token) => token,
            None => {
                let want = |state: &mut State, token: Option<&Token>, now| state.want(token, now);
                self.wait_for(want, None)?
            }
        };
        assert!(token.generation.0 > spurned, "a token that was known to be rejected");
        Some(token)
    }

    /// `Slot::rejected`, of a request that comes as far as `Sending` says.
    fn rejected(self: &Arc<Self>, rejected: &Token, sending: &mut Sending) -> Option<Arc<Token>> {
        let now = self.shared.now();
        sending.was_young |= is_young(rejected, now);
        let resendable = sending.sent < if sending.was_young { 3 } else { 2 };
        let Sending { renewed, settled, .. } = *sending;
        if is_young(rejected, now) && resendable {
            self.look();
        }
        let reject = |state: &mut State, token: Option<&Token>, now| {
            let rejection =
                Rejection { token: rejected, target: TARGET, resendable, renewed, settled };
            state.reject(rejection, token, now)
        };
        let token = self.wait_for(reject, Some(rejected.generation.0))?;
        sending.sent += 1;
        sending.settled |= token.generation == rejected.generation;
        sending.renewed |= token.generation != rejected.generation;
        Some(token)
    }

    /// `Slot::wait_for`.
    fn wait_for(
        self: &Arc<Self>,
        ask: impl Fn(&mut State, Option<&Token>, Moment) -> Verdict,
        rejected: Option<u64>,
    ) -> Option<Arc<Token>> {
        let mut waited = false;
        loop {
            let seen = self.subscribe();
            let now = self.shared.now();
            let (verdict, token) = {
                let mut known = self.known.lock().unwrap();
                let token = self.load();
                (ask(&mut known.state, token.as_deref(), now), token)
            };
            if matches!(verdict, Verdict::Start | Verdict::UseAndStart | Verdict::PassOnAndStart) {
                let current = generation_of(token.as_deref());
                self.start(Demand {
                    seen: rejected.unwrap_or(current),
                    rejected: rejected.is_some(),
                });
            }
            match (verdict, token) {
                (Verdict::Use | Verdict::UseAndStart, Some(token)) => return Some(token),
                (Verdict::Settle(wait), Some(_)) => {
                    self.shared.advance(wait.as_secs());
                    return self.load();
                }
                (Verdict::Start | Verdict::Wait | Verdict::Use | Verdict::UseAndStart, _) => {
                    waited = true;
                    self.changed(seen);
                }
                (Verdict::Hold(hold), _) => {
                    if !waited && hold.until.left(now) > SAT_OUT {
                        return None;
                    }
                    self.shared.advance_to(hold.until);
                }
                _ => return None,
            }
        }
    }

    /// `flight::start`.
    fn start(self: &Arc<Self>, demand: Demand) {
        if demand.rejected
            && let Some(token) = self.load()
            && token.generation.0 == demand.seen
        {
            token.reject();
            self.spurned.fetch_max(demand.seen, SeqCst);
        }
        self.flights.fetch_add(1, SeqCst);
        let replica = Arc::clone(self);
        thread::spawn(move || {
            let outcome = replica.fly(demand);
            replica.land(outcome);
        });
    }

    /// `flight::fly`: the lease, the record as it is stored, the request, the commit.
    fn fly(&self, demand: Demand) -> Outcome {
        let _writing = self.writing.lock().unwrap();
        let _lease = self.shared.lease.lock().unwrap();
        let stored = self.shared.record.lock().unwrap().clone();
        let is_news = {
            let mut known = self.known.lock().unwrap();
            if stored.generation >= known.record.generation {
                known.record = stored;
            }
            if demand.rejected && known.record.generation.0 == demand.seen {
                known.record.rejected = true;
            }
            let record = &known.record;
            record.generation.0 > demand.seen && record.is_usable(self.shared.now().wall)
        };
        if is_news {
            return Outcome::Landed;
        }
        match self.shared.token_request() {
            Ok(record) => {
                self.known.lock().unwrap().record = record.clone();
                *self.shared.record.lock().unwrap() = record;
                Outcome::Landed
            }
            Err(outcome) => outcome,
        }
    }

    /// `Ledger::land`: publishes before the state says that the flight is over, and wakes at last.
    fn land(&self, outcome: Outcome) {
        let mut known = self.known.lock().unwrap();
        self.publish(&known);
        known.state.finish(outcome, self.shared.now(), 0.0);
        drop(known);
        self.announce();
    }

    fn announce(&self) {
        *self.landed.lock().unwrap() += 1;
        self.landing.notify_all();
    }

    /// `Ledger::publish`.
    fn publish(&self, known: &Known) {
        let before = self.load();
        let token = Token::of(&known.record, Margin::Auto, 0.0, self.shared.now());
        let token = token.map(|mut token| {
            before.iter().for_each(|before| token.follow(before));
            Arc::new(token)
        });
        *self.current.lock().unwrap() = token;
        let before = generation_of(before.as_deref());
        assert!(known.record.generation.0 >= before, "{before} was replaced by an older one");
    }

    /// `Ledger::look`.
    pub(super) fn look(&self) {
        // Not while a flight is under way, which will see for itself.
        let Ok(_writing) = self.writing.try_lock() else { return };
        let stored = self.shared.record.lock().unwrap().clone();
        let mut known = self.known.lock().unwrap();
        if known.state.in_flight() || stored.generation <= known.record.generation {
            return;
        }
        known.record = stored;
        self.publish(&known);
        known.state.succeed();
        drop(known);
        self.announce();
    }

    /// One request of an application, as `forward` sends it: was it accepted, and how often sent?
    pub(super) fn request(self: &Arc<Self>) -> (bool, u32) {
        let Some(mut token) = self.token() else { return (false, 0) };
        let mut sending = Sending { sent: 1, ..Sending::default() };
        loop {
            assert!(sending.sent <= 3, "sent {} times", sending.sent);
            if self.shared.accepts(&token) {
                if token.accept(TARGET) {
                    let mut known = self.known.lock().unwrap();
                    known.state.accepted(token.generation, sending.renewed);
                }
                return (true, sending.sent);
            }
            match self.rejected(&token, &mut sending) {
                Some(next) => token = next,
                None => return (false, sending.sent),
            }
        }
    }
}

/// As `slot::Sending`.
#[derive(Default)]
struct Sending {
    sent: u32,
    renewed: bool,
    settled: bool,
    was_young: bool,
}
