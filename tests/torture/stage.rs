//! The servers, the configuration, and the program that is killed and started again.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bearerd_test_support::{
    AuthorizationServer, AuthorizationServerConfig, ExpiresIn, OnReuse, OriginConfig, OriginServer,
    Rotation,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::watch;

pub(crate) const FORGIVING: Rotation =
    Rotation::Rotate { grace: Duration::from_secs(30), on_reuse: OnReuse::RevokeFamily };

/// Each token is replaced after about half of it.
const LIFETIME: Duration = Duration::from_secs(3);

/// Everything but the clients.
pub(crate) struct Stage {
    pub(crate) server: AuthorizationServer,
    pub(crate) origin: OriginServer,
    pub(crate) proxy: SocketAddr,
    /// Even while the proxy may be expected to answer, odd while it dies or is dead.
    pub(crate) life: Arc<AtomicUsize>,
    /// A refresh token is lost and no operator has brought another.
    pub(crate) lost: Arc<AtomicBool>,
    alarms: watch::Sender<usize>,
    program: Mutex<Option<Child>>,
    dir: TempDir,
}

impl Stage {
    pub(crate) async fn set(rotation: Rotation) -> Self {
        let config = AuthorizationServerConfig {
            rotation,
            expires_in: ExpiresIn::Seconds(LIFETIME.as_secs()),
            access_token_lifetime: LIFETIME,
            ..AuthorizationServerConfig::default()
        };
        let server = AuthorizationServer::start(config.clone()).await;
        let origin = OriginServer::start(OriginConfig {
            tokens: Some(server.tokens()),
            keep_bodies: false,
            ..OriginConfig::default()
        })
        .await;
        // Taken and let go: the program listens there again and again.
        let proxy = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_secret(&dir.path().join("secret"), &config.client_secret);
        write_secret(&dir.path().join("seed"), &config.initial_refresh_token);
        let configuration = format!(
            "[proxy]\nlisten = \"{proxy}\"\nthreads = 2\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [credential.api]\nhosts = [\"{}\"]\nallow_http = true\ntoken_url = \"{}\"\n\
             client_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n\
             refresh_token = {{ file = \"seed\" }}\n",
            origin.authority(),
            server.token_url(),
            config.client_id,
        );
        std::fs::write(dir.path().join("proxy.toml"), configuration).unwrap();
        let stage = Self {
            server,
            origin,
            proxy,
            life: Arc::default(),
            lost: Arc::default(),
            alarms: watch::Sender::new(0),
            program: Mutex::new(None),
            dir,
        };
        stage.start_program().await;
        stage
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
        let (alarms, (listening, listens)) = (self.alarms.clone(), watch::channel(false));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("bearerd is listening") {
                    listening.send_replace(true);
                }
                if line.contains("ERROR") && line.contains("lost_rotation") {
                    alarms.send_modify(|alarms| *alarms += 1);
                }
            }
        });
        *self.program.lock().unwrap() = Some(child);
        listens.clone().wait_for(|listens| *listens).await.expect("bearerd does not listen");
    }

    /// `kill -9`, and at once the next.
    pub(crate) async fn kill(&self) {
        self.life.fetch_add(1, SeqCst);
        let mut child = self.program.lock().unwrap().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.start_program().await;
        self.life.fetch_add(1, SeqCst);
    }

    /// What an operator does about a lost rotation.
    pub(crate) async fn bring_a_new_refresh_token(&self) {
        write_secret(&self.dir.path().join("seed"), &self.server.issue_refresh_token());
        let committed = self.server.tokens().issued_access_tokens();
        let pid = self.program.lock().unwrap().as_ref().map(Pid::from_child).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        while self.server.tokens().issued_access_tokens() == committed
            || !self.record()["intent"].is_null()
        {
            pause.tick().await;
        }
    }

    pub(crate) fn record(&self) -> serde_json::Value {
        let text = std::fs::read(self.dir.path().join("state/api.json")).unwrap_or_default();
        let file: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        file["record"].clone()
    }

    /// Waits until the record says why a person has to act, which it does right after the log.
    pub(crate) async fn wait_for_terminal(&self, reason: &str) -> bool {
        let written = async {
            let mut pause = tokio::time::interval(Duration::from_millis(5));
            while self.record()["terminal"]["reason"] != reason {
                pause.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), written).await.is_ok()
    }

    /// Lines of the log that say so.
    pub(crate) fn lost_rotations(&self) -> usize {
        *self.alarms.borrow()
    }

    /// Waits until the log says so for the `n`th time.
    pub(crate) async fn wait_for_lost_rotation(&self, n: usize) -> bool {
        let mut alarms = self.alarms.subscribe();
        let said = alarms.wait_for(|alarms| *alarms >= n);
        tokio::time::timeout(Duration::from_secs(20), said).await.is_ok()
    }

    /// The refresh tokens in the order in which they were first sent; `None` if one was sent again
    /// after a newer one.
    fn in_order(&self) -> Option<(usize, usize)> {
        let (mut seen, mut replays) = (HashMap::new(), 0);
        let mut last = String::new();
        for request in self.server.requests() {
            let sent = request.param("refresh_token").unwrap_or_default().to_owned();
            if sent == last {
                replays += 1;
            } else if seen.insert(sent.clone(), ()).is_some() {
                return None;
            }
            last = sent;
        }
        Some((seen.len(), replays))
    }

    pub(crate) fn goes_forward(&self) -> bool {
        self.in_order().is_some()
    }

    pub(crate) fn print(&self) {
        let (tokens, replays) = self.in_order().unwrap_or_default();
        println!("    the servers");
        println!("      token requests                      {}", self.server.token_requests());
        println!("      different refresh tokens presented  {tokens}");
        println!("      presented again (replays)           {replays}");
        println!("      presented outside the grace         {}", self.server.reuse_count());
        println!(
            "      API: accepted, 401                  {}, {}",
            self.origin.accepted(),
            self.origin.rejected()
        );
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut child) = self.program.lock().unwrap().take() {
            let _gone = child.kill();
            let _reaped = child.wait();
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
