//! Access tokens that the API rejects: who gets another, which requests are sent again, and how often the
//! authorization server is asked for it.
//!
//! Rows are those of `docs/behaviours.md`.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bearerd::token::Condition;
use bearerd_test_support::{Answer, TokenBehaviour, pattern};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::wire::Reply;
use super::world::{MINUTE, TO_MARGIN, World, eventually};

/// Row 43.
#[tokio::test]
async fn a_revoked_token_is_replaced_and_the_request_sent_again() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    for (round, https) in [false, true].into_iter().enumerate() {
        let old = server.tokens().newest_access_token().unwrap();
        server.tokens().revoke_all_access_tokens();
        world.clock.advance(MINUTE);
        world.origin.clear();
        let url = if https { world.https("/") } else { world.http("/") };
        assert_eq!(
            world.client().get(url).send().await.unwrap().status(),
            200,
            "round {round}: the client noticed the revocation"
        );
        let new = server.tokens().newest_access_token().unwrap();
        assert_eq!(
            world.tokens_seen(),
            [old, new],
            "round {round}: the request was not sent again with the new token"
        );
        assert_eq!(
            server.token_requests(),
            round + 2,
            "round {round}: the revoked token was not replaced by one token request"
        );
        world.assert_stored(round as u64 + 2);
    }
}

/// Row 31.
#[tokio::test]
async fn requests_in_flight_survive_a_refresh_that_kills_the_token_they_carry() {
    let builder =
        World::builder().authorization_server(|config| config.revoke_previous_access_token = true);
    let world = builder.settled().await;
    let server = &world.authorization_server;
    let old = server.tokens().newest_access_token().unwrap();
    world.origin.hold_before_check();
    let in_flight: Vec<_> = (0..20).map(|_| world.spawn_get()).collect();
    world.origin.wait_for_requests(20).await;
    world.clock.advance(TO_MARGIN);
    let last = world.spawn_get();
    eventually("the refresh is over", || world.status().generation.0 == 2).await;
    world.origin.wait_for_requests(21).await;
    world.origin.release_all();
    for request in in_flight.into_iter().chain([last]) {
        request.await.unwrap().assert_ok();
    }
    let new = server.tokens().newest_access_token().unwrap();
    assert_eq!(
        world.tokens_seen(),
        [vec![old; 21], vec![new; 21]].concat(),
        "the requests were not all sent with the old token first and repeated with the new one"
    );
    server.assert_token_requests(2, "the requests in flight have cost another token request");
    world.assert_stored(2);
}

/// Row 44.
#[tokio::test]
async fn an_api_that_rejects_every_token_does_not_become_a_stream_of_token_requests() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.origin.reject_all(true);
    let reply = get_with_a_token_that_was_long_under_way(&world).await;
    reply.assert_status(401, "the API's rejection did not reach the client");
    assert_eq!(
        reply.text(),
        r#"{"error":"invalid_token","reason":"valid"}"#,
        "the client did not get the API's own words"
    );
    server.assert_token_requests(2, "the rejected token was not replaced by one token request");
    let client = world.client();
    for _ in 0..1000 {
        let response = client.get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), 401, "the API's rejection did not reach the client");
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert_eq!(
            challenge, r#"Bearer realm="api", error="invalid_token""#,
            "the API's challenge was changed"
        );
        assert_eq!(
            response.text().await.unwrap(),
            reply.text(),
            "a later rejection came in other words"
        );
        server.assert_token_requests(
            2,
            "an API that rejects everything has cost more token requests",
        );
    }

    // The pause of the one target doubles: after 60 s one more, then none for 120 s, then none for 240 s.
    for (generation, pause) in [(3, 60), (4, 120), (5, 240)] {
        world.clock.advance(Duration::from_secs(pause - 20));
        world
            .get("/")
            .await
            .assert_status(401, format!("{pause} s: the API's rejection did not reach the client"));
        assert_eq!(
            server.token_requests(),
            generation - 1,
            "a token was requested {pause} s after the last one or earlier"
        );
        world.clock.advance(Duration::from_secs(21));
        get_with_a_token_that_was_long_under_way(&world)
            .await
            .assert_status(401, format!("{pause} s: the API's rejection did not reach the client"));
        assert_eq!(
            server.token_requests(),
            generation,
            "no token was requested {pause} s after the last one"
        );
    }
    world.origin.reject_all(false);
    world.get("/").await.assert_ok();
    world.assert_stored(5);
}

