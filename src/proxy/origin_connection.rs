//! Sends one request on one connection to an origin server, over HTTP/1.1 or HTTP/2.
//!
//! A request is sent in the form of the connection's version. Each timeout applies to one peer: to the
//! client sending content, to the origin server reading it, or to the origin server responding. If
//! there is no response, [`DeliveryOutcome`] says whether the origin server may have processed the
//! request; one that was certainly not processed can be sent again.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, Version};
use hyper::client::conn::{TrySendError, http1};
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::connector::Connector;
use super::framing::{expects_continue, frame_request};
use super::http2::client::Http2Connection;
use super::incoming_body::IncomingBody;
use super::interim::InterimRelay;
use super::origin_error::OriginError;
use super::request_body::RequestBody;
use super::response_head_stream::ResponseExpectation;
use super::upload_progress::{UploadProgress, UploadStage};
use crate::origin::Origin;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// How long before an origin server closes an idle connection bearerd stops using it.
const CLOSE_MARGIN: Duration = Duration::from_secs(1);
/// How long to wait for 100 (Continue) before the content is sent without it. RFC 9110 §10.1.1 leaves
/// the time open; curl waits as long.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long each peer may take before the request fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseTimeouts {
    /// From the end of the request's content to the head of the response.
    pub(super) response: Duration,
    /// Without the origin server reading any content.
    pub(super) send: Duration,
    /// Without the client sending any content.
    pub(super) content: Duration,
}

/// A connection that serves one request at a time. Dropping it closes it.
pub(super) struct Http1Connection {
    pub(super) origin: Origin,
    sender: http1::SendRequest<RequestBody>,
    expectation: ResponseExpectation,
    /// Reused for every response: resetting a timer is much cheaper than creating one.
    timer: Pin<Box<Sleep>>,
    idle_since: Instant,
    /// How long the origin server keeps the connection open while idle (`Keep-Alive: timeout`), if it
    /// has said so.
    keep_alive: Option<Duration>,
    pub(super) config_version: u64,
    _task: AbortOnDropHandle<()>,
}

/// A connection to send one request on.
pub(super) enum OriginConnection {
    Http1(Box<Http1Connection>),
    Http2(Http2Connection),
}

/// What is known about the delivery of a request that got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryOutcome {
    /// The origin server has certainly not processed it.
    NotProcessed,
    /// The origin server has not processed it and asks for HTTP/1.1 (RFC 9113 §7).
    Http1Required,
    /// The connection was closed before any byte of a response.
    Closed,
    /// The origin server may have processed it.
    Unknown,
}

/// A request that got no response, and why.
pub(super) struct UnansweredRequest {
    pub(super) error: OriginError,
    pub(super) outcome: DeliveryOutcome,
    /// The request, if none of it was written.
    pub(super) request: Option<Box<Request<RequestBody>>>,
}

impl UnansweredRequest {
    /// An error before any of `request` was written.
    pub(super) fn unsent(error: OriginError, request: Request<RequestBody>) -> Self {
        Self { error, outcome: DeliveryOutcome::NotProcessed, request: Some(Box::new(request)) }
    }
}

impl From<OriginError> for UnansweredRequest {
    fn from(error: OriginError) -> Self {
        Self { error, outcome: DeliveryOutcome::Unknown, request: None }
    }
}

impl From<TrySendError<Request<RequestBody>>> for UnansweredRequest {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let request = error.take_message();
        let (error, outcome) = classify(error.into_error());
        match request {
            Some(request) => Self::unsent(error, request),
            None => Self { error, outcome, request: None },
        }
    }
}

impl Http1Connection {
    pub(super) fn new(
        origin: Origin,
        sender: http1::SendRequest<RequestBody>,
        task: AbortOnDropHandle<()>,
        expectation: ResponseExpectation,
        config_version: u64,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let idle_since = Instant::now();
        Self {
            origin,
            sender,
            expectation,
            timer,
            idle_since,
            keep_alive: None,
            config_version,
            _task: task,
        }
    }

