//! A token request as bytes: pure, so that a test can look at every one of them.

mod form;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method};
use url::{Url, form_urlencoded};

use super::assertion::Purpose;
use super::{
    Assertion, Bootstrap, ClientAuthentication, ClientCert, Config, DpopBinding, Grant, OwnGrant,
    RequestContext, SigningKeyError, TokenKind,
};
use crate::dpop;
use crate::secret::Secret;
use crate::template::{DeferredName, Template, Values, Variables, percent_encode};
pub(super) use form::Form;

/// A request to the authorization server.
#[derive(Clone)]
pub struct TokenRequest {
    /// `POST`, or `GET` where a server wants that.
    pub method: Method,
    /// Where to. Its query may hold secrets.
    pub url: Url,
    /// All fields apart from `Host` and `Content-Length`; secret ones are marked sensitive.
    pub fields: HeaderMap,
    /// The content, empty where everything is in the query.
    pub body: Secret,
    /// The certificate to present.
    pub client_cert: Option<ClientCert>,
    /// What it carries and the configuration does not: nothing of it may stand in a message.
    pub secrets: Vec<Secret>,
}

/// The URL without its query.
impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, url, fields, .. } = self;
        let (scheme, host, path) = (url.scheme(), url.host_str().unwrap_or_default(), url.path());
        write!(f, "TokenRequest({method} {scheme}://{host}{path}, {fields:?})")
    }
}

