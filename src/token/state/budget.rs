//! How many token requests may bring nothing: arithmetic.

use std::time::Duration;

use crate::clock::Moment;

/// Token requests that may bring nothing before there is a pause. Zoho counts ten in ten minutes for
/// each refresh token, and nobody was found who allows fewer.
const MOST: u32 = 10;
/// After how long one of them is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// A token that lives no longer is over before it has been used: to buy the next one for it may not
/// become a habit. Tokens of a few seconds do exist.
pub(super) const SHORTEST_LIFETIME: Duration = Duration::from_secs(2);

/// Counts the token requests that brought nothing lasting.
///
/// Backoff and the pauses between forced refreshes keep credentials far below it. It is the floor under
/// them: whatever comes together (replays, rejections, a server that says one thing and does another),
/// a credential makes at most ten idle token requests in a row and then one a minute.
#[derive(Debug, Default)]
pub(super) struct Budget {
    spent: u32,
    /// Up to when requests have been forgiven.
    forgiven: Option<Moment>,
}

impl Budget {
    /// `None` if there is something left, or else when there will be.
    pub(super) fn spent(&mut self, now: Moment) -> Option<Moment> {
        self.forgive(now);
        let since = self.forgiven.filter(|_| self.spent >= MOST)?;
        Some(since.after(FORGIVEN_AFTER * (self.spent - MOST + 1)))
    }

    /// So many requests were made and brought nothing, or nothing that lasts.
    pub(super) fn spend(&mut self, requests: u32, now: Moment) {
        self.forgive(now);
        if requests > 0 && self.spent == 0 {
            self.forgiven = Some(now);
        }
        self.spent = self.spent.saturating_add(requests).min(2 * MOST);
    }

    /// A request was worth it: all before it are forgiven.
    pub(super) fn restore(&mut self) {
        *self = Self::default();
    }

    fn forgive(&mut self, now: Moment) {
        let Some(since) = self.forgiven else { return };
        let minutes = since.elapsed(now).as_secs() / FORGIVEN_AFTER.as_secs();
        match u32::try_from(minutes) {
            Ok(minutes) if minutes < self.spent => {
                self.spent -= minutes;
                self.forgiven = Some(since.after(FORGIVEN_AFTER * minutes));
            }
            _ => self.restore(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> Moment {
        let running = Duration::from_secs(seconds);
        Moment { wall: UNIX_EPOCH + running, running }
    }

    #[test]
    fn ten_idle_requests_and_then_one_a_minute() {
        let mut budget = Budget::default();
        for second in 0..10 {
            assert_eq!(budget.spent(at(second)), None, "{second}");
            budget.spend(1, at(second));
        }
        for minute in 1..20 {
            assert_eq!(budget.spent(at(60 * minute - 1)), Some(at(60 * minute)));
            assert_eq!(budget.spent(at(60 * minute)), None);
            budget.spend(1, at(60 * minute));
        }
    }

    #[test]
    fn repetitions_are_paid_for_afterwards_and_with_an_end() {
        let mut budget = Budget::default();
        budget.spend(9, at(0));
        budget.spend(4, at(0));
        assert_eq!(budget.spent(at(1)), Some(at(240)));
        budget.spend(1000, at(1));
        assert_eq!(budget.spent(at(1)), Some(at(11 * 60)));
        assert_eq!(budget.spent(at(11 * 60)), None);
        assert_eq!(budget.spent(at(1_000_000)), None);
    }

    #[test]
    fn a_useful_request_restores_all_of_it() {
        let mut budget = Budget::default();
        budget.spend(20, at(0));
        budget.restore();
        assert_eq!(budget.spent(at(0)), None);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_freeze_it() {
        let mut budget = Budget::default();
        budget.spend(10, at(100_000));
        let set_back = Moment { wall: at(1).wall, ..at(100_060) };
        assert_eq!(budget.spent(set_back), None);
    }
}
