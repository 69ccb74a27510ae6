//! One log line for each request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::token::Generation;

/// What is known about one request by the time it is over. Never a query, a field value or a token.
pub(super) struct AccessLine {
    pub(super) request_id: String,
    pub(super) method: Method,
    /// Origin and path; the query may hold secrets.
    pub(super) target: String,
    pub(super) status: StatusCode,
    pub(super) credential: Option<Arc<str>>,
    pub(super) generation: Option<Generation>,
    /// What became of a field or parameter that the client sent and the credential would add.
    pub(super) existing: Option<&'static str>,
    /// How often the request went to the origin server.
    pub(super) attempts: u32,
    pub(super) error: Option<&'static str>,
    /// Why the request was refused, where that is its client's doing, or what was wrong with the response's content.
    pub(super) details: Option<String>,
    /// Of the response's content, or of what went to the client through a tunnel.
    pub(super) bytes: usize,
    /// What came from the client through a tunnel.
    pub(super) received: Option<usize>,
    pub(super) broken: bool,
    /// The limit that broke the response off.
    pub(super) limit: Option<&'static str>,
}

impl AccessLine {
    pub(super) fn new(request_id: &str, method: &Method) -> Self {
        Self {
            request_id: request_id.to_owned(),
            method: method.clone(),
            target: String::new(),
            status: StatusCode::OK,
            credential: None,
            generation: None,
            existing: None,
            attempts: 0,
            error: None,
            details: None,
            bytes: 0,
            received: None,
            broken: false,
            limit: None,
        }
    }

    /// Writes the line; the request took `duration`.
    pub(super) fn write(&self, duration: Duration) {
        tracing::info!(
            target: "bearerd::access",
            request_id = self.request_id,
            method = %self.method,
            target = self.target,
            status = self.status.as_u16(),
            credential = self.credential.as_deref(),
            generation = self.generation.map(|generation| generation.0),
            existing = self.existing,
            attempts = self.attempts,
            error = self.error,
            details = self.details,
            bytes = self.bytes,
            received = self.received,
            broken = self.broken.then_some(true),
            limit = self.limit,
            ms = duration.as_millis(),
            "request"
        );
    }
}

impl fmt::Debug for AccessLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessLine({})", self.request_id)
    }
}
