//! One-shot answers of the API, one per request.

use std::io::Read;

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{GzEncoder, ZlibEncoder};
use serde_json::Value;

use crate::payload::owned;

/// The answer to one request.
///
/// The token is checked and counted for every answer except `CloseWithoutAnswer` and
/// `ResetWithoutAnswer`. The result of the check decides the answer only for `Normal` and
/// `Stall`.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The default answer for the path and the result of the token check.
    Normal,
    /// This response.
    Respond {
        /// The status code.
        status: u16,
        /// The headers, besides Content-Length and Date.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
        /// How the end of the body is signalled.
        framing: Framing,
    },
    /// A 401 for any token, after the body was read.
    RejectToken,
    /// A 401 for any token, without reading the body.
    RejectEarly,
    /// Closes the connection after the request head.
    CloseWithoutAnswer,
    /// Resets the connection after the request head.
    ResetWithoutAnswer,
    /// Nothing until `release_all`, then the same as `Normal`.
    Stall,
    /// A 200 whose head is sent at once. The test releases its chunks one by one.
    Chunks(Vec<Bytes>),
    /// A chunked 200 with trailer fields, which are sent to clients with `TE: trailers`.
    Trailers {
        /// The body.
        body: Bytes,
        /// The trailer fields.
        trailers: Vec<(String, String)>,
    },
    /// A 200 that announces more bytes than it sends before the connection closes.
    Truncated {
        /// The Content-Length, greater than the length of the body.
        announced: u64,
        /// The bytes sent.
        body: Bytes,
    },
}

/// How the end of a body is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its Content-Length.
    Length,
    /// By the last of several chunks.
    Chunked,
    /// By the end of the connection, as in HTTP/1.0.
    Close,
}

impl Answer {
    /// Returns a response with an empty body.
    pub fn status(status: u16) -> Answer {
        Answer::Respond {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            framing: Framing::Length,
        }
    }

    /// Returns a plain text response.
    pub fn text(status: u16, text: &str) -> Answer {
        Answer::typed(status, "text/plain; charset=utf-8", text.to_owned())
    }

    /// Returns a JSON response.
    pub fn json(status: u16, value: Value) -> Answer {
        Answer::typed(status, "application/json", value.to_string())
    }

    /// Adds a header to the response. Other answers are unchanged.
    pub fn with_header(mut self, name: &str, value: &str) -> Answer {
        if let Answer::Respond { headers, .. } = &mut self {
            headers.push(owned(name, value));
        }
        self
    }

    /// Sets how the end of the response body is signalled. Other answers are unchanged.
    pub fn framed(mut self, how: Framing) -> Answer {
        if let Answer::Respond { framing, .. } = &mut self {
            *framing = how;
        }
        self
    }

    /// Encodes the response body with a content coding: gzip, or deflate in the zlib format (RFC 9110 §8.4.1.2).
    ///
    /// # Panics
    ///
    /// Panics for another coding, or if the answer is not [`Respond`](Answer::Respond): a mistake in the test.
    pub fn coded(mut self, coding: &str) -> Answer {
        let Answer::Respond { body, .. } = &mut self else {
            panic!("only Answer::Respond can be encoded")
        };
        let mut coded = Vec::new();
        let read = match coding {
            "gzip" => GzEncoder::new(&body[..], Compression::default()).read_to_end(&mut coded),
            "deflate" => {
                ZlibEncoder::new(&body[..], Compression::default()).read_to_end(&mut coded)
            }
            _ => panic!("no encoder for {coding}"),
        };
        read.expect("memory can be read");
        *body = coded.into();
        self.with_header("content-encoding", coding)
    }

    fn typed(status: u16, content_type: &str, body: String) -> Answer {
        Answer::Respond {
            status,
            headers: vec![owned("content-type", content_type)],
            body: body.into(),
            framing: Framing::Length,
        }
    }
}
