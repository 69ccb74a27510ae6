//! An HTTP/1.1 response as it comes in: pure, and content with less than RFC 9112 asks for.
//!
//! The body may hold the only copy of a refresh token. So a wrong `Content-Length`, broken chunks and
//! a missing end lose none of its bytes: whoever reads it decides what they are worth.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::de::IgnoredAny;

use super::super::answer::RawAnswer;

/// The largest body that is read, 1 MiB: a thousand times what any token endpoint sends.
const MAX_BODY: usize = 1024 * 1024;
/// The largest head.
const MAX_HEAD: usize = 64 * 1024;
/// The longest line with the size of a chunk.
const MAX_SIZE_LINE: usize = 256;

/// What has come so far.
#[derive(Default)]
pub(super) struct Response {
    head: Option<(StatusCode, HeaderMap)>,
    body: Vec<u8>,
    /// What cannot be understood before more of it is there.
    pending: Vec<u8>,
    framing: Framing,
    /// What is wrong with it.
    flaw: Option<&'static str>,
}

/// Where the body ends, and how much of the way is left.
#[derive(Default, Debug, PartialEq)]
enum Framing {
    #[default]
    UntilClosed,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    /// `Content-Length` is reached, but not the end of the JSON: it counts characters, perhaps.
    Beyond,
    Done,
}

impl Response {
    /// Takes the bytes that came. Returns whether that was all.
    ///
    /// # Errors
    ///
    /// What is wrong, if that is no HTTP.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool, &'static str> {
        self.pending.extend_from_slice(bytes);
        while self.head.is_none() {
            let Some((end, body)) = end_of_head(&self.pending) else {
                let too_long = self.pending.len() > MAX_HEAD;
                return if too_long { Err("its head is longer than 64 KiB") } else { Ok(false) };
            };
            let (status, fields) = head(self.pending.get(..end).unwrap_or_default())?;
            self.pending.drain(..body);
            if status.is_informational() {
                continue;
            }
            self.framing = Framing::of(status, &fields);
            self.head = Some((status, fields));
        }
        while self.advance() {}
        if self.body.len() > MAX_BODY {
            self.body.truncate(MAX_BODY);
            self.flaw = Some("it is longer than 1 MiB");
            self.framing = Framing::Done;
        }
        Ok(self.framing == Framing::Done)
    }

    pub(super) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Is there enough to end with when nothing more comes for a while?
    pub(super) fn suffices(&self) -> bool {
        self.head.is_some() && (self.framing == Framing::Beyond || is_whole_json(&self.body))
    }

    /// The answer, if its head is there; `end` says how the connection ended where the framing does not.
    pub(super) fn into_answer(mut self, end: &str) -> Option<RawAnswer> {
        let (status, fields) = self.head?;
        if !matches!(self.framing, Framing::Done) {
            self.body.append(&mut self.pending);
            self.body.truncate(MAX_BODY);
        }
        let missing = match self.framing {
            Framing::Done | Framing::UntilClosed if end.is_empty() => None,
            Framing::Done | Framing::Beyond => None,
            Framing::UntilClosed => Some(end.to_owned()),
            _ if end.is_empty() => Some("it ended early".to_owned()),
            _ => Some(format!("it ended early: {end}")),
        };
        let cut = self.flaw.map(str::to_owned).or(missing);
        Some(RawAnswer { status, fields, body: self.body, cut })
    }

    /// Goes one step further in what is pending. Returns whether there may be another.
    fn advance(&mut self) -> bool {
        match self.framing {
            Framing::Done => return false,
            Framing::UntilClosed | Framing::Beyond => {
                self.body.append(&mut self.pending);
                return false;
            }
            Framing::Length(left) | Framing::Chunk(left) => {
                let now = left.min(self.pending.len());
                self.body.extend(self.pending.drain(..now));
                let left = left - now;
                let is_chunk = matches!(self.framing, Framing::Chunk(_));
                self.framing = match (left, is_chunk) {
                    (0, true) => Framing::ChunkEnd,
                    (0, false) if is_begun_json(&self.body) && !is_whole_json(&self.body) => {
                        self.flaw = Some("its Content-Length is less than its length");
                        Framing::Beyond
                    }
                    (0, false) => Framing::Done,
                    (left, true) => Framing::Chunk(left),
                    (left, false) => Framing::Length(left),
                };
                return left == 0;
            }
            Framing::ChunkSize | Framing::ChunkEnd | Framing::Trailers => {}
        }
        let first = self.pending.trim_ascii_start().first();
        if self.framing == Framing::ChunkSize && first.is_some_and(|byte| !byte.is_ascii_hexdigit())
        {
            self.give_up_chunks();
            return true;
        }
        let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') else {
            if self.pending.len() > MAX_SIZE_LINE {
                self.give_up_chunks();
            }
            return false;
        };
        let line = self.pending.get(..end).unwrap_or_default().trim_ascii();
        let next = match self.framing {
            Framing::ChunkEnd if line.is_empty() => Some(Framing::ChunkSize),
            Framing::ChunkEnd => None,
            Framing::Trailers if line.is_empty() => Some(Framing::Done),
            Framing::Trailers => Some(Framing::Trailers),
            _ => chunk_size(line).map(|size| match size {
                0 => Framing::Trailers,
                size => Framing::Chunk(size),
            }),
        };
        match next {
            Some(next) => {
                self.pending.drain(..=end);
                self.framing = next;
            }
            None => self.give_up_chunks(),
        }
        true
    }

    /// Whatever comes is the body from here on.
    fn give_up_chunks(&mut self) {
        self.flaw = Some("its chunks are broken");
        self.framing = Framing::UntilClosed;
    }
}

