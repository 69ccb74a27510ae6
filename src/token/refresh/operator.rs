//! What an operator does to a record: logging out and logging in. Neither waits for a refresh that is
//! under way; its commit then fails, because the generation has moved on.

use std::time::SystemTime;

use super::Refresher;
use super::outcome::{Terms, issue};
use crate::oauth::{Given, Revocation, Rotation, TokenKind, TokenResponse};
use crate::store::{Commit, StoreError, Terminal, TerminalReason, TokenRecord};

/// How often a compare-and-set is tried against refreshes that come in between.
const TRIES: usize = 5;

/// What was there, and what is there now.
#[derive(Debug)]
pub(in crate::token) struct Overruled {
    pub(in crate::token) before: TokenRecord,
    pub(in crate::token) record: TokenRecord,
}

impl Refresher {
    /// Puts a tombstone in the record's place. It keeps the hashes of all seeds, also of the one that is
    /// configured now, so that none of them brings the credential back.
    pub(in crate::token) async fn log_out(&self) -> Result<Overruled, StoreError> {
        let at = self.context.clock.now();
        let overruled = self
            .overrule(|before| {
                let mut record = TokenRecord {
                    generation: before.generation.next(),
                    superseded: before.superseded.clone(),
                    seeds: before.seeds.clone(),
                    terminal: Some(Terminal {
                        reason: TerminalReason::LoggedOut,
                        refresh_token: None,
                        config: self.config.clone(),
                        at,
                    }),
                    ..TokenRecord::default()
                };
                self.retire_seed(&mut record);
                record
            })
            .await?;
        tracing::warn!(
            credential = self.name,
            generation = overruled.record.generation.0,
            "logged out; no token request is made until a new seed or a login"
        );
        Ok(overruled)
    }

    /// Stores what a login brought, in the place of whatever was there.
    pub(in crate::token) async fn log_in(
        &self,
        response: &TokenResponse,
        asked_at: SystemTime,
    ) -> Result<Overruled, StoreError> {
        let overruled = self
            .overrule(|before| {
                let old = TokenRecord {
                    access_token: None,
                    expires_at: None,
                    refresh_expires_at: None,
                    raw: Default::default(),
                    bootstrap: None,
                    displaced: None,
                    ..before.clone()
                };
                let terms = Terms {
                    asked_at,
                    lifetime: self.lifetime,
                    rotation: Rotation::Auto,
                    config: &self.config,
                    by_refresh_token: false,
                    forced: true,
                    refused_early: None,
                };
                // Without an access token it is still a login: the refresh token brings one.
                let issued = issue(&old, response.clone(), terms);
                let mut record = issued.unwrap_or_else(|_| TokenRecord {
                    generation: before.generation.next(),
                    terminal: None,
                    intent: None,
                    rejected: false,
                    ..old
                });
                record.refresh_token.clone_from(&response.refresh_token);
                self.retire_seed(&mut record);
                record
            })
            .await?;
        tracing::info!(
            credential = self.name,
            generation = overruled.record.generation.0,
            "logged in"
        );
        Ok(overruled)
    }

    /// The configured seed counts as used: what an operator does now wins over it.
    fn retire_seed(&self, record: &mut TokenRecord) {
        let seed = self.seed.as_ref().and_then(|seed| seed.value.as_ref());
        if let Some(seed) = seed.map(|seed| seed.fingerprint())
            && !record.knows_seed(&seed)
        {
            record.seeds.push(seed);
        }
    }

    async fn overrule(
        &self,
        change: impl Fn(&TokenRecord) -> TokenRecord,
    ) -> Result<Overruled, StoreError> {
        self.end_reigns_before();
        for _ in 0..TRIES {
            let stored = match self.context.store.load(&self.key).await {
                Ok(stored) => stored.unwrap_or_default(),
                // It was moved aside; what is written now takes its place.
                Err(StoreError::Corrupt { .. }) => TokenRecord::default(),
                Err(error) => return Err(error),
            };
            let expected = stored.generation;
            // What could not be saved yet is newer than what is stored.
            let mut memory = self.memory.try_lock().ok();
            let known = memory.as_ref().and_then(|memory| memory.known.clone());
            let before = known.filter(|known| known.generation > expected).unwrap_or(stored);
            let record = change(&before);
            let written = self.context.store.overrule(&self.key, expected, &record).await?;
            if written == Commit::Stored {
                if let Some(memory) = &mut memory {
                    memory.unsaved = None;
                    memory.damaged = false;
                    memory.known = Some(record.clone());
                }
                return Ok(Overruled { before, record });
            }
        }
        Err(StoreError::Busy { key: self.key.clone(), waited: self.lease_wait })
    }

    /// Gives the tokens of `record` back (RFC 7009), the refresh token first, as far as the server has a
    /// place for that, and those of the grant that an untried seed has displaced. A server that refuses
    /// leaves them valid until they expire; nothing can be done.
    pub(in crate::token) async fn revoke(&self, record: &TokenRecord) {
        for record in [Some(record), record.displaced.as_deref()].into_iter().flatten() {
            self.revoke_tokens(record).await;
        }
    }

    async fn revoke_tokens(&self, record: &TokenRecord) {
        let given = Given {
            now: self.context.clock.now(),
            access_token: record.access_token.as_ref(),
            variables: &self.variables,
            proof: None,
        };
        for (token, kind) in [
            (&record.refresh_token, TokenKind::RefreshToken),
            (&record.access_token, TokenKind::AccessToken),
        ] {
            let Some(token) = token else { continue };
            let generation = record.generation.0;
            match self.endpoint.revoke(token, kind, given).await {
                Ok(Revocation::Done) => {
                    tracing::info!(credential = self.name, generation, ?kind, "token revoked");
                }
                Ok(Revocation::NoEndpoint) => {
                    tracing::warn!(
                        credential = self.name,
                        generation,
                        ?kind,
                        "not revoked: no revoke_url is known; it stays valid at the server"
                    );
                }
                Err(error) => {
                    tracing::warn!(credential = self.name, generation, ?kind, %error, "not revoked");
                }
            }
        }
    }
}
