//! Logout and login.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_logout_leaves_a_tombstone_and_revokes_both_tokens() {
    let mut fixture = Fixture::new(|config| {
        with_revocation(config);
        with_bootstrap(config);
    });
    let slot = fixture.started().await;
    let revoked = slot.logout().await.unwrap();
    assert!(revoked.len() == 2 && revoked.iter().all(|it| it.problem.is_none()), "{revoked:?}");
    let logged_out = needs_login(TerminalReason::LoggedOut);
    assert_eq!(token(&slot).await, logged_out);
    let requests = fixture.server.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[1].contains("token=rt1") && requests[2].contains("token=at1"));
    let record = fixture.record().await;
    assert!(record.is_tombstone() && record.generation == Generation(2));
    assert_eq!((record.refresh_token, record.access_token), (None, None));

    // Neither a restart, the old seed, the bootstrap nor a forced refresh ends the logout.
    let again = fixture.start().await;
    assert_eq!(token(&again).await, logged_out);
    assert!(again.refresh_now().await.is_err());
    assert_eq!(fixture.server.requests().len(), 3);

    // A new seed ends it.
    fixture.seed("s2");
    let renewed = fixture.reload().await;
    fixture.server.issue(3);
    assert_eq!(token(&renewed).await.unwrap(), "at3");
    assert!(fixture.record().await.generation > Generation(2));
}

/// The new tokens are revoked and neither used nor stored.
#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_does_not_undo_a_logout() {
    for grant in [GrantType::RefreshToken, GrantType::ClientCredentials] {
        let mut fixture = Fixture::new(with_revocation);
        if grant == GrantType::ClientCredentials {
            fixture.config.oauth.grant = grant;
            fixture.config.oauth.own = Some(OwnGrant::ClientCredentials);
        } else {
            fixture.seed("s1");
        }
        let slot = fixture.start().await;
        fixture.server.issue(1);
        let hold = fixture.server.gate.write().await;
        let waiting = waiting(&slot);
        fixture.server.arrival().await;
        let asked = Instant::now();
        let logout = tokio::spawn({
            let slot = Arc::clone(&slot);
            async move { slot.logout().await }
        });
        let logged_out = needs_login(TerminalReason::LoggedOut);
        // The waiting request fails immediately.
        assert_eq!(waiting.await.unwrap(), logged_out, "{grant:?}");
        assert!(asked.elapsed() < SECOND);
        drop(hold);
        logout.await.unwrap().unwrap();
        fixture.rest().await;
        assert_eq!(token(&slot).await, logged_out);
        assert!(fixture.record().await.is_tombstone());
        let requests = fixture.server.requests();
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

#[tokio::test(start_paused = true)]
async fn a_response_after_a_logout_or_login_changes_nothing() {
    let answers = [
        json!({"error": "invalid_grant"}),
        json!({"error": "invalid_request"}),
        json!({"error": "invalid_client"}),
        json!({"error": "slow_down"}),
        json!({"access_token": "a", "token_type": "mac", "refresh_token": "rt2"}),
    ];
    for answer in answers {
        for logs_in in [true, false] {
            let mut fixture = Fixture::new(with_bootstrap);
            let slot = fixture.expired().await;
            let server = Arc::clone(&fixture.server);
            let hold = server.gate.write().await;
            let is_success = answer.get("error").is_none();
            server.answer(if is_success { 200 } else { 400 }, answer.clone());
            server.arrival().await;
            let waiting = waiting(&slot);
            server.arrival().await;
            match logs_in {
                true => {
                    slot.store_login(&login(&fixture.clock), fixture.clock.now()).await.unwrap()
                }
                false => drop(slot.logout().await.unwrap()),
            }
            drop(hold);
            let expected = match logs_in {
                true => Ok("at-login".to_owned()),
                false => needs_login(TerminalReason::LoggedOut),
            };
            assert_eq!(waiting.await.unwrap(), expected, "{answer}");
            fixture.rest().await;
            assert_eq!(token(&slot).await, expected, "{answer}");
            assert_eq!(token(&*fixture.start().await).await, expected, "{answer}");
            assert_eq!(server.requests().len(), 2, "{answer}: {:?}", server.requests());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_request_is_repeated_after_a_logout_or_login() {
    for logs_in in [true, false] {
        let mut fixture = Fixture::new(|_| ());
        let slot = fixture.expired().await;
        fixture.server.lose();
        fixture.server.issue(2);
        let waiting = waiting(&slot);
        tokio::time::sleep(SECOND / 10).await;
        match logs_in {
            true => slot.store_login(&login(&fixture.clock), fixture.clock.now()).await.unwrap(),
            false => drop(slot.logout().await.unwrap()),
        }
        let expected = match logs_in {
            true => Ok("at-login".to_owned()),
            false => needs_login(TerminalReason::LoggedOut),
        };
        assert_eq!(waiting.await.unwrap(), expected);
        fixture.rest().await;
        assert_eq!(token(&slot).await, expected);
        assert_eq!(fixture.server.presented("rt1"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_ends_a_logout_and_overrides_an_unused_seed() {
    for after_logout in [true, false] {
        let mut fixture = Fixture::new(|_| ());
        fixture.seed("s1");
        let slot = fixture.start().await;
        if after_logout {
            slot.logout().await.unwrap();
        }
        slot.store_login(&login(&fixture.clock), fixture.clock.now()).await.unwrap();
        assert_eq!(token(&slot).await.unwrap(), "at-login");
        fixture.clock.advance(2 * HOUR);
        fixture.server.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        assert!(fixture.server.requests()[0].contains("refresh_token=rt-login"));
    }
}

/// Seeds that were used or only configured before the logout do not count as new.
#[tokio::test(start_paused = true)]
async fn no_old_seed_reactivates_a_logged_out_credential() {
    let mut fixture = Fixture::new(|_| ());
    for (number, seed) in [(1, "s1"), (2, "s2")] {
        fixture.seed(seed);
        fixture.server.issue(number);
        token(&*fixture.start().await).await.unwrap();
    }
    fixture.seed("s3");
    fixture.start().await.logout().await.unwrap();
    let asked = fixture.server.requests().len();
    for seed in ["s1", "s2", "s3", "rt1", "rt2"] {
        fixture.seed(seed);
        let slot = fixture.start().await;
        assert_eq!(token(&slot).await, needs_login(TerminalReason::LoggedOut), "{seed}");
    }
    assert_eq!(fixture.server.requests().len(), asked);
}
