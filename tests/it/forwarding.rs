//! Requests in plain http to the proxy's listener: what the origin server receives and what the client gets.

use std::net::Ipv4Addr;

use bearerd_test_support::{Answer, OriginConfig, OriginServer, pattern};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::wire::{Wire, ask, get, message, raw_origin, within};
use super::world::World;

// ===== With a credential =====

#[tokio::test]
async fn plain_http_for_the_host_of_a_credential_leaves_over_tls_with_the_token() {
    let world = World::new().await;
    let status = world.get("/a?b=c").await.status;
    assert_eq!(status, 200, "the request in plain http was not served");
    let request = &world.origin.requests()[0];
    let token = world.authorization_server.tokens().newest_access_token();
    assert_eq!(
        request.bearer().map(str::to_owned),
        token,
        "the token of the credential was not sent"
    );
    assert_eq!(request.target, "/a?b=c", "the target was changed");
    assert_eq!(
        request.header("host"),
        Some(world.origin.authority().as_str()),
        "the API sees another Host"
    );
}

#[tokio::test]
async fn allow_http_keeps_a_plain_http_request_plain() {
    let world = World::plain().start().await;
    let status = world.get("/a").await.status;
    assert_eq!(status, 200, "the request in plain http was not served");
    assert_eq!(world.origin.accepted(), 1, "the API did not accept the token");
}

#[tokio::test]
async fn without_allow_http_no_token_is_sent_to_an_origin_that_speaks_no_tls() {
    let world = World::builder().plain_origin().start().await;
    let reply = ask(&world, &get(&world.http("/a"))).await;
    reply.is_refusal(502, "tls_protocol_error");
    world.origin.assert_requests(0, "a token was sent in clear");
}

#[tokio::test]
async fn a_host_is_the_same_in_any_case_and_the_origin_sees_it_in_lower_case() {
    let world = World::new().await;
    let url = format!("http://LocalHost:{}/", world.origin.port());
    let reply = ask(&world, &get(&url)).await;
    reply.assert_ok();
    assert_eq!(
        world.origin.requests()[0].header("host"),
        Some(&*world.origin.authority()),
        "the API sees another Host"
    );
}

#[tokio::test]
async fn the_token_replaces_every_authorization_of_the_client() {
    let world = World::new().await;
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let lines = [&*target, "Host: x", "Authorization: Basic Zm9v", "AUTHORIZATION: Bearer mine"];
    ask(&world, &lines).await.assert_ok();
    assert_eq!(
        world.origin.requests()[0].headers.get_all("authorization").iter().count(),
        1,
        "a header of the client's own was kept beside the token"
    );
}

#[tokio::test]
async fn no_connection_field_strips_the_token_the_host_or_the_length() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let head = message(&[
        &target,
        "Host: x",
        "Connection: close, Authorization",
        "Connection: host, content-length, cookie",
        "Content-Length: 5",
        "Cookie: a=b",
    ]);
    let mut wire = Wire::to(&world).await;
    wire.send(head + "hello").await;
    wire.reply().await.assert_ok();
    let request = &world.origin.requests()[0];
    assert!(request.bearer().is_some(), "the client removed the token with a Connection field");
    assert_eq!(
        request.header("host"),
        Some(&*world.origin.authority()),
        "the client changed Host with a Connection field"
    );
    assert_eq!(
        request.header("cookie"),
        Some("a=b"),
        "the client removed a cookie with a Connection field"
    );
    assert_eq!(&request.body[..], b"hello", "the content did not arrive");
    wire.is_closed().await;
}

#[tokio::test]
async fn the_target_decides_which_credential_and_never_the_host_field() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let to_other = format!("GET http://{}/ HTTP/1.1", other.authority());
    let host_of_api = format!("Host: {}", world.origin.authority());
    ask(&world, &[&to_other, &host_of_api]).await.assert_ok();
    let request = &other.requests()[0];
    assert_eq!(request.header("authorization"), None, "the Host field chose the credential");
    assert_eq!(
        request.header("host"),
        Some(&*other.authority()),
        "the other server sees another Host than that of the target"
    );

    let to_api = format!("GET {} HTTP/1.1", world.http("/"));
    for host in ["Host: evil.test", "Host:", "Host: evil.test\r\nX-Forwarded-Host: evil.test"] {
        ask(&world, &[&*to_api, host]).await.assert_status(200, host);
    }
    assert!(
        world.origin.requests().iter().all(|request| {
            request.header("host") == Some(&*world.origin.authority()) && request.bearer().is_some()
        }),
        "the Host field decided about the host or the token"
    );
}

