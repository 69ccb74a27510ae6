//! The metrics and the log entry of one request: started with its head, finished when its response ends, however it
//! ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::request::Parts;

use super::access_log::AccessLogEntry;
use super::error::ProxyError;
use super::incoming_body::PeerError;
use super::request_id::RequestId;
use super::request_target::RequestTarget;
use crate::credential::Credential;
use crate::metrics::CredentialMetrics;

/// The metrics and the log entry of one request. Dropping it records the end of the request.
#[derive(Debug)]
pub(super) struct RequestRecord {
    started: Instant,
    /// The time that the origin server took, all attempts together.
    origin_time: Duration,
    status: StatusCode,
    metrics: Arc<CredentialMetrics>,
    /// `None` if requests are not logged.
    pub(super) log_entry: Option<Box<AccessLogEntry>>,
}

impl RequestRecord {
    /// Starts a record. `metrics` are those of requests without a credential.
    pub(super) fn new(
        metrics: Arc<CredentialMetrics>,
        mut log_entry: Option<Box<AccessLogEntry>>,
    ) -> Self {
        let status = client_closed_request();
        if let Some(entry) = &mut log_entry {
            entry.status = status;
        }
        let (started, origin_time) = (Instant::now(), Duration::ZERO);
        Self { started, origin_time, status, metrics, log_entry }
    }

    /// Counts and logs the request under `credential`.
    pub(super) fn set_credential(&mut self, credential: &Credential) {
        self.metrics = Arc::clone(&credential.metrics);
        self.set_credential_title(&credential.name);
    }

    /// Sets the credential in the log entry: its name, and the variables that select one of its tokens.
    pub(super) fn set_credential_title(&mut self, title: &Arc<str>) {
        if let Some(entry) = &mut self.log_entry {
            entry.credential = Some(Arc::clone(title));
        }
    }

    /// Sets the request target in the log entry, without its query.
    pub(super) fn set_target(&mut self, target: &RequestTarget, parts: &Parts) {
        let Some(entry) = &mut self.log_entry else { return };
        entry.target = match target {
            RequestTarget::Connect(authority) => authority.to_string(),
            RequestTarget::Proxy => "*".to_owned(),
            RequestTarget::Origin(origin) => format!("{origin}{}", parts.uri.path()),
        };
    }

    /// Records that the proxy responds with an error of its own. An error that the client did not cause is logged at
    /// `info`, even if requests are not logged.
    pub(super) fn record_error(&mut self, error: &ProxyError, request_id: RequestId) {
        let kind = error.error_type();
        if let Some(entry) = &mut self.log_entry {
            entry.error = Some(kind);
            entry.details = error.is_client_error().then(|| error.to_string());
        }
        match error.is_client_error() {
            true => tracing::debug!(%request_id, error = kind, "a request was refused: {error}"),
            false => {
                let advice = error.advice();
                tracing::info!(%request_id, error = kind, "a request failed: {error}; {advice}");
            }
        }
    }

    /// Turns the request into a tunnel. The log entry is written when the tunnel ends.
    pub(super) fn start_tunnel(&mut self) -> TunnelRecord {
        let mut log_entry = self.log_entry.take();
        if let Some(entry) = &mut log_entry {
            entry.status = StatusCode::OK;
        }
        TunnelRecord { started: self.started, log_entry }
    }

    /// Records that the request is sent to an origin server. [`RequestRecord::finish_attempt`] takes the result.
    pub(super) fn start_attempt(&mut self) -> Instant {
        if let Some(entry) = &mut self.log_entry {
            entry.attempts += 1;
        }
        Instant::now()
    }

    /// Records that the attempt that began at `started` got a response or failed.
    pub(super) fn finish_attempt(&mut self, started: Instant) {
        self.origin_time += started.elapsed();
    }

    /// Records that the head of the response goes to the client.
    pub(super) fn record_response(&mut self, status: StatusCode) {
        self.status = status;
        if !self.origin_time.is_zero() {
            self.metrics.record_response_head(self.started.elapsed(), self.origin_time);
        }
        if let Some(entry) = &mut self.log_entry {
            entry.status = status;
        }
    }

    /// Adds `bytes` to the content that was sent to the client.
    pub(super) fn add_sent_bytes(&mut self, bytes: usize) {
        if let Some(entry) = &mut self.log_entry {
            entry.bytes += bytes;
        }
    }

    /// Records that the origin server's content ended with an error.
    pub(super) fn record_content_error(&mut self, error: &PeerError) {
        if let Some(entry) = &mut self.log_entry {
            entry.details = Some(format!("the origin server's content broke off: {error}"));
        }
    }

    /// Records that the response is incomplete, and which limit cut it off, if any.
    pub(super) fn mark_broken(&mut self, limit: Option<&'static str>) {
        if let Some(entry) = &mut self.log_entry {
            entry.broken = true;
            entry.limit = limit;
        }
    }
}

/// The log entry of a tunnel, written when it is dropped.
#[derive(Debug)]
pub(super) struct TunnelRecord {
    started: Instant,
    log_entry: Option<Box<AccessLogEntry>>,
}

impl TunnelRecord {
    /// Records the end of the tunnel: the bytes received from and sent to the client, whether it was cut off
    /// (`broken`), and the limit that cut it off, if any.
    pub(super) fn record_end(
        &mut self,
        (received, sent): (u64, u64),
        broken: bool,
        limit: Option<&'static str>,
    ) {
        if let Some(entry) = &mut self.log_entry {
            let count = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
            (entry.received, entry.bytes) = (Some(count(received)), count(sent));
            (entry.broken, entry.limit) = (broken, limit);
        }
    }
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        if let Some(entry) = &self.log_entry {
            entry.write(self.started.elapsed());
        }
    }
}

/// The status of a request whose client closed the connection before the response: 499, as in nginx.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).expect("499 is within 100 and 999")
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        self.metrics.record_request(self.status.as_u16(), duration);
        if let Some(entry) = &self.log_entry {
            entry.write(duration);
        }
    }
}
