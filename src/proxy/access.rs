//! One log line for each request, written when its response is over, however it ended.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};

use crate::token::Generation;

/// What is known about one request by the time it is over. Never a query, a field value or a token.
pub(super) struct AccessRecord {
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
    began: Instant,
    bytes: usize,
    broken: bool,
}

impl AccessRecord {
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
            began: Instant::now(),
            bytes: 0,
            broken: false,
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub(super) fn broke_off(&mut self) {
        self.broken = true;
    }
}

impl fmt::Debug for AccessRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessRecord({})", self.request_id)
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
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
            bytes = self.bytes,
            broken = self.broken.then_some(true),
            ms = self.began.elapsed().as_millis(),
            "request"
        );
    }
}
