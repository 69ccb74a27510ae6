//! What the steps of the request path need to know about the request they serve.

use std::sync::Arc;

use super::client_connection::ClientConnection;
use super::interim::InterimSink;
use super::origin_pools::Route;
use super::request_record::RequestRecord;
use super::snapshot::Snapshot;
use crate::credential::TlsIdentity;
use crate::origin::{Origin, Scheme};

/// The context of one request.
pub(super) struct RequestContext<'a> {
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) client: &'a ClientConnection,
    pub(super) record: &'a mut RequestRecord,
    /// The client speaks HTTP/1.0, which has no interim responses (RFC 9110 §15.2).
    pub(super) is_http10: bool,
    /// The scheme of the request's target, once it is known.
    pub(super) requested_scheme: Option<Scheme>,
}

impl<'a> RequestContext<'a> {
    /// The route to `origin`, with `identity` as the client certificate.
    pub(super) fn route<'r>(
        &self,
        origin: &'r Origin,
        identity: Option<&'r TlsIdentity>,
    ) -> Route<'r>
    where
        'a: 'r,
    {
        let (connector, dedicated) = (self.snapshot.connector(), &self.client.dedicated);
        Route { connector, origin, identity, dedicated }
    }

    /// Where interim responses are sent; `None` if the client does not understand them.
    pub(super) fn interim(&self) -> Option<InterimSink> {
        (!self.is_http10).then(|| self.client.interim.clone())
    }

    /// Returns true if the client asked for an http URL and `origin` is reached over TLS.
    pub(super) fn is_upgraded(&self, origin: &Origin) -> bool {
        self.requested_scheme == Some(Scheme::Http) && origin.scheme == Scheme::Https
    }
}
