//! Durability: kills at any moment, restarts, new seeds, damaged records and a failing disk.
//!
//! Where the process has to die for real, the tests run the program itself ([`Program`]).

use std::collections::BTreeSet;
use std::time::Duration;

use bearerd::token::Condition;
use bearerd_test_support::{ExpiresIn, OnReuse, Rotation, TokenBehaviour};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::program::Program;
use super::stopwatch::Stopwatch;
use super::world::{HOURS, MINUTE, TO_MARGIN, World, eventually};
use crate::texts::assert_says;

/// A server that forgives an answer that got lost.
const FORGIVING: Rotation =
    Rotation::Rotate { grace: Duration::from_secs(30), on_reuse: OnReuse::RevokeFamily };

// ----- kill -9 -----

const ROUNDS: usize = 40;

/// Makes requests until the proxy is gone; returns an error at the first answer that is not a 200.
async fn drive(client: reqwest::Client, url: String) -> Result<usize, String> {
    let mut answered = 0;
    loop {
        match client.get(&url).send().await {
            Ok(response) if response.status() == 200 => answered += 1,
            Ok(response) => return Err(format!("{}", response.status())),
            Err(_) => return Ok(answered),
        }
    }
}

/// Rows 20 and 22: kills at moments that differ from round to round, some while the answer to a
/// token request is on its way, which is then lost.
#[tokio::test]
async fn whenever_the_process_is_killed_the_record_holds_a_refresh_token_that_works() {
    let world = World::plain()
        .authorization_server(|config| {
            config.rotation = FORGIVING;
            // Tokens expire after 200 ms and are replaced after some 100 ms, so refreshes are frequent.
            config.expires_in = ExpiresIn::Json(json!(0.2));
        })
        .start_servers()
        .await;
    let server = &world.authorization_server;
    let (mut answered, mut refreshed) = (0, BTreeSet::new());
    for round in 0..ROUNDS {
        let before = server.token_requests();
        let program = Program::start(&world).await;
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            clients.spawn(drive(program.client(), world.http("/")));
        }
        server.wait_for_token_requests(before + 1 + round % 3).await;
        if round % 4 == 0 {
            server.enqueue(TokenBehaviour::Stall { commit_first: true });
            let committed = server.token_requests() + 1;
            server.wait_for_token_requests(committed).await;
        }
        // Varies the moment of the kill between 0 and 33 ms.
        tokio::time::sleep(Duration::from_micros(round as u64 * 2741 % 33_000)).await;
        program.kill().await;
        server.release_all();
        for clients in clients.join_all().await {
            answered += clients.unwrap_or_else(|status| panic!("round {round}: {status}"));
        }
        eventually("the server has dealt with everything", || {
            server.answered() == server.token_requests()
        })
        .await;

        let stored = world.record();
        let token = stored["refresh_token"].as_str().unwrap().to_owned();
        let requests = server.requests();
        let presented = requests.last().unwrap().param("refresh_token").unwrap();
        assert!(
            token == server.current_refresh_token() || token == presented,
            "round {round}: the record is two refreshes behind"
        );
        assert_eq!(
            stored["terminal"],
            Value::Null,
            "round {round}: the record says that a login is needed"
        );
        refreshed.insert(stored["generation"].as_u64().unwrap());
        assert_eq!(
            server.reuse_count(),
            0,
            "round {round}: a refresh token was presented after it had been replaced"
        );
    }
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    assert!(answered > ROUNDS / 2, "{answered} requests in {ROUNDS} rounds");
    assert!(
        refreshed.len() > ROUNDS / 3,
        "the kills came too seldom after a refresh to show anything: {refreshed:?}"
    );
    let names: Vec<_> = std::fs::read_dir(world.state())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("corrupt"))
        .collect();
    assert_eq!(names, [""; 0], "a kill has left a record that cannot be read");
}

/// Row 20.
#[tokio::test]
async fn an_answer_lost_by_a_kill_is_asked_for_again_within_the_grace() {
    let world = World::plain()
        .authorization_server(|config| config.rotation = FORGIVING)
        .start_servers()
        .await;
    lose_an_answer(&world).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let server = &world.authorization_server;
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "the lost answer has to cost one more token request");
    assert_eq!(
        requests[0].param("refresh_token"),
        requests[1].param("refresh_token"),
        "another refresh token was presented after the kill"
    );
    world.assert_newest_refresh_token_is_stored();
    server.assert_no_reuse();
}

