//! Several proxies on one `file:` store: token requests, adopted tokens and the lock.
//!
//! Most run in this process, on one state directory and one clock. A proxy that is killed or
//! stopped while it holds the lock runs as a program.

use std::time::{Duration, SystemTime};

use bearerd::secret::Secret;
use bearerd::store::{Generation, TokenRecord};
use bearerd::token::Condition;
use bearerd_test_support::{OnReuse, Rotation, TokenBehaviour};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::program::Program;
use super::stopwatch::Stopwatch;
use super::world::{HOURS, Sibling, TO_MARGIN, World, assert_all, eventually};

/// The time within which a sibling's token must be adopted.
const ADOPTION: Duration = Duration::from_secs(2);

/// Starts a world and a second proxy on its store, both with generation 1.
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

/// Modifies the record without taking the lock.
fn rewrite_record(world: &World, change: impl FnOnce(&mut TokenRecord)) {
    let path = world.state().join("api.json");
    let (mut record, write) =
        TokenRecord::from_bytes("api", &std::fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    // Writing in place keeps the mode of the file.
    std::fs::write(&path, record.to_bytes("api", &write)).unwrap();
}

// ----- one token request for all -----

/// Behaviour 1 with two replicas.
#[tokio::test]
async fn replicas_without_a_token_make_one_token_request() {
    let world = World::new().await;
    let sibling = world.sibling().await;
    let (here, there) = tokio::join!(world.get_many(50), sibling.get_many(&world, 50));
    assert_all(&here, 200);
    assert_all(&there, 200);
    world
        .authorization_server
        .assert_token_requests(1, "two replicas without a token must share one token request");
    world.assert_stored(1);
    assert_eq!(
        sibling.status().generation,
        Generation(1),
        "the second replica did not use the token of the first"
    );
}

/// Behaviour 19: a server with strict rotation rejects 100 requests, all sent with the revoked token.
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
        "the requests were not all rejected at once, so the test proves nothing"
    );
    server.assert_token_requests(2, "a hundred rejections must share one token request");
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
            "each expiry must cause one token request of the three replicas"
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
    server.assert_token_requests(2, "two replicas near expiry must share one token request");
    world.assert_stored(2);
}

/// Behaviour 3 with two replicas: each discovers the failure once.
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
    server.assert_token_requests(2, "two replicas must share the failed token request");
    let record = world.record();
    assert_eq!(
        (&record["generation"], &record["terminal"]),
        (&json!(1), &Value::Null),
        "(generation, terminal): a failure near expiry changed the token"
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
        "the replicas must share the repeated token request"
    );
    world.assert_stored(2);
}

// ----- records stored by a sibling -----

#[tokio::test]
async fn a_siblings_token_is_adopted_within_two_seconds_without_a_request() {
    let (world, sibling) = pair().await;
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    let stored = Stopwatch::start();
    assert_eq!(
        world.status().generation,
        Generation(2),
        "the first replica does not have the new token"
    );
    eventually("it is adopted", || sibling.status().generation == Generation(2)).await;
    assert!(stored.elapsed() <= ADOPTION, "it took too long: {:?}", stored.elapsed());
    assert_eq!(
        sibling.status().condition,
        Condition::Fresh,
        "unexpected state of the adopted token"
    );
    world
        .authorization_server
        .assert_token_requests(2, "the sibling's token was requested again instead of adopted");
}

/// Happens at once, before the sibling polls the store.
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
            "(refreshing, adopting): the client of a replica noticed the revocation"
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
    world.authorization_server.assert_token_requests(
        2,
        "the sibling's token was requested again instead of read from the store",
    );
    let newest = world.authorization_server.tokens().newest_access_token().unwrap();
    assert_eq!(
        world.tokens_seen(),
        [newest.clone(), newest],
        "the replicas did not use the stored token"
    );
}

