//! The admin listener: is the process alive, is it ready, and what is wrong with whom.
//!
//! It runs on the control runtime, on a listener of its own, so that a busy data plane and an open
//! admin page never get into each other's way. The two probes need nothing; the rest is for whoever is
//! on this machine, or has the admin token. Nothing here shows a secret: names, states, times and what
//! authorization servers said, with tokens taken out.

mod access;
mod change;
mod report;
mod token;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::credential::{Credential, Credentials};
use crate::metrics::Metrics;
use crate::token::Status;

use access::Access;
use change::Target;
pub use change::log_out;
pub use token::{AdminToken, AdminTokenError};

/// Where the admin listener is and who may read what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `None`: there is none. Default 127.0.0.1:9090.
    pub listen: Option<SocketAddr>,
    /// What changes something, and opens what is otherwise for this machine only, as
    /// `Authorization: Bearer`.
    pub token: AdminToken,
    /// `/metrics` needs no token, also beyond loopback. Default `false`: it names credentials.
    pub metrics_public: bool,
}

/// What the admin listener reports on.
#[derive(Debug)]
pub struct Admin {
    access: Access,
    credentials: ArcSwap<Credentials>,
    metrics: Metrics,
    clock: Clock,
    draining: AtomicBool,
    /// When the local CA ends, if there is one.
    ca_ends: ArcSwap<Option<SystemTime>>,
    liveness: Box<dyn Liveness>,
}

/// What can tell whether requests are served.
pub trait Liveness: fmt::Debug + Send + Sync {
    /// How many of the threads that serve requests answer within a second, and how many there are.
    fn answering(&self) -> BoxFuture<'static, (usize, usize)>;
}

