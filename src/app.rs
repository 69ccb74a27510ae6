//! The composition root: builds the parts from the settings, binds listeners, accepts connections
//! and drains them.
//!
//! There are two planes. The *data plane* has one thread per core, each with a current-thread
//! runtime, a `Proxy` and a pool of origin connections; a client's connection never changes
//! threads. The *control plane* is the runtime that [`App::start`] is called on: it accepts
//! connections and distributes them round-robin, and runs refreshes, stores and the admin listener.
//!
//! There is one acceptor instead of `SO_REUSEPORT` on each core, because with few connections the
//! kernel distributes them unevenly, a second process on the same port would start unnoticed, and
//! unix sockets have no such option.

mod admission;
mod data_plane;
mod descriptors;
mod listener;
mod offline;
mod snapshot_builder;
mod startup_settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::ca::{CaError, CertificateAuthority};
use crate::clock::Clock;
pub use crate::credential::ChangedSecret;
use crate::credential::Credentials;
use crate::metrics::Metrics;
pub use crate::proxy::RejectedSecrets;
use crate::proxy::{ListenerAddresses, NetworkState, SharedState};
use crate::resolver::Resolver;
use crate::settings::Settings;
use crate::store::StoreError;
use crate::tls::TlsError;
use crate::token::Tasks;

use self::data_plane::DataPlane;
use admission::Admission;
use descriptors::DescriptorBudget;
use listener::Listener;
pub use offline::{OfflineError, log_out_offline};
use snapshot_builder::SnapshotBuilder;
use startup_settings::StartupSettings;

/// Why bearerd did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// The address or path.
        address: String,
        /// The key that configures it.
        key: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The token store cannot be used.
    #[error("[store] {key}: {0}", key = key_of(.0))]
    Store(#[from] StoreError),
    /// The local CA cannot be used.
    #[error("[ca] dir: {0}")]
    Ca(#[from] CaError),
    /// The trusted certificates cannot be read.
    #[error("[tls]: {0}")]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl StartError {
    /// Returns true if the configuration has to change (exit code 78); false for transient causes.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Ca(_) | Self::Tls(_))
    }
}

