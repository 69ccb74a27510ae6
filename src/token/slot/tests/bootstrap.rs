//! Grants that begin without a person.

use super::*;

#[tokio::test]
async fn the_very_first_token_comes_from_the_bootstrap() {
    let stage = Stage::new(with_bootstrap);
    let slot = stage.open().await;
    stage.script.issue(1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert!(presents(&stage.script.requests()[0], "password"));
    let record = stage.record().await;
    assert_eq!(record.refresh_token, Some(Secret::new("rt1".to_owned())));
    // The next one from its refresh token.
    stage.clock.advance(Duration::from_secs(7200));
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(presents(&stage.script.requests()[1], "refresh_token"));
    assert!(stage.context.metrics.encode().contains("token_bootstraps_total"));
}

#[tokio::test]
async fn a_dead_grant_is_begun_anew_in_the_same_flight() {
    let mut stage = Stage::new(with_bootstrap);
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.dead();
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let requests = stage.script.requests();
    assert_eq!(requests.len(), 2);
    assert!(presents(&requests[0], "refresh_token") && presents(&requests[1], "password"));
    let record = stage.record().await;
    assert_eq!((record.terminal, record.intent), (None, None));
    assert_eq!(record.refresh_token, Some(Secret::new("rt2".to_owned())));
    assert_eq!(slot.status().condition, Condition::Fresh);
}

/// Once in five minutes, and it never ends: whatever is wrong may be mended at the server.
#[tokio::test]
async fn a_bootstrap_that_is_refused_is_tried_again_after_five_minutes() {
    let mut stage = Stage::new(with_bootstrap);
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.dead();
    stage.script.dead();
    let error = token(&slot).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { why: "bootstrap_refused", .. }), "{error}");
    assert!(slot.status().condition.is_refused(), "another password could help");
    for _ in 0..100 {
        assert!(token(&slot).await.is_err());
    }
    assert_eq!(stage.script.requests().len(), 2);
    // Also not through a restart.
    let again = stage.open().await;
    assert!(token(&again).await.is_err());
    assert_eq!(stage.script.requests().len(), 2);
    stage.clock.advance(Duration::from_secs(301));
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    let requests = stage.script.requests();
    assert!(presents(&requests[2], "password"), "the dead refresh token is not sent again");
}
