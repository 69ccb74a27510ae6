//! What slots share: runtime, store, clock, transport, metrics.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::TokenCache;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oauth::Transport;
use crate::store::Store;

/// What a slot needs beyond its own configuration.
#[derive(Clone, Debug)]
pub struct Context {
    /// The runtime on which refreshes and writes run.
    pub control: Handle,
    /// The tasks that a shutdown waits for.
    pub tasks: Tasks,
    /// The wall clock.
    pub clock: Clock,
    /// Where records are stored.
    pub store: Store,
    /// The in-memory state of each record.
    pub cache: TokenCache,
    /// Counts up with every reload of the configuration.
    pub revision: u64,
    /// How token requests are sent.
    pub transport: Arc<dyn Transport>,
    /// The metrics of the process.
    pub metrics: Metrics,
}

impl Context {
    /// Creates the context of a program that embeds the token engine: the system's clock, metrics of
    /// its own, an empty cache, and the current runtime for background work.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn new(store: Store, transport: Arc<dyn Transport>) -> Self {
        Self {
            control: Handle::current(),
            tasks: Tasks::default(),
            clock: Clock::system(),
            store,
            cache: TokenCache::default(),
            revision: 1,
            transport,
            metrics: Metrics::new(),
        }
    }
}

/// Background tasks, by how a shutdown treats them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// Refreshes. A shutdown waits for them, because the response to a token request may hold the only
    /// copy of a refresh token.
    pub flights: TaskTracker,
    /// Writes that are retried until they succeed. If the disk hangs, they never end.
    pub writes: TaskTracker,
}
