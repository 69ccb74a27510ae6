//! Serving a client's connection, in either version of HTTP.

use std::any::Any;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::Proxy;
use super::connection::{Activity, ClientStream, Phase, Watched};
use super::message::Session;

/// How many fields hyper lets a head have.
const HYPER_MAX_HEADERS: usize = 100;
/// Requests at a time on one HTTP/2 connection of a client.
const MAX_STREAMS: u32 = 100;
/// After so many streams that broke the rules, an HTTP/2 connection is closed.
const MAX_LOCAL_RESETS: usize = 1024;

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(super) struct Inbound {
    pub(super) activity: Arc<Activity>,
    /// The CONNECT it came through.
    pub(super) session: Option<Arc<Session>>,
    /// What the client called itself in that CONNECT.
    pub(super) client: Option<Arc<str>>,
    /// Held as long as the client's socket is.
    permit: Arc<dyn Any + Send + Sync>,
}

impl Inbound {
    /// What follows a CONNECT is watched by itself.
    pub(super) fn after_connect(&self, activity: Arc<Activity>, client: Option<String>) -> Self {
        let client = client.map(Arc::from);
        Self { activity, session: None, client, permit: Arc::clone(&self.permit) }
    }

    /// The handshake is done: requests for the session's authority are expected.
    pub(super) fn in_session(self, session: Session) -> Self {
        self.activity.enter(Phase::Idle);
        Self { session: Some(Arc::new(session)), ..self }
    }
}

impl Proxy {
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
    pub(super) async fn serve_http<S>(self: Arc<Self>, stream: S, inbound: Inbound)
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
    pub(super) async fn serve_http2<S>(self: Arc<Self>, stream: S, inbound: Inbound)
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
}
