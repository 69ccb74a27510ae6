//! The tolerant search for tokens: the last resort before a refresh token is lost.

use super::lenient::{self, UNREADABLE};
use super::members::{Found, is_alike};
use crate::secret::Secret;

/// The tokens that one object has.
struct Pair {
    access_token: Option<String>,
    refresh_token: Option<String>,
}

/// All tokens of an answer that are called so, at any depth.
pub(super) struct Search(Vec<Pair>);

impl Search {
    pub(super) fn of(body: &[u8]) -> Self {
        let objects = lenient::read(body).objects;
        let pairs = objects.into_iter().flat_map(|members| {
            let called = |name: &str| -> Vec<String> {
                let named = members.iter().filter(|(key, _)| is_alike(key, name));
                let values = named.map(|(_, value)| value.clone());
                values.filter(|value| !value.is_empty() && !value.contains(UNREADABLE)).collect()
            };
            let (access, refresh) = (called("access_token"), called("refresh_token"));
            // Two of a kind in one object are two candidates.
            let pair = move |at: usize| Pair {
                access_token: access.get(at).or(access.last()).cloned(),
                refresh_token: refresh.get(at).or(refresh.last()).cloned(),
            };
            (0..2).map(pair)
        });
        Self(pairs.collect())
    }

    pub(super) fn access_token(&self) -> Found {
        Found::of(self.0.iter().filter_map(|pair| pair.access_token.as_deref()))
    }

    /// The refresh token that belongs to this access token: none that stands beside another, and none
    /// that was sent, if there is a second one.
    pub(super) fn refresh_token(&self, access_token: Option<&Secret>, sent: &[&Secret]) -> Found {
        let belongs = |pair: &&Pair| match (&pair.access_token, access_token) {
            (Some(its), Some(access_token)) => its == access_token.expose(),
            _ => true,
        };
        let candidates = || {
            let pairs = self.0.iter().filter(belongs);
            pairs.filter_map(|pair| pair.refresh_token.as_deref())
        };
        let is_new = |token: &&str| !sent.iter().any(|sent| sent.expose() == *token);
        match Found::of(candidates().filter(is_new)) {
            Found::None => Found::of(candidates()),
            found => found,
        }
    }
}
