//! The request path: what happens between a client's request and its response.
//!
//! [`Proxy::serve`] is the ordered walk of one request, the same for a plain request, for one inside
//! an intercepted session and for one in clear after CONNECT. There is one `Proxy` for each core, with
//! a pool of origin connections of its own; what the cores share is immutable or atomic.
//!
//! What this module does not know: where tokens come from ([`token`](crate::token)), and how
//! sockets are accepted ([`app`](crate::app)).

mod access;
mod body;
mod challenge;
mod connect;
pub(crate) mod connection;
mod dial;
mod error;
mod forward;
mod message;
pub mod origins;
mod replay;

use std::any::Any;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};

use crate::ca::{CaError, CertificateAuthority};
use crate::clock::Clock;
use crate::credential::Credentials;
use crate::origin::{Host, Origin, Scheme};

use access::AccessRecord;
use body::Body;
use connection::{Activity, ClientStream, Patience, Phase, Watchdog, Watched};
use dial::Dialer;
use error::{Accepts, ProxyError, own_response};
use message::{MessageError, Session, Target, Via};
use origins::{Origins, Reach};
use replay::Budget;

/// What happens to requests for hosts that no credential names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unmatched {
    /// They are forwarded untouched.
    #[default]
    Forward,
    /// They are answered 403.
    Deny,
}

/// How requests are served.
#[derive(Clone, Debug)]
pub struct Config {
    /// What happens to hosts that no credential names.
    pub unmatched: Unmatched,
    /// Ports that may be tunnelled to; empty: any. Default 80, 443 and 8443.
    pub connect_ports: Vec<u16>,
    /// Whether each request is logged.
    pub access_log: bool,
    /// What a client may take of this proxy.
    pub limits: Limits,
    /// How origin servers are reached.
    pub origins: origins::Config,
}

/// What clients may take of this proxy. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients' connections at a time.
    pub connections: usize,
    /// The same for one address; 0: no limit of its own.
    pub connections_per_peer: usize,
    /// The request target. Default 8 KiB.
    pub request_line: usize,
    /// A request's whole head. Default 32 KiB.
    pub header_bytes: usize,
    /// Fields in a head. Default 100.
    pub header_count: usize,
    /// From the first byte of a head to its last. Default 15 s.
    pub header_read_timeout: Duration,
    /// From CONNECT to the end of the TLS handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// Between two requests of a connection. Default 60 s.
    pub idle_timeout: Duration,
    /// Silence in a tunnel. Default 10 min.
    pub tunnel_idle_timeout: Duration,
    /// All kept bodies together. Default 64 MiB.
    pub replay_bytes: u64,
    /// A request's content; 0: no limit.
    pub body_bytes: u64,
}

/// What all cores share for as long as the process runs.
#[derive(Debug)]
pub(crate) struct Shared {
    snapshot: ArcSwap<Snapshot>,
    clock: Clock,
    via: Via,
    request_ids: RequestIds,
}

/// What a reload replaces, all at once: a request is served by one snapshot from its first step to
/// its last.
#[derive(Debug)]
pub(crate) struct Snapshot {
    config: Config,
    credentials: Arc<Credentials>,
    ca: Option<Arc<CertificateAuthority>>,
    reach: Reach,
    replay_budget: Arc<Budget>,
}

impl Shared {
    pub(crate) fn new(snapshot: Snapshot, clock: Clock) -> Self {
        let (via, request_ids) = (Via::new(), RequestIds::new());
        Self { snapshot: ArcSwap::from_pointee(snapshot), clock, via, request_ids }
    }

    /// The credentials at work.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.snapshot.load().credentials)
    }

    /// The local CA, if there is one.
    pub(crate) fn ca(&self) -> Option<Arc<CertificateAuthority>> {
        self.snapshot.load().ca.clone()
    }

    /// From the next request on, `snapshot` is what is served by.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}

impl Snapshot {
    /// `own` are the addresses this proxy listens on; `ca` may be missing where no credential is;
    /// `version` counts the reloads.
    pub(crate) fn new(
        config: Config,
        credentials: Arc<Credentials>,
        ca: Option<Arc<CertificateAuthority>>,
        tls: Arc<ClientConfig>,
        own: Vec<SocketAddr>,
        version: u64,
    ) -> Self {
        let dialer = Dialer {
            deny: config.origins.deny_addresses.clone(),
            allow: config.origins.allow_addresses.clone(),
            own,
            timeout: config.origins.connect_timeout,
        };
        let reach = Reach::new(&config.origins, dialer, tls, version);
        let replay_budget = Budget::new(config.limits.replay_bytes);
        Self { config, credentials, ca, reach, replay_budget }
    }

