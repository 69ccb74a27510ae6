//! HTTP/2 on either side of an intercepted session, and any pairing of it with HTTP/1.1.
//!
//! The client is the `h2` crate alone, so that it can also misbehave.

use std::fmt;
use std::time::{Duration, Instant};

use bearerd::token::Condition;
use bearerd_test_support::{Answer, Protocols, ReceivedRequest, pattern};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, SendStream};
use http::{HeaderMap, Method, Request, Response, Version};
use rustls::RootCertStore;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::client::TlsStream;

use super::connect::{client_config, connect, handshake};
use super::stopwatch::Stopwatch;
use super::wire::{Wire, message, within};
use super::world::{World, WorldBuilder, eventually};

// ===== A client =====

/// One connection that speaks HTTP/2 within a CONNECT to the API.
pub(super) struct Client {
    sender: SendRequest<Bytes>,
    pings: PingPong,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A whole response.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    fields: HeaderMap,
    content: Vec<u8>,
    trailers: HeaderMap,
}

impl Reply {
    /// Asserts that the request was answered with 200.
    #[track_caller]
    pub(super) fn assert_ok(&self) {
        self.assert_status(200, "the request was not answered with 200");
    }

    /// Asserts the status; `meaning` says what another one means.
    #[track_caller]
    pub(super) fn assert_status(&self, expected: u16, meaning: impl fmt::Display) {
        assert!(self.status == expected, "{meaning}: expected status {expected}, got {self:#?}");
    }
}

impl Client {
    pub(super) async fn open(world: &World) -> Self {
        Self::open_to(world, &world.origin.authority()).await
    }

    /// The same to another authority of the credential.
    pub(super) async fn open_to(world: &World, authority: &str) -> Self {
        let stream = session_with(world, authority, &[b"h2", b"http/1.1"]).await;
        assert_eq!(
            stream.get_ref().1.alpn_protocol(),
            Some(&b"h2"[..]),
            "the session did not agree on HTTP/2"
        );
        let (sender, mut connection) = within(h2::client::handshake(stream)).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        Self { sender, pings, connection: tokio::spawn(connection) }
    }

    /// Begins a request; without content it is whole.
    pub(super) async fn begin(
        &self,
        request: Request<()>,
        is_whole: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = within(self.sender.clone().ready()).await.unwrap();
        sender.send_request(request, is_whole).unwrap()
    }

    pub(super) async fn ask(&self, request: Request<()>) -> Reply {
        let (response, _stream) = self.begin(request, true).await;
        received(within(response).await.unwrap()).await
    }

    pub(super) async fn ask_with(&self, request: Request<()>, content: Bytes) -> Reply {
        let (response, mut stream) = self.begin(request, false).await;
        stream.send_data(content, true).unwrap();
        received(within(response).await.unwrap()).await
    }

    /// Sends content and trailers.
    pub(super) async fn ask_with_trailers(
        &self,
        request: Request<()>,
        content: Bytes,
        trailers: HeaderMap,
    ) -> Reply {
        let (response, mut stream) = self.begin(request, false).await;
        stream.send_data(content, false).unwrap();
        stream.send_trailers(trailers).unwrap();
        received(within(response).await.unwrap()).await
    }

    /// The first interim response to a request.
    pub(super) async fn first_interim(&self, request: Request<()>) -> Response<()> {
        let (mut response, _stream) = self.begin(request, true).await;
        let next = std::future::poll_fn(|cx| response.poll_informational(cx));
        within(next).await.unwrap().unwrap()
    }

    /// Waits until the connection is over.
    async fn closes(self) -> Result<(), h2::Error> {
        within(self.connection).await.unwrap()
    }
}

pub(super) async fn received(response: Response<h2::RecvStream>) -> Reply {
    let (parts, mut body) = response.into_parts();
    let mut content = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data.unwrap();
        content.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = within(body.trailers()).await.unwrap().unwrap_or_default();
    Reply { status: parts.status.as_u16(), fields: parts.headers, content, trailers }
}

/// TLS after a CONNECT to the API, offering these protocols.
async fn session(world: &World, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    session_with(world, &world.origin.authority(), protocols).await
}

async fn session_with(world: &World, authority: &str, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let (client, _) = connect(world, authority).await;
    let mut roots = RootCertStore::empty();
    roots.add(world.app().ca().unwrap().der(std::time::SystemTime::now()).to_vec().into()).unwrap();
    let mut config = (*client_config(roots)).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    within(handshake(client.stream, config.into(), "localhost")).await.unwrap()
}

