//! Several proxies on one `file:` store: token requests, adopted tokens and the lock.
//!
//! Most run in this process, on one state directory and one clock. Where one has to be killed or
//! stopped while it holds the lock, it is the program itself.

use std::time::{Duration, Instant, SystemTime};

use bearerd::secret::Secret;
use bearerd::store::{Generation, TokenRecord};
use bearerd::token::Condition;
use bearerd_test_support::{OnReuse, Rotation, TokenBehaviour};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::program::Program;
use super::world::{HOURS, Sibling, TO_MARGIN, World, assert_all, eventually};

/// Time within which a sibling's token is adopted.
const ADOPTION: Duration = Duration::from_secs(2);

/// A settled world and a second proxy beside it, both with generation 1.
async fn pair() -> (World, Sibling) {
    let world = World::settled().await;
    let sibling = world.sibling().await;
    assert_eq!(
        sibling.status().generation,
        Generation(1),
        "the second replica has not read the record of the first"
    );
    (world, sibling)
}

/// Changes the record without taking the lock.
fn rewrite_record(world: &World, change: impl FnOnce(&mut TokenRecord)) {
    let path = world.state().join("api.json");
    let (mut record, write) =
        TokenRecord::from_bytes("api", &std::fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    // The file keeps its mode.
    std::fs::write(&path, record.to_bytes("api", &write)).unwrap();
}

// ----- one token request for all -----

/// Row 1, under two replicas.
#[tokio::test]
async fn replicas_without_a_token_make_one_token_request() {
    let world = World::new().await;
    let sibling = world.sibling().await;
    let (here, there) = tokio::join!(world.get_many(50), sibling.get_many(&world, 50));
    assert_all(&here, 200);
    assert_all(&there, 200);
    world
        .authorization_server
        .assert_token_requests(1, "two replicas without a token have to share one token request");
    world.assert_stored(1);
    assert_eq!(
        sibling.status().generation,
        Generation(1),
        "the second replica did not use the token of the first"
    );
}

/// Row 19: the strictest server, and every one of 100 requests was sent with the token that is dead.
#[tokio::test]
async fn a_hundred_rejections_over_two_replicas_cost_one_token_request() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    world.origin.hold_before_check();
    let (here, there, ()) = tokio::join!(world.get_many(50), sibling.get_many(&world, 50), async {
        world.origin.wait_for_requests(100).await;
        world.origin.release_all();
    });
    assert_all(&here, 200);
    assert_all(&there, 200);
    assert_eq!(
        world.origin.rejected(),
        100,
        "the requests were not all rejected at once, so the test shows nothing"
    );
    server.assert_token_requests(2, "a hundred rejections have to share one token request");
    assert_eq!(
        world.status().generation,
        Generation(2),
        "the first replica does not have the new token"
    );
    assert_eq!(
        sibling.status().generation,
        Generation(2),
        "the second replica does not have the new token"
    );
    world.assert_stored(2);
}

#[tokio::test]
async fn each_expiry_costs_three_replicas_one_token_request() {
    let (world, second) = pair().await;
    let third = world.sibling().await;
    let server = &world.authorization_server;
    for generation in 2..=6 {
        world.clock.advance(HOURS);
        let (first, second, third) = tokio::join!(
            world.get_many(10),
            second.get_many(&world, 10),
            third.get_many(&world, 10)
        );
        assert_all(&[first, second, third].concat(), 200);
        assert_eq!(
            server.token_requests() as u64,
            generation,
            "each expiry has to cost one token request of three replicas"
        );
        world.assert_stored(generation);
    }
}

#[tokio::test]
async fn near_expiry_replicas_make_one_token_request_in_the_background() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    world.clock.advance(TO_MARGIN);
    server.hold();
    let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
    assert_all(&here, 200);
    assert_all(&there, 200);
    server.wait_for_token_requests(2).await;
    server.release_all();
    eventually("both have the new token", || {
        let generations = [world.status().generation, sibling.status().generation];
        generations == [Generation(2); 2]
    })
    .await;
    server.assert_token_requests(2, "two replicas near expiry have to share one token request");
    world.assert_stored(2);
}

