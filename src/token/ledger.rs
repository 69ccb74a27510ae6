//! What this process knows of one key: its record, whether that is saved, and who may use it.
//!
//! A ledger lives for as long as anybody needs the key; a reload changes the configuration in it. Everything is
//! behind one lock under which nothing waits. A flight works on what is here and never takes it away, so that
//! whatever becomes of the flight, nothing that a server has issued is lost: it is noted as unsaved before it is
//! written, and written until it is stored.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::order::{Order, order};
use super::plan::{Plan, Sources, is_fit, is_of_other_request, plan};
use super::state::{GRANT_ENDS, Outcome, State, upkeep};
use super::{Config, Context, FailureReason, Generation, Token};
use crate::clock::Moment;
use crate::crash;
use crate::metrics::CredentialMetrics;
use crate::oauth::{Belonging, TokenEndpoint};
use crate::secret::Fingerprint;
use crate::store::{IssuedFor, Lease, NotBefore, Put, StoreError, TokenRecord, Version};

/// Attempts to save what a server issued, and the wait between them, before it is served from memory.
const TRIES: usize = 3;
const TRY_AGAIN: Duration = Duration::from_millis(300);
/// How often saving is tried again in the background.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// A configuration, and what follows from it.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) config: Config,
    pub(super) title: Arc<str>,
    pub(super) endpoint: TokenEndpoint,
    pub(super) belonging: Belonging,
    pub(super) fingerprint: Fingerprint,
    /// The hash of the first refresh token: another one is another grant.
    pub(super) seed: Option<Fingerprint>,
    /// Counts up with every reload, so that what a request of before still opens does not undo one.
    pub(super) edition: u64,
    /// Which one it is, of all that this process ever had.
    number: u64,
}

impl Settled {
    pub(super) fn new(config: Config, context: &Context) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let endpoint = TokenEndpoint::new(config.oauth.clone(), context.transport.clone());
        Self {
            title: Arc::from(config.title()),
            belonging: config.oauth.belonging(&config.variables),
            fingerprint: config.oauth.fingerprint(),
            seed: config.seed.as_ref().and_then(|seed| Some(seed.value.as_ref()?.fingerprint())),
            edition: context.edition,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            endpoint,
            config,
        }
    }

    pub(super) fn sources(&self) -> Sources<'_> {
        let oauth = &self.config.oauth;
        Sources {
            seed: self.config.seed.as_ref(),
            livelihood: oauth.grant.lives_on(),
            can_bootstrap: oauth.bootstrap.is_some(),
            config: &self.fingerprint,
            belonging: &self.belonging,
            bound: oauth.reading.dpop,
        }
    }

    /// What tokens that are asked for now are issued for.
    pub(super) fn issued_for(&self) -> IssuedFor {
        let Belonging { grant, request, .. } = self.belonging.clone();
        IssuedFor { grant, request }
    }

    /// What is asked for by `other` is of use here as well.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        self.seed == other.seed && self.belonging == other.belonging
    }

    /// Tokens that this was asked for may be put on its requests; those of another configuration never.
    pub(super) fn owns(&self, token: &Token) -> bool {
        // Each request asks this. That the token was found to be this one's when it was published is one number
        // to compare, where the hashes are many lines of memory.
        token.owner == self.number || self.is_owner(token)
    }

    fn is_owner(&self, token: &Token) -> bool {
        token.seed == self.seed
            && token.issued_for.as_ref().is_none_or(|it| it.request == self.belonging.request)
            && token.issued_for.as_ref().is_none_or(|it| self.belonging.is_of(&it.grant))
    }
}

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
        if !self.settled.belonging.is_of(&wanted.grant) {
            return None;
        }
        // A store keeps milliseconds.
        let is_same = |known: &NotBefore| {
            let (one, other) = (known.at.min(wanted.at), known.at.max(wanted.at));
            other.duration_since(one).is_ok_and(|apart| apart < Duration::from_secs(1))
        };
        if !self.quiet.as_ref().is_some_and(|(known, _)| is_same(known)) {
            self.quiet = Some((wanted.clone(), now.at_wall(wanted.at)));
        }
        let (_, until) = self.quiet.as_ref()?;
        let left = until.left(now);
        (!left.is_zero()).then(|| now.wall + left)
    }
}

