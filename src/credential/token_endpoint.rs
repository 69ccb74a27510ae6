//! The application's own token requests, which never get a token.
//!
//! An application written for OAuth requests tokens itself. If a credential sets
//! `stub_token_endpoint`, the proxy answers these requests with a worthless token, so that the
//! application needs no secret; otherwise they are forwarded like any other request.

use crate::origin::{Authority, Scheme};
use crate::template::{Template, Values, Variables};

/// Placeholder for a variable's value while a URL is parsed; no URL contains it.
const ANY: &str = "\u{1}";

/// The token endpoint of a credential, as far as it is known without a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenPath {
    pub(super) authority: Authority,
    /// The path segments.
    segments: Vec<EndpointSegment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum EndpointSegment {
    Literal(String),
    Affixes(String, String),
}

impl TokenPath {
    /// Parses the URL of a token endpoint; `None` if a variable is part of its host.
    pub(super) fn of(url: &Template) -> Option<Self> {
        let any = |name: &str| (name.to_owned(), ANY.to_owned());
        let variables: Variables = url.variables().map(any).collect();
        let values =
            Values { variables: Some(&variables), ..Values::at(std::time::SystemTime::UNIX_EPOCH) };
        let text = url.expand(values);
        let (scheme, rest) = text.split_once("://")?;
        let default_port = match scheme {
            "https" => Scheme::Https.default_port(),
            "http" => Scheme::Http.default_port(),
            _ => return None,
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = Authority::parse(authority, Some(default_port)).ok()?;
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let segment = |text: &str| match (text.split_once(ANY), text.rsplit_once(ANY)) {
            (Some((first, _)), Some((_, last))) => {
                EndpointSegment::Affixes(first.into(), last.into())
            }
            _ => EndpointSegment::Literal(text.to_owned()),
        };
        Some(Self { authority, segments: path.split('/').map(segment).collect() })
    }

    /// Returns true if `path` is the endpoint's path.
    pub(super) fn is(&self, path: &str) -> bool {
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        self.segments.iter().all(|wanted| segments.next().is_some_and(|found| wanted.is(found)))
            && segments.next().is_none()
    }
}

impl EndpointSegment {
    fn is(&self, found: &str) -> bool {
        match self {
            Self::Literal(text) => text == found,
            Self::Affixes(first, last) => found
                .strip_prefix(first.as_str())
                .and_then(|rest| rest.strip_suffix(last.as_str()))
                .is_some_and(|value| !value.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::template::Names;

    fn path(url: &str) -> Option<TokenPath> {
        let mut names = Names::default();
        names.insert_variable("club");
        TokenPath::of(&Template::parse(url, &names).unwrap())
    }

    #[test]
    fn a_token_request_is_recognised_by_host_and_whole_path() {
        for (url, authority, path_of_request, expected) in [
            ("https://as.test/oauth/token", "as.test:443", "/oauth/token", true),
            ("https://AS.test:8443/token?a=1", "as.test:8443", "/token", true),
            ("http://127.0.0.1:1/token", "127.0.0.1:1", "/token", true),
            ("https://as.test/token", "as.test:443", "/token/", false),
            ("https://as.test/token", "as.test:443", "/tokens", false),
            ("https://as.test/token", "as.test:443", "/", false),
            ("https://as.test", "as.test:443", "/", true),
            ("https://as.test/${club}/oauth/token", "as.test:443", "/paris/oauth/token", true),
            ("https://as.test/c-${club}.x/token", "as.test:443", "/c-paris.x/token", true),
            ("https://as.test/c-${club}.x/token", "as.test:443", "/c-.x/token", false),
            ("https://as.test/${club}/token", "as.test:443", "/a/b/token", false),
        ] {
            let found = path(url).unwrap();
            assert_eq!(found.authority.to_string(), authority, "{url}");
            assert_eq!(found.is(path_of_request), expected, "{url} {path_of_request}");
        }
    }

    #[test]
    fn a_variable_host_is_not_a_token_endpoint() {
        assert_eq!(path("https://${club}.test/token"), None);
    }
}
