//! What a failed token request means: the one table of classes.

use std::fmt;

/// What a failed token request means (`oauth/answer/classify.rs` says which answers mean what).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The grant is gone: asking again with it is pointless, and harmful where reuse is detected.
    GrantDead,
    /// A person has to sign in or consent; the refresh token may still be good.
    UserNeeded,
    /// The server works on something that is in the way of this request; it will soon be done.
    Busy,
    /// Too many token requests; ask again after [`GrantError::retry_after`](super::GrantError).
    Throttled,
    /// The server is in trouble; the grant may have been consumed all the same.
    Transient,
    /// The request never left: name, connection or TLS.
    NotSent,
    /// Sent, and no answer came.
    Ambiguous,
    /// A success from which no token could be read. It was issued all the same.
    Unreadable,
    /// A success whose access token cannot be sent: its type, its length, its characters.
    Unusable,
    /// Something in front of the token endpoint answered, or something else is at its URL.
    Gateway,
    /// The server refuses this OAuth client or this request, whatever the grant.
    Config,
    /// Reads like [`ErrorClass::Config`], but some servers say a dead grant this way.
    Doubtful,
    /// The proof needs [`GrantError::dpop_nonce`](super::GrantError); ask once more with it (RFC
    /// 9449 §8).
    Nonce,
}

/// Has the server acted on the refresh token that it was shown?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumption {
    /// It is as good as before.
    No,
    /// Nobody here can know.
    Maybe,
    /// A server that rotates has issued its successor.
    Yes,
}

/// How soon to look again, where the server does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPace {
    /// Never beyond 5 s: asking costs the server nothing while nothing arrives.
    Unsent,
    /// From 1 s to 60 s.
    Short,
    /// From 1 s to 15 min.
    Growing,
    /// From 1 min to 15 min.
    Long,
}

/// What follows from a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// What became of the refresh token.
    pub consumption: Consumption,
    /// How soon to look again.
    pub pace: RetryPace,
    /// The class in a word, for status, logs and metrics.
    pub word: &'static str,
    /// Beginning a new grant can help.
    pub bootstrap_heals: bool,
    /// What an operator should do; `None` where it passes by itself.
    pub advice: Option<&'static str>,
}

impl ErrorClass {
    /// The row of the table.
    pub const fn policy(self) -> ErrorPolicy {
        use Consumption::{Maybe, No, Yes};
        use RetryPace::{Growing, Long, Short, Unsent};
        let (word, consumption, pace, advice) = match self {
            Self::GrantDead => ("grant_dead", No, Long, Some("configure a new refresh_token")),
            Self::UserNeeded => (
                "user_needed",
                No,
                Long,
                Some("a person has to sign in or consent at the provider, for a new refresh_token"),
            ),
            Self::Busy => ("busy", No, Short, None),
            Self::Throttled => ("throttled", No, Short, None),
            Self::Transient => ("server_trouble", Maybe, Short, None),
            Self::NotSent => ("unreachable", No, Unsent, None),
            Self::Ambiguous => ("no_answer", Maybe, Short, None),
            Self::Unreadable => (
                "unreadable_answer",
                Yes,
                Growing,
                Some("say in `response` where this server's answers have their members"),
            ),
            Self::Unusable => (
                "unusable_token",
                Yes,
                Long,
                Some(
                    "the server issues tokens that this credential cannot send: see the reason, \
                     dpop, steps and limits.token_bytes",
                ),
            ),
            // A page in front of the server mostly means that the request did not get through; but one
            // can also take the place of an answer, and one row has to hold for both.
            Self::Gateway => (
                "gateway_page",
                Maybe,
                Growing,
                Some("check token_url, and what is in front of the token endpoint"),
            ),
            Self::Config => (
                "refused",
                No,
                Long,
                Some("check client_id, client_secret, scope and the other parameters"),
            ),
            Self::Doubtful => (
                "refused",
                No,
                Long,
                Some(
                    "check client_id, client_secret, scope and the other parameters; if nothing is \
                     wrong with them, the refresh token is dead: sign in again",
                ),
            ),
            Self::Nonce => (
                "refused",
                No,
                Long,
                Some("the server accepts no proof of possession: check this machine's clock"),
            ),
        };
        let bootstrap_heals = matches!(self, Self::GrantDead | Self::Doubtful);
        ErrorPolicy { consumption, pace, word, bootstrap_heals, advice }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy().word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the engine counts on, whatever else the rows say.
    #[test]
    fn the_table_keeps_its_promises() {
        use ErrorClass::*;
        let all = [
            GrantDead, UserNeeded, Busy, Throttled, Transient, NotSent, Ambiguous, Unreadable,
            Unusable, Gateway, Config, Doubtful, Nonce,
        ];
        for class in all {
            let policy = class.policy();
            assert_eq!(class.to_string(), policy.word);
            assert_eq!(policy.bootstrap_heals, matches!(class, GrantDead | Doubtful), "{class}");
            let is_success = matches!(class, Unreadable | Unusable);
            assert_eq!(
                policy.consumption == Consumption::Yes,
                is_success,
                "{class}: a success consumes"
            );
            let passes = matches!(class, Busy | Throttled | Transient | NotSent | Ambiguous);
            assert_eq!(policy.advice.is_none(), passes, "{class}: an operator is told what to do");
        }
    }
}
