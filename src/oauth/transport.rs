//! How a token request travels: the one effect in [`oauth`](super).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use rustls::ClientConfig;

use super::answer::RawAnswer;
use super::request::TokenRequest;
use crate::crash;

/// The largest answer that is read, 1 MiB: a thousand times what any token endpoint sends.
const MAX_ANSWER: usize = 1024 * 1024;

/// Sends one token request and returns what came back, whatever it is.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` exactly once. Connecting has a limit of its own; the answer is waited for as
    /// long as `listen` from the first byte of the request on. What had come by then is returned, with
    /// [`RawAnswer::cut`] set, if it has a head.
    fn send(
        &self,
        request: TokenRequest,
        listen: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>>;
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing was sent, so nothing was consumed.
    #[error("{0}")]
    NotSent(String),
    /// The request went out, wholly or in part; the server may have acted on it.
    #[error("{0}")]
    Unanswered(String),
}

/// The real transport: HTTP/1.1, a fresh connection for each request.
///
/// Token requests are rare, and a connection of its own cannot be one that the server is closing at
/// that moment, which would leave it open whether the refresh token was consumed.
#[derive(Debug)]
pub struct HttpTransport {
    tls: ClientConfig,
    client: reqwest::Client,
}

impl HttpTransport {
    /// Uses `tls` for https token endpoints.
    ///
    /// # Errors
    ///
    /// If the TLS configuration does not suit the HTTP client.
    pub fn new(tls: ClientConfig) -> Result<Self, reqwest::Error> {
        Ok(Self { client: client(tls.clone())?, tls })
    }

    async fn exchange(&self, request: TokenRequest) -> Result<RawAnswer, TransportError> {
        let client = match &request.client_cert {
            // No connection outlives its request, so there is nothing to keep.
            Some(certificate) => client(certificate.present(&self.tls)).map_err(failure)?,
            None => self.client.clone(),
        };
        let mut response = client
            .request(request.method, request.url)
            .headers(request.fields)
            .body(request.body.expose().to_owned())
            .send()
            .await
            .map_err(failure)?;
        crash::point("after_send");
        let mut answer = RawAnswer {
            status: response.status(),
            fields: std::mem::take(response.headers_mut()),
            body: Vec::new(),
            cut: None,
        };
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            if answer.body.len() + chunk.len() > MAX_ANSWER {
                answer.cut = Some("it is longer than 1 MiB".to_owned());
                break;
            }
            answer.body.extend_from_slice(&chunk);
        }
        crash::point("after_response");
        Ok(answer)
    }
}

fn client(tls: ClientConfig) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .pool_max_idle_per_host(0)
        .connect_timeout(Duration::from_secs(5))
        .user_agent(concat!("bearerd/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Transport for HttpTransport {
    fn send(
        &self,
        request: TokenRequest,
        listen: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>> {
        let exchange = tokio::time::timeout(listen, self.exchange(request));
        Box::pin(async {
            let late = |_| TransportError::Unanswered("no answer in time".to_owned());
            exchange.await.map_err(late)?
        })
    }
}

/// Says what went wrong without the URL, whose query may hold a secret.
fn failure(error: reqwest::Error) -> TransportError {
    let not_sent = error.is_connect() || error.is_builder();
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    if not_sent { TransportError::NotSent(text) } else { TransportError::Unanswered(text) }
}

#[cfg(test)]
mod tests;
