//! What a slot does by itself: looks into the store, and at the time.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::{Slot, generation_of};
use crate::token::refresh::Demand;
use crate::token::state::Standing;

/// How often. A sibling's new token is in use within two seconds; and a timer that counted down to an
/// expiry instead would miss what a machine slept through.
const PAUSE: Duration = Duration::from_millis(1500);

/// Watches for as long as the slot lives.
pub(super) async fn watch(slot: Weak<Slot>) {
    loop {
        {
            let Some(slot) = slot.upgrade() else { return };
            slot.look_at_the_time();
        }
        tokio::time::sleep(PAUSE).await;
        let Some(slot) = slot.upgrade() else { return };
        slot.look_into_the_store().await;
    }
}

impl Slot {
    /// Takes over what another process has stored. Says whether there was something.
    async fn look_into_the_store(&self) -> bool {
        if !self.context.store.is_shared() {
            return false;
        }
        match self.refresher.look(|| self.published()).await {
            Some(found) => self.adopt(found),
            None => false,
        }
    }

    /// The same on the control runtime, where the store is at home.
    pub(super) async fn look_again(self: &Arc<Self>) -> bool {
        let slot = Arc::clone(self);
        let looking = self.context.control.spawn(async move { slot.look_into_the_store().await });
        looking.await.unwrap_or(false)
    }

    fn look_at_the_time(self: &Arc<Self>) {
        if self.refresher.is_retired() {
            return;
        }
        let now = self.context.clock.moment();
        let (tick, token) = self.decide(|state, token| {
            let upkeep = *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
            state.tick(Standing { token, upkeep }, now)
        });
        if tick.overdue {
            self.refresher.report_overdue();
        }
        if tick.start {
            let usable = token.as_ref().is_some_and(|token| token.is_usable(now));
            self.start(Demand::replace(generation_of(token.as_deref()), usable));
        }
    }
}
