//! The file store against a real file system.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::secret::Secret;

fn store() -> (tempfile::TempDir, FileStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(&dir.path().join("state"), Keys::default()).unwrap();
    (dir, store)
}

fn record(generation: u64, token: &str) -> TokenRecord {
    TokenRecord {
        generation: Generation(generation),
        refresh_token: Some(Secret::new(token.to_owned())),
        ..TokenRecord::default()
    }
}

async fn put(store: &FileStore, expected: u64, record: &TokenRecord) -> Commit {
    let lease = store.lease("a", Duration::from_secs(5)).await.unwrap();
    store.commit(&lease, Generation(expected), record).await.unwrap()
}

#[tokio::test]
async fn a_commit_is_read_back_by_another_process_s_eyes() {
    let (_dir, store) = store();
    assert_eq!(store.load("a").await.unwrap(), None);
    assert_eq!(put(&store, 0, &record(1, "rt1")).await, Commit::Stored);
    let other = FileStore::open(&store.dir, Keys::default()).unwrap();
    assert_eq!(other.load("a").await.unwrap(), Some(record(1, "rt1")));
}

#[tokio::test]
async fn a_commit_over_another_generation_changes_nothing() {
    let (_dir, store) = store();
    put(&store, 0, &record(1, "rt1")).await;
    assert_eq!(put(&store, 0, &record(1, "other")).await, Commit::Conflict);
    assert_eq!(put(&store, 5, &record(6, "other")).await, Commit::Conflict);
    assert_eq!(store.load("a").await.unwrap(), Some(record(1, "rt1")));
}

#[tokio::test]
async fn a_lease_excludes_everyone_until_it_is_dropped() {
    let (_dir, store) = store();
    let lease = store.lease("a", Duration::ZERO).await.unwrap();
    let other = FileStore::open(&store.dir, Keys::default()).unwrap();
    let busy = other.lease("a", Duration::ZERO).await.unwrap_err();
    assert!(matches!(busy, StoreError::Busy { .. }), "{busy}");
    assert!(other.lease("b", Duration::ZERO).await.is_ok());
    drop(lease);
    assert!(other.lease("a", Duration::ZERO).await.is_ok());
}

#[tokio::test]
async fn files_are_0600_and_the_directory_0700() {
    let (_dir, store) = store();
    put(&store, 0, &record(1, "rt1")).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&store.dir), 0o700);
    assert_eq!(mode(&store.dir.join("a.json")), 0o600);
    assert_eq!(mode(&store.dir.join("a.lock")), 0o600);
}

#[tokio::test]
async fn a_torn_or_empty_record_is_moved_aside_and_can_be_written_again() {
    let whole = record(3, "rt3").to_bytes();
    for bytes in [&whole[..0], &whole[..whole.len() / 2]] {
        let (_dir, store) = store();
        put(&store, 0, &record(3, "rt3")).await;
        std::fs::write(store.dir.join("a.json"), bytes).unwrap();
        let error = store.load("a").await.unwrap_err();
        let StoreError::Corrupt { aside, .. } = &error else { panic!("{error}") };
        assert_eq!(std::fs::read(aside).unwrap(), bytes);
        assert_eq!(store.load("a").await.unwrap(), None);
        assert_eq!(put(&store, 0, &record(3, "rt3")).await, Commit::Stored);
    }
}

#[tokio::test]
async fn records_damaged_in_the_same_second_are_all_kept() {
    let (_dir, store) = store();
    let mut kept = Vec::new();
    for bytes in [&b"{1"[..], b"{2", b"{3"] {
        put(&store, 0, &record(3, "rt3")).await;
        std::fs::write(store.dir.join("a.json"), bytes).unwrap();
        let error = store.load("a").await.unwrap_err();
        let StoreError::Corrupt { aside, .. } = error else { panic!("{error}") };
        kept.push((aside, bytes));
    }
    for (aside, bytes) in kept {
        assert_eq!(std::fs::read(&aside).unwrap(), bytes, "{}", aside.display());
    }
}

