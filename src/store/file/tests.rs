//! The file store against a real file system: names, modes, locks, and what others do to its directory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::SystemTime;

use proptest::prelude::*;
use rustix::fs::Mode;

use super::directory::MOST_ASIDE;
use super::names::{LONGEST_STEM, key_of};
use super::watch::LOOK;
use super::*;
use crate::secret::Secret;
use crate::store::{Config, DEADLINE, Expected, Keys, Lease, Put, Store, TokenRecord, Write};

const TTL: Duration = Duration::from_secs(30);

fn place() -> (tempfile::TempDir, PathBuf, Store) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let store = open(&path);
    (dir, path, store)
}

fn open(path: &Path) -> Store {
    Store::new(Arc::new(FileStore::open(path).unwrap()), Keys::default())
}

fn record(token: &str) -> TokenRecord {
    TokenRecord { refresh_token: Some(Secret::new(token.to_owned())), ..TokenRecord::default() }
}

fn bytes_of(key: &str, token: &str) -> Vec<u8> {
    record(token).to_bytes(key, &Write::default())
}

async fn stored(store: &Store, key: &str, expected: Version, token: &str) -> Version {
    match store.put(key, expected, None, &record(token)).await.unwrap() {
        Put::Stored(version) => version,
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

async fn aside_of(store: &Store, key: &str) -> PathBuf {
    match store.load(key).await.unwrap_err() {
        StoreError::Corrupt { aside: Some(aside), .. } => aside.into(),
        error => panic!("{error}"),
    }
}

/// A file as bearerd writes them.
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

/// Every file of the directory with what is in it.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    // A temporary file may be gone by now.
    paths.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
}

fn is_lost<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::LeaseLost { .. }))
}

fn is_busy<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Busy { .. }))
}

// ----- files -----

#[tokio::test]
async fn files_are_0600_and_the_directory_0700() {
    let (_dir, path, store) = place();
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
    let (_dir, dir, store) = place();
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
    assert_eq!(store.load("a").await.unwrap_err().word(), "store_unsafe", "pipe");
    std::fs::remove_file(&path).unwrap();
    write_private(&path, &bytes_of("a", "rt-1"));
    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = store.load("a").await.unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        let put = store.put("a", Version::ABSENT, None, &record("rt-2")).await;
        assert!(put.is_err(), "what may be somebody else's is not replaced");
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(token_of(&store, "a").await.as_deref(), Some("rt-1"));
}

#[tokio::test]
async fn a_file_larger_than_any_record_is_damage_and_is_not_read_to_its_end() {
    let (_dir, path, store) = place();
    write_private(&path.join("a.json"), &bytes_of("a", "rt-1"));
    let large = File::options().append(true).open(path.join("a.json")).unwrap();
    large.set_len(MAX_RECORD + 1).unwrap();
    let aside = aside_of(&store, "a").await;
    assert_eq!(std::fs::metadata(aside).unwrap().len(), MAX_RECORD + 1);
    write_private(&path.join("a.json"), &vec![b' '; 5 << 20]);
    let read = store.bytes.read("a").await.unwrap().unwrap();
    assert_eq!(read.len() as u64, MAX_RECORD);
}

#[tokio::test]
async fn what_a_killed_writer_left_behind_is_swept_and_never_read() {
    let (_dir, path, store) = place();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    // As this bearerd names it, and as the one before did.
    let litter = [".a.json.0123abcd.tmp", ".a.json.Ab12Cd.tmp"].map(|name| path.join(name));
    litter.iter().for_each(|litter| write_private(litter, &bytes_of("a", "half")));
    assert_eq!(token_of(&store, "a").await.as_deref(), Some("rt-1"));
    assert_eq!(store.bytes.keys().await.unwrap(), ["a"]);
    stored(&store, "a", first, "rt-2").await;
    assert!(litter.iter().all(|litter| !litter.exists()));
}

