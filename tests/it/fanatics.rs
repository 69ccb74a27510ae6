//! Fanatics, the first founding provider: `POST /api/oauth2/token` with four form fields; the answer
//! has an `id_token` and the refresh token that was sent, until rotation is switched on for the OAuth
//! client. Errors are 400, 401, 404, 429 and 500.

use std::time::Duration;

use bearerd_test_support::{ClientAuth, Rotation, TokenBehaviour};
use serde_json::{Value, json};

use super::program::Program;
use super::world::{HOURS, World, WorldBuilder};
use crate::texts::assert_says;

/// Longer than the first backoff after a refusal of the OAuth client.
const MINUTES: Duration = Duration::from_secs(120);
const ID_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmYW4tNDcxMSJ9.c2lnbmF0dXJl";

fn fanatics() -> WorldBuilder {
    World::builder().authorization_server(|config| {
        config.token_path = "/api/oauth2/token".into();
        config.client_auth = ClientAuth::Post;
        config.rotation = Rotation::Keep;
        config.token_type = Some("Bearer".into());
        config.extra.insert("id_token".into(), ID_TOKEN.into());
    })
}

/// One error answer to the first token request, and what the application sees of it.
async fn after(error: TokenBehaviour) -> (World, reqwest::Response) {
    let world = fanatics().start().await;
    world.authorization_server.enqueue(error);
    let response = world.client().get(world.http("/orders")).send().await.unwrap();
    (world, response)
}

fn error_of(response: &reqwest::Response) -> String {
    let value = response.headers().get("proxy-status").map(|value| value.to_str().unwrap());
    let value = value.unwrap_or_default();
    value.split(';').find_map(|part| part.trim().strip_prefix("error=")).unwrap_or("").to_owned()
}

#[tokio::test]
async fn the_token_request_is_the_documented_form() {
    let world = fanatics().start().await;
    world.get("/orders").await.assert_ok();
    let requests = world.authorization_server.requests();
    let request = &requests[0];
    assert_eq!(
        (request.method.as_str(), &*request.path_and_query),
        ("POST", "/api/oauth2/token"),
        "the token request has another method or path"
    );
    assert_eq!(
        request.headers["content-type"], "application/x-www-form-urlencoded",
        "the token request has another content type"
    );
    let mut names: Vec<_> = request.form.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["client_id", "client_secret", "grant_type", "refresh_token"],
        "the token request has other parameters"
    );
    assert_eq!(
        request.param("grant_type"),
        Some("refresh_token"),
        "the token request has another grant type"
    );
    assert_eq!(
        request.headers.get("authorization"),
        None,
        "the client secret was also sent as a header"
    );
}

#[tokio::test]
async fn the_same_refresh_token_is_sent_until_rotation_is_switched_on_midway() {
    let world = fanatics().start().await;
    let server = &world.authorization_server;
    let first = server.current_refresh_token();
    let mut sent = Vec::new();
    for round in 0..6 {
        if round == 3 {
            server.set_rotation(Rotation::STRICT);
        }
        sent.push(server.current_refresh_token());
        world.get("/orders").await.assert_status(200, format!("round {round}"));
        world.assert_newest_refresh_token_is_stored();
        world.clock.advance(HOURS);
    }
    let requests = server.requests();
    let seen: Vec<_> = requests.iter().map(|r| r.param("refresh_token").unwrap()).collect();
    assert_eq!(seen, sent, "a refresh token was presented that was not the current one");
    assert!(
        sent[..4].iter().all(|token| *token == first),
        "the server has rotated too early for this test"
    );
    assert!(
        sent[4] != first && sent[5] != sent[4],
        "the server has not rotated as this test wants"
    );
    server.assert_no_reuse();
}

#[tokio::test]
async fn the_id_token_is_not_stored_and_no_token_is_logged() {
    let world = fanatics().plain_origin().credential("allow_http = true").start_servers().await;
    world.authorization_server.set_rotation(Rotation::STRICT);
    let program = Program::start_with(world.dir.path(), &["--log-level", "trace"], &[]).await;
    program.get(&world.http("/")).await.assert_ok();
    world.authorization_server.tokens().revoke_all_access_tokens();
    let description = format!("{} has gone", world.authorization_server.current_refresh_token());
    let gone = TokenBehaviour::error(400, "invalid_grant", Some(&description));
    world.authorization_server.enqueue(gone);
    // New tokens get a propagation delay of three seconds; then the refresh finds the grant dead.
    program
        .get(&world.http("/"))
        .await
        .assert_status(401, "the rejection by the API did not reach the client");
    program.get(&world.http("/")).await.assert_no_token();

    let record = std::fs::read_to_string(world.state().join("api.json")).unwrap();
    assert!(
        !record.contains("id_token") && !record.contains(ID_TOKEN),
        "the ID token is in the record"
    );
    let log = program.stop().await;
    assert_says("the log", &log, ["access token refreshed", "invalid_grant"]);
    let mut secrets = world.authorization_server.previous_refresh_tokens();
    secrets.extend([
        world.authorization_server.current_refresh_token(),
        world.authorization_server.tokens().newest_access_token().unwrap(),
        "test-client-secret".to_owned(),
        ID_TOKEN.to_owned(),
    ]);
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "a secret is in the log");
    }
}

