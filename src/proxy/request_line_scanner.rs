//! Encodes request targets that hyper would refuse, before hyper parses them.
//!
//! Some programs send characters in a target that no URI may contain and that browsers
//! percent-encode (WHATWG URL, the path and query percent-encode sets).
//!
//! The scanner also recognises `OPTIONS http://host`, which asks about the server as a whole, while
//! `OPTIONS http://host/` asks about one resource (RFC 9112 §3.2.4). The parsed URI is the same for
//! both.

/// The state of a scan through one request line, which may arrive in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestLineScanner {
    position: ScanPosition,
    /// How many bytes of `OPTIONS` the method has matched; `None` if it is another method.
    options_matched: Option<usize>,
    /// Slashes in the target so far. The form `scheme://authority` has two.
    slashes: u8,
    in_query: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ScanPosition {
    /// Before the line: empty lines are skipped (RFC 9112 §2.2).
    #[default]
    BeforeLine,
    Method,
    Target,
    AfterTarget,
}

/// What a scan found in the bytes it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanResult {
    /// At least one character must be percent-encoded.
    pub(super) needs_encoding: bool,
    /// The request is an OPTIONS whose target is an authority alone.
    pub(super) is_asterisk_form: bool,
}

impl RequestLineScanner {
    /// Returns true if the target has been read to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.position == ScanPosition::AfterTarget
    }

    /// Scans the next `bytes`, which may extend beyond the line.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> ScanResult {
        let mut result = ScanResult::default();
        if self.position == ScanPosition::BeforeLine && is_plain_line(bytes) {
            self.position = ScanPosition::AfterTarget;
            return result;
        }
        for byte in bytes {
            if self.is_complete() {
                break;
            }
            self.step(*byte, &mut result);
        }
        result
    }

    /// Returns `bytes` with percent-encoding added where it is missing. `self` is the state before
    /// `bytes` were scanned.
    pub(super) fn encode(mut self, bytes: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(bytes.len() + 64);
        for byte in bytes {
            let mut result = ScanResult::default();
            if !self.is_complete() {
                self.step(*byte, &mut result);
            }
            match result.needs_encoding {
                true => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                false => encoded.push(*byte),
            }
        }
        encoded
    }

    fn step(&mut self, byte: u8, result: &mut ScanResult) {
        match (self.position, byte) {
            (ScanPosition::BeforeLine, b'\r' | b'\n') => {}
            (ScanPosition::BeforeLine, _) => {
                self.position = ScanPosition::Method;
                self.options_matched = (byte == b'O').then_some(1);
            }
            (ScanPosition::Method | ScanPosition::Target, b'\n') => {
                self.position = ScanPosition::AfterTarget;
            }
            (ScanPosition::Method, b' ') => {
                self.position = ScanPosition::Target;
                self.options_matched =
                    self.options_matched.filter(|length| *length == OPTIONS.len());
            }
            (ScanPosition::Method, _) => {
                let matches = |length: &usize| OPTIONS.get(*length) == Some(&byte);
                self.options_matched =
                    self.options_matched.filter(matches).map(|length| length + 1);
            }
            (ScanPosition::Target, b' ') => {
                self.position = ScanPosition::AfterTarget;
                result.is_asterisk_form |=
                    self.options_matched.is_some() && self.slashes == 2 && !self.in_query;
            }
            (ScanPosition::Target, _) => self.step_in_target(byte, result),
            (ScanPosition::AfterTarget, _) => {}
        }
    }

    fn step_in_target(&mut self, byte: u8, result: &mut ScanResult) {
        match byte {
            b'/' => self.slashes = self.slashes.saturating_add(1),
            b'?' => self.in_query = true,
            _ => result.needs_encoding |= must_be_encoded(byte, self.in_query),
        }
    }
}

const OPTIONS: &[u8] = b"OPTIONS";

