//! What is known beside what is stored: compared, noted, written, and written again until it is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CacheEntry, EntryInner};
use crate::store::{Lease, PutOutcome, StoreError, TokenRecord, Version};
use crate::token::record_order::{RecordOrder, compare_records};

/// Attempts to save what a server issued, and the wait between them, before it is served from memory.
const MAX_TRIES: usize = 3;
const RETRY_DELAY: Duration = Duration::from_millis(300);
/// How often saving is tried again in the background.
const WRITE_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// Somebody else has changed the record meanwhile: theirs counts.
#[derive(Debug)]
pub(in crate::token) struct Superseded;

impl CacheEntry {
    /// Compares what is known with what is stored. Says whether there was something new in the store.
    ///
    /// # Errors
    ///
    /// It cannot be read; a damaged record counts as none.
    pub(in crate::token) async fn sync_with_store(&self) -> Result<bool, StoreError> {
        let _writing = self.writing.lock().await;
        let loaded = match self.load().await {
            Err(StoreError::Corrupt { .. }) => {
                let mut inner = self.lock();
                inner.is_damaged |= inner.record == TokenRecord::default();
                None
            }
            loaded => loaded?,
        };
        Ok(self.reconcile(&mut self.lock(), loaded))
    }

    pub(super) async fn load(&self) -> Result<Option<(TokenRecord, Version)>, StoreError> {
        let loaded = self.context.store.load(&self.key).await;
        loaded.inspect_err(|error| self.report_store(error))
    }

    /// Compares what is known with what is stored, and takes over what counts. Says whether there was something
    /// new in the store.
    pub(super) fn reconcile(
        &self,
        inner: &mut EntryInner,
        stored: Option<(TokenRecord, Version)>,
    ) -> bool {
        let (stored, version) = match stored {
            Some((stored, version)) => (Some(stored), version),
            None => (None, Version::ABSENT),
        };
        inner.version = version;
        match (compare_records(&inner.record, stored.as_ref()), stored) {
            (RecordOrder::OursNewer, stored) => {
                if !inner.is_unsaved {
                    self.report_store_went_back(inner, stored.as_ref());
                }
                inner.is_unsaved = true;
                false
            }
            // What others have noted beside the same tokens is newer than what was read here once.
            (RecordOrder::Same, Some(stored)) if !inner.is_unsaved => {
                let has_news = stored.terminal != inner.record.terminal
                    || stored.rejected != inner.record.rejected;
                inner.record = stored;
                has_news
            }
            (RecordOrder::Same, _) => false,
            (RecordOrder::StoredNewer, stored) => {
                inner.take_over(stored.unwrap_or_default(), version);
                true
            }
        }
    }

    /// Looks into the store, for what another process has done there. Says whether there was something.
    pub(in crate::token) async fn reload(self: &Arc<Self>) -> bool {
        let _writing = self.writing.lock().await;
        let stored = match self.context.store.load(&self.key).await {
            Ok(stored) => stored,
            Err(error @ StoreError::Corrupt { .. }) => {
                self.report_store(&error);
                None
            }
            Err(error) => {
                self.record_unreadable_store(&error);
                return false;
            }
        };
        let mut inner = self.lock();
        let has_news = self.reconcile(&mut inner, stored);
        let is_unsaved = inner.is_unsaved;
        if has_news {
            self.publish(&mut inner);
            if !inner.state.is_in_flight() {
                inner.state.clear_failures();
            }
            match inner.state.terminal() {
                Some(reason) => self.report_needs_login(&inner, reason, None),
                None => self.report_adopted(&inner),
            }
        }
        drop(inner);
        if is_unsaved {
            self.start_write_back();
        }
        if has_news {
            self.notify_waiters();
        }
        has_news
    }

    /// What is stored is out of reach: a crash now would lose what is known. It is said once, and written back when
    /// that can be done.
    fn record_unreadable_store(self: &Arc<Self>, error: &StoreError) {
        let mut inner = self.lock();
        let is_lost = matches!(error, StoreError::Unavailable(_) | StoreError::Unsafe { .. });
        if inner.has_save_failed || inner.record == TokenRecord::default() || !is_lost {
            tracing::debug!(key = self.key, %error, "the token store cannot be looked at");
            return;
        }
        inner.has_save_failed = true;
        inner.is_unsaved = true;
        drop(inner);
        self.report_store(error);
        self.start_write_back();
    }

    /// Notes what a server issued, before anything else can happen to it. `base` is the record that it was asked
    /// for with.
    pub(in crate::token) fn record_issued(
        &self,
        base: &TokenRecord,
        record: TokenRecord,
    ) -> Result<(), Superseded> {
        let mut inner = self.lock();
        if compare_records(base, Some(&inner.record)) == RecordOrder::StoredNewer {
            return Err(Superseded);
        }
        if inner.record.history.len() < record.history.len() && !self.context.store.is_durable() {
            self.report_volatile(&inner);
        }
        inner.record = record;
        inner.is_unsaved = true;
        inner.is_saving = true;
        inner.is_damaged = false;
        Ok(())
    }

