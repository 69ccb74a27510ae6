//! `bearerd refresh`, `bearerd logout`, and the admin token that both need.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bearerd_test_support::{Answer, ExpiresIn, OriginConfig, OriginServer, TokenBehaviour};
use serde_json::{Value, json};

use super::program::{Program, command, text};
use super::status::{assert_no_secret, described, servers};
use super::wire::Wire;
use super::world::{World, eventually};
use crate::texts::{assert_never_says, assert_says};

const CLUBS: &str = r#"
paths = ["/${club}/"]
vars = { club = ["paris", "lyon", "nice"] }
params = { club = "${club}" }
refresh_token = { file = "${club}" }
"#;

/// Exit code, standard output, standard error.
type Said = (Option<i32>, String, String);

/// Runs bearerd to its end while the servers of the world go on.
async fn run(dir: &Path, arguments: &str) -> Said {
    run_in(dir, arguments, &[]).await
}

async fn run_in(dir: &Path, arguments: &str, environment: &[(&str, &str)]) -> Said {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command = command(dir, &arguments);
    command.envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A revocation endpoint.
async fn revocations() -> (OriginServer, String) {
    let server =
        OriginServer::start(OriginConfig { keep_bodies: true, ..OriginConfig::default() }).await;
    let line = format!("revoke_url = \"{}\"", server.url("/revoke"));
    (server, line)
}

/// The tokens that were revoked there, in order of arrival.
fn given_back(server: &OriginServer) -> Vec<String> {
    let token = |body: &str| {
        let mut fields = body.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(name, _)| *name == "token").map(|(_, token)| token.to_owned())
    };
    let requests = server.requests();
    requests.iter().filter_map(|it| token(&String::from_utf8_lossy(&it.body))).collect()
}

async fn clubs() -> World {
    let realms = World::builder()
        .without_seed()
        .authorization_server(|config| config.realm_parameter = Some("club".into()))
        .credential(CLUBS);
    let world = servers(realms).await;
    for club in ["paris", "lyon", "nice"] {
        world.write_secret(club, &world.authorization_server.current_refresh_token_of(club));
    }
    world
}

