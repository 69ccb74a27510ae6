//! One-shot answers of the API: what the next request will get.

use std::io::Read;

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{GzEncoder, ZlibEncoder};
use serde_json::Value;

use crate::payload::owned;

/// What one request gets.
///
/// The token is judged and counted for every answer but `CloseWithoutAnswer` and
/// `ResetWithoutAnswer`. Only `Normal` and `Stall` let the verdict decide the answer;
/// the others replace it.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What the path and the verdict call for, as without a script.
    Normal,
    /// This response.
    Respond {
        /// The status code.
        status: u16,
        /// The headers, besides Content-Length and Date.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
        /// How the client learns where the body ends.
        framing: Framing,
    },
    /// 401 whatever the token, after the body was read.
    RejectToken,
    /// 401 whatever the token, without reading the body.
    RejectEarly,
    /// The connection is closed after the request's head.
    CloseWithoutAnswer,
    /// The connection is reset after the request's head.
    ResetWithoutAnswer,
    /// Nothing until `release_all`, then what `Normal` gives.
    Stall,
    /// A 200 whose head comes at once and whose chunks are released one by one.
    Chunks(Vec<Bytes>),
    /// A chunked 200 with trailer fields. They are sent to clients with `TE: trailers`.
    Trailers {
        /// The body.
        body: Bytes,
        /// The trailer fields.
        trailers: Vec<(String, String)>,
    },
    /// A 200 that announces more bytes than it sends before the connection closes.
    Truncated {
        /// The Content-Length; greater than the length of the body.
        announced: u64,
        /// What is sent.
        body: Bytes,
    },
}

/// How a client learns where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its Content-Length.
    Length,
    /// By its last chunk; it is sent in several.
    Chunked,
    /// By the end of the connection, as in HTTP/1.0.
    Close,
}

impl Answer {
    /// A response with an empty body.
    pub fn status(status: u16) -> Answer {
        Answer::Respond {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            framing: Framing::Length,
        }
    }

    /// A plain text response.
    pub fn text(status: u16, text: &str) -> Answer {
        Answer::typed(status, "text/plain; charset=utf-8", text.to_owned())
    }

    /// A JSON response.
    pub fn json(status: u16, value: Value) -> Answer {
        Answer::typed(status, "application/json", value.to_string())
    }

    /// The same response with one more header; other answers stay as they are.
    pub fn with_header(mut self, name: &str, value: &str) -> Answer {
        if let Answer::Respond { headers, .. } = &mut self {
            headers.push(owned(name, value));
        }
        self
    }

    /// The same response without a Content-Length; other answers stay as they are.
    pub fn framed(mut self, how: Framing) -> Answer {
        if let Answer::Respond { framing, .. } = &mut self {
            *framing = how;
        }
        self
    }

    /// The same response in a content coding, gzip or deflate (RFC 9110 §8.4.1.2, with zlib around it).
    ///
    /// # Panics
    ///
    /// When it is another coding or not [`Respond`](Answer::Respond): a mistake in the test.
    pub fn coded(mut self, coding: &str) -> Answer {
        let Answer::Respond { body, .. } = &mut self else { panic!("only a response is coded") };
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
