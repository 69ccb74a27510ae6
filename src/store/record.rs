//! One credential's record, and its form in a store: pure, both ways.

mod former;
mod hashes;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::hashes::Hashes;
use self::text::{optional_time, time};
use crate::secret::{Fingerprint, Secret};

/// Counts up by one with every new token of a credential; 0 means that there was none yet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// There was no token yet; the record of the very first refresh has it while that is under way.
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

/// Everything that is known about one credential's tokens. Flat: a seed on trial is only an `attempt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRecord {
    /// Which token this is.
    pub generation: Generation,
    /// The current access token; `None` once it was thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Secret>,
    /// When the token request was sent that brought it, or that brought the same one again.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub issued_at: Option<SystemTime>,
    /// When it expires; `None` if nobody said: until an origin rejects it.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub expires_at: Option<SystemTime>,
    /// An origin rejected the access token: it is served no more, not even until it expires.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rejected: bool,
    /// The current refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// When the refresh token expires, if the server said so.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub refresh_expires_at: Option<SystemTime>,
    /// When the whole grant ends, whatever is refreshed, if the server said so.
    #[serde(skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub grant_expires_at: Option<SystemTime>,
    /// The members of the last token answer that templates name, by their dotted paths.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, Secret>,
    /// What the tokens were issued for; `None`: nothing was issued yet, or by a bearerd that did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_for: Option<IssuedFor>,
    /// What a bearerd that wrote formats 2 and 3 said of it instead: a hash of its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worked_with: Option<Fingerprint>,
    /// The hash of the refresh token that was presented for what is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Fingerprint>,
    /// A refresh token that was presented, and whose answer is not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// The server asked to be left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<NotBefore>,
    /// Doubtful answers in a row.
    #[serde(skip_serializing_if = "is_zero")]
    pub doubts: u32,
    /// The grant is dead; no token request is made until what explains it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// The last times that the grant was begun anew without a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrapped>,
    /// Superseded refresh tokens: enough to recognise a server, or an operator, that hands an old one back.
    #[serde(skip_serializing_if = "Hashes::is_empty")]
    pub history: Hashes,
    /// Seeds that were used, so that an old one never wins over this record.
    #[serde(skip_serializing_if = "Hashes::is_empty")]
    pub seeds: Hashes,
    /// The key that tokens are bound to (RFC 9449). It lives as long as the refresh token, which may be bound
    /// to it as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpop_key: Option<Secret>,
    /// The access token is bound to that key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bound: bool,
    /// A successful answer that no token could be read from, for an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<Secret>,
}

/// For whom and for what tokens were issued: hashes over the fields of a configuration that decide it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedFor {
    /// Authorization server, OAuth client, kind of grant, user and binding: another one is another grant.
    pub grant: Fingerprint,
    /// Scope, audience, resource and other parameters: the same grant gives tokens for another one.
    pub request: Fingerprint,
}

/// Written before a refresh token goes onto the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Which refresh token.
    pub refresh_token: Fingerprint,
    /// When it was presented first.
    #[serde(with = "time")]
    pub first: SystemTime,
    /// When it was presented last.
    #[serde(with = "time")]
    pub last: SystemTime,
    /// How often it was presented without an answer.
    pub count: u32,
    /// Under which lease. Whoever holds the same one later knows that nobody waits for the answer any more.
    pub by: String,
}

/// How long a server wants to be left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotBefore {
    /// Until then.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// When it said so. In the future: the clock was set back since, and what is left is no more than it said.
    #[serde(with = "time")]
    pub said: SystemTime,
    /// What it said, in a word.
    pub why: String,
    /// Of which grant the server is that said it.
    pub grant: Fingerprint,
}

/// What became of the last bootstraps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrapped {
    /// When the last one was tried.
    #[serde(with = "time")]
    pub at: SystemTime,
    /// When the one before it was.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub before: Option<SystemTime>,
    /// So many in a row brought nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u32,
}

