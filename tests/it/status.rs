//! The interfaces for operators and monitoring: `bearerd status`, the admin listener, the metrics.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use bearerd_test_support::{OriginConfig, OriginServer, TokenBehaviour};
use rustix::process::Signal;
use serde_json::Value;

use super::program::{Program, bearerd, text};
use super::wire::{Reply, Wire, get, message};
use super::world::{HOURS, World, WorldBuilder, eventually};
use crate::texts::{assert_never_says, assert_says};

/// Starts servers, and writes a configuration with an admin listener that `bearerd status` can find.
pub(crate) async fn servers(builder: WorldBuilder) -> World {
    let mut world = builder.start_servers().await;
    // A port that is free at this moment.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.configure_file(|text| {
        let listen = "[admin]\nlisten = \"127.0.0.1:0\"";
        assert!(text.contains(listen), "the test configuration has an unexpected admin listener");
        text.replace(listen, &format!("[admin]\nlisten = \"{free}\""))
    });
    world
}

/// Runs `bearerd status`. Returns exit code, standard output and standard error.
async fn status(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let (dir, arguments) = (dir.to_owned(), [&["status"], arguments].concat().join(" "));
    // A blocking task, so that the servers of the world keep running.
    let run = move || bearerd(&dir, &arguments.split(' ').collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn ask(admin: SocketAddr, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1");
    Wire::to_address(admin).await.ask(&[&*request, "Host: localhost"]).await
}

/// Returns the description of the only credential from the admin listener.
pub(crate) async fn described(admin: SocketAddr) -> Value {
    let reply = ask(admin, "/api/v1/credentials").await;
    reply.assert_ok();
    assert_eq!(
        reply.field("content-type"),
        Some("application/json"),
        "unexpected content type of the description"
    );
    assert_eq!(reply.field("cache-control"), Some("no-store"), "the description lacks no-store");
    let all: Value = serde_json::from_slice(&reply.content).unwrap();
    assert_eq!(
        all["credentials"].as_array().unwrap().len(),
        1,
        "unexpected number of credentials: {all}"
    );
    all["credentials"][0].clone()
}

/// Returns all secrets, which must never appear in output.
fn secrets(world: &World) -> Vec<String> {
    let server = &world.authorization_server;
    let mut secrets = vec!["test-client-secret".to_owned(), server.current_refresh_token()];
    secrets.extend(server.previous_refresh_tokens());
    secrets.extend(server.tokens().newest_access_token());
    secrets.extend(server.tokens().live_access_tokens());
    secrets
}

#[track_caller]
pub(crate) fn assert_no_secret(world: &World, said: &str) {
    for secret in secrets(world) {
        assert!(!said.contains(&secret), "the output contains the secret {secret}: {said}");
    }
}

// ----- bearerd status -----

#[tokio::test]
async fn status_says_what_each_credential_is_doing() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    let (code, said, _) = status(world.dir.path(), &[]).await;
    assert_eq!(code, Some(0), "`status` failed");
    assert!(
        said.starts_with("api: absent\n") && said.contains("none yet"),
        "the output does not begin with a credential without a token: {said}"
    );

    program.get(&world.http("/")).await.assert_ok();
    let (code, said, complaints) = status(world.dir.path(), &[]).await;
    assert_eq!((code, &*complaints), (Some(0), ""), "`status` failed or wrote to standard error");
    assert!(said.starts_with("api: fresh\n"), "the output does not begin with the state: {said}");
    assert_says("the output", &said, ["number 1, expires in 59m"]);
    assert_says("the output", &said, ["last refresh"]);
    assert_never_says("the output", &said, ["last error", "next step"]);

    let (code, json, _) = status(world.dir.path(), &["--json"]).await;
    assert_eq!(code, Some(0), "`status --json` failed");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["credentials"][0]["state"], "fresh",
        "the JSON does not say that the token is fresh: {json}"
    );
    assert_eq!(
        json["credentials"][0],
        described(program.admin).await,
        "`status --json` and the admin listener differ"
    );
    assert_no_secret(&world, &(said + &json.to_string()));

    let (code, said, complaints) = status(world.dir.path(), &["--probe"]).await;
    assert_eq!((code, &*said, &*complaints), (Some(0), "", ""), "the probe failed or wrote output");
    assert_eq!(
        status(world.dir.path(), &["--probe", "--json"]).await.0,
        Some(2),
        "`--probe` with `--json` is not a usage error"
    );
    program.stop().await;
}

