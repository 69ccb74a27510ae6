//! Checks that every loss, retry and client failure has an allowed cause.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

use super::adversary::{Disturbances, LostGrant, LostToken};
use super::clients::{ClientStats, Failure};
use super::faults::{FaultKind, GrantEffect, LoggedRequest};
use super::test_bed::{CREDENTIALS, Damage, DamageKind, End, ProcessEnd, Recovery, TestBed, name};

/// How long after a recovery a client may still receive a failure that was decided before it.
const REPORT_DELAY: Duration = Duration::from_millis(500);
/// The same with two programs: the other one polls the store every 1.5 s.
const REPORT_DELAY_SHARED: Duration = Duration::from_millis(2500);
/// The time within which an answer is stored on a working disk, even on a busy machine.
const STORED: Duration = Duration::from_secs(2);
/// The time within which an answer is stored after the disk has recovered.
const STORED_LATE: Duration = Duration::from_secs(4);
/// After this many presentations without an answer, a refresh token is presented at most once per [`RETRY_INTERVAL`].
const UNANSWERED_LIMIT: usize = 3;
/// The minimum interval after [`UNANSWERED_LIMIT`] unanswered presentations.
const RETRY_INTERVAL: Duration = Duration::from_secs(54);

/// The token requests of each credential in order, and the disturbances that may excuse retries.
pub(crate) struct History {
    presented: Vec<Vec<LoggedRequest>>,
    ends: Vec<ProcessEnd>,
    damages: Vec<Damage>,
    programs: usize,
}

impl History {
    pub(crate) fn of(test_bed: &TestBed) -> Self {
        let mut presented = vec![Vec::new(); CREDENTIALS];
        for one in &test_bed.script().log {
            presented[one.credential].push(one.clone());
        }
        let (ends, damages) = (test_bed.ends(), test_bed.damages());
        Self { presented, ends, damages, programs: test_bed.proxies.len() }
    }

    /// Prints the number of distinct refresh tokens, and of repeated presentations.
    pub(crate) fn print(&self) {
        let tokens = |one: &LoggedRequest| one.refresh_token.clone();
        let sent: Vec<_> = self.presented.iter().flatten().filter_map(tokens).collect();
        let different: BTreeSet<_> = sent.iter().collect();
        println!("    refresh tokens presented  {:>5}", different.len());
        println!("      presented again         {:>5}", sent.len() - different.len());
    }

    /// Checks that a refresh token is presented again only if its previous presentation produced no stored result,
    /// never after a newer one, and at a bounded rate.
    pub(crate) fn check(&self, violations: &mut Vec<String>) {
        for (credential, presented) in self.presented.iter().enumerate() {
            let name = name(credential);
            let mut seen: HashMap<&String, (&LoggedRequest, usize)> = HashMap::new();
            let mut newest = None;
            for one in presented {
                let Some(token) = &one.refresh_token else { continue };
                let is_silent = one.held || one.fault.is_some_and(|fault| fault.is_silent());
                let mut silent = usize::from(is_silent);
                if let Some((before, times)) = seen.get(token) {
                    let excuse = self.may_be_undone(before, one.at);
                    if newest != Some(token) && !excuse {
                        violations.push(format!(
                            "{name}: presented an older refresh token after a newer one"
                        ));
                    }
                    let fault = before.fault.is_some_and(|fault| fault.allows_retry());
                    if !fault && !before.held && !excuse {
                        let what = before
                            .fault
                            .map_or("an intact answer".to_owned(), |it| format!("{it:?}"));
                        violations
                            .push(format!("{name}: presented a refresh token again after {what}"));
                    }
                    if *times >= UNANSWERED_LIMIT && one.at - before.at < RETRY_INTERVAL {
                        violations.push(format!(
                            "{name}: presented a refresh token for the {}th time",
                            times + 1
                        ));
                    }
                    silent = if is_silent { times + 1 } else { 0 };
                }
                seen.insert(token, (one, silent));
                newest = Some(token);
            }
        }
    }

