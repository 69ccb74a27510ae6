//! When tokens are replaced: what the application, the authorization server and the record see.
//!
//! Each test names its row of the conformance table of the refresh engine. Time is the proxy's own
//! clock, which a test moves; the servers' tokens really live for an hour.

use std::time::{Duration, Instant, SystemTime};

use bearerd::token::Condition;
use bearerd_test_support::{Answer, ClientAuth, ExpiresIn, OriginServer, Rotation, TokenBehaviour};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::{HOURS, MINUTE, TO_MARGIN, World, assert_all, eventually};

fn assert_needs_login(answer: &(u16, String)) {
    assert_eq!(answer.0, 503, "{}", answer.1);
    assert!(answer.1.contains("\"api\"") && answer.1.contains("refresh_token"), "{}", answer.1);
}

fn time(value: &Value) -> SystemTime {
    humantime::parse_rfc3339(value.as_str().unwrap()).unwrap()
}

/// One request whose new token comes from a request that was sent a minute ago, so that a rejection
/// of it is not put down to its youth.
async fn get_with_a_token_that_was_long_under_way(world: &World) -> (u16, String) {
    let request = world.begin_refresh().await;
    world.clock.advance(MINUTE);
    world.authorization_server.release_all();
    request.await.unwrap()
}

// ----- one token request for everybody -----

/// Row 1, from nothing.
#[tokio::test]
async fn fifty_requests_without_a_token_cost_one_token_request() {
    let world = World::new().await;
    assert_all(&world.get_many(50).await, 200);
    assert_eq!(world.authorization_server.token_requests(), 1);
    world.assert_stored(1);
}

/// Row 1, from a stored generation 1 whose access token is over.
#[tokio::test]
async fn fifty_requests_with_an_expired_token_wait_for_one_token_request() {
    let world = World::settled().await;
    world.clock.advance(HOURS);
    assert_all(&world.get_many(50).await, 200);
    assert_eq!(world.authorization_server.token_requests(), 2);
    world.assert_stored(2);
}

#[tokio::test]
async fn a_request_with_an_expired_token_reaches_the_api_only_with_the_new_one() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    assert_eq!(world.origin.requests().len(), 0);
    assert!(!request.is_finished());
    server.release_all();
    assert_eq!(request.await.unwrap().0, 200);
    assert_eq!(world.tokens_seen(), [server.tokens().newest_access_token().unwrap()]);
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
    assert_eq!(world.origin.rejected(), 1000);
    assert_eq!(world.authorization_server.token_requests(), 2);
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
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(world.authorization_server.token_requests(), 2);
    // Far enough for another forced refresh, if anything asked for one.
    world.clock.advance(MINUTE);
    world.origin.release_all();
    for request in late {
        assert_eq!(request.await.unwrap().0, 200);
    }
    assert_eq!(world.authorization_server.token_requests(), 2);
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
    assert_eq!(world.tokens_seen(), vec![first; 50]);
    server.wait_for_token_requests(2).await;
    assert_eq!(world.status().condition, Condition::Refreshing);
    server.release_all();
    eventually("the refresh is over", || world.status().condition == Condition::Fresh).await;
    world.origin.clear();
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(world.tokens_seen(), [server.tokens().newest_access_token().unwrap()]);
    assert_eq!(server.token_requests(), 2);
    world.assert_stored(2);
}

/// Row 3.
#[tokio::test]
async fn near_expiry_an_endpoint_in_trouble_is_left_alone_and_nobody_notices() {
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
    assert_eq!(server.token_requests(), 2);
    let record = world.record();
    assert_eq!((&record["generation"], &record["terminal"]), (&json!(1), &Value::Null));

    world.clock.advance(Duration::from_secs(31));
    assert_eq!(world.get("/").await.0, 200);
    eventually("it was tried again", || world.status().condition == Condition::Fresh).await;
    assert_eq!(server.token_requests(), 3);
    world.assert_stored(2);
}

/// Row 4.
#[tokio::test]
async fn a_margin_longer_than_the_token_lives_is_no_storm_of_refreshes() {
    let builder = World::builder().credential("margin = \"5m\"").authorization_server(|config| {
        config.expires_in = ExpiresIn::Seconds(60);
    });
    let world = builder.settled().await;
    let server = &world.authorization_server;
    let (before, client) = (server.token_requests(), world.client());
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(5));
        let response = client.get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let landed = || world.status().condition != Condition::Refreshing;
        eventually("no refresh is under way", landed).await;
    }
    // Five minutes: at most one for every half minute, less the jitter, and one for every minute.
    let made = server.token_requests() - before;
    assert!((5..=13).contains(&made), "{made} token requests in 300 s");
    assert_eq!(server.reuse_count(), 0);
}

