//! Which header fields are forwarded, and how: pure functions.

use std::hash::{BuildHasher, Hasher, RandomState};

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use super::request_target::AsteriskForm;
use crate::origin::Origin;

/// This proxy's pseudonym in `Via` (RFC 9110 §7.6.3). It is random, so that a bearerd behind another
/// bearerd is not mistaken for a loop.
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

    /// Returns true if the message has passed through this proxy before.
    pub(super) fn is_present_in(&self, fields: &HeaderMap) -> bool {
        fields.get_all(VIA).iter().any(|line| {
            let line = line.as_bytes();
            line.windows(self.pseudonym.len()).any(|part| part == self.pseudonym.as_bytes())
        })
    }

    fn append_to(&self, fields: &mut HeaderMap, received: Version) {
        let value = match received {
            Version::HTTP_10 => &self.http_10,
            Version::HTTP_2 => &self.http_2,
            _ => &self.http_11,
        };
        fields.append(VIA, value.clone());
    }
}

/// Converts a client's request head for the origin server, in origin-form. The token is added later.
pub(super) fn prepare_for_origin(parts: &mut Parts, origin: &Origin, via: &Via) {
    let wants_trailers = parts.headers.get(TE).is_some_and(|te| has_member(te, "trailers"));
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
        decrement_max_forwards(&mut parts.headers);
    }
    write_host(&mut parts.headers, origin);
    via.append_to(&mut parts.headers, parts.version);
    parts.version = Version::HTTP_11;
    let path = match parts.extensions.remove::<AsteriskForm>() {
        Some(AsteriskForm) => Some(PathAndQuery::from_static("*")),
        // In absolute-form the path may be empty, in origin-form it may not (RFC 9112 §3.2.1).
        None => parts.uri.path_and_query().filter(|target| target.as_str() != "/").cloned(),
    };
    parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
}

/// Returns the number of fields as they will be forwarded: HTTP/2 may split `Cookie` into many lines,
/// which are joined.
pub(super) fn field_count(parts: &Parts) -> usize {
    let count = parts.headers.len();
    match parts.version {
        Version::HTTP_2 => count - parts.headers.get_all(COOKIE).iter().skip(1).count(),
        _ => count,
    }
}

/// Sets `Host` to the origin's authority, unless the client's value is equivalent. There is at most one
/// line at this point.
fn write_host(fields: &mut HeaderMap, origin: &Origin) {
    if !fields.get(HOST).is_some_and(|host| origin.is_host_field(host.as_bytes())) {
        let host = HeaderValue::try_from(origin.host_field()).expect("a canonical host is ASCII");
        fields.insert(HOST, host);
    }
}

/// Converts an origin server's response head for the client.
pub(super) fn prepare_for_client(fields: &mut HeaderMap, received: Version, via: &Via) {
    remove_connection_fields(fields);
    via.append_to(fields, received);
}

/// Joins the lines of `Cookie`. HTTP/2 may split it, HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        fields.insert(COOKIE, cookie);
    }
}

/// Decrements `Max-Forwards` (RFC 9110 §7.6.2).
fn decrement_max_forwards(fields: &mut HeaderMap) {
    let left = fields.get(MAX_FORWARDS).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    if let Some(left) = left {
        fields.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Fields that are hop-by-hop even if `Connection` does not list them.
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

/// Fields that are forwarded even if `Connection` lists them. They belong to the message, while RFC 9110
/// §7.6.1 allows only connection options there, and without one of them the origin server would see
/// another request.
const END_TO_END: [HeaderName; 6] =
    [AUTHORIZATION, HOST, CONTENT_LENGTH, COOKIE, SET_COOKIE, TRANSFER_ENCODING];

/// Removes every field that a `Connection` line lists, and those that are always hop-by-hop
/// (RFC 9110 §7.6.1).
pub(super) fn remove_connection_fields(fields: &mut HeaderMap) {
    let mut lines = fields.get_all(CONNECTION).iter().peekable();
    if lines.peek().is_some() {
        let listed: Vec<HeaderName> = lines.flat_map(members).filter_map(field_name).collect();
        for name in listed.iter().filter(|name| !END_TO_END.contains(name)) {
            fields.remove(name);
        }
        fields.remove(CONNECTION);
    }
    // Most messages have none of these, and one pass costs less than eight removals.
    if fields.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            fields.remove(name);
        }
    }
}

/// Returns the members of a comma-separated field line.
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Returns the field that a member of `Connection` names. The options `keep-alive` and `close`, which
/// nearly all messages have, name no field or one that is hop-by-hop anyway.
fn field_name(member: &[u8]) -> Option<HeaderName> {
    let is_usual =
        member.eq_ignore_ascii_case(b"keep-alive") || member.eq_ignore_ascii_case(b"close");
    if is_usual { None } else { HeaderName::from_bytes(member).ok() }
}

/// Returns true if the comma-separated list `line` has the member `wanted`, in any case.
fn has_member(line: &HeaderValue, wanted: &str) -> bool {
    members(line).any(|member| member.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Returns true if `chunked` is the only transfer coding and is listed once. hyper looks at the last
/// coding only: codings before it would be forwarded undecoded and undeclared.
pub(super) fn is_chunked_once(fields: &HeaderMap) -> bool {
    let mut lines = fields.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |line: &HeaderValue| line.as_bytes().eq_ignore_ascii_case(b"chunked");
    lines.next().is_some_and(is_chunked) && lines.next().is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use http::Request;

    use super::*;
    use crate::origin::{Authority, Scheme};

    fn parts(uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn prepared(fields: &[(&str, &str)]) -> Parts {
        let mut parts = parts("http://api.test:8080/a/../b?x=%2F", fields);
        let origin = Origin {
            scheme: Scheme::Https,
            authority: Authority::parse("api.test:8080", None).unwrap(),
        };
        prepare_for_origin(&mut parts, &origin, &Via::new());
        parts
    }

    fn names(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_fields_are_removed_and_all_others_are_forwarded() {
        let parts = prepared(&[
            ("host", "other"),
            ("connection", "close, X-A"),
            ("connection", "x-b"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("cookie", "c"),
        ]);
        assert_eq!(names(&parts.headers), ["cookie", "host", "te", "via", "x-c"]);
        assert_eq!(parts.headers[TE], "trailers");
        assert_eq!(parts.headers[HOST], "api.test:8080");
        assert_eq!(parts.uri, "/a/../b?x=%2F");
    }

    #[test]
    fn a_connection_field_cannot_remove_an_end_to_end_field() {
        let parts = prepared(&[
            ("host", "x"),
            ("connection", "authorization, host, content-length, cookie"),
            ("authorization", "Basic eA=="),
            ("content-length", "3"),
            ("cookie", "c"),
        ]);
        assert_eq!(
            names(&parts.headers),
            ["authorization", "content-length", "cookie", "host", "via"]
        );
    }

    #[test]
    fn via_is_appended_and_recognised() {
        let (via, other) = (Via::new(), Via::new());
        let mut fields = HeaderMap::new();
        fields.append(VIA, HeaderValue::from_static("1.0 fred"));
        assert!(!via.is_present_in(&fields));
        other.append_to(&mut fields, Version::HTTP_11);
        assert!(!via.is_present_in(&fields), "another bearerd was mistaken for a loop");
        via.append_to(&mut fields, Version::HTTP_10);
        assert!(via.is_present_in(&fields));
        assert_eq!(fields.get_all(VIA).iter().count(), 3);
    }
}
