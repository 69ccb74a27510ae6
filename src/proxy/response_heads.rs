//! A stream below hyper that cleans the heads of an origin server's responses before they are parsed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::HeadCleaner;

/// What is read at a time between an interim response and the response: a server may send interim responses
/// without an end, and whatever is read is parsed at once.
const HEAD_READ: usize = 8 * 1024;

/// What is known about the response that comes next.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadExpected(Arc<Expected>);

#[derive(Debug, Default)]
struct Expected {
    /// The next bytes begin a response.
    begins: AtomicBool,
    /// An interim response has come, and the response has not.
    awaited: AtomicBool,
    /// No more of it is wanted.
    given_up: AtomicBool,
}

impl HeadExpected {
    pub(super) fn expect(&self) {
        self.0.begins.store(true, Ordering::Relaxed);
    }

    /// An interim response has come, and the response has not; or it has.
    pub(super) fn is_awaited(&self, is_awaited: bool) {
        self.0.awaited.store(is_awaited, Ordering::Relaxed);
    }

    /// Nothing more is read from this connection.
    pub(super) fn give_up(&self) {
        self.0.given_up.store(true, Ordering::Relaxed);
    }
}

/// A stream whose response heads are clean.
#[derive(Debug)]
pub(super) struct ResponseHeads<S> {
    stream: S,
    expected: HeadExpected,
    cleaner: HeadCleaner,
}

impl<S> ResponseHeads<S> {
    pub(super) fn of(stream: S, expected: HeadExpected) -> Self {
        Self { stream, expected, cleaner: HeadCleaner::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ResponseHeads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buffer.filled().len();
        let polled = match this.expected.0.awaited.load(Ordering::Relaxed) {
            _ if this.expected.0.given_up.load(Ordering::Relaxed) => {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            true => poll_read_some(Pin::new(&mut this.stream), cx, buffer),
            false => Pin::new(&mut this.stream).poll_read(cx, buffer),
        };
        if let Some(read) = buffer.filled_mut().get_mut(filled..).filter(|read| !read.is_empty()) {
            if this.expected.0.begins.swap(false, Ordering::Relaxed) {
                this.cleaner.expect_head();
            }
            this.cleaner.clean(read);
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
