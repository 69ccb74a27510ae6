//! Authorization server metadata (RFC 8414, OpenID Connect Discovery 1.0).
//!
//! Reading the document is a pure function. It is fetched during token requests, never while a
//! client's request is forwarded, and cached for a day.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::Value;
use url::{Host, Url};

use super::{Endpoints, ErrorClass, GrantError};
use crate::secret::Secret;

/// How long a document is cached: one day, as in MSAL.
const CACHE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long to wait after a failure of any kind. A busy credential starts a refresh about once a
/// second, and an issuer that is down or misspelled gains nothing from more requests.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Timeout for the issuer's document. Repeating the request loses nothing.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The cached metadata of the issuer.
#[derive(Debug, Default)]
pub(super) struct Discovery(Mutex<DiscoveryState>);

#[derive(Debug, Default)]
struct DiscoveryState {
    document: Option<DiscoveryEntry<Endpoints>>,
    failure: Option<DiscoveryEntry<GrantError>>,
}

#[derive(Debug)]
struct DiscoveryEntry<T> {
    issuer: String,
    at: SystemTime,
    what: T,
}

/// The result of a cache lookup.
#[derive(Debug)]
pub(super) enum CacheLookup {
    /// The endpoints are cached.
    Published(Box<Endpoints>),
    /// The last request failed a moment ago.
    Failed(GrantError),
    /// The document has to be fetched.
    Fetch,
}

impl Discovery {
    /// Looks up `issuer`. An expired document is used while the issuer cannot be reached.
    pub(super) fn lookup(&self, issuer: &str, now: SystemTime) -> CacheLookup {
        let state = self.state();
        let document = state.document.as_ref().filter(|known| known.issuer == issuer);
        if let Some(known) = document.filter(|known| known.is_newer_than(CACHE_LIFETIME, now)) {
            return CacheLookup::Published(Box::new(known.what.clone()));
        }
        let failure = state.failure.as_ref().filter(|known| known.issuer == issuer);
        match (failure.filter(|known| known.is_newer_than(RETRY_PAUSE, now)), document) {
            (Some(_), Some(known)) => CacheLookup::Published(Box::new(known.what.clone())),
            (Some(failure), None) => CacheLookup::Failed(failure.what.clone()),
            (None, _) => CacheLookup::Fetch,
        }
    }

    /// Stores the published endpoints.
    pub(super) fn store(&self, issuer: &str, published: Endpoints, at: SystemTime) {
        let mut state = self.state();
        state.failure = None;
        state.document = Some(DiscoveryEntry { issuer: issuer.to_owned(), at, what: published });
    }

    /// Records a failure and returns the last document, if any.
    pub(super) fn record_failure(
        &self,
        issuer: &str,
        error: GrantError,
        at: SystemTime,
    ) -> Option<Endpoints> {
        let mut state = self.state();
        state.failure = Some(DiscoveryEntry { issuer: issuer.to_owned(), at, what: error });
        let document = state.document.as_ref().filter(|known| known.issuer == issuer);
        document.map(|known| known.what.clone())
    }

    fn state(&self) -> MutexGuard<'_, DiscoveryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> DiscoveryEntry<T> {
    fn is_newer_than(&self, age: Duration, now: SystemTime) -> bool {
        // If the clock went back, the age is unknown.
        now.duration_since(self.at).is_ok_and(|since| since < age)
    }
}

/// Why a document is not used. Except for [`DiscoveryError::Json`], these are configuration errors:
/// the issuer was reached, and repeating the request changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("`issuer` is not a URL: write the whole of it, such as \"https://login.example.com\"")]
    Issuer,
    #[error(
        "the issuer's metadata document is not a JSON object: check `issuer`, or set token_url instead"
    )]
    Json,
    #[error(
        "`issuer` is \"{configured}\", and its document says \"{published}\": {}",
        advice(published)
    )]
    Mismatch { configured: String, published: String },
    #[error(
        "`issuer` is \"{0}\", but its metadata document names no issuer and cannot be trusted: set token_url instead"
    )]
    Nobody(String),
    #[error(
        "the issuer's metadata document names an endpoint that is not an https URL: set token_url instead if that endpoint may be used"
    )]
    Endpoint,
}

/// Classifies an error response to the document request. Unless the server failed, the same
/// response is expected next time.
pub(super) fn refusal(status: StatusCode) -> GrantError {
    match status.as_u16() {
        408 | 425 | 429 | 500.. => GrantError::without_answer(
            ErrorClass::NotSent,
            format!("the issuer answered {status} to the request for its metadata document"),
        ),
        _ => GrantError::without_answer(
            ErrorClass::Config,
            format!(
                "the issuer has no metadata document (it answered {status}): check `issuer`, or set token_url instead"
            ),
        ),
    }
}

