//! Behaviours of one proxy that the tests by subject do not show.

use std::time::Duration;

use bearerd::token::Condition;
use bearerd_test_support::{ExpiresIn, TokenBehaviour};
use bytes::Bytes;
use serde_json::{Value, json};

use super::super::world::{HOURS, MINUTE, World, assert_all, eventually};

/// An answer with this body; the authorization server only counts the request.
fn answer(content_type: &str, body: impl Into<Bytes>) -> TokenBehaviour {
    let headers = vec![("content-type".to_owned(), content_type.to_owned())];
    TokenBehaviour::Respond { status: 200, headers, body: body.into() }
}

/// Status and `Retry-After` of one request.
async fn ask(world: &World) -> (u16, Option<u64>) {
    let response = world.client().get(world.http("/")).send().await.unwrap();
    let wait = response.headers().get("retry-after");
    (response.status().as_u16(), wait.map(|wait| wait.to_str().unwrap().parse().unwrap()))
}

const MANY: usize = 200;

/// Row 5: 200 tokens with one expiry are not replaced in one second, and each of them once.
#[tokio::test]
async fn row_05_credentials_that_expire_together_refresh_one_by_one() {
    let sections: String = (1..MANY)
        .map(|number| {
            format!(
                "[credential.c{number}]\nhosts = [\"@host@\"]\npaths = [\"/c{number}/\"]\n\
                 token_url = \"@token_url@\"\nclient_id = \"test-client\"\n\
                 client_secret = {{ file = \"secret\" }}\ngrant = \"client_credentials\"\n"
            )
        })
        .collect();
    let world = World::plain()
        .without_seed()
        .credential("grant = \"client_credentials\"\npaths = [\"/c0/\"]")
        .sections(&sections.replace("grant =", "allow_http = true\ngrant ="))
        // 400 records to be synced would take longer than the test.
        .sections("[store]\nurl = \"memory:\"")
        .start()
        .await;
    let server = &world.authorization_server;
    let client = world.client();
    let ask_all = || async {
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..MANY {
            requests.spawn(client.get(world.http(&format!("/c{number}/"))).send());
        }
        for response in requests.join_all().await {
            assert_eq!(response.unwrap().status(), 200, "a credential got no token");
        }
    };
    ask_all().await;
    assert_eq!(server.token_requests(), MANY, "each credential has to make one token request");
    // The margin of an hour is 300 s; a tenth of it is 30 s.
    let credentials = world.app().credentials();
    let near_expiry = || {
        let slots = credentials.all().iter().flat_map(|credential| credential.statuses());
        slots.filter(|status| status.condition == Condition::NearExpiry).count()
    };
    world.clock.advance(Duration::from_secs(3600 - 300 + 15));
    let early = near_expiry();
    world.clock.advance(Duration::from_secs(30));
    let late = near_expiry();
    assert!((1..MANY / 2).contains(&early), "after 15 s {early} of the tokens are near expiry");
    assert!((MANY / 2..MANY).contains(&late), "after 45 s {late} of the tokens are near expiry");
    ask_all().await;
    eventually("those that were due are asked for", || server.token_requests() >= MANY + late)
        .await;
    world.clock.advance(Duration::from_secs(20));
    ask_all().await;
    eventually("the others as well", || server.token_requests() >= 2 * MANY).await;
    let refreshing = || {
        let mut slots = credentials.all().iter().flat_map(|credential| credential.statuses());
        slots.any(|status| status.condition != Condition::Fresh)
    };
    eventually("no refresh is under way", || !refreshing()).await;
    assert_eq!(server.token_requests(), 2 * MANY, "each credential has to be refreshed once");
}

/// Row 9: an absurd lifetime counts as unknown and causes no second token request.
#[tokio::test]
async fn row_09_an_absurd_lifetime_does_not_cause_a_loop_of_refreshes() {
    for lifetime in [json!(0), json!(-1), json!("abc"), json!(1e18), json!([3600]), json!("")] {
        let builder = World::builder().authorization_server(|config| {
            config.expires_in = ExpiresIn::Json(lifetime.clone());
        });
        let world = builder.settled().await;
        let server = &world.authorization_server;
        for _ in 0..5 {
            assert_all(&world.get_many(10).await, 200);
            world.clock.advance(Duration::from_secs(10));
        }
        server.assert_token_requests(1, &lifetime);
        server.tokens().revoke_all_access_tokens();
        assert_all(&world.get_many(10).await, 200);
        server.assert_token_requests(2, &lifetime);
        world.assert_stored(2);
    }
}

/// Row 13.
#[tokio::test]
async fn row_13_an_answer_is_read_by_its_content_and_not_by_its_content_type() {
    for kind in ["application/json", "text/plain", "text/html; charset=utf-8", ""] {
        for mark in ["", "\u{feff}"] {
            reads(kind, |access_token, refresh_token| {
                let members = json!({"access_token": access_token, "expires_in": 3600,
                    "refresh_token": refresh_token, "token_type": "Bearer"});
                format!("{mark}{members}")
            })
            .await;
        }
    }
    for kind in ["application/x-www-form-urlencoded", "text/plain", "text/html"] {
        reads(kind, |access_token, refresh_token| {
            let rest = "expires_in=3600&scope=a+b&token_type=bearer";
            format!("access_token={access_token}&{rest}&refresh_token={refresh_token}")
        })
        .await;
    }
}

