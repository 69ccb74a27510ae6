//! How a flight presents a refresh token: when it may, what it stores before, and how it repeats lost requests.
//! [`Flight::request`] sends every token request of a flight, those of the configured grant and of a bootstrap as well.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Flight, FlightFailure, FlightProgress};
use crate::dpop;
use crate::oauth::{
    Consumption, DpopBinding, ErrorClass, Grant, GrantError, Rotation, TokenRequestContext,
    TokenResponse,
};
use crate::secret::Secret;
use crate::store::{Attempt, StoreError, TokenRecord};
use crate::token::cache_entry::WriteError;
use crate::token::next_action::NextAction;
use crate::token::record_update::PresentedGrant;
use crate::token::{FailureReason, runtime};

/// When a request whose response was lost is repeated with the same refresh token, counted from the first request, as
/// servers count their grace period. The shortest documented grace period is 5 s (Connect2id).
const REPLAY_TIMES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(4)];
/// By the wall clock, a timer may fire this much early.
const TIMER_TOLERANCE: Duration = Duration::from_millis(100);
/// After this many attempts without a response, the refresh token is only presented at long intervals.
const MAX_ATTEMPTS: u32 = 3;
/// That interval.
const PROBE_INTERVAL: Duration = Duration::from_secs(55);
/// How long to wait for a response that cannot contain a new refresh token. The request can simply be repeated.
const SHORT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// When a refresh token may be presented after its responses were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplayTiming {
    /// After this pause.
    After(Duration),
    /// Not before this time.
    NotBefore(SystemTime),
    /// Not while there is a usable access token, which a late replay could revoke.
    NotWhileUsable,
}

/// Returns when a refresh token may be presented again. `is_usable`: there is a usable access token.
pub(super) fn replay_timing(attempt: &Attempt, is_usable: bool, now: SystemTime) -> ReplayTiming {
    if attempt.count == 0 {
        return ReplayTiming::After(Duration::ZERO);
    }
    // If the clock was set back, the time since the attempt is unknown.
    let since = now.duration_since(attempt.first).unwrap_or(Duration::MAX);
    let used = attempt.last.duration_since(attempt.first).unwrap_or_default() + TIMER_TOLERANCE;
    let mut left = REPLAY_TIMES.iter().filter(|moment| **moment > used);
    if attempt.count < MAX_ATTEMPTS
        && let Some(wait) = left.find_map(|moment| moment.checked_sub(since))
    {
        return ReplayTiming::After(wait);
    }
    if is_usable {
        return ReplayTiming::NotWhileUsable;
    }
    let until = attempt.last + PROBE_INTERVAL;
    match attempt.count >= MAX_ATTEMPTS && now >= attempt.last && now < until {
        true => ReplayTiming::NotBefore(until),
        false => ReplayTiming::After(Duration::ZERO),
    }
}

