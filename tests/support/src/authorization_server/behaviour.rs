//! One-shot behaviours of the token endpoint, one per request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::payload::owned;

/// How the token endpoint processes one token request.
///
/// To *commit* means to process the request normally: to issue, rotate or refuse.
#[derive(Clone, Debug)]
pub enum TokenBehaviour {
    /// Commits and answers.
    Normal,
    /// Sends this response without committing: the refresh token is not consumed.
    Respond {
        /// The status code.
        status: u16,
        /// The headers, besides Content-Length and Date.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Commits, but sends this response instead of the tokens.
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
    /// Commits, then resets the connection without sending a byte.
    DropAfterCommit,
    /// Commits, announces the whole length, sends the first bytes and closes.
    CommitThenTruncate {
        /// The number of body bytes sent.
        keep: usize,
    },
    /// Does not answer until `release_all`, then answers normally.
    Stall {
        /// True to commit before the stall, false to commit after it.
        commit_first: bool,
    },
    /// Does not answer until `release_all`, then resets the connection without ever committing.
    Hang,
    /// Commits and sends the body byte by byte.
    SlowDrip {
        /// The time between two bytes.
        interval: Duration,
    },
    /// Answers normally after a fixed delay, like a slow server.
    Late {
        /// The delay.
        by: Duration,
        /// True to commit before the delay, false to commit after it.
        commit_first: bool,
    },
    /// Commits and sends a modified answer; see [`TokenBehaviour::changed`].
    CommitThenChange(Change),
    /// Commits and sends exactly these bytes, including the head; see [`TokenBehaviour::written`].
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
    /// Parses the body as JSON.
    ///
    /// # Panics
    ///
    /// Panics if the body is not JSON, which is a mistake in the test.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    /// Formats the HTTP/1.1 head: status line, headers and Content-Length.
    pub fn head(&self, content_length: usize) -> String {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers = headers.collect::<String>();
        format!("HTTP/1.1 {} X\r\n{headers}content-length: {content_length}\r\n\r\n", self.status)
    }
}

/// The state of a connection after bytes written by a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Stays open without further bytes.
    Open,
    /// Closed, with a TLS close_notify.
    Close,
    /// Closed without a TLS close_notify.
    CloseSilently,
    /// Reset.
    Reset,
}

/// A function that modifies an answer.
#[derive(Clone)]
pub struct Change(pub(super) Arc<dyn Fn(&mut TokenAnswer) + Send + Sync>);

/// A function that produces the bytes of an answer.
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
    /// Sends an RFC 6749 section 5.2 error without committing.
    pub fn error(status: u16, error: &str, description: Option<&str>) -> TokenBehaviour {
        let mut value = json!({ "error": error });
        if let Some(description) = description {
            value["error_description"] = description.into();
        }
        TokenBehaviour::json(status, value)
    }

    /// Sends any JSON without committing.
    pub fn json(status: u16, value: Value) -> TokenBehaviour {
        TokenBehaviour::text(status, "application/json", value.to_string())
    }

    /// Sends an HTML page, such as a gateway error or a login form, without committing.
    pub fn html(status: u16, page: &str) -> TokenBehaviour {
        TokenBehaviour::text(status, "text/html; charset=utf-8", page.to_owned())
    }

    /// Commits and applies `change` to the answer. The framing stays correct.
    pub fn changed(change: impl Fn(&mut TokenAnswer) + Send + Sync + 'static) -> TokenBehaviour {
        TokenBehaviour::CommitThenChange(Change(Arc::new(change)))
    }

    /// Commits and sends the members in another JSON structure.
    pub fn reshaped(shape: impl Fn(Value) -> Value + Send + Sync + 'static) -> TokenBehaviour {
        TokenBehaviour::changed(move |answer| answer.body = shape(answer.json()).to_string().into())
    }

    /// Commits, sends the bytes that `write` returns for the answer, then applies `end`.
    pub fn written(
        end: End,
        write: impl Fn(&TokenAnswer) -> Vec<u8> + Send + Sync + 'static,
    ) -> TokenBehaviour {
        TokenBehaviour::CommitThenWrite(Write(Arc::new(write)), end)
    }

    /// Returns the same response, but after a commit. Other behaviours are unchanged.
    pub fn after_commit(self) -> TokenBehaviour {
        match self {
            TokenBehaviour::Respond { status, headers, body } => {
                TokenBehaviour::CommitThenRespond { status, headers, body }
            }
            other => other,
        }
    }

    /// Adds a header to the response. Other behaviours are unchanged.
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
