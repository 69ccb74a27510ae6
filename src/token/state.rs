//! When a token is replaced, and who waits for it: a pure state machine.
//!
//! The machine is asked, each time with the time: what a request may do ([`State::want`]), what to make
//! of a rejection ([`State::reject`]), whether there is something to do that nobody asked for
//! ([`State::tick`]), and what follows from the end of a flight ([`State::finish`]). It does no I/O,
//! holds no token and reads no clock.
//!
//! Invariant: between an answer that starts a flight and the call of `finish`, no other answer
//! starts one. So there is one token request at a time, however many requests ask.

mod evidence;

use std::time::{Duration, SystemTime};

use super::{FailureReason, Generation, Token};
use crate::clock::Moment;
use crate::oauth::RetryPace;
use crate::store::{TerminalReason, TokenRecord};
use evidence::Evidence;

/// A pause so short is sat out by whoever needs a token: most clients make more of a late answer than of
/// a 503 (the torture test's clients see no failure). A longer one is said at once, so that nothing
/// piles up behind a server that is down.
pub(super) const SAT_OUT: Duration = Duration::from_secs(4);
/// Flights of one credential start at least so far apart, unless the last one's token was worth it.
const FLOOR: Duration = Duration::from_secs(1);
/// A rejection of a token this young may mean that the origin has not heard of it yet.
const SETTLE: Duration = Duration::from_secs(5);
/// How old such a token is when it is tried again: nobody was found who takes longer than 3 s.
const SETTLED: Duration = Duration::from_secs(3);
/// A credential that has been failing for so long is called out, once: most outages are over sooner.
const OVERDUE_AFTER: Duration = Duration::from_secs(15 * 60);
/// A refresh token is replaced when a tenth of its life is left, but not more than a week ahead.
const REFRESH_TOKEN_MARGIN: Duration = Duration::from_secs(7 * 86_400);
/// One that lives no longer is not kept alive: an unused credential would be refreshed all the time.
const SHORTEST_REFRESH_TOKEN: Duration = Duration::from_secs(3600);
/// So long before a grant ends it is called out, once.
pub(super) const GRANT_ENDS: Duration = Duration::from_secs(7 * 86_400);

/// The machine.
#[derive(Debug, Default)]
pub(super) struct State {
    in_flight: bool,
    /// No flight starts before it is over.
    hold: Option<Hold>,
    /// No flight starts at all: what the record and the configuration leave to do is nothing.
    end: Option<TerminalReason>,
    /// Failures of the same pace in a row, for the backoff.
    failures: u32,
    pace: Option<RetryPace>,
    /// When the first failure since the last success was, and whether it has been called long.
    failing_since: Option<Moment>,
    is_overdue: bool,
    grant_ends: bool,
    /// When the last flight started.
    departed: Option<Moment>,
    /// The flight under way was wanted by a rejection.
    is_forced: bool,
    evidence: Evidence,
    /// Whether the start has looked at what it found.
    has_started: bool,
}

/// A pause after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) until: Moment,
    pub(super) why: FailureReason,
}

/// What may be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "with an answer that starts a flight the machine is in flight: somebody has to start it"]
pub(super) enum Verdict {
    /// Use the current token.
    Use,
    /// Use it, and start a flight in the background.
    UseAndStart,
    /// Start a flight and wait for it.
    Start,
    /// Wait for the flight that is under way.
    Wait,
    /// There is nothing to use, and nobody is asked before that.
    Hold(Hold),
    /// A person has to act.
    NeedsLogin(TerminalReason),
    /// The rejected token is brand-new: send again with it after this wait.
    Settle(Duration),
    /// Pass the rejection on to the client.
    PassOn,
    /// The same, and start a flight in the background.
    PassOnAndStart,
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All is well, or a person has to act: the record says so.
    Landed,
    /// It failed; ask again after the server's wish, or after a backoff of this pace.
    Failed { pace: RetryPace, wish: Option<Duration>, why: FailureReason },
}

/// A request that an origin server has rejected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejection<'a> {
    /// With this token.
    pub(super) token: &'a Token,
    /// Which resource was asked for: a hash of method and path.
    pub(super) target: u64,
    /// It can be sent once more.
    pub(super) resendable: bool,
    /// It was sent with a token that had replaced a rejected one.
    pub(super) renewed: bool,
    /// It has waited for its token to become known.
    pub(super) settled: bool,
}

/// What the timer finds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing<'a> {
    /// The current access token.
    pub(super) token: Option<&'a Token>,
    /// When the refresh token has to be used so that it does not die of idleness ([`upkeep`]).
    pub(super) upkeep: Option<SystemTime>,
    /// When the grant ends.
    pub(super) grant_end: Option<SystemTime>,
}

/// What the timer has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tick {
    /// Start a flight in the background.
    pub(super) start: bool,
    /// It has been failing for long; said once.
    pub(super) overdue: bool,
    /// The grant ends soon; said once.
    pub(super) grant_ends: bool,
}

