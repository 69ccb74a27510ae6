//! Content received from a peer, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::http2::Http2Content;

/// Content received from a peer.
#[derive(Debug)]
pub(super) enum IncomingBody {
    Http1(hyper::body::Incoming),
    Http2(Http2Content),
}

/// Why content ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("{}{}", .0, source_text(.0))]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// The source of a hyper error: the error says what hyper was doing, the source why that failed.
fn source_text(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map(|source| format!(": {source}")).unwrap_or_default()
}

impl From<hyper::body::Incoming> for IncomingBody {
    fn from(content: hyper::body::Incoming) -> Self {
        Self::Http1(content)
    }
}

impl HttpBody for IncomingBody {
    type Data = Bytes;
    type Error = PeerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PeerError>>> {
        let frame = match self.get_mut() {
            Self::Http1(content) => {
                ready!(Pin::new(content).poll_frame(cx)).map(|frame| Ok(frame?))
            }
            Self::Http2(content) => ready!(content.poll_frame(cx)).map(|frame| Ok(frame?)),
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(content) => content.is_end_stream(),
            Self::Http2(content) => content.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(content) => content.size_hint(),
            Self::Http2(content) => content.size_hint(),
        }
    }
}
