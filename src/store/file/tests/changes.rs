//! Detection of changes made by other processes.

use super::*;
use crate::store::ExpectedKeys;
use crate::store::file::watch::POLL_INTERVAL;

/// Expects no records.
fn nothing(_is_there: &dyn Fn(&str) -> bool) -> Vec<String> {
    Vec::new()
}

/// Expects two records.
fn both(is_there: &dyn Fn(&str) -> bool) -> Vec<String> {
    ["a", "b/Paris"].into_iter().filter(|key| !is_there(key)).map(str::to_owned).collect()
}

/// The changed keys, which must be reported within two seconds.
async fn next(changes: &mut dyn StoreChanges, expected: &ExpectedKeys<'_>) -> Vec<String> {
    let next = tokio::time::timeout(Duration::from_secs(2), changes.next(expected));
    let mut named = next.await.unwrap();
    named.sort();
    named
}

async fn is_quiet(changes: &mut dyn StoreChanges, expected: &ExpectedKeys<'_>) -> bool {
    tokio::time::timeout(Duration::from_secs(20), changes.next(expected)).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn changes_by_others_are_reported_within_two_seconds() {
    let (_dir, path, store) = temp_store();
    let mut changes = store.changes();
    assert!(is_quiet(&mut *changes, &nothing).await);
    let other = open(&path);
    let first = stored(&other, "a", Version::ABSENT, "rt-1").await;
    stored(&other, "a/Paris", Version::ABSENT, "rt-1").await;
    assert_eq!(next(&mut *changes, &nothing).await, ["a", "a/Paris"]);
    assert!(is_quiet(&mut *changes, &nothing).await);
    stored(&other, "a", first, "rt-2").await;
    assert_eq!(next(&mut *changes, &nothing).await, ["a"]);
    std::fs::write(path.join("a@,paris.json"), b"{").unwrap();
    assert_eq!(next(&mut *changes, &nothing).await, ["a/Paris"]);
    std::fs::remove_file(path.join("a.json")).unwrap();
    assert_eq!(next(&mut *changes, &nothing).await, ["a"]);
    // Locks and quarantined files are not records.
    drop(lease(&other, "b").await.unwrap());
    assert!(other.load("a/Paris").await.is_err());
    assert_eq!(next(&mut *changes, &nothing).await, ["a/Paris"]);
    assert!(is_quiet(&mut *changes, &nothing).await);
}

#[tokio::test(start_paused = true)]
async fn a_change_right_after_the_start_is_not_missed() {
    let (_dir, path, store) = temp_store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let mut changes = store.changes();
    stored(&open(&path), "a", first, "rt-2").await;
    assert_eq!(next(&mut *changes, &nothing).await, ["a"]);
}

/// The new directory's records may be older or missing.
#[tokio::test(start_paused = true)]
async fn all_keys_are_reported_when_the_directory_is_replaced() {
    let (dir, path, store) = temp_store();
    for key in ["a", "b/Paris"] {
        stored(&store, key, Version::ABSENT, "rt-1").await;
    }
    let mut changes = store.changes();
    assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
    assert!(is_quiet(&mut *changes, &both).await);
    let old = dir.path().join("old");
    std::fs::rename(&path, &old).unwrap();
    // The owner of the records learns once that they are unreachable.
    assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
    assert!(is_quiet(&mut *changes, &both).await, "a missing directory reports no changes");
    copy(&old, &path);
    std::fs::remove_file(path.join("b@,paris.json")).unwrap();
    assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
    assert!(is_quiet(&mut *changes, &both).await);
}

/// The record may have been removed before it was ever seen.
#[tokio::test(start_paused = true)]
async fn a_missing_record_is_reported_once_each_time_it_disappears() {
    let (dir, path, store) = temp_store();
    let mut changes = store.changes();
    for _ in 0..2 {
        assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
        assert!(is_quiet(&mut *changes, &both).await);
        for key in ["a", "b/Paris"] {
            stored(&store, key, Version::ABSENT, "rt-1").await;
        }
        assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
        assert!(is_quiet(&mut *changes, &both).await);
        // While the directory is unreachable, earlier observations are forgotten.
        let away = dir.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
        assert!(is_quiet(&mut *changes, &both).await);
        for name in ["a.json", "b@,paris.json"] {
            std::fs::remove_file(away.join(name)).unwrap();
        }
        std::fs::rename(&away, &path).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_wait_for_changes_misses_none() {
    let (_dir, path, store) = temp_store();
    let mut changes = store.changes();
    let mut version = Version::ABSENT;
    let other = open(&path);
    for look in 0..20 {
        version = stored(&other, "a", version, "rt").await;
        let mut named = false;
        {
            let mut waiting = changes.next(&nothing);
            tokio::time::advance(POLL_INTERVAL).await;
            for _ in 0..look {
                let poll =
                    std::future::poll_fn(|it| std::task::Poll::Ready(waiting.as_mut().poll(it)));
                if poll.await.is_ready() {
                    named = true;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert!(named || next(&mut *changes, &nothing).await == ["a"], "{look}");
    }
}
