//! E8: locks that are removed, and a state directory that is replaced by a copy, under two processes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::super::program::Program;
use super::super::stopwatch::Stopwatch;
use super::super::wire::within;
use super::super::world::{HOURS, Sibling, World, eventually};
use super::operator::{
    WRITTEN_BACK, add_admin_token, files, force, presented, stays_true, whole_record,
};

/// What is done to the state directory while a process may hold a lock in it.
#[derive(Clone, Copy, Debug)]
enum Change {
    LocksRemoved,
    /// `mv state old; cp -a old state`
    Copied,
    /// The same, and the old directory is removed.
    CopiedAndRemoved,
    /// A restored backup: the records, without the locks.
    Restored,
    /// Replaced by an empty directory.
    Emptied,
}

/// The changes after which the directory still holds the open attempt.
const KEPT: [Change; 4] =
    [Change::LocksRemoved, Change::Copied, Change::CopiedAndRemoved, Change::Restored];
const CHANGES: [Change; 5] = [KEPT[0], KEPT[1], KEPT[2], KEPT[3], Change::Emptied];

impl Change {
    fn make(self, world: &World) {
        let (state, old) = (world.state(), world.dir.path().join("old"));
        match self {
            Self::LocksRemoved => remove_locks(world, &state),
            Self::Copied | Self::CopiedAndRemoved | Self::Restored => {
                std::fs::rename(&state, &old).unwrap();
                let copied = Command::new("cp").arg("-a").arg(&old).arg(&state).status().unwrap();
                assert!(copied.success(), "`cp -a` failed, so the test shows nothing");
                match self {
                    Self::CopiedAndRemoved => std::fs::remove_dir_all(&old).unwrap(),
                    Self::Restored => remove_locks(world, &state),
                    _ => {}
                }
            }
            Self::Emptied => {
                std::fs::rename(&state, &old).unwrap();
                let mut dir = std::fs::DirBuilder::new();
                std::os::unix::fs::DirBuilderExt::mode(&mut dir, 0o700).create(&state).unwrap();
            }
        }
    }
}

fn remove_locks(world: &World, state: &Path) {
    let locks: Vec<_> = files(world).into_keys().filter(|name| name.ends_with(".lock")).collect();
    for name in locks {
        std::fs::remove_file(state.join(name)).unwrap();
    }
}

fn spawn_get(world: &World, sibling: &Sibling) -> JoinHandle<u16> {
    let request = sibling.client().get(world.http("/"));
    tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
}

/// Asserts that each refresh token was presented once, and that the newest gets into the record without a request.
async fn nothing_is_lost(world: &World, case: &str) {
    let server = &world.authorization_server;
    for token in server.previous_refresh_tokens() {
        assert_eq!(
            presented(server, &token),
            1,
            "{case}: the refresh token was not presented exactly once"
        );
    }
    assert_eq!(
        server.reuse_count(),
        0,
        "{case}: a refresh token was presented after it had been replaced"
    );
    let newest = server.current_refresh_token();
    let began = Stopwatch::start();
    let stored = || whole_record(world).is_some_and(|it| it["refresh_token"] == newest.as_str());
    eventually(&format!("{case}: the newest is in the record"), stored).await;
    assert!(began.elapsed() <= WRITTEN_BACK, "{case}: it took too long: {:?}", began.elapsed());
}

/// One process has presented the refresh token and waits for the answer; the other needs a token as well.
#[tokio::test]
async fn a_refresh_token_in_flight_is_not_presented_by_another_process() {
    for change in KEPT {
        let case = format!("{change:?}");
        let world = World::settled().await;
        let sibling = world.sibling().await;
        sibling.get(&world).await.assert_ok();
        world.clock.advance(HOURS);
        let server = &world.authorization_server;
        let request = world.begin_refresh().await;
        change.make(&world);
        let other = spawn_get(&world, &sibling);
        let three_seconds = Duration::from_secs(3);
        stays_true(&case, three_seconds, || server.token_requests() == 2).await;
        server.release_all();
        within(request).await.unwrap().assert_status(200, &case);
        assert_eq!(
            within(other).await.unwrap(),
            200,
            "{case}: the request of the other process was not served"
        );
        server.assert_token_requests(2, &case);
        nothing_is_lost(&world, &case).await;
        // Both continue to share one refresh.
        world.clock.advance(HOURS);
        let (here, there) = tokio::join!(world.get_many(5), sibling.get_many(&world, 5));
        assert!(
            here.iter().chain(&there).all(|answer| answer.status == 200),
            "{case}: a request was not served"
        );
        server.assert_token_requests(3, &case);
        nothing_is_lost(&world, &case).await;
    }
}

