//! Configuration reloads: what they change and what they keep.
//!
//! Tests of the signal, the file or the log run the program. The others reload in this process.

use std::time::Duration;

use bearerd::token::{Condition, Generation};
use bearerd_test_support::{Answer, OriginConfig, OriginServer};
use rustix::process::Signal;
use serde_json::Value;

use super::program::Program;
use super::wire::{Wire, get, message, within};
use super::world::{HOURS, World, eventually};
use crate::texts::{assert_never_says, assert_says};

/// Starts a second plain http API. Returns it and the credential line with both hosts.
async fn second_api(world: &World) -> (OriginServer, String) {
    let config = OriginConfig {
        tokens: Some(world.authorization_server.tokens()),
        ..OriginConfig::default()
    };
    let other = OriginServer::start(config).await;
    let hosts = format!(r#"hosts = ["{}", "{}"]"#, world.origin.authority(), other.authority());
    (other, hosts)
}

fn hosts(world: &World) -> String {
    format!(r#"hosts = ["{}"]"#, world.origin.authority())
}

/// Reloads the program and returns the log line with the result.
async fn reload(program: &Program) -> String {
    program.signal(Signal::HUP);
    program.logs("in force").await
}

// ----- the program -----

#[tokio::test]
async fn a_new_host_gets_the_token_from_the_next_request_on() {
    let mut world = World::plain().start_servers().await;
    let (other, both) = second_api(&world).await;
    let program = Program::start(&world).await;
    let mut client = Wire::to_address(program.proxy).await;
    client.ask(&get(&world.http("/"))).await.assert_ok();
    client
        .ask(&get(&other.url("/")))
        .await
        .assert_status(401, "the host was served before the reload");
    assert_eq!(
        other.requests()[0].bearer(),
        None,
        "a token was sent to a host that is not configured"
    );

    let one = hosts(&world);
    world.configure_file(|text| text.replace(&one, &both));
    let said = reload(&program).await;
    assert_says("the output", &said, ["the new configuration is in force"]);
    // This also applies to connections from before the reload.
    client.ask(&get(&other.url("/"))).await.assert_ok();
    client.ask(&get(&world.http("/"))).await.assert_ok();
    world.authorization_server.assert_token_requests(1, "the reload caused a token request");
    program.stop().await;
}

#[tokio::test]
async fn a_removed_host_gets_no_token() {
    let mut world = World::plain().start_servers().await;
    let (other, both) = second_api(&world).await;
    let one = hosts(&world);
    world.configure_file(|text| text.replace(&one, &both));
    let program = Program::start(&world).await;
    program.get(&other.url("/")).await.assert_ok();

    world.configure_file(|text| text.replace(&both, &one));
    reload(&program).await;
    program.get(&other.url("/")).await.assert_status(401, "the removed host was still served");
    assert_eq!(
        other.requests()[1].header("authorization"),
        None,
        "a token was sent to a removed host"
    );
    program.get(&world.http("/")).await.assert_ok();
    world.authorization_server.assert_token_requests(1, "the reload caused a token request");
    program.stop().await;
}

#[tokio::test]
async fn requests_under_way_are_finished_over_a_reload() {
    let mut world = World::builder().start_servers().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.origin.clear();
    world.origin.hold_after_check();
    let mut client = Wire::to_address(program.proxy).await;
    client.send(message(&get(&world.http("/bytes/300000")))).await;
    world.origin.wait_for_verdicts(1).await;
    world.origin.enqueue(Answer::Chunks(vec!["one".into(), "two".into()]));
    let mut streaming = Wire::to_address(program.proxy).await;
    streaming.send(message(&get(&world.http("/")))).await;
    world.origin.wait_for_verdicts(2).await;

    // Remove the credential itself.
    world.configure_file(|text| text.split("[credential.api]").next().unwrap().to_owned());
    reload(&program).await;
    world.origin.release_all();
    let reply = client.reply().await;
    assert_eq!(
        (reply.status, reply.content.len()),
        (200, 300_000),
        "the reload interrupted a download"
    );
    world.origin.release_chunk();
    streaming.reply_head().await.assert_ok();
    assert_eq!(streaming.chunk().await, b"one", "the first chunk of the stream is missing");
    world.origin.release_chunk();
    assert_eq!(streaming.chunk().await, b"two", "the second chunk of the stream is missing");
    assert_eq!(streaming.chunk().await, b"", "the stream did not end");
    program.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_for_a_token_gets_it_over_a_reload() {
    let mut world = World::plain().start_servers().await;
    let server = &world.authorization_server;
    let program = Program::start(&world).await;
    server.hold();
    let mut client = Wire::to_address(program.proxy).await;
    client.send(message(&get(&world.http("/")))).await;
    server.wait_for_token_requests(1).await;
    // The token configuration changes while the old flight still holds the lock.
    world.configure_file(|text| format!("{text}\nlifetime = \"30m\"\n"));
    reload(&program).await;
    world.authorization_server.release_all();
    client.reply().await.assert_ok();
    program.get(&world.http("/")).await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(1, "the token request was repeated after the reload");
    world.authorization_server.assert_no_reuse();
    program.stop().await;
}

#[tokio::test]
async fn a_bad_file_keeps_the_previous_configuration_in_force_and_logs_why() {
    let mut world = World::plain().start_servers().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let good = std::fs::read_to_string(world.dir.path().join("proxy.toml")).unwrap();
    world.configure_file(|text| text.replace("client_id =", "cleint_id ="));
    program.signal(Signal::HUP);
    let said = program.logs("stays in force").await;
    assert_says("the output", &said, ["problems"]);
    let named = program.logs("proxy.toml:").await;
    assert_never_says("the log line", &named, ["test-client-secret"]);
    program.logs("cleint_id").await;
    program.get(&world.http("/")).await.assert_ok();
    let mut admin = Wire::to_address(program.admin).await;
    let metrics = admin.ask(&["GET /metrics HTTP/1.1", "Host: localhost"]).await.text();
    assert_says("the metrics", &metrics, ["bearerd_reloads_total{outcome=\"failure\"} 1\n"]);

    // A file that is being copied.
    std::fs::write(world.dir.path().join("proxy.toml"), "").unwrap();
    program.signal(Signal::HUP);
    program.logs("it is empty now").await;
    program.get(&world.http("/")).await.assert_ok();

    // A missing file, then the valid one again.
    std::fs::remove_file(world.dir.path().join("proxy.toml")).unwrap();
    program.signal(Signal::HUP);
    let failed_thrice = async {
        loop {
            let metrics = admin.ask(&["GET /metrics HTTP/1.1", "Host: localhost"]).await.text();
            if metrics.contains("bearerd_reloads_total{outcome=\"failure\"} 3\n") {
                return;
            }
        }
    };
    within(failed_thrice).await;
    program.get(&world.http("/")).await.assert_ok();
    world.configure_file(|_| good);
    program.signal(Signal::HUP);
    program.logs("the new configuration is in force").await;
    program.get(&world.http("/")).await.assert_ok();
    world.authorization_server.assert_token_requests(1, "an invalid file caused a token request");
    program.stop().await;
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_and_change_nothing() {
    let mut world = World::plain().start_servers().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.configure_file(|text| {
        let text = text.replacen("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"", 1);
        text.replacen("threads = 2", "threads = 1", 1)
            + "\n[store]\nurl = \"file:elsewhere\"\n[ca]\ndir = \"other-certs\"\n"
    });
    let said = reload(&program).await;
    for key in ["proxy.listen", "proxy.threads", "[store]", "[ca]"] {
        assert_says(&format!("{key}: the output"), &said, [key]);
    }
    assert_says("the output", &said, ["restart"]);
    assert_never_says("the output", &said, ["admin.listen"]);
    program.get(&world.http("/")).await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(1, "a reload without changes caused a token request");
    assert!(
        !world.dir.path().join("elsewhere").exists(),
        "a store that needs a restart was created"
    );
    assert!(
        !world.dir.path().join("other-certs").exists(),
        "a CA that needs a restart was created"
    );
    program.stop().await;
}

#[tokio::test]
async fn command_line_options_also_apply_to_a_reload() {
    let mut world = World::plain().start_servers().await;
    let listen = ["--listen", "127.0.0.1:0", "--log-format", "json"];
    let program = Program::start_with(world.dir.path(), &listen, &[]).await;
    world.configure_file(|text| {
        text.replacen("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:8080\"", 1)
    });
    let said = reload(&program).await;
    assert_never_says("the output", &said, ["restart"]);
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
}

#[tokio::test]
async fn a_corrected_client_secret_is_tried_at_once() {
    let world = World::plain().start_servers().await;
    let server = &world.authorization_server;
    world.write_client_secret("a-mistyped-secret");
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    program.get(&world.http("/")).await.assert_no_token();
    server.assert_token_requests(1, "a wrong client secret was retried before a change");
    world.write_client_secret("test-client-secret");
    reload(&program).await;
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(2, "the corrected client secret must cause one token request");
    server.assert_no_reuse();
    let log = program.stop().await;
    assert_never_says("the log", &log, ["a-mistyped-secret", "test-client-secret"]);
}

#[tokio::test]
async fn a_new_seed_heals_a_dead_grant_without_a_restart() {
    let world = World::plain().start_servers().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    let seed = server.issue_refresh_token();
    world.write_seed(&seed);
    reload(&program).await;
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(2, "the new seed must cause one token request");
    assert_eq!(
        server.requests()[1].param("refresh_token"),
        Some(&*seed),
        "the new seed was not presented"
    );
    assert_eq!(
        world.record()["terminal"],
        Value::Null,
        "the record still says that a login is needed"
    );
    program.stop().await;
}

// ----- in this process -----

/// Changes each key that needs a restart, one at a time.
#[tokio::test]
async fn each_key_that_needs_a_restart_is_named() {
    for (key, before, after) in [
        ("proxy.listen", "\"127.0.0.1:0\"\nthreads", "\"127.0.0.1:1\"\nthreads"),
        ("proxy.threads", "threads = 2", "threads = 1"),
        ("proxy.shutdown_grace", "threads = 2", "threads = 2\nshutdown_grace = \"3s\""),
        ("[store]", "[tls]", "[store]\nurl = \"file:elsewhere\"\n[tls]"),
        ("[ca]", "[tls]", "[ca]\ndir = \"elsewhere\"\n[tls]"),
        ("admin.listen", "\"127.0.0.1:0\"\n[tls]", "\"127.0.0.1:1\"\n[tls]"),
        ("log.format", "[tls]", "[log]\nformat = \"json\"\n[tls]"),
        ("limits.connections", "[tls]", "[limits]\nconnections = 7\n[tls]"),
        ("limits.connections", "[tls]", "[limits]\nconnections_per_peer = 7\n[tls]"),
    ] {
        let mut world = World::new().await;
        world.configure(|text| {
            assert_says(&format!("{key}: the answer"), text, [before]);
            text.replacen(before, after, 1)
        });
        assert_eq!(world.reload().await, [key], "{key} is not reported as requiring a restart");
    }
}

/// A reload is compared with the running configuration, not with the previous reload.
#[tokio::test]
async fn a_key_that_needs_a_restart_is_named_until_it_is_reverted() {
    let mut world = World::new().await;
    world.configure(|text| text.replacen("threads = 2", "threads = 1", 1));
    for _ in 0..2 {
        assert_eq!(
            world.reload().await,
            ["proxy.threads"],
            "the key that needs a restart is reported only once"
        );
    }
    world.configure(|text| text.replacen("threads = 1", "threads = 2", 1));
    assert_eq!(world.reload().await, Vec::<&str>::new(), "a reverted key is still reported");
}

/// The admin listener shows the configuration in force.
#[tokio::test]
async fn a_removed_credential_is_no_longer_reported() {
    let second = r#"[credential.second]
hosts = ["second.test"]
token_url = "@token_url@"
client_id = "test-client"
client_secret = { file = "secret" }
grant = "client_credentials"
"#;
    let mut world = World::builder().sections(second).start().await;
    assert_eq!(names(&world).await, ["api", "second"], "unexpected credentials are listed");
    let series = "bearerd_credential_state{credential=\"second\"";
    assert!(
        world.ask_admin("/metrics").await.text().contains(series),
        "the metrics lack the second credential"
    );
    world.configure(|text| {
        let (before, rest) = text.split_once("[credential.second]").unwrap();
        let (_, after) = rest.split_once("[credential.api]").unwrap();
        format!("{before}[credential.api]{after}")
    });
    world.reload().await;
    assert_eq!(names(&world).await, ["api"], "the removed credential is still listed");
    let metrics = world.ask_admin("/metrics").await.text();
    assert_never_says("the metrics", &metrics, [series]);
    assert_says("the metrics", &metrics, ["bearerd_credential_state{credential=\"api\""]);
}

/// Returns the credentials listed by the admin listener, sorted.
async fn names(world: &World) -> Vec<String> {
    let listed = world.ask_admin("/api/v1/credentials").await;
    let listed: Value = serde_json::from_slice(&listed.content).unwrap();
    let listed = listed["credentials"].as_array().unwrap();
    let mut names: Vec<_> =
        listed.iter().map(|credential| credential["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn tokens_are_kept_over_reloads_of_anything_else() {
    let mut world = World::settled().await;
    world.configure(|text| {
        format!("{text}\n[log]\naccess = \"off\"\n[limits]\nbody_bytes = 1000\n")
    });
    assert_eq!(
        world.reload().await,
        Vec::<&str>::new(),
        "a reload of other keys is reported as requiring a restart"
    );
    assert_eq!(world.status().generation, Generation(1), "the reload replaced the token");
    assert_eq!(
        world.status().condition,
        Condition::Fresh,
        "the reload changed the state of the token"
    );
    world.get("/").await.assert_ok();
    let large = world.client().post(world.http("/")).body(vec![b'x'; 2000]);
    assert_eq!(large.send().await.unwrap().status(), 413, "the new limit does not apply");
    world.authorization_server.assert_token_requests(1, "the reload caused a token request");
}

/// Some keys of the credential changed, but its token is still valid.
#[tokio::test]
async fn a_token_is_kept_over_a_change_of_its_own_credential() {
    let mut world = World::settled().await;
    world.configure(|text| {
        text.replace("client_id =", "margin = \"30s\"\ntimeout = \"9s\"\nclient_id =")
    });
    world.reload().await;
    world.get("/").await.assert_ok();
    assert_eq!(
        world.status().generation,
        Generation(1),
        "the reload of its own credential replaced the token"
    );
    world
        .authorization_server
        .assert_token_requests(1, "the reload of its own credential caused a token request");
}

#[tokio::test]
async fn a_token_in_flight_is_adopted_by_the_changed_credential() {
    let mut world = World::settled().await;
    world.clock.advance(HOURS);
    let before = world.begin_refresh().await;
    world.configure(|text| text.replace("client_id =", "margin = \"30s\"\nclient_id ="));
    world.reload().await;
    let after = world.spawn_get();
    world.authorization_server.release_all();
    before.await.unwrap().assert_ok();
    after.await.unwrap().assert_ok();
    world
        .authorization_server
        .assert_token_requests(2, "the changed credential repeated the token request in progress");
    world.authorization_server.assert_no_reuse();
}

/// The request is for an old host, which may be unrelated to the new grant.
#[tokio::test]
async fn a_request_from_before_a_reload_never_gets_a_token_of_the_new_grant() {
    let mut world = World::plain().settled().await;
    let (other, _) = second_api(&world).await;
    world.clock.advance(Duration::from_secs(60));
    world.origin.clear();
    world.authorization_server.tokens().revoke_all_access_tokens();
    world.origin.hold_after_check();
    let request = world.spawn_get();
    world.origin.wait_for_verdicts(1).await;

    let seed = world.authorization_server.issue_refresh_token();
    world.write_seed(&seed);
    let (one, another) = (hosts(&world), format!(r#"hosts = ["{}"]"#, other.authority()));
    world.configure(|text| text.replace(&one, &another));
    world.reload().await;
    let there = world.client().get(other.url("/")).send().await.unwrap();
    assert_eq!(there.status(), 200, "the new grant does not serve its own host");
    world.origin.release_all();
    request
        .await
        .unwrap()
        .assert_status(401, "the rejection did not reach the client of the old configuration");
    world.origin.assert_requests(
        1,
        "the request of the old configuration was repeated with the new grant's token",
    );
    world
        .authorization_server
        .assert_token_requests(2, "the new grant must cause one token request");
}

/// The new token is only in memory because it cannot be stored. A reload must not return to the
/// previous token.
#[tokio::test]
async fn a_token_that_could_not_be_saved_is_kept_over_a_change_of_its_credential() {
    let mut world = World::settled().await;
    world.clock.advance(HOURS);
    // Writes fail because the directory is missing.
    let (state, away) = (world.state(), world.dir.path().join("away"));
    let request = world.begin_refresh().await;
    std::fs::rename(&state, &away).unwrap();
    world.authorization_server.release_all();
    request.await.unwrap().assert_ok();
    assert!(world.status().is_unsaved, "the token was saved although writes fail");
    world.configure(|text| text.replace("client_id =", "margin = \"30s\"\nclient_id ="));
    world.reload().await;
    world.get("/").await.assert_ok();
    std::fs::rename(&away, &state).unwrap();
    let server = &world.authorization_server;
    let saved = || world.record()["refresh_token"] == server.current_refresh_token();
    eventually("it is saved", saved).await;
    world.get("/").await.assert_ok();
    server.assert_token_requests(2, "the unsaved token was lost in the reload");
    server.assert_no_reuse();
}