/// Row 21.
#[tokio::test]
async fn an_answer_lost_by_a_kill_ends_as_a_lost_rotation_where_the_server_is_strict() {
    let world = World::plain().start_servers().await;
    lose_an_answer(&world).await;
    assert_ne!(
        world.record()["attempt"],
        Value::Null,
        "the record does not say that a refresh was begun"
    );
    let server = &world.authorization_server;
    for _ in 0..2 {
        let program = Program::start(&world).await;
        let client = program.client();
        for _ in 0..100 {
            let response = client.get(world.http("/")).send().await.unwrap();
            assert_eq!(
                response.status(),
                503,
                "a request was served although the rotation is lost"
            );
            let status = response.headers()["proxy-status"].to_str().unwrap().to_owned();
            assert_says("Proxy-Status", &status, ["credential_needs_login"]);
        }
        server
            .assert_token_requests(2, "a refresh token that is lost was presented more than twice");
        world.assert_needs_login("lost_rotation");
        program.kill().await;
    }
}

/// The process dies after the server has answered and before it has read the answer.
async fn lose_an_answer(world: &World) {
    let server = &world.authorization_server;
    server.enqueue(TokenBehaviour::Stall { commit_first: true });
    let program = Program::start(world).await;
    let waiting = tokio::spawn(program.client().get(world.http("/")).send());
    server.wait_for_committed(1).await;
    program.kill().await;
    assert!(
        waiting.await.unwrap().is_err(),
        "the request was answered although its program was killed"
    );
    server.release_all();
}

/// The request was sent, and the server had not dealt with it when the process died.
#[tokio::test]
async fn a_kill_before_the_server_acts_costs_nothing_but_a_second_request() {
    let world = World::plain().start_servers().await;
    let server = &world.authorization_server;
    server.enqueue(TokenBehaviour::Stall { commit_first: false });
    server.enqueue(TokenBehaviour::Normal);
    let program = Program::start(&world).await;
    let waiting = tokio::spawn(program.client().get(world.http("/")).send());
    server.wait_for_token_requests(1).await;
    program.kill().await;
    assert!(
        waiting.await.unwrap().is_err(),
        "the request was answered although its program was killed"
    );
    // The server has still not processed it, so the next process is first.
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.assert_newest_refresh_token_is_stored();
}

/// Row 19, with two processes on one machine.
#[tokio::test]
async fn two_processes_on_one_store_make_one_token_request() {
    let world = World::plain()
        .authorization_server(|config| config.expires_in = ExpiresIn::Seconds(30))
        .start_servers()
        .await;
    let server = &world.authorization_server;
    let (first, second) = (Program::start(&world).await, Program::start(&world).await);
    let both = [first.client(), second.client()];
    let many = |n: usize| {
        let mut requests = JoinSet::new();
        for number in 0..n {
            requests.spawn(both[number % 2].get(world.http("/")).send());
        }
        async move {
            for response in requests.join_all().await {
                assert_eq!(response.unwrap().status(), 200, "a request failed");
            }
        }
    };
    many(100).await;
    server.assert_token_requests(1, "two processes have to make one token request");
    // New tokens first get a propagation delay of three seconds.
    server.tokens().revoke_all_access_tokens();
    many(100).await;
    server
        .assert_token_requests(2, "the revoked token has to cost one token request of one process");
    assert_eq!(world.record()["generation"], 2, "the token was refreshed more than once");
    server.assert_no_reuse();
}

#[tokio::test]
async fn a_shutdown_waits_for_the_answer_of_a_token_request() {
    let mut world = World::plain().settled().await;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    request.abort();
    let app = world.take_app();
    let stopping = tokio::spawn(app.shutdown());
    world.authorization_server.release_all();
    stopping.await.unwrap();
    let record = world.record();
    assert_eq!(record["generation"], 2, "the shutdown did not wait for the token request");
    assert_eq!(
        record["refresh_token"],
        world.authorization_server.current_refresh_token(),
        "the new refresh token was lost in the shutdown"
    );
}

// ----- restarts and seeds -----

