//! What is known beside what is stored: compared, noted, written, and written again until it is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Known, Ledger};
use crate::store::{Lease, PutOutcome, StoreError, TokenRecord, Version};
use crate::token::order::{Order, order};

/// Attempts to save what a server issued, and the wait between them, before it is served from memory.
const TRIES: usize = 3;
const TRY_AGAIN: Duration = Duration::from_millis(300);
/// How often saving is tried again in the background.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Somebody else has changed the record meanwhile: theirs counts.
#[derive(Debug)]
pub(in crate::token) struct Overtaken;

impl Ledger {
    /// Compares what is known with what is stored. Says whether there was something new in the store.
    ///
    /// # Errors
    ///
    /// It cannot be read; a damaged record counts as none.
    pub(in crate::token) async fn synchronise(&self) -> Result<bool, StoreError> {
        let _writing = self.writing.lock().await;
        let loaded = match self.load().await {
            Err(StoreError::Corrupt { .. }) => {
                let mut known = self.lock();
                known.damaged |= known.record == TokenRecord::default();
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
        known: &mut Known,
        stored: Option<(TokenRecord, Version)>,
    ) -> bool {
        let (stored, version) = match stored {
            Some((stored, version)) => (Some(stored), version),
            None => (None, Version::ABSENT),
        };
        known.version = version;
        match (order(&known.record, stored.as_ref()), stored) {
            (Order::Ours, stored) => {
                if !known.unsaved {
                    self.report_went_back(known, stored.as_ref());
                }
                known.unsaved = true;
                false
            }
            // What others have noted beside the same tokens is newer than what was read here once.
            (Order::Same, Some(stored)) if !known.unsaved => {
                let is_news = stored.terminal != known.record.terminal
                    || stored.rejected != known.record.rejected;
                known.record = stored;
                is_news
            }
            (Order::Same, _) => false,
            (Order::Theirs, stored) => {
                known.take_over(stored.unwrap_or_default(), version);
                true
            }
        }
    }

    /// Looks into the store, for what another process has done there. Says whether there was something.
    pub(in crate::token) async fn look(self: &Arc<Self>) -> bool {
        let _writing = self.writing.lock().await;
        let stored = match self.context.store.load(&self.key).await {
            Ok(stored) => stored,
            Err(error @ StoreError::Corrupt { .. }) => {
                self.report_store(&error);
                None
            }
            Err(error) => {
                self.cannot_look(&error);
                return false;
            }
        };
        let mut known = self.lock();
        let is_news = self.reconcile(&mut known, stored);
        let unsaved = known.unsaved;
        if is_news {
            self.publish(&mut known);
            if !known.state.in_flight() {
                known.state.succeed();
            }
            match known.state.end() {
                Some(reason) => self.report_needs_login(&known, reason, None),
                None => self.report_adopted(&known),
            }
        }
        drop(known);
        if unsaved {
            self.write_back();
        }
        if is_news {
            self.announce();
        }
        is_news
    }

    /// What is stored is out of reach: a crash now would lose what is known. It is said once, and written back when
    /// that can be done.
    fn cannot_look(self: &Arc<Self>, error: &StoreError) {
        let mut known = self.lock();
        let is_lost = matches!(error, StoreError::Unavailable(_) | StoreError::Unsafe { .. });
        if known.is_at_risk || known.record == TokenRecord::default() || !is_lost {
            tracing::debug!(key = self.key, %error, "the token store cannot be looked at");
            return;
        }
        known.is_at_risk = true;
        known.unsaved = true;
        drop(known);
        self.report_store(error);
        self.write_back();
    }

    /// Notes what a server issued, before anything else can happen to it. `base` is the record that it was asked
    /// for with.
    pub(in crate::token) fn keep(
        &self,
        base: &TokenRecord,
        record: TokenRecord,
    ) -> Result<(), Overtaken> {
        let mut known = self.lock();
        if order(base, Some(&known.record)) == Order::Theirs {
            return Err(Overtaken);
        }
        if known.record.history.len() < record.history.len() && !self.context.store.is_durable() {
            self.report_volatile(&known);
        }
        known.record = record;
        known.unsaved = true;
        known.saving = true;
        known.damaged = false;
        Ok(())
    }

    /// Changes what is noted beside the tokens.
    pub(in crate::token) fn note(&self, change: impl FnOnce(&mut TokenRecord)) {
        let mut known = self.lock();
        let before = known.record.clone();
        change(&mut known.record);
        known.unsaved |= known.record != before;
    }

    /// Saves what is known, for at most about a second; after that it is served from memory, and saved by
    /// [`Ledger::write_back`].
    pub(in crate::token) async fn save(self: &Arc<Self>) {
        for attempt in 1..=TRIES {
            match self.write(None).await {
                Ok(()) | Err(Unwritten::Overtaken) => break,
                Err(Unwritten::Hanging) => {
                    self.report_unsaved();
                    break;
                }
                Err(Unwritten::Store(error)) => self.report_store(&error),
            }
            match attempt {
                TRIES => self.report_unsaved(),
                _ => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
        self.lock().saving = false;
    }

    /// Writes what is known, over what is stored if that is older. With a lease only while that is held.
    pub(in crate::token) async fn write(&self, lease: Option<&Lease>) -> Result<(), Unwritten> {
        let _writing = self.writing.lock().await;
        for _ in 0..3 {
            let (record, version) = {
                let known = self.lock();
                (known.record.clone(), known.version)
            };
            let put = self.context.store.put(&self.key, version, lease, &record).await;
            match put.map_err(Unwritten::Store)? {
                PutOutcome::Stored(version) => {
                    let mut known = self.lock();
                    known.version = version;
                    // Whatever was noted meanwhile is written next.
                    known.unsaved = known.record != record;
                    known.is_at_risk &= known.unsaved;
                    return Ok(());
                }
                PutOutcome::Unknown => {
                    self.metrics.record_store_error("store_timeout");
                    return Err(Unwritten::Hanging);
                }
                PutOutcome::Conflict => {
                    let stored = match self.context.store.load(&self.key).await {
                        Err(StoreError::Corrupt { .. }) => None,
                        stored => stored.map_err(Unwritten::Store)?,
                    };
                    let mut known = self.lock();
                    if self.reconcile(&mut known, stored)
                        && order(&record, Some(&known.record)) == Order::Theirs
                    {
                        self.report_overtaken(&known);
                        return Err(Unwritten::Overtaken);
                    }
                }
            }
        }
        let (key, waited) = (self.key.clone(), crate::store::DEADLINE);
        Err(Unwritten::Store(StoreError::Busy { key, waited }))
    }

    /// Writes what is known where the store is still as it was read. Otherwise what is there counts, beside the same
    /// tokens, and is read by whoever looks next.
    pub(in crate::token) async fn write_unless_changed(&self) {
        let (record, version) = {
            let known = self.lock();
            (known.record.clone(), known.version)
        };
        let put = self.context.store.put(&self.key, version, None, &record).await;
        let mut known = self.lock();
        if let Ok(PutOutcome::Stored(version)) = put {
            known.version = version;
        }
        known.unsaved = known.record != record;
    }

    /// Writes what is unsaved until it is stored, or overtaken.
    pub(in crate::token) fn write_back(self: &Arc<Self>) {
        if self.is_writing_back.swap(true, Ordering::SeqCst) {
            return;
        }
        let ledger = Arc::clone(self);
        let writing = async move {
            loop {
                if !ledger.lock().unsaved {
                    break;
                }
                match ledger.write(None).await {
                    Ok(()) => ledger.report_saved(true),
                    Err(Unwritten::Overtaken) => ledger.report_saved(false),
                    Err(Unwritten::Hanging) => ledger.lock().is_at_risk = true,
                    Err(Unwritten::Store(error)) => {
                        tracing::debug!(key = ledger.key, %error, "still not saved");
                        ledger.lock().is_at_risk = true;
                    }
                }
                {
                    let mut known = ledger.lock();
                    if !known.unsaved {
                        known.lease = None;
                        ledger.publish(&mut known);
                        break;
                    }
                }
                tokio::time::sleep(WRITE_AGAIN).await;
            }
            ledger.is_writing_back.store(false, Ordering::SeqCst);
            // What was noted in between is not forgotten.
            if ledger.lock().unsaved {
                ledger.write_back();
            }
        };
        self.context.tasks.writes.spawn_on(writing, &self.context.control);
    }
}

/// Why something is not stored.
#[derive(Debug)]
pub(in crate::token) enum Unwritten {
    /// Somebody else has stored what counts now.
    Overtaken,
    /// The store has not answered: it may be stored now, later, or never.
    Hanging,
    /// The store could not.
    Store(StoreError),
}
