//! A model of a slot and of what slots share, for [`super::interleavings`].
//!
//! [`Slot`](crate::token::Slot) itself runs on tokio, which Shuttle does not control. [`Replica`] has
//! the same steps in the same order, on Shuttle's mutexes, with the real [`RefreshState`] and the
//! real [`AccessToken`]. What is modelled is the atomic pointer to the current token, the lock of the ledger, the watch
//! channel that wakes whoever waits, and of a flight the lease, the look into the store, and the commit. A change of
//! the order of steps in `slot.rs`, `entry.rs` or `flight.rs` has to be made here as well.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use crate::clock::Moment;
use crate::oauth::RetryPace;
use crate::secret::Secret;
use crate::store::{Generation, TokenRecord};
use crate::token::refresh_state::{
    FlightOutcome, MAX_WAITED_BACKOFF, RefreshDecision, RefreshState, Rejection, is_newly_issued,
};
use crate::token::{AccessToken, FailureReason, Margin};

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

    fn accepts(&self, token: &AccessToken) -> bool {
        token.generation.0 > self.revoked.load(SeqCst)
    }

    /// The token endpoint: a strict server, so two at once would be a reuse.
    fn token_request(&self) -> Result<TokenRecord, FlightOutcome> {
        self.asked.fetch_add(1, SeqCst);
        assert_eq!(self.under_way.fetch_add(1, SeqCst), 0, "two token requests at once");
        thread::yield_now();
        let failures = self.failures.load(SeqCst);
        let generation = self.record.lock().unwrap().generation.0;
        self.under_way.fetch_sub(1, SeqCst);
        if failures > 0 {
            self.failures.store(failures - 1, SeqCst);
            let (pace, why) = (RetryPace::Short, FailureReason::Timeout);
            return Err(FlightOutcome::Failed { pace, retry_after: None, reason: why });
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

fn generation_of(token: Option<&AccessToken>) -> u64 {
    token.map_or(0, |token| token.generation.0)
}

/// What a flight is for, as `RefreshRequest`.
#[derive(Clone, Copy)]
struct RefreshRequest {
    seen: u64,
    rejected: bool,
}

/// What is behind the lock of a ledger.
#[derive(Default)]
struct EntryInner {
    state: RefreshState,
    record: TokenRecord,
}

/// As `Slot` with its `CacheEntry`.
pub(super) struct Replica {
    shared: Arc<Shared>,
    current: Mutex<Option<Arc<AccessToken>>>,
    known: Mutex<EntryInner>,
    /// A flight holds it to its end.
    writing: Mutex<()>,
    /// The watch channel: a version, and whoever waits for the next.
    changes: Mutex<u64>,
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
            known: Mutex::new(EntryInner { record, ..EntryInner::default() }),
            writing: Mutex::new(()),
            changes: Mutex::new(0),
            landing: Condvar::new(),
            flights: AtomicUsize::new(0),
            spurned: AtomicU64::new(0),
        });
        replica.publish(&replica.known.lock().unwrap());
        replica
    }

    fn load(&self) -> Option<Arc<AccessToken>> {
        self.current.lock().unwrap().clone()
    }

    fn subscribe(&self) -> u64 {
        *self.changes.lock().unwrap()
    }

    /// Waits for a version other than `seen`.
    fn changed(&self, seen: u64) {
        let changes = self.changes.lock().unwrap();
        drop(self.landing.wait_while(changes, |changes| *changes == seen).unwrap());
    }

    /// Waits until no flight is under way.
    pub(super) fn rest(&self) {
        loop {
            let seen = self.subscribe();
            if !self.known.lock().unwrap().state.is_in_flight() {
                return;
            }
            self.changed(seen);
        }
    }

    /// `Slot::token`, without a deadline.
    fn token(self: &Arc<Self>) -> Option<Arc<AccessToken>> {
        let spurned = self.spurned.load(SeqCst);
        let now = self.shared.now();
        let fresh = self.load().filter(|token| !token.is_due(now));
        let token = match fresh {
            Some(token) => token,
            None => {
                let want = |state: &mut RefreshState, token: Option<&AccessToken>, now| {
                    state.request_token(token, now)
                };
                self.wait_for(want, None)?
            }
        };
        assert!(token.generation.0 > spurned, "a token that was known to be rejected");
        Some(token)
    }

    /// `Slot::rejected`, of a request that comes as far as `ResendState` says.
    fn rejected(
        self: &Arc<Self>,
        rejected: &AccessToken,
        resend: &mut ResendState,
    ) -> Option<Arc<AccessToken>> {
        let now = self.shared.now();
        resend.had_newly_issued_token |= is_newly_issued(rejected, now);
        let can_resend = resend.sent < if resend.had_newly_issued_token { 3 } else { 2 };
        let ResendState { renewed, settled, .. } = *resend;
        if is_newly_issued(rejected, now) && can_resend {
            self.look();
        }
        let reject = |state: &mut RefreshState, token: Option<&AccessToken>, now| {
            let rejection = Rejection {
                token: rejected,
                target: TARGET,
                can_resend,
                has_new_token: renewed,
                has_waited: settled,
            };
            state.record_rejection(rejection, token, now)
        };
        let token = self.wait_for(reject, Some(rejected.generation.0))?;
        resend.sent += 1;
        resend.settled |= token.generation == rejected.generation;
        resend.renewed |= token.generation != rejected.generation;
        Some(token)
    }

    /// `Slot::wait_for`.
    fn wait_for(
        self: &Arc<Self>,
        ask: impl Fn(&mut RefreshState, Option<&AccessToken>, Moment) -> RefreshDecision,
        rejected: Option<u64>,
    ) -> Option<Arc<AccessToken>> {
        let mut waited = false;
        loop {
            let seen = self.subscribe();
            let now = self.shared.now();
            let (verdict, token) = {
                let mut known = self.known.lock().unwrap();
                let token = self.load();
                (ask(&mut known.state, token.as_deref(), now), token)
            };
            if matches!(
                verdict,
                RefreshDecision::Start
                    | RefreshDecision::UseAndStart
                    | RefreshDecision::PassOnAndStart
            ) {
                let current = generation_of(token.as_deref());
                self.start(RefreshRequest {
                    seen: rejected.unwrap_or(current),
                    rejected: rejected.is_some(),
                });
            }
            match (verdict, token) {
                (RefreshDecision::Use | RefreshDecision::UseAndStart, Some(token)) => {
                    return Some(token);
                }
                (RefreshDecision::RetryAfter(wait), Some(_)) => {
                    self.shared.advance(wait.as_secs());
                    return self.load();
                }
                (
                    RefreshDecision::Start
                    | RefreshDecision::Wait
                    | RefreshDecision::Use
                    | RefreshDecision::UseAndStart,
                    _,
                ) => {
                    waited = true;
                    self.changed(seen);
                }
                (RefreshDecision::BackOff(hold), _) => {
                    if !waited && hold.until.left(now) > MAX_WAITED_BACKOFF {
                        return None;
                    }
                    self.shared.advance_to(hold.until);
                }
                _ => return None,
            }
        }
    }

    /// `refresh::start`.
    fn start(self: &Arc<Self>, demand: RefreshRequest) {
        if demand.rejected
            && let Some(token) = self.load()
            && token.generation.0 == demand.seen
        {
            token.mark_rejected();
            self.spurned.fetch_max(demand.seen, SeqCst);
        }
        self.flights.fetch_add(1, SeqCst);
        let replica = Arc::clone(self);
        thread::spawn(move || {
            let outcome = replica.fly(demand);
            replica.land(outcome);
        });
    }

    /// `refresh::fly`: the lease, the record as it is stored, the request, the commit.
    fn fly(&self, demand: RefreshRequest) -> FlightOutcome {
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
            return FlightOutcome::Completed;
        }
        match self.shared.token_request() {
            Ok(record) => {
                self.known.lock().unwrap().record = record.clone();
                *self.shared.record.lock().unwrap() = record;
                FlightOutcome::Completed
            }
            Err(outcome) => outcome,
        }
    }

    /// `CacheEntry::land`: publishes before the state says that the flight is over, and wakes at last.
    fn land(&self, outcome: FlightOutcome) {
        let mut known = self.known.lock().unwrap();
        self.publish(&known);
        known.state.finish_flight(outcome, self.shared.now(), 0.0);
        drop(known);
        self.notify_waiters();
    }

    fn notify_waiters(&self) {
        *self.changes.lock().unwrap() += 1;
        self.landing.notify_all();
    }

    /// `CacheEntry::publish`.
    fn publish(&self, known: &EntryInner) {
        let before = self.load();
        let token = AccessToken::from_record(&known.record, Margin::Auto, 0.0, self.shared.now());
        let token = token.map(|mut token| {
            before.iter().for_each(|before| token.carry_over_from(before));
            Arc::new(token)
        });
        *self.current.lock().unwrap() = token;
        let before = generation_of(before.as_deref());
        assert!(known.record.generation.0 >= before, "{before} was replaced by an older one");
    }

    /// `CacheEntry::look`.
    pub(super) fn look(&self) {
        // Not while a flight is under way, which will see for itself.
        let Ok(_writing) = self.writing.try_lock() else { return };
        let stored = self.shared.record.lock().unwrap().clone();
        let mut known = self.known.lock().unwrap();
        if known.state.is_in_flight() || stored.generation <= known.record.generation {
            return;
        }
        known.record = stored;
        self.publish(&known);
        known.state.clear_failures();
        drop(known);
        self.notify_waiters();
    }

    /// One request of an application, as `forward` sends it: was it accepted, and how often sent?
    pub(super) fn request(self: &Arc<Self>) -> (bool, u32) {
        let Some(mut token) = self.token() else { return (false, 0) };
        let mut resend = ResendState { sent: 1, ..ResendState::default() };
        loop {
            assert!(resend.sent <= 3, "sent {} times", resend.sent);
            if self.shared.accepts(&token) {
                if token.record_acceptance(TARGET) {
                    let mut known = self.known.lock().unwrap();
                    known.state.record_acceptance(token.generation, resend.renewed);
                }
                return (true, resend.sent);
            }
            match self.rejected(&token, &mut resend) {
                Some(next) => token = next,
                None => return (false, resend.sent),
            }
        }
    }
}

/// As `slot::ResendState`.
#[derive(Default)]
struct ResendState {
    sent: u32,
    renewed: bool,
    settled: bool,
    had_newly_issued_token: bool,
}
