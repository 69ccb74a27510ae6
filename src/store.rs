//! Durable token storage: one [`TokenRecord`] per credential in a [`Store`].
//!
//! A refresh token may be single-use (RFC 9700 §4.14), so the record can be the only place that
//! holds the current one. A [`Store`] is a codec on top of a [`ByteStore`]: the codec handles
//! records (envelope, encryption, quarantine of damaged records), the byte store handles bytes.
//! Together they guarantee:
//!
//! 1. While a [`Lease`] is held, no other process can lease the same key, and the holder can detect
//!    that the lease was lost.
//! 2. [`Store::put`] returns [`PutOutcome::Stored`] only if the record survives a power failure.
//! 3. A reader gets one complete record, old or new, or an error that the record is corrupt; never
//!    a mixture.
//! 4. Every call ends within [`DEADLINE`], or within the wait that the caller passed.
//!
//! The store knows nothing about OAuth: [`token`](crate::token) decides what to write and when.

mod error;
mod file;
mod memory;
mod record;
mod seal;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;

pub use error::StoreError;
pub use file::FileStore;
pub use memory::MemoryStore;
pub use record::{
    Attempt, BootstrapHistory, Generation, Hashes, IssuedFor, NotBefore, RecordError,
    TerminalReason, TerminalState, TokenRecord, WriteId,
};
pub use seal::{EncryptionKey, EncryptionKeyError, EncryptionKeys, KeyId, SealError};

/// The longest that a store call may take. After that, callers serve their token from memory.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// Which store to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// Records are lost when the process ends. For grants that need no persistence, and for tests.
    Memory,
    /// One file per credential in a directory that is created with mode 0700 if it is missing.
    File {
        /// The directory.
        dir: PathBuf,
        /// The encryption keys. Empty by default: records are then plain text in files of mode
        /// 0600.
        keys: EncryptionKeys,
    },
}

impl Config {
    /// Opens the store.
    ///
    /// # Errors
    ///
    /// If the directory cannot be created or written, or if other users can read it.
    pub fn build(&self) -> Result<Store, StoreError> {
        Ok(match self {
            Self::Memory => Store::new(Arc::new(MemoryStore::default()), EncryptionKeys::default()),
            Self::File { dir, keys } => Store::new(Arc::new(FileStore::open(dir)?), keys.clone()),
        })
    }

    /// Checks that the configured keys can open the records of these credentials, so that a wrong
    /// key fails the start and not the first request. Read-only.
    ///
    /// # Errors
    ///
    /// [`StoreError::Sealed`] and [`StoreError::Plain`]. Any other damage is detected when the record is used.
    pub fn check_keys(&self, credentials: &[&str]) -> Result<(), StoreError> {
        let Self::File { dir, keys } = self else { return Ok(()) };
        for (key, path, bytes) in file::records_in(dir) {
            if credentials.iter().any(|credential| is_record_of(&key, credential))
                && let Err(error @ (StoreError::Sealed { .. } | StoreError::Plain { .. })) =
                    decode(keys, &key, bytes, || path.display().to_string())
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns true if records are written to disk without encryption.
    pub fn is_plain_text(&self) -> bool {
        matches!(self, Self::File { keys: EncryptionKeys { current: None, .. }, .. })
    }

    /// The directory of a file store.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Memory => None,
            Self::File { dir, .. } => Some(dir),
        }
    }
}

/// A boxed future, because the byte store is chosen at run time.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Storage for the bytes of records. Every call may be dropped at any moment; the operation that it
/// started may then still take effect, or not.
pub trait ByteStore: fmt::Debug + Send + Sync + 'static {
    /// Reads the bytes stored for `key`; `None` if there are none.
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>>;

    /// Durably replaces the stored bytes if they are still at version `expected` and the lease of
    /// `fence` was not lost. Returns false, and changes nothing, if another writer came first.
    fn write<'a>(
        &'a self,
        key: &'a str,
        expected: Version,
        fence: Option<&'a Fence>,
        bytes: Vec<u8>,
    ) -> StoreFuture<'a, bool>;

    /// Quarantines the stored bytes if they are still at version `damaged`, and returns the new
    /// location; `None` if they have changed.
    fn quarantine<'a>(&'a self, key: &'a str, damaged: Version) -> StoreFuture<'a, Option<String>>;

    /// Deletes the quarantined bytes of `key`, which may contain tokens.
    fn clear_quarantine<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()>;

    /// All stored keys, in order.
    fn keys(&self) -> StoreFuture<'_, Vec<String>>;

    /// Waits at most `wait` for the exclusive right to refresh `key`. In stores whose leases
    /// expire, the holder renews the lease, and `ttl` is how long it outlasts a holder that
    /// crashed.
    fn lease<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        wait: Duration,
    ) -> StoreFuture<'a, Box<dyn HeldLease>>;

    /// Watches for changes made by any process from now on.
    fn changes(&self) -> Box<dyn StoreChanges>;

    /// Returns true if stored bytes outlive the process.
    fn is_durable(&self) -> bool {
        true
    }

    /// The location of the record of `key`, for messages.
    fn location(&self, key: &str) -> String;
}

