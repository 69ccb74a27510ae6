//! How content is delimited: pure functions on message heads (RFC 9112 §6, RFC 9113 §8.1).
//!
//! bearerd does not forward the fields that delimit content as they came. It writes a request's fields
//! for the connection on which the request is sent ([`frame_request`]), and rewrites a response's fields
//! in the one form that all recipients interpret alike ([`normalise_response`]). It does not depend on
//! hyper's defaults for methods and versions.

use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};

use super::fields::is_chunked_once;
use super::trailers::announce_trailers;

/// What is known about the length of a request's content before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentLength {
    /// There is no content.
    None,
    /// The length in bytes.
    Known(u64),
    /// The length is known only at the end.
    Unknown,
}

/// Writes the fields that delimit a request's content on a connection of `version`.
///
/// If there is no content, a `Content-Length` that the client sent becomes `0`, because some servers
/// require one even with methods that define no content.
pub(super) fn frame_request(
    method: &Method,
    version: Version,
    content: ContentLength,
    fields: &mut HeaderMap,
) {
    let has_length = fields.remove(CONTENT_LENGTH).is_some();
    fields.remove(TRANSFER_ENCODING);
    match content {
        ContentLength::None if has_length || expects_content(method) => {
            fields.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        ContentLength::None => {}
        ContentLength::Known(length) => {
            fields.insert(CONTENT_LENGTH, length.into());
        }
        ContentLength::Unknown if version == Version::HTTP_2 => {}
        ContentLength::Unknown => {
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    // Trailers require content, and in HTTP/1.1 the chunked coding.
    let may_have_trailers = match version {
        Version::HTTP_2 => content != ContentLength::None,
        _ => content == ContentLength::Unknown,
    };
    match may_have_trailers {
        true => announce_trailers(fields),
        false => drop(fields.remove(TRAILER)),
    }
}

/// Returns true for methods whose requests usually have content: its absence must be stated
/// (RFC 9110 §8.6).
fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Returns true if a response to `method` with `status` can have content (RFC 9110 §6.4.1).
pub(super) fn has_content(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && !status.is_informational()
}

/// Why the end of a response's content is ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FramingError {
    #[error("the transfer coding is not chunked")]
    TransferCoding,
    #[error("the response has both Content-Length and Transfer-Encoding")]
    Both,
    #[error("the values of Content-Length differ or are invalid")]
    Lengths,
}

/// Rewrites the framing of a response in the one form that all clients interpret alike: a single
/// `Content-Length` in decimal digits, or none. RFC 9112 §6.3 allows a proxy to merge identical values.
///
/// # Errors
///
/// [`FramingError`] if two recipients could disagree about where the content ends.
pub(super) fn normalise_response(
    method: &Method,
    version: Version,
    status: StatusCode,
    fields: &mut HeaderMap,
) -> Result<(), FramingError> {
    let is_chunked = fields.contains_key(TRANSFER_ENCODING);
    if is_chunked {
        if version != Version::HTTP_11 || !is_chunked_once(fields) {
            return Err(FramingError::TransferCoding);
        }
        if fields.contains_key(CONTENT_LENGTH) {
            return Err(FramingError::Both);
        }
    }
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6.
        fields.remove(CONTENT_LENGTH);
    }
    let mut lines = fields.get_all(CONTENT_LENGTH).iter();
    if let Some(given) = lines.next() {
        let is_one = given.as_bytes().iter().all(u8::is_ascii_digit) && lines.next().is_none();
        if !is_one || given.is_empty() {
            match content_length(fields) {
                Some(length) => fields.insert(CONTENT_LENGTH, length.into()),
                None if has_content(method, status) => return Err(FramingError::Lengths),
                None => fields.remove(CONTENT_LENGTH),
            };
        }
    }
    if is_chunked || version == Version::HTTP_2 {
        announce_trailers(fields);
    }
    Ok(())
}

/// Returns the length on which all lines and members of `Content-Length` agree; `None` if they differ or
/// one is invalid.
pub(super) fn content_length(fields: &HeaderMap) -> Option<u64> {
    let lines = fields.get_all(CONTENT_LENGTH).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut agreed = None;
    for member in members {
        let length = parse_digits(member.trim_ascii())?;
        if agreed.is_some_and(|agreed| agreed != length) {
            return None;
        }
        agreed = Some(length);
    }
    agreed
}

fn parse_digits(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// Returns true if the sender waits for 100 (Continue) before it sends content (RFC 9110 §10.1.1).
pub(super) fn expects_continue(fields: &HeaderMap) -> bool {
    fields.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proxy::trailers::GRPC_TRAILERS;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_static(value));
        }
        fields
    }

    /// The framing fields: `Content-Length`, `Transfer-Encoding`, `Trailer`.
    fn framing(fields: &HeaderMap) -> (Option<&str>, Option<&str>, Option<&str>) {
        let field = |name| fields.get(name).map(|value| value.to_str().unwrap());
        assert!(fields.keys().all(|name| fields.get_all(name).iter().count() == 1), "{fields:?}");
        (field(CONTENT_LENGTH), field(TRANSFER_ENCODING), field(TRAILER))
    }

    /// Every combination of method, framing of the client's request and version of the origin
    /// connection. The content determines the framing, not what the client's fields say.
    #[test]
    fn requests_are_framed_by_their_content_for_every_method_and_version() {
        use ContentLength::{Known, None as Nothing, Unknown};
        let methods =
            ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT", "PATCH", "PROPFIND", "QUERY"];
        // No length, a length of zero, a length, chunked, a duplicate length.
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
                let has_length = lines.iter().any(|(name, _)| *name == "content-length");
                let trailer = lines.iter().any(|(name, _)| *name == "trailer").then_some("x-sum");
                for (version, content, expected) in [
                    (Version::HTTP_11, Nothing, (zero(wants_length || has_length), None, None)),
                    (Version::HTTP_2, Nothing, (zero(wants_length || has_length), None, None)),
                    (Version::HTTP_11, Known(7), (Some("7"), None, None)),
                    (Version::HTTP_2, Known(7), (Some("7"), None, trailer)),
                    (Version::HTTP_11, Unknown, (None, Some("chunked"), trailer)),
                    (Version::HTTP_2, Unknown, (None, None, trailer)),
                ] {
                    let mut head = fields(lines);
                    frame_request(&method, version, content, &mut head);
                    assert_eq!(
                        framing(&head),
                        expected,
                        "{method} {version:?} {content:?} {lines:?}"
                    );
                }
            }
        }
    }

    fn zero(is_present: bool) -> Option<&'static str> {
        is_present.then_some("0")
    }

    #[test]
    fn responses_have_one_length_that_all_recipients_interpret_alike() {
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
            // Without content, the length cannot be misinterpreted.
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
    fn responses_with_ambiguous_framing_are_refused() {
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
            (
                Version::HTTP_11,
                &[("transfer-encoding", "chunked"), ("content-length", "3")],
                Err(Both),
            ),
        ] {
            let result =
                normalise_response(&Method::GET, version, StatusCode::OK, &mut fields(lines));
            assert_eq!(result, expected, "{version:?} {lines:?}");
        }
    }

    #[test]
    fn trailers_of_grpc_are_announced() {
        let mut head = fields(&[("content-type", "application/grpc+proto")]);
        frame_request(&Method::POST, Version::HTTP_11, ContentLength::Unknown, &mut head);
        assert_eq!(framing(&head).2, Some(GRPC_TRAILERS));
        let mut head = fields(&[("content-type", "application/grpc")]);
        normalise_response(&Method::POST, Version::HTTP_2, StatusCode::OK, &mut head).unwrap();
        assert_eq!(framing(&head).2, Some(GRPC_TRAILERS));
        // In HTTP/1.1, trailers require the chunked coding.
        for (field, expected) in
            [("transfer-encoding", Some(GRPC_TRAILERS)), ("content-length", None)]
        {
            let value = if expected.is_some() { "chunked" } else { "3" };
            let mut head = fields(&[("content-type", "application/grpc"), (field, value)]);
            normalise_response(&Method::POST, Version::HTTP_11, StatusCode::OK, &mut head).unwrap();
            assert_eq!(framing(&head).2, expected, "{field}");
        }
    }

    #[test]
    fn an_expectation_is_case_insensitive() {
        for (value, expected) in [("100-continue", true), ("100-Continue", true), ("x", false)] {
            assert_eq!(
                expects_continue(&fields(&[("expect", value)])),
                expected,
                "Expect: {value}"
            );
        }
    }
}
