//! Reads records of formats 1 to 3. Each format has all members of the one before.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::timestamp::{optional_time, time};
use super::{Attempt, BootstrapHistory, Generation, RecordError, TerminalState, TokenRecord};
use crate::secret::{Fingerprint, Secret};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LegacyRecord {
    generation: Generation,
    access_token: Option<Secret>,
    #[serde(with = "optional_time")]
    issued_at: Option<SystemTime>,
    #[serde(with = "optional_time")]
    used_at: Option<SystemTime>,
    #[serde(with = "optional_time")]
    expires_at: Option<SystemTime>,
    rejected: bool,
    refresh_token: Option<Secret>,
    #[serde(with = "optional_time")]
    refresh_expires_at: Option<SystemTime>,
    raw: BTreeMap<String, Secret>,
    #[serde(rename = "margin_limit")]
    _margin_limit: Option<IgnoredAny>,
    worked_with: Option<Fingerprint>,
    bootstrap: Option<LegacyBootstrap>,
    superseded: Vec<Fingerprint>,
    seeds: Vec<Fingerprint>,
    dpop_key: Option<Secret>,
    intent: Option<LegacyIntent>,
    terminal: Option<TerminalState>,
    displaced: Option<Box<Self>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LegacyIntent {
    refresh_token: Fingerprint,
    #[serde(with = "time")]
    at: SystemTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LegacyBootstrap {
    #[serde(with = "time")]
    at: SystemTime,
    #[serde(default)]
    refused: bool,
}

/// Decodes the JSON text of a legacy record.
pub(super) fn read(text: &str) -> Result<TokenRecord, RecordError> {
    let legacy: LegacyRecord = serde_json::from_str(text).map_err(|_| RecordError::NotARecord)?;
    Ok(legacy.into())
}

impl From<LegacyRecord> for TokenRecord {
    fn from(mut legacy: LegacyRecord) -> Self {
        // A seed on trial replaced the record in these formats; the current one keeps it as a
        // candidate.
        if let Some(before) = legacy.displaced.take() {
            let seed = legacy.refresh_token.as_ref().map(Secret::fingerprint);
            let mut seeds = legacy.seeds;
            seeds.retain(|known| Some(known) != seed.as_ref());
            legacy = LegacyRecord {
                generation: legacy.generation,
                seeds,
                intent: legacy.intent,
                bootstrap: legacy.bootstrap,
                ..*before
            };
        }
        Self {
            generation: legacy.generation,
            bound: legacy.dpop_key.is_some() && legacy.access_token.is_some(),
            access_token: legacy.access_token,
            issued_at: legacy.used_at.max(legacy.issued_at),
            expires_at: legacy.expires_at,
            rejected: legacy.rejected,
            refresh_token: legacy.refresh_token,
            refresh_expires_at: legacy.refresh_expires_at,
            raw: legacy.raw,
            worked_with: legacy.worked_with,
            attempt: legacy.intent.map(|LegacyIntent { refresh_token, at }| Attempt {
                refresh_token,
                first: at,
                last: at,
                count: 1,
                by: String::new(),
            }),
            terminal: legacy.terminal,
            bootstrap: legacy.bootstrap.map(|LegacyBootstrap { at, refused }| BootstrapHistory {
                at,
                before: None,
                refused: u32::from(refused),
            }),
            history: legacy.superseded.into_iter().collect(),
            // Legacy records list the oldest first.
            seeds: legacy.seeds.into_iter().rev().collect(),
            dpop_key: legacy.dpop_key,
            ..Self::default()
        }
    }
}
