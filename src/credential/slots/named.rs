//! Which tokens an operator means by a name.
//!
//! `resamania` are all tokens of the credential, those that are only in the store included;
//! `resamania[paris]`, as people read it, and `resamania/paris`, the key of its record, are one. Unlike
//! a name, a key is exact whatever the values are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Instance, InstanceError, Recipe, Slots};
use crate::credential::Config;
use crate::store::StoreError;
use crate::template::Variables;
use crate::token::Context;

/// A token that a name stands for, whether there is a slot of it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What messages call it.
    pub title: String,
    /// The key of its record.
    pub key: String,
    /// What the credential's variables stand for.
    pub values: Variables,
}

/// A credential where no proxy runs: of its tokens only those are opened that are named, because an open
/// one refreshes itself.
#[derive(Debug)]
pub struct Dormant(Recipe);

impl Dormant {
    /// The credential of `config`.
    pub fn new(config: Config, context: Context) -> Self {
        Self(Recipe {
            token: config.token,
            variables: config.variables,
            secrets: config.secrets,
            context,
        })
    }

    /// The tokens that `name` stands for; `None`: none of this credential's.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is not known what there is.
    pub async fn named(&self, name: &str) -> Result<Option<Vec<Named>>, StoreError> {
        self.0.named(name, Vec::new()).await
    }

    /// What an operator can name.
    pub fn names(&self) -> Vec<String> {
        self.0.names(&[])
    }

    /// Opens a token.
    ///
    /// # Errors
    ///
    /// [`InstanceError`], if it has nothing that it could be logged out of.
    pub async fn open(&self, values: &Variables) -> Result<Arc<Instance>, InstanceError> {
        self.0.make(values.clone()).await
    }
}

impl Slots {
    /// The tokens that `name` stands for; `None`: none of this credential's.
    pub(in crate::credential) async fn named(
        &self,
        credential: &str,
        name: &str,
    ) -> Option<Vec<Named>> {
        let many = match self {
            Self::One(instance) => return (name == credential).then(|| vec![instance.named()]),
            Self::Many(many) => many,
        };
        let in_use: Vec<Named> = self.in_use().iter().map(|instance| instance.named()).collect();
        match many.recipe.named(name, in_use.clone()).await {
            Ok(named) => named,
            Err(error) => {
                tracing::error!(credential, %error, "token store");
                (name == credential).then_some(in_use)
            }
        }
    }

    /// What an operator can name.
    pub(in crate::credential) fn names(&self, credential: &str) -> Vec<String> {
        match self {
            Self::One(_) => vec![credential.to_owned()],
            Self::Many(many) => many.recipe.names(&self.in_use()),
        }
    }
}

impl Instance {
    fn named(&self) -> Named {
        Named {
            title: self.title.to_string(),
            key: self.key.to_string(),
            values: self.variables().clone(),
        }
    }
}

impl Recipe {
    async fn named(
        &self,
        name: &str,
        in_use: Vec<Named>,
    ) -> Result<Option<Vec<Named>>, StoreError> {
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
        // Each once, in the order of the keys.
        let all: BTreeMap<String, Named> =
            in_use.into_iter().chain(stored).map(|named| (named.key.clone(), named)).collect();
        Ok(Some(all.into_values().collect()))
    }

    fn names(&self, in_use: &[Arc<Instance>]) -> Vec<String> {
        let titles = in_use.iter().map(|instance| instance.title.to_string());
        std::iter::once(self.token.name.clone()).chain(titles).collect()
    }

    fn values_in_key(&self, key: &str) -> Option<Variables> {
        let names = self.variables.iter().map(|variable| variable.name.as_str());
        self.token.values_in(key, names)
    }

    /// The values in `[paris]`, in the order of the variables' names.
    fn values_in_title(&self, rest: &str) -> Option<Variables> {
        let text = rest.strip_prefix('[')?.strip_suffix(']')?;
        let mut names: Vec<&String> = self.variables.iter().map(|it| &it.name).collect();
        names.sort();
        let values: Vec<&str> = match names.len() {
            // A single value may hold a comma.
            1 => vec![text],
            _ => text.split(',').collect(),
        };
        let paired = names.into_iter().cloned().zip(values.iter().map(|&value| value.to_owned()));
        let is_whole = values.len() == self.variables.len();
        is_whole.then(|| paired.collect())
    }

    fn of(&self, values: Variables) -> Named {
        let config = crate::token::Config { variables: values, ..self.token.clone() };
        Named { title: config.title(), key: config.key(), values: config.variables }
    }
}
