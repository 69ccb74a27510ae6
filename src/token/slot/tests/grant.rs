//! What answers, and their absence, do to the grant.

use super::faulty::Event;
use super::script::Answer;
use super::*;

fn prolonging(config: &mut Config) {
    config.oauth.reading.mapping.keep_access_token = true;
}

/// An answer whose access token is of no use here.
fn unusable(refresh_token: &str) -> serde_json::Value {
    json!({"access_token": "a", "token_type": "mac", "refresh_token": refresh_token})
}

fn doubtful() -> serde_json::Value {
    json!({"error": "invalid_request"})
}

// ----- what an unusable answer still gives up -----

#[tokio::test(start_paused = true)]
async fn an_answer_with_nothing_to_prolong_still_gives_up_its_refresh_token() {
    let mut stage = Stage::new(prolonging);
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.answer(200, json!({"refresh_token": "rt2"}));
    assert_eq!(why(token(&slot).await.unwrap_err()), "unreadable_answer");
    let record = stage.record().await;
    assert_eq!((&record.refresh_token, &record.attempt), (&secret("rt2"), &None));
    assert!(record.has_superseded(&hash("s1")));
    stage.clock.advance(HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(stage.script.presented("rt2"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unusable_answer_to_a_bootstrap_still_gives_up_its_refresh_token() {
    for (change, answer, word) in [
        (with_bootstrap as fn(&mut Config), unusable("rt1"), "unusable_token"),
        (
            |config| {
                with_bootstrap(config);
                prolonging(config);
            },
            json!({"refresh_token": "rt1"}),
            "unreadable_answer",
        ),
    ] {
        let mut stage = Stage::new(change);
        stage.seed("s1");
        let slot = stage.start().await;
        stage.script.dead();
        stage.script.answer(200, answer);
        assert_eq!(why(token(&slot).await.unwrap_err()), word);
        let record = stage.record().await;
        assert_eq!((record.refresh_token, record.terminal), (secret("rt1"), None));
        stage.clock.advance(HOUR);
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        assert_eq!(stage.script.presented("rt1"), 1, "not begun anew");
    }
}

/// Also with `rotation = "ignore"`.
#[tokio::test(start_paused = true)]
async fn an_unusable_answer_replaces_no_refresh_token_that_a_usable_one_would_not() {
    for (rotation, answered, kept) in [
        (Rotation::Auto, "s1", "rt1"),
        (Rotation::Auto, "rt2", "rt2"),
        (Rotation::Ignore, "rt2", "s1"),
    ] {
        let mut stage = Stage::new(|config| config.oauth.rotation = rotation);
        let slot = stage.expired().await;
        stage.script.answer(200, unusable(answered));
        assert!(token(&slot).await.is_err());
        let record = stage.record().await;
        assert_eq!((record.refresh_token, record.attempt), (secret(kept), None), "{rotation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_salvaged_leaves_the_access_token_that_is_still_good() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3500));
    stage.script.answer(200, unusable("rt2"));
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
    assert!(matches!(slot.status().condition, Condition::Failing(_)));
}

/// A success has used the refresh token up, whatever is in it.
#[tokio::test(start_paused = true)]
async fn a_success_that_nothing_can_be_read_from_is_a_lost_rotation_and_is_kept_for_an_operator() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.tell(Answer::Says(200, "welcome".to_owned(), None));
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LostRotation));
    let record = stage.record().await;
    assert_eq!(record.unread, secret("welcome"));
    assert_eq!(record.attempt.unwrap().refresh_token, hash("rt1"));
    for slot in [slot, stage.start().await] {
        stage.clock.advance(DAY);
        assert_eq!(token(&slot).await, needs_login(TerminalReason::LostRotation));
    }
    assert_eq!(stage.script.presented("rt1"), 1);
    assert!(stage.context.metrics.encode().contains("bearerd_lost_rotations_total"));
}

/// Where nothing rotates, nothing can have been lost.
#[tokio::test(start_paused = true)]
async fn a_success_that_nothing_can_be_read_from_ends_no_grant_that_does_not_rotate() {
    for rotation in [Rotation::Auto, Rotation::Ignore] {
        let mut stage = Stage::new(|config| config.oauth.rotation = rotation);
        let slot = stage.expired().await;
        stage.script.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
        assert_eq!(token(&slot).await.unwrap(), "at2");
        stage.clock.advance(2 * HOUR);
        (0..9).for_each(|_| stage.script.tell(Answer::Says(200, "welcome".to_owned(), None)));
        assert_eq!(why(token(&slot).await.unwrap_err()), "unreadable_answer");
        stage.script.tell_nothing_more();
        stage.clock.advance(HOUR);
        stage.script.issue(3);
        assert_eq!(token(&slot).await.unwrap(), "at3");
    }
}

// ----- how the refresh token rotates -----

#[tokio::test(start_paused = true)]
async fn the_attempt_is_stored_before_it_is_made_and_its_answer_before_it_is_used() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let before = stage.faulty.events().len();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let events = &stage.faulty.events()[before..];
    let [Event::Stored(attempt), Event::Asked(request), Event::Stored(answer)] = events else {
        panic!("{events:?}");
    };
    let noted = attempt.attempt.as_ref().unwrap();
    assert_eq!((&noted.refresh_token, noted.count), (&hash("rt1"), 1));
    assert_eq!(attempt.refresh_token, secret("rt1"));
    assert!(request.contains("refresh_token=rt1"));
    assert_eq!((&answer.refresh_token, &answer.attempt), (&secret("rt2"), &None));
    assert_eq!(answer.parent, Some(hash("rt1")));
}

#[tokio::test(start_paused = true)]
async fn with_rotation_ignored_nothing_is_written_before_and_the_first_refresh_token_stays() {
    let mut stage = Stage::new(|config| config.oauth.rotation = Rotation::Ignore);
    let slot = stage.expired().await;
    let before = stage.faulty.events().len();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(matches!(stage.faulty.events()[before], Event::Asked(_)));
    assert_eq!(stage.script.presented("s1"), 2);
    assert_eq!(stage.record().await.refresh_token, secret("s1"));
}

#[tokio::test(start_paused = true)]
async fn with_rotation_required_an_answer_without_a_new_refresh_token_is_an_error_with_a_name() {
    let mut stage = Stage::new(|config| config.oauth.rotation = Rotation::Require);
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.answer(200, json!({"access_token": "at1", "expires_in": 3600}));
    assert_eq!(why(token(&slot).await.unwrap_err()), "not_rotated");
    let record = stage.record().await;
    assert_eq!(record.refresh_token, secret("s1"));
    assert_eq!(record.attempt, None, "an answer came: nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn a_superseded_refresh_token_that_is_handed_back_does_not_replace_the_newest() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    stage
        .script
        .answer(200, json!({"access_token": "at3", "refresh_token": "rt1", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
}

// ----- seeds -----

/// Somebody wrote an old refresh token where the seed is.
#[tokio::test(start_paused = true)]
async fn a_new_seed_that_is_dead_leaves_the_grant_before_it_at_work() {
    let mut stage = Stage::new(with_bootstrap);
    let _before = stage.started().await;
    stage.seed("s2");
    let slot = stage.start().await;
    // It is not known to be dead yet: the server is in trouble first.
    stage.script.throttle(60);
    assert!(token(&slot).await.is_err());
    stage.clock.advance(HOUR / 2);
    stage.script.dead();
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert_eq!(slot.status().last_error.unwrap().1.matches("invalid_grant").count(), 1);
    let record = stage.record().await;
    assert_eq!(
        (record.refresh_token, record.terminal, record.attempt),
        (secret("rt1"), None, None)
    );
    assert!(record.seeds.contains(&hash("s1")) && record.seeds.contains(&hash("s2")));
    // It goes on as if that seed had never been, also after a restart.
    for slot in [slot, stage.start().await] {
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert_eq!(stage.script.requests().len(), 3);
    }
    let slot = stage.start().await;
    stage.clock.advance(HOUR);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.script.presented("rt1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_seed_that_is_dead_leaves_a_refresh_token_whose_access_token_is_over() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.expired().await;
    // Two wrong ones after another.
    for wrong in ["s2", "s3"] {
        stage.seed(wrong);
        let slot = stage.start().await;
        stage.script.throttle(60);
        assert!(token(&slot).await.is_err());
        stage.clock.advance(HOUR);
    }
    let slot = stage.start().await;
    stage.script.dead();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!((stage.script.presented("s3"), stage.script.presented("rt1")), (2, 1));
}

/// Nothing of the old grant goes where the new one is from.
#[tokio::test(start_paused = true)]
async fn a_dead_seed_of_another_server_brings_nothing_back() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.config.oauth.token_url = Some(text("https://elsewhere.example/token"));
    stage.seed("s2");
    let slot = stage.start().await;
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
    assert_eq!(stage.record().await.access_token, None);
    let there: Vec<_> =
        stage.script.requests().into_iter().filter(|it| it.starts_with("elsewhere")).collect();
    assert!(there.len() == 1 && there[0].contains("refresh_token=s2"), "{there:?}");
}

/// A new seed is how a dead grant is healed: that one is not brought back.
#[tokio::test(start_paused = true)]
async fn a_dead_seed_after_a_dead_grant_needs_another() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.dead();
    assert!(token(&slot).await.is_err());
    stage.seed("s2");
    let slot = stage.start().await;
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
    stage.seed("s3");
    let slot = stage.reload().await;
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
}

/// Once the seed has brought a token there is nothing to go back to.
#[tokio::test(start_paused = true)]
async fn a_seed_that_dies_later_is_an_ordinary_dead_grant() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.seed("s2");
    let slot = stage.start().await;
    stage.script.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Revoked));
}

/// A server with strict rotation revokes everything for one of ten rotations ago.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_of_long_ago_is_never_presented_as_a_seed() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    for number in 2..=12 {
        stage.clock.advance(2 * HOUR);
        stage.script.issue(number);
        assert_eq!(token(&slot).await.unwrap(), format!("at{number}"));
    }
    for old in ["s1", "rt1", "rt2", "rt12"] {
        stage.seed(old);
        assert_eq!(token(&*stage.start().await).await.unwrap(), "at12", "{old}");
    }
    assert_eq!(stage.script.requests().len(), 12);
}

