//! P6, P7, P11 to P13 and P32 to P34: client connections and how they end.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bearerd_test_support::Answer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw_api::{accept, origin};
use crate::connect::{connect, secure};
use crate::http2::{Client, get as get_http2};
use crate::program::Program;
use crate::texts::assert_says;
use crate::wire::{Wire, ask, get, message, nobody, within};
use crate::world::World;

const MIB: usize = 1024 * 1024;

fn post(url: &str, length: usize) -> String {
    message(&[&*format!("POST {url} HTTP/1.1"), "Host: x", &format!("Content-Length: {length}")])
}

// ===== Refusals while the client sends =====

/// Sends the whole request before reading the response, as some programs do.
async fn uploads_whole(
    wire: &mut Wire<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
    head: String,
    length: usize,
) {
    within(async {
        wire.stream.write_all(head.as_bytes()).await.expect("the head");
        for _ in 0..length / MIB {
            wire.stream
                .write_all(&vec![b'x'; MIB])
                .await
                .expect("the proxy reads unwanted content");
        }
        wire.stream.flush().await.expect("the end");
    })
    .await;
}

#[tokio::test]
async fn p06_a_refusal_is_read_by_a_client_that_sends_everything_first() {
    let world = World::builder().sections("[limits]\nbody_bytes = \"8MiB\"").start().await;
    let gone = format!("http://{}/", nobody().await);
    for (url, length, status) in [
        ("http://169.254.169.254/".to_owned(), 8 * MIB, 403),
        (gone, 8 * MIB, 502),
        (world.http("/"), 9 * MIB, 413),
        ("http://x@localhost/".to_owned(), 8 * MIB, 400),
    ] {
        let mut wire = Wire::to(&world).await;
        uploads_whole(&mut wire, post(&url, length), length).await;
        let reply = wire.reply().await;
        assert_eq!(reply.status, status, "{url}: the refusal did not reach the client");
        assert_eq!(
            reply.field("connection"),
            Some("close"),
            "{url}: the connection was kept after the refusal"
        );
    }
}

#[tokio::test]
async fn p06_a_refusal_inside_a_session_is_read_as_well() {
    let world = World::builder().sections("[limits]\nbody_bytes = \"1MiB\"").start().await;
    let mut wire = secure(&world, world.origin.authority()).await;
    let head = message(&[
        "POST / HTTP/1.1",
        &*format!("Host: {}", world.origin.authority()),
        "Content-Length: 8388608",
    ]);
    uploads_whole(&mut wire, head, 8 * MIB).await;
    wire.reply().await.assert_status(413, "the refusal did not reach the client");
}

#[tokio::test]
async fn p06_an_early_answer_is_read_by_a_client_that_sends_everything_first() {
    let world = World::plain().settled().await;
    let (listener, url) = origin().await;
    let served = tokio::spawn(async move {
        let mut server = accept(&listener).await;
        server.head_text().await;
        server.send("HTTP/1.1 403 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
        // Dropping the socket with unread content causes a TCP reset.
    });
    let mut wire = Wire::to(&world).await;
    uploads_whole(&mut wire, post(&format!("{url}/"), 8 * MIB), 8 * MIB).await;
    wire.reply()
        .await
        .assert_status(403, "the origin server's early answer did not reach the client");
    served.await.unwrap();
}

// ===== Half-closed =====

#[tokio::test]
async fn p07_a_client_that_closes_its_half_gets_its_answer() {
    let world = World::new().await;
    world.origin.hold();
    let mut wire = Wire::to(&world).await;
    wire.send(post(&world.http("/echo"), 4) + "more").await;
    wire.stream.shutdown().await.unwrap();
    world.origin.wait_for_requests(1).await;
    // These later requests prove that the proxy has seen the end by then.
    for _ in 0..4 {
        ask(&world, &["OPTIONS * HTTP/1.1", "Host: x"]).await.assert_ok();
    }
    world.origin.release_all();
    let reply = wire.reply().await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (200, "more"),
        "the answer did not arrive on the half-closed connection"
    );
    wire.is_closed().await;
}

#[tokio::test]
async fn p07_a_client_that_closes_its_half_inside_a_session_gets_its_answer() {
    let world = World::new().await;
    let mut wire = secure(&world, world.origin.authority()).await;
    wire.send(message(&["GET / HTTP/1.1", &*format!("Host: {}", world.origin.authority())])).await;
    wire.stream.shutdown().await.unwrap();
    wire.reply().await.assert_ok();
}

