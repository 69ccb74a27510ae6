//! One file per record: `NAME.json`, and `NAME.lock` and `NAME+commit.lock` beside it. A slash in a key is an
//! `@` in the file's name, which no part of a key can hold: `resamania/paris` is in `resamania@paris.json`.
//! A `+` is in none either, so the second lock is no other key's first, whatever values strangers choose.
//!
//! The lock file is never removed and never written; holding it (`flock(2)`, given back by the
//! kernel when the process dies) is the lease, and it is held across the whole token request.
//! A record is replaced by writing a temporary file, `fsync`, `rename` and `fsync` of the directory,
//! so that a crash at any moment leaves the old record or the new one. A file that is not a whole
//! record is moved aside, never guessed from and never deleted. One that only another key opens stays where
//! it is, whatever happens (`seal.rs`).
//!
//! Everything here blocks, and therefore runs on tokio's blocking threads.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::{
    Commit, Generation, Keys, Lease, RecordError, SealError, StoreError, StoreFuture, TokenRecord,
    TokenStore, has_values,
};
use crate::crash;

/// How often a held lock is tried again. `flock` cannot wait with a deadline, and a thread that
/// waits for ever would keep the process from ending.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// How long a commit waits for another, and how often it looks.
const COMMIT_WAIT: Duration = Duration::from_secs(1);
const COMMIT_POLL: Duration = Duration::from_millis(5);
/// No record comes near this; a larger file is something else.
const MAX_RECORD: u64 = 4 * 1024 * 1024;

/// So many damaged records of one key are kept per second; nobody writes faster than that.
const MOST_IN_A_SECOND: u32 = 1000;
/// What temporary files end with.
const TEMPORARY: &str = ".tmp";

/// Records in a directory of mode 0700, each in a file of mode 0600.
#[derive(Clone, Debug)]
pub struct FileStore {
    dir: Arc<Path>,
    keys: Arc<Keys>,
}

/// Why a record was not read.
enum Unread {
    /// It is no whole record.
    Damaged(RecordError),
    /// Anything else.
    Other(StoreError),
}