/// A lease as its byte store holds it. Released on drop.
pub trait HeldLease: Send + Sync {
    /// Distinguishes this lease from all other leases of the same key.
    fn fence(&self) -> &Fence;

    /// Checks that the lease is still held.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseLost`]
    fn check(&self) -> StoreFuture<'_, ()>;
}

/// Returns the keys that should be stored but for which the given `is_stored` returns false.
pub type ExpectedKeys<'a> = dyn Fn(&dyn Fn(&str) -> bool) -> Vec<String> + Send + Sync + 'a;

/// Watches all keys of a store.
pub trait StoreChanges: Send {
    /// Waits for the next change and returns the changed keys. Keys that `expected` reports missing
    /// count as changed, so that a process learns, once, that a record it wrote was removed.
    fn next<'a>(
        &'a mut self,
        expected: &'a ExpectedKeys<'a>,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>>;
}

/// Identifies the stored bytes, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Version {
    /// SHA-256 of the bytes; `None` if nothing is stored.
    hash: Option<[u8; 32]>,
    /// The number of earlier writes, as far as known.
    revision: u64,
}

impl Version {
    /// Nothing is stored.
    pub const ABSENT: Self = Self { hash: None, revision: 0 };

    fn of(bytes: &[u8], revision: u64) -> Self {
        Self { hash: hash(bytes), revision }
    }

    /// Returns true if this is the version of `bytes`.
    pub fn is_of(&self, bytes: Option<&[u8]>) -> bool {
        self.hash == bytes.and_then(hash)
    }
}

fn hash(bytes: &[u8]) -> Option<[u8; 32]> {
    digest::digest(&digest::SHA256, bytes).as_ref().first_chunk().copied()
}

/// Distinguishes one lease of a key from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(pub String);

/// Token records in a byte store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    bytes: Arc<dyn ByteStore>,
    keys: Arc<EncryptionKeys>,
}

/// A record and the version of the stored bytes that it came from.
pub type LoadedRecord = (TokenRecord, Version);

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The record is on stable storage, at this version.
    Stored(Version),
    /// Another writer came first; nothing was changed.
    Conflict,
    /// The store did not answer in time. The record may be stored now, later, or never.
    Unknown,
}

impl Store {
    /// Stores records in `bytes`, sealed with the current key of `keys`.
    pub fn new(bytes: Arc<dyn ByteStore>, keys: EncryptionKeys) -> Self {
        Self { bytes, keys: Arc::new(keys) }
    }

