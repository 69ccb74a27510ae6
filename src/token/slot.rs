//! One credential's token, as one configuration sees it: a lock-free read, and one place to wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::flight::{self, Demand};
use super::ledger::{Ledger, generation_of};
use super::settled::Settled;
use super::state::{Rejection, SAT_OUT, State, Verdict, ends_soon, is_young};
use super::{
    Condition, Config, Context, FailureReason, Generation, Revoked, Status, Token, TokenError,
    operator,
};
use crate::clock::Moment;
use crate::oauth::TokenResponse;
use crate::store::StoreError;

/// One credential's token. After a reload another slot shares the ledger with this one, which gets no token of
/// the new configuration.
pub struct Slot {
    settled: Arc<Settled>,
    ledger: Arc<Ledger>,
}

/// What became of one request that carries the token: how often it may still be sent, and what was tried.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Which resource it asks for: a hash of method and path.
    pub target: u64,
    /// Sending it twice does no harm (RFC 9110 §9.2.1).
    pub safe: bool,
    /// How often it was sent because of its token.
    sent: u32,
    /// It has been sent with a token that replaced a rejected one.
    renewed: bool,
    /// It has waited for a new token to become known.
    settled: bool,
    /// A token that it was sent with was brand-new when it was rejected.
    was_young: bool,
}

impl Sending {
    /// A request that is about to be sent for the first time.
    pub fn first(target: u64, safe: bool) -> Self {
        Self { target, safe, sent: 1, renewed: false, settled: false, was_young: false }
    }
}

impl Slot {
    /// Makes a slot, and reads its record unless the process knows it already. What the process does goes on by
    /// the configuration before, if there is one, until [`Slot::activate`].
    pub async fn open(config: Config, context: &Context) -> Self {
        let settled = Arc::new(Settled::new(config, context));
        let (ledger, is_new) = context.ledgers.of(&settled, context);
        if is_new {
            // Not on a thread of the data plane, where a slot may be asked for first.
            let reading = Arc::clone(&ledger);
            let read = context.control.spawn(async move { reading.recall().await });
            let _panicked = read.await;
        }
        Self { settled, ledger }
    }

    /// From now on this configuration decides what is asked for.
    pub fn activate(&self) {
        self.ledger.configure(&self.settled);
    }

    /// The credential's name, with the values of its variables: `resamania[paris]`.
    pub fn name(&self) -> &str {
        &self.settled.title
    }

    /// A token that is usable now. Waits only if there is none, and at most the configured wait.
    ///
    /// # Errors
    ///
    /// [`TokenError`] says whether asking again later may help.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the wait and nothing else: the flight goes on.
    pub async fn token(&self) -> Result<Arc<Token>, TokenError> {
        if let Some(token) = self.ledger.fresh(&self.settled) {
            return Ok(token);
        }
        let want = |state: &mut State, token: Option<&Token>, now| {
            token.iter().for_each(|token| token.mark_used());
            state.want(token, now)
        };
        // Boxed: callers hold the future of this, and few wait.
        match Box::pin(self.wait_for(want, Demand::replace)).await {
            Waited::For(token) => Ok(token),
            Waited::InVain(error) => Err(error),
            Waited::PassOn => Err(self.unavailable(Duration::ZERO, FailureReason::Internal)),
        }
    }

    /// An origin server rejected a request with `rejected`. Returns the token to send it again with, or `None` if
    /// the rejection is the client's to see.
    ///
    /// A rejection counts only for its own token. A thousand rejections of one token cost one
    /// token request, and those that arrive after it cost none. A request is sent at most twice, and a safe one
    /// whose rejected token is brand-new at most three times. `repeatable`: all of it can be sent again.
    pub async fn rejected(
        &self,
        rejected: &Token,
        sending: &mut Sending,
        repeatable: bool,
    ) -> Option<Arc<Token>> {
        let now = self.ledger.context.clock.moment();
        rejected.note_rejection(sending.target);
        sending.was_young |= is_young(rejected, now);
        let most = if sending.safe && sending.was_young { 3 } else { 2 };
        let resendable = repeatable && sending.sent < most;
        let rejection = Rejection {
            token: rejected,
            target: sending.target,
            resendable,
            renewed: sending.renewed,
            settled: sending.settled,
        };
        let reject = |state: &mut State, token: Option<&Token>, now: Moment| {
            state.reject(rejection, token, now)
        };
        let demand = |_| Demand::rejected(rejected.generation);
        if is_young(rejected, now) && resendable {
            // A sibling may have moved on: its token is sent, and nobody waits.
            self.look().await;
        }
        match self.wait_for(reject, demand).await {
            Waited::For(token) => {
                sending.sent += 1;
                sending.settled |= token.generation == rejected.generation;
                sending.renewed |= token.generation != rejected.generation;
                Some(token)
            }
            Waited::InVain(_) | Waited::PassOn => None,
        }
    }