impl Admin {
    /// Reports on `credentials`.
    pub fn new(
        config: Config,
        credentials: Arc<Credentials>,
        ca_ends: Option<SystemTime>,
        liveness: Box<dyn Liveness>,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self {
            access: Access::new(config),
            credentials: ArcSwap::new(credentials),
            ca_ends: ArcSwap::from_pointee(ca_ends),
            liveness,
            metrics,
            clock,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on it reports on `credentials`, to whom `config` says; the listener stays where it is.
    pub fn replace(
        &self,
        config: Config,
        credentials: Arc<Credentials>,
        ca_ends: Option<SystemTime>,
    ) {
        self.access.replace(config);
        self.ca_ends.store(Arc::new(ca_ends));
        self.credentials.store(credentials);
        self.metrics.clear_states();
    }

    /// Makes the admin token that the configuration does not give, once there is something to change; with
    /// its directory if `own_dir` says that nobody else makes that. Without a token everything but changes
    /// goes on.
    pub async fn make_token(&self, own_dir: bool) {
        let config = self.access.config();
        if config.listen.is_none() || self.credentials.load().all().is_empty() {
            return;
        }
        let made = tokio::task::spawn_blocking(move || config.token.make_missing(own_dir)).await;
        let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if let Err(error) = made {
            tracing::warn!(%error, "`bearerd refresh` and `bearerd logout` will be refused");
        }
    }

    /// From now on the process is alive and not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Serves until `end` is cancelled, at most so many `connections` at once: for another the one that has been
    /// there longest is closed.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        connections: usize,
        end: CancellationToken,
    ) {
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = end.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = Arc::clone(&self).serve_connection(TokioIo::new(stream));
                    let task = tokio::spawn(end.clone().run_until_cancelled_owned(connection));
                    open.retain(|task| !task.is_finished());
                    open.push_back(task.abort_handle());
                    if open.len() > connections
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
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
            let admin = Arc::clone(&self);
            async move { Ok::<_, Infallible>(admin.answer(&request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        if let Err(error) = builder.serve_connection(io, service).await {
            tracing::debug!(%error, "an admin connection ended early");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match Target::of(request.uri().path()) {
            Some(target) => self.answer_about(&target, request).await,
            None => self.respond(request).await,
        }
    }

    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
        }
        let path = request.uri().path();
        match path {
            "/livez" => return self.liveness().await,
            "/readyz" => return self.readiness(self.access.may_know(request.headers()).await),
            _ => {}
        }
        if let Err((status, why)) = self.access.check(path, request.headers()).await {
            return refuse(status, why);
        }
        match path {
            "/metrics" => self.scrape(),
            "/api/v1/credentials" => {
                let (credentials, ca) = (self.described(), self.described_ca());
                respond(StatusCode::OK, &json!({ "credentials": credentials, "ca": ca }))
            }
            _ => respond(
                StatusCode::NOT_FOUND,
                &json!({
                    "error": "not found",
                    "paths": ["/livez", "/readyz", "/metrics", "/api/v1/credentials"],
                }),
            ),
        }
    }

    /// Alive as long as every thread that serves requests answers.
    async fn liveness(&self) -> Response<Full<Bytes>> {
        let (answering, all) = self.liveness.answering().await;
        // While the end has begun, threads end before this listener does.
        match answering == all || self.draining.load(Ordering::Relaxed) {
            true => respond(StatusCode::OK, &json!({ "status": "ok" })),
            false => respond(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({ "status": "stuck", "threads": all, "answering": answering }),
            ),
        }
    }

    fn statuses(&self) -> Vec<Status> {
        self.credentials.load().all().iter().flat_map(|credential| credential.statuses()).collect()
    }

    fn described(&self) -> Vec<Value> {
        let now = self.clock.now();
        let describe = |credential: &Arc<Credential>| match credential.instances().as_slice() {
            [] => vec![report::unused(&credential.name, &credential.name, None)],
            some => some
                .iter()
                .map(|it| report::describe(&credential.name, it, now))
                .collect::<Vec<_>>(),
        };
        self.credentials.load().all().iter().flat_map(describe).collect()
    }

    fn described_ca(&self) -> Option<Value> {
        self.ca_ends.load().map(|at| report::ca(at, self.clock.now()))
    }

    /// Ready as long as requests are served: an authorization server that is down makes it degraded,
    /// because taking the proxy out of service would not bring that server back.
    /// Which credential is degraded, and why, is not for everyone who can reach the probes.
    fn readiness(&self, details: bool) -> Response<Full<Bytes>> {
        let draining = self.draining.load(Ordering::Relaxed);
        let is_degraded = |status: &Status| report::is_degraded(status);
        let ca_is_ending =
            self.ca_ends.load().is_some_and(|at| report::is_ending(at, self.clock.now()));
        let word = match ca_is_ending || self.statuses().iter().any(is_degraded) {
            _ if draining => "draining",
            true => "degraded",
            false => "ok",
        };
        let status = match draining {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        };
        match details {
            true => {
                let (credentials, ca) = (self.described(), self.described_ca());
                respond(status, &json!({ "status": word, "credentials": credentials, "ca": ca }))
            }
            false => respond(status, &json!({ "status": word })),
        }
    }

    fn scrape(&self) -> Response<Full<Bytes>> {
        let now = self.clock.now();
        if let Some(at) = **self.ca_ends.load() {
            self.metrics.set_ca_expires_in(report::seconds_until(at, now));
        }
        for credential in self.credentials.load().all() {
            let statuses = credential.statuses();
            let states: Vec<&str> = statuses.iter().map(|status| status.condition.word()).collect();
            let expiries = statuses.iter().filter_map(|status| status.expires_at);
            let expires_in = expiries.min().map(|at| report::seconds_until(at, now));
            let unsaved = statuses.iter().filter(|status| status.is_unsaved).count();
            self.metrics.set_states(&credential.name, &states, expires_in, unsaved);
        }
        let mut response = Response::new(Full::new(Bytes::from(self.metrics.encode())));
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    respond(status, &json!({ "error": why }))
}

fn respond(status: StatusCode, content: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{content}\n"))));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
