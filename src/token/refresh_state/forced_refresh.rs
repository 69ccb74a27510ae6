//! What rejections say about the worth of asking for another token: arithmetic.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::token::Generation;

/// The pause after a forced refresh that did not help, at first and at most.
const INITIAL_PAUSE: Duration = Duration::from_secs(30);
/// The same for a single target.
const INITIAL_TARGET_PAUSE: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// So many refreshes may be forced in a row, and one more for each of these: whoever makes an API reject requests
/// now and accept them then must not make a stream of token requests.
const MAX_RECENT_FORCED: u32 = 20;
const FORCED_DECAY: Duration = Duration::from_secs(5);
/// So many targets are remembered; strangers may choose them.
const MAX_TARGETS: usize = 256;

/// What forced refreshes have been good for.
///
/// A target that has accepted tokens before is good: its rejection says something about the token. One that never
/// has may reject whatever it gets. So the two have pauses of their own, and what strange targets bring about
/// keeps no good one waiting.
#[derive(Debug, Default)]
pub(super) struct ForcedRefreshLimiter {
    trusted: ForcedRefreshPause,
    untrusted: ForcedRefreshPause,
    /// The generation whose rejection caused the last forced refresh.
    from: Option<Generation>,
    /// Targets that rejected fresh tokens force nothing for a while.
    targets: HashMap<u64, TargetPause>,
    /// Forced refreshes that are not forgotten yet, and up to when they are.
    forced: u32,
    forgotten: Option<Moment>,
}

#[derive(Debug, Default)]
struct ForcedRefreshPause {
    /// No forced refresh before this.
    after: Option<Moment>,
    /// The pause after the next one that does not help.
    length: Option<Duration>,
    /// A generation that was rejected although it was fresh.
    last_unhelpful: Option<Generation>,
}

#[derive(Clone, Copy, Debug)]
struct TargetPause {
    until: Moment,
    length: Duration,
}

impl ForcedRefreshLimiter {
    /// Could a new token help this target?
    pub(super) fn allows(&self, target: Option<u64>, is_trusted: bool, now: Moment) -> bool {
        let is_over = |until: Moment| until.is_over(now);
        let pause = target.and_then(|target| self.targets.get(&target));
        let pauses = if is_trusted { &self.trusted } else { &self.untrusted };
        pauses.after.is_none_or(is_over)
            && pause.is_none_or(|it| is_over(it.until))
            && self.recent_forced(now) < MAX_RECENT_FORCED
    }

    fn recent_forced(&self, now: Moment) -> u32 {
        let since = self.forgotten.map(|since| since.elapsed(now)).unwrap_or_default();
        let forgotten = since.as_secs() / FORCED_DECAY.as_secs();
        self.forced.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// A refresh is forced because this generation was rejected.
    pub(super) fn record_forced(&mut self, rejected: Generation, is_trusted: bool, now: Moment) {
        self.from = Some(rejected);
        self.forced = self.recent_forced(now) + 1;
        self.forgotten = Some(now);
        let pauses = self.pauses(is_trusted);
        pauses.after = Some(now.after(pauses.length.unwrap_or(INITIAL_PAUSE)));
    }

    fn pauses(&mut self, is_trusted: bool) -> &mut ForcedRefreshPause {
        if is_trusted { &mut self.trusted } else { &mut self.untrusted }
    }

    /// The one under way failed: the next need not wait any longer than the failure says.
    pub(super) fn clear_pauses(&mut self) {
        self.trusted.after = None;
        self.untrusted.after = None;
    }

    /// A fresh token was rejected as well, and nobody has accepted it: the pause doubles, once for each.
    pub(super) fn record_unhelpful(&mut self, fresh: Generation, is_trusted: bool, now: Moment) {
        let pauses = self.pauses(is_trusted);
        if pauses.last_unhelpful.replace(fresh) == Some(fresh) {
            return;
        }
        let pause = pauses.length.unwrap_or(INITIAL_PAUSE);
        pauses.after = Some(now.after(pause));
        pauses.length = Some((pause * 2).min(MAX_PAUSE));
    }

    /// This target has rejected a fresh token. Its pause is its own, and doubles each time.
    pub(super) fn blame_target(&mut self, target: u64, now: Moment) {
        let length = match self.targets.get(&target) {
            // Nothing was forced for it since.
            Some(pause) if !pause.until.is_over(now) => return,
            Some(pause) => (pause.length * 2).min(MAX_PAUSE),
            None => INITIAL_TARGET_PAUSE,
        };
        if self.targets.len() >= MAX_TARGETS {
            let first = self.targets.iter().min_by_key(|(_, it)| it.until.running);
            if let Some(first) = first.map(|(target, _)| *target) {
                self.targets.remove(&first);
            }
        }
        self.targets.insert(target, TargetPause { until: now.after(length), length });
    }

    /// This target has accepted a token.
    pub(super) fn clear_target(&mut self, target: u64) {
        self.targets.remove(&target);
    }

    /// A bit for each target that is blamed; some share one.
    pub(super) fn blamed_targets(&self) -> u64 {
        self.targets.keys().fold(0, |bits, target| bits | 1 << (target % 64))
    }

    /// A token of this generation was accepted. If it came from the last forced refresh, that was worth it, and
    /// for a strange target if the request is one that had been rejected before. What is known of single targets
    /// stays.
    pub(super) fn record_acceptance(&mut self, generation: Generation, has_new_token: bool) {
        if self.from.is_some_and(|from| generation <= from) {
            return;
        }
        self.trusted = ForcedRefreshPause::default();
        self.untrusted.length = None;
        if has_new_token {
            self.untrusted.after = None;
        }
    }
}

#[cfg(test)]
#[path = "forced_refresh/tests.rs"]
mod tests;
