//! What is known from outside the file: where it is, and the process's surroundings.
//!
//! Both are read once, here, so that everything after is a function of its arguments.

use std::path::{Path, PathBuf};

use crate::secret::{Secret, SecretError, SecretSource};

/// Where to look for the configuration file.
#[derive(Clone, Debug, Default)]
pub struct Locator {
    /// `--config`; `-` is standard input. Nothing else is looked at when it is given.
    pub explicit: Option<PathBuf>,
    /// `$BEARERD_CONFIG`, the second choice.
    pub variable: Option<PathBuf>,
}

impl Locator {
    /// A locator with `--config` and this process's `$BEARERD_CONFIG`.
    pub fn new(explicit: Option<PathBuf>) -> Self {
        let variable = std::env::var_os("BEARERD_CONFIG").filter(|path| !path.is_empty());
        Self { explicit, variable: variable.map(PathBuf::from) }
    }

    /// The file to read: a path that was named, or the first usual place where there is a file.
    ///
    /// # Errors
    ///
    /// The sentence that names the places that were looked at.
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

/// The surroundings of the process, as far as settings depend on them.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The first directory of `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`.
    pub state_directory: Option<PathBuf>,
    /// The CPUs this process may use.
    pub cpus: usize,
    /// The open files this process may have.
    pub open_files: u64,
    /// How a secret is read: [`SecretSource::read`], unless a test must not touch the machine.
    pub read_secret: fn(&SecretSource) -> Result<Secret, SecretError>,
    /// The same for keys and certificates: [`SecretSource::read_lines`]; `None` where nothing may be
    /// read, and nothing that could stand for one.
    pub read_lines: fn(&SecretSource) -> Result<Option<Secret>, SecretError>,
    /// Does a directory, or the place where it would be made, lose what is in it by itself?
    pub volatility: fn(&Path) -> Option<Volatility>,
}

/// Why what is written to a place does not last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    /// It is in memory: a reboot empties it.
    Memory,
    /// It is the writable layer of a container, which goes with the container.
    Layer,
}

impl Environment {
    /// The surroundings of this process, now.
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

/// tmpfs or ramfs, which is also what an `emptyDir` in memory of Kubernetes is; overlayfs or aufs, which
/// is what a container has where no volume is mounted.
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

/// The directory against which relative paths of the file at `path` are taken.
pub(super) fn base_of(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new("")).join(".");
    let base = std::path::absolute(&parent).unwrap_or(parent);
    base.components().collect()
}