// ----- what token endpoints answer -----

/// Row 7.
#[tokio::test]
async fn a_lifetime_is_read_as_a_number_or_as_text() {
    let world = World::new().await;
    let server = &world.authorization_server;
    let spellings = [json!(3600), json!("3600"), json!("3600.0"), json!("3.6e3"), json!(3600.0)];
    for (number, spelling) in spellings.into_iter().enumerate() {
        server.set_expires_in(ExpiresIn::Json(spelling.clone()));
        world.clock.advance(HOURS);
        assert_eq!(world.get("/").await.0, 200, "{spelling}");
        assert_eq!(server.token_requests(), number + 1, "{spelling}");
        let record = world.record();
        let lifetime = time(&record["expires_at"]).duration_since(time(&record["issued_at"]));
        assert_eq!(lifetime.unwrap(), Duration::from_secs(3600), "{spelling}");
    }
}

/// Row 8.
#[tokio::test]
async fn a_token_without_a_lifetime_is_used_until_the_api_rejects_it() {
    for unknown in [ExpiresIn::Absent, ExpiresIn::Json(Value::Null)] {
        let builder = World::builder().authorization_server(|config| config.expires_in = unknown);
        let world = builder.settled().await;
        let server = &world.authorization_server;
        assert_eq!(world.record()["expires_at"], Value::Null);
        world.clock.advance(Duration::from_secs(300 * 24 * 3600));
        assert_eq!(world.get("/").await.0, 200);
        assert_eq!(server.token_requests(), 1);
        server.tokens().revoke_all_access_tokens();
        assert_eq!(world.get("/").await.0, 200);
        assert_eq!(server.token_requests(), 2);
        world.assert_stored(2);
        assert_eq!(world.record()["expires_at"], Value::Null);
    }
}

#[tokio::test]
async fn a_configured_lifetime_stands_in_for_one_that_the_answer_lacks() {
    let builder = World::builder()
        .credential("lifetime = \"10m\"")
        .authorization_server(|config| config.expires_in = ExpiresIn::Absent);
    let world = builder.settled().await;
    world.clock.advance(Duration::from_secs(600));
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(world.authorization_server.token_requests(), 2);
    world.assert_stored(2);
}

/// Row 11.
#[tokio::test]
async fn the_token_type_may_be_written_in_any_case_or_not_at_all() {
    for kind in [Some("bearer"), Some("BEARER"), Some("Bearer"), None] {
        let builder = World::builder()
            .authorization_server(|config| config.token_type = kind.map(str::to_owned));
        let world = builder.start().await;
        assert_eq!(world.get("/").await.0, 200, "{kind:?}");
        let token = world.authorization_server.tokens().newest_access_token().unwrap();
        let seen = world.origin.requests()[0].header("authorization").unwrap().to_owned();
        assert_eq!(seen, format!("Bearer {token}"), "{kind:?}");
        assert_eq!(world.authorization_server.token_requests(), 1, "{kind:?}");
    }
}

/// Row 12.
#[tokio::test]
async fn a_token_of_another_type_is_never_sent_and_its_refresh_token_is_kept() {
    let world = World::new().await;
    let answer = json!({"access_token": "dpop-token", "token_type": "DPoP", "expires_in": 3600,
        "refresh_token": "rt-salvaged"});
    world.authorization_server.enqueue(TokenBehaviour::json(200, answer));
    assert_all(&world.get_many(5).await, 503);
    assert_eq!(world.origin.requests().len(), 0);
    assert_eq!(world.authorization_server.token_requests(), 1);
    assert_eq!(world.record()["refresh_token"], "rt-salvaged");
    assert_eq!(world.record()["access_token"], Value::Null);
}

