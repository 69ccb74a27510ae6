//! What answers that are not by the book do to the grant.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.to_owned()))
}

fn prolonging(config: &mut Config) {
    config.oauth.reading.mapping.keep_access_token = true;
}

/// An answer whose access token is of no use here.
fn unusable(refresh_token: &str) -> serde_json::Value {
    json!({"access_token": "a", "token_type": "mac", "refresh_token": refresh_token})
}

// ----- C16: what an unusable answer still gives up -----

#[tokio::test]
async fn an_answer_with_nothing_to_prolong_still_gives_up_its_refresh_token() {
    let mut stage = Stage::new(prolonging);
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.answer(200, json!({"refresh_token": "rt2"}));
    let error = token(&slot).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { why: "unreadable_answer", .. }), "{error}");
    let record = stage.record().await;
    assert_eq!((record.refresh_token, record.intent), (secret("rt2"), None));
    assert_eq!(record.superseded, [secret("s1").unwrap().fingerprint()]);
    stage.clock.advance(HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(stage.script.requests()[1].contains("refresh_token=rt2"));
}

#[tokio::test]
async fn an_unusable_answer_to_a_bootstrap_still_gives_up_its_refresh_token() {
    for (change, answer) in [
        (with_bootstrap as fn(&mut Config), unusable("rt1")),
        (
            |config| {
                with_bootstrap(config);
                prolonging(config);
            },
            json!({"refresh_token": "rt1"}),
        ),
    ] {
        let mut stage = Stage::new(change);
        stage.seed("s1");
        let slot = stage.open().await;
        stage.script.dead();
        stage.script.answer(200, answer);
        let error = token(&slot).await.unwrap_err();
        let why = matches!(error, TokenError::Unavailable { why: "unreadable_answer", .. });
        assert!(why, "{error}");
        let record = stage.record().await;
        assert_eq!((record.refresh_token, record.terminal), (secret("rt1"), None));
        stage.clock.advance(HOUR);
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        let requests = stage.script.requests();
        assert!(requests[2].contains("refresh_token=rt1"), "not begun anew: {requests:?}");
    }
}

/// Row 30, and `rotation = "ignore"`.
#[tokio::test]
async fn an_unusable_answer_replaces_no_refresh_token_that_a_usable_one_would_not() {
    for (rotation, answered, kept) in [
        (Rotation::Auto, "s1", "rt1"),
        (Rotation::Auto, "rt2", "rt2"),
        (Rotation::Ignore, "rt2", "s1"),
    ] {
        let mut stage = Stage::new(|config| config.oauth.rotation = rotation);
        stage.seed("s1");
        let slot = stage.open().await;
        stage.script.issue(1);
        assert_eq!(token(&slot).await.unwrap(), "at1");
        stage.clock.advance(2 * HOUR);
        stage.script.answer(200, unusable(answered));
        assert!(token(&slot).await.is_err());
        let record = stage.record().await;
        assert_eq!((record.refresh_token, record.intent), (secret(kept), None), "{rotation:?}");
    }
}

// ----- #28 and I6: a seed that proves to be dead -----

/// Somebody wrote an old refresh token where the seed is.
#[tokio::test(start_paused = true)]
async fn a_new_seed_that_is_dead_leaves_the_grant_before_it_at_work() {
    let mut stage = Stage::new(with_bootstrap);
    let _before = stage.started().await;
    stage.seed("s2");
    let slot = stage.open().await;
    // It is not known to be dead yet: the server is in trouble first.
    stage.script.answer(429, json!({}));
    assert!(token(&slot).await.is_err());
    stage.clock.advance(HOUR / 2);
    stage.script.dead();
    assert_eq!(token(&slot).await.unwrap(), "at1");
    let status = slot.status();
    assert_eq!(status.condition, Condition::Failing("seed_refused"));
    assert!(status.last_error.unwrap().1.contains("invalid_grant"));
    let record = stage.record().await;
    assert_eq!((record.refresh_token, record.terminal, record.intent), (secret("rt1"), None, None));
    let fingerprint = |text: &str| secret(text).unwrap().fingerprint();
    assert_eq!(record.seeds, [fingerprint("s1"), fingerprint("s2")]);
    assert_eq!(record.generation, Generation(3));
    // It goes on as if that seed had never been, also after a restart.
    for slot in [slot, stage.open().await] {
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert_eq!(stage.script.requests().len(), 3);
    }
    let slot = stage.open().await;
    stage.clock.advance(HOUR);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(stage.script.requests()[3].contains("refresh_token=rt1"));
}

#[tokio::test(start_paused = true)]
async fn a_new_seed_that_is_dead_leaves_a_refresh_token_whose_access_token_is_over() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.clock.advance(2 * HOUR);
    // Two wrong ones after another.
    for wrong in ["s2", "s3"] {
        stage.seed(wrong);
        let slot = stage.open().await;
        stage.script.answer(429, json!({}));
        assert!(token(&slot).await.is_err());
    }
    let slot = stage.open().await;
    stage.clock.advance(HOUR);
    stage.script.dead();
    let error = token(&slot).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { why: "seed_refused", .. }), "{error}");
    stage.clock.advance(Duration::from_secs(2));
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let requests = stage.script.requests();
    assert!(requests.last().unwrap().contains("refresh_token=rt1"), "{requests:?}");
}

