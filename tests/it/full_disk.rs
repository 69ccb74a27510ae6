//! A disk that is really full: the state directory of the real program is a tmpfs of some pages.
//!
//! It is mounted in a mount namespace of its own, which needs no privileges where users may make user
//! namespaces. Where they may not, the tests say so and show nothing; in CI (`CI=true`) they fail.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bearerd_test_support::AuthorizationServer;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::program::Program;
use super::wire::{Reply, Wire, within};
use super::world::{World, WorldBuilder, eventually};

const PAGE: usize = 4096;
/// Pages of the disk. A record takes one or a few.
const PAGES: usize = 24;
/// Files that the disk can hold, including its root directory.
const FILES: usize = 32;

/// A tmpfs, and the process that keeps its namespace while bearerd is started and stopped.
struct Disk {
    holder: Child,
    /// As this process reaches it.
    path: PathBuf,
    with_user: bool,
}

impl Disk {
    /// Mounts it on `at`, where only those who enter the namespace see it.
    fn mount(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        for with_user in [true, false] {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user"].iter().filter(|_| with_user));
            let script = "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && echo mounted && exec cat";
            command.args(["--mount", "sh", "-c", script]).arg(at).arg(options);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut holder) = command.spawn() else { continue };
            let mut said = String::new();
            let _end = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said);
            if said == "mounted\n" {
                let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
                let path = root.join(at.strip_prefix("/").unwrap());
                return Some(Self { holder, path, with_user });
            }
            let _gone = holder.kill();
            let _reaped = holder.wait();
        }
        None
    }

    /// A command that sees the disk.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount"]);
        command.args(["--user", "--preserve-credentials"].iter().filter(|_| self.with_user));
        command.arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Creates files until no inode is left.
    fn take_all_names(&self) {
        let make =
            |number: usize| std::fs::File::create(self.path.join(format!("filler-{number}")));
        let refused = (0..2 * FILES).find_map(|number| make(number).err()).unwrap();
        assert_eq!(
            refused.kind(),
            ErrorKind::StorageFull,
            "files could not be made for another reason than that the disk is full"
        );
    }

    /// Starts bearerd where it sees the disk.
    async fn start(&self, world: &World) -> Program {
        let mut command = self.command(env!("CARGO_BIN_EXE_bearerd"));
        command.args(["run", "--config"]).arg(world.dir.path().join("proxy.toml"));
        for variable in ["BEARERD_CONFIG", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "RUST_LOG"] {
            command.env_remove(variable);
        }
        Program::start_by(command).await
    }

    /// Takes all the room that is left but `free` pages.
    fn fill(&self, name: &str, free: usize) {
        let mut file = std::fs::File::create(self.path.join(name)).unwrap();
        let mut pages = 0;
        loop {
            match file.write_all(&[0; PAGE]) {
                Ok(()) => pages += 1,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(pages > free, "there were {pages} pages");
        file.set_len(((pages - free) * PAGE) as u64).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.path.join("filler")).unwrap();
    }

    fn record(&self) -> Value {
        let text = std::fs::read(self.path.join("api.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["record"].clone()
    }

    /// The names of its files, but for the one that fills it.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "filler").collect();
        names.sort();
        names
    }

    /// Waits until the record holds the newest refresh token, as this generation.
    async fn saves(&self, generation: u64, server: &AuthorizationServer) {
        eventually("the record is written", || self.record()["generation"] == generation).await;
        let record = self.record();
        assert_eq!(
            record["refresh_token"],
            server.current_refresh_token(),
            "the newest refresh token is not in the record"
        );
        assert_eq!(
            (&record["attempt"], &record["terminal"]),
            (&Value::Null, &Value::Null),
            "(attempt, terminal): the record is not that of a finished refresh"
        );
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = self.holder.kill();
        let _reaped = self.holder.wait();
    }
}

/// Servers, a configuration whose state is on a small disk, and the disk.
async fn world_on_a_small_disk(builder: WorldBuilder) -> Option<(World, Disk)> {
    let mut world = builder.start_servers().await;
    std::fs::write(world.dir.path().join("admin"), "adm1n").unwrap();
    world.configure_file(|text| {
        let listen = "[admin]\nlisten = \"127.0.0.1:0\"";
        text.replace(listen, &format!("{listen}\ntoken = {{ file = \"admin\" }}"))
    });
    let options = format!("size={},nr_inodes={FILES},mode=0700", PAGES * PAGE);
    let disk = Disk::mount(&world.state(), &options);
    if disk.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no namespaces in CI");
        let _nobody = writeln!(
            std::io::stderr(),
            "no mount namespace can be made here: nothing was shown of a full disk"
        );
    }
    Some((world, disk?))
}

