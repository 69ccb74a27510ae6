//! File names of keys, in the current and the legacy scheme.

use std::sync::Barrier;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::store::file::file_names::{MAX_STEM_LEN, key_of};

#[test]
fn file_names_are_unique_on_case_insensitive_file_systems() {
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

/// The longest keys that a configuration allows: a name of 64 bytes and values of 160, at worst all
/// capitals.
#[tokio::test]
async fn the_longest_keys_have_valid_file_names() {
    let (_dir, path, store) = temp_store();
    let name = "n".repeat(64);
    let keys = ["a", "A", "aB", "%C3%89"].map(|value| {
        let values = format!("{}/{}", &value.repeat(79)[..79], &value.repeat(79)[..79]);
        format!("{name}/{values}")
    });
    for key in &keys {
        assert_eq!(key.len(), 224);
        let held = lease(&store, key).await.unwrap();
        let put = store.put(key, Version::ABSENT, Some(&held), &record("rt-1")).await;
        assert!(matches!(put, Ok(PutOutcome::Stored(_))), "{put:?}");
        held.check().await.unwrap();
        std::fs::write(store.bytes.location(key), b"{").unwrap();
        for _ in 0..2 {
            assert_eq!(store.load(key).await.unwrap_err().label(), "store_corrupt");
            write_private(&path.join(store.bytes.location(key)), b"{");
        }
        let (record, damaged) = (record("rt-2"), Version::of(b"{", 0));
        let put = store.put(key, damaged, Some(&held), &record).await;
        assert!(matches!(put, Ok(PutOutcome::Stored(_))), "{put:?}");
        store.clear_quarantine(key).await.unwrap();
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
    fn a_key_round_trips_through_its_file_name(
        key in "[a-zA-Z0-9_-]{1,64}(/([A-Za-z0-9._~-]|%[0-9A-F]{2}){0,60}){0,3}"
    ) {
        let stem = stem_of(&key);
        prop_assert!(stem.len() <= MAX_STEM_LEN.max(key.len()));
        prop_assert!(!stem.contains('/') && !stem.starts_with('.'));
        prop_assert_eq!(key_of(&stem), key);
    }
}

/// Values may contain dots, and values chosen by clients must not block other keys.
#[tokio::test]
async fn keys_never_share_files() {
    let (_dir, path, store) = temp_store();
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
            assert!(matches!(put, Ok(PutOutcome::Stored(_))), "{key} {other}");
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
    let (_dir, path, store) = temp_store();
    stored(&store, "a/Berlin", Version::ABSENT, "rt-1").await;
    for name in ["a@paris.json.bak", ".a@paris.json", ".a@paris.json.x.tmp", "a@paris.lock"] {
        write_private(&path.join(name), &bytes_of("a/paris", "rt-2"));
    }
    assert_eq!(store.keys("a").await.unwrap(), ["a/Berlin"]);
}

// ----- legacy names, before capital letters were escaped -----

#[tokio::test]
async fn records_with_legacy_names_are_renamed_at_the_start() {
    let (_dir, path, _) = temp_store();
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
    // Quarantined files are renamed too, so that they can be deleted later; other files stay.
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
    open(&path).clear_quarantine("Paris").await.unwrap();
    assert!(!names_in(&path).iter().any(|name| name.contains(".corrupt-")));
}

/// An older version ran again, or still runs beside this one.
#[tokio::test]
async fn of_two_files_of_one_record_the_newest_is_used_and_the_other_quarantined() {
    for (former, current) in [(60, 0), (0, 60)] {
        let (_dir, path, _) = temp_store();
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
async fn concurrent_starts_rename_each_record_once() {
    let (_dir, path, _) = temp_store();
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
