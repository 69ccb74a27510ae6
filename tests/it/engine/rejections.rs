//! Consequences of rejections by an API: requests sent again and tokens replaced.

use bearerd_test_support::{Answer, pattern};

use super::super::stopwatch::Stopwatch;
use super::super::world::{World, eventually};
use super::{SECOND, at_rest};

/// The API answers 401 here with any token.
const LOGIN: &str = "/status/401";

async fn post(world: &World, path: &str) -> u16 {
    let request = world.client().post(world.http(path)).body("user=a&password=b");
    request.send().await.unwrap().status().as_u16()
}

/// How often the API saw a request for this path.
fn seen(world: &World, path: &str) -> usize {
    let requests = world.origin.requests();
    requests.iter().filter(|request| request.target.ends_with(path)).count()
}

// ----- E24 -----

#[tokio::test]
async fn e24_each_revocation_costs_one_long_upload() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let body = pattern(2 << 20);
    let upload = async || {
        let request = world.client().post(world.http("/upload")).body(body.clone());
        let status = request.send().await.unwrap().status().as_u16();
        at_rest(&world).await;
        status
    };
    assert_eq!(upload().await, 200, "the first upload failed");
    for revocation in 1..=3 {
        server.tokens().revoke_all_access_tokens();
        assert_eq!(
            upload().await,
            401,
            "revocation {revocation}: an upload that is too long to be kept did not see the rejection"
        );
        eventually("it is replaced", || server.token_requests() == 1 + revocation).await;
        at_rest(&world).await;
        for number in 0..3 {
            assert_eq!(upload().await, 200, "upload {number} after revocation {revocation}");
            world.clock.advance(SECOND * 5);
        }
    }
}

/// The same with short requests.
#[tokio::test]
async fn e24_revocations_in_a_row_are_noticed_by_no_short_request() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    for revocation in 1..=4 {
        server.tokens().revoke_all_access_tokens();
        world.get("/").await.assert_status(200, format!("revocation {revocation}"));
        assert_eq!(
            post(&world, "/").await,
            200,
            "revocation {revocation}: a short request saw the rejection"
        );
        world.clock.advance(SECOND * 10);
    }
    server.assert_token_requests(5, "each revocation has to cost one token request");
}

// ----- E30 -----

#[tokio::test]
async fn e30_a_login_that_is_refused_whatever_the_token_is_sent_twice() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let asked = Stopwatch::start();
    assert_eq!(
        post(&world, LOGIN).await,
        401,
        "the API's refusal of the login did not reach the client"
    );
    assert_eq!(seen(&world, LOGIN), 2, "a refused login has to be sent once more with a new token");
    assert!(asked.elapsed() < SECOND * 6, "it took too long: {:?}", asked.elapsed());
    server.assert_token_requests(2, "the refused login has to cost one token request");
    // The target is remembered, so that wrong passwords are not always sent twice.
    for attempt in 1..=5 {
        world.clock.advance(SECOND * 7);
        assert_eq!(
            post(&world, LOGIN).await,
            401,
            "the API's refusal of the login did not reach the client"
        );
        assert_eq!(
            seen(&world, LOGIN),
            2 + attempt,
            "a target that rejects every token was sent twice again"
        );
    }
    server
        .assert_token_requests(2, "a target that rejects every token has cost more token requests");
    assert_eq!(
        (world.get("/").await.status, post(&world, "/").await),
        (200, 200),
        "(GET, POST): other targets suffer from the one that rejects every token"
    );
}

/// A target with another query is the same target.
#[tokio::test]
async fn e30_a_target_is_known_by_method_and_path() {
    let world = World::settled().await;
    for number in 0..5 {
        assert_eq!(
            post(&world, &format!("{LOGIN}?n={number}")).await,
            401,
            "the API's refusal of the login did not reach the client"
        );
        world.clock.advance(SECOND * 7);
    }
    world.origin.assert_requests(6, "only the first of five logins may be sent twice");
    world.authorization_server.assert_token_requests(2, "another query counts as another target");
}

