//! E43: unusual file systems: an overlay that is removed with its container, and names that differ only in
//! case.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::process::{Command, Stdio};

use super::super::program::{Program, command};
use super::super::world::{HOURS, World, WorldBuilder};
use super::operator::{files, presented};
use crate::texts::assert_says;

// ----- overlayfs -----

/// Executes the program with an overlay as its state directory, as in a container without a volume.
const ON_OVERLAY: &str = r#"
mount -t tmpfs tmpfs "$1" && mkdir "$1/lower" "$1/upper" "$1/work" &&
mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$0" &&
shift && exec "$@"
"#;

fn overlay_command(world: &World, with_user: bool, program: &[&str]) -> Command {
    let like = command(world.dir.path(), &[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"].iter().filter(|_| with_user));
    command.args(["--mount", "sh", "-c", ON_OVERLAY]).arg(world.state());
    command.arg(world.dir.path().join("scratch")).args(program);
    command.current_dir(world.dir.path()).stdin(Stdio::null());
    for (name, _) in like.get_envs() {
        command.env_remove(name);
    }
    command
}

#[tokio::test]
async fn a_state_directory_that_goes_with_the_container_is_warned_about() {
    let world = World::plain().start_servers().await;
    for dir in [world.state(), world.dir.path().join("scratch")] {
        std::fs::DirBuilder::new().mode(0o700).create(dir).unwrap();
    }
    let works = |with_user: &bool| {
        let mut probe = overlay_command(&world, *with_user, &["true"]);
        probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let Some(with_user) = [false, true].into_iter().find(works) else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no overlay in CI");
        let _nobody = writeln!(std::io::stderr(), "no overlay can be mounted: nothing was shown");
        return;
    };
    let bearerd = env!("CARGO_BIN_EXE_bearerd");
    let program = Program::start_by(overlay_command(&world, with_user, &[bearerd, "run"])).await;
    program.get(&world.http("/")).await.assert_ok();
    let log = program.stop().await;
    let warned = log.lines().any(|line| line.contains("overlay") || line.contains("volume"));
    assert!(warned, "the start does not warn of the overlay: {log}");

    let output = overlay_command(&world, with_user, &[bearerd, "check"]).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "`bearerd check` fails on an overlay, which is worth a warning only: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert_says("the output", &said, ["overlay", "volume"]);
}

// ----- names -----

fn clubs(names: &[String]) -> WorldBuilder {
    let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    World::builder()
        .without_seed()
        .authorization_server(|config| config.realm_parameter = Some("club".into()))
        .credential(&format!(
            "paths = [\"/${{club}}/\"]\nvars = {{ club = [{list}] }}\n\
             params = {{ club = \"${{club}}\" }}\nrefresh_token = {{ file = \"seeds/${{club}}\" }}"
        ))
}

async fn servers_for(names: &[String]) -> World {
    let world = clubs(names).start_servers().await;
    std::fs::create_dir(world.dir.path().join("seeds")).unwrap();
    for name in names {
        let seed = world.authorization_server.current_refresh_token_of(name);
        world.write_secret(&format!("seeds/{name}"), &seed);
    }
    world
}

/// Asserts that the file names differ on a file system that ignores case.
#[track_caller]
fn assert_distinct(world: &World) {
    let mut seen = BTreeMap::new();
    for name in files(world).into_keys() {
        if let Some(other) = seen.insert(name.to_lowercase(), name.clone()) {
            panic!("{name} and {other} are one file where case is ignored");
        }
    }
}

/// Uses, restarts and refreshes all slots and asserts that each has its own record.
async fn each_has_its_own(names: &[String]) {
    let mut world = servers_for(names).await;
    world.start_proxy().await;
    for round in 1..=3 {
        world.origin.clear();
        for name in names {
            world.get(&format!("/{name}/")).await.assert_status(200, format!("{name}, {round}"));
        }
        assert_distinct(&world);
        let server = &world.authorization_server;
        assert_eq!(
            server.token_requests(),
            round * names.len(),
            "round {round}: each slot has to make one token request"
        );
        let mut seen = world.tokens_seen();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), names.len(), "each has its own token");
        server.assert_no_reuse();
        world.clock.advance(HOURS);
        world.restart().await;
    }
    let records = files(&world).into_keys().filter(|name| name.ends_with(".json")).count();
    assert_eq!(records, names.len(), "two slots share a record");
}

#[tokio::test]
async fn values_that_differ_in_case_alone_have_records_of_their_own() {
    each_has_its_own(&["Paris", "paris", "PARIS"].map(str::to_owned)).await;
}

/// The escaped form of a name must differ from every other name.
#[tokio::test]
async fn values_that_look_like_the_escaped_form_of_others_are_not_mistaken_for_them() {
    let names = ["Ab", "aB", "ab", "+ab", "~ab", "=ab", "_ab", "-ab", "a_b", "ab.lock", "ab.json"];
    each_has_its_own(&names.map(str::to_owned)).await;
}

/// Values of the greatest length, in letters that escaping makes longer.
#[tokio::test]
async fn the_longest_values_have_records_of_their_own() {
    let long = ["N", "n"].map(|letter| letter.repeat(63));
    let names = long.iter().flat_map(|long| [format!("{long}1"), format!("{long}2")]);
    each_has_its_own(&names.collect::<Vec<_>>()).await;
}

/// SHA-256 of `a-seed-of-long-ago`.
const SEED: &str = "629498943a6e4dbd8c65df63cd7d41b679e1601bcdc921135c7a7af52e08698b";

/// Older versions stored the record of `Paris` under that name.
#[tokio::test]
async fn a_record_under_its_older_file_name_is_still_found() {
    let names = ["Paris", "paris"].map(str::to_owned);
    let mut world = servers_for(&names).await;
    let server = &world.authorization_server;
    let refresh_token = server.current_refresh_token_of("Paris");
    let record =
        format!(r#"{{"generation": 7, "refresh_token": "{refresh_token}", "seeds": ["{SEED}"]}}"#);
    std::fs::DirBuilder::new().mode(0o700).create(world.state()).unwrap();
    let record = String::from_utf8(super::migration::envelope(2, &record)).unwrap();
    world.write_secret("state/api@Paris.json", &record);
    // The seed was used up long ago.
    world.write_secret("seeds/Paris", "a-seed-of-long-ago");
    world.start_proxy().await;
    for name in &names {
        world.get(&format!("/{name}/")).await.assert_status(200, name);
    }
    let server = &world.authorization_server;
    assert_eq!(
        presented(server, &refresh_token),
        1,
        "the refresh token in the record of the older name was not used"
    );
    world.clock.advance(HOURS);
    world.restart().await;
    for name in &names {
        world.get(&format!("/{name}/")).await.assert_status(200, name);
    }
    world.authorization_server.assert_no_reuse();
}
