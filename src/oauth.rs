//! The authorization server's protocol, as the OAuth client speaks it (RFC 6749).
//!
//! Building a token request and reading its answer are pure; one [`Transport::send`] stands between
//! them. This module keeps nothing and persists nothing: what becomes of a new token is decided by
//! [`token`](crate::token), which composes it with the store.
//!
//! Token requests follow no redirect, use no proxy, and always verify TLS: a redirected token
//! request would carry the OAuth client's secret to a host the operator did not name.

mod answer;
mod assertion;
mod belonging;
mod class;
mod discovery;
mod endpoint;
mod grant;
mod identity;
mod keyfile;
mod request;
mod steps;
mod transport;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use http::HeaderName;

use crate::dpop;
use crate::secret::{Fingerprint, Secret};
use crate::template::{Template, Values, Variables};

pub use answer::{
    AnswerRule, Comparison, Mapping, MemberPath, RawAnswer, ResponseFormat, Rotation, TimeUnit,
    TokenType, read,
};
pub use assertion::{
    Algorithm, Assertion, Claim, KeyFamily, SigningKey, SigningKeyError, Thumbprint,
};
pub use belonging::GrantIdentity;
pub use class::{Consumption, ErrorClass, ErrorPolicy, RetryPace};
pub use endpoint::{Revocation, TokenEndpoint, TokenKind};
pub use grant::{Bootstrap, Exchange, Grant, GrantRenewal, GrantType, OwnGrant};
pub use identity::{ClientCert, ClientCertError};
pub use keyfile::KeyFault;
pub use request::{Endpoints, ExchangeTokens, RequestError, TokenRequest};
pub use steps::{Step, StepResult};
pub use transport::{HttpTransport, Transport, TransportError};

/// How the OAuth client proves itself to the token endpoint (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAuthentication {
    /// `client_id` and `client_secret` in the body. The default: most servers take it.
    #[default]
    Post,
    /// HTTP Basic, identifier and secret form-encoded first, as the RFC says.
    Basic,
    /// HTTP Basic with the plain identifier and secret, as many servers expect it.
    BasicRaw,
    /// `Post` and `Basic` at once, which RFC 6749 §2.3 forbids and some servers want.
    Both,
    /// Only `client_id`, as a public client does, or one that is proven by its certificate.
    None,
    /// An assertion signed with the client's private key (RFC 7523 §2.2).
    PrivateKeyJwt,
    /// An assertion signed with the client's secret.
    ClientSecretJwt,
}

/// How the parameters of a token request travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// In the body, as a form. The default: RFC 6749 knows nothing else.
    #[default]
    Form,
    /// In the body, as one JSON object.
    Json,
    /// In the query of a POST without a body.
    Query,
    /// In the query of a GET.
    Get,
}

/// One token endpoint and the OAuth client registered there.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which grant to use.
    pub grant: GrantType,
    /// What [`Grant::Own`] presents; `None` for grants that take a person or a refresh token.
    pub own: Option<OwnGrant>,
    /// Where refresh tokens come from without a person.
    pub bootstrap: Option<Bootstrap>,
    /// The authorization server, whose published document fills in the URLs that are not given (RFC
    /// 8414, OpenID Connect Discovery).
    pub issuer: Option<Template>,
    /// The token endpoint. Its query is kept.
    pub token_url: Option<Template>,
    /// Where refresh tokens are presented. Default: the token endpoint.
    pub refresh_url: Option<Template>,
    /// Where tokens are given back (RFC 7009).
    pub revoke_url: Option<Template>,
    /// Where a person consents in a browser (RFC 6749 §3.1).
    pub auth_url: Option<Template>,
    /// Where a code for another device comes from (RFC 8628 §3.1).
    pub device_url: Option<Template>,
    /// The OAuth client's identifier; some grants need none.
    pub client_id: Option<Template>,
    /// The OAuth client's secret; public clients have none.
    pub client_secret: Option<Secret>,
    /// How identifier and secret are sent.
    pub client_auth: ClientAuthentication,
    /// The certificate shown in TLS.
    pub client_cert: Option<ClientCert>,
    /// The assertion, for the grants and client authentications that have one, and `${assertion}`.
    pub assertion: Option<Assertion>,
    /// How the parameters travel.
    pub encoding: Encoding,
    /// The scope to ask for, sent verbatim.
    pub scope: Option<Template>,
    /// Further parameters of every token request; they win over those that the grant needs.
    pub params: Vec<Parameter>,
    /// The same for the `refresh_token` grant alone; they win over `params`.
    pub refresh_params: Vec<Parameter>,
    /// Further fields of every token request.
    pub headers: Vec<(HeaderName, Template)>,
    /// How the answers are read.
    pub reading: ResponseFormat,
    /// What becomes of a refresh token in an answer. Default: it takes the place of the old one.
    pub rotation: Rotation,
    /// What is called after the token endpoint, in this order.
    pub steps: Vec<Step>,
    /// How long an answer is waited for once the request is on its way. Default 60 s: hanging up on a
    /// server that is slow loses the refresh token that it was about to send.
    pub timeout: Duration,
}

