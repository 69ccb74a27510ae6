//! A configuration at work, and which tokens are its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::next_action::GrantSources;
use super::{AccessToken, Config, Context};
use crate::oauth::{GrantIdentity, TokenEndpoint};
use crate::secret::Fingerprint;
use crate::store::IssuedFor;

/// A configuration, and what follows from it.
#[derive(Debug)]
pub(super) struct ResolvedConfig {
    pub(super) config: Config,
    pub(super) title: Arc<str>,
    pub(super) endpoint: TokenEndpoint,
    pub(super) belonging: GrantIdentity,
    pub(super) fingerprint: Fingerprint,
    /// The hash of the first refresh token: another one is another grant.
    pub(super) seed: Option<Fingerprint>,
    /// Counts up with every reload, so that what a request of before still opens does not undo one.
    pub(super) revision: u64,
    /// Which one it is, of all that this process ever had.
    pub(super) id: u64,
}

impl ResolvedConfig {
    pub(super) fn new(config: Config, context: &Context) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let endpoint = TokenEndpoint::new(config.oauth.clone(), context.transport.clone());
        Self {
            title: Arc::from(config.title()),
            belonging: config.oauth.grant_identity(&config.variables),
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
            belonging: &self.belonging,
            bound: oauth.reading.dpop,
        }
    }

    /// What tokens that are asked for now are issued for.
    pub(super) fn issued_for(&self) -> IssuedFor {
        let GrantIdentity { grant, request, .. } = self.belonging.clone();
        IssuedFor { grant, request }
    }

    /// What is asked for by `other` is of use here as well.
    pub(super) fn requests_same_tokens(&self, other: &Self) -> bool {
        self.seed == other.seed && self.belonging == other.belonging
    }

    /// Tokens that this was asked for may be put on its requests; those of another configuration never.
    pub(super) fn accepts(&self, token: &AccessToken) -> bool {
        // Each request asks this. That the token was found to be this one's when it was published is one number
        // to compare, where the hashes are many lines of memory.
        token.owner == self.id || self.matches(token)
    }

    pub(super) fn matches(&self, token: &AccessToken) -> bool {
        token.seed == self.seed
            && token.issued_for.as_ref().is_none_or(|it| it.request == self.belonging.request)
            && token.issued_for.as_ref().is_none_or(|it| self.belonging.matches_grant(&it.grant))
    }
}
