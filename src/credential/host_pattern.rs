//! Host patterns: the entries of `hosts`.

use crate::origin::{Authority, AuthorityError, Host};

/// An entry of `hosts`: one host, or all names one label below a suffix.
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
    /// If the text is not a valid authority, or a wildcard is so wide that it matches other
    /// people's hosts.
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

/// Why a text is not a valid entry of `hosts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// Not a valid host.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A URL or a path.
    #[error("a host has no scheme and no path")]
    Url,
    /// A star in another position than the first label.
    #[error("`*` may only be the whole first label, as in `*.example.com`")]
    Star,
    /// A whole top-level domain, or an address.
    #[error("a wildcard needs at least two labels after it")]
    TooWide,
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
