//! The byte stream of an HTTP/1.1 client connection, between hyper and the socket.
//!
//! hyper parses requests and writes responses. This stream does what hyper does not do, or does
//! differently:
//!
//! - It encodes request targets that hyper would refuse ([`RequestLineScanner`]).
//! - It hides the end of the client's input while a request is served, because the client may have
//!   closed its sending side only.
//! - It writes interim responses between hyper's messages.
//! - It replaces the responses with which hyper refuses unparsable requests by bearerd's own.
//! - It closes a connection in two steps (RFC 9112 §9.6): it reads and discards what the client
//!   still sends for a while, because a reset could take the response from the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Proxy;
use super::activity::{Activity, ConnectionPhase};
use super::interim::InterimQueue;
use super::request_line_scanner::RequestLineScanner;

/// Bytes per read when input is discarded.
const DISCARD_BUFFER: usize = 8 * 1024;
/// Reads in a row when input is discarded, before other tasks get their turn.
const DISCARD_READS: usize = 32;

/// State that the stream shares with the [`ClientConnection`](super::client_connection).
#[derive(Debug)]
pub(super) struct Http1Context {
    pub(super) activity: Arc<Activity>,
    pub(super) interim: Arc<InterimQueue>,
    /// Set when the request head being read is in asterisk-form: an OPTIONS whose target is an
    /// authority alone.
    pub(super) is_asterisk_form: Arc<AtomicBool>,
}

/// The byte stream of an HTTP/1.1 client connection, between hyper and the socket.
pub(super) struct Http1Stream<S> {
    stream: S,
    context: Http1Context,
    request_line: RequestLineScanner,
    /// Bytes that were read from the socket and not yet passed to hyper.
    pending_read: Bytes,
    /// The client has closed its sending side.
    is_read_closed: bool,
    /// The end of the input was withheld once, so that the last content could be read first.
    has_withheld_end: bool,
    /// Bytes of bearerd's own that are being written.
    pending_write: BytesMut,
    /// hyper has written bytes since it last had nothing to write.
    in_message: bool,
    is_shut_down: bool,
    /// Builds the responses to unparsable requests.
    proxy: Arc<Proxy>,
}

impl<S> Http1Stream<S> {
    pub(super) fn new(stream: S, context: Http1Context, proxy: Arc<Proxy>) -> Self {
        Self {
            stream,
            context,
            request_line: RequestLineScanner::default(),
            pending_read: Bytes::new(),
            is_read_closed: false,
            has_withheld_end: false,
            pending_write: BytesMut::new(),
            in_message: false,
            is_shut_down: false,
            proxy,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Scans the next bytes of the request line and encodes them if necessary. The new bytes of
    /// `buf` begin at `filled`.
    fn scan_request_line(&mut self, buf: &mut ReadBuf<'_>, filled: usize) {
        let before = self.request_line;
        let Some(new) = buf.filled().get(filled..) else { return };
        let result = self.request_line.scan(new);
        if result.is_asterisk_form {
            self.context.is_asterisk_form.store(true, Ordering::Relaxed);
        }
        if result.needs_encoding {
            self.pending_read = before.encode(new).into();
            buf.set_filled(filled);
            self.copy_pending(buf);
        }
    }

    fn copy_pending(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.pending_read.len().min(buf.remaining());
        buf.put_slice(&self.pending_read.split_to(length));
    }
}

impl<S: AsyncWrite + Unpin> Http1Stream<S> {
    /// Writes interim responses, and the response to an unparsable request.
    fn poll_write_pending(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.pending_write.is_empty() && !self.in_message {
            self.pending_write = self.context.interim.take();
        }
        while !self.pending_write.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.pending_write))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.pending_write.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Replaces the response with which hyper refuses an unparsable request. Returns false if
    /// `bytes` are not such a response.
    ///
    /// Before a request is served, hyper writes only to refuse it.
    fn replace_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.in_message || self.context.activity.phase() != ConnectionPhase::ReadingHead {
            return false;
        }
        let Some(status) = parse_status(bytes) else { return false };
        self.pending_write.extend_from_slice(&self.proxy.respond_to_unparsable(status));
        self.in_message = true;
        true
    }
}

/// Parses the status of a response that begins with `bytes`.
fn parse_status(bytes: &[u8]) -> Option<u16> {
    let status = bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(status).ok()?.parse().ok()
}

impl<S: AsyncRead + Unpin> AsyncRead for Http1Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if !this.pending_read.is_empty() {
            this.copy_pending(buf);
            return Poll::Ready(Ok(()));
        }
        if this.context.activity.is_between_requests() {
            this.request_line = RequestLineScanner::default();
        }
        let filled = buf.filled().len();
        if !this.is_read_closed {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            this.is_read_closed = buf.filled().len() == filled && buf.remaining() > 0;
        }
        if this.is_read_closed {
            // The activity wakes this task when the request is complete.
            return match this.context.activity.mark_half_closed() {
                true => Poll::Pending,
                // The last of the content may have arrived without having been read.
                false if this.context.activity.is_busy() && !this.has_withheld_end => {
                    this.has_withheld_end = true;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                false => Poll::Ready(Ok(())),
            };
        }
        if !this.request_line.is_complete() {
            this.scan_request_line(buf, filled);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Http1Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_write_pending(cx))?;
        if self.replace_refusal(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.in_message = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// hyper flushes when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.in_message = false;
        self.context.interim.register(cx.waker());
        ready!(self.poll_write_pending(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if !this.is_shut_down {
            ready!(this.poll_write_pending(cx))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.is_shut_down = true;
            this.context.activity.set_phase(ConnectionPhase::Lingering);
        }
        if this.is_read_closed {
            return Poll::Ready(Ok(()));
        }
        poll_discard(Pin::new(&mut this.stream), cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_write_pending(cx))?;
        let first = slices.iter().find(|slice| !slice.is_empty());
        if first.is_some_and(|slice| self.replace_refusal(slice)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.in_message = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Reads and discards until the client closes or resets the connection.
fn poll_discard<S: AsyncRead>(mut stream: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<()> {
    let mut space = [0; DISCARD_BUFFER];
    for _ in 0..DISCARD_READS {
        let mut buf = ReadBuf::new(&mut space);
        match ready!(stream.as_mut().poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => {}
            Ok(()) | Err(_) => return Poll::Ready(()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
