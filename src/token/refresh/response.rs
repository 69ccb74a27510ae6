//! How a flight handles the response to a token request.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Flight, FlightFailure, FlightProgress};
use crate::oauth::{
    Consumption, DpopBinding, ErrorClass, Grant, GrantError, RetryPace, Rotation,
    TokenRequestContext, TokenResponse,
};
use crate::secret::Secret;
use crate::store::{BootstrapHistory, NotBefore, TerminalReason, TokenRecord};
use crate::token::next_action::{MAX_DOUBTS, NextAction, belongs_to_grant};
use crate::token::record_order::{RecordOrder, compare_records};
use crate::token::record_update::{
    PresentedGrant, ResponseContext, ResponseDefect, apply_refresh_token, apply_response,
};
use crate::token::{FailureReason, login_logout};

impl Flight<'_> {
    fn response_context<'a>(
        &self,
        presented: PresentedGrant<'a>,
        asked_at: SystemTime,
    ) -> ResponseContext<'a> {
        let config = &self.resolved.config;
        ResponseContext {
            presented,
            asked_at,
            lifetime: config.lifetime,
            rotation: config.oauth.rotation,
            issued_for: self.resolved.issued_for(),
            bound: config.oauth.reading.dpop,
        }
    }

    /// Stores the issued tokens. If steps are configured, they are made in the next round of the flight.
    pub(super) async fn handle_success(
        &self,
        base: &TokenRecord,
        presented: PresentedGrant<'_>,
        response: TokenResponse,
        asked_at: SystemTime,
    ) -> Result<FlightProgress, FlightFailure> {
        self.log_oddities(&response);
        let context = self.response_context(presented, asked_at);
        if !self.resolved.config.oauth.steps.is_empty() {
            // The new refresh token is saved before anything else happens.
            let mut record = apply_refresh_token(base, response.refresh_token.clone(), &context);
            // The previous access token stays in use, with its generation.
            record.generation = base.generation;
            record.refresh_expires_at = response.refresh_expires_at.or(record.refresh_expires_at);
            record.grant_expires_at = response.grant_expires_at.or(record.grant_expires_at);
            if !self.record_and_save(base, record).await {
                return Ok(FlightProgress::Replan);
            }
            let mut inner = self.entry.lock();
            // After a reload the steps may differ.
            if inner.resolved.fingerprint == self.resolved.fingerprint {
                inner.pending_steps = Some((response, asked_at));
            }
            return Ok(FlightProgress::Replan);
        }
        match apply_response(base, &response, &context) {
            Ok(record) => {
                let was_extended = response.access_token.is_none();
                if !self.record_and_save(base, record).await {
                    return Ok(FlightProgress::Replan);
                }
                self.entry.lock().was_extended = was_extended;
                self.entry.report_refreshed(asked_at, self.now());
                Ok(FlightProgress::Done)
            }
            Err(defect) => {
                let record = apply_refresh_token(base, response.refresh_token, &context);
                // The previous access token stays in use, with its generation.
                self.record_and_save(base, TokenRecord { generation: base.generation, ..record })
                    .await;
                Err(defect_failure(defect))
            }
        }
    }

    /// Makes the pending steps of this flight or of an earlier one. If a step fails, only the steps are repeated; no
    /// further refresh token is used.
    pub(super) async fn finish_steps(&mut self) -> Result<Option<FlightProgress>, FlightFailure> {
        let (pending_steps, base) = {
            let inner = self.entry.lock();
            self.resolved = Arc::clone(&inner.resolved);
            (inner.pending_steps.clone(), inner.record.clone())
        };
        let Some((response, asked_at)) = pending_steps else { return Ok(None) };
        let key = base.dpop_key.as_ref().filter(|_| self.resolved.sources().bound);
        let key = key.and_then(|key| crate::dpop::ProofKey::from_stored(key).ok());
        let context = TokenRequestContext {
            now: asked_at,
            access_token: base.access_token.as_ref(),
            variables: &self.resolved.config.variables,
            proof: key.as_ref().map(|key| DpopBinding { key, nonce: None }),
            response_timeout: self.resolved.config.oauth.timeout,
        };
        let is_over = response.expires_at.is_some_and(|end| end <= self.now());
        if is_over {
            self.entry.lock().pending_steps = None;
            return Ok(None);
        }
        match self.resolved.endpoint.follow(response, context).await {
            Ok(response) => {
                // Steps present no refresh token. What `Configured` does to the stored one, `apply_steps` takes back.
                let context = self.response_context(PresentedGrant::Configured, asked_at);
                let record = apply_steps(&base, &response, &context);
                self.entry.lock().pending_steps = None;
                let Ok(record) = record else {
                    return Err(defect_failure(ResponseDefect::NothingToExtend));
                };
                if !self.record_and_save(&base, record).await {
                    return Ok(Some(FlightProgress::Replan));
                }
                self.entry.report_refreshed(asked_at, self.now());
                Ok(Some(FlightProgress::Done))
            }
            Err(error) => {
                // After a permanent error the steps are given up; otherwise they are retried with the same token.
                if error.class.policy().pace == RetryPace::Long {
                    self.entry.lock().pending_steps = None;
                }
                self.entry.report_refused(&error);
                let failure = FlightFailure::of_answer(&error);
                Err(FlightFailure { reason: FailureReason::Step, ..failure })
            }
        }
    }

    /// Puts a record into the cache entry and saves it. Returns false if another process has stored a newer one.
    async fn record_and_save(&self, base: &TokenRecord, record: TokenRecord) -> bool {
        let is_recorded = self.entry.record_issued(base, record.clone()).is_ok();
        if is_recorded {
            self.entry.save().await;
        }
        let is_superseded = !is_recorded || self.is_superseded(&record);
        if is_superseded && self.entry.lock().record.is_tombstone() {
            // The credential was logged out during the request, so its new tokens are revoked.
            login_logout::revoke(self.entry, &self.resolved, &record).await;
        }
        !is_superseded
    }

    /// Returns true if the entry no longer holds the tokens of `record`.
    pub(super) fn is_superseded(&self, record: &TokenRecord) -> bool {
        compare_records(record, Some(&self.entry.lock().record)) != RecordOrder::Same
    }

    fn log_oddities(&self, response: &TokenResponse) {
        let mut inner = self.entry.lock();
        for note in &response.notes {
            if !inner.logged_notes.contains(note) && inner.logged_notes.len() < 16 {
                inner.logged_notes.push(note.clone());
                tracing::warn!(credential = &*self.resolved.title, note, "unusual token response");
            }
        }
    }

    /// Handles an error response, or a response without a usable token. `was_presented_before`: the record had an
    /// earlier attempt with the same refresh token, whose response may have been lost.
    pub(super) async fn handle_error(
        &mut self,
        base: &TokenRecord,
        presented: PresentedGrant<'_>,
        error: GrantError,
        asked_at: SystemTime,
        was_presented_before: bool,
    ) -> Result<FlightProgress, FlightFailure> {
        if self.is_superseded(base) {
            return Ok(FlightProgress::Replan);
        }
        self.record_retry_after(&error);
        let token = presented.refresh_token();
        if let Some(recovered) = error.recovered.clone() {
            let record = apply_refresh_token(
                base,
                Some(recovered),
                &self.response_context(presented, asked_at),
            );
            let generation = base.generation;
            if !self.record_and_save(base, TokenRecord { generation, ..record }).await {
                return Ok(FlightProgress::Replan);
            }
            self.entry.report_refused(&error);
            return Err(FlightFailure::of_answer(&error));
        }
        let end = match (error.class, token) {
            (ErrorClass::GrantDead, Some(_)) if self.entry.lock().is_damaged => {
                Some(TerminalReason::Corrupt)
            }
            (ErrorClass::GrantDead, Some(_)) if was_presented_before => {
                Some(TerminalReason::LostRotation)
            }
            (ErrorClass::GrantDead, Some(_)) => Some(TerminalReason::Revoked),
            (ErrorClass::UserNeeded, Some(_)) => Some(TerminalReason::UserNeeded),
            (ErrorClass::Unreadable, Some(_)) if self.may_have_rotated(base, presented) => {
                self.entry.update_record(|record| record.unread.clone_from(&error.unread));
                Some(TerminalReason::LostRotation)
            }
            _ => None,
        };
        if let (Some(reason), Some(token)) = (end, token) {
            return self.mark_dead(base, presented, token, reason, &error).await;
        }
        if error.class == ErrorClass::Doubtful && token.is_some() && !self.has_usable_token() {
            return self.record_doubt(&error).await;
        }
        self.entry.report_refused(&error);
        if error.class == ErrorClass::Unreadable {
            self.clear_attempt();
        }
        self.entry.save().await;
        Err(FlightFailure::of_answer(&error))
    }

    /// Returns true if a success response without a readable token may have replaced the refresh token.
    fn may_have_rotated(&self, base: &TokenRecord, presented: PresentedGrant<'_>) -> bool {
        let is_seed = matches!(presented, PresentedGrant::Seed(_));
        let ignores = self.resolved.config.oauth.rotation == Rotation::Ignore;
        !ignores && (is_seed || !base.reuses_refresh_token())
    }

    fn clear_attempt(&self) {
        self.entry.update_record(|record| record.attempt = None);
    }

    /// Records the server's `Retry-After`, so that it is obeyed even after a restart.
    fn record_retry_after(&self, error: &GrantError) {
        let Some(retry_after) = error.retry_after else { return };
        let why = error.class.policy().word.to_owned();
        let said = self.now();
        let at = said + retry_after;
        let grant = self.resolved.issued_for().grant;
        self.entry
            .update_record(|record| record.not_before = Some(NotBefore { at, said, why, grant }));
    }

    /// Records that a refresh token or a seed is dead, unless another process has stored a newer one.
    async fn mark_dead(
        &mut self,
        base: &TokenRecord,
        presented: PresentedGrant<'_>,
        token: &Secret,
        reason: TerminalReason,
        error: &GrantError,
    ) -> Result<FlightProgress, FlightFailure> {
        // With the same tokens, the fields in memory are newer than the stored ones.
        self.entry.lock().is_unsaved = true;
        if self.entry.sync_with_store().await.unwrap_or(false) {
            return Ok(FlightProgress::Replan);
        }
        if let PresentedGrant::Seed(seed) = presented {
            let has_grant = base.refresh_token.is_some()
                && base.terminal.is_none()
                && belongs_to_grant(base, self.resolved.sources());
            let issued_for = self.resolved.issued_for();
            let displaced = self.displaced.take();
            self.entry.update_record(|record| {
                record.seeds.insert(&seed.fingerprint());
                record.attempt = displaced;
                if !has_grant {
                    // There is no other grant. The seed stays in the record so that an operator can retry it.
                    record.replace_refresh_token(seed.clone());
                    record.drop_access_token();
                    record.issued_for = Some(issued_for);
                    record.worked_with = None;
                }
            });
            if has_grant {
                self.entry.metrics.record_refresh("seed_refused", std::time::Duration::ZERO);
                self.entry.report_seed_refused(&self.entry.lock(), reason, error);
                self.entry.set_last_error(
                    FailureReason::SeedRefused,
                    format!("the new seed was refused; the previous grant stays in use: {error}"),
                );
                self.entry.save().await;
                return Ok(FlightProgress::Replan);
            }
        }
        if error.class.policy().consumption != Consumption::Yes {
            self.clear_attempt();
        }
        Ok(self.record_dead_grant(reason, token, error).await)
    }

    /// Counts a refusal that leaves open whether the grant is dead. After several, a bootstrap replaces the grant if one
    /// is configured.
    async fn record_doubt(&self, error: &GrantError) -> Result<FlightProgress, FlightFailure> {
        self.entry.update_record(|record| record.doubts = record.doubts.saturating_add(1));
        self.entry.save().await;
        let doubts = self.entry.lock().record.doubts;
        if doubts == MAX_DOUBTS {
            self.entry.report_doubts(&self.entry.lock(), error);
        } else {
            self.entry.report_refused(error);
        }
        if doubts >= MAX_DOUBTS && self.resolved.sources().can_bootstrap {
            return Ok(FlightProgress::Replan);
        }
        Err(FlightFailure::of_answer(error))
    }

    /// Requests a new grant with the configured bootstrap. A failed bootstrap is always retried, because its cause may be
    /// repaired at the server without a change here.
    pub(super) async fn bootstrap(&self) -> Result<FlightProgress, FlightFailure> {
        self.entry.report_bootstrap(&self.entry.lock());
        if let Some(key) = self.new_key() {
            self.entry.update_record(|record| record.dpop_key = Some(key.to_stored().clone()));
        }
        let base = self.entry.lock().record.clone();
        let (asked_at, answer) = self.request(Grant::Bootstrap, &base).await;
        let before = base.bootstrap.clone();
        let refused = before.as_ref().map_or(0, |it| it.refused);
        let tried = |refused| {
            let before = before.as_ref().map(|it| it.at);
            Some(BootstrapHistory { at: asked_at, before, refused })
        };
        let error = match answer {
            Ok(response) => {
                let base = TokenRecord { bootstrap: tried(0), ..base };
                let issued =
                    self.handle_success(&base, PresentedGrant::NewGrant, response, asked_at).await;
                let outcome = if issued.is_ok() { "success" } else { "failed" };
                self.entry.metrics.record_bootstrap(outcome);
                return issued;
            }
            Err(error) => error,
        };
        self.entry.report_refused(&error);
        if self.is_superseded(&base) {
            return Ok(FlightProgress::Replan);
        }
        self.record_retry_after(&error);
        let detail = Some(format!("the bootstrap failed: {error}"));
        if let Some(recovered) = error.recovered.clone() {
            // The next token is requested with this refresh token instead of another bootstrap.
            let base = TokenRecord { bootstrap: tried(0), ..base };
            let context = self.response_context(PresentedGrant::NewGrant, asked_at);
            let record = apply_refresh_token(&base, Some(recovered), &context);
            self.record_and_save(&base, record).await;
            self.entry.metrics.record_bootstrap("failed");
            return Err(FlightFailure { detail, ..FlightFailure::of_answer(&error) });
        }
        let is_temporary = matches!(
            error.class,
            ErrorClass::Transient
                | ErrorClass::NotSent
                | ErrorClass::Ambiguous
                | ErrorClass::Throttled
                | ErrorClass::Busy
                | ErrorClass::Gateway
                | ErrorClass::Unreadable
        );
        if is_temporary {
            self.entry.metrics.record_bootstrap("failed");
            self.entry.save().await;
            return Err(FlightFailure { detail, ..FlightFailure::of_answer(&error) });
        }
        self.entry.metrics.record_bootstrap("refused");
        self.entry.update_record(|record| record.bootstrap = tried(refused.saturating_add(1)));
        self.entry.save().await;
        let now = self.now();
        let next = self.entry.lock().next_action(false, self.entry.context.clock.moment());
        let retry_after = match next {
            NextAction::Wait(until, _) => until.duration_since(now).ok(),
            _ => None,
        };
        let reason = FailureReason::BootstrapRefused;
        Err(FlightFailure {
            retry_after: retry_after.max(error.retry_after),
            ..FlightFailure::new(RetryPace::Unsent, reason, detail)
        })
    }
}

/// Returns the record after the steps. Its refresh token was stored before.
fn apply_steps(
    base: &TokenRecord,
    response: &TokenResponse,
    context: &ResponseContext<'_>,
) -> Result<TokenRecord, ResponseDefect> {
    let TokenRecord { refresh_token, parent, history, refresh_expires_at, .. } = base;
    let issued = apply_response(base, response, context)?;
    Ok(TokenRecord {
        refresh_token: refresh_token.clone(),
        parent: parent.clone(),
        history: history.clone(),
        refresh_expires_at: *refresh_expires_at,
        ..issued
    })
}

fn defect_failure(defect: ResponseDefect) -> FlightFailure {
    let (reason, detail) = match defect {
        ResponseDefect::NothingToExtend => (
            FailureReason::Answer(ErrorClass::Unreadable),
            "the response extends the lifetime of an access token, but there is none",
        ),
        ResponseDefect::NotRotated => (
            FailureReason::NotRotated,
            "the response has no new refresh token, which rotation = \"require\" demands",
        ),
    };
    tracing::warn!(detail, "token request refused");
    FlightFailure::new(RetryPace::Long, reason, Some(detail.to_owned()))
}
