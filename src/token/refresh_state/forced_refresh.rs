//! Limits the refreshes that rejections cause.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::token::Generation;

/// The first pause after a forced refresh that did not help.
const INITIAL_PAUSE: Duration = Duration::from_secs(30);
/// The same for a single target.
const INITIAL_TARGET_PAUSE: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// The size of the budget of forced refreshes, and how often it regains one. The budget limits an API that
/// alternately rejects and accepts requests, which no pause does.
const MAX_RECENT_FORCED: u32 = 20;
const FORCED_DECAY: Duration = Duration::from_secs(5);
/// The most targets remembered. Clients choose the targets, so there must be a limit.
const MAX_TARGETS: usize = 256;

/// Decides whether a rejection may force a refresh, by how much forced refreshes helped before.
///
/// A target that has accepted tokens before is trusted: its rejection says something about the token. Any other
/// target may reject every token. The two kinds have separate pauses, so that requests to arbitrary paths do not
/// delay the refresh for a target that works.
#[derive(Debug, Default)]
pub(super) struct ForcedRefreshLimiter {
    trusted: ForcedRefreshPause,
    untrusted: ForcedRefreshPause,
    /// The generation whose rejection caused the last forced refresh.
    last_rejected: Option<Generation>,
    /// The pauses of targets that rejected new tokens.
    targets: HashMap<u64, TargetPause>,
    /// The forced refreshes that count against the budget at the time `counted_at`.
    forced: u32,
    counted_at: Option<Moment>,
}

#[derive(Debug, Default)]
struct ForcedRefreshPause {
    /// No forced refresh before this.
    until: Option<Moment>,
    /// The pause after the next forced refresh that does not help.
    length: Option<Duration>,
    /// The last generation that was rejected although it was new.
    last_unhelpful: Option<Generation>,
}

#[derive(Clone, Copy, Debug)]
struct TargetPause {
    until: Moment,
    length: Duration,
}

impl ForcedRefreshLimiter {
    /// Returns true if a rejection by this target may force a refresh. `None`: the target does not matter.
    pub(super) fn allows(&self, target: Option<u64>, is_trusted: bool, now: Moment) -> bool {
        let is_over = |until: Moment| until.is_over(now);
        let target_pause = target.and_then(|target| self.targets.get(&target));
        let pause = if is_trusted { &self.trusted } else { &self.untrusted };
        pause.until.is_none_or(is_over)
            && target_pause.is_none_or(|it| is_over(it.until))
            && self.recent_forced(now) < MAX_RECENT_FORCED
    }

    fn recent_forced(&self, now: Moment) -> u32 {
        let elapsed = self.counted_at.map(|at| at.elapsed(now)).unwrap_or_default();
        let regained = elapsed.as_secs() / FORCED_DECAY.as_secs();
        self.forced.saturating_sub(u32::try_from(regained).unwrap_or(u32::MAX))
    }

    /// Records that the rejection of this generation forces a refresh.
    pub(super) fn record_forced(&mut self, rejected: Generation, is_trusted: bool, now: Moment) {
        self.last_rejected = Some(rejected);
        self.forced = self.recent_forced(now) + 1;
        self.counted_at = Some(now);
        let pause = self.pause(is_trusted);
        pause.until = Some(now.after(pause.length.unwrap_or(INITIAL_PAUSE)));
    }

    fn pause(&mut self, is_trusted: bool) -> &mut ForcedRefreshPause {
        if is_trusted { &mut self.trusted } else { &mut self.untrusted }
    }

    /// Ends the pauses because the forced refresh failed. The backoff of that failure applies instead.
    pub(super) fn clear_pauses(&mut self) {
        self.trusted.until = None;
        self.untrusted.until = None;
    }

    /// Records that a new token was rejected as well and that no target has accepted it. The pause doubles, once
    /// per generation.
    pub(super) fn record_unhelpful(&mut self, new: Generation, is_trusted: bool, now: Moment) {
        let pause = self.pause(is_trusted);
        if pause.last_unhelpful.replace(new) == Some(new) {
            return;
        }
        let length = pause.length.unwrap_or(INITIAL_PAUSE);
        pause.until = Some(now.after(length));
        pause.length = Some((length * 2).min(MAX_PAUSE));
    }

    /// Records that this target has rejected a new token. Each target has its own pause, which doubles each time.
    pub(super) fn blame_target(&mut self, target: u64, now: Moment) {
        let length = match self.targets.get(&target) {
            // No refresh was forced for it since.
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

    /// Records that this target has accepted a token.
    pub(super) fn clear_target(&mut self, target: u64) {
        self.targets.remove(&target);
    }

    /// Returns the blamed targets, one bit each. Several targets may share a bit.
    pub(super) fn blamed_targets(&self) -> u64 {
        self.targets.keys().fold(0, |bits, target| bits | 1 << (target % 64))
    }

    /// Records that a token of this generation was accepted. If it came from the last forced refresh, that refresh
    /// helped; it helped an untrusted target only if the request had been rejected before. The pauses of single
    /// targets stay.
    pub(super) fn record_acceptance(&mut self, generation: Generation, has_new_token: bool) {
        if self.last_rejected.is_some_and(|rejected| generation <= rejected) {
            return;
        }
        self.trusted = ForcedRefreshPause::default();
        self.untrusted.length = None;
        if has_new_token {
            self.untrusted.until = None;
        }
    }
}

#[cfg(test)]
#[path = "forced_refresh/tests.rs"]
mod tests;