    /// Returns true if the result of `one` may be lost by `then`: its process was killed before storing it, or a
    /// backup was restored under several programs.
    fn may_be_undone(&self, one: &LoggedRequest, then: Instant) -> bool {
        let mut stored = one.at + one.takes + STORED;
        let mut disk_failed = false;
        for damage in self.damages.iter().filter(|damage| damage.kind == DamageKind::Disk) {
            if damage.span.start < stored && one.at < damage.span.end {
                stored = stored.max(damage.span.end + STORED_LATE);
                disk_failed = true;
            }
        }
        let ended = self.ends.iter().any(|end| {
            // A request sent by a terminating process may arrive while it terminates.
            let in_time = end.span.start < stored && one.at < end.span.end && end.span.start < then;
            in_time && (end.how == End::Kill || disk_failed)
        });
        let restored = self.programs > 1
            && self.damages.iter().any(|damage| {
                damage.kind == DamageKind::Backup(one.credential)
                    && one.at < damage.span.end
                    && (damage.span.start..damage.span.end + STORED).contains(&then)
            });
        ended || restored
    }

    /// Returns true if the answer to `lost` was withheld, or if the proxy was killed before storing it.
    fn has_cause(&self, credential: usize, lost: &LostToken) -> bool {
        let presented = self.presented[credential].iter();
        let of_it =
            |one: &&LoggedRequest| one.refresh_token.as_deref() == Some(&lost.refresh_token);
        let presented: Vec<_> = presented.filter(of_it).filter(|one| one.at <= lost.at).collect();
        if !lost.was_refused {
            return true;
        }
        // The last presentation is the one that revealed the loss.
        let Some((_, before)) = presented.split_last() else { return false };
        before.iter().any(|one| {
            one.fault.is_some_and(|fault| fault.effect == GrantEffect::KeptBack)
                || self.may_be_undone(one, lost.at)
        })
    }

    /// Returns true if the loss was certainly noticed: the unreadable answer reached a live process.
    fn is_certain(&self, credential: usize, lost: &LostToken) -> bool {
        let is_it = |one: &&LoggedRequest| {
            one.at == lost.at && one.refresh_token.as_deref() == Some(&lost.refresh_token)
        };
        let one = self.presented[credential].iter().find(is_it);
        lost.was_refused || one.is_none_or(|one| !self.may_be_undone(one, one.at + STORED_LATE * 3))
    }
}

/// Checks that every lost grant has one alarm, a count, a recovery and a cause. Call it after all programs have
/// exited.
pub(crate) fn check_losses(
    test_bed: &TestBed,
    history: &History,
    disturbances: &Disturbances,
    violations: &mut Vec<String>,
) {
    let runs = test_bed.runs();
    let counted = runs.iter().map(|run| run.counted).sum();
    for run in &runs {
        if run.counted < run.before_counted || run.counted > run.losses {
            violations.push(format!(
                "bearerd_lost_rotations_total was {}, but the log had {} losses before and {} after",
                run.counted, run.before_counted, run.losses
            ));
        }
    }
    // If a kill prevents an alarm from being stored, the next process raises it again.
    let alarms: BTreeSet<_> = runs.iter().flat_map(|run| run.alarms.clone()).collect();
    for credential in 0..CREDENTIALS {
        let raised = alarms.iter().filter(|alarm| alarm.0 == name(credential)).count();
        let losses = || disturbances.losses.iter().filter(|loss| loss.credential == credential);
        let is_certain =
            |loss: &&LostGrant| loss.tokens.iter().any(|lost| history.is_certain(credential, lost));
        let (certain, all) = (losses().filter(is_certain).count(), losses().count());
        if test_bed.clock.is_none() && !(certain..=all).contains(&raised) {
            violations.push(format!(
                "{}: {certain} to {all} grants lost, {raised} alarms",
                name(credential)
            ));
        }
    }
    for loss in &disturbances.losses {
        if !loss.tokens.iter().all(|lost| history.has_cause(loss.credential, lost)) {
            violations.push(format!("{}: a grant was lost without a cause", name(loss.credential)));
        }
        if loss.ended.is_none() {
            violations.push(format!("{}: a lost grant was not recovered", name(loss.credential)));
        }
    }
    if !disturbances.losses.is_empty() || !alarms.is_empty() {
        print_losses(&disturbances.losses, &alarms, counted);
    }
}

