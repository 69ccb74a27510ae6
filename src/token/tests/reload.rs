//! Reloads: an old and a new slot of one credential in one process.

use std::sync::atomic::Ordering;

use tokio::sync::RwLockWriteGuard;

use super::*;

/// Returns an old slot with an expired token, and a request that waits for a token request until the returned
/// guard is dropped.
async fn refreshing<'a>(
    fixture: &mut Fixture,
    server: &'a ScriptedServer,
) -> (Arc<Slot>, JoinHandle<Result<String, TokenError>>, RwLockWriteGuard<'a, ()>) {
    let before = fixture.expired().await;
    server.arrival().await;
    let hold = server.gate.write().await;
    let waiting = waiting(&before);
    server.arrival().await;
    (before, waiting, hold)
}

fn elsewhere(fixture: &mut Fixture) {
    fixture.seed("s2");
    fixture.config.oauth.token_url = Some(text("https://other.example/token"));
}

/// The requests that the other authorization server received.
fn shown_elsewhere(fixture: &Fixture) -> Vec<String> {
    fixture.server.requests().into_iter().filter(|it| it.starts_with("other")).collect()
}

// ----- another grant -----

/// The new grant may be for other hosts than the old request.
#[tokio::test(start_paused = true)]
async fn an_old_slot_gets_no_token_of_the_new_grant() {
    for same_server in [true, false] {
        let mut fixture = Fixture::new(|_| ());
        let before = fixture.started().await;
        let at1 = before.token().await.unwrap();
        fixture.rest().await;
        if same_server {
            fixture.seed("s2");
        } else {
            elsewhere(&mut fixture);
        }
        let after = fixture.reload().await;
        fixture.server.issue(2);
        assert_eq!(token(&after).await.unwrap(), "at2");
        let again = before.rejected(&at1, &mut ResendState::first(1, true), true).await;
        assert!(again.is_none(), "{again:?}");
        assert_eq!(why(token(&before).await.unwrap_err()), "reloaded");
        // A reload of the record does not change that.
        let _watching = fixture.watch();
        fixture.store.notify();
        fixture.rest().await;
        assert_eq!(why(token(&before).await.unwrap_err()), "reloaded");
        assert_eq!(token(&after).await.unwrap(), "at2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_slot_gets_no_token_of_the_old_grant() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.started().await;
    fixture.config.oauth.token_url = Some(text("https://other.example/token"));
    let after = fixture.reload().await;
    assert_eq!(token(&after).await, needs_login(TerminalReason::OtherGrant));
    assert_eq!(token(&*fixture.start().await).await, needs_login(TerminalReason::OtherGrant));
    assert_eq!(shown_elsewhere(&fixture), [""; 0], "its refresh token is presented nowhere else");
    // With the old configuration again, the old grant is used.
    fixture.config.oauth.token_url = Some(text(TOKEN_URL));
    assert_eq!(token(&*fixture.reload().await).await.unwrap(), "at1");
}

/// Waiting would not help, because only the new slot gets a token.
#[tokio::test(start_paused = true)]
async fn an_old_slot_starts_no_refresh_for_the_new_grant() {
    let mut fixture = Fixture::new(|_| ());
    let before = fixture.started().await;
    fixture.seed("s2");
    let after = fixture.reload().await;
    fixture.server.issue(2);
    let asked = Instant::now();
    let error = token(&before).await.unwrap_err();
    assert_eq!(
        error,
        TokenError::Unavailable { retry_after: SECOND, reason: FailureReason::Reloaded }
    );
    assert!(asked.elapsed() < SECOND);
    assert_eq!(fixture.server.requests().len(), 1);
    assert_eq!(token(&after).await.unwrap(), "at2");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_during_a_reload_fails_immediately() {
    let mut fixture = Fixture::new(|_| ());
    let server = Arc::clone(&fixture.server);
    let (_before, waiting, hold) = refreshing(&mut fixture, &server).await;
    elsewhere(&mut fixture);
    let asked = Instant::now();
    let _after = fixture.reload().await;
    assert_eq!(why(waiting.await.unwrap().unwrap_err()), "reloaded");
    assert!(asked.elapsed() < SECOND);
    drop(hold);
}

/// The flight uses the old configuration to its end. The next one uses the new configuration.
#[tokio::test(start_paused = true)]
async fn a_reload_during_a_flight_sends_no_token_to_the_wrong_server() {
    for dead in [true, false] {
        let mut fixture = Fixture::new(|_| ());
        let server = Arc::clone(&fixture.server);
        let (_before, waiting, hold) = refreshing(&mut fixture, &server).await;
        elsewhere(&mut fixture);
        let after = fixture.reload().await;
        if dead {
            server.dead();
            server.issue(3);
        } else {
            server.issue(2);
            server.issue(3);
        }
        drop(hold);
        assert_eq!(token(&after).await.unwrap(), "at3", "dead: {dead}");
        assert!(waiting.await.unwrap().is_err());
        let there = shown_elsewhere(&fixture);
        assert!(there.len() == 1 && there[0].contains("refresh_token=s2"), "{there:?}");
        let here = fixture.server.requests().len() - there.len();
        assert_eq!(
            (here, fixture.server.presented("s2")),
            (2, 1),
            "{:?}",
            fixture.server.requests()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_between_a_token_request_and_its_steps_sends_no_token_to_another_server() {
    let mut fixture = Fixture::new(with_step);
    fixture.seed("s1");
    let before = fixture.start().await;
    let server = Arc::clone(&fixture.server);
    let hold = server.gate.write().await;
    let waiting = waiting(&before);
    server.arrival().await;
    elsewhere(&mut fixture);
    fixture.config.oauth.steps[0].url = text("https://other.example/step");
    let after = fixture.reload().await;
    fixture.server.issue(1);
    fixture.server.issue(2);
    fixture.server.answer(200, json!({"token": "final2"}));
    drop(hold);
    assert_eq!(token(&after).await.unwrap(), "final2");
    assert!(waiting.await.unwrap().is_err());
    let there = shown_elsewhere(&fixture);
    assert!(there[0].contains("refresh_token=s2") && there.len() == 2, "{there:?}");
    assert_eq!(fixture.server.requests().len(), 3, "{:?}", fixture.server.requests());
}

#[tokio::test(start_paused = true)]
async fn an_old_seed_does_not_replace_the_seed_of_a_reload() {
    let mut fixture = Fixture::new(|_| ());
    fixture.seed("s2");
    let before = fixture.start().await;
    fixture.store.unreadable.store(true, Ordering::SeqCst);
    let waiting = waiting(&before);
    while !matches!(before.status().condition, Condition::Failing(_)) {
        tokio::task::yield_now().await;
    }
    fixture.store.unreadable.store(false, Ordering::SeqCst);
    fixture.seed("s3");
    let after = fixture.reload().await;
    fixture.server.issue(3);
    assert_eq!(token(&after).await.unwrap(), "at3");
    fixture.server.issue(4);
    fixture.clock.advance(2 * SECOND);
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(fixture.record().await.refresh_token, secret("rt3"));
    assert_eq!(fixture.server.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_old_seed_does_not_undo_a_logout_after_a_reload() {
    let mut fixture = Fixture::new(|_| ());
    fixture.seed("s1");
    let before = fixture.start().await;
    fixture.seed("s2");
    let after = fixture.reload().await;
    after.logout().await.unwrap();
    fixture.server.issue(1);
    assert!(token(&before).await.is_err());
    assert!(fixture.record().await.is_tombstone());
    assert_eq!(fixture.server.requests().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_refresh_superseded_by_a_login_serves_no_token() {
    let mut fixture = Fixture::new(|_| ());
    let server = Arc::clone(&fixture.server);
    let (_before, waiting, hold) = refreshing(&mut fixture, &server).await;
    fixture.seed("s2");
    let after = fixture.reload().await;
    fixture.clock.advance(SECOND);
    after.store_login(&login(&fixture.clock), fixture.clock.now()).await.unwrap();
    server.issue(2);
    drop(hold);
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(token(&after).await.unwrap(), "at-login");
    fixture.rest().await;
    assert_eq!(fixture.record().await.refresh_token, secret("rt-login"));
}

// ----- another request, the same grant -----

/// The refresh token stays, and the next token is requested with the new scope.
#[tokio::test(start_paused = true)]
async fn another_scope_takes_effect_with_the_next_request() {
    let mut fixture = Fixture::new(|_| ());
    let before = fixture.started().await;
    fixture.config.oauth.scope = Some(text("read write"));
    let after = fixture.reload().await;
    fixture.server.issue(2);
    assert_eq!(token(&after).await.unwrap(), "at2");
    let request = &fixture.server.requests()[1];
    assert!(request.contains("refresh_token=rt1") && request.contains("scope=read"), "{request}");
    assert_eq!(why(token(&before).await.unwrap_err()), "reloaded");
}

/// The token request in progress has the old scope.
#[tokio::test(start_paused = true)]
async fn a_token_with_the_old_scope_is_not_used_after_a_reload() {
    let mut fixture = Fixture::new(|_| ());
    let server = Arc::clone(&fixture.server);
    let (_before, _waiting, hold) = refreshing(&mut fixture, &server).await;
    fixture.config.oauth.scope = Some(text("read write"));
    let after = fixture.reload().await;
    server.issue(2);
    server.issue(3);
    drop(hold);
    assert_eq!(token(&after).await.unwrap(), "at3");
    assert_eq!((server.presented("rt1"), server.presented("rt2")), (1, 1));
}

// ----- a change that does not concern tokens -----

#[tokio::test(start_paused = true)]
async fn a_reload_without_a_grant_change_lets_both_slots_share_tokens() {
    let mut fixture = Fixture::new(|_| ());
    let before = fixture.started().await;
    fixture.rest().await;
    fixture.config.margin = Margin::Fixed(Duration::from_secs(30));
    let after = fixture.reload().await;
    let at1 = before.token().await.unwrap();
    fixture.server.issue(2);
    assert_eq!(reject(&after, true).await.unwrap(), "at2");
    let again = before.rejected(&at1, &mut ResendState::first(2, true), true).await;
    assert_eq!(again.unwrap().access_token(), "at2");
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&before).await.unwrap(), "at3");
    assert_eq!(token(&after).await.unwrap(), "at3");
    assert_eq!(fixture.server.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_requested_during_a_reload_is_used_by_both_slots() {
    let mut fixture = Fixture::new(|_| ());
    let server = Arc::clone(&fixture.server);
    let (_before, waiting, hold) = refreshing(&mut fixture, &server).await;
    fixture.config.margin = Margin::Fixed(Duration::from_secs(30));
    let after = fixture.reload().await;
    let later = super::waiting(&after);
    server.issue(2);
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    assert_eq!(later.await.unwrap().unwrap(), "at2");
    assert_eq!(after.status().condition, Condition::Fresh);
    assert_eq!(server.requests().len(), 2);
}

/// Slots are opened before a reload is complete, and it may still fail.
#[tokio::test(start_paused = true)]
async fn a_reload_changes_nothing_before_activation() {
    let mut fixture = Fixture::new(|_| ());
    let before = fixture.expired().await;
    fixture.seed("s2");
    let after = fixture.open().await;
    fixture.server.issue(2);
    assert_eq!(token(&before).await.unwrap(), "at2");
    after.activate();
    fixture.server.issue(3);
    assert_eq!(token(&after).await.unwrap(), "at3");
    assert_eq!(fixture.server.presented("s2"), 1);
}

/// A request that started before the reload may still open a slot.
#[tokio::test(start_paused = true)]
async fn an_older_configuration_is_never_reactivated() {
    let mut fixture = Fixture::new(|_| ());
    let before = fixture.started().await;
    fixture.config.oauth.scope = Some(text("read"));
    let after = fixture.reload().await;
    before.activate();
    fixture.server.issue(2);
    assert_eq!(token(&after).await.unwrap(), "at2");
    assert!(fixture.server.requests()[1].contains("scope=read"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_while_the_store_cannot_be_read_keeps_the_token() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.started().await;
    fixture.store.unreadable.store(true, Ordering::SeqCst);
    fixture.config.margin = Margin::Fixed(Duration::from_secs(30));
    let after = fixture.reload().await;
    assert_eq!(token(&after).await.unwrap(), "at1");
    // The token of another grant is not kept.
    fixture.seed("s2");
    let other = fixture.reload().await;
    assert!(token(&other).await.is_err());
}

/// An operator who fixes the configuration does not have to wait for the backoff.
#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_a_refused_setting_ends_the_backoff() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.answer(401, json!({"error": "invalid_client"}));
    assert_eq!(why(token(&slot).await.unwrap_err()), "refused");
    fixture.config.margin = Margin::Fixed(SECOND);
    assert_eq!(why(token(&*fixture.reload().await).await.unwrap_err()), "refused");
    assert_eq!(fixture.server.presented("rt1"), 1);
    fixture.config.oauth.client_secret = secret("another");
    let slot = fixture.reload().await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}
