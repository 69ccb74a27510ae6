//! CONNECT: blind tunnels, intercepted sessions, and what is refused in either.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bearerd_test_support::{Answer, OriginConfig, OriginServer};
use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::wire::{Reply, Wire, message, nobody, within};
use super::world::World;

/// Tunnels to the ports that tests get.
const ANY_PORT: &str = "connect_ports = []";

// ===== Tunnels =====

#[tokio::test]
async fn a_host_without_a_credential_gets_an_opaque_tunnel() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let (server, address) = server().await;
    let (client, head) = connect(&world, address).await;
    assert_eq!(head.field("content-length"), None, "the answer to CONNECT has a Content-Length");
    assert_eq!(
        head.field("transfer-encoding"),
        None,
        "the answer to CONNECT has a Transfer-Encoding"
    );
    let mut server = accepted(&server).await;
    let odd: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let sent = odd.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    assert_eq!(server.exactly(odd.len()).await, odd, "the tunnel changed what the client sent");
    let _writer = sending.await.unwrap();
    server.send(b"GET / HTTP/1.1\r\n\r\n\x16\x03").await;
    let mut answer = [0; 20];
    within(reader.read_exact(&mut answer)).await.unwrap();
    assert_eq!(
        &answer, b"GET / HTTP/1.1\r\n\r\n\x16\x03",
        "the tunnel changed what the server sent"
    );
}

#[tokio::test]
async fn a_real_client_reaches_an_https_origin_through_a_tunnel_without_a_token() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let (mut client, _) = connect(&world, other.authority()).await;
    let request = ["GET /x HTTP/1.1", "Host: other", "Authorization: Bearer mine"];
    client.ask(&request).await.assert_ok();
    let request = &other.requests()[0];
    assert_eq!(
        request.header("authorization"),
        Some("Bearer mine"),
        "the client's own token was replaced in a tunnel"
    );
    assert_eq!(request.header("via"), None, "bearerd has written into a tunnel");
}

#[tokio::test]
async fn a_tunnel_is_dialled_before_it_is_promised() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let mut client = Wire::to(&world).await;
    let reply = client.ask(&connect_to(nobody().await)).await;
    reply.is_refusal(502, "connection_refused");
    let reply = client.ask(&connect_to("no-such-host.invalid:443")).await;
    reply.is_refusal(502, "dns_error");
    let reply = client.ask(&connect_to(world.proxy_address())).await;
    reply.is_refusal(508, "proxy_loop_detected");
}

#[tokio::test]
async fn bytes_sent_along_with_the_connect_arrive_in_the_tunnel() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let (server, address) = server().await;
    let mut client = Wire::to(&world).await;
    client.send(message(&connect_to(address)) + "early bird").await;
    client.reply_head().await.assert_ok();
    assert_eq!(
        accepted(&server).await.exactly(10).await,
        b"early bird",
        "bytes sent along with the CONNECT are lost"
    );
}

#[tokio::test]
async fn the_end_of_either_direction_is_forwarded_and_the_other_stays_open() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let (server, address) = server().await;

    let (mut client, _) = connect(&world, address).await;
    let mut far = accepted(&server).await;
    client.send("question").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(
        far.rest().await,
        b"question",
        "the end of the client's half did not reach the server"
    );
    far.send("answer").await;
    drop(far);
    assert_eq!(
        client.rest().await,
        b"answer",
        "the answer did not come through the half-closed tunnel"
    );

    let (mut client, _) = connect(&world, address).await;
    let mut far = accepted(&server).await;
    far.send("hello").await;
    far.stream.shutdown().await.unwrap();
    assert_eq!(
        client.rest().await,
        b"hello",
        "the end of the server's half did not reach the client"
    );
    client.send("goodbye").await;
    drop(client);
    assert_eq!(
        far.rest().await,
        b"goodbye",
        "the server did not get what was sent after its own end"
    );
}

#[tokio::test]
async fn a_port_that_is_not_listed_is_403_unless_it_is_of_a_credential() {
    let world = World::new().await;
    let (server, address) = server().await;
    for target in [address.to_string(), "localhost:25".to_owned(), "localhost:22".to_owned()] {
        let reply = Wire::to(&world).await.ask(&connect_to(target)).await;
        reply.is_refusal(403, "http_request_denied");
    }
    was_not_dialled(server);
    connect(&world, world.origin.authority()).await;
}