/// Row 12, with a token in use: the salvaged refresh token must be tried when the API asks for it.
#[tokio::test]
async fn after_an_unusable_answer_a_rejection_is_still_healed_with_the_salvaged_refresh_token() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let salvaged = server.issue_refresh_token();
    let answer = json!({"access_token": "dpop-token", "token_type": "DPoP", "expires_in": 3600,
        "refresh_token": salvaged});
    server.enqueue(TokenBehaviour::json(200, answer));
    world.clock.advance(TO_MARGIN);
    assert_eq!(world.get("/").await.0, 200);
    let failed = || matches!(world.status().condition, Condition::Failing(_));
    eventually("the unusable answer has been read", failed).await;
    assert_eq!(world.record()["refresh_token"], salvaged);

    server.tokens().revoke_all_access_tokens();
    world.clock.advance(2 * MINUTE);
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(server.token_requests(), 3);
    assert_eq!(world.record()["refresh_token"], server.current_refresh_token());
}

/// Row 15.
#[tokio::test]
async fn a_maintenance_page_with_status_200_is_asked_again() {
    let world = World::new().await;
    for _ in 0..2 {
        world.authorization_server.enqueue(TokenBehaviour::html(200, "<html>soon</html>"));
    }
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(world.authorization_server.token_requests(), 3);
    world.assert_stored(1);
}

/// Row 17.
#[tokio::test]
async fn a_refresh_token_that_is_not_answered_stays_in_use() {
    for answered in [None, Some(json!("")), Some(Value::Null)] {
        let builder = World::builder().authorization_server(|config| {
            config.rotation = Rotation::Omit;
            config.extra.extend(answered.clone().map(|value| ("refresh_token".to_owned(), value)));
        });
        let world = builder.settled().await;
        world.clock.advance(HOURS);
        assert_eq!(world.get("/").await.0, 200);
        let requests = world.authorization_server.requests();
        let sent: Vec<_> = requests.iter().map(|request| request.param("refresh_token")).collect();
        let seed = world.authorization_server.current_refresh_token();
        assert_eq!(sent, [Some(&*seed), Some(&*seed)], "{answered:?}");
        world.assert_stored(2);
    }
}

/// Row 23.
#[tokio::test]
async fn an_answer_that_was_reset_is_asked_for_again_within_the_shortest_grace() {
    let builder = World::builder().authorization_server(|config| {
        let on_reuse = bearerd_test_support::OnReuse::RevokeFamily;
        config.rotation = Rotation::Rotate { grace: Duration::from_secs(5), on_reuse };
    });
    let world = builder.settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    server.enqueue(TokenBehaviour::DropAfterCommit);
    assert_eq!(world.get("/").await.0, 200);
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1].param("refresh_token"), requests[2].param("refresh_token"));
    assert!(requests[2].at - requests[1].at < Duration::from_secs(5));
    world.assert_stored(2);
}

/// Row 30.
#[tokio::test]
async fn a_superseded_refresh_token_that_is_handed_back_does_not_replace_the_newest() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let (old, current) =
        (server.previous_refresh_tokens()[0].clone(), server.current_refresh_token());
    let access_token = server.tokens().issue_access_token(HOURS);
    let answer = json!({"access_token": access_token, "expires_in": 3600, "refresh_token": old});
    server.enqueue(TokenBehaviour::json(200, answer));
    world.clock.advance(HOURS);
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(world.tokens_seen(), [access_token]);
    assert_eq!(world.record()["refresh_token"], current);
}

/// Row 32.
#[tokio::test]
async fn a_provider_may_begin_to_rotate_one_day() {
    let builder = World::builder().authorization_server(|config| config.rotation = Rotation::Keep);
    let world = builder.settled().await;
    let server = &world.authorization_server;
    let seed = server.current_refresh_token();
    for generation in 2..=6 {
        if generation == 4 {
            server.set_rotation(Rotation::STRICT);
        }
        world.clock.advance(HOURS);
        assert_eq!(world.get("/").await.0, 200);
        assert_eq!(server.token_requests(), usize::try_from(generation).unwrap());
        world.assert_stored(generation);
        assert_eq!(world.record()["refresh_token"] == seed, generation < 4);
    }
}

/// Row 38.
#[tokio::test]
async fn a_server_that_is_down_for_a_moment_is_waited_for() {
    let world = World::new().await;
    let server = &world.authorization_server;
    for _ in 0..3 {
        server.enqueue(TokenBehaviour::html(503, "<html>Service Unavailable</html>"));
    }
    assert_all(&world.get_many(20).await, 200);
    let times: Vec<Instant> = server.requests().iter().map(|request| request.at).collect();
    assert_eq!(times.len(), 4);
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(400), "{:?}", pair[1] - pair[0]);
    }
    world.assert_stored(1);
}

