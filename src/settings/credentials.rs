//! `[credential.NAME]`: the hosts a token may go to, the token endpoint, and the secrets.
//!
//! The checks here keep a credential from going where it does not belong: no two credentials match the same request, no
//! token endpoint beyond this machine uses plain http, no text can end a header.

mod assertion;
mod client;
mod grants;
mod injection;
mod matching;
mod oauth;
mod seeds;
mod steps;
mod templates;
mod variables;

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;

use self::matching::MatchTable;
use self::seeds::SeedUse;
use self::variables::RequestVariables;
use super::review::Review;
use crate::config::{ConfigFile, CredentialSection, Field, OnFailure, Period, Problem};
use crate::credential::{self, InstanceSecret};
use crate::oauth::{GrantRenewal, GrantType};
use crate::secret::{Secret, SecretSource};
use crate::template::Variables;
use crate::token::{self, Seed};

/// What the credentials of a file must not have in common.
#[derive(Default)]
struct Uniqueness {
    matches: MatchTable,
    seeds: Vec<SeedUse>,
}

impl Review<'_> {
    /// Returns every credential of the file that is complete.
    pub(super) fn credentials(&mut self, file: &ConfigFile) -> Vec<credential::Config> {
        if file.credentials.is_empty() {
            let problem =
                Problem::warning("no credential is active: every request passes without a token");
            self.missing(problem.fix("add a [credential.NAME] section"));
        }
        let mut unique = Uniqueness::default();
        let mut credentials = Vec::new();
        for (name, section) in &file.credentials {
            self.inputs.set_owner(Some(name.get_ref()));
            let review = CredentialReview {
                path: format!("credential.{}", name.get_ref()),
                span: name.span(),
                section,
                file,
                review: self,
                variables: RequestVariables::default(),
            };
            credentials.extend(review.config(name.get_ref(), &mut unique));
            self.inputs.set_owner(None);
        }
        credentials
    }
}

/// The review of one credential.
struct CredentialReview<'a, 'b> {
    /// `credential.NAME`
    path: String,
    /// The place of the name in the file.
    span: Range<usize>,
    section: &'a CredentialSection,
    file: &'a ConfigFile,
    review: &'a mut Review<'b>,
    variables: RequestVariables,
}

impl CredentialReview<'_, '_> {
    fn config(mut self, name: &str, unique: &mut Uniqueness) -> Option<credential::Config> {
        let (section, wait) = (self.section, self.file.limits.wait.0);
        let hosts = self.hosts(&mut unique.matches);
        let names = self.names();
        let injection = self.injection(&names);
        let oauth = self.oauth(&names, &injection);
        self.check_failure();
        let seed = self.seed();
        let variables = self.variables();
        let secrets = std::mem::take(&mut self.variables.secrets);
        self.check_seed_use(&mut unique.seeds, seed.as_ref(), &secrets, &variables);
        self.note_own_secrets(&secrets, &variables);
        let period = |field: &Field<Period>| field.get().map(|period| period.0);
        let token = token::Config {
            name: name.to_owned(),
            oauth: oauth?,
            variables: Variables::new(),
            seed,
            margin: *section.margin,
            lifetime: period(&section.lifetime),
            keepalive: period(&section.keepalive),
            wait,
        };
        let values = |items: &[Spanned<http::Method>]| {
            items.iter().map(|item| item.get_ref().clone()).collect()
        };
        Some(credential::Config {
            name: name.to_owned(),
            hosts,
            paths: self.paths().iter().map(|path| path.get_ref().clone()).collect(),
            methods: values(section.methods.get().map_or(&[], |methods| methods)),
            allow_http: *section.allow_http,
            injection,
            rejections: matching::rejections(section),
            reread: (*section.grant == GrantType::Static).then_some(wait),
            replay_body: section.replay_body.0,
            forward_without_token: *section.on_failure == OnFailure::Forward,
            stub_token_endpoint: *section.stub_token_endpoint,
            rewrite_location: *section.rewrite_location,
            allow_overrides: *section.allow_overrides,
            variables,
            secrets,
            token,
        })
    }

    fn seed(&mut self) -> Option<Seed> {
        let section = self.section;
        if self.is_own("refresh_token", InstanceSecret::RefreshToken, section.refresh_token.given())
        {
            return None;
        }
        let Some((source, span)) = self.source(section.refresh_token.given()) else {
            self.warn_without_seed();
            return None;
        };
        if section.grant.renewal() == GrantRenewal::Repeatable {
            self.warn_unused("refresh_token", *section.grant, span);
            return None;
        }
        match self.review.read(&source, span.clone()) {
            Ok(value) => Some(Seed { source, value: Some(value) }),
            Err(error) if error.missing => Some(Seed { source, value: None }),
            Err(error) => {
                self.unreadable("refresh_token", &error, span);
                None
            }
        }
    }

