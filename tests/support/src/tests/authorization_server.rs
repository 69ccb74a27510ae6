//! Tests of the authorization server: rotation, reuse, failures and holds.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::{Client, body, form, refresh, refresh_form};
use crate::{
    AuthorizationServer, AuthorizationServerConfig, ClientAuth, End, ExpiresIn, OnReuse, Rotation,
    TokenBehaviour, TokenState,
};

async fn server(rotation: Rotation) -> AuthorizationServer {
    let config = AuthorizationServerConfig { rotation, ..Default::default() };
    AuthorizationServer::start(config).await
}

async fn strict() -> AuthorizationServer {
    server(Rotation::STRICT).await
}

async fn refreshed(server: &AuthorizationServer) -> Value {
    let (status, answer) = refresh(server.addr(), &server.current_refresh_token()).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn refused(server: &AuthorizationServer, token: &str) -> Value {
    let (status, answer) = refresh(server.addr(), token).await.unwrap();
    assert_eq!(status, 400, "{answer}");
    answer["error"].clone()
}

fn text(answer: &Value, name: &str) -> String {
    answer[name].as_str().expect("a string").to_owned()
}

#[tokio::test]
async fn rotation_replaces_the_refresh_token() {
    let server = strict().await;
    let first = server.current_refresh_token();
    let answer = refreshed(&server).await;
    assert_ne!(text(&answer, "refresh_token"), first);
    assert!(server.refresh_token_is_current(&text(&answer, "refresh_token")));
    assert_eq!(server.previous_refresh_tokens(), [first]);
    assert_eq!(answer["expires_in"], 3600);
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(server.tokens().check(&text(&answer, "access_token")), TokenState::Valid);
}

#[tokio::test]
async fn keep_and_omit_leave_the_refresh_token_valid() {
    let server = server(Rotation::Keep).await;
    let token = server.current_refresh_token();
    assert_eq!(refreshed(&server).await["refresh_token"], token);
    server.set_rotation(Rotation::Omit);
    assert_eq!(refreshed(&server).await.get("refresh_token"), None);
    assert!(server.refresh_token_is_current(&token));
}

#[tokio::test]
async fn reuse_revokes_the_family() {
    let server = strict().await;
    let first = server.current_refresh_token();
    let answer = refreshed(&server).await;
    assert_eq!(refused(&server, &first).await, "invalid_grant");
    assert_eq!(server.reuse_count(), 1);
    assert!(!server.refresh_token_is_current(&text(&answer, "refresh_token")));
    assert_eq!(server.tokens().check(&text(&answer, "access_token")), TokenState::Revoked);
    assert_eq!(refused(&server, &text(&answer, "refresh_token")).await, "invalid_grant");
    assert_eq!(server.reuse_count(), 1);
}

#[tokio::test]
async fn reuse_that_is_only_refused_revokes_nothing() {
    let grace = Duration::ZERO;
    let server = server(Rotation::Rotate { grace, on_reuse: OnReuse::Refuse }).await;
    let first = server.current_refresh_token();
    refreshed(&server).await;
    assert_eq!(refused(&server, &first).await, "invalid_grant");
    assert_eq!(server.tokens().live_access_tokens().len(), 1);
    refreshed(&server).await;
}

#[tokio::test]
async fn grace_accepts_the_immediately_preceding_token_only() {
    let grace = Duration::from_secs(600);
    let server = server(Rotation::Rotate { grace, on_reuse: OnReuse::RevokeFamily }).await;
    let first = server.current_refresh_token();
    let second = text(&refreshed(&server).await, "refresh_token");
    let (status, answer) = refresh(server.addr(), &first).await.unwrap();
    assert_eq!(status, 200);
    assert_ne!(answer["refresh_token"], second);
    assert!(server.refresh_token_is_current(&text(&answer, "refresh_token")));
    assert_eq!(server.reuse_count(), 0);
    refreshed(&server).await;
    assert_eq!(refused(&server, &first).await, "invalid_grant");
    assert_eq!(server.reuse_count(), 1);
}

#[tokio::test]
async fn a_login_starts_a_family_that_old_reuse_does_not_touch() {
    let server = strict().await;
    let first = server.current_refresh_token();
    let second = text(&refreshed(&server).await, "refresh_token");
    let login = server.issue_refresh_token();
    assert_eq!(refused(&server, &second).await, "invalid_grant");
    assert_eq!(server.reuse_count(), 0);
    assert_eq!(refused(&server, &first).await, "invalid_grant");
    assert_eq!(server.reuse_count(), 1);
    assert!(server.refresh_token_is_current(&login));
    server.revoke_refresh_token();
    assert_eq!(refused(&server, &login).await, "invalid_grant");
}

#[tokio::test]
async fn a_drop_after_commit_consumes_the_refresh_token() {
    let server = strict().await;
    let first = server.current_refresh_token();
    server.enqueue(TokenBehaviour::DropAfterCommit);
    assert!(refresh(server.addr(), &first).await.is_err());
    assert_ne!(server.current_refresh_token(), first);
    assert_eq!(refused(&server, &first).await, "invalid_grant");
    assert_eq!(server.reuse_count(), 1);
}

#[tokio::test]
async fn a_drop_before_commit_and_a_scripted_answer_consume_nothing() {
    let server = strict().await;
    let first = server.current_refresh_token();
    server.enqueue(TokenBehaviour::DropBeforeCommit);
    server.enqueue(TokenBehaviour::error(503, "temporarily_unavailable", Some("later")));
    assert!(refresh(server.addr(), &first).await.is_err());
    let (status, answer) = refresh(server.addr(), &first).await.unwrap();
    assert_eq!(status, 503);
    assert_eq!(answer, json!({"error": "temporarily_unavailable", "error_description": "later"}));
    assert!(server.refresh_token_is_current(&first));
    assert_eq!(server.answered(), 2);
}

#[tokio::test]
async fn an_answer_after_commit_hides_the_tokens() {
    let server = strict().await;
    let first = server.current_refresh_token();
    let page = TokenBehaviour::html(502, "<h1>Bad gateway</h1>").after_commit();
    server.enqueue(page.with_header("retry-after", "7"));
    let response = Client::connect(server.addr()).await.send(refresh_form(&first)).await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(body(response).await, "<h1>Bad gateway</h1>");
    assert!(!server.refresh_token_is_current(&first));
}

#[tokio::test]
async fn a_truncated_answer_breaks_off_after_its_first_bytes() {
    use http_body_util::BodyExt;
    let server = strict().await;
    server.enqueue(TokenBehaviour::CommitThenTruncate { keep: 5 });
    let request = refresh_form(&server.current_refresh_token());
    let mut response = Client::connect(server.addr()).await.send(request).await.unwrap();
    let first = response.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap().len(), 5);
    assert!(response.frame().await.unwrap().is_err());
    assert_eq!(server.previous_refresh_tokens().len(), 1);
}

