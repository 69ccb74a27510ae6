//! Client certificates towards the API: with `bind` only requests with the token show the certificate.
//!
//! That the token endpoint sees it either way is shown where token requests travel.

use std::collections::HashMap;
use std::sync::Arc;

use bearerd_test_support::{ClientCertificate, Protocols, TestCa};

use super::http2::{self, Client};
use super::wire::{Wire, get, within};
use super::world::{World, WorldBuilder};

const BOUND: &str = r#"client_cert = { cert = "client.pem", key = "client.key", bind = true }"#;

/// An API that requests certificates of `clients`; if `required`, it refuses connections without one.
fn asking(clients: &Arc<TestCa>, required: bool) -> WorldBuilder {
    let clients = Arc::clone(clients);
    World::builder()
        .certificate(move |ca| ca.server_config_asking(&["localhost"], &clients, required))
}

/// Starts everything with this certificate in the files that the configuration names.
async fn started(builder: WorldBuilder, certificate: &ClientCertificate) -> World {
    let mut world = builder.start_servers().await;
    write(&world, "client", certificate);
    world.start_proxy().await;
    world
}

fn write(world: &World, name: &str, certificate: &ClientCertificate) {
    world.write_secret(&format!("{name}.pem"), &certificate.pem);
    world.write_secret(&format!("{name}.key"), &certificate.key_pem);
}

/// One connection of an application.
enum Application {
    Http1(Wire),
    Http2(Client),
}

impl Application {
    async fn connect(world: &World, is_http2: bool) -> Self {
        match is_http2 {
            true => Self::Http2(Client::open(world).await),
            false => Self::Http1(Wire::to(world).await),
        }
    }

    async fn get(&mut self, world: &World, path: &str) -> u16 {
        match self {
            Self::Http1(wire) => wire.ask(&get(&world.http(path))).await.status,
            Self::Http2(client) => client.ask(http2::get(&world.https(path))).await.status,
        }
    }
}

/// What the applications and the API may speak.
const PAIRINGS: [(bool, Protocols); 5] = [
    (false, Protocols::Http1),
    (false, Protocols::Http2),
    (true, Protocols::Http1),
    (true, Protocols::Both),
    (true, Protocols::Http2),
];

#[tokio::test]
async fn with_bind_the_api_sees_the_certificate_and_the_token() {
    let clients = Arc::new(TestCa::new());
    let certificate = clients.client_certificate("client.test");
    for (is_http2, protocols) in PAIRINGS {
        let builder = asking(&clients, true).credential(BOUND);
        let builder = builder.origin(|config| config.protocols = protocols);
        let world = started(builder, &certificate).await;
        let mut application = Application::connect(&world, is_http2).await;
        let status = application.get(&world, "/").await;
        assert_eq!(status, 200, "the API did not accept the certificate and the token");
        // A rejection is absorbed in the same way.
        world.clock.advance(super::world::MINUTE);
        world.authorization_server.tokens().revoke_all_access_tokens();
        let status = application.get(&world, "/").await;
        assert_eq!(status, 200, "the API did not accept the certificate and the token");
        let requests = world.origin.requests();
        assert_eq!(requests.len(), 3, "the rejected request was not sent again once");
        for request in requests {
            assert_eq!(
                request.client_certificate.as_ref(),
                Some(&certificate.der),
                "the API was shown no certificate, or another one"
            );
            assert!(request.bearer().is_some(), "a request has no token");
        }
    }
}

#[tokio::test]
async fn without_bind_the_api_sees_the_token_and_no_certificate() {
    let clients = Arc::new(TestCa::new());
    let certificate = clients.client_certificate("client.test");
    for line in [BOUND.replace("true", "false"), BOUND.replace(", bind = true", "")] {
        let world = started(asking(&clients, false).credential(&line), &certificate).await;
        world.get("/").await.assert_ok();
        let [request] = world.origin.requests().try_into().unwrap();
        assert_eq!(
            request.client_certificate, None,
            "a certificate was shown although `bind` is off"
        );
        assert!(request.bearer().is_some(), "the request has no token");
        // If the API requires a certificate, there is no connection.
        let world = started(asking(&clients, true).credential(&line), &certificate).await;
        world
            .get("/")
            .await
            .assert_status(502, "an API that insists on a certificate is not reported as 502");
        world
            .origin
            .assert_requests(0, "an API that insists on a certificate got a request without one");
    }
}

