//! What rejections say about the worth of asking for another token: arithmetic.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::token::Generation;

/// The pause after a forced refresh that did not help, at first and at most.
const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(600);
/// So many targets are remembered; strangers may choose them.
const MOST_TARGETS: usize = 256;

/// What forced refreshes have been good for.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The generation whose rejection caused the last one.
    from: Option<Generation>,
    /// No forced refresh before this.
    after: Option<Moment>,
    /// The pause after the next one that does not help.
    pause: Option<Duration>,
    /// A generation that was rejected although it was fresh.
    useless: Option<Generation>,
    /// Targets that rejected fresh tokens force nothing for a while.
    targets: HashMap<u64, Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Moment,
    length: Duration,
}

impl Evidence {
    /// Could a new token help this target?
    pub(super) fn may_force(&self, target: u64, now: Moment) -> bool {
        let is_over = |until: Moment| until.is_over(now);
        self.after.is_none_or(is_over) && self.targets.get(&target).is_none_or(|it| is_over(it.until))
    }

    /// A refresh is forced because this generation was rejected.
    pub(super) fn force(&mut self, rejected: Generation, now: Moment) {
        self.from = Some(rejected);
        self.after = Some(now.after(self.pause.unwrap_or(FIRST)));
    }

    /// The one under way failed: the next need not wait any longer than the failure says.
    pub(super) fn did_not_happen(&mut self) {
        self.after = None;
    }

    /// A fresh token was rejected as well, and nobody has accepted it: the pause doubles, once for each.
    pub(super) fn did_not_help(&mut self, fresh: Generation, now: Moment) {
        if self.useless.replace(fresh) == Some(fresh) {
            return;
        }
        let pause = self.pause.unwrap_or(FIRST);
        self.after = Some(now.after(pause));
        self.pause = Some((pause * 2).min(LONGEST));
    }

    /// This target has rejected a fresh token. Its pause is its own, and doubles each time.
    pub(super) fn blame(&mut self, target: u64, now: Moment) {
        let before = self.targets.get(&target).filter(|it| it.until.left(now).is_zero());
        let length = match (before, self.targets.get(&target)) {
            (Some(before), _) => (before.length * 2).min(LONGEST),
            // Still remembered: nothing was forced for it since.
            (None, Some(_)) => return,
            (None, None) => FIRST,
        };
        if self.targets.len() >= MOST_TARGETS {
            let first = self.targets.iter().min_by_key(|(_, it)| it.until.running);
            if let Some(first) = first.map(|(target, _)| *target) {
                self.targets.remove(&first);
            }
        }
        self.targets.insert(target, Pause { until: now.after(length), length });
    }

    /// A token of this generation was accepted. If it came from the last forced refresh, that was worth it;
    /// what is known of single targets stays.
    pub(super) fn accept(&mut self, generation: Generation) {
        if self.from.is_none_or(|from| generation > from) {
            let targets = std::mem::take(&mut self.targets);
            *self = Self { targets, ..Self::default() };
        }
    }
}
