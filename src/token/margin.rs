//! How early a token is replaced, and what a server teaches about it: arithmetic.

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
    /// The margin for a token of this lifetime, `most` being the longest that its server has not
    /// refused; `jitter` from 0 to 1 shortens it by up to a fifth.
    pub fn of(self, lifetime: Duration, most: Duration, jitter: f64) -> Duration {
        let margin = match self {
            Self::Auto => (lifetime / 10).clamp(Duration::from_secs(10), Duration::from_secs(300)),
            Self::Fixed(margin) => margin,
            Self::Share(share) => lifetime.mul_f64(share.clamp(0.0, 1.0)),
        };
        margin.min(lifetime / 2).min(most).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 5.0)
    }
}

/// Replacing a token less than this ahead of its expiry gains nothing: clocks differ by more.
const LEAST: Duration = Duration::from_secs(5);

/// What one refresh says about how early a server may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lesson {
    /// With so much of its life left, the same token came back.
    SameToken(Duration),
    /// With `refused` of its life left the server refused, and with `granted` left it did not.
    TooEarly {
        /// Of the token's life, when it was refused.
        refused: Duration,
        /// Of the token's life, when it was granted.
        granted: Duration,
    },
}

/// The longest margin after a lesson. It shrinks by three quarters each time, so that a server that
/// replaces a token only after its end (Reltio) costs four idle requests, once and for all, and one
/// that does it a minute before is still asked ahead of time.
pub(super) fn learn(most: Option<Duration>, lesson: Lesson) -> Duration {
    let learned = match lesson {
        Lesson::SameToken(left) => left / 4,
        Lesson::TooEarly { refused, granted } => granted.min(refused).max(refused / 4),
    };
    // Whole seconds, as the record keeps them.
    let learned = Duration::from_secs(learned.as_secs());
    let learned = if learned < LEAST { Duration::ZERO } else { learned };
    most.map_or(learned, |most| most.min(learned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_that_a_server_refuses_shrinks_until_it_is_none() {
        let seconds = Duration::from_secs;
        let same = |left| Lesson::SameToken(seconds(left));
        let early = |refused, granted| Lesson::TooEarly {
            refused: seconds(refused),
            granted: seconds(granted),
        };
        for (most, lesson, learned) in [
            (None, same(300), 75),
            (Some(75), same(75), 18),
            (Some(18), same(18), 0),
            (Some(0), same(0), 0),
            (Some(30), same(300), 30),
            (None, early(300, 200), 200),
            (None, early(300, 0), 75),
            (None, early(300, 301), 300),
            (Some(75), early(75, 0), 18),
            (Some(18), early(18, 0), 0),
        ] {
            let most = most.map(seconds);
            assert_eq!(learn(most, lesson), seconds(learned), "{most:?} {lesson:?}");
        }
    }
}
