//! The way to an origin server: a connection that speaks HTTP, by whatever protocol both sides know.
//!
//! The protocol of the client's request is preferred: HTTP/1.1 stays HTTP/1.1, which costs less, and
//! HTTP/2 goes on as HTTP/2, with its streams and trailers, where the origin server knows it. An
//! origin server that speaks nothing but HTTP/2 gets HTTP/2 from everybody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::dial::Dialer;
use super::http2::client::Http2Connection;
use super::origin_connection::{Http1Connection, ResponseTimeouts};
use super::origin_error::OriginError;
use super::origin_tls::{OriginTlsStream, is_alpn_mismatch, secure};
use super::reset_tolerant_stream::ResetTolerantStream;
use super::response_head_stream::{ResponseExpectation, ResponseHeadStream};
use crate::credential::TlsIdentity;
use crate::origin::{Authority, Origin, Scheme};
use crate::tls::AlpnConfigs;

/// As good as for ever, and safe to add to a time.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
/// What a response's head may come to, all fields together.
const MAX_RESPONSE_HEAD: u32 = 64 * 1024;

/// How origin servers are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses that are never dialled, in whatever form, checked after name resolution. Default: link-local
    /// ones and the metadata services of clouds.
    pub deny_addresses: Vec<IpNet>,
    /// Exceptions to that.
    pub allow_addresses: Vec<IpNet>,
    /// For name, connection and TLS together. Default 5 s.
    pub connect_timeout: Duration,
    /// Fields in a response's head. Default 256: more than any API was seen to send.
    pub header_count: usize,
    /// Until the response's head. Default 300 s: some APIs think long.
    pub response_timeout: Duration,
    /// To take some of a request's content.
    pub send_timeout: Duration,
    /// Until the client sends some more of a request's content. Default 15 min; 0: for ever.
    pub stall_timeout: Duration,
    /// How long an unused connection is kept. Default 60 s.
    pub idle_timeout: Duration,
}

/// The way to origin servers, the same for all cores; a reload makes a new one.
pub(super) struct Connector {
    dialer: Dialer,
    /// Without a certificate of the client's.
    anonymous: AlpnConfigs,
    connect_timeout: Duration,
    header_count: usize,
    pub(super) response: ResponseTimeouts,
    pub(super) idle_timeout: Duration,
    /// Tells its connections from those of the configuration before: they may trust other roots.
    pub(super) version: u64,
}

/// A version of HTTP, as far as connections are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl From<http::Version> for Protocol {
    fn from(version: http::Version) -> Self {
        if version == http::Version::HTTP_2 { Self::Http2 } else { Self::Http1 }
    }
}

/// A new connection, by the protocol that was agreed on.
pub(super) enum NewConnection {
    Http1(Box<Http1Connection>),
    Http2 {
        connection: Http2Connection,
        /// The origin server refused HTTP/1.1.
        only: bool,
    },
}

impl Connector {
    pub(super) fn new(config: &Config, dialer: Dialer, tls: &ClientConfig, version: u64) -> Self {
        Self {
            dialer,
            anonymous: AlpnConfigs::of(tls),
            connect_timeout: config.connect_timeout,
            header_count: config.header_count,
            response: ResponseTimeouts {
                response: config.response_timeout,
                send: config.send_timeout,
                content: match config.stall_timeout.is_zero() {
                    true => FOR_EVER,
                    false => config.stall_timeout,
                },
            },
            idle_timeout: config.idle_timeout,
            version,
        }
    }

    /// The way to an authority without TLS and HTTP, for tunnels.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// When a connection that is wanted now has to be there.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }

    /// Has a response more fields than are passed on? hyper counts those of HTTP/1.1.
    pub(super) fn has_too_many_fields(&self, fields: &http::HeaderMap) -> bool {
        fields.len() > self.header_count
    }

    /// Connects to `origin` as `identity`, offering HTTP/2 if it is preferred or nothing else is spoken
    /// there.
    ///
    /// # Errors
    ///
    /// [`OriginError`]; [`OriginError::ConnectTimeout`] at the deadline, whatever it was waiting for.
    pub(super) async fn connect(
        &self,
        origin: &Origin,
        identity: Option<&TlsIdentity>,
        preferred: Protocol,
        deadline: Instant,
    ) -> Result<NewConnection, OriginError> {
        let connecting = self.connect_somehow(origin, identity, preferred, deadline);
        let late = |_| OriginError::ConnectTimeout;
        tokio::time::timeout_at(deadline, connecting).await.map_err(late)?
    }

    async fn connect_somehow(
        &self,
        origin: &Origin,
        identity: Option<&TlsIdentity>,
        preferred: Protocol,
        deadline: Instant,
    ) -> Result<NewConnection, OriginError> {
        let authority = &origin.authority;
        let offers = identity.map_or(&self.anonymous, |identity| &identity.offers);
        match (origin.scheme, preferred) {
            (Scheme::Http, _) => {
                let stream =
                    ResetTolerantStream::new(self.dialer.connect(authority, deadline).await?);
                self.speak_http1(origin, stream).await
            }
            (Scheme::Https, Protocol::Http2) => {
                let stream = self.secure(authority, &offers.http2, deadline).await?;
                self.speak_agreed(origin, stream, false).await
            }
            (Scheme::Https, Protocol::Http1) => {
                match self.secure(authority, &offers.http1, deadline).await {
                    Err(OriginError::Tls(error)) if is_alpn_mismatch(&error) => {
                        let stream = self.secure(authority, &offers.http2, deadline).await?;
                        self.speak_agreed(origin, stream, true).await
                    }
                    stream => self.speak_http1(origin, stream?).await,
                }
            }
        }
    }

    async fn secure(
        &self,
        authority: &Authority,
        tls: &Arc<ClientConfig>,
        deadline: Instant,
    ) -> Result<OriginTlsStream, OriginError> {
        secure(&self.dialer, authority, tls, deadline).await
    }

    async fn speak_agreed(
        &self,
        origin: &Origin,
        stream: OriginTlsStream,
        only: bool,
    ) -> Result<NewConnection, OriginError> {
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return self.speak_http1(origin, stream).await;
        }
        let begun = Http2Connection::begin(stream, MAX_RESPONSE_HEAD).await;
        let connection = begun.map_err(|error| OriginError::Closed(error.into()))?;
        Ok(NewConnection::Http2 { connection, only })
    }

    /// What a lenient client would read is read (RFC 9112 §5.1, §5.2): a blank before the colon, folded lines.
    async fn speak_http1<S>(&self, origin: &Origin, stream: S) -> Result<NewConnection, OriginError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let head = ResponseExpectation::default();
        let stream = TokioIo::new(ResponseHeadStream::new(stream, head.clone()));
        let mut builder = http1::Builder::new();
        builder
            .max_header_size(MAX_RESPONSE_HEAD as usize)
            .max_headers(self.header_count)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true);
        let begun = builder.handshake(stream).await;
        let (sender, connection) = begun.map_err(|error| OriginError::Closed(error.into()))?;
        let task = tokio::spawn(async move {
            // Whoever waits for a response learns of the error from its request.
            let _reported = connection.await;
        });
        let task = AbortOnDropHandle::new(task);
        let connection = Http1Connection::new(origin.clone(), sender, task, head, self.version);
        Ok(NewConnection::Http1(Box::new(connection)))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.version)
    }
}