#[tokio::test]
async fn the_client_s_own_authorization_is_replaced() {
    let world = World::new().await;
    for url in [world.http("/"), world.https("/")] {
        let request = world.client().get(url).header("authorization", "Bearer of-the-client");
        let twice = request.header("authorization", "Basic YTpi");
        assert_eq!(
            twice.send().await.unwrap().status(),
            200,
            "a request with the client's own token was not served"
        );
    }
    let token = world.authorization_server.tokens().newest_access_token().unwrap();
    assert_eq!(
        world.tokens_seen(),
        [token.clone(), token],
        "the client's own token was not replaced"
    );
}

#[tokio::test]
async fn the_token_never_goes_to_another_host_or_port() {
    let world = World::new().await;
    world.get("/").await.assert_ok();
    let other = OriginServer::start(OriginConfig::default()).await;
    let client = world.client();
    let own = client.get(other.url("/")).header("authorization", "Bearer of-the-client");
    assert_eq!(
        own.send().await.unwrap().status(),
        200,
        "a request to another port was not forwarded"
    );
    let address = format!("http://127.0.0.1:{}/", other.port());
    assert_eq!(
        client.get(address).send().await.unwrap().status(),
        200,
        "a request to another host was not forwarded"
    );
    // The target decides, whatever `Host` says (RFC 9112 §3.2.2).
    let disguised = client.get(other.url("/")).header("host", world.origin.authority());
    let disguised = disguised.send().await.unwrap().status();
    assert!(
        disguised == 200 || disguised == 400,
        "the disguised request was answered with another status: {disguised}"
    );
    let seen: Vec<_> = other
        .requests()
        .iter()
        .map(|request| request.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(
        seen[0].as_deref(),
        Some("Bearer of-the-client"),
        "the client's own token for another server was changed"
    );
    assert!(seen[1..].iter().all(Option::is_none), "a token was sent to another host: {seen:?}");
}

// ===== Without a credential =====

#[tokio::test]
async fn a_request_for_no_credential_is_forwarded_untouched() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let path = "/a/../b/%2e%2E//c;x?q=%20&&=&a[]=1";
    let target = format!("BREW http://{}{path}#frag HTTP/1.1", other.authority());
    let mut wire = Wire::to(&world).await;
    let fields = ["Host: x", "Authorization: Bearer mine", "Cookie: a=b", "X-Odd: \t a\u{e9} "];
    let head = message(&[&[&*target, "Content-Length: 4"][..], &fields].concat());
    wire.send(head + "\0\x01\x7f!").await;
    wire.reply().await.assert_ok();
    let request = &other.requests()[0];
    assert_eq!(request.method, "BREW", "the method was changed");
    assert_eq!(request.target, path, "the target was changed");
    assert_eq!(
        request.header("authorization"),
        Some("Bearer mine"),
        "the client's own token was changed"
    );
    assert_eq!(request.header("cookie"), Some("a=b"), "the cookie was changed");
    assert_eq!(
        request.headers["x-odd"].as_bytes(),
        "a\u{e9}".as_bytes(),
        "an unknown field was changed"
    );
    assert_eq!(&request.body[..], b"\0\x01\x7f!", "the content was changed");
}

#[tokio::test]
async fn a_request_for_no_credential_gets_no_authorization() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    ask(&world, &get(&other.url("/"))).await.assert_ok();
    assert!(
        !other.requests()[0].headers.contains_key("authorization"),
        "a token was sent to a host without a credential"
    );
}

#[tokio::test]
async fn unmatched_deny_answers_403_and_dials_nothing() {
    let world = World::builder().proxy(r#"unmatched = "deny""#).start().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    ask(&world, &get(&other.url("/"))).await.is_refusal(403, "http_request_denied");
    let connect = format!("CONNECT {} HTTP/1.1", other.authority());
    ask(&world, &[&connect, "Host: x"]).await.is_refusal(403, "http_request_denied");
    assert_eq!(
        other.connections(),
        0,
        "a host without a credential was dialled although that is denied"
    );
    world.get("/").await.assert_ok();
}

// ===== Content, both ways =====

#[tokio::test]
async fn a_request_body_streams_to_the_origin_and_its_echo_back_while_it_is_being_sent() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    for (url, origin) in [(world.http("/echo"), &world.origin), (other.url("/echo"), &other)] {
        let mut wire = Wire::to(&world).await;
        let target = format!("POST {url} HTTP/1.1");
        wire.send(message(&[&target, "Host: x", "Transfer-Encoding: chunked"])).await;
        wire.send("5\r\nfirst\r\n").await;
        origin.wait_for_requests(1).await;
        let head = wire.reply_head().await;
        assert_eq!(head.status, 200, "the answer was held back until the end of the request");
        assert_eq!(
            wire.chunk().await,
            b"first",
            "the first chunk did not come back before the second was sent"
        );
        wire.send("6\r\nsecond\r\n0\r\n\r\n").await;
        assert_eq!(wire.chunk().await, b"second", "the second chunk did not come back");
        assert_eq!(wire.chunk().await, b"", "the content did not end");
    }
}