impl Framing {
    /// RFC 9112 §6.3.
    fn of(status: StatusCode, fields: &HeaderMap) -> Self {
        let text = |name| fields.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let names_chunked = |value: &str| {
            value.rsplit(',').any(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
        };
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Self::Done;
        }
        if text(TRANSFER_ENCODING).any(names_chunked) {
            return Self::ChunkSize;
        }
        let lengths: Option<Vec<usize>> = text(CONTENT_LENGTH)
            .flat_map(|value| value.split(','))
            .map(|length| length.trim().parse().ok())
            .collect();
        match lengths.unwrap_or_default().as_slice() {
            [first, others @ ..] if others.iter().all(|other| other == first) => {
                Self::Length(*first)
            }
            _ => Self::UntilClosed,
        }
    }
}

/// The hexadecimal size in front of what extends it.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The end of the head, and where the body begins.
fn end_of_head(bytes: &[u8]) -> Option<(usize, usize)> {
    let newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    newlines.map(|(at, _)| at).find_map(|at| {
        let rest = bytes.get(at + 1..)?;
        let blank = [&b"\r\n"[..], b"\n"].iter().find(|blank| rest.starts_with(blank))?.len();
        Some((at, at + 1 + blank))
    })
}

/// The status and the fields. Lines that are no fields are left out.
fn head(bytes: &[u8]) -> Result<(StatusCode, HeaderMap), &'static str> {
    const NO_HTTP: &str = "it is not HTTP/1.1";
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let status = lines.next().unwrap_or_default().trim_ascii();
    let status = std::str::from_utf8(status.get(..status.len().min(16)).unwrap_or_default());
    let mut words = status.map_err(|_| NO_HTTP)?.split_ascii_whitespace();
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1")) {
        return Err(NO_HTTP);
    }
    let status = words.next().and_then(|status| status.parse().ok()).ok_or(NO_HTTP)?;
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line.get(..colon)?).ok()?;
        Some((name, HeaderValue::from_bytes(line.get(colon + 1..)?.trim_ascii()).ok()?))
    };
    let mut fields = HeaderMap::new();
    for (name, value) in lines.filter_map(field) {
        // With more fields than it can count, the rest does not matter.
        _ = fields.try_append(name, value);
    }
    Ok((status, fields))
}

/// Does it begin as JSON does?
fn is_begun_json(body: &[u8]) -> bool {
    without_bom(body).trim_ascii_start().starts_with(b"{")
}

/// Is there nothing to wait for?
fn is_whole_json(body: &[u8]) -> bool {
    is_begun_json(body) && serde_json::from_slice::<IgnoredAny>(without_bom(body)).is_ok()
}

fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// All at once and byte by byte: status, body and `cut`.
    fn read(bytes: &[u8]) -> (u16, String, Option<String>) {
        let answers = [bytes.len().max(1), 1].map(|size| {
            let mut response = Response::default();
            for part in bytes.chunks(size) {
                if response.take(part).unwrap() {
                    break;
                }
            }
            let answer = response.into_answer("").unwrap();
            (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned(), answer.cut)
        });
        let [whole, in_bytes] = answers;
        assert_eq!(whole, in_bytes, "{}", String::from_utf8_lossy(bytes));
        whole
    }

    #[test]
    fn a_body_is_read_however_it_is_framed() {
        for (rest, body, cut) in [
            ("Content-Length: 2\r\n\r\nab", "ab", None),
            ("content-length:2,2\r\nContent-Length: 2\r\n\r\nabc", "ab", None),
            ("Content-Length: two\r\n\r\nab", "ab", None),
            ("Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "ab", None),
            ("\r\nab", "ab", None),
            ("Content-Length: 9\r\n\r\nab", "ab", Some("it ended early")),
            // It counts characters.
            (
                "Content-Length: 11\r\n\r\n{\"a\":\"äöü\"}",
                "{\"a\":\"äöü\"}",
                Some("its Content-Length is less than its length"),
            ),
            (
                "Content-Length: 8\r\n\r\n{\"a\":\"äöü",
                "{\"a\":\"äöü",
                Some("its Content-Length is less than its length"),
            ),
            ("Content-Length: 2\r\n\r\n{}{}", "{}", None),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n", "abc", None),
            ("Transfer-Encoding: gzip, Chunked\r\n\r\n1\na\n0\nX: y\n\n", "a", None),
            (
                "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n0001\r\na\r\n0\r\n\r\n",
                "a",
                None,
            ),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nab", "ab", Some("it ended early")),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "a", Some("it ended early")),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", "a", Some("it ended early")),
            // The size is less than the chunk.
            (
                "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
                "abc\r\n0\r\n\r\n",
                Some("its chunks are broken"),
            ),
            // There are no chunks at all.
            (
                "Transfer-Encoding: chunked\r\n\r\n{\n \"a\": 1\n}",
                "{\n \"a\": 1\n}",
                Some("its chunks are broken"),
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\n{\"a\":1}",
                "{\"a\":1}",
                Some("its chunks are broken"),
            ),
            ("no field\r\nA b: c\r\n folded\r\n\r\nab", "ab", None),
        ] {
            let bytes = format!("HTTP/1.1 200 OK\r\n{rest}");
            let (_, read_body, read_cut) = read(bytes.as_bytes());
            assert_eq!((read_body.as_str(), read_cut.as_deref()), (body, cut), "{rest}");
        }
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "a".repeat(MAX_BODY + 1));
        let mut response = Response::default();
        assert!(response.take(long.as_bytes()).unwrap());
        let answer = response.into_answer("").unwrap();
        assert_eq!(answer.body.len(), MAX_BODY);
        assert_eq!(answer.cut.as_deref(), Some("it is longer than 1 MiB"));
    }

    #[test]
    fn a_head_is_read_leniently_or_is_none() {
        for (bytes, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", 200),
            ("HTTP/1.0 404\n\n", 404),
            ("HTTP/1.1  400  Bad\r\n\r\n", 400),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nLink: x\r\n\r\nHTTP/1.1 201 \r\n\r\n",
                201,
            ),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204),
        ] {
            assert_eq!(read(bytes.as_bytes()).0, status, "{bytes}");
        }
        for bytes in ["<html>\n\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 OK\r\n\r\n", "HTTP/1.1 99\n\n"]
        {
            assert!(Response::default().take(bytes.as_bytes()).is_err(), "{bytes}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(MAX_HEAD));
        assert!(Response::default().take(long.as_bytes()).is_err());
        let mut unfinished = Response::default();
        assert!(!unfinished.take(b"HTTP/1.1 200 OK\r\nX: y").unwrap());
        assert!(!unfinished.suffices() && unfinished.into_answer("").is_none());
    }
}
