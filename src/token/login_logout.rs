//! Login, logout and revocation. Neither login nor logout waits for a refresh in progress: the refresh finds that
//! the record has changed, and discards its result, which it revokes after a logout.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::cache_entry::CacheEntry;
use super::record_order::{RecordOrder, compare_records};
use super::record_update::{PresentedGrant, ResponseContext, apply_refresh_token, apply_response};
use super::resolved_config::ResolvedConfig;
use crate::oauth::{Revocation, Rotation, TokenKind, TokenRequestContext, TokenResponse};
use crate::store::{
    DEADLINE, PutOutcome, StoreError, TerminalReason, TerminalState, TokenRecord, Version,
};

/// How often the compare-and-set is tried if other writes come in between.
const MAX_TRIES: usize = 5;

/// Replaces the record by a tombstone and returns the previous record. The tombstone keeps the hashes of all seeds,
/// including the configured one, so that none of them reactivates the credential.
pub(super) async fn log_out(
    entry: &Arc<CacheEntry>,
    resolved: &ResolvedConfig,
) -> Result<TokenRecord, StoreError> {
    let at = entry.context.clock.now();
    let before = replace_record(entry, |before| {
        let mut record = before.clone();
        record.retire_refresh_token();
        let mut record = TokenRecord {
            generation: before.generation.next(),
            history: record.history,
            seeds: record.seeds,
            terminal: Some(TerminalState {
                reason: TerminalReason::LoggedOut,
                refresh_token: None,
                config: resolved.fingerprint.clone(),
                at,
            }),
            ..TokenRecord::default()
        };
        retire_seed(&mut record, resolved);
        record
    })
    .await?;
    if let Err(error) = entry.context.store.clear_quarantine(&entry.key).await {
        entry.report_store(&error);
    }
    tracing::warn!(
        credential = &*resolved.title,
        "logged out; no token request is made until a new seed or a login"
    );
    Ok(before)
}

/// Replaces the record by the tokens of a login.
pub(super) async fn log_in(
    entry: &Arc<CacheEntry>,
    resolved: &ResolvedConfig,
    response: &TokenResponse,
    asked_at: SystemTime,
) -> Result<(), StoreError> {
    replace_record(entry, |before| {
        let context = ResponseContext {
            presented: PresentedGrant::NewGrant,
            asked_at,
            lifetime: resolved.config.lifetime,
            rotation: Rotation::Auto,
            issued_for: resolved.issued_for(),
            bound: resolved.config.oauth.reading.dpop,
        };
        let old = TokenRecord { bootstrap: None, ..before.clone() };
        // A response without an access token is a login as well: the refresh token can obtain one.
        let mut record = apply_response(&old, response, &context).unwrap_or_else(|_| {
            apply_refresh_token(&old, response.refresh_token.clone(), &context)
        });
        retire_seed(&mut record, resolved);
        record
    })
    .await?;
    tracing::info!(credential = &*resolved.title, "logged in");
    Ok(())
}

/// Marks the configured seed as used, so that it does not override the operator's action.
fn retire_seed(record: &mut TokenRecord, resolved: &ResolvedConfig) {
    let seed = resolved.config.seed.as_ref().and_then(|seed| seed.value.as_ref());
    if let Some(seed) = seed {
        record.seeds.insert(&seed.fingerprint());
    }
}

/// Replaces the newest record, in memory or stored, without the lease. Returns the previous record.
async fn replace_record(
    entry: &Arc<CacheEntry>,
    change: impl Fn(&TokenRecord) -> TokenRecord,
) -> Result<TokenRecord, StoreError> {
    for _ in 0..MAX_TRIES {
        let stored = match entry.context.store.load(&entry.key).await {
            // The damaged record was quarantined; the new one takes its place.
            Err(StoreError::Corrupt { .. }) => None,
            stored => stored?,
        };
        let version = stored.as_ref().map_or(Version::ABSENT, |(_, version)| *version);
        let inner = entry.lock().record.clone();
        let before =
            match (compare_records(&inner, stored.as_ref().map(|(record, _)| record)), stored) {
                (RecordOrder::StoredNewer, Some((stored, _))) => stored,
                _ => inner,
            };
        let record = change(&before);
        match entry.context.store.put(&entry.key, version, None, &record).await? {
            PutOutcome::Stored(version) => {
                let mut inner = entry.lock();
                inner.take_over(record, version);
                inner.state.clear_failures();
                entry.publish(&mut inner);
                drop(inner);
                entry.notify_waiters();
                return Ok(before);
            }
            PutOutcome::Conflict => {}
            PutOutcome::Unknown => return Err(StoreError::Timeout),
        }
    }
    Err(StoreError::Busy { key: entry.key.clone(), waited: DEADLINE })
}

/// The result of revoking one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRevocation {
    /// The kind of token, as in RFC 7009: `refresh_token` or `access_token`.
    pub token: &'static str,
    /// Why the token stays valid at the authorization server. `None`: it was revoked.
    pub problem: Option<String>,
}

/// Revokes the tokens of `record` (RFC 7009), the refresh token first, if the server has a revocation endpoint.
/// Tokens whose revocation fails stay valid until they expire; this is logged.
pub(super) async fn revoke(
    entry: &CacheEntry,
    resolved: &ResolvedConfig,
    record: &TokenRecord,
) -> Vec<TokenRevocation> {
    let is_theirs = super::next_action::belongs_to_grant(record, resolved.sources());
    let given = TokenRequestContext {
        now: entry.context.clock.now(),
        access_token: None,
        variables: &resolved.config.variables,
        proof: None,
        response_timeout: Duration::from_secs(10),
    };
    let mut revoked = Vec::new();
    for (token, kind) in [
        (&record.refresh_token, TokenKind::RefreshToken),
        (&record.access_token, TokenKind::AccessToken),
    ] {
        let Some(token) = token else { continue };
        let (credential, generation) = (&*resolved.title, record.generation.0);
        let problem = match is_theirs {
            true => match resolved.endpoint.revoke(token, kind, given).await {
                Ok(Revocation::Done) => None,
                Ok(Revocation::NoEndpoint) => Some("no revoke_url is known".to_owned()),
                Err(error) => Some(error.to_string()),
            },
            // Tokens are not sent to a server that did not issue them.
            false => Some("it was issued for another configuration".to_owned()),
        };
        match &problem {
            None => tracing::info!(credential, generation, ?kind, "token revoked"),
            Some(why) => tracing::warn!(
                credential,
                generation,
                ?kind,
                why,
                "not revoked: the token stays valid at the server"
            ),
        }
        revoked.push(TokenRevocation { token: kind.hint(), problem });
    }
    revoked
}