/// Row 45.
#[tokio::test]
async fn a_brand_new_token_is_given_three_seconds_to_become_known() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let old = server.tokens().newest_access_token().unwrap();
    server.tokens().revoke_all_access_tokens();
    for answer in [Answer::Normal, Answer::RejectToken] {
        world.origin.enqueue(answer);
    }
    let started = Instant::now();
    world.get("/").await.assert_ok();
    assert!(
        started.elapsed() >= Duration::from_millis(2900),
        "it was over too soon: {:?}",
        started.elapsed()
    );
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "the request waited far longer than three seconds: {:?}",
        started.elapsed()
    );
    let new = server.tokens().newest_access_token().unwrap();
    assert_eq!(
        world.tokens_seen(),
        [old, new.clone(), new],
        "the new token was not tried a second time after its rejection"
    );
    server.assert_token_requests(2, "a brand-new token was replaced for its first rejection");
    world.assert_stored(2);
}

/// Row 46.
#[tokio::test]
async fn a_refresh_that_returns_the_rejected_token_forwards_the_rejection() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let same = server.tokens().newest_access_token().unwrap();
    server.tokens().revoke_all_access_tokens();
    server.enqueue(TokenBehaviour::json(200, json!({"access_token": same, "expires_in": 3600})));
    world.origin.enqueue(Answer::text(401, "the first answer"));
    let reply = world.get("/").await;
    reply.assert_status(401, "without another token the rejection has to reach the client");
    assert_eq!(reply.text(), "the first answer", "the client did not get the API's own words");
    world.origin.assert_requests(1, "the rejected token was sent again");
    server.assert_token_requests(2, "the rejected token was not asked for once");
    for _ in 0..10 {
        world.get("/").await.assert_status(401, "the API's rejection did not reach the client");
    }
    server.assert_token_requests(2, "a token that does not change was asked for again");
}

/// Row 46.
#[tokio::test]
async fn an_answer_that_asks_for_another_kind_of_token_is_no_rejection_of_this_one() {
    let world = World::settled().await;
    let scope = r#"Bearer error="insufficient_scope", scope="write""#;
    // RFC 9470 §3.
    let step_up = r#"Bearer error="insufficient_user_authentication", error_description="A different authentication level is required", acr_values="myACR""#;
    for (status, challenge) in [(401, scope), (403, scope), (401, step_up)] {
        world.origin.enqueue(Answer::text(status, "no").with_header("www-authenticate", challenge));
        let response = world.client().get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), status, "{challenge}: the API's status was changed");
        assert_eq!(
            response.headers()["www-authenticate"],
            challenge,
            "the API's challenge was changed"
        );
        assert_eq!(
            response.text().await.unwrap(),
            "no",
            "{challenge}: the API's words were changed"
        );
    }
    world
        .authorization_server
        .assert_token_requests(1, "a demand for another kind of token has cost a token request");
    world.origin.assert_requests(3, "a request was sent again with the same token");
}