#[tokio::test]
async fn a_slow_answer_is_whole_in_the_end() {
    let server = strict().await;
    server.enqueue(TokenBehaviour::SlowDrip { interval: Duration::from_micros(50) });
    assert!(text(&refreshed(&server).await, "access_token").starts_with("at-1-"));
}

#[tokio::test]
async fn a_stall_ends_at_release() {
    for commit_first in [false, true] {
        let server = strict().await;
        let first = server.current_refresh_token();
        server.enqueue(TokenBehaviour::Stall { commit_first });
        let (addr, token) = (server.addr(), first.clone());
        let pending = tokio::spawn(async move { refresh(addr, &token).await });
        server.wait_for_token_requests(1).await;
        if commit_first {
            server.wait_for_committed(1).await;
        }
        assert_eq!(server.refresh_token_is_current(&first), !commit_first);
        assert_eq!(server.answered(), 0);
        server.release_all();
        server.wait_for_answered(1).await;
        assert_eq!(pending.await.unwrap().unwrap().0, 200);
        assert!(!server.refresh_token_is_current(&first));
    }
}

#[tokio::test]
async fn held_requests_are_recorded_and_processed_after_the_release() {
    let server = Arc::new(server(Rotation::Keep).await);
    server.hold();
    let mut pending = JoinSet::new();
    for _ in 0..20 {
        let (addr, token) = (server.addr(), server.current_refresh_token());
        pending.spawn(async move { refresh(addr, &token).await.unwrap().0 });
    }
    server.wait_for_token_requests(20).await;
    assert_eq!(server.tokens().issued_access_tokens(), 0);
    server.release_all();
    assert_eq!(pending.join_all().await, [StatusCode::OK; 20]);
    assert_eq!(server.tokens().issued_access_tokens(), 20);
}

