//! Compares every connection with the timeouts once a second. Draining uses the same list.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::{Activity, ConnectionPhase};

/// The interval between checks, and so the precision of the timeouts.
const TICK: Duration = Duration::from_secs(1);
/// The interval between checks while the process is waiting for connections to end.
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// Ticks that a client has to close its connection after it was asked to.
const CLOSE_TICKS: u32 = 5;

/// How long a connection may stay in a phase without progress.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct ConnectionTimeouts {
    pub(in crate::proxy) idle: Duration,
    pub(in crate::proxy) head: Duration,
    pub(in crate::proxy) handshake: Duration,
    pub(in crate::proxy) tunnel: Duration,
    pub(in crate::proxy) send: Duration,
    /// Zero: no limit.
    pub(in crate::proxy) stall: Duration,
}

/// What happens to a connection whose timeout has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeoutAction {
    /// Close it as after a complete exchange.
    Close,
    /// Abort it, and count and log the limit that it exceeded.
    AbortFor(&'static str),
    /// Abort it. No limit was exceeded that an operator needs to know of.
    Abort,
}

impl ConnectionTimeouts {
    fn of(&self, phase: ConnectionPhase) -> Option<(Duration, TimeoutAction)> {
        use TimeoutAction::{Abort, AbortFor, Close};
        match phase {
            ConnectionPhase::Idle | ConnectionPhase::Flushing => Some((self.idle, Close)),
            ConnectionPhase::ReadingHead => Some((self.head, AbortFor("header_read_timeout"))),
            ConnectionPhase::Handshake => Some((self.handshake, AbortFor("handshake_timeout"))),
            ConnectionPhase::Tunnel => Some((self.tunnel, AbortFor("tunnel_idle_timeout"))),
            ConnectionPhase::Content if self.stall.is_zero() => None,
            ConnectionPhase::Content => Some((self.stall, AbortFor("stall_timeout"))),
            ConnectionPhase::Lingering => Some((self.send, Abort)),
            // The timeouts of the origin connection apply.
            ConnectionPhase::AwaitingResponse => None,
        }
    }
}

/// Ends the connections of one core that exceed a timeout.
#[derive(Debug)]
pub(in crate::proxy) struct Watchdog {
    ticks: Arc<AtomicU32>,
    is_draining: AtomicBool,
    /// Tells HTTP/2 connections to send GOAWAY.
    drain_token: CancellationToken,
    activities: Mutex<Vec<Arc<Activity>>>,
}