    fn reach(&self) -> &Reach {
        &self.reach
    }

    fn replay_budget(&self) -> Arc<Budget> {
        Arc::clone(&self.replay_budget)
    }

    fn patience(&self) -> Patience {
        let limits = &self.config.limits;
        Patience {
            idle: limits.idle_timeout,
            head: limits.header_read_timeout,
            handshake: limits.handshake_timeout,
            tunnel: limits.tunnel_idle_timeout,
        }
    }

    fn check_target_length(&self, parts: &Parts) -> Result<(), MessageError> {
        let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
        let path = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
        match authority + path > self.config.limits.request_line {
            true => Err(MessageError::TargetTooLong),
            false => Ok(()),
        }
    }

    fn check_length(&self, fields: &HeaderMap) -> Result<(), MessageError> {
        let limit = self.config.limits.body_bytes;
        let length = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        match length {
            Some(length) if limit != 0 && u64::gt(&length, &limit) => {
                Err(MessageError::ContentTooLarge)
            }
            _ => Ok(()),
        }
    }

    fn admit_unmatched(&self) -> Result<(), ProxyError> {
        match self.config.unmatched {
            Unmatched::Forward => Ok(()),
            Unmatched::Deny => Err(ProxyError::Unmatched),
        }
    }
}

/// The request path of one core.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    origins: Origins,
    watchdog: Watchdog,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
struct Inbound {
    activity: Arc<Activity>,
    /// The CONNECT it came through.
    session: Option<Arc<Session>>,
    /// Held as long as the client's socket is.
    permit: Arc<dyn Any + Send + Sync>,
}

impl Inbound {
    fn for_session(&self, activity: Arc<Activity>, session: Option<Arc<Session>>) -> Self {
        Self { activity, session, permit: Arc::clone(&self.permit) }
    }
}