/// Two credentials with certificates, one that shows its own to the token endpoint alone, and paths
/// that no credential is for: all on one host, and all from one connection of an application.
#[tokio::test]
async fn connections_of_different_certificates_are_never_mixed() {
    let clients = Arc::new(TestCa::new());
    let one = clients.client_certificate("one.test");
    let two = clients.client_certificate("two.test");
    let section = |name: &str, cert: &str, bind: bool| {
        format!(
            "[credential.{name}]\nhosts = [\"@host@\"]\npaths = [\"/{name}/\"]\n\
             token_url = \"@token_url@\"\nclient_id = \"test-client\"\n\
             client_secret = {{ file = \"secret\" }}\ngrant = \"client_credentials\"\n\
             client_cert = {{ cert = \"{cert}.pem\", key = \"{cert}.key\", bind = {bind} }}\n"
        )
    };
    let sections = section("two", "two", true)
        + &section("same", "client", true)
        + &section("plain", "client", false);
    let expected = HashMap::from([
        ("/one/", Some(&one.der)),
        ("/two/", Some(&two.der)),
        ("/same/", Some(&one.der)),
        ("/plain/", None),
        ("/nobody/", None),
    ]);
    let order = ["/plain/", "/one/", "/nobody/", "/two/", "/one/", "/plain/", "/same/", "/two/"];
    for (is_http2, protocols) in PAIRINGS {
        let mut world = asking(&clients, false)
            .credential(&format!("{BOUND}\npaths = [\"/one/\"]"))
            .sections(&sections)
            .origin(|config| config.protocols = protocols)
            .start_servers()
            .await;
        write(&world, "client", &one);
        write(&world, "two", &two);
        world.start_proxy().await;
        let mut application = Application::connect(&world, is_http2).await;
        for path in order.iter().chain(order.iter().rev()) {
            let status = if *path == "/nobody/" { 401 } else { 200 };
            assert_eq!(
                application.get(&world, path).await,
                status,
                "{path}: the request was answered with another status"
            );
        }
        let requests = world.origin.requests();
        assert_eq!(requests.len(), 2 * order.len(), "a request was lost or sent twice");
        let mut owners = HashMap::new();
        for request in requests {
            let path = ["/one/", "/two/", "/same/", "/plain/", "/nobody/"]
                .into_iter()
                .find(|path| request.target.ends_with(path))
                .unwrap();
            assert_eq!(
                request.client_certificate.as_ref(),
                expected[path],
                "{path}: the API was shown no certificate, or another one"
            );
            let owner = if expected[path].is_some() { path } else { "nobody" };
            let first = owners.entry(request.connection).or_insert(owner);
            assert_eq!(
                *first, owner,
                "{protocols:?}: a connection was shared by requests with different certificates"
            );
        }
        // Each connection is used again by the same credential.
        assert_eq!(
            (owners.len(), world.origin.connections()),
            (4, 4),
            "{protocols:?}: (owners, connections): the connections were not used again by their own"
        );
    }
}

#[tokio::test]
async fn requests_with_the_applications_own_token_show_no_client_certificate() {
    let clients = Arc::new(TestCa::new());
    let certificate = clients.client_certificate("client.test");
    let lines = format!("{BOUND}\non_existing = \"keep\"");
    let world = started(asking(&clients, false).credential(&lines), &certificate).await;
    let mut wire = Wire::to(&world).await;
    let url = world.http("/");
    wire.ask(&get(&url)).await.assert_ok();
    let own = [format!("GET {url} HTTP/1.1"), "Host: x".into(), "Authorization: Bearer own".into()];
    wire.ask(&own).await.assert_status(401, "the client's own token did not reach the API");
    let [first, second] = world.origin.requests().try_into().unwrap();
    assert_eq!(
        first.client_certificate.as_ref(),
        Some(&certificate.der),
        "the request with the credential's token showed no certificate"
    );
    assert_eq!(
        (second.bearer(), second.client_certificate.as_ref()),
        (Some("own"), None),
        "(token, certificate): the client's own token went with the credential's certificate"
    );
}

#[tokio::test]
async fn a_request_that_gets_no_token_shows_no_certificate() {
    let clients = Arc::new(TestCa::new());
    let certificate = clients.client_certificate("client.test");
    let lines = format!("{BOUND}\non_failure = \"forward\"");
    let mut world = asking(&clients, false).credential(&lines).start_servers().await;
    world.authorization_server.revoke_refresh_token();
    write(&world, "client", &certificate);
    world.start_proxy().await;
    world.get("/").await.assert_status(401, "a request without a token was not sent on");
    let [request] = world.origin.requests().try_into().unwrap();
    assert_eq!(
        (request.bearer(), request.client_certificate.as_ref()),
        (None, None),
        "(token, certificate): a request without a token showed a certificate"
    );
}

#[tokio::test]
async fn a_reload_with_another_certificate_uses_no_old_connection() {
    let clients = Arc::new(TestCa::new());
    let before = clients.client_certificate("before.test");
    let after = clients.client_certificate("after.test");
    for (is_http2, protocols) in PAIRINGS {
        let builder = asking(&clients, false).credential(BOUND);
        let builder = builder.origin(|config| config.protocols = protocols);
        let mut world = started(builder, &before).await;
        let mut application = Application::connect(&world, is_http2).await;
        let mut last = 0;
        let mut ask = async |world: &World, shown: Option<&ClientCertificate>| {
            world.origin.clear();
            for _ in 0..2 {
                assert_eq!(
                    within(application.get(world, "/")).await,
                    200,
                    "a request was not served"
                );
            }
            let [first, second] = world.origin.requests().try_into().unwrap();
            assert_eq!(
                first.client_certificate.as_ref(),
                shown.map(|shown| &shown.der),
                "the API was shown another certificate than the configured one"
            );
            assert_eq!(
                first.connection, second.connection,
                "a connection was not used again under one configuration"
            );
            assert_ne!(
                first.connection,
                std::mem::replace(&mut last, first.connection),
                "a connection of the configuration before was used"
            );
        };
        ask(&world, Some(&before)).await;
        write(&world, "client", &after);
        world.reload().await;
        ask(&world, Some(&after)).await;
        world.configure(|text| text.replace("bind = true", "bind = false"));
        world.reload().await;
        ask(&world, None).await;
        world.configure(|text| text.replace("bind = false", "bind = true"));
        world.reload().await;
        ask(&world, Some(&after)).await;
    }
}
