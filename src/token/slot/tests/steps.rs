//! Steps after the token request.

use super::faulty::Event;
use super::*;

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