impl FileStore {
    /// Opens or makes the directory, and proves that it can be written, or could be if there were room: a
    /// restart must not make an outage of a full disk, since what is stored can be read.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if it cannot be made or written. A directory that is there already is used
    /// as it is: volumes of containers and systemd's state directories have modes of their own.
    pub fn open(dir: &Path, keys: Keys) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| io("make", dir, error))?;
        match tempfile::tempfile_in(dir)
            .map_err(|error| (is_full(&error), io("write to", dir, error)))
        {
            Err((true, error)) => tracing::error!(%error, "token store; what is in it is used"),
            Err((false, error)) => return Err(error),
            Ok(_) => {}
        }
        Ok(Self { dir: Arc::from(dir), keys: Arc::new(keys) })
    }

    fn record_path(&self, key: &str) -> PathBuf {
        record_path(&self.dir, key)
    }

    /// Reads the record; a damaged one is moved aside. That is decided while nobody commits: what is read
    /// here may be replaced at any moment, and a whole record is not to be moved.
    fn load_now(&self, key: &str) -> Result<Option<TokenRecord>, StoreError> {
        match self.read(key) {
            Err(Unread::Damaged(_)) => {
                let _alone = self.lock_commits(key)?;
                self.load_alone(key)
            }
            Err(Unread::Other(error)) => Err(error),
            Ok(record) => Ok(record),
        }
    }

    /// The same for whoever holds the lock of commits.
    fn load_alone(&self, key: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.read(key).map_err(|unread| match unread {
            Unread::Damaged(source) => self.set_aside(self.record_path(key), source),
            Unread::Other(error) => error,
        })
    }

    fn read(&self, key: &str) -> Result<Option<TokenRecord>, Unread> {
        let path = self.record_path(key);
        let Some(bytes) = read_private(&path).map_err(Unread::Other)? else { return Ok(None) };
        let opened = self.keys.open(key, bytes);
        let read = opened.and_then(|plain| Ok(TokenRecord::from_bytes(&plain)?));
        match read {
            Ok(record) => Ok(Some(record)),
            Err(SealError::Damaged(RecordError::Newer(version))) => {
                Err(Unread::Other(StoreError::Newer { path, version }))
            }
            Err(SealError::Damaged(source)) => Err(Unread::Damaged(source)),
            Err(source) => Err(Unread::Other(StoreError::Sealed { path, source })),
        }
    }

    /// Moves a damaged record out of the way, so that it is neither used nor lost. Called with the lock of
    /// commits, so that the name found free is still free.
    fn set_aside(&self, path: PathBuf, source: RecordError) -> StoreError {
        let seconds = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let names = std::iter::once(format!("corrupt-{seconds}"))
            .chain((2..=MOST_IN_A_SECOND).map(|number| format!("corrupt-{seconds}-{number}")));
        let free = names.map(|name| path.with_extension(name)).find(|aside| !is_there(aside));
        let Some(aside) = free else {
            return io("move aside", &path, ErrorKind::AlreadyExists.into());
        };
        match std::fs::rename(&path, &aside) {
            Ok(()) => StoreError::Corrupt { path, aside, source },
            Err(error) => io("move aside", &path, error),
        }
    }

    fn lock_file(&self, name: &str) -> Result<File, StoreError> {
        let path = self.dir.join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(NOFOLLOW)
            .open(&path)
            .map_err(|error| io("open", &path, error))
    }

    fn try_lock(&self, file: &File, key: &str) -> Result<bool, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(io("lock", &self.record_path(key), error)),
        }
    }

    async fn lease_within(&self, key: &str, wait: Duration) -> Result<Lease, StoreError> {
        let (store, name) = (self.clone(), format!("{}.lock", file_stem(key)));
        let file = blocking(move || store.lock_file(&name)).await?;
        let started = Instant::now();
        while !self.try_lock(&file, key)? {
            if started.elapsed() >= wait {
                return Err(StoreError::Busy { key: key.to_owned(), waited: wait });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        Ok(Lease::new(key, file))
    }

    fn commit_now(
        &self,
        key: &str,
        expected: Generation,
        bytes: &[u8],
    ) -> Result<Commit, StoreError> {
        let _alone = self.lock_commits(key)?;
        let current = match self.load_alone(key) {
            Ok(Some(record)) => record.generation,
            // Never there, removed or moved aside: whoever still knows the record writes it back. A
            // logout leaves a record behind, so nothing stored is never newer.
            Ok(None) | Err(StoreError::Corrupt { .. }) => expected,
            Err(error) => return Err(error),
        };
        if current != expected {
            return Ok(Commit::Conflict);
        }
        self.replace(key, bytes)?;
        Ok(Commit::Stored)
    }

    /// Keeps compare and set together against an operator, who does not wait for the lease. A commit takes
    /// milliseconds; a process that was stopped in the middle of one holds nobody up for longer than this.
    fn lock_commits(&self, key: &str) -> Result<File, StoreError> {
        let file = self.lock_file(&format!("{}+commit.lock", file_stem(key)))?;
        let started = Instant::now();
        while !self.try_lock(&file, key)? {
            if started.elapsed() >= COMMIT_WAIT {
                return Err(StoreError::Busy { key: key.to_owned(), waited: COMMIT_WAIT });
            }
            std::thread::sleep(COMMIT_POLL);
        }
        Ok(file)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.sweep(key);
        let path = self.record_path(key);
        let mut temporary = tempfile::Builder::new()
            .prefix(&temporary_prefix(key))
            .suffix(TEMPORARY)
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&*self.dir)
            .map_err(|error| io("write", &path, error))?;
        let written = temporary.write_all(bytes).and_then(|()| temporary.as_file().sync_all());
        written.map_err(|error| io("write", &path, error))?;
        crash::point("after_temp");
        temporary.persist(&path).map_err(|error| io("replace", &path, error.error))?;
        crash::point("after_rename");
        let dir = File::open(&*self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(|error| io("sync", &self.dir, error))
    }

    /// Removes what a killed process left between writing and renaming. Called under the lease.
    fn sweep(&self, key: &str) {
        let prefix = temporary_prefix(key);
        // The rest is random and has no dot; otherwise it is a file of `x/a.json`, and not of `x/a`.
        let is_of_key = |name: &str| {
            let rest = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(TEMPORARY));
            rest.is_some_and(|rest| !rest.contains('.'))
        };
        let Ok(entries) = std::fs::read_dir(&*self.dir) else { return };
        for entry in entries.flatten() {
            if is_of_key(&entry.file_name().to_string_lossy()) {
                // What cannot be removed is only litter.
                let _litter = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl TokenStore for FileStore {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<TokenRecord>> {
        let (store, key) = (self.clone(), key.to_owned());
        Box::pin(blocking(move || store.load_now(&key)))
    }

    fn keys<'a>(&'a self, credential: &'a str) -> StoreFuture<'a, Vec<String>> {
        let (dir, credential) = (Arc::clone(&self.dir), credential.to_owned());
        Box::pin(blocking(move || {
            let mut keys = keys_in(&dir).map_err(|error| io("list", &dir, error))?;
            keys.retain(|key| has_values(key, &credential));
            Ok(keys)
        }))
    }

    fn lease<'a>(&'a self, key: &'a str, wait: Duration) -> StoreFuture<'a, Lease> {
        Box::pin(self.lease_within(key, wait))
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit> {
        let (store, key) = (self.clone(), lease.key().to_owned());
        let bytes = self.keys.seal(&key, record.to_bytes());
        Box::pin(blocking(move || store.commit_now(&key, expected, &bytes)))
    }

    fn overrule<'a>(
        &'a self,
        key: &'a str,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit> {
        let (store, key) = (self.clone(), key.to_owned());
        let bytes = self.keys.seal(&key, record.to_bytes());
        Box::pin(blocking(move || store.commit_now(&key, expected, &bytes)))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

/// Tries to open the records of these credentials, in the order of their names, and changes nothing.
pub(super) fn examine(dir: &Path, keys: &Keys, credentials: &[&str]) -> Result<(), StoreError> {
    // A directory that is not there, or cannot be read, is made or complained of when it is opened.
    let Ok(keys_of_records) = keys_in(dir) else { return Ok(()) };
    for key in keys_of_records {
        if !credentials.iter().any(|credential| is_record_of(&key, credential)) {
            continue;
        }
        let path = record_path(dir, &key);
        let Ok(Some(bytes)) = read_private(&path) else { continue };
        match keys.open(&key, bytes) {
            Ok(_) | Err(SealError::Damaged(_)) => {}
            Err(source) => return Err(StoreError::Sealed { path, source }),
        }
    }
    Ok(())
}

fn record_path(dir: &Path, key: &str) -> PathBuf {
    dir.join(format!("{}.json", file_stem(key)))
}

/// The keys of all records in `dir`, in order. What has another name is none, nor is a temporary file.
fn keys_in(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        keys.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(key_of_stem));
    }
    keys.sort();
    Ok(keys)
}

/// Is `key` the credential's, alone or with the values of its variables after the name?
fn is_record_of(key: &str, credential: &str) -> bool {
    let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    key.strip_prefix(credential).is_some_and(|rest| !rest.starts_with(in_name))
}

/// A dot, so that a credential's name (which starts with a letter or digit) never begins like it.
fn temporary_prefix(key: &str) -> String {
    format!(".{}.json.", file_stem(key))
}

/// Keys are made of credentials' names and percent-encoded values, so neither has an `@` of its own.
fn file_stem(key: &str) -> String {
    key.replace('/', "@")
}

fn key_of_stem(stem: &str) -> String {
    stem.replace('@', "/")
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away; nobody will look at this.
            Err(error) => Err(io("use", Path::new("the store"), std::io::Error::other(error))),
        },
    }
}

/// Reads a regular file that nobody else may read; `None` if there is none.
fn read_private(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let opened = OpenOptions::new().read(true).custom_flags(NOFOLLOW | NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open", path, error)),
    };
    let metadata = file.metadata().map_err(|error| io("read", path, error))?;
    if !metadata.is_file() {
        return Err(unsafe_file(path, "is not a regular file; move it away"));
    }
    check_private(path, &metadata)?;
    let mut bytes = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(|error| io("read", path, error))?;
    Ok(Some(bytes))
}

/// A FIFO in the record's place must not make the open wait for a writer.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

fn check_private(path: &Path, metadata: &std::fs::Metadata) -> Result<(), StoreError> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(unsafe_file(path, "belongs to another user; chown it to the user of bearerd"));
    }
    if metadata.mode() & 0o077 != 0 {
        let problem = "can be read or written by other users; run `chmod 600` on it";
        return Err(unsafe_file(path, problem));
    }
    Ok(())
}

fn unsafe_file(path: &Path, problem: &str) -> StoreError {
    StoreError::Unsafe { path: path.to_owned(), problem: problem.to_owned() }
}

/// Also a link that leads nowhere is there. What cannot be looked at is taken to be.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound)
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
