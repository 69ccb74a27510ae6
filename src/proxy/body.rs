//! A response's content on its way to the client.
//!
//! An enum rather than a box: no allocation and no virtual call for each message.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::Serving;
use super::origins::Returning;
use super::record::Record;

/// A response's content on its way to the client.
#[derive(Debug)]
pub(super) struct Body {
    content: Content,
    /// Finished when the body is: the access record and the connection's idle time.
    ending: Ending,
}

#[derive(Debug)]
enum Content {
    Full(Option<Bytes>),
    Origin(Incoming, Option<Returning>),
    LookedAt(Box<LookedAt>),
}

/// Content that has been read, and what has not been read of it.
#[derive(Debug)]
struct LookedAt {
    read: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    rest: Content,
}

/// What ends with a body: its order of fields is the order in which they are dropped.
#[derive(Debug, Default)]
struct Ending {
    record: Option<Record>,
    _serving: Option<Serving>,
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
    pub(super) fn of_origin(incoming: Incoming, returning: Returning) -> Self {
        let mut body = Self::new(Content::Origin(incoming, Some(returning)));
        body.return_at_end();
        body
    }

    fn new(content: Content) -> Self {
        Self { content, ending: Ending::default() }
    }

    /// Ties the end of this body to the request's record and to the client's connection.
    pub(super) fn ends(mut self, serving: Serving, record: Record) -> Self {
        self.ending = Ending { record: Some(record), _serving: Some(serving) };
        self
    }

    /// Reads the content, which is short, to look at it; `None` if it does not come to its end in
    /// time. Either way this body goes on from its beginning, byte for byte.
    pub(super) async fn look(&mut self, within: Duration) -> Option<Bytes> {
        let mut read = VecDeque::new();
        let reading = async {
            while let Some(frame) = http_body_util::BodyExt::frame(self).await {
                read.push_back(frame);
            }
        };
        let ended = tokio::time::timeout(within, reading).await.is_ok();
        let rest = std::mem::replace(&mut self.content, Content::Full(None));
        let rest = if ended { Content::Full(None) } else { rest };
        let whole = ended && read.iter().all(Result::is_ok);
        let data = read.iter().flatten().filter_map(Frame::data_ref).map(Bytes::as_ref);
        let content = whole.then(|| Bytes::from(data.collect::<Vec<_>>().concat()));
        self.content = Content::LookedAt(Box::new(LookedAt { read, rest }));
        content
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
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Origin(incoming, returning) => {
                let polled = Pin::new(&mut *incoming).poll_frame(cx);
                match &polled {
                    Poll::Ready(None) => {
                        if let Some(returning) = returning.take() {
                            returning.done();
                        }
                    }
                    Poll::Ready(Some(Ok(_))) => self.return_at_end(),
                    Poll::Ready(Some(Err(_))) | Poll::Pending => {}
                }
                polled
            }
            Self::LookedAt(looked_at) => match looked_at.read.pop_front() {
                Some(frame) => Poll::Ready(Some(frame)),
                None => looked_at.rest.poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Origin(incoming, _) => incoming.is_end_stream(),
            Self::LookedAt(looked_at) => {
                looked_at.read.is_empty() && looked_at.rest.is_end_stream()
            }
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
    fn size_hint(&self) -> SizeHint {
        let data = self.read.iter().flatten().filter_map(Frame::data_ref);
        let read: u64 = data.map(|data| data.len() as u64).sum();
        let mut size = self.rest.size_hint();
        if let Some(upper) = size.upper() {
            size.set_upper(upper + read);
        }
        size.set_lower(size.lower() + read);
        size
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = this.content.poll_frame(cx);
        if let (Some(record), Poll::Ready(Some(frame))) = (&mut this.ending.record, &polled) {
            match frame {
                Ok(frame) => record.sent(frame.data_ref().map_or(0, Bytes::len)),
                Err(_) => record.broke_off(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
