//! What is done to the proxy: faults, revocations, kills.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bearerd_test_support::TokenBehaviour;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::stage::Stage;

/// Of all token requests, how many in a hundred are disturbed.
const FAULTS: u64 = 10;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) faults: usize,
    pub(crate) kills: usize,
    revocations: usize,
    /// Cases that did not end as they have to.
    pub(crate) unaccounted: Vec<String>,
}

impl Deeds {
    pub(crate) fn print(&self) {
        println!("      faults of the token endpoint        {}", self.faults);
        println!("      kills of the proxy                  {}", self.kills);
        println!("      revocations of all access tokens    {}", self.revocations);
    }
}

/// Long enough for every request that was waiting for a new token to have been sent with it.
const IN_USE: Duration = Duration::from_millis(300);

/// A number below `limit` that nobody needs to be unable to guess.
fn random(limit: u64) -> u64 {
    RandomState::new().hash_one(limit) % limit
}

fn between(low: u64, high: u64) -> Duration {
    Duration::from_millis(low + random(high - low))
}

fn trouble(status: u16) -> TokenBehaviour {
    TokenBehaviour::json(status, json!({"message": "trouble"}))
}

/// Faults that leave the refresh token alone.
fn before() -> TokenBehaviour {
    match random(5) {
        0 => trouble(503),
        1 => trouble(500),
        2 => trouble(429).with_header("retry-after", "1"),
        3 => TokenBehaviour::html(200, "<html>maintenance</html>"),
        _ => TokenBehaviour::DropBeforeCommit,
    }
}

/// Faults that consume it and keep the answer back.
fn after() -> TokenBehaviour {
    match random(4) {
        0 => trouble(503).after_commit(),
        1 => TokenBehaviour::html(200, "<html>maintenance</html>").after_commit(),
        2 => TokenBehaviour::CommitThenTruncate { keep: 20 },
        _ => TokenBehaviour::DropAfterCommit,
    }
}

fn either() -> TokenBehaviour {
    match random(5) {
        0 | 1 => before(),
        2 | 3 => after(),
        _ => TokenBehaviour::Stall { commit_first: random(2) == 0 },
    }
}

/// Disturbs a tenth of the token requests, for ever; counts.
async fn disturb(stage: &Stage, faults: &mut usize, fault: fn() -> TokenBehaviour) {
    loop {
        let arrived = stage.server.token_requests();
        if random(100) < FAULTS {
            stage.server.enqueue(fault());
            *faults += 1;
        }
        stage.server.wait_for_token_requests(arrived + 1).await;
    }
}

/// Revokes the access tokens in use. One that is revoked before anybody could use it would be rejected
/// twice within one request, and a second rejection is passed on (I8): no proxy could do better.
async fn revoke(stage: &Stage, revocations: &mut usize) {
    loop {
        sleep(between(1500, 5000)).await;
        let revoked = stage.server.tokens().revoke_access_tokens_in_use_for(IN_USE);
        *revocations += usize::from(revoked > 0);
    }
}

/// Everything at once, nothing waiting for anything.
pub(crate) async fn at_any_moment(stage: &Stage, length: Duration) -> Deeds {
    let mut deeds = Deeds::default();
    let Deeds { faults, kills, revocations, .. } = &mut deeds;
    let kill = async {
        loop {
            sleep(between(2000, 5000)).await;
            stage.kill().await;
            *kills += 1;
        }
    };
    // Whoever stalls answers in the end.
    let release = async {
        loop {
            sleep(Duration::from_secs(3)).await;
            stage.server.release_all();
        }
    };
    let all = async {
        tokio::join!(disturb(stage, faults, either), revoke(stage, revocations), kill, release)
    };
    let _over = timeout_at(Instant::now() + length, all).await;
    if stage.life.load(SeqCst) % 2 == 1 {
        deeds.unaccounted.push("the end came while the proxy was being started".to_owned());
    }
    deeds
}

/// A strict server is disturbed only before it commits: also by the kills, which come while it holds a
/// token request that it never deals with.
pub(crate) async fn before_the_commit(stage: &Stage, length: Duration) -> Deeds {
    let mut deeds = Deeds::default();
    let end = Instant::now() + length;
    while Instant::now() < end {
        let Deeds { faults, revocations, .. } = &mut deeds;
        let both =
            async { tokio::join!(disturb(stage, faults, before), revoke(stage, revocations)) };
        let pause = (Instant::now() + between(2000, 5000)).min(end);
        let _over = timeout_at(pause, both).await;
        kill_during(stage, TokenBehaviour::Stall { commit_first: false }).await;
        deeds.kills += 1;
    }
    deeds
}

/// Kills the proxy while its next token request but one at most is dealt with like this.
async fn kill_during(stage: &Stage, stall: TokenBehaviour) {
    // What was enqueued before takes its place before it.
    let committed = stage.server.tokens().issued_access_tokens();
    let is_after = matches!(stall, TokenBehaviour::Stall { commit_first: true });
    let stalled = stage.server.token_requests() - stage.server.answered();
    stage.server.enqueue(stall);
    let mut pause = tokio::time::interval(Duration::from_millis(2));
    while stage.server.token_requests() - stage.server.answered() <= stalled
        || is_after && stage.server.tokens().issued_access_tokens() == committed
    {
        pause.tick().await;
    }
    stage.kill().await;
}

/// A strict server has committed, and its answer does not arrive: one case after the other, each until
/// it is healed.
pub(crate) async fn after_the_commit(stage: &Stage, length: Duration) -> Deeds {
    let mut deeds = Deeds::default();
    let end = Instant::now() + length;
    while Instant::now() < end {
        let revocations = &mut deeds.revocations;
        let pause = (Instant::now() + between(1000, 4000)).min(end);
        let _over = timeout_at(pause, revoke(stage, revocations)).await;
        let said = stage.lost_rotations();
        stage.lost.store(true, SeqCst);
        if random(2) == 0 {
            kill_during(stage, TokenBehaviour::Stall { commit_first: true }).await;
            deeds.kills += 1;
        } else {
            stage.server.enqueue(after());
            deeds.faults += 1;
        }
        if !stage.wait_for_lost_rotation(said + 1).await {
            let record = stage.record();
            deeds.unaccounted.push(format!("no alarm; the record says {}", record["terminal"]));
            break;
        }
        if !stage.wait_for_terminal("lost_rotation").await {
            deeds.unaccounted.push("an alarm, and nothing in the record".to_owned());
        }
        stage.bring_a_new_refresh_token().await;
        // Those that were told of the loss just now.
        sleep_until(Instant::now() + Duration::from_millis(500)).await;
        stage.lost.store(false, SeqCst);
    }
    deeds
}
