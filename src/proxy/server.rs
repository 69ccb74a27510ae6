//! MessageGuard a client's connection, in HTTP/1.1; `http2::server` serves HTTP/2.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::Proxy;
use super::connection::{Activity, ClientStream, ConnectionPhase, MonitoredStream};
use super::dedicated_connections::DedicatedConnections;
use super::http1_stream::{Http1Parts, Http1Stream};
use super::incoming_body::IncomingBody;
use super::interim::{InterimQueue, InterimSink};
use super::request_target::ConnectSession;

/// How many fields hyper lets a head have.
const HYPER_MAX_HEADERS: usize = 100;

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(super) struct ClientConnection {
    pub(super) activity: Arc<Activity>,
    /// The CONNECT it came through.
    pub(super) session: Option<Arc<ConnectSession>>,
    /// What the client called itself in that CONNECT.
    pub(super) client: Option<Arc<str>>,
    /// Where interim responses go.
    pub(super) interim: InterimSink,
    /// Is the request that was read last an OPTIONS whose target is an authority alone?
    asterisk: Arc<AtomicBool>,
    /// The client's own connections to origin servers.
    pub(super) personal: Arc<DedicatedConnections>,
    /// Held as long as the client's socket is.
    permit: Arc<dyn Any + Send + Sync>,
}

impl ClientConnection {
    fn new(activity: Arc<Activity>, permit: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            activity,
            session: None,
            client: None,
            interim: InterimSink::Http1(Arc::default()),
            asterisk: Arc::default(),
            personal: Arc::default(),
            permit,
        }
    }

    /// The same with interim responses going elsewhere.
    pub(super) fn with_interim(&self, interim: InterimSink) -> Self {
        Self { interim, ..self.clone() }
    }

    /// What follows a CONNECT is watched by itself.
    pub(super) fn after_connect(&self, activity: Arc<Activity>, client: Option<String>) -> Self {
        let mut inbound = Self::new(activity, Arc::clone(&self.permit));
        inbound.client = client.map(Arc::from);
        inbound
    }

    /// Is the request an OPTIONS whose target is an authority alone? Asked once for each.
    pub(super) fn is_asterisk(&self) -> bool {
        self.asterisk.load(Ordering::Relaxed) && self.asterisk.swap(false, Ordering::Relaxed)
    }

    fn http1_parts(&self) -> Http1Parts {
        Http1Parts {
            activity: Arc::clone(&self.activity),
            interim: self.interim_queue(),
            asterisk: Arc::clone(&self.asterisk),
        }
    }

    fn interim_queue(&self) -> Arc<InterimQueue> {
        match &self.interim {
            InterimSink::Http1(queue) => Arc::clone(queue),
            InterimSink::Http2(_) => Arc::default(),
        }
    }

    /// The handshake is done: requests for the session's authority are expected.
    pub(super) fn in_session(self, session: ConnectSession) -> Self {
        self.activity.enter(ConnectionPhase::Idle);
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
        let activity = self.watchdog.watch(ConnectionPhase::Idle);
        let inbound = ClientConnection::new(Arc::clone(&activity), permit);
        let stream = MonitoredStream::new(stream, Bytes::new(), Arc::clone(&activity));
        let task = tokio::spawn(Arc::clone(self).serve_http1(stream, inbound));
        activity.is_run_by(task.abort_handle());
    }

    /// Looks after connections until it is dropped.
    pub(crate) async fn watch(&self) {
        let each_tick = || {
            let snapshot = self.shared.snapshot.load();
            self.origins.sweep(snapshot.connector());
            snapshot.timeouts()
        };
        let cut = |limit| {
            self.shared.metrics.record_limit(limit);
            tracing::info!(
                limit,
                "a client's connection was cut off: it overstayed limits.{limit}"
            );
        };
        self.watchdog.run(each_tick, cut).await;
    }

    /// Closes idle connections and waits until the others are done.
    pub(crate) async fn drain(&self) {
        self.watchdog.drain().await;
    }

    /// What is still under way breaks off: the core ends.
    pub(crate) fn cut_off(&self) {
        self.watchdog.cut_off();
    }

    /// Serves the requests of one connection, whatever is below it.
    pub(super) async fn serve_http1<S>(self: Arc<Self>, stream: S, inbound: ClientConnection)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let builder = self.http1();
        let service = service_fn(|request: Request<_>| {
            let (proxy, inbound) = (&self, &inbound);
            let request = request.map(IncomingBody::Http1);
            // At once: what is read next may be the end of what the client sends.
            let serving = inbound.activity.serve();
            async move { Ok::<_, Infallible>(proxy.serve(request, inbound, serving).await) }
        });
        let stream = Http1Stream::new(stream, inbound.http1_parts(), Arc::clone(&self));
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = pin!(connection);
        let mut closes = false;
        let served = poll_fn(|cx| {
            if !closes && inbound.activity.poll_closing(cx).is_ready() {
                closes = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        });
        if let Err(error) = served.await {
            // hyper refuses HTTP/2 without a word.
            if error.is_parse() && inbound.activity.phase() == ConnectionPhase::Head {
                let _unsent = self.respond_to_unparsable(400);
            }
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
