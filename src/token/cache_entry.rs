//! What this process knows of one key: its record, whether that is saved, and who may use it.
//!
//! A ledger lives for as long as anybody needs the key; a reload changes the configuration in it. Everything is
//! behind one lock under which nothing waits. A flight works on what is here and never takes it away, so that
//! whatever becomes of the flight, nothing that a server has issued is lost: it is noted as unsaved before it is
//! written, and written until it is stored.

mod write_back;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::next_action::{NextAction, has_usable_access_token, is_for_other_request, next_action};
use super::refresh_state::{FlightOutcome, GRANT_END_NOTICE, RefreshState, keepalive_at};
use super::resolved_config::ResolvedConfig;
use super::{AccessToken, Context, FailureReason, Generation};
use crate::clock::Moment;
use crate::crash;
use crate::metrics::CredentialMetrics;
use crate::store::{Lease, NotBefore, StoreError, TokenRecord, Version};
pub(super) use write_back::WriteError;

/// What is known of one key, and what is being done about it.
pub(super) struct CacheEntry {
    pub(super) key: String,
    pub(super) context: Context,
    pub(super) metrics: CredentialMetrics,
    jitter: f64,
    /// What requests read, without a lock.
    current: ArcSwapOption<AccessToken>,
    inner: Mutex<EntryInner>,
    /// HeldLease while what is known is compared with what is stored, and written: one at a time.
    writing: tokio::sync::Mutex<()>,
    is_writing_back: AtomicBool,
    /// Which targets are blamed for rejecting tokens, a bit for each. One that accepts a token is forgiven.
    pub(super) blamed_targets: AtomicU64,
    /// Until then, in seconds since 1970, there is nothing to look at but whether the token is fresh.
    timer_idle_until: AtomicU64,
    /// Counts what waiters want to know of.
    changes: watch::Sender<u64>,
}

/// What is behind the lock.
#[derive(Debug)]
pub(super) struct EntryInner {
    pub(super) resolved: Arc<ResolvedConfig>,
    pub(super) state: RefreshState,
    pub(super) record: TokenRecord,
    /// What is stored, as far as is known.
    pub(super) version: Version,
    /// `record` is not on stable storage yet.
    pub(super) is_unsaved: bool,
    /// Saving it has failed: a crash now would lose it.
    pub(super) has_save_failed: bool,
    /// It is being saved: nobody uses it before that, or before it has taken too long.
    pub(super) is_saving: bool,
    /// How long the server wants to be left alone, on both clocks: a wall clock alone can be set back.
    throttled_until: Option<(NotBefore, Moment)>,
    /// The right to write what is unsaved: nobody else refreshes with what it has superseded.
    pub(super) lease: Option<Lease>,
    /// The stored record was found damaged, and nothing else is known.
    pub(super) is_damaged: bool,
    pub(super) last_error: Option<(SystemTime, String)>,
    /// When the refresh token has to be used even if nobody asks.
    keepalive_at: Option<SystemTime>,
    /// What the authorization server wants to see in the next proof (RFC 9449 §8).
    pub(super) nonce: Option<String>,
    /// What the token endpoint issued and the configured steps still have to be made for.
    pub(super) pending_steps: Option<(crate::oauth::TokenResponse, SystemTime)>,
    /// The last answer prolonged the access token that was there: it is worth another try.
    pub(super) was_extended: bool,
    /// What was said of answers already.
    pub(super) logged_notes: Vec<String>,
}

impl EntryInner {
    /// What is stored is all that counts.
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

    /// What the record and the configuration leave to do.
    pub(super) fn plan(&mut self, forced: bool, now: Moment) -> NextAction {
        let throttled_until = self.throttled_until(now);
        next_action(
            &self.record,
            self.resolved.sources(),
            self.is_damaged,
            forced,
            throttled_until,
            now.wall,
        )
    }

    /// When the timer has to look next, if the token is fresh until then.
    fn timer_idle_until(&self) -> u64 {
        let ends =
            [self.keepalive_at, self.record.grant_expires_at.map(|end| end - GRANT_END_NOTICE)];
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
        let first = ends.into_iter().flatten().filter_map(seconds).min();
        match self.state.failure() {
            Some(_) => 0,
            None => first.map_or(u64::MAX, |first| first.as_secs()),
        }
    }

