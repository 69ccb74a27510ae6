//! E26: plain records beside a `store.key`, both forged ones and those from before the key.

use super::super::program::{Program, bearerd, text};
use super::super::stopwatch::Stopwatch;
use super::super::world::{HOURS, World, WorldBuilder, eventually};
use super::operator::{WRITTEN_BACK, files, files_with, presented, stays_true};
use crate::texts::{assert_never_says, assert_says};

const KEY: &str = "LAl2wQ9r5n0E1u8kq3vTzYxPb7sGdHjF+oM/iRcVaWE=";
const NEW_KEY: &str = "T2nZ0Vbq7y1oLkJ9xW4uRcEaGfHs8dMpQi5tYrBvXgA=";

const PLAIN: &str = "[store]\nurl = \"file:state\"\n#keys\n";
const SEALED: &str = "key = { file = \"key\" }\n";
const SEALED_AND_PLAIN: &str = "key = { file = \"key\" }\nold_keys = [\"plain\"]\n";

/// Servers and the keys in files; the store has none yet.
async fn servers(builder: WorldBuilder) -> World {
    let world = builder.sections(PLAIN).start_servers().await;
    world.write_secret("key", KEY);
    world.write_secret("new-key", NEW_KEY);
    world
}

fn set_keys(world: &mut World, keys: &str) {
    world.configure_file(|text| {
        let (before, rest) = text.split_once("#keys\n").unwrap();
        let (_, after) = rest.split_once("\n[credential").unwrap();
        format!("{before}#keys\n{keys}\n[credential{after}")
    });
}

/// The secrets in the record of `api`.
fn tokens(world: &World) -> [String; 2] {
    let server = &world.authorization_server;
    [server.current_refresh_token(), server.tokens().newest_access_token().unwrap()]
}

/// A forged plain record with a valid access token and an unknown refresh token.
fn forged(world: &World) -> (Vec<u8>, [String; 2]) {
    let access_token = world.authorization_server.tokens().issue_access_token(HOURS);
    let refresh_token = "forged-refresh-token".to_owned();
    let record = format!(
        r#"{{"generation": 9, "access_token": "{access_token}", "refresh_token": "{refresh_token}"}}"#
    );
    (super::migration::envelope(3, &record), [refresh_token, access_token])
}

/// E26: `store.key` is new, and `old_keys` does not accept plain records.
#[tokio::test]
async fn a_plain_record_beside_a_key_stops_the_start_with_the_fix_in_the_error() {
    let mut world = servers(World::plain()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    let before = files(&world);
    set_keys(&mut world, SEALED);
    for command in ["check", "run"] {
        let output = bearerd(world.dir.path(), &[command]);
        let said = text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(78),
            "{command}: the command has another exit code: {said}"
        );
        assert_says(&format!("{command}: the output"), &said, ["api.json"]);
        assert_says(&format!("{command}: the output"), &said, ["old_keys = [\"plain\"]"]);
        for token in tokens(&world) {
            assert_never_says("the output", &said, [&token]);
        }
    }
    assert_eq!(files(&world), before, "something was changed");
    world
        .authorization_server
        .assert_token_requests(1, "a token was requested although no start succeeded");
}

/// E26: if `old_keys` accepts plain records, the start encrypts them without waiting for a request.
#[tokio::test]
async fn plain_records_are_encrypted_at_start() {
    let mut world = servers(World::plain()).await;
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    let tokens = tokens(&world);
    assert_eq!(
        files_with(&world, &tokens),
        ["api.json"],
        "the record that is to be encrypted is not there in plain text"
    );
    set_keys(&mut world, SEALED_AND_PLAIN);
    let program = Program::start(&world).await;
    let began = Stopwatch::start();
    eventually("it is sealed", || files_with(&world, &tokens).is_empty()).await;
    assert!(began.elapsed() <= WRITTEN_BACK, "it took too long: {:?}", began.elapsed());
    world
        .authorization_server
        .assert_token_requests(1, "encrypting the record has cost a token request");
    program.kill().await;
    // From now on without `"plain"` in `old_keys`.
    set_keys(&mut world, SEALED);
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(1, "the token in the encrypted record was not used");
    program.stop().await;
    assert_eq!(files_with(&world, &tokens), [""; 0], "a token is still on the disk in plain text");
}