#[tokio::test]
async fn status_exits_with_69_without_a_running_proxy_and_with_78_without_a_good_file() {
    let mut world = servers(World::builder()).await;
    for arguments in [&[][..], &["--json"], &["--probe"]] {
        let (code, said, complaints) = status(world.dir.path(), arguments).await;
        assert_eq!(
            (code, &*said),
            (Some(69), ""),
            "{arguments:?}: unexpected exit code or standard output"
        );
        assert!(
            complaints.contains("admin.listen") && complaints.contains("bearerd run"),
            "the message does not say how to reach a running proxy: {complaints}"
        );
        assert_no_secret(&world, &complaints);
    }
    world.configure_file(|text| text.replace("client_id =", "cleint_id ="));
    for arguments in [&[][..], &["--json"], &["--probe"]] {
        let (code, said, complaints) = status(world.dir.path(), arguments).await;
        assert_eq!(
            (code, &*said),
            (Some(78), ""),
            "{arguments:?}: unexpected exit code or standard output"
        );
        assert_says("standard error", &complaints, ["cleint_id"]);
    }
}

#[tokio::test]
async fn status_without_an_admin_listener_says_so() {
    let mut world = servers(World::builder()).await;
    world.configure_file(|text| {
        let at = text.find("[admin]\nlisten = ").unwrap();
        let end = at + text[at + 8..].find('\n').unwrap() + 8;
        format!("{}[admin]\nlisten = \"\"{}", &text[..at], &text[end..])
    });
    let (code, _, complaints) = status(world.dir.path(), &[]).await;
    assert_eq!(code, Some(69), "unexpected exit code of `status` without an admin listener");
    assert_says("standard error", &complaints, ["admin.listen"]);
}

/// Exit code 69 of the probe: the proxy is alive, but must not get new requests.
#[tokio::test]
async fn the_probe_fails_while_the_proxy_drains() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.origin.clear();
    world.origin.hold();
    let mut client = Wire::to_address(program.proxy).await;
    client.send(message(&get(&world.http("/")))).await;
    world.origin.wait_for_requests(1).await;
    program.signal(Signal::TERM);
    program.logs("stopping").await;
    let (code, said, complaints) = status(world.dir.path(), &["--probe"]).await;
    assert_eq!(
        (code, &*said),
        (Some(69), ""),
        "unexpected exit code or standard output: {complaints}"
    );
    assert_says("standard error", &complaints, ["draining"]);
    ask(program.admin, "/livez").await.assert_ok();
    world.origin.release_all();
    client.reply().await.assert_ok();
    assert_eq!(program.ends().await.code(), Some(0), "the program did not shut down gracefully");
}

#[tokio::test]
async fn a_dead_grant_is_shown_with_its_reason_and_what_to_do() {
    let world = servers(World::builder()).await;
    let server = &world.authorization_server;
    let token = server.current_refresh_token();
    let echo = format!("refresh token {token} is unknown");
    server.enqueue(TokenBehaviour::error(400, "invalid_grant", Some(&echo)));
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    let (code, said, _) = status(world.dir.path(), &[]).await;
    assert_eq!(code, Some(0), "`status` failed because of a dead grant");
    assert!(
        said.starts_with("api: needs_login (revoked)\n"),
        "the output does not begin with the state and its reason: {said}"
    );
    let line = |label: &str| said.lines().find(|line| line.trim_start().starts_with(label));
    assert!(
        line("last error").unwrap().contains("invalid_grant"),
        "the last error is not named: {said}"
    );
    assert!(
        line("next step").unwrap().contains("refresh_token"),
        "the next step is not named: {said}"
    );

    let credential = described(program.admin).await;
    assert_eq!(credential["reason"], "revoked", "unexpected reason: {credential}");
    assert_eq!(
        credential["token"], false,
        "the description says that there is a token: {credential}"
    );
    assert!(
        credential["last_error"]["at"].is_string(),
        "the description does not say when the last error was: {credential}"
    );
    assert_eq!(status(world.dir.path(), &["--probe"]).await.0, Some(0), "ready, and degraded");
    let metrics = ask(program.admin, "/metrics").await.text();
    let state =
        |name: &str| format!("bearerd_credential_state{{credential=\"api\",state=\"{name}\"}}");
    assert_eq!(
        sample(&metrics, &state("needs_login")),
        Some(1.0),
        "the metrics do not say that a login is needed"
    );
    assert_eq!(
        sample(&metrics, &state("fresh")),
        Some(0.0),
        "the metrics say that the token is fresh"
    );
    let everything = [said, credential.to_string(), metrics, program.stop().await].concat();
    assert_no_secret(&world, &everything);
    // The recovery reads the new seed from the same file.
    world.write_seed(&server.issue_refresh_token());
}

