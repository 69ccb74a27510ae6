//! What bearerd does by itself: token requests that no request asks for, and what clocks do to them.

use std::time::Duration;

use bearerd::store::{Generation, TerminalReason};
use bearerd::token::Condition;
use bearerd_test_support::{ExpiresIn, Rotation, TokenBehaviour};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stopwatch::Stopwatch;
use super::world::{TO_MARGIN, World, eventually};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

async fn reaches(world: &World, generation: u64) {
    eventually("the next generation", || world.status().generation == Generation(generation)).await;
}

/// #7 and #8: by the clock, without a request.
#[tokio::test]
async fn near_expiry_a_used_token_is_replaced_without_a_request() {
    let world = World::settled().await;
    world.clock.advance(TO_MARGIN);
    reaches(&world, 2).await;
    world
        .authorization_server
        .assert_token_requests(2, "the token near expiry was not replaced by one token request");
    world.origin.assert_requests(0, "a request was sent to the API for the sake of the token");
}

/// #5: a token that is about to expire is replaced as soon as bearerd starts.
#[tokio::test]
async fn a_start_near_expiry_replaces_the_token_before_the_first_request() {
    let mut world = World::settled().await;
    world.stop().await;
    world.clock.advance(TO_MARGIN);
    world.start_proxy().await;
    reaches(&world, 2).await;
    world.authorization_server.assert_token_requests(
        2,
        "the token near expiry was not replaced by one token request at the start",
    );
}

/// #9 and row 33: a refresh token that dies after 30 days of idleness outlives 40.
#[tokio::test]
async fn forty_idle_days_cost_one_token_request_and_end_with_a_token() {
    let world = World::builder().credential("keepalive = \"30d\"").settled().await;
    world.clock.advance(29 * DAY);
    world.clock.advance(2 * DAY);
    reaches(&world, 2).await;
    world.clock.advance(9 * DAY);
    world.get("/").await.assert_ok();
    world.authorization_server.assert_token_requests(
        3,
        "keepalive and the expired token have to cost one token request each",
    );
    world.assert_newest_refresh_token_is_stored();
}

/// Row 6: the wall clock jumps an hour ahead, and back again.
#[tokio::test]
async fn a_clock_that_jumps_an_hour_costs_at_most_one_token_request_for_each_jump() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.set_back(HOUR);
    for _ in 0..20 {
        world.get("/").await.assert_ok();
    }
    server.assert_token_requests(1, "a clock that was set back has cost a token request");
    world.clock.advance(2 * HOUR);
    for _ in 0..20 {
        world.get("/").await.assert_ok();
    }
    server.assert_token_requests(2, "a clock that jumped ahead has to cost one token request");
    world.clock.set_back(HOUR);
    for _ in 0..20 {
        world.get("/").await.assert_ok();
    }
    server.assert_token_requests(2, "a clock that was set back has cost a token request");
    server.assert_no_reuse();
}

/// Its issue is in the future then, and that is no reason to wait for it to become known to the API.
#[tokio::test]
async fn a_clock_set_back_before_a_restart_does_not_make_an_old_token_look_new() {
    let mut world = World::settled().await;
    world.clock.set_back(HOUR);
    world.restart().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    let post = world.client().post(world.http("/")).body("once");
    assert_eq!(
        post.send().await.unwrap().status(),
        200,
        "a token of long ago was given time to become known"
    );
    world
        .authorization_server
        .assert_token_requests(2, "the rejected token was not replaced by one token request");
}

/// Row 6: a backoff ends on time, whatever the wall clock says.
#[tokio::test]
async fn a_clock_that_is_set_back_does_not_lengthen_a_backoff() {
    let world = World::new().await;
    let trouble = TokenBehaviour::json(503, json!({}));
    world.authorization_server.enqueue(trouble.with_header("retry-after", "2"));
    let waiting = world.spawn_get();
    let failed = || matches!(world.status().condition, Condition::Failing(_));
    eventually("the token request has failed", failed).await;
    world.clock.set_back(Duration::from_secs(1800));
    // The waiting request gets the result of the next attempt, two seconds later.
    waiting.await.unwrap().assert_ok();
}

/// The wall clock is all that a restart has to go by.
#[tokio::test]
async fn a_clock_set_back_before_a_restart_does_not_lengthen_a_retry_after() {
    let mut world = World::settled().await;
    let trouble = TokenBehaviour::json(429, json!({}));
    world.authorization_server.enqueue(trouble.with_header("retry-after", "2"));
    world.authorization_server.tokens().revoke_all_access_tokens();
    let _rejected = world.get("/").await;
    world.clock.set_back(HOUR);
    world.restart().await;
    // Two seconds of a pause are sat out.
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(3, "the server's pause was not followed by one token request");
}

/// Row 9.
#[tokio::test]
async fn an_invalid_lifetime_does_not_cause_a_loop_of_token_requests() {
    for junk in [json!(0), json!(-1), json!("abc"), json!(1e18)] {
        let builder = World::builder()
            .authorization_server(|config| config.expires_in = ExpiresIn::Json(junk.clone()));
        let world = builder.settled().await;
        for _ in 0..20 {
            world.get("/").await.assert_status(200, &junk);
        }
        world.authorization_server.assert_token_requests(1, &junk);
    }
}

/// Row 1 with `rotation = "ignore"`.
#[tokio::test]
async fn rotation_ignore_keeps_the_refresh_token() {
    let builder = World::builder()
        .credential("rotation = \"ignore\"")
        .authorization_server(|config| config.rotation = Rotation::Keep);
    let world = builder.settled().await;
    let first = world.record()["refresh_token"].clone();
    let other = json!({"access_token": "junk", "refresh_token": "nobody-needs-this"});
    world.authorization_server.enqueue(TokenBehaviour::json(200, other));
    world.clock.advance(2 * HOUR);
    let _rejected = world.get("/").await;
    assert_eq!(
        world.record()["refresh_token"],
        first,
        "`rotation = \"ignore\"` did not keep the refresh token"
    );
    assert_eq!(world.record()["attempt"], Value::Null, "the record still has an open attempt");
}

