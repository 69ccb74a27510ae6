//! Reproducible randomness: every random decision derives from the seed.
//!
//! Each purpose has its own generator, and each token request of a credential takes one draw from the generator of
//! that credential. So the decisions for one do not depend on thread scheduling.

use std::time::Duration;

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the generator for a purpose, derived from the same seed.
    pub(crate) fn of(&self, purpose: &str) -> Self {
        let mixed =
            purpose.bytes().fold(self.0, |mixed, byte| Self(mixed ^ u64::from(byte)).next());
        Self(mixed)
    }

    /// Returns a generator for the next decision, which may draw any number of values.
    pub(crate) fn decision(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Returns a duration from `low` to `high`, both in milliseconds.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high - low))
    }
}
