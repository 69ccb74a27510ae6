//! A successful answer of a token endpoint.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::TokenType;
use crate::secret::Secret;

/// The tokens that a token endpoint issued (RFC 6749 §5.1). An `id_token` is never kept.
#[derive(Clone, Debug)]
pub struct TokenResponse {
    /// The access token. `None` if the server extended the current one instead of issuing another.
    pub access_token: Option<Secret>,
    /// How the access token is presented to the API.
    pub token_type: TokenType,
    /// The refresh token. `None` if the answer had none; the one that was sent stays in use.
    pub refresh_token: Option<Secret>,
    /// When the access token expires, counted from before the request was sent. `None` if the
    /// answer had no usable lifetime.
    pub expires_at: Option<SystemTime>,
    /// When the refresh token expires, if known.
    pub refresh_expires_at: Option<SystemTime>,
    /// When the whole grant expires, if known. Refreshing does not extend it.
    pub grant_expires_at: Option<SystemTime>,
    /// The members that the credential's templates use, by dotted path.
    pub raw: BTreeMap<String, Secret>,
    /// The DPoP nonce for the next proof (RFC 9449 §8.2).
    pub dpop_nonce: Option<String>,
    /// Deviations from the standard that were tolerated, to be reported to the operator once. Free
    /// of secrets.
    pub notes: Vec<String>,
}
