//! How many sockets towards origin servers there may be, for all cores together.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::proxy::origin_error::OriginError;

/// How many sockets towards origin servers there may be.
#[derive(Clone, Debug)]
pub(super) struct SocketBudget(Arc<Semaphore>);

impl SocketBudget {
    pub(super) fn new(sockets: usize) -> Self {
        Self(Arc::new(Semaphore::new(sockets.min(Semaphore::MAX_PERMITS))))
    }

    /// Are all in use? Then idle ones are closed for those who wait.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.available_permits() == 0
    }

    /// A place for one socket, as soon as there is one.
    ///
    /// # Errors
    ///
    /// [`OriginError::NoDescriptor`] at `deadline`.
    pub(super) async fn obtain(
        &self,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, OriginError> {
        let waiting = timeout_at(deadline, Arc::clone(&self.0).acquire_owned()).await;
        waiting.ok().and_then(Result::ok).ok_or(OriginError::NoDescriptor)
    }
}

/// A connection to an origin server, and its place in the budget.
#[derive(Debug)]
pub(in crate::proxy) struct OriginSocket {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl OriginSocket {
    pub(super) fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        Self { stream, _place: place }
    }

    #[cfg(test)]
    pub(super) fn peer(&self) -> std::net::IpAddr {
        self.stream.peer_addr().expect("it is connected").ip()
    }
}

impl AsyncRead for OriginSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for OriginSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
