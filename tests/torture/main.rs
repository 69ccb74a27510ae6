//! The torture test: the real program between servers that misbehave, on a disk that does too, ended every few
//! seconds.
//!
//! 64 clients send bodies through 16 credentials, each with a grant of its own, whose access tokens live for
//! six seconds: some hundred token requests a minute, a tenth of which meets a fault. Answers are lost, late, cut,
//! compressed, miscounted or a gateway's page. The disk hangs, fails and is full; locks are removed, the state directory
//! is replaced by a copy, records are deleted, damaged and put back from a backup. The program is killed and told to
//! end.
//!
//! There are three parts. In the first two programs share a state directory, and the authorization server forgives a
//! refresh token that is presented again within 30 s: a grant ends only by a success that nobody can read. In the
//! second it is strict. There, what happens before it commits may cost nothing (first half); what
//! happens after it cannot be prevented by any client (second half). Each loss has to have its cause, its alarm and its
//! count, and has to be healed: half of the credentials by a `bootstrap`, unnoticed by the clients, the others by an
//! operator's new seed. In the third the proxy runs in this process, and its clock is set forward and back.
//!
//! What is done follows from the seed that is printed first. What the program does at the same time does not, so
//! a seed that has failed may have to be run more than once.
#![allow(clippy::print_stdout, reason = "figures are what this is for")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod account;
mod adversary;
mod clients;
mod dice;
mod disk;
mod faults;
mod stage;

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use bearerd_test_support::Rotation;

use account::{History, check_clients, check_clock, check_density, check_losses};
use adversary::Deeds;
use clients::{Clients, Seen};
use dice::Dice;
use faults::{Kind, Phase};
use stage::{Setting, Stage};

/// What the command line says.
struct Arguments {
    /// How long all parts last together. Default 3 minutes.
    length: Duration,
    /// What chance follows from. Another one each time by default.
    seed: u64,
    /// How many clients send at once. Default 64.
    clients: usize,
    parts: Vec<Part>,
    /// Where the log of the proxy is kept. Nowhere by default.
    log: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Forgiving,
    Strict,
    Clock,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut arguments = Self {
            length: Duration::from_secs(180),
            seed: RandomState::new().hash_one(0) % 1_000_000,
            clients: 64,
            parts: vec![Part::Forgiving, Part::Strict, Part::Clock],
            log: None,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--minutes" => {
                    let minutes: f64 = words.next()?.parse().ok()?;
                    arguments.length = Duration::try_from_secs_f64(60.0 * minutes).ok()?;
                }
                "--seed" => arguments.seed = words.next()?.parse().ok()?,
                "--clients" => arguments.clients = words.next()?.parse().ok()?,
                "--log" => arguments.log = Some(words.next()?.into()),
                "--only" => {
                    arguments.parts = match words.next()?.as_str() {
                        "forgiving" => vec![Part::Forgiving],
                        "strict" => vec![Part::Strict],
                        "clock" => vec![Part::Clock],
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
        Some(arguments)
    }

    /// How long this part lasts: the clock half as long as the others.
    fn length_of(&self, part: Part) -> Duration {
        let weight = |part: Part| if part == Part::Clock { 1 } else { 2 };
        self.length * weight(part) / self.parts.iter().map(|part| weight(*part)).sum::<u32>()
    }

    fn setting(&self, rotation: Rotation) -> Setting<'_> {
        let dice = Dice::new(self.seed);
        Setting { rotation, programs: 1, has_clock: false, dice, log: self.log.as_deref() }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        println!(
            "usage: tests/torture/run [--seed N] [--minutes M] [--clients N] \
             [--only forgiving|strict|clock] [--log FILE]"
        );
        return ExitCode::from(2);
    };
    println!("seed {}", arguments.seed);
    let mut wrong = Vec::new();
    for part in &arguments.parts {
        let length = arguments.length_of(*part);
        wrong.extend(match part {
            Part::Forgiving => forgiving(&arguments, length).await,
            Part::Strict => strict(&arguments, length).await,
            Part::Clock => clock(&arguments, length).await,
        });
    }
    println!();
    for line in &wrong {
        println!("NOT AS PROMISED: {line}");
    }
    if wrong.is_empty() {
        println!("everything as promised");
        return ExitCode::SUCCESS;
    }
    println!(
        "again: tests/torture/run --seed {} --minutes {}",
        arguments.seed,
        arguments.length.as_secs_f64() / 60.0
    );
    ExitCode::FAILURE
}

