//! Disturbs the proxy and its store, ends stalls, and acts as the operator who recovers lost grants.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::disk::{self, Disk};
use super::faults::{FaultKind, Phase};
use super::test_bed::{CREDENTIALS, DamageKind, End, Recovery, TestBed, name};

/// The time in use after which a token may be revoked: every request that waited for it has been sent by then,
/// even on a busy machine.
const IN_USE: Duration = Duration::from_secs(1);
/// Tampering is repaired within two seconds, on a busy machine within three.
const REPAIR_TIME: Duration = Duration::from_secs(3);
/// How long a grant may take to recover after the disturbances have ended.
const RECOVERY_LIMIT: Duration = Duration::from_secs(90);

/// A lost grant, and the time of its recovery.
#[derive(Clone, Debug)]
pub(crate) struct LostGrant {
    pub(crate) credential: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    /// The lost refresh tokens. A new seed may be lost in turn.
    pub(crate) tokens: Vec<LostToken>,
}

/// A refresh token that is no longer usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostToken {
    pub(crate) refresh_token: String,
    pub(crate) at: Instant,
    /// True if the server refused it, false if it was consumed by an unreadable success.
    pub(crate) was_refused: bool,
}

/// The disturbances of a phase and the losses observed meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Disturbances {
    pub(crate) kills: usize,
    pub(crate) terms: usize,
    pub(crate) revoked: usize,
    pub(crate) forwards: usize,
    pub(crate) backwards: usize,
    pub(crate) losses: Vec<LostGrant>,
    /// The violations observed meanwhile.
    pub(crate) violations: Vec<String>,
}

impl Disturbances {
    pub(crate) fn print(&self, test_bed: &TestBed) {
        println!("    kill -9, SIGTERM          {:>5} {:>5}", self.kills, self.terms);
        println!("    access tokens revoked     {:>5}", self.revoked);
        match &test_bed.clock {
            Some(_) => {
                println!("    clock set forward, back   {:>5} {:>5}", self.forwards, self.backwards)
            }
            None => {
                let damages = test_bed.damages();
                let of =
                    |is: fn(&DamageKind) -> bool| damages.iter().filter(|it| is(&it.kind)).count();
                println!(
                    "    store disturbances        {:>5} disk, {} locks, {} directory, {} records, {} backups",
                    of(|it| *it == DamageKind::Disk),
                    of(|it| *it == DamageKind::Locks),
                    of(|it| *it == DamageKind::Directory),
                    of(|it| matches!(it, DamageKind::Record(_))),
                    of(|it| matches!(it, DamageKind::Backup(_))),
                );
            }
        }
    }
}

/// Disturbs for `length`, then waits until every grant has recovered.
pub(crate) async fn disturb(test_bed: &TestBed, phase: Phase, length: Duration) -> Disturbances {
    let mut disturbances = Disturbances::default();
    let Disturbances { kills, terms, revoked, forwards, backwards, losses, violations } =
        &mut disturbances;
    let mut watcher = LossWatcher {
        test_bed,
        losses,
        violations,
        known: BTreeSet::new(),
        answered: vec![Value::Null; CREDENTIALS],
    };
    test_bed.script().phase = phase;
    let all = async {
        tokio::join!(
            end(test_bed, phase, length, (kills, terms)),
            revoke(test_bed, length, revoked),
            release(test_bed, length),
            tamper(test_bed, length),
            set_clock(test_bed, length, (forwards, backwards)),
        );
        test_bed.script().phase = Phase::Calm;
        test_bed.server.release_all();
    };
    tokio::select! {
        () = all => {}
        () = watcher.watch() => {}
    }
    if timeout(RECOVERY_LIMIT, watcher.finish()).await.is_err() {
        for credential in (0..CREDENTIALS).filter(|credential| !test_bed.is_recovered(*credential))
        {
            let terminal = &test_bed.record(credential)["terminal"]["reason"];
            disturbances
                .violations
                .push(format!("{}: not recovered; terminal: {terminal}", name(credential)));
        }
    }
    disturbances
}

/// Revokes some of the access tokens in use. A token revoked before its first use would be rejected twice within
/// one request, and a second rejection is forwarded (I8). The same happens if one program adopts a token that
/// another already uses, so with several programs one token is revoked at a time.
async fn revoke(test_bed: &TestBed, length: Duration, revoked: &mut usize) {
    let (began, mut rng) = (Instant::now(), test_bed.rng.of("revoke"));
    while began.elapsed() < length {
        sleep(rng.between(100, 500)).await;
        let mut left = if test_bed.proxies.len() > 1 { 1 } else { usize::MAX };
        let chosen = || {
            let is_chosen = rng.one_in(4) && left > 0;
            left -= usize::from(is_chosen);
            is_chosen
        };
        *revoked += test_bed.server.tokens().revoke_access_tokens_in_use_for(IN_USE, chosen);
    }
}

