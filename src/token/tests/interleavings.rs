//! Interleavings of requests, rejections, flights and processes: Shuttle runs the real [`Slot`] under many schedules.
//!
//! [`explore`] replaces the executor and the timers. There are no deadlines, so that a lost wake-up is a deadlock,
//! which Shuttle reports.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use http::StatusCode;
use shuttle::future::{JoinHandle as ShuttleHandle, block_on, yield_now};

use super::*;
use crate::oauth::{RawAnswer, TokenRequest, Transport, TransportError};
use crate::token::runtime::exploration::explore;

/// Schedules per test and scheduler; `BEARERD_SCHEDULES` sets another number.
const SCHEDULES: usize = 100;
const LIFETIME: Duration = HOUR;
/// The target of all requests.
const TARGET: u64 = 1;

/// An authorization server that rotates refresh tokens and accepts each of them once, and the API behind it.
#[derive(Debug, Default)]
struct StrictServer {
    /// The number of the only valid refresh token, `rt-N`.
    current: AtomicU64,
    token_requests: AtomicUsize,
    open_requests: AtomicUsize,
    /// This many token requests fail before one succeeds.
    failures: AtomicUsize,
    /// The API accepts no token of this generation or an earlier one.
    revoked: AtomicU64,
}

impl Transport for StrictServer {
    fn send(
        &self,
        request: TokenRequest,
        _listen: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>> {
        Box::pin(async move {
            self.token_requests.fetch_add(1, SeqCst);
            assert_eq!(self.open_requests.fetch_add(1, SeqCst), 0, "two token requests at once");
            yield_now().await;
            self.open_requests.fetch_sub(1, SeqCst);
            let fails = |failures: usize| failures.checked_sub(1);
            let failed = self.failures.fetch_update(SeqCst, SeqCst, fails).is_ok();
            let number = self.current.load(SeqCst);
            let presented = format!("refresh_token=rt-{number}");
            let body = request.body.expose().to_owned();
            let is_current = body.split('&').any(|part| part == presented);
            assert!(is_current, "a superseded refresh token was presented: {body}");
            let (status, body) = match failed {
                true => (StatusCode::SERVICE_UNAVAILABLE, json!({})),
                false => {
                    let number = number + 1;
                    self.current.store(number, SeqCst);
                    let access_token = format!("at-{number}");
                    let refresh_token = format!("rt-{number}");
                    let lifetime = LIFETIME.as_secs();
                    let body = json!({"access_token": access_token, "refresh_token": refresh_token, "expires_in": lifetime});
                    (StatusCode::OK, body)
                }
            };
            let body = body.to_string().into_bytes();
            Ok(RawAnswer { status, fields: HeaderMap::new(), body, cut: None })
        })
    }
}

/// What the processes of one exploration share.
struct World {
    clock: Clock,
    server: Arc<StrictServer>,
    store: Store,
    metrics: Metrics,
    config: Config,
}

impl World {
    /// Without a token, or with one that is an hour old and expires in an hour.
    fn new(clock: &Clock, has_token: bool) -> Self {
        let server = Arc::new(StrictServer::default());
        let store = Store::new(Arc::new(MemoryStore::default()), EncryptionKeys::default());
        let mut config = config();
        config.wait = DAY;
        if has_token {
            server.current.store(1, SeqCst);
            let record = TokenRecord {
                generation: Generation(1),
                access_token: secret("at-1"),
                refresh_token: secret("rt-1"),
                issued_at: Some(clock.now() - LIFETIME),
                expires_at: Some(clock.now() + LIFETIME),
                ..TokenRecord::default()
            };
            let put = block_on(store.put("api", Version::ABSENT, None, &record)).unwrap();
            assert!(matches!(put, PutOutcome::Stored(_)), "the record was not stored");
        } else {
            let source = SecretSource::Env("SEED".to_owned());
            config.seed = Some(Seed { source, value: secret("rt-0") });
        }
        Self { clock: clock.clone(), server, store, metrics: Metrics::new(), config }
    }

    /// Starts a process: a slot with a cache of its own.
    fn start_process(&self) -> Arc<Slot> {
        let context = Context {
            control: Handle::current(),
            tasks: Tasks::default(),
            clock: self.clock.clone(),
            store: self.store.clone(),
            cache: TokenCache::default(),
            revision: 1,
            transport: Arc::clone(&self.server) as Arc<dyn Transport>,
            metrics: self.metrics.clone(),
        };
        Arc::new(block_on(Slot::open(self.config.clone(), &context)))
    }

    /// Starts `n` requests in each process.
    fn start_requests(&self, slots: &[Arc<Slot>], n: usize) -> Vec<ShuttleHandle<()>> {
        let every = slots.iter().flat_map(|slot| std::iter::repeat_n(slot, n));
        every
            .map(|slot| {
                let (slot, server) = (Arc::clone(slot), Arc::clone(&self.server));
                let clock = self.clock.clone();
                shuttle::future::spawn(async move { request(&slot, &server, &clock).await })
            })
            .collect()
    }

