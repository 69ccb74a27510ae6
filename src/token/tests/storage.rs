//! Stores that fail or hang.

use std::sync::atomic::Ordering;

use super::faulty_store::ALL;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_stored_refresh_leaves_no_unsaved_record_and_releases_the_lease() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().is_unsaved);
    assert!(!fixture.store.is_leased().await);
}

// ----- failing writes -----

/// Operators restore backups when a disk fails.
#[tokio::test(start_paused = true)]
async fn a_backup_restored_while_a_token_is_unsaved_does_not_lose_it() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let backup = fixture.record().await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.clock.advance(2 * HOUR);
    fixture.store.fail(ALL);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(slot.status().is_unsaved);
    fixture.put(&backup).await;
    fixture.store.fail(0);
    fixture.rest().await;
    assert!(!slot.status().is_unsaved);
    assert_eq!(fixture.record().await.refresh_token, secret("rt3"));
}

#[tokio::test(start_paused = true)]
async fn an_unsaved_token_is_replaced_by_a_newer_stored_one() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.store.fail(ALL);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let later = fixture.clock.now() + SECOND;
    let theirs = foreign(&fixture.record().await, 2, later, HOUR);
    fixture.put(&theirs).await;
    fixture.store.fail(0);
    fixture.rest().await;
    assert!(!slot.status().is_unsaved && !fixture.store.is_leased().await);
    assert_eq!(fixture.record().await, theirs);
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
}

#[tokio::test(start_paused = true)]
async fn an_unsaved_token_survives_a_failed_refresh_and_is_saved() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.store.fail(ALL);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(fixture.store.is_leased().await, "nobody else may refresh with what is stored");
    fixture.clock.advance(2 * HOUR);
    fixture.server.throttle(60);
    assert!(token(&slot).await.is_err());
    fixture.rest().await;
    assert!(slot.status().is_unsaved && fixture.store.is_leased().await);
    fixture.store.fail(0);
    fixture.rest().await;
    assert!(!slot.status().is_unsaved && !fixture.store.is_leased().await);
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
    // The refresh after that succeeds.
    fixture.clock.advance(HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(!slot.status().is_unsaved && !fixture.store.is_leased().await);
    assert_eq!(fixture.record().await.generation, Generation(3));
}

/// The process keeps the unsaved record even if reading fails as well.
#[tokio::test(start_paused = true)]
async fn an_unsaved_token_stays_in_use_while_the_store_is_unavailable() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.store.fail(ALL);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.store.unreadable.store(true, Ordering::SeqCst);
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(fixture.server.presented("rt2"), 1);
    fixture.store.unreadable.store(false, Ordering::SeqCst);
    fixture.store.fail(0);
    fixture.rest().await;
    assert_eq!(fixture.record().await.refresh_token, secret("rt3"));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_succeeds_on_the_third_try_is_not_reported_as_unsaved() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    // The write of the attempt is one of the three.
    fixture.store.fail(3);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().is_unsaved);
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
}

/// While a token is usable, the refresh can wait for the store.
#[tokio::test(start_paused = true)]
async fn a_refresh_whose_attempt_cannot_be_stored_waits_while_the_token_is_usable() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.clock.advance(Duration::from_secs(3500));
    fixture.store.fail(ALL);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.rest().await;
    assert_eq!(fixture.server.requests().len(), 1);
    let condition = Condition::Failing(FailureReason::Store("store_io"));
    assert_eq!(slot.status().condition, condition);
    assert_eq!(fixture.record().await.refresh_token, secret("rt1"));
}

/// Without a usable token requests would fail.
#[tokio::test(start_paused = true)]
async fn a_refresh_for_a_rejected_token_does_not_wait_for_the_store() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.rest().await;
    fixture.store.fail(ALL);
    fixture.server.issue(2);
    assert_eq!(reject(&slot, true).await.unwrap(), "at2");
}

/// The refresh token in memory may be superseded, and a strict server would revoke the grant.
#[tokio::test(start_paused = true)]
async fn no_refresh_token_is_presented_while_the_store_cannot_be_read() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.store.unreadable.store(true, Ordering::SeqCst);
    assert_eq!(why(token(&slot).await.unwrap_err()), "store_io");
    assert_eq!(fixture.server.presented("rt1"), 0);
    fixture.store.unreadable.store(false, Ordering::SeqCst);
    fixture.put(&foreign(&fixture.record().await, 2, fixture.clock.now(), HOUR)).await;
    fixture.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
    assert_eq!(fixture.server.presented("rt1"), 0);
}