#[tokio::test]
async fn a_denied_address_is_not_tunnelled_to_in_any_spelling() {
    let denied = "connect_ports = []\ndeny_addresses = [\"127.0.0.0/8\", \"::1/128\", \"10.0.0.0/8\", \
                  \"169.254.0.0/16\"]";
    let world = World::builder().proxy(denied).start().await;
    for target in [
        "127.0.0.1:443",
        "[::1]:443",
        "localhost:443",
        "169.254.169.254:443",
        "[::ffff:10.0.0.1]:443",
    ] {
        let reply = Wire::to(&world).await.ask(&connect_to(target)).await;
        reply.is_refusal(403, "destination_ip_prohibited");
    }
}

#[tokio::test]
async fn a_silent_tunnel_is_closed_and_one_with_traffic_is_not() {
    let limits = "[limits]\ntunnel_idle_timeout = \"1s\"";
    let world = World::builder().proxy(ANY_PORT).sections(limits).start().await;
    let (server, address) = server().await;
    let (mut busy, _) = connect(&world, address).await;
    let mut busy_far = accepted(&server).await;
    let began = Instant::now();
    let (mut silent, _) = connect(&world, address).await;
    let mut silent_far = accepted(&server).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let silence_ends = async {
        silent.is_closed().await;
        silent_far.is_closed().await;
    };
    tokio::pin!(silence_ends);
    loop {
        tokio::select! {
            () = &mut silence_ends => break,
            _ = ticks.tick() => {
                busy.send("x").await;
                assert_eq!(busy_far.exactly(1).await, b"x", "a tunnel with traffic was closed or changed");
            }
        }
    }
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "it was over too soon: {:?}",
        began.elapsed()
    );
    busy.send("y").await;
    assert_eq!(
        busy_far.exactly(1).await,
        b"y",
        "the tunnel with traffic was closed together with the silent one"
    );
}

// ===== Sessions =====

#[tokio::test]
async fn a_leaf_names_exactly_the_host_and_is_signed_by_the_ca() {
    let world = World::new().await;
    let client = secure(&world, world.origin.authority()).await;
    let (_, tls) = client.stream.get_ref();
    let chain = tls.peer_certificates().unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let authority = world.app().ca().unwrap();
    let (_, ca) = X509Certificate::from_der(authority.der(std::time::SystemTime::now())).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(
        matches!(names[..], [GeneralName::DNSName("localhost")]),
        "the leaf names other hosts: {names:?}"
    );
    assert_eq!(leaf.issuer(), ca.subject(), "the leaf was not issued by the CA");
    assert!(!leaf.is_ca(), "the leaf is a CA itself");
    assert_ne!(leaf.public_key().raw, ca.public_key().raw, "the leaf has the key of the CA");
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(
        usage.server_auth && !usage.any && !usage.client_auth,
        "the leaf is good for more than a server's authentication"
    );
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!(life <= 7 * 24 * 3600, "{life} s: the leaf is valid for more than a week");
    assert_eq!(tls.alpn_protocol(), None, "a protocol was agreed on although none was offered");
}

#[tokio::test]
async fn requests_of_a_session_get_the_token_with_or_without_content() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    let mut client = secure(&world, world.origin.authority()).await;
    client.ask(&["GET /a?b HTTP/1.1", &host]).await.assert_ok();
    let post = message(&["POST /b HTTP/1.1", &host, "Content-Length: 5", "Authorization: Basic x"]);
    client.send(post + "hello").await;
    client.reply().await.assert_ok();
    let absolute = format!("GET {} HTTP/1.1", world.https("/c"));
    client.ask(&[&absolute, &host]).await.assert_ok();
    let requests = world.origin.requests();
    let targets: Vec<&str> = requests.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/a?b", "/b", "/c"], "the requests reached the API with other targets");
    assert!(
        requests.iter().all(|request| request.accepted == Some(true)),
        "the API did not accept each request"
    );
    assert_eq!(&requests[1].body[..], b"hello", "the content did not arrive");
}

#[tokio::test]
async fn one_session_outlives_its_tokens() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    let mut client = secure(&world, world.origin.authority()).await;
    for _ in 0..3 {
        client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
        // Old enough to get no propagation delay.
        world.clock.advance(Duration::from_secs(600));
        world.authorization_server.tokens().revoke_all_access_tokens();
    }
    let requests = world.origin.requests();
    let mut tokens: Vec<&str> = requests.iter().filter_map(|request| request.bearer()).collect();
    assert_eq!(tokens.len(), 5, "three requests, two of them sent again");
    tokens.dedup();
    assert_eq!(tokens.len(), 3, "each revoked token has to be replaced by one other");
    world.authorization_server.assert_no_reuse();
}

