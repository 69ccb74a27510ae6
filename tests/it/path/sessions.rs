//! P25, P27, P38, P41 and P42: protocols within a CONNECT, the local CA, and access to the admin listener.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Version};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;

use crate::connect::{client_config, connect, handshake};
use crate::http2::received;
use crate::program::Program;
use crate::texts::{assert_never_says, assert_says};
use crate::wire::{Wire, ask, message, within};
use crate::world::World;

#[tokio::test]
async fn p25_http2_without_tls_is_served_after_a_connect() {
    let world = World::plain().settled().await;
    let (client, _) = connect(&world, world.origin.authority()).await;
    let (sender, connection) = within(h2::client::handshake(client.stream)).await.unwrap();
    tokio::spawn(connection);
    for method in [Method::GET, Method::POST] {
        world.origin.clear();
        let request = Request::builder()
            .method(&method)
            .uri(world.http("/echo"))
            .version(Version::HTTP_2)
            .body(())
            .unwrap();
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, mut content) = sender.send_request(request, false).unwrap();
        content.send_data(Bytes::from_static(b"content"), true).unwrap();
        received(within(response).await.unwrap()).await.assert_ok();
        assert_eq!(
            world.origin.requests()[0].accepted,
            Some(true),
            "{method} was sent without a token"
        );
    }
}

#[tokio::test]
async fn p25_what_only_begins_like_http2_is_http1() {
    let world = World::plain().settled().await;
    let (mut client, _) = connect(&world, world.origin.authority()).await;
    client.send("P").await;
    let host = world.origin.authority();
    client.send(format!("UT /echo HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")).await;
    client.reply_head().await.assert_ok();
}

/// Returns a TLS 1.2 client that supports only RSA server keys.
fn rsa_only(world: &World) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = world.app().ca().unwrap();
    roots.add(ca.der(std::time::SystemTime::now()).to_vec().into()).unwrap();
    let mut provider = (*bearerd::tls::provider()).clone();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn p27_a_client_that_knows_only_rsa_is_served() {
    let world = World::new().await;
    let (client, _) = connect(&world, world.origin.authority()).await;
    let session = handshake(client.stream, rsa_only(&world), "localhost").await.unwrap();
    let mut wire = Wire::over(session);
    let host = format!("Host: {}", world.origin.authority());
    wire.ask(&["GET / HTTP/1.1", &*host]).await.assert_ok();
}

#[tokio::test]
async fn each_failed_handshake_is_logged_with_its_host_and_what_to_do() {
    let world = World::new().await;
    let program = Program::start(&world).await;
    let target = world.origin.authority();
    let lines = [format!("CONNECT {target} HTTP/1.1"), format!("Host: {target}")];
    let open = async || {
        let mut wire = Wire::to_address(program.proxy).await;
        wire.ask_head(&lines).await.assert_ok();
        wire
    };
    // This client trusts no CA.
    let untrusting = client_config(RootCertStore::empty());
    handshake(open().await.stream, untrusting, "localhost").await.unwrap_err();
    let line = program.logs("reason=\"untrusted\"").await;
    assert_says("the log line", &line, ["host=localhost", "bearerd ca show"]);
    // This client disconnects.
    let mut gone = open().await;
    gone.stream.write_all(&[0x16, 3, 1]).await.unwrap();
    drop(gone);
    program.logs("reason=\"went_away\"").await;
    // This client does not speak TLS.
    let mut other = open().await;
    other.send([0x16, 9, 9, 0, 5, 1, 2, 3, 4, 5]).await;
    program.logs("reason=\"not_tls\"").await;
    program.stop().await;
}

#[tokio::test]
async fn p38_details_are_not_shown_under_a_foreign_host_name_or_through_a_proxy() {
    let world = World::settled().await;
    let admin = world.app().admin_address().unwrap();
    for path in ["/readyz", "/api/v1/credentials", "//readyz", "/readyz/", "/api/v1/../../readyz"] {
        for fields in [&["Host: attacker.example"][..], &["Host: localhost", "Via: 1.1 squid"]] {
            for method in ["GET", "HEAD"] {
                let line = format!("{method} {path} HTTP/1.1");
                let request = [&[&*line], fields].concat();
                let mut wire = Wire::to_address(admin).await;
                wire.send(message(&request) + "").await;
                wire.stream.shutdown().await.unwrap();
                let answer = String::from_utf8(wire.rest().await).unwrap();
                assert_never_says(
                    &format!("{request:?}: the answer"),
                    &answer,
                    ["\"api\"", "fresh"],
                );
            }
        }
    }
    let mut wire = Wire::to_address(admin).await;
    let answer = wire.ask(&["GET /readyz HTTP/1.1", "Host: attacker.example"]).await;
    assert_eq!(
        (answer.status, answer.text().trim()),
        (200, "{\"status\":\"ok\"}"),
        "a page of another host received more than the readiness"
    );
}

#[tokio::test]
async fn p41_an_expired_ca_stops_sessions_alone_and_says_what_to_do() {
    let world = World::settled().await;
    world.clock.advance(Duration::from_secs(340 * 24 * 3600));
    let report = world.ask_admin("/readyz").await.text();
    assert_says("the report", &report, ["degraded", "bearerd ca renew"]);
    let metrics = world.ask_admin("/metrics").await.text();
    assert_says("the metrics", &metrics, ["bearerd_ca_expires_in_seconds "]);
    world.clock.advance(Duration::from_secs(30 * 24 * 3600));
    let target = world.origin.authority();
    let lines = [format!("CONNECT {target} HTTP/1.1"), format!("Host: {target}")];
    let refused = ask(&world, &lines).await;
    assert_eq!(refused.status, 502, "an expired CA is not reported as 502");
    assert_says("the answer", refused.text(), ["bearerd ca renew"]);
    world.get("/").await.assert_ok();
}

#[tokio::test]
async fn p42_method_and_url_override_fields_are_removed_where_they_could_bypass_a_credential() {
    for (lines, expected) in [
        ("methods = [\"GET\", \"POST\"]", None),
        ("paths = [\"/v2/\"]", None),
        ("methods = [\"GET\"]\nallow_overrides = true", Some("DELETE")),
        ("", Some("DELETE")),
    ] {
        let world = World::builder().credential(lines).start().await;
        let line = format!("GET {} HTTP/1.1", world.http("/v2/x"));
        let fields =
            ["X-HTTP-Method-Override: DELETE", "X-Original-URL: /v1/", "X-Rewrite-URL: /v1/"];
        let request = [&[&*line, "Host: x"], &fields[..]].concat();
        ask(&world, &request).await.assert_ok();
        let seen = &world.origin.requests()[0];
        assert_eq!(
            seen.header("x-http-method-override"),
            expected,
            "{lines}: unexpected method override at the API"
        );
        assert_eq!(
            seen.header("x-original-url").is_some(),
            expected.is_some(),
            "{lines}: unexpected URL override at the API"
        );
    }
}
