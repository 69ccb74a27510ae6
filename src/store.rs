//! What survives: one [`TokenRecord`] per credential, in a [`TokenStore`].
//!
//! A refresh token may be single-use, so the record is the only place where the current one is
//! known. Every store keeps three promises:
//!
//! 1. a [`Lease`] excludes every other process from the same key while it is held;
//! 2. [`TokenStore::commit`] returns `Stored` only when the record would survive a power cut;
//! 3. whoever reads a record reads one whole record, the old or the new, or is told that it is
//!    corrupt; never a mixture.
//!
//! The store knows nothing of OAuth: what to write, and when, is decided by
//! [`token`](crate::token).

mod file;
mod memory;
mod record;
mod seal;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use file::FileStore;
pub use memory::MemoryStore;
pub use record::{
    Bootstrapped, Generation, Intent, RecordError, Terminal, TerminalReason, TokenRecord,
};
pub use seal::{Key, KeyError, KeyId, Keys, SealError};

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
    pub fn build(&self) -> Result<Arc<dyn TokenStore>, StoreError> {
        Ok(match self {
            Self::Memory => Arc::new(MemoryStore::default()),
            Self::File { dir, keys } => Arc::new(FileStore::open(dir, keys.clone())?),
        })
    }

    /// Finds out whether the records of these credentials can be opened with the configured keys, so
    /// that a wrong key stops the start and not the first request. Reads, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Sealed`]; what else may be wrong with a record is found when it is used.
    pub fn examine(&self, credentials: &[&str]) -> Result<(), StoreError> {
        match self {
            Self::Memory => Ok(()),
            Self::File { dir, keys } => file::examine(dir, keys, credentials),
        }
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

/// A boxed future, because a store is chosen at run time.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where records are kept.
pub trait TokenStore: fmt::Debug + Send + Sync + 'static {
    /// Reads the record of `key`; `None` if there never was one.
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<TokenRecord>>;

    /// The keys of all records of a credential with variables, in order. A credential without variables
    /// has one record, under its name, which is not among them.
    fn keys<'a>(&'a self, credential: &'a str) -> StoreFuture<'a, Vec<String>>;

    /// Waits at most `wait` for the exclusive right to refresh `key`. It ends when the lease is
    /// dropped, or with the process.
    fn lease<'a>(&'a self, key: &'a str, wait: Duration) -> StoreFuture<'a, Lease>;

    /// Replaces the record, durably, if the stored generation is still `expected` (0: no record).
    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit>;

    /// Replaces the record as [`TokenStore::commit`] does, without the lease: for an operator who does not
    /// wait for whoever holds it. The holder's next commit is a conflict.
    fn overrule<'a>(
        &'a self,
        key: &'a str,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit>;

    /// May other processes write to it as well?
    fn is_shared(&self) -> bool;
}

/// Is `key` that of a record of this credential with the values of variables?
fn has_values(key: &str, credential: &str) -> bool {
    key.strip_prefix(credential).is_some_and(|values| values.starts_with('/'))
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The record is on stable storage.
    Stored,
    /// Somebody else wrote in between; nothing was changed.
    Conflict,
}

/// The exclusive right to refresh one key, given back on drop.
pub struct Lease {
    key: String,
    _held: Box<dyn Any + Send + Sync>,
}

impl Lease {
    fn new(key: &str, held: impl Any + Send + Sync) -> Self {
        Self { key: key.to_owned(), _held: Box::new(held) }
    }

    /// What is leased.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.key)
    }
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The lease was held by someone else for the whole wait.
    #[error("another process has held the lock of credential `{key}` for {waited:?}")]
    Busy {
        /// The key.
        key: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A file is there that must not be trusted: wrong kind, wrong owner or readable by others.
    #[error("{path} {problem}")]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// What is stored is not a whole record.
    #[error("{path}: {source}; it was moved to {aside}")]
    Corrupt {
        /// Where the record was.
        path: PathBuf,
        /// Where it is now.
        aside: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// It is encrypted, and not with a key that is configured; it was left untouched.
    #[error("{path} {source}; nothing was changed")]
    Sealed {
        /// The record.
        path: PathBuf,
        /// Which key it needs.
        source: SealError,
    },
    /// A newer bearerd wrote it; it was left untouched.
    #[error("{path} was written by a newer bearerd (format {version}); this one reads format 2")]
    Newer {
        /// The record.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
}
