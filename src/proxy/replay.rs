//! A request body that can be sent a second time.
//!
//! Nothing is buffered ahead: while the body streams to the origin server, what passes is kept, up to
//! a limit. If the request has to be sent again, what was kept is sent first and the rest of the
//! stream follows, so an origin that answers 401 before it has read the body costs nothing extra.
//! Beyond the limit the body streams on and what was kept is dropped: then it can be sent only once.
//!
//! At most one reader is alive: making the next one ends the one before, whose connection then
//! breaks off rather than send half a body as a whole one.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Bytes that all kept bodies together may hold.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU64,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// One pass over a body; [`ReplayBody::again`] makes the next.
#[derive(Debug)]
pub(super) struct ReplayBody<B> {
    kept: Arc<Mutex<Kept<B>>>,
    turn: u32,
    /// Bytes of this pass so far.
    position: u64,
    /// Its trailers have been sent.
    is_over: bool,
    /// The whole body's, if it is known.
    length: Option<u64>,
}

#[derive(Debug)]
struct Kept<B> {
    source: B,
    pieces: Pieces,
    trailers: Option<HeaderMap>,
    /// What is taken of the budget.
    taken: u64,
    /// The source says that it is longer than may be kept.
    is_long: bool,
    limit: u64,
    budget: Arc<Budget>,
    /// Which reader may read.
    turn: u32,
    /// Bytes that the source has brought.
    read: u64,
    /// The source has broken off.
    broken: bool,
    /// The reader has to wait, and what wakes it.
    paused: bool,
    reader: Option<Waker>,
    /// Everything that passed so far is in `pieces`.
    complete: bool,
    ended: bool,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError<E> {
    /// The client's body did.
    #[error(transparent)]
    Source(E),
    /// The request is being sent again on another connection.
    #[error("the request is sent again elsewhere")]
    Superseded,
    /// What has been sent before was not kept, or could not be read: what follows it is not the content.
    #[error("the content that was sent before is not there any more")]
    Gone,
}

impl<B> ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Keeps at most `limit` bytes of `source`, and no more than `budget` has left.
    pub(super) fn new(source: B, limit: u64, budget: Arc<Budget>) -> Self {
        let size = source.size_hint();
        let length = size.exact();
        let kept = Kept {
            complete: true,
            is_long: size.lower() > limit,
            ended: source.is_end_stream(),
            source,
            pieces: Pieces::default(),
            trailers: None,
            taken: 0,
            limit,
            budget,
            turn: 0,
            read: 0,
            broken: false,
            paused: false,
            reader: None,
        };
        Self { kept: Arc::new(Mutex::new(kept)), turn: 0, position: 0, is_over: false, length }
    }

    /// Can the body be sent once more, from its beginning? One of which nothing has passed can, however long it is.
    pub(super) fn can_repeat(&self) -> bool {
        self.lock().complete
    }

    /// Keeps the current pass from reading on until the result is dropped: what can be repeated now can be so then.
    /// The source is told by `leave`.
    pub(super) fn pause(&self, leave: impl FnOnce(&B)) -> Paused<B> {
        let mut kept = self.lock();
        kept.paused = true;
        leave(&kept.source);
        Paused { kept: Arc::clone(&self.kept), turn: kept.turn }
    }

