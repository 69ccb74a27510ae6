//! Tests against real servers: mutual TLS, unresponsive servers and malformed answers.
#![allow(clippy::unwrap_used)]

#[path = "tests/handshake.rs"]
mod handshake;

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::oauth::ClientCert;
use crate::secret::Secret;

const LISTEN: Duration = Duration::from_secs(9);

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[tokio::test]
async fn client_certificates_are_presented_and_their_absence_is_reported() {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &authority).unwrap(), key)
    };
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider());
    let (certificate, key) = issue("localhost");
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from(certificate)],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/token", listener.local_addr().unwrap().port());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let seen = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head.get(..read).unwrap().starts_with(b"GET /token HTTP/1.1"));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{seen}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let transport = HttpTransport::new(client);
    let (certificate, key) = issue("client.test");
    let key = Secret::new(key.serialize_pem());
    let client_cert = ClientCert::from_pem(&certificate.pem(), &key, false, &provider()).unwrap();
    let url: url::Url = url.parse().unwrap();
    let request = TokenRequest::get(url.clone(), Some(client_cert));
    assert_eq!(transport.send(request, LISTEN).await.unwrap().body, b"1");
    let refused = transport.send(TokenRequest::get(url, None), LISTEN).await.unwrap_err();
    assert!(
        matches!(refused, TransportError::NotSent(_)),
        "{refused}: the server must not have read the request"
    );
    assert!(refused.to_string().contains("client_cert"), "{refused}");
}

fn client_cert() -> ClientCert {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let key = Secret::new(key.serialize_pem());
    ClientCert::from_pem(&certificate.pem(), &key, false, &provider()).unwrap()
}

fn transport() -> HttpTransport {
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    HttpTransport::new(client)
}

/// E18: the TCP handshake never completes, so nothing was sent. Uses paused time.
#[tokio::test(start_paused = true)]
async fn without_a_connection_the_request_was_not_sent() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Non-blocking, so that connections stay incomplete once the backlog is full.
    let fillers: Vec<_> = (0..8).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    for filler in &fillers {
        while !filler.is_finished() && fillers.iter().filter(|it| it.is_finished()).count() < 2 {
            tokio::task::yield_now().await;
        }
    }
    for (scheme, certificate) in [("http", None), ("https", None), ("https", Some(client_cert()))] {
        let url: url::Url = format!("{scheme}://{address}/token").parse().unwrap();
        let began = Instant::now();
        let error =
            transport().send(TokenRequest::get(url, certificate), LISTEN).await.unwrap_err();
        assert!(matches!(error, TransportError::NotSent(_)), "{scheme}: {error}");
        assert!(began.elapsed() <= CONNECT_TIMEOUT + IDLE_TIMEOUT);
    }
}

/// With an incomplete TLS handshake or a closed port, nothing was sent either.
#[tokio::test(start_paused = true)]
async fn without_a_handshake_the_request_was_not_sent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = silent.local_addr().unwrap();
    for (url, reason) in [
        (format!("https://{silent}/"), "no answer in the TLS handshake within 5 s"),
        (format!("http://{closed}/"), "no connection: Connection refused"),
        ("http://no.test.invalid/".into(), "its name has no address"),
    ] {
        let request = TokenRequest::get(url.parse().unwrap(), Some(client_cert()));
        let error = transport().send(request, LISTEN).await.unwrap_err();
        assert!(
            matches!(&error, TransportError::NotSent(why) if why.starts_with(reason)),
            "{error}"
        );
    }
}

/// Starts a server that sends `answer` after a request and optionally keeps the connection open.
/// Returns the result of the transport.
async fn answered(
    answer: impl AsRef<[u8]>,
    stays_open: bool,
    response_timeout: Duration,
) -> Result<RawAnswer, TransportError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token?a=b", listener.local_addr().unwrap()).parse().unwrap();
    let answer = answer.as_ref().to_owned();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).await.unwrap();
            request.extend(byte);
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("GET /token?a=b HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        assert!(request.ends_with("\r\nconnection: close\r\n\r\n"), "{request}");
        stream.write_all(&answer).await.unwrap();
        if stays_open {
            std::future::pending().await
        }
    });
    transport().send(TokenRequest::get(url, None), response_timeout).await
}

#[tokio::test]
async fn received_data_is_returned_however_the_connection_ends() {
    const JSON: &str = r#"{"refresh_token":"rt2"}"#;
    for (head, body, stays_open) in [
        ("Content-Length: 23\r\n", JSON, true),
        ("Content-Length: 99\r\n", JSON, false),
        ("Content-Length: 9\r\n", JSON, false),
        ("Transfer-Encoding: chunked\r\n", "17\r\n{\"refresh_token\":\"rt2\"}\r\n", false),
        ("Transfer-Encoding: chunked\r\n", JSON, true),
        ("", JSON, false),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
        let answer = answered(&answer, stays_open, LISTEN).await.unwrap();
        assert_eq!(answer.body, JSON.as_bytes(), "{head}");
    }
    // The connection stays open; the brackets tell that the JSON is complete.
    for head in ["Content-Length: 99\r\n", "Transfer-Encoding: chunked\r\n\r\n17\r\n", ""] {
        let end = if head.ends_with("17\r\n") { "" } else { "\r\n" };
        let answer = format!("HTTP/1.1 200 OK\r\n{head}{end}{JSON}");
        let began = Instant::now();
        let answer = answered(&answer, true, LISTEN).await.unwrap();
        assert_eq!(
            (answer.body.as_slice(), answer.cut.is_some()),
            (JSON.as_bytes(), true),
            "{head}"
        );
        assert!(began.elapsed() < LISTEN / 2, "{head}");
    }
}

