//! Connections to origin servers, pooled per core.
//!
//! Each core has its own pools, and a connection never changes threads, so there is no contention.
//! hyper serialises every request again; bytes are never passed on unparsed. A connection with
//! unread bytes is not reused.
//!
//! An HTTP/1.1 connection leaves the pool while it serves a request. An HTTP/2 connection stays in it
//! and serves many requests at once. If several requests arrive that could share an HTTP/2 connection
//! and there is none, the first one connects and the others wait for the result.
//!
//! A credential with a client certificate has a pool of its own, so that no other request is sent on a
//! connection that authenticates its holder.

mod connection_lease;
mod http1_origins;
mod pool;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response};

use super::connector::{Connector, Protocol};
use super::dedicated_connections::{DedicatedConnections, authenticates_connection};
use super::exchange_completion::ExchangeCompletion;
use super::incoming_body::IncomingBody;
use super::interim::InterimRelay;
use super::origin_connection::{DeliveryOutcome, UnansweredRequest};
use super::origin_error::OriginError;
use super::request_body::RequestBody;
use crate::credential::TlsIdentity;
use crate::origin::Origin;
pub(super) use connection_lease::{ConnectionLease, ResponseGuard};
use pool::Pool;

/// The pools of one core.
#[derive(Default)]
pub(super) struct OriginPools {
    /// Connections without a client certificate.
    anonymous: Arc<Pool>,
    /// Connections with the client certificate of a credential, by the credential's name.
    certified: Mutex<HashMap<Arc<str>, Arc<Pool>>>,
}

/// Where a request is sent, and how it authenticates on the connection.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) connector: &'a Connector,
    pub(super) origin: &'a Origin,
    /// The client certificate. It is used only together with its credential's token.
    pub(super) identity: Option<&'a TlsIdentity>,
    /// The origin connections that serve this client alone.
    pub(super) dedicated: &'a Arc<DedicatedConnections>,
}

/// Why a request got no response, and whether its connection had served others before.
pub(super) struct SendError {
    pub(super) error: OriginError,
    pub(super) outcome: DeliveryOutcome,
    pub(super) is_reused: bool,
}

impl From<OriginError> for SendError {
    fn from(error: OriginError) -> Self {
        Self { error, outcome: DeliveryOutcome::Unknown, is_reused: false }
    }
}

impl OriginPools {
    /// Sends `request` along `route`. The request's target is in origin-form, and its version is the
    /// preferred one. Returns the response and the guard that returns the connection to its pool.
    ///
    /// # Errors
    ///
    /// [`SendError`]. If a reused connection failed before anything was written, the request has
    /// already been tried again on another one.
    pub(super) async fn send(
        &self,
        route: Route<'_>,
        mut request: Request<RequestBody>,
        interim: &Arc<InterimRelay>,
    ) -> Result<(Response<IncomingBody>, ResponseGuard), SendError> {
        let pool = self.pool_of(route.identity);
        let (origin, timeouts) = (route.origin, route.connector.response_timeouts);
        let mut sent = SentRequest {
            method: request.method().clone(),
            dedicated: authenticates_connection(request.headers())
                .then(|| Arc::clone(route.dedicated)),
            completion: request.body().completion(),
        };
        let preferred = match sent.dedicated {
            // NTLM and Negotiate authenticate a connection, which HTTP/2 shares.
            Some(_) => Protocol::Http1,
            None => match request.version().into() {
                Protocol::Http2 if pool.requires_http1(route.connector, origin) => Protocol::Http1,
                preferred => preferred,
            },
        };
        let progress = request.body().progress();
        let mut deadline = None;
        loop {
            let (mut connection, is_reused) = pool.obtain(route, preferred, &mut deadline).await?;
            match connection.send(origin, request, timeouts, interim).await {
                Ok(response) => {
                    if progress.as_ref().is_some_and(|progress| progress.awaits_continue()) {
                        sent.abort();
                    }
                    return pool.accept_response(route, &mut sent, response, connection);
                }
                Err(UnansweredRequest { request: Some(unsent), .. }) if is_reused => {
                    pool.retire(origin, &connection);
                    request = *unsent;
                }
                Err(UnansweredRequest { error, outcome, .. }) => {
                    // If one response is late, all responses on the connection may be.
                    let is_late =
                        matches!(error, OriginError::ResponseTimeout | OriginError::SendTimeout);
                    match outcome {
                        DeliveryOutcome::Http1Required => {
                            pool.mark_http1_required(route.connector, origin);
                        }
                        DeliveryOutcome::NotProcessed => pool.retire(origin, &connection),
                        _ if is_late => pool.retire(origin, &connection),
                        DeliveryOutcome::Closed | DeliveryOutcome::Unknown => {}
                    }
                    return Err(SendError { error, outcome, is_reused });
                }
            }
        }
    }

    /// Returns true if `origin` is known not to speak HTTP/2.
    pub(super) fn is_known_http1(&self, connector: &Connector, origin: &Origin) -> bool {
        self.anonymous.is_known_http1(connector, origin)
    }

    fn pool_of(&self, identity: Option<&TlsIdentity>) -> Arc<Pool> {
        match identity {
            None => Arc::clone(&self.anonymous),
            Some(identity) => {
                let mut certified = lock(&self.certified);
                Arc::clone(certified.entry(Arc::clone(&identity.credential)).or_default())
            }
        }
    }

    /// Removes connections that are closed, idle for too long or of an earlier configuration.
    pub(super) fn sweep(&self, connector: &Connector) {
        self.anonymous.sweep(connector);
        lock(&self.certified).retain(|_, pool| {
            pool.sweep(connector);
            // A request in flight holds the pool, to which it will return its connection.
            !pool.is_empty() || Arc::strong_count(pool) > 1
        });
    }
}

impl fmt::Debug for OriginPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OriginPools")
    }
}

/// The parts of a request that are needed when its response arrives. Dropping it aborts the request,
/// because a request that gets no response is not sent to its end.
struct SentRequest {
    method: http::Method,
    dedicated: Option<Arc<DedicatedConnections>>,
    completion: Option<Arc<ExchangeCompletion<ConnectionLease>>>,
}

impl SentRequest {
    /// Aborts sending the content: the final response came before the origin server asked for it, or
    /// there is no response.
    fn abort(&self) {
        if let Some(completion) = &self.completion {
            completion.abort();
        }
    }
}

impl Drop for SentRequest {
    fn drop(&mut self) {
        self.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
