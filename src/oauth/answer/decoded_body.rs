//! Removes the content codings of an answer, which some servers apply although none was requested.

use std::borrow::Cow;

use http::header::CONTENT_ENCODING;

use super::RawAnswer;
use super::format::Mapping;
use super::members::Members;
use crate::coding::decode;

/// The maximum decoded size in bytes.
const MAX_DECODED: usize = 1024 * 1024;
/// The maximum number of codings that are removed.
const MAX_CODINGS: usize = 3;

/// The body of an answer without content codings.
pub(in crate::oauth) struct DecodedBody<'a> {
    /// The bytes, or as many as could be decoded.
    pub(in crate::oauth) bytes: Cow<'a, [u8]>,
    /// Which decoding happened, or why it failed.
    pub(super) coding: Option<BodyDecoding>,
}

/// The result of removing content codings.
#[derive(Debug, PartialEq)]
pub(super) enum BodyDecoding {
    /// The body was decoded.
    Decoded,
    /// Part of the body is missing or damaged.
    Partly,
    /// The coding is unknown, or the body does not match it.
    Unknown(String),
}

impl<'a> DecodedBody<'a> {
    /// Removes the codings that the header fields name and the bytes show, until the body is
    /// readable. Some proxies decode a body but keep the field, or encode twice and declare it
    /// once.
    pub(in crate::oauth) fn of(answer: &'a RawAnswer, mapping: &Mapping) -> Self {
        let named: Vec<String> = answer
            .fields
            .get_all(CONTENT_ENCODING)
            .iter()
            .flat_map(|value| value.to_str().unwrap_or("unknown").split(','))
            .map(|coding| coding.trim().to_ascii_lowercase())
            .filter(|coding| !coding.is_empty() && coding != "identity")
            .collect();
        let mut left = named.clone();
        let (mut bytes, mut coding) = (Cow::Borrowed(answer.body.as_slice()), None);
        // These codings are harder to recognise than gzip, so they are only removed if the result
        // is a valid answer.
        let mut unnamed = vec!["br".to_owned(), "deflate".to_owned()];
        for _ in 0..MAX_CODINGS {
            if let Some(text) = from_utf16(&bytes) {
                bytes = Cow::Owned(text.into_bytes());
            }
            if Members::strict(&bytes, mapping).parsed {
                return Self { bytes, coding };
            }
            let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
            let next = if is_gzip { Some("gzip".to_owned()) } else { left.pop() };
            let Some(next) = next else { break };
            if is_gzip && left.last().is_some_and(|last| last.contains("gzip")) {
                left.pop();
            }
            let decoded = decode(&next, &bytes, MAX_DECODED);
            let Some(decoded) = decoded.filter(|it| it.complete || is_text(&it.bytes)) else {
                continue;
            };
            if !decoded.bytes.is_empty() {
                let is_whole = decoded.complete && coding != Some(BodyDecoding::Partly);
                coding = Some(if is_whole { BodyDecoding::Decoded } else { BodyDecoding::Partly });
                bytes = Cow::Owned(decoded.bytes);
            }
        }
        while coding.is_none() && !is_text(&bytes) {
            let Some(next) = unnamed.pop() else { break };
            let decoded = decode(&next, &bytes, MAX_DECODED).filter(|it| it.complete);
            if let Some(decoded) = decoded.filter(|it| Members::strict(&it.bytes, mapping).parsed) {
                (bytes, coding) = (Cow::Owned(decoded.bytes), Some(BodyDecoding::Decoded));
            }
        }
        let unknown = || (!named.is_empty()).then(|| BodyDecoding::Unknown(named.join(", ")));
        Self { coding: coding.or_else(unknown), bytes }
    }
}

/// Decodes UTF-16, recognised by its byte order mark or by the zero byte next to the first
/// character of JSON, XML and forms.
fn from_utf16(bytes: &[u8]) -> Option<String> {
    let (rest, is_little) = match bytes {
        [0xff, 0xfe, rest @ ..] => (rest, true),
        [0xfe, 0xff, rest @ ..] => (rest, false),
        [first, 0, ..] if first.is_ascii_graphic() => (bytes, true),
        [0, first, ..] if first.is_ascii_graphic() => (bytes, false),
        _ => return None,
    };
    let read = if is_little { u16::from_le_bytes } else { u16::from_be_bytes };
    let units = rest.chunks_exact(2).filter_map(|pair| pair.try_into().ok().map(read));
    Some(char::decode_utf16(units).map(|it| it.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

/// Returns true for UTF-8, possibly truncated.
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'))
        || std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
