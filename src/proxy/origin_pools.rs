//! Connections to origin servers, kept by one core for itself.
//!
//! Each core has its own pool of plain hyper connections; a connection never changes threads, so
//! nothing here is contended. Requests are re-serialised by hyper, never passed on as bytes, and a
//! connection with unread bytes on it is never used again. An HTTP/1.1 connection is out of the pool
//! while it serves; one HTTP/2 connection to an origin server serves all requests at once. Of requests
//! that could share one, and come while there is none, the first connects and the others see what comes of it.
//!
//! Where a credential shows a client certificate, its connections have a pool of their own, so that
//! what an origin server allows their holder is never had by another request.

mod http1_origins;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::connector::{Connector, NewConnection, Protocol};
use super::dedicated_connections::{DedicatedConnections, authenticates_connection};
use super::exchange_completion::{ExchangeCompletion, ReturnToPool};
use super::framing::{has_content, normalise_response};
use super::http2::client::Http2Connection;
use super::incoming_body::IncomingBody;
use super::interim::InterimRelay;
use super::origin_connection::{
    DeliveryOutcome, Http1Connection, OriginConnection, UnansweredRequest,
};
use super::origin_error::OriginError;
use super::request_body::RequestBody;
use crate::credential::TlsIdentity;
use crate::origin::{Origin, Scheme};
use http1_origins::Http1Origins;

/// One core's pools.
#[derive(Default)]
pub(super) struct OriginPools {
    /// Without a certificate of the client's.
    anonymous: Arc<Pool>,
    /// With that of a credential, by its name.
    certified: Mutex<HashMap<Arc<str>, Arc<Pool>>>,
}

/// Where a request goes, and as whom.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) connector: &'a Connector,
    pub(super) origin: &'a Origin,
    /// Only with the token of its credential.
    pub(super) identity: Option<&'a TlsIdentity>,
    /// The client's own connections.
    pub(super) personal: &'a Arc<DedicatedConnections>,
}

/// A request that got no response, and whether its connection had served others before.
pub(super) struct SendError {
    pub(super) error: OriginError,
    pub(super) outcome: DeliveryOutcome,
    pub(super) reused: bool,
}

impl From<OriginError> for SendError {
    fn from(error: OriginError) -> Self {
        Self { error, outcome: DeliveryOutcome::Unknown, reused: false }
    }
}

/// Connections that can be used again.
#[derive(Default)]
struct Pool {
    /// ReusableConnection ones, the most recently used last: it is the least likely to be closed by the other side.
    #[expect(clippy::vec_box, reason = "each is moved in and out for every request")]
    http1: Mutex<HashMap<Origin, Vec<Box<Http1Connection>>>>,
    /// All of HTTP/2; more than one to an origin server where one takes no more requests.
    http2: Mutex<HashMap<Origin, Vec<PooledHttp2>>>,
    declined: Http1Origins,
    /// Origin servers to which a connection is being made that may serve whoever waits.
    attempts: Mutex<HashMap<Origin, watch::Sender<()>>>,
}

/// The first of several requests; those that wait for it go on when it is dropped, however it ended.
struct ConnectAttempt<'a> {
    pool: &'a Pool,
    origin: Origin,
}

impl Drop for ConnectAttempt<'_> {
    fn drop(&mut self) {
        lock(&self.pool.attempts).remove(&self.origin);
    }
}

struct PooledHttp2 {
    connection: Http2Connection,
    last_used: Instant,
    version: u64,
    /// The origin server refused HTTP/1.1.
    only: bool,
}

