//! Selection among a host's credentials by path and method.
//!
//! Paths are compared byte by byte. The server may interpret them differently: decode `%2e`, treat
//! `\` as `/` or resolve `..`. If a path decides about a token, an ambiguous one is therefore
//! refused.

use std::cmp::Reverse;
use std::sync::Arc;

use http::Method;

use super::Credential;
use super::token_endpoint::TokenPath;
use super::variables::{RequestSender, VariableError, variable_values};
use crate::template::Variables;

/// A path prefix: `/v2/` matches everything below that directory, `/v2` also the resource itself.
/// `${club}` matches exactly one segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix {
    text: Box<str>,
    segments: Box<[PathSegment]>,
    /// True if the prefix ends with `/` and matches only what is below it.
    only_below: bool,
}

/// A path segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PathSegment {
    /// These bytes.
    Literal(Box<str>),
    /// Any bytes: the value of this variable.
    Variable(Box<str>),
}

/// Why a text is not a valid entry of `paths`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPrefixError {
    /// Not a path.
    #[error("a path begins with `/`")]
    Relative,
    /// A character that ends a path or is not allowed in one.
    #[error("a path here has no `?`, `#`, space or character outside ASCII")]
    Character,
    /// Bytes that servers interpret differently.
    #[error("`%`, `\\`, `.`, `..` and `//` could be read in two ways")]
    Ambiguous,
    /// `x${club}`.
    #[error("a variable is a whole segment, as in `/${{club}}/`")]
    PartOfSegment,
    /// `/${club}/${club}/`.
    #[error("a variable stands there twice")]
    Twice,
}

impl PathPrefix {
    /// Parses an entry of `paths`.
    ///
    /// # Errors
    ///
    /// [`PathPrefixError`] if no request could match it, or only ambiguously.
    pub fn parse(text: &str) -> Result<Self, PathPrefixError> {
        let rest = text.strip_prefix('/').ok_or(PathPrefixError::Relative)?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
            return Err(PathPrefixError::Character);
        }
        if text.contains("//") || is_ambiguous(text, usize::MAX) {
            return Err(PathPrefixError::Ambiguous);
        }
        let only_below = text.ends_with('/');
        let pieces = rest.strip_suffix('/').unwrap_or(rest);
        let pieces = pieces.split('/').filter(|piece| !piece.is_empty());
        let segments: Box<[PathSegment]> =
            pieces.map(PathSegment::parse).collect::<Result<_, _>>()?;
        let prefix = Self { text: Box::from(text), segments, only_below };
        let mut names: Vec<&str> = prefix.variables().collect();
        names.sort_unstable();
        match names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            true => Err(PathPrefixError::Twice),
            false => Ok(prefix),
        }
    }

    /// The text of the entry.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            PathSegment::Variable(name) => Some(&**name),
            PathSegment::Literal(_) => None,
        })
    }

    /// A key that is equal for two prefixes that match the same paths: variable names are left out.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            shape.push('/');
            shape.push_str(match segment {
                PathSegment::Literal(text) => text,
                PathSegment::Variable(_) => "${}",
            });
        }
        shape.push_str(if self.only_below { "/" } else { "" });
        shape
    }

    /// The value of variable `name` in `path`.
    pub(super) fn value<'a>(&self, name: &str, path: &'a str) -> Option<&'a str> {
        let is_it =
            |segment: &PathSegment| matches!(segment, PathSegment::Variable(it) if **it == *name);
        let at = self.segments.iter().position(is_it)?;
        path.split('/').skip(1).nth(at)
    }

    fn matches(&self, path: &str) -> bool {
        if self.variables().next().is_some() {
            return self.matches_segments(path);
        }
        path.strip_prefix(&*self.text)
            .is_some_and(|rest| self.only_below || rest.is_empty() || rest.starts_with('/'))
    }

    fn matches_segments(&self, path: &str) -> bool {
        let mut found = path.split('/').skip(1);
        let same = |segment: &PathSegment| match (segment, found.next()) {
            (PathSegment::Literal(text), Some(found)) => **text == *found,
            (PathSegment::Variable(_), found) => found.is_some(),
            (PathSegment::Literal(_), None) => false,
        };
        self.segments.iter().all(same) && (!self.only_below || found.next().is_some())
    }

    fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The sort key, more specific first: more segments, then literal before variable segments from
    /// the left, then prefixes that end with `/`.
    fn rank(&self) -> (Reverse<usize>, Vec<bool>, bool) {
        let is_variable = |segment: &PathSegment| matches!(segment, PathSegment::Variable(_));
        (
            Reverse(self.segment_count()),
            self.segments.iter().map(is_variable).collect(),
            !self.only_below,
        )
    }
}

