//! One-shot behaviours of the token endpoint: how the next request will go.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::payload::owned;

/// How one token request is treated.
///
/// To *commit* is to process the request normally, issuing, rotating or refusing.
#[derive(Clone, Debug)]
pub enum TokenBehaviour {
    /// Commits and answers.
    Normal,
    /// Answers this without committing: the refresh token is not consumed.
    Respond {
        /// The status code.
        status: u16,
        /// The headers, besides Content-Length and Date.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Commits, but answers this instead of the tokens.
    CommitThenRespond {
        /// The status code.
        status: u16,
        /// The headers, besides Content-Length and Date.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Resets the connection without committing.
    DropBeforeCommit,
    /// Commits, then resets the connection without a byte of answer.
    DropAfterCommit,
    /// Commits, announces the whole answer, sends its first bytes and closes.
    CommitThenTruncate {
        /// How many bytes of the body are sent.
        keep: usize,
    },
    /// Does not answer until `release_all`, then answers normally.
    Stall {
        /// Whether to commit before the stall, not after it.
        commit_first: bool,
    },
    /// Does not answer until `release_all`, then resets the connection without ever committing.
    Hang,
    /// Commits and sends the body byte by byte.
    SlowDrip {
        /// The time between two bytes.
        interval: Duration,
    },
}

impl TokenBehaviour {
    /// An RFC 6749 section 5.2 error, without committing.
    pub fn error(status: u16, error: &str, description: Option<&str>) -> TokenBehaviour {
        let mut value = json!({ "error": error });
        if let Some(description) = description {
            value["error_description"] = description.into();
        }
        TokenBehaviour::json(status, value)
    }

    /// Any JSON, without committing.
    pub fn json(status: u16, value: Value) -> TokenBehaviour {
        TokenBehaviour::text(status, "application/json", value.to_string())
    }

    /// An HTML page, such as a gateway's or a login form, without committing.
    pub fn html(status: u16, page: &str) -> TokenBehaviour {
        TokenBehaviour::text(status, "text/html; charset=utf-8", page.to_owned())
    }

    /// The same answer, but after a commit; other behaviours stay as they are.
    pub fn after_commit(self) -> TokenBehaviour {
        match self {
            TokenBehaviour::Respond { status, headers, body } => {
                TokenBehaviour::CommitThenRespond { status, headers, body }
            }
            other => other,
        }
    }

    /// The same answer with one more header; other behaviours stay as they are.
    pub fn with_header(mut self, name: &str, value: &str) -> TokenBehaviour {
        if let TokenBehaviour::Respond { headers, .. }
        | TokenBehaviour::CommitThenRespond { headers, .. } = &mut self
        {
            headers.push(owned(name, value));
        }
        self
    }

    fn text(status: u16, content_type: &str, body: String) -> TokenBehaviour {
        TokenBehaviour::Respond {
            status,
            headers: vec![owned("content-type", content_type)],
            body: body.into(),
        }
    }
}
