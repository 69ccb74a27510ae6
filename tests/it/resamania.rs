//! Resamania, the second founding provider: `POST /{club}/oauth/v2/token`, the shape of
//! FOSOAuthServerBundle. Every answer has a new refresh token and the old one is gone at once; the
//! token type is `bearer` in lower case, and there is a scope.

use std::time::Duration;

use bearerd::token::Condition;
use bearerd_test_support::{ClientAuth, OnReuse, Rotation, TokenBehaviour};
use serde_json::{Value, json};

use super::world::{HOURS, TO_MARGIN, World, WorldBuilder, assert_all, eventually};
use crate::texts::{assert_never_says, assert_says};

/// Longer than the first backoff after a refusal of the OAuth client.
const MINUTES: Duration = Duration::from_secs(120);

fn resamania() -> WorldBuilder {
    World::builder().authorization_server(|config| {
        config.token_path = "/club-4711/oauth/v2/token".into();
        config.client_auth = ClientAuth::Post;
        // The old token's row is deleted: presenting it again is an error without further consequences.
        config.rotation = Rotation::Rotate { grace: Duration::ZERO, on_reuse: OnReuse::Refuse };
        config.token_type = Some("bearer".into());
        config.scope = Some("client_api user".into());
    })
}

/// A world whose access token has expired and whose next token request is answered with `error`.
async fn with_error(error: TokenBehaviour) -> (World, u16, String) {
    let world = resamania().settled().await;
    world.clock.advance(HOURS);
    world.authorization_server.enqueue(error);
    let response = world.client().get(world.http("/members")).send().await.unwrap();
    let status = response.status().as_u16();
    let error = response.headers().get("proxy-status").map(|value| value.to_str().unwrap());
    let error = error.unwrap_or_default().to_owned();
    (world, status, error)
}

#[tokio::test]
async fn every_refresh_sends_the_newest_refresh_token_and_keeps_the_next() {
    let world = resamania().start().await;
    let server = &world.authorization_server;
    let mut sent = Vec::new();
    for generation in 1..=10 {
        sent.push(server.current_refresh_token());
        world.get("/members").await.assert_ok();
        let record = world.record();
        assert_eq!(
            record["generation"], generation,
            "the expired token was not replaced by the next generation"
        );
        assert_eq!(
            record["refresh_token"],
            server.current_refresh_token(),
            "the newest refresh token is not in the record"
        );
        assert_eq!(record["attempt"], Value::Null, "the record still has an open attempt");
        world.clock.advance(HOURS);
    }
    let requests = server.requests();
    for (request, token) in requests.iter().zip(&sent) {
        assert_eq!(
            request.path_and_query, "/club-4711/oauth/v2/token",
            "the token request has another path"
        );
        assert_eq!(
            request.param("refresh_token"),
            Some(&**token),
            "a refresh token was presented that was not the newest"
        );
        assert_eq!(request.form.len(), 4, "the token request has other parameters");
    }
    assert_eq!(requests.len(), 10, "each generation has to cost one token request");
    server.assert_no_reuse();
    // Eight characters for each of the ten that were replaced.
    assert_eq!(
        world.record()["history"].as_str().unwrap().len(),
        80,
        "the history does not hold each replaced refresh token"
    );
}

#[tokio::test]
async fn a_lower_case_token_type_becomes_a_proper_authorization() {
    let world = resamania().start().await;
    world.get("/members").await.assert_ok();
    let token = world.authorization_server.tokens().newest_access_token().unwrap();
    let seen = world.origin.requests()[0].header("authorization").unwrap().to_owned();
    assert_eq!(
        seen,
        format!("Bearer {token}"),
        "the scheme or the token in Authorization is another one"
    );
}

#[tokio::test]
async fn a_revocation_by_staff_does_not_reach_the_clients() {
    let world = resamania().settled().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    assert_all(&world.get_many(30).await, 200);
    world
        .authorization_server
        .assert_token_requests(2, "the revoked token was not replaced by one token request");
    world.authorization_server.assert_no_reuse();
}

#[tokio::test]
async fn a_400_about_the_refresh_token_needs_a_login() {
    for description in ["Invalid refresh token", "Refresh token has expired"] {
        let error = TokenBehaviour::error(400, "invalid_grant", Some(description));
        let (world, status, proxy_status) = with_error(error).await;
        assert_eq!(status, 503, "{description}: a request was served with a dead grant");
        assert_says("Proxy-Status", &proxy_status, ["credential_needs_login"]);
        assert_never_says("Proxy-Status", &proxy_status, [description]);
        world.clock.advance(HOURS);
        world.get("/members").await.assert_no_token();
        world
            .authorization_server
            .assert_token_requests(2, format!("{description}: a dead grant was presented again"));
        world.assert_needs_login("revoked");
    }
}

