//! Which rejections may force a refresh.

use std::time::UNIX_EPOCH;

use super::*;

const NOW: u64 = 1_000_000;
/// Targets.
const A: u64 = 1;
const B: u64 = 2;

fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(seconds);
    Moment { wall: UNIX_EPOCH + running, running }
}

/// The same moment with another wall-clock time.
fn showing(shown: u64, now: u64) -> Moment {
    Moment { wall: at(shown).wall, ..at(now) }
}

/// Checks that `target` may force a refresh after `pause` and not before.
fn check_pause(
    limiter: &ForcedRefreshLimiter,
    target: (u64, bool),
    from: u64,
    pause: u64,
    case: &str,
) {
    let (target, is_trusted) = target;
    if let Some(early) = pause.checked_sub(1) {
        let now = at(from + early);
        assert!(!limiter.allows(Some(target), is_trusted, now), "{case}: before {pause} s");
    }
    assert!(limiter.allows(Some(target), is_trusted, at(from + pause)), "{case}: after {pause} s");
}

#[test]
fn the_first_rejection_forces_a_refresh_and_the_next_waits_30_s() {
    for is_trusted in [false, true] {
        let mut limiter = ForcedRefreshLimiter::default();
        check_pause(&limiter, (A, is_trusted), NOW, 0, "nothing is known");
        limiter.record_forced(Generation(1), is_trusted, at(NOW));
        check_pause(&limiter, (A, is_trusted), NOW, 30, "the same target");
        check_pause(&limiter, (B, is_trusted), NOW, 30, "another target");
        // The other kind of target has a pause of its own.
        check_pause(&limiter, (B, !is_trusted), NOW, 0, "one of the others");
    }
}

#[test]
fn a_failed_flight_ends_the_pause() {
    for is_trusted in [false, true] {
        let mut limiter = ForcedRefreshLimiter::default();
        limiter.record_forced(Generation(1), is_trusted, at(NOW));
        limiter.clear_pauses();
        check_pause(&limiter, (A, is_trusted), NOW, 0, "first");
        // The length of the pause is kept.
        limiter.record_forced(Generation(1), is_trusted, at(NOW));
        limiter.record_unhelpful(Generation(2), is_trusted, at(NOW));
        limiter.record_forced(Generation(2), is_trusted, at(NOW + 30));
        limiter.clear_pauses();
        limiter.record_forced(Generation(2), is_trusted, at(NOW + 31));
        check_pause(&limiter, (A, is_trusted), NOW + 31, 60, "after one that did not help");
    }
}

#[test]
fn the_pause_doubles_up_to_10_min_once_per_unhelpful_token() {
    for is_trusted in [false, true] {
        let (mut limiter, mut now) = (ForcedRefreshLimiter::default(), NOW);
        limiter.record_forced(Generation(1), is_trusted, at(now));
        for (generation, pause) in
            [(2, 30), (3, 60), (4, 120), (5, 240), (6, 480), (7, 600), (8, 600)]
        {
            for _ in 0..10 {
                limiter.record_unhelpful(Generation(generation), is_trusted, at(now));
            }
            check_pause(&limiter, (A, is_trusted), now, pause, "generation");
            check_pause(&limiter, (A, !is_trusted), now, 0, "one of the others");
            now += pause;
            limiter.record_forced(Generation(generation), is_trusted, at(now));
        }
    }
}

#[test]
fn an_accepted_new_token_resets_the_pauses_and_an_old_one_does_not() {
    for (is_trusted, accepted, has_new_token, pause) in [
        (true, 1, true, 60),
        (true, 2, true, 60),
        (true, 3, false, 0),
        (true, 9, true, 0),
        (false, 2, true, 60),
        (false, 3, true, 0),
        // The token was not requested for this target, so only the doubling is reset.
        (false, 3, false, 60),
    ] {
        let mut limiter = ForcedRefreshLimiter::default();
        limiter.record_forced(Generation(1), is_trusted, at(NOW - 100));
        limiter.record_unhelpful(Generation(2), is_trusted, at(NOW - 100));
        limiter.record_forced(Generation(2), is_trusted, at(NOW));
        limiter.record_acceptance(Generation(accepted), has_new_token);
        let case = format!(
            "is_trusted: {is_trusted}, generation {accepted}, has_new_token: {has_new_token}"
        );
        check_pause(&limiter, (A, is_trusted), NOW, pause, &case);
        if accepted > 2 {
            limiter.record_forced(Generation(accepted), is_trusted, at(NOW + 100));
            check_pause(&limiter, (A, is_trusted), NOW + 100, 30, &case);
        }
    }
}

/// E31.
#[test]
fn a_blamed_target_delays_no_other() {
    let mut limiter = ForcedRefreshLimiter::default();
    let mut now = NOW;
    for pause in [60, 120, 240, 480, 600, 600] {
        limiter.blame_target(A, at(now));
        for is_trusted in [false, true] {
            check_pause(&limiter, (B, is_trusted), now, 0, "another target");
            check_pause(&limiter, (A, is_trusted), now, pause, "the target");
        }
        // Concurrent rejections and acceptances by other targets do not change that.
        limiter.blame_target(A, at(now + pause - 1));
        limiter.record_acceptance(Generation(9), true);
        check_pause(&limiter, (A, true), now, pause, "the target, blamed again");
        now += pause;
    }
}

#[test]
fn the_number_of_targets_is_bounded_and_the_first_to_expire_is_dropped() {
    let mut limiter = ForcedRefreshLimiter::default();
    for target in 0..10_000 {
        limiter.blame_target(target, at(NOW + target));
        assert!(limiter.targets.len() <= MAX_TARGETS);
    }
    assert_eq!(limiter.targets.len(), MAX_TARGETS);
    let first = 10_000 - u64::try_from(MAX_TARGETS).unwrap_or_default();
    assert!(limiter.targets.contains_key(&first) && !limiter.targets.contains_key(&(first - 1)));
    assert!(!limiter.allows(Some(9_999), true, at(NOW + 10_000)));
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_pause() {
    for back in [1, 29, 600, 900_000] {
        let now = |seconds| showing(NOW + seconds - back, NOW + seconds);
        let mut limiter = ForcedRefreshLimiter::default();
        limiter.record_forced(Generation(1), true, at(NOW));
        limiter.blame_target(B, at(NOW));
        for (target, is_trusted, pause) in [(A, true, 30), (B, false, 60)] {
            assert!(!limiter.allows(Some(target), is_trusted, now(pause - 1)), "{back}");
            assert!(limiter.allows(Some(target), is_trusted, now(pause)), "{back}");
        }
        // The pause has ended for the next rejection as well.
        limiter.blame_target(B, now(60));
        assert!(!limiter.allows(Some(B), false, now(60 + 119)), "{back}");
        assert!(limiter.allows(Some(B), false, now(60 + 120)), "{back}");
    }
}
