//! What is counted and logged of one request: begun with its head, finished when its response is
//! over, however it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::request::Parts;

use super::access_log::AccessLine;
use super::error::ProxyError;
use super::incoming_body::PeerError;
use super::request_id::RequestId;
use super::request_target::RequestTarget;
use crate::credential::Credential;
use crate::metrics::CredentialMetrics;

/// One request's times and counts.
#[derive(Debug)]
pub(super) struct Record {
    began: Instant,
    /// What the origin server took, all attempts together.
    origin: Duration,
    status: StatusCode,
    metrics: Arc<CredentialMetrics>,
    /// What will be logged, if requests are.
    pub(super) line: Option<Box<AccessLine>>,
}

impl Record {
    /// Begins with the measures of requests that have no credential.
    pub(super) fn new(
        unmatched: Arc<CredentialMetrics>,
        mut line: Option<Box<AccessLine>>,
    ) -> Self {
        if let Some(line) = &mut line {
            line.status = given_up();
        }
        Self {
            began: Instant::now(),
            origin: Duration::ZERO,
            status: given_up(),
            metrics: unmatched,
            line,
        }
    }

    /// The request belongs to a credential.
    pub(super) fn belongs_to(&mut self, credential: &Credential) {
        self.metrics = Arc::clone(&credential.metrics);
        if let Some(line) = &mut self.line {
            line.credential = Some(Arc::clone(&credential.name));
        }
    }

    /// The line in the log says which of the credential's tokens it was.
    pub(super) fn names(&mut self, title: &Arc<str>) {
        if let Some(line) = &mut self.line {
            line.credential = Some(Arc::clone(title));
        }
    }

    /// What the request is for.
    pub(super) fn is_for(&mut self, target: &RequestTarget, parts: &Parts) {
        let Some(line) = &mut self.line else { return };
        line.target = match target {
            RequestTarget::Connect(authority) => authority.to_string(),
            RequestTarget::Proxy => "*".to_owned(),
            RequestTarget::Origin(origin) => format!("{origin}{}", parts.uri.path()),
        };
    }

    /// The proxy answers the request itself. What is not the client's doing is told at `info`, also where requests
    /// are not logged.
    pub(super) fn failed(&mut self, error: &ProxyError, request_id: RequestId) {
        let kind = error.kind();
        if let Some(line) = &mut self.line {
            line.error = Some(kind);
            line.details = error.is_of_client().then(|| error.to_string());
        }
        match error.is_of_client() {
            true => tracing::debug!(%request_id, error = kind, "a request was refused: {error}"),
            false => {
                let advice = error.advice();
                tracing::info!(%request_id, error = kind, "a request failed: {error}; {advice}");
            }
        }
    }

    /// The request becomes a tunnel, whose line is written at its end.
    pub(super) fn becomes_tunnel(&mut self) -> TunnelRecord {
        let mut line = self.line.take();
        if let Some(line) = &mut line {
            line.status = StatusCode::OK;
        }
        TunnelRecord { began: self.began, line }
    }

    /// The request is sent to an origin server; [`Record::came_back`] when its answer is there.
    pub(super) fn went_out(&mut self) -> Instant {
        if let Some(line) = &mut self.line {
            line.attempts += 1;
        }
        Instant::now()
    }

    /// The origin server has answered, or will not.
    pub(super) fn came_back(&mut self, went_out: Instant) {
        self.origin += went_out.elapsed();
    }

    /// The response's head goes to the client.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = status;
        if !self.origin.is_zero() {
            self.metrics.answered(self.began.elapsed(), self.origin);
        }
        if let Some(line) = &mut self.line {
            line.status = status;
        }
    }

    /// Bytes of the response's content went to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(line) = &mut self.line {
            line.bytes += bytes;
        }
    }

    /// The origin server's content broke off.
    pub(super) fn content_is_faulty(&mut self, fault: &PeerError) {
        if let Some(line) = &mut self.line {
            line.details = Some(format!("the origin server's content broke off: {fault}"));
        }
    }

    /// The response broke off, because of a limit if one is named.
    pub(super) fn broke_off(&mut self, limit: Option<&'static str>) {
        if let Some(line) = &mut self.line {
            line.broken = true;
            line.limit = limit;
        }
    }
}

/// What is told of a tunnel, at its end.
#[derive(Debug)]
pub(super) struct TunnelRecord {
    began: Instant,
    line: Option<Box<AccessLine>>,
}

impl TunnelRecord {
    /// So many bytes came from the client and went to it; `broken` if the tunnel did not end by the wish of
    /// both sides, and the limit that ended it.
    pub(super) fn passed(&mut self, bytes: (u64, u64), broken: bool, limit: Option<&'static str>) {
        if let Some(line) = &mut self.line {
            let count = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
            (line.received, line.bytes) = (Some(count(bytes.0)), count(bytes.1));
            (line.broken, line.limit) = (broken, limit);
        }
    }
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.write(self.began.elapsed());
        }
    }
}

/// What stands for a request that its client gave up before there was an answer, as nginx has it.
fn given_up() -> StatusCode {
    StatusCode::from_u16(499).expect("499 lies within 100 and 999")
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        self.metrics.responded(self.status.as_u16(), duration);
        if let Some(line) = &self.line {
            line.write(duration);
        }
    }
}