/// One parameter of a token request.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// It is sent once for each; none: it is not sent, even if the grant has it.
    pub values: Vec<Template>,
    /// In JSON it is a list, also with one value.
    pub list: bool,
}

impl Config {
    /// A confidential client at `token_url`, with everything else at its default.
    pub fn new(grant: GrantType, token_url: Template, client_id: Template) -> Self {
        let own = match grant {
            GrantType::ClientCredentials => Some(OwnGrant::ClientCredentials),
            GrantType::JwtBearer => Some(OwnGrant::JwtBearer),
            GrantType::SelfSignedJwt => Some(OwnGrant::SelfSignedJwt),
            GrantType::Custom => Some(OwnGrant::Custom),
            GrantType::Static => Some(OwnGrant::Static),
            _ => None,
        };
        Self {
            grant,
            own,
            bootstrap: None,
            issuer: None,
            token_url: Some(token_url),
            refresh_url: None,
            revoke_url: None,
            auth_url: None,
            device_url: None,
            client_id: Some(client_id),
            client_secret: None,
            client_auth: ClientAuthentication::default(),
            client_cert: None,
            assertion: None,
            encoding: Encoding::default(),
            scope: None,
            params: Vec::new(),
            refresh_params: Vec::new(),
            headers: Vec::new(),
            reading: ResponseFormat::default(),
            rotation: Rotation::default(),
            steps: Vec::new(),
            timeout: Duration::from_secs(60),
        }
    }

    /// Puts a password in the place of the configured one.
    pub fn set_password(&mut self, value: Secret) {
        let bootstrap = self.bootstrap.as_mut().map(|bootstrap| &mut bootstrap.grant);
        for grant in self.own.as_mut().into_iter().chain(bootstrap) {
            if let OwnGrant::Password { password, .. } = grant {
                *password = value.clone();
            }
        }
    }

    /// Changes whenever anything does that could make a refused grant succeed.
    pub fn fingerprint(&self) -> Fingerprint {
        let secret = self.client_secret.as_ref().map(Secret::fingerprint);
        let certificate = self.client_cert.as_ref().map(ClientCert::fingerprint);
        let mut shape = format!(
            "{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            self.grant, secret, self.client_auth, self.encoding, certificate
        );
        for text in [
            &self.issuer,
            &self.token_url,
            &self.refresh_url,
            &self.revoke_url,
            &self.auth_url,
            &self.device_url,
            &self.client_id,
            &self.scope,
        ] {
            _ = write!(shape, "\n{:?}", text.as_ref().map(Template::fingerprint));
        }
        if let Some(own) = &self.own {
            own.write_shape(&mut shape);
        }
        if let Some(bootstrap) = &self.bootstrap {
            bootstrap.grant.write_shape(&mut shape);
            _ = write!(shape, "\n{:?}", bootstrap.scope.as_ref().map(Template::fingerprint));
            write_parameters("bootstrap", &bootstrap.params, &mut shape);
        }
        if let Some(assertion) = &self.assertion {
            assertion.write_shape(&mut shape);
        }
        write_parameters("params", &self.params, &mut shape);
        write_parameters("refresh", &self.refresh_params, &mut shape);
        write_fields(&self.headers, &mut shape);
        for step in &self.steps {
            step.write_shape(&mut shape);
        }
        let reading = format!("{:?}", self.reading);
        if reading != format!("{:?}", ResponseFormat::default()) {
            _ = write!(shape, "\n{reading}");
        }
        Fingerprint::of(shape.as_bytes())
    }

    /// What may not stand in a message about an answer.
    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let bootstrap = self.bootstrap.iter();
        let parameters = self.params.iter().chain(&self.refresh_params);
        let parameters = parameters.chain(bootstrap.clone().flat_map(|it| &it.params));
        let in_parameters = parameters.flat_map(|parameter| &parameter.values);
        let in_fields = self.headers.iter().map(|(_, template)| template);
        let urls = [&self.issuer, &self.token_url, &self.refresh_url, &self.revoke_url];
        let texts = urls.into_iter().chain([&self.client_id, &self.scope]).flatten();
        let templates = in_parameters.chain(in_fields).chain(texts);
        let own = self.own.iter().chain(bootstrap.map(|it| &it.grant));
        self.client_secret
            .iter()
            .chain(templates.flat_map(Template::secrets))
            .chain(own.flat_map(OwnGrant::secrets))
            .chain(self.assertion.iter().flat_map(Assertion::secrets))
            .chain(self.steps.iter().flat_map(Step::secrets))
    }
}

