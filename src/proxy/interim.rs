//! Interim (1xx) responses from an origin server to the client (RFC 9110 §15.2).
//!
//! Over HTTP/2 they are sent on the request's stream. hyper's HTTP/1.1 server writes exactly one response for each
//! request, so there interim responses wait in a queue, which `http1_stream.rs`, below hyper, writes between hyper's
//! messages.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use h2::server::SendResponse;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use httparse::Status;

use super::fields::remove_connection_fields;
use super::upload_progress::UploadProgress;

/// Where the interim responses to a client's request are sent.
#[derive(Clone, Debug)]
pub(super) enum InterimSink {
    Http1(Arc<InterimQueue>),
    Http2(SharedSendResponse),
}

impl InterimSink {
    /// Sends an interim response. `fields` must be free of connection-specific fields.
    pub(super) fn send(&self, status: StatusCode, fields: &HeaderMap) {
        match self {
            Self::Http1(queue) => queue.push(status, fields),
            Self::Http2(stream) => stream.send(status, Some(fields)),
        }
    }

    /// Sets whether interim responses are accepted. Over HTTP/1.1 they are only valid before the response of the
    /// current request.
    pub(super) fn set_open(&self, is_open: bool) {
        if let Self::Http1(queue) = self {
            queue.is_open.store(is_open, Ordering::Relaxed);
        }
    }
}

/// The sending side of a client's HTTP/2 stream before the final response.
#[derive(Clone)]
pub(super) struct SharedSendResponse(Arc<Mutex<SendResponse<Bytes>>>);

impl SharedSendResponse {
    pub(super) fn new(stream: SendResponse<Bytes>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    pub(super) fn send(&self, status: StatusCode, fields: Option<&HeaderMap>) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields.cloned().unwrap_or_default();
        // If the stream is closed, nobody needs the interim response.
        let _closed = self.lock().send_informational(response);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SendResponse<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for SharedSendResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSendResponse")
    }
}

/// Interim responses that wait to be written to an HTTP/1.1 client.
#[derive(Debug, Default)]
pub(super) struct InterimQueue {
    is_open: AtomicBool,
    has_bytes: AtomicBool,
    bytes: Mutex<BytesMut>,
    writer: AtomicWaker,
}

impl InterimQueue {
    fn push(&self, status: StatusCode, fields: &HeaderMap) {
        if !self.is_open.load(Ordering::Relaxed) {
            return;
        }
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        write_head(&mut bytes, status, fields);
        self.has_bytes.store(true, Ordering::Relaxed);
        self.writer.wake();
    }

    /// Registers the task that writes the queue. It is woken by each new response.
    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.writer.register(waker);
    }

    /// Removes and returns the bytes to write.
    pub(super) fn take(&self) -> BytesMut {
        match self.has_bytes.swap(false, Ordering::Relaxed) {
            true => std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)),
            false => BytesMut::new(),
        }
    }
}

/// Appends the head of a response to `bytes` (RFC 9112 §4).
pub(super) fn write_head(bytes: &mut BytesMut, status: StatusCode, fields: &HeaderMap) {
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to memory cannot fail.
    let _infallible = write!(bytes, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
    for (name, value) in fields {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
}

/// Parses the whole head of an interim response.
///
/// Returns `None` if it is malformed. hyper detects that as well and closes the connection.
pub(super) fn parse_interim(head: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_INTERIM_FIELDS];
    let mut response = httparse::Response::new(&mut lines);
    let mut config = httparse::ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true);
    config.parse_response(&mut response, head).ok().filter(Status::is_complete)?;
    let status = StatusCode::from_u16(response.code?).ok()?;
    let fields = response.headers.iter().filter_map(|line| {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        // A folded line is joined (RFC 9112 §5.2).
        let unfold = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
        let value: Vec<u8> = line.value.iter().map(unfold).collect();
        Some((name, HeaderValue::from_bytes(&value).ok()?))
    });
    Some((status, fields.collect()))
}

