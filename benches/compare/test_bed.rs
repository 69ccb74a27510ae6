//! The test bed of the proxies: the origin server, and a directory for all files.

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

/// The scheme to the origin server. The client sends the same requests in both scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// http on both sides.
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

/// The running origin server, which stops when dropped.
pub(crate) struct TestBed {
    dir: TempDir,
    origin_server: Child,
    addresses: Addresses,
}

impl TestBed {
    pub(crate) fn set_up() -> anyhow::Result<Self> {
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

    /// Creates a directory for one proxy.
    pub(crate) fn dir_for(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Returns the CA file for TLS to the origin server.
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

    /// Returns the authority in the client's requests.
    pub(crate) fn authority(&self, scenario: Scenario) -> String {
        format!("localhost:{}", self.origin_server(scenario).port())
    }

    pub(crate) fn token_url(&self) -> String {
        format!("http://localhost:{}/token", self.addresses.http)
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        // The process may have exited already.
        let _gone = self.origin_server.kill();
        let _gone = self.origin_server.wait();
    }
}

pub(crate) fn roots_in(dir: &Path) -> PathBuf {
    dir.join("origin-ca.pem")
}

/// Makes the kernel end this process when its parent exits for any reason.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let _end_of_input = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}
