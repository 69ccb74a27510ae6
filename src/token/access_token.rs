//! An access token and its freshness. All times are passed in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderValue;

use super::Margin;
use crate::clock::Moment;
use crate::dpop;
use crate::secret::{Fingerprint, Secret};
use crate::store::{Generation, IssuedFor, TokenRecord};

/// The most that the clocks of processes with a common store are assumed to differ.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(1);

/// An access token, ready for use in a request.
pub struct AccessToken {
    /// Counts the tokens of the credential.
    pub generation: Generation,
    /// The field value: `Bearer …`, or `DPoP …` if the token is bound to a key. It is marked sensitive.
    pub authorization: HeaderValue,
    /// The members of the token response that templates use, by their dotted paths.
    pub raw: BTreeMap<String, Secret>,
    key: Option<dpop::ProofKey>,
    pub(super) issued_at: SystemTime,
    pub(super) expires_at: Option<SystemTime>,
    /// `None` if `issued_at` is in the future, because the clock was set back since.
    issued: Option<Moment>,
    expires: Option<Moment>,
    refresh: Option<Moment>,
    /// The grant and request that the token was issued for. Another configuration does not use it.
    pub(super) issued_for: Option<IssuedFor>,
    /// The seed of the configuration that the token was published for.
    pub(super) seed: Option<Fingerprint>,
    /// The id of the configuration that the token was published for; 0 for none.
    pub(super) owner: u64,
    /// The first generation with the same access token.
    pub(super) first_generation: Generation,
    rejected: AtomicBool,
    used: AtomicBool,
    accepted: AtomicBool,
    targets: TargetFilter,
    /// The targets that have rejected the token since it was last accepted, one bit each. Several may share a bit.
    rejected_by: AtomicU64,
}

/// After rejections by this many targets the token itself is considered invalid.
const REJECTING_TARGETS: u32 = 3;

impl AccessToken {
    /// Creates the token of a record. Returns `None` if the record holds none, or one that is not a valid field
    /// value. `now` converts its wall-clock times to [`Moment`]s.
    pub(super) fn from_record(
        record: &TokenRecord,
        margin: Margin,
        jitter: f64,
        now: Moment,
    ) -> Option<Self> {
        let access_token = record.access_token.as_ref()?;
        let key = record.dpop_key.as_ref().filter(|_| record.bound);
        let key = key.map(dpop::ProofKey::from_stored).transpose().ok()?;
        let scheme = if key.is_some() { "DPoP" } else { "Bearer" };
        let mut authorization =
            HeaderValue::try_from(format!("{scheme} {}", access_token.expose())).ok()?;
        authorization.set_sensitive(true);
        let issued_at = record.issued_at.unwrap_or(SystemTime::UNIX_EPOCH);
        let refresh_at = record.expires_at.map(|expires_at| {
            let lifetime = expires_at.duration_since(issued_at).unwrap_or_default();
            expires_at - margin.of(lifetime, jitter)
        });
        let ahead = issued_at.duration_since(now.wall).unwrap_or_default();
        let is_issue_time_known = ahead <= MAX_CLOCK_SKEW;
        // If the issue time is unknown, the token is used for at most its lifetime from now on.
        let back = if is_issue_time_known { Duration::ZERO } else { ahead };
        let moment = |at: SystemTime| now.at_wall(at.checked_sub(back).unwrap_or(at));
        Some(Self {
            generation: record.generation,
            authorization,
            raw: record.raw.clone(),
            key,
            issued_at,
            expires_at: record.expires_at,
            issued: is_issue_time_known.then(|| moment(issued_at)),
            expires: record.expires_at.map(moment),
            refresh: refresh_at.map(moment),
            issued_for: record.issued_for.clone(),
            seed: None,
            owner: 0,
            first_generation: record.generation,
            rejected: AtomicBool::new(record.rejected),
            used: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            targets: TargetFilter::default(),
            rejected_by: AtomicU64::new(0),
        })
    }

    /// The key that the token is bound to (RFC 9449). Requests need a proof made with it.
    pub fn key(&self) -> Option<&dpop::ProofKey> {
        self.key.as_ref()
    }

    /// The token without its scheme, for requests that carry it elsewhere than in `Authorization`.
    pub fn access_token(&self) -> &str {
        let text = std::str::from_utf8(self.authorization.as_bytes()).unwrap_or_default();
        text.split_once(' ').map_or("", |(_scheme, token)| token)
    }

    /// Makes the token unusable before its expiry, because an origin server rejected it.
    pub(super) fn mark_rejected(&self) {
        self.rejected.store(true, Ordering::Release);
    }

