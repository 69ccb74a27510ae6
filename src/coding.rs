//! Removes content codings (RFC 9110 §8.4.1): gzip, deflate and brotli.
//!
//! The input comes from a peer. It may be damaged, truncated, or a small message that expands to
//! gigabytes. So the caller limits the output, and gets what could be decoded and whether it is
//! complete.

use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};

/// Decoded content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The decoded bytes, or their beginning.
    pub bytes: Vec<u8>,
    /// True if nothing was damaged, missing at the end, or beyond the limit.
    pub complete: bool,
}

/// The maximum number of codings of one message. More than one is rare.
const MAX_CODINGS: usize = 3;

/// Removes the codings of a `Content-Encoding` value; several field lines are joined with commas.
/// Returns at most `limit` bytes, and decodes no more than that in between. `None` if a coding is
/// unknown or there are too many.
pub fn decode(codings: &str, bytes: &[u8], limit: usize) -> Option<Decoded> {
    let codings = parse(codings)?;
    let length = bytes.len().min(limit);
    let plain = bytes.get(..length).unwrap_or_default();
    let Some((last, before)) = codings.split_last() else {
        return Some(Decoded { bytes: plain.to_vec(), complete: length == bytes.len() });
    };
    let mut decoded = last.decode(bytes, limit);
    for coding in before.iter().rev() {
        let inner = coding.decode(&decoded.bytes, limit);
        decoded = Decoded { complete: decoded.complete && inner.complete, ..inner };
    }
    Some(decoded)
}

/// Returns true if [`decode`] supports these codings.
pub fn is_known(codings: &str) -> bool {
    parse(codings).is_some()
}

fn parse(codings: &str) -> Option<Vec<Coding>> {
    let codings: Vec<Coding> = codings.split(',').filter_map(Coding::of).collect::<Option<_>>()?;
    (codings.len() <= MAX_CODINGS).then_some(codings)
}

#[derive(Clone, Copy, Debug)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
}

impl Coding {
    /// Returns `None` for the identity coding and `Some(None)` for an unknown one.
    fn of(name: &str) -> Option<Option<Self>> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => None,
            "gzip" | "x-gzip" => Some(Some(Self::Gzip)),
            "deflate" => Some(Some(Self::Deflate)),
            "br" => Some(Some(Self::Brotli)),
            _ => Some(None),
        }
    }

    fn decode(self, bytes: &[u8], limit: usize) -> Decoded {
        let mut into = DecodeBuffer { bytes: Vec::new(), limit };
        let complete = match self {
            // An empty body has no encoded form; servers send it as it is.
            _ if bytes.is_empty() => true,
            Self::Gzip => gunzip(bytes, &mut into),
            // RFC 9110 §8.4.1.2: some servers send "deflate" without the zlib wrapper. No deflate
            // stream of a known encoder starts like zlib, because its padding bits would not be
            // zero.
            Self::Deflate if bytes.first().is_some_and(|first| first & 0x0f == 8) => {
                into.take(ZlibDecoder::new(bytes))
            }
            Self::Deflate => into.take(DeflateDecoder::new(bytes)),
            Self::Brotli => into.take(Decompressor::new(bytes, bytes.len().min(BUFFER))),
        };
        Decoded { bytes: into.bytes, complete }
    }
}

const BUFFER: usize = 4096;

/// Decodes all members of a gzip stream (RFC 1952 §2.2). Other trailing data is padding.
fn gunzip(mut bytes: &[u8], into: &mut DecodeBuffer) -> bool {
    loop {
        let mut member = GzDecoder::new(bytes);
        if !into.take(&mut member) {
            return false;
        }
        bytes = member.into_inner();
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            return true;
        }
    }
}

