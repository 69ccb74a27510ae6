//! The ledger of access tokens: what was issued, and what each is worth now.
//!
//! Validity is measured with the monotonic clock, independent of what a token response
//! announced. Every access token belongs to a family, the grant it descends from, so
//! that a revocation can take a whole family with it. Revoked stays revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The worth of an access token at an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It was issued and neither expired nor was revoked.
    Valid,
    /// Its lifetime is over.
    Expired,
    /// It was revoked, expired or not.
    Revoked,
    /// It was never issued.
    Unknown,
}

struct AccessToken {
    value: String,
    family: u64,
    /// The thumbprint of the key that it is bound to.
    key: Option<String>,
    ends: Instant,
    revoked: bool,
    /// When an API first accepted it.
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

/// All access tokens of an authorization server; clones share the same ledger.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Mutex<Ledger>>);

/// The family of tokens that no refresh token stands behind.
const NO_FAMILY: u64 = 0;

impl Tokens {
    /// An empty ledger, for an API without an authorization server.
    pub fn new() -> Tokens {
        Tokens::default()
    }

    /// What `token` is worth now.
    pub fn check(&self, token: &str) -> TokenState {
        let mut ledger = self.ledger();
        let Some(&at) = ledger.by_value.get(token) else { return TokenState::Unknown };
        let state = ledger.tokens[at].state();
        if state == TokenState::Valid {
            ledger.tokens[at].used.get_or_insert_with(Instant::now);
        }
        state
    }

    /// Issues a token outside of any token response.
    pub fn issue_access_token(&self, lifetime: Duration) -> String {
        self.issue(NO_FAMILY, lifetime)
    }

    /// Revokes one token; an unknown one is left unknown.
    pub fn revoke_access_token(&self, token: &str) {
        self.revoke_where(|candidate| candidate.value == token);
    }

    /// Revokes all tokens issued so far.
    pub fn revoke_all_access_tokens(&self) {
        self.revoke_where(|_| true);
    }

    /// Revokes those of the live tokens that APIs have accepted for so long for which `chosen` is true.
    /// Returns how many.
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

    /// Ends the lifetime of all tokens issued so far.
    pub fn expire_all_access_tokens(&self) {
        let now = Instant::now();
        for token in &mut self.ledger().tokens {
            token.ends = token.ends.min(now);
        }
    }

    /// The tokens an API would accept now, oldest first.
    pub fn live_access_tokens(&self) -> Vec<String> {
        let ledger = self.ledger();
        let live = ledger.tokens.iter().filter(|token| token.state() == TokenState::Valid);
        live.map(|token| token.value.clone()).collect()
    }

    /// How many tokens were ever issued.
    pub fn issued_access_tokens(&self) -> usize {
        self.ledger().tokens.len()
    }

    /// The token issued last, whatever became of it.
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

    /// Binds a token to the key with this thumbprint.
    pub(crate) fn bind(&self, token: &str, key: String) {
        for found in self.ledger().tokens.iter_mut().filter(|found| found.value == token) {
            found.key = Some(key.clone());
        }
    }

    /// The thumbprint of the key that a token is bound to.
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

/// A value like `at-3-5f0c…` that no log contains by accident.
pub(crate) fn unique_value(prefix: &str, number: usize) -> String {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).expect("the system has randomness");
    format!("{prefix}-{number}-{}", hex(&random))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
