//! The slots of one credential: one, or one for each combination of its variables' values.
//!
//! A credential without variables has one slot from the start, and reaching it is a field access. One
//! with variables makes a slot when a request first needs it, on the control runtime, where its secret
//! files are read as well; whoever comes meanwhile waits for the same one. Nothing is made for values
//! that are not allowed: those do not get here. A slot whose token is in the store is made at the start.
//!
//! Values that no list names come from strangers, so there are at most [`MOST_SLOTS`] slots, and none is
//! made for values that have neither a first refresh token nor a record.

mod named;

use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::variables::{OwnSecret, SecretPath, Variable, is_harmless};
use crate::secret::{Fingerprint, Secret, SecretError, SecretSource};
use crate::template::Variables;
use crate::token::{self, Condition, Context, Seed, Slot, Status};

pub use named::{Dormant, Named};

/// So many slots one credential has at most. Each costs a few kilobytes, a record and a token of the
/// authorization server; beyond it new values are refused until a reload, which forgets those slots
/// that never had a token.
pub const MOST_SLOTS: usize = 1024;

/// A slot, and the values that it is for.
#[derive(Debug)]
pub struct Instance {
    /// What messages call it: `resamania[paris]`, or the credential's name.
    pub title: Arc<str>,
    /// The key of its record: `resamania/paris`, or the credential's name.
    pub key: Arc<str>,
    /// Its token.
    pub slot: Slot,
    /// What the slot was made from.
    config: token::Config,
}

/// A secret that is not the one any more that a slot was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedSecret {
    /// Where it is.
    pub place: String,
    /// What is there now; `None`: nothing.
    pub now: Option<Fingerprint>,
}

/// Why there is no slot for some values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// There are too many already.
    #[error("has as many tokens as it may have")]
    TooMany,
    /// Nothing is known of these values: no first refresh token and no record.
    #[error("has no refresh token for these values")]
    Unknown,
    /// A secret of its own cannot be read.
    #[error("has a secret that cannot be read for these values")]
    Secret,
}

/// The slots of one credential.
#[derive(Debug)]
pub(super) enum Slots {
    /// No variables, one slot.
    One(Arc<Instance>),
    /// One for each combination of values in use.
    Many(Many),
}

/// Slots by the keys of their records.
#[derive(Debug)]
pub(super) struct Many {
    recipe: Arc<Recipe>,
    made: DashMap<String, Arc<Place>>,
    /// Held while an entry is added, so that their number is exact.
    adding: Mutex<()>,
}

/// What came of making a slot.
type Made = Result<Arc<Instance>, InstanceError>;

/// Where a slot is, or will be.
#[derive(Debug, Default)]
struct Place {
    made: OnceCell<Arc<Instance>>,
    /// The making under way. Whoever waits for it may give up: the next goes on waiting for the same.
    making: tokio::sync::Mutex<Option<JoinHandle<Made>>>,
}

/// How a slot is made.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// What all slots have in common.
    pub(super) token: token::Config,
    pub(super) variables: Vec<Variable>,
    /// What each slot reads for itself.
    pub(super) secrets: Vec<SecretPath>,
    pub(super) context: Context,
}

impl Instance {
    /// What the credential's variables stand for here.
    pub fn variables(&self) -> &Variables {
        &self.config.variables
    }

    async fn open(config: token::Config, context: &Context) -> Arc<Self> {
        let slot = Slot::open(config.clone(), context).await;
        let (title, key) = (Arc::from(config.title()), Arc::from(config.key()));
        Arc::new(Self { title, key, slot, config })
    }

    /// Would forgetting it lose nothing but the knowledge that there is nothing?
    fn is_empty(&self) -> bool {
        let Status { condition, generation, is_unsaved, .. } = self.slot.status();
        generation == token::Generation::default()
            && !is_unsaved
            && condition != Condition::Refreshing
    }
}

impl Slots {
    /// Opens the slots, with those of `before` that did not change.
    pub(super) async fn open(recipe: Recipe, before: Option<&Self>) -> Self {
        if !recipe.variables.is_empty() {
            return Self::Many(Many::open(recipe, before).await);
        }
        let before = match before {
            Some(Self::One(before)) => Some(before),
            _ => None,
        };
        match before.filter(|before| before.config == recipe.token) {
            Some(before) => Self::One(Arc::clone(before)),
            None => Self::One(Instance::open(recipe.token, &recipe.context).await),
        }
    }

