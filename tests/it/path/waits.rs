//! Timeouts apply to one peer each, and start when that peer has to act.

use std::time::{Duration, Instant};

use http::{Method, Request};

use super::raw_api::{RawApi, accept, origin};
use crate::http2::Client;
use crate::program::Program;
use crate::texts::assert_says;
use crate::wire::{Wire, message, within};
use crate::world::World;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn limits(limits: &str) -> World {
    World::builder().sections(&format!("[limits]\n{limits}\n")).start().await
}

#[tokio::test]
async fn response_timeout_does_not_run_while_the_client_pauses() {
    let world = limits("response_timeout = \"2s\"\nsend_timeout = \"500ms\"").await;
    let (listener, url) = origin().await;
    for framing in ["Content-Length: 6", "Transfer-Encoding: chunked"] {
        let pieces = match framing {
            "Content-Length: 6" => ["abc", "def"],
            _ => ["3\r\nabc\r\n", "3\r\ndef\r\n0\r\n\r\n"],
        };
        let mut client = Wire::to(&world).await;
        client.send(message(&[&*format!("POST {url}/ HTTP/1.1"), "Host: x", framing])).await;
        client.send(pieces[0]).await;
        let mut server = accept(&listener).await;
        server.head_text().await;
        let early = tokio::time::timeout(Duration::from_secs(4), client.reply()).await;
        assert!(early.is_err(), "{framing}: the request ended before its content: {early:?}");
        client.send(pieces[1]).await;
        match framing {
            "Content-Length: 6" => {
                assert_eq!(server.exactly(6).await, b"abcdef", "the content is incomplete")
            }
            _ => while !server.chunk().await.is_empty() {},
        }
        // response_timeout starts here.
        let early = tokio::time::timeout(Duration::from_secs(1), client.reply()).await;
        assert!(early.is_err(), "{framing}: response_timeout expired too early: {early:?}");
        server.send(OK).await;
        client.reply().await.assert_status(200, framing);
    }
}

#[tokio::test]
async fn response_timeout_starts_again_for_a_repeated_request() {
    let (world, api) =
        RawApi::start_with(&[b"http/1.1"], "[limits]\nresponse_timeout = \"2s\"").await;
    let mut client = Wire::to(&world).await;
    let line = format!("POST {} HTTP/1.1", api.http("/"));
    client.send(message(&[&*line, "Host: x", "Content-Length: 2"]) + "hi").await;
    let mut server = Wire::over(api.accept().await);
    for answer in ["HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", OK] {
        server.head_text().await;
        assert_eq!(server.exactly(2).await, b"hi", "the content did not arrive with each attempt");
        let early = tokio::time::timeout(Duration::from_millis(1400), client.reply()).await;
        assert!(early.is_err(), "an answer without one from the origin server");
        server.send(answer).await;
    }
    client.reply().await.assert_ok();
}

#[tokio::test]
async fn response_timeout_starts_with_the_end_of_the_content() {
    let world = limits("response_timeout = \"1s\"\nsend_timeout = \"20s\"").await;
    let (listener, url) = origin().await;
    let mut client = Wire::to(&world).await;
    let head = [&*format!("POST {url}/ HTTP/1.1"), "Host: x", "Content-Length: 6"];
    client.send(message(&head)).await;
    client.send("abc").await;
    let mut server = accept(&listener).await;
    server.head_text().await;
    server.exactly(3).await;
    client.send("def").await;
    let began = Instant::now();
    client.reply().await.is_refusal(504, "http_response_timeout");
    let took = began.elapsed();
    assert!(
        Duration::from_millis(900) < took && took < Duration::from_secs(4),
        "the request ended too early or too late: {took:?}"
    );
}

#[tokio::test]
async fn a_client_that_stops_sending_content_gets_408_and_the_origin_connection_is_freed() {
    let world = World::builder()
        .sections("[limits]\nstall_timeout = \"1s\"\nresponse_timeout = \"20s\"\n")
        .start_servers()
        .await;
    let program = Program::start(&world).await;
    let (listener, url) = origin().await;
    let mut client = Wire::to_address(program.proxy).await;
    client
        .send(message(&[&*format!("POST {url}/ HTTP/1.1"), "Host: x", "Content-Length: 6"]))
        .await;
    client.send("abc").await;
    let mut server = accept(&listener).await;
    server.head_text().await;
    let reply = client.reply().await;
    reply.is_refusal(408, "http_request_error");
    assert_eq!(
        reply.field("connection"),
        Some("close"),
        "the connection of the stalled client was kept"
    );
    assert_says("the answer", reply.text(), ["limits.stall_timeout"]);
    server.exactly(3).await;
    server.is_closed().await;
    let line = program.logs("status=408").await;
    assert_says("the log line", &line, ["http_request_error"]);
    let metrics = Wire::to_address(program.admin)
        .await
        .ask(&["GET /metrics HTTP/1.1", "Host: localhost"])
        .await
        .text();
    assert_says(
        "the metrics",
        &metrics,
        ["bearerd_limits_reached_total{limit=\"stall_timeout\"} 1"],
    );
    program.stop().await;
}

#[tokio::test]
async fn a_stream_whose_client_stops_sending_content_gets_408_and_the_others_go_on() {
    let (world, api) = RawApi::start_with(&[b"http/1.1"], "[limits]\nstall_timeout = \"1s\"").await;
    let client = Client::open_to(&world, &api.authority()).await;
    let url = api.http("/").replace("http://", "https://");
    let request = Request::builder().method(Method::POST).uri(&*url).body(()).unwrap();
    let (response, mut content) = client.begin(request, false).await;
    content.send_data("abc".into(), false).unwrap();
    let mut server = Wire::over(api.accept().await);
    server.head_text().await;
    assert_eq!(
        within(response).await.unwrap().status(),
        408,
        "the stalled client did not get a 408"
    );
    let (response, _) = client.begin(crate::http2::get(&url), true).await;
    let mut server = Wire::over(api.accept().await);
    server.head_text().await;
    server.send(OK).await;
    assert_eq!(
        within(response).await.unwrap().status(),
        200,
        "another stream of the connection failed"
    );
}
