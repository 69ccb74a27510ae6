//! The cache entries of the process, one per record key, and the timer and store watcher for all of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::MissedTickBehavior;

use super::Context;
use super::cache_entry::CacheEntry;
use super::refresh::{self, RefreshRequest};
use super::resolved_config::ResolvedConfig;
use super::runtime::random_jitter;
use crate::clock::Moment;

/// How often the timer runs. It polls instead of scheduling deadlines, because a timer stops while the machine sleeps.
const TIMER_INTERVAL: Duration = Duration::from_secs(1);

/// The cache entries by record key. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TokenCache(Arc<DashMap<String, Weak<CacheEntry>>>);

impl TokenCache {
    /// Returns the entry for the record key of this configuration, and whether it was created.
    pub(super) fn entry_for(
        &self,
        resolved: &Arc<ResolvedConfig>,
        context: &Context,
    ) -> (Arc<CacheEntry>, bool) {
        let mut weak = self.0.entry(resolved.config.key()).or_default();
        if let Some(entry) = weak.upgrade() {
            return (entry, false);
        }
        let entry = CacheEntry::new(Arc::clone(resolved), context.clone(), random_jitter());
        let entry = Arc::new(entry);
        *weak = Arc::downgrade(&entry);
        (entry, true)
    }

    fn get(&self, key: &str) -> Option<Arc<CacheEntry>> {
        self.0.get(key).and_then(|entry| entry.upgrade())
    }

    /// Runs the timer of each entry, and removes entries that are no longer used.
    fn tick(&self, now: Moment) {
        self.0.retain(|_, entry| {
            let Some(entry) = entry.upgrade() else { return false };
            if let Some(seen) = entry.tick(now) {
                refresh::start(&entry, RefreshRequest::replace(seen));
            }
            true
        });
    }

    /// Returns the keys that should be in the store but for which `is_there` returns false.
    fn missing(&self, is_there: &dyn Fn(&str) -> bool) -> Vec<String> {
        let missing = self.0.iter().filter(|entry| !is_there(entry.key()));
        let is_stored = |entry: Arc<CacheEntry>| entry.is_stored().then(|| entry.key.clone());
        missing.filter_map(|entry| entry.upgrade().and_then(is_stored)).collect()
    }

    /// Runs the timer and watches the store for changes by other processes. Never returns.
    pub async fn watch(self, context: Context) {
        let timer = async {
            let mut interval = tokio::time::interval(TIMER_INTERVAL);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                self.tick(context.clock.moment());
            }
        };
        let store_watcher = async {
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
        tokio::join!(timer, store_watcher);
    }
}
