//! How early a token is replaced.

use std::time::Duration;

/// How long before its expiry an access token is replaced.
///
/// Inside this window requests continue to use the token while one refresh runs in the background. The window
/// is wall-clock time and at most half the token's lifetime, so that short-lived tokens are not refreshed
/// constantly. It is shortened by up to a fifth at random, so that credentials and processes do not all
/// refresh at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Margin {
    /// A tenth of the lifetime, at least 10 s and at most 5 min, which is longer than clocks usually differ.
    #[default]
    Auto,
    /// A fixed time.
    Fixed(Duration),
    /// A share of the lifetime, from 0 to 1.
    Share(f64),
}

impl Margin {
    /// Returns the margin for a token with this lifetime. `jitter`, from 0 to 1, shortens it by up to a fifth.
    pub fn of(self, lifetime: Duration, jitter: f64) -> Duration {
        let margin = match self {
            Self::Auto => (lifetime / 10).clamp(Duration::from_secs(10), Duration::from_secs(300)),
            Self::Fixed(margin) => margin,
            Self::Share(share) => lifetime.mul_f64(share.clamp(0.0, 1.0)),
        };
        margin.min(lifetime / 2).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 5.0)
    }
}

#[cfg(test)]
#[path = "margin/tests.rs"]
mod tests;
