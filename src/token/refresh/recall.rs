//! Reading records without refreshing: at the start, and for what other processes have written.

use super::plan::{Plan, is_usable};
use super::session::Memory;
use super::{Demand, Failure, Refresher};
use crate::store::{Generation, StoreError, TokenRecord};

impl Refresher {
    /// Reads the record at start: the token in it, or the reason why none will be asked for.
    pub(in crate::token) async fn recall(&self) -> Result<Option<TokenRecord>, Failure> {
        let record = match self.context.store.load(&self.key).await {
            Ok(record) => self.newer_of(record),
            Err(error) => {
                self.report_store(&error);
                let is_corrupt = matches!(error, StoreError::Corrupt { .. });
                // A damaged record is looked into by the first refresh, under the lease.
                if is_corrupt && let Ok(mut memory) = self.memory.try_lock() {
                    memory.damaged = true;
                }
                // After a reload the token may be known all the same.
                let now = self.context.clock.now();
                let known = self.newer_of(None).filter(|known| is_usable(known, now));
                if known.is_none() && !is_corrupt {
                    return Err(Failure::of_store(&error));
                }
                known
            }
        };
        let Some(record) = record else { return Ok(None) };
        match self.plan(&record, false) {
            Plan::Stop(reason) => {
                Err(Failure { record: Some(Box::new(record)), ..Failure::needs_login(reason) })
            }
            // A new seed is a new grant: the old access token may belong to another account.
            Plan::Ask { new_seed: Some(_), .. } => Ok(None),
            Plan::Ask { .. } | Plan::Bootstrap | Plan::BootstrapLater(_) => Ok(Some(record)),
        }
    }

    /// The stored record, or the one that a slot before this one has left in memory if it is newer.
    fn newer_of(&self, stored: Option<TokenRecord>) -> Option<TokenRecord> {
        // A flight of the slot before holds the memory, and stores what it gets before the next flight.
        let Ok(mut memory) = self.memory.try_lock() else { return stored };
        let generation = |record: &Option<TokenRecord>| record.as_ref().map(|r| r.generation);
        if generation(&stored) >= generation(&memory.known) {
            memory.known = stored;
        }
        memory.known.clone()
    }

    /// What a look, or another slot of this credential, has found since `demand` was made: neither the lease
    /// nor the store is needed for that.
    pub(super) fn known_since(&self, memory: &Memory, demand: Demand) -> Option<TokenRecord> {
        let known = memory.known.as_ref().filter(|known| known.generation > demand.seen)?;
        let is_new_grant = matches!(self.plan(known, false), Plan::Ask { new_seed: Some(_), .. });
        let is_fit = known.dpop_key.is_some() == self.is_bound();
        let is_good = is_usable(known, self.context.clock.now()) && is_fit && !is_new_grant;
        (is_good && !known.is_tombstone()).then(|| known.clone())
    }

    /// Has another process stored something newer than this one knows, or another slot of this credential
    /// something newer than what `served` says? Looks only, and not while a refresh is under way, which
    /// will see for itself.
    pub(in crate::token) async fn look(
        &self,
        served: impl Fn() -> Generation,
    ) -> Option<Result<TokenRecord, Failure>> {
        let mut memory = self.memory.try_lock().ok()?;
        if memory.unsaved.is_some() {
            return None;
        }
        let record = match self.context.store.load(&self.key).await {
            Ok(record) => record?,
            Err(error) => {
                // The rest is said by the next refresh, and not every two seconds.
                if matches!(error, StoreError::Corrupt { .. }) {
                    self.report_store(&error);
                }
                return None;
            }
        };
        if self.is_retired() {
            return None;
        }
        let news = memory.known.as_ref().is_none_or(|known| {
            let ends_alike = match (&record.terminal, &known.terminal) {
                (Some(stored), Some(known)) => stored.is_same_end(known),
                (stored, known) => stored.is_none() && known.is_none(),
            };
            let is_same = record.generation == known.generation;
            // Known, and not served: a slot before this one got it, or a flight was in the way.
            let missed = is_same
                && record.generation > served()
                && is_usable(&record, self.context.clock.now());
            record.generation > known.generation || is_same && !ends_alike || missed
        });
        if !news {
            return None;
        }
        memory.known = Some(record.clone());
        match self.plan(&record, false) {
            Plan::Stop(reason) => {
                self.report_needs_login(reason, record.generation, None);
                let record = Some(Box::new(record));
                Some(Err(Failure { record, ..Failure::needs_login(reason) }))
            }
            Plan::Ask { new_seed: Some(_), .. } => None,
            Plan::Ask { .. } | Plan::Bootstrap | Plan::BootstrapLater(_) => Some(Ok(record)),
        }
    }
}
