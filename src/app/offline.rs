//! Logout without a running proxy, directly on the store.
//!
//! Another process may still use the same store, for example one without an admin listener. The
//! tombstone is written with compare-and-set, and that process notices it like any change by a
//! sibling.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::StartError;
use super::snapshot_builder::SnapshotBuilder;
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

/// How long to wait for refreshes that an opened slot started.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(60);

/// Why nothing could be logged out.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The tokens exist only in the running proxy.
    #[error("the store is `memory:`, so only the running proxy has tokens")]
    Memory,
    /// The store does not exist, and opening it would create it.
    #[error(
        "there is no store at {0}: nothing was ever stored there; if the proxy runs with another \
         $STATE_DIRECTORY, set it for this command too"
    )]
    NoStore(PathBuf),
    /// The store's owner could not read files written by root.
    #[error(
        "the store {dir} belongs to user {owner}, who cannot read files written by root; run \
         this command as that user: `sudo -u '#{owner}' bearerd logout …`"
    )]
    Owner {
        /// The store's directory.
        dir: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// No credential has this name.
    #[error("there is no credential `{name}` in the configuration")]
    Unknown {
        /// The requested name.
        name: String,
        /// The existing names.
        known: Vec<String>,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The parts cannot be built.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Logs out of the tokens that `name` stands for. Returns each token's name with its description,
/// or the reason why it could not be logged out.
///
/// # Errors
///
/// [`OfflineError`] if no logout was attempted.
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
        // A refresh in progress may hold the only copy of a refresh token that has to be revoked.
        let _late = tokio::time::timeout(REFRESH_TIMEOUT, tasks.flights.wait()).await;
        return Ok(done);
    }
    Err(OfflineError::Unknown { name: name.to_owned(), known })
}

async fn context(settings: &Settings, clock: Clock, tasks: Tasks) -> Result<Context, OfflineError> {
    let tls = settings.tls.build().map_err(StartError::from)?;
    let transport = HttpTransport::new(tls);
    // Only token endpoints are connected to, and not through this network.
    let network = NetworkState::new(Resolver::new(), ListenerAddresses::default(), 0);
    let mut snapshot_builder =
        SnapshotBuilder::new(clock, tasks, network, Metrics::new(), Default::default());
    Ok(snapshot_builder.context(settings, transport).await?)
}

/// Checks that the store exists and that its owner can read what this process writes.
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
