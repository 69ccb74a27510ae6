//! What the proxies stand between: the origin server, and a directory for everybody's files.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use crate::origin_server::Addresses;

/// How the proxy reaches the origin server; the client asks for the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// http all the way.
    Http,
    /// http from the client, TLS to the origin server.
    Https,
}

impl Scenario {
    pub(crate) const ALL: [Self; 2] = [Self::Http, Self::Https];
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// The origin server at work. It ends with this.
pub(crate) struct Stage {
    dir: TempDir,
    origin_server: Child,
    addresses: Addresses,
}

impl Stage {
    pub(crate) fn set() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut origin_server = Command::new(std::env::current_exe()?)
            .arg("origin-server")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the origin server cannot be started")?;
        let mut line = String::new();
        if let Some(stdout) = origin_server.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let addresses = serde_json::from_str(&line).context("the origin server did not start")?;
        Ok(Self { dir, origin_server, addresses })
    }

    /// A directory for one proxy.
    pub(crate) fn dir_for(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// The authority to trust in TLS with the origin server.
    pub(crate) fn roots(&self) -> PathBuf {
        roots_in(self.dir.path())
    }

    pub(crate) fn origin_server(&self, scenario: Scenario) -> SocketAddr {
        let port = match scenario {
            Scenario::Http => self.addresses.http,
            Scenario::Https => self.addresses.https,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// What stands in the client's requests.
    pub(crate) fn authority(&self, scenario: Scenario) -> String {
        format!("localhost:{}", self.origin_server(scenario).port())
    }

    pub(crate) fn token_url(&self) -> String {
        format!("http://localhost:{}/token", self.addresses.http)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.origin_server.kill();
        let _gone = self.origin_server.wait();
    }
}

pub(crate) fn roots_in(dir: &Path) -> PathBuf {
    dir.join("origin-ca.pem")
}

/// Ends this process when the one that started it is gone, however that came about.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let _end_of_input = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}
