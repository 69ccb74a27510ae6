//! Name look-ups for the whole process.
//!
//! `getaddrinfo` knows what the machine knows (the hosts file, mDNS, the rules of a VPN), but it blocks,
//! may take half a minute and cannot be cancelled. So it runs on threads that belong to nobody: they
//! never delay the end of the process or of a runtime. Whoever asks waits until a deadline of its own,
//! one look-up serves all who ask for the same name, and answers are kept for a short time.
//!
//! What is bounded, so that names that never resolve cannot stop others:
//!
//! - at most [`THREADS`] look-ups run at once, [`PER_SUFFIX`] of them for names that end in the same two
//!   labels, and [`RESERVED`] threads are for names that have resolved before;
//! - a name that has resolved before is answered from the cache while its look-up takes long or fails;
//! - at most [`WAITING`] names wait for a thread, [`WAITING_PER_SUFFIX`] with the same last two labels; one that
//!   nobody waits for any more is not looked up.
//!
//! The limit of this: while more than 24 names of several domains hang in the system's resolver, a name
//! that was never looked up before waits for a thread until its deadline.

mod desk;
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

use desk::{Desk, Task};
pub(crate) use special::is_loopback;

/// Look-ups at once. A thread that waits costs a stack of a few pages.
pub(crate) const THREADS: usize = 32;
/// Threads for names that have resolved before.
pub(crate) const RESERVED: usize = 8;
/// Look-ups at once for names with the same last two labels: their servers may all be dead.
pub(crate) const PER_SUFFIX: usize = 8;
/// Names that may wait for a thread.
pub(crate) const WAITING: usize = 2048;
/// The same for names with the same last two labels.
pub(crate) const WAITING_PER_SUFFIX: usize = 512;
/// Names of which the last answer is kept.
const ANSWERS: u64 = 1024;
/// Names of which the last failure is kept; apart from the answers, so that no flood of bad names drives
/// them out.
const FAILURES: u64 = 1024;
/// How long a stale answer may still be used while nothing better is known.
const STALE: Duration = Duration::from_secs(3600);
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// What [`Resolver::addresses`] returns: at least one address, in the order of the system.
pub(crate) type Answer = Result<Arc<[IpAddr]>, NameError>;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// There is no such name.
    #[error("the name does not exist")]
    NotFound,
    /// The name exists, and has no address.
    #[error("the name has no address")]
    NoAddress,
    /// The name servers failed or did not answer (`EAI_AGAIN`).
    #[error("the name servers failed or did not answer")]
    Unavailable,
    /// The look-up failed in another way.
    #[error("the look-up failed (getaddrinfo error {0})")]
    Failed(i32),
    /// No answer before the deadline of whoever asked.
    #[error("the name was not resolved in time")]
    Late,
    /// Too many names wait to be looked up.
    #[error("too many names wait to be looked up already")]
    Full,
}

impl NameError {
    /// Does the error say something about the name, rather than about the look-up?
    fn is_about_name(self) -> bool {
        matches!(self, Self::NotFound | Self::NoAddress)
    }
}

/// How a name is looked up; blocks for as long as it takes.
pub(crate) trait Lookup: Send + Sync + 'static {
    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NameError>;
}

/// `getaddrinfo`.
struct System;

/// How old answers get.
#[derive(Clone, Copy, Debug)]
struct Ages {
    /// An answer younger than this is used without a look-up.
    fresh: Duration,
    /// The same for a failure.
    failed: Duration,
    /// How long a look-up may take before a stale answer is used instead.
    patience: Duration,
}

impl Default for Ages {
    /// 30 s for an answer, as long as most servers' own entries live when they are about to change; 2 s for a
    /// failure, so that a burst asks once; 500 ms, above the usual time of a look-up.
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(30),
            failed: Duration::from_secs(2),
            patience: Duration::from_millis(500),
        }
    }
}

/// Looks names up; clones share threads and answers.
#[derive(Clone)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Box<dyn Lookup>,
    ages: Ages,
    answers: Cache<Arc<str>, Kept<Arc<[IpAddr]>>>,
    failures: Cache<Arc<str>, Kept<NameError>>,
    desk: Mutex<Desk>,
    work: Condvar,
}

/// A value and when it was obtained.
#[derive(Clone, Debug)]
struct Kept<T> {
    value: T,
    at: Instant,
}

impl Resolver {
    /// A resolver that asks the system. Starts no thread before the first look-up.
    pub(crate) fn new() -> Self {
        Self::with(System, Ages::default())
    }

