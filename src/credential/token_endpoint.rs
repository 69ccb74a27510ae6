//! The application's own token requests: they go to a token endpoint, and never get a token.
//!
//! An application that was written for OAuth has a token dance of its own. Where a credential says
//! `stub_token_endpoint`, the proxy answers it with a token that is worth nothing, so that the
//! application is content without a secret; elsewhere its request passes like any other.

use crate::origin::{Authority, Scheme};
use crate::template::{Template, Values, Variables};

/// Stands for the value of a variable while a URL is taken apart; no URL has it.
const ANY: &str = "\u{1}";

/// Where a credential's token requests go, as far as that is known without a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenPath {
    pub(super) authority: Authority,
    /// Segments, each as what it begins and ends with; the same twice where nothing varies.
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Exactly(String),
    Between(String, String),
}

impl TokenPath {
    /// Reads the URL of a token endpoint; `None` where its host is a variable's value.
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
            (Some((first, _)), Some((_, last))) => Segment::Between(first.into(), last.into()),
            _ => Segment::Exactly(text.to_owned()),
        };
        Some(Self { authority, segments: path.split('/').map(segment).collect() })
    }

    /// Is this the path of a request to it?
    pub(super) fn is(&self, path: &str) -> bool {
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        self.segments.iter().all(|wanted| segments.next().is_some_and(|found| wanted.is(found)))
            && segments.next().is_none()
    }
}

impl Segment {
    fn is(&self, found: &str) -> bool {
        match self {
            Self::Exactly(text) => text == found,
            Self::Between(first, last) => found
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
    fn a_token_request_is_told_by_host_and_whole_path() {
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
    fn a_host_that_a_request_would_choose_is_none() {
        assert_eq!(path("https://${club}.test/token"), None);
    }
}