/// Masks the secret variables of `issuer` in `text`.
pub(super) fn hide(text: String, secrets: &[&Secret]) -> String {
    let secrets = secrets.iter().map(|secret| secret.expose()).filter(|secret| !secret.is_empty());
    secrets.fold(text, |text, secret| text.replace(secret, "…"))
}

/// Returns advice for a mismatched issuer. Entra's multi-tenant document contains a placeholder:
/// `https://…/{tenantid}/v2.0`.
fn advice(published: &str) -> String {
    if published.contains(['{', '}']) {
        return "replace the name in braces with your own tenant and set that as `issuer`, or set \
                token_url instead"
            .to_owned();
    }
    format!("write issuer = \"{published}\" if that is the server you mean, or token_url instead")
}

/// Truncates and escapes an issuer for logs.
fn shown(issuer: &str) -> String {
    issuer.chars().take(200).flat_map(char::escape_debug).collect()
}

/// Returns the document's URLs: the one of OpenID Connect, which nearly all servers use, and the
/// one of RFC 8414 §3.1.
pub(super) fn locations(issuer: &str) -> Result<[Url; 2], DiscoveryError> {
    let parse = |text: &str| text.parse::<Url>().map_err(|_| DiscoveryError::Issuer);
    let url = parse(issuer)?;
    let openid =
        parse(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))?;
    let mut oauth = url.clone();
    let path = url.path().trim_end_matches('/');
    oauth.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    Ok([openid, oauth])
}

/// Reads the endpoints from a document.
///
/// Its `issuer` must equal the configured one byte for byte (RFC 8414 §3.3); otherwise a server
/// could speak for another. Endpoints must use https. Plain http is accepted only if the issuer
/// uses http, for its own host and for loopback hosts, because the operator did not agree to send
/// secrets unencrypted to others.
///
/// A client with a certificate (`mtls`) uses the mTLS aliases (RFC 8705 §5). The token endpoint
/// itself is kept, because it may be an audience.
pub(super) fn read(body: &[u8], issuer: &str, mtls: bool) -> Result<Endpoints, DiscoveryError> {
    let document: Value = serde_json::from_slice(body).map_err(|_| DiscoveryError::Json)?;
    let document = document.as_object().ok_or(DiscoveryError::Json)?;
    match document.get("issuer").and_then(Value::as_str) {
        Some(published) if published == issuer => {}
        Some(published) => {
            let (configured, published) = (shown(issuer), shown(published));
            return Err(DiscoveryError::Mismatch { configured, published });
        }
        None => return Err(DiscoveryError::Nobody(shown(issuer))),
    }
    let aliases = document.get("mtls_endpoint_aliases").filter(|_| mtls).and_then(Value::as_object);
    let url = |text: &Value| {
        let url = text.as_str().and_then(|text| text.parse::<Url>().ok());
        let fits = |url: &Url| {
            let plain = url.scheme() == "http" && is_plain_here(url, issuer);
            (url.scheme() == "https" || plain) && url.host().is_some()
        };
        url.filter(fits).ok_or(DiscoveryError::Endpoint)
    };
    let alias = |name: &str| aliases.and_then(|aliases| aliases.get(name)).map(url).transpose();
    let plain = |name: &str| {
        let text = document.get(name).filter(|text| text.is_string());
        text.map(url).transpose()
    };
    let either = |name: &str| match alias(name)? {
        Some(alias) => Ok(Some(alias)),
        None => plain(name),
    };
    let token_alias = alias("token_endpoint")?;
    Ok(Endpoints {
        issuer: Some(issuer.to_owned()),
        token: plain("token_endpoint")?.or(token_alias.clone()),
        token_alias,
        refresh: None,
        revoke: either("revocation_endpoint")?,
        authorize: plain("authorization_endpoint")?,
        device: either("device_authorization_endpoint")?,
    })
}

fn is_plain_here(url: &Url, issuer: &str) -> bool {
    let is_local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let issuer: Option<Url> = issuer.parse().ok();
    let issuer = issuer.filter(|issuer| issuer.scheme() == "http");
    issuer.is_some_and(|issuer| is_local || issuer.host() == url.host())
}

impl Endpoints {
    /// Fills in missing endpoints from `published`.
    pub(super) fn or(self, published: Self) -> Self {
        Self {
            issuer: self.issuer,
            // A configured token endpoint takes precedence over the alias.
            token_alias: published.token_alias.filter(|_| self.token.is_none()),
            token: self.token.or(published.token),
            refresh: self.refresh,
            revoke: self.revoke.or(published.revoke),
            authorize: self.authorize.or(published.authorize),
            device: self.device.or(published.device),
        }
    }
}

#[cfg(test)]
mod tests;
