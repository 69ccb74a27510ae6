//! What a token request that brought nothing means for its credential.

use super::super::Generation;
use super::super::state::Backoff;
use super::plan::supersede;
use super::session::{Memory, Session};
use super::{Failure, Refresher, may_have_consumed};
use crate::oauth::{Class, GrantError};
use crate::secret::Secret;
use crate::store::{Terminal, TerminalReason, TokenRecord};

/// After so many doubtful answers in a row, a grant that worked before is taken for dead.
const DOUBTS: u32 = 3;

impl Refresher {
    /// The server issued nothing: what that means for the credential.
    pub(super) async fn refused(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        refresh_token: Option<Secret>,
        error: GrantError,
        lost_answer: bool,
    ) -> Result<TokenRecord, Failure> {
        if let Some(salvaged) = error.salvaged.clone() {
            supersede(&mut session.record, salvaged);
            session.record.intent = None;
            self.save(session).await?;
        }
        let worked_before = session.record.generation > Generation(1);
        memory.doubts = if error.class == Class::Doubtful { memory.doubts + 1 } else { 0 };
        let dead = match error.class {
            Class::GrantDead if session.damaged => Some(TerminalReason::Corrupt),
            Class::GrantDead if lost_answer => Some(TerminalReason::LostRotation),
            Class::GrantDead => Some(TerminalReason::Revoked),
            Class::UserNeeded => Some(TerminalReason::UserNeeded),
            Class::Doubtful if memory.doubts >= DOUBTS && worked_before => {
                Some(TerminalReason::Revoked)
            }
            _ => None,
        };
        if let (Some(reason), Some(refresh_token)) = (dead, &refresh_token) {
            return self.die(session, reason, refresh_token, &error).await;
        }
        self.report_refused(session, &error);
        if !lost_answer && !may_have_consumed(error.class) && session.record.intent.is_some() {
            // The refresh token is as good as before: a later refusal is not this request's doing.
            session.record.intent = None;
            if let Err(error) = self.commit(session).await {
                self.report_store(&error);
            }
        }
        let backoff = match error.class {
            Class::Transient | Class::NotSent | Class::Ambiguous | Class::Throttled => {
                Backoff::Short
            }
            _ => Backoff::Long,
        };
        let detail = Some(error.to_string());
        Err(Failure { detail, ..Failure::failed(backoff, error.retry_after, why(error.class)) })
    }

    /// Records that the grant is dead, unless someone else has a newer one.
    async fn die(
        &self,
        session: &mut Session,
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
            return Ok(session.record.clone());
        }
        session.record.intent = None;
        session.record.terminal = Some(Terminal {
            reason,
            refresh_token: Some(refresh_token.fingerprint()),
            config: self.config.clone(),
            at: self.context.clock.now(),
        });
        if reason == TerminalReason::LostRotation {
            self.metrics.lost_rotation();
        }
        self.report_needs_login(reason, session.record.generation, Some(error));
        self.save(session).await?;
        // The access token is served until it expires, unless an origin rejected it.
        let record = Some(Box::new(session.record.clone()));
        let detail = Some(error.to_string());
        Err(Failure { record, detail, ..Failure::needs_login(reason) })
    }
}

fn why(class: Class) -> &'static str {
    match class {
        Class::GrantDead => "grant_dead",
        Class::UserNeeded => "user_needed",
        Class::Throttled => "throttled",
        Class::Transient => "server_trouble",
        Class::NotSent => "unreachable",
        Class::Ambiguous => "no_answer",
        Class::Config | Class::Doubtful => "refused",
        Class::Protocol => "unreadable_answer",
        Class::Nonce => "refused",
    }
}
