//! Builds token requests. A pure function of configuration, grant and context, so that tests can
//! inspect every request.

mod builder;
mod form;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::{HeaderMap, HeaderValue, Method};
use url::Url;

use self::builder::RequestBuilder;
pub(super) use self::form::Form;
use super::{ClientCert, Config, Grant, SigningKeyError, TokenKind};
use crate::dpop;
use crate::secret::Secret;
use crate::template::{Template, Values, Variables, percent_encode};

/// The inputs of a token request besides the configuration and the grant.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequestContext<'a> {
    /// The time of the request, which becomes the start of the new token's lifetime. Pass the time
    /// before sending, not the time of the answer, so that a slow server shortens the assumed
    /// lifetime instead of extending it.
    pub now: SystemTime,
    /// The access token that is to be replaced, for servers that require it.
    pub access_token: Option<&'a Secret>,
    /// The values of this slot's variables.
    pub variables: &'a Variables,
    /// The key that the tokens are bound to, if any.
    pub proof: Option<DpopBinding<'a>>,
    /// How long to wait for the answer after the request was sent.
    pub response_timeout: Duration,
}

/// The proof of possession in a token request (RFC 9449 §5).
#[derive(Clone, Copy, Debug)]
pub struct DpopBinding<'a> {
    /// The key that the tokens are bound to.
    pub key: &'a dpop::ProofKey,
    /// The nonce that the authorization server requires, if any.
    pub nonce: Option<&'a str>,
}

impl TokenRequestContext<'_> {
    pub(super) fn values(&self) -> Values<'_> {
        Values {
            access_token: self.access_token.map_or("", Secret::expose),
            variables: Some(self.variables),
            ..Values::at(self.now)
        }
    }
}

/// A request to the authorization server.
#[derive(Clone)]
pub struct TokenRequest {
    /// `POST`, or `GET` if the configured encoding requires it.
    pub method: Method,
    /// The target. Its query may contain secrets.
    pub url: Url,
    /// All header fields except `Host` and `Content-Length`. Secret ones are marked sensitive.
    pub fields: HeaderMap,
    /// The body, empty if the parameters are in the query.
    pub body: Secret,
    /// The client certificate to present, if any.
    pub client_cert: Option<ClientCert>,
    /// Secrets in this request that are not in the configuration. Messages must mask them.
    pub secrets: Vec<Secret>,
}

/// Omits the query and the body, which may contain secrets.
impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, url, fields, .. } = self;
        let (scheme, host, path) = (url.scheme(), url.host_str().unwrap_or_default(), url.path());
        write!(f, "TokenRequest({method} {scheme}://{host}{path}, {fields:?})")
    }
}

