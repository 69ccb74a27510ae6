//! E28: commands that print secrets and do not end.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::super::program::Program;
use super::super::stopwatch::Stopwatch;
use super::super::wire::Wire;
use super::super::world::{World, eventually};
use crate::texts::assert_never_says;

/// A command is killed after half a minute; the rest allows for a busy machine.
const GIVEN_UP: Duration = Duration::from_secs(45);

const GOOD: &str = "printf test-client-secret";

/// What a command may do after it has written its process ids to `pids`.
const BAD: [(&str, &str); 6] = [
    ("prints, closes its output and sleeps", "printf other; exec >&- 2>&-; exec sleep 1000"),
    ("never prints", "exec sleep 1000"),
    ("leaves somebody with its output", "sleep 1000 & echo $! >>pids; printf other"),
    (
        "leaves somebody with its output and sleeps",
        "sleep 1000 & echo $! >>pids; printf other; exec >&-; wait",
    ),
    ("pays no attention to signals", "trap '' TERM INT HUP; while :; do sleep 1; done"),
    ("prints for ever", "while :; do printf 0123456789012345678901234567890123456789; done"),
];

fn write_script(dir: &Path, what: &str) {
    let script = format!("cd \"$(dirname \"$0\")\"\necho $$ >>pids\n{what}\n");
    let new = dir.join("secret.sh.new");
    std::fs::write(&new, script).unwrap();
    std::fs::rename(new, dir.join("secret.sh")).unwrap();
}

fn pids(dir: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(dir.join("pids")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}

fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let is_zombie = stat.is_ok_and(|stat| stat.contains(") Z "));
    test_kill_process(pid).is_ok() && !is_zombie
}

/// Kills the processes that the test has started, whatever bearerd does.
struct Reaper<'a>(&'a Path);

impl Drop for Reaper<'_> {
    fn drop(&mut self) {
        for pid in pids(self.0) {
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

/// How many reloads have ended, well or not.
async fn reloads(program: &Program) -> f64 {
    let metrics = Wire::to_address(program.admin)
        .await
        .ask(&["GET /metrics HTTP/1.1", "Host: localhost"])
        .await
        .text();
    let lines = metrics.lines().filter(|line| line.starts_with("bearerd_reloads_total{"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

async fn reload_ends(program: &Program, case: &str) {
    let before = reloads(program).await;
    program.signal(Signal::HUP);
    let began = Stopwatch::start();
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    while reloads(program).await <= before {
        assert!(began.elapsed() < GIVEN_UP, "{case}: the reload never ends");
        pause.tick().await;
    }
}

async fn start() -> (World, Program) {
    let mut world = World::plain().start_servers().await;
    let script = world.dir.path().join("secret.sh");
    write_script(world.dir.path(), GOOD);
    world.configure_file(|text| {
        text.replace(
            "client_secret = { file = \"secret\" }",
            &format!("client_secret = {{ cmd = [\"sh\", \"{}\"] }}", script.display()),
        )
    });
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    (world, program)
}

/// A bad command in the place of the good one, and the good one again.
async fn replace_and_restore((case, script): (&str, &str)) {
    let (world, program) = start().await;
    let dir = world.dir.path();
    let _reaper = Reaper(dir);
    std::fs::remove_file(dir.join("pids")).unwrap();
    write_script(dir, script);
    reload_ends(&program, case).await;
    assert!(!pids(dir).is_empty(), "{case}: it was never run");
    // The command was killed, and the reload failed.
    let began = Stopwatch::start();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while pids(dir).into_iter().any(is_alive) {
        assert!(began.elapsed() < Duration::from_secs(5), "{case}: it lives on");
        pause.tick().await;
    }
    // Its output may count or not; the token stays in use.
    program.get(&world.http("/")).await.assert_status(200, case);
    write_script(dir, GOOD);
    reload_ends(&program, case).await;
    program.get(&world.http("/")).await.assert_status(200, case);
    let log = program.stop().await;
    assert_never_says(&format!("{case}: the log"), &log, ["test-client-secret"]);
}

/// E28.
#[tokio::test]
async fn a_command_that_prints_closes_its_output_and_sleeps_is_killed_and_reloads_go_on() {
    replace_and_restore(BAD[0]).await;
}

#[tokio::test]
async fn a_command_that_never_prints_is_killed_and_reloads_go_on() {
    replace_and_restore(BAD[1]).await;
}

#[tokio::test]
async fn a_command_whose_child_holds_its_output_is_killed_and_reloads_go_on() {
    replace_and_restore(BAD[2]).await;
}

#[tokio::test]
async fn a_command_whose_child_holds_its_output_and_that_sleeps_is_killed_and_reloads_go_on() {
    replace_and_restore(BAD[3]).await;
}

#[tokio::test]
async fn a_command_that_ignores_signals_is_killed_and_reloads_go_on() {
    replace_and_restore(BAD[4]).await;
}

#[tokio::test]
async fn a_command_that_prints_for_ever_is_killed_and_reloads_go_on() {
    replace_and_restore(BAD[5]).await;
}

/// A shutdown does not wait for a command either.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_command() {
    let (world, program) = start().await;
    let _reaper = Reaper(world.dir.path());
    std::fs::remove_file(world.dir.path().join("pids")).unwrap();
    write_script(world.dir.path(), BAD[0].1);
    program.signal(Signal::HUP);
    eventually("it is run", || !pids(world.dir.path()).is_empty()).await;
    program.signal(Signal::TERM);
    assert_eq!(program.ends().await.code(), Some(0), "the program did not end in good order");
    let left = || pids(world.dir.path()).into_iter().any(is_alive);
    eventually("it is killed", || !left()).await;
}
