//! Incremental parser for HTTP/1.1 responses. Pure, and more lenient than RFC 9112.
//!
//! The body may contain the only copy of a refresh token. Therefore a wrong `Content-Length`,
//! broken chunks, a malformed head or a missing end never lose any of its bytes; the reader of the
//! answer decides whether they are usable.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::de::IgnoredAny;

use super::super::answer::{RawAnswer, has_token, is_whole};

/// The maximum body size, 1 MiB: a thousand times what token endpoints send.
const MAX_BODY: usize = 1024 * 1024;
/// The maximum head size. Cookies and policies can make heads long, and the body after them is what
/// matters.
const MAX_HEAD: usize = 1024 * 1024;
/// The maximum total size of interim responses. Their number is not limited: one per second from a
/// slow server is harmless, and the answer follows them.
const MAX_INTERIM: usize = 64 * 1024;
/// The maximum length of a chunk size line.
const MAX_SIZE_LINE: usize = 256;

/// The response as received so far.
#[derive(Default)]
pub(super) struct Response {
    head: Option<(StatusCode, HeaderMap)>,
    body: Vec<u8>,
    /// Bytes that need more data before they can be parsed.
    pending: Vec<u8>,
    progress: BodyProgress,
    /// Total size of the interim responses.
    interim: usize,
    /// The first defect, if any.
    flaw: Option<&'static str>,
}

/// The framing of the body and the progress in it.
#[derive(Default, Debug, PartialEq)]
enum BodyProgress {
    #[default]
    UntilClosed,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    /// `Content-Length` was reached before the end of the JSON; the server may count characters
    /// instead of bytes.
    Beyond,
    Done,
}

