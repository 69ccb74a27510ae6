//! All ledgers of the process: one for each key, and one watcher for all of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::MissedTickBehavior;

use super::Context;
use super::cache_entry::CacheEntry;
use super::context::random_jitter;
use super::refresh::{self, RefreshRequest};
use super::resolved_config::ResolvedConfig;
use crate::clock::Moment;

/// How often the time is looked at. A timer that counted down to an expiry instead would miss what a machine
/// slept through.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The ledgers, by the keys of their records. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TokenCache(Arc<DashMap<String, Weak<CacheEntry>>>);

impl TokenCache {
    /// The ledger of a key; a new one has this configuration. Says whether it is new.
    pub(super) fn of(
        &self,
        resolved: &Arc<ResolvedConfig>,
        context: &Context,
    ) -> (Arc<CacheEntry>, bool) {
        let mut place = self.0.entry(resolved.config.key()).or_default();
        if let Some(entry) = place.upgrade() {
            return (entry, false);
        }
        let entry = CacheEntry::new(Arc::clone(resolved), context.clone(), random_jitter());
        let entry = Arc::new(entry);
        *place = Arc::downgrade(&entry);
        (entry, true)
    }

    fn get(&self, key: &str) -> Option<Arc<CacheEntry>> {
        self.0.get(key).and_then(|entry| entry.upgrade())
    }

    /// Looks at the time for each of them, and forgets those that nobody needs any more.
    fn tick(&self, now: Moment) {
        self.0.retain(|_, entry| {
            let Some(entry) = entry.upgrade() else { return false };
            if let Some(seen) = entry.tick(now) {
                refresh::start(&entry, RefreshRequest::replace(seen));
            }
            true
        });
    }

    /// The keys that should be in the store, and are not for all that `is_there` says.
    fn missing(&self, is_there: &dyn Fn(&str) -> bool) -> Vec<String> {
        let missing = self.0.iter().filter(|place| !is_there(place.key()));
        let is_stored = |entry: Arc<CacheEntry>| entry.is_stored().then(|| entry.key.clone());
        missing.filter_map(|place| place.upgrade().and_then(is_stored)).collect()
    }

    /// Looks at the time, and at what others have stored, for as long as the runtime lives.
    pub async fn watch(self, context: Context) {
        let looking = async {
            let mut pace = tokio::time::interval(PROBE_INTERVAL);
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
                    if let Some(entry) = self.get(&key) {
                        entry.reload().await;
                    }
                }
            }
        };
        tokio::join!(looking, adopting);
    }
}
