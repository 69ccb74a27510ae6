//! The composition root: builds the parts from the settings, binds the listeners, accepts, drains.
//!
//! Two planes. The *data plane* has one thread per core, each with a current-thread runtime, a
//! `Proxy` and a pool of origin connections of its own; a client's connection never changes
//! threads. The *control plane* is the runtime that [`App::start`] is called on: it accepts and hands the
//! sockets round-robin to the cores, runs refreshes, the stores and the admin listener.
//!
//! One acceptor rather than `SO_REUSEPORT` on each core: with few connections the kernel's spread is
//! uneven, a second process on the same port would start unnoticed, and unix sockets have no such
//! option.

mod admission;
mod core;
mod descriptors;
mod fixed;
mod foundation;
mod listener;
mod offline;

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

use self::core::Cores;
use admission::Admission;
use descriptors::Descriptors;
use fixed::Fixed;
use foundation::Foundation;
use listener::Listener;
pub use offline::{OfflineError, log_out_offline};

/// Why bearerd did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// The address or path.
        address: String,
        /// The key that configures it.
        key: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The store's directory cannot be used.
    #[error("[store] {key}: {0}", key = key_of(.0))]
    Store(#[from] StoreError),
    /// The local CA cannot be used.
    #[error("[ca] dir: {0}")]
    Ca(#[from] CaError),
    /// The trusted authorities cannot be read.
    #[error("[tls]: {0}")]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl StartError {
    /// Is it a matter of configuration (exit code 78) rather than of the moment?
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Ca(_) | Self::Tls(_))
    }
}

/// Which key of `[store]` it is about.
fn key_of(error: &StoreError) -> &'static str {
    match error {
        StoreError::Sealed { .. } => "key",
        _ => "url",
    }
}

/// A proxy that serves until it is told to stop.
#[derive(Debug)]
pub struct App {
    proxy_addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    shared: Arc<SharedState>,
    reloads: Mutex<Reloads>,
    admin: Arc<Admin>,
    metrics: Metrics,
    cores: Cores,
    acceptors: TaskTracker,
    stop_accepting: CancellationToken,
    stop_admin: CancellationToken,
    tasks: Tasks,
    grace: Duration,
}

/// What one reload hands to the next.
#[derive(Debug)]
struct Reloads {
    foundation: Foundation,
    fixed: Fixed,
    /// How long a refresh may go on after everything else has ended.
    patience: Duration,
}

impl App {
    /// Builds everything and begins to serve. Returns once every listener is bound.
    ///
    /// The calling runtime becomes the control plane; it must go on running, with time and I/O.
    ///
    /// # Errors
    ///
    /// [`StartError`] names the key that has to change.
    pub async fn start(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let listeners = listener::bind_all(&settings.listen)?;
        let own: Vec<SocketAddr> = listeners.iter().filter_map(Listener::tcp_address).collect();
        let admin_listener = bind_admin(settings.admin.listen)?;
        let admin_address = admin_listener.as_ref().and_then(|bound| bound.local_addr().ok());
        let tasks = Tasks::default();
        let metrics = Metrics::new();
        let stop_admin = CancellationToken::new();
        let limits = &settings.proxy.limits;
        let descriptors = Descriptors::divide(limits.connections);
        let own_addresses = ListenerAddresses { proxy: own.clone(), admin: admin_address };
        let mut foundation = Foundation::new(
            clock.clone(),
            tasks.clone(),
            NetworkState::new(Resolver::new(), own_addresses, descriptors.origins),
            metrics.clone(),
            stop_admin.clone(),
        );
        let (snapshot, credentials) = foundation.snapshot(&settings, None).await?;
        credentials.activate();
        let shared = Arc::new(SharedState::new(snapshot, clock.clone(), metrics.clone()));
        let cores =
            Cores::start(settings.threads, Arc::clone(&shared)).map_err(StartError::Thread)?;
        let (most, per_peer) = (descriptors.clients, limits.connections_per_peer);
        let admission = Arc::new(Admission::new(most, per_peer, metrics.clone()));
        let (acceptors, stop_accepting) = (TaskTracker::new(), CancellationToken::new());
        for listener in listeners {
            let (admission, end) = (Arc::clone(&admission), stop_accepting.clone());
            acceptors.spawn(listener.accept_into(cores.entrance(), admission, end));
        }
        let ca_ends = shared.ca().map(|ca| ca.not_after());
        let admin = Admin::new(
            settings.admin.clone(),
            credentials,
            ca_ends,
            Box::new(cores.entrance()),
            metrics.clone(),
            clock,
        );
        let admin = Arc::new(admin);
        admin.make_token(settings.store.dir().is_none()).await;
        if let Some(bound) = admin_listener {
            let serving = Arc::clone(&admin).serve(bound, descriptors.admin, stop_admin.clone());
            tokio::spawn(serving);
        }
        Ok(Self {
            proxy_addresses: own,
            admin_address,
            shared,
            grace: settings.shutdown_grace,
            reloads: Mutex::new(Reloads {
                foundation,
                fixed: Fixed::of(&settings),
                patience: patience(&settings),
            }),
            admin,
            metrics,
            cores,
            acceptors,
            stop_accepting,
            stop_admin,
            tasks,
        })
    }

