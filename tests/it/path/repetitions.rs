//! Rejections that arrive before the end of the request content: a repetition contains all of the content, or does
//! not happen.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::raw_api::RawApi;
use crate::wire::{Wire, get, message, within};
use crate::world::World;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const REJECTED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";

/// An upload that was rejected after its head, while the next token is being requested.
struct Rejected {
    world: World,
    api: RawApi,
    client: Wire,
    server: Wire<TlsStream<TcpStream>>,
}

impl Rejected {
    /// Sends a request with `framing` and `first`, and rejects it with 401.
    async fn begin(limits: &str, framing: &str, first: &str) -> Self {
        let sections = format!("[limits]\n{limits}");
        let (world, api) = RawApi::start_with(&[b"http/1.1"], &sections).await;
        let mut client = Wire::to(&world).await;
        client.send(message(&get(&api.http("/")))).await;
        let mut server = Wire::over(api.accept().await);
        server.head_text().await;
        server.send(OK).await;
        client.reply().await.assert_ok();
        // The token is older than the propagation delay, so the rejection counts.
        world.clock.advance(Duration::from_secs(60));
        let requests = world.authorization_server.token_requests();
        world.authorization_server.hold();
        let line = format!("POST {} HTTP/1.1", api.http("/"));
        client.send(message(&[&*line, "Host: x", framing]) + first).await;
        server.head_text().await;
        server.send(REJECTED).await;
        within(world.authorization_server.wait_for_token_requests(requests + 1)).await;
        Self { world, api, client, server }
    }

    /// Sends `more`, which the proxy must not read before it has a token, and accepts the repeated request.
    async fn goes_on(&mut self, more: &str) -> Wire<TlsStream<TcpStream>> {
        if !more.is_empty() {
            self.client.send(more).await;
        }
        let mut read = vec![0; 1 << 20];
        let pause = Duration::from_millis(300);
        let mut passed = 0;
        while let Ok(Ok(length)) =
            tokio::time::timeout(pause, self.server.stream.read(&mut read)).await
        {
            passed += length;
        }
        assert!(passed < 60_000, "the proxy read {passed} bytes, more than it may buffer");
        self.world.authorization_server.release_all();
        Wire::over(self.api.accept().await)
    }
}

fn chunk(length: usize) -> String {
    format!("{length:x}\r\n{}\r\n", "x".repeat(length))
}

async fn content(server: &mut Wire<TlsStream<TcpStream>>) -> usize {
    let mut length = 0;
    loop {
        match server.chunk().await.len() {
            0 => return length,
            more => length += more,
        }
    }
}

#[tokio::test]
async fn content_is_sent_again_although_the_rest_exceeds_the_replay_buffer() {
    let limits = "replay_bytes = \"64KiB\"";
    let first = chunk(1_000);
    let mut chunked = Rejected::begin(limits, "Transfer-Encoding: chunked", &first).await;
    let mut server = chunked.goes_on(&(chunk(100_000) + "0\r\n\r\n")).await;
    server.head_text().await;
    assert_eq!(
        content(&mut server).await,
        101_000,
        "the repetition lacks some of the chunked content"
    );
    server.send(OK).await;
    chunked.client.reply().await.assert_ok();

    let first = "x".repeat(1_000);
    let mut known = Rejected::begin(limits, "Content-Length: 101000", &first).await;
    let mut server = known.goes_on(&"x".repeat(100_000)).await;
    server.head_text().await;
    assert_eq!(
        server.exactly(101_000).await.len(),
        101_000,
        "the repetition lacks some of the content"
    );
    server.send(OK).await;
    known.client.reply().await.assert_ok();
}

#[tokio::test]
async fn content_that_breaks_off_during_a_repetition_is_not_taken_for_the_whole() {
    let mut upload = Rejected::begin("", "Transfer-Encoding: chunked", &chunk(3)).await;
    let mut server = upload.goes_on("ZZ\r\n").await;
    assert!(!server.rest().await.ends_with(b"0\r\n\r\n"), "the truncated body looks complete");
    upload
        .client
        .reply()
        .await
        .assert_status(400, "malformed content is not reported to the client as 400");
}

#[tokio::test]
async fn a_client_that_leaves_during_a_repetition_has_not_sent_a_whole_request() {
    let mut upload = Rejected::begin("", "Transfer-Encoding: chunked", &chunk(3)).await;
    upload.client.send("3\r\nde").await;
    upload.client.stream.shutdown().await.unwrap();
    let mut server = upload.goes_on("").await;
    assert!(!server.rest().await.ends_with(b"0\r\n\r\n"), "the truncated body looks complete");
}

#[tokio::test]
async fn content_that_is_too_large_during_a_repetition_is_413() {
    let limits = "body_bytes = \"30KiB\"";
    let mut upload = Rejected::begin(limits, "Transfer-Encoding: chunked", &chunk(16_384)).await;
    let mut server = upload.goes_on(&(chunk(16_384) + &chunk(8_192) + "0\r\n\r\n")).await;
    let rest = server.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the truncated body looks complete");
    upload
        .client
        .reply()
        .await
        .assert_status(413, "content that is too large is not reported to the client as 413");
}

/// The half-close is not an error, because the content is complete.
#[tokio::test]
async fn a_client_that_half_closes_during_a_repetition_gets_its_answer() {
    let mut upload = Rejected::begin("", "Content-Length: 5", "hel").await;
    upload.client.send("lo").await;
    upload.client.stream.shutdown().await.unwrap();
    let mut server = upload.goes_on("").await;
    server.head_text().await;
    assert_eq!(server.exactly(5).await, b"hello", "the repetition lacks some of the content");
    server.send(OK).await;
    upload.client.reply().await.assert_ok();
}

/// Content that was not buffered cannot be repeated, so the client gets the API's rejection.
#[tokio::test]
async fn a_rejection_is_forwarded_if_the_content_was_not_kept() {
    let sections = "[limits]\nreplay_bytes = \"1KiB\"";
    let (world, api) = RawApi::start_with(&[b"http/1.1"], sections).await;
    for (framing, content) in [
        ("Content-Length: 2000", "x".repeat(2_000)),
        ("Transfer-Encoding: chunked", chunk(2_000) + "0\r\n\r\n"),
    ] {
        let mut client = Wire::to(&world).await;
        let line = format!("POST {} HTTP/1.1", api.http("/"));
        client.send(message(&[&*line, "Host: x", framing, "Connection: close"]) + &content).await;
        let mut server = Wire::over(api.accept().await);
        server.head_text().await;
        match framing {
            "Content-Length: 2000" => drop(server.exactly(2_000).await),
            _ => while !server.chunk().await.is_empty() {},
        }
        server
            .send("HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 3\r\n\r\nno!")
            .await;
        let reply = client.reply().await;
        assert_eq!(
            (reply.status, &*reply.text()),
            (401, "no!"),
            "{framing}: the rejection did not reach the client completely"
        );
    }
}
