//! The classes of failed token requests and the policy for each.

use std::fmt;

/// What a failed token request means. `oauth/answer/classify.rs` maps answers to classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The grant is no longer valid. Using it again is pointless, and harmful if the server detects
    /// reuse.
    GrantDead,
    /// A user has to sign in or consent. The refresh token may still be valid.
    UserNeeded,
    /// The server is processing a conflicting request. Retry soon.
    Busy,
    /// Too many token requests. Retry after [`GrantError::retry_after`](super::GrantError).
    Throttled,
    /// The server failed. It may have consumed the grant.
    Transient,
    /// The request was not sent: name resolution, connection or TLS failed.
    NotSent,
    /// The request was sent and no answer arrived.
    Ambiguous,
    /// A successful answer from which no token could be read. The server did issue a token.
    Unreadable,
    /// A successful answer whose access token cannot be sent because of its type, length or
    /// characters.
    Unusable,
    /// The answer comes from an intermediary or from something else at the configured URL.
    Gateway,
    /// The server refuses this OAuth client or this request, independently of the grant.
    Config,
    /// Looks like [`ErrorClass::Config`], but some servers report an invalid grant this way.
    Doubtful,
    /// The proof needs [`GrantError::dpop_nonce`](super::GrantError). Retry once with it (RFC 9449
    /// §8).
    Nonce,
}

/// Whether the server consumed the refresh token that was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumption {
    /// The refresh token is still valid.
    No,
    /// The refresh token may have been consumed.
    Maybe,
    /// The server accepted it. If the server rotates refresh tokens, it has issued a new one.
    Yes,
}

/// How soon to retry if the server does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPace {
    /// At most 5 s: a request that never arrives costs the server nothing.
    Unsent,
    /// From 1 s to 60 s.
    Short,
    /// From 1 s to 15 min.
    Growing,
    /// From 1 min to 15 min.
    Long,
}

/// How failures of a class are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Whether the refresh token was consumed.
    pub consumption: Consumption,
    /// How soon to retry.
    pub pace: RetryPace,
    /// The label of the class in status, logs and metrics.
    pub word: &'static str,
    /// Returns true if a new bootstrap grant can resolve the failure.
    pub bootstrap_resolves: bool,
    /// What an operator should do. `None` if the failure resolves itself.
    pub advice: Option<&'static str>,
}

impl ErrorClass {
    /// Returns the policy for this class.
    pub const fn policy(self) -> ErrorPolicy {
        use Consumption::{Maybe, No, Yes};
        use RetryPace::{Growing, Long, Short, Unsent};
        let (word, consumption, pace, advice) = match self {
            Self::GrantDead => ("grant_dead", No, Long, Some("configure a new refresh_token")),
            Self::UserNeeded => (
                "user_needed",
                No,
                Long,
                Some("a user has to sign in or consent at the provider to get a new refresh_token"),
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
                Some("set in `response` where this server's answers have their members"),
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
            // An error page from an intermediary usually means that the request was not forwarded,
            // but it can also replace an answer of the server. One row has to cover both.
            Self::Gateway => (
                "gateway_page",
                Maybe,
                Growing,
                Some("check token_url and any gateway in front of the token endpoint"),
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
                    "check client_id, client_secret, scope and the other parameters; if they \
                     are correct, the refresh token is invalid: sign in again",
                ),
            ),
            Self::Nonce => (
                "refused",
                No,
                Long,
                Some("the server accepts no DPoP proof: check this machine's clock"),
            ),
        };
        let bootstrap_resolves = matches!(self, Self::GrantDead | Self::Doubtful);
        ErrorPolicy { consumption, pace, word, bootstrap_resolves, advice }
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

    /// The rules that the token engine relies on.
    #[test]
    fn error_policies_are_consistent() {
        use ErrorClass::*;
        let all = [
            GrantDead, UserNeeded, Busy, Throttled, Transient, NotSent, Ambiguous, Unreadable,
            Unusable, Gateway, Config, Doubtful, Nonce,
        ];
        for class in all {
            let policy = class.policy();
            assert_eq!(class.to_string(), policy.word);
            assert_eq!(policy.bootstrap_resolves, matches!(class, GrantDead | Doubtful), "{class}");
            let is_success = matches!(class, Unreadable | Unusable);
            assert_eq!(
                policy.consumption == Consumption::Yes,
                is_success,
                "{class}: only successful answers consume"
            );
            let passes = matches!(class, Busy | Throttled | Transient | NotSent | Ambiguous);
            assert_eq!(
                policy.advice.is_none(),
                passes,
                "{class}: advice is due if it does not pass"
            );
        }
    }
}