impl State {
    /// May a request go ahead with `token`? Ask only when it is not plainly fresh.
    pub(super) fn want(&mut self, token: Option<&Token>, now: Moment) -> Verdict {
        let usable = token.is_some_and(|token| token.is_usable(now));
        if usable && token.is_some_and(|token| !token.is_due(now)) {
            return Verdict::Use;
        }
        match self.blocked(token, now) {
            Some(_) if usable => Verdict::Use,
            Some(verdict) => verdict,
            None => {
                self.depart(false, now);
                if usable { Verdict::UseAndStart } else { Verdict::Start }
            }
        }
    }

    /// What keeps a flight from starting.
    fn blocked(&self, token: Option<&Token>, now: Moment) -> Option<Verdict> {
        match self.end {
            // Whatever is still under way, what it brings is given back.
            Some(reason @ TerminalReason::LoggedOut) => return Some(Verdict::NeedsLogin(reason)),
            _ if self.in_flight => return Some(Verdict::Wait),
            Some(reason) => return Some(Verdict::NeedsLogin(reason)),
            None => {}
        }
        self.held(now).or_else(|| self.floor(token, now)).map(Verdict::Hold)
    }

    fn held(&self, now: Moment) -> Option<Hold> {
        self.hold.filter(|hold| !hold.until.is_over(now))
    }

    fn floor(&self, token: Option<&Token>, now: Moment) -> Option<Hold> {
        let until = self.departed?.after(FLOOR);
        let was_worth_it = token.is_some_and(Token::was_accepted);
        let hold = Hold { until, why: FailureReason::Floor };
        (!was_worth_it && !until.is_over(now)).then_some(hold)
    }

    fn depart(&mut self, is_forced: bool, now: Moment) {
        self.in_flight = true;
        self.is_forced = is_forced;
        self.departed = Some(now);
    }

    /// An origin rejected a request. `token` is the current one.
    pub(super) fn reject(
        &mut self,
        rejection: Rejection<'_>,
        token: Option<&Token>,
        now: Moment,
    ) -> Verdict {
        let Rejection { token: rejected, target, resendable, renewed, settled } = rejection;
        let or_pass_on = |verdict| if resendable { verdict } else { Verdict::PassOn };
        let newer = token.filter(|token| token.since > rejected.generation);
        if newer.is_some_and(|token| token.is_usable(now)) {
            return or_pass_on(Verdict::Use);
        }
        if newer.is_some_and(|token| token.left(now).is_some_and(|left| left.is_zero())) {
            // It is over already, which says nothing about the target or the next one.
            return match self.blocked(token, now) {
                Some(Verdict::NeedsLogin(_)) => Verdict::PassOn,
                Some(Verdict::Hold(hold)) if hold.until.left(now) > SAT_OUT => Verdict::PassOn,
                Some(verdict) => or_pass_on(verdict),
                None if resendable => {
                    self.depart(false, now);
                    Verdict::Start
                }
                None => Verdict::PassOn,
            };
        }
        let (settle, until) = settle_times(rejected);
        let age = rejected.age(now);
        let settles = resendable && !settled && age < until;
        // A token that was accepted, and that nobody accepts any more, is no good, whoever says so.
        let is_bad = rejected.was_rejected_by_all();
        let is_good = rejected.was_accepted_by(target) || is_bad;
        if renewed && !settles {
            // A fresh token does not help this target. Others may fare better, and then they are not held up.
            self.evidence.blame(target, now);
            if !rejected.was_accepted() {
                self.evidence.did_not_help(rejected.generation, is_good, now);
            }
        }
        // What it waited for the end of has ended.
        let is_current = token.is_some_and(|token| token.generation == rejected.generation);
        let waits_for_its_end = |verdict: &Verdict| matches!(verdict, Verdict::Hold(hold) if hold.why == FailureReason::AnswersLost);
        match self.blocked(token, now).filter(|verdict| !is_current || !waits_for_its_end(verdict))
        {
            Some(Verdict::NeedsLogin(_)) => {
                // No other will come: whoever asks next is told so instead of being rejected as well.
                token.filter(|it| it.generation == rejected.generation).inspect(|it| it.reject());
                return Verdict::PassOn;
            }
            Some(Verdict::Hold(hold)) if hold.until.left(now) > SAT_OUT => return Verdict::PassOn,
            Some(verdict) => return or_pass_on(verdict),
            None => {}
        }
        if settles {
            return Verdict::Settle(until - age);
        }
        // Whoever comes next waits for the token to become known, and may find it good.
        let may_be_unknown = !resendable && !settled && age < settle && !rejected.was_accepted();
        let target = (!is_bad).then_some(target);
        if may_be_unknown || !self.evidence.may_force(target, is_good, now) {
            return Verdict::PassOn;
        }
        self.evidence.force(rejected.generation, is_good, now);
        self.depart(true, now);
        if resendable { Verdict::Start } else { Verdict::PassOnAndStart }
    }

