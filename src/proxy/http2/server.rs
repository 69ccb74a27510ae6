//! HTTP/2 to a client: each request is served by a task of its own.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT, HeaderValue};
use http::{Request, Response, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Http2Content, SendContentError, StreamMonitor, ping_timeout, send_content};
use crate::proxy::Proxy;
use crate::proxy::client_connection::ClientConnection;
use crate::proxy::fields::remove_connection_fields;
use crate::proxy::framing::expects_continue;
use crate::proxy::incoming_body::{IncomingBody, PeerError};
use crate::proxy::interim::{InterimSink, SharedSendResponse};
use crate::proxy::response_body::ResponseBody;

/// The most requests in flight on one connection.
const MAX_STREAMS: u32 = 100;
/// The most streams with protocol violations before a connection is closed.
const MAX_LOCAL_RESETS: usize = 1024;
/// The receive window of a stream, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;

impl Proxy {
    /// Serves the requests of one HTTP/2 connection until it ends.
    pub(in crate::proxy) async fn serve_http2<S>(
        self: Arc<Self>,
        stream: S,
        client: ClientConnection,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        client.activity.set_multiplexed();
        let served = match self.http2_builder().handshake(stream).await {
            Ok(connection) => self.serve_streams(connection, &client).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a client's HTTP/2 connection ended early");
        }
    }

    fn http2_builder(&self) -> Builder {
        let snapshot = self.shared.snapshot.load();
        let head = u32::try_from(snapshot.config.limits.header_bytes).unwrap_or(u32::MAX);
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(MAX_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
            .max_header_list_size(head)
            .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS));
        builder
    }

    async fn serve_streams<S>(
        self: &Arc<Self>,
        mut connection: Connection<S, Bytes>,
        client: &ClientConnection,
    ) -> Result<(), h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut timeout = pin!(ping_timeout(connection.ping_pong(), || client.activity.is_busy()));
        let mut is_closing = false;
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => self.spawn_stream(request, respond, client),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                () = self.watchdog.drain_started(), if !is_closing => {
                    is_closing = true;
                    connection.graceful_shutdown();
                }
                () = poll_fn(|cx| client.activity.poll_close_requested(cx)), if !is_closing => {
                    is_closing = true;
                    connection.graceful_shutdown();
                }
                () = &mut timeout => connection.abrupt_shutdown(Reason::NO_ERROR),
            }
        }
    }

    fn spawn_stream(
        self: &Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        client: &ClientConnection,
    ) {
        let stream = SharedSendResponse::new(respond);
        let client = client.with_interim(InterimSink::Http2(stream.clone()));
        let request = into_incoming(request, &stream);
        tokio::spawn(Arc::clone(self).serve_stream(request, stream, client));
    }

    async fn serve_stream(
        self: Arc<Self>,
        request: Request<IncomingBody>,
        stream: SharedSendResponse,
        client: ClientConnection,
    ) {
        let response = tokio::select! {
            response = self.serve(request, &client, client.activity.start_request()) => response,
            // Dropping the request records that the client has cancelled it.
            () = stream.closed() => return,
        };
        if let Err(error) = self.respond(response, &stream).await {
            tracing::debug!(%error, "a response over HTTP/2 ended early");
        }
    }

    async fn respond(
        &self,
        response: Response<ResponseBody>,
        stream: &SharedSendResponse,
    ) -> Result<(), SendContentError<PeerError>> {
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_2;
        parts.extensions.clear();
        remove_connection_fields(&mut parts.headers);
        let now = || httpdate::fmt_http_date(self.shared.clock.now());
        if !parts.headers.contains_key(DATE)
            && let Ok(date) = HeaderValue::try_from(now())
        {
            parts.headers.insert(DATE, date);
        }
        let is_empty = body.is_end_stream();
        if let (false, Some(length)) = (is_empty, body.size_hint().exact())
            && !parts.headers.contains_key(CONTENT_LENGTH)
        {
            parts.headers.insert(CONTENT_LENGTH, length.into());
        }
        let head = Response::from_parts(parts, ());
        let mut content = stream.lock().send_response(head, is_empty)?;
        match is_empty {
            true => Ok(()),
            false => send_content(body, &mut content, StreamMonitor::new(&self.watchdog)).await,
        }
    }
}

/// Builds the request. If the client waits for 100 (Continue), it is sent when the content is first
/// read.
fn into_incoming(
    request: Request<RecvStream>,
    stream: &SharedSendResponse,
) -> Request<IncomingBody> {
    let (parts, content) = request.into_parts();
    let mut content = Http2Content::new(content, &parts.headers);
    if parts.headers.contains_key(EXPECT) && expects_continue(&parts.headers) {
        let stream = stream.clone();
        content = content.with_on_first_read(move || stream.send(http::StatusCode::CONTINUE, None));
    }
    Request::from_parts(parts, IncomingBody::Http2(content))
}

impl SharedSendResponse {
    /// Resolves when the client has reset the stream or closed the connection.
    async fn closed(&self) {
        poll_fn(|cx| self.lock().poll_reset(cx).map(|_| ())).await;
    }
}
