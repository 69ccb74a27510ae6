//! Changes of secrets and configuration on the disk take effect without a signal, in the real program.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bearerd_test_support::{OriginConfig, OriginServer};
use serde_json::Value;

use super::program::{Program, command};
use super::stopwatch::Stopwatch;
use super::wire::{Wire, get};
use super::world::{World, eventually};
use crate::texts::{assert_never_says, assert_says};

/// Time from a change to the first request that uses it.
const SOON: Duration = Duration::from_secs(3);

const NOTICED: &str = "reloading the configuration";

#[tokio::test]
async fn a_new_seed_heals_a_dead_grant_within_three_seconds_and_without_a_signal() {
    let world = World::plain().start_servers().await;
    let server = &world.authorization_server;
    server.revoke_refresh_token();
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    program.get(&world.http("/")).await.assert_no_token();
    server.assert_token_requests(1, "a dead grant was presented again before the seed changed");
    let seed = server.issue_refresh_token();
    world.write_seed(&seed);
    let changed = Stopwatch::start();
    program.logs("the new configuration is in force").await;
    program.get(&world.http("/")).await.assert_ok();
    assert!(changed.elapsed() < SOON, "it took too long: {:?}", changed.elapsed());
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
    let noticed = program.logs(NOTICED).await;
    assert_says("the log line", &noticed, ["/seed`"]);
    let log = program.stop().await;
    assert_never_says("the log", &log, [&seed]);
    assert_eq!(
        log.matches(NOTICED).count(),
        1,
        "the configuration was read again more or less often than once: {log}"
    );
}

#[tokio::test]
async fn a_wrong_new_seed_is_logged_and_the_previous_grant_goes_on() {
    let world = World::plain().start_servers().await;
    let server = &world.authorization_server;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let refresh_token = world.record()["refresh_token"].clone();
    world.write_seed("a-refresh-token-of-long-ago");
    program.logs("the new configuration is in force").await;
    program.get(&world.http("/")).await.assert_ok();
    program.logs("the new seed was refused").await;
    server.assert_token_requests(2, "the wrong seed was not tried exactly once");
    assert_eq!(
        world.record()["refresh_token"],
        refresh_token,
        "the wrong seed has replaced the working refresh token"
    );
    let log = program.stop().await;
    assert_never_says("the log", &log, ["a-refresh-token-of-long-ago"]);
}

