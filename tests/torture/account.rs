//! Whether everything is accounted for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

use super::adversary::{Deeds, Loss, Lost};
use super::clients::{Failure, Seen};
use super::faults::{Fate, Kind, Presented};
use super::stage::{CREDENTIALS, Damage, End, Ended, Harm, Healer, Stage, name};

/// Those that were told of a loss just before it was healed may hear it just after, and with another program that has
/// not heard yet that it was: it looks every 1.5 s.
const TOLD: Duration = Duration::from_millis(500);
const HEARD: Duration = Duration::from_millis(2500);
/// After that an answer that came is on a disk that works, on a busy machine too.
const STORED: Duration = Duration::from_secs(2);
/// And after that on one that works again.
const STORED_LATE: Duration = Duration::from_secs(4);
/// So often a refresh token is presented without an answer, and then once in this time.
const SILENT: usize = 3;
const LOOK: Duration = Duration::from_secs(54);

/// What each credential has presented, in order, and what may have come in between.
pub(crate) struct History {
    presented: Vec<Vec<Presented>>,
    ends: Vec<Ended>,
    damages: Vec<Damage>,
    programs: usize,
}

impl History {
    pub(crate) fn of(stage: &Stage) -> Self {
        let mut presented = vec![Vec::new(); CREDENTIALS];
        for one in &stage.script().log {
            presented[one.credential].push(one.clone());
        }
        let (ends, damages) = (stage.ends(), stage.damages());
        Self { presented, ends, damages, programs: stage.proxies.len() }
    }

    /// Different refresh tokens, and presentations of one that had been presented before.
    pub(crate) fn print(&self) {
        let tokens = |one: &Presented| one.refresh_token.clone();
        let sent: Vec<_> = self.presented.iter().flatten().filter_map(tokens).collect();
        let different: BTreeSet<_> = sent.iter().collect();
        println!("    refresh tokens presented  {:>5}", different.len());
        println!("      presented again         {:>5}", sent.len() - different.len());
    }

    /// A refresh token is presented again only if what it was presented for came to nothing, never after a newer
    /// one, and not for ever.
    pub(crate) fn check(&self, wrong: &mut Vec<String>) {
        for (credential, presented) in self.presented.iter().enumerate() {
            let name = name(credential);
            let mut seen: HashMap<&String, (&Presented, usize)> = HashMap::new();
            let mut newest = None;
            for one in presented {
                let Some(token) = &one.refresh_token else { continue };
                let is_silent = one.held || one.fault.is_some_and(|fault| fault.is_silent());
                let mut silent = usize::from(is_silent);
                if let Some((before, times)) = seen.get(token) {
                    let excuse = self.undone(before, one.at);
                    if newest != Some(token) && !excuse {
                        wrong.push(format!("{name}: an older refresh token after a newer one"));
                    }
                    let fault = before.fault.is_some_and(|fault| fault.asks_for_another());
                    if !fault && !before.held && !excuse {
                        let what =
                            before.fault.map_or("an answer".to_owned(), |it| format!("{it:?}"));
                        wrong.push(format!("{name}: a refresh token again after {what}"));
                    }
                    if *times >= SILENT && one.at - before.at < LOOK {
                        wrong.push(format!("{name}: a refresh token for the {}th time", times + 1));
                    }
                    silent = if is_silent { times + 1 } else { 0 };
                }
                seen.insert(token, (one, silent));
                newest = Some(token);
            }
        }
    }

    /// Can what `one` brought have been forgotten by `then`? Its process was killed before it could be stored, or a
    /// backup has come back under several programs.
    fn undone(&self, one: &Presented, then: Instant) -> bool {
        let mut stored = one.at + one.takes + STORED;
        let mut disk_failed = false;
        for damage in self.damages.iter().filter(|damage| damage.harm == Harm::Disk) {
            if damage.span.start < stored && one.at < damage.span.end {
                stored = stored.max(damage.span.end + STORED_LATE);
                disk_failed = true;
            }
        }
        let ended = self.ends.iter().any(|end| {
            // What a dying process has sent may arrive while it dies.
            let in_time = end.span.start < stored && one.at < end.span.end && end.span.start < then;
            in_time && (end.how == End::Kill || disk_failed)
        });
        let restored = self.programs > 1
            && self.damages.iter().any(|damage| {
                damage.harm == Harm::Backup(one.credential)
                    && one.at < damage.span.end
                    && (damage.span.start..damage.span.end + STORED).contains(&then)
            });
        ended || restored
    }

