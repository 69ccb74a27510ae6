//! The configured format of one token endpoint's answers: where the members are, and which errors
//! have a special meaning.

use std::collections::BTreeSet;
use std::fmt;

use http::StatusCode;
use serde_json::Value;

use super::members::Members;
use crate::content_match;

/// How to interpret the answers of one token endpoint. The default is RFC 6749 §5, read tolerantly.
#[derive(Clone, PartialEq)]
pub struct TokenResponseFormat {
    /// The places of the members.
    pub mapping: Mapping,
    /// Errors that mean an invalid grant.
    pub dead: Vec<AnswerRule>,
    /// Errors that mean a rate limit. They take precedence over `dead` because they discard
    /// nothing.
    pub busy: Vec<AnswerRule>,
    /// The members that templates use, stored with the token.
    pub raw: BTreeSet<MemberPath>,
    /// Require tokens that are bound to a key (RFC 9449). If false, bound tokens are refused,
    /// because they cannot be used as bearer tokens.
    pub dpop: bool,
    /// The maximum length of an access token in bytes. Default 64 KiB.
    pub token_bytes: usize,
}

impl Default for TokenResponseFormat {
    fn default() -> Self {
        Self {
            mapping: Mapping::default(),
            dead: Vec::new(),
            busy: Vec::new(),
            raw: BTreeSet::new(),
            dpop: false,
            token_bytes: 64 * 1024,
        }
    }
}

/// [`Config::fingerprint`](crate::oauth::Config::fingerprint) uses this text, and records store
/// that hash. So the name and the original fields never change, and newer fields appear only if
/// used. `token_bytes` cannot make a refused grant succeed, so it is left out.
impl fmt::Debug for TokenResponseFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mapping, dead, busy, raw, dpop, token_bytes: _ } = self;
        let mut shown = f.debug_struct("Reading");
        shown.field("mapping", mapping).field("dead", dead).field("busy", busy);
        shown.field("raw", raw).field("dpop", dpop).finish()
    }
}

/// The places of the members of a token response. `None` means the name in RFC 6749 §5.1.
#[derive(Clone, Default, PartialEq)]
pub struct Mapping {
    /// The access token.
    pub access_token: Option<MemberPath>,
    /// The refresh token.
    pub refresh_token: Option<MemberPath>,
    /// The lifetime of the access token.
    pub expires_in: Option<MemberPath>,
    /// The expiry time of the access token.
    pub expires_at: Option<MemberPath>,
    /// The unit of both numbers. Default: chosen by their magnitude.
    pub unit: Option<TimeUnit>,
    /// The token type.
    pub token_type: Option<MemberPath>,
    /// A condition for success, for servers that report errors with status 200.
    pub ok: Option<Comparison>,
    /// The error code.
    pub error: Option<MemberPath>,
    /// A success without an access token extends the current one.
    pub keep_access_token: bool,
    /// The lifetime of the refresh token.
    pub refresh_expires_in: Option<MemberPath>,
    /// How long an error asks to wait: seconds, a date, or text with a number.
    pub retry_after: Option<MemberPath>,
}

/// Stable for fingerprints; see [`TokenResponseFormat`].
impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Mapping");
        shown
            .field("access_token", &self.access_token)
            .field("refresh_token", &self.refresh_token)
            .field("expires_in", &self.expires_in)
            .field("expires_at", &self.expires_at)
            .field("unit", &self.unit)
            .field("token_type", &self.token_type)
            .field("ok", &self.ok)
            .field("error", &self.error)
            .field("keep_access_token", &self.keep_access_token);
        let later =
            [("refresh_expires_in", &self.refresh_expires_in), ("retry_after", &self.retry_after)];
        for (name, path) in later.iter().filter(|(_, path)| path.is_some()) {
            shown.field(name, path);
        }
        shown.finish()
    }
}

/// The unit of a lifetime or an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// The path of a value in JSON: member names and array indexes, such as `data.0.token`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberPath(Vec<String>);

