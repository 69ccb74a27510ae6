//! Requests in plain http to the proxy's listener: what reaches the origin server, what comes back,
//! and what goes nowhere.
//!
//! Most tests speak through a [`Wire`], which writes exactly the bytes a test wants.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bearerd_test_support::{Answer, OriginConfig, OriginServer, TestCa, pattern};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::world::World;

/// Nothing here takes as long; whatever does will never come.
const DEADLINE: Duration = Duration::from_secs(20);

// ===== With a credential =====

#[tokio::test]
async fn plain_http_for_the_host_of_a_credential_leaves_over_tls_with_the_token() {
    let world = World::new().await;
    let (status, _) = world.get("/a?b=c").await;
    assert_eq!(status, 200);
    let request = &world.origin.requests()[0];
    let token = world.authorization_server.tokens().newest_access_token();
    assert_eq!(request.bearer().map(str::to_owned), token);
    assert_eq!(request.target, "/a?b=c");
    assert_eq!(request.header("host"), Some(world.origin.authority().as_str()));
}

#[tokio::test]
async fn allow_http_keeps_a_plain_http_request_plain() {
    let world = World::builder().plain_origin().credential("allow_http = true").start().await;
    let (status, _) = world.get("/a").await;
    assert_eq!(status, 200);
    assert_eq!(world.origin.accepted(), 1);
}

#[tokio::test]
async fn without_allow_http_no_token_is_sent_to_an_origin_that_speaks_no_tls() {
    let world = World::builder().plain_origin().start().await;
    let reply = ask(&world, &get(&world.http("/a"))).await;
    reply.is_refusal(502, "tls_protocol_error");
    assert_eq!(world.origin.requests().len(), 0);
}

#[tokio::test]
async fn a_host_is_the_same_in_any_case_and_the_origin_sees_it_in_lower_case() {
    let world = World::new().await;
    let url = format!("http://LocalHost:{}/", world.origin.port());
    let reply = ask(&world, &get(&url)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(world.origin.requests()[0].header("host"), Some(&*world.origin.authority()));
}

#[tokio::test]
async fn the_token_replaces_every_authorization_of_the_client() {
    let world = World::new().await;
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let lines = [&*target, "Host: x", "Authorization: Basic Zm9v", "AUTHORIZATION: Bearer mine"];
    assert_eq!(ask(&world, &lines).await.status, 200);
    assert_eq!(world.origin.requests()[0].headers.get_all("authorization").iter().count(), 1);
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
    assert_eq!(wire.reply().await.status, 200);
    let request = &world.origin.requests()[0];
    assert!(request.bearer().is_some());
    assert_eq!(request.header("host"), Some(&*world.origin.authority()));
    assert_eq!(request.header("cookie"), Some("a=b"));
    assert_eq!(&request.body[..], b"hello");
    wire.is_closed().await;
}

#[tokio::test]
async fn the_target_decides_which_credential_and_never_the_host_field() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let to_other = format!("GET http://{}/ HTTP/1.1", other.authority());
    let host_of_api = format!("Host: {}", world.origin.authority());
    assert_eq!(ask(&world, &[&to_other, &host_of_api]).await.status, 200);
    let request = &other.requests()[0];
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("host"), Some(&*other.authority()));

    let to_api = format!("GET {} HTTP/1.1", world.http("/"));
    for host in ["Host: evil.test", "Host:", "Host: evil.test\r\nX-Forwarded-Host: evil.test"] {
        assert_eq!(ask(&world, &[&*to_api, host]).await.status, 200, "{host}");
    }
    assert!(world.origin.requests().iter().all(|request| {
        request.header("host") == Some(&*world.origin.authority()) && request.bearer().is_some()
    }));
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
    assert_eq!(wire.reply().await.status, 200);
    let request = &other.requests()[0];
    assert_eq!(request.method, "BREW");
    assert_eq!(request.target, path);
    assert_eq!(request.header("authorization"), Some("Bearer mine"));
    assert_eq!(request.header("cookie"), Some("a=b"));
    assert_eq!(request.headers["x-odd"].as_bytes(), "a\u{e9}".as_bytes());
    assert_eq!(&request.body[..], b"\0\x01\x7f!");
}

#[tokio::test]
async fn a_request_for_no_credential_gets_no_authorization() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    assert_eq!(ask(&world, &get(&other.url("/"))).await.status, 200);
    assert!(!other.requests()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn unmatched_deny_answers_403_and_dials_nothing() {
    let world = World::builder().proxy(r#"unmatched = "deny""#).start().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    ask(&world, &get(&other.url("/"))).await.is_refusal(403, "http_request_denied");
    let connect = format!("CONNECT {} HTTP/1.1", other.authority());
    ask(&world, &[&connect, "Host: x"]).await.is_refusal(403, "http_request_denied");
    assert_eq!(other.connections(), 0);
    assert_eq!(world.get("/").await.0, 200);
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
        assert_eq!(head.status, 200);
        assert_eq!(wire.chunk().await, b"first");
        wire.send("6\r\nsecond\r\n0\r\n\r\n").await;
        assert_eq!(wire.chunk().await, b"second");
        assert_eq!(wire.chunk().await, b"");
    }
}

#[tokio::test]
async fn a_response_streams_to_the_client_chunk_by_chunk() {
    let world = World::new().await;
    world.origin.enqueue(Answer::Chunks(vec![Bytes::from_static(b"one"), Bytes::from("two")]));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&world.http("/")))).await;
    assert_eq!(wire.reply_head().await.status, 200);
    world.origin.release_chunk();
    assert_eq!(wire.chunk().await, b"one");
    world.origin.release_chunk();
    assert_eq!(wire.chunk().await, b"two");
    assert_eq!(wire.chunk().await, b"");
}