/// Stores generation 2 without the lock, as another process may on a disk without locks. Returns its access token.
fn rotate_past_the_lock(world: &World) -> String {
    let server = &world.authorization_server;
    // Of two unrelated records the one issued later is newer. In one millisecond, chance would decide.
    world.clock.advance(Duration::from_secs(1));
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

/// Behaviour 25: another process rotated the token first, so this refresh came too late.
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
        "the replicas did not use the token stored by another process"
    );
    server.assert_token_requests(2, "a token was requested although another process stored one");
    assert_eq!(world.record(), stored, "the record of generation 2 was changed");
}

/// This refresh succeeded too, but the stored record takes precedence.
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
        "the replicas did not use the token stored by another process"
    );
    server.assert_token_requests(2, "a token was requested although another process stored one");
    assert_eq!(world.record(), stored, "the record of generation 2 was changed");
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
        "the sibling does not report that a login is needed: {}",
        sibling.status().condition
    );
    assert_all(&world.get_many(20).await, 503);
    server.assert_token_requests(2, "the sibling presented a dead refresh token");
}

/// The grant is dead but the access token is still valid: both replicas use it until it expires.
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

/// Behaviour 28: one replica gets the new seed, the other adopts its token.
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
    let stored = Stopwatch::start();
    let healed = || sibling.status().condition == Condition::Fresh;
    eventually("the other has found it", healed).await;
    assert!(stored.elapsed() <= ADOPTION, "it took too long: {:?}", stored.elapsed());
    sibling.get(&world).await.assert_ok();
    server.assert_token_requests(3, "the new seed must cause one token request");
    let generation = world.record()["generation"].as_u64().unwrap();
    assert!(generation > 1, "the new grant reused a generation number");
    world.assert_stored(generation);

    // Later the other replica gets the seed too.
    sibling.app().reload(world.settings()).await.unwrap();
    sibling.get(&world).await.assert_ok();
    server.assert_token_requests(3, "the seed was presented again by the second replica");
}

/// Behaviour 28 with a valid old token: the new seed still wins, because the old grant may belong to another account.
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
    server.assert_token_requests(2, "the new seed must cause one token request");
}

// ----- a lock holder that is killed or stopped -----

/// Starts a program that holds the lock near the expiry of the token, because its token request is not answered,
/// and a proxy in this process that waits for the lock for at most one second.
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
        // The program's clock cannot be changed.
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
    // Started only now, because it would replace such a token at its start.
    world.start_proxy().await;
    world.origin.clear();
    (world, program)
}

/// Checks that requests are answered promptly with the current token, both during and after the wait for the lock.
async fn is_served_meanwhile(world: &World) {
    let slowest = Duration::from_millis(900);
    for round in 0..2 {
        let began = Stopwatch::start();
        assert_all(&world.get_many(20).await, 200);
        assert!(
            began.elapsed() < slowest,
            "round {round}: the request took too long: {:?}",
            began.elapsed()
        );
        let busy = || world.status().condition.to_string() == "failing (lock_busy)";
        eventually("the lock is reported as busy", busy).await;
        // The wait for the lock is one second.
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "round {round}: the request took too long: {:?}",
            began.elapsed()
        );
    }
    world
        .authorization_server
        .assert_token_requests(2, "a token was requested while another process held the lock");
}

/// Behaviour 20 with two replicas: the other one replays the refresh token within the server's grace period.
#[tokio::test]
async fn a_killed_lock_holder_blocks_nobody_and_its_refresh_is_done_by_another() {
    let (world, program) = holder(true).await;
    let server = &world.authorization_server;
    is_served_meanwhile(&world).await;
    program.signal(Signal::KILL);
    program.ends().await;
    // The backoff of the last attempt is over, so the next request starts another attempt.
    let freed = Stopwatch::start();
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

    // Without a token the request fails, within the wait.
    world.clock.advance(Duration::from_secs(300));
    let began = Stopwatch::start();
    let response = world.client().get(world.http("/")).send().await.unwrap();
    assert_eq!(response.status(), 503, "a request was served without a token");
    assert!(response.headers().contains_key("retry-after"), "the response has no Retry-After");
    assert!(began.elapsed() < Duration::from_secs(2), "it took too long: {:?}", began.elapsed());
    server.assert_token_requests(2, "a token was requested while another process held the lock");

    // The pending answer is stored and adopted.
    server.release_all();
    program.signal(Signal::CONT);
    eventually("it is adopted", || world.status().generation == Generation(2)).await;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the answer to the stopped process was lost");
    world.assert_stored(2);
    program.stop().await;
}