    /// Records that a request used the token, so that it is replaced before it expires.
    pub(super) fn mark_used(&self) {
        // Read first: a write with every request would move the cache line between cores.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Records that `target` accepted the token. Returns true if it is the first target to do so.
    pub(super) fn record_acceptance(&self, target: u64) -> bool {
        self.targets.insert(target);
        if self.rejected_by.load(Ordering::Relaxed) != 0 {
            self.rejected_by.store(0, Ordering::Relaxed);
        }
        // Read first: a write with every request would move the cache line between cores.
        !self.accepted.load(Ordering::Relaxed) && !self.accepted.swap(true, Ordering::Relaxed)
    }

    pub(super) fn was_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Records that `target` rejected the token.
    pub(super) fn record_rejection(&self, target: u64) {
        self.rejected_by.fetch_or(1 << (target % 64), Ordering::Relaxed);
    }

    /// Returns true if the token was accepted once, and several targets have rejected it since its last acceptance.
    pub(super) fn was_rejected_by_several(&self) -> bool {
        let targets = self.rejected_by.load(Ordering::Relaxed).count_ones();
        targets >= REJECTING_TARGETS && self.was_accepted()
    }

    /// Takes over what `before` knows about targets; if it is the same access token, also its times and usage.
    pub(super) fn carry_over_from(&mut self, before: &Self) {
        self.targets = before.targets.carry_over();
        if self.authorization == before.authorization {
            let times =
                |token: &Self| [Some(token.issued_at), token.expires_at].map(in_milliseconds);
            if times(self) == times(before) {
                // The wall clock may have been set since `before` was created.
                (self.issued, self.expires) = (before.issued, before.expires);
            }
            self.first_generation = before.first_generation;
            *self.used.get_mut() = before.was_used();
            *self.accepted.get_mut() = before.was_accepted();
            // A refresh that extends a token gives it a new generation, and another chance.
            if self.generation == before.generation {
                *self.rejected.get_mut() |= before.rejected.load(Ordering::Acquire);
            }
        }
    }

    /// Returns true if `target` has accepted this token or an earlier one. False positives are possible.
    pub(super) fn was_accepted_by(&self, target: u64) -> bool {
        self.targets.contains(target)
    }

    /// Returns true if requests may use the token.
    pub fn is_usable(&self, now: Moment) -> bool {
        !self.expires.is_some_and(|at| at.is_over(now)) && !self.rejected.load(Ordering::Acquire)
    }

    /// Returns true if the token should be replaced.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.refresh.is_some_and(|at| at.is_over(now)) || !self.is_usable(now)
    }

    /// Returns the age of the token. If its issue time is unknown, it counts as old.
    pub(super) fn age(&self, now: Moment) -> Duration {
        self.issued.map_or(Duration::MAX, |issued| issued.elapsed(now))
    }

    /// Returns the time until the token expires, or `None` if it has no known expiry.
    pub(super) fn time_left(&self, now: Moment) -> Option<Duration> {
        Some(self.expires?.left(now))
    }

    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.expires_at?.duration_since(self.issued_at).ok()
    }
}

/// Stored times have millisecond precision.
fn in_milliseconds(at: Option<SystemTime>) -> Option<u128> {
    Some(at?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis())
}

/// The targets that have accepted a token: a Bloom filter, because clients choose the targets and the size must be
/// bounded. A false positive costs at most one unnecessary refresh.
#[derive(Debug, Default)]
struct TargetFilter([AtomicU64; 16]);

impl TargetFilter {
    fn positions(target: u64) -> [(usize, u64); 2] {
        [target, target >> 32].map(|hash| ((hash >> 6) as usize % 16, 1 << (hash % 64)))
    }

    fn insert(&self, target: u64) {
        for (word, bit) in Self::positions(target) {
            // Read first: a write with every request would move the cache line between cores.
            if let Some(word) = self.0.get(word)
                && word.load(Ordering::Relaxed) & bit == 0
            {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn contains(&self, target: u64) -> bool {
        let is_set = |(word, bit): (usize, u64)| {
            self.0.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
        };
        Self::positions(target).into_iter().all(is_set)
    }

    /// Returns a copy for the next token, or an empty filter if more than half of the bits are set.
    fn carry_over(&self) -> Self {
        let words = self.0.each_ref().map(|word| word.load(Ordering::Relaxed));
        let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
        match ones > 512 {
            true => Self::default(),
            false => Self(words.map(AtomicU64::new)),
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken(generation {})", self.generation)
    }
}

#[cfg(test)]
#[path = "access_token/tests.rs"]
mod tests;