#[tokio::test]
async fn each_server_sent_event_reaches_the_client_before_the_next_is_sent() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&world.http("/sse/3")))).await;
    let head = wire.reply_head().await;
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    for number in 1..=3 {
        world.origin.release_chunk();
        assert_eq!(wire.chunk().await, format!("data: {number}\n\n").into_bytes());
    }
    assert_eq!(wire.chunk().await, b"");
}

#[tokio::test]
async fn ten_megabytes_arrive_byte_for_byte_in_both_directions() {
    const LENGTH: usize = 10 << 20;
    let world = World::new().await;
    let content = pattern(LENGTH);
    let client = world.client();
    for url in [world.http("/up"), world.https("/up")] {
        let sent = client.post(url).body(content.clone()).send().await.unwrap();
        assert_eq!(sent.status(), 200);
    }
    for request in world.origin.requests() {
        assert_eq!(request.body_length, LENGTH as u64);
        assert_eq!(request.body_sha256, sha256(&content));
    }
    for url in [world.http("/bytes/10485760"), world.https("/bytes/10485760")] {
        let got = client.get(url).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(sha256(&got), sha256(&content));
    }
}

#[tokio::test]
async fn a_chunked_request_is_framed_anew_without_its_extensions() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "transfer-encoding: CHUNKED"])).await;
    wire.send("0005;a=b\r\nhello\r\n1 ;q=\"x;y\"\r\n!\r\n0\r\n\r\n").await;
    assert_eq!(wire.reply().await.status, 200);
    assert_eq!(&world.origin.requests()[0].body[..], b"hello!");
}

#[tokio::test]
async fn trailers_reach_a_client_that_asked_for_them() {
    let world = World::new().await;
    let trailers = vec![("x-checksum".to_owned(), "42".to_owned())];
    world.origin.enqueue(Answer::Trailers { body: Bytes::from_static(b"content"), trailers });
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let reply =
        ask(&world, &[&*target, "Host: x", "TE: trailers, deflate;q=0.5", "Connection: TE"]).await;
    assert_eq!(reply.text(), "content");
    assert_eq!(reply.trailers, [("x-checksum".to_owned(), "42".to_owned())]);
    assert_eq!(world.origin.requests()[0].header("te"), Some("trailers"));
}

#[tokio::test]
async fn expect_continue_is_answered_and_the_body_follows() {
    let world = World::new().await;
    let target = format!("PUT {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "Content-Length: 5", "Expect: 100-continue"])).await;
    assert_eq!(wire.reply_head().await.status, 100);
    wire.send("hello").await;
    assert_eq!(wire.reply().await.status, 200);
    assert_eq!(&world.origin.requests()[0].body[..], b"hello");
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
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(!world.origin.requests()[0].body_complete);
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
    assert_eq!((reply.status, reply.text()), (403, "early".to_owned()));
    // What follows is still that request's body and never a request.
    wire.send(message(&get(&world.http("/")))).await;
    wire.stream.shutdown().await.unwrap();
    wire.is_closed().await;
    assert_eq!(world.origin.requests().len(), 0);
}

#[tokio::test]
async fn a_body_beyond_body_bytes_is_413_and_stays_here() {
    let world = World::builder().sections("[limits]\nbody_bytes = \"1KiB\"").start().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let reply = ask(&world, &[&target, "Host: x", "Content-Length: 1025"]).await;
    reply.is_refusal(413, "http_request_error");
    assert_eq!(world.origin.requests().len(), 0);
}

#[tokio::test]
async fn a_chunked_body_that_grows_beyond_body_bytes_never_ends_at_the_origin() {
    let world = World::builder().sections("[limits]\nbody_bytes = \"1KiB\"").start().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "Transfer-Encoding: chunked"])).await;
    wire.send(format!("400\r\n{0}\r\n400\r\n{0}\r\n0\r\n\r\n", "x".repeat(0x400))).await;
    assert_eq!(wire.reply_head().await.status, 413);
    assert!(world.origin.requests().iter().all(|request| !request.body_complete));
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
    assert_eq!((reply.status, reply.text()), (200, "until the end".to_owned()));
    assert!(reply.field("via").unwrap().starts_with("1.0 bearerd-"));
    assert_eq!(wire.ask(&get(&world.http("/"))).await.status, 200);
}

#[tokio::test]
async fn a_response_that_is_cut_short_never_looks_whole() {
    let world = World::new().await;
    world.origin.enqueue(Answer::Truncated { announced: 10, body: Bytes::from_static(b"hello") });
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&world.http("/")))).await;
    assert_eq!(wire.reply_head().await.field("content-length"), Some("10"));
    assert_eq!(wire.rest().await, b"hello");
}

#[tokio::test]
async fn responses_without_content_leave_the_connection_usable() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    let target = format!("HEAD {} HTTP/1.1", world.http("/bytes/1000"));
    wire.send(message(&[&target, "Host: x"])).await;
    let head = wire.reply_head().await;
    assert_eq!((head.status, head.field("content-length")), (200, Some("1000")));
    for status in [204, 304, 205] {
        let reply = wire.ask(&get(&world.http(&format!("/status/{status}")))).await;
        assert_eq!((reply.status, reply.text()), (status, String::new()));
    }
    assert_eq!(wire.ask(&get(&world.http("/bytes/3"))).await.content, [0, 1, 2]);
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
            assert_eq!(reply.status.to_string(), head[..3]);
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
    assert_eq!(reply.fields("set-cookie"), cookies);
}