/// Returns true if `bytes` begin with a whole line that is not an OPTIONS request and needs no
/// encoding. This is the fast path for nearly all requests.
fn is_plain_line(bytes: &[u8]) -> bool {
    let may_be_options = bytes.first().is_none_or(|first| matches!(first, b'O' | b'\r' | b'\n'));
    let end = if may_be_options { None } else { memchr::memchr(b'\n', bytes) };
    let Some(line) = end.and_then(|end| bytes.get(..end)) else { return false };
    // `fold` does not stop early, so the compiler can check many bytes at once.
    !line.iter().fold(false, |found, byte| found | must_be_encoded(*byte, false))
}

fn must_be_encoded(byte: u8, in_query: bool) -> bool {
    match byte {
        b'"' | b'<' | b'>' | 0x7F..=0xFF => true,
        b'`' | b'{' | b'}' | b'^' => !in_query,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Scans the line in two pieces, split at every position. Returns the encoded line and whether
    /// it is in asterisk-form.
    fn scan_in_pieces(line: &[u8]) -> (Vec<u8>, bool) {
        let mut expected = None;
        for split in 0..=line.len() {
            let (first, second) = line.split_at(split);
            let (mut scanner, mut encoded, mut is_asterisk_form) =
                (RequestLineScanner::default(), Vec::new(), false);
            for piece in [first, second] {
                let before = scanner;
                let result = scanner.scan(piece);
                is_asterisk_form |= result.is_asterisk_form;
                match result.needs_encoding {
                    true => encoded.extend(before.encode(piece)),
                    false => encoded.extend_from_slice(piece),
                }
            }
            assert_eq!(
                expected.get_or_insert((encoded.clone(), is_asterisk_form)),
                &(encoded, is_asterisk_form),
                "the result differs when the line is split at {split}"
            );
        }
        expected.unwrap()
    }

    #[test]
    fn characters_that_no_uri_may_contain_are_encoded_in_the_target_only() {
        for (line, expected) in [
            (
                &b"GET http://a.test/a?f={\"a\":1} HTTP/1.1\r\nX: \"<\r\n"[..],
                &b"GET http://a.test/a?f={%22a%22:1} HTTP/1.1\r\nX: \"<\r\n"[..],
            ),
            (b"GET /{a}`^<b> HTTP/1.1\r\n", b"GET /%7Ba%7D%60%5E%3Cb%3E HTTP/1.1\r\n"),
            (b"GET /caf\xe9?\xff HTTP/1.1\r\n", b"GET /caf%E9?%FF HTTP/1.1\r\n"),
            (b"\r\nGET /\x7f HTTP/1.1\r\n", b"\r\nGET /%7F HTTP/1.1\r\n"),
            (b"GET /%7B|\\ HTTP/1.1\r\n\xe9", b"GET /%7B|\\ HTTP/1.1\r\n\xe9"),
            (b"G\xe9T / HTTP/1.1\r\n", b"G\xe9T / HTTP/1.1\r\n"),
            (b"\xe9\n\"<", b"\xe9\n\"<"),
            (b"GET /a \"b HTTP/1.1\r\n", b"GET /a \"b HTTP/1.1\r\n"),
        ] {
            let (encoded, is_asterisk_form) = scan_in_pieces(line);
            assert_eq!(String::from_utf8_lossy(&encoded), String::from_utf8_lossy(expected));
            assert!(!is_asterisk_form, "asterisk-form: {}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn options_for_an_authority_differs_from_options_for_its_root() {
        for (line, expected) in [
            (&b"OPTIONS http://a.test HTTP/1.1\r\n"[..], true),
            (b"OPTIONS http://a.test:8080 HTTP/1.1\r\n", true),
            (b"OPTIONS http://a.test/ HTTP/1.1\r\n", false),
            (b"OPTIONS http://a.test?q HTTP/1.1\r\n", false),
            (b"OPTIONS http://a.test/* HTTP/1.1\r\n", false),
            (b"OPTIONS * HTTP/1.1\r\n", false),
            (b"OPTIONSX http://a.test HTTP/1.1\r\n", false),
            (b"OPTION http://a.test HTTP/1.1\r\n", false),
            (b"GET http://a.test HTTP/1.1\r\n", false),
            (b"GET /\r\nOPTIONS http://a.test HTTP/1.1\r\n", false),
        ] {
            assert_eq!(scan_in_pieces(line).1, expected, "{}", String::from_utf8_lossy(line));
        }
    }
}
