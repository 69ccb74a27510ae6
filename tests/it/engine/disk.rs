//! E15 and E27: a disk that hangs, and one that fails at the worst moment.

use std::time::Duration;

use bearerd_test_support::AuthorizationServer;
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::super::program::Program;
use super::super::stopwatch::Stopwatch;
use super::super::wire::{Reply, within};
use super::super::world::{World, WorldBuilder};
use super::faults::Faults;
use super::operator::{
    WRITTEN_BACK, add_admin_token, files, force, metric, presented, readiness, stays_true,
    whole_record,
};
use crate::texts::assert_never_says;

/// The store gives up on a call after a second; the rest allows for a busy machine.
const GIVEN_UP: Duration = Duration::from_millis(2500);

/// Servers and a disk; `None` if faults cannot be injected here.
async fn world_with_faults(builder: WorldBuilder) -> Option<(World, Faults)> {
    let mut world = builder.start_servers().await;
    add_admin_token(&mut world);
    let faults = Faults::new(&world)?;
    faults.set(&[]);
    Some((world, faults))
}

/// The same with bearerd, and generation 1 in the record.
async fn settled(builder: WorldBuilder) -> Option<(World, Faults, Program)> {
    let (world, faults) = world_with_faults(builder).await?;
    let program = faults.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world.assert_stored(1);
    Some((world, faults, program))
}

/// An operator forces a refresh; the server has received the token request and holds it.
async fn begin_to_force(program: &Program, server: &AuthorizationServer) -> JoinHandle<Reply> {
    let before = server.token_requests();
    server.hold();
    let asking = tokio::spawn(force(program.admin));
    within(server.wait_for_token_requests(before + 1)).await;
    asking
}

async fn assert_unsaved(program: &Program, unsaved: bool, case: &str) {
    let ready = within(readiness(program.admin)).await;
    assert_eq!(
        ready["credentials"][0]["unsaved"], unsaved,
        "{case}: the probe does not tell whether the token is unsaved: {ready}"
    );
    assert_eq!(
        ready["status"] == "degraded",
        unsaved,
        "{case}: the probe does not tell whether something is wrong: {ready}"
    );
    let alarm = metric(program.admin, "bearerd_credential_unsaved").await;
    assert_eq!(
        alarm,
        Some(f64::from(u8::from(unsaved))),
        "{case}: the metrics do not tell whether the token is unsaved"
    );
}

async fn saved(program: &Program) {
    let saved = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while readiness(program.admin).await["credentials"][0]["unsaved"] == true {
            pause.tick().await;
        }
    };
    within(saved).await;
}

fn generation(world: &World) -> Value {
    whole_record(world).unwrap()["generation"].clone()
}

/// Asserts that each refresh token was presented once and that the newest is in the record.
#[track_caller]
fn assert_nothing_lost(world: &World, case: &str) {
    let server = &world.authorization_server;
    for token in server.previous_refresh_tokens() {
        assert_eq!(
            presented(server, &token),
            1,
            "{case}: the refresh token was not presented exactly once"
        );
    }
    let record = whole_record(world).unwrap();
    assert_eq!(
        record["refresh_token"],
        server.current_refresh_token(),
        "{case}: the newest refresh token is not in the record"
    );
    assert_eq!(
        server.reuse_count(),
        0,
        "{case}: a refresh token was presented after it had been replaced"
    );
}

// ----- a disk that hangs -----

