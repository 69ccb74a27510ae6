//! Response bodies: complete, streamed by a task, generated, or cut short.
//!
//! A streamed body ends when its sender is dropped. It fails when the sender sends an
//! error: hyper then closes the connection in the middle of the message.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::line::Line;

/// The response body type of this crate.
pub(crate) type Payload = BoxBody<Bytes, io::Error>;

/// The sender of a streamed body.
pub(crate) type Feed = mpsc::Sender<io::Result<Frame<Bytes>>>;

/// Builds a response from its parts.
///
/// # Panics
///
/// Panics if the status or a header is invalid in HTTP, which is a mistake in the test.
pub(crate) fn response(
    status: u16,
    headers: &[(String, String)],
    body: Payload,
) -> Response<Payload> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder.body(body).expect("a valid status and valid headers")
}

/// Builds a JSON response.
pub(crate) fn json(status: u16, value: &Value) -> Response<Payload> {
    let headers = [owned("content-type", "application/json")];
    response(status, &headers, full(value.to_string()))
}

/// Builds an owned header for a scripted answer.
pub(crate) fn owned(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Returns a complete body, which is sent with a Content-Length.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Payload {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Returns a body of unknown length, which ends when the returned feed is dropped.
pub(crate) fn streamed() -> (Feed, Payload) {
    let (feed, frames) = mpsc::channel(1);
    (feed, Streamed(frames).boxed())
}

struct Streamed(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

const PERIOD: u8 = 251;
const PIECE: usize = 256 * PERIOD as usize;

/// Returns the `length` bytes that the origin server sends for `/bytes/<length>`.
///
/// They count from 0 to 250 repeatedly: 251 is prime, so a lost, duplicated or moved piece of
/// any usual buffer size is detected.
pub fn pattern(length: usize) -> Bytes {
    (0..PERIOD).cycle().take(length).collect()
}

/// Returns a body of `length` pattern bytes that is never buffered as a whole.
pub(crate) fn generated(length: u64) -> Payload {
    let piece = pattern(PIECE);
    Generated { piece, left: length }.boxed()
}

struct Generated {
    piece: Bytes,
    left: u64,
}

impl Generated {
    fn next_piece(&mut self) -> Bytes {
        let length = self.left.min(PIECE as u64);
        self.left -= length;
        self.piece.slice(..length as usize)
    }
}

impl Body for Generated {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = (self.left > 0).then(|| Ok(Frame::data(self.next_piece())));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Returns a truncated body: the connection closes once `sent` is flushed.
///
/// The response must announce a greater Content-Length.
pub(crate) fn cut_short(sent: Bytes, line: Arc<Line>) -> Payload {
    let cut = CutShort { sent: Some(sent).filter(|sent| !sent.is_empty()), seen: None, line };
    cut.boxed()
}

struct CutShort {
    sent: Option<Bytes>,
    seen: Option<u64>,
    line: Arc<Line>,
}

impl CutShort {
    fn poll_flushed(&mut self, cx: &Context<'_>) -> Poll<()> {
        let now = self.line.poll_flushes(cx);
        let seen = *self.seen.get_or_insert(now);
        if now > seen { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Body for CutShort {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(sent) = self.sent.take() {
            return Poll::Ready(Some(Ok(Frame::data(sent))));
        }
        ready!(self.poll_flushed(cx));
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
    }
}

/// Returns a body after which the connection closes without `Connection: close`.
pub(crate) fn last_on(line: Arc<Line>, body: Payload) -> Payload {
    LastOn { body, line }.boxed()
}

struct LastOn {
    body: Payload,
    line: Arc<Line>,
}

impl Drop for LastOn {
    fn drop(&mut self) {
        self.line.close_once_flushed();
    }
}

impl Body for LastOn {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
