//! A store that cannot be written or read, that hangs, that is put back, and that others write to.

use std::sync::atomic::Ordering;

use super::faulty::ALL;
use super::*;

/// What somebody else makes of `before`: a rotation at `at`, or something else entirely.
fn foreign(before: &TokenRecord, number: u32, at: SystemTime, lifetime: Duration) -> TokenRecord {
    let mut record = before.clone();
    record.parent = before.refresh_token.as_ref().map(Secret::fingerprint);
    record.supersede(Secret::new(format!("rt-other{number}")));
    stored(&TokenRecord {
        generation: before.generation.next(),
        access_token: secret(&format!("at-other{number}")),
        issued_at: Some(at),
        expires_at: Some(at + lifetime),
        rejected: false,
        attempt: None,
        ..record
    })
}

impl Stage {
    async fn intrude(&self, record: TokenRecord) {
        *self.faulty.intruder.lock().unwrap() = Some((Generation(2), record));
    }

    /// The token request has come; what happens until its answer is up to the test.
    async fn until_asked(&self) {
        let before = self.script.requests().len();
        while self.script.requests().len() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_stored_leaves_nothing_to_save_and_the_lease_to_others() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().unsaved);
    assert!(!stage.faulty.is_leased().await);
}

// ----- two processes -----

#[tokio::test(start_paused = true)]
async fn two_processes_present_a_refresh_token_once() {
    let mut stage = Stage::new(|_| ());
    let here = stage.expired().await;
    let there = stage.start().await;
    stage.script.takes(SECOND);
    stage.script.issue(2);
    let requests: Vec<_> = (0..10).map(|at| waiting([&here, &there][at % 2])).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), "at2");
    }
    assert_eq!(stage.script.presented("rt1"), 1);
}

/// The lease is held by somebody who does not let go of it.
#[tokio::test(start_paused = true)]
async fn what_another_process_stores_is_used_without_the_lease() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let _watching = stage.watch();
    let _lock = stage.faulty.take_lock().await.unwrap();
    let error = token(&slot).await.unwrap_err();
    assert!(["lock_busy", "timeout"].contains(&why(error)));
    stage.put(&foreign(&stage.record().await, 2, stage.clock.now(), HOUR)).await;
    stage.faulty.notify();
    stage.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
    assert_eq!(stage.script.presented("rt1"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_overtaken_gives_way_to_what_is_stored_and_leaves_the_lease() {
    let mut stage = Stage::new(with_revocation);
    let slot = stage.expired().await;
    let later = stage.clock.now() + SECOND;
    stage.intrude(foreign(&stage.record().await, 2, later, HOUR)).await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
    assert!(!slot.status().unsaved);
    assert!(!stage.faulty.is_leased().await);
    // Theirs is what the next refresh goes on with, and nobody's token was revoked.
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(stage.script.presented("rt-other2"), 1);
    assert_eq!(stage.script.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_overtaken_by_a_token_that_is_over_goes_on_with_what_that_left() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let later = stage.clock.now() + SECOND;
    let expires_at = Some(stage.clock.now() - SECOND);
    let theirs = foreign(&stage.record().await, 2, later, HOUR);
    stage.intrude(TokenRecord { expires_at, ..theirs }).await;
    stage.script.issue(2);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(stage.script.presented("rt-other2"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_overtaken_by_a_logout_of_another_process_is_logged_out() {
    let mut stage = Stage::new(with_revocation);
    let slot = stage.expired().await;
    let later = stage.clock.now() + SECOND;
    let tombstone = tombstone(&stage.record().await, &stage.config, later);
    stage.intrude(tombstone.clone()).await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LoggedOut));
    stage.rest().await;
    assert_eq!(stage.record().await, tombstone);
    let revoked = stage.script.requests().iter().filter(|it| it.contains("/revoke")).count();
    assert_eq!(revoked, 2, "what came too late is given back");
}

/// A login, say, that came while the request was in the air.
#[tokio::test(start_paused = true)]
async fn a_grant_that_dies_leaves_a_newer_record_alone() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let theirs = foreign(&stage.record().await, 2, stage.clock.now(), HOUR);
    let hold = stage.script.gate.write().await;
    stage.script.dead();
    let waiting = waiting(&slot);
    stage.until_asked().await;
    stage.put(&theirs).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at-other2");
    stage.rest().await;
    assert_eq!(stage.record().await, theirs);
    assert!(!slot.status().unsaved && !stage.faulty.is_leased().await);
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(stage.script.presented("rt-other2"), 1);
}

/// A logout is newer than the death of what it ended.
#[tokio::test(start_paused = true)]
async fn a_grant_that_dies_after_a_logout_of_another_process_is_logged_out() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let hold = stage.script.gate.write().await;
    stage.script.dead();
    let waiting = waiting(&slot);
    stage.until_asked().await;
    let tombstone = tombstone(&stage.record().await, &stage.config, stage.clock.now());
    stage.put(&tombstone).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap(), needs_login(TerminalReason::LoggedOut));
    stage.rest().await;
    assert_eq!(stage.record().await, tombstone);
}

/// A refresh that is stored between an operator's look and the tombstone.
#[tokio::test(start_paused = true)]
async fn a_logout_that_is_overtaken_is_tried_again() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.intrude(foreign(&stage.record().await, 2, stage.clock.now(), HOUR)).await;
    slot.logout().await.unwrap();
    let record = stage.record().await;
    assert!(record.is_tombstone() && record.generation == Generation(3));
    assert!(record.has_superseded(&hash("rt-other2")) && record.has_superseded(&hash("rt1")));
}

