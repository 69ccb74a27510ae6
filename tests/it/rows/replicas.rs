//! Behaviours 19 to 31 under two replicas that `replicas` and `crashes` do not show.

use std::time::Duration;

use bearerd::store::Generation;
use bearerd_test_support::{OnReuse, Rotation, TokenBehaviour};
use serde_json::json;

use super::super::stopwatch::Stopwatch;
use super::super::wire::Reply;
use super::super::world::{HOURS, Sibling, TO_MARGIN, World, WorldBuilder, assert_all, eventually};

/// Two proxies on one store at generation 1.
async fn pair(builder: WorldBuilder) -> (World, Sibling) {
    let world = builder.settled().await;
    let sibling = world.sibling().await;
    assert_eq!(
        sibling.status().generation,
        Generation(1),
        "the second replica has not read the record of the first"
    );
    (world, sibling)
}

/// `n` requests through each.
async fn ask_both(world: &World, sibling: &Sibling, n: usize) -> Vec<Reply> {
    let (here, there) = tokio::join!(world.get_many(n), sibling.get_many(world, n));
    [here, there].concat()
}

#[tokio::test]
async fn row_22_a_torn_record_is_written_back_by_whichever_replica_refreshes() {
    for sibling_asks in [false, true] {
        let (world, sibling) = pair(World::builder()).await;
        let server = &world.authorization_server;
        std::fs::write(world.state().join("api.json"), b"{\"bearerd\": 1").unwrap();
        world.clock.advance(HOURS);
        let first = if sibling_asks { sibling.get(&world).await } else { world.get("/").await };
        first.assert_ok();
        assert_all(&ask_both(&world, &sibling, 10).await, 200);
        server.assert_token_requests(2, "the expired token was not replaced by one token request");
        world.assert_stored(2);
    }
}

#[tokio::test]
async fn row_23_a_lost_answer_is_asked_for_again_by_one_replica_only() {
    let (world, sibling) = pair(World::builder().authorization_server(|config| {
        let on_reuse = OnReuse::RevokeFamily;
        config.rotation = Rotation::Rotate { grace: Duration::from_secs(5), on_reuse };
    }))
    .await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    server.enqueue(TokenBehaviour::DropAfterCommit);
    assert_all(&ask_both(&world, &sibling, 20).await, 200);
    let requests = server.requests();
    assert_eq!(requests.len(), 3, "the lost answer has to cost one more token request");
    assert_eq!(
        requests[1].param("refresh_token"),
        requests[2].param("refresh_token"),
        "another refresh token was presented after the lost answer"
    );
    assert!(
        requests[2].at - requests[1].at <= Duration::from_secs(5),
        "the lost answer was asked for again after the grace period"
    );
    world.assert_stored(2);
}

#[tokio::test]
async fn row_24_a_refresh_whose_client_is_gone_serves_the_other_replica() {
    let (world, sibling) = pair(World::builder()).await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    request.abort();
    assert!(
        request.await.unwrap_err().is_cancelled(),
        "the request was over before it could be aborted"
    );
    server.release_all();
    sibling.get(&world).await.assert_ok();
    server.assert_token_requests(
        2,
        "the token of the aborted request was not used by the other replica",
    );
    world.assert_stored(2);
}

/// The replica that has the token serves it. The other cannot use the missing store and must not present
/// the refresh token that the first has used.
#[tokio::test]
async fn row_26_a_token_that_cannot_be_saved_is_not_asked_for_by_the_other_replica() {
    let (world, sibling) = pair(World::builder()).await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    let away = world.dir.path().join("away");
    std::fs::rename(world.state(), &away).unwrap();
    let released = Stopwatch::start();
    server.release_all();
    request.await.unwrap().assert_ok();
    assert!(
        released.elapsed() < Duration::from_secs(3),
        "it took too long: {:?}",
        released.elapsed()
    );
    assert_all(&world.get_many(10).await, 200);
    assert_all(&sibling.get_many(&world, 10).await, 503);

    std::fs::rename(&away, world.state()).unwrap();
    eventually("it is saved", || !world.status().is_unsaved).await;
    eventually("it is found", || sibling.status().generation == Generation(2)).await;
    assert_all(&ask_both(&world, &sibling, 10).await, 200);
    server.assert_token_requests(2, "the token that could not be saved was requested twice");
    world.assert_stored(2);
}

