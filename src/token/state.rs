//! When a token is replaced, and who waits for it: a pure state machine.
//!
//! The machine is asked, each time with the time: what a request may do ([`State::want`]), what to make
//! of a rejection ([`State::reject`]), whether there is something to do that nobody asked for
//! ([`State::tick`]), and what follows from the end of a flight ([`State::finish`]). It does no I/O,
//! holds no token and reads no clock.
//!
//! Invariant: between an answer that starts a flight and the call of `finish`, no other answer
//! starts one. So there is one token request at a time, however many requests ask.

mod budget;
mod rejection;
mod timers;

use std::time::Duration;

use super::{Generation, Token};
use crate::clock::Moment;
use crate::store::TerminalReason;
use budget::Budget;
use rejection::Forced;
pub(super) use rejection::Rejection;
pub(super) use timers::{Standing, upkeep};

/// The pause after the first forced refresh that did not help.
const FORCED_MIN: Duration = Duration::from_secs(30);

/// A pause so short is sat out by whoever needs a token: most clients make more of a late answer than of
/// a 503 (the torture test's clients see no failure). A longer one is said at once, so that nothing
/// piles up behind a server that is down.
pub(super) const SAT_OUT: Duration = Duration::from_secs(4);

/// Why a credential pauses whose server issues the same token again.
const NO_CHANGE: &str = "no_change";
/// Why no token is asked for although none is there: too many requests have brought nothing.
const BUDGET_SPENT: &str = "budget_spent";

/// What one credential is doing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Nothing is under way.
    #[default]
    Idle,
    /// A flight is.
    Refreshing,
    /// The last flight failed; no other starts before `until`.
    Failing {
        /// When to try again.
        until: Moment,
        /// What kind of failure it was, for people.
        why: &'static str,
    },
    /// No token request is made until a seed, the configuration or the record changes.
    NeedsLogin(TerminalReason),
}

/// The machine.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Failures since the last success, for the backoff.
    failures: u32,
    /// When the first of them was, and whether it has been called long.
    failing_since: Option<Moment>,
    is_overdue: bool,
    forced: Forced,
    budget: Budget,
    /// The flight under way was wanted by a rejection.
    is_forced: bool,
    /// Whether the start has looked at what it found.
    has_started: bool,
    /// The generation of a logout: no token of it or before it is served again.
    buried: Option<Generation>,
}

/// What a request may do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "with an answer that starts a flight the machine is refreshing: somebody has to start it"]
pub(super) enum Want {
    /// Use the current token.
    Use,
    /// Use it, and start a flight in the background.
    UseAndStart,
    /// Start a flight and wait for it.
    StartAndWait,
    /// Wait for the flight that is under way.
    Wait,
    /// There is no token, and none can be asked for before `until`.
    Unavailable { until: Moment, why: &'static str },
    /// There is no token, and a person has to act.
    NeedsLogin(TerminalReason),
}

/// How a flight ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A token was published.
    Refreshed,
    /// The server issued the very token that had been rejected.
    Unchanged,
    /// It failed; ask again after the server's wish, or after a backoff of this kind.
    Failed { backoff: Backoff, retry_after: Option<Duration>, why: &'static str },
    /// The grant is dead.
    NeedsLogin(TerminalReason),
}

/// How long to leave a server alone after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backoff {
    /// 1, 2, 4 … 60 s: trouble that passes by itself.
    Short,
    /// 1, 2, 4 … 15 min: somebody has to mend something.
    Long,
}

impl Backoff {
    fn after(self, failures: u32) -> Duration {
        let (first, last) = match self {
            Self::Short => (1, 60),
            Self::Long => (60, 900),
        };
        let factor = 1_u64 << failures.saturating_sub(1).min(16);
        Duration::from_secs((first * factor).min(last))
    }
}

/// What a flight has cost and brought, as far as the budget minds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// HTTP requests that were made to the token endpoint.
    pub(super) requests: u32,
    /// How long the token lives that it brought; `None`: until it is rejected.
    pub(super) lifetime: Option<Duration>,
}

