//! State that all cores share until the process ends.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::fields::Via;
use super::request_id::RequestIds;
use super::secret_rereads::SecretRereads;
use super::snapshot::Snapshot;
use crate::ca::CertificateAuthority;
use crate::clock::Clock;
use crate::credential::Credentials;
use crate::metrics::Metrics;

/// State that all cores share until the process ends.
#[derive(Debug)]
pub(crate) struct SharedState {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) clock: Clock,
    pub(super) via: Via,
    pub(super) request_ids: RequestIds,
    pub(super) metrics: Metrics,
    /// Secrets that an origin server rejected, waiting to be read again.
    pub(crate) rereads: SecretRereads,
}

impl SharedState {
    pub(crate) fn new(snapshot: Snapshot, clock: Clock, metrics: Metrics) -> Self {
        let (via, request_ids) = (Via::new(), RequestIds::new());
        let (snapshot, rereads) = (ArcSwap::from_pointee(snapshot), SecretRereads::default());
        Self { snapshot, clock, via, request_ids, metrics, rereads }
    }

    /// The credentials of the current snapshot.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.snapshot.load().credentials)
    }

    /// The local CA of the current snapshot, if any.
    pub(crate) fn ca(&self) -> Option<Arc<CertificateAuthority>> {
        self.snapshot.load().ca.clone()
    }

    /// Makes `snapshot` current: it applies from the next request on.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}
