//! Takes content codings off (RFC 9110 §8.4.1): gzip, deflate and brotli.
//!
//! What comes in is a peer's and may be damaged, cut short, or a small message that unpacks to gigabytes. So
//! the caller says how much may come out, and gets what there is together with whether that is all of it.

use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};

/// Content without its codings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// All of it, or its beginning.
    pub bytes: Vec<u8>,
    /// It is all of it: nothing was damaged, missing at the end, or beyond the limit.
    pub complete: bool,
}

/// So many codings are taken off one message. More than one is rare already.
const MAX_CODINGS: usize = 3;

/// Takes off what a `Content-Encoding` names; several of its lines are joined with commas. At most `limit`
/// bytes come out, and no more than that is unpacked on the way. `None`: a coding is unknown, or there are
/// too many.
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

/// Could [`decode`] take these off?
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
    /// `None`: it does nothing. `Some(None)`: it is unknown.
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
            // Servers that announce a coding of nothing send nothing.
            _ if bytes.is_empty() => true,
            Self::Gzip => gunzip(bytes, &mut into),
            // RFC 9110 §8.4.1.2: the "deflate" of some servers has no zlib around it. No deflate stream of a
            // known encoder begins as zlib does: that would be padding bits that are not zero.
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

/// A gzip file may have several members (RFC 1952 §2.2); what else follows the first is padding.
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

/// What has come out, and how much may.
struct DecodeBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl DecodeBuffer {
    /// Takes what comes, and one byte more than allowed to see whether that is the end. What comes before an
    /// error is kept. Returns whether everything was there.
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
    /// The same by the encoder of Node.js.
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
    fn each_coding_is_taken_off_by_its_names() {
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
    fn unknown_codings_and_long_lists_are_left_alone() {
        for codings in ["zstd", "gzip, zstd", "gzip;q=1", "gzip gzip", "gzip,gzip,gzip,gzip"] {
            assert_eq!(decode(codings, &gzip(TEXT), 1000), None, "{codings}");
            assert!(!is_known(codings) && is_known("gzip"), "{codings}");
        }
    }

    #[test]
    fn what_is_cut_or_damaged_gives_what_can_be_read() {
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
            assert!(!decode(codings, TEXT, 1000).unwrap().complete, "{codings}: it is plain");
        }
        let mut damaged = gzip(TEXT);
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        let decoded = Decoded { bytes: TEXT.to_vec(), complete: false };
        assert_eq!(decode("gzip", &damaged, 1000), Some(decoded));
    }

    #[test]
    fn no_more_comes_out_than_the_limit() {
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