impl Response {
    /// Adds received bytes. Returns true if the response is complete.
    ///
    /// # Errors
    ///
    /// A description, if the bytes are not HTTP.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool, &'static str> {
        self.pending.extend_from_slice(bytes);
        while self.head.is_none() {
            let blank = self.pending.len() - without_blank(&self.pending).len();
            self.pending.drain(..blank);
            let begun = end_of_head(&self.pending)
                .and_then(|(end, body)| Some((head(self.pending.get(..end)?).ok()?, body)));
            let Some(((status, fields), body)) = begun else {
                if let Some(why) = other_protocol(&self.pending) {
                    return Err(why);
                }
                if self.pending.len() <= MAX_HEAD {
                    return Ok(false);
                }
                // The status still counts: a successful response has consumed the refresh token.
                self.head = Some(head(&std::mem::take(&mut self.pending))?);
                self.flaw = Some("its head is longer than 1 MiB");
                self.progress = BodyProgress::Done;
                return Ok(true);
            };
            self.pending.drain(..body);
            if status.is_informational() {
                self.interim += blank + body;
                if self.interim > MAX_INTERIM {
                    return Err("more than 64 KiB of interim responses came instead of an answer");
                }
                continue;
            }
            self.progress = BodyProgress::of(status, &fields);
            self.head = Some((status, fields));
        }
        while self.advance() {}
        if self.body.len() > MAX_BODY {
            self.body.truncate(MAX_BODY);
            self.flaw = Some("it is longer than 1 MiB");
            self.progress = BodyProgress::Done;
        }
        Ok(self.progress == BodyProgress::Done)
    }

    /// Describes received data that is not a response.
    pub(super) fn describe_invalid(&self) -> Option<&'static str> {
        let is_invalid = self.head.is_none() && !self.pending.is_empty();
        if is_invalid { head(&self.pending).err() } else { None }
    }

    /// Returns why the server cannot have processed the request: it does not speak HTTP/1.1.
    pub(super) fn rejected_unprocessed(&self) -> Option<&'static str> {
        if self.has_head() { None } else { other_protocol(&self.pending) }
    }

    pub(super) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Returns true if the response can be used if nothing else arrives for a while.
    ///
    /// If valid framing announces more data, a successful response is_sufficient only with a refresh
    /// token in a complete object, because nothing that follows can be as valuable. Without
    /// framing, the brackets decide. An error issues nothing, so its complete object always
    /// is_sufficient.
    pub(super) fn is_sufficient(&self) -> bool {
        let Some((status, _)) = self.head else { return self.has_tokens_without_head() };
        let has_refresh_token = || has_token(&self.body, "refresh_token");
        match self.progress {
            BodyProgress::Done | BodyProgress::Trailers => true,
            BodyProgress::Beyond => !status.is_success() || has_refresh_token(),
            BodyProgress::UntilClosed => is_whole_json(&self.body),
            _ => is_whole_json(&self.body) && (!status.is_success() || has_refresh_token()),
        }
    }

    /// Returns true if there is an object with tokens but no head. Only the token endpoint issues
    /// tokens.
    fn has_tokens_without_head(&self) -> bool {
        let has = |name| has_token(&self.pending, name);
        head(&self.pending).is_err()
            && is_whole(&self.pending)
            && (has("access_token") || has("refresh_token"))
    }

    /// Builds an answer from a response whose head is missing or incomplete. Tokens imply success,
    /// and a success status implies that the refresh token was consumed.
    fn into_answer_without_head(self) -> Option<RawAnswer> {
        if self.has_tokens_without_head() {
            let cut = Some("it has no HTTP status line".to_owned());
            let (status, fields) = (StatusCode::OK, HeaderMap::new());
            return Some(RawAnswer { status, fields, body: self.pending, cut });
        }
        // Drop an incomplete field line.
        let end = self.pending.iter().rposition(|byte| *byte == b'\n');
        let lines = self.pending.get(..end.unwrap_or(self.pending.len())).unwrap_or_default();
        let (status, fields) = head(lines).ok().filter(|(status, _)| status.is_success())?;
        let cut = Some("its head is incomplete".to_owned());
        Some(RawAnswer { status, fields, body: Vec::new(), cut })
    }

    /// Returns the answer, if there is one. `end` describes how the connection ended, for bodies
    /// that end with the connection.
    pub(super) fn into_answer(mut self, end: &str) -> Option<RawAnswer> {
        let Some((status, fields)) = self.head.take() else {
            return self.into_answer_without_head();
        };
        if !matches!(self.progress, BodyProgress::Done) {
            self.body.append(&mut self.pending);
            self.body.truncate(MAX_BODY);
        }
        let missing = match self.progress {
            BodyProgress::Done | BodyProgress::UntilClosed if end.is_empty() => None,
            BodyProgress::Done | BodyProgress::Beyond => None,
            BodyProgress::UntilClosed => Some(end.to_owned()),
            _ if end.is_empty() => Some("it ended early".to_owned()),
            _ => Some(format!("it ended early: {end}")),
        };
        let cut = self.flaw.map(str::to_owned).or(missing);
        Some(RawAnswer { status, fields, body: self.body, cut })
    }

    /// Parses the next piece of pending data. Returns true if there may be more to parse.
    fn advance(&mut self) -> bool {
        match self.progress {
            BodyProgress::Done => return false,
            BodyProgress::UntilClosed | BodyProgress::Beyond => {
                self.body.append(&mut self.pending);
                return false;
            }
            BodyProgress::Length(left) | BodyProgress::Chunk(left) => {
                let now = left.min(self.pending.len());
                self.body.extend(self.pending.drain(..now));
                let left = left - now;
                let is_chunk = matches!(self.progress, BodyProgress::Chunk(_));
                self.progress = match (left, is_chunk) {
                    (0, true) => BodyProgress::ChunkEnd,
                    (0, false) if starts_like_json(&self.body) && !is_whole_json(&self.body) => {
                        self.flaw = Some("its Content-Length is less than its length");
                        BodyProgress::Beyond
                    }
                    (0, false) => BodyProgress::Done,
                    (left, true) => BodyProgress::Chunk(left),
                    (left, false) => BodyProgress::Length(left),
                };
                return left == 0;
            }
            BodyProgress::ChunkSize | BodyProgress::ChunkEnd | BodyProgress::Trailers => {}
        }
        let first = self.pending.trim_ascii_start().first();
        if self.progress == BodyProgress::ChunkSize
            && first.is_some_and(|byte| !byte.is_ascii_hexdigit())
        {
            self.abandon_chunks();
            return true;
        }
        let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') else {
            if self.pending.len() > MAX_SIZE_LINE {
                self.abandon_chunks();
            }
            return false;
        };
        let line = self.pending.get(..end).unwrap_or_default().trim_ascii();
        let next = match self.progress {
            BodyProgress::ChunkEnd if line.is_empty() => Some(BodyProgress::ChunkSize),
            BodyProgress::ChunkEnd => None,
            BodyProgress::Trailers if line.is_empty() => Some(BodyProgress::Done),
            BodyProgress::Trailers => Some(BodyProgress::Trailers),
            _ => chunk_size(line).map(|size| match size {
                0 => BodyProgress::Trailers,
                size => BodyProgress::Chunk(size),
            }),
        };
        match next {
            Some(next) => {
                self.pending.drain(..=end);
                self.progress = next;
            }
            None => self.abandon_chunks(),
        }
        true
    }

    /// Treats all further data as the body.
    fn abandon_chunks(&mut self) {
        self.flaw = Some("its chunks are broken");
        self.progress = BodyProgress::UntilClosed;
    }
}

impl BodyProgress {
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

/// Parses the chunk size before any chunk extensions.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Recognises a TLS alert, or the SETTINGS frame that an HTTP/2 server sends first (RFC 9113 §3.4).
fn other_protocol(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x15, 3, 0..=4, ..] => Some("the server speaks TLS, but token_url starts with http:"),
        [0, _, _, 4, 0 | 1, 0, 0, 0, 0, ..] => {
            Some("the server only speaks HTTP/2, but bearerd speaks HTTP/1.1 to token endpoints")
        }
        _ => None,
    }
}

