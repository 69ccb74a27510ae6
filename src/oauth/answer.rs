//! Interprets the answers of token endpoints: a pure function that tolerates what real servers
//! send.
//!
//! Servers report errors with status 200, invalid refresh tokens with 400, 401, 403, 404 or 500,
//! rate limits as `invalid_request`, lifetimes as text, and maintenance pages as success. [`read`]
//! turns an answer into tokens or into an [`ErrorClass`](super::ErrorClass). A success is read
//! strictly first and then with increasing tolerance, because it has consumed the refresh token
//! whatever it contains. For an error, the first matching rule decides. [`TokenResponseFormat`]
//! holds what the operator configured about this server's answers.

mod candidates;
mod classify;
pub(super) mod decoded_body;
mod error_details;
pub(super) mod expiry;
mod format;
mod lenient_json;
mod markup;
mod masking;
pub(super) mod members;
mod reader;
mod retry_delay;
mod token_search;

use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use self::decoded_body::DecodedBody;
pub use self::format::{
    AnswerRule, Comparison, Mapping, MemberPath, Rotation, TimeUnit, TokenResponseFormat, TokenType,
};
use self::members::Members;
use self::reader::AnswerReader;
pub(super) use self::token_search::{has_token, is_whole};
use super::{GrantError, TokenResponse};
use crate::secret::Secret;

/// An uninterpreted answer of a token endpoint.
#[derive(Clone)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The header fields.
    pub fields: HeaderMap,
    /// The body, at most 1 MiB.
    pub body: Vec<u8>,
    /// Why the body is incomplete, if it is. The body holds what was received.
    pub cut: Option<String>,
}

/// Omits the body, which may contain tokens.
impl std::fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawAnswer({}, {} bytes)", self.status, self.body.len())
    }
}

/// What the caller expects of a successful answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expectation {
    /// A success may replace the refresh token that was sent. If its end is missing, the new token
    /// may be lost.
    pub(super) rotates: bool,
    /// The access token is for the configured steps and not for an API.
    pub(super) for_steps: bool,
}

/// Interprets the answer to a refresh request.
///
/// `now` is the time at which the request was sent. `secrets` are the secrets it carried; they are
/// masked in the server's messages before those are truncated.
///
/// # Errors
///
/// A [`GrantError`] if the answer has no usable token.
pub fn read(
    answer: &RawAnswer,
    reading: &TokenResponseFormat,
    now: SystemTime,
    secrets: &[&Secret],
) -> Result<TokenResponse, GrantError> {
    read_as(Expectation { rotates: true, for_steps: false }, answer, reading, now, secrets)
}

/// Interprets the answer to any token request.
pub(super) fn read_as(
    wanted: Expectation,
    answer: &RawAnswer,
    reading: &TokenResponseFormat,
    now: SystemTime,
    secrets: &[&Secret],
) -> Result<TokenResponse, GrantError> {
    let content = DecodedBody::of(answer, &reading.mapping);
    let members = Members::of(&content.bytes, &reading.mapping);
    AnswerReader { wanted, answer, reading, now, secrets, content: &content, members: &members }
        .read()
}

#[cfg(test)]
mod tests;
