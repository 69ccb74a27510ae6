//! What a credential matches: hosts, paths and methods, no two credentials the same; and the responses that reject its
//! token.

use std::collections::HashMap;
use std::ops::Range;

use http::Method;
use toml::Spanned;

use super::CredentialReview;
use crate::config::{CredentialSection, Problem};
use crate::credential::{HostPattern, PathPrefix, Rejections};

/// The credentials that match a host and a path (its shape, empty for all): their methods and their places.
pub(super) type MatchTable = HashMap<(HostPattern, String), Vec<(Vec<Method>, Range<usize>)>>;

impl CredentialReview<'_, '_> {
    pub(super) fn paths(&self) -> &[Spanned<PathPrefix>] {
        self.section.paths.get().map_or(&[], |paths| paths)
    }

    pub(super) fn hosts(&mut self, table: &mut MatchTable) -> Vec<HostPattern> {
        let section = self.section;
        if section.hosts.is_absent() {
            let fix = "write hosts = [\"api.example.com\"]";
            self.require("hosts", "", self.span.clone(), fix);
        }
        let hosts = section.hosts.get().map_or(&[][..], |hosts| hosts);
        for host in hosts {
            self.check_unique(table, host);
        }
        hosts.iter().map(|host| host.get_ref().clone()).collect()
    }

    /// Reports a credential that matches the same requests as another: nothing would say whose token they get.
    fn check_unique(&mut self, table: &mut MatchTable, host: &Spanned<HostPattern>) {
        let section = self.section;
        if section.paths.is_broken() || section.methods.is_broken() {
            return;
        }
        let methods: Vec<Method> = section
            .methods
            .get()
            .map_or(&[][..], |methods| methods)
            .iter()
            .map(|method| method.get_ref().clone())
            .collect();
        let paths = self.paths().iter().map(|path| (path.get_ref().shape(), path.span()));
        let mut places: Vec<(String, Range<usize>)> = paths.collect();
        if places.is_empty() {
            places.push((String::new(), host.span()));
        }
        for (path, span) in places {
            let (key, what) = match path.is_empty() {
                true => ("hosts", "a host"),
                false => ("paths", "a path"),
            };
            let others = table.entry((host.get_ref().clone(), path)).or_default();
            let tie = others.iter().find(|(taken, _)| overlap(taken, &methods));
            let tie = tie.map(|(_, first)| first.clone());
            others.push((methods.clone(), span.clone()));
            if let Some(first) = tie {
                let message = format!(
                    "`{}.{key}` names {what} that is taken: no two credentials are for the same \
                     host, path and method",
                    self.path
                );
                let problem = Problem::error(message).at(span).related(first, "first named here");
                let fix = "keep it in one place, or distinguish the two by `paths` or `methods`";
                self.review.problems.push(problem.fix(fix));
                return;
            }
        }
    }
}

/// Returns true if a request could match both. A list beside no list is no tie: the list is more specific.
fn overlap(one: &[Method], other: &[Method]) -> bool {
    (one.is_empty() && other.is_empty()) || one.iter().any(|method| other.contains(method))
}

/// Returns the responses that mean that a token was rejected.
pub(super) fn rejections(section: &CredentialSection) -> Rejections {
    Rejections::new(section.refresh_on.iter().map(|rule| rule.get_ref().clone()).collect())
}
