//! SIGHUP: what a new configuration changes, and what it leaves alone.
//!
//! The program itself where the signal, the file or the log matters, else a reload in this process.

use std::time::Duration;

use bearerd::token::{Condition, Generation};
use bearerd_test_support::{Answer, OriginConfig, OriginServer};
use rustix::process::Signal;
use serde_json::Value;

use super::program::Program;
use super::wire::{Wire, get, message, within};
use super::world::{HOURS, World, eventually};

/// A second API in plain http and the credential line that names both hosts.
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

/// Has the program read its file again; the line that says what came of it.
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
    assert_eq!(client.ask(&get(&other.url("/"))).await.status, 401);
    assert_eq!(other.requests()[0].bearer(), None);

    let one = hosts(&world);
    world.configure_file(|text| text.replace(&one, &both));
    let said = reload(&program).await;
    assert!(said.contains("the new configuration is in force"), "{said}");
    // Also on a connection of before.
    client.ask(&get(&other.url("/"))).await.assert_ok();
    client.ask(&get(&world.http("/"))).await.assert_ok();
    assert_eq!(world.authorization_server.token_requests(), 1);
    program.stop().await;
}

#[tokio::test]
async fn a_host_that_is_gone_gets_no_token_any_more() {
    let mut world = World::plain().start_servers().await;
    let (other, both) = second_api(&world).await;
    let one = hosts(&world);
    world.configure_file(|text| text.replace(&one, &both));
    let program = Program::start(&world).await;
    program.get(&other.url("/")).await.assert_ok();

    world.configure_file(|text| text.replace(&both, &one));
    reload(&program).await;
    assert_eq!(program.get(&other.url("/")).await.status, 401);
    assert_eq!(other.requests()[1].header("authorization"), None);
    program.get(&world.http("/")).await.assert_ok();
    assert_eq!(world.authorization_server.token_requests(), 1);
    program.stop().await;
}

#[tokio::test]
async fn what_is_under_way_comes_to_its_end_over_a_reload() {
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

    // The credential itself goes.
    world.configure_file(|text| text.split("[credential.api]").next().unwrap().to_owned());
    reload(&program).await;
    world.origin.release_all();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.content.len()), (200, 300_000));
    world.origin.release_chunk();
    streaming.reply_head().await.assert_ok();
    assert_eq!(streaming.chunk().await, b"one");
    world.origin.release_chunk();
    assert_eq!(streaming.chunk().await, b"two");
    assert_eq!(streaming.chunk().await, b"");
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
    // To the token this is another configuration; the flight of before still holds the lock.
    world.configure_file(|text| format!("{text}\nlifetime = \"30m\"\n"));
    reload(&program).await;
    world.authorization_server.release_all();
    client.reply().await.assert_ok();
    program.get(&world.http("/")).await.assert_ok();
    assert_eq!(world.authorization_server.token_requests(), 1);
    world.authorization_server.assert_no_reuse();
    program.stop().await;
}

#[tokio::test]
async fn a_bad_file_leaves_the_one_before_serving_and_says_why() {
    let mut world = World::plain().start_servers().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let good = std::fs::read_to_string(world.dir.path().join("proxy.toml")).unwrap();
    world.configure_file(|text| text.replace("client_id =", "cleint_id ="));
    program.signal(Signal::HUP);
    let said = program.logs("stays in force").await;
    assert!(said.contains("problems"), "{said}");
    let named = program.logs("proxy.toml:").await;
    assert!(!named.contains("test-client-secret"), "{named}");
    program.logs("cleint_id").await;
    program.get(&world.http("/")).await.assert_ok();
    let mut admin = Wire::to_address(program.admin).await;
    let metrics = admin.ask(&["GET /metrics HTTP/1.1", "Host: localhost"]).await.text();
    assert!(metrics.contains("bearerd_reloads_total{outcome=\"failure\"} 1\n"), "{metrics}");

    // One that is being copied over it.
    std::fs::write(world.dir.path().join("proxy.toml"), "").unwrap();
    program.signal(Signal::HUP);
    program.logs("it is empty now").await;
    program.get(&world.http("/")).await.assert_ok();

    // One that is gone altogether, and then the good one again.
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
    assert_eq!(world.authorization_server.token_requests(), 1);
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
        assert!(said.contains(key), "{key}: {said}");
    }
    assert!(said.contains("restart") && !said.contains("admin.listen"), "{said}");
    program.get(&world.http("/")).await.assert_ok();
    assert_eq!(world.authorization_server.token_requests(), 1);
    assert!(!world.dir.path().join("elsewhere").exists());
    assert!(!world.dir.path().join("other-certs").exists());
    program.stop().await;
}

#[tokio::test]
async fn what_the_command_line_says_goes_for_a_reload_as_well() {
    let mut world = World::plain().start_servers().await;
    let listen = ["--listen", "127.0.0.1:0", "--log-format", "json"];
    let program = Program::start_with(world.dir.path(), &listen, &[]).await;
    world.configure_file(|text| {
        text.replacen("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:8080\"", 1)
    });
    let said = reload(&program).await;
    assert!(!said.contains("restart"), "{said}");
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
}

