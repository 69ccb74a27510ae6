//! What an authorization server publishes about itself (RFC 8414, OpenID Connect Discovery 1.0).
//!
//! Reading the document is pure; it is asked for by whoever makes a token request, which is never on
//! the path of a client's request, and kept for a day.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use url::{Host, Url};

use super::Endpoints;

/// How long a document is kept: as long as MSAL keeps it.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The last document.
#[derive(Debug, Default)]
pub(super) struct Discovery(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    at: SystemTime,
    published: Endpoints,
}

impl Discovery {
    /// What `issuer` published, if it was asked within the last day.
    pub(super) fn recall(&self, issuer: &str, now: SystemTime) -> Option<Endpoints> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().filter(|known| known.is_of(issuer))?;
        // A clock that went back says nothing about age.
        let age = now.duration_since(known.at).ok()?;
        (age < KEPT).then(|| known.published.clone())
    }

    /// What `issuer` published at any time: better than nothing while it cannot be asked.
    pub(super) fn recall_old(&self, issuer: &str) -> Option<Endpoints> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|known| known.is_of(issuer)).map(|known| known.published.clone())
    }

    pub(super) fn keep(&self, published: Endpoints, at: SystemTime) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Known { at, published });
    }
}

impl Known {
    fn is_of(&self, issuer: &str) -> bool {
        self.published.issuer.as_deref() == Some(issuer)
    }
}

/// Why a document is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("`issuer` is not a URL")]
    Issuer,
    #[error("the document of the issuer is not a JSON object")]
    Json,
    #[error(
        "the document of the issuer names another issuer: `issuer` has to be what it says, to the letter"
    )]
    Mismatch,
    #[error(
        "the document of the issuer names an endpoint that is not an https URL: write token_url instead, if it may be used"
    )]
    Endpoint,
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
pub(super) fn read(body: &[u8], issuer: &str) -> Result<Endpoints, DiscoveryError> {
    let document: Value = serde_json::from_slice(body).map_err(|_| DiscoveryError::Json)?;
    let document = document.as_object().ok_or(DiscoveryError::Json)?;
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(DiscoveryError::Mismatch);
    }
    let endpoint = |name: &str| match document.get(name).and_then(Value::as_str) {
        None => Ok(None),
        Some(text) => {
            let url = text.parse::<Url>().ok();
            let fits = |url: &Url| {
                let plain = url.scheme() == "http" && is_plain_here(url, issuer);
                (url.scheme() == "https" || plain) && url.host().is_some()
            };
            url.filter(fits).map(Some).ok_or(DiscoveryError::Endpoint)
        }
    };
    Ok(Endpoints {
        issuer: Some(issuer.to_owned()),
        token: endpoint("token_endpoint")?,
        refresh: None,
        revoke: endpoint("revocation_endpoint")?,
        authorize: endpoint("authorization_endpoint")?,
        device: endpoint("device_authorization_endpoint")?,
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
            token: self.token.or(published.token),
            refresh: self.refresh,
            revoke: self.revoke.or(published.revoke),
            authorize: self.authorize.or(published.authorize),
            device: self.device.or(published.device),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_document_is_looked_for_in_two_places() {
        for (issuer, openid, oauth) in [
            ("https://as.test", "", ""),
            ("https://as.test/", "", ""),
            ("https://as.test/a/b", "/a/b", "/a/b"),
            ("https://as.test:8443/a/", "/a", "/a"),
        ] {
            let host = if issuer.contains("8443") { "as.test:8443" } else { "as.test" };
            let found = locations(issuer).unwrap().map(String::from);
            assert_eq!(
                found,
                [
                    format!("https://{host}{openid}/.well-known/openid-configuration"),
                    format!("https://{host}/.well-known/oauth-authorization-server{oauth}"),
                ]
            );
        }
        assert_eq!(locations("as.test"), Err(DiscoveryError::Issuer));
    }

    #[test]
    fn only_the_issuer_itself_is_believed_and_only_https() {
        use DiscoveryError::{Endpoint, Json, Mismatch};
        let document = r#"{"issuer":"https://as.test","token_endpoint":"https://as.test/t",
            "revocation_endpoint":"https://as.test/r","x":1}"#;
        let endpoints = read(document.as_bytes(), "https://as.test").unwrap();
        assert_eq!(endpoints.token.unwrap().as_str(), "https://as.test/t");
        assert_eq!(endpoints.revoke.unwrap().as_str(), "https://as.test/r");
        assert_eq!(endpoints.device, None);
        for (body, why) in [
            (document.replace("as.test\",", "as.test/\","), Mismatch),
            (document.replace("issuer", "issuers"), Mismatch),
            ("[]".to_owned(), Json),
            ("<html>".to_owned(), Json),
            (document.replace("https://as.test/t", "http://as.test/t"), Endpoint),
            (document.replace("https://as.test/r", "nothing"), Endpoint),
        ] {
            assert_eq!(read(body.as_bytes(), "https://as.test"), Err(why), "{body}");
        }
        let plain = document.replace("https://", "http://");
        assert!(read(plain.as_bytes(), "http://as.test").is_ok());
        let elsewhere = plain.replace("http://as.test/t", "http://other.test/t");
        assert_eq!(read(elsewhere.as_bytes(), "http://as.test"), Err(Endpoint));
        let here = plain.replace("http://as.test/t", "http://127.0.0.1/t");
        assert!(read(here.as_bytes(), "http://as.test").is_ok());
    }

    #[test]
    fn a_document_is_kept_for_a_day_and_used_longer_only_in_need() {
        let discovery = Discovery::default();
        let at = |hours: u64| UNIX_EPOCH + Duration::from_secs(1_000_000 + hours * 3600);
        let published = Endpoints { issuer: Some("i".to_owned()), ..Endpoints::default() };
        discovery.keep(published, at(0));
        assert!(discovery.recall("i", at(23)).is_some());
        assert!(discovery.recall("i", at(24)).is_none());
        assert!(discovery.recall("other", at(1)).is_none());
        assert!(discovery.recall("i", UNIX_EPOCH).is_none());
        assert!(discovery.recall_old("i").is_some() && discovery.recall_old("other").is_none());
    }
}
