//! Lost responses, and token requests in progress elsewhere.

use super::scripted_server::ScriptedAnswer;
use super::*;

/// The times count from the first request, as the grace period of a server does.
#[tokio::test(start_paused = true)]
async fn lost_responses_are_requested_again_within_the_grace_period_or_not_at_all() {
    for (takes, expected) in [
        (0, &[0, 500, 2000][..]),
        (100, &[0, 500, 2000]),
        (1000, &[0, 2000, 4000]),
        (3000, &[0, 4000]),
        (30_000, &[0]),
    ] {
        let mut fixture = Fixture::new(|_| ());
        fixture.seed("s1");
        let slot = fixture.start().await;
        fixture.server.takes(Duration::from_millis(takes));
        (0..9).for_each(|_| fixture.server.lose());
        let start = Instant::now();
        assert!(token(&slot).await.is_err());
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(fixture.server.times(start), expected, "answers lost after {takes} ms");
    }
}

/// A late replay can revoke a usable token.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_with_lost_responses_is_not_presented_while_a_token_is_usable() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.clock.advance(Duration::from_secs(3400));
    (0..9).for_each(|_| fixture.server.lose());
    while fixture.clock.now() < fixture.record().await.expires_at.unwrap() {
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert!(fixture.server.presented("rt1") <= 3);
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(fixture.server.presented("rt1"), 3);
    // After the token has expired, the refresh token is presented again.
    fixture.server.tell_nothing_more();
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// Stores the attempt of a process that was killed during a token request.
async fn store_attempt(fixture: &Fixture, count: u32, by: &str) {
    let now = fixture.clock.now();
    let mut record = fixture.record().await;
    record.attempt = Some(Attempt {
        refresh_token: hash("rt1"),
        first: now,
        last: now,
        count,
        by: by.to_owned(),
    });
    fixture.put(&record).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_across_restarts_up_to_three() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.expired().await;
    store_attempt(&fixture, 1, "lock-0").await;
    (0..9).for_each(|_| fixture.server.lose());
    let start = Instant::now();
    let slot = fixture.start().await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "answers_lost");
    assert_eq!(fixture.server.times(start)[1..], [500, 2000]);
    assert_eq!(fixture.record().await.attempt.unwrap().count, 3);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        let slot = fixture.start().await;
        assert_eq!(why(token(&slot).await.unwrap_err()), "answers_lost");
    }
    assert_eq!(fixture.server.presented("rt1"), 2);
    // Without a usable token the server is tried again within a minute.
    tokio::time::sleep(Duration::from_secs(15)).await;
    fixture.server.tell_nothing_more();
    fixture.server.issue(2);
    assert_eq!(token(&*fixture.start().await).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.attempt, None);
}

/// The other process may still receive the response.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_in_use_by_another_process_is_not_presented() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    store_attempt(&fixture, 1, "lock-of-another").await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "request_in_flight");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "request_in_flight");
    assert_eq!(fixture.server.presented("rt1"), 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// The server may have consumed a refresh token only if it processed one of the requests, even an early one.
#[tokio::test(start_paused = true)]
async fn a_grant_is_lost_only_after_a_request_that_may_have_rotated_it() {
    let (lost, revoked) = (TerminalReason::LostRotation, TerminalReason::Revoked);
    let says =
        |status, body: serde_json::Value| ScriptedAnswer::Says(status, body.to_string(), None);
    let page = ScriptedAnswer::Says(404, "<html>Not here</html>".to_owned(), None);
    let (trouble, throttled) = (says(500, json!({})), says(429, json!({})));
    let (wrong, dead) = (says(401, json!({})), says(400, json!({"error": "invalid_grant"})));
    let (nothing, reset) = (ScriptedAnswer::Unreachable, ScriptedAnswer::Lost);
    for (answers, expected) in [
        (vec![], revoked),
        (vec![&nothing], revoked),
        (vec![&nothing, &nothing], revoked),
        (vec![&throttled], revoked),
        (vec![&wrong, &throttled], revoked),
        (vec![&reset], lost),
        (vec![&reset, &reset, &reset], lost),
        (vec![&page], lost),
        (vec![&trouble], lost),
        (vec![&trouble, &trouble], lost),
        (vec![&trouble, &trouble, &throttled], lost),
        (vec![&reset, &wrong, &throttled, &nothing, &nothing], lost),
    ] {
        let mut fixture = Fixture::new(|_| ());
        let slot = fixture.expired().await;
        for answer in answers.iter().copied().chain([&dead]) {
            fixture.server.tell(answer.clone());
        }
        while fixture.server.presented("rt1") <= answers.len() {
            assert!(token(&slot).await.is_err());
            fixture.clock.advance(2 * HOUR);
        }
        assert_eq!(slot.status().condition, Condition::NeedsLogin(expected), "{answers:?}");
        let counted = fixture.context.metrics.encode();
        let counted = counted
            .lines()
            .any(|line| line.starts_with("bearerd_lost_rotations_total{") && line.ends_with(" 1"));
        assert_eq!(counted, expected == lost, "{answers:?}");
    }
}
