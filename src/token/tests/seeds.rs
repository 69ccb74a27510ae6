//! What a seed does to the grant before it.

use super::*;

/// Somebody wrote an old refresh token where the seed is.
#[tokio::test(start_paused = true)]
async fn a_new_seed_that_is_dead_leaves_the_grant_before_it_at_work() {
    let mut fixture = Fixture::new(with_bootstrap);
    let _before = fixture.started().await;
    fixture.seed("s2");
    let slot = fixture.start().await;
    // It is not known to be dead yet: the server is in trouble first.
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
    // It goes on as if that seed had never been, also after a restart.
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
async fn a_new_seed_that_is_dead_leaves_a_refresh_token_whose_access_token_is_over() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.expired().await;
    // Two wrong ones after another.
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

/// Nothing of the old grant goes where the new one is from.
#[tokio::test(start_paused = true)]
async fn a_dead_seed_of_another_server_brings_nothing_back() {
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

/// A new seed is how a dead grant is healed: that one is not brought back.
#[tokio::test(start_paused = true)]
async fn a_dead_seed_after_a_dead_grant_needs_another() {
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

/// Once the seed has brought a token there is nothing to go back to.
#[tokio::test(start_paused = true)]
async fn a_seed_that_dies_later_is_an_ordinary_dead_grant() {
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

/// A server with strict rotation revokes everything for one of ten rotations ago.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_of_long_ago_is_never_presented_as_a_seed() {
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

/// What is on the disk while a new seed is in the air is all that a crash leaves.
#[tokio::test(start_paused = true)]
async fn a_new_seed_is_an_attempt_on_record_and_the_grant_before_it_stays_there() {
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

/// The attempt with the refresh token may have used it up, whatever is tried in between.
#[tokio::test(start_paused = true)]
async fn a_seed_on_trial_does_not_make_an_attempt_with_the_refresh_token_forgotten() {
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
