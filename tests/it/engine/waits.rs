//! Timeouts of token requests, replays after lost answers, and `Retry-After`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bearerd_test_support::{ExpiresIn, OnReuse, Rotation, TokenBehaviour};
use httpdate::fmt_http_date;
use rustix::process::Signal;
use serde_json::json;

use super::super::program::Program;
use super::super::wire::Reply;
use super::super::world::{HOURS, MINUTE, World, WorldBuilder, assert_all, eventually, get};
use super::{
    FORGIVING, SECOND, SHORT_WAIT, assert_keeps_newest, assert_presented_once, at_rest,
    back_within, each, keeps_newest, look, metric, presented, state, with_operator,
};

const LATE_AND_LOST: TokenBehaviour = TokenBehaviour::Stall { commit_first: true };

/// Tokens of ten hours that are replaced in their last hour.
fn long_margin() -> WorldBuilder {
    let builder = World::builder().authorization_server(|config| {
        config.expires_in = ExpiresIn::Seconds(36_000);
        config.rotation = FORGIVING;
    });
    builder.sections(SHORT_WAIT).credential("margin = \"1h\"")
}

/// Moves the clock into the margin of such a token, with 45 minutes left.
const TO_LONG_MARGIN: Duration = Duration::from_secs(36_000 - 60 - 45 * 60);

// ----- E9 -----

#[tokio::test]
async fn e09_late_answers_cost_three_presentations_while_the_token_is_good() {
    let mut world = long_margin().credential("timeout = \"500ms\"").settled().await;
    let sibling = world.sibling().await;
    let old = world.authorization_server.current_refresh_token();
    world.authorization_server.decide_by(|_| LATE_AND_LOST);
    world.clock.advance(TO_LONG_MARGIN);
    for minute in 0..20 {
        assert_eq!(
            (look(&world).await.status, sibling.get(&world).await.status),
            (200, 200),
            "minute {minute}: (first, second): a valid token was not used"
        );
        let refreshing = || sibling.status().condition.word() == "refreshing";
        eventually("the sibling is at rest", || !refreshing()).await;
        let times = presented(&world, &old);
        assert!((1..=3).contains(&times), "{times} presentations in {minute} minutes");
        world.clock.advance(MINUTE);
        if minute == 10 {
            world.restart().await;
        }
    }
    assert_eq!(
        world.authorization_server.token_requests(),
        1 + presented(&world, &old),
        "another token than the one whose answers are lost was presented"
    );

    // An expired token cannot be revoked by a replay.
    world.authorization_server.decide_by(|_| TokenBehaviour::Normal);
    world.clock.advance(MINUTE * 30);
    let back = back_within(&world, MINUTE, SECOND * 5).await;
    assert!(back.is_some(), "it did not work again in time: {}", state(&world));
    sibling.get(&world).await.assert_ok();
    assert_keeps_newest(&world);
}

/// Replays come soon after the loss or not at all, because a grace period is short.
#[tokio::test]
async fn e09_replays_come_within_seconds_of_the_first_attempt() {
    let world = long_margin().settled().await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.decide_by(|_| TokenBehaviour::DropAfterCommit);
    world.clock.advance(TO_LONG_MARGIN);
    for _ in 0..5 {
        look(&world).await.assert_ok();
        world.clock.advance(MINUTE);
    }
    let times = server.presentations_of(&old);
    assert!(
        (2..=3).contains(&times.len()),
        "the refresh token was presented {} times instead of two or three",
        times.len()
    );
    assert!(
        *times.last().unwrap() - times[0] <= SECOND * 6,
        "the replays came later than six seconds after the first attempt: {times:?}"
    );
    assert!(
        metric(&world, "bearerd_token_replays_total").await <= 2.0,
        "there were more replays than two"
    );
}

/// After its grace period the server treats a replay as theft and revokes the valid token.
#[tokio::test]
async fn e09_a_replay_that_could_revoke_a_valid_token_waits_for_its_expiry() {
    let strict_after = |config: &mut bearerd_test_support::AuthorizationServerConfig| {
        config.rotation = Rotation::Rotate { grace: SECOND * 4, on_reuse: OnReuse::RevokeFamily };
    };
    let world = long_margin()
        .authorization_server(strict_after)
        .credential("timeout = \"5s\"")
        .settled()
        .await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.enqueue(LATE_AND_LOST);
    world.clock.advance(TO_LONG_MARGIN);
    for _ in 0..10 {
        look(&world).await.assert_ok();
        world.clock.advance(MINUTE);
    }
    assert_presented_once(&world, &old);
    assert_eq!(
        world.origin.rejected(),
        0,
        "a request was rejected although the token was valid all the time"
    );
}

