//! Sends token requests: the only side effect in [`oauth`](super).

mod response;

use std::fmt;
use std::future::Future;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::Host;

use self::response::Response;
use super::answer::RawAnswer;
use super::request::TokenRequest;
use crate::crash;
use crate::tls::{CertificateFault, TlsCause, rustls_error};

/// Timeout for name resolution, connection and TLS handshake together. Long enough for a lost
/// packet and its second retransmission.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before the next address is tried, unless the current attempt fails earlier (RFC 8305 §5).
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);
/// If nothing arrives for this long, an answer that is sufficient is complete.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// After the deadline, data that has already arrived is still read until nothing arrives for this
/// long. The runtime may notice the timeout before the data, especially after the process was
/// stopped.
const GRACE_READ: Duration = Duration::from_millis(100);
/// Limit for reading after the deadline. The body is limited to 1 MiB anyway.
const GRACE_TOTAL: Duration = Duration::from_secs(1);

/// Sends token requests and returns the raw answers.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` exactly once. Connecting has its own timeout. The answer may take
    /// `response_timeout` from the first byte of the request. If time runs out, a partial answer is
    /// returned with [`RawAnswer::cut`] set if it has a head, a success status or tokens.
    fn send(
        &self,
        request: TokenRequest,
        response_timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The request was not sent, so the grant was not consumed.
    #[error("{0}")]
    NotSent(String),
    /// At least part of the request was sent. The server may have acted on it.
    #[error("{0}")]
    NoAnswer(String),
}

/// HTTP/1.1 with a new connection for each request.
///
/// Token requests are rare. A reused connection might be closed by the server at the same moment,
/// and then it is unknown whether the refresh token was consumed. Messages are written and read
/// here because an HTTP library discards malformed responses, and a refresh token with them.
#[derive(Debug)]
pub struct HttpTransport {
    tls: Arc<ClientConfig>,
}

/// A TCP or TLS stream.
trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

impl HttpTransport {
    /// Creates a transport that uses `tls` for https token endpoints.
    pub fn new(mut tls: ClientConfig) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: Arc::new(tls) }
    }

    async fn exchange(
        &self,
        request: TokenRequest,
        response_timeout: Duration,
    ) -> Result<RawAnswer, TransportError> {
        let not_sent = |text: String| TransportError::NotSent(text);
        let mut awaited = "connection";
        let connecting = timeout(CONNECT_TIMEOUT, self.connect(&request, &mut awaited)).await;
        let late = |_| not_sent(format!("no {awaited} within {} s", CONNECT_TIMEOUT.as_secs()));
        let mut stream = connecting.map_err(late)?.map_err(not_sent)?;
        let message = serialize(&request);
        let deadline = Instant::now() + response_timeout;
        let first = timeout_at(deadline, stream.write(&message)).await;
        let sent = match first {
            // An incomplete TLS record tells the server nothing.
            Ok(Err(error)) => return Err(not_sent(error.to_string())),
            Ok(Ok(length)) => {
                let rest = message.get(length..).unwrap_or_default();
                let rest = async {
                    stream.write_all(rest).await?;
                    stream.flush().await
                };
                timeout_at(deadline, rest).await.unwrap_or_else(|_| Err(timeout_error()))
            }
            Err(_) => Err(timeout_error()),
        };
        // A server may answer and close the connection before it has read the whole request.
        let mut response = Response::default();
        let end = receive(&mut stream, &mut response, deadline).await;
        if let Some(why) = response.rejected_unprocessed() {
            return Err(not_sent(why.to_owned()));
        }
        let end = end?;
        let why =
            end.as_ref().or(sent.as_ref().err()).map_or("it was closed".into(), describe_error);
        let refused = end.iter().chain(sent.as_ref().err()).any(refuses_handshake);
        if !response.has_head() && refused {
            return Err(not_sent(format!("no TLS connection: {why}")));
        }
        let why =
            response.describe_invalid().map_or(why.clone(), |invalid| format!("{invalid}: {why}"));
        let answer = response.into_answer(&end.as_ref().map(describe_error).unwrap_or_default());
        crash::point("after_response");
        answer.ok_or(TransportError::NoAnswer(why))
    }

    /// Connects and completes the TLS handshake. Errors are texts for logs. `awaited` names the
    /// current phase for the timeout message.
    async fn connect(
        &self,
        request: &TokenRequest,
        awaited: &mut &'static str,
    ) -> Result<Box<dyn ByteStream>, String> {
        let url = &request.url;
        let port = url.port_or_known_default().ok_or("its URL has no port")?;
        let addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Domain(name)) => {
                let found = lookup_host((name, port)).await;
                found.map_err(|error| format!("its name has no address: {error}"))?.collect()
            }
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            None => return Err("its URL has no host".to_owned()),
        };
        let stream =
            connect_any(addresses).await.map_err(|error| format!("no connection: {error}"))?;
        let _unsupported = stream.set_nodelay(true);
        if url.scheme() != "https" {
            return Ok(Box::new(stream));
        }
        let name = match url.host() {
            Some(Host::Ipv4(address)) => ServerName::IpAddress(address.into()),
            Some(Host::Ipv6(address)) => ServerName::IpAddress(address.into()),
            _ => ServerName::try_from(url.host_str().unwrap_or_default().to_owned())
                .map_err(|_| "its host is not a valid server name".to_owned())?,
        };
        let tls = match &request.client_cert {
            Some(certificate) => Arc::new(certificate.present(&self.tls)),
            None => Arc::clone(&self.tls),
        };
        *awaited = "answer in the TLS handshake";
        let secured = TlsConnector::from(tls).connect(name, stream).await;
        Ok(Box::new(
            secured
                .map_err(|error| format!("no TLS connection: {}", describe_tls_error(&error)))?,
        ))
    }
}

