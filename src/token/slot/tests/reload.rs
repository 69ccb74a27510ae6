//! Two slots of one credential: requests of before a reload keep theirs.

use std::sync::atomic::Ordering;

use super::storage::{Unreliable, foreign, settled};
use tokio::sync::RwLockWriteGuard;
use tokio::task::JoinHandle;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const UNSETTLED: Progress = Progress { renewed: false, settled: usize::MAX };

/// A slot of before whose token is over, and a request that waits for the next one at the server, until what
/// is returned with it is dropped.
async fn refreshing<'a>(
    stage: &mut Stage,
    script: &'a Script,
) -> (Arc<Slot>, JoinHandle<Result<String, TokenError>>, RwLockWriteGuard<'a, ()>) {
    let before = stage.started().await;
    stage.clock.advance(2 * HOUR);
    script.arrived.notified().await;
    let hold = script.gate.write().await;
    script.issue(2);
    let waiting = tokio::spawn({
        let before = Arc::clone(&before);
        async move { token(&before).await }
    });
    script.arrived.notified().await;
    (before, waiting, hold)
}

// ----- another grant -----

/// It may be for other hosts: the request is for one of before.
#[tokio::test(start_paused = true)]
async fn a_request_of_before_a_reload_gets_no_token_of_a_grant_of_after_it() {
    let mut stage = Stage::new(|_| ());
    let store = Unreliable::under(&mut stage);
    store.shared.store(true, Ordering::SeqCst);
    let before = stage.started().await;
    stage.seed("s2");
    stage.config.oauth.token_url = Some(text("https://other.example/token"));
    let after = stage.reopen(&before).await;
    stage.script.issue(2);
    assert_eq!(token(&after).await.unwrap(), "at2");
    let renewal = before.renew(Generation(1), UNSETTLED).await;
    assert!(matches!(renewal, Renewal::PassOn), "{renewal:?}");
    // Nor by looking into the store.
    settled().await;
    assert_eq!(before.status().generation, Generation(1));
    assert_eq!(token(&after).await.unwrap(), "at2");
}

/// The refresh token is for another token endpoint now.
#[tokio::test(start_paused = true)]
async fn a_slot_of_before_a_reload_asks_nobody_for_the_grant_of_after_it() {
    let mut stage = Stage::new(|_| ());
    let before = stage.started().await;
    stage.seed("s2");
    let after = stage.reopen(&before).await;
    stage.script.issue(2);
    assert_eq!(token(&after).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    let asked = Instant::now();
    let error = token(&before).await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(1), "nothing is worth waiting for");
    // The slot of after it has a token.
    let retry_after = Duration::from_secs(1);
    assert_eq!(error, TokenError::Unavailable { retry_after, why: "reloaded" });
    assert_eq!(stage.script.requests().len(), 2);
    assert_eq!(token(&after).await.unwrap(), "at3");
}

