//! What this process knows of one key: its record, whether that is saved, and who may use it.
//!
//! A ledger lives for as long as anybody needs the key; a reload changes the configuration in it. Everything is
//! behind one lock under which nothing waits. A flight works on what is here and never takes it away, so that
//! whatever becomes of the flight, nothing that a server has issued is lost: it is noted as unsaved before it is
//! written, and written until it is stored.

mod saving;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::plan::{Plan, is_fit, is_of_other_request, plan};
use super::settled::Settled;
use super::state::{GRANT_ENDS, Outcome, State, upkeep};
use super::{Context, FailureReason, Generation, Token};
use crate::clock::Moment;
use crate::crash;
use crate::metrics::CredentialMetrics;
use crate::store::{Lease, NotBefore, StoreError, TokenRecord, Version};
pub(super) use saving::Unwritten;

/// What is known of one key, and what is being done about it.
pub(super) struct Ledger {
    pub(super) key: String,
    pub(super) context: Context,
    pub(super) metrics: CredentialMetrics,
    jitter: f64,
    /// What requests read, without a lock.
    current: ArcSwapOption<Token>,
    known: Mutex<Known>,
    /// Held while what is known is compared with what is stored, and written: one at a time.
    writing: tokio::sync::Mutex<()>,
    is_writing_back: AtomicBool,
    /// Which targets are blamed for rejecting tokens, a bit for each. One that accepts a token is forgiven.
    pub(super) blamed: AtomicU64,
    /// Until then, in seconds since 1970, there is nothing to look at but whether the token is fresh.
    rests_until: AtomicU64,
    /// Counts what waiters want to know of.
    landed: watch::Sender<u64>,
}

/// What is behind the lock.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) settled: Arc<Settled>,
    pub(super) state: State,
    pub(super) record: TokenRecord,
    /// What is stored, as far as is known.
    pub(super) version: Version,
    /// `record` is not on stable storage yet.
    pub(super) unsaved: bool,
    /// Saving it has failed: a crash now would lose it.
    pub(super) is_at_risk: bool,
    /// It is being saved: nobody uses it before that, or before it has taken too long.
    pub(super) saving: bool,
    /// How long the server wants to be left alone, on both clocks: a wall clock alone can be set back.
    quiet: Option<(NotBefore, Moment)>,
    /// The right to write what is unsaved: nobody else refreshes with what it has superseded.
    pub(super) lease: Option<Lease>,
    /// The stored record was found damaged, and nothing else is known.
    pub(super) damaged: bool,
    pub(super) last_error: Option<(SystemTime, String)>,
    /// When the refresh token has to be used even if nobody asks.
    upkeep: Option<SystemTime>,
    /// What the authorization server wants to see in the next proof (RFC 9449 §8).
    pub(super) nonce: Option<String>,
    /// What the token endpoint issued and the configured steps still have to be made for.
    pub(super) unfinished: Option<(crate::oauth::TokenResponse, SystemTime)>,
    /// The last answer prolonged the access token that was there: it is worth another try.
    pub(super) prolonged: bool,
    /// What was said of answers already.
    pub(super) notes: Vec<String>,
}

impl Known {
    /// What is stored is all that counts.
    pub(super) fn take_over(&mut self, record: TokenRecord, version: Version) {
        self.record = record;
        self.version = version;
        self.unsaved = false;
        self.is_at_risk = false;
        self.saving = false;
        self.damaged = false;
        self.unfinished = None;
        self.lease = None;
    }

    /// What the record and the configuration leave to do.
    pub(super) fn plan(&mut self, forced: bool, now: Moment) -> Plan {
        let quiet = self.quiet(now);
        plan(&self.record, self.settled.sources(), self.damaged, forced, quiet, now.wall)
    }

    /// When the timer has to look next, if the token is fresh until then.
    fn rests_until(&self) -> u64 {
        let ends = [self.upkeep, self.record.grant_expires_at.map(|end| end - GRANT_ENDS)];
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
        let first = ends.into_iter().flatten().filter_map(seconds).min();
        match self.state.failing() {
            Some(_) => 0,
            None => first.map_or(u64::MAX, |first| first.as_secs()),
        }
    }

