//! A stream below hyper that cleans the heads of an origin server's responses before they are parsed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head_sanitizer::HeadSanitizer;
use super::interim::{InterimRelay, parse_interim};

/// What is read at a time between an interim response and the response: a server may send interim responses
/// without an end, and whatever is read is parsed at once.
const HEAD_READ: usize = 8 * 1024;

/// Says that a response comes next, and who gets the interim responses before it.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadExpected(Arc<Mutex<Option<Arc<InterimRelay>>>>);

impl HeadExpected {
    /// The next bytes begin a response.
    pub(super) fn expect(&self, relay: &Arc<InterimRelay>) {
        *self.lock() = Some(Arc::clone(relay));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<InterimRelay>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream whose response heads are clean, and that passes interim responses on. (hyper's own way to pass them on
/// costs several allocations for each request.)
#[derive(Debug)]
pub(super) struct ResponseHeads<S> {
    stream: S,
    expected: HeadExpected,
    cleaner: HeadSanitizer,
    /// Of the request whose response has not come.
    relay: Option<Arc<InterimRelay>>,
    /// An interim response has come, and the response has not.
    has_interim: bool,
}

impl<S> ResponseHeads<S> {
    pub(super) fn of(stream: S, expected: HeadExpected) -> Self {
        let cleaner = HeadSanitizer::default();
        Self { stream, expected, cleaner, relay: None, has_interim: false }
    }

    fn look_at(&mut self, read: &mut [u8]) {
        if let Some(relay) = self.expected.lock().take() {
            (self.relay, self.has_interim) = (Some(relay), false);
            self.cleaner.expect_head();
        }
        self.cleaner.clean(read, |head| {
            self.has_interim = true;
            if let (Some(relay), Some((status, fields))) = (&self.relay, parse_interim(head)) {
                relay.receive(status, fields);
            }
        });
        if !self.cleaner.is_active() {
            (self.relay, self.has_interim) = (None, false);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ResponseHeads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.relay.as_ref().is_some_and(|relay| relay.was_flooded()) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let filled = buffer.filled().len();
        let polled = match this.has_interim {
            true => poll_read_some(Pin::new(&mut this.stream), cx, buffer),
            false => Pin::new(&mut this.stream).poll_read(cx, buffer),
        };
        if let Some(read) = buffer.filled_mut().get_mut(filled..).filter(|read| !read.is_empty()) {
            this.look_at(read);
        }
        polled
    }
}

/// Reads at most [`HEAD_READ`].
fn poll_read_some<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let mut some = ReadBuf::new(buffer.initialize_unfilled_to(buffer.remaining().min(HEAD_READ)));
    let polled = stream.poll_read(cx, &mut some);
    let read = some.filled().len();
    buffer.advance(read);
    polled
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ResponseHeads<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
