//! How a token response changes the record: pure functions.

use std::time::{Duration, SystemTime};

use crate::oauth::{Rotation, TokenResponse};
use crate::secret::Secret;
use crate::store::{IssuedFor, TokenRecord};

/// The grant that a token response answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PresentedGrant<'a> {
    /// The record's refresh token.
    RefreshToken(&'a Secret),
    /// A seed, which replaces the grant of the record.
    Seed(&'a Secret),
    /// A new grant (bootstrap or login), which replaces the grant of the record.
    NewGrant,
    /// The configured grant, which can be repeated at any time.
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

/// The circumstances of a token response.
#[derive(Clone, Debug)]
pub(super) struct ResponseContext<'a> {
    pub(super) presented: PresentedGrant<'a>,
    /// When the token request was sent.
    pub(super) asked_at: SystemTime,
    /// The lifetime to assume if the response states none.
    pub(super) lifetime: Option<Duration>,
    /// How a new refresh token is treated.
    pub(super) rotation: Rotation,
    /// The grant and request of the token request.
    pub(super) issued_for: IssuedFor,
    /// The token is bound to the key of the record (RFC 9449).
    pub(super) bound: bool,
}

/// Why a successful response is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseDefect {
    /// It extends the lifetime of an access token, and there is none.
    NothingToExtend,
    /// It has no new refresh token, which `rotation = "require"` demands.
    NotRotated,
}

/// Returns the record after a response. Values that the response omits are kept (RFC 6749 §6).
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

/// Returns the record with the refresh token of a response and nothing else of it. The token may be the only valid one:
/// even if the rest of the response is unusable, the server has consumed the presented one.
pub(super) fn apply_refresh_token(
    old: &TokenRecord,
    new: Option<Secret>,
    context: &ResponseContext<'_>,
) -> TokenRecord {
    let presented = context.presented;
    let mut old = old.clone();
    if old.is_tombstone() {
        // A record after a logout has the logout in its history.
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
    // With `rotation = "ignore"` the refresh token never changes. During its grace period a server may return a token
    // that is superseded already, which is ignored as well. The first token of a new grant is always used, although
    // some servers issue the same one again.
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
