//! What can be presented to a token endpoint: the grants (RFC 6749 §1.3 and its extensions).

use std::fmt::Write;

use crate::secret::{Secret, SecretSource};
use crate::template::Template;

use super::Parameter;

/// How an access token is asked for (RFC 6749 §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    /// Exchange a refresh token (RFC 6749 §6).
    RefreshToken,
    /// The OAuth client's own authority (RFC 6749 §4.4).
    ClientCredentials,
    /// A person's name and password (RFC 6749 §4.3), which RFC 9700 §2.4 forbids.
    Password,
    /// A signed assertion (RFC 7523 §2.1).
    JwtBearer,
    /// Another token (RFC 8693).
    TokenExchange,
    /// A code that a person enters on another device (RFC 8628).
    DeviceCode,
    /// A code that a person's browser brings back (RFC 6749 §4.1).
    AuthorizationCode,
    /// No token request: the signed assertion is the access token.
    SelfSignedJwt,
    /// A request of which the operator writes down every part.
    Custom,
    /// No token at all: what is put on requests is configured.
    Static,
}

/// What a credential lives on once it has worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantRenewal {
    /// The refresh token that each answer may replace; without one there is nothing to ask with.
    RefreshToken,
    /// The configuration: the same request can be made again at any time.
    Repeatable,
}

impl GrantType {
    /// As it is called in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::Password => "password",
            Self::JwtBearer => "jwt_bearer",
            Self::TokenExchange => "token_exchange",
            Self::DeviceCode => "device_code",
            Self::AuthorizationCode => "authorization_code",
            Self::SelfSignedJwt => "self_signed_jwt",
            Self::Custom => "custom",
            Self::Static => "static",
        }
    }

    /// What it needs from one token request to the next.
    pub fn renewal(self) -> GrantRenewal {
        match self {
            Self::RefreshToken | Self::Password | Self::DeviceCode | Self::AuthorizationCode => {
                GrantRenewal::RefreshToken
            }
            Self::ClientCredentials
            | Self::JwtBearer
            | Self::TokenExchange
            | Self::SelfSignedJwt
            | Self::Custom
            | Self::Static => GrantRenewal::Repeatable,
        }
    }

    /// Does it take a token request?
    pub fn asks(self) -> bool {
        !matches!(self, Self::SelfSignedJwt | Self::Static)
    }
}

/// A grant that takes nobody and nothing but the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnGrant {
    /// [`GrantType::ClientCredentials`]
    ClientCredentials,
    /// [`GrantType::Password`]
    Password {
        /// The person's name there.
        username: Template,
        /// The password.
        password: Secret,
    },
    /// [`GrantType::JwtBearer`], with the assertion that the configuration describes.
    JwtBearer,
    /// [`GrantType::TokenExchange`]
    TokenExchange(Box<Exchange>),
    /// [`GrantType::Custom`]
    Custom,
    /// [`GrantType::SelfSignedJwt`]
    SelfSignedJwt,
    /// [`GrantType::Static`]
    Static,
}

/// What is exchanged (RFC 8693 §2.1). The tokens are read for each request: whoever keeps them there
/// replaces them before they expire, as Kubernetes does with projected tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// Where the token is that stands for whom the new one is for.
    pub subject_token: SecretSource,
    /// What kind of token that is. Default [`Exchange::JWT`].
    pub subject_token_type: String,
    /// Where the token of the acting party is, and what kind it is.
    pub actor: Option<(SecretSource, String)>,
}

impl Exchange {
    /// The type of a JSON Web Token (RFC 8693 §3).
    pub const JWT: &'static str = "urn:ietf:params:oauth:token-type:jwt";
}

/// Where the first refresh token comes from without a person, and the next one if it is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// The grant that is presented.
    pub grant: OwnGrant,
    /// The scope to ask for; `None`: that of the credential.
    pub scope: Option<Template>,
    /// Further parameters; they win over those of the credential.
    pub params: Vec<Parameter>,
}

/// What is presented to the token endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Grant<'a> {
    /// A refresh token.
    RefreshToken(&'a Secret),
    /// The credential's own grant, which needs nothing but the configuration and can be repeated.
    Own,
    /// The grant of [`Config::bootstrap`](super::Config::bootstrap).
    Bootstrap,
    /// What the authorization endpoint sent back (RFC 6749 §4.1.3).
    AuthorizationCode {
        /// The code.
        code: &'a Secret,
        /// Where it was sent to.
        redirect_uri: &'a str,
        /// The proof that whoever began now ends (RFC 7636 §4.5).
        verifier: Option<&'a Secret>,
    },
    /// The code for this device, after a person has entered the other one (RFC 8628 §3.4).
    DeviceCode(&'a Secret),
}

impl OwnGrant {
    /// Changes with everything in it.
    pub(super) fn write_shape(&self, shape: &mut String) {
        match self {
            Self::Password { username, password } => {
                let (name, secret) = (username.fingerprint(), password.fingerprint());
                shape.push_str(&format!("\npassword {name:?} {secret:?}"));
            }
            Self::TokenExchange(exchange) => _ = write!(shape, "\n{exchange:?}"),
            Self::ClientCredentials
            | Self::JwtBearer
            | Self::Custom
            | Self::SelfSignedJwt
            | Self::Static => _ = write!(shape, "\n{self:?}"),
        }
    }

    /// What may not stand in a message about an answer.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let (username, password) = match self {
            Self::Password { username, password } => (Some(username), Some(password)),
            _ => (None, None),
        };
        password.into_iter().chain(username.into_iter().flat_map(Template::secrets))
    }
}