/// The protocol that a new session agrees on with a client that offers these.
pub(super) async fn agreed(world: &World, offered: &[&[u8]]) -> Option<Vec<u8>> {
    let stream = session(world, offered).await;
    stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
}

pub(super) fn get(url: &str) -> Request<()> {
    Request::get(url).body(()).unwrap()
}

fn speaking(protocols: Protocols) -> WorldBuilder {
    World::builder().origin(|config| config.protocols = protocols)
}

fn accepted(world: &World) -> Vec<ReceivedRequest> {
    let requests = world.origin.requests().into_iter();
    requests.filter(|request| request.accepted == Some(true)).collect()
}

// ===== Pairings =====

#[tokio::test]
async fn every_pairing_carries_the_token_and_the_content_both_ways() {
    for (protocols, from_http1, from_http2) in [
        (Protocols::Http1, Version::HTTP_11, Version::HTTP_11),
        (Protocols::Both, Version::HTTP_11, Version::HTTP_2),
        (Protocols::Http2, Version::HTTP_2, Version::HTTP_2),
    ] {
        let world = speaking(protocols).start().await;
        let content = pattern(100_000);

        let client = Client::open(&world).await;
        let post =
            Request::post(world.https("/echo?a=b")).header("x-mine", "yes").body(()).unwrap();
        let reply = client.ask_with(post, content.clone()).await;
        assert_eq!(
            (reply.status, reply.content == content),
            (200, true),
            "{protocols:?}: (status, is the content the same): the content was not echoed"
        );
        assert!(
            reply.fields.contains_key("via") && !reply.fields.contains_key("connection"),
            "{protocols:?}: Via is missing, or Connection was sent over HTTP/2"
        );
        client
            .ask(get(&world.https("/status/204")))
            .await
            .assert_status(204, format!("{protocols:?}: an answer without content was changed"));

        let mut client = Wire::over(session(&world, &[b"http/1.1"]).await);
        let host = format!("Host: {}", world.origin.authority());
        let length = format!("Content-Length: {}", content.len());
        let head = message(&["POST /echo?a=b HTTP/1.1", &host, &length, "x-mine: yes"]);
        client.send([head.as_bytes(), &content].concat()).await;
        let reply = client.reply().await;
        assert_eq!(
            (reply.status, reply.content == content[..]),
            (200, true),
            "{protocols:?}: (status, is the content the same): the content was not echoed over HTTP/1.1"
        );

        let requests = world.origin.requests();
        let versions: Vec<Version> = requests.iter().map(|request| request.version).collect();
        assert_eq!(
            versions,
            [from_http2, from_http2, from_http1],
            "{protocols:?}: the requests reached the API in other versions"
        );
        for request in &requests {
            assert_eq!(
                request.accepted,
                Some(true),
                "{protocols:?}: the API did not accept the request"
            );
            let (host, whole) = match request.version {
                Version::HTTP_2 => (None, world.https("")),
                _ => (Some(world.origin.authority()), String::new()),
            };
            assert_eq!(
                request.header("host"),
                host.as_deref(),
                "{protocols:?}: the API sees another Host"
            );
            assert!(
                request.target.starts_with(&format!("{whole}/")),
                "the target has another authority: {}",
                request.target
            );
        }
        assert!(requests[0].target.ends_with("/echo?a=b"), "{protocols:?}: the target was changed");
        assert_eq!(
            requests[0].header("x-mine"),
            Some("yes"),
            "{protocols:?}: a field of the client was lost"
        );
        world.authorization_server.assert_token_requests(
            1,
            format!("{protocols:?}: three requests have to cost one token request"),
        );
    }
}

/// The origin server supports HTTP/2 and was used over HTTP/1.1 for another client before.
#[tokio::test]
async fn http2_requests_stay_http2_after_another_client_has_used_http1() {
    let world = speaking(Protocols::Both).start().await;
    // One kept connection on every core.
    let host = format!("Host: {}", world.origin.authority());
    for _ in 0..4 {
        let mut client = Wire::over(session(&world, &[b"http/1.1"]).await);
        client.ask(&["GET / HTTP/1.1", &host]).await.assert_ok();
    }
    world.origin.clear();
    for _ in 0..2 {
        let client = Client::open(&world).await;
        client.ask(get(&world.https("/"))).await.assert_ok();
    }
    let versions =
        world.origin.requests().iter().map(|request| request.version).collect::<Vec<_>>();
    assert_eq!(versions, [Version::HTTP_2; 2], "requests over HTTP/2 went on over HTTP/1.1");
}

