//! Clients' connections: what each is doing, and what ends one that does too little.
//!
//! A timer for every request would cost more than all the rest of bearerd's own work, so there are
//! none. Each connection has an [`Activity`], a few atomic numbers that it updates as bytes pass; once a
//! second a [`Watchdog`] compares them with the limits and aborts what has overstayed: heads that
//! do not come to an end, idle keep-alive connections, silent tunnels. Draining uses the same
//! list: idle connections are closed, busy ones answer with `Connection: close`.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// How often the watchdog looks; the precision of its limits.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks while the process waits for it.
const DRAIN_TICK: Duration = Duration::from_millis(20);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Waiting for a request.
    Idle,
    /// A head has begun and is not whole.
    Head,
    /// Serving a request.
    Busy,
    /// Setting up a session after CONNECT.
    Handshake,
    /// Relaying bytes.
    Tunnel,
    /// A response is over for the origin server, and its last bytes are on their way to the client.
    Flushing,
}

impl Phase {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::Head,
            2 => Self::Busy,
            3 => Self::Handshake,
            4 => Self::Tunnel,
            _ => Self::Flushing,
        }
    }
}

/// One connection's doings.
pub(super) struct Activity {
    phase: AtomicU8,
    /// Requests under way; more than one only in HTTP/2.
    requests: AtomicU32,
    /// HTTP/2 has frames of its own between requests: they begin no head.
    multiplexed: AtomicBool,
    /// The watchdog's tick at the last change.
    since: AtomicU32,
    ticks: Arc<AtomicU32>,
    task: OnceLock<AbortHandle>,
}

impl Activity {
    /// Enters a phase.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        self.since.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    /// A head is whole: the connection is busy until the response is over but for what is still in
    /// buffers, or the client has given the request up.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.enter(Phase::Busy);
        Serving(Arc::clone(self))
    }

    /// Are requests under way?
    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    fn request_ended(&self) {
        if self.requests.fetch_sub(1, Ordering::Relaxed) == 1 && self.phase() == Phase::Busy {
            self.enter(Phase::Flushing);
        }
    }

    /// Nothing is in buffers any more: after a response, the connection waits for the next request.
    fn flushed(&self) {
        if self.phase() == Phase::Flushing {
            self.enter(Phase::Idle);
        }
    }

    /// From here on the connection speaks HTTP/2.
    pub(super) fn is_multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    fn read(&self) {
        match self.phase() {
            Phase::Idle | Phase::Flushing if self.multiplexed.load(Ordering::Relaxed) => {}
            Phase::Idle | Phase::Flushing => self.enter(Phase::Head),
            Phase::Tunnel => self.touch(),
            Phase::Head | Phase::Busy | Phase::Handshake => {}
        }
    }

    fn written(&self) {
        if self.phase() != Phase::Head {
            self.touch();
        }
    }

    /// Names the task to abort when the connection overstays.
    pub(super) fn is_run_by(&self, task: AbortHandle) {
        // A connection is run by one task; a second name could only be a bug.
        let _already = self.task.set(task);
    }
}

/// A request under way; dropped when it is over, however it ends.
#[derive(Debug)]
pub(super) struct Serving(Arc<Activity>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Activity({:?})", self.phase())
    }
}

/// How long a connection may stay in each phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) idle: Duration,
    pub(super) head: Duration,
    pub(super) handshake: Duration,
    pub(super) tunnel: Duration,
}

impl Patience {
    fn for_phase(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Idle | Phase::Flushing => Some(self.idle),
            Phase::Head => Some(self.head),
            Phase::Handshake => Some(self.handshake),
            Phase::Tunnel => Some(self.tunnel),
            // Bounded by the origin's timeouts.
            Phase::Busy => None,
        }
    }
}

/// Looks after the connections of one core.
#[derive(Debug)]
pub(super) struct Watchdog {
    ticks: Arc<AtomicU32>,
    draining: AtomicBool,
    /// For connections that have to be told: those of HTTP/2.
    drains: CancellationToken,
    watched: Mutex<Vec<Arc<Activity>>>,
}

impl Watchdog {
    pub(super) fn new() -> Self {
        Self {
            ticks: Arc::new(AtomicU32::new(0)),
            draining: AtomicBool::new(false),
            drains: CancellationToken::new(),
            watched: Mutex::default(),
        }
    }

    /// A new connection in `phase`; it is forgotten when the last `Arc` elsewhere is dropped.
    pub(super) fn watch(&self, phase: Phase) -> Arc<Activity> {
        let activity = Arc::new(Activity {
            phase: AtomicU8::new(phase as u8),
            requests: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            since: AtomicU32::new(self.ticks.load(Ordering::Relaxed)),
            ticks: Arc::clone(&self.ticks),
            task: OnceLock::new(),
        });
        self.lock().push(Arc::clone(&activity));
        activity
    }

    /// Has the end begun? Then responses say `Connection: close`.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Resolves when the end has begun.
    pub(super) fn drains(&self) -> WaitForCancellationFuture<'_> {
        self.drains.cancelled()
    }

    /// Runs until it is dropped; `each_tick` says how patient it is to be.
    pub(super) async fn run(&self, each_tick: impl Fn() -> Patience) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            self.ticks.fetch_add(1, Ordering::Relaxed);
            self.sweep(&each_tick());
        }
    }

    fn sweep(&self, patience: &Patience) {
        let now = self.ticks.load(Ordering::Relaxed);
        self.lock().retain(|activity| {
            if Arc::strong_count(activity) == 1 {
                return false;
            }
            let stayed = now.wrapping_sub(activity.since.load(Ordering::Relaxed));
            match patience.for_phase(activity.phase()) {
                Some(limit) if u64::from(stayed) > limit.as_secs() => end(activity),
                _ => true,
            }
        });
    }

    /// Closes what is idle and waits until the rest is done. Aborting the rest is the caller's.
    pub(super) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.drains.cancel();
        let mut interval = tokio::time::interval(DRAIN_TICK);
        while !self.close_idle() {
            interval.tick().await;
        }
    }

    /// Closes what is idle; says whether nothing else is left.
    fn close_idle(&self) -> bool {
        let mut watched = self.lock();
        watched.retain(|activity| {
            Arc::strong_count(activity) > 1 && (activity.phase() != Phase::Idle || end(activity))
        });
        watched.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Activity>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Aborts the connection's task; keeps watching one that has not named its task yet.
fn end(activity: &Activity) -> bool {
    match activity.task.get() {
        Some(task) => {
            task.abort();
            false
        }
        None => true,
    }
}

/// A client's socket, of either kind.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            ClientStream::Tcp($inner) => $call,
            ClientStream::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// A stream that reports what passes to an [`Activity`], and may begin with bytes read before.
#[derive(Debug)]
pub(super) struct Watched<S> {
    before: bytes::Bytes,
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, before: bytes::Bytes, activity: Arc<Activity>) -> Self {
        Self { before, stream, activity }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if !this.before.is_empty() {
            let length = this.before.len().min(buf.remaining());
            buf.put_slice(&this.before.split_to(length));
            this.activity.read();
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if polled.is_ready() && buf.filled().len() > filled {
            this.activity.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if polled.is_ready() {
            this.activity.written();
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        if polled.is_ready() {
            this.activity.flushed();
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        if polled.is_ready() {
            this.activity.written();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
