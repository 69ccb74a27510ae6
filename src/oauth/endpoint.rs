//! A client of one token endpoint: builds requests, sends them and reads the answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Expectation, read_as};
use super::assertion::AssertionPurpose;
use super::discovery::{self, CacheLookup, Discovery, DiscoveryError};
use super::{
    Config, Endpoints, ErrorClass, Exchange, ExchangeTokens, Grant, GrantError, GrantRenewal,
    OwnGrant, RawAnswer, RequestError, Rotation, TokenRequest, TokenRequestContext, TokenResponse,
    TokenType, Transport, read, steps,
};
use crate::secret::{Secret, SecretSource};
use crate::template::{Template, Values};

/// Timeout for reading the tokens of an exchange, which come from local files and commands.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// A client of one token endpoint.
#[derive(Clone, Debug)]
pub struct TokenEndpoint {
    config: Arc<Config>,
    transport: Arc<dyn Transport>,
    discovery: Arc<Discovery>,
}

/// The kind of token to revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A refresh token. Most servers revoke the whole grant with it.
    RefreshToken,
    /// An access token.
    AccessToken,
}

impl TokenKind {
    /// The `token_type_hint` (RFC 7009 §2.1).
    pub fn hint(self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::AccessToken => "access_token",
        }
    }
}

/// The result of a revocation request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The token is invalid now, or was unknown to the server (RFC 7009 §2.2).
    Done,
    /// No revocation endpoint is known.
    NoEndpoint,
}

impl TokenEndpoint {
    /// Creates a client with this configuration and transport.
    pub fn new(config: Config, transport: Arc<dyn Transport>) -> Self {
        Self { config: Arc::new(config), transport, discovery: Arc::default() }
    }

    /// The configuration of this endpoint.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Presents `grant` to the token endpoint and returns what it issued. The grant is sent exactly
    /// once; the issuer's document is fetched first if necessary. [`Self::follow`] makes the
    /// configured steps afterwards. The grants `self_signed_jwt` and `static` send no request.
    ///
    /// # Errors
    ///
    /// A [`GrantError`]. Its [`ErrorClass`] determines what to do next. Except with
    /// [`ErrorClass::NotSent`], the grant may have been consumed.
    ///
    /// # Cancellation
    ///
    /// Dropping this future after the request went out may lose the only copy of a rotated refresh
    /// token. Run it on a task that outlives the request that asked for it.
    pub async fn request(
        &self,
        grant: Grant<'_>,
        context: TokenRequestContext<'_>,
    ) -> Result<TokenResponse, GrantError> {
        match (grant, &self.config.own) {
            (Grant::Own, Some(OwnGrant::Static)) => return Ok(issued(String::new())),
            (Grant::Own, Some(OwnGrant::SelfSignedJwt)) => return self.self_signed(context),
            _ => {}
        }
        let endpoints = self.endpoints(context, |known| known.token.is_some()).await?;
        let exchange_tokens = self.exchange_tokens_in_time(grant).await?;
        let request =
            TokenRequest::new(&self.config, &endpoints, &exchange_tokens, grant, context)?;
        let carried = request.secrets.clone();
        let answer = self.send(request, context.response_timeout).await?;
        let own = match grant {
            Grant::Own => self.config.grant.renewal() == GrantRenewal::Repeatable,
            _ => false,
        };
        let wanted = Expectation {
            rotates: !own && self.config.rotation != Rotation::Ignore,
            for_steps: !self.config.steps.is_empty(),
        };
        let secrets = self.secrets(&carried);
        read_as(wanted, &answer, &self.config.reading, context.now, &secrets)
    }

    /// Revokes `token` (RFC 7009).
    ///
    /// # Errors
    ///
    /// A [`GrantError`]. [`ErrorClass::Transient`] and [`ErrorClass::Throttled`] are worth a retry.
    pub async fn revoke(
        &self,
        token: &Secret,
        kind: TokenKind,
        context: TokenRequestContext<'_>,
    ) -> Result<Revocation, GrantError> {
        let endpoints = self.endpoints(context, |known| known.revoke.is_some()).await?;
        if endpoints.revoke.is_none() {
            return Ok(Revocation::NoEndpoint);
        }
        let request = TokenRequest::revocation(&self.config, &endpoints, token, kind, context)?;
        let carried = request.secrets.clone();
        let answer = self.send(request, context.response_timeout).await?;
        if answer.status.is_success() {
            return Ok(Revocation::Done);
        }
        self.refusal(&answer, context, &carried).map(|_| Revocation::Done)
    }