/// E15: the disk hangs when the answer with the new refresh token arrives.
#[tokio::test]
async fn a_commit_that_never_returns_delays_the_new_token_by_a_second() {
    for hang in ["hang sync", "hang dirsync", "hang rename"] {
        let Some((world, faults, program)) = settled(World::plain()).await else { return };
        let server = &world.authorization_server;
        let (asking, before) = (begin_to_force(&program, server).await, faults.log());
        faults.set(&[hang]);
        let released = Stopwatch::start();
        server.release_all();
        within(asking).await.unwrap().assert_status(200, hang);
        assert!(
            released.elapsed() < GIVEN_UP,
            "{hang}: it took too long: {:?}",
            released.elapsed()
        );
        faults.happens(hang, &before).await;
        world.origin.clear();
        for _ in 0..3 {
            let began = Stopwatch::start();
            program.get(&world.http("/")).await.assert_status(200, hang);
            assert!(began.elapsed() < GIVEN_UP, "{hang}: it took too long: {:?}", began.elapsed());
        }
        let newest = server.tokens().newest_access_token().unwrap();
        assert_eq!(world.tokens_seen(), vec![newest; 3], "{hang}: the API was sent another token");
        assert_unsaved(&program, true, hang).await;

        faults.set(&[]);
        saved(&program).await;
        assert_unsaved(&program, false, hang).await;
        assert_eq!(
            (generation(&world), server.token_requests()),
            (2.into(), 2),
            "{hang}: (generation, token requests): the saved token is not the second one"
        );
        force(program.admin).await.assert_status(200, hang);
        server.assert_token_requests(3, hang);
        assert_nothing_lost(&world, hang);
    }
}

/// E15: there is no usable token and nothing can be written, not even the attempt.
#[tokio::test]
async fn with_a_disk_that_hangs_a_rejected_token_is_still_replaced() {
    for hang in ["hang sync", "hang rename"] {
        let Some((world, faults, program)) = settled(World::plain()).await else { return };
        let server = &world.authorization_server;
        faults.set(&[hang]);
        server.tokens().revoke_all_access_tokens();
        let began = Stopwatch::start();
        is_replaced(&program, &world, hang).await;
        // A new token gets a propagation delay of three seconds, and each call of the store a second.
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "{hang}: it took too long: {:?}",
            began.elapsed()
        );
        assert_unsaved(&program, true, hang).await;
        server.assert_token_requests(2, hang);
        faults.set(&[]);
        saved(&program).await;
        assert_nothing_lost(&world, hang);
    }
}

/// E15 without a record: the first refresh token is the seed.
#[tokio::test]
async fn started_on_a_disk_that_hangs_it_serves_and_saves_later() {
    for hang in ["hang sync", "hang rename"] {
        let Some((world, faults)) = world_with_faults(World::plain()).await else { return };
        // The first start creates the CA, which does not belong to the store.
        faults.start(&world).await.stop().await;
        faults.set(&[hang]);
        let program = faults.start(&world).await;
        let began = Stopwatch::start();
        within(program.get(&world.http("/"))).await.assert_status(200, hang);
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{hang}: it took too long: {:?}",
            began.elapsed()
        );
        assert_unsaved(&program, true, hang).await;
        faults.set(&[]);
        saved(&program).await;
        world.authorization_server.assert_token_requests(1, hang);
        assert_nothing_lost(&world, hang);
    }
}

/// There is a usable token and the attempt cannot be written, so no refresh is started.
#[tokio::test]
async fn with_a_disk_that_hangs_a_usable_token_is_kept_and_operators_are_answered() {
    for hang in ["hang sync", "hang rename", "hang flock"] {
        let Some((world, faults, program)) = settled(World::plain()).await else { return };
        let server = &world.authorization_server;
        faults.set(&[hang]);
        let began = Stopwatch::start();
        let forced = within(force(program.admin)).await;
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{hang}: it took too long: {:?}",
            began.elapsed()
        );
        assert_ne!(
            forced.status,
            200,
            "{hang}: a refresh was promised although nothing can be written: {}",
            forced.text()
        );
        let began = Stopwatch::start();
        within(program.get(&world.http("/"))).await.assert_status(200, hang);
        assert!(began.elapsed() < GIVEN_UP, "{hang}: it took too long: {:?}", began.elapsed());
        let ready = within(readiness(program.admin)).await;
        assert_eq!(
            ready["status"], "degraded",
            "{hang}: the probe does not say that something is wrong: {ready}"
        );
        server.assert_token_requests(1, hang);
        faults.set(&[]);
        refreshes_again(&program).await;
        server.assert_token_requests(2, hang);
        assert_nothing_lost(&world, hang);
    }
}

