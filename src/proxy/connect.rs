//! CONNECT: a blind tunnel, or a session in which the same requests are served (RFC 9110 §9.3.6).
//!
//! Only hosts that a credential names are intercepted. After CONNECT the first byte decides: 0x16
//! begins a TLS handshake, anything else is plain HTTP, which some clients (Node's `fetch`) send
//! through CONNECT as well. Either way the requests inside go through the same `Proxy::serve`.

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

use super::client_handshake::HandshakeFault;
use super::connection::{ClientStream, ConnectionPhase, MonitoredStream};
use super::dial::OriginSocket;
use super::error::ProxyError;
use super::http1_stream::Http1Stream;
use super::incoming_body::IncomingBody;
use super::request_context::RequestContext;
use super::request_record::TunnelRecord;
use super::request_target::ConnectSession;
use super::response_body::ResponseBody;
use super::server::ClientConnection;
use super::{Proxy, Snapshot};
use crate::credential::client_name;
use crate::origin::{Authority, Host, Origin, Scheme};

/// The first byte of a TLS record that carries a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How a client of HTTP/2 begins that knows what it will find (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// HTTP/1.1 in ALPN (RFC 7301 §6).
const HTTP11: &[u8] = b"http/1.1";
/// One buffer for each direction of a tunnel: small enough for many silent tunnels.
const RELAY_BUFFER: usize = 32 * 1024;

/// What follows a CONNECT.
enum AfterConnect {
    /// Bytes to and from this connection.
    Tunnel(OriginSocket, TunnelRecord),
    /// Requests for this authority.
    Session(Authority),
}

impl Proxy {
    /// Answers a CONNECT; what follows it runs in a task of its own.
    pub(super) async fn connect(
        self: &Arc<Self>,
        call: &mut RequestContext<'_>,
        request: Request<IncomingBody>,
        authority: Authority,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let snapshot = call.snapshot;
        // A CONNECT to port 80 stands for plain http, every other for https.
        let scheme = if authority.port == 80 { Scheme::Http } else { Scheme::Https };
        let origin = Origin { scheme, authority };
        snapshot.check_trailing_dot(&origin)?;
        let client = client_name(request.headers());
        let follow = if snapshot.credentials.intercepts(&origin) {
            if client.is_none() && snapshot.credentials.needs_client_name(&origin) {
                return Err(ProxyError::Nameless);
            }
            // A certificate that cannot be made is said before the session is promised.
            self.server_config(snapshot, &origin.authority.host).map_err(ProxyError::Ca)?;
            AfterConnect::Session(origin.authority)
        } else {
            let server = snapshot.dial_tunnel(&origin.authority).await?;
            AfterConnect::Tunnel(server, call.record.start_tunnel())
        };
        let inbound =
            call.inbound.after_connect(self.watchdog.watch(ConnectionPhase::Handshake), client);
        let activity = Arc::clone(&inbound.activity);
        let upgrade = hyper::upgrade::on(request);
        let task = tokio::spawn(Arc::clone(self).following(upgrade, follow, inbound));
        activity.is_run_by(task.abort_handle());
        Ok(Response::new(ResponseBody::empty()))
    }

