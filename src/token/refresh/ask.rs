//! One token request with its repetitions.

use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Refresher;
use super::outcome::may_have_consumed;
use crate::dpop;
use crate::oauth::{Class, Given, Grant, GrantError, Proof, TokenResponse};
use crate::secret::Secret;
use crate::store::TokenRecord;

/// When a request whose answer was lost is made again with the same refresh token, counted from the
/// first of them, as a server's grace is: soon, because the shortest documented one is 5 s (Connect2id).
/// A moment that has passed before the loss was noticed is left out: where one that late comes after the
/// grace, servers that see theft in it revoke the access token that is still good as well.
const REPLAYS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(4)];

/// What became of it.
pub(super) struct Asked {
    /// When the request was sent that was answered.
    pub(super) at: SystemTime,
    /// What came of it.
    pub(super) answer: Result<TokenResponse, Refused>,
    /// HTTP requests that were made.
    pub(super) requests: u32,
}

/// A failed token request, and whether an answer may have been lost on the way to it.
pub(super) struct Refused {
    pub(super) error: GrantError,
    pub(super) replayed: bool,
}

impl Refresher {
    /// Sends the grant, again at once if it never left, and again soon if no answer came.
    pub(super) async fn ask(
        &self,
        grant: Grant<'_>,
        access_token: Option<&Secret>,
        key: Option<&dpop::Key>,
    ) -> Asked {
        let mut replays = REPLAYS.iter();
        let mut first_sent = None;
        let mut replayed = false;
        let mut unsent = 0;
        let mut requests = 0;
        let mut proved_again = false;
        loop {
            let at = self.context.clock.now();
            let nonce = key.and_then(|_| self.nonce());
            let proof = key.map(|key| Proof { key, nonce: nonce.as_deref() });
            let given = Given { now: at, access_token, variables: &self.variables, proof };
            requests += 1;
            let sent = Instant::now();
            let error = match self.endpoint.request(grant, given).await {
                Ok(response) => {
                    self.keep_nonce(response.dpop_nonce.as_deref());
                    return Asked { at, answer: Ok(response), requests };
                }
                Err(error) => error,
            };
            self.keep_nonce(error.dpop_nonce.as_deref());
            if may_have_consumed(error.class) {
                first_sent.get_or_insert(sent);
            }
            let so_far = first_sent.map(|first| first.elapsed()).unwrap_or_default();
            let mut replay = || replays.find_map(|offset| offset.checked_sub(so_far));
            let pause = match error.class {
                // Nothing was looked at but the proof (RFC 9449 §8).
                Class::Nonce if key.is_some() && !proved_again => {
                    proved_again = true;
                    Some(Duration::ZERO)
                }
                // The answer had a new refresh token: this one is spent.
                _ if error.salvaged.is_some() => None,
                Class::NotSent if unsent == 0 => {
                    unsent += 1;
                    Some(Duration::ZERO)
                }
                Class::Ambiguous => replay(),
                Class::Transient if !replayed && error.retry_after.is_none() => replay(),
                _ => None,
            };
            let Some(pause) = pause else {
                return Asked { at, answer: Err(Refused { error, replayed }), requests };
            };
            if error.class == Class::Nonce {
                continue;
            }
            if may_have_consumed(error.class) {
                replayed = true;
                self.metrics.replayed();
            }
            tracing::warn!(
                credential = self.name,
                class = %error.class,
                %error,
                again_in = ?pause,
                "token request failed"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// What the authorization server wants to see in the next proof.
    fn nonce(&self) -> Option<String> {
        self.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_nonce(&self, nonce: Option<&str>) {
        if let Some(nonce) = nonce {
            *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_owned());
        }
    }

    /// The key that this credential's tokens are bound to, if they are bound to one: that of the
    /// record, or a new one, which the record holds from now on. A refresh token may be bound to it as
    /// well (RFC 9449 §5), so it is written down before the first request with it goes out, wherever an
    /// intent is.
    ///
    /// An access token that was issued before the binding was switched on or off, or for a key that is
    /// damaged, is no token any more.
    pub(super) fn bind(&self, record: &mut TokenRecord) -> Option<dpop::Key> {
        let stored = record.dpop_key.as_ref().and_then(|text| dpop::Key::from_stored(text).ok());
        let key = self.is_bound().then(|| stored.unwrap_or_else(dpop::Key::generate));
        let text = key.as_ref().map(dpop::Key::to_stored);
        if record.dpop_key.as_ref() != text {
            record.dpop_key = text.cloned();
            record.access_token = None;
            record.expires_at = None;
        }
        key
    }

    /// Are tokens bound to a key?
    pub(in crate::token) fn is_bound(&self) -> bool {
        self.endpoint.config().reading.dpop
    }
}
