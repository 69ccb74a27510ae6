//! Outages of different kinds, one after the other: how soon everything works again.

use std::time::Duration;

use bearerd_test_support::TokenBehaviour;
use serde_json::json;

use super::super::world::{HOURS, MINUTE, World, WorldBuilder};
use super::{
    SECOND, SHORT_WAIT, back_within, each, keeps_newest, look, metric, operator_refreshes,
    presented, state, with_operator,
};

fn short() -> WorldBuilder {
    World::builder().sections(SHORT_WAIT)
}

/// Makes a request every `step` of the proxy's time, for `long`, and asserts that each is refused.
async fn outage(world: &World, long: Duration, step: Duration) {
    let mut passed = Duration::ZERO;
    while passed < long {
        look(world).await.assert_no_token();
        assert!(
            !state(world).starts_with("needs_login"),
            "a failure that passes counts as the end of the grant: {}",
            state(world)
        );
        world.clock.advance(step);
        passed += step;
    }
}

fn down() -> TokenBehaviour {
    TokenBehaviour::json(503, json!({"message": "down"}))
}

// ----- E16 -----

/// An answer of another kind starts its own backoff.
#[tokio::test]
async fn e16_one_404_after_an_outage_does_not_lock_anybody_out() {
    let others = [
        TokenBehaviour::html(404, "<html><body><h1>404 Not Found</h1></body></html>"),
        TokenBehaviour::json(404, json!({"error": "not_found"})),
        TokenBehaviour::html(403, "<html><body><h1>Forbidden</h1></body></html>"),
        TokenBehaviour::error(400, "invalid_request", None),
    ];
    let named = |other: TokenBehaviour| (format!("{other:?}"), other);
    each(others.map(named), |case, other| async move {
        let world = short().settled().await;
        let server = &world.authorization_server;
        server.decide_by(|_| down());
        world.clock.advance(HOURS);
        outage(&world, SECOND * 40, SECOND * 5).await;
        let (sent, sends) = std::sync::mpsc::channel();
        let mut once = Some(other);
        server.decide_by(move |_| match once.take() {
            Some(other) => {
                sent.send(()).unwrap();
                other
            }
            None => TokenBehaviour::Normal,
        });
        let mut waited = Duration::ZERO;
        while sends.try_recv().is_err() {
            look(&world).await;
            world.clock.advance(SECOND * 5);
            waited += SECOND * 5;
            assert!(waited <= SECOND * 70, "{case}: nobody looks");
        }
        let back = back_within(&world, SECOND * 70, SECOND * 5).await;
        assert!(back.is_some(), "{case}: it did not work again in time: {}", state(&world));
    })
    .await;
}

/// The other way round: a short outage after a long misconfiguration.
#[tokio::test]
async fn e16_an_outage_after_refusals_is_over_as_soon_as_the_server_is_back() {
    let world = short().settled().await;
    let server = &world.authorization_server;
    server.decide_by(|_| TokenBehaviour::error(401, "invalid_client", None));
    world.clock.advance(HOURS);
    outage(&world, MINUTE * 30, MINUTE * 5).await;
    server.decide_by(|_| down());
    world.clock.advance(MINUTE * 15);
    look(&world).await.assert_no_token();
    server.decide_by(|_| TokenBehaviour::Normal);
    assert!(
        back_within(&world, MINUTE, SECOND * 5).await.is_some(),
        "it did not work again in time: {}",
        state(&world)
    );
}

// ----- E17 -----

#[tokio::test]
async fn e17_after_lost_answers_everything_works_again_within_a_minute() {
    let world = short().settled().await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.decide_by(|_| TokenBehaviour::DropBeforeCommit);
    world.clock.advance(HOURS);
    outage(&world, MINUTE * 8, MINUTE * 2).await;
    outage(&world, MINUTE * 2, SECOND * 30).await;
    server.decide_by(|_| TokenBehaviour::Normal);
    let back = back_within(&world, MINUTE, SECOND * 5).await;
    assert!(back.is_some(), "it did not work again in time: {}", state(&world));
    assert!(presented(&world, &old) >= 4, "nobody looked");
    assert!(keeps_newest(&world), "the newest refresh token is not on the disk");
}

#[tokio::test]
async fn e17_after_answers_that_never_came_everything_works_again_within_a_minute() {
    let world = short().credential("timeout = \"300ms\"").settled().await;
    let server = &world.authorization_server;
    server.decide_by(|_| TokenBehaviour::Hang);
    world.clock.advance(HOURS);
    outage(&world, MINUTE * 6, MINUTE).await;
    server.release_all();
    server.decide_by(|_| TokenBehaviour::Normal);
    let back = back_within(&world, MINUTE, SECOND * 5).await;
    assert!(back.is_some(), "it did not work again in time: {}", state(&world));
}

