//! An API that checks access tokens and records the requests it receives.
//!
//! A request is recorded when its head has arrived, and takes the next scripted answer at
//! the same moment. Unless that answer specifies otherwise, the body is then read to its
//! end, the token is checked, and the answer depends on the result.
//!
//! Routes of the default answer: `/echo` streams the request's body back, `/bytes/N`
//! sends N pattern bytes, `/sse` and `/sse/N` send events as the test releases them,
//! `/status/N` answers with that status, `/files/...` serves a directory, and any other
//! path describes the request as JSON.

mod answer;
mod api;
mod record;
mod routes;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;

pub use answer::{Answer, Framing};
pub use record::ReceivedRequest;

use crate::listening::{Listening, Tasks};
use crate::tokens::Tokens;
use api::Api;

/// The HTTP versions of an https server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1 only.
    #[default]
    Http1,
    /// HTTP/2, or HTTP/1.1 if the client does not offer HTTP/2.
    Both,
    /// HTTP/2 only: a client that does not offer it gets a TLS alert.
    Http2,
}

impl Protocols {
    /// Returns the ALPN protocol IDs.
    fn alpn(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Protocols::Http1 => &[b"http/1.1"],
            Protocols::Both => &[b"h2", b"http/1.1"],
            Protocols::Http2 => &[b"h2"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

/// The configuration of an [`OriginServer`].
#[derive(Clone)]
pub struct OriginConfig {
    /// Serves https if present.
    pub tls: Option<Arc<ServerConfig>>,
    /// The HTTP versions over TLS. Plain http is always HTTP/1.1.
    pub protocols: Protocols,
    /// The valid tokens. `None`: every request is accepted.
    pub tokens: Option<Tokens>,
    /// True if tokens must be key-bound and come with a DPoP proof (RFC 9449).
    pub dpop: bool,
    /// The address to listen on. Default: a free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// The directory served below `/files/`, if any.
    pub files: Option<PathBuf>,
    /// Closes a connection after this many answers, without `Connection: close`.
    pub close_after: Option<usize>,
    /// True if the record keeps bodies. Their length and digest are always kept.
    pub keep_bodies: bool,
}

impl Default for OriginConfig {
    /// Plain HTTP, accepts every request, keeps connections open.
    fn default() -> OriginConfig {
        OriginConfig {
            tls: None,
            protocols: Protocols::default(),
            tokens: None,
            dpop: false,
            listen: None,
            files: None,
            close_after: None,
            keep_bodies: true,
        }
    }
}

/// A running API; it stops when dropped.
pub struct OriginServer {
    api: Arc<Api>,
    listening: Listening,
}

impl OriginServer {
    /// Starts a server on the calling runtime.
    ///
    /// # Panics
    ///
    /// Panics if the address cannot be bound.
    pub async fn start(mut config: OriginConfig) -> OriginServer {
        if let Some(tls) = &mut config.tls {
            Arc::make_mut(tls).alpn_protocols = config.protocols.alpn();
        }
        let (listen, tls, tasks) = (config.listen, config.tls.clone(), Tasks::new());
        let api = Arc::new(Api::new(config, tasks.clone()));
        let listening = Listening::start(listen, tls, tasks, api.clone());
        OriginServer { api, listening: listening.expect("the origin server can listen") }
    }

    /// Stops the server and waits until its port and connections are closed.
    pub async fn stop(self) {
        self.listening.stop().await;
    }

    /// Returns the listening address.
    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// Returns the listening port.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// Returns `http(s)://localhost:PORT` followed by `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.listening.scheme(), self.authority())
    }

    /// Returns `localhost:PORT`.
    pub fn authority(&self) -> String {
        self.listening.authority()
    }

    /// Returns the requests in arrival order, as received so far.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.api.requests()
    }

    /// Asserts that `expected` requests have arrived since `clear`.
    ///
    /// # Panics
    ///
    /// Panics if the count differs. The message is `meaning` and the requests.
    #[track_caller]
    pub fn assert_requests(&self, expected: usize, meaning: impl fmt::Display) {
        let requests = self.requests();
        let list: String = requests.iter().map(|request| format!("\n  {request}")).collect();
        assert!(
            requests.len() == expected,
            "{meaning}: expected {expected} requests at the API, got {}:{list}",
            requests.len()
        );
    }

    /// Waits until the heads of `n` requests have arrived, counted since `clear`.
    pub async fn wait_for_requests(&self, n: usize) {
        self.api.arrived().wait_for(n).await;
    }

    /// Waits until `n` request bodies were completely read since `clear`.
    pub async fn wait_for_bodies(&self, n: usize) {
        self.api.completed().wait_for(n).await;
    }

    /// Waits until `n` requests were accepted or rejected since `clear`.
    pub async fn wait_for_verdicts(&self, n: usize) {
        self.api.checked().wait_for(n).await;
    }

    /// Clears the record and resets all counts. Scripted answers stay enqueued.
    pub fn clear(&self) {
        self.api.clear();
    }

    /// Returns the number of requests with a valid token.
    pub fn accepted(&self) -> usize {
        self.api.accepted().get()
    }

    /// Returns the number of requests rejected because of their token.
    pub fn rejected(&self) -> usize {
        self.api.rejected().get()
    }

    /// Returns the number of TCP connections that carried at least one request since the start.
    pub fn connections(&self) -> usize {
        self.api.connections().get()
    }

    /// Enqueues the answer for the next request that has none yet.
    pub fn enqueue(&self, answer: Answer) {
        self.api.enqueue(answer);
    }

    /// Requires a new nonce in every subsequent proof, and returns it.
    pub fn change_nonce(&self) -> String {
        self.api.proofs().change_nonce()
    }

    /// Sets whether every token is rejected from now on.
    pub fn reject_all(&self, reject: bool) {
        self.api.reject_all(reject);
    }

    /// Alias of [`hold_before_check`](Self::hold_before_check).
    pub fn hold(&self) {
        self.hold_before_check();
    }

    /// Holds subsequent requests after they are recorded and read, before the token check.
    pub fn hold_before_check(&self) {
        self.api.gates().before_check.hold();
    }

    /// Holds subsequent requests between the token check and the answer.
    pub fn hold_after_check(&self) {
        self.api.gates().after_check.hold();
    }

    /// Ends both holds, and every stall of the requests received so far.
    pub fn release_all(&self) {
        self.api.gates().before_check.release();
        self.api.gates().after_check.release();
    }

    /// Releases one chunk or event, now or as soon as one is waiting.
    pub fn release_chunk(&self) {
        self.api.chunks().add_permits(1);
    }
}
