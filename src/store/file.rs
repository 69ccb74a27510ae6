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

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::{ByteStore, Changes, Expected, Fence, Held, StoreError, StoreFuture, Version};
use crate::crash;

/// How often a held lock is tried again. `flock` cannot wait with a deadline, and a thread that
/// waits for ever would keep the process from ending.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// How long a write waits for another, and how often it looks. Ends before the deadline of a call, so that
/// whoever waits learns that nothing was written.
const COMMIT_WAIT: Duration = Duration::from_millis(700);
const COMMIT_POLL: Duration = Duration::from_millis(5);
/// How often the directory is looked at: what another process has stored is in use within two seconds.
const LOOK: Duration = Duration::from_millis(1500);
/// No record comes near this; a larger file is something else.
const MAX_RECORD: u64 = 4 * 1024 * 1024;
/// So many damaged records of one key are kept, the newest.
const MOST_ASIDE: usize = 8;
/// So many calls at a time. On a disk that hangs they never end, and further ones wait and are given up.
const THREADS: usize = 16;
/// What temporary files end with.
const TEMPORARY: &str = ".tmp";
/// What stands between the stem and the time in the name of what was set aside.
const ASIDE: &str = ".corrupt-";
/// A name of 64 bytes and values of 160. What is put around it fits into the 255 bytes of a file's name.
const LONGEST_STEM: usize = 224;

/// Files of mode 0600 in a directory of mode 0700.
#[derive(Clone, Debug)]
pub struct FileStore {
    path: Arc<Path>,
    directory: Arc<RwLock<Arc<Directory>>>,
    threads: Arc<Semaphore>,
}

/// What a name stands for: device and inode.
type Identity = (u64, u64);

/// An open directory, whatever becomes of its name.
#[derive(Debug)]
struct Directory {
    path: Arc<Path>,
    fd: OwnedFd,
    identity: Identity,
}

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

