//! The lease and the record, from the moment the lease is taken until the record is safe.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::state::Backoff;
use super::plan::is_usable;
use super::{Failure, Refresher};
use crate::secret::Fingerprint;
use crate::store::{Commit, Generation, Lease, StoreError, TerminalReason, TokenRecord};

/// Attempts to commit, and the wait between them, before the record is served from memory.
const COMMIT_TRIES: usize = 3;
const COMMIT_PAUSE: Duration = Duration::from_millis(300);
/// How often a commit that failed is tried again in the background.
const REWRITE_PAUSE: Duration = Duration::from_secs(1);

/// What this process knows beyond the store.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last record read or written: it heals a damaged file.
    pub(super) known: Option<TokenRecord>,
    /// `known` is not on stable storage yet.
    pub(super) unsaved: Option<Unsaved>,
    /// The stored record was found damaged, and `known` is no help.
    pub(super) damaged: bool,
    /// Doubtful answers in a row.
    pub(super) doubts: u32,
    /// The server refused with so much left of the access token's life.
    pub(super) refused_early: Option<Duration>,
    /// The configuration that both are about.
    config: Option<Fingerprint>,
}

impl Memory {
    /// What was learned about requests of another shape says nothing about those to come.
    pub(super) fn serve(&mut self, config: &Fingerprint) {
        if self.config.as_ref() != Some(config) {
            self.config = Some(config.clone());
            self.doubts = 0;
            self.refused_early = None;
        }
    }
}

/// The right to write a record that could not be written.
#[derive(Debug)]
pub(super) struct Unsaved {
    pub(super) lease: Lease,
    pub(super) stored: Generation,
}

/// One refresh under way: the lease, and the record as it develops.
pub(super) struct Session {
    pub(super) lease: Lease,
    /// The generation in the store, which a commit has to name.
    pub(super) stored: Generation,
    pub(super) record: TokenRecord,
    /// `record` is newer than the store.
    pub(super) ahead: bool,
    /// The stored record was damaged, and nothing else is known of it.
    pub(super) damaged: bool,
    /// Another process had refreshed already.
    pub(super) adopted: bool,
    /// HTTP requests that were made.
    pub(super) requests: u32,
}

impl Session {
    fn new(lease: Lease, stored: Generation, record: TokenRecord) -> Self {
        Self { lease, stored, record, ahead: false, damaged: false, adopted: false, requests: 0 }
    }
}

impl Refresher {
    /// Takes the lease and the newest record: the one in memory while it waits to be written, or
    /// else the stored one.
    pub(super) async fn open(&self, memory: &mut Memory) -> Result<Session, Failure> {
        if let (Some(unsaved), Some(record)) = (memory.unsaved.take(), memory.known.clone()) {
            let Unsaved { lease, stored } = unsaved;
            return Ok(Session { ahead: true, ..Session::new(lease, stored, record) });
        }
        let store = &self.context.store;
        let lease = store.lease(&self.key, self.lease_wait).await.map_err(|error| {
            self.report_store(&error);
            Failure::of_store(&error)
        })?;
        match store.load(&self.key).await {
            Ok(Some(record)) => Ok(self.newest(lease, record, memory)),
            // Never there, or moved aside: a process that still holds the record writes it back.
            Ok(None) => Ok(rebuild(lease, memory)),
            Err(error) => {
                self.report_store(&error);
                if !matches!(error, StoreError::Corrupt { .. }) {
                    return Err(Failure::of_store(&error));
                }
                memory.damaged = true;
                Ok(rebuild(lease, memory))
            }
        }
    }

    /// The stored record, unless this process knows a newer one: then a backup was put back, and the
    /// refresh token in it is superseded.
    fn newest(&self, lease: Lease, stored: TokenRecord, memory: &mut Memory) -> Session {
        let generation = stored.generation;
        match memory.known.take() {
            Some(known) if outlives(&known, &stored) => {
                self.report_went_back(generation, known.generation);
                Session { ahead: true, ..Session::new(lease, generation, known) }
            }
            _ => Session { damaged: memory.damaged, ..Session::new(lease, generation, stored) },
        }
    }

