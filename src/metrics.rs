//! Every metric, its name, and how to read it.
//!
//! Labels are credentials' names, statuses and words of this program: never a host, a path or
//! anything else that a client chooses, so the number of series is bounded by the configuration.
//! Requests without a credential count under the credential `none`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The credential label of requests that have none.
pub const NO_CREDENTIAL: &str = "none";

/// Seconds, as OpenTelemetry advises them for HTTP durations.
const DURATIONS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// What the proxy itself adds is a hundred times shorter, unless a request waits for a token.
const OVERHEADS: [f64; 12] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0, 5.0, 15.0];

/// All metrics of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<CredentialLabels, Histogram>,
    overheads: Family<CredentialLabels, Histogram>,
    origin_durations: Family<CredentialLabels, Histogram>,
    rejections: Family<OutcomeLabels, Counter>,
    unread: Family<ReasonLabels, Counter>,
    refreshes: Family<OutcomeLabels, Counter>,
    refresh_durations: Family<CredentialLabels, Histogram>,
    replays: Family<CredentialLabels, Counter>,
    lost_rotations: Family<CredentialLabels, Counter>,
    bootstraps: Family<OutcomeLabels, Counter>,
    adoptions: Family<CredentialLabels, Counter>,
    overdue: Family<CredentialLabels, Counter>,
    store_errors: Family<OutcomeLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
    log_drops: Counter,
    handshakes: Family<HandshakeLabels, Counter>,
    ca_expires_in: Gauge,
    expires_in: Family<CredentialLabels, Gauge>,
    states: Family<StateLabels, Gauge>,
    unsaved: Family<CredentialLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    credential: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    credential: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    credential: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    credential: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    credential: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

/// What became of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionOutcome {
    /// The request was sent again and the client never saw it.
    Absorbed,
    /// The client got it.
    PassedOn,
}

