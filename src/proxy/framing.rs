//! How content is delimited, both ways: pure rules over heads (RFC 9112 §6, RFC 9113 §8.1).
//!
//! bearerd owns framing. The fields that say where content ends are never passed on as they came: they are
//! written anew for the connection that a message leaves on ([`frame_request`]), or brought into the one form
//! that everybody reads alike ([`normalise_response`]). hyper's own choices by method and version do not come
//! into play.

use std::sync::LazyLock;

use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, TRAILER,
    TRANSFER_ENCODING,
};
use http::{Method, StatusCode, Version};
use memchr::memmem::Finder;

use super::message::is_chunked_once;

/// What is known about a request's content before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// There is none.
    None,
    /// So many bytes.
    Known(u64),
    /// Its end shows when it comes.
    Unknown,
}

/// Writes how a request's content is delimited on a connection of `version`.
///
/// A length that the client gave is repeated where there is no content, because servers ask for it also
/// with methods that have no use for content.
pub(super) fn frame_request(
    method: &Method,
    version: Version,
    content: Content,
    fields: &mut HeaderMap,
) {
    let gave_length = fields.remove(CONTENT_LENGTH).is_some();
    fields.remove(TRANSFER_ENCODING);
    match content {
        Content::None if gave_length || expects_content(method) => {
            fields.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Content::None => {}
        Content::Known(length) => {
            fields.insert(CONTENT_LENGTH, length.into());
        }
        Content::Unknown if version == Version::HTTP_2 => {}
        Content::Unknown => {
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    // Trailers need content, and in HTTP/1.1 chunks.
    let has_trailers = match version {
        Version::HTTP_2 => content != Content::None,
        _ => content == Content::Unknown,
    };
    match has_trailers {
        true => announce_trailers(fields),
        false => drop(fields.remove(TRAILER)),
    }
}

/// Methods whose requests have content, so that none has to be said (RFC 9110 §8.6).
fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Can a response to this request have content (RFC 9110 §6.4.1)?
pub(super) fn has_content(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && !status.is_informational()
}

/// Why the end of a response's content cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FramingError {
    #[error("it has a transfer coding other than chunked")]
    TransferCoding,
    #[error("it has both a length and a transfer coding")]
    Both,
    #[error("it has lengths that differ")]
    Lengths,
}

/// Brings the framing of a response into the one form that every client reads alike: one length in plain
/// digits (RFC 9112 §6.3 lets a proxy do so where all copies agree), or none.
///
/// # Errors
///
/// [`FramingError`]: where two recipients could see two ends.
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

/// The length that all lines and members of `Content-Length` agree on.
pub(super) fn content_length(fields: &HeaderMap) -> Option<u64> {
    let lines = fields.get_all(CONTENT_LENGTH).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut agreed = None;
    for member in members {
        let length = digits(member.trim_ascii())?;
        if agreed.is_some_and(|agreed| agreed != length) {
            return None;
        }
        agreed = Some(length);
    }
    agreed
}

fn digits(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// Does the client wait to be asked for its content (RFC 9110 §10.1.1)?
pub(super) fn expects_continue(fields: &HeaderMap) -> bool {
    fields.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

// ===== Trailers =====

/// Trailers that gRPC always has and never announces.
const GRPC_TRAILERS: &str = "grpc-status, grpc-message, grpc-status-details-bin";

/// Keeps from `Trailer` what may be a trailer. gRPC's are announced, because hyper writes into HTTP/1.1 only
/// those that are.
fn announce_trailers(fields: &mut HeaderMap) {
    let is_grpc = fields
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !fields.contains_key(TRAILER) {
        if is_grpc {
            fields.insert(TRAILER, HeaderValue::from_static(GRPC_TRAILERS));
        }
        return;
    }
    let lines = fields.get_all(TRAILER).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = members.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let kept: Vec<String> =
        names.filter(may_be_trailer).map(|name| name.as_str().to_owned()).collect();
    fields.remove(TRAILER);
    if let (false, Ok(kept)) = (kept.is_empty(), HeaderValue::try_from(kept.join(", "))) {
        fields.insert(TRAILER, kept);
    }
}

/// Removes from trailers what no trailer may say (RFC 9110 §6.5.1): a recipient that merges them into the head
/// would take it for the head's word.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    if trailers.keys().all(may_be_trailer) {
        return;
    }
    let refused: Vec<HeaderName> =
        trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
}

/// Fields for framing, routing, authentication, request modifiers, control data, and how content is read.
const NEVER_TRAILERS: [&str; 44] = [
    "accept",
    "accept-encoding",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "authentication-info",
    "http2-settings",
];

fn may_be_trailer(name: &HeaderName) -> bool {
    !NEVER_TRAILERS.contains(&name.as_str()) && !name.as_str().starts_with("x-forwarded-")
}

// ===== Response heads as bytes =====

/// The empty line after a head; made once, because making a searcher costs more than a search.
static HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Replaces control characters in response heads by spaces while they pass, before they are parsed: RFC 9110
/// §5.5 lets a recipient do so, and strict parsers refuse the whole response for one of them.
#[derive(Debug, Default)]
pub(super) struct HeadCleaner {
    /// Bytes of the current line, its end not counted.
    line: usize,
    /// It is the first line of a head.
    in_status_line: bool,
    /// The digits of the status, as far as they have come.
    status: [u8; 3],
    /// Heads are expected: no content is under way.
    is_active: bool,
    /// The current head so far. hyper gives up a connection whose head is too long.
    head: Vec<u8>,
}

impl HeadCleaner {
    /// The next bytes begin a response's head.
    pub(super) fn expect_head(&mut self) {
        *self = Self { in_status_line: true, is_active: true, ..Self::default() };
    }

    /// Is the head of the response still to come, or to end?
    pub(super) fn is_active(&self) -> bool {
        self.is_active
    }

    /// Cleans what belongs to heads in `bytes`, in place. `interim` is given each whole head of an interim response.
    pub(super) fn clean(&mut self, bytes: &mut [u8], mut interim: impl FnMut(&[u8])) {
        if !self.is_active || self.is_clean_as_whole(bytes) {
            self.is_active = false;
            return;
        }
        for byte in bytes {
            let is_over = self.clean_byte(byte);
            self.head.push(*byte);
            if is_over && !self.goes_on_after(&mut interim) {
                return;
            }
        }
    }

    /// Is there a whole head of a final response, with nothing to clean? So nearly all come.
    fn is_clean_as_whole(&self, bytes: &[u8]) -> bool {
        let begins = self.in_status_line && self.line == 0;
        let is_final = matches!(
            bytes,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9', b' ', b'2'..=b'9', ..]
        );
        let end = if begins && is_final { HEAD_END.find(bytes) } else { None };
        let is_unclean =
            |byte: u8| (byte < b' ' && !matches!(byte, b'\t' | b'\r' | b'\n')) || byte == 0x7f;
        // Without an early end, so that many bytes are looked at at once.
        let is_clean =
            |head: &[u8]| !head.iter().fold(false, |found, byte| found | is_unclean(*byte));
        end.and_then(|end| bytes.get(..end)).is_some_and(is_clean)
    }

    /// Returns true if this was the last byte of a head.
    fn clean_byte(&mut self, byte: &mut u8) -> bool {
        match *byte {
            b'\n' => return self.end_line(),
            b'\r' => {}
            _ => {
                if (*byte < b' ' && *byte != b'\t') || *byte == 0x7f {
                    *byte = b' ';
                }
                // `HTTP/1.1 200`: the status stands behind nine characters.
                if self.in_status_line
                    && let Some(digit) =
                        self.line.checked_sub(9).and_then(|index| self.status.get_mut(index))
                {
                    *digit = *byte;
                }
                self.line += 1;
            }
        }
        false
    }

    fn end_line(&mut self) -> bool {
        let is_head_over = self.line == 0 && !self.in_status_line;
        self.in_status_line &= self.line == 0;
        self.line = 0;
        is_head_over
    }

    /// After an interim response comes another head; 101 ends HTTP.
    fn goes_on_after(&mut self, interim: &mut impl FnMut(&[u8])) -> bool {
        let head = std::mem::take(&mut self.head);
        self.is_active = self.status[0] == b'1' && self.status != *b"101";
        if self.is_active {
            interim(&head);
            self.expect_head();
        }
        self.is_active
    }
}

#[cfg(test)]
#[path = "framing/tests.rs"]
mod tests;