impl Watchdog {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            ticks: Arc::new(AtomicU32::new(0)),
            is_draining: AtomicBool::new(false),
            drain_token: CancellationToken::new(),
            activities: Mutex::default(),
        }
    }

    /// Registers a new connection or stream in `phase`. It is removed when the last `Arc` held
    /// elsewhere is dropped.
    pub(in crate::proxy) fn register(&self, phase: ConnectionPhase) -> Arc<Activity> {
        let activity = Arc::new(Activity::new(phase, Arc::clone(&self.ticks)));
        self.lock().push(Arc::clone(&activity));
        activity
    }

    /// Returns true if the process is draining, so that responses say `Connection: close`.
    pub(in crate::proxy) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Resolves when the process begins to drain.
    pub(in crate::proxy) fn drain_started(&self) -> WaitForCancellationFuture<'_> {
        self.drain_token.cancelled()
    }

    /// Runs until it is dropped. `each_tick` returns the timeouts, and `on_abort` is called with the
    /// exceeded limit for each connection that is aborted.
    pub(in crate::proxy) async fn run(
        &self,
        each_tick: impl Fn() -> ConnectionTimeouts,
        on_abort: impl Fn(&'static str),
    ) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            self.ticks.fetch_add(1, Ordering::Relaxed);
            self.sweep(&each_tick(), &on_abort);
        }
    }

    fn sweep(&self, timeouts: &ConnectionTimeouts, on_abort: &impl Fn(&'static str)) {
        self.lock().retain(|activity| {
            if Arc::strong_count(activity) == 1 {
                return false;
            }
            match self.timeout_action(activity, timeouts) {
                None => true,
                Some(TimeoutAction::Close) => {
                    activity.request_close();
                    true
                }
                Some(TimeoutAction::AbortFor(limit)) => {
                    abort(activity, Some(limit));
                    on_abort(limit);
                    false
                }
                Some(TimeoutAction::Abort) => {
                    abort(activity, None);
                    false
                }
            }
        });
    }

    fn timeout_action(
        &self,
        activity: &Activity,
        timeouts: &ConnectionTimeouts,
    ) -> Option<TimeoutAction> {
        if self.ticks_since(&activity.blocked_since).is_some_and(|it| exceeds(it, timeouts.send)) {
            return Some(TimeoutAction::AbortFor("send_timeout"));
        }
        if self.ticks_half_closed(activity).is_some_and(|ticks| exceeds(ticks, timeouts.idle)) {
            return Some(TimeoutAction::Abort);
        }
        let (limit, action) = timeouts.of(activity.phase())?;
        let elapsed = self.ticks_without_progress(activity);
        if !exceeds(elapsed, limit) {
            return None;
        }
        // An HTTP/2 client may keep its connection open although it was asked to close it.
        let was_asked = action == TimeoutAction::Close
            && exceeds(elapsed.saturating_sub(CLOSE_TICKS), limit)
            && activity.phase() == ConnectionPhase::Idle;
        Some(if was_asked { TimeoutAction::Abort } else { action })
    }

    /// The ticks since `time`, which holds a tick plus one, or 0 for none.
    fn ticks_since(&self, time: &AtomicU32) -> Option<u32> {
        let stored = time.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.ticks.load(Ordering::Relaxed).wrapping_sub(stored))
    }

    /// The ticks since the client closed its sending side, if its request is still waiting for a
    /// response. The client may have gone away, so the idle timeout applies to it.
    fn ticks_half_closed(&self, activity: &Activity) -> Option<u32> {
        let is_waiting = activity.phase() == ConnectionPhase::AwaitingResponse;
        self.ticks_since(&activity.half_closed_since).filter(|_| is_waiting)
    }

    fn ticks_without_progress(&self, activity: &Activity) -> u32 {
        let now = self.ticks.load(Ordering::Relaxed);
        now.wrapping_sub(activity.last_progress.load(Ordering::Relaxed))
    }

    /// Closes idle connections and waits for the others to end. The caller aborts what is left.
    pub(in crate::proxy) async fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.drain_token.cancel();
        let mut interval = tokio::time::interval(DRAIN_TICK);
        while !self.close_inactive() {
            interval.tick().await;
        }
    }

    /// Marks the remaining connections as truncated: they end with their tasks and must not look
    /// complete.
    pub(in crate::proxy) fn mark_truncated(&self) {
        let is_lingering =
            |activity: &Arc<Activity>| activity.phase() == ConnectionPhase::Lingering;
        for activity in self.lock().iter().filter(|activity| !is_lingering(activity)) {
            activity.mark_truncated();
        }
    }

    /// Closes the connections that nobody is waiting for. Returns true if no others are left.
    ///
    /// The proxy does not know what is in a tunnel, so a tunnel without traffic for a second counts
    /// as idle.
    fn close_inactive(&self) -> bool {
        let mut activities = self.lock();
        activities.retain(|activity| {
            if Arc::strong_count(activity) == 1 {
                return false;
            }
            let is_inactive = match activity.phase() {
                ConnectionPhase::Idle => true,
                ConnectionPhase::Lingering
                    if !activity.has_received_while_lingering.load(Ordering::Relaxed) =>
                {
                    true
                }
                ConnectionPhase::Lingering
                | ConnectionPhase::Tunnel
                | ConnectionPhase::ReadingHead => self.ticks_without_progress(activity) > 1,
                ConnectionPhase::AwaitingResponse => {
                    self.ticks_half_closed(activity).is_some_and(|ticks| ticks > 1)
                }
                ConnectionPhase::Content
                | ConnectionPhase::Handshake
                | ConnectionPhase::Flushing => false,
            };
            if is_inactive {
                abort(activity, None);
            }
            !is_inactive
        });
        activities.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Activity>>> {
        self.activities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exceeds(ticks: u32, limit: Duration) -> bool {
    u64::from(ticks) > limit.as_secs()
}

/// Ends a connection or a stream, because of `limit` if one is given. If it has no task, it is
/// asked to end itself.
fn abort(activity: &Activity, limit: Option<&'static str>) {
    if let Some(limit) = limit {
        let _earlier_limit = activity.exceeded_limit.set(limit);
        activity.mark_truncated();
    }
    match activity.task.get() {
        Some(task) => task.abort(),
        None => activity.request_close(),
    }
}
