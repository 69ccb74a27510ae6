//! The admin listener: is the process alive, is it ready, and what is wrong with whom.
//!
//! It runs on the control runtime, on a listener of its own, so that a busy data plane and an open
//! admin page never get into each other's way. The two probes need no authentication and say no
//! secret: names, states and times of credentials.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::credential::Credentials;
use crate::store::TerminalReason;
use crate::token::{Condition, Status};

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `None`: there is none. Default 127.0.0.1:9090.
    pub listen: Option<SocketAddr>,
}

/// What the admin listener reports on.
#[derive(Debug)]
pub struct Admin {
    credentials: ArcSwap<Credentials>,
    draining: AtomicBool,
}

impl Admin {
    /// Reports on `credentials`.
    pub fn new(credentials: Arc<Credentials>) -> Self {
        Self { credentials: ArcSwap::new(credentials), draining: AtomicBool::new(false) }
    }

    /// From now on it reports on `credentials`.
    pub fn replace(&self, credentials: Arc<Credentials>) {
        self.credentials.store(credentials);
    }

    /// From now on the process is alive and not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Serves until `end` is cancelled.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, end: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = end.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Arc::clone(&self).serve_connection(TokioIo::new(stream));
                    tokio::spawn(end.clone().run_until_cancelled_owned(connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener could not accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve_connection(self: Arc<Self>, io: TokioIo<tokio::net::TcpStream>) {
        let service = service_fn(|request: Request<Incoming>| {
            let response = self.respond(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(response) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        if let Err(error) = builder.serve_connection(io, service).await {
            tracing::debug!(%error, "an admin connection ended early");
        }
    }

    fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return respond(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "only GET" }));
        }
        match path {
            "/livez" => respond(StatusCode::OK, &json!({ "status": "ok" })),
            "/readyz" => self.readiness(),
            _ => respond(
                StatusCode::NOT_FOUND,
                &json!({ "error": "not found", "paths": ["/livez", "/readyz"] }),
            ),
        }
    }

    /// Ready as long as requests are served: an authorization server that is down makes it degraded,
    /// because taking the proxy out of service would not bring that server back.
    fn readiness(&self) -> Response<Full<Bytes>> {
        let credentials = self.credentials.load();
        let statuses: Vec<Status> =
            credentials.all().iter().map(|credential| credential.slot.status()).collect();
        let draining = self.draining.load(Ordering::Relaxed);
        let word = match statuses.iter().any(is_degraded) {
            _ if draining => "draining",
            true => "degraded",
            false => "ok",
        };
        let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let credentials: Vec<Value> = statuses.iter().map(describe).collect();
        respond(status, &json!({ "status": word, "credentials": credentials }))
    }
}

fn is_degraded(status: &Status) -> bool {
    let troubled = matches!(status.condition, Condition::Failing(_) | Condition::NeedsLogin(_));
    status.unsaved || troubled
}

fn describe(status: &Status) -> Value {
    json!({
        "name": &*status.name,
        "state": status.condition.to_string(),
        "token": status.usable,
        "generation": status.generation,
        "expires_at": status.expires_at.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
        "unsaved": status.unsaved,
        "next": next_step(status),
    })
}

/// What a person should do, if anything.
fn next_step(status: &Status) -> Option<&'static str> {
    match status.condition {
        _ if status.unsaved => {
            Some("make the store's directory writable: the newest refresh token is only in memory")
        }
        Condition::NeedsLogin(TerminalReason::NoGrant) => {
            Some("configure a refresh_token for this credential and restart bearerd")
        }
        Condition::NeedsLogin(_) => {
            Some("configure a new refresh_token for this credential and restart bearerd")
        }
        Condition::Failing("refused") => {
            Some("check client_id, client_secret and token_url; the log has the server's answer")
        }
        _ => None,
    }
}

fn respond(status: StatusCode, content: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{content}\n"))));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
