//! The torture test: the real program with misbehaving servers and a faulty disk, terminated every few seconds.
//!
//! 64 clients send bodies through 16 credentials. Each has its own grant, with access tokens that live for six
//! seconds: several hundred token requests per minute, a tenth of which gets a fault. Answers are lost, late,
//! truncated, compressed, sent with a wrong length, or replaced by a gateway's page. The disk hangs, fails and runs
//! full; locks are removed, the state directory is replaced by a copy, records are deleted, damaged and restored from
//! a backup. The program is killed and terminated.
//!
//! There are three parts. In the first part two programs share a state directory, and the authorization server accepts
//! a refresh token again within 30 s: only an unreadable success loses a grant. In the second part the server is
//! strict. Faults before the commit must not lose a grant (first half); no client can prevent losses after the commit
//! (second half). Each loss must have a cause, an alarm and a count, and must be recovered: half of the credentials by
//! a `bootstrap`, unnoticed by the clients, the others by a new seed from the operator. In the third part the proxy
//! runs in this process, and its clock is set forward and back.
//!
//! The seed, which is printed first, determines the disturbances. It does not determine what the program does at the
//! same time, so reproducing a failure may take several runs.
#![allow(clippy::print_stdout, reason = "this test prints a report")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod adversary;
mod checks;
mod clients;
mod disk;
mod faults;
mod rng;
mod test_bed;

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use bearerd_test_support::Rotation;

use adversary::Disturbances;
use checks::{History, check_clients, check_clock, check_density, check_losses};
use clients::{ClientStats, Clients};
use faults::{FaultKind, Phase};
use rng::Rng;
use test_bed::{TestBed, TestBedConfig};

/// The command line arguments.
struct Arguments {
    /// The total duration of all parts. Default: 3 minutes.
    length: Duration,
    /// The seed of all random decisions. Default: random.
    seed: u64,
    /// The number of concurrent clients. Default: 64.
    clients: usize,
    parts: Vec<Part>,
    /// The file for the log of the proxy. Default: none.
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

    /// Returns the duration of a part. The clock part is half as long as the others.
    fn length_of(&self, part: Part) -> Duration {
        let weight = |part: Part| if part == Part::Clock { 1 } else { 2 };
        self.length * weight(part) / self.parts.iter().map(|part| weight(*part)).sum::<u32>()
    }

    fn options(&self, rotation: Rotation) -> TestBedConfig<'_> {
        let rng = Rng::new(self.seed);
        TestBedConfig { rotation, programs: 1, has_clock: false, rng, log: self.log.as_deref() }
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
    let mut violations = Vec::new();
    for part in &arguments.parts {
        let length = arguments.length_of(*part);
        violations.extend(match part {
            Part::Forgiving => forgiving(&arguments, length).await,
            Part::Strict => strict(&arguments, length).await,
            Part::Clock => clock(&arguments, length).await,
        });
    }
    println!();
    for line in &violations {
        println!("VIOLATION: {line}");
    }
    if violations.is_empty() {
        println!("no violations");
        return ExitCode::SUCCESS;
    }
    println!(
        "to repeat: tests/torture/run --seed {} --minutes {}",
        arguments.seed,
        arguments.length.as_secs_f64() / 60.0
    );
    ExitCode::FAILURE
}

/// Runs a phase to the exit of all programs. Returns the disturbances, the client results, and the violations of the
/// whole part so far.
async fn run_phase(
    test_bed: &TestBed,
    arguments: &Arguments,
    phase: Phase,
    length: Duration,
) -> (Disturbances, ClientStats, Vec<String>) {
    let from = test_bed.script().log.len();
    let clients = Clients::start(test_bed, arguments.clients);
    let mut disturbances = adversary::disturb(test_bed, phase, length).await;
    let seen = clients.stop().await;
    test_bed.end_all().await;
    let mut violations = std::mem::take(&mut disturbances.violations);
    let history = History::of(test_bed);
    test_bed.script().print(from);
    disturbances.print(test_bed);
    history.print();
    check_losses(test_bed, &history, &disturbances, &mut violations);
    check_clients(test_bed, &seen, &disturbances.losses, &mut violations);
    history.check(&mut violations);
    (disturbances, seen, violations)
}

