//! HTTP/2 to an origin server: one connection that serves many requests at once.

use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::{Http2Content, StreamMonitor, ping_timeout, send_content};
use crate::proxy::incoming_body::IncomingBody;
use crate::proxy::interim::InterimRelay;
use crate::proxy::origin_connection::{DeliveryOutcome, UnansweredRequest};
use crate::proxy::origin_error::OriginError;
use crate::proxy::request_body::RequestBody;

/// The receive window of a stream, in bytes: large enough for full speed over a long distance.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The most requests in flight on one connection, even if the server allows more.
const MAX_STREAMS: usize = 128;

/// A handle to a connection that serves many requests at once.
#[derive(Clone)]
pub(in crate::proxy) struct Http2Connection {
    sender: SendRequest<Bytes>,
    /// Requests in flight.
    streams: Arc<AtomicUsize>,
}

/// Counts one request in flight until it is dropped.
struct StreamGuard(Arc<AtomicUsize>);

impl StreamGuard {
    fn start(streams: &Arc<AtomicUsize>) -> Arc<dyn Any + Send + Sync> {
        streams.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self(Arc::clone(streams)))
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Http2Connection {
    /// Performs the HTTP/2 handshake on `stream` and spawns the task that drives the connection.
    /// Response heads may be up to `max_head` bytes long.
    pub(in crate::proxy) async fn handshake<S>(stream: S, max_head: u32) -> Result<Self, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let windows = STREAM_WINDOW * u32::try_from(MAX_STREAMS).unwrap_or(1);
        let (sender, mut connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(windows)
            .max_header_list_size(max_head)
            .enable_push(false)
            .handshake(stream)
            .await?;
        let streams = Arc::new(AtomicUsize::new(0));
        let (pings, count) = (connection.ping_pong(), Arc::clone(&streams));
        tokio::spawn(async move {
            let is_busy = || count.load(Ordering::Relaxed) > 0;
            // Each request in flight reports the end of the connection.
            tokio::select! {
                _ended = connection => {}
                () = ping_timeout(pings, is_busy) => {}
            }
        });
        Ok(Self { sender, streams })
    }

    /// Returns true if the connection is neither closed nor closing (GOAWAY).
    pub(in crate::proxy) fn is_open(&self) -> bool {
        let polled = self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(polled, Poll::Ready(Ok(())))
    }

    /// Returns true if another request can be sent now.
    pub(in crate::proxy) fn has_capacity(&self) -> bool {
        let limit = self.sender.current_max_send_streams().min(MAX_STREAMS);
        self.streams.load(Ordering::Relaxed) < limit
    }

    /// Returns true if requests are in flight.
    pub(in crate::proxy) fn is_busy(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    /// Returns true if both handles belong to the same connection.
    pub(in crate::proxy) fn is_same_connection(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.streams, &other.streams)
    }

    /// Sends a request and waits for the head of its response.
    pub(in crate::proxy) async fn send(
        &mut self,
        request: Request<RequestBody>,
        interim: &InterimRelay,
    ) -> Result<Response<IncomingBody>, UnansweredRequest> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let is_empty = body.is_end_stream();
        let begun = self.sender.send_request(head.clone(), is_empty);
        let (mut response, mut stream) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let request = Request::from_parts(head.into_parts().0, body);
                return Err(UnansweredRequest::unsent(OriginError::Closed(error.into()), request));
            }
        };
        let guard = StreamGuard::start(&self.streams);
        if let (false, Some(completion)) = (is_empty, body.completion()) {
            let (guard, progress) = (Arc::clone(&guard), body.progress());
            if let Some(progress) = &progress {
                progress.mark_flow_blocked();
            }
            completion.set_sender(AbortOnDropHandle::new(tokio::spawn(async move {
                // The response reports the outcome of the request.
                let _reported = send_content(body, &mut stream, StreamMonitor::default()).await;
                if let Some(progress) = progress {
                    progress.mark_unblocked();
                }
                drop(guard);
            })));
        }
        let answered = poll_fn(|cx| poll_response(&mut response, interim, cx)).await;
        answered.map(|response| into_incoming(response, guard))
    }
}

/// Polls for interim responses first, because the response future skips them. HTTP/2 has no 101
/// (RFC 9113 §8.6).
fn poll_response(
    response: &mut ResponseFuture,
    interim: &InterimRelay,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<RecvStream>, UnansweredRequest>> {
    while let Poll::Ready(Some(next)) = response.poll_informational(cx) {
        let next = next.map_err(unanswered)?;
        if next.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Err(OriginError::Upgrade.into()));
        }
        interim.receive(next.status(), next.into_parts().0.headers);
    }
    Pin::new(response).poll(cx).map_err(unanswered)
}

fn into_incoming(
    response: Response<RecvStream>,
    guard: Arc<dyn Any + Send + Sync>,
) -> Response<IncomingBody> {
    let (parts, content) = response.into_parts();
    let content = Http2Content::new(content, &parts.headers).with_guard(guard);
    Response::from_parts(parts, IncomingBody::Http2(content))
}

fn unanswered(error: h2::Error) -> UnansweredRequest {
    let outcome = outcome(&error);
    // `is_library`: h2 detected a protocol violation. `is_own`: the task that sends the content reset
    // the stream because the content ended early.
    let is_malformed = error.is_library();
    let is_own = error.is_reset() && !error.is_remote();
    let error = match error.into() {
        error if is_malformed => OriginError::Response(error),
        error if is_own => OriginError::Request(error),
        error => OriginError::Closed(error),
    };
    UnansweredRequest { error, outcome, request: None }
}

/// A stream that was refused, or that is above the last stream of a GOAWAY, was certainly not
/// processed (RFC 9113 §8.7). h2 fails the other streams only when the connection ends.
fn outcome(error: &h2::Error) -> DeliveryOutcome {
    match error.reason() {
        Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => DeliveryOutcome::Http1Required,
        _ if error.is_remote() && error.is_go_away() => DeliveryOutcome::NotProcessed,
        Some(Reason::REFUSED_STREAM) if error.is_remote() => DeliveryOutcome::NotProcessed,
        _ if error.is_io() => DeliveryOutcome::Closed,
        _ => DeliveryOutcome::Unknown,
    }
}
