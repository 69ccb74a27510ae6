//! Access tokens: when they are fresh, who waits for a new one, and one flight at a time.
//!
//! A [`Slot`] stands for one credential's token. Reading a fresh token is one atomic load and takes
//! no lock. Everything else goes through a small state machine (`token/state.rs`) behind a mutex
//! under which nothing ever waits. A refresh is a *flight*: a detached task on the control runtime
//! that no client's hanging up can cancel, because the answer of a token endpoint may hold the only
//! copy of a rotated refresh token.
//!
//! *How* a token is replaced, durably, is `token/refresh.rs`.

mod access_token;
mod key;
mod margin;
mod refresh;
mod slot;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oauth::{self, Transport};
use crate::secret::{Secret, SecretSource};
pub use crate::store::Generation;
use crate::store::{TerminalReason, TokenStore};
use crate::template::Variables;

pub use access_token::Token;
pub use margin::Margin;
pub use slot::Slot;

/// One credential's tokens, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The credential's name; with the variables' values the key of its record.
    pub name: String,
    /// Where tokens come from.
    pub oauth: oauth::Config,
    /// What the variables stand for, where one credential has many tokens.
    pub variables: Variables,
    /// The first refresh token.
    pub seed: Option<Seed>,
    /// How long before its expiry a token is replaced.
    pub margin: Margin,
    /// The lifetime to assume when the answer says nothing; `None`: until an origin rejects it.
    pub lifetime: Option<Duration>,
    /// A refresh token that was not used for so long is used, so that it does not die of idleness;
    /// `None`: only if its server says that it is about to expire.
    pub keepalive: Option<Duration>,
    /// How long a request may wait for a token. Default 15 s.
    pub wait: Duration,
}

impl Config {
    /// The key of its record: the name, and the variables' values in the order of their names,
    /// percent-encoded, each behind a slash.
    pub fn key(&self) -> String {
        self.key_for(&self.variables)
    }

    /// The key with these values.
    pub fn key_for(&self, variables: &Variables) -> String {
        key::key(&self.name, variables)
    }

    /// The values of the variables of these names in the key of a record; `None` if it is of another
    /// credential or of other variables.
    pub fn values_in<'a>(
        &self,
        key: &str,
        variables: impl Iterator<Item = &'a str>,
    ) -> Option<Variables> {
        key::values(key, &self.name, variables)
    }

    /// Can a first token be had only with what a record holds?
    pub fn needs_record(&self) -> bool {
        let has_seed = self.seed.as_ref().is_some_and(|seed| seed.value.is_some());
        let lives_on = self.oauth.grant.lives_on();
        lives_on == oauth::Livelihood::RefreshToken
            && self.oauth.grant != oauth::GrantType::Password
            && self.oauth.bootstrap.is_none()
            && !has_seed
    }

    /// What messages call it: `resamania[paris]`, or the name alone.
    pub fn title(&self) -> String {
        let values: Vec<&str> = self.variables.values().map(String::as_str).collect();
        match values.as_slice() {
            [] => self.name.clone(),
            values => format!("{}[{}]", self.name, values.join(",")),
        }
    }
}

/// Where the first refresh token comes from; once a record exists, the record wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Seed {
    /// The place, for messages.
    pub source: SecretSource,
    /// `None` when there is nothing at that place, which is no error once a record exists.
    pub value: Option<Secret>,
}

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The authorization server is down, throttles, or is slow; asking again later may help.
    #[error("no access token at the moment ({why})")]
    Unavailable {
        /// When it is worth asking again.
        retry_after: Duration,
        /// What kind of failure it is.
        why: &'static str,
    },
    /// A person has to act.
    #[error("an operator has to act ({reason})")]
    NeedsLogin {
        /// Why.
        reason: TerminalReason,
    },
}

/// What became of a rejection.
#[derive(Debug)]
pub enum Renewal {
    /// Send the request again with this token, after this wait.
    Resend(Arc<Token>, Duration),
    /// Pass the rejection on to the client.
    PassOn,
}

/// How far one request has come with its rejections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// A new token was tried already.
    pub renewed: bool,
    /// How often a brand-new token was waited for.
    pub settled: usize,
}

/// What the parts of a slot that outlive requests need.
#[derive(Clone, Debug)]
pub struct Context {
    /// The runtime on which flights run.
    pub control: Handle,
    /// Counts flights, so that a drain can wait for them.
    pub tasks: TaskTracker,
    /// The wall clock.
    pub clock: Clock,
    /// Where records are kept.
    pub store: Arc<dyn TokenStore>,
    /// How token requests travel.
    pub transport: Arc<dyn Transport>,
    /// What is counted.
    pub metrics: Metrics,
}

/// What is to be said about one credential, to people and to probes.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: Arc<str>,
    /// What it is doing.
    pub condition: Condition,
    /// Is there a token that may be put on requests?
    pub usable: bool,
    /// The token's generation.
    pub generation: Generation,
    /// When it was asked for.
    pub refreshed_at: Option<SystemTime>,
    /// When the token expires.
    pub expires_at: Option<SystemTime>,
    /// Since when nothing but failures has come.
    pub failing_since: Option<SystemTime>,
    /// The last thing that went wrong, and when.
    pub last_error: Option<(SystemTime, String)>,
    /// The record could not be written; a crash now would lose the refresh token.
    pub unsaved: bool,
}

/// What a credential is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No token yet; the next request asks for one.
    Absent,
    /// A token with time to spare.
    Fresh,
    /// A token that the next request will have replaced.
    NearExpiry,
    /// A token request is under way.
    Refreshing,
    /// The last token request failed, for this reason.
    Failing(&'static str),
    /// An operator has to act.
    NeedsLogin(TerminalReason),
}

impl Condition {
    /// The state in one word, as [`metrics::STATES`](crate::metrics::STATES) lists them.
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

    /// Was the request itself refused, so that other secrets of the operator's could help?
    pub fn is_refused(self) -> bool {
        matches!(self, Self::Failing("refused" | "bootstrap_refused"))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::Failing(why) => write!(f, " ({why})"),
            Self::NeedsLogin(reason) => write!(f, " ({reason})"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
