//! E21 and the seeds of E43: old refresh tokens as seeds, and very many seeds.

use rustix::process::Signal;
use serde_json::Value;

use super::super::program::Program;
use super::super::world::{HOURS, MINUTE, World};
use super::operator::{add_admin_token, change, files, force, presented};
use crate::texts::assert_never_says;

/// Refreshes the token so many times.
async fn rotate(world: &World, times: usize) {
    let server = &world.authorization_server;
    for _ in 0..times {
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
    }
    server.assert_no_reuse();
}

/// Makes each of these tokens the seed, by a restart and by a reload, and asserts that it is not presented.
async fn never_presented(world: &mut World, tokens: &[String]) {
    for token in tokens {
        for restart in [false, true] {
            let before = presented(&world.authorization_server, token);
            world.write_seed(token);
            if restart {
                world.restart().await;
            } else {
                world.reload().await;
            }
            world.get("/").await.assert_ok();
            world.clock.advance(HOURS);
            world.get("/").await.assert_ok();
            let server = &world.authorization_server;
            assert_eq!(presented(server, token), before, "it was presented again");
            server.assert_no_reuse();
            world.assert_newest_refresh_token_is_stored();
        }
    }
}

/// E21.
#[tokio::test]
async fn a_refresh_token_of_long_ago_as_a_seed_is_never_presented() {
    let mut world = World::settled().await;
    rotate(&world, 12).await;
    let old = world.authorization_server.previous_refresh_tokens();
    // The last one, that of ten rotations ago, the first that the server has issued, and the seed.
    let chosen = [&old[old.len() - 1], &old[old.len() - 10], &old[1], &old[0]].map(Clone::clone);
    never_presented(&mut world, &chosen).await;
}

/// The same after a hundred rotations, as with a backup of last week.
#[tokio::test]
async fn a_refresh_token_of_a_hundred_rotations_ago_is_still_known() {
    let mut world = World::settled().await;
    rotate(&world, 100).await;
    let old = world.authorization_server.previous_refresh_tokens();
    let chosen = [old[1].clone(), old[50].clone()];
    never_presented(&mut world, &chosen).await;
}

/// The refresh tokens of a grant that was replaced by another seed or logged out still count as used.
#[tokio::test]
async fn a_rotated_refresh_token_of_a_grant_before_this_one_is_never_presented() {
    for logged_out in [false, true] {
        let mut world = World::builder().start_servers().await;
        add_admin_token(&mut world);
        world.start_proxy().await;
        world.get("/").await.assert_ok();
        rotate(&world, 12).await;
        let old = world.authorization_server.previous_refresh_tokens();
        if logged_out {
            let admin = world.app().admin_address().unwrap();
            change(admin, "api", "logout").await.assert_ok();
            world.write_seed(&old[3]);
            world.reload().await;
            world.get("/").await.assert_no_token();
            world.authorization_server.assert_no_reuse();
        }
        world.write_seed(&world.authorization_server.issue_refresh_token());
        world.reload().await;
        world.get("/").await.assert_ok();
        let chosen = [old[old.len() - 1].clone(), old[3].clone()];
        never_presented(&mut world, &chosen).await;
    }
}

/// The current refresh token as a seed may be presented once.
#[tokio::test]
async fn the_current_refresh_token_as_a_seed_costs_no_grant() {
    let mut world = World::settled().await;
    rotate(&world, 2).await;
    let newest = world.authorization_server.current_refresh_token();
    world.write_seed(&newest);
    world.restart().await;
    for _ in 0..3 {
        world.get("/").await.assert_ok();
        world.reload().await;
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
    }
    let server = &world.authorization_server;
    assert_eq!(
        presented(server, &newest),
        1,
        "the current refresh token was presented again as a seed"
    );
    server.assert_no_reuse();
    world.assert_newest_refresh_token_is_stored();
}

/// An operator who writes an old seed learns from the log why it has no effect.
#[tokio::test]
async fn the_log_says_why_a_seed_is_ignored() {
    let mut world = World::plain().start_servers().await;
    add_admin_token(&mut world);
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    for _ in 0..2 {
        force(program.admin).await.assert_ok();
    }
    let old = world.authorization_server.previous_refresh_tokens()[1].clone();
    world.write_seed(&old);
    program.signal(Signal::HUP);
    program.logs("in force").await;
    program.get(&world.http("/")).await.assert_ok();
    force(program.admin).await.assert_ok();
    let log = program.stop().await;
    let says = |line: &str| {
        line.contains("WARN")
            && line.contains("api")
            && (line.contains("seed") || line.contains("refresh_token"))
    };
    assert!(log.lines().any(says), "the log does not say why the seed is ignored: {log}");
    assert_never_says("the log", &log, [&old]);
    world.authorization_server.assert_no_reuse();
}

/// Two processes: one is given an old token as its seed.
#[tokio::test]
async fn a_sibling_that_is_given_an_old_refresh_token_does_not_present_it() {
    let world = World::settled().await;
    rotate(&world, 12).await;
    let old = world.authorization_server.previous_refresh_tokens()[2].clone();
    world.write_seed(&old);
    let sibling = world.sibling().await;
    for _ in 0..2 {
        let (here, there) = tokio::join!(world.get("/"), sibling.get(&world));
        assert_eq!(
            (here.status, there.status),
            (200, 200),
            "(first, second): a process with an old seed did not serve"
        );
        world.clock.advance(HOURS);
    }
    assert_eq!(
        presented(&world.authorization_server, &old),
        1,
        "the old refresh token was presented again as a seed"
    );
    world.authorization_server.assert_no_reuse();
}

/// E43: a job that writes a new seed every hour.
#[tokio::test]
async fn a_thousand_seeds_leave_a_bounded_record() {
    let world = World::plain().settled().await;
    let server = &world.authorization_server;
    for number in 0..1000 {
        world.write_seed(&server.issue_refresh_token());
        world.reload().await;
        world.get("/").await.assert_status(200, format!("seed {number} was not used"));
        // The shortest time between two refreshes of one credential.
        world.clock.advance(MINUTE);
    }
    server.assert_token_requests(1001, "each of a thousand seeds has to cost one token request");
    server.assert_no_reuse();
    let record = files(&world).remove("api.json").unwrap();
    assert!(record.len() < 64 * 1024, "the record has grown to {} bytes", record.len());
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(
        record["record"]["refresh_token"],
        server.current_refresh_token(),
        "the newest refresh token is not in the record"
    );
    // The last ones are still known.
    let old = server.previous_refresh_tokens();
    for token in [&old[old.len() - 2], &old[old.len() - 21]] {
        let before = presented(server, token);
        world.write_seed(token);
        world.reload().await;
        world.get("/").await.assert_ok();
        assert_eq!(
            presented(server, token),
            before,
            "a refresh token of lately was presented again as a seed"
        );
    }
    server.assert_no_reuse();
}
