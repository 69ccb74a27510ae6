//! Why there is no new token, in a word for programs and a sentence for people.

use std::fmt;

use crate::oauth::ErrorClass;

/// Why a token request brought nothing, or was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// What the authorization server made of it.
    Answer(ErrorClass),
    /// The bootstrap was refused.
    BootstrapRefused,
    /// Bootstraps are not made one after the other.
    BootstrapPause,
    /// A new seed was refused; the grant before it goes on.
    SeedRefused,
    /// `rotation = "require"`, and the answer had no new refresh token.
    NotRotated,
    /// A step after the token request failed.
    Step,
    /// The answer to an earlier presentation may still come, to another process.
    InTheAir,
    /// The answers to a refresh token were lost: it is not presented again while a token could be hurt by that.
    AnswersLost,
    /// The token store could not be used, for this reason.
    Store(&'static str),
    /// Token requests are not made in quick succession.
    Floor,
    /// It took longer than a request waits.
    Timeout,
    /// The configuration changed while the request was under way.
    Reloaded,
    /// A fault of bearerd's own.
    Internal,
}

impl FailureReason {
    /// The reason in a word, as it stands in metrics and in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answer(class) => class.policy().word,
            Self::BootstrapRefused => "bootstrap_refused",
            Self::BootstrapPause => "bootstrap_pause",
            Self::SeedRefused => "seed_refused",
            Self::NotRotated => "not_rotated",
            Self::Step => "step_failed",
            Self::InTheAir => "in_the_air",
            Self::AnswersLost => "answers_lost",
            Self::Store(word) => word,
            Self::Floor => "paced",
            Self::Timeout => "timeout",
            Self::Reloaded => "reloaded",
            Self::Internal => "internal_error",
        }
    }

    /// What an operator should do; `None`: it passes by itself.
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Answer(class) => class.policy().advice,
            Self::BootstrapRefused => Some(
                "check the bootstrap's user name and password; it is tried again by itself, at most \
                 every five minutes",
            ),
            Self::SeedRefused => Some(
                "the new refresh_token is no good and the one before goes on: configure one that works",
            ),
            Self::NotRotated => Some(
                "rotation = \"require\", and the server sends no new refresh token: is it set up to?",
            ),
            Self::Step => Some("a step after the token request fails: the last error says how"),
            Self::Store("lock_busy") => {
                Some("another process holds the lock of this credential: is it hanging?")
            }
            Self::Store("store_plain") => Some(
                "a record is plain text beside `store.key`: add \"plain\" to `store.old_keys` while \
                 records from before the key are sealed, or remove it",
            ),
            Self::Store("store_sealed") => {
                Some("the record was sealed with another key: configure that in `store.old_keys`")
            }
            Self::Store(_) => Some("look after the token store; the log names the place"),
            _ => None,
        }
    }

    /// Does waiting not help, because a person has to change something here?
    pub fn needs_operator(self) -> bool {
        matches!(
            self,
            Self::Answer(ErrorClass::Unusable | ErrorClass::UserNeeded)
                | Self::NotRotated
                | Self::Store("store_plain" | "store_sealed" | "store_newer")
        )
    }

    /// Was the request itself refused, so that other secrets of the operator's could help?
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
