//! First refresh tokens: no two credentials spend the same one.
//!
//! Each credential has a record of its own, and behind it a refresh token that the server replaces. Two that
//! begin with one would each present it, and the second look like a thief. Where the server replaces nothing,
//! `rotation = "ignore"` says so.

use std::ops::Range;

use super::Part;
use super::answers;
use super::oauth::grant_type;
use crate::config::Problem;
use crate::credential::{CredentialVariable, InstanceSecret, SecretTemplate};
use crate::oauth::{GrantRenewal, Rotation};
use crate::secret::{Fingerprint, SecretSource};
use crate::token;

/// What a credential begins with, and where that is said.
pub(super) struct Beginning {
    credential: String,
    /// A path that names variables is as it was written.
    place: SecretSource,
    value: Option<Fingerprint>,
    /// The variables in its path with the values they may have; `None` is any.
    choices: Vec<(String, Option<Vec<String>>)>,
    span: Range<usize>,
}

impl Beginning {
    fn is_same(&self, other: &Self) -> bool {
        let is_place = self.place == other.place && self.may_choose_alike(other);
        is_place || (self.value.is_some() && self.value == other.value)
    }

    fn may_choose_alike(&self, other: &Self) -> bool {
        let meet = |(name, one): &(String, Option<Vec<String>>)| {
            let other = other.choices.iter().find(|(it, _)| it == name).map(|(_, values)| values);
            match (one, other) {
                (Some(one), Some(Some(other))) => one.iter().any(|value| other.contains(value)),
                _ => true,
            }
        };
        self.choices.iter().all(meet)
    }
}

impl Part<'_, '_> {
    /// Reports a first refresh token that another credential has as well.
    pub(super) fn check_beginning(
        &mut self,
        others: &mut Vec<Beginning>,
        seed: Option<&token::Seed>,
        secrets: &[SecretTemplate],
        variables: &[CredentialVariable],
    ) {
        let section = self.section;
        let replaced = grant_type(section).renewal() == GrantRenewal::RefreshToken
            && answers::rotation(section) != Rotation::Ignore;
        let Some(given) = section.refresh_token.given().filter(|_| replaced) else { return };
        let own = secrets.iter().find(|own| own.secret == InstanceSecret::RefreshToken);
        let (place, value) = match (seed, own) {
            (Some(seed), _) => (seed.source.clone(), seed.value.as_ref()),
            (None, Some(_)) => (given.get_ref().clone(), None),
            (None, None) => return,
        };
        let names: Vec<&str> = own.iter().flat_map(|own| own.path.variables()).collect();
        let chosen = variables.iter().filter(|it| names.contains(&&*it.name));
        let beginning = Beginning {
            credential: self.path.clone(),
            place,
            value: value.map(crate::secret::Secret::fingerprint),
            choices: chosen.map(|it| (it.name.clone(), it.allowed.clone())).collect(),
            span: given.span(),
        };
        if let Some(first) = others.iter().find(|other| other.is_same(&beginning)) {
            let message = format!(
                "`{}.refresh_token` is that of `{}`, so that two credentials would spend one refresh token",
                self.path, first.credential
            );
            let problem = Problem::error(message).at(given.span());
            let fix = "give each a refresh token of its own, make one credential of them, or write \
                       rotation = \"ignore\" in both if the server never replaces it";
            let problem = problem.related(first.span.clone(), "first named here");
            self.review.report(problem.fix(fix));
        }
        others.push(beginning);
    }
}
