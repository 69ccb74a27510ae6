#![allow(clippy::unwrap_used)]
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use super::*;

/// Longer than any operation in these tests.
const LONG: Duration = Duration::from_secs(20);

/// A table of names, some of which hang until the test releases them.
#[derive(Clone, Default)]
struct ScriptedLookup {
    state: Arc<(Mutex<ScriptedLookupState>, Condvar)>,
}

#[derive(Default)]
struct ScriptedLookupState {
    answers: HashMap<String, Result<Vec<IpAddr>, NameError>>,
    hanging: HashSet<String>,
    asked: Vec<String>,
}

impl ScriptedLookup {
    fn set(&self, name: &str, answer: Result<[u8; 4], NameError>) {
        let answer = answer.map(|address| vec![Ipv4Addr::from(address).into()]);
        self.state.0.lock().unwrap().answers.insert(name.to_owned(), answer);
    }

    fn hang(&self, name: &str) {
        self.state.0.lock().unwrap().hanging.insert(name.to_owned());
    }

    fn release_all(&self) {
        self.state.0.lock().unwrap().hanging.clear();
        self.state.1.notify_all();
    }

    fn asked(&self, name: &str) -> usize {
        self.state.0.lock().unwrap().asked.iter().filter(|asked| *asked == name).count()
    }

    /// Waits until `count` lookups have started.
    async fn wait_for_lookups(&self, count: usize) {
        let table = self.clone();
        let asked = move || {
            let state = table.state.0.lock().unwrap();
            let until = |state: &mut ScriptedLookupState| state.asked.len() < count;
            let waited = table.state.1.wait_timeout_while(state, LONG, until).unwrap();
            assert!(!waited.1.timed_out(), "{count} names were never looked up");
        };
        tokio::task::spawn_blocking(asked).await.unwrap();
    }
}

impl Lookup for ScriptedLookup {
    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let mut state = self.state.0.lock().unwrap();
        state.asked.push(name.to_owned());
        self.state.1.notify_all();
        while state.hanging.contains(name) {
            state = self.state.1.wait(state).unwrap();
        }
        state.answers.get(name).cloned().unwrap_or(Err(NameError::NotFound))
    }
}

/// All answers are stale at once, so that each call starts a lookup.
const ALWAYS_STALE: CacheTimes = CacheTimes {
    fresh: Duration::ZERO,
    failed: Duration::ZERO,
    lookup_wait: Duration::from_millis(50),
};

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(100)
}

fn late() -> Instant {
    Instant::now() + LONG
}

#[tokio::test]
async fn p24_hanging_names_delay_neither_others_nor_shutdown() {
    let table = ScriptedLookup::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    let resolver = Resolver::with(table.clone(), CacheTimes::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for n in 0..600 {
        let name = format!("h{n}.dead.example");
        table.hang(&name);
        let resolver = resolver.clone();
        runtime.spawn(async move { resolver.addresses(&name, late()).await });
    }
    table.wait_for_lookups(MAX_PER_SUFFIX).await;
    assert_eq!(resolver.addresses("localhost", soon()).await.unwrap().len(), 2);
    let found = resolver.addresses("api.test", late()).await;
    assert_eq!(*found.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
    let added_at = std::time::Instant::now();
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    assert!(added_at.elapsed() < Duration::from_secs(5), "lookups held the runtime back");
    table.release_all();
}

#[tokio::test]
async fn concurrent_callers_share_one_lookup() {
    let table = ScriptedLookup::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    table.hang("api.test");
    let resolver = Resolver::with(table.clone(), CacheTimes::default());
    let ask = || {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.addresses("api.test", late()).await })
    };
    let asking: Vec<_> = (0..100).map(|_| ask()).collect();
    table.wait_for_lookups(1).await;
    table.release_all();
    for asked in asking {
        assert!(asked.await.unwrap().is_ok());
    }
    assert!(resolver.addresses("api.test", late()).await.is_ok());
    assert_eq!(table.asked("api.test"), 1, "the answer was not shared");
}

#[tokio::test]
async fn an_answer_that_arrives_before_the_caller_joins_is_used() {
    let table = ScriptedLookup::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    let resolver = Resolver::with(table.clone(), CacheTimes::default());
    assert!(resolver.addresses("api.test", late()).await.is_ok());
    // Like a caller that checked the cache before that lookup ended.
    assert!(resolver.look_up("api.test", false, late()).await.is_ok());
    assert_eq!(table.asked("api.test"), 1, "it was asked again");
}

#[tokio::test]
async fn a_slow_lookup_times_out_and_its_answer_is_cached() {
    let table = ScriptedLookup::default();
    table.set("slow.test", Ok([192, 0, 2, 1]));
    table.hang("slow.test");
    let resolver = Resolver::with(table.clone(), CacheTimes::default());
    assert_eq!(resolver.addresses("slow.test", soon()).await, Err(NameError::Timeout));
    table.release_all();
    assert!(resolver.addresses("slow.test", late()).await.is_ok());
    assert_eq!(table.asked("slow.test"), 1);
}

#[tokio::test]
async fn a_stale_answer_is_used_while_the_lookup_hangs_or_fails() {
    let table = ScriptedLookup::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    let resolver = Resolver::with(table.clone(), ALWAYS_STALE);
    let first = resolver.addresses("api.test", late()).await;
    assert!(first.is_ok());
    table.hang("api.test");
    assert_eq!(resolver.addresses("api.test", late()).await, first, "while it hangs");
    table.release_all();
    for error in [NameError::Unavailable, NameError::Failed(-4)] {
        table.set("api.test", Err(error));
        assert_eq!(resolver.addresses("api.test", late()).await, first, "{error}");
    }
    // An answer that the name does not exist overrides the cache.
    let resolver = Resolver::with(table.clone(), ALWAYS_STALE);
    table.set("api.test", Ok([192, 0, 2, 1]));
    assert!(resolver.addresses("api.test", late()).await.is_ok());
    table.set("api.test", Err(NameError::NotFound));
    assert_eq!(resolver.addresses("api.test", late()).await, Err(NameError::NotFound));
}

#[tokio::test]
async fn failures_are_cached_briefly() {
    let table = ScriptedLookup::default();
    let resolver = Resolver::with(table.clone(), CacheTimes::default());
    for _ in 0..10 {
        let answer = resolver.addresses("gone.test", late()).await;
        assert_eq!(answer, Err(NameError::NotFound));
    }
    assert_eq!(table.asked("gone.test"), 1, "a burst asked more than once");
}

#[tokio::test]
async fn a_lookup_that_panics_is_a_failure() {
    struct Panics;
    impl Lookup for Panics {
        fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, NameError> {
            panic!("on purpose");
        }
    }
    let resolver = Resolver::with(Panics, CacheTimes::default());
    assert_eq!(resolver.addresses("a.test", late()).await, Err(NameError::Unavailable));
    assert_eq!(resolver.addresses("b.test", late()).await, Err(NameError::Unavailable));
}

#[tokio::test]
async fn the_system_resolves_localhost() {
    // The hosts file contains it everywhere, and only this module's special case keeps it from
    // being read.
    let found = SystemLookup.addresses("localhost").unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
}