#[tokio::test]
async fn p07_content_that_never_comes_ends_the_request() {
    let world = World::new().await;
    let (listener, url) = origin().await;
    let mut wire = Wire::to(&world).await;
    wire.send(post(&format!("{url}/"), 100) + "half").await;
    let mut server = accept(&listener).await;
    server.head_text().await;
    assert_eq!(
        server.exactly(4).await,
        b"half",
        "the origin server did not receive the content sent so far"
    );
    wire.stream.shutdown().await.unwrap();
    server.is_closed().await;
}

#[tokio::test]
async fn p07_a_client_that_may_be_gone_does_not_hold_its_request_for_ever() {
    let world = World::builder().sections("[limits]\nidle_timeout = \"1s\"").start().await;
    let (listener, url) = origin().await;
    let mut client = Wire::to(&world).await;
    client.send(message(&get(&format!("{url}/held")))).await;
    let mut server = accept(&listener).await;
    server.head_text().await;
    drop(client);
    server.is_closed().await;
}

#[tokio::test]
async fn p07_both_halves_of_a_tunnel_end_by_themselves() {
    let world = World::builder().proxy("connect_ports = []").start().await;
    let (listener, url) = origin().await;
    let (mut wire, reply) = connect(&world, url.trim_start_matches("http://")).await;
    reply.assert_ok();
    let mut server = accept(&listener).await;
    wire.send("question").await;
    wire.stream.shutdown().await.unwrap();
    assert_eq!(
        server.rest().await,
        b"question",
        "the client's half-close did not reach the origin server"
    );
    server.send("answer").await;
    assert_eq!(
        wire.exactly(6).await,
        b"answer",
        "the answer did not arrive through the half-closed tunnel"
    );
}

// ===== Truncated answers =====

#[tokio::test]
async fn p11_a_truncated_close_delimited_answer_ends_with_a_reset() {
    let world = World::new().await;
    let (listener, url) = origin().await;
    let mut wire = Wire::to(&world).await;
    wire.send(format!("GET {url}/ HTTP/1.0\r\nHost: x\r\n\r\n")).await;
    let mut server = accept(&listener).await;
    server.head_text().await;
    server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n").await;
    wire.reply_head().await.assert_ok();
    assert_eq!(wire.exactly(4).await, b"some", "the content before the truncation is missing");
    drop(server);
    let ended = within(wire.stream.read(&mut [0; 16])).await;
    assert_eq!(
        ended.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionReset),
        "a truncated response ended like a complete one"
    );
}

// ===== Request lines =====

#[tokio::test]
async fn p12_options_without_a_path_targets_the_server() {
    let world = World::new().await;
    for (target, received) in [("", "*"), ("/", "/")] {
        let target = format!("OPTIONS {}{target} HTTP/1.1", world.http(""));
        world.origin.clear();
        ask(&world, &[&*target, "Host: x"]).await.assert_ok();
        assert_eq!(world.origin.requests()[0].target, received, "unexpected form of the target");
    }
    // The next request on the same connection is parsed independently.
    let mut wire = Wire::to(&world).await;
    world.origin.clear();
    wire.ask(&[&*format!("OPTIONS {} HTTP/1.1", world.http("")), "Host: x"]).await;
    wire.ask(&[&*format!("OPTIONS {}/ HTTP/1.1", world.http("")), "Host: x"]).await;
    let targets: Vec<_> = world.origin.requests().iter().map(|it| it.target.clone()).collect();
    assert_eq!(targets, ["*", "/"], "the target of the previous request was reused");
}

#[tokio::test]
async fn p13_characters_that_no_uri_has_are_encoded_as_browsers_do() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    for (path, received) in [
        (&b"/a?f={\"a\":1}"[..], "/a?f={%22a%22:1}"),
        (b"/<b>`", "/%3Cb%3E%60"),
        (b"/caf\xe9?q=\xfc", "/caf%E9?q=%FC"),
    ] {
        world.origin.clear();
        let mut request = format!("GET {}", world.http("")).into_bytes();
        request.extend_from_slice(path);
        request.extend_from_slice(b" HTTP/1.1\r\nHost: x\r\n\r\n");
        wire.send(request).await;
        wire.reply().await.assert_status(200, received);
        assert_eq!(
            world.origin.requests()[0].target,
            received,
            "the target was encoded differently"
        );
    }
}