#[tokio::test]
async fn a_client_secret_put_right_is_tried_at_once() {
    let world = World::plain().start_servers().await;
    let server = &world.authorization_server;
    world.write_client_secret("a-mistyped-secret");
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    program.get(&world.http("/")).await.assert_no_token();
    assert_eq!(server.token_requests(), 1);
    world.write_client_secret("test-client-secret");
    reload(&program).await;
    program.get(&world.http("/")).await.assert_ok();
    assert_eq!(server.token_requests(), 2);
    server.assert_no_reuse();
    let log = program.stop().await;
    assert!(!log.contains("a-mistyped-secret") && !log.contains("test-client-secret"), "{log}");
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
    assert_eq!(server.token_requests(), 2);
    assert_eq!(server.requests()[1].param("refresh_token"), Some(&*seed));
    assert_eq!(world.record()["terminal"], Value::Null);
    program.stop().await;
}

// ----- in this process -----

/// What stays as it was at the start, each key alone.
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
            assert!(text.contains(before), "{key}");
            text.replacen(before, after, 1)
        });
        assert_eq!(world.reload().await, [key]);
    }
}

/// A reload is compared with what runs, not with the reload before it.
#[tokio::test]
async fn a_key_that_needs_a_restart_is_named_until_it_is_as_it_was_at_the_start() {
    let mut world = World::new().await;
    world.configure(|text| text.replacen("threads = 2", "threads = 1", 1));
    for _ in 0..2 {
        assert_eq!(world.reload().await, ["proxy.threads"]);
    }
    world.configure(|text| text.replacen("threads = 1", "threads = 2", 1));
    assert_eq!(world.reload().await, Vec::<&str>::new());
}

/// Operators see what is in force.
#[tokio::test]
async fn a_credential_that_is_gone_is_reported_no_more() {
    let second = r#"[credential.second]
hosts = ["second.test"]
token_url = "@token_url@"
client_id = "test-client"
client_secret = { file = "secret" }
grant = "client_credentials"
"#;
    let mut world = World::builder().sections(second).start().await;
    assert_eq!(names(&world).await, ["api", "second"]);
    let series = "bearerd_credential_state{credential=\"second\"";
    assert!(world.ask_admin("/metrics").await.text().contains(series));
    world.configure(|text| {
        let (before, rest) = text.split_once("[credential.second]").unwrap();
        let (_, after) = rest.split_once("[credential.api]").unwrap();
        format!("{before}[credential.api]{after}")
    });
    world.reload().await;
    assert_eq!(names(&world).await, ["api"]);
    let metrics = world.ask_admin("/metrics").await.text();
    assert!(!metrics.contains(series), "{metrics}");
    assert!(metrics.contains("bearerd_credential_state{credential=\"api\""), "{metrics}");
}

/// The credentials that the admin listener lists, sorted.
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
    assert_eq!(world.reload().await, Vec::<&str>::new());
    assert_eq!(world.status().generation, Generation(1));
    assert_eq!(world.status().condition, Condition::Fresh);
    world.get("/").await.assert_ok();
    let large = world.client().post(world.http("/")).body(vec![b'x'; 2000]);
    assert_eq!(large.send().await.unwrap().status(), 413);
    assert_eq!(world.authorization_server.token_requests(), 1);
}

/// What a token is asked for with has changed: the token itself is still good.
#[tokio::test]
async fn a_token_is_kept_over_a_change_of_its_own_credential() {
    let mut world = World::settled().await;
    world.configure(|text| {
        text.replace("client_id =", "margin = \"30s\"\ntimeout = \"9s\"\nclient_id =")
    });
    world.reload().await;
    world.get("/").await.assert_ok();
    assert_eq!(world.status().generation, Generation(1));
    assert_eq!(world.authorization_server.token_requests(), 1);
}

#[tokio::test]
async fn a_token_under_way_is_found_by_the_credential_that_was_changed_meanwhile() {
    let mut world = World::settled().await;
    world.clock.advance(HOURS);
    let before = world.begin_refresh().await;
    world.configure(|text| text.replace("client_id =", "margin = \"30s\"\nclient_id ="));
    world.reload().await;
    let after = world.spawn_get();
    world.authorization_server.release_all();
    before.await.unwrap().assert_ok();
    after.await.unwrap().assert_ok();
    assert_eq!(world.authorization_server.token_requests(), 2);
    world.authorization_server.assert_no_reuse();
}

/// It is for a host of before, which the new grant may have nothing to do with.
#[tokio::test]
async fn a_rejected_request_of_before_a_reload_gets_no_token_of_a_new_grant() {
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
    assert_eq!(there.status(), 200);
    world.origin.release_all();
    assert_eq!(request.await.unwrap().status, 401);
    assert_eq!(world.origin.requests().len(), 1);
    assert_eq!(world.authorization_server.token_requests(), 2);
}

/// The new token is only in memory because the disk is full; a reload must not fall back to the
/// token before.
#[tokio::test]
async fn a_token_that_could_not_be_saved_is_kept_over_a_change_of_its_credential() {
    let mut world = World::settled().await;
    world.clock.advance(HOURS);
    // Nobody can write where no directory is.
    let (state, away) = (world.state(), world.dir.path().join("away"));
    let request = world.begin_refresh().await;
    std::fs::rename(&state, &away).unwrap();
    world.authorization_server.release_all();
    request.await.unwrap().assert_ok();
    assert!(world.status().is_unsaved);
    world.configure(|text| text.replace("client_id =", "margin = \"30s\"\nclient_id ="));
    world.reload().await;
    world.get("/").await.assert_ok();
    std::fs::rename(&away, &state).unwrap();
    let server = &world.authorization_server;
    let saved = || world.record()["refresh_token"] == server.current_refresh_token();
    eventually("it is saved", saved).await;
    world.get("/").await.assert_ok();
    assert_eq!((server.token_requests(), server.reuse_count()), (2, 0));
}
