//! The servers, the configuration, and the program that is killed and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bearerd_test_support::{
    AuthorizationServer, AuthorizationServerConfig, ExpiresIn, OnReuse, OriginConfig, OriginServer,
    Rotation,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::faults::{Presented, Script};

pub(crate) const FORGIVING: Rotation =
    Rotation::Rotate { grace: Duration::from_secs(30), on_reuse: OnReuse::RevokeFamily };

pub(crate) const STRICT: Rotation = Rotation::STRICT;

/// Each with a grant, a token URL and an API of its own.
pub(crate) const CREDENTIALS: usize = 16;

/// Each token is replaced after about half of it.
const LIFETIME: Duration = Duration::from_secs(4);

pub(crate) fn name(credential: usize) -> String {
    format!("c{credential:02}")
}

/// What begins a lost grant anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Healer {
    /// A person, who puts a new seed into the file.
    Seed,
    /// `bootstrap`, which brings a refresh token.
    Password,
    /// `bootstrap`, which brings access tokens alone.
    ClientCredentials,
}

impl Healer {
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

/// What the log calls a lost rotation: the credential and the generation that was lost.
pub(crate) type Alarm = (String, u64);

/// One process from its start to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub(crate) alarms: BTreeSet<Alarm>,
    /// The alarms that had been read before the metrics were.
    pub(crate) before_counted: usize,
    /// What `bearerd_lost_rotations_total` said at its end.
    pub(crate) counted: usize,
}

/// A process under way.
struct Program {
    child: Child,
    admin: SocketAddr,
    log: JoinHandle<()>,
    alarms: Arc<Mutex<BTreeSet<Alarm>>>,
}

/// Everything but the clients.
pub(crate) struct Stage {
    pub(crate) server: AuthorizationServer,
    pub(crate) origin: OriginServer,
    pub(crate) proxy: SocketAddr,
    /// Even while the proxy may be expected to answer, odd while it dies or is dead.
    pub(crate) life: Arc<AtomicUsize>,
    script: Arc<Mutex<Script>>,
    program: Mutex<Option<Program>>,
    lives: Mutex<Vec<Life>>,
    kills: Mutex<Vec<Range<Instant>>>,
    dir: TempDir,
    /// Where what the program says is kept.
    log: Option<Arc<File>>,
}

