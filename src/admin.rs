//! The admin listener: probes, metrics, and the state of each credential.
//!
//! It runs on the control runtime and its own listener, so that the data plane and admin requests
//! never block each other. The probes are open to everyone; everything else is for clients on this
//! machine, or with the admin token. Nothing here reveals a secret: responses contain names,
//! states, times, and what authorization servers reported, with tokens removed.

mod access_control;
mod actions;
mod admin_token;
mod report;

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

use access_control::AccessControl;
use actions::CredentialTarget;
pub use actions::log_out;
pub use admin_token::{AdminToken, AdminTokenError};

/// Where the admin listener is and who may read what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address; `None` turns the listener off. Default 127.0.0.1:9090.
    pub listen: Option<SocketAddr>,
    /// The token that allows changes, and reading from other machines, as `Authorization: Bearer`.
    pub token: AdminToken,
    /// Whether `/metrics` needs no token, even from other machines. Default `false`, because it
    /// names credentials.
    pub metrics_public: bool,
}

/// The admin API.
#[derive(Debug)]
pub struct Admin {
    access: AccessControl,
    credentials: ArcSwap<Credentials>,
    metrics: Metrics,
    clock: Clock,
    draining: AtomicBool,
    /// When the local CA expires, if there is one.
    ca_not_after: ArcSwap<Option<SystemTime>>,
    liveness: Box<dyn Liveness>,
}

/// Checks whether requests are served.
pub trait Liveness: fmt::Debug + Send + Sync {
    /// Returns how many of the threads that serve requests respond within a second, and how many
    /// there are.
    fn count_responsive(&self) -> BoxFuture<'static, (usize, usize)>;
}

impl Admin {
    /// An admin API for `credentials`.
    pub fn new(
        config: Config,
        credentials: Arc<Credentials>,
        ca_not_after: Option<SystemTime>,
        liveness: Box<dyn Liveness>,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self {
            access: AccessControl::new(config),
            credentials: ArcSwap::new(credentials),
            ca_not_after: ArcSwap::from_pointee(ca_not_after),
            liveness,
            metrics,
            clock,
            draining: AtomicBool::new(false),
        }
    }

    /// Applies a new configuration and new credentials. The listener's address does not change.
    pub fn replace(
        &self,
        config: Config,
        credentials: Arc<Credentials>,
        ca_not_after: Option<SystemTime>,
    ) {
        self.access.replace(config);
        self.ca_not_after.store(Arc::new(ca_not_after));
        self.credentials.store(credentials);
        self.metrics.clear_states();
    }

    /// Creates the admin token if the configuration has none and there are credentials; also its
    /// directory if `own_dir` is true because nothing else creates it. If that fails, everything
    /// but changes still works.
    pub async fn create_missing_token(&self, own_dir: bool) {
        let config = self.access.config();
        if config.listen.is_none() || self.credentials.load().all().is_empty() {
            return;
        }
        let made =
            tokio::task::spawn_blocking(move || config.token.create_if_missing(own_dir)).await;
        let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if let Err(error) = made {
            tracing::warn!(%error, "no usable admin token; `bearerd refresh` and `bearerd logout` will be refused");
        }
    }

    /// Reports the process as alive but not ready from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Serves until `end` is cancelled, with at most `connections` connections at once: a further
    /// one closes the oldest.
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
                    tracing::warn!(%error, "cannot accept an admin connection");
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
        match CredentialTarget::of(request.uri().path()) {
            Some(target) => self.respond_about_target(&target, request).await,
            None => self.respond(request).await,
        }
    }

    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed here");
        }
        let path = request.uri().path();
        match path {
            "/livez" => return self.liveness().await,
            "/readyz" => {
                return self.readiness(self.access.may_see_details(request.headers()).await);
            }
            _ => {}
        }
        if let Err((status, why)) = self.access.check(path, request.headers()).await {
            return refuse(status, why);
        }
        match path {
            "/metrics" => self.scrape(),
            "/api/v1/credentials" => {
                let (credentials, ca) = (self.describe_credentials(), self.describe_ca());
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

    /// Returns 200 while every thread that serves requests responds.
    async fn liveness(&self) -> Response<Full<Bytes>> {
        let (responsive, all) = self.liveness.count_responsive().await;
        // During shutdown, threads end before this listener does.
        match responsive == all || self.draining.load(Ordering::Relaxed) {
            true => respond(StatusCode::OK, &json!({ "status": "ok" })),
            false => respond(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({ "status": "stuck", "threads": all, "answering": responsive }),
            ),
        }
    }

    fn statuses(&self) -> Vec<Status> {
        self.credentials.load().all().iter().flat_map(|credential| credential.statuses()).collect()
    }

    fn describe_credentials(&self) -> Vec<Value> {
        let now = self.clock.now();
        let describe = |credential: &Arc<Credential>| match credential.instances().as_slice() {
            [] => vec![report::describe_unused(&credential.name, &credential.name, None)],
            some => some
                .iter()
                .map(|it| report::describe(&credential.name, it, now))
                .collect::<Vec<_>>(),
        };
        self.credentials.load().all().iter().flat_map(describe).collect()
    }

    fn describe_ca(&self) -> Option<Value> {
        self.ca_not_after.load().map(|at| report::ca(at, self.clock.now()))
    }

    /// Returns 200 while requests are served. A failing authorization server makes the status
    /// `degraded`, because restarting the proxy would not help. Which credential is degraded, and
    /// why, is shown only if `details` is true.
    fn readiness(&self, details: bool) -> Response<Full<Bytes>> {
        let draining = self.draining.load(Ordering::Relaxed);
        let is_degraded = |status: &Status| report::is_degraded(status);
        let ca_needs_renewal =
            self.ca_not_after.load().is_some_and(|at| report::needs_renewal(at, self.clock.now()));
        let word = match ca_needs_renewal || self.statuses().iter().any(is_degraded) {
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
                let (credentials, ca) = (self.describe_credentials(), self.describe_ca());
                respond(status, &json!({ "status": word, "credentials": credentials, "ca": ca }))
            }
            false => respond(status, &json!({ "status": word })),
        }
    }

    fn scrape(&self) -> Response<Full<Bytes>> {
        let now = self.clock.now();
        if let Some(at) = **self.ca_not_after.load() {
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
