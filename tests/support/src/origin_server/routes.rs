//! The default answers of the API, by path.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, header};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::Semaphore;

use super::api::Api;
use super::record::{Record, Recorded};
use crate::payload::{self, Feed, Payload, full, generated, owned, response, streamed};

/// The path that echoes the request body.
pub(super) const ECHO: &str = "/echo";

/// Answers an accepted request.
pub(super) async fn route(
    api: &Api,
    head: &Parts,
    record: &Record,
    body: Option<Recorded>,
) -> Response<Payload> {
    let path = head.uri.path().trim_start_matches('/');
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match (first, rest.parse::<u64>()) {
        ("echo", _) => echo(head, body),
        ("bytes", Ok(length)) => octets(generated(length)),
        ("sse", Ok(count)) => events(api, count),
        ("sse", _) => events(api, u64::MAX),
        ("status", Ok(status @ 200..=999)) => bare(status as u16),
        ("files", _) => file(api, rest).await,
        _ => describe(record),
    }
}

/// Returns a body each of whose chunks waits for one `release_chunk`.
pub(super) fn released(api: &Api, chunks: impl Iterator<Item = Bytes> + Send + 'static) -> Payload {
    let (feed, body) = streamed();
    api.tasks().spawn(send_released(feed, chunks, api.chunks().clone()));
    body
}

async fn send_released(feed: Feed, chunks: impl Iterator<Item = Bytes>, permits: Arc<Semaphore>) {
    for chunk in chunks {
        // A disconnected client must not consume the permit of a connected one.
        let permit = tokio::select! {
            () = feed.closed() => return,
            permit = permits.acquire() => permit.expect("the semaphore is never closed"),
        };
        permit.forget();
        if feed.send(Ok(Frame::data(chunk))).await.is_err() {
            return;
        }
    }
}

fn echo(head: &Parts, body: Option<Recorded>) -> Response<Payload> {
    let content_type = head.headers.get(header::CONTENT_TYPE).cloned();
    let body = body.map_or_else(|| full(""), |body| body.map_err(io::Error::other).boxed());
    let mut echo = response(200, &[], body);
    if let Some(value) = content_type {
        echo.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    echo
}

fn octets(body: Payload) -> Response<Payload> {
    response(200, &[owned("content-type", "application/octet-stream")], body)
}

fn events(api: &Api, count: u64) -> Response<Payload> {
    let headers = [owned("content-type", "text/event-stream"), owned("cache-control", "no-cache")];
    let events = (1..=count).map(|n| Bytes::from(format!("data: {n}\n\n")));
    response(200, &headers, released(api, events))
}

fn bare(status: u16) -> Response<Payload> {
    response(status, &[], full(""))
}

fn describe(record: &Record) -> Response<Payload> {
    let request = record.snapshot();
    let description = json!({
        "method": request.method.as_str(),
        "target": request.target,
        "body_length": request.body_length,
        "body_sha256": request.body_sha256,
        "authorization": request.headers.contains_key(header::AUTHORIZATION),
    });
    payload::json(200, &description)
}

async fn file(api: &Api, path: &str) -> Response<Payload> {
    let Some(path) = located(api.config().files.as_deref(), path) else {
        return bare(404);
    };
    match tokio::fs::read(path).await {
        Ok(content) => octets(full(content)),
        Err(_) => bare(404),
    }
}

/// Returns the file for a URL path, if the path lexically stays inside the directory.
fn located(directory: Option<&Path>, path: &str) -> Option<PathBuf> {
    let relative = PathBuf::from(percent_decoded(path));
    let stays_inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
    directory.filter(|_| stays_inside).map(|directory| directory.join(relative))
}

fn percent_decoded(path: &str) -> String {
    // The form decoder decodes percent-encoding. A plus sign in a path is literal.
    let escaped = path.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let mut pairs = url::form_urlencoded::parse(escaped.as_bytes());
    pairs.next().map(|(key, _)| key.into_owned()).unwrap_or_default()
}