    /// Boxed, because what follows a CONNECT may serve requests, and so contain itself.
    fn following(
        self: Arc<Self>,
        upgrade: OnUpgrade,
        follow: AfterConnect,
        inbound: ClientConnection,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.follow(upgrade, follow, inbound))
    }

    async fn follow(
        self: Arc<Self>,
        upgrade: OnUpgrade,
        follow: AfterConnect,
        inbound: ClientConnection,
    ) {
        // A client that went away before the 200 has ended the matter.
        let Ok(upgraded) = upgrade.await else { return };
        let Some((stream, before)) = client_stream(upgraded) else { return };
        let ended = match follow {
            AfterConnect::Tunnel(server, record) => {
                let client = MonitoredStream::new(stream, before, Arc::clone(&inbound.activity));
                Tunnel { client, record, inbound: &inbound, is_whole: false }.relay(server).await
            }
            AfterConnect::Session(authority) => {
                self.session(stream, before, authority, inbound).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a CONNECT ended early");
        }
    }

    /// Serves the requests that come after a CONNECT, in TLS or in clear.
    async fn session(
        self: Arc<Self>,
        mut stream: ClientStream,
        before: Bytes,
        authority: Authority,
        inbound: ClientConnection,
    ) -> io::Result<()> {
        let mut begun = BytesMut::from(before);
        if begun.is_empty() && stream.read_buf(&mut begun).await? == 0 {
            return Ok(());
        }
        let is_tls = begun.first() == Some(&TLS_HANDSHAKE);
        while !is_tls && is_part_of_preface(&begun) {
            if stream.read_buf(&mut begun).await? == 0 {
                return Ok(());
            }
        }
        let is_http2 = begun.starts_with(HTTP2_PREFACE);
        let stream = MonitoredStream::new(stream, begun.freeze(), Arc::clone(&inbound.activity));
        if is_tls {
            return self.intercept(stream, authority, inbound).await;
        }
        let session = ConnectSession { authority, scheme: Scheme::Http, misdirected: false };
        let inbound = inbound.in_session(session);
        match is_http2 {
            true => self.serve_http2(stream, inbound).await,
            false => self.serve_http1(stream, inbound).await,
        }
        Ok(())
    }

    /// Ends the client's TLS with a certificate for the host it connected to.
    async fn intercept(
        self: Arc<Self>,
        stream: MonitoredStream,
        authority: Authority,
        inbound: ClientConnection,
    ) -> io::Result<()> {
        let snapshot = self.shared.snapshot.load_full();
        let mut config =
            self.server_config(&snapshot, &authority.host).map_err(io::Error::other)?;
        let hello = match LazyConfigAcceptor::new(Acceptor::default(), stream).await {
            Ok(hello) => hello,
            Err(error) => {
                self.handshake_failed(&authority.host, &error, false);
                return Ok(());
            }
        };
        let origin = Origin { scheme: Scheme::Https, authority: authority.clone() };
        if self.origins.speaks_no_http2(snapshot.connector(), &origin)
            && offers(&hello.client_hello(), HTTP11)
        {
            // A client that speaks the origin's version needs no translation between the two.
            Arc::make_mut(&mut config).alpn_protocols = vec![HTTP11.to_vec()];
        }
        let misdirected = names_another_host(&hello.client_hello(), &authority.host);
        let stream = match hello.into_stream(config).await {
            Ok(stream) => stream,
            Err(error) => {
                self.handshake_failed(&authority.host, &error, misdirected);
                return Ok(());
            }
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let inbound =
            inbound.in_session(ConnectSession { authority, scheme: Scheme::Https, misdirected });
        match is_http2 {
            true => self.serve_http2(stream, inbound).await,
            false => self.serve_http1(stream, inbound).await,
        }
        Ok(())
    }
}

impl Proxy {
    fn handshake_failed(&self, host: &Host, error: &io::Error, misdirected: bool) {
        let fault = HandshakeFault::of(error, misdirected);
        self.shared.metrics.record_failed_handshake(fault.kind());
        tracing::info!(%host, %error, reason = fault.kind(), "a client broke off the TLS handshake; {fault}");
    }
}

impl Snapshot {
    /// A tunnel is dialled before it is promised.
    async fn dial_tunnel(&self, authority: &Authority) -> Result<OriginSocket, ProxyError> {
        self.check_unmatched(ProxyError::Unmatched)?;
        let ports = &self.config.connect_ports;
        if !ports.is_empty() && !ports.contains(&authority.port) {
            return Err(ProxyError::Port(authority.port));
        }
        Ok(self.connector().dialer().connect(authority, self.connector().deadline()).await?)
    }
}

/// Could these bytes become the preface of HTTP/2?
fn is_part_of_preface(bytes: &[u8]) -> bool {
    bytes.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(bytes)
}

fn offers(hello: &ClientHello<'_>, protocol: &[u8]) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.any(|it| it == protocol))
}

/// A client may leave SNI out, and does for an address; one that it sends must name the same host.
fn names_another_host(hello: &ClientHello<'_>, host: &Host) -> bool {
    hello.server_name().is_some_and(|name| Host::parse(name).as_ref() != Ok(host))
}

/// The client's own stream back from hyper, with what was read beyond the CONNECT.
fn client_stream(upgraded: Upgraded) -> Option<(ClientStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Http1Stream<MonitoredStream>>>().ok()?;
    Some((parts.io.into_inner().into_inner().into_inner()?, parts.read_buf))
}

/// A tunnel under way; its record is complete however it ends.
struct Tunnel<'a> {
    client: MonitoredStream,
    record: TunnelRecord,
    inbound: &'a ClientConnection,
    /// Both sides have ended by themselves.
    is_whole: bool,
}

impl Tunnel<'_> {
    /// Copies both ways until both sides are done; each side's end passes on to the other.
    async fn relay(mut self, mut server: OriginSocket) -> io::Result<()> {
        self.inbound.activity.enter(ConnectionPhase::Tunnel);
        let client = &mut self.client;
        tokio::io::copy_bidirectional_with_sizes(client, &mut server, RELAY_BUFFER, RELAY_BUFFER)
            .await?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        self.record.record_end(self.client.passed(), !self.is_whole, self.inbound.activity.cut());
    }
}
