//! What the settings depend on beside the file: where the file is, and the environment of the process.
//!
//! Both are read once, here, so that everything else is a function of its arguments.

use std::path::{Path, PathBuf};

use crate::secret::{Secret, SecretError, SecretSource};

/// Where to look for the configuration file.
#[derive(Clone, Debug, Default)]
pub struct Locator {
    /// `--config`; `-` is standard input. If it is given, nothing else is searched.
    pub explicit: Option<PathBuf>,
    /// `$BEARERD_CONFIG`, the second choice.
    pub variable: Option<PathBuf>,
}

impl Locator {
    /// Creates a locator from `--config` and this process's `$BEARERD_CONFIG`.
    pub fn new(explicit: Option<PathBuf>) -> Self {
        let variable = std::env::var_os("BEARERD_CONFIG").filter(|path| !path.is_empty());
        Self { explicit, variable: variable.map(PathBuf::from) }
    }

    /// Returns the file to read: the path that was named, or the first usual path where there is a file.
    ///
    /// # Errors
    ///
    /// A sentence that names the places that were searched.
    pub fn find(&self) -> Result<PathBuf, String> {
        let named = self.explicit.as_ref().or(self.variable.as_ref()).cloned();
        let usual =
            || USUAL.iter().map(PathBuf::from).find(|path| path.try_exists().unwrap_or(true));
        named.or_else(usual).ok_or_else(|| {
            let [here, system] = USUAL;
            format!("no configuration: no --config, no $BEARERD_CONFIG, no ./{here}, no {system}")
        })
    }
}

const USUAL: [&str; 2] = ["proxy.toml", "/etc/bearerd/proxy.toml"];

/// The environment of the process, as far as settings depend on it.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The first directory of `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`.
    pub state_directory: Option<PathBuf>,
    /// The CPUs this process may use.
    pub cpus: usize,
    /// The open files this process may have.
    pub open_files: u64,
    /// Reads a secret: [`SecretSource::read`], except in tests that must not touch the machine.
    pub read_secret: fn(&SecretSource) -> Result<Secret, SecretError>,
    /// Reads a key or a certificate: [`SecretSource::read_lines`]. Returns `None` if nothing may be read.
    pub read_lines: fn(&SecretSource) -> Result<Option<Secret>, SecretError>,
    /// Returns why a directory, or the place where it would be created, does not keep its files; `None` if it does.
    pub volatility: fn(&Path) -> Option<Volatility>,
}

/// Why files in a directory do not last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    /// It is in memory; a reboot empties it.
    Memory,
    /// It is the writable layer of a container, which is deleted with the container.
    Layer,
}

impl Environment {
    /// Returns the environment of this process.
    pub fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            state_directory: std::env::var("STATE_DIRECTORY")
                .ok()
                .and_then(|list| first_directory(&list)),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            open_files: limit.unwrap_or(u64::MAX),
            read_secret: SecretSource::read,
            read_lines: |source| source.read_lines().map(Some),
            volatility,
        }
    }
}

/// Recognizes tmpfs and ramfs, which an in-memory `emptyDir` of Kubernetes is, and overlayfs and aufs, which a container
/// has where no volume is mounted.
fn volatility(dir: &Path) -> Option<Volatility> {
    let found = dir.ancestors().find_map(|place| rustix::fs::statfs(place).ok())?;
    match found.f_type {
        0x0102_1994 | 0x8584_58f6 => Some(Volatility::Memory),
        0x794c_7630 | 0x6175_6673 => Some(Volatility::Layer),
        _ => None,
    }
}

fn first_directory(list: &str) -> Option<PathBuf> {
    let first = list.split(':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(first))
}

/// Returns the directory at which relative paths of the file at `path` start.
pub(super) fn base_of(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new("")).join(".");
    let base = std::path::absolute(&parent).unwrap_or(parent);
    base.components().collect()
}