/// Why a request could not be built. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The URL is not configured and the issuer does not publish it.
    #[error("there is no {0}: neither the configuration nor the issuer names one")]
    NoUrl(&'static str),
    /// The URL is invalid after its variables were expanded.
    #[error("the {0} with its variables filled in is not a URL")]
    Url(&'static str),
    /// The configuration has no such grant.
    #[error("there is no {0} to present")]
    NoGrant(&'static str),
    /// The assertion could not be signed.
    #[error("the key of the assertion {0}")]
    Key(#[from] SigningKeyError),
}

/// The URLs of an authorization server with their variables expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The issuer, if configured.
    pub issuer: Option<String>,
    /// The token endpoint, as it appears in the audience of assertions.
    pub token: Option<Url>,
    /// The token endpoint for clients that present a certificate, if different (RFC 8705 §5).
    pub token_alias: Option<Url>,
    /// The endpoint for refresh tokens, if different from the token endpoint.
    pub refresh: Option<Url>,
    /// The revocation endpoint.
    pub revoke: Option<Url>,
    /// The authorization endpoint.
    pub authorize: Option<Url>,
    /// The device authorization endpoint.
    pub device: Option<Url>,
}

impl Endpoints {
    /// Expands the configured URLs.
    ///
    /// # Errors
    ///
    /// [`RequestError::Url`] if a URL is invalid after expansion.
    pub fn of(config: &Config, context: TokenRequestContext<'_>) -> Result<Self, RequestError> {
        let url = |template: &Option<Template>, what| {
            template
                .as_ref()
                .map(|template| expand_url(template, what, context.values()))
                .transpose()
        };
        let token = url(&config.token_url, "token_url")?;
        Ok(Self {
            issuer: config.issuer.as_ref().map(|template| template.expand(context.values())),
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

    /// The audience of an assertion (RFC 7523 §3).
    pub(super) fn audience(&self) -> &str {
        let token = self.token.as_ref().map(Url::as_str);
        self.issuer.as_deref().or(token).unwrap_or_default()
    }
}

/// Expands a URL. Values of request variables are percent-encoded, so they cannot change the URL's
/// structure.
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

/// The tokens that a token exchange presents, read for each request.
#[derive(Clone, Debug, Default)]
pub struct ExchangeTokens {
    /// The subject token.
    pub subject_token: Option<Secret>,
    /// The actor token, if configured.
    pub actor_token: Option<Secret>,
}

impl TokenRequest {
    /// Builds the request for `grant`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]. Nothing was sent.
    pub fn new(
        config: &Config,
        endpoints: &Endpoints,
        exchange_tokens: &ExchangeTokens,
        grant: Grant<'_>,
        context: TokenRequestContext<'_>,
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
        let values = Values { token_url, refresh_token, ..context.values() };
        let mut builder = RequestBuilder::new(config, endpoints, values)?;
        builder.present(grant, exchange_tokens)?;
        let RequestBuilder { mut form, mut fields, secrets, assertion, values, .. } = builder;
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
        if let Some(DpopBinding { key, nonce }) = context.proof {
            let target = without_query(&url);
            let proof = key.proof(dpop::ProofInput {
                method: &method,
                target: target.as_str(),
                now: context.now,
                access_token: None,
                nonce,
            });
            fields.insert(&dpop::DPOP, proof);
        }
        let client_cert = config.client_cert.clone();
        let current = context.access_token.cloned();
        let secrets = secrets.into_iter().chain(assertion).chain(current).collect();
        Ok(Self { method, url, fields, body, client_cert, secrets })
    }

    /// Builds the request that revokes `token` (RFC 7009 §2.1). It is always form-encoded,
    /// independently of the encoding for the token endpoint.
    ///
    /// # Errors
    ///
    /// [`RequestError`]. Nothing was sent.
    pub fn revocation(
        config: &Config,
        endpoints: &Endpoints,
        token: &Secret,
        kind: TokenKind,
        context: TokenRequestContext<'_>,
    ) -> Result<Self, RequestError> {
        let url = endpoints.revoke.clone().ok_or(RequestError::NoUrl("revoke_url"))?;
        let token_url = endpoints.token.as_ref().map_or("", Url::as_str);
        let mut builder =
            RequestBuilder::new(config, endpoints, Values { token_url, ..context.values() })?;
        builder.form.add("token", token.expose());
        builder.form.add("token_type_hint", kind.hint());
        builder.authenticate()?;
        add_fields(&mut builder.fields, &config.headers, builder.values);
        let mut fields = builder.fields;
        let (method, url, body) = builder.form.encode(super::Encoding::Form, url, &mut fields);
        let secrets = builder.secrets.into_iter().chain([token.clone()]).collect();
        Ok(Self { method, url, fields, body, client_cert: config.client_cert.clone(), secrets })
    }

    /// Builds a request for a public document.
    pub(super) fn get(url: Url, client_cert: Option<ClientCert>) -> Self {
        let (method, fields, body) = (Method::GET, default_fields(), Secret::new(String::new()));
        Self { method, url, fields, body, client_cert, secrets: Vec::new() }
    }
}

/// The target URI of a proof (RFC 9449 §4.2).
fn without_query(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// Adds the configured header fields, replacing default ones.
pub(super) fn add_fields(
    fields: &mut HeaderMap,
    templates: &[(http::HeaderName, Template)],
    values: Values<'_>,
) {
    for (name, template) in templates {
        // The template's text was validated; deferred values are tokens or visible ASCII.
        if let Ok(value) = template.expand_field(values) {
            fields.insert(name, value);
        }
    }
}

pub(super) fn default_fields() -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        // Without it, a server may choose any content coding (RFC 9110 §12.5.3).
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ])
}
