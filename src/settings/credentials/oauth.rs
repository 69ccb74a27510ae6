//! The OAuth client and the authorization server: URLs, identifier, secret, certificate, parameters.

use std::ops::Range;
use std::time::UNIX_EPOCH;

use toml::Spanned;
use url::{Host, Url};

use super::{Part, answers, injection};
use crate::config::{
    self, ClientCertTable, ClientId, ClientSecret, CredentialSection, Field, Problem,
};
use crate::credential::{Injection, InstanceSecret};
use crate::oauth::{self, ClientAuthentication, ClientCert, ClientCertError, Encoding, GrantType};
use crate::secret::{Secret, SecretSource};
use crate::settings::defaults;
use crate::template::{DeferredName, Names, Template, Values, Variables};
use crate::tls;

impl Part<'_, '_> {
    /// Everything about the authorization server; `injection` names members of its answers.
    pub(super) fn oauth(&mut self, names: &Names, injection: &Injection) -> Option<oauth::Config> {
        let section = self.section;
        let grant = grant_type(section);
        let client_id = self.client_id(names);
        let in_requests = self.names_of_requests(names);
        let scope = self.text("scope", &section.scope, names);
        let client_auth = client_auth(section);
        let client_secret = self.client_secret(grant, client_auth);
        let urls = self.urls(grant, names);
        let assertion = self.assertion(grant, client_auth, client_secret.as_ref(), names);
        let own = self.own_grant(grant, names);
        let bootstrap = self.bootstrap(grant, names, &in_requests);
        let params = self.parameters("params", &section.params, &in_requests);
        let refresh_params =
            self.parameters("refresh_params", &section.refresh_params, &in_requests);
        self.warn_if_unused(grant);
        let headers = self.fields("headers", &section.headers, &in_requests).unwrap_or_default();
        let (steps, raw) = self.steps(names, injection::raw_of(injection));
        let reading = self.reading(&raw);
        let client_cert = self.client_cert();
        let [token_url, refresh_url, revoke_url, auth_url, device_url, issuer] = urls?;
        Some(oauth::Config {
            grant,
            own,
            bootstrap,
            issuer,
            token_url,
            refresh_url,
            revoke_url,
            auth_url,
            device_url,
            client_id,
            client_secret,
            client_auth,
            client_cert,
            assertion,
            encoding: encoding(&section.encoding),
            scope,
            params,
            refresh_params,
            headers,
            reading,
            rotation: answers::rotation(section),
            steps,
            timeout: self.review.time(
                &format!("{}.timeout", self.path),
                &section.timeout,
                defaults::TOKEN_TIMEOUT,
            ),
        })
    }

    /// What may stand in parameters and fields of token requests.
    pub(super) fn names_of_requests(&self, names: &Names) -> Names {
        let names = names
            .with(DeferredName::AccessToken)
            .with(DeferredName::RefreshToken)
            .with(DeferredName::TokenUrl);
        let is_signed = !self.section.assertion.is_absent()
            || client_auth(self.section) == ClientAuthentication::ClientSecretJwt;
        if is_signed { names.with(DeferredName::Assertion) } else { names }
    }

    fn client_id(&mut self, names: &Names) -> Option<Template> {
        let section = self.section;
        let grant = grant_type(section);
        let optional = matches!(grant, GrantType::JwtBearer | GrantType::Custom)
            || !grant.makes_token_requests();
        if !optional {
            let fix = "write client_id = \"…\" as the authorization server gave it";
            self.require(&section.client_id, "client_id", fix);
        }
        let given = section.client_id.given()?;
        match given.get_ref() {
            ClientId::Text(text) => {
                let text = Spanned::new(given.span(), text.clone());
                self.text("client_id", &Field::Given(text), names)
            }
            // `names` knows the value already, or it has been reported.
            ClientId::Secret(_) => Template::parse("${client_id}", names).ok(),
        }
    }