/// Two programs and a server with a grace period of 30 s. All faults, before and after the commit; kills at any
/// moment.
async fn forgiving(arguments: &Arguments, length: Duration) -> Vec<String> {
    println!("\n(a) two programs, a server with a grace period of 30 s, {length:?}");
    let options = TestBedConfig { programs: 2, ..arguments.options(test_bed::FORGIVING) };
    let test_bed = TestBed::set_up(options).await;
    let (disturbances, seen, mut violations) =
        run_phase(&test_bed, arguments, Phase::Forgiving, length).await;
    expect(
        &mut violations,
        test_bed.server.reuse_count() == 0,
        "a grant was lost despite the grace period",
    );
    expect(
        &mut violations,
        seen.answered > 0 && disturbances.kills > 0,
        "no disturbance or no answered request",
    );
    check_density(&test_bed, FaultKind::ALL, length, &mut violations);
    violations
}

/// A strict server. First half: only faults that lose no grant. Second half: all faults.
async fn strict(arguments: &Arguments, length: Duration) -> Vec<String> {
    println!("\n(b) a strict server, {length:?}");
    let test_bed = TestBed::set_up(arguments.options(test_bed::STRICT)).await;
    let half = length / 2;

    println!("  first half: faults and kills before the commit");
    let clients = Clients::start(&test_bed, arguments.clients);
    let mut before = adversary::disturb(&test_bed, Phase::BeforeCommit, half).await;
    let seen = clients.stop().await;
    let mut violations = std::mem::take(&mut before.violations);
    test_bed.script().print(0);
    before.print(&test_bed);
    check_clients(&test_bed, &seen, &before.losses, &mut violations);
    expect(&mut violations, before.losses.is_empty(), "a fault before the commit lost a grant");
    expect(
        &mut violations,
        seen.answered > 0 && before.kills > 0,
        "no disturbance or no answered request",
    );

    println!("  second half: faults and kills before and after the commit");
    let (after, _, mut also) = run_phase(&test_bed, arguments, Phase::Strict, half).await;
    violations.append(&mut also);
    expect(
        &mut violations,
        !after.losses.is_empty() && after.kills > 0,
        "no kill or no lost grant in the second half",
    );
    check_density(&test_bed, FaultKind::ALL, length, &mut violations);
    violations
}

/// The proxy in this process with an adjustable clock, and a server with a grace period.
async fn clock(arguments: &Arguments, length: Duration) -> Vec<String> {
    println!("\n(c) clock changes forward and back, {length:?}");
    if let Some(path) = &arguments.log {
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let said = tracing_subscriber::fmt().with_writer(Mutex::new(file)).with_ansi(false);
        said.with_max_level(tracing::Level::DEBUG).init();
    }
    let options = TestBedConfig { has_clock: true, ..arguments.options(test_bed::FORGIVING) };
    let test_bed = TestBed::set_up(options).await;
    let (disturbances, seen, mut violations) =
        run_phase(&test_bed, arguments, Phase::Lossless, length).await;
    check_clock(&test_bed, &disturbances, length, &mut violations);
    expect(&mut violations, disturbances.losses.is_empty(), "a clock change lost a grant");
    expect(
        &mut violations,
        seen.answered > 0 && disturbances.forwards + disturbances.backwards > 0,
        "no disturbance or no answered request",
    );
    let kinds = FaultKind::ALL.into_iter().filter(|kind| *kind != FaultKind::Garbage);
    check_density(&test_bed, kinds, length, &mut violations);
    violations
}

fn expect(violations: &mut Vec<String>, holds: bool, otherwise: &str) {
    if !holds {
        violations.push(otherwise.to_owned());
    }
}
