//! P16, P18, P19 and P26: origin servers with HTTP/2.

use bearerd_test_support::Protocols;
use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, SendResponse};
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::server::TlsStream;

use super::raw_api::RawApi;
use crate::http2::{Client, get as get_http2, received};
use crate::texts::assert_says;
use crate::wire::{Wire, get, message, within};
use crate::world::World;

type Exchange = (Request<h2::RecvStream>, SendResponse<Bytes>);

/// Returns a channel of all requests, each with the number of its connection.
fn requests(api: RawApi, builder: Builder) -> UnboundedReceiver<(usize, Exchange)> {
    let (send, receive) = unbounded_channel();
    tokio::spawn(async move {
        for number in 1.. {
            let connection = builder.handshake(api.accept().await).await.unwrap();
            tokio::spawn(hand_out(number, connection, send.clone()));
        }
    });
    receive
}

async fn hand_out(
    number: usize,
    mut connection: Connection<TlsStream<TcpStream>, Bytes>,
    send: UnboundedSender<(usize, Exchange)>,
) {
    while let Some(Ok(exchange)) = connection.accept().await {
        let _ended = send.send((number, exchange));
    }
}

fn answer(mut respond: SendResponse<Bytes>, status: u16) {
    let response = Response::builder().status(status).body(()).unwrap();
    respond.send_response(response, true).unwrap();
}

/// Sends a plain http request, which bearerd forwards over HTTP/2 if the origin server speaks only that.
async fn begin(world: &World, url: &str) -> Wire {
    let mut wire = Wire::to(world).await;
    wire.send(message(&get(url))).await;
    wire
}

#[tokio::test]
async fn p16_a_client_that_does_not_read_stalls_nobody_else() {
    const LENGTH: usize = 64 << 20;
    let world = World::builder().origin(|config| config.protocols = Protocols::Http2).start().await;
    let mut stalled = Vec::new();
    for _ in 0..10 {
        let mut wire = begin(&world, &world.http(&format!("/bytes/{LENGTH}"))).await;
        wire.reply_head().await.assert_ok();
        stalled.push(wire);
    }
    world.origin.wait_for_requests(10).await;
    for _ in 0..20 {
        let asked = world.client().get(world.http("/bytes/500000")).send();
        let content = within(within(asked).await.unwrap().bytes()).await.unwrap();
        assert_eq!(
            content.len(),
            500_000,
            "a client that does not read interrupted the content of another"
        );
    }
}

#[tokio::test]
async fn p18_another_connection_is_opened_at_the_stream_limit() {
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let url = api.http("/");
    let mut builder = Builder::new();
    builder.max_concurrent_streams(4);
    let mut requests = requests(api, builder);
    // The first connection tells bearerd the stream limit.
    let mut first = begin(&world, &url).await;
    let (_, (_, respond)) = within(requests.recv()).await.unwrap();
    answer(respond, 200);
    first.reply().await.assert_ok();
    let mut polls = Vec::new();
    for _ in 0..10 {
        let wire = begin(&world, &url).await;
        polls.push((wire, within(requests.recv()).await.unwrap()));
    }
    // Each core has its own connections; none exceeds the stream limit.
    for number in 1..=10 {
        let streams = polls.iter().filter(|(_, (connection, _))| *connection == number).count();
        assert!(streams <= 4, "{streams} on connection {number}");
    }
    for (mut wire, (_, (_, respond))) in polls {
        answer(respond, 200);
        wire.reply().await.assert_ok();
    }
}

#[tokio::test]
async fn p19_a_refused_stream_is_repeated_for_any_method() {
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let target = format!("POST {} HTTP/1.1", api.http("/"));
    let mut requests = requests(api, Builder::new());
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&*target, "Host: x", "Content-Length: 2"]) + "hi").await;
    for _ in 0..2 {
        let (_, (_, mut respond)) = within(requests.recv()).await.unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
    }
    let (_, (request, respond)) = within(requests.recv()).await.unwrap();
    let mut content = request.into_body();
    assert_eq!(
        within(content.data()).await.unwrap().unwrap(),
        "hi",
        "the content of the refused stream was not sent again"
    );
    answer(respond, 201);
    wire.reply().await.assert_status(201, "the repeated request was not answered");
}

