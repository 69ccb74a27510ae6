//! What a record and a configuration leave to do: pure.

use std::time::{Duration, SystemTime};

use super::{FailureReason, Seed};
use crate::oauth::{ErrorClass, GrantIdentity, GrantRenewal};
use crate::secret::{Fingerprint, Secret};
use crate::store::{IssuedFor, TerminalReason, TokenRecord};

/// Doubtful answers in a row after which a bootstrap is tried instead.
pub(super) const MAX_DOUBTS: u32 = 3;
/// Two bootstraps in so long are made at once; a third one waits.
const BOOTSTRAP_WINDOW: Duration = Duration::from_secs(600);
/// The pause between bootstraps that bring nothing, or not for long: at first, and at most. Authorization
/// servers lock accounts out after a few wrong passwords.
const BOOTSTRAP_PAUSE: Duration = Duration::from_secs(30);
const BOOTSTRAP_PAUSE_MAX: Duration = Duration::from_secs(300);
/// No server is left alone for longer, whatever clocks say meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What the record and the configuration leave to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextAction {
    /// Ask with the record's refresh token.
    Refresh(Secret),
    /// Ask with a seed that was never used; what was there before goes on if it is no good.
    TrySeed(Secret),
    /// Ask with what the configuration has.
    UseConfiguredGrant,
    /// Begin the grant anew, without a person.
    Bootstrap,
    /// Ask nobody before that.
    Wait(SystemTime, FailureReason),
    /// Ask nobody.
    Stop(TerminalReason),
}

/// What the configuration says about where grants come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrantSources<'a> {
    /// The first refresh token.
    pub(super) seed: Option<&'a Seed>,
    /// What the grant lives on.
    pub(super) renewal: GrantRenewal,
    /// The grant can be begun anew without a person.
    pub(super) can_bootstrap: bool,
    /// StoreChanges with everything that could make a refused grant succeed.
    pub(super) config: &'a Fingerprint,
    /// What tokens have to be issued for.
    pub(super) belonging: &'a GrantIdentity,
    /// Tokens are bound to a key.
    pub(super) bound: bool,
}

/// Is the grant of `record` the one of the configuration? Its refresh token is shown to nobody else.
pub(super) fn belongs_to_grant(record: &TokenRecord, sources: GrantSources<'_>) -> bool {
    match (&record.issued_for, &record.worked_with) {
        (Some(IssuedFor { grant, .. }), _) => sources.belonging.matches_grant(grant),
        (None, Some(config)) => config == sources.config,
        (None, None) => true,
    }
}

/// May the access token of `record` be put on requests of this configuration?
pub(super) fn has_usable_access_token(record: &TokenRecord, sources: GrantSources<'_>) -> bool {
    let asked = record.issued_for.as_ref().is_none_or(|it| it.request == sources.belonging.request);
    let is_on_trial = new_seed(record, sources).is_some();
    belongs_to_grant(record, sources)
        && asked
        && !is_on_trial
        && !record.is_tombstone()
        && (record.access_token.is_none() || record.bound == sources.bound)
}

/// Was it asked for something else, with the grant of this configuration?
pub(super) fn is_for_other_request(record: &TokenRecord, sources: GrantSources<'_>) -> bool {
    let other = |it: &IssuedFor| it.request != sources.belonging.request;
    record.issued_for.as_ref().is_some_and(other)
        && belongs_to_grant(record, sources)
        && new_seed(record, sources).is_none()
        && !record.is_tombstone()
}

/// What is left to do. `forced`: an operator wants one attempt, whatever is known; but a server that wants to be
/// left alone until `quiet` is.
pub(super) fn next_action(
    record: &TokenRecord,
    sources: GrantSources<'_>,
    is_damaged: bool,
    is_forced: bool,
    throttled_until: Option<SystemTime>,
    now: SystemTime,
) -> NextAction {
    let step = decide(record, sources, is_damaged, is_forced, now);
    let asks = !matches!(step, NextAction::Stop(_) | NextAction::Wait(..));
    match throttled_until {
        Some(until) if asks => NextAction::Wait(
            until.min(now + LONGEST_PAUSE),
            FailureReason::Answer(ErrorClass::Throttled),
        ),
        _ => step,
    }
}

