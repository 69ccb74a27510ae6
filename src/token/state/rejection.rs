//! What to make of a rejection: whom to ask, whether to wait, when to give up.

use std::time::Duration;

use super::{FORCED_MIN, Phase, SAT_OUT, State};
use crate::clock::Moment;
use crate::token::{Generation, Token};

/// The pause between forced refreshes that do not help doubles up to this.
const FORCED_MAX: Duration = Duration::from_secs(600);
/// A rejection of a token this young may mean that the origin has not heard of it yet.
const SETTLE: Duration = Duration::from_secs(5);
/// The waits before such a token is tried again.
const SETTLE_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// What to do about a rejected request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "with an answer that starts a flight the machine is refreshing: somebody has to start it"]
pub(in crate::token) enum Rejection {
    /// A newer token is there already: send again with it.
    Resend,
    /// The token is brand-new: send again after this wait, and ask nobody.
    Settle(Duration),
    /// Start a flight, wait for it, then send again.
    StartAndWait,
    /// Wait for the flight that is under way, then send again.
    Wait,
    /// No token is asked for before that; ask here again then.
    Later(Duration),
    /// Pass the rejection on to the client.
    PassOn,
}

/// What forced refreshes have been good for.
#[derive(Debug, Default)]
pub(super) struct Forced {
    /// No forced refresh before this.
    pub(super) after: Option<Moment>,
    /// The generation whose rejection caused the last one.
    from: Option<Generation>,
    /// The pause after the next one that does not help.
    pause: Option<Duration>,
    /// An origin went on rejecting this generation after every wait.
    hopeless: Option<Generation>,
}

impl Forced {
    /// The last one failed: the next need not wait any longer than the failure says.
    pub(super) fn did_not_happen(&mut self) {
        self.after = None;
    }
}

impl State {
    /// An origin rejected a token of generation `rejected`. `settled` counts the waits that this
    /// request has been through, `renewed` says whether it already got a new token for a rejection.
    pub(in crate::token) fn reject(
        &mut self,
        rejected: Generation,
        token: Option<&Token>,
        now: Moment,
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
            Phase::Failing { until, .. } if !until.is_over(now) => {
                if !renewed && self.is_paused_briefly(now) {
                    return Rejection::Later(until.left(now));
                }
                true
            }
            Phase::Failing { .. } | Phase::Idle => false,
        };
        if held || self.forced.hopeless == Some(rejected) && !self.may_force(now) {
            return Rejection::PassOn;
        }
        let young = token.is_some_and(|token| token.age(now) < settle_time(token));
        if let (true, Some(wait)) = (young, SETTLE_WAITS.get(settled)) {
            return Rejection::Settle(*wait);
        }
        // A token that no rejection had asked for says nothing about what asking is worth.
        let was_asked_for = self.forced.from.is_some_and(|from| from < rejected);
        if renewed && !was_asked_for {
            return Rejection::PassOn;
        }
        if renewed || !self.may_force(now) {
            self.did_not_help(rejected, now);
            return Rejection::PassOn;
        }
        if self.budget.spent(now).is_some() {
            return Rejection::PassOn;
        }
        self.forced.from = Some(rejected);
        self.forced.after = Some(now.after(self.forced.pause.unwrap_or(FORCED_MIN)));
        self.depart(true);
        Rejection::StartAndWait
    }

    fn may_force(&self, now: Moment) -> bool {
        self.forced.after.is_none_or(|after| after.is_over(now))
    }

    /// Once per generation: the pause doubles while new tokens are rejected like old ones.
    fn did_not_help(&mut self, rejected: Generation, now: Moment) {
        if self.forced.hopeless == Some(rejected) {
            return;
        }
        self.forced.hopeless = Some(rejected);
        let pause = self.forced.pause.unwrap_or(FORCED_MIN);
        self.forced.after = Some(now.after(pause));
        self.forced.pause = Some((pause * 2).min(FORCED_MAX));
    }

    /// A request that was sent again with a new token was accepted: the refresh was worth it.
    pub(in crate::token) fn accepted(&mut self) {
        self.forced = Forced::default();
        self.budget.restore();
    }

    /// Did the last flight fail in a way that is over in moments?
    pub(in crate::token) fn is_paused_briefly(&self, now: Moment) -> bool {
        match &self.phase {
            Phase::Failing { until, why } => *why != super::NO_CHANGE && until.left(now) <= SAT_OUT,
            _ => false,
        }
    }

    /// Did the last flight bring the very token that had been rejected?
    pub(in crate::token) fn brought_the_same(&self) -> bool {
        matches!(self.phase, Phase::Failing { why: super::NO_CHANGE, .. })
    }
}

/// Scaled down for tokens that live seconds: of those all would be young all the time.
fn settle_time(token: &Token) -> Duration {
    token.lifetime().map_or(SETTLE, |lifetime| SETTLE.min(lifetime / 10))
}