#[tokio::test(start_paused = true)]
async fn a_seed_of_before_a_reload_does_not_take_the_place_of_one_of_after_it() {
    let mut stage = Stage::new(|_| ());
    let store = Unreliable::under(&mut stage);
    stage.seed("s2");
    let before = stage.open().await;
    store.unreadable.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn({
        let before = Arc::clone(&before);
        async move { token(&before).await }
    });
    while !matches!(before.status().condition, Condition::Failing(_)) {
        tokio::task::yield_now().await;
    }
    store.unreadable.store(false, Ordering::SeqCst);
    stage.seed("s3");
    let after = stage.reopen(&before).await;
    stage.script.issue(3);
    assert_eq!(token(&after).await.unwrap(), "at3");
    stage.script.issue(4);
    stage.clock.advance(Duration::from_secs(2));
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(stage.record().await.refresh_token, Some(Secret::new("rt3".to_owned())));
    assert_eq!(stage.script.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_seed_of_before_a_reload_does_not_undo_a_logout_of_after_it() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let before = stage.open().await;
    stage.seed("s2");
    let after = stage.reopen(&before).await;
    after.logout().await.unwrap();
    stage.script.issue(1);
    assert!(token(&before).await.is_err());
    assert!(stage.record().await.is_tombstone());
}

/// A login, say: it is found while what was asked for before is stored.
#[tokio::test(start_paused = true)]
async fn a_refresh_of_before_a_reload_that_is_overtaken_after_it_serves_nothing() {
    let mut stage = Stage::new(|_| ());
    let script = Arc::clone(&stage.script);
    let (before, waiting, hold) = refreshing(&mut stage, &script).await;
    stage.seed("s2");
    let after = stage.reopen(&before).await;
    let response = TokenResponse {
        access_token: Some(Secret::new("at-login".to_owned())),
        token_type: TokenType::default(),
        refresh_token: Some(Secret::new("rt-login".to_owned())),
        expires_at: Some(stage.clock.now() + HOUR),
        refresh_expires_at: None,
        raw: Default::default(),
        dpop_nonce: None,
    };
    after.store_login(&response, stage.clock.now()).await.unwrap();
    drop(hold);
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(token(&after).await.unwrap(), "at-login");
    assert_eq!(stage.record().await.refresh_token, Some(Secret::new("rt-login".to_owned())));
}

// ----- the same grant -----

#[tokio::test(start_paused = true)]
async fn a_request_of_before_a_reload_that_changes_no_grant_gets_a_token_of_after_it() {
    let mut stage = Stage::new(|_| ());
    let before = stage.started().await;
    stage.config.margin = Margin::Fixed(Duration::from_secs(30));
    let after = stage.reopen(&before).await;
    stage.script.issue(2);
    let renewal = after.renew(Generation(1), UNSETTLED).await;
    assert!(matches!(renewal, Renewal::Resend(token, _) if token.access_token() == "at2"));
    let renewal = before.renew(Generation(1), UNSETTLED).await;
    assert!(matches!(renewal, Renewal::Resend(token, _) if token.access_token() == "at2"));
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&before).await.unwrap(), "at3");
    assert_eq!(stage.script.requests().len(), 3);
}

/// A reload may still fail, and it is a while until its slots are in use.
#[tokio::test(start_paused = true)]
async fn a_reload_ends_nothing_before_it_has_asked_for_a_token() {
    let mut stage = Stage::new(|_| ());
    let before = stage.started().await;
    stage.seed("s2");
    let after = stage.reopen(&before).await;
    stage.clock.advance(2 * HOUR);
    stage.script.issue(2);
    assert_eq!(token(&before).await.unwrap(), "at2");
    stage.script.issue(3);
    assert_eq!(token(&after).await.unwrap(), "at3");
    assert!(stage.script.requests()[2].contains("refresh_token=s2"));
}

// ----- what one slot knows and the other does not serve -----

#[tokio::test(start_paused = true)]
async fn a_reload_while_the_store_cannot_be_read_keeps_the_token() {
    let mut stage = Stage::new(|_| ());
    let store = Unreliable::under(&mut stage);
    let before = stage.started().await;
    store.unreadable.store(true, Ordering::SeqCst);
    stage.config.margin = Margin::Fixed(Duration::from_secs(30));
    let after = stage.reopen(&before).await;
    assert_eq!(token(&after).await.unwrap(), "at1");
    // Not that of another grant.
    stage.seed("s2");
    let other = stage.reopen(&after).await;
    assert!(token(&other).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_under_way_during_a_reload_is_served_by_the_slot_of_after_it() {
    let mut stage = Stage::new(|_| ());
    let store = Unreliable::under(&mut stage);
    store.shared.store(true, Ordering::SeqCst);
    let script = Arc::clone(&stage.script);
    let (before, waiting, hold) = refreshing(&mut stage, &script).await;
    stage.config.margin = Margin::Fixed(Duration::from_secs(30));
    let after = stage.reopen(&before).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    settled().await;
    assert_eq!(after.status().generation, Generation(2));
    assert_eq!(after.status().condition, Condition::Fresh);
}

/// The lease is held by somebody who does not let go of it.
#[tokio::test(start_paused = true)]
async fn a_token_that_this_process_knows_needs_no_lease() {
    let mut stage = Stage::new(|_| ());
    let store = Unreliable::under(&mut stage);
    store.shared.store(true, Ordering::SeqCst);
    let before = stage.started().await;
    stage.config.margin = Margin::Fixed(Duration::from_secs(30));
    let after = stage.reopen(&before).await;
    stage.clock.advance(2 * HOUR);
    let _lease = store.inner.lease("api", Duration::ZERO).await.unwrap();
    let seeds = stage.record().await.seeds;
    store.put(&foreign(2, seeds, stage.clock.now() + HOUR)).await;
    assert!(before.look_again().await);
    assert_eq!(after.status().generation, Generation(1));
    assert_eq!(token(&after).await.unwrap(), "at-other");
}
