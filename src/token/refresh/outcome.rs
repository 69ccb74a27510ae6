//! What an answer makes of a record, and what a refusal means: pure.

use std::time::{Duration, SystemTime};

use super::super::margin::{Lesson, learn};
use super::super::state::Backoff;
use super::plan::{is_usable, retire, supersede};
use crate::oauth::{Class, GrantError, Rotation, TokenResponse};
use crate::secret::{Fingerprint, Secret};
use crate::store::{TerminalReason, TokenRecord};

/// After so many doubtful answers in a row, a grant that worked before is taken for dead.
const DOUBTS: u32 = 3;
/// Lifetimes are whole seconds counted by two clocks: so much more is not a longer life.
const ROUNDING: Duration = Duration::from_secs(5);

/// Under which circumstances a token was issued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// When it was asked for.
    pub(super) asked_at: SystemTime,
    /// The lifetime to assume.
    pub(super) lifetime: Option<Duration>,
    /// What to do with a new refresh token.
    pub(super) rotation: Rotation,
    /// The configuration it was asked with.
    pub(super) config: &'a Fingerprint,
    /// A refresh token was presented for it.
    pub(super) by_refresh_token: bool,
    /// The token before was not wanted any more, rather than near its end.
    pub(super) forced: bool,
    /// An earlier attempt was refused with so much left of that token's life.
    pub(super) refused_early: Option<Duration>,
}

/// Why an answer that issued something is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It prolongs an access token, and there is none.
    NothingToProlong,
    /// It has no new refresh token, and `rotation = "require"` says that it must.
    NotRotated,
}

/// The record after an answer. What the server left out is kept.
pub(super) fn issue(
    old: &TokenRecord,
    response: TokenResponse,
    terms: Terms<'_>,
) -> Result<TokenRecord, Unfit> {
    let presented = old.refresh_token.as_ref().filter(|_| terms.by_refresh_token);
    if terms.rotation == Rotation::Require
        && presented.is_some()
        && response.refresh_token.as_ref().is_none_or(|new| Some(new) == presented)
    {
        return Err(Unfit::NotRotated);
    }
    let is_prolonged = response.access_token.is_none();
    let access_token = response.access_token.or_else(|| old.access_token.clone());
    let access_token = access_token.ok_or(Unfit::NothingToProlong)?;
    let is_same = !is_prolonged && old.access_token.as_ref() == Some(&access_token);
    let assumed = terms.lifetime.map(|lifetime| terms.asked_at + lifetime);
    let mut record = TokenRecord {
        generation: old.generation.next(),
        access_token: Some(access_token),
        issued_at: Some(terms.asked_at),
        used_at: None,
        expires_at: response.expires_at.or(if is_same {
            old.expires_at.or(assumed)
        } else {
            assumed
        }),
        rejected: false,
        intent: None,
        terminal: None,
        displaced: None,
        worked_with: Some(terms.config.clone()),
        ..old.clone()
    };
    record.raw.extend(response.raw);
    keep_early(&mut record, old, is_same, terms);
    let new = response.refresh_token;
    let new = new.filter(|new| is_next(new, &record, terms.rotation, terms.by_refresh_token));
    let is_rotated = new.as_ref().is_some_and(|new| Some(new) != old.refresh_token.as_ref());
    match new {
        Some(new) => supersede(&mut record, new),
        // Begun anew without a refresh token: the dead one is not tried again because its terminal is gone.
        None if !terms.by_refresh_token && old.refresh_token_is_dead() => retire(&mut record),
        None => {}
    }
    record.refresh_expires_at = response
        .refresh_expires_at
        .or(old.refresh_expires_at.filter(|_| !is_rotated && terms.by_refresh_token));
    Ok(record)
}

/// Is `new`, which came for a refresh token or for another grant, the one to go on with after `record`?
fn is_next(new: &Secret, record: &TokenRecord, rotation: Rotation, by_refresh_token: bool) -> bool {
    // What rotates is ignored on request, but not the first refresh token of a new grant.
    (rotation != Rotation::Ignore || !by_refresh_token)
        // Within its grace a server may hand out a token that is superseded already.
        && !record.superseded.contains(&new.fingerprint())
}

