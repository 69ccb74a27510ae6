//! Records of formats 1 to 3, as the first edition wrote them: each has all that the one before it had.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::text::{optional_time, time};
use super::{Attempt, Bootstrapped, Generation, RecordError, Terminal, TokenRecord};
use crate::secret::{Fingerprint, Secret};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Former {
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
    bootstrap: Option<FormerBootstrap>,
    superseded: Vec<Fingerprint>,
    seeds: Vec<Fingerprint>,
    dpop_key: Option<Secret>,
    intent: Option<Intent>,
    terminal: Option<Terminal>,
    displaced: Option<Box<Self>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Intent {
    refresh_token: Fingerprint,
    #[serde(with = "time")]
    at: SystemTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FormerBootstrap {
    #[serde(with = "time")]
    at: SystemTime,
    #[serde(default)]
    refused: bool,
}

/// Reads the text of such a record.
pub(super) fn read(text: &str) -> Result<TokenRecord, RecordError> {
    let former: Former = serde_json::from_str(text).map_err(|_| RecordError::NotARecord)?;
    Ok(former.into())
}

impl From<Former> for TokenRecord {
    fn from(mut former: Former) -> Self {
        // A seed on trial had taken the record's place; now it is a candidate beside what was before it.
        if let Some(before) = former.displaced.take() {
            let seed = former.refresh_token.as_ref().map(Secret::fingerprint);
            let mut seeds = former.seeds;
            seeds.retain(|known| Some(known) != seed.as_ref());
            former = Former {
                generation: former.generation,
                seeds,
                intent: former.intent,
                bootstrap: former.bootstrap,
                ..*before
            };
        }
        Self {
            generation: former.generation,
            bound: former.dpop_key.is_some() && former.access_token.is_some(),
            access_token: former.access_token,
            issued_at: former.used_at.max(former.issued_at),
            expires_at: former.expires_at,
            rejected: former.rejected,
            refresh_token: former.refresh_token,
            refresh_expires_at: former.refresh_expires_at,
            raw: former.raw,
            worked_with: former.worked_with,
            attempt: former.intent.map(|Intent { refresh_token, at }| Attempt {
                refresh_token,
                first: at,
                last: at,
                count: 1,
                by: String::new(),
            }),
            terminal: former.terminal,
            bootstrap: former.bootstrap.map(|FormerBootstrap { at, refused }| Bootstrapped {
                at,
                before: None,
                refused: u32::from(refused),
            }),
            history: former.superseded.into_iter().collect(),
            // They were written oldest first.
            seeds: former.seeds.into_iter().rev().collect(),
            dpop_key: former.dpop_key,
            ..Self::default()
        }
    }
}