impl MemberPath {
    /// Parses `data.0.token`. `None` if a step is empty.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(text.split('.').map(str::to_owned).collect())
    }

    /// Creates a path from steps. `None` if there are none or one is empty.
    pub fn of(steps: Vec<String>) -> Option<Self> {
        let usable = !steps.is_empty() && steps.iter().all(|step| !step.is_empty());
        usable.then_some(Self(steps))
    }

    /// Returns the steps, at least one.
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// Returns the only step, if there is exactly one.
    pub(super) fn only(&self) -> Option<&String> {
        self.split().filter(|(_, below)| below.is_empty()).map(|(name, _)| name)
    }

    /// Returns the first step and the rest.
    pub(super) fn split(&self) -> Option<(&String, &[String])> {
        self.0.split_first()
    }
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A comparison of a member with a literal: `result == '0000'`.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The path of the value. A missing value equals nothing.
    pub path: MemberPath,
    /// True for `==`, false for `!=`.
    pub equal: bool,
    /// A text, a number or a boolean.
    pub literal: Value,
}

impl Comparison {
    pub(super) fn holds(&self, members: &Members) -> bool {
        let found = members.at(&self.path);
        found.is_some_and(|found| members.equals(found, &self.literal)) == self.equal
    }
}

/// A condition on an answer. All given parts must match; an empty rule never matches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerRule {
    /// The HTTP status.
    pub status: Option<StatusCode>,
    /// The error code.
    pub error: Option<String>,
    /// A text that the body contains.
    pub body: Option<String>,
    /// A value at a path of the JSON body.
    pub json: Option<(MemberPath, Value)>,
}

impl AnswerRule {
    pub(super) fn matches(
        &self,
        status: StatusCode,
        body: &[u8],
        members: &Members,
        codes: &[String],
    ) -> bool {
        let contains = |text: &String| content_match::contains(body, text.as_bytes());
        let json = |(path, literal): &(MemberPath, Value)| {
            members.at(path).is_some_and(|found| members.equals(found, literal))
        };
        *self != Self::default()
            && self.status.is_none_or(|expected| expected == status)
            && self
                .error
                .as_deref()
                .is_none_or(|expected| codes.iter().any(|code| code.eq_ignore_ascii_case(expected)))
            && self.body.as_ref().is_none_or(contains)
            && self.json.as_ref().is_none_or(json)
    }
}

/// How an access token is presented to the API (RFC 6749 §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenType {
    /// A bearer token (RFC 6750). Also if the answer does not say.
    #[default]
    Bearer,
    /// With a proof of possession (RFC 9449). Never sent as a bearer token.
    Dpop,
}

/// Names of the bearer type, also `BearerToken` (Apigee) and the owner of the token (Slack).
const BEARER: [&str; 4] = ["bearer", "bearertoken", "bot", "user"];
/// Names of the token's format, which do not mean another type.
const KINDS: [&str; 6] = ["jwt", "token", "access_token", "accesstoken", "oauth", "oauth2"];

/// A parsed `token_type`.
pub(super) enum ParsedTokenType {
    /// A supported type.
    Supported(TokenType),
    /// A name that describes the token and not its type, such as `User Access Token` (eBay). Used
    /// as a bearer token.
    Unusual(String),
    /// An unsupported type.
    Unsupported(String),
}

impl TokenType {
    pub(super) fn parse(value: Option<&Value>) -> ParsedTokenType {
        let kind = match value {
            None | Some(Value::Null) => return ParsedTokenType::Supported(Self::Bearer),
            Some(Value::String(kind)) => kind.trim(),
            Some(other) => return ParsedTokenType::Unsupported(other.to_string()),
        };
        let small = kind.to_ascii_lowercase();
        let names_owner = ["application", "user"]
            .iter()
            .any(|owner| small.starts_with(owner) || small.ends_with(owner));
        match small.as_str() {
            "dpop" => ParsedTokenType::Supported(Self::Dpop),
            _ if small.is_empty() || BEARER.contains(&small.as_str()) => {
                ParsedTokenType::Supported(Self::Bearer)
            }
            // RFC 8693 §3 defines such names for token formats.
            _ if small.starts_with("urn:ietf:params:oauth:token-type:") => {
                ParsedTokenType::Unusual(kind.into())
            }
            _ if names_owner || KINDS.contains(&small.as_str()) => {
                ParsedTokenType::Unusual(kind.into())
            }
            _ if small.contains("bearer") || small.contains(' ') => {
                ParsedTokenType::Unusual(kind.into())
            }
            _ => ParsedTokenType::Unsupported(kind.into()),
        }
    }
}

/// What to do with the refresh token in the answer to a refresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// A new token replaces the old one; without one, the old one stays. The default, because any
    /// server may start to rotate.
    #[default]
    Auto,
    /// Always keep the old token.
    Ignore,
    /// Treat an answer without a new token as an error.
    Require,
}