    /// Reads the record of `key`; `None` if there is none. A damaged record is quarantined, never
    /// partly used.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn load(&self, key: &str) -> Result<Option<LoadedRecord>, StoreError> {
        with_timeout(DEADLINE, async {
            // The damaged bytes may have been replaced before they could be quarantined.
            for _ in 0..3 {
                let Some(bytes) = self.bytes.read(key).await? else { return Ok(None) };
                let damaged = Version::of(&bytes, 0);
                let source = match decode(&self.keys, key, bytes, || self.bytes.location(key)) {
                    Ok(loaded) => return Ok(Some(loaded)),
                    Err(StoreError::Corrupt { source, .. }) => source,
                    Err(error) => return Err(error),
                };
                if let Some(moved_to) = self.bytes.quarantine(key, damaged).await? {
                    let location = self.bytes.location(key);
                    return Err(StoreError::Corrupt { location, moved_to: Some(moved_to), source });
                }
            }
            Err(StoreError::Busy { key: key.to_owned(), waited: DEADLINE })
        })
        .await
    }

    /// Waits at most `wait` for the exclusive right to refresh `key`. The right ends when the lease
    /// is dropped or the process ends.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] if another holder kept it for the whole wait.
    pub async fn lease(
        &self,
        key: &str,
        ttl: Duration,
        wait: Duration,
    ) -> Result<Lease, StoreError> {
        let held = self.bytes.lease(key, ttl, wait);
        Ok(Lease {
            key: key.to_owned(),
            held: with_timeout(wait.saturating_add(DEADLINE), held).await?,
        })
    }

    /// Durably replaces the record if the stored bytes are still at version `expected` and, if a
    /// lease is given, only while it is held.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record is, as far as known, not stored.
    pub async fn put(
        &self,
        key: &str,
        expected: Version,
        lease: Option<&Lease>,
        record: &TokenRecord,
    ) -> Result<PutOutcome, StoreError> {
        let revision = expected.revision.saturating_add(1);
        let writer = crate::template::uuid();
        let bytes = self.keys.seal(key, record.to_bytes(key, &WriteId { revision, writer }));
        let version = Version::of(&bytes, revision);
        let fence = lease.map(|lease| lease.held.fence());
        match with_timeout(DEADLINE, self.bytes.write(key, expected, fence, bytes)).await {
            Ok(true) => Ok(PutOutcome::Stored(version)),
            Ok(false) => Ok(PutOutcome::Conflict),
            Err(StoreError::Timeout) => Ok(PutOutcome::Unknown),
            Err(error) => Err(error),
        }
    }

    /// The keys of all records of a credential that has variables, in order. A credential without
    /// variables has a single record, stored under its name, which is not listed.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn keys(&self, credential: &str) -> Result<Vec<String>, StoreError> {
        let mut keys = with_timeout(DEADLINE, self.bytes.keys()).await?;
        let has_values =
            |key: &String| key.strip_prefix(credential).is_some_and(|it| it.starts_with('/'));
        keys.retain(has_values);
        Ok(keys)
    }

    /// Returns true if stored records outlive the process.
    pub fn is_durable(&self) -> bool {
        self.bytes.is_durable()
    }

    /// Watches for changes made by any process from now on.
    pub fn changes(&self) -> Box<dyn StoreChanges> {
        self.bytes.changes()
    }

    /// Deletes the quarantined record of `key`.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn clear_quarantine(&self, key: &str) -> Result<(), StoreError> {
        with_timeout(DEADLINE, self.bytes.clear_quarantine(key)).await
    }

    /// Re-encrypts the records of these credentials that are plain text or sealed with an old key.
    /// Records that cannot be read, or that another process writes meanwhile, stay unchanged.
    pub async fn reseal_records(&self, credentials: &[&str]) {
        if self.keys.current.is_none() {
            return;
        }
        let Ok(keys) = with_timeout(DEADLINE, self.bytes.keys()).await else { return };
        for key in keys {
            if !credentials.iter().any(|credential| is_record_of(&key, credential)) {
                continue;
            }
            let sealed = async {
                let bytes = with_timeout(DEADLINE, self.bytes.read(&key)).await?;
                let Some(bytes) =
                    bytes.filter(|bytes| !self.keys.is_sealed_with_current_key(bytes))
                else {
                    return Ok(false);
                };
                let (record, version) =
                    decode(&self.keys, &key, bytes, || self.bytes.location(&key))?;
                Ok(matches!(self.put(&key, version, None, &record).await?, PutOutcome::Stored(_)))
            };
            match sealed.await {
                Ok(true) => tracing::info!(key, "encrypted an existing record"),
                Ok(false) => {}
                Err::<_, StoreError>(error) => {
                    tracing::warn!(key, %error, "cannot encrypt an existing record")
                }
            }
        }
    }
}

/// The exclusive right to refresh one key. Released on drop.
pub struct Lease {
    key: String,
    held: Box<dyn HeldLease>,
}

impl Lease {
    /// The leased key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Distinguishes this lease from all other leases of the key.
    pub fn fence(&self) -> &Fence {
        self.held.fence()
    }

    /// Checks that the lease is still held. Call this before every use of a refresh token.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseLost`], or another error if the store cannot tell, which callers treat the same.
    pub async fn check(&self) -> Result<(), StoreError> {
        with_timeout(DEADLINE, self.held.check()).await
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.key)
    }
}

/// Decodes the record in the bytes stored for `key`.
fn decode(
    keys: &EncryptionKeys,
    key: &str,
    bytes: Vec<u8>,
    location: impl FnOnce() -> String,
) -> Result<LoadedRecord, StoreError> {
    let hash = hash(&bytes);
    let read = keys.open(key, bytes).and_then(|plain| Ok(TokenRecord::from_bytes(key, &plain)?));
    match read {
        Ok((record, write)) => Ok((record, Version { hash, revision: write.revision })),
        Err(SealError::Damaged(RecordError::Newer(version))) => {
            Err(StoreError::Newer { location: location(), version })
        }
        Err(SealError::Damaged(source)) => {
            Err(StoreError::Corrupt { location: location(), moved_to: None, source })
        }
        Err(SealError::Plain) => Err(StoreError::Plain { location: location() }),
        Err(source) => Err(StoreError::Sealed { location: location(), source }),
    }
}

async fn with_timeout<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(StoreError::Timeout))
}

/// Returns true if `key` belongs to the credential: its name, optionally followed by variable
/// values.
fn is_record_of(key: &str, credential: &str) -> bool {
    key.strip_prefix(credential).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
