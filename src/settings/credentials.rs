//! `[credential.NAME]`: the hosts a token may go to, the token endpoint, and the secrets.
//!
//! The checks here are what keeps a credential from going where it does not belong: no request that
//! two credentials are for, no plain-http token endpoint beyond this machine, no text that could end
//! a header.

mod answers;
mod assertion;
mod grants;
mod injection;
mod matching;
mod oauth;
mod seeds;
mod templates;
mod variables;

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::defaults;
use super::review::Review;
use crate::config::{ConfigFile, CredentialSection, Field, Margin, Problem, Size};
use crate::credential::{self, InstanceSecret};
use crate::oauth::{GrantRenewal, GrantType};
use crate::secret::{Secret, SecretSource};
use crate::template::Variables;
use crate::token::{self, Seed};
use matching::Named;
use oauth::grant_type;
use seeds::Beginning;
use variables::Chosen;

impl Review<'_> {
    /// Every credential of the file that is complete.
    pub(super) fn credentials(
        &mut self,
        file: &ConfigFile,
        wait: Duration,
    ) -> Vec<credential::Config> {
        if file.credentials.is_empty() {
            let problem =
                Problem::warning("no credential is active: every request passes without a token");
            self.missing(problem.fix("add a [credential.NAME] section"));
        }
        let token_bytes = self.token_bytes(&file.limits);
        let (mut named, mut beginnings) = (Named::new(), Vec::new());
        let credentials = file.credentials.iter();
        credentials
            .filter_map(|(name, section)| {
                self.credential(name, section, wait, (&mut named, &mut beginnings))
            })
            .map(|mut credential| {
                credential.token.oauth.reading.token_bytes = token_bytes;
                credential
            })
            .collect()
    }

    fn credential(
        &mut self,
        name: &Spanned<String>,
        section: &CredentialSection,
        wait: Duration,
        lists: (&mut Named, &mut Vec<Beginning>),
    ) -> Option<credential::Config> {
        self.inputs.belong_to(Some(name.get_ref()));
        let config = self.whole_credential(name, section, wait, lists);
        self.inputs.belong_to(None);
        config
    }

    fn whole_credential(
        &mut self,
        name: &Spanned<String>,
        section: &CredentialSection,
        wait: Duration,
        (named, beginnings): (&mut Named, &mut Vec<Beginning>),
    ) -> Option<credential::Config> {
        let mut part = Part {
            path: format!("credential.{}", name.get_ref()),
            span: name.span(),
            section,
            review: self,
            chosen: Chosen::default(),
        };
        let (paths, methods) = (part.paths(), part.methods());
        let hosts = part.hosts(named, &paths, &methods);
        let names = part.names();
        let injection = part.injection(&names);
        let oauth = part.oauth(&names, &injection);
        let forward_without_token = part.forwards_without_token();
        part.refuse_stub_without_token_url();
        let seed = part.seed();
        let lifetime = part.lifetime();
        let keepalive = part.keepalive();
        let variables = part.variables(&paths);
        let secrets = std::mem::take(&mut part.chosen.secrets);
        part.check_beginning(beginnings, seed.as_ref(), &secrets, &variables);
        part.review.note_own(&secrets, &variables, &part.span);
        let token = token::Config {
            name: name.get_ref().clone(),
            oauth: oauth?,
            variables: Variables::new(),
            seed,
            margin: margin(section),
            lifetime,
            keepalive,
            wait,
        };
        Some(credential::Config {
            name: name.get_ref().clone(),
            hosts,
            paths: paths.into_iter().map(|(path, _)| path).collect(),
            methods,
            allow_http: section.allow_http.or(false),
            injection,
            rejections: matching::rejections(section),
            reread: (grant_type(section) == GrantType::Static).then_some(wait),
            replay_body: section.replay_body.or(Size(defaults::REPLAY_BODY)).0,
            forward_without_token,
            stub_token_endpoint: section.stub_token_endpoint.or(false),
            rewrite_location: section.rewrite_location.or(true),
            allow_overrides: section.allow_overrides.or(false),
            variables,
            secrets,
            token,
        })
    }
}

/// The review of one credential.
struct Part<'a, 'b> {
    /// `credential.NAME`
    path: String,
    /// The name in the file.
    span: Range<usize>,
    section: &'a CredentialSection,
    review: &'a mut Review<'b>,
    chosen: Chosen,
}

