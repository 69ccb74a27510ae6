//! When a token is refreshed, and which requests wait for it: a pure state machine.
//!
//! Each call passes the current time: what a request may do ([`RefreshState::request_token`]), how a rejection is
//! handled ([`RefreshState::record_rejection`]), whether the timer has something to do ([`RefreshState::tick`]),
//! and what the end of a flight means ([`RefreshState::finish_flight`]). The machine does no I/O, holds no token
//! and reads no clock.
//!
//! Invariant: between a decision that starts a flight and the call of `finish_flight`, no other decision starts
//! one. So there is one token request at a time, however many requests need a token.

mod forced_refresh;

use std::time::{Duration, SystemTime};

use super::{AccessToken, FailureReason, Generation};
use crate::clock::Moment;
use crate::oauth::RetryPace;
use crate::store::{TerminalReason, TokenRecord};
use forced_refresh::ForcedRefreshLimiter;

/// Requests wait out backoffs up to this long; longer ones fail immediately. Most clients handle a late response
/// better than a 503, but requests must not pile up behind a server that is down.
pub(super) const MAX_WAITED_BACKOFF: Duration = Duration::from_secs(4);
/// The minimum interval between two flights of one credential, unless the last token was accepted.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// If a token this young is rejected, the origin server may not know it yet.
const PROPAGATION_WINDOW: Duration = Duration::from_secs(5);
/// The age at which such a token is tried again. No known server takes longer than 3 s.
const PROPAGATION_DELAY: Duration = Duration::from_secs(3);
/// A credential that has been failing for this long is reported once. Most outages are shorter.
const OUTAGE_NOTICE: Duration = Duration::from_secs(15 * 60);
/// A refresh token is replaced when a tenth of its lifetime is left, but at most a week before its expiry.
const REFRESH_TOKEN_MARGIN: Duration = Duration::from_secs(7 * 86_400);
/// A refresh token with a shorter lifetime is not kept alive: an unused credential would be refreshed constantly.
const MIN_KEPT_ALIVE_LIFETIME: Duration = Duration::from_secs(3600);
/// The end of a grant is reported once, this long before it.
pub(super) const GRANT_END_NOTICE: Duration = Duration::from_secs(7 * 86_400);

/// The state machine of one credential.
#[derive(Debug, Default)]
pub(super) struct RefreshState {
    is_in_flight: bool,
    /// No flight starts before the end of this backoff.
    backoff: Option<Backoff>,
    /// No flight starts at all: the record and the configuration leave no grant to use.
    terminal: Option<TerminalReason>,
    /// Consecutive failures of the same pace, for the backoff.
    failures: u32,
    pace: Option<RetryPace>,
    /// When the first failure since the last success occurred.
    failing_since: Option<Moment>,
    has_reported_outage: bool,
    has_reported_grant_end: bool,
    last_started: Option<Moment>,
    /// A rejection caused the flight in progress.
    is_after_rejection: bool,
    limiter: ForcedRefreshLimiter,
    /// The timer has seen a token.
    has_ticked: bool,
}

/// A pause after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    pub(super) until: Moment,
    pub(super) reason: FailureReason,
}

/// What a request has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a decision that starts a flight has set the state to in flight; the caller must start it"]
pub(super) enum RefreshDecision {
    /// Use the current token.
    Use,
    /// Use the current token, and start a flight in the background.
    UseAndStart,
    /// Start a flight and wait for it.
    Start,
    /// Wait for the flight in progress.
    Wait,
    /// There is no usable token, and no token request is made before the end of this backoff.
    BackOff(Backoff),
    /// An operator has to act.
    NeedsLogin(TerminalReason),
    /// The rejected token is newly issued: send the request with it again after this wait.
    ResendAfter(Duration),
    /// Pass the rejection on to the client.
    PassOn,
    /// Pass the rejection on, and start a flight in the background.
    PassOnAndStart,
}

impl RefreshDecision {
    /// Returns true if the caller has to start a flight.
    pub(super) fn starts_flight(&self) -> bool {
        matches!(self, Self::Start | Self::UseAndStart | Self::PassOnAndStart)
    }
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightOutcome {
    /// The record holds a new token, or states that an operator has to act.
    Completed,
    /// The flight failed. The next one starts after the server's `Retry-After` or after a backoff of this pace,
    /// whichever is longer.
    Failed { pace: RetryPace, retry_after: Option<Duration>, reason: FailureReason },
}

/// A request that an origin server has rejected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejection<'a> {
    /// The token that the request was sent with.
    pub(super) token: &'a AccessToken,
    /// The requested resource: a hash of method and path.
    pub(super) target: u64,
    /// The request can be sent again.
    pub(super) can_resend: bool,
    /// `token` had replaced a token that was rejected for the same request.
    pub(super) has_new_token: bool,
    /// The request has waited for its token to become known to the origin server.
    pub(super) has_waited: bool,
}

