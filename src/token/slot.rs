//! One credential's token, as one configuration sees it: a lock-free read, and one place to wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::cache_entry::{CacheEntry, generation_of};
use super::refresh::{self, RefreshRequest};
use super::refresh_state::{
    MAX_WAITED_BACKOFF, RefreshDecision, RefreshState, Rejection, ends_soon, is_newly_issued,
};
use super::resolved_config::ResolvedConfig;
use super::{
    AccessToken, Condition, Config, Context, FailureReason, Generation, Status, TokenError,
    TokenRevocation, login_logout,
};
use crate::clock::Moment;
use crate::oauth::TokenResponse;
use crate::store::StoreError;

/// One credential's token. After a reload another slot shares the ledger with this one, which gets no token of
/// the new configuration.
pub struct Slot {
    resolved: Arc<ResolvedConfig>,
    entry: Arc<CacheEntry>,
}

/// What became of one request that carries the token: how often it may still be sent, and what was tried.
#[derive(Clone, Copy, Debug)]
pub struct ResendState {
    /// Which resource it asks for: a hash of method and path.
    pub target: u64,
    /// Sending it twice does no harm (RFC 9110 §9.2.1).
    pub safe: bool,
    /// How often it was sent because of its token.
    sent: u32,
    /// It has been sent with a token that replaced a rejected one.
    has_new_token: bool,
    /// It has waited for a new token to become known.
    has_waited: bool,
    /// A token that it was sent with was brand-new when it was rejected.
    had_newly_issued_token: bool,
}

impl ResendState {
    /// A request that is about to be sent for the first time.
    pub fn first(target: u64, safe: bool) -> Self {
        Self {
            target,
            safe,
            sent: 1,
            has_new_token: false,
            has_waited: false,
            had_newly_issued_token: false,
        }
    }
}

impl Slot {
    /// Makes a slot, and reads its record unless the process knows it already. What the process does goes on by
    /// the configuration before, if there is one, until [`Slot::activate`].
    pub async fn open(config: Config, context: &Context) -> Self {
        let resolved = Arc::new(ResolvedConfig::new(config, context));
        let (entry, is_new) = context.cache.of(&resolved, context);
        if is_new {
            // Not on a thread of the data plane, where a slot may be asked for first.
            let reading = Arc::clone(&entry);
            let read = context.control.spawn(async move { reading.load_initial().await });
            let _panicked = read.await;
        }
        Self { resolved, entry }
    }

    /// From now on this configuration decides what is asked for.
    pub fn activate(&self) {
        self.entry.set_config(&self.resolved);
    }

