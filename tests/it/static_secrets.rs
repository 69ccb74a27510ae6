//! Credentials without tokens: after a rejection the secret is read again from its source.
//! Most tests run the real program, which reads the secrets; one embeds the library and reads them itself.

use std::time::{Duration, Instant};

use bearerd_test_support::{Answer, pattern};

use super::program::Program;
use super::stopwatch::Stopwatch;
use super::wire::{Wire, get};
use super::world::{World, eventually};
use crate::texts::assert_never_says;

const DAY: Duration = Duration::from_secs(86_400);

/// A world whose credential has no token but a key, from `source`; the API accepts the keys of its tokens.
async fn world(source: &str) -> World {
    let mut world = World::plain().without_seed().start_servers().await;
    let keys = format!(
        "grant = \"static\"\nvars = {{ key = {source} }}\ninject = {{ Authorization = \"Bearer ${{key}}\" }}"
    );
    world.configure_file(|text| {
        let is_asking = |line: &&str| line.starts_with("token_url") || line.starts_with("client_");
        let lines: Vec<&str> = text.lines().filter(|line| !is_asking(line)).collect();
        lines.join("\n") + "\n" + &keys
    });
    rotate(&world);
    world
}

/// A command that records its runs.
fn by_command() -> String {
    r#"{ cmd = ["sh", "-c", "echo run >> runs; cat key"] }"#.to_owned()
}

fn runs(world: &World) -> usize {
    let runs = std::fs::read_to_string(world.dir.path().join("runs")).unwrap_or_default();
    runs.lines().count()
}

/// Writes a new key to the source of the secret and makes the API accept only that one.
fn rotate(world: &World) -> String {
    let tokens = world.authorization_server.tokens();
    tokens.revoke_all_access_tokens();
    let key = tokens.issue_access_token(DAY);
    world.write_secret("key", &key);
    key
}

/// Case E39.
#[tokio::test]
async fn a_rejected_secret_is_read_again_and_the_request_sent_again() {
    for source in [&*by_command(), "{ file = \"key\" }"] {
        let world = world(source).await;
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_ok();
        let newer = rotate(&world);
        let body = pattern(5000);
        let request = program.client().post(world.http("/")).body(body.clone());
        assert_eq!(
            request.send().await.unwrap().status(),
            200,
            "{source}: the request was not sent again with the new key"
        );
        let requests = world.origin.requests();
        assert_eq!(requests.len(), 3, "{source}: the rejected request was not sent again once");
        assert_eq!(
            requests[2].bearer(),
            Some(&*newer),
            "{source}: the request was not sent again with the new key"
        );
        assert!(
            requests[2].body == body,
            "{source}: the request was sent again with other content"
        );
        program.get(&world.http("/")).await.assert_ok();
        world
            .origin
            .assert_requests(4, format!("{source}: the request after the rotation was sent twice"));
        world.authorization_server.assert_token_requests(
            0,
            format!("{source}: a static credential has made a token request"),
        );
        let log = program.stop().await;
        assert_eq!(
            log.matches("reloading the configuration").count(),
            1,
            "the configuration was read again more or less often than once: {log}"
        );
        assert_never_says("the log", &log, [&newer]);
    }
}

