//! The file store against a real file system.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::secret::Secret;

fn store() -> (tempfile::TempDir, FileStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(&dir.path().join("state")).unwrap();
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
    let other = FileStore::open(&store.dir).unwrap();
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
    let other = FileStore::open(&store.dir).unwrap();
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
    let newer = b"{\"bearerd\": 3, \"sha256\": \"\", \"record\": {}}";
    let path = store.dir.join("a.json");
    std::fs::write(&path, newer).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(store.load("a").await, Err(StoreError::Newer { version: 3, .. })));
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
    let error = FileStore::open(&file.join("state")).unwrap_err();
    assert!(error.to_string().contains("file/state"), "{error}");
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
