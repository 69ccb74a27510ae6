//! Interim responses on their way to the client: 102, 103 and others that come before the response
//! (RFC 9110 §15.2).
//!
//! Over HTTP/2 they go out on the request's stream. hyper writes HTTP/1.1 and knows one response for each
//! request, so there they wait in a queue that a stream below hyper writes out between hyper's own messages.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};

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

    /// Wakes `waker` when there is something to write.
    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.connection.register(waker);
    }

    /// What is to be written.
    pub(super) fn take(&self) -> BytesMut {
        match self.waits.swap(false, Ordering::Relaxed) {
            true => std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)),
            false => BytesMut::new(),
        }
    }
}

/// A response's head (RFC 9112 §4).
pub(super) fn write_head(bytes: &mut BytesMut, status: StatusCode, fields: &HeaderMap) {
    let reason = status.canonical_reason().unwrap_or_default();
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
    /// Whoever waits for the response.
    waiting: AtomicWaker,
}

impl InterimRelay {
    pub(super) fn new(client: Option<Interim>, upload: Arc<Upload>) -> Self {
        Self { client, upload, count: AtomicU32::new(0), waiting: AtomicWaker::new() }
    }

    /// The origin server has sent an interim response.
    pub(super) fn receive(&self, status: StatusCode, fields: &HeaderMap) {
        if self.count.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIM {
            self.waiting.wake();
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
        std::future::poll_fn(|cx| {
            self.waiting.register(cx.waker());
            if self.was_flooded() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The client's content.
    pub(super) fn upload(&self) -> &Upload {
        &self.upload
    }
}
