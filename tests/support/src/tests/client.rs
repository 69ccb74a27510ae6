//! A test client: one connection, sequential requests.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// One connection to a server.
pub(super) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(super) async fn connect(addr: SocketAddr) -> Client {
        let tcp = TcpStream::connect(addr).await.expect("the server listens");
        let (sender, connection) = handshake(TokioIo::new(tcp)).await.expect("a handshake");
        tokio::spawn(connection);
        Client(sender)
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    pub(super) async fn get(
        &mut self,
        path: &str,
        token: &str,
    ) -> hyper::Result<Response<Incoming>> {
        self.send(get(path, token)).await
    }
}

/// Builds a GET request with a bearer token.
pub(super) fn get(path: &str, token: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", "localhost");
    let request = request.header("authorization", format!("Bearer {token}"));
    request.body(Full::default()).expect("a valid request")
}

/// Builds a form request to `/token`.
pub(super) fn form(fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    Request::post("/token")
        .header("host", "localhost")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from(body))
        .expect("a valid request")
}

/// Builds a refresh request of the default client.
pub(super) fn refresh_form(token: &str) -> Request<Full<Bytes>> {
    form(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", token),
        ("client_id", "test-client"),
        ("client_secret", "test-client-secret"),
    ])
}

/// Sends a refresh request on a new connection.
pub(super) async fn refresh(addr: SocketAddr, token: &str) -> hyper::Result<(StatusCode, Value)> {
    let response = Client::connect(addr).await.send(refresh_form(token)).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&body).expect("a JSON answer")))
}

/// Reads the whole body of a response.
pub(super) async fn body(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.expect("a whole body").to_bytes()
}
