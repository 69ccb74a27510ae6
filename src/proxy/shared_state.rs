//! What all cores share for as long as the process runs.

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

/// What all cores share for as long as the process runs.
#[derive(Debug)]
pub(crate) struct SharedState {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) clock: Clock,
    pub(super) via: Via,
    pub(super) request_ids: RequestIds,
    pub(super) metrics: Metrics,
    /// Secrets that are to be read again.
    pub(crate) rereads: SecretRereads,
}

impl SharedState {
    pub(crate) fn new(snapshot: Snapshot, clock: Clock, metrics: Metrics) -> Self {
        let (via, request_ids) = (Via::new(), RequestIds::new());
        let (snapshot, rereads) = (ArcSwap::from_pointee(snapshot), SecretRereads::default());
        Self { snapshot, clock, via, request_ids, metrics, rereads }
    }

    /// The credentials at work.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.snapshot.load().credentials)
    }

    /// The local CA, if there is one.
    pub(crate) fn ca(&self) -> Option<Arc<CertificateAuthority>> {
        self.snapshot.load().ca.clone()
    }

    /// From the next request on, `snapshot` is what is served by.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}
