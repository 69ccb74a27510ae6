//! Refusals of token endpoints: a dead grant, a temporary failure, or neither.

use bearerd_test_support::TokenBehaviour;
use serde_json::{Value, json};

use super::super::stopwatch::Stopwatch;
use super::super::world::{HOURS, MINUTE, World, WorldBuilder};
use super::{
    QUARTER, SECOND, SHORT_WAIT, assert_keeps_newest, assert_state, at_rest, back_within, each,
    keeps_newest, look, operator_refreshes, state, with_bootstrap, with_operator,
};

pub(super) fn refusal(status: u16, body: Value) -> TokenBehaviour {
    TokenBehaviour::json(status, body)
}

fn invalid_grant(text: &str) -> TokenBehaviour {
    TokenBehaviour::error(400, "invalid_grant", Some(text))
}

pub(super) fn short() -> WorldBuilder {
    World::builder().sections(SHORT_WAIT)
}

// ----- E12 -----

#[tokio::test]
async fn e12_one_wrong_invalid_grant_is_healed_by_an_operator_alone() {
    let mut world = with_operator(short()).await;
    world.authorization_server.enqueue(TokenBehaviour::error(400, "invalid_grant", None));
    world.clock.advance(HOURS);
    look(&world).await.assert_no_token();
    assert_state(&world, "needs_login (revoked)");
    for _ in 0..2 {
        world.restart().await;
        look(&world).await.assert_no_token();
        world.clock.advance(HOURS);
    }
    let server = &world.authorization_server;
    server.assert_token_requests(2, "dead stays dead without requests");
    let (status, said) = operator_refreshes(&world).await;
    assert_eq!(status, 200, "the operator's refresh failed: {said}");
    world.get("/").await.assert_ok();
    server.assert_token_requests(3, "the operator's refresh has to cost one token request");
    server.assert_no_reuse();
    assert_keeps_newest(&world);
}

#[tokio::test]
async fn e12_an_operators_attempt_that_is_refused_changes_nothing_and_costs_one_request() {
    let world = with_operator(short()).await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    world.clock.advance(HOURS);
    look(&world).await.assert_no_token();
    for attempt in 1..=3 {
        assert_ne!(
            operator_refreshes(&world).await.0,
            200,
            "attempt {attempt}: an operator's refresh succeeded with a revoked refresh token"
        );
        at_rest(&world).await;
        assert_eq!(
            server.token_requests(),
            2 + attempt,
            "attempt {attempt} has to cost one token request"
        );
        assert_state(&world, "needs_login (revoked)");
    }
}

/// An operator's refresh does not wait for the end of a backoff.
#[tokio::test]
async fn e12_an_operators_attempt_needs_no_pause_to_end() {
    let errors = [(401, "invalid_client"), (400, "invalid_scope"), (404, "not_found")];
    each(errors.map(|error| (error.1, error)), |_, (status, error)| async move {
        let world = with_operator(short()).await;
        let server = &world.authorization_server;
        let trouble = TokenBehaviour::error(status, error, None);
        server.decide_by(move |_| trouble.clone());
        world.clock.advance(HOURS);
        for _ in 0..3 {
            look(&world).await;
            world.clock.advance(QUARTER);
        }
        look(&world).await;
        server.decide_by(|_| TokenBehaviour::Normal);
        let (status, said) = operator_refreshes(&world).await;
        assert_eq!(status, 200, "{error}: the operator's refresh failed: {said}");
        world.get("/").await.assert_status(200, error);
    })
    .await;
}

#[tokio::test]
async fn e12_an_operator_does_not_overrule_a_servers_retry_after() {
    let world = with_operator(short()).await;
    let server = &world.authorization_server;
    server.enqueue(refusal(429, json!({})).with_header("retry-after", "600"));
    world.clock.advance(HOURS);
    look(&world).await.assert_no_token();
    let (status, said) = operator_refreshes(&world).await;
    assert_ne!(status, 200, "an operator's refresh overruled the server's Retry-After: {said}");
    server.assert_token_requests(
        2,
        "an operator's refresh was sent although the server asked to wait",
    );
    world.clock.advance(SECOND * 601);
    assert_eq!(
        operator_refreshes(&world).await.0,
        200,
        "the operator's refresh failed after the time that the server asked for"
    );
}

// ----- E13 -----

#[tokio::test]
async fn e13_an_invalid_grant_that_calls_itself_temporary_is_retried() {
    let texts = [
        "token request is already being processed",
        "Another refresh is in progress, please try again",
        "Temporarily unavailable",
        "Rate limit exceeded for this refresh token",
        "Invalid JWT: Token must be a short-lived token; check your iat and exp values",
        "assertion is not yet valid (nbf)",
        "Invalid JWT Signature: iat is in the future, check your clock",
        "ip restricted",
        "user account is locked",
        "invalid assertion issuer",
    ];
    each(texts.map(|text| (text, text)), |_, text| async move {
        let world = short().settled().await;
        let server = &world.authorization_server;
        for _ in 0..2 {
            server.enqueue(invalid_grant(text));
        }
        world.clock.advance(HOURS);
        look(&world).await;
        assert!(
            !state(&world).starts_with("needs_login"),
            "{text}: a failure that passes counts as the end of the grant: {}",
            state(&world)
        );
        let back = back_within(&world, QUARTER * 2, MINUTE / 2).await;
        let back = back.unwrap_or_else(|| panic!("{text}: {}", state(&world)));
        if text.contains("processed") || text.contains("try again") {
            assert!(back <= MINUTE * 3, "{text}: the token was not refreshed in time: {back:?}");
        }
        assert!(keeps_newest(&world), "{text}: the newest refresh token is not on the disk");
    })
    .await;
}

