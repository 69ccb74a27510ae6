//! The file store on a real file system: names, modes, locks, and interference with its directory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "tests/changes.rs"]
mod changes;
#[path = "tests/encryption.rs"]
mod encryption;
#[path = "tests/leases.rs"]
mod leases;
#[path = "tests/names.rs"]
mod names;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use rustix::fs::Mode;

use super::directory::MAX_QUARANTINED;
use super::*;
use crate::secret::Secret;
use crate::store::{DEADLINE, EncryptionKeys, Lease, PutOutcome, Store, TokenRecord, WriteId};

const TTL: Duration = Duration::from_secs(30);

fn temp_store() -> (tempfile::TempDir, PathBuf, Store) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let store = open(&path);
    (dir, path, store)
}

fn open(path: &Path) -> Store {
    Store::new(Arc::new(FileStore::open(path).unwrap()), EncryptionKeys::default())
}

fn record(token: &str) -> TokenRecord {
    TokenRecord { refresh_token: Some(Secret::new(token.to_owned())), ..TokenRecord::default() }
}

fn bytes_of(key: &str, token: &str) -> Vec<u8> {
    record(token).to_bytes(key, &WriteId::default())
}

async fn stored(store: &Store, key: &str, expected: Version, token: &str) -> Version {
    match store.put(key, expected, None, &record(token)).await.unwrap() {
        PutOutcome::Stored(version) => version,
        other => panic!("{other:?}"),
    }
}

async fn token_of(store: &Store, key: &str) -> Option<String> {
    let (record, _) = store.load(key).await.unwrap()?;
    record.refresh_token.map(|token| token.expose().to_owned())
}

async fn lease(store: &Store, key: &str) -> Result<Lease, StoreError> {
    store.lease(key, TTL, Duration::ZERO).await
}

async fn quarantined_path(store: &Store, key: &str) -> PathBuf {
    match store.load(key).await.unwrap_err() {
        StoreError::Corrupt { moved_to: Some(moved_to), .. } => moved_to.into(),
        error => panic!("{error}"),
    }
}

/// Writes a file the way bearerd does.
fn write_private(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn names_in(dir: &Path) -> Vec<String> {
    contents(dir)
        .into_keys()
        .map(|it| it.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// All files of the directory and their contents.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    // A temporary file may be gone by now.
    paths.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for (path, _) in contents(from) {
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn is_lost<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::LeaseLost { .. }))
}

fn is_busy<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Busy { .. }))
}

// ----- files -----

