//! One durable refresh of one credential.
//!
//! A refresh token may be single-use: the authorization server can answer with a new one and forget
//! the old (RFC 6749 §6, RFC 9700 §4.14). From that moment until the new one is on stable storage,
//! this process holds the only copy. Everything here is arranged around that interval:
//!
//! 1. take the lease, so that no other process refreshes the same credential;
//! 2. reload the record, because another process may have refreshed it while we waited;
//! 3. write down the intent, so that a crash from here on is recognised afterwards;
//! 4. ask the token endpoint;
//! 5. commit the new record;
//! 6. only then hand the new access token out.
//!
//! A commit that fails for I/O does not hold requests up for more than a second: refusing traffic
//! would not bring the old refresh token back. The record is then served from memory, the lease is
//! kept so that nobody else refreshes with the dead token, and the commit is tried until it works.
//!
//! This module decides *how* a token is replaced. *When*, and who waits for it, is decided by
//! [`Slot`](super::Slot). It never logs a token; log lines carry the record's generation instead.
//!
//! # Cancellation
//!
//! Dropping the future of [`Refresher::refresh`] after step 4 loses the grant. `Slot` runs it on a
//! task that outlives the request that asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

use super::state::{Backoff, Outcome};
use super::{Config, Context, Generation, Seed, store_failure};
use crate::oauth::{Class, Grant, GrantError, GrantType, TokenEndpoint, TokenResponse};
use crate::secret::{Fingerprint, Secret};
use crate::store::{Commit, Intent, Lease, StoreError, Terminal, TerminalReason, TokenRecord};

/// When a request whose answer was lost is made again with the same refresh token: soon, because
/// the shortest documented grace for that is 5 s (Connect2id), and a minute later it is over.
const REPLAYS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(4)];
/// Attempts to commit, and the wait between them, before the record is served from memory.
const COMMIT_TRIES: usize = 3;
const COMMIT_PAUSE: Duration = Duration::from_millis(300);
/// How often a commit that failed is tried again in the background.
const REWRITE_PAUSE: Duration = Duration::from_secs(1);
/// After so many doubtful answers in a row, a grant that worked before is taken for dead.
const DOUBTS: u32 = 3;

/// What a flight is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// The generation that is to be replaced.
    pub(super) seen: Generation,
    /// An origin rejected it.
    pub(super) rejected: bool,
    /// It can still be served while this runs.
    usable: bool,
}

impl Demand {
    pub(super) fn replace(seen: Generation, usable: bool) -> Self {
        Self { seen, rejected: false, usable }
    }

    pub(super) fn rejected(seen: Generation) -> Self {
        Self { seen, rejected: true, usable: false }
    }
}

/// How a refresh failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What it means for the credential.
    pub(super) outcome: Outcome,
    /// The record as it is now, if it changed all the same.
    pub(super) record: Option<Box<TokenRecord>>,
}

impl Failure {
    fn new(outcome: Outcome) -> Self {
        Self { outcome, record: None }
    }

    /// The flight ended without saying how.
    pub(super) fn crashed() -> Self {
        Self::failed(Backoff::Long, None, "internal_error")
    }

    fn failed(backoff: Backoff, retry_after: Option<Duration>, why: &'static str) -> Self {
        Self::new(Outcome::Failed { backoff, retry_after, why })
    }

    fn needs_login(reason: TerminalReason) -> Self {
        Self::new(Outcome::NeedsLogin(reason))
    }

    fn of_store(error: &StoreError) -> Self {
        Self::failed(Backoff::Short, None, store_failure(error))
    }
}

/// Replaces one credential's tokens.
#[derive(Debug)]
pub(super) struct Refresher {
    name: String,
    endpoint: TokenEndpoint,
    seed: Option<Seed>,
    lifetime: Option<Duration>,
    lease_wait: Duration,
    config: Fingerprint,
    context: Context,
    memory: Mutex<Memory>,
    unsaved: AtomicBool,
}