fn token_file(world: &World) -> PathBuf {
    world.state().join("admin.token")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Replaces the line of `admin.listen`.
fn set_admin_listen(world: &mut World, listen: &str) {
    world.configure_file(|text| {
        let at = text.find("[admin]\nlisten = ").unwrap();
        let end = at + text[at + 8..].find('\n').unwrap() + 8;
        format!("{}[admin]\nlisten = \"{listen}\"{}", &text[..at], &text[end..])
    });
}

/// The status of a change requested over HTTP.
async fn post(admin: std::net::SocketAddr, path: &str, token: &str) -> u16 {
    let request = [
        &*format!("POST /api/v1/credentials/{path} HTTP/1.1"),
        "Host: localhost",
        &*format!("Authorization: Bearer {token}"),
        "Content-Length: 0",
    ];
    Wire::to_address(admin).await.ask(&request).await.status
}

// ===== refresh =====

#[tokio::test]
async fn refresh_replaces_a_token_that_is_still_good_and_says_what_came_of_it() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let (code, said, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!((code, &*complaints), (Some(0), ""), "`refresh` failed or complained");
    assert!(
        said.starts_with("api: refreshed; token number 2, expires in 59m"),
        "the output does not begin with the new token: {said}"
    );
    assert_eq!(said.lines().count(), 1, "the output has more lines than one: {said}");
    assert_eq!(
        described(program.admin).await["generation"],
        2,
        "the admin listener reports another token number"
    );

    let (code, json, _) = run(world.dir.path(), "refresh --json api").await;
    assert_eq!(code, Some(0), "`refresh --json` failed");
    let json: Value = serde_json::from_str(&json).unwrap();
    let [one] = json["credentials"].as_array().unwrap().as_slice() else { panic!("{json}") };
    assert_eq!(
        (&one["name"], &one["generation"]),
        (&json!("api"), &json!(3)),
        "the JSON reports another name or number"
    );
    world
        .authorization_server
        .assert_token_requests(3, "each `refresh` has to cost one token request");
    let everything = [said, json.to_string(), program.stop().await].concat();
    assert_no_secret(&world, &everything);
}

#[tokio::test]
async fn refresh_exits_with_69_without_a_running_proxy_and_with_78_without_a_good_file() {
    let mut world = servers(World::builder()).await;
    let (code, said, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(
        (code, &*said),
        (Some(69), ""),
        "`refresh` without a running proxy has another exit code or says something on standard output"
    );
    assert!(
        complaints.contains("admin.listen") && complaints.contains("bearerd run"),
        "the message does not say how to reach a running proxy: {complaints}"
    );
    assert!(!world.state().exists(), "a command makes no state");
    assert_eq!(
        run(world.dir.path(), "refresh").await.0,
        Some(2),
        "`refresh` without a name is no usage error"
    );
    world.configure_file(|text| text.replace("client_id =", "cleint_id ="));
    let (code, said, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(
        (code, &*said),
        (Some(78), ""),
        "a bad file has another exit code, or something is on standard output"
    );
    assert_says("standard error", &complaints, ["cleint_id"]);
}

/// The admin listener is off or has an unknown port.
#[tokio::test]
async fn refresh_says_what_to_write_where_the_proxy_cannot_be_found() {
    for (listen, expected) in [("", "set listen = \"127.0.0.1:9090\""), ("127.0.0.1:0", "port 0")] {
        let mut world = servers(World::builder()).await;
        set_admin_listen(&mut world, listen);
        let (code, said, complaints) = run(world.dir.path(), "refresh api").await;
        assert_eq!(
            (code, &*said),
            (Some(69), ""),
            "{listen}: the command has another exit code, or said something on standard output"
        );
        assert_says("standard error", &complaints, [expected]);
    }
}

#[tokio::test]
async fn refresh_says_why_there_is_no_new_token_and_what_to_do() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.authorization_server.revoke_refresh_token();
    let (code, said, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(
        (code, &*said),
        (Some(1), ""),
        "a refresh that was refused has another exit code, or something is on standard output"
    );
    assert!(
        complaints.starts_with("error: api was not refreshed: "),
        "standard error does not begin with what failed: {complaints}"
    );
    assert_says("standard error", &complaints, ["invalid_grant"]);
    assert_says("standard error", &complaints, ["configure a new refresh_token"]);
    let (code, json, _) = run(world.dir.path(), "refresh api --json").await;
    assert_eq!(code, Some(1), "a refresh that was refused has another exit code with --json");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["credentials"][0]["error"].as_str().unwrap().contains("operator"),
        "the JSON does not say that an operator has to act: {json}"
    );
    assert_no_secret(&world, &(complaints + &json.to_string()));
}

/// No operator action is needed: the server is down for a while.
#[tokio::test]
async fn a_temporarily_failed_refresh_keeps_the_token_and_says_so() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let trouble = TokenBehaviour::json(503, json!({}));
    world.authorization_server.enqueue(trouble.with_header("retry-after", "90"));
    let (code, _, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(code, Some(1), "the command has another exit code: {complaints}");
    assert_says("standard error", &complaints, ["retries automatically"]);
    assert_says("standard error", &complaints, ["stays in use: number 1, expires in"]);
    program.get(&world.http("/")).await.assert_ok();
}

#[tokio::test]
async fn an_unknown_name_is_a_usage_error_that_lists_the_known_ones() {
    let world = clubs().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/paris/")).await.assert_ok();
    for name in ["other", "apia", "api[rome]", "api/rome", "api[paris,lyon]", "api[", "API", ""] {
        for action in ["refresh", "logout"] {
            let (code, said, complaints) = run(world.dir.path(), &format!("{action} {name}")).await;
            assert_eq!(
                (code, &*said),
                (Some(2), ""),
                "{action} {name}: the command has another exit code, or said something on standard output: {complaints}"
            );
            assert_says(
                &format!("{name}: standard error"),
                &complaints,
                ["known names: api, api[paris]"],
            );
        }
    }
    world.authorization_server.assert_token_requests(1, "an unknown name has cost a token request");
    program.stop().await;
    // The same without a proxy, on the store.
    let (code, said, complaints) = run(world.dir.path(), "logout api[rome]").await;
    assert_eq!(
        (code, &*said),
        (Some(2), ""),
        "an unknown name is no usage error where the store is asked"
    );
    assert_says("standard error", &complaints, ["known names: api"]);
}

#[tokio::test]
async fn one_token_of_many_is_named_in_either_way_and_all_of_them_by_the_credential() {
    let world = clubs().await;
    let program = Program::start(&world).await;
    let (code, _, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(code, Some(1), "none is in use");
    assert_says("standard error", &complaints, ["api[VALUE]"]);
    program.get(&world.http("/paris/")).await.assert_ok();
    for (name, number) in [("api[paris]", 2), ("api/paris", 3)] {
        let (code, said, complaints) = run(world.dir.path(), &format!("refresh {name}")).await;
        assert_eq!(code, Some(0), "the command has another exit code: {complaints}");
        assert!(
            said.starts_with(&format!("api[paris]: refreshed; token number {number},")),
            "another token was refreshed: {said}"
        );
    }
    // This is its first token.
    let (_, said, _) = run(world.dir.path(), "refresh api[lyon]").await;
    assert!(
        said.starts_with("api[lyon]: refreshed; token number 1,"),
        "the output does not begin with the new token: {said}"
    );
    let (code, said, _) = run(world.dir.path(), "refresh api").await;
    assert_eq!(code, Some(0), "refreshing all tokens of a credential failed");
    let names: Vec<&str> = said.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["api[lyon]", "api[paris]"], "other tokens are listed: {said}");
    assert_says("the output", &said, ["number 4,", "number 2,"]);
}

/// Another configuration's proxy has the port.
#[tokio::test]
async fn two_proxies_are_told_apart_by_their_configurations() {
    let (one, mut other) = (servers(World::builder()).await, servers(World::builder()).await);
    let (first, second) = (Program::start(&one).await, Program::start(&other).await);
    first.get(&one.http("/")).await.assert_ok();
    second.get(&other.http("/")).await.assert_ok();
    let config = other.dir.path().join("proxy.toml");
    let refresh = format!("refresh api --config {}", config.display());
    assert_eq!(
        run(one.dir.path(), &refresh).await.0,
        Some(0),
        "`refresh` by the other configuration failed"
    );
    let requests = |world: &World| world.authorization_server.token_requests();
    assert_eq!(
        (requests(&one), requests(&other)),
        (1, 2),
        "(one, other): the refresh reached the proxy of another configuration"
    );

    set_admin_listen(&mut other, &first.admin.to_string());
    for action in ["refresh", "logout"] {
        let (code, said, complaints) = run(other.dir.path(), &format!("{action} api")).await;
        assert_eq!(
            (code, &*said),
            (Some(1), ""),
            "{action}: the proxy of another configuration was taken for its own"
        );
        assert_says("standard error", &complaints, ["another configuration"]);
        assert_says("standard error", &complaints, ["state/admin.token"]);
    }
    assert_eq!(
        (requests(&one), requests(&other)),
        (1, 2),
        "(one, other): the proxy of another configuration was changed"
    );
    assert_eq!(
        described(first.admin).await["state"],
        "fresh",
        "the proxy of another configuration was logged out"
    );
}

#[tokio::test]
async fn a_wrong_token_changes_nothing_and_a_given_one_does_not_need_a_file() {
    let mut world = servers(World::builder()).await;
    world.write_secret("admin", "adm1n\r\n");
    world.configure_file(|text| {
        text.replace("[admin]\n", "[admin]\ntoken = { file = \"admin\" }\n")
    });
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    assert!(
        !token_file(&world).exists(),
        "a token file was written although a token is configured"
    );
    assert_eq!(
        run(world.dir.path(), "refresh api").await.0,
        Some(0),
        "`refresh` with the configured token failed"
    );
    // The same proxy, by a configuration with another token.
    let config = std::fs::read_to_string(world.dir.path().join("proxy.toml")).unwrap();
    let other = config.replace("{ file = \"admin\" }", "{ file = \"wrong\" }");
    std::fs::write(world.dir.path().join("other.toml"), other).unwrap();
    for wrong in ["wr0ng", "adm1n2", "adm1", "\u{e9}"] {
        world.write_secret("wrong", wrong);
        for action in ["refresh", "logout"] {
            let arguments = format!("{action} api --config other.toml");
            let (code, said, complaints) = run(world.dir.path(), &arguments).await;
            assert_eq!(
                (code, &*said),
                (Some(1), ""),
                "the command has another exit code, or said something on standard output: {complaints}"
            );
            assert_says("standard error", &complaints, ["admin token"]);
            assert_never_says("standard error", &complaints, [wrong]);
        }
    }
    world
        .authorization_server
        .assert_token_requests(2, "a wrong admin token has cost a token request");
    // A configured token may change without a restart.
    world.write_secret("admin", "adm1n2");
    program.logs("in force").await;
    assert_eq!(
        run(world.dir.path(), "refresh api").await.0,
        Some(0),
        "`refresh` with the new admin token failed"
    );
}

/// An operator's shell does not have the environment variables of the proxy's service.
#[tokio::test]
async fn a_command_needs_no_secret_but_the_admin_token() {
    let mut world = servers(World::builder()).await;
    let secret = std::fs::read_to_string(world.dir.path().join("secret")).unwrap();
    world.configure_file(|text| {
        text.replace(
            "client_secret = { file = \"secret\" }",
            "client_secret = { env = \"SECRET\" }",
        )
    });
    let program = Program::start_with(world.dir.path(), &[], &[("SECRET", &secret)]).await;
    for arguments in ["status", "refresh api", "logout api"] {
        let (code, _, complaints) = run(world.dir.path(), arguments).await;
        assert_eq!(code, Some(0), "{arguments}: the command has another exit code: {complaints}");
    }
    program.stop().await;
}

/// Commands do not read the secrets, so they must not report them as equal.
#[tokio::test]
async fn a_command_works_where_each_of_two_credentials_has_a_first_refresh_token() {
    let mut world = servers(World::builder()).await;
    world.write_secret("another", "another-seed");
    let token_url = world.authorization_server.token_url();
    world.configure_file(|text| {
        format!(
            "{text}\n[credential.b]\nhosts = [\"b.test\"]\ntoken_url = \"{token_url}\"\nclient_id = \"b\"\n\
             refresh_token = {{ file = \"another\" }}\n"
        )
    });
    let program = Program::start_with(world.dir.path(), &[], &[]).await;
    for arguments in ["status", "status --probe", "refresh api", "logout api"] {
        let (code, _, complaints) = run(world.dir.path(), arguments).await;
        assert_eq!(code, Some(0), "{arguments}: the command has another exit code: {complaints}");
    }
    program.stop().await;
    world.configure_file(|text| text.replace("\"another\"", "\"seed\""));
    let (code, _, complaints) = run(world.dir.path(), "status").await;
    assert_eq!(code, Some(78), "what is in one place is one: {complaints}");
}

// ===== the admin token =====

#[tokio::test]
async fn the_admin_token_is_made_at_the_start_for_its_owner_alone_and_kept() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    let path = token_file(&world);
    assert_eq!(mode(&path), 0o600, "others can read the admin token");
    let token = std::fs::read_to_string(&path).unwrap();
    assert_eq!(token.trim_end().len(), 43, "32 bytes in base64url");
    program.get(&world.http("/")).await.assert_ok();
    assert_eq!(
        post(program.admin, "api/refresh", "").await,
        401,
        "a change without the admin token was not refused"
    );
    assert_eq!(
        post(program.admin, "api/refresh", token.trim_end()).await,
        200,
        "a change with the admin token was refused"
    );
    let mut log = program.stop().await;
    let program = Program::start(&world).await;
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        token,
        "the restart has replaced the admin token"
    );
    assert_eq!(
        run(world.dir.path(), "refresh api").await.0,
        Some(0),
        "`refresh` failed after the restart"
    );
    log.push_str(&program.stop().await);
    assert!(!log.contains(token.trim_end()), "the admin token is in the log");
}

