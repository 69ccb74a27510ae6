//! A credential's token record and its stored form. Pure conversions, no I/O.

mod hashes;
mod legacy;
mod timestamp;

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::hashes::Hashes;
use self::timestamp::{optional_time, time};
use crate::secret::{Fingerprint, Secret};

/// Incremented with every new token of a credential; 0 before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// No token yet. The record of the very first refresh has it while the refresh is in flight.
    pub const NONE: Self = Self(0);

    /// The generation of the next token.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything known about a credential's tokens. Deliberately flat: a seed on trial is only an
/// `attempt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRecord {
    /// The generation of the current token.
    pub generation: Generation,
    /// The current access token; `None` after it was discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Secret>,
    /// When the token request was sent that returned this access token, for the first time or
    /// again.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub issued_at: Option<SystemTime>,
    /// When the access token expires; `None` if the server did not say: it is then used until an
    /// origin rejects it.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub expires_at: Option<SystemTime>,
    /// An origin rejected the access token, so it is no longer served, even if it has not expired.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rejected: bool,
    /// The current refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// When the refresh token expires, if the server said.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub refresh_expires_at: Option<SystemTime>,
    /// When the whole grant ends, regardless of refreshes, if the server said.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub grant_expires_at: Option<SystemTime>,
    /// The members of the last token response that templates use, by their dotted paths.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, Secret>,
    /// What the tokens were issued for; `None` if nothing was issued yet or the writing version did
    /// not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_for: Option<IssuedFor>,
    /// The equivalent of `issued_for` in formats 2 and 3: a hash of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worked_with: Option<Fingerprint>,
    /// The hash of the refresh token that the current tokens were obtained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Fingerprint>,
    /// A refresh token that was sent and whose outcome is not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// The server asked for no requests until a later time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<NotBefore>,
    /// Consecutive ambiguous answers.
    #[serde(skip_serializing_if = "is_zero")]
    pub doubts: u32,
    /// The grant is dead. No token request is made until the cause, recorded here, changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalState>,
    /// The most recent unattended bootstraps of the grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapHistory>,
    /// Superseded refresh tokens, to recognise a server or an operator that returns an old one.
    #[serde(skip_serializing_if = "Hashes::is_empty")]
    pub history: Hashes,
    /// Seeds already used, so that an old seed never overrides this record.
    #[serde(skip_serializing_if = "Hashes::is_empty")]
    pub seeds: Hashes,
    /// The DPoP key that tokens are bound to (RFC 9449). It lives as long as the refresh token,
    /// which may be bound to it as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpop_key: Option<Secret>,
    /// True if the access token is bound to `dpop_key`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bound: bool,
    /// A successful response from which no token could be read, kept for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<Secret>,
}

/// Hashes of the configuration that decides for whom and for what tokens are issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedFor {
    /// Authorization server, OAuth client, grant type, user and binding. A change means another
    /// grant.
    pub grant: Fingerprint,
    /// Scope, audience, resource and other parameters. After a change, the same grant yields new
    /// tokens.
    pub request: Fingerprint,
}

/// A use of a refresh token, stored before the token is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The refresh token.
    pub refresh_token: Fingerprint,
    /// When it was first sent.
    #[serde(with = "time")]
    pub first: SystemTime,
    /// When it was last sent.
    #[serde(with = "time")]
    pub last: SystemTime,
    /// How often it was sent without an answer.
    pub count: u32,
    /// The lease under which it was sent. A later holder of the same lease knows that nobody still
    /// waits for the answer.
    pub by: String,
}

/// A server's request for a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotBefore {
    /// When the pause ends.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// When the server asked. If this is in the future, the clock was set back, and the rest of the
    /// pause is capped at its original length.
    #[serde(with = "time")]
    pub said: SystemTime,
    /// The error code or status that asked for the pause.
    pub why: String,
    /// The grant that the pause applies to.
    pub grant: Fingerprint,
}

/// The outcome of the most recent bootstraps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapHistory {
    /// When the last bootstrap was attempted.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// When the one before it was attempted.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub before: Option<SystemTime>,
    /// The number of consecutive failures.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u32,
}

/// Why no token request is made, and what has to change before one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalState {
    /// The reason.
    pub reason: TerminalReason,
    /// The rejected refresh token; `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Fingerprint>,
    /// The configuration that it was rejected with.
    pub config: Fingerprint,
    /// When it was rejected.
    #[serde(with = "time")]
    pub at: SystemTime,
}

/// Why a credential needs a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminalReason {
    /// The authorization server no longer accepts the refresh token.
    Revoked,
    /// The server consumed the refresh token and its answer, with the new one, was lost.
    LostRotation,
    /// A person has to sign in or consent again.
    UserNeeded,
    /// There is no refresh token.
    NoGrant,
    /// The record was damaged and there is no other source of a grant.
    Corrupt,
    /// An operator logged the credential out.
    LoggedOut,
    /// The record belongs to another configuration: another server, OAuth client, user or grant
    /// type.
    OtherGrant,
}

impl fmt::Display for TerminalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoked => "revoked",
            Self::LostRotation => "lost_rotation",
            Self::UserNeeded => "user_needed",
            Self::NoGrant => "no_grant",
            Self::Corrupt => "corrupt",
            Self::LoggedOut => "logged_out",
            Self::OtherGrant => "other_grant",
        })
    }
}

