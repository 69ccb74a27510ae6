//! One-shot behaviours of the token endpoint: how the next request will go.

use std::fmt;
use std::sync::Arc;
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
    /// Answers normally, but so much later: a server that is slow, not one that a test holds.
    Late {
        /// How much later.
        by: Duration,
        /// Whether to commit before the delay, not after it.
        commit_first: bool,
    },
    /// Commits and sends the answer as it was changed; see [`TokenBehaviour::changed`].
    CommitThenChange(Change),
    /// Commits and sends exactly these bytes, head included; see [`TokenBehaviour::written`].
    CommitThenWrite(Write, End),
}

/// An answer of the token endpoint before it is sent.
#[derive(Clone, Debug)]
pub struct TokenAnswer {
    /// The status code.
    pub status: u16,
    /// The headers, besides Content-Length and Date.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl TokenAnswer {
    /// The body's members.
    ///
    /// # Panics
    ///
    /// When it is not JSON: a mistake in the test.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    /// The status line, the headers and a Content-Length, as HTTP/1.1 writes them.
    pub fn head(&self, content_length: usize) -> String {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers = headers.collect::<String>();
        format!("HTTP/1.1 {} X\r\n{headers}content-length: {content_length}\r\n\r\n", self.status)
    }
}

/// How a connection goes on after bytes that a test wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It stays open, and nothing more comes.
    Open,
    /// It is closed; TLS says so first.
    Close,
    /// It is closed, and TLS is not told (no close_notify).
    CloseSilently,
    /// It is reset.
    Reset,
}

/// What changes an answer.
#[derive(Clone)]
pub struct Change(pub(super) Arc<dyn Fn(&mut TokenAnswer) + Send + Sync>);

/// What makes the bytes of an answer.
#[derive(Clone)]
pub struct Write(pub(super) Arc<Writing>);

type Writing = dyn Fn(&TokenAnswer) -> Vec<u8> + Send + Sync;

impl fmt::Debug for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Change")
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Write")
    }
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

    /// Commits, and lets `change` have its way with the answer, whose framing stays correct.
    pub fn changed(change: impl Fn(&mut TokenAnswer) + Send + Sync + 'static) -> TokenBehaviour {
        TokenBehaviour::CommitThenChange(Change(Arc::new(change)))
    }

    /// Commits, and answers the same members in another JSON.
    pub fn reshaped(shape: impl Fn(Value) -> Value + Send + Sync + 'static) -> TokenBehaviour {
        TokenBehaviour::changed(move |answer| answer.body = shape(answer.json()).to_string().into())
    }

    /// Commits, sends the bytes that `write` makes of the answer, and ends so.
    pub fn written(
        end: End,
        write: impl Fn(&TokenAnswer) -> Vec<u8> + Send + Sync + 'static,
    ) -> TokenBehaviour {
        TokenBehaviour::CommitThenWrite(Write(Arc::new(write)), end)
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
