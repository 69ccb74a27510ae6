//! A response's content on its way to the client.
//!
//! An enum rather than a box: no allocation and no virtual call for each message.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::connection::MessageGuard;
use super::incoming_body::{IncomingBody, PeerError};
use super::origin_pools::ConnectionReturn;
use super::record::Record;
use super::trailers::clean_trailers;

/// A response's content on its way to the client.
#[derive(Debug)]
pub(super) struct Body {
    content: Content,
    /// What the content broke off with. Whoever writes the response drops at an error what it has not written yet,
    /// which may be the head: it comes after a pause, in which that is written.
    fault: Option<PeerError>,
    /// Finished when the body is: the access record and the connection's idle time.
    ending: Ending,
}

#[derive(Debug)]
enum Content {
    Full(Option<Bytes>),
    Origin(IncomingBody, Option<ConnectionReturn>),
    LookedAt(Box<LookedAt>),
}

/// Content that has been read, and what has not been read of it.
#[derive(Debug)]
struct LookedAt {
    data: Bytes,
    /// What ended the data: trailers, or an error.
    end: Option<Result<Frame<Bytes>, PeerError>>,
    rest: Content,
    /// The client is told the length only if the origin server has told it: what has none is framed in
    /// another way, which has room for trailers.
    has_length: bool,
}

/// Why nothing is known about what content says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    #[error("it is longer than 64 KiB")]
    Long,
    #[error("it did not come to its end in time")]
    Slow,
    #[error("it broke off, or is damaged")]
    Broken,
    #[error("it is in a content coding that bearerd does not know")]
    Coded,
    #[error("it is a stream of events")]
    Stream,
}

impl Unread {
    /// The word of the metrics.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::Coded => "coded",
            Self::Stream => "stream",
        }
    }
}

/// How long content of a known length may take to arrive. Nobody can do much with a part of it.
const WHOLE_TIME: Duration = Duration::from_secs(10);
/// The same for other content, which may be a stream that is meant to be seen as it comes.
const STREAM_TIME: Duration = Duration::from_secs(1);

/// What ends with a body: its order of fields is the order in which they are dropped.
#[derive(Debug, Default)]
struct Ending {
    record: Option<Record>,
    serving: Option<MessageGuard>,
    /// The last frame was there.
    is_over: bool,
}

impl Body {
    /// No content.
    pub(super) fn empty() -> Self {
        Self::new(Content::Full(None))
    }

    /// Content of this proxy's own.
    pub(super) fn full(bytes: Bytes) -> Self {
        Self::new(Content::Full(Some(bytes)))
    }

    /// An origin server's content; its connection goes back to the pool at the end.
    pub(super) fn of_origin(incoming: IncomingBody, returning: ConnectionReturn) -> Self {
        let mut body = Self::new(Content::Origin(incoming, Some(returning)));
        body.return_at_end();
        body
    }

    fn new(content: Content) -> Self {
        Self { content, fault: None, ending: Ending::default() }
    }

    /// Ties the end of this body to the request's record and to the client's connection.
    pub(super) fn ends(mut self, serving: MessageGuard, record: Record) -> Self {
        self.ending = Ending { record: Some(record), serving: Some(serving), is_over: false };
        self
    }

    /// Reads the content to look at it, if it is at most `limit` bytes long and comes soon. Whatever comes
    /// of it, this body goes on from its beginning, byte for byte, and with its trailers.
    ///
    /// # Errors
    ///
    /// [`Unread`] says why it is not known what the content says.
    pub(super) async fn look(&mut self, limit: usize) -> Result<Bytes, Unread> {
        let length = self.size_hint().exact();
        if length.is_some_and(|length| usize::try_from(length).is_ok_and(|it| it > limit)) {
            return Err(Unread::Long);
        }
        let within = if length.is_some() { WHOLE_TIME } else { STREAM_TIME };
        let (mut data, mut end) = (BytesMut::new(), None);
        let reading = async {
            while let Some(frame) = poll_fn(|cx| self.content.poll_frame(cx)).await {
                match frame.map(Frame::into_data) {
                    Ok(Ok(piece)) => data.extend_from_slice(&piece),
                    Ok(Err(trailers)) => end = Some(Ok(trailers)),
                    Err(error) => {
                        end = Some(Err(error));
                        return Err(Unread::Broken);
                    }
                }
                if data.len() > limit {
                    return Err(Unread::Long);
                }
            }
            Ok(())
        };
        let read = tokio::time::timeout(within, reading).await.unwrap_or(Err(Unread::Slow));
        let data = data.freeze();
        let rest = std::mem::replace(&mut self.content, Content::Full(None));
        let rest = if read.is_ok() { Content::Full(None) } else { rest };
        self.content = Content::LookedAt(Box::new(LookedAt {
            data: data.clone(),
            end,
            rest,
            has_length: length.is_some(),
        }));
        read.map(|()| data)
    }

    fn return_at_end(&mut self) {
        self.content.return_at_end();
    }
}

impl Content {
    fn return_at_end(&mut self) {
        if let Self::Origin(incoming, returning) = self
            && incoming.is_end_stream()
            && let Some(returning) = returning.take()
        {
            returning.done();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PeerError>>> {
        match self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Origin(incoming, returning) => {
                let mut polled = Pin::new(&mut *incoming).poll_frame(cx);
                match &mut polled {
                    Poll::Ready(None) => {
                        if let Some(returning) = returning.take() {
                            returning.done();
                        }
                    }
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            clean_trailers(trailers);
                        }
                        self.return_at_end();
                    }
                    Poll::Ready(Some(Err(_))) | Poll::Pending => {}
                }
                polled
            }
            Self::LookedAt(looked_at) => {
                let data = std::mem::take(&mut looked_at.data);
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                match looked_at.end.take() {
                    Some(end) => Poll::Ready(Some(end)),
                    None => looked_at.rest.poll_frame(cx),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Origin(incoming, _) => incoming.is_end_stream(),
            Self::LookedAt(looked_at) => looked_at.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Origin(incoming, _) => incoming.size_hint(),
            Self::LookedAt(looked_at) => looked_at.size_hint(),
        }
    }
}

impl LookedAt {
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

/// A body that is dropped before its end has broken off, whoever's doing that was.
impl Drop for Body {
    fn drop(&mut self) {
        if self.ending.is_over || self.is_end_stream() {
            return;
        }
        let limit = self.ending.serving.as_ref().and_then(MessageGuard::broke_off);
        if let Some(record) = &mut self.ending.record {
            record.broke_off(limit);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = PeerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PeerError>>> {
        let this = self.get_mut();
        if let Some(fault) = this.fault.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        let polled = this.content.poll_frame(cx);
        match polled {
            Poll::Ready(Some(Err(fault))) => {
                if let Some(record) = &mut this.ending.record {
                    record.content_is_faulty(&fault);
                }
                this.fault = Some(fault);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(ref frame))) => {
                let sent = frame.data_ref().map_or(0, Bytes::len);
                this.ending.is_over |= frame.is_trailers();
                if let Some(record) = &mut this.ending.record {
                    record.sent(sent);
                }
            }
            Poll::Ready(None) => this.ending.is_over = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.fault.is_none() && self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
