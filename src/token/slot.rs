//! One credential's token: a lock-free read, and one flight at a time.

mod flight;
mod operator;
mod timer;

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use super::refresh::{Demand, Refresher};
use super::state::{Phase, Rejection, SAT_OUT, Spent, State, Want};
use super::{
    Condition, Config, Context, Generation, Margin, Progress, Renewal, Status, Token, TokenError,
};
use crate::clock::Moment;
use crate::oauth::TokenEndpoint;

/// One credential's token.
pub struct Slot {
    name: Arc<str>,
    wait: Duration,
    margin: Margin,
    jitter: f64,
    keepalive: Option<Duration>,
    current: ArcSwapOption<Token>,
    /// The generation of the last record, whether there is a token in it or not.
    published: AtomicU64,
    state: Mutex<State>,
    /// When the refresh token has to be used even if nobody asks.
    upkeep: Mutex<Option<SystemTime>>,
    landed: watch::Sender<u64>,
    last_error: Mutex<Option<(SystemTime, String)>>,
    refresher: Arc<Refresher>,
    context: Context,
}

impl Slot {
    /// Makes a slot and reads its record, so that a token that is still good is used at once.
    ///
    /// `before` is the slot of the same credential before a reload: what only that one knows (a token
    /// that is not saved yet, a record that a backup has overwritten) is not forgotten.
    pub async fn open(config: Config, context: Context, before: Option<&Self>) -> Arc<Self> {
        let endpoint = TokenEndpoint::new(config.oauth.clone(), context.transport.clone());
        let slot = Arc::new(Self {
            name: Arc::from(config.title()),
            wait: config.wait,
            margin: config.margin,
            jitter: random_share(),
            keepalive: config.keepalive,
            current: ArcSwapOption::empty(),
            published: AtomicU64::default(),
            state: Mutex::default(),
            upkeep: Mutex::default(),
            landed: watch::Sender::new(0),
            last_error: Mutex::default(),
            refresher: Arc::new(match before {
                Some(before) => before.refresher.succeed(config, endpoint, &context),
                None => Refresher::new(config, endpoint, &context),
            }),
            context,
        });
        let recalled = slot.refresher.recall().await;
        slot.land_quietly(recalled, Spent::default());
        slot.context.control.spawn(timer::watch(Arc::downgrade(&slot)));
        slot
    }

    /// The credential's name, with the values of its variables: `resamania[paris]`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A token that is usable now. Waits only if there is none, and at most the configured wait.
    ///
    /// # Errors
    ///
    /// [`TokenError`] says whether asking again later may help.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up the wait and nothing else: the flight goes on.
    pub async fn token(self: &Arc<Self>) -> Result<Arc<Token>, TokenError> {
        let now = self.context.clock.moment();
        if let Some(token) = self.fresh(now) {
            return Ok(token);
        }
        let deadline = Instant::now() + self.wait;
        let mut landed = self.landed.subscribe();
        let mut waited = false;
        loop {
            landed.mark_unchanged();
            let now = self.context.clock.moment();
            let (want, token) = self.decide(|state, token| {
                token.iter().for_each(|token| token.mark_used());
                state.want(token, now)
            });
            match (want, token) {
                (Want::Use, Some(token)) => return Ok(token),
                (Want::UseAndStart, Some(token)) => {
                    self.start(Demand::replace(token.generation, true));
                    return Ok(token);
                }
                (Want::StartAndWait | Want::UseAndStart, token) => {
                    self.start(Demand::replace(generation_of(token.as_deref()), false));
                }
                (Want::Wait | Want::Use, _) => {}
                (Want::NeedsLogin(reason), _) => return Err(TokenError::NeedsLogin { reason }),
                (Want::Unavailable { why, .. }, _) if self.refresher.is_retired() => {
                    // Asked again, it will be another slot that answers.
                    let retry_after = Duration::from_secs(1);
                    return Err(TokenError::Unavailable { retry_after, why });
                }
                (Want::Unavailable { until, why }, _) => {
                    let retry_after = until.left(now);
                    // Whoever waited for the flight that failed may see the next one through;
                    // whoever comes later is told at once, unless it is a matter of moments.
                    let is_told = !waited && retry_after > SAT_OUT;
                    if is_told || Instant::now() + retry_after >= deadline {
                        return Err(TokenError::Unavailable { retry_after, why });
                    }
                    tokio::time::sleep(retry_after).await;
                    continue;
                }
            }
            waited = true;
            if tokio::time::timeout_at(deadline, landed.changed()).await.is_err() {
                let retry_after = Duration::from_secs(1);
                return Err(TokenError::Unavailable { retry_after, why: "timeout" });
            }
        }
    }

    /// The current token if it is fresh: no lock, no allocation.
    fn fresh(&self, now: Moment) -> Option<Arc<Token>> {
        let token = self.current.load();
        let token = token.as_ref()?;
        token.mark_used();
        (!token.is_due(now)).then(|| Arc::clone(token))
    }

