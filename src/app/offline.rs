//! Logging out where no proxy runs, on the store itself.
//!
//! Another process may use the same store all the same, one without an admin listener for example: the
//! tombstone is a compare-and-set, and that process notices it as it notices those of its siblings.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::StartError;
use super::foundation::Foundation;
use crate::admin;
use crate::clock::Clock;
use crate::credential::OfflineCredential;
use crate::metrics::Metrics;
use crate::oauth::HttpTransport;
use crate::proxy::{ListenerAddresses, NetworkState};
use crate::resolver::Resolver;
use crate::settings::Settings;
use crate::store::StoreError;
use crate::token::{Context, Tasks};

/// How long what an opened token has begun by itself may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why nothing could be logged out.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is nothing outside the running proxy.
    #[error("the store is `memory:`, so only the running proxy has tokens to log out of")]
    Memory,
    /// The store is not there, and would be made by looking for it.
    #[error(
        "there is no store at {0}: nothing was ever kept there; if the proxy runs with another \
         $STATE_DIRECTORY, set it here as well"
    )]
    NoStore(PathBuf),
    /// What root writes its owner could not read.
    #[error(
        "the store {dir} belongs to user {owner}, who could not read what root writes there; run \
         this as that user: `sudo -u '#{owner}' bearerd logout …`"
    )]
    Owner {
        /// Its directory.
        dir: PathBuf,
        /// The user's number.
        owner: u32,
    },
    /// No credential is called that.
    #[error("there is no credential `{name}` in the configuration")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// It cannot be known what there is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The parts cannot be built.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Logs out of the tokens that `name` stands for. What became of each stands beside its name: its
/// description, or why it is as it was.
///
/// # Errors
///
/// [`OfflineError`] if it did not come to that.
pub async fn log_out_offline(
    settings: &Settings,
    name: &str,
    clock: Clock,
) -> Result<Vec<(String, Result<Value, String>)>, OfflineError> {
    check_store(settings.store.dir())?;
    let tasks = Tasks::default();
    let context = context(settings, clock.clone(), tasks.clone()).await?;
    let mut known = Vec::new();
    for config in settings.credentials.clone() {
        let credential_name = config.name.clone();
        let credential = OfflineCredential::new(config, context.clone());
        let Some(named) = credential.named(name).await? else {
            known.extend(credential.names());
            continue;
        };
        let mut done = Vec::new();
        for token in named {
            let result = match credential.open(&token.values).await {
                Ok(instance) => admin::log_out(&credential_name, &instance, clock.now()).await,
                Err(error) => Err(format!("credential {credential_name} {error}")),
            };
            done.push((token.title, result));
        }
        tasks.flights.close();
        // A token request under way may hold the only copy of a refresh token, to be revoked.
        let _late = tokio::time::timeout(PATIENCE, tasks.flights.wait()).await;
        return Ok(done);
    }
    Err(OfflineError::Unknown { name: name.to_owned(), known })
}

async fn context(settings: &Settings, clock: Clock, tasks: Tasks) -> Result<Context, OfflineError> {
    let tls = settings.tls.build().map_err(StartError::from)?;
    let transport = HttpTransport::new(tls);
    // Nothing is connected to but token endpoints, which have their own way.
    let network = NetworkState::new(Resolver::new(), ListenerAddresses::default(), 0);
    let mut foundation = Foundation::new(clock, tasks, network, Metrics::new(), Default::default());
    Ok(foundation.context(settings, transport).await?)
}

/// Is there a store, and would its owner be able to read what is written to it?
fn check_store(dir: Option<&Path>) -> Result<(), OfflineError> {
    let dir = dir.ok_or(OfflineError::Memory)?;
    let Ok(found) = std::fs::metadata(dir) else {
        return Err(OfflineError::NoStore(dir.to_owned()));
    };
    match found.uid() {
        owner if owner != 0 && rustix::process::geteuid().is_root() => {
            Err(OfflineError::Owner { dir: dir.to_owned(), owner })
        }
        _ => Ok(()),
    }
}
