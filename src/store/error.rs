//! What can go wrong with a store, in the words of people.

use std::time::Duration;

use super::record::{FORMAT, RecordError};
use super::seal::SealError;

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
    /// It refused, or cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// It is full: nothing can be written, and what is stored can be read.
    #[error("{0}")]
    Full(String),
    /// It did not answer in time.
    #[error("the token store does not answer: is its disk or its server hanging?")]
    Timeout,
    /// The lease is somebody else's by now: its lock was removed, or the directory was replaced.
    #[error("the lock of credential `{key}` was removed or replaced; nothing was sent or written")]
    LeaseLost {
        /// The key.
        key: String,
    },
    /// Something is there that must not be trusted: wrong kind, wrong owner or readable by others.
    #[error("{place} {problem}")]
    Unsafe {
        /// The file or directory.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// What is stored is not a whole record.
    #[error("{place}: {source}{}", aside.as_ref().map(|it| format!("; it was moved to {it}")).unwrap_or_default())]
    Corrupt {
        /// Where the record was.
        place: String,
        /// Where it is now.
        aside: Option<String>,
        /// What is wrong with it.
        source: RecordError,
    },
    /// It is encrypted, and not with a key that is configured; it was left untouched.
    #[error("{place} {source}; nothing was changed")]
    Sealed {
        /// The record.
        place: String,
        /// Which key it needs.
        source: SealError,
    },
    /// It is plain text, where records are sealed: anybody could have put it there. It was left untouched.
    #[error(
        "{place} is plain text although `store.key` is set: while records from before the key are \
         sealed, write old_keys = [\"plain\"] in [store] and restart; otherwise remove it. Nothing was changed"
    )]
    Plain {
        /// The record.
        place: String,
    },
    /// A newer bearerd wrote it; it was left untouched.
    #[error(
        "{place} was written by a newer bearerd (format {version}); this one reads up to format {}",
        FORMAT
    )]
    Newer {
        /// The record.
        place: String,
        /// Its format.
        version: u32,
    },
}

impl StoreError {
    /// The kind of failure in a word, for people.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "lock_busy",
            Self::Unavailable(_) => "store_io",
            Self::Full(_) => "store_full",
            Self::Timeout => "store_timeout",
            Self::LeaseLost { .. } => "lock_lost",
            Self::Unsafe { .. } => "store_unsafe",
            Self::Corrupt { .. } => "store_corrupt",
            Self::Sealed { .. } => "store_sealed",
            Self::Plain { .. } => "store_plain",
            Self::Newer { .. } => "store_newer",
        }
    }
}
