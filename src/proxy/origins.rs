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

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use tokio::sync::watch;
use tokio::time::Instant;

use super::content::{Passage, RequestBody};
use super::exchange::{Http1Connection, SendError, Sender, Unanswered, failure, keep_alive, timer};
use super::message::is_framed_once;
use super::origin_error::OriginError;
use super::reach::{Connected, Reach};
use crate::credential::Identity;
use crate::origin::{Origin, Scheme};

/// One core's pools.
#[derive(Default)]
pub(super) struct Origins {
    /// Without a certificate of the client's.
    anonymous: Arc<Kept>,
    /// With that of a credential, by its name.
    certified: Mutex<HashMap<Arc<str>, Arc<Kept>>>,
}

/// Where a request goes, and as whom.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) reach: &'a Reach,
    pub(super) origin: &'a Origin,
    /// Only with the token of its credential.
    pub(super) identity: Option<&'a Identity>,
}

/// Connections that can be used again.
#[derive(Default)]
struct Kept {
    /// Idle ones, the most recently used last.
    http1: Mutex<HashMap<Origin, Vec<Http1Connection>>>,
    http2: Mutex<HashMap<Origin, SharedConnection>>,
    /// Origin servers that were offered HTTP/2 and chose HTTP/1.1, with the version of the reach.
    declined: Mutex<HashMap<Origin, u64>>,
    /// Origin servers to which a connection is being made that may serve whoever waits.
    attempts: Mutex<HashMap<Origin, watch::Sender<()>>>,
}

/// The first of several requests; those that wait for it go on when it is dropped, however it ended.
struct First<'a> {
    kept: &'a Kept,
    origin: Origin,
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.kept.attempts().remove(&self.origin);
    }
}

struct SharedConnection {
    sender: http2::SendRequest<RequestBody>,
    last_used: Instant,
    version: u64,
    /// The origin server refused HTTP/1.1.
    only: bool,
}

