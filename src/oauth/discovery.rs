//! What an authorization server publishes about itself (RFC 8414, OpenID Connect Discovery 1.0).
//!
//! TokenResponseFormat the document is pure; it is asked for by whoever makes a token request, which is never on
//! the path of a client's request, and kept for a day.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::Value;
use url::{Host, Url};

use super::{Endpoints, ErrorClass, GrantError};
use crate::secret::Secret;

/// How long a document is kept: as long as MSAL keeps it.
const CACHE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long nobody asks again after a failure, whatever it was: the flights of a busy credential come
/// every second or so, and an issuer that is down, or whose name is written wrongly, gains nothing.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// How long the issuer has for its document. Nothing is lost by asking again.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of the issuer.
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

/// What to do about the endpoints that are not configured.
#[derive(Debug)]
pub(super) enum CacheLookup {
    /// Nothing: they are known.
    Published(Box<Endpoints>),
    /// Nothing for now: the issuer was asked in vain a moment ago.
    Failed(GrantError),
    /// Ask.
    Fetch,
}

impl Discovery {
    /// What is known of `issuer`. A document of yesterday is better than nothing while the issuer
    /// cannot be asked.
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

    /// Keeps what the issuer published.
    pub(super) fn store(&self, issuer: &str, published: Endpoints, at: SystemTime) {
        let mut state = self.state();
        state.failure = None;
        state.document = Some(DiscoveryEntry { issuer: issuer.to_owned(), at, what: published });
    }

    /// Keeps why there is no new document; returns the last one.
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
        // A clock that went back says nothing about age.
        now.duration_since(self.at).is_ok_and(|since| since < age)
    }
}

/// Why a document is not used. All but a page that is no document are faults of the configuration: the
/// issuer was reached, and asking it again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("`issuer` is not a URL: write the whole of it, such as \"https://login.example.com\"")]
    Issuer,
    #[error(
        "what the issuer publishes is not a JSON object: see whether `issuer` is right, or write token_url instead"
    )]
    Json,
    #[error(
        "`issuer` is \"{configured}\", and its document says \"{published}\": {}",
        advice(published)
    )]
    Mismatch { configured: String, published: String },
    #[error(
        "`issuer` is \"{0}\", and its document names no issuer: it is not to be believed; write token_url instead"
    )]
    Nobody(String),
    #[error(
        "the document of the issuer names an endpoint that is not an https URL: write token_url instead, if it may be used"
    )]
    Endpoint,
}

/// What an answer means that is no document. One that does not come from trouble of the server will
/// be the same next time.
pub(super) fn refusal(status: StatusCode) -> GrantError {
    match status.as_u16() {
        408 | 425 | 429 | 500.. => GrantError::without_answer(
            ErrorClass::NotSent,
            format!("the issuer answered {status} for its document"),
        ),
        _ => GrantError::without_answer(
            ErrorClass::Config,
            format!(
                "the issuer has no document (it answered {status}): see whether `issuer` is right, or write token_url instead"
            ),
        ),
    }
}

/// `text` without what `issuer` has from secret variables.
pub(super) fn hide(text: String, secrets: &[&Secret]) -> String {
    let secrets = secrets.iter().map(|secret| secret.expose()).filter(|secret| !secret.is_empty());
    secrets.fold(text, |text, secret| text.replace(secret, "…"))
}

/// What to write. Entra's document for all tenants names none: `https://…/{tenantid}/v2.0`.
fn advice(published: &str) -> String {
    if published.contains(['{', '}']) {
        return "put your own tenant in the place of the name in braces and write that as `issuer`, or \
                write token_url instead"
            .to_owned();
    }
    format!("write issuer = \"{published}\" if that is the server you mean, or token_url instead")
}

/// The longest issuer that is repeated, and none of its characters may do harm in a log.
fn shown(issuer: &str) -> String {
    issuer.chars().take(200).flat_map(char::escape_debug).collect()
}

/// Where the document may be: as OpenID Connect has it, which nearly all do, and as RFC 8414 §3.1.
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

/// The endpoints in a document.
///
/// The `issuer` in it must be the configured one, byte for byte (RFC 8414 §3.3): another would mean
/// that a server speaks for somebody else. Endpoints are https; or http where the issuer is, at its host
/// or at this machine: nobody has said that secrets may travel in the open to others.
///
/// A client with a certificate (`mtls`) is sent to the aliases that are for it (RFC 8705 §5). The token
/// endpoint itself stays what it is, because it may be an audience.
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
    /// What is missing here is taken from `published`.
    pub(super) fn or(self, published: Self) -> Self {
        Self {
            issuer: self.issuer,
            // One that is configured is where to go.
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
