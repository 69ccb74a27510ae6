//! Calls to a hanging byte store end at their deadlines.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::*;

/// How a scripted byte store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HangingBehavior {
    /// No call ever ends.
    Hangs,
    /// Reads return damaged bytes; quarantining never ends.
    HangsSettingAside,
    /// Reads return damaged bytes, different each time.
    ChangesAllTheTime,
    /// Leases are granted; nothing else ends.
    GivesLeases,
    /// Every call fails.
    Refuses,
    /// Keys are listed; no record can be read.
    KnowsKeys,
}

#[derive(Debug)]
struct HangingStore {
    script: HangingBehavior,
    reads: AtomicUsize,
    fence: Fence,
}

impl HangingStore {
    fn store(script: HangingBehavior) -> Store {
        let fence = Fence("scripted".to_owned());
        Store::new(Arc::new(Self { script, reads: AtomicUsize::new(0), fence }), keys(1, &[]))
    }

    fn answer<T: Send + 'static>(&self) -> StoreFuture<'_, T> {
        match self.script {
            HangingBehavior::Refuses => {
                Box::pin(async { Err(StoreError::Unavailable("it refused".to_owned())) })
            }
            _ => Box::pin(std::future::pending()),
        }
    }
}

impl ByteStore for HangingStore {
    fn read<'a>(&'a self, _key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        match self.script {
            HangingBehavior::HangsSettingAside | HangingBehavior::ChangesAllTheTime => {
                let read = self.reads.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move { Ok(Some(format!("{{{read}").into_bytes())) })
            }
            _ => self.answer(),
        }
    }

    fn write<'a>(
        &'a self,
        _key: &'a str,
        _expected: Version,
        _fence: Option<&'a Fence>,
        _bytes: Vec<u8>,
    ) -> StoreFuture<'a, bool> {
        self.answer()
    }

    fn quarantine<'a>(
        &'a self,
        _key: &'a str,
        _damaged: Version,
    ) -> StoreFuture<'a, Option<String>> {
        match self.script {
            HangingBehavior::ChangesAllTheTime => Box::pin(async { Ok(None) }),
            _ => self.answer(),
        }
    }

    fn clear_quarantine<'a>(&'a self, _key: &'a str) -> StoreFuture<'a, ()> {
        self.answer()
    }

    fn keys(&self) -> StoreFuture<'_, Vec<String>> {
        match self.script {
            HangingBehavior::KnowsKeys => {
                Box::pin(async { Ok(vec!["a".to_owned(), "b".to_owned()]) })
            }
            _ => self.answer(),
        }
    }

    fn lease<'a>(
        &'a self,
        _key: &'a str,
        _ttl: Duration,
        _wait: Duration,
    ) -> StoreFuture<'a, Box<dyn HeldLease>> {
        let fence = self.fence.clone();
        match self.script {
            HangingBehavior::GivesLeases => {
                Box::pin(async { Ok(Box::new(HangingLease(fence)) as Box<dyn HeldLease>) })
            }
            _ => self.answer(),
        }
    }

    fn changes(&self) -> Box<dyn StoreChanges> {
        MemoryStore::default().changes()
    }

    fn location(&self, key: &str) -> String {
        key.to_owned()
    }
}

struct HangingLease(Fence);

impl HeldLease for HangingLease {
    fn fence(&self) -> &Fence {
        &self.0
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// The result of a call that must take exactly `expected`.
async fn after<T>(expected: Duration, call: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let limit = expected + Duration::from_secs(60);
    let result = tokio::time::timeout(limit, call).await.expect("the call does not end");
    assert_eq!(started.elapsed(), expected);
    result
}

fn is_timeout<T: fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Timeout))
}

#[tokio::test(start_paused = true)]
async fn every_call_to_a_hanging_store_ends_at_its_deadline() {
    let store = HangingStore::store(HangingBehavior::Hangs);
    assert!(is_timeout(&after(DEADLINE, store.load("a")).await));
    assert!(is_timeout(&after(DEADLINE, store.keys("a")).await));
    assert!(is_timeout(&after(DEADLINE, store.clear_quarantine("a")).await));
    for wait in [Duration::ZERO, SOON] {
        assert!(is_timeout(&after(wait + DEADLINE, store.lease("a", SOON, wait)).await));
    }
    after(DEADLINE, store.reseal_records(&["a"])).await;
}

/// The record may be stored now or later, so the result is neither success nor failure.
#[tokio::test(start_paused = true)]
async fn a_put_without_an_answer_is_unknown() {
    let store = HangingStore::store(HangingBehavior::Hangs);
    let new = record("rt-1");
    let put = after(DEADLINE, store.put("a", Version::ABSENT, None, &new)).await;
    assert_eq!(put.unwrap(), PutOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_checked_does_not_count_as_held() {
    let store = HangingStore::store(HangingBehavior::GivesLeases);
    let lease = store.lease("a", SOON, SOON).await.unwrap();
    assert!(is_timeout(&after(DEADLINE, lease.check()).await));
    let new = record("rt-1");
    let put = after(DEADLINE, store.put("a", Version::ABSENT, Some(&lease), &new)).await;
    assert_eq!(put.unwrap(), PutOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn quarantining_counts_toward_the_deadline_of_a_load() {
    let store = HangingStore::store(HangingBehavior::HangsSettingAside);
    assert!(is_timeout(&after(DEADLINE, store.load("a")).await));
}

#[tokio::test(start_paused = true)]
async fn a_load_ends_even_if_the_record_keeps_changing() {
    let store = HangingStore::store(HangingBehavior::ChangesAllTheTime);
    assert!(is_busy(&after(Duration::ZERO, store.load("a")).await));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_a_timeout() {
    let store = HangingStore::store(HangingBehavior::Refuses);
    let new = record("rt-1");
    let refusals = [
        after(Duration::ZERO, store.load("a")).await.map(drop),
        after(Duration::ZERO, store.put("a", Version::ABSENT, None, &new)).await.map(drop),
        after(Duration::ZERO, store.lease("a", SOON, SOON)).await.map(drop),
        after(Duration::ZERO, store.keys("a")).await.map(drop),
        after(Duration::ZERO, store.clear_quarantine("a")).await,
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().label(), "store_io");
    }
}

/// A record that cannot be read does not delay the others forever.
#[tokio::test(start_paused = true)]
async fn resealing_waits_at_most_the_deadline_per_record() {
    let store = HangingStore::store(HangingBehavior::KnowsKeys);
    after(2 * DEADLINE, store.reseal_records(&["a", "b"])).await;
}
