//! Builds configuration snapshots on parts that outlive reloads.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::ca::{self, CertificateAuthority};
use crate::clock::Clock;
use crate::credential::Credentials;
use crate::metrics::Metrics;
use crate::oauth::HttpTransport;
use crate::proxy::{NetworkState, Snapshot};
use crate::settings::Settings;
use crate::store::Store;
use crate::token::{Context, Tasks, TokenCache};

/// Builds snapshots. The store and the CA outlive every reload. Neither is created before a
/// credential needs it, so that the example configuration writes nothing to disk.
#[derive(Debug)]
pub(super) struct SnapshotBuilder {
    clock: Clock,
    tasks: Tasks,
    network: NetworkState,
    metrics: Metrics,
    store: Option<Store>,
    cache: TokenCache,
    /// The CA and its configuration, which changes only with a restart.
    ca: Option<(ca::Config, Arc<CertificateAuthority>)>,
    version: u64,
    /// Stops watching the store.
    end: CancellationToken,
}

impl SnapshotBuilder {
    pub(super) fn new(
        clock: Clock,
        tasks: Tasks,
        network: NetworkState,
        metrics: Metrics,
        end: CancellationToken,
    ) -> Self {
        Self {
            clock,
            tasks,
            network,
            metrics,
            store: None,
            cache: TokenCache::default(),
            ca: None,
            version: 0,
            end,
        }
    }

    /// Builds a snapshot of `settings`. Slots of `before` that did not change are carried over.
    pub(super) async fn snapshot(
        &mut self,
        settings: &Settings,
        before: Option<&Credentials>,
    ) -> Result<(Snapshot, Arc<Credentials>), StartError> {
        let tls = settings.tls.build()?;
        self.version += 1;
        let credentials = match settings.credentials.is_empty() {
            true => Credentials::default(),
            false => {
                let is_first = self.store.is_none();
                let context = self.context(settings, HttpTransport::new(tls.clone())).await?;
                if is_first {
                    let watching = self.cache.clone().watch(context.clone());
                    tokio::spawn(self.end.clone().run_until_cancelled_owned(watching));
                }
                Credentials::open(settings.credentials.clone(), &context, &tls, before).await
            }
        };
        let credentials = Arc::new(credentials);
        let snapshot = Snapshot::new(
            settings.proxy.clone(),
            Arc::clone(&credentials),
            self.ca(settings)?,
            &tls,
            self.network.clone(),
            &self.metrics,
            self.version,
        );
        Ok((snapshot, credentials))
    }

    /// What slots need to operate.
    pub(super) async fn context(
        &mut self,
        settings: &Settings,
        transport: HttpTransport,
    ) -> Result<Context, StartError> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => {
                settings.examine_store()?;
                let store = settings.store.build()?;
                let names = settings.credentials.iter().map(|credential| &*credential.name);
                store.reseal_records(&names.collect::<Vec<_>>()).await;
                self.store.insert(store).clone()
            }
        };
        Ok(Context {
            control: Handle::current(),
            tasks: self.tasks.clone(),
            clock: self.clock.clone(),
            store,
            transport: Arc::new(transport),
            metrics: self.metrics.clone(),
            cache: self.cache.clone(),
            revision: self.version,
        })
    }

    /// The CA, created if a credential needs it. Loaded again each time, because it may have been
    /// renewed.
    fn ca(&mut self, settings: &Settings) -> Result<Option<Arc<CertificateAuthority>>, StartError> {
        let config = match &self.ca {
            Some((config, _)) => config.clone(),
            None if settings.credentials.is_empty() && !settings.ca.exists() => return Ok(None),
            None => settings.ca.clone(),
        };
        let now = self.clock.now();
        let opened = config.open(now)?;
        if opened.needs_renewal(now) {
            tracing::warn!(
                not_after = %humantime::format_rfc3339_seconds(opened.not_after()),
                "the local CA expires soon; after that, https to credentials' hosts fails; run `bearerd ca renew`"
            );
        }
        let ca = match &self.ca {
            // Keep the old one with its cached leaves if nothing changed.
            Some((_, ca)) if ca.pem() == opened.pem() => Arc::clone(ca),
            _ => Arc::new(opened),
        };
        self.ca = Some((config, Arc::clone(&ca)));
        Ok(Some(ca))
    }
}
