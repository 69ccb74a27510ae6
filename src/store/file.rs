//! One file per record: `NAME.json`, and `NAME.lock` and `NAME+commit.lock` beside it. A slash in a key is an
//! `@` in the file's name, and a capital letter a comma and the small one, which no part of a key can hold:
//! `resamania/Paris` is in `resamania@,paris.json`, also where file systems take capitals for small letters.
//! A `+` is in none either, so the second lock is no other key's first, whatever values strangers choose.
//!
//! The lock file is never removed and never written; holding it (`flock(2)`, given back by the
//! kernel when the process dies) is the lease, and it is held across the whole token request. A lock that was
//! removed, or whose directory was replaced, excludes nobody: so its name is looked at before each use.
//! A record is replaced by writing a temporary file, `fsync`, `rename` and `fsync` of the directory,
//! so that a crash at any moment leaves the old record or the new one.
//!
//! Everything here blocks, and therefore runs on tokio's blocking threads; as many of them as a hung disk may
//! hold for ever ([`THREADS`]).

mod directory;
mod names;
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
use self::names::{key_of_name, record_name, stem_of};
use self::watch::Watch;
use super::{ByteStore, Changes, Fence, Held, StoreError, StoreFuture, Version};

/// How often a held lock is tried again. `flock` cannot wait with a deadline, and a thread that
/// waits for ever would keep the process from ending.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// No record comes near this; a larger file is something else.
const MAX_RECORD: u64 = 4 * 1024 * 1024;
/// So many calls at a time. On a disk that hangs they never end, and further ones wait and are given up.
const THREADS: usize = 16;

/// Files of mode 0600 in a directory of mode 0700.
#[derive(Clone, Debug)]
pub struct FileStore {
    path: Arc<Path>,
    directory: Arc<RwLock<Arc<Directory>>>,
    threads: Arc<Semaphore>,
}

/// What a name stands for: device and inode.
type Identity = (u64, u64);

impl FileStore {
    /// Opens or makes the directory, and proves that it can be written, or could be if there were room: a
    /// restart must not make an outage of a full disk, since what is stored can be read.
    ///
    /// # Errors
    ///
    /// If it cannot be made or written. A directory that is there already is used as it is: volumes of
    /// containers and systemd's state directories have modes of their own.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failure("make", path, error))?;
        let path: Arc<Path> = Arc::from(path);
        let directory = Arc::new(Directory::open(&path)?);
        match directory.prove_writable() {
            Err(error @ StoreError::Full(_)) => {
                tracing::error!(%error, "token store; what is in it is used");
            }
            proven => proven?,
        }
        directory.rename_former()?;
        let directory = Arc::new(RwLock::new(directory));
        Ok(Self { path, directory, threads: Arc::new(Semaphore::new(THREADS)) })
    }

    /// The directory that has the name now.
    fn directory(&self) -> Result<Arc<Directory>, StoreError> {
        let known = self.directory.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.named()? {
            return Ok(known);
        }
        let replaced = Arc::new(Directory::open(&self.path)?);
        replaced.rename_former()?;
        tracing::warn!(
            place = %self.path.display(),
            "the directory of the token store was replaced: what is in it now is used, and what is \
             known beyond it is written there"
        );
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&replaced);
        Ok(replaced)
    }

    /// Runs `work` on the directory, where it may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Directory>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        on_a_thread(&self.threads, move || work(&store.directory()?)).await
    }

    async fn lease_within(&self, key: String, wait: Duration) -> Result<Box<dyn Held>, StoreError> {
        let started = Instant::now();
        loop {
            let name = format!("{}.lock", stem_of(&key));
            let held = key.clone();
            let trying = self.run(move |directory| directory.try_lock(&name, &held));
            let tried = super::within(super::DEADLINE, trying).await?;
            if let Some((directory, file)) = tried {
                return Ok(Box::new(HeldFile::new(self.clone(), directory, file, key)));
            }
            if started.elapsed() >= wait {
                return Err(StoreError::Busy { key, waited: wait });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// Runs `work` where it may block, on one of the few threads for that.
async fn on_a_thread<T: Send + 'static>(
    threads: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let ended = || StoreError::Unavailable("the token store is going away".to_owned());
    let thread = Arc::clone(threads).acquire_owned().await.map_err(|_| ended())?;
    let working = tokio::task::spawn_blocking(move || {
        let _thread = thread;
        work()
    });
    match working.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away; nobody will look at this.
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

    fn set_aside<'a>(&'a self, key: &'a str, damaged: Version) -> StoreFuture<'a, Option<String>> {
        let key = key.to_owned();
        Box::pin(self.run(move |directory| directory.set_aside(&key, damaged)))
    }

    fn clear_aside<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        let key = key.to_owned();
        Box::pin(self.run(move |directory| {
            directory.aside(&key)?.iter().for_each(|name| directory.remove(name));
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
    ) -> StoreFuture<'a, Box<dyn Held>> {
        Box::pin(self.lease_within(key.to_owned(), wait))
    }

    fn changes(&self) -> Box<dyn Changes> {
        Box::new(Watch::over(self.clone()))
    }

    fn place(&self, key: &str) -> String {
        self.path.join(record_name(key)).display().to_string()
    }
}

/// A held lock file.
struct HeldFile {
    store: FileStore,
    key: String,
    directory: Arc<Directory>,
    fence: Fence,
    _file: File,
}

impl HeldFile {
    fn new(store: FileStore, directory: Arc<Directory>, file: File, key: String) -> Self {
        let identity = file.metadata().map(|it| (it.dev(), it.ino())).unwrap_or_default();
        Self { store, key, directory, fence: fence_of(identity), _file: file }
    }
}

impl Held for HeldFile {
    fn fence(&self) -> &Fence {
        &self.fence
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        let (store, directory) = (self.store.clone(), Arc::clone(&self.directory));
        let (key, fence) = (self.key.clone(), self.fence.clone());
        Box::pin(on_a_thread(&self.store.threads, move || match directory.named() {
            Ok(true) => directory.check(&key, &fence),
            Ok(false) => {
                // Whoever comes next goes by the one that is there.
                let _opened = store.directory();
                Err(StoreError::LeaseLost { key })
            }
            // Where there is no directory nobody else can have a lock in it.
            Err(_) if directory.is_gone() => Ok(()),
            Err(error) => Err(error),
        }))
    }
}

/// The records in `dir`, in order, with where they are. What cannot be read is left out: it is complained of
/// when it is used.
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

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn identity_of_file(file: &File, path: &Path) -> Result<Identity, StoreError> {
    let stat = rustix::fs::fstat(file.as_fd());
    stat.map(|stat| identity(&stat)).map_err(|error| failure("lock", path, error.into()))
}

fn fence_of((device, inode): Identity) -> Fence {
    Fence(format!("{device:x}-{inode:x}"))
}

fn read_private(file: File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |error| failure("read", path, error);
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
    Err(StoreError::Unsafe { place: path.display().to_string(), problem: problem.to_owned() })
}

fn failure(action: &str, path: &Path, source: std::io::Error) -> StoreError {
    let text = format!("cannot {action} {}: {source}", path.display());
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(text),
        _ => StoreError::Unavailable(text),
    }
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
