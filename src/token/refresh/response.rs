//! What an answer means for its credential: what is kept of it, and what follows.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Flight, FlightFailure, FlightProgress};
use crate::oauth::{
    Consumption, DpopBinding, ErrorClass, Grant, GrantError, RetryPace, Rotation,
    TokenRequestContext, TokenResponse,
};
use crate::secret::Secret;
use crate::store::{BootstrapHistory, NotBefore, TerminalReason, TokenRecord};
use crate::token::next_action::MAX_DOUBTS;
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

    /// Stores what the server issued, and makes the configured steps with it.
    pub(super) async fn issued(
        &self,
        base: &TokenRecord,
        presented: PresentedGrant<'_>,
        response: TokenResponse,
        asked_at: SystemTime,
    ) -> Result<FlightProgress, FlightFailure> {
        self.log_oddities(&response);
        let response_context = self.response_context(presented, asked_at);
        if !self.resolved.config.oauth.steps.is_empty() {
            // Nothing may come between a new refresh token and the disk.
            let mut record =
                apply_refresh_token(base, response.refresh_token.clone(), &response_context);
            // The access token from before goes on, and its generation with it.
            record.generation = base.generation;
            record.refresh_expires_at = response.refresh_expires_at.or(record.refresh_expires_at);
            record.grant_expires_at = response.grant_expires_at.or(record.grant_expires_at);
            if !self.keep(base, record).await {
                return Ok(FlightProgress::Replan);
            }
            let mut inner = self.entry.lock();
            // After a reload there are other steps, maybe elsewhere.
            if inner.resolved.fingerprint == self.resolved.fingerprint {
                inner.pending_steps = Some((response, asked_at));
            }
            return Ok(FlightProgress::Replan);
        }
        match apply_response(base, &response, &response_context) {
            Ok(record) => {
                let was_extended = response.access_token.is_none();
                if !self.keep(base, record).await {
                    return Ok(FlightProgress::Replan);
                }
                self.entry.lock().was_extended = was_extended;
                self.entry.report_refreshed(asked_at, self.now());
                Ok(FlightProgress::Done)
            }
            Err(defect) => {
                let record = apply_refresh_token(base, response.refresh_token, &response_context);
                // The access token from before goes on, and its generation with it.
                self.keep(base, TokenRecord { generation: base.generation, ..record }).await;
                Err(defect_failure(defect))
            }
        }
    }

    /// Makes the steps that still have to be made, of this flight or of one before. A step that fails costs no
    /// refresh token, and is made again alone.
    pub(super) async fn finish_steps(&mut self) -> Result<Option<FlightProgress>, FlightFailure> {
        let (pending_steps, base) = {
            let inner = self.entry.lock();
            self.resolved = Arc::clone(&inner.resolved);
            (inner.pending_steps.clone(), inner.record.clone())
        };
        let Some((response, asked_at)) = pending_steps else { return Ok(None) };
        let key = base.dpop_key.as_ref().filter(|_| self.resolved.sources().bound);
        let key = key.and_then(|key| crate::dpop::ProofKey::from_stored(key).ok());
        let given = TokenRequestContext {
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
        match self.resolved.endpoint.follow(response, given).await {
            Ok(response) => {
                let response_context = self.response_context(PresentedGrant::Configured, asked_at);
                let record = apply_steps(&base, &response, &response_context);
                self.entry.lock().pending_steps = None;
                let Ok(record) = record else {
                    return Err(defect_failure(ResponseDefect::NothingToExtend));
                };
                if !self.keep(&base, record).await {
                    return Ok(Some(FlightProgress::Replan));
                }
                self.entry.report_refreshed(asked_at, self.now());
                Ok(Some(FlightProgress::Done))
            }
            Err(error) => {
                // Refused is refused; what passes is tried again with the same token.
                if error.class.policy().pace == RetryPace::Long {
                    self.entry.lock().pending_steps = None;
                }
                self.entry.report_refused(&error);
                let failure = FlightFailure::of_answer(&error);
                Err(FlightFailure { reason: FailureReason::Step, ..failure })
            }
        }
    }

    /// Notes a record and saves it. `false`: somebody else has changed it meanwhile, and that counts.
    async fn keep(&self, base: &TokenRecord, record: TokenRecord) -> bool {
        let kept = self.entry.record_issued(base, record.clone()).is_ok();
        if kept {
            self.entry.save().await;
        }
        let overtaken = !kept || self.is_superseded(&record);
        if overtaken && self.entry.lock().record.is_tombstone() {
            // A logout is not undone by what was on its way.
            login_logout::revoke(self.entry, &self.resolved, &record).await;
        }
        !overtaken
    }

    /// Are the tokens others by now than those of `record`?
    pub(super) fn is_superseded(&self, record: &TokenRecord) -> bool {
        compare_records(record, Some(&self.entry.lock().record)) != RecordOrder::Same
    }

    fn log_oddities(&self, response: &TokenResponse) {
        let mut inner = self.entry.lock();
        for update_record in &response.notes {
            if !inner.logged_notes.contains(update_record) && inner.logged_notes.len() < 16 {
                inner.logged_notes.push(update_record.clone());
                tracing::warn!(
                    credential = &*self.resolved.title,
                    update_record,
                    "an odd token answer"
                );
            }
        }
    }

    /// The server issued nothing that can be used: what that means for the credential.
    pub(super) async fn refused(
        &mut self,
        base: &TokenRecord,
        presented: PresentedGrant<'_>,
        error: GrantError,
        asked_at: SystemTime,
        lost: bool,
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
            if !self.keep(base, TokenRecord { generation, ..record }).await {
                return Ok(FlightProgress::Replan);
            }
            self.entry.report_refused(&error);
            return Err(FlightFailure::of_answer(&error));
        }
        let end = match (error.class, token) {
            (ErrorClass::GrantDead, Some(_)) if self.entry.lock().is_damaged => {
                Some(TerminalReason::Corrupt)
            }
            (ErrorClass::GrantDead, Some(_)) if lost => Some(TerminalReason::LostRotation),
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

    /// Could a success without a readable token have replaced the refresh token?
    fn may_have_rotated(&self, base: &TokenRecord, presented: PresentedGrant<'_>) -> bool {
        let is_seed = matches!(presented, PresentedGrant::Seed(_));
        let ignores = self.resolved.config.oauth.rotation == Rotation::Ignore;
        !ignores && (is_seed || !base.reuses_refresh_token())
    }

    fn clear_attempt(&self) {
        self.entry.update_record(|record| record.attempt = None);
    }

    /// A server that asks to be left alone is, also after a restart.
    fn record_retry_after(&self, error: &GrantError) {
        let Some(retry_after) = error.retry_after else { return };
        let why = error.class.policy().word.to_owned();
        let said = self.now();
        let at = said + retry_after;
        let grant = self.resolved.issued_for().grant;
        self.entry
            .update_record(|record| record.not_before = Some(NotBefore { at, said, why, grant }));
    }

    /// A refresh token, or a seed, is dead: unless somebody else has a newer one, that is what is stored.
    async fn mark_dead(
        &mut self,
        base: &TokenRecord,
        presented: PresentedGrant<'_>,
        token: &Secret,
        reason: TerminalReason,
        error: &GrantError,
    ) -> Result<FlightProgress, FlightFailure> {
        // What is noted here is newer than what is stored beside the same tokens.
        self.entry.lock().is_unsaved = true;
        if self.entry.sync_with_store().await.unwrap_or(false) {
            return Ok(FlightProgress::Replan);
        }
        if let PresentedGrant::Seed(seed) = presented {
            let has_grant = base.refresh_token.is_some()
                && base.terminal.is_none()
                && crate::token::next_action::belongs_to_grant(base, self.resolved.sources());
            let issued_for = self.resolved.issued_for();
            let displaced = self.displaced.take();
            self.entry.update_record(|record| {
                record.seeds.insert(&seed.fingerprint());
                record.attempt = displaced;
                if !has_grant {
                    // There is nothing to go back to: it stays as what an operator may try again.
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
                    format!("the new seed is no good, and the grant before it goes on: {error}"),
                );
                self.entry.save().await;
                return Ok(FlightProgress::Replan);
            }
        }
        if error.class.policy().consumption != Consumption::Yes {
            self.clear_attempt();
        }
        Ok(self.end(reason, token, error).await)
    }

    /// Nobody knows whether it is dead. A new grant is as good, where it needs no person.
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

    /// Asks for a new grant with the configured bootstrap. One that is refused is tried again, for ever:
    /// whatever is wrong, a person need not come by to say that it is mended.
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
                let issued = self.issued(&base, PresentedGrant::NewGrant, response, asked_at).await;
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
            // The next token comes from it, and not from another bootstrap.
            let base = TokenRecord { bootstrap: tried(0), ..base };
            let response_context = self.response_context(PresentedGrant::NewGrant, asked_at);
            let record = apply_refresh_token(&base, Some(recovered), &response_context);
            self.keep(&base, record).await;
            self.entry.metrics.record_bootstrap("failed");
            return Err(FlightFailure { detail, ..FlightFailure::of_answer(&error) });
        }
        let passes = matches!(
            error.class,
            ErrorClass::Transient
                | ErrorClass::NotSent
                | ErrorClass::Ambiguous
                | ErrorClass::Throttled
                | ErrorClass::Busy
                | ErrorClass::Gateway
                | ErrorClass::Unreadable
        );
        if passes {
            self.entry.metrics.record_bootstrap("failed");
            self.entry.save().await;
            return Err(FlightFailure { detail, ..FlightFailure::of_answer(&error) });
        }
        self.entry.metrics.record_bootstrap("refused");
        self.entry.update_record(|record| record.bootstrap = tried(refused.saturating_add(1)));
        self.entry.save().await;
        let now = self.now();
        let plan = self.entry.lock().plan(false, self.entry.context.clock.moment());
        let retry_after = match plan {
            crate::token::next_action::NextAction::Wait(until, _) => until.duration_since(now).ok(),
            _ => None,
        };
        let reason = FailureReason::BootstrapRefused;
        Err(FlightFailure {
            retry_after: retry_after.max(error.retry_after),
            ..FlightFailure::new(RetryPace::Unsent, reason, detail)
        })
    }
}

/// The record after the steps: the refresh token is in it already.
fn apply_steps(
    base: &TokenRecord,
    response: &TokenResponse,
    response_context: &ResponseContext<'_>,
) -> Result<TokenRecord, ResponseDefect> {
    let TokenRecord { refresh_token, parent, history, refresh_expires_at, .. } = base;
    let issued = apply_response(base, response, response_context)?;
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
            "the answer prolongs an access token, and there is none yet",
        ),
        ResponseDefect::NotRotated => (
            FailureReason::NotRotated,
            "the answer has no new refresh token, and rotation = \"require\" asks for one",
        ),
    };
    tracing::warn!(detail, "token request refused");
    FlightFailure::new(RetryPace::Long, reason, Some(detail.to_owned()))
}