    /// Returns all URLs of the authorization server: the configured ones, completed from the
    /// issuer's document. The document is fetched at most once a day, and at most once a minute
    /// while that fails.
    ///
    /// # Errors
    ///
    /// [`ErrorClass::NotSent`] if the issuer cannot be reached, [`ErrorClass::Config`] if its
    /// document cannot be trusted.
    pub async fn all_endpoints(
        &self,
        context: TokenRequestContext<'_>,
    ) -> Result<Endpoints, GrantError> {
        self.endpoints(context, |_| false).await
    }

    async fn endpoints(
        &self,
        context: TokenRequestContext<'_>,
        suffice: fn(&Endpoints) -> bool,
    ) -> Result<Endpoints, GrantError> {
        let configured = Endpoints::of(&self.config, context)?;
        let Some(issuer) = configured.issuer.clone().filter(|_| !suffice(&configured)) else {
            return Ok(configured);
        };
        match self.discovery.lookup(&issuer, context.now) {
            CacheLookup::Published(published) => return Ok(configured.or(*published)),
            CacheLookup::Failed(error) => return Err(error),
            CacheLookup::Fetch => {}
        }
        match self.discover(&issuer, context.response_timeout).await {
            Ok(published) => {
                self.discovery.store(&issuer, published.clone(), context.now);
                Ok(configured.or(published))
            }
            Err(error) => {
                tracing::warn!(%error, "the issuer's document could not be read");
                let old = self.discovery.record_failure(&issuer, error.clone(), context.now);
                old.map(|old| configured.or(old)).ok_or(error)
            }
        }
    }

    /// Fetches the issuer's document from either of its locations.
    async fn discover(
        &self,
        issuer: &str,
        response_timeout: Duration,
    ) -> Result<Endpoints, GrantError> {
        let hidden: Vec<&Secret> = self.config.issuer.iter().flat_map(Template::secrets).collect();
        let of_config = |error: DiscoveryError| {
            GrantError::without_answer(
                ErrorClass::Config,
                discovery::hide(error.to_string(), &hidden),
            )
        };
        let mut failure: Option<GrantError> = None;
        for url in discovery::locations(issuer).map_err(of_config)? {
            let request = TokenRequest::get(url, self.config.client_cert.clone());
            let response_timeout = response_timeout.min(discovery::TIMEOUT);
            let error = match self.transport.send(request, response_timeout).await {
                Ok(answer) if answer.status.is_success() => {
                    let mtls = self.config.client_cert.is_some();
                    match discovery::read(&answer.body, issuer, mtls) {
                        // The other location may have it.
                        Err(DiscoveryError::Json) => of_config(DiscoveryError::Json),
                        read => return read.map_err(of_config),
                    }
                }
                Ok(answer) => discovery::refusal(answer.status),
                // The other location is on the same host.
                Err(error) => {
                    let text = format!("the issuer could not be asked for its document: {error}");
                    return Err(GrantError::without_answer(ErrorClass::NotSent, text));
                }
            };
            // Prefer a temporary failure: it is worth a retry, whatever the other location answers.
            if failure.is_none() || error.class == ErrorClass::NotSent {
                failure = Some(error);
            }
        }
        let nowhere = || of_config(DiscoveryError::Issuer);
        Err(failure.unwrap_or_else(nowhere))
    }

    /// Makes the calls that follow a token request. They can be repeated with the same tokens, so
    /// the caller commits a new refresh token first.
    ///
    /// # Errors
    ///
    /// A [`GrantError`]. It says nothing about the grant, which was accepted.
    pub async fn follow(
        &self,
        mut tokens: TokenResponse,
        context: TokenRequestContext<'_>,
    ) -> Result<TokenResponse, GrantError> {
        for step in &self.config.steps {
            let access_token = tokens.access_token.as_ref().or(context.access_token);
            let values = Values {
                access_token: access_token.map_or("", Secret::expose),
                raw: Some(&tokens.raw),
                ..context.values()
            };
            let carried: Vec<Secret> =
                access_token.into_iter().chain(tokens.raw.values()).cloned().collect();
            let certificate = self.config.client_cert.clone();
            let made = async {
                let answer =
                    self.send(step.request(certificate, values)?, context.response_timeout).await?;
                if !answer.status.is_success() {
                    self.refusal(&answer, context, &carried)?;
                }
                step.read(&answer, self.config.reading.token_bytes, context.now).map_err(|why| {
                    GrantError::without_answer(ErrorClass::Unreadable, why.to_owned())
                })
            };
            match made.await {
                Ok(obtained) => obtained.add_to(&mut tokens),
                Err(error) => return Err(steps::failure(error)),
            }
        }
        Ok(tokens)
    }

