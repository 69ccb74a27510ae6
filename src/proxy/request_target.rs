//! What a request is for.
//!
//! The target is read once ([`request_target`]). The `Host` field is checked against it and then
//! rewritten, so that policy and origin server cannot disagree about it.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, MAX_FORWARDS, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Uri, Version};

use super::fields::is_chunked_once;
use crate::origin::{Authority, AuthorityError, Origin, Scheme};

/// The CONNECT through which a request arrived.
#[derive(Clone, Debug)]
pub(super) struct ConnectSession {
    /// The target of the CONNECT.
    pub(super) authority: Authority,
    /// `Https` if the client uses TLS after its CONNECT.
    pub(super) scheme: Scheme,
    /// The client's SNI named another host, so no request of this session is served.
    pub(super) is_misdirected: bool,
}

/// Marks an OPTIONS request whose target is an authority alone. It is forwarded in asterisk-form,
/// `OPTIONS *` (RFC 9112 §3.2.4).
#[derive(Clone, Copy, Debug)]
pub(super) struct AsteriskForm;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestTarget {
    /// `CONNECT host:port`.
    Connect(Authority),
    /// A resource of an origin server.
    Origin(Origin),
    /// The proxy itself: `OPTIONS *`, or an OPTIONS that must not be forwarded.
    Proxy,
}

/// Why a request is refused. Each reason maps to one status in `proxy/error.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestRefusal {
    #[error("the request target has no valid authority: {0}")]
    Authority(#[from] AuthorityError),
    #[error(
        "this is a proxy: the request target must begin with http:// (set its address as HTTP_PROXY, not as the address of the API)"
    )]
    OriginForm,
    #[error("only http and https are forwarded")]
    Scheme,
    #[error("exactly one valid Host field is required")]
    Host,
    #[error("the target of CONNECT must be host:port")]
    ConnectTarget,
    #[error("a CONNECT request must not have content")]
    ConnectContent,
    #[error("chunked is the only supported transfer coding")]
    TransferCoding,
    #[error(
        "the path determines the credential of the request, and contains `%`, `\\` or dot segments that could be interpreted in two ways"
    )]
    Path,
    #[error("TRACE is not forwarded")]
    Trace,
    #[error("the request target is longer than limits.request_line allows")]
    TargetTooLong,
    #[error("the request has more fields than limits.header_count allows")]
    TooManyFields,
    #[error("the content is larger than limits.body_bytes allows")]
    ContentTooLarge,
    #[error("the request names another host than the CONNECT through which it arrived")]
    Misdirected,
    #[error("the request has passed through this proxy before")]
    Loop,
}

/// Determines what a request is for. Ambiguous requests are refused.
///
/// # Errors
///
/// [`RequestRefusal`] if the request must not be served.
pub(super) fn request_target(
    parts: &Parts,
    session: Option<&ConnectSession>,
) -> Result<RequestTarget, RequestRefusal> {
    if parts.method == Method::TRACE || parts.method.as_str() == "TRACK" {
        return Err(RequestRefusal::Trace);
    }
    check_transfer_coding(&parts.headers)?;
    let host = host_field(parts)?;
    if let Some(session) = session {
        return session_origin(parts, session, host).map(RequestTarget::Origin);
    }
    if parts.method == Method::CONNECT {
        return connect_authority(parts).map(RequestTarget::Connect);
    }
    if parts.uri.path() == "*" || is_last_hop(parts) {
        return Ok(RequestTarget::Proxy);
    }
    absolute_form_origin(&parts.uri).map(RequestTarget::Origin)
}

/// Returns the origin of a session. Target and `Host` must agree with the CONNECT.
fn session_origin(
    parts: &Parts,
    session: &ConnectSession,
    host: Option<&str>,
) -> Result<Origin, RequestRefusal> {
    if session.is_misdirected || parts.method == Method::CONNECT {
        return Err(RequestRefusal::Misdirected);
    }
    let origin = Origin { scheme: session.scheme, authority: session.authority.clone() };
    if parts.uri.authority().is_some() && absolute_form_origin(&parts.uri)? != origin {
        return Err(RequestRefusal::Misdirected);
    }
    match host {
        Some(host) if !origin.authority.agrees_with(host, origin.scheme) => {
            Err(RequestRefusal::Misdirected)
        }
        // `Host` is optional in HTTP/2, where the target names the authority (RFC 9113 §8.3.1), and in
        // HTTP/1.0, where the CONNECT has named it.
        None if parts.uri.authority().is_none() && parts.version != Version::HTTP_10 => {
            Err(RequestRefusal::Host)
        }
        _ => Ok(origin),
    }
}

