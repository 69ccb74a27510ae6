//! The wall clock, read in one place.
//!
//! Expiry is wall-clock time, compared at the moment of use: timers and [`std::time::Instant`] stop
//! while a machine sleeps. But wall clocks are set back, too, and then a pause or a lifetime would last
//! for ever. So whatever ends at some time is kept as a [`Moment`], which is over as soon as either
//! clock says so. Everything below the edge takes `now` as an argument; whoever stands at the edge holds
//! a [`Clock`], so that a test can move time without waiting for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A point in time on two clocks: the wall clock, and the time that the program has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day. It can be set, forwards and back.
    pub wall: SystemTime,
    /// The time since the clock was made. It never goes back, and stands still while the machine sleeps.
    pub running: Duration,
}

impl Moment {
    /// The moment `pause` later, on both clocks.
    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        Self {
            wall: self.wall.checked_add(pause).unwrap_or(self.wall),
            running: self.running.saturating_add(pause),
        }
    }

    /// The moment at which the wall clock will show `wall` if nobody sets it; a time before `self` has
    /// passed already, however long ago.
    #[must_use]
    pub fn at_wall(self, wall: SystemTime) -> Self {
        let running = match wall.duration_since(self.wall) {
            Ok(ahead) => self.running.saturating_add(ahead),
            Err(past) => self.running.saturating_sub(past.duration()),
        };
        Self { wall, running }
    }

    /// Is it over? As soon as either clock says so: a clock set back ends no pause later, and the
    /// sleep of a machine counts.
    pub fn is_over(self, now: Self) -> bool {
        now.wall >= self.wall || now.running >= self.running
    }

    /// How long until it is over; zero if it is.
    pub fn left(self, now: Self) -> Duration {
        let wall = self.wall.duration_since(now.wall).unwrap_or_default();
        wall.min(self.running.saturating_sub(now.running))
    }

    /// How much time has passed since it: the longer of what the two clocks say.
    pub fn elapsed(self, now: Self) -> Duration {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        wall.max(now.running.saturating_sub(self.running))
    }
}

/// Where the time of day comes from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The time it was made at, and milliseconds to add; `None` reads the system's clock as it is.
    adjusted: Option<(SystemTime, Arc<AtomicI64>)>,
    /// Tokio's, so that a test that pauses time pauses this as well.
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { adjusted: None, started: Instant::now() }
    }
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that shows the time of day now, goes on with tokio's, and is moved by [`Clock::advance`], in every
    /// clone.
    pub fn adjustable() -> Self {
        let adjusted = (SystemTime::now(), Arc::new(AtomicI64::new(0)));
        Self { adjusted: Some(adjusted), ..Self::default() }
    }

    /// Moves an adjustable wall clock forward; a system clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some((_, offset)) = &self.adjusted {
            offset.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Sets an adjustable wall clock back; a system clock stays as it is.
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

    /// The time of day, and the time that has really passed.
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
    fn a_moment_is_over_as_soon_as_either_clock_says_so() {
        let end = moment(1000, 10).after(Duration::from_secs(60));
        for (now, left) in [
            (moment(1000, 10), 60),
            (moment(1059, 69), 1),
            (moment(1060, 70), 0),
            // Set forward, or asleep.
            (moment(5000, 11), 0),
            // Set back.
            (moment(1, 40), 30),
            (moment(1, 70), 0),
        ] {
            assert_eq!(end.left(now), Duration::from_secs(left), "{now:?}");
            assert_eq!(end.is_over(now), left == 0, "{now:?}");
        }
    }

    #[test]
    fn what_has_passed_is_the_longer_of_both() {
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
    fn a_time_of_day_has_its_place_on_both_clocks() {
        let now = moment(1000, 100);
        assert_eq!(now.at_wall(moment(1060, 0).wall), moment(1060, 160));
        assert_eq!(now.at_wall(moment(990, 0).wall), moment(990, 90));
        assert_eq!(now.at_wall(moment(1, 0).wall), moment(1, 0));
    }

    #[test]
    fn an_adjustable_clock_goes_both_ways_and_its_running_time_does_not() {
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
