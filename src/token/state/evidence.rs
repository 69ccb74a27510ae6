//! What rejections say about the worth of asking for another token: arithmetic.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::token::Generation;

/// The pause after a forced refresh that did not help, at first and at most.
const FIRST: Duration = Duration::from_secs(30);
/// The same for a single target.
const FIRST_OF_TARGET: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);
/// So many refreshes may be forced in a row, and one more for each of these: whoever makes an API reject requests
/// now and accept them then must not make a stream of token requests.
const MOST_FORCED: u32 = 20;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);
/// So many targets are remembered; strangers may choose them.
const MOST_TARGETS: usize = 256;

/// What forced refreshes have been good for.
///
/// A target that has accepted tokens before is good: its rejection says something about the token. One that never
/// has may reject whatever it gets. So the two have pauses of their own, and what strange targets bring about
/// keeps no good one waiting.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    good: Pauses,
    strange: Pauses,
    /// The generation whose rejection caused the last forced refresh.
    from: Option<Generation>,
    /// Targets that rejected fresh tokens force nothing for a while.
    targets: HashMap<u64, Pause>,
    /// Forced refreshes that are not forgotten yet, and up to when they are.
    forced: u32,
    forgotten: Option<Moment>,
}

#[derive(Debug, Default)]
struct Pauses {
    /// No forced refresh before this.
    after: Option<Moment>,
    /// The pause after the next one that does not help.
    length: Option<Duration>,
    /// A generation that was rejected although it was fresh.
    useless: Option<Generation>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Moment,
    length: Duration,
}

impl Evidence {
    /// Could a new token help this target?
    pub(super) fn may_force(&self, target: Option<u64>, is_good: bool, now: Moment) -> bool {
        let is_over = |until: Moment| until.is_over(now);
        let pause = target.and_then(|target| self.targets.get(&target));
        let pauses = if is_good { &self.good } else { &self.strange };
        pauses.after.is_none_or(is_over)
            && pause.is_none_or(|it| is_over(it.until))
            && self.not_forgotten(now) < MOST_FORCED
    }

    fn not_forgotten(&self, now: Moment) -> u32 {
        let since = self.forgotten.map(|since| since.elapsed(now)).unwrap_or_default();
        let forgotten = since.as_secs() / FORGOTTEN_AFTER.as_secs();
        self.forced.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// A refresh is forced because this generation was rejected.
    pub(super) fn force(&mut self, rejected: Generation, is_good: bool, now: Moment) {
        self.from = Some(rejected);
        self.forced = self.not_forgotten(now) + 1;
        self.forgotten = Some(now);
        let pauses = self.pauses(is_good);
        pauses.after = Some(now.after(pauses.length.unwrap_or(FIRST)));
    }

    fn pauses(&mut self, is_good: bool) -> &mut Pauses {
        if is_good { &mut self.good } else { &mut self.strange }
    }

    /// The one under way failed: the next need not wait any longer than the failure says.
    pub(super) fn did_not_happen(&mut self) {
        self.good.after = None;
        self.strange.after = None;
    }

    /// A fresh token was rejected as well, and nobody has accepted it: the pause doubles, once for each.
    pub(super) fn did_not_help(&mut self, fresh: Generation, is_good: bool, now: Moment) {
        let pauses = self.pauses(is_good);
        if pauses.useless.replace(fresh) == Some(fresh) {
            return;
        }
        let pause = pauses.length.unwrap_or(FIRST);
        pauses.after = Some(now.after(pause));
        pauses.length = Some((pause * 2).min(LONGEST));
    }

    /// This target has rejected a fresh token. Its pause is its own, and doubles each time.
    pub(super) fn blame(&mut self, target: u64, now: Moment) {
        let length = match self.targets.get(&target) {
            // Nothing was forced for it since.
            Some(pause) if !pause.until.is_over(now) => return,
            Some(pause) => (pause.length * 2).min(LONGEST),
            None => FIRST_OF_TARGET,
        };
        if self.targets.len() >= MOST_TARGETS {
            let first = self.targets.iter().min_by_key(|(_, it)| it.until.running);
            if let Some(first) = first.map(|(target, _)| *target) {
                self.targets.remove(&first);
            }
        }
        self.targets.insert(target, Pause { until: now.after(length), length });
    }

    /// This target has accepted a token.
    pub(super) fn forgive(&mut self, target: u64) {
        self.targets.remove(&target);
    }

    /// A bit for each target that is blamed; some share one.
    pub(super) fn blamed(&self) -> u64 {
        self.targets.keys().fold(0, |bits, target| bits | 1 << (target % 64))
    }

    /// A token of this generation was accepted. If it came from the last forced refresh, that was worth it, and
    /// for a strange target if the request is one that had been rejected before. What is known of single targets
    /// stays.
    pub(super) fn accept(&mut self, generation: Generation, renewed: bool) {
        if self.from.is_some_and(|from| generation <= from) {
            return;
        }
        self.good = Pauses::default();
        self.strange.length = None;
        if renewed {
            self.strange.after = None;
        }
    }
}

#[cfg(test)]
#[path = "evidence/tests.rs"]
mod tests;
