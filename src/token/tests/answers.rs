//! How responses, and lost responses, affect the grant.

use super::faulty_store::JournalEntry;
use super::scripted_server::ScriptedAnswer;
use super::*;

fn prolonging(config: &mut Config) {
    config.oauth.reading.mapping.keep_access_token = true;
}

/// A response whose access token has an unsupported type.
fn unusable(refresh_token: &str) -> serde_json::Value {
    json!({"access_token": "a", "token_type": "mac", "refresh_token": refresh_token})
}

fn doubtful() -> serde_json::Value {
    json!({"error": "invalid_request"})
}

// ----- unusable responses -----

#[tokio::test(start_paused = true)]
async fn a_response_with_nothing_to_extend_still_yields_its_refresh_token() {
    let mut fixture = Fixture::new(prolonging);
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.answer(200, json!({"refresh_token": "rt2"}));
    assert_eq!(why(token(&slot).await.unwrap_err()), "unreadable_answer");
    let record = fixture.record().await;
    assert_eq!((&record.refresh_token, &record.attempt), (&secret("rt2"), &None));
    assert!(record.has_superseded(&hash("s1")));
    fixture.clock.advance(HOUR);
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(fixture.server.presented("rt2"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unusable_response_to_a_bootstrap_still_yields_its_refresh_token() {
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
        let mut fixture = Fixture::new(change);
        fixture.seed("s1");
        let slot = fixture.start().await;
        fixture.server.dead();
        fixture.server.answer(200, answer);
        assert_eq!(why(token(&slot).await.unwrap_err()), word);
        let record = fixture.record().await;
        assert_eq!((record.refresh_token, record.terminal), (secret("rt1"), None));
        fixture.clock.advance(HOUR);
        fixture.server.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        assert_eq!(fixture.server.presented("rt1"), 1, "not begun anew");
    }
}

/// Also with `rotation = "ignore"`.
#[tokio::test(start_paused = true)]
async fn an_unusable_response_rotates_like_a_usable_one() {
    for (rotation, answered, kept) in [
        (Rotation::Auto, "s1", "rt1"),
        (Rotation::Auto, "rt2", "rt2"),
        (Rotation::Ignore, "rt2", "s1"),
    ] {
        let mut fixture = Fixture::new(|config| config.oauth.rotation = rotation);
        let slot = fixture.expired().await;
        fixture.server.answer(200, unusable(answered));
        assert!(token(&slot).await.is_err());
        let record = fixture.record().await;
        assert_eq!((record.refresh_token, record.attempt), (secret(kept), None), "{rotation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unusable_response_leaves_the_current_access_token_in_use() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    fixture.clock.advance(Duration::from_secs(3500));
    fixture.server.answer(200, unusable("rt2"));
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
    assert!(matches!(slot.status().condition, Condition::Failing(_)));
}

/// The server has consumed the refresh token of a successful request.
#[tokio::test(start_paused = true)]
async fn an_unreadable_success_is_a_lost_rotation_and_is_stored_for_the_operator() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.tell(ScriptedAnswer::Says(200, "welcome".to_owned(), None));
    assert_eq!(token(&slot).await, needs_login(TerminalReason::LostRotation));
    let record = fixture.record().await;
    assert_eq!(record.unread, secret("welcome"));
    assert_eq!(record.attempt.unwrap().refresh_token, hash("rt1"));
    for slot in [slot, fixture.start().await] {
        fixture.clock.advance(DAY);
        assert_eq!(token(&slot).await, needs_login(TerminalReason::LostRotation));
    }
    assert_eq!(fixture.server.presented("rt1"), 1);
    assert!(fixture.context.metrics.encode().contains("bearerd_lost_rotations_total"));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_success_does_not_end_a_grant_without_rotation() {
    for rotation in [Rotation::Auto, Rotation::Ignore] {
        let mut fixture = Fixture::new(|config| config.oauth.rotation = rotation);
        let slot = fixture.expired().await;
        fixture.server.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
        assert_eq!(token(&slot).await.unwrap(), "at2");
        fixture.clock.advance(2 * HOUR);
        (0..9).for_each(|_| {
            fixture.server.tell(ScriptedAnswer::Says(200, "welcome".to_owned(), None))
        });
        assert_eq!(why(token(&slot).await.unwrap_err()), "unreadable_answer");
        fixture.server.tell_nothing_more();
        fixture.clock.advance(HOUR);
        fixture.server.issue(3);
        assert_eq!(token(&slot).await.unwrap(), "at3");
    }
}

// ----- rotation -----

#[tokio::test(start_paused = true)]
async fn the_attempt_is_stored_before_it_is_made_and_its_answer_before_it_is_used() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let before = fixture.store.events().len();
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let events = &fixture.store.events()[before..];
    let [
        JournalEntry::Stored(attempt),
        JournalEntry::ReceivedRequest(request),
        JournalEntry::Stored(answer),
    ] = events
    else {
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
async fn with_rotation_ignored_no_attempt_is_stored_and_the_first_refresh_token_stays() {
    let mut fixture = Fixture::new(|config| config.oauth.rotation = Rotation::Ignore);
    let slot = fixture.expired().await;
    let before = fixture.store.events().len();
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(matches!(fixture.store.events()[before], JournalEntry::ReceivedRequest(_)));
    assert_eq!(fixture.server.presented("s1"), 2);
    assert_eq!(fixture.record().await.refresh_token, secret("s1"));
}

#[tokio::test(start_paused = true)]
async fn with_rotation_required_a_response_without_a_new_refresh_token_is_not_rotated() {
    let mut fixture = Fixture::new(|config| config.oauth.rotation = Rotation::Require);
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.answer(200, json!({"access_token": "at1", "expires_in": 3600}));
    assert_eq!(why(token(&slot).await.unwrap_err()), "not_rotated");
    let record = fixture.record().await;
    assert_eq!(record.refresh_token, secret("s1"));
    assert_eq!(record.attempt, None, "an answer came: nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn a_superseded_refresh_token_in_a_response_is_ignored() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.clock.advance(2 * HOUR);
    fixture
        .server
        .answer(200, json!({"access_token": "at3", "refresh_token": "rt1", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
}

// ----- extended tokens -----

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_is_extended_is_sent_again() {
    let mut fixture = Fixture::new(prolonging);
    let slot = fixture.started().await;
    fixture.clock.advance(HOUR / 2);
    fixture.server.answer(200, json!({"expires_in": 3600}));
    assert_eq!(reject(&slot, true).await.unwrap(), "at1");
    assert_eq!(slot.status().condition, Condition::Fresh);
}

// ----- panics -----

#[tokio::test(start_paused = true)]
async fn a_panic_during_a_token_request_loses_nothing_and_blocks_no_request() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    fixture.server.tell(ScriptedAnswer::Panic);
    let asked = Instant::now();
    assert_eq!(why(token(&slot).await.unwrap_err()), "internal_error");
    assert!(asked.elapsed() < SECOND);
    let record = fixture.record().await;
    assert_eq!(record.refresh_token, secret("rt1"));
    assert_eq!(record.attempt.unwrap().count, 1, "it may have arrived");
    assert!(!fixture.store.is_leased().await);
    fixture.clock.advance(HOUR);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
}

// ----- DPoP -----

fn bound(fixture: &Fixture, number: u32) {
    let (access_token, refresh_token) = (format!("at{number}"), format!("rt{number}"));
    fixture.server.answer(
        200,
        json!({"access_token": access_token, "refresh_token": refresh_token, "expires_in": 3600,
            "token_type": "DPoP"}),
    );
}

#[tokio::test(start_paused = true)]
async fn the_key_of_a_refresh_token_is_kept_while_dpop_is_disabled() {
    let mut fixture = Fixture::new(|config| config.oauth.reading.dpop = true);
    fixture.seed("s1");
    let slot = fixture.start().await;
    bound(&fixture, 1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    let key = fixture.record().await.dpop_key;
    assert!(key.is_some() && slot.token().await.unwrap().key().is_some());
    // Without a proof the server may revoke a bound refresh token, and APIs reject a bound access token.
    fixture.config.oauth.reading.dpop = false;
    for slot in [fixture.reload().await, fixture.start().await] {
        assert_eq!(token(&slot).await, needs_login(TerminalReason::OtherGrant));
        assert!(slot.refresh_now().await.is_err());
    }
    assert_eq!(fixture.server.requests().len(), 1);
    fixture.config.oauth.reading.dpop = true;
    let slot = fixture.start().await;
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.clock.advance(2 * HOUR);
    bound(&fixture, 2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.dpop_key, key);
    assert!(fixture.server.asked().iter().all(|asked| asked.proved));
}

// ----- ambiguous refusals -----

/// Some servers refuse a dead grant like this, others any request, so that no number of refusals ends the grant.
#[tokio::test(start_paused = true)]
async fn ambiguous_refusals_end_no_grant_and_are_retried_every_15_minutes_at_most() {
    let mut fixture = Fixture::new(|_| ());
    let mut slot = fixture.expired().await;
    let start = Instant::now();
    (0..40).for_each(|_| fixture.server.answer(400, doubtful()));
    while start.elapsed() < 4 * HOUR {
        assert_eq!(why(token(&slot).await.unwrap_err()), "refused");
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let asked = fixture.server.presented("rt1");
    assert!((16..=40).contains(&asked), "{asked}");
    assert!(fixture.record().await.doubts >= 3);
    slot = fixture.start().await;
    fixture.server.tell_nothing_more();
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.doubts, 0);
}

/// The server may refuse a refresh because it is too early.
#[tokio::test(start_paused = true)]
async fn a_refusal_while_a_token_is_usable_counts_no_doubt_and_keeps_the_margin() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    for pause in [3350, 100, 100] {
        fixture.clock.advance(Duration::from_secs(pause));
        fixture.server.answer(400, doubtful());
        assert!(slot.refresh_now().await.is_err());
        assert_eq!(
            slot.status().condition,
            Condition::Failing(FailureReason::Answer(ErrorClass::Doubtful))
        );
        assert_eq!(token(&slot).await.unwrap(), "at1");
    }
    let record = fixture.record().await;
    assert_eq!((record.doubts, record.attempt), (0, None));
    fixture.clock.advance(HOUR);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    // The next token has the same margin.
    fixture.clock.advance(Duration::from_secs(3400));
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    fixture.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "at3");
}