    /// Text of visible ASCII and spaces (RFC 6749 appendix A): nothing that could end a header.
    pub(super) fn text(
        &mut self,
        key: &str,
        field: &Field<String>,
        names: &Names,
    ) -> Option<Template> {
        let text = field.given()?;
        if text.get_ref().is_empty() {
            self.report(key, "is empty", text.span(), "leave the key out, or fill it");
        } else if !text.get_ref().bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            let message = "holds a line break or another character that cannot be sent";
            self.report(key, message, text.span(), "use visible ASCII characters and spaces");
        }
        self.template(key, text, names)
    }

    /// The URLs in the order in which [`oauth::Config`] has them, then the issuer; `None` if one that
    /// is needed is missing or broken.
    fn urls(&mut self, grant: GrantType, names: &Names) -> Option<[Option<Template>; 6]> {
        let section = self.section;
        if section.issuer.is_absent() && grant.makes_token_requests() {
            let fix = "write token_url = \"https://…\", or issuer = \"https://…\"";
            self.require(&section.token_url, "token_url", fix);
        }
        let fields = [
            ("token_url", &section.token_url),
            ("refresh_url", &section.refresh_url),
            ("revoke_url", &section.revoke_url),
            ("auth_url", &section.auth_url),
            ("device_url", &section.device_url),
            ("issuer", &section.issuer),
        ];
        let urls = fields.map(|(key, field)| self.url(key, field, names));
        let usable =
            !grant.makes_token_requests() || urls.first()?.is_some() || urls.last()?.is_some();
        usable.then_some(urls)
    }

    /// A URL with names in it.
    pub(super) fn url(
        &mut self,
        key: &str,
        field: &Field<String>,
        names: &Names,
    ) -> Option<Template> {
        let text = field.given()?;
        let template = self.template(key, text, names)?;
        let any = |name: &str| (name.to_owned(), "x".to_owned());
        let variables: Variables = template.variables().map(any).collect();
        let sample =
            template.expand(Values { variables: Some(&variables), ..Values::at(UNIX_EPOCH) });
        // What follows the token request carries the token, and goes elsewhere.
        let is_step = key.starts_with("steps");
        let token_http = self.section.token_http.or(false) && !is_step;
        match parse_url(&sample, self.section.allow_http.or(false) || token_http) {
            Ok(()) => Some(template),
            Err((message, fix)) => {
                self.report(key, message, text.span(), fix);
                None
            }
        }
    }

    fn client_secret(&mut self, grant: GrantType, auth: ClientAuthentication) -> Option<Secret> {
        let section = self.section;
        let word = match section.client_auth.get() {
            Some(config::ClientAuth::BasicRaw) => "basic_raw",
            Some(config::ClientAuth::Both) => "both",
            Some(config::ClientAuth::ClientSecretJwt) => "client_secret_jwt",
            _ => "basic",
        };
        let by_certificate = !section.client_cert.is_absent();
        let needed = match (grant, auth) {
            (_, ClientAuthentication::None | ClientAuthentication::PrivateKeyJwt) => None,
            (GrantType::Custom | GrantType::SelfSignedJwt | GrantType::Static, _) => None,
            (GrantType::ClientCredentials, _) if !by_certificate => {
                Some("the client_credentials grant".to_owned())
            }
            (_, ClientAuthentication::Post) => None,
            (_, _) => Some(format!("client_auth = \"{word}\"")),
        };
        if let (Some(why), true) = (needed, section.client_secret.is_absent()) {
            let problem =
                Problem::error(format!("`{}.client_secret` is missing: {why} needs it", self.path));
            self.review.missing(
                problem.at(self.span.clone()).fix("write client_secret = { file = \"PATH\" }"),
            );
        }
        let given = section.client_secret.given()?;
        match given.get_ref() {
            ClientSecret::Empty => Some(Secret::new(String::new())),
            ClientSecret::Kept(source) => {
                let place = Spanned::new(given.span(), source.clone());
                let field = Field::Given(place.clone());
                match self.is_own("client_secret", InstanceSecret::ClientSecret, &field) {
                    // Each slot puts its own in this place.
                    true => Some(Secret::new(String::new())),
                    false => self.secret("client_secret", &place),
                }
            }
        }
    }

    /// The secret at a place, unless that has been reported.
    pub(super) fn secret(&mut self, key: &str, place: &Spanned<SecretSource>) -> Option<Secret> {
        let field = Field::Given(place.clone());
        let (source, span) = self.source(&field)?;
        self.read(&source, span.clone())
            .map_err(|error| self.unreadable(key, &error.to_string(), span))
            .ok()
    }

    /// A key or a certificate; `None` also if nothing may be read.
    pub(super) fn lines(&mut self, key: &str, place: &Spanned<SecretSource>) -> Option<Secret> {
        let field = Field::Given(place.clone());
        let (source, span) = self.source(&field)?;
        match self.review.read_lines(&source) {
            Ok(lines) => lines,
            Err(error) => {
                self.unreadable(key, &error.to_string(), span);
                None
            }
        }
    }

    fn client_cert(&mut self) -> Option<ClientCert> {
        let given = self.section.client_cert.given()?;
        let table = given.get_ref();
        let whole = "write client_cert = { cert = \"client.pem\", key = \"client.key\" }";
        for (key, absent) in [("cert", table.cert.is_absent()), ("key", table.key.is_absent())] {
            if absent {
                self.report(&format!("client_cert.{key}"), "is missing", given.span(), whole);
            }
        }
        self.refuse_bind_without_tls(table);
        let (cert, key) = (table.cert.given()?, table.key.given()?);
        let path = SecretSource::File(self.review.path(cert.get_ref()));
        let chain = match self.review.read_lines(&path) {
            Ok(chain) => chain?,
            Err(error) => {
                self.unreadable("client_cert.cert", &error.to_string(), cert.span());
                return None;
            }
        };
        let place = Spanned::new(key.span(), key.get_ref().0.clone());
        let private = self.lines("client_cert.key", &place)?;
        let bind = table.bind.or(false);
        match ClientCert::from_pem(chain.expose(), &private, bind, &tls::provider()) {
            Ok(identity) => Some(identity),
            Err(error) => {
                let (name, span) = match error {
                    ClientCertError::Certificate(_) => ("client_cert.cert", cert.span()),
                    _ => ("client_cert.key", key.span()),
                };
                self.report(name, &error.to_string(), span, error.fix());
                None
            }
        }
    }

    /// A request in plain http shows no certificate.
    fn refuse_bind_without_tls(&mut self, table: &ClientCertTable) {
        let bind = table.bind.given().filter(|bind| *bind.get_ref());
        if let (Some(bind), true) = (bind, self.section.allow_http.or(false)) {
            let message = "needs TLS to the API, and `allow_http` lets requests go without";
            let fix = "leave allow_http out, or write bind = false if the tokens are not bound to the certificate";
            self.report("client_cert.bind", message, bind.span(), fix);
        }
    }
}