#[tokio::test]
async fn only_responses_without_a_status_are_discarded() {
    let short = Duration::from_millis(50);
    for answer in ["", "HTTP/1.1 20", "HTTP/1.1 503 Busy\r\nX: 5\r\n", "{\"a\":1}", "SSH-2.0\r\n"] {
        let error = answered(answer, false, LISTEN).await.unwrap_err();
        assert!(matches!(error, TransportError::NoAnswer(_)), "{error}");
        let error = answered(answer, true, short).await.unwrap_err();
        assert!(matches!(error, TransportError::NoAnswer(_)), "{error}");
    }
    // The refresh token was consumed, although the rest is missing.
    for answer in ["HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX"] {
        for stays_open in [false, true] {
            let answer = answered(answer, stays_open, short).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
            assert_eq!(answer.cut.as_deref(), Some("its head is incomplete"));
        }
    }
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"access";
    for (stays_open, why) in
        [(false, "it ended early"), (true, "it ended early: no answer in time")]
    {
        let answer = answered(begun, stays_open, short).await.unwrap();
        assert_eq!(answer.body, b"{\"access");
        assert_eq!(answer.cut.as_deref(), Some(why));
    }
}

/// Data in the buffers at the deadline has arrived in time. The only thread of this runtime is
/// blocked meanwhile, as if the process had been stopped.
#[tokio::test]
async fn buffered_data_is_read_after_the_deadline() {
    use std::io::{Read, Write};
    let response_timeout = Duration::from_millis(300);
    let padding = "a".repeat(900_000);
    let body = format!(r#"{{"padding":"{padding}","refresh_token":"rt2"}}"#);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    for (before, after) in [
        (String::new(), head.clone() + &body),
        (head, body.clone()),
        ("HTTP/1.1 200 OK\r\nX: ".into(), format!("y\r\n\r\n{body}")),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap()).parse().unwrap();
        let (asked, is_asked) = tokio::sync::oneshot::channel();
        let (stopped, is_stopped) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let length = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(before.as_bytes()).unwrap();
            asked.send(length).unwrap();
            is_stopped.recv().unwrap();
            stream.write_all(after.as_bytes()).is_ok()
        });
        let sending = tokio::spawn(async move {
            transport().send(TokenRequest::get(url, None), response_timeout).await
        });
        is_asked.await.unwrap();
        stopped.send(()).unwrap();
        std::thread::sleep(response_timeout * 2);
        let answer = sending.await.unwrap().unwrap();
        assert_eq!((answer.body.len(), answer.cut), (body.len(), None));
        assert!(server.join().unwrap());
    }
}

/// Data from a server and the times at which it becomes visible.
struct ScriptedStream(std::collections::VecDeque<(&'static [u8], Pin<Box<tokio::time::Sleep>>)>);

impl ScriptedStream {
    fn new(parts: impl IntoIterator<Item = (&'static [u8], Duration)>) -> Self {
        let now = Instant::now();
        let at = |(bytes, after)| (bytes, Box::pin(tokio::time::sleep_until(now + after)));
        Self(parts.into_iter().map(at).collect())
    }
}

impl AsyncRead for ScriptedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let Some((bytes, seen)) = self.0.front_mut() else { return std::task::Poll::Pending };
        std::task::ready!(seen.as_mut().poll(cx));
        buffer.put_slice(bytes);
        self.0.pop_front();
        std::task::Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

/// After an interruption, the deadline may be noticed before the data.
#[tokio::test(start_paused = true)]
async fn reading_after_the_deadline_loses_nothing_and_ends() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    let late = |millis| LISTEN + Duration::from_millis(millis);
    let deadline = Instant::now() + LISTEN;
    let mut stream = ScriptedStream::new([(HEAD, late(5)), (b"{", late(10)), (b"}", late(15))]);
    let mut response = Response::default();
    assert!(receive(&mut stream, &mut response, deadline).await.unwrap().is_none());
    assert_eq!(response.into_answer("").unwrap().body, b"{}");
    // A server that keeps sending cannot delay the result forever.
    let deadline = Instant::now() + LISTEN;
    let mut stream = ScriptedStream::new((0..1000).map(|n| (&b"a"[..], late(n * 50))));
    let end = receive(&mut stream, &mut Response::default(), deadline).await.unwrap();
    assert_eq!(end.unwrap().kind(), ErrorKind::TimedOut);
    assert!(Instant::now() <= deadline + GRACE_TOTAL);
}

/// Returns the answer from these parts, each sent the given number of milliseconds after the
/// request, on a connection that stays open.
async fn in_parts(parts: &'static [(u64, &'static str)]) -> RawAnswer {
    let deadline = Instant::now() + LISTEN;
    let parts = parts.iter().map(|(at, part)| (part.as_bytes(), Duration::from_millis(*at)));
    let mut response = Response::default();
    let end = receive(&mut ScriptedStream::new(parts), &mut response, deadline).await.unwrap();
    response.into_answer(&end.as_ref().map(describe_error).unwrap_or_default()).unwrap()
}