    fn with(lookup: impl Lookup, ages: Ages) -> Self {
        let shared = Shared {
            lookup: Box::new(lookup),
            ages,
            answers: Cache::builder().max_capacity(ANSWERS).time_to_live(STALE).build(),
            failures: Cache::builder().max_capacity(FAILURES).time_to_live(STALE).build(),
            desk: Mutex::new(Desk::default()),
            work: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A resolver for tests, with answers as in production.
    #[cfg(test)]
    pub(crate) fn asking(lookup: impl Lookup) -> Self {
        Self::with(lookup, Ages::default())
    }

    /// The addresses of `name`, a lower-case name without a trailing dot. `localhost` and the names below it
    /// are this machine, and names below `invalid` do not exist, whatever the system says (RFC 6761 §6.3, §6.4).
    ///
    /// # Errors
    ///
    /// [`NameError`]; [`NameError::Late`] at `deadline` at the latest.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the wait. A look-up that has begun goes on, and its answer is kept.
    pub(crate) async fn addresses(&self, name: &str, deadline: Instant) -> Answer {
        if let Some(answer) = special::answer(name) {
            return answer;
        }
        let kept = self.shared.answers.get(name);
        if let Some(kept) = &kept
            && kept.at.elapsed() < self.shared.ages.fresh
        {
            return Ok(Arc::clone(&kept.value));
        }
        let stale = kept.map(|kept| kept.value);
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
        let kept = self.shared.failures.get(name)?;
        (kept.at.elapsed() < self.shared.ages.failed).then_some(kept.value)
    }

    /// An answer that needs no look-up.
    fn recent(&self, name: &str) -> Option<Answer> {
        let kept = self.shared.answers.get(name);
        let fresh = kept.filter(|kept| kept.at.elapsed() < self.shared.ages.fresh);
        fresh.map(|kept| Ok(kept.value)).or_else(|| self.recent_failure(name).map(Err))
    }

    /// Joins the look-up of `name`, or begins one.
    async fn look_up(&self, name: &str, is_known: bool, deadline: Instant) -> Answer {
        let (mut answer, began) = self.join(name, is_known)?;
        let until = match is_known {
            true => deadline.min(began + self.shared.ages.patience),
            false => deadline,
        };
        let waiting = timeout_at(until, answer.wait_for(Option::is_some));
        match waiting.await {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Err(NameError::Late)),
            // The sender goes without an answer only if no thread could be started.
            Ok(Err(_)) => Err(NameError::Unavailable),
            Err(_) => Err(NameError::Late),
        }
    }

    fn join(
        &self,
        name: &str,
        is_known: bool,
    ) -> Result<(watch::Receiver<Option<Answer>>, Instant), NameError> {
        let mut desk = self.shared.desk();
        // A look-up keeps its answer before it ends: one that has ended since the caller looked has left it.
        if !desk.is_under_way(name)
            && let Some(answer) = self.recent(name)
        {
            return Ok((watch::channel(Some(answer)).1, Instant::now()));
        }
        let joined = desk.join(name, is_known)?;
        let starts_thread = desk.wants_thread();
        drop(desk);
        self.shared.work.notify_one();
        if starts_thread {
            self.start_thread();
        }
        Ok(joined)
    }

    /// Starts a detached thread: nobody waits for its end.
    fn start_thread(&self) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        if let Err(error) = thread.spawn(move || shared.work()) {
            tracing::warn!(%error, "no thread could be started to look names up");
            self.shared.desk().thread_failed();
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
        f.debug_struct("Resolver").field("desk", &*self.shared.desk()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Nothing that is done under the lock can leave it half done.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread: look-ups until there are none for a while.
    fn work(&self) {
        while let Some(task) = self.next_task() {
            // A look-up that panics must not leave its name under way for ever.
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

    /// Waits for a name that may be looked up now; `None` ends the thread.
    fn next_task(&self) -> Option<Task> {
        let mut desk = self.desk();
        let until = std::time::Instant::now() + IDLE;
        loop {
            if let Some(task) = desk.take() {
                return Some(task);
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                desk.thread_ends();
                return None;
            }
            desk.waits(true);
            (desk, _) = self.work.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner);
            desk.waits(false);
        }
    }

    /// Keeps the answer before it is told, so that whoever asks next finds it.
    fn finish(&self, task: &Task, answer: Answer) {
        let (name, at) = (Arc::clone(task.shared_name()), Instant::now());
        match &answer {
            Ok(addresses) => {
                self.failures.invalidate(&name);
                self.answers.insert(name, Kept { value: Arc::clone(addresses), at });
            }
            Err(error) => {
                if error.is_about_name() {
                    self.answers.invalidate(&name);
                }
                self.failures.insert(name, Kept { value: *error, at });
            }
        }
        self.desk().finish(task, answer);
        // What this name kept back may begin now, on a thread that waits.
        self.work.notify_one();
    }
}

impl Lookup for System {
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