#[tokio::test]
async fn e09_without_a_token_two_replicas_share_the_retries_at_a_server_that_loses_answers() {
    let world = World::builder()
        .authorization_server(|config| config.rotation = FORGIVING)
        .sections(SHORT_WAIT)
        .credential("timeout = \"300ms\"")
        .settled()
        .await;
    let sibling = world.sibling().await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.decide_by(|_| LATE_AND_LOST);
    world.clock.advance(HOURS);
    let mut looks = Vec::new();
    for _ in 0..12 {
        let (_here, _there) = tokio::join!(look(&world), sibling.get(&world));
        let refreshing = || sibling.status().condition.word() == "refreshing";
        eventually("the sibling is at rest", || !refreshing()).await;
        looks.push(presented(&world, &old));
        world.clock.advance(SECOND * 5);
    }
    // In a minute without a token: the replays, and the attempts that a short backoff allows both together.
    let all = *looks.last().unwrap();
    assert!(
        (3..=12).contains(&all),
        "the server was looked at more or less often than it should be: {looks:?}"
    );
    server.decide_by(|_| TokenBehaviour::Normal);
    assert!(
        back_within(&world, MINUTE, SECOND * 5).await.is_some(),
        "it did not work again in time: {}",
        state(&world)
    );
}

// ----- E10 -----

/// This test takes twelve seconds because the server does.
#[tokio::test]
async fn e10_a_strict_server_that_needs_twelve_seconds_once_loses_nothing() {
    let world = World::settled().await;
    let sibling = world.sibling().await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.enqueue(TokenBehaviour::Late { by: SECOND * 12, commit_first: true });
    world.clock.advance(HOURS);
    let (here, there) = tokio::join!(world.get("/"), sibling.get(&world));
    assert_eq!(
        (here.status, there.status),
        (200, 200),
        "(first, second): a process did not get the late answer"
    );
    assert_presented_once(&world, &old);
    assert_keeps_newest(&world);
}

/// A client that stops waiting does not end the token request.
#[tokio::test]
async fn e10_requests_that_have_waited_long_enough_leave_the_token_request_alone() {
    let world = World::builder().sections(SHORT_WAIT).settled().await;
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.enqueue(TokenBehaviour::Late { by: SECOND * 2, commit_first: true });
    world.clock.advance(HOURS);
    for _ in 0..3 {
        assert_all(&world.get_many(5).await, 503);
    }
    at_rest(&world).await;
    world.get("/").await.assert_ok();
    assert_presented_once(&world, &old);
}

/// A shutdown waits for a slow answer because it holds the new refresh token.
#[tokio::test]
async fn e10_a_shutdown_waits_for_a_slow_answer_beyond_its_grace() {
    let world = World::plain().proxy("shutdown_grace = \"1s\"").start_servers().await;
    let server = &world.authorization_server;
    server.enqueue(TokenBehaviour::Late { by: SECOND * 3, commit_first: true });
    let program = Program::start(&world).await;
    let request = tokio::spawn(program.client().get(world.http("/")).send());
    server.wait_for_token_requests(1).await;
    program.signal(Signal::TERM);
    program.ends().await;
    let _hung_up = request.await.unwrap();
    assert!(keeps_newest(&world), "the grant went with the process");
    let program = Program::start(&world).await;
    program.get(&world.http("/")).await.assert_ok();
    server.assert_token_requests(1, "the token that came during the shutdown was not kept");
    server.assert_no_reuse();
}

// ----- E20 -----

/// Makes requests until so many tokens were issued; returns each answer that was not a 200.
async fn under_load(world: &World, tokens: usize) -> Vec<Reply> {
    load(world, &[world.client()], tokens).await
}

/// The same over these clients.
async fn load(world: &World, through: &[reqwest::Client], tokens: usize) -> Vec<Reply> {
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for client in through.iter().cycle().take(8) {
        let (client, url, done) = (client.clone(), world.http("/"), Arc::clone(&done));
        clients.spawn(async move {
            let mut others = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let reply = get(client.get(&url)).await;
                if reply.status != 200 {
                    others.push(reply);
                }
            }
            others
        });
    }
    eventually("enough tokens", || world.authorization_server.token_requests() >= tokens).await;
    done.store(true, Ordering::Relaxed);
    clients.join_all().await.concat()
}

fn short_lived(lifetime: Duration) -> WorldBuilder {
    World::plain().authorization_server(move |config| {
        config.expires_in = ExpiresIn::Seconds(lifetime.as_secs());
        config.access_token_lifetime = lifetime;
    })
}

#[tokio::test]
async fn e20_with_tokens_of_one_second_every_request_is_answered() {
    let world = short_lived(SECOND).start().await;
    let others = under_load(&world, 6).await;
    assert!(others.is_empty(), "{} other answers, such as {:?}", others.len(), others[0]);
    world.authorization_server.assert_no_reuse();
}

#[tokio::test]
async fn e20_a_server_that_needs_part_of_that_second_changes_nothing() {
    let delays = [200, 700].map(Duration::from_millis);
    each(delays.map(|by| (format!("{by:?}"), by)), |_, by| async move {
        let world = short_lived(SECOND).start().await;
        let late = TokenBehaviour::Late { by, commit_first: false };
        world.authorization_server.decide_by(move |_| late.clone());
        let others = under_load(&world, 5).await;
        assert!(others.is_empty(), "{} other answers, such as {:?}", others.len(), others[0]);
    })
    .await;
}

