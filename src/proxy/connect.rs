//! CONNECT: a blind tunnel, or a session whose requests the proxy serves (RFC 9110 §9.3.6).
//!
//! Only hosts that a credential matches are intercepted. The first byte after CONNECT decides how:
//! 0x16 begins a TLS handshake, anything else is plain HTTP, which some clients (Node's `fetch`)
//! send through CONNECT as well. Either way the requests are served by `Proxy::serve`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::AsyncReadExt;
use tokio_rustls::LazyConfigAcceptor;

use super::activity::ConnectionPhase;
use super::client_connection::ClientConnection;
use super::client_handshake::HandshakeFault;
use super::client_stream::{ClientStream, MonitoredStream};
use super::dial::OriginSocket;
use super::error::ProxyError;
use super::http1_stream::Http1Stream;
use super::incoming_body::IncomingBody;
use super::request_context::RequestContext;
use super::request_record::TunnelRecord;
use super::request_target::ConnectSession;
use super::response_body::ResponseBody;
use super::{Proxy, Snapshot};
use crate::credential::client_name;
use crate::origin::{Authority, Host, Origin, Scheme};

/// The first byte of a TLS record that carries a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// The first bytes of an HTTP/2 client with prior knowledge (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The ALPN identifier of HTTP/1.1 (RFC 7301 §6).
const ALPN_HTTP11: &[u8] = b"http/1.1";
/// The buffer for each direction of a tunnel, in bytes: small enough for many idle tunnels.
const RELAY_BUFFER: usize = 32 * 1024;

/// What happens after a CONNECT has been answered.
enum AfterConnect {
    /// Bytes are relayed to and from this origin connection.
    Tunnel(OriginSocket, TunnelRecord),
    /// Requests for this authority are served.
    Session(Authority),
}

impl Proxy {
    /// Answers a CONNECT and spawns a task for what follows it.
    pub(super) async fn connect(
        self: &Arc<Self>,
        context: &mut RequestContext<'_>,
        request: Request<IncomingBody>,
        authority: Authority,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let snapshot = context.snapshot;
        // Port 80 means http, every other port https.
        let scheme = if authority.port == 80 { Scheme::Http } else { Scheme::Https };
        let origin = Origin { scheme, authority };
        snapshot.check_trailing_dot(&origin)?;
        let client_name = client_name(request.headers());
        let next = if snapshot.credentials.intercepts(&origin) {
            if client_name.is_none() && snapshot.credentials.needs_client_name(&origin) {
                return Err(ProxyError::MissingClientName);
            }
            // If no certificate can be created, the client must learn of it before the 200.
            self.server_config(snapshot, &origin.authority.host).map_err(ProxyError::Ca)?;
            AfterConnect::Session(origin.authority)
        } else {
            let server = snapshot.dial_tunnel(&origin.authority).await?;
            AfterConnect::Tunnel(server, context.record.start_tunnel())
        };
        let activity = self.watchdog.register(ConnectionPhase::Handshake);
        let client = context.client.after_connect(Arc::clone(&activity), client_name);
        let upgrade = hyper::upgrade::on(request);
        let task = tokio::spawn(Arc::clone(self).boxed_after_connect(upgrade, next, client));
        activity.set_task(task.abort_handle());
        Ok(Response::new(ResponseBody::empty()))
    }

