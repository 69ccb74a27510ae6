//! Runs the test servers as a process, for scripts in other languages.
//!
//! `bearerd-test-servers [--lifetime SECONDS] [--files DIR] --out DIR` starts a strictly
//! rotating authorization server, an http API and an https API on free ports, writes
//! `ca.pem` and `servers.json` into the output directory, prints one line that begins
//! with `ready`, and runs until its standard input is closed or it gets SIGTERM.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bearerd_test_support::control::ControlServer;
use bearerd_test_support::{
    AuthorizationServer, AuthorizationServerConfig, ExpiresIn, OriginConfig, OriginServer, TestCa,
};
use rustls::ServerConfig;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

const USAGE: &str = "usage: bearerd-test-servers [--lifetime SECONDS] [--files DIR] --out DIR";

/// The names in the certificate of the https API.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

struct Arguments {
    lifetime: u64,
    files: Option<PathBuf>,
    out: PathBuf,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let (mut lifetime, mut files, mut out) = (5, None, None);
        while let Some(option) = words.next() {
            let value = words.next()?;
            match option.as_str() {
                "--lifetime" => lifetime = value.parse().ok()?,
                "--files" => files = Some(value.into()),
                "--out" => out = Some(value.into()),
                _ => return None,
            }
        }
        Some(Arguments { lifetime, files, out: out? })
    }
}

struct Servers {
    authorization_server: Arc<AuthorizationServer>,
    http: Arc<OriginServer>,
    https: Arc<OriginServer>,
    control: ControlServer,
    config: AuthorizationServerConfig,
    ca: TestCa,
}

impl Servers {
    async fn start(arguments: &Arguments) -> Servers {
        let ca = TestCa::new();
        let config = authorization_server_config(arguments.lifetime);
        let authorization_server = Arc::new(AuthorizationServer::start(config.clone()).await);
        let origin = |tls| start_origin(&authorization_server, arguments.files.clone(), tls);
        let http = origin(None).await;
        let https = origin(Some(ca.server_config(&NAMES))).await;
        let origins = vec![("http".into(), http.clone()), ("https".into(), https.clone())];
        let control = ControlServer::start(authorization_server.clone(), origins).await;
        Servers { authorization_server, http, https, control, config, ca }
    }

    fn describe(&self) -> String {
        let description = json!({
            "token_url": self.authorization_server.token_url(),
            "client_id": self.config.client_id,
            "client_secret": self.config.client_secret,
            "refresh_token": self.config.initial_refresh_token,
            "http_authority": self.http.authority(),
            "https_authority": self.https.authority(),
            "control_url": self.control.url(),
        });
        format!("{description:#}\n")
    }

    fn write(&self, out: &Path) -> io::Result<()> {
        std::fs::create_dir_all(out)?;
        std::fs::write(out.join("ca.pem"), self.ca.pem())?;
        std::fs::write(out.join("servers.json"), self.describe())
    }

    fn announce(&self, out: &Path) -> io::Result<()> {
        self.write(out)?;
        let mut stdout = io::stdout();
        writeln!(stdout, "ready {}", out.join("servers.json").display())?;
        stdout.flush()
    }
}

fn authorization_server_config(lifetime: u64) -> AuthorizationServerConfig {
    AuthorizationServerConfig {
        expires_in: ExpiresIn::Seconds(lifetime),
        access_token_lifetime: Duration::from_secs(lifetime),
        ..AuthorizationServerConfig::default()
    }
}

async fn start_origin(
    authorization_server: &AuthorizationServer,
    files: Option<PathBuf>,
    tls: Option<Arc<ServerConfig>>,
) -> Arc<OriginServer> {
    let config = OriginConfig {
        tls,
        files,
        tokens: Some(authorization_server.tokens()),
        keep_bodies: false,
        ..OriginConfig::default()
    };
    Arc::new(OriginServer::start(config).await)
}

/// Resolves when the standard input is closed.
fn input_closed() -> oneshot::Receiver<()> {
    let (closed, resolved) = oneshot::channel();
    std::thread::spawn(move || {
        // An unreadable input counts as closed.
        let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
        let _ = closed.send(());
    });
    resolved
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let servers = Servers::start(&arguments).await;
    servers.announce(&arguments.out)?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = input_closed() => {}
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bearerd-test-servers: {error}");
            ExitCode::FAILURE
        }
    }
}
