//! Content codings implemented by hand, so that tests do not decode with the library that encoded.
//!
//! Deflate (RFC 1951) uses one block with the fixed Huffman code and no references; Brotli (RFC 7932)
//! one uncompressed meta-block. Every decoder must support both.

/// Encodes the body as gzip (RFC 1952).
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut coded = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    coded.extend(raw_deflate(body));
    coded.extend(crc32(body).to_le_bytes());
    coded.extend((body.len() as u32).to_le_bytes());
    coded
}

/// Encodes the body as `deflate`, which is the zlib format (RFC 1950).
pub fn zlib(body: &[u8]) -> Vec<u8> {
    let mut coded = vec![0x78, 0x01];
    coded.extend(raw_deflate(body));
    coded.extend(adler32(body).to_be_bytes());
    coded
}

/// Encodes the body as raw DEFLATE without the zlib wrapper, which some servers send as `deflate`.
pub fn raw_deflate(body: &[u8]) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(1, 1);
    bits.put(1, 2);
    for byte in body {
        match u32::from(*byte) {
            low @ 0..144 => bits.put_code(0x30 + low, 8),
            high => bits.put_code(0x190 + high - 144, 9),
        }
    }
    bits.put_code(0, 7);
    bits.bytes
}

/// Encodes the body as Brotli.
///
/// # Panics
///
/// Panics if the body is empty or longer than 64 KiB.
pub fn brotli(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() - 1).expect("a short body");
    assert!(length < 1 << 16, "one meta-block");
    let mut bits = Bits::default();
    // 64 KiB window, not the last block, 16-bit length, uncompressed.
    for (value, width) in [(0, 1), (0, 1), (0, 2), (length, 16), (1, 1)] {
        bits.put(value, width);
    }
    let mut coded = bits.bytes;
    coded.extend(body);
    // The empty last block.
    coded.push(0b11);
    coded
}

/// A bit writer, least significant bit first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, width: u32) {
        for at in 0..width {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let bit = (value >> at & 1) as u8;
            *self.bytes.last_mut().expect("just pushed") |= bit << (self.used % 8);
            self.used += 1;
        }
    }

    /// Writes a Huffman code, most significant bit first.
    fn put_code(&mut self, code: u32, width: u32) {
        self.put(code.reverse_bits() >> (32 - width), width);
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xedb8_8320,
            _ => crc >> 1,
        })
    };
    !bytes.iter().fold(!0, step)
}

fn adler32(bytes: &[u8]) -> u32 {
    let step = |(a, b): (u32, u32), byte: &u8| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    };
    let (a, b) = bytes.iter().fold((1, 0), step);
    b << 16 | a
}

#[cfg(test)]
mod tests {
    /// The values are those of Python's `zlib.crc32` and `zlib.adler32`.
    #[test]
    fn checksums_match_the_standards() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::adler32(b"Wikipedia"), 0x11e6_0398);
    }

    /// The values are those of Python's `zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_FIXED)`.
    #[test]
    fn a_fixed_block_matches_other_encoders() {
        assert_eq!(super::raw_deflate(b"abc"), [0x4b, 0x4c, 0x4a, 0x06, 0x00]);
        assert_eq!(super::raw_deflate("é{".as_bytes()), [0x3b, 0xbc, 0xb2, 0x1a, 0x00]);
        assert_eq!(super::brotli(b"a"), [0x00, 0x00, 0x10, b'a', 0x03]);
    }
}
