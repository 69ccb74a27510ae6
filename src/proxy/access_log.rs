//! The access log: one line for each request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::token::Generation;

/// The fields of one line. They never contain a query, a field value or a token.
pub(super) struct AccessLogEntry {
    pub(super) request_id: String,
    pub(super) method: Method,
    /// Origin and path. The query is left out because it may contain secrets.
    pub(super) target: String,
    pub(super) status: StatusCode,
    pub(super) credential: Option<Arc<str>>,
    pub(super) generation: Option<Generation>,
    /// What was done with the client's own credential: `kept` or `replaced`.
    pub(super) existing: Option<&'static str>,
    /// How often the request was sent to the origin server.
    pub(super) attempts: u32,
    pub(super) error: Option<&'static str>,
    /// Why the request was refused, if the client caused it, or why the response's content is incomplete.
    pub(super) details: Option<String>,
    /// Bytes of content, or of a tunnel, that were sent to the client.
    pub(super) bytes: usize,
    /// Bytes of a tunnel that came from the client.
    pub(super) received: Option<usize>,
    /// The response or the tunnel was cut off.
    pub(super) broken: bool,
    /// The limit that cut it off.
    pub(super) limit: Option<&'static str>,
}

impl AccessLogEntry {
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

    /// Writes the line. The request took `duration`.
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

impl fmt::Debug for AccessLogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessLogEntry({})", self.request_id)
    }
}