/// A pause ends an answer only if no framing announces more data, or if nothing that follows can be
/// as valuable as what has arrived.
#[tokio::test(start_paused = true)]
async fn a_pause_loses_no_data_that_the_framing_announces() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for parts in [
        &[
            (0, CHUNKED),
            (1, "7\r\n{\"a\":1}\r\n"),
            (5000, "15\r\n{\"refresh_token\":\"r\"}\r\n0\r\n\r\n"),
        ][..],
        &[
            (0, "HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{\"a\":1}"),
            (5000, "{\"refresh_token\":\"r\"}"),
        ],
        // The length counts characters, and the end arrives late.
        &[
            (0, "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"a\":\"äöü\","),
            (5000, "\"refresh_token\":\"r\"}"),
        ],
    ] {
        let body = in_parts(parts).await.body;
        assert!(body.ends_with(b"\"refresh_token\":\"r\"}"), "{}", String::from_utf8_lossy(&body));
    }
    let began = Instant::now();
    for parts in [
        // The last chunk has arrived; the trailers do not matter.
        &[(0, CHUNKED), (1, "1\r\na\r\n0\r\n")][..],
        &[(0, CHUNKED), (1, "15\r\n{\"refresh_token\":\"r\"}\r\n")],
        &[(0, "HTTP/1.1 400 Bad\r\nContent-Length: 99\r\n\r\n{\"error\":1}")],
        &[(0, "{\"access_token\":\"at2\"}")],
    ] {
        in_parts(parts).await;
    }
    assert!(began.elapsed() < LISTEN);
}

#[tokio::test]
async fn malformed_heads_lose_no_answer() {
    const JSON: &str = r#"{"access_token":"at2","refresh_token":"rt2"}"#;
    let heads: [(&[u8], u16); 20] = [
        (b"HTTP/1.1 200 D\xe9j\xe0\r\nContent-Length: 44\r\n\r\n", 200),
        (b"HTTP/1.1 200 \xe4\xb8\xad\xe5\x9b\xbd\xe4\xb8\xad\r\n\r\n", 200),
        (b"HTTP/2 200 OK\r\nContent-Length: 44\r\n\r\n", 200),
        (b"http/1.1 200 OK\r\nContent-Length: 44\r\n\r\n", 200),
        (b"HTTP/2.0 400\r\n\r\n", 400),
        (b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n", 200),
        (b"\xef\xbb\xbfHTTP/1.1 200 OK\nContent-Length: 44\n\n", 200),
        (b"HTTP/1.1 201\r\nContent-Length: 44\r\n\r\n", 201),
        (b"HTTP/1.1 200OK\r\nContent-Length: 44\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nno field\r\n: x\r\nContent-Length : 44\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nX: \xff\x01\r\nContent-Length:\r\n  44\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n2c\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 44\r\n", 200),
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.1 100 Continue\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 200),
        (b"", 200),
        (b"\r\n", 200),
        (b"Status: 200 OK\r\nContent-Type: application/json\r\n\r\n", 200),
        (b"HTTP/1.1 OK\r\n\r\n", 200),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 200),
    ];
    let mut failed = Vec::new();
    for (head, status) in heads {
        let asked = [false, true].map(|stays_open| {
            let bytes = [head, JSON.as_bytes()].concat();
            answered(bytes, stays_open, Duration::from_secs(4))
        });
        let [closed, open] = asked;
        let began = Instant::now();
        let (closed, open) = tokio::join!(closed, open);
        for answer in [closed, open] {
            let is_read = answer.is_ok_and(|answer| {
                answer.status.as_u16() == status && answer.body.ends_with(JSON.as_bytes())
            });
            if !is_read || began.elapsed() > Duration::from_secs(3) {
                failed.push(String::from_utf8_lossy(head));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Interim responses are not an answer, however many there are.
#[tokio::test(start_paused = true)]
async fn interim_responses_are_limited() {
    const INTERIM: &[u8] = b"HTTP/1.1 102 Processing\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let parts = |count: u32, every: Duration| {
        let interim = (0..count).map(move |n| (INTERIM, every * n));
        ScriptedStream::new(interim.chain([(ANSWER, every * count)]))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut response = Response::default();
    let mut slow = parts(50, Duration::from_secs(1));
    receive(&mut slow, &mut response, deadline).await.unwrap();
    assert_eq!(response.into_answer("").unwrap().body, b"{}");
    let mut endless = parts(5000, Duration::ZERO);
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = receive(&mut endless, &mut Response::default(), deadline).await.unwrap_err();
    assert!(matches!(error, TransportError::NoAnswer(why) if why.contains("interim")));
    assert!(endless.0.len() > 2000);
}
