//! Refusals by the token endpoint and rejections by APIs.

use super::scripted_server::ScriptedAnswer;
use super::*;

/// Sends a request that the API always rejects, and repeats it as the slot allows. Returns how often it was sent.
async fn always_rejected(slot: &Slot, target: u64) -> u32 {
    let mut resend = ResendState::first(target, false);
    let mut token = slot.token().await.unwrap();
    let mut sent = 1;
    while let Some(next) = slot.rejected(&token, &mut resend, true).await {
        token = next;
        sent += 1;
    }
    sent
}

// ----- a dead grant -----

#[tokio::test(start_paused = true)]
async fn a_dead_grant_costs_one_token_request_and_then_none_also_after_restarts_and_reloads() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.dead();
    let revoked = needs_login(TerminalReason::Revoked);
    assert_eq!(token(&slot).await, revoked);
    let _watching = fixture.watch();
    for _ in 0..5 {
        for slot in [&slot, &fixture.reload().await, &fixture.start().await] {
            assert_eq!(token(slot).await, revoked);
        }
        fixture.clock.advance(DAY);
        fixture.rest().await;
    }
    assert_eq!(fixture.server.presented("rt1"), 1);
}

/// The refusal may have been an error of the server.
#[tokio::test(start_paused = true)]
async fn an_operator_can_retry_a_dead_grant_once_and_success_restores_it() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.dead();
    let revoked = needs_login(TerminalReason::Revoked);
    assert_eq!(token(&slot).await, revoked);
    fixture.server.dead();
    let error = slot.refresh_now().await.unwrap_err();
    assert_eq!(error, TokenError::NeedsLogin { reason: TerminalReason::Revoked });
    assert_eq!(token(&slot).await, revoked);
    assert_eq!(fixture.server.presented("rt1"), 2, "once for each time");
    // The same in a process that has loaded a dead grant.
    let slot = fixture.start().await;
    fixture.server.issue(2);
    assert!(slot.refresh_now().await.is_ok());
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.terminal, None);
}

#[tokio::test(start_paused = true)]
async fn a_token_stays_usable_after_its_grant_is_dead_even_after_a_restart() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.server.dead();
    assert!(slot.refresh_now().await.is_err());
    assert_eq!(slot.status().condition, Condition::NeedsLogin(TerminalReason::Revoked));
    assert_eq!(token(&slot).await.unwrap(), "at1");
    let again = fixture.start().await;
    assert_eq!(token(&again).await.unwrap(), "at1");
    // After a rejection the next request fails.
    assert_eq!(reject(&again, true).await, None);
    assert_eq!(token(&again).await, needs_login(TerminalReason::Revoked));
    assert_eq!(fixture.server.requests().len(), 2);
}

// ----- Retry-After -----

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_even_after_restarts_and_reloads() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.throttle(600);
    assert_eq!(why(token(&slot).await.unwrap_err()), "throttled");
    let _watching = fixture.watch();
    for _ in 0..11 {
        for slot in [&slot, &fixture.reload().await, &fixture.start().await] {
            let error = token(slot).await.unwrap_err();
            assert!(slot.refresh_now().await.is_err());
            assert_eq!(why(error), "throttled");
        }
        tokio::time::sleep(Duration::from_secs(54)).await;
    }
    assert_eq!(fixture.server.presented("rt1"), 1);
    tokio::time::sleep(Duration::from_secs(7)).await;
    fixture.server.issue(2);
    assert_eq!(token(&*fixture.start().await).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.not_before, None);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_prolong_the_wait() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.throttle(600);
    assert!(token(&slot).await.is_err());
    fixture.clock.set_back(HOUR / 2);
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "throttled");
    tokio::time::sleep(Duration::from_secs(11)).await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

#[tokio::test(start_paused = true)]
async fn the_retry_after_of_one_server_does_not_delay_another() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.throttle(600);
    assert!(token(&slot).await.is_err());
    fixture.config.oauth.token_url = Some(text("https://other.example/token"));
    fixture.seed("s2");
    let slot = fixture.reload().await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// Each kind of failure has its own count.
#[tokio::test(start_paused = true)]
async fn a_long_outage_and_one_unexpected_response_cause_no_long_backoff() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    (0..99).for_each(|_| fixture.server.answer(503, json!({})));
    let end = Instant::now() + Duration::from_secs(600);
    while Instant::now() < end {
        assert!(token(&slot).await.is_err());
        tokio::time::sleep(SECOND).await;
    }
    fixture.server.tell_nothing_more();
    fixture.server.tell(ScriptedAnswer::Says(404, "<html></html>".to_owned(), None));
    let asked = fixture.server.requests().len();
    while fixture.server.requests().len() == asked {
        assert!(token(&slot).await.is_err());
        tokio::time::sleep(SECOND).await;
    }
    let healthy = Instant::now();
    fixture.server.tell_nothing_more();
    (0..9).for_each(|number| fixture.server.issue(number));
    while token(&slot).await.is_err() {
        tokio::time::sleep(SECOND).await;
    }
    assert!(healthy.elapsed() <= Duration::from_secs(60), "{:?}", healthy.elapsed());
}

