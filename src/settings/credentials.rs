//! `[credential.NAME]`: the hosts a token may go to, the token endpoint, and the secrets.
//!
//! The checks here are what keeps a credential from going where it does not belong: no request that
//! two credentials are for, no plain-http token endpoint beyond this machine, no text that could end
//! a header.

mod answers;
mod injection;
mod matching;
mod templates;

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use url::{Host, Url};

use super::defaults;
use super::review::Review;
use crate::config::{self, ConfigFile, CredentialSection, Field, Margin, Problem, Size};
use crate::credential::{self, Injection};
use crate::oauth::{self, ClientAuth, GrantType};
use crate::secret::{Secret, SecretSource};
use crate::template::{Names, Variables};
use crate::token::{self, Seed};
use matching::Named;

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
        let mut named = Named::new();
        let credentials = file.credentials.iter();
        credentials
            .filter_map(|(name, section)| self.credential(name, section, wait, &mut named))
            .collect()
    }

    fn credential(
        &mut self,
        name: &Spanned<String>,
        section: &CredentialSection,
        wait: Duration,
        named: &mut Named,
    ) -> Option<credential::Config> {
        let mut part = Part {
            path: format!("credential.{}", name.get_ref()),
            span: name.span(),
            section,
            review: self,
        };
        let (paths, methods) = (part.paths(), part.methods());
        let hosts = part.hosts(named, &paths, &methods);
        let names = part.names();
        let injection = part.injection(&names);
        let oauth = part.oauth(&names, &injection);
        let seed = part.seed();
        let lifetime = part.lifetime();
        let keepalive = part.keepalive();
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
            replay_body: section.replay_body.or(Size(defaults::REPLAY_BODY)).0,
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
}

impl Part<'_, '_> {
    fn oauth(&mut self, names: &Names, injection: &Injection) -> Option<oauth::Config> {
        let section = self.section;
        let grant = grant(section);
        let client_id = self.client_id();
        let scope = self.scope();
        let client_secret = self.client_secret(grant);
        let token_url = self.token_url();
        let params = self.parameters("params", &section.params, names);
        let refresh_params = self.parameters("refresh_params", &section.refresh_params, names);
        self.warn_if_unused(grant);
        let headers = self.fields("headers", &section.headers, names).unwrap_or_default();
        Some(oauth::Config {
            grant,
            token_url: token_url?,
            client_id: client_id?,
            client_secret,
            client_auth: client_auth(section),
            bootstrap: None,
            revoke_url: None,
            scope,
            params,
            refresh_params,
            headers,
            reading: self.reading(injection),
            rotation: answers::rotation(section),
            timeout: self.review.time(
                &format!("{}.timeout", self.path),
                &section.timeout,
                defaults::TOKEN_TIMEOUT,
            ),
        })
    }

    fn client_id(&mut self) -> Option<String> {
        let section = self.section;
        self.require(
            &section.client_id,
            "client_id",
            "write client_id = \"…\" as the authorization server gave it",
        );
        self.plain_text("client_id", &section.client_id)
    }

    fn scope(&mut self) -> Option<String> {
        let section = self.section;
        self.plain_text("scope", &section.scope)
    }

