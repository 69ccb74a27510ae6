//! The wall clock, read in one place.
//!
//! Expiry is wall-clock time, compared at the moment of use: timers and [`std::time::Instant`] stop
//! while a machine sleeps. Everything below the edge takes `now` as an argument; whoever stands at
//! the edge holds a [`Clock`], so that a test can move time without waiting for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// Where the time of day comes from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds to add to the system's clock; `None` reads the system's clock as it is.
    offset: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// The system's clock plus an offset that [`Clock::advance`] moves, in every clone.
    pub fn adjustable() -> Self {
        Self { offset: Some(Arc::new(AtomicI64::new(0))) }
    }

    /// Moves an adjustable clock forward; a system clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(offset) = &self.offset {
            offset.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// The time of day.
    pub fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        match &self.offset {
            None => now,
            Some(offset) => {
                let millis = u64::try_from(offset.load(Ordering::SeqCst)).unwrap_or(0);
                now + Duration::from_millis(millis)
            }
        }
    }
}
