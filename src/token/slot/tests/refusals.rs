//! What is made of token requests that bring nothing, and of those that follow.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
/// What a request brings that nothing can be sent again for.
const FINAL: Progress = Progress { renewed: false, settled: usize::MAX };

/// A slot whose first token is over.
async fn expired(stage: &mut Stage) -> Arc<Slot> {
    let slot = stage.started().await;
    stage.clock.advance(2 * HOUR);
    slot
}

/// In a row: what lies between two doubts shows that the server does look at the refresh token.
#[tokio::test]
async fn doubtful_answers_with_others_between_them_end_nothing() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(7200));
    let doubtful = (400, json!({"error": "invalid_request"}));
    let throttled = (429, json!({}));
    let issued = (200, json!({"access_token": "at", "expires_in": 60}));
    for (status, body) in
        [&doubtful, &doubtful, &throttled, &doubtful, &doubtful, &issued, &doubtful, &doubtful]
    {
        stage.script.answer(*status, body.clone());
        assert_eq!(token(&slot).await.is_ok(), *status == 200);
        stage.clock.advance(Duration::from_secs(901));
    }
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// Each flight to a server that is not there makes two requests, and the pauses between them are short.
#[tokio::test(start_paused = true)]
async fn token_requests_that_bring_nothing_have_a_budget() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.open().await;
    let mut spent_after = None;
    for _ in 0..10 {
        let Err(TokenError::Unavailable { retry_after, why }) = token(&slot).await else {
            panic!("a token from nowhere");
        };
        if why == "budget_spent" {
            spent_after = Some(stage.script.requests().len());
            break;
        }
        stage.clock.advance(retry_after);
    }
    assert_eq!(spent_after, Some(10));
}