/// The requests never arrive, so that frequent retries cause no load.
#[tokio::test(start_paused = true)]
async fn after_an_hour_without_a_connection_recovery_takes_seconds() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let end = Instant::now() + HOUR;
    while Instant::now() < end {
        assert!(token(&slot).await.is_err());
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let back = Instant::now();
    fixture.server.issue(2);
    while token(&slot).await.is_err() {
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(back.elapsed() <= Duration::from_secs(6), "{:?}", back.elapsed());
    assert_eq!(fixture.record().await.attempt, None);
}

// ----- rejections by APIs -----

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_and_the_request_is_sent_twice_at_most() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.rest().await;
    (2..9).for_each(|number| fixture.server.issue(number));
    assert_eq!(always_rejected(&slot, 1).await, 2);
    assert_eq!(fixture.server.presented("rt1"), 1);
    // The next rejections force no refresh for a while.
    for _ in 0..20 {
        fixture.rest().await;
        assert!(always_rejected(&slot, 1).await <= 2);
    }
    assert!(fixture.server.requests().len() <= 6, "{}", fixture.server.requests().len());
}

/// The API may not know a newly issued token yet.
#[tokio::test(start_paused = true)]
async fn a_newly_issued_token_that_is_rejected_is_tried_again_after_three_seconds() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    let token = slot.token().await.unwrap();
    let (mut resend, asked) = (ResendState::first(1, true), Instant::now());
    let again = slot.rejected(&token, &mut resend, true).await.unwrap();
    assert_eq!((again.access_token(), asked.elapsed().as_secs()), ("at1", 3));
    fixture.server.issue(2);
    let third = slot.rejected(&again, &mut resend, true).await.unwrap();
    assert_eq!(third.access_token(), "at2");
    assert!(slot.rejected(&third, &mut resend, true).await.is_none(), "three times at most");
    assert_eq!(fixture.server.presented("rt1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_rejects_every_token_does_not_delay_the_refresh_for_others() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.rest().await;
    fixture.server.issue(2);
    assert_eq!(always_rejected(&slot, 1).await, 2);
    // Other paths accept the token, and then it is revoked.
    let at2 = slot.token().await.unwrap();
    slot.accepted(&at2, &ResendState::first(2, true));
    fixture.rest().await;
    assert_eq!(always_rejected(&slot, 1).await, 1, "it forces nothing");
    fixture.server.issue(3);
    let mut resend = ResendState::first(2, true);
    let at3 = slot.rejected(&at2, &mut resend, true).await.unwrap();
    assert_eq!(at3.access_token(), "at3");
}

/// The accepted token shows that the forced refresh helped.
#[tokio::test(start_paused = true)]
async fn an_accepted_request_allows_the_next_forced_refresh_immediately() {
    for accepted in [true, false] {
        let mut fixture = Fixture::new(|_| ());
        let slot = fixture.started().await;
        fixture.rest().await;
        (2..4).for_each(|number| fixture.server.issue(number));
        assert_eq!(reject(&slot, true).await.unwrap(), "at2");
        let at2 = slot.token().await.unwrap();
        if accepted {
            slot.accepted(&at2, &ResendState::first(2, true));
        }
        fixture.rest().await;
        let again = slot.rejected(&at2, &mut ResendState::first(2, true), true).await;
        let again = again.map(|token| token.access_token().to_owned());
        assert_eq!(again, accepted.then(|| "at3".to_owned()));
    }
}

/// The request is not sent again and does not wait. The next request has the new token.
#[tokio::test(start_paused = true)]
async fn after_a_rejection_of_an_unrepeatable_request_the_token_is_replaced_in_the_background() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.rest().await;
    fixture.server.issue(2);
    fixture.server.takes(SECOND);
    let asked = Instant::now();
    assert_eq!(reject(&slot, false).await, None);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// No process on the store serves it, although it has not expired.
#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_not_served_while_no_other_is_available() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.rest().await;
    fixture.server.throttle(600);
    assert_eq!(reject(&slot, true).await, None);
    assert_eq!(why(token(&slot).await.unwrap_err()), "throttled");
    assert_eq!(why(token(&*fixture.start().await).await.unwrap_err()), "throttled");
}

/// The other process's token is used without a token request.
#[tokio::test(start_paused = true)]
async fn a_rejection_adopts_the_token_of_another_process() {
    let mut fixture = Fixture::new(|_| ());
    let here = fixture.started().await;
    let there = fixture.start().await;
    fixture.rest().await;
    fixture.server.issue(2);
    assert_eq!(reject(&there, true).await.unwrap(), "at2");
    assert_eq!(reject(&here, true).await.unwrap(), "at2");
    assert_eq!(fixture.server.presented("rt1"), 1);
}
