//! The servers, the configuration, and the programs that are terminated and restarted.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bearerd::app::App;
use bearerd::clock::Clock;
use bearerd::settings::{Environment, Settings};
use bearerd_test_support::{
    AuthorizationServer, AuthorizationServerConfig, ExpiresIn, OnReuse, OriginConfig, OriginServer,
    Rotation,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::disk::Disk;
use super::faults::Script;
use super::rng::Rng;

pub(crate) const FORGIVING: Rotation =
    Rotation::Rotate { grace: Duration::from_secs(30), on_reuse: OnReuse::RevokeFamily };

pub(crate) const STRICT: Rotation = Rotation::STRICT;

/// The number of credentials. Each has its own grant, token URL and API path.
pub(crate) const CREDENTIALS: usize = 16;

/// The lifetime of access tokens. They are replaced after about half of it.
const LIFETIME: Duration = Duration::from_secs(6);

/// The timeout of a token request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(6);

pub(crate) fn name(credential: usize) -> String {
    format!("c{credential:02}")
}

/// How a lost grant is recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recovery {
    /// An operator writes a new seed to the file.
    Seed,
    /// A `bootstrap` that returns a refresh token.
    Password,
    /// A `bootstrap` that returns access tokens only.
    ClientCredentials,
}

impl Recovery {
    pub(crate) const ALL: [Self; 3] = [Self::Seed, Self::Password, Self::ClientCredentials];

    pub(crate) fn of(credential: usize) -> Self {
        match credential % 4 {
            1 => Self::Password,
            3 => Self::ClientCredentials,
            _ => Self::Seed,
        }
    }

    fn configuration(self) -> &'static str {
        match self {
            Self::Seed => "",
            Self::Password => {
                "bootstrap = { grant = \"password\", username = \"svc\", password = { file = \"secret\" } }\n"
            }
            Self::ClientCredentials => "bootstrap = { grant = \"client_credentials\" }\n",
        }
    }
}

/// A lost rotation in the log: the credential and the lost generation.
pub(crate) type Alarm = (String, u64);

/// One process from its start to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessRun {
    /// The losses in its log, whether it caused or found them.
    pub(crate) alarms: BTreeSet<Alarm>,
    /// The number of its own losses in its log.
    pub(crate) losses: usize,
    /// The number of its own losses logged before the metrics were read.
    pub(crate) before_counted: usize,
    /// `bearerd_lost_rotations_total` shortly before its exit.
    pub(crate) counted: usize,
}

/// How a process is terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `kill -9`.
    Kill,
    /// SIGTERM, for a graceful shutdown.
    Term,
}

/// The exit of a process. The span ends when no more of its requests can arrive.
#[derive(Clone, Debug)]
pub(crate) struct ProcessEnd {
    pub(crate) how: End,
    pub(crate) span: Range<Instant>,
}

/// How stored data was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DamageKind {
    /// A disk fault.
    Disk,
    /// The locks were removed.
    Locks,
    /// The directory was replaced by a copy.
    Directory,
    /// The record of this credential was deleted or damaged.
    Record(usize),
    /// The record of this credential was restored from a backup.
    Backup(usize),
}

/// One damage and its time span.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) kind: DamageKind,
    pub(crate) span: Range<Instant>,
}

/// A running process.
struct Program {
    child: Child,
    admin: SocketAddr,
    log: JoinHandle<()>,
    said: Arc<Mutex<LogSummary>>,
}

#[derive(Clone, Debug, Default)]
struct LogSummary {
    alarms: BTreeSet<Alarm>,
    losses: usize,
}

enum Runner {
    Program(Program),
    App(Box<App>),
}

/// A proxy that is terminated and restarted.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Incremented when the proxy goes down and when it is up again: even while up, odd while down.
    pub(crate) epoch: Arc<AtomicUsize>,
    runner: Mutex<Option<Runner>>,
}

/// The servers, proxies and files of a part: everything except the clients.
pub(crate) struct TestBed {
    pub(crate) server: AuthorizationServer,
    pub(crate) origin: OriginServer,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) disk: Disk,
    /// The clock of the proxy, if it runs in this process.
    pub(crate) clock: Option<Clock>,
    /// Serializes kills and tampering. The holder keeps it until the damage is repaired.
    pub(crate) tampering: tokio::sync::Mutex<()>,
    pub(crate) rng: Rng,
    script: Arc<Mutex<Script>>,
    runs: Mutex<Vec<ProcessRun>>,
    ends: Mutex<Vec<ProcessEnd>>,
    damages: Mutex<Vec<Damage>>,
    dir: TempDir,
    /// The file for the log of the programs, if any.
    log: Option<Arc<File>>,
}

/// The configuration of a test bed.
pub(crate) struct TestBedConfig<'a> {
    pub(crate) rotation: Rotation,
    /// The number of programs that share one state directory.
    pub(crate) programs: usize,
    /// True to run one proxy in this process, with an adjustable clock, instead of programs.
    pub(crate) has_clock: bool,
    pub(crate) rng: Rng,
    pub(crate) log: Option<&'a Path>,
}

