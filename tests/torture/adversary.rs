//! What is done to the proxy: kills, revocations, the end of stalls; and what an operator does about it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::faults::{Phase, between, random};
use super::stage::{CREDENTIALS, Healer, Stage, name};

/// Long enough for every request that was waiting for a new token to have been sent with it, on a busy
/// machine too.
const IN_USE: Duration = Duration::from_secs(1);
/// How long a grant may take to be whole again once nothing disturbs any more.
const SETTLED: Duration = Duration::from_secs(40);

/// A grant that was lost, and when it was whole again.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) credential: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
}

/// What was done, and seen while it was done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) kills: usize,
    pub(crate) revoked: usize,
    /// By the credential and the refresh token.
    pub(crate) losses: BTreeMap<(usize, String), Loss>,
    /// What should not have been.
    pub(crate) wrong: Vec<String>,
}

impl Deeds {
    pub(crate) fn print(&self) {
        println!("    kills of the proxy        {}", self.kills);
        println!("    access tokens revoked     {}", self.revoked);
    }
}

/// Disturbs for `length`, then waits until every grant is whole again.
pub(crate) async fn disturb(stage: &Stage, phase: Phase, length: Duration) -> Deeds {
    let mut deeds = Deeds::default();
    let Deeds { kills, revoked, losses, wrong } = &mut deeds;
    let mut healing = Healing { stage, losses, wrong, answered: [None; CREDENTIALS] };
    stage.script().phase = phase;
    let all = async {
        tokio::join!(
            kill(stage, phase, length, kills),
            revoke(stage, length, revoked),
            release(stage, length)
        );
        stage.script().phase = Phase::Calm;
        stage.server.release_all();
    };
    tokio::select! {
        () = all => {}
        () = healing.watch() => {}
    }
    if timeout(SETTLED, healing.finish()).await.is_err() {
        for credential in (0..CREDENTIALS).filter(|credential| !stage.is_whole(*credential)) {
            let terminal = &stage.record(credential)["terminal"]["reason"];
            deeds.wrong.push(format!("{}: not healed; terminal: {terminal}", name(credential)));
        }
    }
    deeds
}

/// Revokes some of the access tokens in use. One that is revoked before anybody could use it would be
/// rejected twice within one request, and a second rejection is passed on (I8): no proxy could do better.
async fn revoke(stage: &Stage, length: Duration, revoked: &mut usize) {
    let began = Instant::now();
    while began.elapsed() < length {
        sleep(between(100, 500)).await;
        let tokens = stage.server.tokens();
        *revoked += tokens.revoke_access_tokens_in_use_for(IN_USE, || random(4) == 0);
    }
}

/// Whoever stalls goes on in the end, with most of the life of what was issued before it still ahead: a
/// token that arrives at its end would be rejected as the one before it was, a second time (I8).
async fn release(stage: &Stage, length: Duration) {
    let began = Instant::now();
    while began.elapsed() < length {
        sleep(Duration::from_secs(1)).await;
        stage.server.release_all();
    }
}

async fn kill(stage: &Stage, phase: Phase, length: Duration, kills: &mut usize) {
    let began = Instant::now();
    while began.elapsed() + Duration::from_secs(5) < length {
        sleep(between(1500, 4500)).await;
        if phase != Phase::Forgiving {
            close(stage).await;
        }
        stage.kill().await;
        stage.script().closing = false;
        *kills += 1;
    }
}

/// Sees to it that a kill comes before the commit for all grants that may not be lost: their requests
/// get no answer from now on, and what was answered is stored.
async fn close(stage: &Stage) {
    {
        let mut script = stage.script();
        script.closing = true;
        script.waiting = 0;
    }
    stage.server.release_all();
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let stored = async {
        loop {
            pause.tick().await;
            let (waiting, guarded) = stage.script().at_stake();
            let under_way = stage.server.token_requests() - stage.server.answered();
            if under_way <= waiting && guarded.into_iter().all(|one| stage.is_whole(one)) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), stored).await.expect("what was answered is stored");
    sleep(between(0, 50)).await;
}

/// Watches the records, and is the operator who brings new seeds.
struct Healing<'a> {
    stage: &'a Stage,
    losses: &'a mut BTreeMap<(usize, String), Loss>,
    wrong: &'a mut Vec<String>,
    /// The generations of the last terminals that were answered with a new seed.
    answered: [Option<u64>; CREDENTIALS],
}

impl Healing<'_> {
    async fn watch(&mut self) {
        let mut pause = tokio::time::interval(Duration::from_millis(25));
        loop {
            pause.tick().await;
            self.look();
        }
    }

    async fn finish(&mut self) {
        let mut pause = tokio::time::interval(Duration::from_millis(25));
        loop {
            pause.tick().await;
            self.look();
            let all_whole = (0..CREDENTIALS).all(|credential| self.stage.is_whole(credential));
            if all_whole && self.losses.values().all(|loss| loss.ended.is_some()) {
                return;
            }
        }
    }

    fn look(&mut self) {
        for ((credential, token), began) in self.stage.lost() {
            let loss = Loss { credential, began, ended: None };
            self.losses.entry((credential, token)).or_insert(loss);
        }
        for credential in 0..CREDENTIALS {
            self.answer(credential);
            let open = self.losses.values_mut();
            let mut open = open
                .filter(|loss| loss.credential == credential && loss.ended.is_none())
                .peekable();
            if open.peek().is_some() && self.stage.is_whole(credential) {
                open.for_each(|loss| loss.ended = Some(Instant::now()));
                self.stage.script().healed(credential);
            }
        }
    }

    fn answer(&mut self, credential: usize) {
        let record = self.stage.record(credential);
        let reason = &record["terminal"]["reason"];
        let generation = record["generation"].as_u64();
        if reason.is_null() || self.answered[credential] == generation {
            return;
        }
        self.answered[credential] = generation;
        if reason != "lost_rotation" {
            self.wrong.push(format!("{}: a grant ended as {reason}", name(credential)));
        }
        if Healer::of(credential) == Healer::Seed {
            self.stage.bring_a_new_seed(credential);
        }
    }
}
