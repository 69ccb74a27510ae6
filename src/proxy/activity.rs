//! What each client connection is doing, so that idle and stalled ones can be closed.
//!
//! A timer per request would cost more than the rest of bearerd's own work. Instead, each
//! connection and each HTTP/2 stream has an [`Activity`]: a few atomic numbers that are updated as
//! bytes pass. A [`Watchdog`] compares them with the timeouts once a second.

mod watchdog;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::task::AbortHandle;

pub(super) use watchdog::{ConnectionTimeouts, Watchdog};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ConnectionPhase {
    /// Waiting for a request.
    Idle,
    /// Reading a request head that is not complete.
    ReadingHead,
    /// A request waits for the head of its response.
    AwaitingResponse,
    /// Content is being transferred: the response's, or the rest of the request's.
    Content,
    /// Setting up the session that follows a CONNECT.
    Handshake,
    /// Relaying bytes.
    Tunnel,
    /// The last bytes of a response are being written to the client.
    Flushing,
    /// Everything has been sent. What the client still sends is read and discarded, so that no
    /// reset takes the response from it.
    Lingering,
}

impl ConnectionPhase {
    fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::ReadingHead,
            2 => Self::AwaitingResponse,
            3 => Self::Content,
            4 => Self::Handshake,
            5 => Self::Tunnel,
            6 => Self::Flushing,
            _ => Self::Lingering,
        }
    }
}

/// The state of one connection, or of one HTTP/2 stream, as the watchdog sees it.
pub(super) struct Activity {
    phase: AtomicU8,
    /// Messages in flight: each request until its response is complete, and its content if that
    /// takes longer.
    messages: AtomicU32,
    /// The connection speaks HTTP/2: bytes that arrive between requests need not begin a head.
    is_multiplexed: AtomicBool,
    /// The watchdog's tick at the last progress.
    last_progress: AtomicU32,
    /// The tick since which the client has read nothing of what is ready for it, plus one; 0 if it
    /// is not blocked.
    blocked_since: AtomicU32,
    /// The proxy is waiting for more of a request's content.
    is_awaiting_content: AtomicBool,
    /// The tick at which the client closed its sending side, plus one; 0 if it has not.
    half_closed_since: AtomicU32,
    /// The client sent bytes while the connection lingered: closing it now could reset it before
    /// the client has read the response.
    has_received_while_lingering: AtomicBool,
    /// No further request is served.
    is_close_requested: AtomicBool,
    /// What was sent is incomplete and must not look complete.
    is_truncated: AtomicBool,
    /// The limit because of which the connection was ended.
    exceeded_limit: OnceLock<&'static str>,
    ticks: Arc<AtomicU32>,
    /// Wakes the task that serves the connection.
    connection_waker: AtomicWaker,
    task: OnceLock<AbortHandle>,
}

impl Activity {
    fn new(phase: ConnectionPhase, ticks: Arc<AtomicU32>) -> Self {
        Self {
            phase: AtomicU8::new(phase as u8),
            messages: AtomicU32::new(0),
            is_multiplexed: AtomicBool::new(false),
            last_progress: AtomicU32::new(ticks.load(Ordering::Relaxed)),
            blocked_since: AtomicU32::new(0),
            is_awaiting_content: AtomicBool::new(false),
            half_closed_since: AtomicU32::new(0),
            has_received_while_lingering: AtomicBool::new(false),
            is_close_requested: AtomicBool::new(false),
            is_truncated: AtomicBool::new(false),
            exceeded_limit: OnceLock::new(),
            ticks,
            connection_waker: AtomicWaker::new(),
            task: OnceLock::new(),
        }
    }

    pub(super) fn set_phase(&self, phase: ConnectionPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.record_progress();
    }

    pub(super) fn phase(&self) -> ConnectionPhase {
        ConnectionPhase::from_u8(self.phase.load(Ordering::Relaxed))
    }

