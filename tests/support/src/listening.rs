//! A listener and its connection tasks, which run as long as the handle lives.
//!
//! A service returns a response, or ends the connection without one. Tasks that a
//! service spawns belong to the server: they may outlive their connection, but not the
//! server.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::line::{Line, Socket, Stream};
use crate::payload::Payload;

/// A service's request to end the connection without a response.
#[derive(Debug)]
pub(crate) struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the test ends this connection without an answer")
    }
}

impl std::error::Error for NoAnswer {}

/// A response, or the end of the connection without one.
pub(crate) type Outcome = Result<Response<Payload>, NoAnswer>;

/// Processes the requests of a server.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request that came on `line`.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        line: Arc<Line>,
    ) -> impl Future<Output = Outcome> + Send;
}

/// The tasks of a server, which run until it stops.
#[derive(Clone)]
pub(crate) struct Tasks {
    stopping: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    pub(crate) fn new() -> Tasks {
        Tasks { stopping: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// Spawns a task that runs until it finishes or the server stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tracker.spawn(async move {
            stopping.run_until_cancelled(task).await;
        });
    }
}

/// How a server treats new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptMode {
    /// Accepts them.
    Accepting,
    /// Does not listen: connections are refused.
    Refusing,
    /// Listens with a full backlog and never accepts: connecting never completes.
    BacklogFull,
}

/// The new mode, and the channel that confirms the change.
type Order = (AcceptMode, oneshot::Sender<()>);

/// The handle of a running server.
pub(crate) struct Listening {
    addr: SocketAddr,
    secure: bool,
    tasks: Tasks,
    orders: mpsc::UnboundedSender<Order>,
    _stop: DropGuard,
}

impl Listening {
    /// Listens on `listen`, by default on a free port of 127.0.0.1, and serves requests.
    pub(crate) fn start(
        listen: Option<SocketAddr>,
        tls: Option<Arc<ServerConfig>>,
        tasks: Tasks,
        service: Arc<impl Service>,
    ) -> io::Result<Listening> {
        let listener = bind(listen, BACKLOG)?;
        let addr = listener.local_addr()?;
        let secure = tls.is_some();
        let (orders, ordered) = mpsc::unbounded_channel();
        let tls = tls.map(TlsAcceptor::from);
        tasks.spawn(accept(listener, ordered, tls, tasks.clone(), service));
        let _stop = tasks.stopping.clone().drop_guard();
        Ok(Listening { addr, secure, tasks, orders, _stop })
    }

    /// Drops all connections and sets the mode for new ones.
    pub(crate) async fn set_accept_mode(&self, mode: AcceptMode) {
        let (done, is_done) = oneshot::channel();
        self.orders.send((mode, done)).expect("the listener lives as long as its handle");
        is_done.await.expect("the listener confirms each change");
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Returns the authority with the host `localhost`, which a certificate can name.
    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.addr.port())
    }

    /// Closes the listener and all connections and waits until they are closed.
    pub(crate) async fn stop(self) {
        self.tasks.stopping.cancel();
        self.tasks.tracker.close();
        self.tasks.tracker.wait().await;
    }
}

const BACKLOG: u32 = 4096;

fn bind(listen: Option<SocketAddr>, backlog: u32) -> io::Result<TcpListener> {
    let addr = listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(backlog)
}

/// Opens connections until the backlog of a listener is full.
async fn fill_backlog(addr: SocketAddr) -> Vec<TcpStream> {
    let mut queued = Vec::new();
    let patience = Duration::from_millis(100);
    while let Ok(Ok(stream)) = tokio::time::timeout(patience, TcpStream::connect(addr)).await {
        queued.push(stream);
    }
    queued
}

async fn accept(
    listener: TcpListener,
    mut orders: mpsc::UnboundedReceiver<Order>,
    tls: Option<TlsAcceptor>,
    tasks: Tasks,
    service: Arc<impl Service>,
) {
    let addr = listener.local_addr().expect("it listens");
    let (mut listener, mut mode, mut queued) = (Some(listener), AcceptMode::Accepting, Vec::new());
    let mut connections = CancellationToken::new();
    let accepted = AtomicU64::new(0);
    loop {
        let next = async {
            match &listener {
                Some(listener) if mode == AcceptMode::Accepting => listener.accept().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            connected = next => match connected {
                Ok((tcp, _)) => {
                    let line = Line::new(accepted.fetch_add(1, Ordering::Relaxed) + 1);
                    let conversation = serve_connection(tcp, tls.clone(), line, service.clone());
                    let end = connections.clone();
                    tasks.spawn(async move {
                        end.run_until_cancelled(conversation).await;
                    });
                }
                // Out of file descriptors, or the peer disconnected early: yield and retry.
                Err(_) => tokio::task::yield_now().await,
            },
            Some((ordered, done)) = orders.recv() => {
                std::mem::take(&mut connections).cancel();
                drop((listener.take(), std::mem::take(&mut queued)));
                mode = ordered;
                listener = match mode {
                    AcceptMode::Accepting => Some(bind(Some(addr), BACKLOG)),
                    AcceptMode::BacklogFull => Some(bind(Some(addr), 1)),
                    AcceptMode::Refusing => None,
                }
                .map(|bound| bound.expect("the address is still ours"));
                if mode == AcceptMode::BacklogFull {
                    queued = fill_backlog(addr).await;
                }
                // The receiver is gone if the test does not wait for the change.
                let _ = done.send(());
            }
        }
    }
}

async fn serve_connection(
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    line: Arc<Line>,
    service: Arc<impl Service>,
) {
    let Ok(stream) = secure(tcp, tls).await else {
        return;
    };
    line.note_certificate(&stream);
    let is_http2 = stream.is_http2();
    let socket = TokioIo::new(Socket::new(stream, line.clone()));
    let answering = service_fn(move |request| service.clone().answer(request, line.clone()));
    // Tests observe the end of a connection at the client.
    let _ = match is_http2 {
        true => http2::Builder::new(TokioExecutor::new()).serve_connection(socket, answering).await,
        false => http1::Builder::new().serve_connection(socket, answering).await,
    };
}

async fn secure(tcp: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<Stream> {
    tcp.set_nodelay(true)?;
    match tls {
        None => Ok(Stream::Plain(tcp)),
        Some(acceptor) => Ok(Stream::Tls(Box::new(acceptor.accept(tcp).await?))),
    }
}