fn print_losses(losses: &[LostGrant], alarms: &BTreeSet<(String, u64)>, counted: usize) {
    println!("    lost rotations            {:>5}   alarms   recovered  slowest, by", losses.len());
    for recovery in Recovery::ALL {
        let of = |credential: usize| Recovery::of(credential) == recovery;
        let healed: Vec<_> = losses
            .iter()
            .filter(|loss| of(loss.credential))
            .filter_map(|loss| Some(loss.ended? - loss.began))
            .collect();
        let lost = losses.iter().filter(|loss| of(loss.credential)).count();
        let is_of = |name: &String| name[1..].parse().is_ok_and(of);
        let alarms = alarms.iter().filter(|alarm| is_of(&alarm.0)).count();
        let slowest = healed.iter().max().copied().unwrap_or_default();
        let by = match recovery {
            Recovery::Seed => "a new seed",
            Recovery::Password => "bootstrap: password",
            Recovery::ClientCredentials => "bootstrap: client_credentials",
        };
        println!(
            "                              {lost:>5}    {alarms:>5}    {:>8}   {slowest:>7.1?}   {by}",
            healed.len()
        );
    }
    println!("      counted by bearerd_lost_rotations_total before the exits: {counted}");
}

/// Checks client failures. Clients may see a loss only if an operator has to provide the new seed.
pub(crate) fn check_clients(
    test_bed: &TestBed,
    seen: &ClientStats,
    losses: &[LostGrant],
    violations: &mut Vec<String>,
) {
    let report_delay = if test_bed.proxies.len() > 1 { REPORT_DELAY_SHARED } else { REPORT_DELAY };
    let mut unexcused: BTreeMap<(usize, &str), Vec<&Failure>> = BTreeMap::new();
    let (mut excused, mut others) = (0, 0);
    for failure in &seen.failed {
        let during = |loss: &&LostGrant| {
            loss.credential == failure.credential
                && failure.ended >= loss.began
                && loss.ended.is_none_or(|ended| failure.began <= ended + report_delay)
        };
        let is_lost = Recovery::of(failure.credential) == Recovery::Seed
            && losses.iter().find(during).is_some();
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
    println!("      failed before the new seed          {excused}");
    println!("      failed otherwise                    {others}");
    for ((credential, what), failures) in unexcused {
        let at =
            |time: Instant| humantime::format_rfc3339_millis(SystemTime::now() - time.elapsed());
        let first = failures.iter().min_by_key(|failure| failure.ended).unwrap();
        let last = failures.iter().max_by_key(|failure| failure.ended).unwrap();
        let (name, times) = (name(credential), failures.len());
        let took = first.ended - first.began;
        let (first, last) = (at(first.ended), at(last.ended));
        violations
            .push(format!("{name}: {times} times from {first} (after {took:?}) to {last}: {what}"));
    }
}

/// Checks that a run of at least two minutes had enough faults of each kind.
pub(crate) fn check_density(
    test_bed: &TestBed,
    kinds: impl IntoIterator<Item = FaultKind>,
    length: Duration,
    violations: &mut Vec<String>,
) {
    let script = test_bed.script();
    let faults = || script.log.iter().filter_map(|one| one.fault);
    if length < Duration::from_secs(120) {
        return;
    }
    for kind in kinds {
        let times = faults().filter(|fault| fault.kind == kind).count();
        if times < length.as_secs() as usize / 80 {
            violations.push(format!("only {times} faults of kind: {kind}"));
        }
    }
    let per_mille = 1000 * faults().count() / script.log.len().max(1);
    if !(50..=150).contains(&per_mille) {
        violations
            .push(format!("{per_mille} of 1000 token requests were disturbed, expected 50 to 150"));
    }
}

/// Checks that each clock change causes at most one token request per credential.
pub(crate) fn check_clock(
    test_bed: &TestBed,
    disturbances: &Disturbances,
    length: Duration,
    violations: &mut Vec<String>,
) {
    let script = test_bed.script();
    let faults = script.log.iter().filter(|one| one.fault.is_some()).count();
    let undisturbed = length.as_secs() as usize * CREDENTIALS / 2;
    let most =
        undisturbed + disturbances.forwards * CREDENTIALS + disturbances.revoked + 3 * faults;
    if script.log.len() > most {
        violations.push(format!("{} token requests, expected at most {most}", script.log.len()));
    }
}
