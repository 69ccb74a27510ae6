//! Behaviours of the parsing of token responses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bearerd_test_support::{ExpiresIn, Rotation, TokenBehaviour};
use serde_json::{Value, json};

use super::super::world::{HOURS, World};

fn time(text: &Value) -> SystemTime {
    humantime::parse_rfc3339(text.as_str().unwrap()).unwrap()
}

/// Row 10: every notation gives the same instant.
#[tokio::test]
async fn row_10_an_expiry_is_the_same_instant_in_seconds_milliseconds_and_as_text() {
    // Whole seconds, an hour from now.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let end = UNIX_EPOCH + Duration::from_secs(now + 3600);
    let text = humantime::format_rfc3339_seconds(end).to_string();
    for (extra, expires_in) in [
        (json!({"expires_at": now + 3600}), ExpiresIn::Absent),
        (json!({"expires_at": (now + 3600) * 1000}), ExpiresIn::Absent),
        (json!({"expires_at": (now + 3600).to_string()}), ExpiresIn::Absent),
        (json!({"expires_at": text}), ExpiresIn::Absent),
        (json!({"expires": now + 3600}), ExpiresIn::Absent),
        (json!({"expires": now + 3600}), ExpiresIn::Seconds(3600)),
    ] {
        let builder = World::builder().authorization_server(|config| {
            config.expires_in = expires_in;
            config.extra = extra.as_object().unwrap().clone();
        });
        let world = builder.start().await;
        world.get("/").await.assert_status(200, &extra);
        world.authorization_server.assert_token_requests(1, &extra);
        let told = time(&world.record()["expires_at"]);
        let apart = told.duration_since(end).unwrap_or_else(|early| early.duration());
        assert!(
            apart <= Duration::from_secs(5),
            "{extra}: the expiry is another instant: {apart:?}"
        );
    }
}

/// Row 16.
#[tokio::test]
async fn row_16_members_by_other_names_under_status_201_are_a_success() {
    let response = "response = { access_token = \"token\", refresh_token = \"refreshToken\", \
                    expires_at = \"expiresAt\" }";
    let world = World::builder().credential(response).start().await;
    let server = &world.authorization_server;
    let access_token = server.tokens().issue_access_token(HOURS);
    let ends = humantime::format_rfc3339_seconds(world.clock.now() + 2 * HOURS).to_string();
    let answer = json!({"token": access_token, "refreshToken": "rt-2", "expiresAt": ends});
    server.enqueue(TokenBehaviour::json(201, answer));
    world.get("/").await.assert_ok();
    assert_eq!(world.tokens_seen(), [access_token], "the API was sent another token");
    server.assert_token_requests(1, "a success under status 201 was not taken for one");
    assert_eq!(
        world.record()["refresh_token"],
        "rt-2",
        "the mapped refresh token is not in the record"
    );
    assert_eq!(world.record()["generation"], 1, "the mapped answer did not bring the first token");
}

/// Row 18.
#[tokio::test]
async fn row_18_an_answer_without_a_token_prolongs_the_one_that_is_there() {
    let world = World::builder()
        .credential(
            "lifetime = \"1h\"\nresponse = { ok = \"result == '0000'\", keep_access_token = true }",
        )
        .authorization_server(|config| {
            config.rotation = Rotation::Keep;
            config.expires_in = ExpiresIn::Absent;
            config.access_token_lifetime = 100 * HOURS;
            config.extra.insert("result".to_owned(), json!("0000"));
        })
        .settled()
        .await;
    let server = &world.authorization_server;
    let token = server.tokens().newest_access_token().unwrap();
    let before = time(&world.record()["expires_at"]);
    server.enqueue(TokenBehaviour::json(200, json!({"result": "0000"})));
    world.clock.advance(HOURS);
    world.get("/").await.assert_ok();
    assert_eq!(world.tokens_seen(), [token], "the token was not used on");
    server.assert_token_requests(
        2,
        "the token whose lifetime is over was not prolonged by one token request",
    );
    assert_eq!(world.record()["generation"], 2, "the prolonged token has no number of its own");
    assert!(
        time(&world.record()["expires_at"]) >= before + HOURS,
        "the lifetime was not prolonged"
    );
}

/// Row 14, as Slack says it.
#[tokio::test]
async fn row_14_a_dead_grant_under_status_200_and_ok_false_needs_a_login() {
    let world = World::builder().credential("response = { ok = \"ok == true\" }").start().await;
    let answer = json!({"ok": false, "error": "invalid_refresh_token"});
    world.authorization_server.enqueue(TokenBehaviour::json(200, answer));
    for _ in 0..3 {
        world.get("/").await.assert_no_token();
    }
    world.authorization_server.assert_token_requests(1, "a dead grant was presented again");
    world.assert_needs_login("revoked");
}
