//! Every metric: its name, and how to read it.
//!
//! Label values are names of credentials, statuses and constants of this program. They are never hosts, paths or
//! anything else that a client chooses, so the configuration bounds the number of series. Requests without a credential
//! are counted under the credential `none`.

mod credential_metrics;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use credential_metrics::CredentialMetrics;

/// The credential label of requests that have none.
pub const NO_CREDENTIAL: &str = "none";

/// Buckets in seconds, as OpenTelemetry recommends for HTTP durations.
const DURATIONS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Buckets in seconds. The proxy's own overhead is a hundred times shorter, unless a request waits for a token.
const OVERHEADS: [f64; 12] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0, 5.0, 15.0];

/// All metrics of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<CredentialLabels, Histogram>,
    overheads: Family<CredentialLabels, Histogram>,
    origin_durations: Family<CredentialLabels, Histogram>,
    rejections: Family<OutcomeLabels, Counter>,
    unread_answers: Family<ReasonLabels, Counter>,
    refreshes: Family<OutcomeLabels, Counter>,
    refresh_durations: Family<CredentialLabels, Histogram>,
    replays: Family<CredentialLabels, Counter>,
    lost_rotations: Family<CredentialLabels, Counter>,
    bootstraps: Family<OutcomeLabels, Counter>,
    adoptions: Family<CredentialLabels, Counter>,
    outages: Family<CredentialLabels, Counter>,
    store_errors: Family<OutcomeLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    limits_reached: Family<LimitLabels, Counter>,
    dropped_log_lines: Counter,
    failed_handshakes: Family<HandshakeLabels, Counter>,
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

/// What happened to a response that rejected a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionOutcome {
    /// The request was sent again, so the client did not see the rejection.
    Absorbed,
    /// The client got the rejection.
    PassedOn,
}

impl Metrics {
    /// Registers every metric under its name.
    pub fn new() -> Self {
        let mut families = Families {
            registry: Registry::with_prefix("bearerd"),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            overheads: Family::new_with_constructor(|| Histogram::new(OVERHEADS)),
            origin_durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            rejections: Family::default(),
            unread_answers: Family::default(),
            refreshes: Family::default(),
            refresh_durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            replays: Family::default(),
            lost_rotations: Family::default(),
            bootstraps: Family::default(),
            adoptions: Family::default(),
            outages: Family::default(),
            store_errors: Family::default(),
            reloads: Family::default(),
            limits_reached: Family::default(),
            dropped_log_lines: Counter::default(),
            failed_handshakes: Family::default(),
            ca_expires_in: Gauge::default(),
            expires_in: Family::default(),
            states: Family::default(),
            unsaved: Family::default(),
        };
        families.register_requests();
        families.register_tokens();
        Self(Arc::new(families))
    }

    /// Returns the metrics of one credential. The frequent ones are looked up here, once.
    pub fn of_credential(&self, credential: &str) -> CredentialMetrics {
        CredentialMetrics::new(self, credential)
    }

    /// Records that something was refused or cut off because of `limit`.
    pub fn record_limit(&self, limit: &'static str) {
        self.0.limits_reached.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Records that log lines were dropped.
    pub fn record_dropped_log_lines(&self, lines: u64) {
        self.0.dropped_log_lines.inc_by(lines);
    }

    /// Records that a client's TLS handshake failed.
    pub fn record_failed_handshake(&self, reason: &'static str) {
        self.0.failed_handshakes.get_or_create(&HandshakeLabels { reason }).inc();
    }

    /// Sets the seconds until the local CA expires; negative if it has expired.
    pub fn set_ca_expires_in(&self, seconds: i64) {
        self.0.ca_expires_in.set(seconds);
    }

    /// Records a reload of the configuration.
    pub fn record_reload(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.0.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// Sets the values that are computed for each scrape: the state of each of a credential's tokens, the seconds until
    /// the first of them expires, and how many are not saved.
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
            let count = states.iter().filter(|other| **other == state).count();
            self.0.states.get_or_create(&labels).set(gauge_value(count));
        }
        match expires_in {
            Some(seconds) => {
                self.0.expires_in.get_or_create(&labels).set(seconds);
            }
            None => {
                self.0.expires_in.remove(&labels);
            }
        }
        self.0.unsaved.get_or_create(&labels).set(gauge_value(unsaved));
    }

