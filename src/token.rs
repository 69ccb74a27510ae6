//! Access tokens: when they are fresh, who waits for a new one, and one flight at a time.
//!
//! A [`Slot`] stands for one credential's token. Reading a fresh token is one atomic load and takes
//! no lock. Everything else goes through a small state machine (`token/state.rs`) behind a mutex
//! under which nothing ever waits. A refresh is a *flight*: a detached task on the control runtime
//! that no client's hanging up can cancel, because the answer of a token endpoint may hold the only
//! copy of a rotated refresh token.
//!
//! *How* a token is replaced, durably, is `token/refresh.rs`.

mod refresh;
mod state;

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::oauth::{self, TokenEndpoint, Transport};
use crate::secret::{Secret, SecretSource};
pub use crate::store::Generation;
use crate::store::{StoreError, TerminalReason, TokenRecord, TokenStore};

use refresh::{Demand, Failure, Refresher};
use state::{Outcome, Phase, Rejection, State, Want};

/// One credential's tokens, as configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The credential's name; also the key of its record.
    pub name: String,
    /// Where tokens come from.
    pub oauth: oauth::Config,
    /// The first refresh token.
    pub seed: Option<Seed>,
    /// How long before its expiry a token is replaced.
    pub margin: Margin,
    /// The lifetime to assume when the answer says nothing; `None`: until an origin rejects it.
    pub lifetime: Option<Duration>,
    /// How long a request may wait for a token. Default 15 s.
    pub wait: Duration,
}

/// Where the first refresh token comes from; once a record exists, the record wins.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The place, for messages.
    pub source: SecretSource,
    /// `None` when there is nothing at that place, which is no error once a record exists.
    pub value: Option<Secret>,
}

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
    /// `Bearer …`, marked sensitive.
    pub authorization: HeaderValue,
    issued_at: SystemTime,
    expires_at: Option<SystemTime>,
    refresh_at: Option<SystemTime>,
    rejected: AtomicBool,
}

impl Token {
    /// Makes a token of a record; `None` if the record holds none.
    fn of(record: &TokenRecord, margin: Margin, jitter: f64) -> Option<Self> {
        let access_token = record.access_token.as_ref()?;
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {}", access_token.expose())).ok()?;
        authorization.set_sensitive(true);
        let issued_at = record.issued_at.unwrap_or(SystemTime::UNIX_EPOCH);
        let refresh_at = record.expires_at.map(|expires_at| {
            let lifetime = expires_at.duration_since(issued_at).unwrap_or_default();
            expires_at - margin.of(lifetime, jitter)
        });
        Some(Self {
            generation: record.generation,
            authorization,
            issued_at,
            expires_at: record.expires_at,
            refresh_at,
            rejected: AtomicBool::new(record.rejected),
        })
    }

    /// May it still be put on a request?
    pub fn is_usable(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|at| now < at) && !self.rejected.load(Ordering::Acquire)
    }

    /// Is it time to replace it?
    fn is_due(&self, now: SystemTime) -> bool {
        self.refresh_at.is_some_and(|at| now >= at) || !self.is_usable(now)
    }

    fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.issued_at).unwrap_or_default()
    }

    fn lifetime(&self) -> Option<Duration> {
        self.expires_at?.duration_since(self.issued_at).ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(generation {})", self.generation)
    }
}

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The authorization server is down, throttles, or is slow; asking again later may help.
    #[error("no access token at the moment ({why})")]
    Unavailable {
        /// When it is worth asking again.
        retry_after: Duration,
        /// What kind of failure it is.
        why: &'static str,
    },
    /// A person has to act.
    #[error("an operator has to act ({reason})")]
    NeedsLogin {
        /// Why.
        reason: TerminalReason,
    },
}

/// What became of a rejection.
#[derive(Debug)]
pub enum Renewal {
    /// Send the request again with this token, after this wait.
    Resend(Arc<Token>, Duration),
    /// Pass the rejection on to the client.
    PassOn,
}

/// How far one request has come with its rejections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// A new token was tried already.
    pub renewed: bool,
    /// How often a brand-new token was waited for.
    pub settled: usize,
}

/// What the parts of a slot that outlive requests need.
#[derive(Clone, Debug)]
pub struct Context {
    /// The runtime on which flights run.
    pub control: Handle,
    /// Counts flights, so that a drain can wait for them.
    pub tasks: TaskTracker,
    /// The wall clock.
    pub clock: Clock,
    /// Where records are kept.
    pub store: Arc<dyn TokenStore>,
    /// How token requests travel.
    pub transport: Arc<dyn Transport>,
}

