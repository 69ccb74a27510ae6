//! E29: after a panic during a refresh the program keeps running and the token stays in use.

use super::super::program::Program;
use super::super::wire::within;
use super::super::world::{World, eventually};
use super::operator::{add_admin_token, force, presented, whole_record};

/// The crash points between the answer and the commit, and right after the commit.
const POINTS: [&str; 3] = ["after_temp:2", "after_rename:2", "after_publish"];

async fn start(world: &World, point: &str) -> Program {
    Program::start_with(world.dir.path(), &[], &[("BEARERD_PANIC", point)]).await
}

/// Waits until the record holds the newest refresh token, and asserts that each was presented once.
async fn is_saved(world: &World, point: &str) {
    let server = &world.authorization_server;
    let newest = server.current_refresh_token();
    let is_newest =
        || whole_record(world).is_some_and(|record| record["refresh_token"] == newest.as_str());
    eventually(point, is_newest).await;
    for token in server.previous_refresh_tokens() {
        assert_eq!(
            presented(server, &token),
            1,
            "{point}: the refresh token was not presented exactly once"
        );
    }
    assert_eq!(
        server.reuse_count(),
        0,
        "{point}: a refresh token was presented after it had been replaced"
    );
}

#[tokio::test]
async fn a_panic_between_answer_and_commit_loses_no_token() {
    for point in POINTS {
        let mut world = World::plain().start_servers().await;
        add_admin_token(&mut world);
        let program = start(&world, point).await;
        // The waiting request may fail; the token is there for the next one.
        let _first = within(program.get(&world.http("/"))).await;
        program.logs("panic point").await;
        within(program.get(&world.http("/"))).await.assert_status(200, point);
        world.authorization_server.assert_token_requests(1, point);
        is_saved(&world, point).await;
        // The next refresh continues with the stored token.
        within(force(program.admin)).await.assert_status(200, point);
        world.authorization_server.assert_token_requests(2, point);
        is_saved(&world, point).await;
    }
}

/// The same in the first refresh after a restart; the next restart must find the newest token.
#[tokio::test]
async fn a_panic_in_a_later_refresh_loses_no_token_either() {
    for point in POINTS {
        let mut world = World::plain().start_servers().await;
        add_admin_token(&mut world);
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_status(200, point);
        program.kill().await;
        let program = start(&world, point).await;
        let _answer = within(force(program.admin)).await;
        program.logs("panic point").await;
        within(program.get(&world.http("/"))).await.assert_status(200, point);
        is_saved(&world, point).await;
        program.kill().await;
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_status(200, point);
        world.authorization_server.assert_token_requests(2, point);
        is_saved(&world, point).await;
    }
}