    /// An origin rejected a token of generation `rejected`: what now?
    ///
    /// A rejection counts only for its own generation. A thousand rejections of one token cost one
    /// token request, and those that arrive after it cost none.
    pub async fn renew(self: &Arc<Self>, rejected: Generation, progress: Progress) -> Renewal {
        let deadline = Instant::now() + self.wait;
        let mut landed = self.landed.subscribe();
        let mut has_looked = false;
        loop {
            landed.mark_unchanged();
            let (mut verdict, mut token) = self.reject(rejected, progress);
            if matches!(verdict, Rejection::Settle(_)) && !has_looked {
                has_looked = true;
                if self.look_again().await {
                    // A sibling has moved on: its token is sent, and nobody waits.
                    (verdict, token) = self.reject(rejected, progress);
                }
            }
            match (verdict, token) {
                (Rejection::Resend, Some(token)) => return Renewal::Resend(token, Duration::ZERO),
                (Rejection::Settle(wait), Some(token)) => return Renewal::Resend(token, wait),
                (Rejection::StartAndWait, _) => self.start(Demand::rejected(rejected)),
                (Rejection::Wait, _) => {}
                (Rejection::Later(wait), _) if Instant::now() + wait < deadline => {
                    tokio::time::sleep(wait).await;
                    continue;
                }
                _ => return Renewal::PassOn,
            }
            // What wakes may also be the flight before this one, or a look into the store: then this one
            // is still under way.
            while tokio::time::timeout_at(deadline, landed.changed()).await.is_ok()
                && generation_of(self.current.load_full().as_deref()) <= rejected
                && self.lock().phase == Phase::Refreshing
            {}
            let now = self.context.clock.moment();
            let newer = self.current.load_full().filter(|token| token.generation > rejected);
            if Instant::now() >= deadline || newer.is_some() || !self.lock().is_paused_briefly(now)
            {
                // A flight that ends without a newer token leaves the rejection as it is.
                let brought_the_same = self.lock().brought_the_same();
                let newer = match newer.filter(|_| !brought_the_same) {
                    // It came so late that it is over already; the next is nobody's rejection.
                    Some(token) if !token.is_usable(now) => {
                        tokio::time::timeout_at(deadline, self.token())
                            .await
                            .ok()
                            .and_then(Result::ok)
                    }
                    newer => newer,
                };
                return newer
                    .map_or(Renewal::PassOn, |token| Renewal::Resend(token, Duration::ZERO));
            }
        }
    }

    fn reject(&self, rejected: Generation, progress: Progress) -> (Rejection, Option<Arc<Token>>) {
        let now = self.context.clock.moment();
        let Progress { renewed, settled } = progress;
        self.decide(|state, token| state.reject(rejected, token, now, renewed, settled))
    }

    /// Asks the state machine about the current token, which comes along. The token is read under the
    /// lock, because a flight publishes before it changes the state: whoever read it earlier could bring
    /// the old token before a machine that rests again, and start a flight for what has just landed.
    fn decide<T>(
        &self,
        ask: impl FnOnce(&mut State, Option<&Token>) -> T,
    ) -> (T, Option<Arc<Token>>) {
        let mut state = self.lock();
        let token = self.current.load_full();
        (ask(&mut state, token.as_deref()), token)
    }

    /// Starts what [`Slot::renew`] would, and waits for nothing: for a request that cannot be sent
    /// again.
    pub fn renew_in_background(self: &Arc<Self>, rejected: Generation) {
        // As if it had been waited for: nothing will be sent again.
        let progress = Progress { renewed: false, settled: usize::MAX };
        if self.reject(rejected, progress).0 == Rejection::StartAndWait {
            self.start(Demand::rejected(rejected));
        }
    }

    /// A request that was sent again with a new token was not rejected.
    pub fn accepted(&self) {
        self.lock().accepted();
    }

    /// What is to be said about this credential.
    pub fn status(&self) -> Status {
        let now = self.context.clock.moment();
        let ((condition, failing_since, usable), token) = self.decide(|state, token| {
            let usable = token.is_some_and(|token| token.is_usable(now));
            let due = token.is_some_and(|token| token.is_due(now));
            let condition = match (&state.phase, usable) {
                (Phase::NeedsLogin(reason), _) => Condition::NeedsLogin(*reason),
                (Phase::Failing { why, .. }, _) => Condition::Failing(why),
                (Phase::Refreshing, _) => Condition::Refreshing,
                (Phase::Idle, true) if due => Condition::NearExpiry,
                (Phase::Idle, true) => Condition::Fresh,
                (Phase::Idle, false) => Condition::Absent,
            };
            (condition, state.failing_since(), usable)
        });
        Status {
            name: Arc::clone(&self.name),
            condition,
            usable,
            generation: generation_of(token.as_deref()),
            refreshed_at: token.as_ref().map(|token| token.issued_at),
            expires_at: token.and_then(|token| token.expires_at),
            failing_since: failing_since.map(|since| since.wall),
            last_error: self.last_error().clone(),
            unsaved: self.refresher.is_unsaved(),
        }
    }

    fn last_error(&self) -> MutexGuard<'_, Option<(SystemTime, String)>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.name)
    }
}

fn generation_of(token: Option<&Token>) -> Generation {
    token.map(|token| token.generation).unwrap_or_default()
}

/// A number from 0 to 1 that nobody needs to be unable to guess.
fn random_share() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
#[path = "slot/tests.rs"]
mod tests;
