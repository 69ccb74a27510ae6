//! When a token is replaced, and who waits for it: a pure state machine.
//!
//! The machine is asked, each time with the time: what a request may do ([`RefreshState::want`]), what to make
//! of a rejection ([`RefreshState::reject`]), whether there is something to do that nobody asked for
//! ([`RefreshState::tick`]), and what follows from the end of a flight ([`RefreshState::finish`]). It does no I/O,
//! holds no token and reads no clock.
//!
//! Invariant: between an answer that starts a flight and the call of `finish`, no other answer
//! starts one. So there is one token request at a time, however many requests ask.

mod forced_refresh;

use std::time::{Duration, SystemTime};

use super::{AccessToken, FailureReason, Generation};
use crate::clock::Moment;
use crate::oauth::RetryPace;
use crate::store::{TerminalReason, TokenRecord};
use forced_refresh::ForcedRefreshLimiter;

/// A pause so short is sat out by whoever needs a token: most clients make more of a late answer than of
/// a 503 (the torture test's clients see no failure). A longer one is said at once, so that nothing
/// piles up behind a server that is down.
pub(super) const MAX_WAITED_BACKOFF: Duration = Duration::from_secs(4);
/// Flights of one credential start at least so far apart, unless the last one's token was worth it.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// A rejection of a token this young may mean that the origin has not heard of it yet.
const PROPAGATION_WINDOW: Duration = Duration::from_secs(5);
/// How old such a token is when it is tried again: nobody was found who takes longer than 3 s.
const PROPAGATION_DELAY: Duration = Duration::from_secs(3);
/// A credential that has been failing for so long is called out, once: most outages are over sooner.
const OVERDUE_AFTER: Duration = Duration::from_secs(15 * 60);
/// A refresh token is replaced when a tenth of its life is left, but not more than a week ahead.
const REFRESH_TOKEN_MARGIN: Duration = Duration::from_secs(7 * 86_400);
/// One that lives no longer is not kept alive: an unused credential would be refreshed all the time.
const SHORTEST_REFRESH_TOKEN: Duration = Duration::from_secs(3600);
/// So long before a grant ends it is called out, once.
pub(super) const GRANT_END_NOTICE: Duration = Duration::from_secs(7 * 86_400);

/// The machine.
#[derive(Debug, Default)]
pub(super) struct RefreshState {
    is_in_flight: bool,
    /// No flight starts before it is over.
    backoff: Option<Backoff>,
    /// No flight starts at all: what the record and the configuration leave to do is nothing.
    terminal: Option<TerminalReason>,
    /// Failures of the same pace in a row, for the backoff.
    failures: u32,
    pace: Option<RetryPace>,
    /// When the first failure since the last success was, and whether it has been called long.
    failing_since: Option<Moment>,
    has_reported_overdue: bool,
    grant_ends: bool,
    /// When the last flight started.
    last_started: Option<Moment>,
    /// The flight under way was wanted by a rejection.
    is_forced: bool,
    limiter: ForcedRefreshLimiter,
    /// Whether the start has looked at what it found.
    has_started: bool,
}

/// A pause after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    pub(super) until: Moment,
    pub(super) reason: FailureReason,
}

/// What may be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "with an answer that starts a flight the machine is in flight: somebody has to start it"]
pub(super) enum RefreshDecision {
    /// Use the current token.
    Use,
    /// Use it, and start a flight in the background.
    UseAndStart,
    /// Start a flight and wait for it.
    Start,
    /// Wait for the flight that is under way.
    Wait,
    /// There is nothing to use, and nobody is asked before that.
    BackOff(Backoff),
    /// A person has to act.
    NeedsLogin(TerminalReason),
    /// The rejected token is brand-new: send again with it after this wait.
    RetryAfter(Duration),
    /// Pass the rejection on to the client.
    PassOn,
    /// The same, and start a flight in the background.
    PassOnAndStart,
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightOutcome {
    /// All is well, or a person has to act: the record says so.
    Completed,
    /// It failed; ask again after the server's wish, or after a backoff of this pace.
    Failed { pace: RetryPace, retry_after: Option<Duration>, reason: FailureReason },
}

/// A request that an origin server has rejected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejection<'a> {
    /// With this token.
    pub(super) token: &'a AccessToken,
    /// Which resource was asked for: a hash of method and path.
    pub(super) target: u64,
    /// It can be sent once more.
    pub(super) can_resend: bool,
    /// It was sent with a token that had replaced a rejected one.
    pub(super) has_new_token: bool,
    /// It has waited for its token to become known.
    pub(super) has_waited: bool,
}