impl PathSegment {
    fn parse(text: &str) -> Result<Self, PathPrefixError> {
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        match name {
            Some(name) if !name.contains(['$', '{', '}']) => Ok(Self::Variable(Box::from(name))),
            _ if text.contains("${") => Err(PathPrefixError::PartOfSegment),
            _ => Ok(Self::Literal(Box::from(text))),
        }
    }
}

/// The credentials of one host, most specific first.
#[derive(Debug, Default)]
pub(super) struct HostRules {
    rules: Vec<HostRule>,
    /// The largest number of path segments that a rule looks at.
    covered: usize,
    /// The token endpoints on this host, and their credentials.
    token_paths: Vec<(TokenPath, Arc<Credential>)>,
}

/// The credential for some requests of a host.
#[derive(Debug)]
pub(super) struct HostRule {
    path: Option<PathPrefix>,
    pub(super) credential: Arc<Credential>,
}

/// The path is ambiguous and a credential depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AmbiguousPath;

impl HostRule {
    /// The variable values in a request that this rule matches.
    pub(super) fn variable_values(
        &self,
        path: &str,
        sender: RequestSender<'_>,
    ) -> Result<Variables, VariableError> {
        variable_values(&self.credential.variables, self.path.as_ref(), path, sender)
    }
}

impl HostRules {
    pub(super) fn insert(&mut self, paths: &[PathPrefix], credential: &Arc<Credential>) {
        let rule = |path| HostRule { path, credential: Arc::clone(credential) };
        if paths.is_empty() {
            self.rules.push(rule(None));
        }
        for path in paths {
            self.covered = self.covered.max(path.segment_count());
            self.rules.push(rule(Some(path.clone())));
        }
        // More specific paths first, no path last, and listed methods before all methods.
        self.rules.sort_by_key(|rule| {
            let rank = rule.path.as_ref().map(PathPrefix::rank);
            (rank.is_none(), rank, rule.credential.methods.is_empty())
        });
    }

    /// The most specific rule for this method and path.
    pub(super) fn find(
        &self,
        method: &Method,
        path: &str,
    ) -> Result<Option<&HostRule>, AmbiguousPath> {
        if self.covered > 0 && is_ambiguous(path, self.covered) {
            return Err(AmbiguousPath);
        }
        let matches = |rule: &&HostRule| {
            let methods = &rule.credential.methods;
            rule.path.as_ref().is_none_or(|prefix| prefix.matches(path))
                && (methods.is_empty() || methods.contains(method))
        };
        Ok(self.rules.iter().find(matches))
    }

    /// Returns true if a client's name selects among the tokens of one of the credentials.
    pub(super) fn needs_client_name(&self) -> bool {
        self.rules.iter().any(|rule| rule.credential.is_chosen_by_client())
    }

    /// Excludes requests for this path from getting a token.
    pub(super) fn add_token_path(&mut self, path: TokenPath, credential: &Arc<Credential>) {
        self.token_paths.push((path, Arc::clone(credential)));
    }