#[tokio::test]
async fn e20_two_replicas_with_tokens_of_one_second_answer_every_request() {
    let world = short_lived(SECOND).start().await;
    let sibling = world.sibling().await;
    let others = load(&world, &[world.client(), sibling.client()], 5).await;
    assert!(others.is_empty(), "{} other answers, such as {:?}", others.len(), others[0]);
    world.authorization_server.assert_no_reuse();
}

/// With few requests, each finds a token that has expired or is about to.
#[tokio::test]
async fn e20_few_requests_with_tokens_of_one_second_are_answered_too() {
    let world = short_lived(SECOND).start().await;
    let mut pace = tokio::time::interval(Duration::from_millis(90));
    for number in 0..50 {
        pace.tick().await;
        world.get("/").await.assert_status(200, format!("request {number} was not served"));
    }
}

/// Tokens that no API has accepted are not replaced more often than once a second.
#[tokio::test]
async fn e20_token_requests_for_unusable_tokens_are_a_second_apart() {
    let world = World::plain()
        .authorization_server(|config| {
            config.expires_in = ExpiresIn::Seconds(1);
            config.access_token_lifetime = Duration::ZERO;
        })
        .start()
        .await;
    let _rejected = under_load(&world, 4).await;
    let requests = world.authorization_server.requests();
    for pair in requests.windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!(
            apart >= Duration::from_millis(950),
            "the looks at the server came only {apart:?} apart"
        );
    }
}

// ----- E25 -----

fn throttled(status: u16, retry_after: &str) -> TokenBehaviour {
    TokenBehaviour::json(status, json!({})).with_header("retry-after", retry_after)
}

/// No token request is made within `wait`, over restarts, reloads and a second process.
async fn is_left_alone(mut world: World, answer: TokenBehaviour, wait: Duration, case: &str) {
    world.authorization_server.enqueue(answer);
    world.clock.advance(HOURS);
    look(&world).await.assert_status(503, case);
    let before = world.authorization_server.token_requests();
    let asked = |world: &World| world.authorization_server.token_requests() - before;
    world.restart().await;
    assert_eq!((look(&world).await.status, asked(&world)), (503, 0), "{case}: after a restart");
    world.reload().await;
    assert_eq!((look(&world).await.status, asked(&world)), (503, 0), "{case}: after a reload");
    world
        .configure(|text| text.replace("[credential.api]", "[credential.api]\nkeepalive = \"9d\""));
    world.reload().await;
    assert_eq!((look(&world).await.status, asked(&world)), (503, 0), "{case}: after a change");
    let sibling = world.sibling().await;
    sibling.get(&world).await.assert_status(503, case);
    assert_eq!(asked(&world), 0, "{case}: by a sibling");
    world.clock.advance(wait - SECOND * 20);
    world.restart().await;
    assert_eq!((look(&world).await.status, asked(&world)), (503, 0), "{case}: just before its end");
    world.clock.advance(SECOND * 25);
    look(&world).await.assert_status(200, format!("{case}: {}", state(&world)));
    assert_eq!(asked(&world), 1, "{case}: the server was asked more than once after its pause");
}

#[tokio::test]
async fn e25_a_retry_after_is_obeyed_over_restarts_reloads_and_siblings() {
    for status in [429, 503] {
        let world = World::builder().sections(SHORT_WAIT).settled().await;
        let case = format!("{status}");
        is_left_alone(world, throttled(status, "600"), SECOND * 600, &case).await;
    }
}

/// The date is measured by the clock that wrote it.
#[tokio::test]
async fn e25_a_date_is_measured_against_the_answers_own_date() {
    for (behind, case) in [(true, "ten minutes behind"), (false, "ten minutes ahead")] {
        let world = World::builder().sections(SHORT_WAIT).settled().await;
        let now = SystemTime::now() + MINUTE + HOURS;
        let theirs = if behind { now - SECOND * 600 } else { now + SECOND * 600 };
        let answer = throttled(429, &fmt_http_date(theirs + SECOND * 300))
            .with_header("date", &fmt_http_date(theirs));
        is_left_alone(world, answer, SECOND * 300, case).await;
    }
}

/// A valid token stays in use meanwhile, and no other process makes a token request.
#[tokio::test]
async fn e25_near_expiry_a_retry_after_is_obeyed_as_well() {
    let mut world = with_operator(long_margin()).await;
    world.authorization_server.enqueue(throttled(429, "600"));
    world.clock.advance(TO_LONG_MARGIN);
    look(&world).await.assert_ok();
    eventually("it has said so", || world.authorization_server.token_requests() == 2).await;
    at_rest(&world).await;
    for _ in 0..2 {
        world.restart().await;
        look(&world).await.assert_ok();
        world.clock.advance(MINUTE);
    }
    world
        .authorization_server
        .assert_token_requests(2, "a token was requested although the server asked to wait");
    world.clock.advance(MINUTE * 9);
    look(&world).await.assert_ok();
    eventually("it is replaced", || world.status().generation.0 == 2).await;
}
