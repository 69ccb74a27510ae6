//! A client's socket, and the stream that reports its traffic to the watchdog.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::activity::Activity;

/// A client's socket.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls the method of whichever socket it is.
macro_rules! dispatch {
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
        dispatch!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        dispatch!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        dispatch!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        dispatch!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        dispatch!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl ClientStream {
    /// Makes the client see a reset when the stream is dropped, instead of an orderly end.
    fn reset_on_drop(&self) {
        let reset = match self {
            Self::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            // A Unix socket has no reset.
            Self::Unix(_) => Ok(()),
        };
        if let Err(error) = reset {
            tracing::debug!(%error, "a truncated connection could not be reset");
        }
    }
}

/// A client's stream that reports its traffic to an [`Activity`]. It may begin with bytes that
/// were read earlier.
#[derive(Debug)]
pub(super) struct MonitoredStream {
    read_ahead: Bytes,
    /// `None` once it has been taken.
    stream: Option<ClientStream>,
    activity: Arc<Activity>,
    received: u64,
    sent: u64,
}

impl MonitoredStream {
    pub(super) fn new(stream: ClientStream, read_ahead: Bytes, activity: Arc<Activity>) -> Self {
        Self { read_ahead, stream: Some(stream), activity, received: 0, sent: 0 }
    }

    pub(super) fn into_inner(mut self) -> Option<ClientStream> {
        self.stream.take()
    }

    /// The bytes received from the client and the bytes sent to it.
    pub(super) fn transferred(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    fn stream(&mut self) -> std::io::Result<Pin<&mut ClientStream>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    fn record_read(&mut self, bytes: usize) {
        if bytes > 0 {
            self.received += bytes as u64;
            self.activity.record_read();
        }
    }

    fn record_write(&mut self, polled: &Poll<std::io::Result<usize>>) {
        match polled {
            Poll::Ready(written) => {
                self.sent += written.as_ref().map_or(0, |bytes| *bytes) as u64;
                self.activity.record_write();
            }
            Poll::Pending => self.activity.record_blocked(),
        }
    }
}

/// A truncated message must not look complete: a response may end where its connection ends, and
/// some clients accept a TLS connection that ends without `close_notify`.
impl Drop for MonitoredStream {
    fn drop(&mut self) {
        if self.activity.is_truncated()
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
        if !this.read_ahead.is_empty() {
            let length = this.read_ahead.len().min(buf.remaining());
            buf.put_slice(&this.read_ahead.split_to(length));
            this.record_read(length);
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let polled = this.stream()?.poll_read(cx, buf);
        this.record_read(buf.filled().len() - filled);
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
        this.record_write(&polled);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let polled = this.stream()?.poll_flush(cx);
        if polled.is_ready() {
            this.activity.record_flushed();
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
        this.record_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
