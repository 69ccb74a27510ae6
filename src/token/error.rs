//! Why a request gets no token, as a word for programs and advice for operators.

use std::fmt;
use std::time::Duration;

use crate::oauth::ErrorClass;
use crate::store::TerminalReason;

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The last token request failed. Retrying later may help, unless an
    /// [operator has to act](FailureReason::needs_operator).
    #[error("no access token at the moment ({reason})")]
    Unavailable {
        /// When to retry.
        retry_after: Duration,
        /// The kind of failure.
        reason: FailureReason,
    },
    /// An operator has to act.
    #[error("an operator has to act ({reason})")]
    NeedsLogin {
        /// Why.
        reason: TerminalReason,
    },
}

impl TokenError {
    /// Returns true if the only reason is that another configuration has taken effect.
    pub fn is_reload(&self) -> bool {
        matches!(self, Self::Unavailable { reason: FailureReason::Reloaded, .. })
    }
}

/// Why a token request failed, or was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// How the authorization server's response was classified.
    Answer(ErrorClass),
    /// The bootstrap was refused.
    BootstrapRefused,
    /// The minimum interval between bootstraps has not passed.
    BootstrapPause,
    /// A new seed was refused. The grant before it stays in use.
    SeedRefused,
    /// `rotation = "require"` is set and the response had no new refresh token.
    NotRotated,
    /// A configured step after the token request failed.
    Step,
    /// Another process may still receive the response to an earlier token request.
    RequestInFlight,
    /// The responses to a refresh token were lost. It is not presented again while there is a usable access
    /// token that a late replay could revoke.
    AnswersLost,
    /// The token store failed with this word.
    Store(&'static str),
    /// The minimum interval between token requests has not passed.
    MinInterval,
    /// The request's wait ended before there was a token.
    Timeout,
    /// The configuration changed while the request was waiting.
    Reloaded,
    /// A bug in bearerd.
    Internal,
}

impl FailureReason {
    /// The reason as one word, as used in metrics and the admin API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answer(class) => class.policy().word,
            Self::BootstrapRefused => "bootstrap_refused",
            Self::BootstrapPause => "bootstrap_pause",
            Self::SeedRefused => "seed_refused",
            Self::NotRotated => "not_rotated",
            Self::Step => "step_failed",
            Self::RequestInFlight => "request_in_flight",
            Self::AnswersLost => "answers_lost",
            Self::Store(word) => word,
            Self::MinInterval => "min_interval",
            Self::Timeout => "timeout",
            Self::Reloaded => "reloaded",
            Self::Internal => "internal_error",
        }
    }

    /// What an operator should do. `None`: the failure is temporary.
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Answer(class) => class.policy().advice,
            Self::BootstrapRefused => Some(
                "check the bootstrap's user name and password; bearerd keeps retrying, at most \
                 every five minutes",
            ),
            Self::SeedRefused => Some(
                "the new refresh_token was refused and the previous one stays in use: configure a valid one",
            ),
            Self::NotRotated => Some(
                "rotation = \"require\" is set but the server sends no new refresh token: check its rotation setting",
            ),
            Self::Step => Some("a step after the token request fails: see the last error"),
            Self::Store("lock_busy") => {
                Some("another process holds the lock of this credential: check whether it hangs")
            }
            Self::Store("store_plain") => Some(
                "a record is plain text although `store.key` is set: add \"plain\" to \
                 `store.old_keys` until all records are encrypted, or remove the record",
            ),
            Self::Store("store_sealed") => {
                Some("the record is encrypted with another key: add that key to `store.old_keys`")
            }
            Self::Store(_) => Some("check the token store; the log names the record"),
            _ => None,
        }
    }

    /// Returns true if retrying does not help until an operator changes the configuration or the store.
    pub fn needs_operator(self) -> bool {
        matches!(
            self,
            Self::Answer(ErrorClass::Unusable | ErrorClass::UserNeeded)
                | Self::NotRotated
                | Self::Store("store_plain" | "store_sealed" | "store_newer")
        )
    }

    /// Returns true if the server refused the request itself, so that other configured secrets could help.
    pub fn is_refused(self) -> bool {
        matches!(
            self,
            Self::Answer(ErrorClass::Config | ErrorClass::Doubtful) | Self::BootstrapRefused
        )
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
