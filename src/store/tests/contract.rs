//! The contract that every byte store satisfies.

use std::sync::Mutex;

use super::*;

/// Runs each function as a test against every byte store.
macro_rules! contract {
    ($($fact:ident)+) => {
        mod memory {
            $(#[tokio::test] async fn $fact() { super::$fact(super::TestStorage::in_memory()).await; })+
        }
        mod files {
            $(#[tokio::test] async fn $fact() { super::$fact(super::TestStorage::in_files()).await; })+
        }
    };
}

contract! {
    a_new_store_is_empty
    a_stored_record_has_the_same_version_in_another_process
    a_put_with_a_stale_version_changes_nothing
    storing_the_same_record_again_makes_a_new_version
    one_of_many_concurrent_puts_succeeds
    revisions_increase
    a_lease_is_exclusive_until_it_is_dropped
    a_waiter_gets_the_lease_when_it_is_released
    a_waiter_that_gives_up_holds_nothing
    checking_a_held_lease_succeeds
    a_put_without_the_lease_conflicts_with_its_holder
    a_damaged_record_is_quarantined_once_and_can_be_replaced
    only_the_damaged_version_is_quarantined
    a_valid_record_written_meanwhile_is_read_and_stays
    the_record_of_another_key_counts_as_damaged
    newer_and_sealed_records_are_refused_and_left_untouched
    keys_lists_only_records_with_values_of_the_credential
    clearing_the_quarantine_leaves_the_record
    a_dropped_call_leaves_the_old_or_the_new_record
    with_a_key_no_token_is_stored_as_plain_text
    reseal_records_encrypts_only_the_given_credentials
}

async fn a_new_store_is_empty(storage: TestStorage) {
    let store = storage.store();
    assert_eq!(store.load("a").await.unwrap(), None);
    assert_eq!(store.keys("a").await.unwrap(), [""; 0]);
    assert!(store.clear_quarantine("a").await.is_ok());
}

async fn a_stored_record_has_the_same_version_in_another_process(storage: TestStorage) {
    let store = storage.store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    assert_eq!(storage.store().load("a").await.unwrap(), Some((record("rt-1"), first)));
    let second = stored(&storage.store(), "a", first, "rt-2").await;
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-2"), second)));
    assert_eq!(store.load("b").await.unwrap(), None);
}

async fn a_put_with_a_stale_version_changes_nothing(storage: TestStorage) {
    let store = storage.store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let second = stored(&store, "a", first, "rt-2").await;
    let other = stored(&store, "b", Version::ABSENT, "rt-b").await;
    for expected in [Version::ABSENT, first, other] {
        assert_eq!(put(&store, "a", expected, "late").await, PutOutcome::Conflict);
    }
    assert_eq!(put(&store, "c", first, "late").await, PutOutcome::Conflict, "over nothing");
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-2"), second)));
    assert_eq!(store.load("c").await.unwrap(), None);
}

/// Otherwise a write in between could be overwritten by a process that has not seen it.
async fn storing_the_same_record_again_makes_a_new_version(storage: TestStorage) {
    let store = storage.store();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let second = stored(&store, "a", first, "rt-1").await;
    assert_ne!(first, second);
    assert_eq!(put(&store, "a", first, "late").await, PutOutcome::Conflict);
}

async fn one_of_many_concurrent_puts_succeeds(storage: TestStorage) {
    let first = stored(&storage.store(), "a", Version::ABSENT, "rt-0").await;
    let puts = (1..=8).map(|number| {
        let store = storage.store();
        tokio::spawn(async move {
            let token = format!("rt-{number}");
            (put(&store, "a", first, &token).await, token)
        })
    });
    let puts: Vec<_> = puts.collect();
    let mut winner = None;
    for put in puts {
        match put.await.unwrap() {
            (PutOutcome::Stored(version), token) => {
                let before = winner.replace((record(&token), version));
                assert_eq!(before, None, "two have stored it");
            }
            (other, _) => assert_eq!(other, PutOutcome::Conflict),
        }
    }
    assert_eq!(storage.store().load("a").await.unwrap(), winner);
}

async fn revisions_increase(storage: TestStorage) {
    let store = storage.store();
    let mut version = Version::ABSENT;
    for revision in 1..=3 {
        version = stored(&store, "a", version, "rt").await;
        assert_eq!(version.revision, revision);
        let (_, loaded) = storage.store().load("a").await.unwrap().unwrap();
        assert_eq!(loaded.revision, revision);
    }
}

async fn a_lease_is_exclusive_until_it_is_dropped(storage: TestStorage) {
    let (store, other) = (storage.store(), storage.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    assert_eq!(held.key(), "a");
    assert!(is_busy(&lease(&other, "a", Duration::ZERO).await));
    assert!(is_busy(&lease(&store, "a", Duration::from_millis(50)).await), "in its own process");
    assert!(lease(&other, "b", Duration::ZERO).await.is_ok());
    drop(held);
    assert!(lease(&other, "a", Duration::ZERO).await.is_ok());
}

async fn a_waiter_gets_the_lease_when_it_is_released(storage: TestStorage) {
    let (store, other) = (storage.store(), storage.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    let waiting = tokio::spawn(async move { lease(&other, "a", SOON).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(held);
    assert!(waiting.await.unwrap().is_ok());
}

async fn a_waiter_that_gives_up_holds_nothing(storage: TestStorage) {
    let (store, other) = (storage.store(), storage.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), lease(&other, "a", SOON));
    assert!(waiting.await.is_err());
    drop(held);
    assert!(lease(&store, "a", SOON).await.is_ok());
}

async fn checking_a_held_lease_succeeds(storage: TestStorage) {
    let store = storage.store();
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    held.check().await.unwrap();
    let put = store.put("a", Version::ABSENT, Some(&held), &record("rt-1")).await.unwrap();
    assert!(matches!(put, PutOutcome::Stored(_)), "{put:?}");
    held.check().await.unwrap();
}

/// A logout does not wait for a refresh.
async fn a_put_without_the_lease_conflicts_with_its_holder(storage: TestStorage) {
    let (store, operator) = (storage.store(), storage.store());
    let held = lease(&store, "a", Duration::ZERO).await.unwrap();
    let first = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let second = stored(&operator, "a", first, "logged-out").await;
    let late = store.put("a", first, Some(&held), &record("rt-2")).await.unwrap();
    assert_eq!(late, PutOutcome::Conflict);
    assert_eq!(store.load("a").await.unwrap(), Some((record("logged-out"), second)));
}

async fn a_damaged_record_is_quarantined_once_and_can_be_replaced(storage: TestStorage) {
    let store = storage.store();
    let version = stored(&store, "a", Version::ABSENT, "rt-1").await;
    let whole = storage.bytes("a").await.unwrap();
    for bytes in [&whole[..0], &whole[..whole.len() / 2], b"[]", b"\0"] {
        storage.set("a", bytes).await;
        assert_eq!(put(&store, "a", version, "late").await, PutOutcome::Conflict);
        let error = store.load("a").await.unwrap_err();
        let StoreError::Corrupt { moved_to: Some(_), .. } = &error else { panic!("{error}") };
        assert_eq!(store.load("a").await.unwrap(), None);
        stored(&store, "a", Version::ABSENT, "rt-1").await;
        assert!(store.load("a").await.unwrap().is_some());
    }
}

async fn only_the_damaged_version_is_quarantined(storage: TestStorage) {
    let bytes_store = (storage.open)();
    storage.set("a", b"whole").await;
    let damaged = Version::of(b"damaged", 0);
    assert_eq!(bytes_store.quarantine("a", damaged).await.unwrap(), None);
    assert_eq!(storage.bytes("a").await.as_deref(), Some(&b"whole"[..]));
    assert_eq!(bytes_store.quarantine("b", damaged).await.unwrap(), None);
    assert!(bytes_store.quarantine("a", Version::of(b"whole", 7)).await.unwrap().is_some());
    assert_eq!(storage.bytes("a").await, None);
}

/// Another process writes a valid record just before the damaged one is quarantined.
async fn a_valid_record_written_meanwhile_is_read_and_stays(storage: TestStorage) {
    let other = storage.store();
    let whole = record("rt-1").to_bytes("a", &WriteId::default());
    storage.set("a", b"{").await;
    let inner = (storage.open)();
    let between = Arc::new(Between { inner, whole: Mutex::new(Some(whole.clone())) });
    let (loaded, _) =
        Store::new(between, EncryptionKeys::default()).load("a").await.unwrap().unwrap();
    assert_eq!(loaded, record("rt-1"));
    assert_eq!(storage.bytes("a").await, Some(whole));
    assert!(other.load("a").await.unwrap().is_some());
}

async fn the_record_of_another_key_counts_as_damaged(storage: TestStorage) {
    let store = storage.store();
    stored(&store, "a", Version::ABSENT, "rt-1").await;
    storage.set("b", &storage.bytes("a").await.unwrap()).await;
    let error = store.load("b").await.unwrap_err();
    let source = RecordError::OtherKey;
    assert!(matches!(&error, StoreError::Corrupt { source: it, .. } if *it == source), "{error}");
    assert!(store.load("a").await.unwrap().is_some());
}

async fn newer_and_sealed_records_are_refused_and_left_untouched(storage: TestStorage) {
    let store = storage.store();
    let newer = b"{\"bearerd\": 9, \"sha256\": \"\", \"record\": {}}".to_vec();
    let sealed = keys(1, &[]).seal("a", record("rt-1").to_bytes("a", &WriteId::default()));
    for (bytes, word) in [(newer, "store_newer"), (sealed, "store_sealed")] {
        storage.set("a", &bytes).await;
        assert_eq!(store.load("a").await.unwrap_err().label(), word);
        assert_eq!(put(&store, "a", Version::ABSENT, "rt-2").await, PutOutcome::Conflict);
        assert_eq!(storage.bytes("a").await, Some(bytes));
    }
}

async fn keys_lists_only_records_with_values_of_the_credential(storage: TestStorage) {
    let store = storage.store();
    let keys = ["a", "a/Paris", "a/paris", "a/lyon/1", "a/x%2Fy", "ab/x", "a-b/x", "A/x", "b/a/x"];
    for key in keys {
        stored(&store, key, Version::ABSENT, key).await;
    }
    let found = storage.store().keys("a").await.unwrap();
    assert_eq!(found, ["a/Paris", "a/lyon/1", "a/paris", "a/x%2Fy"]);
    assert_eq!(store.keys("c").await.unwrap(), [""; 0]);
    for key in keys {
        assert_eq!(store.load(key).await.unwrap().unwrap().0, record(key));
    }
}

async fn clearing_the_quarantine_leaves_the_record(storage: TestStorage) {
    let store = storage.store();
    storage.set("a", b"{").await;
    assert!(store.load("a").await.is_err());
    let version = stored(&store, "a", Version::ABSENT, "rt-1").await;
    store.clear_quarantine("a").await.unwrap();
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-1"), version)));
}

async fn a_dropped_call_leaves_the_old_or_the_new_record(storage: TestStorage) {
    let store = storage.store();
    stored(&store, "a", Version::ABSENT, "old").await;
    for round in 0..20 {
        let (before, version) = store.load("a").await.unwrap().unwrap();
        let new = record(&format!("rt-{round}"));
        let mut writing = Box::pin(store.put("a", version, None, &new));
        let polled = futures_poll(writing.as_mut()).await;
        drop(writing);
        let (after, _) = store.load("a").await.unwrap().unwrap();
        assert!(
            after == new || after == before && !polled,
            "the record is neither the old nor the new one"
        );
        // The dropped write may still take effect, which the next write then detects.
        let (_, version) = store.load("a").await.unwrap().unwrap();
        match put(&store, "a", version, "next").await {
            PutOutcome::Stored(_) => {}
            other => assert_eq!(other, PutOutcome::Conflict),
        }
        assert!(store.load("a").await.unwrap().is_some());
    }
}

/// Polls once and returns true if the future was ready.
async fn futures_poll(mut future: Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_ready()))
        .await
}

async fn with_a_key_no_token_is_stored_as_plain_text(storage: TestStorage) {
    let store = Store::new((storage.open)(), keys(1, &[]));
    let version = stored(&store, "a", Version::ABSENT, "rt-in-plain").await;
    assert_eq!(store.load("a").await.unwrap(), Some((record("rt-in-plain"), version)));
    let bytes = storage.bytes("a").await.unwrap();
    assert!(!bytes.windows(8).any(|part| part == b"rt-in-pl"));
    // It is useless under another credential's name, and stays.
    storage.set("b", &bytes).await;
    assert_eq!(store.load("b").await.unwrap_err().label(), "store_sealed");
    assert_eq!(storage.bytes("b").await, Some(bytes));
}

async fn reseal_records_encrypts_only_the_given_credentials(storage: TestStorage) {
    let (plain, old) = (storage.store(), Store::new((storage.open)(), keys(2, &[])));
    for key in ["a", "a/x", "other"] {
        stored(&plain, key, Version::ABSENT, key).await;
    }
    stored(&old, "b", Version::ABSENT, "b").await;
    let sealing = |plain| Store::new((storage.open)(), EncryptionKeys { plain, ..keys(1, &[2]) });
    sealing(true).reseal_records(&["b"]).await;
    let b = storage.bytes("b").await.unwrap();
    assert!(
        keys(1, &[]).is_sealed_with_current_key(&b),
        "a record sealed with an old key is sealed again"
    );
    let other = storage.bytes("other").await;
    // If plain text is refused it is not encrypted either, because anyone could have put it there.
    let untouched = storage.bytes("a").await;
    sealing(false).reseal_records(&["a", "b"]).await;
    assert_eq!(storage.bytes("a").await, untouched);
    sealing(true).reseal_records(&["a", "b", "absent"]).await;
    assert_eq!(storage.bytes("b").await, Some(b), "sealed already");
    assert_eq!(storage.bytes("other").await, other, "not asked for");
    let sealed = Store::new((storage.open)(), keys(1, &[]));
    for key in ["a", "a/x", "b"] {
        assert_eq!(sealed.load(key).await.unwrap().unwrap().0, record(key));
    }
    assert_eq!(sealed.load("other").await.unwrap_err().label(), "store_plain");
}

/// Writes `whole`, as another process would, before the first quarantine.
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

    fn quarantine<'a>(&'a self, key: &'a str, damaged: Version) -> StoreFuture<'a, Option<String>> {
        Box::pin(async move {
            let whole = self.whole.lock().unwrap().take();
            if let Some(whole) = whole {
                assert!(self.inner.write(key, damaged, None, whole).await?);
            }
            self.inner.quarantine(key, damaged).await
        })
    }

    fn clear_quarantine<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        self.inner.clear_quarantine(key)
    }

    fn keys(&self) -> StoreFuture<'_, Vec<String>> {
        self.inner.keys()
    }

    fn lease<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        wait: Duration,
    ) -> StoreFuture<'a, Box<dyn HeldLease>> {
        self.inner.lease(key, ttl, wait)
    }

    fn changes(&self) -> Box<dyn StoreChanges> {
        self.inner.changes()
    }

    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }
}
