//! Answers of token endpoints, and the requests that they get.
//!
//! Rows are those of `docs/behaviours.md`.

use std::time::{Duration, Instant, SystemTime};

use bearerd::token::Condition;
use bearerd_test_support::{
    ClientAuth, ExpiresIn, OnReuse, OriginServer, Rotation, TokenBehaviour,
};
use serde_json::{Value, json};

use super::world::{HOURS, MINUTE, TO_MARGIN, World, assert_all, eventually};

// ----- answers -----

/// Row 7.
#[tokio::test]
async fn a_lifetime_is_read_as_a_number_or_as_text() {
    let world = World::new().await;
    let server = &world.authorization_server;
    let spellings = [json!(3600), json!("3600"), json!("3600.0"), json!("3.6e3"), json!(3600.0)];
    for (number, spelling) in spellings.into_iter().enumerate() {
        server.set_expires_in(ExpiresIn::Json(spelling.clone()));
        world.clock.advance(HOURS);
        world.get("/").await.assert_status(200, &spelling);
        assert_eq!(
            server.token_requests(),
            number + 1,
            "{spelling}: the lifetime was not read, so the token was not replaced once"
        );
        let record = world.record();
        let lifetime = time(&record["expires_at"]).duration_since(time(&record["issued_at"]));
        assert_eq!(
            lifetime.unwrap(),
            Duration::from_secs(3600),
            "{spelling}: the lifetime was read differently"
        );
    }
}

/// Row 8.
#[tokio::test]
async fn a_token_without_a_lifetime_is_used_until_the_api_rejects_it() {
    for unknown in [ExpiresIn::Absent, ExpiresIn::Json(Value::Null)] {
        let builder = World::builder().authorization_server(|config| config.expires_in = unknown);
        let world = builder.settled().await;
        let server = &world.authorization_server;
        assert_eq!(
            world.record()["expires_at"],
            Value::Null,
            "a token without a lifetime has an expiry"
        );
        world.clock.advance(Duration::from_secs(300 * 24 * 3600));
        world.get("/").await.assert_ok();
        server.assert_token_requests(
            1,
            "a token without a lifetime was replaced before it was rejected",
        );
        server.tokens().revoke_all_access_tokens();
        world.get("/").await.assert_ok();
        server.assert_token_requests(2, "the rejected token was not replaced by one token request");
        world.assert_stored(2);
        assert_eq!(
            world.record()["expires_at"],
            Value::Null,
            "a token without a lifetime has an expiry"
        );
    }
}

#[tokio::test]
async fn a_configured_lifetime_stands_in_for_one_that_the_answer_lacks() {
    let builder = World::builder()
        .credential("lifetime = \"10m\"")
        .authorization_server(|config| config.expires_in = ExpiresIn::Absent);
    let world = builder.settled().await;
    world.clock.advance(Duration::from_secs(600));
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(2, "the configured lifetime did not end the token");
    world.assert_stored(2);
}

