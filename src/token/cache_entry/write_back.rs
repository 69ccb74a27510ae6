//! Synchronises the record in memory with the store: compares the two, writes, and retries until a write succeeds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CacheEntry, EntryInner};
use crate::store::{Lease, PutOutcome, StoreError, TokenRecord, Version};
use crate::token::record_order::{RecordOrder, compare_records};
use crate::token::runtime;

/// How often saving a new token is tried, and the pause in between, before the token is served unsaved.
const MAX_TRIES: usize = 3;
const RETRY_DELAY: Duration = Duration::from_millis(300);
/// The interval at which saving is retried in the background.
const WRITE_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// Another process has stored a newer record, which takes precedence.
#[derive(Debug)]
pub(in crate::token) struct Superseded;

impl CacheEntry {
    /// Loads the stored record and reconciles it with the one in memory. Returns true if the stored one is newer.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record cannot be read. A damaged record counts as absent.
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

    /// Compares the record in memory with the stored one and keeps the newer one. Returns true if the stored record had
    /// news.
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
            // With the same tokens, the other fields of the stored record are newer than those in memory.
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

    /// Reloads the record, because another process may have changed it. Returns true if it had.
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

    /// Handles a store that cannot be read. If the store is unavailable, a crash now would lose the record, so it is
    /// reported once and written again as soon as possible.
    fn record_unreadable_store(self: &Arc<Self>, error: &StoreError) {
        let mut inner = self.lock();
        let is_unavailable =
            matches!(error, StoreError::Unavailable(_) | StoreError::Unsafe { .. });
        if inner.has_save_failed || inner.record == TokenRecord::default() || !is_unavailable {
            tracing::debug!(key = self.key, %error, "the token store cannot be read");
            return;
        }
        inner.has_save_failed = true;
        inner.is_unsaved = true;
        drop(inner);
        self.report_store(error);
        self.start_write_back();
    }

    /// Puts a newly issued record into the entry before anything else happens to it. `base` is the record that the token
    /// request was made with.
    ///
    /// # Errors
    ///
    /// [`Superseded`] if the entry has a newer record than `base` by now.
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

    /// Changes fields of the record other than its tokens.
    pub(in crate::token) fn update_record(&self, change: impl FnOnce(&mut TokenRecord)) {
        let mut inner = self.lock();
        let before = inner.record.clone();
        change(&mut inner.record);
        inner.is_unsaved |= inner.record != before;
    }

    /// Saves the record. Gives up after about a second; the token is then served unsaved, and
    /// [`CacheEntry::start_write_back`] continues.
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
                _ => runtime::sleep(RETRY_DELAY).await,
            }
        }
        self.lock().is_saving = false;
    }

    /// Writes the record if the stored one is older. With a lease, writes only while the lease is held.
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
                    // The record may have been changed during the write.
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
                        self.report_superseded(&inner);
                        return Err(WriteError::Superseded);
                    }
                }
            }
        }
        let (key, waited) = (self.key.clone(), crate::store::DEADLINE);
        Err(WriteError::Store(StoreError::Busy { key, waited }))
    }

    /// Writes the record if the stored one is unchanged. Otherwise the stored one takes precedence, and the next reload
    /// reads it.
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

    /// Starts a task that retries writing the record until it is stored or superseded.
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
                        tracing::debug!(key = entry.key, %error, "the record is still unsaved");
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
                runtime::sleep(WRITE_BACK_INTERVAL).await;
            }
            entry.is_writing_back.store(false, Ordering::SeqCst);
            // The record may have been changed since the last check.
            if entry.lock().is_unsaved {
                entry.start_write_back();
            }
        };
        runtime::spawn(&self.context.tasks.writes, &self.context.control, writing);
    }
}

/// Why a record was not stored.
#[derive(Debug)]
pub(in crate::token) enum WriteError {
    /// Another process has stored a newer record.
    Superseded,
    /// The store did not respond in time. The record may be stored now, later or never.
    TimedOut,
    /// The store failed.
    Store(StoreError),
}
