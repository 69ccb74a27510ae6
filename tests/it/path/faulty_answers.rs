//! Answers with a valid head and faulty content. The head must reach the client, because it tells whether the request
//! took effect.

use tokio::io::AsyncReadExt;

use super::raw_api::{RawApi, accept, origin};
use crate::http2::{Client, get as get_http2};
use crate::program::Program;
use crate::texts::assert_says;
use crate::wire::{Wire, get, message, within};
use crate::world::World;

/// The number of repetitions, which makes task-order races likely to show.
const TIMES: usize = 10;

/// Returns the faulty rest of a response, and the part of its content that arrives.
fn faults() -> Vec<(String, &'static str)> {
    let chunked = |rest: &str| format!("transfer-encoding: chunked\r\n\r\n{rest}");
    let long = "e".repeat(20_000);
    vec![
        (chunked("zz\r\n"), ""),
        (chunked(""), ""),
        (chunked(&format!("1;{long}\r\nx\r\n")), ""),
        (chunked("3\r\nabc\r\nzz\r\n"), "abc"),
        (chunked("3\r\nab"), "ab"),
        ("content-length: 9\r\n\r\n".to_owned(), ""),
        ("content-length: 9\r\n\r\nabc".to_owned(), "abc"),
    ]
}

/// Sends a faulty answer at once and closes the connection.
async fn answer(
    mut server: Wire<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
    fault: &str,
) {
    server.head_text().await;
    server.send(format!("HTTP/1.1 201 Created\r\nx-made: yes\r\n{fault}")).await;
}

#[tokio::test]
async fn the_head_arrives_and_the_body_does_not_look_complete() {
    let world = World::new().await;
    let (listener, url) = origin().await;
    for (fault, arrives) in faults() {
        for _ in 0..TIMES {
            let mut wire = Wire::to(&world).await;
            wire.send(message(&get(&format!("{url}/")))).await;
            answer(accept(&listener).await, &fault).await;
            let reply = wire.reply_head().await;
            assert_eq!(
                (reply.status, reply.field("x-made")),
                (201, Some("yes")),
                "{fault:.60?}: the head of the faulty answer was changed"
            );
            let mut rest = std::mem::take(&mut wire.unread);
            let _reset = within(wire.stream.read_to_end(&mut rest)).await;
            let rest = String::from_utf8_lossy(&rest).into_owned();
            assert!(
                rest.contains(arrives),
                "{fault:.60?}: the content before the fault is missing: {rest:?}"
            );
            assert!(
                !rest.ends_with("0\r\n\r\n") && rest.len() < 9,
                "the truncated body looks complete: {rest:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_head_arrives_over_http2_and_the_stream_is_reset() {
    let (world, api) = RawApi::start(&[b"http/1.1"]).await;
    let client = Client::open_to(&world, &api.authority()).await;
    let url = api.http("/").replace("http://", "https://");
    for (fault, arrives) in faults() {
        for _ in 0..TIMES {
            let (response, _) = client.begin(get_http2(&url), true).await;
            answer(Wire::over(api.accept().await), &fault).await;
            let response = within(response).await.expect("a head");
            assert_eq!(response.status(), 201, "the head of the faulty response did not arrive");
            let (mut content, mut seen) = (response.into_body(), Vec::new());
            let ended = loop {
                match within(content.data()).await {
                    Some(Ok(data)) => seen.extend_from_slice(&data),
                    ended => break ended,
                }
            };
            assert!(matches!(ended, Some(Err(_))), "the truncated body looks complete");
            assert_eq!(
                String::from_utf8_lossy(&seen),
                arrives,
                "{fault:.60?}: the content before the fault is missing or changed"
            );
        }
    }
}

#[tokio::test]
async fn the_log_says_what_was_wrong_with_content() {
    let world = World::new().await;
    let program = Program::start(&world).await;
    let (listener, url) = origin().await;
    for (framing, cause) in [
        ("content-length: 10", "end of file before message length reached"),
        ("transfer-encoding: chunked", "unexpected EOF during chunk size line"),
    ] {
        let mut client = Wire::to_address(program.proxy).await;
        client.send(message(&get(&url))).await;
        let mut server = accept(&listener).await;
        server.head_text().await;
        server.send(&format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
        drop(server);
        let line = program.logs(cause).await;
        assert_says("the log line", &line, ["broken=true"]);
    }
    program.stop().await;
}