/// What the timer looks at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimerInput<'a> {
    /// The current access token.
    pub(super) token: Option<&'a AccessToken>,
    /// When the refresh token has to be used so that it does not expire unused ([`keepalive_at`]).
    pub(super) keepalive_at: Option<SystemTime>,
    /// When the grant ends.
    pub(super) grant_end: Option<SystemTime>,
}

/// What the timer has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimerActions {
    /// Start a flight in the background.
    pub(super) start: bool,
    /// Report that the credential has been failing for a long time. Set once per outage.
    pub(super) report_outage: bool,
    /// Report that the grant ends soon. Set once per grant.
    pub(super) report_grant_end: bool,
}

impl RefreshState {
    /// Decides what a request that needs a token has to do. `token` is the current token.
    pub(super) fn request_token(
        &mut self,
        token: Option<&AccessToken>,
        now: Moment,
    ) -> RefreshDecision {
        let is_usable = token.is_some_and(|token| token.is_usable(now));
        if is_usable && token.is_some_and(|token| !token.is_due(now)) {
            return RefreshDecision::Use;
        }
        match self.blocked(token, now) {
            Some(_) if is_usable => RefreshDecision::Use,
            Some(decision) => decision,
            None => {
                self.start_flight(false, now);
                if is_usable { RefreshDecision::UseAndStart } else { RefreshDecision::Start }
            }
        }
    }

    /// Returns the decision for a request without a usable token, if no flight may start now.
    fn blocked(&self, token: Option<&AccessToken>, now: Moment) -> Option<RefreshDecision> {
        match self.terminal {
            // The tokens that a flight in progress obtains after a logout are revoked.
            Some(reason @ TerminalReason::LoggedOut) => {
                return Some(RefreshDecision::NeedsLogin(reason));
            }
            _ if self.is_in_flight => return Some(RefreshDecision::Wait),
            Some(reason) => return Some(RefreshDecision::NeedsLogin(reason)),
            None => {}
        }
        self.backoff(now)
            .or_else(|| self.min_interval_backoff(token, now))
            .map(RefreshDecision::BackOff)
    }

    fn min_interval_backoff(&self, token: Option<&AccessToken>, now: Moment) -> Option<Backoff> {
        let until = self.last_started?.after(MIN_INTERVAL);
        let was_accepted = token.is_some_and(AccessToken::was_accepted);
        let backoff = Backoff { until, reason: FailureReason::MinInterval };
        (!was_accepted && !until.is_over(now)).then_some(backoff)
    }

    fn start_flight(&mut self, is_after_rejection: bool, now: Moment) {
        self.is_in_flight = true;
        self.is_after_rejection = is_after_rejection;
        self.last_started = Some(now);
    }

