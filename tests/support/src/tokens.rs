//! The ledger of issued access tokens and their current state.
//!
//! Validity follows the monotonic clock, independent of the announced `expires_in`. Every
//! access token belongs to a family, the grant it descends from, so that a revocation can
//! cover the whole family. Revocation is final.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The state of an access token at an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Issued, not expired and not revoked.
    Valid,
    /// Expired.
    Expired,
    /// Revoked, whether expired or not.
    Revoked,
    /// Never issued.
    Unknown,
}

struct AccessToken {
    value: String,
    family: u64,
    /// The thumbprint of the key that the token is bound to, if any.
    key: Option<String>,
    ends: Instant,
    revoked: bool,
    /// The time an API first accepted the token.
    used: Option<Instant>,
}

impl AccessToken {
    fn state(&self) -> TokenState {
        match () {
            () if self.revoked => TokenState::Revoked,
            () if self.ends <= Instant::now() => TokenState::Expired,
            () => TokenState::Valid,
        }
    }
}

#[derive(Default)]
struct Ledger {
    tokens: Vec<AccessToken>,
    by_value: HashMap<String, usize>,
}

/// All access tokens of an authorization server. Clones share one ledger.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Mutex<Ledger>>);

/// The family number of tokens without a refresh token.
const NO_FAMILY: u64 = 0;

impl Tokens {
    /// Creates an empty ledger, for an API without an authorization server.
    pub fn new() -> Tokens {
        Tokens::default()
    }

    /// Returns the current state of `token`, and records its first use.
    pub fn check(&self, token: &str) -> TokenState {
        let mut ledger = self.ledger();
        let Some(&at) = ledger.by_value.get(token) else { return TokenState::Unknown };
        let state = ledger.tokens[at].state();
        if state == TokenState::Valid {
            ledger.tokens[at].used.get_or_insert_with(Instant::now);
        }
        state
    }

    /// Issues a token without a token response.
    pub fn issue_access_token(&self, lifetime: Duration) -> String {
        self.issue(NO_FAMILY, lifetime)
    }

    /// Revokes one token. Does nothing if the token is unknown.
    pub fn revoke_access_token(&self, token: &str) {
        self.revoke_where(|candidate| candidate.value == token);
    }

    /// Revokes all tokens issued so far.
    pub fn revoke_all_access_tokens(&self) {
        self.revoke_where(|_| true);
    }

    /// Revokes the live tokens that an API first accepted at least `time` ago and for which `chosen`
    /// returns true. Returns the number revoked.
    pub fn revoke_access_tokens_in_use_for(
        &self,
        time: Duration,
        mut chosen: impl FnMut() -> bool,
    ) -> usize {
        let mut ledger = self.ledger();
        let live = ledger.tokens.iter_mut().filter(|token| token.state() == TokenState::Valid);
        live.filter(|token| token.used.is_some_and(|used| used.elapsed() >= time) && chosen())
            .map(|token| token.revoked = true)
            .count()
    }

    /// Expires all tokens issued so far.
    pub fn expire_all_access_tokens(&self) {
        let now = Instant::now();
        for token in &mut self.ledger().tokens {
            token.ends = token.ends.min(now);
        }
    }

    /// Returns the tokens that an API accepts now, oldest first.
    pub fn live_access_tokens(&self) -> Vec<String> {
        let ledger = self.ledger();
        let live = ledger.tokens.iter().filter(|token| token.state() == TokenState::Valid);
        live.map(|token| token.value.clone()).collect()
    }

    /// Returns the number of tokens issued.
    pub fn issued_access_tokens(&self) -> usize {
        self.ledger().tokens.len()
    }

    /// Returns the token issued last, whatever its state.
    pub fn newest_access_token(&self) -> Option<String> {
        self.ledger().tokens.last().map(|token| token.value.clone())
    }

    pub(crate) fn issue(&self, family: u64, lifetime: Duration) -> String {
        let mut ledger = self.ledger();
        let number = ledger.tokens.len();
        let value = unique_value("at", number + 1);
        ledger.by_value.insert(value.clone(), number);
        ledger.tokens.push(AccessToken {
            value: value.clone(),
            family,
            key: None,
            ends: Instant::now() + lifetime,
            revoked: false,
            used: None,
        });
        value
    }

    /// Binds a token to the key with the thumbprint `key`.
    pub(crate) fn bind(&self, token: &str, key: String) {
        for found in self.ledger().tokens.iter_mut().filter(|found| found.value == token) {
            found.key = Some(key.clone());
        }
    }

    /// Returns the thumbprint of the key that a token is bound to, if any.
    pub(crate) fn key_of(&self, token: &str) -> Option<String> {
        let ledger = self.ledger();
        ledger.by_value.get(token).and_then(|&at| ledger.tokens[at].key.clone())
    }

    pub(crate) fn revoke_family(&self, family: u64) {
        self.revoke_where(|token| token.family == family);
    }

    fn revoke_where(&self, chosen: impl Fn(&AccessToken) -> bool) {
        for token in &mut self.ledger().tokens {
            token.revoked |= chosen(token);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// Returns a value such as `at-3-5f0c…`, random enough to search logs for.
pub(crate) fn unique_value(prefix: &str, number: usize) -> String {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).expect("the system has randomness");
    format!("{prefix}-{number}-{}", hex(&random))
}

/// Returns lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
