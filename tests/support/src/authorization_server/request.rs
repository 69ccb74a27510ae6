//! A received token request.

use std::fmt;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use url::form_urlencoded;

/// A request received by the token endpoint.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub path_and_query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body parameters in order, percent-decoded.
    pub form: Vec<(String, String)>,
    /// The time the request was completely received.
    pub at: Instant,
}

/// The grant type and its identifying parameter, as one line for test failure messages.
impl fmt::Display for TokenRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method, self.path_and_query)?;
        for name in ["grant_type", "refresh_token", "username", "scope"] {
            if let Some(value) = self.param(name) {
                write!(formatter, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

impl TokenRequest {
    pub(super) fn new(head: Parts, body: &Bytes) -> TokenRequest {
        TokenRequest {
            method: head.method,
            path_and_query: head.uri.path_and_query().map_or("/", |it| it.as_str()).into(),
            headers: head.headers,
            form: form_urlencoded::parse(body).into_owned().collect(),
            at: Instant::now(),
        }
    }

    /// Returns the first value of a body parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        let found = self.form.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns user name and password of HTTP Basic, base64-decoded but not percent-decoded.
    pub fn basic(&self) -> Option<(String, String)> {
        let value = self.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, credentials) = value.split_once(' ')?;
        let decoded = STANDARD.decode(credentials.trim()).ok()?;
        let pair = String::from_utf8(decoded).ok()?;
        let (user, password) = pair.split_once(':')?;
        scheme.eq_ignore_ascii_case("basic").then(|| (user.into(), password.into()))
    }

    /// Returns true if Content-Type declares a form.
    pub(super) fn is_form(&self) -> bool {
        let content_type = self.headers.get(header::CONTENT_TYPE);
        let media_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or("");
        let essence = media_type.split(';').next().unwrap_or("").trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    }

    /// Returns true if a parameter is repeated, which RFC 6749 section 3.2 forbids. RFC 8707 section 2
    /// allows it for `resource`.
    pub(super) fn repeats_a_parameter(&self) -> bool {
        let names = || self.form.iter().map(|(name, _)| name).filter(|name| *name != "resource");
        names().enumerate().any(|(at, name)| names().skip(at + 1).any(|other| other == name))
    }
}