/// What is on the disk while a new seed is in the air is all that a crash leaves.
#[tokio::test(start_paused = true)]
async fn a_new_seed_is_an_attempt_on_record_and_the_grant_before_it_stays_there() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.script.arrival().await;
    stage.seed("s2");
    let slot = stage.start().await;
    let hold = stage.script.gate.write().await;
    stage.script.issue(2);
    let waiting = waiting(&slot);
    stage.script.arrival().await;
    let record = stage.record().await;
    assert_eq!((record.refresh_token, record.generation), (secret("rt1"), Generation(1)));
    assert_eq!(record.attempt.unwrap().refresh_token, hash("s2"));
    assert!(!record.seeds.contains(&hash("s2")), "a crash does not use it up");
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    let record = stage.record().await;
    assert!(record.has_superseded(&hash("rt1")) && record.has_superseded(&hash("s2")));
    assert!(record.seeds.contains(&hash("s1")) && record.seeds.contains(&hash("s2")));
}

/// The attempt with the refresh token may have used it up, whatever is tried in between.
#[tokio::test(start_paused = true)]
async fn a_seed_on_trial_does_not_make_an_attempt_with_the_refresh_token_forgotten() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.answer(500, json!({}));
    stage.script.answer(401, json!({"error": "invalid_client"}));
    assert!(token(&slot).await.is_err());
    stage.seed("s2");
    let slot = stage.start().await;
    stage.clock.advance(HOUR);
    stage.script.dead();
    stage.script.dead();
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LostRotation));
    assert_eq!((stage.script.presented("s2"), stage.script.presented("rt1")), (1, 3));
}

