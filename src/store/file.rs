//! A store with one file per record: `NAME.json`, with `NAME.lock` and `NAME+commit.lock` beside
//! it.
//!
//! In file names, `@` stands for a slash in the key, and a comma before a lower-case letter for the
//! capital letter, because neither character occurs in keys: `resamania/Paris` is stored in
//! `resamania@,paris.json`, which is unambiguous on case-insensitive file systems too. Keys contain
//! no `+` either, so a commit lock can never be another key's lease lock, whatever values clients
//! choose.
//!
//! The lock file is never removed or written. Holding it (`flock(2)`, released by the kernel when
//! the process ends) is the lease, and it is held for the whole token request. A lock that was
//! removed, or whose directory was replaced, excludes nobody, so its name is checked before each
//! use. A record is replaced by writing a temporary file, `fsync`, `rename` and `fsync` of the
//! directory, so that a crash at any point leaves the old record or the new one.
//!
//! All file operations block, so they run on tokio's blocking threads. At most [`MAX_BLOCKING_CALLS`] of them
//! can be blocked forever by a hung disk.

mod directory;
mod file_names;
mod watch;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, Stat};
use tokio::sync::Semaphore;

use self::directory::Directory;
use self::file_names::{key_of_name, record_name, stem_of};
use self::watch::DirectoryWatcher;
use super::{ByteStore, Fence, HeldLease, StoreChanges, StoreError, StoreFuture, Version};

/// How often a held lock is retried. `flock` has no timeout, and a thread that waited forever would
/// keep the process from ending.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// No valid record is nearly this large.
const MAX_RECORD: u64 = 4 * 1024 * 1024;
/// The maximum number of concurrent calls. On a hung disk they never end; further calls wait and
/// time out.
const MAX_BLOCKING_CALLS: usize = 16;

/// Record files of mode 0600 in a directory of mode 0700.
#[derive(Clone, Debug)]
pub struct FileStore {
    path: Arc<Path>,
    directory: Arc<RwLock<Arc<Directory>>>,
    threads: Arc<Semaphore>,
}

/// Device and inode.
type FileId = (u64, u64);

impl FileStore {
    /// Opens or creates the directory, and checks that it is writable. A full disk is no error
    /// here, because stored records can still be read: a restart must not turn a full disk into an
    /// outage.
    ///
    /// # Errors
    ///
    /// If the directory cannot be created or written. The mode of an existing directory is not
    /// checked, because container volumes and systemd state directories have modes of their own.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| io_error("create", path, error))?;
        let path: Arc<Path> = Arc::from(path);
        let directory = Arc::new(Directory::open(&path)?);
        match directory.check_writable() {
            Err(error @ StoreError::Full(_)) => {
                tracing::error!(%error, "cannot write to the token store; stored tokens are still used");
            }
            proven => proven?,
        }
        directory.rename_legacy_files()?;
        let directory = Arc::new(RwLock::new(directory));
        Ok(Self { path, directory, threads: Arc::new(Semaphore::new(MAX_BLOCKING_CALLS)) })
    }

    /// The directory that the path refers to now.
    fn directory(&self) -> Result<Arc<Directory>, StoreError> {
        let known = self.directory.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_current()? {
            return Ok(known);
        }
        let replaced = Arc::new(Directory::open(&self.path)?);
        replaced.rename_legacy_files()?;
        tracing::warn!(
            place = %self.path.display(),
            "the token store's directory was replaced; its records are used, and tokens that it \
             lacks are written to it"
        );
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&replaced);
        Ok(replaced)
    }

    /// Runs `work` on the directory on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Directory>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        run_blocking(&self.threads, move || work(&store.directory()?)).await
    }

    async fn lease_within(
        &self,
        key: String,
        wait: Duration,
    ) -> Result<Box<dyn HeldLease>, StoreError> {
        let started = Instant::now();
        loop {
            let name = format!("{}.lock", stem_of(&key));
            let held = key.clone();
            let trying = self.run(move |directory| directory.try_lock(&name, &held));
            let tried = super::with_timeout(super::DEADLINE, trying).await?;
            if let Some((directory, file)) = tried {
                return Ok(Box::new(FileLease::new(self.clone(), directory, file, key)));
            }
            if started.elapsed() >= wait {
                return Err(StoreError::Busy { key, waited: wait });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// Runs `work` on one of the `threads` reserved for blocking calls.
async fn run_blocking<T: Send + 'static>(
    threads: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let ended = || StoreError::Unavailable("the token store is shutting down".to_owned());
    let thread = Arc::clone(threads).acquire_owned().await.map_err(|_| ended())?;
    let working = tokio::task::spawn_blocking(move || {
        let _thread = thread;
        work()
    });
    match working.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down; nobody reads this error.
            Err(_) => Err(ended()),
        },
    }
}