/// A reader needs no lock, so that the whole record of a writer can come between its look and its rename.
#[tokio::test]
async fn a_damaged_record_stays_while_somebody_is_writing_a_whole_one() {
    let (_dir, store) = store();
    put(&store, 0, &record(3, "rt3")).await;
    let path = store.dir.join("a.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"{").unwrap();
    let writing = store.lock_commits("a").unwrap();
    let busy = store.load("a").await.unwrap_err();
    assert!(matches!(busy, StoreError::Busy { .. }), "{busy}");
    let (reader, started) = (store.clone(), Arc::new(std::sync::Barrier::new(2)));
    let ready = Arc::clone(&started);
    let reading = std::thread::spawn(move || {
        ready.wait();
        reader.load_now("a")
    });
    started.wait();
    std::fs::write(&path, whole).unwrap();
    drop(writing);
    assert_eq!(reading.join().unwrap().unwrap(), Some(record(3, "rt3")));
}

/// Values may have dots, and those of strangers are not to hold anybody up.
#[tokio::test]
async fn no_key_has_the_files_of_another() {
    let (_dir, store) = store();
    let keys = ["x/a", "x/a.commit", "x/a.commit-lock", "x/a.json", "x/a.lock", "x/a.json.tmp"];
    for key in keys {
        let _lease = store.lease(key, Duration::ZERO).await.unwrap();
        for other in keys.iter().filter(|other| **other != key) {
            let _commits = store.lock_commits(key).unwrap();
            let lease = store.lease(other, Duration::ZERO).await.unwrap();
            let written = store.commit(&lease, Generation(0), &record(0, other)).await;
            assert!(written.is_ok(), "{key} {other}");
        }
    }
    let writing = [".x@a.json.json.Ab12Cd.tmp", ".x@a.json.tmp.json.Ab12Cd.tmp"];
    for name in writing.iter().chain(&[".x@a.json.Ab12Cd.tmp"]) {
        std::fs::write(store.dir.join(name), "").unwrap();
    }
    store.sweep("x/a");
    assert!(writing.iter().all(|name| store.dir.join(name).exists()));
    assert!(!store.dir.join(".x@a.json.Ab12Cd.tmp").exists());
}

#[tokio::test]
async fn a_process_that_still_holds_the_record_writes_it_over_a_damaged_one() {
    let (_dir, store) = store();
    put(&store, 0, &record(3, "rt3")).await;
    std::fs::write(store.dir.join("a.json"), b"{").unwrap();
    assert_eq!(put(&store, 3, &record(4, "rt4")).await, Commit::Stored);
    assert_eq!(store.load("a").await.unwrap(), Some(record(4, "rt4")));
}

#[tokio::test]
async fn a_record_of_a_newer_format_is_refused_and_left_untouched() {
    let (_dir, store) = store();
    let newer = b"{\"bearerd\": 9, \"sha256\": \"\", \"record\": {}}";
    let path = store.dir.join("a.json");
    std::fs::write(&path, newer).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(store.load("a").await, Err(StoreError::Newer { version: 9, .. })));
    let lease = store.lease("a", Duration::ZERO).await.unwrap();
    assert!(store.commit(&lease, Generation(0), &record(1, "x")).await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), newer);
}

#[tokio::test]
async fn links_pipes_directories_and_readable_files_are_refused() {
    let (_dir, store) = store();
    let path = store.dir.join("a.json");
    let elsewhere = store.dir.join("elsewhere");
    std::fs::write(&elsewhere, record(1, "x").to_bytes()).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(store.load("a").await.is_err(), "symbolic link");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(store.load("a").await.is_err(), "directory");
    std::fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(store.load("a").await.is_err(), "pipe");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, record(1, "x").to_bytes()).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let error = store.load("a").await.unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn what_a_killed_writer_left_behind_is_swept_and_never_read() {
    let (_dir, store) = store();
    put(&store, 0, &record(1, "rt1")).await;
    let litter = store.dir.join(".a.json.xyz.tmp");
    std::fs::write(&litter, record(2, "half").to_bytes()).unwrap();
    assert_eq!(store.load("a").await.unwrap(), Some(record(1, "rt1")));
    put(&store, 1, &record(2, "rt2")).await;
    assert!(!litter.exists());
}

#[test]
fn a_place_where_no_directory_can_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = FileStore::open(&file.join("state"), Keys::default()).unwrap_err();
    assert!(error.to_string().contains("file/state"), "{error}");
}

/// Compare and set are one: an operator, who has no lease, never comes in between.
#[tokio::test]
async fn nobody_writes_while_another_process_is_in_the_middle_of_a_commit() {
    let (_dir, store) = store();
    put(&store, 0, &record(1, "rt1")).await;
    let commit = File::open(store.dir.join("a+commit.lock")).unwrap();
    commit.lock().unwrap();
    let refused = store.overrule("a", Generation(1), &record(2, "rt2")).await;
    assert!(matches!(refused, Err(StoreError::Busy { .. })), "{refused:?}");
    assert_eq!(store.load("a").await.unwrap(), Some(record(1, "rt1")));
    drop(commit);
    assert_eq!(put(&store, 1, &record(2, "rt2")).await, Commit::Stored);
}