/// Somebody else has changed the record meanwhile: theirs counts.
#[derive(Debug)]
pub(super) struct Overtaken;

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

    /// Compares what is known with what is stored. Says whether there was something new in the store.
    ///
    /// # Errors
    ///
    /// It cannot be read; a damaged record counts as none.
    pub(super) async fn synchronise(&self) -> Result<bool, StoreError> {
        let _writing = self.writing.lock().await;
        let loaded = match self.load().await {
            Err(StoreError::Corrupt { .. }) => {
                let mut known = self.lock();
                known.damaged |= known.record == TokenRecord::default();
                None
            }
            loaded => loaded?,
        };
        Ok(self.reconcile(&mut self.lock(), loaded))
    }

    async fn load(&self) -> Result<Option<(TokenRecord, Version)>, StoreError> {
        let loaded = self.context.store.load(&self.key).await;
        loaded.inspect_err(|error| self.report_store(error))
    }

    /// Compares what is known with what is stored, and takes over what counts. Says whether there was something
    /// new in the store.
    fn reconcile(&self, known: &mut Known, stored: Option<(TokenRecord, Version)>) -> bool {
        let (stored, version) = match stored {
            Some((stored, version)) => (Some(stored), version),
            None => (None, Version::ABSENT),
        };
        known.version = version;
        match (order(&known.record, stored.as_ref()), stored) {
            (Order::Ours, stored) => {
                if !known.unsaved {
                    self.report_went_back(known, stored.as_ref());
                }
                known.unsaved = true;
                false
            }
            // What others have noted beside the same tokens is newer than what was read here once.
            (Order::Same, Some(stored)) if !known.unsaved => {
                let is_news = stored.terminal != known.record.terminal
                    || stored.rejected != known.record.rejected;
                known.record = stored;
                is_news
            }
            (Order::Same, _) => false,
            (Order::Theirs, stored) => {
                known.record = stored.unwrap_or_default();
                known.unsaved = false;
                known.is_at_risk = false;
                known.saving = false;
                known.lease = None;
                known.damaged = false;
                known.unfinished = None;
                true
            }
        }
    }

    /// Looks into the store, for what another process has done there. Says whether there was something.
    pub(super) async fn look(self: &Arc<Self>) -> bool {
        let _writing = self.writing.lock().await;
        let stored = match self.context.store.load(&self.key).await {
            Ok(stored) => stored,
            Err(error @ StoreError::Corrupt { .. }) => {
                self.report_store(&error);
                None
            }
            Err(error) => {
                self.cannot_look(&error);
                return false;
            }
        };
        let mut known = self.lock();
        let is_news = self.reconcile(&mut known, stored);
        let unsaved = known.unsaved;
        if is_news {
            self.publish(&mut known);
            if !known.state.in_flight() {
                known.state.succeed();
            }
            match known.state.end() {
                Some(reason) => self.report_needs_login(&known, reason, None),
                None => self.report_adopted(&known),
            }
        }
        drop(known);
        if unsaved {
            self.write_back();
        }
        if is_news {
            self.announce();
        }
        is_news
    }

    /// What is stored is out of reach: a crash now would lose what is known. It is said once, and written back when
    /// that can be done.
    fn cannot_look(self: &Arc<Self>, error: &StoreError) {
        let mut known = self.lock();
        let is_lost = matches!(error, StoreError::Unavailable(_) | StoreError::Unsafe { .. });
        if known.is_at_risk || known.record == TokenRecord::default() || !is_lost {
            tracing::debug!(key = self.key, %error, "the token store cannot be looked at");
            return;
        }
        known.is_at_risk = true;
        known.unsaved = true;
        drop(known);
        self.report_store(error);
        self.write_back();
    }

    /// Notes what a server issued, before anything else can happen to it. `base` is the record that it was asked
    /// for with.
    pub(super) fn keep(&self, base: &TokenRecord, record: TokenRecord) -> Result<(), Overtaken> {
        let mut known = self.lock();
        if order(base, Some(&known.record)) == Order::Theirs {
            return Err(Overtaken);
        }
        if known.record.history.len() < record.history.len() && !self.context.store.is_durable() {
            self.report_volatile(&known);
        }
        known.record = record;
        known.unsaved = true;
        known.saving = true;
        known.damaged = false;
        Ok(())
    }

    /// Changes what is noted beside the tokens.
    pub(super) fn note(&self, change: impl FnOnce(&mut TokenRecord)) {
        let mut known = self.lock();
        let before = known.record.clone();
        change(&mut known.record);
        known.unsaved |= known.record != before;
    }

    /// Saves what is known, for at most about a second; after that it is served from memory, and saved by
    /// [`Ledger::write_back`].
    pub(super) async fn save(self: &Arc<Self>) {
        for attempt in 1..=TRIES {
            match self.write(None).await {
                Ok(()) | Err(Unwritten::Overtaken) => break,
                Err(Unwritten::Hanging) => {
                    self.report_unsaved();
                    break;
                }
                Err(Unwritten::Store(error)) => self.report_store(&error),
            }
            match attempt {
                TRIES => self.report_unsaved(),
                _ => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
        self.lock().saving = false;
    }

    /// Writes what is known, over what is stored if that is older. With a lease only while that is held.
    pub(super) async fn write(&self, lease: Option<&Lease>) -> Result<(), Unwritten> {
        let _writing = self.writing.lock().await;
        for _ in 0..3 {
            let (record, version) = {
                let known = self.lock();
                (known.record.clone(), known.version)
            };
            let put = self.context.store.put(&self.key, version, lease, &record).await;
            match put.map_err(Unwritten::Store)? {
                Put::Stored(version) => {
                    let mut known = self.lock();
                    known.version = version;
                    // Whatever was noted meanwhile is written next.
                    known.unsaved = known.record != record;
                    known.is_at_risk &= known.unsaved;
                    return Ok(());
                }
                Put::Unknown => {
                    self.metrics.store_failed("store_timeout");
                    return Err(Unwritten::Hanging);
                }
                Put::Conflict => {
                    let stored = match self.context.store.load(&self.key).await {
                        Err(StoreError::Corrupt { .. }) => None,
                        stored => stored.map_err(Unwritten::Store)?,
                    };
                    let mut known = self.lock();
                    if self.reconcile(&mut known, stored)
                        && order(&record, Some(&known.record)) == Order::Theirs
                    {
                        self.report_overtaken(&known);
                        return Err(Unwritten::Overtaken);
                    }
                }
            }
        }
        let (key, waited) = (self.key.clone(), crate::store::DEADLINE);
        Err(Unwritten::Store(StoreError::Busy { key, waited }))
    }

    /// Writes what is known where the store is still as it was read. Otherwise what is there counts, beside the same
    /// tokens, and is read by whoever looks next.
    pub(super) async fn write_unless_changed(&self) {
        let (record, version) = {
            let known = self.lock();
            (known.record.clone(), known.version)
        };
        let put = self.context.store.put(&self.key, version, None, &record).await;
        let mut known = self.lock();
        if let Ok(Put::Stored(version)) = put {
            known.version = version;
        }
        known.unsaved = known.record != record;
    }

    /// Writes what is unsaved until it is stored, or overtaken.
    pub(super) fn write_back(self: &Arc<Self>) {
        if self.is_writing_back.swap(true, Ordering::SeqCst) {
            return;
        }
        let ledger = Arc::clone(self);
        let writing = async move {
            loop {
                if !ledger.lock().unsaved {
                    break;
                }
                match ledger.write(None).await {
                    Ok(()) => ledger.report_saved(true),
                    Err(Unwritten::Overtaken) => ledger.report_saved(false),
                    Err(Unwritten::Hanging) => ledger.lock().is_at_risk = true,
                    Err(Unwritten::Store(error)) => {
                        tracing::debug!(key = ledger.key, %error, "still not saved");
                        ledger.lock().is_at_risk = true;
                    }
                }
                {
                    let mut known = ledger.lock();
                    if !known.unsaved {
                        known.lease = None;
                        ledger.publish(&mut known);
                        break;
                    }
                }
                tokio::time::sleep(WRITE_AGAIN).await;
            }
            ledger.is_writing_back.store(false, Ordering::SeqCst);
            // What was noted in between is not forgotten.
            if ledger.lock().unsaved {
                ledger.write_back();
            }
        };
        self.context.tasks.writes.spawn_on(writing, &self.context.control);
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

/// Why something is not stored.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// Somebody else has stored what counts now.
    Overtaken,
    /// The store has not answered: it may be stored now, later, or never.
    Hanging,
    /// The store could not.
    Store(StoreError),
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({})", self.key)
    }
}
