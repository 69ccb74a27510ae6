//! One pool: the reusable connections of one core with one client certificate, or with none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use http::{Response, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::http1_origins::Http1Origins;
use super::{ConnectionLease, ResponseGuard, Route, SendError, SentRequest, lock};
use crate::origin::{Origin, Scheme};
use crate::proxy::connector::{Connector, NewConnection, Protocol};
use crate::proxy::framing::{has_content, normalise_response};
use crate::proxy::http2::client::Http2Connection;
use crate::proxy::incoming_body::IncomingBody;
use crate::proxy::origin_connection::{Http1Connection, OriginConnection};
use crate::proxy::origin_error::OriginError;

/// Reusable connections.
#[derive(Default)]
pub(super) struct Pool {
    /// Idle HTTP/1.1 connections. The most recently used is last, and is taken first: it is the least
    /// likely to be closed by the origin server.
    #[expect(clippy::vec_box, reason = "each is moved in and out for every request")]
    http1: Mutex<HashMap<Origin, Vec<Box<Http1Connection>>>>,
    /// All HTTP/2 connections. An origin server has several if one cannot take more requests.
    http2: Mutex<HashMap<Origin, Vec<PooledHttp2>>>,
    http1_origins: Http1Origins,
    /// Connection attempts whose result other requests may wait for.
    attempts: Mutex<HashMap<Origin, watch::Sender<()>>>,
}

struct PooledHttp2 {
    connection: Http2Connection,
    last_used: Instant,
    config_version: u64,
    /// The origin server refused HTTP/1.1.
    is_http2_only: bool,
}

impl PooledHttp2 {
    fn is_valid(&self, connector: &Connector) -> bool {
        let is_idle_too_long = self.last_used.elapsed() >= connector.idle_timeout;
        self.config_version == connector.config_version
            && (!is_idle_too_long || self.connection.is_busy())
            && self.connection.is_open()
    }
}

/// A connection attempt that other requests may wait for. Dropping it wakes them, for whatever reason
/// it ends.
struct ConnectAttempt<'a> {
    pool: &'a Pool,
    origin: Origin,
}

impl Drop for ConnectAttempt<'_> {
    fn drop(&mut self) {
        lock(&self.pool.attempts).remove(&self.origin);
    }
}