/// Takes the refresh token out of an answer that is of no use otherwise: it may be the only good one.
pub(super) fn salvage(
    record: &mut TokenRecord,
    new: Secret,
    rotation: Rotation,
    by_refresh_token: bool,
) {
    if is_next(&new, record, rotation, by_refresh_token)
        && record.refresh_token.as_ref() != Some(&new)
    {
        supersede(record, new);
        record.refresh_expires_at = None;
        record.terminal = None;
        record.displaced = None;
    }
    // An answer came.
    record.intent = None;
}

/// Learns how early the server may be asked.
fn keep_early(record: &mut TokenRecord, old: &TokenRecord, is_same: bool, terms: Terms<'_>) {
    let left = |at: SystemTime| at.duration_since(terms.asked_at).unwrap_or_default();
    let was_usable = !terms.forced && is_usable(old, terms.asked_at);
    if let (true, true, Some(end)) = (is_same, was_usable, old.expires_at)
        && record.expires_at.is_some_and(|new_end| new_end <= end + ROUNDING)
    {
        // It was issued when it was: its lifetime has not become shorter because it was asked for again.
        record.issued_at = old.issued_at;
        record.used_at = Some(terms.asked_at);
        record.margin_limit = Some(learn(old.margin_limit, Lesson::SameToken(left(end))));
    } else if let Some(refused) = terms.refused_early {
        let granted = old.expires_at.map(left).unwrap_or_default();
        record.margin_limit = Some(learn(old.margin_limit, Lesson::TooEarly { refused, granted }));
    }
}

/// Under which circumstances a refresh token, or another grant, was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// The record was damaged, and this was the seed's only chance.
    pub(super) damaged: bool,
    /// The answer to an earlier request with the same refresh token was lost.
    pub(super) lost_answer: bool,
    /// A token was issued before, for a request of the same shape.
    pub(super) worked_before: bool,
    /// Doubtful answers in a row, with this one.
    pub(super) doubts: u32,
}

/// Does a refusal mean that the grant is dead? A server that shows nothing but doubt is believed only
/// if the same request had worked before.
pub(super) fn death(class: Class, circumstances: Circumstances) -> Option<TerminalReason> {
    let Circumstances { damaged, lost_answer, worked_before, doubts } = circumstances;
    match class {
        Class::GrantDead if damaged => Some(TerminalReason::Corrupt),
        Class::GrantDead if lost_answer => Some(TerminalReason::LostRotation),
        Class::GrantDead => Some(TerminalReason::Revoked),
        Class::UserNeeded => Some(TerminalReason::UserNeeded),
        Class::Doubtful if doubts >= DOUBTS && worked_before => Some(match lost_answer {
            true => TerminalReason::LostRotation,
            false => TerminalReason::Revoked,
        }),
        _ => None,
    }
}

/// Could the server mean that it is too early, rather than that something is wrong with the client?
pub(super) fn may_be_too_early(error: &GrantError) -> bool {
    let blames_client = [
        "access_denied",
        "invalid_client",
        "invalid_scope",
        "invalid_target",
        "unauthorized_client",
        "unsupported_grant_type",
    ];
    matches!(error.class, Class::Doubtful | Class::Config)
        && matches!(error.status, Some(400 | 403 | 409 | 422))
        && !error.code.as_deref().is_some_and(|code| blames_client.contains(&code))
}

/// May the server have acted on a request that failed like this?
pub(super) fn may_have_consumed(class: Class) -> bool {
    matches!(class, Class::Ambiguous | Class::Transient)
}

/// Does trouble of this kind pass by itself?
pub(super) fn backoff(class: Class) -> Backoff {
    match class {
        Class::Transient | Class::NotSent | Class::Ambiguous | Class::Throttled => Backoff::Short,
        _ => Backoff::Long,
    }
}

/// The kind of failure in a word, for people.
pub(super) fn why(class: Class) -> &'static str {
    match class {
        Class::GrantDead => "grant_dead",
        Class::UserNeeded => "user_needed",
        Class::Throttled => "throttled",
        Class::Transient => "server_trouble",
        Class::NotSent => "unreachable",
        Class::Ambiguous => "no_answer",
        Class::Config | Class::Doubtful | Class::Nonce => "refused",
        Class::Protocol => "unreadable_answer",
    }
}

#[cfg(test)]
#[path = "outcome/tests.rs"]
mod tests;