impl OriginPools {
    /// Sends `request`, whose target is in origin-form and whose version is the preferred one, along
    /// `route`. Returns the response with what gives the connection back.
    ///
    /// # Errors
    ///
    /// [`SendError`]; a request that was never written has been tried on a fresh connection already.
    pub(super) async fn send(
        &self,
        route: Route<'_>,
        mut request: Request<RequestBody>,
        interim: &Arc<InterimRelay>,
    ) -> Result<(Response<IncomingBody>, ConnectionReturn), SendError> {
        let pool = self.pool_of(route.identity);
        let (origin, limits) = (route.origin, route.connector.response);
        let mut sent = SentRequest {
            method: request.method().clone(),
            personal: authenticates_connection(request.headers())
                .then(|| Arc::clone(route.personal)),
            completion: request.body().completion(),
        };
        let preferred = match sent.personal {
            // Such an authentication belongs to a connection, which HTTP/2 shares.
            Some(_) => Protocol::Http1,
            None => match request.version().into() {
                Protocol::Http2 if pool.declined.is_for_good(route.connector.version, origin) => {
                    Protocol::Http1
                }
                preferred => preferred,
            },
        };
        let progress = request.body().progress();
        let mut deadline = None;
        loop {
            let (mut connection, reused) = pool.obtain(route, preferred, &mut deadline).await?;
            match connection.send(origin, request, limits, interim).await {
                Ok(response) => {
                    if progress.as_ref().is_some_and(|progress| progress.awaits_continue()) {
                        sent.give_up();
                    }
                    return pool.received(route, &mut sent, response, connection);
                }
                Err(UnansweredRequest { request: Some(unsent), .. }) if reused => {
                    pool.retire(origin, &connection);
                    request = *unsent;
                }
                Err(UnansweredRequest { error, outcome, .. }) => {
                    // Who is late with one answer may be so with all of a connection's.
                    let is_late =
                        matches!(error, OriginError::ResponseTimeout | OriginError::SendTimeout);
                    match outcome {
                        DeliveryOutcome::Http1Required => {
                            pool.declined.insert(route.connector.version, origin, true)
                        }
                        DeliveryOutcome::NotProcessed => pool.retire(origin, &connection),
                        _ if is_late => pool.retire(origin, &connection),
                        DeliveryOutcome::Closed | DeliveryOutcome::Unknown => {}
                    }
                    return Err(SendError { error, outcome, reused });
                }
            }
        }
    }

    /// Is it known that `origin` speaks no HTTP/2?
    pub(super) fn speaks_no_http2(&self, connector: &Connector, origin: &Origin) -> bool {
        self.anonymous.speaks_no_http2(connector, origin)
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

    /// Forgets connections that were closed or not used for long.
    pub(super) fn sweep(&self, connector: &Connector) {
        self.anonymous.sweep(connector);
        lock(&self.certified).retain(|_, pool| {
            pool.sweep(connector);
            // A request under way brings its connection back.
            !pool.is_empty() || Arc::strong_count(pool) > 1
        });
    }
}

/// What has to be known of a request when its response is there.
struct SentRequest {
    method: http::Method,
    personal: Option<Arc<DedicatedConnections>>,
    completion: Option<Arc<ExchangeCompletion<ReusableConnection>>>,
}

impl SentRequest {
    /// Nobody waits for what is left of its content: the final answer came before it was asked for, or none comes.
    fn give_up(&self) {
        if let Some(completion) = &self.completion {
            completion.abort();
        }
    }
}

/// A request that gets no response is not sent on.
impl Drop for SentRequest {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Pool {
    fn received(
        self: &Arc<Self>,
        route: Route<'_>,
        sent: &mut SentRequest,
        mut response: Response<IncomingBody>,
        connection: OriginConnection,
    ) -> Result<(Response<IncomingBody>, ConnectionReturn), SendError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(OriginError::Upgrade.into());
        }
        if route.connector.has_too_many_fields(response.headers()) {
            return Err(OriginError::Head.into());
        }
        let (version, status) = (response.version(), response.status());
        normalise_response(&sent.method, version, status, response.headers_mut())
            .map_err(OriginError::Framing)?;
        let idle = match connection {
            OriginConnection::Http1(mut connection) => {
                connection.has_served(response.headers());
                let personal = sent.personal.take().or_else(|| route.personal.holds(route.origin));
                Some(ReusableConnection { pool: Arc::clone(self), personal, connection })
            }
            // hyper reads none either.
            OriginConnection::Http2(_) => {
                if let (false, IncomingBody::Http2(content)) =
                    (has_content(&sent.method, status), response.body_mut())
                {
                    content.leave_out();
                }
                None
            }
        };
        Ok((response, ConnectionReturn { idle, completion: sent.completion.take() }))
    }