// ----- steps -----

#[tokio::test(start_paused = true)]
async fn the_new_refresh_token_is_stored_before_the_steps_and_they_are_repeated_alone() {
    let mut stage = Stage::new(with_step);
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.issue(1);
    stage.script.answer(500, json!({}));
    stage.script.answer(200, json!({"token": "final1"}));
    assert_eq!(token(&slot).await.unwrap(), "final1");
    let requests = stage.script.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[1].contains("/step") && requests[2].contains("/step"));
    let events = stage.faulty.events();
    let at = |is: &dyn Fn(&Event) -> bool| events.iter().position(is).unwrap();
    let stored =
        at(&|event| matches!(event, Event::Stored(it) if it.refresh_token == secret("rt1")));
    let step = at(&|event| matches!(event, Event::Asked(it) if it.contains("/step")));
    assert!(stored < step, "{events:?}");
    let record = stage.record().await;
    assert_eq!((record.access_token, record.refresh_token), (secret("final1"), secret("rt1")));
    // And so it goes on.
    stage.clock.advance(2 * HOUR);
    stage.script.issue(2);
    stage.script.answer(200, json!({"token": "final2"}));
    assert_eq!(token(&slot).await.unwrap(), "final2");
    assert_eq!(stage.script.presented("rt1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_during_the_steps_leaves_the_new_refresh_token() {
    let mut stage = Stage::new(with_step);
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.issue(1);
    stage.script.answer(500, json!({}));
    let _waiting = waiting(&slot);
    while stage.script.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    let slot = stage.start().await;
    stage.script.issue(2);
    stage.script.answer(200, json!({"token": "final2"}));
    assert_eq!(token(&slot).await.unwrap(), "final2");
    assert_eq!((stage.script.presented("s1"), stage.script.presented("rt1")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_good_is_served_while_the_steps_fail() {
    let mut stage = Stage::new(with_step);
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.issue(1);
    stage.script.answer(200, json!({"token": "final1"}));
    assert_eq!(token(&slot).await.unwrap(), "final1");
    stage.clock.advance(Duration::from_secs(3500));
    stage.script.issue(2);
    stage.script.answer(403, json!({}));
    assert_eq!(token(&slot).await.unwrap(), "final1");
    stage.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "final1");
    assert_eq!(slot.status().condition, Condition::Failing(FailureReason::Step));
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
    // What was refused is not repeated: the next goes from the beginning.
    stage.clock.advance(Duration::from_secs(200));
    stage.script.issue(3);
    stage.script.answer(200, json!({"token": "final3"}));
    assert_eq!(token(&slot).await.unwrap(), "final3");
    assert_eq!(stage.script.presented("rt2"), 1);
}

// ----- a rejected token that is prolonged -----

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_is_prolonged_is_sent_again() {
    let mut stage = Stage::new(prolonging);
    let slot = stage.started().await;
    stage.clock.advance(HOUR / 2);
    stage.script.answer(200, json!({"expires_in": 3600}));
    assert_eq!(reject(&slot, true).await.unwrap(), "at1");
    assert_eq!(slot.status().condition, Condition::Fresh);
}

// ----- lost answers -----

/// Each counts from the first request: a server's grace does.
#[tokio::test(start_paused = true)]
async fn lost_answers_are_asked_for_again_within_the_grace_or_not_at_all() {
    for (takes, expected) in [
        (0, &[0, 500, 2000][..]),
        (100, &[0, 500, 2000]),
        (1000, &[0, 2000, 4000]),
        (3000, &[0, 4000]),
        (30_000, &[0]),
    ] {
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.start().await;
        stage.script.takes(Duration::from_millis(takes));
        (0..9).for_each(|_| stage.script.lose());
        let start = Instant::now();
        assert!(token(&slot).await.is_err());
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(stage.script.times(start), expected, "answers lost after {takes} ms");
    }
}

/// A late replay can revoke what is still good.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_whose_answers_were_lost_is_not_presented_while_a_token_can_be_used() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3400));
    (0..9).for_each(|_| stage.script.lose());
    while stage.clock.now() < stage.record().await.expires_at.unwrap() {
        assert_eq!(token(&slot).await.unwrap(), "at1");
        assert!(stage.script.presented("rt1") <= 3);
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(stage.script.presented("rt1"), 3);
    // After its end it is all that is left.
    stage.script.tell_nothing_more();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// What a process leaves that was killed with the request in the air.
async fn in_the_air(stage: &Stage, count: u32, by: &str) {
    let now = stage.clock.now();
    let mut record = stage.record().await;
    record.attempt = Some(Attempt {
        refresh_token: hash("rt1"),
        first: now,
        last: now,
        count,
        by: by.to_owned(),
    });
    stage.put(&record).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_over_restarts_and_three_of_them_are_all() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.expired().await;
    in_the_air(&stage, 1, "lock-0").await;
    (0..9).for_each(|_| stage.script.lose());
    let start = Instant::now();
    let slot = stage.start().await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "answers_lost");
    assert_eq!(stage.script.times(start)[1..], [500, 2000]);
    assert_eq!(stage.record().await.attempt.unwrap().count, 3);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        let slot = stage.start().await;
        assert_eq!(why(token(&slot).await.unwrap_err()), "answers_lost");
    }
    assert_eq!(stage.script.presented("rt1"), 2);
    // Nothing can be hurt by it any more: within a minute somebody looks whether the server is back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    stage.script.tell_nothing_more();
    stage.script.issue(2);
    assert_eq!(token(&*stage.start().await).await.unwrap(), "at2");
    assert_eq!(stage.record().await.attempt, None);
}

/// Its answer may still come, and is theirs.
#[tokio::test(start_paused = true)]
async fn what_another_process_has_in_the_air_is_not_presented_by_this_one() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    in_the_air(&stage, 1, "lock-of-another").await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "in_the_air");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(why(token(&slot).await.unwrap_err()), "in_the_air");
    assert_eq!(stage.script.presented("rt1"), 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
}

/// A refresh token may have been used up only where a request with it may have been acted on, be it many requests
/// ago.
#[tokio::test(start_paused = true)]
async fn a_grant_is_lost_only_after_an_answer_that_could_have_replaced_it() {
    let (lost, revoked) = (TerminalReason::LostRotation, TerminalReason::Revoked);
    let says = |status, body: serde_json::Value| Answer::Says(status, body.to_string(), None);
    let page = Answer::Says(404, "<html>Not here</html>".to_owned(), None);
    let (trouble, throttled) = (says(500, json!({})), says(429, json!({})));
    let (wrong, dead) = (says(401, json!({})), says(400, json!({"error": "invalid_grant"})));
    let (nothing, reset) = (Answer::Unreachable, Answer::Lost);
    for (answers, expected) in [
        (vec![], revoked),
        (vec![&nothing], revoked),
        (vec![&nothing, &nothing], revoked),
        (vec![&throttled], revoked),
        (vec![&wrong, &throttled], revoked),
        (vec![&reset], lost),
        (vec![&reset, &reset, &reset], lost),
        (vec![&page], lost),
        (vec![&trouble], lost),
        (vec![&trouble, &trouble], lost),
        (vec![&trouble, &trouble, &throttled], lost),
        (vec![&reset, &wrong, &throttled, &nothing, &nothing], lost),
    ] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        for answer in answers.iter().copied().chain([&dead]) {
            stage.script.tell(answer.clone());
        }
        while stage.script.presented("rt1") <= answers.len() {
            assert!(token(&slot).await.is_err());
            stage.clock.advance(2 * HOUR);
        }
        assert_eq!(slot.status().condition, Condition::NeedsLogin(expected), "{answers:?}");
        let counted = stage.context.metrics.encode();
        let counted = counted
            .lines()
            .any(|line| line.starts_with("bearerd_lost_rotations_total{") && line.ends_with(" 1"));
        assert_eq!(counted, expected == lost, "{answers:?}");
    }
}

