//! The queue of lookups: which names are running, which wait, and which is next. Pure bookkeeping
//! under one lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    LookupResult, MAX_PER_SUFFIX, MAX_THREADS, MAX_WAITING, MAX_WAITING_PER_SUFFIX, NameError,
    RESERVED_THREADS,
};

/// Pending lookups and the threads for them.
#[derive(Debug, Default)]
pub(super) struct LookupQueue {
    /// All lookups, waiting or running.
    lookups: HashMap<Arc<str>, Pending>,
    waiting: VecDeque<Arc<str>>,
    /// The number of running lookups by the last two labels of their names.
    running: HashMap<Box<str>, usize>,
    /// The number of running lookups for names that have not resolved before.
    running_unresolved: usize,
    threads: usize,
    /// The number of idle threads.
    idle: usize,
}

/// A lookup without an answer.
#[derive(Debug)]
struct Pending {
    answer: watch::Sender<Option<LookupResult>>,
    added_at: Instant,
    has_resolved: bool,
}

/// A lookup for a thread to run; returned to [`LookupQueue::finish`].
#[derive(Debug)]
pub(super) struct LookupTask {
    name: Arc<str>,
    has_resolved: bool,
}

impl LookupTask {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }
}

impl LookupQueue {
    /// Subscribes to the lookup of `name`, and adds it if necessary. Returns the channel for the
    /// answer and when the lookup was added. `has_resolved` is true if the name has resolved
    /// before.
    ///
    /// # Errors
    ///
    /// [`NameError::QueueFull`] if too many names are waiting.
    pub(super) fn join(
        &mut self,
        name: &str,
        has_resolved: bool,
    ) -> Result<(watch::Receiver<Option<LookupResult>>, Instant), NameError> {
        if let Some(pending) = self.lookups.get(name) {
            return Ok((pending.answer.subscribe(), pending.added_at));
        }
        if !self.has_room(name) {
            self.remove_abandoned();
            if !self.has_room(name) {
                return Err(NameError::QueueFull);
            }
        }
        let (answer, receiver) = watch::channel(None);
        let (name, added_at): (Arc<str>, _) = (name.into(), Instant::now());
        self.waiting.push_back(Arc::clone(&name));
        self.lookups.insert(name, Pending { answer, added_at, has_resolved });
        Ok((receiver, added_at))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.lookups.contains_key(name)
    }

    fn has_room(&self, name: &str) -> bool {
        let suffix_of_name = suffix(name);
        let same = self.waiting.iter().filter(|waiting| suffix(waiting) == suffix_of_name);
        self.waiting.len() < MAX_WAITING && same.count() < MAX_WAITING_PER_SUFFIX
    }

    /// Removes waiting names that no caller waits for.
    fn remove_abandoned(&mut self) {
        let Self { waiting, lookups, .. } = self;
        waiting.retain(|name| {
            let wanted = lookups.get(name).is_some_and(|it| it.answer.receiver_count() > 0);
            if !wanted {
                lookups.remove(name);
            }
            wanted
        });
    }

    /// Returns true if another thread should be started, and counts it as started.
    pub(super) fn reserve_thread(&mut self) -> bool {
        let wanted = self.waiting.len() > self.idle && self.threads < MAX_THREADS;
        self.threads += usize::from(wanted);
        wanted
    }

    /// Records that a thread could not be started. If there are no threads at all, callers learn it
    /// from their closed channels.
    pub(super) fn record_thread_failure(&mut self) {
        self.threads = self.threads.saturating_sub(1);
        if self.threads == 0 {
            self.waiting.clear();
            self.lookups.clear();
        }
    }

    /// Records that a thread starts or stops waiting for work.
    pub(super) fn set_idle(&mut self, is_idle: bool) {
        self.idle = if is_idle { self.idle + 1 } else { self.idle.saturating_sub(1) };
    }

    pub(super) fn remove_thread(&mut self) {
        self.threads = self.threads.saturating_sub(1);
    }

    /// Takes the first waiting name that may be looked up now.
    pub(super) fn take_next(&mut self) -> Option<LookupTask> {
        self.remove_abandoned();
        let at = self.waiting.iter().position(|name| self.may_run(name))?;
        let name = self.waiting.remove(at)?;
        let has_resolved = self.has_resolved(&name);
        *self.running.entry(suffix(&name).into()).or_default() += 1;
        self.running_unresolved += usize::from(!has_resolved);
        Some(LookupTask { name, has_resolved })
    }