/// Forces a refresh through the admin listener.
async fn force(admin: SocketAddr) -> Reply {
    let lines = [
        "POST /api/v1/credentials/api/refresh HTTP/1.1",
        "Host: localhost",
        "Authorization: Bearer adm1n",
        "Content-Length: 0",
    ];
    Wire::to_address(admin).await.ask(&lines).await
}

/// The same, with a server that has received the token request and keeps it until `release_all`.
async fn begin_to_force(program: &Program, server: &AuthorizationServer) -> JoinHandle<Reply> {
    let before = server.token_requests();
    server.hold();
    let asking = tokio::spawn(force(program.admin));
    within(server.wait_for_token_requests(before + 1)).await;
    asking
}

async fn ask(program: &Program, path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1");
    let reply = Wire::to_address(program.admin).await.ask(&[&*request, "Host: localhost"]).await;
    reply.assert_ok();
    serde_json::from_slice(&reply.content).unwrap()
}

async fn assert_unsaved(program: &Program, unsaved: bool) {
    let ready = ask(program, "/readyz").await;
    let credential = &ready["credentials"][0];
    assert_eq!(
        credential["unsaved"] == true,
        unsaved,
        "the probe does not tell whether the token is unsaved: {ready}"
    );
    assert_eq!(
        ready["status"] == "degraded",
        unsaved,
        "the probe does not tell whether something is wrong: {ready}"
    );
    assert_eq!(
        credential["next"].as_str().is_some_and(|next| next.contains("writable")),
        unsaved,
        "the probe does not tell what to do: {ready}"
    );
}

/// Row 26: the disk fills up during a token request, and later tokens are only in memory.
#[tokio::test]
async fn with_a_full_disk_tokens_are_served_from_memory_and_written_when_there_is_room() {
    let Some((world, disk)) = world_on_a_small_disk(World::plain()).await else { return };
    let server = &world.authorization_server;
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    disk.saves(1, server).await;

    let asking = begin_to_force(&program, server).await;
    disk.fill("filler", 0);
    server.release_all();
    asking.await.unwrap().assert_ok();
    program.get(&world.http("/")).await.assert_ok();
    assert_unsaved(&program, true).await;
    // The old record is whole and has an open attempt.
    let record = disk.record();
    assert_eq!(
        (&record["generation"], record["attempt"].is_null()),
        (&json!(1), false),
        "the old record is not whole, or does not say that a refresh was begun"
    );

    // After a rejection there is no usable token left, so the next one is requested.
    server.tokens().revoke_all_access_tokens();
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(3, "the rejected token has to cost one token request");
    server.assert_no_reuse();
    assert_unsaved(&program, true).await;
    assert_eq!(disk.record()["generation"], 1, "something was written to the full disk");
    assert_eq!(
        disk.files(),
        ["api+commit.lock", "api.json", "api.lock"],
        "a failed write has left a file"
    );

    disk.empty();
    disk.saves(3, server).await;
    // The probe follows right after the write.
    let said = async {
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(5));
        while ask(&program, "/readyz").await["status"] != "ok" {
            pause.tick().await;
        }
    };
    within(said).await;
    assert_unsaved(&program, false).await;
    server.assert_token_requests(3, "writing it needed a token request");

    program.kill().await;
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    force(program.admin).await.assert_ok();
    program.get(&world.http("/")).await.assert_ok();
    disk.saves(4, server).await;
    server.assert_token_requests(4, "the operator's refresh has to cost one token request");
    server.assert_no_reuse();
}