impl Stage {
    pub(crate) async fn set(rotation: Rotation, log: Option<&Path>) -> Self {
        let mut config = AuthorizationServerConfig {
            token_path: "/token/*".to_owned(),
            rotation,
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
        let script = Arc::new(Mutex::new(Script::new()));
        let deciding = Arc::clone(&script);
        server.decide_by(move |request| deciding.lock().unwrap().decide(request));
        // Taken and let go: the program listens there again and again.
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stage = Self {
            server,
            origin,
            proxy,
            life: Arc::default(),
            script,
            program: Mutex::default(),
            lives: Mutex::default(),
            kills: Mutex::default(),
            dir: tempfile::tempdir().unwrap(),
            log: log.map(|path| {
                Arc::new(OpenOptions::new().create(true).append(true).open(path).unwrap())
            }),
        };
        stage.configure(&config);
        stage.start_program().await;
        stage
    }

    fn configure(&self, config: &AuthorizationServerConfig) {
        write_secret(&self.dir.path().join("secret"), &config.client_secret);
        let mut text = format!(
            "[proxy]\nlisten = \"{}\"\nthreads = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [log]\nformat = \"json\"\n",
            self.proxy,
        );
        for credential in 0..CREDENTIALS {
            let name = name(credential);
            write_secret(&self.seed(credential), &self.server.current_refresh_token_of(&name));
            text += &format!(
                "[credential.{name}]\nhosts = [\"{}\"]\npaths = [\"/{name}/\"]\nallow_http = true\n\
                 token_url = \"{}\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n\
                 refresh_token = {{ file = \"seed-{name}\" }}\n{}",
                self.origin.authority(),
                self.server.token_url().replace('*', &name),
                config.client_id,
                Healer::of(credential).configuration(),
            );
        }
        std::fs::write(self.dir.path().join("proxy.toml"), text).unwrap();
    }

    fn seed(&self, credential: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("seed-{}", name(credential)))
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    async fn start_program(&self) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bearerd"))
            .args(["run", "--config"])
            .arg(self.dir.path().join("proxy.toml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let alarms = Arc::<Mutex<BTreeSet<Alarm>>>::default();
        let ((admin_said, mut admin), raised) = (watch::channel(None), Arc::clone(&alarms));
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
                    _ if said["level"] == "ERROR" && said["reason"] == "lost_rotation" => {
                        let credential = said["credential"].as_str().unwrap().to_owned();
                        let generation = said["generation"].as_u64().unwrap();
                        raised.lock().unwrap().insert((credential, generation));
                    }
                    _ => {}
                }
            }
        });
        listens.wait_for(|listens| *listens).await.expect("bearerd listens");
        let admin = admin.wait_for(Option::is_some).await.expect("bearerd tells").unwrap();
        *self.program.lock().unwrap() = Some(Program { child, admin, log, alarms });
    }

    /// `kill -9`, and at once the next.
    pub(crate) async fn kill(&self) {
        self.end().await;
        self.start_program().await;
        self.kills.lock().unwrap().last_mut().unwrap().end = Instant::now();
        self.life.fetch_add(1, SeqCst);
    }

    /// `kill -9`.
    pub(crate) async fn end(&self) {
        let Program { mut child, admin, log, alarms } =
            self.program.lock().unwrap().take().unwrap();
        let before_counted = alarms.lock().unwrap().len();
        let counting = tokio::task::spawn_blocking(move || lost_rotations_total(admin));
        let counted = counting.await.unwrap();
        self.life.fetch_add(1, SeqCst);
        let began = Instant::now();
        // What it has sent may arrive until the next one is there, on a machine that is busy.
        self.kills.lock().unwrap().push(began..began);
        child.kill().unwrap();
        child.wait().unwrap();
        tokio::task::spawn_blocking(move || log.join()).await.unwrap().unwrap();
        let alarms = alarms.lock().unwrap().clone();
        self.lives.lock().unwrap().push(Life { alarms, before_counted, counted });
    }

    /// Each until nothing could come from the process any more.
    pub(crate) fn kills(&self) -> Vec<Range<Instant>> {
        self.kills.lock().unwrap().clone()
    }

    /// Of the processes that have ended.
    pub(crate) fn lives(&self) -> Vec<Life> {
        self.lives.lock().unwrap().clone()
    }

    /// What an operator does about a lost rotation: no signal, no restart.
    pub(crate) fn bring_a_new_seed(&self, credential: usize) {
        let seed = self.server.issue_refresh_token_of(&name(credential));
        write_secret(&self.seed(credential), &seed);
    }

    pub(crate) fn record(&self, credential: usize) -> Value {
        let path = self.dir.path().join(format!("state/{}.json", name(credential)));
        let text = std::fs::read(path).unwrap_or_default();
        let file: Value = serde_json::from_slice(&text).unwrap_or_default();
        file["record"].clone()
    }

    /// Does the record hold the newest refresh token, or live on a bootstrap that gives none?
    pub(crate) fn is_whole(&self, credential: usize) -> bool {
        let record = self.record(credential);
        if !record["terminal"].is_null() || record["access_token"].is_null() {
            return false;
        }
        match record["refresh_token"].as_str() {
            None => Healer::of(credential) == Healer::ClientCredentials,
            Some(token) => token == self.server.current_refresh_token_of(&name(credential)),
        }
    }

    /// When refresh tokens were presented that had been replaced, by credential and refresh token: the
    /// grants that were lost, as the server sees it.
    pub(crate) fn lost(&self) -> BTreeMap<(usize, String), Instant> {
        let (script, mut lost) = (self.script(), BTreeMap::new());
        for reuse in self.server.reuses() {
            let presents =
                |one: &&Presented| one.refresh_token.as_ref() == Some(&reuse.refresh_token);
            let owner = script.log.iter().rev().find(presents).unwrap().credential;
            lost.entry((owner, reuse.refresh_token)).or_insert(reuse.at);
        }
        lost
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.lock().unwrap().take() {
            let _gone = program.child.kill();
            let _reaped = program.child.wait();
        }
    }
}

fn write_secret(path: &Path, value: &str) {
    // Replaced as a whole: the program may be reading it.
    let new = path.with_extension("new");
    std::fs::write(&new, value).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// `bearerd_lost_rotations_total` of all credentials, as its listener says.
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
