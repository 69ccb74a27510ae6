//! One credential's record, and its form on disk: pure, both ways.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

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

/// Everything that is known about one credential's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Which token this is.
    pub generation: Generation,
    /// The current access token; `None` once it was thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Secret>,
    /// When the token request was sent that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub issued_at: Option<SystemTime>,
    /// When the refresh token was used last, if that brought the same access token again.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub used_at: Option<SystemTime>,
    /// When it expires; `None` if nobody said: until an origin rejects it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub expires_at: Option<SystemTime>,
    /// An origin rejected the access token: it is served no more, not even until it expires.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejected: bool,
    /// The current refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// When the refresh token expires, if the server said so.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_time")]
    pub refresh_expires_at: Option<SystemTime>,
    /// The members of the last token answer that templates name, by their dotted paths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, Secret>,
    /// The longest margin that the server has not refused; `None`: it has refused none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_seconds")]
    pub margin_limit: Option<Duration>,
    /// The configuration with which the last token was issued: what it asks is known to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worked_with: Option<Fingerprint>,
    /// The last time that the grant was begun anew without a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrapped>,
    /// Hashes of superseded refresh tokens, newest first, at most [`TokenRecord::HISTORY`]:
    /// enough to recognise a server that hands an old one back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<Fingerprint>,
    /// Hashes of every seed that was ever used, so that an old one never wins over this record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<Fingerprint>,
    /// The key that the tokens are bound to (RFC 9449).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpop_key: Option<Secret>,
    /// A refresh that was begun; still there after a restart, its answer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// The grant is dead; no token request is made until what explains it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// What a new seed has taken the place of, until that has brought something: it may be a wrong one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub displaced: Option<Box<Self>>,
}

/// Written before a refresh token goes onto the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Which refresh token was about to be sent.
    pub refresh_token: Fingerprint,
    /// When.
    #[serde(with = "time_text")]
    pub at: SystemTime,
}

/// What became of the last bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrapped {
    /// When it was tried.
    #[serde(with = "time_text")]
    pub at: SystemTime,
    /// The server issued nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
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
    #[serde(with = "time_text")]
    pub at: SystemTime,
}

impl Terminal {
    /// Do both tell of the same end? Their times may differ: a file keeps milliseconds.
    pub fn is_same_end(&self, other: &Self) -> bool {
        let Self { reason, refresh_token, config, at: _ } = other;
        (&self.reason, &self.refresh_token, &self.config) == (reason, refresh_token, config)
    }
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
        })
    }
}

impl TokenRecord {
    /// How many superseded refresh tokens are remembered.
    pub const HISTORY: usize = 8;

    /// Was this credential logged out, and not logged in again?
    pub fn is_tombstone(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| terminal.reason == TerminalReason::LoggedOut)
    }

    /// Has the authorization server said that the refresh token is no good any more?
    pub fn refresh_token_is_dead(&self) -> bool {
        let dead = self.terminal.as_ref().and_then(|terminal| terminal.refresh_token.as_ref());
        self.refresh_token.as_ref().is_some_and(|token| Some(&token.fingerprint()) == dead)
    }

    /// Has this seed been used before?
    pub fn knows_seed(&self, seed: &Fingerprint) -> bool {
        self.seeds.contains(seed)
    }

    /// Can a bearerd read it that knows no newer format? Most records lack what the newer one may have.
    fn is_of_format_2(&self) -> bool {
        self.used_at.is_none() && self.displaced.is_none()
    }

    /// The bytes of the record file: a JSON object with the format, a checksum and the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let record = serde_json::to_string_pretty(self).expect("a record has only string keys");
        let checksum = Fingerprint::of(record.as_bytes());
        let checksum = checksum.as_str();
        let format = if self.is_of_format_2() { 2 } else { FORMAT };
        format!("{{\"bearerd\": {format}, \"sha256\": \"{checksum}\", \"record\": {record}}}\n")
            .into_bytes()
    }

    /// Reads what [`TokenRecord::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// [`RecordError`] for anything that is not exactly one whole record of this format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let envelope: Envelope<'_> =
            serde_json::from_slice(bytes).map_err(|_| RecordError::NotARecord)?;
        if envelope.bearerd > FORMAT {
            return Err(RecordError::Newer(envelope.bearerd));
        }
        let text = envelope.record.get();
        if Fingerprint::of(text.as_bytes()) != envelope.sha256 {
            return Err(RecordError::Checksum);
        }
        serde_json::from_str(text).map_err(|_| RecordError::NotARecord)
    }
}

/// The format of the record file; a change that an older bearerd cannot read counts it up.
const FORMAT: u32 = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    bearerd: u32,
    sha256: Fingerprint,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// What is wrong with the bytes of a record file. Never quotes them: they hold tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a whole record: empty, cut off or something else.
    #[error("the file is not a whole record")]
    NotARecord,
    /// A whole record whose bytes have changed since they were written.
    #[error("the record does not match its checksum")]
    Checksum,
    /// A newer bearerd wrote it.
    #[error("the record has format {0}")]
    Newer(u32),
}