// ----- a record that is gone, old or damaged -----

/// A crash would otherwise present what the server has forgotten.
#[tokio::test(start_paused = true)]
async fn a_record_that_is_gone_old_or_damaged_is_written_back_within_two_seconds() {
    for case in ["removed", "backup", "damaged"] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        let backup = stage.record().await;
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        let newest = stage.record().await;
        let _watching = stage.watch();
        stage.rest().await;
        match case {
            "removed" => stage.faulty.remove(&stage).await,
            "backup" => stage.put(&backup).await,
            _ => stage.faulty.damage(&stage).await,
        }
        stage.faulty.notify();
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(stage.record().await, newest, "{case}");
        assert!(!slot.status().unsaved && !stage.faulty.is_leased().await, "{case}");
        assert_eq!(token(&*stage.start().await).await.unwrap(), "at2", "{case}");
        assert_eq!(stage.script.requests().len(), 2, "{case}");
    }
}

/// Nobody has noticed yet.
#[tokio::test(start_paused = true)]
async fn a_refresh_goes_by_the_newest_record_and_not_by_a_backup_that_is_stored() {
    for case in ["removed", "backup", "damaged"] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        let backup = stage.record().await;
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        stage.clock.advance(2 * HOUR);
        match case {
            "removed" => stage.faulty.remove(&stage).await,
            "backup" => stage.put(&backup).await,
            _ => stage.faulty.damage(&stage).await,
        }
        stage.script.issue(3);
        assert_eq!(token(&slot).await.unwrap(), "at3", "{case}");
        assert_eq!(
            (stage.script.presented("rt1"), stage.script.presented("rt2")),
            (1, 1),
            "{case}"
        );
        assert_eq!(stage.record().await.refresh_token, secret("rt3"), "{case}");
    }
}

/// The server has forgotten the old refresh token: what the backup holds is worth nothing.
#[tokio::test(start_paused = true)]
async fn a_backup_put_back_while_a_refresh_is_in_the_air_does_not_lose_what_it_brings() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let backup = stage.record().await;
    stage.intrude(backup).await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let record = stage.record().await;
    assert_eq!((record.refresh_token, record.generation), (secret("rt2"), Generation(2)));
    assert!(!slot.status().unsaved);
}

/// What is damaged may have been the newest: nothing is guessed, and nothing else is known.
#[tokio::test(start_paused = true)]
async fn a_damaged_record_at_the_start_is_said_and_healed_by_a_seed() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.faulty.damage(&stage).await;
    stage.config.seed = None;
    let slot = stage.start().await;
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Corrupt));
    assert_eq!(stage.script.requests().len(), 1);
    stage.seed("s2");
    let slot = stage.reload().await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
}

/// What a newer bearerd wrote is left to it.
#[tokio::test(start_paused = true)]
async fn a_record_of_a_newer_format_is_neither_used_nor_overwritten() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.expired().await;
    let bytes = String::from_utf8(stage.faulty.bytes().await.unwrap()).unwrap();
    let newer = bytes.replace("\"bearerd\": 4", "\"bearerd\": 9").into_bytes();
    stage.faulty.replace_bytes(stage.version().await, &newer).await;
    let slot = stage.start().await;
    let error = token(&slot).await.unwrap_err();
    assert!(
        matches!(error, TokenError::Unavailable { why, .. } if why.needs_operator()),
        "{error}"
    );
    assert!(slot.refresh_now().await.is_err());
    stage.rest().await;
    assert_eq!(stage.faulty.bytes().await.unwrap(), newer);
    assert_eq!(stage.script.requests().len(), 1);
}

// ----- a store that cannot be written -----

