//! The real program, as an operator starts and stops it.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bearerd_test_support::{Answer, OriginConfig, OriginServer, TokenBehaviour};
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::program::{Program, bearerd, command, text};
use super::wire::{Wire, get, message, within};
use super::world::World;
use crate::texts::{assert_never_says, assert_says};

// ===== check =====

#[tokio::test]
async fn check_summarizes_a_good_file_and_changes_nothing() {
    let world = World::builder().start_servers().await;
    let before = files(world.dir.path());
    let output = bearerd(world.dir.path(), &["check"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "the command has another exit code: {}",
        text(&output.stderr)
    );
    let said = text(&output.stdout);
    assert_says("the output", &said, ["credential `api`", "proxy.toml: ok"]);
    assert_says("the output", &said, [&world.origin.authority(), "refresh_token"]);
    let everything = said + &text(&output.stderr);
    assert!(!everything.contains("test-client-secret"), "the client secret was printed");
    assert!(
        !everything.contains(&world.authorization_server.current_refresh_token()),
        "the refresh token was printed"
    );
    assert_eq!(files(world.dir.path()), before, "`bearerd check` created or removed a file");
}

/// Wrong in every line of `BAD_LINES`; the secrets are to be seen nowhere. (A seed's file may be
/// missing: the store may have its record.)
const BAD: &str = r#"[proxy]
listen = "0.0.0.0:0"
unmatched = "refuse"
[credential.api]
hosts = ["api.test."]
token_url = "http://login.example.com/token"
client_id = "app"
client_secret = "hunter2-the-secret"
refresh_token = { file = "no-such-file" }
refersh_tokn = "hunter2-the-token"
[limits]
idle_timeout = "soon"
[admin]
token = "hunter2-unquoted
"#;

const BAD_LINES: [usize; 7] = [2, 3, 5, 6, 8, 10, 12];

#[tokio::test]
async fn check_reports_every_problem_at_once_with_its_place_and_without_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    // The file as it is, and without the line that breaks the syntax.
    let well_formed = BAD.replace("[admin]\ntoken = \"hunter2-unquoted\n", "");
    std::fs::write(dir.path().join("proxy.toml"), &well_formed).unwrap();
    let output = bearerd(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(78), "a bad file has another exit code than 78");
    let report = text(&output.stderr);
    let missing: Vec<usize> = BAD_LINES
        .into_iter()
        .filter(|line| !report.contains(&format!("proxy.toml:{line}:")))
        .collect();
    assert!(missing.is_empty(), "no problem in the lines {missing:?}:\n{report}");
    assert!(
        report.matches("^^").count() >= BAD_LINES.len(),
        "not every problem is underlined in its line: {report}"
    );
    assert_says("the report", &report, ["help:"]);
    assert_says("the report", &report, ["proxy.toml has 7 problems"]);
    assert_never_says("the report", &report, ["hunter2"]);
    assert!(output.stdout.is_empty(), "the report is not on standard error alone");

    std::fs::write(dir.path().join("proxy.toml"), BAD).unwrap();
    let output = bearerd(dir.path(), &["check"]);
    assert_eq!(
        output.status.code(),
        Some(78),
        "a file that is no TOML has another exit code than 78"
    );
    let report = text(&output.stderr);
    assert_says("the report", &report, ["proxy.toml:14:"]);
    assert_never_says("the report", &report, ["hunter2"]);
}

