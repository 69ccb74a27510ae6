//! One accepted TCP connection, with or without TLS, and the ways it can end badly.
//!
//! hyper only knows how to end a connection politely. A `Line` is the switch that a
//! service keeps while hyper owns the socket: it can ask for a TCP reset instead of a
//! close, for an end of the connection that no header announced, and it can tell a
//! response body that its bytes have reached the kernel.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

#[derive(Default)]
struct LineState {
    requests: usize,
    flushes: u64,
    reset: bool,
    silent: bool,
    instead: Option<Vec<u8>>,
    closing: bool,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a service knows about the connection a request came on.
pub(crate) struct Line {
    id: u64,
    certificate: OnceLock<CertificateDer<'static>>,
    state: Mutex<LineState>,
}

impl Line {
    pub(crate) fn new(id: u64) -> Arc<Line> {
        Arc::new(Line { id, certificate: OnceLock::new(), state: Mutex::default() })
    }

    /// The number of the connection, counted from 1 per server.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The certificate that the client showed in TLS, if it showed one.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.certificate.get()
    }

    /// Keeps what the client showed in the handshake of `stream`.
    pub(crate) fn note_certificate(&self, stream: &Stream) {
        if let Stream::Tls(tls) = stream
            && let Some([leaf, ..]) = tls.get_ref().1.peer_certificates()
        {
            let _ = self.certificate.set(leaf.clone().into_owned());
        }
    }

    /// Counts one more request on this connection and returns the count.
    pub(crate) fn count_request(&self) -> usize {
        let mut state = self.state();
        state.requests += 1;
        state.requests
    }

    /// Makes the end of the connection a TCP reset.
    pub(crate) fn reset(&self) {
        self.state().reset = true;
    }

    /// Ends the connection once everything written so far is flushed.
    pub(crate) fn close_once_flushed(&self) {
        self.state().closing = true;
    }

    /// The same, without a word of TLS about it.
    pub(crate) fn close_silently_once_flushed(&self) {
        self.state().silent = true;
        self.close_once_flushed();
    }

    /// The same by a TCP reset.
    pub(crate) fn reset_once_flushed(&self) {
        self.reset();
        self.close_once_flushed();
    }

    /// Sends these bytes in the place of whatever is written from now on.
    pub(crate) fn write_instead(&self, bytes: Vec<u8>) {
        self.state().instead = Some(bytes);
    }

    fn take_instead(&self) -> Option<Vec<u8>> {
        self.state().instead.take()
    }

    fn is_silent(&self) -> bool {
        self.state().silent
    }

    /// How often the connection was flushed; wakes `cx` at the next flush.
    pub(crate) fn poll_flushes(&self, cx: &Context<'_>) -> u64 {
        let mut state = self.state();
        state.writer = Some(cx.waker().clone());
        state.flushes
    }

    fn note_flush(&self) {
        let mut state = self.state();
        state.flushes += 1;
        state.ended |= state.closing;
        wake(&mut state.writer);
        if state.ended {
            wake(&mut state.reader);
        }
    }

    fn poll_ended(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        state.reader = Some(cx.waker().clone());
        state.ended
    }

    fn wants_reset(&self) -> bool {
        self.state().reset
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The bytes of a connection.
pub(crate) enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP, handshake done.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Did the handshake agree on HTTP/2?
    pub(crate) fn is_http2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }
}

/// The socket that hyper drives: a stream that obeys its line.
pub(crate) struct Socket {
    stream: Stream,
    line: Arc<Line>,
    /// What is left of the bytes that a test writes in the place of hyper's.
    instead: Option<Vec<u8>>,
}

impl Socket {
    pub(crate) fn new(stream: Stream, line: Arc<Line>) -> Socket {
        Socket { stream, line, instead: None }
    }

    /// Writes the bytes that go in the place of hyper's; `false` if there are none.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Some(bytes) = self.line.take_instead() {
            self.instead = Some(bytes);
        }
        let Some(bytes) = &mut self.instead else { return Poll::Ready(Ok(false)) };
        while !bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
            bytes.drain(..written);
        }
        Poll::Ready(Ok(true))
    }
}

impl Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.line.wants_reset() {
            // A socket whose peer is already gone cannot be configured, nor need be.
            let _ = self.stream.tcp().set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.line.poll_ended(cx) {
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if ready!(self.poll_instead(cx))? {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        };
        if let Poll::Ready(Ok(())) = flushed {
            self.line.note_flush();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.wants_reset() {
            return Poll::Ready(Ok(()));
        }
        let silent = self.line.is_silent();
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) if silent => Pin::new(tls.get_mut().0).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
