//! The body of a response to the client.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::activity::MessageGuard;
use super::incoming_body::{IncomingBody, PeerError};
use super::origin_pools::ResponseGuard;
use super::request_record::RequestRecord;
use super::trailers::clean_trailers;

/// The body of a response to the client.
///
/// An enum instead of a boxed trait object: no allocation and no virtual call for each message.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: ResponseSource,
    /// The error that the content ended with. The server drops unwritten data, possibly even the head, when the body
    /// fails. So the error is returned by the next poll, after that data is written.
    delayed_error: Option<PeerError>,
    /// Dropped with the body.
    ending: Ending,
}

#[derive(Debug)]
enum ResponseSource {
    Full(Option<Bytes>),
    Origin(IncomingBody, Option<ResponseGuard>),
    Inspected(Box<InspectedContent>),
}

/// Content that has been read in advance, and the source of the rest.
#[derive(Debug)]
struct InspectedContent {
    data: Bytes,
    /// The trailers or the error that followed the data.
    end: Option<Result<Frame<Bytes>, PeerError>>,
    rest: ResponseSource,
    /// The origin server declared the content's length. Without one the response to the client must not declare one
    /// either, because a declared length leaves no room for trailers.
    has_length: bool,
}

/// Why content could not be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UninspectedReason {
    #[error("it is longer than 64 KiB")]
    TooLong,
    #[error("it did not arrive in time")]
    TooSlow,
    #[error("it is incomplete or damaged")]
    Broken,
    #[error("its content coding is unknown to bearerd")]
    UnknownCoding,
    #[error("it is an event stream")]
    EventStream,
}

impl UninspectedReason {
    /// The value of the metric's label `reason`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::TooLong => "long",
            Self::TooSlow => "slow",
            Self::Broken => "broken",
            Self::UnknownCoding => "coded",
            Self::EventStream => "stream",
        }
    }
}

/// How long content of a declared length may take to arrive. Clients can rarely use a part of it, so a delay costs
/// little.
const KNOWN_LENGTH_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for content of unknown length, which may be a stream that the client processes as it arrives.
const UNKNOWN_LENGTH_TIMEOUT: Duration = Duration::from_secs(1);

/// What ends with a body. The fields are dropped in this order.
#[derive(Debug, Default)]
struct Ending {
    record: Option<RequestRecord>,
    message_guard: Option<MessageGuard>,
    /// The last frame has been returned.
    is_complete: bool,
}

impl ResponseBody {
    /// An empty body.
    pub(super) fn empty() -> Self {
        Self::new(ResponseSource::Full(None))
    }

    /// Content that the proxy generated.
    pub(super) fn full(bytes: Bytes) -> Self {
        Self::new(ResponseSource::Full(Some(bytes)))
    }

    /// An origin server's content. At its end `guard` returns the connection to the pool.
    pub(super) fn from_origin(incoming: IncomingBody, guard: ResponseGuard) -> Self {
        let mut body = Self::new(ResponseSource::Origin(incoming, Some(guard)));
        body.source.complete_at_end();
        body
    }

    fn new(source: ResponseSource) -> Self {
        Self { source, delayed_error: None, ending: Ending::default() }
    }

    /// Finishes the request's record and its use of the client's connection when this body is dropped.
    pub(super) fn with_ending(
        mut self,
        message_guard: MessageGuard,
        record: RequestRecord,
    ) -> Self {
        self.ending =
            Ending { record: Some(record), message_guard: Some(message_guard), is_complete: false };
        self
    }