#[tokio::test]
async fn the_second_rejection_reaches_the_client_as_the_api_wrote_it() {
    let world = World::settled().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    world.origin.enqueue(Answer::Normal);
    let body = "{\n  \"why\": \"ümlaut\"\n}";
    let second = Answer::text(401, body)
        .with_header("www-authenticate", "Bearer realm=\"a\", Custom x=\"y\"")
        .with_header("x-request-cost", "7")
        .with_header("set-cookie", "a=1")
        .with_header("set-cookie", "b=2");
    world.origin.enqueue(second);
    let server = &world.authorization_server;
    server.hold();
    let request = tokio::spawn(world.client().get(world.http("/")).send());
    server.wait_for_token_requests(2).await;
    world.clock.advance(MINUTE);
    server.release_all();
    let response = request.await.unwrap().unwrap();
    assert_eq!(response.status(), 401, "the second rejection did not reach the client");
    let fields = response.headers().clone();
    assert_eq!(
        fields["www-authenticate"], "Bearer realm=\"a\", Custom x=\"y\"",
        "the API's challenge was changed"
    );
    assert_eq!(fields["x-request-cost"], "7", "a field of the API was lost");
    assert_eq!(
        fields.get_all("set-cookie").iter().collect::<Vec<_>>(),
        ["a=1", "b=2"],
        "cookies of the API were lost or put in another order"
    );
    assert_eq!(response.text().await.unwrap(), body, "the client did not get the API's own words");
    world.origin.assert_requests(2, "the request was not sent twice");
    server.assert_token_requests(2, "the rejected token was not replaced by one token request");
}

/// Row 47.
#[tokio::test]
async fn a_short_body_is_sent_again_byte_for_byte() {
    let world = World::settled().await;
    for (round, length) in [2_000, 1 << 20].into_iter().enumerate() {
        world.authorization_server.tokens().revoke_all_access_tokens();
        world.clock.advance(MINUTE);
        world.origin.clear();
        let body = pattern(length);
        let request = world.client().post(world.http("/orders")).body(body.clone());
        let response = request.header("content-type", "application/json").send().await.unwrap();
        assert_eq!(response.status(), 200, "{length} bytes: the client noticed the revocation");
        let requests = world.origin.requests();
        assert_eq!(requests.len(), 2, "{length} bytes: the request was not sent again once");
        for request in requests {
            assert_eq!(
                (request.method.as_str(), &*request.target),
                ("POST", "/orders"),
                "{length} bytes: the request was sent again with another method or target"
            );
            assert!(request.body == body, "{} of {length} bytes", request.body_length);
            assert_eq!(
                request.header("content-type"),
                Some("application/json"),
                "{length} bytes: a field of the request was lost"
            );
        }
        assert_eq!(
            world.authorization_server.token_requests(),
            round + 2,
            "{length} bytes: the revoked token was not replaced by one token request"
        );
    }
}

/// As gateways do that judge a request by its head: the content on its way meets a reset.
#[tokio::test]
async fn a_body_that_nobody_reads_before_the_401_is_sent_again() {
    let mut world = World::plain().start_servers().await;
    let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let authority = gateway.local_addr().unwrap().to_string();
    let hosts = |authority: &str| format!("hosts = [\"{authority}\"]");
    let (before, after) = (hosts(&world.origin.authority()), hosts(&authority));
    world.configure_file(|text| text.replace(&before, &after));
    world.start_proxy().await;
    tokio::spawn(async move {
        for number in 0.. {
            let mut connection = gateway.accept().await.unwrap().0;
            let content = head(&mut connection).await;
            let answer = match number % 2 {
                1 => "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                _ => {
                    let mut rest = vec![0; content];
                    connection.read_exact(&mut rest).await.unwrap();
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                }
            };
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let url = format!("http://{authority}/orders");
    assert_eq!(
        world.client().get(&url).send().await.unwrap().status(),
        200,
        "the first request failed"
    );
    for generation in 2..=5 {
        world.clock.advance(MINUTE);
        let request = world.client().post(&url).body(pattern(200_000));
        assert_eq!(
            request.send().await.unwrap().status(),
            200,
            "{generation}: the upload that nobody read was not sent again"
        );
        assert_eq!(
            world.authorization_server.token_requests(),
            generation,
            "each rejection has to cost one token request"
        );
    }
}

/// Reads the head of a request, and nothing else; how much content follows.
async fn head(connection: &mut TcpStream) -> usize {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |length| length.parse().unwrap())
}

/// Row 47.
#[tokio::test]
async fn a_body_over_the_limit_sees_its_401_and_the_token_is_replaced_in_the_background() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    let body = pattern(10 << 20);
    let post = || world.client().post(world.http("/upload")).body(body.clone()).send();
    let response = post().await.unwrap();
    assert_eq!(
        response.status(),
        401,
        "the rejection of an upload over the limit did not reach the client"
    );
    assert!(
        response.text().await.unwrap().contains("revoked"),
        "the client did not get the API's own words"
    );
    eventually("the new token is there", || world.status().generation.0 == 2).await;
    world.origin.assert_requests(1, "an upload over the limit was sent twice");
    assert_eq!(world.origin.requests()[0].body_length, 10 << 20, "the upload did not arrive whole");
    assert_eq!(post().await.unwrap().status(), 200, "the next upload did not have the new token");
    server.assert_token_requests(2, "the revoked token was not replaced by one token request");
    world.assert_stored(2);
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_the_rejection_as_it_is() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    server.enqueue(TokenBehaviour::json(429, json!({})).with_header("retry-after", "60"));
    let reply = world.get("/").await;
    reply.assert_status(401, "the API's own rejection did not reach the client");
    assert!(reply.text().contains("revoked"), "the API's own words were changed: {reply}");
    world.get("/").await.assert_no_token();
    server.assert_token_requests(2, "the server was asked before the time that it had named");
    world.clock.advance(Duration::from_secs(61));
    world.get("/").await.assert_ok();
    world.assert_stored(2);
}