#[tokio::test]
async fn the_configuration_may_come_from_standard_input_or_from_a_variable() {
    let world = World::builder().start_servers().await;
    let file = std::fs::read(world.dir.path().join("proxy.toml")).unwrap();
    let mut child = command(world.dir.path(), &["check", "--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&file).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "a good file on standard input was refused");

    let elsewhere = tempfile::tempdir().unwrap();
    let output = command(elsewhere.path(), &["check"])
        .env("BEARERD_CONFIG", world.dir.path().join("proxy.toml"))
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "the command has another exit code: {}",
        text(&output.stderr)
    );

    let output = bearerd(elsewhere.path(), &["check"]);
    assert_eq!(output.status.code(), Some(78), "a missing file has another exit code than 78");
    let said = text(&output.stderr);
    assert_says("the output", &said, ["--config", "/etc/bearerd/proxy.toml"]);
}

// ===== run: what stops it at the start =====

#[tokio::test]
async fn run_with_a_bad_file_stops_before_it_binds_or_writes_anything() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Binding would fail with another exit code.
    let listen = BAD.replace("0.0.0.0:0", &taken.local_addr().unwrap().to_string());
    std::fs::write(dir.path().join("proxy.toml"), listen).unwrap();
    let before = files(dir.path());
    for arguments in [&["run"][..], &[]] {
        let output = bearerd(dir.path(), arguments);
        assert_eq!(
            output.status.code(),
            Some(78),
            "the command has another exit code: {}",
            text(&output.stderr)
        );
        assert!(!text(&output.stderr).contains("hunter2"), "the report holds a secret");
    }
    assert_eq!(
        files(dir.path()),
        before,
        "`bearerd run` created or removed a file although its configuration is bad"
    );
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (key, listen, admin) in [
        ("proxy.listen", address.as_str(), "127.0.0.1:0"),
        ("admin.listen", "127.0.0.1:0", &address),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = format!("[proxy]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n");
        std::fs::write(dir.path().join("proxy.toml"), file).unwrap();
        let output = bearerd(dir.path(), &["run"]);
        assert_eq!(
            output.status.code(),
            Some(1),
            "the command has another exit code: {}",
            text(&output.stderr)
        );
        let said = text(&output.stderr);
        let sentence = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert_says(&format!("{said}: the error message"), sentence, [&address, key]);
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_a_configuration_error_that_names_the_key() {
    for (key, section) in [
        ("[store] url", "[store]\nurl = \"file:taken/state\""),
        ("[ca] dir", "[ca]\ndir = \"taken\""),
    ] {
        let world = World::builder().sections(section).start_servers().await;
        // Even root cannot make a directory within a file.
        std::fs::write(world.dir.path().join("taken"), "a file").unwrap();
        let output = bearerd(world.dir.path(), &["run"]);
        assert_eq!(
            output.status.code(),
            Some(78),
            "the command has another exit code: {}",
            text(&output.stderr)
        );
        let said = text(&output.stderr);
        assert_says("the output", &said, [key, "taken"]);
    }
}

#[tokio::test]
async fn a_socket_that_a_dead_process_left_is_taken_over_and_any_other_file_is_not() {
    let world =
        World::builder().listen("[\"127.0.0.1:0\", \"unix:proxy.sock\"]").start_servers().await;
    let path = world.dir.path().join("proxy.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = Program::start(&world).await;
    let mut client = Wire::over(tokio::net::UnixStream::connect(&path).await.unwrap());
    client.ask(&get(&world.http("/"))).await.assert_ok();
    let second = bearerd(world.dir.path(), &["run"]);
    assert_eq!(
        second.status.code(),
        Some(1),
        "the command has another exit code: {}",
        text(&second.stderr)
    );
    client.ask(&get(&world.http("/"))).await.assert_ok();
    first.stop().await;

    std::fs::write(&path, "precious").unwrap();
    let mut child = command(world.dir.path(), &["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let _ended_already = child.kill();
    child.wait().unwrap();
    assert!(
        line.starts_with("error: ") && line.contains("proxy.listen"),
        "the error does not name the key of the listener: {line}"
    );
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        "precious",
        "a file that is no socket was replaced"
    );
}

#[tokio::test]
async fn a_closed_output_causes_no_panic() {
    let world = World::builder().start_servers().await;
    assert!(
        bearerd(world.dir.path(), &["ca", "init"]).status.success(),
        "`bearerd ca init` failed"
    );
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["check"],
        &["ca", "init"],
        &["ca", "show"],
        &["ca", "export"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(world.dir.path(), arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let said = text(&output.stderr);
        assert_never_says(&format!("{arguments:?}: the output"), &said, ["panicked"]);
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "{arguments:?}: the command died of output that nobody reads: {}",
            output.status
        );
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_a_usage_error() {
    let world = World::builder().start_servers().await;
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["ca"],
        &["ca", "export", "--format", "jks"],
        &["refresh"],
        &["logout", "a", "b"],
        &["run", "--listen", "nonsense"],
        &["run", "--listen", "0.0.0.0:0"],
        &["run", "--log-format", "xml"],
        &["run", "--log-level", "bearerd=loud"],
    ] {
        let output = bearerd(world.dir.path(), arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: the command has another exit code: {}",
            text(&output.stderr)
        );
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?}: the usage error is not on standard error alone"
        );
    }
}

#[tokio::test]
async fn version_and_help_need_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let version = bearerd(dir.path(), &["--version"]);
    assert_eq!(version.status.code(), Some(0), "`--version` failed");
    assert_eq!(
        text(&version.stdout),
        format!("bearerd {}\n", env!("CARGO_PKG_VERSION")),
        "the version is printed differently"
    );
    let help = bearerd(dir.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0), "`--help` failed");
    for command in ["run", "check", "status", "refresh", "logout", "ca", "--config"] {
        assert_says(&format!("{command}: the output"), text(&help.stdout), [command]);
    }
}

// ===== ca =====

#[tokio::test]
async fn ca_init_makes_one_authority_that_only_its_owner_can_use() {
    let world = World::builder().start_servers().await;
    let dir = world.dir.path();
    for arguments in [&["ca", "show"][..], &["ca", "export"]] {
        let output = bearerd(dir, arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "`bearerd {}` succeeded without an authority",
            arguments.join(" ")
        );
        assert_says("standard error", text(&output.stderr), ["bearerd ca init"]);
    }
    let made = bearerd(dir, &["ca", "init"]);
    assert_eq!(
        made.status.code(),
        Some(0),
        "the command has another exit code: {}",
        text(&made.stderr)
    );
    let fingerprint = last_word(&made.stdout);
    assert_eq!(mode(&dir.join("certs/ca.key")), 0o600, "others can read the key of the authority");
    assert_eq!(mode(&dir.join("certs")), 0o700, "others can list the directory of the authority");
    let pem = std::fs::read(dir.join("certs/ca.pem")).unwrap();

    let again = bearerd(dir, &["ca", "init"]);
    assert_eq!(again.status.code(), Some(0), "the second `ca init` failed");
    assert_eq!(
        last_word(&again.stdout),
        fingerprint,
        "the second `ca init` made another authority"
    );
    assert_eq!(
        std::fs::read(dir.join("certs/ca.pem")).unwrap(),
        pem,
        "the second `ca init` replaced the certificate"
    );

    let shown = bearerd(dir, &["ca", "show"]);
    assert_eq!(shown.status.code(), Some(0), "`ca show` failed");
    let shown = text(&shown.stdout);
    assert_says("the output", &shown, [&fingerprint, "REQUESTS_CA_BUNDLE="]);

    assert_eq!(
        bearerd(dir, &["ca", "export"]).stdout,
        pem,
        "`ca export` writes another certificate"
    );
    assert_eq!(
        bearerd(dir, &["ca", "export", "--format", "pem"]).stdout,
        pem,
        "`ca export --format pem` writes another certificate"
    );
    let der = bearerd(dir, &["ca", "export", "--format", "der"]).stdout;
    let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty() && certificate.is_ca(), "the export is not one CA certificate");
    let (_, parsed) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    assert_eq!(parsed.contents, der, "the DER export holds another certificate");
}