    /// Text of visible ASCII and spaces (RFC 6749 appendix A): nothing that could end a header.
    fn plain_text(&mut self, key: &str, field: &Field<String>) -> Option<String> {
        let text = field.given()?;
        if text.get_ref().is_empty() {
            self.report(key, "is empty", text.span(), "leave the key out, or fill it");
        } else if !text.get_ref().bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            let message = "holds a line break or another character that cannot be sent";
            self.report(key, message, text.span(), "use visible ASCII characters and spaces");
        }
        Some(text.get_ref().clone())
    }

    fn token_url(&mut self) -> Option<Url> {
        let section = self.section;
        self.require(&section.token_url, "token_url", "write token_url = \"https://…\"");
        let text = section.token_url.given()?;
        let (message, fix) = match parse_token_url(text.get_ref(), section.allow_http.or(false)) {
            Ok(url) => return Some(url),
            Err(refusal) => refusal,
        };
        self.report("token_url", message, text.span(), fix);
        None
    }

    fn client_secret(&mut self, grant: GrantType) -> Option<Secret> {
        let section = self.section;
        let needed = match (grant, client_auth(section)) {
            (GrantType::ClientCredentials, _) => Some("the client_credentials grant"),
            (_, ClientAuth::Basic | ClientAuth::BasicRaw) => Some("client_auth = \"basic\""),
            (GrantType::RefreshToken, ClientAuth::Post) => None,
        };
        if let (Some(why), true) = (needed, section.client_secret.is_absent()) {
            let problem =
                Problem::error(format!("`{}.client_secret` is missing: {why} needs it", self.path));
            self.review.missing(
                problem.at(self.span.clone()).fix("write client_secret = { file = \"PATH\" }"),
            );
        }
        let (source, span) = self.source(&section.client_secret)?;
        self.read(&source)
            .map_err(|error| self.unreadable("client_secret", &error.to_string(), span))
            .ok()
    }

    fn seed(&mut self) -> Option<Seed> {
        let section = self.section;
        let Some((source, span)) = self.source(&section.refresh_token) else {
            self.warn_without_seed();
            return None;
        };
        if grant(section) == GrantType::ClientCredentials {
            let message = format!(
                "`{}.refresh_token` is not used by the client_credentials grant",
                self.path
            );
            self.review.report(Problem::warning(message).at(span).fix("remove it"));
            return None;
        }
        match self.read(&source) {
            Ok(value) => Some(Seed { source, value: Some(value) }),
            Err(error) if error.missing => Some(Seed { source, value: None }),
            Err(error) => {
                self.unreadable("refresh_token", &error.to_string(), span);
                None
            }
        }
    }

    fn warn_without_seed(&mut self) {
        if grant(self.section) == GrantType::RefreshToken && self.section.refresh_token.is_absent()
        {
            let message = format!("`{}` has no first refresh token", self.path);
            let fix = "write refresh_token = { file = \"PATH\" }; without it the store must hold a token already";
            self.review.missing(Problem::warning(message).at(self.span.clone()).fix(fix));
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
        let source = match given.get_ref() {
            SecretSource::File(path) => SecretSource::File(self.review.path(path)),
            other => other.clone(),
        };
        self.warn_if_readable(&source, given.span());
        Some((source, given.span()))
    }

    fn read(&self, source: &SecretSource) -> Result<Secret, crate::secret::SecretError> {
        (self.review.environment.read_secret)(source)
    }

    fn unreadable(&mut self, key: &str, error: &str, span: Range<usize>) {
        let fix = "put the secret there, readable for the user that runs bearerd";
        self.report(key, &format!("has no value: {error}"), span, fix);
    }

    #[cfg(unix)]
    fn warn_if_readable(&mut self, source: &SecretSource, span: Range<usize>) {
        use std::os::unix::fs::MetadataExt;
        let SecretSource::File(path) = source else { return };
        let mode = std::fs::metadata(path).map_or(0, |file| file.mode());
        if mode & 0o077 != 0 {
            let message = format!(
                "{source} can be read by others than its owner (mode {:04o})",
                mode & 0o7777
            );
            self.review.report(Problem::warning(message).at(span).fix("chmod 600"));
        }
    }

    #[cfg(not(unix))]
    fn warn_if_readable(&mut self, _source: &SecretSource, _span: Range<usize>) {}

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

/// The token endpoint, or why it is refused and what to write.
fn parse_token_url(text: &str, allow_http: bool) -> Result<Url, (&'static str, &'static str)> {
    let whole = "write the whole URL, such as \"https://login.example.com/oauth/token\"";
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(("holds a space, a line break or a character outside ASCII", whole));
    }
    let url = Url::parse(text).map_err(|_| ("is not a URL", whole))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(("is not an https URL", whole));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(("holds a user name or a password", "use client_id and client_secret"));
    }
    if url.fragment().is_some() {
        return Err(("has a fragment, which is never sent", "cut it off at the `#`"));
    }
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        return Err((
            "is not https, so the client's secrets would travel in the open",
            "write https://; plain http is for loopback hosts, or with allow_http = true",
        ));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn grant(section: &CredentialSection) -> GrantType {
    match section.grant.or(config::Grant::RefreshToken) {
        config::Grant::RefreshToken => GrantType::RefreshToken,
        config::Grant::ClientCredentials => GrantType::ClientCredentials,
    }
}

fn client_auth(section: &CredentialSection) -> ClientAuth {
    match section.client_auth.or(config::ClientAuth::Post) {
        config::ClientAuth::Post => ClientAuth::Post,
        config::ClientAuth::Basic => ClientAuth::Basic,
        config::ClientAuth::BasicRaw => ClientAuth::BasicRaw,
    }
}

fn margin(section: &CredentialSection) -> token::Margin {
    match section.margin.or(Margin::Auto) {
        Margin::Auto => token::Margin::Auto,
        Margin::Fixed(time) => token::Margin::Fixed(time),
        Margin::Share(share) => token::Margin::Share(share),
    }
}
