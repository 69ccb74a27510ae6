//! What a record and a configuration leave to do: pure.

use std::time::{Duration, SystemTime};

use super::super::Seed;
use crate::oauth::Livelihood;
use crate::secret::{Fingerprint, Secret};
use crate::store::{TerminalReason, TokenRecord};

/// A bootstrap that was refused, or whose refresh token died at once, is not repeated for so long:
/// authorization servers lock accounts out after a few wrong passwords.
pub(super) const BOOTSTRAP_PAUSE: Duration = Duration::from_secs(300);

/// What the record and the configuration leave to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Ask with this refresh token, or with none for the other grants.
    Ask { refresh_token: Option<Secret>, new_seed: Option<Fingerprint> },
    /// Begin the grant anew, without a person.
    Bootstrap,
    /// The same, but not before this has passed.
    BootstrapLater(Duration),
    /// Ask nobody.
    Stop(TerminalReason),
}

/// What the configuration says about where grants come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    /// The first refresh token.
    pub(super) seed: Option<&'a Seed>,
    /// What the grant lives on.
    pub(super) livelihood: Livelihood,
    /// The grant can be begun anew without a person.
    pub(super) can_bootstrap: bool,
    /// The configuration as a whole.
    pub(super) config: &'a Fingerprint,
}

/// What is left to do, given what is stored and what is configured.
pub(super) fn plan(
    record: &TokenRecord,
    sources: Sources<'_>,
    damaged: bool,
    now: SystemTime,
) -> Plan {
    if sources.livelihood == Livelihood::Repeatable {
        // With no seed and no login, only another configuration can mean that it is wanted again.
        return match &record.terminal {
            Some(terminal)
                if terminal.reason == TerminalReason::LoggedOut
                    && terminal.config == *sources.config =>
            {
                Plan::Stop(TerminalReason::LoggedOut)
            }
            _ => Plan::Ask { refresh_token: None, new_seed: None },
        };
    }
    let seed = sources.seed.and_then(|seed| seed.value.as_ref());
    let new_seed = seed
        .map(|value| (value, value.fingerprint()))
        .filter(|(_, fingerprint)| !record.knows_seed(fingerprint))
        // One that came from the server and was replaced: strict servers revoke everything for it.
        .filter(|(_, fingerprint)| !record.superseded.contains(fingerprint));
    if let Some((value, fingerprint)) = new_seed {
        return Plan::Ask { refresh_token: Some(value.clone()), new_seed: Some(fingerprint) };
    }
    if record.is_tombstone() {
        return Plan::Stop(TerminalReason::LoggedOut);
    }
    let reason = match (&record.refresh_token, &record.terminal) {
        (Some(refresh_token), Some(terminal))
            if terminal.config == *sources.config
                && terminal.refresh_token == Some(refresh_token.fingerprint()) =>
        {
            terminal.reason
        }
        (Some(refresh_token), _) => {
            return Plan::Ask { refresh_token: Some(refresh_token.clone()), new_seed: None };
        }
        (None, _) if damaged => TerminalReason::Corrupt,
        (None, _) => TerminalReason::NoGrant,
    };
    // What only a person can do is not healed by doing the same again without one.
    if !sources.can_bootstrap || reason == TerminalReason::UserNeeded {
        return Plan::Stop(reason);
    }
    match bootstrap_pause(record, now) {
        Some(pause) => Plan::BootstrapLater(pause),
        None => Plan::Bootstrap,
    }
}

/// How long the last bootstrap forbids the next. One that brought no refresh token forbids none: its
/// access tokens are all that it gives.
fn bootstrap_pause(record: &TokenRecord, now: SystemTime) -> Option<Duration> {
    let last = record.bootstrap.as_ref()?;
    if !last.refused && record.refresh_token.is_none() {
        return None;
    }
    // An attempt in the future: the clock was set back since.
    let since = now.duration_since(last.at).ok()?;
    BOOTSTRAP_PAUSE.checked_sub(since).filter(|pause| !pause.is_zero())
}

/// Makes `new` the current refresh token and remembers the hash of the old one.
pub(super) fn supersede(record: &mut TokenRecord, new: Secret) {
    if record.refresh_token.as_ref() != Some(&new) {
        retire(record);
    }
    record.refresh_token = Some(new);
}

/// Takes the current refresh token out of use and remembers its hash.
pub(super) fn retire(record: &mut TokenRecord) {
    if let Some(old) = record.refresh_token.take() {
        record.superseded.insert(0, old.fingerprint());
        record.superseded.truncate(TokenRecord::HISTORY);
    }
}

/// Puts a new seed in the place of the grant that `record` is about, which is kept until the seed has
/// brought something, unless it was over.
pub(super) fn displace(record: &mut TokenRecord, refresh_token: Secret, seed: Fingerprint) {
    let before = TokenRecord { displaced: None, ..record.clone() };
    if record.is_tombstone() {
        record.displaced = None;
    } else if record.displaced.is_none()
        && before.refresh_token.is_some()
        && !before.refresh_token_is_dead()
    {
        record.displaced = Some(Box::new(before));
    }
    if record.refresh_token.is_some() || record.is_tombstone() {
        record.generation = record.generation.next();
    }
    supersede(record, refresh_token);
    record.seeds.push(seed);
    record.access_token = None;
    record.expires_at = None;
    record.refresh_expires_at = None;
}

/// Goes back to the grant before a seed that brought nothing, which is never tried again. Says whether
/// there was one. A grant of another configuration is not for this one's authorization server.
pub(super) fn restore(record: &mut TokenRecord, config: &Fingerprint) -> bool {
    let before = record.displaced.take_if(|before| before.worked_with.as_ref() == Some(config));
    let Some(before) = before else { return false };
    *record = TokenRecord {
        generation: record.generation.next(),
        seeds: std::mem::take(&mut record.seeds),
        bootstrap: record.bootstrap.take(),
        ..*before
    };
    true
}

pub(super) fn is_usable(record: &TokenRecord, now: SystemTime) -> bool {
    record.access_token.is_some()
        && !record.rejected
        && record.expires_at.is_none_or(|expires_at| now < expires_at)
}
