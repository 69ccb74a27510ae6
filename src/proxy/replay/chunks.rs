//! The memory of a kept body.

use bytes::{Bytes, BytesMut};

/// A chunk holds on to the whole buffer that it was read into and has an overhead of about 40 bytes. For chunks shorter
/// than this, both may exceed the data, so they are copied together.
const SMALL_CHUNK: usize = 4 * 1024;
/// The most bytes that are copied into one chunk.
const MAX_COPIED: usize = 64 * 1024;

/// The data of a kept body. Its memory use is close to the length of the data.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    finished: Vec<Bytes>,
    /// Small chunks that are being copied together.
    tail: BytesMut,
    length: u64,
}

impl Chunks {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn push(&mut self, chunk: &Bytes) {
        self.length += chunk.len() as u64;
        let is_small = chunk.len() < SMALL_CHUNK;
        if !self.tail.is_empty() && (!is_small || self.tail.len() + chunk.len() > MAX_COPIED) {
            self.finished.push(std::mem::take(&mut self.tail).freeze());
        }
        match is_small {
            true => self.tail.extend_from_slice(chunk),
            false => self.finished.push(chunk.clone()),
        }
    }

    /// Returns the data after the first `position` bytes, up to the end of one chunk.
    pub(super) fn after(&self, position: u64) -> Option<Bytes> {
        let mut skip = usize::try_from(position).ok()?;
        for chunk in &self.finished {
            if skip < chunk.len() {
                return Some(chunk.slice(skip..));
            }
            skip -= chunk.len();
        }
        self.tail.get(skip..).filter(|rest| !rest.is_empty()).map(Bytes::copy_from_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_copied_together_and_read_from_any_position() {
        let mut chunks = Chunks::default();
        let large = Bytes::from(vec![b'x'; SMALL_CHUNK]);
        for _ in 0..2 * MAX_COPIED {
            chunks.push(&Bytes::from_static(b"y"));
        }
        chunks.push(&large);
        chunks.push(&Bytes::from_static(b"z"));
        assert_eq!(chunks.finished.len(), 3, "small chunks were not copied together");
        assert_eq!(chunks.length, (2 * MAX_COPIED + SMALL_CHUNK + 1) as u64);
        let (mut all, mut position) = (Vec::new(), 0);
        while let Some(chunk) = chunks.after(position) {
            position += chunk.len() as u64;
            all.extend_from_slice(&chunk);
        }
        let expected = [vec![b'y'; 2 * MAX_COPIED], large.to_vec(), vec![b'z']].concat();
        assert!(all == expected, "the data differs");
    }
}
