//! Request lines that hyper would refuse, made into ones that it reads.
//!
//! Programs send targets with characters that no URI has, where browsers percent-encode them (WHATWG URL,
//! the path and the query percent-encode sets). And `OPTIONS http://host` asks for something else than
//! `OPTIONS http://host/` does (RFC 9112 §3.2.4), which is lost when a URI is made of it.

/// A request line as it comes, piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestLineScanner {
    part: ScanPosition,
    /// How much of `OPTIONS` the method is; `None`: it is another.
    options: Option<usize>,
    /// Slashes of an absolute-form target that have come: `scheme://authority/`.
    slashes: u8,
    in_query: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ScanPosition {
    /// Empty lines before a request line are passed over (RFC 9112 §2.2).
    #[default]
    Before,
    Method,
    Target,
    Over,
}

/// What a request line was found to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanResult {
    /// Is there a character that has to be encoded?
    pub(super) is_unfit: bool,
    /// An OPTIONS whose target is an authority alone.
    pub(super) is_asterisk: bool,
}

impl RequestLineScanner {
    pub(super) fn is_over(&self) -> bool {
        self.part == ScanPosition::Over
    }

    /// Reads the next `bytes` of the line, or more than the rest of it.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> ScanResult {
        let mut found = ScanResult::default();
        if self.part == ScanPosition::Before && is_plain(bytes) {
            self.part = ScanPosition::Over;
            return found;
        }
        for byte in bytes {
            if self.is_over() {
                break;
            }
            self.step(*byte, &mut found);
        }
        found
    }

    /// The same `bytes`, with percent-encoding where it is missing. `self` is the line as it was before them.
    pub(super) fn encode(mut self, bytes: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(bytes.len() + 64);
        for byte in bytes {
            let mut found = ScanResult::default();
            if !self.is_over() {
                self.step(*byte, &mut found);
            }
            match found.is_unfit {
                true => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                false => encoded.push(*byte),
            }
        }
        encoded
    }

    fn step(&mut self, byte: u8, found: &mut ScanResult) {
        match (self.part, byte) {
            (ScanPosition::Before, b'\r' | b'\n') => {}
            (ScanPosition::Before, _) => {
                self.part = ScanPosition::Method;
                self.options = (byte == b'O').then_some(1);
            }
            (ScanPosition::Method | ScanPosition::Target, b'\n') => self.part = ScanPosition::Over,
            (ScanPosition::Method, b' ') => {
                self.part = ScanPosition::Target;
                self.options = self.options.filter(|length| *length == OPTIONS.len());
            }
            (ScanPosition::Method, _) => {
                let goes_on = |length: &usize| OPTIONS.get(*length) == Some(&byte);
                self.options = self.options.filter(goes_on).map(|length| length + 1);
            }
            (ScanPosition::Target, b' ') => {
                self.part = ScanPosition::Over;
                found.is_asterisk |= self.options.is_some() && self.slashes == 2 && !self.in_query;
            }
            (ScanPosition::Target, _) => self.step_in_target(byte, found),
            (ScanPosition::Over, _) => {}
        }
    }

    fn step_in_target(&mut self, byte: u8, found: &mut ScanResult) {
        match byte {
            b'/' => self.slashes = self.slashes.saturating_add(1),
            b'?' => self.in_query = true,
            _ => found.is_unfit |= is_unfit(byte, self.in_query),
        }
    }
}

const OPTIONS: &[u8] = b"OPTIONS";

/// Is there a whole line that is as it should be? So nearly all come.
fn is_plain(bytes: &[u8]) -> bool {
    let is_options = bytes.first().is_none_or(|first| matches!(first, b'O' | b'\r' | b'\n'));
    let end = if is_options { None } else { memchr::memchr(b'\n', bytes) };
    let Some(line) = end.and_then(|end| bytes.get(..end)) else { return false };
    // Without an early end, so that many bytes are looked at at once.
    !line.iter().fold(false, |found, byte| found | is_unfit(*byte, false))
}

fn is_unfit(byte: u8, in_query: bool) -> bool {
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

    /// The line in two pieces, cut everywhere.
    fn read(line: &[u8]) -> (Vec<u8>, bool) {
        let mut whole = None;
        for cut in 0..=line.len() {
            let (first, second) = line.split_at(cut);
            let (mut reader, mut encoded, mut is_asterisk) =
                (RequestLineScanner::default(), Vec::new(), false);
            for piece in [first, second] {
                let before = reader;
                let found = reader.scan(piece);
                is_asterisk |= found.is_asterisk;
                match found.is_unfit {
                    true => encoded.extend(before.encode(piece)),
                    false => encoded.extend_from_slice(piece),
                }
            }
            assert_eq!(
                whole.get_or_insert((encoded.clone(), is_asterisk)),
                &(encoded, is_asterisk),
                "{cut}"
            );
        }
        whole.unwrap()
    }

    #[test]
    fn what_no_uri_has_is_encoded_in_the_target_alone() {
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
            let (encoded, is_asterisk) = read(line);
            assert_eq!(String::from_utf8_lossy(&encoded), String::from_utf8_lossy(expected));
            assert!(!is_asterisk);
        }
    }

    #[test]
    fn options_of_an_authority_alone_are_told_from_those_of_its_root() {
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
            assert_eq!(read(line).1, expected, "{}", String::from_utf8_lossy(line));
        }
    }
}
