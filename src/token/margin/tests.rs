//! Margins for a table of lifetimes, and for any lifetime.

use proptest::prelude::*;

use super::*;

const DAY: u64 = 86_400;

#[test]
fn the_margin_is_scaled_to_the_lifetime() {
    let (auto, share) = (Margin::Auto, Margin::Share);
    let fixed = |seconds| Margin::Fixed(Duration::from_secs(seconds));
    for (margin, lifetime, expected) in [
        // A tenth, at least 10 s and at most 5 min, but at most half.
        (auto, 5.0, 2.5),
        (auto, 15.0, 7.5),
        (auto, 60.0, 10.0),
        (auto, 300.0, 30.0),
        (auto, 3000.0, 300.0),
        (auto, 3600.0, 300.0),
        (auto, 86_400.0, 300.0),
        (auto, 0.0, 0.0),
        (fixed(30), 3600.0, 30.0),
        (fixed(0), 3600.0, 0.0),
        (fixed(300), 60.0, 30.0),
        (fixed(u64::MAX), 60.0, 30.0),
        (share(0.1), 3600.0, 360.0),
        (share(0.0), 3600.0, 0.0),
        (share(0.9), 3600.0, 1800.0),
        (share(7.0), 3600.0, 1800.0),
        (share(-1.0), 3600.0, 0.0),
    ] {
        let lifetime = Duration::from_secs_f64(lifetime);
        let expected = Duration::from_secs_f64(expected);
        assert_eq!(margin.of(lifetime, 0.0), expected, "{margin:?} of {lifetime:?}");
        // At most a fifth is taken off at random.
        let fifth = expected.mul_f64(0.8);
        assert_eq!(margin.of(lifetime, 1.0), fifth, "{margin:?} of {lifetime:?}");
        assert_eq!(margin.of(lifetime, 9.0), fifth, "{margin:?} of {lifetime:?}");
    }
}

fn any_margin() -> impl Strategy<Value = Margin> {
    prop_oneof![
        Just(Margin::Auto),
        (0..10 * DAY).prop_map(|seconds| Margin::Fixed(Duration::from_secs(seconds))),
        // Including values that the settings refuse.
        (-1.0..3.0).prop_map(Margin::Share),
    ]
}

proptest! {
    #[test]
    fn a_margin_is_never_more_than_half_a_lifetime(
        margin in any_margin(), millis in 0..400 * DAY * 1000, jitter in -1.0..2.0,
    ) {
        let lifetime = Duration::from_millis(millis);
        let taken = margin.of(lifetime, jitter);
        // Shares are rounded to the precision of floating-point numbers.
        let rounding = Duration::from_micros(1);
        prop_assert!(taken <= lifetime / 2 + rounding, "{:?}", taken);
        let most = margin.of(lifetime, 0.0);
        prop_assert!(taken <= most && taken + rounding >= most.mul_f64(0.8), "{:?}", taken);
    }
}