// ===== run: the example =====

#[tokio::test]
async fn the_example_configuration_runs_on_a_fresh_machine_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.toml"));
    // Its admin port may be taken by another test.
    let file =
        example.unwrap().replacen("# listen = \"127.0.0.1:9090\"", "listen = \"127.0.0.1:0\"", 1);
    std::fs::write(dir.path().join("proxy.toml"), file).unwrap();
    assert_eq!(
        bearerd(dir.path(), &["check"]).status.code(),
        Some(0),
        "the example configuration is refused"
    );

    let program = Program::start_with(dir.path(), &["--listen", "127.0.0.1:0"], &[]).await;
    let other = OriginServer::start(OriginConfig::default()).await;
    program.get(&other.url("/x")).await.assert_ok();
    let pem = program.get("http://bearerd.invalid/ca.pem").await;
    pem.assert_status(404, "there is a CA certificate although nothing is intercepted");
    other.assert_requests(1, "the request did not go to its own host once");
    let log = program.stop().await;
    let warning = log.lines().find(|line| line.starts_with("warning")).unwrap_or_default();
    assert_says(&format!("{log}: the warning"), warning, ["credential"]);
    assert_eq!(files(dir.path()), ["proxy.toml"], "a run without credentials has left a file");
}

// ===== run: probes and logs =====