/// Why nothing is tried any more, and what would have to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Why.
    pub reason: TerminalReason,
    /// The refresh token that was refused; `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Fingerprint>,
    /// The configuration it was refused with.
    pub config: Fingerprint,
    /// When.
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
    /// There is no refresh token to begin with.
    NoGrant,
    /// The record was damaged and nothing else is known.
    Corrupt,
    /// An operator has logged it out.
    LoggedOut,
    /// The record belongs to another configuration: another server, client, user or grant.
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
    /// Was this credential logged out, and not logged in again?
    pub fn is_tombstone(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| terminal.reason == TerminalReason::LoggedOut)
    }

    /// May its access token still be put on requests?
    pub fn is_usable(&self, now: SystemTime) -> bool {
        self.access_token.is_some()
            && !self.rejected
            && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// Was this refresh token the credential's once, and is it no more?
    pub fn has_superseded(&self, refresh_token: &Fingerprint) -> bool {
        self.history.contains(refresh_token)
    }

    /// Has the server kept the refresh token the last time that it was presented? Then it does not rotate, as
    /// far as is known.
    pub fn has_kept_its_refresh_token(&self) -> bool {
        let current = self.refresh_token.as_ref().map(Secret::fingerprint);
        current.is_some() && self.parent == current
    }

    /// Makes `new` the current refresh token and remembers the hash of the old one.
    pub fn supersede(&mut self, new: Secret) {
        if self.refresh_token.as_ref() != Some(&new) {
            self.retire();
            self.refresh_expires_at = None;
        }
        self.refresh_token = Some(new);
    }

    /// Takes the current refresh token out of use and remembers its hash; or that of the logout.
    pub fn retire(&mut self) {
        if let Some(old) = self.mark() {
            self.history.insert(&old);
        }
        self.refresh_token = None;
    }

    /// What those who come after it have in their history: the hash of the refresh token, or of the logout.
    pub fn mark(&self) -> Option<Fingerprint> {
        let logout = self.terminal.as_ref().filter(|_| self.is_tombstone()).map(|it| {
            // A store keeps milliseconds.
            let at = it.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            Fingerprint::of(format!("logout {} {at}", self.generation).as_bytes())
        });
        self.refresh_token.as_ref().map(Secret::fingerprint).or(logout)
    }

    /// Throws the access token away, and what belongs to it.
    pub fn drop_access_token(&mut self) {
        self.access_token = None;
        self.expires_at = None;
        self.rejected = false;
        self.bound = false;
        self.raw.clear();
    }

    /// The bytes to store: a JSON object with the format, what the write is known by, and the record.
    pub fn to_bytes(&self, key: &str, write: &Write) -> Vec<u8> {
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

    /// Reads what [`TokenRecord::to_bytes`] wrote for `key`, or what an older bearerd has written.
    ///
    /// # Errors
    ///
    /// [`RecordError`] for anything that is not exactly one whole record of this key.
    pub fn from_bytes(key: &str, bytes: &[u8]) -> Result<(Self, Write), RecordError> {
        let envelope: Envelope<'_> =
            serde_json::from_slice(bytes).map_err(|_| RecordError::NotARecord)?;
        let text = envelope.record.get();
        let Envelope { bearerd: format, sha256, key: of, revision, writer, .. } = envelope;
        let write = revision.zip(writer).map(|(revision, writer)| Write { revision, writer });
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
            (1..=3, None) => Ok((former::read(text)?, Write::default())),
            _ => Err(RecordError::NotARecord),
        }
    }
}

/// What one write is known by, so that whoever got no answer to it can tell whether it took place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Counts up with every write of this key.
    pub revision: u64,
    /// Random, of this one write.
    pub writer: String,
}

fn checksum(key: &str, write: &Write, record: &str) -> Fingerprint {
    let Write { revision, writer } = write;
    Fingerprint::of(format!("{key}\n{revision}\n{writer}\n{record}").as_bytes())
}

/// The format of what is stored; a change that an older bearerd cannot read counts it up.
pub(super) const FORMAT: u32 = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    bearerd: u32,
    sha256: Fingerprint,
    key: Option<String>,
    revision: Option<u64>,
    writer: Option<String>,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// What is wrong with the bytes of a record. Never quotes them: they hold tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a whole record: empty, cut off or something else.
    #[error("it is not a whole record")]
    NotARecord,
    /// A whole record whose bytes have changed since they were written.
    #[error("the record does not match its checksum")]
    Checksum,
    /// A whole record, of another credential.
    #[error("it is the record of another credential")]
    OtherKey,
    /// A newer bearerd wrote it.
    #[error("the record has format {0}")]
    Newer(u32),
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
