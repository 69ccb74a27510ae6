//! The torture test: the real program between servers that misbehave, killed every few seconds.
//!
//! 64 clients send bodies through 16 credentials, each with a grant of its own, whose access tokens live for
//! four seconds: some hundred token requests a minute, a tenth of which meets a fault.
//!
//! `tests/torture/run` runs both parts, a minute each. In the first the authorization server forgives a
//! refresh token that is presented again within 30 s: the clients may see refused connections while the
//! proxy is down, and nothing else. In the second it is strict. There, what happens before it commits
//! may cost nothing (first half); what happens after it cannot be prevented by any client (second half). Each
//! such loss has to have its cause, its alarm and its count, and has to be healed: half of the credentials by a
//! `bootstrap`, unnoticed by the clients, the others by an operator's new seed.
#![allow(clippy::print_stdout, reason = "figures are what this is for")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod account;
mod adversary;
mod clients;
mod faults;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use account::{History, check_clients, check_density, check_losses};
use clients::Clients;
use faults::Phase;
use stage::Stage;

/// What the command line says.
struct Arguments {
    /// How long each part lasts. Default 60 s.
    seconds: u64,
    /// How many clients send at once. Default 64.
    clients: usize,
    forgiving: bool,
    strict: bool,
    /// Where the log of the proxy is kept. Nowhere by default.
    log: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut arguments =
            Self { seconds: 60, clients: 64, forgiving: true, strict: true, log: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seconds" => arguments.seconds = words.next()?.parse().ok()?,
                "--clients" => arguments.clients = words.next()?.parse().ok()?,
                "--log" => arguments.log = Some(words.next()?.into()),
                "--only" => match words.next()?.as_str() {
                    "forgiving" => arguments.strict = false,
                    "strict" => arguments.forgiving = false,
                    _ => return None,
                },
                _ => return None,
            }
        }
        Some(arguments)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        println!(
            "usage: tests/torture/run [--seconds N] [--clients N] [--only forgiving|strict] [--log FILE]"
        );
        return ExitCode::from(2);
    };
    let mut wrong = Vec::new();
    if arguments.forgiving {
        wrong.extend(forgiving(&arguments).await);
    }
    if arguments.strict {
        wrong.extend(strict(&arguments).await);
    }
    println!();
    for line in &wrong {
        println!("NOT AS PROMISED: {line}");
    }
    if wrong.is_empty() {
        println!("everything as promised");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

/// A server with a grace of 30 s; faults on a tenth of all token requests, before and after it commits;
/// kills at any moment.
async fn forgiving(arguments: &Arguments) -> Vec<String> {
    println!("\n(a) a server that takes a refresh token again for 30 s, {} s", arguments.seconds);
    let stage = Stage::set(stage::FORGIVING, arguments.log.as_deref()).await;
    let clients = Clients::start(&stage, arguments.clients);
    let length = Duration::from_secs(arguments.seconds);
    let mut deeds = adversary::disturb(&stage, Phase::Forgiving, length).await;
    let seen = clients.stop().await;
    stage.end().await;
    let mut wrong = std::mem::take(&mut deeds.wrong);
    let history = History::of(&stage);
    stage.script().print(0);
    deeds.print();
    history.print();
    check_losses(&stage, &history, &deeds, &mut wrong);
    check_clients(&seen, &deeds.losses, &mut wrong);
    history.check(&mut wrong);
    expect(&mut wrong, stage.server.reuse_count() == 0, "a grant was lost");
    expect(&mut wrong, seen.answered > 0 && deeds.kills > 0, "nothing happened");
    check_density(&stage, arguments.seconds, &mut wrong);
    wrong
}

/// A strict server. First half: faults and kills before it commits; second half: before and after it.
async fn strict(arguments: &Arguments) -> Vec<String> {
    println!("\n(b) a strict server, {} s", arguments.seconds);
    let stage = Stage::set(stage::STRICT, arguments.log.as_deref()).await;
    let half = Duration::from_secs(arguments.seconds) / 2;

    println!("  first half: faults and kills before it commits");
    let clients = Clients::start(&stage, arguments.clients);
    let mut before = adversary::disturb(&stage, Phase::BeforeCommit, half).await;
    let seen = clients.stop().await;
    let mut wrong = std::mem::take(&mut before.wrong);
    stage.script().print(0);
    before.print();
    check_clients(&seen, &before.losses, &mut wrong);
    expect(&mut wrong, before.losses.is_empty(), "a fault before the commit has cost a grant");
    expect(&mut wrong, seen.answered > 0 && before.kills > 0, "nothing happened");

    println!("  second half: before and after it commits");
    let from = stage.script().log.len();
    let clients = Clients::start(&stage, arguments.clients);
    let mut after = adversary::disturb(&stage, Phase::Strict, half).await;
    let seen = clients.stop().await;
    stage.end().await;
    wrong.append(&mut after.wrong);
    let history = History::of(&stage);
    stage.script().print(from);
    after.print();
    history.print();
    check_losses(&stage, &history, &after, &mut wrong);
    check_clients(&seen, &after.losses, &mut wrong);
    history.check(&mut wrong);
    expect(&mut wrong, !after.losses.is_empty() && after.kills > 0, "nothing was lost");
    check_density(&stage, arguments.seconds, &mut wrong);
    wrong
}

fn expect(wrong: &mut Vec<String>, holds: bool, otherwise: &str) {
    if !holds {
        wrong.push(otherwise.to_owned());
    }
}
