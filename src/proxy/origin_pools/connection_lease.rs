//! The return of an HTTP/1.1 connection to its pool, after the request and the response.

use std::fmt;
use std::sync::Arc;

use super::pool::Pool;
use crate::proxy::dedicated_connections::DedicatedConnections;
use crate::proxy::exchange_completion::{ExchangeCompletion, ReturnToPool};
use crate::proxy::origin_connection::Http1Connection;

/// An HTTP/1.1 connection that serves one exchange, and where it is returned to.
pub(in crate::proxy) struct ConnectionLease {
    pool: Arc<Pool>,
    /// The client whose connection it is, if it authenticates a person.
    dedicated: Option<Arc<DedicatedConnections>>,
    connection: Box<Http1Connection>,
}

impl ConnectionLease {
    pub(super) fn new(
        pool: Arc<Pool>,
        dedicated: Option<Arc<DedicatedConnections>>,
        connection: Box<Http1Connection>,
    ) -> Self {
        Self { pool, dedicated, connection }
    }
}

impl ReturnToPool for ConnectionLease {
    fn return_to_pool(self) {
        let Self { pool, dedicated, mut connection } = self;
        connection.mark_idle();
        match dedicated {
            Some(dedicated) => dedicated.put(connection),
            None => pool.put(connection),
        }
    }
}

impl fmt::Debug for ConnectionLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionLease({})", self.connection.origin)
    }
}

/// Belongs to a response that is being read. [`ResponseGuard::complete`] returns the connection to its
/// pool once the request is complete as well. Dropping the guard aborts the exchange, which closes an
/// HTTP/1.1 connection.
#[derive(Debug)]
pub(in crate::proxy) struct ResponseGuard {
    /// `None` over HTTP/2: a shared connection stays in its pool.
    lease: Option<ConnectionLease>,
    /// `None` if the request had no content.
    completion: Option<Arc<ExchangeCompletion<ConnectionLease>>>,
}

impl ResponseGuard {
    pub(super) fn new(
        lease: Option<ConnectionLease>,
        completion: Option<Arc<ExchangeCompletion<ConnectionLease>>>,
    ) -> Self {
        Self { lease, completion }
    }

    /// Records that the response has been read to its end.
    pub(in crate::proxy) fn complete(mut self) {
        match (self.lease.take(), self.completion.take()) {
            (Some(lease), Some(completion)) => completion.complete_response(lease),
            (Some(lease), None) => lease.return_to_pool(),
            (None, _) => {}
        }
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            completion.abort();
        }
    }
}
