//! Bootstraps: a new grant without a person, by the `password` grant of a real server.

use bearerd::token::Condition;
use bearerd_test_support::TokenBehaviour;

use super::world::{HOURS, World, WorldBuilder, assert_all, eventually};

const BOOTSTRAP: &str =
    r#"bootstrap = { grant = "password", username = "svc", password = { file = "secret" } }"#;

/// A server that knows the service account, whose password is the client secret so that no further file is needed.
fn knows_service(builder: WorldBuilder) -> WorldBuilder {
    builder.authorization_server(|config| {
        config.resource_owner = Some(("svc".to_owned(), config.client_secret.clone()));
    })
}

fn grants(world: &World) -> Vec<String> {
    let grant = |request: &bearerd_test_support::TokenRequest| {
        request.param("grant_type").unwrap_or_default().to_owned()
    };
    world.authorization_server.requests().iter().map(grant).collect()
}

fn assert_stored(world: &World) {
    let record = world.record();
    assert_eq!(
        record["refresh_token"],
        world.authorization_server.current_refresh_token(),
        "the newest refresh token is not in the record"
    );
    assert_eq!(
        record["terminal"],
        serde_json::Value::Null,
        "the record says that a login is needed"
    );
    assert_eq!(record["attempt"], serde_json::Value::Null, "the record still has an open attempt");
}

/// #5 and #24: both ways to configure it.
#[tokio::test]
async fn the_first_refresh_token_may_come_from_a_password() {
    let grant = "grant = \"password\"\nusername = \"svc\"\npassword = { file = \"secret\" }";
    for lines in [BOOTSTRAP, grant] {
        let world = knows_service(World::builder().without_seed()).credential(lines);
        let mut world = world.start().await;
        assert_all(&world.get_many(20).await, 200);
        assert_eq!(
            grants(&world),
            ["password"],
            "the first token was not requested with the password"
        );
        assert_stored(&world);
        // Later requests use the refresh token, also after a restart.
        world.clock.advance(HOURS);
        world.restart().await;
        world.get("/").await.assert_ok();
        assert_eq!(
            grants(&world),
            ["password", "refresh_token"],
            "the second token was not requested with the refresh token"
        );
        assert_stored(&world);
    }
}

/// #24: the clients do not notice.
#[tokio::test]
async fn a_revoked_grant_is_healed_within_the_request_that_detects_it() {
    let world = knows_service(World::builder()).credential(BOOTSTRAP).settled().await;
    world.authorization_server.revoke_refresh_token();
    world.clock.advance(HOURS);
    assert_all(&world.get_many(20).await, 200);
    assert_eq!(
        grants(&world),
        ["refresh_token", "refresh_token", "password"],
        "the revoked refresh token was not followed by one bootstrap"
    );
    assert_stored(&world);
    assert_eq!(
        world.status().condition,
        Condition::Fresh,
        "the status is not that of a healed grant"
    );
}

/// Row 21: the answer is lost, the server is strict; it is counted as lost, and healed.
#[tokio::test]
async fn a_lost_rotation_is_counted_and_healed() {
    let world = knows_service(World::builder()).credential(BOOTSTRAP).settled().await;
    world.authorization_server.enqueue(TokenBehaviour::DropAfterCommit);
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    assert_eq!(
        grants(&world),
        ["refresh_token", "refresh_token", "refresh_token", "password"],
        "the lost rotation was not followed by one bootstrap"
    );
    assert_eq!(
        world.authorization_server.reuse_count(),
        1,
        "the lost refresh token has to be presented once more, which the server notices"
    );
    assert_stored(&world);
}

/// An unreadable answer is not a refusal, so the request is repeated soon.
#[tokio::test]
async fn an_unreadable_answer_to_a_bootstrap_is_retried() {
    let bootstrap = r#"bootstrap = { grant = "client_credentials" }"#;
    let world = World::builder().without_seed().credential(bootstrap).start().await;
    let text = |text| TokenBehaviour::html(200, text);
    for answer in [text("{\"access_token\": \"ab"), text("ok")] {
        world.authorization_server.enqueue(answer);
    }
    world.get("/").await.assert_ok();
    assert_eq!(
        grants(&world),
        ["client_credentials"; 3],
        "the unreadable answers were not followed by another attempt"
    );
}

/// #24: a failed bootstrap is retried, because the account may be unlocked at the server.
#[tokio::test]
async fn a_refused_bootstrap_is_retried_every_five_minutes() {
    let world = knows_service(World::builder().without_seed()).credential(BOOTSTRAP).start().await;
    for _ in 0..2 {
        let locked = TokenBehaviour::error(400, "invalid_grant", Some("account locked"));
        world.authorization_server.enqueue(locked);
    }
    assert_all(&world.get_many(20).await, 503);
    world.get("/").await.assert_no_token();
    world
        .authorization_server
        .assert_token_requests(1, "a refused bootstrap was repeated within five minutes");
    assert_eq!(
        world.status().condition.to_string(),
        "failing (bootstrap_refused)",
        "the status does not name the refused bootstrap"
    );
    world.clock.advance(std::time::Duration::from_secs(301));
    world.get("/").await.assert_no_token();
    world
        .authorization_server
        .assert_token_requests(2, "the refused bootstrap was not repeated once after five minutes");
    world.clock.advance(std::time::Duration::from_secs(301));
    eventually("its turn has come", || {
        !matches!(world.status().condition, Condition::NeedsLogin(_))
    })
    .await;
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(3, "the bootstrap was not repeated once after five more minutes");
    assert_stored(&world);
}

/// If a bootstrap returns no refresh token, the credential repeats the bootstrap for each access token.
#[tokio::test]
async fn a_bootstrap_without_a_refresh_token_takes_the_place_of_the_dead_one() {
    let world = World::builder()
        .credential(r#"bootstrap = { grant = "client_credentials" }"#)
        .settled()
        .await;
    let server = &world.authorization_server;
    server.enqueue(TokenBehaviour::DropAfterCommit);
    for _ in 0..3 {
        world.clock.advance(HOURS);
        world.get("/").await.assert_ok();
    }
    let refreshed = ["refresh_token"; 3].into_iter();
    let expected: Vec<_> = refreshed.chain(["client_credentials"; 3]).collect();
    assert_eq!(
        grants(&world),
        expected,
        "the bootstraps do not take the place of the dead refresh token"
    );
    assert_eq!(server.reuse_count(), 1, "the lost refresh token was presented again");
}
