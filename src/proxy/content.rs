//! A request's content on its way from the client to an origin server: counted, limited, held back until it
//! is asked for, and kept where the request may have to be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::connection::{Activity, MessageGuard};
use super::framing::ContentLength;
use super::incoming_body::{IncomingBody, PeerError};
use super::origin_pools::ReusableConnection;
use super::release::Release;
use super::replay::{ReplayBody, ReplayError};
use super::trailers::clean_trailers;
use crate::credential::Credential;

/// A client's content, counted as it passes.
#[derive(Debug)]
pub(super) struct ClientContent {
    incoming: IncomingBody,
    left: u64,
    /// `None`: there is no content.
    upload: Option<Arc<Upload>>,
    /// What the request is for, whose own fields no trailer may bring.
    credential: Option<Arc<Credential>>,
    /// Held until the content is over, which may be after the response.
    serving: Option<MessageGuard>,
}

/// How far a client's content has come, for those who wait for what follows it.
#[derive(Debug)]
pub(super) struct Upload {
    began: Instant,
    /// Milliseconds from the beginning until the turn last passed to another peer, or something passed.
    since: AtomicU64,
    has_begun: AtomicBool,
    too_large: AtomicBool,
    /// The client is waited for.
    wanted: AtomicBool,
    /// All of it is on its way to the origin server.
    over: AtomicBool,
    /// A window of HTTP/2 is closed for what is on its way. Over HTTP/1.1 it is not known.
    untaken: AtomicBool,
    /// The client waits to be asked, and the origin server has not asked yet.
    held: AtomicBool,
    reader: AtomicWaker,
}

/// Who has to do something before a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The origin server, which is to say that it wants the content.
    Continue,
    /// The client, which is to send more of it.
    Client,
    /// The origin server, which is to take more of it.
    Origin,
    /// The origin server, which has all of it and is to answer.
    Response,
}

/// Why a client's content broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    /// The client's connection did.
    #[error(transparent)]
    Client(PeerError),
    /// It is longer than `limits.body_bytes`.
    #[error("the content is larger than this proxy forwards")]
    TooLarge,
}

impl ClientContent {
    /// Lets at most `limit` bytes pass; 0 is no limit.
    pub(super) fn new(incoming: IncomingBody, limit: u64, activity: &Arc<Activity>) -> Self {
        let left = if limit == 0 { u64::MAX } else { limit };
        let has_content = !is_complete(&incoming);
        let upload = has_content.then(Arc::default);
        let serving = has_content.then(|| activity.hold());
        Self { incoming, left, upload, credential: None, serving }
    }

    /// Keeps trailers from saying what `credential` says.
    pub(super) fn belongs_to(&mut self, credential: &Arc<Credential>) {
        self.credential = Some(Arc::clone(credential));
    }

    /// Follows the content when it has been handed on, if there is some.
    pub(super) fn upload(&self) -> Option<Arc<Upload>> {
        self.upload.clone()
    }

    /// Nobody waits for it now, whether more of it is there or not.
    pub(super) fn is_left(&self) {
        if let Some(serving) = &self.serving {
            serving.wants_content(false);
        }
    }

    /// More of it is waited for, or something has come.
    fn note(&mut self, is_pending: bool) {
        if let Some(serving) = &self.serving {
            serving.wants_content(is_pending);
        }
        if is_complete(&self.incoming) {
            self.serving = None;
        }
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), ContentError> {
        let Some(upload) = &self.upload else { return Ok(()) };
        upload.has_begun.store(true, Ordering::Relaxed);
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = self.left.checked_sub(length) else {
            upload.too_large.store(true, Ordering::Relaxed);
            return Err(ContentError::TooLarge);
        };
        self.left = left;
        Ok(())
    }

    fn clean(&self, frame: &mut Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
            if let Some(credential) = &self.credential {
                credential.injection.remove_lookalikes(trailers);
            }
        }
    }
}

impl Default for Upload {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            since: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            too_large: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            over: AtomicBool::new(false),
            untaken: AtomicBool::new(false),
            held: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        }
    }
}

impl Upload {
    /// It is sent from its beginning, for the first time or again.
    fn begin(&self) {
        for state in [&self.wanted, &self.over, &self.untaken] {
            state.store(false, Ordering::Relaxed);
        }
        self.begin_turn();
    }

    /// More of it is waited for, or something of it, or its end, is there to be sent.
    fn note(&self, is_pending: bool, is_over: bool) {
        let waited = self.wanted.swap(is_pending, Ordering::Relaxed);
        if !is_pending || !waited {
            self.begin_turn();
        }
        self.over.store(is_over, Ordering::Relaxed);
    }

    fn begin_turn(&self) {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(passed, Ordering::Relaxed);
    }

