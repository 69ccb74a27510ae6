//! Serving a client's connection, in HTTP/1.1; `http2::server` serves HTTP/2.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::Proxy;
use super::connection::{Activity, ClientStream, Phase, Watched};
use super::incoming::Incoming;
use super::interim::{Interim, InterimQueue, WithInterim};
use super::message::Session;
use super::personal::Personal;

/// How many fields hyper lets a head have.
const HYPER_MAX_HEADERS: usize = 100;

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(super) struct Inbound {
    pub(super) activity: Arc<Activity>,
    /// The CONNECT it came through.
    pub(super) session: Option<Arc<Session>>,
    /// What the client called itself in that CONNECT.
    pub(super) client: Option<Arc<str>>,
    /// Where interim responses go.
    pub(super) interim: Interim,
    /// The client's own connections to origin servers.
    pub(super) personal: Arc<Personal>,
    /// Held as long as the client's socket is.
    permit: Arc<dyn Any + Send + Sync>,
}

impl Inbound {
    fn new(activity: Arc<Activity>, permit: Arc<dyn Any + Send + Sync>) -> Self {
        let (interim, personal) = (Interim::Http1(Arc::default()), Arc::default());
        Self { activity, session: None, client: None, interim, personal, permit }
    }

    /// The same with interim responses going elsewhere.
    pub(super) fn with_interim(&self, interim: Interim) -> Self {
        Self { interim, ..self.clone() }
    }

    /// What follows a CONNECT is watched by itself.
    pub(super) fn after_connect(&self, activity: Arc<Activity>, client: Option<String>) -> Self {
        let mut inbound = Self::new(activity, Arc::clone(&self.permit));
        inbound.client = client.map(Arc::from);
        inbound
    }

    fn interim_queue(&self) -> Arc<InterimQueue> {
        match &self.interim {
            Interim::Http1(queue) => Arc::clone(queue),
            Interim::Http2(_) => Arc::default(),
        }
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
        let inbound = Inbound::new(Arc::clone(&activity), permit);
        let stream = Watched::new(stream, Bytes::new(), Arc::clone(&activity));
        let task = tokio::spawn(Arc::clone(self).serve_http(stream, inbound));
        activity.is_run_by(task.abort_handle());
    }

    /// Looks after connections until it is dropped.
    pub(crate) async fn watch(&self) {
        let each_tick = || {
            let snapshot = self.shared.snapshot.load();
            self.origins.sweep(snapshot.connector());
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
        let service = service_fn(|request: Request<_>| {
            let (proxy, inbound) = (&self, &inbound);
            let request = request.map(Incoming::Http1);
            async move { Ok::<_, Infallible>(proxy.serve(request, inbound).await) }
        });
        let stream = TokioIo::new(WithInterim::new(stream, inbound.interim_queue()));
        let connection = builder.serve_connection(stream, service);
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a client's connection ended early");
        }
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