#[tokio::test]
async fn a_response_streams_to_the_client_chunk_by_chunk() {
    let world = World::new().await;
    world.origin.enqueue(Answer::Chunks(vec![Bytes::from_static(b"one"), Bytes::from("two")]));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&world.http("/")))).await;
    wire.reply_head().await.assert_ok();
    world.origin.release_chunk();
    assert_eq!(wire.chunk().await, b"one", "the first chunk was held back");
    world.origin.release_chunk();
    assert_eq!(wire.chunk().await, b"two", "the second chunk was held back");
    assert_eq!(wire.chunk().await, b"", "the content did not end");
}

#[tokio::test]
async fn each_server_sent_event_reaches_the_client_before_the_next_is_sent() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&world.http("/sse/3")))).await;
    let head = wire.reply_head().await;
    assert_eq!(
        head.field("content-type"),
        Some("text/event-stream"),
        "the events have another content type"
    );
    for number in 1..=3 {
        world.origin.release_chunk();
        assert_eq!(
            wire.chunk().await,
            format!("data: {number}\n\n").into_bytes(),
            "an event was held back"
        );
    }
    assert_eq!(wire.chunk().await, b"", "the stream of events did not end");
}

#[tokio::test]
async fn ten_megabytes_arrive_byte_for_byte_in_both_directions() {
    const LENGTH: usize = 10 << 20;
    let world = World::new().await;
    let content = pattern(LENGTH);
    let client = world.client();
    for url in [world.http("/up"), world.https("/up")] {
        let sent = client.post(url).body(content.clone()).send().await.unwrap();
        assert_eq!(sent.status(), 200, "the upload failed");
    }
    for request in world.origin.requests() {
        assert_eq!(request.body_length, LENGTH as u64, "the upload did not arrive whole");
        assert_eq!(request.body_sha256, sha256(&content), "the upload was changed on its way");
    }
    for url in [world.http("/bytes/10485760"), world.https("/bytes/10485760")] {
        let got = client.get(url).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(sha256(&got), sha256(&content), "the download was changed on its way");
    }
}

#[tokio::test]
async fn a_chunked_request_is_framed_anew_without_its_extensions() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "transfer-encoding: CHUNKED"])).await;
    wire.send("0005;a=b\r\nhello\r\n1 ;q=\"x;y\"\r\n!\r\n0\r\n\r\n").await;
    wire.reply().await.assert_ok();
    assert_eq!(
        &world.origin.requests()[0].body[..],
        b"hello!",
        "the content was changed when its chunks were framed anew"
    );
}

#[tokio::test]
async fn trailers_reach_a_client_that_asked_for_them() {
    let world = World::new().await;
    let trailers = vec![("x-checksum".to_owned(), "42".to_owned())];
    world.origin.enqueue(Answer::Trailers { body: Bytes::from_static(b"content"), trailers });
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let reply =
        ask(&world, &[&*target, "Host: x", "TE: trailers, deflate;q=0.5", "Connection: TE"]).await;
    assert_eq!(reply.text(), "content", "the content was changed");
    assert_eq!(
        reply.trailers,
        [("x-checksum".to_owned(), "42".to_owned())],
        "the trailers did not reach the client"
    );
    assert_eq!(
        world.origin.requests()[0].header("te"),
        Some("trailers"),
        "the wish for trailers was not forwarded alone"
    );
}

#[tokio::test]
async fn expect_continue_is_answered_and_the_body_follows() {
    let world = World::new().await;
    let target = format!("PUT {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "Content-Length: 5", "Expect: 100-continue"])).await;
    wire.reply_head().await.assert_status(100, "the client was not asked for its content");
    wire.send("hello").await;
    wire.reply().await.assert_ok();
    assert_eq!(&world.origin.requests()[0].body[..], b"hello", "the content did not arrive");
}

#[tokio::test]
async fn a_request_body_that_breaks_off_never_ends_at_the_origin() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "Content-Length: 100"]) + "half").await;
    world.origin.wait_for_requests(1).await;
    wire.stream.shutdown().await.unwrap();
    let answer = String::from_utf8(wire.rest().await).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
        "content that broke off was answered with another status: {answer}"
    );
    assert!(
        !world.origin.requests()[0].body_complete,
        "content that broke off ended like a whole one at the API"
    );
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_has_ended_is_relayed() {
    let world = World::new().await;
    let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nearly";
    let origin = raw_origin(answer.to_owned()).await;
    let target = format!("POST http://{origin}/ HTTP/1.1");
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "Content-Length: 100000"]) + "a beginning").await;
    let reply = wire.reply().await;
    assert_eq!(
        (reply.status, reply.text()),
        (403, "early".to_owned()),
        "the early answer did not reach the client"
    );
    // What follows is still that request's body and never a request.
    wire.send(message(&get(&world.http("/")))).await;
    wire.stream.shutdown().await.unwrap();
    wire.is_closed().await;
    world.origin.assert_requests(0, "content of one request was taken for another request");
}