/// As the kubelet does it: the link `..data` is replaced, nothing else.
#[tokio::test]
async fn a_client_secret_that_kubernetes_swaps_is_used_without_a_signal() {
    let world = World::plain().start_servers().await;
    let at = |name: &str| world.dir.path().join(name);
    for (version, secret) in [("..one", "a-mistyped-secret"), ("..two", "test-client-secret")] {
        std::fs::create_dir(at(version)).unwrap();
        world.write_secret(&format!("{version}/secret"), secret);
    }
    std::fs::remove_file(at("secret")).unwrap();
    symlink("..one", at("..data")).unwrap();
    symlink("..data/secret", at("secret")).unwrap();
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    symlink("..two", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    program.logs("the new configuration is in force").await;
    program.get(&world.http("/")).await.assert_ok();
    world.authorization_server.assert_token_requests(
        2,
        "the swapped client secret was not used in one more token request",
    );
    let log = program.stop().await;
    assert_never_says("the log", &log, ["a-mistyped-secret", "test-client-secret"]);
}

#[tokio::test]
async fn a_changed_configuration_is_in_force_without_a_signal_and_a_bad_one_is_reported_once() {
    let mut world = World::plain().start_servers().await;
    let tokens = Some(world.authorization_server.tokens());
    let other = OriginServer::start(OriginConfig { tokens, ..OriginConfig::default() }).await;
    let program = Program::start(&world).await;
    program
        .get(&other.url("/"))
        .await
        .assert_status(401, "the host was served before it was configured");
    let one = format!("hosts = [\"{}\"]", world.origin.authority());
    let both = format!("hosts = [\"{}\", \"{}\"]", world.origin.authority(), other.authority());
    world.configure_file(|text| text.replace("client_id =", "cleint_id ="));
    program.logs("the previous one stays in force").await;
    program.get(&world.http("/")).await.assert_ok();
    world.configure_file(|text| text.replace("cleint_id =", "client_id =").replace(&one, &both));
    program.logs("the new configuration is in force").await;
    program.get(&other.url("/")).await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(1, "a change of hosts has cost a token request");
    let log = program.stop().await;
    assert_eq!(
        log.matches("the previous one stays in force").count(),
        1,
        "the bad configuration was not reported exactly once: {log}"
    );
}

/// The new configuration is invalid only because the file of its secret does not exist yet.
#[tokio::test]
async fn a_secret_that_comes_after_the_configuration_that_names_it_is_noticed() {
    let mut world = World::plain().start_servers().await;
    let program = Program::start(&world).await;
    world.configure_file(|text| text.replace("file = \"secret\"", "file = \"new-secret\""));
    program.logs("the previous one stays in force").await;
    world.write_secret("new-secret", "test-client-secret");
    program.logs("the new configuration is in force").await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
}

/// The command runs again only after the authorization server has refused its earlier output.
#[tokio::test]
async fn a_command_is_run_again_when_its_client_secret_is_refused() {
    let mut world = World::plain().start_servers().await;
    let script = "echo run >> runs; cat vault";
    world.configure_file(|text| {
        let cmd = format!("cmd = [\"sh\", \"-c\", \"{script}\"]");
        text.replace("file = \"secret\"", &cmd)
    });
    world.write_secret("vault", "a-mistyped-secret");
    let runs = || std::fs::read_to_string(world.dir.path().join("runs")).unwrap().lines().count();
    let program = Program::start(&world).await;
    world.write_secret("vault", "test-client-secret");
    assert_eq!(runs(), 1, "the command was not run once at the start");
    program.get(&world.http("/")).await.assert_no_token();
    program.logs("the new configuration is in force").await;
    program.get(&world.http("/")).await.assert_ok();
    let noticed = program.logs(NOTICED).await;
    assert_says("the log line", &noticed, ["command `sh`"]);
    // One run compares the secret, one builds the new settings.
    assert_eq!(
        runs(),
        3,
        "the command was run more or less often than for one comparison and the new settings"
    );
    let log = program.stop().await;
    assert_never_says("the log", &log, ["a-mistyped-secret", "test-client-secret"]);
}

/// The seeds of clubs are read by the token that needs them, and not with the configuration.
#[tokio::test]
async fn a_new_seed_of_one_club_is_used_without_a_signal() {
    let by_path = "paths = [\"/${club}/\"]\nvars = { club = [\"paris\", \"lyon\"] }";
    for lines in [by_path, "vars = { club = \"${field.X-Club}\" }"] {
        a_new_seed_of_one_club_is_used(lines).await;
    }
}

async fn a_new_seed_of_one_club_is_used(lines: &str) {
    let all = "params = { club = \"${club}\" }\nrefresh_token = { file = \"seed-${club}\" }";
    let world = World::plain()
        .without_seed()
        .authorization_server(|config| config.realm_parameter = Some("club".into()))
        .credential(&format!("{lines}\n{all}"))
        .start_servers()
        .await;
    let server = &world.authorization_server;
    for club in ["paris", "lyon"] {
        world.write_secret(&format!("seed-{club}"), &server.current_refresh_token_of(club));
    }
    server.revoke_refresh_token_of("paris");
    let program = Program::start(&world).await;
    let ask = async |club: &str| {
        let [request, host] = get(&world.http(&format!("/{club}/")));
        let field = format!("X-Club: {club}");
        Wire::to_address(program.proxy).await.ask(&[request, host, field]).await.status
    };
    assert_eq!(
        (ask("paris").await, ask("lyon").await),
        (503, 200),
        "(paris, lyon): the revocation of one club's grant is not that club's alone"
    );
    world.write_secret("seed-paris", &server.issue_refresh_token_of("paris"));
    program.logs("the new configuration is in force").await;
    assert_eq!(
        (ask("paris").await, ask("lyon").await),
        (200, 200),
        "(paris, lyon): the new seed was not used"
    );
    server.assert_token_requests(3, "the new seed has to cost one token request");
    let noticed = program.logs(NOTICED).await;
    assert_says("the log line", &noticed, ["seed-paris"]);
    assert_never_says("the log line", &noticed, ["seed-lyon"]);
    let log = program.stop().await;
    assert_eq!(
        log.matches(NOTICED).count(),
        1,
        "the configuration was read again more or less often than once: {log}"
    );
}

// ----- around them -----

#[tokio::test]
async fn warnings_and_problems_are_objects_of_the_json_log() {
    let mut world = World::plain().start_servers().await;
    let secret = world.dir.path().join("secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let program = Program::start_with(world.dir.path(), &["--log-format", "json"], &[]).await;
    let warned = program.logs("can be read by others").await;
    world.configure_file(|text| text.replace("client_id =", "cleint_id ="));
    let refused = program.logs("unknown key").await;
    program.logs("the previous one stays in force").await;
    for (line, level) in [(warned, "WARN"), (refused, "ERROR")] {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["level"], level, "the level of the log line is another one: {line}");
        assert!(
            line["place"].as_str().unwrap().starts_with("proxy.toml:"),
            "the log line does not name the place: {line}"
        );
        assert!(
            !line["fix"].as_str().unwrap().is_empty(),
            "the log line does not say what to do: {line}"
        );
    }
    for line in program.stop().await.lines() {
        assert!(
            serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()),
            "a log line is no JSON object: {line}"
        );
    }
}

#[tokio::test]
async fn a_unix_socket_has_mode_0600_whatever_the_umask() {
    for umask in ["000", "022", "277"] {
        let world = World::plain().listen("\"unix:proxy.sock\"").start_servers().await;
        let program = command(world.dir.path(), &["run"]).get_program().to_owned();
        let mut child = std::process::Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" run")])
            .arg(program)
            .current_dir(world.dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let path = world.dir.path().join("proxy.sock");
        let answers = |path: &Path| std::os::unix::net::UnixStream::connect(path).is_ok();
        eventually("it listens", || answers(&path)).await;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(mode & 0o777, 0o600, "with umask {umask} the file has another mode");
    }
}
