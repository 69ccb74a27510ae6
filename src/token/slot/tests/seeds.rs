//! What a seed does to the grant before it.

use super::*;

/// Somebody wrote an old refresh token where the seed is.
#[tokio::test(start_paused = true)]
async fn a_new_seed_that_is_dead_leaves_the_grant_before_it_at_work() {
    let mut stage = Stage::new(with_bootstrap);
    let _before = stage.started().await;
    stage.seed("s2");
    let slot = stage.start().await;
    // It is not known to be dead yet: the server is in trouble first.
    stage.script.throttle(60);
    assert!(token(&slot).await.is_err());
    stage.clock.advance(HOUR / 2);
    stage.script.dead();
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert_eq!(slot.status().last_error.unwrap().1.matches("invalid_grant").count(), 1);
    let record = stage.record().await;
    assert_eq!(
        (record.refresh_token, record.terminal, record.attempt),
        (secret("rt1"), None, None)
    );
    assert!(record.seeds.contains(&hash("s1")) && record.seeds.contains(&hash("s2")));
    // It goes on as if that seed had never been, also after a restart.
    for slot in [slot, stage.start().await] {
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert_eq!(stage.script.requests().len(), 3);
    }
    let slot = stage.start().await;
    stage.clock.advance(HOUR);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.script.presented("rt1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_seed_that_is_dead_leaves_a_refresh_token_whose_access_token_is_over() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.expired().await;
    // Two wrong ones after another.
    for wrong in ["s2", "s3"] {
        stage.seed(wrong);
        let slot = stage.start().await;
        stage.script.throttle(60);
        assert!(token(&slot).await.is_err());
        stage.clock.advance(HOUR);
    }
    let slot = stage.start().await;
    stage.script.dead();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!((stage.script.presented("s3"), stage.script.presented("rt1")), (2, 1));
}

/// Nothing of the old grant goes where the new one is from.
#[tokio::test(start_paused = true)]
async fn a_dead_seed_of_another_server_brings_nothing_back() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.config.oauth.token_url = Some(text("https://elsewhere.example/token"));
    stage.seed("s2");
    let slot = stage.start().await;
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
    assert_eq!(stage.record().await.access_token, None);
    let there: Vec<_> =
        stage.script.requests().into_iter().filter(|it| it.starts_with("elsewhere")).collect();
    assert!(there.len() == 1 && there[0].contains("refresh_token=s2"), "{there:?}");
}

/// A new seed is how a dead grant is healed: that one is not brought back.
#[tokio::test(start_paused = true)]
async fn a_dead_seed_after_a_dead_grant_needs_another() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.dead();
    assert!(token(&slot).await.is_err());
    stage.seed("s2");
    let slot = stage.start().await;
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
    stage.seed("s3");
    let slot = stage.reload().await;
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
}

/// Once the seed has brought a token there is nothing to go back to.
#[tokio::test(start_paused = true)]
async fn a_seed_that_dies_later_is_an_ordinary_dead_grant() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.seed("s2");
    let slot = stage.start().await;
    stage.script.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
}

/// A server with strict rotation revokes everything for one of ten rotations ago.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_of_long_ago_is_never_presented_as_a_seed() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    for number in 2..=12 {
        stage.clock.advance(2 * HOUR);
        stage.script.issue(number);
        assert_eq!(token(&slot).await.unwrap(), format!("at{number}"));
    }
    for old in ["s1", "rt1", "rt2", "rt12"] {
        stage.seed(old);
        assert_eq!(token(&*stage.start().await).await.unwrap(), "at12", "{old}");
    }
    assert_eq!(stage.script.requests().len(), 12);
}

/// What is on the disk while a new seed is in the air is all that a crash leaves.
#[tokio::test(start_paused = true)]
async fn a_new_seed_is_an_attempt_on_record_and_the_grant_before_it_stays_there() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.script.arrival().await;
    stage.seed("s2");
    let slot = stage.start().await;
    let hold = stage.script.gate.write().await;
    stage.script.issue(2);
    let waiting = waiting(&slot);
    stage.script.arrival().await;
    let record = stage.record().await;
    assert_eq!((record.refresh_token, record.generation), (secret("rt1"), Generation(1)));
    assert_eq!(record.attempt.unwrap().refresh_token, hash("s2"));
    assert!(!record.seeds.contains(&hash("s2")), "a crash does not use it up");
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    let record = stage.record().await;
    assert!(record.has_superseded(&hash("rt1")) && record.has_superseded(&hash("s2")));
    assert!(record.seeds.contains(&hash("s1")) && record.seeds.contains(&hash("s2")));
}

/// The attempt with the refresh token may have used it up, whatever is tried in between.
#[tokio::test(start_paused = true)]
async fn a_seed_on_trial_does_not_make_an_attempt_with_the_refresh_token_forgotten() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.answer(500, json!({}));
    stage.script.answer(401, json!({"error": "invalid_client"}));
    assert!(token(&slot).await.is_err());
    stage.seed("s2");
    let slot = stage.start().await;
    stage.clock.advance(HOUR);
    stage.script.dead();
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LostRotation));
    assert_eq!((stage.script.presented("s2"), stage.script.presented("rt1")), (1, 3));
}
