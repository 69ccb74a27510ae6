//! Refresh tokens that the authorization server no longer accepts: answers to clients and further token requests.
//!
//! Rows are those of `docs/behaviours.md`.

use std::time::Duration;

use bearerd::token::Condition;
use bearerd_test_support::TokenBehaviour;
use serde_json::json;

use super::wire::Reply;
use super::world::{HOURS, MINUTE, TO_MARGIN, World, assert_all, eventually};
use crate::texts::assert_says;

/// Row 34.
#[tokio::test]
async fn a_dead_grant_costs_one_token_request_and_then_none_in_an_hour() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    world.clock.advance(HOURS);
    assert_needs_login(&world.get("/").await);
    server.assert_token_requests(
        2,
        "the request that finds the grant dead has to cost one token request",
    );
    let client = world.client();
    for _ in 0..1000 {
        world.clock.advance(Duration::from_millis(3600));
        let response = client.get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), 503, "a request was served although the grant is dead");
        assert_eq!(
            response.headers().get("retry-after"),
            None,
            "the client is asked to try again although a person has to act"
        );
    }
    server.assert_token_requests(2, "a dead grant was presented again");
    world.assert_needs_login("revoked");
    world.origin.assert_requests(0, "a request was sent to the API without a token");
}

/// Row 35, and 14.
#[tokio::test]
async fn a_dead_grant_is_recognised_under_every_status() {
    for (status, code) in [
        (200, "bad_refresh_token"),
        (400, "invalid_grant"),
        (401, "invalid_grant"),
        (403, "invalid_grant"),
        (404, "invalid_grant"),
        (500, "invalid_grant"),
    ] {
        let world = World::new().await;
        world.authorization_server.enqueue(TokenBehaviour::error(status, code, Some("gone")));
        for _ in 0..3 {
            assert_needs_login(&world.get("/").await);
        }
        world.authorization_server.assert_token_requests(1, format!("{status} {code}"));
        assert_eq!(
            world.terminal_reason(),
            "revoked",
            "{status} {code}: the record gives another reason"
        );
    }
}

#[tokio::test]
async fn a_dead_grant_is_answered_with_the_next_action_and_without_a_secret() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let mut secrets = vec!["test-client-secret".to_owned(), server.current_refresh_token()];
    secrets.extend(server.previous_refresh_tokens());
    secrets.extend(server.tokens().newest_access_token());
    let description = format!("{} is unknown", server.current_refresh_token());
    server.enqueue(TokenBehaviour::error(400, "invalid_grant", Some(&description)));
    world.clock.advance(HOURS);
    for accept in ["*/*", "application/json"] {
        let request = world.client().get(world.http("/")).header("accept", accept);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 503, "a request was served although the grant is dead");
        assert_eq!(
            response.headers().get("retry-after"),
            None,
            "the client is asked to try again although a person has to act"
        );
        let proxy_status = response.headers()["proxy-status"].to_str().unwrap().to_owned();
        assert_says("Proxy-Status", &proxy_status, ["error=credential_needs_login"]);
        let fields = format!("{:?}", response.headers());
        let body = response.text().await.unwrap();
        for part in ["api", "no longer accepts", "refresh_token", "operator"] {
            assert!(body.contains(part), "no {part:?} in {body}");
        }
        for secret in &secrets {
            assert!(
                !body.contains(secret) && !fields.contains(secret),
                "the answer holds a secret: {body} {fields}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_outlives_its_dead_grant_until_it_expires() {
    let world = World::settled().await;
    world.authorization_server.revoke_refresh_token();
    world.clock.advance(TO_MARGIN);
    world.get("/").await.assert_ok();
    let dead = || matches!(world.status().condition, Condition::NeedsLogin(_));
    eventually("the grant is known to be dead", dead).await;
    assert_all(&world.get_many(5).await, 200);
    world.clock.advance(HOURS);
    assert_needs_login(&world.get("/").await);
    world.authorization_server.assert_token_requests(2, "a dead grant was presented again");
}

/// #25: the request that finds out gets the API's answer, later ones bearerd's.
#[tokio::test]
async fn a_rejected_token_of_a_dead_grant_is_no_longer_served() {
    let world = World::settled().await;
    world.authorization_server.revoke_refresh_token();
    world.authorization_server.tokens().revoke_all_access_tokens();
    let reply = world.get("/").await;
    reply.assert_status(401, "the API's own rejection did not reach the client");
    assert!(reply.text().contains("invalid_token"), "the API's own words were changed: {reply}");
    for _ in 0..5 {
        assert_needs_login(&world.get("/").await);
    }
    world.origin.assert_requests(1, "the rejected token was sent again");
    world.authorization_server.assert_token_requests(2, "a dead grant was presented again");
    assert_eq!(
        world.record()["rejected"],
        true,
        "the record does not say that the token was rejected"
    );
}

/// Row 39.
#[tokio::test]
async fn a_500_that_consumed_the_refresh_token_ends_as_a_lost_rotation() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    server.enqueue(TokenBehaviour::error(500, "oops", None).after_commit());
    for _ in 0..5 {
        assert_needs_login(&world.get("/").await);
    }
    server.assert_token_requests(3, "a refresh token that is lost was presented more than twice");
    world.assert_needs_login("lost_rotation");
}

#[tokio::test]
async fn a_grant_that_dies_after_a_throttle_was_revoked_and_not_lost() {
    let world = World::new().await;
    let server = &world.authorization_server;
    server.enqueue(TokenBehaviour::json(429, json!({})).with_header("retry-after", "60"));
    world.get("/").await.assert_no_token();
    server.revoke_refresh_token();
    world.clock.advance(MINUTE);
    assert_needs_login(&world.get("/").await);
    world.assert_needs_login("revoked");
}

// ----- support -----

#[track_caller]
fn assert_needs_login(reply: &Reply) {
    reply.assert_status(503, "a dead grant is not answered by bearerd itself");
    assert!(
        reply.text().contains("\"api\"") && reply.text().contains("refresh_token"),
        "the answer does not say which credential needs another refresh token: {reply}"
    );
}
