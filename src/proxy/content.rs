//! A request's content on its way from the client to an origin server: counted, limited, and kept where
//! the request may have to be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::replay::{ReplayBody, ReplayError};

/// A client's content, counted as it passes.
#[derive(Debug)]
pub(super) struct ClientContent {
    incoming: Incoming,
    left: u64,
    passage: Arc<Passage>,
}

/// How far a client's content has come, for those who wait for what follows it.
#[derive(Debug, Default)]
pub(super) struct Passage {
    frames: AtomicU64,
    too_large: AtomicBool,
}

/// Why a client's content broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    /// The client's connection did.
    #[error(transparent)]
    Client(hyper::Error),
    /// It is longer than `limits.body_bytes`.
    #[error("the content is larger than this proxy forwards")]
    TooLarge,
}

impl ClientContent {
    /// Lets at most `limit` bytes pass; 0 is no limit.
    pub(super) fn new(incoming: Incoming, limit: u64) -> Self {
        let left = if limit == 0 { u64::MAX } else { limit };
        Self { incoming, left, passage: Arc::default() }
    }

    /// Follows the content when it has been handed on.
    pub(super) fn passage(&self) -> Arc<Passage> {
        Arc::clone(&self.passage)
    }
}

impl Passage {
    /// How many frames have passed.
    pub(super) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Did it break off because it was too large?
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
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
        let polled = Pin::new(&mut this.incoming).poll_frame(cx).map_err(ContentError::Client);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.passage.frames.fetch_add(1, Ordering::Relaxed);
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            match this.left.checked_sub(length) {
                Some(left) => this.left = left,
                None => {
                    this.passage.too_large.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(ContentError::TooLarge)));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A request's content on its way to an origin server.
#[derive(Debug, Default)]
pub(super) enum RequestBody {
    /// None.
    #[default]
    Empty,
    /// It streams through, once.
    Once(ClientContent),
    /// It streams through and is kept.
    Replay(ReplayBody<ClientContent>),
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = ReplayError<ContentError>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Once(body) => Pin::new(body).poll_frame(cx).map_err(ReplayError::Source),
            Self::Replay(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
        }
    }
}
