//! When tokens are refreshed: effects on the application, the authorization server and the record.
//!
//! Each test names its row of `docs/behaviours.md`. Time is the proxy's own
//! clock, which a test moves; the servers' tokens really live for an hour.

use std::time::Duration;

use bearerd::token::Condition;
use bearerd_test_support::{Answer, ExpiresIn, TokenBehaviour};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::world::{HOURS, MINUTE, TO_MARGIN, World, assert_all, eventually};

// ----- one token request for everybody -----

/// Row 1, without a record.
#[tokio::test]
async fn fifty_requests_without_a_token_cost_one_token_request() {
    let world = World::new().await;
    assert_all(&world.get_many(50).await, 200);
    world
        .authorization_server
        .assert_token_requests(1, "fifty requests without a token have to share one token request");
    world.assert_stored(1);
}

/// Row 1, from a stored generation 1 whose access token has expired.
#[tokio::test]
async fn fifty_requests_with_an_expired_token_wait_for_one_token_request() {
    let world = World::settled().await;
    world.clock.advance(HOURS);
    assert_all(&world.get_many(50).await, 200);
    world.authorization_server.assert_token_requests(
        2,
        "fifty requests with an expired token have to share one token request",
    );
    world.assert_stored(2);
}

#[tokio::test]
async fn a_request_with_an_expired_token_reaches_the_api_only_with_the_new_one() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    world.origin.assert_requests(0, "a request went to the API with the expired token");
    assert!(!request.is_finished(), "the request was answered before there was a token");
    server.release_all();
    request.await.unwrap().assert_ok();
    assert_eq!(
        world.tokens_seen(),
        [server.tokens().newest_access_token().unwrap()],
        "the request went to the API with another token than the new one"
    );
}

#[tokio::test]
async fn a_thousand_rejections_at_once_cost_one_refresh() {
    let world = World::plain().settled().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    world.origin.hold_before_check();
    let (answers, ()) = tokio::join!(world.get_many(1000), async {
        world.origin.wait_for_requests(1000).await;
        world.origin.release_all();
    });
    assert_all(&answers, 200);
    assert_eq!(
        world.origin.rejected(),
        1000,
        "the requests were not all rejected at once, so the test shows nothing"
    );
    world
        .authorization_server
        .assert_token_requests(2, "a thousand rejections have to share one token request");
    world.assert_stored(2);
}

#[tokio::test]
async fn a_late_rejection_of_an_older_token_costs_no_token_request() {
    let world = World::settled().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    for _ in 0..10 {
        world.origin.enqueue(Answer::Stall);
    }
    let late: Vec<_> = (0..10).map(|_| world.spawn_get()).collect();
    world.origin.wait_for_verdicts(10).await;
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(2, "the revoked token was not replaced by one token request");
    // Late enough for another forced refresh.
    world.clock.advance(MINUTE);
    world.origin.release_all();
    for request in late {
        request.await.unwrap().assert_ok();
    }
    world
        .authorization_server
        .assert_token_requests(2, "late rejections of the older token have cost a token request");
    world.assert_stored(2);
}

// ----- near expiry -----

/// Row 2.
#[tokio::test]
async fn near_expiry_requests_keep_the_old_token_while_one_refresh_runs() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let first = server.tokens().newest_access_token().unwrap();
    world.clock.advance(TO_MARGIN);
    server.hold();
    assert_all(&world.get_many(50).await, 200);
    assert_eq!(
        world.tokens_seen(),
        vec![first; 50],
        "a request near expiry did not use the old token"
    );
    server.wait_for_token_requests(2).await;
    assert_eq!(
        world.status().condition,
        Condition::Refreshing,
        "no refresh is under way near expiry"
    );
    server.release_all();
    eventually("the refresh is over", || world.status().condition == Condition::Fresh).await;
    world.origin.clear();
    world.get("/").await.assert_ok();
    assert_eq!(
        world.tokens_seen(),
        [server.tokens().newest_access_token().unwrap()],
        "the new token was not used"
    );
    server.assert_token_requests(2, "the refresh near expiry has to cost one token request");
    world.assert_stored(2);
}

/// Row 3.
#[tokio::test]
async fn near_expiry_a_failing_endpoint_is_given_its_retry_after_and_requests_are_served() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(TO_MARGIN);
    let trouble = TokenBehaviour::json(503, json!({"message": "down"}));
    server.enqueue(trouble.with_header("retry-after", "30"));
    assert_all(&world.get_many(20).await, 200);
    server.wait_for_answered(2).await;
    let failed = || matches!(world.status().condition, Condition::Failing(_));
    eventually("the failure is known", failed).await;
    assert_all(&world.get_many(20).await, 200);
    server.assert_token_requests(2, "the server was asked before the time that it had named");
    let record = world.record();
    assert_eq!(
        (&record["generation"], &record["terminal"]),
        (&json!(1), &Value::Null),
        "(generation, terminal): a failure near expiry has changed the token"
    );

    world.clock.advance(Duration::from_secs(31));
    world.get("/").await.assert_ok();
    eventually("it was tried again", || world.status().condition == Condition::Fresh).await;
    server.assert_token_requests(
        3,
        "the server was not asked again once after the time that it had named",
    );
    world.assert_stored(2);
}

/// Row 4.
#[tokio::test]
async fn a_margin_longer_than_the_lifetime_does_not_cause_a_storm_of_refreshes() {
    let builder = World::builder().credential("margin = \"5m\"").authorization_server(|config| {
        config.expires_in = ExpiresIn::Seconds(60);
    });
    let world = builder.settled().await;
    let server = &world.authorization_server;
    let (before, client) = (server.token_requests(), world.client());
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(5));
        let response = client.get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), 200, "a request was not served");
        let landed = || world.status().condition != Condition::Refreshing;
        eventually("no refresh is under way", landed).await;
    }
    // Five minutes: at most one for every half minute, less the jitter, and one for every minute.
    let made = server.token_requests() - before;
    assert!((5..=13).contains(&made), "{made} token requests in 300 s");
    server.assert_no_reuse();
}

// ----- clients that hang up -----

/// Row 24.
#[tokio::test]
async fn a_client_that_hangs_up_does_not_cancel_the_refresh_it_waits_for() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    request.abort();
    assert!(
        request.await.unwrap_err().is_cancelled(),
        "the request was over before it could be aborted"
    );
    server.release_all();
    eventually("the answer is stored", || world.record()["generation"] == 2).await;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the refresh whose client hung up was lost");
    world.assert_stored(2);
}

/// Row 24: the proxy has dropped the request before the answer arrives.
#[tokio::test]
async fn a_refresh_goes_on_after_its_request_is_gone() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    server.hold();
    let mut client = tokio::net::TcpStream::connect(world.proxy_address()).await.unwrap();
    let (url, host) = (world.http("/"), world.origin.authority());
    let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    server.wait_for_token_requests(2).await;
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    server.release_all();
    eventually("the answer is stored", || world.record()["generation"] == 2).await;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the refresh whose request was gone was lost");
    world.assert_stored(2);
}