impl State {
    /// May a request go ahead with `token`? Ask only when it is not plainly fresh.
    pub(super) fn want(&mut self, token: Option<&Token>, now: Moment) -> Want {
        let usable = token.is_some_and(|token| token.is_usable(now));
        let due = token.is_none_or(|token| token.is_due(now));
        match (&self.phase, usable) {
            (_, true) if !due => Want::Use,
            (Phase::Refreshing, true) => Want::Use,
            (Phase::Refreshing, false) => Want::Wait,
            (Phase::NeedsLogin(_), true) => Want::Use,
            (Phase::NeedsLogin(reason), false) => Want::NeedsLogin(*reason),
            (Phase::Failing { until, .. }, true) if !until.is_over(now) => Want::Use,
            (Phase::Failing { until, why }, false) if !until.is_over(now) => {
                Want::Unavailable { until: *until, why }
            }
            (Phase::Idle | Phase::Failing { .. }, _) => match (self.budget.spent(now), usable) {
                (Some(_), true) => Want::Use,
                (Some(until), false) => Want::Unavailable { until, why: BUDGET_SPENT },
                (None, usable) => {
                    self.depart(false);
                    if usable { Want::UseAndStart } else { Want::StartAndWait }
                }
            },
        }
    }

    fn depart(&mut self, is_forced: bool) {
        self.phase = Phase::Refreshing;
        self.is_forced = is_forced;
    }

    /// Since when nothing but failures has come; `None` while all is well.
    pub(super) fn failing_since(&self) -> Option<Moment> {
        self.failing_since
    }

    /// Something newer was found in the store. A flight under way will find it as well.
    pub(super) fn adopt(&mut self, outcome: Outcome, now: Moment) -> bool {
        let idle = self.phase != Phase::Refreshing;
        if idle {
            self.finish(outcome, Spent::default(), now, 0.0);
        }
        idle
    }

    /// The flight is over. `jitter` in 0..1 spreads the attempts of several processes.
    pub(super) fn finish(&mut self, outcome: Outcome, spent: Spent, now: Moment, jitter: f64) {
        self.settle_budget(&outcome, spent, now);
        let is_failure = matches!(outcome, Outcome::Failed { .. });
        self.phase = match outcome {
            Outcome::Refreshed => {
                self.failures = 0;
                Phase::Idle
            }
            Outcome::Unchanged => Phase::Failing { until: now.after(FORCED_MIN), why: NO_CHANGE },
            Outcome::NeedsLogin(reason) => Phase::NeedsLogin(reason),
            // A logout while the flight was in the air stands, however that one ended.
            Outcome::Failed { .. }
                if self.phase == Phase::NeedsLogin(TerminalReason::LoggedOut) =>
            {
                return;
            }
            Outcome::Failed { backoff, retry_after, why } => {
                if self.is_forced {
                    // It says nothing about what new tokens are worth.
                    self.forced.did_not_happen();
                }
                self.failures = self.failures.saturating_add(1);
                let pause = backoff.after(self.failures).mul_f64(1.0 - jitter / 2.0);
                let until = now.after(retry_after.unwrap_or_default().max(pause));
                Phase::Failing { until, why }
            }
        };
        self.is_forced = false;
        if is_failure {
            self.failing_since.get_or_insert(now);
        } else {
            self.failing_since = None;
            self.is_overdue = false;
        }
    }

    /// A token that nobody had to reject the one before for is worth what it cost. Whether one that
    /// was forced is worth it shows only when a request with it is accepted.
    fn settle_budget(&mut self, outcome: &Outcome, spent: Spent, now: Moment) {
        let lasts = spent.lifetime.is_none_or(|lifetime| lifetime >= budget::SHORTEST_LIFETIME);
        if *outcome == Outcome::Refreshed && spent.requests > 0 && lasts && !self.is_forced {
            self.budget.restore();
        } else {
            self.budget.spend(spent.requests, now);
        }
    }

    /// The credential was logged out with a record of this generation: that ends whatever it was
    /// doing, and whatever a flight that is still in the air brings comes too late.
    pub(super) fn log_out(&mut self, generation: Generation) {
        self.phase = Phase::NeedsLogin(TerminalReason::LoggedOut);
        self.failing_since = None;
        self.buried = Some(generation);
    }

    /// Was it logged out after a token of this generation was issued?
    pub(super) fn is_buried(&self, generation: Generation) -> bool {
        self.buried.is_some_and(|buried| generation <= buried)
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