    fn warn_without_seed(&mut self) {
        let section = self.section;
        let lacks = section.refresh_token.is_absent() && section.bootstrap.is_absent();
        let from_a_person = matches!(
            *section.grant,
            GrantType::RefreshToken | GrantType::DeviceCode | GrantType::AuthorizationCode
        );
        // If a refresh only prolongs the token, a refresh token alone would not help.
        let prolongs =
            section.response.get().is_some_and(|it| it.keep_access_token.given().is_some());
        if from_a_person && lacks && !prolongs {
            let message = format!("`{}` has no first refresh token", self.path);
            let fix = "write refresh_token = { file = \"PATH\" } or bootstrap = { grant = \"…\" }; without them the store must hold a token already";
            self.review.missing(Problem::warning(message).at(self.span.clone()).fix(fix));
        }
    }

    /// Checks the keys that decide what happens without a token.
    fn check_failure(&mut self) {
        let section = self.section;
        if let (OnFailure::Forward, Some(given)) = (*section.on_failure, section.on_failure.given())
        {
            let message = "lets requests go to the API without a token while there is none";
            let fix = "write \"refuse\" unless the API is meant to be used without a token as well";
            self.warn("on_failure", message, given.span(), fix);
        }
        let stub = section.stub_token_endpoint.given().filter(|given| *given.get_ref());
        if let (Some(given), true) = (stub, section.token_url.is_absent()) {
            let message =
                "needs `token_url`: that is where the application's own token requests go";
            let fix = "write token_url = \"https://…\", as the application has it";
            self.error("stub_token_endpoint", message, given.span(), fix);
        }
    }

    /// Returns the place of a secret, its path made absolute, unless nothing may be read.
    fn source(
        &mut self,
        given: Option<&Spanned<SecretSource>>,
    ) -> Option<(SecretSource, Range<usize>)> {
        let given = given.filter(|_| !self.review.is_invalid)?;
        let source = self.with_fixed_path(given.get_ref());
        Some((self.review.place_of(&Spanned::new(given.span(), source)), given.span()))
    }

    /// Reads the secret at a place; reports it if that fails.
    fn secret(&mut self, key: &str, given: &Spanned<SecretSource>) -> Option<Secret> {
        let (source, span) = self.source(Some(given))?;
        let read = self.review.read(&source, span.clone());
        read.map_err(|error| self.unreadable(key, &error, span)).ok()
    }

    /// Reads a key; reports it if that fails. Returns `None` also if nothing may be read.
    fn lines(&mut self, key: &str, given: &Spanned<SecretSource>) -> Option<Secret> {
        let (source, span) = self.source(Some(given))?;
        let read = self.review.read_lines(&source);
        read.map_err(|error| self.unreadable(key, &error, span)).ok().flatten()
    }

    /// Reads a certificate, which is not secret; reports it if that fails. Returns `None` also if nothing may be read.
    fn certificate(&mut self, key: &str, path: &Spanned<PathBuf>) -> Option<Secret> {
        if self.review.is_invalid {
            return None;
        }
        let source = SecretSource::File(self.review.path(path.get_ref()));
        let read = self.review.read_lines(&source);
        read.map_err(|error| self.unreadable(key, &error, path.span())).ok().flatten()
    }

    fn unreadable(&mut self, key: &str, error: &dyn std::error::Error, span: Range<usize>) {
        let fix = "put the secret there, readable for the user that runs bearerd";
        self.error(key, &format!("has no value: {error}"), span, fix);
    }

    /// Reports that `key` is missing, at `place`.
    fn require(&mut self, key: &str, why: &str, place: Range<usize>, fix: &str) {
        let message = format!("`{}.{key}` is missing{why}", self.path);
        self.review.missing(Problem::error(message).at(place).fix(fix));
    }

    fn error(&mut self, key: &str, message: &str, span: Range<usize>, fix: &str) {
        self.review.error(span, format!("`{}.{key}` {message}", self.path), fix);
    }

    fn warn(&mut self, key: &str, message: &str, span: Range<usize>, fix: &str) {
        self.review.warn(span, format!("`{}.{key}` {message}", self.path), fix);
    }
}