/// Is it the URL of an endpoint? Else why not, and what to write.
fn parse_url(text: &str, allow_http: bool) -> Result<(), (&'static str, &'static str)> {
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
            "write https://; plain http is for loopback hosts, or with token_http = true (allow_http = true: \
             for requests to the API as well)",
        ));
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

pub(super) fn grant_type(section: &CredentialSection) -> GrantType {
    grant(section.grant.or(config::Grant::RefreshToken))
}

pub(super) fn grant(grant: config::Grant) -> GrantType {
    match grant {
        config::Grant::RefreshToken => GrantType::RefreshToken,
        config::Grant::ClientCredentials => GrantType::ClientCredentials,
        config::Grant::Password => GrantType::Password,
        config::Grant::JwtBearer => GrantType::JwtBearer,
        config::Grant::TokenExchange => GrantType::TokenExchange,
        config::Grant::DeviceCode => GrantType::DeviceCode,
        config::Grant::AuthorizationCode => GrantType::AuthorizationCode,
        config::Grant::SelfSignedJwt => GrantType::SelfSignedJwt,
        config::Grant::Custom => GrantType::Custom,
        config::Grant::Static => GrantType::Static,
    }
}

pub(super) fn client_auth(section: &CredentialSection) -> ClientAuthentication {
    match section.client_auth.or(config::ClientAuth::Post) {
        config::ClientAuth::Post => ClientAuthentication::Post,
        config::ClientAuth::Basic => ClientAuthentication::Basic,
        config::ClientAuth::BasicRaw => ClientAuthentication::BasicRaw,
        config::ClientAuth::Both => ClientAuthentication::Both,
        config::ClientAuth::None => ClientAuthentication::None,
        config::ClientAuth::PrivateKeyJwt => ClientAuthentication::PrivateKeyJwt,
        config::ClientAuth::ClientSecretJwt => ClientAuthentication::ClientSecretJwt,
    }
}

pub(super) fn encoding(field: &Field<config::Encoding>) -> Encoding {
    match field.or(config::Encoding::Form) {
        config::Encoding::Form => Encoding::Form,
        config::Encoding::Json => Encoding::Json,
        config::Encoding::Query => Encoding::Query,
        config::Encoding::Get => Encoding::Get,
    }
}

/// The place of a key in the file, for findings about what it lacks.
pub(super) fn place_of<T>(field: &Field<T>, otherwise: &Range<usize>) -> Range<usize> {
    field.given().map_or_else(|| otherwise.clone(), Spanned::span)
}
