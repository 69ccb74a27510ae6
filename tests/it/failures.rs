//! Failures behind the proxy and the answers that clients get.

use std::time::Duration;

use bearerd_test_support::{Answer, TestCa};

use super::wire::{Wire, ask, get, message, nobody, raw_origin};
use super::world::World;

#[tokio::test]
async fn a_name_that_does_not_resolve_is_502() {
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
    wire.ask_head(&[&head, "Host: x"])
        .await
        .assert_status(502, "a refused connection is not 502 for HEAD");
    wire.ask(&get(&world.http("/"))).await.assert_ok();
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
        assert_eq!(
            (world.origin.requests().len(), world.origin.connections()),
            (0, 0),
            "(requests, connections with a request): a server with a wrong certificate was sent a request"
        );
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
    world.origin.assert_requests(2, "a request that may have been processed was sent again");
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
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn an_answer_with_an_ambiguous_end_is_502() {
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
    wire.reply().await.assert_ok();
}

#[tokio::test]
async fn a_denied_address_is_403_and_an_allowed_part_of_it_is_not() {
    let denied = r#"deny_addresses = ["127.0.0.0/8", "::1/128"]"#;
    let world = World::builder().proxy(denied).start().await;
    for url in [world.http("/"), world.origin.url("/").replace("localhost", "[::ffff:127.0.0.1]")] {
        ask(&world, &get(&url)).await.is_refusal(403, "destination_ip_prohibited");
    }
    assert_eq!(world.origin.connections(), 0, "a denied address was dialled");

    let allowed = format!("{denied}\nallow_addresses = [\"127.0.0.1/32\"]");
    let world = World::builder().proxy(&allowed).start().await;
    world.get("/").await.assert_ok();
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
    reply.assert_status(502, "a refused connection is not 502");
    assert_eq!(
        reply.field("content-type"),
        Some("application/problem+json"),
        "the client that prefers JSON got something else"
    );
    let problem: serde_json::Value = serde_json::from_slice(&reply.content).unwrap();
    assert_eq!(problem["status"], 502, "the problem document has another status: {problem}");
    assert!(
        problem["detail"].as_str().is_some_and(|detail| detail.contains("refused")),
        "the problem document does not say what went wrong: {problem}"
    );
    assert_eq!(
        problem["request_id"].as_str(),
        reply.field("x-request-id"),
        "the problem document has another request id: {problem}"
    );
    assert!(
        reply.field("proxy-status").is_some_and(|status| status.contains("connection_refused")),
        "the answer has no Proxy-Status that says what went wrong: {reply}"
    );
}

// ===== Support =====

/// Asserts that each of these answers of an origin server becomes a 502 without any of its content.
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
    assert!(wrong.is_empty(), "these answers did not become 502: {wrong:#?}");
}