    /// Returns true if the next byte to arrive is the first of a request.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(self.phase(), ConnectionPhase::Idle | ConnectionPhase::Flushing)
    }

    fn record_progress(&self) {
        self.last_progress.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    // ===== Messages =====

    /// Records that a request's head is complete. The request is in flight until the guard is
    /// dropped: when its response has been handed over, or when the client has given it up.
    pub(super) fn start_request(self: &Arc<Self>) -> MessageGuard {
        let guard = self.start_message();
        self.set_phase(ConnectionPhase::AwaitingResponse);
        guard
    }

    /// Records that a message is in flight until the guard is dropped. A request's content has a
    /// guard of its own, because it may outlast the response.
    pub(super) fn start_message(self: &Arc<Self>) -> MessageGuard {
        self.messages.fetch_add(1, Ordering::Relaxed);
        MessageGuard(Arc::clone(self))
    }

    /// Records that a response head is being sent. On an HTTP/2 connection each stream has an
    /// activity of its own.
    pub(super) fn start_response(&self) {
        if !self.is_multiplexed.load(Ordering::Relaxed) {
            self.set_phase(ConnectionPhase::Content);
        }
    }

    fn end_message(&self) {
        if self.messages.fetch_sub(1, Ordering::Relaxed) == 1
            && matches!(self.phase(), ConnectionPhase::AwaitingResponse | ConnectionPhase::Content)
        {
            self.set_phase(ConnectionPhase::Flushing);
            self.wake_half_closed();
        }
    }

    /// Returns true if messages are in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.messages.load(Ordering::Relaxed) > 0
    }

    pub(super) fn set_multiplexed(&self) {
        self.is_multiplexed.store(true, Ordering::Relaxed);
    }

    /// Sets whether the proxy is waiting for more of a request's content.
    fn set_awaiting_content(&self, is_awaiting: bool) {
        self.is_awaiting_content.store(is_awaiting, Ordering::Relaxed);
        if is_awaiting {
            self.wake_half_closed();
        }
    }

    // ===== Bytes =====

    /// Records that bytes from the client were read.
    pub(super) fn record_read(&self) {
        match self.phase() {
            ConnectionPhase::Idle | ConnectionPhase::Flushing
                if self.is_multiplexed.load(Ordering::Relaxed) => {}
            ConnectionPhase::Idle | ConnectionPhase::Flushing => {
                self.set_phase(ConnectionPhase::ReadingHead);
            }
            ConnectionPhase::Tunnel | ConnectionPhase::Content => self.record_progress(),
            ConnectionPhase::Lingering => {
                self.has_received_while_lingering.store(true, Ordering::Relaxed);
            }
            ConnectionPhase::ReadingHead
            | ConnectionPhase::AwaitingResponse
            | ConnectionPhase::Handshake => {}
        }
    }

    /// Records that the client accepted bytes.
    pub(super) fn record_write(&self) {
        self.blocked_since.store(0, Ordering::Relaxed);
        if !matches!(self.phase(), ConnectionPhase::ReadingHead | ConnectionPhase::Lingering) {
            self.record_progress();
        }
    }

    /// Records that the client accepts no bytes although some are ready for it.
    pub(super) fn record_blocked(&self) {
        self.set_once(&self.blocked_since);
    }

    /// Records that nothing is left in buffers: after a response, the connection waits for the
    /// next request.
    pub(super) fn record_flushed(&self) {
        if self.phase() == ConnectionPhase::Flushing {
            self.set_phase(ConnectionPhase::Idle);
        }
    }

    /// Stores the current tick plus one, unless an earlier tick is stored.
    fn set_once(&self, time: &AtomicU32) {
        if time.load(Ordering::Relaxed) == 0 {
            let now = self.ticks.load(Ordering::Relaxed);
            time.store(now.wrapping_add(1).max(1), Ordering::Relaxed);
        }
    }

    // ===== The end of a connection =====

    /// Records that the client has closed its sending side.
    ///
    /// Returns true if hyper must not see that yet: the client may still be waiting for its
    /// response, unless content is missing.
    pub(super) fn mark_half_closed(&self) -> bool {
        self.set_once(&self.half_closed_since);
        self.is_busy() && !self.is_awaiting_content.load(Ordering::Relaxed)
    }

    fn wake_half_closed(&self) {
        if self.half_closed_since.load(Ordering::Relaxed) != 0 {
            self.connection_waker.wake();
        }
    }

    /// Asks the task that serves the connection to end it after the requests in flight.
    fn request_close(&self) {
        self.is_close_requested.store(true, Ordering::Relaxed);
        self.connection_waker.wake();
    }

    /// Resolves when no further request is to be served.
    pub(super) fn poll_close_requested(&self, cx: &Context<'_>) -> Poll<()> {
        self.connection_waker.register(cx.waker());
        match self.is_close_requested.load(Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Records that a message ended early. In HTTP/2 the reset of its stream says so.
    pub(super) fn mark_truncated(&self) {
        if !self.is_multiplexed.load(Ordering::Relaxed) {
            self.is_truncated.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.is_truncated.load(Ordering::Relaxed)
    }

    /// The limit because of which the connection was ended, if any.
    pub(super) fn exceeded_limit(&self) -> Option<&'static str> {
        self.exceeded_limit.get().copied()
    }

    /// Sets the task that is aborted when the connection exceeds a limit.
    pub(super) fn set_task(&self, task: AbortHandle) {
        // One task serves a connection, so this is called once.
        let _already_set = self.task.set(task);
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Activity({:?})", self.phase())
    }
}

/// A message in flight. Dropping it ends the message, for whatever reason.
#[derive(Debug)]
pub(super) struct MessageGuard(Arc<Activity>);

impl MessageGuard {
    /// Sets whether the proxy is waiting for more of the message's content.
    pub(super) fn set_awaiting_content(&self, is_awaiting: bool) {
        self.0.set_awaiting_content(is_awaiting);
    }

    /// Records that the message ended early. Returns the limit that ended it, if any.
    pub(super) fn mark_truncated(&self) -> Option<&'static str> {
        self.0.mark_truncated();
        self.0.exceeded_limit()
    }
}

impl Drop for MessageGuard {
    fn drop(&mut self) {
        self.0.end_message();
    }
}
