//! How far the upload of a request's content has come, and which peer has to act next.
//!
//! The client's content (`client_content.rs`), the body that is sent to the origin server (`request_body.rs`), its
//! HTTP/2 stream (`http2/client.rs`) and the relay of 100 (Continue) (`interim.rs`) report here. The task that waits
//! for the response (`origin_connection.rs`) reads it to choose the timeout that applies.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// The progress of one request's upload, over all attempts to send the request.
#[derive(Debug)]
pub(super) struct UploadProgress {
    created: Instant,
    /// When the stage last changed or data last moved, in milliseconds after `created`.
    last_progress: AtomicU64,
    /// The client's content has been read, at least in part.
    has_started: AtomicBool,
    is_too_large: AtomicBool,
    /// The next data has to come from the client.
    needs_client_data: AtomicBool,
    /// All of the content has been handed to the connection.
    is_complete: AtomicBool,
    /// HTTP/2 flow control may still block content that was handed over. HTTP/1.1 does not report this.
    is_flow_blocked: AtomicBool,
    /// The client sent `Expect: 100-continue`, and the origin server has not sent 100 yet.
    awaits_continue: AtomicBool,
    reader: AtomicWaker,
}

/// The event that an upload waits for. Each one has a timeout of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadStage {
    /// The origin server has to send 100 (Continue).
    Continue,
    /// The client has to send more content.
    ClientData,
    /// The origin server has to read more content.
    OriginRead,
    /// The origin server has all of the content and has to respond.
    Response,
}

impl Default for UploadProgress {
    fn default() -> Self {
        Self {
            created: Instant::now(),
            last_progress: AtomicU64::new(0),
            has_started: AtomicBool::new(false),
            is_too_large: AtomicBool::new(false),
            needs_client_data: AtomicBool::new(false),
            is_complete: AtomicBool::new(false),
            is_flow_blocked: AtomicBool::new(false),
            awaits_continue: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        }
    }
}

impl UploadProgress {
    /// Starts over, because the request is sent from its beginning on a connection. What has been read from the client
    /// stays read.
    pub(super) fn restart(&self) {
        for state in [&self.needs_client_data, &self.is_complete, &self.is_flow_blocked] {
            state.store(false, Ordering::Relaxed);
        }
        self.note_progress();
    }

    /// Records one poll of the content: whether it was pending, and whether it returned the end.
    pub(super) fn record_poll(&self, is_pending: bool, is_complete: bool) {
        let was_pending = self.needs_client_data.swap(is_pending, Ordering::Relaxed);
        if !is_pending || !was_pending {
            self.note_progress();
        }
        self.is_complete.store(is_complete, Ordering::Relaxed);
    }

    fn note_progress(&self) {
        let elapsed = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_progress.store(elapsed, Ordering::Relaxed);
    }

    /// Returns the current stage and the time of the last progress.
    pub(super) fn stage(&self) -> (UploadStage, Instant) {
        let is_set = |state: &AtomicBool| state.load(Ordering::Relaxed);
        let stage = match (is_set(&self.is_complete), is_set(&self.needs_client_data)) {
            _ if self.awaits_continue() => UploadStage::Continue,
            (true, _) if !is_set(&self.is_flow_blocked) => UploadStage::Response,
            (false, true) => UploadStage::ClientData,
            _ => UploadStage::OriginRead,
        };
        let last_progress = Duration::from_millis(self.last_progress.load(Ordering::Relaxed));
        (stage, self.created + last_progress)
    }

    /// Records that data of the client's content has been read.
    pub(super) fn mark_started(&self) {
        self.has_started.store(true, Ordering::Relaxed);
    }

    /// Records that the content exceeds `limits.body_bytes`.
    pub(super) fn mark_too_large(&self) {
        self.is_too_large.store(true, Ordering::Relaxed);
    }

    /// Returns true if the content exceeded `limits.body_bytes`.
    pub(super) fn is_too_large(&self) -> bool {
        self.is_too_large.load(Ordering::Relaxed)
    }

    /// Records that HTTP/2 flow control may block the content until [`UploadProgress::mark_unblocked`].
    pub(super) fn mark_flow_blocked(&self) {
        self.is_flow_blocked.store(true, Ordering::Relaxed);
    }

    /// Records that the origin server's flow-control window had room for the rest of the content.
    pub(super) fn mark_unblocked(&self) {
        self.note_progress();
        self.is_flow_blocked.store(false, Ordering::Relaxed);
    }

    /// Returns true if the content must not be read until the origin server sends 100 (Continue).
    pub(super) fn awaits_continue(&self) -> bool {
        self.awaits_continue.load(Ordering::Relaxed)
    }

    /// Holds the content back until [`UploadProgress::allow`], unless some of it has been read already.
    pub(super) fn await_continue(&self) {
        self.awaits_continue.store(!self.has_started.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Lets the content be read, because the origin server asked for it or took too long to ask.
    pub(super) fn allow(&self) {
        if self.awaits_continue.swap(false, Ordering::Relaxed) {
            self.note_progress();
            self.reader.wake();
        }
    }

    /// Resolves when the content may be read.
    pub(super) fn poll_allowed(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.awaits_continue() {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        // `allow` may have run before the waker was registered.
        if self.awaits_continue() { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_of_an_upload_selects_its_stage() {
        let progress = UploadProgress::default();
        let stage = || progress.stage().0;
        progress.await_continue();
        assert_eq!(stage(), UploadStage::Continue);
        progress.allow();
        progress.record_poll(true, false);
        assert_eq!(stage(), UploadStage::ClientData);
        progress.record_poll(false, false);
        assert_eq!(stage(), UploadStage::OriginRead);
        progress.mark_flow_blocked();
        progress.record_poll(false, true);
        assert_eq!(stage(), UploadStage::OriginRead, "the window is closed");
        progress.mark_unblocked();
        assert_eq!(stage(), UploadStage::Response);
        progress.restart();
        assert_eq!(stage(), UploadStage::OriginRead, "the next attempt starts over");
    }

    #[test]
    fn content_that_has_been_read_does_not_wait_for_100_continue() {
        let progress = UploadProgress::default();
        progress.mark_started();
        progress.await_continue();
        assert!(!progress.awaits_continue(), "waits although content was read");
    }
}