/// Why there is no request to send: nothing has left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A URL is not configured, and the issuer does not publish it.
    #[error("there is no {0}: neither the configuration nor the issuer names one")]
    NoUrl(&'static str),
    /// A URL with its variables filled in is none.
    #[error("the {0} with its variables filled in is not a URL")]
    Url(&'static str),
    /// The configuration has nothing of this kind to present.
    #[error("there is no {0} to present")]
    NoGrant(&'static str),
    /// The assertion cannot be signed.
    #[error("the key of the assertion {0}")]
    Key(#[from] SigningKeyError),
}

/// The URLs of an authorization server, with variables filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The issuer, if one is configured.
    pub issuer: Option<String>,
    /// The token endpoint, as an audience knows it.
    pub token: Option<Url>,
    /// Where the requests for it go if the client shows a certificate (RFC 8705 §5).
    pub token_alias: Option<Url>,
    /// Where refresh tokens are presented.
    pub refresh: Option<Url>,
    /// Where tokens are given back.
    pub revoke: Option<Url>,
    /// Where a person consents.
    pub authorize: Option<Url>,
    /// Where a code for another device comes from.
    pub device: Option<Url>,
}

impl Endpoints {
    /// What the configuration says.
    ///
    /// # Errors
    ///
    /// [`RequestError::Url`], where the value of a variable does not fit.
    pub fn of(config: &Config, given: RequestContext<'_>) -> Result<Self, RequestError> {
        let url = |template: &Option<Template>, what| {
            template.as_ref().map(|template| expand_url(template, what, given.values())).transpose()
        };
        let token = url(&config.token_url, "token_url")?;
        Ok(Self {
            issuer: config.issuer.as_ref().map(|template| template.expand(given.values())),
            refresh: url(&config.refresh_url, "refresh_url")?,
            revoke: url(&config.revoke_url, "revoke_url")?,
            authorize: url(&config.auth_url, "auth_url")?,
            device: url(&config.device_url, "device_url")?,
            token,
            token_alias: None,
        })
    }

    fn token(&self) -> Result<&Url, RequestError> {
        self.token_alias.as_ref().or(self.token.as_ref()).ok_or(RequestError::NoUrl("token_url"))
    }

    /// Whom an assertion is for (RFC 7523 §3).
    pub(super) fn audience(&self) -> &str {
        let token = self.token.as_ref().map(Url::as_str);
        self.issuer.as_deref().or(token).unwrap_or_default()
    }
}

/// Fills in a URL. What a request brings along cannot leave its place in it.
pub(super) fn expand_url(
    template: &Template,
    what: &'static str,
    values: Values<'_>,
) -> Result<Url, RequestError> {
    let encoded: Variables = template
        .variables()
        .filter_map(|name| {
            Some((name.to_owned(), percent_encode(values.variables?.get(name)?).to_string()))
        })
        .collect();
    let text = template.expand(Values { variables: Some(&encoded), ..values });
    text.parse().map_err(|_| RequestError::Url(what))
}

/// Tokens of others, read for this one request.
#[derive(Clone, Debug, Default)]
pub struct ExchangeTokens {
    /// The subject token of an exchange.
    pub subject_token: Option<Secret>,
    /// The actor token.
    pub actor_token: Option<Secret>,
}

impl TokenRequest {
    /// Writes down the request for `grant`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; nothing has left then.
    pub fn new(
        config: &Config,
        endpoints: &Endpoints,
        material: &ExchangeTokens,
        grant: Grant<'_>,
        given: RequestContext<'_>,
    ) -> Result<Self, RequestError> {
        let url = match grant {
            Grant::RefreshToken(_) if endpoints.refresh.is_some() => endpoints.refresh.as_ref(),
            _ => None,
        };
        let url = url.map_or_else(|| endpoints.token(), Ok)?.clone();
        let token_url = endpoints.token.as_ref().map_or("", Url::as_str);
        let refresh_token = match grant {
            Grant::RefreshToken(token) => token.expose(),
            _ => "",
        };
        let values = Values { token_url, refresh_token, ..given.values() };
        let mut draft = Draft::new(config, endpoints, values)?;
        draft.present(grant, material)?;
        let Draft { mut form, mut fields, secrets, assertion, values, .. } = draft;
        let signed = assertion.as_ref().map_or("", Secret::expose);
        let values = Values { assertion: signed, ..values };
        form.replace(&config.params, values);
        match (grant, &config.bootstrap) {
            (Grant::RefreshToken(_), _) => form.replace(&config.refresh_params, values),
            (Grant::Bootstrap, Some(bootstrap)) => form.replace(&bootstrap.params, values),
            _ => {}
        }
        add_fields(&mut fields, &config.headers, values);
        let (method, url, body) = form.encode(config.encoding, url, &mut fields);
        if let Some(DpopBinding { key, nonce }) = given.proof {
            let target = without_query(&url);
            let proof = key.proof(dpop::ProofInput {
                method: &method,
                target: target.as_str(),
                now: given.now,
                access_token: None,
                nonce,
            });
            fields.insert(&dpop::DPOP, proof);
        }
        let client_cert = config.client_cert.clone();
        let current = given.access_token.cloned();
        let secrets = secrets.into_iter().chain(assertion).chain(current).collect();
        Ok(Self { method, url, fields, body, client_cert, secrets })
    }

    /// Writes down the request that gives `token` back (RFC 7009 §2.1). It is a form, whatever the
    /// token endpoint wants.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; nothing has left then.
    pub fn revocation(
        config: &Config,
        endpoints: &Endpoints,
        token: &Secret,
        kind: TokenKind,
        given: RequestContext<'_>,
    ) -> Result<Self, RequestError> {
        let url = endpoints.revoke.clone().ok_or(RequestError::NoUrl("revoke_url"))?;
        let token_url = endpoints.token.as_ref().map_or("", Url::as_str);
        let mut draft = Draft::new(config, endpoints, Values { token_url, ..given.values() })?;
        draft.form.add("token", token.expose());
        draft.form.add("token_type_hint", kind.hint());
        draft.authenticate()?;
        add_fields(&mut draft.fields, &config.headers, draft.values);
        let mut fields = draft.fields;
        let (method, url, body) = draft.form.encode(super::Encoding::Form, url, &mut fields);
        let secrets = draft.secrets.into_iter().chain([token.clone()]).collect();
        Ok(Self { method, url, fields, body, client_cert: config.client_cert.clone(), secrets })
    }

    /// A request for a public document.
    pub(super) fn get(url: Url, client_cert: Option<ClientCert>) -> Self {
        let (method, fields, body) = (Method::GET, accepting(), Secret::new(String::new()));
        Self { method, url, fields, body, client_cert, secrets: Vec::new() }
    }
}

/// A target as a proof names it (RFC 9449 §4.2).
fn without_query(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// Fields of the operator take the place of ours.
pub(super) fn add_fields(
    fields: &mut HeaderMap,
    templates: &[(http::HeaderName, Template)],
    values: Values<'_>,
) {
    for (name, template) in templates {
        // What is in the template has been checked; what comes late is a token or visible ASCII.
        if let Ok(value) = template.expand_field(values) {
            fields.insert(name, value);
        }
    }
}

pub(super) fn accepting() -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        // Without it a server may choose any coding (RFC 9110 §12.5.3).
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ])
}

/// A request on its way to paper.
struct Draft<'a> {
    config: &'a Config,
    endpoints: &'a Endpoints,
    values: Values<'a>,
    client_id: String,
    form: Form,
    fields: HeaderMap,
    secrets: Vec<Secret>,
    /// What `${assertion}` stands for.
    assertion: Option<Secret>,
}

