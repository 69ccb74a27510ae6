//! E11: answers of gateways while their token endpoint is down. E19: temporary refusals and the margin.

use std::time::Duration;

use bearerd_test_support::{AuthorizationServerConfig, ExpiresIn, TokenBehaviour};
use serde_json::json;

use super::super::world::{HOURS, MINUTE, TO_MARGIN, eventually};
use super::verdicts::{refusal, short};
use super::{QUARTER, at_rest, back_within, each, look, presented, state};

// ----- E11 -----

/// Answers of gateways while their token endpoint is down.
fn gateway_answers() -> Vec<TokenBehaviour> {
    let express = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                   <title>Error</title>\n</head>\n<body>\n<pre>Cannot POST /oauth/refresh_token</pre>\n\
                   </body>\n</html>\n";
    let nginx = |title: &str| {
        format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1>\
             </center>\r\n<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"
        )
    };
    let path = "/oauth/refresh_token";
    vec![
        TokenBehaviour::html(404, express),
        TokenBehaviour::html(404, &nginx("404 Not Found")),
        TokenBehaviour::html(400, &nginx("400 Bad Request")),
        TokenBehaviour::html(405, &nginx("405 Not Allowed")),
        TokenBehaviour::html(403, &nginx("403 Forbidden")),
        TokenBehaviour::html(401, &nginx("401 Authorization Required")),
        TokenBehaviour::html(400, "<html><body>invalid_grant: refresh token expired</body></html>"),
        refusal(
            404,
            json!({"statusCode": 404, "message": format!("Cannot POST {path}"),
            "error": "Not Found"}),
        ),
        refusal(
            404,
            json!({"timestamp": "2026-01-01T00:00:00Z", "status": 404, "error": "Not Found",
            "path": path}),
        ),
        refusal(404, json!({"message": format!("no Route matched with those values: {path}")})),
        refusal(410, json!({"message": "Gone"})),
        refusal(400, json!({})),
        TokenBehaviour::Respond { status: 404, headers: vec![], body: bytes::Bytes::new() },
        TokenBehaviour::Respond { status: 400, headers: vec![], body: bytes::Bytes::new() },
    ]
}

#[tokio::test]
async fn e11_a_gateways_page_never_ends_a_grant_and_heals_by_itself() {
    let named = |page: TokenBehaviour| (format!("{page:?}"), page);
    each(gateway_answers().into_iter().map(named), |case, page| async move {
        let path = |config: &mut AuthorizationServerConfig| {
            config.token_path = "/oauth/refresh_token".to_owned();
        };
        let world = short().authorization_server(path).settled().await;
        let server = &world.authorization_server;
        server.decide_by(move |_| page.clone());
        world.clock.advance(HOURS);
        for _ in 0..10 {
            look(&world).await.assert_status(503, &case);
            assert!(
                !state(&world).starts_with("needs_login"),
                "{case}: a failure that passes counts as the end of the grant: {}",
                state(&world)
            );
            world.clock.advance(QUARTER);
        }
        server.decide_by(|_| TokenBehaviour::Normal);
        let back = back_within(&world, QUARTER, MINUTE).await;
        assert!(back.is_some(), "{case}: it did not work again in time: {}", state(&world));
        assert_eq!(
            server.reuse_count(),
            0,
            "{case}: a refresh token was presented after it had been replaced"
        );
    })
    .await;
}

/// A login page or a maintenance page with status 200, which has consumed nothing.
#[tokio::test]
async fn e11_a_page_with_status_200_or_502_is_waited_out() {
    each([200, 502].map(|status| (status, status)), |_, status| async move {
        let world = short().settled().await;
        let server = &world.authorization_server;
        let old = server.current_refresh_token();
        let page = "<!doctype html><html><title>Back soon</title><p>Maintenance</p></html>";
        server.decide_by(move |_| TokenBehaviour::html(status, page));
        world.clock.advance(HOURS);
        for _ in 0..4 {
            look(&world).await.assert_status(503, status);
            assert!(
                !state(&world).starts_with("needs_login"),
                "{status}: a failure that passes counts as the end of the grant: {}",
                state(&world)
            );
            world.clock.advance(QUARTER);
        }
        assert!(presented(&world, &old) >= 4, "{status}: nobody looks any more");
        server.decide_by(|_| TokenBehaviour::Normal);
        let back = back_within(&world, QUARTER, MINUTE).await;
        assert!(back.is_some(), "{status}: it did not work again in time: {}", state(&world));
    })
    .await;
}

