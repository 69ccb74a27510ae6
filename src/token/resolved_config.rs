//! A configuration with the values derived from it, and which tokens it accepts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::next_action::GrantSources;
use super::{AccessToken, Config, Context};
use crate::oauth::{GrantIdentity, TokenEndpoint};
use crate::secret::Fingerprint;
use crate::store::IssuedFor;

/// A configuration with the values derived from it.
#[derive(Debug)]
pub(super) struct ResolvedConfig {
    pub(super) config: Config,
    pub(super) title: Arc<str>,
    pub(super) endpoint: TokenEndpoint,
    pub(super) identity: GrantIdentity,
    pub(super) fingerprint: Fingerprint,
    /// The hash of the seed. Another seed means another grant.
    pub(super) seed: Option<Fingerprint>,
    /// Counts up with every reload, so that a slot that was opened before a reload does not undo it.
    pub(super) revision: u64,
    /// Identifies the configuration within the process. Never 0.
    pub(super) id: u64,
}

impl ResolvedConfig {
    pub(super) fn new(config: Config, context: &Context) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let endpoint = TokenEndpoint::new(config.oauth.clone(), context.transport.clone());
        Self {
            title: Arc::from(config.title()),
            identity: config.oauth.grant_identity(&config.variables),
            fingerprint: config.oauth.fingerprint(),
            seed: config.seed.as_ref().and_then(|seed| Some(seed.value.as_ref()?.fingerprint())),
            revision: context.revision,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            endpoint,
            config,
        }
    }

    pub(super) fn sources(&self) -> GrantSources<'_> {
        let oauth = &self.config.oauth;
        GrantSources {
            seed: self.config.seed.as_ref(),
            renewal: oauth.grant.renewal(),
            can_bootstrap: oauth.bootstrap.is_some(),
            config: &self.fingerprint,
            identity: &self.identity,
            bound: oauth.reading.dpop,
        }
    }

    /// What a token requested with this configuration is issued for.
    pub(super) fn issued_for(&self) -> IssuedFor {
        let GrantIdentity { grant, request, .. } = self.identity.clone();
        IssuedFor { grant, request }
    }

    /// Returns true if the tokens that `other` requests are valid for this configuration as well.
    pub(super) fn requests_same_tokens(&self, other: &Self) -> bool {
        self.seed == other.seed && self.identity == other.identity
    }

    /// Returns true if requests of this configuration may use `token`.
    pub(super) fn accepts(&self, token: &AccessToken) -> bool {
        // This runs for every request. Comparing the id that was set on publication is cheaper than comparing hashes.
        token.owner == self.id || self.matches(token)
    }

    /// Compares what `token` was issued for with this configuration.
    pub(super) fn matches(&self, token: &AccessToken) -> bool {
        token.seed == self.seed
            && token.issued_for.as_ref().is_none_or(|it| it.request == self.identity.request)
            && token.issued_for.as_ref().is_none_or(|it| self.identity.matches_grant(&it.grant))
    }
}
