//! All ledgers of the process: one for each key, and one watcher for all of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::MissedTickBehavior;

use super::flight::{self, Demand};
use super::ledger::{Ledger, Settled};
use super::{Context, random_share};

/// How often the time is looked at. A timer that counted down to an expiry instead would miss what a machine
/// slept through.
const LOOK: Duration = Duration::from_secs(1);

/// The ledgers, by the keys of their records. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ledgers(Arc<DashMap<String, Weak<Ledger>>>);

impl Ledgers {
    /// The ledger of a key; a new one has this configuration. Says whether it is new.
    pub(super) fn of(&self, settled: &Arc<Settled>, context: &Context) -> (Arc<Ledger>, bool) {
        self.0.retain(|_, ledger| ledger.strong_count() > 0);
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

    fn all(&self) -> Vec<Arc<Ledger>> {
        self.0.iter().filter_map(|ledger| ledger.upgrade()).collect()
    }

    /// Looks at the time, and at what others have stored, for as long as the runtime lives.
    pub async fn watch(self, context: Context) {
        let looking = async {
            let mut pace = tokio::time::interval(LOOK);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let now = context.clock.moment();
                for ledger in self.all() {
                    if let Some(seen) = ledger.tick(now) {
                        flight::start(&ledger, Demand::replace(seen));
                    }
                }
            }
        };
        let adopting = async {
            let mut changes = context.store.changes();
            let missing = |is_there: &dyn Fn(&str) -> bool| {
                let all = self.all().into_iter();
                let missing = all.filter(|it| !is_there(&it.key) && it.is_stored());
                missing.map(|ledger| ledger.key.clone()).collect()
            };
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