    /// Whose turn it is, and since when.
    pub(super) fn turn(&self) -> (Turn, Instant) {
        let is = |state: &AtomicBool| state.load(Ordering::Relaxed);
        let turn = match (is(&self.over), is(&self.wanted)) {
            _ if self.is_held() => Turn::Continue,
            (true, _) if !is(&self.untaken) => Turn::Response,
            (false, true) => Turn::Client,
            _ => Turn::Origin,
        };
        (turn, self.began + Duration::from_millis(self.since.load(Ordering::Relaxed)))
    }

    /// Did it break off because it was too large?
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    /// The origin server's window may be closed, until [`Upload::taken`].
    pub(super) fn offer(&self) {
        self.untaken.store(true, Ordering::Relaxed);
    }

    /// It has room for the last of it.
    pub(super) fn taken(&self) {
        self.begin_turn();
        self.untaken.store(false, Ordering::Relaxed);
    }

    /// Is nothing read of it until the origin server asks?
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Holds the content back, if nothing of it has been read.
    pub(super) fn hold(&self) {
        self.held.store(!self.has_begun.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The origin server asks for the content, or has had time enough to.
    pub(super) fn release(&self) {
        if self.held.swap(false, Ordering::Relaxed) {
            self.begin_turn();
            self.reader.wake();
        }
    }

    fn poll_released(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_held() {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        // It may have been released before the waker was known.
        if self.is_held() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl HttpBody for ClientContent {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let this = self.get_mut();
        if let Some(upload) = &this.upload {
            std::task::ready!(upload.poll_released(cx));
        }
        let polled = Pin::new(&mut this.incoming).poll_frame(cx).map_err(ContentError::Client);
        this.note(polled.is_pending());
        polled.map(|next| {
            next.map(|frame| {
                let mut frame = frame?;
                this.count(&frame)?;
                this.clean(&mut frame);
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A request's content on its way to an origin server, once.
#[derive(Debug, Default)]
pub(super) struct RequestBody {
    source: Source,
    /// Learns of its end.
    release: Option<Arc<Release<ReusableConnection>>>,
    /// Learns how far it has come.
    upload: Option<Arc<Upload>>,
}

#[derive(Debug, Default)]
enum Source {
    /// There is none.
    #[default]
    Empty,
    /// It streams through, once.
    Once(Box<ClientContent>),
    /// It streams through and is kept.
    Replay(Box<ReplayBody<ClientContent>>),
    /// It has been sent once already.
    Gone,
}

impl RequestBody {
    /// Content that can be sent only once.
    pub(super) fn once(content: ClientContent) -> Self {
        let upload = content.upload();
        Self::new(Source::Once(Box::new(content)), upload)
    }

    /// One pass over content that is kept, which `upload` follows.
    pub(super) fn replay(content: ReplayBody<ClientContent>, upload: Option<Arc<Upload>>) -> Self {
        Self::new(Source::Replay(Box::new(content)), upload)
    }

    fn new(source: Source, upload: Option<Arc<Upload>>) -> Self {
        if let Some(upload) = &upload {
            upload.begin();
        }
        Self { source, release: Some(Arc::default()), upload }
    }

    /// Content that has been sent and was not kept: this request breaks off.
    pub(super) fn gone() -> Self {
        Self { source: Source::Gone, release: None, upload: None }
    }

    /// What is known about it before it is sent.
    pub(super) fn content(&self) -> ContentLength {
        match (&self.source, self.size_hint().exact()) {
            (Source::Empty, _) => ContentLength::None,
            (_, Some(length)) => ContentLength::Known(length),
            (_, None) => ContentLength::Unknown,
        }
    }

    /// What learns of the end of the request, if it has content.
    pub(super) fn end(&self) -> Option<Arc<Release<ReusableConnection>>> {
        self.release.clone()
    }

    fn note_end(&mut self) {
        if let Some(release) = self.release.take() {
            release.request_is_over();
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError<ContentError>>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Once(body) => Pin::new(&mut **body).poll_frame(cx).map_err(ReplayError::Source),
            Source::Replay(body) => Pin::new(&mut **body).poll_frame(cx),
            Source::Gone => Poll::Ready(Some(Err(ReplayError::Gone))),
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = ReplayError<ContentError>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = this.poll_source(cx);
        let is_over = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || is_complete(this),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        // An attempt that was superseded learns it by an error, which says nothing of the one after it.
        if let (Some(upload), false) = (&this.upload, matches!(polled, Poll::Ready(Some(Err(_))))) {
            upload.note(polled.is_pending(), is_over);
        }
        if is_over {
            this.note_end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Once(body) => body.is_end_stream(),
            Source::Replay(body) => body.is_end_stream(),
            Source::Gone => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Once(body) => body.size_hint(),
            Source::Replay(body) => body.size_hint(),
            Source::Gone => SizeHint::new(),
        }
    }
}

/// Has all of it been read? The end of an HTTP/2 stream may come after the last of a declared length, for which
/// HTTP/1.1 does not wait.
pub(super) fn is_complete(content: &impl HttpBody) -> bool {
    content.is_end_stream() || content.size_hint().exact() == Some(0)
}

/// Content that was not sent to its end makes its connection useless.
impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release.give_up();
        }
    }
}