    fn token_requests(&self) -> usize {
        self.server.token_requests.load(SeqCst)
    }
}

/// One request of an application, which must be accepted in the end.
async fn request(slot: &Slot, server: &StrictServer, clock: &Clock) {
    let unusable = slot.entry.current_token().filter(|it| !it.is_usable(clock.moment()));
    let mut token = slot.token().await.expect("every request gets a token");
    if let Some(unusable) = unusable {
        assert!(token.generation > unusable.generation, "an unusable token was served");
    }
    let mut resend = ResendState::first(TARGET, true);
    for _ in 0..3 {
        yield_now().await;
        if token.generation.0 > server.revoked.load(SeqCst) {
            slot.accepted(&token, &resend);
            return;
        }
        let next = slot.rejected(&token, &mut resend, true).await;
        let next = next.expect("every rejected request gets another token");
        token = next;
    }
    panic!("a request was sent more than three times");
}

fn finish(requests: Vec<ShuttleHandle<()>>) {
    for request in requests {
        block_on(request).unwrap();
    }
}

fn explore_schedules(test: fn(&Clock)) {
    let schedules = std::env::var("BEARERD_SCHEDULES").ok().and_then(|number| number.parse().ok());
    explore(schedules.unwrap_or(SCHEDULES), test);
}

#[test]
fn two_processes_without_a_token_make_one_token_request_and_serve_every_request() {
    explore_schedules(|clock| {
        let world = World::new(clock, false);
        let slots = [world.start_process(), world.start_process()];
        finish(world.start_requests(&slots, 3));
        assert_eq!(world.token_requests(), 1);
    });
}

#[test]
fn a_revocation_during_requests_costs_one_token_request_and_no_failure() {
    explore_schedules(|clock| {
        let world = World::new(clock, true);
        let slots = [world.start_process(), world.start_process()];
        let requests = world.start_requests(&slots, 3);
        world.server.revoked.store(1, SeqCst);
        finish(requests);
        finish(world.start_requests(&slots, 1));
        assert_eq!(world.token_requests(), 1);
    });
}

#[test]
fn a_single_process_starts_no_flight_that_has_nothing_to_do() {
    explore_schedules(|clock| {
        let world = World::new(clock, true);
        let slot = [world.start_process()];
        let requests = world.start_requests(&slot, 2);
        // The token is due but has not expired: some requests use it while the flight runs.
        clock.advance(LIFETIME - Duration::from_secs(200));
        finish(requests);
        finish(world.start_requests(&slot, 2));
        wait_for_flight(&slot[0]);
        assert_eq!(world.token_requests(), 1);
        let metrics = world.metrics.encode();
        assert!(
            !metrics.contains("outcome=\"adopted\""),
            "a flight found a newer token: {metrics}"
        );
    });
}

#[test]
fn an_expiry_during_requests_costs_one_token_request_and_no_request_gets_an_expired_token() {
    explore_schedules(|clock| {
        let world = World::new(clock, true);
        let slots = [world.start_process(), world.start_process()];
        let before = world.start_requests(&slots, 2);
        clock.advance(LIFETIME);
        let after = world.start_requests(&slots, 2);
        finish(before);
        finish(after);
        assert_eq!(world.token_requests(), 1);
    });
}

#[test]
fn a_failed_refresh_wakes_every_request_and_is_repeated_once_after_the_backoff() {
    explore_schedules(|clock| {
        let world = World::new(clock, false);
        world.server.failures.store(1, SeqCst);
        let start = clock.now();
        let slot = [world.start_process()];
        finish(world.start_requests(&slot, 4));
        assert_eq!(world.token_requests(), 2);
        let elapsed = clock.now().duration_since(start).unwrap();
        assert!(elapsed >= SECOND, "the refresh was repeated after {elapsed:?}");
    });
}

#[test]
fn a_token_that_another_process_stores_is_adopted_and_never_replaced_by_an_older_one() {
    explore_schedules(|clock| {
        let world = World::new(clock, true);
        let slots = [world.start_process(), world.start_process()];
        let reloads: Vec<_> = slots
            .iter()
            .map(|slot| {
                let slot = Arc::clone(slot);
                shuttle::future::spawn(async move {
                    let mut newest = Generation::NONE;
                    for _ in 0..3 {
                        slot.entry.reload().await;
                        let current = slot.entry.current_token();
                        let generation = current.map_or(newest, |token| token.generation);
                        assert!(generation >= newest, "{newest} was replaced by {generation}");
                        newest = generation;
                    }
                })
            })
            .collect();
        let requests = world.start_requests(&slots, 2);
        world.server.revoked.store(1, SeqCst);
        clock.advance(Duration::from_secs(60));
        finish(requests);
        clock.advance(LIFETIME);
        finish(world.start_requests(&slots, 2));
        finish(reloads);
        let token_requests = world.token_requests();
        assert!((1..=2).contains(&token_requests), "{token_requests} token requests");
    });
}

fn wait_for_flight(slot: &Slot) {
    block_on(async {
        let mut changes = slot.entry.subscribe();
        while slot.entry.lock().state.is_in_flight() {
            changes.changed().await.unwrap();
        }
    });
}