fn decide(
    record: &TokenRecord,
    sources: GrantSources<'_>,
    is_damaged: bool,
    is_forced: bool,
    now: SystemTime,
) -> NextAction {
    if sources.renewal == GrantRenewal::Repeatable {
        // With no seed and no login, only another configuration can mean that it is wanted again.
        let is_meant = |config: &Fingerprint| config == sources.config;
        return match &record.terminal {
            Some(terminal) if record.is_tombstone() && is_meant(&terminal.config) => {
                NextAction::Stop(TerminalReason::LoggedOut)
            }
            _ => NextAction::UseConfiguredGrant,
        };
    }
    if let Some(seed) = new_seed(record, sources) {
        return NextAction::TrySeed(seed.clone());
    }
    let reason = match (&record.refresh_token, &record.terminal) {
        (_, Some(terminal))
            if record.is_tombstone()
                && (terminal.config == *sources.config || !sources.can_bootstrap) =>
        {
            return NextAction::Stop(TerminalReason::LoggedOut);
        }
        (Some(_), _) if !belongs_to_grant(record, sources) => TerminalReason::OtherGrant,
        (Some(refresh_token), Some(terminal))
            if terminal.config == *sources.config
                && terminal.refresh_token == Some(refresh_token.fingerprint()) =>
        {
            if is_forced {
                return NextAction::Refresh(refresh_token.clone());
            }
            terminal.reason
        }
        (Some(_), _) if record.doubts >= MAX_DOUBTS && sources.can_bootstrap && !is_forced => {
            // Whether it is dead nobody knows; a new one is as good.
            return match bootstrap_pause(record, now) {
                Some(until) => NextAction::Wait(until, FailureReason::BootstrapPause),
                None => NextAction::Bootstrap,
            };
        }
        (Some(refresh_token), _) => return NextAction::Refresh(refresh_token.clone()),
        (None, _) if is_damaged => TerminalReason::Corrupt,
        (None, _) => TerminalReason::NoGrant,
    };
    // What only a person can do is not healed by doing the same again without one.
    if !sources.can_bootstrap || reason == TerminalReason::UserNeeded {
        return NextAction::Stop(reason);
    }
    match bootstrap_pause(record, now).filter(|_| !is_forced) {
        Some(until) => NextAction::Wait(until, FailureReason::BootstrapPause),
        None => NextAction::Bootstrap,
    }
}

/// The configured seed, if it was never used: neither as a seed nor as what the server had issued. Strict
/// servers revoke everything for a refresh token that comes a second time.
fn new_seed<'a>(record: &TokenRecord, sources: GrantSources<'a>) -> Option<&'a Secret> {
    if sources.renewal == GrantRenewal::Repeatable {
        return None;
    }
    let seed = sources.seed?.value.as_ref()?;
    let hash = seed.fingerprint();
    let is_current =
        record.refresh_token.as_ref() == Some(seed) && belongs_to_grant(record, sources);
    let is_known = record.seeds.contains(&hash) || record.has_superseded(&hash) || is_current;
    (!is_known).then_some(seed)
}

/// When the next bootstrap may be made. One that brought no refresh token forbids none: its access tokens are
/// all that it gives.
fn bootstrap_pause(record: &TokenRecord, now: SystemTime) -> Option<SystemTime> {
    let last = record.bootstrap.as_ref()?;
    if last.refused == 0 && record.refresh_token.is_none() {
        return None;
    }
    let is_recent = |at: SystemTime| now.duration_since(at).is_ok_and(|it| it < BOOTSTRAP_WINDOW);
    if last.refused == 0 && !(is_recent(last.at) && last.before.is_some_and(is_recent)) {
        return None;
    }
    let doublings = last.refused.saturating_sub(1).min(8);
    let until = last.at + (BOOTSTRAP_PAUSE * (1 << doublings)).min(BOOTSTRAP_PAUSE_MAX);
    // An attempt in the future: the clock was set back since.
    (now >= last.at && now < until).then_some(until)
}

#[cfg(test)]
#[path = "next_action/tests.rs"]
mod tests;
