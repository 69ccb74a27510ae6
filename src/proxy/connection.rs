//! Clients' connections: what each is doing, and what ends one that does too little.
//!
//! A timer for every request would cost more than all the rest of bearerd's own work, so there are
//! none. Each connection, and each stream of HTTP/2, has an [`Activity`], a few atomic numbers that it updates
//! as bytes pass; once a second a [`Watchdog`] compares them with the limits.

mod stream;
mod watchdog;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::task::AbortHandle;

pub(crate) use stream::ClientStream;
pub(super) use stream::MonitoredStream;
pub(super) use watchdog::{ConnectionTimeouts, Watchdog};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ConnectionPhase {
    /// Waiting for a request.
    Idle,
    /// A head has begun and is not whole.
    Head,
    /// A request waits for the head of its response.
    Busy,
    /// Content is on its way, of the response or still of the request.
    Content,
    /// Setting up a session after CONNECT.
    Handshake,
    /// Relaying bytes.
    Tunnel,
    /// The last bytes of a response are on their way to the client.
    Flushing,
    /// Everything is sent; what the client still sends is read and thrown away, so that it can read what it
    /// was sent.
    Lingering,
}

impl ConnectionPhase {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::Head,
            2 => Self::Busy,
            3 => Self::Content,
            4 => Self::Handshake,
            5 => Self::Tunnel,
            6 => Self::Flushing,
            _ => Self::Lingering,
        }
    }
}

/// What one connection, or one stream of HTTP/2, is doing.
pub(super) struct Activity {
    phase: AtomicU8,
    /// Messages under way: requests until their responses are over, and their content if that takes longer.
    messages: AtomicU32,
    /// HTTP/2 has frames of its own between requests: they begin no head.
    multiplexed: AtomicBool,
    /// The watchdog's tick at the last progress.
    since: AtomicU32,
    /// One more than the watchdog's tick when the client last took nothing of what is there for it; 0: it
    /// takes everything.
    blocked: AtomicU32,
    /// More of a request's content is waited for.
    wants_content: AtomicBool,
    /// One more than the watchdog's tick when the client ended what it sends while it was served; 0: it did not.
    half_closed: AtomicU32,
    /// The client sent something while the connection lingered: closing it now could take the response from it.
    discards: AtomicBool,
    /// No further request is served.
    closing: AtomicBool,
    /// What was sent is less than the whole, and must not look like the whole.
    broken: AtomicBool,
    /// The limit that ended the connection.
    cut: OnceLock<&'static str>,
    ticks: Arc<AtomicU32>,
    /// The task that serves the connection.
    server: AtomicWaker,
    task: OnceLock<AbortHandle>,
}

impl Activity {
    fn new(phase: ConnectionPhase, ticks: Arc<AtomicU32>) -> Self {
        Self {
            phase: AtomicU8::new(phase as u8),
            messages: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            since: AtomicU32::new(ticks.load(Ordering::Relaxed)),
            blocked: AtomicU32::new(0),
            wants_content: AtomicBool::new(false),
            half_closed: AtomicU32::new(0),
            discards: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            cut: OnceLock::new(),
            ticks,
            server: AtomicWaker::new(),
            task: OnceLock::new(),
        }
    }