/// Finds the end of the head and the start of the body: after a blank line, or at a brace, which
/// cannot start a field.
fn end_of_head(bytes: &[u8]) -> Option<(usize, usize)> {
    let newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    newlines.map(|(at, _)| at).find_map(|at| {
        let rest = bytes.get(at + 1..)?;
        let blank = match rest {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            [b'{', ..] => 0,
            _ => return None,
        };
        Some((at, at + 1 + blank))
    })
}

/// Parses the status and the fields. Ignores lines that are not fields.
fn head(bytes: &[u8]) -> Result<(StatusCode, HeaderMap), &'static str> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let status = lines.next().and_then(status).ok_or("it has no HTTP status line")?;
    let mut unfolded: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        match (line.first(), unfolded.last_mut()) {
            // RFC 9112 §5.2.
            (Some(b' ' | b'\t'), Some(before)) => {
                before.truncate(before.trim_ascii_end().len());
                before.push(b' ');
                before.extend_from_slice(line.trim_ascii());
            }
            _ => unfolded.push(line.to_vec()),
        }
    }
    let field = |line: &Vec<u8>| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line.get(..colon)?.trim_ascii()).ok()?;
        Some((name, HeaderValue::from_bytes(line.get(colon + 1..)?.trim_ascii()).ok()?))
    };
    let mut fields = HeaderMap::new();
    for (name, value) in unfolded.iter().filter_map(field) {
        // Ignore fields beyond the capacity of the map.
        _ = fields.try_append(name, value);
    }
    Ok((status, fields))
}

/// Parses the three digits after any HTTP version. The reason phrase is ignored.
fn status(line: &[u8]) -> Option<StatusCode> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words
        .next()
        .filter(|version| version.get(..5).is_some_and(|it| it.eq_ignore_ascii_case(b"HTTP/")))?;
    let (digits, reason) = words.next()?.split_at_checked(3)?;
    let is_longer = reason.first().is_some_and(u8::is_ascii_digit);
    StatusCode::from_bytes(digits).ok().filter(|_| !is_longer)
}

/// Returns true if the body starts like a JSON object.
fn starts_like_json(body: &[u8]) -> bool {
    without_bom(body).trim_ascii_start().starts_with(b"{")
}

/// Returns true if the JSON is complete. In malformed JSON, the brackets decide.
fn is_whole_json(body: &[u8]) -> bool {
    starts_like_json(body)
        && (serde_json::from_slice::<IgnoredAny>(without_bom(body)).is_ok() || is_whole(body))
}

fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Strips white space and the byte order mark, which some servers send before the status line.
fn without_blank(bytes: &[u8]) -> &[u8] {
    without_bom(bytes.trim_ascii_start()).trim_ascii_start()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Parses at once and byte by byte, and returns status, body and `cut`.
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
    fn bodies_are_read_with_any_framing() {
        for (rest, body, cut) in [
            ("Content-Length: 2\r\n\r\nab", "ab", None),
            ("content-length:2,2\r\nContent-Length: 2\r\n\r\nabc", "ab", None),
            ("Content-Length: two\r\n\r\nab", "ab", None),
            ("Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "ab", None),
            ("\r\nab", "ab", None),
            ("Content-Length: 9\r\n\r\nab", "ab", Some("it ended early")),
            // The length counts characters.
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
            // The chunk size is too small.
            (
                "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
                "abc\r\n0\r\n\r\n",
                Some("its chunks are broken"),
            ),
            // The body is not chunked at all.
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
    fn heads_are_read_leniently() {
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
        for bytes in ["<html>\n\n", "HTTP/1.1 OK\r\n\r\n", "HTTP/1.1 99\n\n", "HTTP/1.1 2000\n\n"] {
            let mut response = Response::default();
            assert!(!response.take(bytes.as_bytes()).unwrap(), "{bytes}");
            assert!(
                response.describe_invalid().is_some() && response.into_answer("").is_none(),
                "{bytes}"
            );
        }
        let head = |length: usize| {
            format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2\r\n\r\n{{}}", "a".repeat(length))
        };
        let mut long = Response::default();
        assert!(long.take(head(300 * 1024).as_bytes()).unwrap());
        let answer = long.into_answer("").unwrap();
        assert_eq!((answer.body.as_slice(), answer.cut), (&b"{}"[..], None));
        // Still a success: the refresh token was consumed, whatever the body contains.
        let mut endless = Response::default();
        let long = head(2 * 1024 * 1024);
        assert!(long.as_bytes().chunks(16 * 1024).any(|part| endless.take(part).unwrap()));
        let answer = endless.into_answer("").unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.cut.unwrap().contains("head is longer"));
        let mut unfinished = Response::default();
        assert!(!unfinished.take(b"HTTP/1.1 500 Oops\r\nX: y").unwrap());
        assert!(!unfinished.is_sufficient() && unfinished.into_answer("").is_none());
    }
}