#[tokio::test]
async fn the_probes_answer_on_the_admin_listener() {
    let world = World::builder().start_servers().await;
    let program = Program::start(&world).await;
    let mut admin = Wire::to_address(program.admin).await;
    let live = admin.ask(&["GET /livez HTTP/1.1", "Host: x"]).await;
    assert_eq!(
        (live.status, live.text()),
        (200, "{\"status\":\"ok\"}\n".to_owned()),
        "the probe does not say that the program lives"
    );
    program.get(&world.http("/")).await.assert_ok();
    let ready = admin.ask(&["GET /readyz HTTP/1.1", "Host: localhost"]).await;
    ready.assert_ok();
    let ready: serde_json::Value = serde_json::from_slice(&ready.content).unwrap();
    assert_eq!(
        ready["status"], "ok",
        "the probe does not say that everything is in order: {ready}"
    );
    assert_eq!(
        ready["credentials"][0]["name"], "api",
        "the probe names another credential: {ready}"
    );
    assert_eq!(
        ready["credentials"][0]["token"], true,
        "the probe does not say that there is a token: {ready}"
    );
    admin
        .ask(&["GET / HTTP/1.1", "Host: localhost"])
        .await
        .assert_status(404, "there is a page at the root");
    admin.ask(&["GET / HTTP/1.1", "Host: x"]).await.assert_status(403, "DNS rebinding");
    let posted = admin.ask(&["POST /livez HTTP/1.1", "Host: x", "Content-Length: 0"]).await;
    posted.assert_status(405, "a probe was answered to POST");
    program.stop().await;
}

#[tokio::test]
async fn readiness_names_a_credential_in_trouble_and_stays_ready() {
    let world = World::builder().start_servers().await;
    world.authorization_server.revoke_refresh_token();
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    let ready = Wire::to_address(program.admin)
        .await
        .ask(&["GET /readyz HTTP/1.1", "Host: localhost"])
        .await;
    ready.assert_status(200, "one credential in trouble makes the program unready");
    let ready: serde_json::Value = serde_json::from_slice(&ready.content).unwrap();
    assert_eq!(
        ready["status"], "degraded",
        "the probe does not tell of the credential in trouble: {ready}"
    );
    assert!(
        ready["credentials"][0]["next"].is_string(),
        "the probe does not say what to do: {ready}"
    );
    program.stop().await;
}

#[tokio::test]
async fn json_logs_are_one_object_a_line_and_hold_no_query_and_no_secret() {
    no_log_holds_a_secret(&["--log-format", "json"], "info").await;
}

#[tokio::test]
async fn not_even_the_most_talkative_log_holds_a_query_or_a_secret() {
    no_log_holds_a_secret(&["--log-format", "json"], "trace").await;
}