impl Metrics {
    /// Registers every metric under its name.
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("bearerd"),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            overheads: Family::new_with_constructor(|| Histogram::new(OVERHEADS)),
            origin_durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            rejections: Family::default(),
            unread: Family::default(),
            refreshes: Family::default(),
            refresh_durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            replays: Family::default(),
            lost_rotations: Family::default(),
            bootstraps: Family::default(),
            adoptions: Family::default(),
            overdue: Family::default(),
            store_errors: Family::default(),
            reloads: Family::default(),
            limits: Family::default(),
            log_drops: Counter::default(),
            handshakes: Family::default(),
            ca_expires_in: Gauge::default(),
            expires_in: Family::default(),
            states: Family::default(),
            unsaved: Family::default(),
        };
        inner.register_requests();
        inner.register_tokens();
        Self(Arc::new(inner))
    }

    /// The measures of one credential, looked up once and then free of look-ups.
    pub fn of_credential(&self, credential: &str) -> CredentialMetrics {
        let labels = CredentialLabels { credential: credential.to_owned() };
        let inner = &self.0;
        CredentialMetrics {
            credential: credential.to_owned(),
            ok: inner.requests.get_or_create_owned(&labels.with_code(200)),
            duration: inner.durations.get_or_create_owned(&labels),
            overhead: inner.overheads.get_or_create_owned(&labels),
            origin_duration: inner.origin_durations.get_or_create_owned(&labels),
            metrics: self.clone(),
        }
    }

    /// Something was refused or cut off because of a limit.
    pub fn record_limit(&self, limit: &'static str) {
        self.0.limits.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Lines of the log were dropped.
    pub fn record_dropped_log_lines(&self, lines: u64) {
        self.0.log_drops.inc_by(lines);
    }

    /// A client's TLS handshake came to nothing.
    pub fn record_failed_handshake(&self, reason: &'static str) {
        self.0.handshakes.get_or_create(&HandshakeLabels { reason }).inc();
    }

    /// Sets the seconds until the local CA ends; negative once it has.
    pub fn set_ca_expires_in(&self, seconds: i64) {
        self.0.ca_expires_in.set(seconds);
    }

    /// A reload of the configuration.
    pub fn record_reload(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.0.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// Sets what is known only at the moment of a scrape: the state of each of a credential's tokens,
    /// the seconds until the first of them expires, and how many are not saved.
    pub fn set_states(
        &self,
        credential: &str,
        states: &[&str],
        expires_in: Option<i64>,
        unsaved: usize,
    ) {
        let labels = CredentialLabels { credential: credential.to_owned() };
        for state in STATES {
            let labels = StateLabels { credential: credential.to_owned(), state };
            let count = states.iter().filter(|it| **it == state).count();
            self.0.states.get_or_create(&labels).set(gauge(count));
        }
        match expires_in {
            Some(seconds) => {
                self.0.expires_in.get_or_create(&labels).set(seconds);
            }
            None => {
                self.0.expires_in.remove(&labels);
            }
        }
        self.0.unsaved.get_or_create(&labels).set(gauge(unsaved));
    }

    /// Forgets what [`Metrics::set_states`] said of credentials that are gone.
    pub fn clear_states(&self) {
        self.0.states.clear();
        self.0.expires_in.clear();
        self.0.unsaved.clear();
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _infallible = prometheus_client::encoding::text::encode(&mut text, &self.0.registry);
        text
    }
}

/// The values of the label `state`.
pub const STATES: [&str; 6] =
    ["absent", "fresh", "near_expiry", "refreshing", "failing", "needs_login"];

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl CredentialLabels {
    fn with_code(&self, code: u16) -> RequestLabels {
        RequestLabels { credential: self.credential.clone(), code }
    }
}

impl Inner {
    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests by the status of the response; 499: the client gave up before there was one. A 503 \
             without an origin's time is bearerd's own: no token",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From a request's head to the end of its response",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register_with_unit(
            "overhead",
            "From a request's head to its response's head, less the origin server's time: what \
             bearerd adds, waiting for a token included",
            Unit::Seconds,
            self.overheads.clone(),
        );
        registry.register_with_unit(
            "origin_duration",
            "From sending a request to the origin server's response head, all attempts together, \
             connecting included",
            Unit::Seconds,
            self.origin_durations.clone(),
        );
        registry.register(
            "rejections",
            "Answers that rejected a token: absorbed (sent again, the client saw nothing) or \
             passed_on",
            self.rejections.clone(),
        );
        registry.register(
            "unread_answers",
            "Answers with a status that a content rule of `refresh_on` names, passed on without a look at \
             their content: long (more than 64 KiB), slow, broken, coded (an unknown content coding) or \
             stream (of events)",
            self.unread.clone(),
        );
        registry.register("reloads", "Attempts to reload the configuration", self.reloads.clone());
        registry.register(
            "client_handshakes_failed",
            "TLS handshakes of clients that came to nothing: untrusted (the client does not trust the local CA), \
             other_host, version, cipher_suite, protocol, not_tls, went_away, other",
            self.handshakes.clone(),
        );
        registry.register_with_unit(
            "ca_expires_in",
            "Until the local CA ends; `bearerd ca renew` makes the next",
            Unit::Seconds,
            self.ca_expires_in.clone(),
        );
        registry.register(
            "limits_reached",
            "What was refused or cut off because of a limit; the label is its key in [limits], or descriptors",
            self.limits.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Lines of the log that nobody read in time",
            self.log_drops.clone(),
        );
    }

    fn register_tokens(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "token_refreshes",
            "Flights by outcome: success, adopted (another process had refreshed), unchanged, or the \
             kind of failure",
            self.refreshes.clone(),
        );
        registry.register_with_unit(
            "token_refresh_duration",
            "A whole flight: lock, token request with its repetitions, and storing",
            Unit::Seconds,
            self.refresh_durations.clone(),
        );
        registry.register(
            "token_replays",
            "Token requests made again because the answer to one before was lost",
            self.replays.clone(),
        );
        registry.register(
            "lost_rotations",
            "Refresh tokens that a server replaced and whose successor was lost: alert on any",
            self.lost_rotations.clone(),
        );
        registry.register(
            "token_bootstraps",
            "Grants begun anew without a person: success, refused (the next attempt is five minutes \
             later: look at the bootstrap's user name and password) or failed (trouble that passes)",
            self.bootstraps.clone(),
        );
        registry.register(
            "token_adoptions",
            "Tokens taken over from the store, which another process had put there",
            self.adoptions.clone(),
        );
        registry.register(
            "token_outages",
            "Times that a credential failed for 15 min without a success: alert on any",
            self.overdue.clone(),
        );
        registry.register(
            "store_errors",
            "Failures of the token store, by kind",
            self.store_errors.clone(),
        );
        registry.register_with_unit(
            "token_expires_in",
            "Until the current access token expires, the first of a credential that has several; \
             negative: it has. Missing: no token, or it lasts until it is rejected",
            Unit::Seconds,
            self.expires_in.clone(),
        );
        registry.register(
            "credential_state",
            "How many of a credential's tokens are in a state, 1 for one that has no variables: alert on \
             needs_login, and on failing for long",
            self.states.clone(),
        );
        registry.register(
            "credential_unsaved",
            "How many of a credential's newest refresh tokens are only in memory: alert on any, the disk \
             is full or gone",
            self.unsaved.clone(),
        );
    }
}

