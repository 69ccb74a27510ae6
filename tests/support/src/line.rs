//! One accepted TCP connection, with or without TLS, and its abnormal ends.
//!
//! hyper always closes a connection cleanly. A service controls the connection through its
//! `Line` while hyper owns the socket: the line requests a TCP reset, or a close without
//! `Connection: close`, and tells a response body when its bytes have reached the kernel.

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

/// A service's view of the connection that carried a request.
pub(crate) struct Line {
    id: u64,
    certificate: OnceLock<CertificateDer<'static>>,
    state: Mutex<LineState>,
}

impl Line {
    pub(crate) fn new(id: u64) -> Arc<Line> {
        Arc::new(Line { id, certificate: OnceLock::new(), state: Mutex::default() })
    }

    /// Returns the number of the connection, counted from 1 per server.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the TLS client certificate, if any.
    pub(crate) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.certificate.get()
    }

    /// Records the client certificate of the handshake of `stream`.
    pub(crate) fn note_certificate(&self, stream: &Stream) {
        if let Stream::Tls(tls) = stream
            && let Some([leaf, ..]) = tls.get_ref().1.peer_certificates()
        {
            let _ = self.certificate.set(leaf.clone().into_owned());
        }
    }

    /// Increments the number of requests on this connection and returns it.
    pub(crate) fn count_request(&self) -> usize {
        let mut state = self.state();
        state.requests += 1;
        state.requests
    }

    /// Makes the connection end with a TCP reset.
    pub(crate) fn reset(&self) {
        self.state().reset = true;
    }

    /// Closes the connection once everything written so far is flushed.
    pub(crate) fn close_once_flushed(&self) {
        self.state().closing = true;
    }

    /// Closes the connection once flushed, without a TLS close_notify.
    pub(crate) fn close_silently_once_flushed(&self) {
        self.state().silent = true;
        self.close_once_flushed();
    }

    /// Resets the connection once everything written so far is flushed.
    pub(crate) fn reset_once_flushed(&self) {
        self.reset();
        self.close_once_flushed();
    }

    /// Sends these bytes instead of everything that hyper writes from now on.
    pub(crate) fn replace_output(&self, bytes: Vec<u8>) {
        self.state().instead = Some(bytes);
    }

    fn take_replacement(&self) -> Option<Vec<u8>> {
        self.state().instead.take()
    }

    fn is_silent(&self) -> bool {
        self.state().silent
    }

    /// Returns the number of flushes so far. Wakes `cx` at the next one.
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

/// The byte stream of a connection.
pub(crate) enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Returns true if ALPN selected HTTP/2.
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

/// The socket that hyper drives: a stream under the control of its line.
pub(crate) struct Socket {
    stream: Stream,
    line: Arc<Line>,
    /// The unsent rest of the bytes that replace hyper's output.
    instead: Option<Vec<u8>>,
}

impl Socket {
    pub(crate) fn new(stream: Stream, line: Arc<Line>) -> Socket {
        Socket { stream, line, instead: None }
    }

    /// Writes the bytes that replace hyper's output. Returns false if there are none.
    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Some(bytes) = self.line.take_replacement() {
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
            // Fails if the peer is already gone; nothing is left to reset then.
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
        if ready!(self.poll_replacement(cx))? {
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
