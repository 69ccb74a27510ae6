//! Records of formats 2 and 3 (`records/`), as the previous version wrote them, are read and used.
//!
//! They were made with a token endpoint at [`TOKEN_ENDPOINT`], which is part of the hash of the
//! configuration in them. The access token in most of them lives until 2099.

use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bearerd::secret::Fingerprint;
use bearerd::token::Condition;
use bearerd_test_support::{AuthorizationServerConfig, OriginConfig, OriginServer, Rotation};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::super::program::{bearerd, text};
use super::super::wire::Reply;
use super::super::world::{HOURS, World, eventually, get};
use super::operator::{
    WRITTEN_BACK, add_admin_token, described, files_with, force, presented, stays_true,
};

/// A port below the range of ephemeral ports that nothing else uses.
const TOKEN_ENDPOINT: &str = "127.86.13.7:28431";
/// What the records of generation 5 hold.
const ACCESS_TOKEN: &str = "golden-at-5";
const REFRESH_TOKEN: &str = "golden-rt-5";
/// Superseded refresh tokens and the first seed.
const OLD: [&str; 3] = ["golden-rt-4", "golden-rt-3", "golden-seed"];
/// The seed on trial in `displaced`.
const TRIAL: &str = "golden-seed-2";
const KEY: &str = "LAl2wQ9r5n0E1u8kq3vTzYxPb7sGdHjF+oM/iRcVaWE=";

/// A record file of format 2 or 3: the checksum is that of the record's text.
pub(super) fn envelope(format: u32, record: &str) -> Vec<u8> {
    let checksum = Fingerprint::of(record.as_bytes());
    let checksum = checksum.as_str();
    format!("{{\"bearerd\": {format}, \"sha256\": \"{checksum}\", \"record\": {record}}}\n")
        .into_bytes()
}

fn golden(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/engine/records");
    std::fs::read_to_string(dir.join(format!("{name}.json"))).unwrap()
}

/// A world whose state directory holds a record of an older format.
struct Old {
    world: World,
    /// Accepts every token and records it.
    api: OriginServer,
    _alone: MutexGuard<'static, ()>,
}

impl Old {
    /// The server's current refresh token is `current`. `dpop`: tokens are bound to a key.
    async fn servers(record: &str, current: &str, dpop: bool) -> Self {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        // The server of the previous test may still be shutting down.
        eventually("the address is free", || TcpListener::bind(TOKEN_ENDPOINT).is_ok()).await;
        let change = |config: &mut AuthorizationServerConfig| {
            config.listen = Some(TOKEN_ENDPOINT.parse().unwrap());
            config.initial_refresh_token = current.to_owned();
        };
        let builder = if dpop { World::plain().dpop() } else { World::plain() };
        let mut world = builder.authorization_server(change).start_servers().await;
        let api = OriginServer::start(OriginConfig::default()).await;
        let token_url = world.authorization_server.token_url();
        let host = world.origin.authority();
        world.configure_file(|text| {
            text.replace(&token_url, &format!("http://{TOKEN_ENDPOINT}/token"))
                .replace(&host, &api.authority())
        });
        add_admin_token(&mut world);
        world.write_seed(OLD[2]);
        std::fs::DirBuilder::new().mode(0o700).create(world.state()).unwrap();
        world.write_secret("state/api.json", &golden(record));
        Self { world, api, _alone: alone }
    }

    async fn start(record: &str, current: &str) -> Self {
        let mut old = Self::servers(record, current, false).await;
        old.world.start_proxy().await;
        old
    }

    async fn get(&self) -> Reply {
        get(self.world.client().get(self.api.url("/"))).await
    }

    async fn force(&self) -> u16 {
        force(self.world.app().admin_address().unwrap()).await.status
    }

    fn bearers(&self) -> Vec<String> {
        let requests = self.api.requests();
        requests.iter().map(|it| it.bearer().unwrap_or_default().to_owned()).collect()
    }

    fn presented(&self, refresh_token: &str) -> usize {
        presented(&self.world.authorization_server, refresh_token)
    }

    /// Asserts that the newest refresh token is in the record, in the current format.
    #[track_caller]
    fn assert_stored(&self, case: &str) {
        let server = &self.world.authorization_server;
        let text = std::fs::read(self.world.state().join("api.json")).unwrap();
        let file: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            file["record"]["refresh_token"],
            server.current_refresh_token(),
            "{case}: the newest refresh token is not in the record"
        );
        assert_eq!(
            file["record"]["terminal"],
            Value::Null,
            "{case}: the record says that a login is needed"
        );
        assert_eq!(file["bearerd"], 4, "{case}: an older bearerd must not read it");
        assert_eq!(
            server.reuse_count(),
            0,
            "{case}: a refresh token was presented after it had been replaced"
        );
    }
}