#[tokio::test]
async fn a_body_beyond_body_bytes_is_413_and_is_not_forwarded() {
    let world = World::builder().sections("[limits]\nbody_bytes = \"1KiB\"").start().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let reply = ask(&world, &[&target, "Host: x", "Content-Length: 1025"]).await;
    reply.is_refusal(413, "http_request_error");
    world.origin.assert_requests(0, "content that is too large was sent on");
}

#[tokio::test]
async fn a_chunked_body_that_grows_beyond_body_bytes_never_ends_at_the_origin() {
    let world = World::builder().sections("[limits]\nbody_bytes = \"1KiB\"").start().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "Transfer-Encoding: chunked"])).await;
    wire.send(format!("400\r\n{0}\r\n400\r\n{0}\r\n0\r\n\r\n", "x".repeat(0x400))).await;
    wire.reply_head()
        .await
        .assert_status(413, "content that grew too large is not reported as 413");
    assert!(
        world.origin.requests().iter().all(|request| !request.body_complete),
        "content that grew too large ended like a whole one at the API"
    );
}

#[tokio::test]
async fn an_answer_of_http_1_0_that_ends_with_its_connection_is_whole() {
    let world = World::new().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&format!("http://{}/", listener.local_addr().unwrap())))).await;
    let mut origin = Wire::over(within(listener.accept()).await.unwrap().0);
    origin.head_text().await;
    origin.send("HTTP/1.0 200 OK\r\nX: y\r\n\r\nuntil the end").await;
    drop(origin);
    let reply = wire.reply().await;
    assert_eq!(
        (reply.status, reply.text()),
        (200, "until the end".to_owned()),
        "the answer that ends with its connection did not arrive whole"
    );
    assert!(
        reply.field("via").unwrap().starts_with("1.0 bearerd-"),
        "Via does not name the version that the origin server speaks"
    );
    wire.ask(&get(&world.http("/"))).await.assert_ok();
}

#[tokio::test]
async fn a_response_that_is_cut_short_never_looks_whole() {
    let world = World::new().await;
    world.origin.enqueue(Answer::Truncated { announced: 10, body: Bytes::from_static(b"hello") });
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&world.http("/")))).await;
    assert_eq!(
        wire.reply_head().await.field("content-length"),
        Some("10"),
        "the announced length was changed"
    );
    assert_eq!(wire.rest().await, b"hello", "the content before the break is lost or was made up");
}

#[tokio::test]
async fn responses_without_content_leave_the_connection_usable() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    let target = format!("HEAD {} HTTP/1.1", world.http("/bytes/1000"));
    wire.send(message(&[&target, "Host: x"])).await;
    let head = wire.reply_head().await;
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("1000")),
        "the answer to HEAD was changed"
    );
    for status in [204, 304, 205] {
        let reply = wire.ask(&get(&world.http(&format!("/status/{status}")))).await;
        assert_eq!(
            (reply.status, reply.text()),
            (status, String::new()),
            "an answer without content was changed"
        );
    }
    assert_eq!(
        wire.ask(&get(&world.http("/bytes/3"))).await.content,
        [0, 1, 2],
        "the connection cannot be used after answers without content"
    );
}

#[tokio::test]
async fn bytes_after_a_response_without_content_are_never_the_next_response() {
    let world = World::new().await;
    for head in ["204 No Content", "304 Not Modified"] {
        let answer =
            format!("HTTP/1.1 {head}\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL");
        let origin = raw_origin(answer).await;
        let mut wire = Wire::to(&world).await;
        for _ in 0..3 {
            let reply = wire.ask(&get(&format!("http://{origin}/"))).await;
            assert_eq!(
                reply.status.to_string(),
                head[..3],
                "bytes after a response were taken for the next response"
            );
        }
    }
}

#[tokio::test]
async fn cookies_stay_separate_and_in_order() {
    let world = World::new().await;
    let cookies: Vec<String> = (0..50).map(|number| format!("c{number}=v, {number}")).collect();
    let answer = cookies
        .iter()
        .fold(Answer::status(200), |answer, cookie| answer.with_header("set-cookie", cookie));
    world.origin.enqueue(answer);
    let reply = ask(&world, &get(&world.http("/"))).await;
    assert_eq!(
        reply.fields("set-cookie"),
        cookies,
        "cookies were joined, lost or put in another order"
    );
}

// ===== Support =====

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
