//! One flight: a durable refresh of one credential.
//!
//! A refresh token may be single-use: the authorization server can answer with a new one and forget
//! the old (RFC 6749 §6, RFC 9700 §4.14). From that moment until the new one is on stable storage,
//! this process holds the only copy. Everything here is arranged around that interval:
//!
//! 1. take the lease, so that no other process refreshes the same credential;
//! 2. reload the record, because another process may have refreshed it while we waited;
//! 3. write down the attempt, so that a loss from here on is recognised afterwards, by anybody;
//! 4. see that the lease is still ours, and ask the token endpoint;
//! 5. note the new record in the ledger, and commit it;
//! 6. only then make the configured steps, and let requests use the new access token.
//!
//! A commit that fails does not hold requests up for more than a second: refusing traffic would not bring the
//! old refresh token back. The record is then served from memory, the lease is
//! kept so that nobody else refreshes with the dead token, and the commit is tried until it works.
//!
//! # Cancellation
//!
//! A flight is a detached task on the control runtime that no client's hanging up can cancel. What it has got
//! is in the ledger at every moment, also when it panics.

mod answers;
mod present;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::ledger::Ledger;
use super::plan::{Plan, is_fit};
use super::settled::Settled;
use super::state::Outcome;
use super::{FailureReason, Generation};
use crate::oauth::{ErrorClass, GrantError, RetryPace};
use crate::store::{Attempt, Lease, StoreError, TerminalReason, TokenRecord};

/// How long the transport takes to connect, at most; what a flight may take is counted with it.
const CONNECT: Duration = Duration::from_secs(5);
/// What repeating a token request may take.
const REPLAYS: Duration = Duration::from_secs(5);
/// A flight goes from a dead grant to a bootstrap, or from a bad seed to the grant before it; not in circles.
const ROUNDS: usize = 4;

/// What a flight is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// The generation that is to be replaced.
    seen: Generation,
    /// An origin rejected it.
    rejected: bool,
    /// An operator wants one attempt, whatever is known.
    forced: bool,
}

impl Demand {
    pub(super) fn replace(seen: Generation) -> Self {
        Self { seen, rejected: false, forced: false }
    }

    pub(super) fn rejected(seen: Generation) -> Self {
        Self { rejected: true, ..Self::replace(seen) }
    }

    pub(super) fn forced(seen: Generation) -> Self {
        Self { forced: true, ..Self::replace(seen) }
    }
}

/// How a flight failed.
#[derive(Debug)]
pub(super) struct Failure {
    pace: RetryPace,
    /// How long the server, or something else that is known, says to wait.
    wish: Option<Duration>,
    why: FailureReason,
    /// What went wrong, for people; without secrets.
    detail: Option<String>,
}

impl Failure {
    fn new(pace: RetryPace, why: FailureReason, detail: Option<String>) -> Self {
        Self { pace, wish: None, why, detail }
    }

    fn of_answer(error: &GrantError) -> Self {
        let why = FailureReason::Answer(error.class);
        let pace = error.class.policy().pace;
        Self { wish: error.retry_after, ..Self::new(pace, why, Some(error.to_string())) }
    }

    fn of_store(error: &StoreError) -> Self {
        Self::new(RetryPace::Short, FailureReason::Store(error.label()), Some(error.to_string()))
    }

    fn until(until: SystemTime, why: FailureReason, now: SystemTime) -> Self {
        let wish = until.duration_since(now).ok();
        Self { wish, ..Self::new(RetryPace::Unsent, why, None) }
    }
}

/// What follows a step of a flight.
enum Next {
    /// There is nothing left to do.
    Land,
    /// Something has changed: look again at what is to be done.
    Again,
}

/// Starts the flight that the state machine has just allowed.
pub(super) fn start(ledger: &Arc<Ledger>, demand: Demand) {
    if demand.rejected
        && let Some(token) = ledger.current()
        && token.generation == demand.seen
    {
        token.reject();
    }
    let by = Arc::clone(&ledger.lock().settled);
    let mut landing = Landing { ledger: Arc::clone(ledger), by, outcome: None };
    let flying = async move {
        // Lands even if the flight panics: waiters must not hang on one that crashed.
        let outcome = fly(&landing.ledger, demand).await;
        landing.set(outcome);
    };
    ledger.context.tasks.flights.spawn_on(flying, &ledger.context.control);
}

/// Ends a flight exactly once, whatever happens to it.
struct Landing {
    ledger: Arc<Ledger>,
    /// The configuration that was in force when it started.
    by: Arc<Settled>,
    outcome: Option<Outcome>,
}

impl Landing {
    fn set(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let why = FailureReason::Internal;
        let crashed = Outcome::Failed { pace: RetryPace::Long, wish: None, why };
        self.ledger.land(self.outcome.take().unwrap_or(crashed), &self.by);
    }
}

async fn fly(ledger: &Arc<Ledger>, demand: Demand) -> Outcome {
    let began = Instant::now();
    let mut adopted = false;
    let flown = async {
        let mut flight = Flight::open(ledger, demand).await?;
        let flown = flight.run().await;
        adopted = flight.adopted;
        flight.close();
        flown
    };
    let (word, outcome) = match flown.await {
        Ok(()) => {
            let ends =
                matches!(ledger.lock().plan(false, ledger.context.clock.moment()), Plan::Stop(_));
            let word = match (ends, adopted) {
                (true, _) => "needs_login",
                (false, true) => "adopted",
                (false, false) => "success",
            };
            (word, Outcome::Landed)
        }
        Err(Failure { pace, wish, why, detail }) => {
            if let Some(detail) = detail {
                ledger.fail(why, detail);
            }
            (why.word(), Outcome::Failed { pace, wish, why })
        }
    };
    ledger.metrics.record_refresh(word, began.elapsed());
    outcome
}