impl<'a> Draft<'a> {
    fn new(
        config: &'a Config,
        endpoints: &'a Endpoints,
        values: Values<'a>,
    ) -> Result<Self, RequestError> {
        let client_id = config.client_id.as_ref().map(|it| it.expand(values)).unwrap_or_default();
        let (form, fields, secrets) = (Form::default(), accepting(), Vec::new());
        let mut draft =
            Self { config, endpoints, values, client_id, form, fields, secrets, assertion: None };
        if let Some(assertion) = config.assertion.as_ref().filter(|_| names_assertion(config)) {
            let signed =
                assertion.sign(Purpose::Grant, &draft.client_id, endpoints.audience(), values)?;
            draft.assertion = Some(signed);
        }
        Ok(draft)
    }

    /// Writes what the grant needs, the scope, and who asks.
    fn present(&mut self, grant: Grant<'_>, material: &ExchangeTokens) -> Result<(), RequestError> {
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
                // It was asked for where the code came from (RFC 6749 §4.1.3).
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
                if self.present_own(own, material)? {
                    return Ok(());
                }
            }
            Grant::Bootstrap => {
                let bootstrap: &Bootstrap =
                    config.bootstrap.as_ref().ok_or(RequestError::NoGrant("bootstrap"))?;
                scope = bootstrap.scope.as_ref().or(scope);
                if self.present_own(&bootstrap.grant, material)? {
                    return Ok(());
                }
            }
        }
        if let Some(scope) = scope {
            self.form.add("scope", &scope.expand(self.values));
        }
        self.authenticate()
    }

    /// Returns whether the operator writes everything else.
    fn present_own(
        &mut self,
        own: &OwnGrant,
        material: &ExchangeTokens,
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
                let subject = material.subject_token.as_ref();
                let subject = subject.ok_or(RequestError::NoGrant("subject_token"))?;
                let kind = "urn:ietf:params:oauth:grant-type:token-exchange";
                self.form.add("grant_type", kind);
                self.form.add("subject_token", subject.expose());
                self.form.add("subject_token_type", &exchange.subject_token_type);
                self.secrets.push(subject.clone());
                if let Some((_, kind)) = &exchange.actor {
                    let actor = material.actor_token.as_ref();
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

    /// One method per request (RFC 6749 §2.3); a client without a secret only names itself.
    fn authenticate(&mut self) -> Result<(), RequestError> {
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

    /// Some servers repeat it in what they say, and it is as good as the secret.
    fn add_basic(&mut self, pair: &str) {
        let pair = STANDARD.encode(pair);
        let value = HeaderValue::try_from(format!("Basic {pair}"));
        let mut value = value.expect("base64 is visible ASCII");
        value.set_sensitive(true);
        self.fields.insert(AUTHORIZATION, value);
        self.secrets.push(Secret::new(pair));
    }

    /// Where the assertion is the grant, its texts describe that, and the client is proven by the
    /// same key with the default texts.
    fn client_assertion(&self, assertion: &Assertion) -> Result<Secret, RequestError> {
        let plain = is_granted_by_assertion(self.config).then(|| assertion.of_client());
        let assertion = plain.as_ref().unwrap_or(assertion);
        let aud = self.endpoints.audience();
        Ok(assertion.sign(Purpose::Client, &self.client_id, aud, self.values)?)
    }
}

fn is_granted_by_assertion(config: &Config) -> bool {
    let bootstrap = config.bootstrap.as_ref().map(|bootstrap| &bootstrap.grant);
    let is = |own: &&OwnGrant| matches!(own, OwnGrant::JwtBearer);
    config.own.as_ref().filter(is).or(bootstrap.filter(is)).is_some()
}

/// Is there anything that a signature is made for, apart from the client's own?
fn names_assertion(config: &Config) -> bool {
    let bootstrap = config.bootstrap.iter().flat_map(|bootstrap| &bootstrap.params);
    let parameters = config.params.iter().chain(&config.refresh_params).chain(bootstrap);
    let mut templates = parameters
        .flat_map(|parameter| &parameter.values)
        .chain(config.headers.iter().map(|(_, template)| template));
    is_granted_by_assertion(config)
        || templates.any(|template| template.has(DeferredName::Assertion))
}

fn encoded_pair(id: &str, secret: &Secret) -> String {
    format!("{}:{}", encode(id), encode(secret.expose()))
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