#[tokio::test]
async fn a_request_whose_client_left_is_still_processed() {
    let server = strict().await;
    let first = server.current_refresh_token();
    server.hold();
    let token = first.clone();
    let addr = server.addr();
    let pending = tokio::spawn(async move { refresh(addr, &token).await });
    server.wait_for_token_requests(1).await;
    pending.abort();
    assert!(pending.await.unwrap_err().is_cancelled());
    server.release_all();
    server.wait_for_committed(1).await;
    assert!(!server.refresh_token_is_current(&first));
}

#[tokio::test]
async fn announced_and_real_lifetime_are_independent() {
    let server = strict().await;
    server.set_expires_in(ExpiresIn::Text("3600".into()));
    server.set_access_token_lifetime(Duration::ZERO);
    let answer = refreshed(&server).await;
    assert_eq!(answer["expires_in"], "3600");
    assert_eq!(server.tokens().check(&text(&answer, "access_token")), TokenState::Expired);
    server.set_expires_in(ExpiresIn::Absent);
    assert_eq!(refreshed(&server).await.get("expires_in"), None);
    server.set_expires_in(ExpiresIn::Json(json!(-1)));
    assert_eq!(refreshed(&server).await["expires_in"], -1);
}

#[tokio::test]
async fn a_refresh_can_revoke_the_access_token_before() {
    let server = strict().await;
    let first = text(&refreshed(&server).await, "access_token");
    server.set_revoke_previous_access_token(true);
    let second = text(&refreshed(&server).await, "access_token");
    assert_eq!(server.tokens().check(&first), TokenState::Revoked);
    assert_eq!(server.tokens().live_access_tokens(), [second]);
}

#[tokio::test]
async fn basic_authentication_is_challenged_and_accepted() {
    let config = AuthorizationServerConfig {
        client_id: "app:1".into(),
        client_secret: "p+q/ü".into(),
        client_auth: ClientAuth::Basic,
        extra: json!({"id_token": "x.y.z"}).as_object().unwrap().clone(),
        ..Default::default()
    };
    let server = AuthorizationServer::start(config).await;
    let mut client = Client::connect(server.addr()).await;
    for (credentials, status) in [("app%3A1:p%2Bq%2F%C3%BC", 200), ("app%3A1:wrong", 401)] {
        let mut request = form(&[("grant_type", "client_credentials")]);
        let value = format!("Basic {}", STANDARD.encode(credentials));
        request.headers_mut().insert("authorization", value.parse().unwrap());
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
        assert_eq!(response.headers()["cache-control"], "no-store");
        body(response).await;
    }
    let pair = server.requests()[0].basic().unwrap();
    assert_eq!(pair, ("app%3A1".into(), "p%2Bq%2F%C3%BC".into()));
    assert_eq!(server.requests()[0].param("grant_type"), Some("client_credentials"));
}

