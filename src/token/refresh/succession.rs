//! Whose word counts after a reload: that of the configuration that has acted last.
//!
//! A request that was under way keeps the slot that it began with, and that slot goes on renewing its
//! token with the configuration of before. Both slots are about the same record, and they share what
//! this process knows. As long as the new one has asked for nothing that is as good as no reload. But
//! once it has, the record may hold another grant: its access token is not for the hosts of before, its
//! refresh token not for the token endpoint of before, and a seed of before must not take its place.
//!
//! A reload cannot simply end the slots of before: it may still fail after the new ones are open, and
//! until they are in use requests still come to the old ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::state::Backoff;
use super::super::{Config, Context};
use super::{Failure, Refresher};
use crate::oauth::TokenEndpoint;
use crate::secret::Fingerprint;

/// The place of a configuration among those that have shared one memory.
#[derive(Debug, Default)]
pub(super) struct Reign {
    /// Counts up whenever a reload changes what tokens are asked for with.
    number: u64,
    /// The highest that has acted.
    acted: Arc<AtomicU64>,
}

impl Reign {
    fn next(&self, is_same_grant: bool) -> Self {
        Self { number: self.number + u64::from(!is_same_grant), acted: Arc::clone(&self.acted) }
    }

    /// Whoever came before has nothing to say from now on. `false`: this is one of them.
    fn claim(&self) -> bool {
        self.acted.fetch_max(self.number, Ordering::SeqCst) <= self.number
    }

    fn is_over(&self) -> bool {
        self.acted.load(Ordering::SeqCst) > self.number
    }
}

impl Refresher {
    /// A refresher for the same credential with another configuration, and the same memory.
    pub(in crate::token) fn succeed(
        &self,
        config: Config,
        endpoint: TokenEndpoint,
        context: &Context,
    ) -> Self {
        let next = Self::new(config, endpoint, context);
        let is_same_grant = next.config == self.config && next.seeded_with() == self.seeded_with();
        Self {
            memory: Arc::clone(&self.memory),
            unsaved: Arc::clone(&self.unsaved),
            reign: self.reign.next(is_same_grant),
            ..next
        }
    }

    fn seeded_with(&self) -> Option<Fingerprint> {
        self.seed.as_ref()?.value.as_ref().map(|seed| seed.fingerprint())
    }

    /// To be called, with the memory locked, before a token is asked for or taken over.
    ///
    /// # Errors
    ///
    /// A refresher of a later configuration has done so already.
    pub(super) fn take_charge(&self) -> Result<(), Failure> {
        if self.reign.claim() { Ok(()) } else { Err(retired()) }
    }

    /// The same for what an operator does, who waits for nobody.
    pub(super) fn end_reigns_before(&self) {
        self.reign.claim();
    }

    /// The same for what has begun: what it takes from the store now may be the successor's.
    pub(super) fn still_in_charge(&self) -> Result<(), Failure> {
        if self.reign.is_over() { Err(retired()) } else { Ok(()) }
    }

    /// Has a later configuration taken this one's place?
    pub(in crate::token) fn is_retired(&self) -> bool {
        self.reign.is_over()
    }
}

/// To waiters it is short, and to the state machine long: this refresher brings nothing any more.
fn retired() -> Failure {
    Failure::failed(Backoff::Long, None, "reloaded")
}
