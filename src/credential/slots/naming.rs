//! Resolution of the names that operators use for tokens.
//!
//! `resamania` means all tokens of the credential, including those that are only stored.
//! `resamania[paris]`, as people read it, and `resamania/paris`, the key of its record, mean one
//! token. Unlike a title, a key is unambiguous for all values.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Instance, InstanceError, SlotBuilder, Slots};
use crate::credential::Config;
use crate::store::StoreError;
use crate::template::Variables;
use crate::token::Context;

/// A token that a name stands for, open or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedToken {
    /// The name in messages.
    pub title: String,
    /// The key of its record.
    pub key: String,
    /// The values of the credential's variables.
    pub values: Variables,
}

/// A credential without a running proxy. It opens only the tokens that are named, because an open
/// slot refreshes its token.
#[derive(Debug)]
pub struct OfflineCredential(SlotBuilder);

impl OfflineCredential {
    /// The credential configured by `config`.
    pub fn new(config: Config, context: Context) -> Self {
        Self(SlotBuilder {
            token: config.token,
            variables: config.variables,
            secrets: config.secrets,
            context,
        })
    }

    /// The tokens that `name` stands for; `None` if it does not name one of this credential's.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the stored tokens cannot be listed.
    pub async fn named(&self, name: &str) -> Result<Option<Vec<NamedToken>>, StoreError> {
        self.0.named(name, Vec::new()).await
    }

    /// The names that an operator can use.
    pub fn names(&self) -> Vec<String> {
        self.0.names(&[])
    }

    /// Opens the slot of a token.
    ///
    /// # Errors
    ///
    /// [`InstanceError`] if it has nothing to log out of.
    pub async fn open(&self, values: &Variables) -> Result<Arc<Instance>, InstanceError> {
        self.0.make(values.clone()).await
    }
}

impl Slots {
    /// The tokens that `name` stands for; `None` if it does not name one of this credential's.
    pub(in crate::credential) async fn named(
        &self,
        credential: &str,
        name: &str,
    ) -> Option<Vec<NamedToken>> {
        let many = match self {
            Self::One(instance) => return (name == credential).then(|| vec![instance.named()]),
            Self::Many(many) => many,
        };
        let instances: Vec<NamedToken> =
            self.instances().iter().map(|instance| instance.named()).collect();
        match many.builder.named(name, instances.clone()).await {
            Ok(named) => named,
            Err(error) => {
                tracing::error!(credential, %error, "cannot list stored tokens");
                (name == credential).then_some(instances)
            }
        }
    }

    /// The names that an operator can use.
    pub(in crate::credential) fn names(&self, credential: &str) -> Vec<String> {
        match self {
            Self::One(_) => vec![credential.to_owned()],
            Self::Many(many) => many.builder.names(&self.instances()),
        }
    }
}

impl Instance {
    fn named(&self) -> NamedToken {
        NamedToken {
            title: self.title.to_string(),
            key: self.key.to_string(),
            values: self.variables().clone(),
        }
    }
}

impl SlotBuilder {
    async fn named(
        &self,
        name: &str,
        instances: Vec<NamedToken>,
    ) -> Result<Option<Vec<NamedToken>>, StoreError> {
        let Some(rest) = name.strip_prefix(&self.token.name) else { return Ok(None) };
        if !rest.is_empty() {
            let values = self.values_in_key(name).or_else(|| self.values_in_title(rest));
            let values = values.filter(|values| self.allows(values));
            return Ok(values.map(|values| vec![self.of(values)]));
        }
        if self.variables.is_empty() {
            return Ok(Some(vec![self.of(Variables::new())]));
        }
        let stored = self.context.store.keys(&self.token.name).await?;
        let stored = stored.iter().filter_map(|key| self.values_in_key(key));
        let stored = stored.filter(|values| self.allows(values)).map(|values| self.of(values));
        // Each token once, ordered by key.
        let all: BTreeMap<String, NamedToken> =
            instances.into_iter().chain(stored).map(|named| (named.key.clone(), named)).collect();
        Ok(Some(all.into_values().collect()))
    }

    fn names(&self, instances: &[Arc<Instance>]) -> Vec<String> {
        let titles = instances.iter().map(|instance| instance.title.to_string());
        std::iter::once(self.token.name.clone()).chain(titles).collect()
    }

    fn values_in_key(&self, key: &str) -> Option<Variables> {
        let names = self.variables.iter().map(|variable| variable.name.as_str());
        self.token.values_in(key, names)
    }

    /// The values in a title such as `[paris]`, ordered by variable name.
    fn values_in_title(&self, rest: &str) -> Option<Variables> {
        let text = rest.strip_prefix('[')?.strip_suffix(']')?;
        let mut names: Vec<&String> = self.variables.iter().map(|it| &it.name).collect();
        names.sort();
        let values: Vec<&str> = match names.len() {
            // A single value may contain a comma.
            1 => vec![text],
            _ => text.split(',').collect(),
        };
        let paired = names.into_iter().cloned().zip(values.iter().map(|&value| value.to_owned()));
        let is_whole = values.len() == self.variables.len();
        is_whole.then(|| paired.collect())
    }

    fn of(&self, values: Variables) -> NamedToken {
        let config = crate::token::Config { variables: values, ..self.token.clone() };
        NamedToken { title: config.title(), key: config.key(), values: config.variables }
    }
}