// ===== Connections =====

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_each_with_a_decision_of_its_own() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let url = |number: usize| match number % 2 {
        0 => world.http(&format!("/{number}")),
        _ => other.url(&format!("/{number}")),
    };
    let mut wire = Wire::to(&world).await;
    wire.send((0..50).map(|number| message(&get(&url(number)))).collect::<String>()).await;
    for number in 0..50 {
        let reply = wire.reply().await;
        assert_eq!(reply.status, 200);
        let seen: serde_json::Value = serde_json::from_slice(&reply.content).unwrap();
        assert_eq!(seen["target"], format!("/{number}"));
        assert_eq!(seen["authorization"], number % 2 == 0);
    }
}

#[tokio::test]
async fn a_request_may_arrive_byte_by_byte() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let whole = message(&[&target, "Host: x", "Content-Length: 5", "X-Some: thing"]) + "hello";
    let mut wire = Wire::to(&world).await;
    for at in 0..whole.len() {
        wire.send(&whole.as_bytes()[at..=at]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(wire.reply().await.status, 200);
    assert_eq!(&world.origin.requests()[0].body[..], b"hello");
}

#[tokio::test]
async fn a_kept_connection_that_the_origin_has_closed_is_never_the_clients_problem() {
    for close_after in [1, 3] {
        let world =
            World::builder().origin(|origin| origin.close_after = Some(close_after)).start().await;
        let mut wire = Wire::to(&world).await;
        for _ in 0..30 {
            assert_eq!(wire.ask(&get(&world.http("/"))).await.status, 200);
        }
        let head = format!("HEAD {} HTTP/1.1", world.http("/"));
        for _ in 0..10 {
            wire.send(message(&[&head, "Host: x"])).await;
            assert_eq!(wire.reply_head().await.status, 200);
        }
    }
}

#[tokio::test]
async fn connections_to_the_origin_are_used_again() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    for _ in 0..5 {
        assert_eq!(wire.ask(&get(&world.http("/"))).await.status, 200);
    }
    assert_eq!(world.origin.connections(), 1);
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served_without_a_host_field_and_then_closed() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    wire.send(format!("GET {} HTTP/1.0\r\n\r\n", world.http("/bytes/3"))).await;
    let reply = wire.reply().await;
    assert_eq!((reply.status, &reply.content[..]), (200, &[0, 1, 2][..]));
    wire.is_closed().await;
    assert!(world.origin.requests()[0].header("via").unwrap().starts_with("1.0 "));
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_keeps_its_connection_if_it_asks_to() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    let target = format!("GET {} HTTP/1.0", world.http("/bytes/3"));
    for _ in 0..2 {
        let reply = wire.ask(&[&*target, "Connection: Keep-Alive"]).await;
        assert_eq!((reply.status, &reply.content[..]), (200, &[0, 1, 2][..]));
    }
    world.origin.enqueue(Answer::Chunks(vec![Bytes::from_static(b"one")]));
    world.origin.release_chunk();
    let reply = wire.ask(&[&*target, "Connection: Keep-Alive"]).await;
    assert_eq!((reply.field("transfer-encoding"), reply.text()), (None, "one".to_owned()));
}

