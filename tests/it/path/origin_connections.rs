//! Resolving, connecting and the TLS handshake with an origin server, and the answers if they fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bearerd_test_support::TestCa;
use futures_util::FutureExt;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::program::Program;
use crate::stopwatch::Stopwatch;
use crate::texts::assert_says;
use crate::wire::{Reply, Wire, ask, get, within};
use crate::world::{World, WorldBuilder};

const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// Allows `CONNECT` to any port for hosts without a credential.
const ANY_PORT: &str = "connect_ports = []";

async fn connect(world: &World, target: &str) -> Reply {
    let line = format!("CONNECT {target} HTTP/1.1");
    Wire::to(world).await.ask_head(&[&*line, &format!("Host: {target}")]).await
}

// ===== Addresses (P24, P37, P39, P43) =====

#[tokio::test]
async fn p37_the_admin_listener_is_not_reached_through_the_proxy() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let port = world.app().admin_address().unwrap().port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"] {
        let reply = ask(&world, &get(&format!("http://{host}:{port}/readyz"))).await;
        reply.is_refusal(403, "destination_ip_prohibited");
        assert_says(&format!("{host}: the answer"), reply.text(), ["bearerd's admin listener"]);
        connect(&world, &format!("{host}:{port}")).await.assert_status(403, host);
    }
}

#[tokio::test]
async fn p39_the_proxys_own_port_is_a_loop_by_every_name() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let port = world.proxy_address().port();
    for host in ["127.0.0.1", "localhost", "a.localhost", "0.0.0.0", "[::]", "[::ffff:0.0.0.0]"] {
        let reply = ask(&world, &get(&format!("http://{host}:{port}/"))).await;
        reply.is_refusal(508, "proxy_loop_detected");
        connect(&world, &format!("{host}:{port}")).await.assert_status(508, host);
    }
}

#[tokio::test]
async fn p39_a_denied_loopback_is_denied_in_every_form() {
    let denied = r#"deny_addresses = ["127.0.0.0/8", "::1/128"]"#;
    let world = World::builder().proxy(denied).proxy(ANY_PORT).start().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    for host in [
        "127.0.0.1",
        "localhost",
        "app.localhost",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:0.0.0.0]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
    ] {
        let reply = ask(&world, &get(&format!("http://{host}:{port}/"))).await;
        reply.is_refusal(403, "destination_ip_prohibited");
        connect(&world, &format!("{host}:{port}")).await.assert_status(403, host);
    }
    assert!(server.accept().now_or_never().is_none(), "it was dialled");
}

#[tokio::test]
async fn p43_the_metadata_services_of_clouds_are_denied() {
    let world = World::new().await;
    for host in [
        "169.254.169.254",
        "169.254.170.2",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd20:ce::254]",
        "168.63.129.16",
        "100.100.100.200",
        "[fd00:100::100:200]",
        "192.0.0.192",
        "[fd00:c1::a9fe:a9fe]",
        "[fd00:42::42]",
        "[fd00:a9fe:a9fe::1]",
        "[fe80::a9fe:a9fe]",
        "[64:ff9b::168.63.129.16]",
    ] {
        let reply = ask(&world, &get(&format!("http://{host}/latest/"))).await;
        reply.is_refusal(403, "destination_ip_prohibited");
    }
}

#[tokio::test]
async fn p24_names_below_localhost_and_invalid_need_no_resolver() {
    let world = World::plain().start().await;
    let port = world.origin.addr().port();
    let reply = ask(&world, &get(&format!("http://app.localhost:{port}/"))).await;
    reply.assert_status(401, format!("the API was not reached: {reply:?}"));
    let reply = ask(&world, &get("http://no-such-host.invalid/")).await;
    reply.is_refusal(502, "dns_error");
    let status = reply.field("proxy-status").unwrap();
    assert_says("Proxy-Status", status, ["; rcode=\"NXDOMAIN\""]);
}