#[tokio::test]
async fn text_logs_hold_no_query_and_no_secret_either() {
    no_log_holds_a_secret(&["--log-format", "text"], "trace").await;
}

/// Drives requests that carry every kind of secret, then looks for them in all that was logged.
async fn no_log_holds_a_secret(arguments: &[&str], level: &str) {
    let world = World::builder().start_servers().await;
    let authorization_server = &world.authorization_server;
    let other = OriginServer::start(OriginConfig::default()).await;
    let program = Program::start_with(world.dir.path(), arguments, &[("RUST_LOG", level)]).await;
    let mut client = Wire::to_address(program.proxy).await;
    for url in [world.http("/a?secret=query-secret"), other.url("/b?secret=query-secret")] {
        assert_eq!(
            post_secrets(&mut client, &url).await,
            200,
            "a request of the test was not served"
        );
    }
    world.origin.enqueue(Answer::text(200, "answer-secret"));
    program.get(&world.http("/c?secret=query-secret")).await.assert_ok();
    authorization_server.revoke_refresh_token();
    authorization_server.tokens().revoke_all_access_tokens();
    for path in ["/d", "/e"] {
        let url = world.http(&format!("{path}?secret=query-secret"));
        assert!(
            matches!(post_secrets(&mut client, &url).await, 401 | 503),
            "a request without a token was answered by something else"
        );
    }
    let log = program.stop().await;

    let mut secrets: Vec<String> = ["query", "theirs", "proxy", "cookie", "body", "answer"]
        .map(|kind| format!("{kind}-secret"))
        .to_vec();
    secrets.push("test-client-secret".to_owned());
    secrets.push(authorization_server.current_refresh_token());
    secrets.extend(authorization_server.previous_refresh_tokens());
    let requests = world.origin.requests();
    secrets.extend(requests.iter().filter_map(|request| request.bearer().map(str::to_owned)));
    for secret in &secrets {
        let line = log.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "{secret} is in the log");
    }
    assert!(secrets.len() >= 11, "the test looks for fewer secrets than it has made: {secrets:?}");
    if arguments.contains(&"json") {
        assert_every_line_is_an_object(&log);
    }
}

/// The status of a `POST` with a secret in each of its parts.
async fn post_secrets(client: &mut Wire, url: &str) -> u16 {
    let target = format!("POST {url} HTTP/1.1");
    let head = message(&[
        &target,
        "Host: x",
        "Authorization: Bearer theirs-secret",
        "Proxy-Authorization: Basic proxy-secret",
        "Cookie: session=cookie-secret",
        "Content-Length: 11",
    ]);
    client.send(head + "body-secret").await;
    client.reply().await.status
}

fn assert_every_line_is_an_object(log: &str) {
    let mut accesses = 0;
    for line in log.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let entry = value.as_object().unwrap_or_else(|| panic!("not an object: {line}"));
        if entry.get("message").is_some_and(|message| message == "request") {
            accesses += 1;
            assert!(
                entry["request_id"].as_str().is_some_and(|id| id.len() == 16),
                "the request id of the log line has another length: {line}"
            );
            assert!(
                !entry["target"].as_str().unwrap().contains('?'),
                "the query of a request is in the log: {line}"
            );
        }
    }
    assert_eq!(accesses, 5, "a request is missing in the access log, or there is one too many");
}

// ===== The end =====

