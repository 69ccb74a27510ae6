//! The token of one credential under one configuration: a lock-free read, and one place to wait.

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
    TokenRevocation, login_logout, runtime,
};
use crate::clock::Moment;
use crate::oauth::TokenResponse;
use crate::store::StoreError;

/// What a request is told to retry after if its configuration is being replaced, or if its wait has ended.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// The token of one credential under one configuration.
///
/// After a reload, a new slot shares the cache entry with this one. This slot serves no token that was
/// issued for the new configuration only.
pub struct Slot {
    resolved: Arc<ResolvedConfig>,
    pub(super) entry: Arc<CacheEntry>,
}

/// How often one request was sent with a token, and with which kind of token.
#[derive(Clone, Copy, Debug)]
pub struct ResendState {
    /// The requested resource: a hash of method and path.
    pub target: u64,
    /// The method is safe (RFC 9110 §9.2.1), so that repeating the request does no harm.
    pub is_safe: bool,
    /// How often the request was sent because of its token.
    sent: u32,
    /// It was sent with a token that replaced a rejected one.
    has_new_token: bool,
    /// It waited for a newly issued token to become known to the origin server.
    has_waited: bool,
    /// A token that it was sent with was newly issued when it was rejected.
    had_newly_issued_token: bool,
}

impl ResendState {
    /// The state of a request that is about to be sent for the first time.
    pub fn first(target: u64, is_safe: bool) -> Self {
        Self {
            target,
            is_safe,
            sent: 1,
            has_new_token: false,
            has_waited: false,
            had_newly_issued_token: false,
        }
    }
}

impl Slot {
    /// Opens a slot, and loads its record unless the process already has it. If another configuration is in
    /// force for this record, it remains so until [`Slot::activate`].
    pub async fn open(config: Config, context: &Context) -> Self {
        let resolved = Arc::new(ResolvedConfig::new(config, context));
        let (entry, is_new) = context.cache.entry_for(&resolved, context);
        if is_new {
            // Not on the calling thread: the first request for a slot runs on the data plane.
            let loading = Arc::clone(&entry);
            runtime::run_on(&context.control, async move { loading.load_initial().await }).await;
        }
        Self { resolved, entry }
    }

    /// Puts this slot's configuration in force.
    pub fn activate(&self) {
        self.entry.set_config(&self.resolved);
    }

    /// The credential's name, with the values of its variables: `resamania[paris]`.
    pub fn name(&self) -> &str {
        &self.resolved.title
    }

    /// Returns a token that is usable now. Waits only if there is none, and at most the configured wait.
    ///
    /// # Errors
    ///
    /// [`TokenError`], which tells whether retrying later may help.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the wait. The refresh continues.
    pub async fn token(&self) -> Result<Arc<AccessToken>, TokenError> {
        if let Some(token) = self.entry.fresh_token(&self.resolved) {
            return Ok(token);
        }
        let request = |state: &mut RefreshState, token: Option<&AccessToken>, now| {
            token.iter().for_each(|token| token.mark_used());
            state.request_token(token, now)
        };
        // Boxed to keep the callers' futures small: few requests wait.
        match Box::pin(self.wait_for(request, RefreshRequest::replace)).await {
            WaitResult::Token(token) => Ok(token),
            WaitResult::Failed(error) => Err(error),
            WaitResult::PassOn => Err(unavailable(Duration::ZERO, FailureReason::Internal)),
        }
    }