/// What this process knows beyond the store.
#[derive(Debug, Default)]
struct Memory {
    /// The last record read or written: it heals a damaged file.
    known: Option<TokenRecord>,
    /// `known` is not on stable storage yet.
    unsaved: Option<Unsaved>,
    /// The stored record was found damaged, and `known` is no help.
    damaged: bool,
    /// Doubtful answers in a row.
    doubts: u32,
}

/// The right to write a record that could not be written.
#[derive(Debug)]
struct Unsaved {
    lease: Lease,
    stored: Generation,
}

/// One refresh under way: the lease, and the record as it develops.
struct Session {
    lease: Lease,
    /// The generation in the store, which a commit has to name.
    stored: Generation,
    record: TokenRecord,
    /// `record` is newer than the store.
    ahead: bool,
    /// The stored record was damaged, and nothing else is known of it.
    damaged: bool,
}

/// What the record and the configuration leave to do.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Ask with this refresh token, or with none for the other grants.
    Ask { refresh_token: Option<Secret>, new_seed: Option<Fingerprint> },
    /// Ask nobody.
    Stop(TerminalReason),
}

impl Refresher {
    pub(super) fn new(config: Config, endpoint: TokenEndpoint, context: &Context) -> Self {
        Self {
            name: config.name,
            config: config.oauth.fingerprint(),
            endpoint,
            seed: config.seed,
            lifetime: config.lifetime,
            lease_wait: config.wait,
            context: context.clone(),
            memory: Mutex::default(),
            unsaved: AtomicBool::new(false),
        }
    }

    /// Is there a record that only this process knows?
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Reads the record at start: the token in it, or the reason why none will be asked for.
    pub(super) async fn recall(&self) -> Result<Option<TokenRecord>, Failure> {
        let record = match self.context.store.load(&self.name).await {
            Ok(record) => record,
            Err(error) => {
                self.report_store(&error);
                // A damaged record is looked into by the first refresh, under the lease.
                return match error {
                    StoreError::Corrupt { .. } => {
                        self.memory.lock().await.damaged = true;
                        Ok(None)
                    }
                    error => Err(Failure::of_store(&error)),
                };
            }
        };
        let Some(record) = record else { return Ok(None) };
        match self.plan(&record, false) {
            Plan::Stop(reason) => {
                Err(Failure { record: Some(Box::new(record)), ..Failure::needs_login(reason) })
            }
            // A new seed is a new grant: the old access token may belong to another account.
            Plan::Ask { new_seed: Some(_), .. } => Ok(None),
            Plan::Ask { .. } => Ok(Some(record)),
        }
    }

    /// Replaces the token that `demand` names and returns the record that holds the new one.
    pub(super) async fn refresh(self: &Arc<Self>, demand: Demand) -> Result<TokenRecord, Failure> {
        let mut memory = self.memory.lock().await;
        let was_unsaved = memory.unsaved.is_some();
        let mut session = self.open(&mut memory).await?;
        let result = self.replace(&mut session, &mut memory, demand).await;
        let ahead = session.ahead;
        memory.known = Some(session.record);
        if ahead {
            memory.unsaved = Some(Unsaved { lease: session.lease, stored: session.stored });
        }
        drop(memory);
        self.unsaved.store(ahead, Ordering::Relaxed);
        if ahead && !was_unsaved {
            let rewriting = Arc::clone(self).rewrite();
            self.context.tasks.spawn_on(rewriting, &self.context.control);
        }
        result
    }

