//! One token request with its repetitions.

use std::time::{Duration, SystemTime};

use super::Refresher;
use super::outcome::may_have_consumed;
use crate::oauth::{Class, Given, Grant, GrantError, TokenResponse};
use crate::secret::Secret;

/// When a request whose answer was lost is made again with the same refresh token: soon, because
/// the shortest documented grace for that is 5 s (Connect2id), and a minute later it is over.
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
    pub(super) async fn ask(&self, grant: Grant<'_>, access_token: Option<&Secret>) -> Asked {
        let mut replays = REPLAYS.iter();
        let mut replayed = false;
        let mut unsent = 0;
        let mut requests = 0;
        loop {
            let at = self.context.clock.now();
            let given = Given { now: at, access_token, variables: &self.variables, proof: None };
            requests += 1;
            let error = match self.endpoint.request(grant, given).await {
                Ok(response) => return Asked { at, answer: Ok(response), requests },
                Err(error) => error,
            };
            let pause = match error.class {
                // The answer had a new refresh token: this one is spent.
                _ if error.salvaged.is_some() => None,
                Class::NotSent if unsent == 0 => {
                    unsent += 1;
                    Some(Duration::ZERO)
                }
                Class::Ambiguous => replays.next().copied(),
                Class::Transient if !replayed && error.retry_after.is_none() => {
                    replays.next().copied()
                }
                _ => None,
            };
            let Some(pause) = pause else {
                return Asked { at, answer: Err(Refused { error, replayed }), requests };
            };
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
}