/// I3.
#[tokio::test]
async fn with_a_full_disk_and_a_token_to_use_no_refresh_is_begun() {
    let Some((world, disk)) = world_on_a_small_disk(World::plain()).await else { return };
    let server = &world.authorization_server;
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    let before = disk.record();
    disk.fill("filler", 0);
    force(program.admin).await.assert_status(503, "a refresh was promised that cannot be saved");
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(1, "a refresh was begun that cannot be saved");
    assert_eq!(disk.record(), before, "the record was changed although no refresh was begun");
    disk.empty();
    // After the backoff that follows a failure.
    let forced = async {
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(50));
        while force(program.admin).await.status != 200 {
            pause.tick().await;
        }
    };
    within(forced).await;
    disk.saves(2, server).await;
    server.assert_token_requests(2, "the refresh that succeeded has to cost one token request");
    server.assert_no_reuse();
}

/// Neither the first start nor one after a crash may fail because of a full disk.
#[tokio::test]
async fn started_on_a_full_disk_it_serves_and_saves_later() {
    let Some((world, disk)) = world_on_a_small_disk(World::plain()).await else { return };
    let server = &world.authorization_server;
    disk.fill("filler", 0);
    let program = disk.start(&world).await;
    for _ in 0..3 {
        program.get(&world.http("/")).await.assert_ok();
    }
    server
        .assert_token_requests(1, "requests on a full disk have cost more than one token request");
    assert_unsaved(&program, true).await;
    disk.empty();
    eventually("there is a record", || disk.files().contains(&"api.json".to_owned())).await;
    disk.saves(1, server).await;

    disk.fill("filler", 0);
    program.kill().await;
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(1, "the stored token was good");
    assert_unsaved(&program, false).await;
    // The access token is revoked, but the refresh token is still the newest.
    server.tokens().revoke_all_access_tokens();
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(2, "the rejected token has to cost one token request");
    server.assert_no_reuse();
    disk.empty();
    disk.saves(2, server).await;
}

/// No file can be created, which the start tries, but existing files can be read.
#[tokio::test]
async fn started_where_no_file_can_be_made_it_serves_the_stored_token() {
    let Some((world, disk)) = world_on_a_small_disk(World::plain()).await else { return };
    let server = &world.authorization_server;
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    disk.saves(1, server).await;
    program.kill().await;
    disk.take_all_names();
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(1, "the stored token was not used where no file can be made");
}

/// Row 22: the record is longer than the free space.
#[tokio::test]
async fn a_write_that_the_disk_tears_leaves_the_old_record_and_nothing_else() {
    let long = World::plain()
        .authorization_server(|config| {
            config.extra.insert("note".to_owned(), "n".repeat(2 * PAGE).into());
        })
        .credential(
            r#"inject = { Authorization = "Bearer ${access_token}", X-Note = "${raw.note}" }"#,
        );
    let Some((world, disk)) = world_on_a_small_disk(long).await else { return };
    let server = &world.authorization_server;
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    disk.saves(1, server).await;

    let asking = begin_to_force(&program, server).await;
    disk.fill("filler", 1);
    server.release_all();
    asking.await.unwrap().assert_ok();
    assert_unsaved(&program, true).await;
    assert_eq!(disk.record()["generation"], 1, "something was written to the full disk");
    assert_eq!(
        disk.files(),
        ["api+commit.lock", "api.json", "api.lock"],
        "a failed write has left a file"
    );
    disk.empty();
    disk.saves(2, server).await;

    // After a kill during a write the temporary file takes all the space until the next commit.
    program.kill().await;
    disk.fill(".api.json.Ab12Cd.tmp", 0);
    let program = disk.start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    force(program.admin).await.assert_ok();
    disk.saves(3, server).await;
    assert_eq!(
        disk.files(),
        ["api+commit.lock", "api.json", "api.lock"],
        "what a crash has left was not removed"
    );
    server.assert_token_requests(3, "the operator's refresh has to cost one token request");
    server.assert_no_reuse();
}
