//! One request on one connection to an origin server, in either version of HTTP.
//!
//! A request leaves in the form of the connection's version. Each wait is for one peer: for the client's content,
//! for the origin server to take it, for its answer. What went wrong says whether the request
//! may have been seen: one that was not is not lost.

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
/// So long before an origin server closes a connection it gets no more requests.
const CLOSE_MARGIN: Duration = Duration::from_secs(1);
/// How long an origin server may take to ask for content that its client holds back (RFC 9110 §10.1.1 leaves
/// the time open; curl waits as long).
const CONTINUE_TIME: Duration = Duration::from_secs(1);

/// How long it may take until something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseTimeouts {
    /// Until the origin server answers, once all of the content is there.
    pub(super) response: Duration,
    /// Until it takes something of the content.
    pub(super) send: Duration,
    /// Until the client sends something of it.
    pub(super) content: Duration,
}

/// A connection that serves one request after the other. Dropping it closes it.
pub(super) struct Http1Connection {
    pub(super) origin: Origin,
    sender: http1::SendRequest<RequestBody>,
    head: ResponseExpectation,
    /// For the answers on it, one after the other: setting a timer later is next to free, making
    /// one for each request is not.
    timer: Pin<Box<Sleep>>,
    /// Idle since then.
    since: Instant,
    /// How long the origin server keeps it, if it has said so.
    kept_for: Option<Duration>,
    pub(super) version: u64,
    _task: AbortOnDropHandle<()>,
}

/// A connection to send one request on.
pub(super) enum OriginConnection {
    Http1(Box<Http1Connection>),
    Http2(Http2Connection),
}

/// What is known about a request that got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryOutcome {
    /// The origin server has certainly not processed it.
    NotProcessed,
    /// It has not processed it, and would over HTTP/1.1 (RFC 9113 §7).
    Http1Required,
    /// The connection was closed, and not a byte of a response had come.
    Closed,
    /// It may have been processed.
    Unknown,
}

/// A request without a response.
pub(super) struct UnansweredRequest {
    pub(super) error: OriginError,
    pub(super) outcome: DeliveryOutcome,
    /// The request, if nothing of it was written.
    pub(super) request: Option<Box<Request<RequestBody>>>,
}

impl UnansweredRequest {
    /// Nothing of `request` was written.
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
        let (error, outcome) = failure(error.into_error());
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
        head: ResponseExpectation,
        version: u64,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let since = Instant::now();
        Self { origin, sender, head, timer, since, kept_for: None, version, _task: task }
    }

    pub(super) fn is_valid(&self, connector: &Connector) -> bool {
        self.version == connector.version
            && self.since.elapsed() < connector.idle_timeout
            && self.is_usable()
    }

    /// Could it take a request at once? Nothing ever waits until it can. An origin server that is about to close it, by
    /// its own account, gets no more: a request that meets the close on its way is lost, and only a safe one may
    /// be sent again.
    pub(super) fn is_usable(&self) -> bool {
        let is_given_up =
            |time: Duration| self.since.elapsed() >= time.saturating_sub(CLOSE_MARGIN);
        self.sender.is_ready() && !self.kept_for.is_some_and(is_given_up)
    }

    /// It has served a request whose response had these fields.
    pub(super) fn has_served(&mut self, fields: &HeaderMap) {
        self.kept_for = keep_alive(fields);
    }

    /// From now on it is idle.
    pub(super) fn rest(&mut self) {
        self.since = Instant::now();
    }
}

impl OriginConnection {
    /// Sends `request`, whose answer may take as long as `limits` say.
    pub(super) async fn send(
        &mut self,
        origin: &Origin,
        mut request: Request<RequestBody>,
        limits: ResponseTimeouts,
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
                for_http1(origin, &mut request);
                connection.head.expect(interim);
                let sending = pin!(connection.sender.try_send_request(request));
                let timer = connection.timer.as_mut();
                let sent = within(timer, limits, interim, progress, sending).await;
                sent.map(|response| response.map(IncomingBody::from))
            }
            Self::Http2(connection) => {
                for_http2(origin, &mut request);
                // Boxed, because most requests go another way.
                let sending = Box::pin(async move {
                    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
                    let sending = pin!(connection.send(request, interim));
                    within(timer.as_mut(), limits, interim, progress, sending).await
                });
                sending.await
            }
        }
    }
}