/// A token that was rejected is not served again because no other could be had.
#[tokio::test(start_paused = true)]
async fn a_rejected_token_stays_rejected_when_the_bootstrap_fails() {
    let stage = Stage::new(with_bootstrap);
    let slot = stage.open().await;
    stage.script.answer(200, json!({"access_token": "at1", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.script.answer(429, json!({}));
    let progress = Progress { renewed: false, settled: usize::MAX };
    assert!(matches!(slot.renew(Generation(1), progress).await, Renewal::PassOn));
    assert!(token(&slot).await.is_err());
}

/// A refresh token may have been used up only where a request with it may have been acted on, be it
/// many requests ago.
#[tokio::test(start_paused = true)]
async fn a_grant_is_lost_only_after_an_answer_that_could_have_replaced_it() {
    let (lost, revoked) = (TerminalReason::LostRotation, TerminalReason::Revoked);
    let (nothing, html) = ((UNREACHABLE, json!(null)), (200, json!(null)));
    let (trouble, throttled) = ((500, json!({})), (429, json!({})));
    let (wrong, dead) = ((401, json!({})), (400, json!({"error": "invalid_grant"})));
    for (answers, expected) in [
        (vec![&dead], revoked),
        (vec![&nothing, &dead], revoked),
        (vec![&nothing, &nothing, &dead], revoked),
        (vec![&throttled, &dead], revoked),
        (vec![&wrong, &throttled, &dead], revoked),
        (vec![&html, &dead], lost),
        (vec![&trouble, &dead], lost),
        (vec![&trouble, &trouble, &dead], lost),
        (vec![&html, &html, &html, &html, &dead], lost),
        (vec![&trouble, &trouble, &throttled, &dead], lost),
        (vec![&trouble, &trouble, &wrong, &throttled, &nothing, &nothing, &dead], lost),
    ] {
        let mut stage = Stage::new(|_| ());
        let slot = expired(&mut stage).await;
        for (status, body) in &answers {
            stage.script.answer(*status, body.clone());
        }
        while stage.script.requests().len() <= answers.len() {
            assert!(token(&slot).await.is_err());
            stage.clock.advance(HOUR);
        }
        assert_eq!(slot.status().condition, Condition::NeedsLogin(expected), "{answers:?}");
        let counted = stage.context.metrics.encode();
        let counted = counted
            .lines()
            .any(|line| line.starts_with("bearerd_lost_rotations_total{") && line.ends_with(" 1"));
        assert_eq!(counted, expected == lost, "{answers:?}");
    }
}

/// Requests of another shape have never worked: doubt about them says nothing about the grant.
#[tokio::test]
async fn doubt_about_a_changed_request_ends_no_grant() {
    let mut stage = Stage::new(|_| ());
    let before = expired(&mut stage).await;
    stage.config.oauth.client_id = Some(text("another"));
    let slot = Slot::open(stage.config.clone(), stage.context.clone(), Some(before.as_ref())).await;
    for _ in 0..4 {
        stage.script.answer(400, json!({"error": "invalid_request"}));
        assert!(token(&slot).await.is_err());
        stage.clock.advance(Duration::from_secs(901));
    }
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// Where it may only be too early, a refusal is no doubt about the grant, and it is remembered.
#[tokio::test]
async fn refusals_while_there_is_a_token_teach_how_early_to_ask() {
    for (error, is_learned) in [("invalid_request", true), ("invalid_client", false)] {
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.open().await;
        stage.script.issue(1);
        assert_eq!(token(&slot).await.unwrap(), "at1");
        // The last of them with 420 s of its 3600 s left.
        for pause in [3000, 60, 120] {
            stage.clock.advance(Duration::from_secs(pause));
            stage.script.answer(400, json!({"error": error}));
            assert!(slot.refresh_now().await.is_err());
            assert_eq!(slot.status().condition, Condition::Failing("refused"));
        }
        stage.clock.advance(HOUR);
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        let limit = stage.record().await.margin_limit.map(|limit| limit.as_secs());
        assert_eq!(limit.is_some_and(|limit| (90..=105).contains(&limit)), is_learned, "{limit:?}");
    }
}

/// #25: it is good until it expires, whatever has become of the grant.
#[tokio::test]
async fn a_token_outlives_its_grant_also_through_a_restart() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.script.dead();
    assert!(slot.refresh_now().await.is_err());
    let revoked = TerminalReason::Revoked;
    assert_eq!(slot.status().condition, Condition::NeedsLogin(revoked));
    assert_eq!(token(&slot).await.unwrap(), "at1");
    let again = stage.open().await;
    assert_eq!(token(&again).await.unwrap(), "at1");
    // Unless it is rejected: then whoever comes next is told so.
    assert!(matches!(again.renew(Generation(1), FINAL).await, Renewal::PassOn));
    assert_eq!(token(&again).await, Err(TokenError::NeedsLogin { reason: revoked }));
    assert_eq!(stage.script.requests().len(), 2);
}

/// Authorization servers lock accounts out after a few wrong passwords.
#[tokio::test]
async fn a_bootstrap_whose_refresh_token_dies_at_once_is_not_repeated_at_once() {
    let stage = Stage::new(with_bootstrap);
    let slot = stage.open().await;
    stage.script.issue(1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.script.dead();
    for _ in 0..20 {
        assert!(slot.refresh_now().await.is_err());
        stage.clock.advance(Duration::from_secs(10));
    }
    assert_eq!(stage.script.requests().len(), 2, "{:?}", stage.script.requests());
    assert_eq!(token(&slot).await.unwrap(), "at1", "it is still good");
    stage.clock.advance(Duration::from_secs(110));
    stage.script.issue(2);
    assert!(slot.refresh_now().await.is_ok());
    assert!(presents(&stage.script.requests()[2], "password"));
}

#[tokio::test]
async fn a_refused_bootstrap_pauses_also_where_there_was_never_a_refresh_token() {
    let stage = Stage::new(with_bootstrap);
    stage.script.dead();
    assert!(token(&stage.open().await).await.is_err());
    for _ in 0..20 {
        stage.clock.advance(Duration::from_secs(10));
        assert!(token(&stage.open().await).await.is_err());
    }
    assert_eq!(stage.script.requests().len(), 1);
}

#[tokio::test]
async fn a_bootstrap_at_a_bad_moment_is_tried_again_soon() {
    let stage = Stage::new(with_bootstrap);
    let slot = stage.open().await;
    stage.script.answer(429, json!({}));
    assert!(token(&slot).await.is_err());
    stage.clock.advance(Duration::from_secs(61));
    stage.script.issue(1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
}

/// A new token that requests were accepted with is worth the next one.
#[tokio::test]
async fn an_accepted_request_allows_the_next_renewal_at_once() {
    for accepted in [true, false] {
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.open().await;
        stage.script.issue(1);
        stage.script.issue(2);
        stage.script.issue(3);
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert!(matches!(slot.renew(Generation(1), FINAL).await, Renewal::Resend(..)));
        if accepted {
            slot.accepted();
        }
        let again = slot.renew(Generation(2), FINAL).await;
        assert_eq!(matches!(again, Renewal::Resend(..)), accepted);
    }
}

/// Nothing will be sent again, so there is nothing to wait for.
#[tokio::test]
async fn a_renewal_in_the_background_does_not_wait_for_a_young_token_to_settle() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.script.issue(2);
    slot.renew_in_background(Generation(1));
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// Whoever comes a moment after a failure gets the token a moment later, and no error.
#[tokio::test]
async fn a_pause_of_a_second_is_sat_out() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.open().await;
    assert!(slot.refresh_now().await.is_err());
    stage.script.issue(1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
}

// ----- #29: logout, again -----

/// A seed that was ever used, or that was only configured, is no new one.
#[tokio::test]
async fn no_seed_of_before_a_logout_brings_a_credential_back() {
    let mut stage = Stage::new(|_| ());
    for (number, seed) in [(1, "s1"), (2, "s2")] {
        stage.seed(seed);
        stage.script.issue(number);
        token(&stage.open().await).await.unwrap();
    }
    stage.seed("s3");
    stage.open().await.logout().await.unwrap();
    let asked = stage.script.requests().len();
    for seed in ["s1", "s2", "s3"] {
        stage.seed(seed);
        let logged_out = TokenError::NeedsLogin { reason: TerminalReason::LoggedOut };
        assert_eq!(token(&stage.open().await).await, Err(logged_out), "{seed}");
    }
    assert_eq!(stage.script.requests().len(), asked);
}
