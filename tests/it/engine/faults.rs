//! A disk that hangs or fails on command, under the real program.
//!
//! `faults.c` runs it and decides about each of its calls that make a file durable. Where there is no C
//! compiler, or the kernel does not allow it, the tests say so and show nothing; in CI (`CI=true`) they
//! fail.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::super::program::{Program, command};
use super::super::world::{World, eventually};

/// The disk of the programs that it starts.
pub(super) struct Faults {
    wrapper: PathBuf,
    control: PathBuf,
    log: PathBuf,
}

impl Faults {
    /// A disk without faults; `None` where there can be none with faults.
    pub(super) fn new(world: &World) -> Option<Self> {
        static WRAPPER: OnceLock<Option<PathBuf>> = OnceLock::new();
        let wrapper = WRAPPER.get_or_init(|| compile().filter(|wrapper| works(wrapper)));
        if wrapper.is_none() {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no faults in CI");
            let _nobody =
                writeln!(std::io::stderr(), "no C compiler or no seccomp: no fault was shown");
        }
        let file = |name| world.dir.path().join(name);
        Some(Self { wrapper: wrapper.clone()?, control: file("faults"), log: file("faults.log") })
    }

    /// Starts bearerd on this disk.
    pub(super) async fn start(&self, world: &World) -> Program {
        let bearerd = command(world.dir.path(), &["run"]);
        let mut command = Command::new(&self.wrapper);
        command.arg(&self.control).arg(&self.log).arg(bearerd.get_program());
        command.args(bearerd.get_args()).current_dir(world.dir.path()).stdin(Stdio::null());
        for (name, value) in bearerd.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Program::start_by(command).await
    }

    /// From now on these, such as `hang sync` or `fail dirsync`, and no others.
    pub(super) fn set(&self, faults: &[&str]) {
        let text: String = faults.iter().map(|fault| format!("{fault};")).collect();
        let new = self.control.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.control).unwrap();
    }

    /// What was done with each call so far, such as `pass sync`.
    pub(super) fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until this has been done once more than `before` says.
    pub(super) async fn happens(&self, what: &str, before: &[String]) {
        let count = |log: &[String]| log.iter().filter(|line| *line == what).count();
        eventually(what, || count(&self.log()) > count(before)).await;
    }
}

fn compile() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/engine/faults.c");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = dir.join(format!("faults-{}", std::process::id()));
    let wrapper = dir.join("faults");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-o"]).arg(&made).arg(source);
    if !compiler.status().ok()?.success() {
        return None;
    }
    // Another test process may run the one that is there.
    std::fs::rename(made, &wrapper).ok()?;
    Some(wrapper)
}

fn works(wrapper: &Path) -> bool {
    let nothing = ["/dev/null", "/dev/null", "/bin/true"];
    Command::new(wrapper).args(nothing).status().is_ok_and(|status| status.success())
}