/// Row 46, near expiry: the server returns the same token until it expires (Reltio).
#[tokio::test]
async fn a_server_that_returns_the_same_token_near_expiry_is_not_asked_again_at_once() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let same = server.tokens().newest_access_token().unwrap();
    world.clock.advance(TO_MARGIN);
    server.enqueue(TokenBehaviour::json(200, json!({"access_token": same, "expires_in": 200})));
    reaches(&world, 2).await;
    for _ in 0..20 {
        world.get("/").await.assert_ok();
    }
    assert_eq!(world.status().condition, Condition::Fresh, "the same token again is not in use");
    server.assert_token_requests(2, "a server that returns the same token was asked again at once");
}

/// #29 and row 48, over two replicas: the other one notices within two seconds.
#[tokio::test]
async fn a_logout_ends_a_credential_in_every_process_and_through_restarts() {
    let mut world = with_admin().await;
    world.get("/").await.assert_ok();
    let sibling = world.sibling().await;
    sibling.get(&world).await.assert_ok();
    let logged_out = Condition::NeedsLogin(TerminalReason::LoggedOut);
    let refused = change(&world, "POST", "api", "logout", "").await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}: the answer has another status");
    world.get("/").await.assert_ok();
    let done = change(&world, "POST", "%61pi", "logout", ADMIN).await;
    assert!(
        done.starts_with("HTTP/1.1 200 ") && done.contains("needs_login"),
        "the logout was not answered with the new state: {done}"
    );
    world.get("/").await.assert_no_token();
    eventually("the other one knows", || sibling.status().condition == logged_out).await;
    sibling.get(&world).await.assert_no_token();
    sibling.stop().await;
    world.restart().await;
    world.get("/").await.assert_no_token();
    world.authorization_server.assert_token_requests(1, "a token was requested after the logout");
    let record = world.record();
    assert_eq!(
        record["terminal"]["reason"], "logged_out",
        "the record does not say that it was logged out"
    );
    assert_eq!(
        (&record["refresh_token"], &record["access_token"]),
        (&Value::Null, &Value::Null),
        "(refresh token, access token): the record of a logged-out credential holds one"
    );

    // #28.
    world.write_seed(&world.authorization_server.issue_refresh_token());
    world.reload().await;
    world.get("/").await.assert_ok();
    assert_eq!(
        world.record()["generation"],
        3,
        "the new grant began with a number that was used before"
    );
}

/// #11: a sibling has a newer token than the rejected one, and it is used without a delay.
#[tokio::test]
async fn the_store_is_read_before_a_new_token_gets_a_propagation_delay() {
    let world = World::new().await;
    let sibling = world.sibling().await;
    world.get("/").await.assert_ok();
    sibling.get(&world).await.assert_ok();
    // The sibling replaces it, and only the store knows.
    sibling.app().credentials().all()[0].sole_instance().unwrap().slot.refresh_now().await.unwrap();
    let first = world.tokens_seen()[0].clone();
    world.authorization_server.tokens().revoke_access_token(&first);
    let began = Stopwatch::start();
    world.get("/").await.assert_ok();
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "it took too long: {:?}",
        began.elapsed()
    );
    world.authorization_server.assert_token_requests(2, "the sibling's newer token was not used");
}

/// `POST /api/v1/credentials/NAME/refresh`.
#[tokio::test]
async fn an_operator_with_the_admin_token_has_a_token_replaced() {
    let world = with_admin().await;
    world.get("/").await.assert_ok();
    let refused = ask(&world, "POST", "api", "").await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}: the answer has another status");
    let unknown = ask(&world, "POST", "other", ADMIN).await;
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}: the answer has another status");
    let wrong = ask(&world, "GET", "api", ADMIN).await;
    assert!(wrong.starts_with("HTTP/1.1 405 "), "{wrong}: the answer has another status");
    world
        .authorization_server
        .assert_token_requests(1, "refused changes have cost a token request");
    let done = ask(&world, "POST", "api", ADMIN).await;
    assert!(done.starts_with("HTTP/1.1 200 "), "{done}: the answer has another status");
    let status: Value = serde_json::from_str(done.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (&status["name"], &status["generation"]),
        (&json!("api"), &json!(2)),
        "the answer reports another name or number"
    );
    world
        .authorization_server
        .assert_token_requests(2, "an operator's refresh has to cost one token request");
}

const ADMIN: &str = "authorization: Bearer adm1n\r\n";

/// A proxy whose operators have a token.
async fn with_admin() -> World {
    let mut world = World::builder().start_servers().await;
    std::fs::write(world.dir.path().join("admin"), "adm1n").unwrap();
    world.configure(|text| {
        let listen = "[admin]\nlisten = \"127.0.0.1:0\"";
        text.replace(listen, &format!("{listen}\ntoken = {{ file = \"admin\" }}"))
    });
    world.start_proxy().await;
    world
}

/// One request for a refresh on the admin listener, and the whole answer.
async fn ask(world: &World, method: &str, name: &str, fields: &str) -> String {
    change(world, method, name, "refresh", fields).await
}

/// The same for any change.
async fn change(world: &World, method: &str, name: &str, change: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(world.app().admin_address().unwrap()).await.unwrap();
    let request = format!(
        "{method} /api/v1/credentials/{name}/{change} HTTP/1.1\r\nhost: localhost\r\n{fields}\
         content-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
