//! A stream below hyper that cleans the heads of an origin server's responses before they are parsed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::HeadCleaner;

/// Says that the next bytes from the origin server begin a response.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadExpected(Arc<AtomicBool>);

impl HeadExpected {
    pub(super) fn expect(&self) {
        self.0.store(true, Ordering::Relaxed);
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
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Some(read) = buffer.filled_mut().get_mut(filled..).filter(|read| !read.is_empty()) {
            if this.expected.0.swap(false, Ordering::Relaxed) {
                this.cleaner.expect_head();
            }
            this.cleaner.clean(read);
        }
        polled
    }
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
