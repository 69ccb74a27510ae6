//! E37: servers that say when the refresh token or the grant itself ends
//! (draft-ietf-oauth-refresh-token-expiration).

use std::net::SocketAddr;
use std::time::Duration;

use bearerd_test_support::ExpiresIn;
use serde_json::{Value, json};

use super::super::world::{HOURS, World, WorldBuilder, eventually};
use super::operator::{WRITTEN_BACK, described, stays_true};
use crate::texts::assert_says;

const DAY: Duration = Duration::from_secs(86_400);

/// A server whose access tokens live for a year, so that their expiry causes no refresh.
fn answering(members: &[(&'static str, Value)]) -> WorldBuilder {
    let members = members.to_vec();
    World::builder().authorization_server(move |config| {
        config.expires_in = ExpiresIn::Seconds(365 * 86_400);
        config.access_token_lifetime = 365 * DAY;
        for (name, value) in members {
            config.extra.insert(name.to_owned(), value);
        }
    })
}

fn admin(world: &World) -> SocketAddr {
    world.app().admin_address().unwrap()
}

fn days(number: u64) -> Value {
    json!(number * 86_400)
}

/// In days from now, by bearerd's clock.
fn days_until(world: &World, time: &Value) -> i64 {
    let time = time.as_str().expect("the end is in the record");
    let time = humantime::parse_rfc3339(time).unwrap();
    let until = time.duration_since(world.clock.now()).unwrap_or_default() + DAY / 2;
    i64::try_from(until.as_secs() / 86_400).unwrap()
}

#[tokio::test]
async fn a_refresh_token_is_used_before_the_end_that_its_server_names() {
    for value in [days(10), json!("864000")] {
        let world = answering(&[("refresh_token_timeout", value.clone())]).settled().await;
        assert_eq!(
            days_until(&world, &world.record()["refresh_expires_at"]),
            10,
            "{value}: the end of the refresh token is not in the record"
        );
        world.clock.advance(5 * DAY);
        stays_true("half of its life", WRITTEN_BACK, || world.status().generation.0 == 1).await;
        world.clock.advance(5 * DAY - HOURS);
        eventually("it is used", || world.status().generation.0 == 2).await;
        world.authorization_server.assert_token_requests(2, &value);
        world.assert_stored(2);
    }
}

#[tokio::test]
async fn the_end_of_a_grant_is_stored_and_announced_a_week_before() {
    let world = answering(&[("authorization_expires_in", days(30))]).settled().await;
    assert_eq!(
        days_until(&world, &world.record()["grant_expires_at"]),
        30,
        "the end of the grant is not in the record"
    );
    for (passed, alarm) in [(20, false), (2, false), (2, true), (4, true)] {
        world.clock.advance(passed * DAY);
        world.get("/").await.assert_ok();
        let said = described(admin(&world)).await;
        assert_eq!(said["next"].is_string(), alarm, "the alarm came too early or too late: {said}");
        if alarm {
            let text = said.to_string();
            assert_says(&format!("{said}: the answer"), &text, ["grant", "login"]);
        }
    }
    // Keepalive cannot move the end of the grant, so it causes no token request.
    world.authorization_server.assert_token_requests(
        1,
        "a refresh cannot move the end of the grant, so none may be made for its sake",
    );
}

/// The server sends the end only with the first answer. It stays valid over refreshes and is dropped with a
/// new seed.
#[tokio::test]
async fn the_end_of_a_grant_is_kept_over_refreshes_and_restarts_and_dropped_with_the_grant() {
    let mut world = World::builder().start_servers().await;
    let answer = json!({
        "access_token": world.authorization_server.tokens().issue_access_token(HOURS),
        "expires_in": 3600,
        "refresh_token": world.authorization_server.issue_refresh_token(),
        "authorization_expires_in": 30 * 86_400,
    });
    world.authorization_server.enqueue(bearerd_test_support::TokenBehaviour::json(200, answer));
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    let end = world.record()["grant_expires_at"].clone();
    assert_eq!(days_until(&world, &end), 30, "the end of the grant is not in the record");
    world.clock.advance(DAY);
    world.get("/").await.assert_ok();
    world.restart().await;
    world.clock.advance(DAY);
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(3, "each of the two days has to cost one refresh");
    assert_eq!(
        world.record()["grant_expires_at"],
        end,
        "a refresh or a restart forgot the end of the grant"
    );
    world.write_seed(&world.authorization_server.issue_refresh_token());
    world.reload().await;
    world.get("/").await.assert_ok();
    assert_eq!(
        world.record()["grant_expires_at"],
        Value::Null,
        "the end of the old grant was kept for the new one"
    );
}

/// After the announced end, the server decides.
#[tokio::test]
async fn a_grant_that_goes_on_past_its_end_is_used() {
    let world = World::builder()
        .authorization_server(|config| {
            config.extra.insert("authorization_expires_in".to_owned(), json!(86_400));
        })
        .settled()
        .await;
    world.clock.advance(3 * DAY);
    world.get("/").await.assert_ok();
    world
        .authorization_server
        .assert_token_requests(2, "the expired token was not replaced by one refresh");
    world.assert_stored(2);
}

#[tokio::test]
async fn invalid_ends_of_a_grant_cause_no_token_requests_and_no_alarm() {
    for name in ["refresh_token_timeout", "authorization_expires_in"] {
        for junk in [json!(0), json!(-1), json!("soon"), json!(1e18), json!(null), json!({})] {
            let world = answering(&[(name, junk.clone())]).settled().await;
            stays_true("one token request", Duration::from_secs(1), || {
                world.authorization_server.token_requests() == 1
            })
            .await;
            world.get("/").await.assert_status(200, format!("{name} = {junk}"));
            world.authorization_server.assert_token_requests(1, format!("{name} = {junk}"));
            let said = described(admin(&world)).await;
            assert_eq!(
                said["next"],
                Value::Null,
                "{name} = {junk}: an end that is none raises an alarm: {said}"
            );
        }
    }
}
