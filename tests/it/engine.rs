//! The cases E1 to E46 of the refresh engine: what users, operators and both servers see.
//!
//! These tests do not depend on the implementation. They read answers, the requests that the servers received,
//! the files in the state directory as text, the status and the metrics.

mod answers;
mod belonging;
mod broken_answers;
mod containers;
mod damage;
mod disk;
mod faults;
mod gateways;
mod grant_end;
mod migration;
mod mtls_aliases;
mod operator;
mod outages;
mod panics;
mod rejections;
mod replaced;
mod sealing;
mod secret_commands;
mod seeds;
mod survival;
mod verdicts;
mod waits;

use std::fmt::Write;
use std::time::Duration;

use bearerd_test_support::{OnReuse, Rotation};
use serde_json::Value;

use super::wire::{Reply, Wire, within};
use super::world::{World, WorldBuilder};

const SECOND: Duration = Duration::from_secs(1);
/// A little more than the longest backoff of a failing server.
const QUARTER: Duration = Duration::from_secs(15 * 60 + 30);

/// A short wait of requests for their token, to keep the tests short.
const SHORT_WAIT: &str = "[limits]\nwait = \"300ms\"";

const BOOTSTRAP: &str =
    r#"bootstrap = { grant = "password", username = "svc", password = { file = "secret" } }"#;

/// A server that forgives an answer that got lost.
const FORGIVING: Rotation =
    Rotation::Rotate { grace: Duration::from_secs(30), on_reuse: OnReuse::RevokeFamily };

/// A credential that can log in by itself, with the client's secret as its password.
fn with_bootstrap(builder: WorldBuilder) -> WorldBuilder {
    let builder = builder.authorization_server(|config| {
        config.resource_owner = Some(("svc".to_owned(), config.client_secret.clone()));
    });
    builder.credential(BOOTSTRAP)
}

/// Starts a world whose operators have a token, and has one request answered.
async fn with_operator(builder: WorldBuilder) -> World {
    let mut world = builder.start_servers().await;
    world.write_secret("admin", "adm1n");
    world.configure_file(|text| {
        let listen = "[admin]\nlisten = \"127.0.0.1:0\"";
        text.replace(listen, &format!("{listen}\ntoken = {{ file = \"admin\" }}"))
    });
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    world.clock.advance(SECOND * 60);
    world.origin.clear();
    world
}

/// `POST /api/v1/credentials/api/refresh`; returns status and content.
async fn operator_refreshes(world: &World) -> (u16, Value) {
    let mut admin = Wire::to_address(world.app().admin_address().unwrap()).await;
    let lines = [
        "POST /api/v1/credentials/api/refresh HTTP/1.1",
        "Host: localhost",
        "Authorization: Bearer adm1n",
        "Content-Length: 0",
    ];
    let reply = admin.ask(&lines).await;
    (reply.status, serde_json::from_slice(&reply.content).unwrap_or_default())
}

/// The credential as `bearerd status --json` would show it.
async fn described(world: &World) -> Value {
    let reply = world.ask_admin("/api/v1/credentials").await;
    let all: Value = serde_json::from_slice(&reply.content).unwrap();
    all["credentials"][0].clone()
}

/// The state and its reason, such as `needs_login (revoked)`.
fn state(world: &World) -> String {
    world.status().condition.to_string()
}

/// A counter or gauge of the credential.
async fn metric(world: &World, name: &str) -> f64 {
    let metrics = world.ask_admin("/metrics").await.text();
    let series = format!("{name}{{credential=\"api\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&*series));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Everything in the state directory, as text.
fn kept(world: &World) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(world.state()).into_iter().flatten() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        writeln!(text, "{}", String::from_utf8_lossy(&bytes)).unwrap();
    }
    text
}

/// Returns true if the newest refresh token is on the disk.
fn keeps_newest(world: &World) -> bool {
    kept(world).contains(&world.authorization_server.current_refresh_token())
}

/// Asserts the state and its reason.
#[track_caller]
fn assert_state(world: &World, expected: &str) {
    let status = world.status();
    assert_eq!(
        status.condition.to_string(),
        expected,
        "the status says something else: {status:?}"
    );
}

/// Asserts that the newest refresh token is on the disk.
#[track_caller]
fn assert_keeps_newest(world: &World) {
    assert!(keeps_newest(world), "the newest refresh token is not on the disk: {}", kept(world));
}

/// Asserts that a refresh token was presented once, and none after it had been replaced.
#[track_caller]
fn assert_presented_once(world: &World, refresh_token: &str) {
    let times = presented(world, refresh_token);
    assert_eq!(times, 1, "a refresh token was not presented once but {times} times");
    world.authorization_server.assert_no_reuse();
}

/// How often the refresh token was presented.
fn presented(world: &World, refresh_token: &str) -> usize {
    world.authorization_server.presentations_of(refresh_token).len()
}

/// Waits until no token request is under way or about to be repeated.
async fn at_rest(world: &World) {
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    within(async {
        while state(world) == "refreshing" {
            pause.tick().await;
        }
    })
    .await;
}

/// Runs a test with each of its cases and reports all that fail.
async fn each<T, F>(
    cases: impl IntoIterator<Item = (impl ToString, T)>,
    test: impl Fn(String, T) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut failed = Vec::new();
    let mut all = 0;
    for (name, case) in cases {
        all += 1;
        let name = name.to_string();
        if let Err(error) = tokio::spawn(test(name.clone(), case)).await {
            let panic = error.into_panic();
            let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            failed.push(format!("{name}: {why}"));
        }
    }
    assert!(failed.is_empty(), "{} of {all} cases failed: {failed:#?}", failed.len());
}

/// Makes one request and waits until no refresh is under way.
async fn look(world: &World) -> Reply {
    let reply = world.get("/").await;
    at_rest(world).await;
    reply
}

/// Makes a request now and after each `step` of the proxy's time until one is served; returns how long it took.
async fn back_within(world: &World, limit: Duration, step: Duration) -> Option<Duration> {
    let mut waited = Duration::ZERO;
    loop {
        if look(world).await.status == 200 {
            return Some(waited);
        }
        if waited >= limit {
            return None;
        }
        world.clock.advance(step);
        waited += step;
    }
}