/// One flight, from the moment it has the lease.
struct Flight<'a> {
    ledger: &'a Arc<Ledger>,
    settled: Arc<Settled>,
    demand: Demand,
    lease: Option<Lease>,
    /// An attempt with another refresh token, which the one that is on record now has displaced.
    displaced: Option<Attempt>,
    /// Another process had refreshed already.
    adopted: bool,
}

impl<'a> Flight<'a> {
    /// Takes the lease, and what is stored if that is newer than what is known.
    async fn open(ledger: &'a Arc<Ledger>, demand: Demand) -> Result<Self, Failure> {
        let (settled, lease) = {
            let mut known = ledger.lock();
            (Arc::clone(&known.settled), known.lease.take())
        };
        let store = &ledger.context.store;
        let is_kept = match &lease {
            Some(lease) => lease.check().await.is_ok(),
            None => false,
        };
        let lease = match lease.filter(|_| is_kept) {
            Some(lease) => lease,
            None => store
                .lease(&ledger.key, longest(&settled.config.oauth), settled.config.wait)
                .await
                .map_err(|error| {
                    ledger.report_store(&error);
                    Failure::of_store(&error)
                })?,
        };
        match ledger.synchronise().await {
            Ok(_) => {}
            // What could not be saved is the newest, as long as nobody else could have the lease.
            Err(_) if is_kept && ledger.lock().unsaved => {}
            // Nothing is asked with what may be superseded.
            Err(error) => return Err(Failure::of_store(&error)),
        }
        {
            let mut known = ledger.lock();
            if demand.rejected && known.record.generation == demand.seen {
                known.record.rejected = true;
            }
        }
        Ok(Self { ledger, settled, demand, lease: Some(lease), displaced: None, adopted: false })
    }

    /// What could not be saved is written with the lease that it was got with.
    fn close(&mut self) {
        let mut known = self.ledger.lock();
        if known.unsaved {
            known.lease = self.lease.take();
        }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        for _ in 0..ROUNDS {
            if let Some(next) = self.finish_steps().await? {
                if let Next::Land = next {
                    return Ok(());
                }
                continue;
            }
            let now = self.now();
            let (plan, record) = {
                let mut known = self.ledger.lock();
                // Each round goes by one configuration: what belongs to one server is shown to no other.
                self.settled = Arc::clone(&known.settled);
                let moment = self.ledger.context.clock.moment();
                (known.plan(self.demand.forced, moment), known.record.clone())
            };
            if self.is_news(&record, now) {
                self.adopted = true;
                self.ledger.report_adopted(&self.ledger.lock());
                return Ok(());
            }
            let next = match plan {
                Plan::Refresh(token) => self.refresh(&token, false).await?,
                Plan::Try(seed) => self.refresh(&seed, true).await?,
                Plan::Own => self.ask_own().await?,
                Plan::Bootstrap => self.bootstrap().await?,
                Plan::Wait(until, why) => return Err(Failure::until(until, why, now)),
                Plan::Stop(reason) => {
                    self.ledger.report_needs_login(&self.ledger.lock(), reason, None);
                    Next::Land
                }
            };
            if let Next::Land = next {
                return Ok(());
            }
            // One attempt is what an operator gets.
            self.demand.forced = false;
        }
        let detail = "the flight went in circles".to_owned();
        Err(Failure::new(RetryPace::Long, FailureReason::Internal, Some(detail)))
    }

    /// Has somebody else replaced what was to be replaced?
    fn is_news(&self, record: &TokenRecord, now: SystemTime) -> bool {
        !self.demand.forced
            && record.generation > self.demand.seen
            && record.is_usable(now)
            && is_fit(record, self.settled.sources())
    }

    fn now(&self) -> SystemTime {
        self.ledger.context.clock.now()
    }

    /// Can the current token be served while this takes its time?
    fn can_wait(&self) -> bool {
        let now = self.ledger.context.clock.moment();
        let token = self.ledger.current();
        token.is_some_and(|token| token.is_usable(now) && self.settled.owns(&token))
    }

    /// A refresh token is dead: says so in the record, and goes on with whatever is left.
    async fn end(
        &self,
        reason: TerminalReason,
        refresh_token: &crate::secret::Secret,
        error: &GrantError,
    ) -> Next {
        let (hash, at) = (refresh_token.fingerprint(), self.now());
        let config = self.settled.fingerprint.clone();
        self.ledger.note(|record| {
            record.doubts = 0;
            record.terminal =
                Some(crate::store::TerminalState { reason, refresh_token: Some(hash), config, at });
        });
        if reason == TerminalReason::LostRotation {
            self.ledger.metrics.record_lost_rotation();
        }
        let detail = error.to_string();
        self.ledger.fail(FailureReason::Answer(ErrorClass::GrantDead), detail);
        self.ledger.report_died(&self.ledger.lock(), reason, error);
        self.ledger.save().await;
        Next::Again
    }
}

/// How long a flight with this configuration may take: connecting, listening, repeating, the steps, and a
/// bootstrap. So long a lease has to last, and a shutdown waits.
pub(super) fn longest(config: &crate::oauth::Config) -> Duration {
    let request = CONNECT + config.timeout;
    let steps = u32::try_from(config.steps.len()).unwrap_or(u32::MAX);
    let bootstraps = u32::from(config.bootstrap.is_some());
    let requests = steps.saturating_add(bootstraps).saturating_add(1);
    request.saturating_mul(requests).saturating_add(REPLAYS)
}
