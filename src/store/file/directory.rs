//! An open directory with the files of records in it. Everything here blocks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::names::{
    ASIDE, TEMPORARY, key_of, key_of_name, record_name, split_name, stem_of, temporary_prefix,
    time_of,
};
use super::watch::{Seen, Signature};
use super::{Identity, failure, fence_of, identity, identity_of_file, read_private};
use crate::crash;
use crate::store::{Fence, StoreError, Version};

/// How long a write waits for another, and how often it looks. Ends before the deadline of a call, so that
/// whoever waits learns that nothing was written.
const COMMIT_WAIT: Duration = Duration::from_millis(700);
const COMMIT_POLL: Duration = Duration::from_millis(5);
/// So many damaged records of one key are kept, the newest.
pub(super) const MOST_ASIDE: usize = 8;

/// An open directory, whatever becomes of its name.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: Arc<Path>,
    fd: OwnedFd,
    pub(super) identity: Identity,
}

impl Directory {
    pub(super) fn open(path: &Arc<Path>) -> Result<Self, StoreError> {
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
    pub(super) fn named(&self) -> Result<bool, StoreError> {
        let stat = rustix::fs::stat(&*self.path);
        let stat = stat.map_err(|error| failure("use", &self.path, error.into()))?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            true => Ok(identity(&stat) == self.identity),
            false => Err(failure("use", &self.path, ErrorKind::NotADirectory.into())),
        }
    }

    /// Is its name no directory's any more?
    pub(super) fn is_gone(&self) -> bool {
        match rustix::fs::stat(&*self.path) {
            Ok(stat) => !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir(),
            Err(error) => matches!(error, Errno::NOENT | Errno::NOTDIR),
        }
    }

    pub(super) fn prove_writable(&self) -> Result<(), StoreError> {
        let name = format!(".{}{TEMPORARY}", crate::template::uuid());
        self.open_file(&name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .map_err(|error| failure("write to", &self.path, error.into()))?;
        self.remove(&name);
        Ok(())
    }

    /// Renames what has a name from before capital letters had an escape. If there is a record under both names,
    /// because an older bearerd has run again, the one that was written last is the current one.
    pub(super) fn rename_former(self: &Arc<Self>) -> Result<(), StoreError> {
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
    pub(super) fn changed(&self, name: &str) -> Option<(i64, i128)> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_mtime, stat.st_mtime_nsec.into()))
    }

    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    pub(super) fn identity_of(&self, name: &str) -> Result<Identity, Errno> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(identity(&stat))
    }

    pub(super) fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |error: Errno| failure("list", &self.path, error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            names.extend(name.to_str().map(str::to_owned));
        }
        Ok(names)
    }

    pub(super) fn remove(&self, name: &str) {
        // What cannot be removed is only litter.
        let _litter = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
    }

    pub(super) fn record_path(&self, key: &str) -> PathBuf {
        self.path.join(record_name(key))
    }

    /// Reads a regular file that nobody else may read; `None` if there is none.
    pub(super) fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.record_path(key);
        // A FIFO in the record's place must not make the open wait for a writer.
        match self.open_file(&record_name(key), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => read_private(file, &path).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failure("open", &path, error.into())),
        }
    }

    /// The lock of this name, if nobody has it. `None` also if it was replaced before it could be had.
    pub(super) fn try_lock(
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
    pub(super) fn lock_commits(self: &Arc<Self>, key: &str) -> Result<File, StoreError> {
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

    pub(super) fn write(
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
    pub(super) fn check(&self, key: &str, fence: &Fence) -> Result<(), StoreError> {
        let lost = || StoreError::LeaseLost { key: key.to_owned() };
        let name = format!("{}.lock", stem_of(key));
        let named = self.identity_of(&name).map_err(|_| lost())?;
        if fence_of(named) == *fence { Ok(()) } else { Err(lost()) }
    }

    pub(super) fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
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
    pub(super) fn sweep(&self, key: &str) {
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
    pub(super) fn set_aside(
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
    pub(super) fn move_aside(&self, key: &str, name: &str) -> Result<PathBuf, StoreError> {
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
    pub(super) fn aside(&self, key: &str) -> Result<Vec<String>, StoreError> {
        let stem = stem_of(key);
        let mut names = self.names()?;
        names.retain(|name| {
            split_name(name).is_some_and(|(of, rest)| of == stem && rest.starts_with(ASIDE))
        });
        names.sort_by_cached_key(|name| time_of(name));
        Ok(names)
    }

    /// Compares the files of records with what was `seen` of them, and notes the keys of those that have changed.
    pub(super) fn compare(&self, seen: &mut Seen) -> Result<(), StoreError> {
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

    pub(super) fn keys(&self) -> Result<Vec<String>, StoreError> {
        let names = self.names()?;
        let mut keys: Vec<String> = names.iter().filter_map(|name| key_of_name(name)).collect();
        keys.sort();
        Ok(keys)
    }
}
