//! Logging out and in.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_logout_leaves_a_tombstone_and_revokes_both_tokens() {
    let mut stage = Stage::new(|config| {
        with_revocation(config);
        with_bootstrap(config);
    });
    let slot = stage.started().await;
    let revoked = slot.logout().await.unwrap();
    assert!(revoked.len() == 2 && revoked.iter().all(|it| it.problem.is_none()), "{revoked:?}");
    let logged_out = needs_login(TerminalReason::LoggedOut);
    assert_eq!(token(&slot).await, logged_out);
    let requests = stage.script.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[1].contains("token=rt1") && requests[2].contains("token=at1"));
    let record = stage.record().await;
    assert!(record.is_tombstone() && record.generation == Generation(2));
    assert_eq!((record.refresh_token, record.access_token), (None, None));

    // Neither a restart, nor the old seed, nor the bootstrap, nor an operator.
    let again = stage.start().await;
    assert_eq!(token(&again).await, logged_out);
    assert!(again.refresh_now().await.is_err());
    assert_eq!(stage.script.requests().len(), 3);

    // A new seed does.
    stage.seed("s2");
    let renewed = stage.reload().await;
    stage.script.issue(3);
    assert_eq!(token(&renewed).await.unwrap(), "at3");
    assert!(stage.record().await.generation > Generation(2));
}

/// What comes back is not used, not stored, and revoked.
#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_does_not_undo_a_logout() {
    for grant in [GrantType::RefreshToken, GrantType::ClientCredentials] {
        let mut stage = Stage::new(with_revocation);
        if grant == GrantType::ClientCredentials {
            stage.config.oauth.grant = grant;
            stage.config.oauth.own = Some(OwnGrant::ClientCredentials);
        } else {
            stage.seed("s1");
        }
        let slot = stage.start().await;
        stage.script.issue(1);
        let hold = stage.script.gate.write().await;
        let waiting = waiting(&slot);
        stage.script.arrival().await;
        let asked = Instant::now();
        let logout = tokio::spawn({
            let slot = Arc::clone(&slot);
            async move { slot.logout().await }
        });
        let logged_out = needs_login(TerminalReason::LoggedOut);
        // The request that waits is told at once.
        assert_eq!(waiting.await.unwrap(), logged_out, "{grant:?}");
        assert!(asked.elapsed() < SECOND);
        drop(hold);
        logout.await.unwrap().unwrap();
        stage.rest().await;
        assert_eq!(token(&slot).await, logged_out);
        assert!(stage.record().await.is_tombstone());
        let requests = stage.script.requests();
        let is_revoked = |token: &str| {
            let token = format!("token={token}");
            requests.iter().any(|it| it.contains("/revoke ") && it.contains(&token))
        };
        assert!(is_revoked("at1"), "{grant:?}: {requests:?}");
        assert_eq!(is_revoked("rt1"), grant == GrantType::RefreshToken, "{requests:?}");
        let condition = Condition::NeedsLogin(TerminalReason::LoggedOut);
        assert_eq!(slot.status().condition, condition);
    }
}

/// Whatever the answer is: it is for a grant that is no more.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_a_logout_or_a_login_changes_nothing() {
    let answers = [
        json!({"error": "invalid_grant"}),
        json!({"error": "invalid_request"}),
        json!({"error": "invalid_client"}),
        json!({"error": "slow_down"}),
        json!({"access_token": "a", "token_type": "mac", "refresh_token": "rt2"}),
    ];
    for answer in answers {
        for logs_in in [true, false] {
            let mut stage = Stage::new(with_bootstrap);
            let slot = stage.expired().await;
            let script = Arc::clone(&stage.script);
            let hold = script.gate.write().await;
            let is_success = answer.get("error").is_none();
            script.answer(if is_success { 200 } else { 400 }, answer.clone());
            script.arrival().await;
            let waiting = waiting(&slot);
            script.arrival().await;
            match logs_in {
                true => slot.store_login(&login(&stage.clock), stage.clock.now()).await.unwrap(),
                false => drop(slot.logout().await.unwrap()),
            }
            drop(hold);
            let expected = match logs_in {
                true => Ok("at-login".to_owned()),
                false => needs_login(TerminalReason::LoggedOut),
            };
            assert_eq!(waiting.await.unwrap(), expected, "{answer}");
            stage.rest().await;
            assert_eq!(token(&slot).await, expected, "{answer}");
            assert_eq!(token(&*stage.start().await).await, expected, "{answer}");
            assert_eq!(script.requests().len(), 2, "{answer}: {:?}", script.requests());
        }
    }
}

/// Its answer would undo the logout, and its refresh token is none any more.
#[tokio::test(start_paused = true)]
async fn a_replay_is_not_made_after_a_logout_or_a_login() {
    for logs_in in [true, false] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        stage.script.lose();
        stage.script.issue(2);
        let waiting = waiting(&slot);
        tokio::time::sleep(SECOND / 10).await;
        match logs_in {
            true => slot.store_login(&login(&stage.clock), stage.clock.now()).await.unwrap(),
            false => drop(slot.logout().await.unwrap()),
        }
        let expected = match logs_in {
            true => Ok("at-login".to_owned()),
            false => needs_login(TerminalReason::LoggedOut),
        };
        assert_eq!(waiting.await.unwrap(), expected);
        stage.rest().await;
        assert_eq!(token(&slot).await, expected);
        assert_eq!(stage.script.presented("rt1"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_heals_a_logout_and_wins_over_a_seed_that_was_never_used() {
    for after_logout in [true, false] {
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.start().await;
        if after_logout {
            slot.logout().await.unwrap();
        }
        slot.store_login(&login(&stage.clock), stage.clock.now()).await.unwrap();
        assert_eq!(token(&slot).await.unwrap(), "at-login");
        stage.clock.advance(2 * HOUR);
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        assert!(stage.script.requests()[0].contains("refresh_token=rt-login"));
    }
}

/// A seed that was ever used, or that was only configured, is no new one.
#[tokio::test(start_paused = true)]
async fn no_seed_of_before_a_logout_brings_a_credential_back() {
    let mut stage = Stage::new(|_| ());
    for (number, seed) in [(1, "s1"), (2, "s2")] {
        stage.seed(seed);
        stage.script.issue(number);
        token(&*stage.start().await).await.unwrap();
    }
    stage.seed("s3");
    stage.start().await.logout().await.unwrap();
    let asked = stage.script.requests().len();
    for seed in ["s1", "s2", "s3", "rt1", "rt2"] {
        stage.seed(seed);
        let slot = stage.start().await;
        assert_eq!(token(&slot).await, needs_login(TerminalReason::LoggedOut), "{seed}");
    }
    assert_eq!(stage.script.requests().len(), asked);
}