#[tokio::test]
async fn fifty_streams_of_one_connection_are_served_at_a_time() {
    for (protocols, connections) in [(Protocols::Http1, 50), (Protocols::Both, 1)] {
        let world = speaking(protocols).start().await;
        let client = Client::open(&world).await;
        world.origin.hold();
        let mut replies = JoinSet::new();
        for number in 0..50 {
            let url = world.https(&format!("/bytes/{}", 1000 * number));
            let (response, _stream) = client.begin(get(&url), true).await;
            replies.spawn(async move { (number, received(response.await.unwrap()).await) });
        }
        world.origin.wait_for_requests(50).await;
        world.origin.release_all();
        for (number, reply) in within(replies.join_all()).await {
            reply.assert_ok();
            assert_eq!(
                reply.content,
                pattern(1000 * number),
                "{number}: the content of stream {number} was changed"
            );
        }
        assert_eq!(
            accepted(&world).len(),
            50,
            "{protocols:?}: the API did not accept each request"
        );
        assert_eq!(
            world.origin.connections(),
            connections,
            "{protocols:?}: another number of connections was used"
        );
        world.authorization_server.assert_token_requests(
            1,
            format!("{protocols:?}: fifty requests have to cost one token request"),
        );
    }
}

#[tokio::test]
async fn streams_beyond_a_hundred_wait_for_their_turn() {
    let world = speaking(Protocols::Both).start().await;
    let mut client = Client::open(&world).await;
    client.ask(get(&world.https("/"))).await.assert_ok();
    // The client obeys the limit and queues the rest.
    assert_eq!(
        client.sender.current_max_send_streams(),
        100,
        "the client was told another limit of streams"
    );
    world.origin.clear();
    world.origin.hold();
    let mut replies = JoinSet::new();
    for _ in 0..130 {
        let (sender, request) = (client.sender.clone(), get(&world.https("/")));
        replies.spawn(async move {
            let (response, _stream) =
                sender.ready().await.unwrap().send_request(request, true).unwrap();
            received(response.await.unwrap()).await.status
        });
    }
    world.origin.wait_for_requests(100).await;
    // Frames are read in their order: what was sent before the ping is known to the proxy now.
    within(client.pings.ping(Ping::opaque())).await.unwrap();
    world.origin.assert_requests(100, "more streams than the limit were served at a time");
    world.origin.release_all();
    assert_eq!(
        within(replies.join_all()).await,
        [200; 130],
        "a stream that waited for its turn was not served"
    );
}

// ===== Rejections and trailers =====

#[tokio::test]
async fn a_rejection_amid_many_streams_with_content_is_absorbed() {
    for protocols in [Protocols::Http1, Protocols::Both] {
        let world = speaking(protocols).settled().await;
        let client = Client::open(&world).await;
        world.authorization_server.tokens().revoke_all_access_tokens();
        world.origin.hold_before_check();
        let mut replies = JoinSet::new();
        for number in 1..=50 {
            let post = Request::post(world.https("/echo")).body(()).unwrap();
            let (response, mut stream) = client.begin(post, false).await;
            stream.send_data(pattern(number * 700), true).unwrap();
            replies.spawn(async move { (number, received(response.await.unwrap()).await) });
        }
        world.origin.wait_for_requests(50).await;
        world.origin.release_all();
        for (number, reply) in within(replies.join_all()).await {
            reply.assert_status(200, format!("{protocols:?} {number}"));
            assert_eq!(
                reply.content,
                pattern(number * 700),
                "{protocols:?} {number}: the content of stream {number} was changed"
            );
        }
        assert_eq!(
            (world.origin.rejected(), world.origin.accepted()),
            (50, 50),
            "{protocols:?}: (rejected, accepted): each request has to be sent again once"
        );
        world.authorization_server.assert_token_requests(
            2,
            format!("{protocols:?}: the rejection has to cost one token request"),
        );
        world.authorization_server.assert_no_reuse();
    }
}

#[tokio::test]
async fn an_origin_that_rejects_before_it_reads_gets_the_content_again() {
    let world = speaking(Protocols::Both).settled().await;
    let client = Client::open(&world).await;
    world.origin.enqueue(Answer::RejectEarly);
    let post = Request::post(world.https("/echo")).body(()).unwrap();
    let reply = client.ask_with(post, pattern(30_000)).await;
    assert_eq!(
        (reply.status, reply.content == pattern(30_000)),
        (200, true),
        "(status, is the content the same): the content was not sent again whole"
    );
    world
        .authorization_server
        .assert_token_requests(2, "the rejection has to cost one token request");
}

