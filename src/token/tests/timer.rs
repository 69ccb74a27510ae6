//! What the timer does without requests.

use std::time::UNIX_EPOCH;

use super::*;
use crate::token::runtime::random_jitter;

/// 40 days without a request.
#[tokio::test(start_paused = true)]
async fn an_idle_refresh_token_is_used_once_per_keepalive_interval() {
    let mut fixture = Fixture::new(|config| config.keepalive = Some(30 * DAY));
    let _before = fixture.started().await;
    let _watching = fixture.watch();
    fixture.clock.advance(29 * DAY);
    fixture.rest().await;
    assert_eq!(fixture.server.requests().len(), 1);
    fixture.server.issue(2);
    fixture.clock.advance(11 * DAY);
    fixture.rest().await;
    assert_eq!(fixture.server.requests().len(), 2, "once");
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
    assert!(fixture.record().await.issued_at > Some(UNIX_EPOCH + 30 * DAY));
}

/// The server issues the same access token again with its remaining lifetime.
#[tokio::test(start_paused = true)]
async fn keepalive_counts_from_the_last_use_although_the_access_token_stays_the_same() {
    let mut fixture = Fixture::new(|config| config.keepalive = Some(6 * HOUR));
    fixture.seed("s1");
    let slot = fixture.start().await;
    let same =
        |left: u32| json!({"access_token": "at", "refresh_token": "rt", "expires_in": left * 3600});
    fixture.server.answer(200, same(12));
    assert_eq!(token(&slot).await.unwrap(), "at");
    let _watching = fixture.watch();
    fixture.clock.advance(6 * HOUR);
    (0..5).for_each(|_| fixture.server.answer(200, same(6)));
    fixture.rest().await;
    assert_eq!(fixture.server.requests().len(), 2, "once");
    // A restart in between does not change that.
    let _again = fixture.start().await;
    let _watching = fixture.watch();
    fixture.rest().await;
    assert_eq!(fixture.server.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn near_expiry_the_timer_replaces_only_a_token_that_was_used() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.started().await;
    let _watching = fixture.watch();
    fixture.rest().await;
    fixture.clock.advance(Duration::from_secs(3400));
    fixture.server.issue(2);
    fixture.rest().await;
    assert_eq!(slot.status().generation, Generation(2));
    // That token was not used.
    fixture.clock.advance(Duration::from_secs(3400));
    fixture.rest().await;
    assert_eq!(fixture.server.requests().len(), 2);
}

#[test]
fn credentials_that_expire_together_are_refreshed_at_different_times() {
    let margins: Vec<_> = (0..200).map(|_| Margin::Auto.of(HOUR, random_jitter())).collect();
    let (first, last) = (margins.iter().max().unwrap(), margins.iter().min().unwrap());
    assert!(*first - *last >= *first / 10, "spread over {:?}", *first - *last);
}
