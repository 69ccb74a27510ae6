//! A request body that can be sent again.
//!
//! Nothing is read ahead: while the body streams to the origin server, the data that passes is kept, up to a limit. If
//! the request has to be sent again, the kept data is sent first and the rest of the stream follows. So an origin
//! server that responds 401 before it has read the body causes no extra traffic. Beyond the limit the body streams on,
//! the kept data is dropped, and the body can be sent only once.
//!
//! At most one pass is active. Starting the next one ends the pass before it with an error, so that its connection
//! breaks off instead of sending part of a body as the whole.

mod chunks;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use chunks::Chunks;

/// The bytes that all kept bodies together may hold.
#[derive(Debug)]
pub(super) struct ReplayBudget {
    available: AtomicU64,
}

impl ReplayBudget {
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { available: AtomicU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |available: u64| available.checked_sub(bytes);
        self.available.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.available.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// One pass over a body. [`ReplayBody::restart`] starts the next one.
#[derive(Debug)]
pub(super) struct ReplayBody<B> {
    shared: Arc<Mutex<SharedBody<B>>>,
    /// The number of this pass.
    pass: u32,
    /// Bytes that this pass has yielded.
    position: u64,
    /// This pass has yielded the trailers, or the end.
    is_complete: bool,
    /// The length of the whole body, if known.
    length: Option<u64>,
}

/// The source of a body and what is kept of it, shared by all passes.
#[derive(Debug)]
struct SharedBody<B> {
    source: B,
    chunks: Chunks,
    trailers: Option<HeaderMap>,
    /// Bytes taken from the budget.
    taken: u64,
    /// The declared length exceeds `limit`.
    exceeds_limit: bool,
    limit: u64,
    budget: Arc<ReplayBudget>,
    /// The number of the pass that may read.
    active_pass: u32,
    /// Bytes that the source has yielded.
    read: u64,
    /// The source has failed.
    has_failed: bool,
    is_paused: bool,
    /// Woken at the end of the pause.
    reader: Option<Waker>,
    /// `chunks` holds everything that the source has yielded.
    is_kept: bool,
    /// The source has ended.
    has_ended: bool,
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError<E> {
    /// The source failed.
    #[error(transparent)]
    Source(E),
    /// A newer pass has started.
    #[error("the request is being sent again on another connection")]
    Superseded,
    /// Earlier data was not kept or could not be read. The rest alone is not the content.
    #[error("the content was sent before and not kept")]
    NotKept,
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Wraps `source`, of which at most `limit` bytes are kept, and no more than `budget` has available.
    pub(super) fn new(source: B, limit: u64, budget: Arc<ReplayBudget>) -> Self {
        let size = source.size_hint();
        let length = size.exact();
        let shared = SharedBody {
            is_kept: true,
            exceeds_limit: size.lower() > limit,
            has_ended: source.is_end_stream(),
            source,
            chunks: Chunks::default(),
            trailers: None,
            taken: 0,
            limit,
            budget,
            active_pass: 0,
            read: 0,
            has_failed: false,
            is_paused: false,
            reader: None,
        };
        let shared = Arc::new(Mutex::new(shared));
        Self { shared, pass: 0, position: 0, is_complete: false, length }
    }

    /// Returns true if the body can be sent again from its beginning. Before anything has been read, this is true for
    /// a body of any length.
    pub(super) fn can_restart(&self) -> bool {
        self.lock().is_kept
    }

    /// Pauses the active pass until the guard is dropped, so that a body that can be restarted now still can be then.
    /// Calls `on_pause` with the source.
    pub(super) fn pause(&self, on_pause: impl FnOnce(&B)) -> PauseGuard<B> {
        let mut shared = self.lock();
        shared.is_paused = true;
        on_pause(&shared.source);
        PauseGuard { shared: Arc::clone(&self.shared), pass: shared.active_pass }
    }

    /// Starts the next pass, from the beginning, and ends the active one.
    pub(super) fn restart(&self) -> Self {
        let mut shared = self.lock();
        shared.active_pass += 1;
        shared.is_paused = false;
        Self {
            shared: Arc::clone(&self.shared),
            pass: shared.active_pass,
            position: 0,
            is_complete: false,
            length: self.length,
        }
    }

    fn lock(&self) -> MutexGuard<'_, SharedBody<B>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a pass paused until it is dropped.
#[derive(Debug)]
pub(super) struct PauseGuard<B> {
    shared: Arc<Mutex<SharedBody<B>>>,
    pass: u32,
}

impl<B> Drop for PauseGuard<B> {
    fn drop(&mut self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.active_pass == self.pass {
            shared.is_paused = false;
            if let Some(reader) = shared.reader.take() {
                reader.wake();
            }
        }
    }
}

impl<B> SharedBody<B> {
    /// Keeps `chunk`. If it does not fit, drops everything that was kept.
    fn keep(&mut self, chunk: &Bytes) {
        let length = chunk.len() as u64;
        if !self.is_kept {
            return;
        }
        let fits = !self.exceeds_limit && self.chunks.length() + length <= self.limit;
        if fits && self.budget.take(length) {
            self.taken += length;
            self.chunks.push(chunk);
        } else {
            self.discard();
        }
    }

    fn discard(&mut self) {
        self.is_kept = false;
        self.chunks = Chunks::default();
        self.budget.give_back(std::mem::take(&mut self.taken));
    }
}

impl<B> Drop for SharedBody<B> {
    fn drop(&mut self) {
        self.discard();
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = ReplayError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut shared = this.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.active_pass != this.pass {
            return Poll::Ready(Some(Err(ReplayError::Superseded)));
        }
        if let Some(chunk) = shared.chunks.after(this.position) {
            this.position += chunk.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        // A pass that lacks earlier data must not send the rest as the whole.
        if shared.has_failed || shared.read != this.position {
            return Poll::Ready(Some(Err(ReplayError::NotKept)));
        }
        if shared.has_ended {
            let trailers = shared.trailers.clone().filter(|_| !this.is_complete);
            this.is_complete = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if shared.is_paused {
            shared.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(frame) = ready!(Pin::new(&mut shared.source).poll_frame(cx)) else {
            shared.has_ended = true;
            this.is_complete = true;
            return Poll::Ready(None);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                shared.discard();
                shared.has_failed = true;
                return Poll::Ready(Some(Err(ReplayError::Source(error))));
            }
        };
        if let Some(chunk) = frame.data_ref() {
            shared.keep(chunk);
            this.position += chunk.len() as u64;
            shared.read = this.position;
        } else if let Some(trailers) = frame.trailers_ref() {
            shared.trailers = Some(trailers.clone());
            shared.has_ended = true;
            this.is_complete = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.lock();
        shared.has_ended
            && !shared.has_failed
            && self.position == shared.read
            && (shared.trailers.is_none() || self.is_complete)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, |length| {
            SizeHint::with_exact(length.saturating_sub(self.position))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    /// A body whose frames are always ready.
    #[derive(Debug)]
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn frames(chunks: &[&'static str]) -> Frames {
        Frames(
            chunks.iter().map(|chunk| Frame::data(Bytes::from_static(chunk.as_bytes()))).collect(),
        )
    }

    async fn text(body: ReplayBody<Frames>) -> String {
        let bytes = body.collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_sent_again_byte_for_byte() {
        let first = ReplayBody::new(frames(&["ab", "cd"]), 4, ReplayBudget::new(100));
        let second = first.restart();
        let third = second.restart();
        assert_eq!(text(third).await, "abcd");
        assert!(second.can_restart());
        assert_eq!(text(second.restart()).await, "abcd");
    }

    #[tokio::test]
    async fn a_pass_started_midway_sends_the_kept_data_and_then_the_rest() {
        let mut first = ReplayBody::new(frames(&["ab", "cd", "ef"]), 10, ReplayBudget::new(100));
        first.frame().await.unwrap().unwrap();
        let second = first.restart();
        assert!(first.frame().await.unwrap().is_err(), "the first pass was not ended");
        assert_eq!(text(second).await, "abcdef");
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_streams_on_and_is_not_kept() {
        let budget = ReplayBudget::new(100);
        let mut body = ReplayBody::new(frames(&["abc", "def"]), 4, Arc::clone(&budget));
        body.frame().await.unwrap().unwrap();
        assert!(body.can_restart());
        body.frame().await.unwrap().unwrap();
        assert!(!body.can_restart());
        assert!(body.frame().await.is_none());
        assert_eq!(budget.available.load(Ordering::Relaxed), 100);
        let next = body.restart().frame().await.unwrap();
        assert!(
            matches!(next, Err(ReplayError::NotKept)),
            "an incomplete body was sent as the whole: {next:?}"
        );
    }

    #[tokio::test]
    async fn a_paused_pass_continues_after_the_pause_and_a_new_pass_at_once() {
        let first = ReplayBody::new(frames(&["ab", "cd", "ef"]), 10, ReplayBudget::new(100));
        let pause = first.pause(|_| {});
        let second = first.restart();
        assert_eq!(text(second.restart()).await, "abcdef");
        drop(pause);

        let first = ReplayBody::new(frames(&["ab"]), 10, ReplayBudget::new(100));
        let pause = first.pause(|_| {});
        let reading = tokio::spawn(text(first));
        tokio::task::yield_now().await;
        assert!(!reading.is_finished(), "read during the pause");
        drop(pause);
        let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
        assert_eq!(read.unwrap().unwrap(), "ab");
    }

    /// hyper's bodies report the end after an error, as if they were complete.
    #[tokio::test]
    async fn a_failed_body_is_not_replayed_as_an_empty_one() {
        struct FailingBody(bool);
        impl Body for FailingBody {
            type Data = Bytes;
            type Error = std::io::Error;

            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
                let first = !std::mem::replace(&mut self.0, true);
                Poll::Ready(first.then(|| Err(std::io::ErrorKind::UnexpectedEof.into())))
            }
        }
        let mut body = ReplayBody::new(FailingBody(false), 4, ReplayBudget::new(100));
        assert!(matches!(body.frame().await, Some(Err(ReplayError::Source(_)))));
        assert!(!body.can_restart());
        assert!(matches!(body.restart().frame().await, Some(Err(ReplayError::NotKept))));
    }

    #[tokio::test]
    async fn an_unread_body_of_any_length_can_be_restarted() {
        struct EndlessBody;
        impl Body for EndlessBody {
            type Data = Bytes;
            type Error = Infallible;

            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"abc")))))
            }

            fn size_hint(&self) -> SizeHint {
                SizeHint::with_exact(1 << 40)
            }
        }
        let mut body = ReplayBody::new(EndlessBody, 4, ReplayBudget::new(100));
        assert!(body.can_restart());
        body.frame().await.unwrap().unwrap();
        assert!(!body.can_restart());
    }

    #[tokio::test]
    async fn all_bodies_share_the_budget_and_give_it_back() {
        let budget = ReplayBudget::new(5);
        let mut one = ReplayBody::new(frames(&["abcd"]), 10, Arc::clone(&budget));
        one.frame().await.unwrap().unwrap();
        let mut two = ReplayBody::new(frames(&["efgh"]), 10, Arc::clone(&budget));
        two.frame().await.unwrap().unwrap();
        assert!(one.can_restart() && !two.can_restart());
        drop((one, two));
        assert_eq!(budget.available.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn trailers_are_replayed() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let mut source = frames(&["ab"]);
        source.0.push_back(Frame::trailers(trailers.clone()));
        let first = ReplayBody::new(source, 10, ReplayBudget::new(100));
        let again = first.restart();
        assert_eq!(again.collect().await.unwrap().trailers(), Some(&trailers));
        let last = first.restart();
        assert_eq!(last.collect().await.unwrap().trailers(), Some(&trailers));
    }
}