    /// A request with `token` was not rejected.
    pub fn accepted(&self, token: &Token, sending: &Sending) {
        let is_first = token.accept(sending.target);
        let is_blamed =
            self.ledger.blamed.load(Ordering::Relaxed) & 1 << (sending.target % 64) != 0;
        if is_first || is_blamed {
            let mut known = self.ledger.lock();
            known.state.forgive(sending.target);
            if is_first {
                known.state.accepted(token.generation, sending.renewed);
            }
            self.ledger.blamed.store(known.state.blamed(), Ordering::Relaxed);
        }
    }

    /// Waits until what `ask` asks the state machine for is there, for at most the configured wait, and starts
    /// the flights that it allows: the one place where anybody waits for a token.
    async fn wait_for(
        &self,
        ask: impl Fn(&mut State, Option<&Token>, Moment) -> Verdict,
        demand: impl Fn(Generation) -> Demand,
    ) -> Waited {
        let deadline = Instant::now() + self.settled.config.wait;
        let mut landed = self.ledger.landings();
        let mut waited = false;
        loop {
            landed.mark_unchanged();
            let in_force = Arc::clone(&self.ledger.lock().settled);
            if !self.settled.is_alike(&in_force) {
                // Not in force yet: a reload is just making it so.
                if in_force.edition < self.settled.edition
                    && tokio::time::timeout_at(deadline, landed.changed()).await.is_ok()
                {
                    continue;
                }
                // A flight would bring nothing for this one; asked again, it will be another slot that answers.
                let second = Duration::from_secs(1);
                return Waited::InVain(self.unavailable(second, FailureReason::Reloaded));
            }
            let now = self.ledger.context.clock.moment();
            let mut start = None;
            let (verdict, token) = self.ledger.decide(|state, token| {
                let verdict = ask(state, token, now);
                if matches!(
                    verdict,
                    Verdict::Start | Verdict::UseAndStart | Verdict::PassOnAndStart
                ) {
                    start = Some(demand(generation_of(token)));
                }
                verdict
            });
            if let Some(demand) = start {
                flight::start(&self.ledger, demand);
            }
            let pause = match (verdict, token) {
                (Verdict::Use | Verdict::UseAndStart, Some(token)) => {
                    return match self.settled.owns(&token) {
                        true => Waited::For(token),
                        // A reload came in between; asked again, it will be another slot that answers.
                        false => Waited::InVain(
                            self.unavailable(Duration::from_secs(1), FailureReason::Reloaded),
                        ),
                    };
                }
                (Verdict::Settle(wait), Some(_)) => {
                    tokio::time::sleep(wait).await;
                    return match self.ledger.current() {
                        Some(token) if self.settled.owns(&token) => Waited::For(token),
                        _ => Waited::PassOn,
                    };
                }
                (Verdict::NeedsLogin(reason), _) => {
                    return Waited::InVain(TokenError::NeedsLogin { reason });
                }
                (Verdict::PassOn | Verdict::PassOnAndStart | Verdict::Settle(_), _) => {
                    return Waited::PassOn;
                }
                (Verdict::Hold(hold), _) => {
                    let retry_after = hold.until.left(now);
                    // Whoever waited for the flight that failed may see the next one through;
                    // whoever comes later is told at once, unless it is a matter of moments.
                    let is_told = !waited && retry_after > SAT_OUT;
                    if is_told || Instant::now() + retry_after >= deadline {
                        return Waited::InVain(self.unavailable(retry_after, hold.why));
                    }
                    Some(retry_after)
                }
                (Verdict::Start | Verdict::Wait | Verdict::Use | Verdict::UseAndStart, _) => None,
            };
            let until = pause.map_or(deadline, |pause| Instant::now() + pause);
            let in_time = tokio::time::timeout_at(until, landed.changed()).await.is_ok();
            waited |= pause.is_none();
            if !in_time && pause.is_none() {
                let second = Duration::from_secs(1);
                return Waited::InVain(self.unavailable(second, FailureReason::Timeout));
            }
        }
    }

    fn unavailable(&self, retry_after: Duration, why: FailureReason) -> TokenError {
        TokenError::Unavailable { retry_after, why }
    }