#[tokio::test]
async fn sigterm_lets_requests_under_way_finish_and_admits_no_new_ones() {
    let world = World::builder().start_servers().await;
    let program = Program::start(&world).await;
    let mut idle = Wire::to_address(program.proxy).await;
    idle.ask(&get(&world.http("/"))).await.assert_ok();
    world.origin.hold();
    let mut busy = Wire::to_address(program.proxy).await;
    busy.send(message(&get(&world.http("/")))).await;
    world.origin.wait_for_requests(2).await;

    program.signal(Signal::TERM);
    program.logs("stopping").await;
    idle.is_closed().await;
    refuses(program.proxy).await;
    let ready = Wire::to_address(program.admin)
        .await
        .ask(&["GET /readyz HTTP/1.1", "Host: localhost"])
        .await;
    ready.assert_status(503, "a program that stops is still ready");
    assert_says("the answer", ready.text(), ["draining"]);
    let live = Wire::to_address(program.admin).await.ask(&["GET /livez HTTP/1.1", "Host: x"]).await;
    live.assert_status(200, "a program that stops is not live");

    world.origin.release_all();
    let reply = busy.reply().await;
    assert_eq!(
        (reply.status, reply.field("connection")),
        (200, Some("close")),
        "the request under way was cut, or its connection was kept"
    );
    busy.is_closed().await;
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
}

#[tokio::test]
async fn sigterm_lets_a_tunnel_under_way_finish_within_the_grace_and_no_longer() {
    let world =
        World::builder().proxy("connect_ports = []\nshutdown_grace = \"1s\"").start_servers().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let program = Program::start(&world).await;
    let mut client = Wire::to_address(program.proxy).await;
    let connect = format!("CONNECT {} HTTP/1.1", other.authority());
    client.ask_head(&[&connect, "Host: x"]).await.assert_ok();
    program.signal(Signal::TERM);
    program.logs("stopping").await;
    client.ask(&["GET / HTTP/1.1", "Host: x"]).await.assert_ok();
    client.is_closed().await;
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
}

#[tokio::test]
async fn sigterm_ends_an_idle_session_after_connect_at_once() {
    let world = World::builder().start_servers().await;
    let program = Program::start(&world).await;
    let mut client = Wire::to_address(program.proxy).await;
    let connect = format!("CONNECT {} HTTP/1.1", world.origin.authority());
    client.ask_head(&[&connect, "Host: x"]).await.assert_ok();
    let host = format!("Host: {}", world.origin.authority());
    client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
    program.signal(Signal::TERM);
    client.is_closed().await;
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
}

/// The proxy is done with such an answer before its client is: the rest is in buffers.
#[tokio::test]
async fn sigterm_lets_a_client_that_reads_slowly_have_all_of_its_answer() {
    const STEP: usize = 300_000;
    let world = World::builder().start_servers().await;
    let program = Program::start(&world).await;
    let mut clients = Vec::new();
    for size in (1..=20).map(|number| number * STEP) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = Wire::over(socket.connect(program.proxy).await.unwrap());
        client.send(message(&get(&world.http(&format!("/bytes/{size}"))))).await;
        client.reply_head().await.assert_ok();
        clients.push((size, client));
    }
    // A response that fits into the kernel's buffers is finished.
    program.logs("/bytes/300000").await;
    program.signal(Signal::TERM);
    program.logs("stopping").await;
    refuses(program.proxy).await;
    let mut cut = Vec::new();
    for (size, mut client) in clients {
        let got = client.rest().await.len();
        if got != size {
            cut.push((size, got));
        }
    }
    assert_eq!(cut, [], "announced and received");
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
}

#[tokio::test]
async fn sigint_stops_the_program_and_removes_its_unix_socket() {
    let world =
        World::builder().listen("[\"127.0.0.1:0\", \"unix:proxy.sock\"]").start_servers().await;
    let program = Program::start(&world).await;
    let path = world.dir.path().join("proxy.sock");
    let mut client = Wire::over(tokio::net::UnixStream::connect(&path).await.unwrap());
    client.ask(&get(&world.http("/"))).await.assert_ok();
    program.signal(Signal::INT);
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
    assert!(!path.exists(), "the socket was left behind");
}

