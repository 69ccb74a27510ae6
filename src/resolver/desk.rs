//! Which names are looked up, which wait, and which is next: pure bookkeeping, under one lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Answer, NameError, PER_SUFFIX, RESERVED, THREADS, WAITING, WAITING_PER_SUFFIX};

/// Names under way and the threads for them.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Waiting or running.
    lookups: HashMap<Arc<str>, Pending>,
    waiting: VecDeque<Arc<str>>,
    /// Look-ups that run, by the last two labels of their names.
    running: HashMap<Box<str>, usize>,
    /// Look-ups that run for names that have not resolved before.
    running_unknown: usize,
    threads: usize,
    /// Threads without work.
    idle: usize,
}

/// A look-up that has no answer yet.
#[derive(Debug)]
struct Pending {
    answer: watch::Sender<Option<Answer>>,
    began: Instant,
    is_known: bool,
}

/// One look-up for a thread to do; handed back to [`Desk::finish`].
#[derive(Debug)]
pub(super) struct Task {
    name: Arc<str>,
    is_known: bool,
}

impl Task {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Desk {
    /// Where the answer for `name` will come, and since when it is waited for. `is_known`: it has resolved
    /// before.
    ///
    /// # Errors
    ///
    /// [`NameError::Full`] if too many names wait.
    pub(super) fn join(
        &mut self,
        name: &str,
        is_known: bool,
    ) -> Result<(watch::Receiver<Option<Answer>>, Instant), NameError> {
        if let Some(pending) = self.lookups.get(name) {
            return Ok((pending.answer.subscribe(), pending.began));
        }
        if !self.has_room(name) {
            self.forget_abandoned();
            if !self.has_room(name) {
                return Err(NameError::Full);
            }
        }
        let (answer, receiver) = watch::channel(None);
        let (name, began): (Arc<str>, _) = (name.into(), Instant::now());
        self.waiting.push_back(Arc::clone(&name));
        self.lookups.insert(name, Pending { answer, began, is_known });
        Ok((receiver, began))
    }

    pub(super) fn is_under_way(&self, name: &str) -> bool {
        self.lookups.contains_key(name)
    }

    fn has_room(&self, name: &str) -> bool {
        let suffix_of_name = suffix(name);
        let same = self.waiting.iter().filter(|waiting| suffix(waiting) == suffix_of_name);
        self.waiting.len() < WAITING && same.count() < WAITING_PER_SUFFIX
    }

    /// Drops the waiting names that nobody waits for any more.
    fn forget_abandoned(&mut self) {
        let Self { waiting, lookups, .. } = self;
        waiting.retain(|name| {
            let wanted = lookups.get(name).is_some_and(|it| it.answer.receiver_count() > 0);
            if !wanted {
                lookups.remove(name);
            }
            wanted
        });
    }

    /// Is another thread to be started? It counts as started.
    pub(super) fn wants_thread(&mut self) -> bool {
        let wanted = self.waiting.len() > self.idle && self.threads < THREADS;
        self.threads += usize::from(wanted);
        wanted
    }

    /// A thread could not be started. Without any, whoever waits is told so by the end of its channel.
    pub(super) fn thread_failed(&mut self) {
        self.threads = self.threads.saturating_sub(1);
        if self.threads == 0 {
            self.waiting.clear();
            self.lookups.clear();
        }
    }

    /// A thread begins or ceases to wait for work.
    pub(super) fn waits(&mut self, waits: bool) {
        self.idle = if waits { self.idle + 1 } else { self.idle.saturating_sub(1) };
    }

    pub(super) fn thread_ends(&mut self) {
        self.threads = self.threads.saturating_sub(1);
    }

    /// The first waiting name that may be looked up now.
    pub(super) fn take(&mut self) -> Option<Task> {
        self.forget_abandoned();
        let at = self.waiting.iter().position(|name| self.may_run(name))?;
        let name = self.waiting.remove(at)?;
        let is_known = self.is_known(&name);
        *self.running.entry(suffix(&name).into()).or_default() += 1;
        self.running_unknown += usize::from(!is_known);
        Some(Task { name, is_known })
    }

    fn may_run(&self, name: &str) -> bool {
        let of_suffix = self.running.get(suffix(name)).copied().unwrap_or_default();
        let unknown_may = self.running_unknown < THREADS - RESERVED;
        of_suffix < PER_SUFFIX && (unknown_may || self.is_known(name))
    }

    fn is_known(&self, name: &str) -> bool {
        self.lookups.get(name).is_some_and(|pending| pending.is_known)
    }

    /// Tells whoever waits.
    pub(super) fn finish(&mut self, task: &Task, answer: Answer) {
        self.running_unknown = self.running_unknown.saturating_sub(usize::from(!task.is_known));
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

/// The last two labels: names below them often share their name servers.
fn suffix(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at + 1);
    dots.nth(1).and_then(|at| name.get(at..)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_one_domain_cannot_take_all_threads() {
        let mut desk = Desk::default();
        let dead: Vec<_> =
            (0..100).map(|n| desk.join(&format!("h{n}.dead.test"), false).unwrap()).collect();
        let _other = desk.join("api.other.test", false).unwrap();
        let taken: Vec<Task> = std::iter::from_fn(|| desk.take()).collect();
        let of_dead = taken.iter().filter(|task| task.name().ends_with(".dead.test")).count();
        assert_eq!(of_dead, PER_SUFFIX);
        assert!(taken.iter().any(|task| task.name() == "api.other.test"), "it had to wait");
        desk.finish(taken.first().unwrap(), Err(NameError::NotFound));
        assert_eq!(desk.take().unwrap().name(), "h8.dead.test");
        drop(dead);
    }

    #[test]
    fn some_threads_are_for_names_that_resolved_before() {
        let mut desk = Desk::default();
        let unknown: Vec<_> =
            (0..100).map(|n| desk.join(&format!("a.b{n}"), false).unwrap()).collect();
        assert_eq!(std::iter::from_fn(|| desk.take()).count(), THREADS - RESERVED);
        let _known = desk.join("api.known.test", true).unwrap();
        assert_eq!(desk.take().unwrap().name(), "api.known.test");
        drop(unknown);
    }

    #[test]
    fn a_name_that_nobody_waits_for_is_not_looked_up_and_takes_no_place() {
        let mut desk = Desk::default();
        let fill = |desk: &mut Desk, suffix: &str, count| {
            let names = (0..count).map(|n| desk.join(&format!("h{n}.{suffix}"), false).unwrap());
            names.collect::<Vec<_>>()
        };
        let of_dead = fill(&mut desk, "dead.test", WAITING_PER_SUFFIX);
        assert_eq!(desk.join("x.dead.test", false).unwrap_err(), NameError::Full);
        let _other = desk.join("api.other.test", false).expect("another domain has room");
        let left = WAITING - WAITING_PER_SUFFIX - 1;
        let rest: Vec<_> =
            (0..left).map(|n| desk.join(&format!("a.b{n}"), false).unwrap()).collect();
        assert_eq!(desk.join("one.more", false).unwrap_err(), NameError::Full);
        let _joined = desk.join("h0.dead.test", false).unwrap();
        drop((of_dead, rest));
        let _new = desk.join("one.more", false).unwrap();
        let taken: Vec<Task> = std::iter::from_fn(|| desk.take()).collect();
        let names: Vec<&str> = taken.iter().map(Task::name).collect();
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