    /// The credential whose token endpoint `path` is, if any.
    pub(super) fn token_endpoint_owner(&self, path: &str) -> Option<&Arc<Credential>> {
        let mut found = self.token_paths.iter().filter(|(wanted, _)| wanted.is(path));
        let first = found.next()?;
        let stub = std::iter::once(first).chain(found).find(|(_, it)| it.stub_token_endpoint);
        Some(&stub.unwrap_or(first).1)
    }

    /// Returns true if all credentials keep plain http.
    pub(super) fn all_allow_http(&self) -> bool {
        self.rules.iter().all(|rule| rule.credential.allow_http)
    }
}

/// Returns true if a server might see other segments than these bytes. Encoded bytes matter in the
/// first `covered` segments; dot segments matter everywhere, because they lead back to those.
fn is_ambiguous(path: &str, covered: usize) -> bool {
    let mut segments = path.split('/').skip(1).take(covered);
    segments.any(|segment| segment.contains(['%', '\\'])) || has_dot_segments(path)
}

/// Returns true if the path has a `.` or `..` segment (RFC 3986 §3.3), plain or encoded, also with
/// a path parameter that some servers drop (`..;x`).
fn has_dot_segments(path: &str) -> bool {
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
    fn a_prefix_ends_at_a_segment_boundary() {
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
    fn a_variable_matches_exactly_one_segment() {
        for (prefix, path, expected) in [
            ("/${club}/", "/paris/x", true),
            ("/${club}/", "/paris/", true),
            ("/${club}/", "/paris", false),
            ("/${club}/", "/", false),
            ("/${club}/", "//x", true),
            ("/${club}", "/paris", true),
            ("/${club}", "/paris/x", true),
            ("/${club}", "/", true),
            ("/v1/${club}/members", "/v1/paris/members", true),
            ("/v1/${club}/members", "/v1/paris/members/7", true),
            ("/v1/${club}/members", "/v1/paris/member", false),
            ("/v1/${club}/members", "/v1/a/b/members", false),
            ("/v1/${club}/members/", "/v1/paris/members", false),
            ("/${a}/${b}/", "/x/y/", true),
            ("/${a}/${b}/", "/x/y", false),
        ] {
            let matches = PathPrefix::parse(prefix).unwrap().matches(path);
            assert_eq!(matches, expected, "{prefix} {path}");
        }
    }

    #[test]
    fn the_more_specific_path_comes_first() {
        let order = [
            "/v1/paris/x",
            "/v1/${club}/x/",
            "/v1/${club}/x",
            "/${a}/b/c",
            "/v1/paris/",
            "/v1/${club}/",
            "/v1/${club}",
            "/${a}/paris",
            "/v1/",
            "/v1",
            "/${a}/",
            "/${a}",
            "/",
        ];
        let mut sorted = order.map(|text| PathPrefix::parse(text).unwrap());
        sorted.reverse();
        sorted.sort_by_key(PathPrefix::rank);
        assert_eq!(sorted.each_ref().map(PathPrefix::as_str), order);
    }

    #[test]
    fn variable_names_do_not_affect_the_shape() {
        let shape = |text| PathPrefix::parse(text).unwrap().shape();
        assert_eq!(shape("/v1/${club}/"), shape("/v1/${gym}/"));
        assert_ne!(shape("/v1/${club}/"), shape("/v1/${club}"));
        assert_ne!(shape("/v1/${club}/"), shape("/v1/club/"));
        assert_eq!(shape("/"), "/");
    }

    #[test]
    fn ambiguous_paths_are_detected() {
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
    fn entries_that_match_nothing_or_ambiguously_are_refused() {
        use PathPrefixError::{Ambiguous, Character, PartOfSegment, Relative, Twice};
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
            ("/x${club}/", PartOfSegment),
            ("/${club}x", PartOfSegment),
            ("/${a}${b}/", PartOfSegment),
            ("/${a/", PartOfSegment),
            ("/${a/b}/", PartOfSegment),
            ("/${club}/x/${club}", Twice),
        ] {
            assert_eq!(PathPrefix::parse(text), Err(error), "{text}");
        }
    }
}