/// The backoff grows while the page stays.
#[tokio::test]
async fn e11_a_page_with_status_200_is_retried_with_backoff() {
    let world = short().settled().await;
    let server = &world.authorization_server;
    server.decide_by(|_| TokenBehaviour::html(200, "<html><body>Sign in</body></html>"));
    world.clock.advance(HOURS);
    look(&world).await;
    let first = server.token_requests();
    assert!(first <= 1 + 4, "{first} requests at once");
    for _ in 0..60 {
        world.clock.advance(MINUTE);
        look(&world).await;
    }
    let later = server.token_requests() - first;
    assert!((4..=30).contains(&later), "{later} looks in an hour");
}

// ----- E19 -----

#[tokio::test]
async fn e19_refusals_that_pass_leave_the_margin_as_it_is() {
    let lifetime = Duration::from_secs(36_000);
    // Within the margin, of which up to a fifth is taken off at random.
    let before_the_end = MINUTE * 90;
    let refusals = [
        (400, "invalid_request", "something is odd"),
        (403, "access_denied", "not now"),
        (400, "unknown_error", "please retry"),
    ];
    each(refusals.map(|it| (it.1, it)), |_, (status, error, text)| async move {
        let long = move |config: &mut AuthorizationServerConfig| {
            config.expires_in = ExpiresIn::Seconds(lifetime.as_secs());
            config.access_token_lifetime = lifetime;
        };
        let world =
            short().authorization_server(long).credential("margin = \"2h\"").settled().await;
        let server = &world.authorization_server;
        // The timer also makes requests when the clock moves, so each answer is enqueued before that.
        server.decide_by(move |_| TokenBehaviour::error(status, error, Some(text)));
        world.clock.advance(lifetime - MINUTE - before_the_end);
        for failed in 1..=3 {
            world.get("/").await.assert_ok();
            eventually("it is refused", || server.token_requests() > failed).await;
            at_rest(&world).await;
            if failed == 3 {
                server.decide_by(|_| TokenBehaviour::Normal);
            }
            world.clock.advance(QUARTER);
        }
        world.get("/").await.assert_ok();
        eventually("it is replaced", || world.status().generation.0 == 2).await;
        world.clock.advance(lifetime - before_the_end);
        world.get("/").await.assert_ok();
        let within_the_margin = || world.status().generation.0 == 3;
        eventually("the next one is replaced in its margin", within_the_margin).await;
    })
    .await;
}

/// The default margin, which is worked out from the lifetime.
#[tokio::test]
async fn e19_the_default_margin_is_the_same_after_a_refusal() {
    let world = short().settled().await;
    let server = &world.authorization_server;
    server.decide_by(|_| TokenBehaviour::error(400, "invalid_request", None));
    world.clock.advance(TO_MARGIN);
    for failed in 1..=3 {
        look(&world).await;
        eventually("it is refused", || server.token_requests() > failed).await;
        at_rest(&world).await;
        if failed == 3 {
            server.decide_by(|_| TokenBehaviour::Normal);
        }
        world.clock.advance(QUARTER);
    }
    assert!(
        back_within(&world, QUARTER, MINUTE).await.is_some(),
        "the token was not refreshed within a quarter of an hour: {}",
        state(&world)
    );
    let generation = world.status().generation.0;
    world.clock.advance(MINUTE + TO_MARGIN);
    world.get("/").await.assert_ok();
    eventually("it is replaced", || world.status().generation.0 > generation).await;
}
