//! Serves HTTP/1.1 client connections. HTTP/2 is served by `http2::server`.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::Proxy;
use super::activity::ConnectionPhase;
use super::client_connection::ClientConnection;
use super::http1_stream::Http1Stream;
use super::incoming_body::IncomingBody;

/// hyper's default limit on the fields of a head. It parses heads faster if the limit is left as it
/// is.
const HYPER_MAX_HEADERS: usize = 100;

impl Proxy {
    /// Serves the HTTP/1.1 requests that arrive on `stream`.
    pub(super) async fn serve_http1<S>(self: Arc<Self>, stream: S, client: ClientConnection)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let builder = self.http1_builder();
        let service = service_fn(|request: Request<_>| {
            let (proxy, client) = (&self, &client);
            let request = request.map(IncomingBody::Http1);
            // Before the future runs, because the next read may be the end of the client's input.
            let guard = client.activity.start_request();
            async move { Ok::<_, Infallible>(proxy.serve(request, client, guard).await) }
        });
        let stream = Http1Stream::new(stream, client.http1_context(), Arc::clone(&self));
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = pin!(connection);
        let mut is_closing = false;
        let served = poll_fn(|cx| {
            if !is_closing && client.activity.poll_close_requested(cx).is_ready() {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        });
        if let Err(error) = served.await {
            // hyper closes the connection without a response if the client speaks HTTP/2.
            if error.is_parse() && client.activity.phase() == ConnectionPhase::ReadingHead {
                let _not_sent = self.respond_to_unparsable(400);
            }
            tracing::debug!(%error, "a client connection ended early");
        }
    }

    fn http1_builder(&self) -> http1::Builder {
        let snapshot = self.shared.snapshot.load();
        let limits = &snapshot.config.limits;
        let mut builder = http1::Builder::new();
        builder.max_header_size(limits.header_bytes).header_read_timeout(None);
        if limits.header_count != HYPER_MAX_HEADERS {
            builder.max_headers(limits.header_count);
        }
        builder
    }
}
