//! What survives: one [`TokenRecord`] per credential, in a [`Store`].
//!
//! A refresh token may be single-use, so the record is the only place where the current one is
//! known. A [`Store`] is a codec above a [`ByteStore`]: the codec knows records (their envelope, their seal,
//! and what is set aside because it is damaged), the byte store knows bytes. Together they keep four promises:
//!
//! 1. a [`Lease`] excludes every other process from the same key while it is held, and says when it was lost;
//! 2. [`Store::put`] returns [`Put::Stored`] only when the record would survive a power cut;
//! 3. whoever reads a record reads one whole record, the old or the new, or is told that it is
//!    corrupt; never a mixture;
//! 4. every call ends within [`DEADLINE`], or within the wait that it was given.
//!
//! The store knows nothing of OAuth: what to write, and when, is decided by
//! [`token`](crate::token).

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
    Attempt, Bootstrapped, Generation, Hashes, IssuedFor, NotBefore, RecordError, Terminal,
    TerminalReason, TokenRecord, Write,
};
pub use seal::{Key, KeyError, KeyId, Keys, SealError};

/// How long a call to a store may take. Whoever waits for one serves its token from memory after that.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// Which store to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// Nothing survives the process. For grants that need no memory, and for tests.
    Memory,
    /// One file per credential in a directory that is made at need, mode 0700.
    File {
        /// The directory.
        dir: PathBuf,
        /// What encrypts the records. Default nothing: they are plain text of mode 0600.
        keys: Keys,
    },
}

impl Config {
    /// Opens the store.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made or written, or if others may read it.
    pub fn build(&self) -> Result<Store, StoreError> {
        Ok(match self {
            Self::Memory => Store::new(Arc::new(MemoryStore::default()), Keys::default()),
            Self::File { dir, keys } => Store::new(Arc::new(FileStore::open(dir)?), keys.clone()),
        })
    }

    /// Finds out whether the records of these credentials can be opened with the configured keys, so
    /// that a wrong key stops the start and not the first request. Reads, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Sealed`] and [`StoreError::Plain`]; what else may be wrong with a record is found when
    /// it is used.
    pub fn examine(&self, credentials: &[&str]) -> Result<(), StoreError> {
        let Self::File { dir, keys } = self else { return Ok(()) };
        for (key, place, bytes) in file::records_in(dir) {
            if credentials.iter().any(|credential| is_record_of(&key, credential))
                && let Err(error @ (StoreError::Sealed { .. } | StoreError::Plain { .. })) =
                    decode(keys, &key, bytes, || place.display().to_string())
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Are records written in plain text, to a place that others may copy?
    pub fn is_plain_text(&self) -> bool {
        matches!(self, Self::File { keys: Keys { current: None, .. }, .. })
    }

    /// The directory, if it is one.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Memory => None,
            Self::File { dir, .. } => Some(dir),
        }
    }
}

/// A boxed future, because a byte store is chosen at run time.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where the bytes of records are kept. All calls may be dropped at any moment: what they began may still
/// take place, or not.
pub trait ByteStore: fmt::Debug + Send + Sync + 'static {
    /// Reads what is stored for `key`; `None` if there is nothing.
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>>;

    /// Replaces what is stored, durably, if it still is `expected` and the lease of `fence` was not lost.
    /// `false`: somebody else wrote in between, and nothing was changed.
    fn write<'a>(
        &'a self,
        key: &'a str,
        expected: Version,
        fence: Option<&'a Fence>,
        bytes: Vec<u8>,
    ) -> StoreFuture<'a, bool>;

    /// Moves what is stored out of the way if it still is `damaged`, and says where to. `None`: it has changed.
    fn set_aside<'a>(&'a self, key: &'a str, damaged: Version) -> StoreFuture<'a, Option<String>>;

    /// Removes what was set aside for `key`: it may hold tokens.
    fn clear_aside<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()>;

    /// The keys of everything that is stored, in order.
    fn keys(&self) -> StoreFuture<'_, Vec<String>>;

    /// Waits at most `wait` for the exclusive right to refresh `key`. Where leases end by themselves the holder
    /// renews it, and `ttl` is how long it outlives a holder that has died.
    fn lease<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        wait: Duration,
    ) -> StoreFuture<'a, Box<dyn Held>>;

    /// What is changed from now on, by anybody.
    fn changes(&self) -> Box<dyn Changes>;

    /// Does what is stored outlive the process?
    fn is_durable(&self) -> bool {
        true
    }

    /// Where the record of `key` is, for messages.
    fn place(&self, key: &str) -> String;
}