/// An ordinary record of each format, and one with every member.
#[tokio::test]
async fn a_token_of_an_older_format_is_used_and_then_refreshed() {
    for record in ["format-2", "format-3", "everything"] {
        let old = Old::start(record, REFRESH_TOKEN).await;
        for _ in 0..3 {
            old.get().await.assert_status(200, record);
        }
        assert_eq!(
            old.bearers(),
            [ACCESS_TOKEN; 3],
            "the stored access token was not used: {record}"
        );
        let server = &old.world.authorization_server;
        server.assert_token_requests(0, record);
        assert_eq!(
            old.world.status().generation.0,
            5,
            "another generation was read from the record: {record}"
        );
        assert_eq!(old.force().await, 200, "the operator's refresh failed: {record}");
        assert_eq!(
            old.presented(REFRESH_TOKEN),
            1,
            "the refresh token was not presented exactly once: {record}"
        );
        old.get().await.assert_status(200, record);
        let newest = server.tokens().newest_access_token().unwrap();
        assert_eq!(
            old.bearers().last(),
            Some(&newest),
            "the new access token was not used: {record}"
        );
        assert!(old.world.status().generation.0 > 5, "the generation did not grow: {record}");
        old.assert_stored(record);
    }
}

/// Superseded refresh tokens and seeds are still known, over the change of formats as well.
#[tokio::test]
async fn superseded_refresh_tokens_in_an_older_format_are_never_presented() {
    for record in ["format-2", "format-3", "everything"] {
        for rewritten in [false, true] {
            let mut old = Old::start(record, REFRESH_TOKEN).await;
            if rewritten {
                assert_eq!(old.force().await, 200, "the operator's refresh failed: {record}");
            }
            for token in OLD {
                old.world.write_seed(token);
                old.world.restart().await;
                old.get().await.assert_status(200, format!("{record}, {token}"));
                assert_eq!(
                    old.presented(token),
                    0,
                    "{record}, {token}: the refresh token was presented"
                );
            }
            assert_eq!(old.force().await, 200, "the operator's refresh failed: {record}");
            old.assert_stored(record);
        }
    }
}

/// A rejection or an expiry in the old record causes a refresh; its other members do not.
#[tokio::test]
async fn a_rejected_or_expired_token_of_an_older_format_is_refreshed() {
    for record in ["rejected", "expired"] {
        let old = Old::start(record, REFRESH_TOKEN).await;
        old.get().await.assert_status(200, record);
        assert_eq!(
            old.presented(REFRESH_TOKEN),
            1,
            "the refresh token was not presented exactly once: {record}"
        );
        let newest = old.world.authorization_server.tokens().newest_access_token().unwrap();
        assert_eq!(
            old.bearers(),
            [newest],
            "the API was sent another token than the new one: {record}"
        );
        old.assert_stored(record);
    }
}

/// A refresh was begun, and the process ended before the answer.
#[tokio::test]
async fn an_open_attempt_in_an_older_format_is_repeated_once() {
    // The server has never seen it.
    let old = Old::start("intent", REFRESH_TOKEN).await;
    old.get().await.assert_ok();
    old.world
        .authorization_server
        .assert_token_requests(1, "the unfinished attempt was not repeated exactly once");
    assert_eq!(
        old.presented(REFRESH_TOKEN),
        1,
        "the refresh token of the unfinished attempt was not presented exactly once"
    );
    old.assert_stored("not consumed");
    drop(old);
    // The refresh token was used, and the answer is lost.
    let old = Old::start("intent", "golden-rt-6").await;
    for _ in 0..3 {
        old.get().await.assert_no_token();
    }
    old.world
        .authorization_server
        .assert_token_requests(1, "the attempt whose answer is lost was not repeated exactly once");
    old.world.assert_needs_login("lost_rotation");
}