#[tokio::test]
async fn trailers_of_a_response_pass_in_every_pairing() {
    for protocols in [Protocols::Http1, Protocols::Both, Protocols::Http2] {
        let world = speaking(protocols).start().await;
        let answer = Answer::Trailers {
            body: Bytes::from_static(b"content"),
            trailers: vec![("x-digest".to_owned(), "good".to_owned())],
        };
        world.origin.enqueue(answer.clone());
        let client = Client::open(&world).await;
        let request = Request::get(world.https("/")).header("te", "trailers").body(()).unwrap();
        let reply = client.ask(request).await;
        assert_eq!(
            (reply.status, &reply.content[..]),
            (200, &b"content"[..]),
            "{protocols:?}: the response was changed"
        );
        assert_eq!(
            reply.trailers.get("x-digest").unwrap(),
            "good",
            "{protocols:?}: the trailer was lost or changed"
        );

        world.origin.enqueue(answer);
        let mut client = Wire::over(session(&world, &[b"http/1.1"]).await);
        let host = format!("Host: {}", world.origin.authority());
        let reply = client.ask(&["GET / HTTP/1.1", &host, "TE: trailers", "Connection: TE"]).await;
        assert_eq!(
            (reply.status, &reply.content[..]),
            (200, &b"content"[..]),
            "{protocols:?}: the response over HTTP/1.1 was changed"
        );
        assert_eq!(
            reply.trailers,
            [("x-digest".to_owned(), "good".to_owned())],
            "{protocols:?}: the trailer over HTTP/1.1 was lost or changed"
        );
    }
}

/// Neither side waits for the other's end.
#[tokio::test]
async fn content_streams_both_ways_at_a_time() {
    for protocols in [Protocols::Http1, Protocols::Both] {
        let world = speaking(protocols).start().await;
        let client = Client::open(&world).await;
        let post = Request::post(world.https("/echo")).body(()).unwrap();
        let (response, mut stream) = client.begin(post, false).await;
        stream.send_data(Bytes::from_static(b"first"), false).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        assert_eq!(
            within(body.data()).await.unwrap().unwrap(),
            "first",
            "{protocols:?}: the first data did not come back before the second was sent"
        );
        stream.send_data(Bytes::from_static(b"second"), true).unwrap();
        assert_eq!(
            within(body.data()).await.unwrap().unwrap(),
            "second",
            "{protocols:?}: the second data did not come back"
        );
        // The end may come with a frame of its own.
        while let Some(data) = within(body.data()).await {
            assert_eq!(data.unwrap(), "", "{protocols:?}: the content did not end");
        }
    }
}

// ===== What does not fit =====

#[tokio::test]
async fn an_authority_other_than_the_connects_is_421_and_the_others_are_served() {
    let world = speaking(Protocols::Both).start().await;
    let client = Client::open(&world).await;
    let port = world.origin.port();
    for url in [
        format!("https://evil.test:{port}/"),
        "https://localhost/".to_owned(),
        "https://localhost:1/".to_owned(),
        format!("https://127.0.0.1:{port}/"),
        world.http("/"),
    ] {
        let reply = client.ask(get(&url)).await;
        reply.assert_status(421, &url);
        assert!(
            reply.fields.contains_key("proxy-status"),
            "{url}: the refusal has no Proxy-Status"
        );
    }
    let tunnel = Request::builder().method(Method::CONNECT).uri(world.origin.authority());
    let (response, _stream) = client.begin(tunnel.body(()).unwrap(), false).await;
    assert_eq!(
        within(response).await.unwrap().status(),
        421,
        "a CONNECT within a session was not refused"
    );
    world.origin.assert_requests(0, "a request with another authority reached the API");
    world
        .authorization_server
        .assert_token_requests(0, "a request with another authority has cost a token request");
    client.ask(get(&world.https("/"))).await.assert_ok();
}