    /// An origin accepted a request with a token of this generation, for the first time. `renewed`: one that had
    /// been rejected with the token before.
    pub(super) fn accepted(&mut self, generation: Generation, renewed: bool) {
        self.evidence.accept(generation, renewed);
    }

    /// A target has accepted a token that it was blamed for rejecting.
    pub(super) fn forgive(&mut self, target: u64) {
        self.evidence.forgive(target);
    }

    /// Which targets are blamed, a bit for each: those are worth forgiving.
    pub(super) fn blamed(&self) -> u64 {
        self.evidence.blamed()
    }

    /// An operator wants a flight now, whatever is known.
    pub(super) fn force(&mut self, now: Moment) -> Verdict {
        if self.in_flight {
            return Verdict::Wait;
        }
        self.depart(false, now);
        Verdict::Start
    }

    /// Looks at the time. A token is replaced in the background if it is in its margin and somebody
    /// has used it, so that what nobody uses costs nothing; the first time, at the start, it need not
    /// have been used yet. Also when the refresh token would otherwise die of idleness.
    pub(super) fn tick(&mut self, standing: Standing<'_>, now: Moment) -> Tick {
        let Standing { token, upkeep, grant_end } = standing;
        let first = !std::mem::replace(&mut self.has_started, true);
        let overdue = !self.is_overdue
            && self.failing_since.is_some_and(|since| since.elapsed(now) >= OVERDUE_AFTER);
        self.is_overdue |= overdue;
        let is_near = grant_end.is_some_and(|end| ends_soon(end, now));
        let grant_ends = is_near && !self.grant_ends;
        self.grant_ends = is_near;
        let is_due = |token: &Token| {
            token.is_usable(now) && token.is_due(now) && (first || token.was_used())
        };
        let wanted = token.is_some_and(is_due) || upkeep.is_some_and(|due| now.wall >= due);
        let start = wanted && self.blocked(token, now).is_none();
        if start {
            self.depart(false, now);
        }
        Tick { start, overdue, grant_ends }
    }

    /// The flight is over. `jitter` in 0..1 spreads the attempts of several processes.
    pub(super) fn finish(&mut self, outcome: Outcome, now: Moment, jitter: f64) {
        self.in_flight = false;
        let was_forced = std::mem::take(&mut self.is_forced);
        match outcome {
            Outcome::Landed => self.succeed(),
            Outcome::Failed { pace, wish, why } => {
                if was_forced {
                    // It says nothing about what new tokens are worth.
                    self.evidence.did_not_happen();
                }
                if self.pace.replace(pace) != Some(pace) {
                    self.failures = 0;
                }
                self.failures = self.failures.saturating_add(1);
                let pause = backoff(pace, self.failures).mul_f64(1.0 - jitter / 2.0);
                let until = now.after(wish.unwrap_or_default().max(pause));
                self.hold = Some(Hold { until, why });
                self.failing_since.get_or_insert(now);
            }
        }
    }

    /// There is a token, or a person has to act: what failed before says nothing any more.
    pub(super) fn succeed(&mut self) {
        self.hold = None;
        self.failures = 0;
        self.pace = None;
        self.failing_since = None;
        self.is_overdue = false;
    }

    /// What the record and the configuration leave to do is nothing, or something again.
    pub(super) fn set_end(&mut self, end: Option<TerminalReason>) {
        self.end = end;
    }

    pub(super) fn end(&self) -> Option<TerminalReason> {
        self.end
    }

    pub(super) fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// What the last flight failed of, if nothing has succeeded since.
    pub(super) fn failing(&self) -> Option<(FailureReason, Moment)> {
        Some((self.hold?.why, self.failing_since?))
    }

    /// How long nobody is asked, if that is so now.
    pub(super) fn hold(&self, now: Moment) -> Option<Hold> {
        self.held(now)
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
fn settle_times(token: &Token) -> (Duration, Duration) {
    let scale = |time: Duration| token.lifetime().map_or(time, |it| time.min(it / 10));
    let settle = scale(SETTLE);
    (settle, settle.min(SETTLED))
}

/// Has an operator to hear of the end of a grant?
pub(super) fn ends_soon(end: SystemTime, now: Moment) -> bool {
    now.wall + GRANT_ENDS >= end
}

/// Is it so young that an origin may not have heard of it?
pub(super) fn is_young(token: &Token, now: Moment) -> bool {
    token.age(now) < settle_times(token).0
}

/// When the refresh token of `record` has to be used, counted from the last time it was: after
/// `keepalive`, or before the time at which the server said that it expires. Where the server does not
/// move that time, each use takes nine tenths off what is left: a handful of requests.
pub(super) fn upkeep(record: &TokenRecord, keepalive: Option<Duration>) -> Option<SystemTime> {
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
#[path = "state/tests.rs"]
mod tests;