#[tokio::test]
async fn a_refresh_under_way_at_the_end_is_finished_and_stored_although_its_client_is_gone() {
    let world = World::builder().start_servers().await;
    let program = Program::start(&world).await;
    world.authorization_server.hold();
    let mut client = Wire::to_address(program.proxy).await;
    client.send(message(&get(&world.http("/")))).await;
    world.authorization_server.wait_for_token_requests(1).await;
    drop(client);
    program.signal(Signal::TERM);
    program.logs("stopping").await;
    world.authorization_server.release_all();
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
    let stored = world.record()["refresh_token"].as_str().unwrap().to_owned();
    assert!(
        world.authorization_server.refresh_token_is_current(&stored),
        "the refresh token of the refresh under way was not stored"
    );

    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.authorization_server.assert_no_reuse();
    program.stop().await;
}

/// Cut off, it would be lost: the server has forgotten the refresh token before.
#[tokio::test]
async fn a_refresh_under_way_at_the_end_is_stored_although_the_grace_is_over() {
    let world = World::builder().proxy("shutdown_grace = \"1ms\"").start_servers().await;
    let slow = TokenBehaviour::SlowDrip { interval: Duration::from_millis(5) };
    world.authorization_server.enqueue(slow);
    let program = Program::start(&world).await;
    let mut client = Wire::to_address(program.proxy).await;
    client.send(message(&get(&world.http("/")))).await;
    world.authorization_server.wait_for_token_requests(1).await;
    program.signal(Signal::TERM);
    program.logs("the shutdown grace is over").await;
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
    let stored = world.record()["refresh_token"].as_str().unwrap().to_owned();
    assert!(
        world.authorization_server.refresh_token_is_current(&stored),
        "the refresh token of the refresh under way was not stored"
    );
}

/// What was sent of a response so far is not to look like all of it.
#[tokio::test]
async fn a_second_sigterm_ends_the_grace_and_resets_what_is_under_way() {
    let world = World::builder().start_servers().await;
    let program = Program::start(&world).await;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let line = format!("GET http://{}/ HTTP/1.0", origin.local_addr().unwrap());
    let mut client = Wire::to_address(program.proxy).await;
    client.send(message(&[&*line, "Host: x"])).await;
    let mut server = Wire::over(within(origin.accept()).await.unwrap().0);
    server.head_text().await;
    server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n").await;
    client.head_text().await;
    assert_eq!(client.exactly(4).await, b"some", "the beginning of the response did not arrive");
    program.signal(Signal::TERM);
    program.logs("stopping").await;
    stop_once_more(&program).await;
    let read = within(client.stream.read(&mut [0; 8])).await;
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset,
        "the cut response looks complete"
    );
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
}

#[tokio::test]
async fn a_token_request_under_way_outlasts_a_second_sigterm() {
    let world = World::builder().start_servers().await;
    let slow = TokenBehaviour::SlowDrip { interval: Duration::from_millis(5) };
    world.authorization_server.enqueue(slow);
    let program = Program::start(&world).await;
    let mut client = Wire::to_address(program.proxy).await;
    client.send(message(&get(&world.http("/")))).await;
    world.authorization_server.wait_for_token_requests(1).await;
    program.signal(Signal::TERM);
    program.logs("stopping").await;
    stop_once_more(&program).await;
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
    let stored = world.record()["refresh_token"].as_str().unwrap().to_owned();
    assert!(
        world.authorization_server.refresh_token_is_current(&stored),
        "the refresh token of the refresh under way was not stored"
    );
}

// ===== Support =====

/// A signal that comes with the first is the same: terminals and wrappers send it twice.
async fn stop_once_more(program: &Program) {
    let again = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        loop {
            pause.tick().await;
            program.signal(Signal::TERM);
        }
    };
    tokio::select! {
        _line = program.logs("second stop signal") => {}
        () = again => {}
    }
}

fn last_word(output: &[u8]) -> String {
    text(output).split_whitespace().last().unwrap().to_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The names in a directory, sorted.
fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until connections to `address` are refused.
async fn refuses(address: SocketAddr) {
    within(async { while TcpStream::connect(address).await.is_ok() {} }).await;
}