fn connect_authority(parts: &Parts) -> Result<Authority, RequestRefusal> {
    let has_content = |length: &HeaderValue| length.as_bytes() != b"0";
    if parts.headers.contains_key(TRANSFER_ENCODING)
        || parts.headers.get(CONTENT_LENGTH).is_some_and(has_content)
    {
        return Err(RequestRefusal::ConnectContent);
    }
    // The target must be in authority-form (RFC 9112 §3.2.3); hyper accepts absolute-form as well.
    if parts.uri.scheme().is_some() {
        return Err(RequestRefusal::ConnectTarget);
    }
    let authority = parts.uri.authority().ok_or(AuthorityError::EmptyLabel)?;
    Ok(Authority::parse_requested(authority.as_str(), None)?)
}

fn absolute_form_origin(uri: &Uri) -> Result<Origin, RequestRefusal> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(RequestRefusal::OriginForm);
    };
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(RequestRefusal::Scheme),
    };
    let authority = Authority::parse_requested(authority.as_str(), Some(scheme.default_port()))?;
    Ok(Origin { scheme, authority })
}

/// Returns the `Host` field. It must be valid and occur at most once; HTTP/1.0 may omit it (RFC 9112
/// §3.2). An empty one counts as absent, because the target names the host.
fn host_field(parts: &Parts) -> Result<Option<&str>, RequestRefusal> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let Some(line) = lines.next() else {
        let required = parts.version == Version::HTTP_11;
        return if required { Err(RequestRefusal::Host) } else { Ok(None) };
    };
    let host = line.to_str().map_err(|_| RequestRefusal::Host)?;
    if lines.next().is_some() {
        return Err(RequestRefusal::Host);
    }
    if host.is_empty() {
        return Ok(None);
    }
    // If it equals the target's authority, it is validated there.
    if parts.uri.authority().is_some_and(|authority| authority == host) {
        return Ok(Some(host));
    }
    Authority::parse_requested(host, Some(80)).map_err(|_| RequestRefusal::Host)?;
    Ok(Some(host))
}

fn check_transfer_coding(fields: &HeaderMap) -> Result<(), RequestRefusal> {
    match !fields.contains_key(TRANSFER_ENCODING) || is_chunked_once(fields) {
        true => Ok(()),
        false => Err(RequestRefusal::TransferCoding),
    }
}

