//! Tokens after a crash, repeated bootstraps, and the cost of idle tokens.

use std::time::Duration;

use bearerd_test_support::{
    Answer, ExpiresIn, OriginConfig, OriginServer, TokenBehaviour, TokenRequest,
};
use rustix::process::Signal;
use serde_json::json;

use super::super::program::Program;
use super::super::stopwatch::Stopwatch;
use super::super::world::{HOURS, MINUTE, World, WorldBuilder, eventually};
use super::{
    SECOND, assert_keeps_newest, assert_presented_once, at_rest, back_within, keeps_newest,
    with_bootstrap,
};

// ----- E1 -----

/// An API, and a step between the token endpoint and the API, which `rest` answers.
async fn with_a_step(builder: WorldBuilder) -> (World, OriginServer) {
    let rest = OriginServer::start(OriginConfig::default()).await;
    let steps = format!(
        "timeout = \"20s\"\nsteps = [{{ url = \"{}\", response = {{ access_token = \"t\" }} }}]\n\
         inject = {{ T = \"${{access_token}}\" }}",
        rest.url("/login")
    );
    let world = builder.credential(&steps).start_servers().await;
    (world, rest)
}

fn session() -> Answer {
    Answer::json(200, json!({ "t": "session" }))
}

/// Asserts that the new refresh token is stored while the step is still under way.
async fn is_on_the_disk_soon(world: &World) {
    let began = Stopwatch::start();
    eventually("the new refresh token is on the disk", || keeps_newest(world)).await;
    assert!(
        began.elapsed() <= SECOND * 2,
        "the new refresh token was not on the disk while the step was under way: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn e01_the_new_refresh_token_is_on_the_disk_before_the_steps_are_done() {
    let (world, rest) = with_a_step(World::plain()).await;
    let server = &world.authorization_server;
    let seed = server.current_refresh_token();
    rest.enqueue(Answer::Stall);
    let program = Program::start(&world).await;
    let request = tokio::spawn(program.client().get(world.http("/")).send());
    rest.wait_for_requests(1).await;
    is_on_the_disk_soon(&world).await;
    program.kill().await;
    assert!(
        request.await.unwrap().is_err(),
        "the request was answered although its program was killed"
    );

    rest.enqueue(session());
    world.origin.enqueue(Answer::status(200));
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    assert_presented_once(&world, &seed);
}

#[tokio::test]
async fn e01_a_shutdown_during_slow_steps_keeps_the_grant() {
    let (world, rest) = with_a_step(World::plain().proxy("shutdown_grace = \"1s\"")).await;
    let server = &world.authorization_server;
    let seed = server.current_refresh_token();
    rest.enqueue(Answer::Stall);
    let program = Program::start(&world).await;
    let request = tokio::spawn(program.client().get(world.http("/")).send());
    rest.wait_for_requests(1).await;
    program.signal(Signal::TERM);
    is_on_the_disk_soon(&world).await;
    // The step is still under way; the grant does not depend on whether the shutdown waits for it.
    rest.release_all();
    program.ends().await;
    let _hung_up = request.await.unwrap();
    rest.enqueue(session());
    world.origin.enqueue(Answer::status(200));
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    assert_presented_once(&world, &seed);
}

#[tokio::test]
async fn e01_a_step_that_fails_is_repeated_alone() {
    let (mut world, rest) = with_a_step(World::builder()).await;
    for _ in 0..2 {
        rest.enqueue(Answer::status(503));
    }
    rest.enqueue(session());
    world.start_proxy().await;
    world.origin.enqueue(Answer::status(200));
    let back = back_within(&world, MINUTE, SECOND * 5).await;
    assert!(
        back.is_some(),
        "the step did not work again within a minute: {}",
        world.status().condition
    );
    assert_eq!(
        world.origin.requests()[0].header("t"),
        Some("session"),
        "the token of the step was not injected"
    );
    let server = &world.authorization_server;
    server.assert_token_requests(1, "the failed step has cost another token request");
    server.assert_no_reuse();
    assert_eq!(
        rest.requests().len(),
        3,
        "the step has to be made until it succeeds, and no more often"
    );
}

/// Otherwise a rejected old token would count as the one that the steps return.
#[tokio::test]
async fn the_old_access_token_keeps_its_number_until_the_steps_are_done() {
    let (mut world, rest) = with_a_step(World::builder()).await;
    for answer in [session(), Answer::status(503), session()] {
        rest.enqueue(answer);
    }
    for _ in 0..2 {
        world.origin.enqueue(Answer::status(200));
    }
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    assert_eq!(world.record()["generation"], 1, "the first token has another number");
    world.clock.advance(HOURS);
    let waiting = world.spawn_get();
    eventually("the step is made", || rest.requests().len() == 2).await;
    assert_eq!(
        world.record()["generation"],
        1,
        "the old access token lost its number before the steps of the new one were done"
    );
    assert_keeps_newest(&world);
    waiting.await.unwrap().assert_ok();
    assert_eq!(world.record()["generation"], 2, "the new access token has no number of its own");
    world
        .authorization_server
        .assert_token_requests(2, "the expired token has to cost one token request");
}

// ----- E23 -----

fn grants(world: &World) -> Vec<String> {
    let grant = |request: &TokenRequest| request.param("grant_type").unwrap().to_owned();
    world.authorization_server.requests().iter().map(grant).collect()
}

#[tokio::test]
async fn e23_a_crash_soon_after_a_bootstrap_is_healed_by_another() {
    let builder = with_bootstrap(World::plain().without_seed());
    let world = builder
        .authorization_server(|config| config.expires_in = ExpiresIn::Json(json!(0.5)))
        .start_servers()
        .await;
    let server = &world.authorization_server;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    // The answer to the next refresh is lost with the process.
    server.decide_by(|_| TokenBehaviour::Stall { commit_first: true });
    let (client, url) = (program.client(), world.http("/"));
    let load = tokio::spawn(async move { while client.get(&url).send().await.is_ok() {} });
    server.wait_for_committed(2).await;
    server.decide_by(|_| TokenBehaviour::Normal);
    program.kill().await;
    load.await.unwrap();
    server.release_all();
    let program = Program::start(&world).await;
    // The old token may still be valid for a moment.
    let healed = async {
        while grants(&world).len() < 4 {
            program.get(&world.http("/")).await.assert_ok();
        }
    };
    super::super::wire::within(healed).await;
    assert_eq!(
        grants(&world)[..4],
        ["password", "refresh_token", "refresh_token", "password"],
        "the refresh whose answer was lost was not followed by another bootstrap"
    );
}

#[tokio::test]
async fn e23_a_second_revocation_soon_after_a_bootstrap_is_healed_too() {
    let world = with_bootstrap(World::builder()).settled().await;
    let server = &world.authorization_server;
    for revocation in 1..=2 {
        server.revoke_refresh_token();
        world.clock.advance(HOURS);
        world.get("/").await.assert_status(200, format!("revocation {revocation}"));
        world.clock.advance(MINUTE);
        server.revoke_refresh_token();
        server.tokens().revoke_all_access_tokens();
        world.get("/").await.assert_status(200, format!("soon after revocation {revocation}"));
    }
    assert_keeps_newest(&world);
}

/// Bootstraps pause if the server revokes each new grant.
#[tokio::test]
async fn e23_bootstraps_in_a_row_pause_after_the_second() {
    let world =
        with_bootstrap(World::builder()).sections("[limits]\nwait = \"2s\"").settled().await;
    let server = &world.authorization_server;
    let mut healed = 0;
    for _ in 0..8 {
        server.revoke_refresh_token();
        server.tokens().revoke_all_access_tokens();
        healed += usize::from(world.get("/").await.status == 200);
        at_rest(&world).await;
        world.clock.advance(SECOND * 5);
    }
    let logins = grants(&world).iter().filter(|grant| *grant == "password").count();
    assert!(
        (2..=4).contains(&logins),
        "{logins} logins in forty seconds, {healed} requests healed"
    );
    assert!(healed >= 2, "{healed} requests healed");
    // Bootstraps continue after the pause.
    let back = back_within(&world, MINUTE * 6, SECOND * 10).await;
    assert!(back.is_some(), "no bootstrap after the pause: {}", world.status().condition);
}

// ----- E42 -----

const MANY: usize = 1000;

#[tokio::test]
async fn e42_a_thousand_idle_tokens_use_almost_no_processor_time() {
    // Syncing a thousand records to a real disk would take longer than the test.
    let memory = std::path::Path::new("/dev/shm");
    let state = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let state = state.unwrap();
    let names: Vec<String> = (0..MANY).map(|number| format!("\"n{number}\"")).collect();
    let credential = format!(
        "grant = \"client_credentials\"\npaths = [\"/${{n}}/\"]\nvars = {{ n = [{}] }}",
        names.join(", ")
    );
    let world = World::plain()
        .without_seed()
        .credential(&credential)
        .sections(&format!("[store]\nurl = \"file:{}/records\"", state.path().display()))
        .start_servers()
        .await;
    let program = Program::start(&world).await;
    let mut clients = tokio::task::JoinSet::new();
    for lane in 0..20 {
        let client = program.client();
        let urls: Vec<_> =
            (lane..MANY).step_by(20).map(|n| world.http(&format!("/n{n}/"))).collect();
        clients.spawn(async move {
            for url in urls {
                assert_eq!(
                    client.get(url).send().await.unwrap().status(),
                    200,
                    "a slot got no token"
                );
            }
        });
    }
    clients.join_all().await;
    assert_eq!(
        world.authorization_server.token_requests(),
        MANY,
        "each slot has to make one token request"
    );
    // The window of the measurement. In the first one the program checks once more what it has written.
    let window = Duration::from_secs(4);
    let mut share = f64::MAX;
    for _ in 0..3 {
        let before = program.cpu_time();
        tokio::time::sleep(window).await;
        share = share.min((program.cpu_time() - before).as_secs_f64() / window.as_secs_f64());
        if share <= 0.01 {
            break;
        }
    }
    assert!(share <= 0.01, "{:.1} % of a core, without optimization", share * 100.0);
}