/// A new seed had replaced a working grant and had not yet been used.
#[tokio::test]
async fn a_seed_on_trial_in_an_older_format_is_tried_and_falls_back_to_the_displaced_grant() {
    // A seed on trial is the configured one.
    let mut old = Old::servers("displaced", TRIAL, false).await;
    old.world.write_seed(TRIAL);
    old.world.start_proxy().await;
    old.get().await.assert_ok();
    assert_eq!(
        (old.presented(TRIAL), old.presented(REFRESH_TOKEN)),
        (1, 0),
        "(seed on trial, displaced refresh token): the seed that works was not used alone"
    );
    let newest = old.world.authorization_server.tokens().newest_access_token().unwrap();
    assert_eq!(old.bearers(), [newest], "the API was not sent the token that the seed brought");
    old.assert_stored("a good seed");
    drop(old);

    let mut old = Old::start("displaced", REFRESH_TOKEN).await;
    for round in 0..3 {
        old.get().await.assert_status(200, round);
        if round == 1 {
            old.world.write_seed(TRIAL);
            old.world.restart().await;
        }
    }
    assert_eq!(old.presented(TRIAL), 1, "a refused seed is tried once");
    let force = async {
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(50));
        while old.force().await != 200 {
            pause.tick().await;
        }
    };
    super::super::wire::within(force).await;
    assert_eq!(
        old.presented(REFRESH_TOKEN),
        1,
        "the displaced refresh token was not used exactly once"
    );
    old.assert_stored("a refused seed");
}

/// A dead grant stays dead without a request until an operator's refresh or a new seed heals it.
#[tokio::test]
async fn a_dead_grant_in_an_older_format_stays_dead_until_an_operator_acts() {
    for (record, reason) in [("revoked", "revoked"), ("lost-rotation", "lost_rotation")] {
        for by_seed in [false, true] {
            let case = format!("{record}, by seed: {by_seed}");
            let mut old = Old::start(record, REFRESH_TOKEN).await;
            for _ in 0..3 {
                old.get().await.assert_status(503, &case);
                old.world.restart().await;
            }
            let server = &old.world.authorization_server;
            server.assert_token_requests(0, &case);
            let said = described(old.world.app().admin_address().unwrap()).await;
            assert_eq!(
                (&said["state"], &said["reason"]),
                (&json!("needs_login"), &json!(reason)),
                "{case}: the status does not say why a login is needed"
            );
            if by_seed {
                let seed = server.issue_refresh_token();
                old.world.write_seed(&seed);
                old.world.reload().await;
            } else {
                // The server accepts the refresh token after all.
                assert_eq!(old.force().await, 200, "{case}: the operator's refresh failed");
            }
            old.get().await.assert_status(200, &case);
            old.assert_stored(&case);
        }
    }
}

#[tokio::test]
async fn a_logout_in_an_older_format_is_still_in_force() {
    let mut old = Old::start("logged-out", REFRESH_TOKEN).await;
    for seed in [OLD[2], OLD[0]] {
        old.world.write_seed(seed);
        old.world.reload().await;
        old.get().await.assert_status(503, seed);
        old.world.restart().await;
        old.get().await.assert_status(503, seed);
    }
    let server = &old.world.authorization_server;
    server.assert_token_requests(
        0,
        "a token was requested for a credential that had been logged out",
    );
    assert!(
        matches!(old.world.status().condition, Condition::NeedsLogin(_)),
        "the logout was forgotten: {}",
        old.world.status().condition
    );
    let seed = server.issue_refresh_token();
    old.world.write_seed(&seed);
    old.world.reload().await;
    old.get().await.assert_ok();
    old.assert_stored("a new seed");
}