    /// Takes the lease and the newest record: the one in memory while it waits to be written, or
    /// else the stored one.
    async fn open(&self, memory: &mut Memory) -> Result<Session, Failure> {
        if let (Some(unsaved), Some(record)) = (memory.unsaved.take(), memory.known.clone()) {
            let Unsaved { lease, stored } = unsaved;
            return Ok(Session { lease, stored, record, ahead: true, damaged: false });
        }
        let store = &self.context.store;
        let lease = store.lease(&self.name, self.lease_wait).await.map_err(|error| {
            self.report_store(&error);
            Failure::of_store(&error)
        })?;
        match store.load(&self.name).await {
            Ok(Some(record)) => Ok(Session {
                stored: record.generation,
                lease,
                record,
                ahead: false,
                damaged: false,
            }),
            // Never there, or moved aside: a process that still holds the record writes it back.
            Ok(None) => Ok(rebuild(lease, memory)),
            Err(error) => {
                self.report_store(&error);
                if !matches!(error, StoreError::Corrupt { .. }) {
                    return Err(Failure::of_store(&error));
                }
                memory.damaged = true;
                Ok(rebuild(lease, memory))
            }
        }
    }

    async fn replace(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        demand: Demand,
    ) -> Result<TokenRecord, Failure> {
        let plan = self.plan(&session.record, session.damaged);
        // A new seed is a new grant: whatever the old one still has to offer is not taken.
        let is_new_grant = matches!(plan, Plan::Ask { new_seed: Some(_), .. });
        let is_newer = session.record.generation > demand.seen
            && is_usable(&session.record, self.context.clock.now());
        if is_newer && !is_new_grant {
            tracing::info!(
                credential = self.name,
                generation = session.record.generation.0,
                "adopted a newer token from the store"
            );
            return Ok(session.record.clone());
        }
        let (refresh_token, new_seed) = match plan {
            Plan::Ask { refresh_token, new_seed } => (refresh_token, new_seed),
            Plan::Stop(reason) => {
                self.report_needs_login(reason, session.record.generation, None);
                return Err(Failure::needs_login(reason));
            }
        };
        let lost_answer = self.begin(session, refresh_token.as_ref(), new_seed, demand).await?;
        let grant = refresh_token.as_ref().map_or(Grant::ClientCredentials, Grant::RefreshToken);
        let (asked_at, answer) = self.ask(grant).await;
        match answer {
            Ok(response) => {
                memory.doubts = 0;
                let unchanged = demand.rejected
                    && session.record.access_token.as_ref() == Some(&response.access_token);
                session.record = self.merge(&session.record, response, asked_at);
                self.save(session).await?;
                self.report_refreshed(session, started(asked_at, self.context.clock.now()));
                if unchanged {
                    let record = Some(Box::new(session.record.clone()));
                    return Err(Failure { outcome: Outcome::Unchanged, record });
                }
                Ok(session.record.clone())
            }
            Err(Refused { error, replayed }) => {
                self.refused(session, memory, refresh_token, error, lost_answer || replayed).await
            }
        }
    }

    /// What the record and the configured seed leave to do.
    fn plan(&self, record: &TokenRecord, damaged: bool) -> Plan {
        plan(record, self.seed.as_ref(), self.endpoint.config().grant, &self.config, damaged)
    }

    /// Writes down what is about to be tried. Says whether the answer to an earlier request with
    /// the same refresh token was lost.
    async fn begin(
        &self,
        session: &mut Session,
        refresh_token: Option<&Secret>,
        new_seed: Option<Fingerprint>,
        demand: Demand,
    ) -> Result<bool, Failure> {
        let record = &mut session.record;
        record.rejected |= demand.rejected && record.generation == demand.seen;
        let Some(refresh_token) = refresh_token else { return Ok(false) };
        let fingerprint = refresh_token.fingerprint();
        let lost_answer =
            record.intent.as_ref().is_some_and(|intent| intent.refresh_token == fingerprint);
        if let Some(seed) = new_seed {
            if record.refresh_token.is_some() {
                record.generation = record.generation.next();
            }
            supersede(record, refresh_token.clone());
            record.seeds.push(seed);
            record.access_token = None;
            record.expires_at = None;
        }
        record.terminal = None;
        record.intent = Some(Intent { refresh_token: fingerprint, at: self.context.clock.now() });
        match self.commit(session).await {
            Ok(Commit::Stored) => {}
            Ok(Commit::Conflict) => {
                return Err(Failure::failed(Backoff::Short, None, "store_conflict"));
            }
            Err(error) => {
                self.report_store(&error);
                if demand.usable {
                    // There is time: a refresh that could not be recorded is not begun.
                    return Err(Failure::of_store(&error));
                }
            }
        }
        Ok(lost_answer)
    }

