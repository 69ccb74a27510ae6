//! A record that is gone, old or damaged.

use super::*;

/// A crash would otherwise present what the server has forgotten.
#[tokio::test(start_paused = true)]
async fn a_record_that_is_gone_old_or_damaged_is_written_back_within_two_seconds() {
    for case in ["removed", "backup", "damaged"] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        let backup = stage.record().await;
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        let newest = stage.record().await;
        let _watching = stage.watch();
        stage.rest().await;
        match case {
            "removed" => stage.faulty.remove(&stage).await,
            "backup" => stage.put(&backup).await,
            _ => stage.faulty.damage(&stage).await,
        }
        stage.faulty.notify();
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(stage.record().await, newest, "{case}");
        assert!(!slot.status().unsaved && !stage.faulty.is_leased().await, "{case}");
        assert_eq!(token(&*stage.start().await).await.unwrap(), "at2", "{case}");
        assert_eq!(stage.script.requests().len(), 2, "{case}");
    }
}

/// Nobody has noticed yet.
#[tokio::test(start_paused = true)]
async fn a_refresh_goes_by_the_newest_record_and_not_by_a_backup_that_is_stored() {
    for case in ["removed", "backup", "damaged"] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        let backup = stage.record().await;
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        stage.clock.advance(2 * HOUR);
        match case {
            "removed" => stage.faulty.remove(&stage).await,
            "backup" => stage.put(&backup).await,
            _ => stage.faulty.damage(&stage).await,
        }
        stage.script.issue(3);
        assert_eq!(token(&slot).await.unwrap(), "at3", "{case}");
        assert_eq!(
            (stage.script.presented("rt1"), stage.script.presented("rt2")),
            (1, 1),
            "{case}"
        );
        assert_eq!(stage.record().await.refresh_token, secret("rt3"), "{case}");
    }
}

/// The server has forgotten the old refresh token: what the backup holds is worth nothing.
#[tokio::test(start_paused = true)]
async fn a_backup_put_back_while_a_refresh_is_in_the_air_does_not_lose_what_it_brings() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let backup = stage.record().await;
    stage.intrude(backup).await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let record = stage.record().await;
    assert_eq!((record.refresh_token, record.generation), (secret("rt2"), Generation(2)));
    assert!(!slot.status().unsaved);
}

/// What is damaged may have been the newest: nothing is guessed, and nothing else is known.
#[tokio::test(start_paused = true)]
async fn a_damaged_record_at_the_start_is_said_and_healed_by_a_seed() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.started().await;
    stage.faulty.damage(&stage).await;
    stage.config.seed = None;
    let slot = stage.start().await;
    assert_eq!(token(&slot).await, needs_login(TerminalReason::Corrupt));
    assert_eq!(stage.script.requests().len(), 1);
    stage.seed("s2");
    let slot = stage.reload().await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
}

/// What a newer bearerd wrote is left to it.
#[tokio::test(start_paused = true)]
async fn a_record_of_a_newer_format_is_neither_used_nor_overwritten() {
    let mut stage = Stage::new(|_| ());
    let _before = stage.expired().await;
    let bytes = String::from_utf8(stage.faulty.bytes().await.unwrap()).unwrap();
    let newer = bytes.replace("\"bearerd\": 4", "\"bearerd\": 9").into_bytes();
    stage.faulty.replace_bytes(stage.version().await, &newer).await;
    let slot = stage.start().await;
    let error = token(&slot).await.unwrap_err();
    assert!(
        matches!(error, TokenError::Unavailable { why, .. } if why.needs_operator()),
        "{error}"
    );
    assert!(slot.refresh_now().await.is_err());
    stage.rest().await;
    assert_eq!(stage.faulty.bytes().await.unwrap(), newer);
    assert_eq!(stage.script.requests().len(), 1);
}
