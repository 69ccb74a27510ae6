//! The compared proxies: finds, configures, starts and stops each of them.

use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::load::Load;
use crate::origin_server::AUTHORIZATION_EXPECTED;
use crate::test_bed::{Scenario, TestBed};

/// The number of threads or workers of each proxy.
pub(crate) const THREADS: usize = 2;
/// The timeout for the first answer of a proxy.
const START: Duration = Duration::from_secs(20);
/// The timeout for the exit of a proxy without open connections.
const END: Duration = Duration::from_secs(5);

/// The compared proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Bearerd,
    Nginx,
    Haproxy,
    BareHyper,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearerd => "bearerd",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::BareHyper => "bare-hyper",
        })
    }
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Bearerd, Self::Nginx, Self::Haproxy, Self::BareHyper];

    /// Returns the path of the program: for bearerd `BEARERD` or the built one, for others the installed one.
    pub(crate) fn find(self) -> Option<PathBuf> {
        match self {
            Self::Bearerd => Some(match std::env::var_os("BEARERD") {
                Some(path) => PathBuf::from(path),
                None => PathBuf::from(env!("CARGO_BIN_EXE_bearerd")),
            }),
            Self::Nginx => find_installed("nginx"),
            Self::Haproxy => find_installed("haproxy"),
            Self::BareHyper => std::env::current_exe().ok(),
        }
    }

    /// Returns the version line of the program.
    pub(crate) fn version(self, program: &Path) -> String {
        let argument = match self {
            Self::Bearerd => "--version",
            Self::Nginx | Self::Haproxy => "-v",
            Self::BareHyper => return concat!("of bearerd ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let Ok(said) = Command::new(program).arg(argument).output() else { return String::new() };
        // nginx prints its version to standard error.
        let said = [said.stdout, said.stderr].concat();
        String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
    }

    /// Starts the proxy on a free loopback port.
    pub(crate) fn start(
        self,
        program: &Path,
        test_bed: &TestBed,
        scenario: Scenario,
    ) -> anyhow::Result<Peer> {
        let dir = test_bed.dir_for(&format!("{scenario}-{self}"))?;
        let port = free_port()?;
        let mut command = Command::new(program);
        match self {
            Self::Bearerd => {
                let path = dir.join("proxy.toml");
                std::fs::write(&path, bearerd_toml(test_bed, scenario, port))?;
                std::fs::write(dir.join("secret"), "any")?;
                std::fs::set_permissions(dir.join("secret"), PermissionsExt::from_mode(0o600))?;
                command.arg("run").arg("--config").arg(path);
            }
            Self::Nginx => {
                let path = dir.join("nginx.conf");
                std::fs::write(&path, nginx_conf(test_bed, scenario, port))?;
                // -p confines its files to this directory; -e does so before the configuration is read.
                command.arg("-p").arg(&dir).arg("-e").arg("stderr").arg("-c").arg(path);
            }
            Self::Haproxy => {
                let path = dir.join("haproxy.cfg");
                std::fs::write(&path, haproxy_cfg(test_bed, scenario, port))?;
                command.arg("-db").arg("-f").arg(path);
            }
            Self::BareHyper => {
                command.arg("bare-proxy").arg(port.to_string());
                command.arg(test_bed.origin_server(scenario).to_string());
                if scenario == Scenario::Https {
                    command.arg(test_bed.roots());
                }
            }
        }
        let log = dir.join("log");
        let output = File::create(&log)?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Peer { child, address, log })
    }
}

/// A running proxy, which stops when dropped.
pub(crate) struct Peer {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Peer {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a request gets the correct answer.
    pub(crate) fn await_first_answer(&self, load: &Load) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while let Err(problem) = load.try_once() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("no correct answer in time: {problem:#}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Peer {
    /// Terminates gracefully, because a killed master process would leave its workers running.
    fn drop(&mut self) {
        // The process may have exited already.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn find_installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut dirs = std::env::split_paths(&path).chain(system);
    dirs.find_map(|dir| Some(dir.join(name)).filter(|program| program.is_file()))
}

/// Returns a port that is free at this moment.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// bearerd gets its token from the token endpoint. In the `https` scenario it upgrades plain http requests to TLS on
/// the same port.
fn bearerd_toml(test_bed: &TestBed, scenario: Scenario, port: u16) -> String {
    format!(
        r#"
[proxy]
listen = "127.0.0.1:{port}"
threads = {THREADS}
[admin]
listen = ""
[store]
url = "memory:"
[tls]
roots = "{roots}"
[log]
access = "off"
[credential.api]
hosts = ["{host}"]
allow_http = {allow_http}
grant = "client_credentials"
token_url = "{token_url}"
client_id = "compare"
client_secret = {{ file = "secret" }}
"#,
        roots = test_bed.roots().display(),
        host = test_bed.authority(scenario),
        allow_http = scenario == Scenario::Http,
        token_url = test_bed.token_url(),
    )
}

/// Both sides keep connections open during the whole measurement.
fn nginx_conf(test_bed: &TestBed, scenario: Scenario, port: u16) -> String {
    let tls = match scenario {
        Scenario::Http => String::new(),
        Scenario::Https => format!(
            "proxy_ssl_verify on;
             proxy_ssl_trusted_certificate {};
             proxy_ssl_name localhost;
             proxy_ssl_server_name on;
             proxy_ssl_protocols TLSv1.2 TLSv1.3;",
            test_bed.roots().display()
        ),
    };
    format!(
        r#"
daemon off;
worker_processes {THREADS};
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream origin_server {{
        server {origin_server};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} reuseport;
        location / {{
            proxy_pass {scenario}://origin_server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header Authorization "{AUTHORIZATION_EXPECTED}";
            {tls}
        }}
    }}
}}
"#,
        origin_server = test_bed.origin_server(scenario),
    )
}

/// `set-uri` converts the absolute-form target of the request to origin-form.
fn haproxy_cfg(test_bed: &TestBed, scenario: Scenario, port: u16) -> String {
    let tls = match scenario {
        Scenario::Http => String::new(),
        Scenario::Https => format!(
            " ssl verify required ca-file {} sni str(localhost) verifyhost localhost",
            test_bed.roots().display()
        ),
    };
    format!(
        r#"
global
    nbthread {THREADS}
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option http-keep-alive
    http-reuse always
frontend clients
    bind 127.0.0.1:{port}
    http-request set-header Authorization "{AUTHORIZATION_EXPECTED}"
    http-request set-uri %[pathq]
    default_backend origin_server
backend origin_server
    server origin_server {origin_server}{tls}
"#,
        origin_server = test_bed.origin_server(scenario),
    )
}
