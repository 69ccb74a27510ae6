//! Collects the parameters and fields of one token request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use url::form_urlencoded;

use super::{Endpoints, ExchangeTokens, Form, RequestError, default_fields};
use crate::oauth::assertion::AssertionPurpose;
use crate::oauth::{Assertion, Bootstrap, ClientAuthentication, Config, Grant, OwnGrant};
use crate::secret::Secret;
use crate::template::{DeferredName, Values};

/// A token request under construction.
pub(super) struct RequestBuilder<'a> {
    pub(super) config: &'a Config,
    pub(super) endpoints: &'a Endpoints,
    pub(super) values: Values<'a>,
    pub(super) client_id: String,
    pub(super) form: Form,
    pub(super) fields: HeaderMap,
    pub(super) secrets: Vec<Secret>,
    /// The value of `${assertion}`.
    pub(super) assertion: Option<Secret>,
}

impl<'a> RequestBuilder<'a> {
    pub(super) fn new(
        config: &'a Config,
        endpoints: &'a Endpoints,
        values: Values<'a>,
    ) -> Result<Self, RequestError> {
        let client_id = config.client_id.as_ref().map(|it| it.expand(values)).unwrap_or_default();
        let (form, fields, secrets) = (Form::default(), default_fields(), Vec::new());
        let mut builder =
            Self { config, endpoints, values, client_id, form, fields, secrets, assertion: None };
        if let Some(assertion) = config.assertion.as_ref().filter(|_| uses_assertion(config)) {
            let signed = assertion.sign(
                AssertionPurpose::Grant,
                &builder.client_id,
                endpoints.audience(),
                values,
            )?;
            builder.assertion = Some(signed);
        }
        Ok(builder)
    }