/// No process holds the lock during the change; right after it both need a token.
#[tokio::test]
async fn after_the_change_two_processes_still_make_one_token_request() {
    for change in CHANGES {
        for wait in [false, true] {
            let case = format!("{change:?}, noticed first: {wait}");
            let world = World::settled().await;
            let sibling = world.sibling().await;
            sibling.get(&world).await.assert_ok();
            change.make(&world);
            if wait {
                nothing_is_lost(&world, &case).await;
                stays_true(&case, WRITTEN_BACK, || whole_record(&world).is_some()).await;
            }
            world.clock.advance(HOURS);
            let (here, there) = tokio::join!(world.get_many(10), sibling.get_many(&world, 10));
            assert!(
                here.iter().chain(&there).all(|answer| answer.status == 200),
                "{case}: a request was not served"
            );
            world.authorization_server.assert_token_requests(2, &case);
            nothing_is_lost(&world, &case).await;
        }
    }
}

/// One process was started after the change, the other before it.
#[tokio::test]
async fn processes_started_before_and_after_the_copy_share_one_lock() {
    for change in CHANGES {
        let case = format!("{change:?}");
        let world = World::settled().await;
        change.make(&world);
        nothing_is_lost(&world, &case).await;
        let sibling = world.sibling().await;
        world.clock.advance(HOURS);
        let (here, there) = tokio::join!(world.get_many(10), sibling.get_many(&world, 10));
        assert!(
            here.iter().chain(&there).all(|answer| answer.status == 200),
            "{case}: a request was not served"
        );
        world.authorization_server.assert_token_requests(2, &case);
        nothing_is_lost(&world, &case).await;
    }
}

/// E8 with two processes of their own.
#[tokio::test]
async fn two_programs_present_a_refresh_token_once_whatever_becomes_of_the_directory() {
    for change in KEPT {
        let case = format!("{change:?}");
        let mut world = World::plain().start_servers().await;
        add_admin_token(&mut world);
        let server = &world.authorization_server;
        let (first, second) = (Program::start(&world).await, Program::start(&world).await);
        first.get(&world.http("/")).await.assert_ok();
        second.get(&world.http("/")).await.assert_ok();
        server.assert_token_requests(1, &case);
        server.hold();
        let asking = tokio::spawn(force(first.admin));
        within(server.wait_for_token_requests(2)).await;
        change.make(&world);
        let also_asking = tokio::spawn(force(second.admin));
        stays_true(&case, Duration::from_secs(2), || server.token_requests() == 2).await;
        server.release_all();
        within(asking).await.unwrap().assert_status(200, &case);
        // It may adopt that token or get another one.
        let _other = within(also_asking).await.unwrap();
        for program in [&first, &second] {
            within(program.get(&world.http("/"))).await.assert_status(200, &case);
        }
        nothing_is_lost(&world, &case).await;
    }
}

/// A program killed right after the change has already written its token to the new directory.
#[tokio::test]
async fn a_program_killed_after_the_directory_was_replaced_leaves_its_token_there() {
    for change in CHANGES {
        let case = format!("{change:?}");
        let mut world = World::plain().start_servers().await;
        add_admin_token(&mut world);
        let program = Program::start(&world).await;
        program.get(&world.http("/")).await.assert_ok();
        change.make(&world);
        nothing_is_lost(&world, &case).await;
        force(program.admin).await.assert_status(200, &case);
        program.kill().await;
        let program = Program::start(&world).await;
        force(program.admin).await.assert_status(200, &case);
        world.authorization_server.assert_token_requests(3, &case);
        nothing_is_lost(&world, &case).await;
    }
}
