//! The slots of one credential: a single one, or one for each combination of variable values.
//!
//! A credential without variables opens its slot at the start, and access to it is a field read. A
//! credential with variables opens a slot when a request first needs it, on the control runtime,
//! which also reads the slot's secret files; concurrent requests wait for the same slot. Values
//! that are not allowed are rejected before. Slots whose token is in the store are opened at the
//! start.
//!
//! Values that no list names are chosen by clients, so there are at most [`MAX_SLOTS`] slots, and
//! none is opened for values that have neither a first refresh token nor a record.

mod naming;

use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::variables::{CredentialVariable, InstanceSecret, SecretTemplate, is_safe_value};
use crate::secret::{Fingerprint, Secret, SecretError, SecretSource};
use crate::template::Variables;
use crate::token::{self, Condition, Context, Seed, Slot, Status};

pub use naming::{NamedToken, OfflineCredential};

/// The maximum number of slots per credential. Each slot costs a few kilobytes, a record and a
/// token at the authorization server. Beyond the limit new values are refused until a reload, which
/// closes the slots that never had a token.
pub const MAX_SLOTS: usize = 1024;

/// A slot and the variable values that it is for.
#[derive(Debug)]
pub struct Instance {
    /// The name in messages: `resamania[paris]`, or the credential's name.
    pub title: Arc<str>,
    /// The key of the record: `resamania/paris`, or the credential's name.
    pub key: Arc<str>,
    /// The token slot.
    pub slot: Slot,
    /// The configuration that the slot was opened with.
    config: token::Config,
}

/// A secret that changed since a slot was opened with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedSecret {
    /// Where the secret is read from.
    pub location: String,
    /// The current secret; `None` if there is none.
    pub now: Option<Fingerprint>,
}

/// Why there is no slot for some values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// The credential has the maximum number of slots.
    #[error("has reached its maximum number of tokens")]
    TooMany,
    /// The values have no first refresh token and no record.
    #[error("has no refresh token for these values")]
    Unknown,
    /// A secret of the slot cannot be read.
    #[error("has a secret that cannot be read for these values")]
    Secret,
}

/// The slots of one credential.
#[derive(Debug)]
pub(super) enum Slots {
    /// A single slot, without variables.
    One(Arc<Instance>),
    /// One slot per combination of values in use.
    Many(SlotMap),
}

/// Slots by record key.
#[derive(Debug)]
pub(super) struct SlotMap {
    builder: Arc<SlotBuilder>,
    slots: DashMap<String, Arc<SlotCell>>,
    /// Locked while an entry is added, so that the limit is exact.
    adding: Mutex<()>,
}

/// The result of opening a slot.
type OpenResult = Result<Arc<Instance>, InstanceError>;

/// A slot that is open, being opened, or vacant.
#[derive(Debug, Default)]
struct SlotCell {
    instance: OnceCell<Arc<Instance>>,
    /// The task that opens the slot. A caller may stop waiting for it; the next one waits for the
    /// same task.
    opening: tokio::sync::Mutex<Option<JoinHandle<OpenResult>>>,
}

/// Opens the slots of a credential.
#[derive(Clone, Debug)]
pub(super) struct SlotBuilder {
    /// The configuration shared by all slots.
    pub(super) token: token::Config,
    pub(super) variables: Vec<CredentialVariable>,
    /// The secrets that each slot reads for itself.
    pub(super) secrets: Vec<SecretTemplate>,
    pub(super) context: Context,
}

impl Instance {
    /// The values of the credential's variables.
    pub fn variables(&self) -> &Variables {
        &self.config.variables
    }

    async fn open(config: token::Config, context: &Context) -> Arc<Self> {
        let slot = Slot::open(config.clone(), context).await;
        let (title, key) = (Arc::from(config.title()), Arc::from(config.key()));
        Arc::new(Self { title, key, slot, config })
    }

    /// Returns true if closing the slot loses nothing, because it never had a token.
    fn is_empty(&self) -> bool {
        let Status { condition, generation, is_unsaved, .. } = self.slot.status();
        generation == token::Generation::default()
            && !is_unsaved
            && condition != Condition::Refreshing
    }
}

impl Slots {
    /// Opens the slots. Those of `before` are carried over if they did not change.
    pub(super) async fn open(builder: SlotBuilder, before: Option<&Self>) -> Self {
        if !builder.variables.is_empty() {
            return Self::Many(SlotMap::open(builder, before).await);
        }
        let before = match before {
            Some(Self::One(before)) => Some(before),
            _ => None,
        };
        match before.filter(|before| before.config == builder.token) {
            Some(before) => Self::One(Arc::clone(before)),
            None => Self::One(Instance::open(builder.token, &builder.context).await),
        }
    }