/// Row 27.
#[tokio::test]
async fn a_restart_with_the_original_seed_goes_on_with_the_stored_token() {
    let mut world = World::settled().await;
    for generation in 2..=5 {
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
        assert_eq!(
            world.record()["generation"],
            generation,
            "the expired token was not replaced by the next generation"
        );
    }
    world.restart().await;
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(5, "the stored token was not used after the restart");
    world.clock.advance(HOURS);
    world.restart().await;
    world.get("/").await.assert_ok();
    let server = &world.authorization_server;
    server.assert_token_requests(6, "the restart went on with another token than the stored one");
    assert_eq!(
        world.record()["generation"],
        6,
        "the restart has not gone on with the stored generation"
    );
    world.assert_newest_refresh_token_is_stored();
    server.assert_no_reuse();
}

/// Row 27 when an operator restores the original seed after another one.
#[tokio::test]
async fn a_seed_that_was_used_before_never_wins_again() {
    let mut world = World::settled().await;
    let original = world.authorization_server.previous_refresh_tokens()[0].clone();
    let second = world.authorization_server.issue_refresh_token();
    for seed in [&second, &original] {
        world.write_seed(seed);
        world.clock.advance(HOURS);
        world.restart().await;
        world.get("/").await.assert_ok();
    }
    let server = &world.authorization_server;
    server.assert_token_requests(
        3,
        "each seed that is new has to cost one token request, and one that was used none",
    );
    server.assert_no_reuse();
    world.assert_newest_refresh_token_is_stored();
}

/// Row 28.
#[tokio::test]
async fn a_new_seed_heals_a_dead_grant() {
    let mut world = World::settled().await;
    world.authorization_server.revoke_refresh_token();
    world.clock.advance(HOURS);
    world.get("/").await.assert_no_token();
    world.assert_needs_login("revoked");
    let seed = world.authorization_server.issue_refresh_token();
    world.write_seed(&seed);
    world.restart().await;
    world.get("/").await.assert_ok();
    let server = &world.authorization_server;
    server.assert_token_requests(3, "the new seed has to cost one token request");
    assert_eq!(
        server.requests()[2].param("refresh_token"),
        Some(&*seed),
        "the new seed was not presented"
    );
    let record = world.record();
    assert_eq!(
        (&record["terminal"], &record["rejected"]),
        (&Value::Null, &Value::Null),
        "the record still says that a login is needed or that the token was rejected"
    );
    assert!(
        record["generation"].as_u64() > Some(1),
        "the new grant began with a number that was used before"
    );
    assert_eq!(
        record["refresh_token"],
        server.current_refresh_token(),
        "the newest refresh token is not in the record"
    );
}

/// Row 28: the new seed may belong to another account.
#[tokio::test]
async fn a_new_seed_wins_over_an_access_token_that_is_still_good() {
    let mut world = World::settled().await;
    let seed = world.authorization_server.issue_refresh_token();
    world.write_seed(&seed);
    world.restart().await;
    world.get("/").await.assert_ok();
    let server = &world.authorization_server;
    server.assert_token_requests(2, "the new seed has to cost one token request");
    assert_eq!(
        server.requests()[1].param("refresh_token"),
        Some(&*seed),
        "the new seed was not presented"
    );
    assert_eq!(
        world.tokens_seen(),
        [server.tokens().newest_access_token().unwrap()],
        "the access token of the old grant was sent"
    );
    world.assert_newest_refresh_token_is_stored();
}

/// Row 34, across restarts.
#[tokio::test]
async fn a_dead_grant_stays_dead_through_a_restart_without_a_token_request() {
    let mut world = World::settled().await;
    world.authorization_server.revoke_refresh_token();
    world.clock.advance(HOURS);
    world.get("/").await.assert_no_token();
    for _ in 0..3 {
        world.restart().await;
        assert!(
            matches!(world.status().condition, Condition::NeedsLogin(_)),
            "a restart has brought a dead grant back: {}",
            world.status().condition
        );
        world.get("/").await.assert_no_token();
    }
    world
        .authorization_server
        .assert_token_requests(2, "a dead grant was presented again after a restart");
    world.assert_needs_login("revoked");
}

