//! How a new seed affects the existing grant.

use super::*;

/// The configured seed is an old refresh token.
#[tokio::test(start_paused = true)]
async fn a_refused_seed_leaves_the_previous_grant_in_use() {
    let mut fixture = Fixture::new(with_bootstrap);
    let _before = fixture.started().await;
    fixture.seed("s2");
    let slot = fixture.start().await;
    // The first attempt fails temporarily, so the seed is not known to be dead yet.
    fixture.server.throttle(60);
    assert!(token(&slot).await.is_err());
    fixture.clock.advance(HOUR / 2);
    fixture.server.dead();
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert_eq!(slot.status().last_error.unwrap().1.matches("invalid_grant").count(), 1);
    let record = fixture.record().await;
    assert_eq!(
        (record.refresh_token, record.terminal, record.attempt),
        (secret("rt1"), None, None)
    );
    assert!(record.seeds.contains(&hash("s1")) && record.seeds.contains(&hash("s2")));
    // The previous grant continues unchanged, even after a restart.
    for slot in [slot, fixture.start().await] {
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert_eq!(fixture.server.requests().len(), 3);
    }
    let slot = fixture.start().await;
    fixture.clock.advance(HOUR);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(fixture.server.presented("rt1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_seed_leaves_the_refresh_token_of_an_expired_access_token() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.expired().await;
    // Two refused seeds in a row.
    for wrong in ["s2", "s3"] {
        fixture.seed(wrong);
        let slot = fixture.start().await;
        fixture.server.throttle(60);
        assert!(token(&slot).await.is_err());
        fixture.clock.advance(HOUR);
    }
    let slot = fixture.start().await;
    fixture.server.dead();
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!((fixture.server.presented("s3"), fixture.server.presented("rt1")), (2, 1));
}

/// The old refresh token is not sent to the new server.
#[tokio::test(start_paused = true)]
async fn a_refused_seed_of_another_server_restores_no_old_grant() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.started().await;
    fixture.config.oauth.token_url = Some(text("https://elsewhere.example/token"));
    fixture.seed("s2");
    let slot = fixture.start().await;
    fixture.server.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
    assert_eq!(fixture.record().await.access_token, None);
    let there: Vec<_> =
        fixture.server.requests().into_iter().filter(|it| it.starts_with("elsewhere")).collect();
    assert!(there.len() == 1 && there[0].contains("refresh_token=s2"), "{there:?}");
}

/// The dead grant is not restored when the new seed is refused.
#[tokio::test(start_paused = true)]
async fn a_refused_seed_after_a_dead_grant_needs_another_seed() {
    let mut fixture = Fixture::new(|_| ());
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.dead();
    assert!(token(&slot).await.is_err());
    fixture.seed("s2");
    let slot = fixture.start().await;
    fixture.server.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
    fixture.seed("s3");
    let slot = fixture.reload().await;
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
}

/// After the seed has yielded a token, the previous grant is discarded.
#[tokio::test(start_paused = true)]
async fn a_seed_that_is_refused_after_a_success_is_a_dead_grant() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.started().await;
    fixture.seed("s2");
    let slot = fixture.start().await;
    fixture.server.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.clock.advance(2 * HOUR);
    fixture.server.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
}

/// A server with strict rotation revokes the grant when a superseded refresh token is presented.
#[tokio::test(start_paused = true)]
async fn a_superseded_refresh_token_is_never_presented_as_a_seed() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    for number in 2..=12 {
        fixture.clock.advance(2 * HOUR);
        fixture.server.issue(number);
        assert_eq!(token(&slot).await.unwrap(), format!("at{number}"));
    }
    for old in ["s1", "rt1", "rt2", "rt12"] {
        fixture.seed(old);
        assert_eq!(token(&*fixture.start().await).await.unwrap(), "at12", "{old}");
    }
    assert_eq!(fixture.server.requests().len(), 12);
}

/// After a crash only the stored record is left.
#[tokio::test(start_paused = true)]
async fn a_new_seed_is_stored_as_an_attempt_beside_the_previous_grant() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.started().await;
    fixture.server.arrival().await;
    fixture.seed("s2");
    let slot = fixture.start().await;
    let hold = fixture.server.gate.write().await;
    fixture.server.issue(2);
    let waiting = waiting(&slot);
    fixture.server.arrival().await;
    let record = fixture.record().await;
    assert_eq!((record.refresh_token, record.generation), (secret("rt1"), Generation(1)));
    assert_eq!(record.attempt.unwrap().refresh_token, hash("s2"));
    assert!(!record.seeds.contains(&hash("s2")), "a crash does not use it up");
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    let record = fixture.record().await;
    assert!(record.has_superseded(&hash("rt1")) && record.has_superseded(&hash("s2")));
    assert!(record.seeds.contains(&hash("s1")) && record.seeds.contains(&hash("s2")));
}

/// The server may have consumed the refresh token in that attempt.
#[tokio::test(start_paused = true)]
async fn presenting_a_seed_keeps_the_attempt_of_the_refresh_token() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.answer(500, json!({}));
    fixture.server.answer(401, json!({"error": "invalid_client"}));
    assert!(token(&slot).await.is_err());
    fixture.seed("s2");
    let slot = fixture.start().await;
    fixture.clock.advance(HOUR);
    fixture.server.dead();
    fixture.server.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LostRotation));
    assert_eq!((fixture.server.presented("s2"), fixture.server.presented("rt1")), (1, 3));
}
