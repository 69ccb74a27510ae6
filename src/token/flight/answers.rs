//! What an answer means for its credential: what is kept of it, and what follows.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Failure, Flight, Next};
use crate::oauth::{
    Consumption, DpopBinding, ErrorClass, Grant, GrantError, RequestContext, RetryPace, Rotation,
    TokenResponse,
};
use crate::secret::Secret;
use crate::store::{BootstrapHistory, NotBefore, TerminalReason, TokenRecord};
use crate::token::issue::{Presented, Terms, Unfit, issue, succeed};
use crate::token::order::{Order, order};
use crate::token::plan::DOUBTS;
use crate::token::{FailureReason, operator};

impl Flight<'_> {
    fn terms<'a>(&self, presented: Presented<'a>, asked_at: SystemTime) -> Terms<'a> {
        let config = &self.settled.config;
        Terms {
            presented,
            asked_at,
            lifetime: config.lifetime,
            rotation: config.oauth.rotation,
            issued_for: self.settled.issued_for(),
            bound: config.oauth.reading.dpop,
        }
    }

    /// Stores what the server issued, and makes the configured steps with it.
    pub(super) async fn issued(
        &self,
        base: &TokenRecord,
        presented: Presented<'_>,
        response: TokenResponse,
        asked_at: SystemTime,
    ) -> Result<Next, Failure> {
        self.note_oddities(&response);
        let terms = self.terms(presented, asked_at);
        if !self.settled.config.oauth.steps.is_empty() {
            // Nothing may come between a new refresh token and the disk.
            let mut record = succeed(base, response.refresh_token.clone(), &terms);
            // The access token from before goes on, and its generation with it.
            record.generation = base.generation;
            record.refresh_expires_at = response.refresh_expires_at.or(record.refresh_expires_at);
            record.grant_expires_at = response.grant_expires_at.or(record.grant_expires_at);
            if !self.keep(base, record).await {
                return Ok(Next::Again);
            }
            let mut known = self.ledger.lock();
            // After a reload there are other steps, maybe elsewhere.
            if known.settled.fingerprint == self.settled.fingerprint {
                known.unfinished = Some((response, asked_at));
            }
            return Ok(Next::Again);
        }
        match issue(base, &response, &terms) {
            Ok(record) => {
                let prolonged = response.access_token.is_none();
                if !self.keep(base, record).await {
                    return Ok(Next::Again);
                }
                self.ledger.lock().prolonged = prolonged;
                self.ledger.report_refreshed(asked_at, self.now());
                Ok(Next::Land)
            }
            Err(unfit) => {
                let record = succeed(base, response.refresh_token, &terms);
                // The access token from before goes on, and its generation with it.
                self.keep(base, TokenRecord { generation: base.generation, ..record }).await;
                Err(unfit_failure(unfit))
            }
        }
    }

    /// Makes the steps that still have to be made, of this flight or of one before. A step that fails costs no
    /// refresh token, and is made again alone.
    pub(super) async fn finish_steps(&mut self) -> Result<Option<Next>, Failure> {
        let (unfinished, base) = {
            let known = self.ledger.lock();
            self.settled = Arc::clone(&known.settled);
            (known.unfinished.clone(), known.record.clone())
        };
        let Some((response, asked_at)) = unfinished else { return Ok(None) };
        let key = base.dpop_key.as_ref().filter(|_| self.settled.sources().bound);
        let key = key.and_then(|key| crate::dpop::ProofKey::from_stored(key).ok());
        let given = RequestContext {
            now: asked_at,
            access_token: base.access_token.as_ref(),
            variables: &self.settled.config.variables,
            proof: key.as_ref().map(|key| DpopBinding { key, nonce: None }),
            listen: self.settled.config.oauth.timeout,
        };
        let is_over = response.expires_at.is_some_and(|end| end <= self.now());
        if is_over {
            self.ledger.lock().unfinished = None;
            return Ok(None);
        }
        match self.settled.endpoint.follow(response, given).await {
            Ok(response) => {
                let terms = self.terms(Presented::Own, asked_at);
                let record = issue_steps(&base, &response, &terms);
                self.ledger.lock().unfinished = None;
                let Ok(record) = record else {
                    return Err(unfit_failure(Unfit::NothingToProlong));
                };
                if !self.keep(&base, record).await {
                    return Ok(Some(Next::Again));
                }
                self.ledger.report_refreshed(asked_at, self.now());
                Ok(Some(Next::Land))
            }
            Err(error) => {
                // Refused is refused; what passes is tried again with the same token.
                if error.class.policy().pace == RetryPace::Long {
                    self.ledger.lock().unfinished = None;
                }
                self.ledger.report_refused(&error);
                let failure = Failure::of_answer(&error);
                Err(Failure { why: FailureReason::Step, ..failure })
            }
        }
    }

    /// Notes a record and saves it. `false`: somebody else has changed it meanwhile, and that counts.
    async fn keep(&self, base: &TokenRecord, record: TokenRecord) -> bool {
        let kept = self.ledger.keep(base, record.clone()).is_ok();
        if kept {
            self.ledger.save().await;
        }
        let overtaken = !kept || self.is_overtaken(&record);
        if overtaken && self.ledger.lock().record.is_tombstone() {
            // A logout is not undone by what was on its way.
            operator::revoke(self.ledger, &self.settled, &record).await;
        }
        !overtaken
    }

    /// Are the tokens others by now than those of `record`?
    pub(super) fn is_overtaken(&self, record: &TokenRecord) -> bool {
        order(record, Some(&self.ledger.lock().record)) != Order::Same
    }

    fn note_oddities(&self, response: &TokenResponse) {
        let mut known = self.ledger.lock();
        for note in &response.notes {
            if !known.notes.contains(note) && known.notes.len() < 16 {
                known.notes.push(note.clone());
                tracing::warn!(credential = &*self.settled.title, note, "an odd token answer");
            }
        }
    }

    /// The server issued nothing that can be used: what that means for the credential.
    pub(super) async fn refused(
        &mut self,
        base: &TokenRecord,
        presented: Presented<'_>,
        error: GrantError,
        asked_at: SystemTime,
        lost: bool,
    ) -> Result<Next, Failure> {
        if self.is_overtaken(base) {
            return Ok(Next::Again);
        }
        self.note_wish(&error);
        let token = presented.refresh_token();
        if let Some(salvaged) = error.salvaged.clone() {
            let record = succeed(base, Some(salvaged), &self.terms(presented, asked_at));
            let generation = base.generation;
            if !self.keep(base, TokenRecord { generation, ..record }).await {
                return Ok(Next::Again);
            }
            self.ledger.report_refused(&error);
            return Err(Failure::of_answer(&error));
        }
        let end = match (error.class, token) {
            (ErrorClass::GrantDead, Some(_)) if self.ledger.lock().damaged => {
                Some(TerminalReason::Corrupt)
            }
            (ErrorClass::GrantDead, Some(_)) if lost => Some(TerminalReason::LostRotation),
            (ErrorClass::GrantDead, Some(_)) => Some(TerminalReason::Revoked),
            (ErrorClass::UserNeeded, Some(_)) => Some(TerminalReason::UserNeeded),
            (ErrorClass::Unreadable, Some(_)) if self.may_have_rotated(base, presented) => {
                self.ledger.note(|record| record.unread.clone_from(&error.unread));
                Some(TerminalReason::LostRotation)
            }
            _ => None,
        };
        if let (Some(reason), Some(token)) = (end, token) {
            return self.dead(base, presented, token, reason, &error).await;
        }
        if error.class == ErrorClass::Doubtful && token.is_some() && !self.can_wait() {
            return self.doubt(&error).await;
        }
        self.ledger.report_refused(&error);
        if error.class == ErrorClass::Unreadable {
            self.put_attempt_away();
        }
        self.ledger.save().await;
        Err(Failure::of_answer(&error))
    }

    /// Could a success without a readable token have replaced the refresh token?
    fn may_have_rotated(&self, base: &TokenRecord, presented: Presented<'_>) -> bool {
        let is_seed = matches!(presented, Presented::Seed(_));
        let ignores = self.settled.config.oauth.rotation == Rotation::Ignore;
        !ignores && (is_seed || !base.reuses_refresh_token())
    }

    fn put_attempt_away(&self) {
        self.ledger.note(|record| record.attempt = None);
    }

    /// A server that asks to be left alone is, also after a restart.
    fn note_wish(&self, error: &GrantError) {
        let Some(wish) = error.retry_after else { return };
        let why = error.class.policy().word.to_owned();
        let said = self.now();
        let at = said + wish;
        let grant = self.settled.issued_for().grant;
        self.ledger.note(|record| record.not_before = Some(NotBefore { at, said, why, grant }));
    }

    /// A refresh token, or a seed, is dead: unless somebody else has a newer one, that is what is stored.
    async fn dead(
        &mut self,
        base: &TokenRecord,
        presented: Presented<'_>,
        token: &Secret,
        reason: TerminalReason,
        error: &GrantError,
    ) -> Result<Next, Failure> {
        // What is noted here is newer than what is stored beside the same tokens.
        self.ledger.lock().unsaved = true;
        if self.ledger.synchronise().await.unwrap_or(false) {
            return Ok(Next::Again);
        }
        if let Presented::Seed(seed) = presented {
            let has_grant = base.refresh_token.is_some()
                && base.terminal.is_none()
                && crate::token::plan::is_of_grant(base, self.settled.sources());
            let issued_for = self.settled.issued_for();
            let displaced = self.displaced.take();
            self.ledger.note(|record| {
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
                self.ledger.metrics.record_refresh("seed_refused", std::time::Duration::ZERO);
                self.ledger.report_seed_refused(&self.ledger.lock(), reason, error);
                self.ledger.fail(
                    FailureReason::SeedRefused,
                    format!("the new seed is no good, and the grant before it goes on: {error}"),
                );
                self.ledger.save().await;
                return Ok(Next::Again);
            }
        }
        if error.class.policy().consumption != Consumption::Yes {
            self.put_attempt_away();
        }
        Ok(self.end(reason, token, error).await)
    }

    /// Nobody knows whether it is dead. A new grant is as good, where it needs no person.
    async fn doubt(&self, error: &GrantError) -> Result<Next, Failure> {
        self.ledger.note(|record| record.doubts = record.doubts.saturating_add(1));
        self.ledger.save().await;
        let doubts = self.ledger.lock().record.doubts;
        if doubts == DOUBTS {
            self.ledger.report_doubts(&self.ledger.lock(), error);
        } else {
            self.ledger.report_refused(error);
        }
        if doubts >= DOUBTS && self.settled.sources().can_bootstrap {
            return Ok(Next::Again);
        }
        Err(Failure::of_answer(error))
    }

    /// Asks for a new grant with the configured bootstrap. One that is refused is tried again, for ever:
    /// whatever is wrong, a person need not come by to say that it is mended.
    pub(super) async fn bootstrap(&self) -> Result<Next, Failure> {
        self.ledger.report_bootstrap(&self.ledger.lock());
        if let Some(key) = self.new_key() {
            self.ledger.note(|record| record.dpop_key = Some(key.to_stored().clone()));
        }
        let base = self.ledger.lock().record.clone();
        let (asked_at, answer) = self.ask(Grant::Bootstrap, &base).await;
        let before = base.bootstrap.clone();
        let refused = before.as_ref().map_or(0, |it| it.refused);
        let tried = |refused| {
            let before = before.as_ref().map(|it| it.at);
            Some(BootstrapHistory { at: asked_at, before, refused })
        };
        let error = match answer {
            Ok(response) => {
                let base = TokenRecord { bootstrap: tried(0), ..base };
                let issued = self.issued(&base, Presented::NewGrant, response, asked_at).await;
                let outcome = if issued.is_ok() { "success" } else { "failed" };
                self.ledger.metrics.record_bootstrap(outcome);
                return issued;
            }
            Err(error) => error,
        };
        self.ledger.report_refused(&error);
        if self.is_overtaken(&base) {
            return Ok(Next::Again);
        }
        self.note_wish(&error);
        let detail = Some(format!("the bootstrap failed: {error}"));
        if let Some(salvaged) = error.salvaged.clone() {
            // The next token comes from it, and not from another bootstrap.
            let base = TokenRecord { bootstrap: tried(0), ..base };
            let terms = self.terms(Presented::NewGrant, asked_at);
            let record = succeed(&base, Some(salvaged), &terms);
            self.keep(&base, record).await;
            self.ledger.metrics.record_bootstrap("failed");
            return Err(Failure { detail, ..Failure::of_answer(&error) });
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
            self.ledger.metrics.record_bootstrap("failed");
            self.ledger.save().await;
            return Err(Failure { detail, ..Failure::of_answer(&error) });
        }
        self.ledger.metrics.record_bootstrap("refused");
        self.ledger.note(|record| record.bootstrap = tried(refused.saturating_add(1)));
        self.ledger.save().await;
        let now = self.now();
        let plan = self.ledger.lock().plan(false, self.ledger.context.clock.moment());
        let wish = match plan {
            crate::token::plan::Plan::Wait(until, _) => until.duration_since(now).ok(),
            _ => None,
        };
        let why = FailureReason::BootstrapRefused;
        Err(Failure {
            wish: wish.max(error.retry_after),
            ..Failure::new(RetryPace::Unsent, why, detail)
        })
    }
}

/// The record after the steps: the refresh token is in it already.
fn issue_steps(
    base: &TokenRecord,
    response: &TokenResponse,
    terms: &Terms<'_>,
) -> Result<TokenRecord, Unfit> {
    let TokenRecord { refresh_token, parent, history, refresh_expires_at, .. } = base;
    let issued = issue(base, response, terms)?;
    Ok(TokenRecord {
        refresh_token: refresh_token.clone(),
        parent: parent.clone(),
        history: history.clone(),
        refresh_expires_at: *refresh_expires_at,
        ..issued
    })
}

fn unfit_failure(unfit: Unfit) -> Failure {
    let (why, detail) = match unfit {
        Unfit::NothingToProlong => (
            FailureReason::Answer(ErrorClass::Unreadable),
            "the answer prolongs an access token, and there is none yet",
        ),
        Unfit::NotRotated => (
            FailureReason::NotRotated,
            "the answer has no new refresh token, and rotation = \"require\" asks for one",
        ),
    };
    tracing::warn!(detail, "token request refused");
    Failure::new(RetryPace::Long, why, Some(detail.to_owned()))
}