impl Directory {
    fn open(path: &Arc<Path>) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&**path, flags, Mode::empty())
            .map_err(|error| failure("open", path, error.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failure("open", path, error.into()))?;
        Ok(Self { path: Arc::clone(path), fd, identity: identity(&stat) })
    }

    /// Is it still the directory of its name?
    ///
    /// # Errors
    ///
    /// The name is no directory's.
    fn named(&self) -> Result<bool, StoreError> {
        let stat = rustix::fs::stat(&*self.path);
        let stat = stat.map_err(|error| failure("use", &self.path, error.into()))?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            true => Ok(identity(&stat) == self.identity),
            false => Err(failure("use", &self.path, ErrorKind::NotADirectory.into())),
        }
    }

    /// Is its name no directory's any more?
    fn is_gone(&self) -> bool {
        match rustix::fs::stat(&*self.path) {
            Ok(stat) => !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir(),
            Err(error) => matches!(error, Errno::NOENT | Errno::NOTDIR),
        }
    }

    fn prove_writable(&self) -> Result<(), StoreError> {
        let name = format!(".{}{TEMPORARY}", crate::template::uuid());
        self.open_file(&name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .map_err(|error| failure("write to", &self.path, error.into()))?;
        self.remove(&name);
        Ok(())
    }

    /// Renames what has a name from before capital letters had an escape. If there is a record under both names,
    /// because an older bearerd has run again, the one that was written last is the current one.
    fn rename_former(self: &Arc<Self>) -> Result<(), StoreError> {
        for name in self.names()? {
            let Some((former, rest)) = split_name(&name) else { continue };
            let key = key_of(former);
            let stem = stem_of(&key);
            if stem == former {
                continue;
            }
            let _alone = self.lock_commits(&key)?;
            // Another process that starts now may have renamed it.
            let Some(changed) = self.changed(&name) else { continue };
            let to = format!("{stem}{rest}");
            match self.changed(&to) {
                Some(other) if other > changed => drop(self.move_aside(&key, &name)?),
                Some(_) => drop(self.move_aside(&key, &to)?),
                None => {}
            }
            match rustix::fs::renameat(&self.fd, &name, &self.fd, &to) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failure("rename", &self.path.join(name), error.into())),
            }
        }
        Ok(())
    }

    /// When a file was written last; `None` if there is none.
    fn changed(&self, name: &str) -> Option<(i64, i128)> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_mtime, stat.st_mtime_nsec.into()))
    }

    fn open_file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    fn identity_of(&self, name: &str) -> Result<Identity, Errno> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(identity(&stat))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |error: Errno| failure("list", &self.path, error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            names.extend(name.to_str().map(str::to_owned));
        }
        Ok(names)
    }

    fn remove(&self, name: &str) {
        // What cannot be removed is only litter.
        let _litter = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
    }

    fn record_path(&self, key: &str) -> PathBuf {
        self.path.join(record_name(key))
    }

    /// Reads a regular file that nobody else may read; `None` if there is none.
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.record_path(key);
        // A FIFO in the record's place must not make the open wait for a writer.
        match self.open_file(&record_name(key), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => read_private(file, &path).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failure("open", &path, error.into())),
        }
    }

    /// The lock of this name, if nobody has it. `None` also if it was replaced before it could be had.
    fn try_lock(
        self: &Arc<Self>,
        name: &str,
        key: &str,
    ) -> Result<Option<(Arc<Self>, File)>, StoreError> {
        let path = self.path.join(name);
        let failed = |action, error: Errno| failure(action, &path, error.into());
        let file = self
            .open_file(name, OFlags::WRONLY | OFlags::CREATE)
            .map_err(|error| failed("open", error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(failed("lock", error)),
        }
        let is_named = self.identity_of(name).ok() == Some(identity_of_file(&file, &path)?);
        if !is_named {
            tracing::debug!(key, "the lock was replaced while it was waited for");
        }
        Ok(is_named.then(|| (Arc::clone(self), file)))
    }

    /// Keeps compare and set together. A write takes milliseconds; a process that was stopped in the middle of
    /// one holds nobody up for longer than this.
    fn lock_commits(self: &Arc<Self>, key: &str) -> Result<File, StoreError> {
        let name = format!("{}+commit.lock", stem_of(key));
        let started = Instant::now();
        loop {
            if let Some((_, file)) = self.try_lock(&name, key)? {
                return Ok(file);
            }
            if started.elapsed() >= COMMIT_WAIT {
                return Err(StoreError::Busy { key: key.to_owned(), waited: COMMIT_WAIT });
            }
            std::thread::sleep(COMMIT_POLL);
        }
    }

    fn write(
        self: &Arc<Self>,
        key: &str,
        expected: Version,
        fence: Option<&Fence>,
        bytes: &[u8],
    ) -> Result<bool, StoreError> {
        let _alone = self.lock_commits(key)?;
        if let Some(fence) = fence {
            self.check(key, fence)?;
        }
        if !expected.is_of(self.read(key)?.as_deref()) {
            return Ok(false);
        }
        self.replace(key, bytes).map(|()| true)
    }

    /// Is the lock of this fence still the one of its name?
    fn check(&self, key: &str, fence: &Fence) -> Result<(), StoreError> {
        let lost = || StoreError::LeaseLost { key: key.to_owned() };
        let name = format!("{}.lock", stem_of(key));
        let named = self.identity_of(&name).map_err(|_| lost())?;
        if fence_of(named) == *fence { Ok(()) } else { Err(lost()) }
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.sweep(key);
        let path = self.record_path(key);
        // Short, because the name of the record may be long.
        let random: String = crate::template::uuid().chars().take(8).collect();
        let temporary = format!("{}{random}{TEMPORARY}", temporary_prefix(key));
        let written = self
            .open_file(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .map_err(std::io::Error::from)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
        let replaced = written.map_err(|error| failure("write", &path, error)).and_then(|()| {
            crash::point("after_temp");
            rustix::fs::renameat(&self.fd, &temporary, &self.fd, record_name(key))
                .map_err(|error| failure("replace", &path, error.into()))
        });
        if replaced.is_err() {
            self.remove(&temporary);
            return replaced;
        }
        crash::point("after_rename");
        rustix::fs::fsync(&self.fd).map_err(|error| failure("sync", &self.path, error.into()))
    }

    /// Removes what a killed process left between writing and renaming.
    fn sweep(&self, key: &str) {
        let prefix = temporary_prefix(key);
        // The rest is random and has no dot; otherwise it is a file of `x/a.json`, and not of `x/a`.
        let is_of_key = |name: &String| {
            let rest = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(TEMPORARY));
            rest.is_some_and(|rest| !rest.contains('.'))
        };
        let names = self.names().unwrap_or_default();
        names.iter().filter(|name| is_of_key(name)).for_each(|name| self.remove(name));
    }

    /// Moves a damaged record out of the way, so that it is neither used nor lost. While nobody writes: what
    /// was read before may have been replaced since, and a whole record is not to be moved.
    fn set_aside(
        self: &Arc<Self>,
        key: &str,
        damaged: Version,
    ) -> Result<Option<String>, StoreError> {
        let _alone = self.lock_commits(key)?;
        if !damaged.is_of(self.read(key)?.as_deref()) {
            return Ok(None);
        }
        self.move_aside(key, &record_name(key)).map(|path| Some(path.display().to_string()))
    }

    /// Gives a file of `key` another name, under the lock of its writes.
    fn move_aside(&self, key: &str, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(name);
        let failed = |error| failure("move aside", &path, error);
        let known = self.aside(key)?;
        let seconds = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        // Always later than what is there, so that this is not taken for the oldest.
        let time = match known.last().map(|name| time_of(name)) {
            Some((last, number)) if last >= seconds => {
                format!("{last}-{}", number.saturating_add(1))
            }
            _ => seconds.to_string(),
        };
        let free = format!("{}{ASIDE}{time}", stem_of(key));
        rustix::fs::renameat(&self.fd, name, &self.fd, &free)
            .map_err(|error| failed(error.into()))?;
        let too_many = (known.len() + 1).saturating_sub(MOST_ASIDE);
        known.iter().take(too_many).for_each(|name| self.remove(name));
        Ok(self.path.join(free))
    }

    /// What was set aside for `key`, the oldest first. Values may have dots: `x/a.corrupt-1` is another key.
    fn aside(&self, key: &str) -> Result<Vec<String>, StoreError> {
        let stem = stem_of(key);
        let mut names = self.names()?;
        names.retain(|name| {
            split_name(name).is_some_and(|(of, rest)| of == stem && rest.starts_with(ASIDE))
        });
        names.sort_by_cached_key(|name| time_of(name));
        Ok(names)
    }

    /// Compares the files of records with what was `seen` of them, and notes the keys of those that have changed.
    fn compare(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let failed = |error: Errno| failure("list", &self.path, error.into());
        let Seen { files, keys, round, changed } = seen;
        *round = round.wrapping_add(1);
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !name.to_bytes().ends_with(b".json") || name.to_bytes().starts_with(b".") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let now = (Signature::of(&stat, self.identity), *round);
            // Nothing is allocated for what is as it was: there may be thousands.
            match files.get_mut(name.to_bytes()) {
                Some(before) if before.0 == now.0 => *before = now,
                before => {
                    let key = name.to_str().ok().and_then(key_of_name);
                    if before.is_none() {
                        keys.extend(key.clone());
                    }
                    changed.extend(key);
                    files.insert(name.to_bytes().to_vec(), now);
                }
            }
        }
        files.retain(|name, (_, last)| {
            let is_there = last == round;
            if !is_there {
                let key = std::str::from_utf8(name).ok().and_then(key_of_name);
                if let Some(key) = &key {
                    keys.remove(key);
                }
                changed.extend(key);
            }
            is_there
        });
        Ok(())
    }

    fn keys(&self) -> Result<Vec<String>, StoreError> {
        let names = self.names()?;
        let mut keys: Vec<String> = names.iter().filter_map(|name| key_of_name(name)).collect();
        keys.sort();
        Ok(keys)
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
        Box::new(Watch { store: self.clone(), seen: Arc::default(), missing: HashSet::new() })
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

/// Compares the directory with what it was, because notifications do not come from other machines. At first
/// everything is new, so that nothing is missed that was written while this began.
struct Watch {
    store: FileStore,
    seen: Arc<Mutex<Seen>>,
    /// What was not there, and has been named.
    missing: HashSet<String>,
}

/// The files of records, by their names, and in which round they were seen last.
#[derive(Default)]
struct Seen {
    files: HashMap<Vec<u8>, (Signature, u64)>,
    /// Of which keys they are: looked up for each key in each round.
    keys: HashSet<String>,
    round: u64,
    /// The keys of what has changed, until somebody has been told: a look may fail or be given up halfway.
    changed: Vec<String>,
}

/// What changes with a file: whose it is, how long, and when it was changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Signature([i128; 5]);

impl Signature {
    fn of(stat: &Stat, directory: Identity) -> Self {
        let time = |seconds: i64, nanoseconds: i128| i128::from(seconds) << 32 | nanoseconds;
        Self([
            i128::from(directory.1),
            i128::from(stat.st_ino),
            i128::from(stat.st_size),
            time(stat.st_mtime, stat.st_mtime_nsec.into()),
            time(stat.st_ctime, stat.st_ctime_nsec.into()),
        ])
    }
}

impl Changes for Watch {
    fn next<'a>(
        &'a mut self,
        expected: &'a Expected<'a>,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let seen = Arc::clone(&self.seen);
                let looking = self.store.run(move |directory| {
                    directory.compare(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
                });
                match tokio::time::timeout(super::DEADLINE, looking).await {
                    Ok(Ok(())) => {}
                    // What cannot be looked at is said by whoever uses it.
                    Ok(Err(_)) => {
                        // Whoever has stored something there is told that it is out of reach.
                        let lost = expected(&|_| false).into_iter();
                        let lost: Vec<_> =
                            lost.filter(|key| self.missing.insert(key.clone())).collect();
                        if lost.is_empty() {
                            continue;
                        }
                        return lost;
                    }
                    Err(_) => {
                        // A thread that hangs keeps what it has.
                        self.seen = Arc::default();
                        continue;
                    }
                }
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                self.missing.retain(|key| !seen.keys.contains(key));
                let gone = expected(&|key| seen.keys.contains(key));
                let mut changed = std::mem::take(&mut seen.changed);
                changed.extend(gone.into_iter().filter(|key| self.missing.insert(key.clone())));
                drop(seen);
                // What was removed is named by both.
                changed.sort();
                changed.dedup();
                if !changed.is_empty() {
                    return changed;
                }
            }
        })
    }
}

