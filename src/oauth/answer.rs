//! TokenResponseFormat what a token endpoint answered: a pure function, tolerant of what real servers send.
//!
//! Servers answer errors with status 200, dead refresh tokens with 400, 401, 403, 404 or 500, rate
//! limits as `invalid_request`, lifetimes as text, and maintenance pages as success. [`read`] makes a
//! token of an answer or puts it into one [`ErrorClass`]. A success is read first as the standards say and
//! then with growing tolerance, because it has consumed the refresh token whatever is in it; in an error
//! the rules are tried in order and the first that matches decides. A [`TokenResponseFormat`] says what the operator
//! knows better about this server.

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

/// A token endpoint's answer before anything has been made of it.
#[derive(Clone)]
pub struct RawAnswer {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub fields: HeaderMap,
    /// The body, at most 1 MiB.
    pub body: Vec<u8>,
    /// Why the body ended early. What had come by then is in it.
    pub cut: Option<String>,
}

/// The body may hold tokens.
impl std::fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawAnswer({}, {} bytes)", self.status, self.body.len())
    }
}

/// What the request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expectation {
    /// A success may take the place of the refresh token that was sent: where its end is missing, the
    /// successor is.
    pub(super) rotates: bool,
    /// The access token is for the steps that follow, and not for an API.
    pub(super) for_steps: bool,
}

/// Makes a token, or a classified error, of an answer to a refresh.
///
/// `now` is the time at which the request was sent; `secrets` are what it carried, to be taken out of
/// whatever the server says, before that is cut to length.
///
/// # Errors
///
/// A [`GrantError`] for everything that is not a usable token.
pub fn read(
    answer: &RawAnswer,
    reading: &TokenResponseFormat,
    now: SystemTime,
    secrets: &[&Secret],
) -> Result<TokenResponse, GrantError> {
    read_as(Expectation { rotates: true, for_steps: false }, answer, reading, now, secrets)
}

/// The same for any request.
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
