//! What of that which others do is named, and when.

use super::*;
use crate::store::Expected;
use crate::store::file::watch::LOOK;

/// Somebody who has stored nothing.
fn nothing(_is_there: &dyn Fn(&str) -> bool) -> Vec<String> {
    Vec::new()
}

/// Somebody who has stored two records.
fn both(is_there: &dyn Fn(&str) -> bool) -> Vec<String> {
    ["a", "b/Paris"].into_iter().filter(|key| !is_there(key)).map(str::to_owned).collect()
}

/// What is named within the time that it may take.
async fn next(changes: &mut dyn Changes, expected: &Expected<'_>) -> Vec<String> {
    let next = tokio::time::timeout(Duration::from_secs(2), changes.next(expected));
    let mut named = next.await.unwrap();
    named.sort();
    named
}

async fn is_quiet(changes: &mut dyn Changes, expected: &Expected<'_>) -> bool {
    tokio::time::timeout(Duration::from_secs(20), changes.next(expected)).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn what_others_write_remove_or_damage_is_named_within_two_seconds() {
    let (_dir, path, store) = place();
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
    // Locks and what is set aside are no records.
    drop(lease(&other, "b").await.unwrap());
    assert!(other.load("a/Paris").await.is_err());
    assert_eq!(next(&mut *changes, &nothing).await, ["a/Paris"]);
    assert!(is_quiet(&mut *changes, &nothing).await);
}

#[tokio::test(start_paused = true)]
async fn a_change_right_after_the_watch_began_is_not_missed() {
    let (_dir, path, store) = place();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let mut changes = store.changes();
    stored(&open(&path), "a", first, "rt-2").await;
    assert_eq!(next(&mut *changes, &nothing).await, ["a"]);
}

/// What is in it may be older than what is known, or not there at all.
#[tokio::test(start_paused = true)]
async fn all_keys_are_named_when_the_directory_was_replaced() {
    let (dir, path, store) = place();
    for key in ["a", "b/Paris"] {
        stored(&store, key, Version::ABSENT, "rt-1").await;
    }
    let mut changes = store.changes();
    assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
    assert!(is_quiet(&mut *changes, &both).await);
    let old = dir.path().join("old");
    std::fs::rename(&path, &old).unwrap();
    // Whoever has stored something is told that it is out of reach, once.
    assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
    assert!(is_quiet(&mut *changes, &both).await, "while there is none, nothing is known of it");
    copy(&old, &path);
    std::fs::remove_file(path.join("b@,paris.json")).unwrap();
    assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
    assert!(is_quiet(&mut *changes, &both).await);
}

/// It may have been removed before it was ever seen.
#[tokio::test(start_paused = true)]
async fn a_record_that_should_be_there_is_named_once_each_time_that_it_is_not() {
    let (dir, path, store) = place();
    let mut changes = store.changes();
    for _ in 0..2 {
        assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
        assert!(is_quiet(&mut *changes, &both).await);
        for key in ["a", "b/Paris"] {
            stored(&store, key, Version::ABSENT, "rt-1").await;
        }
        assert_eq!(next(&mut *changes, &both).await, ["a", "b/Paris"]);
        assert!(is_quiet(&mut *changes, &both).await);
        // Where nothing can be looked at meanwhile, what was seen there is forgotten.
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
async fn who_stops_waiting_for_changes_misses_none() {
    let (_dir, path, store) = place();
    let mut changes = store.changes();
    let mut version = Version::ABSENT;
    let other = open(&path);
    for look in 0..20 {
        version = stored(&other, "a", version, "rt").await;
        let mut named = false;
        {
            let mut waiting = changes.next(&nothing);
            tokio::time::advance(LOOK).await;
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