    /// The changed secrets of slots for values that requests chose and no list names. Blocks.
    pub(super) fn changed_secrets(&self) -> Vec<ChangedSecret> {
        match self {
            // The settings watch the secrets of all other slots.
            Self::Many(SlotMap { builder, .. })
                if builder.is_open() && !builder.secrets.is_empty() =>
            {
                let slots = self.instances();
                slots.iter().flat_map(|instance| builder.changed_secrets(instance)).collect()
            }
            Self::One(_) | Self::Many(_) => Vec::new(),
        }
    }

    /// The open slots, ordered by title.
    pub(super) fn instances(&self) -> Vec<Arc<Instance>> {
        match self {
            Self::One(instance) => vec![Arc::clone(instance)],
            Self::Many(many) => many.instances(),
        }
    }
}

impl SlotMap {
    async fn open(builder: SlotBuilder, before: Option<&Slots>) -> Self {
        let many =
            Self { builder: Arc::new(builder), slots: DashMap::new(), adding: Mutex::new(()) };
        for old in before.map(Slots::instances).unwrap_or_default() {
            if let Some(instance) = many.builder.carry_over(old).await {
                let key = instance.config.key();
                many.slots.insert(key, SlotCell::of(instance));
            }
        }
        many.open_stored().await;
        many
    }

    /// Opens the slots of all stored tokens, so that each is kept fresh and shown to operators
    /// after a restart, even before the first request.
    async fn open_stored(&self) {
        let SlotBuilder { token, variables, context, .. } = &*self.builder;
        let keys = context.store.keys(&token.name).await.unwrap_or_else(|error| {
            tracing::error!(credential = token.name, %error, "cannot list stored tokens");
            Vec::new()
        });
        // If clients choose the values, half of the slots stay free for new ones.
        let most = if self.builder.is_open() { MAX_SLOTS / 2 } else { MAX_SLOTS };
        for key in keys {
            let names = variables.iter().map(|variable| variable.name.as_str());
            let values = token.values_in(&key, names).filter(|values| self.builder.allows(values));
            let Some(values) = values.filter(|_| !self.slots.contains_key(&key)) else { continue };
            if self.slots.len() >= most {
                return;
            }
            if let Ok(instance) = self.builder.make(values).await
                && !(self.builder.is_open() && instance.is_empty())
            {
                self.slots.insert(key, SlotCell::of(instance));
            }
        }
    }

    /// The slot for these values, opened if necessary. The secrets may be on a hung disk, so
    /// callers wait no longer than for a token.
    pub(super) async fn instance(&self, values: &Variables) -> OpenResult {
        let key = self.builder.token.key_for(values);
        let cell = self.cell(&key)?;
        let opening = cell.instance.get_or_try_init(|| self.make(&cell, values));
        let made = tokio::time::timeout(self.builder.token.wait, opening).await;
        let made = made.map(|made| made.cloned()).unwrap_or_else(|_| {
            let credential = &*self.builder.token.name;
            tracing::error!(credential, key, "secrets could not be read in time");
            Err(InstanceError::Secret)
        });
        if made.is_err() {
            // Keep the cell if another caller is using it: the map and this call hold the last two
            // references.
            let last =
                |_: &String, it: &Arc<SlotCell>| it.is_vacant() && Arc::strong_count(it) <= 2;
            self.slots.remove_if(&key, last);
        }
        made
    }

    async fn make(&self, cell: &SlotCell, values: &Variables) -> OpenResult {
        let mut opening = cell.opening.lock().await;
        let under_way = opening.get_or_insert_with(|| {
            let (builder, values) = (Arc::clone(&self.builder), values.clone());
            self.builder.context.control.spawn(async move { builder.make(values).await })
        });
        // The task fails only if it panics or the process ends.
        let made = under_way.await.unwrap_or(Err(InstanceError::Secret));
        *opening = None;
        made
    }

    fn cell(&self, key: &str) -> Result<Arc<SlotCell>, InstanceError> {
        if let Some(cell) = self.slots.get(key) {
            return Ok(Arc::clone(&cell));
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.slots.len() >= MAX_SLOTS && !self.slots.contains_key(key) {
            return Err(InstanceError::TooMany);
        }
        Ok(Arc::clone(&self.slots.entry(key.to_owned()).or_default()))
    }

    fn instances(&self) -> Vec<Arc<Instance>> {
        let mut instances: Vec<_> =
            self.slots.iter().filter_map(|cell| cell.instance.get().cloned()).collect();
        instances.sort_by(|one, other| one.title.cmp(&other.title));
        instances
    }
}

impl SlotCell {
    fn of(instance: Arc<Instance>) -> Arc<Self> {
        Arc::new(Self { instance: OnceCell::new_with(Some(instance)), opening: Default::default() })
    }