/// A dead grant is also shown after a restart, before the first request.
#[tokio::test]
async fn a_dead_grant_is_shown_after_a_restart() {
    let world = servers(World::builder()).await;
    world.authorization_server.revoke_refresh_token();
    let first = Program::start(&world).await;
    first.get(&world.http("/")).await.assert_no_token();
    first.stop().await;
    let second = Program::start(&world).await;
    let credential = described(second.admin).await;
    assert_eq!(
        (&credential["state"], &credential["reason"]),
        (&"needs_login".into(), &"revoked".into()),
        "(state, reason): the dead grant is not shown after the restart"
    );
    assert!(
        credential["next"].is_string(),
        "the description does not say what to do: {credential}"
    );
    world
        .authorization_server
        .assert_token_requests(1, "a dead grant was presented again after the restart");
    second.stop().await;
}

#[tokio::test]
async fn an_expired_token_is_shown_as_expired() {
    let mut world = servers(World::builder()).await;
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    world.clock.advance(HOURS);
    let (code, said, _) = status(world.dir.path(), &[]).await;
    assert_eq!(code, Some(0), "`status` failed because of an expired token");
    assert_says("the output", &said, ["number 1, expired\n"]);
    let credential = described(world.app().admin_address().unwrap()).await;
    assert_eq!(
        credential["token"], false,
        "the description says that there is a token: {credential}"
    );
    assert!(
        (-3700..=-3500).contains(&credential["expires_in"].as_i64().unwrap()),
        "unexpected expiry of the token: {credential}"
    );
}

/// If the authorization server rejects the OAuth client, bearerd is ready but degraded.
#[tokio::test]
async fn a_refresh_that_was_refused_is_shown_with_what_to_do() {
    let mut world = servers(World::builder()).await;
    world.start_proxy().await;
    world.authorization_server.enqueue(TokenBehaviour::error(401, "invalid_client", None));
    world.get("/").await.assert_no_token();
    let ready = world.ask_admin("/readyz").await;
    ready.assert_status(200, "a refused refresh makes bearerd not ready");
    let ready: Value = serde_json::from_slice(&ready.content).unwrap();
    assert_eq!(ready["status"], "degraded", "the probe does not report the problem: {ready}");
    assert_eq!(
        ready["credentials"][0]["reason"], "refused",
        "unexpected reason in the probe: {ready}"
    );
    let (_, said, _) = status(world.dir.path(), &[]).await;
    assert!(
        said.starts_with("api: failing (refused)\n"),
        "the output does not begin with the state and its reason: {said}"
    );
    assert_says("the output", &said, ["next step", "client_secret"]);
    assert_no_secret(&world, &(said + &ready.to_string()));
}

#[tokio::test]
async fn a_token_that_is_only_in_memory_is_shown_with_what_to_do() {
    let mut world = servers(World::builder()).await;
    world.start_proxy().await;
    let request = world.begin_refresh().await;
    // Writes fail because the directory is missing.
    let (state, away) = (world.state(), world.dir.path().join("away"));
    std::fs::rename(&state, &away).unwrap();
    world.authorization_server.release_all();
    request.await.unwrap().assert_ok();
    let unsaved = "bearerd_credential_unsaved{credential=\"api\"}";
    assert_eq!(
        sample(&world.ask_admin("/metrics").await.text(), unsaved),
        Some(1.0),
        "the metrics do not say that the token is unsaved"
    );
    assert_eq!(
        described(world.app().admin_address().unwrap()).await["unsaved"],
        true,
        "the description does not say that the token is unsaved"
    );
    let (_, said, _) = status(world.dir.path(), &[]).await;
    assert_says("the output", &said, ["next step", "writable"]);

    std::fs::rename(&away, &state).unwrap();
    eventually("it is saved", || !world.status().is_unsaved).await;
    assert_eq!(
        sample(&world.ask_admin("/metrics").await.text(), unsaved),
        Some(0.0),
        "the metrics still say that the token is unsaved"
    );
}