impl ByteStore for FileStore {
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        let key = key.to_owned();
        Box::pin(self.run(move |directory| directory.read(&key)))
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        expected: Version,
        fence: Option<&'a Fence>,
        bytes: Vec<u8>,
    ) -> StoreFuture<'a, bool> {
        let (key, fence) = (key.to_owned(), fence.cloned());
        Box::pin(self.run(move |directory| directory.write(&key, expected, fence.as_ref(), &bytes)))
    }

    fn quarantine<'a>(&'a self, key: &'a str, damaged: Version) -> StoreFuture<'a, Option<String>> {
        let key = key.to_owned();
        Box::pin(self.run(move |directory| directory.quarantine(&key, damaged)))
    }

    fn clear_quarantine<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        let key = key.to_owned();
        Box::pin(self.run(move |directory| {
            directory.quarantined(&key)?.iter().for_each(|name| directory.remove(name));
            Ok(())
        }))
    }

    fn keys(&self) -> StoreFuture<'_, Vec<String>> {
        Box::pin(self.run(|directory| directory.keys()))
    }

    fn lease<'a>(
        &'a self,
        key: &'a str,
        _ttl: Duration,
        wait: Duration,
    ) -> StoreFuture<'a, Box<dyn HeldLease>> {
        Box::pin(self.lease_within(key.to_owned(), wait))
    }

    fn changes(&self) -> Box<dyn StoreChanges> {
        Box::new(DirectoryWatcher::new(self.clone()))
    }

    fn location(&self, key: &str) -> String {
        self.path.join(record_name(key)).display().to_string()
    }
}

/// A held lock file.
struct FileLease {
    store: FileStore,
    key: String,
    directory: Arc<Directory>,
    fence: Fence,
    _file: File,
}

impl FileLease {
    fn new(store: FileStore, directory: Arc<Directory>, file: File, key: String) -> Self {
        let file_id = file.metadata().map(|it| (it.dev(), it.ino())).unwrap_or_default();
        Self { store, key, directory, fence: fence_of(file_id), _file: file }
    }
}

impl HeldLease for FileLease {
    fn fence(&self) -> &Fence {
        &self.fence
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        let (store, directory) = (self.store.clone(), Arc::clone(&self.directory));
        let (key, fence) = (self.key.clone(), self.fence.clone());
        Box::pin(run_blocking(&self.store.threads, move || match directory.is_current() {
            Ok(true) => directory.check(&key, &fence),
            Ok(false) => {
                // Opens the new directory for the next caller.
                let _opened = store.directory();
                Err(StoreError::LeaseLost { key })
            }
            // Without a directory, nobody else can hold a lock in it.
            Err(_) if directory.is_gone() => Ok(()),
            Err(error) => Err(error),
        }))
    }
}

/// The records in `dir`, in order, with their paths. Unreadable files are skipped; they are
/// reported when they are used.
pub(super) fn records_in(dir: &Path) -> Vec<(String, PathBuf, Vec<u8>)> {
    let Ok(directory) = Directory::open(&Arc::from(dir)) else { return Vec::new() };
    let mut names = directory.names().unwrap_or_default();
    names.sort();
    let record = |name: String| {
        let key = key_of_name(&name)?;
        let file = directory.open_file(&name, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let path = dir.join(&name);
        let bytes = read_private(file, &path).ok()?;
        Some((key, path, bytes))
    };
    names.into_iter().filter_map(record).collect()
}

fn file_id(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

fn file_id_of(file: &File, path: &Path) -> Result<FileId, StoreError> {
    let stat = rustix::fs::fstat(file.as_fd());
    stat.map(|stat| file_id(&stat)).map_err(|error| io_error("lock", path, error.into()))
}

fn fence_of((device, inode): FileId) -> Fence {
    Fence(format!("{device:x}-{inode:x}"))
}

fn read_private(file: File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |error| io_error("read", path, error);
    let metadata = file.metadata().map_err(failed)?;
    let problem = if !metadata.is_file() {
        "is not a regular file; move it away"
    } else if metadata.uid() != rustix::process::geteuid().as_raw() {
        "belongs to another user; chown it to the user of bearerd"
    } else if metadata.mode() & 0o077 != 0 {
        "can be read or written by other users; run `chmod 600` on it"
    } else {
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(failed)?;
        return Ok(bytes);
    };
    Err(StoreError::Unsafe { location: path.display().to_string(), problem: problem.to_owned() })
}

fn io_error(action: &str, path: &Path, source: std::io::Error) -> StoreError {
    let text = format!("cannot {action} {}: {source}", path.display());
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(text),
        _ => StoreError::Unavailable(text),
    }
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
