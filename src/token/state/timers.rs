//! What happens although no request asks for it.

use std::time::{Duration, SystemTime};

use super::{Phase, State, Want};
use crate::clock::Moment;
use crate::store::TokenRecord;
use crate::token::Token;

/// A credential that has been failing for so long is called out, once: most outages are over sooner.
const OVERDUE_AFTER: Duration = Duration::from_secs(15 * 60);
/// A refresh token is replaced when a tenth of its life is left, but not more than a week ahead.
const REFRESH_TOKEN_MARGIN: Duration = Duration::from_secs(7 * 86_400);
/// One that lives no longer is not kept alive: an unused credential would be refreshed all the time.
const SHORTEST_REFRESH_TOKEN: Duration = Duration::from_secs(3600);

/// What the timer finds.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::token) struct Standing<'a> {
    /// The current access token.
    pub(in crate::token) token: Option<&'a Token>,
    /// When the refresh token has to be used so that it does not die of idleness ([`upkeep`]).
    pub(in crate::token) upkeep: Option<SystemTime>,
}

/// What the timer has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::token) struct Tick {
    /// Start a flight in the background.
    pub(in crate::token) start: bool,
    /// It has been failing for long; said once.
    pub(in crate::token) overdue: bool,
}

impl State {
    /// Looks at the time. A token is replaced in the background if it is in its margin and somebody
    /// has used it, so that what nobody uses costs nothing; the first time, at the start, it need not
    /// have been used yet. Also when the refresh token would otherwise die of idleness.
    pub(in crate::token) fn tick(&mut self, standing: Standing<'_>, now: Moment) -> Tick {
        let first = !std::mem::replace(&mut self.has_started, true);
        let overdue = !self.is_overdue
            && self.failing_since.is_some_and(|since| since.elapsed(now) >= OVERDUE_AFTER);
        self.is_overdue |= overdue;
        Tick { start: self.is_time(standing, first, now), overdue }
    }

    fn is_time(&mut self, standing: Standing<'_>, first: bool, now: Moment) -> bool {
        let near_expiry = standing.token.is_some_and(|token| {
            token.is_usable(now) && token.is_due(now) && (first || token.was_used())
        });
        let idle_for_long = standing.upkeep.is_some_and(|due| now.wall >= due);
        if !near_expiry && !idle_for_long {
            return false;
        }
        self.force(now).is_ok()
    }

    /// Starts a flight, unless one is under way or none may start: then that is what a request without
    /// a token would be told.
    pub(in crate::token) fn force(&mut self, now: Moment) -> Result<(), Want> {
        match self.phase {
            Phase::Refreshing => return Err(Want::Wait),
            Phase::NeedsLogin(reason) => return Err(Want::NeedsLogin(reason)),
            Phase::Failing { until, why } if !until.is_over(now) => {
                return Err(Want::Unavailable { until, why });
            }
            Phase::Idle | Phase::Failing { .. } => {}
        }
        if let Some(until) = self.budget.spent(now) {
            return Err(Want::Unavailable { until, why: super::BUDGET_SPENT });
        }
        self.depart(false);
        Ok(())
    }
}

/// When the refresh token of `record` has to be used, counted from the last time it was: after
/// `keepalive`, or before the time at which the server said that it expires. Where the server does not
/// move that time, each use takes nine tenths off what is left: a handful of requests.
pub(in crate::token) fn upkeep(
    record: &TokenRecord,
    keepalive: Option<Duration>,
) -> Option<SystemTime> {
    record.refresh_token.as_ref()?;
    let used_at = record.used_at.or(record.issued_at)?;
    let idle = keepalive.and_then(|keepalive| used_at.checked_add(keepalive));
    let before_its_end = record.refresh_expires_at.and_then(|expires_at| {
        let lifetime = expires_at.duration_since(used_at).ok()?;
        let margin = (lifetime / 10).min(REFRESH_TOKEN_MARGIN);
        (lifetime >= SHORTEST_REFRESH_TOKEN).then(|| expires_at - margin)
    });
    idle.into_iter().chain(before_its_end).min()
}

#[cfg(test)]
#[path = "timers/tests.rs"]
mod tests;
