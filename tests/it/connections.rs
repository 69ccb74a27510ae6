//! Connections of clients to the proxy: how many requests they carry, how many there may be, how long
//! they last.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bearerd_test_support::{Answer, OriginConfig, OriginServer};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::wire::{DEADLINE, Wire, get, message, within};
use super::world::World;

// ===== Requests over connections =====

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
        reply.assert_ok();
        let seen: serde_json::Value = serde_json::from_slice(&reply.content).unwrap();
        assert_eq!(
            seen["target"],
            format!("/{number}"),
            "request {number}: the answers came in another order"
        );
        assert_eq!(
            seen["authorization"],
            number % 2 == 0,
            "request {number}: the token went to the wrong host, or did not go to its own"
        );
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
    wire.reply().await.assert_ok();
    assert_eq!(&world.origin.requests()[0].body[..], b"hello", "the content did not arrive");
}

#[tokio::test]
async fn a_request_is_retried_if_the_origin_has_closed_a_kept_connection() {
    for close_after in [1, 3] {
        let world =
            World::builder().origin(|origin| origin.close_after = Some(close_after)).start().await;
        let mut wire = Wire::to(&world).await;
        for _ in 0..30 {
            wire.ask(&get(&world.http("/"))).await.assert_ok();
        }
        let head = format!("HEAD {} HTTP/1.1", world.http("/"));
        for _ in 0..10 {
            wire.send(message(&[&head, "Host: x"])).await;
            wire.reply_head().await.assert_ok();
        }
    }
}

/// With and without TLS, because many servers close without close_notify.
#[tokio::test]
async fn a_get_is_retried_if_the_origin_closes_a_kept_connection_on_it() {
    for world in [World::builder(), World::plain()] {
        let world = world.start().await;
        let mut wire = Wire::to(&world).await;
        for ending in [Answer::CloseWithoutAnswer, Answer::ResetWithoutAnswer] {
            wire.ask(&get(&world.http("/"))).await.assert_ok();
            world.origin.enqueue(ending);
            wire.ask(&get(&world.http("/"))).await.assert_ok();
        }
        world.origin.assert_requests(
            6,
            "each request whose kept connection was closed has to be sent again once",
        );
    }
}

/// A request that may have been processed is not sent twice; the client decides.
#[tokio::test]
async fn an_unsafe_request_is_not_retried_if_the_origin_closes_a_kept_connection() {
    let world = World::plain().start().await;
    let mut asked = 0;
    for (method, content) in [("POST", "abc"), ("POST", ""), ("PUT", "abc"), ("DELETE", "")] {
        for ending in [Answer::CloseWithoutAnswer, Answer::ResetWithoutAnswer] {
            let mut wire = Wire::to(&world).await;
            wire.ask(&get(&world.http("/"))).await.assert_ok();
            world.origin.enqueue(ending);
            let line = format!("{method} {} HTTP/1.1", world.http("/"));
            let length = format!("Content-Length: {}", content.len());
            wire.send(message(&[&*line, "Host: x", &*length]) + content).await;
            wire.reply().await.assert_status(502, method);
            asked += 2;
            assert_eq!(world.origin.requests().len(), asked, "{method} was sent again");
        }
    }
}

#[tokio::test]
async fn connections_to_the_origin_are_used_again() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    for _ in 0..5 {
        wire.ask(&get(&world.http("/"))).await.assert_ok();
    }
    assert_eq!(world.origin.connections(), 1, "a connection that could be used again was not");
}

