//! How early a token is replaced: arithmetic.

use std::time::Duration;

/// How long before its expiry an access token is replaced.
///
/// While a token is inside this window requests go on using it and one refresh runs in the
/// background. The window is wall-clock time and never more than half the token's lifetime, so that
/// short tokens are not refreshed without end. Up to a fifth is taken off at random, so that many
/// credentials and processes do not all refresh at the same second.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Margin {
    /// A tenth of the lifetime, at least 10 s and at most 5 min: longer than clocks usually differ.
    #[default]
    Auto,
    /// This long.
    Fixed(Duration),
    /// This share of the lifetime, from 0 to 1.
    Share(f64),
}

impl Margin {
    /// The margin for a token of this lifetime; `jitter` from 0 to 1 shortens it by up to a fifth.
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
