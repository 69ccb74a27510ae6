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

mod plan;
mod refusal;
mod report;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Mutex;

use super::state::{Backoff, Outcome};
use super::{Config, Context, Generation, Seed};
use crate::metrics::CredentialMetrics;
use crate::oauth::{Class, Given, Grant, GrantError, TokenEndpoint, TokenResponse};
use crate::secret::{Fingerprint, Secret};
use crate::store::{Commit, Intent, StoreError, TerminalReason, TokenRecord};
use crate::template::Variables;
use plan::{Plan, is_usable, plan, supersede};
use report::store_failure;
use session::{Memory, Session, Unsaved};

/// When a request whose answer was lost is made again with the same refresh token: soon, because
/// the shortest documented grace for that is 5 s (Connect2id), and a minute later it is over.
const REPLAYS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(4)];
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
    /// What went wrong, for people; without secrets.
    pub(super) detail: Option<String>,
}

impl Failure {
    fn new(outcome: Outcome) -> Self {
        Self { outcome, record: None, detail: None }
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
        let detail = Some(error.to_string());
        Self { detail, ..Self::failed(Backoff::Short, None, store_failure(error)) }
    }

    /// The word for the metric.
    fn outcome(&self) -> &'static str {
        match &self.outcome {
            Outcome::Refreshed => "success",
            Outcome::Unchanged => "unchanged",
            Outcome::Failed { why, .. } => why,
            Outcome::NeedsLogin(_) => "needs_login",
        }
    }
}

/// Replaces one credential's tokens.
#[derive(Debug)]
pub(super) struct Refresher {
    /// For messages.
    name: String,
    /// Of the record.
    key: String,
    endpoint: TokenEndpoint,
    variables: Variables,
    seed: Option<Seed>,
    lifetime: Option<Duration>,
    lease_wait: Duration,
    config: Fingerprint,
    context: Context,
    metrics: CredentialMetrics,
    memory: Arc<Mutex<Memory>>,
    unsaved: Arc<AtomicBool>,
}

impl Refresher {
    pub(super) fn new(config: Config, endpoint: TokenEndpoint, context: &Context) -> Self {
        Self {
            metrics: context.metrics.of_credential(&config.name),
            name: config.title(),
            key: config.key(),
            config: config.oauth.fingerprint(),
            endpoint,
            variables: config.variables,
            seed: config.seed,
            lifetime: config.lifetime,
            lease_wait: config.wait,
            context: context.clone(),
            memory: Arc::default(),
            unsaved: Arc::default(),
        }
    }

    /// A refresher for the same credential with another configuration, and the same memory.
    pub(super) fn succeed(
        &self,
        config: Config,
        endpoint: TokenEndpoint,
        context: &Context,
    ) -> Self {
        Self {
            memory: Arc::clone(&self.memory),
            unsaved: Arc::clone(&self.unsaved),
            ..Self::new(config, endpoint, context)
        }
    }

    /// Is there a record that only this process knows?
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Reads the record at start: the token in it, or the reason why none will be asked for.
    pub(super) async fn recall(&self) -> Result<Option<TokenRecord>, Failure> {
        let record = match self.context.store.load(&self.key).await {
            Ok(record) => record,
            Err(error) => {
                self.report_store(&error);
                // A damaged record is looked into by the first refresh, under the lease.
                return match error {
                    StoreError::Corrupt { .. } => {
                        if let Ok(mut memory) = self.memory.try_lock() {
                            memory.damaged = true;
                        }
                        Ok(None)
                    }
                    error => Err(Failure::of_store(&error)),
                };
            }
        };
        let Some(record) = self.newer_of(record) else { return Ok(None) };
        match self.plan(&record, false) {
            Plan::Stop(reason) => {
                Err(Failure { record: Some(Box::new(record)), ..Failure::needs_login(reason) })
            }
            // A new seed is a new grant: the old access token may belong to another account.
            Plan::Ask { new_seed: Some(_), .. } => Ok(None),
            Plan::Ask { .. } => Ok(Some(record)),
        }
    }