    /// Until when the server wants to be left alone.
    fn throttled_until(&mut self, now: Moment) -> Option<SystemTime> {
        let wanted = self.record.not_before.as_ref()?;
        if !self.resolved.belonging.matches_grant(&wanted.grant) {
            return None;
        }
        // A store keeps milliseconds.
        let is_same = |inner: &NotBefore| {
            let (one, other) = (inner.at.min(wanted.at), inner.at.max(wanted.at));
            other.duration_since(one).is_ok_and(|apart| apart < Duration::from_secs(1))
        };
        if !self.throttled_until.as_ref().is_some_and(|(inner, _)| is_same(inner)) {
            let asked = wanted.at.duration_since(wanted.said).unwrap_or_default();
            let until = now.at_wall(wanted.at);
            let until = if wanted.said > now.wall { now.after(asked) } else { until };
            self.throttled_until = Some((wanted.clone(), until));
        }
        let (_, until) = self.throttled_until.as_ref()?;
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
                throttled_until: None,
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
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current token, whoever may use it.
    pub(super) fn current(&self) -> Option<Arc<AccessToken>> {
        self.current.load_full()
    }

    /// The current token where it is fresh, and of this configuration: no lock.
    pub(super) fn fresh(&self, resolved: &ResolvedConfig) -> Option<Arc<AccessToken>> {
        let token = self.current.load();
        let token = token.as_ref()?;
        token.mark_used();
        let is_fresh = !token.is_due(self.context.clock.moment()) && resolved.accepts(token);
        is_fresh.then(|| Arc::clone(token))
    }

    /// Asks the state machine about the current token, which comes along. The token is read under the
    /// lock, because a flight publishes before it changes the state: whoever read it earlier could bring
    /// the old token before a machine that rests again, and start a flight for what has just landed.
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
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// From now on this configuration decides what is asked for, and which tokens are used.
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
            // What failed before may work now.
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

    /// Lets requests use what the record holds, if it is for them.
    pub(super) fn publish(&self, inner: &mut EntryInner) {
        let now = self.context.clock.moment();
        self.timer_idle_until.store(0, Ordering::Relaxed);
        let is_prolonged = std::mem::take(&mut inner.was_extended);
        let end = match inner.plan(false, now) {
            NextAction::Stop(reason) => Some(reason),
            _ => None,
        };
        inner.state.set_terminal(end);
        let EntryInner { resolved, record, is_saving, .. } = inner;
        inner.keepalive_at =
            keepalive_at(record, resolved.config.keepalive).filter(|_| end.is_none());
        if *is_saving {
            // What is in use goes on, unless it is no more for anybody.
            let current = self.current.load_full();
            if current.is_some_and(|token| !resolved.accepts(&token)) {
                self.current.store(None);
            }
            return;
        }
        if is_for_other_request(record, resolved.sources())
            && self.current.load().as_ref().is_some_and(|token| resolved.accepts(token))
        {
            // Another process asks for something else with the same refresh token. Ours is good for as long as it
            // lives, or they would take turns.
            return;
        }
        let token = has_usable_access_token(record, resolved.sources())
            .then(|| AccessToken::from_record(record, resolved.config.margin, self.jitter, now))
            .flatten();
        let token = token.map(|mut token| {
            if let Some(before) = self.current.load().as_ref() {
                token.carry_over_from(before);
                if is_prolonged {
                    token.since = token.generation;
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

    /// Reads what is stored, at the start.
    pub(super) async fn load_initial(&self) {
        let _writing = self.writing.lock().await;
        let loaded = self.load().await;
        let mut inner = self.lock();
        match loaded {
            Ok(loaded) => _ = self.reconcile(&mut inner, loaded),
            Err(error) => {
                // A damaged record is looked into by the first flight, under the lease.
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

    /// Should there be a record in the store, as far as is known?
    pub(super) fn is_stored(&self) -> bool {
        self.lock().version != Version::ABSENT
    }

    /// The flight is over: what the record holds may be used, and whoever waits is told.
    /// `by`: the configuration that the flight went by. What failed with another one says nothing about this.
    pub(super) fn finish_flight(self: &Arc<Self>, outcome: FlightOutcome, by: &ResolvedConfig) {
        let now = self.context.clock.moment();
        let is_unsaved = {
            let mut inner = self.lock();
            let is_current = by.fingerprint == inner.resolved.fingerprint;
            let outcome = if is_current { outcome } else { FlightOutcome::Completed };
            inner.is_saving = false;
            self.publish(&mut inner);
            inner.state.finish_flight(outcome, now, super::context::random_jitter());
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

    /// Looks at the time. Says whether a flight has to start, for which generation, and whether the token of it
    /// can be used meanwhile.
    pub(super) fn tick(&self, now: Moment) -> Option<Generation> {
        let rests = self.timer_idle_until.load(Ordering::Relaxed);
        let is_fresh = || self.current.load().as_ref().is_none_or(|token| !token.is_due(now));
        let seconds = now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if seconds < rests && is_fresh() {
            return None;
        }
        let mut inner = self.lock();
        let token = self.current.load_full();
        let input = super::refresh_state::TimerInput {
            token: token.as_deref(),
            keepalive_at: inner.keepalive_at,
            grant_end: inner.record.grant_expires_at,
        };
        let tick = inner.state.tick(input, now);
        self.timer_idle_until.store(inner.timer_idle_until(), Ordering::Relaxed);
        if tick.is_overdue {
            self.report_overdue(&inner);
        }
        if tick.grant_ends {
            self.report_grant_ends(&inner);
        }
        tick.start.then(|| generation_of(token.as_deref()))
    }

    pub(super) fn set_last_error(&self, reason: FailureReason, text: String) {
        let now = self.context.clock.now();
        self.lock().last_error = Some((now, text));
        tracing::debug!(key = self.key, %reason, "the flight failed");
    }
}

pub(super) fn generation_of(token: Option<&AccessToken>) -> Generation {
    token.map(|token| token.generation).unwrap_or_default()
}

impl std::fmt::Debug for CacheEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({})", self.key)
    }
}
