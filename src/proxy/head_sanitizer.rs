//! Replaces control characters in response heads before hyper parses them.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Finds the end of a head. It is built once, because building a searcher costs more than a search.
static HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Replaces control characters in response heads with spaces, in place. RFC 9110 §5.5 allows a recipient
/// to do so, and hyper would refuse the whole response because of one.
#[derive(Debug, Default)]
pub(super) struct HeadSanitizer {
    /// The length of the current line so far, without its terminator.
    line_length: usize,
    /// The current line is the first of a head.
    in_status_line: bool,
    /// The digits of the status so far.
    status: [u8; 3],
    /// The bytes that follow belong to a head, not to content.
    is_active: bool,
    /// The current head so far. hyper closes a connection whose head is too long.
    head: Vec<u8>,
}

impl HeadSanitizer {
    /// Declares that the bytes that follow begin a response head.
    pub(super) fn expect_head(&mut self) {
        *self = Self { in_status_line: true, is_active: true, ..Self::default() };
    }

    /// Returns true if the head of the final response is not complete.
    pub(super) fn is_active(&self) -> bool {
        self.is_active
    }

    /// Sanitizes the heads in `bytes`, in place. `on_interim` is called with each complete head of an
    /// interim response.
    pub(super) fn sanitize(&mut self, bytes: &mut [u8], mut on_interim: impl FnMut(&[u8])) {
        if !self.is_active || self.has_clean_head(bytes) {
            self.is_active = false;
            return;
        }
        for byte in bytes {
            let is_complete = self.sanitize_byte(byte);
            self.head.push(*byte);
            if is_complete && !self.expect_next_head(&mut on_interim) {
                return;
            }
        }
    }

    /// Returns true if `bytes` contain the complete head of a final response without control characters.
    /// This is the fast path for nearly all responses.
    fn has_clean_head(&self, bytes: &[u8]) -> bool {
        let is_start = self.in_status_line && self.line_length == 0;
        let is_final = matches!(
            bytes,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9', b' ', b'2'..=b'9', ..]
        );
        let end = if is_start && is_final { HEAD_END.find(bytes) } else { None };
        let is_unclean =
            |byte: u8| (byte < b' ' && !matches!(byte, b'\t' | b'\r' | b'\n')) || byte == 0x7f;
        // `fold` does not stop early, so the compiler can check many bytes at once.
        let is_clean =
            |head: &[u8]| !head.iter().fold(false, |found, byte| found | is_unclean(*byte));
        end.and_then(|end| bytes.get(..end)).is_some_and(is_clean)
    }

    /// Returns true if this was the last byte of a head.
    fn sanitize_byte(&mut self, byte: &mut u8) -> bool {
        match *byte {
            b'\n' => return self.end_line(),
            b'\r' => {}
            _ => {
                if (*byte < b' ' && *byte != b'\t') || *byte == 0x7f {
                    *byte = b' ';
                }
                // In `HTTP/1.1 200`, the status follows nine characters.
                if self.in_status_line
                    && let Some(digit) =
                        self.line_length.checked_sub(9).and_then(|index| self.status.get_mut(index))
                {
                    *digit = *byte;
                }
                self.line_length += 1;
            }
        }
        false
    }

    fn end_line(&mut self) -> bool {
        let is_head_complete = self.line_length == 0 && !self.in_status_line;
        self.in_status_line &= self.line_length == 0;
        self.line_length = 0;
        is_head_complete
    }

    /// Returns true if another head follows the one that has just ended: after an interim response, except
    /// 101, which switches protocols.
    fn expect_next_head(&mut self, on_interim: &mut impl FnMut(&[u8])) -> bool {
        let head = std::mem::take(&mut self.head);
        self.is_active = self.status[0] == b'1' && self.status != *b"101";
        if self.is_active {
            on_interim(&head);
            self.expect_head();
        }
        self.is_active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the sanitized bytes and the heads of interim responses.
    fn sanitize(bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut sanitizer, mut out, mut interim) =
            (HeadSanitizer::default(), Vec::new(), Vec::new());
        sanitizer.expect_head();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            sanitizer.sanitize(&mut piece, |head| interim.push(head.to_vec()));
            out.extend(piece);
        }
        (out, interim)
    }

    #[test]
    fn each_interim_head_is_reported_and_the_final_head_is_not() {
        let bytes =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hi\r\nA: \x02\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\
                      HTTP/1.1 103 content\r\n\r\n";
        for piece in [1, 2, 7, 1000] {
            let (_, interim) = sanitize(bytes, piece);
            assert_eq!(
                interim,
                [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"HTTP/1.1 103 Hi\r\nA:  \r\n\r\n"],
                "in pieces of {piece} bytes"
            );
        }
    }

    #[test]
    fn control_characters_become_spaces_in_heads_and_stay_in_content() {
        for (before, after) in [
            (
                &b"HTTP/1.1 200 O\x01K\r\nA: b\0c\x7f\r\n\r\n\0\x01"[..],
                &b"HTTP/1.1 200 O K\r\nA: b c \r\n\r\n\0\x01"[..],
            ),
            (b"HTTP/1.1 200 OK\nA: \x0bb\n\n\x0b", b"HTTP/1.1 200 OK\nA:  b\n\n\x0b"),
            // Interim responses have heads as well; the bytes after a 101 are not HTTP.
            (
                b"HTTP/1.1 103 Hi\r\nA: \x02\r\n\r\nHTTP/1.1 200 OK\r\nB: \x03\r\n\r\n\x04",
                b"HTTP/1.1 103 Hi\r\nA:  \r\n\r\nHTTP/1.1 200 OK\r\nB:  \r\n\r\n\x04",
            ),
            (b"HTTP/1.1 101 Up\r\n\r\n\x05", b"HTTP/1.1 101 Up\r\n\r\n\x05"),
            (b"HTTP/1.1 200 OK\r\nA:\tb \xe9\r\n\r\n", b"HTTP/1.1 200 OK\r\nA:\tb \xe9\r\n\r\n"),
        ] {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(sanitize(before, piece).0, after, "in pieces of {piece} bytes");
            }
        }
    }
}