/// Returns true for an OPTIONS request with `Max-Forwards: 0`, which its recipient must answer
/// (RFC 9110 §7.6.2).
fn is_last_hop(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.get(MAX_FORWARDS).is_some_and(|left| left.as_bytes() == b"0")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn session(authority: &str, scheme: Scheme) -> ConnectSession {
        ConnectSession {
            authority: Authority::parse(authority, None).unwrap(),
            scheme,
            is_misdirected: false,
        }
    }

    fn origin_of(
        parts: &Parts,
        session: Option<&ConnectSession>,
    ) -> Result<String, RequestRefusal> {
        match request_target(parts, session)? {
            RequestTarget::Origin(origin) => Ok(origin.to_string()),
            other => Ok(format!("{other:?}")),
        }
    }

    #[test]
    fn the_target_determines_the_origin_and_the_host_field_does_not() {
        for (uri, host, expected) in [
            ("http://api.test/x", "api.test", "http://api.test:80"),
            ("http://API.test:8080/x", "evil.test", "http://api.test:8080"),
            ("https://api.test/x", "api.test", "https://api.test:443"),
            ("http://[::1]:81/", "x", "http://[::1]:81"),
            ("http://api.test", "", "http://api.test:80"),
        ] {
            let parts = parts("GET", uri, &[("host", host)]);
            assert_eq!(origin_of(&parts, None).unwrap(), expected);
        }
    }

    #[test]
    fn ambiguous_and_unsupported_targets_are_refused() {
        use RequestRefusal::*;
        for (method, uri, fields, error) in [
            ("GET", "/x", vec![("host", "api.test")], OriginForm),
            ("GET", "//api.test/x", vec![("host", "api.test")], OriginForm),
            ("GET", "ftp://api.test/x", vec![("host", "api.test")], Scheme),
            (
                "GET",
                "http://u@api.test/",
                vec![("host", "api.test")],
                Authority(AuthorityError::UserInfo),
            ),
            ("GET", "http://api.test/", vec![], Host),
            ("GET", "http://api.test/", vec![("host", "api.test"), ("host", "api.test")], Host),
            ("GET", "http://api.test/", vec![("host", "api.test, api.test")], Host),
            ("GET", "http://api.test/", vec![("host", "a:x@evil.test")], Host),
            ("TRACE", "http://api.test/", vec![("host", "api.test")], Trace),
            ("TRACK", "http://api.test/", vec![("host", "api.test")], Trace),
            (
                "CONNECT",
                "api.test",
                vec![("host", "api.test")],
                Authority(AuthorityError::MissingPort),
            ),
            (
                "CONNECT",
                "api.test:443",
                vec![("host", "api.test"), ("content-length", "10")],
                ConnectContent,
            ),
            (
                "CONNECT",
                "api.test:443",
                vec![("host", "api.test"), ("transfer-encoding", "chunked")],
                ConnectContent,
            ),
            (
                "POST",
                "http://api.test/",
                vec![("host", "api.test"), ("transfer-encoding", "gzip, chunked")],
                TransferCoding,
            ),
            (
                "POST",
                "http://api.test/",
                vec![
                    ("host", "api.test"),
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                TransferCoding,
            ),
        ] {
            let parts = parts(method, uri, &fields);
            assert_eq!(request_target(&parts, None), Err(error), "{method} {uri}");
        }
    }

    #[test]
    fn connect_and_options_have_special_targets() {
        let connect = parts("CONNECT", "API.test:443", &[("host", "evil.test")]);
        let authority = Authority::parse("api.test:443", None).unwrap();
        assert_eq!(request_target(&connect, None), Ok(RequestTarget::Connect(authority)));
        assert_eq!(
            request_target(&parts("OPTIONS", "*", &[("host", "x")]), None),
            Ok(RequestTarget::Proxy)
        );
        let last = parts("OPTIONS", "http://a.test/", &[("host", "a.test"), ("max-forwards", "0")]);
        assert_eq!(request_target(&last, None), Ok(RequestTarget::Proxy));
    }

    #[test]
    fn requests_of_a_session_must_agree_with_the_connect() {
        let tls = session("api.test:443", Scheme::Https);
        let plain = session("api.test:80", Scheme::Http);
        let misdirected = ConnectSession { is_misdirected: true, ..tls.clone() };
        let ok = "https://api.test:443";
        for (session, uri, host, expected) in [
            (&tls, "/x", "api.test", Ok(ok)),
            (&tls, "/x", "API.TEST:443", Ok(ok)),
            (&tls, "https://api.test/x", "api.test", Ok(ok)),
            (&plain, "/x", "api.test", Ok("http://api.test:80")),
            (&tls, "/x", "evil.test", Err(RequestRefusal::Misdirected)),
            (&tls, "/x", "api.test:444", Err(RequestRefusal::Misdirected)),
            (&tls, "/x", "api.test:80", Err(RequestRefusal::Misdirected)),
            (&tls, "https://evil.test/x", "api.test", Err(RequestRefusal::Misdirected)),
            (&tls, "http://api.test/x", "api.test", Err(RequestRefusal::Misdirected)),
            (&misdirected, "/x", "api.test", Err(RequestRefusal::Misdirected)),
        ] {
            let origin = origin_of(&parts("GET", uri, &[("host", host)]), Some(session));
            assert_eq!(origin.as_deref(), expected.as_deref(), "{uri} {host}");
        }
    }
}