fn write_parameters(list: &str, parameters: &[Parameter], shape: &mut String) {
    for Parameter { name, values, list: is_list } in parameters {
        let values: Vec<_> = values.iter().map(Template::fingerprint).collect();
        _ = write!(shape, "\n{list} {name:?} {values:?} {is_list}");
    }
}

fn write_fields(fields: &[(HeaderName, Template)], shape: &mut String) {
    for (name, template) in fields {
        _ = write!(shape, "\nheaders {name} {:?}", template.fingerprint());
    }
}

/// What a token request is made from, apart from the configuration and the grant.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// When it is made. Becomes the start of the new token's lifetime: pass the time at which the
    /// request is made, not that of the answer, so that a slow server shortens the lifetime we assume
    /// rather than lengthening it.
    pub now: SystemTime,
    /// The token that is to be replaced, for servers that want to see it.
    pub access_token: Option<&'a Secret>,
    /// What the variables of this slot stand for.
    pub variables: &'a Variables,
    /// What the tokens are to be bound to, if anything.
    pub proof: Option<DpopBinding<'a>>,
    /// How long an answer is waited for, once the request is on its way.
    pub listen: Duration,
}

/// What goes into the proof of possession of a token request (RFC 9449 §5).
#[derive(Clone, Copy, Debug)]
pub struct DpopBinding<'a> {
    /// The key that the tokens are bound to.
    pub key: &'a dpop::ProofKey,
    /// What the authorization server asked to see.
    pub nonce: Option<&'a str>,
}

impl RequestContext<'_> {
    fn values(&self) -> Values<'_> {
        Values {
            access_token: self.access_token.map_or("", Secret::expose),
            variables: Some(self.variables),
            ..Values::at(self.now)
        }
    }
}

/// What a token endpoint issued (RFC 6749 §5.1). An `id_token` is never kept.
#[derive(Clone, Debug)]
pub struct TokenResponse {
    /// What the API is shown; `None` where the old one was prolonged instead.
    pub access_token: Option<Secret>,
    /// How it is shown.
    pub token_type: TokenType,
    /// `None` when the answer had none: the one that was sent stays in use.
    pub refresh_token: Option<Secret>,
    /// Counted from before the request was sent; `None` when the answer gave no usable lifetime.
    pub expires_at: Option<SystemTime>,
    /// The same for the refresh token.
    pub refresh_expires_at: Option<SystemTime>,
    /// The same for the whole grant, which no refresh prolongs.
    pub grant_expires_at: Option<SystemTime>,
    /// The members that the credential's templates name, by their dotted paths.
    pub raw: BTreeMap<String, Secret>,
    /// The nonce for the next proof (RFC 9449 §8.2).
    pub dpop_nonce: Option<String>,
    /// What an operator should hear of once: oddities that were read around. Without secrets.
    pub notes: Vec<String>,
}

/// Why a token endpoint issued no access token, and what it said.
#[derive(Clone, Debug)]
pub struct GrantError {
    /// What it means.
    pub class: ErrorClass,
    /// The HTTP status, if an answer came.
    pub status: Option<u16>,
    /// The server's `error` code (RFC 6749 §5.2), cut and escaped.
    pub code: Option<String>,
    /// The server's explanation or the transport's, cut, escaped and without secrets.
    pub description: Option<String>,
    /// How long the server asks to be left alone.
    pub retry_after: Option<Duration>,
    /// A new refresh token in an answer that was otherwise unusable: still the only good one.
    pub salvaged: Option<Secret>,
    /// The beginning of a success from which no refresh token could be read, for an operator: the only
    /// copy may be in it.
    pub unread: Option<Secret>,
    /// The nonce for the next proof (RFC 9449 §8).
    pub dpop_nonce: Option<String>,
}

impl GrantError {
    fn unanswered(description: String) -> Self {
        Self::of_transport(ErrorClass::Ambiguous, description)
    }

    fn of_transport(class: ErrorClass, description: String) -> Self {
        Self {
            class,
            status: None,
            code: None,
            description: Some(description),
            retry_after: None,
            salvaged: None,
            unread: None,
            dpop_nonce: None,
        }
    }
}

impl From<TransportError> for GrantError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::NotSent(text) => Self::of_transport(ErrorClass::NotSent, text),
            TransportError::Unanswered(text) => Self::unanswered(text),
        }
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "the token endpoint answered {status}")?,
            None if self.class == ErrorClass::Ambiguous => {
                f.write_str("the token endpoint gave no answer that can be read")?;
            }
            None if self.class == ErrorClass::Config => {
                f.write_str("the token endpoint was not asked")?
            }
            None => f.write_str("the token endpoint could not be asked")?,
        }
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        match &self.description {
            Some(description) => write!(f, ": {description}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for GrantError {}