/// Waits until an operator's refresh works.
async fn refreshes_again(program: &Program) {
    let forced = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        while force(program.admin).await.status != 200 {
            pause.tick().await;
        }
    };
    within(forced).await;
}

/// A hanging write must not block a shutdown.
#[tokio::test]
async fn with_a_disk_that_hangs_the_program_still_ends() {
    let builder = || World::plain().proxy("shutdown_grace = \"2s\"");
    for hang in ["hang sync", "hang dirsync", "hang flock"] {
        let Some((world, faults, program)) = settled(builder()).await else { return };
        let server = &world.authorization_server;
        let asking = begin_to_force(&program, server).await;
        faults.set(&[hang]);
        server.release_all();
        assert!(within(asking).await.is_ok(), "{hang}: the operator's request was not answered");
        program.signal(Signal::TERM);
        // `ends` has a deadline.
        program.ends().await;
    }
}

/// After a kill during a hanging write, the record is the old one with its open attempt, or the new one.
#[tokio::test]
async fn a_kill_while_a_write_hangs_leaves_a_record_that_can_be_used() {
    for (hang, is_new) in [("hang sync", false), ("hang rename", false), ("hang dirsync", true)] {
        let Some((world, faults, program)) = settled(World::plain()).await else { return };
        let server = &world.authorization_server;
        let (asking, before) = (begin_to_force(&program, server).await, faults.log());
        faults.set(&[hang]);
        server.release_all();
        faults.happens(hang, &before).await;
        program.kill().await;
        asking.abort();
        let record = whole_record(&world).unwrap();
        assert_eq!(
            record["generation"] == 2,
            is_new,
            "{hang}: the record is not the expected one of the two: {record}"
        );
        faults.set(&[]);
        let program = faults.start(&world).await;
        program.get(&world.http("/")).await.assert_status(200, hang);
        server.assert_token_requests(2, format!("{hang}: the stored access token is still good"));
    }
}

/// Repeats a request until it is served with a new token, because a rejected new token gets a propagation delay.
async fn is_replaced(program: &Program, world: &World, case: &str) {
    let began = Stopwatch::start();
    while within(program.get(&world.http("/"))).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(15), "{case}: it is never replaced");
    }
}

/// Two tokens are only in memory when the write of the first finally succeeds.
#[tokio::test]
async fn writes_that_hung_do_not_overtake_newer_ones() {
    for hang in ["hang sync", "hang rename"] {
        let Some((world, faults, program)) = settled(World::plain()).await else { return };
        let server = &world.authorization_server;
        faults.set(&[hang]);
        for _ in 0..2 {
            server.tokens().revoke_all_access_tokens();
            is_replaced(&program, &world, hang).await;
        }
        assert_unsaved(&program, true, hang).await;
        server.assert_token_requests(3, hang);
        faults.set(&[]);
        saved(&program).await;
        let newest = server.current_refresh_token();
        let kept = || {
            whole_record(&world).is_some_and(|record| record["refresh_token"] == newest.as_str())
        };
        stays_true(hang, WRITTEN_BACK, kept).await;
        assert_eq!(generation(&world), 3, "{hang}: another generation is stored");
        assert_nothing_lost(&world, hang);
    }
}

/// E8: the lock is lost while the attempt is being written. Another process refreshes instead, and the
/// hanging write does not undo that when it finally succeeds.
#[tokio::test]
async fn a_process_that_loses_the_lock_before_presenting_presents_nothing() {
    for hang in ["hang sync", "hang rename"] {
        let Some((world, faults, first)) = settled(World::plain()).await else { return };
        let second = Program::start(&world).await;
        second.get(&world.http("/")).await.assert_status(200, hang);
        let server = &world.authorization_server;
        let before = faults.log();
        faults.set(&[hang]);
        server.tokens().revoke_all_access_tokens();
        let client = first.client().get(world.http("/")).send();
        let asking = tokio::spawn(client);
        faults.happens(hang, &before).await;
        for name in files(&world).into_keys().filter(|name| name.ends_with(".lock")) {
            std::fs::remove_file(world.state().join(name)).unwrap();
        }
        within(force(second.admin)).await.assert_status(200, hang);
        let newest = server.current_refresh_token();
        faults.set(&[]);
        let answered = within(asking).await.unwrap().unwrap();
        assert_eq!(answered.status(), 200, "{hang}: the waiting request was not served");
        let kept = || {
            whole_record(&world).is_some_and(|record| record["refresh_token"] == newest.as_str())
        };
        stays_true(hang, WRITTEN_BACK, kept).await;
        server.assert_token_requests(2, hang);
        assert_nothing_lost(&world, hang);
    }
}

