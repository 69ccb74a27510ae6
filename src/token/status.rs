//! The state of one credential, as shown to operators and probes.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{FailureReason, Generation};
use crate::store::TerminalReason;

/// The state of one credential.
#[derive(Clone, Debug)]
pub struct Status {
    /// The credential's name, with the values of its variables.
    pub name: Arc<str>,
    /// What the credential is doing.
    pub condition: Condition,
    /// There is a token that can be used for requests.
    pub is_usable: bool,
    /// The generation of the token.
    pub generation: Generation,
    /// When the token was requested.
    pub refreshed_at: Option<SystemTime>,
    /// When the token expires.
    pub expires_at: Option<SystemTime>,
    /// When the refresh token expires, if the server stated it.
    pub refresh_expires_at: Option<SystemTime>,
    /// When the grant ends, if the server stated it.
    pub grant_expires_at: Option<SystemTime>,
    /// The grant ends within a week.
    pub grant_ends_soon: bool,
    /// When the current series of failures began.
    pub failing_since: Option<SystemTime>,
    /// When the last error occurred, and its text.
    pub last_error: Option<(SystemTime, String)>,
    /// The record could not be written. A crash now would lose the refresh token.
    pub is_unsaved: bool,
    /// The server rotates refresh tokens, and the store does not outlive the process.
    pub is_volatile: bool,
}

/// What a credential is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no token yet. The next request starts a refresh.
    Absent,
    /// The token is valid and not yet due.
    Fresh,
    /// The token is valid but due. The next request triggers its replacement.
    NearExpiry,
    /// A token request is in progress.
    Refreshing,
    /// The last token request failed for this reason.
    Failing(FailureReason),
    /// An operator has to act.
    NeedsLogin(TerminalReason),
}

impl Condition {
    /// The state as one word, as listed in [`metrics::STATES`](crate::metrics::STATES).
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Fresh => "fresh",
            Self::NearExpiry => "near_expiry",
            Self::Refreshing => "refreshing",
            Self::Failing(_) => "failing",
            Self::NeedsLogin(_) => "needs_login",
        }
    }

    /// Returns true if the server refused the request itself, so that other configured secrets could help.
    pub fn is_refused(self) -> bool {
        matches!(self, Self::Failing(reason) if reason.is_refused())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::Failing(reason) => write!(f, " ({reason})"),
            Self::NeedsLogin(reason) => write!(f, " ({reason})"),
            _ => Ok(()),
        }
    }
}
