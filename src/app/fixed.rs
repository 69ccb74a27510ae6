//! What the process was started with and keeps until it ends, whatever a reload says.
//!
//! A reload is compared with this and not with the reload before it: a key that was said to need a
//! restart needs it until the restart, or until it is again as it was.

use std::net::SocketAddr;
use std::time::Duration;

use crate::settings::{Listen, LogFormat, Settings};
use crate::{ca, store};

/// The keys that a reload does not reach.
#[derive(Debug)]
pub(super) struct Fixed {
    listen: Vec<Listen>,
    threads: usize,
    shutdown_grace: Duration,
    store: store::Config,
    ca: ca::Config,
    admin_listen: Option<SocketAddr>,
    log_format: LogFormat,
    connections: (usize, usize),
}

impl Fixed {
    pub(super) fn of(settings: &Settings) -> Self {
        let limits = &settings.proxy.limits;
        Self {
            listen: settings.listen.clone(),
            threads: settings.threads,
            shutdown_grace: settings.shutdown_grace,
            store: settings.store.clone(),
            ca: settings.ca.clone(),
            admin_listen: settings.admin.listen,
            log_format: settings.log.format,
            connections: (limits.connections, limits.connections_per_peer),
        }
    }

    /// The keys in which `settings` are otherwise.
    pub(super) fn changed_by(&self, settings: &Settings) -> Vec<&'static str> {
        let new = Self::of(settings);
        [
            ("proxy.listen", self.listen != new.listen),
            ("proxy.threads", self.threads != new.threads),
            ("proxy.shutdown_grace", self.shutdown_grace != new.shutdown_grace),
            ("[store]", self.store != new.store),
            ("[ca]", self.ca != new.ca),
            ("admin.listen", self.admin_listen != new.admin_listen),
            ("log.format", self.log_format != new.log_format),
            ("limits.connections", self.connections != new.connections),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
    }
}