#[tokio::test]
async fn e13_an_invalid_grant_without_such_a_text_is_dead_at_once() {
    let texts = [
        "Token is not active",
        "The refresh token is invalid, expired or revoked",
        "Token has been expired or revoked.",
        "AADSTS70008: The refresh token has expired due to inactivity. Send a new interactive request",
        "Session not active",
        "unknown or revoked; the user has to log in again",
        // These texts contain other words: rate, iat, exp, temp.
        "Please generate a new refresh token",
        "The appropriate consent was withdrawn",
        "Consent expired; use another template to integrate this app",
    ];
    each(texts.map(|text| (text, text)), |_, text| async move {
        let world = short().settled().await;
        world.authorization_server.enqueue(invalid_grant(text));
        world.clock.advance(HOURS);
        look(&world).await.assert_status(503, text);
        assert!(
            state(&world).starts_with("needs_login"),
            "{text}: a dead grant was not recognised: {}",
            state(&world)
        );
        world.clock.advance(HOURS);
        look(&world).await.assert_status(503, text);
        world.authorization_server.assert_token_requests(2, text);
    })
    .await;
}

// ----- E14 -----

/// Answers by which providers report a dead refresh token without `invalid_grant`.
fn dialects_of_death() -> Vec<(String, (u16, Value))> {
    let described = |code: &str, text: &str| json!({"error": code, "error_description": text});
    let dialects = [
        (401, described("invalid_token", "Invalid refresh token")),
        (403, described("unauthorized_client", "refresh_token is invalid")),
        (
            400,
            json!({"error": {"message": "Error validating access token: the session is invalid",
                "type": "OAuthException", "code": 190}}),
        ),
        (400, described("invalid_request", "The refresh token is expired")),
        (400, described("INVALID_GRANT", "")),
        (400, described("expired_token", "the token is over")),
        (400, json!({"error": {"code": "invalid_grant", "message": "gone"}})),
        (
            401,
            json!({"errors": [{"errorType": "invalid_grant", "message": "Refresh token invalid"}]}),
        ),
        (400, json!({"errorCode": "invalid_grant", "reason": "revoked"})),
        (400, json!({"message": "refresh token not found"})),
        (
            400,
            json!({"code": "invalid_request", "field": "refresh_token",
            "message": "the value is unknown"}),
        ),
    ];
    dialects.map(|dialect| (dialect.1.to_string(), dialect)).to_vec()
}

#[tokio::test]
async fn e14_a_dead_refresh_token_is_dead_in_every_dialect() {
    each(dialects_of_death(), |_, (status, body)| async move {
        let world = short().settled().await;
        world.authorization_server.enqueue(refusal(status, body.clone()));
        world.clock.advance(HOURS);
        look(&world).await.assert_status(503, &body);
        assert_eq!(state(&world), "needs_login (revoked)", "the state is another one: {body}");
        world.clock.advance(HOURS);
        look(&world).await;
        world.authorization_server.assert_token_requests(2, &body);
    })
    .await;
}

#[tokio::test]
async fn e14_a_bootstrap_heals_every_dialect_within_the_request() {
    each(dialects_of_death(), |_, (status, body)| async move {
        let world = with_bootstrap(World::builder()).settled().await;
        let server = &world.authorization_server;
        server.enqueue(refusal(status, body.clone()));
        world.clock.advance(HOURS);
        let asked = Stopwatch::start();
        world.get("/").await.assert_status(200, &body);
        assert!(asked.elapsed() < SECOND * 2, "{body}: it took too long: {:?}", asked.elapsed());
        server.assert_token_requests(3, &body);
    })
    .await;
}

/// Refusals that mention tokens and grants but do not report a dead refresh token.
#[tokio::test]
async fn e14_what_is_not_about_this_refresh_token_does_not_end_it() {
    let described = |code: &str, text: &str| json!({"error": code, "error_description": text});
    let refusals = [
        (401, described("invalid_client", "Invalid client secret")),
        (401, described("invalid_client", "The client is not valid for this refresh token")),
        (400, described("invalid_request", "Missing required parameter: refresh_token")),
        (403, described("unauthorized_client", "client may not use grant type refresh_token")),
        (400, described("unsupported_grant_type", "grant type refresh_token is not enabled")),
        (400, described("invalid_scope", "unknown scope")),
        (400, described("unknown_error", "An unknown error occurred, please retry later")),
        (401, json!({"message": "Unauthorized"})),
        (403, json!({"message": "Forbidden"})),
        (400, json!({"error": {"code": 4, "message": "Application request limit reached"}})),
    ];
    let named = |refusal: (u16, Value)| (refusal.1.to_string(), refusal);
    each(refusals.map(named), |_, (status, body)| async move {
        let world = short().settled().await;
        let server = &world.authorization_server;
        let answer = refusal(status, body.clone());
        server.decide_by(move |_| answer.clone());
        world.clock.advance(HOURS);
        for _ in 0..5 {
            look(&world).await;
            assert!(
                !state(&world).starts_with("needs_login"),
                "{body}: a failure that passes counts as the end of the grant: {}",
                state(&world)
            );
            world.clock.advance(QUARTER);
        }
        server.decide_by(|_| TokenBehaviour::Normal);
        assert!(
            back_within(&world, QUARTER, MINUTE).await.is_some(),
            "{body}: it did not work again in time: {}",
            state(&world)
        );
    })
    .await;
}