    /// Reads the error of an unsuccessful answer.
    fn refusal(
        &self,
        answer: &RawAnswer,
        context: TokenRequestContext<'_>,
        carried: &[Secret],
    ) -> Result<TokenResponse, GrantError> {
        read(answer, &self.config.reading, context.now, &self.secrets(carried))
    }

    async fn send(
        &self,
        request: TokenRequest,
        response_timeout: Duration,
    ) -> Result<RawAnswer, GrantError> {
        Ok(self.transport.send(request, response_timeout).await?)
    }

    fn secrets<'a>(&'a self, carried: &'a [Secret]) -> Vec<&'a Secret> {
        self.config.secrets().chain(carried).collect()
    }

    fn self_signed(&self, context: TokenRequestContext<'_>) -> Result<TokenResponse, GrantError> {
        let assertion = self.config.assertion.as_ref();
        let assertion = assertion.ok_or(RequestError::NoGrant("assertion"))?;
        let endpoints = Endpoints::of(&self.config, context)?;
        let token_url = endpoints.token.as_ref().map_or("", url::Url::as_str);
        let values = Values { token_url, ..context.values() };
        let client_id = self.config.client_id.as_ref().map(|id| id.expand(values));
        let client_id = client_id.unwrap_or_default();
        let aud = endpoints.audience();
        let token = assertion
            .sign(AssertionPurpose::Grant, &client_id, aud, values)
            .map_err(RequestError::from)?;
        let expires_at = Some(assertion.expires_at(context.now));
        Ok(TokenResponse { access_token: Some(token), expires_at, ..issued(String::new()) })
    }

    /// Reads the exchange tokens with a timeout: a file may be on an unresponsive network mount,
    /// and the caller holds the lease.
    async fn exchange_tokens_in_time(
        &self,
        grant: Grant<'_>,
    ) -> Result<ExchangeTokens, GrantError> {
        let late = || "the token for the exchange could not be read in time".to_owned();
        let read =
            tokio::time::timeout(self.config.timeout.min(READ_LIMIT), self.exchange_tokens(grant))
                .await;
        read.unwrap_or_else(|_| Err(GrantError::without_answer(ErrorClass::NotSent, late())))
    }

    /// Reads the tokens that `grant` exchanges.
    async fn exchange_tokens(&self, grant: Grant<'_>) -> Result<ExchangeTokens, GrantError> {
        let own = match grant {
            Grant::Own => self.config.own.as_ref(),
            Grant::Bootstrap => self.config.bootstrap.as_ref().map(|it| &it.grant),
            _ => None,
        };
        let Some(OwnGrant::TokenExchange(exchange)) = own else {
            return Ok(ExchangeTokens::default());
        };
        let Exchange { subject_token, actor, .. } = &**exchange;
        let actor_token = match actor {
            Some((source, _)) => Some(read_secret(source).await?),
            None => None,
        };
        Ok(ExchangeTokens { subject_token: Some(read_secret(subject_token).await?), actor_token })
    }
}

/// Reads a secret on a blocking thread, because files may be on slow disks and commands take time.
async fn read_secret(source: &SecretSource) -> Result<Secret, GrantError> {
    let source = source.clone();
    let not_sent = |text: String| GrantError::without_answer(ErrorClass::NotSent, text);
    match tokio::task::spawn_blocking(move || source.read()).await {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(error)) => Err(not_sent(error.to_string())),
        Err(_) => Err(not_sent("reading a token was interrupted".to_owned())),
    }
}

/// A response for an access token that was not requested from a server.
fn issued(access_token: String) -> TokenResponse {
    TokenResponse {
        access_token: Some(Secret::new(access_token)),
        refresh_token: None,
        expires_at: None,
        token_type: TokenType::Bearer,
        refresh_expires_at: None,
        grant_expires_at: None,
        raw: BTreeMap::new(),
        dpop_nonce: None,
        notes: Vec::new(),
    }
}

impl From<RequestError> for GrantError {
    fn from(error: RequestError) -> Self {
        Self::without_answer(ErrorClass::Config, error.to_string())
    }
}

#[cfg(test)]
mod tests;