    /// Reads the content in advance and returns it, if it is at most `limit` bytes long and arrives in time.
    ///
    /// In any case this body still yields all of the content from its beginning, byte for byte, and its trailers.
    ///
    /// # Errors
    ///
    /// [`UninspectedReason`] if the content is too long, too slow or broken.
    pub(super) async fn inspect(&mut self, limit: usize) -> Result<Bytes, UninspectedReason> {
        let length = self.size_hint().exact();
        if length.is_some_and(|length| usize::try_from(length).is_ok_and(|it| it > limit)) {
            return Err(UninspectedReason::TooLong);
        }
        let timeout = if length.is_some() { KNOWN_LENGTH_TIMEOUT } else { UNKNOWN_LENGTH_TIMEOUT };
        let (mut data, mut end) = (BytesMut::new(), None);
        let reading = async {
            while let Some(frame) = poll_fn(|cx| self.source.poll_frame(cx)).await {
                match frame.map(Frame::into_data) {
                    Ok(Ok(piece)) => data.extend_from_slice(&piece),
                    Ok(Err(trailers)) => end = Some(Ok(trailers)),
                    Err(error) => {
                        end = Some(Err(error));
                        return Err(UninspectedReason::Broken);
                    }
                }
                if data.len() > limit {
                    return Err(UninspectedReason::TooLong);
                }
            }
            Ok(())
        };
        let read =
            tokio::time::timeout(timeout, reading).await.unwrap_or(Err(UninspectedReason::TooSlow));
        let data = data.freeze();
        let rest = std::mem::replace(&mut self.source, ResponseSource::Full(None));
        let rest = if read.is_ok() { ResponseSource::Full(None) } else { rest };
        self.source = ResponseSource::Inspected(Box::new(InspectedContent {
            data: data.clone(),
            end,
            rest,
            has_length: length.is_some(),
        }));
        read.map(|()| data)
    }
}

impl ResponseSource {
    fn complete_at_end(&mut self) {
        if let Self::Origin(incoming, guard) = self
            && incoming.is_end_stream()
            && let Some(guard) = guard.take()
        {
            guard.complete();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PeerError>>> {
        match self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Origin(incoming, guard) => {
                let mut polled = Pin::new(&mut *incoming).poll_frame(cx);
                match &mut polled {
                    Poll::Ready(None) => {
                        if let Some(guard) = guard.take() {
                            guard.complete();
                        }
                    }
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            clean_trailers(trailers);
                        }
                        self.complete_at_end();
                    }
                    Poll::Ready(Some(Err(_))) | Poll::Pending => {}
                }
                polled
            }
            Self::Inspected(content) => {
                let data = std::mem::take(&mut content.data);
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                match content.end.take() {
                    Some(end) => Poll::Ready(Some(end)),
                    None => content.rest.poll_frame(cx),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Origin(incoming, _) => incoming.is_end_stream(),
            Self::Inspected(content) => content.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Origin(incoming, _) => incoming.size_hint(),
            Self::Inspected(content) => content.size_hint(),
        }
    }
}

impl InspectedContent {
    fn is_end_stream(&self) -> bool {
        let is_read = self.data.is_empty() && self.end.is_none();
        is_read && self.has_length && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (read, rest) = (self.data.len() as u64, self.rest.size_hint());
        let mut size = SizeHint::new();
        size.set_lower(rest.lower() + read);
        if let (true, Some(upper)) = (self.has_length, rest.upper()) {
            size.set_upper(upper + read);
        }
        size
    }
}

/// A body that is dropped before its end is incomplete, whichever side caused that.
impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.ending.is_complete || self.is_end_stream() {
            return;
        }
        let limit = self.ending.message_guard.as_ref().and_then(MessageGuard::mark_truncated);
        if let Some(record) = &mut self.ending.record {
            record.mark_broken(limit);
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = PeerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PeerError>>> {
        let this = self.get_mut();
        if let Some(error) = this.delayed_error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = this.source.poll_frame(cx);
        match polled {
            Poll::Ready(Some(Err(error))) => {
                if let Some(record) = &mut this.ending.record {
                    record.record_content_error(&error);
                }
                this.delayed_error = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(ref frame))) => {
                let sent = frame.data_ref().map_or(0, Bytes::len);
                this.ending.is_complete |= frame.is_trailers();
                if let Some(record) = &mut this.ending.record {
                    record.add_sent_bytes(sent);
                }
            }
            Poll::Ready(None) => this.ending.is_complete = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.delayed_error.is_none() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}
