//! Interleavings: many requests, rejections, flights and siblings at once, explored by Shuttle.
//!
//! [`Slot`](crate::token::Slot) itself runs on tokio, which Shuttle does not control. [`Replica`] is a
//! model of it: the same steps in the same order, on Shuttle's mutexes, with the real [`State`] and the
//! real [`Token`]. What is modelled is the atomic pointer to the current token, the watch channel that
//! wakes whoever waits, and of the refresher the lease, the reload and the commit. A change of the order
//! of steps in `slot.rs` has to be made here as well.
//!
//! Nobody has a deadline here: a wake-up that is lost is a deadlock, which Shuttle reports.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::super::state::{Backoff, Outcome, Phase, Rejection, Spent, State, Want};
use super::super::{Generation, Margin, Token};
use crate::clock::Moment;
use crate::secret::Secret;
use crate::store::TokenRecord;

/// Schedules for each test; `BEARERD_SCHEDULES` asks for more.
const SCHEDULES: usize = 1500;
const LIFETIME: Duration = Duration::from_secs(3600);

/// What the replicas share: the store, the authorization server, the API, the time.
struct Shared {
    now: AtomicU64,
    lease: Mutex<()>,
    record: Mutex<TokenRecord>,
    /// Token requests so far, and at this moment.
    asked: AtomicUsize,
    under_way: AtomicUsize,
    /// So many token requests fail before one succeeds.
    failures: AtomicUsize,
    /// The API accepts no token of this generation or before.
    revoked: AtomicU64,
}

