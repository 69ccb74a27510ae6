//! What operators do and see: the admin listener, and the files of the state directory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bearerd_test_support::{AuthorizationServer, TokenRequest};
use serde_json::Value;

use super::super::wire::{Reply, Wire};
use super::super::world::World;
use crate::texts::assert_says;

/// Time within which a record is on the disk again: the store is polled every two seconds, and the
/// machine may be busy.
pub(super) const WRITTEN_BACK: Duration = Duration::from_secs(3);

/// Configures an admin token; it takes effect with the next start.
pub(super) fn add_admin_token(world: &mut World) {
    world.write_secret("admin", "adm1n");
    world.configure_file(|text| {
        let listen = "[admin]\nlisten = \"127.0.0.1:0\"";
        assert_says("the answer", text, [listen]);
        text.replace(listen, &format!("{listen}\ntoken = {{ file = \"admin\" }}"))
    });
}

/// `POST /api/v1/credentials/NAME/ACTION`.
pub(super) async fn change(admin: SocketAddr, credential: &str, action: &str) -> Reply {
    let post = format!("POST /api/v1/credentials/{credential}/{action} HTTP/1.1");
    let lines = [&*post, "Host: localhost", "Authorization: Bearer adm1n", "Content-Length: 0"];
    Wire::to_address(admin).await.ask(&lines).await
}

/// Forces a refresh of `api` through the admin listener.
pub(super) async fn force(admin: SocketAddr) -> Reply {
    change(admin, "api", "refresh").await
}

async fn ask(admin: SocketAddr, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1");
    Wire::to_address(admin).await.ask(&[&*request, "Host: localhost"]).await
}

async fn json(admin: SocketAddr, path: &str) -> Value {
    let reply = ask(admin, path).await;
    reply.assert_status(200, path);
    serde_json::from_slice(&reply.content).unwrap()
}

/// The first credential, as operators see it.
pub(super) async fn described(admin: SocketAddr) -> Value {
    json(admin, "/api/v1/credentials").await["credentials"][0].clone()
}

/// The answer of `/readyz`.
pub(super) async fn readiness(admin: SocketAddr) -> Value {
    json(admin, "/readyz").await
}

/// The value of a series of credential `api`.
pub(super) async fn metric(admin: SocketAddr, name: &str) -> Option<f64> {
    let text = ask(admin, "/metrics").await.text();
    let series = format!("{name}{{credential=\"api\"");
    let line = text.lines().find(|line| line.starts_with(&series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Asserts that the status reports a problem and the next step.
pub(super) async fn assert_says_what_to_do(admin: SocketAddr, case: &str) {
    let described = described(admin).await;
    assert_ne!(
        described["state"], "fresh",
        "{case}: the status says that all is well: {described}"
    );
    assert!(described["next"].is_string(), "{case}: nothing says what to do: {described}");
}

/// Every file of the state directory with what is in it.
pub(super) fn files(world: &World) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(world.state()).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|entry| {
            let content = std::fs::read(entry.path()).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), content)
        })
        .collect()
}

/// The names of the files that hold one of these texts.
pub(super) fn files_with(world: &World, texts: &[String]) -> Vec<String> {
    let holds = |content: &[u8]| {
        let content = String::from_utf8_lossy(content).into_owned();
        texts.iter().any(|text| content.contains(text))
    };
    files(world).into_iter().filter(|(_, content)| holds(content)).map(|(name, _)| name).collect()
}

/// The record if there is a complete one.
pub(super) fn whole_record(world: &World) -> Option<Value> {
    let text = std::fs::read(world.state().join("api.json")).ok()?;
    let file = serde_json::from_slice::<Value>(&text).ok()?;
    file.get("record").cloned()
}

/// How often a refresh token was presented.
pub(super) fn presented(server: &AuthorizationServer, refresh_token: &str) -> usize {
    let is_it = |request: &&TokenRequest| request.param("refresh_token") == Some(refresh_token);
    server.requests().iter().filter(is_it).count()
}

/// Fails as soon as `holds` does not, within this time.
pub(super) async fn stays_true(what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + time;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while tokio::time::Instant::now() < end {
        assert!(holds(), "not any more: {what}");
        pause.tick().await;
    }
}
