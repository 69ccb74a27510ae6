//! The torture test: the real program between servers that misbehave, killed every few seconds.
//!
//! `tests/torture/run` runs both parts, a minute each. In the first the authorization server forgives a
//! refresh token that is presented again within 30 s: the clients may see refused connections while the
//! proxy is down, and nothing else. In the second it is strict. There, what happens before it commits
//! may cost nothing; what happens after it cannot be healed by any client, and each case has to end as a
//! lost rotation with its own alarm, until an operator brings a new refresh token.
#![allow(clippy::print_stdout, reason = "figures are what this is for")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod adversary;
mod clients;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use clients::Clients;
use stage::Stage;

/// What the command line says.
struct Arguments {
    /// How long each part lasts. Default 60 s.
    seconds: u64,
    /// How many clients send at once. Default 64.
    clients: usize,
    forgiving: bool,
    strict: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut arguments = Self { seconds: 60, clients: 64, forgiving: true, strict: true };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seconds" => arguments.seconds = words.next()?.parse().ok()?,
                "--clients" => arguments.clients = words.next()?.parse().ok()?,
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
        println!("usage: tests/torture/run [--seconds N] [--clients N] [--only forgiving|strict]");
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
    let stage = Stage::set(stage::FORGIVING).await;
    let clients = Clients::start(&stage, arguments.clients);
    let length = Duration::from_secs(arguments.seconds);
    let deeds = adversary::at_any_moment(&stage, length).await;
    let seen = clients.stop().await;
    seen.print();
    deeds.print();
    stage.print();
    let mut wrong = seen.failures(false);
    expect(&mut wrong, stage.lost_rotations() == 0, "a rotation was lost");
    expect(&mut wrong, stage.server.reuse_count() == 0, "a refresh token was used after its grace");
    expect(&mut wrong, stage.goes_forward(), "an older refresh token was sent after a newer one");
    expect(&mut wrong, seen.answered > 0 && deeds.kills > 0, "nothing happened");
    wrong
}

/// A strict server. First half: faults and kills before it commits; second half: after it.
async fn strict(arguments: &Arguments) -> Vec<String> {
    println!("\n(b) a strict server, {} s", arguments.seconds);
    let stage = Stage::set(bearerd_test_support::Rotation::STRICT).await;
    let clients = Clients::start(&stage, arguments.clients);
    let half = Duration::from_secs(arguments.seconds) / 2;
    let before = adversary::before_the_commit(&stage, half).await;
    let (reused, lost) = (stage.server.reuse_count(), stage.lost_rotations());
    println!("    before it commits");
    before.print();
    println!("      refresh tokens used twice           {reused}");
    let after = adversary::after_the_commit(&stage, half).await;
    let seen = clients.stop().await;
    println!("    after it has committed");
    after.print();
    println!("      lost rotations, each with an alarm  {}", stage.lost_rotations());
    println!("      refresh tokens used twice           {}", stage.server.reuse_count() - reused);
    seen.print();
    stage.print();
    let mut wrong = seen.failures(true);
    wrong.extend(after.unaccounted.iter().cloned());
    expect(&mut wrong, (reused, lost) == (0, 0), "a fault before the commit has cost a grant");
    let cases = after.faults + after.kills;
    let reuses = stage.server.reuse_count() - reused;
    expect(&mut wrong, cases > 0 && stage.lost_rotations() == cases, "a loss without its alarm");
    expect(&mut wrong, reuses == cases, "a lost answer was asked for again more or less than once");
    expect(&mut wrong, stage.goes_forward(), "an older refresh token was sent after a newer one");
    wrong
}

fn expect(wrong: &mut Vec<String>, holds: bool, otherwise: &str) {
    if !holds {
        wrong.push(otherwise.to_owned());
    }
}
