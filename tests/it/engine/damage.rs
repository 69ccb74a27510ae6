//! E7: damage to the record while bearerd runs, and how soon the record is restored.

use std::time::Duration;

use bearerd::token::Condition;
use serde_json::Value;

use super::super::program::Program;
use super::super::stopwatch::Stopwatch;
use super::super::world::{HOURS, Sibling, World, eventually};
use super::operator::{
    WRITTEN_BACK, add_admin_token, change, files, files_with, force, presented, stays_true,
    whole_record,
};

const DAMAGES: [&str; 6] = ["deleted", "empty", "cut", "flipped", "older", "other"];

/// Damages the record and returns the new content of the file. `older` is an earlier content.
fn damage(world: &World, how: &str, older: &[u8]) -> Option<Vec<u8>> {
    let path = world.state().join("api.json");
    let mut bytes = std::fs::read(&path).unwrap();
    match how {
        "deleted" => {
            std::fs::remove_file(&path).unwrap();
            return None;
        }
        "empty" => bytes.clear(),
        "cut" => bytes.truncate(bytes.len() / 2),
        "flipped" => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        "older" => bytes = older.to_vec(),
        _ => bytes = b"{\"name\": \"something else\"}\n".to_vec(),
    }
    std::fs::write(&path, &bytes).unwrap();
    Some(bytes)
}

/// A record of generation 3, and the bytes of generation 1.
async fn third_generation() -> (World, Vec<u8>) {
    let world = World::settled().await;
    let older = std::fs::read(world.state().join("api.json")).unwrap();
    for _ in 0..2 {
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
    }
    world.assert_stored(3);
    (world, older)
}

