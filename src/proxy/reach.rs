//! The way to an origin server: a connection that speaks HTTP, by whatever protocol both sides know.
//!
//! The protocol of the client's request is preferred: HTTP/1.1 stays HTTP/1.1, which costs less, and
//! HTTP/2 goes on as HTTP/2, with its streams and trailers, where the origin server knows it. An
//! origin server that speaks nothing but HTTP/2 gets HTTP/2 from everybody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipnet::IpNet;
use rustls::ClientConfig;

use super::content::RequestBody;
use super::dial::Dialer;
use super::early_response::EarlyResponse;
use super::origin_error::OriginError;
use super::secure::{SecureStream, knows_other_protocols, secure};
use crate::credential::Identity;
use crate::origin::{Authority, Origin, Scheme};
use crate::tls::Offers;

/// How often a busy HTTP/2 connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// What a response's head may come to, all fields together.
const MAX_RESPONSE_HEAD: u32 = 64 * 1024;

/// How origin servers are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Without a certificate of the client's.
    anonymous: Offers,
    connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) idle_timeout: Duration,
    /// Tells its connections from those of the configuration before: they may trust other roots.
    pub(super) version: u64,
}

/// A new connection, by the protocol that was agreed on.
pub(super) enum Connected {
    Http1(http1::SendRequest<RequestBody>),
    Http2 {
        sender: http2::SendRequest<RequestBody>,
        /// The origin server refused HTTP/1.1.
        only: bool,
    },
}

impl Reach {
    pub(super) fn new(config: &Config, dialer: Dialer, tls: &ClientConfig, version: u64) -> Self {
        Self {
            dialer,
            anonymous: Offers::of(tls),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            idle_timeout: config.idle_timeout,
            version,
        }
    }

    /// The way to an authority without TLS and HTTP, for tunnels.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    async fn secure(
        &self,
        authority: &Authority,
        tls: &Arc<ClientConfig>,
    ) -> Result<SecureStream, OriginError> {
        secure(&self.dialer, authority, tls, self.connect_timeout).await
    }

    /// Connects to `origin` as `identity`, offering HTTP/2 if it is preferred or nothing else is spoken
    /// there.
    pub(super) async fn connect(
        &self,
        origin: &Origin,
        identity: Option<&Identity>,
        prefer_http2: bool,
    ) -> Result<Connected, OriginError> {
        let authority = &origin.authority;
        let offers = identity.map_or(&self.anonymous, |identity| &identity.offers);
        match origin.scheme {
            Scheme::Http => {
                let stream = EarlyResponse::of(self.dialer.connect(authority).await?);
                speak_http1(TokioIo::new(stream)).await
            }
            Scheme::Https if prefer_http2 => {
                let stream = self.secure(authority, &offers.http2).await?;
                speak_agreed(stream, false).await
            }
            Scheme::Https => match self.secure(authority, &offers.http1).await {
                Err(OriginError::Tls(error)) if knows_other_protocols(&error) => {
                    let stream = self.secure(authority, &offers.http2).await?;
                    speak_agreed(stream, true).await
                }
                stream => speak_http1(TokioIo::new(stream?)).await,
            },
        }
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reach({})", self.version)
    }
}

async fn speak_agreed(stream: SecureStream, only: bool) -> Result<Connected, OriginError> {
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return speak_http1(TokioIo::new(stream)).await;
    }
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_header_list_size(MAX_RESPONSE_HEAD)
        .adaptive_window(true);
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(OriginError::Closed)?;
    tokio::spawn(async move {
        // Whoever waits for a response learns of the error from its request.
        let _reported = connection.await;
    });
    Ok(Connected::Http2 { sender, only })
}

async fn speak_http1<S>(io: TokioIo<S>) -> Result<Connected, OriginError>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(MAX_RESPONSE_HEAD as usize);
    let (sender, connection) = builder.handshake(io).await.map_err(OriginError::Closed)?;
    tokio::spawn(async move {
        // Whoever waits for a response learns of the error from its request.
        let _reported = connection.await;
    });
    Ok(Connected::Http1(sender))
}
