//! The in-memory state of one record key: its record, whether that is saved, and the configuration in force.
//!
//! An entry lives as long as a slot or a task uses it. A reload changes the configuration in it. The state is
//! behind one mutex that is never held across an `await`. A flight modifies this state and never takes it away:
//! whatever happens to the flight, no token that a server issued is lost. A new record is marked as unsaved
//! before it is written, and writing is retried until it succeeds.

mod write_back;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::next_action::{NextAction, has_usable_access_token, is_for_other_request, next_action};
use super::refresh_state::{
    FlightOutcome, GRANT_END_NOTICE, RefreshState, TimerInput, keepalive_at,
};
use super::resolved_config::ResolvedConfig;
use super::runtime::{random_jitter, scheduling_point};
use super::{AccessToken, Context, FailureReason, Generation};
use crate::clock::Moment;
use crate::crash;
use crate::metrics::CredentialMetrics;
use crate::oauth::TokenResponse;
use crate::store::{Lease, NotBefore, StoreError, TokenRecord, Version};
pub(super) use write_back::WriteError;

/// The state of one record key.
pub(super) struct CacheEntry {
    pub(super) key: String,
    pub(super) context: Context,
    pub(super) metrics: CredentialMetrics,
    /// From 0 to 1; shortens the margin of every token of this entry.
    jitter: f64,
    /// The token that requests read without a lock.
    current: ArcSwapOption<AccessToken>,
    inner: Mutex<EntryInner>,
    /// Held while the record in memory is compared with the stored one and written.
    writing: tokio::sync::Mutex<()>,
    is_writing_back: AtomicBool,
    /// The targets that were blamed for rejecting tokens, one bit each. A copy of the state's, read without a lock.
    pub(super) blamed_targets: AtomicU64,
    /// Until this time, in seconds since 1970, the timer has nothing to do while the token is fresh.
    timer_idle_until: AtomicU64,
    /// Counts the changes that waiting requests are notified of.
    changes: watch::Sender<u64>,
}

/// The part of the state that is behind the mutex.
#[derive(Debug)]
pub(super) struct EntryInner {
    /// The configuration in force.
    pub(super) resolved: Arc<ResolvedConfig>,
    pub(super) state: RefreshState,
    pub(super) record: TokenRecord,
    /// The version of the stored record, as far as is known.
    pub(super) version: Version,
    /// `record` is not on stable storage yet.
    pub(super) is_unsaved: bool,
    /// Saving `record` has failed: a crash now would lose it.
    pub(super) has_save_failed: bool,
    /// `record` is being saved. Its token is not used before that, or before saving has taken too long.
    pub(super) is_saving: bool,
    /// The server's `Retry-After`, and its end on both clocks: a wall clock alone can be set back.
    throttle: Option<(NotBefore, Moment)>,
    /// The lease under which the unsaved record was obtained. While it is held, no other process presents the
    /// refresh token that the record supersedes.
    pub(super) lease: Option<Lease>,
    /// The stored record is damaged, and there is no other copy.
    pub(super) is_damaged: bool,
    pub(super) last_error: Option<(SystemTime, String)>,
    /// When the refresh token has to be used even if no request needs a token.
    keepalive_at: Option<SystemTime>,
    /// The nonce that the authorization server requires in the next proof (RFC 9449 §8).
    pub(super) nonce: Option<String>,
    /// A token response for which the configured steps are still to be made, and when it was requested.
    pub(super) pending_steps: Option<(TokenResponse, SystemTime)>,
    /// The last response extended the lifetime of the existing access token, which may be tried again even if it
    /// was rejected.
    pub(super) was_extended: bool,
    /// The notes on odd responses that were already logged.
    pub(super) logged_notes: Vec<String>,
}

impl EntryInner {
    /// Replaces the record by a stored one.
    pub(super) fn take_over(&mut self, record: TokenRecord, version: Version) {
        self.record = record;
        self.version = version;
        self.is_unsaved = false;
        self.has_save_failed = false;
        self.is_saving = false;
        self.is_damaged = false;
        self.pending_steps = None;
        self.lease = None;
    }

    /// Decides what a flight has to do. `is_forced`: an operator requested it.
    pub(super) fn next_action(&mut self, is_forced: bool, now: Moment) -> NextAction {
        let throttled_until = self.throttled_until(now);
        let sources = self.resolved.sources();
        next_action(&self.record, sources, self.is_damaged, is_forced, throttled_until, now.wall)
    }

    /// Returns when the timer has to run next, in seconds since 1970, if the token is fresh until then.
    fn timer_idle_until(&self) -> u64 {
        let grant_notice = self.record.grant_expires_at.map(|end| end - GRANT_END_NOTICE);
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
        let first =
            [self.keepalive_at, grant_notice].into_iter().flatten().filter_map(seconds).min();
        match self.state.failure() {
            Some(_) => 0,
            None => first.map_or(u64::MAX, |first| first.as_secs()),
        }
    }