#[tokio::test]
async fn p19_a_server_that_requires_http1_gets_it_from_then_on() {
    let (world, api) = RawApi::start(&[b"h2", b"http/1.1"]).await;
    let client = Client::open_to(&world, &api.authority()).await;
    let url = api.http("/").replace("http://", "https://");
    let post = || Request::post(&url).body(()).unwrap();
    let api = async {
        let connection = h2::server::handshake(api.accept().await);
        let mut connection = within(connection).await.unwrap();
        let (_, mut respond) = within(connection.accept()).await.unwrap().unwrap();
        respond.send_reset(Reason::HTTP_1_1_REQUIRED);
        tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
        let mut server = Wire::over(api.accept().await);
        for _ in 0..2 {
            assert!(
                server.head_text().await.starts_with("POST / HTTP/1.1\r\n"),
                "the request was not repeated over HTTP/1.1"
            );
            while !server.chunk().await.is_empty() {}
            server.send("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await;
        }
    };
    let client = async {
        for _ in 0..2 {
            client
                .ask_with(post(), Bytes::from_static(b"hi"))
                .await
                .assert_status(201, "the request was not answered over HTTP/1.1");
        }
    };
    tokio::join!(api, client);
}

#[tokio::test]
async fn p19_a_stream_that_broke_for_another_reason_is_not_repeated() {
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let target = format!("POST {} HTTP/1.1", api.http("/"));
    let mut requests = requests(api, Builder::new());
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&*target, "Host: x", "Content-Length: 2"]) + "hi").await;
    let (_, (_, mut respond)) = within(requests.recv()).await.unwrap();
    respond.send_reset(Reason::INTERNAL_ERROR);
    let reply = wire.reply().await;
    reply.assert_status(502, "a reset stream is not reported as 502");
    assert_says("the answer", reply.text(), ["reset the request's HTTP/2 stream"]);
}

#[tokio::test]
async fn a_malformed_response_is_the_origins_fault_and_not_the_clients() {
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let (authority, url) = (api.authority(), api.http("/"));
    let mut requests = requests(api, Builder::new());
    let client = Client::open_to(&world, &authority).await;
    let (response, _) = client.begin(get_http2(&url.replace("http:", "https:")), true).await;
    let (_, (_, mut respond)) = within(requests.recv()).await.unwrap();
    let head = Response::builder().header("x-long", "x".repeat(70_000)).body(()).unwrap();
    respond.send_response(head, true).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), 502, "the malformed response is not reported as 502");
    let status = response.headers()["proxy-status"].to_str().unwrap();
    assert_says("Proxy-Status", status, ["http_protocol_error"]);
}

#[tokio::test]
async fn an_upgrade_over_http2_is_502() {
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let url = api.http("/");
    let mut requests = requests(api, Builder::new());
    let mut wire = begin(&world, &url).await;
    let (_, (_, mut respond)) = within(requests.recv()).await.unwrap();
    let switching = Response::builder().status(101).body(()).unwrap();
    respond.send_informational(switching).unwrap();
    answer(respond, 200);
    wire.reply().await.is_refusal(502, "http_upgrade_failed");
}

/// With a closed window the origin server does not receive all of the content, even a small one.
#[tokio::test]
async fn an_origin_that_reads_no_content_runs_into_send_timeout() {
    let limits = "[limits]\nsend_timeout = \"1s\"\nresponse_timeout = \"60s\"";
    let (world, api) = RawApi::start_with(&[b"h2"], limits).await;
    let target = format!("POST {} HTTP/1.1", api.http("/"));
    let mut builder = Builder::new();
    builder.initial_window_size(0);
    let url = api.http("/");
    let mut requests = requests(api, builder);
    // The first request may be sent before the origin server's SETTINGS arrive.
    let mut wire = begin(&world, &url).await;
    let (_, (_, respond)) = within(requests.recv()).await.unwrap();
    answer(respond, 204);
    wire.reply().await.assert_status(204, "the first request over HTTP/2 failed");
    wire.send(message(&[&*target, "Host: x", "Content-Length: 9"]) + "hi").await;
    let (_, (request, _held)) = within(requests.recv()).await.unwrap();
    wire.reply().await.is_refusal(504, "connection_write_timeout");
    // The rest of the content is not sent.
    assert!(
        matches!(within(request.into_body().data()).await, Some(Err(_))),
        "the rest of the content was sent after the request failed"
    );
}