#[tokio::test]
async fn files_have_mode_0600_and_the_directory_0700() {
    let (_dir, path, store) = temp_store();
    let held = lease(&store, "a").await.unwrap();
    store.put("a", Version::ABSENT, Some(&held), &record("rt-1")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let names = names_in(&path);
    assert_eq!(names, ["a+commit.lock", "a.json", "a.lock"], "and nothing else is left");
    for name in names {
        assert_eq!(mode(&path.join(&name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn links_pipes_directories_and_readable_files_are_refused() {
    let (_dir, dir, store) = temp_store();
    let path = dir.join("a.json");
    let elsewhere = dir.join("elsewhere");
    write_private(&elsewhere, &bytes_of("a", "rt-1"));
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(store.load("a").await.is_err(), "symbolic link");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(store.load("a").await.is_err(), "directory");
    std::fs::remove_dir(&path).unwrap();
    let pipe = (rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &path, pipe.0, pipe.1, 0).unwrap();
    assert_eq!(store.load("a").await.unwrap_err().label(), "store_unsafe", "pipe");
    std::fs::remove_file(&path).unwrap();
    write_private(&path, &bytes_of("a", "rt-1"));
    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = store.load("a").await.unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        let put = store.put("a", Version::ABSENT, None, &record("rt-2")).await;
        assert!(put.is_err(), "a file that others can access was replaced");
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(token_of(&store, "a").await.as_deref(), Some("rt-1"));
}

#[tokio::test]
async fn an_oversized_file_is_damage_and_is_not_read_completely() {
    let (_dir, path, store) = temp_store();
    write_private(&path.join("a.json"), &bytes_of("a", "rt-1"));
    let large = File::options().append(true).open(path.join("a.json")).unwrap();
    large.set_len(MAX_RECORD + 1).unwrap();
    let aside = quarantined_path(&store, "a").await;
    assert_eq!(std::fs::metadata(aside).unwrap().len(), MAX_RECORD + 1);
    write_private(&path.join("a.json"), &vec![b' '; 5 << 20]);
    let read = store.bytes.read("a").await.unwrap().unwrap();
    assert_eq!(read.len() as u64, MAX_RECORD);
}

#[tokio::test]
async fn temporary_files_of_a_killed_writer_are_removed_and_never_read() {
    let (_dir, path, store) = temp_store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    // The names used by this version and by the one before.
    let litter = [".a.json.0123abcd.tmp", ".a.json.Ab12Cd.tmp"].map(|name| path.join(name));
    litter.iter().for_each(|litter| write_private(litter, &bytes_of("a", "half")));
    assert_eq!(token_of(&store, "a").await.as_deref(), Some("rt-1"));
    assert_eq!(store.bytes.keys().await.unwrap(), ["a"]);
    stored(&store, "a", first, "rt-2").await;
    assert!(litter.iter().all(|litter| !litter.exists()));
}

#[test]
fn an_error_names_the_directory_that_cannot_be_created() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.join("state"), file] {
        let error = FileStore::open(&path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

/// Compare-and-set is atomic, and a waiting writer learns in time that nothing was written.
#[tokio::test]
async fn writes_of_two_processes_are_serialized() {
    let (_dir, path, store) = temp_store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let writing = File::open(path.join("a+commit.lock")).unwrap();
    writing.lock().unwrap();
    let late = store.put("a", first, None, &record("rt-2")).await;
    assert!(is_busy(&late), "{late:?}");
    drop(writing);
    assert_eq!(token_of(&store, "a").await.as_deref(), Some("rt-1"));
    stored(&store, "a", first, "rt-2").await;
}

// ----- quarantine -----

#[tokio::test]
async fn a_damaged_record_is_kept_unchanged_and_reported() {
    let (_dir, path, store) = temp_store();
    let whole = bytes_of("a", "rt-1");
    for bytes in [&whole[..0], &whole[..whole.len() / 2]] {
        write_private(&path.join("a.json"), bytes);
        let error = store.load("a").await.unwrap_err();
        let StoreError::Corrupt { moved_to: Some(moved_to), location, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(std::fs::read(moved_to).unwrap(), bytes);
        assert!(location.ends_with("/a.json") && error.to_string().contains(moved_to), "{error}");
        assert!(!path.join("a.json").exists());
    }
}

/// More than ten in one second, so that their order differs from that of their names.
#[tokio::test]
async fn only_the_newest_damaged_records_are_kept() {
    let (_dir, path, store) = temp_store();
    write_private(&path.join("a-b.corrupt-1"), b"another");
    write_private(&path.join("a.corrupt-1700000000"), b"the oldest");
    let mut aside = Vec::new();
    for number in 0..MAX_QUARANTINED + 7 {
        write_private(&path.join("a.json"), format!("{{{number}").as_bytes());
        aside.push(quarantined_path(&store, "a").await);
    }
    for (number, aside) in aside.iter().enumerate() {
        let kept = std::fs::read_to_string(aside).ok();
        assert_eq!(kept, (number >= 7).then(|| format!("{{{number}")), "{number}");
    }
    assert!(!path.join("a.corrupt-1700000000").exists());
    assert!(path.join("a-b.corrupt-1").exists());
}

/// Readers take no lock, so a valid record may be written between the read and the rename.
#[tokio::test]
async fn nothing_is_quarantined_during_a_write() {
    let (_dir, path, store) = temp_store();
    stored(&store, "a", Version::ABSENT, "rt-1").await;
    let record = path.join("a.json");
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, b"{").unwrap();
    let writing = File::open(path.join("a+commit.lock")).unwrap();
    writing.lock().unwrap();
    let busy = store.load("a").await;
    assert!(is_busy(&busy), "{busy:?}");
    assert_eq!(std::fs::read(&record).unwrap(), b"{");
    let reading = tokio::spawn(async move { token_of(&store, "a").await });
    tokio::task::yield_now().await;
    std::fs::write(&record, whole).unwrap();
    drop(writing);
    assert_eq!(reading.await.unwrap().as_deref(), Some("rt-1"));
}

#[tokio::test]
async fn clear_quarantine_removes_only_quarantined_files() {
    let (_dir, path, store) = temp_store();
    // Values may contain dots, so all of these keys are distinct.
    let others = ["x/a.corrupt-1", "x/a.corrupt-1.corrupt-2", "x/a.corrupt-", "x/aa", "x"];
    for key in others {
        stored(&store, key, Version::ABSENT, key).await;
        drop(lease(&store, key).await.unwrap());
    }
    write_private(&path.join("x@aa.corrupt-1"), b"another's");
    stored(&store, "x/a", Version::ABSENT, "rt-1").await;
    let before = names_in(&path);
    for name in ["x@a.corrupt-1700000000", "x@a.corrupt-1700000000-12"] {
        write_private(&path.join(name), b"rt-0");
    }
    assert_eq!(names_in(&path).len(), before.len() + 2);
    store.clear_quarantine("x/a").await.unwrap();
    assert_eq!(names_in(&path), before);
    for key in others {
        assert_eq!(token_of(&store, key).await.as_deref(), Some(key));
    }
}

// ----- a disk that hangs -----

#[tokio::test]
async fn calls_time_out_when_all_threads_hang() {
    let (_dir, path, store) = temp_store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let below = FileStore::open(&path).unwrap();
    let store = Store::new(Arc::new(below.clone()), EncryptionKeys::default());
    let held = lease(&store, "a").await.unwrap();
    // The hanging calls end when this test does, however it ends.
    let (disk, hang) = std::sync::mpsc::channel::<()>();
    let hang = Arc::new(Mutex::new(hang));
    let hanging: Vec<_> = (0..MAX_BLOCKING_CALLS)
        .map(|_| {
            let (below, hang) = (below.clone(), Arc::clone(&hang));
            tokio::spawn(async move {
                let hung = move |_: &Arc<Directory>| {
                    let _back = hang.lock().unwrap().recv();
                    Ok(())
                };
                below.run(hung).await
            })
        })
        .collect();
    while below.threads.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    let new = record("rt-2");
    let calls = async {
        tokio::join!(
            store.load("a"),
            store.put("a", first, None, &new),
            lease(&store, "b"),
            held.check(),
            store.keys("a"),
            store.clear_quarantine("a"),
        )
    };
    let ended = tokio::time::timeout(DEADLINE * 5, calls).await.expect("a call does not end");
    let (load, put, taken, check, keys, cleared) = ended;
    assert!(started.elapsed() < DEADLINE * 2, "{:?}", started.elapsed());
    assert_eq!(put.unwrap(), PutOutcome::Unknown);
    let errors = [load.err(), taken.err(), check.err(), keys.err(), cleared.err()];
    for (call, error) in errors.into_iter().enumerate() {
        assert!(matches!(error, Some(StoreError::Timeout)), "call {call}: {error:?}");
    }
    // When the disk recovers, nothing has changed: calls that were given up before they began never
    // happen.
    drop(disk);
    for hung in hanging {
        hung.await.unwrap().unwrap();
    }
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-1"), first)));
    assert!(lease(&store, "b").await.is_ok());
    held.check().await.unwrap();
    assert_eq!(below.threads.available_permits(), MAX_BLOCKING_CALLS);
}