    /// Returns true if the connection may be used with the configuration of `connector`.
    pub(super) fn is_valid(&self, connector: &Connector) -> bool {
        self.config_version == connector.config_version
            && self.idle_since.elapsed() < connector.idle_timeout
            && self.is_ready()
    }

    /// Returns true if the connection can take a request at once.
    ///
    /// If the origin server has announced when it closes idle connections, the connection is not used
    /// shortly before that: a request that meets the close is lost, and only one with a safe method may
    /// be sent again.
    pub(super) fn is_ready(&self) -> bool {
        let is_about_to_close =
            |time: Duration| self.idle_since.elapsed() >= time.saturating_sub(CLOSE_MARGIN);
        self.sender.is_ready() && !self.keep_alive.is_some_and(is_about_to_close)
    }

    /// Reads the idle timeout that the origin server announces with a response.
    pub(super) fn read_keep_alive(&mut self, fields: &HeaderMap) {
        self.keep_alive = keep_alive_timeout(fields);
    }

    pub(super) fn mark_idle(&mut self) {
        self.idle_since = Instant::now();
    }
}

impl OriginConnection {
    /// Sends `request` and waits for the head of its response, within `timeouts`.
    pub(super) async fn send(
        &mut self,
        origin: &Origin,
        mut request: Request<RequestBody>,
        timeouts: ResponseTimeouts,
        interim: &Arc<InterimRelay>,
    ) -> Result<Response<IncomingBody>, UnansweredRequest> {
        let progress = request.body().progress();
        if let Some(progress) = &progress {
            progress.restart();
            if expects_continue(request.headers()) {
                progress.await_continue();
            }
        }
        let progress = progress.as_deref();
        match self {
            Self::Http1(connection) => {
                to_http1(origin, &mut request);
                connection.expectation.expect(interim);
                let sending = pin!(connection.sender.try_send_request(request));
                let timer = connection.timer.as_mut();
                let sent = within(timer, timeouts, interim, progress, sending).await;
                sent.map(|response| response.map(IncomingBody::from))
            }
            Self::Http2(connection) => {
                to_http2(origin, &mut request);
                // Boxed, because most requests use HTTP/1.1: their future stays small.
                let sending = Box::pin(async move {
                    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
                    let sending = pin!(connection.send(request, interim));
                    within(timer.as_mut(), timeouts, interim, progress, sending).await
                });
                sending.await
            }
        }
    }
}

/// Waits for a response as long as each stage of the request stays within its timeout.
async fn within<T, E: Into<UnansweredRequest>>(
    mut timer: Pin<&mut Sleep>,
    timeouts: ResponseTimeouts,
    interim: &InterimRelay,
    progress: Option<&UploadProgress>,
    mut sending: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> Result<T, UnansweredRequest> {
    let began = Instant::now();
    let stage = || match progress {
        Some(progress) => progress.stage(),
        None => (UploadStage::Response, began),
    };
    loop {
        timer.as_mut().reset(timeouts.next_check(stage()));
        tokio::select! {
            biased;
            sent = &mut sending => return match interim.has_too_many() {
                true => Err(OriginError::TooManyInterim.into()),
                false => sent.map_err(Into::into),
            },
            () = interim.too_many() => return Err(OriginError::TooManyInterim.into()),
            () = timer.as_mut() => {
                let (stage, since) = stage();
                if since.elapsed() >= timeouts.of(stage) {
                    time_out(stage, progress)?;
                }
            }
        }
    }
}

impl ResponseTimeouts {
    fn of(self, stage: UploadStage) -> Duration {
        match stage {
            UploadStage::Continue => CONTINUE_TIMEOUT,
            UploadStage::ClientData => self.content,
            UploadStage::OriginRead => self.send,
            UploadStage::Response => self.response,
        }
    }

    /// When to check the stage again. It may change at any time before the upload is complete, so the
    /// shortest timeout determines the interval.
    fn next_check(self, (stage, since): (UploadStage, Instant)) -> Instant {
        let due = since + self.of(stage);
        match stage {
            UploadStage::Response => due,
            _ => due.min(Instant::now() + self.content.min(self.send).min(self.response)),
        }
    }
}

/// Handles the timeout of a stage. If 100 (Continue) does not arrive, the content is sent without it;
/// every other timeout is an error.
fn time_out(stage: UploadStage, progress: Option<&UploadProgress>) -> Result<(), OriginError> {
    match stage {
        UploadStage::Continue => {
            if let Some(progress) = progress {
                progress.allow();
            }
            Ok(())
        }
        UploadStage::ClientData => Err(OriginError::ContentTimeout),
        UploadStage::OriginRead => Err(OriginError::SendTimeout),
        UploadStage::Response => Err(OriginError::ResponseTimeout),
    }
}

/// Converts a request to HTTP/1.1. It may have been converted to HTTP/2 for an earlier attempt.
fn to_http1(origin: &Origin, request: &mut Request<RequestBody>) {
    if request.uri().authority().is_some() {
        let host = HeaderValue::try_from(origin.host_field()).expect("a canonical host is ASCII");
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = Uri::from(path_of(request));
    }
    // RFC 9110 §10.1.4.
    if request.headers().contains_key(TE) {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("TE"));
    }
    *request.version_mut() = Version::HTTP_11;
    frame(request);
}

