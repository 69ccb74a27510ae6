//! What a reload replaces: the configuration of the request path and what is built from it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap};
use http::request::Parts;
use rustls::ClientConfig;

use super::connection::{Activity, Timeouts};
use super::connector::{self, Connector};
use super::content::ClientContent;
use super::dial::{Dialer, Network, Policy};
use super::error::ProxyError;
use super::incoming::Incoming;
use super::message::{self, MessageError};
use super::replay::Budget;
use crate::ca::CertificateAuthority;
use crate::credential::Credentials;
use crate::metrics::{CredentialMetrics, Metrics, NO_CREDENTIAL};
use crate::origin::{AuthorityError, Origin};

/// What happens to requests that no credential is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unmatched {
    /// They are forwarded untouched.
    #[default]
    Forward,
    /// They are answered 403.
    Deny,
}

/// How requests are served.
#[derive(Clone, Debug)]
pub struct Config {
    /// What happens to hosts that no credential names.
    pub unmatched: Unmatched,
    /// Ports that may be tunnelled to; empty: any. Default 80, 443 and 8443.
    pub connect_ports: Vec<u16>,
    /// Whether each request is logged.
    pub access_log: bool,
    /// What a client may take of this proxy.
    pub limits: Limits,
    /// How origin servers are reached.
    pub origins: connector::Config,
}

/// What clients may take of this proxy. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients' connections at a time.
    pub connections: usize,
    /// The same for one address; 0: no limit of its own.
    pub connections_per_peer: usize,
    /// The request target. Default 8 KiB.
    pub request_line: usize,
    /// A request's whole head. Default 32 KiB.
    pub header_bytes: usize,
    /// Fields in a head. Default 100.
    pub header_count: usize,
    /// From the first byte of a head to its last. Default 15 s.
    pub header_read_timeout: Duration,
    /// From CONNECT to the end of the TLS handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// Between two requests of a connection. Default 60 s.
    pub idle_timeout: Duration,
    /// Silence in a tunnel. Default 10 min.
    pub tunnel_idle_timeout: Duration,
    /// A peer takes nothing of what is there for it. Default 60 s.
    pub send_timeout: Duration,
    /// A message's content brings nothing. Default 15 min; 0: for ever.
    pub stall_timeout: Duration,
    /// All kept bodies together. Default 64 MiB.
    pub replay_bytes: u64,
    /// A request's content; 0: no limit.
    pub body_bytes: u64,
}

/// What a reload replaces, all at once: a request is served by one snapshot from its first step to
/// its last.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) config: Config,
    pub(super) credentials: Arc<Credentials>,
    pub(super) ca: Option<Arc<CertificateAuthority>>,
    /// The measures of requests without a credential.
    pub(super) without_credential: Arc<CredentialMetrics>,
    connector: Connector,
    replay_budget: Arc<Budget>,
}

impl Snapshot {
    /// `network` is kept over reloads; `ca` may be missing where no credential is; `version` counts the reloads.
    pub(crate) fn new(
        config: Config,
        credentials: Arc<Credentials>,
        ca: Option<Arc<CertificateAuthority>>,
        tls: &ClientConfig,
        network: Network,
        metrics: &Metrics,
        version: u64,
    ) -> Self {
        let policy = Policy {
            deny: config.origins.deny_addresses.clone(),
            allow: config.origins.allow_addresses.clone(),
        };
        let dialer = Dialer::new(policy, network);
        let connector = Connector::new(&config.origins, dialer, tls, version);
        let replay_budget = Budget::new(config.limits.replay_bytes);
        let without_credential = Arc::new(metrics.of_credential(NO_CREDENTIAL));
        Self { config, credentials, ca, without_credential, connector, replay_budget }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn replay_budget(&self) -> Arc<Budget> {
        Arc::clone(&self.replay_budget)
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        let limits = &self.config.limits;
        Timeouts {
            idle: limits.idle_timeout,
            head: limits.header_read_timeout,
            handshake: limits.handshake_timeout,
            tunnel: limits.tunnel_idle_timeout,
            send: limits.send_timeout,
            stall: limits.stall_timeout,
        }
    }

    pub(super) fn check_size(&self, parts: &Parts) -> Result<(), MessageError> {
        let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
        let path = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
        let limits = &self.config.limits;
        if authority + path > limits.request_line {
            return Err(MessageError::TargetTooLong);
        }
        if message::field_count(parts) > limits.header_count {
            return Err(MessageError::TooManyFields);
        }
        Ok(())
    }

    /// Refuses a content that says that it is too large; one that does not say is counted.
    pub(super) fn admit_content(
        &self,
        fields: &HeaderMap,
        body: Incoming,
        activity: &Arc<Activity>,
    ) -> Result<ClientContent, MessageError> {
        let limit = self.config.limits.body_bytes;
        let length = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        match length {
            Some(length) if limit != 0 && u64::gt(&length, &limit) => {
                Err(MessageError::ContentTooLarge)
            }
            _ => Ok(ClientContent::new(body, limit, activity)),
        }
    }

    /// Refuses a credential's host with a dot at its end: it would go out without the token, or be misread as another
    /// host.
    pub(super) fn check_dot(&self, origin: &Origin) -> Result<(), AuthorityError> {
        let dotless = origin.authority.without_dot();
        let dotless = dotless.map(|authority| Origin { scheme: origin.scheme, authority });
        match dotless.is_some_and(|origin| self.credentials.intercepts(&origin)) {
            true => Err(AuthorityError::TrailingDot),
            false => Ok(()),
        }
    }

    pub(super) fn admit_unmatched(&self, refusal: ProxyError) -> Result<(), ProxyError> {
        match self.config.unmatched {
            Unmatched::Forward => Ok(()),
            Unmatched::Deny => Err(refusal),
        }
    }
}