/// Tries the addresses in the resolver's order. A slow address does not delay the next one.
async fn connect_any(addresses: Vec<SocketAddr>) -> Result<TcpStream, Error> {
    let mut left = addresses.into_iter();
    let mut dialling = JoinSet::new();
    let mut last = Error::other("its name has no address");
    loop {
        if let Some(address) = left.next() {
            dialling.spawn(TcpStream::connect(address));
        }
        match timeout(NEXT_ADDRESS_DELAY, dialling.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(ended))) => last = Error::other(ended),
            Ok(None) => return Err(last),
            Err(_) => {}
        }
    }
}

/// Reads until the response is complete or the time is up. Returns the error that ended it early,
/// if any.
async fn receive(
    stream: &mut dyn ByteStream,
    response: &mut Response,
    deadline: Instant,
) -> Result<Option<Error>, TransportError> {
    let mut buffer = vec![0; 16 * 1024];
    let mut has_begun = false;
    let mut grace_end = None;
    loop {
        let now = Instant::now();
        let until = if now < deadline {
            deadline.min(now + IDLE_TIMEOUT)
        } else {
            (now + GRACE_READ).min(*grace_end.get_or_insert(now + GRACE_TOTAL))
        };
        match timeout_at(until, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => return Ok(None),
            Ok(Ok(length)) => {
                let whole = response.take(buffer.get(..length).unwrap_or_default());
                let whole = whole.map_err(|why| TransportError::NoAnswer(why.to_owned()))?;
                if response.has_head() && !has_begun {
                    has_begun = true;
                    crash::point("after_send");
                }
                if whole {
                    return Ok(None);
                }
            }
            Ok(Err(error)) => return Ok(Some(error)),
            Err(_) if response.is_sufficient() => {
                return Ok(Some(Error::other("no more data arrived")));
            }
            Err(_) if grace_end.is_some() => return Ok(Some(timeout_error())),
            Err(_) => {}
        }
    }
}

fn timeout_error() -> Error {
    Error::new(ErrorKind::TimedOut, "no answer in time")
}

fn describe_error(error: &Error) -> String {
    match (error.kind(), rustls_error(error)) {
        (_, Some(_)) => describe_tls_error(error),
        (ErrorKind::UnexpectedEof, _) => {
            "the connection was closed without close_notify".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Describes the cause of a TLS failure and how to fix it.
fn describe_tls_error(error: &Error) -> String {
    let fault = rustls_error(error).and_then(CertificateFault::of);
    let (what, advice) = match fault {
        Some(fault) => {
            (format!("the server's certificate was not accepted: {fault}"), fault.advice())
        }
        None => match TlsCause::of(error) {
            TlsCause::Protocol => {
                (error.to_string(), "bearerd only speaks HTTP/1.1 to token endpoints, not HTTP/2")
            }
            cause => (error.to_string(), cause.advice()),
        },
    };
    if advice.is_empty() { what } else { format!("{what}; {advice}") }
}

/// Returns true if the server rejected the handshake. With TLS 1.3 it rejects a client certificate
/// only after the client has started to send; it has not processed that data.
fn refuses_handshake(error: &Error) -> bool {
    let Some(rustls::Error::AlertReceived(alert)) = rustls_error(error) else { return false };
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            | AlertDescription::NoApplicationProtocol
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::UnrecognisedName
            | AlertDescription::DecryptError
    )
}

/// Serializes the request.
fn serialize(request: &TokenRequest) -> Vec<u8> {
    let TokenRequest { method, url, fields, body, .. } = request;
    let body = body.expose().as_bytes();
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut message = format!("{method} {}{query} HTTP/1.1\r\n", url.path()).into_bytes();
    let mut add = |name: &str, value: &[u8]| {
        message.extend_from_slice(name.as_bytes());
        message.extend_from_slice(b": ");
        message.extend_from_slice(value);
        message.extend_from_slice(b"\r\n");
    };
    if !fields.contains_key(HOST) {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        add("host", format!("{host}{port}").as_bytes());
    }
    if !fields.contains_key(USER_AGENT) {
        add("user-agent", concat!("bearerd/", env!("CARGO_PKG_VERSION")).as_bytes());
    }
    for (name, value) in fields {
        // These fields belong to the connection, which this transport controls.
        if ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
            add(name.as_str(), value.as_bytes());
        }
    }
    if method != Method::GET || !body.is_empty() {
        add("content-length", body.len().to_string().as_bytes());
    }
    add("connection", b"close");
    message.extend_from_slice(b"\r\n");
    message.extend_from_slice(body);
    message
}

impl Transport for HttpTransport {
    fn send(
        &self,
        request: TokenRequest,
        response_timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>> {
        Box::pin(self.exchange(request, response_timeout))
    }
}

#[cfg(test)]
mod tests;
