//! An open directory of record files. All operations block.

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

use super::file_names::{
    QUARANTINE_INFIX, TEMPORARY, key_of, key_of_name, quarantine_time, record_name, split_name,
    stem_of, temporary_prefix,
};
use super::watch::{DirectorySnapshot, Signature};
use super::{FileId, fence_of, file_id, file_id_of, io_error, read_private};
use crate::crash;
use crate::store::{Fence, StoreError, Version};

/// How long a write waits for another write, and how often it retries. Ends before the deadline of
/// a call, so that the caller learns that nothing was written.
const COMMIT_WAIT: Duration = Duration::from_millis(700);
const COMMIT_POLL: Duration = Duration::from_millis(5);
/// The maximum number of quarantined records per key; the oldest are deleted.
pub(super) const MAX_QUARANTINED: usize = 8;

/// An open directory, even if its path now refers to another one.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: Arc<Path>,
    fd: OwnedFd,
    pub(super) file_id: FileId,
}

impl Directory {
    pub(super) fn open(path: &Arc<Path>) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&**path, flags, Mode::empty())
            .map_err(|error| io_error("open", path, error.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| io_error("open", path, error.into()))?;
        Ok(Self { path: Arc::clone(path), fd, file_id: file_id(&stat) })
    }

    /// Returns true if the path still refers to this directory.
    ///
    /// # Errors
    ///
    /// If the path does not refer to a directory.
    pub(super) fn is_current(&self) -> Result<bool, StoreError> {
        let stat = rustix::fs::stat(&*self.path);
        let stat = stat.map_err(|error| io_error("use", &self.path, error.into()))?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            true => Ok(file_id(&stat) == self.file_id),
            false => Err(io_error("use", &self.path, ErrorKind::NotADirectory.into())),
        }
    }

    /// Returns true if the path no longer refers to a directory.
    pub(super) fn is_gone(&self) -> bool {
        match rustix::fs::stat(&*self.path) {
            Ok(stat) => !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir(),
            Err(error) => matches!(error, Errno::NOENT | Errno::NOTDIR),
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        let name = format!(".{}{TEMPORARY}", crate::template::uuid());
        self.open_file(&name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .map_err(|error| io_error("write to", &self.path, error.into()))?;
        self.remove(&name);
        Ok(())
    }

    /// Renames files whose names predate the escaping of capital letters. If a record exists under
    /// both names, because an older version ran again, the one written last wins.
    pub(super) fn rename_legacy_files(self: &Arc<Self>) -> Result<(), StoreError> {
        for name in self.names()? {
            let Some((former, rest)) = split_name(&name) else { continue };
            let key = key_of(former);
            let stem = stem_of(&key);
            if stem == former {
                continue;
            }
            let _commit_lock = self.lock_commits(&key)?;
            // Another process that starts now may have renamed it.
            let Some(changed) = self.modified_at(&name) else { continue };
            let to = format!("{stem}{rest}");
            match self.modified_at(&to) {
                Some(other) if other > changed => drop(self.quarantine_file(&key, &name)?),
                Some(_) => drop(self.quarantine_file(&key, &to)?),
                None => {}
            }
            match rustix::fs::renameat(&self.fd, &name, &self.fd, &to) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(io_error("rename", &self.path.join(name), error.into())),
            }
        }
        Ok(())
    }

    /// The modification time of a file; `None` if it does not exist.
    pub(super) fn modified_at(&self, name: &str) -> Option<(i64, i128)> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_mtime, stat.st_mtime_nsec.into()))
    }

    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    pub(super) fn file_id_at(&self, name: &str) -> Result<FileId, Errno> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(file_id(&stat))
    }

    pub(super) fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |error: Errno| io_error("list", &self.path, error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            names.extend(name.to_str().map(str::to_owned));
        }
        Ok(names)
    }

    pub(super) fn remove(&self, name: &str) {
        // A file that cannot be removed does no harm.
        let _litter = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
    }

    pub(super) fn record_path(&self, key: &str) -> PathBuf {
        self.path.join(record_name(key))
    }

    /// Reads a regular file that no other user can read; `None` if it does not exist.
    pub(super) fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.record_path(key);
        // A FIFO in place of the record must not block the open.
        match self.open_file(&record_name(key), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => read_private(file, &path).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(io_error("open", &path, error.into())),
        }
    }

    /// Takes the lock file `name` if it is free. Returns `None` if it is held, or was replaced
    /// meanwhile.
    pub(super) fn try_lock(
        self: &Arc<Self>,
        name: &str,
        key: &str,
    ) -> Result<Option<(Arc<Self>, File)>, StoreError> {
        let path = self.path.join(name);
        let failed = |action, error: Errno| io_error(action, &path, error.into());
        let file = self
            .open_file(name, OFlags::WRONLY | OFlags::CREATE)
            .map_err(|error| failed("open", error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(failed("lock", error)),
        }
        let is_named = self.file_id_at(name).ok() == Some(file_id_of(&file, &path)?);
        if !is_named {
            tracing::debug!(key, "the lock was replaced while it was waited for");
        }
        Ok(is_named.then(|| (Arc::clone(self), file)))
    }

    /// Takes the lock that makes compare-and-set atomic. A write takes milliseconds; a process that
    /// was stopped during one delays others by at most [`COMMIT_WAIT`].
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
        let _commit_lock = self.lock_commits(key)?;
        if let Some(fence) = fence {
            self.check(key, fence)?;
        }
        if !expected.is_of(self.read(key)?.as_deref()) {
            return Ok(false);
        }
        self.replace(key, bytes).map(|()| true)
    }

    /// Checks that the lock of this fence is still the one under its name.
    pub(super) fn check(&self, key: &str, fence: &Fence) -> Result<(), StoreError> {
        let lost = || StoreError::LeaseLost { key: key.to_owned() };
        let name = format!("{}.lock", stem_of(key));
        let named = self.file_id_at(&name).map_err(|_| lost())?;
        if fence_of(named) == *fence { Ok(()) } else { Err(lost()) }
    }

    pub(super) fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.remove_stale_temporaries(key);
        let path = self.record_path(key);
        // Short, because the record's name may be long.
        let random: String = crate::template::uuid().chars().take(8).collect();
        let temporary = format!("{}{random}{TEMPORARY}", temporary_prefix(key));
        let written = self
            .open_file(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .map_err(std::io::Error::from)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
        let replaced = written.map_err(|error| io_error("write", &path, error)).and_then(|()| {
            crash::point("after_temp");
            rustix::fs::renameat(&self.fd, &temporary, &self.fd, record_name(key))
                .map_err(|error| io_error("replace", &path, error.into()))
        });
        if replaced.is_err() {
            self.remove(&temporary);
            return replaced;
        }
        crash::point("after_rename");
        rustix::fs::fsync(&self.fd).map_err(|error| io_error("sync", &self.path, error.into()))
    }

    /// Removes temporary files that a killed process left behind.
    pub(super) fn remove_stale_temporaries(&self, key: &str) {
        let prefix = temporary_prefix(key);
        // The rest is random and has no dot; otherwise the file belongs to `x/a.json` instead of
        // `x/a`.
        let is_of_key = |name: &String| {
            let rest = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(TEMPORARY));
            rest.is_some_and(|rest| !rest.contains('.'))
        };
        let names = self.names().unwrap_or_default();
        names.iter().filter(|name| is_of_key(name)).for_each(|name| self.remove(name));
    }

    /// Moves a damaged record away, so that it is neither used nor lost. Takes the commit lock,
    /// because the damaged record may have been replaced since it was read, and a valid one must
    /// not be moved.
    pub(super) fn quarantine(
        self: &Arc<Self>,
        key: &str,
        damaged: Version,
    ) -> Result<Option<String>, StoreError> {
        let _commit_lock = self.lock_commits(key)?;
        if !damaged.is_of(self.read(key)?.as_deref()) {
            return Ok(None);
        }
        self.quarantine_file(key, &record_name(key)).map(|path| Some(path.display().to_string()))
    }

    /// Renames a file of `key`. The caller holds the commit lock.
    pub(super) fn quarantine_file(&self, key: &str, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(name);
        let failed = |error| io_error("quarantine", &path, error);
        let known = self.quarantined(key)?;
        let seconds = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        // Always later than the existing ones, so that this one does not count as the oldest.
        let time = match known.last().map(|name| quarantine_time(name)) {
            Some((last, number)) if last >= seconds => {
                format!("{last}-{}", number.saturating_add(1))
            }
            _ => seconds.to_string(),
        };
        let free = format!("{}{QUARANTINE_INFIX}{time}", stem_of(key));
        rustix::fs::renameat(&self.fd, name, &self.fd, &free)
            .map_err(|error| failed(error.into()))?;
        let too_many = (known.len() + 1).saturating_sub(MAX_QUARANTINED);
        known.iter().take(too_many).for_each(|name| self.remove(name));
        Ok(self.path.join(free))
    }

    /// The quarantined files of `key`, oldest first. Values may contain dots: `x/a.corrupt-1` is
    /// another key.
    pub(super) fn quarantined(&self, key: &str) -> Result<Vec<String>, StoreError> {
        let stem = stem_of(key);
        let mut names = self.names()?;
        names.retain(|name| {
            split_name(name)
                .is_some_and(|(of, rest)| of == stem && rest.starts_with(QUARANTINE_INFIX))
        });
        names.sort_by_cached_key(|name| quarantine_time(name));
        Ok(names)
    }

    /// Compares the record files with `seen` and adds the keys of the changed ones to it.
    pub(super) fn update(&self, seen: &mut DirectorySnapshot) -> Result<(), StoreError> {
        let failed = |error: Errno| io_error("list", &self.path, error.into());
        let DirectorySnapshot { files, keys, round, changed } = seen;
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
            let now = (Signature::of(&stat, self.file_id), *round);
            // Nothing is allocated for unchanged files, because there may be thousands.
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
