//! A below that hangs holds nobody up.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::*;

/// What a below does instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// No call ever ends.
    Hangs,
    /// What is read is damaged, and setting it aside never ends.
    HangsSettingAside,
    /// What is read is damaged, each time in another way.
    ChangesAllTheTime,
    /// Leases can be had; nothing else ends.
    GivesLeases,
    /// Every call is refused.
    Refuses,
    /// The keys are known; no record can be read.
    KnowsKeys,
}

#[derive(Debug)]
struct Scripted {
    script: Script,
    reads: AtomicUsize,
    fence: Fence,
}

impl Scripted {
    fn store(script: Script) -> Store {
        let fence = Fence("scripted".to_owned());
        Store::new(Arc::new(Self { script, reads: AtomicUsize::new(0), fence }), keys(1, &[]))
    }

    fn answer<T: Send + 'static>(&self) -> StoreFuture<'_, T> {
        match self.script {
            Script::Refuses => {
                Box::pin(async { Err(StoreError::Unavailable("it refused".to_owned())) })
            }
            _ => Box::pin(std::future::pending()),
        }
    }
}

impl ByteStore for Scripted {
    fn read<'a>(&'a self, _key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        match self.script {
            Script::HangsSettingAside | Script::ChangesAllTheTime => {
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

    fn set_aside<'a>(
        &'a self,
        _key: &'a str,
        _damaged: Version,
    ) -> StoreFuture<'a, Option<String>> {
        match self.script {
            Script::ChangesAllTheTime => Box::pin(async { Ok(None) }),
            _ => self.answer(),
        }
    }

    fn clear_aside<'a>(&'a self, _key: &'a str) -> StoreFuture<'a, ()> {
        self.answer()
    }

    fn keys(&self) -> StoreFuture<'_, Vec<String>> {
        match self.script {
            Script::KnowsKeys => Box::pin(async { Ok(vec!["a".to_owned(), "b".to_owned()]) }),
            _ => self.answer(),
        }
    }

    fn lease<'a>(
        &'a self,
        _key: &'a str,
        _ttl: Duration,
        _wait: Duration,
    ) -> StoreFuture<'a, Box<dyn Held>> {
        let fence = self.fence.clone();
        match self.script {
            Script::GivesLeases => {
                Box::pin(async { Ok(Box::new(HangingLease(fence)) as Box<dyn Held>) })
            }
            _ => self.answer(),
        }
    }

    fn changes(&self) -> Box<dyn Changes> {
        MemoryStore::default().changes()
    }

    fn place(&self, key: &str) -> String {
        key.to_owned()
    }
}

struct HangingLease(Fence);

impl Held for HangingLease {
    fn fence(&self) -> &Fence {
        &self.0
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// What came of a call, and that it took exactly this long.
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
async fn every_call_to_a_byte_store_that_hangs_ends_at_its_deadline() {
    let store = Scripted::store(Script::Hangs);
    assert!(is_timeout(&after(DEADLINE, store.load("a")).await));
    assert!(is_timeout(&after(DEADLINE, store.keys("a")).await));
    assert!(is_timeout(&after(DEADLINE, store.clear_aside("a")).await));
    for wait in [Duration::ZERO, SOON] {
        assert!(is_timeout(&after(wait + DEADLINE, store.lease("a", SOON, wait)).await));
    }
    after(DEADLINE, store.seal_all(&["a"])).await;
}

/// It may be stored, now or later, so that it is neither stored nor refused.
#[tokio::test(start_paused = true)]
async fn a_put_without_an_answer_is_unknown() {
    let store = Scripted::store(Script::Hangs);
    let new = record("rt-1");
    let put = after(DEADLINE, store.put("a", Version::ABSENT, None, &new)).await;
    assert_eq!(put.unwrap(), Put::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_looked_at_is_not_said_to_be_held() {
    let store = Scripted::store(Script::GivesLeases);
    let lease = store.lease("a", SOON, SOON).await.unwrap();
    assert!(is_timeout(&after(DEADLINE, lease.check()).await));
    let new = record("rt-1");
    let put = after(DEADLINE, store.put("a", Version::ABSENT, Some(&lease), &new)).await;
    assert_eq!(put.unwrap(), Put::Unknown);
}

#[tokio::test(start_paused = true)]
async fn setting_aside_is_within_the_deadline_of_the_load() {
    let store = Scripted::store(Script::HangsSettingAside);
    assert!(is_timeout(&after(DEADLINE, store.load("a")).await));
}

#[tokio::test(start_paused = true)]
async fn a_load_ends_although_what_is_stored_changes_all_the_time() {
    let store = Scripted::store(Script::ChangesAllTheTime);
    assert!(is_busy(&after(Duration::ZERO, store.load("a")).await));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_timeout() {
    let store = Scripted::store(Script::Refuses);
    let new = record("rt-1");
    let refusals = [
        after(Duration::ZERO, store.load("a")).await.map(drop),
        after(Duration::ZERO, store.put("a", Version::ABSENT, None, &new)).await.map(drop),
        after(Duration::ZERO, store.lease("a", SOON, SOON)).await.map(drop),
        after(Duration::ZERO, store.keys("a")).await.map(drop),
        after(Duration::ZERO, store.clear_aside("a")).await,
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().word(), "store_io");
    }
}

/// One record that cannot be read does not keep the others from being sealed for ever.
#[tokio::test(start_paused = true)]
async fn sealing_waits_for_each_record_no_longer_than_the_deadline() {
    let store = Scripted::store(Script::KnowsKeys);
    after(2 * DEADLINE, store.seal_all(&["a", "b"])).await;
}
