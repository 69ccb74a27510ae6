//! Connects to origin servers and negotiates the version of HTTP.
//!
//! The version of the client's request is preferred: HTTP/1.1 stays HTTP/1.1, which costs less, and
//! HTTP/2 stays HTTP/2, with its streams and trailers, if the origin server supports it. If an origin
//! server supports HTTP/2 only, every request is sent over HTTP/2.

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
use super::origin_tls::{OriginTlsStream, connect_tls, is_alpn_mismatch};
use super::reset_tolerant_stream::ResetTolerantStream;
use super::response_head_stream::{ResponseExpectation, ResponseHeadStream};
use crate::credential::TlsIdentity;
use crate::origin::{Authority, Origin, Scheme};
use crate::tls::AlpnConfigs;

/// Stands for no limit; small enough to be added to any time.
const NO_LIMIT: Duration = Duration::from_secs(365 * 86_400);
/// The most bytes of a response head.
const MAX_RESPONSE_HEAD: u32 = 64 * 1024;

/// How origin servers are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses that are never connected to, in any notation, checked after name resolution. Default:
    /// link-local addresses and the metadata services of clouds.
    pub deny_addresses: Vec<IpNet>,
    /// Exceptions to `deny_addresses`.
    pub allow_addresses: Vec<IpNet>,
    /// For name resolution, TCP and TLS together. Default: 5 s.
    pub connect_timeout: Duration,
    /// The most fields in a response head. Default: 256, more than any API is known to send.
    pub header_count: usize,
    /// From the end of the request to the response head. Default: 300 s, because some APIs compute for
    /// minutes.
    pub response_timeout: Duration,
    /// Without the origin server reading any of a request's content.
    pub send_timeout: Duration,
    /// Without the client sending any of a request's content. Default: 15 min; 0: no limit.
    pub stall_timeout: Duration,
    /// How long an unused connection is kept. Default: 60 s.
    pub idle_timeout: Duration,
}

/// Connects to origin servers. All cores share it; a reload replaces it.
pub(super) struct Connector {
    dialer: Dialer,
    /// TLS without a client certificate.
    anonymous: AlpnConfigs,
    connect_timeout: Duration,
    header_count: usize,
    pub(super) response_timeouts: ResponseTimeouts,
    pub(super) idle_timeout: Duration,
    /// Distinguishes its connections from those of earlier configurations, which may trust other roots.
    pub(super) config_version: u64,
}

/// The version of HTTP that a connection speaks.
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

/// A new connection, by the negotiated protocol.
pub(super) enum NewConnection {
    Http1(Box<Http1Connection>),
    Http2 {
        connection: Http2Connection,
        /// The origin server refused HTTP/1.1.
        is_http2_only: bool,
    },
}

impl Connector {
    pub(super) fn new(
        config: &Config,
        dialer: Dialer,
        tls: &ClientConfig,
        config_version: u64,
    ) -> Self {
        Self {
            dialer,
            anonymous: AlpnConfigs::of(tls),
            connect_timeout: config.connect_timeout,
            header_count: config.header_count,
            response_timeouts: ResponseTimeouts {
                response: config.response_timeout,
                send: config.send_timeout,
                content: match config.stall_timeout.is_zero() {
                    true => NO_LIMIT,
                    false => config.stall_timeout,
                },
            },
            idle_timeout: config.idle_timeout,
            config_version,
        }
    }

    /// Opens connections without TLS and HTTP, for tunnels.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The deadline for a connection attempt that starts now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }

    /// Returns true if a response has too many fields. hyper enforces the limit for HTTP/1.1 only.
    pub(super) fn has_too_many_fields(&self, fields: &http::HeaderMap) -> bool {
        fields.len() > self.header_count
    }

    /// Connects to `origin`, with `identity` as the client certificate. HTTP/2 is offered if it is
    /// preferred, or if the origin server speaks nothing else.
    ///
    /// # Errors
    ///
    /// Any [`OriginError`] of name resolution, TCP and TLS; [`OriginError::ConnectTimeout`] at
    /// `deadline`.
    pub(super) async fn connect(
        &self,
        origin: &Origin,
        identity: Option<&TlsIdentity>,
        preferred: Protocol,
        deadline: Instant,
    ) -> Result<NewConnection, OriginError> {
        let connecting = self.connect_unbounded(origin, identity, preferred, deadline);
        let late = |_| OriginError::ConnectTimeout;
        tokio::time::timeout_at(deadline, connecting).await.map_err(late)?
    }

    async fn connect_unbounded(
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
                self.handshake_http1(origin, stream).await
            }
            (Scheme::Https, Protocol::Http2) => {
                let stream = self.connect_tls(authority, &offers.http2, deadline).await?;
                self.handshake_negotiated(origin, stream, false).await
            }
            (Scheme::Https, Protocol::Http1) => {
                match self.connect_tls(authority, &offers.http1, deadline).await {
                    Err(OriginError::Tls(error)) if is_alpn_mismatch(&error) => {
                        let stream = self.connect_tls(authority, &offers.http2, deadline).await?;
                        self.handshake_negotiated(origin, stream, true).await
                    }
                    stream => self.handshake_http1(origin, stream?).await,
                }
            }
        }
    }

    async fn connect_tls(
        &self,
        authority: &Authority,
        tls: &Arc<ClientConfig>,
        deadline: Instant,
    ) -> Result<OriginTlsStream, OriginError> {
        connect_tls(&self.dialer, authority, tls, deadline).await
    }

    async fn handshake_negotiated(
        &self,
        origin: &Origin,
        stream: OriginTlsStream,
        is_http2_only: bool,
    ) -> Result<NewConnection, OriginError> {
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return self.handshake_http1(origin, stream).await;
        }
        let begun = Http2Connection::handshake(stream, MAX_RESPONSE_HEAD).await;
        let connection = begun.map_err(|error| OriginError::Closed(error.into()))?;
        Ok(NewConnection::Http2 { connection, is_http2_only })
    }

    /// Accepts what a lenient client would accept: whitespace before the colon (RFC 9112 §5.1) and
    /// folded lines (RFC 9112 §5.2).
    async fn handshake_http1<S>(
        &self,
        origin: &Origin,
        stream: S,
    ) -> Result<NewConnection, OriginError>
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
            // The request in flight reports the error.
            let _reported = connection.await;
        });
        let task = AbortOnDropHandle::new(task);
        let connection =
            Http1Connection::new(origin.clone(), sender, task, head, self.config_version);
        Ok(NewConnection::Http1(Box::new(connection)))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.config_version)
    }
}
