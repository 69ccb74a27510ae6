//! Name resolution for the whole process.
//!
//! `getaddrinfo` knows what the machine knows (the hosts file, mDNS, VPN rules), but it blocks, can
//! take half a minute and cannot be cancelled. It therefore runs on detached threads, which never
//! delay the end of the process or of a runtime. Callers wait until their own deadline, concurrent
//! callers share one lookup per name, and answers are cached for a short time.
//!
//! Limits keep names that never resolve from blocking others:
//!
//! - At most [`MAX_THREADS`] lookups run at once, at most [`MAX_PER_SUFFIX`] of them for names with
//!   the same last two labels, and [`RESERVED_THREADS`] threads are reserved for names that have
//!   resolved before.
//! - While the lookup of a name that has resolved before takes long or fails, it is answered from
//!   the cache.
//! - At most [`MAX_WAITING`] names wait for a thread, at most [`MAX_WAITING_PER_SUFFIX`] with the
//!   same last two labels. Names without a caller are not looked up.
//!
//! Limitation: while more than 24 names of several domains hang in the system resolver, a name that
//! was never looked up before waits for a thread until its deadline.

mod queue;
mod special;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dns_lookup::LookupErrorKind;
use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use queue::{LookupQueue, LookupTask};
pub(crate) use special::is_loopback;

/// Concurrent lookups. A waiting thread costs a few pages of stack.
pub(crate) const MAX_THREADS: usize = 32;
/// Threads reserved for names that have resolved before.
pub(crate) const RESERVED_THREADS: usize = 8;
/// Concurrent lookups for names with the same last two labels, whose servers may all be down.
pub(crate) const MAX_PER_SUFFIX: usize = 8;
/// Names waiting for a thread.
pub(crate) const MAX_WAITING: usize = 2048;
/// Names with the same last two labels waiting for a thread.
pub(crate) const MAX_WAITING_PER_SUFFIX: usize = 512;
/// Names whose last answer is cached.
const MAX_ANSWERS: u64 = 1024;
/// Names whose last failure is cached; separate from the answers, so that a flood of bad names does
/// not evict them.
const MAX_FAILURES: u64 = 1024;
/// How long a stale answer may be used while lookups fail.
const MAX_STALE: Duration = Duration::from_secs(3600);
/// How long an idle thread stays.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// At least one address, in the system's order.
pub(crate) type LookupResult = Result<Arc<[IpAddr]>, NameError>;

/// Why a name could not be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// The name does not exist.
    #[error("the name does not exist")]
    NotFound,
    /// The name exists but has no address.
    #[error("the name has no address")]
    NoAddress,
    /// The name servers failed or did not answer (`EAI_AGAIN`).
    #[error("the name servers failed or did not answer")]
    Unavailable,
    /// The lookup failed in another way.
    #[error("the lookup failed (getaddrinfo error {0})")]
    Failed(i32),
    /// No answer before the caller's deadline.
    #[error("the name was not resolved in time")]
    Timeout,
    /// Too many names are waiting.
    #[error("too many names are waiting to be looked up")]
    QueueFull,
}

impl NameError {
    /// Returns true if the error is a property of the name and not of the lookup.
    fn is_about_name(self) -> bool {
        matches!(self, Self::NotFound | Self::NoAddress)
    }
}

/// A blocking lookup.
pub(crate) trait Lookup: Send + Sync + 'static {
    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NameError>;
}

/// Looks names up with `getaddrinfo`.
struct SystemLookup;

/// How long answers are used.
#[derive(Clone, Copy, Debug)]
struct CacheTimes {
    /// How long an answer is used without a new lookup.
    fresh: Duration,
    /// How long a failure is used without a new lookup.
    failed: Duration,
    /// How long a lookup may take before a stale answer is used.
    lookup_wait: Duration,
}

impl Default for CacheTimes {
    /// 30 s for answers, a common TTL of entries that are about to change; 2 s for failures, so
    /// that a burst causes one lookup; 500 ms for lookups, longer than usual ones take.
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(30),
            failed: Duration::from_secs(2),
            lookup_wait: Duration::from_millis(500),
        }
    }
}

/// Resolves names. Clones share threads and cache.
#[derive(Clone)]
pub(crate) struct Resolver {
    state: Arc<ResolverState>,
}

struct ResolverState {
    lookup: Box<dyn Lookup>,
    times: CacheTimes,
    answers: Cache<Arc<str>, CachedValue<Arc<[IpAddr]>>>,
    failures: Cache<Arc<str>, CachedValue<NameError>>,
    queue: Mutex<LookupQueue>,
    work: Condvar,
}

/// A value and when it was obtained.
#[derive(Clone, Debug)]
struct CachedValue<T> {
    value: T,
    at: Instant,
}

impl Resolver {
    /// A resolver that uses the system. Starts no thread before the first lookup.
    pub(crate) fn new() -> Self {
        Self::with(SystemLookup, CacheTimes::default())
    }

    fn with(lookup: impl Lookup, times: CacheTimes) -> Self {
        let state = ResolverState {
            lookup: Box::new(lookup),
            times,
            answers: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(MAX_STALE).build(),
            failures: Cache::builder().max_capacity(MAX_FAILURES).time_to_live(MAX_STALE).build(),
            queue: Mutex::new(LookupQueue::default()),
            work: Condvar::new(),
        };
        Self { state: Arc::new(state) }
    }

    /// A resolver for tests, with the times used in production.
    #[cfg(test)]
    pub(crate) fn with_lookup(lookup: impl Lookup) -> Self {
        Self::with(lookup, CacheTimes::default())
    }