impl Flight<'_> {
    /// Presents the refresh token of the record, or a seed.
    pub(super) async fn refresh(
        &mut self,
        token: &Secret,
        is_seed: bool,
    ) -> Result<FlightProgress, FlightFailure> {
        let presented =
            if is_seed { PresentedGrant::Seed(token) } else { PresentedGrant::RefreshToken(token) };
        let mut has_retried_unsent = false;
        // An operator does not wait for the pause after a lost response.
        let mut is_pause_over = self.request.is_forced;
        loop {
            let attempt = self.record_attempt(token, is_pause_over).await?;
            let Some((base, before)) = attempt else { return Ok(FlightProgress::Replan) };
            let was_presented_before = before.is_some();
            let (asked_at, answer) = self.request(Grant::RefreshToken(token), &base).await;
            let error = match answer {
                Ok(response) => {
                    return self.handle_success(&base, presented, response, asked_at).await;
                }
                Err(error) => error,
            };
            if self.is_superseded(&base) {
                return Ok(FlightProgress::Replan);
            }
            self.update_attempt(&error, before);
            let wait = match error.class {
                _ if error.recovered.is_some() => None,
                ErrorClass::NotSent if !has_retried_unsent => {
                    has_retried_unsent = true;
                    Some(Duration::ZERO)
                }
                ErrorClass::Ambiguous => self.next_replay(),
                _ => None,
            };
            let Some(wait) = wait else {
                return self
                    .handle_error(&base, presented, error, asked_at, was_presented_before)
                    .await;
            };
            if error.class.policy().consumption != Consumption::No {
                self.entry.metrics.record_token_replay();
            }
            self.entry.report_retry(&error, wait);
            runtime::sleep(wait).await;
            is_pause_over = true;
        }
    }

    /// Returns the pause before the next quick repetition, if there is one left.
    fn next_replay(&self) -> Option<Duration> {
        let inner = self.entry.lock();
        match replay_timing(inner.record.attempt.as_ref()?, true, self.now()) {
            ReplayTiming::After(wait) => Some(wait),
            _ => None,
        }
    }

    /// Stores that the refresh token is about to be presented, after the pause that its last attempt requires. Returns the
    /// record after that and the previous attempt, or `None` if the record or the configuration has changed so that
    /// another action is due.
    ///
    /// # Errors
    ///
    /// [`FlightFailure`] if the refresh token must not be presented now.
    async fn record_attempt(
        &mut self,
        token: &Secret,
        is_pause_over: bool,
    ) -> Result<Option<(TokenRecord, Option<Attempt>)>, FlightFailure> {
        let (now, hash) = (self.now(), token.fingerprint());
        let has_usable_token = self.has_usable_token();
        let fence = self.lease.as_ref().map(|lease| lease.fence().0.clone()).unwrap_or_default();
        let stored = self.entry.lock().record.attempt.clone();
        let is_for_token = |attempt: &Attempt| attempt.refresh_token == hash;
        if stored.as_ref().is_some_and(|attempt| !is_for_token(attempt)) {
            self.displaced.clone_from(&stored);
        }
        let before = stored.filter(is_for_token);
        if let Some(attempt) = &before {
            self.check_other_holder(attempt, &fence, now)?;
        }
        if let Some(attempt) = before.as_ref().filter(|_| !is_pause_over) {
            match replay_timing(attempt, has_usable_token, now) {
                ReplayTiming::After(wait) => runtime::sleep(wait).await,
                ReplayTiming::NotBefore(until) => {
                    return Err(FlightFailure::until(until, FailureReason::AnswersLost, now));
                }
                ReplayTiming::NotWhileUsable => {
                    let moment = self.entry.context.clock.moment();
                    let left = self.entry.current_token().and_then(|token| token.time_left(moment));
                    let until = now + left.unwrap_or(PROBE_INTERVAL).max(Duration::from_secs(1));
                    return Err(FlightFailure::until(until, FailureReason::AnswersLost, now));
                }
            }
        }
        if !self.is_still_planned(token) {
            return Ok(None);
        }
        let now = self.now();
        let key = self.new_key();
        let mut was_unsaved = true;
        // If the refresh token never changes, a lost response loses nothing.
        let never_rotates = self.resolved.config.oauth.rotation == Rotation::Ignore;
        if !never_rotates || key.is_some() {
            let (first, count) = before.as_ref().map_or((now, 0), |it| (it.first, it.count));
            let first = if count == 0 { now } else { first };
            let attempt =
                Attempt { refresh_token: hash, first, last: now, count: count + 1, by: fence };
            was_unsaved = self.entry.lock().is_unsaved;
            self.entry.update_record(|record| {
                record.attempt = (!never_rotates).then_some(attempt);
                if let Some(key) = key {
                    record.dpop_key = Some(key.to_stored().clone());
                }
            });
            match self.entry.write(self.lease.as_ref()).await {
                Ok(()) => {}
                Err(WriteError::Superseded) => return Ok(None),
                Err(WriteError::Store(error @ StoreError::LeaseLost { .. })) => {
                    return Err(self.undo_after_lost_lease(&error, before, was_unsaved).await);
                }
                // The current token is usable, so the attempt waits until it can be stored.
                Err(WriteError::Store(error)) if has_usable_token => {
                    self.entry.report_store(&error);
                    self.undo_attempt(before);
                    return Err(FlightFailure::of_store(&error));
                }
                Err(WriteError::TimedOut) if has_usable_token => {
                    self.undo_attempt(before);
                    return Err(FlightFailure::of_store(&StoreError::Timeout));
                }
                Err(WriteError::Store(error)) => self.entry.report_store(&error),
                Err(WriteError::TimedOut) => self.entry.report_store(&StoreError::Timeout),
            }
        }
        if let Some(lease) = &self.lease
            && let Err(error) = lease.check().await
        {
            return Err(self.undo_after_lost_lease(&error, before, was_unsaved).await);
        }
        Ok(Some((self.entry.lock().record.clone(), before)))
    }

    /// Fails if the refresh token was presented under another lease whose holder may still receive the response.
    fn check_other_holder(
        &self,
        attempt: &Attempt,
        fence: &str,
        now: SystemTime,
    ) -> Result<(), FlightFailure> {
        let is_ours = attempt.by == fence || attempt.by.is_empty();
        let until = attempt.last + self.resolved.config.oauth.timeout;
        if is_ours || attempt.count == 0 || now >= until || now < attempt.last {
            return Ok(());
        }
        let soon = until.min(now + Duration::from_secs(1));
        Err(FlightFailure::until(soon, FailureReason::RequestInFlight, now))
    }

    /// Returns true if presenting `token` is still the next action. A logout or a reload may have changed that.
    fn is_still_planned(&self, token: &Secret) -> bool {
        let mut inner = self.entry.lock();
        let moment = self.entry.context.clock.moment();
        let action = inner.next_action(self.request.is_forced, moment);
        matches!(action, NextAction::Refresh(wanted) | NextAction::TrySeed(wanted) if wanted == *token)
            && Arc::ptr_eq(&inner.resolved, &self.resolved)
    }

    /// Undoes the attempt in memory. In the store it is undone only if the new holder of the lease has not changed the
    /// record.
    async fn undo_after_lost_lease(
        &self,
        error: &StoreError,
        before: Option<Attempt>,
        was_unsaved: bool,
    ) -> FlightFailure {
        self.entry.report_store(error);
        self.undo_attempt(before);
        if !was_unsaved {
            self.entry.write_if_unchanged().await;
        }
        FlightFailure::of_store(error)
    }

    /// Undoes the attempt because the refresh token was not presented.
    fn undo_attempt(&self, before: Option<Attempt>) {
        let before = before.or_else(|| self.displaced.clone());
        self.entry.update_record(|record| record.attempt = before);
    }

    /// Updates the attempt after an error response.
    fn update_attempt(&self, error: &GrantError, before: Option<Attempt>) {
        match error.class.policy().consumption {
            // The server has not processed the refresh token.
            Consumption::No => self.undo_attempt(before),
            Consumption::Maybe if error.class != ErrorClass::Ambiguous => {
                self.entry.update_record(|record| {
                    // No response was lost, although the server may have consumed the refresh token.
                    if let Some(attempt) = &mut record.attempt {
                        attempt.count = 0;
                    }
                })
            }
            Consumption::Maybe | Consumption::Yes => {}
        }
    }

    /// Sends one token request, and repeats it once if only the nonce of its proof was refused.
    pub(super) async fn request(
        &self,
        grant: Grant<'_>,
        base: &TokenRecord,
    ) -> (SystemTime, Result<TokenResponse, GrantError>) {
        let key = self.resolved.sources().bound.then_some(base.dpop_key.as_ref()).flatten();
        let key = key.and_then(|key| dpop::ProofKey::from_stored(key).ok());
        let response_timeout = self.response_timeout(grant, base);
        let mut has_retried_proof = false;
        loop {
            let now = self.now();
            let nonce = self.entry.lock().nonce.clone();
            let proof = key.as_ref().map(|key| DpopBinding { key, nonce: nonce.as_deref() });
            let context = TokenRequestContext {
                now,
                access_token: base.access_token.as_ref(),
                variables: &self.resolved.config.variables,
                proof,
                response_timeout,
            };
            let answer = self.resolved.endpoint.request(grant, context).await;
            let nonce = match &answer {
                Ok(response) => &response.dpop_nonce,
                Err(error) => &error.dpop_nonce,
            };
            if let Some(nonce) = nonce {
                self.entry.lock().nonce = Some(nonce.clone());
            }
            match &answer {
                // The server checked nothing but the proof (RFC 9449 §8).
                Err(error)
                    if error.class == ErrorClass::Nonce && key.is_some() && !has_retried_proof =>
                {
                    has_retried_proof = true;
                }
                _ => return (now, answer),
            }
        }
    }

    /// Returns how long to wait for the response: the configured timeout if it may hold a new refresh token.
    fn response_timeout(&self, grant: Grant<'_>, base: &TokenRecord) -> Duration {
        let timeout = self.resolved.config.oauth.timeout;
        let may_rotate = matches!(grant, Grant::RefreshToken(_)) && !base.reuses_refresh_token();
        if may_rotate { timeout } else { timeout.min(SHORT_RESPONSE_TIMEOUT) }
    }

    /// Generates a key to bind tokens to, if that is configured and the record has none yet.
    pub(super) fn new_key(&self) -> Option<dpop::ProofKey> {
        let is_missing = || {
            let inner = self.entry.lock();
            let stored = inner.record.dpop_key.as_ref();
            stored.is_none_or(|key| dpop::ProofKey::from_stored(key).is_err())
        };
        (self.resolved.sources().bound && is_missing()).then(dpop::ProofKey::generate)
    }

    /// Sends the configured grant. It can be repeated at any time, so no attempt is stored.
    pub(super) async fn request_configured(&mut self) -> Result<FlightProgress, FlightFailure> {
        if let Some(key) = self.new_key() {
            self.entry.update_record(|record| record.dpop_key = Some(key.to_stored().clone()));
        }
        let base = self.entry.lock().record.clone();
        let mut has_retried_unsent = false;
        loop {
            let (asked_at, answer) = self.request(Grant::Own, &base).await;
            match answer {
                Ok(response) => {
                    return self
                        .handle_success(&base, PresentedGrant::Configured, response, asked_at)
                        .await;
                }
                Err(error) if error.class == ErrorClass::NotSent && !has_retried_unsent => {
                    has_retried_unsent = true
                }
                Err(error) => {
                    return self
                        .handle_error(&base, PresentedGrant::Configured, error, asked_at, false)
                        .await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::secret::Fingerprint;

    #[test]
    fn a_lost_response_is_repeated_soon_and_later_only_without_a_usable_access_token() {
        let at =
            |millis: u64| UNIX_EPOCH + Duration::from_secs(1000) + Duration::from_millis(millis);
        let soon = |millis| ReplayTiming::After(Duration::from_millis(millis));
        for (count, last, usable, now, expected) in [
            // A response came, so nothing was lost.
            (0, 0, true, 60_000, soon(0)),
            (1, 0, true, 0, soon(500)),
            (1, 0, false, 100, soon(400)),
            (2, 500, true, 500, soon(1500)),
            (2, 499, true, 499, soon(1501)),
            (2, 500, true, 501, soon(1499)),
            // The next repetition, if one was missed.
            (1, 0, true, 3000, soon(1000)),
            (1, 0, true, 4001, ReplayTiming::NotWhileUsable),
            (1, 0, false, 4001, soon(0)),
            (3, 2000, true, 2100, ReplayTiming::NotWhileUsable),
            (3, 2000, false, 2100, ReplayTiming::NotBefore(at(57_000))),
            (3, 2000, false, 57_000, soon(0)),
            (9, 2000, true, 57_000, ReplayTiming::NotWhileUsable),
        ] {
            let attempt = Attempt {
                refresh_token: Fingerprint::of(b"rt"),
                first: at(0),
                last: at(last),
                count,
                by: String::new(),
            };
            let found = replay_timing(&attempt, usable, at(now));
            assert_eq!(found, expected, "{count} by {last}, usable: {usable}, at {now}");
        }
        let ahead = Attempt {
            refresh_token: Fingerprint::of(b"rt"),
            first: at(60_000),
            last: at(60_000),
            count: 1,
            by: String::new(),
        };
        // The clock was set back: the time of the loss is unknown.
        assert_eq!(replay_timing(&ahead, true, at(0)), ReplayTiming::NotWhileUsable);
        assert_eq!(replay_timing(&ahead, false, at(0)), soon(0));
    }
}
