//! The authorization server's protocol, as the OAuth client speaks it (RFC 6749).
//!
//! Building a token request and reading its answer are pure; one [`Transport::send`] stands between
//! them. This module keeps nothing and persists nothing: what becomes of a new token is decided by
//! [`token`](crate::token), which composes it with the store.
//!
//! Token requests follow no redirect, use no proxy, and always verify TLS: a redirected token
//! request would carry the OAuth client's secret to a host the operator did not name.

mod answer;
mod request;
mod transport;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use url::Url;

use crate::secret::{Fingerprint, Secret};
use crate::template::{Template, Values, Variables};

pub use answer::{
    AnswerRule, Comparison, Mapping, MemberPath, RawAnswer, Reading, Rotation, TokenType, Unit,
    read,
};
pub use request::TokenRequest;
pub use transport::{HttpTransport, Transport, TransportError};

/// How an access token is asked for (RFC 6749 §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    /// Exchange a refresh token (RFC 6749 §6).
    RefreshToken,
    /// The OAuth client's own authority (RFC 6749 §4.4).
    ClientCredentials,
}

/// What a credential lives on between two token requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Livelihood {
    /// A refresh token, which has to be kept and may be used up.
    RefreshToken,
    /// Nothing: the same request can be made again.
    Repeatable,
}

impl GrantType {
    /// What a credential of this grant lives on.
    pub fn lives_on(self) -> Livelihood {
        match self {
            Self::RefreshToken => Livelihood::RefreshToken,
            Self::ClientCredentials => Livelihood::Repeatable,
        }
    }
}

/// How a first refresh token is had without a person (RFC 6749 §4.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// The resource owner's name.
    pub username: String,
    /// The resource owner's password.
    pub password: Secret,
}

/// Which token is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A refresh token; most servers end the whole grant with it.
    RefreshToken,
    /// An access token.
    AccessToken,
}

/// What became of a token that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The server forgot it, or never knew it (RFC 7009 §2.2).
    Done,
    /// The server has no place for that, as far as the configuration says.
    NoEndpoint,
}

/// How the OAuth client proves itself to the token endpoint (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// `client_id` and `client_secret` in the body. The default: most servers take it.
    #[default]
    Post,
    /// HTTP Basic, identifier and secret form-encoded first, as the RFC says.
    Basic,
    /// HTTP Basic with the plain identifier and secret, as many servers expect it.
    BasicRaw,
}

/// One token endpoint and the OAuth client registered there.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which grant to use.
    pub grant: GrantType,
    /// The token endpoint. Its query is kept.
    pub token_url: Url,
    /// Where tokens are given back (RFC 7009).
    pub revoke_url: Option<Url>,
    /// The OAuth client's identifier.
    pub client_id: String,
    /// The OAuth client's secret; public clients have none.
    pub client_secret: Option<Secret>,
    /// How identifier and secret are sent.
    pub client_auth: ClientAuth,
    /// Where the first refresh token comes from, if neither a seed nor a login brings it.
    pub bootstrap: Option<Bootstrap>,
    /// The scope to ask for, sent verbatim.
    pub scope: Option<String>,
    /// Further parameters of every token request; they win over those that the grant needs.
    pub params: Vec<Parameter>,
    /// The same for the `refresh_token` grant alone; they win over `params`.
    pub refresh_params: Vec<Parameter>,
    /// Further fields of every token request.
    pub headers: Vec<(HeaderName, Template)>,
    /// How the answers are read.
    pub reading: Reading,
    /// What becomes of a refresh token in an answer. Default: it takes the place of the old one.
    pub rotation: Rotation,
    /// How long one whole token request may take. Default 10 s.
    pub timeout: Duration,
}

/// One parameter of a token request.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// It is sent once for each; none: it is not sent, even if the grant has it.
    pub values: Vec<Template>,
}

impl Config {
    /// Changes whenever anything does that could make a refused grant succeed.
    pub fn fingerprint(&self) -> Fingerprint {
        let secret = self.client_secret.as_ref().map(Secret::fingerprint);
        let mut shape = format!(
            "{:?}\n{}\n{}\n{:?}\n{:?}\n{:?}",
            self.grant, self.token_url, self.client_id, secret, self.client_auth, self.scope
        );
        for (list, parameters) in [("params", &self.params), ("refresh", &self.refresh_params)] {
            for Parameter { name, values } in parameters {
                let values: Vec<_> = values.iter().map(Template::fingerprint).collect();
                shape.push_str(&format!("\n{list} {name:?} {values:?}"));
            }
        }
        if let Some(Bootstrap { username, password }) = &self.bootstrap {
            shape.push_str(&format!("\nbootstrap {username:?} {:?}", password.fingerprint()));
        }
        for (name, template) in &self.headers {
            shape.push_str(&format!("\nheaders {name} {:?}", template.fingerprint()));
        }
        if self.reading != Reading::default() {
            shape.push_str(&format!("\n{:?}", self.reading));
        }
        Fingerprint::of(shape.as_bytes())
    }

    /// What may not stand in a message about an answer.
    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let parameters = self.params.iter().chain(&self.refresh_params);
        let in_parameters = parameters.flat_map(|parameter| &parameter.values);
        let in_fields = self.headers.iter().map(|(_, template)| template);
        let password = self.bootstrap.iter().map(|bootstrap| &bootstrap.password);
        self.client_secret
            .iter()
            .chain(password)
            .chain(in_parameters.chain(in_fields).flat_map(Template::secrets))
    }
}