    fn may_run(&self, name: &str) -> bool {
        let of_suffix = self.running.get(suffix(name)).copied().unwrap_or_default();
        let has_unreserved = self.running_unresolved < MAX_THREADS - RESERVED_THREADS;
        of_suffix < MAX_PER_SUFFIX && (has_unreserved || self.has_resolved(name))
    }

    fn has_resolved(&self, name: &str) -> bool {
        self.lookups.get(name).is_some_and(|pending| pending.has_resolved)
    }

    /// Publishes the answer.
    pub(super) fn finish(&mut self, task: &LookupTask, answer: LookupResult) {
        self.running_unresolved =
            self.running_unresolved.saturating_sub(usize::from(!task.has_resolved));
        let suffix = suffix(&task.name);
        if let Some(running) = self.running.get_mut(suffix) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(suffix);
            }
        }
        if let Some(pending) = self.lookups.remove(&task.name) {
            pending.answer.send_replace(Some(answer));
        }
    }
}

/// The last two labels, because names that share them often share their name servers.
fn suffix(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at + 1);
    dots.nth(1).and_then(|at| name.get(at..)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_one_domain_cannot_use_all_threads() {
        let mut queue = LookupQueue::default();
        let dead: Vec<_> =
            (0..100).map(|n| queue.join(&format!("h{n}.dead.test"), false).unwrap()).collect();
        let _other = queue.join("api.other.test", false).unwrap();
        let taken: Vec<LookupTask> = std::iter::from_fn(|| queue.take_next()).collect();
        let of_dead = taken.iter().filter(|task| task.name().ends_with(".dead.test")).count();
        assert_eq!(of_dead, MAX_PER_SUFFIX);
        assert!(taken.iter().any(|task| task.name() == "api.other.test"), "it had to wait");
        queue.finish(taken.first().unwrap(), Err(NameError::NotFound));
        assert_eq!(queue.take_next().unwrap().name(), "h8.dead.test");
        drop(dead);
    }

    #[test]
    fn threads_are_reserved_for_names_that_resolved_before() {
        let mut queue = LookupQueue::default();
        let unknown: Vec<_> =
            (0..100).map(|n| queue.join(&format!("a.b{n}"), false).unwrap()).collect();
        assert_eq!(
            std::iter::from_fn(|| queue.take_next()).count(),
            MAX_THREADS - RESERVED_THREADS
        );
        let _known = queue.join("api.known.test", true).unwrap();
        assert_eq!(queue.take_next().unwrap().name(), "api.known.test");
        drop(unknown);
    }

    #[test]
    fn abandoned_names_are_not_looked_up_and_free_their_place() {
        let mut queue = LookupQueue::default();
        let fill = |queue: &mut LookupQueue, suffix: &str, count| {
            let names = (0..count).map(|n| queue.join(&format!("h{n}.{suffix}"), false).unwrap());
            names.collect::<Vec<_>>()
        };
        let of_dead = fill(&mut queue, "dead.test", MAX_WAITING_PER_SUFFIX);
        assert_eq!(queue.join("x.dead.test", false).unwrap_err(), NameError::QueueFull);
        let _other = queue.join("api.other.test", false).expect("another domain has room");
        let left = MAX_WAITING - MAX_WAITING_PER_SUFFIX - 1;
        let rest: Vec<_> =
            (0..left).map(|n| queue.join(&format!("a.b{n}"), false).unwrap()).collect();
        assert_eq!(queue.join("one.more", false).unwrap_err(), NameError::QueueFull);
        let _joined = queue.join("h0.dead.test", false).unwrap();
        drop((of_dead, rest));
        let _new = queue.join("one.more", false).unwrap();
        let taken: Vec<LookupTask> = std::iter::from_fn(|| queue.take_next()).collect();
        let names: Vec<&str> = taken.iter().map(LookupTask::name).collect();
        assert_eq!(names, ["h0.dead.test", "api.other.test", "one.more"]);
    }

    #[test]
    fn the_suffix_is_the_last_two_labels() {
        for (name, expected) in
            [("a.b.c.d", "c.d"), ("c.d", "c.d"), ("intranet", "intranet"), ("x.c.d", "c.d")]
        {
            assert_eq!(suffix(name), expected, "{name}");
        }
    }
}