    /// Was the answer to `lost` kept back, or the proxy killed before it was stored?
    fn explains(&self, credential: usize, lost: &Lost) -> bool {
        let presented = self.presented[credential].iter();
        let of_it = |one: &&Presented| one.refresh_token.as_deref() == Some(&lost.refresh_token);
        let presented: Vec<_> = presented.filter(of_it).filter(|one| one.at <= lost.at).collect();
        if !lost.was_refused {
            return true;
        }
        // The last is the one that told of the loss.
        let Some((_, before)) = presented.split_last() else { return false };
        before.iter().any(|one| {
            one.fault.is_some_and(|fault| fault.fate == Fate::KeptBack) || self.undone(one, lost.at)
        })
    }

    /// Did the answer that nobody can read come to anybody?
    fn is_certain(&self, credential: usize, lost: &Lost) -> bool {
        let is_it = |one: &&Presented| {
            one.at == lost.at && one.refresh_token.as_deref() == Some(&lost.refresh_token)
        };
        let one = self.presented[credential].iter().find(is_it);
        lost.was_refused || one.is_none_or(|one| !self.undone(one, one.at + STORED_LATE * 3))
    }
}

/// Every grant that was lost has an alarm of its own, was counted, is healed, and has a cause. Call it when the
/// programs have ended.
pub(crate) fn check_losses(
    stage: &Stage,
    history: &History,
    deeds: &Deeds,
    wrong: &mut Vec<String>,
) {
    let lives = stage.lives();
    let counted = lives.iter().map(|life| life.counted).sum();
    for life in &lives {
        if life.counted < life.before_counted || life.counted > life.losses {
            wrong.push(format!(
                "bearerd_lost_rotations_total said {}, the log {} before and {} after",
                life.counted, life.before_counted, life.losses
            ));
        }
    }
    // An alarm that a kill kept from being stored is raised again by the next process.
    let alarms: BTreeSet<_> = lives.iter().flat_map(|life| life.alarms.clone()).collect();
    for credential in 0..CREDENTIALS {
        let raised = alarms.iter().filter(|alarm| alarm.0 == name(credential)).count();
        let losses = || deeds.losses.iter().filter(|loss| loss.credential == credential);
        let is_certain =
            |loss: &&Loss| loss.tokens.iter().any(|lost| history.is_certain(credential, lost));
        let (certain, all) = (losses().filter(is_certain).count(), losses().count());
        if stage.clock.is_none() && !(certain..=all).contains(&raised) {
            wrong.push(format!(
                "{}: {certain} to {all} grants lost, {raised} alarms",
                name(credential)
            ));
        }
    }
    for loss in &deeds.losses {
        if !loss.tokens.iter().all(|lost| history.explains(loss.credential, lost)) {
            wrong.push(format!("{}: a grant was lost without a cause", name(loss.credential)));
        }
        if loss.ended.is_none() {
            wrong.push(format!("{}: a lost grant was not healed", name(loss.credential)));
        }
    }
    if !deeds.losses.is_empty() || !alarms.is_empty() {
        print_losses(&deeds.losses, &alarms, counted);
    }
}

