//! What both sides of HTTP/2 have in common: content that comes, content that goes, and pings.
//!
//! Windows. A stream's window bounds what is held for a reader that does not read. The connection's window
//! is as large as all its streams' together, so that no stream can take it from another: one slow reader
//! stalls nobody else.

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

use super::connection::{Activity, ConnectionPhase, Watchdog};
use super::framing::content_length;

/// How often a connection with requests under way is asked whether its other end is still there. Servers
/// that count pings (gRPC) tolerate no more than one in five minutes; a peer whose machine is gone is
/// noticed earlier, by TCP keepalive.
const PING_INTERVAL: Duration = Duration::from_secs(300);
/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(30);

/// Content that comes on a stream.
pub(super) struct Http2Content {
    stream: RecvStream,
    /// What is left of a declared length.
    left: Option<u64>,
    data_ended: bool,
    ended: bool,
    /// Asks the peer for the content when it is first read (RFC 9110 §10.1.1).
    ask: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// Held as long as the stream is used.
    _held: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl Http2Content {
    pub(super) fn new(stream: RecvStream, fields: &HeaderMap) -> Self {
        let left = if stream.is_end_stream() { Some(0) } else { content_length(fields) };
        Self { stream, left, data_ended: false, ended: false, ask: None, _held: None }
    }

    /// Has `ask` run before the first of the content is waited for.
    pub(super) fn asks_first(mut self, ask: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.ask = Some(Box::new(ask));
        self
    }

    /// Leaves out what is sent where no content can be (RFC 9110 §6.4.1).
    pub(super) fn leave_out(&mut self) {
        (self.data_ended, self.ended) = (true, true);
    }

    /// Keeps `held` until the content is dropped.
    fn holding(mut self, held: Arc<dyn std::any::Any + Send + Sync>) -> Self {
        self._held = Some(held);
        self
    }

    /// A stream that is reset before its end has broken off, whatever the reason: a part is never taken
    /// for the whole.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(ask) = self.ask.take() {
            ask();
        }
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(self.take(data)))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.ended = true;
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn take(&mut self, data: Bytes) -> Frame<Bytes> {
        // It fails only for a stream that is over.
        let _over = self.stream.flow_control().release_capacity(data.len());
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        Frame::data(data)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl std::fmt::Debug for Http2Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http2Content")
    }
}

/// Why content could not be sent to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendContentError<E> {
    /// The peer wants no more of it, or the connection broke.
    #[error(transparent)]
    Peer(h2::Error),
    /// The content broke off; the stream was reset.
    #[error("the content broke off: {0}")]
    Content(E),
    /// It overstayed a limit; the stream was reset.
    #[error("it took too long")]
    Late,
}

/// Looks after a stream that content goes out on, from the first time it has to wait.
#[derive(Debug, Default)]
pub(super) struct StreamMonitor<'a> {
    /// `None`: nobody looks after it here.
    watchdog: Option<&'a Watchdog>,
    activity: Option<Arc<Activity>>,
}

impl<'a> StreamMonitor<'a> {
    pub(super) fn by(watchdog: &'a Watchdog) -> Self {
        Self { watchdog: Some(watchdog), activity: None }
    }

    /// The stream waits: for its peer to take something, or for content. Is its time over?
    fn poll_late(&mut self, cx: &Context<'_>, is_blocked: bool) -> Poll<()> {
        let Some(watchdog) = self.watchdog else { return Poll::Pending };
        let activity =
            self.activity.get_or_insert_with(|| watchdog.watch(ConnectionPhase::Content));
        if is_blocked {
            activity.blocked();
        }
        activity.poll_closing(cx)
    }

    fn progress(&self) {
        if let Some(activity) = &self.activity {
            activity.written();
        }
    }
}

impl<E> From<h2::Error> for SendContentError<E> {
    fn from(error: h2::Error) -> Self {
        Self::Peer(error)
    }
}

/// Sends `content`, as fast as the peer takes it, and ends the stream.
///
/// # Errors
///
/// [`SendContentError`]; the stream is over.
pub(super) async fn send_content<B>(
    mut content: B,
    stream: &mut SendStream<Bytes>,
    mut watch: StreamMonitor<'_>,
) -> Result<(), SendContentError<B::Error>>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    while let Some(frame) = next_frame(&mut content, stream, &mut watch).await? {
        watch.progress();
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if data.is_empty() => {}
            Ok(Ok(data)) => {
                let is_last = content.is_end_stream();
                wait_for_capacity(stream, &mut watch).await?;
                watch.progress();
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

/// The next piece of `content`, unless the peer resets the stream first.
async fn next_frame<B>(
    content: &mut B,
    stream: &mut SendStream<Bytes>,
    watch: &mut StreamMonitor<'_>,
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
        watch.poll_late(cx, false).map(|()| Err(late(stream)))
    })
    .await
}

/// Waits until the peer takes more. One byte is asked for, so that a stream that has nothing to send yet takes
/// no part of the connection's window from another.
async fn wait_for_capacity<E>(
    stream: &mut SendStream<Bytes>,
    watch: &mut StreamMonitor<'_>,
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
                Poll::Pending => return watch.poll_late(cx, true).map(|()| Err(late(stream))),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

fn late<E>(stream: &mut SendStream<Bytes>) -> SendContentError<E> {
    stream.send_reset(Reason::CANCEL);
    SendContentError::Late
}

/// Resolves when the other end of a connection no longer answers pings; `is_busy` says whether any request is
/// under way, because a connection without any is closed by its idle time.
pub(super) async fn silence(pings: Option<PingPong>, is_busy: impl Fn() -> bool) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if !is_busy() {
            continue;
        }
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection itself says what is wrong with it.
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

    /// One end of a connection whose other end answers, or has fallen silent after the handshake.
    async fn pings(answers: bool) -> (PingPong, [AbortOnDropHandle<()>; 2]) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            while answers && server.accept().await.is_some() {}
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
    async fn p23_an_end_that_answers_pings_is_left_alone_for_hours() {
        let (pings, _tasks) = pings(true).await;
        let noticed = timeout(Duration::from_secs(4 * 3600), silence(Some(pings), || true)).await;
        assert!(noticed.is_err(), "it was taken for dead");
    }

    #[tokio::test(start_paused = true)]
    async fn p23_an_end_that_answers_no_pings_is_noticed_while_a_request_is_under_way() {
        let ((pings, _tasks), began) = (pings(false).await, Instant::now());
        let noticed = timeout(Duration::from_secs(3600), silence(Some(pings), || true)).await;
        assert!(noticed.is_ok(), "it was never noticed");
        assert_eq!(began.elapsed(), PING_INTERVAL + PING_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn p23_a_connection_without_requests_is_not_pinged() {
        let (pings, _tasks) = pings(false).await;
        let noticed = timeout(Duration::from_secs(3600), silence(Some(pings), || false)).await;
        assert!(noticed.is_err(), "it was pinged");
    }
}
