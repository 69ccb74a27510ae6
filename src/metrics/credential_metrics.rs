//! The metrics of one credential.

use std::fmt;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::{CredentialLabels, Metrics, OutcomeLabels, ReasonLabels, RejectionOutcome};

/// The metrics of one credential.
#[derive(Clone)]
pub struct CredentialMetrics {
    credential: String,
    /// `requests` with status 200, by far the most frequent one.
    ok: Counter,
    duration: Histogram,
    overhead: Histogram,
    origin_duration: Histogram,
    metrics: Metrics,
}

impl CredentialMetrics {
    pub(super) fn new(metrics: &Metrics, credential: &str) -> Self {
        let labels = CredentialLabels { credential: credential.to_owned() };
        let families = &metrics.0;
        Self {
            credential: credential.to_owned(),
            ok: families.requests.get_or_create_owned(&labels.with_code(200)),
            duration: families.durations.get_or_create_owned(&labels),
            overhead: families.overheads.get_or_create_owned(&labels),
            origin_duration: families.origin_durations.get_or_create_owned(&labels),
            metrics: metrics.clone(),
        }
    }

    /// Records the end of a response.
    pub fn record_request(&self, code: u16, duration: Duration) {
        if code == 200 {
            self.ok.inc();
        } else {
            self.metrics.0.requests.get_or_create(&self.labels().with_code(code)).inc();
        }
        self.duration.observe(duration.as_secs_f64());
    }

    /// Records that the head of a response was sent: the time since the request's head, and the part of it that the
    /// origin server took.
    pub fn record_response_head(&self, total: Duration, origin: Duration) {
        self.origin_duration.observe(origin.as_secs_f64());
        self.overhead.observe(total.saturating_sub(origin).as_secs_f64());
    }

    /// Records that a token was rejected.
    pub fn record_rejection(&self, outcome: RejectionOutcome) {
        let outcome = match outcome {
            RejectionOutcome::Absorbed => "absorbed",
            RejectionOutcome::PassedOn => "passed_on",
        };
        self.metrics.0.rejections.get_or_create(&self.outcome_labels(outcome)).inc();
    }

    /// Records that a response was passed on uninspected although its content might reject the token. Returns true if
    /// it is the credential's first one for this reason since the process started.
    pub fn record_unread_response(&self, reason: &'static str) -> bool {
        let labels = ReasonLabels { credential: self.credential.clone(), reason };
        self.metrics.0.unread_answers.get_or_create(&labels).inc() == 0
    }

    /// Records the end of a token refresh.
    pub fn record_refresh(&self, outcome: &'static str, duration: Duration) {
        self.metrics.0.refreshes.get_or_create(&self.outcome_labels(outcome)).inc();
        let durations = &self.metrics.0.refresh_durations;
        durations.get_or_create(&self.labels()).observe(duration.as_secs_f64());
    }

    /// Records that a token request is repeated.
    pub fn record_token_replay(&self) {
        self.metrics.0.replays.get_or_create(&self.labels()).inc();
    }

    /// Records that a refresh token is lost.
    pub fn record_lost_rotation(&self) {
        self.metrics.0.lost_rotations.get_or_create(&self.labels()).inc();
    }

    /// Records an attempt to start a new grant.
    pub fn record_bootstrap(&self, outcome: &'static str) {
        self.metrics.0.bootstraps.get_or_create(&self.outcome_labels(outcome)).inc();
    }

    /// Records that a token of another process was adopted.
    pub fn record_adoption(&self) {
        self.metrics.0.adoptions.get_or_create(&self.labels()).inc();
    }

    /// Records that failures have lasted for 15 minutes.
    pub fn record_outage(&self) {
        self.metrics.0.outages.get_or_create(&self.labels()).inc();
    }

    /// Records a failure of the token store.
    pub fn record_store_error(&self, kind: &'static str) {
        self.metrics.0.store_errors.get_or_create(&self.outcome_labels(kind)).inc();
    }

    fn labels(&self) -> CredentialLabels {
        CredentialLabels { credential: self.credential.clone() }
    }

    fn outcome_labels(&self, outcome: &'static str) -> OutcomeLabels {
        OutcomeLabels { credential: self.credential.clone(), outcome }
    }
}

impl fmt::Debug for CredentialMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialMetrics({})", self.credential)
    }
}
