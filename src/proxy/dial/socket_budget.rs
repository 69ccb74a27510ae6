//! The limit on open sockets to origin servers, for all cores together.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::proxy::origin_error::OriginError;

/// Limits the number of open sockets to origin servers.
#[derive(Clone, Debug)]
pub(super) struct SocketBudget(Arc<Semaphore>);

impl SocketBudget {
    pub(super) fn new(sockets: usize) -> Self {
        Self(Arc::new(Semaphore::new(sockets.min(Semaphore::MAX_PERMITS))))
    }

    /// Returns true if all sockets are in use.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.available_permits() == 0
    }

    /// Waits for a permit for one socket.
    ///
    /// # Errors
    ///
    /// [`OriginError::NoDescriptor`] if there is none by `deadline`.
    pub(super) async fn acquire(
        &self,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, OriginError> {
        let waiting = timeout_at(deadline, Arc::clone(&self.0).acquire_owned()).await;
        waiting.ok().and_then(Result::ok).ok_or(OriginError::NoDescriptor)
    }
}

/// A connection to an origin server, with its permit.
#[derive(Debug)]
pub(in crate::proxy) struct OriginSocket {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl OriginSocket {
    pub(super) fn new(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        Self { stream, _permit: permit }
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
