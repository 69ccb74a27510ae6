//! Tokens that are bound to a key (RFC 9449). The servers check each proof: its signature, for which
//! request and token it was made, that it was not seen before, and its nonce if they want one.

use std::time::Duration;

use bearerd_test_support::{Answer, ReceivedRequest, TokenBehaviour};
use serde_json::{Value, json};

use super::wire::{Wire, get};
use super::world::{MINUTE, TO_MARGIN, World, assert_all};

/// A world with bound tokens that is [settled](super::world::WorldBuilder::settled).
async fn settled() -> World {
    World::builder().dpop().settled().await
}

fn key(world: &World) -> Value {
    world.record()["dpop_key"].clone()
}

/// The tokens of requests to the API, asserting that each was sent as a bound one.
#[track_caller]
fn bound_tokens(world: &World) -> Vec<String> {
    let bound = |request: &ReceivedRequest| {
        assert!(request.bearer().is_none(), "a bound token was sent as a Bearer token");
        request.bound_token().expect("a token that is bound").to_owned()
    };
    world.origin.requests().iter().map(bound).collect()
}

#[tokio::test]
async fn token_requests_and_api_requests_carry_valid_proofs() {
    let world = World::builder().dpop().start().await;
    let client = world.client();
    for url in [world.http("/a?b=c"), world.https("/a/%C3%A4?d"), world.http("/")] {
        assert_eq!(
            client.get(&url).send().await.unwrap().status(),
            200,
            "GET {url}: the request with a proof was refused"
        );
        let post = client.post(&url).body("content").send().await.unwrap();
        assert_eq!(
            post.status(),
            200,
            "POST {url}: the request with content and a proof was refused"
        );
    }
    assert_eq!(world.origin.accepted(), 6, "the API did not accept each request with its proof");
    assert_eq!(world.origin.rejected(), 0, "the API rejected a proof or a token");
    world.clock.advance(TO_MARGIN);
    world.get("/").await.assert_ok();
    world.authorization_server.wait_for_committed(2).await;
    world
        .authorization_server
        .assert_token_requests(2, "the margin was reached, which has to cost one refresh");
    for request in world.authorization_server.requests() {
        assert_eq!(
            request.headers.get_all("dpop").iter().count(),
            1,
            "a token request has to carry exactly one proof"
        );
    }
    bound_tokens(&world);
}

#[tokio::test]
async fn an_authorization_server_that_asks_for_a_nonce_costs_one_more_request() {
    let world = World::builder().dpop().start_servers().await;
    let mut world = world;
    let server = &world.authorization_server;
    server.change_nonce();
    world.start_proxy().await;
    let server = &world.authorization_server;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the demand for a nonce has to cost one more token request");
    world.assert_stored(1);
    // The next request includes the nonce until the server demands another one.
    for (generation, requests) in [(2, 3), (3, 5)] {
        if generation == 3 {
            server.change_nonce();
        }
        server.tokens().revoke_all_access_tokens();
        world.clock.advance(MINUTE);
        world.get("/").await.assert_ok();
        assert_eq!(
            server.token_requests(),
            requests,
            "generation {generation}: a known nonce was not used, or a new one asked for more than once"
        );
        world.assert_stored(generation);
    }
}

#[tokio::test]
async fn an_authorization_server_that_never_accepts_a_nonce_gets_two_attempts() {
    let world = World::builder().dpop().start().await;
    let ask =
        |nonce| TokenBehaviour::error(400, "use_dpop_nonce", None).with_header("dpop-nonce", nonce);
    for nonce in ["n1", "n2", "n3"] {
        world.authorization_server.enqueue(ask(nonce));
    }
    world.get("/").await.assert_no_token();
    world
        .authorization_server
        .assert_token_requests(2, "a second demand for a nonce was followed by a third attempt");
}

#[tokio::test]
async fn an_api_that_asks_for_a_nonce_gets_the_same_token_again() {
    let world = settled().await;
    let server = &world.authorization_server;
    let token = server.tokens().newest_access_token().unwrap();
    for round in 1..=2 {
        world.origin.clear();
        world.origin.change_nonce();
        let post = world.client().post(world.http("/orders")).body("content").send().await.unwrap();
        assert_eq!(
            post.status(),
            200,
            "round {round}: the API's demand for a nonce reached the client"
        );
        assert_eq!(
            bound_tokens(&world),
            [&*token, &*token],
            "round {round}: the request was not sent again with the same token"
        );
        assert!(
            world.origin.requests().iter().all(|request| &*request.body == b"content"),
            "round {round}: the request that was sent again has other content"
        );
        world.get("/").await.assert_ok();
        world.origin.assert_requests(
            3,
            format!("round {round}: the request after the new nonce did not use it"),
        );
    }
    server.assert_token_requests(
        1,
        "the API's demand for a nonce was taken for a rejection of the token",
    );
    let metrics = world.ask_admin("/metrics").await.text();
    assert!(!metrics.contains("bearerd_rejections_total{"), "it was no rejection: {metrics}");
}