/// Times as RFC 3339 text with milliseconds, so that a person can read a record.
mod time_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_millis(clamp(*time)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }

    /// The formatter panics before 1970 and after 9999; a clock that wrong is not worth a crash.
    fn clamp(time: SystemTime) -> SystemTime {
        time.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(253_000_000_000))
    }
}

mod optional_time {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Text(#[serde(with = "time_text")] SystemTime);

    pub(super) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Text).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|text| text.0))
    }
}

mod optional_seconds {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn record() -> TokenRecord {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        TokenRecord {
            generation: Generation(7),
            access_token: Some(Secret::new("at".to_owned())),
            issued_at: Some(time),
            used_at: Some(time),
            expires_at: Some(time + Duration::from_secs(3600)),
            rejected: true,
            refresh_token: Some(Secret::new("rt \"\\ ü".to_owned())),
            refresh_expires_at: Some(time + Duration::from_secs(30 * 86_400)),
            raw: [("a.b".to_owned(), Secret::new("raw".to_owned()))].into(),
            margin_limit: Some(Duration::from_secs(75)),
            worked_with: Some(Fingerprint::of(b"config")),
            bootstrap: Some(Bootstrapped { at: time, refused: true }),
            superseded: vec![Fingerprint::of(b"old")],
            seeds: vec![Fingerprint::of(b"seed")],
            dpop_key: Some(Secret::new("key".to_owned())),
            intent: Some(Intent { refresh_token: Fingerprint::of(b"rt"), at: time }),
            terminal: Some(Terminal {
                reason: TerminalReason::LostRotation,
                refresh_token: None,
                config: Fingerprint::of(b"config"),
                at: time,
            }),
            displaced: Some(Box::new(TokenRecord {
                refresh_token: Some(Secret::new("displaced".to_owned())),
                ..TokenRecord::default()
            })),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for record in [record(), TokenRecord::default()] {
            assert_eq!(TokenRecord::from_bytes(&record.to_bytes()), Ok(record));
        }
    }

    #[test]
    fn a_record_cut_at_any_byte_is_never_taken_for_a_whole_one() {
        let bytes = record().to_bytes();
        // The last byte is a line feed, which JSON does not need.
        for end in 0..bytes.len() - 1 {
            assert!(TokenRecord::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_flipped_bit_is_never_read_as_another_record() {
        let (bytes, original) = (record().to_bytes(), record());
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[index] ^= 1 << bit;
                // White space outside the record may change; the record may not.
                if let Ok(read) = TokenRecord::from_bytes(&bytes) {
                    assert_eq!(read, original, "byte {index}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let text = String::from_utf8(record().to_bytes()).unwrap();
        let newer = text.replacen("\"bearerd\": 3", "\"bearerd\": 4", 1);
        assert_eq!(TokenRecord::from_bytes(newer.as_bytes()), Err(RecordError::Newer(4)));
    }

    /// A bearerd that knows format 2 only reads all that it can understand.
    #[test]
    fn what_needs_no_newer_format_is_written_in_the_one_before() {
        let old = TokenRecord { used_at: None, displaced: None, ..record() };
        assert!(old.to_bytes().starts_with(b"{\"bearerd\": 2,"));
        assert_eq!(TokenRecord::from_bytes(&old.to_bytes()), Ok(old.clone()));
        for newer in [
            TokenRecord { used_at: old.issued_at, ..old.clone() },
            TokenRecord { displaced: Some(Box::default()), ..old },
        ] {
            assert!(newer.to_bytes().starts_with(b"{\"bearerd\": 3,"));
        }
    }

    /// Format 1 lacks members that format 2 may have.
    #[test]
    fn a_record_of_the_format_before_is_read() {
        let old = TokenRecord {
            used_at: None,
            displaced: None,
            refresh_expires_at: None,
            raw: BTreeMap::new(),
            margin_limit: None,
            worked_with: None,
            bootstrap: None,
            ..record()
        };
        let text = String::from_utf8(old.to_bytes()).unwrap();
        let older = text.replacen("\"bearerd\": 2", "\"bearerd\": 1", 1);
        assert_eq!(TokenRecord::from_bytes(older.as_bytes()), Ok(old));
    }

    #[test]
    fn debug_shows_no_token() {
        let text = format!("{:?}", record());
        assert!(
            !text.contains("\"at\"") && !text.contains("rt \\") && !text.contains("\"displaced\""),
            "{text}"
        );
    }

    #[test]
    fn an_end_that_was_read_back_is_the_same_end() {
        let at = UNIX_EPOCH + Duration::from_nanos(1_234_567_891_234_567_891);
        let terminal = Terminal {
            reason: TerminalReason::LostRotation,
            refresh_token: Some(Fingerprint::of(b"rt")),
            config: Fingerprint::of(b"config"),
            at,
        };
        let record = TokenRecord { terminal: Some(terminal.clone()), ..TokenRecord::default() };
        let read = TokenRecord::from_bytes(&record.to_bytes()).unwrap().terminal.unwrap();
        assert_ne!(read, terminal);
        assert!(read.is_same_end(&terminal));
        let revoked = Terminal { reason: TerminalReason::Revoked, ..terminal };
        assert!(!read.is_same_end(&revoked));
    }
}