impl Shared {
    /// With a record of `generation` that is an hour old and lives two, or with none.
    fn new(generation: u64, failures: usize) -> Arc<Self> {
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

    fn now(&self) -> Moment {
        at(self.now.load(SeqCst))
    }

    fn advance(&self, seconds: u64) {
        self.now.fetch_add(seconds, SeqCst);
    }

    fn accepts(&self, token: &Token) -> bool {
        token.generation.0 > self.revoked.load(SeqCst)
    }

    /// The token endpoint: a strict server, so two at once would be a reuse.
    fn token_request(&self) -> Result<TokenRecord, Outcome> {
        self.asked.fetch_add(1, SeqCst);
        assert_eq!(self.under_way.fetch_add(1, SeqCst), 0, "I1: two token requests at once");
        thread::yield_now();
        let failures = self.failures.load(SeqCst);
        let generation = self.record.lock().unwrap().generation.0;
        self.under_way.fetch_sub(1, SeqCst);
        if failures > 0 {
            self.failures.store(failures - 1, SeqCst);
            let (backoff, why) = (Backoff::Short, "server_trouble");
            return Err(Outcome::Failed { backoff, retry_after: None, why });
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

fn is_usable(record: &TokenRecord, now: Moment) -> bool {
    record.access_token.is_some()
        && !record.rejected
        && record.expires_at.is_none_or(|expires_at| now.wall < expires_at)
}

/// What a flight is for, as `Demand`.
#[derive(Clone, Copy)]
struct Demand {
    seen: u64,
    rejected: bool,
}

/// As `Slot` with its `Refresher`.
struct Replica {
    shared: Arc<Shared>,
    current: Mutex<Option<Arc<Token>>>,
    state: Mutex<State>,
    /// The watch channel: a version, and whoever waits for the next.
    landed: Mutex<u64>,
    landing: Condvar,
    /// The generation last read or written; a flight holds it to its end.
    memory: Mutex<u64>,
    /// Flights so far.
    flights: AtomicUsize,
    /// No request that begins later may get this generation or one before.
    spurned: AtomicU64,
}

impl Replica {
    /// `Slot::open`.
    fn open(shared: &Arc<Shared>) -> Arc<Self> {
        let record = shared.record.lock().unwrap().clone();
        Arc::new(Self {
            shared: Arc::clone(shared),
            current: Mutex::new(Token::of(&record, Margin::Auto, 0.0, shared.now()).map(Arc::new)),
            state: Mutex::default(),
            landed: Mutex::new(0),
            landing: Condvar::new(),
            memory: Mutex::new(record.generation.0),
            flights: AtomicUsize::new(0),
            spurned: AtomicU64::new(0),
        })
    }

    fn load(&self) -> Option<Arc<Token>> {
        self.current.lock().unwrap().clone()
    }

    fn subscribe(&self) -> u64 {
        *self.landed.lock().unwrap()
    }

    /// Waits for a version other than `seen`; which it is.
    fn changed(&self, seen: u64) -> u64 {
        let landed = self.landed.lock().unwrap();
        *self.landing.wait_while(landed, |landed| *landed == seen).unwrap()
    }

    /// Waits until no flight is under way.
    fn rest(&self) {
        let mut seen = self.subscribe();
        while self.state.lock().unwrap().phase == Phase::Refreshing {
            seen = self.changed(seen);
        }
    }

    /// `Slot::token`, without a deadline.
    fn token(self: &Arc<Self>) -> Option<Arc<Token>> {
        let spurned = self.spurned.load(SeqCst);
        let now = self.shared.now();
        let token = self.ask(now)?;
        assert!(token.generation.0 > spurned, "a token that was known to be rejected");
        Some(token)
    }

    fn ask(self: &Arc<Self>, now: Moment) -> Option<Arc<Token>> {
        if let Some(token) = self.load().filter(|token| !token.is_due(now)) {
            return Some(token);
        }
        loop {
            let seen = self.subscribe();
            let now = self.shared.now();
            let (want, token) = {
                let mut state = self.state.lock().unwrap();
                let token = self.load();
                (state.want(token.as_deref(), now), token)
            };
            match (want, token) {
                (Want::Use, Some(token)) => return Some(token),
                (Want::UseAndStart, Some(token)) => {
                    self.start(Demand { seen: token.generation.0, rejected: false });
                    return Some(token);
                }
                (Want::StartAndWait | Want::UseAndStart, token) => {
                    let seen = generation_of(token.as_deref());
                    self.start(Demand { seen, rejected: false });
                }
                (Want::Wait | Want::Use, _) => {}
                (Want::NeedsLogin(_) | Want::Unavailable { .. }, _) => return None,
            }
            self.changed(seen);
        }
    }

    /// `Slot::renew`: the token to send again with, and whether it was only waited for.
    fn renew(
        self: &Arc<Self>,
        rejected: u64,
        renewed: bool,
        settled: usize,
    ) -> Option<(Arc<Token>, bool)> {
        let mut seen = self.subscribe();
        let now = self.shared.now();
        let (verdict, token) = {
            let mut state = self.state.lock().unwrap();
            let token = self.load();
            (state.reject(Generation(rejected), token.as_deref(), now, renewed, settled), token)
        };
        match (verdict, token) {
            (Rejection::Resend, Some(token)) => return Some((token, false)),
            (Rejection::Settle(wait), Some(token)) => {
                self.shared.advance(wait.as_secs());
                return Some((token, true));
            }
            (Rejection::StartAndWait, _) => self.start(Demand { seen: rejected, rejected: true }),
            (Rejection::Wait, _) => {}
            (Rejection::Later(wait), _) => {
                self.shared.advance(wait.as_secs() + 1);
                return self.renew(rejected, renewed, settled);
            }
            (Rejection::PassOn | Rejection::Resend | Rejection::Settle(_), _) => return None,
        }
        loop {
            seen = self.changed(seen);
            let newer = generation_of(self.load().as_deref()) > rejected;
            if newer || self.state.lock().unwrap().phase != Phase::Refreshing {
                break;
            }
        }
        let now = self.shared.now();
        let newer = self.load().filter(|token| token.generation.0 > rejected);
        if newer.is_none() && self.state.lock().unwrap().is_paused_briefly(now) {
            return self.renew(rejected, renewed, settled);
        }
        let token = newer?;
        let newer = token.is_usable(now);
        newer.then_some((token, false))
    }

    /// `Slot::start`.
    fn start(self: &Arc<Self>, demand: Demand) {
        if demand.rejected
            && let Some(token) = self.load()
            && token.generation.0 == demand.seen
        {
            token.reject();
            self.spurned.fetch_max(demand.seen, SeqCst);
        }
        self.flights.fetch_add(1, SeqCst);
        let slot = Arc::clone(self);
        thread::spawn(move || {
            let result = slot.refresh(demand);
            slot.land(result);
        });
    }

    /// `Refresher::refresh`: the lease, the record as it is now, the request, the commit.
    fn refresh(&self, demand: Demand) -> Result<TokenRecord, Outcome> {
        let mut memory = self.memory.lock().unwrap();
        let _lease = self.shared.lease.lock().unwrap();
        let mut record = self.shared.record.lock().unwrap().clone();
        if record.generation.0 <= demand.seen || !is_usable(&record, self.shared.now()) {
            record.rejected |= demand.rejected && record.generation.0 == demand.seen;
            *self.shared.record.lock().unwrap() = record;
            record = self.shared.token_request()?;
            *self.shared.record.lock().unwrap() = record.clone();
        }
        *memory = record.generation.0;
        Ok(record)
    }

    /// `Slot::land`: publishes before the state says that the flight is over, and wakes at last.
    fn land(&self, result: Result<TokenRecord, Outcome>) {
        let mut state = self.state.lock().unwrap();
        let outcome = match result {
            Ok(record) => {
                self.publish(&record);
                Outcome::Refreshed
            }
            Err(outcome) => outcome,
        };
        let spent = Spent { requests: 1, lifetime: Some(LIFETIME) };
        state.finish(outcome, spent, self.shared.now(), 0.0);
        drop(state);
        self.wake();
    }

    fn wake(&self) {
        *self.landed.lock().unwrap() += 1;
        self.landing.notify_all();
    }

    fn publish(&self, record: &TokenRecord) {
        let token = Token::of(record, Margin::Auto, 0.0, self.shared.now()).map(Arc::new);
        let before = std::mem::replace(&mut *self.current.lock().unwrap(), token);
        let before = generation_of(before.as_deref());
        assert!(record.generation.0 >= before, "I5: {before} was replaced by an older one");
    }

    /// One round of `watch_store`: `Refresher::look`, then `Slot::adopt`.
    fn look(&self) {
        let found = {
            // Not while a flight is under way, which will see for itself.
            let Ok(mut memory) = self.memory.try_lock() else { return };
            let record = self.shared.record.lock().unwrap().clone();
            if record.generation.0 <= *memory {
                return;
            }
            *memory = record.generation.0;
            record
        };
        let mut state = self.state.lock().unwrap();
        if state.adopt(Outcome::Refreshed, self.shared.now()) {
            self.publish(&found);
        }
        drop(state);
        self.wake();
    }

    /// One request of an application, as `forward` sends it: was it accepted, and how often sent?
    fn request(self: &Arc<Self>) -> (bool, usize) {
        let Some(mut token) = self.token() else { return (false, 0) };
        let (mut renewed, mut settled, mut sent) = (false, 0, 0);
        loop {
            sent += 1;
            assert!(sent <= 4, "I8: sent {sent} times");
            if self.shared.accepts(&token) {
                if renewed {
                    self.state.lock().unwrap().accepted();
                }
                return (true, sent);
            }
            match self.renew(token.generation.0, renewed, settled) {
                None => return (false, sent),
                Some((next, false)) => {
                    renewed = true;
                    token = next;
                }
                Some((_, true)) => {
                    settled += 1;
                    let Some(next) = self.token() else { return (false, sent) };
                    token = next;
                }
            }
        }
    }
}

/// `n` requests through each replica at once; how many were accepted.
fn ask_all(replicas: &[Arc<Replica>], n: usize) -> Vec<thread::JoinHandle<(bool, usize)>> {
    let every = replicas.iter().flat_map(|replica| std::iter::repeat_n(replica, n));
    every
        .map(|replica| {
            let replica = Arc::clone(replica);
            thread::spawn(move || replica.request())
        })
        .collect()
}

fn assert_accepted(requests: Vec<thread::JoinHandle<(bool, usize)>>) {
    for request in requests {
        assert!(request.join().unwrap().0, "a request was not accepted");
    }
}

/// Runs `test` under many random schedules, and under many that change course only a few times.
fn explore(test: fn()) {
    let asked = std::env::var("BEARERD_SCHEDULES").ok().and_then(|number| number.parse().ok());
    let schedules = asked.unwrap_or(SCHEDULES);
    shuttle::check_random(test, schedules);
    shuttle::check_pct(test, schedules, 3);
}

#[test]
fn without_a_token_two_replicas_make_one_token_request_and_everybody_is_served() {
    explore(|| {
        let shared = Shared::new(0, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        assert_accepted(ask_all(&replicas, 3));
        assert_eq!(shared.asked.load(SeqCst), 1);
    });
}

#[test]
fn a_revocation_among_requests_costs_one_token_request_and_nobody_a_failure() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        let requests = ask_all(&replicas, 3);
        shared.revoked.store(1, SeqCst);
        assert_accepted(requests);
        assert_accepted(ask_all(&replicas, 1));
        assert_eq!(shared.asked.load(SeqCst), 1);
    });
}

#[test]
fn one_process_alone_starts_no_flight_that_has_nothing_left_to_do() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replica = [Replica::open(&shared)];
        let requests = ask_all(&replica, 2);
        // Due, and not over: some requests go ahead with it while the first flight lands.
        shared.advance(LIFETIME.as_secs() - 200);
        assert_accepted(requests);
        assert_accepted(ask_all(&replica, 2));
        replica[0].rest();
        let flights = replica[0].flights.load(SeqCst);
        assert_eq!(shared.asked.load(SeqCst), flights, "{flights} flights");
    });
}