#[tokio::test]
async fn a_host_other_than_the_authority_is_refused() {
    let world = speaking(Protocols::Both).start().await;
    let client = Client::open(&world).await;
    let right = world.origin.authority();
    for hosts in [&["evil.test"][..], &["localhost:1"], &[&right, "evil.test"], &["@", &right]] {
        let mut request = Request::get(world.https("/"));
        for host in hosts {
            request = request.header("host", *host);
        }
        let reply = client.ask(request.body(()).unwrap()).await;
        assert!(
            matches!(reply.status, 400 | 421),
            "{hosts:?}: a request with contradicting hosts was not refused: {}",
            reply.status
        );
    }
    world.origin.assert_requests(0, "a request with another host reached the API");
    let agrees = Request::get(world.https("/")).header("host", &right).body(()).unwrap();
    client.ask(agrees).await.assert_ok();
}

#[tokio::test]
async fn split_cookie_fields_are_joined() {
    for protocols in [Protocols::Http1, Protocols::Both] {
        let world = speaking(protocols).start().await;
        let client = Client::open(&world).await;
        let request = Request::get(world.https("/"))
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3")
            .header("cookie", "d=4");
        client.ask(request.body(()).unwrap()).await.assert_ok();
        let request = &world.origin.requests()[0];
        let cookies: Vec<_> = request.headers.get_all("cookie").iter().collect();
        assert_eq!(
            cookies,
            ["a=1; b=2; c=3; d=4"],
            "{protocols:?}: the crumbs of the cookie were not joined in order"
        );
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_costs_only_its_own_stream() {
    // An origin server of HTTP/1.1 would take more.
    for protocols in [Protocols::Http1, Protocols::Both] {
        let world = speaking(protocols).start().await;
        let client = Client::open(&world).await;
        let mut many = Request::get(world.https("/"));
        for number in 0..150 {
            many = many.header(format!("x-{number}"), "1");
        }
        let large = Request::get(world.https("/")).header("x-large", "x".repeat(40 * 1024));
        let long = get(&world.https(&format!("/{}", "x".repeat(10_000))));
        for (request, expected) in
            [(many.body(()).unwrap(), 431), (large.body(()).unwrap(), 431), (long, 414)]
        {
            let (response, _stream) = client.begin(request, true).await;
            match within(response).await {
                Ok(response) => assert_eq!(
                    response.status(),
                    expected,
                    "{protocols:?}: the oversized request was not refused"
                ),
                Err(error) => assert!(
                    error.is_reset(),
                    "the stream ended in another way than by a reset: {error}"
                ),
            }
        }
        world.origin.assert_requests(0, format!("{protocols:?}"));
        client.ask(get(&world.https("/"))).await.assert_ok();
    }
}

// ===== The life of a connection =====

#[tokio::test]
async fn a_shutdown_says_goaway_and_finishes_the_streams() {
    let mut world = speaking(Protocols::Both).start().await;
    let mut client = Client::open(&world).await;
    world.origin.hold_after_check();
    let post = Request::post(world.https("/echo")).body(()).unwrap();
    let (response, mut stream) = client.begin(post, false).await;
    let (waiting, _stream) = client.begin(get(&world.https("/bytes/300000")), true).await;
    world.origin.wait_for_verdicts(2).await;
    let stopping = tokio::spawn(world.take_app().shutdown());
    // A GOAWAY of the proxy arrives before its answer to the next ping.
    let error = within(async {
        loop {
            client.pings.ping(Ping::opaque()).await.unwrap();
            if let Err(error) = client.sender.clone().ready().await {
                return error;
            }
        }
    })
    .await;
    assert!(
        error.is_go_away() && error.reason() == Some(Reason::NO_ERROR),
        "the connection ended in another way than by GOAWAY: {error}"
    );
    assert!(!stopping.is_finished(), "the shutdown did not wait for the streams");
    world.origin.release_all();
    stream.send_data(Bytes::from_static(b"to the end"), true).unwrap();
    // Both are read at the same time because an unread one fills the window of the connection.
    let (reply, long) =
        tokio::join!(async { received(within(response).await.unwrap()).await }, async {
            received(within(waiting).await.unwrap()).await
        });
    assert_eq!(
        (reply.status, &reply.content[..]),
        (200, &b"to the end"[..]),
        "the upload under way was cut by the shutdown"
    );
    assert_eq!(
        (long.status, long.content == pattern(300_000)),
        (200, true),
        "the download under way was cut by the shutdown"
    );
    within(stopping).await.unwrap();
    drop(stream);
    // The client's own GOAWAY may come too late for the socket.
    let _how = client.closes().await;
}

#[tokio::test]
async fn an_idle_connection_without_streams_does_not_hold_up_a_shutdown() {
    let mut world = speaking(Protocols::Both).start().await;
    let fresh = Client::open(&world).await;
    let used = Client::open(&world).await;
    used.ask(get(&world.https("/"))).await.assert_ok();
    let began = Stopwatch::start();
    within(world.take_app().shutdown()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "it took too long: {:?}", began.elapsed());
    let _how = (fresh.closes().await, used.closes().await);
}

const SHORT: &str = "[limits]\nidle_timeout = \"1s\"";

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_timeout_and_a_busy_one_is_not() {
    let world = speaking(Protocols::Both).sections(SHORT).start().await;
    let busy = Client::open(&world).await;
    busy.ask(get(&world.https("/"))).await.assert_ok();
    world.origin.hold();
    let (response, _stream) = busy.begin(get(&world.https("/")), true).await;
    let idle = Client::open(&world).await;
    let began = Instant::now();
    // It does not matter how the connection was closed.
    let _how = idle.closes().await;
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "it was over too soon: {:?}",
        began.elapsed()
    );
    assert!(
        !busy.connection.is_finished(),
        "a connection with a request under way was closed as idle"
    );
    world.origin.release_all();
    received(within(response).await.unwrap()).await.assert_ok();
    let began = Instant::now();
    let _how = busy.closes().await;
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "it was over too soon: {:?}",
        began.elapsed()
    );
}

