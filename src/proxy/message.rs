//! The rules for one message on its way through: pure functions over heads.
//!
//! What a request is for is read from its target once ([`target`]); the `Host` field is checked and
//! then written anew, so that policy and origin server can never disagree about it.

use std::hash::{BuildHasher, Hasher, RandomState};

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use crate::origin::{Authority, AuthorityError, Origin, Scheme};

/// The authority of a CONNECT within which a request arrived.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// What the client connected to.
    pub(super) authority: Authority,
    /// `Https` if the client spoke TLS after its CONNECT.
    pub(super) scheme: Scheme,
    /// The client's SNI named another host; no request of this session is served.
    pub(super) misdirected: bool,
}

/// Marks an OPTIONS whose target is an authority alone: it goes on as `OPTIONS *` (RFC 9112 §3.2.4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Asterisk;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `CONNECT host:port`.
    Connect(Authority),
    /// A resource of an origin server.
    Origin(Origin),
    /// `OPTIONS *`, or an OPTIONS that may go no further: this proxy itself.
    Proxy,
}

/// Why a request is not served. Each maps to one status in `proxy/error.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the request target has no valid authority: {0}")]
    Authority(#[from] AuthorityError),
    #[error(
        "this is a proxy: it needs a request target that begins with http:// (set it as HTTP_PROXY, not as the address of the API)"
    )]
    OriginForm,
    #[error("only http and https are forwarded")]
    Scheme,
    #[error("exactly one valid Host field is required")]
    Host,
    #[error("the target of CONNECT is host:port and nothing else")]
    ConnectTarget,
    #[error("a CONNECT request has no content")]
    ConnectContent,
    #[error("the only transfer coding is chunked")]
    TransferCoding,
    #[error(
        "the path decides which credential the request gets, and holds `%`, `\\` or dot segments that could be read in two ways"
    )]
    Path,
    #[error("TRACE is not forwarded")]
    Trace,
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("the request has more fields than this proxy forwards")]
    TooManyFields,
    #[error("the content is larger than this proxy forwards")]
    ContentTooLarge,
    #[error("the request names another host than the CONNECT it came through")]
    Misdirected,
    #[error("the request has been through this proxy before")]
    Loop,
}

/// Reads what a request is for, and refuses whatever could be read in two ways.
///
/// # Errors
///
/// [`MessageError`]; nothing has been sent anywhere.
pub(super) fn target(parts: &Parts, session: Option<&Session>) -> Result<Target, MessageError> {
    if parts.method == Method::TRACE || parts.method.as_str() == "TRACK" {
        return Err(MessageError::Trace);
    }
    check_transfer_coding(&parts.headers)?;
    let host = host_field(parts)?;
    if let Some(session) = session {
        return inside(parts, session, host).map(Target::Origin);
    }
    if parts.method == Method::CONNECT {
        return connect(parts).map(Target::Connect);
    }
    if parts.uri.path() == "*" || is_last_hop(parts) {
        return Ok(Target::Proxy);
    }
    absolute(&parts.uri).map(Target::Origin)
}

/// Inside a session everything must agree with what the client connected to.
fn inside(parts: &Parts, session: &Session, host: Option<&str>) -> Result<Origin, MessageError> {
    if session.misdirected || parts.method == Method::CONNECT {
        return Err(MessageError::Misdirected);
    }
    let origin = Origin { scheme: session.scheme, authority: session.authority.clone() };
    if parts.uri.authority().is_some() && absolute(&parts.uri)? != origin {
        return Err(MessageError::Misdirected);
    }
    match host {
        Some(host) if !origin.authority.agrees_with(host, origin.scheme) => {
            Err(MessageError::Misdirected)
        }
        // In HTTP/2 the target has named the authority (RFC 9113 §8.3.1); HTTP/1.0 has no `Host`, and the
        // CONNECT has named it.
        None if parts.uri.authority().is_none() && parts.version != Version::HTTP_10 => {
            Err(MessageError::Host)
        }
        _ => Ok(origin),
    }
}