#[tokio::test]
async fn a_unix_socket_serves_the_same() {
    let world = World::builder().listen(r#"["127.0.0.1:0", "unix:proxy.sock"]"#).start().await;
    let stream = UnixStream::connect(world.dir.path().join("proxy.sock")).await.unwrap();
    let mut wire = Wire::over(stream);
    for _ in 0..2 {
        assert_eq!(wire.ask(&get(&world.http("/"))).await.status, 200);
    }
    assert_eq!(world.origin.accepted(), 2);
}

#[tokio::test]
async fn beyond_its_share_of_connections_a_client_is_closed_until_another_leaves() {
    for limit in ["connections = 1", "connections_per_peer = 1"] {
        let limits = format!("[limits]\n{limit}");
        let world = World::builder().proxy("connect_ports = []").sections(&limits).start().await;
        let other = OriginServer::start(OriginConfig::default()).await;
        let mut tunnel = Wire::to(&world).await;
        let connect = format!("CONNECT {} HTTP/1.1", other.authority());
        assert_eq!(tunnel.ask_head(&[&*connect, "Host: x"]).await.status, 200);
        Wire::to(&world).await.is_closed().await;
        assert_eq!(tunnel.ask(&["GET / HTTP/1.1", "Host: x"]).await.status, 200);
        drop(tunnel);
        // The proxy learns of that in its own time.
        within(async {
            loop {
                let mut next = Wire::to(&world).await;
                next.send(message(&get(&world.http("/")))).await;
                if !next.first_bytes().await.is_empty() {
                    break;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_takes_the_connection_to_the_origin_with_it() {
    let world = World::new().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&format!("http://{}/", listener.local_addr().unwrap())))).await;
    let (stream, _) = within(listener.accept()).await.unwrap();
    let mut origin = Wire::over(stream);
    origin.head_text().await;
    origin.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome").await;
    assert_eq!(wire.reply_head().await.status, 200);
    drop(wire);
    origin.is_closed().await;
}

// ===== Fields of one hop =====

#[tokio::test]
async fn fields_of_the_clients_hop_do_not_reach_the_origin() {
    let world = World::new().await;
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let lines = [
        &*target,
        "Host: x",
        "Connection: keep-alive, x-one",
        "connection: X-Two ,",
        "X-One: 1",
        "x-two: 2",
        "X-Three: 3",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic c2VjcmV0",
        "Proxy-Authenticate: Basic",
        "TE: gzip",
        "Trailer: x-sum",
        "Upgrade: h2c, websocket",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    ];
    assert_eq!(ask(&world, &lines).await.status, 200);
    let request = &world.origin.requests()[0];
    let mut names: Vec<&str> = request.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "host", "via", "x-three"]);
}

#[tokio::test]
async fn proxy_authorization_does_not_reach_an_origin_without_credential_either() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let target = format!("GET {} HTTP/1.1", other.url("/"));
    let lines = [&*target, "Host: x", "Proxy-Authorization: Basic c2VjcmV0"];
    assert_eq!(ask(&world, &lines).await.status, 200);
    assert_eq!(other.requests()[0].header("proxy-authorization"), None);
}

#[tokio::test]
async fn fields_of_the_origins_hop_do_not_reach_the_client() {
    let world = World::new().await;
    let answer = Answer::text(200, "content")
        .with_header("connection", "x-one")
        .with_header("connection", "keep-alive, X-TWO, set-cookie")
        .with_header("x-one", "1")
        .with_header("x-two", "2")
        .with_header("x-three", "3")
        .with_header("set-cookie", "a=b")
        .with_header("keep-alive", "timeout=5")
        .with_header("proxy-connection", "keep-alive")
        .with_header("proxy-authenticate", "Basic")
        .with_header("upgrade", "h2c");
    world.origin.enqueue(answer);
    let reply = ask(&world, &get(&world.http("/"))).await;
    assert_eq!((reply.status, reply.text()), (200, "content".to_owned()));
    let mut names: Vec<&str> = reply.fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let kept = ["content-length", "content-type", "date", "set-cookie", "via", "x-three"];
    assert_eq!(names, kept);
}

#[tokio::test]
async fn via_is_added_on_both_sides_after_what_is_there() {
    let world = World::new().await;
    world.origin.enqueue(Answer::text(200, "").with_header("via", "1.0 far"));
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let reply = ask(&world, &[&*target, "Host: x", "Via: 1.0 near", "Via: 2 nearer (x)"]).await;
    let headers = &world.origin.requests()[0].headers;
    let seen: Vec<&str> =
        headers.get_all("via").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(seen[..2], ["1.0 near", "2 nearer (x)"]);
    assert!(seen[2].starts_with("1.1 bearerd-"), "{seen:?}");
    assert_eq!(reply.fields("via"), ["1.0 far", seen[2]]);
}

// ===== The proxy itself =====

#[tokio::test]
async fn a_request_for_the_proxy_itself_is_a_loop() {
    let world = World::new().await;
    let port = world.proxy_address().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let reply = ask(&world, &get(&format!("http://{host}:{port}/"))).await;
        reply.is_refusal(508, "proxy_loop_detected");
    }
}

#[tokio::test]
async fn a_request_that_has_been_here_before_is_a_loop() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let via = ask(&world, &get(&other.url("/"))).await.field("via").unwrap().to_owned();
    let via = format!("Via: 1.0 next, {via}, 1.1 last");
    for url in [other.url("/"), world.http("/")] {
        let target = format!("GET {url} HTTP/1.1");
        ask(&world, &[&*target, "Host: x", &via]).await.is_refusal(508, "proxy_loop_detected");
    }
    assert_eq!((other.requests().len(), world.origin.requests().len()), (1, 0));
    let target = format!("GET {} HTTP/1.1", other.url("/"));
    let behind_another = ask(&world, &[&*target, "Host: x", "Via: 1.1 bearerd-00000000"]).await;
    assert_eq!(behind_another.status, 200, "one bearerd behind another is no loop");
}

#[tokio::test]
async fn a_target_without_a_host_is_400_with_a_sentence_and_the_connection_ends() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    for target in ["GET / HTTP/1.1", "GET //localhost/x HTTP/1.1", "POST /token?x HTTP/1.1"] {
        let mut wire = Wire::to(&world).await;
        let reply = wire.ask(&[target, &host]).await;
        reply.is_refusal(400, "http_request_error");
        assert!(reply.text().contains("this is a proxy"), "{}", reply.text());
        wire.is_closed().await;
    }
    assert_eq!(world.origin.requests().len(), 0);
}

#[tokio::test]
async fn trace_is_refused_and_lists_what_is_allowed() {
    let world = World::new().await;
    for method in ["TRACE", "TRACK"] {
        let target = format!("{method} {} HTTP/1.1", world.http("/"));
        let reply = ask(&world, &[&target, "Host: x", "Cookie: secret=1"]).await;
        reply.is_refusal(405, "http_request_error");
        assert!(reply.field("allow").is_some_and(|methods| methods.contains("GET")));
        assert!(!reply.text().contains("secret"));
    }
    assert_eq!(world.origin.requests().len(), 0);
}

