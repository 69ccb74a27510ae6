//! Which of a host's credentials a request belongs to: by path and method.
//!
//! Paths are compared as the bytes they are. A server behind may read other bytes than these: it may
//! decode `%2e`, take `\` for `/` or walk `..`. Where a path decides about a token, whatever could
//! be read in two ways is therefore refused rather than guessed.

use std::cmp::Reverse;
use std::sync::Arc;

use http::Method;

use super::Credential;
use super::token_endpoint::TokenPath;
use super::variables::{ChoiceError, Sender, choose};
use crate::template::Variables;

/// A prefix of paths: `/v2/` is what is below that directory, `/v2` is that and the resource itself.
/// `${club}` stands for exactly one whole segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix {
    text: Box<str>,
    segments: Box<[Segment]>,
    /// It ends with `/`: only what is below it.
    below: bool,
}

/// What stands between two slashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    /// These bytes.
    Literal(Box<str>),
    /// Any bytes: the value of this variable.
    Variable(Box<str>),
}

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
    /// `x${club}`.
    #[error("a variable is a whole segment, as in `/${{club}}/`")]
    PartOfSegment,
    /// `/${club}/${club}/`.
    #[error("a variable stands there twice")]
    Twice,
}

impl PathPrefix {
    /// Reads an entry of `paths`.
    ///
    /// # Errors
    ///
    /// [`PathPrefixError`] for what no request could match, or could match in two ways.
    pub fn parse(text: &str) -> Result<Self, PathPrefixError> {
        let rest = text.strip_prefix('/').ok_or(PathPrefixError::Relative)?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
            return Err(PathPrefixError::Character);
        }
        if text.contains("//") || is_ambiguous(text, usize::MAX) {
            return Err(PathPrefixError::Ambiguous);
        }
        let below = text.ends_with('/');
        let pieces = rest.strip_suffix('/').unwrap_or(rest);
        let pieces = pieces.split('/').filter(|piece| !piece.is_empty());
        let segments: Box<[Segment]> = pieces.map(Segment::parse).collect::<Result<_, _>>()?;
        let prefix = Self { text: Box::from(text), segments, below };
        let mut names: Vec<&str> = prefix.variables().collect();
        names.sort_unstable();
        match names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            true => Err(PathPrefixError::Twice),
            false => Ok(prefix),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// The same for two prefixes that match the same paths: what the variables are called makes no
    /// difference.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            shape.push('/');
            shape.push_str(match segment {
                Segment::Literal(text) => text,
                Segment::Variable(_) => "${}",
            });
        }
        shape.push_str(if self.below { "/" } else { "" });
        shape
    }

    /// What stands in `path` where this prefix has the variable `name`.
    pub(super) fn value<'a>(&self, name: &str, path: &'a str) -> Option<&'a str> {
        let is_it = |segment: &Segment| matches!(segment, Segment::Variable(it) if **it == *name);
        let at = self.segments.iter().position(is_it)?;
        path.split('/').skip(1).nth(at)
    }

    fn matches(&self, path: &str) -> bool {
        if self.variables().next().is_some() {
            return self.matches_segments(path);
        }
        path.strip_prefix(&*self.text)
            .is_some_and(|rest| self.below || rest.is_empty() || rest.starts_with('/'))
    }

    fn matches_segments(&self, path: &str) -> bool {
        let mut found = path.split('/').skip(1);
        let same = |segment: &Segment| match (segment, found.next()) {
            (Segment::Literal(text), Some(found)) => **text == *found,
            (Segment::Variable(_), found) => found.is_some(),
            (Segment::Literal(_), None) => false,
        };
        self.segments.iter().all(same) && (!self.below || found.next().is_some())
    }

    fn covers(&self) -> usize {
        self.segments.len()
    }

    /// The less, the more specific: more segments, then a literal one before a variable one, from the
    /// left, then what is only below.
    fn rank(&self) -> (Reverse<usize>, Vec<bool>, bool) {
        let is_variable = |segment: &Segment| matches!(segment, Segment::Variable(_));
        (Reverse(self.covers()), self.segments.iter().map(is_variable).collect(), !self.below)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PathPrefixError> {
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        match name {
            Some(name) if !name.contains(['$', '{', '}']) => Ok(Self::Variable(Box::from(name))),
            _ if text.contains("${") => Err(PathPrefixError::PartOfSegment),
            _ => Ok(Self::Literal(Box::from(text))),
        }
    }
}

/// The credentials of one host, the most specific first.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    /// So many segments of a path may decide.
    covered: usize,
    /// Where token requests go, and whose.
    token_paths: Vec<(TokenPath, Arc<Credential>)>,
}

/// What some requests of a host get.
#[derive(Debug)]
pub(super) struct Rule {
    path: Option<PathPrefix>,
    pub(super) credential: Arc<Credential>,
}

/// The path could be read in two ways, and a credential depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ambiguous;

impl Rule {
    /// The values of the credential's variables in a request that this rule is for.
    pub(super) fn choose(&self, path: &str, sender: Sender<'_>) -> Result<Variables, ChoiceError> {
        choose(&self.credential.variables, self.path.as_ref(), path, sender)
    }
}

impl Rules {
    pub(super) fn insert(&mut self, paths: &[PathPrefix], credential: &Arc<Credential>) {
        let rule = |path| Rule { path, credential: Arc::clone(credential) };
        if paths.is_empty() {
            self.rules.push(rule(None));
        }
        for path in paths {
            self.covered = self.covered.max(path.covers());
            self.rules.push(rule(Some(path.clone())));
        }
        // The more specific path first, no path last, and a listed method before any.
        self.rules.sort_by_key(|rule| {
            let rank = rule.path.as_ref().map(PathPrefix::rank);
            (rank.is_none(), rank, rule.credential.methods.is_empty())
        });
    }

    /// The most specific rule for this method and path.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<Option<&Rule>, Ambiguous> {
        if self.covered > 0 && is_ambiguous(path, self.covered) {
            return Err(Ambiguous);
        }
        let matches = |rule: &&Rule| {
            let methods = &rule.credential.methods;
            rule.path.as_ref().is_none_or(|prefix| prefix.matches(path))
                && (methods.is_empty() || methods.contains(method))
        };
        Ok(self.rules.iter().find(matches))
    }

    /// Does a client's name choose among the tokens of any of them?
    pub(super) fn want_names(&self) -> bool {
        self.rules.iter().any(|rule| rule.credential.is_chosen_by_client())
    }

    /// From now on requests for this path get no token.
    pub(super) fn watch_token_requests(&mut self, path: TokenPath, credential: &Arc<Credential>) {
        self.token_paths.push((path, Arc::clone(credential)));
    }

    /// Whose token endpoint a path is, if it is one.
    pub(super) fn token_request(&self, path: &str) -> Option<&Arc<Credential>> {
        let mut found = self.token_paths.iter().filter(|(wanted, _)| wanted.is(path));
        let first = found.next()?;
        let stub = std::iter::once(first).chain(found).find(|(_, it)| it.stub_token_endpoint);
        Some(&stub.unwrap_or(first).1)
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
    fn a_variable_is_exactly_one_whole_segment() {
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
    fn what_variables_are_called_makes_no_difference_to_a_shape() {
        let shape = |text| PathPrefix::parse(text).unwrap().shape();
        assert_eq!(shape("/v1/${club}/"), shape("/v1/${gym}/"));
        assert_ne!(shape("/v1/${club}/"), shape("/v1/${club}"));
        assert_ne!(shape("/v1/${club}/"), shape("/v1/club/"));
        assert_eq!(shape("/"), "/");
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