/// Releases stalled requests every second, while most of the lifetime of the issued token remains: a token that
/// arrives just before its expiry would cause a second rejection (I8).
async fn release(test_bed: &TestBed, length: Duration) {
    let began = Instant::now();
    while began.elapsed() < length {
        sleep(Duration::from_secs(1)).await;
        test_bed.server.release_all();
    }
}

/// Terminates programs and restarts them.
async fn end(
    test_bed: &TestBed,
    phase: Phase,
    length: Duration,
    (kills, terms): (&mut usize, &mut usize),
) {
    let (began, mut rng) = (Instant::now(), test_bed.rng.of("end"));
    while began.elapsed() + Duration::from_secs(8) < length {
        sleep(rng.between(1500, 4500)).await;
        let proxy = &test_bed.proxies[rng.below(test_bed.proxies.len() as u64) as usize];
        let how = match rng.one_in(3) || test_bed.clock.is_some() {
            true => End::Term,
            false => End::Kill,
        };
        let is_guarded = how == End::Kill && phase != Phase::Forgiving;
        // Wait until tampering is repaired: a backup restored while no program runs would take effect.
        let _alone = test_bed.tampering.lock().await;
        if is_guarded {
            guard_grants(test_bed, rng.between(0, 50)).await;
        }
        test_bed.restart(proxy, how).await;
        test_bed.script().is_kill_pending = false;
        match how {
            End::Kill => *kills += 1,
            End::Term => *terms += 1,
        }
    }
}

/// Makes a kill safe for all grants that must not be lost: holds their requests before the commit, and waits
/// until all answers already sent are stored.
async fn guard_grants(test_bed: &TestBed, rest: Duration) {
    {
        let mut script = test_bed.script();
        script.is_kill_pending = true;
        script.waiting = 0;
    }
    test_bed.server.release_all();
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let stored = async {
        loop {
            pause.tick().await;
            let (waiting, guarded) = test_bed.script().guarded();
            let under_way = test_bed.server.token_requests() - test_bed.server.answered();
            if under_way <= waiting && guarded.into_iter().all(|one| test_bed.is_recovered(one)) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(20), stored).await.expect("every answer is stored in time");
    sleep(rest).await;
}

/// Makes the disk hang, fail and run full, and changes stored data behind the program's back.
async fn tamper(test_bed: &TestBed, length: Duration) {
    if test_bed.clock.is_some() {
        return;
    }
    let (began, mut rng) = (Instant::now(), test_bed.rng.of("tamper"));
    while began.elapsed() + Duration::from_secs(8) < length {
        sleep(rng.between(500, 2500)).await;
        let mut rng = rng.decision();
        let act = rng.below(6);
        let credential = rng.below(CREDENTIALS as u64) as usize;
        if act < 2 {
            let fault = Disk::any(&mut rng);
            if test_bed.disk.has_faults() {
                inject_disk_fault(test_bed, fault, rng.between(300, 3500)).await;
            }
            continue;
        }
        let before = if act == 5 { backup(test_bed, credential).await } else { None };
        let _alone = test_bed.tampering.lock().await;
        let (state, record) = (test_bed.state(), test_bed.record_path(credential));
        let at = Instant::now();
        let kind = match act {
            2 => {
                disk::remove_locks(&state);
                DamageKind::Locks
            }
            3 => {
                let replacing = move || disk::replace_by_a_copy(&state);
                tokio::task::spawn_blocking(replacing).await.unwrap();
                DamageKind::Directory
            }
            4 => {
                let damaged: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"{\"record\": {")];
                disk::replace_record(&record, rng.pick(&damaged));
                DamageKind::Record(credential)
            }
            _ => {
                let Some(before) = before else { continue };
                disk::replace_record(&record, Some(&before));
                DamageKind::Backup(credential)
            }
        };
        sleep(REPAIR_TIME).await;
        test_bed.record_damage(kind, at);
    }
}

/// Injects one disk fault. With one program, a kill would lose what the disk does not store, so kills wait.
async fn inject_disk_fault(test_bed: &TestBed, fault: &str, length: Duration) {
    let _alone = match test_bed.proxies.len() {
        1 => Some(test_bed.tampering.lock().await),
        _ => None,
    };
    let at = Instant::now();
    test_bed.disk.set(fault);
    sleep(length).await;
    test_bed.disk.set("");
    test_bed.record_damage(DamageKind::Disk, at);
}

/// Waits for a rotation and returns the record from before it.
async fn backup(test_bed: &TestBed, credential: usize) -> Option<Vec<u8>> {
    let (path, began) = (test_bed.record_path(credential), Instant::now());
    let mut before = None;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while began.elapsed() < Duration::from_secs(6) {
        pause.tick().await;
        let record = test_bed.record(credential);
        let token = record["refresh_token"].as_str().map(str::to_owned);
        let (Some(token), true) = (token, record["terminal"].is_null()) else { return None };
        match &before {
            Some((known, bytes)) if *known != token => return Some(Vec::clone(bytes)),
            _ => before = Some((token, std::fs::read(&path).ok()?)),
        }
    }
    None
}