/// What is presented to the token endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Grant<'a> {
    /// A refresh token.
    RefreshToken(&'a Secret),
    /// The configured bootstrap.
    Bootstrap,
    /// The credential's own grant, which needs nothing but the configuration and can be repeated.
    Own,
}

/// What a token request is made from, apart from the configuration and the grant.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// When it is made. Becomes the start of the new token's lifetime: pass the time at which the
    /// request is made, not that of the answer, so that a slow server shortens the lifetime we assume
    /// rather than lengthening it.
    pub now: SystemTime,
    /// The token that is to be replaced, for servers that want to see it.
    pub access_token: Option<&'a Secret>,
    /// What the variables of this slot stand for.
    pub variables: &'a Variables,
}

impl Given<'_> {
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
    /// The members that the credential's templates name, by their dotted paths.
    pub raw: BTreeMap<String, Secret>,
    /// The nonce for the next proof (RFC 9449 §8.2).
    pub dpop_nonce: Option<String>,
}

/// A token endpoint, ready to be asked.
#[derive(Clone, Debug)]
pub struct TokenEndpoint {
    config: Arc<Config>,
    transport: Arc<dyn Transport>,
}

impl TokenEndpoint {
    /// Joins a configuration with the way its requests travel.
    pub fn new(config: Config, transport: Arc<dyn Transport>) -> Self {
        Self { config: Arc::new(config), transport }
    }

    /// What this endpoint was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sends `grant` to the token endpoint and returns what it issued. Exactly one HTTP request is
    /// made.
    ///
    /// # Errors
    ///
    /// A [`GrantError`], whose [`Class`] says what to do next. Except for [`Class::NotSent`], the
    /// grant may have been consumed.
    ///
    /// # Cancellation
    ///
    /// Dropping this future after the request went out may lose the only copy of a rotated refresh
    /// token. Run it on a task that outlives the request that asked for it.
    pub async fn request(
        &self,
        grant: Grant<'_>,
        given: Given<'_>,
    ) -> Result<TokenResponse, GrantError> {
        let request = TokenRequest::new(&self.config, grant, given);
        let sent = tokio::time::timeout(self.config.timeout, self.transport.send(request)).await;
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(GrantError::unanswered("no answer in time".to_owned())),
        };
        let mut secrets: Vec<&Secret> = self.config.secrets().collect();
        if let Grant::RefreshToken(token) = grant {
            secrets.push(token);
        }
        read(&answer, &self.config.reading, given.now, &secrets)
    }

    /// Gives `token` back (RFC 7009).
    ///
    /// # Errors
    ///
    /// A [`GrantError`]; with [`Class::Transient`] and [`Class::Throttled`] it is worth asking again.
    pub async fn revoke(
        &self,
        token: &Secret,
        kind: TokenKind,
        given: Given<'_>,
    ) -> Result<Revocation, GrantError> {
        let Some(request) = TokenRequest::revocation(&self.config, token, kind) else {
            return Ok(Revocation::NoEndpoint);
        };
        let sent = tokio::time::timeout(self.config.timeout, self.transport.send(request)).await;
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(GrantError::unanswered("no answer in time".to_owned())),
        };
        if answer.status.is_success() {
            return Ok(Revocation::Done);
        }
        let secrets: Vec<&Secret> = self.config.secrets().chain([token]).collect();
        read(&answer, given.now, &secrets).map(|_| Revocation::Done)
    }
}

/// What a failed token request means (the first rule that matches, in `oauth/answer.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The grant is gone: asking again with it is pointless, and harmful where reuse is detected.
    GrantDead,
    /// A person has to sign in or consent; the refresh token may still be good.
    UserNeeded,
    /// Too many token requests; ask again after [`GrantError::retry_after`].
    Throttled,
    /// The server is in trouble; the grant may have been consumed all the same.
    Transient,
    /// The request never left: name, connection or TLS.
    NotSent,
    /// Sent, and no readable answer came.
    Ambiguous,
    /// The server refuses this OAuth client or this request, whatever the grant.
    Config,
    /// Reads like [`Class::Config`], but some servers say a dead grant this way.
    Doubtful,
    /// An answer that is no token response and no error (RFC 6749 §5).
    Protocol,
    /// The proof needs [`GrantError::dpop_nonce`]; ask once more with it (RFC 9449 §8).
    Nonce,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GrantDead => "grant_dead",
            Self::UserNeeded => "user_needed",
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::NotSent => "not_sent",
            Self::Ambiguous => "ambiguous",
            Self::Config => "config",
            Self::Doubtful => "doubtful",
            Self::Protocol => "protocol",
            Self::Nonce => "nonce",
        })
    }
}

/// Why a token endpoint issued no access token, and what it said.
#[derive(Clone, Debug)]
pub struct GrantError {
    /// What it means.
    pub class: Class,
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
    /// The nonce for the next proof (RFC 9449 §8).
    pub dpop_nonce: Option<String>,
}

impl GrantError {
    fn unanswered(description: String) -> Self {
        Self::of_transport(Class::Ambiguous, description)
    }

    fn of_transport(class: Class, description: String) -> Self {
        Self {
            class,
            status: None,
            code: None,
            description: Some(description),
            retry_after: None,
            salvaged: None,
            dpop_nonce: None,
        }
    }
}

impl From<TransportError> for GrantError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::NotSent(text) => Self::of_transport(Class::NotSent, text),
            TransportError::Unanswered(text) => Self::unanswered(text),
            TransportError::TooLong => {
                Self::of_transport(Class::Protocol, "an answer of more than 1 MiB".to_owned())
            }
        }
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "the token endpoint answered {status}")?,
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