/// The output and its limit.
struct DecodeBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl DecodeBuffer {
    /// Reads everything, up to one byte more than the limit to detect whether it was exceeded.
    /// Keeps what was read before an error. Returns true if the data is complete.
    fn take(&mut self, from: impl Read) -> bool {
        let room = self.limit.saturating_sub(self.bytes.len()).saturating_add(1);
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        let read = from.take(room).read_to_end(&mut self.bytes);
        let fits = self.bytes.len() <= self.limit;
        self.bytes.truncate(self.limit);
        read.is_ok() && fits
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const TEXT: &[u8] =
        br#"{"error":"token_expired","error_description":"The access token expired"}"#;
    /// The same text, encoded by Node.js.
    const BROTLI: &str = "1b4700401c07764c6ce2b108bbbc16f902d99b546468a9c3d2e794030b54b2b6282cc0131c76c0ce0cc338e45445a56e6b6089fc820ebe324403a601";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8], level: Compression) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli() -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&BROTLI[at..at + 2], 16).unwrap();
        (0..BROTLI.len()).step_by(2).map(digits).collect()
    }

    fn whole(bytes: &[u8]) -> Option<Decoded> {
        Some(Decoded { bytes: bytes.to_vec(), complete: true })
    }

    #[test]
    fn each_coding_is_decoded_under_each_of_its_names() {
        for (codings, coded) in [
            ("", TEXT.to_vec()),
            ("identity", TEXT.to_vec()),
            ("gzip", gzip(TEXT)),
            ("X-GZIP", gzip(TEXT)),
            (" gzip ,", gzip(TEXT)),
            ("identity, gzip", gzip(TEXT)),
            ("deflate", zlib(TEXT)),
            ("deflate", deflate(TEXT, Compression::best())),
            ("deflate", deflate(TEXT, Compression::none())),
            ("br", brotli()),
            ("br, gzip", gzip(&brotli())),
            ("deflate, gzip, deflate", zlib(&gzip(&zlib(TEXT)))),
            ("gzip", [gzip(&TEXT[..9]), gzip(&TEXT[9..])].concat()),
            ("gzip", [gzip(TEXT), vec![0; 7]].concat()),
            ("br", [brotli(), vec![0; 7]].concat()),
        ] {
            assert_eq!(decode(codings, &coded, 1000), whole(TEXT), "{codings:?} {coded:?}");
        }
        for codings in ["gzip", "deflate", "br", "gzip, br", ""] {
            assert_eq!(decode(codings, b"", 1000), whole(b""), "{codings}");
        }
    }

    #[test]
    fn unknown_codings_and_long_lists_are_not_decoded() {
        for codings in ["zstd", "gzip, zstd", "gzip;q=1", "gzip gzip", "gzip,gzip,gzip,gzip"] {
            assert_eq!(decode(codings, &gzip(TEXT), 1000), None, "{codings}");
            assert!(!is_known(codings) && is_known("gzip"), "{codings}");
        }
    }

    #[test]
    fn truncated_and_damaged_content_is_decoded_as_far_as_possible() {
        for (codings, coded) in [
            ("gzip", gzip(TEXT)),
            ("deflate", zlib(TEXT)),
            ("deflate", deflate(TEXT, Compression::best())),
            ("br", brotli()),
            ("br, gzip", gzip(&brotli())),
        ] {
            for length in 1..coded.len() {
                let decoded = decode(codings, &coded[..length], 1000).unwrap();
                assert!(!decoded.complete, "{codings} {length}");
                assert!(TEXT.starts_with(&decoded.bytes), "{codings} {length}");
            }
            let most = decode(codings, &coded[..coded.len() - 2], 1000).unwrap();
            assert!(most.bytes.len() > TEXT.len() / 3, "{codings} {most:?}");
            assert!(
                !decode(codings, TEXT, 1000).unwrap().complete,
                "{codings}: plain text must not decode completely"
            );
        }
        let mut damaged = gzip(TEXT);
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        let decoded = Decoded { bytes: TEXT.to_vec(), complete: false };
        assert_eq!(decode("gzip", &damaged, 1000), Some(decoded));
    }

    #[test]
    fn output_is_limited() {
        let length = TEXT.len();
        for (codings, coded) in [
            ("", TEXT.to_vec()),
            ("gzip", gzip(TEXT)),
            ("gzip", [gzip(&TEXT[..9]), gzip(&TEXT[9..])].concat()),
            ("deflate", zlib(TEXT)),
            ("br", brotli()),
        ] {
            assert_eq!(decode(codings, &coded, length), whole(TEXT), "{codings}");
            for limit in [0, 1, length - 1] {
                let decoded = decode(codings, &coded, limit).unwrap();
                assert_eq!(decoded.bytes, &TEXT[..limit], "{codings}");
                assert!(!decoded.complete, "{codings}");
            }
        }
        // A bomb inside a bomb: 100 MB.
        let bomb = gzip(&gzip(&vec![b'0'; 100_000_000]));
        assert!(bomb.len() < 2000);
        let decoded = decode("gzip, gzip", &bomb, 65_536).unwrap();
        assert_eq!((decoded.bytes.len(), decoded.complete), (65_536, false));
    }
}
