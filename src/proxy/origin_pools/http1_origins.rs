//! Origin servers that want HTTP/1.1.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::origin::Origin;

/// Origin servers that were offered HTTP/2 and want HTTP/1.1. What is known goes with the version of the connector.
#[derive(Default)]
pub(super) struct Http1Origins(Mutex<HashMap<Origin, Http1Origin>>);

struct Http1Origin {
    version: u64,
    /// It agreed on HTTP/2 and then refused a request for that. Otherwise it is offered again.
    for_good: bool,
}

impl Http1Origins {
    /// Does `origin` speak HTTP/1.1, as far as is known?
    pub(super) fn contains(&self, version: u64, origin: &Origin) -> bool {
        self.lock().get(origin).is_some_and(|entry| entry.version == version)
    }

    /// Is nothing else to be offered to it?
    pub(super) fn is_for_good(&self, version: u64, origin: &Origin) -> bool {
        let is = |entry: &Http1Origin| entry.version == version && entry.for_good;
        self.lock().get(origin).is_some_and(is)
    }

    pub(super) fn insert(&self, version: u64, origin: &Origin, for_good: bool) {
        // A connection that was begun before may agree on HTTP/1.1 only now.
        let for_good = for_good || self.is_for_good(version, origin);
        self.lock().insert(origin.clone(), Http1Origin { version, for_good });
    }

    /// Forgets what other versions knew.
    pub(super) fn sweep(&self, version: u64) {
        self.lock().retain(|_, entry| entry.version == version);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Http1Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
