//! Refresh tokens: rotation, grace period, reuse detection and revocation.
//!
//! Exactly one refresh token is current. A family is all tokens that descend from one
//! login; a new login starts a new family and invalidates the refresh token of the old
//! one. Tokens in a family are numbered by generation: the successor of a token has the
//! generation of the presented token plus one. Rotated tokens are never forgotten, so
//! every reuse is detected.

use std::time::{Duration, Instant};

use crate::tokens::unique_value;

/// The effect of a refresh on the presented refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The answer repeats the refresh token. It stays valid.
    Keep,
    /// The answer has no `refresh_token`. The presented one stays valid.
    Omit,
    /// The answer has a new refresh token that replaces the presented one.
    Rotate {
        /// How long the immediate predecessor is still accepted.
        grace: Duration,
        /// The reaction to a replaced token presented after the grace period.
        on_reuse: OnReuse,
    },
}

impl Rotation {
    /// Rotation without a grace period that revokes the family on reuse, as the strictest servers do.
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
    /// Answers `invalid_grant` only.
    Refuse,
    /// Answers `invalid_grant`, and revokes the newest refresh token and all live access
    /// tokens of the family.
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
    /// True if a login replaced the token, instead of a refresh.
    by_login: bool,
}

/// The result of presenting a refresh token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presented {
    /// Accepted. `returned` is the refresh token of the answer.
    Accepted { family: u64, returned: Option<String> },
    /// Never issued, revoked, or replaced by a login.
    Invalid,
    /// Presented after it was replaced. `revoked` is the family that was revoked.
    Reused { revoked: Option<u64> },
}

/// One presentation of a replaced refresh token.
#[derive(Clone, Debug)]
pub struct Reuse {
    /// The refresh token.
    pub refresh_token: String,
    /// The time of the presentation.
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
    /// Creates the tokens; the first family has this number.
    pub(crate) fn new(initial: String, family: u64) -> RefreshTokens {
        RefreshTokens {
            current: Current { value: initial, family, generation: 0, revoked: false },
            superseded: Vec::new(),
            issued: 0,
            families: family,
            reuses: Vec::new(),
        }
    }

    /// Checks a presented token, and rotates it if the policy requires it.
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

    /// Returns the generation of an acceptable token.
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