#[tokio::test]
async fn an_admin_token_that_others_can_read_is_refused_until_its_mode_is_fixed() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let (path, dir) = (token_file(&world), world.dir.path());
    let token = std::fs::read_to_string(&path).unwrap();
    set_mode(&path, 0o640);
    assert_eq!(
        post(program.admin, "api/refresh", token.trim_end()).await,
        403,
        "an admin token that others can read was accepted"
    );
    let (code, _, complaints) = run(dir, "refresh api").await;
    assert_eq!(code, Some(1), "`refresh` used an admin token that others can read");
    assert_says("standard error", &complaints, ["0640", "chmod 600"]);
    world
        .authorization_server
        .assert_token_requests(1, "a refused change has cost a token request");
    // A start succeeds without it.
    program.stop().await;
    let program = Program::start(&world).await;
    program.logs("will be refused").await;
    program.get(&world.http("/")).await.assert_ok();
    // An editor has written CRLF line ends.
    std::fs::write(&path, format!("{}\r\n", token.trim_end())).unwrap();
    set_mode(&path, 0o600);
    let (code, _, complaints) = run(dir, "refresh api").await;
    assert_eq!(
        (code, &*complaints),
        (Some(0), ""),
        "`refresh` failed after the file was put right"
    );

    std::fs::remove_file(&path).unwrap();
    let (code, _, complaints) = run(dir, "refresh api").await;
    assert_eq!(code, Some(1), "`refresh` without the token file has another exit code");
    assert_says("standard error", &complaints, ["STATE_DIRECTORY"]);
    program.signal(rustix::process::Signal::HUP);
    program.logs("in force").await;
    assert_eq!(
        run(dir, "refresh api").await.0,
        Some(0),
        "`refresh` failed after the reload had made another token"
    );
    assert_ne!(
        std::fs::read_to_string(&path).unwrap(),
        token,
        "the reload has not made another token"
    );
}