/// The records in `dir`, in order, with where they are. What cannot be read is left out: it is complained of
/// when it is used.
pub(super) fn records_in(dir: &Path) -> Vec<(String, PathBuf, Vec<u8>)> {
    let Ok(directory) = Directory::open(&Arc::from(dir)) else { return Vec::new() };
    let mut names = directory.names().unwrap_or_default();
    names.sort();
    let record = |name: String| {
        let (stem, ".json") = split_name(&name)? else { return None };
        let file = directory.open_file(&name, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let path = dir.join(&name);
        let bytes = read_private(file, &path).ok()?;
        Some((key_of(stem), path, bytes))
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

fn record_name(key: &str) -> String {
    format!("{}.json", stem_of(key))
}

/// The stem of a record's name or of one that was set aside, and what follows. Temporary files begin with a dot.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let aside = || {
        let (stem, time) = name.rsplit_once(ASIDE)?;
        time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-').then_some(stem)
    };
    let stem = name.strip_suffix(".json").or_else(aside)?;
    (!stem.starts_with('.')).then(|| name.split_at_checked(stem.len()))?
}

/// When it was set aside: the second, and the number within it.
fn time_of(name: &str) -> (u64, u64) {
    let (_, time) = name.rsplit_once(ASIDE).unwrap_or_default();
    let (seconds, number) = time.split_once('-').unwrap_or((time, ""));
    (seconds.parse().unwrap_or(0), number.parse().unwrap_or(1))
}

/// A dot, so that a credential's name (which starts with a letter or digit) never begins like it.
fn temporary_prefix(key: &str) -> String {
    format!(".{}.json.", stem_of(key))
}

/// Keys are made of credentials' names and percent-encoded values, so neither has an `@` or a comma of its
/// own. The digits of an escape stay as they are: they are capitals always. So do all capitals of a key that
/// would become too long: no disk may refuse it, and few take capitals for small letters.
fn stem_of(key: &str) -> String {
    let escaped = escaped(key);
    if escaped.len() <= LONGEST_STEM { escaped } else { key.replace('/', "@") }
}

fn escaped(key: &str) -> String {
    let mut stem = String::with_capacity(key.len());
    let mut digits = 0;
    for c in key.chars() {
        match c {
            '/' => stem.push('@'),
            c if c.is_ascii_uppercase() && digits == 0 => {
                stem.extend([',', c.to_ascii_lowercase()]);
            }
            c => stem.push(c),
        }
        digits = if c == '%' { 2 } else { u8::saturating_sub(digits, 1) };
    }
    stem
}

/// The key of the record in a file of this name, if it is one.
fn key_of_name(name: &str) -> Option<String> {
    split_name(name).filter(|(_, rest)| *rest == ".json").map(|(stem, _)| key_of(stem))
}

fn key_of(stem: &str) -> String {
    let mut key = String::with_capacity(stem.len());
    let mut chars = stem.chars();
    while let Some(c) = chars.next() {
        match c {
            '@' => key.push('/'),
            ',' => key.extend(chars.next().map(|c| c.to_ascii_uppercase())),
            c => key.push(c),
        }
    }
    key
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