#[tokio::test]
async fn configuration_errors_keep_the_refresh_token() {
    for (status, body) in [
        (
            400,
            json!({"error": "invalid_client",
            "error_description": "The client credentials are invalid"}),
        ),
        (
            400,
            json!({"error": "unauthorized_client",
            "error_description": "The grant type is unauthorized for this client_id"}),
        ),
    ] {
        let case = format!("{status} {body}");
        let (world, status, proxy_status) = with_error(TokenBehaviour::json(status, body)).await;
        assert_eq!(
            status, 503,
            "{case}: a request was served although the server refused the refresh"
        );
        assert_says(&format!("{case}: Proxy-Status"), &proxy_status, ["credential_unavailable"]);
        world.get("/members").await.assert_status(503, &case);
        assert_eq!(
            world.status().condition.to_string(),
            "failing (refused)",
            "{case}: the status says something else"
        );
        world.authorization_server.assert_token_requests(2, &case);
        assert_eq!(
            world.record()["terminal"],
            Value::Null,
            "{case}: the record says that a login is needed"
        );
        world.clock.advance(MINUTES);
        world.get("/members").await.assert_status(200, &case);
        assert_eq!(
            world.authorization_server.reuse_count(),
            0,
            "{case}: a refresh token was presented after it had been replaced"
        );
    }
}

/// A gateway answers while its club is down for a moment: the request waits for the next attempt.
#[tokio::test]
async fn a_404_of_a_gateway_passes_and_keeps_the_refresh_token() {
    let page = "<!DOCTYPE html><title>404 Not Found</title>";
    let json = json!({"code": 404, "message": "Not Found"});
    for error in [TokenBehaviour::html(404, page), TokenBehaviour::json(404, json)] {
        let (world, status, proxy_status) = with_error(error).await;
        assert_eq!(status, 200, "the request did not wait out a temporary 404: {proxy_status}");
        assert_eq!(
            world.record()["terminal"],
            Value::Null,
            "a page of a gateway counts as the end of the grant"
        );
        world.authorization_server.assert_no_reuse();
    }
}

#[tokio::test]
async fn a_429_without_a_retry_after_pauses_refreshes_for_a_minute() {
    let (world, status, proxy_status) = with_error(TokenBehaviour::html(429, "<p>slow</p>")).await;
    assert_eq!(status, 503, "a throttled token request was waited out by a client");
    assert_says("Proxy-Status", &proxy_status, ["credential_unavailable"]);
    world.clock.advance(Duration::from_secs(50));
    world.get("/members").await.assert_no_token();
    world
        .authorization_server
        .assert_token_requests(2, "the server was asked again within a minute");
    world.clock.advance(Duration::from_secs(11));
    world.get("/members").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(3, "the server was not asked again once after a minute");
}

#[tokio::test]
async fn a_500_before_the_rotation_is_retried_within_the_request() {
    let error = TokenBehaviour::json(500, json!({"code": 500, "message": "Internal Server Error"}));
    let (world, status, _) = with_error(error).await;
    assert_eq!(status, 200, "the client noticed an error that passes");
    let server = &world.authorization_server;
    server.assert_token_requests(3, "the 500 was not followed by one more token request");
    server.assert_no_reuse();
    world.assert_newest_refresh_token_is_stored();
}

/// This cannot be healed: the old refresh token is deleted at once, and the new one was in the lost answer.
#[tokio::test]
async fn a_500_after_the_rotation_cannot_be_healed_and_says_so() {
    let error = TokenBehaviour::json(500, json!({"code": 500})).after_commit();
    let (world, status, proxy_status) = with_error(error).await;
    assert_eq!(status, 503, "a request was served although the rotation is lost");
    assert_says("Proxy-Status", &proxy_status, ["credential_needs_login"]);
    assert_says("Proxy-Status", &proxy_status, ["lost"]);
    world
        .authorization_server
        .assert_token_requests(3, "a refresh token that is lost was presented more than twice");
    world.assert_needs_login("lost_rotation");
}

#[tokio::test]
async fn an_error_near_expiry_does_not_reach_the_clients() {
    for error in [
        TokenBehaviour::json(429, json!({})),
        TokenBehaviour::json(404, json!({"code": 404})),
        TokenBehaviour::error(400, "invalid_client", None),
        TokenBehaviour::error(400, "invalid_grant", Some("Invalid refresh token")),
    ] {
        let world = resamania().settled().await;
        world.authorization_server.enqueue(error);
        world.clock.advance(TO_MARGIN);
        world.get("/members").await.assert_ok();
        eventually("the failure is known", || {
            matches!(world.status().condition, Condition::Failing(_) | Condition::NeedsLogin(_))
        })
        .await;
        assert_all(&world.get_many(5).await, 200);
        world
            .authorization_server
            .assert_token_requests(2, "an error near expiry was followed by another token request");
    }
}
