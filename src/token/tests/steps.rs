//! Configured steps after the token request.

use super::faulty_store::JournalEntry;
use super::*;

#[tokio::test(start_paused = true)]
async fn the_new_refresh_token_is_stored_before_the_steps_and_they_are_repeated_alone() {
    let mut fixture = Fixture::new(with_step);
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.issue(1);
    fixture.server.answer(500, json!({}));
    fixture.server.answer(200, json!({"token": "final1"}));
    assert_eq!(token(&slot).await.unwrap(), "final1");
    let requests = fixture.server.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[1].contains("/step") && requests[2].contains("/step"));
    let events = fixture.store.events();
    let at = |is: &dyn Fn(&JournalEntry) -> bool| events.iter().position(is).unwrap();
    let stored =
        at(&|event| matches!(event, JournalEntry::Stored(it) if it.refresh_token == secret("rt1")));
    let step =
        at(&|event| matches!(event, JournalEntry::ReceivedRequest(it) if it.contains("/step")));
    assert!(stored < step, "{events:?}");
    let record = fixture.record().await;
    assert_eq!((record.access_token, record.refresh_token), (secret("final1"), secret("rt1")));
    // The next refresh works the same way.
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(2);
    fixture.server.answer(200, json!({"token": "final2"}));
    assert_eq!(token(&slot).await.unwrap(), "final2");
    assert_eq!(fixture.server.presented("rt1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_during_the_steps_has_stored_the_new_refresh_token() {
    let mut fixture = Fixture::new(with_step);
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.issue(1);
    fixture.server.answer(500, json!({}));
    let _waiting = waiting(&slot);
    while fixture.server.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    let slot = fixture.start().await;
    fixture.server.issue(2);
    fixture.server.answer(200, json!({"token": "final2"}));
    assert_eq!(token(&slot).await.unwrap(), "final2");
    assert_eq!((fixture.server.presented("s1"), fixture.server.presented("rt1")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_usable_token_is_served_while_the_steps_fail() {
    let mut fixture = Fixture::new(with_step);
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.issue(1);
    fixture.server.answer(200, json!({"token": "final1"}));
    assert_eq!(token(&slot).await.unwrap(), "final1");
    fixture.clock.advance(Duration::from_secs(3500));
    fixture.server.issue(2);
    fixture.server.answer(403, json!({}));
    assert_eq!(token(&slot).await.unwrap(), "final1");
    fixture.rest().await;
    assert_eq!(token(&slot).await.unwrap(), "final1");
    assert_eq!(slot.status().condition, Condition::Failing(FailureReason::Step));
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
    // After a permanent refusal, the next refresh starts with a token request.
    fixture.clock.advance(Duration::from_secs(200));
    fixture.server.issue(3);
    fixture.server.answer(200, json!({"token": "final3"}));
    assert_eq!(token(&slot).await.unwrap(), "final3");
    assert_eq!(fixture.server.presented("rt2"), 1);
}