#[tokio::test]
async fn plain_http_after_a_connect_leaves_over_tls_with_the_token() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    let (mut client, _) = connect(&world, world.origin.authority()).await;
    client.ask(&["GET /x HTTP/1.1", &host]).await.assert_ok();
    let absolute = format!("GET {} HTTP/1.1", world.http("/y"));
    client.ask(&[&absolute, &host]).await.assert_ok();
    assert_eq!(
        world.origin.accepted(),
        2,
        "a request over plain http within a CONNECT has no token"
    );
    let early =
        message(&connect_to(world.origin.authority())) + &message(&["GET /z HTTP/1.1", &host]);
    let mut client = Wire::to(&world).await;
    client.send(early).await;
    client.reply_head().await.assert_ok();
    client.reply().await.assert_ok();
    assert_eq!(
        world.origin.requests()[2].target,
        "/z",
        "the request that came with the CONNECT was not served"
    );
}

#[tokio::test]
async fn plain_http_after_a_connect_stays_plain_with_allow_http() {
    let world = World::plain().start().await;
    let host = format!("Host: {}", world.origin.authority());
    let (mut client, _) = connect(&world, world.origin.authority()).await;
    client.ask(&["GET /x HTTP/1.1", &host]).await.assert_ok();
    assert_eq!(world.origin.accepted(), 1, "the request over plain http has no token");
}

#[tokio::test]
async fn the_target_of_connect_decides_and_its_host_field_does_not() {
    let world = World::new().await;
    let target = format!("CONNECT {} HTTP/1.1", world.origin.authority());
    let mut client = Wire::to(&world).await;
    client.ask_head(&[&*target, "Host: evil.test"]).await.assert_ok();
    let host = format!("Host: {}", world.origin.authority());
    client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
    assert_eq!(world.origin.accepted(), 1, "the Host field of the CONNECT decided about the token");
}

#[tokio::test]
async fn a_connect_of_http_1_0_needs_no_host_field() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let host = format!("Host: {}", world.origin.authority());
    for authority in [world.origin.authority(), other.authority()] {
        let mut client = Wire::to(&world).await;
        client.send(format!("CONNECT {authority} HTTP/1.0\r\n\r\n")).await;
        client.reply_head().await.assert_ok();
        client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
        client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
    }
    assert_eq!(
        (world.origin.accepted(), other.requests().len()),
        (2, 2),
        "(API, other server): a request of HTTP/1.0 was not served"
    );
}

#[tokio::test]
async fn content_streams_through_a_session_in_both_directions() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    let mut client = secure(&world, world.origin.authority()).await;
    client.send(message(&["POST /echo HTTP/1.1", &host, "Transfer-Encoding: chunked"])).await;
    client.send("5\r\nfirst\r\n").await;
    client.reply_head().await.assert_ok();
    assert_eq!(
        client.chunk().await,
        b"first",
        "the first chunk did not come back before the second was sent"
    );
    client.send("6\r\nsecond\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await, b"second", "the second chunk did not come back");
    assert_eq!(client.chunk().await, b"", "the content did not end");
    world.origin.enqueue(Answer::Chunks(vec![Bytes::from_static(b"event")]));
    client.send(message(&["GET / HTTP/1.1", &host])).await;
    client.reply_head().await.assert_ok();
    world.origin.release_chunk();
    assert_eq!(client.chunk().await, b"event", "the event was held back");
}

// ===== Whatever disagrees with the CONNECT =====

#[tokio::test]
async fn a_server_name_of_another_host_makes_every_request_421() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    let (client, _) = connect(&world, world.origin.authority()).await;
    let mut client =
        Wire::over(within(handshake(client.stream, trusting_anyone(), "evil.test")).await.unwrap());
    for _ in 0..2 {
        let reply = client.ask(&["GET / HTTP/1.1", &host]).await;
        reply.is_refusal(421, "http_request_error");
    }
    client
        .ask(&["GET / HTTP/1.1", "Host: evil.test"])
        .await
        .assert_status(421, "the session of a foreign name was used");
    world.origin.assert_requests(0, "a request of a session with a foreign name reached the API");
}

#[tokio::test]
async fn a_client_without_server_name_is_served_for_the_host_it_connected_to() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    let (client, _) = connect(&world, world.origin.authority()).await;
    let mut config = trusting_anyone();
    Arc::make_mut(&mut config).enable_sni = false;
    let mut client =
        Wire::over(within(handshake(client.stream, config, "localhost")).await.unwrap());
    client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
}