    /// Until when the server wants to be left alone.
    fn quiet(&mut self, now: Moment) -> Option<SystemTime> {
        let wanted = self.record.not_before.as_ref()?;
        if !self.settled.belonging.matches_grant(&wanted.grant) {
            return None;
        }
        // A store keeps milliseconds.
        let is_same = |known: &NotBefore| {
            let (one, other) = (known.at.min(wanted.at), known.at.max(wanted.at));
            other.duration_since(one).is_ok_and(|apart| apart < Duration::from_secs(1))
        };
        if !self.quiet.as_ref().is_some_and(|(known, _)| is_same(known)) {
            let asked = wanted.at.duration_since(wanted.said).unwrap_or_default();
            let until = now.at_wall(wanted.at);
            let until = if wanted.said > now.wall { now.after(asked) } else { until };
            self.quiet = Some((wanted.clone(), until));
        }
        let (_, until) = self.quiet.as_ref()?;
        let left = until.left(now);
        (!left.is_zero()).then(|| now.wall + left)
    }
}

impl Ledger {
    pub(super) fn new(settled: Arc<Settled>, context: Context, jitter: f64) -> Self {
        Self {
            key: settled.config.key(),
            metrics: context.metrics.of_credential(&settled.config.name),
            context,
            jitter,
            current: ArcSwapOption::empty(),
            known: Mutex::new(Known {
                settled,
                state: State::default(),
                record: TokenRecord::default(),
                version: Version::ABSENT,
                unsaved: false,
                is_at_risk: false,
                saving: false,
                quiet: None,
                lease: None,
                damaged: false,
                last_error: None,
                upkeep: None,
                nonce: None,
                unfinished: None,
                prolonged: false,
                notes: Vec::new(),
            }),
            writing: tokio::sync::Mutex::default(),
            is_writing_back: AtomicBool::default(),
            blamed: AtomicU64::default(),
            rests_until: AtomicU64::default(),
            landed: watch::Sender::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current token, whoever may use it.
    pub(super) fn current(&self) -> Option<Arc<Token>> {
        self.current.load_full()
    }

    /// The current token where it is fresh, and of this configuration: no lock.
    pub(super) fn fresh(&self, settled: &Settled) -> Option<Arc<Token>> {
        let token = self.current.load();
        let token = token.as_ref()?;
        token.mark_used();
        let is_fresh = !token.is_due(self.context.clock.moment()) && settled.owns(token);
        is_fresh.then(|| Arc::clone(token))
    }

    /// Asks the state machine about the current token, which comes along. The token is read under the
    /// lock, because a flight publishes before it changes the state: whoever read it earlier could bring
    /// the old token before a machine that rests again, and start a flight for what has just landed.
    pub(super) fn decide<T>(
        &self,
        ask: impl FnOnce(&mut State, Option<&Token>) -> T,
    ) -> (T, Option<Arc<Token>>) {
        let mut known = self.lock();
        let token = self.current.load_full();
        let answer = ask(&mut known.state, token.as_deref());
        self.blamed.store(known.state.blamed(), Ordering::Relaxed);
        (answer, token)
    }

    pub(super) fn landings(&self) -> watch::Receiver<u64> {
        self.landed.subscribe()
    }

    pub(super) fn announce(&self) {
        self.landed.send_modify(|landed| *landed = landed.wrapping_add(1));
    }

    /// From now on this configuration decides what is asked for, and which tokens are used.
    pub(super) fn configure(self: &Arc<Self>, settled: &Arc<Settled>) {
        let mut known = self.lock();
        if known.settled.edition > settled.edition || Arc::ptr_eq(&known.settled, settled) {
            return;
        }
        let is_new = known.settled.fingerprint != settled.fingerprint;
        if known.settled.seed != settled.seed {
            self.report_ignored_seed(&known, settled);
        }
        known.settled = Arc::clone(settled);
        if is_new {
            // What failed before may work now.
            known.state.succeed();
            if known.record.doubts > 0 || known.record.bootstrap.is_some() {
                known.record.doubts = 0;
                known.record.bootstrap = None;
                known.unsaved = true;
            }
            known.unfinished = None;
        }
        self.publish(&mut known);
        let unsaved = known.unsaved;
        drop(known);
        if unsaved {
            self.write_back();
        }
        self.announce();
    }

    /// Lets requests use what the record holds, if it is for them.
    pub(super) fn publish(&self, known: &mut Known) {
        let now = self.context.clock.moment();
        self.rests_until.store(0, Ordering::Relaxed);
        let is_prolonged = std::mem::take(&mut known.prolonged);
        let end = match known.plan(false, now) {
            Plan::Stop(reason) => Some(reason),
            _ => None,
        };
        known.state.set_end(end);
        let Known { settled, record, saving, .. } = known;
        known.upkeep = upkeep(record, settled.config.keepalive).filter(|_| end.is_none());
        if *saving {
            // What is in use goes on, unless it is no more for anybody.
            let current = self.current.load_full();
            if current.is_some_and(|token| !settled.owns(&token)) {
                self.current.store(None);
            }
            return;
        }
        if is_of_other_request(record, settled.sources())
            && self.current.load().as_ref().is_some_and(|token| settled.owns(token))
        {
            // Another process asks for something else with the same refresh token. Ours is good for as long as it
            // lives, or they would take turns.
            return;
        }
        let token = is_fit(record, settled.sources())
            .then(|| Token::of(record, settled.config.margin, self.jitter, now))
            .flatten();
        let token = token.map(|mut token| {
            if let Some(before) = self.current.load().as_ref() {
                token.follow(before);
                if is_prolonged {
                    token.since = token.generation;
                }
            }
            token.seed = settled.seed.clone();
            if settled.is_owner(&token) {
                token.owner = settled.number;
            }
            Arc::new(token)
        });
        self.current.store(token);
    }

    /// Reads what is stored, at the start.
    pub(super) async fn recall(&self) {
        let _writing = self.writing.lock().await;
        let loaded = self.load().await;
        let mut known = self.lock();
        match loaded {
            Ok(loaded) => _ = self.reconcile(&mut known, loaded),
            Err(error) => {
                // A damaged record is looked into by the first flight, under the lease.
                known.damaged = matches!(error, StoreError::Corrupt { .. });
                known.last_error = Some((self.context.clock.now(), error.to_string()));
            }
        }
        self.publish(&mut known);
        if let Some(reason) = known.state.end() {
            self.report_needs_login(&known, reason, None);
        }
        let settled = Arc::clone(&known.settled);
        if settled.seed.as_ref().is_some_and(|seed| !known.record.seeds.contains(seed)) {
            self.report_ignored_seed(&known, &settled);
        }
    }

    /// Should there be a record in the store, as far as is known?
    pub(super) fn is_stored(&self) -> bool {
        self.lock().version != Version::ABSENT
    }

    /// The flight is over: what the record holds may be used, and whoever waits is told.
    /// `by`: the configuration that the flight went by. What failed with another one says nothing about this.
    pub(super) fn land(self: &Arc<Self>, outcome: Outcome, by: &Settled) {
        let now = self.context.clock.moment();
        let unsaved = {
            let mut known = self.lock();
            let is_of_now = by.fingerprint == known.settled.fingerprint;
            let outcome = if is_of_now { outcome } else { Outcome::Landed };
            known.saving = false;
            self.publish(&mut known);
            known.state.finish(outcome, now, super::random_share());
            if !known.unsaved {
                known.lease = None;
            }
            known.unsaved
        };
        if unsaved {
            self.write_back();
        }
        crash::point("after_publish");
        self.announce();
    }

    /// Looks at the time. Says whether a flight has to start, for which generation, and whether the token of it
    /// can be used meanwhile.
    pub(super) fn tick(&self, now: Moment) -> Option<Generation> {
        let rests = self.rests_until.load(Ordering::Relaxed);
        let is_fresh = || self.current.load().as_ref().is_none_or(|token| !token.is_due(now));
        let seconds = now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if seconds < rests && is_fresh() {
            return None;
        }
        let mut known = self.lock();
        let token = self.current.load_full();
        let standing = super::state::Standing {
            token: token.as_deref(),
            upkeep: known.upkeep,
            grant_end: known.record.grant_expires_at,
        };
        let tick = known.state.tick(standing, now);
        self.rests_until.store(known.rests_until(), Ordering::Relaxed);
        if tick.overdue {
            self.report_overdue(&known);
        }
        if tick.grant_ends {
            self.report_grant_ends(&known);
        }
        tick.start.then(|| generation_of(token.as_deref()))
    }

    pub(super) fn fail(&self, reason: FailureReason, text: String) {
        let now = self.context.clock.now();
        self.lock().last_error = Some((now, text));
        tracing::debug!(key = self.key, %reason, "the flight failed");
    }
}

pub(super) fn generation_of(token: Option<&Token>) -> Generation {
    token.map(|token| token.generation).unwrap_or_default()
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({})", self.key)
    }
}
