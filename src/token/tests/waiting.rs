//! Which requests wait for a refresh, and how long.

use super::*;

// ----- operators -----

#[tokio::test(start_paused = true)]
async fn an_operator_can_replace_a_fresh_token() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.server.issue(2);
    assert_eq!(slot.refresh_now().await.unwrap().generation, Generation(2));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.server.answer(429, json!({"error": "slow_down"}));
    assert_eq!(why(slot.refresh_now().await.unwrap_err()), "throttled");
    assert_eq!(why(slot.refresh_now().await.unwrap_err()), "throttled");
    assert_eq!(fixture.server.requests().len(), 3, "a server's own wish holds for operators");
    assert_eq!(token(&slot).await.unwrap(), "at2", "the old one is still good");
}

#[tokio::test(start_paused = true)]
async fn an_operator_waits_for_a_refresh_in_progress() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let hold = fixture.server.gate.write().await;
    fixture.server.issue(2);
    let waiting = waiting(&slot);
    fixture.server.arrival().await;
    let operator = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { slot.refresh_now().await }
    });
    tokio::time::sleep(SECOND).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    assert_eq!(operator.await.unwrap().unwrap().generation, Generation(2));
    assert_eq!(fixture.server.requests().len(), 2);
}

// ----- requests -----

#[tokio::test(start_paused = true)]
async fn a_request_waits_as_long_as_configured_and_the_flight_continues() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.takes(Duration::from_secs(40));
    fixture.server.issue(2);
    let asked = Instant::now();
    assert_eq!(why(token(&slot).await.unwrap_err()), "timeout");
    assert_eq!(asked.elapsed().as_secs(), 5);
    // A request that is dropped does not end the refresh.
    let waiting = waiting(&slot);
    tokio::time::sleep(SECOND).await;
    waiting.abort();
    tokio::time::sleep(Duration::from_secs(36)).await;
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(fixture.server.requests().len(), 2, "and it was asked once");
}

/// Giving up would lose a refresh token that the server is about to send.
#[tokio::test(start_paused = true)]
async fn the_response_timeout_is_short_only_if_nothing_can_be_lost() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(4);
    assert_eq!(token(&slot).await.unwrap(), "at4");
    let listened: Vec<u64> = fixture.server.asked().iter().map(|it| it.listen.as_secs()).collect();
    assert_eq!(listened, [60, 60, 10, 60], "a server that has not rotated may be asked anew");
    let longest = fixture.config.max_refresh_duration();
    assert!(longest >= Duration::from_secs(70), "a shutdown waits for it: {longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_out_a_backoff_of_a_second() {
    let mut fixture = Fixture::new(|_| ());
    fixture.seed("s1");
    let slot = fixture.start().await;
    assert!(slot.refresh_now().await.is_err());
    fixture.server.issue(1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
}

#[tokio::test(start_paused = true)]
async fn fifty_requests_and_a_thousand_rejections_cost_one_token_request_each() {
    let mut fixture = Fixture::new(|_| ());
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.issue(1);
    fixture.server.takes(SECOND);
    let requests: Vec<_> = (0..50).map(|_| waiting(&slot)).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), "at1");
    }
    assert_eq!(fixture.server.requests().len(), 1);
    let at1 = slot.token().await.unwrap();
    slot.accepted(&at1, &ResendState::first(1, true));
    tokio::time::sleep(HOUR / 2).await;
    fixture.server.issue(2);
    let rejections: Vec<_> = (0..1000)
        .map(|target| {
            let (slot, at1) = (Arc::clone(&slot), Arc::clone(&at1));
            let mut resend = ResendState::first(target, true);
            tokio::spawn(async move { slot.rejected(&at1, &mut resend, true).await })
        })
        .collect();
    for rejection in rejections {
        assert_eq!(rejection.await.unwrap().unwrap().access_token(), "at2");
    }
    assert_eq!(fixture.server.requests().len(), 2);
    // A late rejection causes no token request.
    let late = slot.rejected(&at1, &mut ResendState::first(1, true), true).await;
    assert_eq!(late.unwrap().access_token(), "at2");
    assert_eq!(fixture.server.requests().len(), 2);
}
