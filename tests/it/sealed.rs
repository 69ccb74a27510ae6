//! `[store] key`: records that only the holder of a key can read, in the real program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bearerd::secret::Secret;
use bearerd::store::{Config, EncryptionKey, EncryptionKeys, Generation, TokenRecord, Version};

use super::program::{Program, bearerd, text};
use super::world::{HOURS, World, WorldBuilder};
use crate::texts::{assert_never_says, assert_says};

const KEY: &str = "LAl2wQ9r5n0E1u8kq3vTzYxPb7sGdHjF+oM/iRcVaWE=";
const OTHER_KEY: &str = "T2nZ0Vbq7y1oLkJ9xW4uRcEaGfHs8dMpQi5tYrBvXgA=";

const ENCRYPTED: &str = "[store]\nurl = \"file:state\"\nkey = { file = \"key\" }";

async fn world(builder: WorldBuilder) -> World {
    let world = builder.sections(ENCRYPTED).start_servers().await;
    world.write_secret("key", KEY);
    world
}

fn id(key: &str) -> String {
    parsed(key).id().to_string()
}

fn parsed(key: &str) -> EncryptionKey {
    EncryptionKey::parse(&Secret::new(key.to_owned())).unwrap()
}

/// Every file of the state directory with what is in it.
fn state(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(world.state()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

fn record_text(world: &World) -> String {
    text(&std::fs::read(world.state().join("api.json")).unwrap())
}

/// The record as the holder of `key` alone reads it.
async fn record_under(world: &World, key: &str) -> Option<TokenRecord> {
    let keys = EncryptionKeys { current: Some(parsed(key)), old: Vec::new(), plain: false };
    let store = Config::File { dir: world.state(), keys }.build().unwrap();
    store.load("api").await.ok().flatten().map(|(record, _)| record)
}

#[tokio::test]
async fn stored_records_are_encrypted_and_read_again_after_a_restart() {
    let world = world(World::plain()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    let server = &world.authorization_server;
    let record = record_under(&world, KEY).await.unwrap();
    assert_eq!(
        record.refresh_token.unwrap().expose(),
        server.current_refresh_token(),
        "the encrypted record holds another refresh token"
    );
    for (path, bytes) in state(&world) {
        let content = String::from_utf8_lossy(&bytes);
        for secret in [server.current_refresh_token(), world.tokens_seen()[0].clone()] {
            assert_never_says(&path.display().to_string(), &content, [&secret]);
        }
    }
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(1, "the encrypted token was not used after the restart");
    let log = program.stop().await;
    assert_never_says("the log", &log, [KEY]);
}

/// Another key, and none at all.
#[tokio::test]
async fn a_wrong_key_stops_the_start_and_touches_nothing() {
    let mut world = world(World::plain()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    let before = state(&world);
    world.write_secret("key", OTHER_KEY);
    let without = |text: &str| text.replace("key = { file = \"key\" }", "");
    for remove in [false, true] {
        if remove {
            world.configure_file(without);
        }
        for command in ["run", "check"] {
            let output = bearerd(world.dir.path(), &[command]);
            let said = text(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(78),
                "{command}: the command has another exit code: {said}"
            );
            assert_says("the output", &said, ["state/api.json", &id(KEY)]);
            assert_says("the output", &said, ["store.key", "nothing was changed"]);
            assert_never_says("the output", &said, [KEY, OTHER_KEY]);
        }
        assert_eq!(state(&world), before, "a file of the state directory was changed");
    }
    world
        .authorization_server
        .assert_token_requests(1, "a token was requested although no start succeeded");
}

#[tokio::test]
async fn plain_records_and_records_of_an_old_key_are_read_and_encrypted_by_the_next_commit() {
    let plain = "[store]\nurl = \"file:state\"\n";
    let mut world = World::builder().sections(plain).settled().await;
    assert!(
        record_text(&world).contains("refresh_token"),
        "the record that is to be encrypted is not there in plain text"
    );
    world.write_secret("key", KEY);
    world.write_secret("new-key", OTHER_KEY);
    for (keys, current) in [
        ("key = { file = \"key\" }\nold_keys = [\"plain\"]\n", KEY),
        ("key = { file = \"new-key\" }\nold_keys = [{ file = \"key\" }]\n", OTHER_KEY),
    ] {
        let section = format!("{plain}{keys}");
        world.configure(|text| {
            let (before, rest) = text.split_once(plain).unwrap();
            let (_, after) = rest.split_once("[credential").unwrap();
            format!("{before}{section}\n[credential{after}")
        });
        world.restart().await;
        // The stored token is still valid, and records are encrypted from now on.
        let requests = world.authorization_server.token_requests();
        world.get("/").await.assert_ok();
        assert_eq!(
            world.authorization_server.token_requests(),
            requests,
            "the stored token was not used under the new key"
        );
        assert!(
            !record_text(&world).contains("refresh_token"),
            "the record is still in plain text"
        );
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
        let record = record_under(&world, current).await.unwrap();
        assert!(
            world
                .authorization_server
                .refresh_token_is_current(record.refresh_token.unwrap().expose()),
            "the encrypted record does not hold the newest refresh token"
        );
        assert!(
            !record_text(&world).contains("refresh_token"),
            "the record is in plain text again"
        );
    }
    world.authorization_server.assert_no_reuse();
}

/// Another process with another key has written the record: this one serves its token until it expires.
#[tokio::test]
async fn a_record_encrypted_with_another_key_is_never_overwritten() {
    let mut world = world(World::builder()).await;
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    let elsewhere = tempfile::tempdir().unwrap();
    let keys = EncryptionKeys { current: Some(parsed(OTHER_KEY)), old: Vec::new(), plain: false };
    let store = Config::File { dir: elsewhere.path().to_owned(), keys }.build().unwrap();
    let record = TokenRecord { generation: Generation(9), ..TokenRecord::default() };
    store.put("api", Version::ABSENT, None, &record).await.unwrap();
    std::fs::rename(elsewhere.path().join("api.json"), world.state().join("api.json")).unwrap();
    let before = state(&world);
    world.get("/").await.assert_ok();
    world.clock.advance(HOURS);
    let status = world.get("/").await.status;
    assert_eq!(status, 503, "a request was served although the record cannot be decrypted");
    let (_, error) = world.status().last_error.unwrap();
    assert_says("the error", &error, [&id(OTHER_KEY), "api.json"]);
    assert_eq!(state(&world), before, "a file of the state directory was changed");
    world
        .authorization_server
        .assert_token_requests(1, "a token was requested although the record cannot be decrypted");
}
