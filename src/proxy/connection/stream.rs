//! A client's socket, and what passes over it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::Activity;

/// A client's socket, of either kind.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            ClientStream::Tcp($inner) => $call,
            ClientStream::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl ClientStream {
    /// Lets the client see a reset when the stream is dropped, and not the end of something that was whole.
    fn reset_on_drop(&self) {
        let reset = match self {
            Self::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            // A unix socket knows no reset.
            Self::Unix(_) => Ok(()),
        };
        if let Err(error) = reset {
            tracing::debug!(%error, "a connection that broke off could not be reset");
        }
    }
}

/// A client's stream that reports what passes to an [`Activity`], and may begin with bytes read before.
#[derive(Debug)]
pub(in crate::proxy) struct MonitoredStream {
    before: Bytes,
    /// `None` once it has been taken out.
    stream: Option<ClientStream>,
    activity: Arc<Activity>,
    /// Bytes that came from the client, and that went to it.
    passed: (u64, u64),
}

impl MonitoredStream {
    pub(in crate::proxy) fn new(
        stream: ClientStream,
        before: Bytes,
        activity: Arc<Activity>,
    ) -> Self {
        Self { before, stream: Some(stream), activity, passed: (0, 0) }
    }

    pub(in crate::proxy) fn into_inner(mut self) -> Option<ClientStream> {
        self.stream.take()
    }

    /// Bytes that came from the client, and that went to it.
    pub(in crate::proxy) fn passed(&self) -> (u64, u64) {
        self.passed
    }

    fn stream(&mut self) -> std::io::Result<Pin<&mut ClientStream>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    fn note_read(&mut self, bytes: usize) {
        if bytes > 0 {
            self.passed.0 += bytes as u64;
            self.activity.read();
        }
    }

    fn note_written(&mut self, polled: &Poll<std::io::Result<usize>>) {
        match polled {
            Poll::Ready(written) => {
                self.passed.1 += written.as_ref().map_or(0, |bytes| *bytes) as u64;
                self.activity.written();
            }
            Poll::Pending => self.activity.blocked(),
        }
    }
}

/// What broke off is not to look like the whole: an answer that ends with its connection, or with TLS' silence.
impl Drop for MonitoredStream {
    fn drop(&mut self) {
        if self.activity.broken.load(Ordering::Relaxed)
            && let Some(stream) = &self.stream
        {
            stream.reset_on_drop();
        }
    }
}

impl AsyncRead for MonitoredStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if !this.before.is_empty() {
            let length = this.before.len().min(buf.remaining());
            buf.put_slice(&this.before.split_to(length));
            this.note_read(length);
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let polled = this.stream()?.poll_read(cx, buf);
        this.note_read(buf.filled().len() - filled);
        polled
    }
}

impl AsyncWrite for MonitoredStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.stream()?.poll_write(cx, bytes);
        this.note_written(&polled);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let polled = this.stream()?.poll_flush(cx);
        if polled.is_ready() {
            this.activity.flushed();
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.stream()?.poll_write_vectored(cx, slices);
        this.note_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
