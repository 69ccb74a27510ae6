//! From what the operator wrote to what the program runs on.
//!
//! [`Settings`] fills the `Config` type of every part from a [`ConfigFile`], after checking all that
//! the form of the file cannot say: what belongs together, which defaults apply, where paths lead,
//! which secrets exist. All problems are found in one run; there are no settings while one is an
//! error. Nothing here opens a socket, writes a file or makes a directory.
//!
//! The invariant: a [`Settings`] is complete and consistent, so no part checks again. No report
//! shows a value that could be a secret; see [`report`].

mod credentials;
pub mod defaults;
mod environment;
mod excerpt;
mod inputs;
mod limits;
mod network;
pub mod report;
mod review;
mod secrets;
mod state;
mod summary;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub use self::environment::{Environment, Locator, Volatility};
pub use self::inputs::Inputs;
pub use self::network::Listen;
pub use self::report::Problems;
use self::review::Review;
use crate::config::{self, ConfigFile, Switch};
pub use crate::config::{Problem, Severity};
use crate::proxy::connector;
use crate::secret::{Secret, SecretSource};
use crate::{admin, ca, credential, proxy, store, tls};

/// Everything the program runs on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What to call the file in messages.
    pub source: String,
    /// Where clients connect. Default `127.0.0.1:8080`.
    pub listen: Vec<Listen>,
    /// Whether anyone who reaches a listener may use the proxy. Default no.
    pub open: bool,
    /// Worker threads. Default: the CPUs the process may use.
    pub threads: usize,
    /// How long open requests may take to end when bearerd stops. Default 25 s; zero cuts them off.
    pub shutdown_grace: Duration,
    /// What passes the proxy and how.
    pub proxy: proxy::Config,
    /// The credentials, in the order of the file.
    pub credentials: Vec<credential::Config>,
    /// Where tokens survive a restart.
    pub store: store::Config,
    /// The local certification authority.
    pub ca: ca::Config,
    /// Whom bearerd trusts.
    pub tls: tls::Config,
    /// The listener for operators.
    pub admin: admin::Config,
    /// What is written to standard error.
    pub log: LogConfig,
    /// What the operator should know; no errors among them.
    pub warnings: Problems,
}

/// How bearerd logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The shape of a line. Default text.
    pub format: LogFormat,
    /// One line for each request. Default on.
    pub access: bool,
}

pub use crate::config::LogFormat;

impl Settings {
    /// Finds the configuration file, reads it and checks it against the surroundings of this process.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, or that there is none, in one report.
    pub fn load(locator: &Locator) -> Result<Self, Problems> {
        Self::load_again(locator, &Inputs::default()).0
    }

    /// As [`Settings::load`], and what has been read for it, whatever came of it. `before` is what an
    /// earlier load has read: a configuration that came through a pipe is not there a second time.
    pub fn load_again(locator: &Locator, before: &Inputs) -> (Result<Self, Problems>, Inputs) {
        Self::load_in(locator, &Environment::of_process(), before)
    }

    /// As [`Settings::load`], without reading a secret or running a command for one: for whoever only
    /// asks where things are. Every secret in it is made up. What is wrong with the file is found as far as
    /// that can be told without them.
    pub fn load_without_secrets(locator: &Locator) -> (Result<Self, Problems>, Inputs) {
        let made_up = |source: &SecretSource| Ok(made_up(source));
        let (read_secret, read_lines) = (made_up, |_: &SecretSource| Ok(None));
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
            // Should it come back, it will be where it was.
            Err(message) => return (Err(missing(message)), before.clone().without_file()),
        };
        let (source, base_dir) = match path.to_str() {
            Some("-") => ("standard input".to_owned(), environment::base_of(Path::new(""))),
            _ => (path.display().to_string(), environment::base_of(&path)),
        };
        let text = match before.spoken() {
            Some(text) => Ok(text.to_owned()),
            None => read_text(&path),
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

    /// Finds out whether the stored records can be opened with the configured keys; changes nothing.
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
        let mut review = Review::new(base_dir, environment, file.is_garbled());
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
        let listen = self.listen(&file.proxy);
        let wait = self.time("limits.wait", &file.limits.wait, defaults::WAIT);
        let access = file.log.access.or(Switch::On) == Switch::On;
        let (proxy, credentials) = (self.proxy(file, access), self.credentials(file, wait));
        let store = self.store(file);
        let state = self.state(&store);
        Settings {
            source: source.to_owned(),
            open: file.proxy.open.or(false),
            threads: self.threads(&file.proxy),
            shutdown_grace: file.proxy.shutdown_grace.or(defaults::SHUTDOWN_GRACE),
            proxy,
            credentials,
            store,
            ca: self.ca(&file.ca),
            tls: self.tls(&file.tls),
            admin: self.admin(&file.admin, &listen, &state),
            log: LogConfig { format: file.log.format.or(LogFormat::Text), access },
            warnings: Problems::default(),
            listen,
        }
    }

    fn threads(&mut self, proxy: &config::ProxySection) -> usize {
        let given = proxy.threads.given().map(|threads| (*threads.get_ref(), threads.span()));
        let default = u64::try_from(self.environment.cpus).unwrap_or(1);
        usize::try_from(self.number("proxy.threads", given, default, 1..=1024)).unwrap_or(1)
    }

    fn proxy(&mut self, file: &ConfigFile, access_log: bool) -> proxy::Config {
        let limits = self.limits(&file.limits);
        let origins = connector::Config {
            deny_addresses: network::networks(
                &file.proxy.deny_addresses,
                &defaults::DENY_ADDRESSES,
            ),
            allow_addresses: network::networks(&file.proxy.allow_addresses, &[]),
            connect_timeout: self.time(
                "limits.connect_timeout",
                &file.limits.connect_timeout,
                defaults::CONNECT_TIMEOUT,
            ),
            response_timeout: self.time(
                "limits.response_timeout",
                &file.limits.response_timeout,
                defaults::RESPONSE_TIMEOUT,
            ),
            send_timeout: limits.send_timeout,
            stall_timeout: limits.stall_timeout,
            idle_timeout: limits.idle_timeout,
            header_count: match file.limits.header_count.given() {
                Some(_) => limits.header_count,
                None => defaults::RESPONSE_HEADER_COUNT,
            },
        };
        proxy::Config {
            unmatched: network::unmatched(&file.proxy),
            connect_ports: network::connect_ports(&file.proxy),
            access_log,
            limits,
            origins,
        }
    }
}

/// Stands for a secret where none is read: also in the form of a store's key. Each place has its own, since two
/// secrets are not alike because neither was read.
fn made_up(source: &SecretSource) -> Secret {
    let place = format!("made up, and nothing is opened: {source:?}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, place.as_bytes());
    Secret::new(BASE64_STANDARD.encode(digest))
}

/// A file is empty for a moment while another is copied over it.
fn emptied() -> Problem {
    Problem::error("it is empty now")
        .fix("write the configuration; if no host is to get a token any more, a comment will do")
}

/// The text of the file, at most one byte more than is accepted.
fn read_text(path: &Path) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| {
        Problem::error(format!("the configuration cannot be read: {error}"))
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(config::MAX_BYTES).unwrap_or(u64::MAX) + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Problem::error(format!("the configuration is not UTF-8 from byte {offset} on"))
            .fix("save it as UTF-8")
    })
}
