//! A request's content as it comes from the client: counted, limited, and held back while the client waits for
//! 100 (Continue).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::activity::{Activity, MessageGuard};
use super::incoming_body::{IncomingBody, PeerError};
use super::trailers::clean_trailers;
use super::upload_progress::UploadProgress;
use crate::credential::Credential;

/// A request's content as it comes from the client.
#[derive(Debug)]
pub(super) struct ClientContent {
    incoming: IncomingBody,
    /// Bytes that may still pass.
    remaining: u64,
    /// `None` if the request has no content.
    progress: Option<Arc<UploadProgress>>,
    /// The credential whose fields are removed from trailers.
    credential: Option<Arc<Credential>>,
    /// Kept until the content ends, which may be after the response.
    message_guard: Option<MessageGuard>,
}

/// Why the client's content ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    /// The client's connection failed.
    #[error(transparent)]
    Client(PeerError),
    /// The content is longer than `limits.body_bytes`.
    #[error("the content is larger than this proxy forwards")]
    TooLarge,
}

impl ClientContent {
    /// Wraps `incoming`. At most `limit` bytes pass; 0 means no limit.
    pub(super) fn new(incoming: IncomingBody, limit: u64, activity: &Arc<Activity>) -> Self {
        let remaining = if limit == 0 { u64::MAX } else { limit };
        let has_content = !is_complete(&incoming);
        let progress = has_content.then(Arc::default);
        let message_guard = has_content.then(|| activity.start_message());
        Self { incoming, remaining, progress, credential: None, message_guard }
    }

    /// Removes from trailers the fields that `credential` adds to requests.
    pub(super) fn set_credential(&mut self, credential: &Arc<Credential>) {
        self.credential = Some(Arc::clone(credential));
    }

    /// Returns the progress of the upload, or `None` if the request has no content.
    pub(super) fn progress(&self) -> Option<Arc<UploadProgress>> {
        self.progress.clone()
    }

    /// Tells the client's connection that no more content is needed for now.
    pub(super) fn stop_waiting(&self) {
        if let Some(message_guard) = &self.message_guard {
            message_guard.set_awaiting_content(false);
        }
    }

    fn record_poll(&mut self, is_pending: bool) {
        if let Some(message_guard) = &self.message_guard {
            message_guard.set_awaiting_content(is_pending);
        }
        if is_complete(&self.incoming) {
            self.message_guard = None;
        }
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), ContentError> {
        let Some(progress) = &self.progress else { return Ok(()) };
        progress.mark_started();
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(remaining) = self.remaining.checked_sub(length) else {
            progress.mark_too_large();
            return Err(ContentError::TooLarge);
        };
        self.remaining = remaining;
        Ok(())
    }

    fn clean(&self, frame: &mut Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
            if let Some(credential) = &self.credential {
                credential.injection.remove_lookalikes(trailers);
            }
        }
    }
}

impl HttpBody for ClientContent {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let this = self.get_mut();
        if let Some(progress) = &this.progress {
            ready!(progress.poll_allowed(cx));
        }
        let polled = Pin::new(&mut this.incoming).poll_frame(cx).map_err(ContentError::Client);
        this.record_poll(polled.is_pending());
        polled.map(|next| {
            next.map(|frame| {
                let mut frame = frame?;
                this.count(&frame)?;
                this.clean(&mut frame);
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Returns true if all of `content` has been read.
///
/// A declared length counts as well: HTTP/2 may send END_STREAM after the last byte, and HTTP/1.1 does not wait for
/// it.
pub(super) fn is_complete(content: &impl HttpBody) -> bool {
    content.is_end_stream() || content.size_hint().exact() == Some(0)
}
