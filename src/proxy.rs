//! The request path: what happens between a client's request and its response.
//!
//! `Proxy::serve` is the ordered walk of one request, the same for a plain request, for one inside
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
mod content;
mod dial;
mod early_response;
mod error;
mod exchange;
mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod message;
mod origin_error;
mod origins;
pub mod reach;
mod record;
mod replay;
mod rereads;
mod snapshot;

use std::any::Any;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;

use crate::ca::{CaError, CertificateAuthority};
use crate::clock::Clock;
use crate::credential::{Credentials, Selection};
use crate::origin::{Host, Origin, Scheme};

use access::AccessLine;
use body::Body;
use connection::{Activity, ClientStream, Phase, Watchdog, Watched};
use error::{Accepts, ProxyError, own_response};
pub use rereads::RejectedSecrets;
pub(crate) use rereads::Rereads;
pub(crate) use snapshot::Snapshot;
pub use snapshot::{Config, Limits, Unmatched};

use message::{MessageError, Session, Target, Via};
use origins::Origins;
use record::Record;

/// How many fields hyper lets a head have.
const HYPER_MAX_HEADERS: usize = 100;
/// Requests at a time on one HTTP/2 connection of a client.
const MAX_STREAMS: u32 = 100;
/// After so many streams that broke the rules, an HTTP/2 connection is closed.
const MAX_LOCAL_RESETS: usize = 1024;

/// What all cores share for as long as the process runs.
#[derive(Debug)]
pub(crate) struct Shared {
    snapshot: ArcSwap<Snapshot>,
    clock: Clock,
    via: Via,
    request_ids: RequestIds,
    /// Secrets that are to be read again.
    pub(crate) rereads: Rereads,
}

impl Shared {
    pub(crate) fn new(snapshot: Snapshot, clock: Clock) -> Self {
        let (via, request_ids) = (Via::new(), RequestIds::new());
        let (snapshot, rereads) = (ArcSwap::from_pointee(snapshot), Rereads::default());
        Self { snapshot, clock, via, request_ids, rereads }
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
    /// What the client called itself in that CONNECT.
    client: Option<Arc<str>>,
    /// Held as long as the client's socket is.
    permit: Arc<dyn Any + Send + Sync>,
}

impl Inbound {
    /// What follows a CONNECT is watched by itself.
    fn after_connect(&self, activity: Arc<Activity>, client: Option<String>) -> Self {
        let client = client.map(Arc::from);
        Self { activity, session: None, client, permit: Arc::clone(&self.permit) }
    }

    /// The handshake is done: requests for the session's authority are expected.
    fn in_session(self, session: Session) -> Self {
        self.activity.enter(Phase::Idle);
        Self { session: Some(Arc::new(session)), ..self }
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
        let inbound =
            Inbound { activity: Arc::clone(&activity), session: None, client: None, permit };
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

    /// The same for HTTP/2, whose requests run in tasks of their own.
    async fn serve_http2<S>(self: Arc<Self>, stream: S, inbound: Inbound)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        inbound.activity.is_multiplexed();
        let proxy = Arc::clone(&self);
        let service = service_fn(move |request| {
            let (proxy, inbound) = (Arc::clone(&proxy), inbound.clone());
            async move { Ok::<_, Infallible>(proxy.serve(request, &inbound).await) }
        });
        let mut connection = pin!(self.http2().serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.watchdog.drains() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client's HTTP/2 connection ended early");
        }
    }

    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let snapshot = self.shared.snapshot.load();
        let head = u32::try_from(snapshot.config.limits.header_bytes).unwrap_or(u32::MAX);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(head)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS);
        builder
    }

    fn http1(&self) -> http1::Builder {
        let snapshot = self.shared.snapshot.load();
        let limits = &snapshot.config.limits;
        let mut builder = http1::Builder::new();
        builder.max_header_size(limits.header_bytes).header_read_timeout(None);
        // hyper reads heads faster while its own limit stands.
        if limits.header_count != HYPER_MAX_HEADERS {
            builder.max_headers(limits.header_count);
        }
        builder
    }

    /// Turns a request into a response, always.
    async fn serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
        inbound: &Inbound,
    ) -> Response<Body> {
        let serving = inbound.activity.serve();
        let request_id = self.shared.request_ids.next();
        let accepts = Accepts::of(request.headers());
        let version = request.version();
        let snapshot = self.shared.snapshot.load_full();
        let line = || Box::new(AccessLine::new(&request_id.to_string(), request.method()));
        let line = snapshot.config.access_log.then(line);
        let mut record = Record::new(Arc::clone(&snapshot.unmatched), line);
        let walked = self.walk(&snapshot, request, inbound, &mut record).await;
        let mut response = walked.unwrap_or_else(|error| {
            if let Some(line) = &mut record.line {
                line.error = Some(error.kind());
            }
            tracing::debug!(request_id = %request_id, %error, "answered by the proxy itself");
            error.response(accepts, &request_id.to_string())
        });
        // HTTP/2 has GOAWAY for that.
        if self.watchdog.is_draining() && version != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        record.answered(response.status());
        response.map(|body| body.ends(serving, record))
    }

    /// The walk, in order; what goes wrong on the way becomes a response in `serve`.
    async fn walk(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        request: Request<Incoming>,
        inbound: &Inbound,
        record: &mut Record,
    ) -> Result<Response<Body>, ProxyError> {
        let (mut parts, body) = request.into_parts();
        snapshot.check_size(&parts)?;
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
        let credentials = &snapshot.credentials;
        let (path, client) = (parts.uri.path(), inbound.client.as_deref());
        match credentials.for_request(&origin, &parts.method, path, &parts.headers, client) {
            Selection::Selected(selected) => {
                selected.credential.remove_choice(&mut parts.headers);
                if forward::keeps_its_own(&selected.credential, &parts, record)? {
                    let origin = &selected.origin;
                    return self.forward_plain(snapshot, parts, body, origin, record).await;
                }
                self.forward_with_token(snapshot, parts, body, selected, record).await
            }
            Selection::Unmatched(origin) => {
                snapshot.admit_unmatched(ProxyError::UnmatchedPath)?;
                self.forward_plain(snapshot, parts, body, &origin, record).await
            }
            Selection::UnknownHost => {
                snapshot.admit_unmatched(ProxyError::Unmatched)?;
                self.forward_plain(snapshot, parts, body, &origin, record).await
            }
            Selection::Ambiguous => Err(MessageError::Path.into()),
            Selection::Stub(credential) => {
                record.belongs_to(&credential);
                Ok(stub_tokens())
            }
            Selection::Refused(credential, error) => {
                record.belongs_to(&credential);
                Err(ProxyError::Choice { credential: Arc::clone(&credential.name), error })
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

/// What an application gets that asks for tokens itself: they are worth nothing, and what it puts
/// them on gets the real one.
fn stub_tokens() -> Response<Body> {
    let tokens = concat!(
        r#"{"access_token":"bearerd-stub","token_type":"Bearer","expires_in":3600,"#,
        r#""refresh_token":"bearerd-stub"}"#
    );
    let mut response = Response::new(Body::full(Bytes::from_static(tokens.as_bytes())));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // RFC 6749 §5.1.
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// RFC 6761 §6.4: a name that no origin server can have.
fn is_own_name(origin: &Origin) -> bool {
    origin.scheme == Scheme::Http
        && origin.authority.port == 80
        && origin.authority.host.name() == Some("bearerd.invalid")
}

fn note_target(record: &mut Record, target: &Target, parts: &Parts) {
    let Some(line) = &mut record.line else { return };
    line.target = match target {
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