    /// StoreChanges what is noted beside the tokens.
    pub(in crate::token) fn update_record(&self, change: impl FnOnce(&mut TokenRecord)) {
        let mut inner = self.lock();
        let before = inner.record.clone();
        change(&mut inner.record);
        inner.is_unsaved |= inner.record != before;
    }

    /// Saves what is known, for at most about a second; after that it is served from memory, and saved by
    /// [`CacheEntry::start_write_back`].
    pub(in crate::token) async fn save(self: &Arc<Self>) {
        for attempt in 1..=MAX_TRIES {
            match self.write(None).await {
                Ok(()) | Err(WriteError::Superseded) => break,
                Err(WriteError::TimedOut) => {
                    self.report_unsaved();
                    break;
                }
                Err(WriteError::Store(error)) => self.report_store(&error),
            }
            match attempt {
                MAX_TRIES => self.report_unsaved(),
                _ => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
        self.lock().is_saving = false;
    }

    /// Writes what is known, over what is stored if that is older. With a lease only while that is held.
    pub(in crate::token) async fn write(&self, lease: Option<&Lease>) -> Result<(), WriteError> {
        let _writing = self.writing.lock().await;
        for _ in 0..3 {
            let (record, version) = {
                let inner = self.lock();
                (inner.record.clone(), inner.version)
            };
            let put = self.context.store.put(&self.key, version, lease, &record).await;
            match put.map_err(WriteError::Store)? {
                PutOutcome::Stored(version) => {
                    let mut inner = self.lock();
                    inner.version = version;
                    // Whatever was noted meanwhile is written next.
                    inner.is_unsaved = inner.record != record;
                    inner.has_save_failed &= inner.is_unsaved;
                    return Ok(());
                }
                PutOutcome::Unknown => {
                    self.metrics.record_store_error("store_timeout");
                    return Err(WriteError::TimedOut);
                }
                PutOutcome::Conflict => {
                    let stored = match self.context.store.load(&self.key).await {
                        Err(StoreError::Corrupt { .. }) => None,
                        stored => stored.map_err(WriteError::Store)?,
                    };
                    let mut inner = self.lock();
                    if self.reconcile(&mut inner, stored)
                        && compare_records(&record, Some(&inner.record)) == RecordOrder::StoredNewer
                    {
                        self.report_overtaken(&inner);
                        return Err(WriteError::Superseded);
                    }
                }
            }
        }
        let (key, waited) = (self.key.clone(), crate::store::DEADLINE);
        Err(WriteError::Store(StoreError::Busy { key, waited }))
    }

    /// Writes what is known where the store is still as it was read. Otherwise what is there counts, beside the same
    /// tokens, and is read by whoever looks next.
    pub(in crate::token) async fn write_if_unchanged(&self) {
        let (record, version) = {
            let inner = self.lock();
            (inner.record.clone(), inner.version)
        };
        let put = self.context.store.put(&self.key, version, None, &record).await;
        let mut inner = self.lock();
        if let Ok(PutOutcome::Stored(version)) = put {
            inner.version = version;
        }
        inner.is_unsaved = inner.record != record;
    }

    /// Writes what is unsaved until it is stored, or overtaken.
    pub(in crate::token) fn start_write_back(self: &Arc<Self>) {
        if self.is_writing_back.swap(true, Ordering::SeqCst) {
            return;
        }
        let entry = Arc::clone(self);
        let writing = async move {
            loop {
                if !entry.lock().is_unsaved {
                    break;
                }
                match entry.write(None).await {
                    Ok(()) => entry.report_saved(true),
                    Err(WriteError::Superseded) => entry.report_saved(false),
                    Err(WriteError::TimedOut) => entry.lock().has_save_failed = true,
                    Err(WriteError::Store(error)) => {
                        tracing::debug!(key = entry.key, %error, "still not saved");
                        entry.lock().has_save_failed = true;
                    }
                }
                {
                    let mut inner = entry.lock();
                    if !inner.is_unsaved {
                        inner.lease = None;
                        entry.publish(&mut inner);
                        break;
                    }
                }
                tokio::time::sleep(WRITE_BACK_INTERVAL).await;
            }
            entry.is_writing_back.store(false, Ordering::SeqCst);
            // What was noted in between is not forgotten.
            if entry.lock().is_unsaved {
                entry.start_write_back();
            }
        };
        self.context.tasks.writes.spawn_on(writing, &self.context.control);
    }
}

/// Why something is not stored.
#[derive(Debug)]
pub(in crate::token) enum WriteError {
    /// Somebody else has stored what counts now.
    Superseded,
    /// The store has not answered: it may be stored now, later, or never.
    TimedOut,
    /// The store could not.
    Store(StoreError),
}