/// If the machine's name servers do not answer, each name takes as long as the system resolver retries. Otherwise
/// the test only shows that a flood of bad names does no harm.
#[tokio::test]
async fn p24_600_names_that_do_not_resolve_delay_neither_localhost_nor_the_end() {
    let mut world = World::plain().start_servers().await;
    world.configure_file(|text| text.replace("[admin]", "shutdown_grace = \"2s\"\n[admin]"));
    let program = Program::start(&world).await;
    let mut flood = Vec::new();
    for n in 0..600 {
        let mut wire = Wire::to_address(program.proxy).await;
        let [target, host] = get(&format!("http://h{n}.no-such-domain.example/"));
        wire.send(format!("{target}\r\n{host}\r\n\r\n")).await;
        flood.push(wire);
    }
    let began = Stopwatch::start();
    let port = world.origin.addr().port();
    program
        .get(&format!("http://app.localhost:{port}/"))
        .await
        .assert_status(401, "unresolvable names delay a resolvable one");
    assert!(began.elapsed() < Duration::from_secs(2), "it took too long: {:?}", began.elapsed());
    let began = Stopwatch::start();
    program.stop().await;
    assert!(began.elapsed() < Duration::from_secs(8), "it took too long: {:?}", began.elapsed());
}

// ===== Certificates (P28) =====

fn server_config(params: CertificateParams) -> (Arc<ServerConfig>, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let pem = certificate.pem();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(bearerd::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key)
        .unwrap();
    (Arc::new(config), pem)
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// Returns the parameters of a CA certificate, as `openssl req -x509` creates.
fn ca_params(names: &[&str]) -> CertificateParams {
    let mut params = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// Starts a world whose API presents this certificate, which is listed in `tls.extra_roots`.
async fn pinned(params: CertificateParams) -> World {
    let (config, pem) = server_config(params);
    let mut world = World::builder().certificate(move |_| config).start_servers().await;
    std::fs::write(world.dir.path().join("pinned.pem"), pem).unwrap();
    let roots = "roots = \"origin-ca.pem\"\n";
    let with_pinned = format!("{roots}extra_roots = [\"pinned.pem\"]\n");
    world.configure(|text| text.replace(roots, &with_pinned));
    world.start_proxy().await;
    world
}

#[tokio::test]
async fn p28_a_self_signed_certificate_that_is_listed_is_accepted() {
    for params in [params(&NAMES), ca_params(&NAMES)] {
        let world = pinned(params).await;
        world.get("/").await.assert_ok();
    }
}

#[tokio::test]
async fn p28_a_listed_certificate_for_another_name_is_refused() {
    let mut for_clients = params(&NAMES);
    for_clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (params, words) in
        [(ca_params(&["other.test"]), "for another host"), (for_clients, "not for use by a server")]
    {
        let world = pinned(params).await;
        let reply = ask(&world, &get(&world.http("/"))).await;
        reply.is_refusal(502, "tls_certificate_error");
        assert_says("the answer", reply.text(), [words]);
        assert!(!reply.text().contains("extra_roots"), "it is listed: {}", reply.text());
        assert!(!reply.text().contains("other.test"), "a foreign name: {}", reply.text());
        world
            .origin
            .assert_requests(0, "a request was sent to a server with an invalid certificate");
    }
}

#[tokio::test]
async fn p28_each_certificate_error_has_its_own_message() {
    let builder = |make: fn(&TestCa) -> Arc<ServerConfig>| World::builder().certificate(make);
    let worlds: [(WorldBuilder, &str, bool); 4] = [
        (builder(|ca| ca.server_config_expired(&NAMES)), "has expired", false),
        (builder(|ca| ca.server_config_self_signed(&NAMES)), "is self-signed", true),
        (builder(|ca| ca.server_config(&["other.test"])), "for another host", false),
        // Another CA with the name of the trusted one.
        (builder(|_| TestCa::new().server_config(&NAMES)), "another key", false),
    ];
    for (world, words, lists) in worlds {
        let world = world.start().await;
        let reply = ask(&world, &get(&world.http("/"))).await;
        reply.is_refusal(502, "tls_certificate_error");
        assert!(
            reply.text().contains(words),
            "the answer does not contain {words:?}: {}",
            reply.text()
        );
        assert_eq!(
            reply.text().contains("extra_roots"),
            lists,
            "the answer does not name the certificate for `extra_roots`: {}",
            reply.text()
        );
    }
}

// ===== Handshakes (P27, P28) =====

/// Returns a fatal TLS alert record.
const fn alert(description: u8) -> [u8; 7] {
    [0x15, 3, 3, 0, 2, 2, description]
}

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNISED_NAME: u8 = 112;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Returns the ServerHello of a server limited to TLS 1.1.
fn tls11_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    // No session ID, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
    hello.extend([0, 0, 0x2f, 0]);
    hello
}

/// Starts a server that answers the first bytes of each connection with `answer` and closes it.
async fn answering(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _read = stream.read(&mut [0; 4096]).await;
            let _written = stream.write_all(&answer).await;
        }
    });
    address
}