/// A lease as its byte store holds it. Dropping it gives it back.
pub trait Held: Send + Sync {
    /// What tells this lease from every other of the same key.
    fn fence(&self) -> &Fence;

    /// Is it still held?
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseLost`]
    fn check(&self) -> StoreFuture<'_, ()>;
}

/// Names what should be stored, and is not for all that it is told.
pub type Expected<'a> = dyn Fn(&dyn Fn(&str) -> bool) -> Vec<String> + Send + Sync + 'a;

/// Watches a whole store.
pub trait Changes: Send {
    /// Waits until something has changed and names the keys. So it does with those that `expected` misses: whoever
    /// has stored them is told that they were removed, once.
    fn next<'a>(
        &'a mut self,
        expected: &'a Expected<'a>,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>>;
}

/// Which bytes are stored, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Version {
    /// Their hash; `None`: there are none.
    hash: Option<[u8; 32]>,
    /// How many writes there were before, as far as is known.
    revision: u64,
}

impl Version {
    /// Nothing is stored.
    pub const ABSENT: Self = Self { hash: None, revision: 0 };

    fn of(bytes: &[u8], revision: u64) -> Self {
        Self { hash: hash(bytes), revision }
    }

    /// Is it of these bytes, or of none?
    pub fn is_of(&self, bytes: Option<&[u8]>) -> bool {
        self.hash == bytes.and_then(hash)
    }
}

fn hash(bytes: &[u8]) -> Option<[u8; 32]> {
    digest::digest(&digest::SHA256, bytes).as_ref().first_chunk().copied()
}

/// What tells one lease of a key from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(pub String);

/// Records in a byte store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    bytes: Arc<dyn ByteStore>,
    keys: Arc<Keys>,
}

/// A record and which version of what is stored it is.
pub type Loaded = (TokenRecord, Version);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The record is on stable storage, as this version.
    Stored(Version),
    /// Somebody else wrote in between; nothing was changed.
    Conflict,
    /// No answer came in time. It may be stored now, later, or never.
    Unknown,
}

impl Store {
    /// Records in `byte store`, sealed with the current one of `keys`.
    pub fn new(bytes: Arc<dyn ByteStore>, keys: Keys) -> Self {
        Self { bytes, keys: Arc::new(keys) }
    }

    /// Reads the record of `key`; `None` if there is none. A damaged one is set aside, and never guessed from.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn load(&self, key: &str) -> Result<Option<Loaded>, StoreError> {
        within(DEADLINE, async {
            // What was damaged may have been replaced before it was set aside.
            for _ in 0..3 {
                let Some(bytes) = self.bytes.read(key).await? else { return Ok(None) };
                let damaged = Version::of(&bytes, 0);
                let source = match decode(&self.keys, key, bytes, || self.bytes.place(key)) {
                    Ok(loaded) => return Ok(Some(loaded)),
                    Err(StoreError::Corrupt { source, .. }) => source,
                    Err(error) => return Err(error),
                };
                if let Some(aside) = self.bytes.set_aside(key, damaged).await? {
                    let place = self.bytes.place(key);
                    return Err(StoreError::Corrupt { place, aside: Some(aside), source });
                }
            }
            Err(StoreError::Busy { key: key.to_owned(), waited: DEADLINE })
        })
        .await
    }

    /// Waits at most `wait` for the exclusive right to refresh `key`, which ends with the lease or with the
    /// process.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] if somebody else held it all the time.
    pub async fn lease(
        &self,
        key: &str,
        ttl: Duration,
        wait: Duration,
    ) -> Result<Lease, StoreError> {
        let held = self.bytes.lease(key, ttl, wait);
        Ok(Lease { key: key.to_owned(), held: within(wait.saturating_add(DEADLINE), held).await? })
    }

    /// Replaces the record, durably, if what is stored still is `expected`; with a lease, only while that is
    /// held.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: it is not stored, as far as is known.
    pub async fn put(
        &self,
        key: &str,
        expected: Version,
        lease: Option<&Lease>,
        record: &TokenRecord,
    ) -> Result<Put, StoreError> {
        let revision = expected.revision.saturating_add(1);
        let writer = crate::template::uuid();
        let bytes = self.keys.seal(key, record.to_bytes(key, &Write { revision, writer }));
        let version = Version::of(&bytes, revision);
        let fence = lease.map(|lease| lease.held.fence());
        match within(DEADLINE, self.bytes.write(key, expected, fence, bytes)).await {
            Ok(true) => Ok(Put::Stored(version)),
            Ok(false) => Ok(Put::Conflict),
            Err(StoreError::Timeout) => Ok(Put::Unknown),
            Err(error) => Err(error),
        }
    }

    /// The keys of all records of a credential with variables, in order. A credential without variables
    /// has one record, under its name, which is not among them.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn keys(&self, credential: &str) -> Result<Vec<String>, StoreError> {
        let mut keys = within(DEADLINE, self.bytes.keys()).await?;
        let has_values =
            |key: &String| key.strip_prefix(credential).is_some_and(|it| it.starts_with('/'));
        keys.retain(has_values);
        Ok(keys)
    }

    /// Does what is stored outlive the process?
    pub fn is_durable(&self) -> bool {
        self.bytes.is_durable()
    }

    /// What is changed from now on, by anybody.
    pub fn changes(&self) -> Box<dyn Changes> {
        self.bytes.changes()
    }

    /// Removes what was set aside for `key`.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn clear_aside(&self, key: &str) -> Result<(), StoreError> {
        within(DEADLINE, self.bytes.clear_aside(key)).await
    }

    /// Seals the records of these credentials that are in plain text, or that an old key opens, with the
    /// current one. What cannot be read, or is written by somebody else meanwhile, stays as it is.
    pub async fn seal_all(&self, credentials: &[&str]) {
        if self.keys.current.is_none() {
            return;
        }
        let Ok(keys) = within(DEADLINE, self.bytes.keys()).await else { return };
        for key in keys {
            if !credentials.iter().any(|credential| is_record_of(&key, credential)) {
                continue;
            }
            let sealed = async {
                let bytes = within(DEADLINE, self.bytes.read(&key)).await?;
                let Some(bytes) = bytes.filter(|bytes| !self.keys.has_sealed(bytes)) else {
                    return Ok(false);
                };
                let (record, version) = decode(&self.keys, &key, bytes, || self.bytes.place(&key))?;
                Ok(matches!(self.put(&key, version, None, &record).await?, Put::Stored(_)))
            };
            match sealed.await {
                Ok(true) => tracing::info!(key, "a record from before the key is sealed now"),
                Ok(false) => {}
                Err::<_, StoreError>(error) => tracing::warn!(key, %error, "not sealed"),
            }
        }
    }
}

/// The exclusive right to refresh one key, given back on drop.
pub struct Lease {
    key: String,
    held: Box<dyn Held>,
}

impl Lease {
    /// What is leased.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What tells it from every other lease of the key.
    pub fn fence(&self) -> &Fence {
        self.held.fence()
    }

    /// To be called before every presentation of a refresh token: is it still held?
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseLost`]; or that it cannot be found out, which comes to the same.
    pub async fn check(&self) -> Result<(), StoreError> {
        within(DEADLINE, self.held.check()).await
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.key)
    }
}

/// The record in the bytes that are stored for `key`.
fn decode(
    keys: &Keys,
    key: &str,
    bytes: Vec<u8>,
    place: impl FnOnce() -> String,
) -> Result<Loaded, StoreError> {
    let hash = hash(&bytes);
    let read = keys.open(key, bytes).and_then(|plain| Ok(TokenRecord::from_bytes(key, &plain)?));
    match read {
        Ok((record, write)) => Ok((record, Version { hash, revision: write.revision })),
        Err(SealError::Damaged(RecordError::Newer(version))) => {
            Err(StoreError::Newer { place: place(), version })
        }
        Err(SealError::Damaged(source)) => {
            Err(StoreError::Corrupt { place: place(), aside: None, source })
        }
        Err(SealError::Plain) => Err(StoreError::Plain { place: place() }),
        Err(source) => Err(StoreError::Sealed { place: place(), source }),
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(StoreError::Timeout))
}

/// Is `key` the credential's, alone or with the values of its variables after the name?
fn is_record_of(key: &str, credential: &str) -> bool {
    key.strip_prefix(credential).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
