//! Once a second each connection's doings are compared with the limits. Draining uses the same list.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::{Activity, ConnectionPhase};

/// How often the watchdog looks; the precision of its limits.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks while the process waits for it.
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// How many ticks a client that was asked to close has for it.
const CLOSE_TICKS: u32 = 5;

/// How long a connection may stay as it is.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct ConnectionTimeouts {
    pub(in crate::proxy) idle: Duration,
    pub(in crate::proxy) head: Duration,
    pub(in crate::proxy) handshake: Duration,
    pub(in crate::proxy) tunnel: Duration,
    pub(in crate::proxy) send: Duration,
    /// Zero: for ever.
    pub(in crate::proxy) stall: Duration,
}

/// What happens to a connection that overstays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overstay {
    /// It ends as if the client had wished it.
    Close,
    /// It is cut off because of this limit.
    Cut(&'static str),
    /// It has had its time.
    Drop,
}

impl ConnectionTimeouts {
    fn of(&self, phase: ConnectionPhase) -> Option<(Duration, Overstay)> {
        match phase {
            ConnectionPhase::Idle | ConnectionPhase::Flushing => Some((self.idle, Overstay::Close)),
            ConnectionPhase::Head => Some((self.head, Overstay::Cut("header_read_timeout"))),
            ConnectionPhase::Handshake => {
                Some((self.handshake, Overstay::Cut("handshake_timeout")))
            }
            ConnectionPhase::Tunnel => Some((self.tunnel, Overstay::Cut("tunnel_idle_timeout"))),
            ConnectionPhase::Content if self.stall.is_zero() => None,
            ConnectionPhase::Content => Some((self.stall, Overstay::Cut("stall_timeout"))),
            ConnectionPhase::Lingering => Some((self.send, Overstay::Drop)),
            // Bounded by the origin's timeouts.
            ConnectionPhase::Busy => None,
        }
    }
}

/// Looks after the connections of one core.
#[derive(Debug)]
pub(in crate::proxy) struct Watchdog {
    ticks: Arc<AtomicU32>,
    draining: AtomicBool,
    /// For connections that have to be told: those of HTTP/2.
    drains: CancellationToken,
    watched: Mutex<Vec<Arc<Activity>>>,
}