fn print_losses(losses: &[Loss], alarms: &BTreeSet<(String, u64)>, counted: usize) {
    println!("    lost rotations            {:>5}   alarms   healed   slowest, by", losses.len());
    for healer in Healer::ALL {
        let of = |credential: usize| Healer::of(credential) == healer;
        let healed: Vec<_> = losses
            .iter()
            .filter(|loss| of(loss.credential))
            .filter_map(|loss| Some(loss.ended? - loss.began))
            .collect();
        let lost = losses.iter().filter(|loss| of(loss.credential)).count();
        let is_of = |name: &String| name[1..].parse().is_ok_and(of);
        let alarms = alarms.iter().filter(|alarm| is_of(&alarm.0)).count();
        let slowest = healed.iter().max().copied().unwrap_or_default();
        let by = match healer {
            Healer::Seed => "a new seed",
            Healer::Password => "bootstrap: password",
            Healer::ClientCredentials => "bootstrap: client_credentials",
        };
        println!(
            "                              {lost:>5}    {alarms:>5}    {:>5}   {slowest:>7.1?}   {by}",
            healed.len()
        );
    }
    println!("      counted by bearerd_lost_rotations_total before the ends: {counted}");
}

/// What clients may not have seen. Only where a person has to bring the new seed may they see the loss.
pub(crate) fn check_clients(stage: &Stage, seen: &Seen, losses: &[Loss], wrong: &mut Vec<String>) {
    let told = if stage.proxies.len() > 1 { HEARD } else { TOLD };
    let mut unexcused: BTreeMap<(usize, &str), Vec<&Failure>> = BTreeMap::new();
    let (mut excused, mut others) = (0, 0);
    for failure in &seen.failed {
        let during = |loss: &&Loss| {
            loss.credential == failure.credential
                && failure.ended >= loss.began
                && loss.ended.is_none_or(|ended| failure.began <= ended + told)
        };
        let is_lost =
            Healer::of(failure.credential) == Healer::Seed && losses.iter().find(during).is_some();
        match is_lost {
            true => excused += 1,
            false => {
                others += 1;
                let alike = (failure.credential, &*failure.what);
                unexcused.entry(alike).or_default().push(failure);
            }
        }
    }
    seen.print();
    println!("      failed until the new seed came      {excused}");
    println!("      failed otherwise                    {others}");
    for ((credential, what), failures) in unexcused {
        let at =
            |time: Instant| humantime::format_rfc3339_millis(SystemTime::now() - time.elapsed());
        let first = failures.iter().min_by_key(|failure| failure.ended).unwrap();
        let last = failures.iter().max_by_key(|failure| failure.ended).unwrap();
        let (name, times) = (name(credential), failures.len());
        let took = first.ended - first.began;
        let (first, last) = (at(first.ended), at(last.ended));
        wrong
            .push(format!("{name}: {times} times from {first} (after {took:?}) to {last}: {what}"));
    }
}

/// There were some of each kind: a run of some minutes shows what it says.
pub(crate) fn check_density(
    stage: &Stage,
    kinds: impl IntoIterator<Item = Kind>,
    length: Duration,
    wrong: &mut Vec<String>,
) {
    let script = stage.script();
    let faults = || script.log.iter().filter_map(|one| one.fault);
    if length < Duration::from_secs(120) {
        return;
    }
    for kind in kinds {
        let times = faults().filter(|fault| fault.kind == kind).count();
        if times < length.as_secs() as usize / 80 {
            wrong.push(format!("{times} faults only: {kind}"));
        }
    }
    let per_mille = 1000 * faults().count() / script.log.len().max(1);
    if !(50..=150).contains(&per_mille) {
        wrong.push(format!("{per_mille} of 1000 token requests were disturbed"));
    }
}

/// A clock that is set costs at most one token request for each credential.
pub(crate) fn check_clock(stage: &Stage, deeds: &Deeds, length: Duration, wrong: &mut Vec<String>) {
    let script = stage.script();
    let faults = script.log.iter().filter(|one| one.fault.is_some()).count();
    let undisturbed = length.as_secs() as usize * CREDENTIALS / 2;
    let most = undisturbed + deeds.forwards * CREDENTIALS + deeds.revoked + 3 * faults;
    if script.log.len() > most {
        wrong.push(format!("{} token requests, where {most} are enough", script.log.len()));
    }
}
