//! The origin server, over http and https, and the token endpoint. They run in their own process.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use bearerd_test_support::TestCa;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::test_bed;

/// The `Authorization` expected in every request.
pub(crate) const AUTHORIZATION_EXPECTED: &str = "Bearer token-of-the-benchmark";
/// The response field that echoes the received `Authorization`.
pub(crate) const RECEIVED: HeaderName = HeaderName::from_static("x-received-authorization");
/// The content of every answer: 1 KiB, typical of a small API call.
pub(crate) const CONTENT: &[u8] = &[b'.'; 1024];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory for the certificate of its CA.
    dir: PathBuf,
}

/// The loopback ports, written to standard output once they are open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) http: u16,
    pub(crate) https: u16,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let ca = TestCa::new();
    std::fs::write(test_bed::roots_in(&options.dir), ca.pem())?;
    let acceptor = TlsAcceptor::from(ca.server_config(&["localhost", "127.0.0.1"]));
    let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let https = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addresses =
        Addresses { http: http.local_addr()?.port(), https: https.local_addr()?.port() };
    test_bed::end_with_parent();
    println!("{}", serde_json::to_string(&addresses)?);
    tokio::spawn(accept(https, Some(acceptor)));
    accept(http, None).await;
    Ok(())
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Do not delay small answers until the client's acknowledgement (Nagle).
            let _best_effort = stream.set_nodelay(true);
            match acceptor {
                None => serve(stream).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => serve(stream).await,
                    Err(error) => eprintln!("origin server: TLS handshake failed: {error}"),
                },
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(&request)));
    // The client notices missing answers, so the result is ignored.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() == "/token" {
        return token();
    }
    let received = request.headers().get(AUTHORIZATION).cloned();
    let mut response = Response::new(Full::from(CONTENT));
    let fields = response.headers_mut();
    fields.insert(RECEIVED, received.unwrap_or(HeaderValue::from_static("none")));
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn token() -> Response<Full<Bytes>> {
    let access_token = AUTHORIZATION_EXPECTED.trim_start_matches("Bearer ");
    let answer = serde_json::json!({
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": 86_400,
    });
    let mut response = Response::new(Full::from(answer.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