    /// What is counted.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Serves by new settings from the next request on. Nothing under way is dropped, and tokens are
    /// kept: those of unchanged credentials in memory, the others through the store.
    ///
    /// Returns the keys that are not as they were at the start and take effect only at the next.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the settings before stay in force.
    pub async fn reload(&self, settings: Settings) -> Result<Vec<&'static str>, StartError> {
        let reloaded = self.try_reload(settings).await;
        self.metrics.record_reload(reloaded.is_ok());
        reloaded
    }

    /// Counts a configuration that could not even be read.
    pub fn reload_failed(&self) {
        self.metrics.record_reload(false);
    }

    async fn try_reload(&self, settings: Settings) -> Result<Vec<&'static str>, StartError> {
        let mut reloads = self.reloads.lock().await;
        let before = self.credentials();
        let (snapshot, credentials) = reloads.foundation.snapshot(&settings, Some(&before)).await?;
        // In this order: a request that is told of the reload finds what has taken its slot's place.
        self.shared.replace(snapshot);
        credentials.activate();
        let ca_ends = self.ca().map(|ca| ca.not_after());
        self.admin.replace(settings.admin.clone(), credentials, ca_ends);
        self.admin.make_token(settings.store.dir().is_none()).await;
        reloads.patience = patience(&settings);
        Ok(reloads.fixed.changed_by(&settings))
    }

    /// Where the proxy listens, TCP only; port 0 has become a real one.
    pub fn proxy_addresses(&self) -> &[SocketAddr] {
        &self.proxy_addresses
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The credentials at work.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.shared.credentials()
    }

    /// Has an authorization server refused the OAuth client, or the user name of a bootstrap, so that another
    /// secret could help?
    pub fn has_refused_client(&self) -> bool {
        let credentials = self.credentials();
        let mut statuses = credentials.all().iter().flat_map(|credential| credential.statuses());
        statuses.any(|status| status.condition.is_refused())
    }

    /// Promises to call [`App::rejected_secrets`] again and again: from here on requests wait for what comes of it.
    /// Its first call promises it as well, but a request that came before that would be passed on rejected.
    pub fn promise_to_read_secrets(&self) {
        self.shared.rereads.mark_served();
    }

    /// Waits until an API rejects secrets that requests carry as they are: those of credentials that have no
    /// tokens. They may have changed where they come from, which only the caller can find out: requests wait
    /// until [`App::secrets_are_read`]. Without a caller they do not wait, and such rejections are passed on.
    ///
    /// # Cancellation
    ///
    /// Dropping the future, or what it returns, forgets nothing.
    pub async fn rejected_secrets(&self) -> RejectedSecrets {
        self.shared.rereads.next_rejected().await
    }

    /// The secrets have been looked at, and what was new is in force through [`App::reload`].
    pub fn secrets_are_read(&self, rejected: &RejectedSecrets) {
        self.shared.rereads.complete(rejected);
    }

    /// The local CA, if there is a credential that needs one.
    pub fn ca(&self) -> Option<Arc<CertificateAuthority>> {
        self.shared.ca()
    }

    /// Stops: not ready any more, no new connections, the requests under way to their end, then the
    /// refreshes under way. After the grace what is left is cut off, apart from refreshes: their
    /// token requests have a deadline of their own, and an answer cut off may be a lost token.
    ///
    /// Returns whether everything that was known is stored.
    pub async fn shutdown(self) -> bool {
        self.shutdown_until(std::future::pending()).await
    }

    /// The same, with a grace that is over when `at_once` resolves, if that is earlier.
    pub async fn shutdown_until(self, at_once: impl Future<Output = ()>) -> bool {
        self.admin.drain();
        self.stop_accepting.cancel();
        self.acceptors.close();
        self.acceptors.wait().await;
        self.cores.drain(self.grace, at_once).await;
        self.tasks.flights.close();
        let patience = self.reloads.into_inner().patience.max(self.grace);
        let landed = tokio::time::timeout(patience, self.tasks.flights.wait()).await.is_ok();
        if !landed {
            tracing::error!("a refresh did not finish in time");
        }
        self.tasks.writes.close();
        let saved = tokio::time::timeout(SAVED_WITHIN, self.tasks.writes.wait()).await.is_ok();
        if !saved {
            tracing::error!(
                "a token could not be saved, and is lost unless its server issues it again"
            );
        }
        self.stop_admin.cancel();
        landed && saved
    }
}

/// What could not be saved until now may still be at the end, but a disk that hangs keeps nobody.
const SAVED_WITHIN: Duration = Duration::from_secs(5);

/// Long enough for the longest flight.
fn patience(settings: &Settings) -> Duration {
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
