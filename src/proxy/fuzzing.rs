//! Pure functions of the proxy that `fuzz/` calls. Only there is this module compiled.
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

/// What would be sent to an origin server for a client's head, if anything would.
pub fn to_origin(mut parts: Parts) -> Option<Parts> {
    match request_target(&parts, None) {
        Ok(RequestTarget::Origin(origin)) => {
            fields::prepare_for_origin(&mut parts, &origin, &Via::new());
            Some(parts)
        }
        _ => None,
    }
}

/// A request line that comes in two pieces, as hyper gets it.
pub fn request_line(pieces: [&[u8]; 2]) -> Vec<u8> {
    let mut line = RequestLineScanner::default();
    let encoded = pieces.map(|piece| {
        let before = line;
        line.scan(piece);
        before.encode(piece)
    });
    encoded.concat()
}

/// What an origin server sends, in two pieces, as hyper gets it, and how many interim responses were read in it.
pub fn response_heads(pieces: [&[u8]; 2]) -> (Vec<u8>, usize) {
    let (mut cleaner, mut count, mut out) = (HeadSanitizer::default(), 0, Vec::new());
    cleaner.expect_head();
    for piece in pieces {
        let mut piece = piece.to_vec();
        cleaner.clean(&mut piece, |head| {
            count += usize::from(interim::parse_interim(head).is_some());
        });
        out.extend(piece);
    }
    (out, count)
}

/// The fields of a response as the client gets them, if it gets them.
pub fn normalised(method: &Method, status: StatusCode, mut fields: HeaderMap) -> Option<HeaderMap> {
    let done = framing::normalise_response(method, Version::HTTP_11, status, &mut fields);
    done.ok().map(|()| fields)
}
