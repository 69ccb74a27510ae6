//! Locks that others replace, and directories that are replaced under their holders.

use super::*;

/// The fence stays the same for the next holder and changes with the lock file.
#[tokio::test]
async fn a_fence_identifies_the_lock_file() {
    let (_dir, path, store) = temp_store();
    let first = lease(&store, "a").await.unwrap().fence().clone();
    let held = lease(&open(&path), "a").await.unwrap();
    assert_eq!(held.fence(), &first);
    assert_ne!(lease(&store, "b").await.unwrap().fence(), &first);
    std::fs::remove_file(path.join("a.lock")).unwrap();
    assert_ne!(lease(&store, "a").await.unwrap().fence(), held.fence());
}

#[tokio::test]
async fn a_lease_whose_lock_was_removed_or_replaced_is_lost() {
    for replaced in [false, true] {
        let (_dir, path, store) = temp_store();
        let held = lease(&store, "a").await.unwrap();
        let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
        std::fs::remove_file(path.join("a.lock")).unwrap();
        if replaced {
            write_private(&path.join("a.lock"), b"");
        }
        assert!(is_lost(&held.check().await));
        let late = store.put("a", first, Some(&held), &record("rt-2")).await;
        assert!(is_lost(&late), "{late:?}");
        assert_eq!(token_of(&store, "a").await.as_deref(), Some("rt-1"));
        // The next holder gets a lock that excludes everyone.
        let next = lease(&open(&path), "a").await.unwrap();
        next.check().await.unwrap();
        assert!(is_busy(&lease(&store, "a").await));
        assert!(is_lost(&held.check().await));
        let put = store.put("a", first, Some(&next), &record("rt-2")).await.unwrap();
        assert!(matches!(put, PutOutcome::Stored(_)), "{put:?}");
    }
}

/// Only the name counts: a lock behind a symbolic link is a different lock.
#[tokio::test]
async fn a_lock_that_became_a_link_is_lost() {
    let (_dir, path, store) = temp_store();
    let held = lease(&store, "a").await.unwrap();
    std::fs::rename(path.join("a.lock"), path.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", path.join("a.lock")).unwrap();
    assert!(is_lost(&held.check().await));
    assert!(lease(&store, "a").await.is_err());
}

#[tokio::test]
async fn a_lease_of_a_directory_that_was_replaced_by_a_copy_is_lost() {
    let (dir, path, store) = temp_store();
    let held = lease(&store, "a").await.unwrap();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let old = dir.path().join("old");
    std::fs::rename(&path, &old).unwrap();
    copy(&old, &path);
    let untouched = contents(&old);
    assert!(is_lost(&held.check().await));
    let late = store.put("a", first, Some(&held), &record("late")).await;
    assert!(is_lost(&late), "{late:?}");
    // From now on the new directory is used, as by everyone else.
    let next = lease(&open(&path), "a").await.unwrap();
    assert!(is_busy(&lease(&store, "a").await));
    let put = store.put("a", first, Some(&next), &record("rt-2")).await.unwrap();
    assert!(matches!(put, PutOutcome::Stored(_)), "{put:?}");
    assert_eq!(token_of(&open(&path), "a").await.as_deref(), Some("rt-2"));
    assert_eq!(contents(&old), untouched);
}

/// Nobody else can hold a lock in a missing directory, but nothing can be stored either.
#[tokio::test]
async fn a_missing_directory_fails_until_it_is_back() {
    let (dir, path, store) = temp_store();
    let held = lease(&store, "a").await.unwrap();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    std::fs::rename(&path, dir.path().join("away")).unwrap();
    held.check().await.unwrap();
    assert_eq!(store.load("a").await.unwrap_err().label(), "store_io");
    let put = store.put("a", first, Some(&held), &record("rt-2")).await;
    assert_eq!(put.unwrap_err().label(), "store_io");
    std::fs::rename(dir.path().join("away"), &path).unwrap();
    held.check().await.unwrap();
    let put = store.put("a", first, Some(&held), &record("rt-2")).await.unwrap();
    assert!(matches!(put, PutOutcome::Stored(_)), "{put:?}");
}

#[tokio::test]
async fn a_restored_directory_is_used_with_its_legacy_names() {
    let (dir, path, store) = temp_store();
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    std::fs::create_dir(&path).unwrap();
    write_private(&path.join("Paris.json"), &bytes_of("Paris", "rt-1"));
    assert_eq!(token_of(&store, "Paris").await.as_deref(), Some("rt-1"));
}