/// The unsaved tokens are revoked and not written afterwards.
#[tokio::test(start_paused = true)]
async fn a_logout_revokes_an_unsaved_token() {
    let mut fixture = Fixture::new(with_revocation);
    let slot = fixture.expired().await;
    fixture.store.fail(ALL);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(slot.logout().await.is_err(), "a logout that is not stored is none");
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.store.fail(0);
    slot.logout().await.unwrap();
    fixture.rest().await;
    let record = fixture.record().await;
    assert!(record.is_tombstone());
    assert_eq!(record.generation, Generation(3), "newer than what was not saved");
    assert!(!fixture.store.is_leased().await);
    let requests = fixture.server.requests();
    assert!(requests[2].contains("token=rt2") && requests[3].contains("token=at2"), "{requests:?}");
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LoggedOut));
}

// ----- hanging stores -----

/// Refusing requests would not restore the old token.
#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_delays_requests_by_a_second_and_is_retried() {
    for hang in [WriteHang::Before, WriteHang::After, WriteHang::Late] {
        let mut fixture = Fixture::new(|_| ());
        let slot = fixture.expired().await;
        let hold = fixture.server.gate.write().await;
        fixture.server.issue(2);
        let waiting = waiting(&slot);
        fixture.until_asked().await;
        fixture.store.hang(hang);
        let answered = Instant::now();
        drop(hold);
        // The token is not used before it is stored or saving has taken too long.
        tokio::time::sleep(SECOND * 9 / 10).await;
        assert!(!waiting.is_finished(), "{hang:?}");
        assert_eq!(waiting.await.unwrap().unwrap(), "at2", "{hang:?}");
        assert!(answered.elapsed() < SECOND * 11 / 10, "{hang:?}: {:?}", answered.elapsed());
        assert!(slot.status().is_unsaved, "{hang:?}");
        assert!(fixture.store.is_leased().await, "{hang:?}: nobody else may refresh");
        assert!(fixture.context.metrics.encode().contains("store_timeout"));
        fixture.rest().await;
        assert_eq!(token(&slot).await.unwrap(), "at2");
        fixture.store.let_go().await;
        tokio::time::sleep(2 * SECOND).await;
        assert!(!slot.status().is_unsaved && !fixture.store.is_leased().await, "{hang:?}");
        assert_eq!(fixture.record().await.refresh_token, secret("rt2"), "{hang:?}");
        assert_eq!(fixture.server.presented("rt1"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_hanging_store_no_refresh_starts_while_the_token_is_usable() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.clock.advance(Duration::from_secs(3500));
    fixture.store.hang(WriteHang::Before);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.rest().await;
    assert_eq!(fixture.server.presented("rt1"), 0);
    // Without a usable token the refresh continues without the store.
    fixture.clock.advance(HOUR);
    fixture.server.issue(2);
    let asked = Instant::now();
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    fixture.store.let_go().await;
    fixture.rest().await;
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
}

/// Requests wait until the new token is saved, even if a reload happens meanwhile.
#[tokio::test(start_paused = true)]
async fn a_reload_during_a_save_does_not_publish_the_token() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let hold = fixture.server.gate.write().await;
    fixture.server.issue(2);
    let waiting = waiting(&slot);
    fixture.until_asked().await;
    fixture.store.hang(WriteHang::Before);
    drop(hold);
    tokio::time::sleep(SECOND / 2).await;
    fixture.config.margin = Margin::Fixed(SECOND);
    let after = fixture.reload().await;
    tokio::time::sleep(SECOND / 10).await;
    assert!(!after.status().is_usable && !waiting.is_finished());
    assert_eq!(token(&after).await.unwrap(), "at2");
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
}

/// A panic of one task does not end the process, and the issued token is in memory.
#[tokio::test(start_paused = true)]
async fn a_panic_while_a_token_is_being_saved_loses_nothing() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    *fixture.store.panics.lock().unwrap() = Some(Generation(2));
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.rest().await;
    assert!(!slot.status().is_unsaved);
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!((fixture.server.presented("rt1"), fixture.server.presented("rt2")), (1, 1));
}