    /// Returns until when the server's `Retry-After` forbids token requests, if it does now.
    fn throttled_until(&mut self, now: Moment) -> Option<SystemTime> {
        let stored = self.record.not_before.as_ref()?;
        if !self.resolved.identity.matches_grant(&stored.grant) {
            return None;
        }
        // Stored times have millisecond precision.
        let is_same = |known: &NotBefore| {
            let (first, last) = (known.at.min(stored.at), known.at.max(stored.at));
            last.duration_since(first).is_ok_and(|apart| apart < Duration::from_secs(1))
        };
        if !self.throttle.as_ref().is_some_and(|(known, _)| is_same(known)) {
            let requested = stored.at.duration_since(stored.said).unwrap_or_default();
            // If the wall clock was set back since, the pause is at most as long as the server requested.
            let until = match stored.said > now.wall {
                true => now.after(requested),
                false => now.at_wall(stored.at),
            };
            self.throttle = Some((stored.clone(), until));
        }
        let (_, until) = self.throttle.as_ref()?;
        let left = until.left(now);
        (!left.is_zero()).then(|| now.wall + left)
    }
}

impl CacheEntry {
    pub(super) fn new(resolved: Arc<ResolvedConfig>, context: Context, jitter: f64) -> Self {
        Self {
            key: resolved.config.key(),
            metrics: context.metrics.of_credential(&resolved.config.name),
            context,
            jitter,
            current: ArcSwapOption::empty(),
            inner: Mutex::new(EntryInner {
                resolved,
                state: RefreshState::default(),
                record: TokenRecord::default(),
                version: Version::ABSENT,
                is_unsaved: false,
                has_save_failed: false,
                is_saving: false,
                throttle: None,
                lease: None,
                is_damaged: false,
                last_error: None,
                keepalive_at: None,
                nonce: None,
                pending_steps: None,
                was_extended: false,
                logged_notes: Vec::new(),
            }),
            writing: tokio::sync::Mutex::default(),
            is_writing_back: AtomicBool::default(),
            blamed_targets: AtomicU64::default(),
            timer_idle_until: AtomicU64::default(),
            changes: watch::Sender::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, EntryInner> {
        scheduling_point();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current token, whichever configuration it belongs to.
    pub(super) fn current_token(&self) -> Option<Arc<AccessToken>> {
        scheduling_point();
        self.current.load_full()
    }

    /// Returns the current token if it is fresh and belongs to this configuration, and marks it as used. Takes no
    /// lock.
    pub(super) fn fresh_token(&self, resolved: &ResolvedConfig) -> Option<Arc<AccessToken>> {
        scheduling_point();
        let token = self.current.load();
        let token = token.as_ref()?;
        token.mark_used();
        let is_fresh = !token.is_due(self.context.clock.moment()) && resolved.accepts(token);
        is_fresh.then(|| Arc::clone(token))
    }

    /// Asks the state machine about the current token, and returns its answer with that token.
    ///
    /// The token is read under the lock, because a flight publishes the new token before it changes the state. A
    /// caller that read the token earlier could present the old one to an idle state machine, and start a flight
    /// for a token that has just been replaced.
    pub(super) fn decide<T>(
        &self,
        ask: impl FnOnce(&mut RefreshState, Option<&AccessToken>) -> T,
    ) -> (T, Option<Arc<AccessToken>>) {
        let mut inner = self.lock();
        let token = self.current.load_full();
        let answer = ask(&mut inner.state, token.as_deref());
        self.blamed_targets.store(inner.state.blamed_targets(), Ordering::Relaxed);
        (answer, token)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn notify_waiters(&self) {
        scheduling_point();
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Puts a configuration in force, unless that is already the case or a newer one is in force.
    pub(super) fn set_config(self: &Arc<Self>, resolved: &Arc<ResolvedConfig>) {
        let mut inner = self.lock();
        if inner.resolved.revision > resolved.revision || Arc::ptr_eq(&inner.resolved, resolved) {
            return;
        }
        let is_new = inner.resolved.fingerprint != resolved.fingerprint;
        if inner.resolved.seed != resolved.seed {
            self.report_ignored_seed(&inner, resolved);
        }
        inner.resolved = Arc::clone(resolved);
        if is_new {
            // A request that failed before may succeed with this configuration.
            inner.state.clear_failures();
            if inner.record.doubts > 0 || inner.record.bootstrap.is_some() {
                inner.record.doubts = 0;
                inner.record.bootstrap = None;
                inner.is_unsaved = true;
            }
            inner.pending_steps = None;
        }
        self.publish(&mut inner);
        let is_unsaved = inner.is_unsaved;
        drop(inner);
        if is_unsaved {
            self.start_write_back();
        }
        self.notify_waiters();
    }

    /// Updates the current token and the state machine from the record.
    pub(super) fn publish(&self, inner: &mut EntryInner) {
        let now = self.context.clock.moment();
        self.timer_idle_until.store(0, Ordering::Relaxed);
        let was_extended = std::mem::take(&mut inner.was_extended);
        let terminal = match inner.next_action(false, now) {
            NextAction::Stop(reason) => Some(reason),
            _ => None,
        };
        inner.state.set_terminal(terminal);
        let EntryInner { resolved, record, is_saving, .. } = inner;
        inner.keepalive_at =
            keepalive_at(record, resolved.config.keepalive).filter(|_| terminal.is_none());
        if *is_saving {
            // The current token stays in use, unless this configuration does not accept it.
            let current = self.current.load_full();
            if current.is_some_and(|token| !resolved.accepts(&token)) {
                self.current.store(None);
            }
            return;
        }
        if is_for_other_request(record, resolved.sources())
            && self.current.load().as_ref().is_some_and(|token| resolved.accepts(token))
        {
            // Another process uses the same grant to request something else. Our token stays in use until it
            // expires; otherwise the two processes would take turns in replacing each other's token.
            return;
        }
        let token = has_usable_access_token(record, resolved.sources())
            .then(|| AccessToken::from_record(record, resolved.config.margin, self.jitter, now))
            .flatten();
        let token = token.map(|mut token| {
            if let Some(before) = self.current.load().as_ref() {
                token.carry_over_from(before);
                if was_extended {
                    token.first_generation = token.generation;
                }
            }
            token.seed = resolved.seed.clone();
            if resolved.matches(&token) {
                token.owner = resolved.id;
            }
            Arc::new(token)
        });
        self.current.store(token);
    }

    /// Loads the stored record when the entry is created.
    pub(super) async fn load_initial(&self) {
        let _writing = self.writing.lock().await;
        let loaded = self.load().await;
        let mut inner = self.lock();
        match loaded {
            Ok(loaded) => _ = self.reconcile(&mut inner, loaded),
            Err(error) => {
                // The first flight examines a damaged record, under the lease.
                inner.is_damaged = matches!(error, StoreError::Corrupt { .. });
                inner.last_error = Some((self.context.clock.now(), error.to_string()));
            }
        }
        self.publish(&mut inner);
        if let Some(reason) = inner.state.terminal() {
            self.report_needs_login(&inner, reason, None);
        }
        let resolved = Arc::clone(&inner.resolved);
        if resolved.seed.as_ref().is_some_and(|seed| !inner.record.seeds.contains(seed)) {
            self.report_ignored_seed(&inner, &resolved);
        }
    }

    /// Returns true if the store should hold a record, as far as is known.
    pub(super) fn is_stored(&self) -> bool {
        self.lock().version != Version::ABSENT
    }

    /// Ends a flight: publishes the token, updates the state machine and notifies the waiting requests.
    /// `started_with`: the configuration in force when the flight started. A failure does not count for another one.
    pub(super) fn finish_flight(
        self: &Arc<Self>,
        outcome: FlightOutcome,
        started_with: &ResolvedConfig,
    ) {
        let now = self.context.clock.moment();
        let is_unsaved = {
            let mut inner = self.lock();
            let is_current = started_with.fingerprint == inner.resolved.fingerprint;
            let outcome = if is_current { outcome } else { FlightOutcome::Completed };
            inner.is_saving = false;
            self.publish(&mut inner);
            inner.state.finish_flight(outcome, now, random_jitter());
            if !inner.is_unsaved {
                inner.lease = None;
            }
            inner.is_unsaved
        };
        if is_unsaved {
            self.start_write_back();
        }
        crash::point("after_publish");
        self.notify_waiters();
    }

    /// Runs the timer. Returns the generation to replace if a flight has to start.
    pub(super) fn tick(&self, now: Moment) -> Option<Generation> {
        let idle_until = self.timer_idle_until.load(Ordering::Relaxed);
        let is_fresh = || self.current.load().as_ref().is_none_or(|token| !token.is_due(now));
        let seconds = now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if seconds < idle_until && is_fresh() {
            return None;
        }
        let mut inner = self.lock();
        let token = self.current.load_full();
        let input = TimerInput {
            token: token.as_deref(),
            keepalive_at: inner.keepalive_at,
            grant_end: inner.record.grant_expires_at,
        };
        let actions = inner.state.tick(input, now);
        self.timer_idle_until.store(inner.timer_idle_until(), Ordering::Relaxed);
        if actions.report_outage {
            self.report_outage(&inner);
        }
        if actions.report_grant_end {
            self.report_grant_end(&inner);
        }
        actions.start.then(|| generation_of(token.as_deref()))
    }

    /// Records the error of a flight for the status.
    pub(super) fn set_last_error(&self, reason: FailureReason, text: String) {
        let now = self.context.clock.now();
        self.lock().last_error = Some((now, text));
        tracing::debug!(key = self.key, %reason, "the refresh failed");
    }
}

/// Returns the generation of `token`, or 0 if there is none.
pub(super) fn generation_of(token: Option<&AccessToken>) -> Generation {
    token.map(|token| token.generation).unwrap_or_default()
}

impl std::fmt::Debug for CacheEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CacheEntry({})", self.key)
    }
}