impl Part<'_, '_> {
    fn seed(&mut self) -> Option<Seed> {
        let section = self.section;
        if self.is_own("refresh_token", InstanceSecret::RefreshToken, &section.refresh_token) {
            return None;
        }
        let Some((source, span)) = self.source(&section.refresh_token) else {
            self.warn_without_seed();
            return None;
        };
        let grant = grant_type(section);
        if grant.renewal() == GrantRenewal::Repeatable {
            self.warn_unused("refresh_token", grant, span);
            return None;
        }
        match self.read(&source, span.clone()) {
            Ok(value) => Some(Seed { source, value: Some(value) }),
            Err(error) if error.missing => Some(Seed { source, value: None }),
            Err(error) => {
                self.unreadable("refresh_token", &error.to_string(), span);
                None
            }
        }
    }

    fn warn_without_seed(&mut self) {
        let section = self.section;
        let lacks = section.refresh_token.is_absent() && section.bootstrap.is_absent();
        let from_a_person = matches!(
            grant_type(section),
            GrantType::RefreshToken | GrantType::DeviceCode | GrantType::AuthorizationCode
        );
        // Where a refresh only prolongs, a refresh token alone would not help.
        let only_prolongs = section.response.get().and_then(|it| it.keep_access_token.as_ref());
        if from_a_person && lacks && only_prolongs.is_none() {
            let message = format!("`{}` has no first refresh token", self.path);
            let fix = "write refresh_token = { file = \"PATH\" } or bootstrap = { grant = \"…\" }; without them the store must hold a token already";
            self.review.missing(Problem::warning(message).at(self.span.clone()).fix(fix));
        }
    }

    /// What an issuer publishes is not known yet when the application asks, and may change.
    fn refuse_stub_without_token_url(&mut self) {
        let section = self.section;
        let stub = section.stub_token_endpoint.given().filter(|given| *given.get_ref());
        if let (Some(given), true) = (stub, section.token_url.is_absent()) {
            let message =
                "needs `token_url`: that is where the application's own token requests go";
            let fix = "write token_url = \"https://…\", as the application has it";
            self.report("stub_token_endpoint", message, given.span(), fix);
        }
    }

    fn lifetime(&mut self) -> Option<Duration> {
        let key = format!("{}.lifetime", self.path);
        let given = self.section.lifetime.get().copied();
        given.map(|time| self.review.time(&key, &self.section.lifetime, time))
    }

    fn keepalive(&mut self) -> Option<Duration> {
        let key = format!("{}.keepalive", self.path);
        let given = self.section.keepalive.get().copied();
        given.map(|time| self.review.time(&key, &self.section.keepalive, time))
    }

    /// The place of a secret, its path made absolute, unless nothing may be read.
    fn source(&mut self, field: &Field<SecretSource>) -> Option<(SecretSource, Range<usize>)> {
        let given = field.given().filter(|_| !self.review.garbled)?;
        let given = match self.fixed_path(given) {
            Some(path) => Spanned::new(given.span(), SecretSource::File(path)),
            None => given.clone(),
        };
        Some((self.review.place_of(&given), given.span()))
    }

    fn read(
        &mut self,
        source: &SecretSource,
        span: Range<usize>,
    ) -> Result<Secret, crate::secret::SecretError> {
        self.review.read(source, span)
    }

    fn unreadable(&mut self, key: &str, error: &str, span: Range<usize>) {
        let fix = "put the secret there, readable for the user that runs bearerd";
        self.report(key, &format!("has no value: {error}"), span, fix);
    }

    fn require<T>(&mut self, field: &Field<T>, key: &str, fix: &str) {
        if field.is_absent() {
            let problem =
                Problem::error(format!("`{}.{key}` is missing", self.path)).at(self.span.clone());
            self.review.missing(problem.fix(fix));
        }
    }

    fn report(&mut self, key: &str, message: &str, span: Range<usize>, fix: &str) {
        let problem = Problem::error(format!("`{}.{key}` {message}", self.path));
        self.review.report(problem.at(span).fix(fix));
    }
}

fn margin(section: &CredentialSection) -> token::Margin {
    match section.margin.or(Margin::Auto) {
        Margin::Auto => token::Margin::Auto,
        Margin::Fixed(time) => token::Margin::Fixed(time),
        Margin::Share(share) => token::Margin::Share(share),
    }
}