/// Sets the clock forward and back. Backward steps are large: if a token was issued less than a second in the
/// future, a restarted process attributes it to another process with a skewed clock and grants it a propagation
/// delay, during which a rejection reaches the client.
async fn change_clock(
    test_bed: &TestBed,
    length: Duration,
    (forwards, backwards): (&mut usize, &mut usize),
) {
    let Some(clock) = &test_bed.clock else { return };
    let (began, mut rng) = (Instant::now(), test_bed.rng.of("clock"));
    while began.elapsed() + Duration::from_secs(8) < length {
        sleep(rng.between(700, 4000)).await;
        let forward = rng.one_in(2);
        let steps: &[u64] =
            if forward { &[1, 3, 7, 30, 600, 3600, 86_400] } else { &[30, 600, 3600, 86_400] };
        let by = Duration::from_secs(rng.pick(steps));
        tracing::info!(?by, forward, "clock changed");
        if forward {
            clock.advance(by);
            *forwards += 1;
        } else {
            clock.set_back(by);
            *backwards += 1;
        }
    }
}

/// Watches the records, and writes new seeds as an operator would.
struct LossWatcher<'a> {
    test_bed: &'a TestBed,
    losses: &'a mut Vec<LostGrant>,
    violations: &'a mut Vec<String>,
    /// The known lost refresh tokens, by credential.
    known: BTreeSet<(usize, String)>,
    /// The last handled terminal state of each credential.
    answered: Vec<Value>,
}

impl LossWatcher<'_> {
    async fn watch(&mut self) {
        let mut pause = tokio::time::interval(Duration::from_millis(25));
        loop {
            pause.tick().await;
            self.poll();
        }
    }

    async fn finish(&mut self) {
        let mut pause = tokio::time::interval(Duration::from_millis(25));
        loop {
            pause.tick().await;
            self.poll();
            let all_recovered =
                (0..CREDENTIALS).all(|credential| self.test_bed.is_recovered(credential));
            if all_recovered && self.losses.iter().all(|loss| loss.ended.is_some()) {
                return;
            }
        }
    }

    fn poll(&mut self) {
        for (credential, lost) in self.test_bed.lost() {
            if self.known.insert((credential, lost.refresh_token.clone())) {
                let is_open =
                    |loss: &&mut LostGrant| loss.credential == credential && loss.ended.is_none();
                match self.losses.iter_mut().find(is_open) {
                    Some(loss) => loss.tokens.push(lost),
                    None => self.losses.push(LostGrant {
                        credential,
                        began: lost.at,
                        ended: None,
                        tokens: vec![lost],
                    }),
                }
            }
        }
        for credential in 0..CREDENTIALS {
            self.handle_terminal(credential);
        }
        for loss in self.losses.iter_mut().filter(|loss| loss.ended.is_none()) {
            let holds = self.test_bed.record(loss.credential)["refresh_token"].clone();
            let is_lost = loss.tokens.iter().any(|lost| holds == lost.refresh_token.as_str());
            if !is_lost && self.test_bed.is_recovered(loss.credential) {
                loss.ended = Some(Instant::now());
                self.test_bed.script().mark_recovered(loss.credential);
            }
        }
    }

    fn handle_terminal(&mut self, credential: usize) {
        let terminal = self.test_bed.record(credential)["terminal"].clone();
        if terminal.is_null() || self.answered[credential] == terminal {
            return;
        }
        let reason = &terminal["reason"];
        if reason != "lost_rotation" {
            self.violations.push(format!(
                "{}: a grant became terminal with reason {reason}",
                name(credential)
            ));
        }
        if Recovery::of(credential) == Recovery::Seed {
            self.test_bed.write_new_seed(credential);
        }
        self.answered[credential] = terminal;
    }
}

impl TestBed {
    /// Returns the lost refresh tokens: those presented after the server had replaced them, and those consumed by
    /// an unreadable success.
    fn lost(&self) -> Vec<(usize, LostToken)> {
        let script = self.script();
        let mut lost = Vec::new();
        for reuse in self.server.reuses() {
            let presents = |one: &&super::faults::LoggedRequest| {
                one.refresh_token.as_ref() == Some(&reuse.refresh_token)
            };
            let owner = script.log.iter().rev().find(presents).unwrap().credential;
            let was_refused = true;
            lost.push((
                owner,
                LostToken { refresh_token: reuse.refresh_token, at: reuse.at, was_refused },
            ));
        }
        for one in &script.log {
            let is_garbage = one.fault.is_some_and(|fault| fault.kind == FaultKind::Garbage);
            if let (true, Some(token)) = (is_garbage, &one.refresh_token) {
                let refresh_token = token.clone();
                lost.push((
                    one.credential,
                    LostToken { refresh_token, at: one.at, was_refused: false },
                ));
            }
        }
        lost
    }
}