/// Row 3, under two replicas: each finds out for itself, once.
#[tokio::test]
async fn near_expiry_a_failing_endpoint_gets_one_request_from_all_replicas() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    world.clock.advance(TO_MARGIN);
    let trouble = TokenBehaviour::json(503, json!({"message": "down"}));
    server.enqueue(trouble.with_header("retry-after", "30"));
    let failed = || {
        [world.status(), sibling.status()]
            .iter()
            .all(|status| matches!(status.condition, Condition::Failing(_)))
    };
    let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
    assert_all(&[here, there].concat(), 200);
    eventually("both know of the failure", failed).await;
    let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
    assert_all(&[here, there].concat(), 200);
    server.assert_token_requests(2, "two replicas have to share the failed token request");
    let record = world.record();
    assert_eq!(
        (&record["generation"], &record["terminal"]),
        (&json!(1), &Value::Null),
        "(generation, terminal): a failure near expiry has changed the token"
    );
    assert_eq!(
        world.tokens_seen(),
        vec![server.tokens().newest_access_token().unwrap(); 80],
        "a request near expiry did not use the old token"
    );

    let before = server.token_requests();
    world.clock.advance(Duration::from_secs(31));
    let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
    assert_all(&[here, there].concat(), 200);
    eventually("both have the new token", || {
        [world.status().generation, sibling.status().generation] == [Generation(2); 2]
    })
    .await;
    assert_eq!(
        server.token_requests(),
        before + 1,
        "the replicas have to share the repeated token request"
    );
    world.assert_stored(2);
}

// ----- what a sibling has stored -----

#[tokio::test]
async fn a_siblings_token_is_adopted_within_two_seconds_without_a_request() {
    let (world, sibling) = pair().await;
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    let stored = Instant::now();
    assert_eq!(
        world.status().generation,
        Generation(2),
        "the first replica does not have the new token"
    );
    eventually("it is adopted", || sibling.status().generation == Generation(2)).await;
    assert!(stored.elapsed() <= ADOPTION, "it took too long: {:?}", stored.elapsed());
    assert_eq!(sibling.status().condition, Condition::Fresh, "the adopted token has another state");
    world
        .authorization_server
        .assert_token_requests(2, "the sibling's token was not adopted but requested");
}

/// At once, before the sibling has looked into the store for itself.
#[tokio::test]
async fn a_rejection_reloads_the_record_before_a_token_request() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    for generation in 2..=4 {
        world.clock.advance(Duration::from_secs(3000));
        server.tokens().revoke_all_access_tokens();
        let (asks, finds) = match generation % 2 {
            0 => (world.get("/").await, sibling.get(&world).await),
            _ => (sibling.get(&world).await, world.get("/").await),
        };
        assert_eq!(
            (asks.status, finds.status),
            (200, 200),
            "(asks, finds): a replica noticed the revocation"
        );
        assert_eq!(
            server.token_requests() as u64,
            generation,
            "generation {generation}: the second replica did not find the first one's token"
        );
        world.assert_stored(generation);
    }
}

#[tokio::test]
async fn an_expired_token_is_looked_up_in_the_store_before_a_token_request() {
    let (world, sibling) = pair().await;
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    sibling.get(&world).await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(2, "the sibling's token was not found in the store but requested");
    let newest = world.authorization_server.tokens().newest_access_token().unwrap();
    assert_eq!(
        world.tokens_seen(),
        [newest.clone(), newest],
        "the replicas used another token than the stored one"
    );
}

/// Stores generation 2, as another process may on a disk that knows no locks; its access token.
fn rotate_past_the_lock(world: &World) -> String {
    let server = &world.authorization_server;
    let (access_token, refresh_token) =
        (server.tokens().issue_access_token(HOURS), server.issue_refresh_token());
    rewrite_record(world, |record| {
        record.generation = Generation(2);
        record.access_token = Some(Secret::new(access_token.clone()));
        record.refresh_token = Some(Secret::new(refresh_token));
        record.issued_at = Some(world.clock.now());
        record.expires_at = Some(world.clock.now() + HOURS);
        record.attempt = None;
    });
    access_token
}

/// Row 25: another process has rotated meanwhile, so that ours was too late.
#[tokio::test]
async fn a_refresh_token_rotated_by_another_process_is_not_a_dead_grant() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    server.enqueue(TokenBehaviour::error(400, "invalid_grant", None));
    let request = world.begin_refresh().await;
    let access_token = rotate_past_the_lock(&world);
    let stored = world.record();
    server.release_all();
    request.await.unwrap().assert_ok();
    sibling.get(&world).await.assert_ok();
    assert_eq!(
        world.tokens_seen(),
        [access_token.clone(), access_token],
        "the replicas used another token than the one that another process had stored"
    );
    server
        .assert_token_requests(2, "a token was requested although another process had stored one");
    assert_eq!(world.record(), stored, "generation 2 is untouched");
}

