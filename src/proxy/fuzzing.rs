//! Pure functions of the proxy, for the fuzz targets in `fuzz/`. This module is compiled only for them.
#![allow(missing_docs)]

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version};

use super::fields::{self, Via};
use super::framing;
use super::head_sanitizer::HeadSanitizer;
use super::interim;
use super::request_line_scanner::RequestLineScanner;
use super::request_target::{RequestTarget, request_target};

pub fn lacks_scope(line: &str) -> bool {
    super::challenge::line_has_challenge(line, "bearer", "insufficient_scope")
}

/// Returns the head that would be sent to an origin server for a client's head; `None` if it is refused.
pub fn to_origin(mut parts: Parts) -> Option<Parts> {
    match request_target(&parts, None) {
        Ok(RequestTarget::Origin(origin)) => {
            fields::prepare_for_origin(&mut parts, &origin, &Via::new());
            Some(parts)
        }
        _ => None,
    }
}

/// Returns a request line that arrives in two pieces as hyper sees it.
pub fn request_line(pieces: [&[u8]; 2]) -> Vec<u8> {
    let mut line = RequestLineScanner::default();
    let encoded = pieces.map(|piece| {
        let before = line;
        line.scan(piece);
        before.encode(piece)
    });
    encoded.concat()
}

/// Returns what an origin server sends in two pieces as hyper sees it, and the number of interim responses
/// that were parsed.
pub fn response_heads(pieces: [&[u8]; 2]) -> (Vec<u8>, usize) {
    let (mut sanitizer, mut count, mut out) = (HeadSanitizer::default(), 0, Vec::new());
    sanitizer.expect_head();
    for piece in pieces {
        let mut piece = piece.to_vec();
        sanitizer.sanitize(&mut piece, |head| {
            count += usize::from(interim::parse_interim(head).is_some());
        });
        out.extend(piece);
    }
    (out, count)
}

/// Returns the fields of a response as the client sees them; `None` if the response is refused.
pub fn normalised(method: &Method, status: StatusCode, mut fields: HeaderMap) -> Option<HeaderMap> {
    let done = framing::normalise_response(method, Version::HTTP_11, status, &mut fields);
    done.ok().map(|()| fields)
}
