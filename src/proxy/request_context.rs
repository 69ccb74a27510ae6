//! One request on its walk: what it is served by, and what is told of it.

use std::sync::Arc;

use crate::credential::TlsIdentity;
use crate::origin::{Origin, Scheme};

use super::Snapshot;
use super::interim::InterimSink;
use super::origin_pools::Route;
use super::request_record::RequestRecord;
use super::server::ClientConnection;

/// One request on its walk.
pub(super) struct RequestContext<'a> {
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) inbound: &'a ClientConnection,
    pub(super) record: &'a mut RequestRecord,
    /// The client speaks HTTP/1.0, which knows no interim responses (RFC 9110 §15.2).
    pub(super) is_http10: bool,
    /// How the client asked for the resource.
    pub(super) asked: Option<Scheme>,
}

impl<'a> RequestContext<'a> {
    /// The way to `origin`, as `identity`.
    pub(super) fn route<'r>(
        &self,
        origin: &'r Origin,
        identity: Option<&'r TlsIdentity>,
    ) -> Route<'r>
    where
        'a: 'r,
    {
        let (connector, personal) = (self.snapshot.connector(), &self.inbound.personal);
        Route { connector, origin, identity, personal }
    }

    /// Where interim responses go.
    pub(super) fn interim(&self) -> Option<InterimSink> {
        (!self.is_http10).then(|| self.inbound.interim.clone())
    }

    /// Did the client ask for it by plain http, while `origin` is reached over TLS?
    pub(super) fn is_upgraded(&self, origin: &Origin) -> bool {
        self.asked == Some(Scheme::Http) && origin.scheme == Scheme::Https
    }
}
