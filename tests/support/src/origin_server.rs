//! An API that checks access tokens and records what it received.
//!
//! Every request is recorded when its head has arrived and takes its place in the queue
//! of scripted answers at the same moment. Unless its answer says otherwise, the body is
//! then read to its end, the token is judged, and the answer follows from the verdict.
//!
//! Routes of the default answer: `/echo` streams the request's body back, `/bytes/N`
//! sends N pattern bytes, `/sse` and `/sse/N` send events as they are released,
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

/// What an https server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1 alone.
    #[default]
    Http1,
    /// HTTP/2, or HTTP/1.1 with clients that do not know it.
    Both,
    /// HTTP/2 alone: a client that offers nothing else is refused by an alert.
    Http2,
}

impl Protocols {
    /// As TLS names them.
    fn alpn(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Protocols::Http1 => &[b"http/1.1"],
            Protocols::Both => &[b"h2", b"http/1.1"],
            Protocols::Http2 => &[b"h2"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

/// What an [`OriginServer`] is started with.
#[derive(Clone)]
pub struct OriginConfig {
    /// Serves https when given.
    pub tls: Option<Arc<ServerConfig>>,
    /// What is spoken over TLS; plain http is HTTP/1.1.
    pub protocols: Protocols,
    /// The valid tokens; without, every request is accepted.
    pub tokens: Option<Tokens>,
    /// Whether tokens have to be bound to a key and come with a proof (RFC 9449).
    pub dpop: bool,
    /// The address to listen on; a free port of 127.0.0.1 by default.
    pub listen: Option<SocketAddr>,
    /// The directory served below `/files/`.
    pub files: Option<PathBuf>,
    /// Ends a connection after that many answers, without announcing it.
    pub close_after: Option<usize>,
    /// Whether the record keeps bodies; their length and digest are always kept.
    pub keep_bodies: bool,
}

impl Default for OriginConfig {
    /// Plain HTTP that accepts everything and keeps connections open.
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
    /// When the address cannot be listened on.
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

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// The port listened on.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// `http(s)://localhost:PORT` followed by `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.listening.scheme(), self.authority())
    }

    /// `localhost:PORT`.
    pub fn authority(&self) -> String {
        self.listening.authority()
    }

    /// The requests in the order of their arrival, as far as they were received.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.api.requests()
    }

    /// Asserts that so many requests have arrived since `clear`.
    ///
    /// # Panics
    ///
    /// When it were more or fewer, with `meaning` and the requests.
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
        self.api.arrived().reached(n).await;
    }

    /// Waits until `n` requests were read to the end of their body since `clear`.
    pub async fn wait_for_bodies(&self, n: usize) {
        self.api.completed().reached(n).await;
    }

    /// Waits until `n` requests were accepted or rejected since `clear`.
    pub async fn wait_for_verdicts(&self, n: usize) {
        self.api.judged().reached(n).await;
    }

    /// Forgets the requests and sets all counts to zero. Scripted answers stay.
    pub fn clear(&self) {
        self.api.clear();
    }

    /// How many requests had a valid token.
    pub fn accepted(&self) -> usize {
        self.api.accepted().get()
    }

    /// How many requests were refused for their token.
    pub fn rejected(&self) -> usize {
        self.api.rejected().get()
    }

    /// How many TCP connections brought at least one request since the start.
    pub fn connections(&self) -> usize {
        self.api.connections().get()
    }

    /// Gives the next request without a scripted answer this one.
    pub fn enqueue(&self, answer: Answer) {
        self.api.enqueue(answer);
    }

    /// From now on each proof has to carry a new nonce, which is returned.
    pub fn change_nonce(&self) -> String {
        self.api.proofs().change_nonce()
    }

    /// Whether every token is refused from now on.
    pub fn reject_all(&self, reject: bool) {
        self.api.reject_all(reject);
    }

    /// The same as [`hold_before_check`](Self::hold_before_check).
    pub fn hold(&self) {
        self.hold_before_check();
    }

    /// From now on requests are recorded and read, then wait before the token check.
    pub fn hold_before_check(&self) {
        self.api.gates().before_check.hold();
    }

    /// From now on requests wait between the token check and the answer.
    pub fn hold_after_check(&self) {
        self.api.gates().after_check.hold();
    }

    /// Ends both holds and every stall of the requests that arrived so far.
    pub fn release_all(&self) {
        self.api.gates().before_check.release();
        self.api.gates().after_check.release();
    }

    /// Lets one chunk or event be sent, now or as soon as one is waiting.
    pub fn release_chunk(&self) {
        self.api.chunks().add_permits(1);
    }
}
