//! Reads the response of an origin server that closes the connection before it has read the request.
//!
//! A server may reject a request by its head, respond and close without reading the content; many gateways send 401
//! this way. Writing more content then fails with a reset. On Linux the response is still in the receive buffer, but
//! hyper gives up at the first failed write, before it reads. The 401 would be lost, and no refresh would follow. A
//! client should watch for such a response while it sends (RFC 9112 §9.5).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that discards writes after a reset instead of failing them.
///
/// The reader still gets everything that arrived before the reset, and then the end of the stream or an error.
#[derive(Debug)]
pub(super) struct ResetTolerantStream<S> {
    stream: S,
    is_reset: bool,
}

impl<S> ResetTolerantStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, is_reset: false }
    }

    /// Turns a reset into `success` and returns any other result unchanged.
    fn ignore_reset<T>(&mut self, result: io::Result<T>, success: T) -> Poll<io::Result<T>> {
        match result {
            Err(error) if is_reset(&error) => {
                self.is_reset = true;
                Poll::Ready(Ok(success))
            }
            result => Poll::Ready(result),
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted)
}

impl<S: AsyncRead + Unpin> AsyncRead for ResetTolerantStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ResetTolerantStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_reset {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.ignore_reset(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.is_reset {
            return Poll::Ready(Ok(length));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        self.ignore_reset(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_reset {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        self.ignore_reset(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_reset {
            return Poll::Ready(Ok(()));
        }
        let shut = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
        self.ignore_reset(shut, ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_response_before_a_reset_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut client = ResetTolerantStream::new(client);
        client.write_all(b"content that is never read").await.unwrap();
        server.readable().await.unwrap();
        server.write_all(b"401").await.unwrap();
        // Closing with unread content sends a reset.
        drop(server);
        for _ in 0..1000 {
            client.write_all(&[0; 1024]).await.unwrap();
        }
        client.flush().await.unwrap();
        assert!(client.is_reset, "no write met the reset");
        let mut response = Vec::new();
        client.read_to_end(&mut response).await.unwrap();
        assert_eq!(response, b"401");
        client.shutdown().await.unwrap();
    }
}
