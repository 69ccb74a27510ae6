//! When a token is replaced, and who waits for it: a pure state machine.
//!
//! The machine is asked three questions, each with the time: what a request may do
//! ([`State::want`]), what to make of a rejection ([`State::reject`]), and what follows from the end
//! of a flight ([`State::finish`]). It does no I/O, holds no token and reads no clock.
//!
//! Invariant: between an answer that starts a flight and the call of `finish`, no other answer
//! starts one. So there is one token request at a time, however many requests ask.

use std::time::{Duration, SystemTime};

use super::{Generation, Token};
use crate::store::TerminalReason;

/// The first pause after a forced refresh that did not help; doubles up to [`FORCED_MAX`].
const FORCED_MIN: Duration = Duration::from_secs(30);
const FORCED_MAX: Duration = Duration::from_secs(600);
/// A rejection of a token this young may mean that the origin has not heard of it yet.
const SETTLE: Duration = Duration::from_secs(5);
/// The waits before such a token is tried again.
const SETTLE_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// No failure is remembered longer than the longest wait that a server can impose. A later time
/// means that the wall clock was set back.
const LONGEST_FAILURE: Duration = Duration::from_secs(3700);

/// Why a credential pauses whose server issues the same token again.
const NO_CHANGE: &str = "no_change";

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
        until: SystemTime,
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
    /// No forced refresh before this.
    forced_after: Option<SystemTime>,
    /// The generation whose rejection caused the last forced refresh.
    forced_from: Option<Generation>,
    /// The pause after the next forced refresh that does not help.
    forced_pause: Option<Duration>,
    /// An origin went on rejecting this generation after every wait.
    hopeless: Option<Generation>,
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
    Unavailable { until: SystemTime, why: &'static str },
    /// There is no token, and a person has to act.
    NeedsLogin(TerminalReason),
}

/// What to do about a rejected request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "with an answer that starts a flight the machine is refreshing: somebody has to start it"]
pub(super) enum Rejection {
    /// A newer token is there already: send again with it.
    Resend,
    /// The token is brand-new: send again after this wait, and ask nobody.
    Settle(Duration),
    /// Start a flight, wait for it, then send again.
    StartAndWait,
    /// Wait for the flight that is under way, then send again.
    Wait,
    /// Pass the rejection on to the client.
    PassOn,
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

impl State {
    /// May a request go ahead with `token`? Ask only when it is not plainly fresh.
    pub(super) fn want(&mut self, token: Option<&Token>, now: SystemTime) -> Want {
        let usable = token.is_some_and(|token| token.is_usable(now));
        let due = token.is_none_or(|token| token.is_due(now));
        match (&self.phase, usable) {
            (_, true) if !due => Want::Use,
            (Phase::Refreshing, true) => Want::Use,
            (Phase::Refreshing, false) => Want::Wait,
            (Phase::NeedsLogin(_), true) => Want::Use,
            (Phase::NeedsLogin(reason), false) => Want::NeedsLogin(*reason),
            (Phase::Failing { until, .. }, true) if !reached(*until, now) => Want::Use,
            (Phase::Failing { until, why }, false) if !reached(*until, now) => {
                Want::Unavailable { until: *until, why }
            }
            (Phase::Idle | Phase::Failing { .. }, true) => {
                self.phase = Phase::Refreshing;
                Want::UseAndStart
            }
            (Phase::Idle | Phase::Failing { .. }, false) => {
                self.phase = Phase::Refreshing;
                Want::StartAndWait
            }
        }
    }

