//! Interim responses on their way to the client: 102, 103 and others that come before the response
//! (RFC 9110 §15.2).
//!
//! Over HTTP/2 they go out on the request's stream. hyper writes HTTP/1.1 and knows one response for each
//! request, so there they wait in a queue that a stream below hyper writes out between hyper's own messages.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::content::Upload;
use super::message::remove_connection_fields;

/// Where the interim responses to one request go.
#[derive(Clone, Debug)]
pub(super) enum Interim {
    Http1(Arc<InterimQueue>),
    Http2(SharedStream),
}

impl Interim {
    /// Passes an interim response on. `fields` are fit for the client.
    pub(super) fn send(&self, status: StatusCode, fields: &HeaderMap) {
        match self {
            Self::Http1(queue) => queue.push(status, fields),
            Self::Http2(stream) => stream.send(status, Some(fields)),
        }
    }

    /// From here on interim responses of the current request are taken, or not.
    pub(super) fn open(&self, is_open: bool) {
        if let Self::Http1(queue) = self {
            queue.is_open.store(is_open, Ordering::Relaxed);
        }
    }
}

/// A request's stream of HTTP/2 before its response.
#[derive(Clone)]
pub(super) struct SharedStream(pub(super) Arc<Mutex<SendResponse<Bytes>>>);

impl SharedStream {
    pub(super) fn new(stream: SendResponse<Bytes>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    pub(super) fn send(&self, status: StatusCode, fields: Option<&HeaderMap>) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields.cloned().unwrap_or_default();
        // A stream that is over needs no interim response.
        let _over =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).send_informational(response);
    }
}

impl std::fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedStream")
    }
}

/// Interim responses that wait to be written to a client of HTTP/1.1.
#[derive(Debug, Default)]
pub(super) struct InterimQueue {
    is_open: AtomicBool,
    waits: AtomicBool,
    bytes: Mutex<BytesMut>,
    connection: AtomicWaker,
}

impl InterimQueue {
    fn push(&self, status: StatusCode, fields: &HeaderMap) {
        if !self.is_open.load(Ordering::Relaxed) {
            return;
        }
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        write_head(&mut bytes, status, fields);
        self.waits.store(true, Ordering::Relaxed);
        self.connection.wake();
    }

    fn take(&self) -> BytesMut {
        match self.waits.swap(false, Ordering::Relaxed) {
            true => std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)),
            false => BytesMut::new(),
        }
    }
}

/// RFC 9112 §4.
fn write_head(bytes: &mut BytesMut, status: StatusCode, fields: &HeaderMap) {
    let reason = status.canonical_reason().unwrap_or("Informational");
    // Writing to memory does not fail.
    let _infallible = write!(bytes, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
    for (name, value) in fields {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
}

/// A client's stream, below hyper, that writes interim responses where no message of hyper's is under way.
#[derive(Debug)]
pub(super) struct WithInterim<S> {
    stream: S,
    queue: Arc<InterimQueue>,
    /// An interim response that is under way.
    begun: BytesMut,
    /// hyper has written something since it last had nothing to write.
    in_message: bool,
}

impl<S> WithInterim<S> {
    pub(super) fn new(stream: S, queue: Arc<InterimQueue>) -> Self {
        Self { stream, queue, begun: BytesMut::new(), in_message: false }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncWrite + Unpin> WithInterim<S> {
    fn poll_write_interim(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.begun.is_empty() && !self.in_message {
            self.begun = self.queue.take();
        }
        while !self.begun.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.begun))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.begun.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithInterim<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithInterim<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_write_interim(cx))?;
        self.in_message = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// hyper flushes when it has nothing more to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.in_message = false;
        self.queue.connection.register(cx.waker());
        ready!(self.poll_write_interim(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_write_interim(cx))?;
        self.in_message = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// More interim responses than this to one request are an attack on the proxy's time.
const MAX_INTERIM: u32 = 16;

/// What becomes of the interim responses to one request, wherever they come from.
#[derive(Debug)]
pub(super) struct InterimRelay {
    /// `None`: the client knows no interim responses.
    client: Option<Interim>,
    /// Goes on when the origin server asks for it.
    upload: Arc<Upload>,
    count: AtomicU32,
    flooded: Notify,
}

impl InterimRelay {
    pub(super) fn new(client: Option<Interim>, upload: Arc<Upload>) -> Self {
        Self { client, upload, count: AtomicU32::new(0), flooded: Notify::new() }
    }

    /// The origin server has sent an interim response.
    pub(super) fn receive(&self, status: StatusCode, fields: &HeaderMap) {
        if self.count.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIM {
            self.flooded.notify_one();
            return;
        }
        match (status, &self.client) {
            // The client's content asks the client when it is read.
            (StatusCode::CONTINUE, _) => self.upload.release(),
            (_, Some(client)) => {
                let mut fields = fields.clone();
                remove_connection_fields(&mut fields);
                client.send(status, &fields);
            }
            (_, None) => {}
        }
    }

    /// Were there too many, also if a response came at last?
    pub(super) fn was_flooded(&self) -> bool {
        self.count.load(Ordering::Relaxed) > MAX_INTERIM
    }

    /// Resolves when there were too many.
    pub(super) async fn is_flooded(&self) {
        self.flooded.notified().await;
    }

    /// The client's content.
    pub(super) fn upload(&self) -> &Upload {
        &self.upload
    }
}
