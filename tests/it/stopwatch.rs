//! How soon something happens, on a machine that may be busy or stand still.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(10);

/// The number of ticks so far. Started by the first stopwatch.
static TICKS: LazyLock<&'static AtomicU32> = LazyLock::new(|| {
    let ticks: &AtomicU32 = Box::leak(Box::default());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(TICK);
            ticks.fetch_add(1, Ordering::Relaxed);
        }
    });
    ticks
});

/// Measures for assertions that something was soon: counts pauses of a thread instead of reading a clock.
///
/// On a quiet machine that is the time on the clock, less one percent. A machine that stands still for seconds adds a
/// single pause, and a busy one that wakes its threads late adds fewer of them. For "not too soon", use `Instant`.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch {
    started: u32,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { started: TICKS.load(Ordering::Relaxed) }
    }

    pub(crate) fn elapsed(self) -> Duration {
        TICK * TICKS.load(Ordering::Relaxed).wrapping_sub(self.started)
    }
}
