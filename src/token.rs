//! Access tokens: when they are fresh, who waits for a new one, and one flight at a time.
//!
//! A [`Slot`] stands for one credential's token. Reading a fresh token is one atomic load and takes
//! no lock. Everything else is in the [ledger](Ledgers) of its key: the record, the configuration and a small
//! state machine (`token/state.rs`) behind one lock under which nothing waits. A refresh is a *flight*
//! (`token/flight.rs`): a detached task on the control runtime that no client's hanging up can cancel, because
//! the answer of a token endpoint may hold the only copy of a rotated refresh token.
//!
//! What decides is pure: `order.rs` (which of two records is the newer), `plan.rs` (what is left to do),
//! `issue.rs` (what an answer makes of a record) and `state.rs` (when, and who waits).

mod access_token;
mod flight;
mod issue;
mod key;
mod ledger;
mod ledgers;
mod margin;
mod operator;
mod order;
mod plan;
mod reason;
mod report;
mod settled;
mod slot;
mod state;

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oauth::{self, Transport};
use crate::secret::{Secret, SecretSource};
pub use crate::store::Generation;
use crate::store::{Store, TerminalReason};
use crate::template::Variables;

pub use access_token::Token;
pub use ledgers::Ledgers;
pub use margin::Margin;
pub use operator::Revoked;
pub use reason::FailureReason;
pub use slot::{Sending, Slot};

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
        let lives_on = self.oauth.grant.renewal();
        lives_on == oauth::GrantRenewal::RefreshToken
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
    /// The last token request brought nothing. Asking again later may help, unless an
    /// [operator has to act](FailureReason::needs_operator).
    #[error("no access token at the moment ({why})")]
    Unavailable {
        /// When it is worth asking again.
        retry_after: Duration,
        /// What kind of failure it is.
        why: FailureReason,
    },
    /// A person has to act.
    #[error("an operator has to act ({reason})")]
    NeedsLogin {
        /// Why.
        reason: TerminalReason,
    },
}

impl TokenError {
    /// Is it only that another configuration is in force by now?
    pub fn is_reload(&self) -> bool {
        matches!(self, Self::Unavailable { why: FailureReason::Reloaded, .. })
    }
}

/// What goes on in the background.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// Flights: the answer to a token request may hold the only copy of a refresh token.
    pub flights: TaskTracker,
    /// Saving what could not be saved: on a disk that hangs it never ends.
    pub writes: TaskTracker,
}

/// What the parts of a slot that outlive requests need.
#[derive(Clone, Debug)]
pub struct Context {
    /// The runtime on which flights run.
    pub control: Handle,
    /// What a shutdown waits for.
    pub tasks: Tasks,
    /// The wall clock.
    pub clock: Clock,
    /// Where records are kept.
    pub store: Store,
    /// What is known of them.
    pub ledgers: Ledgers,
    /// Counts up with every reload.
    pub edition: u64,
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
    /// When the refresh token expires, if the server said so.
    pub refresh_expires_at: Option<SystemTime>,
    /// When the grant ends, if the server said so.
    pub grant_expires_at: Option<SystemTime>,
    /// That is within a week.
    pub grant_ends_soon: bool,
    /// Since when nothing but failures has come.
    pub failing_since: Option<SystemTime>,
    /// The last thing that went wrong, and when.
    pub last_error: Option<(SystemTime, String)>,
    /// The record could not be written; a crash now would lose the refresh token.
    pub unsaved: bool,
    /// The server replaces refresh tokens, and the store forgets them with the process.
    pub volatile: bool,
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
    Failing(FailureReason),
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
        matches!(self, Self::Failing(why) if why.is_refused())
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

impl Config {
    /// How long a flight may take, so that a shutdown waits for the answer to a token request.
    pub fn longest_flight(&self) -> Duration {
        flight::longest(&self.oauth)
    }
}

/// A number from 0 to 1 that nobody needs to be unable to guess.
fn random_share() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
