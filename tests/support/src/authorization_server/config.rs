//! What an authorization server is started with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use serde_json::{Map, Value};

use crate::refresh_tokens::Rotation;
use crate::tokens::unique_value;

/// How a client may prove itself at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Either way, but not both at once.
    Any,
    /// `client_id` and `client_secret` in the body (`client_secret_post`).
    Post,
    /// HTTP Basic (`client_secret_basic`).
    Basic,
}

/// The `expires_in` of a success answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpiresIn {
    /// A JSON number, as the standard wants it.
    Seconds(u64),
    /// A JSON string, as some servers send it.
    Text(String),
    /// No such member.
    Absent,
    /// Any JSON value.
    Json(Value),
}

impl ExpiresIn {
    /// The JSON value, if the member is there at all.
    pub(super) fn to_value(&self) -> Option<Value> {
        match self {
            ExpiresIn::Seconds(seconds) => Some((*seconds).into()),
            ExpiresIn::Text(text) => Some(text.clone().into()),
            ExpiresIn::Absent => None,
            ExpiresIn::Json(value) => Some(value.clone()),
        }
    }
}

/// What an [`AuthorizationServer`](super::AuthorizationServer) is started with.
#[derive(Clone)]
pub struct AuthorizationServerConfig {
    /// The only client.
    pub client_id: String,
    /// Its secret; empty for a public client, which sends its `client_id` only.
    pub client_secret: String,
    /// The accepted ways of client authentication.
    pub client_auth: ClientAuth,
    /// The exact path of the token endpoint; everything else is 404. A segment `*` stands for any, and
    /// each has refresh tokens of its own: a realm.
    pub token_path: String,
    /// A parameter of token requests that names the realm.
    pub realm_parameter: Option<String>,
    /// What a refresh does to the refresh token.
    pub rotation: Rotation,
    /// What the answer says about the lifetime.
    pub expires_in: ExpiresIn,
    /// How long an access token really works, by the monotonic clock.
    pub access_token_lifetime: Duration,
    /// The `token_type` of the answer.
    pub token_type: Option<String>,
    /// Whether a token request has to bring a proof (RFC 9449), to whose key the token is then bound.
    pub dpop: bool,
    /// The `scope` of the answer.
    pub scope: Option<String>,
    /// Members merged into every success answer, winning over the others.
    pub extra: Map<String, Value>,
    /// Whether a refresh revokes the family's access tokens issued before.
    pub revoke_previous_access_token: bool,
    /// The refresh token that is valid at the start.
    pub initial_refresh_token: String,
    /// User name and password for the `password` grant; without, it is unsupported.
    pub resource_owner: Option<(String, String)>,
    /// Serves https when given.
    pub tls: Option<Arc<ServerConfig>>,
    /// The address to listen on; a free port of 127.0.0.1 by default.
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
