//! Compares bearerd with alternative proxies on this machine: `cargo bench --bench compare`.
//!
//! A closed-loop client sends requests through one proxy at a time to an origin server that echoes
//! the received `Authorization`, and checks every answer. The main metric is the CPU time of the
//! proxy processes per request: client, origin server and proxy share the machine, so requests per
//! second and latency also depend on how they share it.
//!
//! Each proxy runs as a new process in each round. Disturbances of the machine affect all proxies of
//! a round, and ratios compare measurements of the same round. The origin server and the bare hyper
//! proxy are this program in other processes ([`Role`]).
//!
//! nginx and HAProxy run as reverse proxies for the one origin server with a fixed field value: they
//! do not process CONNECT, resolve names or request tokens.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

mod bare_proxy;
mod cpu;
mod load;
mod origin_server;
mod peer;
mod report;
mod test_bed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use load::Load;
use peer::Kind;
use report::{Machine, Measurement, Report, Row, ScenarioReport};
use test_bed::{Scenario, TestBed};

/// Compares bearerd with other proxies.
#[derive(Parser)]
#[command(name = "compare")]
struct Options {
    /// The number of rounds. Each round measures every proxy once. Default: 5.
    #[arg(long)]
    rounds: Option<usize>,
    /// The length of each measurement in seconds. Default: 3.
    #[arg(long)]
    seconds: Option<f64>,
    /// The number of concurrent client connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The proxies to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    peers: Vec<Kind>,
    /// How the proxy reaches the origin server.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Scenario::ALL)]
    scenarios: Vec<Scenario>,
    /// The output file. Default: bench/compare.json in the target directory.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Set by `cargo bench`. Without it, each measurement runs once, briefly, and nothing is written.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// The roles of this program in its child processes.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    OriginServer(origin_server::Options),
    #[command(hide = true)]
    BareProxy(bare_proxy::Options),
}

/// The number and length of the measurements.
struct Plan {
    rounds: usize,
    warm_up: Duration,
    window: Duration,
    connections: usize,
}

impl Plan {
    fn of(options: &Options) -> anyhow::Result<Self> {
        let (rounds, seconds, warm_up) = if options.bench { (5, 3.0, 1.0) } else { (1, 0.2, 0.1) };
        let plan = Self {
            rounds: options.rounds.unwrap_or(rounds),
            warm_up: Duration::from_secs_f64(warm_up),
            window: Duration::try_from_secs_f64(options.seconds.unwrap_or(seconds))?,
            connections: options.connections,
        };
        if plan.rounds == 0 || plan.window.is_zero() || plan.connections == 0 {
            bail!("--rounds, --seconds and --connections must be greater than 0");
        }
        Ok(plan)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    match &options.role {
        Some(Role::OriginServer(options)) => origin_server::run(options)?,
        Some(Role::BareProxy(options)) => bare_proxy::run(options)?,
        None => return compare(&options),
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(options: &Options) -> anyhow::Result<ExitCode> {
    let plan = Plan::of(options)?;
    let test_bed = TestBed::set_up()?;
    let mut peers = Vec::new();
    for kind in &options.peers {
        match kind.find() {
            Some(program) => peers.push((*kind, program)),
            None => eprintln!("{kind} is not installed; skipped"),
        }
    }
    let mut report = Report {
        machine: Machine::here(),
        rounds: plan.rounds,
        seconds: plan.window.as_secs_f64(),
        connections: plan.connections,
        peer_threads: peer::THREADS,
        scenarios: Vec::new(),
    };
    for scenario in &options.scenarios {
        let measured = measure(&test_bed, *scenario, &peers, &plan)?;
        println!("{measured}");
        report.scenarios.push(measured);
    }
    if options.bench || options.json.is_some() {
        let path = options.json.clone().unwrap_or_else(default_json);
        report.write(&path).with_context(|| format!("cannot write {}", path.display()))?;
        println!("All numbers: {}", path.display());
    }
    match report.wrong_answers() {
        0 => Ok(ExitCode::SUCCESS),
        wrong => {
            eprintln!("{wrong} answers were wrong: see above");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Runs all rounds of one scenario.
fn measure(
    test_bed: &TestBed,
    scenario: Scenario,
    peers: &[(Kind, PathBuf)],
    plan: &Plan,
) -> anyhow::Result<ScenarioReport> {
    let mut rows: Vec<Row> = peers.iter().map(|(kind, program)| Row::new(*kind, program)).collect();
    for round in 1..=plan.rounds {
        for ((kind, program), row) in peers.iter().zip(&mut rows) {
            let measurement = measure_once(test_bed, scenario, *kind, program, plan)
                .with_context(|| format!("{kind}, scenario {scenario}"))?;
            eprintln!(
                "{scenario} {round}/{} {kind}: {:.1} µs, {:.0} requests/s",
                plan.rounds, measurement.cpu_us, measurement.per_second
            );
            row.rounds.push(measurement);
        }
    }
    Ok(ScenarioReport { scenario, rows })
}

/// Starts one proxy, measures it and stops it.
fn measure_once(
    test_bed: &TestBed,
    scenario: Scenario,
    kind: Kind,
    program: &Path,
    plan: &Plan,
) -> anyhow::Result<Measurement> {
    let peer = kind.start(program, test_bed, scenario)?;
    let load = Load::new(peer.address(), &test_bed.authority(scenario), plan.connections)?;
    peer.await_first_answer(&load)?;
    let outcome = load.run(plan.warm_up, plan.window, || cpu::of_tree(peer.id()))?;
    if let Some(problem) = &outcome.problem {
        eprintln!("{kind}: {} wrong answers, the first: {problem}", outcome.wrong);
    }
    Measurement::of(outcome).context("not one answer was right")
}

fn default_json() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch).join("bench").join("compare.json")
}