impl Proxy {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, origins: Origins::default(), watchdog: Watchdog::new() }
    }

    /// Serves one client's connection in a task of its own. `permit` is dropped with the socket.
    pub(crate) fn accept(
        self: &Arc<Self>,
        stream: ClientStream,
        permit: Arc<dyn Any + Send + Sync>,
    ) {
        let activity = self.watchdog.watch(Phase::Idle);
        let inbound = Inbound { activity: Arc::clone(&activity), session: None, permit };
        let stream = Watched::new(stream, Bytes::new(), Arc::clone(&activity));
        let task = tokio::spawn(Arc::clone(self).serve_http(stream, inbound));
        activity.is_run_by(task.abort_handle());
    }

    /// Looks after connections until it is dropped.
    pub(crate) async fn watch(&self) {
        let each_tick = || {
            let snapshot = self.shared.snapshot.load();
            self.origins.sweep(snapshot.reach());
            snapshot.patience()
        };
        self.watchdog.run(each_tick).await;
    }

    /// Closes idle connections and waits until the others are done.
    pub(crate) async fn drain(&self) {
        self.watchdog.drain().await;
    }

    /// Serves the requests of one connection, whatever is below it.
    async fn serve_http<S>(self: Arc<Self>, stream: S, inbound: Inbound)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let builder = self.http1();
        let service = service_fn(|request| {
            let (proxy, inbound) = (&self, &inbound);
            async move { Ok::<_, Infallible>(proxy.serve(request, inbound).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a client's connection ended early");
        }
    }

    fn http1(&self) -> http1::Builder {
        let snapshot = self.shared.snapshot.load();
        let limits = &snapshot.config.limits;
        let mut builder = http1::Builder::new();
        builder
            .max_headers(limits.header_count)
            .max_header_size(limits.header_bytes)
            .header_read_timeout(None);
        builder
    }

    /// Turns a request into a response, always.
    async fn serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
        inbound: &Inbound,
    ) -> Response<Body> {
        inbound.activity.enter(Phase::Busy);
        let request_id = self.shared.request_ids.next();
        let accepts = Accepts::of(request.headers());
        let snapshot = self.shared.snapshot.load_full();
        let mut record = snapshot
            .config
            .access_log
            .then(|| Box::new(AccessRecord::new(&request_id.to_string(), request.method())));
        let walked = self.walk(&snapshot, request, inbound, &mut record).await;
        let mut response = walked.unwrap_or_else(|error| {
            if let Some(record) = &mut record {
                record.error = Some(error.kind());
            }
            tracing::debug!(request_id = %request_id, %error, "answered by the proxy itself");
            error.response(accepts, &request_id.to_string())
        });
        if self.watchdog.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(record) = &mut record {
            record.status = response.status();
        }
        response.map(|body| body.ends(Arc::clone(&inbound.activity), record))
    }

    /// The walk, in order; what goes wrong on the way becomes a response in `serve`.
    async fn walk(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        request: Request<Incoming>,
        inbound: &Inbound,
        record: &mut Option<Box<AccessRecord>>,
    ) -> Result<Response<Body>, ProxyError> {
        let (parts, body) = request.into_parts();
        snapshot.check_target_length(&parts)?;
        let target = message::target(&parts, inbound.session.as_deref())?;
        note_target(record, &target, &parts);
        if self.shared.via.is_in(&parts.headers) {
            return Err(MessageError::Loop.into());
        }
        let origin = match target {
            Target::Connect(authority) => {
                let request = Request::from_parts(parts, body);
                return self.connect(snapshot, request, authority, inbound).await;
            }
            Target::Proxy => return Ok(options()),
            Target::Origin(origin) => origin,
        };
        if is_own_name(&origin) {
            return Ok(self.own_resource(snapshot, &parts));
        }
        match snapshot.credentials.for_request(&origin) {
            Some(selection) => {
                self.forward_with_token(snapshot, parts, body, selection, record).await
            }
            None => {
                snapshot.admit_unmatched()?;
                self.forward_plain(snapshot, parts, body, &origin, record).await
            }
        }
    }

    /// `http://bearerd.invalid/ca.pem`, and nothing else.
    fn own_resource(&self, snapshot: &Snapshot, parts: &Parts) -> Response<Body> {
        match &snapshot.ca {
            Some(ca) if parts.uri.path() == "/ca.pem" && parts.method == http::Method::GET => {
                let mut response = Response::new(Body::full(Bytes::from(ca.pem().to_owned())));
                let kind = HeaderValue::from_static("application/x-pem-file");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            _ => {
                let text = "this proxy serves http://bearerd.invalid/ca.pem once a credential is \
                            configured, and nothing else of its own";
                let id = self.shared.request_ids.next().to_string();
                own_response(StatusCode::NOT_FOUND, text, Accepts::of(&parts.headers), &id)
            }
        }
    }

    fn server_config(
        &self,
        snapshot: &Snapshot,
        host: &Host,
    ) -> Result<Arc<ServerConfig>, Arc<CaError>> {
        match &snapshot.ca {
            Some(ca) => ca.server_config(host, self.shared.clock.now()),
            None => Err(Arc::new(CaError::Missing)),
        }
    }

    fn via(&self) -> &Via {
        &self.shared.via
    }
}

fn options() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT");
    response.headers_mut().insert(ALLOW, methods);
    response
}

/// RFC 6761 §6.4: a name that no origin server can have.
fn is_own_name(origin: &Origin) -> bool {
    origin.scheme == Scheme::Http
        && origin.authority.port == 80
        && origin.authority.host.name() == Some("bearerd.invalid")
}

fn note_target(record: &mut Option<Box<AccessRecord>>, target: &Target, parts: &Parts) {
    let Some(record) = record else { return };
    record.target = match target {
        Target::Connect(authority) => authority.to_string(),
        Target::Proxy => "*".to_owned(),
        Target::Origin(origin) => format!("{origin}{}", parts.uri.path()),
    };
}

/// Numbers that tell the requests of this process apart, in an order that says nothing.
#[derive(Debug)]
struct RequestIds {
    start: u64,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        Self { start: RandomState::new().build_hasher().finish(), count: AtomicU64::new(0) }
    }

    fn next(&self) -> RequestId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // An odd factor makes a permutation: no number comes twice.
        RequestId(self.start.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// Written only where somebody reads it.
#[derive(Clone, Copy, Debug)]
struct RequestId(u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
