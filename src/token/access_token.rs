//! An access token and its freshness: arithmetic over times that are passed in.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderValue;

use crate::dpop;
use crate::store::{Generation, TokenRecord};

/// How long before its expiry an access token is replaced.
///
/// While a token is inside this window requests go on using it and one refresh runs in the
/// background. The window is wall-clock time and never more than half the token's lifetime, so that
/// short tokens are not refreshed without end. Up to a fifth is taken off at random, so that many
/// credentials and processes do not all refresh at the same second.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Margin {
    /// A tenth of the lifetime, at least 10 s and at most 5 min: longer than clocks usually differ.
    #[default]
    Auto,
    /// This long.
    Fixed(Duration),
    /// This share of the lifetime, from 0 to 1.
    Share(f64),
}

impl Margin {
    /// The margin for a token of this lifetime; `jitter` from 0 to 1 shortens it by up to a fifth.
    pub fn of(self, lifetime: Duration, jitter: f64) -> Duration {
        let margin = match self {
            Self::Auto => (lifetime / 10).clamp(Duration::from_secs(10), Duration::from_secs(300)),
            Self::Fixed(margin) => margin,
            Self::Share(share) => lifetime.mul_f64(share.clamp(0.0, 1.0)),
        };
        margin.min(lifetime / 2).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 5.0)
    }
}

/// An access token, ready to be put on a request.
pub struct Token {
    /// Which token of its credential it is.
    pub generation: Generation,
    /// `Bearer …`, or `DPoP …` where it is bound to a key; marked sensitive.
    pub authorization: HeaderValue,
    key: Option<dpop::Key>,
    pub(super) issued_at: SystemTime,
    pub(super) expires_at: Option<SystemTime>,
    refresh_at: Option<SystemTime>,
    rejected: AtomicBool,
}

impl Token {
    /// Makes a token of a record; `None` if the record holds none.
    pub(super) fn of(record: &TokenRecord, margin: Margin, jitter: f64) -> Option<Self> {
        let access_token = record.access_token.as_ref()?;
        let key = record.dpop_key.as_ref().map(dpop::Key::from_stored).transpose().ok()?;
        let scheme = if key.is_some() { "DPoP" } else { "Bearer" };
        let mut authorization =
            HeaderValue::try_from(format!("{scheme} {}", access_token.expose())).ok()?;
        authorization.set_sensitive(true);
        let issued_at = record.issued_at.unwrap_or(SystemTime::UNIX_EPOCH);
        let refresh_at = record.expires_at.map(|expires_at| {
            let lifetime = expires_at.duration_since(issued_at).unwrap_or_default();
            expires_at - margin.of(lifetime, jitter)
        });
        Some(Self {
            generation: record.generation,
            authorization,
            key,
            issued_at,
            expires_at: record.expires_at,
            refresh_at,
            rejected: AtomicBool::new(record.rejected),
        })
    }

    /// The key that it is bound to: without a proof made with it, it is worth nothing.
    pub fn key(&self) -> Option<&dpop::Key> {
        self.key.as_ref()
    }

    /// The token alone, for ways of sending it other than `Authorization`.
    pub fn access_token(&self) -> &str {
        let text = std::str::from_utf8(self.authorization.as_bytes()).unwrap_or_default();
        text.split_once(' ').map_or("", |(_scheme, token)| token)
    }

    /// An origin server rejected it: it is served no more, not even until it expires.
    pub(super) fn reject(&self) {
        self.rejected.store(true, Ordering::Release);
    }

    /// May it still be put on a request?
    pub fn is_usable(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|at| now < at) && !self.rejected.load(Ordering::Acquire)
    }

    /// Is it time to replace it?
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.refresh_at.is_some_and(|at| now >= at) || !self.is_usable(now)
    }

    pub(super) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.issued_at).unwrap_or_default()
    }

    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.expires_at?.duration_since(self.issued_at).ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(generation {})", self.generation)
    }
}
