//! What changes in the directory.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::Stat;

use super::{FileStore, Identity};
use crate::store::{Changes, DEADLINE, Expected};

/// How often the directory is looked at: what another process has stored is in use within two seconds.
pub(super) const LOOK: Duration = Duration::from_millis(1500);

/// Compares the directory with what it was, because notifications do not come from other machines. At first
/// everything is new, so that nothing is missed that was written while this began.
pub(super) struct Watch {
    store: FileStore,
    seen: Arc<Mutex<Seen>>,
    /// What was not there, and has been named.
    missing: HashSet<String>,
}

/// The files of records, by their names, and in which round they were seen last.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) files: HashMap<Vec<u8>, (Signature, u64)>,
    /// Of which keys they are: looked up for each key in each round.
    pub(super) keys: HashSet<String>,
    pub(super) round: u64,
    /// The keys of what has changed, until somebody has been told: a look may fail or be given up halfway.
    pub(super) changed: Vec<String>,
}

/// What changes with a file: whose it is, how long, and when it was changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature([i128; 5]);

impl Signature {
    pub(super) fn of(stat: &Stat, directory: Identity) -> Self {
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

impl Watch {
    pub(super) fn over(store: FileStore) -> Self {
        Self { store, seen: Arc::default(), missing: HashSet::new() }
    }
}

impl Changes for Watch {
    fn next<'a>(
        &'a mut self,
        expected: &'a Expected<'a>,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let seen = Arc::clone(&self.seen);
                let looking = self.store.run(move |directory| {
                    directory.compare(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
                });
                match tokio::time::timeout(DEADLINE, looking).await {
                    Ok(Ok(())) => {}
                    // What cannot be looked at is said by whoever uses it.
                    Ok(Err(_)) => {
                        // Whoever has stored something there is told that it is out of reach.
                        let lost = expected(&|_| false).into_iter();
                        let lost: Vec<_> =
                            lost.filter(|key| self.missing.insert(key.clone())).collect();
                        if lost.is_empty() {
                            continue;
                        }
                        return lost;
                    }
                    Err(_) => {
                        // A thread that hangs keeps what it has.
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
                // What was removed is named by both.
                changed.sort();
                changed.dedup();
                if !changed.is_empty() {
                    return changed;
                }
            }
        })
    }
}
