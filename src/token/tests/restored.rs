//! Missing, outdated and damaged records.

use super::*;

/// Otherwise a process started after a crash would present a superseded refresh token.
#[tokio::test(start_paused = true)]
async fn a_missing_old_or_damaged_record_is_written_back_within_two_seconds() {
    for case in ["removed", "backup", "damaged"] {
        let mut fixture = Fixture::new(|_| ());
        let slot = fixture.expired().await;
        let backup = fixture.record().await;
        fixture.server.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        let newest = fixture.record().await;
        let _watching = fixture.watch();
        fixture.rest().await;
        match case {
            "removed" => fixture.store.remove(&fixture).await,
            "backup" => fixture.put(&backup).await,
            _ => fixture.store.damage(&fixture).await,
        }
        fixture.store.notify();
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(fixture.record().await, newest, "{case}");
        assert!(!slot.status().is_unsaved && !fixture.store.is_leased().await, "{case}");
        assert_eq!(token(&*fixture.start().await).await.unwrap(), "at2", "{case}");
        assert_eq!(fixture.server.requests().len(), 2, "{case}");
    }
}

/// The restored backup was not detected before the refresh.
#[tokio::test(start_paused = true)]
async fn a_refresh_uses_the_newest_record_instead_of_a_restored_backup() {
    for case in ["removed", "backup", "damaged"] {
        let mut fixture = Fixture::new(|_| ());
        let slot = fixture.expired().await;
        let backup = fixture.record().await;
        fixture.server.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        fixture.clock.advance(2 * HOUR);
        match case {
            "removed" => fixture.store.remove(&fixture).await,
            "backup" => fixture.put(&backup).await,
            _ => fixture.store.damage(&fixture).await,
        }
        fixture.server.issue(3);
        assert_eq!(token(&slot).await.unwrap(), "at3", "{case}");
        assert_eq!(
            (fixture.server.presented("rt1"), fixture.server.presented("rt2")),
            (1, 1),
            "{case}"
        );
        assert_eq!(fixture.record().await.refresh_token, secret("rt3"), "{case}");
    }
}

/// The server has invalidated the refresh token of the backup.
#[tokio::test(start_paused = true)]
async fn a_backup_restored_during_a_token_request_does_not_lose_the_response() {
    let mut fixture = Fixture::new(|_| ());
    let slot = fixture.expired().await;
    let backup = fixture.record().await;
    fixture.intrude(backup).await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let record = fixture.record().await;
    assert_eq!((record.refresh_token, record.generation), (secret("rt2"), Generation(2)));
    assert!(!slot.status().is_unsaved);
}

/// The damaged record may have been the newest one, so that its content is not guessed.
#[tokio::test(start_paused = true)]
async fn a_damaged_record_at_startup_is_reported_and_replaced_by_a_seed() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.started().await;
    fixture.store.damage(&fixture).await;
    fixture.config.seed = None;
    let slot = fixture.start().await;
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Corrupt));
    assert_eq!(fixture.server.requests().len(), 1);
    fixture.seed("s2");
    let slot = fixture.reload().await;
    fixture.server.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(fixture.record().await.refresh_token, secret("rt2"));
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_newer_format_is_neither_used_nor_overwritten() {
    let mut fixture = Fixture::new(|_| ());
    let _before = fixture.expired().await;
    let bytes = String::from_utf8(fixture.store.bytes().await.unwrap()).unwrap();
    let newer = bytes.replace("\"bearerd\": 4", "\"bearerd\": 9").into_bytes();
    fixture.store.replace_bytes(fixture.version().await, &newer).await;
    let slot = fixture.start().await;
    let error = token(&slot).await.unwrap_err();
    assert!(
        matches!(error, TokenError::Unavailable { reason, .. } if reason.needs_operator()),
        "{error}"
    );
    assert!(slot.refresh_now().await.is_err());
    fixture.rest().await;
    assert_eq!(fixture.store.bytes().await.unwrap(), newer);
    assert_eq!(fixture.server.requests().len(), 1);
}
