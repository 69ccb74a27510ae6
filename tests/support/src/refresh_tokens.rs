//! The life of a refresh token: rotation, grace, reuse and revocation.
//!
//! Exactly one refresh token is current. A family is everything that descends from one
//! login; a new login starts a new family and takes the old one's refresh token out of
//! use. Within a family tokens have generations: the successor of a token is one
//! generation younger than the token that was presented for it. A token rotated away is
//! remembered for ever, so presenting it again is always recognized.

use std::time::{Duration, Instant};

use crate::tokens::unique_value;

/// What a refresh does to the refresh token that was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The answer repeats the refresh token, which stays valid.
    Keep,
    /// The answer has no `refresh_token`; the presented one stays valid.
    Omit,
    /// The answer has a new refresh token that replaces the presented one.
    Rotate {
        /// How long the immediately preceding token is still accepted.
        grace: Duration,
        /// What happens when a replaced token is presented outside the grace.
        on_reuse: OnReuse,
    },
}

impl Rotation {
    /// Rotation without grace that revokes the family on reuse: the strictest servers.
    pub const STRICT: Rotation =
        Rotation::Rotate { grace: Duration::ZERO, on_reuse: OnReuse::RevokeFamily };

    fn grace(self) -> Duration {
        match self {
            Rotation::Rotate { grace, .. } => grace,
            Rotation::Keep | Rotation::Omit => Duration::ZERO,
        }
    }

    fn revokes_on_reuse(self) -> bool {
        let Rotation::Rotate { on_reuse, .. } = self else {
            return false;
        };
        on_reuse == OnReuse::RevokeFamily
    }
}

/// The server's reaction to a replaced refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReuse {
    /// `invalid_grant`, nothing else.
    Refuse,
    /// `invalid_grant`, and the newest refresh token and all live access tokens of the
    /// family are revoked.
    RevokeFamily,
}

struct Current {
    value: String,
    family: u64,
    generation: u64,
    revoked: bool,
}

struct Superseded {
    value: String,
    family: u64,
    generation: u64,
    at: Instant,
    /// A login took it out of use; it was not exchanged for a successor.
    by_login: bool,
}

/// What the presentation of a refresh token amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presented {
    /// Accepted; `returned` is the refresh token for the answer.
    Accepted { family: u64, returned: Option<String> },
    /// Never issued, revoked, or replaced by a login.
    Invalid,
    /// Replaced and presented again; `revoked` is the family this has cost.
    Reused { revoked: Option<u64> },
}

/// The presentation of a refresh token that had been replaced.
#[derive(Clone, Debug)]
pub struct Reuse {
    /// The refresh token.
    pub refresh_token: String,
    /// When it was presented.
    pub at: Instant,
}

/// All refresh tokens of an authorization server.
pub(crate) struct RefreshTokens {
    current: Current,
    superseded: Vec<Superseded>,
    issued: usize,
    families: u64,
    reuses: Vec<Reuse>,
}

impl RefreshTokens {
    /// Tokens whose first family has this number.
    pub(crate) fn new(initial: String, family: u64) -> RefreshTokens {
        RefreshTokens {
            current: Current { value: initial, family, generation: 0, revoked: false },
            superseded: Vec::new(),
            issued: 0,
            families: family,
            reuses: Vec::new(),
        }
    }

    /// Judges a presented token and rotates if the policy says so.
    pub(crate) fn present(&mut self, token: &str, rotation: Rotation) -> Presented {
        match self.generation_of(token, rotation.grace()) {
            Some(generation) => self.accept(token, generation, rotation),
            None if self.was_rotated_away(token) => self.reuse(token, rotation),
            None => Presented::Invalid,
        }
    }

    /// Starts a new family, as a login does, and returns its refresh token.
    pub(crate) fn log_in(&mut self) -> String {
        self.families += 1;
        self.replace(self.families, 0, true)
    }

    pub(crate) fn revoke(&mut self) {
        self.current.revoked = true;
    }

    pub(crate) fn current(&self) -> &str {
        &self.current.value
    }

    pub(crate) fn family(&self) -> u64 {
        self.current.family
    }

    pub(crate) fn is_current(&self, token: &str) -> bool {
        self.current.value == token && !self.current.revoked
    }

    pub(crate) fn previous(&self) -> Vec<String> {
        self.superseded.iter().map(|old| old.value.clone()).collect()
    }

    pub(crate) fn reuses(&self) -> &[Reuse] {
        &self.reuses
    }

    /// The generation of an acceptable token.
    fn generation_of(&self, token: &str, grace: Duration) -> Option<u64> {
        if self.current.revoked {
            return None;
        }
        if self.current.value == token {
            return Some(self.current.generation);
        }
        self.in_grace(token, grace)
    }

    fn in_grace(&self, token: &str, grace: Duration) -> Option<u64> {
        let old = self.find_superseded(token)?;
        let precedes = old.family == self.current.family
            && !old.by_login
            && old.generation + 1 >= self.current.generation;
        (precedes && old.at.elapsed() < grace).then_some(old.generation)
    }

    fn accept(&mut self, token: &str, generation: u64, rotation: Rotation) -> Presented {
        let family = self.current.family;
        let returned = match rotation {
            Rotation::Keep => Some(token.to_owned()),
            Rotation::Omit => None,
            Rotation::Rotate { .. } => Some(self.replace(family, generation + 1, false)),
        };
        Presented::Accepted { family, returned }
    }

    fn reuse(&mut self, token: &str, rotation: Rotation) -> Presented {
        self.reuses.push(Reuse { refresh_token: token.to_owned(), at: Instant::now() });
        let family = self.find_superseded(token).map(|old| old.family);
        let revoked = family.filter(|_| rotation.revokes_on_reuse());
        if revoked == Some(self.current.family) {
            self.revoke();
        }
        Presented::Reused { revoked }
    }

    fn replace(&mut self, family: u64, generation: u64, by_login: bool) -> String {
        self.issued += 1;
        let value = unique_value("rt", self.issued);
        let next = Current { value: value.clone(), family, generation, revoked: false };
        let old = std::mem::replace(&mut self.current, next);
        self.superseded.push(Superseded {
            value: old.value,
            family: old.family,
            generation: old.generation,
            at: Instant::now(),
            by_login,
        });
        value
    }

    fn was_rotated_away(&self, token: &str) -> bool {
        self.find_superseded(token).is_some_and(|old| !old.by_login)
    }

    fn find_superseded(&self, token: &str) -> Option<&Superseded> {
        self.superseded.iter().rev().find(|old| old.value == token)
    }
}
