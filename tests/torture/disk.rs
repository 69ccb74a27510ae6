//! Disk faults (hang, failure, disk full), and tampering with the state directory.
//!
//! `tests/it/engine/faults.c` runs the program and intercepts each call that makes a file durable. Without a C
//! compiler or kernel support there are no disk faults, and the test prints that.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::rng::Rng;

/// The fault injector that a program runs under.
pub(crate) struct Disk {
    wrapper: Option<PathBuf>,
    control: PathBuf,
}

impl Disk {
    /// Creates the injector, without a fault so far.
    pub(crate) fn new(dir: &Path) -> Self {
        let wrapper = compile().filter(|wrapper| works(wrapper));
        if wrapper.is_none() {
            println!("    no C compiler or no seccomp: running without disk faults");
        }
        Self { wrapper, control: dir.join("faults") }
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.wrapper.is_some()
    }

    /// Returns the command that runs `program` on this disk.
    pub(crate) fn command(&self, program: &str) -> Command {
        let Some(wrapper) = &self.wrapper else { return Command::new(program) };
        let mut command = Command::new(wrapper);
        command.arg(&self.control).arg("/dev/null").arg(program);
        command
    }

    /// Sets the active fault, such as `hang sync`, and replaces any other.
    pub(crate) fn set(&self, fault: &str) {
        let new = self.control.with_extension("new");
        std::fs::write(&new, format!("{fault};")).unwrap();
        std::fs::rename(new, &self.control).unwrap();
    }

    /// Returns a random fault.
    pub(crate) fn any(rng: &mut Rng) -> &'static str {
        rng.pick(&[
            "hang sync",
            "hang dirsync",
            "hang rename",
            "hang flock",
            "fail sync",
            "fail dirsync",
            "fail rename",
            "full sync",
        ])
    }
}

fn compile() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/engine/faults.c");
    let wrapper =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{}", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-o"]).arg(&wrapper).arg(source);
    compiler.status().ok()?.success().then_some(wrapper)
}

fn works(wrapper: &Path) -> bool {
    let nothing = ["/dev/null", "/dev/null", "/bin/true"];
    Command::new(wrapper).args(nothing).status().is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(wrapper) = &self.wrapper {
            let _litter = std::fs::remove_file(wrapper);
        }
    }
}

// ===== The state directory =====

/// Removes all locks, whether held or not.
pub(crate) fn remove_locks(state: &Path) {
    for entry in std::fs::read_dir(state).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".lock") {
            let _gone = std::fs::remove_file(entry.path());
        }
    }
}

/// Replaces the directory by a copy. The original is renamed while it is copied, so that only writes in progress
/// can still reach it.
pub(crate) fn replace_by_a_copy(state: &Path) {
    let (old, copy) = (state.with_extension("old"), state.with_extension("copy"));
    std::fs::rename(state, &old).unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(&copy).unwrap();
    for entry in std::fs::read_dir(&old).unwrap().flatten() {
        // A temporary file may have disappeared.
        let _gone = std::fs::copy(entry.path(), copy.join(entry.file_name()));
    }
    std::fs::rename(&copy, state).unwrap();
    let _litter = std::fs::remove_dir_all(&old);
}

/// Replaces a record by `bytes`. `None` removes it.
pub(crate) fn replace_record(record: &Path, bytes: Option<&[u8]>) {
    match bytes {
        None => {
            let _gone = std::fs::remove_file(record);
        }
        Some(bytes) => super::test_bed::write_privately(record, bytes),
    }
}
