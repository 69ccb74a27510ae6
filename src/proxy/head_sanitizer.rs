//! Response heads as bytes, before hyper parses them.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// The empty line after a head; made once, because making a searcher costs more than a search.
static HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Replaces control characters in response heads by spaces while they pass, before they are parsed: RFC 9110
/// §5.5 lets a recipient do so, and strict parsers refuse the whole response for one of them.
#[derive(Debug, Default)]
pub(super) struct HeadSanitizer {
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

impl HeadSanitizer {
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
mod tests {
    use super::*;

    /// What comes out, and the heads of interim responses.
    fn cleaned(bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut cleaner, mut out, mut interim) =
            (HeadSanitizer::default(), Vec::new(), Vec::new());
        cleaner.expect_head();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            cleaner.clean(&mut piece, |head| interim.push(head.to_vec()));
            out.extend(piece);
        }
        (out, interim)
    }

    #[test]
    fn interim_heads_are_told_one_by_one_and_the_response_is_not() {
        let bytes =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hi\r\nA: \x02\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\
                      HTTP/1.1 103 content\r\n\r\n";
        for piece in [1, 2, 7, 1000] {
            let (_, interim) = cleaned(bytes, piece);
            assert_eq!(
                interim,
                [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"HTTP/1.1 103 Hi\r\nA:  \r\n\r\n"],
                "{piece}"
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
            // Interim responses are heads as well; 101 is not interim.
            (
                b"HTTP/1.1 103 Hi\r\nA: \x02\r\n\r\nHTTP/1.1 200 OK\r\nB: \x03\r\n\r\n\x04",
                b"HTTP/1.1 103 Hi\r\nA:  \r\n\r\nHTTP/1.1 200 OK\r\nB:  \r\n\r\n\x04",
            ),
            (b"HTTP/1.1 101 Up\r\n\r\n\x05", b"HTTP/1.1 101 Up\r\n\r\n\x05"),
            (b"HTTP/1.1 200 OK\r\nA:\tb \xe9\r\n\r\n", b"HTTP/1.1 200 OK\r\nA:\tb \xe9\r\n\r\n"),
        ] {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(cleaned(before, piece).0, after, "{piece}");
            }
        }
    }
}
