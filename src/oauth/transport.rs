//! How a token request travels: the one effect in [`oauth`](super).

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

/// For the name, the connection and TLS together: one lost packet and its second repetition.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The next address of a name is tried after this time, or when the one before fails (RFC 8305 §5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// When nothing comes for so long, an answer that has all it needs is not waited for any longer.
const PAUSE: Duration = Duration::from_secs(1);
/// Past the deadline, what has come already is still read, until nothing comes for so long: the runtime
/// may notice the time before it notices the bytes, after the process was stopped most of all.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// All of that. More than 1 MiB is not taken anyway.
const LAST_LOOKS: Duration = Duration::from_secs(1);

/// Sends one token request and returns what came back, whatever it is.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` exactly once. Connecting has a limit of its own; the answer is waited for as
    /// long as `listen` from the first byte of the request on. What had come by then is returned, with
    /// [`RawAnswer::cut`] set, if it has a head, the status of a success or tokens.
    fn send(
        &self,
        request: TokenRequest,
        response_timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>>;
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing was sent, so nothing was consumed.
    #[error("{0}")]
    NotSent(String),
    /// The request went out, wholly or in part; the server may have acted on it.
    #[error("{0}")]
    NoAnswer(String),
}

/// The real transport: HTTP/1.1, a fresh connection for each request.
///
/// Token requests are rare, and a connection of its own cannot be one that the server is closing at
/// that moment, which would leave it open whether the refresh token was consumed. It writes and reads
/// its messages itself: an HTTP library throws away what is not quite HTTP, and a refresh token with it.
#[derive(Debug)]
pub struct HttpTransport {
    tls: Arc<ClientConfig>,
}

/// What TCP and TLS have in common.
trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

impl HttpTransport {
    /// Uses `tls` for https token endpoints.
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
        let connecting = timeout(CONNECT_LIMIT, self.connect(&request, &mut awaited)).await;
        let late = |_| not_sent(format!("no {awaited} within {} s", CONNECT_LIMIT.as_secs()));
        let mut stream = connecting.map_err(late)?.map_err(not_sent)?;
        let message = message(&request);
        let deadline = Instant::now() + response_timeout;
        let first = timeout_at(deadline, stream.write(&message)).await;
        let sent = match first {
            // Less than a whole TLS record says nothing to the server.
            Ok(Err(error)) => return Err(not_sent(error.to_string())),
            Ok(Ok(length)) => {
                let rest = message.get(length..).unwrap_or_default();
                let rest = async {
                    stream.write_all(rest).await?;
                    stream.flush().await
                };
                timeout_at(deadline, rest).await.unwrap_or_else(|_| Err(late_error()))
            }
            Err(_) => Err(late_error()),
        };
        // A server may answer and close before it has read everything.
        let mut response = Response::default();
        let end = receive(&mut stream, &mut response, deadline).await;
        if let Some(why) = response.unheard() {
            return Err(not_sent(why.to_owned()));
        }
        let end = end?;
        let why = end.as_ref().or(sent.as_ref().err()).map_or("it was closed".into(), words);
        let refused = end.iter().chain(sent.as_ref().err()).any(refuses_handshake);
        if !response.has_head() && refused {
            return Err(not_sent(format!("no TLS connection: {why}")));
        }
        let why = response.stray().map_or(why.clone(), |stray| format!("{stray}: {why}"));
        let answer = response.into_answer(&end.as_ref().map(words).unwrap_or_default());
        crash::point("after_response");
        answer.ok_or(TransportError::NoAnswer(why))
    }

    /// Everything before the first byte of the request; the text of an error for people. Says what it waits for.
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
        let stream = dial(addresses).await.map_err(|error| format!("no connection: {error}"))?;
        let _unsupported = stream.set_nodelay(true);
        if url.scheme() != "https" {
            return Ok(Box::new(stream));
        }
        let name = match url.host() {
            Some(Host::Ipv4(address)) => ServerName::IpAddress(address.into()),
            Some(Host::Ipv6(address)) => ServerName::IpAddress(address.into()),
            _ => ServerName::try_from(url.host_str().unwrap_or_default().to_owned())
                .map_err(|_| "its name is none that a certificate can have".to_owned())?,
        };
        let tls = match &request.client_cert {
            Some(certificate) => Arc::new(certificate.present(&self.tls)),
            None => Arc::clone(&self.tls),
        };
        *awaited = "answer in the TLS handshake";
        let secured = TlsConnector::from(tls).connect(name, stream).await;
        Ok(Box::new(secured.map_err(|error| format!("no TLS connection: {}", tls_words(&error)))?))
    }
}

/// Tries the addresses in the order of the resolver, without waiting for one that does not answer.
async fn dial(addresses: Vec<SocketAddr>) -> Result<TcpStream, Error> {
    let mut left = addresses.into_iter();
    let mut dialling = JoinSet::new();
    let mut last = Error::other("its name has no address");
    loop {
        if let Some(address) = left.next() {
            dialling.spawn(TcpStream::connect(address));
        }
        match timeout(NEXT_ADDRESS, dialling.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(ended))) => last = Error::other(ended),
            Ok(None) => return Err(last),
            Err(_) => {}
        }
    }
}

/// Reads until the response is whole, or as much of it as there will be; returns what ended it early.
async fn receive(
    stream: &mut dyn ByteStream,
    response: &mut Response,
    deadline: Instant,
) -> Result<Option<Error>, TransportError> {
    let mut buffer = vec![0; 16 * 1024];
    let mut has_begun = false;
    let mut last_look = None;
    loop {
        let now = Instant::now();
        let until = if now < deadline {
            deadline.min(now + PAUSE)
        } else {
            (now + LAST_LOOK).min(*last_look.get_or_insert(now + LAST_LOOKS))
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
            Err(_) if response.suffices() => return Ok(Some(Error::other("nothing more came"))),
            Err(_) if last_look.is_some() => return Ok(Some(late_error())),
            Err(_) => {}
        }
    }
}

fn late_error() -> Error {
    Error::new(ErrorKind::TimedOut, "no answer in time")
}

fn words(error: &Error) -> String {
    match (error.kind(), rustls_error(error)) {
        (_, Some(_)) => tls_words(error),
        (ErrorKind::UnexpectedEof, _) => "the connection was closed without a goodbye".to_owned(),
        _ => error.to_string(),
    }
}

/// What a failure of TLS comes from, and what to do about it.
fn tls_words(error: &Error) -> String {
    let fault = rustls_error(error).and_then(CertificateFault::of);
    let (what, advice) = match fault {
        Some(fault) => {
            (format!("the server's certificate was not accepted: {fault}"), fault.advice())
        }
        None => match TlsCause::of(error) {
            TlsCause::Protocol => (
                error.to_string(),
                "to a token endpoint bearerd speaks HTTP/1.1 alone, and not HTTP/2",
            ),
            cause => (error.to_string(), cause.advice()),
        },
    };
    if advice.is_empty() { what } else { format!("{what}; {advice}") }
}

/// With TLS 1.3 a server refuses the client's certificate only after the client has begun to send. What
/// it sent has not been looked at.
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

/// The request as bytes.
fn message(request: &TokenRequest) -> Vec<u8> {
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
        // These are the connection's, which is ours.
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
