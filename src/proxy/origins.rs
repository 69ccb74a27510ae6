//! Connections to origin servers, kept by one core for itself.
//!
//! Each core has its own pool of plain hyper connections; a connection never changes threads, so
//! nothing here is contended. Requests are re-serialised by hyper, never passed on as bytes, and a
//! connection with unread bytes on it is never used again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::dial::Dialer;
use super::error::OriginError;
use crate::origin::{Host, Origin, Scheme};

/// How origin servers are reached.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses that are never dialled, checked after name resolution. Default: link-local ones,
    /// where clouds keep their metadata services.
    pub deny_addresses: Vec<IpNet>,
    /// Exceptions to that.
    pub allow_addresses: Vec<IpNet>,
    /// For name, connection and TLS each. Default 5 s.
    pub connect_timeout: Duration,
    /// Until the response's head. Default 300 s: some APIs think long.
    pub response_timeout: Duration,
    /// How long an unused connection is kept. Default 60 s.
    pub idle_timeout: Duration,
}

/// The way to origin servers, the same for all cores; a reload makes a new one.
pub(super) struct Reach {
    dialer: Dialer,
    tls: TlsConnector,
    connect_timeout: Duration,
    response_timeout: Duration,
    idle_timeout: Duration,
    /// Tells its connections from those of the configuration before: they may trust other roots.
    version: u64,
}

/// One core's pool.
#[derive(Default)]
pub(super) struct Origins {
    idle: Arc<Idle>,
}

/// Unused connections, the most recently used last.
#[derive(Default)]
struct Idle(Mutex<HashMap<Origin, Vec<IdleConnection>>>);

struct IdleConnection {
    sender: SendRequest<RequestBody>,
    since: Instant,
    version: u64,
}

/// How a request went that may be tried again.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) error: OriginError,
    /// A kept connection turned out to be closed, and not a byte of a response had come.
    pub(super) stale: bool,
}

impl From<OriginError> for SendError {
    fn from(error: OriginError) -> Self {
        Self { error, stale: false }
    }
}

impl Reach {
    pub(super) fn new(
        config: &Config,
        dialer: Dialer,
        tls: Arc<ClientConfig>,
        version: u64,
    ) -> Self {
        Self {
            dialer,
            tls: TlsConnector::from(tls),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            idle_timeout: config.idle_timeout,
            version,
        }
    }

    /// May a kept connection be used still?
    fn keeps(&self, kept: &IdleConnection) -> bool {
        kept.version == self.version && kept.since.elapsed() < self.idle_timeout
    }

    /// The way to an authority without TLS and HTTP, for tunnels.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    async fn connect(&self, origin: &Origin) -> Result<SendRequest<RequestBody>, OriginError> {
        let stream = self.dialer.connect(&origin.authority).await?;
        match origin.scheme {
            Scheme::Http => handshake(TokioIo::new(stream)).await,
            Scheme::Https => {
                let stream = self.secure(&origin.authority.host, stream).await?;
                handshake(TokioIo::new(stream)).await
            }
        }
    }

    async fn secure(
        &self,
        host: &Host,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, OriginError> {
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.to_string())
                .map_err(|error| OriginError::Tls(std::io::Error::other(error)))?,
            Host::V4(address) => ServerName::from(std::net::IpAddr::from(*address)),
            Host::V6(address) => ServerName::from(std::net::IpAddr::from(*address)),
        };
        let connecting = self.tls.connect(name, stream);
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if is_about_certificate(&error) => Err(OriginError::Certificate(error)),
            Ok(Err(error)) => Err(OriginError::Tls(error)),
            Err(_) => Err(OriginError::ConnectTimeout),
        }
    }
}

impl Origins {
    /// Sends `request` to `origin` and returns the response with what gives the connection back.
    ///
    /// # Errors
    ///
    /// [`SendError`]; a request that was never written has been tried on a fresh connection already.
    pub(super) async fn send(
        &self,
        reach: &Reach,
        origin: &Origin,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Returning), SendError> {
        loop {
            let kept = self.take_idle(reach, origin).await;
            let reused = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => reach.connect(origin).await?,
            };
            let sending = sender.try_send_request(request);
            let error = match tokio::time::timeout(reach.response_timeout, sending).await {
                Ok(Ok(response)) => return self.received(reach, origin, response, sender),
                Ok(Err(error)) => error,
                Err(_) => return Err(OriginError::ResponseTimeout.into()),
            };
            let mut error = error;
            match error.take_message() {
                Some(unsent) if reused => request = unsent,
                _ => return Err(failure(error.into_error(), reused)),
            }
        }
    }

    fn received(
        &self,
        reach: &Reach,
        origin: &Origin,
        response: Response<Incoming>,
        sender: SendRequest<RequestBody>,
    ) -> Result<(Response<Incoming>, Returning), SendError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(OriginError::Upgrade.into());
        }
        let (origin, idle) = (origin.clone(), Arc::clone(&self.idle));
        Ok((response, Returning { origin, sender, idle, version: reach.version }))
    }

    /// A kept connection that is ready for a request, as far as anyone can know.
    async fn take_idle(&self, reach: &Reach, origin: &Origin) -> Option<SendRequest<RequestBody>> {
        loop {
            let mut kept = self.idle.lock().get_mut(origin)?.pop()?;
            // It was given back with the last byte of a response; hyper needs a turn to notice.
            let valid = reach.keeps(&kept);
            if valid && kept.sender.ready().await.is_ok() {
                return Some(kept.sender);
            }
        }
    }

    /// Forgets connections that were closed or not used for long.
    pub(super) fn sweep(&self, reach: &Reach) {
        self.idle.lock().retain(|_, kept| {
            kept.retain(|kept| !kept.sender.is_closed() && reach.keeps(kept));
            !kept.is_empty()
        });
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origins")
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reach({})", self.version)
    }
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Vec<IdleConnection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a connection back once its response has been read to the end; dropped before, it closes
/// the connection.
pub(super) struct Returning {
    origin: Origin,
    sender: SendRequest<RequestBody>,
    idle: Arc<Idle>,
    version: u64,
}

impl Returning {
    /// The response is over.
    pub(super) fn done(self) {
        if self.sender.is_closed() {
            return;
        }
        let Self { sender, version, .. } = self;
        let kept = IdleConnection { sender, since: Instant::now(), version };
        self.idle.lock().entry(self.origin).or_default().push(kept);
    }
}

impl fmt::Debug for Returning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Returning({})", self.origin)
    }
}

async fn handshake<S>(io: TokioIo<S>) -> Result<SendRequest<RequestBody>, OriginError>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::Builder::new().handshake(io).await.map_err(OriginError::Closed)?;
    tokio::spawn(async move {
        // Whoever waits for a response learns of the error from its request.
        let _reported = connection.await;
    });
    Ok(sender)
}

fn failure(error: hyper::Error, reused: bool) -> SendError {
    let closed = error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || is_reset(&error);
    let stale = reused && closed;
    let error = if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
        OriginError::Response(error)
    } else if error.is_user() {
        OriginError::Request(error)
    } else {
        OriginError::Closed(error)
    };
    SendError { error, stale }
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), BrokenPipe | ConnectionReset | ConnectionAborted);
        }
        cause = source.source();
    }
    false
}

fn is_about_certificate(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}