    /// An origin rejected a token of generation `rejected`. `settled` counts the waits that this
    /// request has been through, `renewed` says whether it already got a new token for a rejection.
    pub(super) fn reject(
        &mut self,
        rejected: Generation,
        token: Option<&Token>,
        now: SystemTime,
        renewed: bool,
        settled: usize,
    ) -> Rejection {
        if token.is_some_and(|token| token.generation > rejected && token.is_usable(now)) {
            return if renewed { Rejection::PassOn } else { Rejection::Resend };
        }
        let held = match &self.phase {
            Phase::Refreshing if renewed => return Rejection::PassOn,
            Phase::Refreshing => return Rejection::Wait,
            Phase::NeedsLogin(_) => {
                // No other will come: whoever asks next is told so instead of being rejected as well.
                token.filter(|token| token.generation == rejected).inspect(|token| token.reject());
                return Rejection::PassOn;
            }
            Phase::Failing { until, .. } => !reached(*until, now),
            Phase::Idle => false,
        };
        if held || self.hopeless == Some(rejected) && !self.may_force(now) {
            return Rejection::PassOn;
        }
        let young = token.is_some_and(|token| token.age(now) < settle_time(token));
        if let (true, Some(wait)) = (young, SETTLE_WAITS.get(settled)) {
            return Rejection::Settle(*wait);
        }
        // A token that no rejection had asked for says nothing about what asking is worth.
        let was_asked_for = self.forced_from.is_some_and(|from| from < rejected);
        if renewed && !was_asked_for {
            return Rejection::PassOn;
        }
        if renewed || !self.may_force(now) {
            self.did_not_help(rejected, now);
            return Rejection::PassOn;
        }
        self.forced_from = Some(rejected);
        self.forced_after = Some(now + self.forced_pause.unwrap_or(FORCED_MIN));
        self.phase = Phase::Refreshing;
        Rejection::StartAndWait
    }

    fn may_force(&self, now: SystemTime) -> bool {
        self.forced_after.is_none_or(|after| reached(after, now))
    }

    /// Once per generation: the pause doubles while new tokens are rejected like old ones.
    fn did_not_help(&mut self, rejected: Generation, now: SystemTime) {
        if self.hopeless == Some(rejected) {
            return;
        }
        self.hopeless = Some(rejected);
        let pause = self.forced_pause.unwrap_or(FORCED_MIN);
        self.forced_after = Some(now + pause);
        self.forced_pause = Some((pause * 2).min(FORCED_MAX));
    }

    /// A request that was sent again with a new token was accepted: the refresh was worth it.
    pub(super) fn accepted(&mut self) {
        self.forced_after = None;
        self.forced_from = None;
        self.forced_pause = None;
        self.hopeless = None;
    }

    /// Did the last flight bring the very token that had been rejected?
    pub(super) fn brought_the_same(&self) -> bool {
        matches!(self.phase, Phase::Failing { why: NO_CHANGE, .. })
    }

    /// Something newer was found in the store. A flight under way will find it as well.
    pub(super) fn adopt(&mut self, outcome: Outcome, now: SystemTime) -> bool {
        let idle = self.phase != Phase::Refreshing;
        if idle {
            self.finish(outcome, now, 0.0);
        }
        idle
    }

    /// The flight is over. `jitter` in 0..1 spreads the attempts of several processes.
    pub(super) fn finish(&mut self, outcome: Outcome, now: SystemTime, jitter: f64) {
        self.phase = match outcome {
            Outcome::Refreshed => {
                self.failures = 0;
                Phase::Idle
            }
            Outcome::Unchanged => Phase::Failing { until: now + FORCED_MIN, why: NO_CHANGE },
            Outcome::NeedsLogin(reason) => Phase::NeedsLogin(reason),
            Outcome::Failed { backoff, retry_after, why } => {
                self.failures = self.failures.saturating_add(1);
                let pause = backoff.after(self.failures).mul_f64(1.0 - jitter / 2.0);
                Phase::Failing { until: now + retry_after.unwrap_or_default().max(pause), why }
            }
        };
    }
}

/// Is `until` over? Also if it lies further ahead than any wait: then the clock was set back.
fn reached(until: SystemTime, now: SystemTime) -> bool {
    until.duration_since(now).map_or(true, |ahead| ahead.is_zero() || ahead > LONGEST_FAILURE)
}

/// Scaled down for tokens that live seconds: of those all would be young all the time.
fn settle_time(token: &Token) -> Duration {
    token.lifetime().map_or(SETTLE, |lifetime| SETTLE.min(lifetime / 10))
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