/// Nothing of the old grant goes where the new one is from.
#[tokio::test]
async fn a_dead_seed_of_another_configuration_brings_nothing_back() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    let there = stage.config.oauth.token_url.replace(text("https://elsewhere.example/token"));
    stage.seed("s2");
    let slot = stage.open().await;
    stage.script.dead();
    let revoked = TokenError::NeedsLogin { reason: TerminalReason::Revoked };
    assert_eq!(token(&slot).await, Err(revoked));
    assert_eq!(stage.record().await.access_token, None);
    // Where it is from it goes on.
    stage.config.oauth.token_url = there;
    let slot = stage.open().await;
    stage.script.dead();
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert_eq!(stage.record().await.refresh_token, secret("rt1"));
}

/// A new seed is how a dead grant is healed: that one is not brought back.
#[tokio::test]
async fn a_dead_seed_after_a_dead_grant_needs_another() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.dead();
    assert!(token(&slot).await.is_err());
    stage.seed("s2");
    let slot = stage.open().await;
    stage.script.dead();
    let revoked = TokenError::NeedsLogin { reason: TerminalReason::Revoked };
    assert_eq!(token(&slot).await, Err(revoked));
    assert_eq!(stage.record().await.refresh_token, secret("s2"));
}

/// Once the seed has brought a token there is nothing to go back to.
#[tokio::test]
async fn a_seed_that_dies_later_is_an_ordinary_dead_grant() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.seed("s2");
    let slot = stage.open().await;
    stage.script.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    stage.script.dead();
    let revoked = TokenError::NeedsLogin { reason: TerminalReason::Revoked };
    assert_eq!(token(&slot).await, Err(revoked));
}

/// Nothing of either is left behind.
#[tokio::test]
async fn a_logout_under_an_untried_seed_revokes_the_grant_before_it_too() {
    let mut stage = Stage::new(|config| config.oauth.revoke_url = Some(text(REVOKE_URL)));
    let _before = stage.started().await;
    stage.seed("s2");
    let slot = stage.open().await;
    stage.script.answer(429, json!({}));
    assert!(token(&slot).await.is_err());
    slot.logout().await.unwrap();
    let requests = stage.script.requests();
    for token in ["s2", "rt1", "at1"] {
        let revoked =
            |it: &&String| it.starts_with("/revoke") && it.contains(&format!("token={token}"));
        assert_eq!(requests.iter().filter(revoked).count(), 1, "{token} {requests:?}");
    }
}

// ----- #9 and Reltio: the last use counts -----

/// The same access token comes back with what is left of its life.
#[tokio::test(start_paused = true)]
async fn keepalive_counts_from_the_last_use_although_the_access_token_stays_the_same() {
    let mut stage = Stage::new(|config| config.keepalive = Some(6 * HOUR));
    stage.seed("s1");
    let slot = stage.open().await;
    let same =
        |left: u32| json!({"access_token": "at", "refresh_token": "rt", "expires_in": left * 3600});
    stage.script.answer(200, same(12));
    assert_eq!(token(&slot).await.unwrap(), "at");
    stage.script.arrived.notified().await;
    stage.clock.advance(6 * HOUR);
    (0..5).for_each(|_| stage.script.answer(200, same(6)));
    stage.script.arrived.notified().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.script.requests().len(), 2, "once");
    // The restart before the next look knows it as well.
    let again = stage.open().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.script.requests().len(), 2);
    drop(again);
}

// ----- row 18 after a rejection -----

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_is_prolonged_is_sent_again() {
    let mut stage = Stage::new(prolonging);
    let slot = stage.started().await;
    stage.clock.advance(HOUR / 2);
    stage.script.answer(200, json!({"expires_in": 3600}));
    let progress = Progress { renewed: false, settled: usize::MAX };
    let renewal = slot.renew(Generation(1), progress).await;
    assert!(
        matches!(&renewal, Renewal::Resend(token, wait) if token.access_token() == "at1" && wait.is_zero()),
        "{renewal:?}"
    );
    assert_eq!(slot.status().condition, Condition::Fresh);
}

// ----- #20: replays -----

/// Each counts from the first request: a server's grace does.
#[tokio::test(start_paused = true)]
async fn lost_answers_are_asked_for_again_within_the_grace_or_not_at_all() {
    for (takes, expected) in [
        (0, &[0, 500, 2000, 4000][..]),
        (100, &[0, 500, 2000, 4000]),
        (1000, &[0, 2000, 4000]),
        (3000, &[0, 4000]),
        (30_000, &[0]),
    ] {
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.open().await;
        *stage.script.takes.lock().unwrap() = Duration::from_millis(takes);
        (0..9).for_each(|_| stage.script.lose());
        assert!(token(&slot).await.is_err());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let moments = stage.script.moments.lock().unwrap().clone();
        let offsets: Vec<_> = moments.iter().map(|at| (*at - moments[0]).as_millis()).collect();
        assert_eq!(offsets, expected, "answers lost after {takes} ms");
    }
}
