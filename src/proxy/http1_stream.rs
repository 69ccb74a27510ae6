//! A client's connection in HTTP/1.1, between hyper and what is below it.
//!
//! hyper parses requests and writes responses. What it does not do, or does otherwise, is done here:
//!
//! - Request lines are made readable ([`RequestLineScanner`]).
//! - The end of what a client sends is kept back while its request is served: it may have closed its half only.
//! - Interim responses are written between hyper's messages.
//! - What hyper answers itself, to a request that it cannot read, becomes an answer of bearerd's form.
//! - A connection is closed in two steps (RFC 9112 §9.6): what the client still sends is read and thrown away for a
//!   while, because a reset could take the response from it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Proxy;
use super::connection::{Activity, ConnectionPhase};
use super::interim::InterimQueue;
use super::request_line_scanner::RequestLineScanner;

/// What is read at a time of what nobody wants.
const DISCARD: usize = 8 * 1024;
/// How often in a row, before others have their turn.
const DISCARDS: usize = 32;

/// What belongs to the connection as a whole.
#[derive(Debug)]
pub(super) struct Http1Parts {
    pub(super) activity: Arc<Activity>,
    pub(super) interim: Arc<InterimQueue>,
    /// Set if the request that is read is an OPTIONS whose target is an authority alone.
    pub(super) asterisk: Arc<AtomicBool>,
}

/// A client's connection in HTTP/1.1, between hyper and what is below it.
pub(super) struct Http1Stream<S> {
    stream: S,
    parts: Http1Parts,
    line: RequestLineScanner,
    /// Read and not yet handed on.
    read: Bytes,
    /// The client will send no more.
    has_ended: bool,
    /// Whoever reads the content had time to see what came before that.
    has_waited: bool,
    /// Own bytes that are under way.
    begun: BytesMut,
    /// hyper has written something since it last had nothing to write.
    in_message: bool,
    is_shut_down: bool,
    /// Gives the answer where hyper gives one.
    proxy: Arc<Proxy>,
}

impl<S> Http1Stream<S> {
    pub(super) fn new(stream: S, parts: Http1Parts, proxy: Arc<Proxy>) -> Self {
        Self {
            stream,
            parts,
            line: RequestLineScanner::default(),
            read: Bytes::new(),
            has_ended: false,
            has_waited: false,
            begun: BytesMut::new(),
            in_message: false,
            is_shut_down: false,
            proxy,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Reads on in the request line, and makes it readable. `filled` is where the new bytes begin.
    fn read_line(&mut self, buf: &mut ReadBuf<'_>, filled: usize) {
        let before = self.line;
        let Some(new) = buf.filled().get(filled..) else { return };
        let found = self.line.scan(new);
        if found.is_asterisk {
            self.parts.asterisk.store(true, Ordering::Relaxed);
        }
        if found.is_unfit {
            self.read = before.encode(new).into();
            buf.set_filled(filled);
            self.hand_on(buf);
        }
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(length));
    }
}

impl<S: AsyncWrite + Unpin> Http1Stream<S> {
    fn poll_write_own(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.begun.is_empty() && !self.in_message {
            self.begun = self.parts.interim.take();
        }
        while !self.begun.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.begun))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.begun.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Before a request is served hyper writes only to refuse it. Takes such an answer for what it says.
    fn takes_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.in_message || self.parts.activity.phase() != ConnectionPhase::Head {
            return false;
        }
        let Some(status) = status_of(bytes) else { return false };
        self.begun.extend_from_slice(&self.proxy.respond_to_unparsable(status));
        self.in_message = true;
        true
    }
}

/// The status of a response that begins with `bytes`.
fn status_of(bytes: &[u8]) -> Option<u16> {
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
        if !this.read.is_empty() {
            this.hand_on(buf);
            return Poll::Ready(Ok(()));
        }
        if this.parts.activity.is_between_requests() {
            this.line = RequestLineScanner::default();
        }
        let filled = buf.filled().len();
        if !this.has_ended {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            this.has_ended = buf.filled().len() == filled && buf.remaining() > 0;
        }
        if this.has_ended {
            // Whoever waits is woken when the request is over.
            return match this.parts.activity.half_close() {
                true => Poll::Pending,
                // The last of the content may be there, and whoever reads it has not seen it yet.
                false if this.parts.activity.is_busy() && !this.has_waited => {
                    this.has_waited = true;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                false => Poll::Ready(Ok(())),
            };
        }
        if !this.line.is_over() {
            this.read_line(buf, filled);
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
        ready!(self.poll_write_own(cx))?;
        if self.takes_refusal(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.in_message = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// hyper flushes when it has nothing more to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.in_message = false;
        self.parts.interim.register(cx.waker());
        ready!(self.poll_write_own(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if !this.is_shut_down {
            ready!(this.poll_write_own(cx))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.is_shut_down = true;
            this.parts.activity.enter(ConnectionPhase::Lingering);
        }
        if this.has_ended {
            return Poll::Ready(Ok(()));
        }
        poll_discard(Pin::new(&mut this.stream), cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_write_own(cx))?;
        let first = slices.iter().find(|slice| !slice.is_empty());
        if first.is_some_and(|slice| self.takes_refusal(slice)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.in_message = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Reads and throws away until the client ends, or breaks off.
fn poll_discard<S: AsyncRead>(mut stream: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<()> {
    let mut space = [0; DISCARD];
    for _ in 0..DISCARDS {
        let mut buf = ReadBuf::new(&mut space);
        match ready!(stream.as_mut().poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => {}
            Ok(()) | Err(_) => return Poll::Ready(()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