// ----- faults of our own -----

#[tokio::test(start_paused = true)]
async fn a_panic_while_the_server_is_asked_loses_nothing_and_keeps_nobody_waiting() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.tell(Answer::Panic);
    let asked = Instant::now();
    assert_eq!(why(token(&slot).await.unwrap_err()), "internal_error");
    assert!(asked.elapsed() < SECOND);
    let record = stage.record().await;
    assert_eq!(record.refresh_token, secret("rt1"));
    assert_eq!(record.attempt.unwrap().count, 1, "it may have arrived");
    assert!(!stage.faulty.is_leased().await);
    stage.clock.advance(HOUR);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
}

// ----- tokens that are bound to a key -----

fn bound(stage: &Stage, number: u32) {
    let (access_token, refresh_token) = (format!("at{number}"), format!("rt{number}"));
    stage.script.answer(
        200,
        json!({"access_token": access_token, "refresh_token": refresh_token, "expires_in": 3600,
            "token_type": "DPoP"}),
    );
}

#[tokio::test(start_paused = true)]
async fn the_key_of_a_refresh_token_is_kept_while_proofs_are_switched_off() {
    let mut stage = Stage::new(|config| config.oauth.reading.dpop = true);
    stage.seed("s1");
    let slot = stage.start().await;
    bound(&stage, 1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    let key = stage.record().await.dpop_key;
    assert!(key.is_some() && slot.token().await.unwrap().key().is_some());
    // Without a proof a bound refresh token would die, and a bound access token be refused.
    stage.config.oauth.reading.dpop = false;
    for slot in [stage.reload().await, stage.start().await] {
        assert_eq!(token(&slot).await, needs_login(TerminalReason::OtherGrant));
        assert!(slot.refresh_now().await.is_err());
    }
    assert_eq!(stage.script.requests().len(), 1);
    stage.config.oauth.reading.dpop = true;
    let slot = stage.start().await;
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.clock.advance(2 * HOUR);
    bound(&stage, 2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.record().await.dpop_key, key);
    assert!(stage.script.asked().iter().all(|asked| asked.proved));
}

// ----- doubts -----

/// Some servers say so of a dead grant, others of everything: nothing is dead by count.
#[tokio::test(start_paused = true)]
async fn doubtful_answers_end_nothing_and_are_asked_about_every_quarter_of_an_hour_at_most() {
    let mut stage = Stage::new(|_| ());
    let mut slot = stage.expired().await;
    let start = Instant::now();
    (0..40).for_each(|_| stage.script.answer(400, doubtful()));
    while start.elapsed() < 4 * HOUR {
        assert_eq!(why(token(&slot).await.unwrap_err()), "refused");
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let asked = stage.script.presented("rt1");
    assert!((16..=40).contains(&asked), "{asked}");
    assert!(stage.record().await.doubts >= 3);
    slot = stage.start().await;
    stage.script.tell_nothing_more();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.record().await.doubts, 0);
}

/// It may only be too early, and is no doubt about the grant.
#[tokio::test(start_paused = true)]
async fn a_refusal_while_there_is_a_token_is_no_doubt_and_costs_no_margin() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    for pause in [3350, 100, 100] {
        stage.clock.advance(Duration::from_secs(pause));
        stage.script.answer(400, doubtful());
        assert!(slot.refresh_now().await.is_err());
        assert_eq!(
            slot.status().condition,
            Condition::Failing(FailureReason::Answer(Class::Doubtful))
        );
        assert_eq!(token(&slot).await.unwrap(), "at1");
    }
    let record = stage.record().await;
    assert_eq!((record.doubts, record.attempt), (0, None));
    stage.clock.advance(HOUR);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    // The next is replaced as early as the first would have been.
    stage.clock.advance(Duration::from_secs(3400));
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at3");
}
