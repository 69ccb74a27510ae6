//! Grants beyond the refresh token, through the whole proxy.

use bearerd_test_support::{Answer, OriginConfig, OriginServer};
use serde_json::json;

use super::world::World;

#[tokio::test]
async fn a_static_credential_puts_its_key_on_requests_and_asks_nobody() {
    let world = World::builder()
        .credential(
            "grant = \"static\"\nvars = { k = { file = \"secret\" } }\ninject = { \"x-api-key\" = \"${k}\" }",
        )
        .start()
        .await;
    for _ in 0..2 {
        world.origin.enqueue(Answer::status(200));
        world.get("/").await.assert_ok();
    }
    for request in world.origin.requests() {
        assert_eq!(
            request.header("x-api-key"),
            Some("test-client-secret"),
            "the static key was not sent"
        );
        assert_eq!(request.header("authorization"), None, "a token was sent beside the static key");
    }
    world
        .authorization_server
        .assert_token_requests(0, "a static credential has made a token request");
}

#[tokio::test]
async fn a_step_brings_the_token_that_the_api_takes() {
    let rest = OriginServer::start(OriginConfig::default()).await;
    let steps = format!(
        "steps = [{{ url = \"{}\", encoding = \"get\", params = {{ version = \"*\", access_token = \"${{access_token}}\" }}, response = {{ access_token = \"BhRestToken\" }} }}]\ninject = {{ BhRestToken = \"${{access_token}}\" }}",
        rest.url("/login")
    );
    let world = World::builder().credential(&steps).start().await;
    rest.enqueue(Answer::json(200, json!({ "BhRestToken": "session" })));
    world.origin.enqueue(Answer::status(200));
    world.get("/").await.assert_ok();
    let issued = world.authorization_server.tokens().newest_access_token().unwrap();
    let [login] = rest.requests().try_into().unwrap();
    assert_eq!(
        login.target,
        format!("/login?access_token={issued}&version=*"),
        "the step was made with another token"
    );
    assert_eq!(
        world.origin.requests()[0].header("bhresttoken"),
        Some("session"),
        "the token of the step was not sent"
    );
    world.assert_stored(1);
}

#[tokio::test]
async fn a_failed_step_costs_no_refresh_token() {
    let rest = OriginServer::start(OriginConfig::default()).await;
    let steps = format!(
        "steps = [{{ url = \"{}\", response = {{ access_token = \"t\" }} }}]\ninject = {{ T = \"${{access_token}}\" }}",
        rest.url("/login")
    );
    let world = World::builder().credential(&steps).start().await;
    rest.enqueue(Answer::status(503));
    rest.enqueue(Answer::json(200, json!({ "t": "session" })));
    world.origin.enqueue(Answer::status(200));
    // The request waits while only the step is repeated, because the first answer is already stored.
    world.get("/").await.assert_ok();
    let server = &world.authorization_server;
    server.assert_token_requests(1, "the failed step has cost another token request");
    server.assert_no_reuse();
    world.assert_newest_refresh_token_is_stored();
    assert_eq!(
        world.origin.requests()[0].header("t"),
        Some("session"),
        "the token of the step was not sent"
    );
}
