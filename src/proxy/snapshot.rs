//! The configuration of the request path and the parts built from it, which a reload replaces.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderMap};
use http::request::Parts;
use rustls::ClientConfig;

use super::activity::{Activity, ConnectionTimeouts};
use super::client_content::ClientContent;
use super::config::{Config, Unmatched};
use super::connector::Connector;
use super::dial::{AddressPolicy, Dialer, NetworkState};
use super::error::ProxyError;
use super::fields;
use super::incoming_body::IncomingBody;
use super::replay::ReplayBudget;
use super::request_target::RequestRefusal;
use crate::ca::CertificateAuthority;
use crate::credential::Credentials;
use crate::metrics::{CredentialMetrics, Metrics, NO_CREDENTIAL};
use crate::origin::{AuthorityError, Origin};

/// What a reload replaces, as one value: a request uses the same snapshot from its first step to its
/// last.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) config: Config,
    pub(super) credentials: Arc<Credentials>,
    pub(super) ca: Option<Arc<CertificateAuthority>>,
    /// The metrics of requests without a credential.
    pub(super) unmatched_metrics: Arc<CredentialMetrics>,
    connector: Connector,
    replay_budget: Arc<ReplayBudget>,
}

impl Snapshot {
    /// `network` survives reloads. `ca` is `None` if no credential is configured. `config_version` is the
    /// number of reloads so far.
    pub(crate) fn new(
        config: Config,
        credentials: Arc<Credentials>,
        ca: Option<Arc<CertificateAuthority>>,
        tls: &ClientConfig,
        network: NetworkState,
        metrics: &Metrics,
        config_version: u64,
    ) -> Self {
        let policy = AddressPolicy {
            deny: config.origins.deny_addresses.clone(),
            allow: config.origins.allow_addresses.clone(),
        };
        let dialer = Dialer::new(policy, network);
        let connector = Connector::new(&config.origins, dialer, tls, config_version);
        let replay_budget = ReplayBudget::new(config.limits.replay_bytes);
        let unmatched_metrics = Arc::new(metrics.of_credential(NO_CREDENTIAL));
        Self { config, credentials, ca, unmatched_metrics, connector, replay_budget }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn replay_budget(&self) -> Arc<ReplayBudget> {
        Arc::clone(&self.replay_budget)
    }

    pub(super) fn timeouts(&self) -> ConnectionTimeouts {
        let limits = &self.config.limits;
        ConnectionTimeouts {
            idle: limits.idle_timeout,
            head: limits.header_read_timeout,
            handshake: limits.handshake_timeout,
            tunnel: limits.tunnel_idle_timeout,
            send: limits.send_timeout,
            stall: limits.stall_timeout,
        }
    }

    /// Refuses a head that exceeds a limit that hyper does not enforce.
    pub(super) fn check_head_size(&self, parts: &Parts) -> Result<(), RequestRefusal> {
        let authority = parts.uri.authority().map_or(0, |authority| authority.as_str().len());
        let path = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
        let limits = &self.config.limits;
        if authority + path > limits.request_line {
            return Err(RequestRefusal::TargetTooLong);
        }
        if fields::field_count(parts) > limits.header_count {
            return Err(RequestRefusal::TooManyFields);
        }
        Ok(())
    }

    /// Limits a request's content to `limits.body_bytes`: content that declares a larger size is
    /// refused, other content is counted as it arrives.
    pub(super) fn limit_content(
        &self,
        fields: &HeaderMap,
        body: IncomingBody,
        activity: &Arc<Activity>,
    ) -> Result<ClientContent, RequestRefusal> {
        let limit = self.config.limits.body_bytes;
        let length = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        match length {
            Some(length) if limit != 0 && u64::gt(&length, &limit) => {
                Err(RequestRefusal::ContentTooLarge)
            }
            _ => Ok(ClientContent::new(body, limit, activity)),
        }
    }

    /// Refuses a host that would match a credential without its trailing dot: the request would be
    /// sent without the token, or the origin server would see another host name.
    pub(super) fn check_trailing_dot(&self, origin: &Origin) -> Result<(), AuthorityError> {
        let without_dot = origin.authority.without_dot();
        let without_dot = without_dot.map(|authority| Origin { scheme: origin.scheme, authority });
        match without_dot.is_some_and(|origin| self.credentials.intercepts(&origin)) {
            true => Err(AuthorityError::TrailingDot),
            false => Ok(()),
        }
    }

    /// Refuses a request that no credential matches if `unmatched` is `deny`.
    pub(super) fn check_unmatched(&self, refusal: ProxyError) -> Result<(), ProxyError> {
        match self.config.unmatched {
            Unmatched::Forward => Ok(()),
            Unmatched::Deny => Err(refusal),
        }
    }
}