/// What clients see of a phase, and what of that and of everything before it is wrong. All programs have ended
/// after it.
async fn whole(
    stage: &Stage,
    arguments: &Arguments,
    phase: Phase,
    length: Duration,
) -> (Deeds, Seen, Vec<String>) {
    let from = stage.script().log.len();
    let clients = Clients::start(stage, arguments.clients);
    let mut deeds = adversary::disturb(stage, phase, length).await;
    let seen = clients.stop().await;
    stage.end_all().await;
    let mut wrong = std::mem::take(&mut deeds.wrong);
    let history = History::of(stage);
    stage.script().print(from);
    deeds.print(stage);
    history.print();
    check_losses(stage, &history, &deeds, &mut wrong);
    check_clients(stage, &seen, &deeds.losses, &mut wrong);
    history.check(&mut wrong);
    (deeds, seen, wrong)
}

/// Two programs, and a server with a grace of 30 s; all faults, before and after it commits; ends at any moment.
async fn forgiving(arguments: &Arguments, length: Duration) -> Vec<String> {
    println!("\n(a) a server that takes a refresh token again for 30 s, two programs, {length:?}");
    let setting = Setting { programs: 2, ..arguments.setting(stage::FORGIVING) };
    let stage = Stage::set(setting).await;
    let (deeds, seen, mut wrong) = whole(&stage, arguments, Phase::Forgiving, length).await;
    expect(&mut wrong, stage.server.reuse_count() == 0, "a grant was lost in spite of the grace");
    expect(&mut wrong, seen.answered > 0 && deeds.kills > 0, "nothing happened");
    check_density(&stage, Kind::ALL, length, &mut wrong);
    wrong
}

/// A strict server. First half: what costs nothing; second half: everything.
async fn strict(arguments: &Arguments, length: Duration) -> Vec<String> {
    println!("\n(b) a strict server, {length:?}");
    let stage = Stage::set(arguments.setting(stage::STRICT)).await;
    let half = length / 2;

    println!("  first half: faults and kills before it commits");
    let clients = Clients::start(&stage, arguments.clients);
    let mut before = adversary::disturb(&stage, Phase::BeforeCommit, half).await;
    let seen = clients.stop().await;
    let mut wrong = std::mem::take(&mut before.wrong);
    stage.script().print(0);
    before.print(&stage);
    check_clients(&stage, &seen, &before.losses, &mut wrong);
    expect(&mut wrong, before.losses.is_empty(), "what came before the commit has cost a grant");
    expect(&mut wrong, seen.answered > 0 && before.kills > 0, "nothing happened");

    println!("  second half: before and after it commits");
    let (after, _, mut also) = whole(&stage, arguments, Phase::Strict, half).await;
    wrong.append(&mut also);
    expect(&mut wrong, !after.losses.is_empty() && after.kills > 0, "nothing was lost");
    check_density(&stage, Kind::ALL, length, &mut wrong);
    wrong
}

/// The proxy in this process, with a clock that is set, and a server with a grace.
async fn clock(arguments: &Arguments, length: Duration) -> Vec<String> {
    println!("\n(c) a clock that is set forward and back, {length:?}");
    if let Some(path) = &arguments.log {
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let said = tracing_subscriber::fmt().with_writer(Mutex::new(file)).with_ansi(false);
        said.with_max_level(tracing::Level::DEBUG).init();
    }
    let setting = Setting { has_clock: true, ..arguments.setting(stage::FORGIVING) };
    let stage = Stage::set(setting).await;
    let (deeds, seen, mut wrong) = whole(&stage, arguments, Phase::Lossless, length).await;
    check_clock(&stage, &deeds, length, &mut wrong);
    expect(&mut wrong, deeds.losses.is_empty(), "a clock that was set has cost a grant");
    expect(
        &mut wrong,
        seen.answered > 0 && deeds.forwards + deeds.backwards > 0,
        "nothing happened",
    );
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Garbage);
    check_density(&stage, kinds, length, &mut wrong);
    wrong
}

fn expect(wrong: &mut Vec<String>, holds: bool, otherwise: &str) {
    if !holds {
        wrong.push(otherwise.to_owned());
    }
}
