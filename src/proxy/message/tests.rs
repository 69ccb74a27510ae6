//! The rules as tables.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use http::Request;

use super::*;

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut builder = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn session(authority: &str, scheme: Scheme) -> Session {
    Session { authority: Authority::parse(authority, None).unwrap(), scheme, misdirected: false }
}

fn origin_of(parts: &Parts, session: Option<&Session>) -> Result<String, MessageError> {
    match target(parts, session)? {
        Target::Origin(origin) => Ok(origin.to_string()),
        other => Ok(format!("{other:?}")),
    }
}

#[test]
fn the_target_names_the_origin_and_the_host_field_does_not() {
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
fn ambiguous_and_foreign_targets_are_refused() {
    use MessageError::*;
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
        ("CONNECT", "api.test", vec![("host", "api.test")], Authority(AuthorityError::MissingPort)),
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
        assert_eq!(target(&parts, None), Err(error), "{method} {uri}");
    }
}

#[test]
fn connect_and_options_have_targets_of_their_own() {
    let connect = parts("CONNECT", "API.test:443", &[("host", "evil.test")]);
    let authority = Authority::parse("api.test:443", None).unwrap();
    assert_eq!(target(&connect, None), Ok(Target::Connect(authority)));
    assert_eq!(target(&parts("OPTIONS", "*", &[("host", "x")]), None), Ok(Target::Proxy));
    let last = parts("OPTIONS", "http://a.test/", &[("host", "a.test"), ("max-forwards", "0")]);
    assert_eq!(target(&last, None), Ok(Target::Proxy));
}

#[test]
fn inside_a_session_everything_agrees_with_the_connect() {
    let tls = session("api.test:443", Scheme::Https);
    let plain = session("api.test:80", Scheme::Http);
    let misdirected = Session { misdirected: true, ..tls.clone() };
    let ok = "https://api.test:443";
    for (session, uri, host, expected) in [
        (&tls, "/x", "api.test", Ok(ok)),
        (&tls, "/x", "API.TEST:443", Ok(ok)),
        (&tls, "https://api.test/x", "api.test", Ok(ok)),
        (&plain, "/x", "api.test", Ok("http://api.test:80")),
        (&tls, "/x", "evil.test", Err(MessageError::Misdirected)),
        (&tls, "/x", "api.test:444", Err(MessageError::Misdirected)),
        (&tls, "/x", "api.test:80", Err(MessageError::Misdirected)),
        (&tls, "https://evil.test/x", "api.test", Err(MessageError::Misdirected)),
        (&tls, "http://api.test/x", "api.test", Err(MessageError::Misdirected)),
        (&misdirected, "/x", "api.test", Err(MessageError::Misdirected)),
    ] {
        let origin = origin_of(&parts("GET", uri, &[("host", host)]), Some(session));
        assert_eq!(origin.as_deref(), expected.as_deref(), "{uri} {host}");
    }
}

fn prepared(fields: &[(&str, &str)]) -> Parts {
    let mut parts = parts("GET", "http://api.test:8080/a/../b?x=%2F", fields);
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
fn every_hop_by_hop_field_stays_here_and_nothing_else() {
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
fn a_connection_field_cannot_name_an_end_to_end_field_away() {
    let parts = prepared(&[
        ("host", "x"),
        ("connection", "authorization, host, content-length, cookie"),
        ("authorization", "Basic eA=="),
        ("content-length", "3"),
        ("cookie", "c"),
    ]);
    assert_eq!(names(&parts.headers), ["authorization", "content-length", "cookie", "host", "via"]);
}

#[test]
fn via_is_added_to_what_is_there_and_recognised_again() {
    let (via, other) = (Via::new(), Via::new());
    let mut fields = HeaderMap::new();
    fields.append(VIA, HeaderValue::from_static("1.0 fred"));
    assert!(!via.is_in(&fields));
    other.add_to(&mut fields, Version::HTTP_11);
    assert!(!via.is_in(&fields), "another bearerd is no loop");
    via.add_to(&mut fields, Version::HTTP_10);
    assert!(via.is_in(&fields));
    assert_eq!(fields.get_all(VIA).iter().count(), 3);
}