#[tokio::test]
async fn e30_a_safe_request_is_sent_three_times_at_most_and_only_while_the_token_is_new() {
    for (path, status) in [("/", 200), (LOGIN, 401)] {
        let world = World::settled().await;
        world.authorization_server.tokens().revoke_all_access_tokens();
        if status == 200 {
            for answer in [Answer::Normal, Answer::RejectToken] {
                world.origin.enqueue(answer);
            }
        }
        let asked = Stopwatch::start();
        assert_eq!(
            world.get(path).await.status,
            status,
            "{path}: the client got another final answer"
        );
        assert!(asked.elapsed() < SECOND * 5, "it took too long: {:?}", asked.elapsed());
        world.origin.assert_requests(3, path);
        world.authorization_server.assert_token_requests(2, path);
    }
}

#[tokio::test]
async fn e30_a_first_token_that_is_not_known_yet_is_waited_for() {
    let world = World::new().await;
    world.origin.enqueue(Answer::RejectToken);
    let asked = Stopwatch::start();
    world.get("/").await.assert_ok();
    assert!(asked.elapsed() < SECOND * 5, "it took too long: {:?}", asked.elapsed());
    world.origin.assert_requests(2, "a first token that is not known yet has to be sent twice");
    world
        .authorization_server
        .assert_token_requests(1, "a first token that is not known yet was replaced");
}

#[tokio::test]
async fn e30_a_request_that_changes_something_is_sent_twice_at_most() {
    let world = World::settled().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    for answer in [Answer::Normal, Answer::RejectToken, Answer::RejectToken] {
        world.origin.enqueue(answer);
    }
    assert_eq!(post(&world, "/").await, 401, "a second rejection did not reach the client");
    world.origin.assert_requests(2, "a request that changes something may be sent twice");
}

// ----- E31 -----

#[tokio::test]
async fn e31_one_path_that_always_rejects_does_not_delay_the_healing_of_others() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    for round in 0..12 {
        world.get(LOGIN).await.assert_status(
            401,
            format!("round {round}: the API's rejection did not reach the client"),
        );
        world.get("/").await.assert_status(200, format!("round {round}"));
        world.clock.advance(SECOND * 10);
    }
    let before = server.token_requests();
    assert!(before <= 4, "{before} token requests for a path that rejects every token");
    server.tokens().revoke_all_access_tokens();
    for round in 0..3 {
        world.get("/").await.assert_status(200, format!("round {round}"));
        world.get(LOGIN).await.assert_status(
            401,
            format!("round {round}: the API's rejection did not reach the client"),
        );
    }
    assert!(
        server.token_requests() <= before + 1,
        "a revocation has cost more than one token request: {} before it, {} after it",
        before,
        server.token_requests()
    );
}

/// Many such paths, as a crawler finds them, among requests that are accepted.
#[tokio::test]
async fn e31_many_paths_that_always_reject_cause_few_token_requests() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let client = world.client();
    for number in 0..40 {
        world.origin.reject_all(true);
        let refused = client.put(world.http(&format!("/p/{number}"))).send().await.unwrap();
        assert_eq!(
            refused.status(),
            401,
            "path {number}: the API's rejection did not reach the client"
        );
        world.origin.reject_all(false);
        world.get("/").await.assert_status(200, format!("after path {number}"));
        world.clock.advance(SECOND * 6);
    }
    let before = server.token_requests();
    assert!(before <= 15, "{before} token requests in four minutes");
    server.tokens().revoke_all_access_tokens();
    world.get("/").await.assert_ok();
}

/// The rejection is the first response with this token.
#[tokio::test]
async fn e31_a_revocation_right_after_a_lone_rejection_heals_at_once() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.get(LOGIN).await.assert_status(401, "the API's rejection did not reach the client");
    world.clock.advance(SECOND * 4);
    server.tokens().revoke_all_access_tokens();
    world.clock.advance(SECOND * 4);
    world.get("/").await.assert_ok();
}
