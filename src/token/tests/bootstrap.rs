//! Bootstraps: grants that are obtained without a person.

use super::*;

/// A token of ten seconds, and a refresh token.
fn short(fixture: &Fixture, number: u32) {
    let (access_token, refresh_token) = (format!("at{number}"), format!("rt{number}"));
    fixture.server.answer(
        200,
        json!({"access_token": access_token, "refresh_token": refresh_token, "expires_in": 10}),
    );
}

fn bootstraps(fixture: &Fixture) -> usize {
    fixture.server.requests().iter().filter(|it| presents(it, "password")).count()
}

#[tokio::test(start_paused = true)]
async fn the_very_first_token_comes_from_the_bootstrap() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.start().await;
    fixture.server.issue(1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert!(presents(&fixture.server.requests()[0], "password"));
    assert_eq!(fixture.record().await.refresh_token, secret("rt1"));
    // The next token comes from its refresh token.
    fixture.clock.advance(2 * HOUR);
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(presents(&fixture.server.requests()[1], "refresh_token"));
    assert!(fixture.context.metrics.encode().contains("token_bootstraps_total"));
}

#[tokio::test(start_paused = true)]
async fn a_dead_grant_is_replaced_by_a_bootstrap_in_the_same_flight() {
    let mut fixture = Fixture::new(with_bootstrap);
    fixture.seed("s1");
    let slot = fixture.start().await;
    fixture.server.dead();
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let requests = fixture.server.requests();
    assert_eq!(requests.len(), 2);
    assert!(presents(&requests[0], "refresh_token") && presents(&requests[1], "password"));
    let record = fixture.record().await;
    assert_eq!((record.terminal, record.attempt), (None, None));
    assert_eq!(record.refresh_token, secret("rt2"));
    assert_eq!(slot.status().condition, Condition::Fresh);
}

/// Authorization servers lock accounts after a few wrong passwords. The retries never stop, because the cause may be
/// repaired at the server.
#[tokio::test(start_paused = true)]
async fn a_refused_bootstrap_is_retried_after_30_s_to_5_min_even_across_restarts() {
    let mut fixture = Fixture::new(with_bootstrap);
    fixture.seed("s1");
    let mut slot = fixture.start().await;
    let start = Instant::now();
    (0..9).for_each(|_| fixture.server.dead());
    assert_eq!(why(token(&slot).await.unwrap_err()), "bootstrap_refused");
    assert!(slot.status().condition.is_refused(), "another password could help");
    while start.elapsed() < Duration::from_secs(1100) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(token(&slot).await.is_err());
        if bootstraps(&fixture) == 3 {
            slot = fixture.start().await;
        }
    }
    let times: Vec<u128> = fixture.server.times(start).iter().map(|at| at / 1000).collect();
    let pauses: Vec<u128> = times[1..].windows(2).map(|two| two[1] - two[0]).collect();
    let as_expected = pauses.iter().zip([30, 60, 120, 240, 300, 300]);
    let as_expected = as_expected.filter(|(pause, least)| (*least..least + 11).contains(*pause));
    assert_eq!((as_expected.count(), pauses.len()), (6, 6), "{pauses:?}");
    assert_eq!(fixture.server.presented("s1"), 1, "the dead refresh token is not sent again");
    fixture.clock.advance(Duration::from_secs(301));
    fixture.server.tell_nothing_more();
    fixture.server.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
}

#[tokio::test(start_paused = true)]
async fn a_refused_bootstrap_backs_off_even_without_a_refresh_token() {
    let mut fixture = Fixture::new(with_bootstrap);
    for _ in 0..10 {
        fixture.server.dead();
        assert!(token(&*fixture.start().await).await.is_err());
        fixture.clock.advance(Duration::from_secs(10));
    }
    assert_eq!(fixture.server.requests().len(), 3, "at once, after 30 s, and 60 s after that");
}

/// The last bootstrap yielded a token, so the next has no pause, even in a process started in between.
#[tokio::test(start_paused = true)]
async fn two_bootstraps_in_ten_minutes_have_no_pause_and_a_third_waits() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.start().await;
    short(&fixture, 1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    tokio::time::sleep(Duration::from_secs(11)).await;
    let slot = fixture.start().await;
    fixture.server.dead();
    short(&fixture, 2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(bootstraps(&fixture), 2);
    tokio::time::sleep(Duration::from_secs(11)).await;
    fixture.server.dead();
    assert_eq!(why(token(&slot).await.unwrap_err()), "bootstrap_pause");
    assert_eq!(bootstraps(&fixture), 2);
    tokio::time::sleep(Duration::from_secs(20)).await;
    short(&fixture, 3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    // Later the count starts again.
    tokio::time::sleep(Duration::from_secs(601)).await;
    fixture.server.dead();
    short(&fixture, 4);
    assert_eq!(token(&slot).await.unwrap(), "at4");
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_without_a_refresh_token_is_repeated_for_every_token() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.start().await;
    for number in 1..=5 {
        let access_token = format!("at{number}");
        fixture.server.answer(200, json!({"access_token": access_token, "expires_in": 10}));
        assert_eq!(token(&slot).await.unwrap(), access_token);
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
    assert_eq!(bootstraps(&fixture), 5);
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_with_a_temporary_failure_is_retried_soon() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.start().await;
    fixture.server.answer(503, json!({}));
    fixture.server.lose();
    fixture.server.issue(1);
    let asked = Instant::now();
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(bootstraps(&fixture), 3);
}

#[tokio::test(start_paused = true)]
async fn the_retry_after_of_a_bootstrap_is_obeyed() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.start().await;
    fixture.server.throttle(100);
    assert_eq!(why(token(&slot).await.unwrap_err()), "throttled");
    tokio::time::sleep(Duration::from_secs(90)).await;
    let again = fixture.start().await;
    assert_eq!(why(token(&again).await.unwrap_err()), "throttled");
    assert_eq!(bootstraps(&fixture), 1);
    tokio::time::sleep(Duration::from_secs(11)).await;
    fixture.server.issue(1);
    assert_eq!(token(&again).await.unwrap(), "at1");
}

/// The operator may have fixed the cause.
#[tokio::test(start_paused = true)]
async fn an_operator_need_not_wait_for_a_refused_bootstrap() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.start().await;
    fixture.server.dead();
    assert!(token(&slot).await.is_err());
    fixture.server.issue(1);
    assert!(slot.refresh_now().await.is_ok());
    assert_eq!(token(&slot).await.unwrap(), "at1");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_stays_rejected_when_the_bootstrap_fails() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.start().await;
    fixture.server.answer(200, json!({"access_token": "at1", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at1");
    fixture.rest().await;
    fixture.server.dead();
    assert_eq!(reject(&slot, true).await, None);
    assert!(token(&slot).await.is_err());
    // A new process does not serve it either.
    assert!(token(&*fixture.start().await).await.is_err());
    assert_eq!(bootstraps(&fixture), 2);
}

/// The refresh token may or may not be dead, and a new grant needs no person.
#[tokio::test(start_paused = true)]
async fn the_third_ambiguous_refusal_causes_a_bootstrap() {
    let mut fixture = Fixture::new(with_bootstrap);
    let slot = fixture.expired().await;
    for _ in 0..2 {
        fixture.server.answer(400, json!({"error": "invalid_request"}));
        assert!(token(&slot).await.is_err());
        fixture.clock.advance(HOUR);
    }
    // The refusals are counted across restarts.
    let slot = fixture.start().await;
    fixture.server.answer(400, json!({"error": "invalid_request"}));
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!((fixture.server.presented("rt1"), bootstraps(&fixture)), (3, 1));
}
