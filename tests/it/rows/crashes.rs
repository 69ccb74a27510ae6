//! Rows 20, 21, 22 and 29: the process ends at each named point of a refresh, for real.
//!
//! The next process is the same program, started again, or another replica that was running meanwhile.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, SystemTime};

use bearerd::store::TokenRecord;
use bearerd_test_support::{OnReuse, Rotation};
use serde_json::Value;

use super::super::program::Program;
use super::super::wire::Reply;
use super::super::world::{HOURS, World, assert_all, get};

/// A server that forgives an answer that got lost, for half a minute.
const FORGIVING: Rotation =
    Rotation::Rotate { grace: Duration::from_secs(30), on_reuse: OnReuse::RevokeFamily };
/// The record is written, nothing has been sent.
const BEFORE_SENDING: [&str; 2] = ["after_temp:1", "after_rename:1"];
/// The server has rotated, and the new refresh token is not in the record.
const BETWEEN: [&str; 3] = ["after_send", "after_response", "after_temp:2"];
/// The new refresh token is in the record.
const AFTER_STORING: [&str; 2] = ["after_rename:2", "after_publish"];

/// Which process gets the requests after the crash.
#[derive(Clone, Copy, Debug)]
enum Next {
    TheSameAgain,
    AnotherReplica,
}

const EITHER: [Next; 2] = [Next::TheSameAgain, Next::AnotherReplica];

/// A store at generation 1 whose access token has expired.
async fn expired(rotation: Rotation) -> World {
    let builder = World::plain().authorization_server(|config| config.rotation = rotation);
    let mut world = builder.settled().await;
    world.stop().await;
    expire(&world);
    world
}

/// The program's clock cannot be moved; its record can.
fn expire(world: &World) {
    let path = world.state().join("api.json");
    let (mut record, write) =
        TokenRecord::from_bytes("api", &std::fs::read(&path).unwrap()).unwrap();
    record.issued_at = Some(SystemTime::now() - HOURS);
    record.expires_at = Some(SystemTime::now() - HOURS / 2);
    std::fs::write(&path, record.to_bytes("api", &write)).unwrap();
}

/// Has the program refresh for a request, and end at `point`.
async fn crash(world: &World, point: &str) {
    let environment = [("BEARERD_CRASH", point)];
    let program = Program::start_with(world.dir.path(), &[], &environment).await;
    let waiting = tokio::spawn(program.client().get(world.http("/")).send());
    program.logs("crash point").await;
    assert_eq!(
        program.ends().await.signal(),
        Some(9),
        "{point}: the program did not die at the crash point"
    );
    assert!(
        waiting.await.unwrap().is_err(),
        "{point}: the request was answered although its program died"
    );
    world.origin.assert_requests(0, format!("{point}: nobody has used a new token"));
}

/// Crashes at `point`, then has `n` requests answered.
async fn crash_and_ask(world: &mut World, point: &str, next: Next, n: usize) -> Vec<Reply> {
    match next {
        Next::TheSameAgain => {
            crash(world, point).await;
            let program = Program::start(world).await;
            let mut answers = Vec::new();
            for _ in 0..n {
                answers.push(get(program.client().get(world.http("/"))).await);
            }
            answers
        }
        Next::AnotherReplica => {
            world.start_proxy().await;
            crash(world, point).await;
            let answers = world.get_many(n).await;
            world.stop().await;
            answers
        }
    }
}

/// What is in the state directory beside the record and the lock.
fn litter(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.state()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with(".api.json") || name.contains("corrupt"));
    names
}

/// Row 20.
#[tokio::test]
async fn row_20_a_crash_before_the_answer_is_stored_is_healed_by_a_replay_within_the_grace() {
    for (point, next) in BETWEEN.into_iter().flat_map(|point| EITHER.map(|next| (point, next))) {
        let case = format!("{point}, {next:?}");
        let mut world = expired(FORGIVING).await;
        assert_all(&crash_and_ask(&mut world, point, next, 20).await, 200);
        let requests = world.authorization_server.requests();
        assert_eq!(requests.len(), 3, "{case}: the attempt has to be repeated once");
        let presented = |number: usize| requests[number].param("refresh_token");
        assert_eq!(presented(1), presented(2), "{case}: the same refresh token");
        world.assert_stored(2);
    }
}

/// Row 21.
#[tokio::test]
async fn row_21_a_crash_before_the_answer_is_stored_is_a_lost_rotation_to_a_strict_server() {
    for (point, next) in BETWEEN.into_iter().flat_map(|point| EITHER.map(|next| (point, next))) {
        let case = format!("{point}, {next:?}");
        let mut world = expired(Rotation::STRICT).await;
        let answers = crash_and_ask(&mut world, point, next, 20).await;
        assert_all(&answers, 503);
        let lost = answers[0].text().contains("lost");
        assert!(lost, "{case}: the client is not told of the lost rotation: {}", answers[0]);
        world.authorization_server.assert_token_requests(3, &case);
        assert_eq!(
            world.terminal_reason(),
            "lost_rotation",
            "{case}: the record gives another reason"
        );
        // Not once more, however often it is started.
        let program = Program::start(&world).await;
        for _ in 0..20 {
            program.get(&world.http("/")).await.assert_status(503, &case);
        }
        world.authorization_server.assert_token_requests(3, &case);
    }
}