/// Row 11.
#[tokio::test]
async fn the_token_type_may_be_written_in_any_case_or_not_at_all() {
    for kind in [Some("bearer"), Some("BEARER"), Some("Bearer"), None] {
        let builder = World::builder()
            .authorization_server(|config| config.token_type = kind.map(str::to_owned));
        let world = builder.start().await;
        world.get("/").await.assert_status(200, format!("{kind:?}"));
        let token = world.authorization_server.tokens().newest_access_token().unwrap();
        let seen = world.origin.requests()[0].header("authorization").unwrap().to_owned();
        assert_eq!(
            seen,
            format!("Bearer {token}"),
            "{kind:?}: the scheme or the token in Authorization is another one"
        );
        world.authorization_server.assert_token_requests(1, format!("{kind:?}"));
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
    world.origin.assert_requests(0, "a token of another type was sent");
    world
        .authorization_server
        .assert_token_requests(1, "a token of another type was asked for again");
    assert_eq!(
        world.record()["refresh_token"],
        "rt-salvaged",
        "the refresh token of the unusable answer was not kept"
    );
    assert_eq!(world.record()["access_token"], Value::Null, "a token of another type was stored");
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
    world.get("/").await.assert_ok();
    let failed = || matches!(world.status().condition, Condition::Failing(_));
    eventually("the unusable answer has been read", failed).await;
    assert_eq!(
        world.record()["refresh_token"],
        salvaged,
        "the refresh token of the unusable answer was not kept"
    );

    server.tokens().revoke_all_access_tokens();
    world.clock.advance(2 * MINUTE);
    world.get("/").await.assert_ok();
    server.assert_token_requests(
        3,
        "the rejection was not healed by one token request with the salvaged refresh token",
    );
    world.assert_newest_refresh_token_is_stored();
}

/// Row 15.
#[tokio::test]
async fn a_maintenance_page_with_status_200_is_retried() {
    let world = World::new().await;
    for _ in 0..2 {
        world.authorization_server.enqueue(TokenBehaviour::html(200, "<html>soon</html>"));
    }
    world.get("/").await.assert_ok();
    world.authorization_server.assert_token_requests(
        3,
        "a maintenance page was not followed by another attempt each time",
    );
    world.assert_stored(1);
}

/// Row 17.
#[tokio::test]
async fn a_refresh_token_stays_in_use_if_the_answer_has_none() {
    for answered in [None, Some(json!("")), Some(Value::Null)] {
        let builder = World::builder().authorization_server(|config| {
            config.rotation = Rotation::Omit;
            config.extra.extend(answered.clone().map(|value| ("refresh_token".to_owned(), value)));
        });
        let world = builder.settled().await;
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
        let requests = world.authorization_server.requests();
        let sent: Vec<_> = requests.iter().map(|request| request.param("refresh_token")).collect();
        let seed = world.authorization_server.current_refresh_token();
        assert_eq!(
            sent,
            [Some(&*seed), Some(&*seed)],
            "{answered:?}: the refresh token did not stay in use"
        );
        world.assert_stored(2);
    }
}

/// Row 23.
#[tokio::test]
async fn an_answer_that_was_reset_is_asked_for_again_within_the_shortest_grace() {
    let builder = World::builder().authorization_server(|config| {
        let on_reuse = OnReuse::RevokeFamily;
        config.rotation = Rotation::Rotate { grace: Duration::from_secs(5), on_reuse };
    });
    let world = builder.settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    server.enqueue(TokenBehaviour::DropAfterCommit);
    world.get("/").await.assert_ok();
    let requests = server.requests();
    assert_eq!(requests.len(), 3, "the lost answer was not followed by one more token request");
    assert_eq!(
        requests[1].param("refresh_token"),
        requests[2].param("refresh_token"),
        "another refresh token was presented after the lost answer"
    );
    assert!(
        requests[2].at - requests[1].at < Duration::from_secs(5),
        "the lost answer was asked for again after the grace period"
    );
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
    world.get("/").await.assert_ok();
    assert_eq!(world.tokens_seen(), [access_token], "the new token was not used");
    assert_eq!(
        world.record()["refresh_token"],
        current,
        "the superseded refresh token was stored over the newest one"
    );
}

/// Row 32.
#[tokio::test]
async fn a_provider_may_start_to_rotate() {
    let builder = World::builder().authorization_server(|config| config.rotation = Rotation::Keep);
    let world = builder.settled().await;
    let server = &world.authorization_server;
    let seed = server.current_refresh_token();
    for generation in 2..=6 {
        if generation == 4 {
            server.set_rotation(Rotation::STRICT);
        }
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
        assert_eq!(
            server.token_requests(),
            usize::try_from(generation).unwrap(),
            "generation {generation}: each expiry has to cost one token request"
        );
        world.assert_stored(generation);
        assert_eq!(
            world.record()["refresh_token"] == seed,
            generation < 4,
            "generation {generation}: the record does not follow the server's rotation"
        );
    }
}

/// Row 38.
#[tokio::test]
async fn requests_wait_for_a_server_that_is_down_for_a_moment() {
    let world = World::new().await;
    let server = &world.authorization_server;
    for _ in 0..3 {
        server.enqueue(TokenBehaviour::html(503, "<html>Service Unavailable</html>"));
    }
    assert_all(&world.get_many(20).await, 200);
    let times: Vec<Instant> = server.requests().iter().map(|request| request.at).collect();
    assert_eq!(times.len(), 4, "the requests have to share one attempt and its three repetitions");
    for pair in times.windows(2) {
        assert!(
            pair[1] - pair[0] >= Duration::from_millis(400),
            "the attempts came too soon after each other: {:?}",
            pair[1] - pair[0]
        );
    }
    world.assert_stored(1);
}

/// Row 36.
#[tokio::test]
async fn a_retry_after_is_obeyed() {
    let world = World::new().await;
    let server = &world.authorization_server;
    let throttled = TokenBehaviour::json(429, json!({"error": "too_many_requests"}));
    server.enqueue(throttled.with_header("retry-after", "120"));
    for _ in 0..3 {
        let response = world.client().get(world.http("/")).send().await.unwrap();
        assert_eq!(
            response.status(),
            503,
            "a request was served although the server asked to wait"
        );
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(
            (100..=120).contains(&wait),
            "the client is told another time than the server's: {wait}"
        );
    }
    server.assert_token_requests(1, "the server was asked before the time that it had named");
    world.clock.advance(Duration::from_secs(121));
    world.get("/").await.assert_ok();
    server.assert_token_requests(
        2,
        "the server was not asked again once after the time that it had named",
    );
    world.assert_stored(1);
}

/// Row 42.
#[tokio::test]
async fn a_token_request_does_not_follow_a_redirect() {
    let world = World::new().await;
    let elsewhere = OriginServer::start(Default::default()).await;
    let redirect = TokenBehaviour::json(307, json!({}));
    world.authorization_server.enqueue(redirect.with_header("location", &elsewhere.url("/token")));
    world.get("/").await.assert_no_token();
    world
        .authorization_server
        .assert_token_requests(1, "the redirected token request was repeated");
    assert_eq!(elsewhere.requests().len(), 0, "the token request followed the redirect");
}

// ----- requests -----

#[tokio::test]
async fn a_refresh_posts_a_form_with_the_client_in_it() {
    let world = World::new().await;
    world.get("/").await.assert_ok();
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
    assert_eq!(form, expected, "the form has other parameters");
    assert_eq!(
        request.headers.get("authorization"),
        None,
        "the client secret was also sent as a header"
    );
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
        world.get("/").await.assert_status(200, word);
        let request = &world.authorization_server.requests()[0];
        assert_eq!(
            request.basic(),
            Some((name.to_owned(), password.to_owned())),
            "{word}: the client was encoded differently"
        );
        assert_eq!(
            (request.param("client_id"), request.param("client_secret")),
            (None, None),
            "{word}: the client was also sent in the form"
        );
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
    server.assert_token_requests(
        2,
        "twenty requests with an expired token have to share one token request",
    );
    world.clock.advance(MINUTE);
    server.tokens().revoke_all_access_tokens();
    assert_all(&world.get_many(20).await, 200);
    server.assert_token_requests(3, "the revoked token was not replaced by one token request");
    for request in server.requests() {
        assert_eq!(
            request.param("grant_type"),
            Some("client_credentials"),
            "another grant type was used"
        );
        assert_eq!(request.param("scope"), Some("a b"), "the scope was not sent");
        assert_eq!(request.param("refresh_token"), None, "a refresh token was sent");
    }
    assert_eq!(world.record()["refresh_token"], Value::Null, "a refresh token was stored");
    assert_eq!(world.record()["generation"], 3, "the third token has another number");
    world.restart().await;
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(3, "the stored token was not used after the restart");
}

// ----- support -----

fn time(value: &Value) -> SystemTime {
    humantime::parse_rfc3339(value.as_str().unwrap()).unwrap()
}
