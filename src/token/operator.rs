//! What an operator does to a record: logging out and logging in. Neither waits for a flight that is
//! under way; what that brings comes too late, because the record has moved on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::issue::{Presented, Terms, issue, succeed};
use super::ledger::Ledger;
use super::order::{Order, order};
use super::settled::Settled;
use crate::oauth::{RequestContext, Revocation, Rotation, TokenKind, TokenResponse};
use crate::store::{
    DEADLINE, PutOutcome, StoreError, TerminalReason, TerminalState, TokenRecord, Version,
};

/// How often a compare-and-set is tried against flights that come in between.
const TRIES: usize = 5;

/// Puts a tombstone in the record's place, and returns what was there. It keeps the hashes of all seeds, also of
/// the one that is configured now, so that none of them brings the credential back.
pub(super) async fn log_out(
    ledger: &Arc<Ledger>,
    settled: &Settled,
) -> Result<TokenRecord, StoreError> {
    let at = ledger.context.clock.now();
    let before = overrule(ledger, |before| {
        let mut record = before.clone();
        record.retire_refresh_token();
        let mut record = TokenRecord {
            generation: before.generation.next(),
            history: record.history,
            seeds: record.seeds,
            terminal: Some(TerminalState {
                reason: TerminalReason::LoggedOut,
                refresh_token: None,
                config: settled.fingerprint.clone(),
                at,
            }),
            ..TokenRecord::default()
        };
        retire_seed(&mut record, settled);
        record
    })
    .await?;
    if let Err(error) = ledger.context.store.clear_quarantine(&ledger.key).await {
        ledger.report_store(&error);
    }
    tracing::warn!(
        credential = &*settled.title,
        "logged out; no token request is made until a new seed or a login"
    );
    Ok(before)
}

/// Stores what a login brought, in the place of whatever was there.
pub(super) async fn log_in(
    ledger: &Arc<Ledger>,
    settled: &Settled,
    response: &TokenResponse,
    asked_at: SystemTime,
) -> Result<(), StoreError> {
    overrule(ledger, |before| {
        let terms = Terms {
            presented: Presented::NewGrant,
            asked_at,
            lifetime: settled.config.lifetime,
            rotation: Rotation::Auto,
            issued_for: settled.issued_for(),
            bound: settled.config.oauth.reading.dpop,
        };
        let old = TokenRecord { bootstrap: None, ..before.clone() };
        // Without an access token it is still a login: the refresh token brings one.
        let mut record = issue(&old, response, &terms)
            .unwrap_or_else(|_| succeed(&old, response.refresh_token.clone(), &terms));
        retire_seed(&mut record, settled);
        record
    })
    .await?;
    tracing::info!(credential = &*settled.title, "logged in");
    Ok(())
}

/// The configured seed counts as used: what an operator does now wins over it.
fn retire_seed(record: &mut TokenRecord, settled: &Settled) {
    let seed = settled.config.seed.as_ref().and_then(|seed| seed.value.as_ref());
    if let Some(seed) = seed {
        record.seeds.insert(&seed.fingerprint());
    }
}

/// Replaces the record, whoever holds the lease: the newest that is known or stored.
async fn overrule(
    ledger: &Arc<Ledger>,
    change: impl Fn(&TokenRecord) -> TokenRecord,
) -> Result<TokenRecord, StoreError> {
    for _ in 0..TRIES {
        let stored = match ledger.context.store.load(&ledger.key).await {
            // It was moved aside; what is written now takes its place.
            Err(StoreError::Corrupt { .. }) => None,
            stored => stored?,
        };
        let version = stored.as_ref().map_or(Version::ABSENT, |(_, version)| *version);
        let known = ledger.lock().record.clone();
        let before = match (order(&known, stored.as_ref().map(|(record, _)| record)), stored) {
            (Order::Theirs, Some((stored, _))) => stored,
            _ => known,
        };
        let record = change(&before);
        match ledger.context.store.put(&ledger.key, version, None, &record).await? {
            PutOutcome::Stored(version) => {
                let mut known = ledger.lock();
                known.take_over(record, version);
                known.state.succeed();
                ledger.publish(&mut known);
                drop(known);
                ledger.announce();
                return Ok(before);
            }
            PutOutcome::Conflict => {}
            PutOutcome::Unknown => return Err(StoreError::Timeout),
        }
    }
    Err(StoreError::Busy { key: ledger.key.clone(), waited: DEADLINE })
}

/// What became of one token of a credential that was logged out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Which token, as RFC 7009 calls it: `refresh_token` or `access_token`.
    pub token: &'static str,
    /// Why it stays valid at the authorization server; `None`: it does not.
    pub problem: Option<String>,
}

/// Gives the tokens of `record` back (RFC 7009), the refresh token first, as far as the server has a
/// place for that. A server that refuses leaves them valid until they expire; nothing can be done but to say so.
pub(super) async fn revoke(
    ledger: &Ledger,
    settled: &Settled,
    record: &TokenRecord,
) -> Vec<Revoked> {
    let is_theirs = super::plan::is_of_grant(record, settled.sources());
    let given = RequestContext {
        now: ledger.context.clock.now(),
        access_token: None,
        variables: &settled.config.variables,
        proof: None,
        listen: Duration::from_secs(10),
    };
    let mut revoked = Vec::new();
    for (token, kind) in [
        (&record.refresh_token, TokenKind::RefreshToken),
        (&record.access_token, TokenKind::AccessToken),
    ] {
        let Some(token) = token else { continue };
        let (credential, generation) = (&*settled.title, record.generation.0);
        let problem = match is_theirs {
            true => match settled.endpoint.revoke(token, kind, given).await {
                Ok(Revocation::Done) => None,
                Ok(Revocation::NoEndpoint) => Some("no revoke_url is known".to_owned()),
                Err(error) => Some(error.to_string()),
            },
            // They are shown to no other server than their own.
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
        revoked.push(Revoked { token: kind.hint(), problem });
    }
    revoked
}