#[tokio::test]
async fn each_request_of_a_session_is_judged_by_its_own_host() {
    let world = World::new().await;
    let authority = world.origin.authority();
    let host = format!("Host: {authority}");
    let evil_target = format!("GET https://evil.test:{}/ HTTP/1.1", world.origin.port());
    let in_clear = format!("GET {} HTTP/1.1", world.http("/"));
    let other_port = "Host: localhost:1".to_owned();
    let mut client = secure(&world, authority.clone()).await;
    let mut plain = connect(&world, authority.clone()).await.0;
    let wrong: [&[&str]; 7] = [
        &["GET / HTTP/1.1", "Host: evil.test"],
        &["GET / HTTP/1.1", "Host: localhost"],
        &["GET / HTTP/1.1", &other_port],
        &[&evil_target, &host],
        &[&evil_target, "Host: evil.test"],
        &[&in_clear, &host],
        &["CONNECT evil.test:443 HTTP/1.1", "Host: evil.test:443"],
    ];
    for (number, request) in wrong.iter().enumerate() {
        let reply = client.ask(request).await;
        reply.is_refusal(421, "http_request_error");
        if *request != wrong[5] {
            plain.ask(request).await.is_refusal(421, "http_request_error");
        }
        assert_eq!(world.origin.requests().len(), 2 * number, "{request:?} was sent on");
        client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
        plain.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
    }
}

#[tokio::test]
async fn a_connect_inside_a_session_is_refused_also_for_the_sessions_own_host() {
    let world = World::new().await;
    let mut client = secure(&world, world.origin.authority()).await;
    let reply = client.ask(&connect_to(world.origin.authority())).await;
    reply.is_refusal(421, "http_request_error");
}

#[tokio::test]
async fn a_connect_with_content_is_400_and_dials_nothing() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let (server, address) = server().await;
    let target = format!("CONNECT {address} HTTP/1.1");
    for field in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut client = Wire::to(&world).await;
        let reply = client.ask(&[&*target, "Host: x", field]).await;
        reply.is_refusal(400, "http_request_error");
        client.is_closed().await;
    }
    was_not_dialled(server);
}