#[tokio::test]
async fn e17_an_unreachable_server_is_used_within_five_seconds_of_its_return() {
    let world = short().settled().await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.refuse_connections().await;
    world.clock.advance(HOURS);
    outage(&world, MINUTE * 10, SECOND * 20).await;
    server.accept_connections().await;
    let back = back_within(&world, SECOND * 5, SECOND).await;
    assert!(back.is_some(), "it did not work again in time: {}", state(&world));
    assert_eq!(
        (presented(&world, &old), server.reuse_count()),
        (1, 0),
        "(presentations, reuses): a connection that was refused counts as a presentation"
    );
    assert_eq!(
        metric(&world, "bearerd_token_replays_total").await,
        0.0,
        "a connection that was refused counts as a replay"
    );
}

/// A restart during an outage changes neither the backoff nor the grant.
#[tokio::test]
async fn e17_a_restart_during_an_outage_changes_nothing() {
    let mut world = short().settled().await;
    world.authorization_server.refuse_connections().await;
    world.clock.advance(HOURS);
    outage(&world, MINUTE, SECOND * 20).await;
    world.restart().await;
    outage(&world, MINUTE, SECOND * 20).await;
    world.authorization_server.accept_connections().await;
    let back = back_within(&world, SECOND * 5, SECOND).await;
    assert!(back.is_some(), "it did not work again in time: {}", state(&world));
}

// ----- E18 -----

#[tokio::test]
async fn e18_a_connection_that_never_completes_has_sent_nothing() {
    // The timeout is shorter than the time for connecting.
    let world = short().credential("timeout = \"2s\"").settled().await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.fill_backlog().await;
    world.clock.advance(HOURS);
    look(&world).await.assert_no_token();
    assert_eq!(
        metric(&world, "bearerd_token_replays_total").await,
        0.0,
        "a connection that was never made counts as a replay"
    );
    server.accept_connections().await;
    server.revoke_refresh_token();
    world.clock.advance(SECOND * 6);
    look(&world).await.assert_no_token();
    assert_eq!(
        state(&world),
        "needs_login (revoked)",
        "the state does not say that the grant was revoked"
    );
    assert_eq!(
        metric(&world, "bearerd_lost_rotations_total").await,
        0.0,
        "a connection that was never made counts as a lost rotation"
    );
    assert_eq!(
        presented(&world, &old),
        1,
        "the refresh token was presented before the connection was made"
    );
}

#[tokio::test]
async fn e18_a_backlog_that_empties_is_noticed_within_five_seconds() {
    let world = short().credential("timeout = \"2s\"").settled().await;
    let server = &world.authorization_server;
    server.fill_backlog().await;
    world.clock.advance(HOURS);
    look(&world).await.assert_no_token();
    server.accept_connections().await;
    assert!(
        back_within(&world, SECOND * 5, SECOND).await.is_some(),
        "it did not work again in time: {}",
        state(&world)
    );
    server.assert_token_requests(2, "the attempt to connect counts as a token request");
    server.assert_no_reuse();
}

/// A refused connection counts like one that never completes.
#[tokio::test]
async fn e18_a_refused_connection_has_sent_nothing_either() {
    let world = with_operator(short()).await;
    let server = &world.authorization_server;
    server.refuse_connections().await;
    world.clock.advance(HOURS);
    for _ in 0..3 {
        look(&world).await.assert_no_token();
        assert_ne!(
            operator_refreshes(&world).await.0,
            200,
            "an operator's refresh succeeded while the server could not be reached"
        );
        world.clock.advance(MINUTE);
    }
    server.accept_connections().await;
    server.revoke_refresh_token();
    assert_ne!(
        operator_refreshes(&world).await.0,
        200,
        "an operator's refresh succeeded with a revoked refresh token"
    );
    assert_eq!(
        state(&world),
        "needs_login (revoked)",
        "the state does not say that the grant was revoked"
    );
    assert_eq!(
        metric(&world, "bearerd_lost_rotations_total").await,
        0.0,
        "a connection that was refused counts as a lost rotation"
    );
    assert_eq!(
        metric(&world, "bearerd_token_replays_total").await,
        0.0,
        "a connection that was refused counts as a replay"
    );
}