#[test]
fn an_expiry_among_requests_costs_one_token_request_and_nobody_gets_what_is_over() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        let before = ask_all(&replicas, 2);
        shared.advance(LIFETIME.as_secs());
        // Over: whoever begins now may not get it.
        for replica in &replicas {
            replica.spurned.fetch_max(1, SeqCst);
        }
        let after = ask_all(&replicas, 2);
        assert_accepted(before);
        assert_accepted(after);
        assert_eq!(shared.asked.load(SeqCst), 1);
    });
}

#[test]
fn a_refresh_that_fails_wakes_everybody_and_is_not_repeated_at_once() {
    explore(|| {
        let shared = Shared::new(0, 1);
        let replica = [Replica::open(&shared)];
        let requests = ask_all(&replica, 4);
        for request in requests {
            assert_eq!(request.join().unwrap(), (false, 0));
        }
        assert_eq!(shared.asked.load(SeqCst), 1);
        shared.advance(2);
        assert_accepted(ask_all(&replica, 4));
        assert_eq!(shared.asked.load(SeqCst), 2);
    });
}

#[test]
fn what_a_sibling_stores_is_adopted_among_requests_and_rejections_and_never_undone() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        let looking: Vec<_> = replicas
            .iter()
            .map(|replica| {
                let replica = Arc::clone(replica);
                thread::spawn(move || (0..3).for_each(|_| replica.look()))
            })
            .collect();
        let requests = ask_all(&replicas, 2);
        shared.revoked.store(1, SeqCst);
        shared.advance(60);
        assert_accepted(requests);
        shared.advance(LIFETIME.as_secs());
        assert_accepted(ask_all(&replicas, 2));
        for looking in looking {
            looking.join().unwrap();
        }
        let asked = shared.asked.load(SeqCst);
        assert!((1..=2).contains(&asked), "{asked} token requests");
    });
}