/// Row 36.
#[tokio::test]
async fn a_throttling_server_is_left_alone_for_as_long_as_it_says() {
    let world = World::new().await;
    let server = &world.authorization_server;
    let throttled = TokenBehaviour::json(429, json!({"error": "too_many_requests"}));
    server.enqueue(throttled.with_header("retry-after", "120"));
    for _ in 0..3 {
        let response = world.client().get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), 503);
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((100..=120).contains(&wait), "{wait}");
    }
    assert_eq!(server.token_requests(), 1);
    world.clock.advance(Duration::from_secs(121));
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(server.token_requests(), 2);
    world.assert_stored(1);
}

/// Row 42.
#[tokio::test]
async fn a_redirected_token_request_goes_nowhere_else() {
    let world = World::new().await;
    let elsewhere = OriginServer::start(Default::default()).await;
    let redirect = TokenBehaviour::json(307, json!({}));
    world.authorization_server.enqueue(redirect.with_header("location", &elsewhere.url("/token")));
    assert_eq!(world.get("/").await.0, 503);
    assert_eq!(world.authorization_server.token_requests(), 1);
    assert_eq!(elsewhere.requests().len(), 0);
}

// ----- a dead grant -----

/// Row 34.
#[tokio::test]
async fn a_dead_grant_costs_one_token_request_and_then_none_in_an_hour() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    world.clock.advance(HOURS);
    assert_needs_login(&world.get("/").await);
    assert_eq!(server.token_requests(), 2);
    let client = world.client();
    for _ in 0..1000 {
        world.clock.advance(Duration::from_millis(3600));
        let response = client.get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().get("retry-after"), None);
    }
    assert_eq!(server.token_requests(), 2);
    assert_eq!(world.terminal_reason(), "revoked");
    assert_eq!(world.origin.requests().len(), 0);
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
        assert_eq!(world.authorization_server.token_requests(), 1, "{status} {code}");
        assert_eq!(world.terminal_reason(), "revoked", "{status} {code}");
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
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().get("retry-after"), None);
        let proxy_status = response.headers()["proxy-status"].to_str().unwrap().to_owned();
        assert!(proxy_status.contains("error=credential_needs_login"), "{proxy_status}");
        let fields = format!("{:?}", response.headers());
        let body = response.text().await.unwrap();
        for part in ["api", "no longer accepts", "refresh_token", "operator"] {
            assert!(body.contains(part), "no {part:?} in {body}");
        }
        for secret in &secrets {
            assert!(!body.contains(secret) && !fields.contains(secret), "{body} {fields}");
        }
    }
}

#[tokio::test]
async fn a_token_outlives_its_dead_grant_until_it_expires() {
    let world = World::settled().await;
    world.authorization_server.revoke_refresh_token();
    world.clock.advance(TO_MARGIN);
    assert_eq!(world.get("/").await.0, 200);
    let dead = || matches!(world.status().condition, Condition::NeedsLogin(_));
    eventually("the grant is known to be dead", dead).await;
    assert_all(&world.get_many(5).await, 200);
    world.clock.advance(HOURS);
    assert_needs_login(&world.get("/").await);
    assert_eq!(world.authorization_server.token_requests(), 2);
}

/// #25: the request that finds out gets the API's answer, later ones bearerd's.
#[tokio::test]
async fn a_rejected_token_of_a_dead_grant_is_served_no_more() {
    let world = World::settled().await;
    world.authorization_server.revoke_refresh_token();
    world.authorization_server.tokens().revoke_all_access_tokens();
    let (status, body) = world.get("/").await;
    assert_eq!((status, body.contains("invalid_token")), (401, true), "{body}");
    for _ in 0..5 {
        assert_needs_login(&world.get("/").await);
    }
    assert_eq!(world.origin.requests().len(), 1);
    assert_eq!(world.authorization_server.token_requests(), 2);
    assert_eq!(world.record()["rejected"], true);
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
    assert_eq!(server.token_requests(), 3);
    assert_eq!(world.terminal_reason(), "lost_rotation");
}