async fn is_written_back(world: &World, damaged: Option<Vec<u8>>, case: &str) {
    let began = Stopwatch::start();
    let newest = world.authorization_server.current_refresh_token();
    let path = world.state().join("api.json");
    let is_newest = || {
        whole_record(world).is_some_and(|record| record["refresh_token"] == newest.as_str())
            && std::fs::read(&path).ok() != damaged
    };
    eventually(&format!("{case}: the record is written back"), is_newest).await;
    assert!(began.elapsed() <= WRITTEN_BACK, "{case}: it took too long: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_record_that_is_damaged_is_written_back_without_a_request() {
    for restarted in [false, true] {
        for how in DAMAGES {
            let (mut world, older) = third_generation().await;
            if restarted {
                world.restart().await;
            }
            let case = format!("{how}, restarted: {restarted}");
            let damaged = damage(&world, how, &older);
            is_written_back(&world, damaged, &case).await;
            world.assert_stored(3);
            let server = &world.authorization_server;
            server.assert_token_requests(3, &case);
            world.get("/").await.assert_status(200, &case);
            world.clock.advance(HOURS);
            world.get("/").await.assert_status(200, &case);
            server.assert_token_requests(4, &case);
            world.assert_stored(4);
        }
    }
}

#[tokio::test]
async fn under_two_replicas_a_damaged_record_is_written_back_and_stays() {
    for how in DAMAGES {
        let (world, older) = third_generation().await;
        let sibling = world.sibling().await;
        sibling.get(&world).await.assert_ok();
        let damaged = damage(&world, how, &older);
        is_written_back(&world, damaged, how).await;
        // The replicas do not overwrite each other's record in turns. If both noticed the damage before either had
        // written, the second writes the same record once more.
        let read = || std::fs::read(world.state().join("api.json")).unwrap();
        let (record, mut last, mut rewritten) = (whole_record(&world), read(), 0);
        let same = || {
            let newest = read();
            rewritten += usize::from(newest != last);
            last = newest;
            rewritten <= 1 && whole_record(&world) == record
        };
        stays_true("the record as it was written back", WRITTEN_BACK * 3 / 2, same).await;
        world.clock.advance(HOURS);
        let (here, there) = tokio::join!(world.get("/"), sibling.get(&world));
        assert_eq!(
            (here.status, there.status),
            (200, 200),
            "{how}: (first, second): a replica did not serve"
        );
        world.authorization_server.assert_token_requests(4, how);
        world.assert_stored(4);
    }
}

/// E7 with a crash soon after the damage.
#[tokio::test]
async fn after_a_kill_a_backup_that_was_put_back_does_not_present_a_dead_token() {
    for how in DAMAGES {
        let mut world = World::plain().start_servers().await;
        add_admin_token(&mut world);
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_ok();
        let older = std::fs::read(world.state().join("api.json")).unwrap();
        for _ in 0..2 {
            force(program.admin).await.assert_status(200, how);
        }
        let damaged = damage(&world, how, &older);
        is_written_back(&world, damaged, how).await;
        program.kill().await;
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_status(200, how);
        force(program.admin).await.assert_status(200, how);
        let server = &world.authorization_server;
        server.assert_token_requests(4, how);
        server.assert_no_reuse();
        world.assert_stored(4);
    }
}

/// During a token request the next process must learn of the open attempt.
#[tokio::test]
async fn during_a_token_request_a_damaged_record_is_written_back_too() {
    for how in DAMAGES {
        let (world, older) = third_generation().await;
        world.clock.advance(HOURS);
        let request = world.begin_refresh().await;
        let damaged = damage(&world, how, &older);
        is_written_back(&world, damaged, how).await;
        // Another process presents nothing meanwhile.
        let sibling = world.sibling().await;
        let other = spawn_get(&world, &sibling);
        let server = &world.authorization_server;
        let two_seconds = Duration::from_secs(2);
        stays_true("one token request", two_seconds, || server.token_requests() == 4).await;
        server.release_all();
        request.await.unwrap().assert_status(200, how);
        assert_eq!(
            other.await.unwrap(),
            200,
            "{how}: the request of the other process was not served"
        );
        server.assert_token_requests(4, how);
        world.assert_stored(4);
    }
}

fn spawn_get(world: &World, sibling: &Sibling) -> tokio::task::JoinHandle<u16> {
    let request = sibling.client().get(world.http("/"));
    tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
}

/// Each damaged file is kept once for inspection.
#[tokio::test]
async fn a_damaged_record_is_moved_aside_once() {
    let (world, older) = third_generation().await;
    let damaged = damage(&world, "cut", &older);
    is_written_back(&world, damaged, "cut").await;
    let aside = || files(&world).into_keys().filter(|name| name.contains(".corrupt-")).count();
    assert_eq!(aside(), 1, "one damage has to leave one file aside");
    stays_true("one file aside", WRITTEN_BACK, || aside() == 1).await;
    let name = files(&world).into_keys().find(|name| name.contains(".corrupt-")).unwrap();
    let seconds = name.strip_prefix("api.json.corrupt-").or(name.strip_prefix("api.corrupt-"));
    assert!(
        seconds.is_some_and(|rest| rest.parse::<u64>().is_ok()),
        "{name}: the file that was moved aside has another name"
    );
}

/// A logout takes precedence over a backup of the ended grant.
#[tokio::test]
async fn a_backup_from_before_a_logout_does_not_undo_it() {
    for restarted in [false, true] {
        let mut world = World::builder().start_servers().await;
        add_admin_token(&mut world);
        world.start_proxy().await;
        world.get("/").await.assert_ok();
        let tokens =
            [world.tokens_seen()[0].clone(), world.authorization_server.current_refresh_token()];
        let older = std::fs::read(world.state().join("api.json")).unwrap();
        let admin = world.app().admin_address().unwrap();
        change(admin, "api", "logout").await.assert_ok();
        if restarted {
            world.restart().await;
        }
        world.origin.clear();
        damage(&world, "older", &older);
        let buried = || {
            whole_record(&world).is_some_and(|record| record["terminal"]["reason"] == "logged_out")
        };
        let began = Stopwatch::start();
        eventually("the tombstone is written back", buried).await;
        assert!(began.elapsed() <= WRITTEN_BACK, "it took too long: {:?}", began.elapsed());
        world.get("/").await.assert_no_token();
        assert!(
            matches!(world.status().condition, Condition::NeedsLogin(_)),
            "the backup has undone the logout: {}",
            world.status().condition
        );
        world.origin.assert_requests(0, "a request reached the API after the logout");
        world
            .authorization_server
            .assert_token_requests(1, "a token was requested after the logout");
        assert_eq!(
            files_with(&world, &tokens),
            [""; 0],
            "a token of before the logout is on the disk"
        );
    }
}

/// A logout by another process is a newer record, not damage.
#[tokio::test]
async fn a_logout_by_another_process_is_not_overwritten() {
    let mut world = World::builder().start_servers().await;
    add_admin_token(&mut world);
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    let sibling = world.sibling().await;
    sibling.get(&world).await.assert_ok();
    let admin = sibling.app().admin_address().unwrap();
    change(admin, "api", "logout").await.assert_ok();
    let known = || matches!(world.status().condition, Condition::NeedsLogin(_));
    eventually("the other knows", known).await;
    let buried = || whole_record(&world).is_some_and(|it| it["terminal"]["reason"] == "logged_out");
    stays_true("the tombstone", WRITTEN_BACK, buried).await;
    assert_eq!(
        (world.get("/").await.status, sibling.get(&world).await.status),
        (503, 503),
        "a logout by another process did not stop both"
    );
}

const SECOND: &str = r#"
[credential.second]
hosts = ["@host@"]
paths = ["/second/"]
token_url = "@token_url@"
client_id = "test-client"
client_secret = { file = "secret" }
refresh_token = { file = "second-seed" }
params = { realm = "second" }
"#;

/// Two credentials on one host and server with separate grants.
async fn two_credentials() -> World {
    let mut world = World::builder()
        .authorization_server(|config| config.realm_parameter = Some("realm".into()))
        .sections(SECOND)
        .credential("paths = [\"/first/\"]\nparams = { realm = \"first\" }")
        .start_servers()
        .await;
    let server = &world.authorization_server;
    let (first, second) =
        (server.current_refresh_token_of("first"), server.current_refresh_token_of("second"));
    world.write_seed(&first);
    world.write_secret("second-seed", &second);
    add_admin_token(&mut world);
    world.start_proxy().await;
    world.get("/first/").await.assert_ok();
    world.get("/second/").await.assert_ok();
    world
}

/// The file of one credential is copied over another's.
#[tokio::test]
async fn the_record_of_another_credential_is_not_used() {
    for running in [true, false] {
        let mut world = two_credentials().await;
        let [first, second] = world.tokens_seen().try_into().unwrap();
        let refresh = world.authorization_server.current_refresh_token_of("second");
        let case = format!("running: {running}");
        if !running {
            world.stop().await;
        }
        std::fs::copy(world.state().join("second.json"), world.state().join("api.json")).unwrap();
        if !running {
            world.start_proxy().await;
        }
        world.origin.clear();
        if running {
            let newest = world.authorization_server.current_refresh_token_of("first");
            let is_first =
                || whole_record(&world).is_some_and(|it| it["refresh_token"] == newest.as_str());
            eventually("it is written back", is_first).await;
            world.get("/first/").await.assert_ok();
            assert_eq!(world.tokens_seen(), [first], "the token of another credential was sent");
        } else {
            // Its own record is lost and its seed used, so it may fail, but must not use the other's tokens.
            let status = world.get("/first/").await.status;
            assert!(matches!(status, 200 | 503), "{status}: the lost record led to another answer");
            assert!(
                !world.tokens_seen().contains(&second),
                "{case}: the token of another credential was sent"
            );
        }
        world.clock.advance(HOURS);
        let _any = world.get("/first/").await;
        world.get("/second/").await.assert_status(200, &case);
        let server = &world.authorization_server;
        assert_eq!(
            presented(server, &refresh),
            1,
            "{case}: the refresh token was not presented exactly once"
        );
        let presented_as_first = server.requests().into_iter().any(|request| {
            request.param("realm") == Some("first")
                && request.param("refresh_token") == Some(&*refresh)
        });
        assert!(
            !presented_as_first,
            "{case}: the refresh token of another credential was presented"
        );
    }
}

// ----- what is moved aside holds tokens (E43) -----

/// After a logout no file holds a token of the credential.
#[tokio::test]
async fn a_logout_leaves_no_token_in_files_that_were_moved_aside() {
    let world = two_credentials().await;
    let server = &world.authorization_server;
    let mut tokens = world.tokens_seen();
    tokens.truncate(1);
    let refresh = server.current_refresh_token_of("first");
    tokens.push(refresh);
    let path = world.state().join("api.json");
    // Damaged twice, each time with everything still legible; and what a crash leaves behind.
    for number in 1..=2 {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"}}\n");
        std::fs::write(&path, &bytes).unwrap();
        eventually("it is written back", || whole_record(&world).is_some()).await;
        let aside = files(&world).into_keys().filter(|name| name.contains(".corrupt-")).count();
        assert_eq!(aside, number, "each damage has to leave one file aside");
        if number == 2 {
            std::fs::write(world.state().join(".api.json.Ab12Cd.tmp"), &bytes).unwrap();
        }
    }
    assert!(
        files_with(&world, &tokens).len() >= 4,
        "the tokens are not in the files that this test wants: {:?}",
        files_with(&world, &tokens)
    );
    // Another credential's, with a name that begins like it.
    let others = world.state().join("api-other.json.corrupt-1700000000");
    std::fs::write(&others, "of somebody else").unwrap();
    let admin = world.app().admin_address().unwrap();
    change(admin, "api", "logout").await.assert_ok();
    assert_eq!(
        files_with(&world, &tokens),
        [""; 0],
        "files that were moved aside hold tokens of a logged-out credential"
    );
    assert_eq!(
        whole_record(&world).unwrap()["terminal"]["reason"],
        "logged_out",
        "the record does not say that the credential was logged out"
    );
    assert!(others.exists(), "the logout removed a file of another credential");
    world.get("/second/").await.assert_ok();
    let second = std::fs::read(world.state().join("second.json")).unwrap();
    let second: Value = serde_json::from_slice(&second).unwrap();
    assert_eq!(
        second["record"]["refresh_token"],
        world.authorization_server.current_refresh_token_of("second"),
        "the logout of one credential changed the record of another"
    );
}