/// The key of `[store]` that the error is about.
fn key_of(error: &StoreError) -> &'static str {
    match error {
        StoreError::Sealed { .. } => "key",
        _ => "url",
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct App {
    proxy_addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    shared: Arc<SharedState>,
    reload_state: Mutex<ReloadState>,
    admin: Arc<Admin>,
    metrics: Metrics,
    data_plane: DataPlane,
    acceptors: TaskTracker,
    stop_accepting: CancellationToken,
    stop_admin: CancellationToken,
    tasks: Tasks,
    grace: Duration,
}

/// State that one reload hands to the next.
#[derive(Debug)]
struct ReloadState {
    snapshot_builder: SnapshotBuilder,
    startup_settings: StartupSettings,
    /// How long shutdown waits for refreshes.
    refresh_timeout: Duration,
}

impl App {
    /// Builds all parts and starts to serve. Returns once every listener is bound.
    ///
    /// The calling runtime becomes the control plane. It must keep running, with time and I/O
    /// enabled.
    ///
    /// # Errors
    ///
    /// [`StartError`], which names the key that has to change.
    pub async fn start(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let listeners = listener::bind_all(&settings.listen)?;
        let own: Vec<SocketAddr> = listeners.iter().filter_map(Listener::tcp_address).collect();
        let admin_listener = bind_admin(settings.admin.listen)?;
        let admin_address = admin_listener.as_ref().and_then(|bound| bound.local_addr().ok());
        let tasks = Tasks::default();
        let metrics = Metrics::new();
        let stop_admin = CancellationToken::new();
        let limits = &settings.proxy.limits;
        let descriptors = DescriptorBudget::divide(limits.connections);
        let own_addresses = ListenerAddresses { proxy: own.clone(), admin: admin_address };
        let mut snapshot_builder = SnapshotBuilder::new(
            clock.clone(),
            tasks.clone(),
            NetworkState::new(Resolver::new(), own_addresses, descriptors.origins),
            metrics.clone(),
            stop_admin.clone(),
        );
        let (snapshot, credentials) = snapshot_builder.snapshot(&settings, None).await?;
        credentials.activate();
        let shared = Arc::new(SharedState::new(snapshot, clock.clone(), metrics.clone()));
        let data_plane =
            DataPlane::start(settings.threads, Arc::clone(&shared)).map_err(StartError::Thread)?;
        let (most, per_peer) = (descriptors.clients, limits.connections_per_peer);
        let admission = Arc::new(Admission::new(most, per_peer, metrics.clone()));
        let (acceptors, stop_accepting) = (TaskTracker::new(), CancellationToken::new());
        for listener in listeners {
            let (admission, end) = (Arc::clone(&admission), stop_accepting.clone());
            acceptors.spawn(listener.accept_into(data_plane.dispatcher(), admission, end));
        }
        let ca_not_after = shared.ca().map(|ca| ca.not_after());
        let admin = Admin::new(
            settings.admin.clone(),
            credentials,
            ca_not_after,
            Box::new(data_plane.dispatcher()),
            metrics.clone(),
            clock,
        );
        let admin = Arc::new(admin);
        admin.create_missing_token(settings.store.dir().is_none()).await;
        if let Some(bound) = admin_listener {
            let serving = Arc::clone(&admin).serve(bound, descriptors.admin, stop_admin.clone());
            tokio::spawn(serving);
        }
        Ok(Self {
            proxy_addresses: own,
            admin_address,
            shared,
            grace: settings.shutdown_grace,
            reload_state: Mutex::new(ReloadState {
                snapshot_builder,
                startup_settings: StartupSettings::of(&settings),
                refresh_timeout: refresh_timeout(&settings),
            }),
            admin,
            metrics,
            data_plane,
            acceptors,
            stop_accepting,
            stop_admin,
            tasks,
        })
    }

    /// The metrics.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Applies new settings from the next request on. Nothing in progress is dropped and tokens are
    /// kept: those of unchanged credentials in memory, the others through the store.
    ///
    /// Returns the changed keys that take effect only after a restart.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the previous settings stay in force.
    pub async fn reload(&self, settings: Settings) -> Result<Vec<&'static str>, StartError> {
        let reloaded = self.try_reload(settings).await;
        self.metrics.record_reload(reloaded.is_ok());
        reloaded
    }

    /// Counts a configuration that could not be read.
    pub fn record_reload_failure(&self) {
        self.metrics.record_reload(false);
    }

    async fn try_reload(&self, settings: Settings) -> Result<Vec<&'static str>, StartError> {
        let mut reload_state = self.reload_state.lock().await;
        let before = self.credentials();
        let (snapshot, credentials) =
            reload_state.snapshot_builder.snapshot(&settings, Some(&before)).await?;
        // In this order, so that a request that learns of the reload finds the new slot.
        self.shared.replace(snapshot);
        credentials.activate();
        let ca_not_after = self.ca().map(|ca| ca.not_after());
        self.admin.replace(settings.admin.clone(), credentials, ca_not_after);
        self.admin.create_missing_token(settings.store.dir().is_none()).await;
        reload_state.refresh_timeout = refresh_timeout(&settings);
        Ok(reload_state.startup_settings.changed_keys(&settings))
    }

    /// The TCP addresses that the proxy listens on, with the actual port in place of port 0.
    pub fn proxy_addresses(&self) -> &[SocketAddr] {
        &self.proxy_addresses
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The current credentials.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.shared.credentials()
    }

    /// Returns true if an authorization server rejected the OAuth client, or a bootstrap's user
    /// name, so that a new secret might help.
    pub fn has_refused_client(&self) -> bool {
        let credentials = self.credentials();
        let mut statuses = credentials.all().iter().flat_map(|credential| credential.statuses());
        statuses.any(|status| status.condition.is_refused())
    }

    /// Makes requests wait for rejected secrets from now on. The caller promises to keep calling
    /// [`App::rejected_secrets`]; the first such call has the same effect, but rejections before it
    /// would be passed on.
    pub fn enable_secret_rereads(&self) {
        self.shared.rereads.mark_served();
    }

    /// Waits until an API rejects secrets that are injected as they are, by credentials without
    /// tokens. They may have changed at their source, which only the caller can find out: requests
    /// wait until [`App::mark_secrets_reread`]. Without a caller they do not wait, and such
    /// rejections are passed on.
    ///
    /// # Cancellation
    ///
    /// The future and its result may be dropped without losing a rejection.
    pub async fn rejected_secrets(&self) -> RejectedSecrets {
        self.shared.rereads.next_rejected().await
    }

    /// Reports that the secrets were read again and new ones applied with [`App::reload`].
    pub fn mark_secrets_reread(&self, rejected: &RejectedSecrets) {
        self.shared.rereads.complete(rejected);
    }

    /// The local CA, if a credential needs one.
    pub fn ca(&self) -> Option<Arc<CertificateAuthority>> {
        self.shared.ca()
    }

    /// Stops: reports not ready, refuses new connections, and waits for requests in progress, then
    /// for refreshes. After the grace period the rest is cut off, except refreshes: their token
    /// requests have deadlines of their own, and a lost response may be a lost token.
    ///
    /// Returns true if all tokens are stored.
    pub async fn shutdown(self) -> bool {
        self.shutdown_until(std::future::pending()).await
    }

    /// Stops like [`App::shutdown`], and ends the grace period early if `at_once` resolves.
    pub async fn shutdown_until(self, at_once: impl Future<Output = ()>) -> bool {
        self.admin.drain();
        self.stop_accepting.cancel();
        self.acceptors.close();
        self.acceptors.wait().await;
        self.data_plane.drain(self.grace, at_once).await;
        self.tasks.flights.close();
        let refresh_timeout = self.reload_state.into_inner().refresh_timeout.max(self.grace);
        let refreshes_done =
            tokio::time::timeout(refresh_timeout, self.tasks.flights.wait()).await.is_ok();
        if !refreshes_done {
            tracing::error!("a refresh did not finish before the shutdown timeout");
        }
        self.tasks.writes.close();
        let saved = tokio::time::timeout(SAVE_TIMEOUT, self.tasks.writes.wait()).await.is_ok();
        if !saved {
            tracing::error!(
                "a token could not be saved and is lost unless its server issues it again"
            );
        }
        self.stop_admin.cancel();
        refreshes_done && saved
    }
}

/// How long shutdown waits for pending writes. They may still succeed, but a hung disk must not
/// keep the process.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The duration of the longest possible refresh.
fn refresh_timeout(settings: &Settings) -> Duration {
    let flights =
        settings.credentials.iter().map(|credential| credential.token.max_refresh_duration());
    flights.max().unwrap_or_default()
}

fn bind_admin(listen: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = listen else { return Ok(None) };
    let bound = listener::listen_tcp(address).map_err(|source| StartError::Listen {
        address: address.to_string(),
        key: "admin.listen",
        source,
    })?;
    Ok(Some(bound))
}