    /// A connection for one request, and whether it has served before.
    async fn obtain(
        &self,
        route: Route<'_>,
        preferred: Protocol,
        deadline: &mut Option<Instant>,
    ) -> Result<(OriginConnection, bool), OriginError> {
        if let Some(kept) = self.take(route, preferred) {
            return Ok((kept, true));
        }
        // One for all that a request needs.
        let deadline = *deadline.get_or_insert_with(|| route.connector.deadline());
        if route.connector.dialer().is_short_of_sockets() {
            self.close_idle();
        }
        let could_share =
            preferred == Protocol::Http2 && !self.speaks_no_http2(route.connector, route.origin);
        let _first = match could_share.then(|| self.begin(route.origin)) {
            Some(Err(mut ending)) => {
                // It ends with its sender, whether it succeeded or not.
                let ended = tokio::time::timeout_at(deadline, ending.changed()).await;
                let _ended = ended.map_err(|_| OriginError::ConnectTimeout)?;
                if let Some(kept) = self.take(route, preferred) {
                    return Ok((kept, true));
                }
                None
            }
            own => own,
        };
        // Boxed, like all that is rare: a future is as large as the largest thing that it may wait for, and is moved for
        // each request.
        Ok((Box::pin(self.connect(route, preferred, deadline)).await?, false))
    }

    /// Begins to connect to `origin` for all whose requests could share the connection.
    ///
    /// # Errors
    ///
    /// Another request has begun already: the channel closes when that attempt is over.
    fn begin(&self, origin: &Origin) -> Result<ConnectAttempt<'_>, watch::Receiver<()>> {
        match lock(&self.attempts).entry(origin.clone()) {
            Entry::Occupied(entry) => Err(entry.get().subscribe()),
            Entry::Vacant(entry) => {
                entry.insert(watch::Sender::new(()));
                Ok(ConnectAttempt { pool: self, origin: origin.clone() })
            }
        }
    }

    /// A kept connection that is ready for a request, as far as anyone can know. One that is not is dropped.
    fn take(&self, route: Route<'_>, preferred: Protocol) -> Option<OriginConnection> {
        let Route { connector, origin, personal, .. } = route;
        if let Some(own) = personal.take(origin).filter(|own| own.is_valid(connector)) {
            return Some(OriginConnection::Http1(own));
        }
        if let Some(shared) = self.shared(connector, origin, preferred) {
            return Some(OriginConnection::Http2(shared));
        }
        if preferred == Protocol::Http2 && !self.speaks_no_http2(connector, origin) {
            return None;
        }
        let mut idle = lock(&self.http1);
        let kept = idle.get_mut(origin)?;
        while let Some(connection) = kept.pop() {
            if connection.version == connector.version && connection.is_usable() {
                return Some(OriginConnection::Http1(connection));
            }
        }
        None
    }

    fn keep(&self, connection: Box<Http1Connection>) {
        let mut idle = lock(&self.http1);
        match idle.get_mut(&connection.origin) {
            Some(kept) => kept.push(connection),
            None => drop(idle.insert(connection.origin.clone(), vec![connection])),
        }
    }

    /// Is it known that `origin` speaks no HTTP/2? Without TLS nothing is offered.
    fn speaks_no_http2(&self, connector: &Connector, origin: &Origin) -> bool {
        origin.scheme == Scheme::Http || self.declined.contains(connector.version, origin)
    }

    fn shared(
        &self,
        connector: &Connector,
        origin: &Origin,
        preferred: Protocol,
    ) -> Option<Http2Connection> {
        let mut connections = lock(&self.http2);
        let shared = connections.get_mut(origin)?.iter_mut().find(|shared| {
            (preferred == Protocol::Http2 || shared.only)
                && shared.is_valid(connector)
                && shared.connection.has_room()
        })?;
        shared.last_used = Instant::now();
        Some(shared.connection.clone())
    }

    async fn connect(
        &self,
        route: Route<'_>,
        preferred: Protocol,
        deadline: Instant,
    ) -> Result<OriginConnection, OriginError> {
        let Route { connector, origin, identity, .. } = route;
        match connector.connect(origin, identity, preferred, deadline).await? {
            NewConnection::Http1(connection) => {
                if preferred == Protocol::Http2 {
                    self.declined.insert(connector.version, origin, false);
                }
                Ok(OriginConnection::Http1(connection))
            }
            NewConnection::Http2 { connection, only } => {
                let shared = PooledHttp2 {
                    connection: connection.clone(),
                    last_used: Instant::now(),
                    version: connector.version,
                    only,
                };
                lock(&self.http2).entry(origin.clone()).or_default().push(shared);
                Ok(OriginConnection::Http2(connection))
            }
        }
    }

    /// A connection whose server takes no more requests gets none; those under way go on.
    fn retire(&self, origin: &Origin, connection: &OriginConnection) {
        let OriginConnection::Http2(retired) = connection else { return };
        if let Some(connections) = lock(&self.http2).get_mut(origin) {
            connections.retain(|shared| !shared.connection.is_same(retired));
        }
    }

    fn sweep(&self, connector: &Connector) {
        if connector.dialer().is_short_of_sockets() {
            self.close_idle();
        }
        lock(&self.http1).retain(|_, idle| {
            idle.retain(|idle| idle.is_valid(connector));
            !idle.is_empty()
        });
        lock(&self.http2).retain(|_, connections| {
            connections.retain(|shared| shared.is_valid(connector));
            !connections.is_empty()
        });
        self.declined.sweep(connector.version);
    }

    /// Closes what serves nobody: somebody waits for a descriptor.
    fn close_idle(&self) {
        lock(&self.http1).clear();
        lock(&self.http2).retain(|_, connections| {
            connections.retain(|shared| shared.connection.is_busy());
            !connections.is_empty()
        });
    }

    fn is_empty(&self) -> bool {
        lock(&self.http1).is_empty() && lock(&self.http2).is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for OriginPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OriginPools")
    }
}

