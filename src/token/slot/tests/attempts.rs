//! Answers that were lost, and requests that are in the air.

use super::script::Answer;
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
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.start().await;
        stage.script.takes(Duration::from_millis(takes));
        (0..9).for_each(|_| stage.script.lose());
        let start = Instant::now();
        assert!(token(&slot).await.is_err());
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(stage.script.times(start), expected, "answers lost after {takes} ms");
    }
}

/// A late replay can revoke what is still good.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_whose_answers_were_lost_is_not_presented_while_a_token_can_be_used() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3400));
    (0..9).for_each(|_| stage.script.lose());
    while stage.clock.now() < stage.record().await.expires_at.unwrap() {
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert!(stage.script.presented("rt1") <= 3);
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(stage.script.presented("rt1"), 3);
    // After its end it is all that is left.
    stage.script.tell_nothing_more();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// What a process leaves that was killed with the request in the air.
async fn in_the_air(stage: &Stage, count: u32, by: &str) {
    let now = stage.clock.now();
    let mut record = stage.record().await;
    record.attempt = Some(Attempt {
        refresh_token: hash("rt1"),
        first: now,
        last: now,
        count,
        by: by.to_owned(),
    });
    stage.put(&record).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_over_restarts_and_three_of_them_are_all() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.expired().await;
    in_the_air(&stage, 1, "lock-0").await;
    (0..9).for_each(|_| stage.script.lose());
    let start = Instant::now();
    let slot = stage.start().await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "answers_lost");
    assert_eq!(stage.script.times(start)[1..], [500, 2000]);
    assert_eq!(stage.record().await.attempt.unwrap().count, 3);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        let slot = stage.start().await;
        assert_eq!(why(token(&slot).await.unwrap_err()), "answers_lost");
    }
    assert_eq!(stage.script.presented("rt1"), 2);
    // Nothing can be hurt by it any more: within a minute somebody looks whether the server is back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    stage.script.tell_nothing_more();
    stage.script.issue(2);
    assert_eq!(token(&*stage.start().await).await.unwrap(), "at2");
    assert_eq!(stage.record().await.attempt, None);
}

/// Its answer may still come, and is theirs.
#[tokio::test(start_paused = true)]
async fn what_another_process_has_in_the_air_is_not_presented_by_this_one() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    in_the_air(&stage, 1, "lock-of-another").await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "in_the_air");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "in_the_air");
    assert_eq!(stage.script.presented("rt1"), 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// A refresh token may have been used up only where a request with it may have been acted on, be it many requests
/// ago.
#[tokio::test(start_paused = true)]
async fn a_grant_is_lost_only_after_an_answer_that_could_have_replaced_it() {
    let (lost, revoked) = (TerminalReason::LostRotation, TerminalReason::Revoked);
    let says = |status, body: serde_json::Value| Answer::Says(status, body.to_string(), None);
    let page = Answer::Says(404, "<html>Not here</html>".to_owned(), None);
    let (trouble, throttled) = (says(500, json!({})), says(429, json!({})));
    let (wrong, dead) = (says(401, json!({})), says(400, json!({"error": "invalid_grant"})));
    let (nothing, reset) = (Answer::Unreachable, Answer::Lost);
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
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        for answer in answers.iter().copied().chain([&dead]) {
            stage.script.tell(answer.clone());
        }
        while stage.script.presented("rt1") <= answers.len() {
            assert!(token(&slot).await.is_err());
            stage.clock.advance(2 * HOUR);
        }
        assert_eq!(slot.status().condition, Condition::NeedsLogin(expected), "{answers:?}");
        let counted = stage.context.metrics.encode();
        let counted = counted
            .lines()
            .any(|line| line.starts_with("bearerd_lost_rotations_total{") && line.ends_with(" 1"));
        assert_eq!(counted, expected == lost, "{answers:?}");
    }
}