    /// Removes everything set by [`Metrics::set_states`], because some credentials may be gone.
    pub fn clear_states(&self) {
        self.0.states.clear();
        self.0.expires_in.clear();
        self.0.unsaved.clear();
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _infallible = prometheus_client::encoding::text::encode(&mut text, &self.0.registry);
        text
    }
}

/// The values of the label `state`.
pub const STATES: [&str; 6] =
    ["absent", "fresh", "near_expiry", "refreshing", "failing", "needs_login"];

fn gauge_value(count: usize) -> i64 {
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

impl Families {
    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests by status of the response. 499: the client closed the connection before the response. A 503 \
             without an origin_duration comes from bearerd: there was no token",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to the end of its response",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register_with_unit(
            "overhead",
            "Time from a request's head to its response's head, without the origin server's time: what bearerd adds, \
             including the wait for a token",
            Unit::Seconds,
            self.overheads.clone(),
        );
        registry.register_with_unit(
            "origin_duration",
            "Time from sending a request to the head of the origin server's response, including connecting, all \
             attempts together",
            Unit::Seconds,
            self.origin_durations.clone(),
        );
        registry.register(
            "rejections",
            "Responses that rejected a token: absorbed (the request was sent again, the client did not see it) or \
             passed_on",
            self.rejections.clone(),
        );
        registry.register(
            "unread_answers",
            "Responses to which a content rule of `refresh_on` applies, passed on uninspected because their content \
             is long (more than 64 KiB), slow, broken, coded (an unknown content coding) or a stream (of events)",
            self.unread_answers.clone(),
        );
        registry.register("reloads", "Attempts to reload the configuration", self.reloads.clone());
        registry.register(
            "client_handshakes_failed",
            "Failed TLS handshakes of clients: untrusted (the client does not trust the local CA), other_host, version, \
             cipher_suite, protocol, not_tls, went_away, other",
            self.failed_handshakes.clone(),
        );
        registry.register_with_unit(
            "ca_expires_in",
            "Time until the local CA expires; `bearerd ca renew` creates its successor",
            Unit::Seconds,
            self.ca_expires_in.clone(),
        );
        registry.register(
            "limits_reached",
            "Requests and connections that were refused or cut off by a limit; the label is its key in [limits], or \
             descriptors",
            self.limits_reached.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Log lines that were dropped because nobody read them in time",
            self.dropped_log_lines.clone(),
        );
    }

    fn register_tokens(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "token_refreshes",
            "Token refreshes by outcome: success, adopted (another process had refreshed), unchanged, or the kind of \
             failure",
            self.refreshes.clone(),
        );
        registry.register_with_unit(
            "token_refresh_duration",
            "Duration of a whole token refresh: lock, token request with its repetitions, and storing",
            Unit::Seconds,
            self.refresh_durations.clone(),
        );
        registry.register(
            "token_replays",
            "Token requests repeated because the response to an earlier one was lost",
            self.replays.clone(),
        );
        registry.register(
            "lost_rotations",
            "Refresh tokens that a server replaced and whose successor was lost: alert on any",
            self.lost_rotations.clone(),
        );
        registry.register(
            "token_bootstraps",
            "New grants started without a user: success, refused (check the bootstrap's user name and password; the \
             next attempt is five minutes later) or failed (a temporary problem)",
            self.bootstraps.clone(),
        );
        registry.register(
            "token_adoptions",
            "Tokens adopted from the store, where another process had saved them",
            self.adoptions.clone(),
        );
        registry.register(
            "token_outages",
            "Times that a credential failed for 15 minutes without a success: alert on any",
            self.outages.clone(),
        );
        registry.register(
            "store_errors",
            "Failures of the token store, by kind",
            self.store_errors.clone(),
        );
        registry.register_with_unit(
            "token_expires_in",
            "Time until the current access token expires, or the first one of a credential with several; negative: \
             it has expired. Missing: there is no token, or it is used until it is rejected",
            Unit::Seconds,
            self.expires_in.clone(),
        );
        registry.register(
            "credential_state",
            "Number of a credential's tokens in each state; a credential without variables has one token. Alert on \
             needs_login, and on failing for long",
            self.states.clone(),
        );
        registry.register(
            "credential_unsaved",
            "Number of a credential's newest refresh tokens that are only in memory: alert on any, the disk is full or \
             unavailable",
            self.unsaved.clone(),
        );
    }
}