    /// Sends the grant, again at once if it never left, and again soon if no answer came.
    async fn ask(&self, grant: Grant<'_>) -> (SystemTime, Result<TokenResponse, Refused>) {
        let mut replays = REPLAYS.iter();
        let mut replayed = false;
        let mut unsent = 0;
        loop {
            let asked_at = self.context.clock.now();
            let error = match self.endpoint.request(grant, asked_at).await {
                Ok(response) => return (asked_at, Ok(response)),
                Err(error) => error,
            };
            let pause = match error.class {
                Class::NotSent if unsent == 0 => {
                    unsent += 1;
                    Some(Duration::ZERO)
                }
                Class::Ambiguous => replays.next().copied(),
                Class::Transient if !replayed && error.retry_after.is_none() => {
                    replays.next().copied()
                }
                _ => None,
            };
            let Some(pause) = pause else {
                return (asked_at, Err(Refused { error, replayed }));
            };
            replayed |= may_have_consumed(error.class);
            tracing::warn!(
                credential = self.name,
                class = %error.class,
                %error,
                again_in = ?pause,
                "token request failed"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// The record after a success. What the server left out is kept.
    fn merge(
        &self,
        old: &TokenRecord,
        response: TokenResponse,
        asked_at: SystemTime,
    ) -> TokenRecord {
        let mut record = TokenRecord {
            generation: old.generation.next(),
            access_token: Some(response.access_token),
            issued_at: Some(asked_at),
            expires_at: response
                .expires_at
                .or_else(|| self.lifetime.map(|lifetime| asked_at + lifetime)),
            rejected: false,
            intent: None,
            terminal: None,
            ..old.clone()
        };
        if let Some(refresh_token) = response.refresh_token {
            // Within its grace a server may hand out a token that is superseded already.
            if !record.superseded.contains(&refresh_token.fingerprint()) {
                supersede(&mut record, refresh_token);
            }
        }
        record
    }

    /// Commits, for at most a second; after that the record is served from memory.
    async fn save(&self, session: &mut Session) -> Result<(), Failure> {
        session.ahead = true;
        for attempt in 1..=COMMIT_TRIES {
            match self.commit(session).await {
                Ok(Commit::Stored) => return Ok(()),
                Ok(Commit::Conflict) => return self.adopt(session).await,
                Err(error) => self.report_store(&error),
            }
            if attempt < COMMIT_TRIES {
                tokio::time::sleep(COMMIT_PAUSE).await;
            }
        }
        tracing::error!(
            credential = self.name,
            generation = session.record.generation.0,
            "the new token is in use but would be lost by a crash; saving it is tried until it works"
        );
        Ok(())
    }

    async fn commit(&self, session: &mut Session) -> Result<Commit, StoreError> {
        let store = &self.context.store;
        let result = store.commit(&session.lease, session.stored, &session.record).await?;
        if result == Commit::Stored {
            session.stored = session.record.generation;
            session.ahead = false;
        }
        Ok(result)
    }

    /// Somebody wrote past the lease (a logout, a restored backup): theirs counts, not ours.
    async fn adopt(&self, session: &mut Session) -> Result<(), Failure> {
        tracing::warn!(credential = self.name, "the record was changed by someone else meanwhile");
        let record = self.context.store.load(&self.name).await.map_err(|error| {
            self.report_store(&error);
            Failure::of_store(&error)
        })?;
        session.ahead = false;
        session.record = record.unwrap_or_default();
        session.stored = session.record.generation;
        match is_usable(&session.record, self.context.clock.now()) {
            true => Ok(()),
            false => Err(Failure::failed(Backoff::Short, None, "store_conflict")),
        }
    }

    /// The server issued nothing: what that means for the credential.
    async fn refused(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        refresh_token: Option<Secret>,
        error: GrantError,
        lost_answer: bool,
    ) -> Result<TokenRecord, Failure> {
        if let Some(salvaged) = error.salvaged.clone() {
            session.record.generation = session.record.generation.next();
            supersede(&mut session.record, salvaged);
            session.record.intent = None;
            self.save(session).await?;
        }
        let worked_before = session.record.generation > Generation(1);
        memory.doubts = if error.class == Class::Doubtful { memory.doubts + 1 } else { 0 };
        let dead = match error.class {
            Class::GrantDead if lost_answer => Some(TerminalReason::LostRotation),
            Class::GrantDead => Some(TerminalReason::Revoked),
            Class::UserNeeded => Some(TerminalReason::UserNeeded),
            Class::Doubtful if memory.doubts >= DOUBTS && worked_before => {
                Some(TerminalReason::Revoked)
            }
            _ => None,
        };
        if let (Some(reason), Some(refresh_token)) = (dead, &refresh_token) {
            return self.die(session, reason, refresh_token, &error).await;
        }
        self.report_refused(session, &error);
        if !lost_answer && !may_have_consumed(error.class) && session.record.intent.is_some() {
            // The refresh token is as good as before: a later refusal is not this request's doing.
            session.record.intent = None;
            if let Err(error) = self.commit(session).await {
                self.report_store(&error);
            }
        }
        let backoff = match error.class {
            Class::Transient | Class::NotSent | Class::Ambiguous | Class::Throttled => {
                Backoff::Short
            }
            _ => Backoff::Long,
        };
        Err(Failure::failed(backoff, error.retry_after, why(error.class)))
    }

    /// Records that the grant is dead, unless someone else has a newer one.
    async fn die(
        &self,
        session: &mut Session,
        reason: TerminalReason,
        refresh_token: &Secret,
        error: &GrantError,
    ) -> Result<TokenRecord, Failure> {
        if let Ok(Some(record)) = self.context.store.load(&self.name).await
            && record.generation > session.record.generation
        {
            session.stored = record.generation;
            session.record = record;
            session.ahead = false;
            return Ok(session.record.clone());
        }
        session.record.intent = None;
        session.record.terminal = Some(Terminal {
            reason,
            refresh_token: Some(refresh_token.fingerprint()),
            config: self.config.clone(),
            at: self.context.clock.now(),
        });
        self.report_needs_login(reason, session.record.generation, Some(error));
        self.save(session).await?;
        // The access token is served until it expires, unless an origin rejected it.
        let record = Some(Box::new(session.record.clone()));
        Err(Failure { record, ..Failure::needs_login(reason) })
    }

    /// Tries to write an unsaved record until it is written, by this task or by a later refresh.
    async fn rewrite(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REWRITE_PAUSE).await;
            let mut memory = self.memory.lock().await;
            let (Some(unsaved), Some(record)) = (&memory.unsaved, &memory.known) else { return };
            match self.context.store.commit(&unsaved.lease, unsaved.stored, record).await {
                Ok(commit) => {
                    tracing::warn!(
                        credential = self.name,
                        generation = record.generation.0,
                        stored = commit == Commit::Stored,
                        "the token that could not be saved is saved now, or was overtaken"
                    );
                    memory.unsaved = None;
                    self.unsaved.store(false, Ordering::Relaxed);
                    return;
                }
                Err(error) => tracing::debug!(credential = self.name, %error, "still not saved"),
            }
        }
    }

    fn report_store(&self, error: &StoreError) {
        tracing::error!(credential = self.name, %error, "token store");
    }

    fn report_refreshed(&self, session: &Session, took: Duration) {
        tracing::info!(
            credential = self.name,
            generation = session.record.generation.0,
            expires_at = session
                .record
                .expires_at
                .map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            took_ms = took.as_millis(),
            "access token refreshed"
        );
    }

    fn report_refused(&self, session: &Session, error: &GrantError) {
        tracing::warn!(
            credential = self.name,
            generation = session.record.generation.0,
            class = %error.class,
            status = error.status,
            %error,
            "token request refused"
        );
    }

    fn report_needs_login(
        &self,
        reason: TerminalReason,
        generation: Generation,
        error: Option<&GrantError>,
    ) {
        tracing::error!(
            credential = self.name,
            generation = generation.0,
            %reason,
            error = error.map(ToString::to_string),
            "credential needs a new refresh token; no token request is made until it has one"
        );
    }
}

/// A failed token request, and whether an answer may have been lost on the way to it.
struct Refused {
    error: GrantError,
    replayed: bool,
}

/// Starts from what this process remembers, where the store has nothing.
fn rebuild(lease: Lease, memory: &mut Memory) -> Session {
    let stored = Generation::default();
    let damaged = std::mem::take(&mut memory.damaged);
    match memory.known.take() {
        Some(record) => Session { lease, stored, record, ahead: true, damaged: false },
        None => Session { lease, stored, record: TokenRecord::default(), ahead: false, damaged },
    }
}

/// What is left to do, given what is stored and what is configured.
fn plan(
    record: &TokenRecord,
    seed: Option<&Seed>,
    grant: GrantType,
    config: &Fingerprint,
    damaged: bool,
) -> Plan {
    if grant == GrantType::ClientCredentials {
        return Plan::Ask { refresh_token: None, new_seed: None };
    }
    let seed = seed.and_then(|seed| seed.value.as_ref());
    let new_seed = seed
        .map(|value| (value, value.fingerprint()))
        .filter(|(_, fingerprint)| !record.knows_seed(fingerprint));
    if let Some((value, fingerprint)) = new_seed {
        return Plan::Ask { refresh_token: Some(value.clone()), new_seed: Some(fingerprint) };
    }
    let Some(refresh_token) = record.refresh_token.as_ref().or(seed) else {
        return Plan::Stop(match damaged {
            true => TerminalReason::Corrupt,
            false => TerminalReason::NoGrant,
        });
    };
    match &record.terminal {
        Some(terminal)
            if terminal.config == *config
                && terminal.refresh_token == Some(refresh_token.fingerprint()) =>
        {
            Plan::Stop(terminal.reason)
        }
        _ => Plan::Ask { refresh_token: Some(refresh_token.clone()), new_seed: None },
    }
}

/// Makes `new` the current refresh token and remembers the hash of the old one.
fn supersede(record: &mut TokenRecord, new: Secret) {
    if let Some(old) = record.refresh_token.replace(new)
        && record.refresh_token.as_ref() != Some(&old)
    {
        record.superseded.insert(0, old.fingerprint());
        record.superseded.truncate(TokenRecord::HISTORY);
    }
}

fn is_usable(record: &TokenRecord, now: SystemTime) -> bool {
    record.access_token.is_some()
        && !record.rejected
        && record.expires_at.is_none_or(|expires_at| now < expires_at)
}

/// May the server have acted on a request that failed like this?
fn may_have_consumed(class: Class) -> bool {
    matches!(class, Class::Ambiguous | Class::Transient)
}

fn why(class: Class) -> &'static str {
    match class {
        Class::GrantDead => "grant_dead",
        Class::UserNeeded => "user_needed",
        Class::Throttled => "throttled",
        Class::Transient => "server_trouble",
        Class::NotSent => "unreachable",
        Class::Ambiguous => "no_answer",
        Class::Config | Class::Doubtful => "refused",
        Class::Protocol => "unreadable_answer",
    }
}

fn started(asked_at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(asked_at).unwrap_or_default()
}

#[cfg(test)]
#[path = "refresh/tests.rs"]
mod tests;