    /// Decides how the rejection of a request by an origin server is handled. `token` is the current token.
    pub(super) fn record_rejection(
        &mut self,
        rejection: Rejection<'_>,
        token: Option<&AccessToken>,
        now: Moment,
    ) -> RefreshDecision {
        let Rejection { token: rejected, target, can_resend, has_new_token, has_waited } =
            rejection;
        let or_pass_on = |decision| if can_resend { decision } else { RefreshDecision::PassOn };
        let is_long = |backoff: &Backoff| backoff.until.left(now) > MAX_WAITED_BACKOFF;
        let newer = token.filter(|token| token.first_generation > rejected.generation);
        if newer.is_some_and(|token| token.is_usable(now)) {
            return or_pass_on(RefreshDecision::Use);
        }
        if newer.is_some_and(|token| token.time_left(now).is_some_and(|left| left.is_zero())) {
            // The newer token has expired, which says nothing about the target or about the next token.
            return match self.blocked(token, now) {
                Some(RefreshDecision::NeedsLogin(_)) => RefreshDecision::PassOn,
                Some(RefreshDecision::BackOff(backoff)) if is_long(&backoff) => {
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
        let (window, delay) = propagation_times(rejected);
        let age = rejected.age(now);
        let should_wait = can_resend && !has_waited && age < delay;
        // A token that was accepted before and is now rejected by several targets is invalid, whichever target
        // reports it.
        let is_bad = rejected.was_rejected_by_several();
        let is_trusted = rejected.was_accepted_by(target) || is_bad;
        if has_new_token && !should_wait {
            // A new token does not help this target. Its pause is its own, so that it delays no other target.
            self.limiter.blame_target(target, now);
            if !rejected.was_accepted() {
                self.limiter.record_unhelpful(rejected.generation, is_trusted, now);
            }
        }
        // A backoff that lasts until the current token is unusable ends with the rejection of that token.
        let is_current = token.is_some_and(|token| token.generation == rejected.generation);
        let ends_now = |decision: &RefreshDecision| {
            is_current
                && matches!(decision, RefreshDecision::BackOff(backoff)
                    if backoff.reason == FailureReason::AnswersLost)
        };
        match self.blocked(token, now).filter(|decision| !ends_now(decision)) {
            Some(RefreshDecision::NeedsLogin(_)) => {
                // There will be no other token. Later requests fail immediately instead of being rejected as well.
                token.filter(|_| is_current).inspect(|token| token.mark_rejected());
                return RefreshDecision::PassOn;
            }
            Some(RefreshDecision::BackOff(backoff)) if is_long(&backoff) => {
                return RefreshDecision::PassOn;
            }
            Some(decision) => return or_pass_on(decision),
            None => {}
        }
        if should_wait {
            return RefreshDecision::ResendAfter(delay - age);
        }
        // If this request cannot wait for the token to become known, a later one can, and may succeed.
        let may_be_unknown = !can_resend && !has_waited && age < window && !rejected.was_accepted();
        let target = (!is_bad).then_some(target);
        if may_be_unknown || !self.limiter.allows(target, is_trusted, now) {
            return RefreshDecision::PassOn;
        }
        self.limiter.record_forced(rejected.generation, is_trusted, now);
        self.start_flight(true, now);
        if can_resend { RefreshDecision::Start } else { RefreshDecision::PassOnAndStart }
    }

    /// Records that an origin server accepted a token of this generation for the first time. `has_new_token`: the
    /// request had been rejected with an older token before.
    pub(super) fn record_acceptance(&mut self, generation: Generation, has_new_token: bool) {
        self.limiter.record_acceptance(generation, has_new_token);
    }

    /// Records that a blamed target has accepted a token.
    pub(super) fn clear_target(&mut self, target: u64) {
        self.limiter.clear_target(target);
    }

    /// Returns the blamed targets, one bit each.
    pub(super) fn blamed_targets(&self) -> u64 {
        self.limiter.blamed_targets()
    }

    /// Starts a flight for an operator, regardless of backoffs and terminal states.
    pub(super) fn force_flight(&mut self, now: Moment) -> RefreshDecision {
        if self.is_in_flight {
            return RefreshDecision::Wait;
        }
        self.start_flight(false, now);
        RefreshDecision::Start
    }

    /// Runs the timer. A token inside its margin is replaced in the background if it was used, so that an unused
    /// credential causes no requests; on the first run after the start it need not have been used. A refresh token
    /// that would otherwise expire unused is refreshed as well.
    pub(super) fn tick(&mut self, input: TimerInput<'_>, now: Moment) -> TimerActions {
        let TimerInput { token, keepalive_at, grant_end } = input;
        // The first look at a token counts: the entry ticks before its record has been read.
        let is_first = token.is_some() && !std::mem::replace(&mut self.has_ticked, true);
        let report_outage = !self.has_reported_outage
            && self.failing_since.is_some_and(|since| since.elapsed(now) >= OUTAGE_NOTICE);
        self.has_reported_outage |= report_outage;
        let is_near = grant_end.is_some_and(|end| ends_soon(end, now));
        let report_grant_end = is_near && !self.has_reported_grant_end;
        self.has_reported_grant_end = is_near;
        let is_due = |token: &AccessToken| {
            token.is_usable(now) && token.is_due(now) && (is_first || token.was_used())
        };
        let is_needed = token.is_some_and(is_due) || keepalive_at.is_some_and(|at| now.wall >= at);
        let start = is_needed && self.blocked(token, now).is_none();
        if start {
            self.start_flight(false, now);
        }
        TimerActions { start, report_outage, report_grant_end }
    }

    /// Records the end of a flight. `jitter`, from 0 to 1, spreads the attempts of several processes.
    pub(super) fn finish_flight(&mut self, outcome: FlightOutcome, now: Moment, jitter: f64) {
        self.is_in_flight = false;
        let was_after_rejection = std::mem::take(&mut self.is_after_rejection);
        match outcome {
            FlightOutcome::Completed => self.clear_failures(),
            FlightOutcome::Failed { pace, retry_after, reason } => {
                if was_after_rejection {
                    // There was no new token whose effect could be judged.
                    self.limiter.clear_pauses();
                }
                if self.pace.replace(pace) != Some(pace) {
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(1);
                let pause = backoff_duration(pace, self.failures).mul_f64(1.0 - jitter / 2.0);
                let until = now.after(retry_after.unwrap_or_default().max(pause));
                self.backoff = Some(Backoff { until, reason });
                self.failing_since.get_or_insert(now);
            }
        }
    }

    /// Resets the backoff: there is a token or another configuration, or an operator has to act.
    pub(super) fn clear_failures(&mut self) {
        self.backoff = None;
        self.failures = 0;
        self.pace = None;
        self.failing_since = None;
        self.has_reported_outage = false;
    }

    /// Sets why no flight may start, or `None` if one may.
    pub(super) fn set_terminal(&mut self, terminal: Option<TerminalReason>) {
        self.terminal = terminal;
    }

    pub(super) fn terminal(&self) -> Option<TerminalReason> {
        self.terminal
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.is_in_flight
    }

    /// Returns why the last flight failed and since when flights have been failing, unless one has succeeded since.
    pub(super) fn failure(&self) -> Option<(FailureReason, Moment)> {
        Some((self.backoff?.reason, self.failing_since?))
    }

    /// Returns the backoff that is in force now.
    pub(super) fn backoff(&self, now: Moment) -> Option<Backoff> {
        self.backoff.filter(|backoff| !backoff.until.is_over(now))
    }
}

/// Returns the pause after this many consecutive failures.
fn backoff_duration(pace: RetryPace, failures: u32) -> Duration {
    let (first, last) = match pace {
        RetryPace::Unsent => (1, 5),
        RetryPace::Short => (1, 60),
        RetryPace::Growing => (1, 900),
        RetryPace::Long => (60, 900),
    };
    let factor = 1_u64 << failures.saturating_sub(1).min(16);
    Duration::from_secs((first * factor).min(last))
}

/// Returns up to which age `token` counts as newly issued, and the age at which it is tried again. Both are scaled
/// down for tokens with lifetimes of seconds, which would otherwise always be newly issued.
fn propagation_times(token: &AccessToken) -> (Duration, Duration) {
    let window = token.lifetime().map_or(PROPAGATION_WINDOW, |it| PROPAGATION_WINDOW.min(it / 10));
    (window, window.min(PROPAGATION_DELAY))
}

/// Returns true if the end of a grant is near enough to be reported.
pub(super) fn ends_soon(end: SystemTime, now: Moment) -> bool {
    now.wall + GRANT_END_NOTICE >= end
}

/// Returns true if `token` is so young that an origin server may not know it yet.
pub(super) fn is_newly_issued(token: &AccessToken, now: Moment) -> bool {
    token.age(now) < propagation_times(token).0
}

/// Returns when the refresh token of `record` has to be used next so that it does not expire unused: `keepalive`
/// after its last use, or before the expiry that the server announced.
///
/// If the server does not extend that expiry, each use comes after nine tenths of the time left, which amounts to
/// a handful of requests.
pub(super) fn keepalive_at(
    record: &TokenRecord,
    keepalive: Option<Duration>,
) -> Option<SystemTime> {
    record.refresh_token.as_ref()?;
    let used_at = record.issued_at?;
    let idle = keepalive.and_then(|keepalive| used_at.checked_add(keepalive));
    let before_expiry = record.refresh_expires_at.and_then(|expires_at| {
        let lifetime = expires_at.duration_since(used_at).ok()?;
        let margin = (lifetime / 10).min(REFRESH_TOKEN_MARGIN);
        (lifetime >= MIN_KEPT_ALIVE_LIFETIME).then(|| expires_at - margin)
    });
    idle.into_iter().chain(before_expiry).min()
}

#[cfg(test)]
#[path = "refresh_state/tests.rs"]
mod tests;