impl PooledHttp2 {
    fn is_valid(&self, connector: &Connector) -> bool {
        let is_unused = self.last_used.elapsed() >= connector.idle_timeout;
        self.version == connector.version
            && (!is_unused || self.connection.is_busy())
            && self.connection.is_open()
    }
}

/// Belongs to a response that is being read. [`ConnectionReturn::complete`] returns the connection to its pool once the
/// request is complete as well; dropping it aborts the exchange, which closes an HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct ConnectionReturn {
    /// `None` over HTTP/2: a shared connection stays in its pool.
    idle: Option<ReusableConnection>,
    /// `None` if the request had no content.
    completion: Option<Arc<ExchangeCompletion<ReusableConnection>>>,
}

/// An HTTP/1.1 connection that serves one exchange, and the pool that it returns to.
pub(super) struct ReusableConnection {
    pool: Arc<Pool>,
    /// Whose connection it is, if it is one person's.
    personal: Option<Arc<DedicatedConnections>>,
    connection: Box<Http1Connection>,
}

impl ConnectionReturn {
    /// Records that the response has been read to its end.
    pub(super) fn complete(mut self) {
        match (self.idle.take(), self.completion.take()) {
            (Some(connection), Some(completion)) => completion.complete_response(connection),
            (Some(connection), None) => connection.return_to_pool(),
            (None, _) => {}
        }
    }
}

impl Drop for ConnectionReturn {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            completion.abort();
        }
    }
}

impl ReturnToPool for ReusableConnection {
    fn return_to_pool(self) {
        let Self { pool, personal, mut connection } = self;
        connection.rest();
        match personal {
            Some(personal) => personal.keep(connection),
            None => pool.keep(connection),
        }
    }
}

impl fmt::Debug for ReusableConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReusableConnection({})", self.connection.origin)
    }
}

#[cfg(test)]
mod tests;
