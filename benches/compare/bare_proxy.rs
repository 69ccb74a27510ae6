//! A minimal hyper proxy: it adds one field and checks nothing.
//!
//! It has as many threads as the other proxies, each with its own runtime. Each client connection uses one
//! connection to the origin server and stays on its thread. It is a baseline for the other proxies, not a proxy to
//! use. It runs in its own process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context;
use bearerd::tls::{Config, Roots};
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsConnector;

use crate::origin_server::AUTHORIZATION_EXPECTED;
use crate::peer::THREADS;
use crate::test_bed;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The listening port on loopback.
    port: u16,
    /// The address of the origin server.
    origin_server: SocketAddr,
    /// The CA file for TLS to the origin server. `None`: plain http.
    roots: Option<PathBuf>,
}

/// Connects to the origin server.
struct Connector {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    test_bed::end_with_parent();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
    let tls = match &options.roots {
        None => None,
        Some(path) => {
            let config = Config { roots: Roots::File(path.clone()), extra_roots: Vec::new() };
            Some(TlsConnector::from(Arc::new(config.build()?)))
        }
    };
    let mut threads = Vec::new();
    for _ in 0..THREADS {
        let (sender, streams) = unbounded_channel();
        let connector = Connector { address: options.origin_server, tls: tls.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(LocalSet::new().run_until(core(connector, streams)))
        });
        threads.push(sender);
    }
    for thread in threads.iter().cycle() {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        thread.send(stream).context("a thread has ended")?;
    }
    Ok(())
}

async fn core(connector: Connector, mut streams: UnboundedReceiver<std::net::TcpStream>) {
    let connector = Rc::new(connector);
    while let Some(stream) = streams.recv().await {
        let connector = Rc::clone(&connector);
        spawn_local(async move {
            if let Err(error) = serve(stream, &connector).await {
                eprintln!("bare hyper: {error:#}");
            }
        });
    }
}

async fn serve(stream: std::net::TcpStream, connector: &Connector) -> anyhow::Result<()> {
    let stream = TcpStream::from_std(stream)?;
    // hyper processes one request at a time, so the lock is uncontended.
    let sender = Mutex::new(connector.connect().await?);
    let service = service_fn(async |request| forward(request, &mut *sender.lock().await).await);
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

async fn forward(
    mut request: Request<Incoming>,
    sender: &mut SendRequest<Incoming>,
) -> anyhow::Result<Response<Incoming>> {
    let path = request.uri().path_and_query().context("a request without a path")?;
    *request.uri_mut() = Uri::from(path.clone());
    let value = const { HeaderValue::from_static(AUTHORIZATION_EXPECTED) };
    request.headers_mut().insert(AUTHORIZATION, value);
    sender.ready().await?;
    Ok(sender.send_request(request).await?)
}

impl Connector {
    async fn connect(&self) -> anyhow::Result<SendRequest<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => open(stream).await,
            Some(tls) => {
                let name = ServerName::try_from("localhost")?;
                open(tls.connect(name, stream).await?).await
            }
        }
    }
}

async fn open(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> anyhow::Result<SendRequest<Incoming>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}