/// The measures of one credential.
#[derive(Clone)]
pub struct CredentialMetrics {
    credential: String,
    ok: Counter,
    duration: Histogram,
    overhead: Histogram,
    origin_duration: Histogram,
    metrics: Metrics,
}

impl CredentialMetrics {
    /// A response is over.
    pub fn record_request(&self, code: u16, duration: Duration) {
        if code == 200 {
            self.ok.inc();
        } else {
            let labels = RequestLabels { credential: self.credential.clone(), code };
            self.metrics.0.requests.get_or_create(&labels).inc();
        }
        self.duration.observe(duration.as_secs_f64());
    }

    /// A response's head is on its way: the whole time until then, and the origin server's part.
    pub fn record_response_head(&self, total: Duration, origin: Duration) {
        self.origin_duration.observe(origin.as_secs_f64());
        self.overhead.observe(total.saturating_sub(origin).as_secs_f64());
    }

    /// A token was rejected.
    pub fn record_rejection(&self, outcome: RejectionOutcome) {
        let outcome = match outcome {
            RejectionOutcome::Absorbed => "absorbed",
            RejectionOutcome::PassedOn => "passed_on",
        };
        self.metrics.0.rejections.get_or_create(&self.outcome(outcome)).inc();
    }

    /// An answer was passed on unread although its content might reject the token. Returns whether it is
    /// the first of the credential in this process for this reason.
    pub fn record_unread_response(&self, reason: &'static str) -> bool {
        let labels = ReasonLabels { credential: self.credential.clone(), reason };
        self.metrics.0.unread.get_or_create(&labels).inc() == 0
    }

    /// A flight is over.
    pub fn record_refresh(&self, outcome: &'static str, duration: Duration) {
        self.metrics.0.refreshes.get_or_create(&self.outcome(outcome)).inc();
        let durations = &self.metrics.0.refresh_durations;
        durations.get_or_create(&self.labels()).observe(duration.as_secs_f64());
    }

    /// A token request is made again.
    pub fn record_token_replay(&self) {
        self.metrics.0.replays.get_or_create(&self.labels()).inc();
    }

    /// A refresh token is lost.
    pub fn record_lost_rotation(&self) {
        self.metrics.0.lost_rotations.get_or_create(&self.labels()).inc();
    }

    /// A grant was begun anew, or not.
    pub fn record_bootstrap(&self, outcome: &'static str) {
        self.metrics.0.bootstraps.get_or_create(&self.outcome(outcome)).inc();
    }

    /// Another process's token was taken over.
    pub fn record_adoption(&self) {
        self.metrics.0.adoptions.get_or_create(&self.labels()).inc();
    }

    /// Failures have lasted for a quarter of an hour.
    pub fn record_outage(&self) {
        self.metrics.0.overdue.get_or_create(&self.labels()).inc();
    }

    /// The store failed.
    pub fn record_store_error(&self, kind: &'static str) {
        self.metrics.0.store_errors.get_or_create(&self.outcome(kind)).inc();
    }

    fn labels(&self) -> CredentialLabels {
        CredentialLabels { credential: self.credential.clone() }
    }

    fn outcome(&self, outcome: &'static str) -> OutcomeLabels {
        OutcomeLabels { credential: self.credential.clone(), outcome }
    }
}

impl fmt::Debug for CredentialMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialMetrics({})", self.credential)
    }
}
