#![allow(clippy::unwrap_used)]
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use super::*;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A table of names, of which some hang for as long as the test wants.
#[derive(Clone, Default)]
struct Table {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Result<Vec<IpAddr>, NameError>>,
    hanging: HashSet<String>,
    asked: Vec<String>,
}

impl Table {
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

    /// Waits until so many names have been looked up, or are being.
    async fn are_asked(&self, count: usize) {
        let table = self.clone();
        let asked = move || {
            let state = table.state.0.lock().unwrap();
            let until = |state: &mut State| state.asked.len() < count;
            let waited = table.state.1.wait_timeout_while(state, LONG, until).unwrap();
            assert!(!waited.1.timed_out(), "{count} names were never looked up");
        };
        tokio::task::spawn_blocking(asked).await.unwrap();
    }
}

impl Lookup for Table {
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

/// Answers are stale at once, so that every question makes a look-up.
const STALE_AT_ONCE: Ages =
    Ages { fresh: Duration::ZERO, failed: Duration::ZERO, patience: Duration::from_millis(50) };

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(100)
}

fn late() -> Instant {
    Instant::now() + LONG
}

#[tokio::test]
async fn p24_names_that_hang_delay_neither_others_nor_the_end() {
    let table = Table::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    let resolver = Resolver::with(table.clone(), Ages::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for n in 0..600 {
        let name = format!("h{n}.dead.example");
        table.hang(&name);
        let resolver = resolver.clone();
        runtime.spawn(async move { resolver.addresses(&name, late()).await });
    }
    table.are_asked(PER_SUFFIX).await;
    assert_eq!(resolver.addresses("localhost", soon()).await.unwrap().len(), 2);
    let found = resolver.addresses("api.test", late()).await;
    assert_eq!(*found.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
    let began = std::time::Instant::now();
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "look-ups held the runtime back");
    table.release_all();
}

#[tokio::test]
async fn who_asks_for_the_same_name_shares_one_look_up() {
    let table = Table::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    table.hang("api.test");
    let resolver = Resolver::with(table.clone(), Ages::default());
    let ask = || {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.addresses("api.test", late()).await })
    };
    let asking: Vec<_> = (0..100).map(|_| ask()).collect();
    table.are_asked(1).await;
    table.release_all();
    for asked in asking {
        assert!(asked.await.unwrap().is_ok());
    }
    assert!(resolver.addresses("api.test", late()).await.is_ok());
    assert_eq!(table.asked("api.test"), 1, "the answer was not shared");
}

#[tokio::test]
async fn an_answer_that_comes_while_somebody_is_about_to_ask_is_used() {
    let table = Table::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    let resolver = Resolver::with(table.clone(), Ages::default());
    assert!(resolver.addresses("api.test", late()).await.is_ok());
    // As one that found nothing kept before that look-up ended.
    assert!(resolver.look_up("api.test", false, late()).await.is_ok());
    assert_eq!(table.asked("api.test"), 1, "it was asked again");
}

#[tokio::test]
async fn a_look_up_that_takes_too_long_is_late_and_its_answer_is_kept() {
    let table = Table::default();
    table.set("slow.test", Ok([192, 0, 2, 1]));
    table.hang("slow.test");
    let resolver = Resolver::with(table.clone(), Ages::default());
    assert_eq!(resolver.addresses("slow.test", soon()).await, Err(NameError::Late));
    table.release_all();
    assert!(resolver.addresses("slow.test", late()).await.is_ok());
    assert_eq!(table.asked("slow.test"), 1);
}

#[tokio::test]
async fn a_name_that_resolved_before_is_answered_while_its_look_up_hangs_or_fails() {
    let table = Table::default();
    table.set("api.test", Ok([192, 0, 2, 1]));
    let resolver = Resolver::with(table.clone(), STALE_AT_ONCE);
    let first = resolver.addresses("api.test", late()).await;
    assert!(first.is_ok());
    table.hang("api.test");
    assert_eq!(resolver.addresses("api.test", late()).await, first, "while it hangs");
    table.release_all();
    for error in [NameError::Unavailable, NameError::Failed(-4)] {
        table.set("api.test", Err(error));
        assert_eq!(resolver.addresses("api.test", late()).await, first, "{error}");
    }
    // A look-up that says that the name is gone is believed.
    let resolver = Resolver::with(table.clone(), STALE_AT_ONCE);
    table.set("api.test", Ok([192, 0, 2, 1]));
    assert!(resolver.addresses("api.test", late()).await.is_ok());
    table.set("api.test", Err(NameError::NotFound));
    assert_eq!(resolver.addresses("api.test", late()).await, Err(NameError::NotFound));
}

#[tokio::test]
async fn a_failure_is_kept_for_a_moment() {
    let table = Table::default();
    let resolver = Resolver::with(table.clone(), Ages::default());
    for _ in 0..10 {
        let answer = resolver.addresses("gone.test", late()).await;
        assert_eq!(answer, Err(NameError::NotFound));
    }
    assert_eq!(table.asked("gone.test"), 1, "a burst asked more than once");
}

#[tokio::test]
async fn a_look_up_that_panics_is_a_failure() {
    struct Panics;
    impl Lookup for Panics {
        fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, NameError> {
            panic!("on purpose");
        }
    }
    let resolver = Resolver::with(Panics, Ages::default());
    assert_eq!(resolver.addresses("a.test", late()).await, Err(NameError::Unavailable));
    assert_eq!(resolver.addresses("b.test", late()).await, Err(NameError::Unavailable));
}

#[tokio::test]
async fn the_system_knows_this_machine() {
    // The hosts file has it everywhere, and without this module it would be asked.
    let found = System.addresses("localhost").unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
}
