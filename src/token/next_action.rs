//! Which grant a refresh uses next, or why it uses none: a pure function of record and configuration.

use std::time::{Duration, SystemTime};

use super::{FailureReason, Seed};
use crate::oauth::{ErrorClass, GrantIdentity, GrantRenewal};
use crate::secret::{Fingerprint, Secret};
use crate::store::{IssuedFor, TerminalReason, TokenRecord};

/// After this many consecutive refusals that leave open whether the grant is dead ([`ErrorClass::Doubtful`]), a
/// bootstrap is tried instead.
pub(super) const MAX_DOUBTS: u32 = 3;
/// Two bootstraps within this time are made without a pause; a third one has to wait.
const BOOTSTRAP_WINDOW: Duration = Duration::from_secs(600);
/// The first and the longest pause between bootstraps that fail or whose grants end soon. Authorization servers lock
/// accounts after a few wrong passwords.
const BOOTSTRAP_PAUSE: Duration = Duration::from_secs(30);
const BOOTSTRAP_PAUSE_MAX: Duration = Duration::from_secs(300);
/// The longest that a `Retry-After` is obeyed, whatever the clocks show.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What a refresh does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextAction {
    /// Present the refresh token of the record.
    Refresh(Secret),
    /// Present a seed that was never used. If it is refused, the existing grant stays in use.
    TrySeed(Secret),
    /// Send the configured grant, which can be repeated at any time.
    UseConfiguredGrant,
    /// Obtain a new grant without a person.
    Bootstrap,
    /// Make no token request before this time.
    Wait(SystemTime, FailureReason),
    /// Make no token request until an operator acts.
    Stop(TerminalReason),
}

/// What the configuration says about grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrantSources<'a> {
    /// The first refresh token.
    pub(super) seed: Option<&'a Seed>,
    /// How the grant is renewed.
    pub(super) renewal: GrantRenewal,
    /// A new grant can be obtained without a person.
    pub(super) can_bootstrap: bool,
    /// A fingerprint of every setting that could make a refused grant succeed.
    pub(super) config: &'a Fingerprint,
    /// The grant and request that tokens must be issued for.
    pub(super) identity: &'a GrantIdentity,
    /// Tokens are bound to a key (RFC 9449).
    pub(super) bound: bool,
}

/// Returns true if `record` holds the grant of this configuration. Its refresh token is presented to no other server.
pub(super) fn belongs_to_grant(record: &TokenRecord, sources: GrantSources<'_>) -> bool {
    match (&record.issued_for, &record.worked_with) {
        (Some(IssuedFor { grant, .. }), _) => sources.identity.matches_grant(grant),
        (None, Some(config)) => config == sources.config,
        (None, None) => true,
    }
}

/// Returns true if requests of this configuration may use the access token of `record`.
pub(super) fn has_usable_access_token(record: &TokenRecord, sources: GrantSources<'_>) -> bool {
    let has_same_request =
        record.issued_for.as_ref().is_none_or(|it| it.request == sources.identity.request);
    let has_new_seed = new_seed(record, sources).is_some();
    belongs_to_grant(record, sources)
        && has_same_request
        && !has_new_seed
        && !record.is_tombstone()
        && (record.access_token.is_none() || record.bound == sources.bound)
}

/// Returns true if `record` holds the grant of this configuration, but a token for another request (scope, audience, …).
pub(super) fn is_for_other_request(record: &TokenRecord, sources: GrantSources<'_>) -> bool {
    let other = |it: &IssuedFor| it.request != sources.identity.request;
    record.issued_for.as_ref().is_some_and(other)
        && belongs_to_grant(record, sources)
        && new_seed(record, sources).is_none()
        && !record.is_tombstone()
}

/// Decides what a refresh does next. `is_forced`: an operator requests one attempt with a grant that may be dead. The
/// server's `Retry-After`, which ends at `throttled_until`, applies even then.
pub(super) fn next_action(
    record: &TokenRecord,
    sources: GrantSources<'_>,
    is_damaged: bool,
    is_forced: bool,
    throttled_until: Option<SystemTime>,
    now: SystemTime,
) -> NextAction {
    let action = unthrottled_action(record, sources, is_damaged, is_forced, now);
    let makes_request = !matches!(action, NextAction::Stop(_) | NextAction::Wait(..));
    match throttled_until {
        Some(until) if makes_request => NextAction::Wait(
            until.min(now + LONGEST_PAUSE),
            FailureReason::Answer(ErrorClass::Throttled),
        ),
        _ => action,
    }
}

fn unthrottled_action(
    record: &TokenRecord,
    sources: GrantSources<'_>,
    is_damaged: bool,
    is_forced: bool,
    now: SystemTime,
) -> NextAction {
    if sources.renewal == GrantRenewal::Repeatable {
        // Without seed and login, only a changed configuration shows that the credential is to be used again.
        let is_same = |config: &Fingerprint| config == sources.config;
        return match &record.terminal {
            Some(terminal) if record.is_tombstone() && is_same(&terminal.config) => {
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
            // The grant may or may not be dead. A new grant is as good.
            return match bootstrap_pause(record, now) {
                Some(until) => NextAction::Wait(until, FailureReason::BootstrapPause),
                None => NextAction::Bootstrap,
            };
        }
        (Some(refresh_token), _) => return NextAction::Refresh(refresh_token.clone()),
        (None, _) if is_damaged => TerminalReason::Corrupt,
        (None, _) => TerminalReason::NoGrant,
    };
    // If the server demands a person, a bootstrap does not help.
    if !sources.can_bootstrap || reason == TerminalReason::UserNeeded {
        return NextAction::Stop(reason);
    }
    match bootstrap_pause(record, now).filter(|_| !is_forced) {
        Some(until) => NextAction::Wait(until, FailureReason::BootstrapPause),
        None => NextAction::Bootstrap,
    }
}

/// Returns the configured seed if it was never presented. Strict servers revoke the whole grant when a refresh token is
/// presented again (RFC 9700 §4.14).
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

/// Returns when the next bootstrap may be made, or `None` for now. After a bootstrap without a refresh token there is no
/// pause, because its access tokens can only be replaced by another bootstrap.
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
    // If the last attempt is in the future, the clock was set back since.
    (now >= last.at && now < until).then_some(until)
}

#[cfg(test)]
#[path = "next_action/tests.rs"]
mod tests;