    /// Handles the rejection of a request by an origin server. Returns the token to repeat the request with, or
    /// `None` if the rejection is passed on to the client.
    ///
    /// A rejection counts only for the token that was sent. A thousand rejections of one token cause one token
    /// request; those that arrive after its end cause none. A request is sent at most twice, or three times if it
    /// is safe and the rejected token is newly issued. `can_repeat`: the whole request can be sent again.
    pub async fn rejected(
        &self,
        rejected: &AccessToken,
        resend: &mut ResendState,
        can_repeat: bool,
    ) -> Option<Arc<AccessToken>> {
        let now = self.entry.context.clock.moment();
        rejected.record_rejection(resend.target);
        resend.had_newly_issued_token |= is_newly_issued(rejected, now);
        let max_sends = if resend.is_safe && resend.had_newly_issued_token { 3 } else { 2 };
        let can_resend = can_repeat && resend.sent < max_sends;
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
            // If another process has already replaced the token, its new one is sent without a wait.
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

    /// Records that an origin server accepted a request with `token`.
    pub fn accepted(&self, token: &AccessToken, resend: &ResendState) {
        let is_first = token.record_acceptance(resend.target);
        let blamed = self.entry.blamed_targets.load(Ordering::Relaxed);
        if is_first || blamed & 1 << (resend.target % 64) != 0 {
            let mut inner = self.entry.lock();
            inner.state.clear_target(resend.target);
            if is_first {
                inner.state.record_acceptance(token.generation, resend.has_new_token);
            }
            self.entry.blamed_targets.store(inner.state.blamed_targets(), Ordering::Relaxed);
        }
    }

    /// Asks the state machine until it decides, starts the refreshes that it allows, and waits in between for at
    /// most the configured wait. This is the only place where requests wait for a token.
    async fn wait_for(
        &self,
        ask: impl Fn(&mut RefreshState, Option<&AccessToken>, Moment) -> RefreshDecision,
        refresh_request: impl Fn(Generation) -> RefreshRequest,
    ) -> WaitResult {
        let deadline = Instant::now() + self.resolved.config.wait;
        let mut changes = self.entry.subscribe();
        let mut has_waited = false;
        loop {
            // Marked before the state is read, so that no change is missed after it.
            changes.mark_unchanged();
            let in_force = Arc::clone(&self.entry.lock().resolved);
            if !self.resolved.requests_same_tokens(&in_force) {
                // A reload has opened this slot and is about to activate it.
                if in_force.revision < self.resolved.revision
                    && runtime::occurs_before(deadline, changes.changed()).await
                {
                    continue;
                }
                // A refresh would get no token for this configuration. The client's retry reaches the new slot.
                return WaitResult::reloaded();
            }
            let now = self.entry.context.clock.moment();
            let mut start = None;
            let (decision, token) = self.entry.decide(|state, token| {
                let decision = ask(state, token, now);
                start = decision.starts_flight().then(|| refresh_request(generation_of(token)));
                decision
            });
            if let Some(request) = start {
                refresh::start(&self.entry, request);
            }
            match self.wait_step(decision, token, has_waited, deadline, now) {
                WaitStep::Return(result) => return result,
                WaitStep::ResendAfter(wait) => {
                    runtime::sleep(wait).await;
                    return match self.entry.current_token() {
                        Some(token) if self.resolved.accepts(&token) => WaitResult::Token(token),
                        _ => WaitResult::PassOn,
                    };
                }
                WaitStep::BackOff(pause) => {
                    runtime::occurs_within(pause, changes.changed()).await;
                }
                WaitStep::WaitForFlight => {
                    if !runtime::occurs_before(deadline, changes.changed()).await {
                        return WaitResult::Failed(unavailable(RETRY_SOON, FailureReason::Timeout));
                    }
                    has_waited = true;
                }
            }
        }
    }

    /// Translates a decision of the state machine for a request. `has_waited`: the request has waited for a flight.
    fn wait_step(
        &self,
        decision: RefreshDecision,
        token: Option<Arc<AccessToken>>,
        has_waited: bool,
        deadline: Instant,
        now: Moment,
    ) -> WaitStep {
        WaitStep::Return(match (decision, token) {
            (RefreshDecision::Use | RefreshDecision::UseAndStart, Some(token)) => {
                match self.resolved.accepts(&token) {
                    true => WaitResult::Token(token),
                    false => WaitResult::reloaded(),
                }
            }
            (RefreshDecision::ResendAfter(wait), Some(_)) => return WaitStep::ResendAfter(wait),
            (RefreshDecision::NeedsLogin(reason), _) => {
                WaitResult::Failed(TokenError::NeedsLogin { reason })
            }
            (
                RefreshDecision::PassOn
                | RefreshDecision::PassOnAndStart
                | RefreshDecision::ResendAfter(_),
                _,
            ) => WaitResult::PassOn,
            (RefreshDecision::BackOff(backoff), _) => {
                let retry_after = backoff.until.left(now);
                // A request that waited for the failed refresh may wait for the next one as well. A later request
                // fails immediately, unless the backoff is short.
                let fails_now = !has_waited && retry_after > MAX_WAITED_BACKOFF;
                if !fails_now && Instant::now() + retry_after < deadline {
                    return WaitStep::BackOff(retry_after);
                }
                WaitResult::Failed(unavailable(retry_after, backoff.reason))
            }
            (
                RefreshDecision::Start
                | RefreshDecision::Wait
                | RefreshDecision::Use
                | RefreshDecision::UseAndStart,
                _,
            ) => return WaitStep::WaitForFlight,
        })
    }

    /// Looks for a newer record in the store. Runs on the control runtime, where stores are used.
    async fn reload_record(&self) {
        let entry = Arc::clone(&self.entry);
        runtime::run_on(&self.entry.context.control, async move {
            entry.reload().await;
        })
        .await;
    }

    /// The state of this credential.
    pub fn status(&self) -> Status {
        let now = self.entry.context.clock.moment();
        let token = self.entry.current_token().filter(|token| self.resolved.accepts(token));
        let inner = self.entry.lock();
        let is_usable = token.as_ref().is_some_and(|token| token.is_usable(now));
        let is_due = token.as_ref().is_some_and(|token| token.is_due(now));
        let failure = inner.state.failure();
        let condition = match (inner.state.terminal(), failure) {
            (Some(reason), _) => Condition::NeedsLogin(reason),
            _ if inner.state.is_in_flight() => Condition::Refreshing,
            (None, Some((reason, _))) => Condition::Failing(reason),
            (None, None) if !is_usable => Condition::Absent,
            (None, None) if is_due => Condition::NearExpiry,
            (None, None) => Condition::Fresh,
        };
        let record = &inner.record;
        Status {
            name: Arc::clone(&self.resolved.title),
            condition,
            is_usable,
            generation: match &token {
                Some(token) => token.generation,
                // The new token is not served before it is saved.
                None if inner.is_saving => Generation(record.generation.0.saturating_sub(1)),
                None => record.generation,
            },
            refreshed_at: token.as_ref().map(|token| token.issued_at),
            expires_at: token.and_then(|token| token.expires_at),
            refresh_expires_at: record.refresh_expires_at,
            grant_expires_at: record.grant_expires_at,
            grant_ends_soon: record.grant_expires_at.is_some_and(|end| ends_soon(end, now)),
            failing_since: failure.map(|(_, since)| since.wall),
            last_error: inner.last_error.clone(),
            is_unsaved: inner.has_save_failed,
            is_volatile: !record.history.is_empty() && !self.entry.context.store.is_durable(),
        }
    }

    /// Deletes the credential's tokens for every process on the store, and revokes them. A refresh in progress
    /// does not restore them; only a new seed, [`Slot::store_login`] or, for a grant that needs no person, a changed
    /// configuration does. Returns the result of revoking each token.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the tombstone could not be written. Then nothing has changed.
    pub async fn logout(&self) -> Result<Vec<TokenRevocation>, StoreError> {
        let before = login_logout::log_out(&self.entry, &self.resolved).await?;
        Ok(login_logout::revoke(&self.entry, &self.resolved, &before).await)
    }

    /// Stores the response of a login, requested at `asked_at`: the first refresh token of a new grant and, if
    /// present, an access token. It replaces any record, including a tombstone and a dead grant.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record could not be written. Then nothing has changed.
    pub async fn store_login(
        &self,
        response: &TokenResponse,
        asked_at: SystemTime,
    ) -> Result<(), StoreError> {
        login_logout::log_in(&self.entry, &self.resolved, response, asked_at).await
    }

    /// Replaces the token now, even if it is fresh or the grant is dead. Until then the current token is served.
    /// If a refresh is in progress, waits for that one instead.
    ///
    /// # Errors
    ///
    /// [`TokenError`] if the refresh failed. The `Retry-After` of a server applies to operators as well.
    pub async fn refresh_now(&self) -> Result<Status, TokenError> {
        let before = self.status().generation;
        let deadline = Instant::now() + self.resolved.config.wait;
        let mut changes = self.entry.subscribe();
        let now = self.entry.context.clock.moment();
        let (decision, token) = self.entry.decide(|state, _| state.force_flight(now));
        let has_started = decision == RefreshDecision::Start;
        if has_started {
            let seen = generation_of(token.as_deref());
            refresh::start(&self.entry, RefreshRequest::forced(seen));
        }
        while self.entry.lock().state.is_in_flight() {
            if !runtime::occurs_before(deadline, changes.changed()).await {
                return Err(unavailable(RETRY_SOON, FailureReason::Timeout));
            }
        }
        let status = self.status();
        let now = self.entry.context.clock.moment();
        let (terminal, backoff) = {
            let inner = self.entry.lock();
            (inner.state.terminal(), inner.state.backoff(now))
        };
        match (terminal, backoff) {
            (Some(reason), _) => Err(TokenError::NeedsLogin { reason }),
            (None, Some(backoff)) if status.generation == before || !has_started => {
                Err(unavailable(backoff.until.left(now), backoff.reason))
            }
            _ => Ok(status),
        }
    }
}

fn unavailable(retry_after: Duration, reason: FailureReason) -> TokenError {
    TokenError::Unavailable { retry_after, reason }
}

/// What a request that waits for a token does next.
enum WaitStep {
    Return(WaitResult),
    /// Wait for the newly issued token to become known, and send the request with it again.
    ResendAfter(Duration),
    /// Wait for the end of the backoff, or for a change before it.
    BackOff(Duration),
    /// Wait for the flight in progress.
    WaitForFlight,
}

/// The result of waiting for a token.
enum WaitResult {
    Token(Arc<AccessToken>),
    Failed(TokenError),
    /// The rejection is passed on to the client.
    PassOn,
}

impl WaitResult {
    /// Another configuration is in force. A retry reaches the slot of that configuration.
    fn reloaded() -> Self {
        Self::Failed(unavailable(RETRY_SOON, FailureReason::Reloaded))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.resolved.title)
    }
}
