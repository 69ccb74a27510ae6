//! Answers that were lost, and requests that are in the air.

use super::scripted_server::ScriptedAnswer;
use super::*;

/// Each counts from the first request: a server's grace does.
#[tokio::test(start_paused = true)]
async fn lost_answers_are_asked_for_again_within_the_grace_or_not_at_all() {
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

/// A late replay can revoke what is still good.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_whose_answers_were_lost_is_not_presented_while_a_token_can_be_used() {
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
    // After its end it is all that is left.
    fixture.server.tell_nothing_more();
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// What a process leaves that was killed with the request in the air.
async fn request_in_flight(fixture: &Fixture, count: u32, by: &str) {
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
async fn attempts_are_counted_over_restarts_and_three_of_them_are_all() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.expired().await;
    request_in_flight(&fixture, 1, "lock-0").await;
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
    // Nothing can be hurt by it any more: within a minute somebody looks whether the server is back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    fixture.server.tell_nothing_more();
    fixture.server.issue(2);
    assert_eq!(token(&*fixture.start().await).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.attempt, None);
}

/// Its answer may still come, and is theirs.
#[tokio::test(start_paused = true)]
async fn what_another_process_has_in_the_air_is_not_presented_by_this_one() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    request_in_flight(&fixture, 1, "lock-of-another").await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "in_the_air");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "in_the_air");
    assert_eq!(fixture.server.presented("rt1"), 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// A refresh token may have been used up only where a request with it may have been acted on, be it many requests
/// ago.
#[tokio::test(start_paused = true)]
async fn a_grant_is_lost_only_after_an_answer_that_could_have_replaced_it() {
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
