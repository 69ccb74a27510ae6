//! Which of a host's credentials a request belongs to: by path and method.
//!
//! Paths are compared as the bytes they are. A server behind may read other bytes than these: it may
//! decode `%2e`, take `\` for `/` or walk `..`. Where a path decides about a token, whatever could
//! be read in two ways is therefore refused rather than guessed.

use std::sync::Arc;

use http::Method;

use super::Credential;

/// A prefix of paths: `/v2/` is what is below that directory, `/v2` is that and the resource itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(Box<str>);

/// Why a text is no entry for `paths`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPrefixError {
    /// Not a path.
    #[error("a path begins with `/`")]
    Relative,
    /// Something that ends a path, or that is not part of one.
    #[error("a path here has no `?`, `#`, space or character outside ASCII")]
    Character,
    /// Bytes that servers read in several ways.
    #[error("`%`, `\\`, `.`, `..` and `//` could be read in two ways")]
    Ambiguous,
    /// `${…}`.
    #[error("variables in paths are not available in this version")]
    Variable,
}

impl PathPrefix {
    /// Reads an entry of `paths`.
    ///
    /// # Errors
    ///
    /// [`PathPrefixError`] for what no request could match, or could match in two ways.
    pub fn parse(text: &str) -> Result<Self, PathPrefixError> {
        let segments = text.strip_prefix('/').ok_or(PathPrefixError::Relative)?;
        if text.contains("${") {
            return Err(PathPrefixError::Variable);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
            return Err(PathPrefixError::Character);
        }
        if text.contains("//") || is_ambiguous(text, usize::MAX) {
            return Err(PathPrefixError::Ambiguous);
        }
        debug_assert!(!segments.starts_with('/'));
        Ok(Self(Box::from(text)))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0)
            .is_some_and(|rest| self.0.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
    }

    fn segments(&self) -> usize {
        self.0.split('/').filter(|segment| !segment.is_empty()).count()
    }
}

/// The credentials of one host, the most specific first.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    /// So many segments of a path may decide.
    covered: usize,
}

#[derive(Debug)]
struct Rule {
    path: Option<PathPrefix>,
    credential: Arc<Credential>,
}

/// The path could be read in two ways, and a credential depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ambiguous;

impl Rules {
    pub(super) fn insert(&mut self, paths: &[PathPrefix], credential: &Arc<Credential>) {
        let rule = |path| Rule { path, credential: Arc::clone(credential) };
        if paths.is_empty() {
            self.rules.push(rule(None));
        }
        for path in paths {
            self.covered = self.covered.max(path.segments());
            self.rules.push(rule(Some(path.clone())));
        }
        // The longer path first, and a listed method before any.
        self.rules.sort_by_key(|rule| {
            let length = rule.path.as_ref().map_or(0, |path| path.0.len());
            (std::cmp::Reverse(length), rule.credential.methods.is_empty())
        });
    }

    /// The most specific credential for this method and path.
    pub(super) fn find(
        &self,
        method: &Method,
        path: &str,
    ) -> Result<Option<&Arc<Credential>>, Ambiguous> {
        if self.covered > 0 && is_ambiguous(path, self.covered) {
            return Err(Ambiguous);
        }
        let matches = |rule: &&Rule| {
            let methods = &rule.credential.methods;
            rule.path.as_ref().is_none_or(|prefix| prefix.matches(path))
                && (methods.is_empty() || methods.contains(method))
        };
        Ok(self.rules.iter().find(matches).map(|rule| &rule.credential))
    }

    /// Do all of them keep plain http plain?
    pub(super) fn all_allow_http(&self) -> bool {
        self.rules.iter().all(|rule| rule.credential.allow_http)
    }
}

/// Could a server see other segments than these bytes say? Encoded bytes matter in the first
/// `covered` segments; a step upwards matters everywhere, because it leads back to those.
fn is_ambiguous(path: &str, covered: usize) -> bool {
    let mut segments = path.split('/').skip(1).take(covered);
    segments.any(|segment| segment.contains(['%', '\\'])) || steps(path)
}

/// Is there a `.` or `..`, plain or encoded, also with the parameters that some servers cut off
/// (`..;x`)?
fn steps(path: &str) -> bool {
    if !path.contains(['.', '%']) {
        return false;
    }
    let plain = path.to_ascii_lowercase();
    let plain = plain.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    let plain = plain.replace("%3b", ";");
    plain
        .split(['/', '\\'])
        .map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name))
        .any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_segment_does() {
        for (prefix, path, expected) in [
            ("/", "/", true),
            ("/", "/x", true),
            ("/v2/", "/v2", false),
            ("/v2/", "/v2/", true),
            ("/v2/", "/v2/x", true),
            ("/v2/", "/v22/x", false),
            ("/v2/", "/V2/x", false),
            ("/v2/", "/x/v2/", false),
            ("/v2/", "//v2/", false),
            ("/v2", "/v2", true),
            ("/v2", "/v2/", true),
            ("/v2", "/v2/x", true),
            ("/v2", "/v22", false),
            ("/v2", "/v", false),
            ("/a/b", "/a/b/c", true),
            ("/a/b", "/a/bc", false),
        ] {
            let matches = PathPrefix::parse(prefix).unwrap().matches(path);
            assert_eq!(matches, expected, "{prefix} {path}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_ambiguous() {
        for (path, expected) in [
            ("/v2/x", false),
            ("/v2/a%20b", false),
            ("/v2/group%2Fproject", false),
            ("/v2/.well-known/a..b", false),
            ("/v2/x\\y", false),
            ("/v2%2fx", true),
            ("/%76%32/x", true),
            ("/v2\\x", true),
            ("/v1%2f..%2fadmin", true),
            ("/v2/../admin", true),
            ("/v2/./x", true),
            ("/v2/x/..", true),
            ("/a/../v2/x", true),
            ("/v2/%2e%2e/admin", true),
            ("/v2/.%2E/admin", true),
            ("/v2/x%2f..%2fy", true),
            ("/v2/x%5c..%5cy", true),
            ("/v2/x\\..\\..\\y", true),
            ("/v2/..;a=b/admin", true),
            ("/v2/..%3Ba/admin", true),
        ] {
            assert_eq!(is_ambiguous(path, 1), expected, "{path}");
        }
    }

    #[test]
    fn entries_that_no_request_could_match_for_certain_are_refused() {
        use PathPrefixError::{Ambiguous, Character, Relative, Variable};
        for (text, error) in [
            ("", Relative),
            ("v2", Relative),
            ("/v2?x", Character),
            ("/v2#x", Character),
            ("/v 2", Character),
            ("/é", Character),
            ("/a%2f", Ambiguous),
            ("/a/../b", Ambiguous),
            ("/a\\b", Ambiguous),
            ("//a", Ambiguous),
            ("/a//b", Ambiguous),
            ("/${club}/", Variable),
        ] {
            assert_eq!(PathPrefix::parse(text), Err(error), "{text}");
        }
    }
}
