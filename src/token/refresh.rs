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

mod refresh_token;
mod response;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::cache_entry::CacheEntry;
use super::next_action::{NextAction, has_usable_access_token};
use super::refresh_state::FlightOutcome;
use super::resolved_config::ResolvedConfig;
use super::{FailureReason, Generation};
use crate::oauth::{ErrorClass, GrantError, RetryPace};
use crate::store::{Attempt, Lease, StoreError, TerminalReason, TokenRecord};

/// How long the transport takes to connect, at most; what a flight may take is counted with it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What repeating a token request may take.
const REPLAYS: Duration = Duration::from_secs(5);
/// A flight goes from a dead grant to a bootstrap, or from a bad seed to the grant before it; not in circles.
const MAX_ROUNDS: usize = 4;

/// What a flight is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefreshRequest {
    /// The generation that is to be replaced.
    seen: Generation,
    /// An origin rejected it.
    rejected: bool,
    /// An operator wants one attempt, whatever is known.
    is_forced: bool,
}

impl RefreshRequest {
    pub(super) fn replace(seen: Generation) -> Self {
        Self { seen, rejected: false, is_forced: false }
    }

    pub(super) fn rejected(seen: Generation) -> Self {
        Self { rejected: true, ..Self::replace(seen) }
    }

    pub(super) fn forced(seen: Generation) -> Self {
        Self { is_forced: true, ..Self::replace(seen) }
    }
}

/// How a flight failed.
#[derive(Debug)]
pub(super) struct FlightFailure {
    pace: RetryPace,
    /// How long the server, or something else that is known, says to wait.
    retry_after: Option<Duration>,
    reason: FailureReason,
    /// What went wrong, for people; without secrets.
    detail: Option<String>,
}

impl FlightFailure {
    fn new(pace: RetryPace, reason: FailureReason, detail: Option<String>) -> Self {
        Self { pace, retry_after: None, reason, detail }
    }

    fn of_answer(error: &GrantError) -> Self {
        let reason = FailureReason::Answer(error.class);
        let pace = error.class.policy().pace;
        Self { retry_after: error.retry_after, ..Self::new(pace, reason, Some(error.to_string())) }
    }

    fn of_store(error: &StoreError) -> Self {
        Self::new(RetryPace::Short, FailureReason::Store(error.label()), Some(error.to_string()))
    }

    fn until(until: SystemTime, reason: FailureReason, now: SystemTime) -> Self {
        let retry_after = until.duration_since(now).ok();
        Self { retry_after, ..Self::new(RetryPace::Unsent, reason, None) }
    }
}

/// What follows a step of a flight.
enum FlightProgress {
    /// There is nothing left to do.
    Done,
    /// Something has changed: look again at what is to be done.
    Replan,
}

/// Starts the flight that the state machine has just allowed.
pub(super) fn start(entry: &Arc<CacheEntry>, request: RefreshRequest) {
    if request.rejected
        && let Some(token) = entry.current()
        && token.generation == request.seen
    {
        token.mark_rejected();
    }
    let by = Arc::clone(&entry.lock().resolved);
    let mut landing = FlightGuard { entry: Arc::clone(entry), by, outcome: None };
    let running = async move {
        // Lands even if the flight panics: waiters must not hang on one that crashed.
        let outcome = run_flight(&landing.entry, request).await;
        landing.set(outcome);
    };
    entry.context.tasks.flights.spawn_on(running, &entry.context.control);
}

/// Ends a flight exactly once, whatever happens to it.
struct FlightGuard {
    entry: Arc<CacheEntry>,
    /// The configuration that was in force when it started.
    by: Arc<ResolvedConfig>,
    outcome: Option<FlightOutcome>,
}

impl FlightGuard {
    fn set(&mut self, outcome: FlightOutcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        let reason = FailureReason::Internal;
        let crashed = FlightOutcome::Failed { pace: RetryPace::Long, retry_after: None, reason };
        self.entry.finish_flight(self.outcome.take().unwrap_or(crashed), &self.by);
    }
}

async fn run_flight(entry: &Arc<CacheEntry>, request: RefreshRequest) -> FlightOutcome {
    let began = Instant::now();
    let mut adopted = false;
    let result = async {
        let mut flight = Flight::open(entry, request).await?;
        let result = flight.run().await;
        adopted = flight.adopted;
        flight.close();
        result
    };
    let (word, outcome) = match result.await {
        Ok(()) => {
            let ends = matches!(
                entry.lock().plan(false, entry.context.clock.moment()),
                NextAction::Stop(_)
            );
            let word = match (ends, adopted) {
                (true, _) => "needs_login",
                (false, true) => "adopted",
                (false, false) => "success",
            };
            (word, FlightOutcome::Completed)
        }
        Err(FlightFailure { pace, retry_after, reason, detail }) => {
            if let Some(detail) = detail {
                entry.set_last_error(reason, detail);
            }
            (reason.word(), FlightOutcome::Failed { pace, retry_after, reason })
        }
    };
    entry.metrics.record_refresh(word, began.elapsed());
    outcome
}

/// One flight, from the moment it has the lease.
struct Flight<'a> {
    entry: &'a Arc<CacheEntry>,
    resolved: Arc<ResolvedConfig>,
    request: RefreshRequest,
    lease: Option<Lease>,
    /// An attempt with another refresh token, which the one that is on record now has displaced.
    displaced: Option<Attempt>,
    /// Another process had refreshed already.
    adopted: bool,
}