/// What the timer finds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimerInput<'a> {
    /// The current access token.
    pub(super) token: Option<&'a AccessToken>,
    /// When the refresh token has to be used so that it does not die of idleness ([`upkeep`]).
    pub(super) keepalive_at: Option<SystemTime>,
    /// When the grant ends.
    pub(super) grant_end: Option<SystemTime>,
}

/// What the timer has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimerActions {
    /// Start a flight in the background.
    pub(super) start: bool,
    /// It has been failing for long; said once.
    pub(super) is_overdue: bool,
    /// The grant ends soon; said once.
    pub(super) grant_ends: bool,
}

impl RefreshState {
    /// May a request go ahead with `token`? Ask only when it is not plainly fresh.
    pub(super) fn request_token(
        &mut self,
        token: Option<&AccessToken>,
        now: Moment,
    ) -> RefreshDecision {
        let usable = token.is_some_and(|token| token.is_usable(now));
        if usable && token.is_some_and(|token| !token.is_due(now)) {
            return RefreshDecision::Use;
        }
        match self.blocked(token, now) {
            Some(_) if usable => RefreshDecision::Use,
            Some(decision) => decision,
            None => {
                self.start_flight(false, now);
                if usable { RefreshDecision::UseAndStart } else { RefreshDecision::Start }
            }
        }
    }

    /// What keeps a flight from starting.
    fn blocked(&self, token: Option<&AccessToken>, now: Moment) -> Option<RefreshDecision> {
        match self.terminal {
            // Whatever is still under way, what it brings is given back.
            Some(reason @ TerminalReason::LoggedOut) => {
                return Some(RefreshDecision::NeedsLogin(reason));
            }
            _ if self.is_in_flight => return Some(RefreshDecision::Wait),
            Some(reason) => return Some(RefreshDecision::NeedsLogin(reason)),
            None => {}
        }
        self.active_backoff(now)
            .or_else(|| self.min_interval(token, now))
            .map(RefreshDecision::BackOff)
    }

    fn active_backoff(&self, now: Moment) -> Option<Backoff> {
        self.backoff.filter(|backoff| !backoff.until.is_over(now))
    }

    fn min_interval(&self, token: Option<&AccessToken>, now: Moment) -> Option<Backoff> {
        let until = self.last_started?.after(MIN_INTERVAL);
        let was_worth_it = token.is_some_and(AccessToken::was_accepted);
        let backoff = Backoff { until, reason: FailureReason::MinInterval };
        (!was_worth_it && !until.is_over(now)).then_some(backoff)
    }

    fn start_flight(&mut self, is_forced: bool, now: Moment) {
        self.is_in_flight = true;
        self.is_forced = is_forced;
        self.last_started = Some(now);
    }