/// The start encrypts the records of all slots, including slots without a request since the start.
#[tokio::test]
async fn records_of_all_values_of_a_variable_are_encrypted_at_start() {
    let lines = "paths = [\"/${club}/\"]\nvars = { club = [\"paris\", \"lyon\"] }\n\
                 params = { club = \"${club}\" }\nrefresh_token = { file = \"seed-${club}\" }";
    let builder = World::builder()
        .without_seed()
        .authorization_server(|config| config.realm_parameter = Some("club".into()))
        .credential(lines);
    let mut world = servers(builder).await;
    let mut tokens = Vec::new();
    for club in ["paris", "lyon"] {
        let seed = world.authorization_server.current_refresh_token_of(club);
        world.write_secret(&format!("seed-{club}"), &seed);
    }
    world.start_proxy().await;
    for club in ["paris", "lyon"] {
        world.get(&format!("/{club}/")).await.assert_ok();
        tokens.push(world.authorization_server.current_refresh_token_of(club));
    }
    tokens.extend(world.tokens_seen());
    world.stop().await;
    assert_eq!(
        files_with(&world, &tokens),
        ["api@lyon.json", "api@paris.json"],
        "the records that are to be encrypted are not there in plain text"
    );
    set_keys(&mut world, SEALED_AND_PLAIN);
    world.start_proxy().await;
    eventually("they are sealed", || files_with(&world, &tokens).is_empty()).await;
    for club in ["paris", "lyon"] {
        world.get(&format!("/{club}/")).await.assert_ok();
    }
    world
        .authorization_server
        .assert_token_requests(2, "the tokens in the encrypted records were not used");
}

/// A key change while a record is still plain needs only one start.
#[tokio::test]
async fn plain_records_and_an_old_key_can_be_given_together() {
    let mut world = servers(World::builder()).await;
    set_keys(&mut world, SEALED);
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    world.stop().await;
    let tokens = tokens(&world);
    set_keys(
        &mut world,
        "key = { file = \"new-key\" }\nold_keys = [\"plain\", { file = \"key\" }]\n",
    );
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    world.stop().await;
    set_keys(&mut world, "key = { file = \"new-key\" }\n");
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    world.authorization_server.assert_token_requests(
        2,
        "the change of keys has cost a token request besides that for the expired token",
    );
    assert_eq!(files_with(&world, &tokens), [""; 0], "a token is on the disk in plain text");
}

/// Without a key, `"plain"` in `old_keys` has no effect.
#[tokio::test]
async fn plain_without_a_key_changes_nothing() {
    let mut world = servers(World::plain()).await;
    set_keys(&mut world, "old_keys = [\"plain\"]\n");
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    program.stop().await;
    world.assert_stored(1);
}

/// E26: an attacker who can write the directory puts a token of their own there while bearerd runs, to have
/// calls made in their name. Format 3 is plain text that every version reads.
#[tokio::test]
async fn a_plain_record_forged_while_it_runs_is_never_used() {
    for restarted in [false, true] {
        let mut world = servers(World::builder()).await;
        set_keys(&mut world, SEALED);
        world.start_proxy().await;
        world.get("/").await.assert_ok();
        let [_, own] = tokens(&world);
        let (forged, [refresh_token, access_token]) = forged(&world);
        if restarted {
            world.restart().await;
        }
        std::fs::write(world.state().join("api.json"), &forged).unwrap();
        let unused = || !world.tokens_seen().contains(&access_token);
        stays_true("the forged token is not used", WRITTEN_BACK, unused).await;
        world.origin.clear();
        world.get("/").await.assert_ok();
        assert_eq!(world.tokens_seen(), [own], "another token than bearerd's own was sent");
        world.clock.advance(HOURS);
        let _any = world.get("/").await;
        let server = &world.authorization_server;
        assert_eq!(presented(server, &refresh_token), 0, "the forged refresh token was presented");
        assert!(
            !world.tokens_seen().contains(&access_token),
            "the forged access token was sent to the API"
        );
        server.assert_no_reuse();
        let named = world.status().last_error.is_some_and(|(_, what)| what.contains("plain"));
        let sealed_again = files_with(&world, &[refresh_token]).is_empty();
        assert!(named || sealed_again, "neither refused nor written back");
    }
}

/// The record of another credential, encrypted with the same key, is put in the place of this one.
#[tokio::test]
async fn an_encrypted_record_of_another_credential_is_not_used() {
    let mut world = servers(World::builder()).await;
    set_keys(&mut world, SEALED);
    let (name, other) = ("[credential.api]", "[credential.other]");
    world.configure(|text| text.replace(name, other));
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    world.stop().await;
    let [refresh_token, access_token] = tokens(&world);
    std::fs::rename(world.state().join("other.json"), world.state().join("api.json")).unwrap();
    world.configure_file(|text| text.replace(other, name));
    let output = bearerd(world.dir.path(), &["check"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "the command has another exit code: {said}");
    assert_says("the output", &said, ["api.json"]);
    assert_eq!(
        presented(&world.authorization_server, &refresh_token),
        0,
        "the refresh token of the other credential was presented"
    );
    assert_eq!(
        world.tokens_seen(),
        [access_token],
        "only the request before the mix-up may have reached the API"
    );
}