    /// The secrets that have changed and that no list of values names: those of slots for values that
    /// requests brought. Blocks.
    pub(super) fn changed_secrets(&self) -> Vec<ChangedSecret> {
        match self {
            // The places of the others are known to whoever reads the settings.
            Self::Many(Many { recipe, .. }) if recipe.is_open() && !recipe.secrets.is_empty() => {
                let slots = self.in_use();
                slots.iter().flat_map(|instance| recipe.changed_secrets(instance)).collect()
            }
            Self::One(_) | Self::Many(_) => Vec::new(),
        }
    }

    /// The slots in use, in the order of their titles.
    pub(super) fn in_use(&self) -> Vec<Arc<Instance>> {
        match self {
            Self::One(instance) => vec![Arc::clone(instance)],
            Self::Many(many) => many.in_use(),
        }
    }
}

impl Many {
    async fn open(recipe: Recipe, before: Option<&Slots>) -> Self {
        let many = Self { recipe: Arc::new(recipe), made: DashMap::new(), adding: Mutex::new(()) };
        for old in before.map(Slots::in_use).unwrap_or_default() {
            if let Some(instance) = many.recipe.take_over(old).await {
                let key = instance.config.key();
                many.made.insert(key, Place::of(instance));
            }
        }
        many.wake().await;
        many
    }

    /// Makes the slots of the tokens that are in the store, so that each is kept alive and shown to
    /// operators after a restart, whether anybody asks for it or not.
    async fn wake(&self) {
        let Recipe { token, variables, context, .. } = &*self.recipe;
        let keys = context.store.keys(&token.name).await.unwrap_or_else(|error| {
            tracing::error!(credential = token.name, %error, "token store");
            Vec::new()
        });
        // Who comes first among strangers is not decided by the alphabet alone: some room stays.
        let most = if self.recipe.is_open() { MOST_SLOTS / 2 } else { MOST_SLOTS };
        for key in keys {
            let names = variables.iter().map(|variable| variable.name.as_str());
            let values = token.values_in(&key, names).filter(|values| self.recipe.allows(values));
            let Some(values) = values.filter(|_| !self.made.contains_key(&key)) else { continue };
            if self.made.len() >= most {
                return;
            }
            if let Ok(instance) = self.recipe.make(values).await
                && !(self.recipe.is_open() && instance.is_empty())
            {
                self.made.insert(key, Place::of(instance));
            }
        }
    }

    /// The slot for these values, which is made if there is none. Its secrets may be on a disk that does not
    /// answer, so whoever asks waits no longer than for a token.
    pub(super) async fn instance(&self, values: &Variables) -> Made {
        let key = self.recipe.token.key_for(values);
        let place = self.place(&key)?;
        let making = place.made.get_or_try_init(|| self.make(&place, values));
        let made = tokio::time::timeout(self.recipe.token.wait, making).await;
        let made = made.map(|made| made.cloned()).unwrap_or_else(|_| {
            let credential = &*self.recipe.token.name;
            tracing::error!(credential, key, "the secrets of a token cannot be read in time");
            Err(InstanceError::Secret)
        });
        if made.is_err() {
            // Unless somebody else is trying: the map's and this one are the last.
            let last = |_: &String, it: &Arc<Place>| it.is_vacant() && Arc::strong_count(it) <= 2;
            self.made.remove_if(&key, last);
        }
        made
    }

    async fn make(&self, place: &Place, values: &Variables) -> Made {
        let mut making = place.making.lock().await;
        let under_way = making.get_or_insert_with(|| {
            let (recipe, values) = (Arc::clone(&self.recipe), values.clone());
            self.recipe.context.control.spawn(async move { recipe.make(values).await })
        });
        // Only a panic or the end of the process keeps it from ending.
        let made = under_way.await.unwrap_or(Err(InstanceError::Secret));
        *making = None;
        made
    }

    fn place(&self, key: &str) -> Result<Arc<Place>, InstanceError> {
        if let Some(place) = self.made.get(key) {
            return Ok(Arc::clone(&place));
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.made.len() >= MOST_SLOTS && !self.made.contains_key(key) {
            return Err(InstanceError::TooMany);
        }
        Ok(Arc::clone(&self.made.entry(key.to_owned()).or_default()))
    }

    fn in_use(&self) -> Vec<Arc<Instance>> {
        let mut instances: Vec<_> =
            self.made.iter().filter_map(|place| place.made.get().cloned()).collect();
        instances.sort_by(|one, other| one.title.cmp(&other.title));
        instances
    }
}

impl Place {
    fn of(instance: Arc<Instance>) -> Arc<Self> {
        Arc::new(Self { made: OnceCell::new_with(Some(instance)), making: Default::default() })
    }