impl Origins {
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
        passage: &Passage,
    ) -> Result<(Response<Incoming>, Returning), SendError> {
        let certified = route.identity.map(|identity| self.certified_as(identity));
        let kept = certified.as_ref().unwrap_or(&self.anonymous);
        let (origin, limit) = (route.origin, route.reach.response_timeout);
        let prefer_http2 = request.version() == Version::HTTP_2;
        loop {
            let (mut sender, reused) = kept.obtain(route, prefer_http2).await?;
            match sender.send(origin, request, limit, passage).await {
                Some(Ok(response)) => return kept.received(origin, response, sender),
                Some(Err(Unanswered { request: Some(unsent), .. })) if reused => request = *unsent,
                Some(Err(unanswered)) => return Err(failure(unanswered.error, reused)),
                None => return Err(OriginError::ResponseTimeout.into()),
            }
        }
    }

    fn certified_as(&self, identity: &Identity) -> Arc<Kept> {
        let mut certified = self.certified();
        Arc::clone(certified.entry(Arc::clone(&identity.credential)).or_default())
    }

    /// Forgets connections that were closed or not used for long.
    pub(super) fn sweep(&self, reach: &Reach) {
        self.anonymous.sweep(reach);
        self.certified().retain(|_, kept| {
            kept.sweep(reach);
            // A request under way brings its connection back.
            !kept.is_empty() || Arc::strong_count(kept) > 1
        });
    }

    fn certified(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Kept>>> {
        self.certified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn received(
        self: &Arc<Self>,
        origin: &Origin,
        response: Response<Incoming>,
        sender: Sender,
    ) -> Result<(Response<Incoming>, Returning), SendError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(OriginError::Upgrade.into());
        }
        if !is_framed_once(response.version(), response.headers()) {
            return Err(OriginError::Framing.into());
        }
        let returning = match sender {
            Sender::Http1(mut connection) => {
                connection.kept_for = keep_alive(response.headers());
                Some(Idle { origin: origin.clone(), kept: Arc::clone(self), connection })
            }
            Sender::Http2(..) => None,
        };
        Ok((response, Returning(returning)))
    }

    /// A connection for one request, and whether it has served before.
    async fn obtain(
        &self,
        route: Route<'_>,
        prefer_http2: bool,
    ) -> Result<(Sender, bool), OriginError> {
        if let Some(kept) = self.take(route, prefer_http2).await {
            return Ok((kept, true));
        }
        let could_share = prefer_http2 && !self.speaks_no_http2(route.reach, route.origin);
        let _first = match could_share.then(|| self.begin(route.origin)) {
            Some(Err(mut ending)) => {
                // It ends with its sender, whether it succeeded or not.
                let _ended = ending.changed().await;
                if let Some(kept) = self.take(route, prefer_http2).await {
                    return Ok((kept, true));
                }
                None
            }
            own => own,
        };
        Ok((self.connect(route, prefer_http2).await?, false))
    }

    /// Begins to connect to `origin` for all whose requests could share the connection.
    ///
    /// # Errors
    ///
    /// Another request has begun already: the channel closes when that attempt is over.
    fn begin(&self, origin: &Origin) -> Result<First<'_>, watch::Receiver<()>> {
        match self.attempts().entry(origin.clone()) {
            Entry::Occupied(entry) => Err(entry.get().subscribe()),
            Entry::Vacant(entry) => {
                entry.insert(watch::Sender::new(()));
                Ok(First { kept: self, origin: origin.clone() })
            }
        }
    }

    /// A kept connection that is ready for a request, as far as anyone can know.
    async fn take(&self, route: Route<'_>, prefer_http2: bool) -> Option<Sender> {
        let Route { reach, origin, .. } = route;
        if let Some(sender) = self.shared(reach, origin, prefer_http2) {
            return Some(Sender::Http2(sender, timer()));
        }
        if prefer_http2 && !self.speaks_no_http2(reach, origin) {
            return None;
        }
        loop {
            let mut idle = self.http1().get_mut(origin)?.pop()?;
            // It was given back with the last byte of a response; hyper needs a turn to notice. One
            // that is idle for too long is taken away by the sweep.
            if idle.version == reach.version
                && !idle.is_given_up()
                && idle.sender.ready().await.is_ok()
            {
                return Some(Sender::Http1(idle));
            }
        }
    }

    /// Is it known that `origin` speaks no HTTP/2? Without TLS nothing is offered.
    fn speaks_no_http2(&self, reach: &Reach, origin: &Origin) -> bool {
        origin.scheme == Scheme::Http
            || self.declined().get(origin).is_some_and(|version| *version == reach.version)
    }

    fn shared(
        &self,
        reach: &Reach,
        origin: &Origin,
        prefer_http2: bool,
    ) -> Option<http2::SendRequest<RequestBody>> {
        let mut connections = self.http2();
        let shared = connections.get_mut(origin)?;
        if !(prefer_http2 || shared.only) || !shared.is_valid(reach) {
            return None;
        }
        shared.last_used = Instant::now();
        Some(shared.sender.clone())
    }

    async fn connect(&self, route: Route<'_>, prefer_http2: bool) -> Result<Sender, OriginError> {
        let Route { reach, origin, identity } = route;
        match reach.connect(origin, identity, prefer_http2).await? {
            Connected::Http1(sender) => {
                if prefer_http2 {
                    self.declined().insert(origin.clone(), reach.version);
                }
                Ok(Sender::Http1(Http1Connection {
                    sender,
                    timer: timer(),
                    since: Instant::now(),
                    kept_for: None,
                    version: reach.version,
                }))
            }
            Connected::Http2 { sender, only } => {
                let shared = SharedConnection {
                    sender: sender.clone(),
                    last_used: Instant::now(),
                    version: reach.version,
                    only,
                };
                // One that was made at the same time (where a first attempt failed) serves its request and
                // then closes.
                self.http2().insert(origin.clone(), shared);
                Ok(Sender::Http2(sender, timer()))
            }
        }
    }

    fn sweep(&self, reach: &Reach) {
        self.http1().retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && idle.is_valid(reach));
            !idle.is_empty()
        });
        self.http2().retain(|_, shared| shared.is_valid(reach));
        self.declined().retain(|_, version| *version == reach.version);
    }

    fn is_empty(&self) -> bool {
        self.http1().is_empty() && self.http2().is_empty()
    }

    fn http1(&self) -> MutexGuard<'_, HashMap<Origin, Vec<Http1Connection>>> {
        self.http1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn declined(&self) -> MutexGuard<'_, HashMap<Origin, u64>> {
        self.declined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<Origin, watch::Sender<()>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn http2(&self) -> MutexGuard<'_, HashMap<Origin, SharedConnection>> {
        self.http2.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origins")
    }
}

impl SharedConnection {
    fn is_valid(&self, reach: &Reach) -> bool {
        self.version == reach.version
            && self.last_used.elapsed() < reach.idle_timeout
            && !self.sender.is_closed()
    }
}

/// Gives a connection back once its response has been read to the end; dropped before, it closes
/// the connection. An HTTP/2 connection was never taken away.
#[derive(Debug)]
pub(super) struct Returning(Option<Idle>);

struct Idle {
    origin: Origin,
    kept: Arc<Kept>,
    connection: Http1Connection,
}

impl Returning {
    /// The response is over.
    pub(super) fn done(self) {
        let Some(Idle { origin, kept, mut connection }) = self.0 else { return };
        if !connection.sender.is_closed() {
            connection.since = Instant::now();
            kept.http1().entry(origin).or_default().push(connection);
        }
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Idle({})", self.origin)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::origin::Authority;

    #[tokio::test]
    async fn of_several_attempts_one_is_made_and_its_end_lets_the_others_go_on() {
        let authority = Authority::parse("api.example", Some(443)).unwrap();
        let (kept, origin) = (Kept::default(), Origin { scheme: Scheme::Https, authority });
        let first = kept.begin(&origin).unwrap_or_else(|_| panic!("nobody was before it"));
        let mut ending = kept.begin(&origin).err().unwrap();
        assert!(!ending.has_changed().unwrap());
        // As when its client hangs up.
        drop(first);
        assert!(ending.changed().await.is_err());
        assert!(kept.begin(&origin).is_ok());
    }
}
