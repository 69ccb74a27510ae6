//! A listener and the tasks of its connections, which live as long as the handle.
//!
//! A service either returns a response or says that the connection is to end without
//! one. Tasks that a service spawns belong to the server too: they survive the
//! connection that caused them, not the server.

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

/// A service's wish to end the connection without a response.
#[derive(Debug)]
pub(crate) struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the test wants no answer on this connection")
    }
}

impl std::error::Error for NoAnswer {}

/// A response, or the end of the connection.
pub(crate) type Outcome = Result<Response<Payload>, NoAnswer>;

/// What a server does with a request.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request that came on `line`.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        line: Arc<Line>,
    ) -> impl Future<Output = Outcome> + Send;
}

/// Where a server's tasks run until the server stops.
#[derive(Clone)]
pub(crate) struct Tasks {
    stopping: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    pub(crate) fn new() -> Tasks {
        Tasks { stopping: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// Runs a task to its end or to the end of the server.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tracker.spawn(async move {
            stopping.run_until_cancelled(task).await;
        });
    }
}

/// How a server meets those who want to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// It accepts.
    Open,
    /// Nobody listens: connections are refused.
    Shut,
    /// Somebody listens and never accepts, and the queue is full: connecting never completes.
    Full,
}

/// Another door, and what is told once it is in its place.
type Order = (Door, oneshot::Sender<()>);

/// The handle of a running server.
pub(crate) struct Listening {
    addr: SocketAddr,
    secure: bool,
    tasks: Tasks,
    orders: mpsc::UnboundedSender<Order>,
    _stop: DropGuard,
}

impl Listening {
    /// Listens on `listen`, or else on a free port of 127.0.0.1, and serves.
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

    /// Drops all connections and meets the next ones like this.
    pub(crate) async fn set_door(&self, door: Door) {
        let (done, is_done) = oneshot::channel();
        self.orders.send((door, done)).expect("the listener lives as long as its handle");
        is_done.await.expect("the listener obeys");
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// The authority by name, which a certificate can be made for.
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

/// Connects until the queue of a listener takes no more.
async fn fill(addr: SocketAddr) -> Vec<TcpStream> {
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
    let (mut listener, mut door, mut queued) = (Some(listener), Door::Open, Vec::new());
    let mut connections = CancellationToken::new();
    let accepted = AtomicU64::new(0);
    loop {
        let next = async {
            match &listener {
                Some(listener) if door == Door::Open => listener.accept().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            connected = next => match connected {
                Ok((tcp, _)) => {
                    let line = Line::new(accepted.fetch_add(1, Ordering::Relaxed) + 1);
                    let conversation = converse(tcp, tls.clone(), line, service.clone());
                    let end = connections.clone();
                    tasks.spawn(async move {
                        end.run_until_cancelled(conversation).await;
                    });
                }
                // Out of descriptors or a peer that left early: let others run, try again.
                Err(_) => tokio::task::yield_now().await,
            },
            Some((ordered, done)) = orders.recv() => {
                std::mem::take(&mut connections).cancel();
                drop((listener.take(), std::mem::take(&mut queued)));
                door = ordered;
                listener = match door {
                    Door::Open => Some(bind(Some(addr), BACKLOG)),
                    Door::Full => Some(bind(Some(addr), 1)),
                    Door::Shut => None,
                }
                .map(|bound| bound.expect("the address is still ours"));
                if door == Door::Full {
                    queued = fill(addr).await;
                }
                // A test that does not wait for it need not be told.
                let _ = done.send(());
            }
        }
    }
}

async fn converse(
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
    // How a connection ended is the client's observation to make, not the server's.
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
