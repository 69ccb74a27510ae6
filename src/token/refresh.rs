//! One durable refresh of one credential, called a flight.
//!
//! A refresh token may be single-use: the authorization server can answer with a new one and invalidate
//! the old one (RFC 6749 §6, RFC 9700 §4.14). From that moment until the new one is on stable storage,
//! this process holds the only copy. The order of the steps follows from that:
//!
//! 1. take the lease, so that no other process refreshes the same credential;
//! 2. reload the record, because another process may have refreshed it in the meantime;
//! 3. store the attempt, so that any process can detect a lost response afterwards;
//! 4. check that the lease is still held, and send the token request;
//! 5. put the new record into the cache entry, and commit it;
//! 6. only then make the configured further requests, and let requests use the new access token.
//!
//! A failed commit delays requests by at most a second, because refusing traffic would not bring the old refresh
//! token back. After that the token is served unsaved, the lease is kept so that no other process presents the
//! consumed refresh token, and the commit is retried until it succeeds.
//!
//! # Cancellation
//!
//! A flight is a detached task on the control runtime, which a disconnecting client cannot cancel. Everything it has
//! received is in the cache entry at every moment, even if it panics.

mod refresh_token;
mod response;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::cache_entry::CacheEntry;
use super::next_action::{NextAction, has_usable_access_token};
use super::refresh_state::FlightOutcome;
use super::resolved_config::ResolvedConfig;
use super::{FailureReason, Generation, runtime};
use crate::oauth::{ErrorClass, GrantError, RetryPace};
use crate::secret::Secret;
use crate::store::{Attempt, Lease, StoreError, TerminalReason, TerminalState, TokenRecord};

/// The longest that `oauth/transport.rs` takes to connect. It counts towards the duration of a flight.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that repeating a token request takes.
const MAX_REPLAY_DURATION: Duration = Duration::from_secs(5);
/// The most actions of one flight: for example a dead grant, then a bootstrap. Guards against an endless loop.
const MAX_ROUNDS: usize = 4;

/// Why a flight starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefreshRequest {
    /// The generation to replace.
    seen: Generation,
    /// An origin server rejected that token.
    is_rejected: bool,
    /// An operator requested one attempt, regardless of backoffs and dead grants.
    is_forced: bool,
}

impl RefreshRequest {
    /// A request or the timer needs a new token.
    pub(super) fn replace(seen: Generation) -> Self {
        Self { seen, is_rejected: false, is_forced: false }
    }

    /// An origin server rejected the token.
    pub(super) fn rejected(seen: Generation) -> Self {
        Self { is_rejected: true, ..Self::replace(seen) }
    }

    /// An operator requested a refresh.
    pub(super) fn forced(seen: Generation) -> Self {
        Self { is_forced: true, ..Self::replace(seen) }
    }
}

/// Why a flight failed.
#[derive(Debug)]
pub(super) struct FlightFailure {
    pace: RetryPace,
    /// The minimum pause, for example from the server's `Retry-After`.
    retry_after: Option<Duration>,
    reason: FailureReason,
    /// The error text for operators, without secrets.
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

/// What follows an action of a flight.
enum FlightProgress {
    /// The flight is complete.
    Done,
    /// The record has changed: decide again what to do.
    Replan,
}

/// Starts the flight that the state machine has just allowed.
pub(super) fn start(entry: &Arc<CacheEntry>, request: RefreshRequest) {
    if request.is_rejected
        && let Some(token) = entry.current_token()
        && token.generation == request.seen
    {
        token.mark_rejected();
    }
    let started_with = Arc::clone(&entry.lock().resolved);
    let mut guard = FlightGuard { entry: Arc::clone(entry), started_with, outcome: None };
    let running = async move {
        // The guard finishes the flight even if it panics, so that waiting requests do not hang.
        let outcome = run_flight(&guard.entry, request).await;
        guard.set(outcome);
    };
    runtime::spawn(&entry.context.tasks.flights, &entry.context.control, running);
}

/// Finishes a flight exactly once, even if it panics.
struct FlightGuard {
    entry: Arc<CacheEntry>,
    /// The configuration in force when the flight started.
    started_with: Arc<ResolvedConfig>,
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
        self.entry.finish_flight(self.outcome.take().unwrap_or(crashed), &self.started_with);
    }
}