    /// The stored record, or the one that a slot before this one has left in memory if it is newer.
    fn newer_of(&self, stored: Option<TokenRecord>) -> Option<TokenRecord> {
        // A flight of the slot before holds the memory, and stores what it gets before the next flight.
        let Ok(mut memory) = self.memory.try_lock() else { return stored };
        let generation = |record: &Option<TokenRecord>| record.as_ref().map(|r| r.generation);
        if generation(&stored) >= generation(&memory.known) {
            memory.known = stored;
        }
        memory.known.clone()
    }

    /// Has another process stored something newer than this one knows? Looks only, and not while a
    /// refresh is under way, which will see for itself.
    pub(super) async fn look(&self) -> Option<Result<TokenRecord, Failure>> {
        let mut memory = self.memory.try_lock().ok()?;
        if memory.unsaved.is_some() {
            return None;
        }
        let record = match self.context.store.load(&self.key).await {
            Ok(record) => record?,
            Err(error) => {
                // The rest is said by the next refresh, and not every two seconds.
                if matches!(error, StoreError::Corrupt { .. }) {
                    self.report_store(&error);
                }
                return None;
            }
        };
        let news = memory.known.as_ref().is_none_or(|known| {
            let died = record.generation == known.generation && record.terminal != known.terminal;
            record.generation > known.generation || died
        });
        if !news {
            return None;
        }
        memory.known = Some(record.clone());
        match self.plan(&record, false) {
            Plan::Stop(reason) => {
                self.report_needs_login(reason, record.generation, None);
                let record = Some(Box::new(record));
                Some(Err(Failure { record, ..Failure::needs_login(reason) }))
            }
            Plan::Ask { new_seed: Some(_), .. } => None,
            Plan::Ask { .. } => {
                self.report_adopted(record.generation);
                Some(Ok(record))
            }
        }
    }

    /// Replaces the token that `demand` names and returns the record that holds the new one.
    pub(super) async fn refresh(self: &Arc<Self>, demand: Demand) -> Result<TokenRecord, Failure> {
        let began = Instant::now();
        let mut memory = self.memory.lock().await;
        let was_unsaved = memory.unsaved.is_some();
        let opened = self.open(&mut memory).await;
        let mut session = opened.inspect_err(|failure| self.report_flight(Err(failure), began))?;
        let result = self.replace(&mut session, &mut memory, demand).await;
        self.report_flight(result.as_ref().map(|_| session.adopted), began);
        memory.damaged &= result.is_err();
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
            self.report_adopted(session.record.generation);
            session.adopted = true;
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
        let grant = refresh_token.as_ref().map_or(Grant::Own, Grant::RefreshToken);
        let (asked_at, answer) = self.ask(grant, session.record.access_token.as_ref()).await;
        match answer {
            Ok(response) => {
                memory.doubts = 0;
                let unchanged =
                    demand.rejected && session.record.access_token == response.access_token;
                session.record = self.merge(&session.record, response, asked_at);
                self.save(session).await?;
                self.report_refreshed(session, asked_at, self.context.clock.now());
                if unchanged {
                    let record = Some(Box::new(session.record.clone()));
                    return Err(Failure { record, ..Failure::new(Outcome::Unchanged) });
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
    async fn ask(
        &self,
        grant: Grant<'_>,
        access_token: Option<&Secret>,
    ) -> (SystemTime, Result<TokenResponse, Refused>) {
        let mut replays = REPLAYS.iter();
        let mut replayed = false;
        let mut unsent = 0;
        loop {
            let asked_at = self.context.clock.now();
            let given =
                Given { now: asked_at, access_token, variables: &self.variables, proof: None };
            let error = match self.endpoint.request(grant, given).await {
                Ok(response) => return (asked_at, Ok(response)),
                Err(error) => error,
            };
            let pause = match error.class {
                // The answer had a new refresh token: this one is spent.
                _ if error.salvaged.is_some() => None,
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
            if may_have_consumed(error.class) {
                replayed = true;
                self.metrics.replayed();
            }
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
            access_token: response.access_token.or_else(|| old.access_token.clone()),
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
}

/// A failed token request, and whether an answer may have been lost on the way to it.
struct Refused {
    error: GrantError,
    replayed: bool,
}

/// May the server have acted on a request that failed like this?
fn may_have_consumed(class: Class) -> bool {
    matches!(class, Class::Ambiguous | Class::Transient)
}

#[cfg(test)]
#[path = "refresh/tests.rs"]
mod tests;
