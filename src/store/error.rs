//! Errors of the token store, with messages for operators.

use std::time::Duration;

use super::record::{FORMAT, RecordError};
use super::seal::SealError;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another holder kept the lease for the whole wait.
    #[error("another process has held the lock of credential `{key}` for {waited:?}")]
    Busy {
        /// The key.
        key: String,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The store refused the operation or is unreachable.
    #[error("{0}")]
    Unavailable(String),
    /// The store is full: reads work, writes do not.
    #[error("{0}")]
    Full(String),
    /// The store did not answer in time.
    #[error("the token store does not answer: its disk or server may be hanging")]
    Timeout,
    /// The lease is no longer ours: its lock was removed, or the directory was replaced.
    #[error("the lock of credential `{key}` was removed or replaced; nothing was sent or written")]
    LeaseLost {
        /// The key.
        key: String,
    },
    /// A file or directory must not be trusted: wrong type, wrong owner or readable by others.
    #[error("{location} {problem}")]
    Unsafe {
        /// The file or directory.
        location: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The stored bytes are not a complete record.
    #[error("{location}: {source}{}", moved_to.as_ref().map(|it| format!("; it was moved to {it}")).unwrap_or_default())]
    Corrupt {
        /// Where the record was.
        location: String,
        /// Where it was moved to.
        moved_to: Option<String>,
        /// What is wrong with it.
        source: RecordError,
    },
    /// Encrypted with a key that is not configured. The record is left untouched.
    #[error("{location} {source}; nothing was changed")]
    Sealed {
        /// The record.
        location: String,
        /// Which key it needs.
        source: SealError,
    },
    /// Plain text although records are encrypted: anyone could have put it there. The record is
    /// left untouched.
    #[error(
        "{location} is plain text although `store.key` is set: to encrypt existing \
         records, set old_keys = [\"plain\"] in [store] and restart; otherwise remove the file. Nothing was changed"
    )]
    Plain {
        /// The record.
        location: String,
    },
    /// Written by a newer bearerd. The record is left untouched.
    #[error(
        "{location} was written by a newer bearerd (format {version}); this one reads up to format {}",
        FORMAT
    )]
    Newer {
        /// The record.
        location: String,
        /// Its format.
        version: u32,
    },
}

impl StoreError {
    /// A stable label of the kind of failure, for status output.
    pub fn label(&self) -> &'static str {
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