/// Waits for a response, as long as whoever has to do something does it in time.
async fn within<T, E: Into<UnansweredRequest>>(
    mut timer: Pin<&mut Sleep>,
    limits: ResponseTimeouts,
    interim: &InterimRelay,
    progress: Option<&UploadProgress>,
    mut sending: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> Result<T, UnansweredRequest> {
    let began = Instant::now();
    let stage = || match progress {
        Some(progress) => progress.stage(),
        None => (UploadStage::AwaitingResponse, began),
    };
    loop {
        timer.as_mut().reset(limits.next_check(stage()));
        tokio::select! {
            biased;
            sent = &mut sending => return match interim.has_too_many() {
                true => Err(OriginError::TooManyInterim.into()),
                false => sent.map_err(Into::into),
            },
            () = interim.too_many() => return Err(OriginError::TooManyInterim.into()),
            () = timer.as_mut() => {
                let (stage, since) = stage();
                if since.elapsed() >= limits.of(stage) {
                    too_late(stage, progress)?;
                }
            }
        }
    }
}

impl ResponseTimeouts {
    fn of(self, stage: UploadStage) -> Duration {
        match stage {
            UploadStage::AwaitingContinue => CONTINUE_TIME,
            UploadStage::AwaitingClient => self.content,
            UploadStage::AwaitingOrigin => self.send,
            UploadStage::AwaitingResponse => self.response,
        }
    }

    /// When to check the stage again. It may change at any time before the upload is complete; checking as often as
    /// the shortest limit misses none of them.
    fn next_check(self, (stage, since): (UploadStage, Instant)) -> Instant {
        let due = since + self.of(stage);
        match stage {
            UploadStage::AwaitingResponse => due,
            _ => due.min(Instant::now() + self.content.min(self.send).min(self.response)),
        }
    }
}

/// Whoever had to do something has not done it.
fn too_late(stage: UploadStage, progress: Option<&UploadProgress>) -> Result<(), OriginError> {
    match stage {
        UploadStage::AwaitingContinue => {
            if let Some(progress) = progress {
                progress.allow();
            }
            Ok(())
        }
        UploadStage::AwaitingClient => Err(OriginError::ContentTimeout),
        UploadStage::AwaitingOrigin => Err(OriginError::SendTimeout),
        UploadStage::AwaitingResponse => Err(OriginError::ResponseTimeout),
    }
}

/// As it was made, or back again from HTTP/2.
fn for_http1(origin: &Origin, request: &mut Request<RequestBody>) {
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

/// The authority moves from `Host` into the target (RFC 9113 §8.3.1).
fn for_http2(origin: &Origin, request: &mut Request<RequestBody>) {
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
    let content = request.body().content();
    frame_request(&method, version, content, request.headers_mut());
}

fn path_of(request: &Request<RequestBody>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
}

/// The seconds of `Keep-Alive: timeout=5, max=100`, which no RFC defines and most servers send.
fn keep_alive(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(KEEP_ALIVE)?.to_str().ok()?;
    text.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = name.trim().eq_ignore_ascii_case("timeout").then_some(value)?;
        value.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
    })
}

fn failure(error: hyper::Error) -> (OriginError, DeliveryOutcome) {
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

/// Was the connection reset, or ended without a word of TLS?
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

    /// As one is that nothing of was written, and that is sent on a connection of the other version.
    #[test]
    fn a_wish_for_trailers_is_said_as_each_version_says_it() {
        let authority = Authority { host: Host::parse("api.test").unwrap(), port: 443 };
        let origin = Origin { scheme: Scheme::Https, authority };
        let mut request = Request::new(RequestBody::default());
        *request.uri_mut() = Uri::from_static("/");
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        for _ in 0..2 {
            for_http1(&origin, &mut request);
            assert_eq!(request.headers()[CONNECTION], "TE");
            for_http2(&origin, &mut request);
            assert_eq!(request.headers().get(CONNECTION), None);
            assert_eq!(request.headers()[TE], "trailers");
        }
    }

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