/// The same where ours was answered as well: what is stored counts.
#[tokio::test]
async fn a_record_that_another_process_has_stored_meanwhile_is_not_overwritten() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let answer = json!({"access_token": server.tokens().issue_access_token(HOURS),
        "expires_in": 3600, "refresh_token": "rt-too-late"});
    server.enqueue(TokenBehaviour::json(200, answer));
    let request = world.begin_refresh().await;
    let access_token = rotate_past_the_lock(&world);
    let stored = world.record();
    server.release_all();
    request.await.unwrap().assert_ok();
    sibling.get(&world).await.assert_ok();
    assert_eq!(
        world.tokens_seen(),
        [access_token.clone(), access_token],
        "the replicas used another token than the one that another process had stored"
    );
    server
        .assert_token_requests(2, "a token was requested although another process had stored one");
    assert_eq!(world.record(), stored, "generation 2 is untouched");
}

#[tokio::test]
async fn a_siblings_dead_grant_is_known_without_a_request() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    world.clock.advance(HOURS);
    world.get("/").await.assert_no_token();
    let knows = || matches!(sibling.status().condition, Condition::NeedsLogin(_));
    eventually("the sibling has found it", knows).await;
    server.assert_token_requests(2, "the sibling presented a dead refresh token");
}

#[tokio::test]
async fn a_siblings_dead_grant_costs_no_second_token_request() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    world.clock.advance(HOURS);
    world.get("/").await.assert_no_token();
    assert_all(&sibling.get_many(&world, 20).await, 503);
    assert!(
        matches!(sibling.status().condition, Condition::NeedsLogin(_)),
        "the sibling does not know that a login is needed: {}",
        sibling.status().condition
    );
    assert_all(&world.get_many(20).await, 503);
    server.assert_token_requests(2, "the sibling presented a dead refresh token");
}

/// The grant is dead and the access token is not: it is served to its end, by both.
#[tokio::test]
async fn near_expiry_a_siblings_dead_grant_leaves_the_token_to_its_end() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    world.clock.advance(TO_MARGIN);
    let needs_login =
        |status: bearerd::token::Status| matches!(status.condition, Condition::NeedsLogin(_));
    world.get("/").await.assert_ok();
    eventually("the first knows", || needs_login(world.status())).await;
    sibling.get(&world).await.assert_ok();
    eventually("the second knows", || needs_login(sibling.status())).await;
    let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
    assert_all(&[here, there].concat(), 200);
    server.assert_token_requests(2, "the sibling presented a dead refresh token");
}

/// Row 28: one replica is given the new seed, the other finds its token.
#[tokio::test]
async fn a_new_seed_given_to_one_replica_heals_both() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    world.clock.advance(HOURS);
    assert_eq!(
        (world.get("/").await.status, sibling.get(&world).await.status),
        (503, 503),
        "(first, second): a dead grant did not stop both replicas"
    );
    world.write_seed(&server.issue_refresh_token());
    world.reload().await;
    world.get("/").await.assert_ok();
    let stored = Instant::now();
    let healed = || sibling.status().condition == Condition::Fresh;
    eventually("the other has found it", healed).await;
    assert!(stored.elapsed() <= ADOPTION, "it took too long: {:?}", stored.elapsed());
    sibling.get(&world).await.assert_ok();
    server.assert_token_requests(3, "the new seed has to cost one token request");
    let generation = world.record()["generation"].as_u64().unwrap();
    assert!(generation > 1, "the new grant began with a number that was used before");
    world.assert_stored(generation);

    // The other is given it as well, later.
    sibling.app().reload(world.settings()).await.unwrap();
    sibling.get(&world).await.assert_ok();
    server.assert_token_requests(3, "the seed was presented again by the second replica");
}

/// Row 28, before anything has expired: the old grant may belong to another account.
#[tokio::test]
async fn a_new_seed_wins_over_the_good_token_of_a_sibling() {
    let (world, sibling) = pair().await;
    let server = &world.authorization_server;
    let seed = server.issue_refresh_token();
    world.write_seed(&seed);
    world.reload().await;
    world.get("/").await.assert_ok();
    assert_eq!(
        server.requests()[1].param("refresh_token"),
        Some(&*seed),
        "the new seed was not presented"
    );
    let generation = world.status().generation;
    eventually("the other has it", || sibling.status().generation == generation).await;
    sibling.get(&world).await.assert_ok();
    let newest = server.tokens().newest_access_token().unwrap();
    assert_eq!(
        world.tokens_seen(),
        [newest.clone(), newest],
        "the replicas did not both use the new seed's token"
    );
    server.assert_token_requests(2, "the new seed has to cost one token request");
}

