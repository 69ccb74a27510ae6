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
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use httparse::Status;

use super::content::Upload;
use super::fields::remove_connection_fields;

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

/// Reads the whole head of an interim response. `None`: it is malformed, which hyper finds as well and ends the
/// connection for.
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
        // A folded line becomes one (RFC 9112 §5.2).
        let unfold = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
        let value: Vec<u8> = line.value.iter().map(unfold).collect();
        Some((name, HeaderValue::from_bytes(&value).ok()?))
    });
    Some((status, fields.collect()))
}

/// As many as a response may have by default; an interim response with more is not passed on.
const MAX_INTERIM_FIELDS: usize = 256;

/// More interim responses than this to one request are an attack on the proxy's time.
const MAX_INTERIM: u32 = 16;

/// What becomes of the interim responses to one request, wherever they come from.
#[derive(Debug)]
pub(super) struct InterimRelay {
    /// `None`: the client knows no interim responses.
    client: Option<Interim>,
    /// Goes on when the origin server asks for it; `None`: there is no content.
    upload: Option<Arc<Upload>>,
    count: AtomicU32,
    /// Whoever waits for the response.
    waiting: AtomicWaker,
}

impl InterimRelay {
    pub(super) fn new(client: Option<Interim>, upload: Option<Arc<Upload>>) -> Self {
        Self { client, upload, count: AtomicU32::new(0), waiting: AtomicWaker::new() }
    }

    /// The origin server has sent an interim response.
    pub(super) fn receive(&self, status: StatusCode, mut fields: HeaderMap) {
        if self.count.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIM {
            self.waiting.wake();
            return;
        }
        match (status, &self.client) {
            // The client's content asks the client when it is read.
            (StatusCode::CONTINUE, _) => self.release(),
            (_, Some(client)) => {
                remove_connection_fields(&mut fields);
                // RFC 9110 §8.6.
                fields.remove(CONTENT_LENGTH);
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

    /// The client's content, if there is some.
    pub(super) fn upload(&self) -> Option<&Arc<Upload>> {
        self.upload.as_ref()
    }

    /// The content need not wait for the origin server any longer.
    pub(super) fn release(&self) {
        if let Some(upload) = &self.upload {
            upload.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_held_until_the_origin_server_asks_and_for_no_other_word() {
        let upload = Arc::new(Upload::default());
        upload.hold();
        let relay = InterimRelay::new(None, Some(Arc::clone(&upload)));
        relay.receive(StatusCode::EARLY_HINTS, HeaderMap::new());
        assert!(upload.is_held());
        relay.receive(StatusCode::CONTINUE, HeaderMap::new());
        assert!(!upload.is_held());
    }

    #[test]
    fn an_interim_head_is_read_as_leniently_as_a_response_or_not_at_all() {
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
