//! First refresh tokens: no two credentials use the same one.
//!
//! Each credential has a record of its own with a refresh token that the server replaces. Two credentials that begin
//! with one token would each present it, and the server would treat the second one as stolen. If the server never
//! replaces it, `rotation = "ignore"` says so.

use std::ops::Range;

use super::CredentialReview;
use crate::config::Problem;
use crate::credential::{CredentialVariable, InstanceSecret, SecretTemplate};
use crate::oauth::{GrantRenewal, Rotation};
use crate::secret::{Fingerprint, SecretSource};
use crate::token;

/// The first refresh token of a credential, and where the file names it.
pub(super) struct SeedUse {
    credential: String,
    /// A path that contains variables is as it was written.
    place: SecretSource,
    value: Option<Fingerprint>,
    /// The variables in the path with their allowed values; `None` is any.
    choices: Vec<(String, Option<Vec<String>>)>,
    span: Range<usize>,
}

impl SeedUse {
    fn is_same(&self, other: &Self) -> bool {
        let is_place = self.place == other.place && self.can_choose_the_same(other);
        is_place || (self.value.is_some() && self.value == other.value)
    }

    fn can_choose_the_same(&self, other: &Self) -> bool {
        self.choices.iter().all(|(name, one)| {
            let other = other.choices.iter().find(|(it, _)| it == name).map(|(_, values)| values);
            match (one, other) {
                (Some(one), Some(Some(other))) => one.iter().any(|value| other.contains(value)),
                _ => true,
            }
        })
    }
}

impl CredentialReview<'_, '_> {
    /// Reports a first refresh token that another credential has as well.
    pub(super) fn check_seed_use(
        &mut self,
        others: &mut Vec<SeedUse>,
        seed: Option<&token::Seed>,
        secrets: &[SecretTemplate],
        variables: &[CredentialVariable],
    ) {
        let section = self.section;
        let is_replaced = section.grant.renewal() == GrantRenewal::RefreshToken
            && *section.rotation != Rotation::Ignore;
        let Some(given) = section.refresh_token.given().filter(|_| is_replaced) else { return };
        let own = secrets.iter().find(|own| own.secret == InstanceSecret::RefreshToken);
        let (place, value) = match (seed, own) {
            (Some(seed), _) => (seed.source.clone(), seed.value.as_ref()),
            (None, Some(_)) => (given.get_ref().clone(), None),
            (None, None) => return,
        };
        let names: Vec<&str> = own.iter().flat_map(|own| own.path.variables()).collect();
        let chosen = variables.iter().filter(|it| names.contains(&&*it.name));
        let seed = SeedUse {
            credential: self.path.clone(),
            place,
            value: value.map(crate::secret::Secret::fingerprint),
            choices: chosen.map(|it| (it.name.clone(), it.allowed.clone())).collect(),
            span: given.span(),
        };
        if let Some(first) = others.iter().find(|other| other.is_same(&seed)) {
            let message = format!(
                "`{}.refresh_token` is that of `{}`, so two credentials would spend one refresh token",
                self.path, first.credential
            );
            let fix = "give each a refresh token of its own, make one credential of them, or write \
                       rotation = \"ignore\" in both if the server never replaces it";
            let problem = Problem::error(message).at(given.span()).fix(fix);
            self.review.problems.push(problem.related(first.span.clone(), "first named here"));
        }
        others.push(seed);
    }
}