fn connect(parts: &Parts) -> Result<Authority, MessageError> {
    let announces = |length: &HeaderValue| length.as_bytes() != b"0";
    if parts.headers.contains_key(TRANSFER_ENCODING)
        || parts.headers.get(CONTENT_LENGTH).is_some_and(announces)
    {
        return Err(MessageError::ConnectContent);
    }
    // RFC 9112 §3.2.3: the authority form, where hyper takes the absolute one as well.
    if parts.uri.scheme().is_some() {
        return Err(MessageError::ConnectTarget);
    }
    let authority = parts.uri.authority().ok_or(AuthorityError::EmptyLabel)?;
    Ok(Authority::parse_requested(authority.as_str(), None)?)
}

fn absolute(uri: &Uri) -> Result<Origin, MessageError> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(MessageError::OriginForm);
    };
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(MessageError::Scheme),
    };
    let authority = Authority::parse_requested(authority.as_str(), Some(scheme.default_port()))?;
    Ok(Origin { scheme, authority })
}

/// At most one `Host`, and a valid one; HTTP/1.0 may leave it out (RFC 9112 §3.2). An empty one
/// counts as none, because the target names the host.
fn host_field(parts: &Parts) -> Result<Option<&str>, MessageError> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let Some(line) = lines.next() else {
        let required = parts.version == Version::HTTP_11;
        return if required { Err(MessageError::Host) } else { Ok(None) };
    };
    let host = line.to_str().map_err(|_| MessageError::Host)?;
    if lines.next().is_some() {
        return Err(MessageError::Host);
    }
    if host.is_empty() {
        return Ok(None);
    }
    // What the target says as well is read there.
    if parts.uri.authority().is_some_and(|authority| authority == host) {
        return Ok(Some(host));
    }
    Authority::parse_requested(host, Some(80)).map_err(|_| MessageError::Host)?;
    Ok(Some(host))
}

fn check_transfer_coding(fields: &HeaderMap) -> Result<(), MessageError> {
    match !fields.contains_key(TRANSFER_ENCODING) || is_chunked_once(fields) {
        true => Ok(()),
        false => Err(MessageError::TransferCoding),
    }
}

/// Is `chunked` the only transfer coding, said once? hyper frames by the last coding alone; what comes before
/// it would be passed on undecoded and unnamed.
pub(super) fn is_chunked_once(fields: &HeaderMap) -> bool {
    let mut lines = fields.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |line: &HeaderValue| line.as_bytes().eq_ignore_ascii_case(b"chunked");
    lines.next().is_some_and(is_chunked) && lines.next().is_none()
}

/// RFC 9110 §7.6.2: an OPTIONS with `Max-Forwards: 0` is answered by whoever gets it.
fn is_last_hop(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.get(MAX_FORWARDS).is_some_and(|left| left.as_bytes() == b"0")
}

/// This proxy's name in `Via` (RFC 9110 §7.6.3): with a part of its own, so that one bearerd behind
/// another is no loop.
#[derive(Clone, Debug)]
pub(super) struct Via {
    pseudonym: String,
    http_2: HeaderValue,
    http_11: HeaderValue,
    http_10: HeaderValue,
}

impl Via {
    pub(super) fn new() -> Self {
        let random = RandomState::new().build_hasher().finish();
        let pseudonym = format!("bearerd-{:08x}", random >> 32);
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}"))
                .expect("a version and a pseudonym are visible ASCII")
        };
        Self { http_2: value("2.0"), http_11: value("1.1"), http_10: value("1.0"), pseudonym }
    }

    /// Has the message been here before?
    pub(super) fn is_in(&self, fields: &HeaderMap) -> bool {
        fields.get_all(VIA).iter().any(|line| {
            let line = line.as_bytes();
            line.windows(self.pseudonym.len()).any(|part| part == self.pseudonym.as_bytes())
        })
    }

    fn add_to(&self, fields: &mut HeaderMap, received: Version) {
        let value = match received {
            Version::HTTP_10 => &self.http_10,
            Version::HTTP_2 => &self.http_2,
            _ => &self.http_11,
        };
        fields.append(VIA, value.clone());
    }
}

