//! Flights: started once, landed once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Slot, random_share};
use crate::crash;
use crate::store::{TerminalReason, TokenRecord};
use crate::token::refresh::{Demand, Failure, Flown};
use crate::token::state::{Outcome, Phase, Spent, upkeep};
use crate::token::{Generation, Token};

impl Slot {
    /// Starts the flight that the state machine has just allowed.
    pub(super) fn start(self: &Arc<Self>, demand: Demand) {
        if demand.rejected
            && let Some(token) = self.current.load().as_ref()
            && token.generation == demand.seen
        {
            token.reject();
        }
        let slot = Arc::clone(self);
        let flight = async move {
            // Lands even if the refresh panics: waiters must not hang on a flight that crashed.
            let mut landing = Landing { slot: Arc::clone(&slot), flown: None };
            let refresher = Arc::clone(&slot.refresher);
            landing.flown = Some(refresher.refresh(demand).await);
        };
        self.context.tasks.spawn_on(flight, &self.context.control);
    }

    fn land(&self, flown: Flown) {
        self.land_quietly(flown.result.map(Some), flown.spent);
        crash::point("after_publish");
        self.announce();
    }

    pub(super) fn announce(&self) {
        self.landed.send_modify(|flights| *flights = flights.wrapping_add(1));
    }

    /// Publishes the token before the state says that the flight is over.
    pub(super) fn land_quietly(&self, result: Result<Option<TokenRecord>, Failure>, spent: Spent) {
        let (record, outcome) = match result {
            Ok(record) => (Some(record), Outcome::Refreshed),
            Err(failure) => {
                if let Some(detail) = failure.detail {
                    *self.last_error() = Some((self.context.clock.now(), detail));
                }
                (failure.record.map(|record| Some(*record)), failure.outcome)
            }
        };
        let mut state = self.lock();
        let generation = record.iter().flatten().map(|record| record.generation).next();
        let outcome = match generation.is_some_and(|generation| state.is_buried(generation)) {
            // It was logged out while this was in the air.
            true => Outcome::NeedsLogin(TerminalReason::LoggedOut),
            false => {
                if let Some(record) = &record {
                    self.publish(record.as_ref());
                }
                outcome
            }
        };
        state.finish(outcome, spent, self.context.clock.moment(), random_share());
    }

    /// Takes over what another process has stored, if this one is doing nothing itself.
    pub(super) fn adopt(&self, found: Result<TokenRecord, Failure>) -> bool {
        let (record, outcome) = match found {
            Ok(record) => (Some(Box::new(record)), Outcome::Refreshed),
            Err(failure) => (failure.record, failure.outcome),
        };
        let found = record.as_ref().filter(|_| outcome == Outcome::Refreshed);
        let found = found.map(|record| record.generation);
        let mut state = self.lock();
        // A flight may have landed with the same while it was looked for.
        let is_news =
            found != Some(self.published()) || matches!(state.phase, Phase::NeedsLogin(_));
        let adopted = is_news && state.adopt(outcome, self.context.clock.moment());
        if adopted {
            found.iter().for_each(|generation| self.refresher.report_adopted(*generation));
            self.publish(record.as_deref());
        }
        drop(state);
        self.announce();
        adopted
    }

    /// The generation of the last record that was published.
    pub(super) fn published(&self) -> Generation {
        Generation(self.published.load(Ordering::Acquire))
    }

    /// A token that is bound to a key is never sent without a proof, nor one that is not with one.
    pub(super) fn publish(&self, record: Option<&TokenRecord>) {
        if let Some(record) = record {
            self.published.store(record.generation.0, Ordering::Release);
        }
        let now = self.context.clock.moment();
        let is_fit = |record: &&TokenRecord| record.dpop_key.is_some() == self.refresher.is_bound();
        let token = record
            .filter(is_fit)
            .and_then(|record| Token::of(record, self.margin, self.jitter, now));
        self.current.store(token.map(Arc::new));
        *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner) =
            record.and_then(|record| upkeep(record, self.keepalive));
    }
}

/// Ends a flight exactly once, whatever happens to it.
struct Landing {
    slot: Arc<Slot>,
    flown: Option<Flown>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let flown = self
            .flown
            .take()
            .unwrap_or_else(|| Flown { result: Err(Failure::crashed()), spent: Spent::default() });
        self.slot.land(flown);
    }
}
