//! The body of one attempt to send a request to an origin server.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::client_content::{ClientContent, ContentError, is_complete};
use super::exchange_completion::ExchangeCompletion;
use super::framing::ContentLength;
use super::origin_pools::ConnectionLease;
use super::replay::{ReplayBody, ReplayError};
use super::upload_progress::UploadProgress;

/// The body of one attempt. Dropping it before its end aborts the exchange, because a connection on which a request
/// is incomplete cannot be used again.
#[derive(Debug, Default)]
pub(super) struct RequestBody {
    source: RequestSource,
    /// `None` if there is nothing to send, or its end has been reported.
    completion: Option<Arc<ExchangeCompletion<ConnectionLease>>>,
    progress: Option<Arc<UploadProgress>>,
}

#[derive(Debug, Default)]
enum RequestSource {
    #[default]
    Empty,
    /// The client's content, which is not kept.
    Once(Box<ClientContent>),
    /// The client's content, which is kept so that it can be sent again.
    Replay(Box<ReplayBody<ClientContent>>),
    /// The content has been sent and was not kept.
    Unavailable,
}

impl RequestBody {
    /// A body that can be sent only once.
    pub(super) fn once(content: ClientContent) -> Self {
        let progress = content.progress();
        Self::new(RequestSource::Once(Box::new(content)), progress)
    }

    /// One pass over content that is kept.
    pub(super) fn replay(
        content: ReplayBody<ClientContent>,
        progress: Option<Arc<UploadProgress>>,
    ) -> Self {
        Self::new(RequestSource::Replay(Box::new(content)), progress)
    }

    fn new(source: RequestSource, progress: Option<Arc<UploadProgress>>) -> Self {
        Self { source, completion: Some(Arc::default()), progress }
    }

    /// A body that fails, because its content has been sent and was not kept.
    pub(super) fn unavailable() -> Self {
        Self { source: RequestSource::Unavailable, completion: None, progress: None }
    }

    /// Returns what is known about the content's length before it is sent.
    pub(super) fn content_length(&self) -> ContentLength {
        match (&self.source, self.size_hint().exact()) {
            (RequestSource::Empty, _) => ContentLength::None,
            (_, Some(length)) => ContentLength::Known(length),
            (_, None) => ContentLength::Unknown,
        }
    }

    /// Returns what tracks the end of the exchange, or `None` if there is nothing to send.
    pub(super) fn completion(&self) -> Option<Arc<ExchangeCompletion<ConnectionLease>>> {
        self.completion.clone()
    }

    /// Returns the progress of the upload, or `None` if there is nothing to send.
    pub(super) fn progress(&self) -> Option<Arc<UploadProgress>> {
        self.progress.clone()
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError<ContentError>>>> {
        match &mut self.source {
            RequestSource::Empty => Poll::Ready(None),
            RequestSource::Once(body) => {
                Pin::new(&mut **body).poll_frame(cx).map_err(ReplayError::Source)
            }
            RequestSource::Replay(body) => Pin::new(&mut **body).poll_frame(cx),
            RequestSource::Unavailable => Poll::Ready(Some(Err(ReplayError::NotKept))),
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = ReplayError<ContentError>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = this.poll_source(cx);
        let is_end = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || is_complete(this),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        // An error may only mean that this attempt is superseded. It must not change the progress of the next one.
        if let (Some(progress), false) =
            (&this.progress, matches!(polled, Poll::Ready(Some(Err(_)))))
        {
            progress.record_poll(polled.is_pending(), is_end);
        }
        if is_end && let Some(completion) = this.completion.take() {
            completion.complete_request();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            RequestSource::Empty => true,
            RequestSource::Once(body) => body.is_end_stream(),
            RequestSource::Replay(body) => body.is_end_stream(),
            RequestSource::Unavailable => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            RequestSource::Empty => SizeHint::with_exact(0),
            RequestSource::Once(body) => body.size_hint(),
            RequestSource::Replay(body) => body.size_hint(),
            RequestSource::Unavailable => SizeHint::new(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            completion.abort();
        }
    }
}