#[tokio::test]
async fn a_grant_that_dies_after_a_throttle_was_revoked_and_not_lost() {
    let world = World::new().await;
    let server = &world.authorization_server;
    server.enqueue(TokenBehaviour::json(429, json!({})).with_header("retry-after", "60"));
    assert_eq!(world.get("/").await.0, 503);
    server.revoke_refresh_token();
    world.clock.advance(MINUTE);
    assert_needs_login(&world.get("/").await);
    assert_eq!(world.terminal_reason(), "revoked");
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
    assert!(request.await.unwrap_err().is_cancelled());
    server.release_all();
    eventually("the answer is stored", || world.record()["generation"] == 2).await;
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(server.token_requests(), 2);
    world.assert_stored(2);
}

/// Row 24: the proxy has let go of the request before the answer comes.
#[tokio::test]
async fn a_request_that_is_gone_from_the_proxy_leaves_its_refresh_behind() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    server.hold();
    let mut client = tokio::net::TcpStream::connect(world.proxy_address()).await.unwrap();
    let (url, host) = (world.http("/"), world.origin.authority());
    let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    server.wait_for_token_requests(2).await;
    client.shutdown().await.unwrap();
    // The proxy closes its side when it has dropped the request.
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"");
    server.release_all();
    eventually("the answer is stored", || world.record()["generation"] == 2).await;
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(server.token_requests(), 2);
    world.assert_stored(2);
}

// ----- rejections -----

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
        assert_eq!(world.client().get(url).send().await.unwrap().status(), 200);
        let new = server.tokens().newest_access_token().unwrap();
        assert_eq!(world.tokens_seen(), [old, new]);
        assert_eq!(server.token_requests(), round + 2);
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
        assert_eq!(request.await.unwrap().0, 200);
    }
    let new = server.tokens().newest_access_token().unwrap();
    assert_eq!(world.tokens_seen(), [vec![old; 21], vec![new; 21]].concat());
    assert_eq!(server.token_requests(), 2);
    world.assert_stored(2);
}

/// Row 44.
#[tokio::test]
async fn an_api_that_rejects_every_token_does_not_become_a_stream_of_token_requests() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.origin.reject_all(true);
    let (status, body) = get_with_a_token_that_was_long_under_way(&world).await;
    assert_eq!((status, &*body), (401, r#"{"error":"invalid_token","reason":"valid"}"#));
    assert_eq!(server.token_requests(), 2);
    let client = world.client();
    for _ in 0..1000 {
        let response = client.get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), 401);
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert_eq!(challenge, r#"Bearer realm="api", error="invalid_token""#);
        assert_eq!(response.text().await.unwrap(), body);
        assert_eq!(server.token_requests(), 2);
    }

    // The pause doubles: after 30 s one more, then none for 60 s, then none for 120 s.
    for (generation, pause) in [(3, 30), (4, 60), (5, 120)] {
        world.clock.advance(Duration::from_secs(pause - 20));
        assert_eq!(world.get("/").await.0, 401);
        assert_eq!(server.token_requests(), generation - 1, "before {pause} s");
        world.clock.advance(Duration::from_secs(21));
        assert_eq!(get_with_a_token_that_was_long_under_way(&world).await.0, 401);
        assert_eq!(server.token_requests(), generation, "after {pause} s");
    }
    world.origin.reject_all(false);
    assert_eq!(world.get("/").await.0, 200);
    world.assert_stored(5);
}

/// Row 45.
#[tokio::test]
async fn a_brand_new_token_is_given_three_seconds_to_become_known() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let old = server.tokens().newest_access_token().unwrap();
    server.tokens().revoke_all_access_tokens();
    for answer in [Answer::Normal, Answer::RejectToken, Answer::RejectToken] {
        world.origin.enqueue(answer);
    }
    let started = Instant::now();
    assert_eq!(world.get("/").await.0, 200);
    assert!(started.elapsed() >= Duration::from_secs(3));
    assert!(started.elapsed() < Duration::from_secs(10));
    let new = server.tokens().newest_access_token().unwrap();
    assert_eq!(world.tokens_seen(), [old, new.clone(), new.clone(), new]);
    assert_eq!(server.token_requests(), 2);
    world.assert_stored(2);
}

/// Row 46.
#[tokio::test]
async fn a_refresh_that_brings_the_rejected_token_again_passes_the_rejection_on() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let same = server.tokens().newest_access_token().unwrap();
    server.tokens().revoke_all_access_tokens();
    server.enqueue(TokenBehaviour::json(200, json!({"access_token": same, "expires_in": 3600})));
    world.origin.enqueue(Answer::text(401, "the first answer"));
    let answer = world.get("/").await;
    assert_eq!(answer, (401, "the first answer".to_owned()));
    assert_eq!(world.origin.requests().len(), 1);
    assert_eq!(server.token_requests(), 2);
    for _ in 0..10 {
        assert_eq!(world.get("/").await.0, 401);
    }
    assert_eq!(server.token_requests(), 2);
}

