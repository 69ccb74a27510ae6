//! A loopback endpoint through which scripts in other processes observe the servers.
//!
//! `GET /stats` returns the counts of the authorization server and of each named origin
//! server. `POST /revoke` revokes all live access tokens.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::authorization_server::AuthorizationServer;
use crate::line::Line;
use crate::listening::{Listening, Outcome, Service, Tasks};
use crate::origin_server::OriginServer;
use crate::payload;

/// The observed servers.
struct Watched {
    authorization_server: Arc<AuthorizationServer>,
    origins: Vec<(String, Arc<OriginServer>)>,
}

impl Watched {
    fn stats(&self) -> Value {
        let mut stats = json!({
            "token_requests": self.authorization_server.token_requests(),
            "reuse": self.authorization_server.reuse_count(),
            "issued": self.authorization_server.tokens().issued_access_tokens(),
        });
        for (name, origin) in &self.origins {
            stats[name] = counts(origin);
        }
        stats
    }

    fn revoke(&self) -> Value {
        let tokens = self.authorization_server.tokens();
        let live = tokens.live_access_tokens().len();
        tokens.revoke_all_access_tokens();
        json!({ "revoked": live })
    }
}

fn counts(origin: &OriginServer) -> Value {
    json!({ "accepted": origin.accepted(), "rejected": origin.rejected() })
}

impl Service for Watched {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, _: Arc<Line>) -> Outcome {
        let (status, value) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/stats") => (200, self.stats()),
            (&Method::POST, "/revoke") => (200, self.revoke()),
            _ => (404, json!({ "error": "GET /stats or POST /revoke" })),
        };
        Ok(payload::json(status, &value))
    }
}

/// A running control endpoint; it stops when dropped.
pub struct ControlServer {
    listening: Listening,
}

impl ControlServer {
    /// Starts the endpoint on a free port of 127.0.0.1. The endpoint keeps the servers running.
    ///
    /// # Panics
    ///
    /// Panics if no port can be bound.
    pub async fn start(
        authorization_server: Arc<AuthorizationServer>,
        origins: Vec<(String, Arc<OriginServer>)>,
    ) -> ControlServer {
        let watched = Arc::new(Watched { authorization_server, origins });
        let listening = Listening::start(None, None, Tasks::new(), watched);
        ControlServer { listening: listening.expect("the control endpoint can listen") }
    }

    /// Returns the listening address.
    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// Returns `http://127.0.0.1:PORT`, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }
}
