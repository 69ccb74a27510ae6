//! The record of one request, updated while the request is received.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use aws_lc_rs::digest::{self, SHA256};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;

use super::api::Api;
use crate::dpop::bound_token;
use crate::line::Line;
use crate::tokens::hex;

/// A request as received by the API so far.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// The method.
    pub method: Method,
    /// The request target as sent: origin-form or absolute-form in HTTP/1.1, the whole URI in HTTP/2.
    pub target: String,
    /// The protocol version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The body received so far. Empty if the server does not keep bodies.
    pub body: Bytes,
    /// The trailers.
    pub trailers: HeaderMap,
    /// The length of the body received so far.
    pub body_length: u64,
    /// True if the body was read to its end.
    pub body_complete: bool,
    /// The SHA-256 of the body received so far, in lower-case hexadecimal.
    pub body_sha256: String,
    /// The TCP connection, counted from 1 per server.
    pub connection: u64,
    /// The TLS client certificate as DER, if any.
    pub client_certificate: Option<CertificateDer<'static>>,
    /// The result of the token check. `None` before the check.
    pub accepted: Option<bool>,
}

/// Request line, credentials and result, as one line for test failure messages.
impl fmt::Display for ReceivedRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorization = self.header("authorization").unwrap_or("no authorization");
        write!(formatter, "{} {} {:?}, {authorization}, ", self.method, self.target, self.version)?;
        formatter.write_str(match self.accepted {
            Some(true) => "accepted",
            Some(false) => "rejected",
            None => "not checked yet",
        })
    }
}

impl ReceivedRequest {
    /// Returns the first value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the bearer token, if there is exactly one Authorization header.
    pub fn bearer(&self) -> Option<&str> {
        bearer(&self.headers)
    }

    /// Returns the DPoP-bound token, if there is exactly one Authorization header.
    pub fn bound_token(&self) -> Option<&str> {
        bound_token(&self.headers)
    }
}

/// Returns the bearer token, if there is exactly one Authorization header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

struct Growing {
    request: ReceivedRequest,
    body: BytesMut,
    digest: digest::Context,
}

/// A shared record of a request in progress.
#[derive(Clone)]
pub(super) struct Record(Arc<Mutex<Growing>>);

impl Record {
    pub(super) fn new(head: &Parts, line: &Line) -> Record {
        let request = ReceivedRequest {
            method: head.method.clone(),
            target: head.uri.to_string(),
            version: head.version,
            headers: head.headers.clone(),
            body: Bytes::new(),
            trailers: HeaderMap::new(),
            body_length: 0,
            body_complete: false,
            body_sha256: String::new(),
            connection: line.id(),
            client_certificate: line.certificate().cloned(),
            accepted: None,
        };
        Record(Arc::new(Mutex::new(Growing {
            request,
            body: BytesMut::new(),
            digest: digest::Context::new(&SHA256),
        })))
    }

    /// Returns the request as received so far.
    pub(super) fn snapshot(&self) -> ReceivedRequest {
        let growing = self.growing();
        ReceivedRequest {
            body: growing.body.clone().freeze(),
            body_sha256: hex(growing.digest.clone().finish().as_ref()),
            ..growing.request.clone()
        }
    }

    pub(super) fn set_accepted(&self, accepted: bool) {
        self.growing().request.accepted = Some(accepted);
    }

    pub(super) fn note_bytes(&self, bytes: &[u8], keep: bool) {
        let mut growing = self.growing();
        growing.request.body_length += bytes.len() as u64;
        growing.digest.update(bytes);
        if keep {
            growing.body.extend_from_slice(bytes);
        }
    }

    pub(super) fn note_trailers(&self, trailers: &HeaderMap) {
        self.growing().request.trailers = trailers.clone();
    }

    pub(super) fn note_end(&self) {
        self.growing().request.body_complete = true;
    }

    fn growing(&self) -> MutexGuard<'_, Growing> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// A request body that copies each frame into the record.
///
/// A reader may stop at the announced length without polling for the end, so the end is
/// recorded as soon as it is known.
pub(super) struct Recorded {
    incoming: Incoming,
    record: Record,
    api: Arc<Api>,
    ended: bool,
}

impl Recorded {
    pub(super) fn new(incoming: Incoming, record: Record, api: Arc<Api>) -> Recorded {
        let ended = false;
        let mut recorded = Recorded { incoming, record, api, ended };
        recorded.note_end(recorded.incoming.is_end_stream());
        recorded
    }

    fn note_end(&mut self, reached: bool) {
        if reached && !self.ended {
            self.ended = true;
            self.api.note_end(&self.record);
        }
    }
}

impl Body for Recorded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.api.note_frame(&self.record, frame);
        }
        let reached = matches!(polled, Poll::Ready(None)) || self.incoming.is_end_stream();
        self.note_end(reached);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
