//! A stream below hyper's HTTP/1.1 client that cleans response heads before hyper parses them, and relays interim
//! responses.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head_sanitizer::HeadSanitizer;
use super::interim::{InterimRelay, parse_interim};

/// The most bytes read at a time after an interim response. A server may send interim responses endlessly, and
/// everything that is read is parsed at once.
const HEAD_READ: usize = 8 * 1024;

/// Shared by the sender of requests and the stream: tells the stream that a response comes next, and which relay gets
/// the interim responses before it.
#[derive(Clone, Debug, Default)]
pub(super) struct ResponseExpectation(Arc<Mutex<Option<Arc<InterimRelay>>>>);

impl ResponseExpectation {
    /// Announces that the next bytes begin a response.
    pub(super) fn expect(&self, relay: &Arc<InterimRelay>) {
        *self.lock() = Some(Arc::clone(relay));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<InterimRelay>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that cleans response heads and relays interim responses.
///
/// hyper can report interim responses itself, but that costs several allocations for each request.
#[derive(Debug)]
pub(super) struct ResponseHeadStream<S> {
    stream: S,
    expectation: ResponseExpectation,
    cleaner: HeadSanitizer,
    /// The relay of the request that waits for its response.
    relay: Option<Arc<InterimRelay>>,
    /// An interim response has arrived, but not the final one.
    has_interim: bool,
}

impl<S> ResponseHeadStream<S> {
    pub(super) fn new(stream: S, expectation: ResponseExpectation) -> Self {
        let cleaner = HeadSanitizer::default();
        Self { stream, expectation, cleaner, relay: None, has_interim: false }
    }

    fn process(&mut self, read: &mut [u8]) {
        if let Some(relay) = self.expectation.lock().take() {
            (self.relay, self.has_interim) = (Some(relay), false);
            self.cleaner.expect_head();
        }
        self.cleaner.sanitize(read, |head| {
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

impl<S: AsyncRead + Unpin> AsyncRead for ResponseHeadStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.relay.as_ref().is_some_and(|relay| relay.has_too_many()) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let filled = buffer.filled().len();
        let polled = match this.has_interim {
            true => poll_read_limited(Pin::new(&mut this.stream), cx, buffer),
            false => Pin::new(&mut this.stream).poll_read(cx, buffer),
        };
        if let Some(read) = buffer.filled_mut().get_mut(filled..).filter(|read| !read.is_empty()) {
            this.process(read);
        }
        polled
    }
}

/// Reads at most [`HEAD_READ`] bytes.
fn poll_read_limited<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let mut limited =
        ReadBuf::new(buffer.initialize_unfilled_to(buffer.remaining().min(HEAD_READ)));
    let polled = stream.poll_read(cx, &mut limited);
    let read = limited.filled().len();
    buffer.advance(read);
    polled
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ResponseHeadStream<S> {
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