/// Row 22: the record is the old one or the new one; which, depends on nothing but the rename.
#[tokio::test]
async fn row_22_a_crash_around_the_rename_leaves_the_old_record_or_the_new_one() {
    let points = [BEFORE_SENDING[0], BEFORE_SENDING[1], BETWEEN[2], AFTER_STORING[0]];
    for point in points {
        let world = expired(FORGIVING).await;
        let (old, before) = (world.record(), world.authorization_server.current_refresh_token());
        crash(&world, point).await;
        let record = world.record();
        let (generation, refresh_token, intent) = match point {
            "after_temp:1" => (&old["generation"], before, false),
            "after_rename:1" | "after_temp:2" => (&old["generation"], before, true),
            _ => (&Value::from(2), world.authorization_server.current_refresh_token(), false),
        };
        assert_eq!(&record["generation"], generation, "{point}: another generation is stored");
        assert_eq!(
            record["refresh_token"], refresh_token,
            "{point}: the record holds another refresh token"
        );
        assert_eq!(
            record["attempt"].is_object(),
            intent,
            "{point}: the record does not tell whether a refresh was begun"
        );
        let temporary = usize::from(point.starts_with("after_temp"));
        assert_eq!(
            litter(&world).len(),
            temporary,
            "{point}: another number of temporary files was left"
        );

        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_status(200, point);
        world.assert_stored(2);
        assert_eq!(litter(&world), [""; 0], "{point}: a temporary file was kept");
    }
}

/// If nothing was sent or everything was stored, a strict server notices nothing.
#[tokio::test]
async fn row_22_a_crash_before_sending_or_after_storing_costs_no_token_request() {
    let points = BEFORE_SENDING.into_iter().chain(AFTER_STORING);
    for (point, next) in points.flat_map(|point| EITHER.map(|next| (point, next))) {
        let mut world = expired(Rotation::STRICT).await;
        assert_all(&crash_and_ask(&mut world, point, next, 20).await, 200);
        world.authorization_server.assert_token_requests(2, format!("{point}, {next:?}"));
        world.assert_stored(2);
    }
}

/// The same without a record: there is only the seed.
#[tokio::test]
async fn row_20_a_crash_during_the_first_refresh_leaves_the_seed_or_its_successor() {
    for point in BEFORE_SENDING.into_iter().chain(BETWEEN).chain(AFTER_STORING) {
        let builder = World::plain().authorization_server(|config| config.rotation = FORGIVING);
        let world = builder.start_servers().await;
        crash(&world, point).await;
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_status(200, point);
        let requests = if BETWEEN.contains(&point) { 2 } else { 1 };
        assert_eq!(
            world.authorization_server.token_requests(),
            requests,
            "{point}: the crash has cost another number of token requests"
        );
        world.assert_stored(1);
    }
}

/// Row 29: the server takes the old refresh token until the new access token is first used, and then
/// no more. So the new refresh token has to be in the record before the API sees the access token.
#[tokio::test]
async fn row_29_the_new_refresh_token_is_stored_before_the_new_access_token_is_used() {
    for (point, next) in BEFORE_SENDING
        .into_iter()
        .chain(BETWEEN)
        .chain(AFTER_STORING)
        .flat_map(|point| EITHER.map(|next| (point, next)))
    {
        let case = format!("{point}, {next:?}");
        let mut world = expired(FORGIVING).await;
        if let Next::AnotherReplica = next {
            world.start_proxy().await;
        }
        crash(&world, point).await;
        if let Next::TheSameAgain = next {
            world.start_proxy().await;
        }
        world.origin.hold_before_check();
        let request = world.spawn_get();
        world.origin.wait_for_requests(1).await;
        // This is the moment at which the old refresh token dies.
        let server = &world.authorization_server;
        server.set_rotation(Rotation::STRICT);
        let record = world.record();
        assert_eq!(
            record["refresh_token"],
            server.current_refresh_token(),
            "{case}: the newest refresh token is not in the record"
        );
        assert_eq!(
            record["access_token"],
            world.tokens_seen()[0],
            "{case}: the token in use is not the stored one"
        );
        world.origin.release_all();
        request.await.unwrap().assert_status(200, &case);
        assert!(server.token_requests() <= 3, "{case}: the crash has cost too many token requests");

        world.stop().await;
        expire(&world);
        world.start_proxy().await;
        world.get("/").await.assert_status(200, &case);
        world.assert_stored(3);
    }
}