/// The repeated request still has the field that chooses the value, although it is not forwarded.
#[tokio::test]
async fn a_key_is_read_again_if_requests_choose_another_variable() {
    for (choice, path, fields) in [
        (r#"club = ["paris"]"#, "/paris/", &[][..]),
        (r#"club = "${field.X-Club}""#, "/", &["X-Club: paris"]),
    ] {
        let mut world = world("{ file = \"key\" }").await;
        world.configure_file(|text| {
            let text = text.replace("vars = { key", &format!("vars = {{ {choice}, key"));
            let text = text.replace("inject = {", "inject = { X-Of = \"${club}\",");
            let is_by_path = path != "/";
            text + if is_by_path { "\npaths = [\"/${club}/\"]\n" } else { "\n" }
        });
        let program = Program::start(&world).await;
        let [line, host] = get(&world.http(path));
        let mut lines = vec![&*line, &*host];
        lines.extend(fields);
        rotate(&world);
        let reply = Wire::to_address(program.proxy).await.ask(&lines).await;
        reply.assert_status(200, format!("{choice}: {}", reply.text()));
        world.origin.assert_requests(2, "the request was not sent again once");
        assert_eq!(
            world.origin.requests()[1].header("x-of"),
            Some("paris"),
            "the value that the request chose was lost when it was sent again"
        );
        program.stop().await;
    }
}

#[tokio::test]
async fn a_key_that_stays_wrong_is_read_once_in_five_seconds() {
    let world = world(&by_command()).await;
    let program = Program::start(&world).await;
    assert_eq!(runs(&world), 1, "the command was not run once at the start");
    world.origin.reject_all(true);
    let (client, url) = (program.client(), world.http("/"));
    let began = Instant::now();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let request = client.get(&url);
        requests.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    assert_eq!(
        requests.join_all().await,
        [401; 50],
        "the API's rejection did not reach each client"
    );
    for _ in 0..10 {
        program.get(&url).await.assert_status(401, "the API's rejection did not reach the client");
    }
    // On a machine that took longer, once in each five seconds.
    let most = 2 + began.elapsed().as_secs() / 5;
    assert!(
        (2..=most).contains(&(runs(&world) as u64)),
        "a key that stays wrong was not read once in five seconds, but {} times in {:?}",
        runs(&world) - 1,
        began.elapsed()
    );
    world.origin.assert_requests(60, "a request was sent again with the key that was rejected");
    program.stop().await;
}

#[tokio::test]
async fn many_requests_with_a_rotated_key_cost_one_reading_and_are_all_answered() {
    let world = world(&by_command()).await;
    let program = Program::start(&world).await;
    let (client, url) = (program.client(), world.http("/"));
    world.origin.hold_after_check();
    rotate(&world);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let request = client.get(&url);
        requests.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    world.origin.wait_for_verdicts(50).await;
    world.origin.release_all();
    assert_eq!(requests.join_all().await, [200; 50], "a request noticed the rotation of the key");
    // One run compares the secret, one builds the new settings.
    assert_eq!(runs(&world), 3, "fifty rejections have to share one reading");
    program.stop().await;
}

/// Only the command of the key that was rejected is run, and only if a 401 is about it.
#[tokio::test]
async fn other_commands_are_not_run_and_other_answers_cause_no_reading() {
    let mut world = world(&by_command()).await;
    world.configure_file(|text| {
        let other = r#"
[credential.other]
hosts = ["other.test"]
grant = "static"
vars = { key = { cmd = ["sh", "-c", "echo run >> others; cat key"] } }
inject = { x-key = "${key}" }
"#;
        text.to_owned() + other
    });
    let program = Program::start(&world).await;
    let step_up = r#"Bearer error="insufficient_scope""#;
    world.origin.enqueue(Answer::status(401).with_header("www-authenticate", step_up));
    program
        .get(&world.http("/"))
        .await
        .assert_status(401, "a demand for another scope did not reach the client");
    world.origin.enqueue(Answer::status(403));
    program.get(&world.http("/")).await.assert_status(403, "a 403 did not reach the client");
    assert_eq!(runs(&world), 1, "the command was run for an answer that is not about the key");
    world.origin.enqueue(Answer::RejectToken);
    program.get(&world.http("/")).await.assert_status(
        401,
        "the rejection did not reach the client although the key stays the same",
    );
    assert_eq!(runs(&world), 2, "the rejected key was not read again once");
    let others = std::fs::read_to_string(world.dir.path().join("others")).unwrap();
    assert_eq!(others.lines().count(), 1, "the command of another credential was run");
    program.stop().await;
}

#[tokio::test]
async fn after_a_body_that_was_not_kept_the_next_request_has_the_new_key() {
    let world = world(&by_command()).await;
    let program = Program::start(&world).await;
    rotate(&world);
    let upload = program.client().post(world.http("/")).body(pattern(2 << 20));
    assert_eq!(
        upload.send().await.unwrap().status(),
        401,
        "the rejection of an upload that was not kept did not reach the client"
    );
    world.origin.assert_requests(1, "an upload that was not kept was sent twice");
    program.logs("the new configuration is in force").await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
}

/// A request waits for a hanging command no longer than for a token, and the proxy still stops.
#[tokio::test]
async fn a_command_that_hangs_holds_a_request_no_longer_than_the_limit() {
    let source = r#"{ cmd = ["sh", "-c", "exec 2>/dev/null; test -e slow && sleep 25; cat key"] }"#;
    let mut world = world(source).await;
    world.configure_file(|text| format!("{text}\n[limits]\nwait = \"1s\"\n"));
    let program = Program::start(&world).await;
    rotate(&world);
    world.write_secret("slow", "");
    let asked = Stopwatch::start();
    program
        .get(&world.http("/"))
        .await
        .assert_status(401, "the rejection did not reach the client although the command hangs");
    assert!(asked.elapsed() < Duration::from_secs(10), "it took too long: {:?}", asked.elapsed());
    program.stop().await;
}

/// A new key is not sent to a host that the new configuration no longer has.
#[tokio::test]
async fn a_key_that_was_moved_to_another_host_is_not_sent_to_the_old_one() {
    let mut world = world("{ file = \"key\" }").await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let host = format!("hosts = [\"{}\"]", world.origin.authority());
    world.origin.hold_after_check();
    world.authorization_server.tokens().revoke_all_access_tokens();
    let url = world.http("/");
    let (sender, mut client) = (get(&url), Wire::to_address(program.proxy).await);
    let asking = tokio::spawn(async move { client.ask(&sender).await.status });
    world.origin.wait_for_verdicts(2).await;
    world.configure_file(|text| text.replace(&host, "hosts = [\"other.test\"]"));
    let newer = rotate(&world);
    program.logs("the new configuration is in force").await;
    world.origin.release_all();
    assert_eq!(
        asking.await.unwrap(),
        401,
        "the rejection did not reach the client of the old configuration"
    );
    assert!(
        world.origin.requests().iter().all(|request| request.bearer() != Some(&*newer)),
        "the new key was sent to the host before"
    );
    program.stop().await;
}

#[tokio::test]
async fn an_embedding_program_reads_the_secrets_itself() {
    let mut world = world("{ file = \"key\" }").await;
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    rotate(&world);
    // Nobody reads the secret, so the rejection is forwarded at once.
    let asked = Stopwatch::start();
    world
        .get("/")
        .await
        .assert_status(401, "the rejection did not reach the client although nobody reads secrets");
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "the request waited although nobody reads secrets: {:?}",
        asked.elapsed()
    );
    let reading = async {
        let rejected = world.app().rejected_secrets().await;
        assert_eq!(rejected.credentials, ["api".into()], "another credential is named as rejected");
        world.reload().await;
        world.app().mark_secrets_reread(&rejected);
        std::future::pending::<()>().await;
    };
    let answered = async {
        // The app waits for a rejected secret by now.
        tokio::task::yield_now().await;
        world.get("/").await.status
    };
    tokio::select! {
        () = reading => {}
        status = answered => assert_eq!(status, 200, "the request was not sent again with the new secret"),
    }
    eventually("it is in force", || world.origin.requests().len() == 4).await;
}
