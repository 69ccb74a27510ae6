//! What an answer makes of a record: pure.

use std::time::{Duration, SystemTime};

use crate::oauth::{Rotation, TokenResponse};
use crate::secret::Secret;
use crate::store::{IssuedFor, TokenRecord};

/// What was presented for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PresentedGrant<'a> {
    /// The record's refresh token.
    RefreshToken(&'a Secret),
    /// A seed that takes the record's place now.
    Seed(&'a Secret),
    /// A grant that begins anew, in the place of whatever was there.
    NewGrant,
    /// What the configuration has, which can be presented again at any time.
    Configured,
}

impl<'a> PresentedGrant<'a> {
    pub(super) fn refresh_token(self) -> Option<&'a Secret> {
        match self {
            Self::RefreshToken(token) | Self::Seed(token) => Some(token),
            Self::NewGrant | Self::Configured => None,
        }
    }
}

/// Under which circumstances a token was issued.
#[derive(Clone, Debug)]
pub(super) struct ResponseContext<'a> {
    pub(super) presented: PresentedGrant<'a>,
    /// When it was asked for.
    pub(super) asked_at: SystemTime,
    /// The lifetime to assume.
    pub(super) lifetime: Option<Duration>,
    /// What to do with a new refresh token.
    pub(super) rotation: Rotation,
    /// What it was asked for.
    pub(super) issued_for: IssuedFor,
    /// It is bound to the record's key.
    pub(super) bound: bool,
}

/// Why an answer that issued something is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseDefect {
    /// It prolongs an access token, and there is none.
    NothingToExtend,
    /// It has no new refresh token, and `rotation = "require"` says that it must.
    NotRotated,
}

/// The record after an answer. What the server left out is kept.
pub(super) fn apply_response(
    old: &TokenRecord,
    response: &TokenResponse,
    context: &ResponseContext<'_>,
) -> Result<TokenRecord, ResponseDefect> {
    let presented = context.presented.refresh_token();
    let is_kept = |new: &Option<Secret>| new.as_ref().is_none_or(|new| Some(new) == presented);
    if context.rotation == Rotation::Require
        && presented.is_some()
        && is_kept(&response.refresh_token)
    {
        return Err(ResponseDefect::NotRotated);
    }
    let mut record = apply_refresh_token(old, response.refresh_token.clone(), context);
    let access_token = response.access_token.clone().or(record.access_token);
    let access_token = access_token.ok_or(ResponseDefect::NothingToExtend)?;
    let is_same = old.access_token.as_ref() == Some(&access_token);
    let before = old.expires_at.filter(|_| is_same && response.access_token.is_some());
    let assumed = context.lifetime.map(|lifetime| context.asked_at + lifetime);
    record.access_token = Some(access_token);
    record.issued_at = Some(context.asked_at);
    record.expires_at = response.expires_at.or(before).or(assumed);
    record.rejected = false;
    record.bound = context.bound;
    record.raw.extend(response.raw.clone());
    record.refresh_expires_at = response.refresh_expires_at.or(record.refresh_expires_at);
    record.grant_expires_at = response.grant_expires_at.or(record.grant_expires_at);
    record.not_before = None;
    record.doubts = 0;
    Ok(record)
}

/// The record with what an answer says of the refresh token, and nothing else: it may be the only good one, and
/// whatever else is wrong with the answer, the presented one is spent.
pub(super) fn apply_refresh_token(
    old: &TokenRecord,
    new: Option<Secret>,
    context: &ResponseContext<'_>,
) -> TokenRecord {
    let presented = context.presented;
    let mut old = old.clone();
    if old.is_tombstone() {
        // Whoever comes after a logout remembers it.
        old.retire_refresh_token();
    }
    let is_of_old_request =
        old.issued_for.as_ref().is_some_and(|it| it.request != context.issued_for.request);
    let mut record = TokenRecord {
        generation: old.generation.next(),
        issued_for: Some(context.issued_for.clone()),
        worked_with: None,
        parent: presented.refresh_token().map(Secret::fingerprint),
        attempt: None,
        terminal: None,
        unread: None,
        ..old
    };
    if !context.bound && !matches!(presented, PresentedGrant::RefreshToken(_)) {
        record.dpop_key = None;
    }
    if matches!(presented, PresentedGrant::Seed(_) | PresentedGrant::NewGrant) || is_of_old_request
    {
        record.drop_access_token();
    }
    match presented {
        PresentedGrant::RefreshToken(_) => {}
        PresentedGrant::Seed(seed) => {
            record.replace_refresh_token(seed.clone());
            record.seeds.insert(&seed.fingerprint());
            record.grant_expires_at = None;
        }
        PresentedGrant::NewGrant => {
            record.retire_refresh_token();
            record.refresh_expires_at = None;
            record.grant_expires_at = None;
        }
        PresentedGrant::Configured => {
            record.retire_refresh_token();
            return record;
        }
    }
    // What rotates is ignored on request, and within its grace a server may hand out a token that is superseded
    // already. Not so the first refresh token of a new grant, which some servers have issued before.
    let is_next = |new: &Secret| {
        presented == PresentedGrant::NewGrant
            || context.rotation != Rotation::Ignore && !record.has_superseded(&new.fingerprint())
    };
    if let Some(new) = new.filter(is_next) {
        record.replace_refresh_token(new);
    }
    record
}

#[cfg(test)]
#[path = "record_update/tests.rs"]
mod tests;
