//! All ledgers of the process: one for each key, and one watcher for all of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::MissedTickBehavior;

use super::flight::{self, Demand};
use super::ledger::Ledger;
use super::settled::Settled;
use super::{Context, random_share};
use crate::clock::Moment;

/// How often the time is looked at. A timer that counted down to an expiry instead would miss what a machine
/// slept through.
const LOOK: Duration = Duration::from_secs(1);

/// The ledgers, by the keys of their records. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ledgers(Arc<DashMap<String, Weak<Ledger>>>);

impl Ledgers {
    /// The ledger of a key; a new one has this configuration. Says whether it is new.
    pub(super) fn of(&self, settled: &Arc<Settled>, context: &Context) -> (Arc<Ledger>, bool) {
        let mut place = self.0.entry(settled.config.key()).or_default();
        if let Some(ledger) = place.upgrade() {
            return (ledger, false);
        }
        let ledger = Ledger::new(Arc::clone(settled), context.clone(), random_share());
        let ledger = Arc::new(ledger);
        *place = Arc::downgrade(&ledger);
        (ledger, true)
    }

    fn get(&self, key: &str) -> Option<Arc<Ledger>> {
        self.0.get(key).and_then(|ledger| ledger.upgrade())
    }

    /// Looks at the time for each of them, and forgets those that nobody needs any more.
    fn tick(&self, now: Moment) {
        self.0.retain(|_, ledger| {
            let Some(ledger) = ledger.upgrade() else { return false };
            if let Some(seen) = ledger.tick(now) {
                flight::start(&ledger, Demand::replace(seen));
            }
            true
        });
    }

    /// The keys that should be in the store, and are not for all that `is_there` says.
    fn missing(&self, is_there: &dyn Fn(&str) -> bool) -> Vec<String> {
        let missing = self.0.iter().filter(|place| !is_there(place.key()));
        let is_stored = |ledger: Arc<Ledger>| ledger.is_stored().then(|| ledger.key.clone());
        missing.filter_map(|place| place.upgrade().and_then(is_stored)).collect()
    }

    /// Looks at the time, and at what others have stored, for as long as the runtime lives.
    pub async fn watch(self, context: Context) {
        let looking = async {
            let mut pace = tokio::time::interval(LOOK);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                self.tick(context.clock.moment());
            }
        };
        let adopting = async {
            let mut changes = context.store.changes();
            let missing = |is_there: &dyn Fn(&str) -> bool| self.missing(is_there);
            loop {
                for key in changes.next(&missing).await {
                    if let Some(ledger) = self.get(&key) {
                        ledger.look().await;
                    }
                }
            }
        };
        tokio::join!(looking, adopting);
    }
}
