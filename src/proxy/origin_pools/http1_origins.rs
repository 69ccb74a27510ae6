//! Origin servers that are known to speak HTTP/1.1 only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::origin::Origin;

/// Origin servers that chose HTTP/1.1 although HTTP/2 was offered. Entries are valid for one version of
/// the configuration, because another one may lead to another result.
#[derive(Default)]
pub(super) struct Http1Origins(Mutex<HashMap<Origin, Http1Origin>>);

struct Http1Origin {
    config_version: u64,
    /// The origin server agreed on HTTP/2 and then refused a request over it. If false, HTTP/2 is
    /// offered again on the next connection.
    is_permanent: bool,
}

impl Http1Origins {
    /// Returns true if `origin` is known to speak HTTP/1.1.
    pub(super) fn contains(&self, config_version: u64, origin: &Origin) -> bool {
        self.lock().get(origin).is_some_and(|entry| entry.config_version == config_version)
    }

    /// Returns true if HTTP/2 must not be offered to `origin` again.
    pub(super) fn is_permanent(&self, config_version: u64, origin: &Origin) -> bool {
        let is_permanent =
            |entry: &Http1Origin| entry.config_version == config_version && entry.is_permanent;
        self.lock().get(origin).is_some_and(is_permanent)
    }

    pub(super) fn insert(&self, config_version: u64, origin: &Origin, is_permanent: bool) {
        // A connection attempt that began before the refusal may end after it.
        let is_permanent = is_permanent || self.is_permanent(config_version, origin);
        self.lock().insert(origin.clone(), Http1Origin { config_version, is_permanent });
    }

    /// Removes the entries of other versions.
    pub(super) fn sweep(&self, config_version: u64) {
        self.lock().retain(|_, entry| entry.config_version == config_version);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Http1Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