/// A disk in trouble is just when somebody reaches for a backup.
#[tokio::test(start_paused = true)]
async fn a_backup_put_back_while_a_token_is_not_saved_does_not_lose_it() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let backup = stage.record().await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    stage.faulty.fail(ALL);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(slot.status().unsaved);
    stage.put(&backup).await;
    stage.faulty.fail(0);
    stage.rest().await;
    assert!(!slot.status().unsaved);
    assert_eq!(stage.record().await.refresh_token, secret("rt3"));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_saved_gives_way_to_a_newer_one() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.faulty.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let later = stage.clock.now() + SECOND;
    let theirs = foreign(&stage.record().await, 2, later, HOUR);
    stage.put(&theirs).await;
    stage.faulty.fail(0);
    stage.rest().await;
    assert!(!slot.status().unsaved && !stage.faulty.is_leased().await);
    assert_eq!(stage.record().await, theirs);
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
}

/// Its next refresh fails: it is not forgotten for that.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_saved_is_kept_and_saved_through_a_refresh_that_fails() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.faulty.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(stage.faulty.is_leased().await, "nobody else may refresh with what is stored");
    stage.clock.advance(2 * HOUR);
    stage.script.throttle(60);
    assert!(token(&slot).await.is_err());
    stage.rest().await;
    assert!(slot.status().unsaved && stage.faulty.is_leased().await);
    stage.faulty.fail(0);
    stage.rest().await;
    assert!(!slot.status().unsaved && !stage.faulty.is_leased().await);
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
    // And the refresh after that is an ordinary one.
    stage.clock.advance(HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(!slot.status().unsaved && !stage.faulty.is_leased().await);
    assert_eq!(stage.record().await.generation, Generation(3));
}

/// The process that could not save still knows the newest: a read that fails as well is no reason to forget it.
#[tokio::test(start_paused = true)]
async fn with_a_store_that_can_neither_be_written_nor_read_what_is_not_saved_goes_on() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.faulty.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.faulty.unreadable.store(true, Ordering::SeqCst);
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(stage.script.presented("rt2"), 1);
    stage.faulty.unreadable.store(false, Ordering::SeqCst);
    stage.faulty.fail(0);
    stage.rest().await;
    assert_eq!(stage.record().await.refresh_token, secret("rt3"));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_twice_is_no_token_that_is_not_saved() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    // That of the attempt is one of the three.
    stage.faulty.fail(3);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().unsaved);
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
}

/// With a token to spare there is time to wait for the disk.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_cannot_be_written_down_is_not_begun_while_the_token_is_good() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3500));
    stage.faulty.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.rest().await;
    assert_eq!(stage.script.requests().len(), 1);
    let condition = Condition::Failing(FailureReason::Store("store_io"));
    assert_eq!(slot.status().condition, condition);
    assert_eq!(stage.record().await.refresh_token, secret("rt1"));
}

/// Without one there is none: requests would only fail.
#[tokio::test(start_paused = true)]
async fn a_refresh_for_a_rejected_token_does_not_wait_for_the_disk() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.rest().await;
    stage.faulty.fail(ALL);
    stage.script.issue(2);
    assert_eq!(reject(&slot, true).await.unwrap(), "at2");
}

/// What is stored may be superseded: a strict server would revoke everything for it.
#[tokio::test(start_paused = true)]
async fn nothing_is_presented_while_it_cannot_be_read_what_is_stored() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.faulty.unreadable.store(true, Ordering::SeqCst);
    assert_eq!(why(token(&slot).await.unwrap_err()), "store_io");
    assert_eq!(stage.script.presented("rt1"), 0);
    stage.faulty.unreadable.store(false, Ordering::SeqCst);
    stage.put(&foreign(&stage.record().await, 2, stage.clock.now(), HOUR)).await;
    stage.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at-other2");
    assert_eq!(stage.script.presented("rt1"), 0);
}

/// The tokens that only this process knows are revoked, and are not written down afterwards.
#[tokio::test(start_paused = true)]
async fn a_logout_ends_a_token_that_is_not_saved() {
    let mut stage = Stage::new(with_revocation);
    let slot = stage.expired().await;
    stage.faulty.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(slot.logout().await.is_err(), "a logout that is not stored is none");
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.faulty.fail(0);
    slot.logout().await.unwrap();
    stage.rest().await;
    let record = stage.record().await;
    assert!(record.is_tombstone());
    assert_eq!(record.generation, Generation(3), "newer than what was not saved");
    assert!(!stage.faulty.is_leased().await);
    let requests = stage.script.requests();
    assert!(requests[2].contains("token=rt2") && requests[3].contains("token=at2"), "{requests:?}");
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LoggedOut));
}

// ----- a store that hangs -----

