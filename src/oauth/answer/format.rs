//! What the configuration says about the answers of one token endpoint: where its members are, and
//! which of its errors mean something else than they do elsewhere.

use std::collections::BTreeSet;
use std::fmt;

use http::StatusCode;
use serde_json::Value;

use super::members::Members;

/// How the answers of one token endpoint are read. The default is RFC 6749 §5, tolerantly.
#[derive(Clone, PartialEq)]
pub struct TokenResponseFormat {
    /// Where the members of a token response are.
    pub mapping: Mapping,
    /// Errors that mean that the grant is gone.
    pub dead: Vec<AnswerRule>,
    /// Errors that mean too many token requests. These win over `dead`: they throw nothing away.
    pub busy: Vec<AnswerRule>,
    /// The members that templates name, to be kept beside the token.
    pub raw: BTreeSet<MemberPath>,
    /// Whether a token bound to a key is wanted (RFC 9449). Without it such a token is refused: it
    /// would be useless as a bearer token.
    pub dpop: bool,
    /// The longest access token that is accepted. Default 64 KiB.
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

/// `Config::fingerprint` is made from it. So it shows what there has always been, and of what came later
/// only what is used; `token_bytes` makes no refused grant succeed, and is left out.
impl fmt::Debug for TokenResponseFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mapping, dead, busy, raw, dpop, token_bytes: _ } = self;
        let mut shown = f.debug_struct("Reading");
        shown.field("mapping", mapping).field("dead", dead).field("busy", busy);
        shown.field("raw", raw).field("dpop", dpop).finish()
    }
}

/// Where a token response has its members. What is `None` has the name that RFC 6749 §5.1 gives it.
#[derive(Clone, Default, PartialEq)]
pub struct Mapping {
    /// The access token.
    pub access_token: Option<MemberPath>,
    /// The refresh token.
    pub refresh_token: Option<MemberPath>,
    /// How long the access token lives.
    pub expires_in: Option<MemberPath>,
    /// When the access token expires.
    pub expires_at: Option<MemberPath>,
    /// What the numbers of both count. Default: told by their size.
    pub unit: Option<TimeUnit>,
    /// How the access token is presented.
    pub token_type: Option<MemberPath>,
    /// What holds for every success, for servers that answer errors with status 200.
    pub ok: Option<Comparison>,
    /// The error code.
    pub error: Option<MemberPath>,
    /// A success without an access token prolongs the one there is.
    pub keep_access_token: bool,
    /// How long the refresh token lives.
    pub refresh_expires_in: Option<MemberPath>,
    /// How long an error asks to be left alone: seconds, a date, or words with a number.
    pub retry_after: Option<MemberPath>,
}

/// See [`TokenResponseFormat`].
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

/// What the numbers of a lifetime or an instant count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Thousandths of a second.
    Milliseconds,
}

/// The place of a value in JSON: names of members and indexes of arrays, such as `data.0.token`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberPath(Vec<String>);

impl MemberPath {
    /// Reads `data.0.token`; `None` where a name is empty.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(text.split('.').map(str::to_owned).collect())
    }

    /// The path of these steps; `None` where there is none, or an empty one.
    pub fn of(steps: Vec<String>) -> Option<Self> {
        let usable = !steps.is_empty() && steps.iter().all(|step| !step.is_empty());
        usable.then_some(Self(steps))
    }

    /// Its step, if there is but one.
    pub(super) fn only(&self) -> Option<&String> {
        self.split().filter(|(_, below)| below.is_empty()).map(|(name, _)| name)
    }

    /// Its first step, and those below.
    pub(super) fn split(&self) -> Option<(&String, &[String])> {
        self.0.split_first()
    }
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A value that is compared with another: `result == '0000'`.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Where the value is. One that is not there equals nothing.
    pub path: MemberPath,
    /// `==`; otherwise `!=`.
    pub equal: bool,
    /// A text, a number or a truth value.
    pub literal: Value,
}

impl Comparison {
    pub(super) fn holds(&self, members: &Members) -> bool {
        let found = members.at(&self.path);
        found.is_some_and(|found| members.same(found, &self.literal)) == self.equal
    }
}

/// A kind of answer. All that is given has to be so; one that gives nothing is never met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerRule {
    /// Its status.
    pub status: Option<StatusCode>,
    /// Its error code.
    pub error: Option<String>,
    /// A text in its body.
    pub body: Option<String>,
    /// A value at a place of its JSON.
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
        let contains =
            |text: &String| body.windows(text.len().max(1)).any(|window| window == text.as_bytes());
        let json = |(path, literal): &(MemberPath, Value)| {
            members.at(path).is_some_and(|found| members.same(found, literal))
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
    /// RFC 6750. Also where the answer does not say.
    #[default]
    Bearer,
    /// With a proof that the sender has the key (RFC 9449). Never sent as a bearer token.
    Dpop,
}

/// What servers call a token that is presented as RFC 6750 says: also `BearerToken` (Apigee), and
/// whose it is (Slack).
const BEARER: [&str; 4] = ["bearer", "bearertoken", "bot", "user"];
/// What they call it and mean no other way of presenting it: what kind of token it is.
const KINDS: [&str; 6] = ["jwt", "token", "access_token", "accesstoken", "oauth", "oauth2"];

/// A `token_type` as the answer has it.
pub(super) enum ParsedTokenType {
    /// One that can be presented.
    Supported(TokenType),
    /// A word for whose token it is rather than for how it is presented: `User Access Token` (eBay).
    Unusual(String),
    /// A way that nobody here knows.
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
            // RFC 8693 §3 has such names for what a token is.
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

/// What becomes of the refresh token of an answer to a refresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// A new one takes the place of the old; none leaves it. The default: any server may start to
    /// rotate one day.
    #[default]
    Auto,
    /// The old one stays whatever the answer has.
    Ignore,
    /// An answer without a new one is an error.
    Require,
}