impl TokenRecord {
    /// Returns true if the credential was logged out and not logged in again.
    pub fn is_tombstone(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| terminal.reason == TerminalReason::LoggedOut)
    }

    /// Returns true if the access token may still be sent.
    pub fn is_usable(&self, now: SystemTime) -> bool {
        self.access_token.is_some()
            && !self.rejected
            && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// Returns true if this refresh token was the credential's and was replaced.
    pub fn has_superseded(&self, refresh_token: &Fingerprint) -> bool {
        self.history.contains(refresh_token)
    }

    /// Returns true if the server returned the same refresh token at its last use, so that, as far
    /// as known, it does not rotate.
    pub fn reuses_refresh_token(&self) -> bool {
        let current = self.refresh_token.as_ref().map(Secret::fingerprint);
        current.is_some() && self.parent == current
    }

    /// Makes `new` the current refresh token and records the hash of the old one.
    pub fn replace_refresh_token(&mut self, new: Secret) {
        if self.refresh_token.as_ref() != Some(&new) {
            self.retire_refresh_token();
            self.refresh_expires_at = None;
        }
        self.refresh_token = Some(new);
    }

    /// Removes the current refresh token and records its hash, or the logout's if there is none.
    pub fn retire_refresh_token(&mut self) {
        if let Some(old) = self.lineage_hash() {
            self.history.insert(&old);
        }
        self.refresh_token = None;
    }

    /// The hash that later records have in their history: that of the refresh token, or of the
    /// logout.
    pub fn lineage_hash(&self) -> Option<Fingerprint> {
        let logout = self.terminal.as_ref().filter(|_| self.is_tombstone()).map(|it| {
            // Records store times in milliseconds.
            let at = it.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            Fingerprint::of(format!("logout {} {at}", self.generation).as_bytes())
        });
        self.refresh_token.as_ref().map(Secret::fingerprint).or(logout)
    }

    /// Discards the access token and everything that belongs to it.
    pub fn drop_access_token(&mut self) {
        self.access_token = None;
        self.expires_at = None;
        self.rejected = false;
        self.bound = false;
        self.raw.clear();
    }

    /// Encodes the record as a JSON envelope of format, checksum, write identity and record.
    pub fn to_bytes(&self, key: &str, write: &WriteId) -> Vec<u8> {
        let record = serde_json::to_string_pretty(self).expect("a record has only string keys");
        let checksum = checksum(key, write, &record);
        let (key, writer) = (serde_json::Value::from(key), serde_json::Value::from(&*write.writer));
        format!(
            "{{\"bearerd\": {FORMAT}, \"sha256\": \"{}\", \"key\": {key}, \"revision\": {}, \
             \"writer\": {writer}, \"record\": {record}}}\n",
            checksum.as_str(),
            write.revision,
        )
        .into_bytes()
    }

    /// Decodes what [`TokenRecord::to_bytes`] or an older version wrote for `key`.
    ///
    /// # Errors
    ///
    /// [`RecordError`] for anything but exactly one complete record of this key.
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<(Self, WriteId), RecordError> {
        let envelope: RecordEnvelope<'_> =
            serde_json::from_slice(bytes).map_err(|_| RecordError::NotARecord)?;
        let text = envelope.record.get();
        let RecordEnvelope { bearerd: format, sha256, key: of, revision, writer, .. } = envelope;
        let write = revision.zip(writer).map(|(revision, writer)| WriteId { revision, writer });
        match (format, of.zip(write)) {
            (newer, _) if newer > FORMAT => Err(RecordError::Newer(newer)),
            (FORMAT, Some((of, write))) => {
                if checksum(&of, &write, text) != sha256 {
                    return Err(RecordError::Checksum);
                }
                if of != key {
                    return Err(RecordError::OtherKey);
                }
                let record = serde_json::from_str(text).map_err(|_| RecordError::NotARecord)?;
                Ok((record, write))
            }
            (1..=3, None) if Fingerprint::of(text.as_bytes()) != sha256 => {
                Err(RecordError::Checksum)
            }
            (1..=3, None) => Ok((legacy::read(text)?, WriteId::default())),
            _ => Err(RecordError::NotARecord),
        }
    }
}

/// Identifies one write, so that a writer that got no answer can tell whether its write happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteId {
    /// Incremented with every write of this key.
    pub revision: u64,
    /// Random, unique to this write.
    pub writer: String,
}

fn checksum(key: &str, write: &WriteId, record: &str) -> Fingerprint {
    let WriteId { revision, writer } = write;
    Fingerprint::of(format!("{key}\n{revision}\n{writer}\n{record}").as_bytes())
}

/// The format of stored records; incremented by every change that older versions cannot read.
pub(super) const FORMAT: u32 = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordEnvelope<'a> {
    bearerd: u32,
    sha256: Fingerprint,
    key: Option<String>,
    revision: Option<u64>,
    writer: Option<String>,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// Why the bytes of a record are invalid. Never quotes them, because they contain tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a complete record: empty, truncated or something else.
    #[error("it is not a whole record")]
    NotARecord,
    /// A complete record that was changed after it was written.
    #[error("the record does not match its checksum")]
    Checksum,
    /// A complete record of another credential.
    #[error("it is the record of another credential")]
    OtherKey,
    /// Written by a newer version of bearerd.
    #[error("the record has format {0}")]
    Newer(u32),
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