async fn run_flight(entry: &Arc<CacheEntry>, request: RefreshRequest) -> FlightOutcome {
    let started_at = Instant::now();
    let mut has_adopted = false;
    let result = async {
        let mut flight = Flight::open(entry, request).await?;
        let result = flight.run().await;
        has_adopted = flight.has_adopted;
        flight.close();
        result
    };
    let (word, outcome) = match result.await {
        Ok(()) => {
            let needs_login = matches!(
                entry.lock().next_action(false, entry.context.clock.moment()),
                NextAction::Stop(_)
            );
            let word = match (needs_login, has_adopted) {
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
    entry.metrics.record_refresh(word, started_at.elapsed());
    outcome
}

/// A flight that holds the lease.
struct Flight<'a> {
    entry: &'a Arc<CacheEntry>,
    resolved: Arc<ResolvedConfig>,
    request: RefreshRequest,
    lease: Option<Lease>,
    /// An attempt with another refresh token that this flight's attempt has replaced in the record.
    displaced: Option<Attempt>,
    /// Another process had already refreshed the token.
    has_adopted: bool,
}

impl<'a> Flight<'a> {
    /// Takes the lease and reloads the record.
    async fn open(
        entry: &'a Arc<CacheEntry>,
        request: RefreshRequest,
    ) -> Result<Self, FlightFailure> {
        let (resolved, lease) = {
            let mut inner = entry.lock();
            (Arc::clone(&inner.resolved), inner.lease.take())
        };
        let store = &entry.context.store;
        let is_still_held = match &lease {
            Some(lease) => lease.check().await.is_ok(),
            None => false,
        };
        let lease = match lease.filter(|_| is_still_held) {
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
            // The unsaved record is the newest one as long as no other process had the lease.
            Err(_) if is_still_held && entry.lock().is_unsaved => {}
            // No request is made with a refresh token that may be superseded.
            Err(error) => return Err(FlightFailure::of_store(&error)),
        }
        {
            let mut inner = entry.lock();
            if request.is_rejected && inner.record.generation == request.seen {
                inner.record.rejected = true;
            }
        }
        Ok(Self {
            entry,
            resolved,
            request,
            lease: Some(lease),
            displaced: None,
            has_adopted: false,
        })
    }

    /// Keeps the lease for an unsaved record.
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
            let (action, record) = {
                let mut inner = self.entry.lock();
                // Each action uses one configuration, so that no token is sent to another server.
                self.resolved = Arc::clone(&inner.resolved);
                let moment = self.entry.context.clock.moment();
                (inner.next_action(self.request.is_forced, moment), inner.record.clone())
            };
            if self.has_newer_token(&record, now) {
                self.has_adopted = true;
                self.entry.report_adopted(&self.entry.lock());
                return Ok(());
            }
            let next = match action {
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
            // An operator gets one attempt.
            self.request.is_forced = false;
        }
        let detail = "the refresh reached no end after four actions".to_owned();
        Err(FlightFailure::new(RetryPace::Long, FailureReason::Internal, Some(detail)))
    }

    /// Returns true if another process has already replaced the token.
    fn has_newer_token(&self, record: &TokenRecord, now: SystemTime) -> bool {
        !self.request.is_forced
            && record.generation > self.request.seen
            && record.is_usable(now)
            && has_usable_access_token(record, self.resolved.sources())
    }

    fn now(&self) -> SystemTime {
        self.entry.context.clock.now()
    }

    /// Returns true if requests can use the current token while the flight waits.
    fn has_usable_token(&self) -> bool {
        let now = self.entry.context.clock.moment();
        let token = self.entry.current_token();
        token.is_some_and(|token| token.is_usable(now) && self.resolved.accepts(&token))
    }

    /// Records that a refresh token is dead, and continues with the next possible action.
    async fn record_dead_grant(
        &self,
        reason: TerminalReason,
        refresh_token: &Secret,
        error: &GrantError,
    ) -> FlightProgress {
        let (hash, at) = (refresh_token.fingerprint(), self.now());
        let config = self.resolved.fingerprint.clone();
        self.entry.update_record(|record| {
            record.doubts = 0;
            record.terminal = Some(TerminalState { reason, refresh_token: Some(hash), config, at });
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

/// Returns the longest that a flight with this configuration takes: connecting, waiting for responses, repetitions, the
/// configured steps and a bootstrap. It is the minimum duration of a lease, and of the wait of a shutdown.
pub(super) fn max_duration(config: &crate::oauth::Config) -> Duration {
    let request = CONNECT_TIMEOUT + config.timeout;
    let steps = u32::try_from(config.steps.len()).unwrap_or(u32::MAX);
    let bootstraps = u32::from(config.bootstrap.is_some());
    let requests = steps.saturating_add(bootstraps).saturating_add(1);
    request.saturating_mul(requests).saturating_add(MAX_REPLAY_DURATION)
}
