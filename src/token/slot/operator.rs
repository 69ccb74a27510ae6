//! What an operator may do with a credential.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Slot, generation_of};
use crate::oauth::TokenResponse;
use crate::store::StoreError;
use crate::token::refresh::Demand;
use crate::token::state::{Outcome, Phase, Want};
use crate::token::{Status, TokenError};

impl Slot {
    /// Forgets the credential's tokens, for every process on the store, and revokes them. A refresh that
    /// is under way does not bring them back. Only a new seed or [`Slot::store_login`] does.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the tombstone could not be written; then nothing has changed.
    pub async fn logout(self: &Arc<Self>) -> Result<(), StoreError> {
        let overruled = self.refresher.log_out().await?;
        {
            let mut state = self.lock();
            state.log_out(overruled.record.generation);
            self.publish(None);
        }
        self.announce();
        self.refresher.revoke(&overruled.before).await;
        Ok(())
    }

    /// Takes what a login brought: the credential's first refresh token, and with it an access token,
    /// asked for at `asked_at`. It wins over whatever was there, a tombstone and a dead grant included.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it could not be written; then nothing has changed.
    pub async fn store_login(
        self: &Arc<Self>,
        response: &TokenResponse,
        asked_at: SystemTime,
    ) -> Result<(), StoreError> {
        let overruled = self.refresher.log_in(response, asked_at).await?;
        {
            let mut state = self.lock();
            // A flight that is in the air lands on its own, and finds this in the store.
            state.adopt(Outcome::Refreshed, self.context.clock.moment());
            self.publish(Some(&overruled.record));
        }
        self.announce();
        Ok(())
    }

    /// Replaces the token now, although nothing asks for it; the current one is served meanwhile. A
    /// refresh that is under way is waited for instead.
    ///
    /// # Errors
    ///
    /// [`TokenError`], as a request without a token would get it: a server that asked to be left alone
    /// is left alone by operators too.
    pub async fn refresh_now(self: &Arc<Self>) -> Result<Status, TokenError> {
        let mut landed = self.landed.subscribe();
        landed.mark_unchanged();
        let now = self.context.clock.moment();
        let forced = self.lock().force(now);
        match forced {
            Ok(()) => {
                let token = self.current.load_full();
                let usable = token.as_ref().is_some_and(|token| token.is_usable(now));
                self.start(Demand::replace(generation_of(token.as_deref()), usable));
            }
            Err(Want::NeedsLogin(reason)) => return Err(TokenError::NeedsLogin { reason }),
            Err(Want::Unavailable { until, why }) => {
                return Err(TokenError::Unavailable { retry_after: until.left(now), why });
            }
            Err(_) => {}
        }
        let deadline = Instant::now() + self.wait;
        if tokio::time::timeout_at(deadline, landed.changed()).await.is_err() {
            let retry_after = Duration::from_secs(1);
            return Err(TokenError::Unavailable { retry_after, why: "timeout" });
        }
        match &self.lock().phase {
            Phase::NeedsLogin(reason) => return Err(TokenError::NeedsLogin { reason: *reason }),
            Phase::Failing { until, why } => {
                let retry_after = until.left(self.context.clock.moment());
                return Err(TokenError::Unavailable { retry_after, why });
            }
            Phase::Idle | Phase::Refreshing => {}
        }
        Ok(self.status())
    }
}