/// Row 46.
#[tokio::test]
async fn an_answer_about_scopes_is_no_rejection_of_the_token() {
    let world = World::settled().await;
    let challenge = r#"Bearer error="insufficient_scope", scope="write""#;
    for status in [401, 403] {
        world.origin.enqueue(Answer::text(status, "no").with_header("www-authenticate", challenge));
        let response = world.client().get(world.http("/")).send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["www-authenticate"], challenge);
        assert_eq!(response.text().await.unwrap(), "no");
    }
    assert_eq!(world.authorization_server.token_requests(), 1);
    assert_eq!(world.origin.requests().len(), 2);
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
    assert_eq!(response.status(), 401);
    let fields = response.headers().clone();
    assert_eq!(fields["www-authenticate"], "Bearer realm=\"a\", Custom x=\"y\"");
    assert_eq!(fields["x-request-cost"], "7");
    assert_eq!(fields.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(response.text().await.unwrap(), body);
    assert_eq!(world.origin.requests().len(), 2);
    assert_eq!(server.token_requests(), 2);
}

/// Row 47.
#[tokio::test]
async fn a_short_body_is_sent_again_byte_for_byte() {
    let world = World::settled().await;
    for (round, length) in [2_000, 1 << 20].into_iter().enumerate() {
        world.authorization_server.tokens().revoke_all_access_tokens();
        world.clock.advance(MINUTE);
        world.origin.clear();
        let body = bearerd_test_support::pattern(length);
        let request = world.client().post(world.http("/orders")).body(body.clone());
        let response = request.header("content-type", "application/json").send().await.unwrap();
        assert_eq!(response.status(), 200);
        let requests = world.origin.requests();
        assert_eq!(requests.len(), 2);
        for request in requests {
            assert_eq!((request.method.as_str(), &*request.target), ("POST", "/orders"));
            assert!(request.body == body, "{} of {length} bytes", request.body_length);
            assert_eq!(request.header("content-type"), Some("application/json"));
        }
        assert_eq!(world.authorization_server.token_requests(), round + 2);
    }
}

/// Row 47.
#[tokio::test]
async fn a_body_over_the_limit_sees_its_401_and_the_token_is_replaced_in_the_background() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    let body = bearerd_test_support::pattern(10 << 20);
    let post = || world.client().post(world.http("/upload")).body(body.clone()).send();
    let response = post().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.text().await.unwrap().contains("revoked"));
    eventually("the new token is there", || world.status().generation.0 == 2).await;
    assert_eq!(world.origin.requests().len(), 1);
    assert_eq!(world.origin.requests()[0].body_length, 10 << 20);
    assert_eq!(post().await.unwrap().status(), 200);
    assert_eq!(server.token_requests(), 2);
    world.assert_stored(2);
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_the_rejection_as_it_is() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    server.enqueue(TokenBehaviour::json(429, json!({})).with_header("retry-after", "60"));
    let (status, body) = world.get("/").await;
    assert_eq!((status, body.contains("revoked")), (401, true), "{body}");
    assert_eq!(world.get("/").await.0, 503);
    assert_eq!(server.token_requests(), 2);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(world.get("/").await.0, 200);
    world.assert_stored(2);
}

/// Row 44, for bodies that are not sent again: nobody learns whether the new token helps.
#[tokio::test]
async fn an_api_that_rejects_every_upload_costs_one_token_request_in_thirty_seconds() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.origin.reject_all(true);
    let body = bearerd_test_support::pattern(2 << 20);
    for round in 0..5 {
        let upload = world.client().post(world.http("/upload")).body(body.clone()).send();
        assert_eq!(upload.await.unwrap().status(), 401);
        let landed = || world.status().condition == Condition::Fresh;
        eventually("no refresh is under way", landed).await;
        assert_eq!(server.token_requests(), 2, "upload {round}");
        world.clock.advance(Duration::from_secs(4));
    }
    world.clock.advance(Duration::from_secs(30));
    let upload = world.client().post(world.http("/upload")).body(body).send();
    assert_eq!(upload.await.unwrap().status(), 401);
    eventually("it was tried again", || server.token_requests() == 3).await;
}

