//! A failed token request.

use std::fmt;
use std::time::Duration;

use super::{ErrorClass, TransportError};
use crate::secret::Secret;

/// Why a token endpoint issued no access token, with the server's explanation.
#[derive(Clone, Debug)]
pub struct GrantError {
    /// What the failure means.
    pub class: ErrorClass,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The server's `error` code (RFC 6749 §5.2), truncated and escaped.
    pub code: Option<String>,
    /// The explanation from the server or the transport, truncated, escaped and free of secrets.
    pub description: Option<String>,
    /// How long the server asks clients to wait before the next request.
    pub retry_after: Option<Duration>,
    /// A new refresh token from an otherwise unusable answer. The server has invalidated the old
    /// one.
    pub recovered: Option<Secret>,
    /// The beginning of a successful answer whose refresh token could not be read. It may contain
    /// the only copy, so an operator can recover it.
    pub unread: Option<Secret>,
    /// The DPoP nonce for the next proof (RFC 9449 §8).
    pub dpop_nonce: Option<String>,
}

impl GrantError {
    pub(super) fn unanswered(description: String) -> Self {
        Self::without_answer(ErrorClass::Ambiguous, description)
    }

    pub(super) fn without_answer(class: ErrorClass, description: String) -> Self {
        Self {
            class,
            status: None,
            code: None,
            description: Some(description),
            retry_after: None,
            recovered: None,
            unread: None,
            dpop_nonce: None,
        }
    }
}

impl From<TransportError> for GrantError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::NotSent(text) => Self::without_answer(ErrorClass::NotSent, text),
            TransportError::NoAnswer(text) => Self::unanswered(text),
        }
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "the token endpoint answered {status}")?,
            None if self.class == ErrorClass::Ambiguous => {
                f.write_str("the token endpoint sent no readable answer")?;
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
