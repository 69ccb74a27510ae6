#![allow(clippy::unwrap_used)]
use http::header::{SET_COOKIE, TE};

use super::*;

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in lines {
        fields.append(*name, HeaderValue::from_static(value));
    }
    fields
}

/// What says where content ends: `Content-Length`, `Transfer-Encoding`, `Trailer`.
fn framing(fields: &HeaderMap) -> (Option<&str>, Option<&str>, Option<&str>) {
    let field = |name| fields.get(name).map(|value| value.to_str().unwrap());
    assert!(fields.keys().all(|name| fields.get_all(name).iter().count() == 1), "{fields:?}");
    (field(CONTENT_LENGTH), field(TRANSFER_ENCODING), field(TRAILER))
}

/// Method by what the client's version said of its content, by the version of the next connection. What
/// the client said is not looked at but for a length of nothing.
#[test]
fn requests_are_framed_by_their_content_whatever_method_and_version_they_come_in() {
    use Content::{Known, None as Nothing, Unknown};
    let methods = ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT", "PATCH", "PROPFIND", "QUERY"];
    // What HTTP/1.1 or HTTP/2 brings: no word, a length, chunks, both lines that a gateway left.
    let incoming: [&[(&str, &str)]; 5] = [
        &[],
        &[("content-length", "0")],
        &[("content-length", "5")],
        &[("transfer-encoding", "chunked"), ("trailer", "x-sum, authorization")],
        &[("content-length", "5"), ("content-length", "5")],
    ];
    for method in methods {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let wants_length = matches!(method.as_str(), "POST" | "PUT" | "PATCH");
        for lines in incoming {
            let gave_length = lines.iter().any(|(name, _)| *name == "content-length");
            let trailer = lines.iter().any(|(name, _)| *name == "trailer").then_some("x-sum");
            for (version, content, expected) in [
                (Version::HTTP_11, Nothing, (zero(wants_length || gave_length), None, None)),
                (Version::HTTP_2, Nothing, (zero(wants_length || gave_length), None, None)),
                (Version::HTTP_11, Known(7), (Some("7"), None, None)),
                (Version::HTTP_2, Known(7), (Some("7"), None, trailer)),
                (Version::HTTP_11, Unknown, (None, Some("chunked"), trailer)),
                (Version::HTTP_2, Unknown, (None, None, trailer)),
            ] {
                let mut head = fields(lines);
                frame_request(&method, version, content, &mut head);
                assert_eq!(framing(&head), expected, "{method} {version:?} {content:?} {lines:?}");
            }
        }
    }
}

fn zero(is_said: bool) -> Option<&'static str> {
    is_said.then_some("0")
}

#[test]
fn responses_have_one_length_that_everybody_reads_alike() {
    let ok = StatusCode::OK;
    for (method, status, lines, expected) in [
        (Method::GET, ok, &["2"][..], Ok(Some("2"))),
        (Method::GET, ok, &["2, 2"], Ok(Some("2"))),
        (Method::GET, ok, &["2", "2"], Ok(Some("2"))),
        (Method::GET, ok, &["2 , 02"], Ok(Some("2"))),
        (Method::GET, ok, &["2, 3"], Err(FramingError::Lengths)),
        (Method::GET, ok, &["+2, 2"], Err(FramingError::Lengths)),
        (Method::GET, ok, &["2,"], Err(FramingError::Lengths)),
        (Method::GET, ok, &[""], Err(FramingError::Lengths)),
        (Method::GET, ok, &["99999999999999999999, 1"], Err(FramingError::Lengths)),
        // What has no content has nothing to be misread.
        (Method::HEAD, ok, &["2, 3"], Ok(None)),
        (Method::HEAD, ok, &["2, 2"], Ok(Some("2"))),
        (Method::GET, StatusCode::NOT_MODIFIED, &["x"], Ok(None)),
        (Method::GET, StatusCode::NO_CONTENT, &["2"], Ok(None)),
        (Method::GET, ok, &[], Ok(None)),
    ] {
        let mut head = HeaderMap::new();
        for line in lines {
            head.append(CONTENT_LENGTH, HeaderValue::from_static(line));
        }
        let result = normalise_response(&method, Version::HTTP_11, status, &mut head);
        assert_eq!(result.map(|()| framing(&head).0), expected, "{method} {status} {lines:?}");
    }
}

#[test]
fn responses_with_two_ends_are_refused() {
    use FramingError::{Both, TransferCoding};
    for (version, lines, expected) in [
        (Version::HTTP_11, &[("transfer-encoding", "chunked")][..], Ok(())),
        (Version::HTTP_11, &[("transfer-encoding", "Chunked")], Ok(())),
        (Version::HTTP_10, &[("transfer-encoding", "chunked")], Err(TransferCoding)),
        (Version::HTTP_11, &[("transfer-encoding", "gzip, chunked")], Err(TransferCoding)),
        (Version::HTTP_11, &[("transfer-encoding", "x")], Err(TransferCoding)),
        (
            Version::HTTP_11,
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            Err(TransferCoding),
        ),
        (Version::HTTP_11, &[("transfer-encoding", "chunked"), ("content-length", "3")], Err(Both)),
    ] {
        let result = normalise_response(&Method::GET, version, StatusCode::OK, &mut fields(lines));
        assert_eq!(result, expected, "{version:?} {lines:?}");
    }
}