#[tokio::test]
async fn content_is_left_out_where_none_can_be() {
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let (authority, url) = (api.authority(), api.http("/"));
    let mut requests = requests(api, Builder::new());
    let client = Client::open_to(&world, &authority).await;
    for (method, status) in [("GET", 204), ("GET", 304), ("HEAD", 200)] {
        let request = Request::builder().method(method).uri(url.replace("http:", "https:"));
        let (response, _) = client.begin(request.body(()).unwrap(), true).await;
        let (_, (_, mut respond)) = within(requests.recv()).await.unwrap();
        let head = Response::builder().status(status).body(()).unwrap();
        let mut content = respond.send_response(head, false).unwrap();
        content.send_data("no".into(), true).unwrap();
        let mut response = within(response).await.unwrap();
        assert_eq!(response.status(), status, "{method}: the status was changed");
        assert!(
            within(response.body_mut().data()).await.is_none(),
            "{method} {status}: the response has content although it can have none"
        );
    }
}

#[tokio::test]
async fn a_connection_whose_origin_is_late_gets_no_further_requests() {
    let (world, api) = RawApi::start_with(&[b"h2"], "[limits]\nresponse_timeout = \"1s\"").await;
    let (authority, url) = (api.authority(), api.http("/").replace("http:", "https:"));
    let mut requests = requests(api, Builder::new());
    let client = Client::open_to(&world, &authority).await;
    let (late, _) = client.begin(get_http2(&url), true).await;
    let (first, held) = within(requests.recv()).await.unwrap();
    assert_eq!(
        within(late).await.unwrap().status(),
        504,
        "a late origin server is not reported as 504"
    );
    let (next, _) = client.begin(get_http2(&url), true).await;
    let (second, (_, respond)) = within(requests.recv()).await.unwrap();
    answer(respond, 204);
    assert_eq!(within(next).await.unwrap().status(), 204, "the request after the timeout failed");
    assert_ne!(first, second, "the next request reused the connection of the timed-out request");
    drop(held);
}

/// nginx sends such a GOAWAY at `keepalive_requests`.
#[tokio::test]
async fn p19_requests_that_goaway_leaves_out_are_repeated() {
    const REQUESTS: usize = 300;
    const PER_CONNECTION: usize = 10;
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let authority = api.authority();
    tokio::spawn(async move {
        loop {
            let stream = api.accept().await;
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                for served in 1.. {
                    let Some(Ok((mut request, respond))) = connection.accept().await else {
                        return;
                    };
                    tokio::spawn(async move {
                        while request.body_mut().data().await.is_some() {}
                        answer(respond, 201);
                    });
                    if served == PER_CONNECTION {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let client = Client::open_to(&world, &authority).await;
    for _ in 0..REQUESTS / 50 {
        let mut answers = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let request = Request::post(format!("https://{authority}/")).body(()).unwrap();
            let (response, mut stream) = client.begin(request, false).await;
            stream.send_data(Bytes::from_static(b"content"), true).unwrap();
            answers.spawn(async move { received(within(response).await.unwrap()).await.status });
        }
        assert_eq!(
            answers.join_all().await,
            [201; 50],
            "requests excluded by GOAWAY were not repeated"
        );
    }
}

#[tokio::test]
async fn a_reset_response_never_looks_complete() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let (world, api) = RawApi::start(&[b"h2"]).await;
        let url = api.http("/");
        let mut requests = requests(api, Builder::new());
        let mut wire = begin(&world, &url).await;
        let (_, (_, mut respond)) = within(requests.recv()).await.unwrap();
        let mut content = respond.send_response(Response::new(()), false).unwrap();
        content.send_data(Bytes::from_static(b"half"), false).unwrap();
        wire.reply_head().await.assert_ok();
        assert_eq!(wire.chunk().await, b"half", "the content before the reset is missing");
        content.send_reset(reason);
        let rest = within(wire.rest()).await;
        assert!(rest.is_empty(), "{reason}: a reset response looks complete: {rest:?}");
    }
}

#[tokio::test]
async fn p26_a_session_offers_what_the_origin_is_known_to_speak() {
    let world = World::new().await;
    let client = Client::open(&world).await;
    client.ask(get_http2(&world.https("/"))).await.assert_ok();
    // One core knows the protocol now. Sessions are distributed over the cores.
    let (mut agreed, mut only) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        agreed.push(crate::http2::agreed(&world, &[b"h2", b"http/1.1"]).await);
    }
    for _ in 0..4 {
        only.push(crate::http2::agreed(&world, &[b"h2"]).await);
    }
    assert!(
        agreed.contains(&Some(b"http/1.1".to_vec())),
        "HTTP/1.1 is no longer offered: {agreed:?}"
    );
    assert_eq!(only, vec![Some(b"h2".to_vec()); 4], "a client that speaks only HTTP/2 is refused");
}