    /// Looks into the store on the control runtime, where it is at home.
    async fn look(&self) {
        let ledger = Arc::clone(&self.ledger);
        let looking = self.ledger.context.control.spawn(async move { ledger.look().await });
        let _panicked = looking.await;
    }

    /// What is to be said about this credential.
    pub fn status(&self) -> Status {
        let now = self.ledger.context.clock.moment();
        let token = self.ledger.current().filter(|token| self.settled.owns(token));
        let known = self.ledger.lock();
        let usable = token.as_ref().is_some_and(|token| token.is_usable(now));
        let due = token.as_ref().is_some_and(|token| token.is_due(now));
        let failing = known.state.failing();
        let condition = match (known.state.end(), failing) {
            (Some(reason), _) => Condition::NeedsLogin(reason),
            _ if known.state.in_flight() => Condition::Refreshing,
            (None, Some((why, _))) => Condition::Failing(why),
            (None, None) if !usable => Condition::Absent,
            (None, None) if due => Condition::NearExpiry,
            (None, None) => Condition::Fresh,
        };
        let record = &known.record;
        Status {
            name: Arc::clone(&self.settled.title),
            condition,
            usable,
            generation: match &token {
                Some(token) => token.generation,
                // Nobody can have it yet.
                None if known.saving => Generation(record.generation.0.saturating_sub(1)),
                None => record.generation,
            },
            refreshed_at: token.as_ref().map(|token| token.issued_at),
            expires_at: token.and_then(|token| token.expires_at),
            refresh_expires_at: record.refresh_expires_at,
            grant_expires_at: record.grant_expires_at,
            grant_ends_soon: record.grant_expires_at.is_some_and(|end| ends_soon(end, now)),
            failing_since: failing.map(|(_, since)| since.wall),
            last_error: known.last_error.clone(),
            unsaved: known.is_at_risk,
            volatile: !record.history.is_empty() && !self.ledger.context.store.is_durable(),
        }
    }

    /// Forgets the credential's tokens, for every process on the store, and revokes them. A flight that
    /// is under way does not bring them back. Only a new seed or [`Slot::store_login`] does. Returns what
    /// became of each token at the authorization server.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the tombstone could not be written; then nothing has changed.
    pub async fn logout(&self) -> Result<Vec<Revoked>, StoreError> {
        let before = operator::log_out(&self.ledger, &self.settled).await?;
        Ok(operator::revoke(&self.ledger, &self.settled, &before).await)
    }

    /// Takes what a login brought: the credential's first refresh token, and with it an access token,
    /// asked for at `asked_at`. It wins over whatever was there, a tombstone and a dead grant included.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it could not be written; then nothing has changed.
    pub async fn store_login(
        &self,
        response: &TokenResponse,
        asked_at: SystemTime,
    ) -> Result<(), StoreError> {
        operator::log_in(&self.ledger, &self.settled, response, asked_at).await
    }

    /// Replaces the token now, whatever is known; the current one is served meanwhile. A flight that is under
    /// way is waited for instead.
    ///
    /// # Errors
    ///
    /// [`TokenError`] if that failed. A server that asked to be left alone is left alone by operators too.
    pub async fn refresh_now(&self) -> Result<Status, TokenError> {
        let (before, mut began) = (self.status().generation, false);
        let deadline = Instant::now() + self.settled.config.wait;
        let mut landed = self.ledger.landings();
        let now = self.ledger.context.clock.moment();
        let (verdict, token) = self.ledger.decide(|state, _| state.force(now));
        if verdict == Verdict::Start {
            began = true;
            flight::start(&self.ledger, Demand::forced(generation_of(token.as_deref())));
        }
        while self.ledger.lock().state.in_flight() {
            if tokio::time::timeout_at(deadline, landed.changed()).await.is_err() {
                let second = Duration::from_secs(1);
                return Err(self.unavailable(second, FailureReason::Timeout));
            }
        }
        let status = self.status();
        let now = self.ledger.context.clock.moment();
        let (end, hold) = {
            let known = self.ledger.lock();
            (known.state.end(), known.state.hold(now))
        };
        match (end, hold) {
            (Some(reason), _) => Err(TokenError::NeedsLogin { reason }),
            (None, Some(hold)) if status.generation == before || !began => {
                Err(self.unavailable(hold.until.left(now), hold.why))
            }
            _ => Ok(status),
        }
    }
}

/// What waiting for a token came to.
enum Waited {
    For(Arc<Token>),
    InVain(TokenError),
    PassOn,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.settled.title)
    }
}

#[cfg(test)]
#[path = "slot/tests.rs"]
mod tests;
