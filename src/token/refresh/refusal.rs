//! What a token request that brought nothing means for its credential.

use super::super::state::Backoff;
use super::outcome::{
    Circumstances, backoff, death, may_be_too_early, may_have_consumed, salvage, why,
};
use super::plan::{Plan, restore};
use super::session::{Memory, Session};
use super::{Demand, Failure, Refresher};
use crate::oauth::{Class, GrantError};
use crate::secret::Secret;
use crate::store::{Terminal, TerminalReason, TokenRecord};

impl Refresher {
    /// The server issued nothing: what that means for the credential.
    pub(super) async fn refused(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        demand: Demand,
        refresh_token: Option<Secret>,
        error: GrantError,
        lost_answer: bool,
    ) -> Result<TokenRecord, Failure> {
        if let Some(salvaged) = error.salvaged.clone() {
            self.salvage(session, salvaged, refresh_token.is_some()).await?;
        }
        let now = self.context.clock.now();
        if demand.usable {
            // With a token to spare it may only be too early; that is no doubt about the grant.
            let left = session.record.expires_at.and_then(|end| end.duration_since(now).ok());
            memory.refused_early = left.filter(|_| may_be_too_early(&error));
        } else {
            memory.doubts = if error.class == Class::Doubtful { memory.doubts + 1 } else { 0 };
        }
        let circumstances = Circumstances {
            damaged: session.damaged,
            lost_answer,
            worked_before: session.record.worked_with.as_ref() == Some(&self.config),
            doubts: if demand.usable { 0 } else { memory.doubts },
        };
        if let (Some(reason), Some(refresh_token)) =
            (death(error.class, circumstances), &refresh_token)
        {
            return self.die(session, memory, demand, reason, refresh_token, &error).await;
        }
        self.report_refused(session, &error);
        if !lost_answer && !may_have_consumed(error.class) && session.record.intent.is_some() {
            // The refresh token is as good as before: a later refusal is not this request's doing.
            session.record.intent = None;
            if let Err(error) = self.commit(session).await {
                self.report_store(&error);
            }
        }
        let detail = Some(error.to_string());
        let failure = Failure::failed(backoff(error.class), error.retry_after, why(error.class));
        Err(Failure { detail, ..failure })
    }

    /// Stores the refresh token of an answer that is of no use otherwise.
    pub(super) async fn salvage(
        &self,
        session: &mut Session,
        refresh_token: Secret,
        by_refresh_token: bool,
    ) -> Result<(), Failure> {
        salvage(&mut session.record, refresh_token, self.rotation, by_refresh_token);
        self.save(session).await
    }

    /// Records that the grant is dead, unless someone else has a newer one, and goes back to the one
    /// before, or begins a new one if that needs no person.
    async fn die(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        demand: Demand,
        reason: TerminalReason,
        refresh_token: &Secret,
        error: &GrantError,
    ) -> Result<TokenRecord, Failure> {
        if let Ok(Some(record)) = self.context.store.load(&self.key).await
            && record.generation > session.record.generation
        {
            session.stored = record.generation;
            session.record = record;
            session.ahead = false;
            return self.accept_foreign(session);
        }
        if reason == TerminalReason::LostRotation {
            self.metrics.lost_rotation();
        }
        if restore(&mut session.record, &self.config) {
            let follows = "the new seed is no good; the grant before it goes on";
            self.report_died(reason, session.record.generation, error, follows);
            self.save(session).await?;
            let record = Some(Box::new(session.record.clone()));
            let detail = Some(format!("the new seed is no good: {error}"));
            let failure = Failure::failed(Backoff::Short, None, "seed_refused");
            return Err(Failure { record, detail, ..failure });
        }
        session.record.intent = None;
        session.record.terminal = Some(Terminal {
            reason,
            refresh_token: Some(refresh_token.fingerprint()),
            config: self.config.clone(),
            at: self.context.clock.now(),
        });
        let plan = self.plan(&session.record, session.damaged);
        if let Plan::Bootstrap | Plan::BootstrapLater(_) = plan {
            let follows = "the grant is dead; the bootstrap begins a new one";
            self.report_died(reason, session.record.generation, error, follows);
            self.save(session).await?;
            return match plan {
                Plan::BootstrapLater(pause) => Err(self.bootstrap_later(session, pause)),
                _ => self.bootstrap(session, memory, demand).await,
            };
        }
        self.report_needs_login(reason, session.record.generation, Some(error));
        self.save(session).await?;
        // The access token is served until it expires, unless an origin rejected it.
        let record = Some(Box::new(session.record.clone()));
        let detail = Some(error.to_string());
        Err(Failure { record, detail, ..Failure::needs_login(reason) })
    }
}