impl<'a> Flight<'a> {
    /// Takes the lease, and what is stored if that is newer than what is known.
    async fn open(
        entry: &'a Arc<CacheEntry>,
        request: RefreshRequest,
    ) -> Result<Self, FlightFailure> {
        let (resolved, lease) = {
            let mut inner = entry.lock();
            (Arc::clone(&inner.resolved), inner.lease.take())
        };
        let store = &entry.context.store;
        let is_kept = match &lease {
            Some(lease) => lease.check().await.is_ok(),
            None => false,
        };
        let lease = match lease.filter(|_| is_kept) {
            Some(lease) => lease,
            None => store
                .lease(&entry.key, max_duration(&resolved.config.oauth), resolved.config.wait)
                .await
                .map_err(|error| {
                    entry.report_store(&error);
                    FlightFailure::of_store(&error)
                })?,
        };
        match entry.sync_with_store().await {
            Ok(_) => {}
            // What could not be saved is the newest, as long as nobody else could have the lease.
            Err(_) if is_kept && entry.lock().is_unsaved => {}
            // Nothing is asked with what may be superseded.
            Err(error) => return Err(FlightFailure::of_store(&error)),
        }
        {
            let mut inner = entry.lock();
            if request.rejected && inner.record.generation == request.seen {
                inner.record.rejected = true;
            }
        }
        Ok(Self { entry, resolved, request, lease: Some(lease), displaced: None, adopted: false })
    }

    /// What could not be saved is written with the lease that it was got with.
    fn close(&mut self) {
        let mut inner = self.entry.lock();
        if inner.is_unsaved {
            inner.lease = self.lease.take();
        }
    }

    async fn run(&mut self) -> Result<(), FlightFailure> {
        for _ in 0..MAX_ROUNDS {
            if let Some(next) = self.finish_steps().await? {
                if let FlightProgress::Done = next {
                    return Ok(());
                }
                continue;
            }
            let now = self.now();
            let (plan, record) = {
                let mut inner = self.entry.lock();
                // Each round goes by one configuration: what belongs to one server is shown to no other.
                self.resolved = Arc::clone(&inner.resolved);
                let moment = self.entry.context.clock.moment();
                (inner.plan(self.request.is_forced, moment), inner.record.clone())
            };
            if self.has_newer_token(&record, now) {
                self.adopted = true;
                self.entry.report_adopted(&self.entry.lock());
                return Ok(());
            }
            let next = match plan {
                NextAction::Refresh(token) => self.refresh(&token, false).await?,
                NextAction::TrySeed(seed) => self.refresh(&seed, true).await?,
                NextAction::UseConfiguredGrant => self.request_configured().await?,
                NextAction::Bootstrap => self.bootstrap().await?,
                NextAction::Wait(until, reason) => {
                    return Err(FlightFailure::until(until, reason, now));
                }
                NextAction::Stop(reason) => {
                    self.entry.report_needs_login(&self.entry.lock(), reason, None);
                    FlightProgress::Done
                }
            };
            if let FlightProgress::Done = next {
                return Ok(());
            }
            // One attempt is what an operator gets.
            self.request.is_forced = false;
        }
        let detail = "the flight went in circles".to_owned();
        Err(FlightFailure::new(RetryPace::Long, FailureReason::Internal, Some(detail)))
    }

    /// Has somebody else replaced what was to be replaced?
    fn has_newer_token(&self, record: &TokenRecord, now: SystemTime) -> bool {
        !self.request.is_forced
            && record.generation > self.request.seen
            && record.is_usable(now)
            && has_usable_access_token(record, self.resolved.sources())
    }

    fn now(&self) -> SystemTime {
        self.entry.context.clock.now()
    }

    /// Can the current token be served while this takes its time?
    fn has_usable_token(&self) -> bool {
        let now = self.entry.context.clock.moment();
        let token = self.entry.current();
        token.is_some_and(|token| token.is_usable(now) && self.resolved.accepts(&token))
    }

    /// A refresh token is dead: says so in the record, and goes on with whatever is left.
    async fn end(
        &self,
        reason: TerminalReason,
        refresh_token: &crate::secret::Secret,
        error: &GrantError,
    ) -> FlightProgress {
        let (hash, at) = (refresh_token.fingerprint(), self.now());
        let config = self.resolved.fingerprint.clone();
        self.entry.update_record(|record| {
            record.doubts = 0;
            record.terminal =
                Some(crate::store::TerminalState { reason, refresh_token: Some(hash), config, at });
        });
        if reason == TerminalReason::LostRotation {
            self.entry.metrics.record_lost_rotation();
        }
        let detail = error.to_string();
        self.entry.set_last_error(FailureReason::Answer(ErrorClass::GrantDead), detail);
        self.entry.report_grant_dead(&self.entry.lock(), reason, error);
        self.entry.save().await;
        FlightProgress::Replan
    }
}

/// How long a flight with this configuration may take: connecting, listening, repeating, the steps, and a
/// bootstrap. So long a lease has to last, and a shutdown waits.
pub(super) fn max_duration(config: &crate::oauth::Config) -> Duration {
    let request = CONNECT_TIMEOUT + config.timeout;
    let steps = u32::try_from(config.steps.len()).unwrap_or(u32::MAX);
    let bootstraps = u32::from(config.bootstrap.is_some());
    let requests = steps.saturating_add(bootstraps).saturating_add(1);
    request.saturating_mul(requests).saturating_add(REPLAYS)
}