/// Streams that the client has reset do not keep a connection busy.
#[tokio::test]
async fn a_connection_whose_streams_were_reset_is_idle() {
    let world = speaking(Protocols::Both).sections(SHORT).start().await;
    let client = Client::open(&world).await;
    client.ask(get(&world.https("/"))).await.assert_ok();
    world.origin.hold();
    let (response, mut stream) = client.begin(get(&world.https("/")), true).await;
    world.origin.wait_for_requests(2).await;
    stream.send_reset(Reason::CANCEL);
    drop((response, stream));
    world.origin.release_all();
    let _how = client.closes().await;
}

/// HTTP/2 frames between requests do not start a head with a time limit.
#[tokio::test]
async fn http2_frames_between_requests_are_not_a_slow_head() {
    let limits = "[limits]\nheader_read_timeout = \"1s\"";
    let world = speaking(Protocols::Both).sections(limits).start().await;
    let mut client = Client::open(&world).await;
    // The pings last longer than a head may take, before the first request and after it.
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    for round in 0..=7 {
        pace.tick().await;
        if round == 3 {
            client.ask(get(&world.https("/"))).await.assert_ok();
        }
        within(client.pings.ping(Ping::opaque())).await.unwrap();
    }
    client.ask(get(&world.https("/"))).await.assert_ok();
    assert_eq!(world.origin.accepted(), 2, "the API did not accept each request");
}

// ===== Streams that wait for a token =====

#[tokio::test]
async fn streams_reset_while_they_wait_for_a_token_cost_the_others_nothing() {
    let world = speaking(Protocols::Both).start().await;
    let server = &world.authorization_server;
    let client = Client::open(&world).await;
    server.hold();
    let mut begun = Vec::new();
    for _ in 0..20 {
        begun.push(client.begin(get(&world.https("/")), true).await);
    }
    server.wait_for_token_requests(1).await;
    // The stream that has started the refresh is among those that are reset.
    for (response, mut stream) in begun.drain(..15) {
        stream.send_reset(Reason::CANCEL);
        drop(response);
    }
    server.release_all();
    for (response, _stream) in begun {
        received(within(response).await.unwrap()).await.assert_ok();
    }
    client.ask(get(&world.https("/"))).await.assert_ok();
    server.assert_token_requests(1, "streams that were reset have cost a token request");
    world.assert_newest_refresh_token_is_stored();
    server.assert_no_reuse();
}

/// All streams are reset, and the connection is closed.
#[tokio::test]
async fn a_refresh_outlives_the_connection_whose_streams_asked_for_it() {
    let world = speaking(Protocols::Both).start().await;
    let server = &world.authorization_server;
    let client = Client::open(&world).await;
    server.hold();
    let begun = client.begin(get(&world.https("/")), true).await;
    server.wait_for_token_requests(1).await;
    client.connection.abort();
    drop((begun, client));
    server.release_all();
    eventually("it is stored", || world.status().condition == Condition::Fresh).await;
    world.assert_newest_refresh_token_is_stored();
    world.get("/").await.assert_ok();
    server
        .assert_token_requests(1, "the refresh was lost with the connection that had asked for it");
}
