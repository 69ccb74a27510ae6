//! What the client side and the server side of HTTP/2 share: receiving content, sending content, and
//! pings.
//!
//! A stream's flow-control window bounds the bytes that are buffered for a reader that does not read.
//! The connection's window is as large as the windows of all its streams together, so one slow reader
//! cannot stall the other streams.

pub(super) mod client;
pub(super) mod server;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::activity::{Activity, ConnectionPhase, Watchdog};
use super::framing::content_length;

/// The interval between pings while requests are in flight. gRPC servers tolerate at most one ping in
/// five minutes. TCP keepalive detects a dead machine earlier.
const PING_INTERVAL: Duration = Duration::from_secs(300);
/// How long a peer may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(30);

/// Content that is received on a stream.
pub(super) struct Http2Content {
    stream: RecvStream,
    /// The bytes still to come, if a length was declared.
    remaining: Option<u64>,
    is_data_complete: bool,
    is_complete: bool,
    /// Called when the content is first read. It sends 100 (Continue) if the client waits for it
    /// (RFC 9110 §10.1.1).
    on_first_read: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// Held as long as the stream is in use.
    _guard: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl Http2Content {
    pub(super) fn new(stream: RecvStream, fields: &HeaderMap) -> Self {
        let remaining = if stream.is_end_stream() { Some(0) } else { content_length(fields) };
        Self {
            stream,
            remaining,
            is_data_complete: false,
            is_complete: false,
            on_first_read: None,
            _guard: None,
        }
    }

    /// Sets a function that is called before the content is first waited for.
    fn with_on_first_read(mut self, function: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.on_first_read = Some(Box::new(function));
        self
    }

    /// Ignores content that was sent with a response that must have none (RFC 9110 §6.4.1).
    pub(super) fn ignore(&mut self) {
        (self.is_data_complete, self.is_complete) = (true, true);
    }

    /// Keeps `guard` until the content is dropped.
    fn with_guard(mut self, guard: Arc<dyn std::any::Any + Send + Sync>) -> Self {
        self._guard = Some(guard);
        self
    }

    /// Reads the next frame. A stream that is reset before its end is an error, whatever the reason:
    /// truncated content never looks complete.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(on_first_read) = self.on_first_read.take() {
            on_first_read();
        }
        if !self.is_data_complete {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(self.accept(data)))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.is_data_complete = true,
            }
        }
        if self.is_complete {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.is_complete = true;
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn accept(&mut self, data: Bytes) -> Frame<Bytes> {
        // This fails only if the stream is closed.
        let _closed = self.stream.flow_control().release_capacity(data.len());
        self.remaining = self.remaining.map(|left| left.saturating_sub(data.len() as u64));
        Frame::data(data)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.is_complete || self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl std::fmt::Debug for Http2Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http2Content")
    }
}

/// Why content was not sent completely.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendContentError<E> {
    /// The peer reset the stream, or the connection failed.
    #[error(transparent)]
    Peer(h2::Error),
    /// Reading the content failed; the stream was reset.
    #[error("the content ended early: {0}")]
    Content(E),
    /// A timeout passed; the stream was reset.
    #[error("sending the content took too long")]
    Timeout,
}

/// Registers a stream with the watchdog when sending content on it first has to wait.
#[derive(Debug, Default)]
pub(super) struct StreamMonitor<'a> {
    /// `None` if the stream is not monitored.
    watchdog: Option<&'a Watchdog>,
    activity: Option<Arc<Activity>>,
}

impl<'a> StreamMonitor<'a> {
    pub(super) fn new(watchdog: &'a Watchdog) -> Self {
        Self { watchdog: Some(watchdog), activity: None }
    }

    /// Records that the stream waits for content or, if `is_blocked`, for its peer's window. Resolves
    /// when a timeout has passed.
    fn poll_timeout(&mut self, cx: &Context<'_>, is_blocked: bool) -> Poll<()> {
        let Some(watchdog) = self.watchdog else { return Poll::Pending };
        let activity =
            self.activity.get_or_insert_with(|| watchdog.register(ConnectionPhase::Content));
        if is_blocked {
            activity.record_blocked();
        }
        activity.poll_close_requested(cx)
    }

    fn record_progress(&self) {
        if let Some(activity) = &self.activity {
            activity.record_write();
        }
    }
}

impl<E> From<h2::Error> for SendContentError<E> {
    fn from(error: h2::Error) -> Self {
        Self::Peer(error)
    }
}