    /// Returns true if there is no slot and none is being opened.
    fn is_vacant(&self) -> bool {
        !self.instance.initialized()
            && self.opening.try_lock().is_ok_and(|opening| opening.is_none())
    }
}

impl SlotBuilder {
    async fn make(&self, values: Variables) -> OpenResult {
        let config = self.config_for(values).await?;
        if self.is_open() && !self.can_start(&config).await {
            return Err(InstanceError::Unknown);
        }
        let instance = Instance::open(config, &self.context).await;
        instance.slot.activate();
        Ok(instance)
    }

    /// Carries a slot over to a new configuration. `None` if its values are no longer allowed, or
    /// if a client chose them and the slot never had a token.
    async fn carry_over(&self, old: Arc<Instance>) -> Option<Arc<Instance>> {
        if !self.allows(old.variables()) || (self.is_open() && old.is_empty()) {
            return None;
        }
        match self.config_for(old.variables().clone()).await {
            Ok(config) if config == old.config => Some(old),
            Ok(config) => Some(Instance::open(config, &self.context).await),
            // The existing token is better than none.
            Err(_) => Some(old),
        }
    }

    fn allows(&self, values: &Variables) -> bool {
        let allowed =
            |variable: &CredentialVariable| match (values.get(&variable.name), &variable.allowed) {
                (Some(value), Some(allowed)) => allowed.contains(value),
                (Some(value), None) => is_safe_value(value),
                (None, _) => false,
            };
        values.len() == self.variables.len() && self.variables.iter().all(allowed)
    }

    /// Returns true if clients can choose values that the operator did not list.
    fn is_open(&self) -> bool {
        self.variables.iter().any(|variable| variable.allowed.is_none())
    }

    /// Returns true if there is something to make a first token request with.
    async fn can_start(&self, config: &token::Config) -> bool {
        if !config.needs_record() {
            return true;
        }
        // A record that cannot be read still exists.
        !matches!(self.context.store.load(&config.key()).await, Ok(None))
    }

    /// The configuration for these values, including their secrets.
    async fn config_for(&self, values: Variables) -> Result<token::Config, InstanceError> {
        let mut config = token::Config { variables: values, ..self.token.clone() };
        for secret in &self.secrets {
            let source = secret.source_for(&config.variables);
            let file = source.clone();
            let reading = self.context.control.spawn_blocking(move || file.read());
            let read = reading.await.map_err(|_| InstanceError::Secret)?;
            if let Err(error) = fill(&mut config, secret.secret, source, read) {
                self.unreadable(&config, &error);
                if secret.secret != InstanceSecret::RefreshToken {
                    return Err(InstanceError::Secret);
                }
            }
        }
        Ok(config)
    }

    /// The secrets of `instance` that have changed. Unreadable ones count as unchanged. Blocks.
    fn changed_secrets(&self, instance: &Instance) -> Vec<ChangedSecret> {
        let changed = |path: &SecretTemplate| {
            let source = path.source_for(instance.variables());
            let (location, read) = (source.to_string(), source.read());
            let now = read.as_ref().ok().map(Secret::fingerprint);
            let mut config = instance.config.clone();
            let filled = fill(&mut config, path.secret, source, read);
            let is_new = filled.is_ok() && config != instance.config;
            is_new.then_some(ChangedSecret { location, now })
        };
        self.secrets.iter().filter_map(changed).collect()
    }

    fn unreadable(&self, config: &token::Config, error: &SecretError) {
        tracing::error!(credential = config.title(), %error, "cannot read secret");
    }
}

/// Stores a secret that was read in the configuration.
///
/// # Errors
///
/// Why it could not be read. A missing seed is not an error, because there may be a record.
fn fill(
    config: &mut token::Config,
    secret: InstanceSecret,
    source: SecretSource,
    read: Result<Secret, SecretError>,
) -> Result<(), SecretError> {
    match secret {
        InstanceSecret::RefreshToken => {
            let (value, problem) = match read {
                Ok(value) => (Some(value), Ok(())),
                Err(error) if error.missing => (None, Ok(())),
                Err(error) => (None, Err(error)),
            };
            config.seed = Some(Seed { source, value });
            return problem;
        }
        InstanceSecret::ClientSecret => config.oauth.client_secret = Some(read?),
        InstanceSecret::Password => config.oauth.set_password(read?),
    }
    Ok(())
}