#[tokio::test]
async fn mistakes_get_the_errors_of_the_standard() {
    let server = strict().await;
    let client = [("client_id", "test-client"), ("client_secret", "test-client-secret")];
    let cases = [
        (vec![("grant_type", "implicit"), client[0], client[1]], 400, "unsupported_grant_type"),
        (vec![client[0], client[1]], 400, "invalid_request"),
        (vec![("grant_type", "refresh_token"), client[0], client[1]], 400, "invalid_request"),
        (vec![client[0], client[0], client[1]], 400, "invalid_request"),
        (vec![("grant_type", "refresh_token"), client[0]], 401, "invalid_client"),
    ];
    for (fields, status, error) in cases {
        let response = Client::connect(server.addr()).await.send(form(&fields)).await.unwrap();
        assert_eq!(response.status(), status);
        let answer: Value = serde_json::from_slice(&body(response).await).unwrap();
        assert_eq!(answer["error"], error);
    }
}

#[tokio::test]
async fn the_password_grant_starts_a_family() {
    let config = AuthorizationServerConfig {
        resource_owner: Some(("ann".into(), "secret".into())),
        ..Default::default()
    };
    let server = AuthorizationServer::start(config).await;
    let fields = [
        ("grant_type", "password"),
        ("username", "ann"),
        ("password", "secret"),
        ("client_id", "test-client"),
        ("client_secret", "test-client-secret"),
    ];
    let response = Client::connect(server.addr()).await.send(form(&fields)).await.unwrap();
    let answer: Value = serde_json::from_slice(&body(response).await).unwrap();
    assert!(server.refresh_token_is_current(&text(&answer, "refresh_token")));
}

#[tokio::test]
async fn a_stopped_server_frees_its_port() {
    let server = strict().await;
    let addr = server.addr();
    let mut client = Client::connect(server.addr()).await;
    body(client.send(refresh_form("unknown")).await.unwrap()).await;
    server.stop().await;
    assert!(client.send(refresh_form("unknown")).await.is_err());
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    let config = AuthorizationServerConfig { listen: Some(addr), ..Default::default() };
    let server = AuthorizationServer::start(config).await;
    refreshed(&server).await;
}

#[tokio::test]
async fn a_written_answer_arrives_byte_for_byte_and_ends_as_told() {
    for (end, closes) in [(End::Open, false), (End::Close, true), (End::CloseSilently, true)] {
        let server = strict().await;
        server.enqueue(TokenBehaviour::written(end, |answer| {
            format!("{}{{}}", answer.head(2)).into_bytes()
        }));
        let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
        let body = format!(
            "grant_type=refresh_token&refresh_token={}&client_id=test-client&client_secret=test-client-secret",
            server.current_refresh_token()
        );
        let head = format!(
            "POST /token HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        tcp.write_all((head + &body).as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"{}") {
            assert_ne!(tcp.read_buf(&mut received).await.unwrap(), 0);
        }
        assert!(received.starts_with(b"HTTP/1.1 200 X\r\ncontent-type: application/json"));
        let more = tokio::time::timeout(Duration::from_millis(50), tcp.read_buf(&mut received));
        assert_eq!(more.await.ok().map(Result::unwrap), closes.then_some(0), "{end:?}");
        assert_eq!(server.previous_refresh_tokens().len(), 1);
    }
}

#[tokio::test]
async fn connections_are_refused_or_never_complete_until_they_are_accepted_again() {
    let server = strict().await;
    let seed = server.current_refresh_token();
    server.refuse_connections().await;
    let refused = TcpStream::connect(server.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    server.fill_backlog().await;
    let patience = Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, TcpStream::connect(server.addr())).await.is_err());
    server.accept_connections().await;
    refreshed(&server).await;
    assert_eq!(refused_as_reused(&server, &seed).await, "invalid_grant");
    assert_eq!(server.presentations_of(&seed).len(), 2);
}

async fn refused_as_reused(server: &AuthorizationServer, token: &str) -> Value {
    let error = refused(server, token).await;
    assert_eq!(server.reuse_count(), 1);
    error
}