    /// Enters a phase.
    pub(super) fn enter(&self, phase: ConnectionPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn phase(&self) -> ConnectionPhase {
        ConnectionPhase::of(self.phase.load(Ordering::Relaxed))
    }

    /// A head is whole: the connection is busy until the response is over but for what is still in
    /// buffers, or the client has given the request up.
    pub(super) fn serve(self: &Arc<Self>) -> MessageGuard {
        let serving = self.hold();
        self.enter(ConnectionPhase::Busy);
        serving
    }

    /// A request has content, which may outlast its response.
    pub(super) fn hold(self: &Arc<Self>) -> MessageGuard {
        self.messages.fetch_add(1, Ordering::Relaxed);
        MessageGuard(Arc::clone(self))
    }

    /// The head of the response goes out. On a connection of HTTP/2 each stream looks after its own.
    pub(super) fn answers(&self) {
        if !self.multiplexed.load(Ordering::Relaxed) {
            self.enter(ConnectionPhase::Content);
        }
    }

    /// Are requests under way?
    pub(super) fn is_busy(&self) -> bool {
        self.messages.load(Ordering::Relaxed) > 0
    }

    fn message_ended(&self) {
        if self.messages.fetch_sub(1, Ordering::Relaxed) == 1
            && matches!(self.phase(), ConnectionPhase::Busy | ConnectionPhase::Content)
        {
            self.enter(ConnectionPhase::Flushing);
            self.wake_half_closed();
        }
    }

    /// Nothing is in buffers any more: after a response, the connection waits for the next request.
    fn flushed(&self) {
        if self.phase() == ConnectionPhase::Flushing {
            self.enter(ConnectionPhase::Idle);
        }
    }

    /// From here on the connection speaks HTTP/2.
    pub(super) fn is_multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    fn read(&self) {
        match self.phase() {
            ConnectionPhase::Idle | ConnectionPhase::Flushing
                if self.multiplexed.load(Ordering::Relaxed) => {}
            ConnectionPhase::Idle | ConnectionPhase::Flushing => self.enter(ConnectionPhase::Head),
            ConnectionPhase::Tunnel | ConnectionPhase::Content => self.touch(),
            ConnectionPhase::Lingering => self.discards.store(true, Ordering::Relaxed),
            ConnectionPhase::Head | ConnectionPhase::Busy | ConnectionPhase::Handshake => {}
        }
    }

    /// The client took something.
    pub(super) fn written(&self) {
        self.blocked.store(0, Ordering::Relaxed);
        if !matches!(self.phase(), ConnectionPhase::Head | ConnectionPhase::Lingering) {
            self.touch();
        }
    }

    /// The client takes nothing of what is there for it.
    pub(super) fn blocked(&self) {
        self.note_time(&self.blocked);
    }

    /// Notes one more than the current tick, unless an earlier one is noted.
    fn note_time(&self, time: &AtomicU32) {
        if time.load(Ordering::Relaxed) == 0 {
            let now = self.ticks.load(Ordering::Relaxed);
            time.store(now.wrapping_add(1).max(1), Ordering::Relaxed);
        }
    }

    /// Content of a request is waited for, or no longer.
    fn wants_content(&self, wants: bool) {
        self.wants_content.store(wants, Ordering::Relaxed);
        if wants {
            self.wake_half_closed();
        }
    }

    /// The client will send no more. May that be kept from whoever serves it? It may be waiting for its answer
    /// all the same, unless content is missing.
    pub(super) fn half_close(&self) -> bool {
        self.note_time(&self.half_closed);
        self.is_busy() && !self.wants_content.load(Ordering::Relaxed)
    }

    fn wake_half_closed(&self) {
        if self.half_closed.load(Ordering::Relaxed) != 0 {
            self.server.wake();
        }
    }

    /// Is the next byte that comes the first of a request?
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(self.phase(), ConnectionPhase::Idle | ConnectionPhase::Flushing)
    }

    /// Asks whoever serves the connection to end it after what is under way.
    fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.server.wake();
    }

    /// Resolves when no further request is to be served.
    pub(super) fn poll_closing(&self, cx: &Context<'_>) -> Poll<()> {
        self.server.register(cx.waker());
        match self.closing.load(Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// A message broke off. In HTTP/2 the stream says so.
    pub(super) fn broke_off(&self) {
        if !self.multiplexed.load(Ordering::Relaxed) {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// The limit that ended the connection, if one did.
    pub(super) fn cut(&self) -> Option<&'static str> {
        self.cut.get().copied()
    }

    /// Names the task to abort when the connection overstays.
    pub(super) fn is_run_by(&self, task: AbortHandle) {
        // A connection is run by one task; a second name could only be a bug.
        let _already = self.task.set(task);
    }
}

/// A message under way; dropped when it is over, however it ends.
#[derive(Debug)]
pub(super) struct MessageGuard(Arc<Activity>);

impl MessageGuard {
    /// More of the content is waited for, or no longer.
    pub(super) fn wants_content(&self, wants: bool) {
        self.0.wants_content(wants);
    }

    /// The message broke off. The limit that ended it, if one did.
    pub(super) fn broke_off(&self) -> Option<&'static str> {
        self.0.broke_off();
        self.0.cut()
    }
}

impl Drop for MessageGuard {
    fn drop(&mut self) {
        self.0.message_ended();
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Activity({:?})", self.phase())
    }
}