/// A logout does not wait for a refresh, and the refresh's commit fails.
#[tokio::test]
async fn an_operator_overrules_the_holder_of_the_lease() {
    let (_dir, store) = store();
    let lease = store.lease("a", Duration::ZERO).await.unwrap();
    store.commit(&lease, Generation(0), &record(1, "x")).await.unwrap();
    let overruled = store.overrule("a", Generation(1), &record(2, "y")).await.unwrap();
    assert_eq!(overruled, Commit::Stored);
    let late = store.commit(&lease, Generation(1), &record(2, "z")).await.unwrap();
    assert_eq!(late, Commit::Conflict);
    assert_eq!(store.load("a").await.unwrap(), Some(record(2, "y")));
    let late = store.overrule("a", Generation(1), &record(2, "z")).await.unwrap();
    assert_eq!(late, Commit::Conflict);
}

// ----- encrypted -----

fn key(seed: u8) -> crate::store::Key {
    let hexadecimal: String = (0..32).map(|at: u8| format!("{:02x}", at ^ seed)).collect();
    crate::store::Key::parse(&Secret::new(hexadecimal)).unwrap()
}

fn keys(current: Option<u8>, old: &[u8]) -> Keys {
    Keys {
        current: current.map(key),
        old: old.iter().map(|seed| key(*seed)).collect(),
        ..Keys::default()
    }
}

/// Every file of the directory with what is in it.
fn contents(dir: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    // A temporary file may be gone by now.
    paths.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
}

fn shows(bytes: &[u8], token: &str) -> bool {
    bytes.windows(token.len()).any(|part| part == token.as_bytes())
}

#[tokio::test]
async fn a_record_of_before_the_key_is_read_and_encrypted_by_the_next_commit() {
    let (_dir, plain) = store();
    put(&plain, 0, &record(1, "token-1")).await;
    let store = FileStore::open(&plain.dir, keys(Some(1), &[])).unwrap();
    assert_eq!(store.load("a").await.unwrap(), Some(record(1, "token-1")));
    assert_eq!(put(&store, 1, &record(2, "token-2")).await, Commit::Stored);
    assert_eq!(store.load("a").await.unwrap(), Some(record(2, "token-2")));
    assert!(!contents(&store.dir).values().any(|bytes| shows(bytes, "token-")));
}

#[tokio::test]
async fn an_old_key_still_reads_and_the_next_commit_takes_the_current_one() {
    let (_dir, before) = store();
    let before = FileStore::open(&before.dir, keys(Some(1), &[])).unwrap();
    put(&before, 0, &record(1, "rt1")).await;
    let rotated = FileStore::open(&before.dir, keys(Some(2), &[1])).unwrap();
    assert_eq!(rotated.load("a").await.unwrap(), Some(record(1, "rt1")));
    put(&rotated, 1, &record(2, "rt2")).await;
    let after = FileStore::open(&before.dir, keys(Some(2), &[])).unwrap();
    assert_eq!(after.load("a").await.unwrap(), Some(record(2, "rt2")));
    assert!(matches!(before.load("a").await, Err(StoreError::Sealed { .. })));
    // And back to plain text, for who wants that.
    let open = FileStore::open(&before.dir, keys(None, &[2])).unwrap();
    put(&open, 2, &record(3, "rt3")).await;
    assert_eq!(plain_load(&before.dir).await, record(3, "rt3"));
}

async fn plain_load(dir: &Path) -> TokenRecord {
    let store = FileStore::open(dir, Keys::default()).unwrap();
    store.load("a").await.unwrap().unwrap()
}