/// Sends `content` as fast as the peer accepts it, and ends the stream.
///
/// # Errors
///
/// [`SendContentError`] if the content was not sent completely. The stream is closed.
pub(super) async fn send_content<B>(
    mut content: B,
    stream: &mut SendStream<Bytes>,
    mut monitor: StreamMonitor<'_>,
) -> Result<(), SendContentError<B::Error>>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    while let Some(frame) = next_frame(&mut content, stream, &mut monitor).await? {
        monitor.record_progress();
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if data.is_empty() => {}
            Ok(Ok(data)) => {
                let is_last = content.is_end_stream();
                wait_for_capacity(stream, &mut monitor).await?;
                monitor.record_progress();
                stream.send_data(data, is_last)?;
                if is_last {
                    return Ok(());
                }
            }
            Ok(Err(frame)) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return Ok(stream.send_trailers(trailers)?);
            }
            Err(error) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(SendContentError::Content(error));
            }
        }
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}

/// Returns the next frame of `content`, or an error if the peer resets the stream first.
async fn next_frame<B>(
    content: &mut B,
    stream: &mut SendStream<Bytes>,
    monitor: &mut StreamMonitor<'_>,
) -> Result<Option<Result<Frame<Bytes>, B::Error>>, SendContentError<B::Error>>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    poll_fn(|cx| {
        if let Poll::Ready(reset) = stream.poll_reset(cx) {
            let error = reset.map_or_else(|error| error, h2::Error::from);
            return Poll::Ready(Err(error.into()));
        }
        if let Poll::Ready(frame) = Pin::new(&mut *content).poll_frame(cx) {
            return Poll::Ready(Ok(frame));
        }
        monitor.poll_timeout(cx, false).map(|()| Err(reset_late(stream)))
    })
    .await
}

/// Waits until the peer's window is open. It reserves a single byte, so that the stream does not claim
/// more of the connection's window than it can use.
async fn wait_for_capacity<E>(
    stream: &mut SendStream<Bytes>,
    monitor: &mut StreamMonitor<'_>,
) -> Result<(), SendContentError<E>> {
    stream.reserve_capacity(1);
    poll_fn(|cx| {
        while stream.capacity() == 0 {
            match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) => {
                    return Poll::Ready(Err(h2::Error::from(Reason::CANCEL).into()));
                }
                Poll::Pending => {
                    return monitor.poll_timeout(cx, true).map(|()| Err(reset_late(stream)));
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

fn reset_late<E>(stream: &mut SendStream<Bytes>) -> SendContentError<E> {
    stream.send_reset(Reason::CANCEL);
    SendContentError::Timeout
}

/// Resolves when the peer no longer answers pings.
///
/// No pings are sent while `is_busy` returns false, because the idle timeout ends a connection without
/// requests.
pub(super) async fn ping_timeout(pings: Option<PingPong>, is_busy: impl Fn() -> bool) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if !is_busy() {
            continue;
        }
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection itself reports the error.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::time::{Instant, timeout};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// One end of a connection. The peer answers pings only if `answers_pings` is true.
    async fn pings(answers_pings: bool) -> (PingPong, [AbortOnDropHandle<()>; 2]) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            while answers_pings && server.accept().await.is_some() {}
            std::future::pending().await
        });
        let (sender, mut client) = h2::client::handshake(near).await.unwrap();
        let pings = client.ping_pong().unwrap();
        let client = tokio::spawn(async move {
            let _ended = client.await;
            drop(sender);
        });
        (pings, [AbortOnDropHandle::new(server), AbortOnDropHandle::new(client)])
    }

    #[tokio::test(start_paused = true)]
    async fn p23_a_peer_that_answers_pings_never_times_out() {
        let (pings, _tasks) = pings(true).await;
        let result =
            timeout(Duration::from_secs(4 * 3600), ping_timeout(Some(pings), || true)).await;
        assert!(result.is_err(), "a peer that answers pings timed out");
    }

    #[tokio::test(start_paused = true)]
    async fn p23_a_peer_that_answers_no_pings_times_out_while_a_request_is_in_flight() {
        let ((pings, _tasks), began) = (pings(false).await, Instant::now());
        let result = timeout(Duration::from_secs(3600), ping_timeout(Some(pings), || true)).await;
        assert!(result.is_ok(), "the silent peer was never detected");
        let expected = PING_INTERVAL + PING_TIMEOUT;
        assert_eq!(began.elapsed(), expected, "the silent peer was detected at the wrong time");
    }

    #[tokio::test(start_paused = true)]
    async fn p23_a_connection_without_requests_is_not_pinged() {
        let (pings, _tasks) = pings(false).await;
        let result = timeout(Duration::from_secs(3600), ping_timeout(Some(pings), || false)).await;
        assert!(result.is_err(), "a connection without requests was pinged");
    }
}