#[tokio::test]
async fn a_connect_target_that_is_not_exactly_host_and_port_is_400() {
    let world = World::builder().proxy(ANY_PORT).start().await;
    let port = world.origin.port();
    let mut wrong = Vec::new();
    for target in [
        "localhost".to_owned(),
        "localhost:".to_owned(),
        "localhost:0".to_owned(),
        "localhost:65536".to_owned(),
        "localhost:4x3".to_owned(),
        ":443".to_owned(),
        format!("[localhost]:{port}"),
        format!("user@localhost:{port}"),
        format!("localhost:{port}@evil.test:443"),
        format!("local%68ost:{port}"),
        format!("127.1:{port}"),
        format!("http://localhost:{port}/"),
        format!("/localhost:{port}"),
        "*".to_owned(),
    ] {
        let mut client = Wire::to(&world).await;
        let reply = client.ask_head(&connect_to(&target)).await;
        if reply.status != 400 {
            wrong.push(format!("{target} got {}", reply.status));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "malformed targets were not refused");
    assert_eq!(world.origin.connections(), 0, "a malformed target was dialled");
}

// ===== Handshakes and ends =====

#[tokio::test]
async fn a_client_that_does_not_trust_the_ca_fails_alone() {
    let world = World::new().await;
    let (client, _) = connect(&world, world.origin.authority()).await;
    let config = client_config(RootCertStore::empty());
    let failed = within(handshake(client.stream, config, "localhost")).await;
    assert!(failed.is_err(), "a client that does not trust the CA has accepted it");
    world.get("/").await.assert_ok();
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_an_end_is_cut_off() {
    let world = World::builder().sections("[limits]\nhandshake_timeout = \"1s\"").start().await;
    let (mut silent, _) = connect(&world, world.origin.authority()).await;
    let (mut begun, _) = connect(&world, world.origin.authority()).await;
    let began = Instant::now();
    begun.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await;
    silent.is_closed().await;
    begun.is_closed().await;
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "it was over too soon: {:?}",
        began.elapsed()
    );
    world.get("/").await.assert_ok();
}

#[tokio::test]
async fn a_client_hello_in_records_of_one_byte_is_harmless() {
    let world = World::new().await;
    let mut hello = Vec::new();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = rustls::ClientConnection::new(trusting_anyone(), name).unwrap();
    tls.write_tls(&mut hello).unwrap();
    let (mut client, _) = connect(&world, world.origin.authority()).await;
    for byte in &hello[5..] {
        client.send([0x16, 0x03, 0x01, 0x00, 0x01, *byte]).await;
    }
    let answer = client.exactly(1).await;
    assert!(matches!(answer[..], [0x15 | 0x16]), "neither a hello nor an alert: {answer:?}");
    for nonsense in [&[0x16][..], &[0x16; 300], &[0x16, 3, 1, 0, 1, 1, 0x16, 3, 1, 0xff, 0xff]] {
        let (mut client, _) = connect(&world, world.origin.authority()).await;
        client.send(nonsense).await;
        client.stream.shutdown().await.unwrap();
        client.rest().await;
    }
    world.get("/").await.assert_ok();
}

#[tokio::test]
async fn a_client_that_vanishes_from_a_session_takes_the_connection_to_the_origin_with_it() {
    // A raw origin server, to see when its connection ends.
    let config = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&config);
    let (server, address) = server().await;
    let credential = format!(
        "[credential.raw]\nhosts = [\"127.0.0.1:{}\"]\ngrant = \"client_credentials\"\n\
         token_url = \"TOKEN_URL\"\nclient_id = \"test-client\"\nclient_secret = {{ file = \"secret\" }}",
        address.port(),
    );
    let authorization_server = bearerd_test_support::AuthorizationServer::start(
        bearerd_test_support::AuthorizationServerConfig::default(),
    )
    .await;
    let credential = credential.replace("TOKEN_URL", &authorization_server.token_url());
    let world = World::builder()
        .certificate(move |ca| {
            let certificate = ca.server_config(&["localhost", "127.0.0.1"]);
            *kept.lock().unwrap() = Some(Arc::clone(&certificate));
            certificate
        })
        .sections(&credential)
        .start()
        .await;
    let acceptor = TlsAcceptor::from(config.lock().unwrap().take().unwrap());
    let mut client = secure(&world, address).await;
    client.send(message(&["GET / HTTP/1.1", &format!("Host: {address}")])).await;
    let stream = within(server.accept()).await.unwrap().0;
    let mut origin = Wire::over(within(acceptor.accept(stream)).await.unwrap());
    assert!(
        origin.head_text().await.to_lowercase().contains("authorization: bearer "),
        "the request to the raw origin server has no token"
    );
    origin.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome").await;
    client.reply_head().await.assert_ok();
    drop(client);
    origin.is_closed().await;
}

// ===== Support =====

async fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accepted(server: &TcpListener) -> Wire {
    Wire::over(within(server.accept()).await.unwrap().0)
}

/// Asserts that no connection waits to be accepted.
#[track_caller]
fn was_not_dialled(server: TcpListener) {
    let waiting = server.into_std().unwrap().accept();
    assert!(
        waiting.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        "a connection was made to a target that is refused"
    );
}

fn connect_to(target: impl std::fmt::Display) -> [String; 2] {
    [format!("CONNECT {target} HTTP/1.1"), "Host: localhost".to_owned()]
}

/// A connection after its CONNECT, and the head of the 200.
pub(super) async fn connect(world: &World, target: impl std::fmt::Display) -> (Wire, Reply) {
    let mut client = Wire::to(world).await;
    let head = client.ask_head(&connect_to(target)).await;
    assert_eq!(head.status, 200, "the CONNECT was refused: {head:?}");
    (client, head)
}

/// A TLS session through a CONNECT, for a client that trusts bearerd's CA and nothing else.
pub(super) async fn secure(
    world: &World,
    target: impl std::fmt::Display,
) -> Wire<TlsStream<TcpStream>> {
    let target = target.to_string();
    let (client, _) = connect(world, &target).await;
    let mut roots = RootCertStore::empty();
    roots.add(world.app().ca().unwrap().der(std::time::SystemTime::now()).to_vec().into()).unwrap();
    let host = target.rsplit_once(':').unwrap().0;
    let stream = handshake(client.stream, client_config(roots), host);
    Wire::over(within(stream).await.unwrap())
}

pub(super) async fn handshake(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

pub(super) fn client_config(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(bearerd::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A client that accepts any certificate, to test how the proxy treats a wrong name.
fn trusting_anyone() -> Arc<ClientConfig> {
    let mut config = client_config(RootCertStore::empty());
    let verifier = Arc::new(TrustAnyone(bearerd::tls::provider()));
    Arc::make_mut(&mut config).dangerous().set_certificate_verifier(verifier);
    config
}

#[derive(Debug)]
struct TrustAnyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
