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

mod ask;
mod bootstrap;
mod operator;
mod outcome;
mod plan;
mod recall;
mod refusal;
mod report;
mod session;
mod succession;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Mutex;

use super::state::{Backoff, Outcome, Spent};
use super::{Config, Context, Generation, Seed};
use crate::metrics::CredentialMetrics;
use crate::oauth::{Grant, Rotation, TokenEndpoint, TokenResponse};
use crate::secret::{Fingerprint, Secret};
use crate::store::{Commit, Intent, StoreError, TerminalReason, TokenRecord};
use crate::template::Variables;
use ask::{Asked, Refused};
use outcome::{Terms, Unfit, issue};
use plan::{Plan, Sources, displace, is_usable, plan};
use report::store_failure;
use session::{Memory, Session, Unsaved};
use succession::Reign;

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

    /// Was it the token of `record` that was rejected?
    fn rejects(self, record: &TokenRecord) -> bool {
        self.rejected && record.generation == self.seen
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

/// How a flight ended, and what it cost.
#[derive(Debug)]
pub(super) struct Flown {
    pub(super) result: Result<TokenRecord, Failure>,
    pub(super) spent: Spent,
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
    rotation: Rotation,
    lease_wait: Duration,
    config: Fingerprint,
    context: Context,
    metrics: CredentialMetrics,
    memory: Arc<Mutex<Memory>>,
    unsaved: Arc<AtomicBool>,
    reign: Reign,
    /// What the authorization server wants to see in the next proof (RFC 9449 §8).
    nonce: std::sync::Mutex<Option<String>>,
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
            rotation: config.oauth.rotation,
            lease_wait: config.wait,
            context: context.clone(),
            memory: Arc::default(),
            unsaved: Arc::default(),
            reign: Reign::default(),
            nonce: std::sync::Mutex::default(),
        }
    }

    /// Is there a record that only this process knows?
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Replaces the token that `demand` names and returns the record that holds the new one.
    pub(super) async fn refresh(self: &Arc<Self>, demand: Demand) -> Flown {
        let began = Instant::now();
        let mut memory = self.memory.lock().await;
        if let Err(failure) = self.take_charge() {
            return Flown { result: Err(failure), spent: Spent::default() };
        }
        memory.serve(&self.config);
        if let Some(record) = self.known_since(&memory, demand) {
            self.report_adopted(record.generation);
            self.report_flight(Ok(true), began);
            return Flown { result: Ok(record), spent: Spent::default() };
        }
        let was_unsaved = memory.unsaved.is_some();
        let mut session = match self.open(&mut memory).await {
            Ok(session) => session,
            Err(failure) => {
                self.report_flight(Err(&failure), began);
                return Flown { result: Err(failure), spent: Spent::default() };
            }
        };
        let result = self.replace(&mut session, &mut memory, demand).await;
        self.report_flight(result.as_ref().map(|_| session.adopted), began);
        memory.damaged &= result.is_err();
        let lifetime = session.record.expires_at.zip(session.record.issued_at);
        let lifetime = lifetime.map(|(end, start)| end.duration_since(start).unwrap_or_default());
        let spent = Spent { requests: session.requests, lifetime };
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
        Flown { result, spent }
    }

    async fn replace(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        demand: Demand,
    ) -> Result<TokenRecord, Failure> {
        self.still_in_charge()?;
        let key = self.bind(&mut session.record);
        let plan = self.plan(&session.record, session.damaged);
        // A new seed is a new grant: whatever the old one still has to offer is not taken.
        let is_new_grant = matches!(plan, Plan::Ask { new_seed: Some(_), .. });
        let is_newer = session.record.generation > demand.seen
            && is_usable(&session.record, self.context.clock.now());
        if is_newer && !is_new_grant {
            return self.accept_foreign(session);
        }
        let (refresh_token, new_seed) = match plan {
            Plan::Ask { refresh_token, new_seed } => (refresh_token, new_seed),
            Plan::Bootstrap => {
                session.record.rejected |= demand.rejects(&session.record);
                return self.bootstrap(session, memory, demand).await;
            }
            Plan::BootstrapLater(pause) => return Err(self.bootstrap_later(session, pause)),
            Plan::Stop(reason) => {
                self.report_needs_login(reason, session.record.generation, None);
                return Err(Failure::needs_login(reason));
            }
        };
        let begun = self.begin(session, refresh_token.as_ref(), new_seed, demand).await?;
        let Begun::Go { lost_answer } = begun else { return self.accept_foreign(session) };
        let grant = refresh_token.as_ref().map_or(Grant::Own, Grant::RefreshToken);
        let Asked { at, answer, requests } =
            self.ask(grant, session.record.access_token.as_ref(), key.as_ref()).await;
        session.requests += requests;
        match answer {
            Ok(response) => {
                self.issued(session, memory, demand, response, at, refresh_token.is_some()).await
            }
            Err(Refused { error, replayed }) => {
                let lost = lost_answer || replayed;
                self.refused(session, memory, demand, refresh_token, error, lost).await
            }
        }
    }

    /// Stores what the server issued.
    async fn issued(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        demand: Demand,
        response: TokenResponse,
        asked_at: SystemTime,
        by_refresh_token: bool,
    ) -> Result<TokenRecord, Failure> {
        memory.doubts = 0;
        let terms = Terms {
            asked_at,
            lifetime: self.lifetime,
            rotation: self.rotation,
            config: &self.config,
            by_refresh_token,
            forced: demand.rejected,
            refused_early: memory.refused_early.take(),
        };
        let answered = response.refresh_token.clone();
        // What is prolonged stays the same by agreement; what is issued again may be as bad as before.
        let is_issued = response.access_token.is_some();
        let record = match issue(&session.record, response, terms) {
            Ok(record) => record,
            Err(unfit) => return Err(self.unfit(session, unfit, answered, by_refresh_token).await),
        };
        let unchanged =
            demand.rejected && is_issued && session.record.access_token == record.access_token;
        session.record = record;
        self.save(session).await?;
        self.report_refreshed(session, asked_at, self.context.clock.now());
        if unchanged {
            let record = Some(Box::new(session.record.clone()));
            return Err(Failure { record, ..Failure::new(Outcome::Unchanged) });
        }
        Ok(session.record.clone())
    }

    /// An answer that issued something which is not what the configuration asks for.
    async fn unfit(
        &self,
        session: &mut Session,
        unfit: Unfit,
        answered: Option<Secret>,
        by_refresh_token: bool,
    ) -> Failure {
        let (why, detail) = match unfit {
            Unfit::NothingToProlong => {
                ("unreadable_answer", "the answer prolongs an access token, and there is none yet")
            }
            Unfit::NotRotated => (
                "not_rotated",
                "the answer has no new refresh token, and rotation = \"require\" asks for one",
            ),
        };
        tracing::warn!(
            credential = self.name,
            generation = session.record.generation.0,
            detail,
            "token request refused"
        );
        let new = answered.filter(|new| session.record.refresh_token.as_ref() != Some(new));
        if let Some(new) = new {
            if let Err(failure) = self.salvage(session, new, by_refresh_token).await {
                return failure;
            }
        } else if session.record.intent.take().is_some()
            && let Err(error) = self.commit(session).await
        {
            self.report_store(&error);
        }
        let detail = Some(detail.to_owned());
        Failure { detail, ..Failure::failed(Backoff::Long, None, why) }
    }

    /// What the record and the configuration leave to do.
    fn plan(&self, record: &TokenRecord, damaged: bool) -> Plan {
        let config = self.endpoint.config();
        let sources = Sources {
            seed: self.seed.as_ref(),
            livelihood: config.grant.lives_on(),
            can_bootstrap: config.bootstrap.is_some(),
            config: &self.config,
        };
        plan(record, sources, damaged, self.context.clock.now())
    }

    /// Goes on with what somebody else has stored.
    fn accept_foreign(&self, session: &mut Session) -> Result<TokenRecord, Failure> {
        self.still_in_charge()?;
        let record = session.record.clone();
        if record.is_tombstone() {
            let failure = Failure::needs_login(TerminalReason::LoggedOut);
            return Err(Failure { record: Some(Box::new(record)), ..failure });
        }
        self.report_adopted(record.generation);
        session.adopted = true;
        Ok(record)
    }

    fn bootstrap_later(&self, session: &Session, pause: Duration) -> Failure {
        let record = Some(Box::new(session.record.clone()));
        Failure { record, ..Failure::failed(Backoff::Short, Some(pause), "bootstrap_pause") }
    }

    /// Writes down what is about to be tried. Says whether the answer to an earlier request with
    /// the same refresh token was lost.
    async fn begin(
        &self,
        session: &mut Session,
        refresh_token: Option<&Secret>,
        new_seed: Option<Fingerprint>,
        demand: Demand,
    ) -> Result<Begun, Failure> {
        let record = &mut session.record;
        record.rejected |= demand.rejects(record);
        let Some(refresh_token) = refresh_token else {
            return Ok(Begun::Go { lost_answer: false });
        };
        let fingerprint = refresh_token.fingerprint();
        let lost_answer =
            record.intent.as_ref().is_some_and(|intent| intent.refresh_token == fingerprint);
        if self.rotation == Rotation::Ignore && new_seed.is_none() && record.terminal.is_none() {
            // Nothing can be lost: the refresh token stays the same, whatever comes back.
            return Ok(Begun::Go { lost_answer: false });
        }
        if let Some(seed) = new_seed {
            displace(record, refresh_token.clone(), seed);
        }
        record.terminal = None;
        if self.rotation != Rotation::Ignore {
            let at = self.context.clock.now();
            record.intent = Some(Intent { refresh_token: fingerprint, at });
        }
        match self.commit(session).await {
            Ok(Commit::Stored) => {}
            Ok(Commit::Conflict) => {
                self.overtaken(session).await?;
                return Ok(Begun::Overtaken);
            }
            Err(error) => {
                self.report_store(&error);
                if demand.usable {
                    // There is time: a refresh that could not be recorded is not begun.
                    return Err(Failure::of_store(&error));
                }
            }
        }
        Ok(Begun::Go { lost_answer })
    }
}

/// What came of writing an intent down.
enum Begun {
    /// It is written: ask.
    Go {
        /// An earlier request with the same refresh token was not answered.
        lost_answer: bool,
    },
    /// Somebody else has stored a token meanwhile, which is in the session now.
    Overtaken,
}

#[cfg(test)]
#[path = "refresh/tests.rs"]
mod tests;
