//! What every store keeps, whatever its below.

use std::sync::Mutex;

use super::*;

/// Each of these is a test of every below.
macro_rules! contract {
    ($($fact:ident)+) => {
        mod memory {
            $(#[tokio::test] async fn $fact() { super::$fact(super::Place::in_memory()).await; })+
        }
        mod files {
            $(#[tokio::test] async fn $fact() { super::$fact(super::Place::in_files()).await; })+
        }
    };
}

contract! {
    at_first_there_is_nothing
    what_is_put_is_read_back_by_another_process_as_the_same_version
    a_put_over_another_version_changes_nothing
    the_same_record_again_is_another_version
    of_many_who_put_over_one_version_one_has_stored_it
    revisions_count_up
    a_lease_excludes_everyone_until_it_is_dropped
    who_waits_gets_the_lease_when_it_is_given_back
    who_gives_up_waiting_holds_nothing
    a_lease_that_is_held_is_said_to_be_held
    nobody_needs_the_lease_to_put_and_its_holder_has_a_conflict_then
    what_is_damaged_is_set_aside_once_and_can_be_written_again
    only_what_is_still_damaged_is_set_aside
    a_record_that_comes_between_is_read_and_stays
    the_record_of_another_key_is_damage
    what_is_newer_or_sealed_is_refused_and_left_untouched
    the_keys_of_a_credential_are_those_with_values_and_nobody_else_s
    clearing_what_was_set_aside_leaves_the_record
    a_call_that_is_dropped_leaves_the_old_record_or_the_new_one
    with_a_key_no_token_is_stored_in_plain_text
    records_from_before_a_key_are_sealed_and_others_left_alone
}

async fn at_first_there_is_nothing(place: Place) {
    let store = place.store();
    assert_eq!(store.load("a").await.unwrap(), None);
    assert_eq!(store.keys("a").await.unwrap(), [""; 0]);
    assert!(store.clear_aside("a").await.is_ok());
}

async fn what_is_put_is_read_back_by_another_process_as_the_same_version(place: Place) {
    let store = place.store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    assert_eq!(place.store().load("a").await.unwrap(), Some((record("rt-1"), first)));
    let second = stored(&place.store(), "a", first, "rt-2").await;
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-2"), second)));
    assert_eq!(store.load("b").await.unwrap(), None);
}

async fn a_put_over_another_version_changes_nothing(place: Place) {
    let store = place.store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let second = stored(&store, "a", first, "rt-2").await;
    let other = stored(&store, "b", Version::ABSENT, "rt-b").await;
    for expected in [Version::ABSENT, first, other] {
        assert_eq!(put(&store, "a", expected, "late").await, Put::Conflict);
    }
    assert_eq!(put(&store, "c", first, "late").await, Put::Conflict, "over nothing");
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-2"), second)));
    assert_eq!(store.load("c").await.unwrap(), None);
}

/// Otherwise a write that came in between could be overwritten by whoever has not seen it.
async fn the_same_record_again_is_another_version(place: Place) {
    let store = place.store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let second = stored(&store, "a", first, "rt-1").await;
    assert_ne!(first, second);
    assert_eq!(put(&store, "a", first, "late").await, Put::Conflict);
}

async fn of_many_who_put_over_one_version_one_has_stored_it(place: Place) {
    let first = stored(&place.store(), "a", Version::ABSENT, "rt-0").await;
    let puts = (1..=8).map(|number| {
        let store = place.store();
        tokio::spawn(async move {
            let token = format!("rt-{number}");
            (put(&store, "a", first, &token).await, token)
        })
    });
    let puts: Vec<_> = puts.collect();
    let mut winner = None;
    for put in puts {
        match put.await.unwrap() {
            (Put::Stored(version), token) => {
                let before = winner.replace((record(&token), version));
                assert_eq!(before, None, "two have stored it");
            }
            (other, _) => assert_eq!(other, Put::Conflict),
        }
    }
    assert_eq!(place.store().load("a").await.unwrap(), winner);
}

async fn revisions_count_up(place: Place) {
    let store = place.store();
    let mut version = Version::ABSENT;
    for revision in 1..=3 {
        version = stored(&store, "a", version, "rt").await;
        assert_eq!(version.revision, revision);
        let (_, loaded) = place.store().load("a").await.unwrap().unwrap();
        assert_eq!(loaded.revision, revision);
    }
}

async fn a_lease_excludes_everyone_until_it_is_dropped(place: Place) {
    let (store, other) = (place.store(), place.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    assert_eq!(held.key(), "a");
    assert!(is_busy(&lease(&other, "a", Duration::ZERO).await));
    assert!(is_busy(&lease(&store, "a", Duration::from_millis(50)).await), "in its own process");
    assert!(lease(&other, "b", Duration::ZERO).await.is_ok());
    drop(held);
    assert!(lease(&other, "a", Duration::ZERO).await.is_ok());
}

async fn who_waits_gets_the_lease_when_it_is_given_back(place: Place) {
    let (store, other) = (place.store(), place.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    let waiting = tokio::spawn(async move { lease(&other, "a", SOON).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(held);
    assert!(waiting.await.unwrap().is_ok());
}

async fn who_gives_up_waiting_holds_nothing(place: Place) {
    let (store, other) = (place.store(), place.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), lease(&other, "a", SOON));
    assert!(waiting.await.is_err());
    drop(held);
    assert!(lease(&store, "a", SOON).await.is_ok());
}

async fn a_lease_that_is_held_is_said_to_be_held(place: Place) {
    let store = place.store();
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    held.check().await.unwrap();
    let put = store.put("a", Version::ABSENT, Some(&held), &record("rt-1")).await.unwrap();
    assert!(matches!(put, Put::Stored(_)), "{put:?}");
    held.check().await.unwrap();
}

/// A logout does not wait for a refresh.
async fn nobody_needs_the_lease_to_put_and_its_holder_has_a_conflict_then(place: Place) {
    let (store, operator) = (place.store(), place.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let second = stored(&operator, "a", first, "logged-out").await;
    let late = store.put("a", first, Some(&held), &record("rt-2")).await.unwrap();
    assert_eq!(late, Put::Conflict);
    assert_eq!(store.load("a").await.unwrap(), Some((record("logged-out"), second)));
}

async fn what_is_damaged_is_set_aside_once_and_can_be_written_again(place: Place) {
    let store = place.store();
    let version = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let whole = place.bytes("a").await.unwrap();
    for bytes in [&whole[..0], &whole[..whole.len() / 2], b"[]", b"\0"] {
        place.set("a", bytes).await;
        assert_eq!(put(&store, "a", version, "late").await, Put::Conflict);
        let error = store.load("a").await.unwrap_err();
        let StoreError::Corrupt { aside: Some(_), .. } = &error else { panic!("{error}") };
        assert_eq!(store.load("a").await.unwrap(), None);
        stored(&store, "a", Version::ABSENT, "rt-1").await;
        assert!(store.load("a").await.unwrap().is_some());
    }
}

async fn only_what_is_still_damaged_is_set_aside(place: Place) {
    let below = (place.open)();
    place.set("a", b"whole").await;
    let damaged = Version::of(b"damaged", 0);
    assert_eq!(below.set_aside("a", damaged).await.unwrap(), None);
    assert_eq!(place.bytes("a").await.as_deref(), Some(&b"whole"[..]));
    assert_eq!(below.set_aside("b", damaged).await.unwrap(), None);
    assert!(below.set_aside("a", Version::of(b"whole", 7)).await.unwrap().is_some());
    assert_eq!(place.bytes("a").await, None);
}

/// Another process writes a whole record just before the damaged one is set aside.
async fn a_record_that_comes_between_is_read_and_stays(place: Place) {
    let other = place.store();
    let whole = record("rt-1").to_bytes("a", &Write::default());
    place.set("a", b"{").await;
    let inner = (place.open)();
    let between = Arc::new(Between { inner, whole: Mutex::new(Some(whole.clone())) });
    let (loaded, _) = Store::new(between, Keys::default()).load("a").await.unwrap().unwrap();
    assert_eq!(loaded, record("rt-1"));
    assert_eq!(place.bytes("a").await, Some(whole));
    assert!(other.load("a").await.unwrap().is_some());
}

async fn the_record_of_another_key_is_damage(place: Place) {
    let store = place.store();
    stored(&store, "a", Version::ABSENT, "rt-1").await;
    place.set("b", &place.bytes("a").await.unwrap()).await;
    let error = store.load("b").await.unwrap_err();
    let source = RecordError::OtherKey;
    assert!(matches!(&error, StoreError::Corrupt { source: it, .. } if *it == source), "{error}");
    assert!(store.load("a").await.unwrap().is_some());
}

async fn what_is_newer_or_sealed_is_refused_and_left_untouched(place: Place) {
    let store = place.store();
    let newer = b"{\"bearerd\": 9, \"sha256\": \"\", \"record\": {}}".to_vec();
    let sealed = keys(1, &[]).seal("a", record("rt-1").to_bytes("a", &Write::default()));
    for (bytes, word) in [(newer, "store_newer"), (sealed, "store_sealed")] {
        place.set("a", &bytes).await;
        assert_eq!(store.load("a").await.unwrap_err().word(), word);
        assert_eq!(put(&store, "a", Version::ABSENT, "rt-2").await, Put::Conflict);
        assert_eq!(place.bytes("a").await, Some(bytes));
    }
}

async fn the_keys_of_a_credential_are_those_with_values_and_nobody_else_s(place: Place) {
    let store = place.store();
    let keys = ["a", "a/Paris", "a/paris", "a/lyon/1", "a/x%2Fy", "ab/x", "a-b/x", "A/x", "b/a/x"];
    for key in keys {
        stored(&store, key, Version::ABSENT, key).await;
    }
    let found = place.store().keys("a").await.unwrap();
    assert_eq!(found, ["a/Paris", "a/lyon/1", "a/paris", "a/x%2Fy"]);
    assert_eq!(store.keys("c").await.unwrap(), [""; 0]);
    for key in keys {
        assert_eq!(store.load(key).await.unwrap().unwrap().0, record(key));
    }
}

async fn clearing_what_was_set_aside_leaves_the_record(place: Place) {
    let store = place.store();
    place.set("a", b"{").await;
    assert!(store.load("a").await.is_err());
    let version = stored(&store, "a", Version::ABSENT, "rt-1").await;
    store.clear_aside("a").await.unwrap();
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-1"), version)));
}

async fn a_call_that_is_dropped_leaves_the_old_record_or_the_new_one(place: Place) {
    let store = place.store();
    stored(&store, "a", Version::ABSENT, "old").await;
    for round in 0..20 {
        let (before, version) = store.load("a").await.unwrap().unwrap();
        let new = record(&format!("rt-{round}"));
        let mut writing = Box::pin(store.put("a", version, None, &new));
        let polled = futures_poll(writing.as_mut()).await;
        drop(writing);
        let (after, _) = store.load("a").await.unwrap().unwrap();
        assert!(after == new || after == before && !polled, "neither nor");
        // What was begun may still take place: then this one is told.
        let (_, version) = store.load("a").await.unwrap().unwrap();
        match put(&store, "a", version, "next").await {
            Put::Stored(_) => {}
            other => assert_eq!(other, Put::Conflict),
        }
        assert!(store.load("a").await.unwrap().is_some());
    }
}

/// Polls once; was it ready?
async fn futures_poll(mut future: Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_ready()))
        .await
}

async fn with_a_key_no_token_is_stored_in_plain_text(place: Place) {
    let store = Store::new((place.open)(), keys(1, &[]));
    let version = stored(&store, "a", Version::ABSENT, "rt-in-plain").await;
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-in-plain"), version)));
    let bytes = place.bytes("a").await.unwrap();
    assert!(!bytes.windows(8).any(|part| part == b"rt-in-pl"));
    // In another credential's place it is worth nothing, and stays.
    place.set("b", &bytes).await;
    assert_eq!(store.load("b").await.unwrap_err().word(), "store_sealed");
    assert_eq!(place.bytes("b").await, Some(bytes));
}

async fn records_from_before_a_key_are_sealed_and_others_left_alone(place: Place) {
    let (plain, old) = (place.store(), Store::new((place.open)(), keys(2, &[])));
    for key in ["a", "a/x", "other"] {
        stored(&plain, key, Version::ABSENT, key).await;
    }
    stored(&old, "b", Version::ABSENT, "b").await;
    let sealing = |plain| Store::new((place.open)(), Keys { plain, ..keys(1, &[2]) });
    sealing(true).seal_all(&["b"]).await;
    let b = place.bytes("b").await.unwrap();
    assert!(keys(1, &[]).has_sealed(&b), "what an old key opens is sealed anew");
    let other = place.bytes("other").await;
    // Where plain text is refused it is not sealed either: anybody could have put it there.
    let untouched = place.bytes("a").await;
    sealing(false).seal_all(&["a", "b"]).await;
    assert_eq!(place.bytes("a").await, untouched);
    sealing(true).seal_all(&["a", "b", "absent"]).await;
    assert_eq!(place.bytes("b").await, Some(b), "sealed already");
    assert_eq!(place.bytes("other").await, other, "not asked for");
    let sealed = Store::new((place.open)(), keys(1, &[]));
    for key in ["a", "a/x", "b"] {
        assert_eq!(sealed.load(key).await.unwrap().unwrap().0, record(key));
    }
    assert_eq!(sealed.load("other").await.unwrap_err().word(), "store_plain");
}

/// Another process writes `whole` before the first thing is set aside.
#[derive(Debug)]
struct Between {
    inner: Arc<dyn ByteStore>,
    whole: Mutex<Option<Vec<u8>>>,
}

impl ByteStore for Between {
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        self.inner.read(key)
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        expected: Version,
        fence: Option<&'a Fence>,
        bytes: Vec<u8>,
    ) -> StoreFuture<'a, bool> {
        self.inner.write(key, expected, fence, bytes)
    }

    fn set_aside<'a>(&'a self, key: &'a str, damaged: Version) -> StoreFuture<'a, Option<String>> {
        Box::pin(async move {
            let whole = self.whole.lock().unwrap().take();
            if let Some(whole) = whole {
                assert!(self.inner.write(key, damaged, None, whole).await?);
            }
            self.inner.set_aside(key, damaged).await
        })
    }

    fn clear_aside<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        self.inner.clear_aside(key)
    }

    fn keys(&self) -> StoreFuture<'_, Vec<String>> {
        self.inner.keys()
    }

    fn lease<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        wait: Duration,
    ) -> StoreFuture<'a, Box<dyn Held>> {
        self.inner.lease(key, ttl, wait)
    }

    fn changes(&self) -> Box<dyn Changes> {
        self.inner.changes()
    }

    fn place(&self, key: &str) -> String {
        self.inner.place(key)
    }
}