    /// Boxed, because a session may serve another CONNECT: the future contains itself.
    fn boxed_after_connect(
        self: Arc<Self>,
        upgrade: OnUpgrade,
        next: AfterConnect,
        client: ClientConnection,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.after_connect(upgrade, next, client))
    }

    async fn after_connect(
        self: Arc<Self>,
        upgrade: OnUpgrade,
        next: AfterConnect,
        client: ClientConnection,
    ) {
        // The upgrade fails if the client closes its connection before the 200.
        let Ok(upgraded) = upgrade.await else { return };
        let Some((stream, read_ahead)) = client_stream(upgraded) else { return };
        let result = match next {
            AfterConnect::Tunnel(server, record) => {
                let activity = Arc::clone(&client.activity);
                let stream = MonitoredStream::new(stream, read_ahead, activity);
                Tunnel { stream, record, client: &client, is_complete: false }.relay(server).await
            }
            AfterConnect::Session(authority) => {
                self.serve_session(stream, read_ahead, authority, client).await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a CONNECT ended early");
        }
    }

    /// Serves the requests that arrive after a CONNECT, over TLS or in clear text.
    async fn serve_session(
        self: Arc<Self>,
        mut stream: ClientStream,
        read_ahead: Bytes,
        authority: Authority,
        client: ClientConnection,
    ) -> io::Result<()> {
        let mut received = BytesMut::from(read_ahead);
        if received.is_empty() && stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        let is_tls = received.first() == Some(&TLS_HANDSHAKE);
        while !is_tls && is_preface_prefix(&received) {
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
        let is_http2 = received.starts_with(HTTP2_PREFACE);
        let activity = Arc::clone(&client.activity);
        let stream = MonitoredStream::new(stream, received.freeze(), activity);
        if is_tls {
            return self.intercept(stream, authority, client).await;
        }
        let session = ConnectSession { authority, scheme: Scheme::Http, is_misdirected: false };
        let client = client.with_session(session);
        match is_http2 {
            true => self.serve_http2(stream, client).await,
            false => self.serve_http1(stream, client).await,
        }
        Ok(())
    }

    /// Terminates the client's TLS with a certificate for the host of its CONNECT.
    async fn intercept(
        self: Arc<Self>,
        stream: MonitoredStream,
        authority: Authority,
        client: ClientConnection,
    ) -> io::Result<()> {
        let snapshot = self.shared.snapshot.load_full();
        let mut config =
            self.server_config(&snapshot, &authority.host).map_err(io::Error::other)?;
        let hello = match LazyConfigAcceptor::new(Acceptor::default(), stream).await {
            Ok(hello) => hello,
            Err(error) => {
                self.report_failed_handshake(&authority.host, &error, false);
                return Ok(());
            }
        };
        let origin = Origin { scheme: Scheme::Https, authority: authority.clone() };
        if self.origins.is_known_http1(snapshot.connector(), &origin)
            && offers(&hello.client_hello(), ALPN_HTTP11)
        {
            // No translation is needed if the client uses the version of the origin server.
            Arc::make_mut(&mut config).alpn_protocols = vec![ALPN_HTTP11.to_vec()];
        }
        let is_misdirected = names_another_host(&hello.client_hello(), &authority.host);
        let stream = match hello.into_stream(config).await {
            Ok(stream) => stream,
            Err(error) => {
                self.report_failed_handshake(&authority.host, &error, is_misdirected);
                return Ok(());
            }
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let session = ConnectSession { authority, scheme: Scheme::Https, is_misdirected };
        let client = client.with_session(session);
        match is_http2 {
            true => self.serve_http2(stream, client).await,
            false => self.serve_http1(stream, client).await,
        }
        Ok(())
    }

    fn report_failed_handshake(&self, host: &Host, error: &io::Error, is_misdirected: bool) {
        let fault = HandshakeFault::of(error, is_misdirected);
        self.shared.metrics.record_failed_handshake(fault.kind());
        tracing::info!(%host, %error, reason = fault.kind(), "a client's TLS handshake failed: {fault}");
    }
}

impl Snapshot {
    /// Connects to the target of a tunnel, before the CONNECT is answered.
    async fn dial_tunnel(&self, authority: &Authority) -> Result<OriginSocket, ProxyError> {
        self.check_unmatched(ProxyError::Unmatched)?;
        let ports = &self.config.connect_ports;
        if !ports.is_empty() && !ports.contains(&authority.port) {
            return Err(ProxyError::ForbiddenPort(authority.port));
        }
        Ok(self.connector().dialer().connect(authority, self.connector().deadline()).await?)
    }
}

/// Returns true if `bytes` are an incomplete HTTP/2 connection preface.
fn is_preface_prefix(bytes: &[u8]) -> bool {
    bytes.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(bytes)
}

fn offers(hello: &ClientHello<'_>, protocol: &[u8]) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.any(|it| it == protocol))
}

/// Returns true if the client's SNI names another host than its CONNECT. A client may omit SNI, and
/// omits it for IP addresses.
fn names_another_host(hello: &ClientHello<'_>, host: &Host) -> bool {
    hello.server_name().is_some_and(|name| Host::parse(name).as_ref() != Ok(host))
}

/// Takes the client's stream back from hyper, with the bytes that it read beyond the CONNECT.
fn client_stream(upgraded: Upgraded) -> Option<(ClientStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Http1Stream<MonitoredStream>>>().ok()?;
    Some((parts.io.into_inner().into_inner().into_inner()?, parts.read_buf))
}

/// An open tunnel. Dropping it completes its record, for whatever reason it ends.
struct Tunnel<'a> {
    stream: MonitoredStream,
    record: TunnelRecord,
    client: &'a ClientConnection,
    /// Both sides have closed in order.
    is_complete: bool,
}

impl Tunnel<'_> {
    /// Copies bytes both ways until both sides have closed. When one side closes, the other side's
    /// connection is shut down for writing.
    async fn relay(mut self, mut server: OriginSocket) -> io::Result<()> {
        self.client.activity.set_phase(ConnectionPhase::Tunnel);
        let stream = &mut self.stream;
        tokio::io::copy_bidirectional_with_sizes(stream, &mut server, RELAY_BUFFER, RELAY_BUFFER)
            .await?;
        self.is_complete = true;
        Ok(())
    }
}

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        let limit = self.client.activity.exceeded_limit();
        self.record.record_end(self.stream.transferred(), !self.is_complete, limit);
    }
}
