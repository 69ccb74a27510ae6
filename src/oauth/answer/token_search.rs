//! The tolerant search for tokens, the last resort before a refresh token is lost.

use serde_json::Value;

use super::candidates::{Candidates, is_refresh_token, is_successor_name};
use super::lenient_json::{self, UNREADABLE};
use super::markup;
use super::members::{Members, TokenLookup, is_alike, token_text};
use crate::secret::Secret;

/// All objects of an answer with their members that are not objects.
pub(super) struct TokenSearch(Vec<Vec<(String, Value)>>);

impl TokenSearch {
    /// Collects the objects. In markup, JSON may be escaped, or tokens may be elements.
    pub(super) fn of(body: &[u8]) -> Self {
        let found = Self(lenient_json::read(body).objects);
        if !markup::is_page(body) || found.has_any() {
            return found;
        }
        let text = markup::unescaped(&String::from_utf8_lossy(body));
        let unescaped = Self(lenient_json::read(text.as_bytes()).objects);
        if unescaped.has_any() { unescaped } else { Self(vec![markup::elements(body)]) }
    }

    fn has_any(&self) -> bool {
        let is_token = |name: &str| is_alike(name, "access_token") || is_refresh_token(name);
        self.0.iter().flatten().any(|(name, _)| is_token(name))
    }

    pub(super) fn access_token(&self) -> TokenLookup {
        TokenLookup::of(self.0.iter().flat_map(|object| tokens(object, "access_token")))
    }

    /// Finds the refresh token that belongs to this access token, ignoring those next to another
    /// one.
    pub(super) fn refresh_token(
        &self,
        access_token: Option<&Secret>,
        sent: &[&Secret],
    ) -> TokenLookup {
        let belongs = |object: &&Vec<(String, Value)>| {
            let mut its = tokens(object, "access_token").peekable();
            let Some(access_token) = access_token else { return true };
            its.peek().is_none() || its.any(|token| token == access_token.expose())
        };
        let objects = || self.0.iter().filter(belongs);
        for is_one in [is_refresh_token, is_successor_name] {
            let of = |object: &Vec<(String, Value)>| {
                let named = object.iter().filter(|(name, _)| is_one(name));
                let all: Vec<_> =
                    named.map(|(name, value)| Candidates::named(name, value)).collect();
                // Only in the same object can another token replace the one that was sent.
                Candidates::joined(&all).resolve(sent)
            };
            let mut all = objects().map(of).filter(|found| *found != TokenLookup::None);
            if let Some(first) = all.next() {
                return if all.all(|other| other == first) { first } else { TokenLookup::Several };
            }
        }
        TokenLookup::None
    }

    /// Returns the standard members next to this access token.
    pub(super) fn beside(&self, access_token: &Secret) -> Option<Members> {
        const NAMES: [&str; 6] = [
            "token_type",
            "expires_in",
            "expires_at",
            "refresh_token_expires_in",
            "refresh_expires_in",
            "authorization_expires_in",
        ];
        let has = |object: &&Vec<(String, Value)>| {
            tokens(object, "access_token").any(|token| token == access_token.expose())
        };
        let object = self.0.iter().find(has)?;
        let named = NAMES.iter().filter_map(|name| {
            let (_, value) = object.iter().find(|(key, _)| is_alike(key, name))?;
            Some(((*name).to_owned(), value.clone()))
        });
        Some(Members::of_pairs(named.collect()))
    }
}

/// Returns true if the body has a complete object, preferably one with tokens or an error.
pub(in crate::oauth) fn is_whole(body: &[u8]) -> bool {
    lenient_json::read(body).is_whole
}

/// Returns true if the body, even if incomplete, contains a token of this name.
pub(in crate::oauth) fn has_token(body: &[u8], name: &str) -> bool {
    lenient_json::read(body).objects.iter().any(|object| tokens(object, name).next().is_some())
}

/// Returns the tokens of this name in one object.
fn tokens<'a>(object: &'a [(String, Value)], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = object.iter().filter(move |(key, _)| is_alike(key, name));
    let texts = named.filter_map(|(_, value)| token_text(value));
    texts.filter(|text| !text.contains(UNREADABLE))
}