    /// The next pass, from the beginning; the pass before it ends here.
    pub(super) fn again(&self) -> Self {
        let mut kept = self.lock();
        kept.turn += 1;
        kept.paused = false;
        Self {
            kept: Arc::clone(&self.kept),
            turn: kept.turn,
            position: 0,
            is_over: false,
            length: self.length,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept<B>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pass that waits.
#[derive(Debug)]
pub(super) struct Paused<B> {
    kept: Arc<Mutex<Kept<B>>>,
    turn: u32,
}

impl<B> Drop for Paused<B> {
    fn drop(&mut self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.turn == self.turn {
            kept.paused = false;
            if let Some(reader) = kept.reader.take() {
                reader.wake();
            }
        }
    }
}

/// Bytes that are kept, in as few pieces as they came in, or fewer: what is kept costs what it says.
#[derive(Debug, Default)]
struct Pieces {
    whole: Vec<Bytes>,
    /// Small pieces, copied together.
    tail: BytesMut,
    length: u64,
}

/// Pieces shorter than this are copied together. A piece holds on to the buffer that it was read into, and has
/// some forty bytes of its own; both may be far more than what it brings.
const SMALL: usize = 4 * 1024;
/// So much is copied together before another piece begins.
const TAIL: usize = 64 * 1024;

impl Pieces {
    fn push(&mut self, piece: &Bytes) {
        self.length += piece.len() as u64;
        let is_small = piece.len() < SMALL;
        if !self.tail.is_empty() && (!is_small || self.tail.len() + piece.len() > TAIL) {
            self.whole.push(std::mem::take(&mut self.tail).freeze());
        }
        match is_small {
            true => self.tail.extend_from_slice(piece),
            false => self.whole.push(piece.clone()),
        }
    }

    /// What comes behind the first `position` bytes, as far as one piece goes.
    fn after(&self, position: u64) -> Option<Bytes> {
        let mut skip = usize::try_from(position).ok()?;
        for piece in &self.whole {
            if skip < piece.len() {
                return Some(piece.slice(skip..));
            }
            skip -= piece.len();
        }
        self.tail.get(skip..).filter(|rest| !rest.is_empty()).map(Bytes::copy_from_slice)
    }
}

impl<B> Kept<B> {
    /// Keeps `chunk`, or gives up keeping.
    fn keep(&mut self, chunk: &Bytes) {
        let length = chunk.len() as u64;
        if !self.complete {
            return;
        }
        let fits = !self.is_long && self.pieces.length + length <= self.limit;
        if fits && self.budget.take(length) {
            self.taken += length;
            self.pieces.push(chunk);
        } else {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.complete = false;
        self.pieces = Pieces::default();
        self.budget.give_back(std::mem::take(&mut self.taken));
    }
}

impl<B> Drop for Kept<B> {
    fn drop(&mut self) {
        self.forget();
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
        let mut kept = this.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.turn != this.turn {
            return Poll::Ready(Some(Err(ReplayError::Superseded)));
        }
        if let Some(chunk) = kept.pieces.after(this.position) {
            this.position += chunk.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        // A pass that has not had all before it would take the rest for the whole.
        if kept.broken || kept.read != this.position {
            return Poll::Ready(Some(Err(ReplayError::Gone)));
        }
        if kept.ended {
            let trailers = kept.trailers.clone().filter(|_| !this.is_over);
            this.is_over = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if kept.paused {
            kept.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(frame) = ready!(Pin::new(&mut kept.source).poll_frame(cx)) else {
            kept.ended = true;
            this.is_over = true;
            return Poll::Ready(None);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                kept.forget();
                kept.broken = true;
                return Poll::Ready(Some(Err(ReplayError::Source(error))));
            }
        };
        if let Some(chunk) = frame.data_ref() {
            kept.keep(chunk);
            this.position += chunk.len() as u64;
            kept.read = this.position;
        } else if let Some(trailers) = frame.trailers_ref() {
            kept.trailers = Some(trailers.clone());
            kept.ended = true;
            this.is_over = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.lock();
        kept.ended
            && !kept.broken
            && self.position == kept.read
            && (kept.trailers.is_none() || self.is_over)
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

    /// Frames that were there all along.
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
        let first = ReplayBody::new(frames(&["ab", "cd"]), 4, Budget::new(100));
        let second = first.again();
        let third = second.again();
        assert_eq!(text(third).await, "abcd");
        assert!(second.can_repeat());
        assert_eq!(text(second.again()).await, "abcd");
    }

    #[tokio::test]
    async fn a_second_pass_begun_in_the_middle_sends_what_passed_and_then_the_rest() {
        let mut first = ReplayBody::new(frames(&["ab", "cd", "ef"]), 10, Budget::new(100));
        first.frame().await.unwrap().unwrap();
        let second = first.again();
        assert!(first.frame().await.unwrap().is_err(), "the first pass is over");
        assert_eq!(text(second).await, "abcdef");
    }

    #[tokio::test]
    async fn beyond_the_limit_the_body_streams_on_and_is_not_kept() {
        let budget = Budget::new(100);
        let mut body = ReplayBody::new(frames(&["abc", "def"]), 4, Arc::clone(&budget));
        body.frame().await.unwrap().unwrap();
        assert!(body.can_repeat());
        body.frame().await.unwrap().unwrap();
        assert!(!body.can_repeat());
        assert!(body.frame().await.is_none());
        assert_eq!(budget.left.load(Ordering::Relaxed), 100);
        let next = body.again().frame().await.unwrap();
        assert!(matches!(next, Err(ReplayError::Gone)), "nothing is not the whole: {next:?}");
    }

    #[tokio::test]
    async fn a_paused_pass_reads_on_when_the_pause_is_over_and_the_next_pass_at_once() {
        let first = ReplayBody::new(frames(&["ab", "cd", "ef"]), 10, Budget::new(100));
        let paused = first.pause(|_| {});
        let second = first.again();
        assert_eq!(text(second.again()).await, "abcdef");
        drop(paused);

        let first = ReplayBody::new(frames(&["ab"]), 10, Budget::new(100));
        let paused = first.pause(|_| {});
        let reading = tokio::spawn(text(first));
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        drop(paused);
        let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
        assert_eq!(read.unwrap().unwrap(), "ab");
    }

    /// hyper's bodies end after an error, as if they were whole.
    #[tokio::test]
    async fn a_body_that_broke_off_is_no_empty_one() {
        struct Broken(bool);
        impl Body for Broken {
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
        let mut body = ReplayBody::new(Broken(false), 4, Budget::new(100));
        assert!(matches!(body.frame().await, Some(Err(ReplayError::Source(_)))));
        assert!(!body.can_repeat());
        assert!(matches!(body.again().frame().await, Some(Err(ReplayError::Gone))));
    }

    #[tokio::test]
    async fn a_body_of_which_nothing_has_passed_can_be_sent_again_however_long_it_is() {
        struct Long;
        impl Body for Long {
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
        let mut body = ReplayBody::new(Long, 4, Budget::new(100));
        assert!(body.can_repeat());
        body.frame().await.unwrap().unwrap();
        assert!(!body.can_repeat());
    }

    #[test]
    fn small_pieces_are_copied_together_and_read_from_any_position() {
        let mut pieces = Pieces::default();
        let large = Bytes::from(vec![b'x'; SMALL]);
        for _ in 0..2 * TAIL {
            pieces.push(&Bytes::from_static(b"y"));
        }
        pieces.push(&large);
        pieces.push(&Bytes::from_static(b"z"));
        assert_eq!(pieces.whole.len(), 3);
        assert_eq!(pieces.length, (2 * TAIL + SMALL + 1) as u64);
        let (mut all, mut position) = (Vec::new(), 0);
        while let Some(piece) = pieces.after(position) {
            position += piece.len() as u64;
            all.extend_from_slice(&piece);
        }
        let expected = [vec![b'y'; 2 * TAIL], large.to_vec(), vec![b'z']].concat();
        assert!(all == expected);
    }

    #[tokio::test]
    async fn all_bodies_together_keep_no_more_than_the_budget_and_give_it_back() {
        let budget = Budget::new(5);
        let mut one = ReplayBody::new(frames(&["abcd"]), 10, Arc::clone(&budget));
        one.frame().await.unwrap().unwrap();
        let mut two = ReplayBody::new(frames(&["efgh"]), 10, Arc::clone(&budget));
        two.frame().await.unwrap().unwrap();
        assert!(one.can_repeat() && !two.can_repeat());
        drop((one, two));
        assert_eq!(budget.left.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn trailers_are_sent_again_too() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let mut source = frames(&["ab"]);
        source.0.push_back(Frame::trailers(trailers.clone()));
        let first = ReplayBody::new(source, 10, Budget::new(100));
        let again = first.again();
        assert_eq!(again.collect().await.unwrap().trailers(), Some(&trailers));
        let last = first.again();
        assert_eq!(last.collect().await.unwrap().trailers(), Some(&trailers));
    }
}