    /// The credential's name, with the values of its variables: `resamania[paris]`.
    pub fn name(&self) -> &str {
        &self.resolved.title
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
    pub async fn token(&self) -> Result<Arc<AccessToken>, TokenError> {
        if let Some(token) = self.entry.fresh(&self.resolved) {
            return Ok(token);
        }
        let want = |state: &mut RefreshState, token: Option<&AccessToken>, now| {
            token.iter().for_each(|token| token.mark_used());
            state.request_token(token, now)
        };
        // Boxed: callers hold the future of this, and few wait.
        match Box::pin(self.wait_for(want, RefreshRequest::replace)).await {
            WaitResult::Token(token) => Ok(token),
            WaitResult::Failed(error) => Err(error),
            WaitResult::PassOn => Err(self.unavailable(Duration::ZERO, FailureReason::Internal)),
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
        rejected: &AccessToken,
        resend: &mut ResendState,
        repeatable: bool,
    ) -> Option<Arc<AccessToken>> {
        let now = self.entry.context.clock.moment();
        rejected.record_rejection(resend.target);
        resend.had_newly_issued_token |= is_newly_issued(rejected, now);
        let most = if resend.safe && resend.had_newly_issued_token { 3 } else { 2 };
        let can_resend = repeatable && resend.sent < most;
        let rejection = Rejection {
            token: rejected,
            target: resend.target,
            can_resend,
            has_new_token: resend.has_new_token,
            has_waited: resend.has_waited,
        };
        let reject = |state: &mut RefreshState, token: Option<&AccessToken>, now: Moment| {
            state.record_rejection(rejection, token, now)
        };
        let request = |_| RefreshRequest::rejected(rejected.generation);
        if is_newly_issued(rejected, now) && can_resend {
            // A sibling may have moved on: its token is sent, and nobody waits.
            self.reload_record().await;
        }
        match self.wait_for(reject, request).await {
            WaitResult::Token(token) => {
                resend.sent += 1;
                resend.has_waited |= token.generation == rejected.generation;
                resend.has_new_token |= token.generation != rejected.generation;
                Some(token)
            }
            WaitResult::Failed(_) | WaitResult::PassOn => None,
        }
    }

    /// A request with `token` was not rejected.
    pub fn accepted(&self, token: &AccessToken, resend: &ResendState) {
        let is_first = token.record_acceptance(resend.target);
        let is_blamed =
            self.entry.blamed_targets.load(Ordering::Relaxed) & 1 << (resend.target % 64) != 0;
        if is_first || is_blamed {
            let mut inner = self.entry.lock();
            inner.state.clear_target(resend.target);
            if is_first {
                inner.state.record_acceptance(token.generation, resend.has_new_token);
            }
            self.entry.blamed_targets.store(inner.state.blamed_targets(), Ordering::Relaxed);
        }
    }

    /// Waits until what `ask` asks the state machine for is there, for at most the configured wait, and starts
    /// the flights that it allows: the one place where anybody waits for a token.
    async fn wait_for(
        &self,
        ask: impl Fn(&mut RefreshState, Option<&AccessToken>, Moment) -> RefreshDecision,
        request: impl Fn(Generation) -> RefreshRequest,
    ) -> WaitResult {
        let deadline = Instant::now() + self.resolved.config.wait;
        let mut changes = self.entry.subscribe();
        let mut waited = false;
        loop {
            changes.mark_unchanged();
            let in_force = Arc::clone(&self.entry.lock().resolved);
            if !self.resolved.requests_same_tokens(&in_force) {
                // Not in force yet: a reload is just making it so.
                if in_force.revision < self.resolved.revision
                    && tokio::time::timeout_at(deadline, changes.changed()).await.is_ok()
                {
                    continue;
                }
                // A flight would bring nothing for this one; asked again, it will be another slot that answers.
                let second = Duration::from_secs(1);
                return WaitResult::Failed(self.unavailable(second, FailureReason::Reloaded));
            }
            let now = self.entry.context.clock.moment();
            let mut start = None;
            let (decision, token) = self.entry.decide(|state, token| {
                let decision = ask(state, token, now);
                if matches!(
                    decision,
                    RefreshDecision::Start
                        | RefreshDecision::UseAndStart
                        | RefreshDecision::PassOnAndStart
                ) {
                    start = Some(request(generation_of(token)));
                }
                decision
            });
            if let Some(request) = start {
                refresh::start(&self.entry, request);
            }
            let pause = match (decision, token) {
                (RefreshDecision::Use | RefreshDecision::UseAndStart, Some(token)) => {
                    return match self.resolved.accepts(&token) {
                        true => WaitResult::Token(token),
                        // A reload came in between; asked again, it will be another slot that answers.
                        false => WaitResult::Failed(
                            self.unavailable(Duration::from_secs(1), FailureReason::Reloaded),
                        ),
                    };
                }
                (RefreshDecision::RetryAfter(wait), Some(_)) => {
                    tokio::time::sleep(wait).await;
                    return match self.entry.current() {
                        Some(token) if self.resolved.accepts(&token) => WaitResult::Token(token),
                        _ => WaitResult::PassOn,
                    };
                }
                (RefreshDecision::NeedsLogin(reason), _) => {
                    return WaitResult::Failed(TokenError::NeedsLogin { reason });
                }
                (
                    RefreshDecision::PassOn
                    | RefreshDecision::PassOnAndStart
                    | RefreshDecision::RetryAfter(_),
                    _,
                ) => {
                    return WaitResult::PassOn;
                }
                (RefreshDecision::BackOff(hold), _) => {
                    let retry_after = hold.until.left(now);
                    // Whoever waited for the flight that failed may see the next one through;
                    // whoever comes later is told at once, unless it is a matter of moments.
                    let is_told = !waited && retry_after > MAX_WAITED_BACKOFF;
                    if is_told || Instant::now() + retry_after >= deadline {
                        return WaitResult::Failed(self.unavailable(retry_after, hold.reason));
                    }
                    Some(retry_after)
                }
                (
                    RefreshDecision::Start
                    | RefreshDecision::Wait
                    | RefreshDecision::Use
                    | RefreshDecision::UseAndStart,
                    _,
                ) => None,
            };
            let until = pause.map_or(deadline, |pause| Instant::now() + pause);
            let in_time = tokio::time::timeout_at(until, changes.changed()).await.is_ok();
            waited |= pause.is_none();
            if !in_time && pause.is_none() {
                let second = Duration::from_secs(1);
                return WaitResult::Failed(self.unavailable(second, FailureReason::Timeout));
            }
        }
    }

    fn unavailable(&self, retry_after: Duration, why: FailureReason) -> TokenError {
        TokenError::Unavailable { retry_after, reason: why }
    }

    /// Looks into the store on the control runtime, where it is at home.
    async fn reload_record(&self) {
        let entry = Arc::clone(&self.entry);
        let looking = self.entry.context.control.spawn(async move { entry.reload().await });
        let _panicked = looking.await;
    }

    /// What is to be said about this credential.
    pub fn status(&self) -> Status {
        let now = self.entry.context.clock.moment();
        let token = self.entry.current().filter(|token| self.resolved.accepts(token));
        let inner = self.entry.lock();
        let usable = token.as_ref().is_some_and(|token| token.is_usable(now));
        let due = token.as_ref().is_some_and(|token| token.is_due(now));
        let failing = inner.state.failure();
        let condition = match (inner.state.terminal(), failing) {
            (Some(reason), _) => Condition::NeedsLogin(reason),
            _ if inner.state.is_in_flight() => Condition::Refreshing,
            (None, Some((why, _))) => Condition::Failing(why),
            (None, None) if !usable => Condition::Absent,
            (None, None) if due => Condition::NearExpiry,
            (None, None) => Condition::Fresh,
        };
        let record = &inner.record;
        Status {
            name: Arc::clone(&self.resolved.title),
            condition,
            is_usable: usable,
            generation: match &token {
                Some(token) => token.generation,
                // Nobody can have it yet.
                None if inner.is_saving => Generation(record.generation.0.saturating_sub(1)),
                None => record.generation,
            },
            refreshed_at: token.as_ref().map(|token| token.issued_at),
            expires_at: token.and_then(|token| token.expires_at),
            refresh_expires_at: record.refresh_expires_at,
            grant_expires_at: record.grant_expires_at,
            grant_ends_soon: record.grant_expires_at.is_some_and(|end| ends_soon(end, now)),
            failing_since: failing.map(|(_, since)| since.wall),
            last_error: inner.last_error.clone(),
            is_unsaved: inner.has_save_failed,
            is_volatile: !record.history.is_empty() && !self.entry.context.store.is_durable(),
        }
    }

    /// Forgets the credential's tokens, for every process on the store, and revokes them. A flight that
    /// is under way does not bring them back. Only a new seed or [`Slot::store_login`] does. Returns what
    /// became of each token at the authorization server.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the tombstone could not be written; then nothing has changed.
    pub async fn logout(&self) -> Result<Vec<TokenRevocation>, StoreError> {
        let before = login_logout::log_out(&self.entry, &self.resolved).await?;
        Ok(login_logout::revoke(&self.entry, &self.resolved, &before).await)
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
        login_logout::log_in(&self.entry, &self.resolved, response, asked_at).await
    }

    /// Replaces the token now, whatever is known; the current one is served meanwhile. A flight that is under
    /// way is waited for instead.
    ///
    /// # Errors
    ///
    /// [`TokenError`] if that failed. A server that asked to be left alone is left alone by operators too.
    pub async fn refresh_now(&self) -> Result<Status, TokenError> {
        let (before, mut began) = (self.status().generation, false);
        let deadline = Instant::now() + self.resolved.config.wait;
        let mut changes = self.entry.subscribe();
        let now = self.entry.context.clock.moment();
        let (decision, token) = self.entry.decide(|state, _| state.force_flight(now));
        if decision == RefreshDecision::Start {
            began = true;
            refresh::start(&self.entry, RefreshRequest::forced(generation_of(token.as_deref())));
        }
        while self.entry.lock().state.is_in_flight() {
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                let second = Duration::from_secs(1);
                return Err(self.unavailable(second, FailureReason::Timeout));
            }
        }
        let status = self.status();
        let now = self.entry.context.clock.moment();
        let (end, hold) = {
            let inner = self.entry.lock();
            (inner.state.terminal(), inner.state.backoff(now))
        };
        match (end, hold) {
            (Some(reason), _) => Err(TokenError::NeedsLogin { reason }),
            (None, Some(hold)) if status.generation == before || !began => {
                Err(self.unavailable(hold.until.left(now), hold.reason))
            }
            _ => Ok(status),
        }
    }
}

/// What waiting for a token came to.
enum WaitResult {
    Token(Arc<AccessToken>),
    Failed(TokenError),
    PassOn,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.resolved.title)
    }
}