/// Answers a refresh with a body made of new tokens and asserts that it is read.
async fn reads(kind: &str, body: impl FnOnce(&str, &str) -> String) {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let access_token = server.tokens().issue_access_token(HOURS);
    let body = body(&access_token, "rt-2");
    server.enqueue(answer(kind, body.clone()));
    world.clock.advance(HOURS);
    world.get("/").await.assert_status(200, format!("{kind}: {body}"));
    assert_eq!(
        world.tokens_seen(),
        [access_token],
        "{kind}: the API was sent another token: {body}"
    );
    server.assert_token_requests(2, format!("{kind}: {body}"));
    let record = world.record();
    assert_eq!(
        (&record["generation"], &record["refresh_token"]),
        (&json!(2), &json!("rt-2")),
        "{kind}: the answer was stored differently"
    );
}

/// Row 36: every way to say how long to wait.
#[tokio::test]
async fn row_36_every_form_of_retry_after_is_obeyed() {
    let soon = |world: &World, seconds| world.clock.now() + Duration::from_secs(seconds);
    let epoch = |world: &World, seconds| {
        let since = soon(world, seconds).duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs().to_string()
    };
    for (case, wait) in [
        ("seconds", 120),
        ("date", 120),
        ("none", 60),
        ("text", 420),
        ("epoch", 120),
        ("delta", 120),
    ] {
        let world = World::new().await;
        let server = &world.authorization_server;
        let throttled = TokenBehaviour::error(429, "too_many_requests", None);
        server.enqueue(match case {
            "seconds" => throttled.with_header("retry-after", "120"),
            "date" => {
                throttled.with_header("retry-after", &httpdate::fmt_http_date(soon(&world, 120)))
            }
            "text" => TokenBehaviour::error(429, "slow", Some("Try again in 420 seconds")),
            "epoch" => throttled.with_header("x-ratelimit-reset", &epoch(&world, 120)),
            "delta" => throttled.with_header("x-ratelimit-reset", "120"),
            _ => throttled,
        });
        is_left_alone(&world, wait, case).await;
    }
}

/// Row 37.
#[tokio::test]
async fn row_37_a_throttle_without_429_pauses_refreshes_for_a_minute() {
    for (status, error, text) in [
        (400, "invalid_request", "has exceeded the rate limit of 10 tokens/28800 seconds"),
        (400, "Access Denied", "You have made too many requests continuously. Please try again"),
    ] {
        let world = World::new().await;
        world.authorization_server.enqueue(TokenBehaviour::error(status, error, Some(text)));
        is_left_alone(&world, 60, error).await;
        world.assert_stored(1);
    }
}

/// No token request is made before `wait` has passed, and one afterwards.
async fn is_left_alone(world: &World, wait: u64, case: &str) {
    let server = &world.authorization_server;
    let (status, retry_after) = ask(world).await;
    assert_eq!(status, 503, "{case}: a request was served while the server throttles");
    assert!(
        (wait - 10..=wait).contains(&retry_after.unwrap()),
        "{case}: the client is told another time than the server's: {retry_after:?}"
    );
    world.clock.advance(Duration::from_secs(wait - 10));
    assert_eq!(ask(world).await.0, 503, "{case}: a request was served before the server's time");
    server.assert_token_requests(1, case);
    world.clock.advance(Duration::from_secs(11));
    assert_eq!(ask(world).await.0, 200, "{case}: a request was refused after the server's time");
    server.assert_token_requests(2, case);
}

/// Row 40: whatever fails, fails with 500.
#[tokio::test]
async fn row_40_a_server_that_only_knows_500_is_asked_about_once_a_minute() {
    let world = World::new().await;
    let server = &world.authorization_server;
    let seed = server.current_refresh_token();
    let trouble = || TokenBehaviour::error(500, "oops", None);
    for _ in 0..60 {
        server.enqueue(trouble());
    }
    let longest = Duration::from_secs(60);
    for _ in 0..20 {
        let (status, retry_after) = ask(&world).await;
        assert_eq!(status, 503, "a request was served although the server fails");
        assert!(
            retry_after.is_some_and(|wait| wait <= longest.as_secs()),
            "the client is told to wait for more than a minute: {retry_after:?}"
        );
        world.clock.advance(MINUTE);
    }
    // Each attempt may be repeated once, in case its answer was lost, and the first request sees a few
    // of them through while it may wait.
    assert!(
        (20..=60).contains(&server.token_requests()),
        "the failing server got {} token requests in twenty minutes",
        server.token_requests()
    );
    assert_eq!(
        world.record()["terminal"],
        Value::Null,
        "errors of the server count as the end of the grant"
    );
    assert!(
        server.requests().iter().all(|sent| sent.param("refresh_token") == Some(&*seed)),
        "another refresh token than the seed was presented"
    );
    assert!(
        server.refresh_token_is_current(&seed),
        "the seed was used up by a request that failed"
    );
}

/// Row 41.
#[tokio::test]
async fn row_41_a_wrong_client_secret_does_not_end_the_grant_and_a_reload_fixes_it() {
    let world = World::new().await;
    let server = &world.authorization_server;
    let seed = server.current_refresh_token();
    world.write_client_secret("wrong");
    world.reload().await;
    for _ in 0..10 {
        assert_all(&world.get_many(10).await, 503);
        world.clock.advance(Duration::from_secs(30));
    }
    assert!(
        (1..=6).contains(&server.token_requests()),
        "the wrong client secret has cost {} token requests",
        server.token_requests()
    );
    assert_eq!(
        world.record()["terminal"],
        Value::Null,
        "a wrong client secret counts as the end of the grant"
    );
    let before = server.token_requests();
    world.write_client_secret("test-client-secret");
    world.reload().await;
    world.get("/").await.assert_ok();
    assert_eq!(
        server.token_requests(),
        before + 1,
        "the right client secret has to cost one token request"
    );
    assert_eq!(
        server.requests()[before].param("refresh_token"),
        Some(&*seed),
        "another refresh token than the seed was presented"
    );
    server.assert_no_reuse();
}