// ----- where tokens go, and how they are asked for -----

#[tokio::test]
async fn the_client_s_own_authorization_is_replaced() {
    let world = World::new().await;
    for url in [world.http("/"), world.https("/")] {
        let request = world.client().get(url).header("authorization", "Bearer of-the-client");
        let twice = request.header("authorization", "Basic YTpi");
        assert_eq!(twice.send().await.unwrap().status(), 200);
    }
    let token = world.authorization_server.tokens().newest_access_token().unwrap();
    assert_eq!(world.tokens_seen(), [token.clone(), token]);
}

#[tokio::test]
async fn the_token_never_goes_to_another_host_or_port() {
    let world = World::new().await;
    assert_eq!(world.get("/").await.0, 200);
    let other = OriginServer::start(Default::default()).await;
    let client = world.client();
    let own = client.get(other.url("/")).header("authorization", "Bearer of-the-client");
    assert_eq!(own.send().await.unwrap().status(), 200);
    let address = format!("http://127.0.0.1:{}/", other.port());
    assert_eq!(client.get(address).send().await.unwrap().status(), 200);
    // The target decides, whatever `Host` says (RFC 9112 §3.2.2).
    let disguised = client.get(other.url("/")).header("host", world.origin.authority());
    let disguised = disguised.send().await.unwrap().status();
    assert!(disguised == 200 || disguised == 400, "{disguised}");
    let seen: Vec<_> = other
        .requests()
        .iter()
        .map(|request| request.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(seen[0].as_deref(), Some("Bearer of-the-client"));
    assert!(seen[1..].iter().all(Option::is_none), "{seen:?}");
}

#[tokio::test]
async fn a_refresh_posts_a_form_with_the_client_in_it() {
    let world = World::new().await;
    assert_eq!(world.get("/").await.0, 200);
    let request = &world.authorization_server.requests()[0];
    let seed = &world.authorization_server.previous_refresh_tokens()[0];
    let expected = [
        ("client_id", "test-client"),
        ("client_secret", "test-client-secret"),
        ("grant_type", "refresh_token"),
        ("refresh_token", seed),
    ];
    let mut form: Vec<_> = request.form.iter().map(|(key, value)| (&**key, &**value)).collect();
    form.sort_unstable();
    assert_eq!(form, expected);
    assert_eq!(request.headers.get("authorization"), None);
}

#[tokio::test]
async fn basic_and_basic_raw_differ_in_their_encoding_and_send_the_secret_once() {
    let (id, secret) = ("client 1+", "s/cr%t:ü");
    for (word, name, password) in
        [("basic", "client+1%2B", "s%2Fcr%25t%3A%C3%BC"), ("basic_raw", id, secret)]
    {
        let builder = World::builder()
            .credential(&format!("client_auth = \"{word}\""))
            .authorization_server(|config| {
                config.client_auth = ClientAuth::Basic;
                (config.client_id, config.client_secret) = (id.to_owned(), secret.to_owned());
            });
        let world = builder.start().await;
        assert_eq!(world.get("/").await.0, 200, "{word}");
        let request = &world.authorization_server.requests()[0];
        assert_eq!(request.basic(), Some((name.to_owned(), password.to_owned())));
        assert_eq!((request.param("client_id"), request.param("client_secret")), (None, None));
    }
}

#[tokio::test]
async fn client_credentials_need_no_refresh_token() {
    let builder = World::builder()
        .without_seed()
        .credential("grant = \"client_credentials\"\nscope = \"a b\"");
    let mut world = builder.settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    assert_all(&world.get_many(20).await, 200);
    assert_eq!(server.token_requests(), 2);
    world.clock.advance(MINUTE);
    server.tokens().revoke_all_access_tokens();
    assert_all(&world.get_many(20).await, 200);
    assert_eq!(server.token_requests(), 3);
    for request in server.requests() {
        assert_eq!(request.param("grant_type"), Some("client_credentials"));
        assert_eq!(request.param("scope"), Some("a b"));
        assert_eq!(request.param("refresh_token"), None);
    }
    assert_eq!(world.record()["refresh_token"], Value::Null);
    assert_eq!(world.record()["generation"], 3);
    world.restart().await;
    assert_eq!(world.get("/").await.0, 200);
    assert_eq!(world.authorization_server.token_requests(), 3);
}