/// Converts a request to HTTP/2: the authority moves from `Host` to the target (RFC 9113 §8.3.1).
fn to_http2(origin: &Origin, request: &mut Request<RequestBody>) {
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
    let uri = Uri::builder()
        .scheme(origin.scheme.to_string().as_str())
        .authority(origin.host_field())
        .path_and_query(path_of(request))
        .build();
    *request.uri_mut() = uri.expect("a canonical authority and a path that was parsed make a URI");
    *request.version_mut() = Version::HTTP_2;
    frame(request);
}

fn frame(request: &mut Request<RequestBody>) {
    let (method, version) = (request.method().clone(), request.version());
    let content = request.body().content_length();
    frame_request(&method, version, content, request.headers_mut());
}

fn path_of(request: &Request<RequestBody>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
}

/// Parses the timeout, in seconds, of `Keep-Alive: timeout=5, max=100`. No RFC defines the field, but
/// most servers send it.
fn keep_alive_timeout(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(KEEP_ALIVE)?.to_str().ok()?;
    text.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = name.trim().eq_ignore_ascii_case("timeout").then_some(value)?;
        value.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
    })
}

fn classify(error: hyper::Error) -> (OriginError, DeliveryOutcome) {
    let is_closed = error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || is_reset(&error);
    let outcome = if is_closed { DeliveryOutcome::Closed } else { DeliveryOutcome::Unknown };
    if error.is_parse_too_large() {
        return (OriginError::Head, outcome);
    }
    let is_malformed = error.is_parse() || error.is_parse_status();
    let is_own = error.is_user();
    let error = match error.into() {
        error if is_malformed => OriginError::Response(error),
        error if is_own => OriginError::Request(error),
        error => OriginError::Closed(error),
    };
    (error, outcome)
}

/// Returns true if the connection was reset, or ended without `close_notify`.
fn is_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                BrokenPipe | ConnectionReset | ConnectionAborted | UnexpectedEof
            );
        }
        cause = source.source();
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::origin::{Authority, Host, Scheme};

    /// A request that was not written may be sent again on a connection of the other version.
    #[test]
    fn te_trailers_is_expressed_in_the_form_of_each_version() {
        let authority = Authority { host: Host::parse("api.test").unwrap(), port: 443 };
        let origin = Origin { scheme: Scheme::Https, authority };
        let mut request = Request::new(RequestBody::default());
        *request.uri_mut() = Uri::from_static("/");
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        for _ in 0..2 {
            to_http1(&origin, &mut request);
            assert_eq!(request.headers()[CONNECTION], "TE");
            to_http2(&origin, &mut request);
            assert_eq!(request.headers().get(CONNECTION), None);
            assert_eq!(request.headers()[TE], "trailers");
        }
    }

    #[test]
    fn a_keep_alive_timeout_is_parsed_in_every_spelling_or_ignored() {
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
            assert_eq!(keep_alive_timeout(&fields), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
