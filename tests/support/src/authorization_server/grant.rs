//! The grants of RFC 6749: client authentication, checks and the tokens issued.
//!
//! This module does not depend on HTTP connections. A grant is decided and recorded in
//! the ledgers in one step. The answer is a value that the caller may or may not send.

use std::time::Duration;

use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::config::{AuthorizationServerConfig, ClientAuth, ExpiresIn};
use super::request::TokenRequest;
use crate::refresh_tokens::{Presented, RefreshTokens, Rotation};
use crate::tokens::Tokens;

/// The settings that can change at run time.
pub(super) struct Policy {
    pub(super) rotation: Rotation,
    pub(super) expires_in: ExpiresIn,
    pub(super) access_token_lifetime: Duration,
    pub(super) revoke_previous_access_token: bool,
}

impl Policy {
    pub(super) fn new(config: &AuthorizationServerConfig) -> Policy {
        Policy {
            rotation: config.rotation,
            expires_in: config.expires_in.clone(),
            access_token_lifetime: config.access_token_lifetime,
            revoke_previous_access_token: config.revoke_previous_access_token,
        }
    }
}

/// An error response (RFC 6749 section 5.2).
pub(super) struct Refusal {
    pub(super) status: u16,
    error: &'static str,
    description: &'static str,
    /// True if WWW-Authenticate names the Basic scheme.
    pub(super) challenge: bool,
}

impl Refusal {
    fn new(error: &'static str, description: &'static str) -> Refusal {
        Refusal { status: 400, error, description, challenge: false }
    }

    fn client(tried_basic: bool) -> Refusal {
        Refusal {
            status: 401,
            challenge: tried_basic,
            ..Refusal::new("invalid_client", "client authentication failed")
        }
    }

    pub(super) fn to_value(&self) -> Value {
        json!({ "error": self.error, "error_description": self.description })
    }
}

/// Processes one token request against the ledgers of the server.
pub(super) struct GrantProcessor<'a> {
    pub(super) config: &'a AuthorizationServerConfig,
    pub(super) policy: &'a Policy,
    pub(super) refresh_tokens: &'a mut RefreshTokens,
    pub(super) tokens: &'a Tokens,
}

impl GrantProcessor<'_> {
    /// Decides a request and updates the ledgers.
    pub(super) fn decide(&mut self, request: &TokenRequest) -> Result<Value, Refusal> {
        check_form(request)?;
        authenticate(self.config, request)?;
        match required(request, "grant_type")? {
            "refresh_token" => self.refresh(required(request, "refresh_token")?),
            "client_credentials" => Ok(self.success(None, None)),
            "password" if self.config.resource_owner.is_some() => self.log_in(request),
            _ => Err(Refusal::new("unsupported_grant_type", "unsupported grant type")),
        }
    }

    fn refresh(&mut self, token: &str) -> Result<Value, Refusal> {
        match self.refresh_tokens.present(token, self.policy.rotation) {
            Presented::Accepted { family, returned } => Ok(self.success(Some(family), returned)),
            Presented::Invalid => Err(Refusal::new("invalid_grant", "unknown or revoked")),
            Presented::Reused { revoked } => Err(self.refuse_reuse(revoked)),
        }
    }

    fn refuse_reuse(&self, revoked: Option<u64>) -> Refusal {
        if let Some(family) = revoked {
            self.tokens.revoke_family(family);
        }
        Refusal::new("invalid_grant", "the refresh token was already used")
    }

    fn log_in(&mut self, request: &TokenRequest) -> Result<Value, Refusal> {
        let given = (required(request, "username")?, required(request, "password")?);
        let owner = self.config.resource_owner.as_ref();
        if owner.is_none_or(|(name, password)| given != (name, password)) {
            return Err(Refusal::new("invalid_grant", "wrong user name or password"));
        }
        let refresh_token = self.refresh_tokens.log_in();
        Ok(self.success(Some(self.refresh_tokens.family()), Some(refresh_token)))
    }

    fn success(&self, family: Option<u64>, refresh_token: Option<String>) -> Value {
        let access_token = self.issue(family);
        let optional = [
            ("refresh_token", refresh_token.map(Value::from)),
            ("expires_in", self.policy.expires_in.to_value()),
            ("token_type", self.config.token_type.clone().map(Value::from)),
            ("scope", self.config.scope.clone().map(Value::from)),
        ];
        let present = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let mut answer: Map<_, _> = present.map(|(name, value)| (name.into(), value)).collect();
        answer.insert("access_token".into(), access_token.into());
        answer.extend(self.config.extra.clone());
        answer.into()
    }

    fn issue(&self, family: Option<u64>) -> String {
        let lifetime = self.policy.access_token_lifetime;
        let Some(family) = family else {
            return self.tokens.issue_access_token(lifetime);
        };
        if self.policy.revoke_previous_access_token {
            self.tokens.revoke_family(family);
        }
        self.tokens.issue(family, lifetime)
    }
}

fn check_form(request: &TokenRequest) -> Result<(), Refusal> {
    match () {
        () if !request.is_form() => Err(malformed("the body is not a form")),
        () if request.repeats_a_parameter() => Err(malformed("a parameter is repeated")),
        () => Ok(()),
    }
}

fn malformed(description: &'static str) -> Refusal {
    Refusal::new("invalid_request", description)
}

fn required<'a>(request: &'a TokenRequest, name: &str) -> Result<&'a str, Refusal> {
    let value = request.param(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| malformed("a required parameter is missing"))
}

fn authenticate(config: &AuthorizationServerConfig, request: &TokenRequest) -> Result<(), Refusal> {
    let (basic, post) = (request.basic(), request.param("client_secret"));
    let tried_basic = request.headers.contains_key(http::header::AUTHORIZATION);
    let proven = match (basic, post, config.client_auth) {
        (Some(_), Some(_), _) => return Err(malformed("two ways of client authentication")),
        (Some(pair), None, ClientAuth::Any | ClientAuth::Basic) => is_basic_valid(config, &pair),
        (None, _, ClientAuth::Any | ClientAuth::Post) => {
            !tried_basic && is_post_valid(config, request)
        }
        _ => false,
    };
    proven.then_some(()).ok_or_else(|| Refusal::client(tried_basic))
}

fn is_post_valid(config: &AuthorizationServerConfig, request: &TokenRequest) -> bool {
    request.param("client_id") == Some(&config.client_id)
        && request.param("client_secret").unwrap_or("") == config.client_secret
}

/// RFC 6749 section 2.3.1 requires both halves to be form-encoded. Many clients and servers
/// do not encode them, so both forms are accepted.
fn is_basic_valid(config: &AuthorizationServerConfig, pair: &(String, String)) -> bool {
    let wanted = (&config.client_id, &config.client_secret);
    let decoded = (form_decoded(&pair.0), form_decoded(&pair.1));
    wanted == (&pair.0, &pair.1) || wanted == (&decoded.0, &decoded.1)
}

fn form_decoded(text: &str) -> String {
    // Parsed as a form key without a value, so the text must not contain form separators.
    let mut pairs = form_urlencoded::parse(text.as_bytes());
    pairs.next().map(|(key, _)| key.into_owned()).unwrap_or_default()
}