// ----- a lock holder that does not come back -----

/// A token near its end, the program holding the lock because its token request is not answered, and a
/// proxy in this process that may wait a second.
async fn holder(commit_first: bool) -> (World, Program) {
    let builder = World::builder().sections("[limits]\nwait = \"1s\"");
    let mut world = builder
        .authorization_server(|config| {
            let (grace, on_reuse) = (Duration::from_secs(30), OnReuse::RevokeFamily);
            config.rotation = Rotation::Rotate { grace, on_reuse };
        })
        .start()
        .await;
    world.get("/").await.assert_ok();
    world.stop().await;
    rewrite_record(&world, |record| {
        // The program's clock cannot be moved.
        record.issued_at = Some(SystemTime::now() - Duration::from_secs(3400));
        record.expires_at = Some(SystemTime::now() + Duration::from_secs(200));
    });
    world.authorization_server.enqueue(TokenBehaviour::Stall { commit_first });
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.authorization_server.wait_for_token_requests(2).await;
    if commit_first {
        world.authorization_server.wait_for_committed(2).await;
    }
    // Only now, because it would replace such a token at its start.
    world.start_proxy().await;
    world.origin.clear();
    (world, program)
}

/// Requests are answered with the current token, none of them late, before and after the wait for
/// the lock is over.
async fn is_served_meanwhile(world: &World) {
    let slowest = Duration::from_millis(900);
    for round in 0..2 {
        let began = Instant::now();
        assert_all(&world.get_many(20).await, 200);
        assert!(
            began.elapsed() < slowest,
            "round {round}: it took too long: {:?}",
            began.elapsed()
        );
        let busy = || world.status().condition.to_string() == "failing (lock_busy)";
        eventually("the lock is not to be had", busy).await;
        // The wait is a second.
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "round {round}: it took too long: {:?}",
            began.elapsed()
        );
    }
    world
        .authorization_server
        .assert_token_requests(2, "a token was requested while another process held the lock");
}

/// Row 20, under two replicas: the other one replays the refresh token within the server's grace.
#[tokio::test]
async fn a_killed_lock_holder_blocks_nobody_and_its_refresh_is_done_by_another() {
    let (world, program) = holder(true).await;
    let server = &world.authorization_server;
    is_served_meanwhile(&world).await;
    program.signal(Signal::KILL);
    program.ends().await;
    // The backoff of the last attempt has ended, and the next request makes another attempt.
    let freed = Instant::now();
    world.clock.advance(Duration::from_secs(2));
    world.get("/").await.assert_ok();
    eventually("another has refreshed", || world.status().generation == Generation(2)).await;
    assert!(freed.elapsed() < Duration::from_secs(3), "it took too long: {:?}", freed.elapsed());
    world.get("/").await.assert_ok();
    server.assert_token_requests(3, "the refresh of the killed process was not repeated once");
    world.assert_stored(2);
    server.release_all();
}

#[tokio::test]
async fn a_stopped_lock_holder_blocks_nobody_beyond_the_wait() {
    let (world, program) = holder(false).await;
    let server = &world.authorization_server;
    program.signal(Signal::STOP);
    is_served_meanwhile(&world).await;

    // Without a token there is nothing to serve; it is said in time.
    world.clock.advance(Duration::from_secs(300));
    let began = Instant::now();
    let response = world.client().get(world.http("/")).send().await.unwrap();
    assert_eq!(response.status(), 503, "a request without a token was served");
    assert!(
        response.headers().contains_key("retry-after"),
        "the client is not told when to try again"
    );
    assert!(began.elapsed() < Duration::from_secs(2), "it took too long: {:?}", began.elapsed());
    server.assert_token_requests(2, "a token was requested while another process held the lock");

    // The answer that waited for it all the time is stored, and found.
    server.release_all();
    program.signal(Signal::CONT);
    eventually("it is adopted", || world.status().generation == Generation(2)).await;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the answer for which the stopped process waited was lost");
    world.assert_stored(2);
    program.stop().await;
}

/// A rejection finds the lock held: the request gets the API's own answer, within the wait.
#[tokio::test]
async fn a_rejection_waits_no_longer_for_a_stopped_lock_holder() {
    let (world, program) = holder(false).await;
    let server = &world.authorization_server;
    program.signal(Signal::STOP);
    server.tokens().revoke_all_access_tokens();
    let began = Instant::now();
    world.get("/").await.assert_status(401, "the API's rejection did not reach the client");
    assert!(began.elapsed() < Duration::from_secs(2), "it took too long: {:?}", began.elapsed());
    server.assert_token_requests(2, "a token was requested while another process held the lock");

    server.release_all();
    program.signal(Signal::CONT);
    eventually("it is adopted", || world.status().generation == Generation(2)).await;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the answer for which the stopped process waited was lost");
    program.stop().await;
}