    /// The addresses of `name`, in lower case without a trailing dot. `localhost` and names below it
    /// are this machine, and names below `invalid` do not exist, regardless of the system (RFC 6761
    /// §6.3, §6.4).
    ///
    /// # Errors
    ///
    /// [`NameError`]; [`NameError::Timeout`] at `deadline` at the latest.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the wait. A lookup in progress continues, and its answer is cached.
    pub(crate) async fn addresses(&self, name: &str, deadline: Instant) -> LookupResult {
        if let Some(answer) = special::answer(name) {
            return answer;
        }
        let cached = self.state.answers.get(name);
        if let Some(cached) = &cached
            && cached.at.elapsed() < self.state.times.fresh
        {
            return Ok(Arc::clone(&cached.value));
        }
        let stale = cached.map(|cached| cached.value);
        let answer = match self.recent_failure(name) {
            Some(error) => Err(error),
            None => self.look_up(name, stale.is_some(), deadline).await,
        };
        match (answer, stale) {
            (Err(error), Some(stale)) if !error.is_about_name() => Ok(stale),
            (answer, _) => answer,
        }
    }

    fn recent_failure(&self, name: &str) -> Option<NameError> {
        let cached = self.state.failures.get(name)?;
        (cached.at.elapsed() < self.state.times.failed).then_some(cached.value)
    }

    /// An answer that needs no lookup.
    fn recent(&self, name: &str) -> Option<LookupResult> {
        let cached = self.state.answers.get(name);
        let fresh = cached.filter(|cached| cached.at.elapsed() < self.state.times.fresh);
        fresh.map(|cached| Ok(cached.value)).or_else(|| self.recent_failure(name).map(Err))
    }

    /// Joins the lookup of `name`, or starts one.
    async fn look_up(&self, name: &str, has_resolved: bool, deadline: Instant) -> LookupResult {
        let (mut answer, added_at) = self.join(name, has_resolved)?;
        let until = match has_resolved {
            true => deadline.min(added_at + self.state.times.lookup_wait),
            false => deadline,
        };
        let waiting = timeout_at(until, answer.wait_for(Option::is_some));
        match waiting.await {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Err(NameError::Timeout)),
            // The sender is dropped without an answer only if no thread could be started.
            Ok(Err(_)) => Err(NameError::Unavailable),
            Err(_) => Err(NameError::Timeout),
        }
    }

    fn join(
        &self,
        name: &str,
        has_resolved: bool,
    ) -> Result<(watch::Receiver<Option<LookupResult>>, Instant), NameError> {
        let mut queue = self.state.queue();
        // A lookup caches its answer before it ends, so one that ended since the caller checked has
        // left its answer there.
        if !queue.contains(name)
            && let Some(answer) = self.recent(name)
        {
            return Ok((watch::channel(Some(answer)).1, Instant::now()));
        }
        let joined = queue.join(name, has_resolved)?;
        let starts_thread = queue.reserve_thread();
        drop(queue);
        self.state.work.notify_one();
        if starts_thread {
            self.start_thread();
        }
        Ok(joined)
    }

    /// Starts a detached thread.
    fn start_thread(&self) {
        let state = Arc::clone(&self.state);
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        if let Err(error) = thread.spawn(move || state.work()) {
            tracing::warn!(%error, "cannot start a resolver thread");
            self.state.queue().record_thread_failure();
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("queue", &*self.state.queue()).finish_non_exhaustive()
    }
}

impl ResolverState {
    /// A poisoned lock is safe to use, because no operation leaves the queue inconsistent.
    fn queue(&self) -> MutexGuard<'_, LookupQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a thread: lookups until there are none for a while.
    fn work(&self) {
        while let Some(task) = self.next_task() {
            // A lookup that panics must not leave its name pending forever.
            let looked_up = catch_unwind(AssertUnwindSafe(|| self.lookup.addresses(task.name())));
            let answer = match looked_up {
                Ok(Ok(addresses)) if addresses.is_empty() => Err(NameError::NoAddress),
                Ok(Ok(addresses)) => Ok(addresses.into()),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(NameError::Unavailable),
            };
            self.finish(&task, answer);
        }
    }

    /// Waits for the next lookup; `None` ends the thread.
    fn next_task(&self) -> Option<LookupTask> {
        let mut queue = self.queue();
        let until = std::time::Instant::now() + IDLE_TIMEOUT;
        loop {
            if let Some(task) = queue.take_next() {
                return Some(task);
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                queue.remove_thread();
                return None;
            }
            queue.set_idle(true);
            (queue, _) =
                self.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
            queue.set_idle(false);
        }
    }

    /// Caches the answer before it is published, so that the next caller finds it.
    fn finish(&self, task: &LookupTask, answer: LookupResult) {
        let (name, at) = (Arc::clone(task.shared_name()), Instant::now());
        match &answer {
            Ok(addresses) => {
                self.failures.invalidate(&name);
                self.answers.insert(name, CachedValue { value: Arc::clone(addresses), at });
            }
            Err(error) => {
                if error.is_about_name() {
                    self.answers.invalidate(&name);
                }
                self.failures.insert(name, CachedValue { value: *error, at });
            }
        }
        self.queue().finish(task, answer);
        // A lookup held back by this one may start now on an idle thread.
        self.work.notify_one();
    }
}

impl Lookup for SystemLookup {
    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let found = dns_lookup::lookup_host(name);
        match found {
            Ok(addresses) => {
                let mut addresses: Vec<IpAddr> = addresses.collect();
                let mut seen = std::collections::HashSet::new();
                addresses.retain(|address| seen.insert(*address));
                Ok(addresses)
            }
            Err(error) => Err(match error.kind() {
                LookupErrorKind::NoName => NameError::NotFound,
                LookupErrorKind::NoData => NameError::NoAddress,
                LookupErrorKind::Again => NameError::Unavailable,
                _ => NameError::Failed(error.error_num()),
            }),
        }
    }
}