// ----- a disk that fails -----

/// E27: the record is replaced, but the replacement may not survive a power failure.
#[tokio::test]
async fn a_failed_directory_sync_is_retried_and_the_token_counts_as_unsaved_until_then() {
    let Some((world, faults, program)) = settled(World::plain()).await else { return };
    let server = &world.authorization_server;
    let (asking, before) = (begin_to_force(&program, server).await, faults.log());
    faults.set(&["fail dirsync"]);
    server.release_all();
    within(asking).await.unwrap().assert_ok();
    faults.happens("fail dirsync", &before).await;
    program.get(&world.http("/")).await.assert_ok();
    assert_unsaved(&program, true, "fails once").await;
    // Again, and still unsaved.
    let before = faults.log();
    faults.happens("fail dirsync", &before).await;
    assert_unsaved(&program, true, "fails again").await;

    let before = faults.log();
    faults.set(&[]);
    saved(&program).await;
    faults.happens("pass dirsync", &before).await;
    assert_unsaved(&program, false, "is in order").await;
    assert_eq!(
        (generation(&world), server.token_requests()),
        (2.into(), 2),
        "(generation, token requests): saving has to cost no token request"
    );
    force(program.admin).await.assert_ok();
    server.assert_token_requests(3, "an operator's refresh has to cost one token request");
    assert_nothing_lost(&world, "afterwards");
    let log = program.stop().await;
    assert_never_says("the log", &log, ["someone else", "conflict"]);
}

/// E27 at the first of the two writes: the attempt may not survive a power failure, so with a usable
/// token it is not made.
#[tokio::test]
async fn an_attempt_that_may_not_be_on_the_disk_is_not_made_while_there_is_a_usable_token() {
    for fail in ["fail dirsync", "fail sync", "fail rename"] {
        let Some((world, faults, program)) = settled(World::plain()).await else { return };
        let server = &world.authorization_server;
        faults.set(&[fail]);
        assert_ne!(
            within(force(program.admin)).await.status,
            200,
            "{fail}: a refresh was promised that may not be on the disk"
        );
        program.get(&world.http("/")).await.assert_status(200, fail);
        server.assert_token_requests(1, fail);
        faults.set(&[]);
        refreshes_again(&program).await;
        server.assert_token_requests(2, fail);
        assert_nothing_lost(&world, fail);
    }
}

/// The old record stays whole until the new one is durable, and no temporary file is left.
#[tokio::test]
async fn a_failed_write_is_repeated_and_leaves_no_temporary_file() {
    for fail in ["fail sync", "fail rename"] {
        let Some((world, faults, program)) = settled(World::plain()).await else { return };
        let server = &world.authorization_server;
        let (asking, before) = (begin_to_force(&program, server).await, faults.log());
        faults.set(&[fail]);
        server.release_all();
        within(asking).await.unwrap().assert_status(200, fail);
        faults.happens(fail, &before).await;
        assert_unsaved(&program, true, fail).await;
        assert_eq!(generation(&world), 1, "{fail}: another generation is stored");
        faults.set(&[]);
        saved(&program).await;
        assert_eq!(
            (generation(&world), server.token_requests()),
            (2.into(), 2),
            "{fail}: (generation, token requests): the saved token is not the second one"
        );
        assert_nothing_lost(&world, fail);
        let litter = files(&world).into_keys();
        let litter: Vec<_> = litter.filter(|name| name.ends_with(".tmp")).collect();
        assert_eq!(litter, [""; 0], "{fail}: a failed write has left a file");
    }
}
