//! The grants that can be presented to a token endpoint (RFC 6749 §1.3 and extensions).

use std::fmt::Write;

use crate::secret::{Secret, SecretSource};
use crate::template::Template;

use super::Parameter;

/// The configured grant type (RFC 6749 §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    /// A refresh token (RFC 6749 §6).
    RefreshToken,
    /// The OAuth client's own credentials (RFC 6749 §4.4).
    ClientCredentials,
    /// A user's name and password (RFC 6749 §4.3), which RFC 9700 §2.4 forbids.
    Password,
    /// A signed assertion (RFC 7523 §2.1).
    JwtBearer,
    /// A token exchange (RFC 8693).
    TokenExchange,
    /// A code that a user enters on another device (RFC 8628).
    DeviceCode,
    /// A code that a user's browser returns (RFC 6749 §4.1).
    AuthorizationCode,
    /// No token request: the signed assertion itself is the access token.
    SelfSignedJwt,
    /// A request whose parameters the operator configures.
    Custom,
    /// No token: the injected fields are configured.
    Static,
}

/// How a credential gets its next access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantRenewal {
    /// With the refresh token, which each answer may replace.
    RefreshToken,
    /// With the configuration alone: the same request can be repeated at any time.
    Repeatable,
}

impl GrantType {
    /// The name in the configuration file.
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

    /// Returns how this grant gets its next access token.
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

    /// Returns true if this grant makes token requests.
    pub fn makes_token_requests(self) -> bool {
        !matches!(self, Self::SelfSignedJwt | Self::Static)
    }
}

/// A grant that needs only the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnGrant {
    /// [`GrantType::ClientCredentials`]
    ClientCredentials,
    /// [`GrantType::Password`]
    Password {
        /// The user name.
        username: Template,
        /// The password.
        password: Secret,
    },
    /// [`GrantType::JwtBearer`], with the configured assertion.
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

/// The tokens of an exchange (RFC 8693 §2.1). They are read for each request, because their issuer
/// replaces them before they expire; Kubernetes does this with projected tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// Where to read the token of the party on whose behalf the new one is requested.
    pub subject_token: SecretSource,
    /// The type of the subject token. Default [`Exchange::JWT`].
    pub subject_token_type: String,
    /// Where to read the actor token, and its type.
    pub actor: Option<(SecretSource, String)>,
}

impl Exchange {
    /// The type of a JSON Web Token (RFC 8693 §3).
    pub const JWT: &'static str = "urn:ietf:params:oauth:token-type:jwt";
}

/// How to get a refresh token without a user: the first one, and a new one if it is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// The grant to present.
    pub grant: OwnGrant,
    /// The scope to request. `None` uses the credential's scope.
    pub scope: Option<Template>,
    /// Additional parameters. They replace the credential's parameters of the same name.
    pub params: Vec<Parameter>,
}

/// A grant to present to the token endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Grant<'a> {
    /// A refresh token.
    RefreshToken(&'a Secret),
    /// The credential's own grant, which needs only the configuration and can be repeated.
    Own,
    /// The grant of [`Config::bootstrap`](super::Config::bootstrap).
    Bootstrap,
    /// The code that the authorization endpoint returned (RFC 6749 §4.1.3).
    AuthorizationCode {
        /// The code.
        code: &'a Secret,
        /// The redirect URI that received the code.
        redirect_uri: &'a str,
        /// The PKCE code verifier (RFC 7636 §4.5).
        verifier: Option<&'a Secret>,
    },
    /// The device code, after the user entered the user code (RFC 8628 §3.4).
    DeviceCode(&'a Secret),
}

impl OwnGrant {
    /// Appends everything that identifies this grant to a fingerprint.
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

    /// Secrets that must be masked in messages about an answer.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let (username, password) = match self {
            Self::Password { username, password } => (Some(username), Some(password)),
            _ => (None, None),
        };
        password.into_iter().chain(username.into_iter().flat_map(Template::secrets))
    }
}