#[test]
fn trailers_of_grpc_are_announced() {
    let mut head = fields(&[("content-type", "application/grpc+proto")]);
    frame_request(&Method::POST, Version::HTTP_11, Content::Unknown, &mut head);
    assert_eq!(framing(&head).2, Some(GRPC_TRAILERS));
    let mut head = fields(&[("content-type", "application/grpc")]);
    normalise_response(&Method::POST, Version::HTTP_2, StatusCode::OK, &mut head).unwrap();
    assert_eq!(framing(&head).2, Some(GRPC_TRAILERS));
    // In HTTP/1.1 there are some where there are chunks.
    for (field, expected) in [("transfer-encoding", Some(GRPC_TRAILERS)), ("content-length", None)]
    {
        let value = if expected.is_some() { "chunked" } else { "3" };
        let mut head = fields(&[("content-type", "application/grpc"), (field, value)]);
        normalise_response(&Method::POST, Version::HTTP_11, StatusCode::OK, &mut head).unwrap();
        assert_eq!(framing(&head).2, expected, "{field}");
    }
}

#[test]
fn no_trailer_says_what_only_a_head_may() {
    let mut trailers = fields(
        &[
            ("authorization", "Bearer stolen"),
            ("Cookie", "a=b"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
            ("x-forwarded-for", "1.2.3.4"),
            ("grpc-status", "0"),
            ("x-checksum", "1"),
            ("etag", "\"a\""),
            ("server-timing", "a"),
        ]
        .map(|(name, value)| (if name == "Cookie" { "cookie" } else { name }, value)),
    );
    for name in [SET_COOKIE, TE] {
        trailers.insert(name, HeaderValue::from_static("x"));
    }
    clean_trailers(&mut trailers);
    let mut names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["etag", "grpc-status", "server-timing", "x-checksum"]);
}

#[test]
fn an_expectation_is_read_in_any_case() {
    for (value, expected) in [("100-continue", true), ("100-Continue", true), ("x", false)] {
        assert_eq!(expects_continue(&fields(&[("expect", value)])), expected);
    }
}

/// What comes out, and the heads of interim responses.
fn cleaned(bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut cleaner, mut out, mut interim) = (HeadCleaner::default(), Vec::new(), Vec::new());
    cleaner.expect_head();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        cleaner.clean(&mut piece, |head| interim.push(head.to_vec()));
        out.extend(piece);
    }
    (out, interim)
}

#[test]
fn interim_heads_are_told_one_by_one_and_the_response_is_not() {
    let bytes =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hi\r\nA: \x02\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\
                  HTTP/1.1 103 content\r\n\r\n";
    for piece in [1, 2, 7, 1000] {
        let (_, interim) = cleaned(bytes, piece);
        assert_eq!(
            interim,
            [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"HTTP/1.1 103 Hi\r\nA:  \r\n\r\n"],
            "{piece}"
        );
    }
}

#[test]
fn control_characters_become_spaces_in_heads_and_stay_in_content() {
    for (before, after) in [
        (
            &b"HTTP/1.1 200 O\x01K\r\nA: b\0c\x7f\r\n\r\n\0\x01"[..],
            &b"HTTP/1.1 200 O K\r\nA: b c \r\n\r\n\0\x01"[..],
        ),
        (b"HTTP/1.1 200 OK\nA: \x0bb\n\n\x0b", b"HTTP/1.1 200 OK\nA:  b\n\n\x0b"),
        // Interim responses are heads as well; 101 is not interim.
        (
            b"HTTP/1.1 103 Hi\r\nA: \x02\r\n\r\nHTTP/1.1 200 OK\r\nB: \x03\r\n\r\n\x04",
            b"HTTP/1.1 103 Hi\r\nA:  \r\n\r\nHTTP/1.1 200 OK\r\nB:  \r\n\r\n\x04",
        ),
        (b"HTTP/1.1 101 Up\r\n\r\n\x05", b"HTTP/1.1 101 Up\r\n\r\n\x05"),
        (b"HTTP/1.1 200 OK\r\nA:\tb \xe9\r\n\r\n", b"HTTP/1.1 200 OK\r\nA:\tb \xe9\r\n\r\n"),
    ] {
        for piece in [1, 2, 7, 1000] {
            assert_eq!(cleaned(before, piece).0, after, "{piece}");
        }
    }
}