/// `memory:` has no directory of its own.
#[tokio::test]
async fn without_a_store_directory_the_token_is_in_the_state_directory_or_beside_the_file() {
    let world = servers(World::builder().sections("[store]\nurl = \"memory:\"")).await;
    let program = Program::start(&world).await;
    assert_eq!(
        (mode(&world.state()), mode(&token_file(&world))),
        (0o700, 0o600),
        "(directory, file): others can read the admin token or list its directory"
    );
    assert_eq!(
        run(world.dir.path(), "refresh api").await.0,
        Some(0),
        "`refresh` did not find the token beside the configuration"
    );
    program.stop().await;
    let systemd = tempfile::tempdir().unwrap();
    let variable = [("STATE_DIRECTORY", systemd.path().to_str().unwrap())];
    std::fs::remove_dir_all(world.state()).unwrap();
    world.write_seed(&world.authorization_server.issue_refresh_token());
    let program = Program::start_with(world.dir.path(), &[], &variable).await;
    assert_eq!(
        mode(&systemd.path().join("admin.token")),
        0o600,
        "others can read the admin token in the directory of systemd"
    );
    let (code, _, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(code, Some(1), "`refresh` without $STATE_DIRECTORY found a token");
    assert_says("standard error", &complaints, ["$STATE_DIRECTORY"]);
    assert_eq!(
        run_in(world.dir.path(), "refresh api", &variable).await.0,
        Some(0),
        "`refresh` with $STATE_DIRECTORY failed"
    );
    assert!(
        !world.state().exists(),
        "something was written beside the configuration although there is $STATE_DIRECTORY"
    );
    program.stop().await;
}

#[tokio::test]
async fn without_a_writable_admin_token_requests_are_still_served() {
    let world = servers(World::builder().sections("[store]\nurl = \"memory:\"")).await;
    // Even root cannot make a file within a file.
    std::fs::write(world.state(), "a file").unwrap();
    let program = Program::start(&world).await;
    let warning = program.logs("will be refused").await;
    assert_says("the warning", &warning, ["admin.token"]);
    program.get(&world.http("/")).await.assert_ok();
    assert_eq!(
        post(program.admin, "api/refresh", "any").await,
        403,
        "a change was accepted although there is no admin token"
    );
    let (code, _, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(code, Some(1), "the command has another exit code: {complaints}");
    assert_says("standard error", &complaints, ["admin.token"]);
    assert_eq!(
        run(world.dir.path(), "status").await.0,
        Some(0),
        "`status` failed although reading needs no admin token"
    );
}

/// An address of IPv6, and every address of this machine.
#[tokio::test]
async fn the_proxy_is_found_wherever_it_listens() {
    for listen in ["[::1]", "[::]", "0.0.0.0", "localhost"] {
        let mut world = servers(World::builder()).await;
        let free = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
        set_admin_listen(&mut world, &format!("{listen}:{free}"));
        // On other addresses than loopback, reading needs the token too.
        let program = Program::start(&world).await;
        for arguments in ["status", "status --probe", "refresh api", "logout api"] {
            let (code, _, complaints) = run(world.dir.path(), arguments).await;
            assert_eq!(
                code,
                Some(0),
                "{listen} {arguments}: the command has another exit code: {complaints}"
            );
        }
        program.stop().await;
    }
}

// ===== logout =====

#[tokio::test]
async fn logout_through_the_running_proxy_revokes_and_lasts() {
    let (revocations, line) = revocations().await;
    let world = servers(World::builder().credential(&line)).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let refresh_token = world.authorization_server.current_refresh_token();
    let access_token = world.authorization_server.tokens().newest_access_token().unwrap();
    let (code, said, complaints) = run(world.dir.path(), "logout api").await;
    assert_eq!((code, &*complaints), (Some(0), ""), "`logout` failed or complained");
    assert_eq!(
        said, "api: logged out; refresh token revoked; access token revoked\n",
        "`logout` reports something else"
    );
    assert_eq!(
        given_back(&revocations),
        [refresh_token, access_token],
        "the tokens were not revoked in this order"
    );
    program.get(&world.http("/")).await.assert_no_token();
    assert_eq!(
        described(program.admin).await["reason"],
        "logged_out",
        "the status does not say that it was logged out"
    );
    // A second logout has nothing to do and succeeds.
    let (code, json, _) = run(world.dir.path(), "logout --json api").await;
    assert_eq!(code, Some(0), "a second `logout` failed");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["credentials"][0]["revocations"],
        json!([]),
        "a second `logout` has revoked something"
    );
    assert_eq!(
        json["credentials"][0]["state"], "needs_login",
        "the JSON does not say that a login is needed"
    );
    let log = program.stop().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    let (code, _, complaints) = run(world.dir.path(), "refresh api").await;
    assert_eq!(code, Some(1), "`refresh` after a logout has another exit code");
    assert_says("standard error", &complaints, ["logged out: log in"]);
    world.authorization_server.assert_token_requests(1, "a token was requested after the logout");
    assert_no_secret(&world, &[said, json.to_string(), log, program.stop().await].concat());
}

#[tokio::test]
async fn logout_without_a_proxy_works_on_the_store_and_lasts() {
    let (revocations, line) = revocations().await;
    let world = servers(World::builder().credential(&line)).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    revocations.enqueue(Answer::json(200, json!({})));
    revocations.enqueue(Answer::json(503, json!({"error": "temporarily_unavailable"})));
    let (code, json, complaints) = run(world.dir.path(), "logout api --json").await;
    assert_eq!(code, Some(0), "the command has another exit code: {complaints}");
    assert_says("standard error", &complaints, ["without a running proxy"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let token = &json["credentials"][0];
    assert_eq!(
        (&token["name"], &token["reason"]),
        (&json!("api"), &json!("logged_out")),
        "the JSON reports another name or reason"
    );
    assert_eq!(token["revocations"][0]["revoked"], true, "the refresh token counts as not revoked");
    assert_eq!(
        token["revocations"][1]["revoked"], false,
        "the access token counts as revoked although the server failed"
    );
    assert!(
        token["revocations"][1]["why"].as_str().unwrap().contains("503"),
        "the JSON does not say why the token was not revoked: {token}"
    );
    assert_eq!(given_back(&revocations).len(), 2, "both tokens have to be given back");
    world.assert_needs_login("logged_out");
    let (code, said, _) = run(world.dir.path(), "logout api").await;
    assert_eq!(
        (code, &*said),
        (Some(0), "api: logged out; there was no token to revoke\n"),
        "a second `logout` reports something else"
    );
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_no_token();
    world.authorization_server.assert_token_requests(1, "a token was requested after the logout");
    assert_no_secret(&world, &[json.to_string(), complaints, program.stop().await].concat());
}

/// A seed that was never used is not used after a logout either.
#[tokio::test]
async fn a_logout_says_what_was_not_revoked_and_makes_no_store_where_none_was() {
    let world = servers(World::builder()).await;
    let (code, said, complaints) = run(world.dir.path(), "logout api").await;
    assert_eq!(
        (code, &*said),
        (Some(1), ""),
        "`logout` without a store has another exit code, or something is on standard output"
    );
    assert_says("standard error", &complaints, ["there is no store at"]);
    assert!(!world.state().exists(), "`logout` made a store");
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let (code, said, _) = run(world.dir.path(), "logout api").await;
    assert_eq!(code, Some(0), "`logout` without a revocation endpoint failed");
    assert_says("the output", &said, ["refresh token not revoked"]);
    assert_says("the output", &said, ["no revoke_url is known"]);
}

/// The proxy has no admin listener and still notices the logout.
#[tokio::test]
async fn a_logout_reaches_a_running_proxy_that_cannot_be_asked() {
    for listen in ["", "127.0.0.1:0"] {
        let mut world = servers(World::builder()).await;
        world.start_proxy().await;
        world.get("/").await.assert_ok();
        set_admin_listen(&mut world, listen);
        let (code, said, complaints) = run(world.dir.path(), "logout api").await;
        assert_eq!(code, Some(0), "the command has another exit code: {complaints}");
        assert!(
            said.starts_with("api: logged out; "),
            "the output does not begin with the logout: {said}"
        );
        eventually("the proxy knows", || world.status().condition.word() == "needs_login").await;
        world.get("/").await.assert_no_token();
    }
}

#[tokio::test]
async fn a_token_in_a_memory_store_is_logged_out_by_its_proxy_alone() {
    let world = servers(World::builder().sections("[store]\nurl = \"memory:\"")).await;
    let (code, said, complaints) = run(world.dir.path(), "logout api").await;
    assert_eq!(
        (code, &*said),
        (Some(69), ""),
        "`logout` of what is only in memory has another exit code without a proxy"
    );
    assert_says("standard error", &complaints, ["memory:", "bearerd run"]);
    assert!(!world.state().exists(), "`logout` made a store");
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    assert_eq!(
        run(world.dir.path(), "logout api").await.0,
        Some(0),
        "`logout` through the proxy failed"
    );
    program.get(&world.http("/")).await.assert_no_token();
}

/// With and without a running proxy.
#[tokio::test]
async fn a_credential_is_logged_out_of_each_of_its_tokens_or_of_one() {
    for running in [true, false] {
        let world = clubs().await;
        let program = Program::start(&world).await;
        for club in ["paris", "lyon", "nice"] {
            program.get(&world.http(&format!("/{club}/"))).await.assert_ok();
        }
        let program = match running {
            true => Some(program),
            false => {
                program.stop().await;
                None
            }
        };
        let (code, said, complaints) = run(world.dir.path(), "logout api[paris]").await;
        assert_eq!(code, Some(0), "the command has another exit code: {complaints}");
        assert!(
            said.starts_with("api[paris]: logged out; ") && said.lines().count() == 1,
            "another token was logged out, or more than one: {said}"
        );
        let (code, said, complaints) = run(world.dir.path(), "logout api/lyon").await;
        assert_eq!(code, Some(0), "the command has another exit code: {complaints}");
        assert!(
            said.starts_with("api[lyon]: logged out; "),
            "the output does not begin with the logout: {said}"
        );
        assert_eq!(
            records(&world),
            ["lyon: logged out", "nice", "paris: logged out"],
            "running: {running}: the records of other clubs were changed"
        );
        let (code, said, _) = run(world.dir.path(), "logout api").await;
        assert_eq!(code, Some(0), "running: {running}: `logout` of all tokens failed");
        let names: Vec<&str> = said.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(
            names,
            ["api[lyon]", "api[nice]", "api[paris]"],
            "other tokens are listed: {said}"
        );
        if let Some(program) = program {
            program.stop().await;
        }
        let program = Program::start(&world).await;
        for club in ["paris", "lyon", "nice"] {
            program.get(&world.http(&format!("/{club}/"))).await.assert_no_token();
        }
        world.authorization_server.assert_token_requests(
            3,
            format!("running: {running}: a token was requested after the logout"),
        );
        world.authorization_server.assert_no_reuse();
    }
}

/// Each record, and whether it is a tombstone.
fn records(world: &World) -> Vec<String> {
    let record = |club: &str| {
        let text = std::fs::read(world.state().join(format!("api@{club}.json"))).unwrap();
        let record = serde_json::from_slice::<Value>(&text).unwrap()["record"].clone();
        match record["terminal"]["reason"] == "logged_out" {
            true => format!("{club}: logged out"),
            false => club.to_owned(),
        }
    };
    ["lyon", "nice", "paris"].map(record).to_vec()
}

/// A sibling has written a record since the proxy last polled the store.
#[tokio::test]
async fn a_token_that_is_only_in_the_store_is_logged_out_as_well() {
    let world = clubs().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/paris/")).await.assert_ok();
    let paris = std::fs::read_to_string(world.state().join("api@paris.json")).unwrap();
    std::fs::write(world.state().join("api@nice.json"), paris).unwrap();
    set_mode(&world.state().join("api@nice.json"), 0o600);
    let (code, said, complaints) = run(world.dir.path(), "logout api").await;
    assert_eq!(code, Some(0), "the command has another exit code: {complaints}");
    assert!(
        said.contains("api[paris]: logged out") && said.contains("api[nice]: logged out"),
        "a token that is only in the store was not logged out: {said}"
    );
    program.stop().await;
}

/// The configuration is needed twice, but a pipe can be read only once.
#[tokio::test]
async fn logout_reads_its_configuration_from_standard_input() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    let mut command = command(world.dir.path(), &["logout", "api", "--config", "-"]);
    command.stdin(std::fs::File::open(world.dir.path().join("proxy.toml")).unwrap());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "the command has another exit code: {}",
        text(&output.stderr)
    );
    world.assert_needs_login("logged_out");
}

/// Opening an expired token may start a refresh; a logout leaves nothing of it.
#[tokio::test]
async fn a_logout_of_an_expired_token_leaves_no_new_one() {
    let (revocations, line) = revocations().await;
    let short = World::builder()
        .credential(&line)
        .authorization_server(|config| config.expires_in = ExpiresIn::Seconds(1));
    let world = servers(short).await;
    for _ in 0..5 {
        world.write_seed(&world.authorization_server.issue_refresh_token());
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_ok();
        program.stop().await;
        let token = world.authorization_server.current_refresh_token();
        revocations.clear();
        let (code, _, complaints) = run(world.dir.path(), "logout api").await;
        assert_eq!(code, Some(0), "the command has another exit code: {complaints}");
        world.assert_needs_login("logged_out");
        assert_eq!(
            world.record()["refresh_token"],
            Value::Null,
            "the record of a logged-out credential holds a refresh token"
        );
        let given_back = given_back(&revocations);
        assert!(given_back.contains(&token), "the first");
        let newest = world.authorization_server.current_refresh_token();
        assert!(given_back.contains(&newest), "the newest");
        world.authorization_server.assert_no_reuse();
    }
}

/// The proxy's user could not read a record written by root.
#[tokio::test]
async fn root_is_told_to_run_as_the_owner_of_the_store() {
    let world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    if std::os::unix::fs::chown(world.state(), Some(65532), None).is_err() {
        // Only root can change the owner, and only root gets this error.
        return;
    }
    let (code, said, complaints) = run(world.dir.path(), "logout api").await;
    assert_eq!((code, &*said), (Some(1), ""), "root was not stopped");
    assert_says("standard error", &complaints, ["sudo -u '#65532'"]);
    assert_eq!(world.record()["generation"], 1, "root has changed the record");
}

#[tokio::test]
async fn the_tokens_of_a_name_are_listed_for_programs() {
    let world = clubs().await;
    let program = Program::start(&world).await;
    program.get(&world.http("/paris/")).await.assert_ok();
    let admin = program.admin;
    let ask = |request: &'static str, host: &'static str| async move {
        let request = format!("{request} HTTP/1.1");
        Wire::to_address(admin).await.ask(&[&*request, host]).await
    };
    let all = ask("GET /api/v1/credentials/api", "Host: localhost").await;
    let all: Value = serde_json::from_slice(&all.content).unwrap();
    let [one] = all["credentials"].as_array().unwrap().as_slice() else { panic!("{all}") };
    assert_eq!(
        (&one["name"], &one["key"]),
        (&json!("api[paris]"), &json!("api/paris")),
        "the token has another name or key"
    );
    // An allowed value that was never used: reading its status creates nothing.
    let lyon = ask("GET /api/v1/credentials/api%2Flyon", "Host: localhost").await;
    let lyon: Value = serde_json::from_slice(&lyon.content).unwrap();
    assert_eq!(
        lyon["credentials"][0]["state"], "absent",
        "a value that was never used has another state"
    );
    assert!(!world.state().join("api@lyon.lock").exists(), "asking for a value has made a lock");
    for (request, host, status) in [
        ("GET /api/v1/credentials/api/rome", "Host: localhost", 404),
        ("GET /api/v1/credentials/api", "Host: attacker.example", 403),
        ("POST /api/v1/credentials/api", "Host: localhost", 405),
        ("GET /api/v1/credentials/api/paris/logout", "Host: localhost", 405),
        ("POST /api/v1/credentials/api/paris/logout", "Host: localhost", 401),
    ] {
        assert_eq!(
            ask(request, host).await.status,
            status,
            "{request}: the admin listener answered with another status"
        );
    }
    let token = std::fs::read_to_string(token_file(&world)).unwrap();
    assert_eq!(post(program.admin, "api/refresh", token.trim_end()).await, 404, "which one?");
}

/// Another program has taken the admin port and must not receive the admin token.
#[tokio::test]
async fn another_program_on_the_admin_port_gets_no_token() {
    let mut world = servers(World::builder()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let other = OriginServer::start(OriginConfig::default()).await;
    set_admin_listen(&mut world, &other.addr().to_string());
    for answer in [
        Answer::text(200, "hello"),
        Answer::text(404, "no such page"),
        Answer::status(302).with_header("location", "http://127.0.0.1:1/"),
        Answer::json(503, json!({"error": "busy"})),
    ] {
        for action in ["refresh", "logout"] {
            other.enqueue(answer.clone());
            let (code, said, complaints) = run(world.dir.path(), &format!("{action} api")).await;
            assert_eq!(
                (code, &*said),
                (Some(1), ""),
                "the command has another exit code, or said something on standard output: {complaints}"
            );
            assert!(
                complaints.starts_with("error: "),
                "standard error does not begin with an error: {complaints}"
            );
        }
    }
    let requests = other.requests();
    assert_eq!(requests.len(), 8, "each command has to ask once and follow no redirect");
    assert!(
        requests.iter().all(|request| request.header("authorization").is_none()),
        "a stranger was sent the admin token"
    );
    assert_eq!(
        described(program.admin).await["generation"],
        1,
        "a command has reached the proxy although another program has its port"
    );
}