// ----- a backup that is put back -----

/// Generation 3 in both, and the file of generation 1.
async fn with_a_backup() -> (World, Sibling, Vec<u8>) {
    let (world, sibling) = pair().await;
    let backup = std::fs::read(world.state().join("api.json")).unwrap();
    for _ in 0..2 {
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
    }
    sibling.get(&world).await.assert_ok();
    assert_eq!(
        sibling.status().generation,
        Generation(3),
        "the sibling does not have the newest token"
    );
    world
        .authorization_server
        .assert_token_requests(3, "two expiries have to cost two token requests");
    (world, sibling, backup)
}

#[tokio::test]
async fn a_restored_backup_is_overwritten_by_running_replicas_with_the_newest_refresh_token() {
    let (world, sibling, backup) = with_a_backup().await;
    let server = &world.authorization_server;
    let newest = server.current_refresh_token();
    std::fs::write(world.state().join("api.json"), &backup).unwrap();
    // The first process that polls writes the newest record back. No process adopts the backup.
    let newest_is_stored = || world.record()["refresh_token"] == *newest;
    eventually("the newest is written back", newest_is_stored).await;
    assert_eq!(
        world.status().generation,
        Generation(3),
        "the backup has replaced the token of the first replica"
    );
    assert_eq!(
        sibling.status().generation,
        Generation(3),
        "the backup has replaced the token of the second replica"
    );

    world.clock.advance(HOURS);
    let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
    assert_all(&[here, there].concat(), 200);
    server.assert_token_requests(
        4,
        "the backup has cost more than the one token request for the expired token",
    );
    assert_eq!(
        server.requests()[3].param("refresh_token"),
        Some(&*newest),
        "another refresh token than the newest was presented"
    );
    world.assert_stored(4);
    eventually("both have it", || {
        [world.status().generation, sibling.status().generation] == [Generation(4); 2]
    })
    .await;
}

/// The same, where a new client secret is read before the next refresh.
#[tokio::test]
async fn a_reload_does_not_forget_that_a_backup_was_put_back() {
    let (world, sibling, backup) = with_a_backup().await;
    sibling.stop().await;
    let server = &world.authorization_server;
    let newest = server.current_refresh_token();
    std::fs::write(world.state().join("api.json"), &backup).unwrap();
    // The same secret to the server, another to the configuration.
    let mut settings = world.settings();
    settings.credentials[0].token.lifetime = Some(Duration::from_secs(1800));
    world.app().reload(settings).await.unwrap();
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    server.assert_token_requests(
        4,
        "the backup has cost more than the one token request for the expired token",
    );
    assert_eq!(
        server.requests()[3].param("refresh_token"),
        Some(&*newest),
        "another refresh token than the newest was presented"
    );
    server.assert_no_reuse();
}

#[tokio::test]
async fn a_backup_restored_while_nothing_runs_costs_one_token_request_and_needs_a_login() {
    let (mut world, sibling, backup) = with_a_backup().await;
    world.stop().await;
    sibling.stop().await;
    std::fs::write(world.state().join("api.json"), &backup).unwrap();
    world.clock.advance(HOURS);
    world.start_proxy().await;
    let sibling = world.sibling().await;
    for _ in 0..3 {
        let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
        assert_all(&[here, there].concat(), 503);
        world.clock.advance(HOURS);
    }
    world.authorization_server.assert_token_requests(
        4,
        "the used refresh token in the backup was presented more than once",
    );
    assert!(
        matches!(world.status().condition, Condition::NeedsLogin(_)),
        "the first replica does not say that a login is needed: {}",
        world.status().condition
    );
    assert!(
        matches!(sibling.status().condition, Condition::NeedsLogin(_)),
        "the second replica does not say that a login is needed: {}",
        sibling.status().condition
    );
    world.assert_needs_login("revoked");

    // What heals it is what heals every dead grant.
    world.write_seed(&world.authorization_server.issue_refresh_token());
    world.reload().await;
    world.get("/").await.assert_ok();
    eventually("the other as well", || sibling.status().condition == Condition::Fresh).await;
    world
        .authorization_server
        .assert_token_requests(5, "the new seed has to cost one token request");
}
