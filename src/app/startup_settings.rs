//! The settings that apply from the start of the process to its end, regardless of reloads.
//!
//! Each reload is compared with these settings instead of the previous reload's, so that a key that
//! needs a restart is reported until the restart, or until it has its original value again.

use std::net::SocketAddr;
use std::time::Duration;

use crate::settings::{Listen, LogFormat, Settings};
use crate::{ca, store};

/// The settings that a reload does not apply.
#[derive(Debug)]
pub(super) struct StartupSettings {
    listen: Vec<Listen>,
    threads: usize,
    shutdown_grace: Duration,
    store: store::Config,
    ca: ca::Config,
    admin_listen: Option<SocketAddr>,
    log_format: LogFormat,
    connections: (usize, usize),
}

impl StartupSettings {
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

    /// The keys whose values differ in `settings`.
    pub(super) fn changed_keys(&self, settings: &Settings) -> Vec<&'static str> {
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