/// Row 44 for bodies that are not sent again, so that bearerd does not learn whether the new token works.
#[tokio::test]
async fn an_api_that_rejects_every_upload_costs_one_token_request_in_thirty_seconds() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.origin.reject_all(true);
    let body = pattern(2 << 20);
    for round in 0..5 {
        let upload = world.client().post(world.http("/upload")).body(body.clone()).send();
        assert_eq!(
            upload.await.unwrap().status(),
            401,
            "upload {round}: the API's rejection did not reach the client"
        );
        let landed = || world.status().condition == Condition::Fresh;
        eventually("no refresh is under way", landed).await;
        server.assert_token_requests(2, format!("upload {round}"));
        world.clock.advance(Duration::from_secs(4));
    }
    world.clock.advance(Duration::from_secs(30));
    let upload = world.client().post(world.http("/upload")).body(body).send();
    assert_eq!(upload.await.unwrap().status(), 401, "the API's rejection did not reach the client");
    eventually("it was tried again", || server.token_requests() == 3).await;
}

// ----- support -----

/// One request whose new token was requested a minute ago, so that it gets no propagation delay.
async fn get_with_a_token_that_was_long_under_way(world: &World) -> Reply {
    let request = world.begin_refresh().await;
    world.clock.advance(MINUTE);
    world.authorization_server.release_all();
    request.await.unwrap()
}

#[tokio::test]
async fn a_token_that_is_expired_on_arrival_is_replaced_within_the_same_request() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(MINUTE);
    server.tokens().revoke_all_access_tokens();
    let request = world.begin_refresh().await;
    world.clock.advance(MINUTE * 120);
    server.release_all();
    request.await.unwrap().assert_ok();
    server.assert_token_requests(
        3,
        "the token that was over on arrival was not replaced by one more token request",
    );
    world.assert_stored(3);
}

/// A 429 with a short `Retry-After` after a revocation, as in the torture test.
#[tokio::test]
async fn requests_wait_out_a_short_retry_after_following_a_rejection() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(MINUTE);
    server.tokens().revoke_all_access_tokens();
    let busy = TokenBehaviour::json(429, json!({"error": "slow_down"}));
    server.enqueue(busy.with_header("retry-after", "1"));
    let requests: Vec<_> = (0..10).map(|_| world.spawn_get()).collect();
    for request in requests {
        request.await.unwrap().assert_ok();
    }
    server.assert_token_requests(3, "the throttled token request was not repeated once");
}
