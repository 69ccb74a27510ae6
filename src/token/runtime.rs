//! Spawning, timers and randomness for the token code.
//!
//! In production these are tokio's. In tests they also run under Shuttle, which explores interleavings of the
//! real code: each function first asks [`exploration`] whether the current thread explores schedules. That
//! check exists only in test builds.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Spawns a task on `control` that `tracker` counts.
pub(super) fn spawn(
    tracker: &TaskTracker,
    control: &Handle,
    task: impl Future<Output = ()> + Send + 'static,
) {
    #[cfg(test)]
    if exploration::is_active() {
        drop(shuttle::future::spawn(task));
        return;
    }
    tracker.spawn_on(task, control);
}

/// Runs `task` on `control` and waits for its end. A panic of the task ends the wait as well.
pub(super) async fn run_on(control: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    if exploration::is_active() {
        let _panicked = shuttle::future::spawn(task).await;
        return;
    }
    let _panicked = control.spawn(task).await;
}

/// Waits for `duration`.
pub(super) async fn sleep(duration: Duration) {
    #[cfg(test)]
    if exploration::is_active() {
        return exploration::sleep(duration).await;
    }
    tokio::time::sleep(duration).await;
}

/// Waits for `event` for at most `duration`. Returns false on timeout.
pub(super) async fn occurs_within(duration: Duration, event: impl Future) -> bool {
    #[cfg(test)]
    if exploration::is_active() {
        return exploration::occurs_within(duration, event).await;
    }
    tokio::time::timeout(duration, event).await.is_ok()
}

/// Waits for `event` until `deadline`. Returns false on timeout.
pub(super) async fn occurs_before(deadline: Instant, event: impl Future) -> bool {
    #[cfg(test)]
    if exploration::is_active() {
        // No deadline is ever reached during an exploration, so that a lost wake-up is a deadlock.
        event.await;
        return true;
    }
    tokio::time::timeout_at(deadline, event).await.is_ok()
}

/// Returns a number from 0 to 1 to spread timers with. It is not cryptographically secure.
pub(super) fn random_jitter() -> f64 {
    #[cfg(test)]
    if exploration::is_active() {
        return 0.0;
    }
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Marks an access to state that threads share. An exploration may switch to another task here.
#[inline]
pub(super) fn scheduling_point() {
    #[cfg(test)]
    exploration::scheduling_point();
}

/// Runs the token code under Shuttle.
#[cfg(test)]
pub(super) mod exploration {
    use std::cell::RefCell;
    use std::future::Future;
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use tokio::runtime::Builder;

    use crate::clock::Clock;

    thread_local! {
        /// The clock of the current exploration.
        static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
    }

    /// Runs `test` under `schedules` random schedules, and under as many with few preemptions.
    ///
    /// Time stands still, except that whoever waits for a duration moves the clock to its end.
    pub(in crate::token) fn explore(schedules: usize, test: fn(&Clock)) {
        // The store sets timeouts on its operations, which need a timer to exist. It is never driven.
        let timers = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O");
        let _entered = timers.enter();
        let run = move || {
            let clock = Clock::adjustable();
            CLOCK.set(Some(clock.clone()));
            test(&clock);
        };
        let mut config = shuttle::Config::new();
        config.stack_size = 0x8_0000;
        shuttle::Runner::new(RandomScheduler::new(schedules), config.clone()).run(run);
        shuttle::Runner::new(PctScheduler::new(3, schedules), config).run(run);
        CLOCK.set(None);
    }

    pub(super) fn is_active() -> bool {
        CLOCK.with_borrow(Option::is_some)
    }

    pub(super) fn scheduling_point() {
        if is_active() {
            // Shuttle may switch tasks at every access to one of its atomics.
            AtomicBool::new(false).load(SeqCst);
        }
    }

    pub(super) async fn sleep(duration: Duration) {
        occurs_within(duration, std::future::pending::<()>()).await;
    }

    /// Gives other tasks the chance to make `event` occur first.
    pub(super) async fn occurs_within(duration: Duration, event: impl Future) -> bool {
        let clock = CLOCK.with_borrow(Clone::clone).expect("an exploration is active");
        let end = clock.now() + duration;
        let mut event = pin!(event);
        for _ in 0..2 {
            let polled = std::future::poll_fn(|context| Poll::Ready(event.as_mut().poll(context)));
            if polled.await.is_ready() {
                return true;
            }
            shuttle::future::yield_now().await;
        }
        // Others may have moved the clock meanwhile.
        clock.advance(end.duration_since(clock.now()).unwrap_or_default());
        false
    }
}