impl Pool {
    /// Checks the head of a response and prepares the return of its connection.
    pub(super) fn accept_response(
        self: &Arc<Self>,
        route: Route<'_>,
        sent: &mut SentRequest,
        mut response: Response<IncomingBody>,
        connection: OriginConnection,
    ) -> Result<(Response<IncomingBody>, ResponseGuard), SendError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(OriginError::Upgrade.into());
        }
        if route.connector.has_too_many_fields(response.headers()) {
            return Err(OriginError::Head.into());
        }
        let (version, status) = (response.version(), response.status());
        normalise_response(&sent.method, version, status, response.headers_mut())
            .map_err(OriginError::Framing)?;
        let lease = match connection {
            OriginConnection::Http1(mut connection) => {
                connection.read_keep_alive(response.headers());
                let dedicated =
                    sent.dedicated.take().or_else(|| route.dedicated.if_contains(route.origin));
                Some(ConnectionLease::new(Arc::clone(self), dedicated, connection))
            }
            // Over HTTP/1.1, hyper ignores such content itself.
            OriginConnection::Http2(_) => {
                if let (false, IncomingBody::Http2(content)) =
                    (has_content(&sent.method, status), response.body_mut())
                {
                    content.ignore();
                }
                None
            }
        };
        Ok((response, ResponseGuard::new(lease, sent.completion.take())))
    }

    /// Returns a connection for one request, and whether it has served others before.
    pub(super) async fn obtain(
        &self,
        route: Route<'_>,
        preferred: Protocol,
        deadline: &mut Option<Instant>,
    ) -> Result<(OriginConnection, bool), OriginError> {
        if let Some(pooled) = self.take(route, preferred) {
            return Ok((pooled, true));
        }
        // One deadline for all attempts of a request.
        let deadline = *deadline.get_or_insert_with(|| route.connector.deadline());
        if route.connector.dialer().is_out_of_sockets() {
            self.close_idle();
        }
        let can_share =
            preferred == Protocol::Http2 && !self.is_known_http1(route.connector, route.origin);
        let _attempt = match can_share.then(|| self.start_attempt(route.origin)) {
            Some(Err(mut other_attempt)) => {
                // The channel closes when the other attempt ends, whether it succeeded or not.
                let ended = tokio::time::timeout_at(deadline, other_attempt.changed()).await;
                let _closed = ended.map_err(|_| OriginError::ConnectTimeout)?;
                if let Some(pooled) = self.take(route, preferred) {
                    return Ok((pooled, true));
                }
                None
            }
            own_attempt => own_attempt,
        };
        // Boxed, because a future is as large as the largest future it may wait for, and this one is
        // moved for each request.
        Ok((Box::pin(self.connect(route, preferred, deadline)).await?, false))
    }

    /// Starts a connection attempt for all requests that could share the connection.
    ///
    /// # Errors
    ///
    /// If another attempt is in progress: a channel that closes when it ends.
    fn start_attempt(&self, origin: &Origin) -> Result<ConnectAttempt<'_>, watch::Receiver<()>> {
        match lock(&self.attempts).entry(origin.clone()) {
            Entry::Occupied(entry) => Err(entry.get().subscribe()),
            Entry::Vacant(entry) => {
                entry.insert(watch::Sender::new(()));
                Ok(ConnectAttempt { pool: self, origin: origin.clone() })
            }
        }
    }

    /// Takes a pooled connection that is ready for a request as far as the proxy can know. Connections
    /// that are not are dropped.
    fn take(&self, route: Route<'_>, preferred: Protocol) -> Option<OriginConnection> {
        let Route { connector, origin, dedicated, .. } = route;
        let own = dedicated.take(origin).filter(|connection| connection.is_valid(connector));
        if let Some(connection) = own {
            return Some(OriginConnection::Http1(connection));
        }
        if let Some(connection) = self.shared_http2(connector, origin, preferred) {
            return Some(OriginConnection::Http2(connection));
        }
        if preferred == Protocol::Http2 && !self.is_known_http1(connector, origin) {
            return None;
        }
        let mut idle = lock(&self.http1);
        let connections = idle.get_mut(origin)?;
        while let Some(connection) = connections.pop() {
            if connection.config_version == connector.config_version && connection.is_ready() {
                return Some(OriginConnection::Http1(connection));
            }
        }
        None
    }

    /// Adds an idle connection.
    pub(super) fn put(&self, connection: Box<Http1Connection>) {
        let mut idle = lock(&self.http1);
        match idle.get_mut(&connection.origin) {
            Some(connections) => connections.push(connection),
            None => drop(idle.insert(connection.origin.clone(), vec![connection])),
        }
    }

    /// Returns true if `origin` is known not to speak HTTP/2. Without TLS it is never offered.
    pub(super) fn is_known_http1(&self, connector: &Connector, origin: &Origin) -> bool {
        origin.scheme == Scheme::Http
            || self.http1_origins.contains(connector.config_version, origin)
    }

    /// Returns true if HTTP/2 must not be offered to `origin` again.
    pub(super) fn requires_http1(&self, connector: &Connector, origin: &Origin) -> bool {
        self.http1_origins.is_permanent(connector.config_version, origin)
    }

    /// Records that `origin` refused a request over HTTP/2 and asked for HTTP/1.1.
    pub(super) fn mark_http1_required(&self, connector: &Connector, origin: &Origin) {
        self.http1_origins.insert(connector.config_version, origin, true);
    }

    fn shared_http2(
        &self,
        connector: &Connector,
        origin: &Origin,
        preferred: Protocol,
    ) -> Option<Http2Connection> {
        let mut connections = lock(&self.http2);
        let pooled = connections.get_mut(origin)?.iter_mut().find(|pooled| {
            (preferred == Protocol::Http2 || pooled.is_http2_only)
                && pooled.is_valid(connector)
                && pooled.connection.has_capacity()
        })?;
        pooled.last_used = Instant::now();
        Some(pooled.connection.clone())
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
                    self.http1_origins.insert(connector.config_version, origin, false);
                }
                Ok(OriginConnection::Http1(connection))
            }
            NewConnection::Http2 { connection, is_http2_only } => {
                let pooled = PooledHttp2 {
                    connection: connection.clone(),
                    last_used: Instant::now(),
                    config_version: connector.config_version,
                    is_http2_only,
                };
                lock(&self.http2).entry(origin.clone()).or_default().push(pooled);
                Ok(OriginConnection::Http2(connection))
            }
        }
    }

    /// Removes an HTTP/2 connection, so that no further request is sent on it. Requests in flight
    /// continue.
    pub(super) fn retire(&self, origin: &Origin, connection: &OriginConnection) {
        let OriginConnection::Http2(retired) = connection else { return };
        if let Some(connections) = lock(&self.http2).get_mut(origin) {
            connections.retain(|pooled| !pooled.connection.is_same_connection(retired));
        }
    }

    pub(super) fn sweep(&self, connector: &Connector) {
        if connector.dialer().is_out_of_sockets() {
            self.close_idle();
        }
        lock(&self.http1).retain(|_, connections| {
            connections.retain(|connection| connection.is_valid(connector));
            !connections.is_empty()
        });
        lock(&self.http2).retain(|_, connections| {
            connections.retain(|pooled| pooled.is_valid(connector));
            !connections.is_empty()
        });
        self.http1_origins.sweep(connector.config_version);
    }

    /// Closes idle connections, because a request is waiting for a socket.
    fn close_idle(&self) {
        lock(&self.http1).clear();
        lock(&self.http2).retain(|_, connections| {
            connections.retain(|pooled| pooled.connection.is_busy());
            !connections.is_empty()
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.http1).is_empty() && lock(&self.http2).is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::origin::Authority;

    #[tokio::test]
    async fn only_one_of_several_attempts_connects_and_its_end_wakes_the_others() {
        let authority = Authority::parse("api.example", Some(443)).unwrap();
        let (pool, origin) = (Pool::default(), Origin { scheme: Scheme::Https, authority });
        let first = pool.start_attempt(&origin);
        let first = first.unwrap_or_else(|_| panic!("another attempt was in progress"));
        let mut waiting = pool.start_attempt(&origin).err().unwrap();
        assert!(!waiting.has_changed().unwrap(), "the first attempt ended before it was dropped");
        // As if its client had closed the connection.
        drop(first);
        assert!(waiting.changed().await.is_err(), "the attempt succeeded although it was dropped");
        assert!(pool.start_attempt(&origin).is_ok(), "no new attempt was possible");
    }
}
