//! Which credential, if any, belongs to an origin.
//!
//! A credential is a named, configured way to get access tokens for some hosts. [`Credentials`] is
//! an immutable table: a lookup is one or a few hash reads, never a scan and never a lock.
//!
//! A plain-http request finds the same entries as an https one and is then sent over TLS, so that a
//! token never travels in clear unless the operator said `allow_http`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::origin::{Authority, AuthorityError, Host, Origin, Scheme};
use crate::token::{self, Context, Slot};

/// One credential, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its name: stands in messages, and is the key of its record.
    pub name: String,
    /// The hosts whose requests get its token.
    pub hosts: Vec<HostPattern>,
    /// A plain-http request stays plain http. Default `false`: it is sent over TLS.
    pub allow_http: bool,
    /// Bodies of at most so many bytes are kept, to be sent again. Default 1 MiB.
    pub replay_body: u64,
    /// Where its tokens come from.
    pub token: token::Config,
}

/// An entry of `hosts`: one host, or all names with one label more than a suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this host and port.
    Exact(Authority),
    /// `*.suffix` on this port; `*` is one label.
    Wildcard {
        /// The suffix without `*.`.
        suffix: Box<str>,
        /// The port.
        port: u16,
    },
}

impl HostPattern {
    /// Parses `api.x.com`, `api.y.com:8443` or `*.my.salesforce.com`; the default port is 443.
    ///
    /// # Errors
    ///
    /// What no authority may be, and wildcards so wide that they would name other people's hosts.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        if text.contains("://") || text.contains('/') {
            return Err(HostPatternError::Url);
        }
        let Some(suffix) = text.strip_prefix("*.") else {
            if text.contains('*') {
                return Err(HostPatternError::Star);
            }
            return Ok(Self::Exact(Authority::parse(text, Some(443))?));
        };
        let Authority { host, port } = Authority::parse(suffix, Some(443))?;
        match host {
            Host::Name(suffix) if suffix.contains('.') => Ok(Self::Wildcard { suffix, port }),
            _ => Err(HostPatternError::TooWide),
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(authority) => authority.fmt(f),
            Self::Wildcard { suffix, port } => write!(f, "*.{suffix}:{port}"),
        }
    }
}

/// Why a text is no entry for `hosts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// Not a host.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A URL or a path.
    #[error("a host has no scheme and no path")]
    Url,
    /// A star elsewhere than as the first label.
    #[error("`*` may only be the whole first label, as in `*.example.com`")]
    Star,
    /// A whole top-level domain, or an address.
    #[error("a wildcard needs at least two labels after it")]
    TooWide,
}

/// A credential at work.
#[derive(Debug)]
pub struct Credential {
    /// Its name.
    pub name: Arc<str>,
    /// A plain-http request stays plain http.
    pub allow_http: bool,
    /// Bodies of at most so many bytes are kept, to be sent again.
    pub replay_body: u64,
    /// Its token.
    pub slot: Arc<Slot>,
    /// What the slot was made from.
    token: token::Config,
}

/// Which credential a request gets, and where it is really sent.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The credential.
    pub credential: Arc<Credential>,
    /// The origin with the scheme that is used towards it.
    pub origin: Origin,
}

/// All credentials, by host.
#[derive(Debug, Default)]
pub struct Credentials {
    exact: HashMap<Authority, Arc<Credential>>,
    wildcard: HashMap<(Box<str>, u16), Arc<Credential>>,
    all: Vec<Arc<Credential>>,
}

impl Credentials {
    /// Opens every credential's slot; that the hosts do not overlap has been checked by `settings`.
    ///
    /// A slot of `before` whose configuration has not changed is taken over with its token and with
    /// whatever it is doing.
    pub async fn open(configs: Vec<Config>, context: &Context, before: Option<&Self>) -> Self {
        let mut credentials = Self::default();
        for config in configs {
            let slot = match before.and_then(|before| before.unchanged(&config)) {
                Some(slot) => slot,
                None => Slot::open(config.token.clone(), context.clone()).await,
            };
            let credential = Arc::new(Credential {
                name: Arc::from(config.name.as_str()),
                allow_http: config.allow_http,
                replay_body: config.replay_body,
                slot,
                token: config.token,
            });
            for pattern in config.hosts {
                credentials.insert(pattern, &credential);
            }
            credentials.all.push(credential);
        }
        credentials
    }

    fn unchanged(&self, config: &Config) -> Option<Arc<Slot>> {
        let same = |credential: &&Arc<Credential>| {
            *credential.name == *config.name && credential.token == config.token
        };
        self.all.iter().find(same).map(|credential| Arc::clone(&credential.slot))
    }

    fn insert(&mut self, pattern: HostPattern, credential: &Arc<Credential>) {
        let credential = Arc::clone(credential);
        match pattern {
            HostPattern::Exact(authority) => self.exact.insert(authority, credential),
            HostPattern::Wildcard { suffix, port } => {
                self.wildcard.insert((suffix, port), credential)
            }
        };
    }

    /// Every credential, in the order of the configuration.
    pub fn all(&self) -> &[Arc<Credential>] {
        &self.all
    }

    /// The credential of a request to `requested`, if there is one.
    ///
    /// `http://host/` finds the entry for port 443 and goes there over TLS; `http://host:8443/` finds
    /// the entry for port 8443 and goes to that port. With `allow_http` scheme and port are kept.
    pub fn for_request(&self, requested: &Origin) -> Option<Selection> {
        let Authority { host, port } = &requested.authority;
        if requested.scheme == Scheme::Http && *port == 80 {
            let over_tls = Authority { host: host.clone(), port: 443 };
            if let Some(credential) = self.find(&over_tls) {
                return Some(select(credential, requested, over_tls));
            }
        }
        let credential = self.find(&requested.authority)?;
        Some(select(credential, requested, requested.authority.clone()))
    }

    /// The exact host wins over a wildcard.
    fn find(&self, authority: &Authority) -> Option<&Arc<Credential>> {
        if let Some(credential) = self.exact.get(authority) {
            return Some(credential);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        let (_, suffix) = authority.host.name()?.split_once('.')?;
        self.wildcard.get(&(Box::from(suffix), authority.port))
    }
}

fn select(credential: &Arc<Credential>, requested: &Origin, over_tls: Authority) -> Selection {
    let origin = match requested.scheme {
        Scheme::Http if credential.allow_http => requested.clone(),
        _ => Origin { scheme: Scheme::Https, authority: over_tls },
    };
    Selection { credential: Arc::clone(credential), origin }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_is_a_host_with_a_port_or_a_wildcard_of_one_label() {
        for (text, canonical) in [
            ("API.x.com", "api.x.com:443"),
            ("api.y.com:8443", "api.y.com:8443"),
            ("*.my.salesforce.com", "*.my.salesforce.com:443"),
            ("127.0.0.1:18080", "127.0.0.1:18080"),
            ("localhost", "localhost:443"),
        ] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn entries_that_would_match_too_much_or_nothing_are_refused() {
        for text in [
            "",
            "*",
            "*.com",
            "*.1.2.3.4",
            "a*.x.com",
            "x.*.com",
            "https://x.com",
            "x.com/",
            "x.com.",
            "x.com:99999",
            "1.2.3.4/33",
            "user@x.com",
            "**.x.com",
            "*.*.x.com",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
