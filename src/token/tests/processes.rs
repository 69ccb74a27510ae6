//! Two processes with one store, and leases that are lost to another process.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test(start_paused = true)]
async fn two_processes_present_a_refresh_token_once() {
    let mut fixture = Fixture::new(|_| ());
    let here = fixture.expired().await;
    let there = fixture.start().await;
    fixture.server.takes(SECOND);
    fixture.server.issue(2);
    let requests: Vec<_> = (0..10).map(|at| waiting([&here, &there][at % 2])).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), "at2");
    }
    assert_eq!(fixture.server.presented("rt1"), 1);
}

/// Another process holds the lease and does not release it.
#[tokio::test(start_paused = true)]
async fn the_token_of_another_process_is_adopted_without_the_lease() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let _watching = fixture.watch();
    let _lock = fixture.store.take_lock().await.unwrap();
    let error = token(&slot).await.unwrap_err();
    assert!(["lock_busy", "timeout"].contains(&why(error)));
    fixture.put(&foreign(&fixture.record().await, 2, fixture.clock.now(), HOUR)).await;
    fixture.store.notify();
    fixture.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
    assert_eq!(fixture.server.presented("rt1"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_superseded_refresh_adopts_the_stored_record_and_releases_the_lease() {
    let mut fixture = Fixture::new(with_revocation);
    let slot = fixture.expired().await;
    let later = fixture.clock.now() + SECOND;
    fixture.intrude(foreign(&fixture.record().await, 2, later, HOUR)).await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
    assert!(!slot.status().is_unsaved);
    assert!(!fixture.store.is_leased().await);
    // The next refresh uses the other process's refresh token, and no token was revoked.
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(fixture.server.presented("rt-other2"), 1);
    assert_eq!(fixture.server.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_superseded_by_an_expired_token_continues_with_its_refresh_token() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let later = fixture.clock.now() + SECOND;
    let expires_at = Some(fixture.clock.now() - SECOND);
    let theirs = foreign(&fixture.record().await, 2, later, HOUR);
    fixture.intrude(TokenRecord { expires_at, ..theirs }).await;
    fixture.server.issue(2);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(fixture.server.presented("rt-other2"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_superseded_by_a_logout_in_another_process_is_logged_out() {
    let mut fixture = Fixture::new(with_revocation);
    let slot = fixture.expired().await;
    let later = fixture.clock.now() + SECOND;
    let tombstone = tombstone(&fixture.record().await, &fixture.config, later);
    fixture.intrude(tombstone.clone()).await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LoggedOut));
    fixture.rest().await;
    assert_eq!(fixture.record().await, tombstone);
    let revoked = fixture.server.requests().iter().filter(|it| it.contains("/revoke")).count();
    assert_eq!(revoked, 2, "what came too late is given back");
}

/// For example after a login during the token request.
#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_does_not_affect_a_newer_record() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let theirs = foreign(&fixture.record().await, 2, fixture.clock.now(), HOUR);
    let hold = fixture.server.gate.write().await;
    fixture.server.dead();
    let waiting = waiting(&slot);
    fixture.until_asked().await;
    fixture.put(&theirs).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at-other2");
    fixture.rest().await;
    assert_eq!(fixture.record().await, theirs);
    assert!(!slot.status().is_unsaved && !fixture.store.is_leased().await);
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(fixture.server.presented("rt-other2"), 1);
}

/// A logout takes precedence over the end of the grant.
#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_after_a_logout_in_another_process_is_logged_out() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let hold = fixture.server.gate.write().await;
    fixture.server.dead();
    let waiting = waiting(&slot);
    fixture.until_asked().await;
    let tombstone = tombstone(&fixture.record().await, &fixture.config, fixture.clock.now());
    fixture.put(&tombstone).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap(), needs_login(TerminalReason::LoggedOut));
    fixture.rest().await;
    assert_eq!(fixture.record().await, tombstone);
}

/// A refresh is stored between the load and the write of the logout.
#[tokio::test(start_paused = true)]
async fn a_logout_that_conflicts_with_a_refresh_is_retried() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.intrude(foreign(&fixture.record().await, 2, fixture.clock.now(), HOUR)).await;
    slot.logout().await.unwrap();
    let record = fixture.record().await;
    assert!(record.is_tombstone() && record.generation == Generation(3));
    assert!(record.has_superseded(&hash("rt-other2")) && record.has_superseded(&hash("rt1")));
}

// ----- lost leases -----

/// Another process may hold the new lock and present the same refresh token.
#[tokio::test(start_paused = true)]
async fn a_lease_lost_before_a_token_request_stops_it() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.clock.advance(Duration::from_secs(3500));
    fixture.server.issue(2);
    fixture.store.loses_lock.store(true, Ordering::SeqCst);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(fixture.server.presented("rt1"), 0);
    assert_eq!(slot.status().condition, Condition::Failing(FailureReason::Store("lock_lost")));
    fixture.rest().await;
    assert_eq!(fixture.record().await.attempt, None, "it was not presented");
    // With the new lock the refresh succeeds.
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// The new lock holder has stored its own attempt, which must stay.
#[tokio::test(start_paused = true)]
async fn the_attempt_of_the_new_lease_holder_is_not_overwritten() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.clock.advance(Duration::from_secs(3500));
    // The lock is lost when the attempt is written.
    let now = fixture.clock.now();
    let mut theirs = fixture.record().await;
    let (refresh_token, by) = (hash("rt1"), "lock-1".to_owned());
    theirs.attempt = Some(Attempt { refresh_token, first: now, last: now, count: 1, by });
    let theirs = stored(&theirs);
    fixture.store.loses_lock.store(true, Ordering::SeqCst);
    *fixture.store.new_holder.lock().unwrap() = Some(theirs.clone());
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.rest().await;
    assert_eq!(fixture.record().await.attempt, theirs.attempt);
    assert!(!slot.status().is_unsaved);
    assert_eq!(fixture.server.presented("rt1"), 0, "its answer may still come, to them");
}

#[tokio::test(start_paused = true)]
async fn a_lease_lost_between_two_token_requests_stops_the_second() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.lose();
    let waiting = waiting(&slot);
    fixture.until_asked().await;
    fixture.store.lose_lock();
    let _theirs = fixture.store.take_lock().await.unwrap();
    assert!(waiting.await.unwrap().is_err());
    fixture.rest().await;
    assert_eq!(fixture.server.presented("rt1"), 1);
}

/// The server has consumed the refresh token, so its response is stored even without the lock.
#[tokio::test(start_paused = true)]
async fn a_lease_lost_during_a_token_request_does_not_lose_the_response() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let hold = fixture.server.gate.write().await;
    fixture.server.issue(2);
    let waiting = waiting(&slot);
    fixture.until_asked().await;
    fixture.store.lose_lock();
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
    assert!(!slot.status().is_unsaved);
}
