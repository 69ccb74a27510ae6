//! The real program, as an operator starts, signals and stops it, or runs it to its end.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::RootCertStore;
use tokio::sync::watch;

use super::wire::{Reply, Wire, get, within};
use super::world::{World, client_through};

// ===== Running to its end =====

/// bearerd in a directory, with an environment that says nothing.
pub(crate) fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    for variable in ["BEARERD_CONFIG", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// Runs it to its end.
pub(crate) fn bearerd(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

// ===== Running until it is stopped =====

/// `bearerd run`. Dropping it kills it.
pub(crate) struct Program {
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
    pid: Pid,
    process: Process,
}

/// What threads find out about a child.
struct Process {
    /// Everything on standard error so far.
    log: watch::Receiver<String>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Program {
    /// Starts it on the configuration of a world, and waits until it listens.
    pub(crate) async fn start(world: &World) -> Self {
        Self::start_with(world.dir.path(), &[], &[]).await
    }

    /// Starts it in a directory, with more arguments and an environment, and waits until it listens.
    pub(crate) async fn start_with(
        dir: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = command(dir, &[&["run"], arguments].concat());
        command.envs(environment.iter().copied());
        Self::start_by(command).await
    }

    /// Starts it by a command that becomes bearerd, and waits until it listens.
    pub(crate) async fn start_by(mut command: Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let process = Process::watch(child);
        let mut program =
            Self { proxy: ([0; 4], 0).into(), admin: ([0; 4], 0).into(), pid, process };
        program.proxy = address_in(&program.logs("bearerd is listening").await);
        program.admin = address_in(&program.logs("probes are at").await);
        program
    }

    /// The first log line that holds `part`, as soon as it is whole.
    pub(crate) async fn logs(&self, part: &str) -> String {
        let mut log = self.process.log.clone();
        let seen = within(log.wait_for(|log| log.contains(part))).await;
        let seen = seen.unwrap_or_else(|_| panic!("it ended without {part:?}")).clone();
        seen.lines().find(|line| line.contains(part)).unwrap().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Its exit, and whatever was held in its way.
    pub(crate) async fn ends(&self) -> ExitStatus {
        let mut ended = self.process.ended.clone();
        let status = within(ended.wait_for(Option::is_some)).await.unwrap();
        status.unwrap()
    }

    /// Ends it in good order; everything that it has logged.
    pub(crate) async fn stop(self) -> String {
        self.signal(Signal::TERM);
        assert_eq!(self.ends().await.code(), Some(0), "the program did not end in good order");
        self.process.log.borrow().clone()
    }

    /// Ends it with signal 9, this instant.
    pub(crate) async fn kill(self) {
        self.signal(Signal::KILL);
        self.ends().await;
    }

    /// The processor time that its threads have used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = format!("/proc/{}/stat", self.pid.as_raw_nonzero());
        let stat = std::fs::read_to_string(stat).unwrap();
        // The 14th and 15th field, and the second may hold anything (proc_pid_stat(5)); in hundredths of a second.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2).map(|it| it.parse::<u64>().unwrap());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// An application that speaks plain http to it.
    pub(crate) fn client(&self) -> reqwest::Client {
        client_through(self.proxy, RootCertStore::empty())
    }

    /// One `GET` through it.
    pub(crate) async fn get(&self, url: &str) -> Reply {
        Wire::to_address(self.proxy).await.ask(&get(url)).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.process.ended.borrow().is_none() {
            // It may have ended just now.
            let _gone = kill_process(self.pid, Signal::KILL);
        }
    }
}

impl Process {
    fn watch(mut child: Child) -> Self {
        let (log, log_seen) = watch::channel(String::new());
        let (ended, end_seen) = watch::channel(None);
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                log.send_modify(|log| log.push_str(&line));
                line.clear();
            }
            // Everything is read before the end is published.
            let _nobody = lines.read_to_string(&mut line);
            ended.send_replace(child.wait().ok());
        });
        Self { log: log_seen, ended: end_seen }
    }
}

/// The address in a line of the log, in text or in JSON.
fn address_in(line: &str) -> SocketAddr {
    let (_, after) = line.split_once("address").unwrap_or_else(|| panic!("no address: {line}"));
    let address = after.trim_start_matches(['"', ':', '=']);
    let end = address.find(['"', ' ', ',']).unwrap_or(address.len());
    address[..end].trim().parse().unwrap_or_else(|error| panic!("{error}: {line}"))
}
