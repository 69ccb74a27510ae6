//! One credential's token: a lock-free read, and one flight at a time.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use super::refresh::{Demand, Failure, Refresher};
use super::state::{Outcome, Phase, Rejection, State, Want};
use super::{
    Condition, Config, Context, Generation, Margin, Progress, Renewal, Status, Token, TokenError,
};
use crate::crash;
use crate::oauth::TokenEndpoint;
use crate::store::TokenRecord;

/// How often the store is looked at for what other processes have written: a sibling's new token is
/// in use within two seconds.
const LOOK_PAUSE: Duration = Duration::from_millis(1500);

/// One credential's token.
pub struct Slot {
    name: Arc<str>,
    wait: Duration,
    margin: Margin,
    jitter: f64,
    current: ArcSwapOption<Token>,
    state: Mutex<State>,
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
            current: ArcSwapOption::empty(),
            state: Mutex::default(),
            landed: watch::Sender::new(0),
            last_error: Mutex::default(),
            refresher: Arc::new(match before {
                Some(before) => before.refresher.succeed(config, endpoint, &context),
                None => Refresher::new(config, endpoint, &context),
            }),
            context,
        });
        let recalled = slot.refresher.recall().await;
        slot.land_quietly(recalled);
        if slot.context.store.is_shared() {
            let watching = watch_store(Arc::downgrade(&slot));
            slot.context.control.spawn(watching);
        }
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
        let now = self.context.clock.now();
        if let Some(token) = self.fresh(now) {
            return Ok(token);
        }
        let deadline = Instant::now() + self.wait;
        let mut landed = self.landed.subscribe();
        let mut waited = false;
        loop {
            landed.mark_unchanged();
            let now = self.context.clock.now();
            let token = self.current.load_full();
            let want = self.lock().want(token.as_deref(), now);
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
                (Want::Unavailable { until, why }, _) => {
                    let retry_after = until.duration_since(now).unwrap_or_default();
                    // Whoever waited for the flight that failed may see the next one through;
                    // whoever comes later is told at once, so that nothing piles up.
                    if !waited || Instant::now() + retry_after >= deadline {
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
    fn fresh(&self, now: SystemTime) -> Option<Arc<Token>> {
        let token = self.current.load();
        let token = token.as_ref()?;
        (!token.is_due(now)).then(|| Arc::clone(token))
    }

    /// An origin rejected a token of generation `rejected`: what now?
    ///
    /// A rejection counts only for its own generation. A thousand rejections of one token cost one
    /// token request, and those that arrive after it cost none.
    pub async fn renew(self: &Arc<Self>, rejected: Generation, progress: Progress) -> Renewal {
        let mut landed = self.landed.subscribe();
        let now = self.context.clock.now();
        let (verdict, token) = {
            // Read under the lock: a flight publishes before it changes the state.
            let mut state = self.lock();
            let token = self.current.load_full();
            let Progress { renewed, settled } = progress;
            (state.reject(rejected, token.as_deref(), now, renewed, settled), token)
        };
        match (verdict, token) {
            (Rejection::Resend, Some(token)) => return Renewal::Resend(token, Duration::ZERO),
            (Rejection::Settle(wait), Some(token)) => return Renewal::Resend(token, wait),
            (Rejection::StartAndWait, _) => self.start(Demand::rejected(rejected)),
            (Rejection::Wait, _) => {}
            (Rejection::PassOn | Rejection::Resend | Rejection::Settle(_), _) => {
                return Renewal::PassOn;
            }
        }
        // A flight that ends without a newer token leaves the rejection as it is. What wakes may also be
        // the one before it, or a look into the store: then this one is still under way.
        let deadline = Instant::now() + self.wait;
        while tokio::time::timeout_at(deadline, landed.changed()).await.is_ok()
            && generation_of(self.current.load_full().as_deref()) <= rejected
            && self.lock().phase == Phase::Refreshing
        {}
        let brought_the_same = self.lock().brought_the_same();
        match self.current.load_full() {
            Some(token)
                if !brought_the_same
                    && token.generation > rejected
                    && token.is_usable(self.context.clock.now()) =>
            {
                Renewal::Resend(token, Duration::ZERO)
            }
            _ => Renewal::PassOn,
        }
    }

    /// Starts what [`Slot::renew`] would, and waits for nothing: for a request that cannot be sent
    /// again.
    pub fn renew_in_background(self: &Arc<Self>, rejected: Generation) {
        let now = self.context.clock.now();
        let token = self.current.load_full();
        // As if it had been waited for: nothing will be sent again.
        let settled = usize::MAX;
        let verdict = self.lock().reject(rejected, token.as_deref(), now, false, settled);
        if verdict == Rejection::StartAndWait {
            self.start(Demand::rejected(rejected));
        }
    }

    /// A request that was sent again with a new token was not rejected.
    pub fn accepted(&self) {
        self.lock().accepted();
    }

    /// What is to be said about this credential.
    pub fn status(&self) -> Status {
        let now = self.context.clock.now();
        let token = self.current.load_full();
        let usable = token.as_ref().is_some_and(|token| token.is_usable(now));
        let due = token.as_ref().is_some_and(|token| token.is_due(now));
        let condition = match (&self.lock().phase, usable) {
            (Phase::NeedsLogin(reason), _) => Condition::NeedsLogin(*reason),
            (Phase::Failing { why, .. }, _) => Condition::Failing(why),
            (Phase::Refreshing, _) => Condition::Refreshing,
            (Phase::Idle, true) if due => Condition::NearExpiry,
            (Phase::Idle, true) => Condition::Fresh,
            (Phase::Idle, false) => Condition::Absent,
        };
        Status {
            name: Arc::clone(&self.name),
            condition,
            usable,
            generation: generation_of(token.as_deref()),
            refreshed_at: token.as_ref().map(|token| token.issued_at),
            expires_at: token.and_then(|token| token.expires_at),
            last_error: self.last_error().clone(),
            unsaved: self.refresher.is_unsaved(),
        }
    }

    /// Starts the flight that the state machine has just allowed.
    fn start(self: &Arc<Self>, demand: Demand) {
        if demand.rejected
            && let Some(token) = self.current.load().as_ref()
            && token.generation == demand.seen
        {
            token.reject();
        }
        let slot = Arc::clone(self);
        let flight = async move {
            // Lands even if the refresh panics: waiters must not hang on a flight that crashed.
            let mut landing = Landing { slot: Arc::clone(&slot), result: None };
            let refresher = Arc::clone(&slot.refresher);
            landing.result = Some(refresher.refresh(demand).await);
        };
        self.context.tasks.spawn_on(flight, &self.context.control);
    }

    fn land(&self, result: Result<TokenRecord, Failure>) {
        self.land_quietly(result.map(Some));
        crash::point("after_publish");
        self.landed.send_modify(|flights| *flights = flights.wrapping_add(1));
    }

    /// Publishes the token before the state says that the flight is over.
    fn land_quietly(&self, result: Result<Option<TokenRecord>, Failure>) {
        let outcome = match result {
            Ok(record) => {
                self.publish(record.as_ref());
                Outcome::Refreshed
            }
            Err(failure) => {
                if let Some(record) = &failure.record {
                    self.publish(Some(record));
                }
                if let Some(detail) = failure.detail {
                    *self.last_error() = Some((self.context.clock.now(), detail));
                }
                failure.outcome
            }
        };
        self.lock().finish(outcome, self.context.clock.now(), random_share());
    }

    /// Takes over what another process has stored, if this one is doing nothing itself.
    fn adopt(&self, found: Result<TokenRecord, Failure>) {
        let (record, outcome) = match found {
            Ok(record) => (Some(Box::new(record)), Outcome::Refreshed),
            Err(failure) => (failure.record, failure.outcome),
        };
        let mut state = self.lock();
        if state.adopt(outcome, self.context.clock.now()) {
            self.publish(record.as_deref());
        }
        drop(state);
        self.landed.send_modify(|flights| *flights = flights.wrapping_add(1));
    }

    fn publish(&self, record: Option<&TokenRecord>) {
        let token = record.and_then(|record| Token::of(record, self.margin, self.jitter));
        self.current.store(token.map(Arc::new));
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

/// Looks into the store now and then, for as long as the slot lives.
async fn watch_store(slot: Weak<Slot>) {
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        let Some(slot) = slot.upgrade() else { return };
        if let Some(found) = slot.refresher.look().await {
            slot.adopt(found);
        }
    }
}

/// Ends a flight exactly once, whatever happens to it.
struct Landing {
    slot: Arc<Slot>,
    result: Option<Result<TokenRecord, Failure>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(Failure::crashed()));
        self.slot.land(result);
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