#[tokio::test]
async fn options_of_the_proxy_and_options_that_may_go_no_further_are_answered_here() {
    let world = World::new().await;
    let absolute = format!("OPTIONS {} HTTP/1.1", world.http("/x"));
    let mut wire = Wire::to(&world).await;
    for lines in
        [&["OPTIONS * HTTP/1.1", "Host: x"][..], &[&absolute, "Host: x", "Max-Forwards: 0"]]
    {
        let reply = wire.ask(lines).await;
        assert_eq!(reply.status, 200);
        assert!(reply.field("allow").is_some_and(|methods| methods.contains("CONNECT")));
    }
    assert_eq!(world.origin.requests().len(), 0);
    assert_eq!(wire.ask(&[&absolute, "Host: x", "Max-Forwards: 7"]).await.status, 200);
    assert_eq!(world.origin.requests()[0].header("max-forwards"), Some("6"));
}

#[tokio::test]
async fn the_ca_is_served_under_the_proxys_own_name_and_nothing_else_is() {
    let world = World::new().await;
    let reply = ask(&world, &get("http://bearerd.invalid/ca.pem")).await;
    assert_eq!((reply.status, reply.text()), (200, world.app().ca().unwrap().pem().to_owned()));
    assert_eq!(reply.field("content-type"), Some("application/x-pem-file"));
    for path in ["/", "/ca.key", "/ca.pem/", "/../certs/ca.key"] {
        let reply = ask(&world, &get(&format!("http://bearerd.invalid{path}"))).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(!reply.text().contains("BEGIN"));
    }
}

// ===== Ambiguous and oversized requests =====

#[tokio::test]
async fn a_target_that_could_name_two_hosts_is_400_and_goes_nowhere() {
    let world = World::new().await;
    let port = world.origin.port();
    let mut wrong = Vec::new();
    for target in [
        format!("http://user@localhost:{port}/"),
        format!("http://user:password@localhost:{port}/"),
        format!("http://localhost:{port}@evil.test/"),
        format!("http://localhost:{port}\\evil.test/"),
        format!("http://localhost\\@evil.test:{port}/"),
        format!("http://localhost%2E:{port}/"),
        format!("http://loc%61lhost:{port}/"),
        format!("http://localhost%2F.evil.test:{port}/"),
        format!("http://localhost.:{port}/"),
        format!("http://.localhost:{port}/"),
        format!("http://l\u{43e}calhost:{port}/"),
        format!("http://localhost:{port}:{port}/"),
        format!("http://localhost:{port}x/"),
        format!("http://localhost:+{port}/"),
        format!("http://127.1:{port}/"),
        format!("http://0x7f000001:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("http://[localhost]:{port}/"),
        format!("http://[::1%25lo]:{port}/"),
        format!("http://:{port}/"),
        format!("//localhost:{port}/"),
        format!("ftp://localhost:{port}/"),
        format!("localhost:{port}/"),
        "http://localhost:/".to_owned(),
        "http://localhost:0/".to_owned(),
        "http://localhost:65536/".to_owned(),
        "http:///x".to_owned(),
        "http://".to_owned(),
    ] {
        wrong.extend(not_refused(&world, &[&format!("GET {target} HTTP/1.1"), "Host: x"]).await);
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(world.origin.connections(), 0);
}

#[tokio::test]
async fn a_missing_doubled_or_impossible_host_field_is_400_and_goes_nowhere() {
    let world = World::new().await;
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let authority = world.origin.authority();
    let mut wrong = not_refused(&world, &[&target]).await.into_iter().collect::<Vec<_>>();
    for host in [
        format!("{authority}\r\nHost: {authority}"),
        format!("{authority}\r\nhost: evil.test"),
        format!("{authority}, {authority}"),
        format!("x@{authority}"),
        format!("{authority}@evil.test"),
        "local%68ost".to_owned(),
        "localhost.".to_owned(),
        "[localhost]".to_owned(),
        "l\u{43e}calhost".to_owned(),
        "localhost:port".to_owned(),
        "localhost/path".to_owned(),
    ] {
        wrong.extend(not_refused(&world, &[&target, &format!("Host: {host}")]).await);
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(world.origin.connections(), 0);
}

#[tokio::test]
async fn a_request_whose_end_could_be_read_in_two_ways_goes_nowhere() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wrong = Vec::new();
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5_0",
        "Content-Length:\r\nContent-Length: 5",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551621",
        "Content-Length : 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \u{b}chunked",
        "Foo : bar",
        "Foo bar",
        ": bar",
        "X: a\r\n continued",
        "X: a\0b",
        "X: a\u{1}b",
        "X: a\rb",
    ] {
        wrong.extend(not_refused(&world, &[&target, "Host: x", fields]).await);
    }
    let first = message(&[&target, " Foo: bar", "Host: x"]);
    wrong.extend(not_refused_bytes(&world, &first).await);
    let http_1_0 = format!("POST {} HTTP/1.0", world.http("/"));
    wrong.extend(not_refused(&world, &[&http_1_0, "Transfer-Encoding: chunked"]).await);
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(world.origin.connections(), 0);
}

/// hyper reads such a request as chunked and hides the length from us (RFC 9112 §6.1 allows that if
/// the connection ends with it), so the origin gets one unambiguous message.
#[tokio::test]
async fn a_request_with_a_length_and_chunks_is_chunked_and_the_last_of_its_connection() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let smuggled = message(&get(&world.http("/smuggled")));
    for fields in [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
    ] {
        let mut wire = Wire::to(&world).await;
        let head = message(&[&[&*target, "Host: x"][..], &fields].concat());
        wire.send(head + "5\r\nhello\r\n0\r\n\r\n" + &smuggled).await;
        assert_eq!(wire.reply().await.status, 200);
        wire.is_closed().await;
    }
    let requests = world.origin.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!((&request.body[..], request.header("content-length")), (&b"hello"[..], None));
    }
}