    /// Adds the grant, the scope and the client authentication.
    pub(super) fn present(
        &mut self,
        grant: Grant<'_>,
        exchange_tokens: &ExchangeTokens,
    ) -> Result<(), RequestError> {
        let config = self.config;
        let mut scope = config.scope.as_ref();
        match grant {
            Grant::RefreshToken(token) => {
                self.form.add("grant_type", "refresh_token");
                self.form.add("refresh_token", token.expose());
                self.secrets.push(token.clone());
            }
            Grant::AuthorizationCode { code, redirect_uri, verifier } => {
                self.form.add("grant_type", "authorization_code");
                self.form.add("code", code.expose());
                self.form.add("redirect_uri", redirect_uri);
                if let Some(verifier) = verifier {
                    self.form.add("code_verifier", verifier.expose());
                }
                self.secrets.extend(verifier.into_iter().chain([code]).cloned());
                // The scope was requested with the code (RFC 6749 §4.1.3).
                scope = None;
            }
            Grant::DeviceCode(code) => {
                self.form.add("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
                self.form.add("device_code", code.expose());
                self.secrets.push(code.clone());
                scope = None;
            }
            Grant::Own => {
                let own = config.own.as_ref().ok_or(RequestError::NoGrant("grant of its own"))?;
                if self.present_own(own, exchange_tokens)? {
                    return Ok(());
                }
            }
            Grant::Bootstrap => {
                let bootstrap: &Bootstrap =
                    config.bootstrap.as_ref().ok_or(RequestError::NoGrant("bootstrap"))?;
                scope = bootstrap.scope.as_ref().or(scope);
                if self.present_own(&bootstrap.grant, exchange_tokens)? {
                    return Ok(());
                }
            }
        }
        if let Some(scope) = scope {
            self.form.add("scope", &scope.expand(self.values));
        }
        self.authenticate()
    }

    /// Adds the grant's own parameters. Returns true if the operator configures everything else.
    fn present_own(
        &mut self,
        own: &OwnGrant,
        exchange_tokens: &ExchangeTokens,
    ) -> Result<bool, RequestError> {
        match own {
            OwnGrant::ClientCredentials => self.form.add("grant_type", "client_credentials"),
            OwnGrant::Password { username, password } => {
                self.form.add("grant_type", "password");
                self.form.add("username", &username.expand(self.values));
                self.form.add("password", password.expose());
            }
            OwnGrant::JwtBearer => {
                let assertion = self.assertion.clone();
                let assertion = assertion.ok_or(RequestError::NoGrant("assertion"))?;
                self.form.add("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                self.form.add("assertion", assertion.expose());
            }
            OwnGrant::TokenExchange(exchange) => {
                let subject = exchange_tokens.subject_token.as_ref();
                let subject = subject.ok_or(RequestError::NoGrant("subject_token"))?;
                let kind = "urn:ietf:params:oauth:grant-type:token-exchange";
                self.form.add("grant_type", kind);
                self.form.add("subject_token", subject.expose());
                self.form.add("subject_token_type", &exchange.subject_token_type);
                self.secrets.push(subject.clone());
                if let Some((_, kind)) = &exchange.actor {
                    let actor = exchange_tokens.actor_token.as_ref();
                    let actor = actor.ok_or(RequestError::NoGrant("actor_token"))?;
                    self.form.add("actor_token", actor.expose());
                    self.form.add("actor_token_type", kind);
                    self.secrets.push(actor.clone());
                }
            }
            OwnGrant::Custom => return Ok(true),
            OwnGrant::SelfSignedJwt | OwnGrant::Static => {
                return Err(RequestError::NoGrant("grant that takes a token request"));
            }
        }
        Ok(false)
    }

    /// Adds the client authentication. A client without a secret only sends its identifier. Uses
    /// one method per request (RFC 6749 §2.3) except with [`ClientAuthentication::Both`].
    pub(super) fn authenticate(&mut self) -> Result<(), RequestError> {
        let id = self.client_id.clone();
        match (&self.config.client_secret, self.config.client_auth) {
            (
                secret,
                ClientAuthentication::PrivateKeyJwt | ClientAuthentication::ClientSecretJwt,
            ) => {
                let assertion = self.config.assertion.as_ref();
                let assertion = match (assertion, secret) {
                    (Some(assertion), _) => self.client_assertion(assertion)?,
                    (None, _) => return Err(RequestError::NoGrant("assertion")),
                };
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                self.form.add("client_id", &id);
                self.form.add("client_assertion_type", kind);
                self.form.add("client_assertion", assertion.expose());
                self.secrets.push(assertion);
            }
            (None, _) | (_, ClientAuthentication::None) if id.is_empty() => {}
            (None, _) | (_, ClientAuthentication::None) => self.form.add("client_id", &id),
            (Some(secret), ClientAuthentication::Post) => {
                self.form.add("client_id", &id);
                self.form.add("client_secret", secret.expose());
            }
            (Some(secret), ClientAuthentication::Basic) => {
                self.add_basic(&encoded_pair(&id, secret));
            }
            (Some(secret), ClientAuthentication::BasicRaw) => {
                self.add_basic(&format!("{id}:{}", secret.expose()));
            }
            (Some(secret), ClientAuthentication::Both) => {
                self.add_basic(&encoded_pair(&id, secret));
                self.form.add("client_id", &id);
                self.form.add("client_secret", secret.expose());
            }
        }
        Ok(())
    }

    /// Adds HTTP Basic authentication. Some servers repeat the value in error messages, so it is
    /// masked like the secret itself.
    fn add_basic(&mut self, pair: &str) {
        let pair = STANDARD.encode(pair);
        let value = HeaderValue::try_from(format!("Basic {pair}"));
        let mut value = value.expect("base64 is visible ASCII");
        value.set_sensitive(true);
        self.fields.insert(AUTHORIZATION, value);
        self.secrets.push(Secret::new(pair));
    }

    /// Signs the client assertion. If the configured assertion is the grant, the client assertion
    /// uses the same key with default claims.
    fn client_assertion(&self, assertion: &Assertion) -> Result<Secret, RequestError> {
        let plain = has_assertion_grant(self.config).then(|| assertion.of_client());
        let assertion = plain.as_ref().unwrap_or(assertion);
        let aud = self.endpoints.audience();
        Ok(assertion.sign(AssertionPurpose::Client, &self.client_id, aud, self.values)?)
    }
}

fn has_assertion_grant(config: &Config) -> bool {
    let bootstrap = config.bootstrap.as_ref().map(|bootstrap| &bootstrap.grant);
    let is = |own: &&OwnGrant| matches!(own, OwnGrant::JwtBearer);
    config.own.as_ref().filter(is).or(bootstrap.filter(is)).is_some()
}

/// Returns true if the request contains an assertion besides the client's own.
fn uses_assertion(config: &Config) -> bool {
    let bootstrap = config.bootstrap.iter().flat_map(|bootstrap| &bootstrap.params);
    let parameters = config.params.iter().chain(&config.refresh_params).chain(bootstrap);
    let mut templates = parameters
        .flat_map(|parameter| &parameter.values)
        .chain(config.headers.iter().map(|(_, template)| template));
    has_assertion_grant(config) || templates.any(|template| template.has(DeferredName::Assertion))
}

fn encoded_pair(id: &str, secret: &Secret) -> String {
    format!("{}:{}", encode(id), encode(secret.expose()))
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
