//! The configuration of one credential's tokens.

use std::time::Duration;

use super::{Margin, record_key, refresh};
use crate::oauth::{self, GrantRenewal, GrantType};
use crate::secret::{Secret, SecretSource};
use crate::template::Variables;

/// How the tokens of one credential are obtained and kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The credential's name. With the values of its variables it forms the key of the record.
    pub name: String,
    /// How token requests are made and their responses read.
    pub oauth: oauth::Config,
    /// The values of the template variables, for a credential with one token per tenant.
    pub variables: Variables,
    /// The first refresh token.
    pub seed: Option<Seed>,
    /// How long before its expiry a token is replaced.
    pub margin: Margin,
    /// The lifetime to assume if the token response states none. `None`: the token is used until an
    /// origin server rejects it.
    pub lifetime: Option<Duration>,
    /// A refresh token that has been idle for this long is used, so that the server does not expire it.
    /// `None`: it is used early only if the server announced its expiry.
    pub keepalive: Option<Duration>,
    /// How long a request may wait for a token. The default is 15 s.
    pub wait: Duration,
}

/// The first refresh token. A value that the record does not know yet is presented even if there is a record: if the
/// server accepts it, it replaces the grant of the record; if not, that grant stays in use. Then it is not tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Seed {
    /// Where the value comes from, for messages.
    pub source: SecretSource,
    /// `None` if the source is empty, which is not an error once a record exists.
    pub value: Option<Secret>,
}

impl Config {
    /// The key of the record: the name, followed by the percent-encoded values of the variables in the
    /// order of their names, each after a slash.
    pub fn key(&self) -> String {
        self.key_for(&self.variables)
    }

    /// The key of the record for these values.
    pub fn key_for(&self, variables: &Variables) -> String {
        record_key::key(&self.name, variables)
    }

    /// Parses a record key into the values of these variables. Returns `None` if the key belongs to
    /// another credential or has other variables.
    pub fn values_in<'a>(
        &self,
        key: &str,
        variables: impl Iterator<Item = &'a str>,
    ) -> Option<Variables> {
        record_key::values(key, &self.name, variables)
    }

    /// Returns true if the first token can only be obtained with a stored record.
    pub fn needs_record(&self) -> bool {
        let has_seed = self.seed.as_ref().is_some_and(|seed| seed.value.is_some());
        self.oauth.grant.renewal() == GrantRenewal::RefreshToken
            && self.oauth.grant != GrantType::Password
            && self.oauth.bootstrap.is_none()
            && !has_seed
    }

    /// The name for messages: `resamania[paris]`, or the name alone.
    pub fn title(&self) -> String {
        let values: Vec<&str> = self.variables.values().map(String::as_str).collect();
        match values.as_slice() {
            [] => self.name.clone(),
            values => format!("{}[{}]", self.name, values.join(",")),
        }
    }

    /// The longest that a refresh may take. A shutdown waits this long for the response to a token request.
    pub fn max_refresh_duration(&self) -> Duration {
        refresh::max_duration(&self.oauth)
    }
}