#[tokio::test]
async fn a_rejected_token_is_not_used_again_after_a_restart() {
    let mut world = World::settled().await;
    let server = &world.authorization_server;
    server.tokens().revoke_all_access_tokens();
    server.enqueue(TokenBehaviour::json(429, json!({})).with_header("retry-after", "60"));
    world.get("/").await.assert_status(
        401,
        "the API's rejection did not reach the client while the server asked to wait",
    );
    world.restart().await;
    world.origin.clear();
    world.get("/").await.assert_no_token();
    world.clock.advance(Duration::from_secs(61));
    world.get("/").await.assert_ok();
    world.origin.assert_requests(1, "the rejected token was sent again after the restart");
    world
        .authorization_server
        .assert_token_requests(3, "the server was asked before the time that it had named");
}

// ----- damaged records -----

/// Row 22: a temporary file that a kill between writing and renaming has left.
#[tokio::test]
async fn a_half_written_temporary_file_is_neither_read_nor_kept() {
    let mut world = World::settled().await;
    world.stop().await;
    let litter = world.state().join(".api.json.Ab12.tmp");
    std::fs::write(&litter, b"{\"bearerd\": 1, \"sha2").unwrap();
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(1, "a temporary file has cost a token request");
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    assert_eq!(
        world.record()["generation"],
        2,
        "the expired token was not replaced by the next generation"
    );
    assert!(!litter.exists(), "the temporary file was left behind");
}

/// Row 22: without rotation the seed still works.
#[tokio::test]
async fn a_torn_record_is_moved_aside_and_the_seed_tried() {
    for keep in [0, 1, 200] {
        let builder =
            World::builder().authorization_server(|config| config.rotation = Rotation::Keep);
        let mut world = builder.settled().await;
        world.stop().await;
        let path = world.state().join("api.json");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..keep]).unwrap();
        world.start_proxy().await;
        world.get("/").await.assert_status(200, format!("{keep} bytes"));
        world
            .authorization_server
            .assert_token_requests(2, format!("{keep} bytes: the seed was not tried once"));
        assert_eq!(
            std::fs::read(moved_aside(&world)).unwrap(),
            &bytes[..keep],
            "{keep} bytes: the torn record was not moved aside as it was"
        );
        world.assert_newest_refresh_token_is_stored();
    }
}

/// Row 22: the server refuses the seed because it was used long ago.
#[tokio::test]
async fn a_torn_record_whose_seed_is_used_up_costs_one_token_request_and_is_named_corrupt() {
    let mut world = World::settled().await;
    world.stop().await;
    std::fs::write(world.state().join("api.json"), b"{\"bearerd\"").unwrap();
    for _ in 0..2 {
        world.start_proxy().await;
        for _ in 0..10 {
            world.get("/").await.assert_no_token();
        }
        world
            .authorization_server
            .assert_token_requests(2, "the used seed was presented more than once");
        world.assert_needs_login("corrupt");
        assert!(moved_aside(&world).exists(), "the torn record was not moved aside");
        world.stop().await;
    }
}

/// A process that holds the record writes it back, whether it has made or only read it.
#[tokio::test]
async fn a_record_that_is_damaged_or_gone_while_the_proxy_runs_is_written_back() {
    for restarted in [false, true] {
        for damage in [Some(b"{\"bearerd\": 1"), None] {
            let mut world = World::settled().await;
            if restarted {
                world.restart().await;
            }
            let path = world.state().join("api.json");
            match damage {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            world.clock.advance(HOURS);
            let case = format!("restarted: {restarted}, removed: {}", damage.is_none());
            world.get("/").await.assert_status(200, &case);
            let server = &world.authorization_server;
            server.assert_token_requests(2, &case);
            server.assert_no_reuse();
            assert_eq!(world.record()["generation"], 2, "{case}: another generation is stored");
            assert_eq!(
                world.record()["refresh_token"],
                server.current_refresh_token(),
                "{case}: the newest refresh token is not in the record"
            );
        }
    }
}

/// The refresh token that was being exchanged when the record vanished must not be lost either.
#[tokio::test]
async fn a_record_that_vanishes_during_a_token_request_is_written_anew() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    std::fs::remove_file(world.state().join("api.json")).unwrap();
    server.release_all();
    request.await.unwrap().assert_ok();
    eventually("the record is there", || world.state().join("api.json").exists()).await;
    world.assert_newest_refresh_token_is_stored();
    server.assert_token_requests(2, "a record that vanished has cost another token request");
}

fn moved_aside(world: &World) -> std::path::PathBuf {
    let entries = std::fs::read_dir(world.state()).unwrap().map(|entry| entry.unwrap().path());
    let mut found = entries.filter(|path| path.to_string_lossy().contains("api.corrupt-"));
    found.next().unwrap()
}