#[tokio::test]
async fn a_400_about_the_grant_needs_a_login() {
    let body = json!({"error": "invalid_grant",
        "error_description": "The provided refresh token is invalid, expired or revoked"});
    let (world, response) = after(TokenBehaviour::json(400, body)).await;
    assert_eq!(
        (response.status().as_u16(), &*error_of(&response)),
        (503, "credential_needs_login"),
        "the answer does not say that a login is needed"
    );
    assert_eq!(
        response.headers().get("retry-after"),
        None,
        "the client is asked to try again although a person has to act"
    );
    world.clock.advance(HOURS);
    world.get("/orders").await.assert_no_token();
    world.authorization_server.assert_token_requests(1, "a dead grant was presented again");
    world.assert_needs_login("revoked");
}

/// A wrong secret, a wrong URL or an unreadable request does not end the grant.
#[tokio::test]
async fn configuration_errors_keep_the_refresh_token_and_are_retried_rarely() {
    for (status, body) in [
        (400, json!({"error": "invalid_request", "error_description": "Missing parameter"})),
        (400, json!({"error": "unsupported_grant_type"})),
        (401, json!({"error": "invalid_client", "error_description": "Bad client credentials"})),
        (401, json!({"message": "Unauthorized"})),
    ] {
        let (world, response) = after(TokenBehaviour::json(status, body.clone())).await;
        let case = format!("{status} {body}");
        assert_eq!(
            response.status(),
            503,
            "{case}: a request was served although the server refused the refresh"
        );
        assert_eq!(
            error_of(&response),
            "credential_unavailable",
            "{case}: the answer names another error"
        );
        assert!(
            response.headers().contains_key("retry-after"),
            "{case}: the client is not told when to try again"
        );
        for _ in 0..10 {
            world.get("/orders").await.assert_status(503, &case);
        }
        assert_eq!(
            world.status().condition.to_string(),
            "failing (refused)",
            "{case}: the status says something else"
        );
        world.authorization_server.assert_token_requests(1, &case);
        assert_eq!(
            world.record()["terminal"],
            Value::Null,
            "{case}: the record says that a login is needed"
        );
        // After the fix the same refresh token works.
        world.clock.advance(MINUTES);
        world.get("/orders").await.assert_status(200, &case);
        world.authorization_server.assert_token_requests(2, &case);
    }
}

#[tokio::test]
async fn a_429_pauses_refreshes_until_its_retry_after() {
    let body = json!({"error": "too_many_requests", "message": "Rate limit exceeded"});
    let error = TokenBehaviour::json(429, body).with_header("retry-after", "90");
    let (world, response) = after(error).await;
    assert_eq!(
        (response.status().as_u16(), &*error_of(&response)),
        (503, "credential_unavailable"),
        "a throttled token request is not reported as unavailable"
    );
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((80..=90).contains(&wait), "the client is told another time than the server's: {wait}");
    world.clock.advance(Duration::from_secs(60));
    world.get("/orders").await.assert_no_token();
    world
        .authorization_server
        .assert_token_requests(1, "the server was asked before the time that it had named");
    world.clock.advance(Duration::from_secs(31));
    world.get("/orders").await.assert_ok();
    world.authorization_server.assert_token_requests(
        2,
        "the server was not asked again after the time that it had named",
    );
}

#[tokio::test]
async fn a_500_is_retried_within_the_request() {
    let (world, response) = after(TokenBehaviour::json(500, json!({"message": "oops"}))).await;
    assert_eq!(response.status(), 200, "the application noticed an error that passes");
    let requests = world.authorization_server.requests();
    assert_eq!(requests.len(), 2, "the 500 was not followed by one more token request");
    assert_eq!(
        requests[0].param("refresh_token"),
        requests[1].param("refresh_token"),
        "another refresh token was presented after the 500"
    );
    assert!(
        requests[1].at - requests[0].at < Duration::from_secs(4),
        "the second token request came too late"
    );
}
