//! When bootstraps are made.

use super::*;

#[test]
fn a_dead_grant_is_replaced_if_a_bootstrap_is_configured() {
    use TerminalReason::{LostRotation, Revoked, UserNeeded};
    let setting = PlanFixture::bootstrapping();
    let doubtful = |doubts| TokenRecord { doubts, ..record(Some("r3")) };
    for (case, record, expected) in [
        ("the first start", TokenRecord::default(), NextAction::Bootstrap),
        ("a refresh token", record(Some("r3")), refresh("r3")),
        ("revoked", dead(Revoked, "c"), NextAction::Bootstrap),
        ("lost", dead(LostRotation, "c"), NextAction::Bootstrap),
        ("a person is needed", dead(UserNeeded, "c"), NextAction::Stop(UserNeeded)),
        ("two doubts", doubtful(2), refresh("r3")),
        ("three doubts", doubtful(3), NextAction::Bootstrap),
        ("logged out", tombstone(), NextAction::Stop(TerminalReason::LoggedOut)),
    ] {
        assert_eq!(setting.next_action(&record), expected, "{case}");
    }
    let seeded = PlanFixture { can_bootstrap: true, ..PlanFixture::seeded(Some("s1")) };
    assert_eq!(seeded.next_action(&TokenRecord::default()), attempt("s1"), "a seed comes first");
}

#[test]
fn the_pause_between_bootstraps_depends_on_their_results() {
    let setting = PlanFixture::bootstrapping();
    let pause = |until| NextAction::Wait(at(until), FailureReason::BootstrapPause);
    let dead_one = || dead(TerminalReason::Revoked, "c");
    let doubtful = || TokenRecord { doubts: 3, ..record(Some("r3")) };
    for (case, record, bootstrap, expected) in [
        ("the first one died at once", dead_one(), tried(NOW, None, 0), NextAction::Bootstrap),
        ("the second one, too", dead_one(), tried(NOW, Some(NOW), 0), pause(NOW + 30)),
        (
            "half a minute later",
            dead_one(),
            tried(NOW - 30, Some(NOW - 30), 0),
            NextAction::Bootstrap,
        ),
        ("just not yet", dead_one(), tried(NOW - 29, Some(NOW - 599), 0), pause(NOW + 1)),
        (
            "the one before is long ago",
            dead_one(),
            tried(NOW, Some(NOW - 600), 0),
            NextAction::Bootstrap,
        ),
        ("no refresh token came", record(None), tried(NOW, Some(NOW), 0), NextAction::Bootstrap),
        ("refused", record(None), tried(NOW, None, 1), pause(NOW + 30)),
        ("refused twice", dead_one(), tried(NOW, None, 2), pause(NOW + 60)),
        ("refused often", dead_one(), tried(NOW - 1, None, 5), pause(NOW + 299)),
        ("refused for years", dead_one(), tried(NOW - 1, None, u32::MAX), pause(NOW + 299)),
        ("and now it is time", dead_one(), tried(NOW - 300, None, u32::MAX), NextAction::Bootstrap),
        ("doubtful", doubtful(), tried(NOW, None, 1), pause(NOW + 30)),
        // The clock was set back, so that the time since then is unknown.
        ("tried in the future", dead_one(), tried(NOW + 1, Some(NOW), 0), NextAction::Bootstrap),
        ("refused in the future", dead_one(), tried(NOW + 1, None, 9), NextAction::Bootstrap),
        (
            "the one before in the future",
            dead_one(),
            tried(NOW, Some(NOW + 1), 0),
            NextAction::Bootstrap,
        ),
    ] {
        let record = TokenRecord { bootstrap, ..record };
        assert_eq!(setting.next_action(&record), expected, "{case}");
    }
}

/// The times in seconds at which bootstraps are made if each is `refused` or yields a grant that is dead at once.
fn bootstraps(refused: impl Fn(usize) -> bool) -> Vec<u64> {
    let setting = PlanFixture::bootstrapping();
    let mut record = dead(TerminalReason::Revoked, "c");
    let (mut made, mut second) = (Vec::new(), 0);
    while made.len() < 9 {
        match next_action(&record, setting.sources(), false, false, None, at(NOW + second)) {
            NextAction::Bootstrap => {
                let before = record.bootstrap.take();
                let so_far = before.as_ref().map_or(0, |it| it.refused);
                record.bootstrap = Some(BootstrapHistory {
                    at: at(NOW + second),
                    before: before.map(|it| it.at),
                    refused: if refused(made.len()) { so_far + 1 } else { 0 },
                });
                made.push(second);
            }
            NextAction::Wait(until, FailureReason::BootstrapPause) => {
                second = until.duration_since(at(NOW)).unwrap().as_secs();
            }
            other => panic!("{other:?}"),
        }
    }
    made
}

#[test]
fn bootstraps_are_spaced() {
    assert_eq!(bootstraps(|_| true), [0, 30, 90, 210, 450, 750, 1050, 1350, 1650]);
    assert_eq!(bootstraps(|_| false), [0, 0, 30, 60, 90, 120, 150, 180, 210]);
    // A success ends the doubling.
    assert_eq!(bootstraps(|it| it != 3), [0, 30, 90, 210, 240, 270, 330, 450, 690]);
}