#[tokio::test]
async fn a_connection_that_the_origin_says_it_is_about_to_close_is_not_used_again() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    for (time, connections) in [("timeout=60", 1), ("timeout=1", 1), ("timeout=60", 2)] {
        world.origin.enqueue(Answer::status(200).with_header("keep-alive", time));
        wire.ask(&get(&world.http("/"))).await.assert_ok();
        assert_eq!(
            world.origin.connections(),
            connections,
            "{time}: another number of connections was used"
        );
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served_without_a_host_field_and_then_closed() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    wire.send(format!("GET {} HTTP/1.0\r\n\r\n", world.http("/bytes/3"))).await;
    let reply = wire.reply().await;
    assert_eq!(
        (reply.status, &reply.content[..]),
        (200, &[0, 1, 2][..]),
        "a request of HTTP/1.0 without Host was not served whole"
    );
    wire.is_closed().await;
    assert!(
        world.origin.requests()[0].header("via").unwrap().starts_with("1.0 "),
        "Via does not name the version that the client speaks"
    );
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_keeps_its_connection_if_it_asks_to() {
    let world = World::new().await;
    let mut wire = Wire::to(&world).await;
    let target = format!("GET {} HTTP/1.0", world.http("/bytes/3"));
    for _ in 0..2 {
        let reply = wire.ask(&[&*target, "Connection: Keep-Alive"]).await;
        assert_eq!(
            (reply.status, &reply.content[..]),
            (200, &[0, 1, 2][..]),
            "a request of HTTP/1.0 with keep-alive was not served whole"
        );
    }
    world.origin.enqueue(Answer::Chunks(vec![Bytes::from_static(b"one")]));
    world.origin.release_chunk();
    let reply = wire.ask(&[&*target, "Connection: Keep-Alive"]).await;
    assert_eq!(
        (reply.field("transfer-encoding"), reply.text()),
        (None, "one".to_owned()),
        "a client of HTTP/1.0 was sent chunks, or not everything"
    );
}

#[tokio::test]
async fn a_unix_socket_serves_the_same() {
    let world = World::builder().listen(r#"["127.0.0.1:0", "unix:proxy.sock"]"#).start().await;
    let stream = UnixStream::connect(world.dir.path().join("proxy.sock")).await.unwrap();
    let mut wire = Wire::over(stream);
    for _ in 0..2 {
        wire.ask(&get(&world.http("/"))).await.assert_ok();
    }
    assert_eq!(world.origin.accepted(), 2, "the requests over the Unix socket have no token");
}

#[tokio::test]
async fn beyond_its_share_of_connections_a_client_is_closed_until_another_leaves() {
    for limit in ["connections = 1", "connections_per_peer = 1"] {
        let limits = format!("[limits]\n{limit}");
        let world = World::builder().proxy("connect_ports = []").sections(&limits).start().await;
        let other = OriginServer::start(OriginConfig::default()).await;
        let mut tunnel = Wire::to(&world).await;
        let connect = format!("CONNECT {} HTTP/1.1", other.authority());
        tunnel.ask_head(&[&*connect, "Host: x"]).await.assert_ok();
        Wire::to(&world).await.is_closed().await;
        tunnel.ask(&["GET / HTTP/1.1", "Host: x"]).await.assert_ok();
        drop(tunnel);
        // The proxy notices that some time later.
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
    wire.reply_head().await.assert_ok();
    drop(wire);
    // A half-closed client looks the same until something is sent to it.
    within(async { while origin.stream.write_all(b"more").await.is_ok() {} }).await;
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
            // The connection may break during the write; the read reports it.
            _ = drip.tick() => { let _broken = wire.stream.write_all(b"x").await; }
        }
        assert!(began.elapsed() < DEADLINE, "the connection lives on");
    };
    assert!(matches!(ended, Ok(0) | Err(_)), "the connection ended in another way: {ended:?}");
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "it was over too soon: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_request_under_way_is_not() {
    let world = World::builder().sections("[limits]\nidle_timeout = \"1s\"").start().await;
    world.origin.hold();
    let mut busy = Wire::to(&world).await;
    busy.send(message(&get(&world.http("/")))).await;
    world.origin.wait_for_requests(1).await;
    let (mut fresh, mut kept) = (Wire::to(&world).await, Wire::to(&world).await);
    kept.ask(&["OPTIONS * HTTP/1.1", "Host: x"]).await.assert_ok();
    fresh.is_closed().await;
    kept.is_closed().await;
    world.origin.release_all();
    busy.reply().await.assert_ok();
}
