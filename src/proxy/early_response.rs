//! Hearing an origin server out that has stopped listening.
//!
//! A server may reject a request by its head, answer and close without reading the content: that is how
//! many gateways say 401. Content still on its way then meets a reset. What the server said before that
//! lies in the receive buffer (so it is on Linux), but hyper gives up at the first failed write, before it
//! reads: the 401 would be lost, and with it the refresh. A client has to look out for such an answer while
//! it sends (RFC 9112 §9.5).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream on which a reset ends what is written at once, and what is read only after all that came before.
///
/// What is written after a reset goes nowhere, and no error says so: reading tells, by an answer or by the
/// end.
#[derive(Debug)]
pub(super) struct EarlyResponse<S> {
    stream: S,
    is_reset: bool,
}

impl<S> EarlyResponse<S> {
    pub(super) fn of(stream: S) -> Self {
        Self { stream, is_reset: false }
    }

    /// Takes a reset for a success of this `length`, and any other result as it is.
    fn absorb<T>(&mut self, result: io::Result<T>, success: T) -> Poll<io::Result<T>> {
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

impl<S: AsyncRead + Unpin> AsyncRead for EarlyResponse<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EarlyResponse<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_reset {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.absorb(written, bytes.len())
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
        self.absorb(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_reset {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        self.absorb(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_reset {
            return Poll::Ready(Ok(()));
        }
        let shut = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
        self.absorb(shut, ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_a_server_said_before_it_reset_the_connection_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut client = EarlyResponse::of(client);
        client.write_all(b"content that is never read").await.unwrap();
        server.readable().await.unwrap();
        server.write_all(b"401").await.unwrap();
        // Closed with content unread: that is a reset.
        drop(server);
        for _ in 0..1000 {
            client.write_all(&[0; 1024]).await.unwrap();
        }
        client.flush().await.unwrap();
        assert!(client.is_reset);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"401");
        client.shutdown().await.unwrap();
    }
}