    /// An origin rejected a request. `token` is the current one.
    pub(super) fn record_rejection(
        &mut self,
        rejection: Rejection<'_>,
        token: Option<&AccessToken>,
        now: Moment,
    ) -> RefreshDecision {
        let Rejection { token: rejected, target, can_resend, has_new_token, has_waited } =
            rejection;
        let or_pass_on = |decision| if can_resend { decision } else { RefreshDecision::PassOn };
        let newer = token.filter(|token| token.since > rejected.generation);
        if newer.is_some_and(|token| token.is_usable(now)) {
            return or_pass_on(RefreshDecision::Use);
        }
        if newer.is_some_and(|token| token.left(now).is_some_and(|left| left.is_zero())) {
            // It is over already, which says nothing about the target or the next one.
            return match self.blocked(token, now) {
                Some(RefreshDecision::NeedsLogin(_)) => RefreshDecision::PassOn,
                Some(RefreshDecision::BackOff(backoff))
                    if backoff.until.left(now) > MAX_WAITED_BACKOFF =>
                {
                    RefreshDecision::PassOn
                }
                Some(decision) => or_pass_on(decision),
                None if can_resend => {
                    self.start_flight(false, now);
                    RefreshDecision::Start
                }
                None => RefreshDecision::PassOn,
            };
        }
        let (window, until) = propagation_times(rejected);
        let age = rejected.age(now);
        let should_wait = can_resend && !has_waited && age < until;
        // A token that was accepted, and that nobody accepts any more, is no good, whoever says so.
        let is_bad = rejected.was_rejected_by_several();
        let is_trusted = rejected.was_accepted_by(target) || is_bad;
        if has_new_token && !should_wait {
            // A fresh token does not help this target. Others may fare better, and then they are not held up.
            self.limiter.blame_target(target, now);
            if !rejected.was_accepted() {
                self.limiter.record_unhelpful(rejected.generation, is_trusted, now);
            }
        }
        // What it waited for the end of has ended.
        let is_current = token.is_some_and(|token| token.generation == rejected.generation);
        let waits_for_its_end = |decision: &RefreshDecision| matches!(decision, RefreshDecision::BackOff(backoff) if backoff.reason == FailureReason::AnswersLost);
        match self
            .blocked(token, now)
            .filter(|decision| !is_current || !waits_for_its_end(decision))
        {
            Some(RefreshDecision::NeedsLogin(_)) => {
                // No other will come: whoever asks next is told so instead of being rejected as well.
                token
                    .filter(|it| it.generation == rejected.generation)
                    .inspect(|it| it.mark_rejected());
                return RefreshDecision::PassOn;
            }
            Some(RefreshDecision::BackOff(backoff))
                if backoff.until.left(now) > MAX_WAITED_BACKOFF =>
            {
                return RefreshDecision::PassOn;
            }
            Some(decision) => return or_pass_on(decision),
            None => {}
        }
        if should_wait {
            return RefreshDecision::RetryAfter(until - age);
        }
        // Whoever comes next waits for the token to become known, and may find it good.
        let may_be_unknown = !can_resend && !has_waited && age < window && !rejected.was_accepted();
        let target = (!is_bad).then_some(target);
        if may_be_unknown || !self.limiter.allows(target, is_trusted, now) {
            return RefreshDecision::PassOn;
        }
        self.limiter.record_forced(rejected.generation, is_trusted, now);
        self.start_flight(true, now);
        if can_resend { RefreshDecision::Start } else { RefreshDecision::PassOnAndStart }
    }

    /// An origin accepted a request with a token of this generation, for the first time. `renewed`: one that had
    /// been rejected with the token before.
    pub(super) fn record_acceptance(&mut self, generation: Generation, has_new_token: bool) {
        self.limiter.record_acceptance(generation, has_new_token);
    }

    /// A target has accepted a token that it was blamed for rejecting.
    pub(super) fn clear_target(&mut self, target: u64) {
        self.limiter.clear_target(target);
    }

    /// Which targets are blamed, a bit for each: those are worth forgiving.
    pub(super) fn blamed_targets(&self) -> u64 {
        self.limiter.blamed_targets()
    }

    /// An operator wants a flight now, whatever is known.
    pub(super) fn force_flight(&mut self, now: Moment) -> RefreshDecision {
        if self.is_in_flight {
            return RefreshDecision::Wait;
        }
        self.start_flight(false, now);
        RefreshDecision::Start
    }

    /// Looks at the time. A token is replaced in the background if it is in its margin and somebody
    /// has used it, so that what nobody uses costs nothing; the first time, at the start, it need not
    /// have been used yet. Also when the refresh token would otherwise die of idleness.
    pub(super) fn tick(&mut self, input: TimerInput<'_>, now: Moment) -> TimerActions {
        let TimerInput { token, keepalive_at, grant_end } = input;
        let first = !std::mem::replace(&mut self.has_started, true);
        let is_overdue = !self.has_reported_overdue
            && self.failing_since.is_some_and(|since| since.elapsed(now) >= OVERDUE_AFTER);
        self.has_reported_overdue |= is_overdue;
        let is_near = grant_end.is_some_and(|end| ends_soon(end, now));
        let grant_ends = is_near && !self.grant_ends;
        self.grant_ends = is_near;
        let is_due = |token: &AccessToken| {
            token.is_usable(now) && token.is_due(now) && (first || token.was_used())
        };
        let wanted = token.is_some_and(is_due) || keepalive_at.is_some_and(|due| now.wall >= due);
        let start = wanted && self.blocked(token, now).is_none();
        if start {
            self.start_flight(false, now);
        }
        TimerActions { start, is_overdue, grant_ends }
    }

