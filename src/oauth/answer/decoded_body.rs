//! The content of an answer without its codings, which come although none was asked for.

use std::borrow::Cow;

use http::header::CONTENT_ENCODING;

use super::RawAnswer;
use super::format::Mapping;
use super::members::Members;
use crate::coding::decode;

/// The most that is unpacked.
const MAX_DECODED: usize = 1024 * 1024;
/// How many codings are taken off.
const MAX_CODINGS: usize = 3;

/// The body as the server meant it.
pub(in crate::oauth) struct DecodedBody<'a> {
    /// Its bytes, or what could be decoded of them.
    pub(in crate::oauth) bytes: Cow<'a, [u8]>,
    /// What was taken off, or what is in the way.
    pub(super) coding: Option<BodyDecoding>,
}

/// What became of a content coding.
#[derive(Debug, PartialEq)]
pub(super) enum BodyDecoding {
    /// It is taken off.
    Decoded,
    /// Part of the content is missing or damaged.
    Partly,
    /// It is unknown, or what it says is not so.
    Unknown(String),
}

impl<'a> DecodedBody<'a> {
    /// Takes off what the fields name and what the bytes show, until there is something to read. Some
    /// proxies unpack a body and leave the field, or pack one twice and say so once.
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
        // Such bytes show less clearly than gzip what they are. So only what unpacks to an answer counts.
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

/// UTF-16 shows by its mark, or by the zero beside the character that JSON, XML and forms begin with.
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

/// UTF-8, but for its end.
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'))
        || std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