    /// Is there no slot, and none being made?
    fn is_vacant(&self) -> bool {
        !self.made.initialized() && self.making.try_lock().is_ok_and(|making| making.is_none())
    }
}

impl Recipe {
    async fn make(&self, values: Variables) -> Made {
        let config = self.filled(values).await?;
        if self.is_open() && !self.can_begin(&config).await {
            return Err(InstanceError::Unknown);
        }
        let instance = Instance::open(config, &self.context).await;
        instance.slot.activate();
        Ok(instance)
    }

    /// The same slot after a reload, with its new configuration if that has changed; none if the values
    /// are not allowed any more, or if it has never had a token and a stranger chose its values.
    async fn take_over(&self, old: Arc<Instance>) -> Option<Arc<Instance>> {
        if !self.allows(old.variables()) || (self.is_open() && old.is_empty()) {
            return None;
        }
        match self.filled(old.variables().clone()).await {
            Ok(config) if config == old.config => Some(old),
            Ok(config) => Some(Instance::open(config, &self.context).await),
            // The token that is there is better than none.
            Err(_) => Some(old),
        }
    }

    fn allows(&self, values: &Variables) -> bool {
        let allowed = |variable: &Variable| match (values.get(&variable.name), &variable.allowed) {
            (Some(value), Some(allowed)) => allowed.contains(value),
            (Some(value), None) => is_harmless(value),
            (None, _) => false,
        };
        values.len() == self.variables.len() && self.variables.iter().all(allowed)
    }

    /// May a stranger choose values that the operator never wrote?
    fn is_open(&self) -> bool {
        self.variables.iter().any(|variable| variable.allowed.is_none())
    }

    /// Is there anything that a first token request could be made with?
    async fn can_begin(&self, config: &token::Config) -> bool {
        if !config.needs_record() {
            return true;
        }
        // A record that cannot be read is a record.
        !matches!(self.context.store.load(&config.key()).await, Ok(None))
    }

    /// The configuration for these values, with the secrets that are theirs.
    async fn filled(&self, values: Variables) -> Result<token::Config, InstanceError> {
        let mut config = token::Config { variables: values, ..self.token.clone() };
        for secret in &self.secrets {
            let source = secret.place(&config.variables);
            let place = source.clone();
            let reading = self.context.control.spawn_blocking(move || place.read());
            let read = reading.await.map_err(|_| InstanceError::Secret)?;
            if let Err(error) = fill(&mut config, secret.secret, source, read) {
                self.unreadable(&config, &error);
                if secret.secret != OwnSecret::RefreshToken {
                    return Err(InstanceError::Secret);
                }
            }
        }
        Ok(config)
    }

    /// The secrets of its own that `instance` would find changed now. What cannot be read at the moment has
    /// not changed. Blocks.
    fn changed_secrets(&self, instance: &Instance) -> Vec<ChangedSecret> {
        let changed = |path: &SecretPath| {
            let source = path.place(instance.variables());
            let (place, read) = (source.to_string(), source.read());
            let now = read.as_ref().ok().map(Secret::fingerprint);
            let mut config = instance.config.clone();
            let filled = fill(&mut config, path.secret, source, read);
            let is_new = filled.is_ok() && config != instance.config;
            is_new.then_some(ChangedSecret { place, now })
        };
        self.secrets.iter().filter_map(changed).collect()
    }

    fn unreadable(&self, config: &token::Config, error: &SecretError) {
        tracing::error!(credential = config.title(), %error, "a secret cannot be read");
    }
}

/// Puts what was read at the place of a secret into a configuration.
///
/// # Errors
///
/// What kept it from being read. A seed that is not there is no error: there may be a record.
fn fill(
    config: &mut token::Config,
    secret: OwnSecret,
    source: SecretSource,
    read: Result<Secret, SecretError>,
) -> Result<(), SecretError> {
    match secret {
        OwnSecret::RefreshToken => {
            let (value, problem) = match read {
                Ok(value) => (Some(value), Ok(())),
                Err(error) if error.missing => (None, Ok(())),
                Err(error) => (None, Err(error)),
            };
            config.seed = Some(Seed { source, value });
            return problem;
        }
        OwnSecret::ClientSecret => config.oauth.client_secret = Some(read?),
        OwnSecret::Password => config.oauth.set_password(read?),
    }
    Ok(())
}