    /// Commits, for at most a second; after that the record is served from memory.
    pub(super) async fn save(&self, session: &mut Session) -> Result<(), Failure> {
        session.ahead = true;
        for attempt in 1..=COMMIT_TRIES {
            match self.commit(session).await {
                Ok(Commit::Stored) => return Ok(()),
                Ok(Commit::Conflict) => {
                    let ours = session.record.clone();
                    let overtaken = self.overtaken(session).await;
                    if session.record.is_tombstone() {
                        self.revoke(&ours).await;
                    }
                    return overtaken;
                }
                Err(error) => self.report_store(&error),
            }
            if attempt < COMMIT_TRIES {
                tokio::time::sleep(COMMIT_PAUSE).await;
            }
        }
        tracing::error!(
            credential = self.name,
            generation = session.record.generation.0,
            "the new token is in use but would be lost by a crash; saving it is tried until it works"
        );
        Ok(())
    }

    pub(super) async fn commit(&self, session: &mut Session) -> Result<Commit, StoreError> {
        let Session { lease, stored, record, .. } = session;
        let result = self.write(lease, stored, record).await?;
        if result == Commit::Stored {
            session.stored = session.record.generation;
            session.ahead = false;
        }
        Ok(result)
    }

    /// Commits over the generation that should be stored, or over an older one: then a backup was put
    /// back since, and the refresh token in it is superseded.
    async fn write(
        &self,
        lease: &Lease,
        stored: &mut Generation,
        record: &TokenRecord,
    ) -> Result<Commit, StoreError> {
        let store = &self.context.store;
        let result = store.commit(lease, *stored, record).await?;
        if result == Commit::Conflict
            && let Ok(Some(backup)) = store.load(&self.key).await
            && outlives(record, &backup)
        {
            self.report_went_back(backup.generation, record.generation);
            *stored = backup.generation;
            return store.commit(lease, *stored, record).await;
        }
        Ok(result)
    }

    /// Somebody wrote past the lease (a logout, a login): theirs counts, not ours.
    pub(super) async fn overtaken(&self, session: &mut Session) -> Result<(), Failure> {
        tracing::warn!(credential = self.name, "the record was changed by someone else meanwhile");
        let record = self.context.store.load(&self.key).await.map_err(|error| {
            self.report_store(&error);
            Failure::of_store(&error)
        })?;
        session.ahead = false;
        session.record = record.unwrap_or_default();
        session.stored = session.record.generation;
        if session.record.is_tombstone() {
            let record = Some(Box::new(session.record.clone()));
            return Err(Failure { record, ..Failure::needs_login(TerminalReason::LoggedOut) });
        }
        self.still_in_charge()?;
        match is_usable(&session.record, self.context.clock.now()) {
            true => Ok(()),
            false => Err(Failure::failed(Backoff::Short, None, "store_conflict")),
        }
    }

    /// Tries to write an unsaved record until it is written, by this task or by a later refresh.
    pub(super) async fn rewrite(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REWRITE_PAUSE).await;
            let mut memory = self.memory.lock().await;
            let Memory { unsaved: Some(unsaved), known: Some(record), .. } = &mut *memory else {
                return;
            };
            match self.write(&unsaved.lease, &mut unsaved.stored, record).await {
                Ok(commit) => {
                    tracing::warn!(
                        credential = self.name,
                        generation = record.generation.0,
                        stored = commit == Commit::Stored,
                        "the token that could not be saved is saved now, or was overtaken"
                    );
                    if commit == Commit::Conflict {
                        // What overtook it counts from now on.
                        memory.known = None;
                    }
                    memory.unsaved = None;
                    self.unsaved.store(false, Ordering::Relaxed);
                    return;
                }
                Err(error) => tracing::debug!(credential = self.name, %error, "still not saved"),
            }
        }
    }
}

/// Starts from what this process remembers, where the store has nothing.
fn rebuild(lease: Lease, memory: &mut Memory) -> Session {
    let stored = Generation::NONE;
    let damaged = memory.damaged;
    match memory.known.take() {
        Some(record) => Session { ahead: true, ..Session::new(lease, stored, record) },
        None => Session { damaged, ..Session::new(lease, stored, TokenRecord::default()) },
    }
}

/// Is `known` what counts, although `stored` is what is stored?
fn outlives(known: &TokenRecord, stored: &TokenRecord) -> bool {
    known.generation > stored.generation && !buries(stored, known)
}

/// Is `stored` a logout from after the last token of `known`, rather than an old backup?
fn buries(stored: &TokenRecord, known: &TokenRecord) -> bool {
    stored.is_tombstone() && stored.terminal.as_ref().map(|terminal| terminal.at) >= known.issued_at
}