// ----- the admin listener -----

#[tokio::test]
async fn beyond_loopback_probes_reveal_no_names_and_the_rest_needs_the_token() {
    let mut world = servers(World::builder()).await;
    world.write_secret("admin-token", "test-admin-token");
    world.configure_file(|text| {
        let anywhere = "[admin]\ntoken = { file = \"admin-token\" }\nlisten = \"0.0.0.0:";
        text.replace("[admin]\nlisten = \"127.0.0.1:", anywhere)
    });
    world.start_proxy().await;
    assert!(
        world.app().admin_address().unwrap().ip().is_unspecified(),
        "the admin listener is bound to loopback only, so the test proves nothing"
    );
    let admin = (Ipv4Addr::LOCALHOST, world.app().admin_address().unwrap().port()).into();
    let ready = ask(admin, "/readyz").await;
    assert_eq!(
        (ready.status, ready.text()),
        (200, "{\"status\":\"ok\"}\n".to_owned()),
        "the probe reveals more than the readiness"
    );
    for path in ["/metrics", "/api/v1/credentials"] {
        ask(admin, path).await.assert_status(401, path);
        let request = [
            &*format!("GET {path} HTTP/1.1"),
            "Host: localhost",
            "Authorization: Bearer test-admin-token",
        ];
        Wire::to_address(admin).await.ask(&request).await.assert_status(200, path);
    }
    // `bearerd status` reads the token from the same file as the proxy.
    let (code, said, complaints) = status(world.dir.path(), &[]).await;
    assert_eq!(code, Some(0), "unexpected exit code: {complaints}");
    assert!(
        said.starts_with("api: absent\n"),
        "the output does not begin with a credential without a token: {said}"
    );
    assert_never_says("the output", &said, ["test-admin-token"]);
}

#[tokio::test]
async fn a_credential_is_described_with_all_its_members() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let credential = described(program.admin).await;
    let names: Vec<&String> = credential.as_object().unwrap().keys().collect();
    for name in [
        "name",
        "state",
        "reason",
        "token",
        "generation",
        "refreshed_at",
        "expires_at",
        "expires_in",
        "unsaved",
        "last_error",
        "next",
    ] {
        assert!(
            names.iter().any(|given| *given == name),
            "the description lacks {name}: {credential}"
        );
    }
    assert_eq!(credential["name"], "api", "unexpected name: {credential}");
    assert_eq!(credential["generation"], 1, "unexpected token generation: {credential}");
    assert_eq!(
        (&credential["token"], &credential["unsaved"]),
        (&true.into(), &false.into()),
        "(token, unsaved): the description does not match a stored token"
    );
    assert!(
        (3500..=3600).contains(&credential["expires_in"].as_i64().unwrap()),
        "unexpected expiry of the token: {credential}"
    );
    for name in ["refreshed_at", "expires_at"] {
        humantime::parse_rfc3339(credential[name].as_str().unwrap()).unwrap();
    }
    for name in ["reason", "last_error", "next"] {
        assert_eq!(
            credential[name],
            Value::Null,
            "{name}: the description of a healthy token has this member"
        );
    }
    program.stop().await;
}

/// Protects against DNS rebinding: a web page may direct a browser here under its own host name.
#[tokio::test]
async fn admin_requests_under_another_host_name_are_403() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    for path in ["/metrics", "/api/v1/credentials", "/", "/nothing"] {
        for host in ["evil.test", "evil.test:9090", "localhost.evil.test", "127.0.0.1.evil.test"] {
            let request = [format!("GET {path} HTTP/1.1"), format!("Host: {host}")];
            let reply = Wire::to_address(program.admin).await.ask(&request).await;
            reply.assert_status(403, format!("{path} {host}"));
            assert_never_says("the answer", reply.text(), ["api\""]);
        }
        let host = format!("Host: {}", program.admin);
        let request = [format!("GET {path} HTTP/1.1"), host];
        assert_ne!(
            Wire::to_address(program.admin).await.ask(&request).await.status,
            403,
            "{path}: the request under the right name was refused"
        );
    }
    for path in ["/livez", "/readyz"] {
        let request = [format!("GET {path} HTTP/1.1"), "Host: evil.test".to_owned()];
        Wire::to_address(program.admin).await.ask(&request).await.assert_ok();
    }
    program.stop().await;
}