/// Returns a credential for this host that needs no token request.
fn credential_for(address: SocketAddr) -> String {
    format!(
        r#"[credential.other]
hosts = ["{address}"]
grant = "static"
vars = {{ key = {{ file = "secret" }} }}
inject = {{ x-key = "${{key}}" }}"#
    )
}

/// Returns the answer to a request with a credential for `address`.
async fn told(address: SocketAddr) -> Reply {
    let world = World::builder().sections(&credential_for(address)).start().await;
    ask(&world, &get(&format!("http://{address}/"))).await
}

#[tokio::test]
async fn p27_a_server_without_a_common_version_or_suite_is_reported_as_such() {
    for (answer, kind, words) in [
        (alert(HANDSHAKE_FAILURE).to_vec(), "tls_alert_received", "no cipher suite that bearerd"),
        (alert(PROTOCOL_VERSION).to_vec(), "tls_alert_received", "no TLS version that bearerd"),
        (tls11_hello(), "tls_protocol_error", "no TLS version that bearerd"),
    ] {
        let reply = told(answering(answer).await).await;
        reply.is_refusal(502, kind);
        assert!(
            reply.text().contains(words),
            "the answer does not contain {words:?}: {}",
            reply.text()
        );
        assert_says("the answer", reply.text(), ["TLS 1.2"]);
    }
}

#[tokio::test]
async fn p28_a_server_without_tls_is_reported_as_such() {
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n", "220 smtp\r\n"] {
        let reply = told(answering(answer.into()).await).await;
        reply.is_refusal(502, "tls_protocol_error");
        assert_says("the answer", reply.text(), ["does not speak TLS on that port"]);
        assert_says("the answer", reply.text(), ["allow_http"]);
    }
}

#[tokio::test]
async fn p28_other_handshake_failures_have_their_own_messages() {
    for (answer, kind, words) in [
        (alert(CERTIFICATE_REQUIRED).to_vec(), "tls_alert_received", "client certificate"),
        (alert(UNRECOGNISED_NAME).to_vec(), "tls_alert_received", "host's name"),
        (Vec::new(), "tls_protocol_error", "closed the connection during the TLS handshake"),
    ] {
        let reply = told(answering(answer).await).await;
        reply.is_refusal(502, kind);
        assert!(
            reply.text().contains(words),
            "the answer does not contain {words:?}: {}",
            reply.text()
        );
    }
}

// ===== One deadline (P22) =====

/// Starts a server that refuses HTTP/1.1 by ALPN after `pause`, and does not answer later connections.
async fn slow_then_silent(pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let _read = first.read(&mut [0; 4096]).await;
        tokio::time::sleep(pause).await;
        let _written = first.write_all(&alert(NO_APPLICATION_PROTOCOL)).await;
        let (silent, _) = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(silent);
    });
    address
}

#[tokio::test]
async fn p22_connect_timeout_covers_resolving_connecting_and_the_handshake() {
    let address = slow_then_silent(Duration::from_millis(700)).await;
    let limits = "[limits]\nconnect_timeout = \"1s\"";
    let world = World::builder().sections(limits).sections(&credential_for(address));
    let world = world.start().await;
    let began = Stopwatch::start();
    let reply = within(ask(&world, &get(&format!("http://{address}/")))).await;
    let took = began.elapsed();
    reply.is_refusal(504, "connection_timeout");
    assert_says("the answer", reply.text(), ["TLS handshake"]);
    assert!(took < Duration::from_millis(1500), "{took:?} instead of 1 s");
}