#[tokio::test]
async fn row_27_replicas_restarted_with_the_original_seed_go_on_with_the_stored_token() {
    let (mut world, sibling) = pair(World::builder()).await;
    for _ in 2..=5 {
        world.clock.advance(HOURS);
        assert_all(&ask_both(&world, &sibling, 2).await, 200);
    }
    world.assert_stored(5);
    world.stop().await;
    sibling.stop().await;
    world.clock.advance(HOURS);
    let newest = world.authorization_server.current_refresh_token();
    world.start_proxy().await;
    let sibling = world.sibling().await;
    assert_all(&ask_both(&world, &sibling, 20).await, 200);
    let requests = world.authorization_server.requests();
    assert_eq!(requests.len(), 6, "the restarted replicas have to make one token request");
    assert_eq!(
        requests[5].param("refresh_token"),
        Some(&*newest),
        "the restarted replicas presented another token than the stored one"
    );
    world.assert_stored(6);
}

#[tokio::test]
async fn row_30_a_superseded_refresh_token_replaces_the_newest_on_neither_replica() {
    let (world, sibling) = pair(World::builder()).await;
    let server = &world.authorization_server;
    let (old, current) =
        (server.previous_refresh_tokens()[0].clone(), server.current_refresh_token());
    let access_token = server.tokens().issue_access_token(HOURS);
    let answer = json!({"access_token": access_token, "expires_in": 3600, "refresh_token": old});
    server.enqueue(TokenBehaviour::json(200, answer));
    world.clock.advance(HOURS);
    assert_all(&ask_both(&world, &sibling, 10).await, 200);
    assert_eq!(
        world.tokens_seen(),
        vec![access_token; 20],
        "a replica used another token than the new one"
    );
    assert_eq!(
        world.record()["refresh_token"],
        current,
        "the superseded refresh token was stored over the newest one"
    );
    server.assert_token_requests(2, "the expired token was not replaced by one token request");
    // The other replica continues with the stored token.
    world.clock.advance(HOURS);
    sibling.get(&world).await.assert_ok();
    assert_eq!(
        server.requests()[2].param("refresh_token"),
        Some(&*current),
        "the other replica presented another token than the stored one"
    );
    world.assert_stored(3);
}

#[tokio::test]
async fn row_31_requests_in_flight_over_both_replicas_survive_a_refresh_that_kills_their_token() {
    let (world, sibling) = pair(World::builder().authorization_server(|config| {
        config.revoke_previous_access_token = true;
    }))
    .await;
    let server = &world.authorization_server;
    let old = server.tokens().newest_access_token().unwrap();
    world.origin.hold_before_check();
    let (answers, ()) = tokio::join!(ask_both(&world, &sibling, 20), async {
        world.origin.wait_for_requests(40).await;
        world.clock.advance(TO_MARGIN);
        let last = world.spawn_get();
        eventually("the refresh is over", || world.status().generation.0 == 2).await;
        world.origin.wait_for_requests(41).await;
        world.origin.release_all();
        last.await.unwrap().assert_ok();
    });
    assert_all(&answers, 200);
    let new = server.tokens().newest_access_token().unwrap();
    assert_eq!(
        world.tokens_seen(),
        [vec![old; 41], vec![new; 41]].concat(),
        "the requests were not all sent with the old token first and repeated with the new one"
    );
    server.assert_token_requests(2, "the requests in flight have cost another token request");
    world.assert_stored(2);
}