impl Watchdog {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            ticks: Arc::new(AtomicU32::new(0)),
            draining: AtomicBool::new(false),
            drains: CancellationToken::new(),
            watched: Mutex::default(),
        }
    }

    /// A new connection or stream in `phase`; it is forgotten when the last `Arc` elsewhere is dropped.
    pub(in crate::proxy) fn watch(&self, phase: ConnectionPhase) -> Arc<Activity> {
        let activity = Arc::new(Activity::new(phase, Arc::clone(&self.ticks)));
        self.lock().push(Arc::clone(&activity));
        activity
    }

    /// Has the end begun? Then responses say `Connection: close`.
    pub(in crate::proxy) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Resolves when the end has begun.
    pub(in crate::proxy) fn drains(&self) -> WaitForCancellationFuture<'_> {
        self.drains.cancelled()
    }

    /// Runs until it is dropped; `each_tick` gives the limits, and `cut` is told of each connection that is cut
    /// off, with the limit.
    pub(in crate::proxy) async fn run(
        &self,
        each_tick: impl Fn() -> ConnectionTimeouts,
        cut: impl Fn(&'static str),
    ) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            self.ticks.fetch_add(1, Ordering::Relaxed);
            self.sweep(&each_tick(), &cut);
        }
    }

    fn sweep(&self, timeouts: &ConnectionTimeouts, cut: &impl Fn(&'static str)) {
        self.lock().retain(|activity| {
            if Arc::strong_count(activity) == 1 {
                return false;
            }
            match self.overstay(activity, timeouts) {
                None => true,
                Some(Overstay::Close) => {
                    activity.close();
                    true
                }
                Some(Overstay::Cut(limit)) => {
                    end(activity, Some(limit));
                    cut(limit);
                    false
                }
                Some(Overstay::Drop) => {
                    end(activity, None);
                    false
                }
            }
        });
    }

    fn overstay(&self, activity: &Activity, timeouts: &ConnectionTimeouts) -> Option<Overstay> {
        if self.since(&activity.blocked).is_some_and(|ticks| exceeds(ticks, timeouts.send)) {
            return Some(Overstay::Cut("send_timeout"));
        }
        if self.half_closed(activity).is_some_and(|ticks| exceeds(ticks, timeouts.idle)) {
            return Some(Overstay::Drop);
        }
        let (limit, overstay) = timeouts.of(activity.phase())?;
        let stayed = self.stayed(activity);
        if !exceeds(stayed, limit) {
            return None;
        }
        // A client of HTTP/2 may leave its connection open although it was told.
        let was_told = overstay == Overstay::Close
            && exceeds(stayed.saturating_sub(CLOSE_TICKS), limit)
            && activity.phase() == ConnectionPhase::Idle;
        Some(if was_told { Overstay::Drop } else { overstay })
    }

    /// Ticks since a time was noted.
    fn since(&self, time: &AtomicU32) -> Option<u32> {
        let noted = time.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.ticks.load(Ordering::Relaxed).wrapping_sub(noted))
    }

    /// Ticks since the client closed its half while its request waits for a response. It may be gone altogether, so
    /// it has no longer than another connection that sends nothing.
    fn half_closed(&self, activity: &Activity) -> Option<u32> {
        self.since(&activity.half_closed).filter(|_| activity.phase() == ConnectionPhase::Busy)
    }

    /// Ticks since the last progress.
    fn stayed(&self, activity: &Activity) -> u32 {
        let now = self.ticks.load(Ordering::Relaxed);
        now.wrapping_sub(activity.since.load(Ordering::Relaxed))
    }

    /// Closes what is idle and waits until the rest is done. Aborting the rest is the caller's.
    pub(in crate::proxy) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.drains.cancel();
        let mut interval = tokio::time::interval(DRAIN_TICK);
        while !self.close_silent() {
            interval.tick().await;
        }
    }

    /// What is left will end with its task, and is not to look like the whole.
    pub(in crate::proxy) fn cut_off(&self) {
        for activity in self.lock().iter().filter(|left| left.phase() != ConnectionPhase::Lingering)
        {
            activity.broke_off();
        }
    }

    /// Closes what nobody waits for; says whether nothing else is left. A tunnel says nothing about what is in
    /// it: one without traffic for a second is taken for idle.
    fn close_silent(&self) -> bool {
        let mut watched = self.lock();
        watched.retain(|activity| {
            if Arc::strong_count(activity) == 1 {
                return false;
            }
            let is_silent = match activity.phase() {
                ConnectionPhase::Idle => true,
                ConnectionPhase::Lingering if !activity.discards.load(Ordering::Relaxed) => true,
                ConnectionPhase::Lingering | ConnectionPhase::Tunnel | ConnectionPhase::Head => {
                    self.stayed(activity) > 1
                }
                ConnectionPhase::Busy => self.half_closed(activity).is_some_and(|ticks| ticks > 1),
                ConnectionPhase::Content
                | ConnectionPhase::Handshake
                | ConnectionPhase::Flushing => false,
            };
            if is_silent {
                end(activity, None);
            }
            !is_silent
        });
        watched.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Activity>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exceeds(ticks: u32, limit: Duration) -> bool {
    u64::from(ticks) > limit.as_secs()
}

/// Ends a connection or a stream, because of `limit` if one is named. What has no task is asked to end itself.
fn end(activity: &Activity, limit: Option<&'static str>) {
    if let Some(limit) = limit {
        let _earlier = activity.cut.set(limit);
        activity.broke_off();
    }
    match activity.task.get() {
        Some(task) => task.abort(),
        None => activity.close(),
    }
}
