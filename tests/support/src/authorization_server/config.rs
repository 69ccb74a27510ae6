//! The configuration of an authorization server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use serde_json::{Map, Value};

use crate::refresh_tokens::Rotation;
use crate::tokens::unique_value;

/// The accepted methods of client authentication at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Either method, but not both at once.
    Any,
    /// `client_id` and `client_secret` in the body (`client_secret_post`).
    Post,
    /// HTTP Basic (`client_secret_basic`).
    Basic,
}

/// The `expires_in` of a success response.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpiresIn {
    /// A JSON number (RFC 6749 section 5.1).
    Seconds(u64),
    /// A JSON string, as some servers send it.
    Text(String),
    /// The member is absent.
    Absent,
    /// Any JSON value.
    Json(Value),
}

impl ExpiresIn {
    /// Returns the JSON value, or `None` if the member is absent.
    pub(super) fn to_value(&self) -> Option<Value> {
        match self {
            ExpiresIn::Seconds(seconds) => Some((*seconds).into()),
            ExpiresIn::Text(text) => Some(text.clone().into()),
            ExpiresIn::Absent => None,
            ExpiresIn::Json(value) => Some(value.clone()),
        }
    }
}

/// The configuration of an [`AuthorizationServer`](super::AuthorizationServer).
#[derive(Clone)]
pub struct AuthorizationServerConfig {
    /// The only client.
    pub client_id: String,
    /// The client secret. Empty for a public client, which sends only its `client_id`.
    pub client_secret: String,
    /// The accepted methods of client authentication.
    pub client_auth: ClientAuth,
    /// The exact path of the token endpoint; other paths get a 404. A segment `*` matches any realm name, and
    /// each realm has its own refresh tokens.
    pub token_path: String,
    /// The parameter of token requests that names the realm, if any.
    pub realm_parameter: Option<String>,
    /// The rotation policy.
    pub rotation: Rotation,
    /// The announced lifetime.
    pub expires_in: ExpiresIn,
    /// The actual lifetime of an access token, by the monotonic clock.
    pub access_token_lifetime: Duration,
    /// The `token_type` of the answer.
    pub token_type: Option<String>,
    /// True if a token request must carry a DPoP proof (RFC 9449). The token is bound to its key.
    pub dpop: bool,
    /// The `scope` of the answer.
    pub scope: Option<String>,
    /// Members merged into every success response. They override the others.
    pub extra: Map<String, Value>,
    /// True if a refresh revokes the earlier access tokens of the family.
    pub revoke_previous_access_token: bool,
    /// The initial refresh token.
    pub initial_refresh_token: String,
    /// User name and password of the `password` grant. `None`: the grant is unsupported.
    pub resource_owner: Option<(String, String)>,
    /// Serves https if present.
    pub tls: Option<Arc<ServerConfig>>,
    /// The address to listen on. Default: a free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
}

impl Default for AuthorizationServerConfig {
    /// Strict rotation, one hour, any client authentication, a random refresh token.
    fn default() -> AuthorizationServerConfig {
        AuthorizationServerConfig {
            client_id: "test-client".into(),
            client_secret: "test-client-secret".into(),
            client_auth: ClientAuth::Any,
            token_path: "/token".into(),
            realm_parameter: None,
            rotation: Rotation::STRICT,
            expires_in: ExpiresIn::Seconds(3600),
            access_token_lifetime: Duration::from_secs(3600),
            token_type: Some("Bearer".into()),
            dpop: false,
            scope: None,
            extra: Map::new(),
            revoke_previous_access_token: false,
            initial_refresh_token: unique_value("rt", 0),
            resource_owner: None,
            tls: None,
            listen: None,
        }
    }
}