impl TestBed {
    pub(crate) async fn set_up(options: TestBedConfig<'_>) -> Self {
        let mut config = AuthorizationServerConfig {
            token_path: "/token/*".to_owned(),
            rotation: options.rotation,
            expires_in: ExpiresIn::Seconds(LIFETIME.as_secs()),
            access_token_lifetime: LIFETIME,
            ..AuthorizationServerConfig::default()
        };
        config.resource_owner = Some(("svc".to_owned(), config.client_secret.clone()));
        let server = AuthorizationServer::start(config.clone()).await;
        let origin = OriginServer::start(OriginConfig {
            tokens: Some(server.tokens()),
            keep_bodies: false,
            ..OriginConfig::default()
        })
        .await;
        let script = Arc::new(Mutex::new(Script::new(&options.rng)));
        let deciding = Arc::clone(&script);
        server.decide_by(move |request| deciding.lock().unwrap().decide(request));
        let dir = tempfile::tempdir().unwrap();
        let test_bed = Self {
            server,
            origin,
            proxies: (0..options.programs).map(|_| Proxy::new()).collect(),
            disk: Disk::new(dir.path()),
            clock: options.has_clock.then(Clock::adjustable),
            tampering: tokio::sync::Mutex::default(),
            rng: options.rng,
            script,
            runs: Mutex::default(),
            ends: Mutex::default(),
            damages: Mutex::default(),
            dir,
            log: options.log.map(|path| {
                Arc::new(OpenOptions::new().create(true).append(true).open(path).unwrap())
            }),
        };
        test_bed.configure(&config);
        for proxy in &test_bed.proxies {
            test_bed.start(proxy).await;
        }
        test_bed
    }

    fn configure(&self, config: &AuthorizationServerConfig) {
        write_privately(&self.dir.path().join("secret"), config.client_secret.as_bytes());
        let mut text = format!(
            "[proxy]\nlisten = \"{}\"\nthreads = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [log]\nformat = \"json\"\n",
            self.proxies[0].address,
        );
        for credential in 0..CREDENTIALS {
            let name = name(credential);
            let seed = self.server.current_refresh_token_of(&name);
            write_privately(&self.seed(credential), seed.as_bytes());
            text += &format!(
                "[credential.{name}]\nhosts = [\"{}\"]\npaths = [\"/{name}/\"]\nallow_http = true\n\
                 token_url = \"{}\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n\
                 refresh_token = {{ file = \"seed-{name}\" }}\ntimeout = \"{}s\"\n{}",
                self.origin.authority(),
                self.server.token_url().replace('*', &name),
                config.client_id,
                TIMEOUT.as_secs(),
                Recovery::of(credential).configuration(),
            );
        }
        std::fs::write(self.dir.path().join("proxy.toml"), text).unwrap();
    }

    fn seed(&self, credential: usize) -> PathBuf {
        self.dir.path().join(format!("seed-{}", name(credential)))
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    async fn start(&self, proxy: &Proxy) {
        let runner = match &self.clock {
            Some(clock) => {
                let text = std::fs::read_to_string(self.dir.path().join("proxy.toml")).unwrap();
                let environment = Environment::of_process();
                let settings =
                    Settings::from_text("proxy.toml", self.dir.path(), &text, &environment)
                        .unwrap_or_else(|problems| panic!("{}", problems.render(false)));
                Runner::App(Box::new(App::start(settings, clock.clone()).await.unwrap()))
            }
            None => Runner::Program(self.start_program(proxy).await),
        };
        *proxy.runner.lock().unwrap() = Some(runner);
    }

    async fn start_program(&self, proxy: &Proxy) -> Program {
        let mut child = self
            .disk
            .command(env!("CARGO_BIN_EXE_bearerd"))
            .args(["run", "--listen", &proxy.address.to_string(), "--config"])
            .arg(self.dir.path().join("proxy.toml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::<Mutex<LogSummary>>::default();
        let ((admin_said, mut admin), heard) = (watch::channel(None), Arc::clone(&said));
        let (listening, mut listens) = watch::channel(false);
        let kept = self.log.clone();
        let log = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(mut kept) = kept.as_deref() {
                    writeln!(kept, "{line}").unwrap();
                }
                let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
                match said["message"].as_str().unwrap_or_default() {
                    "bearerd is listening" => {
                        listening.send_replace(true);
                    }
                    message if message.contains("probes are at") => {
                        let address = said["address"].as_str().and_then(|text| text.parse().ok());
                        admin_said.send_replace(address);
                    }
                    message if said["level"] == "ERROR" && said["reason"] == "lost_rotation" => {
                        let credential = said["credential"].as_str().unwrap().to_owned();
                        let generation = said["generation"].as_u64().unwrap();
                        let mut heard = heard.lock().unwrap();
                        heard.alarms.insert((credential, generation));
                        heard.losses += usize::from(message.starts_with("the grant is dead"));
                    }
                    _ => {}
                }
            }
        });
        listens.wait_for(|listens| *listens).await.expect("bearerd listens");
        let admin =
            admin.wait_for(Option::is_some).await.expect("bearerd logs its admin address").unwrap();
        Program { child, admin, log, said }
    }

