//! Turns what the operator wrote into what the program runs on.
//!
//! [`Settings`] fills the `Config` type of every part from a [`ConfigFile`], after checking what the form of the file
//! cannot express: what belongs together, where paths lead, which secrets exist. It finds all problems in one run and
//! returns no settings while one of them is an error. Nothing here opens a socket, writes a file or makes a directory.
//!
//! The invariant: [`Settings`] are complete and consistent, so no part checks again. No report shows a value that could
//! be a secret; see [`report`].

mod credentials;
mod environment;
mod excerpt;
mod network;
pub mod report;
mod review;
mod secrets;
mod state;
mod summary;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub use self::environment::{Environment, Locator, Volatility};
pub use self::report::Problems;
use self::review::Review;
use crate::config::{self, ConfigFile, Switch};
pub use crate::config::{Listen, LogFormat, Problem, Severity};
use crate::inputs::{Inputs, read_text};
use crate::proxy::{Limits, connector};
use crate::secret::{Secret, SecretSource};
use crate::{admin, ca, credential, proxy, store, tls};

/// Everything the program runs on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the file in messages.
    pub source: String,
    /// The addresses that clients connect to.
    pub listen: Vec<Listen>,
    /// Whether everyone who reaches a listener may use the proxy.
    pub open: bool,
    /// The number of worker threads.
    pub threads: usize,
    /// How long open requests may take to end when bearerd stops; zero cuts them off.
    pub shutdown_grace: Duration,
    /// The request path.
    pub proxy: proxy::Config,
    /// The credentials, in the order of the file.
    pub credentials: Vec<credential::Config>,
    /// Where tokens survive a restart.
    pub store: store::Config,
    /// The local certificate authority.
    pub ca: ca::Config,
    /// The certificate authorities that bearerd trusts.
    pub tls: tls::Config,
    /// The listener for operators.
    pub admin: admin::Config,
    /// The log on standard error.
    pub log: LogConfig,
    /// What the operator should know; contains no errors.
    pub warnings: Problems,
}

/// How bearerd logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The format of a line.
    pub format: LogFormat,
    /// Whether each request gets a line.
    pub access: bool,
}

impl Settings {
    /// Finds the configuration file, reads it and checks it in the environment of this process.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it in one report, or that there is no file.
    pub fn load(locator: &Locator) -> Result<Self, Problems> {
        Self::load_again(locator, &Inputs::default()).0
    }

    /// Does the same as [`Settings::load`] and also returns what was read, in case of an error too. `before` is what an
    /// earlier load has read: a configuration that came through a pipe cannot be read a second time.
    pub fn load_again(locator: &Locator, before: &Inputs) -> (Result<Self, Problems>, Inputs) {
        Self::load_in(locator, &Environment::of_process(), before)
    }

    /// Does the same as [`Settings::load`] without reading a secret or running a command, for callers that only ask
    /// where things are. Every secret in the settings is a placeholder. Problems of secrets are not found.
    pub fn load_without_secrets(locator: &Locator) -> (Result<Self, Problems>, Inputs) {
        let read_secret = |source: &SecretSource| Ok(placeholder(source));
        let read_lines = |_: &SecretSource| Ok(None);
        let environment = Environment { read_secret, read_lines, ..Environment::of_process() };
        Self::load_in(locator, &environment, &Inputs::default())
    }

    fn load_in(
        locator: &Locator,
        environment: &Environment,
        before: &Inputs,
    ) -> (Result<Self, Problems>, Inputs) {
        let missing = |message| {
            let fix = "write a proxy.toml, or name one with --config PATH";
            Problems::of("configuration", Problem::error(message).fix(fix))
        };
        let path = match locator.find() {
            Ok(path) => path,
            // If it comes back, it will be at the same path.
            Err(message) => return (Err(missing(message)), before.clone().without_file()),
        };
        let (source, base_dir) = match path.to_str() {
            Some("-") => ("standard input".to_owned(), environment::base_of(Path::new(""))),
            _ => (path.display().to_string(), environment::base_of(&path)),
        };
        let text = match before.piped() {
            Some(text) => Ok(text.to_owned()),
            None => read_text(&path).map_err(|error| {
                Problem::error(format!("the configuration cannot be read: {error}"))
            }),
        };
        let text = text.and_then(|text| match before.has_file() && text.trim().is_empty() {
            true => Err(emptied()),
            false => Ok(text),
        });
        let (settings, mut inputs) = match &text {
            Ok(text) => Self::review(&source, &base_dir, text, environment),
            Err(problem) => (Err(Problems::of(&source, problem.clone())), Inputs::default()),
        };
        inputs.note_file(path, text.ok().as_deref());
        (settings, inputs)
    }