    /// The flight is over. `jitter` in 0..1 spreads the attempts of several processes.
    pub(super) fn finish_flight(&mut self, outcome: FlightOutcome, now: Moment, jitter: f64) {
        self.is_in_flight = false;
        let was_forced = std::mem::take(&mut self.is_forced);
        match outcome {
            FlightOutcome::Completed => self.clear_failures(),
            FlightOutcome::Failed { pace, retry_after, reason } => {
                if was_forced {
                    // It says nothing about what new tokens are worth.
                    self.limiter.clear_pauses();
                }
                if self.pace.replace(pace) != Some(pace) {
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(1);
                let pause = backoff(pace, self.failures).mul_f64(1.0 - jitter / 2.0);
                let until = now.after(retry_after.unwrap_or_default().max(pause));
                self.backoff = Some(Backoff { until, reason });
                self.failing_since.get_or_insert(now);
            }
        }
    }

    /// There is a token, or a person has to act: what failed before says nothing any more.
    pub(super) fn clear_failures(&mut self) {
        self.backoff = None;
        self.failures = 0;
        self.pace = None;
        self.failing_since = None;
        self.has_reported_overdue = false;
    }

    /// What the record and the configuration leave to do is nothing, or something again.
    pub(super) fn set_terminal(&mut self, terminal: Option<TerminalReason>) {
        self.terminal = terminal;
    }

    pub(super) fn terminal(&self) -> Option<TerminalReason> {
        self.terminal
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.is_in_flight
    }

    /// What the last flight failed of, if nothing has succeeded since.
    pub(super) fn failure(&self) -> Option<(FailureReason, Moment)> {
        Some((self.backoff?.reason, self.failing_since?))
    }

    /// How long nobody is asked, if that is so now.
    pub(super) fn backoff(&self, now: Moment) -> Option<Backoff> {
        self.active_backoff(now)
    }
}

/// The pause after so many failures in a row.
fn backoff(pace: RetryPace, failures: u32) -> Duration {
    let (first, last) = match pace {
        RetryPace::Unsent => (1, 5),
        RetryPace::Short => (1, 60),
        RetryPace::Growing => (1, 900),
        RetryPace::Long => (60, 900),
    };
    let factor = 1_u64 << failures.saturating_sub(1).min(16);
    Duration::from_secs((first * factor).min(last))
}

/// Until which age a token is young, and at which it is tried again. Scaled down for tokens that live seconds:
/// of those all would be young all the time.
fn propagation_times(token: &AccessToken) -> (Duration, Duration) {
    let scale = |time: Duration| token.lifetime().map_or(time, |it| time.min(it / 10));
    let window = scale(PROPAGATION_WINDOW);
    (window, window.min(PROPAGATION_DELAY))
}

/// Has an operator to hear of the end of a grant?
pub(super) fn ends_soon(end: SystemTime, now: Moment) -> bool {
    now.wall + GRANT_END_NOTICE >= end
}

/// Is it so young that an origin may not have heard of it?
pub(super) fn is_newly_issued(token: &AccessToken, now: Moment) -> bool {
    token.age(now) < propagation_times(token).0
}

/// When the refresh token of `record` has to be used, counted from the last time it was: after
/// `keepalive`, or before the time at which the server said that it expires. Where the server does not
/// move that time, each use takes nine tenths off what is left: a handful of requests.
pub(super) fn keepalive_at(
    record: &TokenRecord,
    keepalive: Option<Duration>,
) -> Option<SystemTime> {
    record.refresh_token.as_ref()?;
    let used_at = record.issued_at?;
    let idle = keepalive.and_then(|keepalive| used_at.checked_add(keepalive));
    let before_its_end = record.refresh_expires_at.and_then(|expires_at| {
        let lifetime = expires_at.duration_since(used_at).ok()?;
        let margin = (lifetime / 10).min(REFRESH_TOKEN_MARGIN);
        (lifetime >= SHORTEST_REFRESH_TOKEN).then(|| expires_at - margin)
    });
    idle.into_iter().chain(before_its_end).min()
}

#[cfg(test)]
#[path = "refresh_state/tests.rs"]
mod tests;
