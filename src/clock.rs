//! The wall clock.
//!
//! Expiry is wall-clock time, compared when it is used, because timers and [`std::time::Instant`]
//! stop while a machine sleeps. Wall clocks can also be set back, which would extend a pause or a
//! lifetime indefinitely. Deadlines are therefore kept as a [`Moment`], which is over as soon as
//! either clock says so. All code below the edge takes `now` as an argument; code at the edge holds
//! a [`Clock`], so that tests can move time without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A point in time on two clocks: the wall clock and the run time of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, which can be set forward and back.
    pub wall: SystemTime,
    /// The time since the clock was created. Monotonic, and stopped while the machine sleeps.
    pub running: Duration,
}

impl Moment {
    /// The moment `pause` later on both clocks.
    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        Self {
            wall: self.wall.checked_add(pause).unwrap_or(self.wall),
            running: self.running.saturating_add(pause),
        }
    }

    /// The moment at which the wall clock shows `wall`, provided that it is not set. A `wall`
    /// before `self` is in the past.
    #[must_use]
    pub fn at_wall(self, wall: SystemTime) -> Self {
        let running = match wall.duration_since(self.wall) {
            Ok(ahead) => self.running.saturating_add(ahead),
            Err(past) => self.running.saturating_sub(past.duration()),
        };
        Self { wall, running }
    }

    /// Returns true once either clock has reached the moment, so that setting the clock back
    /// extends no deadline, and sleep counts.
    pub fn is_over(self, now: Self) -> bool {
        now.wall >= self.wall || now.running >= self.running
    }

    /// The time until the moment; zero if it is over.
    pub fn left(self, now: Self) -> Duration {
        let wall = self.wall.duration_since(now.wall).unwrap_or_default();
        wall.min(self.running.saturating_sub(now.running))
    }

    /// The time since the moment; the longer of both clocks' differences.
    pub fn elapsed(self, now: Self) -> Duration {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        wall.max(now.running.saturating_sub(self.running))
    }
}

/// A source of time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The creation time and an offset in milliseconds; `None` uses the system clock.
    adjusted: Option<(SystemTime, Arc<AtomicI64>)>,
    /// Tokio's clock, so that pausing tokio's time pauses this clock as well.
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { adjusted: None, started: Instant::now() }
    }
}

impl Clock {
    /// The system clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that starts at the current time, runs with tokio's clock and can be moved with
    /// [`Clock::advance`]. Clones share the offset.
    pub fn adjustable() -> Self {
        let adjusted = (SystemTime::now(), Arc::new(AtomicI64::new(0)));
        Self { adjusted: Some(adjusted), ..Self::default() }
    }

    /// Moves an adjustable wall clock forward. No effect on a system clock.
    pub fn advance(&self, by: Duration) {
        if let Some((_, offset)) = &self.adjusted {
            offset.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Sets an adjustable wall clock back. No effect on a system clock.
    pub fn set_back(&self, by: Duration) {
        if let Some((_, offset)) = &self.adjusted {
            offset.fetch_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// The time of day.
    pub fn now(&self) -> SystemTime {
        let Some((made, offset)) = &self.adjusted else { return SystemTime::now() };
        let now = made.checked_add(self.started.elapsed()).unwrap_or(*made);
        let offset = offset.load(Ordering::SeqCst);
        let by = Duration::from_millis(offset.unsigned_abs());
        let moved = if offset < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        moved.unwrap_or(now)
    }

    /// The current moment.
    pub fn moment(&self) -> Moment {
        Moment { wall: self.now(), running: self.started.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn moment(wall: u64, running: u64) -> Moment {
        Moment {
            wall: UNIX_EPOCH + Duration::from_secs(wall),
            running: Duration::from_secs(running),
        }
    }

    #[test]
    fn a_moment_is_over_once_either_clock_has_reached_it() {
        let end = moment(1000, 10).after(Duration::from_secs(60));
        for (now, left) in [
            (moment(1000, 10), 60),
            (moment(1059, 69), 1),
            (moment(1060, 70), 0),
            // The clock was set forward, or the machine slept.
            (moment(5000, 11), 0),
            // The clock was set back.
            (moment(1, 40), 30),
            (moment(1, 70), 0),
        ] {
            assert_eq!(end.left(now), Duration::from_secs(left), "{now:?}");
            assert_eq!(end.is_over(now), left == 0, "{now:?}");
        }
    }

    #[test]
    fn elapsed_is_the_longer_of_both_clocks() {
        let start = moment(1000, 10);
        for (now, seconds) in [
            (moment(1000, 10), 0),
            (moment(1005, 15), 5),
            (moment(4600, 15), 3600),
            (moment(1, 15), 5),
        ] {
            assert_eq!(start.elapsed(now), Duration::from_secs(seconds), "{now:?}");
        }
    }

    #[test]
    fn at_wall_maps_a_time_of_day_to_both_clocks() {
        let now = moment(1000, 100);
        assert_eq!(now.at_wall(moment(1060, 0).wall), moment(1060, 160));
        assert_eq!(now.at_wall(moment(990, 0).wall), moment(990, 90));
        assert_eq!(now.at_wall(moment(1, 0).wall), moment(1, 0));
    }

    #[test]
    fn an_adjustable_clock_moves_both_ways_but_its_run_time_does_not() {
        let clock = Clock::adjustable();
        let before = clock.moment();
        clock.advance(Duration::from_secs(3600));
        assert!(clock.now() >= before.wall + Duration::from_secs(3600));
        clock.set_back(Duration::from_secs(7200));
        let after = clock.moment();
        assert!(after.wall < before.wall);
        assert!(after.running >= before.running && after.running < Duration::from_secs(600));
    }
}