/// Makes a client's head fit for the origin server; the token is added after this.
pub(super) fn prepare_for_origin(parts: &mut Parts, origin: &Origin, via: &Via) {
    let wants_trailers = parts.headers.get(TE).is_some_and(|te| lists(te, "trailers"));
    remove_connection_fields(&mut parts.headers);
    if wants_trailers {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    match parts.version {
        Version::HTTP_2 => join_cookies(&mut parts.headers),
        // RFC 9110 §10.1.1.
        Version::HTTP_10 => drop(parts.headers.remove(EXPECT)),
        _ => {}
    }
    if parts.method == Method::OPTIONS {
        count_down(&mut parts.headers);
    }
    write_host(&mut parts.headers, origin);
    via.add_to(&mut parts.headers, parts.version);
    parts.version = Version::HTTP_11;
    let path = match parts.extensions.remove::<Asterisk>() {
        Some(Asterisk) => Some(PathAndQuery::from_static("*")),
        // Behind an authority a path may be empty, on its own it may not (RFC 9112 §3.2.1).
        None => parts.uri.path_and_query().filter(|target| target.as_str() != "/").cloned(),
    };
    parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
}

/// How many fields a head has by the time that it is sent on: HTTP/2 may split one `Cookie` into many lines.
pub(super) fn field_count(parts: &Parts) -> usize {
    let count = parts.headers.len();
    match parts.version {
        Version::HTTP_2 => count - parts.headers.get_all(COOKIE).iter().skip(1).count(),
        _ => count,
    }
}

/// Writes `Host` as the origin has it, unless the client did; there is one line at most by now.
fn write_host(fields: &mut HeaderMap, origin: &Origin) {
    if !fields.get(HOST).is_some_and(|host| origin.is_host_field(host.as_bytes())) {
        let host = HeaderValue::try_from(origin.host_field()).expect("a canonical host is ASCII");
        fields.insert(HOST, host);
    }
}

/// Makes an origin server's head fit for the client.
pub(super) fn prepare_for_client(fields: &mut HeaderMap, received: Version, via: &Via) {
    remove_connection_fields(fields);
    via.add_to(fields, received);
}

/// HTTP/2 may split `Cookie` into several lines, HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        fields.insert(COOKIE, cookie);
    }
}

fn count_down(fields: &mut HeaderMap) {
    let left = fields.get(MAX_FORWARDS).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    if let Some(left) = left {
        fields.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Fields that never go further than one connection, named by `Connection` or not.
const HOP_BY_HOP: [HeaderName; 8] = [
    PROXY_CONNECTION,
    KEEP_ALIVE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HTTP2_SETTINGS,
];

/// Fields that no `Connection` can name away: they belong to the message (RFC 9110 §7.6.1 allows
/// only options of the connection there), and losing one would change whom the origin server sees.
const END_TO_END: [HeaderName; 6] =
    [AUTHORIZATION, HOST, CONTENT_LENGTH, COOKIE, SET_COOKIE, TRANSFER_ENCODING];

/// RFC 9110 §7.6.1: every field that any `Connection` line names, and those that always are hop-by-hop.
pub(super) fn remove_connection_fields(fields: &mut HeaderMap) {
    let mut lines = fields.get_all(CONNECTION).iter().peekable();
    if lines.peek().is_some() {
        let named: Vec<HeaderName> = lines.flat_map(members).filter_map(field_name).collect();
        for name in named.iter().filter(|name| !END_TO_END.contains(name)) {
            fields.remove(name);
        }
        fields.remove(CONNECTION);
    }
    // Most messages have none of these; one look costs less than eight removals.
    if fields.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            fields.remove(name);
        }
    }
}

/// The members of a comma-separated field line.
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// The field that a member of `Connection` names. The options that nearly all messages have name none, or one that
/// is hop-by-hop anyway.
fn field_name(member: &[u8]) -> Option<HeaderName> {
    let is_usual =
        member.eq_ignore_ascii_case(b"keep-alive") || member.eq_ignore_ascii_case(b"close");
    if is_usual { None } else { HeaderName::from_bytes(member).ok() }
}

fn lists(line: &HeaderValue, wanted: &str) -> bool {
    members(line).any(|member| member.eq_ignore_ascii_case(wanted.as_bytes()))
}

#[cfg(test)]
#[path = "message/tests.rs"]
mod tests;
