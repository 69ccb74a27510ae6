//! What a credential is for: hosts, paths and methods, no two credentials for the same; and the
//! answers that are about its token.

use std::collections::HashMap;
use std::ops::Range;

use http::{Method, StatusCode};
use toml::Spanned;

use super::Part;
use crate::config::{self, CredentialSection, Field, Problem};
use crate::credential::{HostPattern, PathPrefix, RejectionEvidence, RejectionRule, Rejections};

/// Who has named a host and a path (its shape, empty for all), for which methods, and where.
pub(super) type Named = HashMap<(HostPattern, String), Vec<(Vec<Method>, Range<usize>)>>;

impl Part<'_, '_> {
    pub(super) fn hosts(
        &mut self,
        named: &mut Named,
        paths: &[(PathPrefix, Range<usize>)],
        methods: &[Method],
    ) -> Vec<HostPattern> {
        let example = "write hosts = [\"api.example.com\"]";
        let section = self.section;
        let Field::Given(texts) = &section.hosts else {
            self.require(&section.hosts, "hosts", example);
            return Vec::new();
        };
        if texts.get_ref().is_empty() {
            self.report(
                "hosts",
                "is empty, so the credential would never be used",
                texts.span(),
                example,
            );
        }
        let mut patterns = Vec::new();
        for text in texts.get_ref() {
            let Some(pattern) = self.host(text) else { continue };
            let is_new = self.is_new(named, &pattern, text.span(), paths, methods);
            if is_new && text.get_ref().bytes().any(|byte| byte.is_ascii_uppercase()) {
                let problem = Problem::warning("hosts are compared in lower case").at(text.span());
                self.review.report(problem.fix("write it in lower case"));
            }
            patterns.push(pattern);
        }
        patterns
    }

    fn host(&mut self, text: &Spanned<String>) -> Option<HostPattern> {
        match HostPattern::parse(text.get_ref()) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let fix = "write a host such as \"api.example.com\", \"*.example.com\" or \"api.example.com:8443\"";
                self.report("hosts", &format!("cannot hold this: {error}"), text.span(), fix);
                None
            }
        }
    }

    /// Is this credential the first for these requests? A tie is an error, because nothing would
    /// say whose token they get.
    fn is_new(
        &mut self,
        named: &mut Named,
        pattern: &HostPattern,
        span: Range<usize>,
        paths: &[(PathPrefix, Range<usize>)],
        methods: &[Method],
    ) -> bool {
        let section = self.section;
        if matches!(section.paths, Field::Broken) || matches!(section.methods, Field::Broken) {
            return true;
        }
        let all = [(String::new(), span)];
        let given = paths.iter().map(|(path, span)| (path.shape(), span.clone()));
        let places: Vec<_> = match paths {
            [] => all.into(),
            _ => given.collect(),
        };
        for (path, span) in places {
            let (key, what) = match path.is_empty() {
                true => ("hosts", "a host"),
                false => ("paths", "a path"),
            };
            let others = named.entry((pattern.clone(), path)).or_default();
            let tie = others.iter().find(|(taken, _)| overlap(taken, methods));
            let tie = tie.map(|(_, first)| first.clone());
            others.push((methods.to_vec(), span.clone()));
            if let Some(first) = tie {
                let message = format!(
                    "`{}.{key}` names {what} that is taken: no two credentials are for the same \
                     host, path and method",
                    self.path
                );
                let problem = Problem::error(message).at(span).related(first, "first named here");
                let fix = "keep it in one place, or tell the two apart with `paths` or `methods`";
                self.review.report(problem.fix(fix));
                return false;
            }
        }
        true
    }

    /// The paths, each with its place.
    pub(super) fn paths(&mut self) -> Vec<(PathPrefix, Range<usize>)> {
        let section = self.section;
        let Some(texts) = section.paths.given() else { return Vec::new() };
        self.refuse_empty("paths", texts);
        let mut paths = Vec::new();
        for text in texts.get_ref() {
            match PathPrefix::parse(text.get_ref()) {
                Ok(path) => paths.push((path, text.span())),
                Err(error) => {
                    let fix =
                        "write the plain beginning of a path, such as \"/v2/\" or \"/${club}/\"";
                    self.report("paths", &format!("cannot hold this: {error}"), text.span(), fix);
                }
            }
        }
        paths
    }

    pub(super) fn methods(&mut self) -> Vec<Method> {
        let section = self.section;
        let Some(texts) = section.methods.given() else { return Vec::new() };
        self.refuse_empty("methods", texts);
        let mut methods = Vec::new();
        for text in texts.get_ref() {
            match method(text.get_ref()) {
                Ok(method) => methods.push(method),
                Err((message, fix)) => self.report("methods", message, text.span(), fix),
            }
        }
        methods
    }

    fn refuse_empty(&mut self, key: &str, texts: &Spanned<Vec<Spanned<String>>>) {
        if texts.get_ref().is_empty() {
            let fix = "leave it out: then the credential is for all of them";
            self.report(key, "is empty, so the credential would never be used", texts.span(), fix);
        }
    }
}

/// Could a request be for both? A list beside no list is no tie: the list is more specific.
fn overlap(one: &[Method], other: &[Method]) -> bool {
    (one.is_empty() && other.is_empty()) || one.iter().any(|method| other.contains(method))
}

fn method(text: &str) -> Result<Method, (&'static str, &'static str)> {
    const USUAL: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let method = Method::from_bytes(text.as_bytes())
        .map_err(|_| ("holds something that is no method", "write a method such as \"GET\""))?;
    if matches!(method, Method::CONNECT | Method::TRACE) {
        return Err(("names a method that never gets a token", "remove it"));
    }
    if !USUAL.contains(&text) && USUAL.contains(&text.to_ascii_uppercase().as_str()) {
        return Err((
            "has a method in lower case, which is another method",
            "write it in capitals",
        ));
    }
    Ok(method)
}

/// The answers that mean that a token was not accepted.
pub(super) fn rejections(section: &CredentialSection) -> Rejections {
    let Some(rules) = section.refresh_on.get() else { return Rejections::default() };
    let rule = |rule: &config::RefreshOn| RejectionRule {
        status: StatusCode::from_u16(rule.status).unwrap_or(StatusCode::UNAUTHORIZED),
        evidence: rule.evidence.as_ref().map(evidence),
    };
    Rejections::new(rules.iter().map(|given| rule(given.get_ref())).collect())
}

fn evidence(evidence: &config::Evidence) -> RejectionEvidence {
    match evidence {
        config::Evidence::Field(name, has) => {
            RejectionEvidence::Field { name: name.clone(), has: has.clone() }
        }
        config::Evidence::Grpc(status) => RejectionEvidence::Grpc(*status),
        config::Evidence::Body(text) => RejectionEvidence::Contains(text.clone()),
        config::Evidence::Json(path, is) => {
            RejectionEvidence::Json { path: path.clone(), is: super::answers::value(is) }
        }
    }
}