// ----- a disk in trouble -----

/// Ways to make the state directory unwritable that also stop root.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// It is gone, as after an unmount.
    Gone,
    /// Something else is in its place.
    NotADirectory,
}

impl Trouble {
    fn begin(self, world: &World) {
        std::fs::rename(world.state(), world.dir.path().join("away")).unwrap();
        if let Self::NotADirectory = self {
            std::fs::write(world.state(), b"").unwrap();
        }
    }

    fn end(self, world: &World) {
        if let Self::NotADirectory = self {
            std::fs::remove_file(world.state()).unwrap();
        }
        std::fs::rename(world.dir.path().join("away"), world.state()).unwrap();
    }
}

async fn readiness(world: &World) -> Value {
    let reply = world.ask_admin("/readyz").await;
    reply.assert_ok();
    serde_json::from_slice(&reply.content).unwrap()
}

/// Row 26.
#[tokio::test]
async fn a_token_that_cannot_be_saved_is_served_and_saved_later() {
    for trouble in [Trouble::NotADirectory, Trouble::Gone] {
        for generation in [1, 2] {
            let world = match generation {
                1 => World::new().await,
                _ => World::settled().await,
            };
            save_later(&world, generation, trouble).await;
        }
    }
}

async fn save_later(world: &World, generation: u64, trouble: Trouble) {
    let case = format!("generation {generation}, {trouble:?}");
    let server = &world.authorization_server;
    let requests = server.token_requests() + 1;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    trouble.begin(world);
    let released = Stopwatch::start();
    server.release_all();
    request.await.unwrap().assert_status(200, &case);
    assert!(
        released.elapsed() < Duration::from_secs(3),
        "{case}: it took too long: {:?}",
        released.elapsed()
    );
    let probe = readiness(world).await;
    assert_eq!(
        probe["status"], "degraded",
        "{case}: the probe does not say that something is wrong"
    );
    assert_eq!(
        probe["credentials"][0]["unsaved"], true,
        "{case}: the probe does not say that the token is unsaved"
    );
    assert!(
        probe["credentials"][0]["next"].as_str().unwrap().contains("writable"),
        "{case}: the probe does not say what to do"
    );
    for reply in world.get_many(10).await {
        reply.assert_status(200, &case);
    }

    trouble.end(world);
    eventually("it is saved", || !world.status().is_unsaved).await;
    let record = world.record();
    assert_eq!(record["generation"], generation, "{case}: another generation is stored");
    assert_eq!(
        record["refresh_token"],
        server.current_refresh_token(),
        "{case}: the newest refresh token is not in the record"
    );
    assert_eq!(
        readiness(world).await["status"],
        "ok",
        "{case}: the probe still says that something is wrong after the token was saved"
    );
    server.assert_token_requests(requests, &case);
    server.assert_no_reuse();
}

/// I3: with a usable token, a refresh whose attempt cannot be stored is not started.
#[tokio::test]
async fn near_expiry_nothing_is_refreshed_that_could_not_be_saved() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(TO_MARGIN);
    Trouble::NotADirectory.begin(&world);
    world.get("/").await.assert_ok();
    let failed = || matches!(world.status().condition, Condition::Failing(_));
    eventually("the refresh has been given up", failed).await;
    server.assert_token_requests(1, "a refresh was begun that could not be saved");
    Trouble::NotADirectory.end(&world);
    world.clock.advance(MINUTE);
    world.get("/").await.assert_ok();
    eventually("it has been made up for", || world.status().generation.0 == 2).await;
    server.assert_token_requests(2, "the refresh was not made up for by one token request");
}

/// A token that is only in memory is refreshed with its unsaved refresh token.
#[tokio::test]
async fn an_unsaved_token_can_expire_and_be_replaced_before_the_disk_recovers() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    Trouble::NotADirectory.begin(&world);
    server.release_all();
    request.await.unwrap().assert_ok();
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    server.assert_token_requests(3, "the unsaved refresh token was not the one that was used");
    server.assert_no_reuse();
    Trouble::NotADirectory.end(&world);
    eventually("it is saved", || !world.status().is_unsaved).await;
    assert_eq!(world.record()["generation"], 3, "the newest generation was not written");
    world.assert_newest_refresh_token_is_stored();
}