// ----- metrics -----

/// Returns the value of a series, if it exists.
fn sample(metrics: &str, series: &str) -> Option<f64> {
    let rest = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(rest.parse().unwrap())
}

/// Parses the OpenMetrics text format strictly and returns the series: each family is declared once before
/// its samples, every sample belongs to the last declared family, no series is repeated, `# EOF` ends the text.
fn parsed(metrics: &str) -> Vec<String> {
    let body = metrics.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let (mut families, mut series) = (Vec::<(String, String)>::new(), Vec::new());
    for line in body.lines() {
        if let Some(described) = line.strip_prefix("# ") {
            let mut words = described.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            let rest = words.next().unwrap_or_default();
            assert!(name.starts_with("bearerd_"), "the metric lacks the prefix bearerd_: {line}");
            match what {
                "TYPE" => assert!(
                    ["counter", "gauge", "histogram"].contains(&rest),
                    "unexpected type of the metric: {line}"
                ),
                "HELP" => assert!(
                    !rest.is_empty() && !rest.contains(".."),
                    "the help of the metric is empty or not a sentence: {line}"
                ),
                "UNIT" => assert!(
                    name.ends_with(&format!("_{rest}")),
                    "the metric does not end with its unit: {line}"
                ),
                _ => panic!("{line}"),
            }
            if families.last().is_none_or(|(last, _)| last != name) {
                assert!(
                    families.iter().all(|(known, _)| known != name),
                    "the family is declared twice: {line}"
                );
                families.push((name.to_owned(), String::new()));
            }
            if what == "TYPE" {
                rest.clone_into(&mut families.last_mut().unwrap().1);
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        value.parse::<f64>().unwrap_or_else(|error| panic!("{error}: {line}"));
        let (family, kind) = families.last().unwrap();
        let suffix = name.split('{').next().unwrap().strip_prefix(family.as_str()).unwrap();
        let fits = match kind.as_str() {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            _ => ["_bucket", "_sum", "_count"].contains(&suffix),
        };
        assert!(fits, "the sample does not fit the {kind} {family}: {line}");
        assert!(!series.contains(&name.to_owned()), "the series is repeated: {line}");
        series.push(name.to_owned());
    }
    series
}

#[tokio::test]
async fn metrics_are_openmetrics_and_count_what_happened() {
    let world = servers(World::plain()).await;
    let program = Program::start(&world).await;
    let reply = ask(program.admin, "/metrics").await;
    assert!(
        reply.field("content-type").unwrap().starts_with("application/openmetrics-text"),
        "unexpected content type of the metrics"
    );
    parsed(&reply.text());

    for _ in 0..3 {
        program.get(&world.http("/")).await.assert_ok();
    }
    program
        .get(&world.http("/status/404"))
        .await
        .assert_status(404, "the API's status was changed");
    program
        .get(&world.http("/status/500"))
        .await
        .assert_status(500, "the API's status was changed");
    let metrics = ask(program.admin, "/metrics").await.text();
    parsed(&metrics);
    let api = "credential=\"api\"";
    for (series, value) in [
        (format!("bearerd_token_refreshes_total{{{api},outcome=\"success\"}}"), 1.0),
        (format!("bearerd_requests_total{{{api},code=\"200\"}}"), 3.0),
        (format!("bearerd_requests_total{{{api},code=\"404\"}}"), 1.0),
        (format!("bearerd_requests_total{{{api},code=\"500\"}}"), 1.0),
        (format!("bearerd_request_duration_seconds_count{{{api}}}"), 5.0),
        (format!("bearerd_overhead_seconds_count{{{api}}}"), 5.0),
        (format!("bearerd_origin_duration_seconds_count{{{api}}}"), 5.0),
        (format!("bearerd_token_refresh_duration_seconds_count{{{api}}}"), 1.0),
        (format!("bearerd_credential_state{{{api},state=\"fresh\"}}"), 1.0),
        (format!("bearerd_credential_unsaved{{{api}}}"), 0.0),
    ] {
        assert_eq!(
            sample(&metrics, &series),
            Some(value),
            "unexpected value of the series {series} in {metrics}"
        );
    }
    let expires = sample(&metrics, &format!("bearerd_token_expires_in_seconds{{{api}}}")).unwrap();
    assert!((3500.0..=3600.0).contains(&expires), "unexpected expiry of the token: {expires}");
    assert_no_secret(&world, &metrics);
    program.stop().await;
}

#[tokio::test]
async fn absorbed_rejections_and_failed_refreshes_are_counted() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    let admin = world.app().admin_address().unwrap();
    server.tokens().revoke_all_access_tokens();
    world.get("/").await.assert_ok();
    world.clock.advance(HOURS);
    server
        .enqueue(TokenBehaviour::json(429, serde_json::json!({})).with_header("retry-after", "60"));
    world.get("/").await.assert_no_token();
    let metrics = ask(admin, "/metrics").await.text();
    parsed(&metrics);
    let api = "credential=\"api\"";
    for (series, value) in [
        (format!("bearerd_rejections_total{{{api},outcome=\"absorbed\"}}"), 1.0),
        (format!("bearerd_token_refreshes_total{{{api},outcome=\"success\"}}"), 2.0),
        (format!("bearerd_token_refreshes_total{{{api},outcome=\"throttled\"}}"), 1.0),
        (format!("bearerd_requests_total{{{api},code=\"503\"}}"), 1.0),
        (format!("bearerd_requests_total{{{api},code=\"200\"}}"), 2.0),
        (format!("bearerd_credential_state{{{api},state=\"failing\"}}"), 1.0),
    ] {
        assert_eq!(
            sample(&metrics, &series),
            Some(value),
            "unexpected value of the series {series} in {metrics}"
        );
    }
}

#[tokio::test]
async fn a_rejection_that_no_refresh_heals_is_counted_as_passed_on() {
    let world = World::settled().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    server.tokens().revoke_all_access_tokens();
    world.get("/").await.assert_status(401, "the API's rejection did not reach the client");
    let metrics = world.ask_admin("/metrics").await.text();
    let rejections = |outcome: &str| {
        let series = "bearerd_rejections_total{credential=\"api\",outcome=";
        sample(&metrics, &format!("{series}\"{outcome}\"}}")).unwrap_or(0.0)
    };
    assert_eq!(
        (rejections("passed_on"), rejections("absorbed")),
        (1.0, 0.0),
        "(forwarded, absorbed): unexpected counts of the rejection: {metrics}"
    );
}

/// Clients choose hosts, paths and methods freely, so these must not create series.
#[tokio::test]
async fn no_metric_label_holds_a_value_chosen_by_a_client() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let port = other.port();
    program.get(&format!("http://127.0.0.1:{port}/x")).await.assert_ok();
    let before = parsed(&ask(program.admin, "/metrics").await.text());
    for number in 2..200 {
        // All of these addresses belong to this machine.
        let url = format!("http://127.0.0.{number}:{port}/client-path-{number}?q=client-query");
        let status = program.get(&url).await.status;
        assert!(
            matches!(status, 200 | 502),
            "{status}: unexpected status of a request to this machine"
        );
    }
    for name in ["client-one.invalid", "client-two.invalid"] {
        program.get(&format!("http://{name}/")).await;
    }
    let metrics = ask(program.admin, "/metrics").await.text();
    let after = parsed(&metrics);
    assert_never_says("the metrics", &metrics, ["client-", "127.0.0."]);
    let mut new: Vec<_> = after.iter().filter(|series| !before.contains(series)).collect();
    new.retain(|series| !series.starts_with("bearerd_requests_total{credential=\"none\",code=\"5"));
    assert_eq!(new, Vec::<&String>::new(), "clients created new series");
    let total: f64 = [200, 502, 504]
        .iter()
        .filter_map(|code| {
            let series = format!("bearerd_requests_total{{credential=\"none\",code=\"{code}\"}}");
            sample(&metrics, &series)
        })
        .sum();
    assert_eq!(total, 201.0, "requests to hosts without a credential are not counted");
    program.stop().await;
}