#[test]
fn a_place_where_no_directory_can_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.join("state"), file] {
        let error = FileStore::open(&path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

/// Compare and set are one. Whoever waits learns in time that nothing was written.
#[tokio::test]
async fn nobody_writes_while_another_process_is_in_the_middle_of_it() {
    let (_dir, path, store) = place();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let writing = File::open(path.join("a+commit.lock")).unwrap();
    writing.lock().unwrap();
    let late = store.put("a", first, None, &record("rt-2")).await;
    assert!(is_busy(&late), "{late:?}");
    drop(writing);
    assert_eq!(token_of(&store, "a").await.as_deref(), Some("rt-1"));
    stored(&store, "a", first, "rt-2").await;
}

// ----- what is set aside -----

#[tokio::test]
async fn what_was_damaged_is_kept_as_it_was_and_named() {
    let (_dir, path, store) = place();
    let whole = bytes_of("a", "rt-1");
    for bytes in [&whole[..0], &whole[..whole.len() / 2]] {
        write_private(&path.join("a.json"), bytes);
        let error = store.load("a").await.unwrap_err();
        let StoreError::Corrupt { aside: Some(aside), place, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(std::fs::read(aside).unwrap(), bytes);
        assert!(place.ends_with("/a.json") && error.to_string().contains(aside), "{error}");
        assert!(!path.join("a.json").exists());
    }
}

/// More than ten in one second, so that their order is not that of their names.
#[tokio::test]
async fn of_what_was_damaged_the_newest_are_kept() {
    let (_dir, path, store) = place();
    write_private(&path.join("a-b.corrupt-1"), b"another");
    write_private(&path.join("a.corrupt-1700000000"), b"the oldest");
    let mut aside = Vec::new();
    for number in 0..MOST_ASIDE + 7 {
        write_private(&path.join("a.json"), format!("{{{number}").as_bytes());
        aside.push(aside_of(&store, "a").await);
    }
    for (number, aside) in aside.iter().enumerate() {
        let kept = std::fs::read_to_string(aside).ok();
        assert_eq!(kept, (number >= 7).then(|| format!("{{{number}")), "{number}");
    }
    assert!(!path.join("a.corrupt-1700000000").exists());
    assert!(path.join("a-b.corrupt-1").exists());
}

/// A reader needs no lock, so that the whole record of a writer can come between its look and its rename.
#[tokio::test]
async fn nothing_is_set_aside_while_somebody_is_writing() {
    let (_dir, path, store) = place();
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
async fn what_was_set_aside_is_removed_and_nothing_else() {
    let (_dir, path, store) = place();
    // Values may have dots, so all of these are keys of others.
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
    store.clear_aside("x/a").await.unwrap();
    assert_eq!(names_in(&path), before);
    for key in others {
        assert_eq!(token_of(&store, key).await.as_deref(), Some(key));
    }
}

// ----- names -----

#[test]
fn each_key_has_a_name_of_its_own_wherever_capitals_are_small_letters() {
    let table = [
        ("api", "api"),
        ("paris", "paris"),
        ("Paris", ",paris"),
        ("PARIS", ",p,a,r,i,s"),
        ("x/Paris/2", "x@,paris@2"),
        ("x/a%2FB", "x@a%2F,b"),
        ("x/%C3%89A", "x@%C3%89,a"),
        ("x/", "x@"),
    ];
    let mut names = std::collections::BTreeSet::new();
    for (key, stem) in table {
        assert_eq!(stem_of(key), stem);
        assert_eq!(key_of(stem), key);
        assert!(names.insert(stem.to_ascii_lowercase()), "{stem}");
    }
}

/// The longest that a configuration allows: a name of 64 bytes and values of 160, at the worst all capitals.
#[tokio::test]
async fn the_longest_keys_have_names_that_a_file_can_have() {
    let (_dir, path, store) = place();
    let name = "n".repeat(64);
    let keys = ["a", "A", "aB", "%C3%89"].map(|value| {
        let values = format!("{}/{}", &value.repeat(79)[..79], &value.repeat(79)[..79]);
        format!("{name}/{values}")
    });
    for key in &keys {
        assert_eq!(key.len(), 224);
        let held = lease(&store, key).await.unwrap();
        let put = store.put(key, Version::ABSENT, Some(&held), &record("rt-1")).await;
        assert!(matches!(put, Ok(Put::Stored(_))), "{put:?}");
        held.check().await.unwrap();
        std::fs::write(store.bytes.place(key), b"{").unwrap();
        for _ in 0..2 {
            assert_eq!(store.load(key).await.unwrap_err().word(), "store_corrupt");
            write_private(&path.join(store.bytes.place(key)), b"{");
        }
        let (record, damaged) = (record("rt-2"), Version::of(b"{", 0));
        let put = store.put(key, damaged, Some(&held), &record).await;
        assert!(matches!(put, Ok(Put::Stored(_))), "{put:?}");
        store.clear_aside(key).await.unwrap();
    }
    let mut sorted = keys.to_vec();
    sorted.sort();
    assert_eq!(store.keys(&name).await.unwrap(), sorted);
    for key in &keys {
        assert_eq!(token_of(&store, key).await.as_deref(), Some("rt-2"));
    }
}

proptest! {
    #[test]
    fn whatever_the_key_its_name_gives_it_back(
        key in "[a-zA-Z0-9_-]{1,64}(/([A-Za-z0-9._~-]|%[0-9A-F]{2}){0,60}){0,3}"
    ) {
        let stem = stem_of(&key);
        prop_assert!(stem.len() <= LONGEST_STEM.max(key.len()));
        prop_assert!(!stem.contains('/') && !stem.starts_with('.'));
        prop_assert_eq!(key_of(&stem), key);
    }
}

/// Values may have dots, and those of strangers are not to hold anybody up.
#[tokio::test]
async fn no_key_has_the_files_of_another() {
    let (_dir, path, store) = place();
    let keys = [
        "x/a",
        "x/a.commit",
        "x/a.commit-lock",
        "x/a.json",
        "x/a.lock",
        "x/a.json.tmp",
        "x/a.corrupt-1",
        "x/A",
        "x@a",
    ];
    let keys = &keys[..8];
    for key in keys {
        stored(&store, key, Version::ABSENT, key).await;
    }
    for key in keys {
        let _lease = lease(&store, key).await.unwrap();
        let writing =
            File::options().write(true).open(path.join(format!("{}+commit.lock", stem_of(key))));
        let writing = writing.unwrap();
        writing.lock().unwrap();
        for other in keys.iter().filter(|other| *other != key) {
            let _lease = lease(&store, other).await.unwrap();
            let (record, version) = store.load(other).await.unwrap().unwrap();
            let put = store.put(other, version, None, &record).await;
            assert!(matches!(put, Ok(Put::Stored(_))), "{key} {other}");
        }
    }
    let writing = [".x@a.json.json.Ab12Cd.tmp", ".x@a.json.tmp.json.Ab12Cd.tmp"];
    for name in writing.iter().chain(&[".x@a.json.Ab12Cd.tmp"]) {
        std::fs::write(path.join(name), "").unwrap();
    }
    let (record, version) = store.load("x/a").await.unwrap().unwrap();
    store.put("x/a", version, None, &record).await.unwrap();
    assert!(writing.iter().all(|name| path.join(name).exists()));
    assert!(!path.join(".x@a.json.Ab12Cd.tmp").exists());
    for key in keys {
        assert_eq!(token_of(&store, key).await.as_deref(), Some(*key));
    }
}

#[tokio::test]
async fn records_are_found_among_other_files() {
    let (_dir, path, store) = place();
    stored(&store, "a/Berlin", Version::ABSENT, "rt-1").await;
    for name in ["a@paris.json.bak", ".a@paris.json", ".a@paris.json.x.tmp", "a@paris.lock"] {
        write_private(&path.join(name), &bytes_of("a/paris", "rt-2"));
    }
    assert_eq!(store.keys("a").await.unwrap(), ["a/Berlin"]);
}

// ----- names from before capitals had an escape -----

#[tokio::test]
async fn records_with_former_names_are_renamed_at_the_start() {
    let (_dir, path, _) = place();
    let former = [
        ("Paris.json", ",paris.json", "Paris"),
        ("x@Lyon@A.json", "x@,lyon@,a.json", "x/Lyon/A"),
        ("x@a%2FB.json", "x@a%2F,b.json", "x/a%2FB"),
        ("x@%C3%89.json", "x@%C3%89.json", "x/%C3%89"),
        ("x@lyon.json", "x@lyon.json", "x/lyon"),
        (",rome.json", ",rome.json", "Rome"),
    ];
    for (name, _, key) in former {
        write_private(&path.join(name), &bytes_of(key, key));
    }
    // What was set aside is to be found when it is to be removed, and what is no record stays.
    write_private(&path.join("Paris.corrupt-1700000000"), b"rt-0");
    write_private(&path.join("README"), b"");
    for _ in 0..2 {
        let store = open(&path);
        for (_, name, key) in former {
            assert!(path.join(name).exists(), "{name}");
            assert_eq!(token_of(&store, key).await.as_deref(), Some(key));
        }
        assert!(path.join("README").exists());
        assert!(!path.join("Paris.json").exists());
    }
    open(&path).clear_aside("Paris").await.unwrap();
    assert!(!names_in(&path).iter().any(|name| name.contains(".corrupt-")));
}

/// An older bearerd has run again meanwhile, or still runs beside this one.
#[tokio::test]
async fn of_two_names_of_one_record_the_one_written_last_is_used_and_the_other_is_kept() {
    for (former, current) in [(60, 0), (0, 60)] {
        let (_dir, path, _) = place();
        for (name, age) in [("Paris.json", former), (",paris.json", current)] {
            write_private(&path.join(name), &bytes_of("Paris", &format!("of-{age}")));
            let file = File::options().write(true).open(path.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        assert_eq!(token_of(&open(&path), "Paris").await.as_deref(), Some("of-0"));
        let names = names_in(&path);
        let aside = names.iter().find(|name| name.starts_with(",paris.corrupt-")).unwrap();
        assert_eq!(std::fs::read(path.join(aside)).unwrap(), bytes_of("Paris", "of-60"));
        assert!(!names.iter().any(|name| name == "Paris.json"), "{names:?}");
    }
}

#[tokio::test]
async fn many_who_start_at_once_rename_each_record_once() {
    let (_dir, path, _) = place();
    let keys: Vec<String> = (0..200).map(|number| format!("Paris-{number}")).collect();
    for key in &keys {
        write_private(&path.join(format!("{key}.json")), &bytes_of(key, key));
    }
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        let start = &start;
        let starting = || {
            start.wait();
            FileStore::open(&path).map(drop)
        };
        let started: Vec<_> = (0..8).map(|_| scope.spawn(starting)).collect();
        started.into_iter().for_each(|it| it.join().unwrap().unwrap());
    });
    let store = open(&path);
    for key in &keys {
        assert_eq!(token_of(&store, key).await.as_ref(), Some(key));
    }
    assert!(!names_in(&path).iter().any(|name| name.contains(".corrupt-")));
}

// ----- leases -----

/// What a lock is known by stays the same for whoever holds it next, and changes with the lock.
#[tokio::test]
async fn a_fence_is_the_lock_s() {
    let (_dir, path, store) = place();
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
        let (_dir, path, store) = place();
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
        // Whoever comes next has a lock that excludes everyone.
        let next = lease(&open(&path), "a").await.unwrap();
        next.check().await.unwrap();
        assert!(is_busy(&lease(&store, "a").await));
        assert!(is_lost(&held.check().await));
        let put = store.put("a", first, Some(&next), &record("rt-2")).await.unwrap();
        assert!(matches!(put, Put::Stored(_)), "{put:?}");
    }
}

/// Only the name counts: a lock behind a link is another's.
#[tokio::test]
async fn a_lock_that_became_a_link_is_lost() {
    let (_dir, path, store) = place();
    let held = lease(&store, "a").await.unwrap();
    std::fs::rename(path.join("a.lock"), path.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", path.join("a.lock")).unwrap();
    assert!(is_lost(&held.check().await));
    assert!(lease(&store, "a").await.is_err());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for (path, _) in contents(from) {
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_lease_of_a_directory_that_was_replaced_by_a_copy_is_lost() {
    let (dir, path, store) = place();
    let held = lease(&store, "a").await.unwrap();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let old = dir.path().join("old");
    std::fs::rename(&path, &old).unwrap();
    copy(&old, &path);
    let untouched = contents(&old);
    assert!(is_lost(&held.check().await));
    let late = store.put("a", first, Some(&held), &record("late")).await;
    assert!(is_lost(&late), "{late:?}");
    // From now on the new one is used, as by everybody else.
    let next = lease(&open(&path), "a").await.unwrap();
    assert!(is_busy(&lease(&store, "a").await));
    let put = store.put("a", first, Some(&next), &record("rt-2")).await.unwrap();
    assert!(matches!(put, Put::Stored(_)), "{put:?}");
    assert_eq!(token_of(&open(&path), "a").await.as_deref(), Some("rt-2"));
    assert_eq!(contents(&old), untouched);
}

/// Nobody else can have a lock where there is nothing, but nothing can be stored either.
#[tokio::test]
async fn a_directory_that_is_away_refuses_and_is_itself_again_when_it_is_back() {
    let (dir, path, store) = place();
    let held = lease(&store, "a").await.unwrap();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    std::fs::rename(&path, dir.path().join("away")).unwrap();
    held.check().await.unwrap();
    assert_eq!(store.load("a").await.unwrap_err().word(), "store_io");
    let put = store.put("a", first, Some(&held), &record("rt-2")).await;
    assert_eq!(put.unwrap_err().word(), "store_io");
    std::fs::rename(dir.path().join("away"), &path).unwrap();
    held.check().await.unwrap();
    let put = store.put("a", first, Some(&held), &record("rt-2")).await.unwrap();
    assert!(matches!(put, Put::Stored(_)), "{put:?}");
}

#[tokio::test]
async fn a_restored_directory_is_used_with_its_former_names() {
    let (dir, path, store) = place();
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    std::fs::create_dir(&path).unwrap();
    write_private(&path.join("Paris.json"), &bytes_of("Paris", "rt-1"));
    assert_eq!(token_of(&store, "Paris").await.as_deref(), Some("rt-1"));
}

// ----- changes -----

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

// ----- a disk that hangs -----

#[tokio::test]
async fn more_calls_that_hang_than_there_are_threads_hold_nobody_up_for_ever() {
    let (_dir, path, store) = place();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let below = FileStore::open(&path).unwrap();
    let store = Store::new(Arc::new(below.clone()), Keys::default());
    let held = lease(&store, "a").await.unwrap();
    // They end when this does, however it does.
    let (disk, hang) = std::sync::mpsc::channel::<()>();
    let hang = Arc::new(Mutex::new(hang));
    let hanging: Vec<_> = (0..THREADS)
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
            store.clear_aside("a"),
        )
    };
    let ended = tokio::time::timeout(DEADLINE * 5, calls).await.expect("a call does not end");
    let (load, put, taken, check, keys, cleared) = ended;
    assert!(started.elapsed() < DEADLINE * 2, "{:?}", started.elapsed());
    assert_eq!(put.unwrap(), Put::Unknown);
    let errors = [load.err(), taken.err(), check.err(), keys.err(), cleared.err()];
    for (call, error) in errors.into_iter().enumerate() {
        assert!(matches!(error, Some(StoreError::Timeout)), "call {call}: {error:?}");
    }
    // When the disk is back, all is as it was: what was given up before it began never takes place.
    drop(disk);
    for hung in hanging {
        hung.await.unwrap().unwrap();
    }
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-1"), first)));
    assert!(lease(&store, "b").await.is_ok());
    held.check().await.unwrap();
    assert_eq!(below.threads.available_permits(), THREADS);
}

// ----- keys of encryption -----

fn key(seed: u8) -> crate::store::Key {
    let hexadecimal: String = (0..32).map(|at: u8| format!("{:02x}", at ^ seed)).collect();
    crate::store::Key::parse(&Secret::new(hexadecimal)).unwrap()
}

fn keys(current: Option<u8>, old: &[u8]) -> Keys {
    let old = old.iter().map(|seed| key(*seed)).collect();
    Keys { current: current.map(key), old, plain: false }
}

fn config(path: &Path, keys: Keys) -> Config {
    Config::File { dir: path.to_owned(), keys }
}

fn shows(bytes: &[u8], token: &str) -> bool {
    bytes.windows(token.len()).any(|part| part == token.as_bytes())
}

#[tokio::test]
async fn an_old_key_still_reads_and_the_next_put_takes_the_current_one() {
    let (_dir, path, _) = place();
    let before = config(&path, keys(Some(1), &[])).build().unwrap();
    stored(&before, "a", Version::ABSENT, "rt-1").await;
    let rotated = config(&path, keys(Some(2), &[1])).build().unwrap();
    let (loaded, version) = rotated.load("a").await.unwrap().unwrap();
    assert_eq!(loaded, record("rt-1"));
    stored(&rotated, "a", version, "rt-2").await;
    let after = config(&path, keys(Some(2), &[])).build().unwrap();
    let (loaded, version) = after.load("a").await.unwrap().unwrap();
    assert_eq!(loaded, record("rt-2"));
    assert_eq!(before.load("a").await.unwrap_err().word(), "store_sealed");
    // And back to plain text, for who wants that.
    stored(&config(&path, keys(None, &[2])).build().unwrap(), "a", version, "rt-3").await;
    assert_eq!(token_of(&open(&path), "a").await.as_deref(), Some("rt-3"));
}

#[tokio::test]
async fn what_cannot_be_opened_is_found_before_it_is_used_and_stays_untouched() {
    let (_dir, path, plain) = place();
    let sealed = config(&path, keys(Some(1), &[])).build().unwrap();
    stored(&sealed, "a/Paris", Version::ABSENT, "rt-1").await;
    stored(&plain, "plain", Version::ABSENT, "rt-1").await;
    write_private(&path.join("b.json"), b"{");
    let untouched = contents(&path);
    let examine = |keys, credential| config(&path, keys).examine(&["absent", credential]);
    for keys in [keys(None, &[]), keys(Some(2), &[3])] {
        let store = Store::new(Arc::new(FileStore::open(&path).unwrap()), keys.clone());
        let examined = examine(keys, "a").unwrap_err();
        for error in [examined, store.load("a/Paris").await.unwrap_err()] {
            let said = error.to_string();
            assert!(
                said.contains("a@,paris.json") && said.contains(&key(1).id().to_string()),
                "{said}"
            );
            assert!(said.contains("nothing was changed"), "{said}");
        }
    }
    let error = examine(keys(Some(1), &[]), "plain").unwrap_err();
    assert!(error.to_string().contains("plain.json"), "{error}");
    assert_eq!(error.word(), "store_plain");
    // What else may be wrong is found when it is used; and what is another's is nobody's business.
    for credential in ["a", "b", "d", "pla"] {
        assert!(examine(keys(Some(1), &[]), credential).is_ok(), "{credential}");
    }
    assert!(examine(Keys { plain: true, ..keys(Some(1), &[]) }, "plain").is_ok());
    assert!(config(&path.join("absent"), keys(None, &[])).examine(&["a"]).is_ok());
    assert!(!path.join("absent").exists());
    assert_eq!(contents(&path), untouched);
}

#[tokio::test]
async fn a_damaged_encrypted_record_is_set_aside_like_any_other() {
    let (_dir, path, _) = place();
    let store = config(&path, keys(Some(1), &[])).build().unwrap();
    for (from, to) in
        [("\"sealed\"", "\"seamed\""), ("\"sha256\": \"", "\"sha256\": \"0"), ("\"}", "")]
    {
        stored(&store, "a", Version::ABSENT, "rt-1").await;
        let text = std::fs::read_to_string(path.join("a.json")).unwrap();
        std::fs::write(path.join("a.json"), text.replacen(from, to, 1)).unwrap();
        assert!(config(&path, keys(Some(1), &[])).examine(&["a"]).is_ok());
        let error = store.load("a").await.unwrap_err();
        assert_eq!(error.word(), "store_corrupt", "{to}: {error}");
    }
}

/// Somebody looks at the directory all the time while records are written.
#[tokio::test]
async fn no_file_ever_holds_plain_text_not_even_a_temporary_one() {
    let (_dir, path, _) = place();
    let store = config(&path, keys(Some(1), &[])).build().unwrap();
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, temporary, dir) = (Arc::clone(&stop), Arc::clone(&seen), path.clone());
    let looker = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            for (path, bytes) in contents(&dir) {
                assert!(!shows(&bytes, "token-"), "{}", path.display());
                let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
                temporary
                    .fetch_add(usize::from(is_temporary && !bytes.is_empty()), Ordering::SeqCst);
            }
        }
    });
    let mut version = Version::ABSENT;
    let mut writes = 0;
    while seen.load(Ordering::SeqCst) < 10 && !looker.is_finished() {
        version = stored(&store, "a", version, "token-of-a-secret").await;
        writes += 1;
        assert!(writes < 20_000, "no temporary file was ever seen");
    }
    stop.store(true, Ordering::SeqCst);
    looker.join().unwrap();
}