/// All requests were sent before the first of them got the nonce.
#[tokio::test]
async fn requests_that_learn_of_a_nonce_at_the_same_time_are_all_repeated() {
    let world = settled().await;
    world.origin.change_nonce();
    world.origin.hold();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..8 {
        requests.spawn(world.client().get(world.http("/")).send());
    }
    world.origin.wait_for_requests(8).await;
    world.origin.release_all();
    for answer in requests.join_all().await {
        assert_eq!(answer.unwrap().status(), 200, "the API's demand for a nonce reached a client");
    }
    world.origin.assert_requests(16, "each request has to be sent again once");
    world.authorization_server.assert_token_requests(
        1,
        "the API's demand for a nonce was taken for a rejection of the token",
    );
}

#[tokio::test]
async fn an_api_that_never_accepts_a_nonce_gets_two_attempts() {
    let world = settled().await;
    for nonce in ["n1", "n2", "n3"] {
        let answer = Answer::text(401, nonce)
            .with_header("www-authenticate", r#"DPoP error="use_dpop_nonce""#)
            .with_header("dpop-nonce", nonce);
        world.origin.enqueue(answer);
    }
    let reply = world.get("/").await;
    reply.assert_status(401, "a second demand for a nonce did not reach the client");
    assert_eq!(reply.text(), "n2", "the client got another answer than the last one");
    world.origin.assert_requests(2, "a second demand for a nonce was followed by a third attempt");
    world.authorization_server.assert_token_requests(
        1,
        "the API's demand for a nonce was taken for a rejection of the token",
    );
}

#[tokio::test]
async fn a_rejection_of_the_token_still_renews_it() {
    let world = settled().await;
    let server = &world.authorization_server;
    world.origin.change_nonce();
    world.get("/").await.assert_ok();
    world.origin.clear();
    let old = server.tokens().newest_access_token().unwrap();
    server.tokens().revoke_all_access_tokens();
    world.get("/").await.assert_ok();
    let new = server.tokens().newest_access_token().unwrap();
    assert_eq!(
        bound_tokens(&world),
        [old, new],
        "the rejected token was not replaced in a second attempt"
    );
    server.assert_token_requests(2, "the rejected token has to cost one token request");
    world.assert_stored(2);
}

/// The nonce first, then the token.
#[tokio::test]
async fn a_revoked_token_and_an_unknown_nonce_at_once_are_both_dealt_with() {
    let world = settled().await;
    let server = &world.authorization_server;
    server.change_nonce();
    server.tokens().revoke_all_access_tokens();
    world.origin.change_nonce();
    world.get("/").await.assert_ok();
    world
        .origin
        .assert_requests(3, "the nonce and the new token have to cost one more attempt each");
    server.assert_token_requests(
        3,
        "the rejected token and the server's new nonce have to cost one token request each",
    );
    world.assert_stored(2);
}

#[tokio::test]
async fn the_key_survives_a_restart() {
    let mut world = settled().await;
    let before = key(&world);
    assert!(before.is_string(), "the key is not in the record");
    world.restart().await;
    // The old token is used with a proof of the same key.
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(1, "the stored token was not used after the restart");
    world.clock.advance(TO_MARGIN + MINUTE * 6);
    world.restart().await;
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(2, "the expired token has to cost one token request");
    world.assert_stored(2);
    assert_eq!(key(&world), before, "the restart has replaced the key");
}

#[tokio::test]
async fn the_key_is_on_the_disk_before_the_first_request_with_it_goes_out() {
    let world = World::builder().dpop().start().await;
    let request = world.begin_refresh().await;
    let stored = key(&world);
    assert!(
        stored.is_string(),
        "the key was not on the disk when the first token request went out"
    );
    world.authorization_server.release_all();
    request.await.unwrap().assert_ok();
    assert_eq!(key(&world), stored, "the first answer has replaced the key");
}

#[tokio::test]
async fn a_bearer_answer_is_refused_and_its_new_refresh_token_kept() {
    let bearer = Some("Bearer".to_owned());
    let world = World::builder().dpop().authorization_server(|server| server.token_type = bearer);
    let world = world.start().await;
    let server = &world.authorization_server;
    world.get("/").await.assert_no_token();
    server.assert_token_requests(1, "an answer with a token of another type was asked for again");
    world.assert_newest_refresh_token_is_stored();
    server.assert_no_reuse();
    world.origin.assert_requests(0, "no token ever left");
}

#[tokio::test]
async fn a_bound_answer_that_nobody_asked_for_is_refused() {
    let dpop = Some("DPoP".to_owned());
    let world = World::builder().authorization_server(|server| server.token_type = dpop);
    let world = world.start().await;
    world.get("/").await.assert_no_token();
    world.assert_newest_refresh_token_is_stored();
    world.origin.assert_requests(0, "no token ever left");
}

/// The same if the first token request of the new configuration fails.
#[tokio::test]
async fn a_bound_token_is_not_sent_as_bearer_after_dpop_was_switched_off() {
    let mut world = settled().await;
    world.stop().await;
    world.configure(|text| text.replace("dpop = true", ""));
    let server = &world.authorization_server;
    for _ in 0..8 {
        server.enqueue(TokenBehaviour::json(503, json!({})).with_header("retry-after", "60"));
    }
    world.start_proxy().await;
    world.get("/").await.assert_no_token();
    world.restart().await;
    world.get("/").await.assert_no_token();
    world.origin.assert_requests(0, "no token ever left");
}

#[tokio::test]
async fn switching_dpop_on_makes_a_grant_of_bearer_tokens_unusable() {
    let mut world = World::builder().dpop().start_servers().await;
    world.configure(|text| text.replace("dpop = true", ""));
    let server = &world.authorization_server;
    let bearer = json!({"access_token": "old", "token_type": "Bearer", "expires_in": 3600});
    server.enqueue(TokenBehaviour::json(200, bearer));
    world.origin.enqueue(Answer::status(200));
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    assert_eq!(world.tokens_seen(), ["old"], "the Bearer token was not sent");
    world.origin.clear();
    world.stop().await;
    world.clock.advance(MINUTE);
    world.configure(|text| text.replace("[credential.api]", "[credential.api]\ndpop = true"));
    world.start_proxy().await;
    world.get("/").await.assert_no_token();
    assert_eq!(
        world.status().condition.to_string(),
        "needs_login (other_grant)",
        "the status does not say that the stored grant is another one"
    );
    world.authorization_server.assert_token_requests(
        1,
        "the refresh token of the Bearer grant was presented with a proof",
    );
    world.write_seed(&world.authorization_server.issue_refresh_token());
    world.reload().await;
    world.get("/").await.assert_ok();
    let new = world.authorization_server.tokens().newest_access_token().unwrap();
    assert_eq!(bound_tokens(&world), [new], "the new seed's token was not sent with a proof");
}

#[tokio::test]
async fn proofs_sent_by_the_client_are_replaced() {
    let world = settled().await;
    let mut wire = Wire::to(&world).await;
    let target = world.http("/");
    let host = format!("Host: {}", world.origin.authority());
    let reply = wire
        .ask(&[
            &format!("GET {target} HTTP/1.1"),
            &host,
            "DPoP: theirs",
            "dpop: another",
            "Authorization: DPoP theirs",
        ])
        .await;
    reply.assert_ok();
    assert_eq!(
        world.origin.requests()[0].headers.get_all("dpop").iter().count(),
        1,
        "the client's own proofs were not replaced by one"
    );
    world
        .authorization_server
        .assert_token_requests(1, "the client's own proofs have cost a token request");
}

/// A connection that the API closes unannounced: the request is sent again, its proof is not.
#[tokio::test]
async fn a_request_that_is_sent_again_over_another_connection_has_a_proof_of_its_own() {
    let world = World::builder().dpop().start().await;
    let mut wire = Wire::to(&world).await;
    wire.ask(&get(&world.http("/"))).await.assert_ok();
    world.origin.enqueue(Answer::CloseWithoutAnswer);
    wire.ask(&get(&world.http("/"))).await.assert_ok();
    let requests = world.origin.requests();
    let proofs: Vec<_> = requests.iter().filter_map(|request| request.header("dpop")).collect();
    assert_eq!(proofs.len(), 3, "a request was sent without a proof");
    assert_ne!(
        proofs[1], proofs[2],
        "the request that was sent again carries the proof of the first attempt"
    );
}

#[tokio::test]
async fn many_requests_at_once_have_as_many_proofs_and_one_token_request() {
    let world = World::builder().dpop().start().await;
    world.authorization_server.change_nonce();
    world.origin.change_nonce();
    assert_all(&world.get_many(32).await, 200);
    world.authorization_server.assert_token_requests(
        2,
        "many requests at once have to cost one token request, and the nonce another one",
    );
    assert_eq!(world.origin.accepted(), 32, "the API did not accept each request with its proof");
    world.clock.advance(Duration::from_secs(7200));
    assert_all(&world.get_many(8).await, 200);
    world
        .authorization_server
        .assert_token_requests(3, "the expired token has to cost one token request");
    world.assert_stored(2);
}

#[tokio::test]
async fn an_answer_about_scopes_is_no_rejection_of_a_bound_token() {
    let world = settled().await;
    let before = world.authorization_server.token_requests();
    let challenge = "DPoP error=\"insufficient_scope\", scope=\"admin\"";
    world.origin.enqueue(Answer::status(401).with_header("www-authenticate", challenge));
    world.get("/").await.assert_status(401, "an answer about scopes did not reach the client");
    assert_eq!(
        world.authorization_server.token_requests(),
        before,
        "an answer about scopes was taken for a rejection of the token"
    );
}
