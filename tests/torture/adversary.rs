//! What is done to the proxy and to what it stores, the end of stalls, and what an operator does about losses.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::disk::{self, Disk};
use super::faults::{Kind, Phase};
use super::stage::{CREDENTIALS, End, Harm, Healer, Stage, name};

/// Long enough for every request that was waiting for a new token to have been sent with it, on a busy
/// machine too.
const IN_USE: Duration = Duration::from_secs(1);
/// What was tampered with is mended within two seconds, on a busy machine in three.
const MENDED: Duration = Duration::from_secs(3);
/// How long a grant may take to be whole again once nothing disturbs any more.
const SETTLED: Duration = Duration::from_secs(90);

/// A grant that was lost, and when it was whole again.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) credential: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    /// The refresh tokens that were lost: a new seed may follow the first.
    pub(crate) tokens: Vec<Lost>,
}

/// A refresh token that is no good any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) refresh_token: String,
    pub(crate) at: Instant,
    /// The server has refused it. Otherwise a success that nobody can read was all that it brought.
    pub(crate) was_refused: bool,
}

/// What was done, and seen while it was done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) kills: usize,
    pub(crate) terms: usize,
    pub(crate) revoked: usize,
    pub(crate) forwards: usize,
    pub(crate) backwards: usize,
    pub(crate) losses: Vec<Loss>,
    /// What should not have been.
    pub(crate) wrong: Vec<String>,
}

impl Deeds {
    pub(crate) fn print(&self, stage: &Stage) {
        println!("    kill -9, SIGTERM          {:>5} {:>5}", self.kills, self.terms);
        println!("    access tokens revoked     {:>5}", self.revoked);
        match &stage.clock {
            Some(_) => {
                println!("    clock set forward, back   {:>5} {:>5}", self.forwards, self.backwards)
            }
            None => {
                let damages = stage.damages();
                let of = |is: fn(&Harm) -> bool| damages.iter().filter(|it| is(&it.harm)).count();
                println!(
                    "    done to what is stored    {:>5} disk, {} locks, {} directory, {} records, {} backups",
                    of(|it| *it == Harm::Disk),
                    of(|it| *it == Harm::Locks),
                    of(|it| *it == Harm::Directory),
                    of(|it| matches!(it, Harm::Record(_))),
                    of(|it| matches!(it, Harm::Backup(_))),
                );
            }
        }
    }
}