/// The most fields an interim response may have. One with more is not relayed.
const MAX_INTERIM_FIELDS: usize = 256;

/// The most interim responses to one request. More would let an origin server waste the proxy's time.
const MAX_INTERIM: u32 = 16;

/// Relays the interim responses to one request, from an HTTP/1.1 or an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct InterimRelay {
    /// `None` if the client speaks HTTP/1.0, which has no interim responses.
    client: Option<InterimSink>,
    /// The upload that 100 (Continue) starts, or `None` if the request has no content.
    upload: Option<Arc<UploadProgress>>,
    count: AtomicU32,
    /// The task that waits for the response.
    receiver: AtomicWaker,
}

impl InterimRelay {
    pub(super) fn new(client: Option<InterimSink>, upload: Option<Arc<UploadProgress>>) -> Self {
        Self { client, upload, count: AtomicU32::new(0), receiver: AtomicWaker::new() }
    }

    /// Handles an interim response of the origin server.
    pub(super) fn receive(&self, status: StatusCode, mut fields: HeaderMap) {
        if self.count.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIM {
            self.receiver.wake();
            return;
        }
        match (status, &self.client) {
            // Reading the content makes the proxy send its own 100 to the client.
            (StatusCode::CONTINUE, _) => {
                if let Some(upload) = &self.upload {
                    upload.allow();
                }
            }
            (_, Some(client)) => {
                remove_connection_fields(&mut fields);
                // RFC 9110 §8.6.
                fields.remove(CONTENT_LENGTH);
                client.send(status, &fields);
            }
            (_, None) => {}
        }
    }

    /// Returns true if the origin server sent too many interim responses, even if a final response followed.
    pub(super) fn has_too_many(&self) -> bool {
        self.count.load(Ordering::Relaxed) > MAX_INTERIM
    }

    /// Resolves when the origin server has sent too many interim responses.
    pub(super) async fn too_many(&self) {
        std::future::poll_fn(|cx| {
            self.receiver.register(cx.waker());
            if self.has_too_many() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_100_continue_starts_an_upload_that_waits_for_it() {
        let upload = Arc::new(UploadProgress::default());
        upload.await_continue();
        let relay = InterimRelay::new(None, Some(Arc::clone(&upload)));
        relay.receive(StatusCode::EARLY_HINTS, HeaderMap::new());
        assert!(upload.awaits_continue(), "103 started the upload");
        relay.receive(StatusCode::CONTINUE, HeaderMap::new());
        assert!(!upload.awaits_continue(), "100 did not start the upload");
    }

    #[test]
    fn an_interim_head_is_parsed_as_leniently_as_a_response_head() {
        for (head, expected) in [
            ("HTTP/1.1 103 Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\n", Some((103, "</a>,</b>"))),
            ("HTTP/1.1 102\r\nLink : x\r\n\r\n", Some((102, "x"))),
            ("HTTP/1.1 100 Continue\n\n", Some((100, ""))),
            ("HTTP/1.1 103 Hints\r\nLink: a\r\n b\r\n\r\n", Some((103, "a   b"))),
            ("HTTP/1.1 103 Hints\r\nLink\r\n\r\n", None),
            ("HTTP/1.1 103 Hints\r\nLink: x\r\n", None),
            ("HTTP/3 103 Hints\r\n\r\n", None),
            ("", None),
        ] {
            let read = parse_interim(head.as_bytes());
            let links = |fields: &HeaderMap| {
                let links = fields.get_all("link").iter();
                links.map(|link| link.to_str().unwrap_or("?")).collect::<Vec<_>>().join(",")
            };
            let read = read.map(|(status, fields)| (status.as_u16(), links(&fields)));
            let expected = expected.map(|(status, links)| (status, links.to_owned()));
            assert_eq!(read, expected, "{head:?}");
        }
    }
}
