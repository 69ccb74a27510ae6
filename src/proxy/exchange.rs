//! One request on one connection to an origin server, in either version of HTTP.
//!
//! A request leaves in the form of the connection's version, and an origin server has so long to answer as
//! it is told, counted from the last of the request's content. What went wrong says whether the request
//! may have been seen: one that was not is not lost.

use std::pin::{Pin, pin};
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::time::{Instant, Sleep};

use super::content::{Passage, RequestBody};
use super::origin_error::OriginError;
use super::reach::Reach;
use crate::origin::Origin;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// So long before an origin server closes a connection it gets no more requests.
const CLOSE_MARGIN: Duration = Duration::from_secs(1);

/// A connection that serves one request after the other.
pub(super) struct Http1Connection {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// For the answers on it, one after the other: setting a timer later is next to free, making
    /// one for each request is not.
    pub(super) timer: Pin<Box<Sleep>>,
    /// Idle since then.
    pub(super) since: Instant,
    /// How long the origin server keeps it, if it has said so.
    pub(super) kept_for: Option<Duration>,
    pub(super) version: u64,
}

/// How a request went that may be tried again.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) error: OriginError,
    /// A kept connection turned out to be closed, and not a byte of a response had come.
    pub(super) stale: bool,
}

impl From<OriginError> for SendError {
    fn from(error: OriginError) -> Self {
        Self { error, stale: false }
    }
}

/// A connection to send one request on.
pub(super) enum Sender {
    Http1(Http1Connection),
    Http2(http2::SendRequest<RequestBody>, Pin<Box<Sleep>>),
}

impl Http1Connection {
    pub(super) fn is_valid(&self, reach: &Reach) -> bool {
        self.version == reach.version
            && self.since.elapsed() < reach.idle_timeout
            && !self.is_given_up()
    }

    /// Is the origin server about to close it, by its own account? A request that meets the close on
    /// its way is lost, and only a safe one may be sent again.
    pub(super) fn is_given_up(&self) -> bool {
        self.kept_for.is_some_and(|time| self.since.elapsed() >= time.saturating_sub(CLOSE_MARGIN))
    }
}

impl Sender {
    /// Sends `request`; `None` when the answer took longer than `limit`.
    pub(super) async fn send(
        &mut self,
        origin: &Origin,
        request: Request<RequestBody>,
        limit: Duration,
        passage: &Passage,
    ) -> Option<Result<Response<Incoming>, Unanswered>> {
        match self {
            Self::Http1(Http1Connection { sender, timer, .. }) => {
                let sending = sender.try_send_request(for_http1(origin, request));
                within(timer.as_mut(), limit, passage, sending).await
            }
            Self::Http2(sender, timer) => {
                let sending = sender.try_send_request(for_http2(origin, request));
                within(timer.as_mut(), limit, passage, sending).await
            }
        }
    }
}

pub(super) fn timer() -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(Duration::ZERO))
}

/// Waits for an origin server, which has no time to answer before the client has sent its content.
async fn within<T, E: Into<Unanswered>>(
    mut timer: Pin<&mut Sleep>,
    limit: Duration,
    passage: &Passage,
    sending: impl Future<Output = Result<T, E>>,
) -> Option<Result<T, Unanswered>> {
    let mut sending = pin!(sending);
    loop {
        let frames = passage.frames();
        timer.as_mut().reset(Instant::now() + limit);
        tokio::select! {
            biased;
            sent = &mut sending => return Some(sent.map_err(Into::into)),
            () = timer.as_mut() => if passage.frames() == frames { return None },
        }
    }
}

/// A request without a response.
pub(super) struct Unanswered {
    pub(super) error: hyper::Error,
    /// The request, if nothing of it was written.
    pub(super) request: Option<Box<Request<RequestBody>>>,
}

impl From<TrySendError<Request<RequestBody>>> for Unanswered {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let request = error.take_message().map(Box::new);
        Self { error: error.into_error(), request }
    }
}

/// As it was made, or back again from HTTP/2.
fn for_http1(origin: &Origin, mut request: Request<RequestBody>) -> Request<RequestBody> {
    if request.uri().authority().is_some() {
        let host = HeaderValue::try_from(origin.host_field()).expect("a canonical host is ASCII");
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = Uri::from(path_of(&request));
    }
    *request.version_mut() = Version::HTTP_11;
    request
}

/// The authority moves from `Host` into the target (RFC 9113 §8.3.1).
fn for_http2(origin: &Origin, mut request: Request<RequestBody>) -> Request<RequestBody> {
    request.headers_mut().remove(HOST);
    let uri = Uri::builder()
        .scheme(origin.scheme.to_string().as_str())
        .authority(origin.host_field())
        .path_and_query(path_of(&request))
        .build();
    *request.uri_mut() = uri.expect("a canonical authority and a path that was parsed make a URI");
    *request.version_mut() = Version::HTTP_2;
    request
}

fn path_of(request: &Request<RequestBody>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
}

/// The seconds of `Keep-Alive: timeout=5, max=100`, which no RFC defines and most servers send.
pub(super) fn keep_alive(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(KEEP_ALIVE)?.to_str().ok()?;
    text.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = name.trim().eq_ignore_ascii_case("timeout").then_some(value)?;
        value.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
    })
}

pub(super) fn failure(error: hyper::Error, reused: bool) -> SendError {
    let closed = error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || is_gone(&error);
    let stale = reused && closed;
    let error = if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
        OriginError::Response(error)
    } else if error.is_user() {
        OriginError::Request(error)
    } else {
        OriginError::Closed(error)
    };
    SendError { error, stale }
}

/// Was the connection reset, or ended without a word of TLS, or the stream refused before anything was
/// done with it?
fn is_gone(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                BrokenPipe | ConnectionReset | ConnectionAborted | UnexpectedEof
            );
        }
        if let Some(h2) = source.downcast_ref::<h2::Error>() {
            return h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        cause = source.source();
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_keep_alive_time_is_read_in_every_spelling_or_not_at_all() {
        for (text, seconds) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout = \"65\"", Some(65)),
            ("timeout=0", Some(0)),
            ("", None),
            ("timeout", None),
            ("timeout=-1", None),
            ("timeout=5s", None),
            ("mytimeout=5", None),
        ] {
            let fields = HeaderMap::from_iter([(KEEP_ALIVE, text.parse().unwrap())]);
            assert_eq!(keep_alive(&fields), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
