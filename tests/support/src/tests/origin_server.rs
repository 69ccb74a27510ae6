//! Tests of the origin server: token checks, scripted answers, streams and connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::client::{Client, body, get};
use crate::{Answer, OriginConfig, OriginServer, TestCa, Tokens, pattern};

const LIFETIME: Duration = Duration::from_secs(600);

async fn checking() -> (OriginServer, Tokens, String) {
    let tokens = Tokens::new();
    let token = tokens.issue_access_token(LIFETIME);
    let config = OriginConfig { tokens: Some(tokens.clone()), ..Default::default() };
    (OriginServer::start(config).await, tokens, token)
}

async fn open(config: OriginConfig) -> (OriginServer, Client) {
    let server = OriginServer::start(config).await;
    let client = Client::connect(server.addr()).await;
    (server, client)
}

async fn chunk(response: &mut Response<Incoming>) -> Option<Bytes> {
    Some(response.frame().await?.unwrap().into_data().unwrap())
}

#[tokio::test]
async fn tokens_decide_and_revocation_is_seen_at_once() {
    let (server, tokens, token) = checking().await;
    let mut client = Client::connect(server.addr()).await;
    let response = client.get("/v1/x?y=1", &token).await.unwrap();
    assert_eq!(response.status(), 200);
    let description: Value = serde_json::from_slice(&body(response).await).unwrap();
    assert_eq!(description["target"], "/v1/x?y=1");
    tokens.revoke_all_access_tokens();
    let response = client.get("/", &token).await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = &response.headers()["www-authenticate"];
    assert_eq!(challenge, r#"Bearer realm="api", error="invalid_token""#);
    assert!(body(response).await.ends_with(br#""reason":"revoked"}"#));
    assert_eq!((server.accepted(), server.rejected(), server.connections()), (1, 1, 1));
    let requests = server.requests();
    assert_eq!(requests[0].bearer(), Some(token.as_str()));
    assert_eq!([requests[0].accepted, requests[1].accepted], [Some(true), Some(false)]);
}

#[tokio::test]
async fn expired_unknown_and_refused_tokens_are_rejected() {
    let (server, tokens, token) = checking().await;
    let mut client = Client::connect(server.addr()).await;
    server.reject_all(true);
    assert_eq!(client.get("/", &token).await.unwrap().status(), 401);
    server.reject_all(false);
    assert_eq!(client.get("/", &token).await.unwrap().status(), 200);
    assert_eq!(client.get("/", "at-9-unknown").await.unwrap().status(), 401);
    tokens.expire_all_access_tokens();
    assert_eq!(client.get("/", &token).await.unwrap().status(), 401);
}

#[tokio::test]
async fn held_requests_meet_the_check_before_or_after_the_release() {
    for (before, accepted) in [(true, 0), (false, 20)] {
        let (server, tokens, token) = checking().await;
        if before {
            server.hold_before_check()
        } else {
            server.hold_after_check()
        }
        let mut pending = JoinSet::new();
        for _ in 0..20 {
            let (addr, token) = (server.addr(), token.clone());
            pending.spawn(async move {
                let mut client = Client::connect(addr).await;
                client.get("/", &token).await.unwrap().status()
            });
        }
        server.wait_for_requests(20).await;
        if !before {
            server.wait_for_verdicts(20).await;
        }
        tokens.revoke_all_access_tokens();
        server.release_all();
        pending.join_all().await;
        assert_eq!((server.accepted(), server.rejected()), (accepted, 20 - accepted));
    }
}

#[tokio::test]
async fn bodies_are_recorded_echoed_and_generated() {
    let (server, mut client) = open(OriginConfig::default()).await;
    let sent = pattern(300_000);
    for path in ["/echo", "/upload"] {
        let request = Request::post(path).header("content-type", "text/x");
        let request = request.body(Full::new(sent.clone())).unwrap();
        let response = client.send(request).await.unwrap();
        if path == "/echo" {
            assert_eq!(response.headers()["content-type"], "text/x");
            assert_eq!(body(response).await, sent);
        } else {
            body(response).await;
        }
    }
    server.wait_for_bodies(2).await;
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.body == sent && request.body_complete));
    assert_eq!(requests[0].body_sha256, requests[1].body_sha256);
    assert_eq!(body(client.get("/bytes/200001", "t").await.unwrap()).await, pattern(200_001));
    assert_eq!(client.get("/status/418", "t").await.unwrap().status(), 418);
}

#[tokio::test]
async fn events_and_chunks_come_one_by_one() {
    let (server, mut client) = open(OriginConfig::default()).await;
    let mut response = client.get("/sse", "t").await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    for expected in ["data: 1\n\n", "data: 2\n\n"] {
        server.release_chunk();
        assert_eq!(chunk(&mut response).await.unwrap(), expected);
    }
    server.enqueue(Answer::Chunks(vec!["a".into(), "b".into()]));
    let mut client = Client::connect(server.addr()).await;
    drop(response);
    let mut response = client.get("/", "t").await.unwrap();
    server.release_chunk();
    assert_eq!(chunk(&mut response).await.unwrap(), "a");
    server.release_chunk();
    assert_eq!(chunk(&mut response).await.unwrap(), "b");
    assert_eq!(chunk(&mut response).await, None);
}

#[tokio::test]
async fn scripted_answers_come_in_order() {
    let (server, _, token) = checking().await;
    server.enqueue(Answer::RejectToken);
    server.enqueue(Answer::Normal);
    server.enqueue(Answer::text(503, "later").with_header("retry-after", "1"));
    server.enqueue(Answer::Truncated { announced: 9, body: "four".into() });
    let mut client = Client::connect(server.addr()).await;
    assert_eq!(client.get("/", &token).await.unwrap().status(), 401);
    assert_eq!(client.get("/", &token).await.unwrap().status(), 200);
    let response = client.get("/", &token).await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(body(response).await, "later");
    let mut response = client.get("/", &token).await.unwrap();
    assert_eq!(chunk(&mut response).await.unwrap(), "four");
    assert!(response.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn connections_end_without_an_answer() {
    let (server, _, token) = checking().await;
    for answer in [Answer::CloseWithoutAnswer, Answer::ResetWithoutAnswer] {
        server.enqueue(answer);
        let mut client = Client::connect(server.addr()).await;
        assert!(client.get("/", &token).await.is_err());
    }
    assert_eq!(server.requests().len(), 2);
    assert_eq!(server.requests()[0].accepted, None);
}

#[tokio::test]
async fn an_early_rejection_does_not_read_the_body() {
    let (server, _, token) = checking().await;
    server.enqueue(Answer::RejectEarly);
    let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
    let head = format!(
        "POST /x HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 99\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut tcp, head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut tcp, &mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    assert!(!server.requests()[0].body_complete);
}

#[tokio::test]
async fn trailers_reach_a_client_that_accepts_them() {
    let (server, mut client) = open(OriginConfig::default()).await;
    let trailers = vec![("x-check".to_owned(), "42".to_owned())];
    server.enqueue(Answer::Trailers { body: "text".into(), trailers });
    let request = Request::get("/").header("te", "trailers").body(Full::default()).unwrap();
    let collected = client.send(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-check"], "42");
    assert_eq!(collected.to_bytes(), "text");
}

#[tokio::test]
async fn a_connection_closes_unannounced_after_its_last_answer() {
    let config = OriginConfig { close_after: Some(2), ..Default::default() };
    let (server, mut client) = open(config).await;
    for path in ["/bytes/100000", "/bytes/3"] {
        let response = client.get(path, "t").await.unwrap();
        assert!(!response.headers().contains_key("connection"));
        body(response).await;
    }
    assert!(client.get("/", "t").await.is_err());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn files_are_served_from_their_directory_only() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("a b")).unwrap();
    std::fs::write(directory.path().join("a b/c+d"), "content").unwrap();
    let files = Some(directory.path().to_owned());
    let (_server, mut client) = open(OriginConfig { files, ..Default::default() }).await;
    let response = client.get("/files/a%20b/c+d?x", "t").await.unwrap();
    assert_eq!(body(response).await, "content");
    for path in ["/files/none", "/files/../x", "/files/%2e%2e/x", "/files//etc/hostname"] {
        assert_eq!(client.get(path, "t").await.unwrap().status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_thousand_connections_are_served_at_once() {
    let (server, _, token) = checking().await;
    server.hold();
    let mut pending = JoinSet::new();
    for _ in 0..1000 {
        let (addr, token) = (server.addr(), token.clone());
        pending.spawn(async move {
            let mut client = Client::connect(addr).await;
            client.get("/", &token).await.map(|response| response.status())
        });
    }
    server.wait_for_requests(1000).await;
    server.release_all();
    assert!(pending.join_all().await.into_iter().all(|status| status.unwrap() == 200));
    assert_eq!(server.accepted(), 1000);
}

async fn over_tls(server: &OriginServer, ca: &TestCa, name: &'static str) -> std::io::Result<u16> {
    let connector = TlsConnector::from(Arc::new(ca.client_config()));
    let tcp = TcpStream::connect(server.addr()).await?;
    let tls = connector.connect(ServerName::try_from(name).unwrap(), tcp).await?;
    let io = TokioIo::new(tls);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    Ok(sender.send_request(get("/", "t")).await.unwrap().status().as_u16())
}

#[tokio::test]
async fn tls_proves_the_names_of_the_certificate_only() {
    let ca = TestCa::new();
    let names = ["localhost", "127.0.0.1"];
    let start = |tls| OriginServer::start(OriginConfig { tls: Some(tls), ..Default::default() });
    let server = start(ca.server_config(&names)).await;
    assert!(server.url("/x").starts_with("https://localhost:"));
    assert_eq!(over_tls(&server, &ca, "localhost").await.unwrap(), 200);
    assert_eq!(over_tls(&server, &ca, "127.0.0.1").await.unwrap(), 200);
    assert!(over_tls(&server, &ca, "other.test").await.is_err());
    assert!(over_tls(&server, &TestCa::new(), "localhost").await.is_err());
    for bad in [ca.server_config_expired(&names), ca.server_config_self_signed(&names)] {
        assert!(over_tls(&start(bad).await, &ca, "localhost").await.is_err());
    }
}
