//! Interleavings: many requests, rejections, flights and siblings at once, explored by Shuttle on a
//! [`Replica`], which is a model of a slot.
//!
//! Nobody has a deadline here: a wake-up that is lost is a deadlock, which Shuttle reports.

use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::atomic::Ordering::SeqCst;
use shuttle::thread;

use super::replica::{LIFETIME, Replica, Shared};

/// Schedules for each test; `BEARERD_SCHEDULES` asks for more.
const SCHEDULES: usize = 500;

/// `n` requests through each replica at once; which were accepted, and how often they were sent.
fn ask_all(replicas: &[Arc<Replica>], n: usize) -> Vec<thread::JoinHandle<(bool, u32)>> {
    let every = replicas.iter().flat_map(|replica| std::iter::repeat_n(replica, n));
    every
        .map(|replica| {
            let replica = Arc::clone(replica);
            thread::spawn(move || replica.request())
        })
        .collect()
}

fn assert_accepted(requests: Vec<thread::JoinHandle<(bool, u32)>>) {
    for request in requests {
        assert!(request.join().unwrap().0, "a request was not accepted");
    }
}

/// Runs `test` under many random schedules, and under many that change course only a few times.
fn explore(test: fn()) {
    let asked = std::env::var("BEARERD_SCHEDULES").ok().and_then(|number| number.parse().ok());
    let schedules = asked.unwrap_or(SCHEDULES);
    shuttle::check_random(test, schedules);
    shuttle::check_pct(test, schedules, 3);
}

#[test]
fn without_a_token_two_replicas_make_one_token_request_and_everybody_is_served() {
    explore(|| {
        let shared = Shared::new(0, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        assert_accepted(ask_all(&replicas, 3));
        assert_eq!(shared.asked.load(SeqCst), 1);
    });
}

#[test]
fn a_revocation_among_requests_costs_one_token_request_and_nobody_a_failure() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        let requests = ask_all(&replicas, 3);
        shared.revoked.store(1, SeqCst);
        assert_accepted(requests);
        assert_accepted(ask_all(&replicas, 1));
        assert_eq!(shared.asked.load(SeqCst), 1);
    });
}

#[test]
fn one_process_alone_starts_no_flight_that_has_nothing_left_to_do() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replica = [Replica::open(&shared)];
        let requests = ask_all(&replica, 2);
        // Due, and not over: some requests go ahead with it while the first flight lands.
        shared.advance(LIFETIME.as_secs() - 200);
        assert_accepted(requests);
        assert_accepted(ask_all(&replica, 2));
        replica[0].rest();
        let flights = replica[0].flights.load(SeqCst);
        assert_eq!(shared.asked.load(SeqCst), flights, "{flights} flights");
    });
}

#[test]
fn an_expiry_among_requests_costs_one_token_request_and_nobody_gets_what_is_over() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        let before = ask_all(&replicas, 2);
        shared.advance(LIFETIME.as_secs());
        // Over: whoever begins now may not get it.
        for replica in &replicas {
            replica.spurned.fetch_max(1, SeqCst);
        }
        let after = ask_all(&replicas, 2);
        assert_accepted(before);
        assert_accepted(after);
        assert_eq!(shared.asked.load(SeqCst), 1);
    });
}

#[test]
fn a_refresh_that_fails_wakes_everybody_and_is_repeated_once_after_the_pause() {
    explore(|| {
        let shared = Shared::new(0, 1);
        let start = shared.now();
        let replica = [Replica::open(&shared)];
        assert_accepted(ask_all(&replica, 4));
        assert_eq!(shared.asked.load(SeqCst), 2);
        assert!(start.elapsed(shared.now()) >= Duration::from_secs(1), "at once");
    });
}

#[test]
fn what_a_sibling_stores_is_adopted_among_requests_and_rejections_and_never_undone() {
    explore(|| {
        let shared = Shared::new(1, 0);
        let replicas = [Replica::open(&shared), Replica::open(&shared)];
        let looking: Vec<_> = replicas
            .iter()
            .map(|replica| {
                let replica = Arc::clone(replica);
                thread::spawn(move || (0..3).for_each(|_| replica.look()))
            })
            .collect();
        let requests = ask_all(&replicas, 2);
        shared.revoked.store(1, SeqCst);
        shared.advance(60);
        assert_accepted(requests);
        shared.advance(LIFETIME.as_secs());
        assert_accepted(ask_all(&replicas, 2));
        for looking in looking {
            looking.join().unwrap();
        }
        let asked = shared.asked.load(SeqCst);
        assert!((1..=2).contains(&asked), "{asked} token requests");
    });
}