/// If the lock is held after a rejection, the client gets the API's answer within the wait.
#[tokio::test]
async fn a_rejection_waits_no_longer_for_a_stopped_lock_holder() {
    let (world, program) = holder(false).await;
    let server = &world.authorization_server;
    program.signal(Signal::STOP);
    server.tokens().revoke_all_access_tokens();
    let began = Stopwatch::start();
    world.get("/").await.assert_status(401, "the API's rejection did not reach the client");
    assert!(began.elapsed() < Duration::from_secs(2), "it took too long: {:?}", began.elapsed());
    server.assert_token_requests(2, "a token was requested while another process held the lock");

    server.release_all();
    program.signal(Signal::CONT);
    eventually("it is adopted", || world.status().generation == Generation(2)).await;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the answer to the stopped process was lost");
    program.stop().await;
}

// ----- restored backups -----

/// Returns two replicas with generation 3, and the file of generation 1.
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
        .assert_token_requests(3, "two expiries must cause two token requests");
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
    eventually("the newest record is written back", newest_is_stored).await;
    assert_eq!(
        world.status().generation,
        Generation(3),
        "the backup replaced the token of the first replica"
    );
    assert_eq!(
        sibling.status().generation,
        Generation(3),
        "the backup replaced the token of the second replica"
    );

    world.clock.advance(HOURS);
    let (here, there) = tokio::join!(world.get_many(20), sibling.get_many(&world, 20));
    assert_all(&[here, there].concat(), 200);
    server.assert_token_requests(
        4,
        "the backup caused more than the one token request for the expired token",
    );
    assert_eq!(
        server.requests()[3].param("refresh_token"),
        Some(&*newest),
        "a refresh token other than the newest was presented"
    );
    world.assert_stored(4);
    eventually("both have it", || {
        [world.status().generation, sibling.status().generation] == [Generation(4); 2]
    })
    .await;
}

/// A restored backup is also detected if a reload precedes the next refresh.
#[tokio::test]
async fn a_reload_does_not_forget_that_a_backup_was_put_back() {
    let (world, sibling, backup) = with_a_backup().await;
    sibling.stop().await;
    let server = &world.authorization_server;
    let newest = server.current_refresh_token();
    std::fs::write(world.state().join("api.json"), &backup).unwrap();
    // The server ignores this change, but it gives the credential a new slot.
    let mut settings = world.settings();
    settings.credentials[0].token.lifetime = Some(Duration::from_secs(1800));
    world.app().reload(settings).await.unwrap();
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    server.assert_token_requests(
        4,
        "the backup caused more than the one token request for the expired token",
    );
    assert_eq!(
        server.requests()[3].param("refresh_token"),
        Some(&*newest),
        "a refresh token other than the newest was presented"
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
        "the first replica does not report that a login is needed: {}",
        world.status().condition
    );
    assert!(
        matches!(sibling.status().condition, Condition::NeedsLogin(_)),
        "the second replica does not report that a login is needed: {}",
        sibling.status().condition
    );
    world.assert_needs_login("revoked");

    // A new seed recovers it, like every dead grant.
    world.write_seed(&world.authorization_server.issue_refresh_token());
    world.reload().await;
    world.get("/").await.assert_ok();
    eventually("the other as well", || sibling.status().condition == Condition::Fresh).await;
    world
        .authorization_server
        .assert_token_requests(5, "the new seed must cause one token request");
}