/// Disturbs for `length`, then waits until every grant is whole again.
pub(crate) async fn disturb(stage: &Stage, phase: Phase, length: Duration) -> Deeds {
    let mut deeds = Deeds::default();
    let Deeds { kills, terms, revoked, forwards, backwards, losses, wrong } = &mut deeds;
    let mut healing = Healing {
        stage,
        losses,
        wrong,
        known: BTreeSet::new(),
        answered: vec![Value::Null; CREDENTIALS],
    };
    stage.script().phase = phase;
    let all = async {
        tokio::join!(
            end(stage, phase, length, (kills, terms)),
            revoke(stage, length, revoked),
            release(stage, length),
            tamper(stage, length),
            set_clock(stage, length, (forwards, backwards)),
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
/// rejected twice within one request, and a second rejection is passed on (I8): no proxy could do better. So
/// it is where one program is given the token that another one uses already: then one at a time is revoked.
async fn revoke(stage: &Stage, length: Duration, revoked: &mut usize) {
    let (began, mut dice) = (Instant::now(), stage.dice.of("revoke"));
    while began.elapsed() < length {
        sleep(dice.between(100, 500)).await;
        let mut left = if stage.proxies.len() > 1 { 1 } else { usize::MAX };
        let chosen = || {
            let is_chosen = dice.one_in(4) && left > 0;
            left -= usize::from(is_chosen);
            is_chosen
        };
        *revoked += stage.server.tokens().revoke_access_tokens_in_use_for(IN_USE, chosen);
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

/// Ends programs and starts them again.
async fn end(
    stage: &Stage,
    phase: Phase,
    length: Duration,
    (kills, terms): (&mut usize, &mut usize),
) {
    let (began, mut dice) = (Instant::now(), stage.dice.of("end"));
    while began.elapsed() + Duration::from_secs(8) < length {
        sleep(dice.between(1500, 4500)).await;
        let proxy = &stage.proxies[dice.below(stage.proxies.len() as u64) as usize];
        let how = match dice.one_in(3) || stage.clock.is_some() {
            true => End::Term,
            false => End::Kill,
        };
        let is_guarded = how == End::Kill && phase != Phase::Forgiving;
        // What was tampered with is mended before, because a backup that is put back while nobody runs counts.
        let _alone = stage.tampering.lock().await;
        if is_guarded {
            close(stage, dice.between(0, 50)).await;
        }
        stage.restart(proxy, how).await;
        stage.script().closing = false;
        match how {
            End::Kill => *kills += 1,
            End::Term => *terms += 1,
        }
    }
}

/// Sees to it that a kill comes before the commit for all grants that may not be lost: their requests
/// get no answer from now on, and what was answered is stored.
async fn close(stage: &Stage, rest: Duration) {
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
    timeout(Duration::from_secs(20), stored).await.expect("what was answered is stored");
    sleep(rest).await;
}

/// Lets the disk hang, fail and be full, and changes what is stored behind the back of whoever has stored it.
async fn tamper(stage: &Stage, length: Duration) {
    if stage.clock.is_some() {
        return;
    }
    let (began, mut dice) = (Instant::now(), stage.dice.of("tamper"));
    while began.elapsed() + Duration::from_secs(8) < length {
        sleep(dice.between(500, 2500)).await;
        let mut dice = dice.decision();
        let act = dice.below(6);
        let credential = dice.below(CREDENTIALS as u64) as usize;
        if act < 2 {
            let fault = Disk::any(&mut dice);
            if stage.disk.has_faults() {
                trouble(stage, fault, dice.between(300, 3500)).await;
            }
            continue;
        }
        let before = if act == 5 { backup(stage, credential).await } else { None };
        let _alone = stage.tampering.lock().await;
        let (state, record) = (stage.state(), stage.record_path(credential));
        let at = Instant::now();
        let harm = match act {
            2 => {
                disk::remove_locks(&state);
                Harm::Locks
            }
            3 => {
                let replacing = move || disk::replace_by_a_copy(&state);
                tokio::task::spawn_blocking(replacing).await.unwrap();
                Harm::Directory
            }
            4 => {
                let damaged: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"{\"record\": {")];
                disk::replace_record(&record, dice.pick(&damaged));
                Harm::Record(credential)
            }
            _ => {
                let Some(before) = before else { continue };
                disk::replace_record(&record, Some(&before));
                Harm::Backup(credential)
            }
        };
        sleep(MENDED).await;
        stage.note_damage(harm, at);
    }
}

/// In the second part a kill would cost what the disk does not take, so nobody is killed meanwhile.
async fn trouble(stage: &Stage, fault: &str, length: Duration) {
    let _alone = match stage.proxies.len() {
        1 => Some(stage.tampering.lock().await),
        _ => None,
    };
    let at = Instant::now();
    stage.disk.set(fault);
    sleep(length).await;
    stage.disk.set("");
    stage.note_damage(Harm::Disk, at);
}

/// The record of before a rotation, as soon as that has happened.
async fn backup(stage: &Stage, credential: usize) -> Option<Vec<u8>> {
    let (path, began) = (stage.record_path(credential), Instant::now());
    let mut before = None;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while began.elapsed() < Duration::from_secs(6) {
        pause.tick().await;
        let record = stage.record(credential);
        let token = record["refresh_token"].as_str().map(str::to_owned);
        let (Some(token), true) = (token, record["terminal"].is_null()) else { return None };
        match &before {
            Some((known, bytes)) if *known != token => return Some(Vec::clone(bytes)),
            _ => before = Some((token, std::fs::read(&path).ok()?)),
        }
    }
    None
}

/// Sets the clock forward and back. Back by much, because a token whose issue is less than a second ahead after a
/// restart counts as another process's with another clock: it is given time to become known, and a rejection
/// reaches the client.
async fn set_clock(
    stage: &Stage,
    length: Duration,
    (forwards, backwards): (&mut usize, &mut usize),
) {
    let Some(clock) = &stage.clock else { return };
    let (began, mut dice) = (Instant::now(), stage.dice.of("clock"));
    while began.elapsed() + Duration::from_secs(8) < length {
        sleep(dice.between(700, 4000)).await;
        let forward = dice.one_in(2);
        let steps: &[u64] =
            if forward { &[1, 3, 7, 30, 600, 3600, 86_400] } else { &[30, 600, 3600, 86_400] };
        let by = Duration::from_secs(dice.pick(steps));
        tracing::info!(?by, forward, "the clock is set");
        if forward {
            clock.advance(by);
            *forwards += 1;
        } else {
            clock.set_back(by);
            *backwards += 1;
        }
    }
}

/// Watches the records, and is the operator who brings new seeds.
struct Healing<'a> {
    stage: &'a Stage,
    losses: &'a mut Vec<Loss>,
    wrong: &'a mut Vec<String>,
    /// Refresh tokens that were lost, by credential.
    known: BTreeSet<(usize, String)>,
    /// The last terminals that were answered with a new seed.
    answered: Vec<Value>,
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
            if all_whole && self.losses.iter().all(|loss| loss.ended.is_some()) {
                return;
            }
        }
    }

    fn look(&mut self) {
        for (credential, lost) in self.stage.lost() {
            if self.known.insert((credential, lost.refresh_token.clone())) {
                let is_open =
                    |loss: &&mut Loss| loss.credential == credential && loss.ended.is_none();
                match self.losses.iter_mut().find(is_open) {
                    Some(loss) => loss.tokens.push(lost),
                    None => self.losses.push(Loss {
                        credential,
                        began: lost.at,
                        ended: None,
                        tokens: vec![lost],
                    }),
                }
            }
        }
        for credential in 0..CREDENTIALS {
            self.answer(credential);
        }
        for loss in self.losses.iter_mut().filter(|loss| loss.ended.is_none()) {
            let holds = self.stage.record(loss.credential)["refresh_token"].clone();
            let is_lost = loss.tokens.iter().any(|lost| holds == lost.refresh_token.as_str());
            if !is_lost && self.stage.is_whole(loss.credential) {
                loss.ended = Some(Instant::now());
                self.stage.script().healed(loss.credential);
            }
        }
    }

    fn answer(&mut self, credential: usize) {
        let terminal = self.stage.record(credential)["terminal"].clone();
        if terminal.is_null() || self.answered[credential] == terminal {
            return;
        }
        let reason = &terminal["reason"];
        if reason != "lost_rotation" {
            self.wrong.push(format!("{}: a grant ended as {reason}", name(credential)));
        }
        if Healer::of(credential) == Healer::Seed {
            self.stage.bring_a_new_seed(credential);
        }
        self.answered[credential] = terminal;
    }
}

impl Stage {
    /// The refresh tokens that are lost: those that were presented after they had been replaced, as the server sees
    /// it, and those for which a success came that nobody can read.
    fn lost(&self) -> Vec<(usize, Lost)> {
        let script = self.script();
        let mut lost = Vec::new();
        for reuse in self.server.reuses() {
            let presents = |one: &&super::faults::Presented| {
                one.refresh_token.as_ref() == Some(&reuse.refresh_token)
            };
            let owner = script.log.iter().rev().find(presents).unwrap().credential;
            let was_refused = true;
            lost.push((
                owner,
                Lost { refresh_token: reuse.refresh_token, at: reuse.at, was_refused },
            ));
        }
        for one in &script.log {
            let is_garbage = one.fault.is_some_and(|fault| fault.kind == Kind::Garbage);
            if let (true, Some(token)) = (is_garbage, &one.refresh_token) {
                let refresh_token = token.clone();
                lost.push((one.credential, Lost { refresh_token, at: one.at, was_refused: false }));
            }
        }
        lost
    }
}