#[tokio::test]
async fn p13_an_unreadable_request_is_refused_with_a_reason_and_logged() {
    let world = World::new().await;
    let program = Program::start(&world).await;
    let long = format!("GET http://x/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000));
    for (request, status, reason) in [
        ("GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400, "RFC 9112"),
        ("GET http://x/ HTTP/1.1\r\nBad Name: 1\r\n\r\n".to_owned(), 400, "RFC 9112"),
        (long, 431, "limits.header_bytes"),
    ] {
        let mut wire = Wire::to_address(program.proxy).await;
        wire.send(&request).await;
        let reply = wire.reply().await;
        reply.is_refusal(status, "http_request_error");
        assert_says("the answer", reply.text(), [reason]);
        assert_eq!(
            reply.field("connection"),
            Some("close"),
            "an unreadable request left the connection open"
        );
        let id = reply.field("x-request-id").unwrap().to_owned();
        let line = program.logs(&id).await;
        let bytes = format!("bytes={}", reply.content.len());
        for word in [&*format!("status={status}"), reason, &bytes] {
            assert_says(&format!("{word}: the log line"), &line, [word]);
        }
    }
    program.stop().await;
}

#[tokio::test]
async fn p13_an_http2_preface_without_tls_is_logged() {
    let world = World::new().await;
    let program = Program::start(&world).await;
    let mut wire = Wire::to_address(program.proxy).await;
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    wire.is_closed().await;
    let line = program.logs("status=400").await;
    assert_says("the log line", &line, ["http_request_error"]);
    program.stop().await;
}

#[tokio::test]
async fn p07_a_half_close_may_arrive_with_the_last_content() {
    let world = World::new().await;
    let (listener, url) = origin().await;
    for number in 1..=20 {
        let mut client = Wire::to(&world).await;
        let line = format!("POST {url}/ HTTP/1.1");
        client
            .send(message(&[&*line, "Host: x", "Content-Length: 5", "Connection: close"]) + "he")
            .await;
        let mut server = accept(&listener).await;
        server.head_text().await;
        // The proxy is now waiting for the rest of the content.
        assert_eq!(
            server.exactly(2).await,
            b"he",
            "round {number}: the beginning of the content did not arrive"
        );
        client.send("llo").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(
            server.exactly(3).await,
            b"llo",
            "{number}: the rest of the content did not arrive in round {number}"
        );
        server.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        client.reply().await.assert_status(200, number);
    }
}

// ===== Timeouts =====

/// Returns a client with a small receive buffer, so that unread data stays in the proxy.
async fn narrow_client(world: &World) -> Wire {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    Wire::over(within(socket.connect(world.proxy_address())).await.unwrap())
}

#[tokio::test]
async fn p32_clients_that_never_read_are_freed() {
    let world = World::builder().sections("[limits]\nsend_timeout = \"1s\"").start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let (listener, url) = origin().await;
        let mut client = narrow_client(&world).await;
        client.send(message(&get(&format!("{url}/")))).await;
        let mut server = accept(&listener).await;
        server.head_text().await;
        clients.push((client, server));
    }
    for (_, server) in &mut clients {
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
    }
    for (_client, mut server) in clients {
        // Wait until the proxy closes the connection.
        within(async { while server.stream.write_all(&[0; 65536]).await.is_ok() {} }).await;
    }
}

#[tokio::test]
async fn p32_answers_that_stall_are_aborted() {
    let world = World::builder().sections("[limits]\nstall_timeout = \"1s\"").start().await;
    let (listener, url) = origin().await;
    for version in ["1.1", "1.0"] {
        let mut client = Wire::to(&world).await;
        client.send(format!("GET {url}/ HTTP/{version}\r\nHost: x\r\n\r\n")).await;
        let mut server = accept(&listener).await;
        server.head_text().await;
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
        client.reply_head().await.assert_ok();
        assert_eq!(
            client.exactly(4).await,
            b"some",
            "HTTP/{version}: the content before the stall is missing"
        );
        server.is_closed().await;
        let ended = within(client.stream.read(&mut [0; 16])).await;
        assert_eq!(
            ended.map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionReset),
            "{version}: a stalled answer ended like a complete one"
        );
    }
}

#[tokio::test]
async fn p32_a_stalled_http2_stream_is_reset_and_others_continue() {
    let world = World::builder().sections("[limits]\nstall_timeout = \"1s\"").start().await;
    let client = Client::open(&world).await;
    world.origin.enqueue(Answer::Chunks(vec!["some".into()]));
    let (response, _) = client.begin(get_http2(&world.https("/")), true).await;
    let mut content = within(response).await.unwrap().into_body();
    let ended = within(async {
        loop {
            match content.data().await {
                Some(Ok(_)) => {}
                ended => return ended,
            }
        }
    })
    .await;
    assert!(matches!(ended, Some(Err(_))), "the stalled stream was not reset: {ended:?}");
    client.ask(get_http2(&world.https("/"))).await.assert_ok();
}