#[tokio::test]
async fn a_bound_refresh_token_of_an_older_format_is_presented_with_its_key() {
    let mut old = Old::servers("dpop", REFRESH_TOKEN, true).await;
    old.world.start_proxy().await;
    old.get().await.assert_ok();
    assert_eq!(
        old.api.requests()[0].bound_token(),
        Some(ACCESS_TOKEN),
        "the stored access token was not sent with a proof"
    );
    assert_eq!(old.force().await, 200, "the operator's refresh failed");
    let request = &old.world.authorization_server.requests()[0];
    assert_eq!(
        request.param("refresh_token"),
        Some(REFRESH_TOKEN),
        "another refresh token was presented"
    );
    let proof = request.headers["dpop"].to_str().unwrap();
    let head = URL_SAFE_NO_PAD.decode(proof.split('.').next().unwrap()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    let public: Value = serde_json::from_str(&golden("dpop-public-key")).unwrap();
    assert_eq!(
        (&head["jwk"]["x"], &head["jwk"]["y"]),
        (&public["x"], &public["y"]),
        "the proof was signed with another key than the stored one"
    );
    old.assert_stored("bound");
}

/// Encrypted with the current key or with an old one.
#[tokio::test]
async fn an_encrypted_record_of_an_older_format_is_decrypted_with_its_key() {
    let tokens = [ACCESS_TOKEN.to_owned(), REFRESH_TOKEN.to_owned()];
    for keys in [
        "key = { file = \"key\" }",
        "key = { file = \"new-key\" }\nold_keys = [{ file = \"key\" }]",
    ] {
        let mut old = Old::servers("sealed", REFRESH_TOKEN, false).await;
        old.world.write_secret("key", KEY);
        old.world.write_secret("new-key", "T2nZ0Vbq7y1oLkJ9xW4uRcEaGfHs8dMpQi5tYrBvXgA=");
        old.world.configure_file(|text| format!("{text}\n[store]\nurl = \"file:state\"\n{keys}\n"));
        old.world.start_proxy().await;
        old.get().await.assert_status(200, keys);
        assert_eq!(old.bearers(), [ACCESS_TOKEN], "{keys}: the stored access token was not used");
        assert_eq!(old.force().await, 200, "{keys}: the operator's refresh failed");
        assert_eq!(
            old.presented(REFRESH_TOKEN),
            1,
            "{keys}: the refresh token was not presented exactly once"
        );
        old.world.restart().await;
        old.get().await.assert_status(200, keys);
        let server = &old.world.authorization_server;
        server.assert_token_requests(1, keys);
        server.assert_no_reuse();
        let newest = server.tokens().newest_access_token().unwrap();
        assert_eq!(
            old.bearers(),
            [ACCESS_TOKEN, &newest],
            "{keys}: the API was sent other tokens than the stored one and the new one"
        );
        let newest = [newest, server.current_refresh_token()];
        assert_eq!(
            files_with(&old.world, &[tokens.as_slice(), &newest].concat()),
            [""; 0],
            "{keys}: a token is on the disk unencrypted"
        );
    }
    // Without its key the record cannot be read and is not changed.
    let old = Old::servers("sealed", REFRESH_TOKEN, false).await;
    let output = bearerd(old.world.dir.path(), &["check"]);
    assert_eq!(
        output.status.code(),
        Some(78),
        "the command has another exit code: {}",
        text(&output.stderr)
    );
    let left = std::fs::read_to_string(old.world.state().join("api.json")).unwrap();
    assert_eq!(left, golden("sealed"), "a record that cannot be decrypted was changed");
}

/// A record of an older format does not count as damaged: it is neither rewritten without need nor moved aside.
#[tokio::test]
async fn a_record_of_an_older_format_is_not_moved_aside_and_survives_a_restart_without_a_request() {
    for record in ["format-2", "format-3", "everything", "displaced", "revoked", "logged-out"] {
        let mut old = Old::start(record, REFRESH_TOKEN).await;
        old.world.restart().await;
        let names = || super::operator::files(&old.world).into_keys();
        let whole =
            || !names().any(|name| name.contains("corrupt")) && old.api.requests().is_empty();
        stays_true(record, WRITTEN_BACK, whole).await;
        let server = &old.world.authorization_server;
        if record != "displaced" {
            server.assert_token_requests(0, record);
        }
    }
}

/// A record of an older format restored over a newer one, like a backup from before an upgrade.
#[tokio::test]
async fn a_record_of_an_older_format_that_is_restored_over_a_newer_one_is_overwritten() {
    let old = Old::start("format-3", REFRESH_TOKEN).await;
    assert_eq!(old.force().await, 200, "the operator's refresh failed");
    let newest = old.world.authorization_server.current_refresh_token();
    std::fs::write(old.world.state().join("api.json"), golden("format-3")).unwrap();
    let is_newest = || {
        super::operator::whole_record(&old.world)
            .is_some_and(|record| record["refresh_token"] == newest.as_str())
    };
    eventually("it is written back", is_newest).await;
    assert_eq!(
        old.force().await,
        200,
        "the operator's refresh failed after the record was written back"
    );
    old.assert_stored("put back");
}

/// The server does not rotate: the same refresh token is in records of both formats.
#[tokio::test]
async fn a_refresh_token_that_is_never_replaced_is_kept_over_the_change_of_formats() {
    let mut old = Old::servers("format-2", REFRESH_TOKEN, false).await;
    old.world.authorization_server.set_rotation(Rotation::Omit);
    old.world.start_proxy().await;
    assert_eq!(old.force().await, 200, "the operator's refresh failed");
    for requests in 2..=3 {
        old.world.clock.advance(HOURS);
        old.world.restart().await;
        old.get().await.assert_ok();
        assert_eq!(
            old.presented(REFRESH_TOKEN),
            requests,
            "the refresh token that never changes was not presented once per refresh"
        );
    }
    old.assert_stored("not rotated");
}