/// One credential's token.
pub struct Slot {
    name: Arc<str>,
    wait: Duration,
    margin: Margin,
    jitter: f64,
    current: ArcSwapOption<Token>,
    state: Mutex<State>,
    landed: watch::Sender<u64>,
    refresher: Arc<Refresher>,
    context: Context,
}

impl Slot {
    /// Makes a slot and reads its record, so that a token that is still good is used at once.
    pub async fn open(config: Config, context: Context) -> Arc<Self> {
        let endpoint = TokenEndpoint::new(config.oauth.clone(), context.transport.clone());
        let slot = Arc::new(Self {
            name: Arc::from(config.name.as_str()),
            wait: config.wait,
            margin: config.margin,
            jitter: random_share(),
            current: ArcSwapOption::empty(),
            state: Mutex::default(),
            landed: watch::Sender::new(0),
            refresher: Arc::new(Refresher::new(config, endpoint, &context)),
            context,
        });
        let recalled = slot.refresher.recall().await;
        slot.land_quietly(recalled);
        slot
    }

    /// The credential's name.
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
        let token = self.current.load_full();
        let verdict =
            self.lock().reject(rejected, token.as_deref(), now, progress.renewed, progress.settled);
        match (verdict, token) {
            (Rejection::Resend, Some(token)) => return Renewal::Resend(token, Duration::ZERO),
            (Rejection::Settle(wait), Some(token)) => return Renewal::Resend(token, wait),
            (Rejection::StartAndWait, _) => self.start(Demand::rejected(rejected)),
            (Rejection::Wait, _) => {}
            (Rejection::PassOn | Rejection::Resend | Rejection::Settle(_), _) => {
                return Renewal::PassOn;
            }
        }
        // A flight that ends without a newer token leaves the rejection as it is.
        let _deadline = tokio::time::timeout(self.wait, landed.changed()).await;
        match self.current.load_full() {
            Some(token)
                if token.generation > rejected && token.is_usable(self.context.clock.now()) =>
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
            expires_at: token.and_then(|token| token.expires_at),
            unsaved: self.refresher.is_unsaved(),
        }
    }

    /// Starts the flight that the state machine has just allowed.
    fn start(self: &Arc<Self>, demand: Demand) {
        if demand.rejected
            && let Some(token) = self.current.load().as_ref()
            && token.generation == demand.seen
        {
            token.rejected.store(true, Ordering::Release);
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
                failure.outcome
            }
        };
        self.lock().finish(outcome, self.context.clock.now(), random_share());
    }

    fn publish(&self, record: Option<&TokenRecord>) {
        let token = record.and_then(|record| Token::of(record, self.margin, self.jitter));
        self.current.store(token.map(Arc::new));
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

/// What is to be said about one credential, to people and to probes.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: Arc<str>,
    /// What it is doing.
    pub condition: Condition,
    /// Is there a token that may be put on requests?
    pub usable: bool,
    /// The token's generation.
    pub generation: Generation,
    /// When the token expires.
    pub expires_at: Option<SystemTime>,
    /// The record could not be written; a crash now would lose the refresh token.
    pub unsaved: bool,
}

/// What a credential is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No token yet; the next request asks for one.
    Absent,
    /// A token with time to spare.
    Fresh,
    /// A token that the next request will have replaced.
    NearExpiry,
    /// A token request is under way.
    Refreshing,
    /// The last token request failed, for this reason.
    Failing(&'static str),
    /// An operator has to act.
    NeedsLogin(TerminalReason),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Fresh => f.write_str("fresh"),
            Self::NearExpiry => f.write_str("near_expiry"),
            Self::Refreshing => f.write_str("refreshing"),
            Self::Failing(why) => write!(f, "failing ({why})"),
            Self::NeedsLogin(reason) => write!(f, "needs_login ({reason})"),
        }
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

/// What a failed store operation means to people.
fn store_failure(error: &StoreError) -> &'static str {
    match error {
        StoreError::Busy { .. } => "lock_busy",
        StoreError::Io { .. } => "store_io",
        StoreError::Unsafe { .. } => "store_unsafe",
        StoreError::Corrupt { .. } => "store_corrupt",
        StoreError::Newer { .. } => "store_newer",
    }
}
