//! What answers that are not by the book do to the grant.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.to_owned()))
}

fn prolonging(config: &mut Config) {
    config.oauth.reading.mapping.keep_access_token = true;
}

/// An answer whose access token is of no use here.
fn unusable(refresh_token: &str) -> serde_json::Value {
    json!({"access_token": "a", "token_type": "mac", "refresh_token": refresh_token})
}

// ----- C16: what an unusable answer still gives up -----

#[tokio::test]
async fn an_answer_with_nothing_to_prolong_still_gives_up_its_refresh_token() {
    let mut stage = Stage::new(prolonging);
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.answer(200, json!({"refresh_token": "rt2"}));
    let error = token(&slot).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { why: "unreadable_answer", .. }), "{error}");
    let record = stage.record().await;
    assert_eq!((record.refresh_token, record.intent), (secret("rt2"), None));
    assert_eq!(record.superseded, [secret("s1").unwrap().fingerprint()]);
    stage.clock.advance(HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(stage.script.requests()[1].contains("refresh_token=rt2"));
}

#[tokio::test]
async fn an_unusable_answer_to_a_bootstrap_still_gives_up_its_refresh_token() {
    for (change, answer) in [
        (with_bootstrap as fn(&mut Config), unusable("rt1")),
        (
            |config| {
                with_bootstrap(config);
                prolonging(config);
            },
            json!({"refresh_token": "rt1"}),
        ),
    ] {
        let mut stage = Stage::new(change);
        stage.seed("s1");
        let slot = stage.open().await;
        stage.script.dead();
        stage.script.answer(200, answer);
        let error = token(&slot).await.unwrap_err();
        let why = matches!(error, TokenError::Unavailable { why: "unreadable_answer", .. });
        assert!(why, "{error}");
        let record = stage.record().await;
        assert_eq!((record.refresh_token, record.terminal), (secret("rt1"), None));
        stage.clock.advance(HOUR);
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        let requests = stage.script.requests();
        assert!(requests[2].contains("refresh_token=rt1"), "not begun anew: {requests:?}");
    }
}

/// Row 30, and `rotation = "ignore"`.
#[tokio::test]
async fn an_unusable_answer_replaces_no_refresh_token_that_a_usable_one_would_not() {
    for (rotation, answered, kept) in [
        (Rotation::Auto, "s1", "rt1"),
        (Rotation::Auto, "rt2", "rt2"),
        (Rotation::Ignore, "rt2", "s1"),
    ] {
        let mut stage = Stage::new(|config| config.oauth.rotation = rotation);
        stage.seed("s1");
        let slot = stage.open().await;
        stage.script.issue(1);
        assert_eq!(token(&slot).await.unwrap(), "at1");
        stage.clock.advance(2 * HOUR);
        stage.script.answer(200, unusable(answered));
        assert!(token(&slot).await.is_err());
        let record = stage.record().await;
        assert_eq!((record.refresh_token, record.intent), (secret(kept), None), "{rotation:?}");
    }
}