#[tokio::test]
async fn p32_an_http2_stream_whose_client_reads_nothing_is_reset_and_others_continue() {
    let world = World::builder().sections("[limits]\nsend_timeout = \"1s\"").start().await;
    let client = Client::open(&world).await;
    world.origin.enqueue(Answer::text(200, &"x".repeat(1 << 20)));
    let (response, _) = client.begin(get_http2(&world.https("/")), true).await;
    // Reads the data, but releases its flow-control window only at the end, for the later request.
    let mut content = within(response).await.unwrap().into_body();
    let mut taken = 0;
    let ended = within(async {
        loop {
            match content.data().await {
                Some(Ok(data)) => taken += data.len(),
                ended => return ended,
            }
        }
    })
    .await;
    assert!(
        matches!(ended, Some(Err(_))),
        "the stream whose client takes nothing was not reset: {ended:?}"
    );
    let _given_back = content.flow_control().release_capacity(taken);
    drop(content);
    client.ask(get_http2(&world.https("/"))).await.assert_ok();
}

#[tokio::test]
async fn p32_an_origin_that_reads_nothing_is_504() {
    let world = World::builder().sections("[limits]\nsend_timeout = \"1s\"").start().await;
    let (listener, url) = origin().await;
    let mut client = Wire::to(&world).await;
    let head = post(&format!("{url}/"), 64 * MIB);
    let (mut reader, mut writer) = client.stream.split();
    let uploading = async {
        writer.write_all(head.as_bytes()).await?;
        loop {
            writer.write_all(&[0; 65536]).await?;
        }
    };
    let _server = tokio::spawn(async move { accept(&listener).await });
    let mut answer = vec![0; 12];
    let read = within(async {
        tokio::select! {
            read = reader.read_exact(&mut answer) => read,
            ended = uploading => { let ended: std::io::Result<()> = ended; panic!("{ended:?}") }
        }
    })
    .await;
    read.unwrap();
    assert_eq!(
        answer, b"HTTP/1.1 504",
        "an origin server that reads nothing is not reported as 504"
    );
}

#[tokio::test]
async fn p33_a_reader_that_pauses_longer_than_the_idle_time_gets_everything() {
    let limits = "[limits]\nidle_timeout = \"1s\"\nsend_timeout = \"30s\"";
    let world = World::builder().sections(limits).start().await;
    let mut client = narrow_client(&world).await;
    let length = 4 * MIB;
    client.send(message(&get(&world.http(&format!("/bytes/{length}"))))).await;
    client.reply_head().await.assert_ok();
    client.exactly(length / 2).await;
    // The pause is longer than idle_timeout.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        client.exactly(length / 2).await.len(),
        length / 2,
        "a client that paused did not receive all content"
    );
}

#[tokio::test]
async fn p34_a_slow_upload_after_an_early_answer_is_not_a_slow_head() {
    let world = World::builder().sections("[limits]\nheader_read_timeout = \"1s\"").start().await;
    let (listener, url) = origin().await;
    let mut client = Wire::to(&world).await;
    client.send(post(&format!("{url}/"), 8) + "x").await;
    let mut server = accept(&listener).await;
    server.head_text().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
    assert_eq!(client.reply().await.text(), "early", "the early answer did not reach the client");
    let began = Instant::now();
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send("x").await;
    }
    assert!(began.elapsed() > Duration::from_secs(3), "the upload was too short for this test");
    assert_eq!(server.exactly(8).await.len(), 8, "the rest of the upload did not arrive");
    // The connection still serves the next request.
    client.send(message(&get(&format!("{url}/next")))).await;
    let next = server.head_text().await;
    assert!(
        next.starts_with("GET /next "),
        "the connection does not serve the next request: {next}"
    );
}

// ===== Logs =====

#[tokio::test]
async fn p34_a_closed_tunnel_is_logged_with_its_byte_counts() {
    let world = World::builder().proxy("connect_ports = []").start().await;
    let (listener, url) = origin().await;
    let program = Program::start(&world).await;
    let mut wire = Wire::to_address(program.proxy).await;
    let target = url.trim_start_matches("http://");
    let lines = [format!("CONNECT {target} HTTP/1.1"), format!("Host: {target}")];
    wire.ask_head(&lines).await.assert_ok();
    let mut server = accept(&listener).await;
    wire.send("question").await;
    assert_eq!(server.exactly(8).await, b"question", "the tunnel changed what the client sent");
    server.send("answer").await;
    assert_eq!(wire.exactly(6).await, b"answer", "the tunnel changed what the server sent");
    drop(server);
    drop(wire);
    let line = program.logs(target).await;
    for part in ["method=CONNECT", "status=200", "received=8", "bytes=6"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    program.stop().await;
}