#[tokio::test]
async fn a_chunk_that_is_none_ends_the_request_without_completing_it() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    for chunk in ["\r\n", "g\r\n", "-1\r\n", "0x5\r\nhello\r\n", "10000000000000000\r\nhello\r\n"] {
        let mut wire = Wire::to(&world).await;
        wire.send(message(&[&target, "Host: x", "Transfer-Encoding: chunked"]) + chunk).await;
        let answer = String::from_utf8(wire.rest().await).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{chunk:?}: {answer}");
    }
    assert!(world.origin.requests().iter().all(|request| !request.body_complete));
    assert_eq!(world.get("/").await.0, 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_the_status_that_says_so() {
    let world = World::new().await;
    let url = world.http("/");
    let line = |length: usize| format!("GET {url}{} HTTP/1.1", "x".repeat(length - url.len() - 13));
    assert_eq!(ask(&world, &[&*line(8 * 1024), "Host: x"]).await.status, 200);
    world.origin.clear();

    assert_eq!(ask(&world, &[&*line(8 * 1024 + 100), "Host: x"]).await.status, 414);
    let target = format!("GET {url} HTTP/1.1");
    let many: Vec<String> = (0..101).map(|number| format!("X-{number}: 1")).collect();
    let many: Vec<&str> = [&*target].into_iter().chain(many.iter().map(String::as_str)).collect();
    assert_eq!(ask(&world, &many).await.status, 431);
    let heavy = format!("X-Heavy: {}", "x".repeat(33 * 1024));
    assert_eq!(ask(&world, &[&target, "Host: x", &heavy]).await.status, 431);
    assert_eq!(world.origin.requests().len(), 0);
    // Answered here: an origin server would count the fields that we add.
    let hundred: Vec<&str> = ["OPTIONS * HTTP/1.1", "Host: x"]
        .into_iter()
        .chain(many[1..].iter().copied().take(99))
        .collect();
    assert_eq!(ask(&world, &hundred).await.status, 200);
}

// ===== Time =====

#[tokio::test]
async fn a_head_that_does_not_come_to_an_end_is_cut_off() {
    let world = World::builder().sections("[limits]\nheader_read_timeout = \"1s\"").start().await;
    let began = Instant::now();
    let mut wire = Wire::to(&world).await;
    wire.send(format!("GET {} HTTP/1.1\r\nX-Slow: ", world.http("/"))).await;
    let mut drip = tokio::time::interval(Duration::from_millis(50));
    let mut buffer = [0; 16];
    let ended = loop {
        tokio::select! {
            read = wire.stream.read(&mut buffer) => break read,
            // The connection may break while we write; reading tells.
            _ = drip.tick() => { let _broken = wire.stream.write_all(b"x").await; }
        }
        assert!(began.elapsed() < DEADLINE, "the connection lives on");
    };
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_request_under_way_is_not() {
    let world = World::builder().sections("[limits]\nidle_timeout = \"1s\"").start().await;
    world.origin.hold();
    let mut busy = Wire::to(&world).await;
    busy.send(message(&get(&world.http("/")))).await;
    world.origin.wait_for_requests(1).await;
    let (mut fresh, mut kept) = (Wire::to(&world).await, Wire::to(&world).await);
    assert_eq!(kept.ask(&["OPTIONS * HTTP/1.1", "Host: x"]).await.status, 200);
    fresh.is_closed().await;
    kept.is_closed().await;
    world.origin.release_all();
    assert_eq!(busy.reply().await.status, 200);
}

// ===== What goes wrong behind the proxy =====

#[tokio::test]
async fn a_name_that_nobody_knows_is_502() {
    let world = World::new().await;
    let reply = ask(&world, &get("http://no-such-host.invalid/")).await;
    reply.is_refusal(502, "dns_error");
}

#[tokio::test]
async fn a_refused_connection_is_502() {
    let world = World::new().await;
    let reply = ask(&world, &get(&format!("http://{}/", nobody().await))).await;
    reply.is_refusal(502, "connection_refused");
    let head = format!("HEAD http://{}/ HTTP/1.1", nobody().await);
    let mut wire = Wire::to(&world).await;
    assert_eq!(wire.ask_head(&[&head, "Host: x"]).await.status, 502);
    assert_eq!(wire.ask(&get(&world.http("/"))).await.status, 200);
}

#[tokio::test]
async fn an_origin_with_a_certificate_that_is_not_trusted_sees_no_request() {
    const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
    let worlds = [
        World::builder().certificate(|ca| ca.server_config_expired(&NAMES)),
        World::builder().certificate(|ca| ca.server_config_self_signed(&NAMES)),
        World::builder().certificate(|_| TestCa::new().server_config(&NAMES)),
        World::builder().certificate(|ca| ca.server_config(&["other.test", "*.localhost"])),
    ];
    for world in worlds {
        let world = world.start().await;
        let reply = ask(&world, &get(&world.http("/"))).await;
        reply.is_refusal(502, "tls_certificate_error");
        let reply = ask(&world, &get(&world.https("/"))).await;
        reply.is_refusal(502, "tls_certificate_error");
        assert_eq!((world.origin.requests().len(), world.origin.connections()), (0, 0));
    }
}

#[tokio::test]
async fn an_origin_that_closes_or_resets_without_an_answer_is_502_and_is_not_asked_again() {
    let world = World::new().await;
    for answer in [Answer::CloseWithoutAnswer, Answer::ResetWithoutAnswer] {
        world.origin.enqueue(answer);
        let target = format!("POST {} HTTP/1.1", world.http("/"));
        let reply = ask(&world, &[&target, "Host: x", "Content-Length: 0"]).await;
        reply.is_refusal(502, "connection_terminated");
    }
    assert_eq!(world.origin.requests().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_502_and_none_of_it_is_shown() {
    answers_become_502(&[
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 000 Zero\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 1000 High\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/2 200\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : space\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn an_answer_whose_end_could_be_read_in_two_ways_is_502() {
    answers_become_502(&[
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nEVIL",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: x\r\n\r\nEVIL",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn an_answer_whose_head_is_larger_than_64_kib_is_502() {
    let heavy = "x".repeat(64 * 1024);
    let answer = format!("HTTP/1.1 200 OK\r\nX-Heavy: {heavy}\r\ncontent-length: 0\r\n\r\n");
    answers_become_502(&[&answer]).await;
}

#[tokio::test]
async fn an_origin_that_does_not_answer_in_time_is_504() {
    let limits = "[limits]\nresponse_timeout = \"200ms\"";
    let world = World::builder().sections(limits).start().await;
    world.origin.enqueue(Answer::Stall);
    let reply = ask(&world, &get(&world.http("/"))).await;
    reply.is_refusal(504, "http_response_timeout");
}

#[tokio::test]
async fn the_time_a_client_takes_to_send_its_body_is_not_the_origins_time_to_answer() {
    let limits = "[limits]\nresponse_timeout = \"500ms\"";
    let world = World::builder().sections(limits).start().await;
    let target = format!("PUT {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&target, "Host: x", "Content-Length: 10"])).await;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..10 {
        pace.tick().await;
        wire.send("x").await;
    }
    assert_eq!(wire.reply().await.status, 200);
}

#[tokio::test]
async fn a_denied_address_is_403_and_an_allowed_part_of_it_is_not() {
    let denied = r#"deny_addresses = ["127.0.0.0/8", "::1/128"]"#;
    let world = World::builder().proxy(denied).start().await;
    for url in [world.http("/"), world.origin.url("/").replace("localhost", "[::ffff:127.0.0.1]")] {
        ask(&world, &get(&url)).await.is_refusal(403, "destination_ip_prohibited");
    }
    assert_eq!(world.origin.connections(), 0);

    let allowed = format!("{denied}\nallow_addresses = [\"127.0.0.1/32\"]");
    let world = World::builder().proxy(&allowed).start().await;
    assert_eq!(world.get("/").await.0, 200);
}

#[tokio::test]
async fn a_metadata_service_is_denied_unless_an_operator_says_otherwise() {
    let world = World::new().await;
    for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "[fd00:ec2::254]"] {
        let reply = ask(&world, &get(&format!("http://{host}/latest/"))).await;
        reply.is_refusal(403, "destination_ip_prohibited");
    }
}

#[tokio::test]
async fn a_client_that_prefers_json_gets_a_problem_document() {
    let world = World::new().await;
    let target = format!("GET http://{}/ HTTP/1.1", nobody().await);
    let reply = ask(&world, &[&target, "Host: x", "Accept: application/json"]).await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.field("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&reply.content).unwrap();
    assert_eq!(problem["status"], 502);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("refused")));
    assert_eq!(problem["request_id"].as_str(), reply.field("x-request-id"));
    assert!(
        reply.field("proxy-status").is_some_and(|status| status.contains("connection_refused"))
    );
}

// ===== Helpers =====

/// `GET url` with some `Host`; the proxy takes it from the target.
fn get(url: &str) -> [String; 2] {
    [format!("GET {url} HTTP/1.1"), "Host: x".to_owned()]
}

/// One request over a connection of its own.
async fn ask(world: &World, lines: &[impl AsRef<str>]) -> Reply {
    Wire::to(world).await.ask(lines).await
}

/// Sends a request that must be refused and the connection closed; says so if it was not.
async fn not_refused(world: &World, lines: &[&str]) -> Option<String> {
    not_refused_bytes(world, &message(lines)).await
}

async fn not_refused_bytes(world: &World, request: &str) -> Option<String> {
    let mut wire = Wire::to(world).await;
    wire.send(request).await;
    let Ok(reply) = tokio::time::timeout(Duration::from_secs(5), wire.reply()).await else {
        return Some(format!("{request:?} got no answer"));
    };
    if !matches!(reply.status, 400 | 501) {
        return Some(format!("{request:?} got {}", reply.status));
    }
    let closed = tokio::time::timeout(Duration::from_secs(5), wire.rest()).await;
    closed.is_err().then(|| format!("{request:?} got {} and was not closed", reply.status))
}

/// Each of these bytes, as an origin server's answer, is a 502 without any of its content.
async fn answers_become_502(answers: &[&str]) {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for answer in answers {
        let origin = raw_origin((*answer).to_owned()).await;
        let mut wire = Wire::to(&world).await;
        wire.send(message(&get(&format!("http://{origin}/")))).await;
        let reply = String::from_utf8_lossy(&wire.first_bytes().await).into_owned();
        let shown = ["EVIL", "SSH"].iter().any(|part| reply.contains(part));
        if !reply.starts_with("HTTP/1.1 502 ") || shown {
            let [answer, reply] =
                [answer, reply.as_str()].map(|text| text.get(..200).unwrap_or(text));
            wrong.push(format!("{answer:?} became {reply:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An address that refuses connections.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// An origin server that answers every request head with the same bytes and stays connected.
async fn raw_origin(answer: String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut wire = Wire::over(stream);
                while wire.head_arrives().await {
                    wire.send(&answer).await;
                }
            });
        }
    });
    address
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What comes in time.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it never came")
}

/// A head of these lines.
pub(crate) fn message(lines: &[impl AsRef<str>]) -> String {
    lines.iter().map(|line| format!("{}\r\n", line.as_ref())).collect::<String>() + "\r\n"
}

/// A client, or a server, that writes and reads what a test tells it to.
pub(crate) struct Wire<S = TcpStream> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

impl Wire {
    /// A new connection to the proxy.
    pub(crate) async fn to(world: &World) -> Self {
        Self::to_address(world.proxy_address()).await
    }

    pub(crate) async fn to_address(address: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Writes; a peer that has closed already is found out by reading.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _closed = self.stream.write_all(bytes.as_ref()).await;
        let _closed = self.stream.flush().await;
    }

    /// Sends a request without content and reads the response.
    pub(crate) async fn ask(&mut self, lines: &[impl AsRef<str>]) -> Reply {
        self.send(message(lines)).await;
        self.reply().await
    }

    /// The same for a response whose head is all that counts.
    pub(crate) async fn ask_head(&mut self, lines: &[impl AsRef<str>]) -> Reply {
        self.send(message(lines)).await;
        self.reply_head().await
    }

    /// A response with its content.
    pub(crate) async fn reply(&mut self) -> Reply {
        let mut reply = self.reply_head().await;
        if matches!(reply.status, 204 | 304) {
            return reply;
        }
        let length = reply.field("content-length").map(|length| length.parse().unwrap());
        if let Some(length) = length {
            reply.content = self.exactly(length).await;
        } else if reply.field("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk_with(&mut reply.trailers).await;
                if chunk.is_empty() {
                    break;
                }
                reply.content.extend(chunk);
            }
        } else {
            reply.content = self.rest().await;
        }
        reply
    }

    /// Status and fields of a response, and nothing beyond.
    pub(crate) async fn reply_head(&mut self) -> Reply {
        let text = self.head_text().await;
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields = lines.filter_map(field).collect();
        Reply { status, fields, content: Vec::new(), trailers: Vec::new() }
    }

    /// A head as it came.
    pub(crate) async fn head_text(&mut self) -> String {
        assert!(self.head_arrives_at().await.is_some(), "closed, with {:?}", self.unread);
        let end = self.head_arrives_at().await.unwrap();
        let head: Vec<u8> = self.unread.drain(..end).collect();
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Waits for a whole head and drops it; `false` if the peer is gone.
    async fn head_arrives(&mut self) -> bool {
        let end = self.head_arrives_at().await;
        self.unread.drain(..end.unwrap_or(0));
        end.is_some()
    }

    async fn head_arrives_at(&mut self) -> Option<usize> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return Some(at + 4);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// One chunk; empty is the last.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        self.chunk_with(&mut Vec::new()).await
    }

    async fn chunk_with(&mut self, trailers: &mut Vec<(String, String)>) -> Vec<u8> {
        let size = self.line().await;
        let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("size {size:?}"));
        if size > 0 {
            let mut chunk = self.exactly(size + 2).await;
            chunk.truncate(size);
            return chunk;
        }
        loop {
            let line = self.line().await;
            match field(&line) {
                Some(trailer) => trailers.push(trailer),
                None => return Vec::new(),
            }
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.unread.windows(2).position(|bytes| bytes == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).unwrap();
            }
            assert!(self.fill().await, "closed within a line");
        }
    }

    /// So many bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(self.fill().await, "closed before {length} bytes");
        }
        self.unread.drain(..length).collect()
    }

    /// What comes first, without a look at it; empty if the peer closes.
    async fn first_bytes(&mut self) -> Vec<u8> {
        self.fill().await;
        std::mem::take(&mut self.unread)
    }

    /// Everything until the peer closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.unread)
    }

    /// The peer closes, and has sent nothing more.
    pub(crate) async fn is_closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }

    /// Reads some more; `false` at the end, however it comes.
    async fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = within(self.stream.read(&mut buffer)).await.unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..read]);
        read > 0
    }
}

/// A response, as far as it was read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Reply {
    /// The first field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }

    /// All fields of this name, in order.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// The proxy's own answer, with everything that belongs to one.
    #[track_caller]
    pub(crate) fn is_refusal(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let proxy_status = self.field("proxy-status").unwrap_or_default();
        let expected = format!("bearerd; error={kind};");
        assert!(proxy_status.starts_with(&expected), "{proxy_status}, not {expected}");
        assert_eq!(self.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(self.field("x-content-type-options"), Some("nosniff"));
        assert_eq!(self.field("cache-control"), Some("no-store"));
        assert!(self.field("x-request-id").is_some());
        assert!(self.text().starts_with("bearerd: ") && self.text().len() < 512, "{}", self.text());
    }
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}
