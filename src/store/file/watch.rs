//! Detects changes in the directory by polling.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::Stat;

use super::{FileId, FileStore};
use crate::store::{DEADLINE, ExpectedKeys, StoreChanges};

/// The polling interval. What another process stores is in use within two seconds.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(1500);

/// Polls the directory, because file notifications do not arrive from other machines. At first all
/// files count as changed, so that no write during the start is missed.
pub(super) struct DirectoryWatcher {
    store: FileStore,
    seen: Arc<Mutex<DirectorySnapshot>>,
    /// Missing keys that were already reported.
    missing: HashSet<String>,
}

/// The record files by name, with the polling round in which each was last seen.
#[derive(Default)]
pub(super) struct DirectorySnapshot {
    pub(super) files: HashMap<Vec<u8>, (Signature, u64)>,
    /// The keys of these files, for fast lookup.
    pub(super) keys: HashSet<String>,
    pub(super) round: u64,
    /// Changed keys, kept until they are reported, because a poll may fail or be dropped halfway.
    pub(super) changed: Vec<String>,
}

/// The attributes that change with a file: identity, length and times.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature([i128; 5]);

impl Signature {
    pub(super) fn of(stat: &Stat, directory: FileId) -> Self {
        let time = |seconds: i64, nanoseconds: i128| i128::from(seconds) << 32 | nanoseconds;
        Self([
            i128::from(directory.1),
            i128::from(stat.st_ino),
            i128::from(stat.st_size),
            time(stat.st_mtime, stat.st_mtime_nsec.into()),
            time(stat.st_ctime, stat.st_ctime_nsec.into()),
        ])
    }
}

impl DirectoryWatcher {
    pub(super) fn new(store: FileStore) -> Self {
        Self { store, seen: Arc::default(), missing: HashSet::new() }
    }
}

impl StoreChanges for DirectoryWatcher {
    fn next<'a>(
        &'a mut self,
        expected: &'a ExpectedKeys<'a>,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(POLL_INTERVAL).await;
                let seen = Arc::clone(&self.seen);
                let looking = self.store.run(move |directory| {
                    directory.update(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
                });
                match tokio::time::timeout(DEADLINE, looking).await {
                    Ok(Ok(())) => {}
                    // The error is reported by the calls that use the directory.
                    Ok(Err(_)) => {
                        // Owners of expected records learn that these are unreachable.
                        let lost = expected(&|_| false).into_iter();
                        let lost: Vec<_> =
                            lost.filter(|key| self.missing.insert(key.clone())).collect();
                        if lost.is_empty() {
                            continue;
                        }
                        return lost;
                    }
                    Err(_) => {
                        // A hung thread keeps the old state locked.
                        self.seen = Arc::default();
                        continue;
                    }
                }
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                self.missing.retain(|key| !seen.keys.contains(key));
                let gone = expected(&|key| seen.keys.contains(key));
                let mut changed = std::mem::take(&mut seen.changed);
                changed.extend(gone.into_iter().filter(|key| self.missing.insert(key.clone())));
                drop(seen);
                // Removed keys are in both lists.
                changed.sort();
                changed.dedup();
                if !changed.is_empty() {
                    return changed;
                }
            }
        })
    }
}