/// The server has issued a token, and refusing requests would not bring the old one back.
#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_holds_requests_up_for_a_second_and_is_made_later() {
    for hang in [Hang::Before, Hang::After, Hang::Late] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        let hold = stage.script.gate.write().await;
        stage.script.issue(2);
        let waiting = waiting(&slot);
        stage.until_asked().await;
        stage.faulty.hang(hang);
        let answered = Instant::now();
        drop(hold);
        // Nobody uses it before it is stored, or that has taken too long.
        tokio::time::sleep(SECOND * 9 / 10).await;
        assert!(!waiting.is_finished(), "{hang:?}");
        assert_eq!(waiting.await.unwrap().unwrap(), "at2", "{hang:?}");
        assert!(answered.elapsed() < SECOND * 11 / 10, "{hang:?}: {:?}", answered.elapsed());
        assert!(slot.status().unsaved, "{hang:?}");
        assert!(stage.faulty.is_leased().await, "{hang:?}: nobody else may refresh");
        assert!(stage.context.metrics.encode().contains("store_timeout"));
        stage.rest().await;
        assert_eq!(token(&slot).await.unwrap(), "at2");
        stage.faulty.let_go().await;
        tokio::time::sleep(2 * SECOND).await;
        assert!(!slot.status().unsaved && !stage.faulty.is_leased().await, "{hang:?}");
        assert_eq!(stage.record().await.refresh_token, secret("rt2"), "{hang:?}");
        assert_eq!(stage.script.presented("rt1"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_store_that_hangs_nothing_is_begun_while_the_token_is_good() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3500));
    stage.faulty.hang(Hang::Before);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.rest().await;
    assert_eq!(stage.script.presented("rt1"), 0);
    // Without one it goes on without the disk.
    stage.clock.advance(HOUR);
    stage.script.issue(2);
    let asked = Instant::now();
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    stage.faulty.let_go().await;
    stage.rest().await;
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
}

/// Whoever asks while the new token is being saved waits for that, whatever else happens.
#[tokio::test(start_paused = true)]
async fn a_reload_while_a_token_is_being_saved_does_not_publish_it() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let hold = stage.script.gate.write().await;
    stage.script.issue(2);
    let waiting = waiting(&slot);
    stage.until_asked().await;
    stage.faulty.hang(Hang::Before);
    drop(hold);
    tokio::time::sleep(SECOND / 2).await;
    stage.config.margin = Margin::Fixed(SECOND);
    let after = stage.reload().await;
    tokio::time::sleep(SECOND / 10).await;
    assert!(!after.status().usable && !waiting.is_finished());
    assert_eq!(token(&after).await.unwrap(), "at2");
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
}

/// The crash of one task is no crash of the process: what the server issued is in memory.
#[tokio::test(start_paused = true)]
async fn a_panic_while_a_token_is_being_saved_loses_nothing() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    *stage.faulty.panics.lock().unwrap() = Some(Generation(2));
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.rest().await;
    assert!(!slot.status().unsaved);
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!((stage.script.presented("rt1"), stage.script.presented("rt2")), (1, 1));
}

// ----- a lease that is lost -----

/// Another process may have the new lock, and present the same refresh token at this moment.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_before_a_presentation_stops_it() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3500));
    stage.script.issue(2);
    stage.faulty.loses_lock.store(true, Ordering::SeqCst);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(stage.script.presented("rt1"), 0);
    assert_eq!(slot.status().condition, Condition::Failing(FailureReason::Store("lock_lost")));
    stage.rest().await;
    assert_eq!(stage.record().await.attempt, None, "it was not presented");
    // With the new lock it goes on.
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// Whoever has the lock now has noted that it is presenting the refresh token: that is not wiped out.
#[tokio::test(start_paused = true)]
async fn what_the_holder_of_the_new_lock_has_noted_is_left_there() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3500));
    // The lock is lost as soon as the attempt is written.
    let now = stage.clock.now();
    let mut theirs = stage.record().await;
    let (refresh_token, by) = (hash("rt1"), "lock-1".to_owned());
    theirs.attempt = Some(Attempt { refresh_token, first: now, last: now, count: 1, by });
    let theirs = stored(&theirs);
    stage.faulty.loses_lock.store(true, Ordering::SeqCst);
    *stage.faulty.new_holder.lock().unwrap() = Some(theirs.clone());
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.rest().await;
    assert_eq!(stage.record().await.attempt, theirs.attempt);
    assert!(!slot.status().unsaved);
    assert_eq!(stage.script.presented("rt1"), 0, "its answer may still come, to them");
}

/// Nothing is replayed either.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_between_two_presentations_stops_the_second() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.lose();
    let waiting = waiting(&slot);
    stage.until_asked().await;
    stage.faulty.lose_lock();
    let _theirs = stage.faulty.take_lock().await.unwrap();
    assert!(waiting.await.unwrap().is_err());
    stage.rest().await;
    assert_eq!(stage.script.presented("rt1"), 1);
}

/// The refresh token has been used up: what it brought is stored, whoever holds the lock.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_while_the_server_is_asked_does_not_lose_the_answer() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let hold = stage.script.gate.write().await;
    stage.script.issue(2);
    let waiting = waiting(&slot);
    stage.until_asked().await;
    stage.faulty.lose_lock();
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
    assert!(!slot.status().unsaved);
}
