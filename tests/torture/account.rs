//! Whether everything is accounted for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use super::adversary::{Deeds, Loss};
use super::clients::Seen;
use super::faults::{Kind, Presented};
use super::stage::{CREDENTIALS, Healer, Stage, name};

/// Those that were told of a loss just before it was healed may hear it just after.
const TOLD: Duration = Duration::from_millis(500);

/// What each credential has presented, in order.
pub(crate) struct History {
    presented: Vec<Vec<Presented>>,
    kills: Vec<Range<Instant>>,
}

impl History {
    pub(crate) fn of(stage: &Stage) -> Self {
        let mut presented = vec![Vec::new(); CREDENTIALS];
        for one in &stage.script().log {
            presented[one.credential].push(one.clone());
        }
        Self { presented, kills: stage.kills() }
    }

    /// Different refresh tokens, and presentations of one that had been presented before.
    pub(crate) fn print(&self) {
        let tokens = |one: &Presented| one.refresh_token.clone();
        let sent: Vec<_> = self.presented.iter().flatten().filter_map(tokens).collect();
        let different: BTreeSet<_> = sent.iter().collect();
        println!("    refresh tokens presented  {}", different.len());
        println!("      presented again         {:>5}", sent.len() - different.len());
    }

    /// A refresh token is presented again only if what it was presented for came to nothing, and never
    /// after a newer one.
    pub(crate) fn check(&self, wrong: &mut Vec<String>) {
        for (credential, presented) in self.presented.iter().enumerate() {
            let refreshes = presented.iter().filter(|one| one.refresh_token.is_some());
            let mut seen: HashMap<&String, &Presented> = HashMap::new();
            let mut newest = None;
            for one in refreshes {
                let token = one.refresh_token.as_ref().unwrap();
                if let Some(before) = seen.insert(token, one) {
                    let name = name(credential);
                    if newest != Some(token) {
                        wrong.push(format!("{name}: an older refresh token after a newer one"));
                    }
                    if !self.came_to_nothing(before, one.at) {
                        wrong.push(format!("{name}: a refresh token again without a cause"));
                    }
                }
                newest = Some(token);
            }
        }
    }

    fn came_to_nothing(&self, before: &Presented, then: Instant) -> bool {
        before.fault.is_some() || before.held || self.killed_between(before.at, then)
    }

    /// What a dying process has sent may arrive while it dies.
    fn killed_between(&self, sent: Instant, then: Instant) -> bool {
        self.kills.iter().any(|kill| kill.start < then && sent < kill.end)
    }

    /// Was the answer to `token` kept back, or the proxy killed before it was stored?
    fn explains(&self, credential: usize, token: &str, lost_at: Instant) -> bool {
        let is_of =
            |one: &&Presented| one.refresh_token.as_deref() == Some(token) && one.at < lost_at;
        let presented: Vec<_> = self.presented[credential].iter().filter(is_of).collect();
        // The last is the one that told of the loss.
        let Some((_, before)) = presented.split_last() else { return false };
        before.iter().any(|one| {
            one.fault.is_some_and(|fault| fault.committed) || self.killed_between(one.at, lost_at)
        })
    }
}

/// Every grant that the server says was lost has an alarm of its own, was counted, is healed, and has a
/// cause. Call it when the program has ended.
pub(crate) fn check_losses(
    stage: &Stage,
    history: &History,
    deeds: &Deeds,
    wrong: &mut Vec<String>,
) {
    let lives = stage.lives();
    let counted = lives.iter().map(|life| life.counted).sum();
    for life in &lives {
        if life.counted < life.before_counted || life.counted > life.alarms.len() {
            wrong.push(format!(
                "bearerd_lost_rotations_total said {}, the log {} before and {} after",
                life.counted,
                life.before_counted,
                life.alarms.len()
            ));
        }
    }
    // An alarm that a kill kept from being stored is raised again by the next process.
    let alarms: BTreeSet<_> = lives.iter().flat_map(|life| life.alarms.clone()).collect();
    for credential in 0..CREDENTIALS {
        let raised = alarms.iter().filter(|alarm| alarm.0 == name(credential)).count();
        let lost = deeds.losses.keys().filter(|loss| loss.0 == credential).count();
        if raised != lost {
            wrong.push(format!("{}: {lost} grants lost, {raised} alarms", name(credential)));
        }
    }
    for ((credential, token), loss) in &deeds.losses {
        if !history.explains(*credential, token, loss.began) {
            wrong.push(format!("{}: a grant was lost without a cause", name(*credential)));
        }
        if loss.ended.is_none() {
            wrong.push(format!("{}: a lost grant was not healed", name(*credential)));
        }
    }
    if !deeds.losses.is_empty() || !alarms.is_empty() {
        print_losses(&deeds.losses, &alarms, counted);
    }
}

fn print_losses(
    losses: &BTreeMap<(usize, String), Loss>,
    alarms: &BTreeSet<(String, u64)>,
    counted: usize,
) {
    println!("    lost rotations            {:>5}   alarms   healed   slowest, by", losses.len());
    for healer in Healer::ALL {
        let of = |credential: usize| Healer::of(credential) == healer;
        let healed: Vec<_> = losses
            .values()
            .filter(|loss| of(loss.credential))
            .filter_map(|loss| Some(loss.ended? - loss.began))
            .collect();
        let lost = losses.keys().filter(|loss| of(loss.0)).count();
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
    println!("      counted by bearerd_lost_rotations_total before the kills: {counted}");
}

/// What clients may not have seen. Only where a person has to bring the new seed may they see the loss.
pub(crate) fn check_clients(
    seen: &Seen,
    losses: &BTreeMap<(usize, String), Loss>,
    wrong: &mut Vec<String>,
) {
    let mut unexcused = Vec::new();
    let mut excused = 0;
    for failure in &seen.failed {
        let during = |loss: &&Loss| {
            loss.credential == failure.credential
                && failure.ended >= loss.began
                && loss.ended.is_none_or(|ended| failure.began <= ended + TOLD)
        };
        let is_lost = Healer::of(failure.credential) == Healer::Seed
            && losses.values().find(during).is_some();
        match is_lost {
            true => excused += 1,
            false => {
                let at = SystemTime::now() - failure.ended.elapsed();
                let (name, at) = (name(failure.credential), humantime::format_rfc3339_millis(at));
                let took = failure.ended - failure.began;
                unexcused.push(format!("{name}, {at} after {took:?}: {}", failure.what));
            }
        }
    }
    seen.print();
    println!("      failed until the new seed came      {excused}");
    println!("      failed otherwise                    {}", unexcused.len());
    wrong.append(&mut unexcused);
}

/// There were some of each kind, and a tenth in all: a run of a minute or more shows what it says.
pub(crate) fn check_density(stage: &Stage, seconds: u64, wrong: &mut Vec<String>) {
    let script = stage.script();
    let faults = || script.log.iter().filter_map(|one| one.fault);
    for kind in Kind::ALL {
        let times = faults().filter(|fault| fault.kind == kind).count();
        if seconds >= 60 && times < seconds as usize / 12 {
            wrong.push(format!("{times} faults only: {kind}"));
        }
    }
    let per_mille = 1000 * faults().count() / script.log.len().max(1);
    if seconds >= 60 && !(50..=150).contains(&per_mille) {
        wrong.push(format!("{per_mille} of 1000 token requests were disturbed"));
    }
}