    /// Terminates a proxy and restarts it at once.
    pub(crate) async fn restart(&self, proxy: &Proxy, how: End) {
        let number = self.end(proxy, how).await;
        self.start(proxy).await;
        self.ends.lock().unwrap()[number].span.end = Instant::now();
        proxy.epoch.fetch_add(1, SeqCst);
    }

    /// Terminates all proxies.
    pub(crate) async fn end_all(&self) {
        for proxy in &self.proxies {
            self.end(proxy, End::Term).await;
        }
    }

    async fn end(&self, proxy: &Proxy, how: End) -> usize {
        let runner = proxy.runner.lock().unwrap().take().unwrap();
        let (mut child, admin, log, said) = match runner {
            Runner::Program(Program { child, admin, log, said }) => (child, admin, log, said),
            Runner::App(app) => {
                proxy.epoch.fetch_add(1, SeqCst);
                let number = self.ends_now(how);
                app.shutdown().await;
                return number;
            }
        };
        let before_counted = said.lock().unwrap().losses;
        let counting = tokio::task::spawn_blocking(move || lost_rotations_total(admin));
        let counted = counting.await.unwrap();
        proxy.epoch.fetch_add(1, SeqCst);
        let number = self.ends_now(how);
        let signal = match how {
            End::Kill => Signal::KILL,
            End::Term => Signal::TERM,
        };
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ending = tokio::task::spawn_blocking(move || {
            let status = child.wait().unwrap();
            log.join().unwrap();
            status
        });
        let status = tokio::time::timeout(Duration::from_secs(60), ending).await;
        let status = status.expect("a terminated program exits within a minute").unwrap();
        assert!(how == End::Kill || status.code() == Some(0), "SIGTERM: {status:?}");
        let LogSummary { alarms, losses } = said.lock().unwrap().clone();
        self.runs.lock().unwrap().push(ProcessRun { alarms, losses, before_counted, counted });
        number
    }

    fn ends_now(&self, how: End) -> usize {
        let now = Instant::now();
        let mut ends = self.ends.lock().unwrap();
        // On a busy machine its requests may arrive until the next process is up.
        ends.push(ProcessEnd { how, span: now..now });
        ends.len() - 1
    }

    pub(crate) fn ends(&self) -> Vec<ProcessEnd> {
        self.ends.lock().unwrap().clone()
    }

    /// Returns the runs of the exited processes.
    pub(crate) fn runs(&self) -> Vec<ProcessRun> {
        self.runs.lock().unwrap().clone()
    }

    pub(crate) fn damages(&self) -> Vec<Damage> {
        self.damages.lock().unwrap().clone()
    }

    pub(crate) fn record_damage(&self, kind: DamageKind, began: Instant) {
        let span = began..Instant::now();
        self.damages.lock().unwrap().push(Damage { kind, span });
    }

    /// Writes a new seed, as an operator does after a lost rotation: no signal, no restart.
    pub(crate) fn write_new_seed(&self, credential: usize) {
        let seed = self.server.issue_refresh_token_of(&name(credential));
        write_privately(&self.seed(credential), seed.as_bytes());
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn record_path(&self, credential: usize) -> PathBuf {
        self.state().join(format!("{}.json", name(credential)))
    }

    pub(crate) fn record(&self, credential: usize) -> Value {
        let text = std::fs::read(self.record_path(credential)).unwrap_or_default();
        let file: Value = serde_json::from_slice(&text).unwrap_or_default();
        file["record"].clone()
    }

    /// Returns true if the record holds the newest refresh token, or needs none because its bootstrap returns none.
    pub(crate) fn is_recovered(&self, credential: usize) -> bool {
        let record = self.record(credential);
        if !record["terminal"].is_null() || record["access_token"].is_null() {
            return false;
        }
        match record["refresh_token"].as_str() {
            None => Recovery::of(credential) == Recovery::ClientCredentials,
            Some(token) => token == self.server.current_refresh_token_of(&name(credential)),
        }
    }
}

impl Proxy {
    fn new() -> Self {
        // Bound once to reserve a free port: each program listens there.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { address, epoch: Arc::default(), runner: Mutex::default() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(Runner::Program(mut program)) = self.runner.lock().unwrap().take() {
            let _gone = program.child.kill();
            let _reaped = program.child.wait();
        }
    }
}

pub(crate) fn write_privately(path: &Path, bytes: &[u8]) {
    // Replaced atomically, because the program may be reading it.
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Reads `bearerd_lost_rotations_total` of all credentials from the admin listener.
fn lost_rotations_total(admin: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let counts = text.lines().filter(|line| line.starts_with("bearerd_lost_rotations_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}
