//! An access token and its freshness: arithmetic over times that are passed in.

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

/// The clocks of processes that share a store differ by less.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(1);

/// An access token, ready to be put on a request.
pub struct AccessToken {
    /// Which token of its credential it is.
    pub generation: Generation,
    /// `Bearer …`, or `DPoP …` where it is bound to a key; marked sensitive.
    pub authorization: HeaderValue,
    /// The members of the token answer that templates name, by their dotted paths.
    pub raw: BTreeMap<String, Secret>,
    key: Option<dpop::ProofKey>,
    pub(super) issued_at: SystemTime,
    pub(super) expires_at: Option<SystemTime>,
    /// Nobody knows when that was if it is in the future: the clock was set back since.
    issued: Option<Moment>,
    expires: Option<Moment>,
    refresh: Option<Moment>,
    /// What it was issued for: of a configuration that asks for something else it is none.
    pub(super) issued_for: Option<IssuedFor>,
    /// The seed of the configuration that it is for.
    pub(super) seed: Option<Fingerprint>,
    /// The number of the configuration that it was published for; 0: of none.
    pub(super) owner: u64,
    /// The first generation that had this very access token.
    pub(super) since: Generation,
    rejected: AtomicBool,
    used: AtomicBool,
    accepted: AtomicBool,
    targets: TargetFilter,
    /// Which targets have rejected it since it was accepted last: a bit for each, some share one.
    rejected_by: AtomicU64,
}

/// So many targets in a row say that it is the token.
const REJECTING_TARGETS: u32 = 3;

impl AccessToken {
    /// Makes a token of a record; `None` if the record holds none. `now` ties its times, which are those
    /// of a wall clock, to the time that really passes.
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
        let is_known = ahead <= MAX_CLOCK_SKEW;
        // From now on it lives for its lifetime at most.
        let back = if is_known { Duration::ZERO } else { ahead };
        let moment = |at: SystemTime| now.at_wall(at.checked_sub(back).unwrap_or(at));
        Some(Self {
            generation: record.generation,
            authorization,
            raw: record.raw.clone(),
            key,
            issued_at,
            expires_at: record.expires_at,
            issued: is_known.then(|| moment(issued_at)),
            expires: record.expires_at.map(moment),
            refresh: refresh_at.map(moment),
            issued_for: record.issued_for.clone(),
            seed: None,
            owner: 0,
            since: record.generation,
            rejected: AtomicBool::new(record.rejected),
            used: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            targets: TargetFilter::default(),
            rejected_by: AtomicU64::new(0),
        })
    }

    /// The key that it is bound to: without a proof made with it, it is worth nothing.
    pub fn key(&self) -> Option<&dpop::ProofKey> {
        self.key.as_ref()
    }

    /// The token alone, for ways of sending it other than `Authorization`.
    pub fn access_token(&self) -> &str {
        let text = std::str::from_utf8(self.authorization.as_bytes()).unwrap_or_default();
        text.split_once(' ').map_or("", |(_scheme, token)| token)
    }

    /// An origin server rejected it: it is served no more, not even until it expires.
    pub(super) fn mark_rejected(&self) {
        self.rejected.store(true, Ordering::Release);
    }

    /// Somebody asked for it: it is worth replacing before the next request comes.
    pub(super) fn mark_used(&self) {
        // Read first: a write would move the cache line between cores with every request.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// An origin accepted a request for `target` with it. Says whether it is the first.
    pub(super) fn record_acceptance(&self, target: u64) -> bool {
        self.targets.insert(target);
        if self.rejected_by.load(Ordering::Relaxed) != 0 {
            self.rejected_by.store(0, Ordering::Relaxed);
        }
        // Read first, for the same reason.
        !self.accepted.load(Ordering::Relaxed) && !self.accepted.swap(true, Ordering::Relaxed)
    }

    pub(super) fn was_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// A target has rejected it.
    pub(super) fn record_rejection(&self, target: u64) {
        self.rejected_by.fetch_or(1 << (target % 64), Ordering::Relaxed);
    }

    /// Was it accepted, and has it been rejected by several targets since, and accepted by none?
    pub(super) fn was_rejected_by_several(&self) -> bool {
        let targets = self.rejected_by.load(Ordering::Relaxed).count_ones();
        targets >= REJECTING_TARGETS && self.was_accepted()
    }

    /// It goes on from `before`: which targets take good tokens is still known.
    pub(super) fn carry_over_from(&mut self, before: &Self) {
        self.targets = before.targets.carry_over();
        if self.authorization == before.authorization {
            let times =
                |token: &Self| [Some(token.issued_at), token.expires_at].map(in_milliseconds);
            if times(self) == times(before) {
                // Whatever has become of the wall clock since, these are tied to the time that really passes.
                (self.issued, self.expires) = (before.issued, before.expires);
            }
            self.since = before.since;
            *self.used.get_mut() = before.was_used();
            *self.accepted.get_mut() = before.was_accepted();
        }
    }

    /// Has this target accepted it, or a token before it?
    pub(super) fn was_accepted_by(&self, target: u64) -> bool {
        self.targets.contains(target)
    }

    /// May it still be put on a request?
    pub fn is_usable(&self, now: Moment) -> bool {
        !self.expires.is_some_and(|at| at.is_over(now)) && !self.rejected.load(Ordering::Acquire)
    }

    /// Is it time to replace it?
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.refresh.is_some_and(|at| at.is_over(now)) || !self.is_usable(now)
    }

    /// How old it is, at least as far as is known: nothing that was issued in the future is new.
    pub(super) fn age(&self, now: Moment) -> Duration {
        self.issued.map_or(Duration::MAX, |issued| issued.elapsed(now))
    }

    /// How long it may still be put on requests; `None` if nobody knows an end.
    pub(super) fn left(&self, now: Moment) -> Option<Duration> {
        Some(self.expires?.left(now))
    }

    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.expires_at?.duration_since(self.issued_at).ok()
    }
}

/// A store keeps no others.
fn in_milliseconds(at: Option<SystemTime>) -> Option<u128> {
    Some(at?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis())
}

/// Which targets have accepted a token: a Bloom filter, because strangers choose them. What it holds wrongly is
/// asked for a token once too often.
#[derive(Debug, Default)]
struct TargetFilter([AtomicU64; 16]);

impl TargetFilter {
    fn places(target: u64) -> [(usize, u64); 2] {
        [target, target >> 32].map(|hash| ((hash >> 6) as usize % 16, 1 << (hash % 64)))
    }

    fn insert(&self, target: u64) {
        for (word, bit) in Self::places(target) {
            // Read first: a write would move the cache line between cores with every request.
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
        Self::places(target).into_iter().all(is_set)
    }

    /// The same for the next token; but a full one would hold everything.
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