#[tokio::test]
async fn what_other_keys_have_encrypted_is_neither_moved_nor_overwritten() {
    let (_dir, before) = store();
    let before = FileStore::open(&before.dir, keys(Some(1), &[])).unwrap();
    put(&before, 0, &record(1, "rt1")).await;
    let lock = before.lease("a", Duration::ZERO).await.unwrap();
    drop(lock);
    let untouched = contents(&before.dir);
    for keys in [keys(None, &[]), keys(Some(2), &[3])] {
        let examined = examine(&before.dir, &keys, &["a"]);
        let store = FileStore::open(&before.dir, keys).unwrap();
        for error in [examined.unwrap_err(), store.load("a").await.unwrap_err()] {
            assert!(matches!(error, StoreError::Sealed { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains("a.json") && said.contains(&key(1).id().to_string()), "{said}");
            assert!(said.contains("nothing was changed"), "{said}");
        }
        let lease = store.lease("a", Duration::ZERO).await.unwrap();
        for expected in [0, 1] {
            let commit = store.commit(&lease, Generation(expected), &record(9, "x")).await;
            assert!(matches!(commit, Err(StoreError::Sealed { .. })));
        }
        assert_eq!(contents(&before.dir), untouched);
    }
}

#[tokio::test]
async fn the_file_of_another_credential_is_refused_and_stays() {
    let (_dir, store) = store();
    let store = FileStore::open(&store.dir, keys(Some(1), &[])).unwrap();
    put(&store, 0, &record(1, "rt1")).await;
    std::fs::rename(store.dir.join("a.json"), store.dir.join("b.json")).unwrap();
    let untouched = contents(&store.dir);
    let error = store.load("b").await.unwrap_err();
    assert!(error.to_string().contains("another credential"), "{error}");
    assert_eq!(contents(&store.dir), untouched);
}

/// A file's name is not its key: the values of variables stand behind an `@` there.
#[tokio::test]
async fn the_records_of_one_credential_s_many_tokens_are_examined_under_their_own_keys() {
    let (_dir, store) = store();
    let store = FileStore::open(&store.dir, keys(Some(1), &[])).unwrap();
    let lease = store.lease("a/paris", Duration::ZERO).await.unwrap();
    store.commit(&lease, Generation(0), &record(1, "rt1")).await.unwrap();
    assert!(examine(&store.dir, &keys(Some(1), &[]), &["a"]).is_ok());
    assert!(examine(&store.dir, &keys(Some(2), &[]), &["a"]).is_err());
    assert!(examine(&store.dir, &keys(Some(2), &[]), &["b"]).is_ok());
}

#[tokio::test]
async fn a_damaged_encrypted_record_is_moved_aside_like_any_other() {
    let (_dir, store) = store();
    let store = FileStore::open(&store.dir, keys(Some(1), &[])).unwrap();
    put(&store, 0, &record(1, "rt1")).await;
    let path = store.dir.join("a.json");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() - 20;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(examine(&store.dir, &store.keys, &["a"]).is_ok());
    assert!(matches!(store.load("a").await, Err(StoreError::Corrupt { .. })));
    assert_eq!(put(&store, 1, &record(2, "rt2")).await, Commit::Stored);
}

/// Somebody looks at the directory all the time while records are written.
#[tokio::test]
async fn no_file_ever_holds_plain_text_not_even_a_temporary_one() {
    let (_dir, store) = store();
    let store = FileStore::open(&store.dir, keys(Some(1), &[])).unwrap();
    let (dir, stop) = (Arc::clone(&store.dir), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (stopped, temporary) = (Arc::clone(&stop), Arc::clone(&seen));
    let order = std::sync::atomic::Ordering::SeqCst;
    let looker = std::thread::spawn(move || {
        while !stopped.load(order) {
            for (path, bytes) in contents(&dir) {
                assert!(!shows(&bytes, "token-"), "{}", path.display());
                let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
                temporary.fetch_add(usize::from(is_temporary && !bytes.is_empty()), order);
            }
        }
    });
    let mut generation = 0;
    while seen.load(order) < 10 && !looker.is_finished() {
        put(&store, generation, &record(generation + 1, "token-of-a-secret")).await;
        generation += 1;
        assert!(generation < 20_000, "no temporary file was ever seen");
    }
    stop.store(true, order);
    looker.join().unwrap();
}

#[test]
fn records_are_found_by_the_name_of_their_credential() {
    for (key, credential, found) in [
        ("api", "api", true),
        ("api", "ap", false),
        ("api-2", "api", false),
        ("api_2", "api", false),
        ("api", "api-2", false),
        // One of the tokens of a credential with variables.
        ("api/paris", "api", true),
        ("api/paris/2", "api", true),
        ("%61pi", "api", false),
    ] {
        assert_eq!(is_record_of(key, credential), found, "{key} {credential}");
    }
}

#[tokio::test]
async fn the_keys_of_a_credential_are_those_with_values_and_nobody_else_s() {
    let (_dir, store) = store();
    let stores: [Box<dyn TokenStore>; 2] =
        [Box::new(store.clone()), Box::new(crate::store::memory::MemoryStore::default())];
    for store in stores {
        for key in ["a", "a/paris", "a/lyon/1", "a/x%2Fy", "ab/paris", "a-b/paris", "b/a/paris"] {
            let lease = store.lease(key, Duration::ZERO).await.unwrap();
            store.commit(&lease, Generation(0), &record(1, "rt1")).await.unwrap();
        }
        assert_eq!(store.keys("a").await.unwrap(), ["a/lyon/1", "a/paris", "a/x%2Fy"]);
        assert_eq!(store.keys("c").await.unwrap(), [""; 0]);
    }
    std::fs::write(store.dir.join("a@berlin.json.bak"), "").unwrap();
    std::fs::write(store.dir.join(".a@berlin.json.x"), "").unwrap();
    assert_eq!(store.keys("a").await.unwrap(), ["a/lyon/1", "a/paris", "a/x%2Fy"]);
}
