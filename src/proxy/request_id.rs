//! The number of each request, in its log line and in answers of bearerd's own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that tell the requests of this process apart, in an order that says nothing.
#[derive(Debug)]
pub(super) struct RequestIds {
    start: u64,
    count: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        Self { start: RandomState::new().build_hasher().finish(), count: AtomicU64::new(0) }
    }

    pub(super) fn next(&self) -> RequestId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // An odd factor makes a permutation: no number comes twice.
        RequestId(self.start.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// Written only where somebody reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestId(u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