    /// Checks that the stored records can be opened with the configured keys. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`store::StoreError::Sealed`] names the first record and the key that it needs.
    pub fn examine_store(&self) -> Result<(), store::StoreError> {
        let names: Vec<&str> = self.credentials.iter().map(|config| config.name.as_str()).collect();
        self.store.check_keys(&names)
    }

    /// Checks `text` as the configuration called `source`, whose relative paths start at `base_dir`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn from_text(
        source: &str,
        base_dir: &Path,
        text: &str,
        environment: &Environment,
    ) -> Result<Self, Problems> {
        Self::review(source, base_dir, text, environment).0
    }

    fn review(
        source: &str,
        base_dir: &Path,
        text: &str,
        environment: &Environment,
    ) -> (Result<Self, Problems>, Inputs) {
        let (file, mut problems) = config::parse(text);
        let mut review = Review::new(base_dir, environment, file.is_invalid());
        let settings = review.settings(source, &file);
        problems.extend(
            review.problems.into_iter().filter(|problem| !file.is_consequence(text, problem)),
        );
        let problems = Problems::new(source, text, file.public, problems);
        let reviewed = match problems.has_errors() {
            true => Err(problems),
            false => Ok(Self { warnings: problems, ..settings }),
        };
        (reviewed, review.inputs)
    }
}

impl Review<'_> {
    fn settings(&mut self, source: &str, file: &ConfigFile) -> Settings {
        let proxy = &file.proxy;
        let listen = self.listen(proxy);
        let access = *file.log.access == Switch::On;
        let credentials = self.credentials(file);
        let store = self.store(file);
        let state = self.state(&store);
        Settings {
            source: source.to_owned(),
            open: *proxy.open,
            threads: proxy.threads.get().map_or(self.environment.cpus, |threads| threads.0),
            shutdown_grace: *proxy.shutdown_grace,
            proxy: self.proxy(file, access),
            credentials,
            store,
            ca: self.ca(&file.ca),
            tls: self.tls(&file.tls),
            // An unusable listener has been reported, and must not clash with its default.
            admin: self.admin(
                &file.admin,
                if proxy.listen.is_broken() { &[] } else { &listen },
                &state,
            ),
            log: LogConfig { format: *file.log.format, access },
            warnings: Problems::default(),
            listen,
        }
    }

    fn proxy(&self, file: &ConfigFile, access_log: bool) -> proxy::Config {
        let (proxy, limits) = (&file.proxy, &file.limits);
        let items = |networks: &[toml::Spanned<ipnet::IpNet>]| {
            networks.iter().map(|network| *network.get_ref()).collect()
        };
        let (stall_timeout, header_count) = (*limits.stall_timeout, limits.header_count.get());
        let connections = usize::try_from(self.environment.open_files / 3).unwrap_or(usize::MAX);
        let connections = connections.clamp(1, 10_000);
        proxy::Config {
            unmatched: *proxy.unmatched,
            connect_ports: proxy.connect_ports.iter().map(|port| *port.get_ref()).collect(),
            access_log,
            origins: connector::Config {
                deny_addresses: items(&proxy.deny_addresses),
                allow_addresses: items(&proxy.allow_addresses),
                connect_timeout: limits.connect_timeout.0,
                response_timeout: limits.response_timeout.0,
                send_timeout: limits.send_timeout.0,
                stall_timeout,
                idle_timeout: limits.idle_timeout.0,
                header_count: header_count.map_or(256, |count| count.0),
            },
            limits: Limits {
                connections: limits.connections.get().map_or(connections, |count| count.0),
                connections_per_peer: limits.connections_per_peer.0,
                request_line: limits.request_line.as_usize(),
                header_bytes: limits.header_bytes.as_usize(),
                header_count: header_count.map_or(100, |count| count.0),
                header_read_timeout: limits.header_read_timeout.0,
                handshake_timeout: limits.handshake_timeout.0,
                idle_timeout: limits.idle_timeout.0,
                tunnel_idle_timeout: limits.tunnel_idle_timeout.0,
                send_timeout: limits.send_timeout.0,
                stall_timeout,
                replay_bytes: limits.replay_bytes.0,
                body_bytes: limits.body_bytes.0,
            },
        }
    }
}

/// Returns a value that stands for a secret that is not read. It has the form of a store's key, and differs from place
/// to place, because two secrets are not equal only because neither was read.
fn placeholder(source: &SecretSource) -> Secret {
    let place = format!("placeholder for {source:?}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, place.as_bytes());
    Secret::new(BASE64_STANDARD.encode(digest))
}

/// Refuses an empty file at a reload: a file is empty for a moment while another is copied over it.
fn emptied() -> Problem {
    Problem::error("it is empty now")
        .fix("write the configuration; if no host is to get a token any more, a comment will do")
}
