//! What a record and a configuration leave to do: pure.

use std::time::SystemTime;

use super::super::Seed;
use crate::oauth::{GrantType, Livelihood};
use crate::secret::{Fingerprint, Secret};
use crate::store::{TerminalReason, TokenRecord};

/// What the record and the configuration leave to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Ask with this refresh token, or with none for the other grants.
    Ask { refresh_token: Option<Secret>, new_seed: Option<Fingerprint> },
    /// Ask nobody.
    Stop(TerminalReason),
}

/// What is left to do, given what is stored and what is configured.
pub(super) fn plan(
    record: &TokenRecord,
    seed: Option<&Seed>,
    grant: GrantType,
    config: &Fingerprint,
    damaged: bool,
) -> Plan {
    if grant.lives_on() == Livelihood::Repeatable {
        return Plan::Ask { refresh_token: None, new_seed: None };
    }
    let seed = seed.and_then(|seed| seed.value.as_ref());
    let new_seed = seed
        .map(|value| (value, value.fingerprint()))
        .filter(|(_, fingerprint)| !record.knows_seed(fingerprint));
    if let Some((value, fingerprint)) = new_seed {
        return Plan::Ask { refresh_token: Some(value.clone()), new_seed: Some(fingerprint) };
    }
    let Some(refresh_token) = record.refresh_token.as_ref().or(seed) else {
        return Plan::Stop(match damaged {
            true => TerminalReason::Corrupt,
            false => TerminalReason::NoGrant,
        });
    };
    match &record.terminal {
        Some(terminal)
            if terminal.config == *config
                && terminal.refresh_token == Some(refresh_token.fingerprint()) =>
        {
            Plan::Stop(terminal.reason)
        }
        _ => Plan::Ask { refresh_token: Some(refresh_token.clone()), new_seed: None },
    }
}

/// Makes `new` the current refresh token and remembers the hash of the old one.
pub(super) fn supersede(record: &mut TokenRecord, new: Secret) {
    if let Some(old) = record.refresh_token.replace(new)
        && record.refresh_token.as_ref() != Some(&old)
    {
        record.superseded.insert(0, old.fingerprint());
        record.superseded.truncate(TokenRecord::HISTORY);
    }
}

pub(super) fn is_usable(record: &TokenRecord, now: SystemTime) -> bool {
    record.access_token.is_some()
        && !record.rejected
        && record.expires_at.is_none_or(|expires_at| now < expires_at)
}
