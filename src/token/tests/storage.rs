//! A store that cannot be written or read, or that hangs.

use std::sync::atomic::Ordering;

use super::scripted_store::ALL;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_stored_leaves_nothing_to_save_and_the_lease_to_others() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().is_unsaved);
    assert!(!fixture.store.is_leased().await);
}

// ----- a store that cannot be written -----

/// A disk in trouble is just when somebody reaches for a backup.
#[tokio::test(start_paused = true)]
async fn a_backup_put_back_while_a_token_is_not_saved_does_not_lose_it() {
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
async fn a_token_that_is_not_saved_gives_way_to_a_newer_one() {
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

/// Its next refresh fails: it is not forgotten for that.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_saved_is_kept_and_saved_through_a_refresh_that_fails() {
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
    // And the refresh after that is an ordinary one.
    fixture.clock.advance(HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(!slot.status().is_unsaved && !fixture.store.is_leased().await);
    assert_eq!(fixture.record().await.generation, Generation(3));
}

/// The process that could not save still knows the newest: a read that fails as well is no reason to forget it.
#[tokio::test(start_paused = true)]
async fn with_a_store_that_can_neither_be_written_nor_read_what_is_not_saved_goes_on() {
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
async fn a_write_that_fails_twice_is_no_token_that_is_not_saved() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    // That of the attempt is one of the three.
    fixture.store.fail(3);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().is_unsaved);
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
}

/// With a token to spare there is time to wait for the disk.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_cannot_be_written_down_is_not_begun_while_the_token_is_good() {
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

/// Without one there is none: requests would only fail.
#[tokio::test(start_paused = true)]
async fn a_refresh_for_a_rejected_token_does_not_wait_for_the_disk() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.rest().await;
    fixture.store.fail(ALL);
    fixture.server.issue(2);
    assert_eq!(reject(&slot, true).await.unwrap(), "at2");
}

/// What is stored may be superseded: a strict server would revoke everything for it.
#[tokio::test(start_paused = true)]
async fn nothing_is_presented_while_it_cannot_be_read_what_is_stored() {
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

/// The tokens that only this process knows are revoked, and are not written down afterwards.
#[tokio::test(start_paused = true)]
async fn a_logout_ends_a_token_that_is_not_saved() {
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

// ----- a store that hangs -----

/// The server has issued a token, and refusing requests would not bring the old one back.
#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_holds_requests_up_for_a_second_and_is_made_later() {
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
        // Nobody uses it before it is stored, or that has taken too long.
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
async fn with_a_store_that_hangs_nothing_is_begun_while_the_token_is_good() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.clock.advance(Duration::from_secs(3500));
    fixture.store.hang(WriteHang::Before);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.rest().await;
    assert_eq!(fixture.server.presented("rt1"), 0);
    // Without one it goes on without the disk.
    fixture.clock.advance(HOUR);
    fixture.server.issue(2);
    let asked = Instant::now();
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    fixture.store.let_go().await;
    fixture.rest().await;
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
}

/// Whoever asks while the new token is being saved waits for that, whatever else happens.
#[tokio::test(start_paused = true)]
async fn a_reload_while_a_token_is_being_saved_does_not_publish_it() {
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

/// The crash of one task is no crash of the process: what the server issued is in memory.
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
